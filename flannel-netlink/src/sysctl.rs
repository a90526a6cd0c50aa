//! Settings of the network namespace that route netlink does not tell.

use std::fs;
use std::io;

use flannel_core::{DeviceName, KernelRelease};

use crate::namespace::Namespace;

/// Either of them, and IPv6 packets are forwarded, by whatever device they come in; the second is new
/// in Linux 6.17.
const IPV6_FORWARDING: [&str; 2] = [
    "/proc/sys/net/ipv6/conf/all/forwarding",
    "/proc/sys/net/ipv6/conf/all/force_forwarding",
];

/// Whether the namespace forwards IPv6 packets; `None` where that cannot be read, as without IPv6.
pub(crate) fn ipv6_forwarding(namespace: &Namespace) -> Option<bool> {
    let read = namespace.within(|| {
        let [forwarding, forced] = IPV6_FORWARDING.map(is_on);
        Ok::<_, io::Error>(forwarding? || forced.unwrap_or(false))
    });
    read.inspect_err(|error| tracing::debug!(%error, "whether IPv6 is forwarded cannot be read"))
        .ok()
}

/// Has routers on a device give it IPv6 addresses and routes, or not. Where there is no IPv6, as on a
/// device with a small MTU, there is nothing to be set.
pub(crate) fn accept_advertisements(
    namespace: &Namespace,
    device: DeviceName,
    accept: bool,
) -> io::Result<()> {
    let path = format!("/proc/sys/net/ipv6/conf/{device}/accept_ra");
    let value = if accept { "1" } else { "0" };
    match namespace.within(move || fs::write(path, value)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        set => set,
    }
}

/// The version of the running kernel.
pub(crate) fn kernel() -> Option<KernelRelease> {
    let names = nix::sys::utsname::uname().ok()?;
    release(names.release().to_str()?)
}

fn release(text: &str) -> Option<KernelRelease> {
    let mut numbers = text.splitn(3, '.').map(|part| {
        let end = part
            .find(|char: char| !char.is_ascii_digit())
            .unwrap_or(part.len());
        part[..end].parse().ok()
    });
    Some(KernelRelease {
        major: numbers.next()??,
        minor: numbers.next()??,
    })
}

/// Below `/proc/sys/net` a file shows the settings of the thread that opens it.
fn is_on(path: &str) -> io::Result<bool> {
    Ok(fs::read_to_string(path)?.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_goes_by_its_first_two_numbers() {
        for (text, expected) in [
            ("6.1.0-18-amd64", Some((6, 1))),
            ("5.10", Some((5, 10))),
            ("6.9-rc3", Some((6, 9))),
            ("4.18.0-553.el8_10.x86_64", Some((4, 18))),
            ("6", None),
            ("six.one", None),
            ("", None),
        ] {
            let expected = expected.map(|(major, minor)| KernelRelease { major, minor });
            assert_eq!(release(text), expected, "{text}");
        }
    }
}
