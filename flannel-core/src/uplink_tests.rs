use super::*;
use crate::{DefaultRoute, Reached};

const V4: &[Family] = &[Family::V4];
const V6: &[Family] = &[Family::V6];
const DUAL: &[Family] = &[Family::V4, Family::V6];

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn device(name: &str) -> DeviceName {
    name.parse().unwrap()
}

/// An address with its flags: `192.0.2.1/24 dynamic temporary unusable`.
fn own(text: &str) -> LinkAddress {
    let has = |flag| text.split(' ').any(|word| word == flag);
    LinkAddress {
        net: text.split(' ').next().unwrap().parse().unwrap(),
        unusable: has("unusable"),
        permanent: !has("dynamic"),
        temporary: has("temporary"),
    }
}

fn link(name: &str, index: u32, addresses: &[&str]) -> Link {
    Link {
        name: device(name),
        index,
        mtu: 1000 + index,
        up: true,
        loopback: name == "lo",
        mac: None,
        strict_reverse_path: false,
        addresses: addresses.iter().map(|text| own(text)).collect(),
    }
}

fn default_route(family: Family, name: &str) -> DefaultRoute {
    DefaultRoute {
        family,
        device: device(name),
        gateway: None,
        metric: 0,
    }
}

/// Two uplinks, the default routes over the first, a way to 198.51.100.1 over the second.
fn facts() -> HostFacts {
    HostFacts {
        links: vec![
            link("lo", 1, &["127.0.0.1/8", "::1/128"]),
            link("eth0", 2, &["192.0.2.10/24", "2001:db8::10/64", "fe80::10/64"]),
            link(
                "eth1",
                3,
                &["10.0.0.11/24", "10.0.0.12/24", "fd00::11/64", "fd00::12/64"],
            ),
            link("dummy0", 4, &[]),
        ],
        default_routes: vec![
            default_route(Family::V4, "eth0"),
            default_route(Family::V6, "eth0"),
        ],
        resolvers: vec![],
        reached: [(
            address("198.51.100.1"),
            Reached {
                device: device("eth1"),
                source: Some(address("10.0.0.12")),
            },
        )]
        .into(),
        ..HostFacts::default()
    }
}

fn named(name: &str) -> UplinkRule {
    UplinkRule::Named(name.into())
}

/// Stands in for a regular expression: any of the texts between `|`, found anywhere.
fn matching(text: &str) -> UplinkRule {
    let parts: Vec<String> = text.split('|').map(str::to_owned).collect();
    UplinkRule::Matching(Pattern::new(text, move |candidate| {
        parts.iter().any(|part| candidate.contains(part.as_str()))
    }))
}

fn reach(text: &str) -> UplinkRule {
    UplinkRule::CanReach(address(text))
}

fn options(rules: Vec<UplinkRule>) -> UplinkOptions {
    UplinkOptions {
        rules,
        public: PerFamily::NONE,
    }
}

fn published(v4: Option<&str>, v6: Option<&str>) -> UplinkOptions {
    UplinkOptions {
        rules: vec![],
        public: PerFamily {
            v4: v4.map(address),
            v6: v6.map(address),
        },
    }
}

/// `eth0 192.0.2.10 2001:db8::10`, or the message.
fn outcome(result: Result<Uplink, UplinkError>) -> String {
    match result {
        Err(error) => error.to_string(),
        Ok(uplink) => {
            let addresses = uplink.addresses.iter().map(|(_, address)| format!(" {address}"));
            format!("{}{}", uplink.device, addresses.collect::<String>())
        }
    }
}

fn chosen(options: &UplinkOptions, facts: &HostFacts, families: &[Family]) -> String {
    outcome(choose_uplink(options, facts, families, None))
}

const PRESENT: &str = "lo:[127.0.0.1 ::1], eth0:[192.0.2.10 2001:db8::10], \
                       eth1:[10.0.0.11 10.0.0.12 fd00::11 fd00::12]";

