//! `subnet.env`: what the container runtime and the CNI plugin read. The only module beside
//! [`state_dir`](crate::StateDir) that touches files.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use thiserror::Error;

use crate::subnet::parse_net;
use crate::{Family, PerFamily, SubnetKey};

/// Larger files are not ours; flannel's has some two hundred bytes.
const LARGEST_FILE: u64 = 64 * 1024;

/// The content of `subnet.env`.
///
/// ```
/// use flannel_core::SubnetEnv;
///
/// let env = SubnetEnv::parse("FLANNEL_SUBNET=172.7.21.1/24 #a comment\n");
/// assert_eq!(env.subnet().unwrap().to_string(), "172.7.21.0/24");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SubnetEnv {
    /// `FLANNEL_NETWORK` and `FLANNEL_IPV6_NETWORK`.
    pub networks: PerFamily<IpNet>,
    /// `FLANNEL_SUBNET` and `FLANNEL_IPV6_SUBNET`, host bits cut off.
    pub subnets: PerFamily<IpNet>,
    /// `FLANNEL_MTU`: what is left for pods, in bytes.
    pub mtu: Option<u32>,
    /// `FLANNEL_IPMASQ`: whether flannel masquerades, so that the runtime must not.
    pub ip_masq: Option<bool>,
}

/// Why `subnet.env` could not be written.
#[derive(Debug, Error)]
#[error("cannot write {path}: {source}; make room for it there, or give another --subnet-file")]
pub struct SubnetEnvError {
    /// The file.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// The names of a family's network and subnet.
const NAMES: [[&str; 2]; 2] = [
    ["FLANNEL_NETWORK", "FLANNEL_SUBNET"],
    ["FLANNEL_IPV6_NETWORK", "FLANNEL_IPV6_SUBNET"],
];

impl SubnetEnv {
    /// The subnet that it names.
    #[must_use]
    pub fn subnet(&self) -> Option<SubnetKey> {
        SubnetKey::of_nets(self.subnets)
    }

    /// Reads what flannel and people write: `export`, quotes, `KEY: value`, comments behind a value.
    /// Lines that make no sense are skipped, and so is a variable that names several subnets.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut env = Self::default();
        for (name, value) in text.lines().filter_map(assignment) {
            for family in Family::ALL {
                let [network, subnet] = NAMES[family as usize];
                let parsed = || single_net(value).filter(|net| Family::of_net(*net) == family);
                if name == network {
                    env.networks.set(family, parsed());
                } else if name == subnet {
                    env.subnets.set(family, parsed());
                }
            }
            match name {
                "FLANNEL_MTU" => env.mtu = value.parse().ok(),
                "FLANNEL_IPMASQ" => env.ip_masq = value.parse().ok(),
                _ => {}
            }
        }
        env
    }

    /// The content, byte for byte as flannel writes it. The subnet is given by its first host.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        for family in Family::ALL {
            let [network_name, subnet_name] = NAMES[family as usize];
            if let (Some(network), Some(subnet)) = (self.networks.get(family), self.subnets.get(family)) {
                // A subnet of a single address has no second one.
                let step = u128::from(subnet.prefix_len() < family.bits());
                let first: IpAddr = family.address(Family::to_number(subnet.network()) + step);
                let _ = writeln!(text, "{network_name}={network}");
                let _ = writeln!(text, "{subnet_name}={first}/{}", subnet.prefix_len());
            }
        }
        if let Some(mtu) = self.mtu {
            let _ = writeln!(text, "FLANNEL_MTU={mtu}");
        }
        if let Some(ip_masq) = self.ip_masq {
            let _ = writeln!(text, "FLANNEL_IPMASQ={ip_masq}");
        }
        text
    }

    /// Reads a file; one that is missing or unreadable says nothing.
    #[must_use]
    pub fn read(path: &Path) -> Option<Self> {
        read_guarded(path).map(|bytes| Self::parse(&String::from_utf8_lossy(&bytes)))
    }

    /// Writes a file in one step, mode 0644 whatever the umask, and on disk when this returns. One
    /// that says the same already is left alone: the answer is whether it was written. The directory
    /// is made if it is missing.
    ///
    /// # Errors
    ///
    /// [`SubnetEnvError`] with the path.
    pub fn write(&self, path: &Path) -> Result<bool, SubnetEnvError> {
        let text = self.render();
        write_where_different(path, text.as_bytes()).map_err(|source| SubnetEnvError {
            path: path.to_owned(),
            source,
        })
    }
}

/// The content of a regular file of sensible size: whatever stands at the path, this returns.
fn read_guarded(path: &Path) -> Option<Vec<u8>> {
    let sensible = |file: &fs::Metadata| file.is_file() && file.len() <= LARGEST_FILE;
    fs::metadata(path)
        .ok()
        .filter(sensible)
        .and_then(|_| fs::read(path).ok())
}

/// As [`write_atomically`], unless the file says the same already.
pub(crate) fn write_where_different(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let same = read_guarded(path).is_some_and(|there| there == bytes);
    if !same {
        write_atomically(path, bytes)?;
    }
    Ok(!same)
}

