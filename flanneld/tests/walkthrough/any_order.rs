//! Everything starts in any order, on empty disks and after a failure of the whole rack's power.

use lab::{Host, wait_until};

use crate::cluster::{Cluster, SOON};
use crate::node::{Node, signal, wait_until_gone};

#[derive(Clone, Copy, Debug)]
enum Part {
    /// A member of etcd.
    Member(usize),
    /// A node's supervisord, and with it the daemon.
    Node(usize),
}

use Part::{Member, Node as Daemon};

fn start(cluster: &Cluster, part: Part) {
    match part {
        Member(index) => cluster.etcd.member(index).launch_again().unwrap(),
        Daemon(index) => {
            let (node, host) = cluster.node(index);
            node.start_supervisor(host);
            // What comes next comes while it runs.
            node.wait_for_one_daemon(host);
        }
    }
}

/// All of it goes at once, and the kernel's routes with it.
fn power_fails(cluster: &Cluster) {
    for (node, host) in cluster.nodes() {
        let mut pids = vec![node.supervisor_pid()];
        pids.extend(node.scripts(host));
        for pid in &pids {
            signal(host, "KILL", *pid);
        }
        pids.extend(kill_daemons(node, host));
        for pid in pids {
            wait_until_gone(pid);
        }
    }
    for member in cluster.etcd.members() {
        member.kill().unwrap();
    }
    for (_, host) in cluster.nodes() {
        host.exec(&["ip", "route", "flush", "proto", "70"]).unwrap();
    }
    cluster.assert_disconnected();
}

fn kill_daemons(node: &Node, host: &Host) -> Vec<u32> {
    let pids: Vec<u32> = node.daemons(host).into_iter().map(|(pid, _)| pid).collect();
    for pid in &pids {
        signal(host, "KILL", *pid);
    }
    pids
}

fn comes_up(cluster: &Cluster, order: &[Part]) {
    for part in order {
        start(cluster, *part);
    }
    cluster.wait_until_connected();
    cluster.assert_connected();
    for (node, host) in cluster.nodes() {
        node.wait_until_ready(host);
        node.wait_until_running(host);
        node.wait_for_one_daemon(host);
    }
    for member in cluster.etcd.members() {
        member.wait_ready(SOON).unwrap();
    }
    cluster.assert_pinned();
}

#[test]
fn everything_started_in_any_order_comes_up() {
    let cluster = Cluster::new("order");
    for member in cluster.etcd.members() {
        member.kill().unwrap();
        member.wipe().unwrap();
    }
    // On empty disks, and the config last.
    for part in [Daemon(0), Member(2), Daemon(1), Member(1)] {
        start(&cluster, part);
    }
    wait_until(SOON, "a quorum", || {
        cluster.etcd.member(2).etcdctl(&["endpoint", "health"]).is_ok()
    })
    .unwrap();
    for (node, host) in cluster.nodes() {
        let (status, said) = node.get(host, "/readyz").unwrap();
        assert_eq!(status, 503, "{said}");
    }
    start(&cluster, Member(0));
    cluster.etcd.member(0).wait_ready(SOON).unwrap();
    cluster.put_config();
    comes_up(&cluster, &[]);

    for order in [
        [Daemon(0), Daemon(1), Member(2), Member(1), Member(0)],
        [Member(0), Daemon(1), Member(2), Daemon(0), Member(1)],
    ] {
        power_fails(&cluster);
        comes_up(&cluster, &order);
    }
}
