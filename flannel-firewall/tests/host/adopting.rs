//! What flannel itself has left on a host, and what only looks like it.

use flannel_core::{Family, PerFamily, PodNetwork};
use flannel_firewall::RuleOptions;

use crate::sampler::Sampler;
use crate::setting::{
    ALL_RULES, Mode, everything, feed, in_each_mode, keep, keep_untouched, pods, program, sh,
};

/// flannel v0.28 in iptables mode, as it gives it to `iptables-restore`.
const IPTABLES: &str = r#"*filter
:FLANNEL-FWD - [0:0]
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
COMMIT
*nat
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.7.0/24 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 -d 10.244.7.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.7.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
COMMIT
"#;

/// flannel v0.28 in nftables mode, with a mark that is compared without its mask and a rule that is
/// never reached.
const NFTABLES: &str = r#"
table ip flannel-ipv4 {
    comment "rules for flannel-ipv4"
    chain postrtg {
        comment "chain to manage traffic masquerading by flannel"
        type nat hook postrouting priority srcnat; policy accept;
        meta mark 0x00004000 return
        ip saddr 10.244.7.0/24 ip daddr 10.244.0.0/16 return
        ip saddr 10.244.0.0/16 ip daddr 10.244.7.0/24 return
        ip saddr != 10.244.7.0/24 ip daddr 10.244.0.0/16 return
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
table ip6 flannel-ipv6 {
    comment "rules for flannel-ipv6"
}
"#;

fn v4(mode: Mode) -> PodNetwork {
    PodNetwork {
        networks: PerFamily {
            v6: None,
            ..pods(mode).networks
        },
        subnets: PerFamily {
            v6: None,
            ..pods(mode).subnets
        },
        ..pods(mode)
    }
}

#[test]
fn flannels_rules_in_iptables_are_taken_as_they_are() {
    in_each_mode(async |mode, programs| {
        if mode != Mode::Nftables {
            feed(
                &format!("{}-restore", program(mode, Family::V4)),
                &["--noflush"],
                IPTABLES,
            )
            .await;
            keep_untouched(&programs.firewall(ALL_RULES), &v4(mode)).await;
        }
    });
}

#[test]
fn flannels_rules_in_nftables_are_replaced_in_place() {
    in_each_mode(async |mode, programs| {
        feed("nft", &["-f", "-"], NFTABLES).await;
        let sampler = Sampler::start();
        let firewall = programs.firewall(ALL_RULES);
        let written = keep(&firewall, &v4(mode)).await.written;
        assert!(!written.is_empty());
        sampler.more().await;
        sampler.stop();
        let text = everything().await;
        assert!(!text.contains("flannel-ipv6"), "{text}");
        assert_eq!(text.contains("flannel-ipv4"), mode == Mode::Nftables, "{text}");
        assert!(!text.contains("!= 10.244.7.0/24"), "{text}");
        keep_untouched(&firewall, &v4(mode)).await;
    });
}

/// A variant of iptables that is there in this mode, which has our rules unless they are in nftables.
const fn iptables(mode: Mode) -> &'static str {
    match mode {
        Mode::Nftables => "iptables-nft",
        mode => program(mode, Family::V4),
    }
}

/// The rules in a built-in chain but for our jump.
async fn operators(iptables: &str, table: &str, chain: &str) -> Vec<String> {
    let listed = sh(&format!("{iptables} -w -t {table} -S {chain}")).await;
    let lines = listed.lines().filter(|line| !line.contains("FLANNEL"));
    lines.map(str::to_owned).collect()
}

const ACCEPTING: [&str; 2] = [
    "-A FORWARD -s 10.244.0.0/16 -j ACCEPT",
    "-A FORWARD -d 10.244.0.0/16 -j ACCEPT",
];

#[test]
fn an_operators_accepting_rules_stay_in_front_of_one_that_rejects_all_else() {
    in_each_mode(async |mode, programs| {
        let iptables = iptables(mode);
        let [from, to] = ACCEPTING;
        sh(&format!(
            "set -e; {iptables} {from}; {iptables} {to}; {iptables} -A FORWARD -j REJECT"
        ))
        .await;
        let before = operators(iptables, "filter", "FORWARD").await;
        assert_eq!(before.len(), 4, "{before:?}");
        let firewall = programs.firewall(ALL_RULES);
        keep(&firewall, &v4(mode)).await;
        assert_eq!(operators(iptables, "filter", "FORWARD").await, before, "{mode:?}");
        keep_untouched(&firewall, &v4(mode)).await;
        firewall
            .remove(&["10.244.0.0/16".parse().unwrap()])
            .await
            .unwrap();
        assert_eq!(operators(iptables, "filter", "FORWARD").await, before, "{mode:?}");
    });
}

#[test]
fn an_operators_accepting_rules_stay_where_no_rules_of_ours_take_their_place() {
    in_each_mode(async |mode, programs| {
        let elsewhere = match mode {
            Mode::IptablesNft => "iptables-legacy",
            Mode::Nftables | Mode::IptablesLegacy => "iptables-nft",
        };
        let [from, to] = ACCEPTING;
        sh(&format!(
            "set -e; {elsewhere} {from}; {elsewhere} {to}; {elsewhere} -P FORWARD DROP"
        ))
        .await;
        let before = operators(elsewhere, "filter", "FORWARD").await;
        assert_eq!(before, ["-P FORWARD DROP", from, to]);
        let firewall = programs.firewall(ALL_RULES);
        keep(&firewall, &v4(mode)).await;
        assert_eq!(
            operators(elsewhere, "filter", "FORWARD").await,
            before,
            "{mode:?}"
        );
        let networks = ["10.244.0.0/16".parse().unwrap()];
        firewall.remove(&networks).await.unwrap();
        assert_eq!(
            operators(elsewhere, "filter", "FORWARD").await,
            before,
            "{mode:?}"
        );
    });
}

#[test]
fn an_operators_own_masquerading_stays_whether_or_not_ours_is_asked_for() {
    in_each_mode(async |mode, programs| {
        let iptables = iptables(mode);
        sh(&format!(
            "set -e; t='{iptables} -w -t nat -A POSTROUTING'
            $t -s 10.244.0.0/16 -d 10.244.0.0/16 -j RETURN
            $t -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE"
        ))
        .await;
        let before = operators(iptables, "nat", "POSTROUTING").await;
        assert_eq!(before.len(), 3, "{before:?}");
        for masquerade in [false, true, false] {
            let firewall = programs.firewall(RuleOptions {
                masquerade,
                ..ALL_RULES
            });
            keep(&firewall, &v4(mode)).await;
            assert_eq!(
                operators(iptables, "nat", "POSTROUTING").await,
                before,
                "{mode:?}"
            );
        }
        let networks = ["10.244.0.0/16".parse().unwrap()];
        programs.firewall(ALL_RULES).remove(&networks).await.unwrap();
        assert_eq!(
            operators(iptables, "nat", "POSTROUTING").await,
            before,
            "{mode:?}"
        );
    });
}
