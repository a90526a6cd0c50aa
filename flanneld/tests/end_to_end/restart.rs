//! The daemon ends and comes again; the pods do not notice.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;
use lab::{Daemon, DaemonOptions, Families, Host, Lab, Pinger, Signal};

use crate::network::{
    SOON, assert_one_warning, key, lease_of, network, report, settled, subnet_env_text, subnets_of,
};

/// For each of the two hosts.
const ROUNDS: usize = 25;
const END: Duration = Duration::from_secs(3);

/// Which file it is, and when it was written.
fn version(path: &Path) -> (u64, SystemTime) {
    let file = fs::metadata(path).unwrap();
    (file.ino(), file.modified().unwrap())
}

/// Two hosts whose pods ping each other while the daemons are ended by `end` and started again.
fn restarted(name: &str, end: impl Fn(&Daemon)) {
    let lab = network(name, 2, Families::Both);
    let mut daemons: Vec<Daemon> = lab.hosts().iter().map(settled).collect();
    let pods: Vec<_> = lab.hosts().iter().map(|host| host.add_pod().unwrap()).collect();
    let files = |host: &Host| {
        let lease = lab.store_dir().join("subnets").join(lease_of(&lab, host).key);
        [
            version(&lease),
            version(&host.subnet_env_path(DaemonOptions::INSTANCE)),
        ]
    };
    let before: Vec<_> = lab.hosts().iter().map(files).collect();
    let subnets: Vec<Vec<IpNet>> = lab.hosts().iter().map(subnets_of).collect();
    let wanted: Vec<IpNet> = subnets.concat();
    let monitors: Vec<_> = lab
        .hosts()
        .iter()
        .map(|host| host.monitor_routes().unwrap())
        .collect();
    let pingers: Vec<Pinger> = pods[1]
        .addresses()
        .map(|address| pods[0].pinger(address).unwrap())
        .collect();
    for pinger in &pingers {
        pinger.wait_for_replies(10, SOON).unwrap();
    }
    let mut times = Vec::new();
    for round in 0..2 * ROUNDS {
        let index = round % 2;
        end(&daemons[index]);
        let begin = Instant::now();
        daemons[index] = settled(lab.host(index));
        times.push(begin.elapsed());
    }
    report(&format!("{name}: start to the routes being in place"), &times);
    for pinger in pingers {
        let pings = pinger.stop().unwrap();
        println!("{name}: {pings:?}");
        assert_eq!(pings.lost, 0, "{pings:?}");
    }
    for monitor in monitors {
        let events = monitor.stop().unwrap();
        let touched: Vec<_> = events
            .iter()
            .filter(|event| wanted.contains(&event.destination))
            .collect();
        assert!(touched.is_empty(), "{touched:#?}");
    }
    let after: Vec<_> = lab.hosts().iter().map(files).collect();
    assert_eq!(after, before, "lease files and subnet.env are not written again");
    assert_eq!(lab.hosts().iter().map(subnets_of).collect::<Vec<_>>(), subnets);
    assert_eq!(lab.leases().unwrap().len(), 2);
}

#[test]
fn killed_and_started_again_it_loses_no_ping_touches_no_route_and_writes_nothing() {
    restarted("killed", |daemon| assert!(!daemon.kill().unwrap().success()));
}

#[test]
fn ended_and_started_again_it_loses_no_ping_touches_no_route_and_writes_nothing() {
    restarted("ended", |daemon| {
        assert!(daemon.terminate(END).unwrap().success())
    });
}

/// Takes something away from a daemon that is down, and returns the next one, which must have the same subnet.
fn after_loss(lab: &Lab, loss: impl Fn(&Host)) -> Daemon {
    let host = lab.host(0);
    let daemon = settled(host);
    let (lease, env) = (lease_of(lab, host), subnet_env_text(host));
    assert!(daemon.terminate(END).unwrap().success());
    loss(host);
    let daemon = settled(host);
    assert_eq!(lease_of(lab, host).key, lease.key);
    assert_eq!(subnet_env_text(host), env);
    assert_eq!(lab.leases().unwrap().len(), 1);
    daemon
}

