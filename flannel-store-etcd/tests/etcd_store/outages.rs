//! Nothing is heard for a while, and then it is.

use std::collections::BTreeSet;
use std::time::Duration;

use etcd_client::Client;
use flannel_core::{ConfigStore, Gap, StoreError, StoreEvent, SubnetStore};
use flannel_store_etcd::EtcdStore;
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::place::{CONFIG, PREFIX, Place, Watch, attrs, open, subnet};
use crate::proxy::{Proxy, Way};

/// How soon everything is well again once a server answers.
const HEALED_WITHIN: Duration = Duration::from_secs(5);

/// How soon it is noticed that nothing is heard any more, and said.
pub(crate) const NOTICED_WITHIN: Duration = Duration::from_secs(15);

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
async fn one_connection_does_for_everything_that_is_answered() {
    let mut scene = Scene::new().await;
    let own = scene
        .store
        .claim(subnet("10.5.1.0/24"), None, &attrs(1))
        .await
        .unwrap();
    scene.watch.put().await;
    let taken = scene.store.claim(own.subnet, None, &attrs(2)).await;
    assert!(matches!(taken, Err(StoreError::Taken { .. })), "{taken:?}");
    let mut raw = Client::connect([scene.place.etcd.endpoint()], None)
        .await
        .unwrap();
    raw.lease_revoke(own.token.grant).await.unwrap();
    let lost = scene.store.keep(&own, &attrs(1)).await;
    assert!(matches!(lost, Err(StoreError::LeaseLost { .. })), "{lost:?}");
    assert!(matches!(scene.watch.next().await, StoreEvent::Delete(_)));
    assert_eq!(scene.proxy.connections(), 1);
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
async fn a_store_that_answers_late_is_unavailable_in_time() {
    let scene = Scene::new().await;
    scene.proxy.set(Way::Stalled);
    let start = Instant::now();
    let error = scene.store.read_config().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("no answer within"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}
