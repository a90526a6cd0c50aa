//! Which subnet a daemon gets when it starts.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use lab::{Daemon, DaemonOptions, Families, Host, Lab, wait_until};

use crate::network::{
    SOON, bare, config_between, find_lease, lease_of, net, network, routes_of, settled, settled_with,
    subnets_of, value, value_of_node, wait_for_routes,
};

/// A freed subnet is taken this soon.
const TAKEN: Duration = Duration::from_secs(2);

/// Starts a daemon that finds no subnet, and waits until it has said so.
fn waiting(host: &Host, options: DaemonOptions, said: &str) -> Daemon {
    let daemon = host.start_daemon(options).unwrap();
    daemon.wait_for_log(said, SOON).unwrap();
    assert!(!host.subnet_env_path(DaemonOptions::INSTANCE).exists());
    daemon
}

#[test]
fn forty_daemons_that_start_at_once_on_forty_free_subnets_all_run_with_one_each() {
    const HOSTS: usize = 40;
    let lab = bare("forty", HOSTS, Families::V4);
    lab.write_config(&config_between("10.77.1.0", "10.77.40.0"))
        .unwrap();
    let begin = Instant::now();
    let daemons: Vec<Daemon> = lab
        .hosts()
        .iter()
        .map(|host| host.start_daemon(DaemonOptions::default()).unwrap())
        .collect();
    let started = begin.elapsed();
    wait_until(Duration::from_secs(30), "forty subnet.env", || {
        for daemon in &daemons {
            daemon.must_run("all to have a subnet").unwrap();
        }
        lab.hosts()
            .iter()
            .all(|host| host.subnet_env_path(DaemonOptions::INSTANCE).exists())
    })
    .unwrap();
    let leased = begin.elapsed();
    let subnets: BTreeSet<IpNet> = lab.hosts().iter().flat_map(subnets_of).collect();
    assert_eq!(subnets.len(), HOSTS, "{subnets:?}");
    for host in lab.hosts() {
        assert_eq!(lease_of(&lab, host).key, crate::network::key(&subnets_of(host)));
        let expected = lab.hosts().iter().filter(|other| other.name() != host.name());
        let expected = expected
            .flat_map(|other| crate::network::routes_to(&subnets_of(other), other))
            .collect();
        wait_for_routes(host, expected, SOON);
    }
    println!(
        "40 daemons: started in {started:.1?}, all leased after {leased:.1?}, routed after {:.1?}",
        begin.elapsed()
    );
    for daemon in &daemons {
        daemon.must_run("the end of the test").unwrap();
    }
    assert_eq!(lab.leases().unwrap().len(), HOSTS);
}

#[test]
fn in_a_full_network_a_daemon_waits_and_takes_a_freed_subnet_within_2_s() {
    let lab = bare("full", 3, Families::V4);
    lab.write_config(&config_between("10.77.1.0", "10.77.2.0"))
        .unwrap();
    let daemons = [settled(lab.host(0)), settled(lab.host(1))];
    let late = waiting(lab.host(2), DaemonOptions::default(), "WARN .*out of subnets");
    assert_eq!(lab.leases().unwrap().len(), 2);
    let freed = lease_of(&lab, lab.host(0));
    daemons[0].kill().unwrap();
    assert_eq!(find_lease(&lab, lab.host(2)), None);
    lab.delete_lease(&freed.key).unwrap();
    let begin = Instant::now();
    let taken = wait_until(TAKEN, "the freed subnet to be taken", || {
        find_lease(&lab, lab.host(2))
    })
    .unwrap();
    println!("a freed subnet is taken after {:.1?}", begin.elapsed());
    assert_eq!(taken.key, freed.key);
    late.wait_for_log(crate::network::SETTLED, TAKEN).unwrap();
    assert_eq!(late.lines_with(&["out of subnets", "WARN"]).len(), 1);
}

