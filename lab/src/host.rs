//! One host: its uplink and what can befall it, its daemons and pods.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::program::lock;
use crate::topology::{PLAIN, Site, gateways};
use crate::{Daemon, DaemonOptions, LabError, Namespace, Pod, SubnetEnv, wait_until};

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
    /// The switch's end of the uplink.
    port: String,
    /// Kept when the uplink is made again, as a network card's is: the neighbours' caches stay right.
    mac: String,
    addresses: Mutex<Addresses>,
    pods: AtomicUsize,
    runs: AtomicUsize,
}

#[derive(Clone, Copy, Debug)]
struct Addresses {
    v4: Option<Ipv4Net>,
    v6: Option<Ipv6Net>,
}

impl Host {
    pub(crate) fn new(site: Arc<Site>, number: usize, v4: Option<Ipv4Net>, v6: Option<Ipv6Net>) -> Self {
        let label = format!("host{number}");
        Self {
            namespace: site.namespace(&label),
            site,
            label,
            port: format!("port{number}"),
            mac: format!("02:00:00:77:01:{number:02x}"),
            addresses: Mutex::new(Addresses { v4, v6 }),
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
        lock(&self.addresses).v4.map(|net| net.addr())
    }

    /// The uplink's global IPv6 address, where it has one.
    pub fn ipv6(&self) -> Option<Ipv6Addr> {
        lock(&self.addresses).v6.map(|net| net.addr())
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

    /// Gives the uplink another address in place of that family's, as a DHCP server may.
    ///
    /// # Errors
    /// Those of `ip`.
    pub fn change_address(&self, new: IpNet) -> Result<(), LabError> {
        let old = {
            let mut addresses = lock(&self.addresses);
            match new {
                IpNet::V4(new) => addresses.v4.replace(new).map(IpNet::V4),
                IpNet::V6(new) => addresses.v6.replace(new).map(IpNet::V6),
            }
        };
        let mut batch = String::new();
        if let Some(old) = old {
            let _ = writeln!(batch, "addr del {old} dev {}", self.uplink());
        }
        self.set_up(&[], "", &(batch + &self.uplink_batch()))
    }

    /// Cuts the host off the wire behind its back: the carrier stays, packets no longer pass.
    ///
    /// # Errors
    /// Those of `ip`.
    pub fn partition(&self) -> Result<(), LabError> {
        self.site.set_connected(&self.port, false)
    }

    /// Ends a [`Self::partition`].
    ///
    /// # Errors
    /// Those of `ip`.
    pub fn heal(&self) -> Result<(), LabError> {
        self.site.set_connected(&self.port, true)
    }

    /// The `ip` line, for the switch, that makes the uplink.
    pub(crate) fn wiring(&self) -> String {
        self.site.wiring(&self.port, self, &self.mac)
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.site.directory.join(&self.label)
    }

    /// `ip` lines that bring the uplink up, whatever of it is there already.
    pub(crate) fn uplink_batch(&self) -> String {
        let Addresses { v4, v6 } = *lock(&self.addresses);
        let (gateway4, gateway6) = gateways();
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
