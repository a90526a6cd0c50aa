use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{Host, HostFacts, LeaseAttrs, Link, LinkAddress, Range, Uplink};

const MINE: NodeId = NodeId(1);
const THEIRS: NodeId = NodeId(2);
const MY_ADDRESS: &str = "192.0.2.1";
const THEIR_ADDRESS: &str = "192.0.2.2";

fn config(members: &str) -> NetworkConfig {
    NetworkConfig::from_json(&format!(r#"{{{members},"Backend":{{"Type":"host-gw"}}}}"#)).unwrap()
}

/// 15 subnets, from 10.5.1.0/24 to 10.5.15.0/24.
fn small() -> NetworkConfig {
    config(r#""Network":"10.5.0.0/20""#)
}

fn subnet(text: &str) -> SubnetKey {
    text.parse().unwrap()
}

fn v4(address: &str) -> PerFamily<IpAddr> {
    PerFamily {
        v4: Some(address.parse().unwrap()),
        v6: None,
    }
}

fn lease(subnet: SubnetKey, node: Option<NodeId>, public: PerFamily<IpAddr>) -> Lease {
    let attrs = LeaseAttrs {
        public,
        node,
        backend: "host-gw".into(),
        ..LeaseAttrs::default()
    };
    Lease::new(subnet, attrs)
}

fn theirs(text: &str) -> Lease {
    lease(subnet(text), Some(THEIRS), v4(THEIR_ADDRESS))
}

fn identity(node: NodeId, public: PerFamily<IpAddr>) -> Identity {
    Identity {
        node,
        public,
        lost: false,
        neighbours: false,
        undisputed: BTreeSet::new(),
    }
}

fn me() -> Identity {
    identity(MINE, v4(MY_ADDRESS))
}

/// A lease that somebody has signed over the holder's id, to ask whether that lives.
fn asked(text: &str, holder: NodeId, by: NodeId, public: PerFamily<IpAddr>) -> Lease {
    let held = lease(subnet(text), Some(holder), public);
    let attrs = crate::challenge::challenge(&held, by);
    Lease { attrs, ..held }
}

/// What a host needs whose uplink stands in these networks.
fn protected(networks: &[IpNet]) -> Protected {
    let device = "eth0".parse().unwrap();
    let addresses = networks.iter().map(|net| LinkAddress {
        net: *net,
        unusable: false,
        permanent: true,
        temporary: false,
    });
    let link = Link {
        name: device,
        index: 2,
        mtu: 1500,
        up: true,
        loopback: false,
        mac: None,
        strict_reverse_path: false,
        addresses: addresses.collect(),
    };
    let uplink = Uplink {
        device,
        mtu: 1500,
        addresses: PerFamily::NONE,
        public: PerFamily::NONE,
    };
    let facts = HostFacts {
        links: vec![link],
        ..HostFacts::default()
    };
    let host = Host {
        node: NodeId(1),
        uplink,
        facts: Arc::new(facts),
    };
    Protected::of(&host, &[])
}

/// The choice in few words: `keep S`, `take S (why)`, `create S`, or the message.
fn outcome(choice: &Choice) -> String {
    match choice {
        Choice::Keep(lease) => format!("keep {}", lease.subnet),
        Choice::TakeOver { lease, why } => format!("take {} ({why:?})", lease.subnet),
        Choice::Challenge(lease) => format!("challenge {}", lease.subnet),
        Choice::Contested(lease) => format!("contested {}", lease.subnet),
        Choice::Create(subnet) => format!("create {subnet}"),
        Choice::Wait(why) => why.to_string(),
    }
}

fn chosen(leases: Vec<Lease>, me: &Identity, wish: &Wish) -> String {
    let leases = leases.into_iter().collect();
    outcome(&choose(&small(), &leases, me, wish, &Protected::default()))
}

#[test]
fn who_a_lease_says_it_belongs_to_decides_whether_it_is_mine() {
    let wish = Wish {
        previous: Some(subnet("10.5.9.0/24")),
        ..Wish::default()
    };
    let free = "create 10.5.9.0/24";
    // Node id, public address, whether a lease was lost before; what becomes of 10.5.3.0/24.
    for (node, public, lost, expected) in [
        (Some(MINE), MY_ADDRESS, false, "keep 10.5.3.0/24"),
        (Some(MINE), MY_ADDRESS, true, "keep 10.5.3.0/24"),
        (Some(MINE), THEIR_ADDRESS, false, "take 10.5.3.0/24 (Readdressed)"),
        (Some(MINE), THEIR_ADDRESS, true, free),
        (None, MY_ADDRESS, false, "take 10.5.3.0/24 (Unnamed)"),
        (None, MY_ADDRESS, true, "take 10.5.3.0/24 (Unnamed)"),
        (None, THEIR_ADDRESS, false, free),
        (Some(THEIRS), MY_ADDRESS, false, "challenge 10.5.3.0/24"),
        (Some(THEIRS), MY_ADDRESS, true, "challenge 10.5.3.0/24"),
        (Some(THEIRS), THEIR_ADDRESS, false, free),
    ] {
        let me = Identity { lost, ..me() };
        let found = lease(subnet("10.5.3.0/24"), node, v4(public));
        assert_eq!(
            chosen(vec![found], &me, &wish),
            expected,
            "{node:?} {public} {lost}"
        );
    }
}

#[test]
fn of_several_leases_the_strongest_claim_wins() {
    let plain = |text: &str, node, public| lease(subnet(text), node, v4(public));
    type Held<'a> = &'a dyn Fn(&str) -> Lease;
    let claims: [(Held<'_>, &str); 5] = [
        (&|text| plain(text, Some(MINE), MY_ADDRESS), "keep 10.5.9.0/24"),
        (
            &|text| asked(text, MINE, THEIRS, v4(MY_ADDRESS)),
            "take 10.5.9.0/24 (Claimed)",
        ),
        (
            &|text| plain(text, Some(MINE), THEIR_ADDRESS),
            "take 10.5.9.0/24 (Readdressed)",
        ),
        (
            &|text| plain(text, None, MY_ADDRESS),
            "take 10.5.9.0/24 (Unnamed)",
        ),
        (
            &|text| asked(text, THEIRS, MINE, v4(MY_ADDRESS)),
            "keep 10.5.9.0/24",
        ),
    ];
    for (strongest, (_, expected)) in claims.iter().enumerate() {
        // The weaker the claim, the lower the subnet: order of subnets must not decide.
        let leases = claims.iter().skip(strongest).enumerate();
        let leases = leases.map(|(place, (lease, _))| lease(&format!("10.5.{}.0/24", 9 - place)));
        let leases: Vec<Lease> = leases.collect();
        let me = Identity {
            undisputed: leases.iter().map(|lease| lease.subnet).collect(),
            ..me()
        };
        assert_eq!(chosen(leases, &me, &Wish::default()), *expected);
    }
}

#[test]
fn nothing_is_published_twice_while_the_holder_of_a_lease_with_my_address_may_live() {
    let rival = || lease(subnet("10.5.3.0/24"), Some(THEIRS), v4(MY_ADDRESS));
    let mine = |public| lease(subnet("10.5.9.0/24"), Some(MINE), v4(public));
    let contested = || asked("10.5.3.0/24", THEIRS, MINE, v4(MY_ADDRESS));
    let neighbours = Identity {
        neighbours: true,
        ..me()
    };
    let undisputed = Identity {
        undisputed: [subnet("10.5.3.0/24")].into(),
        ..me()
    };
    let refused = "our public address 192.0.2.1 is published by the lease 10.5.3.0/24 of 192.0.2.1 (node \
                   00000000000000000000000000000002), and is no address of this host; give this host its own \
                   --public-ip, or leave that out";
    let unnamed = lease(subnet("10.5.3.0/24"), None, v4(MY_ADDRESS));
    let from_flannel = refused.replace(" (node 00000000000000000000000000000002)", "");
    for (leases, me, expected) in [
        (vec![rival()], me(), "challenge 10.5.3.0/24"),
        // A lease of its own does not save a host that has since been given another's address.
        (vec![rival(), mine(THEIR_ADDRESS)], me(), "challenge 10.5.3.0/24"),
        // But one that it holds as it stands is its own, whatever another has written since.
        (vec![rival(), mine(MY_ADDRESS)], me(), "keep 10.5.9.0/24"),
        (vec![contested()], me(), "contested 10.5.3.0/24"),
        (vec![contested()], undisputed, "keep 10.5.3.0/24"),
        // A twin asks about its own address.
        (
            vec![
                asked("10.5.3.0/24", THEIRS, MINE, v4(THEIR_ADDRESS)),
                mine(MY_ADDRESS),
            ],
            me(),
            "keep 10.5.9.0/24",
        ),
        (vec![rival()], neighbours.clone(), refused),
        (vec![unnamed], neighbours.clone(), &from_flannel),
        (vec![mine(MY_ADDRESS)], neighbours, "keep 10.5.9.0/24"),
    ] {
        let stand = format!("{leases:?}");
        assert_eq!(chosen(leases, &me, &Wish::default()), expected, "{stand}");
    }
    // Alone it is no reason to wait, and nobody's to take.
    let twins = asked("10.5.3.0/24", THEIRS, MINE, v4(THEIR_ADDRESS));
    let me = Identity {
        undisputed: [subnet("10.5.3.0/24")].into(),
        ..me()
    };
    let outcome = chosen(vec![twins], &me, &Wish::default());
    assert!(outcome.starts_with("create"), "{outcome}");
}

#[test]
fn of_several_leases_with_my_address_the_one_that_was_mine_before_is_challenged() {
    let rival = |text| lease(subnet(text), Some(THEIRS), v4(MY_ADDRESS));
    let both = || vec![rival("10.5.3.0/24"), rival("10.5.7.0/24")];
    let wished = Some(subnet("10.5.7.0/24"));
    let before = Wish {
        previous: wished,
        ..Wish::default()
    };
    let pinned = Wish {
        pinned: wished,
        ..Wish::default()
    };
    for (wish, expected) in [
        (Wish::default(), "10.5.3.0/24"),
        (before, "10.5.7.0/24"),
        (pinned, "10.5.7.0/24"),
    ] {
        assert_eq!(chosen(both(), &me(), &wish), format!("challenge {expected}"));
    }
}

#[test]
fn one_family_in_common_is_enough_for_two_hosts_to_be_in_each_others_way() {
    let dual = |v4: &str, v6: &str| PerFamily {
        v4: v4.parse().ok(),
        v6: v6.parse().ok(),
    };
    let me = identity(MINE, dual(MY_ADDRESS, "fd00::1"));
    let config = config(r#""Network":"10.5.0.0/20","EnableIPv6":true,"IPv6Network":"fd00:5::/56""#);
    for (theirs, flag) in [
        (dual(MY_ADDRESS, "fd00::2"), Some("--public-ip,")),
        (dual(THEIR_ADDRESS, "fd00::1"), Some("--public-ipv6,")),
        (dual(THEIR_ADDRESS, "fd00::2"), None),
    ] {
        let rival = lease(subnet("10.5.3.0/24,fd00:5:0:3::/64"), Some(THEIRS), theirs);
        let leases: Leases = [rival].into_iter().collect();
        let choice = choose(&config, &leases, &me, &Wish::default(), &Protected::default());
        assert_eq!(
            matches!(choice, Choice::Challenge(_)),
            flag.is_some(),
            "{theirs:?}"
        );
        let neighbours = Identity {
            neighbours: true,
            ..me.clone()
        };
        let choice = choose(
            &config,
            &leases,
            &neighbours,
            &Wish::default(),
            &Protected::default(),
        );
        assert!(
            flag.is_none_or(|flag| outcome(&choice).contains(flag)),
            "{}",
            outcome(&choice)
        );
    }
}

#[test]
fn of_two_leases_that_are_mine_alike_the_one_in_use_is_kept() {
    let mine = |text| lease(subnet(text), Some(MINE), v4(MY_ADDRESS));
    let wish = Wish {
        previous: Some(subnet("10.5.7.0/24")),
        ..Wish::default()
    };
    let both = vec![mine("10.5.3.0/24"), mine("10.5.7.0/24")];
    assert_eq!(chosen(both, &me(), &wish), "keep 10.5.7.0/24");
}

#[test]
fn without_an_address_of_its_own_a_host_owns_nothing_by_address() {
    let nobody = Identity {
        public: PerFamily::NONE,
        ..me()
    };
    let unnamed = lease(subnet("10.5.3.0/24"), None, PerFamily::NONE);
    let outcome = chosen(vec![unnamed], &nobody, &Wish::default());
    assert!(outcome.starts_with("create"), "{outcome}");
}

#[test]
fn an_address_is_mine_only_if_it_is_mine_in_every_family() {
    let dual = |v6: &str| PerFamily {
        v6: Some(v6.parse().unwrap()),
        ..v4(MY_ADDRESS)
    };
    let me = Identity {
        public: dual("fd00::1"),
        ..me()
    };
    let config = config(r#""Network":"10.5.0.0/20","EnableIPv6":true,"IPv6Network":"fd00:5::/56""#);
    let held = subnet("10.5.3.0/24,fd00:5:0:3::/64");
    for (public, expected) in [("fd00::1", "take"), ("fd00::2", "create")] {
        let leases = [lease(held, None, dual(public))].into_iter().collect();
        let choice = choose(&config, &leases, &me, &Wish::default(), &Protected::default());
        assert!(
            outcome(&choice).starts_with(expected),
            "{public}: {}",
            outcome(&choice)
        );
    }
}

#[test]
fn a_lease_of_mine_that_the_network_no_longer_gives_out_is_left_to_expire() {
    for text in ["10.6.3.0/24", "10.5.3.0/25", "10.5.0.0/24"] {
        let outdated = lease(subnet(text), Some(MINE), v4(MY_ADDRESS));
        let wish = Wish {
            previous: Some(subnet("10.5.9.0/24")),
            ..Wish::default()
        };
        assert_eq!(
            chosen(vec![outdated], &me(), &wish),
            "create 10.5.9.0/24",
            "{text}"
        );
    }
}

#[test]
fn a_lease_of_mine_that_came_to_cover_the_hosts_network_is_given_up() {
    let leases = [lease(subnet("10.5.3.0/24"), Some(MINE), v4(MY_ADDRESS))];
    let protected = protected(&["10.5.3.7/25".parse().unwrap()]);
    let wish = Wish {
        previous: Some(subnet("10.5.3.0/24")),
        ..Wish::default()
    };
    let choice = choose(&small(), &leases.into_iter().collect(), &me(), &wish, &protected);
    assert!(
        matches!(choice, Choice::Create(other) if other != subnet("10.5.3.0/24")),
        "{}",
        outcome(&choice)
    );
}

#[test]
fn the_previous_subnet_is_taken_again_only_while_it_is_free_and_given_out() {
    for (previous, taken, again) in [
        ("10.5.9.0/24", None, true),
        ("10.5.9.0/24", Some("10.5.9.0/24"), false),
        ("10.5.9.0/24", Some("10.5.8.0/23"), false),
        ("10.5.9.0/24", Some("10.5.9.128/25"), false),
        ("10.5.9.0/24", Some("10.5.8.0/24"), true),
        ("10.5.0.0/24", None, false),
        ("10.6.9.0/24", None, false),
        ("10.5.9.0/25", None, false),
    ] {
        let wish = Wish {
            previous: Some(subnet(previous)),
            ..Wish::default()
        };
        let leases = taken.map(theirs).into_iter().collect();
        let outcome = chosen(leases, &me(), &wish);
        assert!(outcome.starts_with("create"), "{outcome}");
        assert_eq!(
            outcome == format!("create {previous}"),
            again,
            "{previous} {taken:?}: {outcome}"
        );
    }
}

#[test]
fn the_previous_subnet_is_left_once_it_covers_the_hosts_network() {
    let protected = protected(&["10.5.9.77/26".parse().unwrap()]);
    let wish = Wish {
        previous: Some(subnet("10.5.9.0/24")),
        ..Wish::default()
    };
    let choice = choose(&small(), &Leases::default(), &me(), &wish, &protected);
    assert!(
        matches!(choice, Choice::Create(other) if other != subnet("10.5.9.0/24")),
        "{}",
        outcome(&choice)
    );
}

#[test]
fn a_subnet_that_was_just_lost_to_another_is_not_tried_again() {
    let previous = subnet("10.5.9.0/24");
    let wish = Wish {
        previous: Some(previous),
        taken: [previous].into(),
        ..Wish::default()
    };
    let outcome = chosen(vec![], &me(), &wish);
    assert!(
        outcome.starts_with("create") && outcome != "create 10.5.9.0/24",
        "{outcome}"
    );
}

#[test]
fn a_pinned_subnet_is_had_or_waited_for_and_never_replaced_by_another() {
    let mine = |text| lease(subnet(text), Some(MINE), v4(MY_ADDRESS));
    let unnamed = lease(subnet("10.5.9.0/24"), None, v4(MY_ADDRESS));
    let wait = |by: &str| {
        format!(
            "the pinned subnet 10.5.9.0/24 is taken by the lease {by} of 192.0.2.2 (node \
             00000000000000000000000000000002); waiting until it is free: pin another, or remove that lease if its \
             host is gone"
        )
    };
    let create = "create 10.5.9.0/24".to_owned();
    for (leases, expected) in [
        (vec![], create.clone()),
        (vec![mine("10.5.9.0/24")], "keep 10.5.9.0/24".into()),
        (vec![unnamed], "take 10.5.9.0/24 (Unnamed)".into()),
        (vec![mine("10.5.3.0/24")], create),
        (vec![theirs("10.5.9.0/24")], wait("10.5.9.0/24")),
        (
            vec![mine("10.5.3.0/24"), theirs("10.5.9.0/24")],
            wait("10.5.9.0/24"),
        ),
        (vec![theirs("10.5.8.0/22")], wait("10.5.8.0/22")),
        (vec![theirs("10.5.9.16/28")], wait("10.5.9.16/28")),
    ] {
        let wish = Wish {
            pinned: Some(subnet("10.5.9.0/24")),
            previous: Some(subnet("10.5.4.0/24")),
            ..Wish::default()
        };
        let stand = format!("{leases:?}");
        assert_eq!(chosen(leases, &me(), &wish), expected, "{stand}");
    }
}

#[test]
fn a_pinned_subnet_that_cannot_be_had_is_waited_for_with_the_reason() {
    let network = protected(&["10.5.9.77/26".parse().unwrap()]);
    for (pinned, taken, protected, expected) in [
        (
            "10.5.0.0/24",
            None,
            &network,
            "the pinned subnet 10.5.0.0/24 is none that the network config gives out",
        ),
        (
            "10.5.9.0/25",
            None,
            &network,
            "the pinned subnet 10.5.9.0/25 is none that the network config gives out",
        ),
        (
            "10.5.9.0/24",
            None,
            &network,
            "the pinned subnet 10.5.9.0/24 covers the network 10.5.9.64/26 of eth0",
        ),
        (
            "10.5.7.0/24",
            Some("10.5.7.0/24"),
            &network,
            "the pinned subnet 10.5.7.0/24 is taken by the lease 10.5.7.0/24, which is not shown yet; waiting until it \
             is free",
        ),
    ] {
        let wish = Wish {
            pinned: Some(subnet(pinned)),
            taken: taken.map(subnet).into_iter().collect(),
            ..Wish::default()
        };
        let choice = choose(&small(), &Leases::default(), &me(), &wish, protected);
        assert_eq!(outcome(&choice), expected, "{pinned}");
    }
}

#[test]
fn the_subnets_of_both_families_are_picked_together_and_each_is_free() {
    let config = config(r#""Network":"10.5.0.0/22","EnableIPv6":true,"IPv6Network":"fd00:5::/62""#);
    let mut leases = Leases::default();
    for host in 0..3 {
        let wish = Wish {
            seed: host,
            ..Wish::default()
        };
        let Choice::Create(subnet) = choose(&config, &leases, &me(), &wish, &Protected::default()) else {
            panic!("host {host} was given nothing");
        };
        assert!(config.gives_out(&subnet), "{subnet}");
        assert!(leases.overlapping(&subnet).is_empty(), "{subnet}");
        leases.insert(lease(subnet, Some(THEIRS), v4(THEIR_ADDRESS)));
    }
    let last = choose(&config, &leases, &me(), &Wish::default(), &Protected::default());
    assert!(outcome(&last).starts_with("out of subnets"), "{}", outcome(&last));
}

#[test]
fn two_hosts_that_pick_at_once_pick_one_key_or_share_no_address() {
    // What is leased or harmful in one family leaves a gap in both, and the shorter range decides.
    let leases = ["10.5.2.0/24,fd00:5:0:2::/64", "10.5.6.0/24", "fd00:5:0:9::/64"];
    let leases = leases.into_iter().map(theirs).collect();
    let protected = protected(&["10.5.12.7/24".parse().unwrap()]);
    for (v4, v6) in [("10.5.0.0/20", "fd00:5::/56"), ("10.5.0.0/16", "fd00:5::/60")] {
        let config = config(&format!(
            r#""Network":"{v4}","EnableIPv6":true,"IPv6Network":"{v6}""#
        ));
        let picks: BTreeSet<SubnetKey> = (0..500)
            .filter_map(|seed| {
                let wish = Wish {
                    seed,
                    ..Wish::default()
                };
                match choose(&config, &leases, &me(), &wish, &protected) {
                    Choice::Create(subnet) => Some(subnet),
                    _ => None,
                }
            })
            .collect();
        assert_eq!(picks.len(), 11);
        for one in &picks {
            assert!(leases.overlapping(one).is_empty() && first_hit(one, &protected).is_none());
            assert!(picks.iter().all(|other| one == other || !one.overlaps(other)));
        }
    }
}

#[test]
fn where_no_pair_is_left_each_family_is_picked_for_itself() {
    let config = config(r#""Network":"10.5.0.0/22","EnableIPv6":true,"IPv6Network":"fd00:5::/62""#);
    let crossed = ["10.5.1.0/24,fd00:5:0:2::/64", "10.5.2.0/24,fd00:5:0:3::/64"];
    let leases = crossed.into_iter().map(theirs).collect();
    let choice = choose(&config, &leases, &me(), &Wish::default(), &Protected::default());
    assert_eq!(outcome(&choice), "create 10.5.3.0/24,fd00:5:0:1::/64");
}

#[test]
fn one_family_without_a_free_subnet_is_enough_to_wait() {
    let config = config(r#""Network":"10.5.0.0/22","EnableIPv6":true,"IPv6Network":"fd00:5::/48""#);
    let full = (1..=3).map(|third| theirs(&format!("10.5.{third}.0/24,fd00:5:0:{third}::/64")));
    let choice = choose(
        &config,
        &full.collect(),
        &me(),
        &Wish::default(),
        &Protected::default(),
    );
    assert!(matches!(choice, Choice::Wait(Unavailable::OutOfSubnets)));
}

#[test]
fn a_hundred_hosts_share_out_a_hundred_subnets() {
    let config = config(r#""Network":"10.5.0.0/16","SubnetMin":"10.5.100.0","SubnetMax":"10.5.199.0""#);
    let mut leases = Leases::default();
    for host in 0..100 {
        let me = identity(NodeId(host), v4(&format!("192.0.2.{host}")));
        let wish = Wish {
            seed: host as u64,
            ..Wish::default()
        };
        let choice = choose(&config, &leases, &me, &wish, &Protected::default());
        let Choice::Create(subnet) = choice else {
            panic!("host {host}: {}", outcome(&choice));
        };
        assert!(config.gives_out(&subnet), "{subnet}");
        let before = leases.insert(lease(subnet, Some(me.node), me.public));
        assert!(before.is_none(), "{subnet} was given out twice");
    }
    let late = identity(NodeId(100), v4("192.0.2.100"));
    let choice = choose(&config, &leases, &late, &Wish::default(), &Protected::default());
    assert!(matches!(choice, Choice::Wait(Unavailable::OutOfSubnets)));
}

#[test]
fn hosts_that_start_together_spread_over_the_first_hundred_free_subnets() {
    let config = config(r#""Network":"10.5.0.0/16""#);
    let range = config.ranges.v4.unwrap();
    let picks: BTreeSet<_> = (0..2000)
        .map(|seed| {
            let wish = Wish {
                seed,
                ..Wish::default()
            };
            match choose(&config, &Leases::default(), &me(), &wish, &Protected::default()) {
                Choice::Create(subnet) => subnet,
                other => panic!("{}", outcome(&other)),
            }
        })
        .collect();
    assert_eq!(picks.len(), 100);
    assert!(picks.iter().next_back() < Some(&subnet("10.5.101.0/24")));
    assert!(range.nth(100).is_some(), "there were more to pick from");
}

#[test]
fn a_network_that_contains_the_hosts_gives_out_what_is_apart_from_them() {
    let config = config(r#""Network":"10.0.0.0/8","SubnetMin":"10.10.0.0","SubnetMax":"10.10.3.0""#);
    for (network, expected) in [
        (
            "10.0.0.7/16",
            vec!["10.10.0.0/24", "10.10.1.0/24", "10.10.2.0/24", "10.10.3.0/24"],
        ),
        ("10.10.0.9/23", vec!["10.10.2.0/24", "10.10.3.0/24"]),
        (
            "10.10.2.9/30",
            vec!["10.10.0.0/24", "10.10.1.0/24", "10.10.3.0/24"],
        ),
    ] {
        let protected = protected(&[network.parse().unwrap()]);
        let picks: BTreeSet<_> = (0..200)
            .map(|seed| {
                let wish = Wish {
                    seed,
                    ..Wish::default()
                };
                outcome(&choose(&config, &Leases::default(), &me(), &wish, &protected))
            })
            .collect();
        let expected: BTreeSet<_> = expected.iter().map(|net| format!("create {net}")).collect();
        assert_eq!(picks, expected, "{network}");
    }
}

#[test]
fn free_subnets_that_all_cover_the_hosts_network_are_named_with_what_they_cover() {
    let leases = (1..=7)
        .map(|third| theirs(&format!("10.5.{third}.0/24")))
        .collect();
    let protected = protected(&["10.5.8.1/21".parse().unwrap()]);
    let choice = choose(&small(), &leases, &me(), &Wish::default(), &protected);
    assert_eq!(
        outcome(&choice),
        "no subnet is free of the host's own networks: 10.5.8.0/24 covers the network 10.5.8.0/21 of eth0"
    );
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
fn a_full_network_of_65_000_leases_is_searched_at_once() {
    let config = config(r#""Network":"10.0.0.0/8""#);
    let range = config.ranges.v4.unwrap();
    let all = (0..range.count()).filter_map(|index| range.nth(index));
    let full: Leases = all
        .map(|net| theirs(&net.to_string()))
        .filter(|lease| lease.subnet != subnet("10.255.254.0/24"))
        .collect();
    assert_eq!(full.len(), 65_534);
    let time = shortest(|| {
        let choice = choose(&config, &full, &me(), &Wish::default(), &Protected::default());
        assert_eq!(outcome(&choice), "create 10.255.254.0/24");
    });
    // Unoptimised; to look up every subnet on its own takes fifty times as long.
    assert!(time < Duration::from_millis(200), "{time:?}");
}

#[test]
fn one_wide_lease_or_network_does_not_make_the_search_endless() {
    let config = config(r#""EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/16""#);
    // 2^48 subnets, of which all but the last are gone.
    let wide: Vec<IpNet> = (17..=64)
        .map(|len| {
            let number = (0xfd00_u128 << 112) | (((1 << (len - 17)) - 1) << (129 - len));
            IpNet::new(Family::V6.address(number), len).unwrap()
        })
        .collect();
    let last = "create fd00:ffff:ffff:ffff::/64";
    let leases = wide
        .iter()
        .map(|net| theirs(&net.to_string()))
        .collect::<Leases>();
    let by_lease = choose(&config, &leases, &me(), &Wish::default(), &Protected::default());
    let by_network = choose(
        &config,
        &Leases::default(),
        &me(),
        &Wish::default(),
        &protected(&wide),
    );
    assert_eq!(outcome(&by_lease), last);
    assert_eq!(outcome(&by_network), last);
}

/// A prefix in or near the network of [`any_config`].
fn any_net(family: Family) -> impl Strategy<Value = IpNet> {
    (0u128..1 << 13, 18u8..=29).prop_map(move |(low, len)| {
        let base = match family {
            Family::V4 => 0x0a05_0000,
            Family::V6 => 0xfd00 << 112,
        };
        let len = len + family.bits() - Family::V4.bits();
        IpNet::new(family.address(base | low), len).unwrap().trunc()
    })
}

fn any_subnet() -> impl Strategy<Value = SubnetKey> {
    let part = |family| proptest::option::weighted(0.8, any_net(family));
    (part(Family::V4), part(Family::V6)).prop_filter_map("a part", |(v4, v6)| {
        let parts: Vec<_> = [v4, v6].iter().flatten().map(ToString::to_string).collect();
        parts.join(",").parse().ok()
    })
}

/// IPv4, IPv6 or both, cut into 4 to 64 subnets.
fn any_config() -> impl Strategy<Value = NetworkConfig> {
    (1u8..=3, 22u8..=26).prop_map(|(families, len)| {
        config(&format!(
            r#""EnableIPv4":{},"Network":"10.5.0.0/20","SubnetLen":{len},
               "EnableIPv6":{},"IPv6Network":"fd00::/116","IPv6SubnetLen":{}"#,
            families & 1 != 0,
            families & 2 != 0,
            len + 96,
        ))
    })
}

fn any_lease() -> impl Strategy<Value = Lease> {
    let node = proptest::option::of((1u128..4).prop_map(NodeId));
    (any_subnet(), node, 1u8..4)
        .prop_map(|(subnet, node, host)| lease(subnet, node, v4(&format!("192.0.2.{host}"))))
}

fn any_wish() -> impl Strategy<Value = Wish> {
    let taken = proptest::collection::btree_set(any_subnet(), 0..3);
    let previous = proptest::option::of(any_subnet());
    (previous, taken, any::<u64>()).prop_map(|(previous, taken, seed)| Wish {
        pinned: None,
        previous,
        taken,
        seed,
    })
}

/// Looks at every subnet of the range on its own.
fn free_by_hand(range: &Range, leases: &Leases, wish: &Wish) -> Vec<IpNet> {
    let subnets = (0..range.count()).filter_map(|index| range.nth(index));
    subnets
        .filter(|net| !leases.iter().any(|lease| lease.subnet.overlaps_net(*net)))
        .filter(|net| !wish.taken.iter().any(|taken| taken.overlaps_net(*net)))
        .collect()
}

proptest! {
    #[test]
    fn what_is_created_is_free_and_nothing_is_waited_for_that_is_free(
        config in any_config(),
        leases in proptest::collection::vec(any_lease(), 0..12),
        networks in proptest::collection::vec(any_net(Family::V4).boxed().prop_union(any_net(Family::V6).boxed()), 0..4),
        wish in any_wish(),
        pinned in proptest::option::weighted(0.2, any_subnet()),
        lost in any::<bool>(),
    ) {
        let leases: Leases = leases.into_iter().collect();
        let protected = protected(&networks);
        let wish = Wish { pinned, ..wish };
        let me = Identity { lost, ..me() };
        let choice = choose(&config, &leases, &me, &wish, &protected);
        let of_families = |wanted: &dyn Fn(&IpNet) -> bool| {
            config.ranges.iter().all(|(_, range)| free_by_hand(range, &leases, &wish).iter().any(wanted))
        };
        match &choice {
            Choice::Create(subnet) => {
                prop_assert!(config.gives_out(subnet));
                prop_assert!(leases.get(subnet).is_none());
                prop_assert!(leases.overlapping(subnet).is_empty());
                prop_assert!(!wish.taken.iter().any(|taken| taken.overlaps(subnet)));
            }
            Choice::Keep(lease) | Choice::TakeOver { lease, .. } => {
                prop_assert!(config.gives_out(&lease.subnet));
                prop_assert!(leases.get(&lease.subnet).is_some());
                prop_assert!(lease.attrs.node == Some(MINE) || lease.attrs.public == me.public);
            }
            Choice::Wait(Unavailable::OutOfSubnets) => prop_assert!(!of_families(&|_| true)),
            Choice::Wait(Unavailable::AllProtected { subnet, .. }) => {
                prop_assert!(protected.hit(*subnet).is_some());
                prop_assert!(!of_families(&|net| protected.hit(*net).is_none()));
            }
            Choice::Challenge(lease) => {
                prop_assert!(lease.attrs.node.is_some_and(|node| node != MINE));
                prop_assert!(lease.attrs.public.v4 == me.public.v4);
            }
            Choice::Contested(_) => prop_assert!(false, "nobody has been challenged"),
            Choice::Wait(_) => prop_assert!(wish.pinned.is_some()),
        }
        let subnet = match choice {
            Choice::Keep(lease) | Choice::TakeOver { lease, .. } => lease.subnet,
            Choice::Create(subnet) => subnet,
            Choice::Challenge(_) | Choice::Contested(_) | Choice::Wait(_) => return Ok(()),
        };
        prop_assert!(subnet.nets().all(|net| protected.hit(net).is_none()));
        prop_assert!(wish.pinned.is_none_or(|pinned| pinned == subnet));
    }
}
