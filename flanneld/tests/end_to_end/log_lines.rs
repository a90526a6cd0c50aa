//! The log: one line for a change, none for nothing, and no reader that can stop the daemon.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use lab::{Daemon, DaemonOptions, Families, Lab, wait_until};
use serde_json::Value;

use crate::network::{
    SOON, address, behind, key, lease_of, network, network_with_prologue, put_peer, routes_to, settled,
    settled_with, subnets, wait_for_routes,
};

#[track_caller]
fn one_line(daemon: &Daemon, before: &str, parts: &[&str]) {
    let log = wait_until(SOON, format!("a line with {parts:?}"), || {
        let log = daemon.log();
        let said = log[before.len()..]
            .lines()
            .any(|line| parts.iter().all(|part| line.contains(part)));
        said.then_some(log)
    });
    let log = log.unwrap_or_else(|error| panic!("{error}:\n{}", daemon.log()));
    let new: Vec<&str> = log[before.len()..].lines().collect();
    assert_eq!(new.len(), 1, "{new:#?}");
}

#[test]
fn a_start_is_summed_up_and_each_change_has_one_line() {
    let lab = network("lines", 3, Families::V4);
    let host = lab.host(0);
    let mut expected = Vec::new();
    for number in 200..220 {
        put_peer(&lab, &subnets(Families::V4, number), lab.host(1));
        expected.extend(routes_to(&subnets(Families::V4, number), lab.host(1)));
    }
    let daemon = settled(host);
    wait_for_routes(host, expected, SOON);
    daemon.wait_for_log("subnet file written", SOON).unwrap();
    daemon
        .wait_for_log("rules for 10.77.0.0/16 written", SOON)
        .unwrap();
    let log = daemon.log();
    assert_eq!(
        daemon.lines_with(&["routes are in place", "peers=20"]).len(),
        1,
        "{log}"
    );
    assert_eq!(daemon.lines_with(&["route added"]).len(), 0, "{log}");
    assert!(log.lines().count() <= 15, "{log}");
    assert!(!log.contains('\u{1b}'), "no colour off a terminal: {log}");
    for line in log.lines() {
        let mut words = line.split_whitespace();
        assert!(
            words
                .next()
                .is_some_and(|time| time.starts_with("20") && time.ends_with('Z')),
            "{line}"
        );
        assert!(
            words
                .next()
                .is_some_and(|level| ["INFO", "WARN"].contains(&level)),
            "{line}"
        );
    }

    let peer = subnets(Families::V4, 230);
    let [first, second] = [1, 2].map(|index| address(lab.host(index), lab::Family::V4).to_string());
    let before = daemon.log();
    put_peer(&lab, &peer, lab.host(1));
    one_line(&daemon, &before, &["route added", "10.77.230.0/24", &first]);
    let before = daemon.log();
    put_peer(&lab, &peer, lab.host(2));
    one_line(
        &daemon,
        &before,
        &["route replaced", "10.77.230.0/24", &first, &second],
    );
    let before = daemon.log();
    host.delete_route(peer[0]).unwrap();
    one_line(&daemon, &before, &["route restored", "10.77.230.0/24", &second]);
    let before = daemon.log();
    host.replace_route(peer[0], &["via", &first]).unwrap();
    one_line(
        &daemon,
        &before,
        &["route corrected", "10.77.230.0/24", &first, &second],
    );
    let before = daemon.log();
    lab.delete_lease(&key(&peer)).unwrap();
    one_line(&daemon, &before, &["route removed", "10.77.230.0/24"]);
}

#[test]
fn json_lines_are_objects_with_time_level_and_message() {
    let lab = network("json", 2, Families::V4);
    let daemon = settled_with(lab.host(0), DaemonOptions::arguments(["--log-format=json"]));
    crate::network::catch_up(&lab, lab.host(0), Families::V4, 200, lab.host(1));
    daemon.wait_for_log("route added", SOON).unwrap();
    for line in daemon.log().lines() {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for name in ["time", "level", "message"] {
            assert!(object[name].is_string(), "{name} in {line}");
        }
    }
    let added = daemon.lines_with(&["route added"]);
    let added: Value = serde_json::from_str(&added[0]).unwrap();
    assert!(
        added["route"].as_str().unwrap().starts_with("10.77.200.0/24 "),
        "{added}"
    );
}

