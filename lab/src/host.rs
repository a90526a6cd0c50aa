//! One host: its uplink and what can befall it, its daemons and pods.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::program::lock;
use crate::topology::{PLAIN, Site};
use crate::wire::{self, Wire, WireIndex};
use crate::{
    Counter, Daemon, DaemonOptions, Families, Family, LabError, Namespace, Pod, SubnetEnv, wait_until,
};

/// The hosts' interface on the wire, where [`crate::Options`] say no other.
pub const UPLINK: &str = "eth0";

/// Time for a daemon to write its `subnet.env`.
const SUBNET_ENV_DEADLINE: Duration = Duration::from_secs(10);
/// Lines of a log that are told when a test fails.
const LAST_WORDS: usize = 60;

/// A host: a namespace with an uplink. Its methods break it as operators, switches and DHCP servers do.
#[derive(Debug)]
pub struct Host {
    site: Arc<Site>,
    namespace: Namespace,
    label: String,
    wire: WireIndex,
    /// Where it is seen from elsewhere, if the router says so.
    public: Option<usize>,
    /// The switch's end of the uplink.
    port: String,
    /// Kept when the uplink is made again, as a network card's is: the neighbours' caches stay right.
    mac: String,
    settings: Mutex<Settings>,
    pods: AtomicUsize,
    runs: AtomicUsize,
}

/// What the uplink has, also while it is away.
#[derive(Clone, Copy, Debug)]
struct Settings {
    v4: Option<Ipv4Net>,
    v6: Option<Ipv6Net>,
    mtu: u32,
}

impl Settings {
    /// Takes an address in place of that of its family, which is returned.
    fn replace(&mut self, new: IpNet) -> Option<IpNet> {
        match new {
            IpNet::V4(new) => self.v4.replace(new).map(IpNet::V4),
            IpNet::V6(new) => self.v6.replace(new).map(IpNet::V6),
        }
    }
}

impl Host {
    /// The host of that place in the lab, from 1, with that number on a wire.
    pub(crate) fn new(
        site: Arc<Site>,
        position: usize,
        (index, wire, number): (WireIndex, &Wire, usize),
        families: Families,
    ) -> Self {
        let label = format!("host{position}");
        let settings = Settings {
            v4: families.contains(Family::V4).then(|| index.v4(number)),
            v6: families.contains(Family::V6).then(|| index.v6(number)),
            mtu: wire.mtu,
        };
        Self {
            namespace: site.namespace(&label),
            site,
            label,
            wire: index,
            public: wire.translated.then_some(position),
            port: format!("port{position}"),
            mac: format!("02:00:00:77:01:{position:02x}"),
            settings: Mutex::new(settings),
            pods: AtomicUsize::new(0),
            runs: AtomicUsize::new(0),
        }
    }

