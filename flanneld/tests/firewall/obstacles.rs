//! What stands in the way of the rules: filters of others that drop all the same, and programs that are missing. Each
//! is told of by name, and is over when it is removed; what is not needed is not asked for.

use lab::{Daemon, DaemonOptions, Families, Family, Receiver, wait_until};

use crate::network::{Mode, SOON, address, at_once, becomes, network, network_behind_prologue, ready};
use crate::programs::{Only, Variant};

/// As firewalld has it, in short: what no zone knows is rejected at the end.
const FIREWALLD: &str = "
    table inet firewalld {
        chain filter_FORWARD {
            type filter hook forward priority filter + 10; policy accept;
            ct state { established, related } accept
            iifname \"lo\" accept
            reject with icmpx admin-prohibited
        }
    }";
/// A policy, before all else.
const LOCKDOWN: &str = "
    table inet lockdown {
        chain keep_out {
            type filter hook forward priority filter - 10; policy drop;
            ct state { established, related } accept
        }
    }";
/// What is none of our business, and is never named.
const OF_OTHERS: &str = "
    table inet others {
        chain forward {
            type filter hook forward priority filter - 20; policy accept;
            ip saddr 198.51.100.0/24 drop
            ip6 saddr 2001:db8:51::/48 reject
        }
    }";
/// What a REJECT of everything looks like, at the end of the chain in many a distribution's own rules.
const REJECT: &[&str] = &["FORWARD", "-j", "REJECT", "--reject-with", "icmp-host-prohibited"];

const PORT: u16 = 7000;
/// The programs of iptables for IPv4.
const IPTABLES: &[&str] = &["iptables", "iptables-restore", "iptables-save"];

/// Waits until the log has told of something, in a line with all of these.
#[track_caller]
fn told(daemon: &Daemon, parts: &[&str]) {
    let parts = [&[" WARN ", "not as it ought to be"], parts].concat();
    wait_until(SOON, format!("a line with {parts:?}"), || {
        !daemon.lines_with(&parts).is_empty()
    })
    .unwrap_or_else(|error| panic!("{error} in\n{}", daemon.log()));
}

/// Waits until the log has said, of what it had told of before in these words, that it is over.
#[track_caller]
fn over(daemon: &Daemon, part: &str) {
    wait_until(SOON, format!("the end of {part}"), || {
        !daemon.lines_with(&["mended", part]).is_empty()
    })
    .unwrap_or_else(|error| panic!("{error} in\n{}", daemon.log()));
}

/// Warnings and errors.
fn complaints(daemon: &Daemon) -> Vec<String> {
    [daemon.lines_with(&[" WARN "]), daemon.lines_with(&[" ERROR "])].concat()
}

fn a_drop_in_another_table_is_named(name: &str, mode: Mode) {
    let lab = network(name, 1, Families::Both, mode, "");
    let host = lab.host(0);
    host.feed(&["nft", "-f", "-"], OF_OTHERS).unwrap();
    let daemon = ready(host, DaemonOptions::default());
    let mut times = Vec::new();
    for (table, text, chain) in [
        ("inet firewalld", FIREWALLD, "filter_FORWARD"),
        ("inet lockdown", LOCKDOWN, "keep_out"),
    ] {
        host.feed(&["nft", "-f", "-"], text).unwrap();
        let named = [
            "\"degraded\"",
            "\"filter\"",
            table,
            chain,
            "10.77.0.0/16",
            "fd77::/48",
        ];
        times.push(becomes(&daemon, 200, &named));
        told(&daemon, &[table, chain]);
        let delete = format!("delete table {table}");
        host.exec(&["nft", &delete]).unwrap();
        times.push(becomes(&daemon, 200, &[]));
        over(&daemon, table);
    }
    at_once(times);
}

#[test]
fn a_drop_in_another_nft_table_is_named_until_it_is_gone_in_nftables_mode() {
    a_drop_in_another_table_is_named("dropinnft", Mode::Nftables);
}

#[test]
fn a_drop_in_another_nft_table_is_named_until_it_is_gone_in_iptables_mode() {
    a_drop_in_another_table_is_named("dropinipt", Mode::Iptables);
}

/// A REJECT that was there first, so that the jump to our chain is behind it.
fn a_reject_before_our_jump_is_named(name: &str, variant: Variant) {
    let lab = network(name, 1, Families::V4, Mode::Iptables, "");
    let host = lab.host(0);
    let program = variant.program("iptables");
    let change = |how: &str| {
        host.exec(&[&[program.as_str(), how], REJECT].concat()).unwrap();
    };
    // That of others is no obstacle.
    host.exec(&[&program, "-A", "FORWARD", "-s", "198.51.100.0/24", "-j", "DROP"])
        .unwrap();
    change("-A");
    let options = DaemonOptions::arguments(["--iptables-resync=1"]);
    let daemon = host.start_daemon(variant.found(&lab, options)).unwrap();
    let named = [
        "\"degraded\"",
        "\"filter\"",
        "FORWARD",
        "ip filter",
        "10.77.0.0/16",
    ];
    becomes(&daemon, 200, &named);
    told(&daemon, &["FORWARD", "ip filter"]);
    // Behind the jump it is no obstacle.
    change("-D");
    change("-A");
    let gone = becomes(&daemon, 200, &[]);
    over(&daemon, "FORWARD");
    // An operator's, at the top.
    change("-I");
    let there = becomes(&daemon, 200, &named);
    change("-D");
    at_once(vec![gone, there, becomes(&daemon, 200, &[])]);
}

