//! What the tests share: hosts with daemons of one overlay and pods on them, and whether all of it fits together.
//!
//! **Every test ends with [`Network::check`]**: what is published is what the kernel has, the kernel has exactly what the
//! backend makes of the leases, and nothing else on the hosts is otherwise than before.

mod desired;
mod present;
mod tests;

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use flannel_core::{Lease, LeaseAttrs, NetworkConfig, PerFamily, SubnetKey};
use ipnet::IpNet;
use lab::{
    Daemon, DaemonOptions, Families, Family, Host, Lab, LinkLine, Options, Pod, Snapshot, Wire, wait_until,
};

/// The IPv4 network of every test that does not say otherwise.
pub(crate) const V4: &str = "10.77.0.0/16";
/// The IPv6 network.
pub(crate) const V6: &str = "fd77::/48";
/// The families, in the order in which everything lists them.
pub(crate) const BOTH: [Family; 2] = [Family::V4, Family::V6];
/// Marks flanneld's routes.
pub(crate) const PROTOCOL: u8 = 70;
/// For what takes milliseconds, on a machine under load, where the time is not what is tested.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// Time for a host to be consistent again after whatever a test did last.
const SETTLE: Duration = Duration::from_secs(5);
/// On lines of a snapshot: what belongs to a daemon, or to the lab's pods.
const OWN: &str = r"\bflannel(-v6)?\.\d|\btable ip6? flannel-|\bproto 70\b|\bcni0\b|\bveth\d+\b";

/// Hosts on wires, and a network config in their store.
pub(crate) struct Network {
    pub(crate) lab: Lab,
    pub(crate) families: Families,
    nodes: Vec<Node>,
}

/// What runs on a host.
#[derive(Default)]
struct Node {
    daemon: Option<Daemon>,
    /// Before its first daemon.
    before: Option<Snapshot>,
}

impl Network {
    /// Hosts on these wires. `options` are members of the config's `Backend` beside its type: `"VNI":7,"Port":4789`.
    pub(crate) fn new(
        name: &str,
        wires: impl IntoIterator<Item = Wire>,
        families: Families,
        options: &str,
    ) -> Self {
        let lab_options = Options::wires(wires)
            .families(families)
            .flanneld(env!("CARGO_BIN_EXE_flanneld"));
        let lab = Lab::new(name, lab_options).unwrap();
        lab.write_config(&config(families, options)).unwrap();
        let nodes = lab.hosts().iter().map(|_| Node::default()).collect();
        Self { lab, families, nodes }
    }

    /// Runs a daemon on every host until it is ready, with the public address that the host has.
    pub(crate) fn start_all(&mut self) {
        for index in 0..self.nodes.len() {
            self.launch(index, &[]);
        }
        for index in 0..self.nodes.len() {
            self.wait_until_ready(index);
        }
    }

    /// Runs the daemon of one host, again or for the first time, with these arguments beside the usual ones, until it is
    /// ready.
    #[track_caller]
    pub(crate) fn start(&mut self, index: usize, arguments: &[&str]) -> &Daemon {
        self.launch(index, arguments);
        self.wait_until_ready(index);
        self.daemon(index)
    }

    /// The same without waiting for anything.
    pub(crate) fn launch(&mut self, index: usize, arguments: &[&str]) -> &Daemon {
        let host = self.lab.host(index);
        let node = &mut self.nodes[index];
        if node.before.is_none() {
            node.before = Some(foreign(host));
        }
        let public = BOTH.into_iter().filter_map(|family| {
            let flag = match family {
                Family::V4 => "public-ip",
                Family::V6 => "public-ipv6",
            };
            Some(format!("--{flag}={}", host.public(family)?))
        });
        let usual = ["--ip-masq".to_owned()].into_iter().chain(public);
        let more = arguments.iter().map(|&argument| argument.to_owned());
        let options = DaemonOptions::arguments(usual.chain(more));
        // The one before lets its state directory go.
        node.daemon = None;
        node.daemon.insert(host.start_daemon(options).unwrap())
    }

    #[track_caller]
    pub(crate) fn wait_until_ready(&self, index: usize) {
        let daemon = self.daemon(index);
        let mut seen = None;
        let ready = wait_until(SOON, "readiness", || {
            seen = daemon.get("/readyz");
            seen.as_ref().is_some_and(|(code, _)| *code == 200)
        });
        let label = self.lab.host(index).label();
        assert!(
            ready.is_ok(),
            "{label} is not ready, but {seen:?}\n{}",
            daemon.log()
        );
    }

    /// The daemon of a host.
    #[track_caller]
    pub(crate) fn daemon(&self, index: usize) -> &Daemon {
        self.nodes[index].daemon.as_ref().unwrap()
    }

    /// A pod on every host, in the subnets that the daemons got.
    pub(crate) fn pods(&self) -> Vec<Pod> {
        self.lab
            .hosts()
            .iter()
            .map(|host| host.add_pod().unwrap())
            .collect()
    }

    /// The network config as it is in the store.
    pub(crate) fn config(&self) -> NetworkConfig {
        let text = fs::read_to_string(self.lab.store_dir().join("config")).unwrap();
        NetworkConfig::from_json(&text).unwrap()
    }

