//! The daemon ends and comes again, with other options too; connections of pods to the outside do not notice.

mod stream;
mod watched;

use std::time::{Duration, Instant};

use lab::Daemon;

use crate::faults::{
    Ground, Mode, SOON, V4, V6, assert_all_there, config, masquerades, others, ours, report, rules, run,
    wait_for_ours,
};
use watched::{Watched, wait_for_rules};

/// By each signal.
const ROUNDS: usize = 10;
const MANY_ROUNDS: usize = 50;
/// Looks at the rules in the course of the restarts, at least.
const SAMPLES: usize = 1000;
/// Where little happens, a look for every moment of it.
const FEW_SAMPLES: usize = 50;
const END: Duration = Duration::from_secs(3);

const OTHER_V4: &str = "10.78.0.0/16";
const OTHER_V6: &str = "fd78::/48";

fn restarted(mode: Mode, name: &str, rounds: usize) {
    let ground = Ground::new(name, mode);
    let host = ground.host();
    ground.lay_rules_of_an_operator();
    if !mode.nftables() {
        // Without our rules nothing of the pods passes.
        for program in mode.iptables() {
            run(host, &format!("{program} -P FORWARD DROP"));
        }
    }
    let mut daemon = ground.start(ground.options(&[]));
    let pod = host.add_pod().unwrap();
    let expected = rules(host);
    let writes = ground.writes();
    let monitor = host.monitor_rules().unwrap();
    let mut times = Vec::new();
    let seen = Watched {
        ground: &ground,
        pod: Some(&pod),
        samples: SAMPLES,
        networks: [&[V4], &[V6]],
    }
    .during(|| {
        for round in 0..2 * rounds {
            end(&daemon, round % 2 == 0);
            assert_eq!(rules(host), expected, "the rules stay without a daemon");
            let begin = Instant::now();
            daemon = ground.start(ground.options(&[]));
            times.push(begin.elapsed());
        }
    });
    report(
        &format!("{mode:?}: {} restarts: start to readiness", 2 * rounds),
        &times,
    );
    println!("{mode:?}: {seen}");
    let events = monitor.stop().unwrap();
    assert!(events.is_empty(), "rules were written: {events:#?}");
    assert_eq!(ground.writes(), writes, "{:#?}", ground.calls());
    assert_eq!(rules(host), expected);
}

fn end(daemon: &Daemon, gently: bool) {
    if gently {
        assert!(daemon.terminate(END).unwrap().success(), "{}", daemon.log());
    } else {
        daemon.kill().unwrap();
    }
}

#[test]
fn in_nftables_restarts_write_nothing_and_neither_rules_nor_connections_are_ever_gone() {
    restarted(Mode::Nftables, "restart", ROUNDS);
}

#[test]
fn in_iptables_restarts_write_nothing_and_neither_rules_nor_connections_are_ever_gone() {
    restarted(Mode::Iptables, "restart", ROUNDS);
}

#[test]
fn in_legacy_iptables_restarts_write_nothing_and_neither_rules_nor_connections_are_ever_gone() {
    restarted(Mode::Legacy, "restart", ROUNDS);
}

#[test]
#[ignore = "long: a hundred restarts"]
fn in_nftables_a_hundred_restarts_write_nothing_and_nothing_is_ever_gone() {
    restarted(Mode::Nftables, "restarts", MANY_ROUNDS);
}

#[test]
#[ignore = "long: a hundred restarts"]
fn in_iptables_a_hundred_restarts_write_nothing_and_nothing_is_ever_gone() {
    restarted(Mode::Iptables, "restarts", MANY_ROUNDS);
}

#[test]
#[ignore = "long: a hundred restarts"]
fn in_legacy_iptables_a_hundred_restarts_write_nothing_and_nothing_is_ever_gone() {
    restarted(Mode::Legacy, "restarts", MANY_ROUNDS);
}

