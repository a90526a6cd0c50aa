//! Rules are made what they ought to be, and written only where they are not.

use flannel_core::{Family, Firewall, PerFamily};

use crate::disturbances;
use crate::setting::{ALL_RULES, Mode, everything, in_each_mode, keep, keep_untouched, pods, sh};

#[test]
fn what_is_right_is_not_written_again() {
    in_each_mode(async |mode, programs| {
        let firewall = programs.firewall(ALL_RULES);
        let written = keep(&firewall, &pods(mode)).await.written;
        assert_eq!(written.len(), 2, "{mode:?}: {written:?}");
        keep_untouched(&firewall, &pods(mode)).await;
        // Nor by a daemon that has just started.
        keep_untouched(&programs.firewall(ALL_RULES), &pods(mode)).await;
    });
}

#[test]
fn whatever_is_done_to_the_rules_is_put_right_exactly() {
    in_each_mode(async |mode, programs| {
        let firewall = programs.firewall(ALL_RULES);
        let pods = pods(mode);
        keep(&firewall, &pods).await;
        let right = everything().await;
        for family in Family::ALL {
            for disturbance in disturbances::all(mode, family) {
                let what = format!("{mode:?} {family}: {}", disturbance.what);
                sh(&disturbance.command).await;
                assert_ne!(everything().await, right, "{what}");
                let written = keep(&firewall, &pods).await.written;
                assert!(!written.is_empty(), "{what}");
                assert_eq!(everything().await, right, "{what}");
                keep_untouched(&firewall, &pods).await;
            }
        }
    });
}

#[test]
fn changes_of_tables_with_our_rules_are_asked_for_and_of_no_others() {
    in_each_mode(async |mode, programs| {
        let tables = [
            "ip flannel-ipv4",
            "ip6 flannel-ipv6",
            "ip nat",
            "ip filter",
            "ip6 nat",
            "ip6 filter",
        ];
        let others = [
            "ip mangle",
            "inet nat",
            "ip flannel-ipv4-blue",
            "ip6 flannel-ipv4",
            "nat",
            "",
        ];
        let firewall = programs.firewall(ALL_RULES);
        keep(&firewall, &pods(mode)).await;
        let concerned: Vec<_> = tables
            .into_iter()
            .filter(|table| firewall.is_concerned(table))
            .collect();
        let expected = match mode {
            Mode::Nftables => &tables[..2],
            Mode::IptablesNft => &tables[2..],
            // The kernel tells nobody of those.
            Mode::IptablesLegacy => &[],
        };
        assert_eq!(concerned, expected, "{mode:?}");
        assert!(!others.into_iter().any(|table| firewall.is_concerned(table)));
    });
}

#[test]
fn a_family_that_is_right_is_left_alone_when_the_other_is_not() {
    in_each_mode(async |mode, programs| {
        let firewall = programs.firewall(ALL_RULES);
        keep(&firewall, &pods(mode)).await;
        let disturbances = disturbances::all(mode, Family::V6);
        sh(&disturbances[0].command).await;
        let written = keep(&firewall, &pods(mode)).await.written;
        assert_eq!(written.len(), 1, "{written:?}");
        assert!(
            written[0].starts_with("rules for fd00:244::/48 written to "),
            "{written:?}"
        );
    });
}

#[test]
fn a_network_without_ipv6_has_no_rules_for_it() {
    in_each_mode(async |mode, programs| {
        let firewall = programs.firewall(ALL_RULES);
        let both = pods(mode);
        let v4 = flannel_core::PodNetwork {
            networks: PerFamily {
                v6: None,
                ..both.networks
            },
            subnets: PerFamily {
                v6: None,
                ..both.subnets
            },
            ..both.clone()
        };
        keep(&firewall, &v4).await;
        let alone = everything().await;
        assert!(
            !alone.contains("fd00") && !alone.contains("flannel-ipv6"),
            "{alone}"
        );
        keep(&firewall, &both).await;
        assert!(everything().await.contains("fd00"));
        keep(&firewall, &v4).await;
        let again = everything().await;
        assert!(
            !again.contains("fd00") && !again.contains("flannel-ipv6"),
            "{again}"
        );
        assert!(again.contains("10.244.7.0/24"));
    });
}
