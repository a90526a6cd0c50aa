//! What drops forwarded packets in spite of our rules.

use flannel_core::{Family, Filter, PerFamily, PodNetwork};

use crate::setting::{ALL_RULES, Mode, Programs, in_each_mode, in_namespace, keep, pods, sh};

fn v4(mode: Mode) -> PodNetwork {
    PodNetwork {
        networks: PerFamily {
            v6: None,
            ..pods(mode).networks
        },
        ..pods(mode)
    }
}

async fn filters(programs: &Programs, mode: Mode) -> Vec<Filter> {
    keep(&programs.firewall(ALL_RULES), &v4(mode)).await.filters
}

#[test]
fn a_host_that_lets_packets_through_has_no_obstacles() {
    in_each_mode(async |mode, programs| {
        assert_eq!(filters(programs, mode).await, []);
        sh("iptables-nft -A FORWARD -s 192.0.2.0/24 -j DROP; iptables-legacy -A FORWARD -p udp -j REJECT")
            .await;
        assert_eq!(filters(programs, mode).await, []);
    });
}

#[test]
fn a_policy_to_drop_of_the_older_iptables_is_told_where_our_rules_are_elsewhere() {
    for mode in [Mode::Nftables, Mode::IptablesNft] {
        in_namespace(async {
            let programs = Programs::of(mode);
            sh("iptables-legacy -P FORWARD DROP").await;
            let filters = filters(&programs, mode).await;
            let [filter] = filters.as_slice() else {
                panic!("{mode:?}: {filters:?}");
            };
            assert_eq!(
                (filter.families.as_slice(), filter.chain.as_str()),
                ([Family::V4].as_slice(), "FORWARD")
            );
            assert_eq!(filter.accepts, []);
            assert_eq!(filter.program.as_deref(), Some("iptables-legacy"));
            sh("iptables-legacy -A FORWARD -s 10.244.0.0/16 -j ACCEPT").await;
            let filters = keep(&programs.firewall(ALL_RULES), &v4(mode)).await.filters;
            assert_eq!(filters[0].accepts, ["10.244.0.0/16".parse().unwrap()]);
        });
    }
}

#[test]
fn a_policy_to_drop_is_none_where_our_rules_are_in_the_same_chain() {
    in_namespace(async {
        let programs = Programs::of(Mode::IptablesLegacy);
        sh("iptables-legacy -P FORWARD DROP").await;
        assert_eq!(filters(&programs, Mode::IptablesLegacy).await, []);
    });
}

/// Of those, every program is told by netlink.
#[test]
fn a_policy_to_drop_in_nftables_is_not_told_twice() {
    for mode in [Mode::Nftables, Mode::IptablesLegacy] {
        in_namespace(async {
            sh("iptables-nft -P FORWARD DROP").await;
            assert_eq!(filters(&Programs::of(mode), mode).await, []);
        });
    }
}

#[test]
fn a_rule_that_rejects_everything_before_ours_is_told() {
    for mode in [Mode::IptablesNft, Mode::IptablesLegacy, Mode::Nftables] {
        in_namespace(async {
            let variant = if mode == Mode::IptablesLegacy {
                "legacy"
            } else {
                "nft"
            };
            sh(&format!(
                "iptables-{variant} -A FORWARD -j REJECT --reject-with icmp-host-prohibited"
            ))
            .await;
            let filters = filters(&Programs::of(mode), mode).await;
            assert_eq!(filters.len(), 1, "{mode:?}: {filters:?}");
            let legacy = (mode == Mode::IptablesLegacy).then_some("iptables");
            assert_eq!(filters[0].program.as_deref(), legacy);
        });
    }
}
