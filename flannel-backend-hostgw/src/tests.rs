use std::net::IpAddr;
use std::sync::Arc;

use flannel_core::{HostFacts, LeaseAttrs, NodeId, Object, PerFamily, Uplink};

use super::*;

const V4: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#;
const V6: &str =
    r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:5::/48","Backend":{"Type":"host-gw"}}"#;
const DUAL: &str =
    r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/48","Backend":{"Type":"host-gw"}}"#;

fn per_family(v4: &str, v6: &str) -> PerFamily<IpAddr> {
    PerFamily {
        v4: v4.parse().ok(),
        v6: v6.parse().ok(),
    }
}

fn host(addresses: PerFamily<IpAddr>, public: PerFamily<IpAddr>) -> Host {
    let uplink = Uplink {
        device: "eth0".parse().unwrap(),
        mtu: 1492,
        addresses,
        public,
    };
    Host {
        node: NodeId(1),
        uplink,
        facts: Arc::new(HostFacts::default()),
    }
}

fn lease(subnet: &str, public: PerFamily<IpAddr>) -> Lease {
    let attrs = LeaseAttrs {
        public,
        backend: KIND.into(),
        ..LeaseAttrs::default()
    };
    Lease::new(subnet.parse().unwrap(), attrs)
}

/// What a host with these addresses in this network wants for the peer.
fn wanted(config: &str, addresses: PerFamily<IpAddr>, peer: &Lease) -> (Result<(), Skip>, Vec<Object>) {
    let config = NetworkConfig::from_json(config).unwrap();
    let host = host(addresses, addresses);
    let own = lease("10.5.1.0/24,fd00:5:0:1::/64", addresses);
    let context = Context {
        host: &host,
        own: &own,
        config: &config,
        protocol: 77,
    };
    let mut out = Desired::default();
    let result = HostGw.peer(&context, peer, &mut out);
    (result, out.into_state().into_values().collect())
}

fn route(destination: &str, gateway: &str) -> Object {
    let hop = Hop::via(gateway.parse().unwrap(), "eth0".parse().unwrap());
    Route::unicast(destination.parse().unwrap(), hop, 77).into()
}

#[test]
fn a_peer_is_one_route_per_family_via_the_peer_itself() {
    let both = per_family("192.0.2.1", "2001:db8::1");
    let peer = lease(
        "10.5.7.0/24,fd00:5:0:7::/64",
        per_family("192.0.2.7", "2001:db8::7"),
    );
    let v4 = route("10.5.7.0/24", "192.0.2.7");
    let v6 = route("fd00:5:0:7::/64", "2001:db8::7");
    for (config, expected) in [
        (V4, vec![v4.clone()]),
        (V6, vec![v6.clone()]),
        (DUAL, vec![v4.clone(), v6.clone()]),
    ] {
        assert_eq!(wanted(config, both, &peer), (Ok(()), expected), "{config}");
    }
    // Families in which this host cannot be reached are of no use.
    assert_eq!(
        wanted(DUAL, per_family("192.0.2.1", ""), &peer),
        (Ok(()), vec![v4])
    );
    assert_eq!(
        wanted(DUAL, per_family("", "2001:db8::1"), &peer),
        (Ok(()), vec![v6])
    );
}

#[test]
fn a_family_in_which_the_peer_has_no_subnet_is_left_out() {
    let both = per_family("192.0.2.1", "2001:db8::1");
    for (subnet, public, expected) in [
        (
            "10.5.7.0/24",
            per_family("192.0.2.7", ""),
            route("10.5.7.0/24", "192.0.2.7"),
        ),
        (
            "fd00:5:0:7::/64",
            per_family("", "2001:db8::7"),
            route("fd00:5:0:7::/64", "2001:db8::7"),
        ),
    ] {
        assert_eq!(
            wanted(DUAL, both, &lease(subnet, public)),
            (Ok(()), vec![expected])
        );
    }
}

#[test]
fn a_peer_without_an_address_in_a_family_is_skipped_with_the_reason() {
    let both = per_family("192.0.2.1", "2001:db8::1");
    for (public, expected) in [
        (
            per_family("192.0.2.7", ""),
            "it has no public IPv6 address by which fd00:5:0:7::/64 could be reached",
        ),
        (
            per_family("", "2001:db8::7"),
            "it has no public IPv4 address by which 10.5.7.0/24 could be reached",
        ),
    ] {
        let peer = lease("10.5.7.0/24,fd00:5:0:7::/64", public);
        assert_eq!(wanted(DUAL, both, &peer), (Err(Skip(expected.into())), vec![]));
    }
}

#[test]
fn a_peer_without_a_subnet_in_our_families_is_skipped_with_the_reason() {
    let both = per_family("192.0.2.1", "2001:db8::1");
    for (config, subnet, expected) in [
        (V6, "10.5.7.0/24", "it has no IPv6 subnet"),
        (V4, "fd00:5:0:7::/64", "it has no IPv4 subnet"),
    ] {
        let peer = lease(subnet, per_family("192.0.2.7", "2001:db8::7"));
        assert_eq!(wanted(config, both, &peer), (Err(Skip(expected.into())), vec![]));
    }
}

#[test]
fn pods_have_the_whole_mtu_of_the_uplink() {
    let own = per_family("192.0.2.1", "");
    assert_eq!(HostGw.mtu(&host(own, own)), 1492);
    assert_eq!(HostGw.kind(), "host-gw");
}

#[test]
fn nothing_is_published_beside_the_addresses() {
    let both = per_family("192.0.2.1", "2001:db8::1");
    let published = HostGw.publish(&host(both, both), None).unwrap();
    assert!(published.data.is_none() && published.v6_data.is_none());
}

#[test]
fn a_public_address_that_is_not_the_devices_is_refused_with_both_addresses_and_the_remedy() {
    const NAT: &str = "your PublicIP differs from interface IP, meaning that probably you're on a NAT, which is \
                       not supported by host-gw backend";
    let own = per_family("192.0.2.1", "2001:db8::1");
    for (public, flag, names) in [
        (
            per_family("203.0.113.5", "2001:db8::1"),
            "--public-ip is",
            ["203.0.113.5", "192.0.2.1"],
        ),
        (
            per_family("192.0.2.1", "2001:db8::99"),
            "--public-ipv6 is",
            ["2001:db8::99", "2001:db8::1"],
        ),
    ] {
        let error = HostGw.publish(&host(own, public), None).unwrap_err();
        assert_eq!(error.backend, "host-gw");
        assert!(error.problem.starts_with(NAT), "{error}");
        assert!(
            error.problem.contains(flag) && error.problem.contains("--iface"),
            "{error}"
        );
        assert!(names.iter().all(|name| error.problem.contains(name)), "{error}");
    }
    // Of a family that is not enabled nothing is known.
    let v4 = per_family("192.0.2.1", "");
    assert!(HostGw.publish(&host(v4, v4), None).is_ok());
}