    /// `host1`, `host2`, …
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The uplink's IPv4 address, where it has one.
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        lock(&self.settings).v4.map(|net| net.addr())
    }

    /// The uplink's global IPv6 address, where it has one.
    pub fn ipv6(&self) -> Option<Ipv6Addr> {
        lock(&self.settings).v6.map(|net| net.addr())
    }

    /// The uplink's address of one family, where it has one.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.ipv4().map(IpAddr::from),
            Family::V6 => self.ipv6().map(IpAddr::from),
        }
    }

    /// The address that hosts on other wires see it at, and reach it at, where that is not its own:
    /// [`Wire::translated`]. The router keeps to the address that the host began with.
    pub fn public(&self, family: Family) -> Option<IpAddr> {
        self.address(family)?;
        self.public.map(|position| wire::public(position, family))
    }

    /// The next hop of its default route.
    pub fn gateway(&self, family: Family) -> IpAddr {
        self.wire.gateway(family)
    }

    /// Runs a flanneld here. Any number may run on one host: see [`DaemonOptions::instance`].
    ///
    /// # Errors
    /// [`LabError::NoDaemonBinary`], and those of starting it. That it ends at once is no error here.
    pub fn start_daemon(&self, options: DaemonOptions) -> Result<Daemon, LabError> {
        let run = self.runs.fetch_add(1, Ordering::Relaxed) + 1;
        Daemon::start(&self.site, self, run, options)
    }

    /// The `subnet.env` of the host's daemon, or of another instance.
    pub fn subnet_env_path(&self, instance: &str) -> PathBuf {
        self.directory().join(instance).join("subnet.env")
    }

    /// The state directory of the host's daemon, or of another instance.
    pub fn state_directory(&self, instance: &str) -> PathBuf {
        self.directory().join(instance).join("state")
    }

    /// Waits for the default daemon's `subnet.env` and reads it.
    ///
    /// # Errors
    /// [`LabError::TimedOut`] after 10 s, with what there was.
    pub fn subnet_env(&self) -> Result<SubnetEnv, LabError> {
        let path = self.subnet_env_path(DaemonOptions::INSTANCE);
        let mut seen = String::from(": it is not there");
        let read = wait_until(
            SUBNET_ENV_DEADLINE,
            format!("{}", path.display()),
            || match SubnetEnv::parse(&fs::read_to_string(&path).ok()?) {
                Ok(read) => Some(read),
                Err(error) => {
                    seen = format!(": {error}");
                    None
                }
            },
        );
        read.map_err(|error| match error {
            LabError::TimedOut { what, after, .. } => LabError::TimedOut {
                what,
                after,
                detail: seen,
            },
            other => other,
        })
    }

    /// Makes a pod in the subnet of this host's `subnet.env`, for which it waits.
    ///
    /// # Errors
    /// Those of [`Self::subnet_env`] and [`Self::add_pod_in`].
    pub fn add_pod(&self) -> Result<Pod, LabError> {
        self.add_pod_in(&self.subnet_env()?)
    }

    /// Makes a pod in a given subnet: the first gets its second address, and so on.
    ///
    /// # Errors
    /// [`LabError::TooMany`] if the subnet is full; those of `ip`.
    pub fn add_pod_in(&self, subnet: &SubnetEnv) -> Result<Pod, LabError> {
        let number = self.pods.fetch_add(1, Ordering::Relaxed) + 1;
        let namespace = self.site.namespace(&format!("{}pod{number}", self.label));
        Pod::connect(self, namespace, number, subnet)
    }

    /// The name of its interface on the wire.
    pub fn uplink(&self) -> &str {
        &self.site.uplink
    }

    /// The name of the bridge that its pods are connected to.
    pub fn pod_bridge(&self) -> &str {
        &self.site.pod_bridge
    }

    /// Takes the uplink down, as `ip link set eth0 down`: its routes and its IPv6 addresses go with it.
    ///
    /// # Errors
    /// Those of `ip`.
    pub fn uplink_down(&self) -> Result<(), LabError> {
        self.ip(&["link", "set", self.uplink(), "down"]).map(drop)
    }

    /// Brings the uplink up again with addresses and default routes, as a network service does.
    ///
    /// # Errors
    /// Those of `ip`.
    pub fn uplink_up(&self) -> Result<(), LabError> {
        self.set_up(&[], "", &self.uplink_batch())
    }

    /// Deletes the uplink and makes it again with the same addresses: a new interface index.
    ///
    /// # Errors
    /// Those of `ip`.
    pub fn recreate_uplink(&self) -> Result<(), LabError> {
        self.delete_uplink()?;
        self.make_uplink()
    }

    /// Deletes the uplink, as pulling a network card does.
    ///
    /// # Errors
    /// Those of `ip`.
    pub fn delete_uplink(&self) -> Result<(), LabError> {
        self.site.switch(&format!("link del {}", self.port))
    }

    /// Makes the uplink again after [`Self::delete_uplink`].
    ///
    /// # Errors
    /// Those of `ip`.
    pub fn make_uplink(&self) -> Result<(), LabError> {
        self.site.switch(&self.wiring())?;
        self.set_up(PLAIN, "", &self.uplink_batch())
    }

    /// Deletes the uplink and makes it again with these addresses, each in place of that of its family.
    ///
    /// # Errors
    /// Those of `ip`.
    pub fn recreate_uplink_with(&self, addresses: &[IpNet]) -> Result<(), LabError> {
        self.delete_uplink()?;
        for address in addresses {
            lock(&self.settings).replace(*address);
        }
        self.make_uplink()
    }

    /// Gives the uplink another address in place of that family's, as a DHCP server may.
    ///
    /// # Errors
    /// Those of `ip`.
    pub fn change_address(&self, new: IpNet) -> Result<(), LabError> {
        let old = lock(&self.settings).replace(new);
        let mut batch = String::new();
        if let Some(old) = old {
            let _ = writeln!(batch, "addr del {old} dev {}", self.uplink());
        }
        self.set_up(&[], "", &(batch + &self.uplink_batch()))
    }

    /// Gives the uplink another MTU, in bytes, and the switch's end of it too. Below 1280 the kernel takes IPv6 away.
    ///
    /// # Errors
    /// Those of `ip`.
    pub fn change_mtu(&self, mtu: u32) -> Result<(), LabError> {
        lock(&self.settings).mtu = mtu;
        let bytes = mtu.to_string();
        self.site.switch(&format!("link set {} mtu {bytes}", self.port))?;
        self.ip(&["link", "set", self.uplink(), "mtu", &bytes]).map(drop)
    }

    /// Counts from now on the packets between this host and its wire that match expressions of nftables, for example
    /// `udp dport 8472`, or `ip saddr 10.77.0.0/16`. Nothing of it is on the host.
    ///
    /// # Errors
    /// Those of `nft`.
    pub fn count<const N: usize>(&self, expressions: [&str; N]) -> Result<Counter<N>, LabError> {
        Counter::new(self.site.switch_namespace(), &self.port, expressions)
    }

    /// Cuts the host off the wire behind its back, as a broken switch does: the carrier stays, packets no longer pass.
    ///
    /// # Errors
    /// Those of `ip`.
    pub fn partition(&self) -> Result<(), LabError> {
        self.site.switch(&format!("link set {} nomaster", self.port))
    }

    /// Ends a [`Self::partition`].
    ///
    /// # Errors
    /// Those of `ip`.
    pub fn heal(&self) -> Result<(), LabError> {
        let (port, wire) = (&self.port, self.wire.bridge());
        self.site.switch(&format!("link set {port} master {wire}"))
    }

    /// The `ip` line, for the switch, that makes the uplink.
    pub(crate) fn wiring(&self) -> String {
        let (port, wire, uplink) = (&self.port, self.wire.bridge(), self.uplink());
        let (mac, name, mtu) = (&self.mac, self.name(), lock(&self.settings).mtu);
        format!(
            "link add {port} mtu {mtu} master {wire} up \
             type veth peer name {uplink} address {mac} mtu {mtu} netns {name}\n"
        )
    }

    /// Its own addresses and the public ones that the router turns them into.
    pub(crate) fn translation(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        let pair = |family| Some((self.address(family)?, self.public(family)?));
        [Family::V4, Family::V6].into_iter().filter_map(pair)
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.site.directory.join(&self.label)
    }

    /// `ip` lines that bring the uplink up, whatever of it is there already.
    pub(crate) fn uplink_batch(&self) -> String {
        let Settings { v4, v6, .. } = *lock(&self.settings);
        let [gateway4, gateway6] = [Family::V4, Family::V6].map(|family| self.gateway(family));
        let uplink = self.uplink();
        let mut batch = String::new();
        // `let _`: writing to a String cannot fail.
        if let Some(net) = v4 {
            let _ = writeln!(batch, "addr replace {net} brd + dev {uplink}");
        }
        let _ = writeln!(batch, "link set {uplink} up");
        if v4.is_some() {
            let _ = writeln!(batch, "route replace default via {gateway4} dev {uplink}");
        }
        if let Some(net) = v6 {
            let _ = writeln!(batch, "addr replace {net} dev {uplink} nodad");
            let _ = writeln!(batch, "route replace default via {gateway6} dev {uplink}");
        }
        batch
    }

    /// Writes the ends of the daemons' logs to standard error.
    pub(crate) fn tell_last_words(&self) {
        let mut stderr = std::io::stderr().lock();
        let Ok(instances) = fs::read_dir(self.directory()) else {
            return;
        };
        for file in instances
            .flatten()
            .filter_map(|instance| fs::read_dir(instance.path()).ok())
            .flatten()
            .flatten()
        {
            let path = file.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let text = fs::read_to_string(&path).unwrap_or_default();
                let _ = writeln!(stderr, "--- {}\n{}", path.display(), tail(&text, LAST_WORDS));
            }
        }
    }
}

impl Deref for Host {
    type Target = Namespace;
    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

impl AsRef<Namespace> for Host {
    fn as_ref(&self) -> &Namespace {
        &self.namespace
    }
}

/// The last `count` lines of a text.
pub(crate) fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_log_is_its_last_lines_however_short_it_is() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
        assert_eq!(tail("", 2), "");
    }
}
