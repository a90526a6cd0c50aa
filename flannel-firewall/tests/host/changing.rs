//! Another network, another subnet, other options, another mode.

use flannel_core::{Family, PodNetwork};
use flannel_firewall::RuleOptions;

use crate::sampler::Sampler;
use crate::setting::{
    ALL_RULES, MODES, Mode, Programs, both, everything, in_each_mode, in_namespace, keep, keep_untouched,
    pods, program, sh,
};

#[test]
fn another_network_or_subnet_replaces_the_old_rules() {
    in_each_mode(async |mode, programs| {
        let firewall = programs.firewall(ALL_RULES);
        keep(&firewall, &pods(mode)).await;
        let moved = PodNetwork {
            subnets: both("10.244.9.0/24", "fd00:244:0:9::/64"),
            ..pods(mode)
        };
        let sampler = Sampler::start();
        keep(&firewall, &moved).await;
        sampler.more().await;
        sampler.stop();
        let text = everything().await;
        assert!(
            text.contains("10.244.9.0/24") && !text.contains("10.244.7.0/24"),
            "{mode:?}\n{text}"
        );
        let renumbered = PodNetwork {
            networks: both("10.5.0.0/16", "fd00:5::/48"),
            subnets: both("10.5.9.0/24", "fd00:5:0:9::/64"),
            former: vec!["10.244.0.0/16".parse().unwrap(), "fd00:244::/48".parse().unwrap()],
            ..pods(mode)
        };
        keep(&firewall, &renumbered).await;
        let text = everything().await;
        assert!(
            text.contains("10.5.9.0/24") && !text.contains("244"),
            "{mode:?}\n{text}"
        );
        keep_untouched(&firewall, &renumbered).await;
    });
}

#[test]
fn options_that_are_switched_off_take_their_rules_away() {
    in_each_mode(async |mode, programs| {
        keep(&programs.firewall(ALL_RULES), &pods(mode)).await;
        let forward = RuleOptions {
            masquerade: false,
            ..ALL_RULES
        };
        keep(&programs.firewall(forward), &pods(mode)).await;
        let text = everything().await;
        assert!(
            text.contains("10.244.0.0/16") && !text.to_lowercase().contains("masquerade"),
            "{mode:?}\n{text}"
        );
        keep_untouched(&programs.firewall(forward), &pods(mode)).await;
        let none = programs.firewall(RuleOptions {
            forward: false,
            ..forward
        });
        let kept = keep(&none, &pods(mode)).await;
        assert_eq!(kept.written.len(), 2, "{kept:?}");
        let text = everything().await;
        assert!(
            !text.contains("10.244") && !text.to_lowercase().contains("flannel"),
            "{mode:?}\n{text}"
        );
        keep_untouched(&none, &pods(mode)).await;
    });
}

#[test]
fn ports_are_chosen_in_order_where_that_is_asked_for() {
    in_each_mode(async |mode, programs| {
        let in_order = programs.firewall(RuleOptions {
            random_fully: false,
            ..ALL_RULES
        });
        keep(&in_order, &pods(mode)).await;
        let text = everything().await;
        assert!(
            text.to_lowercase().contains("masquerade") && !text.contains("random"),
            "{mode:?}\n{text}"
        );
        keep_untouched(&in_order, &pods(mode)).await;
        keep(&programs.firewall(ALL_RULES), &pods(mode)).await;
        assert!(everything().await.contains("random"));
    });
}

/// Every mode after every other, by a daemon that goes on and by one that starts anew.
#[test]
fn rules_are_there_in_every_moment_of_a_change_of_mode() {
    for anew in [true, false] {
        in_namespace(async {
            let programs = Programs::of(Mode::Nftables);
            let mut firewall = programs.firewall(ALL_RULES);
            keep(&firewall, &pods(Mode::Nftables)).await;
            let sampler = Sampler::start();
            for mode in [1, 0, 2, 1, 2, 0].map(|index| MODES[index]) {
                programs.set_iptables(mode);
                if anew {
                    firewall = programs.firewall(ALL_RULES);
                }
                let kept = keep(&firewall, &pods(mode)).await;
                let text = everything().await;
                assert!(has_rules(&text, mode), "{mode:?}\n{text}");
                for other in MODES.into_iter().filter(|other| *other != mode) {
                    assert!(
                        !has_rules(&text, other),
                        "{other:?} after {mode:?}\n{kept:?}\n{text}"
                    );
                }
                keep_untouched(&firewall, &pods(mode)).await;
                // A new daemon may come at any time.
                sampler.more().await;
            }
            sampler.stop();
        });
    }
}

/// flannel before v0.20 had its rules in the built-in chains, without comments.
#[test]
fn rules_of_an_old_flannel_are_replaced_without_a_gap() {
    in_each_mode(async |mode, programs| {
        let before = everything().await;
        let iptables = match mode {
            Mode::Nftables => "iptables-nft",
            mode => program(mode, Family::V4),
        };
        sh(&format!(
            "set -e; t='{iptables} -w -t nat -A POSTROUTING'; f='{iptables} -w -A FORWARD'
            $t -s 10.244.0.0/16 -d 10.244.0.0/16 -j RETURN
            $t -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully
            $t ! -s 10.244.0.0/16 -d 10.244.7.0/24 -j RETURN
            $t ! -s 10.244.0.0/16 -d 10.244.0.0/16 -j MASQUERADE --random-fully
            $f -s 10.244.0.0/16 -j ACCEPT
            $f -d 10.244.0.0/16 -j ACCEPT"
        ))
        .await;
        let sampler = Sampler::start();
        let v4 = PodNetwork {
            networks: flannel_core::PerFamily {
                v6: None,
                ..pods(mode).networks
            },
            ..pods(mode)
        };
        let firewall = programs.firewall(ALL_RULES);
        keep(&firewall, &v4).await;
        sampler.more().await;
        sampler.stop();
        let text = everything().await;
        let plain = [
            "-A POSTROUTING -s 10.244",
            "-A POSTROUTING ! -s 10.244",
            "-A FORWARD -s 10.244",
            "-A FORWARD -d 10.244",
        ];
        assert!(!plain.iter().any(|rule| text.contains(rule)), "{mode:?}\n{text}");
        keep_untouched(&firewall, &v4).await;
        firewall.remove(&[]).await.unwrap();
        assert!(!everything().await.contains("10.244"), "{before}");
    });
}

fn has_rules(everything: &str, mode: Mode) -> bool {
    let section = |name: &str| {
        let after = everything.split_once(&format!("== {name}\n")).unwrap().1;
        after.split("\n== ").next().unwrap().to_owned()
    };
    match mode {
        Mode::Nftables => everything.contains("table ip flannel-ipv4"),
        mode => section(program(mode, Family::V4)).contains("FLANNEL"),
    }
}
