use std::collections::BTreeMap;
use std::net::IpAddr;

use flannel_core::PerFamily;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;
use crate::nat::decide;

/// Every rule that there can be.
pub(crate) const ALL: RuleOptions = RuleOptions {
    masquerade: true,
    forward: true,
    random_fully: true,
};

/// A network of both families.
pub(crate) fn pods() -> PodNetwork {
    let net = |text: &str| Some(text.parse().unwrap());
    PodNetwork {
        networks: PerFamily {
            v4: net("10.244.0.0/16"),
            v6: net("fd00:244::/48"),
        },
        subnets: PerFamily {
            v4: net("10.244.7.0/24"),
            v6: net("fd00:244:0:7::/64"),
        },
        ..PodNetwork::default()
    }
}

/// The address of a network with these host bits.
fn inside(net: IpNet, bits: u128) -> IpAddr {
    match net {
        IpNet::V4(net) => {
            let mask = u32::from(net.hostmask());
            let bits = u32::try_from(bits & u128::from(mask)).unwrap();
            IpAddr::V4((u32::from(net.network()) | bits).into())
        }
        IpNet::V6(net) => {
            let bits = bits & u128::from(net.hostmask());
            IpAddr::V6((u128::from(net.network()) | bits).into())
        }
    }
}

fn subnet_of(net: IpNet, bits: u128, longer: u8) -> IpNet {
    let most = Family::of_net(net).bits();
    IpNet::new(inside(net, bits), (net.prefix_len() + longer).min(most))
        .unwrap()
        .trunc()
}

fn any_family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::V4), Just(Family::V6)]
}

/// Mostly a network as people have them, at times everything or a single address.
pub(crate) fn any_net(family: Family) -> impl Strategy<Value = IpNet> {
    let usual = match family {
        Family::V4 => 8..=24_u8,
        Family::V6 => 16..=64,
    };
    let length = prop_oneof![8 => usual, 1 => Just(0), 1 => Just(family.bits())];
    (any::<u128>(), length).prop_map(move |(bits, length)| {
        let everything = IpNet::new(family.unspecified(), 0).unwrap();
        IpNet::new(inside(everything, bits), length).unwrap().trunc()
    })
}

/// Pods of one family, with ranges inside of the network and outside, and of the other family.
pub(crate) fn any_pods(family: Family) -> impl Strategy<Value = PodNetwork> {
    let ranges = vec((any::<u128>(), 1..=16_u8), 0..3);
    let foreign = vec(any_family().prop_flat_map(any_net), 0..3);
    (any_net(family), any::<u128>(), 0..=8_u8, ranges, foreign).prop_map(
        move |(network, bits, longer, ranges, mut unmasqueraded)| {
            let within = ranges
                .iter()
                .map(|(bits, longer)| subnet_of(network, *bits, *longer));
            unmasqueraded.extend(within);
            let mut pods = PodNetwork {
                unmasqueraded,
                ..PodNetwork::default()
            };
            let of_family = |net| PerFamily::from_fn(|of| (of == family).then_some(net));
            pods.networks = of_family(network);
            pods.subnets = of_family(subnet_of(network, bits, longer));
            pods
        },
    )
}

/// Options, rules and all.
pub(crate) fn any_rules() -> impl Strategy<Value = Ruleset> {
    let options = any::<[bool; 3]>().prop_map(|[masquerade, forward, random_fully]| RuleOptions {
        masquerade,
        forward,
        random_fully,
    });
    (any_family(), options).prop_flat_map(|(family, options)| {
        any_pods(family).prop_map(move |pods| Ruleset::for_pods(family, &pods, options))
    })
}

/// Addresses are drawn from what rules speak of.
fn any_flow() -> impl Strategy<Value = (PodNetwork, Flow)> {
    any_family().prop_flat_map(any_pods).prop_flat_map(|pods| {
        let nets = || pods.networks.iter().chain(pods.subnets.iter());
        let (family, network) = nets().next().unwrap();
        let everything = IpNet::new(family.unspecified(), 0).unwrap();
        let mut places: Vec<IpNet> = nets().map(|(_, net)| *net).collect();
        places.extend([*network, everything, everything, multicast(family)]);
        places.extend(
            pods.unmasqueraded
                .iter()
                .filter(|net| Family::of_net(**net) == family),
        );
        let address = || {
            let net = prop::sample::select(places.clone());
            (net, any::<u128>()).prop_map(|(net, bits)| inside(net, bits))
        };
        let mark = prop_oneof![3 => Just(0), 1 => Just(0x4000), 1 => any::<u32>()];
        (Just(pods.clone()), address(), address(), mark).prop_map(|(pods, source, destination, mark)| {
            let flow = Flow {
                source,
                destination,
                mark,
            };
            (pods, flow)
        })
    })
}

