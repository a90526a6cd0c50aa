//! Five hundred peers, one of which cannot be programmed: the others do not wait for it.

use std::time::{Duration, Instant};

use ipnet::IpNet;
use lab::{Daemon, Families, Host, KernelEvent, KernelMonitor, Wire, wait_until};

use crate::network::{BOTH, Network, PROTOCOL, SOON, time_until};
use crate::restart::terminate;
use crate::told::becomes;

const PEERS: u16 = 500;
/// No daemon chooses subnets from this one on for itself.
const FIRST: u16 = 200;
/// The one that cannot be programmed.
const ODD: u16 = FIRST + 123;
/// With debug code, beside other tests.
const AT_ONCE: Duration = Duration::from_secs(5);
const CONFIG: &str = r#"{"Network":"10.77.0.0/16","SubnetLen":26,"EnableIPv6":true,"IPv6Network":"fd77::/48",
    "EnableNFTables":true,"Backend":{"Type":"vxlan"}}"#;

fn subnets(number: u16) -> [IpNet; 2] {
    let (high, low) = (number / 4, number % 4 * 64);
    [
        format!("10.77.{high}.{low}/26").parse().unwrap(),
        format!("fd77:0:0:{number:x}::/64").parse().unwrap(),
    ]
}

fn put_lease(network: &Network, number: u16, mac: &str) {
    let [high, low] = number.to_be_bytes();
    let key = subnets(number)
        .map(|net| net.to_string().replace('/', "-"))
        .join("&");
    let value = format!(
        r#"{{"PublicIP":"10.200.{high}.{low}","PublicIPv6":"fd00:200::{number:x}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}},"BackendV6Data":{{"VNI":1,"VtepMAC":"{}"}}}}"#,
        mac_of(number, 6)
    );
    network.lab.put_lease(&key, &value).unwrap();
}

fn mac_of(number: u16, family: u8) -> String {
    let [high, low] = number.to_be_bytes();
    format!("0e:00:00:{family:02x}:{high:02x}:{low:02x}")
}

fn put_good_lease(network: &Network, number: u16) {
    put_lease(network, number, &mac_of(number, 4));
}

fn network(name: &str) -> Network {
    let network = Network::new(name, [Wire::hosts(1)], Families::Both, "");
    network.lab.write_config(CONFIG).unwrap();
    network
}

/// How many routes, neighbours and FDB entries of the daemon's there are, in both families together.
fn programmed(host: &Host) -> [usize; 3] {
    let mut counts = [0; 3];
    for (family, device) in BOTH.into_iter().zip(["flannel.1", "flannel-v6.1"]) {
        let routes = host.routes(family).unwrap().into_iter();
        counts[0] += routes.filter(|route| route.protocol == PROTOCOL).count();
        let neighbours = host.neighbours(device).unwrap().into_iter();
        counts[1] += neighbours.filter(|line| line.state == ["PERMANENT"]).count();
        let entries = host.fdb(device).unwrap().into_iter();
        counts[2] += entries.filter(|entry| entry.state == "permanent").count();
    }
    counts
}

/// Waits until there are so many, all of them new, and returns how long after `since` the last of them came.
#[track_caller]
fn wait_for(host: &Host, counts: [usize; 3], monitor: KernelMonitor, since: Instant) -> Duration {
    let is_route = |event: &KernelEvent| event.line.contains(" proto 70 ");
    // A look at all of them takes the daemon's time.
    let told = || monitor.events().iter().filter(|event| is_route(event)).count() >= counts[0];
    let told = wait_until(SOON, "the routes", told);
    let seen = programmed(host);
    assert!(
        told.is_ok() && seen == counts,
        "routes, neighbours, FDB entries: {seen:?} and not {counts:?}"
    );
    let events = monitor.stop().unwrap();
    let last = events.iter().rfind(|event| event.line.contains("flannel"));
    last.unwrap().at - since
}

/// How often the kernel was given something to change.
fn attempts(daemon: &Daemon) -> u64 {
    let (_, metrics) = daemon.get("/metrics").unwrap();
    let count = metrics
        .lines()
        .find_map(|line| line.strip_prefix("flannel_apply_seconds_count "));
    count.unwrap().parse().unwrap()
}

/// Fails if anything happened to what the daemon has made.
#[track_caller]
fn assert_quiet(monitor: KernelMonitor) {
    let events = monitor.stop().unwrap();
    let touched: Vec<_> = events
        .iter()
        .filter(|event| event.line.contains("flannel"))
        .collect();
    assert!(touched.is_empty(), "{touched:#?}");
}

