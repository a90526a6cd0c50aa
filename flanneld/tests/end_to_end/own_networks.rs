//! The host's own networks are safe from the leases, and a local bridge from our complaints.

use std::fs;

use lab::{DaemonOptions, Families, ping};

use crate::network::{
    SOON, assert_one_warning, bare, behind, catch_up, lease_of, net, network, network_with_prologue,
    put_peer, routes_to, routes_within, settled, settled_with, subnets, subnets_of, value,
};

/// The network contains the wire, 192.168.77.0/24 and fd00:77::/64.
fn config_around_the_hosts(first: &str, last: &str) -> String {
    format!(
        r#"{{"Network":"192.168.0.0/16","SubnetMin":"{first}","SubnetMax":"{last}","Backend":{{"Type":"host-gw"}}}}"#
    )
}

#[test]
fn a_network_that_contains_the_hosts_works_when_its_subnets_are_elsewhere() {
    let lab = bare("around", 2, Families::V4);
    lab.write_config(&config_around_the_hosts("192.168.100.0", "192.168.120.0"))
        .unwrap();
    let daemons = [settled(lab.host(0)), settled(lab.host(1))];
    let pods = [lab.host(0).add_pod().unwrap(), lab.host(1).add_pod().unwrap()];
    for (from, to) in [(0, 1), (1, 0)] {
        for address in pods[to].addresses() {
            ping(&pods[from], address, 1, SOON).unwrap();
        }
    }
    for daemon in &daemons {
        assert!(daemon.lines_with(&["WARN"]).is_empty(), "{}", daemon.log());
    }
}

#[test]
fn no_subnet_over_the_uplinks_network_is_chosen() {
    let lab = bare("choose", 1, Families::V4);
    lab.write_config(&config_around_the_hosts("192.168.77.0", "192.168.77.0"))
        .unwrap();
    let daemon = lab.host(0).start_daemon(DaemonOptions::default()).unwrap();
    daemon
        .wait_for_log(
            "WARN .*192.168.77.0/24 covers the network 192.168.77.0/24 of eth0",
            SOON,
        )
        .unwrap();
    assert!(lab.leases().unwrap().is_empty());
    // The next one is free.
    lab.write_config(&config_around_the_hosts("192.168.77.0", "192.168.78.0"))
        .unwrap();
    daemon.wait_for_log(crate::network::SETTLED, SOON).unwrap();
    assert_eq!(lease_of(&lab, lab.host(0)).key, "192.168.78.0-24");
    assert_eq!(
        daemon.lines_with(&["WARN", "covers"]).len(),
        1,
        "{}",
        daemon.log()
    );
}

#[test]
fn no_ipv6_subnet_over_the_uplinks_network_is_chosen() {
    let lab = bare("choose6", 1, Families::V6);
    let around = r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:77::/48","IPv6SubnetMin":"fd00:77::",
        "IPv6SubnetMax":"fd00:77:0:1::","Backend":{"Type":"host-gw"}}"#;
    lab.write_config(around).unwrap();
    let _daemon = settled(lab.host(0));
    assert_eq!(subnets_of(lab.host(0)), [net("fd00:77:0:1::/64")]);
}

#[test]
fn a_pinned_subnet_over_the_uplinks_network_is_not_taken() {
    let lab = bare("pincover", 1, Families::V4);
    lab.write_config(&config_around_the_hosts("192.168.70.0", "192.168.80.0"))
        .unwrap();
    let pinned = DaemonOptions::arguments(["--subnet=192.168.77.0/24"]);
    let daemon = lab.host(0).start_daemon(pinned).unwrap();
    daemon
        .wait_for_log(
            "WARN .*192.168.77.0/24 covers the network 192.168.77.0/24 of eth0",
            SOON,
        )
        .unwrap();
    assert!(lab.leases().unwrap().is_empty());
}

