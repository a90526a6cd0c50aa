use std::sync::Arc;

use super::*;
use crate::{LeaseAttrs, LinkAddress, PerFamily, Unforwarded, Uplink};

const V4: &str = r#"{"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}"#;
const V6: &str =
    r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd07::/48","Backend":{"Type":"host-gw"}}"#;
const DUAL: &str =
    r#"{"Network":"172.7.0.0/16","EnableIPv6":true,"IPv6Network":"fd07::/48","Backend":{"Type":"host-gw"}}"#;

fn config(json: &str) -> NetworkConfig {
    NetworkConfig::from_json(json).unwrap()
}

fn device(name: &str) -> DeviceName {
    name.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn own(text: &str) -> SubnetKey {
    text.parse().unwrap()
}

/// A host whose uplink is eth1, with other devices and their addresses.
fn host(devices: &[(&str, &[&str])]) -> Host {
    let eth1: (&str, &[&str]) = ("eth1", &["192.0.2.21/24", "fe80::1/64"]);
    let all = std::iter::once(&eth1).chain(devices);
    let links = all.zip(1..).map(|((name, nets), index)| Link {
        name: device(name),
        index,
        mtu: 1500,
        up: true,
        loopback: *name == "lo",
        mac: None,
        strict_reverse_path: false,
        addresses: nets
            .iter()
            .map(|text| LinkAddress {
                net: net(text),
                unusable: false,
                permanent: true,
                temporary: false,
            })
            .collect(),
    });
    let public = PerFamily {
        v4: Some("192.0.2.21".parse().unwrap()),
        v6: None,
    };
    Host {
        node: NodeId(1),
        uplink: Uplink {
            device: device("eth1"),
            mtu: 1500,
            addresses: public,
            public,
        },
        facts: Arc::new(HostFacts {
            links: links.collect(),
            ..HostFacts::default()
        }),
    }
}

fn lease(subnet: &str, public: &str, node: Option<u128>) -> Lease {
    let attrs = LeaseAttrs {
        public: PerFamily {
            v4: public.parse().ok(),
            v6: None,
        },
        node: node.map(NodeId),
        ..LeaseAttrs::default()
    };
    Lease::new(subnet.parse().unwrap(), attrs)
}

#[test]
fn a_bridge_in_the_network_and_not_in_our_subnet_is_told_of_with_the_holder_and_the_commands() {
    let host = host(&[("docker0", &["172.7.22.1/24"])]);
    let found = misplaced(&config(V4), &host, &own("172.7.21.0/24"));
    let leases = [lease("172.7.22.0/24", "192.0.2.22", Some(10))]
        .into_iter()
        .collect();
    assert_eq!(
        told(&found, &leases).unwrap(),
        "docker0 has the address 172.7.22.1/24, which is not in this host's subnet 172.7.21.0/24, but in the lease \
         172.7.22.0/24 of 192.0.2.22 (node 0000000000000000000000000000000a): other hosts do not reach what is behind \
         it; ip address replace 172.7.21.1/24 dev docker0 && ip address del 172.7.22.1/24 dev docker0 (docker: \
         --bip=172.7.21.1/24)"
    );
    let nobodys = told(&found, &Leases::default()).unwrap();
    assert!(nobodys.contains("172.7.21.0/24: other hosts"), "{nobodys}");
}

#[test]
fn only_addresses_in_the_network_and_outside_our_subnet_are_misplaced() {
    let v4 = "172.7.21.0/24";
    let dual = "172.7.21.0/24,fd07:0:0:21::/64";
    for (json, subnet, name, addresses, expected) in [
        (V4, v4, "docker0", &["172.7.22.1/24"][..], &["172.7.22.1/24"][..]),
        (V4, v4, "docker0", &["172.7.0.1/16"], &["172.7.0.1/16"]),
        (V4, v4, "docker0", &["172.7.21.1/24"], &[]),
        (V4, v4, "docker0", &["172.7.21.200/16"], &[]),
        (V4, v4, "docker0", &["172.17.0.1/16"], &[]),
        // Subnet router anycast is a tunnel's, and so is what it was before the subnet changed.
        (V4, v4, "flannel.1", &["172.7.21.0/32"], &[]),
        (V4, v4, "flannel.1", &["172.7.22.0/32"], &[]),
        (V4, v4, "wg0", &["172.7.22.1/32"], &[]),
        (V4, v4, "lo", &["172.7.22.1/24"], &[]),
        (V4, v4, "eth1", &["172.7.22.1/24"], &[]),
        (V4, v4, "docker0", &["fd07:0:0:22::1/64"], &[]),
        (
            DUAL,
            dual,
            "cni0",
            &["172.7.22.1/24", "fd07:0:0:22::1/64", "fe80::5/64"],
            &["172.7.22.1/24", "fd07:0:0:22::1/64"],
        ),
        (DUAL, dual, "cni0", &["172.7.21.1/24", "fd07:0:0:21::1/64"], &[]),
        (V6, "fd07:0:0:21::/64", "cni0", &["fd07:0:0:22::/128"], &[]),
    ] {
        let host = host(&[(name, addresses)]);
        let found = misplaced(&config(json), &host, &own(subnet));
        let found: Vec<IpNet> = found.iter().map(|misplaced| misplaced.address).collect();
        let expected: Vec<IpNet> = expected.iter().map(|text| net(text)).collect();
        assert_eq!(found, expected, "{name} {addresses:?}");
    }
}

#[test]
fn a_second_card_in_the_uplinks_network_is_no_bridge_though_the_hosts_are_inside_the_network() {
    let around = config(
        r#"{"Network":"192.0.0.0/16","SubnetMin":"192.0.100.0","SubnetMax":"192.0.110.0","Backend":{"Type":"host-gw"}}"#,
    );
    let host = host(&[("eth2", &["192.0.2.99/24"]), ("docker0", &["192.0.105.1/24"])]);
    let found = misplaced(&around, &host, &own("192.0.101.0/24"));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].device, device("docker0"));
}

