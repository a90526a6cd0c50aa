//! What happens to the routes behind the daemon's back is put right within a second.

use std::time::{Duration, Instant};

use ipnet::IpNet;
use lab::{Daemon, Families, Family, Host, Lab, UPLINK};

use crate::network::{
    PROTOCOL, SOON, address, network, put_peer, report, routes_to, settled, subnets, wait_for_routes,
};

const LIMIT: Duration = Duration::from_secs(1);
const ROUNDS: usize = 10;
/// A device that is not the uplink.
const OTHER: &str = "other0";

/// A daemon on the first host, and two peers.
struct Routed {
    lab: Lab,
    peers: Vec<IpNet>,
    _daemon: Daemon,
}

impl Routed {
    fn new(name: &str) -> Self {
        let lab = network(name, 3, Families::Both);
        let host = lab.host(0);
        for words in [
            &["link", "add", OTHER, "type", "bridge"][..],
            &["addr", "add", "172.16.9.1/24", "dev", OTHER],
            &["addr", "add", "fd00:9::1/64", "dev", OTHER, "nodad"],
            &["link", "set", OTHER, "up"],
        ] {
            host.ip(words).unwrap();
        }
        let peers = subnets(Families::Both, 200);
        put_peer(&lab, &peers, lab.host(1));
        put_peer(&lab, &subnets(Families::Both, 201), lab.host(2));
        let daemon = settled(host);
        let routed = Self {
            lab,
            peers,
            _daemon: daemon,
        };
        routed.wait(SOON);
        routed
    }

    fn host(&self) -> &Host {
        self.lab.host(0)
    }

    /// Waits until all is right, and returns how long that took.
    #[track_caller]
    fn wait(&self, within: Duration) -> Duration {
        let mut expected = routes_to(&self.peers, self.lab.host(1));
        expected.extend(routes_to(&subnets(Families::Both, 201), self.lab.host(2)));
        wait_for_routes(self.host(), expected, within)
    }

    fn other_gateway(&self, net: &IpNet) -> String {
        address(self.lab.host(2), Family::of(net.addr())).to_string()
    }
}

/// Does something to the route of a peer, several times in each family, and holds the repair against the limit.
#[track_caller]
fn repaired(name: &str, fault: impl Fn(&Routed, &IpNet)) {
    let routed = Routed::new(name);
    let mut times = Vec::new();
    for net in &routed.peers {
        for _ in 0..ROUNDS {
            let monitor = routed.host().monitor_routes().unwrap();
            let begin = Instant::now();
            fault(&routed, net);
            routed.wait(LIMIT);
            times.push(begin.elapsed());
            let events = monitor.stop().unwrap();
            let about = events.iter().filter(|event| event.destination == *net).count();
            assert!(
                about >= 2,
                "neither fault nor repair of {net} was seen: {events:#?}"
            );
        }
    }
    let (_, longest) = report(name, &times);
    assert!(longest <= LIMIT, "{times:?}");
}

#[test]
fn a_deleted_route_is_back_within_a_second() {
    repaired("delete", |routed, net| routed.host().delete_route(*net).unwrap());
}

#[test]
fn a_route_replaced_by_hand_with_another_gateway_is_right_again_within_a_second() {
    repaired("gateway", |routed, net| {
        routed
            .host()
            .replace_route(*net, &["via", &routed.other_gateway(net)])
            .unwrap();
    });
}

#[test]
fn a_route_replaced_by_hand_with_another_device_is_right_again_within_a_second() {
    repaired("device", |routed, net| {
        routed.host().replace_route(*net, &["dev", OTHER]).unwrap()
    });
}

#[test]
fn a_route_replaced_by_hand_with_a_gateway_on_another_device_is_right_again_within_a_second() {
    repaired("othergateway", |routed, net| {
        let gateway = if net.addr().is_ipv4() {
            "172.16.9.2"
        } else {
            "fd00:9::2"
        };
        routed
            .host()
            .replace_route(*net, &["via", gateway, "dev", OTHER])
            .unwrap();
    });
}

#[test]
fn a_route_replaced_by_hand_with_a_blackhole_is_right_again_within_a_second() {
    repaired("blackhole", |routed, net| {
        let family = Family::of(net.addr()).option();
        routed
            .host()
            .ip(&[family, "route", "replace", "blackhole", &net.to_string()])
            .unwrap();
    });
}

#[test]
fn a_route_changed_in_place_under_our_own_mark_is_right_again_within_a_second() {
    repaired("onlink", |routed, net| {
        let (gateway, protocol) = (
            address(routed.lab.host(1), Family::of(net.addr())).to_string(),
            PROTOCOL.to_string(),
        );
        let changed = ["via", &gateway, "dev", UPLINK, "onlink", "proto", &protocol];
        routed.host().replace_route(*net, &changed).unwrap();
    });
}

#[test]
fn a_stray_of_ours_with_another_metric_is_gone_within_a_second() {
    repaired("stray", |routed, net| {
        let protocol = PROTOCOL.to_string();
        let (net, gateway) = (net.to_string(), routed.other_gateway(net));
        // In IPv6 the usual metric is 1024, and this one takes the packets.
        routed
            .host()
            .ip(&[
                "route", "add", &net, "via", &gateway, "proto", &protocol, "metric", "50",
            ])
            .unwrap();
    });
}

#[test]
fn a_stray_of_ours_to_a_subnet_without_a_lease_is_gone_within_a_second() {
    repaired("unleased", |routed, net| {
        let nowhere = subnets(Families::Both, 222);
        let protocol = PROTOCOL.to_string();
        for stray in nowhere
            .iter()
            .filter(|stray| stray.addr().is_ipv4() == net.addr().is_ipv4())
        {
            let (stray, gateway) = (stray.to_string(), routed.other_gateway(net));
            routed
                .host()
                .ip(&["route", "add", &stray, "via", &gateway, "proto", &protocol])
                .unwrap();
        }
        // What is seen of the peer's own route is what `repaired` looks for.
        routed.host().delete_route(*net).unwrap();
    });
}

#[test]
fn all_routes_flushed_at_once_are_back_within_a_second() {
    repaired("flush", |routed, _| {
        for family in ["-4", "-6"] {
            routed
                .host()
                .ip(&[family, "route", "flush", "proto", &PROTOCOL.to_string()])
                .unwrap();
        }
    });
}

#[test]
fn a_fault_that_comes_again_and_again_does_not_wear_the_repair_out() {
    let routed = Routed::new("again");
    let begin = Instant::now();
    let mut faults = 0;
    while begin.elapsed() < Duration::from_secs(2) {
        // Gone already, if the last fault is not repaired yet.
        faults += usize::from(routed.host().delete_route(routed.peers[0]).is_ok());
    }
    let took = routed.wait(LIMIT);
    println!("{faults} faults in 2 s; right again {took:.1?} after the last");
    assert!(faults > 3, "{faults}");
}
