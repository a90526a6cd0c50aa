//! Whose a route is: what flanneld left is swept once the leases are known, and an operator's is never touched.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use lab::{Daemon, DaemonOptions, Families, Family, Host, Lab, RouteEvent, RouteLine, wait_until};

use crate::network::{
    PROTOCOL, SOON, WITHOUT_POWER_OVER_FILES, address, assert_one_warning, bare, behind, catch_up, config,
    net, network, network_with_prologue, put_peer, routes_of, routes_to, routes_within, settled, subnets,
    wait_for_routes,
};

/// Adds routes as an earlier run of the daemon would have left them.
fn leave_routes(host: &Host, nets: &[IpNet], via: &Host) {
    add_routes(host, nets, via, &["proto", &PROTOCOL.to_string()]);
}

fn add_routes(host: &Host, nets: &[IpNet], via: &Host, rest: &[&str]) {
    for net in nets {
        let (destination, gateway) = (net.to_string(), address(via, Family::of(net.addr())).to_string());
        host.ip(&[&["route", "add", &destination, "via", &gateway], rest].concat())
            .unwrap();
    }
}

fn deletes_of<'a>(events: &'a [RouteEvent], nets: &[IpNet]) -> Vec<&'a RouteEvent> {
    events
        .iter()
        .filter(|event| event.deleted && nets.contains(&event.destination))
        .collect()
}

/// A daemon starts before its leases can be seen; `reveal` shows them.
fn swept_after_the_first_list(
    lab: &Lab,
    families: Families,
    options: DaemonOptions,
    waits_for: &str,
    reveal: impl Fn(&Lab),
) {
    let host = lab.host(0);
    let (wanted, stale) = (subnets(families, 200), subnets(families, 201));
    leave_routes(host, &wanted, lab.host(1));
    leave_routes(host, &stale, lab.host(1));
    let left = routes_of(host);
    let monitor = host.monitor_routes().unwrap();
    let daemon = host.start_daemon(options).unwrap();
    daemon.wait_for_log(waits_for, SOON).unwrap();
    assert_eq!(routes_of(host), left);
    let revealed = Instant::now();
    reveal(lab);
    let took = wait_for_routes(host, routes_to(&wanted, lab.host(1)), Duration::from_secs(2));
    println!("swept {took:.1?} after the leases could be seen");
    let events = monitor.stop().unwrap();
    assert_eq!(deletes_of(&events, &wanted).len(), 0, "{events:#?}");
    let swept = deletes_of(&events, &stale);
    assert_eq!(swept.len(), stale.len(), "{events:#?}");
    assert!(swept.iter().all(|event| event.at >= revealed), "{events:#?}");
}

#[test]
fn routes_of_peers_that_went_are_swept_once_the_config_is_there_and_not_before() {
    let lab = bare("sweepconfig", 2, Families::Both);
    put_peer(&lab, &subnets(Families::Both, 200), lab.host(1));
    let options = DaemonOptions::default();
    swept_after_the_first_list(&lab, Families::Both, options, "WARN .*no network config", |lab| {
        lab.write_config(&config(Families::Both)).unwrap();
    });
}

#[test]
fn routes_of_peers_that_went_are_swept_once_the_leases_can_be_listed_and_not_before() {
    let lab = network_with_prologue("sweeplist", 2);
    put_peer(&lab, &subnets(Families::V4, 200), lab.host(1));
    let leases = lab.store_dir().join("subnets");
    chown(&leases, Some(1), None).unwrap();
    fs::set_permissions(&leases, Permissions::from_mode(0o700)).unwrap();
    let options = behind(WITHOUT_POWER_OVER_FILES.into(), DaemonOptions::default());
    swept_after_the_first_list(
        &lab,
        Families::V4,
        options,
        "WARN .*waiting for the store",
        |_| {
            chown(&leases, Some(0), None).unwrap();
        },
    );
}

#[test]
fn a_gateway_that_changed_while_the_daemon_was_down_is_corrected_without_a_gap() {
    let lab = network("sweepgateway", 3, Families::Both);
    let (host, peer) = (lab.host(0), subnets(Families::Both, 200));
    put_peer(&lab, &peer, lab.host(2));
    leave_routes(host, &peer, lab.host(1));
    let monitor = host.monitor_routes().unwrap();
    let _daemon = settled(host);
    wait_for_routes(host, routes_to(&peer, lab.host(2)), SOON);
    let events = monitor.stop().unwrap();
    assert!(deletes_of(&events, &peer).is_empty(), "{events:#?}");
}

#[test]
fn flannels_own_route_to_a_current_peer_is_adopted_in_place() {
    let lab = network("adopt", 3, Families::Both);
    let (host, right, wrong) = (
        lab.host(0),
        subnets(Families::Both, 200),
        subnets(Families::Both, 201),
    );
    for peer in [&right, &wrong] {
        put_peer(&lab, peer, lab.host(1));
    }
    // Without `proto`, `ip` makes what flannel makes.
    add_routes(host, &right, lab.host(1), &[]);
    add_routes(host, &wrong, lab.host(2), &[]);
    let monitor = host.monitor_routes().unwrap();
    let _daemon = settled(host);
    let expected = [&right, &wrong]
        .into_iter()
        .flat_map(|peer| routes_to(peer, lab.host(1)))
        .collect();
    wait_for_routes(host, expected, SOON);
    let events = monitor.stop().unwrap();
    assert!(
        deletes_of(&events, &[right, wrong].concat()).is_empty(),
        "{events:#?}"
    );
}