const ALL: usize = 2 * PEERS as usize;

#[test]
fn one_of_500_peers_that_the_kernel_refuses_is_tried_again_alone_and_the_others_are_there_at_once() {
    let mut network = network("refused");
    terminate(network.start(0, &[]));
    for number in FIRST..FIRST + PEERS {
        put_good_lease(&network, number);
    }
    let [odd, _] = subnets(ODD);
    let in_the_way = IpNet::from(odd.addr()).to_string();
    let host = network.lab.host(0);
    // No gateway can be an address of this host.
    host.ip(&["addr", "add", &in_the_way, "dev", "lo"]).unwrap();
    let monitor = host.monitor_kernel().unwrap();
    let begin = Instant::now();
    network.launch(0, &[]);
    let host = network.lab.host(0);
    let took = wait_for(host, [ALL - 1, ALL, ALL], monitor, begin);
    println!("{} peers {took:.1?} after the start of the daemon", PEERS - 1);
    assert!(took <= AT_ONCE, "{took:?}");

    let daemon = network.daemon(0);
    becomes(daemon, 200, &["routes", &odd.to_string()]);
    let monitor = host.monitor_kernel().unwrap();
    let (begin, before) = (Instant::now(), attempts(daemon));
    let mut seen = Vec::new();
    wait_until(SOON, "three attempts more", || {
        if attempts(daemon) > before + seen.len() as u64 {
            seen.push(begin.elapsed());
        }
        seen.len() == 3
    })
    .unwrap();
    println!("tried again after {seen:.1?}");
    // A wait is at least 100 ms, and twice as long each time.
    assert!(seen[2] - seen[0] >= Duration::from_millis(100 + 200), "{seen:?}");
    assert_quiet(monitor);
    daemon
        .wait_for_log(&format!("WARN .*failed.*{odd}"), SOON)
        .unwrap();
    let said = daemon.lines_with(&["WARN", "failed", &odd.to_string()]);
    assert_eq!(said.len(), 1, "{said:#?}");

    host.ip(&["addr", "del", &in_the_way, "dev", "lo"]).unwrap();
    let took = time_until(Duration::from_secs(1), "the last peer's route", || {
        !host.routes_to(odd).unwrap().is_empty()
    });
    println!("the last one {took:.1?} after nothing was in its way");
    becomes(daemon, 200, &[]);
    network.check();
}

#[test]
fn one_of_500_peers_whose_place_is_taken_or_whose_lease_is_nonsense_delays_none_of_the_others() {
    let mut network = network("inway");
    let [odd, _] = subnets(ODD);
    let nonsense = ODD + 1;
    network.start(0, &[]);
    let host = network.lab.host(0);
    host.ip(&[
        "route",
        "add",
        &odd.to_string(),
        "via",
        "192.168.77.1",
        "proto",
        "static",
    ])
    .unwrap();
    let monitor = host.monitor_kernel().unwrap();
    for number in FIRST..FIRST + PEERS {
        if number == nonsense {
            put_lease(&network, number, "nonsense");
        } else {
            put_good_lease(&network, number);
        }
    }
    let begin = Instant::now();
    let took = wait_for(host, [ALL - 3, ALL - 2, ALL - 2], monitor, begin);
    println!("{} peers {took:.1?} after the last of their leases", PEERS - 2);
    assert!(took <= AT_ONCE, "{took:?}");
    let daemon = network.daemon(0);
    becomes(daemon, 200, &["conflicts", &odd.to_string()]);
    let [refused, _] = subnets(nonsense);
    daemon
        .wait_for_log(&format!("WARN .*{refused}.*VtepMAC.*nonsense"), SOON)
        .unwrap();

    let monitor = host.monitor_kernel().unwrap();
    host.delete_route(odd).unwrap();
    let took = time_until(Duration::from_secs(1), "the last peer's route", || {
        let routes = host.routes_to(odd).unwrap();
        routes.iter().any(|route| route.protocol == PROTOCOL)
    });
    println!("the one {took:.1?} after its place was free");
    put_good_lease(&network, nonsense);
    let took = time_until(SOON, "the peer whose lease is right now", || {
        !host.routes_to(refused).unwrap().is_empty()
    });
    println!("the other one {took:.1?} after its lease was right");
    let events = monitor.stop().unwrap();
    // The operator's route, ours, and what the other peer needs in each family.
    let changes = events
        .iter()
        .filter(|event| event.line.contains("10.77.") || event.line.contains("flannel"));
    assert_eq!(changes.count(), 2 + 3 * 2, "{events:#?}");
    becomes(daemon, 200, &[]);
    network.check();
}