/// Puts a file in place of another: readers see the old or the new one, also after a crash.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::other("the path names no file"))?;
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let temporary = directory.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let written = write_and_rename(&temporary, path, bytes);
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written?;
    // Not every file system can sync a directory; the rename itself has happened.
    if let Ok(directory) = File::open(directory) {
        let _ = directory.sync_all();
    }
    Ok(())
}

fn write_and_rename(temporary: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(temporary)?;
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

/// `export KEY="value" # comment`, or `KEY: value`.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
    let (name, value) = line.split_at(line.find(['=', ':'])?);
    let value = value[1..].trim();
    let quoted = ['"', '\'']
        .iter()
        .find_map(|quote| value.strip_prefix(*quote)?.split_once(*quote));
    let value = match quoted {
        Some((inside, _)) => inside,
        // A comment starts behind white space.
        None => value
            .split_once(" #")
            .or(value.split_once("\t#"))
            .map_or(value, |(value, _)| value),
    };
    (!name.starts_with('#')).then_some((name.trim(), value.trim()))
}

/// The one valid CIDR in a list; several name none.
fn single_net(list: &str) -> Option<IpNet> {
    let mut nets = list.split(',').filter_map(|net| parse_net(net.trim()));
    let net = nets.next()?;
    nets.next().is_none().then(|| net.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dual() -> SubnetEnv {
        SubnetEnv {
            networks: PerFamily {
                v4: "10.5.0.0/16".parse().ok(),
                v6: "fd00:5::/48".parse().ok(),
            },
            subnets: PerFamily {
                v4: "10.5.63.0/24".parse().ok(),
                v6: "fd00:5:0:1b::/64".parse().ok(),
            },
            mtu: Some(1450),
            ip_masq: Some(true),
        }
    }

    #[test]
    fn it_is_written_byte_for_byte_as_flannel_writes_it() {
        assert_eq!(
            dual().render(),
            "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.63.1/24\nFLANNEL_IPV6_NETWORK=fd00:5::/48\n\
             FLANNEL_IPV6_SUBNET=fd00:5:0:1b::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        );
        assert_eq!(SubnetEnv::parse(&dual().render()), dual());
    }

    #[test]
    fn a_subnet_of_a_single_address_is_written_as_that_address() {
        let text = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.7/32\nFLANNEL_IPV6_NETWORK=ffff::/16\n\
                    FLANNEL_IPV6_SUBNET=ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128\n";
        assert_eq!(SubnetEnv::parse(text).render(), text);
    }

    #[test]
    fn the_subnet_is_read_however_people_write_it() {
        for line in [
            "FLANNEL_SUBNET=172.7.21.1/24",
            "FLANNEL_SUBNET=172.7.21.1/24 #a comment",
            "FLANNEL_SUBNET=172.7.21.1/24\t# a comment",
            "export FLANNEL_SUBNET='172.7.21.0/24'",
            "  FLANNEL_SUBNET=\"172.7.21.1/24\" # a comment",
            "FLANNEL_SUBNET: 172.7.21.1/24",
            "FLANNEL_SUBNET=172.7.21.1/24,not-a-cidr",
            "#FLANNEL_SUBNET=10.9.9.1/24\nFLANNEL_SUBNET=172.7.21.1/24\r\n",
        ] {
            let subnet = SubnetEnv::parse(line).subnet().map(|subnet| subnet.to_string());
            assert_eq!(subnet.as_deref(), Some("172.7.21.0/24"), "{line:?}");
        }
    }

    #[test]
    fn what_names_no_single_subnet_names_none() {
        for line in [
            "",
            "FLANNEL_SUBNET",
            "FLANNEL_SUBNET=",
            "FLANNEL_SUBNET=not-a-cidr",
            "FLANNEL_SUBNET=10.244.1.0/24,not-a-cidr,10.244.2.0/24",
            "FLANNEL_SUBNET=fd00::/64",
            "# FLANNEL_SUBNET=172.7.21.1/24",
        ] {
            assert_eq!(SubnetEnv::parse(line).subnet(), None, "{line:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_replaced_in_one_step_with_mode_0644_and_left_alone_when_it_is_right() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let directory = std::env::temp_dir().join(format!("flannel-subnet-env-{}", std::process::id()));
        let path = directory.join("run/subnet.env");
        dual().write(&path).unwrap();
        let first = fs::metadata(&path).unwrap();
        assert_eq!(first.permissions().mode() & 0o777, 0o644);
        dual().write(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), first.ino());
        let changed = SubnetEnv {
            mtu: Some(1400),
            ..dual()
        };
        changed.write(&path).unwrap();
        assert_ne!(fs::metadata(&path).unwrap().ino(), first.ino());
        assert_eq!(SubnetEnv::read(&path), Some(changed));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_failed_write_names_the_file() {
        let error = dual()
            .write(Path::new("/proc/nowhere/subnet.env"))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("cannot write /proc/nowhere/subnet.env: "),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic_and_what_is_read_is_written_back(text in "\\PC{0,80}") {
            let env = SubnetEnv::parse(&text.replace(';', "\n"));
            let again = SubnetEnv::parse(&env.render());
            prop_assert_eq!(again.mtu, env.mtu);
        }
    }
}
