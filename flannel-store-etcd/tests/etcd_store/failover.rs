//! One server of several fails, and another takes its place.

use std::time::Duration;

use etcd_client::Client;
use flannel_core::{ConfigStore, Gap, StoreEvent, SubnetStore};
use flannel_store_etcd::EtcdStore;
use futures_util::future::{join, join_all};
use lab::{EtcdCluster, EtcdOptions};
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use crate::outages::NOTICED_WITHIN;
use crate::place::{CONFIG, PATIENCE, PREFIX, Place, Watch, attrs, open, put, subnet};
use crate::proxy::{Proxy, Way};

/// Nobody listens there.
const DEAD: &str = "http://127.0.0.1:1";

#[tokio::test]
async fn dead_servers_in_the_list_make_no_difference() {
    let place = Place::new();
    place.put("config", CONFIG);
    let live = place.etcd.endpoint();
    for endpoints in [
        format!("{DEAD},{live}"),
        format!("{live},{DEAD}"),
        format!("{DEAD},http://127.0.0.1:2,{live}"),
    ] {
        // Whichever is asked first.
        for _ in 0..10 {
            open(&endpoints).read_config().await.unwrap();
        }
        let store = open(&endpoints);
        let mut watch = Watch::ready(&store).await;
        let start = Instant::now();
        for _ in 0..20 {
            let own = store.claim(subnet("10.5.1.0/24"), None, &attrs(1)).await.unwrap();
            let own = store.keep(&own, &attrs(1)).await.unwrap();
            watch.put().await;
            store.release(&own).await.unwrap();
            assert!(matches!(watch.next().await, StoreEvent::Delete(_)));
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}

#[tokio::test]
async fn without_any_server_a_request_fails_in_time_and_a_watch_is_silent() {
    let store = open(&format!("{DEAD}, http://127.0.0.1:2"));
    let start = Instant::now();
    let error = store
        .claim(subnet("10.5.1.0/24"), None, &attrs(1))
        .await
        .unwrap_err();
    assert!(error.is_transient() && start.elapsed() < Duration::from_secs(2));
    let text = error.to_string();
    for part in ["claim 10.5.1.0/24 in etcd", DEAD, "http://127.0.0.1:2", "refused"] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    let mut watch = Watch::begin(&store).await;
    assert!(matches!(watch.next().await, StoreEvent::Silent { .. }));
    assert!(
        watch.within(Duration::from_secs(4)).await.is_none(),
        "the same is not said again"
    );
}

/// The member that leads.
async fn leader(cluster: &EtcdCluster) -> usize {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for (index, member) in cluster.members().iter().enumerate() {
            let status = async { Client::connect([member.endpoint()], None).await?.status().await };
            if let Ok(status) = status.await
                && status.header().unwrap().member_id() == status.leader()
            {
                return index;
            }
        }
        assert!(Instant::now() < deadline, "nobody leads");
    }
}

#[tokio::test]
async fn a_leader_that_is_killed_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let members = ["a", "b", "c"].map(|name| EtcdOptions::new(name, directory.path()));
    let cluster = EtcdCluster::start(members.to_vec()).unwrap();
    put(cluster.member(0), "config", CONFIG);
    let store = open(&cluster.endpoints());
    let mut watch = Watch::ready(&store).await;
    let mut own = store.claim(subnet("10.5.1.0/24"), None, &attrs(1)).await.unwrap();
    watch.put().await;
    for host in 2..5 {
        let leader = cluster.member(leader(&cluster).await);
        leader.kill().unwrap();
        // Until the others have agreed on a leader nothing is written.
        own = store.keep(&own, &attrs(host)).await.unwrap();
        match watch.next().await {
            StoreEvent::Put(lease) => assert_eq!(lease.attrs, attrs(host)),
            other => panic!("{other:?}"),
        }
        leader.start_again().unwrap();
    }
}

#[tokio::test]
async fn a_request_waits_for_a_leader_and_not_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let members = ["a", "b", "c"].map(|name| EtcdOptions::new(name, directory.path()));
    let cluster = EtcdCluster::start(members.to_vec()).unwrap();
    let store = open(&cluster.endpoints());
    store.write_config(CONFIG).await.unwrap();
    cluster.member(1).kill().unwrap();
    cluster.member(2).kill().unwrap();
    // By then the one that is left knows that nobody leads.
    store.read_config().await.unwrap_err();
    let start = Instant::now();
    let error = store.read_config().await.unwrap_err();
    assert!(
        error.is_transient() && error.to_string().contains("leader"),
        "{error}"
    );
    let waited = start.elapsed();
    assert!(
        (Duration::from_secs(4)..Duration::from_secs(10)).contains(&waited),
        "{waited:?}"
    );
    cluster.member(1).launch_again().unwrap();
    assert_eq!(store.read_config().await.unwrap().as_deref(), Some(CONFIG));
}

/// A store that has a connection.
async fn connected(endpoints: &str) -> EtcdStore {
    let store = open(endpoints);
    store.read_config().await.unwrap();
    store
}