#[test]
fn each_rule_finds_the_device_and_the_address_that_it_means() {
    for (rule, families, expected) in [
        (named("eth1"), V4, "eth1 10.0.0.11"),
        (named("eth1"), V6, "eth1 fd00::11"),
        (named("eth1"), DUAL, "eth1 10.0.0.11 fd00::11"),
        (named("10.0.0.12"), V4, "eth1 10.0.0.12"),
        (named("fd00::12"), V6, "eth1 fd00::12"),
        // flannel dereferences nil at the second of these.
        (named("10.0.0.12"), DUAL, "eth1 10.0.0.12 fd00::11"),
        (named("fd00::12"), DUAL, "eth1 10.0.0.11 fd00::12"),
        (named("fe80::10"), V6, "eth0 fe80::10"),
        (matching("10.0.0.12"), V4, "eth1 10.0.0.12"),
        (matching("10.0.0."), V4, "eth1 10.0.0.11"),
        (matching("fd00::12"), V6, "eth1 fd00::12"),
        (matching("10.0.0.12|fd00::12"), DUAL, "eth1 10.0.0.12 fd00::12"),
        (matching("eth1"), V4, "eth1 10.0.0.11"),
        (matching("eth"), V4, "eth0 192.0.2.10"),
        (reach("198.51.100.1"), V4, "eth1 10.0.0.12"),
        (reach("198.51.100.1"), DUAL, "eth1 10.0.0.12 fd00::11"),
        (reach("198.51.100.1"), V6, "eth1 fd00::11"),
    ] {
        let what = format!("{rule:?} {families:?}");
        assert_eq!(
            chosen(&options(vec![rule]), &facts(), families),
            expected,
            "{what}"
        );
    }
}

#[test]
fn a_pattern_is_held_against_every_address_before_any_name() {
    let mut facts = facts();
    // By name this device would come first.
    facts.links.insert(1, link("net10", 9, &["198.51.100.7/24"]));
    assert_eq!(
        chosen(&options(vec![matching("10.0.0|net10")]), &facts, V4),
        "eth1 10.0.0.11"
    );
    assert_eq!(
        chosen(&options(vec![matching("net10")]), &facts, V4),
        "net10 198.51.100.7"
    );
}

#[test]
fn with_both_families_a_pattern_must_fit_an_address_of_each() {
    // eth0 fits in IPv4 alone, eth1 in both.
    let rule = matching("192.0.2.10|10.0.0.12|fd00::12");
    assert_eq!(
        chosen(&options(vec![rule]), &facts(), DUAL),
        "eth1 10.0.0.12 fd00::12"
    );
}

#[test]
fn a_pattern_for_everything_does_not_take_the_loopback_device() {
    let everything = UplinkRule::Matching(Pattern::new(".*", |_| true));
    for families in [V4, V6, DUAL] {
        let outcome = chosen(&options(vec![everything.clone()]), &facts(), families);
        assert!(outcome.starts_with("eth0 "), "{outcome}");
    }
}

#[test]
fn the_first_rule_that_fits_wins() {
    let rules = [
        named("eth9"),
        named("dummy0"),
        matching("eth7"),
        reach("203.0.113.1"),
        named("eth1"),
        named("eth0"),
    ];
    assert_eq!(chosen(&options(rules.to_vec()), &facts(), V4), "eth1 10.0.0.11");
}

#[test]
fn when_no_rule_fits_the_message_names_each_with_its_reason_and_what_there_is() {
    let rules = vec![
        named("eth9"),
        named("10.9.9.9"),
        named("dummy0"),
        matching("wlan"),
        reach("203.0.113.1"),
    ];
    assert_eq!(
        chosen(&options(rules), &facts(), V4),
        format!(
            "no interface fits eth9 (no such network interface); 10.9.9.9 (no interface with given IP found); \
             failed to find IPv4 address for interface dummy0; add one, or give --iface; \
             the pattern \"wlan\" (could not match any interface); \
             a route to 203.0.113.1 (the kernel has none); there are {PRESENT}"
        )
    );
}

#[test]
fn without_rules_the_device_of_the_default_route_is_taken() {
    for (families, expected) in [
        (V4, "eth0 192.0.2.10"),
        (V6, "eth0 2001:db8::10"),
        (DUAL, "eth0 192.0.2.10 2001:db8::10"),
    ] {
        assert_eq!(chosen(&UplinkOptions::default(), &facts(), families), expected);
    }
}

#[test]
fn a_default_route_over_a_device_without_an_address_is_passed_over() {
    let mut facts = facts();
    facts.default_routes = ["gone0", "dummy0", "eth1", "eth0"]
        .map(|name| default_route(Family::V4, name))
        .to_vec();
    assert_eq!(
        chosen(&UplinkOptions::default(), &facts, DUAL),
        "eth1 10.0.0.11 fd00::11"
    );
    facts.default_routes.truncate(2);
    assert_eq!(
        chosen(&UplinkOptions::default(), &facts, V4),
        "failed to find IPv4 address for interface dummy0; add one, or give --iface"
    );
}

#[test]
fn without_a_default_route_of_the_family_there_is_nothing_to_go_by() {
    let mut facts = facts();
    facts.default_routes.retain(|route| route.family == Family::V4);
    assert_eq!(
        chosen(&UplinkOptions::default(), &facts, V6),
        "unable to find default route for IPv6; give --iface, or add a default route"
    );
    // With both families the IPv4 one decides: many networks announce no IPv6 default route.
    assert_eq!(
        chosen(&UplinkOptions::default(), &facts, DUAL),
        "eth0 192.0.2.10 2001:db8::10"
    );
}