#[test]
fn a_reject_before_our_jump_is_named_until_it_is_behind_it_on_iptables_nft() {
    a_reject_before_our_jump_is_named("rejectnft", Variant::Nft);
}

#[test]
fn a_reject_before_our_jump_is_named_until_it_is_behind_it_on_iptables_legacy() {
    a_reject_before_our_jump_is_named("rejectleg", Variant::Legacy);
}

/// Starts a daemon that finds no program, waits for what it says, and installs them.
fn a_missing_program_is_told_of_once(name: &str, mode: Mode, argument: &str, code: u16, kind: &str) {
    let lab = network_behind_prologue(name, 1, Families::V4, mode);
    let (program, all) = match mode {
        Mode::Iptables => ("iptables", IPTABLES),
        Mode::Nftables => ("nft", &["nft"][..]),
    };
    let options = DaemonOptions::arguments([argument, "--iptables-resync=1"]);
    let programs = Only::new(&lab, &[]);
    let daemon = lab.host(0).start_daemon(programs.found(options)).unwrap();
    let missing = format!("{program} is not installed");
    becomes(&daemon, code, &[kind, &missing]);
    told(&daemon, &[&missing]);
    all.iter().for_each(|name| programs.install(name));
    becomes(&daemon, 200, &[]);
    over(&daemon, &missing);
    let complaints = complaints(&daemon);
    assert_eq!(complaints.len(), 1, "{complaints:#?}");
}

#[test]
fn without_iptables_a_host_that_is_to_masquerade_is_not_ready_until_it_is_installed() {
    a_missing_program_is_told_of_once("noipt", Mode::Iptables, "--ip-masq", 503, "\"masquerade\"");
}

#[test]
fn without_iptables_a_host_that_is_to_forward_only_is_ready_and_degraded() {
    a_missing_program_is_told_of_once(
        "noiptfwd",
        Mode::Iptables,
        "--ip-masq=false",
        200,
        "\"forward_rules\"",
    );
}

#[test]
fn without_nft_a_host_that_is_to_masquerade_is_not_ready_until_it_is_installed() {
    a_missing_program_is_told_of_once("nonft", Mode::Nftables, "--ip-masq", 503, "\"masquerade\"");
}

#[test]
fn without_ip6tables_a_host_of_both_families_says_so_and_masquerades_ipv4_all_the_same() {
    let lab = network_behind_prologue("noip6t", 2, Families::Both, Mode::Iptables);
    let programs = Only::new(&lab, IPTABLES);
    let options = DaemonOptions::arguments(["--ip-masq", "--iptables-resync=1"]);
    let daemon = lab.host(0).start_daemon(programs.found(options)).unwrap();
    becomes(&daemon, 503, &["\"masquerade\"", "ip6tables is not installed"]);
    let pod = lab.host(0).add_pod().unwrap();
    let outside = lab.host(1);
    let receiver = Receiver::open(outside, Family::V4, PORT).unwrap();
    let own = pod.addresses().next().unwrap();
    let seen = receiver.source_of_datagram(&pod, own, address(outside, Family::V4), SOON);
    assert_eq!(seen.unwrap(), address(lab.host(0), Family::V4));
}

/// Nothing is said by a daemon that finds these programs alone, and what it is asked for works.
#[track_caller]
fn enough(
    name: &str,
    families: Families,
    mode: Mode,
    programs: &[&str],
    arguments: &[&str],
    masquerades: bool,
) {
    let lab = network_behind_prologue(name, 2, families, mode);
    let options = DaemonOptions::arguments(arguments.iter().copied());
    let daemon = ready(lab.host(0), Only::new(&lab, programs).found(options));
    let pod = lab.host(0).add_pod().unwrap();
    let outside = lab.host(1);
    for own in pod.addresses() {
        let family = Family::of(own);
        let receiver = Receiver::open(outside, family, PORT).unwrap();
        let seen = receiver.source_of_datagram(&pod, own, address(outside, family), SOON);
        let ought = if masquerades {
            address(lab.host(0), family)
        } else {
            own
        };
        assert_eq!(seen.unwrap(), ought);
    }
    let complaints = complaints(&daemon);
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn nftables_mode_asks_for_no_iptables() {
    enough(
        "nftalone",
        Families::Both,
        Mode::Nftables,
        &["nft"],
        &["--ip-masq"],
        true,
    );
}

#[test]
fn an_ipv4_network_in_iptables_mode_asks_for_neither_ip6tables_nor_nft() {
    enough(
        "ip4alone",
        Families::V4,
        Mode::Iptables,
        IPTABLES,
        &["--ip-masq"],
        true,
    );
}

#[test]
fn where_no_rules_are_asked_for_no_program_is() {
    let none = ["--ip-masq=false", "--iptables-forward-rules=false"];
    enough("noneipt", Families::Both, Mode::Iptables, &[], &none, false);
    enough("nonenft", Families::Both, Mode::Nftables, &[], &none, false);
}
