//! Programs that are old, busy, slow of understanding, or broken.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use flannel_core::{Family, Firewall, FirewallError, PerFamily, PodNetwork};
use nix::sched::{CloneFlags, unshare};

use crate::disturbances;
use crate::setting::{
    ALL_RULES, Mode, Programs, everything, handles, in_namespace, keep, keep_untouched, pods, sh,
};

/// Puts a shell script in the place of a program; `$real` is what was there.
fn wrap(programs: &Programs, name: &str, script: &str) {
    let path = programs.directory().join(name);
    // Programs go by the name that they are called by.
    let directory = programs.directory().join("real");
    fs::create_dir_all(&directory).unwrap();
    let real = directory.join(name);
    fs::rename(&path, &real).unwrap();
    fs::write(&path, format!("#!/bin/sh\nreal={}\n{script}\n", real.display())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn unwrap(programs: &Programs, name: &str) {
    let directory = programs.directory();
    fs::rename(directory.join("real").join(name), directory.join(name)).unwrap();
}

/// Lists are passed through; what is written is in `$text`.
const READ: &str = "case \"$*\" in *list*|*version*|*-S*) exec $real \"$@\";; esac; text=$(cat);";

#[test]
fn where_random_ports_are_refused_masquerading_does_without() {
    for (mode, program, word) in [
        (Mode::Nftables, "nft", "fully-random"),
        (Mode::IptablesNft, "iptables-restore", "--random-fully"),
    ] {
        in_namespace(async {
            let programs = Programs::of(mode);
            let refusals = programs.directory().join("refusals");
            let script = format!(
                "{READ} case \"$text\" in *{word}*) echo x >> {}; echo 'what is {word}?' >&2; exit 2;; esac
                 printf '%s\\n' \"$text\" | $real \"$@\"",
                refusals.display()
            );
            wrap(&programs, program, &script);
            let firewall = programs.firewall(ALL_RULES);
            let network = PodNetwork {
                networks: PerFamily {
                    v6: None,
                    ..pods(mode).networks
                },
                ..pods(mode)
            };
            keep(&firewall, &network).await;
            let right = everything().await;
            let lower = right.to_lowercase();
            assert!(
                lower.contains("masquerade") && !lower.contains("random"),
                "{mode:?}\n{right}"
            );
            keep_untouched(&firewall, &network).await;
            // It is not tried again.
            let refused = fs::read_to_string(&refusals).unwrap();
            sh(&disturbances::all(mode, Family::V4)[0].command).await;
            keep(&firewall, &network).await;
            assert_eq!(everything().await, right);
            assert_eq!(fs::read_to_string(&refusals).unwrap(), refused);
        });
    }
}

#[test]
fn what_is_refused_for_another_reason_is_told() {
    in_namespace(async {
        let programs = Programs::of(Mode::Nftables);
        wrap(&programs, "nft", &format!("{READ} echo 'no room' >&2; exit 1"));
        let error = programs
            .firewall(ALL_RULES)
            .keep(&pods(Mode::Nftables))
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "nft -f - failed: no room");
    });
}

/// That of CentOS 7.
#[test]
fn an_iptables_of_2013_is_asked_for_nothing_that_it_does_not_know() {
    in_namespace(async {
        let programs = Programs::of(Mode::IptablesLegacy);
        for name in ["iptables", "ip6tables"] {
            wrap(
                &programs,
                name,
                "case \"$*\" in --version) echo iptables v1.4.21; exit;; *-w\\ [0-9]*) exit 2;; esac
                 exec $real \"$@\"",
            );
            wrap(
                &programs,
                &format!("{name}-restore"),
                "text=$(cat); case \"$text $*\" in *-w*|*random*) exit 2;; esac
                 printf '%s\\n' \"$text\" | $real \"$@\"",
            );
        }
        let firewall = programs.firewall(ALL_RULES);
        keep(&firewall, &pods(Mode::IptablesLegacy)).await;
        let text = everything().await;
        assert!(text.contains("-j MASQUERADE\n"), "{text}");
        keep_untouched(&firewall, &pods(Mode::IptablesLegacy)).await;
    });
}

#[test]
fn a_lock_that_another_iptables_holds_is_waited_for() {
    in_namespace(async {
        let programs = Programs::of(Mode::IptablesLegacy);
        let tries = programs.directory().join("tries");
        wrap(
            &programs,
            "iptables-restore",
            &format!(
                "echo x >> {0}; if test $(wc -l < {0}) -le 4; then echo 'Another app is currently holding the \
                 xtables lock.' >&2; exit 4; fi; exec $real \"$@\"",
                tries.display()
            ),
        );
        keep(&programs.firewall(ALL_RULES), &pods(Mode::IptablesLegacy)).await;
        let text = everything().await;
        let random = text
            .lines()
            .filter(|line| line.contains("10.244") && line.ends_with("--random-fully"));
        assert_eq!(random.count(), 2, "{text}");
        // Held for good, it is told.
        fs::remove_file(&tries).unwrap();
        wrap(
            &programs,
            "ip6tables-restore",
            "echo 'Another app is currently holding the xtables lock.' >&2; exit 4",
        );
        sh("ip6tables-legacy -t nat -F FLANNEL-POSTRTG").await;
        let error = programs
            .firewall(ALL_RULES)
            .keep(&pods(Mode::IptablesLegacy))
            .await
            .unwrap_err();
        assert!(error.to_string().ends_with("xtables lock."), "{error}");
    });
}

/// Another version may put the same rules in other words. Writing them again and again would help nobody.
#[test]
fn rules_that_do_not_read_back_are_not_written_all_the_time() {
    in_namespace(async {
        let programs = Programs::of(Mode::Nftables);
        wrap(&programs, "nft", "$real \"$@\" | sed 's/ accept$/ pass/'");
        let firewall = programs.firewall(ALL_RULES);
        keep(&firewall, &pods(Mode::Nftables)).await;
        let right = everything().await;
        keep_untouched(&firewall, &pods(Mode::Nftables)).await;
        // What somebody does to them is seen all the same.
        sh("nft insert rule ip flannel-ipv4 forward drop").await;
        keep(&firewall, &pods(Mode::Nftables)).await;
        assert_eq!(everything().await, right);
        sh("nft flush ruleset").await;
        keep(&firewall, &pods(Mode::Nftables)).await;
        assert_eq!(everything().await, right);
    });
}

#[test]
fn rules_that_somebody_deletes_as_fast_as_they_are_written_are_no_other_wording() {
    for (mode, program, delete) in [
        (
            Mode::Nftables,
            "nft",
            "case \"$*\" in -f*) handle=$($real -a list chain ip flannel-ipv4 postrtg | sed -n 's/.*masquerade.*handle //p' \
             | head -n 1); $real delete rule ip flannel-ipv4 postrtg handle $handle;; esac",
        ),
        (
            Mode::IptablesNft,
            "iptables-restore",
            "iptables-nft -t nat -D FLANNEL-POSTRTG 5",
        ),
        (
            Mode::IptablesLegacy,
            "iptables-restore",
            "iptables-legacy -t nat -D FLANNEL-POSTRTG 5",
        ),
    ] {
        in_namespace(async {
            let programs = Programs::of(mode);
            wrap(
                &programs,
                program,
                &format!("$real \"$@\"; status=$?; {delete} 2> /dev/null; exit $status"),
            );
            let firewall = programs.firewall(ALL_RULES);
            for _ in 0..2 {
                let error = firewall.keep(&pods(mode)).await.unwrap_err().to_string();
                assert!(
                    error.ends_with("somebody else changes them as fast as they are written"),
                    "{mode:?}: {error}"
                );
            }
            unwrap(&programs, program);
            keep(&firewall, &pods(mode)).await;
            keep_untouched(&firewall, &pods(mode)).await;
        });
    }
}

/// Puts another directory in place of what the kernel tells this thread of its network namespace.
async fn hide_net(directory: &Path) {
    let thread = fs::read_link("/proc/thread-self").unwrap();
    sh(&format!(
        "mount --bind {} /proc/{}/net",
        directory.display(),
        thread.display()
    ))
    .await;
}

#[test]
fn jumps_do_not_pile_up_where_the_kernel_does_not_tell_of_tables() {
    in_namespace(async {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        sh("mount --make-rprivate /").await;
        let programs = Programs::of(Mode::IptablesLegacy);
        let empty = programs.directory().join("net");
        fs::create_dir(&empty).unwrap();
        hide_net(&empty).await;
        let firewall = programs.firewall(ALL_RULES);
        keep(&firewall, &pods(Mode::IptablesLegacy)).await;
        keep_untouched(&firewall, &pods(Mode::IptablesLegacy)).await;
        let before = handles().await;
        assert_eq!(before.matches("-j FLANNEL-POSTRTG").count(), 2, "{before}");
        // Names that cannot be read are an error, for a daemon that has just started too.
        fs::create_dir(empty.join("ip_tables_names")).unwrap();
        let error = programs
            .firewall(ALL_RULES)
            .keep(&pods(Mode::IptablesLegacy))
            .await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("/net/ip_tables_names failed: "), "{error}");
        assert_eq!(handles().await, before);
    });
}

