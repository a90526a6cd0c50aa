//! What the tests share: a lab with a network config, leases of hosts without a daemon, and the routes that ought to
//! be there.

use std::fmt::Display;
use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use lab::{
    Daemon, DaemonOptions, Families, Family, Host, Lab, LeaseFile, Options, RouteEvent, RouteLine,
    RouteMonitor, UNICAST, UPLINK, wait_until,
};

/// The IPv4 network of every test that does not say otherwise. Daemons choose among its first hundred subnets.
pub(crate) const V4: &str = "10.77.0.0/16";
/// The IPv6 network.
pub(crate) const V6: &str = "fd77::/48";
/// Marks flanneld's routes.
pub(crate) const PROTOCOL: u8 = 70;
/// For what takes milliseconds, on a machine under load, where the time is not what is tested.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// Said once, when the kernel is as the leases ask for the first time.
pub(crate) const SETTLED: &str = "routes are in place";

/// Hosts, and the usual config in their store.
pub(crate) fn network(name: &str, hosts: usize, families: Families) -> Lab {
    let lab = bare(name, hosts, families);
    lab.write_config(&config(families)).unwrap();
    lab
}

/// Hosts with an empty store.
pub(crate) fn bare(name: &str, hosts: usize, families: Families) -> Lab {
    let options = Options::hosts(hosts)
        .families(families)
        .flanneld(env!("CARGO_BIN_EXE_flanneld"));
    Lab::new(name, options).unwrap()
}

/// Hosts and the usual config, where a daemon is started behind a shell line of the test's: see [`behind`].
pub(crate) fn network_with_prologue(name: &str, hosts: usize) -> Lab {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/end_to_end/after-prologue");
    let lab = Lab::new(
        name,
        Options::hosts(hosts).families(Families::V4).flanneld(script),
    )
    .unwrap();
    lab.write_config(&config(Families::V4)).unwrap();
    lab
}

/// Runs a line in the shell that then becomes the daemon.
pub(crate) fn behind(prologue: String, mut options: DaemonOptions) -> DaemonOptions {
    options.environment = vec![
        ("FLANNELD".into(), env!("CARGO_BIN_EXE_flanneld").into()),
        ("PROLOGUE".into(), prologue),
    ];
    options
}

/// A root that files of others can be closed to.
pub(crate) const WITHOUT_POWER_OVER_FILES: &str =
    r#"exec setpriv --bounding-set=-dac_override,-dac_read_search "$FLANNELD" "$@""#;

