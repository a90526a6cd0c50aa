//! Hosts on one wire and behind a router whose pods ping each other, what of it a daemon answers for, and how long it takes
//! until that is right again.

use std::fmt::{self, Write as _};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use std::{fs, iter};

use lab::{
    Families, Family, Host, KernelEvent, KernelMonitor, LeaseFile, POD_BRIDGE, Pinger, Pod, UPLINK, Wire,
    ping,
};

use super::faults::{About, End, Fault, Target, WIDE};
use super::pings::lost;
use crate::network::{Network, SOON, pod_address, public, subnets};

/// The host that faults strike. Of its peers one is on its wire, and one behind the router.
pub(super) const STRUCK: usize = 0;
pub(super) const PEERS: [usize; 2] = [1, 2];
/// Longer than until the daemon looks at everything anyway, which it does every 10 s.
const GIVE_UP: Duration = Duration::from_secs(15);
/// Between two looks at the kernel.
const PAUSE: Duration = Duration::from_millis(2);
/// What an IPv4 header, or an IPv6 one, and those of UDP, VXLAN and Ethernet take.
const OVERHEAD: [u32; 2] = [50, 70];
/// Everything that a daemon has in the kernel, and more.
const LOOK: &str = "ip -o -d link show type vxlan; ip -o addr show type vxlan; ip -4 route; ip -6 route; \
                    ip neigh show nud all; bridge fdb show";

/// A lab in which all is as it ought to be.
pub(super) struct Ground {
    pub(super) network: Network,
    pub(super) pods: Vec<Pod>,
    /// What the daemon of the struck host has in the kernel.
    right: Vec<String>,
    leases: Vec<(LeaseFile, SystemTime)>,
    monitors: Vec<KernelMonitor>,
}

/// How a repair went.
pub(super) struct Repair {
    fault: &'static Fault,
    family: Family,
    /// Which peer's entries were struck.
    peer: usize,
    /// From the fault until the kernel, and `subnet.env`, were right.
    state: Duration,
    /// From the fault until then, and until a ping had passed to every peer.
    pub(super) whole: Duration,
    /// Pings lost to each of [`PEERS`].
    lost: [u64; 2],
}

impl Ground {
    pub(super) fn new(name: &str, families: Families) -> Self {
        let mut network = Network::new(name, [Wire::hosts(2), Wire::hosts(1)], families, "");
        network.start_all();
        let pods = network.pods();
        network.check();
        let hosts = network.lab.hosts();
        let monitors = PEERS.map(|peer| hosts[peer].monitor_kernel().unwrap()).into();
        let right = look(&hosts[STRUCK]);
        let mut ground = Self {
            network,
            pods,
            right,
            leases: Vec::new(),
            monitors,
        };
        ground.leases = ground.leases();
        ground
    }

    pub(super) fn host(&self) -> &Host {
        self.network.lab.host(STRUCK)
    }