/// What an operator's routes must be after everything: as they were, and reported by name, once each.
#[track_caller]
fn assert_untouched(daemon: &Daemon, host: &Host, routes: &[RouteLine]) {
    let now = routes_of(host);
    for route in routes {
        assert!(now.contains(route), "{route:?} is gone: {now:#?}");
        let gateway = route.gateway.unwrap();
        let usual = [0, 1024].contains(&route.metric);
        let metric = if usual {
            String::new()
        } else {
            format!("metric {} ", route.metric)
        };
        let named = format!("{} {metric}via {gateway} dev eth0 proto ", route.destination);
        assert_one_warning(daemon, &["somebody else's", &named]);
    }
}

#[test]
fn an_operators_routes_in_the_network_are_untouched_and_reported_by_name() {
    let lab = network("operator", 3, Families::Both);
    let host = lab.host(0);
    let (peer, blocked) = (subnets(Families::Both, 200), subnets(Families::Both, 201));
    put_peer(&lab, &peer, lab.host(1));
    put_peer(&lab, &blocked, lab.host(1));
    let by_hand = |nets: &[IpNet], rest: &[&str]| add_routes(host, nets, lab.host(2), rest);
    by_hand(&subnets(Families::Both, 230), &["proto", "static"]);
    by_hand(&peer, &["proto", "static", "metric", "5000"]);
    by_hand(
        &[net("10.77.200.128/25"), net("fd77:0:0:200:8000::/65")],
        &["proto", "static"],
    );
    by_hand(&blocked, &["proto", "static"]);
    // As flannel would make it, but for no lease.
    by_hand(&subnets(Families::Both, 231), &[]);
    // As flannel would make it, but for the metric.
    by_hand(&peer, &["metric", "6000"]);
    let operators = routes_of(host);
    assert_eq!(operators.len(), 12);
    let monitor = host.monitor_routes().unwrap();

    let daemon = settled(host);
    wait_until(SOON, "the routes to the free peer", || {
        let now = routes_of(host);
        routes_to(&peer, lab.host(1))
            .iter()
            .all(|route| now.contains(route))
    })
    .unwrap();
    catch_up(&lab, host, Families::Both, 240, lab.host(1));
    assert_untouched(&daemon, host, &operators);

    // What has the place of ours gives way: ours is there at once.
    for route in &blocked {
        host.delete_route(*route).unwrap();
    }
    for (net, right) in blocked.iter().zip(routes_to(&blocked, lab.host(1))) {
        let is_right = || host.routes_to(*net).unwrap() == [right.clone()];
        wait_until(Duration::from_secs(1), format!("our route to {net}"), is_right).unwrap();
    }
    let others: Vec<RouteLine> = operators
        .into_iter()
        .filter(|route| !blocked.contains(&route.destination))
        .collect();
    assert_untouched(&daemon, host, &others);
    let gone = monitor
        .stop()
        .unwrap()
        .into_iter()
        .filter(|event| event.deleted)
        .count();
    assert_eq!(gone, blocked.len(), "only what the operator deleted has gone");
}

#[test]
fn a_route_added_by_the_operator_later_is_untouched_and_reported_within_a_second() {
    let lab = network("operatorlater", 2, Families::Both);
    let host = lab.host(0);
    let daemon = settled(host);
    for net in subnets(Families::Both, 230) {
        add_routes(host, &[net], lab.host(1), &["proto", "static"]);
        let said = format!("WARN .*somebody else's.*{net} ");
        daemon.wait_for_log(&said, Duration::from_secs(1)).unwrap();
    }
    catch_up(&lab, host, Families::Both, 240, lab.host(1));
    let static_ones = routes_of(host)
        .into_iter()
        .filter(|route| route.protocol == lab::STATIC)
        .count();
    assert_eq!(static_ones, 2);
}

#[test]
fn routes_in_the_former_network_are_swept_after_the_network_changed_and_an_operators_are_not() {
    let lab = network("former", 2, Families::V4);
    let host = lab.host(0);
    let peer = subnets(Families::V4, 200);
    put_peer(&lab, &peer, lab.host(1));
    let daemon = settled(host);
    wait_for_routes(host, routes_to(&peer, lab.host(1)), SOON);
    daemon.terminate(SOON).unwrap();
    add_routes(
        host,
        &subnets(Families::V4, 230),
        lab.host(1),
        &["proto", "static"],
    );
    lab.delete_lease("10.77.200.0-24").unwrap();
    lab.write_config(&config(Families::V4).replace("10.77.", "10.78."))
        .unwrap();
    lab.put_lease("10.78.200.0-24", &crate::network::value(lab.host(1)))
        .unwrap();

    let daemon = settled(host);
    let both = [net("10.77.0.0/16"), net("10.78.0.0/16")];
    let mut expected = routes_to(&[net("10.78.200.0/24")], lab.host(1));
    expected.extend(host.routes_to(net("10.77.230.0/24")).unwrap());
    expected.sort();
    let swept = || routes_within(host, &both) == expected;
    wait_until(
        Duration::from_secs(2),
        "the former network's routes to be swept",
        swept,
    )
    .unwrap();
    assert_eq!(expected.len(), 2);
    assert!(
        host.subnet_env()
            .unwrap()
            .subnet
            .unwrap()
            .to_string()
            .starts_with("10.78.")
    );
    assert!(daemon.lines_with(&["ERROR"]).is_empty(), "{}", daemon.log());
}
