//! What can happen to servers, and on the way to them.

use std::collections::BTreeSet;
use std::time::Duration;

use etcd_client::Client;
use flannel_core::{ConfigStore, Gap, StoreError, StoreEvent, SubnetStore};
use flannel_store_etcd::{EtcdStore, EtcdStoreOptions};
use futures_util::future::join_all;
use lab::EtcdCluster;
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::place::{CONFIG, PATIENCE, PREFIX, Place, Watch, attrs, options, put, subnet};
use crate::proxy::{Proxy, Way};

/// Nobody listens there.
const DEAD: &str = "http://127.0.0.1:1";

/// How soon everything is well again once a server answers.
const HEALED_WITHIN: Duration = Duration::from_secs(5);

/// How soon it is noticed that nothing is heard any more, and said.
const NOTICED_WITHIN: Duration = Duration::from_secs(15);

fn open(endpoints: &str) -> EtcdStore {
    EtcdStore::open(EtcdStoreOptions::endpoints(endpoints)).unwrap()
}

/// A server, the way to it, a store that takes it, and its watch.
struct Scene {
    place: Place,
    proxy: Proxy,
    store: EtcdStore,
    watch: Watch,
}

impl Scene {
    async fn new() -> Self {
        let place = Place::new();
        place.put("config", CONFIG);
        let proxy = Proxy::to(&place.etcd.endpoint()).await;
        let store = open(&proxy.url());
        let watch = Watch::ready(&store).await;
        Self {
            place,
            proxy,
            store,
            watch,
        }
    }

    fn put(&self, host: u8) {
        self.place
            .put(&format!("subnets/10.5.{host}.0-24"), &attrs(host).to_json());
    }

    /// Waits until silence is said, and returns since when it lasts.
    async fn silence(&mut self) -> Instant {
        match self.watch.next().await {
            StoreEvent::Silent { since, reason } => {
                assert!(reason.contains(&self.proxy.url()), "{reason}");
                since
            }
            other => panic!("not silent: {other:?}"),
        }
    }
}

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
        open(&endpoints).read_config().await.unwrap();
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
    let members = ["a", "b", "c"].map(|name| options(name, directory.path()));
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
    let members = ["a", "b", "c"].map(|name| options(name, directory.path()));
    let cluster = EtcdCluster::start(members.to_vec()).unwrap();
    let store = open(&cluster.endpoints());
    store.write_config(CONFIG).await.unwrap();
    cluster.member(1).kill().unwrap();
    cluster.member(2).kill().unwrap();
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

