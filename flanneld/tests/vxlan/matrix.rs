//! Who reaches whom, and how: every pair of pods on hosts of one wire and behind a router, with packets of every size
//! that ought to pass, and what is seen of them on the wire.

mod change_over;
mod flannel_peer;
mod options;

use std::fmt;
use std::thread;
use std::time::Duration;

use lab::{Families, Family, LabError, Pod, Wire, ping_whole};

use crate::network::{BOTH, Network, SOON, pod_address};

/// Linux's port of VXLAN.
const PORT: u16 = 8472;
/// A packet that is too long is not sent at all.
const NEVER: Duration = Duration::from_secs(1);
/// Echo requests of one pair.
const COUNT: u32 = 3;

/// How packets get from one host to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// As they are.
    Direct,
    /// In UDP to this port.
    Wrapped(u16),
}

/// From one host's pod to another's.
#[derive(Debug, Clone, Copy)]
struct Pair {
    from: usize,
    to: usize,
    family: Family,
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} from pod {} to pod {}", self.family, self.from, self.to)
    }
}

/// Hosts with a daemon and a pod each, whose pods may send packets of any size that the wire carries.
struct Site {
    network: Network,
    pods: Vec<Pod>,
}

impl Site {
    /// Two hosts on one wire and two on another.
    fn mixed(name: &str, families: Families, options: &str) -> Self {
        Self::new(name, [Wire::hosts(2), Wire::hosts(2)], families, options)
    }

    fn new(name: &str, wires: impl IntoIterator<Item = Wire>, families: Families, options: &str) -> Self {
        let mut network = Network::new(name, wires, families, options);
        network.start_all();
        let pods = network.pods();
        Self { network, pods }
    }

    /// Every ordered pair of hosts in every family.
    fn pairs(&self) -> Vec<Pair> {
        let indices = 0..self.pods.len();
        let both = indices
            .clone()
            .flat_map(|from| indices.clone().map(move |to| (from, to)));
        let different = both.filter(|(from, to)| from != to);
        let families = |(from, to)| {
            let families = self.network.families.each();
            families.map(move |family| Pair { from, to, family })
        };
        different.flat_map(families).collect()
    }

    /// The MTU of the device of that family on a host.
    fn mtu(&self, index: usize, family: Family) -> u32 {
        self.network.device(index, family).unwrap().mtu
    }

    /// Sends packets of so many bytes, and tells how they came: where a router has cut them up, that shows as well.
    #[track_caller]
    fn way(&self, pair: Pair, bytes: u32, port: u16) -> Way {
        let to = pod_address(&self.pods[pair.to], pair.family);
        let wrapped = format!("udp dport {port}");
        let kinds = match pair.family {
            Family::V4 => [
                wrapped.as_str(),
                "ip daddr 10.77.0.0/16",
                "ip frag-off & 0x3fff != 0",
            ],
            Family::V6 => [wrapped.as_str(), "ip6 daddr fd77::/48", "ip6 nexthdr ipv6-frag"],
        };
        let counter = self.network.lab.host(pair.to).count(kinds).unwrap();
        let sent = match ping_whole(&self.pods[pair.from], to, bytes, COUNT, SOON) {
            Ok(report) => report.sent,
            Err(error) => panic!("{pair} with {bytes} bytes: {error}"),
        };
        match counter.received().unwrap() {
            [0, plain, 0] if plain >= sent => Way::Direct,
            [wrapped, 0, 0] if wrapped >= sent => Way::Wrapped(port),
            other => panic!("{pair}: {sent} sent; wrapped, plain and in fragments came {other:?}"),
        }
    }

