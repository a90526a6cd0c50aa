//! A supervisor that kills the script around the daemon leaves the daemon behind.

use std::fs;
use std::time::Duration;

use lab::{Daemon, DaemonOptions, Families, Host, Lab, wait_until};

use crate::network::{
    SOON, behind, catch_up, lease_of, network_with_prologue, routes_of, settled_with, subnets_of,
};

const AT_ONCE: Duration = Duration::from_secs(2);

/// As scripts of old guides have it: the daemon is a child of the shell.
const WITHOUT_EXEC: &str = r#""$FLANNELD" "$@"; exit"#;

fn in_a_script() -> DaemonOptions {
    behind(WITHOUT_EXEC.to_owned(), DaemonOptions::default())
}

fn directly() -> DaemonOptions {
    behind(String::new(), DaemonOptions::default())
}

/// The daemon itself, which the script started.
fn pid_of_the_holder(host: &Host) -> u32 {
    let state = host.state_directory(DaemonOptions::INSTANCE);
    let entries = fs::read_dir(state).unwrap();
    let mut of_networks = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir());
    let lock = of_networks.next().unwrap().join("lock");
    fs::read_to_string(lock).unwrap().trim().parse().unwrap()
}

/// A process that has ended and that nobody has waited for yet does not.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn refused(host: &Host, holder: u32) {
    let second = host.start_daemon(directly()).unwrap();
    let status = second.wait(Duration::from_secs(5)).unwrap();
    assert_eq!(status.code(), Some(1), "{}", second.log());
    let named = format!("is in use by process {holder};");
    assert!(second.log().contains(&named), "{}", second.log());
    assert!(runs(holder));
}

fn pinged(lab: &Lab) -> (Daemon, lab::Pinger) {
    let peer = settled_with(lab.host(1), directly());
    let pods = [0, 1].map(|index| lab.host(index).add_pod().unwrap());
    let pinger = pods[1].pinger(pods[0].addresses().next().unwrap()).unwrap();
    pinger.wait_for_replies(10, SOON).unwrap();
    (peer, pinger)
}

#[test]
fn an_orphan_gives_way_to_the_next_daemon_and_no_ping_is_lost() {
    let lab = network_with_prologue("orphan", 2);
    let host = lab.host(0);
    let mut script = settled_with(host, in_a_script());
    let (_peer, pinger) = pinged(&lab);
    let (lease, routes) = (lease_of(&lab, host), routes_of(host));
    for round in 0..3 {
        let holder = pid_of_the_holder(host);
        assert_ne!(holder, script.pid());
        if round == 0 {
            refused(host, holder);
        }
        script.kill().unwrap();
        assert!(runs(holder), "it died with its script");
        let next = settled_with(host, in_a_script());
        assert_ne!(pid_of_the_holder(host), holder);
        wait_until(AT_ONCE, "the orphan to end", || !runs(holder)).unwrap();
        assert!(next.log().contains("it gives way to this one"), "{}", next.log());
        script = next;
    }
    assert_eq!(lease_of(&lab, host), lease);
    assert_eq!(routes_of(host), routes);
    let report = pinger.stop().unwrap();
    assert_eq!(report.lost, 0, "{report:?}");
    catch_up(&lab, host, Families::V4, 240, lab.host(1));
    assert_eq!(subnets_of(host).len(), 1);
    script.must_run("the end of the test").unwrap();
    // Ended by its own number: the lab knows the script alone.
    let holder = pid_of_the_holder(host);
    host.exec(&["kill", &holder.to_string()]).unwrap();
    wait_until(AT_ONCE, "it to end", || !runs(holder)).unwrap();
}

#[test]
fn an_orphan_that_does_not_end_is_named_and_left_alone() {
    let lab = network_with_prologue("stuck", 1);
    let host = lab.host(0);
    let script = settled_with(host, in_a_script());
    let holder = pid_of_the_holder(host);
    // In this order: the kernel wakes what is stopped when its group is left without parents.
    script.kill().unwrap();
    host.exec(&["kill", "-STOP", &holder.to_string()]).unwrap();
    refused(host, holder);
    host.exec(&["kill", "-KILL", &holder.to_string()]).unwrap();
    wait_until(AT_ONCE, "it to end", || !runs(holder)).unwrap();
    let _next = settled_with(host, directly());
}
