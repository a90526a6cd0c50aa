//! What leases ask for, and what happens when they do not agree.

use std::time::Duration;

use flannel_core::{NodeId, Object, Op, Options, PeerState};

use crate::fixture::{
    Host, MOMENT, V4, about, assert_reachable_throughout, delete, kernel, mac, peer_subnet, put, put_peers,
    scope, store,
};

#[tokio::test(start_paused = true)]
async fn a_peer_with_another_mac_address_or_host_is_reachable_throughout_and_leaves_nothing_stale() {
    let host = Host::ready().await;
    for (other_mac, other_host) in [(0x77, 7), (0x77, 70), (0x78, 71), (7, 7)] {
        let before = host.kernel.objects(&scope());
        host.kernel.clear_log();
        put(&host.store, 7, &mac(other_mac), other_host);
        host.until("the changed peer", |host| {
            let host_address = format!("dst 198.51.100.{other_host}");
            let picture = host.picture();
            about(&picture, &host_address).len() == 1
                && about(&picture, &format!("lladdr {}", mac(other_mac))).len() == 2
        })
        .await;
        tokio::time::sleep(MOMENT).await;
        let ops = host.ops();
        assert!(!ops.is_empty());
        assert_reachable_throughout(&before, &ops);
        let picture = host.picture();
        // Two forwarding entries for each of three peers.
        assert_eq!(about(&picture, "fdb ").len(), 6, "{picture:#?}");
        assert!(
            ops.iter().all(|op| !matches!(op.object(), Object::Route(_))),
            "{ops:?}"
        );
    }
    host.has(3).await;
}

#[tokio::test(start_paused = true)]
async fn new_and_leaving_peers_cost_their_own_objects() {
    let host = Host::ready().await;
    let before = host.kernel.objects(&scope());
    host.kernel.clear_log();
    put_peers(&host.store, [10]);
    host.has(4).await;
    assert_reachable_throughout(&before, &host.ops());
    assert_eq!(host.ops().len(), 6, "{:#?}", host.ops());
    let between = host.kernel.objects(&scope());
    host.kernel.clear_log();
    delete(&host.store, 10);
    host.has(3).await;
    let ops = host.ops();
    assert!(ops.iter().all(|op| matches!(op, Op::Remove(_))));
    assert_eq!(ops.len(), 6, "{ops:#?}");
    assert_reachable_throughout(&between, &ops);
    assert!(about(&host.picture(), &mac(10)).is_empty());
}

#[tokio::test(start_paused = true)]
async fn of_two_hosts_with_one_mac_address_the_older_is_a_peer_and_the_other_waits_for_its_end() {
    let host = Host::ready().await;
    put(&host.store, 20, &mac(9), 20);
    host.until("the refusal", |host| host.engine.status().peers.refused == 1)
        .await;
    host.has(3).await;
    let rows = host.engine.peers(10).await.unwrap().rows;
    let row = rows.iter().find(|row| row.subnet == peer_subnet(20)).unwrap();
    let PeerState::Refused(why) = &row.state else {
        panic!("{row:?}");
    };
    assert!(
        why.contains(&mac(9)) && why.contains("10.5.9.0/24"),
        "it names neither the address nor the other: {why}"
    );
    let picture = host.picture();
    assert!(about(&picture, "10.5.20.0").is_empty(), "{picture:#?}");
    assert_eq!(about(&picture, "dst 198.51.100.9").len(), 1);

    delete(&host.store, 9);
    host.until("its end", |host| {
        about(&host.picture(), "dst 198.51.100.20").len() == 1
    })
    .await;
    host.has(3).await;
    let picture = host.picture();
    assert!(about(&picture, "10.5.9.0").is_empty());
    assert_eq!(
        about(&picture, "10.5.20.0").len(),
        2,
        "a neighbour and a route: {picture:#?}"
    );
    assert_eq!(host.engine.status().peers.refused, 0);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_takes_the_mac_address_of_a_younger_one_does_not_displace_itself() {
    let host = Host::ready().await;
    // The oldest comes to have the address of the youngest.
    put(&host.store, 7, &mac(9), 7);
    host.until("the refusal", |host| host.engine.status().peers.refused == 1)
        .await;
    let picture = host.picture();
    assert_eq!(about(&picture, "dst 198.51.100.7").len(), 1, "{picture:#?}");
    assert!(about(&picture, "dst 198.51.100.9").is_empty(), "{picture:#?}");
    assert!(about(&picture, "10.5.9.0").is_empty(), "{picture:#?}");
    put(&host.store, 7, &mac(7), 7);
    host.has(3).await;
    assert_eq!(about(&host.picture(), "dst 198.51.100.9").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn two_leases_of_one_host_share_its_forwarding_entry_until_both_are_gone() {
    let host = Host::ready().await;
    put(&host.store, 21, &mac(9), 9);
    host.has(4).await;
    let shared = |host: &Host| about(&host.picture(), "dst 198.51.100.9").len();
    assert_eq!(shared(&host), 1);
    host.kernel.clear_log();
    delete(&host.store, 9);
    host.has(3).await;
    assert_eq!(shared(&host), 1);
    assert!(
        host.ops()
            .iter()
            .all(|op| !op.id().to_string().starts_with("fdb")),
        "{:?}",
        host.ops()
    );
    delete(&host.store, 21);
    host.has(2).await;
    assert_eq!(shared(&host), 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_cannot_be_programmed_waits_alone() {
    let store = store(V4);
    put_peers(&store, 1..=200);
    let kernel = kernel();
    let bad = "10.5.100.0/24".parse().unwrap();
    kernel.fail(bad, flannel_core::OpErrorKind::Other, u32::MAX);
    let mut options = Options::new(NodeId(1));
    options.previous = "10.5.250.0/24".parse().ok();
    let host = Host::start(&store, &kernel, options);
    host.until("all others", |host| host.engine.status().peers.installed == 199)
        .await;
    let status = host.engine.status();
    assert!(status.is_ready(), "{:?}", status.reasons);
    assert_eq!((status.peers.desired, status.peers.failed), (200, 1));
    put_peers(&store, [201]);
    let took = host
        .until("a new one", |host| host.engine.status().peers.installed == 200)
        .await;
    assert!(took <= Duration::from_millis(100), "{took:?}");
    kernel.stop_failing();
    host.has(201).await;
}
