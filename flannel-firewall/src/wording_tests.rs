use flannel_core::Family;

use super::*;
use crate::ruleset::tests::{ALL, pods};
use crate::{iptables, nft};

fn rules() -> Ruleset {
    Ruleset::for_pods(Family::V4, &pods(), ALL)
}

#[test]
fn a_table_with_the_same_number_of_rules_may_say_the_same() {
    let written = nft::transaction(&rules(), &Names::flannels());
    let reworded = written
        .replace(" return", " go-back")
        .replace("priority srcnat", "priority 100")
        .replace("comment \"rules for flannel-ipv4\"", "");
    assert!(reworded.contains("go-back"));
    assert!(of_table(&reworded, &written));
    let wrong = [
        written.replace("type nat hook postrouting", "type nat hook input"),
        written.replacen("policy accept", "policy drop", 1),
        written.replacen("return\n", "return\n\t\tdrop\n", 1),
        written.replacen("\tchain postrtg {", "\tflags dormant\n\tchain postrtg {", 1),
        written.replacen("chain forward", "chain backward", 1),
        written
            .lines()
            .filter(|line| !line.contains("masquerade fully"))
            .map(|line| format!("{line}\n"))
            .collect(),
        String::new(),
    ];
    for wrong in wrong {
        assert_ne!(wrong, written);
        assert!(!of_table(&wrong, &written), "{wrong}");
    }
}

#[test]
fn chains_with_the_same_number_of_rules_behind_the_same_jumps_may_say_the_same() {
    let (rules, names) = (rules(), Names::flannels());
    let written = iptables::transaction(&rules, &names, &Seen::default(), &[]).unwrap();
    let listed = |chain: &str| -> String {
        let of_chain = |line: &&str| line.starts_with(&format!("-A {chain} "));
        written
            .lines()
            .filter(of_chain)
            .map(|line| format!("{line}\n"))
            .collect()
    };
    let reworded = Seen {
        postrouting: format!("-P POSTROUTING ACCEPT\n{}", listed("POSTROUTING")),
        masquerade: Some(
            format!("-N FLANNEL-POSTRTG\n{}", listed("FLANNEL-POSTRTG")).replace("RETURN", "GO-BACK"),
        ),
        forward: format!("-P FORWARD ACCEPT\n{}", listed("FORWARD")),
        forwards: Some(format!("-N FLANNEL-FWD\n{}", listed("FLANNEL-FWD"))),
    };
    let may_say = |seen: &Seen| {
        let correction = iptables::transaction(&rules, &names, seen, &[]).unwrap();
        of_chains(seen, &rules, &names, &correction)
    };
    assert!(may_say(&reworded));
    let masquerade = reworded.masquerade.clone().unwrap();
    let wrong = [
        Seen {
            postrouting: "-P POSTROUTING ACCEPT\n".to_owned(),
            ..reworded.clone()
        },
        Seen {
            forward: listed("FORWARD").repeat(2),
            ..reworded.clone()
        },
        Seen {
            masquerade: Some(format!("{masquerade}-A FLANNEL-POSTRTG -j ACCEPT\n")),
            ..reworded.clone()
        },
        Seen {
            masquerade: masquerade.rsplit_once("-A ").map(|(rest, _)| rest.to_owned()),
            ..reworded.clone()
        },
        Seen {
            forwards: None,
            ..reworded.clone()
        },
    ];
    for wrong in wrong {
        assert!(!may_say(&wrong), "{wrong:?}");
    }
}
