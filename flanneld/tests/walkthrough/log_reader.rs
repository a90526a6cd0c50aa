//! The daemon's standard error is a pipe, and supervisord its reader.

use lab::{Host, wait_until};

use crate::cluster::{Cluster, SOON, assert_nothing_lost};
use crate::node::{Node, signal, wait_until_gone};

/// The daemon's count of lines that nobody took.
fn dropped(node: &Node, host: &Host) -> u64 {
    let (_, metrics) = node.get(host, "/metrics").unwrap();
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("flannel_dropped_log_lines_total "));
    line.unwrap_or_else(|| panic!("not counted in {metrics}"))
        .trim()
        .parse()
        .unwrap()
}

/// A hundred leases come to have another address that is no host's, of each of which the daemons write a line.
struct Unrest<'a> {
    cluster: &'a Cluster,
    holders: [std::net::Ipv4Addr; 2],
}

impl Unrest<'_> {
    fn stir(&mut self) {
        self.cluster.put_leases(0, 101..=200, self.holders[0]);
        self.holders.reverse();
    }
}

#[test]
fn a_reader_of_the_log_that_stalls_or_is_killed_changes_nothing() {
    let cluster = Cluster::new("reader");
    cluster.put_config();
    cluster.start_nodes();
    let (node, host) = cluster.node(0);
    let before = node.wait_for_one_daemon(host);
    let pingers = cluster.pingers();
    let mut unrest = Unrest {
        cluster: &cluster,
        holders: [[224, 0, 0, 1].into(), [240, 0, 0, 1].into()],
    };

    let supervisor = node.supervisor_pid();
    signal(host, "STOP", supervisor);
    wait_until(SOON, "lines that nobody takes", || {
        unrest.stir();
        dropped(node, host) > 0
    })
    .unwrap();
    cluster.announce(1, 201);
    node.wait_until_ready(host);
    let written = node.log().len();
    signal(host, "CONT", supervisor);
    wait_until(SOON, "the log to go on", || {
        unrest.stir();
        node.log().len() > written
    })
    .unwrap();

    signal(host, "KILL", supervisor);
    wait_until_gone(supervisor);
    unrest.stir();
    cluster.announce(2, 202);
    node.wait_until_ready(host);
    assert_eq!(node.wait_for_one_daemon(host), before);
    cluster.assert_connected();
    assert_nothing_lost(pingers);
}
