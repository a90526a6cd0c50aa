//! Everything of ours taken away.

use flannel_core::{Family, FirewallError};
use flannel_firewall::{HostFirewall, Names};
use tempfile::TempDir;

use crate::setting::{
    ALL_RULES, MODES, Mode, Programs, everything, in_each_mode, in_namespace, keep, pods, program, sh,
};

fn remembering(programs: &Programs, directory: &TempDir) -> HostFirewall {
    programs
        .firewall(ALL_RULES)
        .remembering(directory.path().join("tables"))
}

/// The older iptables never lets go of a table that it has made; it stays, empty.
fn without_empty_legacy_tables(everything: &str) -> String {
    let (mut text, mut legacy) = (String::new(), false);
    for line in everything.lines() {
        if line.starts_with("== ") {
            legacy = line.ends_with("-legacy");
        }
        let frame =
            line.starts_with('*') || line == "COMMIT" || line.starts_with(':') && line.ends_with("ACCEPT");
        if !(legacy && frame) {
            text += line;
            text += "\n";
        }
    }
    text
}

#[test]
fn a_host_is_left_as_it_was_found() {
    in_each_mode(async |mode, programs| {
        let directory = TempDir::new().unwrap();
        let before = everything().await;
        keep(&remembering(programs, &directory), &pods(mode)).await;
        // Another process.
        remembering(programs, &directory).remove(&[]).await.unwrap();
        assert_eq!(
            without_empty_legacy_tables(&everything().await),
            without_empty_legacy_tables(&before),
            "{mode:?}"
        );
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        assert_eq!(
            remembering(programs, &directory).leftovers(&[]).await.unwrap(),
            []
        );
    });
}

#[test]
fn whatever_mode_there_was_and_whatever_was_done_nothing_of_ours_is_left() {
    in_namespace(async {
        let directory = TempDir::new().unwrap();
        let before = everything().await;
        for mode in [0, 1, 2, 1, 0, 2].map(|index| MODES[index]) {
            let programs = Programs::of(mode);
            keep(&remembering(&programs, &directory), &pods(mode)).await;
            sh(&crate::disturbances::all(mode, Family::V6).last().unwrap().command).await;
            keep(&remembering(&programs, &directory), &pods(mode)).await;
        }
        let programs = Programs::of(Mode::IptablesNft);
        remembering(&programs, &directory).remove(&[]).await.unwrap();
        assert_eq!(
            without_empty_legacy_tables(&everything().await),
            without_empty_legacy_tables(&before)
        );
    });
}

