//! Whether a check sees what it is there to see.

use lab::{Families, Signal, Wire};

use super::{Network, desired, foreign};

/// What is done to a host whose daemon has been stopped, what takes it back, and words of the difference.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    (
        "ip link set flannel.1 mtu 1400",
        "ip link set flannel.1 mtu 1450",
        "mtu 1400",
    ),
    (
        "ip link set flannel-v6.1 address 02:00:00:00:99:99",
        "",
        "lease's data",
    ),
    (
        "ip link set flannel.1 type vxlan id 1 learning",
        "ip link set flannel.1 type vxlan id 1 nolearning",
        "dev eth0 learning",
    ),
    (
        "sysctl -qw net/ipv6/conf/flannel.1/accept_ra=1",
        "sysctl -qw net/ipv6/conf/flannel.1/accept_ra=0",
        "accept_ra",
    ),
    (
        "ip addr add 10.77.250.0/32 dev flannel.1",
        "ip addr del 10.77.250.0/32 dev flannel.1",
        "too many: address 10.77.250.0/32",
    ),
    (
        "ip neigh add 10.77.250.0 lladdr 02:00:00:00:99:99 dev flannel.1 nud permanent",
        "ip neigh del 10.77.250.0 dev flannel.1",
        "too many: neighbour 10.77.250.0",
    ),
    (
        "bridge fdb add 02:00:00:00:99:99 dst 192.168.77.99 dev flannel.1 self permanent",
        "bridge fdb del 02:00:00:00:99:99 dst 192.168.77.99 dev flannel.1 self",
        "too many: fdb 02:00:00:00:99:99",
    ),
    (
        "ip route add 10.77.250.0/24 dev eth0 proto 70",
        "ip route del 10.77.250.0/24",
        "too many: 10.77.250.0/24",
    ),
    (
        "ip route add 10.77.250.0/24 dev flannel.1",
        "ip route del 10.77.250.0/24",
        "too many: 10.77.250.0/24",
    ),
    ("ip -6 route flush proto 70", "", "missing: fd77:"),
    (
        "ip neigh flush dev flannel-v6.1 nud permanent",
        "",
        "missing: neighbour fd77:",
    ),
    ("ip link del flannel.1", "", "missing: flannel.1"),
    ("ip link set eth0 mtu 1400", "", "subnet.env has MTU 1430"),
];

/// What is none of the daemon's.
const FOREIGN: &[&str] = &[
    "ip addr add 172.16.9.1/24 dev lo",
    "ip route add 172.16.10.0/24 dev eth0",
    "nft add table ip other",
    "sysctl -qw net/ipv4/conf/eth0/rp_filter=1",
    "ip link set eth0 promisc on",
];

#[test]
fn a_check_sees_every_kind_of_inconsistency_and_nothing_where_there_is_none() {
    let mut network = Network::new("check", [Wire::hosts(2)], Families::Both, "");
    network.start_all();
    network.check();
    let host = network.lab.host(0);
    network.daemon(0).signal(Signal::SIGSTOP).unwrap();
    let exec = |line: &str| {
        if !line.is_empty() {
            host.exec(&line.split(' ').collect::<Vec<_>>()).unwrap();
        }
    };
    for (change, undo, words) in DIFFERENCES {
        exec(change);
        let differences = desired::differences(&network, 0);
        let seen = differences.iter().any(|difference| difference.contains(words));
        assert!(seen, "{change}: {differences:#?}");
        exec(undo);
        if !undo.is_empty() {
            let left = desired::differences(&network, 0);
            let still = left.iter().any(|difference| difference.contains(words));
            assert!(!still, "{undo}: {left:#?}");
        }
    }
}

#[test]
fn a_check_sees_whatever_is_changed_that_is_not_the_daemons() {
    let mut network = Network::new("foreign", [Wire::hosts(1)], Families::Both, "");
    let host = network.lab.host(0);
    let before = foreign(host);
    network.start_all();
    let host = network.lab.host(0);
    let _pod = host.add_pod().unwrap();
    before.assert_same(&foreign(host), "with a daemon and a pod");
    for change in FOREIGN {
        let before = foreign(host);
        host.exec(&change.split(' ').collect::<Vec<_>>()).unwrap();
        assert_ne!(before.diff(&foreign(host)), "", "{change}");
    }
}