    /// Every lease in the store.
    pub(crate) fn leases(&self) -> Vec<Lease> {
        let leases = self.lab.leases().unwrap().into_iter();
        let read = leases.map(|file| {
            let attrs = LeaseAttrs::from_json(&file.text).unwrap();
            Lease::new(SubnetKey::from_key(&file.key).unwrap(), attrs)
        });
        read.collect()
    }

    /// The lease of a host's daemon: that of the subnets in its `subnet.env`, for which it waits.
    #[track_caller]
    pub(crate) fn lease(&self, index: usize) -> Lease {
        let subnets = subnets(self.lab.host(index));
        let mut leases = self.leases().into_iter();
        let own = leases.find(|lease| lease.subnet.nets().eq(subnets.iter().copied()));
        own.unwrap_or_else(|| panic!("no lease of {subnets:?} in {:?}", self.lab.leases()))
    }

    /// The overlay's device of one family on a host, if it is there.
    pub(crate) fn device(&self, index: usize, family: Family) -> Option<LinkLine> {
        let name = desired::device(&self.config(), family)?;
        self.lab.host(index).link(name.as_str()).unwrap()
    }

    /// Fails unless every host with a daemon is consistent.
    #[track_caller]
    pub(crate) fn check(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            if node.daemon.is_some() {
                self.check_consistency(index);
            }
        }
    }

    /// Fails unless, within some seconds, all of this holds on a host: published MAC address, VNI and address are those
    /// of its devices; its devices, addresses, forwarding entries, neighbours and routes are what the backend makes of the
    /// leases; `subnet.env` has the MTU of the narrowest device; and nothing foreign is otherwise than before.
    #[track_caller]
    pub(crate) fn check_consistency(&self, index: usize) {
        let host = self.lab.host(index);
        let mut wrong = Vec::new();
        let right = wait_until(SETTLE, "consistency", || {
            wrong = desired::differences(self, index);
            wrong.is_empty()
        });
        let label = host.label();
        assert!(
            right.is_ok(),
            "{label} is inconsistent: {wrong:#?}\n{}\nleases: {:#?}",
            host.ip(&["-d", "addr"]).unwrap(),
            self.lab.leases().unwrap()
        );
        if let Some(before) = &self.nodes[index].before {
            before.assert_same(&foreign(host), &format!("with a daemon on {label}"));
        }
    }
}

/// The usual config with these members in its `Backend`.
pub(crate) fn config(families: Families, options: &str) -> String {
    let members = match families {
        Families::V4 => format!(r#""Network":"{V4}""#),
        Families::V6 => format!(r#""EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"{V6}""#),
        Families::Both => format!(r#""Network":"{V4}","EnableIPv6":true,"IPv6Network":"{V6}""#),
    };
    let comma = if options.is_empty() { "" } else { "," };
    format!(r#"{{{members},"EnableNFTables":true,"Backend":{{"Type":"vxlan"{comma}{options}}}}}"#)
}

/// The address that others reach a host at.
pub(crate) fn public(host: &Host, family: Family) -> Option<IpAddr> {
    host.public(family).or_else(|| host.address(family))
}

/// The address of a pod.
pub(crate) fn pod_address(pod: &Pod, family: Family) -> IpAddr {
    let mut addresses = pod.addresses();
    addresses.find(|address| Family::of(*address) == family).unwrap()
}

/// The subnets that a host's `subnet.env` names, for which it waits.
pub(crate) fn subnets(host: &Host) -> Vec<IpNet> {
    let env = host.subnet_env().unwrap();
    let v4 = env.subnet.map(|net| IpNet::V4(net.trunc()));
    let v6 = env.ipv6_subnet.map(|net| IpNet::V6(net.trunc()));
    v4.into_iter().chain(v6).collect()
}

/// Prints times, and returns the median and the longest.
pub(crate) fn report(what: &str, times: &[Duration]) -> (Duration, Duration) {
    let mut sorted = times.to_vec();
    sorted.sort();
    let (median, longest) = (sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
    println!("{what}: median {median:.1?}, longest {longest:.1?}, all {times:.1?}");
    (median, longest)
}

/// Waits for a condition, and returns how long that took.
#[track_caller]
pub(crate) fn time_until(within: Duration, what: &str, condition: impl FnMut() -> bool) -> Duration {
    let begin = Instant::now();
    if let Err(error) = wait_until(within, what, condition) {
        panic!("{error}");
    }
    begin.elapsed()
}

/// The family as the library names it.
pub(crate) fn core_family(family: Family) -> flannel_core::Family {
    match family {
        Family::V4 => flannel_core::Family::V4,
        Family::V6 => flannel_core::Family::V6,
    }
}

/// A value for each family.
pub(crate) fn per_family<T>(mut value: impl FnMut(Family) -> Option<T>) -> PerFamily<T> {
    PerFamily {
        v4: value(Family::V4),
        v6: value(Family::V6),
    }
}

/// All of a host that is neither a daemon's nor the lab's.
fn foreign(host: &Host) -> Snapshot {
    const NO_FILES: &[&str] = &[];
    host.snapshot(NO_FILES).unwrap().without(OWN).unwrap()
}
