//! What befalls the interface towards the other hosts.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use lab::{Daemon, DaemonOptions, Families, Lab, UPLINK, ping};

use crate::network::{
    SOON, find_lease, key, lease_of, network, report, routes_to, settled, subnet_env_text, subnets_of,
    wait_for_routes,
};

const REPAIR: Duration = Duration::from_secs(1);
const READDRESS: Duration = Duration::from_secs(3);

/// The routes of a host are as the other's lease asks.
#[track_caller]
fn wait_for_peer(lab: &Lab, here: usize, there: usize, within: Duration) -> Duration {
    let expected = routes_to(&subnets_of(lab.host(there)), lab.host(there));
    wait_for_routes(lab.host(here), expected, within)
}

/// It runs, has never published the address that an interface has by itself, and has not taken its own lease for
/// another's.
#[track_caller]
fn assert_calm(daemon: &Daemon) {
    daemon.must_run("the end of the test").unwrap();
    for parts in [&["ERROR"][..], &["uplink chosen", "fe80::"]] {
        assert!(
            daemon.lines_with(parts).is_empty(),
            "{parts:?} in\n{}",
            daemon.log()
        );
    }
}

/// Does something to the uplink of the first of two hosts after which its routes must be back, and all else the same.
fn survived(name: &str, fault: impl Fn(&Lab)) {
    let lab = network(name, 2, Families::Both);
    let daemons = [settled(lab.host(0)), settled(lab.host(1))];
    wait_for_peer(&lab, 0, 1, SOON);
    wait_for_peer(&lab, 1, 0, SOON);
    let (lease, env) = (lease_of(&lab, lab.host(0)), subnet_env_text(lab.host(0)));
    let pods = [lab.host(0).add_pod().unwrap(), lab.host(1).add_pod().unwrap()];
    let mut times = Vec::new();
    for _ in 0..3 {
        fault(&lab);
        let begin = Instant::now();
        // The bridge's own route is in the network, too.
        let expected = subnets_of(lab.host(1));
        let right = routes_to(&expected, lab.host(1));
        lab::wait_until(REPAIR, "the routes to the other host", || {
            expected
                .iter()
                .zip(&right)
                .all(|(net, right)| lab.host(0).routes_to(*net).unwrap() == [right.clone()])
        })
        .unwrap();
        times.push(begin.elapsed());
        for address in pods[1].addresses() {
            ping(&pods[0], address, 1, Duration::from_secs(5)).unwrap();
        }
    }
    assert_eq!(lease_of(&lab, lab.host(0)), lease);
    assert_eq!(subnet_env_text(lab.host(0)), env);
    let (_, longest) = report(name, &times);
    assert!(longest <= REPAIR, "{times:?}");
    daemons.iter().for_each(assert_calm);
}

#[test]
fn after_the_uplink_was_down_the_routes_are_back_within_a_second() {
    survived("downup", |lab| {
        lab.host(0).uplink_down().unwrap();
        lab.host(0).uplink_up().unwrap();
    });
}

#[test]
fn after_the_uplink_was_deleted_and_made_again_the_routes_are_back_within_a_second() {
    survived("recreate", |lab| {
        let before = index(lab);
        lab.host(0).recreate_uplink().unwrap();
        assert_ne!(index(lab), before);
    });
}

/// Long enough for whatever is tried again at growing intervals to be tried rarely.
const AWAY: Duration = Duration::from_secs(2);

#[test]
fn after_the_uplink_was_down_for_a_while_the_routes_are_back_within_a_second() {
    survived("downlong", |lab| {
        lab.host(0).uplink_down().unwrap();
        thread::sleep(AWAY);
        lab.host(0).uplink_up().unwrap();
    });
}

#[test]
fn after_the_uplink_was_gone_for_a_while_the_routes_are_back_within_a_second() {
    survived("gonelong", |lab| {
        lab.host(0).delete_uplink().unwrap();
        thread::sleep(AWAY);
        lab.host(0).make_uplink().unwrap();
    });
}

fn index(lab: &Lab) -> String {
    lab.host(0)
        .ip(&["-o", "link", "show", UPLINK])
        .unwrap()
        .split(':')
        .next()
        .unwrap()
        .to_owned()
}

#[test]
fn a_changed_address_is_followed_by_lease_and_peers_within_3_s_and_the_subnet_is_kept() {
    let lab = network("dhcp", 2, Families::Both);
    let daemons = [settled(lab.host(0)), settled(lab.host(1))];
    wait_for_peer(&lab, 1, 0, SOON);
    let (subnets, env) = (subnets_of(lab.host(0)), subnet_env_text(lab.host(0)));
    let env_file = lab.host(0).subnet_env_path(DaemonOptions::INSTANCE);
    let env_before = fs::metadata(&env_file).unwrap().modified().unwrap();
    let mut times = Vec::new();
    for address in [
        "192.168.77.99/24",
        "fd00:77::99/64",
        "192.168.77.98/24",
        "fd00:77::98/64",
    ] {
        let begin = Instant::now();
        lab.host(0).change_address(address.parse().unwrap()).unwrap();
        wait_for_peer(&lab, 1, 0, READDRESS);
        wait_for_peer(&lab, 0, 1, READDRESS);
        let lease = lab::wait_until(READDRESS, "the lease's new address", || {
            find_lease(&lab, lab.host(0))
        })
        .unwrap();
        times.push(begin.elapsed());
        assert_eq!(lease.key, key(&subnets));
    }
    let (_, longest) = report("address changed", &times);
    assert!(longest <= READDRESS, "{times:?}");
    assert_eq!(lab.leases().unwrap().len(), 2);
    assert_eq!(subnet_env_text(lab.host(0)), env);
    assert_eq!(fs::metadata(&env_file).unwrap().modified().unwrap(), env_before);
    let pods = [lab.host(0).add_pod().unwrap(), lab.host(1).add_pod().unwrap()];
    for (from, to) in [(0, 1), (1, 0)] {
        for address in pods[to].addresses() {
            ping(&pods[from], address, 1, Duration::from_secs(5)).unwrap();
        }
    }
    daemons.iter().for_each(assert_calm);
}

#[test]
fn an_address_that_comes_beside_the_published_one_changes_nothing() {
    let lab = network("beside", 2, Families::Both);
    let _daemons = [settled(lab.host(0)), settled(lab.host(1))];
    let lease = lease_of(&lab, lab.host(0));
    let monitor = lab.host(1).monitor_routes().unwrap();
    lab.host(0)
        .ip(&["addr", "add", "192.168.77.5/24", "dev", UPLINK])
        .unwrap();
    lab.host(0)
        .ip(&["addr", "add", "fd00:77::5/64", "dev", UPLINK, "nodad"])
        .unwrap();
    // What the daemon made of it comes before what it makes of a new lease.
    crate::network::catch_up(&lab, lab.host(0), Families::Both, 200, lab.host(1));
    crate::network::catch_up(&lab, lab.host(1), Families::Both, 201, lab.host(0));
    assert_eq!(lease_of(&lab, lab.host(0)), lease);
    let own = subnets_of(lab.host(0));
    let touched: Vec<_> = monitor
        .stop()
        .unwrap()
        .into_iter()
        .filter(|event| own.contains(&event.destination))
        .collect();
    assert!(touched.is_empty(), "{touched:#?}");
}