/// Daemons whose standard error is a pipe of the test's.
struct Piped {
    lab: Lab,
    pipe: PathBuf,
}

impl Piped {
    fn new(name: &str) -> Self {
        let lab = network_with_prologue(name, 2);
        put_peer(&lab, &subnets(Families::V4, 200), lab.host(1));
        let pipe = lab.directory().join("stderr");
        lab.host(0)
            .exec(&["mkfifo", &pipe.display().to_string()])
            .unwrap();
        Self { lab, pipe }
    }

    fn start(&self) -> Daemon {
        let redirect = format!("exec 2>{}", self.pipe.display());
        let options = behind(redirect, DaemonOptions::arguments(["-v=2"]));
        self.lab.host(0).start_daemon(options).unwrap()
    }

    /// The daemon works as ever.
    #[track_caller]
    fn assert_repairs(&self, daemon: &Daemon) {
        let (host, peer) = (self.lab.host(0), subnets(Families::V4, 200));
        for _ in 0..20 {
            host.delete_route(peer[0]).unwrap();
            wait_for_routes(host, routes_to(&peer, self.lab.host(1)), Duration::from_secs(1));
        }
        daemon.must_run("the repair of routes").unwrap();
        assert!(daemon.terminate(Duration::from_secs(3)).unwrap().success());
    }

    fn routed(&self) {
        wait_for_routes(
            self.lab.host(0),
            routes_to(&subnets(Families::V4, 200), self.lab.host(1)),
            SOON,
        );
    }
}

/// Both ends of the pipe, so that opening it waits for nobody; reading and writing do not wait either.
fn open(pipe: &Path) -> File {
    const O_NONBLOCK: i32 = 0o4000;
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(O_NONBLOCK)
        .open(pipe)
        .unwrap()
}

#[test]
fn a_log_reader_that_never_reads_stops_neither_the_routes_nor_the_exit() {
    let piped = Piped::new("stalled");
    let mut pipe = open(&piped.pipe);
    let full = loop {
        if let Err(error) = pipe.write(&[b'x'; 512]) {
            break error;
        }
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    let daemon = piped.start();
    piped.routed();
    piped.assert_repairs(&daemon);
}

#[test]
fn a_log_reader_that_goes_away_stops_neither_the_routes_nor_the_exit() {
    let piped = Piped::new("closed");
    let pipe = open(&piped.pipe);
    let daemon = piped.start();
    piped.routed();
    drop(pipe);
    piped.assert_repairs(&daemon);
}

#[test]
fn an_idle_daemon_writes_nothing_anywhere() {
    // Longer than the time between two looks at everything.
    const IDLE: Duration = Duration::from_secs(12);
    let lab = network("idle", 2, Families::Both);
    let host = lab.host(0);
    let daemon = settled(host);
    crate::network::catch_up(&lab, host, Families::Both, 200, lab.host(1));
    daemon.wait_for_log("subnet file written", SOON).unwrap();
    daemon.wait_for_log("routes? (added|programmed)", SOON).unwrap();
    daemon.wait_for_log("rules for fd77::/48 written", SOON).unwrap();
    let path = lab.store_dir().join("subnets").join(lease_of(&lab, host).key);
    let version = || fs::metadata(&path).unwrap().modified().unwrap();
    let (lease, log) = (version(), daemon.log());
    let monitor = host.monitor_routes().unwrap();
    let rules = || host.exec(&["nft", "-a", "list", "ruleset"]).unwrap();
    let before = rules();
    thread::sleep(IDLE);
    // Each rule that is written has a new handle.
    assert_eq!(rules(), before);
    let events = monitor.stop().unwrap();
    assert!(events.is_empty(), "{events:#?}");
    assert_eq!(daemon.log(), log);
    assert_eq!(version(), lease);
}
