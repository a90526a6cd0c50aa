//! The name servers of `/etc/resolv.conf` (see `resolv.conf(5)`).

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;

/// Where the file is.
pub(crate) const PATH: &str = "/etc/resolv.conf";

/// The most that is read of it; libc looks at three servers.
const LONGEST: u64 = 64 * 1024;

/// The name servers of a file; none of one that is not there or cannot be read.
pub(crate) fn read(path: &Path) -> Vec<IpAddr> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes)) {
        Ok(_) => parse(&String::from_utf8_lossy(&bytes)),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::debug!(path = %path.display(), %error, "cannot read the name servers");
            }
            Vec::new()
        }
    }
}

fn parse(text: &str) -> Vec<IpAddr> {
    text.lines().filter_map(server).collect()
}

fn server(line: &str) -> Option<IpAddr> {
    let mut words = line.split_whitespace();
    let address = words
        .next()
        .filter(|word| *word == "nameserver")
        .and(words.next())?;
    // A link-local server carries its device: `fe80::1%eth0`.
    address.split('%').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_found_among_comments_options_and_garbage() {
        let text = "# nameserver 192.0.2.1\n\
                    search example.org\n\
                    nameserver 192.0.2.53\n\
                    \tnameserver\t2001:db8::53 # the second\r\n\
                    nameserver fe80::1%eth0\n\
                    nameserver\n\
                    nameserver localhost\n\
                    nameservers 192.0.2.2\n\
                    options edns0 \u{fffd}\n\
                    nameserver 192.0.2.54";
        let servers = ["192.0.2.53", "2001:db8::53", "fe80::1", "192.0.2.54"];
        assert_eq!(
            parse(text),
            servers.map(|server| server.parse::<IpAddr>().unwrap())
        );
    }

    #[test]
    fn a_missing_file_names_no_servers() {
        assert_eq!(read(Path::new("/nonexistent/resolv.conf")), [] as [IpAddr; 0]);
    }

    #[test]
    fn an_endless_file_is_not_read_to_its_end() {
        assert_eq!(read(Path::new("/dev/zero")), [] as [IpAddr; 0]);
    }
}