#[test]
fn chains_that_iptables_made_for_us_stay_where_others_use_them() {
    in_namespace(async {
        let programs = Programs::of(Mode::IptablesNft);
        let directory = TempDir::new().unwrap();
        keep(&remembering(&programs, &directory), &pods(Mode::IptablesNft)).await;
        sh("iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE
            iptables-nft -t filter -P FORWARD DROP
            ip6tables-nft -t nat -N DOCKER
            ip6tables-nft -t filter -A INPUT -j ACCEPT")
        .await;
        remembering(&programs, &directory).remove(&[]).await.unwrap();
        let text = sh("nft list ruleset").await;
        assert!(text.contains("172.17.0.0/16"), "{text}");
        assert!(
            text.contains("type filter hook forward priority filter; policy drop;"),
            "{text}"
        );
        assert!(
            text.contains("table ip6 nat {\n\tchain DOCKER {\n\t}\n}"),
            "{text}"
        );
        assert!(text.contains("hook input"), "{text}");
        assert!(
            !text.contains("FLANNEL") && !text.contains("table ip6 filter {\n\tchain FORWARD"),
            "{text}"
        );
    });
}

#[test]
fn chains_that_others_made_after_us_stay_though_they_are_empty() {
    in_namespace(async {
        let programs = Programs::of(Mode::IptablesNft);
        let directory = TempDir::new().unwrap();
        keep(&remembering(&programs, &directory), &pods(Mode::IptablesNft)).await;
        sh("iptables-nft -t nat -A OUTPUT -j ACCEPT && iptables-nft -t nat -F OUTPUT").await;
        remembering(&programs, &directory).remove(&[]).await.unwrap();
        let text = sh("nft list ruleset").await;
        assert!(text.starts_with("table ip nat {\n\tchain OUTPUT {\n"), "{text}");
        assert_eq!(text.matches("chain").count(), 1, "{text}");
    });
}

/// Rules do not survive a boot, and chains like those of before it may be anybody's.
#[test]
fn what_was_made_before_a_boot_is_not_removed_after_it() {
    in_namespace(async {
        let programs = Programs::of(Mode::IptablesNft);
        let directory = TempDir::new().unwrap();
        keep(&remembering(&programs, &directory), &pods(Mode::IptablesNft)).await;
        let file = directory.path().join("tables");
        let text = std::fs::read_to_string(&file).unwrap();
        let id = text.lines().next().unwrap().strip_prefix("boot ").unwrap();
        std::fs::write(&file, text.replace(id, "another")).unwrap();
        sh("nft flush ruleset; iptables-nft -t nat -A POSTROUTING -j ACCEPT; iptables-nft -t nat -F").await;
        let before = everything().await;
        assert!(before.contains("hook postrouting"), "{before}");
        for name in ["iptables", "ip6tables"] {
            programs.remove(name);
            programs.remove(&format!("{name}-nft"));
        }
        remembering(&programs, &directory).remove(&[]).await.unwrap();
        assert_eq!(everything().await, before);
    });
}

#[test]
fn rules_are_not_forgotten_where_their_program_is_gone() {
    for (mode, names, missing) in [
        (Mode::Nftables, ["nft"].as_slice(), ["nft"].as_slice()),
        (
            Mode::IptablesNft,
            &["iptables", "iptables-nft", "ip6tables", "ip6tables-nft"],
            &["iptables-nft", "ip6tables-nft"],
        ),
        (
            Mode::IptablesLegacy,
            &["iptables", "iptables-legacy", "ip6tables", "ip6tables-legacy"],
            &["iptables-legacy", "ip6tables-legacy"],
        ),
    ] {
        in_namespace(async {
            let directory = TempDir::new().unwrap();
            // The rules are there when the file comes to be.
            let programs = Programs::of(mode);
            keep(&programs.firewall(ALL_RULES), &pods(mode)).await;
            keep(&remembering(&programs, &directory), &pods(mode)).await;
            let right = everything().await;
            let fewer = Programs::of(mode);
            for name in names {
                fewer.remove(name);
            }
            for _ in 0..2 {
                let firewall = remembering(&fewer, &directory);
                let leftovers = firewall.leftovers(&[]).await.unwrap_err();
                assert!(matches!(leftovers, FirewallError::Missing { .. }), "{leftovers}");
                let error = firewall.remove(&[]).await.unwrap_err();
                let told = error.failures.iter().map(|failure| match failure {
                    FirewallError::Missing { program, .. } => program.as_str(),
                    other => panic!("{other}"),
                });
                assert_eq!(told.collect::<Vec<_>>(), missing, "{error}");
            }
            assert_eq!(everything().await, right);
            // Whoever has other names has nothing there.
            let other = fewer.firewall_named(ALL_RULES, Names::with_suffix("blue"));
            let other = other.remembering(directory.path().join("tables"));
            other.remove(&[]).await.unwrap();
            remembering(&programs, &directory).remove(&[]).await.unwrap();
            let text = everything().await;
            assert!(!text.to_lowercase().contains("flannel"), "{mode:?}: {text}");
        });
    }
}

#[test]
fn rules_whose_program_is_gone_are_removed_once_it_is_there_again() {
    in_namespace(async {
        let directory = TempDir::new().unwrap();
        let programs = Programs::of(Mode::IptablesLegacy);
        keep(&remembering(&programs, &directory), &pods(Mode::IptablesLegacy)).await;
        let fewer = Programs::none();
        fewer.add("nft", "nft");
        let firewall = remembering(&fewer, &directory);
        keep(&firewall, &pods(Mode::Nftables)).await;
        assert!(everything().await.contains("-j FLANNEL-FWD"));
        for name in ["iptables", "ip6tables"] {
            fewer.add_iptables(name, &format!("{name}-legacy"));
        }
        let written = keep(&firewall, &pods(Mode::Nftables)).await.written;
        let removed = written
            .iter()
            .filter(|text| text.starts_with("rules removed from "));
        assert_eq!(removed.count(), 2, "{written:?}");
        assert!(!everything().await.contains("FLANNEL-FWD"));
    });
}

#[test]
fn a_program_that_is_not_used_any_more_may_go() {
    in_namespace(async {
        let directory = TempDir::new().unwrap();
        let programs = Programs::of(Mode::IptablesLegacy);
        keep(&remembering(&programs, &directory), &pods(Mode::IptablesLegacy)).await;
        keep(&remembering(&programs, &directory), &pods(Mode::Nftables)).await;
        for name in ["iptables", "iptables-legacy", "ip6tables", "ip6tables-legacy"] {
            programs.remove(name);
        }
        remembering(&programs, &directory).remove(&[]).await.unwrap();
        let text = everything().await;
        assert!(!text.to_lowercase().contains("flannel"), "{text}");
    });
}

#[test]
fn chains_that_were_there_before_us_stay_though_they_are_empty() {
    in_namespace(async {
        let programs = Programs::of(Mode::IptablesNft);
        let directory = TempDir::new().unwrap();
        sh(
            "iptables-nft -t nat -A POSTROUTING -j ACCEPT && iptables-nft -t nat -F
            nft add table ip6 filter",
        )
        .await;
        let before = everything().await;
        assert!(before.contains("hook postrouting"), "{before}");
        keep(&remembering(&programs, &directory), &pods(Mode::IptablesNft)).await;
        remembering(&programs, &directory).remove(&[]).await.unwrap();
        assert_eq!(everything().await, before);
    });
}

/// flannel before v0.20 had its rules in the built-in chains, without comments.
#[test]
fn rules_of_an_old_flannel_are_removed_where_its_network_is_known() {
    in_each_mode(async |mode, programs| {
        let iptables = match mode {
            Mode::Nftables => "iptables-nft",
            mode => program(mode, Family::V4),
        };
        sh(&format!(
            "{iptables} -t nat -A POSTROUTING -s 192.0.2.0/24 -j RETURN; {iptables} -A FORWARD -j LOG"
        ))
        .await;
        let before = everything().await;
        sh(&format!(
            "set -e; t='{iptables} -w -t nat -A POSTROUTING'; f='{iptables} -w -A FORWARD'
            $t -s 10.244.0.0/16 -d 10.244.0.0/16 -j RETURN
            $t -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE
            $t ! -s 10.244.0.0/16 -d 10.244.7.0/24 -j RETURN
            $t ! -s 10.244.0.0/16 -d 10.244.0.0/16 -j MASQUERADE
            $f -s 10.244.0.0/16 -j ACCEPT
            $f -d 10.244.0.0/16 -j ACCEPT"
        ))
        .await;
        let firewall = programs.firewall(ALL_RULES);
        let networks = ["10.244.0.0/16".parse().unwrap(), "fd00:244::/48".parse().unwrap()];
        assert_eq!(firewall.leftovers(&networks).await.unwrap().len(), 6);
        firewall.remove(&networks).await.unwrap();
        assert_eq!(everything().await, before);
    });
}

#[test]
fn what_would_be_removed_is_told_line_by_line() {
    in_each_mode(async |mode, programs| {
        let directory = TempDir::new().unwrap();
        keep(&remembering(programs, &directory), &pods(mode)).await;
        let right = everything().await;
        let leftovers = remembering(programs, &directory).leftovers(&[]).await.unwrap();
        let lines: Vec<String> = leftovers.iter().map(ToString::to_string).collect();
        let text = lines.join("\n");
        assert!(lines.iter().all(|line| !line.contains('\n')), "{text}");
        let some = match mode {
            Mode::Nftables => [
                "nft add table ip flannel-ipv4",
                "nft add rule ip6 flannel-ipv6 forward ",
            ],
            Mode::IptablesNft => [
                "iptables -t nat -N FLANNEL-POSTRTG",
                "nft add chain ip6 filter FORWARD",
            ],
            Mode::IptablesLegacy => ["ip6tables -t filter -N FLANNEL-FWD", "-A POSTROUTING -m comment"],
        };
        for some in some {
            assert!(text.contains(some), "{mode:?}: {some}\n{text}");
        }
        assert_eq!(everything().await, right);
    });
}

#[test]
fn what_fails_is_told_and_keeps_nothing_else_from_being_removed() {
    in_namespace(async {
        let programs = Programs::of(Mode::IptablesNft);
        keep(&programs.firewall(ALL_RULES), &pods(Mode::IptablesNft)).await;
        // A rule of somebody else's leads to our chain under a name that iptables cannot delete.
        sh("nft add chain ip nat custom && nft add rule ip nat custom jump FLANNEL-POSTRTG").await;
        let error = programs.firewall(ALL_RULES).remove(&[]).await.unwrap_err();
        assert_eq!(error.failures.len(), 1, "{error}");
        let text = everything().await;
        assert!(!text.contains("FLANNEL-FWD") && !text.contains("fd00"), "{text}");
        assert!(text.contains("jump FLANNEL-POSTRTG"), "{text}");
    });
}