#[tokio::test]
async fn what_happened_while_the_way_was_cut_is_told_in_its_order() {
    let mut scene = Scene::new().await;
    scene.put(1);
    scene.watch.put().await;
    scene.proxy.set(Way::Cut);
    scene.silence().await;
    scene.put(2);
    scene.place.delete("subnets/10.5.1.0-24");
    scene.put(3);
    scene.proxy.set(Way::Open);
    let healed = Instant::now();
    let mut told = Vec::new();
    for _ in 0..3 {
        told.push(match scene.watch.next().await {
            StoreEvent::Put(lease) => format!("put {}", lease.subnet),
            StoreEvent::Delete(subnet) => format!("delete {subnet}"),
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(told, ["put 10.5.2.0/24", "delete 10.5.1.0/24", "put 10.5.3.0/24"]);
    assert!(healed.elapsed() < HEALED_WITHIN, "{:?}", healed.elapsed());
}

#[tokio::test]
async fn a_cut_that_is_over_at_once_is_not_mentioned() {
    let mut scene = Scene::new().await;
    let second = Proxy::to(&scene.place.etcd.endpoint()).await;
    let store = open(&format!("{},{}", scene.proxy.url(), second.url()));
    let mut watch = Watch::ready(&store).await;
    scene.proxy.set(Way::Cut);
    let start = Instant::now();
    scene.put(1);
    assert!(matches!(watch.next().await, StoreEvent::Put(_)));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    scene.silence().await;
}

#[tokio::test]
async fn a_history_that_was_compacted_meanwhile_leads_to_a_new_snapshot() {
    let mut scene = Scene::new().await;
    scene.put(1);
    scene.watch.put().await;
    scene.place.put("subnets/garbage", "x");
    assert!(matches!(scene.watch.next().await, StoreEvent::Unreadable { .. }));
    scene.proxy.set(Way::Cut);
    scene.silence().await;
    scene.put(2);
    scene.place.delete("subnets/10.5.1.0-24");
    let mut raw = Client::connect([scene.place.etcd.endpoint()], None)
        .await
        .unwrap();
    let now = raw.get("x", None).await.unwrap().header().unwrap().revision();
    raw.compact(now, None).await.unwrap();
    scene.proxy.set(Way::Open);
    let healed = Instant::now();
    let leases = scene.watch.snapshot(Gap::Missed).await;
    let subnets: Vec<_> = leases.iter().map(|lease| lease.subnet).collect();
    assert_eq!(subnets, [subnet("10.5.2.0/24")], "what is gone is gone");
    assert!(healed.elapsed() < HEALED_WITHIN, "{:?}", healed.elapsed());
    scene.put(3);
    assert_eq!(
        scene.watch.put().await.subnet,
        subnet("10.5.3.0/24"),
        "garbage is not said again"
    );
}

/// A server tells what a watch has missed in parts, whose headers are those of the present.
#[tokio::test]
async fn nothing_is_lost_where_catching_up_is_cut_short() {
    const CHANGES: usize = 2500;
    let mut scene = Scene::new().await;
    scene.proxy.set(Way::Cut);
    scene.silence().await;
    let raw = Client::connect([scene.place.etcd.endpoint()], None)
        .await
        .unwrap();
    let key = |index: usize| format!("10.{}.{}.0-24", 16 + index / 256, index % 256);
    for first in (0..CHANGES).step_by(50) {
        let puts = (first..first + 50).map(|index| {
            let mut raw = raw.clone();
            let key = format!("{PREFIX}/subnets/{}", key(index));
            async move { raw.put(key, attrs(1).to_json(), None).await.unwrap() }
        });
        join_all(puts).await;
    }
    scene.proxy.set(Way::Open);
    let mut told = vec![scene.watch.put().await];
    scene.proxy.set(Way::Cut);
    while told.len() < CHANGES {
        match scene.watch.next().await {
            StoreEvent::Put(lease) => told.push(lease),
            StoreEvent::Silent { .. } => scene.proxy.set(Way::Open),
            other => panic!("{other:?}"),
        }
    }
    let subnets: BTreeSet<_> = told.iter().map(|lease| lease.subnet).collect();
    assert_eq!(subnets.len(), CHANGES, "each was told once");
    assert!(told.is_sorted_by_key(|lease| lease.token.revision));
}

#[tokio::test]
async fn a_server_that_was_restarted_goes_on_where_it_was() {
    let mut scene = Scene::new().await;
    let own = scene
        .store
        .claim(subnet("10.5.1.0/24"), None, &attrs(1))
        .await
        .unwrap();
    scene.watch.put().await;
    scene.place.etcd.kill().unwrap();
    scene.silence().await;
    scene.place.etcd.start_again().unwrap();
    let healed = Instant::now();
    let leases = scene.watch.snapshot(Gap::Missed).await;
    assert_eq!(leases.len(), 1);
    assert!(healed.elapsed() < HEALED_WITHIN, "{:?}", healed.elapsed());
    scene.store.keep(&own, &attrs(2)).await.unwrap();
    assert_eq!(scene.watch.put().await.attrs, attrs(2));
}

#[tokio::test]
async fn a_server_that_lost_its_data_has_another_history() {
    for into_a_new_cluster in [false, true] {
        let mut scene = Scene::new().await;
        scene.put(1);
        scene.watch.put().await;
        scene.place.etcd.kill().unwrap();
        scene.silence().await;
        if into_a_new_cluster {
            scene.place.etcd.wipe_into_a_new_cluster().unwrap();
        } else {
            scene.place.etcd.wipe().unwrap();
        }
        scene.proxy.set(Way::Cut);
        scene.place.etcd.start_again().unwrap();
        if into_a_new_cluster {
            // A revision that is not lower says nothing.
            (2..12).for_each(|host| scene.put(host));
        }
        scene.proxy.set(Way::Open);
        let config = scene.watch.beyond_silence().await;
        assert!(matches!(config, StoreEvent::Config(Err(_))), "{config:?}");
        let leases = scene.watch.snapshot(Gap::HistoryLost).await;
        assert_eq!(leases.len(), if into_a_new_cluster { 10 } else { 0 });
        scene.put(20);
        assert_eq!(scene.watch.put().await.subnet, subnet("10.5.20.0/24"));
    }
}

#[tokio::test]
async fn a_server_that_stalls_is_noticed_and_what_it_missed_is_told() {
    let mut scene = Scene::new().await;
    scene.put(1);
    scene.watch.put().await;
    scene.proxy.set(Way::Stalled);
    let stalled = Instant::now();
    let since = scene.silence().await;
    assert!(stalled.elapsed() < NOTICED_WITHIN, "{:?}", stalled.elapsed());
    assert!(
        since.duration_since(stalled) < Duration::from_secs(5),
        "nothing was heard for longer"
    );
    scene.put(2);
    scene.proxy.set(Way::Open);
    let healed = Instant::now();
    assert_eq!(scene.watch.put().await.subnet, subnet("10.5.2.0/24"));
    assert!(healed.elapsed() < HEALED_WITHIN, "{:?}", healed.elapsed());
}

#[tokio::test]
async fn a_stalled_server_is_left_for_another() {
    let place = Place::new();
    place.put("config", CONFIG);
    let (stalling, live) = (
        Proxy::to(&place.etcd.endpoint()).await,
        Proxy::to(&place.etcd.endpoint()).await,
    );
    let store = open(&format!("{},{}", stalling.url(), live.url()));
    let mut watch = Watch::ready(&store).await;
    stalling.set(Way::Stalled);
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
    let members = ["a", "b", "c"].map(|name| options(name, directory.path()));
    let cluster = EtcdCluster::start(members.to_vec()).unwrap();
    put(cluster.member(0), "config", CONFIG);
    let store = open(&cluster.endpoints());
    let mut watch = Watch::ready(&store).await;
    cluster.member(0).signal(Signal::SIGSTOP).unwrap();
    let stalled = Instant::now();
    let own = store.claim(subnet("10.5.1.0/24"), None, &attrs(1)).await.unwrap();
    assert_eq!(watch.put().await.subnet, own.subnet);
    assert!(stalled.elapsed() < NOTICED_WITHIN, "{:?}", stalled.elapsed());
    cluster.member(0).signal(Signal::SIGCONT).unwrap();
}

/// etcd ends connections that are tried too often, and routers forget those that are not.
#[tokio::test]
#[ignore = "long: half a minute of quiet"]
async fn a_quiet_watch_stays() {
    let mut scene = Scene::new().await;
    let connections = scene.proxy.connections();
    assert!(
        scene.watch.within(Duration::from_secs(30)).await.is_none(),
        "nothing happens"
    );
    scene.put(1);
    scene.watch.put().await;
    assert_eq!(scene.proxy.connections(), connections);
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_recognised() {
    let place = Place::new();
    place.put("subnets/10.5.1.0-24", &attrs(9).to_json());
    let (deaf, live) = (
        Proxy::to(&place.etcd.endpoint()).await,
        Proxy::to(&place.etcd.endpoint()).await,
    );
    let store = open(&format!("{},{}", deaf.url(), live.url()));
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
    let (deaf, live) = (
        Proxy::to(&place.etcd.endpoint()).await,
        Proxy::to(&place.etcd.endpoint()).await,
    );
    let store = open(&format!("{},{}", deaf.url(), live.url()));
    store.read_config().await.unwrap();
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

#[tokio::test]
async fn a_store_that_answers_late_is_unavailable_in_time() {
    let scene = Scene::new().await;
    scene.proxy.set(Way::Stalled);
    let start = Instant::now();
    let error = scene.store.read_config().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("no answer within"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}
