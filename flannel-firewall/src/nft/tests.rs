use flannel_core::PodNetwork;
use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::ruleset::RuleOptions;
use crate::ruleset::tests::{ALL, any_rules, pods};

/// What nft 1.0.6 printed of flannel's rules for IPv4, put right.
const LISTED_V4: &str = include_str!("testdata/v4.txt");
/// The same with handles (`-a`), and priorities as numbers (`-n`).
const LISTED_V4_IN_NUMBERS: &str = include_str!("testdata/v4-an.txt");
/// Of IPv6, with two ranges and a suffix, without random ports.
const LISTED_V6: &str = include_str!("testdata/v6.txt");

fn v4() -> Ruleset {
    Ruleset::for_pods(Family::V4, &pods(), ALL)
}

fn v6_with_ranges() -> Ruleset {
    let ranges = ["2001:db8::/32", "192.0.2.0/24", "2001:db8:5::5/128"];
    let pods = PodNetwork {
        unmasqueraded: ranges.map(|range| range.parse().unwrap()).to_vec(),
        ..pods()
    };
    let options = RuleOptions {
        random_fully: false,
        ..ALL
    };
    Ruleset::for_pods(Family::V6, &pods, options)
}

#[test]
fn the_table_is_removed_and_made_anew_in_one_text() {
    assert_snapshot!(transaction(&v4(), &Names::flannels()), @r#"
    add table ip flannel-ipv4
    delete table ip flannel-ipv4
    table ip flannel-ipv4 {
    	comment "rules for flannel-ipv4"
    	chain postrtg {
    		comment "chain to manage traffic masquerading by flannel"
    		type nat hook postrouting priority srcnat; policy accept;
    		meta mark & 0x4000 == 0x4000 return
    		ip saddr 10.244.7.0/24 ip daddr 10.244.0.0/16 return
    		ip saddr 10.244.0.0/16 ip daddr 10.244.7.0/24 return
    		ip saddr != 10.244.0.0/16 ip daddr 10.244.7.0/24 return
    		ip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
    		ip saddr != 10.244.0.0/16 ip daddr 10.244.0.0/16 masquerade fully-random
    	}
    	chain forward {
    		comment "chain to accept flannel traffic"
    		type filter hook forward priority filter; policy accept;
    		ip saddr 10.244.0.0/16 accept
    		ip daddr 10.244.0.0/16 accept
    	}
    }
    "#);
}

#[test]
fn ranges_come_before_what_is_masqueraded_and_a_suffix_names_the_table() {
    assert_snapshot!(transaction(&v6_with_ranges(), &Names::with_suffix("blue")), @r#"
    add table ip6 flannel-ipv6-blue
    delete table ip6 flannel-ipv6-blue
    table ip6 flannel-ipv6-blue {
    	comment "rules for flannel-ipv6-blue"
    	chain postrtg {
    		comment "chain to manage traffic masquerading by flannel"
    		type nat hook postrouting priority srcnat; policy accept;
    		meta mark & 0x4000 == 0x4000 return
    		ip6 saddr fd00:244:0:7::/64 ip6 daddr fd00:244::/48 return
    		ip6 saddr fd00:244::/48 ip6 daddr fd00:244:0:7::/64 return
    		ip6 saddr != fd00:244::/48 ip6 daddr fd00:244:0:7::/64 return
    		ip6 saddr fd00:244::/48 ip6 daddr 2001:db8::/32 return
    		ip6 saddr fd00:244::/48 ip6 daddr 2001:db8:5::5/128 return
    		ip6 saddr fd00:244::/48 ip6 daddr != ff00::/8 masquerade
    		ip6 saddr != fd00:244::/48 ip6 daddr fd00:244::/48 masquerade
    	}
    	chain forward {
    		comment "chain to accept flannel traffic"
    		type filter hook forward priority filter; policy accept;
    		ip6 saddr fd00:244::/48 accept
    		ip6 daddr fd00:244::/48 accept
    	}
    }
    "#);
}

#[test]
fn a_chain_without_rules_is_not_made_nor_a_table_without_chains() {
    let options = RuleOptions {
        masquerade: false,
        ..ALL
    };
    let forward = Ruleset::for_pods(Family::V4, &pods(), options);
    let text = transaction(&forward, &Names::flannels());
    assert!(
        !text.contains("postrtg") && text.contains("chain forward"),
        "{text}"
    );
    let removal = "add table ip flannel-ipv4\ndelete table ip flannel-ipv4\n";
    assert_eq!(
        transaction(&Ruleset::none(Family::V4), &Names::flannels()),
        removal
    );
    assert_eq!(super::removal(Family::V4, &Names::flannels()), removal);
}

#[test]
fn what_nft_prints_of_our_rules_says_our_rules() {
    assert!(says(LISTED_V4, &v4(), &Names::flannels()));
    assert!(says(LISTED_V4_IN_NUMBERS, &v4(), &Names::flannels()));
    assert!(says(LISTED_V6, &v6_with_ranges(), &Names::with_suffix("blue")));
    assert!(says("", &Ruleset::none(Family::V4), &Names::flannels()));
}

#[test]
fn other_tables_families_and_no_table_at_all_are_something_else() {
    assert!(!says("", &v4(), &Names::flannels()));
    assert!(!says(LISTED_V4, &Ruleset::none(Family::V4), &Names::flannels()));
    assert!(!says(LISTED_V4, &v4(), &Names::with_suffix("blue")));
    assert!(!says(
        &LISTED_V4.replace("table ip ", "table ip6 "),
        &v4(),
        &Names::flannels()
    ));
    assert!(!says(
        &format!("{LISTED_V4}{LISTED_V4}"),
        &v4(),
        &Names::flannels()
    ));
    let without_end = LISTED_V4.trim_end().strip_suffix('}').unwrap();
    assert!(!says(without_end, &v4(), &Names::flannels()));
}

/// Each listing is the one of nft 1.0.6 with some words replaced.
fn replaced(from: &str, to: &str) -> String {
    assert!(LISTED_V4.contains(from), "{from}");
    LISTED_V4.replacen(from, to, 1)
}

#[test]
fn the_same_in_other_words_is_the_same() {
    let comment = "\t\tcomment \"chain to manage traffic masquerading by flannel\"\n";
    let mark = "meta mark & 0x00004000 == 0x00004000";
    let base = "type nat hook postrouting priority srcnat; policy accept;";
    for (from, to) in [
        (comment, ""),
        ("\tcomment \"rules for flannel-ipv4\"\n", ""),
        (comment, "\t\tcomment \"a } brace; and # a hash\"\n"),
        (mark, "meta mark & 0x4000 == 0x4000"),
        (mark, "meta mark and 0x4000 == 16384"),
        (mark, "mark and 0x00004000 != 0x00000000"),
        (mark, "meta mark & 0x00004000 != 0"),
        (base, "type nat hook postrouting priority 100; policy accept;"),
        (
            base,
            "type nat hook postrouting priority srcnat\n\t\tpolicy accept",
        ),
        (base, "type nat hook postrouting priority srcnat;"),
        (" accept\n", " counter packets 3 bytes 4 accept # handle 9\n"),
        (" accept\n", " counter accept\n"),
        (
            "ip saddr 10.244.7.0/24 ip daddr 10.244.0.0/16",
            "ip daddr 10.244.0.0/16 ip saddr 10.244.7.0/24",
        ),
        ("\n\n\tchain forward", "\n\tchain forward"),
    ] {
        assert!(
            says(&replaced(from, to), &v4(), &Names::flannels()),
            "{from} -> {to}"
        );
    }
    let (head, forward) = LISTED_V4.split_once("\tchain forward").unwrap();
    let (table, masquerade) = head.split_once("\tchain postrtg").unwrap();
    let forward = forward.trim_end().strip_suffix('}').unwrap();
    let turned = format!("{table}\tchain forward{forward}\n\tchain postrtg{masquerade}\n}}\n");
    assert!(says(&turned, &v4(), &Names::flannels()), "{turned}");
}

#[test]
fn of_several_bits_in_a_mark_all_are_demanded() {
    let mut rules = v4();
    rules.masquerade[0].mark = Some(0xc000);
    let all = replaced("& 0x00004000 == 0x00004000", "& 0x0000c000 == 0x0000c000");
    assert!(says(&all, &rules, &Names::flannels()));
    let any = replaced("& 0x00004000 == 0x00004000", "& 0x0000c000 != 0x00000000");
    assert!(!says(&any, &rules, &Names::flannels()));
}

#[test]
fn whatever_else_is_in_the_table_or_missing_is_seen() {
    let mark = "\t\tmeta mark & 0x00004000 == 0x00004000 return\n";
    let first = "\t\tip saddr 10.244.7.0/24 ip daddr 10.244.0.0/16 return\n";
    let second = "\t\tip saddr 10.244.0.0/16 ip daddr 10.244.7.0/24 return\n";
    let base = "type nat hook postrouting priority srcnat; policy accept;";
    for (from, to) in [
        (mark, ""),
        (first, ""),
        (first, &format!("{first}{first}")),
        (&format!("{first}{second}"), &format!("{second}{first}")),
        (mark, &format!("\t\tip saddr 192.0.2.1 drop\n{mark}")),
        (mark, &format!("\t\tcounter packets 0 bytes 0\n{mark}")),
        (mark, &format!("\t\taccept\n{mark}")),
        ("& 0x00004000 == 0x00004000", "0x00004000"),
        ("& 0x00004000 == 0x00004000", "& 0x00004000 != 0x00004000"),
        ("& 0x00004000 == 0x00004000", "& 0x00008000 == 0x00008000"),
        ("& 0x00004000 == 0x00004000", "& 0x0000c000 == 0x00004000"),
        ("& 0x00004000 == 0x00004000", "& 0x00004000 == 0x00000000"),
        ("& 0x00004000 == 0x00004000", "& 0x0000c000 != 0x00000000"),
        ("& 0x00004000 == 0x00004000", "& 0x00000000 == 0x00000000"),
        ("meta mark", "ct mark"),
        ("masquerade fully-random", "masquerade"),
        ("masquerade fully-random", "masquerade random"),
        ("masquerade fully-random", "masquerade to :1024-2048 fully-random"),
        ("saddr 10.244.7.0/24", "saddr != 10.244.7.0/24"),
        ("saddr != 10.244.0.0/16", "saddr 10.244.0.0/16"),
        ("saddr 10.244.7.0/24", "saddr 10.244.7.0/25"),
        (
            "ip saddr 10.244.7.0/24",
            "ip saddr 10.244.7.0/24 ip saddr 10.244.7.0/24",
        ),
        (
            "ip saddr 10.244.7.0/24",
            "iifname \"eth0\" ip saddr 10.244.7.0/24",
        ),
        (" return\n", " return comment \"x\"\n"),
        (" return\n", " drop\n"),
        (base, "type nat hook postrouting priority srcnat; policy drop;"),
        (
            base,
            "type nat hook postrouting priority srcnat + 10; policy accept;",
        ),
        (base, "type nat hook postrouting priority 99; policy accept;"),
        (base, "type nat hook input priority srcnat; policy accept;"),
        (
            base,
            "type filter hook postrouting priority srcnat; policy accept;",
        ),
        (base, ""),
        (base, &format!("{base}\n\t\t{base}")),
        ("chain forward", "chain forwards"),
        ("\tchain forward", "\tchain other {\n\t}\n\n\tchain forward"),
        (
            "\tchain forward",
            "\tset pods {\n\t\ttype ipv4_addr\n\t}\n\n\tchain forward",
        ),
        ("\tchain postrtg", "\tflags dormant\n\tchain postrtg"),
        ("comment \"rules", "comment \"rules\n"),
    ] {
        assert!(
            !says(&replaced(from, to), &v4(), &Names::flannels()),
            "{from} -> {to}"
        );
    }
}

#[test]
fn what_would_be_removed_is_told_line_by_line() {
    let foreign = "\tset pods {\n\t\ttype ipv4_addr\n\t\telements = { 192.0.2.1 }\n\t}\n\n\tchain forward";
    let listing = replaced("\tchain forward", foreign);
    assert_snapshot!(leftovers(&listing, Family::V4, &Names::flannels()).join("\n"), @r"
    nft add table ip flannel-ipv4
    nft add chain ip flannel-ipv4 postrtg
    nft add rule ip flannel-ipv4 postrtg meta mark & 0x00004000 == 0x00004000 return
    nft add rule ip flannel-ipv4 postrtg ip saddr 10.244.7.0/24 ip daddr 10.244.0.0/16 return
    nft add rule ip flannel-ipv4 postrtg ip saddr 10.244.0.0/16 ip daddr 10.244.7.0/24 return
    nft add rule ip flannel-ipv4 postrtg ip saddr != 10.244.0.0/16 ip daddr 10.244.7.0/24 return
    nft add rule ip flannel-ipv4 postrtg ip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
    nft add rule ip flannel-ipv4 postrtg ip saddr != 10.244.0.0/16 ip daddr 10.244.0.0/16 masquerade fully-random
    nft add set ip flannel-ipv4 pods
    nft add chain ip flannel-ipv4 forward
    nft add rule ip flannel-ipv4 forward ip saddr 10.244.0.0/16 accept
    nft add rule ip flannel-ipv4 forward ip daddr 10.244.0.0/16 accept
    ");
    let with_handles = leftovers(LISTED_V4_IN_NUMBERS, Family::V4, &Names::flannels());
    assert_eq!(with_handles.len(), 11, "{with_handles:#?}");
    assert_eq!(
        leftovers("", Family::V4, &Names::flannels()),
        Vec::<String>::new()
    );
}

/// The definition alone, as a listing has it.
fn listed(rules: &Ruleset, names: &Names) -> String {
    let text = transaction(rules, names);
    text.replacen(&removal(rules.family, names), "", 1)
}

/// Text of the words that tables are made of.
fn any_listing() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        prop::sample::select(LISTED_V4.split_whitespace().collect::<Vec<_>>()).prop_map(str::to_owned),
        prop::sample::select(vec!["{", "}", "\n", ";", "\"", "#", "!=", "meta", "\u{fc}"])
            .prop_map(str::to_owned),
        any::<String>(),
    ];
    let words = prop::collection::vec(word, 0..40).prop_map(|words| words.join(" "));
    let cut = (0..LISTED_V4.len(), any::<char>()).prop_map(|(at, c)| {
        let (head, tail) = LISTED_V4.split_at(at);
        format!("{head}{c}{}", tail.get(1..).unwrap())
    });
    prop_oneof![words, cut]
}

proptest! {
    #[test]
    fn rules_are_read_back_as_they_were_written(rules in any_rules(), other in any_rules()) {
        let names = Names::flannels();
        let listing = listed(&rules, &names);
        prop_assert!(says(&listing, &rules, &names), "{}", listing);
        let same = (rules.family, &rules.masquerade, &rules.forward) == (other.family, &other.masquerade, &other.forward);
        prop_assert_eq!(says(&listing, &other, &names), same || rules.is_empty() && other.is_empty());
    }

    #[test]
    fn no_text_is_too_strange_to_be_looked_at(text in any_listing()) {
        let names = Names::flannels();
        let _ = leftovers(&text, Family::V4, &names);
        if says(&text, &v4(), &names) {
            // A letter of a comment, or white space.
            prop_assert!(text.len().abs_diff(LISTED_V4.len()) <= 3);
        }
    }
}