#[test]
fn a_pinned_subnet_is_waited_for_rather_than_another_taken() {
    let lab = network("pinned", 3, Families::V4);
    let pinned = DaemonOptions::arguments(["--subnet=10.77.150.0/24"]);
    let holder = settled_with(lab.host(0), pinned.clone());
    assert_eq!(subnets_of(lab.host(0)), [net("10.77.150.0/24")]);
    let late = waiting(lab.host(1), pinned, "WARN .*10.77.150.0/24.*taken");
    assert_eq!(find_lease(&lab, lab.host(1)), None);
    holder.kill().unwrap();
    lab.delete_lease("10.77.150.0-24").unwrap();
    wait_until(TAKEN, "the pinned subnet to be taken", || {
        find_lease(&lab, lab.host(1)).is_some_and(|lease| lease.key == "10.77.150.0-24")
    })
    .unwrap();
    late.wait_for_log(crate::network::SETTLED, TAKEN).unwrap();
    assert_eq!(subnets_of(lab.host(1)), [net("10.77.150.0/24")]);

    let outside = DaemonOptions::arguments(["--subnet=10.99.1.0/24"]);
    let _outside = waiting(
        lab.host(2),
        outside,
        "WARN .*10.99.1.0/24.*none that the network config gives out",
    );
    assert_eq!(find_lease(&lab, lab.host(2)), None);
}

/// What an earlier run has left.
fn leave_subnet_env(host: &Host, text: &str) {
    let path = host.subnet_env_path(DaemonOptions::INSTANCE);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn the_subnet_that_subnet_env_names_is_taken_if_it_is_free() {
    let lab = network("previous", 2, Families::V4);
    for host in lab.hosts() {
        leave_subnet_env(
            host,
            "FLANNEL_NETWORK=10.77.0.0/16\nFLANNEL_SUBNET=10.77.142.1/24 #a comment\n",
        );
    }
    let _first = settled(lab.host(0));
    assert_eq!(subnets_of(lab.host(0)), [net("10.77.142.0/24")]);
    let _second = settled(lab.host(1));
    let second = lease_of(&lab, lab.host(1));
    assert_ne!(second.key, "10.77.142.0-24");
    assert_eq!(crate::network::key(&subnets_of(lab.host(1))), second.key);
}

#[test]
fn the_subnet_of_another_network_in_subnet_env_is_of_no_account() {
    let lab = network("othernet", 1, Families::V4);
    leave_subnet_env(lab.host(0), "FLANNEL_SUBNET=10.99.142.1/24\n");
    let _daemon = settled(lab.host(0));
    assert!(lease_of(&lab, lab.host(0)).key.starts_with("10.77."));
}

fn member(lease: &lab::LeaseFile, name: &str) -> serde_json::Value {
    serde_json::from_str::<serde_json::Value>(&lease.text).unwrap()[name].clone()
}

/// Starts a daemon where flannel has run, and returns the lease that it has then.
fn taken_over(lab: &Lab, families: Families) -> lab::LeaseFile {
    let key = crate::network::key(&crate::network::subnets(families, 190));
    let written = value(lab.host(0)).replace('}', r#","Rack":{"row":[7,2.50]},"Zone":"b"}"#);
    lab.put_lease(&key, &written).unwrap();
    let _daemon = settled(lab.host(0));
    let lease = lease_of(lab, lab.host(0));
    assert_eq!(lease.key, key);
    assert_eq!(lab.leases().unwrap().len(), 1);
    lease
}

#[test]
fn a_lease_that_flannel_wrote_for_this_host_is_taken_over_and_its_other_members_are_kept() {
    for families in [Families::V4, Families::V6, Families::Both] {
        let lab = network(&format!("flannel{families:?}"), 1, families);
        let lease = taken_over(&lab, families);
        assert_eq!(
            member(&lease, "NodeID").as_str().map(str::len),
            Some(32),
            "{}",
            lease.text
        );
        assert!(
            lease.text.contains(r#""Rack":{"row":[7,2.50]},"Zone":"b""#),
            "{}",
            lease.text
        );
        assert_eq!(
            member(&lease, "Expires"),
            serde_json::Value::Null,
            "it was static: {}",
            lease.text
        );
    }
}

#[test]
fn another_hosts_lease_is_left_alone_though_it_has_the_subnet_of_subnet_env() {
    let lab = network("anothers", 2, Families::V4);
    let theirs = value_of_node(9, lab.host(1));
    lab.put_lease("10.77.142.0-24", &theirs).unwrap();
    leave_subnet_env(lab.host(0), "FLANNEL_SUBNET=10.77.142.1/24\n");
    let _daemon = settled(lab.host(0));
    assert_ne!(lease_of(&lab, lab.host(0)).key, "10.77.142.0-24");
    let all = lab.leases().unwrap();
    assert_eq!(
        all.iter()
            .find(|lease| lease.key == "10.77.142.0-24")
            .unwrap()
            .text,
        theirs
    );
    assert_eq!(routes_of(lab.host(0)).len(), 1);
}
