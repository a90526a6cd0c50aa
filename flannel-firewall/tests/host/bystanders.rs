//! Rules of others, which stay as they are whatever becomes of ours.

use flannel_core::{Family, PodNetwork};
use flannel_firewall::Names;

use crate::disturbances;
use crate::setting::{
    ALL_RULES, MODES, Mode, both, everything, in_each_mode, keep, keep_untouched, pods, sh,
};

/// Rules of an operator, of docker, of kube-proxy and of a firewall in nftables; and rules that resemble
/// ours.
const OTHERS: &str = r#"
set -e
nft -f - <<'END'
table inet firewalld {
    set inside { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.168.0.0/16 } }
    chain forward { type filter hook forward priority 10; policy accept; ip saddr @inside counter accept; }
}
table ip flannel-ipv4-other {
    chain postrtg { type nat hook postrouting priority srcnat; ip saddr 10.9.0.0/16 masquerade; }
}
table ip6 flannel {
    chain forward { type filter hook forward priority 0; }
}
END
for iptables in iptables-nft iptables-legacy; do
    $iptables -t nat -N DOCKER
    $iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
    $iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
    $iptables -t nat -A POSTROUTING -s 10.244.0.0/16 -d 192.0.2.0/24 -j RETURN
    $iptables -t nat -N FLANNEL-POSTRTG-other
    $iptables -t nat -A FLANNEL-POSTRTG-other -s 10.9.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE
    $iptables -t nat -A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG-other
    $iptables -A FORWARD -i eth9 -m comment --comment "an operator \"himself\"" -j ACCEPT
    $iptables -A FORWARD -s 10.244.0.0/16 -d 10.0.0.0/8 -j ACCEPT
    $iptables -A INPUT -p tcp --dport 22 -j ACCEPT
    $iptables -t mangle -A POSTROUTING -j MARK --set-mark 0x10
done
"#;

/// All that is there but our own.
async fn of_others() -> String {
    let ours = ["FLANNEL-POSTRTG ", "FLANNEL-FWD "];
    let all = everything().await;
    // Chains of iptables are seen by nft as well, as a line of their own each, and tables of ours as a
    // block; what iptables says is what counts for the former.
    let (nft, iptables) = all.split_once("== iptables-nft").unwrap();
    let mut text = String::new();
    let mut skipped = false;
    for line in nft.lines() {
        let shared = [
            "table ip nat {",
            "table ip6 nat {",
            "table ip filter {",
            "table ip6 filter {",
        ];
        if line.starts_with("table ") {
            skipped = shared.contains(&line)
                || line == "table ip flannel-ipv4 {"
                || line == "table ip6 flannel-ipv6 {";
        }
        if !skipped {
            text += line;
            text += "\n";
        }
    }
    for line in iptables.lines() {
        let line = format!("{line} ");
        // Tables that were not there before show up empty.
        let frame = line.starts_with('*')
            || line.starts_with("COMMIT")
            || line.contains(" ACCEPT ") && line.starts_with(':');
        if !frame && !ours.iter().any(|own| line.contains(own)) {
            text += &line;
            text += "\n";
        }
    }
    text
}

#[test]
fn nothing_of_others_is_touched_from_the_first_rule_to_the_last() {
    in_each_mode(async |mode, programs| {
        sh(OTHERS).await;
        let before = of_others().await;
        assert!(before.contains("an operator"), "{before}");
        let firewall = programs.firewall(ALL_RULES);
        let mut pods = pods(mode);
        keep(&firewall, &pods).await;
        assert_eq!(of_others().await, before, "{mode:?}");
        let right = everything().await;
        for disturbance in disturbances::all(mode, Family::V4) {
            // Those that do it to everybody aside.
            if ["flushed", "the table is deleted"]
                .iter()
                .any(|what| disturbance.what.contains(what))
            {
                continue;
            }
            sh(&disturbance.command).await;
            keep(&firewall, &pods).await;
            assert_eq!(of_others().await, before, "{mode:?}: {}", disturbance.what);
        }
        keep_untouched(&firewall, &pods).await;
        if mode == Mode::Nftables {
            assert_eq!(everything().await, right);
        }
        for mode in MODES {
            pods.nftables = mode == Mode::Nftables;
            pods.subnets = both("10.244.9.0/24", "fd00:244:0:9::/64");
            keep(&firewall, &pods).await;
            assert_eq!(of_others().await, before, "{mode:?}");
        }
        firewall.remove(&[]).await.unwrap();
        assert_eq!(of_others().await, before, "{mode:?}");
    });
}

#[test]
fn two_networks_on_one_host_do_not_disturb_each_other() {
    in_each_mode(async |mode, programs| {
        let (first, second) = (
            programs.firewall(ALL_RULES),
            programs.firewall_named(ALL_RULES, Names::with_suffix("blue")),
        );
        let blue = PodNetwork {
            networks: both("10.245.0.0/16", "fd00:245::/48"),
            subnets: both("10.245.7.0/24", "fd00:245:0:7::/64"),
            ..pods(mode)
        };
        keep(&first, &pods(mode)).await;
        keep(&second, &blue).await;
        keep_untouched(&first, &pods(mode)).await;
        keep_untouched(&second, &blue).await;
        let one = everything().await;
        first.remove(&[]).await.unwrap();
        let rest = everything().await;
        assert!(
            rest.contains("10.245.7.0/24") && !rest.contains("10.244."),
            "{rest}"
        );
        keep_untouched(&second, &blue).await;
        keep(&first, &pods(mode)).await;
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort_unstable();
            lines
        };
        assert_eq!(sorted(&everything().await), sorted(&one), "{mode:?}");
        keep_untouched(&second, &blue).await;
    });
}
