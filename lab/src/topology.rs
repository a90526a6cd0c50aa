//! The lab itself: wires, hosts on them, a directory; made at once and taken down at once.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::host::{Host, UPLINK};
use crate::pod::POD_BRIDGE;
use crate::program::{command, succeed};
use crate::wire::{MAX_WIRES, Wire, WireIndex, translation};
use crate::{Family, LabError, Namespace, sweep};

/// Hosts that a lab can have.
pub const MAX_HOSTS: usize = 200;

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
/// The switch keeps its router's rules off packets that stay on a wire, and says nothing of shorter ways.
const SWITCH: &[(&str, &str)] = &[
    ("bridge/bridge-nf-call-iptables", "0"),
    ("bridge/bridge-nf-call-ip6tables", "0"),
    ("ipv4/conf/*/send_redirects", "0"),
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

impl Families {
    /// Whether this family is among them.
    pub fn contains(self, family: Family) -> bool {
        matches!(
            (self, family),
            (Self::Both, _) | (Self::V4, Family::V4) | (Self::V6, Family::V6)
        )
    }

    /// Each of them, IPv4 first.
    pub fn each(self) -> impl Iterator<Item = Family> {
        [Family::V4, Family::V6]
            .into_iter()
            .filter(move |family| self.contains(*family))
    }
}

/// What lab to make.
#[derive(Clone, Debug)]
pub struct Options {
    /// The wires with the hosts on them, which are named `host1`, `host2`, … in this order.
    pub wires: Vec<Wire>,
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
    /// So many hosts on one wire, at most [`MAX_HOSTS`], with addresses of both families from `.11` on.
    pub fn hosts(hosts: usize) -> Self {
        Self::wires([Wire::hosts(hosts)])
    }

    /// Hosts of these numbers on one wire, with addresses of both families.
    pub fn numbered(numbers: impl IntoIterator<Item = usize>) -> Self {
        Self::wires([Wire::numbered(numbers)])
    }

    /// The hosts of these wires, with addresses of both families, and where there are several wires a router between
    /// them.
    pub fn wires(wires: impl IntoIterator<Item = Wire>) -> Self {
        Self {
            wires: wires.into_iter().collect(),
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

    pub(crate) fn switch_namespace(&self) -> &Namespace {
        &self.switch
    }

    /// Runs `ip` in the switch.
    pub(crate) fn switch(&self, line: &str) -> Result<(), LabError> {
        self.switch
            .ip(&line.split_whitespace().collect::<Vec<_>>())
            .map(drop)
    }
}

/// Hosts on wires. Dropping it ends what runs in them and removes namespaces and files; in a test that panics, the
/// daemons' last words go to standard error first.
#[derive(Debug)]
pub struct Lab {
    site: Arc<Site>,
    hosts: Vec<Host>,
    standing: bool,
}

impl Lab {
    /// Sweeps what killed runs left, then makes the wires and the hosts. Letters and digits of `name` become part of the
    /// namespaces' names.
    ///
    /// # Errors
    /// [`LabError::NotRoot`], [`LabError::ProgramMissing`], [`LabError::NoNamespaces`], each with its remedy;
    /// [`LabError::NameTaken`] for two labs of one name in one process; those of `ip`.
    pub fn new(name: &str, options: Options) -> Result<Self, LabError> {
        check(&options)?;
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
        let places = (0..).zip(&options.wires).flat_map(|(index, wire)| {
            let place = move |number: &usize| (WireIndex(index), wire, *number);
            wire.numbers.iter().map(place)
        });
        self.hosts = (1..)
            .zip(places)
            .map(|(position, place)| Host::new(Arc::clone(&self.site), position, place, options.families))
            .collect();
        let mut namespaces = format!("netns add {}\n", self.site.switch.name());
        let mut wire = String::from("link set lo up\n");
        for (index, options) in (0..).zip(&options.wires) {
            wire += &WireIndex(index).batch(options.mtu);
        }
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
        let routed = options.wires.len() > 1;
        let forwarding = if routed { FORWARDING } else { NOT_FORWARDING };
        self.site
            .switch
            .set_up(&[PLAIN, SWITCH, forwarding].concat(), "", &wire)?;
        let translated: Vec<(IpAddr, IpAddr)> = self.hosts.iter().flat_map(Host::translation).collect();
        if !translated.is_empty() {
            self.site
                .switch
                .feed(&["nft", "-f", "-"], &translation(&translated))?;
        }
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

    /// The namespace of the wires' bridges, which is the hosts' default gateway. It forwards between several wires, and
    /// nothing where there is one.
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

/// Whether there can be such a lab.
fn check(options: &Options) -> Result<(), LabError> {
    let hosts = options.wires.iter().map(|wire| wire.numbers.len()).sum();
    for (what, wanted, limit) in [
        ("hosts", hosts, MAX_HOSTS),
        ("wires", options.wires.len(), MAX_WIRES),
    ] {
        if wanted > limit {
            return Err(LabError::TooMany { what, wanted, limit });
        }
    }
    options.wires.iter().try_for_each(Wire::check)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_hosts_or_wires_than_a_lab_holds_are_refused() {
        let error = Lab::new("crowd", Options::hosts(MAX_HOSTS + 1)).unwrap_err();
        assert!(error.to_string().contains("at most 200"), "{error}");
        let wires = vec![Wire::hosts(0); MAX_WIRES + 1];
        let error = Lab::new("wires", Options::wires(wires)).unwrap_err();
        assert!(error.to_string().contains("at most 16"), "{error}");
    }
}