#[test]
fn a_public_address_that_the_host_owns_selects_its_device() {
    for (options, families, expected) in [
        (published(Some("10.0.0.12"), None), V4, "eth1 10.0.0.12"),
        (published(None, Some("fd00::12")), V6, "eth1 fd00::12"),
        (published(None, Some("fd00::12")), DUAL, "eth1 10.0.0.11 fd00::12"),
        (
            published(Some("10.0.0.12"), None),
            DUAL,
            "eth1 10.0.0.12 fd00::11",
        ),
        // The family is not enabled.
        (published(None, Some("fd00::12")), V4, "eth0 192.0.2.10"),
    ] {
        assert_eq!(chosen(&options, &facts(), families), expected, "{options:?}");
    }
}

/// flannel gives up here: whoever sits behind a translated address has to give `--iface`, too.
#[test]
fn a_public_address_that_nobody_owns_is_published_from_the_device_of_the_default_route() {
    let options = published(Some("203.0.113.5"), None);
    let uplink = choose_uplink(&options, &facts(), DUAL, None).unwrap();
    assert_eq!(uplink.device, device("eth0"));
    assert_eq!(uplink.addresses.v4, Some(address("192.0.2.10")));
    assert_eq!(uplink.public.v4, Some(address("203.0.113.5")));
    assert_eq!(uplink.public.v6, Some(address("2001:db8::10")));
}

#[test]
fn a_public_address_is_published_whatever_rule_found_the_device() {
    let options = UplinkOptions {
        rules: vec![named("eth1")],
        ..published(Some("192.0.2.10"), Some("2001:db8::99"))
    };
    let uplink = choose_uplink(&options, &facts(), V4, None).unwrap();
    assert_eq!(uplink.device, device("eth1"));
    assert_eq!(
        uplink.addresses,
        PerFamily {
            v4: Some(address("10.0.0.11")),
            v6: None
        }
    );
    // Nothing is published in a family that the network does not have.
    assert_eq!(
        uplink.public,
        PerFamily {
            v4: Some(address("192.0.2.10")),
            v6: None
        }
    );
}

#[test]
fn the_mtu_is_that_of_the_device() {
    let uplink = choose_uplink(&options(vec![named("eth1")]), &facts(), V4, None).unwrap();
    assert_eq!(uplink.mtu, 1003);
}

#[test]
fn of_several_addresses_the_most_lasting_and_widest_reaching_is_taken() {
    for (addresses, families, expected) in [
        (&["10.0.0.1/24", "10.0.0.2/24"][..], V4, "10.0.0.1"),
        (
            &["169.254.0.1/16", "10.0.0.2/24 dynamic temporary"],
            V4,
            "10.0.0.2",
        ),
        (&["10.0.0.1/24 dynamic", "10.0.0.2/24 temporary"], V4, "10.0.0.2"),
        (&["10.0.0.1/24 temporary", "10.0.0.2/24"], V4, "10.0.0.2"),
        (
            &["10.0.0.1/24 unusable", "10.0.0.2/24 dynamic temporary"],
            V4,
            "10.0.0.2",
        ),
        (&["169.254.0.1/16"], V4, "169.254.0.1"),
        (&["fe80::1/64", "fd00::2/64 dynamic temporary"], V6, "fd00::2"),
        (&["fd00::1/64 dynamic", "fd00::2/64 temporary"], V6, "fd00::2"),
        (&["fe80::1/64"], V6, "fe80::1"),
    ] {
        let facts = HostFacts {
            links: vec![link("eth0", 2, addresses)],
            ..HostFacts::default()
        };
        let outcome = chosen(&options(vec![named("eth0")]), &facts, families);
        assert_eq!(outcome, format!("eth0 {expected}"), "{addresses:?}");
    }
}

#[test]
fn addresses_that_nobody_else_could_reach_do_not_count() {
    for addresses in [
        &[][..],
        &["127.0.0.1/8"],
        &["224.0.0.1/32"],
        &["10.0.0.1/24 unusable"],
        &["fd00::1/64"],
    ] {
        let facts = HostFacts {
            links: vec![link("eth0", 2, addresses)],
            ..HostFacts::default()
        };
        let outcome = chosen(&options(vec![named("eth0")]), &facts, V4);
        assert!(
            outcome.contains("failed to find IPv4 address for interface eth0"),
            "{addresses:?}: {outcome}"
        );
    }
}

#[test]
fn with_both_families_the_device_must_have_both() {
    let mut facts = facts();
    facts.links[2]
        .addresses
        .retain(|own| Family::of(own.net.addr()) == Family::V4);
    let outcome = chosen(&options(vec![named("eth1")]), &facts, DUAL);
    assert!(
        outcome.contains("failed to find IPv6 address for interface eth1"),
        "{outcome}"
    );
}

