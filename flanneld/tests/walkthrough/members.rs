//! Members of etcd that die, one at a time.

use crate::cluster::{Cluster, SOON, assert_nothing_lost};

#[test]
fn one_member_of_etcd_killed_changes_nothing_whichever_it_is() {
    let cluster = Cluster::new("members");
    cluster.put_config();
    cluster.start_nodes();
    let before: Vec<_> = cluster
        .nodes()
        .map(|(node, host)| node.wait_for_one_daemon(host))
        .collect();
    let leases = cluster.leases(0);
    let pingers = cluster.pingers();
    for (number, member) in (100..).zip(cluster.etcd.members()) {
        member.kill().unwrap();
        let other = usize::from(number == 100);
        // What the others tell still arrives, and nobody has lost a lease.
        cluster.announce(other, number);
        for (node, host) in cluster.nodes() {
            let (status, said) = node.get(host, "/readyz").unwrap();
            assert_eq!(status, 200, "{}: {said}", host.label());
        }
        member.launch_again().unwrap();
        member.wait_ready(SOON).unwrap();
    }
    let now: Vec<_> = cluster
        .nodes()
        .map(|(node, host)| node.wait_for_one_daemon(host))
        .collect();
    assert_eq!(now, before, "a daemon was started anew");
    let ours = cluster
        .leases(0)
        .into_iter()
        .filter(|lease| leases.contains(lease));
    assert_eq!(ours.collect::<Vec<_>>(), leases);
    assert_nothing_lost(pingers);
    cluster.assert_connected();
}
