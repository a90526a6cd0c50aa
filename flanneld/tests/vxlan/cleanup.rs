//! `flanneld cleanup` leaves a host as it was before its first daemon.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use lab::{DaemonOptions, Families, Host, Lab, LabError, Snapshot, Wire, wait_until};

use crate::network::{BOTH, Network, SOON, config, subnets};
use crate::restart::terminate;

/// Runs `flanneld cleanup` as an operator does, with these flags, and returns the lines that it prints.
#[track_caller]
pub(crate) fn cleanup(host: &Host, flags: &[String]) -> Vec<String> {
    let flags = flags.iter().map(String::as_str);
    let line: Vec<&str> = [env!("CARGO_BIN_EXE_flanneld"), "cleanup"]
        .into_iter()
        .chain(flags)
        .collect();
    match host.exec(&line) {
        Ok(printed) => printed.lines().map(str::to_owned).collect(),
        Err(LabError::Program { status, stderr, .. }) => panic!("{status}: {stderr}"),
        Err(other) => panic!("{other}"),
    }
}

/// The flags by which the daemon of an instance is known.
pub(crate) fn flags(lab: &Lab, host: &Host, instance: &str) -> Vec<String> {
    vec![
        format!("--store=file://{}", lab.store_dir().display()),
        format!("--state-dir={}", host.state_directory(instance).display()),
        format!("--subnet-file={}", host.subnet_env_path(instance).display()),
    ]
}

/// Where a daemon's files are.
fn directory(host: &Host) -> PathBuf {
    let state = host.state_directory(DaemonOptions::INSTANCE);
    state.parent().unwrap().to_owned()
}

fn look(host: &Host) -> Snapshot {
    host.snapshot(&[directory(host)]).unwrap()
}

/// What somebody else has on a host, close to what is ours.
const OF_OTHERS: &[&str] = &[
    "ip link add theirs mtu 1400 type vxlan id 9 dev eth0 local 192.168.77.11 dstport 8472 nolearning",
    // It gets no address of its own making later.
    "ip link set theirs addrgenmode none",
    "ip addr add 10.99.0.0/32 dev theirs",
    "ip link set theirs up",
    "ip neigh add 10.99.1.0 lladdr 02:00:00:00:00:99 dev theirs nud permanent",
    "bridge fdb add 02:00:00:00:00:99 dev theirs dst 192.168.77.12 self permanent",
    "ip route add 10.99.1.0/24 via 10.99.1.0 dev theirs onlink proto 70",
    "ip route add 10.77.240.0/24 via 192.168.77.9 proto static",
    "ip -6 route add fd77:0:0:240::/64 via fd00:77::9 proto static",
    "ip neigh add 192.168.77.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent",
    "bridge fdb add 02:00:00:00:00:09 dev eth0 self permanent",
    "sysctl -qw net.ipv6.conf.eth0.accept_ra=2",
    "nft add table inet operator",
];

/// Two hosts. The second has a daemon, the first never had one; it has something of others, and a look at it.
fn prepared(name: &str) -> (Network, Snapshot) {
    let mut network = Network::new(name, [Wire::hosts(2)], Families::Both, "");
    network.start(1, &[]);
    let host = network.lab.host(0);
    for line in OF_OTHERS {
        host.exec(&line.split(' ').collect::<Vec<_>>()).unwrap();
    }
    fs::create_dir_all(directory(host)).unwrap();
    fs::write(directory(host).join("subnet.env.old"), "of an operator\n").unwrap();
    let before = look(host);
    (network, before)
}

/// Cleans up, and compares the first host with what it was.
#[track_caller]
fn assert_cleaned_up(network: &Network, before: &Snapshot, parts: &[&str]) {
    let host = network.lab.host(0);
    let flags = flags(&network.lab, host, DaemonOptions::INSTANCE);
    let during = look(host);
    let dry = cleanup(host, &[&["--dry-run".to_owned()], &flags[..]].concat());
    during.assert_same(&look(host), "after a dry run");
    let done = cleanup(host, &flags);
    before.assert_same(&look(host), &format!("after cleanup, which told {done:#?}"));
    let told = [dry.join("\n"), done.join("\n")];
    for part in parts {
        assert!(told.iter().all(|told| told.contains(part)), "{part} in {told:#?}");
    }
    assert_eq!(dry.len(), done.len(), "{told:#?}");
    let again = cleanup(host, &flags);
    assert!(again.len() == 1 && again[0].contains("nothing"), "{again:#?}");
}

const DEVICES: &[&str] = &["device flannel.1 ", "device flannel-v6.1 "];

