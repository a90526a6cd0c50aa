//! Members of etcd that die, one at a time.

use std::time::Duration;

use lab::wait_until;

use crate::cluster::{Cluster, SOON, assert_nothing_lost};

/// A store that does not answer is noticed, and said, this soon.
const NOTICED: Duration = Duration::from_secs(15);

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

/// Nobody to ask is no reason to cut pods off, nor to call a host ready that knows nothing yet.
#[test]
fn while_all_members_are_away_hosts_are_degraded_and_no_ping_is_lost() {
    let cluster = Cluster::new("away");
    cluster.put_config();
    cluster.start_nodes();
    cluster.wait_until_connected();
    let leases = cluster.leases(0);
    let pingers = cluster.pingers();
    for member in cluster.etcd.members() {
        member.kill().unwrap();
    }
    let says = |index: usize, status: u16, parts: &[&str]| {
        let (node, host) = cluster.node(index);
        wait_until(NOTICED, "readyz to say so", || {
            let (found, said) = node.get(host, "/readyz").ok()?;
            (found == status && parts.iter().all(|part| said.contains(part))).then_some(())
        })
        .unwrap();
        assert_eq!(
            node.get(host, "/healthz").unwrap().0,
            200,
            "it is alive all the same"
        );
    };
    for index in [0, 1] {
        says(index, 200, &["degraded", r#""reason":"store""#]);
    }
    // One that starts meanwhile has not seen who else is there.
    let (node, host) = cluster.node(1);
    node.supervisorctl(host, "stop").unwrap();
    node.supervisorctl(host, "start").unwrap();
    says(1, 503, &[r#""reason":"snapshot""#]);
    for member in cluster.etcd.members() {
        member.launch_again().unwrap();
    }
    for (node, host) in cluster.nodes() {
        node.wait_until_ready(host);
    }
    assert_eq!(cluster.leases(0), leases);
    assert_nothing_lost(pingers);
    cluster.assert_connected();
}
