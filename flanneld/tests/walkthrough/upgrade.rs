//! Stops, starts and upgrades by supervisord, which only knows the script: the daemon outlives it.

use crate::cluster::{Cluster, assert_nothing_lost};
use crate::node::SECOND;

#[test]
fn stop_and_start_and_an_upgrade_end_with_one_daemon_the_new_one_and_no_ping_lost() {
    let cluster = Cluster::new("upgrade");
    cluster.put_config();
    cluster.start_nodes();
    let pingers = cluster.pingers();
    let first: Vec<_> = cluster
        .nodes()
        .map(|(node, host)| node.wait_for_one_daemon(host))
        .collect();

    for ((node, host), before) in cluster.nodes().zip(&first) {
        node.wait_until_running(host);
        node.supervisorctl(host, "stop").unwrap();
        node.supervisorctl(host, "start").unwrap();
        node.wait_until_running(host);
        let now = node.wait_for_one_daemon(host);
        assert_ne!(now.0, before.0, "the daemon is the old one");
        assert_eq!(now.1, before.1);
        node.wait_until_ready(host);
    }
    cluster.assert_pinned();

    for (node, host) in cluster.nodes() {
        node.upgrade();
        node.supervisorctl(host, "restart").unwrap();
        node.wait_until_running(host);
        let (_, program) = node.wait_for_one_daemon(host);
        let version = program.parent().and_then(|directory| directory.file_name());
        assert_eq!(version.unwrap(), SECOND, "{}", program.display());
        node.wait_until_ready(host);
        assert!(
            node.subnet_env().contains("FLANNEL_SUBNET=172.7."),
            "{}",
            node.subnet_env()
        );
    }
    cluster.assert_pinned();
    assert_nothing_lost(pingers);
    cluster.assert_connected();
}
