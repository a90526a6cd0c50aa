//! Pods on different hosts reach each other, and nothing else on the hosts is touched.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use ipnet::IpNet;
use lab::{DaemonOptions, Families, Family, Host, ping};

use crate::network::{
    SOON, V4, V6, network, routes_of, routes_to, settled, subnet_env_text, subnets_of, wait_for_routes,
};

/// Whatever of a host flanneld could change, but for the routes into the networks.
fn everything_else(host: &Host) -> String {
    let mut text = String::new();
    for words in [
        &["-d", "link", "show"][..],
        &["addr", "show"],
        &["-4", "rule", "show"],
        &["-6", "rule", "show"],
        &["-4", "route", "show", "table", "all"],
        &["-6", "route", "show", "table", "all"],
        &["nexthop", "show"],
    ] {
        let shown = host.ip(&[&["-o"], words].concat()).unwrap();
        let others = |line: &&str| {
            let destination = line
                .split_whitespace()
                .next()
                .and_then(|word| word.parse::<IpNet>().ok());
            let networks: [IpNet; 2] = [V4.parse().unwrap(), V6.parse().unwrap()];
            !destination.is_some_and(|net| networks.iter().any(|network| network.contains(&net)))
        };
        text += &format!("{words:?}\n");
        text.extend(shown.lines().filter(others).map(|line| format!("{line}\n")));
    }
    // Some can only be written; and one is a count of what is under way.
    let sysctls = "cd /proc/sys/net; find . -type f -perm -400 ! -name nf_conntrack_count | sort | xargs grep -s '' || true";
    text + &host.exec(&["sh", "-c", sysctls]).unwrap()
}

fn three_hosts(name: &str, families: Families) {
    let lab = network(name, 3, families);
    let before: Vec<String> = lab.hosts().iter().map(everything_else).collect();
    let _daemons: Vec<_> = lab.hosts().iter().map(settled).collect();
    let subnets: Vec<Vec<IpNet>> = lab.hosts().iter().map(subnets_of).collect();

    for (index, host) in lab.hosts().iter().enumerate() {
        let others = lab
            .hosts()
            .iter()
            .zip(&subnets)
            .enumerate()
            .filter(|(other, _)| *other != index);
        let expected = others
            .flat_map(|(_, (other, subnets))| routes_to(subnets, other))
            .collect();
        wait_for_routes(host, expected, SOON);
        let now = everything_else(host);
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
        let (now, before) = (lines(&now), lines(&before[index]));
        let different: Vec<_> = now.symmetric_difference(&before).collect();
        assert!(different.is_empty(), "{}: {different:#?}", host.label());
        assert_subnet_env(host, &subnets[index]);
    }

    let pods: Vec<_> = lab.hosts().iter().map(|host| host.add_pod().unwrap()).collect();
    for to in &pods {
        for address in to.addresses() {
            for from in &pods {
                ping(from, address, 1, Duration::from_secs(5)).unwrap();
            }
            for from in lab.hosts() {
                ping(from, address, 1, Duration::from_secs(5)).unwrap();
            }
        }
    }
}

/// The file's every byte, and its mode.
fn assert_subnet_env(host: &Host, subnets: &[IpNet]) {
    let mut expected = String::new();
    for subnet in subnets {
        let first = subnet.hosts().nth(usize::from(subnet.addr().is_ipv6())).unwrap();
        expected += &match Family::of(subnet.addr()) {
            Family::V4 => format!("FLANNEL_NETWORK={V4}\nFLANNEL_SUBNET={first}/24\n"),
            Family::V6 => format!("FLANNEL_IPV6_NETWORK={V6}\nFLANNEL_IPV6_SUBNET={first}/64\n"),
        };
    }
    expected += "FLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n";
    assert_eq!(subnet_env_text(host), expected);
    let file = fs::metadata(host.subnet_env_path(DaemonOptions::INSTANCE)).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o644);
}

#[test]
fn three_hosts_reach_each_other_with_ipv4_and_nothing_else_changes() {
    three_hosts("reach4", Families::V4);
}

#[test]
fn three_hosts_reach_each_other_with_ipv6_alone_and_nothing_else_changes() {
    three_hosts("reach6", Families::V6);
}

#[test]
fn three_hosts_reach_each_other_with_both_families_and_nothing_else_changes() {
    three_hosts("reach46", Families::Both);
}

#[test]
fn a_network_of_ipv4_alone_on_hosts_with_both_families_makes_no_ipv6_route() {
    let lab = network("reach4of46", 2, Families::Both);
    lab.write_config(&crate::network::config(Families::V4)).unwrap();
    let _daemons: Vec<_> = lab.hosts().iter().map(settled).collect();
    for (here, there) in [(0, 1), (1, 0)] {
        let expected = routes_to(&subnets_of(lab.host(there)), lab.host(there));
        assert_eq!(expected.len(), 1);
        wait_for_routes(lab.host(here), expected, SOON);
        assert_eq!(routes_of(lab.host(here)).len(), 1);
    }
}
