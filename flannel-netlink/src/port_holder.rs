//! Who holds a UDP port, so that a VXLAN device cannot have it.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use flannel_core::Vxlan;
use tokio::time::Instant;

use crate::device::{SeenDevice, SeenKind};
use crate::link::Names;
use crate::namespace::Namespace;

/// How long processes are searched: a host may have many, with many files.
const SEARCH: Duration = Duration::from_secs(1);

/// The longest list of sockets that is read; a line has 150 bytes.
const TABLE_LEN: u64 = 16 << 20;

/// The sockets of the thread's network namespace.
const TABLES: [&str; 2] = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];

/// Who holds a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Another VXLAN device, whose packets would be read otherwise than ours.
    Device(String),
    /// A process.
    Process { pid: u32, name: String },
    /// Nobody that can be told: the kernel itself, or a process that is not shown to us.
    Unknown,
}

/// Who holds the port that a device would have; `devices` are those that there are.
pub(crate) fn find(namespace: &Namespace, wanted: &Vxlan, devices: &[SeenDevice]) -> Holder {
    let others: Vec<(&SeenDevice, Vxlan)> = devices
        .iter()
        .filter_map(|device| Some((device, held_by(device, wanted)?)))
        .collect();
    let named = |(device, vxlan): &(&SeenDevice, Vxlan)| {
        let settings = Vxlan {
            uplink: None,
            ..vxlan.clone()
        };
        Holder::Device(format!("{} (vxlan {settings})", device.name()))
    };
    if let Some(other) = others.iter().find(|(_, vxlan)| unlike(vxlan, wanted)) {
        return named(other);
    }
    let port = wanted.port;
    let process = namespace.within(move || process_with(&sockets(port)?));
    match process {
        Ok(Some(process)) => process,
        Ok(None) => others.first().map_or(Holder::Unknown, named),
        Err(error) => {
            tracing::debug!(%error, port, "who holds a port cannot be told");
            Holder::Unknown
        }
    }
}

/// Whether a device holds the port that another would have, and does not share it.
pub(crate) fn is_held_unlike(device: &SeenDevice, wanted: &Vxlan) -> bool {
    held_by(device, wanted).is_some_and(|vxlan| unlike(&vxlan, wanted))
}

/// The settings of a device that holds the port.
fn held_by(device: &SeenDevice, wanted: &Vxlan) -> Option<Vxlan> {
    let SeenKind::Vxlan(vxlan) = &device.kind else {
        return None;
    };
    let vxlan = vxlan.named(&Names::default());
    let holds = device.link.up && vxlan.port == wanted.port && meet(&vxlan, wanted);
    holds.then_some(vxlan)
}

/// The kernel shares a port among devices whose packets it reads alike.
const fn unlike(vxlan: &Vxlan, wanted: &Vxlan) -> bool {
    vxlan.gbp != wanted.gbp || vxlan.decorated
}

/// Whether two devices may want a port of the same address family.
fn meet(one: &Vxlan, other: &Vxlan) -> bool {
    let families = [one, other].map(|vxlan| vxlan.local.map(|local| local.is_ipv6()));
    one.decorated || families[0].is_none() || families[1].is_none() || families[0] == families[1]
}

impl Holder {
    /// What to tell about the port.
    pub(crate) fn told(&self, port: u16) -> String {
        let otherwise = "or set another Port in the network config, for all nodes";
        match self {
            Self::Device(_) => format!(
                "UDP port {port} is held by {self}, which reads packets otherwise: remove that device, {otherwise}"
            ),
            Self::Process { .. } => format!("UDP port {port} is held by {self}: end it, {otherwise}"),
            Self::Unknown => format!(
                "who holds UDP port {port} cannot be told from here: see `ss -lunp sport = :{port}` and \
                 `ip -d link`, {otherwise}"
            ),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(device) => write!(f, "the device {device}"),
            Self::Process { pid, name } => write!(f, "process {pid} ({name})"),
            Self::Unknown => f.write_str("somebody"),
        }
    }
}

/// The sockets that have a port, by their inodes.
fn sockets(port: u16) -> io::Result<BTreeSet<u64>> {
    let mut inodes = BTreeSet::new();
    for table in TABLES {
        match read(table) {
            Ok(text) => inodes.extend(inodes_in(&text, port)),
            // Without IPv6 there is no second.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(inodes)
}

fn read(path: &str) -> io::Result<String> {
    use io::Read;
    let mut text = String::new();
    fs::File::open(path)?.take(TABLE_LEN).read_to_string(&mut text)?;
    Ok(text)
}

/// Lines as `0: 00000000:2118 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 1234 …`: the
/// second column is the local address, the tenth the inode.
fn inodes_in(table: &str, port: u16) -> impl Iterator<Item = u64> {
    table.lines().filter_map(move |line| {
        let mut columns = line.split_ascii_whitespace();
        let (_, local) = columns.nth(1)?.rsplit_once(':')?;
        let inode = columns.nth(7)?.parse().ok()?;
        (u16::from_str_radix(local, 16).ok()? == port && inode != 0).then_some(inode)
    })
}

/// The first process that has one of these sockets open.
fn process_with(inodes: &BTreeSet<u64>) -> io::Result<Option<Holder>> {
    if inodes.is_empty() {
        return Ok(None);
    }
    let until = Instant::now() + SEARCH;
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if Instant::now() >= until {
            break;
        }
        if has_any(&entry.path().join("fd"), inodes) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let name = name.chars().filter(char::is_ascii_graphic).collect();
            return Ok(Some(Holder::Process { pid, name }));
        }
    }
    Ok(None)
}

/// Whether one of a process's open files is one of these sockets. What has ended meanwhile, or may not
/// be seen, has none.
fn has_any(files: &Path, inodes: &BTreeSet<u64>) -> bool {
    let files = fs::read_dir(files).into_iter().flatten().flatten();
    files
        .filter_map(|file| fs::read_link(file.path()).ok())
        .any(|to| {
            let inode = to
                .to_str()
                .and_then(|to| to.strip_prefix("socket:[")?.strip_suffix(']'));
            let inode = inode.and_then(|inode| inode.parse().ok());
            inode.is_some_and(|inode| inodes.contains(&inode))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  \
        timeout inode ref pointer drops            \n\
        14531: 00000000:2118 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 17020525 2 \
        00000000a26c3069 0      \n\
        14532: 0100007F:2118 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 77 2 0 0\n\
        14533: 0100007F:2119 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 78 2 0 0\n\
        14534: 0100007F:2118 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 0 2 0 0\n\
        14535: cut";

    #[test]
    fn sockets_are_found_by_their_port() {
        assert_eq!(inodes_in(TABLE, 8472).collect::<Vec<_>>(), [17_020_525, 77]);
        assert_eq!(inodes_in(TABLE, 1).count(), 0);
        let v6 = "1: 00000000000000000000000000000000:2118 0:0000 07 0:0 00:0 0 0 0 79 2 0 0";
        assert_eq!(inodes_in(v6, 8472).collect::<Vec<_>>(), [79]);
    }

    #[test]
    fn a_holder_is_told_with_what_can_be_done() {
        let process = Holder::Process {
            pid: 7,
            name: "named".to_owned(),
        };
        assert_eq!(
            process.told(8472),
            "UDP port 8472 is held by process 7 (named): end it, or set another Port in the network config, for all \
             nodes"
        );
        assert!(Holder::Unknown.told(8472).contains("`ss -lunp sport = :8472`"));
    }
}