#[test]
fn the_remedy_names_the_first_address_of_the_subnet_as_subnet_env_does() {
    for (json, subnet, address, ought) in [
        (V4, "172.7.21.0/24", "172.7.22.1/24", "172.7.21.1/24"),
        (V4, "172.7.21.64/26", "172.7.22.1/24", "172.7.21.65/26"),
        (V6, "fd07:0:0:21::/64", "fd07:0:0:22::1/64", "fd07:0:0:21::1/64"),
    ] {
        let host = host(&[("cni0", &[address])]);
        let text = told(&misplaced(&config(json), &host, &own(subnet)), &Leases::default()).unwrap();
        assert!(
            text.contains(&format!("ip address replace {ought} dev cni0")),
            "{text}"
        );
    }
}

#[test]
fn of_many_misplaced_addresses_a_few_are_named_and_the_others_counted() {
    let addresses: Vec<String> = (100..110).map(|third| format!("172.7.{third}.1/24")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let host = host(&[("docker0", &addresses)]);
    let text = told(
        &misplaced(&config(V4), &host, &own("172.7.21.0/24")),
        &Leases::default(),
    )
    .unwrap();
    assert!(text.ends_with("; and 6 more"), "{text}");
    assert_eq!(text.matches("has the address").count(), 4);
}

/// A host on which forwarding is switched off so.
fn unforwarding(v4: &[&str], v6: bool) -> Host {
    let mut host = host(&[
        ("cni0", &["172.7.21.1/24", "fd07:0:0:21::1/64"]),
        ("eth2", &["10.0.0.1/8"]),
    ]);
    let unforwarded = Unforwarded {
        v4: v4.iter().map(|name| device(name)).collect(),
        v6,
    };
    let mut facts = HostFacts::clone(&host.facts);
    facts.unforwarded = unforwarded;
    host.facts = Arc::new(facts);
    host
}

#[test]
fn forwarding_is_missed_where_packets_for_pods_come_in_or_packets_from_them() {
    const BOTH: &str = "172.7.21.0/24,fd07:0:0:21::/64";
    for (json, own_subnet, v4, v6, expected) in [
        (DUAL, Some(BOTH), &[][..], false, None),
        (
            V4,
            Some("172.7.21.0/24"),
            &["eth1"],
            true,
            Some("come in by eth1"),
        ),
        (
            V4,
            Some("172.7.21.0/24"),
            &["eth1", "cni0", "eth2"],
            false,
            Some("come in by eth1"),
        ),
        (
            V4,
            Some("172.7.21.0/24"),
            &["cni0"],
            false,
            Some("come in by cni0"),
        ),
        // Of no concern, or of none yet.
        (V4, Some("172.7.21.0/24"), &["eth2"], true, None),
        (V4, None, &["cni0"], false, None),
        (V4, None, &["eth1"], false, Some("come in by eth1")),
        (V6, Some("fd07:0:0:21::/64"), &["eth1", "cni0"], false, None),
        (
            V6,
            Some("fd07:0:0:21::/64"),
            &[],
            true,
            Some("net.ipv6.conf.all.forwarding is 0"),
        ),
    ] {
        let own = own_subnet.map(own);
        let text = forwarding(&config(json), &unforwarding(v4, v6), own.as_ref());
        let as_expected = match (&text, expected) {
            (Some(text), Some(expected)) => text.contains(expected),
            (text, expected) => text.is_none() && expected.is_none(),
        };
        assert!(as_expected, "{json} {v4:?} {v6}: {text:?}");
    }
    let text = forwarding(&config(DUAL), &unforwarding(&["eth1"], true), None).unwrap();
    for command in [
        "sysctl -w net.ipv4.ip_forward=1 net.ipv4.conf.eth1.forwarding=1; IPv6",
        "sysctl -w net.ipv6.conf.all.forwarding=1 (after",
    ] {
        assert!(text.contains(command), "{text}");
    }
}

fn filter(table: &str, chain: &str, families: &[Family], accepts: &[&str]) -> HostFacts {
    let filter = Filter {
        families: families.to_vec(),
        table: table.into(),
        chain: chain.into(),
        accepts: accepts.iter().map(|text| net(text)).collect(),
        ..Filter::default()
    };
    HostFacts {
        filters: vec![filter],
        ..HostFacts::default()
    }
}

#[test]
fn a_chain_that_drops_is_told_of_unless_a_rule_accepts_our_pods() {
    use Family::{V4 as F4, V6 as F6};
    for (json, families, accepts, expected) in [
        (V4, &[F4][..], &[][..], 1),
        (V4, &[F6], &[], 0),
        (V6, &[F6], &[], 1),
        (V6, &[F4, F6], &[], 1),
        (DUAL, &[F4, F6], &[], 2),
        (DUAL, &[F4, F6], &["172.7.0.0/16"], 1),
        (V4, &[F4], &["172.7.0.0/16"], 0),
        (V4, &[F4], &["172.7.21.0/24"], 0),
        (V4, &[F4], &["172.0.0.0/8"], 0),
        (V4, &[F4], &["0.0.0.0/0"], 0),
        // A published port's, another host's, another network's.
        (V4, &[F4], &["172.7.21.2/32", "172.7.22.0/24", "10.0.0.0/8"], 1),
    ] {
        let own = match json {
            V6 => own("fd07:0:0:21::/64"),
            V4 => own("172.7.21.0/24"),
            _ => own("172.7.21.0/24,fd07:0:0:21::/64"),
        };
        let facts = filter("inet filter", "forward", families, accepts);
        let text = filtering(&config(json), &facts, [].iter(), Some(&own)).unwrap_or_default();
        assert_eq!(
            text.matches("may be dropped").count(),
            expected,
            "{json} {families:?} {accepts:?}: {text}"
        );
    }
    // Without a lease the whole network is meant.
    let facts = filter("ip filter", "FORWARD", &[F4], &["172.7.21.0/24"]);
    assert!(filtering(&config(V4), &facts, [].iter(), None).is_some());
}

#[test]
fn the_remedy_for_a_chain_is_in_the_words_of_the_program_that_made_it() {
    use Family::{V4 as F4, V6 as F6};
    for (json, families, table, chain, commands) in [
        (
            V4,
            &[F4][..],
            "ip filter",
            "FORWARD",
            "iptables-nft -I FORWARD -s 172.7.0.0/16 -j ACCEPT && iptables-nft -I FORWARD -d 172.7.0.0/16 -j ACCEPT",
        ),
        (
            V6,
            &[F6],
            "ip6 filter",
            "FORWARD",
            "ip6tables-nft -I FORWARD -s fd07::/48 -j ACCEPT && ip6tables-nft -I FORWARD -d fd07::/48 -j ACCEPT",
        ),
        (
            V4,
            &[F4, F6],
            "inet filter",
            "FORWARD",
            "nft insert rule inet filter FORWARD ip saddr 172.7.0.0/16 accept && nft insert rule inet filter FORWARD \
             ip daddr 172.7.0.0/16 accept",
        ),
        (
            V6,
            &[F6],
            "ip6 mine",
            "fwd",
            "nft insert rule ip6 mine fwd ip6 saddr fd07::/48 accept && nft insert rule ip6 mine fwd ip6 daddr \
             fd07::/48 accept",
        ),
    ] {
        let facts = filter(table, chain, families, &[]);
        let text = filtering(&config(json), &facts, [].iter(), None).unwrap();
        assert!(
            text.contains(&format!("the chain {chain} (table {table}) drops")),
            "{text}"
        );
        assert!(text.ends_with(&format!("; {commands}")), "{text}");
    }
}

#[test]
fn an_address_that_anothers_lease_carries_is_told_of_with_the_holder() {
    let me = NodeId(7);
    for (leases, expected) in [
        (vec![], false),
        (vec![lease("172.7.22.0/24", "192.0.2.22", Some(8))], false),
        (vec![lease("172.7.21.0/24", "192.0.2.21", Some(7))], false),
        (vec![lease("172.7.22.0/24", "192.0.2.21", Some(8))], true),
        (vec![lease("172.7.22.0/24", "192.0.2.21", None)], true),
    ] {
        let text = published_twice(&host(&[]), me, &leases.into_iter().collect());
        assert_eq!(text.is_some(), expected, "{text:?}");
        if let Some(text) = text {
            assert!(
                text.starts_with(
                    "our public address 192.0.2.21 is published by the lease 172.7.22.0/24 of 192.0.2.21"
                ) && text.ends_with("give each host its own --public-ip"),
                "{text}"
            );
        }
    }
}

#[test]
fn a_chain_of_the_older_iptables_is_mended_by_its_own_program() {
    let filter = Filter {
        families: vec![Family::V4],
        table: "ip filter".into(),
        chain: "FORWARD".into(),
        program: Some("iptables-legacy".into()),
        ..Filter::default()
    };
    let text = filtering(&config(V4), &HostFacts::default(), [filter].iter(), None).unwrap();
    let commands = "iptables-legacy -I FORWARD -s 172.7.0.0/16 -j ACCEPT && \
                    iptables-legacy -I FORWARD -d 172.7.0.0/16 -j ACCEPT";
    assert!(text.ends_with(&format!("; {commands}")), "{text}");
}

#[test]
fn a_chain_that_two_ways_of_looking_show_is_told_of_once() {
    let facts = filter("ip filter", "FORWARD", &[Family::V4], &[]);
    let text = filtering(&config(V4), &facts, facts.filters.iter(), None).unwrap();
    assert_eq!(text.matches("may be dropped").count(), 1, "{text}");
}

#[test]
fn what_is_dropped_on_its_way_to_a_device_counts_where_that_has_our_pods() {
    let host = host(&[("docker0", &["172.7.21.1/24"])]);
    let mut facts = HostFacts::clone(&host.facts);
    let dropping = |device: &str| Filter {
        families: vec![Family::V4],
        table: "ip filter".into(),
        chain: "FORWARD".into(),
        device: Some(device.parse().unwrap()),
        ..Filter::default()
    };
    for (device, told) in [("docker0", true), ("eth1", false), ("br-7", false)] {
        facts.filters = vec![dropping(device)];
        let own = own("172.7.21.0/24");
        let text = filtering(&config(V4), &facts, [].iter(), Some(&own));
        let said = format!("on its way to {device},");
        assert_eq!(text.is_some_and(|text| text.contains(&said)), told, "{device}");
    }
}
