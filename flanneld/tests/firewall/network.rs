//! What the tests share: a lab with a network config, and what a daemon says of itself.

use std::net::IpAddr;
use std::time::Duration;

use lab::{Daemon, DaemonOptions, Families, Family, Host, Lab, Options, wait_until_told};

/// The IPv4 network of every test that does not say otherwise.
pub(crate) const V4: &str = "10.77.0.0/16";
/// The IPv6 network.
pub(crate) const V6: &str = "fd77::/48";
/// For what takes milliseconds, on a machine under load, where the time is not what is tested.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// What is wrong, and announced, is told this soon, and that it is over.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(2);

/// What keeps the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Iptables,
    Nftables,
}

/// Hosts with addresses of both families, and a config for these in their store, with more members in it.
pub(crate) fn network(name: &str, hosts: usize, families: Families, mode: Mode, more: &str) -> Lab {
    let options = Options::hosts(hosts).flanneld(env!("CARGO_BIN_EXE_flanneld"));
    let lab = Lab::new(name, options).unwrap();
    lab.write_config(&config(families, mode, more)).unwrap();
    lab
}

/// The same, where a daemon is started behind a shell line of the test's: see [`crate::programs::Only`].
pub(crate) fn network_behind_prologue(name: &str, hosts: usize, families: Families, mode: Mode) -> Lab {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/end_to_end/after-prologue");
    let lab = Lab::new(name, Options::hosts(hosts).flanneld(script)).unwrap();
    lab.write_config(&config(families, mode, "")).unwrap();
    lab
}

/// `more` begins with a comma, or is empty.
pub(crate) fn config(families: Families, mode: Mode, more: &str) -> String {
    let members = match families {
        Families::V4 => format!(r#""Network":"{V4}""#),
        Families::V6 => format!(r#""EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"{V6}""#),
        Families::Both => format!(r#""Network":"{V4}","EnableIPv6":true,"IPv6Network":"{V6}""#),
    };
    let nftables = mode == Mode::Nftables;
    format!(r#"{{{members},"EnableNFTables":{nftables}{more},"Backend":{{"Type":"host-gw"}}}}"#)
}

pub(crate) fn address(host: &Host, family: Family) -> IpAddr {
    match family {
        Family::V4 => host.ipv4().unwrap().into(),
        Family::V6 => host.ipv6().unwrap().into(),
    }
}

/// A daemon that is ready, and has nothing to complain of.
#[track_caller]
pub(crate) fn ready(host: &Host, options: DaemonOptions) -> Daemon {
    let daemon = host.start_daemon(options).unwrap();
    becomes(&daemon, 200, &[]);
    daemon
}

/// Waits until `/readyz` has this code and names all of these, or, without any, is `ready` and nothing else. Returns
/// how long that took.
#[track_caller]
pub(crate) fn becomes(daemon: &Daemon, code: u16, parts: &[&str]) -> Duration {
    let told = wait_until_told(SOON, code, parts, || daemon.get("/readyz"));
    let took = told.unwrap_or_else(|error| panic!("{error} in\n{}", daemon.log()));
    println!("{code} {parts:?} after {took:.1?}");
    took
}

/// Fails unless most of these were soon after what they tell of: one may have met a machine that was busy otherwise.
#[track_caller]
pub(crate) fn at_once(mut times: Vec<Duration>) {
    times.sort();
    let median = times[times.len() / 2];
    println!("median {median:.1?} of {times:.1?}");
    assert!(median <= AT_ONCE, "{times:?}");
}
