//! The lab itself: one wire, hosts on it, a directory; made at once and taken down at once.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::host::{Host, UPLINK};
use crate::pod::POD_BRIDGE;
use crate::program::{command, succeed};
use crate::{LabError, Namespace, sweep};

/// The wire's IPv4 network: `.1` is the gateway, hosts begin at `.11`.
pub const WIRE_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 77, 0), 24);
/// The wire's IPv6 network, numbered as [`WIRE_V4`].
pub const WIRE_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 0), 64);
/// Hosts that fit on the wire.
pub const MAX_HOSTS: usize = 200;

/// The number of the first host on the wire.
const FIRST_HOST: usize = 11;
/// The numbers that hosts may have.
const NUMBERS: RangeInclusive<usize> = 2..=254;
/// The gateway's number.
const GATEWAY: usize = 1;
/// The bridge that is the wire, in the switch's namespace.
const WIRE: &str = "wire";

/// Namespaces forward or not, use addresses at once, and answer whatever way a packet came.
pub(crate) const FORWARDING: &[(&str, &str)] = &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")];
pub(crate) const NOT_FORWARDING: &[(&str, &str)] =
    &[("ipv4/ip_forward", "0"), ("ipv6/conf/all/forwarding", "0")];
pub(crate) const PLAIN: &[(&str, &str)] = &[
    ("ipv4/conf/*/rp_filter", "0"),
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/conf/*/accept_dad", "0"),
];

/// Which addresses the hosts have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
    /// Both.
    #[default]
    Both,
}

/// What lab to make.
#[derive(Clone, Debug)]
pub struct Options {
    /// The hosts' numbers on the wire, 2 to 254: number 21 has `.21`, or `::21`, and they are named `host1`, `host2`, … in
    /// this order.
    pub numbers: Vec<usize>,
    /// Their addresses.
    pub families: Families,
    /// Their interface on the wire.
    pub uplink: String,
    /// The bridge on each host that its pods are connected to.
    pub pod_bridge: String,
    /// The daemon's binary. Without it: `$FLANNELD`, or the `flanneld` beside the running program in the build directory.
    pub flanneld: Option<PathBuf>,
}

impl Options {
    /// So many hosts, at most [`MAX_HOSTS`], with addresses of both families from `.11` on.
    pub fn hosts(hosts: usize) -> Self {
        Self::numbered(FIRST_HOST..FIRST_HOST + hosts)
    }

    /// Hosts of these numbers, with addresses of both families.
    pub fn numbered(numbers: impl IntoIterator<Item = usize>) -> Self {
        Self {
            numbers: numbers.into_iter().collect(),
            families: Families::default(),
            uplink: UPLINK.into(),
            pod_bridge: POD_BRIDGE.into(),
            flanneld: None,
        }
    }

    /// With this interface on the wire instead of [`UPLINK`].
    #[must_use]
    pub fn uplink(mut self, name: impl Into<String>) -> Self {
        self.uplink = name.into();
        self
    }

    /// With this bridge for pods instead of [`POD_BRIDGE`].
    #[must_use]
    pub fn pod_bridge(mut self, name: impl Into<String>) -> Self {
        self.pod_bridge = name.into();
        self
    }

    /// With addresses of these families.
    #[must_use]
    pub fn families(mut self, families: Families) -> Self {
        self.families = families;
        self
    }

    /// With this daemon: in its own crate's tests `env!("CARGO_BIN_EXE_flanneld")`.
    #[must_use]
    pub fn flanneld(mut self, binary: impl Into<PathBuf>) -> Self {
        self.flanneld = Some(binary.into());
        self
    }
}

/// What the hosts of a lab share.
#[derive(Debug)]
pub(crate) struct Site {
    /// `flab-<pid>-<name>`: the directory's name, and the beginning of each namespace's.
    pub(crate) prefix: String,
    pub(crate) directory: PathBuf,
    pub(crate) flanneld: PathBuf,
    pub(crate) uplink: String,
    pub(crate) pod_bridge: String,
    switch: Namespace,
}

impl Site {
    pub(crate) fn namespace(&self, name: &str) -> Namespace {
        Namespace::named(format!("{}-{name}", self.prefix))
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.directory.join("store")
    }

    /// The `ip` line, for the switch, that makes a host's uplink.
    pub(crate) fn wiring(&self, port: &str, host: &Namespace, mac: &str) -> String {
        let (uplink, name) = (&self.uplink, host.name());
        format!("link add {port} master {WIRE} up type veth peer name {uplink} address {mac} netns {name}\n")
    }

    /// Runs `ip` in the switch.
    pub(crate) fn switch(&self, line: &str) -> Result<(), LabError> {
        self.switch
            .ip(&line.split_whitespace().collect::<Vec<_>>())
            .map(drop)
    }

    /// Takes a port off the wire, or puts it back. The host's carrier stays, as it does behind a broken switch.
    pub(crate) fn set_connected(&self, port: &str, connected: bool) -> Result<(), LabError> {
        let master = if connected {
            format!("master {WIRE}")
        } else {
            "nomaster".into()
        };
        self.switch(&format!("link set {port} {master}"))
    }
}

/// Hosts on a wire. Dropping it ends what runs in them and removes namespaces and files; in a test that panics, the
/// daemons' last words go to standard error first.
#[derive(Debug)]
pub struct Lab {
    site: Arc<Site>,
    hosts: Vec<Host>,
    standing: bool,
}

impl Lab {
    /// Sweeps what killed runs left, then makes the wire and the hosts. Letters and digits of `name` become part of the
    /// namespaces' names.
    ///
    /// # Errors
    /// [`LabError::NotRoot`], [`LabError::ProgramMissing`], [`LabError::NoNamespaces`], each with its remedy;
    /// [`LabError::NameTaken`] for two labs of one name in one process; those of `ip`.
    pub fn new(name: &str, options: Options) -> Result<Self, LabError> {
        if options.numbers.len() > MAX_HOSTS {
            return Err(LabError::TooMany {
                what: "hosts",
                wanted: options.numbers.len(),
                limit: MAX_HOSTS,
            });
        }
        if let Some(number) = options.numbers.iter().find(|number| !NUMBERS.contains(number)) {
            let reason = format!("they go from {} to {}", NUMBERS.start(), NUMBERS.end());
            return Err(LabError::text("the number of a host", reason, number.to_string()));
        }
        possible()?;
        Self::sweep()?;
        let prefix = sweep::prefix(name);
        let directory = sweep::take_directory(&prefix).map_err(|error| match error {
            LabError::Io { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists => {
                LabError::NameTaken(name.to_owned())
            }
            other => other,
        })?;
        let switch = Namespace::named(format!("{prefix}-switch"));
        let flanneld = options.flanneld.clone().unwrap_or_else(crate::daemon::binary);
        let site = Arc::new(Site {
            prefix,
            directory,
            flanneld,
            uplink: options.uplink.clone(),
            pod_bridge: options.pod_bridge.clone(),
            switch,
        });
        // From here on a failure takes down what there is.
        let mut lab = Self {
            site,
            hosts: Vec::new(),
            standing: true,
        };
        lab.set_up(&options)?;
        Ok(lab)
    }

    /// Removes what killed runs left: namespaces, the processes in them, and directories. Returns how many of these
    /// runs there were.
    ///
    /// # Errors
    /// [`LabError::Io`] if the directories that hold them cannot be read.
    pub fn sweep() -> Result<usize, LabError> {
        sweep::sweep()
    }

    fn set_up(&mut self, options: &Options) -> Result<(), LabError> {
        let create =
            |path: PathBuf| fs::create_dir_all(&path).map_err(|error| LabError::io("make", &path, error));
        create(self.site.store())?;
        self.hosts = (1..)
            .zip(&options.numbers)
            .map(|(position, number)| {
                let v4 = (options.families != Families::V6).then(|| on_wire_v4(*number));
                let v6 = (options.families != Families::V4).then(|| on_wire_v6(*number));
                Host::new(Arc::clone(&self.site), position, v4, v6)
            })
            .collect();
        let mut namespaces = format!("netns add {}\n", self.site.switch.name());
        let mut wire = format!(
            "link set lo up\n\
             link add {WIRE} address 02:00:00:00:77:01 type bridge mcast_snooping 0\n\
             addr add {} dev {WIRE}\naddr add {} dev {WIRE} nodad\nlink set {WIRE} up\n",
            on_wire_v4(GATEWAY),
            on_wire_v6(GATEWAY)
        );
        for host in &self.hosts {
            create(host.directory())?;
            namespaces += &format!("netns add {}\n", host.name());
            wire += &host.wiring();
        }
        succeed(command("ip", ["-batch", "-"]), &namespaces).map_err(|error| match error {
            LabError::Program { stderr, .. }
                if stderr.contains("not permitted") || stderr.contains("denied") =>
            {
                LabError::NoNamespaces {
                    reason: stderr.lines().next().unwrap_or_default().to_owned(),
                }
            }
            other => other,
        })?;
        self.site
            .switch
            .set_up(&[PLAIN, NOT_FORWARDING].concat(), "", &wire)?;
        for host in &self.hosts {
            host.set_up(
                &[PLAIN, FORWARDING].concat(),
                "",
                &format!("link set lo up\n{}", host.uplink_batch()),
            )?;
        }
        Ok(())
    }

    /// The hosts, in order.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The host of that index, from 0.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    /// The lab's directory, removed with it: the store, and per host the daemons' state, logs and `subnet.env`.
    pub fn directory(&self) -> &Path {
        &self.site.directory
    }

    /// The namespace of the wire's bridge, which is the hosts' default gateway but forwards nothing.
    pub fn switch(&self) -> &Namespace {
        &self.site.switch
    }

    /// Takes everything down and looks whether it is gone; dropping the lab does the same, silently.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn remove(mut self) -> Result<(), LabError> {
        self.standing = false;
        sweep::remove(&self.site.prefix)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.standing {
            return;
        }
        if std::thread::panicking() {
            for host in &self.hosts {
                host.tell_last_words();
            }
        }
        // The next lab sweeps what could not be removed.
        let _ = sweep::remove(&self.site.prefix);
    }
}

/// Whether this process can make namespaces, as far as that can be told beforehand.
fn possible() -> Result<(), LabError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(LabError::NotRoot);
    }
    if !Path::new("/proc/self/ns/net").exists() {
        return Err(LabError::NoNamespaces {
            reason: "/proc/self/ns/net is not there".into(),
        });
    }
    Ok(())
}

/// The gateway's addresses, which every host has as its default route.
pub(crate) fn gateways() -> (Ipv4Addr, Ipv6Addr) {
    (on_wire_v4(GATEWAY).addr(), on_wire_v6(GATEWAY).addr())
}

fn on_wire_v4(number: usize) -> Ipv4Net {
    let address = u32::from(WIRE_V4.addr()) + u32::try_from(number).unwrap_or_default();
    Ipv4Net::new_assert(address.into(), WIRE_V4.prefix_len())
}

/// The same number as in IPv4, in its decimal digits: host `.11` is `::11`.
fn on_wire_v6(number: usize) -> Ipv6Net {
    let digits = u128::from_str_radix(&number.to_string(), 16).unwrap_or_default();
    Ipv6Net::new_assert((u128::from(WIRE_V6.addr()) + digits).into(), WIRE_V6.prefix_len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_numbered_alike_in_both_families() {
        assert_eq!(on_wire_v4(11).to_string(), "192.168.77.11/24");
        assert_eq!(on_wire_v6(11).to_string(), "fd00:77::11/64");
        assert_eq!(
            on_wire_v6(FIRST_HOST + MAX_HOSTS - 1).to_string(),
            "fd00:77::210/64"
        );
        assert!(WIRE_V4.contains(&on_wire_v4(FIRST_HOST + MAX_HOSTS - 1)));
    }

    #[test]
    fn more_hosts_than_the_wire_holds_are_refused() {
        let error = Lab::new("crowd", Options::hosts(MAX_HOSTS + 1)).unwrap_err();
        assert!(error.to_string().contains("at most 200"), "{error}");
    }
}