#[test]
fn no_peers_subnet_over_uplink_gateway_or_resolver_is_accepted_and_the_warning_names_both() {
    let lab = network_with_prologue("protected", 2);
    let host = lab.host(0);
    lab.write_config(&config_around_the_hosts("192.168.100.0", "192.168.120.0"))
        .unwrap();
    host.ip(&[
        "route",
        "replace",
        "default",
        "via",
        "192.168.201.1",
        "dev",
        "eth0",
        "onlink",
    ])
    .unwrap();
    let resolv = lab.directory().join("resolv.conf");
    fs::write(&resolv, "nameserver 192.168.202.53\n").unwrap();
    // In the daemon's own mount namespace, which `ip netns exec` makes.
    let mount = format!("mount --bind {} /etc/resolv.conf", resolv.display());
    let daemon = settled_with(host, behind(mount, DaemonOptions::default()));
    let before = host.routes(lab::Family::V4).unwrap();
    for (subnet, covers) in [
        ("192.168.77.0/24", "192.168.77.0/24 of eth0"),
        ("192.168.77.128/25", "192.168.77.0/24 of eth0"),
        ("192.168.76.0/22", "192.168.77.0/24 of eth0"),
        ("192.168.201.0/24", "gateway 192.168.201.1"),
        ("192.168.202.0/24", "resolver 192.168.202.53"),
    ] {
        put_peer(&lab, &[net(subnet)], lab.host(1));
        daemon
            .wait_for_log(&format!("WARN .*{subnet}.*{covers}"), SOON)
            .unwrap();
        assert_one_warning(&daemon, &[&format!("subnet={subnet} ")]);
    }
    assert_eq!(host.routes(lab::Family::V4).unwrap(), before);
    // What covers none of these is a peer's.
    put_peer(&lab, &[net("192.168.203.0/24")], lab.host(1));
    let expected = routes_to(&[net("192.168.203.0/24")], lab.host(1));
    lab::wait_until(SOON, "the route to the good peer", || {
        host.routes_to(net("192.168.203.0/24")).unwrap() == expected
    })
    .unwrap();
}

#[test]
fn a_network_that_a_host_joins_later_takes_its_peers_route_away() {
    let lab = bare("joins", 2, Families::V4);
    lab.write_config(&config_around_the_hosts("192.168.100.0", "192.168.120.0"))
        .unwrap();
    let host = lab.host(0);
    let daemon = settled(host);
    let peer = net("192.168.210.0/24");
    lab.put_lease("192.168.210.0-24", &value(lab.host(1))).unwrap();
    let routed = |routed: bool| {
        lab::wait_until(SOON, format!("the route to {peer}: {routed}"), || {
            routes_within(host, &[peer])
                .iter()
                .any(|route| route.protocol == crate::network::PROTOCOL)
                == routed
        })
        .unwrap();
    };
    routed(true);
    host.ip(&["addr", "add", "192.168.210.5/24", "dev", "eth0"])
        .unwrap();
    routed(false);
    assert_one_warning(&daemon, &["lease refused", "192.168.210.0/24 of eth0"]);
    host.ip(&["addr", "del", "192.168.210.5/24", "dev", "eth0"])
        .unwrap();
    routed(true);
}

#[test]
fn a_local_bridge_in_our_own_subnet_is_no_cause_for_complaint() {
    let lab = network("bridge", 2, Families::Both);
    let daemon = settled(lab.host(0));
    let _pod = lab.host(0).add_pod().unwrap();
    let own = subnets_of(lab.host(0));
    assert!(
        own.iter()
            .all(|net| !lab.host(0).routes_to(*net).unwrap().is_empty()),
        "the bridge's routes"
    );
    catch_up(&lab, lab.host(0), Families::Both, 200, lab.host(1));
    daemon.signal(lab::Signal::SIGHUP).unwrap();
    daemon.wait_for_log("asked to look", SOON).unwrap();
    catch_up(&lab, lab.host(0), Families::Both, 201, lab.host(1));
    assert!(daemon.lines_with(&["WARN"]).is_empty(), "{}", daemon.log());
    let peers = [200, 201].map(|number| subnets(Families::Both, number)).concat();
    assert_eq!(
        peers
            .iter()
            .filter(|net| lab.host(0).routes_to(**net).unwrap().len() == 1)
            .count(),
        4
    );
    // Started again with the bridge there, it has nothing to say either.
    assert!(daemon.terminate(SOON).unwrap().success());
    let daemon = settled(lab.host(0));
    assert!(daemon.lines_with(&["WARN"]).is_empty(), "{}", daemon.log());
}