    /// Where a fault is to strike.
    pub(super) fn target(&self, family: Family, peer: usize) -> Target<'_> {
        let other = PEERS.into_iter().find(|other| *other != peer).unwrap();
        Target {
            host: self.host(),
            family,
            device: self.network.device(STRUCK, family).unwrap().name,
            own: self.tunnel_end(STRUCK, family),
            peer: self.tunnel_end(peer, family),
            other: self.tunnel_end(other, family),
        }
    }

    fn tunnel_end(&self, index: usize, family: Family) -> End {
        let host = self.network.lab.host(index);
        let mut subnets = subnets(host).into_iter();
        End {
            subnet: subnets.find(|net| Family::of(net.addr()) == family).unwrap(),
            public: public(host, family).unwrap().to_string(),
            mac: self.network.device(index, family).unwrap().mac,
        }
    }

    /// Lets a fault strike, and waits until it is repaired and pings pass.
    #[track_caller]
    pub(super) fn repaired(&self, fault: &'static Fault, family: Family, peer: usize) -> Repair {
        let target = self.target(family, peer);
        let pingers = self.pingers(family);
        fault.prepare(&target);
        let begin = Instant::now();
        fault.strike(&target);
        let state = self.becomes_right(begin, fault.name);
        for peer in PEERS {
            let to = pod_address(&self.pods[peer], family);
            if let Err(error) = ping(&self.pods[STRUCK], to, 1, SOON) {
                panic!("{}: {error}", fault.name);
            }
        }
        let whole = begin.elapsed();
        let lost = pingers.map(|pinger| lost([pinger]));
        self.peers_did_nothing(fault.name);
        Repair {
            fault,
            family,
            peer,
            state,
            whole,
            lost,
        }
    }

    /// From the struck host to [`PEERS`].
    fn pingers(&self, family: Family) -> [Pinger; 2] {
        let pingers = PEERS.map(|peer| {
            let to = pod_address(&self.pods[peer], family);
            self.pods[STRUCK].pinger(to).unwrap()
        });
        for pinger in &pingers {
            pinger.wait_for_replies(2, SOON).unwrap();
        }
        pingers
    }

    /// Waits until the struck host is as it ought to be, and returns how long after `begin` that was.
    #[track_caller]
    pub(super) fn becomes_right(&self, begin: Instant, what: &str) -> Duration {
        loop {
            let wrong = self.wrong();
            let took = begin.elapsed();
            if wrong.is_empty() {
                return took;
            }
            assert!(
                took < GIVE_UP,
                "after {took:.1?} not repaired: {what}: {wrong:#?}\n{}",
                self.network.daemon(STRUCK).log()
            );
            thread::sleep(PAUSE);
        }
    }

    /// What of the daemon's on the struck host is not as it ought to be: as in the beginning, but for the devices' MTU, which
    /// goes with the uplink's.
    pub(super) fn wrong(&self) -> Vec<String> {
        let is = look(self.host());
        let uplink = self.host().link(UPLINK).unwrap().map_or(WIDE, |link| link.mtu);
        let now = |line: &String| {
            OVERHEAD.iter().fold(line.clone(), |line, overhead| {
                let (was, is) = (WIDE - overhead, uplink - overhead);
                line.replace(&format!(" mtu {was} "), &format!(" mtu {is} "))
            })
        };
        let ought: Vec<String> = self.right.iter().map(now).collect();
        let missing = ought.iter().filter(|line| !is.contains(line));
        let more = is.iter().filter(|line| !ought.contains(line));
        let mut wrong: Vec<String> = missing.map(|line| format!("missing: {line}")).collect();
        wrong.extend(more.map(|line| format!("too many: {line}")));
        let [v4, v6] = OVERHEAD;
        let overhead = if self.network.families == Families::V4 {
            v4
        } else {
            v6
        };
        let (written, ought) = (self.host().subnet_env().unwrap().mtu, uplink - overhead);
        if written != ought {
            wrong.push(format!("subnet.env has MTU {written} and ought to have {ought}"));
        }
        wrong
    }

    /// Leaves the uplink as it was in the beginning.
    pub(super) fn restore_mtu(&self) {
        self.host().change_mtu(WIDE).unwrap();
        self.becomes_right(Instant::now(), "the uplink's usual MTU");
    }

    /// Fails if a peer's daemon wrote anything to its kernel, or a lease was written, since the beginning.
    #[track_caller]
    pub(super) fn peers_did_nothing(&self, since: &str) {
        for monitor in &self.monitors {
            nothing_of_the_overlay(&monitor.events(), since);
        }
        assert_eq!(self.leases(), self.leases, "{since}");
    }

    /// The leases, and when each was written.
    fn leases(&self) -> Vec<(LeaseFile, SystemTime)> {
        let directory = self.network.lab.store_dir().join("subnets");
        let leases = self.network.lab.leases().unwrap().into_iter();
        let dated = leases.map(|lease| {
            let about = fs::metadata(directory.join(&lease.key)).unwrap();
            (lease, about.modified().unwrap())
        });
        dated.collect()
    }

    /// Fails unless all hosts are consistent, nothing was done on the peers, and every daemon still runs.
    #[track_caller]
    pub(super) fn end(mut self) {
        self.network.check();
        self.peers_did_nothing("the end");
        for monitor in iter::from_fn(|| self.monitors.pop()) {
            nothing_of_the_overlay(&monitor.stop().unwrap(), "the end");
        }
        for index in [STRUCK].into_iter().chain(PEERS) {
            self.network
                .daemon(index)
                .must_run("the end of the test")
                .unwrap();
        }
    }
}

