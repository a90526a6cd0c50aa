//! What flannel itself has left on a host.

use flannel_core::{Family, PerFamily, PodNetwork};

use crate::sampler::Sampler;
use crate::setting::{ALL_RULES, Mode, everything, feed, in_each_mode, keep, keep_untouched, pods, program};

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