#[test]
fn between_nftables_and_iptables_rules_change_over_without_a_gap() {
    let ground = Ground::new("switch", Mode::Nftables);
    let host = ground.host();
    ground.lay_rules_of_an_operator();
    let untouched = others(&rules(host));
    let daemon = ground.start(ground.options(&[]));
    let pod = host.add_pod().unwrap();
    let watched = Watched {
        ground: &ground,
        pod: Some(&pod),
        samples: FEW_SAMPLES,
        networks: [&[V4], &[V6]],
    };
    let in_nftables = ours(&rules(host));
    let mut in_iptables = Vec::new();
    for round in 0..3 {
        let seen = watched.during(|| {
            ground.lab.write_config(&config(false, V4, V6)).unwrap();
            wait_for_rules(host, "to be in iptables", |rules| {
                masquerades(rules, V4)
                    && masquerades(rules, V6)
                    && !has(rules, "table ip flannel")
                    && !has(rules, "table ip6 flannel")
            });
        });
        println!("nftables to iptables: {seen}");
        let now = ours(&rules(host));
        if round > 0 {
            assert_eq!(now, in_iptables);
        }
        in_iptables = now;
        let seen = watched.during(|| {
            ground.lab.write_config(&config(true, V4, V6)).unwrap();
            wait_for_rules(host, "to be in nftables alone", |rules| {
                ours(rules) == in_nftables
            });
        });
        println!("iptables to nftables: {seen}");
        assert_eq!(others(&rules(host)), untouched, "what others have");
    }
    daemon.must_run("the end of the test").unwrap();
}

#[test]
fn between_nftables_and_legacy_iptables_rules_change_over_without_a_gap() {
    let ground = Ground::new("switch", Mode::Legacy);
    let host = ground.host();
    ground.lay_rules_of_an_operator();
    let untouched = others(&rules(host));
    let daemon = ground.start(ground.options(&[]));
    let pod = host.add_pod().unwrap();
    let in_iptables = ours(&rules(host));
    let watched = |samples| Watched {
        ground: &ground,
        pod: Some(&pod),
        samples,
        networks: [&[V4], &[V6]],
    };
    for _ in 0..3 {
        // A look reads legacy iptables last, and would miss both if the rules changed over meanwhile: here connections
        // alone can tell.
        let seen = watched(0).during(|| {
            ground.lab.write_config(&config(true, V4, V6)).unwrap();
            wait_for_rules(host, "to be in nftables alone", |rules| {
                masquerades(rules, V4)
                    && masquerades(rules, V6)
                    && !has(rules, "nat: :FLANNEL")
                    && !has(rules, "filter: :FLANNEL")
            });
        });
        println!("legacy iptables to nftables: {seen}");
        let seen = watched(FEW_SAMPLES).during(|| {
            ground.lab.write_config(&config(false, V4, V6)).unwrap();
            wait_for_rules(host, "to be in iptables alone", |rules| {
                ours(rules) == in_iptables
            });
        });
        println!("nftables to legacy iptables: {seen}");
        assert_eq!(others(&rules(host)), untouched, "what others have");
    }
    daemon.must_run("the end of the test").unwrap();
}

fn has(rules: &[String], start: &str) -> bool {
    rules.iter().any(|line| line.starts_with(start))
}

#[test]
fn a_restart_into_another_network_replaces_the_rules_of_the_former_without_a_gap() {
    for mode in Mode::ALL {
        let ground = Ground::new("renumber", mode);
        let host = ground.host();
        ground.lay_rules_of_an_operator();
        let untouched = others(&rules(host));
        let mut daemon = ground.start(ground.options(&[]));
        let seen = Watched {
            ground: &ground,
            pod: None,
            samples: FEW_SAMPLES,
            networks: [&[V4, OTHER_V4], &[V6, OTHER_V6]],
        }
        .during(|| {
            end(&daemon, true);
            ground
                .lab
                .write_config(&config(mode.nftables(), OTHER_V4, OTHER_V6))
                .unwrap();
            daemon = ground.start(ground.options(&[]));
        });
        println!("{mode:?}: another network: {seen}");
        wait_for_rules(host, "to be those of the other network alone", |rules| {
            let text = rules.join("\n");
            masquerades(rules, OTHER_V4)
                && masquerades(rules, OTHER_V6)
                && !text.contains("10.77.")
                && !text.contains("fd77:")
        });
        assert_all_there(&untouched, &rules(host));
    }
}