    /// Fails if a pair gets a packet of so many bytes through. All at once, since each takes a second.
    #[track_caller]
    fn none_passes(&self, too_long: &[(Pair, u32)]) {
        let passed = |(pair, bytes): &(Pair, u32)| {
            let to = pod_address(&self.pods[pair.to], pair.family);
            match ping_whole(&self.pods[pair.from], to, *bytes, 1, NEVER) {
                Err(LabError::NoAnswer { .. }) => None,
                other => Some(format!("{pair} with {bytes} bytes: {other:?}")),
            }
        };
        let wrong: Vec<String> = thread::scope(|scope| {
            let tries: Vec<_> = too_long.iter().map(|one| scope.spawn(|| passed(one))).collect();
            tries.into_iter().filter_map(|one| one.join().unwrap()).collect()
        });
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    /// Lets pods send packets longer than what `subnet.env` allows, so that what stops them is the overlay.
    fn widen_pods(&self, bytes: u32) {
        let mtu = bytes.to_string();
        for (host, pod) in self.network.lab.hosts().iter().zip(&self.pods) {
            for device in ["cni0", "veth1"] {
                host.ip(&["link", "set", device, "mtu", &mtu]).unwrap();
            }
            pod.ip(&["link", "set", "eth0", "mtu", &mtu]).unwrap();
        }
    }

    /// Fails unless every pair goes the way that is said, with packets as long as the device of that family takes.
    #[track_caller]
    fn every_pair_goes(&self, port: u16, ought: impl Fn(Pair) -> Way) {
        for pair in self.pairs() {
            let bytes = self.mtu(pair.from, pair.family);
            assert_eq!(self.way(pair, bytes, port), ought(pair), "{pair}");
        }
    }

    /// Fails unless every pair's packets of so many bytes are wrapped to this port.
    #[track_caller]
    fn every_pair_is_wrapped(&self, bytes: u32, port: u16) {
        for pair in self.pairs() {
            assert_eq!(self.way(pair, bytes, port), Way::Wrapped(port), "{pair}");
        }
    }

    /// Fails unless pods have the MTU of the narrowest device.
    #[track_caller]
    fn pods_have_mtu(&self, bytes: u32) {
        for (index, pod) in self.pods.iter().enumerate() {
            assert_eq!(self.network.lab.host(index).subnet_env().unwrap().mtu, bytes);
            assert_eq!(pod.link("eth0").unwrap().unwrap().mtu, bytes);
        }
    }
}

fn tunnels_carry_whole_packets(name: &str, families: Families, mtu: u32) {
    let site = Site::mixed(name, families, "");
    site.pods_have_mtu(mtu);
    site.widen_pods(1500);
    site.every_pair_goes(PORT, |_| Way::Wrapped(PORT));
    let longer = |pair: Pair| (pair, site.mtu(pair.from, pair.family) + 1);
    site.none_passes(&site.pairs().into_iter().map(longer).collect::<Vec<_>>());
    site.network.check();
}

#[test]
fn over_ipv4_every_pair_of_pods_exchanges_packets_of_1450_bytes_in_tunnels_and_not_a_byte_more() {
    tunnels_carry_whole_packets("tunnels4", Families::V4, 1450);
}

#[test]
fn over_ipv6_every_pair_of_pods_exchanges_packets_of_1430_bytes_in_tunnels_and_not_a_byte_more() {
    tunnels_carry_whole_packets("tunnels6", Families::V6, 1430);
}

#[test]
fn in_both_families_every_pair_of_pods_fills_the_tunnel_of_that_family_and_pods_have_the_smaller_mtu() {
    tunnels_carry_whole_packets("tunnels", Families::Both, 1430);
}

/// Whether two hosts of a mixed site are on one wire.
fn share_a_wire(pair: Pair) -> bool {
    pair.from / 2 == pair.to / 2
}

fn only_the_router_is_crossed_in_tunnels(name: &str, families: Families) {
    let site = Site::mixed(name, families, r#""DirectRouting":true"#);
    site.widen_pods(1500);
    site.every_pair_goes(PORT, |pair| {
        if share_a_wire(pair) {
            Way::Direct
        } else {
            Way::Wrapped(PORT)
        }
    });
    // Nothing is wrapped on one wire, and so all of it is there for the pods.
    let near = site.pairs().into_iter().filter(|pair| share_a_wire(*pair));
    for pair in near {
        assert_eq!(site.way(pair, 1500, PORT), Way::Direct);
    }
    let far = site.pairs().into_iter().filter(|pair| !share_a_wire(*pair));
    let longer = far.map(|pair| (pair, site.mtu(pair.from, pair.family) + 1));
    site.none_passes(&longer.collect::<Vec<_>>());
    site.network.check();
}

#[test]
fn with_direct_routing_over_ipv4_packets_are_wrapped_across_the_router_and_nowhere_else() {
    only_the_router_is_crossed_in_tunnels("direct4", Families::V4);
}

#[test]
fn with_direct_routing_over_ipv6_packets_are_wrapped_across_the_router_and_nowhere_else() {
    only_the_router_is_crossed_in_tunnels("direct6", Families::V6);
}

#[test]
fn with_direct_routing_in_both_families_packets_are_wrapped_across_the_router_and_nowhere_else() {
    only_the_router_is_crossed_in_tunnels("direct", Families::Both);
}

#[test]
fn hosts_behind_a_nat_reach_each_other_at_their_public_addresses_from_their_own() {
    let wires = [
        Wire::hosts(2).translated(),
        Wire::hosts(1).translated(),
        Wire::hosts(1),
    ];
    let site = Site::new("elastic", wires, Families::Both, "");
    for index in 0..3 {
        let host = site.network.lab.host(index);
        let lease = site.network.lease(index);
        for family in BOTH {
            let vxlan = site.network.device(index, family).unwrap().vxlan.unwrap();
            assert_eq!(vxlan.local, host.address(family));
            let published = lease.attrs.public.get(crate::network::core_family(family));
            assert_eq!(published.copied(), host.public(family));
            assert_ne!(vxlan.local, host.public(family));
        }
    }
    site.pods_have_mtu(1430);
    site.every_pair_is_wrapped(1430, PORT);
    site.network.check();
}

#[test]
fn routes_of_the_operators_that_cover_the_networks_keep_no_tunnel_from_being_made() {
    let wires = [Wire::hosts(1), Wire::hosts(1)];
    let mut network = Network::new("covered", wires, Families::Both, "");
    for host in network.lab.hosts() {
        for (wide, family) in ["10.0.0.0/8", "fd00::/8"].into_iter().zip(BOTH) {
            let gateway = host.gateway(family).to_string();
            host.replace_route(wide.parse().unwrap(), &["via", &gateway])
                .unwrap();
        }
    }
    network.start_all();
    let pods = network.pods();
    let site = Site { network, pods };
    site.every_pair_is_wrapped(1430, PORT);
    site.network.check();
}