fn lose_state(host: &Host) {
    fs::remove_dir_all(host.state_directory(DaemonOptions::INSTANCE)).unwrap();
}

fn lose_subnet_env(host: &Host) {
    fs::remove_file(host.subnet_env_path(DaemonOptions::INSTANCE)).unwrap();
}

#[test]
fn a_lost_state_directory_costs_one_loud_line_and_not_the_subnet() {
    let lab = network("statelost", 1, Families::Both);
    let daemon = after_loss(&lab, lose_state);
    let subnets = subnets_of(lab.host(0));
    assert_one_warning(&daemon, &["state directory", &subnets[0].to_string()]);
    assert_eq!(daemon.lines_with(&["WARN"]).len(), 1, "{}", daemon.log());
    // From then on it is known again.
    assert!(daemon.terminate(END).unwrap().success());
    let daemon = settled(lab.host(0));
    assert_eq!(key(&subnets_of(lab.host(0))), key(&subnets));
    assert!(daemon.lines_with(&["WARN"]).is_empty(), "{}", daemon.log());
}

#[test]
fn a_lost_subnet_env_is_written_again_with_the_same_subnet() {
    let lab = network("envlost", 1, Families::Both);
    let daemon = after_loss(&lab, lose_subnet_env);
    assert!(daemon.lines_with(&["WARN"]).is_empty(), "{}", daemon.log());
}

#[test]
fn with_both_state_and_subnet_env_lost_the_subnet_is_the_same() {
    let lab = network("bothlost", 1, Families::V6);
    after_loss(&lab, |host| {
        lose_state(host);
        lose_subnet_env(host);
    });
}

#[test]
fn it_ends_cleanly_within_3_s_by_each_signal_whatever_it_waits_for() {
    let lab = network("signals", 2, Families::V4);
    let busy = settled(lab.host(1));
    let away = format!("file://{}", lab.directory().join("empty").display());
    let instance = |name: &str| DaemonOptions::default().instance(name);
    let mut times = Vec::new();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT] {
        let running = (lab.host(0), instance("running"), crate::network::SETTLED);
        let config = DaemonOptions {
            store: Some(away.clone()),
            ..instance("config")
        };
        let interface = DaemonOptions {
            arguments: vec!["--iface=eth7".into()],
            ..instance("interface")
        };
        let store = DaemonOptions {
            store: Some("file:///proc/nowhere/net".into()),
            ..instance("store")
        };
        for (host, options, said) in [
            running,
            (lab.host(0), config, "no network config"),
            (lab.host(0), interface, "eth7"),
            (lab.host(0), store, "waiting for the store|cannot make"),
            // The lock of the daemon that runs there.
            (lab.host(1), DaemonOptions::default(), "is in use by process"),
        ] {
            let daemon = host.start_daemon(options).unwrap();
            daemon.wait_for_log(said, SOON).unwrap();
            let begin = Instant::now();
            daemon.signal(signal).unwrap();
            let status = daemon.wait(END).unwrap();
            times.push(begin.elapsed());
            assert!(status.success(), "{signal} {said}: {status}\n{}", daemon.log());
        }
    }
    report("ended by a signal", &times);
    busy.must_run("the end of the test").unwrap();
}

#[test]
fn a_hangup_means_look_again_and_go_on() {
    let lab = network("hangup", 2, Families::V4);
    let daemon = settled(lab.host(0));
    let lease = lease_of(&lab, lab.host(0));
    let monitor = lab.host(0).monitor_routes().unwrap();
    for times in 1..=3 {
        daemon.signal(Signal::SIGHUP).unwrap();
        lab::wait_until(SOON, "the answer to the hangup", || {
            daemon.lines_with(&["asked to look"]).len() == times
        })
        .unwrap();
    }
    crate::network::catch_up(&lab, lab.host(0), Families::V4, 200, lab.host(1));
    daemon.must_run("the end of the test").unwrap();
    assert_eq!(lease_of(&lab, lab.host(0)), lease);
    assert_eq!(
        monitor.stop().unwrap().len(),
        1,
        "only the new lease's route was written"
    );
}