/// What flannel v0.11 appended to chains of the system, and left there.
const OF_V0_11: &[&str] = &[
    "-t nat -A POSTROUTING -s 10.77.0.0/16 -d 10.77.0.0/16 -j RETURN",
    "-t nat -A POSTROUTING -s 10.77.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
    "-t nat -A POSTROUTING ! -s 10.77.0.0/16 -d 10.77.7.0/24 -j RETURN",
    "-t nat -A POSTROUTING ! -s 10.77.0.0/16 -d 10.77.0.0/16 -j MASQUERADE --random-fully",
    "-A FORWARD -s 10.77.0.0/16 -j ACCEPT",
    "-A FORWARD -d 10.77.0.0/16 -j ACCEPT",
];
const PINNED: &[&str] = &["--subnet=10.77.7.0/24,fd77:0:0:7::/64"];

#[test]
fn the_rules_of_flannel_v0_11_are_replaced_without_a_gap() {
    for mode in Mode::ALL {
        let ground = Ground::new("v0_11", mode);
        let host = ground.host();
        ground.lay_rules_of_an_operator();
        let untouched = others(&rules(host));
        let [program, _] = mode.iptables();
        for rule in OF_V0_11 {
            run(host, &format!("{program} {rule}"));
        }
        let none: &[&str] = &[];
        let seen = Watched {
            ground: &ground,
            pod: None,
            samples: FEW_SAMPLES,
            networks: [&[V4], none],
        }
        .during(|| drop(ground.start(ground.options(PINNED))));
        println!("{mode:?}: v0.11 replaced: {seen}");
        let left = rules(host);
        assert_all_there(&untouched, &left);
        let old: Vec<_> = others(&left)
            .into_iter()
            .filter(|line| line.contains("10.77."))
            .collect();
        assert!(old.is_empty(), "{mode:?}: {old:#?}");
        assert!(
            masquerades(&left, V4) && masquerades(&left, V6),
            "{mode:?}: {left:#?}"
        );
    }
}

#[test]
fn without_ip_masq_the_next_start_removes_the_masquerade_rules_alone() {
    for mode in Mode::ALL {
        let ground = Ground::new("nomasq", mode);
        let host = ground.host();
        ground.lay_rules_of_an_operator();
        let untouched = others(&rules(host));
        let never = ground.start(ground.plain_options(&[]));
        wait_for_rules(host, "to let packets of both networks through", forwards);
        let plain = ours(&rules(host));
        assert!(
            !masquerades(&plain, V4) && !masquerades(&plain, V6),
            "{mode:?}: {plain:#?}"
        );
        end(&never, true);
        let masquerading = ground.start(ground.options(&[]));
        assert!(masquerades(&rules(host), V4) && masquerades(&rules(host), V6));
        end(&masquerading, true);
        let _daemon = ground.start(ground.plain_options(&[]));
        wait_for_ours(host, &plain, SOON, "a start without --ip-masq");
        assert_all_there(&untouched, &rules(host));
    }
}

fn forwards(rules: &[String]) -> bool {
    [V4, V6].iter().all(|network| {
        rules
            .iter()
            .any(|line| line.contains(&format!("daddr {network} ")) && line.ends_with("accept"))
            || rules
                .iter()
                .any(|line| line.contains(&format!("-d {network} ")) && line.ends_with("-j ACCEPT"))
    })
}

/// With a daemon that nobody waits for: the rules stay as they are when it ends before it has done anything.
#[test]
fn a_daemon_that_finds_no_config_leaves_the_rules_of_its_predecessor() {
    let ground = Ground::new("noconfig", Mode::Nftables);
    let host = ground.host();
    end(&ground.start(ground.options(&[])), false);
    let expected = rules(host);
    std::fs::remove_file(ground.lab.store_dir().join("config")).unwrap();
    let daemon = host.start_daemon(ground.options(&[])).unwrap();
    daemon.wait_for_log("no network config at", SOON).unwrap();
    end(&daemon, true);
    assert_eq!(rules(host), expected);
}