pub(crate) fn config(families: Families) -> String {
    let members = match families {
        Families::V4 => format!(r#""Network":"{V4}""#),
        Families::V6 => format!(r#""EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"{V6}""#),
        Families::Both => format!(r#""Network":"{V4}","EnableIPv6":true,"IPv6Network":"{V6}""#),
    };
    format!(r#"{{{members},"Backend":{{"Type":"host-gw"}}}}"#)
}

/// The usual IPv4 config, with these subnets and no others to give out.
pub(crate) fn config_between(first: &str, last: &str) -> String {
    format!(
        r#"{{"Network":"{V4}","SubnetMin":"{first}","SubnetMax":"{last}","Backend":{{"Type":"host-gw"}}}}"#
    )
}

/// A daemon whose first pass over the routes is done.
pub(crate) fn settled(host: &Host) -> Daemon {
    settled_with(host, DaemonOptions::default())
}

pub(crate) fn settled_with(host: &Host, options: DaemonOptions) -> Daemon {
    let daemon = host.start_daemon(options).unwrap();
    daemon.wait_for_log(SETTLED, SOON).unwrap();
    daemon
}

pub(crate) fn families_of(families: Families) -> &'static [Family] {
    match families {
        Families::V4 => &[Family::V4],
        Families::V6 => &[Family::V6],
        Families::Both => &[Family::V4, Family::V6],
    }
}

/// The subnets of one lease. With a number from 150 on, no daemon chooses them for itself.
pub(crate) fn subnets(families: Families, number: u8) -> Vec<IpNet> {
    let subnet = |family: &Family| match family {
        Family::V4 => net(&format!("10.77.{number}.0/24")),
        Family::V6 => net(&format!("fd77:0:0:{number}::/64")),
    };
    families_of(families).iter().map(subnet).collect()
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// The name of the lease of these subnets, as flannel writes it.
pub(crate) fn key(subnets: &[IpNet]) -> String {
    let part = |net: &IpNet| format!("{}-{}", net.addr(), net.prefix_len());
    match subnets {
        [v4 @ IpNet::V4(_)] => part(v4),
        [v6 @ IpNet::V6(_)] => format!("0.0.0.0-0&{}", part(v6)),
        [v4, v6] => format!("{}&{}", part(v4), part(v6)),
        _ => panic!("{subnets:?} is no lease's"),
    }
}

/// A lease value as flannel, or a configuration tool, writes it for a host.
pub(crate) fn value(host: &Host) -> String {
    value_at(host.ipv4().as_ref(), host.ipv6().as_ref())
}

pub(crate) fn value_at(v4: Option<&impl Display>, v6: Option<&impl Display>) -> String {
    let v4 = v4.map_or_else(|| "0.0.0.0".to_owned(), ToString::to_string);
    let v6 = v6.map_or_else(|| "null".to_owned(), |v6| format!("\"{v6}\""));
    format!(r#"{{"PublicIP":"{v4}","PublicIPv6":{v6},"BackendType":"host-gw"}}"#)
}

/// The same, of a node that is named.
pub(crate) fn value_of_node(node: u8, host: &Host) -> String {
    value(host).replace('}', &format!(r#","NodeID":"{node:032x}"}}"#))
}

/// Puts the lease of a host that has no daemon.
pub(crate) fn put_peer(lab: &Lab, subnets: &[IpNet], host: &Host) {
    lab.put_lease(&key(subnets), &value(host)).unwrap();
}

pub(crate) fn address(host: &Host, family: Family) -> IpAddr {
    match family {
        Family::V4 => host.ipv4().unwrap().into(),
        Family::V6 => host.ipv6().unwrap().into(),
    }
}

/// What there ought to be for a lease of these subnets, held by that host.
pub(crate) fn routes_to(subnets: &[IpNet], holder: &Host) -> Vec<RouteLine> {
    let route = |net: &IpNet| {
        let family = Family::of(net.addr());
        RouteLine {
            destination: *net,
            gateway: Some(address(holder, family)),
            device: Some(UPLINK.into()),
            protocol: PROTOCOL,
            metric: if family == Family::V4 { 0 } else { 1024 },
            kind: UNICAST,
            flags: Vec::new(),
        }
    };
    subnets.iter().map(route).collect()
}

/// Every route of a host that leads into the networks, whoever made it.
pub(crate) fn routes_of(host: &Host) -> Vec<RouteLine> {
    routes_within(host, &[net(V4), net(V6)])
}

pub(crate) fn routes_within(host: &Host, networks: &[IpNet]) -> Vec<RouteLine> {
    let mut routes = host.routes(Family::V4).unwrap();
    routes.extend(host.routes(Family::V6).unwrap());
    routes.retain(|route| {
        networks
            .iter()
            .any(|network| network.contains(&route.destination))
    });
    routes.sort();
    routes
}

/// Waits until exactly these routes lead into the networks, and returns how long that took.
#[track_caller]
pub(crate) fn wait_for_routes(host: &Host, mut expected: Vec<RouteLine>, within: Duration) -> Duration {
    expected.sort();
    let begin = Instant::now();
    let mut seen = Vec::new();
    let equal = wait_until(within, "the routes", || {
        seen = routes_of(host);
        seen == expected
    });
    assert!(
        equal.is_ok(),
        "after {within:?} {} has\n{seen:#?}\nbut ought to have\n{expected:#?}",
        host.label()
    );
    begin.elapsed()
}

/// Waits for an event that came after `since`, and returns how long after.
#[track_caller]
pub(crate) fn wait_for_event(
    monitor: &RouteMonitor,
    since: Instant,
    what: &str,
    matches: impl Fn(&RouteEvent) -> bool,
) -> Duration {
    let found = wait_until(SOON, what, || {
        let mut events = monitor.events().into_iter();
        events.find(|event| event.at >= since && matches(event))
    });
    match found {
        Ok(event) => event.at - since,
        Err(error) => panic!("{error}; there were {:#?}", monitor.events()),
    }
}

/// The lease in the store that a daemon of this host's address holds.
#[track_caller]
pub(crate) fn lease_of(lab: &Lab, host: &Host) -> LeaseFile {
    wait_until(SOON, format!("a lease of {}", host.label()), || {
        find_lease(lab, host)
    })
    .unwrap()
}

pub(crate) fn find_lease(lab: &Lab, host: &Host) -> Option<LeaseFile> {
    let holds = |lease: &LeaseFile| {
        let value: serde_json::Value = serde_json::from_str(&lease.text).ok()?;
        let v4 = host.ipv4().map_or("0.0.0.0".into(), |v4| v4.to_string());
        let v6 = host.ipv6().map(|v6| v6.to_string());
        let is_at = value["PublicIP"] == v4.as_str()
            && (v6.is_none() || value["PublicIPv6"].as_str() == v6.as_deref());
        Some(is_at && value["NodeID"].is_string())
    };
    let mut leases = lab.leases().unwrap().into_iter();
    leases.find(|lease| holds(lease) == Some(true))
}

/// The subnets that a host's `subnet.env` names, for which it waits.
pub(crate) fn subnets_of(host: &Host) -> Vec<IpNet> {
    let env = host.subnet_env().unwrap();
    let v4 = env.subnet.map(|net| IpNet::V4(net.trunc()));
    let v6 = env.ipv6_subnet.map(|net| IpNet::V6(net.trunc()));
    v4.into_iter().chain(v6).collect()
}

/// The text of a host's `subnet.env`, for which it waits.
pub(crate) fn subnet_env_text(host: &Host) -> String {
    host.subnet_env().unwrap();
    fs::read_to_string(host.subnet_env_path(DaemonOptions::INSTANCE)).unwrap()
}

/// Fails unless exactly one warning names all of these.
#[track_caller]
pub(crate) fn assert_one_warning(daemon: &Daemon, parts: &[&str]) {
    let lines = daemon.lines_with(&[parts, &[" WARN "]].concat());
    assert_eq!(
        lines.len(),
        1,
        "warnings with {parts:?}: {lines:#?} in\n{}",
        daemon.log()
    );
}

/// Has the daemon take notice of everything that was put into the store before: a lease more is followed.
#[track_caller]
pub(crate) fn catch_up(lab: &Lab, host: &Host, families: Families, number: u8, gateway: &Host) {
    let fence = subnets(families, number);
    put_peer(lab, &fence, gateway);
    for net in &fence {
        wait_until(SOON, format!("the route to {net}"), || {
            !host.routes_to(*net).unwrap().is_empty()
        })
        .unwrap();
    }
}

/// Prints times, and returns the median and the longest.
pub(crate) fn report(what: &str, times: &[Duration]) -> (Duration, Duration) {
    let mut sorted = times.to_vec();
    sorted.sort();
    let (median, longest) = (sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
    println!("{what}: median {median:.1?}, longest {longest:.1?}, all {times:.1?}");
    (median, longest)
}