#[track_caller]
fn nothing_of_the_overlay(events: &[KernelEvent], since: &str) {
    let of_the_overlay = |event: &&KernelEvent| is_of_the_overlay(&event.line);
    let lines: Vec<&String> = events
        .iter()
        .filter(of_the_overlay)
        .map(|event| &event.line)
        .collect();
    assert!(lines.is_empty(), "{since}: changed on a peer: {lines:#?}");
}

/// What the daemon of a host has in the kernel, a line each, without what changes by itself.
fn look(host: &Host) -> Vec<String> {
    let look = || Command::new("sh").args(["-c", LOOK]).output().unwrap();
    let output = host.inside(look).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter(|line| is_of_the_overlay(line));
    let mut lines: Vec<String> = lines.map(without_index).collect();
    lines.sort();
    lines
}

/// Whether a line of `ip`, `bridge` or `ip monitor` is about what a daemon is to answer for: devices of the overlay, and
/// the pods' networks but for the pods of the host itself. What the kernel has for multicast groups and link-local
/// addresses, or says of a neighbour that it asks for and that does not answer, is not.
pub(super) fn is_of_the_overlay(line: &str) -> bool {
    const OVERLAY: &[&str] = &["flannel", "proto 70 "];
    const NOT: &[&str] = &[POD_BRIDGE, "33:33:", "01:00:5e:", "fe80::", "ff00::/8"];
    let has = |parts: &[&str]| parts.iter().any(|part| line.contains(part));
    // A neighbour that somebody removes is announced as one that failed.
    let is_asked_for = !line.starts_with("Deleted ") && has(&["FAILED", "INCOMPLETE"]);
    (has(OVERLAY) || is_of_pods(line)) && !has(NOT) && !is_asked_for
}

/// Whether a line begins with an address of the pods' networks, as those of routes and neighbours do.
pub(super) fn is_of_pods(line: &str) -> bool {
    let line = ["Deleted ", "blackhole "]
        .iter()
        .fold(line, |line, word| line.strip_prefix(word).unwrap_or(line));
    line.starts_with("10.77.") || line.starts_with("fd77:")
}

/// `4: flannel.1: …`: a device that is made again has another index.
fn without_index(line: &str) -> String {
    let rest = line
        .split_once(": ")
        .filter(|(index, _)| index.parse::<u32>().is_ok());
    rest.map_or(line, |(_, rest)| rest).trim_end().to_owned()
}

/// Prints what the repairs took, fault by fault.
pub(super) fn print(title: &str, repairs: &[Repair]) {
    let mut text = format!(
        "{title}\n{:44} {:>9} {:>9}   pings lost\n",
        "", "tables", "and pings"
    );
    for repair in repairs {
        let _ = writeln!(text, "{repair}");
    }
    println!("{text}");
}

impl Repair {
    pub(super) fn limit(&self) -> Duration {
        self.fault.limit
    }

    /// Whether it was in time, and lost no ping to a peer that it was not about.
    pub(super) fn is_good(&self) -> bool {
        let limit = self.fault.limit;
        let bystander = PEERS.iter().position(|peer| *peer != self.peer).unwrap();
        let disturbed = self.fault.is_about_one_peer() && self.lost[bystander] > 0;
        self.whole <= limit && !disturbed
    }
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = format!("{:?}", self.family);
        let mut name = format!("{} {family}", self.fault.name);
        if self.fault.about == About::Peer {
            let place = if self.peer == PEERS[0] { "wire" } else { "router" };
            let _ = write!(name, " {place}");
        }
        let ms = |time: Duration| format!("{} ms", time.as_millis());
        let [near, far] = self.lost;
        write!(
            f,
            "{name:44} {:>9} {:>9}   {near} on the wire, {far} behind the router",
            ms(self.state),
            ms(self.whole)
        )
    }
}