#[test]
fn a_broken_iptables_does_not_keep_nftables_from_being_used() {
    in_namespace(async {
        let programs = Programs::of(Mode::IptablesNft);
        keep(&programs.firewall(ALL_RULES), &pods(Mode::IptablesNft)).await;
        wrap(
            &programs,
            "iptables",
            "case $* in --version) exec $real --version;; esac; echo ill >&2; exit 3",
        );
        let firewall = programs.firewall(ALL_RULES);
        keep(&firewall, &pods(Mode::Nftables)).await;
        let text = everything().await;
        assert!(
            text.contains("flannel-ipv4") && text.contains("-A FLANNEL-FWD -s 10.244"),
            "{text}"
        );
        assert!(!text.contains("-A FLANNEL-FWD -s fd00"), "{text}");
        let error = firewall.remove(&[]).await.unwrap_err();
        assert!(
            matches!(error.failures.as_slice(), [FirewallError::Failed { .. }]),
            "{error}"
        );
        keep(&firewall, &pods(Mode::Nftables)).await;
        // Once it is well again, nothing is left of our earlier rules.
        unwrap(&programs, "iptables");
        keep(&firewall, &pods(Mode::Nftables)).await;
        assert!(!everything().await.contains("FLANNEL-FWD"));
    });
}

