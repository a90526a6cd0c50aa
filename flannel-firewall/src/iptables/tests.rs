use flannel_core::{Filter, PodNetwork};
use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::ruleset::RuleOptions;
use crate::ruleset::tests::{ALL, any_rules, pods};

mod fake;

use fake::Fake;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn rules(family: Family) -> Ruleset {
    Ruleset::for_pods(family, &pods(), ALL)
}

/// A host without a rule.
fn empty() -> Seen {
    Seen {
        postrouting: "-P POSTROUTING ACCEPT\n".to_owned(),
        forward: "-P FORWARD ACCEPT\n".to_owned(),
        ..Seen::default()
    }
}

/// What was printed of the chains, one after the other.
fn captured(text: &str) -> Seen {
    let of = |chain: &str| {
        let lines = text.lines().filter(|line| line.split(' ').nth(1) == Some(chain));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    Seen {
        postrouting: of("POSTROUTING"),
        masquerade: Some(of("FLANNEL-POSTRTG")),
        forward: of("FORWARD"),
        forwards: Some(of("FLANNEL-FWD")),
    }
}

/// What iptables 1.8.9 printed of our rules, both variants alike, behind rules of an operator.
fn ours(family: Family) -> Seen {
    captured(match family {
        Family::V4 => include_str!("testdata/v4.txt"),
        Family::V6 => include_str!("testdata/v6.txt"),
    })
}

/// A host with these rules in its built-in chains, and nothing else.
fn with_rules(postrouting: &[&str], forward: &[&str]) -> Seen {
    let mut seen = empty();
    for (listing, chain, rules) in [
        (&mut seen.postrouting, "POSTROUTING", postrouting),
        (&mut seen.forward, "FORWARD", forward),
    ] {
        for rule in rules {
            let _ = writeln!(listing, "-A {chain} {rule}");
        }
    }
    seen
}

/// The lines of a transaction that take something away, without the command.
fn deleted(transaction: Option<String>) -> Vec<String> {
    let text = transaction.unwrap_or_default();
    text.lines()
        .filter_map(|line| line.strip_prefix("-D "))
        .map(str::to_owned)
        .collect()
}

fn kept(seen: &Seen, former: &[&str]) -> Option<String> {
    let former: Vec<IpNet> = former.iter().copied().map(net).collect();
    transaction(&rules(Family::V4), &Names::flannels(), seen, &former)
}

#[test]
fn both_chains_and_their_jumps_are_made_in_flannels_words() {
    assert_snapshot!(kept(&empty(), &[]).unwrap(), @r#"
    *nat
    :FLANNEL-POSTRTG - [0:0]
    -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
    -A FLANNEL-POSTRTG -s 10.244.7.0/24 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j RETURN
    -A FLANNEL-POSTRTG -s 10.244.0.0/16 -d 10.244.7.0/24 -m comment --comment "flanneld masq" -j RETURN
    -A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.7.0/24 -m comment --comment "flanneld masq" -j RETURN
    -A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
    -A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
    -A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
    COMMIT
    *filter
    :FLANNEL-FWD - [0:0]
    -A FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
    -A FLANNEL-FWD -d 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
    -A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
    COMMIT
    "#);
}

#[test]
fn ranges_come_before_what_is_masqueraded_and_a_suffix_names_the_chains() {
    let pods = PodNetwork {
        unmasqueraded: vec![
            net("2001:db8::/32"),
            net("192.0.2.0/24"),
            net("2001:db8:5::5/128"),
        ],
        ..pods()
    };
    let options = RuleOptions {
        random_fully: false,
        ..ALL
    };
    let rules = Ruleset::for_pods(Family::V6, &pods, options);
    let text = transaction(&rules, &Names::with_suffix("blue"), &empty(), &[]).unwrap();
    assert_snapshot!(text, @r#"
    *nat
    :FLANNEL-POSTRTG-blue - [0:0]
    -A FLANNEL-POSTRTG-blue -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
    -A FLANNEL-POSTRTG-blue -s fd00:244:0:7::/64 -d fd00:244::/48 -m comment --comment "flanneld masq" -j RETURN
    -A FLANNEL-POSTRTG-blue -s fd00:244::/48 -d fd00:244:0:7::/64 -m comment --comment "flanneld masq" -j RETURN
    -A FLANNEL-POSTRTG-blue ! -s fd00:244::/48 -d fd00:244:0:7::/64 -m comment --comment "flanneld masq" -j RETURN
    -A FLANNEL-POSTRTG-blue -s fd00:244::/48 -d 2001:db8::/32 -m comment --comment "flanneld masq" -j RETURN
    -A FLANNEL-POSTRTG-blue -s fd00:244::/48 -d 2001:db8:5::5/128 -m comment --comment "flanneld masq" -j RETURN
    -A FLANNEL-POSTRTG-blue -s fd00:244::/48 ! -d ff00::/8 -m comment --comment "flanneld masq" -j MASQUERADE
    -A FLANNEL-POSTRTG-blue ! -s fd00:244::/48 -d fd00:244::/48 -m comment --comment "flanneld masq" -j MASQUERADE
    -A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG-blue
    COMMIT
    *filter
    :FLANNEL-FWD-blue - [0:0]
    -A FLANNEL-FWD-blue -s fd00:244::/48 -m comment --comment "flanneld forward" -j ACCEPT
    -A FLANNEL-FWD-blue -d fd00:244::/48 -m comment --comment "flanneld forward" -j ACCEPT
    -A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD-blue
    COMMIT
    "#);
}

#[test]
fn nothing_is_written_where_the_program_lists_our_rules() {
    for family in Family::ALL {
        let rules = rules(family);
        assert_eq!(transaction(&rules, &Names::flannels(), &ours(family), &[]), None);
        let mut otherwise = ours(family);
        let chain = otherwise.masquerade.as_mut().unwrap();
        // Another order of the matches, and a comment of the program.
        *chain = chain.replace(
            "-m mark --mark 0x4000/0x4000 -m comment --comment \"flanneld masq\"",
            "-m comment --comment \"flanneld masq\" -m mark --mark 0x00004000/16384",
        );
        chain.push_str("# Warning: iptables-legacy tables present, use iptables-legacy to see them\n\n");
        assert_ne!(otherwise, ours(family));
        assert_eq!(transaction(&rules, &Names::flannels(), &otherwise, &[]), None);
    }
}

#[test]
fn a_table_that_is_right_is_left_alone() {
    let mut seen = ours(Family::V4);
    seen.forwards = None;
    seen.forward = empty().forward;
    let text = kept(&seen, &[]).unwrap();
    assert!(text.starts_with("*filter\n:FLANNEL-FWD - [0:0]\n"), "{text}");
    assert_eq!(text.matches('*').count(), 1, "{text}");
    let mut seen = ours(Family::V4);
    seen.postrouting = empty().postrouting;
    let text = kept(&seen, &[]).unwrap();
    let jump = "-A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG";
    assert_eq!(text, format!("*nat\n{jump}\nCOMMIT\n"));
}

#[test]
fn whatever_else_is_in_our_chain_or_missing_has_it_written_anew() {
    let masked = "--mark 0x4000/0x4000";
    let first = "-s 10.244.7.0/24 -d 10.244.0.0/16";
    let leaving = "-s 10.244.0.0/16 ! -d 224.0.0.0/4";
    let comment = "-m comment --comment \"flanneld masq\" ";
    for (from, to) in [
        (masked, "--mark 0x4000"),
        (masked, "! --mark 0x4000/0x4000"),
        (masked, "--mark 0x4000/0xffffffff"),
        (masked, "--mark 0x8000/0x8000"),
        (masked, "--mark 0x0/0x0"),
        ("-m mark --mark 0x4000/0x4000 ", ""),
        (first, "-s 10.244.7.0/24"),
        (first, "-s 10.244.0.0/16 -d 10.244.7.0/24"),
        (first, "! -s 10.244.7.0/24 -d 10.244.0.0/16"),
        (first, "-s 10.244.7.0/24 -s 10.244.7.0/24 -d 10.244.0.0/16"),
        (first, "-s 10.244.7.0/24 -d 10.244.0.0/16 -o eth0"),
        (
            first,
            "-s 10.244.7.0/24 -d 10.244.0.0/16 -p tcp -m tcp --dport 80",
        ),
        (leaving, "-s 10.244.0.0/16 -d 224.0.0.0/4"),
        (comment, ""),
        (comment, "-m comment --comment \"flanneld\" "),
        (comment, "-m comment --comment \"flanneld masq "),
        (" --random-fully", ""),
        (" --random-fully", " --random"),
        (" --random-fully", " --random-fully --to-ports 1024-2048"),
        ("-j RETURN", "-j ACCEPT"),
        ("-j RETURN", "-g RETURN"),
        ("-j RETURN", "\"-j\" RETURN"),
        (
            "-N FLANNEL-POSTRTG\n",
            "-N FLANNEL-POSTRTG\n-A FLANNEL-POSTRTG -j ACCEPT\n",
        ),
        ("-N FLANNEL-POSTRTG\n", "-N FLANNEL-POSTRTG\nwhat is this\n"),
        (
            "-N FLANNEL-POSTRTG\n",
            "-N FLANNEL-POSTRTG\n-A FLANNEL-POSTRTG \"\n",
        ),
    ] {
        let mut seen = ours(Family::V4);
        let chain = seen.masquerade.as_mut().unwrap();
        assert!(chain.contains(from), "{from}");
        *chain = chain.replacen(from, to, 1);
        let text = kept(&seen, &[]).unwrap_or_default();
        assert!(
            text.starts_with("*nat\n:FLANNEL-POSTRTG - [0:0]\n"),
            "{from} -> {to}: {text}"
        );
        assert!(!text.contains("POSTROUTING"), "{text}");
    }
    for reorder in [true, false] {
        let mut seen = ours(Family::V4);
        let chain = seen.forwards.as_mut().unwrap();
        let mut lines: Vec<&str> = chain.lines().collect();
        if reorder {
            lines.swap(1, 2)
        } else {
            lines.truncate(2)
        }
        *chain = lines.join("\n");
        assert!(
            kept(&seen, &[])
                .unwrap_or_default()
                .starts_with("*filter\n:FLANNEL-FWD")
        );
    }
}

#[test]
fn several_jumps_become_one_at_the_place_of_the_first() {
    let mut seen = ours(Family::V4);
    let jump = "-m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG";
    seen.postrouting =
        with_rules(&["-s 192.0.2.1/32 -j ACCEPT", jump, "-j LOG", jump, jump], &[]).postrouting;
    let thrice = format!("-D POSTROUTING {jump}\n").repeat(3);
    let wanted = format!("*nat\n{thrice}-I POSTROUTING 2 {jump}\nCOMMIT\n");
    assert_eq!(kept(&seen, &[]), Some(wanted));
    // Rules in front of it that go do not move it.
    let rules = [
        &GROUP[..],
        &["-j LOG", jump, "-j ACCEPT"],
        &GROUP,
        &[jump, "-o eth0 -j DROP"],
    ];
    let mut host = Fake::new(full("POSTROUTING", &rules.concat()), Vec::new());
    host.restore(&kept(&host.seen(), &[]).unwrap());
    let wanted = with_rules(&["-j LOG", jump, "-j ACCEPT", "-o eth0 -j DROP"], &[]).postrouting;
    assert_eq!(host.seen().postrouting, wanted);
}

#[test]
fn jumps_of_the_operator_and_of_other_networks_are_neither_ours_nor_removed() {
    let blue = "-m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG-blue";
    let own = [
        "-j FLANNEL-POSTRTG",
        "-o eth0 -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG",
    ];
    let goto = "-m comment --comment \"flanneld masq\" -g FLANNEL-POSTRTG";
    let mut seen = ours(Family::V4);
    seen.postrouting = with_rules(&[blue, own[0], own[1], goto], &[]).postrouting;
    let jump = "-A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG";
    assert_eq!(kept(&seen, &[]), Some(format!("*nat\n{jump}\nCOMMIT\n")));
    // A chain goes only when nothing leads there.
    let removed = deleted(removal(Family::V4, &Names::flannels(), &seen, &[]));
    let nat: Vec<&String> = removed
        .iter()
        .filter(|line| line.contains("POSTROUTING"))
        .collect();
    let leading = [own[0], own[1], goto].map(|rule| format!("POSTROUTING {rule}"));
    assert_eq!(nat, leading.iter().collect::<Vec<_>>());
}

#[test]
fn a_chain_without_rules_goes_with_its_jump_and_the_operators_rules_stay() {
    let options = RuleOptions {
        masquerade: false,
        ..ALL
    };
    let rules = Ruleset::for_pods(Family::V6, &pods(), options);
    let text = transaction(&rules, &Names::flannels(), &ours(Family::V6), &[]).unwrap();
    assert_snapshot!(text, @r#"
    *nat
    -D POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
    -F FLANNEL-POSTRTG
    -X FLANNEL-POSTRTG
    COMMIT
    "#);
    assert_eq!(
        transaction(&rules, &Names::flannels(), &captured_without_masquerade(), &[]),
        None
    );
}

fn captured_without_masquerade() -> Seen {
    Seen {
        masquerade: None,
        postrouting: empty().postrouting,
        ..ours(Family::V6)
    }
}

const GROUP: [&str; 4] = [
    "-s 10.244.0.0/16 -d 10.244.0.0/16 -j RETURN",
    "-s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
    "! -s 10.244.0.0/16 -d 10.244.9.0/24 -j RETURN",
    "! -s 10.244.0.0/16 -d 10.244.0.0/16 -j MASQUERADE",
];
const PAIR: [&str; 2] = ["-s 10.244.0.0/16 -j ACCEPT", "-d 10.244.0.0/16 -j ACCEPT"];

fn full(chain: &str, rules: &[&str]) -> Vec<String> {
    rules.iter().map(|rule| format!("{chain} {rule}")).collect()
}

#[test]
fn old_rules_without_comments_go_as_the_chains_come() {
    let seen = with_rules(&GROUP, &PAIR);
    let text = kept(&seen, &[]).unwrap();
    let (nat, filter) = text.split_once("COMMIT\n").unwrap();
    for (table, chain, rules) in [
        (nat, "FLANNEL-POSTRTG", &GROUP[..]),
        (filter, "FLANNEL-FWD", &PAIR[..]),
    ] {
        assert!(table.contains(&format!(":{chain} - [0:0]")), "{table}");
        assert!(table.contains(&format!("-j {chain}")), "{table}");
        assert!(rules.iter().all(|rule| table.contains(rule)), "{table}");
    }
    assert_eq!(
        deleted(Some(text)),
        [full("POSTROUTING", &GROUP), full("FORWARD", &PAIR)].concat()
    );
}

#[test]
fn old_rules_without_comments_are_known_by_their_network() {
    let other = |rule: &str| rule.replace("10.244.", "10.99.");
    let (group, pair) = (GROUP.map(other), PAIR.map(other));
    let seen = with_rules(
        &group.each_ref().map(String::as_str),
        &pair.each_ref().map(String::as_str),
    );
    assert_eq!(deleted(kept(&seen, &[])), Vec::<String>::new());
    assert_eq!(
        deleted(kept(&seen, &["10.99.0.0/16", "fd00::/48", "10.99.0.0/16"])).len(),
        6
    );
    assert_eq!(deleted(kept(&seen, &["10.99.0.0/24"])), Vec::<String>::new());
    // Of all addresses, they are anybody's.
    let seen = with_rules(&["! -d 224.0.0.0/4 -j MASQUERADE"], &["-j ACCEPT", "-j ACCEPT"]);
    assert_eq!(deleted(kept(&seen, &["0.0.0.0/0"])), Vec::<String>::new());
}

#[test]
fn what_a_comment_says_is_not_taken_for_a_rule() {
    let comment = "-m comment --comment \"no \\\" -j FLANNEL-FWD \\\"\" -j LOG";
    let seen = with_rules(&[], &[comment, "-j LOG --log-prefix \"-j FLANNEL-FWD\""]);
    assert_eq!(removal(Family::V4, &Names::flannels(), &seen, &[]), None);
}

#[test]
fn old_rules_of_ipv6_have_its_multicast() {
    let other = |rule: &str| {
        let rule = rule
            .replace("10.244.0.0/16", "fd00:244::/48")
            .replace("224.0.0.0/4", "ff00::/8");
        rule.replace("10.244.9.0/24", "fd00:244:0:9::/64")
    };
    let (group, pair) = (GROUP.map(other), PAIR.map(other));
    let seen = with_rules(
        &group.each_ref().map(String::as_str),
        &pair.each_ref().map(String::as_str),
    );
    let text = transaction(&rules(Family::V6), &Names::flannels(), &seen, &[]);
    assert_eq!(deleted(text).len(), 6);
}

#[test]
fn part_of_the_group_may_be_the_operators() {
    let none = Vec::<String>::new();
    let of = |postrouting: &[&str]| {
        let seen = with_rules(postrouting, &[]);
        let removed = removal(Family::V4, &Names::flannels(), &seen, &[net("10.244.0.0/16")]);
        assert_eq!(deleted(removed), deleted(kept(&seen, &[])));
        deleted(kept(&seen, &[]))
    };
    assert_eq!(of(&GROUP[..2]), none);
    for missing in 0..GROUP.len() {
        let mut part = GROUP.to_vec();
        part.remove(missing);
        assert_eq!(of(&part), none, "{part:?}");
    }
    let [within, leaving, local, entering] = GROUP;
    assert_eq!(of(&[leaving, within, local, entering]), none);
    assert_eq!(of(&[within, leaving, "-o eth0 -j LOG", local, entering]), none);
    // What is deleted would be the operator's, which stands first.
    let part_and_all = [&GROUP[..2], &GROUP].concat();
    assert_eq!(of(&part_and_all), none);
    let all = full("POSTROUTING", &GROUP);
    assert_eq!(of(&[&GROUP[..], &GROUP[..2]].concat()), all);
    assert_eq!(
        of(&[&["-j LOG"], &GROUP[..], &["-j LOG"], &GROUP].concat()),
        [&all[..], &all].concat()
    );
    // Between them stood what goes as well.
    let commented = "-s 10.244.0.0/16 -m comment --comment \"flanneld masq\" -j RETURN";
    assert_eq!(of(&[within, leaving, commented, local, entering]).len(), 5);
}

#[test]
fn rules_that_only_look_like_the_group_are_the_operators() {
    for (place, operators) in [
        (0, "-s 10.244.0.0/16 -d 10.244.0.0/16 -j ACCEPT"),
        (
            0,
            "-s 10.244.0.0/16 -d 10.244.0.0/16 -m mark --mark 0x1/0x1 -j RETURN",
        ),
        (0, "-s 10.244.0.0/16 -d 10.243.0.0/16 -j RETURN"),
        (1, "-s 10.244.0.0/16 ! -d 10.244.0.0/16 -j MASQUERADE"),
        (1, "-s 10.244.0.0/16 ! -o docker0 -j MASQUERADE"),
        (1, "-s 10.244.0.0/16 ! -d 224.0.0.0/4 -o eth0 -j MASQUERADE"),
        (
            1,
            "-s 10.244.0.0/16 ! -d 224.0.0.0/4 -j SNAT --to-source 192.0.2.1",
        ),
        (1, "-s 10.244.0.0/16 ! -d 224.0.0.0/4 -j RETURN"),
        (
            1,
            "-s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment mine -j MASQUERADE",
        ),
        (2, "! -s 10.244.0.0/16 -d 10.243.9.0/24 -j RETURN"),
        (2, "! -s 10.244.0.0/16 -d 10.244.0.0/16 -j RETURN"),
        (2, "! -s 10.244.0.0/16 ! -d 10.244.9.0/24 -j RETURN"),
        (2, "! -s 10.244.0.0/16 -d 10.244.9.0/24 -j MASQUERADE"),
        (3, "! -s 10.244.0.0/16 -d 10.244.0.0/16 -j RETURN"),
        (3, "! -s 10.244.0.0/16 -d 10.244.9.0/24 -j MASQUERADE"),
    ] {
        let mut rules = GROUP;
        rules[place] = operators;
        let gone = deleted(kept(&with_rules(&rules, &[]), &[]));
        assert_eq!(gone, Vec::<String>::new(), "{operators}");
    }
}

#[test]
fn a_group_stays_where_masquerading_is_switched_off_until_all_is_removed() {
    let options = RuleOptions {
        masquerade: false,
        ..ALL
    };
    let rules = Ruleset::for_pods(Family::V4, &pods(), options);
    let of = |postrouting| {
        let seen = with_rules(postrouting, &[]);
        deleted(transaction(&rules, &Names::flannels(), &seen, &[]))
    };
    assert_eq!(of(&GROUP), Vec::<String>::new());
    assert_eq!(of(&GROUP[..2]), Vec::<String>::new());
    let seen = with_rules(&GROUP, &[]);
    let removed = removal(Family::V4, &Names::flannels(), &seen, &[net("10.244.0.0/16")]);
    assert_eq!(deleted(removed), full("POSTROUTING", &GROUP));
}

#[test]
fn a_pair_in_forward_is_flannels_only_in_its_order_and_side_by_side() {
    let [from, to] = PAIR;
    let none = Vec::<String>::new();
    let of = |forward: &[&str]| deleted(kept(&with_rules(&[], forward), &[]));
    assert_eq!(of(&[to, from]), none);
    assert_eq!(of(&[from, "-j LOG", to]), none);
    assert_eq!(of(&["-j LOG", from, to, "-j LOG", from, to]).len(), 4);
    // What is deleted would be the operator's, which stand first.
    assert_eq!(of(&[to, from, "-j LOG", from, to]), none);
    assert_eq!(of(&[from, from, to]), none);
    // Between them stood what goes as well.
    let commented = "-s 10.1.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT";
    let wanted = full("FORWARD", &[JUMP, JUMP, commented, from, to]);
    assert_eq!(of(&[JUMP, from, commented, JUMP, to]), wanted);
    assert_eq!(of(&[from, JUMP, to]), none);
    // Behind the pair they are safe.
    assert_eq!(of(&[from, to, "-j LOG", to, from]), full("FORWARD", &[from, to]));
}

#[test]
fn a_pair_in_forward_stays_in_front_of_what_may_drop_its_packets() {
    let none = Vec::<String>::new();
    let with = |rule: &'static str| with_rules(&GROUP, &[PAIR[0], PAIR[1], "-j LOG", rule]);
    let former = [net("10.244.0.0/16")];
    for harmful in [
        REJECT,
        "-j DROP",
        "-j RETURN",
        "-g mine",
        "-j mine",
        "-i eth0 -j DROP",
        "-m conntrack --ctstate NEW -j REJECT --reject-with icmp-port-unreachable",
        "-j NFQUEUE --queue-num 1",
    ] {
        let forwarding = |line: &String| line.starts_with("FORWARD");
        let mut gone = deleted(kept(&with(harmful), &[]));
        gone.extend(deleted(removal(
            Family::V4,
            &Names::flannels(),
            &with(harmful),
            &former,
        )));
        gone.retain(forwarding);
        assert_eq!(gone, none, "{harmful}");
    }
    for harmless in [
        JUMP,
        "-j ACCEPT",
        "-o docker0 -j ACCEPT",
        "-s 192.0.2.1/32",
        "-j NFLOG",
        "-m comment --comment \"flanneld forward\" -j FLANNEL-FWD-blue",
    ] {
        let wanted = [full("POSTROUTING", &GROUP), full("FORWARD", &PAIR)].concat();
        assert_eq!(deleted(kept(&with(harmless), &[])), wanted, "{harmless}");
    }
    // In front of it, anything may be.
    let seen = with_rules(&[], &[REJECT, PAIR[0], PAIR[1]]);
    assert_eq!(deleted(kept(&seen, &[])), full("FORWARD", &PAIR));
}

#[test]
fn a_pair_in_forward_that_nothing_of_ours_replaces_goes_only_with_the_group_of_its_network() {
    let none = Vec::<String>::new();
    let options = RuleOptions {
        forward: false,
        ..ALL
    };
    let rules = Ruleset::for_pods(Family::V4, &pods(), options);
    let networks = [net("10.244.0.0/16"), net("10.99.0.0/16")];
    let replaced = |seen: &Seen| deleted(transaction(&rules, &Names::flannels(), seen, &networks));
    let removed = |seen: &Seen| deleted(removal(Family::V4, &Names::flannels(), seen, &networks));
    let pair = with_rules(&[], &PAIR);
    assert_eq!(replaced(&pair), none);
    assert_eq!(removed(&pair), none);
    assert_eq!(
        leftovers("iptables", Family::V4, &Names::flannels(), &pair, &networks),
        none
    );
    assert_eq!(removed(&with_rules(&GROUP[..3], &PAIR)), none);
    let other = GROUP.map(|rule| rule.replace("10.244.", "10.99."));
    let other = other.each_ref().map(String::as_str);
    assert_eq!(removed(&with_rules(&other, &PAIR)), full("POSTROUTING", &other));
    let both = with_rules(&GROUP, &PAIR);
    assert_eq!(replaced(&both), full("POSTROUTING", &GROUP));
    assert_eq!(
        removed(&both),
        [full("POSTROUTING", &GROUP), full("FORWARD", &PAIR)].concat()
    );
}

#[test]
fn what_goes_without_flannels_comment_is_told() {
    let commented = "-s 10.1.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT";
    let forward = [JUMP, JUMP, commented, PAIR[0], PAIR[1]];
    let seen = with_rules(&GROUP, &forward);
    let told = outdated(&rules(Family::V4), &Names::flannels(), &seen, &[]);
    let told_of = |chain, rules: &[&str]| full(&format!("-A {chain}"), rules);
    assert_eq!(
        told,
        [told_of("POSTROUTING", &GROUP), told_of("FORWARD", &PAIR)].concat()
    );
    // A chain goes with whatever leads there.
    let seen = with_rules(&["-o eth0 -j FLANNEL-POSTRTG"], &[JUMP]);
    let told = outdated(&Ruleset::none(Family::V4), &Names::flannels(), &seen, &[]);
    assert_eq!(told, ["-A POSTROUTING -o eth0 -j FLANNEL-POSTRTG"]);
    let told = outdated(
        &rules(Family::V4),
        &Names::flannels(),
        &with_rules(&GROUP[..2], &[]),
        &[],
    );
    assert_eq!(told, [""; 0]);
}

#[test]
fn old_rules_with_flannels_comment_go_whatever_their_network() {
    let masq =
        "-s 10.1.0.0/16 ! -d 224.0.0.0/4 -m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully";
    let accept = "-d 10.1.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT";
    let operators =
        "-s 10.1.0.0/16 -o eth0 -m comment --comment \"flanneld masq\" -j SNAT --to-source 192.0.2.1";
    let twice = "-s 10.1.0.0/16 -m comment --comment mine -m comment --comment \"flanneld masq\" -j RETURN";
    let crossed = "-s 10.1.0.0/16 -m comment --comment \"flanneld forward\" -j RETURN";
    let seen = with_rules(&[masq, operators, twice, crossed], &[accept]);
    let wanted = [full("POSTROUTING", &[masq]), full("FORWARD", &[accept])].concat();
    assert_eq!(deleted(kept(&seen, &[])), wanted);
    // Beside the flannel of another network, only what is known.
    let blue = Names::with_suffix("blue");
    let of_blue = |former: &[IpNet]| deleted(transaction(&rules(Family::V4), &blue, &seen, former));
    assert_eq!(of_blue(&[]), Vec::<String>::new());
    assert_eq!(of_blue(&[net("10.1.0.0/16")]), wanted);
}

#[test]
fn what_would_be_removed_is_told_line_by_line() {
    let mut seen = ours(Family::V6);
    seen.postrouting.push_str(
        "-A POSTROUTING -s fd00:244::/48 -d fd00:244::/48 -j RETURN\n\
         -A POSTROUTING -s fd00:244::/48 ! -d ff00::/8 -j MASQUERADE\n\
         -A POSTROUTING ! -s fd00:244::/48 -d fd00:244:0:7::/64 -j RETURN\n\
         -A POSTROUTING ! -s fd00:244::/48 -d fd00:244::/48 -j MASQUERADE\n",
    );
    seen.forward
        .push_str("-A FORWARD -s fd00:244::/48 -j ACCEPT\n-A FORWARD -d fd00:244::/48 -j ACCEPT\n");
    let network = [net("fd00:244::/48"), net("10.244.0.0/16")];
    let lines = leftovers("ip6tables", Family::V6, &Names::flannels(), &seen, &network);
    assert_snapshot!(lines.join("\n"), @r#"
    ip6tables -t nat -N FLANNEL-POSTRTG
    ip6tables -t nat -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
    ip6tables -t nat -A FLANNEL-POSTRTG -s fd00:244:0:7::/64 -d fd00:244::/48 -m comment --comment "flanneld masq" -j RETURN
    ip6tables -t nat -A FLANNEL-POSTRTG -s fd00:244::/48 -d fd00:244:0:7::/64 -m comment --comment "flanneld masq" -j RETURN
    ip6tables -t nat -A FLANNEL-POSTRTG ! -s fd00:244::/48 -d fd00:244:0:7::/64 -m comment --comment "flanneld masq" -j RETURN
    ip6tables -t nat -A FLANNEL-POSTRTG -s fd00:244::/48 ! -d ff00::/8 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
    ip6tables -t nat -A FLANNEL-POSTRTG ! -s fd00:244::/48 -d fd00:244::/48 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
    ip6tables -t nat -A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
    ip6tables -t nat -A POSTROUTING -s fd00:244::/48 -d fd00:244::/48 -j RETURN
    ip6tables -t nat -A POSTROUTING -s fd00:244::/48 ! -d ff00::/8 -j MASQUERADE
    ip6tables -t nat -A POSTROUTING ! -s fd00:244::/48 -d fd00:244:0:7::/64 -j RETURN
    ip6tables -t nat -A POSTROUTING ! -s fd00:244::/48 -d fd00:244::/48 -j MASQUERADE
    ip6tables -t filter -N FLANNEL-FWD
    ip6tables -t filter -A FLANNEL-FWD -s fd00:244::/48 -m comment --comment "flanneld forward" -j ACCEPT
    ip6tables -t filter -A FLANNEL-FWD -d fd00:244::/48 -m comment --comment "flanneld forward" -j ACCEPT
    ip6tables -t filter -A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
    ip6tables -t filter -A FORWARD -s fd00:244::/48 -j ACCEPT
    ip6tables -t filter -A FORWARD -d fd00:244::/48 -j ACCEPT
    "#);
    assert_eq!(
        leftovers("ip6tables", Family::V6, &Names::flannels(), &empty(), &network),
        Vec::<String>::new()
    );
    assert_eq!(removal(Family::V6, &Names::flannels(), &empty(), &network), None);
}

fn stopped(rules: &Ruleset, policy: &str, forward: &[&str]) -> Option<Vec<IpNet>> {
    let mut seen = with_rules(&[], forward);
    seen.forward = seen
        .forward
        .replacen("-P FORWARD ACCEPT", &format!("-P FORWARD {policy}"), 1);
    let found = obstacles(&seen, rules, &Names::flannels());
    assert!(found.len() <= 1, "{found:?}");
    found.into_iter().next().map(
        |Filter {
             families,
             table,
             chain,
             accepts,
             ..
         }| {
            assert_eq!(
                (families, table.as_str(), chain.as_str()),
                (vec![rules.family], "ip filter", "FORWARD")
            );
            accepts
        },
    )
}

const JUMP: &str = "-m comment --comment \"flanneld forward\" -j FLANNEL-FWD";
const REJECT: &str = "-j REJECT --reject-with icmp-host-prohibited";

#[test]
fn a_rule_that_drops_everything_before_our_jump_is_an_obstacle() {
    let rules = rules(Family::V4);
    assert_eq!(stopped(&rules, "ACCEPT", &[REJECT, JUMP]), Some(vec![]));
    assert_eq!(
        stopped(&rules, "ACCEPT", &["-m comment --comment no -j DROP", JUMP]),
        Some(vec![])
    );
    assert_eq!(stopped(&rules, "ACCEPT", &[REJECT]), Some(vec![]));
    assert_eq!(
        stopped(&rules, "ACCEPT", &["-j DOCKER-USER", REJECT, JUMP]),
        Some(vec![])
    );
    assert_eq!(stopped(&rules, "DROP", &["-j RETURN", JUMP]), Some(vec![]));
    let accepting = [
        "-s 10.1.0.0/16 -j ACCEPT",
        "! -d 10.2.0.0/16 -j ACCEPT",
        "-i lo -j ACCEPT",
        REJECT,
        JUMP,
    ];
    assert_eq!(
        stopped(&rules, "ACCEPT", &accepting),
        Some(vec![net("10.1.0.0/16")])
    );

    assert_eq!(stopped(&rules, "ACCEPT", &[JUMP, REJECT]), None);
    assert_eq!(stopped(&rules, "ACCEPT", &["-j ACCEPT", REJECT, JUMP]), None);
    assert_eq!(
        stopped(
            &rules,
            "ACCEPT",
            &["-s 192.0.2.0/24 -j DROP", "-p tcp -j REJECT", JUMP]
        ),
        None
    );
    assert_eq!(stopped(&rules, "ACCEPT", &["-j RETURN", JUMP]), None);
    // Only for some packets, and to another's.
    let others = ["-i eth0 -j FLANNEL-FWD", "-j FLANNEL-FWD-blue", REJECT];
    assert_eq!(stopped(&rules, "ACCEPT", &others), Some(vec![]));
}

#[test]
fn a_policy_to_drop_is_an_obstacle_only_without_rules_of_ours() {
    assert_eq!(stopped(&rules(Family::V4), "DROP", &[JUMP]), None);
    assert_eq!(stopped(&rules(Family::V4), "DROP", &[]), None);
    let options = RuleOptions {
        forward: false,
        ..ALL
    };
    let none = Ruleset::for_pods(Family::V4, &pods(), options);
    assert_eq!(stopped(&none, "DROP", &[]), Some(vec![]));
    // Our jump is about to go.
    assert_eq!(
        stopped(&none, "DROP", &[JUMP, "-d 10.244.0.0/16 -j ACCEPT"]),
        Some(vec![net("10.244.0.0/16")])
    );
    assert_eq!(
        stopped(&none, "DROP", &["-j DOCKER-USER", "-o docker0 -j DOCKER"]),
        Some(vec![])
    );
    assert_eq!(stopped(&none, "DROP", &["-j DOCKER-USER", "-j mine"]), None);
    assert_eq!(stopped(&none, "ACCEPT", &[]), None);
    assert_eq!(stopped(&none, "ACCEPT", &[REJECT]), Some(vec![]));
    assert_eq!(stopped(&Ruleset::none(Family::V4), "DROP", &[]), None);
}

/// Rules of an operator, and of flannels of all times.
fn any_builtin(chain: &'static str) -> impl Strategy<Value = Vec<String>> {
    let rules = [GROUP.as_slice(), &PAIR, &[REJECT]].concat();
    let mut rules: Vec<Vec<String>> = rules.iter().map(|rule| vec![(*rule).to_owned()]).collect();
    for together in [&GROUP[..], &PAIR] {
        rules.push(together.iter().map(|rule| (*rule).to_owned()).collect());
    }
    let (comment, ours) = match chain {
        "POSTROUTING" => ("flanneld masq", "FLANNEL-POSTRTG"),
        _ => ("flanneld forward", "FLANNEL-FWD"),
    };
    for said in [
        format!("-m comment --comment \"{comment}\" "),
        "-o eth0 ".to_owned(),
        String::new(),
    ] {
        rules.push(vec![format!("{said}-j {ours}")]);
        rules.push(vec![format!("{said}-g {ours}")]);
        rules.push(vec![format!("{said}-j {ours}-blue")]);
        rules.push(vec![format!("-s 10.1.0.0/16 {said}-j ACCEPT")]);
    }
    rules.push(vec![
        "-m comment --comment \"it\\'s \\\"mine\\\" -j FLANNEL-FWD\" -j LOG --log-prefix \"a b\"".to_owned(),
    ]);
    let rules = prop::collection::vec(prop::sample::select(rules), 0..12);
    rules.prop_map(move |rules| {
        let rules = rules.iter().flatten();
        rules.map(|rule| format!("{chain} {rule}")).collect()
    })
}

fn any_text() -> impl Strategy<Value = String> {
    let words = [
        "-A",
        "-P",
        "-N",
        "FORWARD",
        "-s",
        "!",
        "10.244.0.0/16",
        "-j",
        "-g",
        "ACCEPT",
        "--mark",
        "-m",
        "\"",
        "\\",
        "\n",
        "0x4000/0x4000",
        "--comment",
        "\u{fc}\u{2003}",
    ];
    let word = prop_oneof![
        prop::sample::select(words.to_vec()).prop_map(str::to_owned),
        any::<String>()
    ];
    prop::collection::vec(word, 0..30).prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn one_transaction_makes_it_right_and_keeps_the_operators_rules(
        rules in any_rules(),
        postrouting in any_builtin("POSTROUTING"),
        forward in any_builtin("FORWARD"),
        ours in any::<bool>(),
    ) {
        let (names, former) = (Names::flannels(), [net("10.244.0.0/16")]);
        let mut host = Fake::new(postrouting, forward);
        if ours {
            host.restore(":FLANNEL-POSTRTG - [0:0]\n-A FLANNEL-POSTRTG -j RETURN\n:FLANNEL-FWD - [0:0]");
        }
        let before = host.clone();
        let told = outdated(&rules, &names, &host.seen(), &former);
        if let Some(text) = transaction(&rules, &names, &host.seen(), &former) {
            host.restore(&text);
        }
        prop_assert_eq!(before.uncommented().len() - host.uncommented().len(), told.len());
        for together in [full("POSTROUTING", &GROUP), full("FORWARD", &PAIR)] {
            // All of them, or none.
            let gone = |rule: &String| before.count(rule) - host.count(rule);
            let first = gone(&together[0]);
            prop_assert!(together.iter().all(|rule| gone(rule) == first), "{:?}", together);
        }
        prop_assert_eq!(transaction(&rules, &names, &host.seen(), &former), None);
        for (chain, rule) in [("FLANNEL-POSTRTG", &rules.masquerade), ("FLANNEL-FWD", &rules.forward)] {
            prop_assert_eq!(host.length(chain), (!rule.is_empty()).then_some(rule.len()));
        }
        prop_assert_eq!(host.operators(), before.operators());

        if let Some(text) = removal(rules.family, &names, &host.seen(), &former) {
            host.restore(&text);
        }
        prop_assert_eq!(removal(rules.family, &names, &host.seen(), &former), None);
        prop_assert_eq!(leftovers("iptables", rules.family, &names, &host.seen(), &former), Vec::<String>::new());
        prop_assert_eq!(host.length("FLANNEL-FWD"), None);
        prop_assert_eq!(host.operators(), before.operators());
    }

    #[test]
    fn no_text_is_too_strange_to_be_looked_at(text in any_text(), other in any_text()) {
        let seen = Seen {
            postrouting: text.clone(),
            masquerade: Some(other.clone()),
            forward: other,
            forwards: Some(text),
        };
        prop_assert!(kept(&seen, &["10.1.0.0/16"]).is_some());
        let _ = leftovers("iptables", Family::V4, &Names::flannels(), &seen, &[net("10.244.0.0/16")]);
        let _ = obstacles(&seen, &rules(Family::V4), &Names::flannels());
    }
}