/// What is chosen on `later`, where `before` made the choice that is in use.
fn kept(options: &UplinkOptions, before: &HostFacts, later: &HostFacts) -> String {
    let current = choose_uplink(options, before, V4, None).unwrap();
    outcome(choose_uplink(options, later, V4, Some(&current)))
}

#[test]
fn a_further_address_does_not_move_the_host() {
    let later = {
        let mut facts = facts();
        facts.links[1].addresses.insert(0, own("192.0.2.5/24"));
        facts.links[2].addresses.insert(0, own("10.0.0.5/24"));
        facts
    };
    let mut reached = options(vec![reach("198.51.100.1")]);
    reached.rules.push(named("eth0"));
    for (options, expected) in [
        (UplinkOptions::default(), "eth0 192.0.2.10"),
        (published(Some("203.0.113.5"), None), "eth0 192.0.2.10"),
        (options(vec![named("eth1")]), "eth1 10.0.0.11"),
        (options(vec![matching("10.0.0.")]), "eth1 10.0.0.11"),
        (options(vec![matching("eth1")]), "eth1 10.0.0.11"),
        (reached, "eth1 10.0.0.12"),
    ] {
        assert_eq!(kept(&options, &facts(), &later), expected, "{options:?}");
    }
}

#[test]
fn a_better_address_than_a_fleeting_one_does_not_move_the_host() {
    let mut before = facts();
    before.links[2].addresses = vec![own("10.0.0.11/24 dynamic")];
    for rule in [named("eth1"), matching("10.0.0.")] {
        assert_eq!(kept(&options(vec![rule]), &before, &facts()), "eth1 10.0.0.11");
        let later = {
            let mut facts = facts();
            facts.links[2].addresses = vec![own("10.0.0.12/24"), own("10.0.0.11/24 dynamic")];
            facts
        };
        for rule in [named("eth1"), matching("10.0.0.")] {
            assert_eq!(kept(&options(vec![rule]), &before, &later), "eth1 10.0.0.11");
        }
    }
}

#[test]
fn another_default_route_or_fitting_device_does_not_move_the_host() {
    let mut before = facts();
    before.links[1].addresses.clear();
    before.default_routes[0].device = device("eth1");
    for options in [
        UplinkOptions::default(),
        options(vec![matching("192.0.2.|10.0.0.")]),
    ] {
        assert_eq!(chosen(&options, &facts(), V4), "eth0 192.0.2.10", "{options:?}");
        assert_eq!(kept(&options, &before, &facts()), "eth1 10.0.0.11", "{options:?}");
    }
    let by_name = options(vec![matching("eth")]);
    let mut before = facts();
    before.links.remove(1);
    assert_eq!(kept(&by_name, &before, &facts()), "eth1 10.0.0.11");
}

#[test]
fn an_address_that_changed_is_followed_on_the_same_device() {
    let mut later = facts();
    later.links[1].addresses = vec![own("192.0.2.77/24")];
    later.default_routes.insert(0, default_route(Family::V4, "eth1"));
    for options in [UplinkOptions::default(), options(vec![named("eth0")])] {
        assert_eq!(kept(&options, &facts(), &later), "eth0 192.0.2.77");
    }
    later.links[1].addresses = vec![own("192.0.2.77/24"), own("192.0.2.10/24 unusable")];
    assert_eq!(
        kept(&UplinkOptions::default(), &facts(), &later),
        "eth0 192.0.2.77"
    );
}

#[test]
fn a_device_that_is_gone_or_bare_is_left_for_the_one_that_fits() {
    let mut gone = facts();
    gone.links.remove(1);
    let mut bare = facts();
    bare.links[1].addresses.clear();
    for mut later in [gone, bare] {
        later.default_routes.push(default_route(Family::V4, "eth1"));
        assert_eq!(
            kept(&UplinkOptions::default(), &facts(), &later),
            "eth1 10.0.0.11"
        );
        let options = options(vec![named("eth0"), named("eth1")]);
        assert_eq!(kept(&options, &facts(), &later), "eth1 10.0.0.11");
        // And back, since the operator put it first.
        assert_eq!(kept(&options, &later, &facts()), "eth0 192.0.2.10");
    }
}

#[test]
fn a_changed_mtu_is_followed() {
    let mut later = facts();
    later.links[1].mtu = 9000;
    let current = choose_uplink(&UplinkOptions::default(), &facts(), V4, None).unwrap();
    let uplink = choose_uplink(&UplinkOptions::default(), &later, V4, Some(&current)).unwrap();
    assert_eq!((current.mtu, uplink.mtu), (1002, 9000));
}
