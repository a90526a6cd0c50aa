//! The kernel follows the store: leases that come, change and go.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use lab::{DaemonOptions, Families, Host, RouteEvent, RouteMonitor, wait_until};

use crate::network::{
    SOON, address, key, network, put_peer, report, routes_to, settled, settled_with, subnets, value,
    wait_for_event, wait_for_routes,
};

const LIMIT: Duration = Duration::from_millis(100);
const ROUNDS: u8 = 15;

/// Until the last of the routes has come, by way of that host.
fn until_routed(monitor: &RouteMonitor, since: Instant, nets: &[IpNet], via: &Host) -> Duration {
    let came = |net: &IpNet| {
        let via = format!(" via {} ", address(via, lab::Family::of(net.addr())));
        let came =
            |event: &RouteEvent| !event.deleted && event.destination == *net && event.line.contains(&via);
        wait_for_event(monitor, since, &format!("{net}{via}"), came)
    };
    nets.iter().map(came).max().unwrap()
}

fn until_gone(monitor: &RouteMonitor, since: Instant, nets: &[IpNet]) -> Duration {
    let went = |net: &IpNet| {
        let went = |event: &RouteEvent| event.deleted && event.destination == *net;
        wait_for_event(monitor, since, &format!("the end of {net}"), went)
    };
    nets.iter().map(went).max().unwrap()
}

fn followed(name: &str, families: Families) {
    let lab = network(name, 3, families);
    let [host, first, second] = [0, 1, 2].map(|index| lab.host(index));
    let _daemon = settled(host);
    let monitor = host.monitor_routes().unwrap();
    let (mut added, mut changed, mut removed) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let nets = subnets(families, 200 + round);
        let begin = Instant::now();
        put_peer(&lab, &nets, first);
        added.push(until_routed(&monitor, begin, &nets, first));
        let begin = Instant::now();
        put_peer(&lab, &nets, second);
        changed.push(until_routed(&monitor, begin, &nets, second));
        let begin = Instant::now();
        lab.delete_lease(&key(&nets)).unwrap();
        removed.push(until_gone(&monitor, begin, &nets));
    }
    wait_for_routes(host, Vec::new(), SOON);
    for (what, times) in [("added", added), ("changed", changed), ("removed", removed)] {
        let (_, longest) = report(&format!("{name}: a lease {what}"), &times);
        assert!(longest <= LIMIT, "a lease {what}: {times:?}");
    }
}

#[test]
fn a_lease_added_changed_and_removed_is_followed_within_100_ms_in_ipv4() {
    followed("follow4", Families::V4);
}

#[test]
fn a_lease_added_changed_and_removed_is_followed_within_100_ms_in_ipv6() {
    followed("follow6", Families::V6);
}

#[test]
fn a_lease_added_changed_and_removed_is_followed_within_100_ms_in_both_families() {
    followed("follow46", Families::Both);
}

#[test]
fn a_change_of_gateway_never_takes_the_route_away() {
    let lab = network("followswap", 3, Families::Both);
    let [host, first, second] = [0, 1, 2].map(|index| lab.host(index));
    let nets = subnets(Families::Both, 200);
    put_peer(&lab, &nets, first);
    let _daemon = settled(host);
    let monitor = host.monitor_routes().unwrap();
    for gateway in [second, first, second] {
        put_peer(&lab, &nets, gateway);
        wait_for_routes(host, routes_to(&nets, gateway), SOON);
    }
    let deletes: Vec<_> = monitor
        .stop()
        .unwrap()
        .into_iter()
        .filter(|event| event.deleted)
        .collect();
    assert!(deletes.is_empty(), "{deletes:#?}");
}

#[test]
fn a_lease_that_ends_takes_its_route_with_it() {
    let lab = network("followend", 2, Families::V4);
    let [host, peer] = [0, 1].map(|index| lab.host(index));
    let _daemon = settled(host);
    let nets = subnets(Families::V4, 200);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64();
    let ends = Instant::now() + Duration::from_secs(2);
    let lease = value(peer).replace('}', &format!(r#","Expires":{}}}"#, now + 2.0));
    lab.put_lease(&key(&nets), &lease).unwrap();
    wait_for_routes(host, routes_to(&nets, peer), Duration::from_secs(1));
    wait_until(SOON, "the end of the route", || {
        host.routes_to(nets[0]).unwrap().is_empty()
    })
    .unwrap();
    let late = Instant::now()
        .checked_duration_since(ends)
        .expect("it went before its time");
    assert!(late < Duration::from_secs(1), "{late:?}");
    wait_until(SOON, "the end of the file", || {
        lab.leases().unwrap().iter().all(|lease| lease.key != key(&nets))
    })
    .unwrap();
}

#[test]
fn two_hundred_leases_at_once_are_followed_within_a_second() {
    let lab = network("followmany", 2, Families::V4);
    let [host, peer] = [0, 1].map(|index| lab.host(index));
    let _daemon = settled_with(host, DaemonOptions::arguments(["--subnet=10.77.1.0/24"]));
    let all: Vec<IpNet> = (2..202)
        .flat_map(|number| subnets(Families::V4, number))
        .collect();
    for net in &all {
        lab.put_lease(&key(&[*net]), &value(peer)).unwrap();
    }
    let took = wait_for_routes(host, routes_to(&all, peer), Duration::from_secs(1));
    println!("200 leases: the last route {took:.1?} after the last lease");
    for net in &all {
        lab.delete_lease(&key(&[*net])).unwrap();
    }
    let took = wait_for_routes(host, Vec::new(), Duration::from_secs(1));
    println!("200 leases: the last route's end {took:.1?} after that of the last lease");
}