#[tokio::test]
async fn a_cut_that_is_over_at_once_is_not_mentioned() {
    let place = Place::new();
    place.put("config", CONFIG);
    let (used, _other, store) = Proxy::pair(&place.etcd.endpoint(), connected).await;
    let mut watch = Watch::ready(&store).await;
    used.set(Way::Cut);
    let start = Instant::now();
    place.put("subnets/10.5.1.0-24", &attrs(1).to_json());
    assert_eq!(watch.put().await.subnet, subnet("10.5.1.0/24"));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_silence_is_said_to_be_over_though_the_first_server_that_answers_fails_again() {
    let place = Place::new();
    place.put("config", CONFIG);
    let (a, b, store) = Proxy::pair(&place.etcd.endpoint(), connected).await;
    let mut watch = Watch::ready(&store).await;
    [&a, &b].into_iter().for_each(|way| way.set(Way::Cut));
    assert!(matches!(watch.next().await, StoreEvent::Silent { .. }));
    let before = [&a, &b].map(Proxy::connections);
    [&a, &b].into_iter().for_each(|way| way.set(Way::Open));
    let fail_again = async {
        let used = loop {
            if let Some(used) = (0..2).find(|way| [&a, &b][*way].connections() > before[*way]) {
                break used;
            }
            sleep(Duration::from_millis(1)).await;
        };
        // It has begun, and has not said so.
        sleep(Duration::from_millis(100)).await;
        [&a, &b][used].set(Way::Cut);
    };
    let (event, ()) = join(watch.next(), fail_again).await;
    assert!(
        matches!(event, StoreEvent::Snapshot { gap: Gap::Missed, .. }),
        "{event:?}"
    );
}

#[tokio::test]
async fn a_stalled_server_is_left_for_another() {
    let place = Place::new();
    place.put("config", CONFIG);
    let (used, _other, store) = Proxy::pair(&place.etcd.endpoint(), connected).await;
    let mut watch = Watch::ready(&store).await;
    used.set(Way::Stalled);
    let start = Instant::now();
    let own = store.claim(subnet("10.5.1.0/24"), None, &attrs(1)).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
    let start = Instant::now();
    store.keep(&own, &attrs(1)).await.unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "the next request goes to the other at once"
    );
    assert_eq!(watch.put().await.subnet, own.subnet);
}

#[tokio::test]
async fn a_member_that_stalls_is_left_by_its_watch_too() {
    let directory = tempfile::tempdir().unwrap();
    let members = ["a", "b", "c"].map(|name| EtcdOptions::new(name, directory.path()));
    let cluster = EtcdCluster::start(members.to_vec()).unwrap();
    put(cluster.member(0), "config", CONFIG);
    let ways = join_all(
        cluster
            .members()
            .iter()
            .map(async |member| Proxy::to(&member.endpoint()).await),
    )
    .await;
    let urls: Vec<String> = ways.iter().map(Proxy::url).collect();
    let store = open(&urls.join(","));
    let mut watch = Watch::ready(&store).await;
    let used = ways.iter().position(|way| way.connections() > 0).unwrap();
    cluster.member(used).signal(Signal::SIGSTOP).unwrap();
    let stalled = Instant::now();
    let own = store.claim(subnet("10.5.1.0/24"), None, &attrs(1)).await.unwrap();
    assert_eq!(watch.put().await.subnet, own.subnet);
    assert!(stalled.elapsed() < NOTICED_WITHIN, "{:?}", stalled.elapsed());
    cluster.member(used).signal(Signal::SIGCONT).unwrap();
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_recognised() {
    let place = Place::new();
    place.put("subnets/10.5.1.0-24", &attrs(9).to_json());
    let (deaf, _other, store) = Proxy::pair(&place.etcd.endpoint(), connected).await;
    let mut watch = Watch::begin(&store).await;
    watch.next().await;
    let seen = watch.snapshot(Gap::Start).await;
    deaf.set(Way::NoReply);
    let start = Instant::now();
    // A reservation is taken over by a single request.
    let own = store
        .claim(seen[0].subnet, Some(&seen[0]), &attrs(1))
        .await
        .unwrap();
    assert!(start.elapsed() > Duration::from_secs(1), "an answer was lost");
    let mut raw = Client::connect([place.etcd.endpoint()], None).await.unwrap();
    let stands = raw
        .get(format!("{PREFIX}/subnets/10.5.1.0-24"), None)
        .await
        .unwrap();
    let stands = &stands.kvs()[0];
    assert_eq!(stands.value_str().unwrap(), attrs(1).to_json());
    assert_eq!(stands.mod_revision().unsigned_abs(), own.token.revision);
    assert_eq!(stands.version(), 2, "it was written once");
}

#[tokio::test]
async fn an_etcd_lease_is_granted_once_though_the_answer_was_lost() {
    let place = Place::new();
    let (deaf, _other, store) = Proxy::pair(&place.etcd.endpoint(), connected).await;
    deaf.set(Way::NoReply);
    let own = store.claim(subnet("10.5.1.0/24"), None, &attrs(1)).await.unwrap();
    let left = own.expires.unwrap().duration_since(Instant::now());
    assert!(left > Duration::from_secs(23 * 3600), "{left:?}");
    let mut raw = Client::connect([place.etcd.endpoint()], None).await.unwrap();
    let grants: Vec<i64> = raw
        .leases()
        .await
        .unwrap()
        .leases()
        .iter()
        .map(|lease| lease.id())
        .collect();
    assert_eq!(grants, [own.token.grant]);
}
