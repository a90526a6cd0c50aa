//! Rules that somebody changed come back as they were, and soon; as long as nobody does, nothing is written.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use lab::{Daemon, DaemonOptions, Host, wait_until};

use crate::faults::{
    Ground, Mode, SOON, assert_all_there, is_ready, others, ours, readiness, report, rules, run,
    wait_for_ours,
};

/// Seconds, of `--iptables-resync`.
const RESYNC: u64 = 2;
const WITHIN_NFTABLES: Duration = Duration::from_secs(1);
const WITHIN_IPTABLES: Duration = Duration::from_secs(RESYNC + 1);
/// Ten flushes a second for ten seconds. A loaded machine may manage fewer, in no more time.
const FLUSHING: Duration = Duration::from_secs(10);
const FLUSH_EVERY: Duration = Duration::from_millis(100);
/// However often rules change: it looks, writes and looks again in both families, and then lets some time pass.
const CALLS_PER_SECOND: u64 = 160;
/// A daemon that has run no program for so long is at rest.
const REST: Duration = Duration::from_millis(600);

fn within(mode: Mode) -> Duration {
    if mode.nftables() {
        WITHIN_NFTABLES
    } else {
        WITHIN_IPTABLES
    }
}

fn resync() -> String {
    format!("--iptables-resync={RESYNC}")
}

