//! Peers that left while the daemon was down are gone from the device, too, once it knows who is left.

use ipnet::IpNet;
use lab::{Families, Family, RouteLine, STATIC};

use super::ground::{Ground, PEERS, STRUCK, is_of_the_overlay};
use super::pings::{lost, pingers};
use crate::network::{BOTH, Network, SOON, core_family};

/// An operator's own, inside the pods' networks and elsewhere.
const STATICS: [&str; 4] = [
    "10.77.240.0/24",
    "172.31.0.0/16",
    "fd77:0:0:240::/64",
    "fd99::/64",
];

/// The operator's routes, over the overlay's devices to a peer.
fn statics(network: &Network) -> Vec<RouteLine> {
    let routes = STATICS.into_iter().flat_map(|text| {
        let net: IpNet = text.parse().unwrap();
        network.lab.host(STRUCK).routes_to(net).unwrap()
    });
    routes.collect()
}

#[test]
fn a_peer_that_left_while_the_daemon_was_down_is_swept_off_the_device_and_an_operators_routes_stay() {
    let Ground {
        mut network, pods, ..
    } = Ground::new("left", Families::Both);
    let [stays, leaves] = PEERS;
    for text in STATICS {
        let net: IpNet = text.parse().unwrap();
        let family = Family::of(net.addr());
        let via = network
            .lease(stays)
            .subnet
            .net(core_family(family))
            .unwrap()
            .addr();
        let device = network.device(STRUCK, family).unwrap().name;
        let rest = format!("via {via} dev {device} onlink proto static");
        let rest: Vec<&str> = rest.split(' ').collect();
        network.lab.host(STRUCK).replace_route(net, &rest).unwrap();
    }
    let operators = statics(&network);
    assert!(operators.len() == STATICS.len() && operators.iter().all(|route| route.protocol == STATIC));
    // In each family: a route, a neighbour and a forwarding entry.
    let gone = BOTH.into_iter().flat_map(|family| {
        let subnet = network.lease(leaves).subnet.net(core_family(family)).unwrap();
        let (via, at) = (subnet.addr(), network.lab.host(leaves).address(family).unwrap());
        [
            format!("{subnet} via "),
            format!("{via} dev "),
            format!("{at} dev "),
        ]
    });
    let gone: Vec<String> = gone.collect();
    let pings = pingers(&pods, STRUCK, stays);

    for index in [STRUCK, leaves] {
        network.daemon(index).terminate(SOON).unwrap();
    }
    network
        .lab
        .delete_lease(&network.lease(leaves).subnet.to_key())
        .unwrap();
    let monitor = network.lab.host(STRUCK).monitor_kernel().unwrap();
    network.start(STRUCK, &[]);
    network.check_consistency(STRUCK);
    network.check_consistency(stays);

    let events = monitor.stop().unwrap();
    let events = events.iter().filter(|event| is_of_the_overlay(&event.line));
    let lines: Vec<&str> = events.map(|event| event.line.as_str()).collect();
    let removed = |what: &String| {
        let removals = lines.iter().filter_map(|line| line.strip_prefix("Deleted "));
        removals.filter(|line| line.starts_with(what)).count() == 1
    };
    assert!(
        lines.len() == gone.len() && gone.iter().all(removed),
        "{gone:#?}, and not {lines:#?}"
    );
    assert_eq!(statics(&network), operators);
    assert_eq!(lost(pings), 0);
}