#[test]
fn after_a_daemon_that_has_ended_a_host_is_as_it_was() {
    let (mut network, before) = prepared("clean");
    network.start(0, &[]);
    network.check();
    terminate(network.daemon(0));
    let during = look(network.lab.host(0));
    for part in [
        "links",
        "addresses",
        "routes",
        "neighbours",
        "fdb",
        "sysctls",
        "nftables",
        "files",
    ] {
        assert_ne!(before.part(part), during.part(part), "{part}");
    }
    assert_cleaned_up(&network, &before, DEVICES);
}

#[test]
fn after_a_daemon_that_was_killed_a_host_is_as_it_was() {
    let (mut network, before) = prepared("cleankill");
    let daemon = network.start(0, &[]);
    daemon.kill().unwrap();
    // What is left if that happens just before it gives the file its name.
    let unnamed = format!(".subnet.env.{}", daemon.pid());
    let host = network.lab.host(0);
    fs::write(directory(host).join(unnamed), "FLANNEL_").unwrap();
    assert_cleaned_up(&network, &before, DEVICES);
}

/// Killed as soon as there is a device: some of what it makes is there then, and some may not be.
#[test]
fn after_a_daemon_that_was_killed_at_its_first_start_a_host_is_as_it_was() {
    let (mut network, before) = prepared("cleanearly");
    let daemon = network.launch(0, &[]);
    let pid = daemon.pid();
    let host = network.lab.host(0);
    let there = || BOTH.into_iter().any(|family| network.device(0, family).is_some());
    wait_until(
        SOON,
        format!("a device of process {pid} on {}", host.label()),
        there,
    )
    .unwrap();
    network.daemon(0).kill().unwrap();
    wait_until_alone(network.lab.host(0));
    assert_cleaned_up(&network, &before, &["device flannel"]);
}

/// A program that a killed daemon has run may still be at work.
fn wait_until_alone(host: &Host) {
    let pids = || Command::new("ip").args(["netns", "pids", host.name()]).output();
    let alone = || pids().unwrap().stdout.is_empty();
    wait_until(SOON, "the last program to end", alone).unwrap();
}

/// Restarts the daemons of both hosts with another config.
fn reconfigured(network: &mut Network, json: &str) {
    for index in 0..2 {
        terminate(network.daemon(index));
    }
    network.lab.write_config(json).unwrap();
    network.start_all();
}

/// Waits until the first host's routes to the second's subnets lead over these devices.
#[track_caller]
fn assert_routes_over(network: &Network, devices: [&str; 2]) {
    let (host, peer) = (network.lab.host(0), network.lab.host(1));
    let over = || {
        let routes = subnets(peer)
            .into_iter()
            .flat_map(|subnet| host.routes_to(subnet).unwrap());
        routes.filter_map(|route| route.device).collect::<Vec<_>>()
    };
    let there = wait_until(SOON, "the routes", || over() == devices);
    assert!(there.is_ok(), "over {:?} and not {devices:?}", over());
}

fn names(network: &Network) -> Vec<String> {
    let links = network.lab.host(0).links().unwrap().into_iter();
    links
        .map(|link| link.name)
        .filter(|name| name.contains("flannel"))
        .collect()
}

#[test]
fn another_vni_leaves_nothing_of_the_former_nor_does_a_clean_up_then() {
    let (mut network, before) = prepared("cleanvni");
    network.start(0, &[]);
    reconfigured(&mut network, &config(Families::Both, r#""VNI":7"#));
    network.check();
    let mut there = names(&network);
    there.sort();
    assert_eq!(there, ["flannel-v6.7", "flannel.7"]);
    // Killed before it has swept what it finds, or just then.
    terminate(network.daemon(0));
    network
        .lab
        .write_config(&config(Families::Both, r#""VNI":8"#))
        .unwrap();
    network.launch(0, &[]);
    let made = || names(&network).iter().any(|name| name.ends_with(".8"));
    wait_until(SOON, "a device of the new VNI", made).unwrap();
    network.daemon(0).kill().unwrap();
    wait_until_alone(network.lab.host(0));
    assert_cleaned_up(&network, &before, &["device flannel"]);
}

#[test]
fn host_gw_leaves_nothing_of_the_overlay_and_the_overlay_nothing_of_host_gw_nor_does_a_clean_up_then() {
    let (mut network, before) = prepared("cleanbackend");
    network.start(0, &[]);
    let vxlan = config(Families::Both, "");
    reconfigured(&mut network, &vxlan.replace("vxlan", "host-gw"));
    assert_eq!(names(&network), [""; 0]);
    assert_routes_over(&network, ["eth0"; 2]);
    reconfigured(&mut network, &vxlan);
    assert_routes_over(&network, ["flannel.1", "flannel-v6.1"]);
    network.check();
    network.daemon(0).kill().unwrap();
    assert_cleaned_up(&network, &before, DEVICES);
}
