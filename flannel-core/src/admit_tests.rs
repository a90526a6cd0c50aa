use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::{DefaultRoute, HostFacts, LeaseAttrs, Link, LinkAddress, PerFamily, Uplink};

/// A host at 192.0.2.1/24 and 2001:db8::1/64 on `eth0`, with a bridge in its own subnet.
struct Fixture {
    config: NetworkConfig,
    host: Host,
    own: SubnetKey,
    protected: Protected,
}

impl Fixture {
    fn new(members: &str, own: &str) -> Self {
        let device = "eth0".parse().unwrap();
        let link = |name: &str, index, nets: &[&str]| Link {
            name: name.parse().unwrap(),
            index,
            mtu: 1500,
            up: true,
            loopback: false,
            mac: None,
            strict_reverse_path: false,
            addresses: nets
                .iter()
                .map(|net| LinkAddress {
                    net: net.parse().unwrap(),
                    unusable: false,
                    permanent: true,
                    temporary: false,
                })
                .collect(),
        };
        let addresses = PerFamily {
            v4: Some(address("192.0.2.1")),
            v6: Some(address("2001:db8::1")),
        };
        let public = PerFamily {
            v4: Some(address("203.0.113.9")),
            ..addresses
        };
        let gateway = |family, gateway| DefaultRoute {
            family,
            device,
            gateway: Some(address(gateway)),
            metric: 0,
        };
        let facts = HostFacts {
            links: vec![
                link(
                    "eth0",
                    2,
                    &["192.0.2.1/24", "10.77.4.9/22", "2001:db8::1/64", "fe80::1/64"],
                ),
                link("cni0", 3, &["10.5.1.1/24", "172.17.0.1/16"]),
            ],
            default_routes: vec![
                gateway(Family::V4, "10.66.0.1"),
                gateway(Family::V6, "fd00:66::1"),
            ],
            resolvers: vec![address("10.55.0.53"), address("127.0.0.53")],
            ..HostFacts::default()
        };
        let uplink = Uplink {
            device,
            mtu: 1500,
            addresses,
            public,
        };
        let host = Host {
            node: crate::NodeId(1),
            uplink,
            facts: Arc::new(facts),
        };
        let endpoints = [address("10.44.0.1"), address("192.0.2.1")];
        let protected = Protected::of(&host, &endpoints);
        Self {
            config: NetworkConfig::from_json(&format!(r#"{{{members},"Backend":{{"Type":"host-gw"}}}}"#))
                .unwrap(),
            host,
            own: own.parse().unwrap(),
            protected,
        }
    }

    fn v4() -> Self {
        Self::new(r#""Network":"10.5.0.0/16""#, "10.5.1.0/24")
    }

    fn dual() -> Self {
        Self::new(
            r#""Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/48""#,
            "10.5.1.0/24,fd00:5:0:1::/64",
        )
    }

    /// The hosts are inside the network.
    fn wide() -> Self {
        Self::new(
            r#""Network":"10.0.0.0/8","EnableIPv6":true,"IPv6Network":"fd00::/16""#,
            "10.5.1.0/24,fd00:5:0:1::/64",
        )
    }

    fn admission(&self) -> Admission<'_> {
        Admission {
            config: &self.config,
            host: &self.host,
            own: self.own,
            protected: &self.protected,
            backend: "host-gw",
        }
    }

    /// The reason against the lease, or `peer`.
    fn verdict(&self, lease: &Lease, others: &[Lease]) -> String {
        let all = others.iter().chain([lease]).cloned().collect();
        let verdict = self.admission().admit(lease, &all);
        verdict.map_or_else(|refusal| refusal.to_string(), |()| "peer".into())
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn lease(subnet: &str) -> Lease {
    let attrs = LeaseAttrs {
        public: PerFamily {
            v4: Some(address("192.0.2.2")),
            v6: Some(address("2001:db8::2")),
        },
        backend: "host-gw".into(),
        ..LeaseAttrs::default()
    };
    Lease::new(subnet.parse().unwrap(), attrs)
}

fn created(subnet: &str, created: u64) -> Lease {
    Lease {
        created,
        ..lease(subnet)
    }
}

#[test]
fn a_lease_must_lie_inside_the_network() {
    for (fixture, subnet, inside) in [
        (Fixture::v4(), "10.5.2.0/24", true),
        (Fixture::v4(), "10.5.0.0/24", true),
        (Fixture::v4(), "10.6.2.0/24", false),
        (Fixture::v4(), "10.4.0.0/15", false),
        (Fixture::v4(), "10.5.0.0/16", false),
        (Fixture::v4(), "0.0.0.0/0", false),
        (Fixture::v4(), "fd00:5:0:2::/64", false),
        (Fixture::dual(), "10.5.2.0/24,fd00:5:0:2::/64", true),
        (Fixture::dual(), "10.5.2.0/24,fd00:6:0:2::/64", false),
        (Fixture::dual(), "10.6.2.0/24,fd00:5:0:2::/64", false),
        (Fixture::dual(), "10.5.2.0/24,fd00:5::/48", false),
        // Hosts get their second family one after the other.
        (Fixture::dual(), "10.5.2.0/24", true),
        (Fixture::dual(), "fd00:5:0:2::/64", true),
        (Fixture::v4(), "10.5.2.0/24,fd00:5:0:2::/64", true),
    ] {
        let verdict = fixture.verdict(&lease(subnet), &[]);
        let expected = if inside {
            "peer"
        } else {
            "it lies outside the network"
        };
        assert_eq!(verdict, expected, "{subnet}");
    }
}

#[test]
fn a_lease_that_shares_an_address_with_our_subnet_is_refused_however_old() {
    for (fixture, subnet, overlaps) in [
        (Fixture::v4(), "10.5.1.0/24", true),
        (Fixture::v4(), "10.5.0.0/17", true),
        (Fixture::v4(), "10.5.1.128/25", true),
        (Fixture::v4(), "10.5.2.0/24", false),
        (Fixture::dual(), "10.5.2.0/24,fd00:5:0:1::/64", true),
        (Fixture::dual(), "fd00:5:0:1:8000::/65", true),
    ] {
        let verdict = fixture.verdict(&created(subnet, 0), &[]);
        let expected = format!("it overlaps our own subnet {}", fixture.own);
        let expected = if overlaps { &expected } else { "peer" };
        assert_eq!(verdict, expected, "{subnet}");
    }
}

#[test]
fn a_lease_that_covers_what_the_host_needs_is_refused_with_its_name() {
    let wide = Fixture::wide();
    for (subnet, expected) in [
        ("10.77.6.0/24", "it covers the network 10.77.4.0/22 of eth0"),
        ("10.64.0.0/12", "it covers the network 10.77.4.0/22 of eth0"),
        ("10.66.0.0/24", "it covers the default gateway 10.66.0.1"),
        ("10.55.0.0/24", "it covers the resolver 10.55.0.53"),
        ("10.44.0.0/24", "it covers the store's endpoint 10.44.0.1"),
        ("fd00:66::/64", "it covers the default gateway fd00:66::1"),
        ("10.77.8.0/24", "peer"),
        ("10.66.1.0/24", "peer"),
    ] {
        assert_eq!(wide.verdict(&lease(subnet), &[]), expected, "{subnet}");
    }
}

#[test]
fn addresses_that_the_host_has_itself_need_no_protection() {
    let fixture = Fixture::new(r#""Network":"0.0.0.0/1","SubnetLen":24"#, "10.5.1.0/24");
    // 127.0.0.53 is a resolver.
    assert_eq!(fixture.verdict(&lease("127.0.0.0/24"), &[]), "peer");
    let bridge = Fixture::new(r#""Network":"172.16.0.0/12""#, "172.18.1.0/24");
    assert_eq!(bridge.verdict(&lease("172.17.0.0/24"), &[]), "peer");
}

#[test]
fn a_peer_must_publish_an_address_at_which_one_host_can_be_reached() {
    for (public, expected) in [
        (None, "it has no public IPv4 address"),
        (Some("0.0.0.0"), "0.0.0.0 can be no host's public address"),
        (Some("0.1.2.3"), "0.1.2.3 can be no host's public address"),
        (Some("127.0.0.1"), "127.0.0.1 can be no host's public address"),
        (Some("127.9.9.9"), "127.9.9.9 can be no host's public address"),
        (Some("224.0.0.1"), "224.0.0.1 can be no host's public address"),
        (
            Some("255.255.255.255"),
            "255.255.255.255 can be no host's public address",
        ),
        (Some("240.0.0.1"), "240.0.0.1 can be no host's public address"),
        (
            Some("254.255.255.254"),
            "254.255.255.254 can be no host's public address",
        ),
        (Some("10.5.2.1"), "10.5.2.1 can be no host's public address"),
        // No rule treats public and private ranges differently.
        (Some("10.5.3.1"), "peer"),
        (Some("10.9.9.9"), "peer"),
        (Some("169.254.3.4"), "peer"),
        (Some("100.64.0.1"), "peer"),
        (Some("8.8.8.8"), "peer"),
    ] {
        let mut lease = lease("10.5.2.0/24");
        lease.attrs.public.v4 = public.map(address);
        assert_eq!(Fixture::v4().verdict(&lease, &[]), expected, "{public:?}");
    }
}

#[test]
fn the_first_and_the_last_address_of_the_uplinks_networks_are_no_hosts() {
    let refused = |address: &str, what: &str, net: &str| {
        format!(
            "its public address {address} is the {what} address of {net} here, and no host's; give it one of its own \
             with --public-ip"
        )
    };
    for (public, expected) in [
        ("192.0.2.0", refused("192.0.2.0", "network", "192.0.2.0/24")),
        ("192.0.2.255", refused("192.0.2.255", "broadcast", "192.0.2.0/24")),
        ("10.77.4.0", refused("10.77.4.0", "network", "10.77.4.0/22")),
        ("10.77.7.255", refused("10.77.7.255", "broadcast", "10.77.4.0/22")),
        // Within the larger network, of others and of another device of ours.
        ("10.77.5.255", "peer".to_owned()),
        ("10.77.6.0", "peer".to_owned()),
        ("10.77.8.0", "peer".to_owned()),
        ("198.51.100.255", "peer".to_owned()),
        ("172.17.255.255", "peer".to_owned()),
    ] {
        let mut lease = lease("10.5.2.0/24");
        lease.attrs.public.v4 = Some(address(public));
        assert_eq!(Fixture::v4().verdict(&lease, &[]), expected, "{public}");
    }
}

#[test]
fn networks_of_two_addresses_have_two_hosts() {
    for (net, other, expected) in [
        ("192.0.2.1/31", "192.0.2.0", true),
        ("192.0.2.4/32", "192.0.2.5", true),
        ("192.0.2.1/30", "192.0.2.3", false),
    ] {
        let mut fixture = Fixture::v4();
        let facts = Arc::make_mut(&mut fixture.host.facts);
        facts.links[0].addresses[0].net = net.parse().unwrap();
        let mut lease = lease("10.5.2.0/24");
        lease.attrs.public.v4 = Some(address(other));
        let verdict = fixture.verdict(&lease, &[]);
        assert_eq!(verdict == "peer", expected, "{net} {other}: {verdict}");
    }
}

#[test]
fn an_ipv6_address_is_held_to_the_same_rules() {
    for (public, expected) in [
        (None, "it has no public IPv6 address"),
        (Some("::"), ":: can be no host's public address"),
        (Some("::1"), "::1 can be no host's public address"),
        (Some("ff02::1"), "ff02::1 can be no host's public address"),
        (
            Some("fd00:5:0:2::7"),
            "fd00:5:0:2::7 can be no host's public address",
        ),
        (
            Some("::ffff:192.0.2.2"),
            "::ffff:192.0.2.2 can be no host's public address",
        ),
        (Some("::192.0.2.2"), "::c000:202 can be no host's public address"),
        (Some("64:ff9b::192.0.2.2"), "peer"),
        (Some("2001:db8::"), "peer"),
        (Some("fe80::2"), "peer"),
        (Some("fd00::7"), "peer"),
        (Some("2001:db8::2"), "peer"),
    ] {
        let mut lease = lease("10.5.2.0/24,fd00:5:0:2::/64");
        lease.attrs.public.v6 = public.map(address);
        assert_eq!(Fixture::dual().verdict(&lease, &[]), expected, "{public:?}");
    }
}

#[test]
fn an_address_is_asked_for_only_in_the_families_that_the_lease_and_the_network_have() {
    let without_v6 = |subnet| {
        let mut lease = lease(subnet);
        lease.attrs.public.v6 = None;
        lease
    };
    let dual = "10.5.2.0/24,fd00:5:0:2::/64";
    assert_eq!(Fixture::dual().verdict(&without_v6("10.5.2.0/24"), &[]), "peer");
    assert_eq!(Fixture::v4().verdict(&without_v6(dual), &[]), "peer");
    assert_eq!(
        Fixture::dual().verdict(&without_v6(dual), &[]),
        "it has no public IPv6 address"
    );
}

#[test]
fn an_address_of_ours_is_nobody_elses() {
    // The published one, the device's, and that of a bridge.
    for own in ["203.0.113.9", "192.0.2.1", "172.17.0.1"] {
        let mut lease = lease("10.5.2.0/24");
        lease.attrs.public.v4 = Some(address(own));
        let expected =
            format!("its public address {own} is this host's own; give each host its own --public-ip");
        assert_eq!(Fixture::v4().verdict(&lease, &[]), expected);
    }
}

#[test]
fn a_lease_of_another_backend_is_refused_by_its_name() {
    for (backend, expected) in [
        ("vxlan", r#"its backend is "vxlan""#),
        ("", r#"its backend is """#),
        ("host-gw", "peer"),
    ] {
        let mut lease = lease("10.5.2.0/24");
        lease.attrs.backend = backend.into();
        assert_eq!(Fixture::v4().verdict(&lease, &[]), expected);
    }
}

#[test]
fn another_subnet_length_is_admitted_and_told_of() {
    for (fixture, subnet, differs) in [
        (Fixture::v4(), "10.5.2.0/24", false),
        (Fixture::v4(), "10.5.2.0/25", true),
        (Fixture::v4(), "10.5.4.0/22", true),
        (Fixture::dual(), "10.5.2.0/24,fd00:5:0:2::/64", false),
        (Fixture::dual(), "10.5.2.0/24,fd00:5:0:2::/80", true),
        (Fixture::v4(), "10.5.2.0/24,fd00:5:0:2::/80", false),
    ] {
        let lease = lease(subnet);
        assert_eq!(fixture.verdict(&lease, &[]), "peer", "{subnet}");
        assert_eq!(
            fixture.admission().is_cut_differently(&lease),
            differs,
            "{subnet}"
        );
    }
}

#[test]
fn of_two_leases_that_overlap_the_older_is_the_peer() {
    for (older, younger) in [
        (created("10.5.2.0/23", 1), created("10.5.3.0/24", 2)),
        (created("10.5.3.0/24", 1), created("10.5.2.0/23", 2)),
        // Of one age: the lower subnet.
        (created("10.5.2.0/23", 1), created("10.5.3.0/24", 1)),
    ] {
        let both = [older.clone(), younger.clone()];
        assert_eq!(Fixture::v4().verdict(&older, &both), "peer");
        let expected = format!("it overlaps the older lease {}", older.subnet);
        assert_eq!(Fixture::v4().verdict(&younger, &both), expected);
    }
}

#[test]
fn a_lease_that_is_refused_itself_refuses_no_other() {
    let youngest = created("10.5.4.0/24,fd00:5:0:9::/64", 3);
    let middle = created("10.5.9.0/24,fd00:5:0:9::/64", 2);
    let oldest = created("10.5.8.0/22", 1);
    let all = [youngest.clone(), middle.clone(), oldest.clone()];
    let dual = Fixture::dual();
    assert_eq!(dual.verdict(&oldest, &all), "peer");
    assert_eq!(
        dual.verdict(&middle, &all),
        "it overlaps the older lease 10.5.8.0/22"
    );
    assert_eq!(dual.verdict(&youngest, &all), "peer");
    // Without the oldest, the middle one has its place, and the youngest has not.
    let rest = &all[..2];
    assert_eq!(dual.verdict(&middle, rest), "peer");
    assert_eq!(
        dual.verdict(&youngest, rest),
        "it overlaps the older lease 10.5.9.0/24,fd00:5:0:9::/64"
    );
}

#[test]
fn garbage_that_is_older_disturbs_no_other_lease() {
    let peer = created("10.5.2.0/24", 9);
    let mut other_backend = created("10.5.0.0/17", 1);
    other_backend.attrs.backend = "vxlan".into();
    let mut nowhere = created("10.5.2.0/23", 1);
    nowhere.attrs.public = PerFamily::NONE;
    let everything = created("0.0.0.0/0", 1);
    let ours = created("10.5.1.0/24", 1);
    let all = [other_backend, nowhere, everything, ours, peer.clone()];
    assert_eq!(Fixture::v4().verdict(&peer, &all), "peer");
}

/// The shortest of a few runs, since others may use the machine, too.
fn shortest(mut run: impl FnMut()) -> Duration {
    let time = || {
        let begin = tokio::time::Instant::now();
        run();
        begin.elapsed()
    };
    std::iter::repeat_with(time).take(5).min().unwrap()
}

#[test]
fn one_lease_among_ten_thousand_costs_no_look_at_the_others() {
    let fixture = Fixture::wide();
    let leases: Leases = (0..10_000u32)
        .map(|host| {
            let third = host % 250;
            let second = 100 + host / 250;
            created(
                &format!("10.{second}.{third}.0/24,fd00:9:{second:x}:{third:x}::/64"),
                1,
            )
        })
        .collect();
    assert_eq!(leases.len(), 10_000);
    let admission = fixture.admission();
    let one = leases.iter().nth(5000).unwrap().clone();
    let time = shortest(|| assert_eq!(admission.admit(&one, &leases), Ok(())));
    assert!(time < Duration::from_millis(2), "{time:?}");
    // Ten thousand rivals, of which the first one decides.
    let wide = created("fd00:9::/32", 2);
    let mut with_wide = leases.clone();
    with_wide.insert(wide.clone());
    let time = shortest(|| assert!(admission.admit(&wide, &with_wide).is_err()));
    assert!(time < Duration::from_millis(500), "{time:?}");
}

#[test]
fn leases_made_to_overlap_in_every_way_are_decided_in_no_time() {
    // Each pair of these is refused through IPv6 by one of its own, and all share an IPv4 subnet.
    let fixture = Fixture::dual();
    let pairs = (0..60u64).flat_map(|pair| {
        let v6 = format!("fd00:5:0:{:x}::/64", 0x100 + pair);
        [
            created(&format!("10.5.{}.0/24,{v6}", 100 + pair), 2 * pair),
            created(&format!("10.5.2.0/24,{v6}"), 2 * pair + 1),
        ]
    });
    let mut leases: Leases = pairs.collect();
    let peer = created("10.5.2.0/24", 1000);
    leases.insert(peer.clone());
    let admission = fixture.admission();
    assert_eq!(admission.admit(&peer, &leases), Ok(()));
    let time = shortest(|| drop(admission.admit(&peer, &leases)));
    assert!(time < Duration::from_millis(500), "{time:?}");
}

/// From the definition: the oldest first, each admitted that shares nothing with one admitted before.
fn peers_by_hand(admission: &Admission<'_>, leases: &[Lease]) -> Vec<SubnetKey> {
    let mut by_age: Vec<&Lease> = leases.iter().collect();
    by_age.sort_by_key(|lease| age(lease));
    let mut peers: Vec<SubnetKey> = Vec::new();
    for lease in by_age {
        let clear = !peers.iter().any(|peer| peer.overlaps(&lease.subnet));
        if clear && admission.check(lease).is_ok() {
            peers.push(lease.subnet);
        }
    }
    peers.sort();
    peers
}

fn peers(admission: &Admission<'_>, leases: &[Lease]) -> Vec<SubnetKey> {
    let leases: Leases = leases.iter().cloned().collect();
    let admitted = leases
        .iter()
        .filter(|lease| admission.admit(lease, &leases).is_ok());
    admitted.map(|lease| lease.subnet).collect()
}

fn any_lease() -> impl Strategy<Value = Lease> {
    let v4 = proptest::option::of((0u32..1 << 11, 20u8..=26));
    let v6 = proptest::option::of((0u128..1 << 5, 60u8..=66));
    (v4, v6, 0u64..4, 0u8..20).prop_filter_map("a part", |(v4, v6, created, flaw)| {
        let v4 = v4.map(|(bits, len)| {
            let v4 = ipnet::Ipv4Net::new((0x0a05_0000 | bits).into(), len);
            IpNet::from(v4.unwrap()).to_string()
        });
        let v6 = v6.map(|(bits, len)| {
            let v6 = ipnet::Ipv6Net::new(((0xfd00_0005_u128 << 96) | bits << 63).into(), len);
            IpNet::from(v6.unwrap()).to_string()
        });
        let parts: Vec<String> = v4.into_iter().chain(v6).collect();
        let subnet: SubnetKey = parts.join(",").parse().ok()?;
        let mut lease = Lease {
            created,
            ..lease("10.5.2.0/24")
        };
        lease.subnet = subnet;
        match flaw {
            0 => lease.attrs.backend = "vxlan".into(),
            1 => lease.attrs.public = PerFamily::NONE,
            _ => {}
        }
        Some(lease)
    })
}

proptest! {
    #[test]
    fn peers_never_overlap_and_do_not_depend_on_the_order_in_which_leases_came(
        (leases, shuffled) in proptest::collection::vec(any_lease(), 0..14)
            .prop_flat_map(|leases| (Just(leases.clone()), Just(leases).prop_shuffle())),
    ) {
        // A store holds one lease of each subnet.
        let once = |leases: Vec<Lease>| {
            let mut leases = leases;
            leases.sort_by_key(|lease| (lease.subnet, age(lease), lease.attrs.to_json()));
            leases.dedup_by_key(|lease| lease.subnet);
            leases
        };
        let kept = once(leases);
        let shuffled: Vec<_> = shuffled
            .into_iter()
            .filter(|lease| kept.iter().any(|kept| kept.subnet == lease.subnet && kept.attrs == lease.attrs && kept.created == lease.created))
            .collect();
        let fixture = Fixture::dual();
        let admission = fixture.admission();
        let found = peers(&admission, &kept);
        prop_assert_eq!(&found, &peers_by_hand(&admission, &kept));
        prop_assert_eq!(&found, &peers(&admission, &shuffled));
        for (place, one) in found.iter().enumerate() {
            prop_assert!(!one.overlaps(&fixture.own));
            prop_assert!(found[place + 1..].iter().all(|other| !one.overlaps(other)));
        }
    }
}
