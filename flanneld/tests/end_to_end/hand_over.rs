//! A lease that is lost while the daemon runs, to nobody or to another.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lab::{DaemonOptions, Families, Host, Lab, SubnetEnv, wait_until};

use crate::network::{
    SOON, behind, catch_up, find_lease, key, lease_of, net, network, network_with_prologue, report,
    routes_of, routes_to, settled, settled_with, subnet_env_text, subnets_of, value_of_node,
};

/// What is lost is made good this soon.
const LIMIT: Duration = Duration::from_secs(2);

#[test]
fn a_lease_that_another_took_is_left_to_it_and_another_subnet_is_taken() {
    let lab = network("lost", 3, Families::V4);
    let [host, thief] = [0, 1].map(|index| lab.host(index));
    let daemon = settled(host);
    let mut times = Vec::new();
    let mut lost = Vec::new();
    for node in 1..=3 {
        let before = lease_of(&lab, host).key;
        let theirs = value_of_node(node, thief);
        let begin = Instant::now();
        lab.put_lease(&before, &theirs).unwrap();
        let now = wait_until(LIMIT, "another subnet", || find_lease(&lab, host)).unwrap();
        wait_until(LIMIT, "subnet.env to name it", || {
            key(&subnets_of(host)) == now.key
        })
        .unwrap();
        times.push(begin.elapsed());
        assert_ne!(now.key, before);
        lost.push((before, theirs));
    }
    report("moved to another subnet", &times);
    // The thief is a peer now, and its files are as it wrote them.
    let theirs: Vec<_> = lost.iter().map(|(key, _)| net(&key.replace('-', "/"))).collect();
    crate::network::wait_for_routes(host, routes_to(&theirs, thief), SOON);
    catch_up(&lab, host, Families::V4, 240, lab.host(2));
    for (key, text) in &lost {
        let all = lab.leases().unwrap();
        assert_eq!(&all.iter().find(|lease| lease.key == *key).unwrap().text, text);
        assert_eq!(
            daemon
                .lines_with(&["now another's", &net(&key.replace('-', "/")).to_string()])
                .len(),
            1
        );
    }
    daemon.must_run("the end of the test").unwrap();

    // Nor does the next run take one back.
    let own = lease_of(&lab, host).key;
    assert!(daemon.terminate(Duration::from_secs(3)).unwrap().success());
    let _daemon = settled(host);
    assert_eq!(lease_of(&lab, host).key, own);
    for (key, text) in &lost {
        let all = lab.leases().unwrap();
        assert_eq!(&all.iter().find(|lease| lease.key == *key).unwrap().text, text);
    }
}

#[test]
fn a_deleted_lease_is_made_again_with_the_same_subnet_within_2_s() {
    for families in [Families::V4, Families::V6, Families::Both] {
        let lab = network(&format!("deleted{families:?}"), 2, families);
        let [host, peer] = [0, 1].map(|index| lab.host(index));
        let daemon = settled(host);
        let other = settled(peer);
        let env = subnet_env_text(host);
        crate::network::wait_for_routes(host, routes_to(&subnets_of(peer), peer), SOON);
        let monitor = host.monitor_routes().unwrap();
        let mut times = Vec::new();
        for _ in 0..5 {
            let before = lease_of(&lab, host);
            lab.delete_lease(&before.key).unwrap();
            let begin = Instant::now();
            let now = wait_until(LIMIT, "the lease", || find_lease(&lab, host)).unwrap();
            times.push(begin.elapsed());
            assert_eq!(now.key, before.key);
            crate::network::wait_for_routes(peer, routes_to(&subnets_of(host), host), SOON);
        }
        report(&format!("{families:?}: lease made again"), &times);
        assert_eq!(subnet_env_text(host), env);
        assert_eq!(lab.leases().unwrap().len(), 2);
        assert!(
            monitor.stop().unwrap().is_empty(),
            "its own routes are not touched"
        );
        assert_eq!(routes_of(host), routes_to(&subnets_of(peer), peer));
        for daemon in [&daemon, &other] {
            daemon.must_run("the end of the test").unwrap();
        }
    }
}

#[test]
fn a_lease_deleted_again_as_soon_as_it_was_made_is_made_again_with_the_same_subnet() {
    let lab = network("again", 1, Families::V4);
    let daemon = settled(lab.host(0));
    let own = lease_of(&lab, lab.host(0)).key;
    let mut times = Vec::new();
    for _ in 0..50 {
        lab.delete_lease(&own).unwrap();
        let begin = Instant::now();
        let now = wait_until(LIMIT, "the lease", || find_lease(&lab, lab.host(0))).unwrap();
        times.push(begin.elapsed());
        assert_eq!(now.key, own);
    }
    report("lease made again, at once", &times);
    assert_eq!(lab.leases().unwrap().len(), 1);
    assert_eq!(key(&subnets_of(lab.host(0))), own);
    daemon.must_run("the end of the test").unwrap();
}

/// The same paths on every host, and other files behind them: the state belongs to a store and a subnet file, by name.
fn with_files_of_its_own(lab: &Lab, host: &Host) -> DaemonOptions {
    let (run, own) = (lab.directory().join("run"), files_of(lab, host));
    for directory in [&run, &own] {
        fs::create_dir_all(directory).unwrap();
    }
    let run = run.display();
    let arguments = [
        format!("--subnet-file={run}/subnet.env"),
        format!("--state-dir={run}/state"),
    ];
    let mount = format!("mount --bind {} {run}", own.display());
    behind(mount, DaemonOptions::arguments(arguments))
}

fn files_of(lab: &Lab, host: &Host) -> PathBuf {
    lab.directory().join(host.label()).join("run")
}

#[test]
fn of_a_host_and_its_clone_with_the_same_node_id_each_gets_a_subnet_of_its_own() {
    let lab = network_with_prologue("clone", 2);
    let [original, clone] = [0, 1].map(|index| lab.host(index));
    let first = settled_with(original, with_files_of_its_own(&lab, original));
    // The last of its files are written with the rules.
    first
        .wait_for_log("rules for 10.77.0.0/16 written", SOON)
        .unwrap();
    let options = with_files_of_its_own(&lab, clone);
    let from = format!("{}/.", files_of(&lab, original).display());
    original
        .exec(&["cp", "-r", &from, &files_of(&lab, clone).display().to_string()])
        .unwrap();
    // To the clone it is the original's lease that has its id, and an address that has changed.
    let second = settled_with(clone, options);
    let leases = || (find_lease(&lab, original), find_lease(&lab, clone));
    let (one, two) = wait_until(LIMIT, "a lease for each", || {
        let (one, two) = leases();
        one.zip(two)
    })
    .unwrap();
    assert_ne!(one.key, two.key);
    catch_up(&lab, original, Families::V4, 240, clone);
    catch_up(&lab, clone, Families::V4, 241, original);
    assert_eq!(leases(), (Some(one.clone()), Some(two.clone())));
    for (daemon, host, lease) in [(&first, original, one), (&second, clone, two)] {
        daemon.must_run("the end of the test").unwrap();
        let named = || {
            let env = fs::read_to_string(files_of(&lab, host).join("subnet.env")).unwrap();
            key(&[SubnetEnv::parse(&env).unwrap().subnet.unwrap().trunc().into()]) == lease.key
        };
        wait_until(SOON, "subnet.env to name the lease", named).unwrap();
    }
}