#[test]
fn the_rules_do_what_is_decided_wherever_packets_come_from_and_go() {
    let mut runner = TestRunner::deterministic();
    let flows = any_flow();
    let mut kinds: BTreeMap<_, u32> = BTreeMap::new();
    for _ in 0..20_000 {
        let (pods, flow) = flows.new_tree(&mut runner).unwrap().current();
        let family = Family::of(flow.source);
        let rules = Ruleset::for_pods(family, &pods, ALL);
        assert_eq!(rules.nat(&flow), decide(&flow, &pods), "{flow:?}, {pods:?}");

        let (network, subnet) = (
            pods.networks.get(family).unwrap(),
            pods.subnets.get(family).unwrap(),
        );
        let place = |address: &IpAddr| match address {
            _ if subnet.contains(address) => "a pod of this host",
            _ if network.contains(address) => "the network",
            _ if multicast(family).contains(address) => "a group",
            _ if pods.unmasqueraded.iter().any(|range| range.contains(address)) => "a range",
            _ => "outside",
        };
        let marked = flow.mark & KUBE_PROXY_MARK != 0;
        *kinds
            .entry((place(&flow.source), place(&flow.destination), marked))
            .or_default() += 1;
    }
    // Every place to every place, with the mark and without: each often enough to be sure.
    assert_eq!(kinds.len(), 5 * 5 * 2, "{kinds:#?}");
    assert!(kinds.values().all(|times| *times >= 20), "{kinds:#?}");
}

#[test]
fn chains_are_empty_that_are_not_asked_for() {
    let pods = PodNetwork {
        networks: PerFamily {
            v4: Some("10.244.0.0/16".parse().unwrap()),
            v6: None,
        },
        subnets: PerFamily {
            v4: Some("10.244.7.0/24".parse().unwrap()),
            v6: None,
        },
        ..PodNetwork::default()
    };
    let lengths = |family, masquerade, forward| {
        let options = RuleOptions {
            masquerade,
            forward,
            random_fully: true,
        };
        let rules = Ruleset::for_pods(family, &pods, options);
        assert_eq!(rules.network, pods.networks.get(family).copied());
        assert_eq!(
            rules.is_empty(),
            rules.masquerade.len() + rules.forward.len() == 0
        );
        (rules.masquerade.len(), rules.forward.len())
    };
    assert_eq!(lengths(Family::V4, true, true), (6, 2));
    assert_eq!(lengths(Family::V4, true, false), (6, 0));
    assert_eq!(lengths(Family::V4, false, true), (0, 2));
    assert_eq!(lengths(Family::V4, false, false), (0, 0));
    assert_eq!(lengths(Family::V6, true, true), (0, 0));
}

#[test]
fn a_network_of_all_addresses_has_no_rule_that_fits_nothing() {
    let everything = |family: Family| IpNet::new(family.unspecified(), 0).unwrap();
    let pods = PodNetwork {
        networks: PerFamily::from_fn(|family| Some(everything(family))),
        subnets: PerFamily {
            v4: Some("10.244.7.0/24".parse().unwrap()),
            v6: Some("fd00:244:0:7::/64".parse().unwrap()),
        },
        ..PodNetwork::default()
    };
    for family in Family::ALL {
        let rules = Ruleset::for_pods(family, &pods, ALL);
        let mut nets = rules
            .masquerade
            .iter()
            .flat_map(|rule| [rule.source, rule.destination]);
        assert!(nets.all(|net| net.is_none_or(|net| net.net.prefix_len() > 0)));
        assert_eq!(rules.masquerade.len(), 4);
        assert_eq!(rules.forward, [Rule::new(None, None, Verdict::Accept); 2]);
    }
}

#[test]
fn names_have_a_suffix_of_eight_letters_and_digits_at_most() {
    let names = Names::with_suffix("blue/net-2026");
    assert_eq!(names.masquerade_chain(), "FLANNEL-POSTRTG-bluenet2");
    assert_eq!(names.forward_chain(), "FLANNEL-FWD-bluenet2");
    assert_eq!(names.table(Family::V6), "flannel-ipv6-bluenet2");
    assert_eq!(Names::with_suffix("-/"), Names::flannels());
    assert_eq!(Names::flannels().masquerade_chain(), "FLANNEL-POSTRTG");
    assert_eq!(Names::flannels().table(Family::V4), "flannel-ipv4");
}