/// Something done to rules by hand.
type Fault = (&'static str, fn(&Host, Mode));

/// Each is undone by the daemon before the next.
const NFTABLES: &[Fault] = &[
    ("a rule is deleted", |host, _| {
        let (handle, _) = nft_rules(host, "ip flannel-ipv4 postrtg").remove(4);
        nft(
            host,
            &format!("delete rule ip flannel-ipv4 postrtg handle {handle}"),
        );
    }),
    ("an IPv6 rule is deleted", |host, _| {
        let (handle, _) = nft_rules(host, "ip6 flannel-ipv6 postrtg").remove(0);
        nft(
            host,
            &format!("delete rule ip6 flannel-ipv6 postrtg handle {handle}"),
        );
    }),
    ("a foreign rule is inserted first", |host, _| {
        nft(
            host,
            "insert rule ip flannel-ipv4 postrtg ip saddr 10.77.0.0/16 accept",
        );
    }),
    (
        "a foreign rule is appended for forwarded packets of IPv6",
        |host, _| {
            nft(host, "add rule ip6 flannel-ipv6 forward drop");
        },
    ),
    ("two rules change places", |host, _| {
        let (handle, text) = nft_rules(host, "ip flannel-ipv4 postrtg").remove(1);
        let chain = "ip flannel-ipv4 postrtg";
        nft(
            host,
            &format!("delete rule {chain} handle {handle}; add rule {chain} {text}"),
        );
    }),
    ("a chain is flushed", |host, _| {
        nft(host, "flush chain ip flannel-ipv4 postrtg")
    }),
    ("a chain is deleted", |host, _| {
        nft(
            host,
            "flush chain ip flannel-ipv4 forward; delete chain ip flannel-ipv4 forward",
        );
    }),
    ("the policy of a chain is changed", |host, _| {
        nft(host, "add chain ip flannel-ipv4 forward { policy drop; }");
    }),
    ("a table is deleted", |host, _| {
        nft(host, "delete table ip6 flannel-ipv6")
    }),
];

const IPTABLES: &[Fault] = &[
    ("a rule is deleted in both families", |host, mode| {
        both(host, mode, "-t nat -D FLANNEL-POSTRTG 5");
    }),
    ("a foreign rule is inserted first", |host, mode| {
        both(host, mode, "-t nat -I FLANNEL-POSTRTG -p tcp -j ACCEPT");
        both(host, mode, "-I FLANNEL-FWD -p udp -j DROP");
    }),
    ("two rules change places", |host, mode| {
        let [program, _] = mode.iptables();
        let listed = run(host, &format!("{program} -t nat -S FLANNEL-POSTRTG"));
        let first = listed.lines().find(|line| line.starts_with("-A")).unwrap();
        run(host, &format!("{program} -t nat -D FLANNEL-POSTRTG 1"));
        host.exec(&["sh", "-c", &format!("{program} -t nat {first}")])
            .unwrap();
    }),
    ("the jumps are deleted", |host, mode| {
        both(host, mode, "-t nat -D POSTROUTING 3");
        both(host, mode, "-D FORWARD 2");
    }),
    ("a jump is there twice", |host, mode| {
        let [program, _] = mode.iptables();
        let listed = run(host, &format!("{program} -t nat -S POSTROUTING"));
        let jump = listed
            .lines()
            .find(|line| line.contains("-j FLANNEL-POSTRTG"))
            .unwrap();
        host.exec(&["sh", "-c", &format!("{program} -t nat {jump}")])
            .unwrap();
    }),
];

/// Both of which take the operator's rules along.
const NFTABLES_FLUSHED: Fault = ("nft flush ruleset", |host, _| nft(host, "flush ruleset"));
const IPTABLES_FLUSHED: Fault = ("iptables -F and -X in every table", |host, mode| {
    for table in ["filter", "nat", "mangle", "raw"] {
        for program in mode.iptables() {
            // A chain that is in use again already is not deleted.
            let both = format!("{program} -t {table} -F; {program} -t {table} -X || true");
            host.exec(&["sh", "-c", &both]).unwrap();
        }
    }
});

fn nft(host: &Host, line: &str) {
    host.exec(&["nft", line]).unwrap();
}

/// The rules of a chain with their handles.
fn nft_rules(host: &Host, chain: &str) -> Vec<(String, String)> {
    let listed = run(host, &format!("nft -a list chain {chain}"));
    let rules = listed
        .lines()
        .filter_map(|line| line.trim().split_once(" # handle "));
    let rules = rules.filter(|(text, _)| !text.ends_with('{'));
    rules
        .map(|(text, handle)| (handle.to_owned(), text.to_owned()))
        .collect()
}

/// Runs the `iptables` of both families.
fn both(host: &Host, mode: Mode, arguments: &str) {
    for program in mode.iptables() {
        run(host, &format!("{program} {arguments}"));
    }
}

fn healed(mode: Mode) {
    let ground = Ground::new("heal", mode);
    let host = ground.host();
    ground.lay_rules_of_an_operator();
    let untouched = others(&rules(host));
    let daemon = ground.start(ground.options(&[&resync()]));
    let before = rules(host);
    let expected = ours(&before);
    assert!(!expected.is_empty());
    let theirs = others(&before);
    assert_all_there(&untouched, &before);

    let faults = if mode.nftables() { NFTABLES } else { IPTABLES };
    let mut times = Vec::new();
    let mut heal = |(name, break_it): &Fault| {
        if mode.nftables() {
            rest(&ground);
        }
        let writes = ground.writes();
        break_it(host, mode);
        let took = wait_for_ours(host, &expected, within(mode), name);
        assert!(
            ground.writes() > writes,
            "{name}: nothing was written, so nothing was broken"
        );
        println!("{mode:?}: {name}: as before after {took:.2?}");
        times.push(took);
    };
    for fault in faults {
        heal(fault);
        assert_eq!(others(&rules(host)), theirs, "after {}: rules of others", fault.0);
    }
    heal(&if mode.nftables() {
        NFTABLES_FLUSHED
    } else {
        IPTABLES_FLUSHED
    });
    if mode == Mode::Iptables {
        heal(&NFTABLES_FLUSHED);
    }
    report(&format!("{mode:?}: healed"), &times);
    // What somebody flushed is not brought back by us, nor are tables that `iptables -F` leaves alone touched.
    let left = others(&rules(host)).join("\n");
    assert!(
        !left.contains("172.30.0.0/16") && !left.contains("OPERATOR"),
        "{left}"
    );
    assert_eq!(left.contains("inet operator"), mode == Mode::Legacy, "{left}");
    daemon.must_run("the end of the test").unwrap();
}

/// Waits until a daemon has nothing to do, so that what it takes to notice something is what is measured next.
fn rest(ground: &Ground) {
    let (mut calls, mut since) = (ground.calls().len(), Instant::now());
    wait_until(SOON, "the daemon to be at rest", || {
        let now = ground.calls().len();
        if now != calls {
            (calls, since) = (now, Instant::now());
        }
        since.elapsed() >= REST
    })
    .unwrap();
}

#[test]
fn in_nftables_whatever_is_done_to_our_rules_is_undone_within_a_second() {
    healed(Mode::Nftables);
}

#[test]
fn in_iptables_whatever_is_done_to_our_rules_is_undone_within_a_resync_and_a_second() {
    healed(Mode::Iptables);
}

#[test]
fn in_legacy_iptables_whatever_is_done_to_our_rules_is_undone_within_a_resync_and_a_second() {
    healed(Mode::Legacy);
}

/// Time on the processor of a process, and of those that it started and that have ended.
fn processor_time(daemon: &Daemon) -> (Duration, Duration) {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let fields: Vec<u64> = stat
        .rsplit_once(") ")
        .unwrap()
        .1
        .split(' ')
        .skip(11)
        .take(4)
        .map(|ticks| ticks.parse().unwrap())
        .collect();
    // A tick is 10 ms on every Linux (USER_HZ).
    let time = |ticks: u64| Duration::from_millis(10 * ticks);
    (time(fields[0] + fields[1]), time(fields[2] + fields[3]))
}

fn flooded(mode: Mode) {
    let ground = Ground::new("flood", mode);
    let host = ground.host();
    let daemon = ground.start(ground.options(&[&resync()]));
    let expected = ours(&rules(host));
    let (calls, (own, programs)) = (ground.calls().len(), processor_time(&daemon));
    let (_, flush) = NFTABLES_FLUSHED;
    let (begin, mut flushes) = (Instant::now(), 0);
    while begin.elapsed() < FLUSHING {
        flush(host, mode);
        flushes += 1;
        thread::sleep((flushes * FLUSH_EVERY).saturating_sub(begin.elapsed()));
    }
    let lasted = begin.elapsed();
    flush(host, mode);
    // A look that the last flush but one has spoilt may have to end first.
    let took = wait_for_ours(host, &expected, 2 * within(mode), "the last of many flushes");
    let (own_after, programs_after) = processor_time(&daemon);
    let calls = ground.calls().len() - calls;
    println!(
        "{mode:?}: {flushes} flushes in {lasted:.1?}: as before {took:.2?} after the last; {calls} programs were run; \
         {:.2?} on the processor, and theirs {:.2?}",
        own_after - own,
        programs_after - programs
    );
    let limit = CALLS_PER_SECOND * (lasted + took).as_secs();
    assert!(
        calls as u64 <= limit,
        "{calls} programs were run, more than {limit}"
    );
    assert!(
        own_after - own < lasted / 4,
        "the daemon itself was busy for {:?}",
        own_after - own
    );
    let state = host.state_directory(DaemonOptions::INSTANCE);
    let ready = wait_until(Duration::from_secs(1), "readiness", || {
        is_ready(&readiness(&state))
    });
    assert!(ready.is_ok(), "{:?}", readiness(&state));
}

#[test]
fn ten_flushes_a_second_for_ten_seconds_do_not_wedge_it_in_nftables() {
    flooded(Mode::Nftables);
}

#[test]
fn ten_flushes_a_second_for_ten_seconds_do_not_wedge_it_in_iptables() {
    flooded(Mode::Iptables);
}

#[test]
fn rules_that_nobody_changes_are_looked_at_and_never_written() {
    for mode in Mode::ALL {
        let ground = Ground::new("silent", mode);
        let host = ground.host();
        ground.lay_rules_of_an_operator();
        let _daemon = ground.start(ground.options(&["--iptables-resync=1"]));
        let expected = rules(host);
        let monitor = host.monitor_rules().unwrap();
        let (since, writes) = (ground.calls().len(), ground.writes());
        let looks = || {
            let calls = ground.calls();
            let look =
                |call: &&String| call.contains("-save") || call.contains(" -S") || call.contains("list");
            calls[since..].iter().filter(look).count()
        };
        // Every second, of both families: more than two rounds.
        wait_until(SOON, format!("{mode:?}: six looks"), || looks() >= 6).unwrap();
        let events = monitor.stop().unwrap();
        assert!(events.is_empty(), "{mode:?}: {events:#?}");
        assert_eq!(
            ground.writes(),
            writes,
            "{mode:?}: {:#?}",
            &ground.calls()[since..]
        );
        assert_eq!(rules(host), expected);
    }
}
