//! Whose is a kernel object?
#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

mod devices;

use flannel_core::{
    DEFAULT_PROTOCOL, Hop, Hops, Object, ObjectId, Owner, Ownership, PROTOCOL_BOOT, PROTOCOL_KERNEL, Route,
    RouteId, RouteKind, Scope,
};
use ipnet::IpNet;
use proptest::prelude::*;

const STATIC: u8 = 4;

/// The network, and the one before it.
fn ours() -> Ownership {
    let networks = ["10.5.0.0/16", "10.99.0.0/16", "fd00:5::/48"];
    Ownership {
        scope: Scope {
            networks: networks.iter().map(|net| net.parse().unwrap()).collect(),
            ..Scope::default()
        },
        protocol: DEFAULT_PROTOCOL,
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// Current peers hold 10.5.7.0/24 and fd00:5:0:7::/64.
fn leased(destination: IpNet) -> bool {
    destination == net("10.5.7.0/24") || destination == net("fd00:5:0:7::/64")
}

fn route(destination: &str, protocol: u8) -> Route {
    let gateway = if destination.contains(':') {
        "2001:db8::7"
    } else {
        "192.0.2.7"
    };
    let hop = Hop::via(gateway.parse().unwrap(), "eth0".parse().unwrap());
    Route::unicast(net(destination), hop, protocol)
}

#[test]
fn our_protocol_inside_our_networks_is_ours_whatever_else_the_route_says() {
    for destination in [
        "10.5.7.0/24",
        "10.5.8.0/24",
        "10.5.7.128/25",
        "10.5.7.1/32",
        "10.5.0.0/16",
        "10.99.3.0/24",
        "fd00:5:0:7::/64",
        "fd00:5:0:8::/64",
    ] {
        let plain = route(destination, DEFAULT_PROTOCOL);
        let id = plain.id;
        for route in [
            plain.clone(),
            Route {
                id: RouteId { metric: 50, ..id },
                ..plain.clone()
            },
            Route {
                id: RouteId { tos: 8, ..id },
                ..plain.clone()
            },
            Route {
                id: RouteId { position: 3, ..id },
                ..plain.clone()
            },
            Route {
                kind: RouteKind::Blackhole,
                hops: Hops::None,
                ..plain.clone()
            },
            Route {
                decorated: true,
                ..plain.clone()
            },
        ] {
            assert_eq!(ours().route_owner(&route, leased), Owner::Ours, "{route}");
        }
    }
}

#[test]
fn nothing_outside_our_networks_is_ours_whatever_its_protocol() {
    for destination in [
        "10.6.7.0/24",
        "10.0.0.0/8",
        "10.4.0.0/15",
        "0.0.0.0/0",
        "192.0.2.0/24",
        "::/0",
        "fd00::/16",
        "fd00:6:0:7::/64",
    ] {
        for protocol in [DEFAULT_PROTOCOL, PROTOCOL_BOOT, STATIC, PROTOCOL_KERNEL] {
            let route = route(destination, protocol);
            // Not even if a lease names it.
            assert_eq!(ours().route_owner(&route, |_| true), Owner::Foreign, "{route}");
        }
    }
}

#[test]
fn a_plain_boot_route_to_a_peers_subnet_is_corrected_in_place_whatever_its_gateway() {
    for destination in ["10.5.7.0/24", "fd00:5:0:7::/64"] {
        let plain = route(destination, PROTOCOL_BOOT);
        let elsewhere = Hop {
            gateway: None,
            device: "dummy0".parse().unwrap(),
            onlink: false,
        };
        for route in [
            plain.clone(),
            Route {
                hops: Hops::One(elsewhere),
                ..plain.clone()
            },
            Route {
                hops: Hops::Many(vec![elsewhere, elsewhere]),
                ..plain.clone()
            },
            // Stacked behind another with `ip route append`.
            Route {
                id: RouteId {
                    position: 1,
                    ..plain.id
                },
                ..plain.clone()
            },
        ] {
            assert_eq!(ours().route_owner(&route, leased), Owner::Unmarked, "{route}");
        }
    }
}

#[test]
fn a_boot_route_that_flannel_would_not_have_written_is_the_operators() {
    for destination in ["10.5.7.0/24", "fd00:5:0:7::/64"] {
        let plain = route(destination, PROTOCOL_BOOT);
        let id = plain.id;
        for id in [
            RouteId { metric: 50, ..id },
            RouteId { tos: 8, ..id },
            RouteId::to(net("10.5.8.0/24")),
            RouteId::to(net("10.5.7.0/25")),
            RouteId::to(net("10.5.6.0/23")),
            RouteId::to(net("fd00:5:0:8::/64")),
        ] {
            let route = Route { id, ..plain.clone() };
            assert_eq!(ours().route_owner(&route, leased), Owner::Foreign, "{route}");
        }
    }
}

#[test]
fn every_other_protocol_is_the_operators_even_in_the_place_of_ours() {
    for destination in ["10.5.7.0/24", "fd00:5:0:7::/64"] {
        for protocol in (0..=u8::MAX).filter(|other| ![DEFAULT_PROTOCOL, PROTOCOL_BOOT].contains(other)) {
            let route = route(destination, protocol);
            assert_eq!(ours().route_owner(&route, leased), Owner::Foreign, "{route}");
        }
    }
}

#[test]
fn another_protocol_that_was_asked_for_takes_the_place_of_the_default() {
    let ours = Ownership {
        protocol: 99,
        ..ours()
    };
    assert_eq!(ours.route_owner(&route("10.5.8.0/24", 99), leased), Owner::Ours);
    assert_eq!(
        ours.route_owner(&route("10.5.8.0/24", DEFAULT_PROTOCOL), leased),
        Owner::Foreign
    );
}

proptest! {
    #[test]
    fn a_dump_is_split_without_losing_or_doubling_anything(
        picks in proptest::collection::btree_map(
            (0u8..3, 0u8..12, 0u32..2),
            prop_oneof![Just(DEFAULT_PROTOCOL), Just(PROTOCOL_BOOT), Just(STATIC), Just(PROTOCOL_KERNEL)],
            0..20,
        ),
    ) {
        let dump: Vec<Object> = picks
            .iter()
            .map(|(&(second, third, metric), &protocol)| {
                let plain = route(&format!("10.{}.{third}.0/24", 4 + second), protocol);
                Object::from(Route { id: RouteId { metric, ..plain.id }, ..plain })
            })
            .collect();
        let (mine, foreign) = ours().split(dump.clone(), leased);
        prop_assert_eq!(mine.len() + foreign.len(), dump.len());
        for object in dump {
            let Object::Route(route) = &object else { continue };
            match ours().route_owner(route, leased) {
                Owner::Foreign => prop_assert!(foreign.contains(&object)),
                _ => prop_assert_eq!(mine.get(&ObjectId::Route(route.id)), Some(&object)),
            }
        }
    }
}