/// As that of 1.8.2 did.
#[test]
fn an_iptables_that_makes_tables_by_looking_is_not_asked_where_there_are_none() {
    in_namespace(async {
        let programs = Programs::of(Mode::Nftables);
        for (name, header) in [("iptables", "ip"), ("ip6tables", "ip6")] {
            let script = format!(
                "case $* in *-S*) nft add table {header} nat; nft add table {header} filter;; esac; exec $real \"$@\""
            );
            wrap(&programs, name, &script);
        }
        let before = everything().await;
        let firewall = programs.firewall(ALL_RULES);
        keep(&firewall, &pods(Mode::Nftables)).await;
        keep_untouched(&firewall, &pods(Mode::Nftables)).await;
        firewall.remove(&[]).await.unwrap();
        assert_eq!(everything().await, before);
    });
}

#[test]
fn once_nothing_is_left_elsewhere_only_what_drops_packets_is_looked_at_there() {
    in_namespace(async {
        let programs = Programs::of(Mode::Nftables);
        sh("iptables-nft -P FORWARD ACCEPT; iptables-nft -t nat -P POSTROUTING ACCEPT").await;
        let log = programs.directory().join("log");
        wrap(
            &programs,
            "iptables",
            &format!("echo \"$@\" >> {}; exec $real \"$@\"", log.display()),
        );
        let firewall = programs.firewall(ALL_RULES);
        keep(&firewall, &pods(Mode::Nftables)).await;
        assert!(
            fs::read_to_string(&log)
                .unwrap()
                .contains("-t nat -S FLANNEL-POSTRTG")
        );
        fs::remove_file(&log).unwrap();
        keep(&firewall, &pods(Mode::Nftables)).await;
        assert_eq!(fs::read_to_string(&log).unwrap(), "-w 5 -t filter -S FORWARD\n");
    });
}

#[test]
fn rules_of_others_that_iptables_does_not_understand_do_no_harm_to_nftables() {
    in_namespace(async {
        let programs = Programs::of(Mode::Nftables);
        sh("nft -f - <<'END'
table ip nat {
    chain POSTROUTING {
        type nat hook postrouting priority srcnat;
        numgen random mod 2 vmap { 0 : accept }
    }
}
END")
        .await;
        let before = everything().await;
        let firewall = programs.firewall(ALL_RULES);
        assert_eq!(keep(&firewall, &pods(Mode::Nftables)).await.written.len(), 2);
        assert!(!firewall.leftovers(&[]).await.unwrap().is_empty());
        firewall.remove(&[]).await.unwrap();
        assert_eq!(everything().await, before);
    });
}
