use futures_util::FutureExt;

use super::server::HISTORY;
use super::*;
use crate::Gap;
use crate::testing::store_contract::{self, StoreHarness};

const TTL: Duration = Duration::from_secs(60);

struct Harness(FakeStore, Duration);

#[async_trait]
impl StoreHarness for Harness {
    async fn connect(&self) -> Arc<dyn SubnetStore> {
        Arc::new(self.0.client())
    }

    async fn put_config(&self, json: Option<&str>) {
        self.0.put_config(json);
    }

    async fn put_raw(&self, key: &str, value: &str) {
        self.0.put_raw(key, value);
    }

    async fn delete_raw(&self, key: &str) {
        self.0.delete_raw(key);
    }

    fn ttl(&self) -> Duration {
        self.1
    }
}

#[tokio::test(start_paused = true)]
async fn the_fake_keeps_the_contract_of_a_store() {
    let ttl = Duration::from_secs(2);
    store_contract::all(async || Harness(FakeStore::new(ttl), ttl)).await;
}

#[tokio::test(start_paused = true)]
async fn the_fake_keeps_the_contract_however_long_requests_take() {
    let ttl = Duration::from_secs(2);
    store_contract::all(async || {
        let store = FakeStore::new(ttl);
        store.set_latency(Duration::from_millis(40), 7);
        Harness(store, ttl)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_expires_to_the_millisecond_though_nobody_asks() {
    let store = FakeStore::new(TTL);
    let mut watch = started(&store.client()).await;
    claim(&store.client(), 1).await;
    assert_eq!(ready(&mut watch), ["put 10.5.1.0/24"]);
    let start = Instant::now();
    assert_eq!(shown(watch.next().await.unwrap()), "delete 10.5.1.0/24");
    assert_eq!(start.elapsed(), TTL);
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_requests_hang_gets_its_answer_when_it_is_healed() {
    let store = FakeStore::new(TTL);
    let client = store.client();
    client.cut(Cut::Hangs);
    let start = Instant::now();
    let healer = client.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        healer.heal();
    });
    claim(&client, 1).await;
    assert_eq!(start.elapsed(), Duration::from_secs(5));

    client.cut(Cut::Hangs);
    let dropped = tokio::time::timeout(Duration::from_secs(1), client.release(&store.leases()[0])).await;
    assert!(dropped.is_err(), "it hangs");
    client.heal();
    assert_eq!(
        store.leases().len(),
        1,
        "what was given up while it hung has no effect"
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_refused_fails_at_once_and_the_others_work() {
    let store = FakeStore::new(TTL);
    let (cut_off, other) = (store.client(), store.client());
    cut_off.cut(Cut::Refuses);
    let error = cut_off.claim(subnet(1), None, &attrs(1)).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    claim(&other, 1).await;
    assert_eq!((store.leases().len(), store.writes()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_request_may_have_taken_effect_when_the_client_was_cut_off_meanwhile() {
    let store = FakeStore::new(TTL);
    store.set_latency(Duration::from_secs(1), 3);
    let mut effects = 0;
    for n in 1..=16 {
        let client = store.client();
        let request = client.clone();
        let request = tokio::spawn(async move { request.claim(subnet(n), None, &attrs(n)).await });
        tokio::time::sleep(Duration::from_millis(700)).await;
        client.cut(Cut::Refuses);
        let before = store.writes();
        let known = request.await.unwrap().is_ok();
        assert_eq!(store.writes(), before, "none after the cut");
        effects += u32::from(!known && store.leases().iter().any(|lease| lease.subnet == subnet(n)));
    }
    assert!((1..16).contains(&effects), "{effects}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_cut_off_says_so_once_and_then_catches_up_in_order() {
    let store = FakeStore::new(TTL);
    let (client, other) = (store.client(), store.client());
    let mut watch = started(&client).await;
    client.cut(Cut::Hangs);
    let since = Instant::now();
    let lease = claim(&other, 1).await;
    other.release(&lease).await.unwrap();
    claim(&other, 2).await;
    assert_eq!(ready(&mut watch), Vec::<String>::new());

    let silent = watch.next().await.unwrap();
    assert!(
        matches!(silent, StoreEvent::Silent { since: said, .. } if said == since),
        "{silent:?}"
    );
    assert_eq!(since.elapsed(), SILENT_AFTER);
    assert!(
        tokio::time::timeout(TTL / 2, watch.next()).await.is_err(),
        "once is enough"
    );
    client.heal();
    assert_eq!(
        ready(&mut watch),
        ["put 10.5.1.0/24", "delete 10.5.1.0/24", "put 10.5.2.0/24"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_silence_in_which_nothing_happened_ends_with_a_snapshot_and_a_short_one_with_nothing() {
    let store = FakeStore::new(TTL);
    let client = store.client();
    let mut watch = started(&client).await;
    client.cut(Cut::Hangs);
    client.heal();
    assert_eq!(ready(&mut watch), Vec::<String>::new());
    client.cut(Cut::Refuses);
    assert_eq!(shown(watch.next().await.unwrap()), "silent");
    client.heal();
    assert_eq!(ready(&mut watch), ["snapshot Missed []"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_was_behind_the_compaction_gets_a_snapshot_and_one_that_was_not_gets_none() {
    let store = FakeStore::new(TTL);
    let (client, other) = (store.client(), store.client());
    let (mut behind, mut present) = (started(&client).await, started(&other).await);
    client.cut(Cut::Hangs);
    claim(&other, 1).await;
    assert_eq!(ready(&mut present), ["put 10.5.1.0/24"]);
    store.compact();
    client.heal();
    assert_eq!(ready(&mut behind), ["snapshot Missed [10.5.1.0/24]"]);
    assert_eq!(ready(&mut present), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_nobody_reads_misses_what_the_history_no_longer_holds() {
    let store = FakeStore::new(TTL);
    let (mut slow, mut just) = (started(&store.client()).await, started(&store.client()).await);
    for _ in 0..HISTORY {
        store.put_raw("10.5.1.0-24", "{}");
    }
    assert_eq!(ready(&mut just).len(), HISTORY);
    store.put_raw("10.5.2.0-24", "{}");
    assert_eq!(ready(&mut just), ["put 10.5.2.0/24"]);
    assert_eq!(ready(&mut slow), ["snapshot Missed [10.5.1.0/24, 10.5.2.0/24]"]);
}

#[tokio::test(start_paused = true)]
async fn a_restored_store_is_another_history_and_gives_every_lease_its_full_time() {
    let store = FakeStore::new(TTL);
    let client = store.client();
    store.put_config(Some("{}"));
    let lease = claim(&client, 1).await;
    let saved = store.save();
    store.put_config(None);
    claim(&client, 2).await;
    let mut watch = started(&client).await;
    tokio::time::sleep(TTL / 2).await;

    store.restore(&saved);
    assert_eq!(
        ready(&mut watch),
        ["config", "snapshot HistoryLost [10.5.1.0/24]"]
    );
    assert_eq!(store.leases()[0].expires, Some(Instant::now() + TTL));
    assert_eq!(store.leases()[0].token, lease.token);
    assert!(client.keep(&lease, &attrs(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_wiped_store_keeps_its_config_and_counts_from_the_beginning() {
    let store = FakeStore::new(TTL);
    let client = store.client();
    store.put_config(Some("{}"));
    let (first, second) = (claim(&client, 1).await, claim(&client, 2).await);
    let mut watch = started(&client).await;
    store.wipe();
    assert_eq!(ready(&mut watch), ["snapshot HistoryLost []"]);
    assert!(matches!(
        client.keep(&first, &attrs(1)).await,
        Err(StoreError::LeaseLost { .. })
    ));
    let anew = claim(&client, 3).await;
    assert!(anew.token.revision < second.token.revision);
    // The revision that a lease had before the wipe is another lease's now.
    assert_eq!(anew.token.revision, first.token.revision);
    assert_ne!(anew.token, first.token);
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_leaves_the_lease_its_holders() {
    let store = FakeStore::new(TTL);
    let client = store.client();
    client.lose_replies(1);
    assert!(
        client
            .claim(subnet(1), None, &attrs(1))
            .await
            .unwrap_err()
            .is_transient()
    );
    let own = store.leases().remove(0);
    client.lose_replies(1);
    assert!(client.keep(&own, &attrs(2)).await.unwrap_err().is_transient());
    let kept = client.keep(&own, &attrs(2)).await.unwrap();
    assert_ne!(kept.token, own.token);
    assert_eq!((store.writes(), store.renewals()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_lease_without_expiry_is_lost_to_whoever_overwrites_it() {
    let store = FakeStore::new(TTL);
    let client = store.client();
    store.put_raw("10.5.1.0-24", "{}");
    let seen = store.leases().remove(0);
    let own = client.claim(seen.subnet, Some(&seen), &attrs(1)).await.unwrap();
    store.put_raw("10.5.1.0-24", "{}");
    let kept = client.keep(&own, &attrs(1)).await;
    assert!(matches!(kept, Err(StoreError::LeaseLost { .. })), "{kept:?}");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_on_its_way_when_the_client_is_cut_off_comes_after_it_is_healed() {
    let store = FakeStore::new(TTL);
    let client = store.client();
    let mut watch = started(&client).await;
    store.set_latency(Duration::from_secs(5), 1);
    store.put_raw("10.5.1.0-24", "{}");
    assert_eq!(ready(&mut watch), Vec::<String>::new());
    client.cut(Cut::Hangs);
    assert_eq!(shown(watch.next().await.unwrap()), "silent");
    client.heal();
    assert_eq!(shown(watch.next().await.unwrap()), "put 10.5.1.0/24");
}

#[tokio::test(start_paused = true)]
async fn garbage_is_not_said_again_with_a_further_snapshot() {
    let store = FakeStore::new(TTL);
    let client = store.client();
    store.put_raw("10.5.1.0-24", "garbage");
    let mut watch = started(&client).await;
    assert_eq!(ready(&mut watch), ["unreadable 10.5.1.0-24"]);
    store.put_raw("10.5.2.0-24", "garbage");
    store.compact();
    assert_eq!(
        ready(&mut watch),
        ["snapshot Missed []", "unreadable 10.5.2.0-24"]
    );
}

#[tokio::test(start_paused = true)]
async fn requests_fail_as_often_as_asked_without_effect() {
    let store = FakeStore::new(TTL);
    let client = store.client();
    client.fail_next(2, Failure::Denied);
    for _ in 0..2 {
        let error = client.claim(subnet(1), None, &attrs(1)).await.unwrap_err();
        assert!(matches!(error, StoreError::Denied { .. }));
    }
    assert_eq!(store.leases().len(), 0);
    claim(&client, 1).await;
}

#[tokio::test(start_paused = true)]
async fn handovers_say_who_held_what_and_when_and_overlaps_are_found() {
    let store = FakeStore::new(TTL);
    let client = store.client();
    let start = Instant::now();
    let lease = claim(&client, 1).await;
    client
        .keep(
            &lease,
            &LeaseAttrs {
                backend: "vxlan".to_owned(),
                ..attrs(1)
            },
        )
        .await
        .unwrap();
    tokio::time::sleep(TTL * 3).await;
    store.put_raw("10.5.1.0-24", "garbage");
    store.put_raw("not-a-subnet", "garbage");
    store.wipe();
    let log: Vec<_> = store
        .handovers()
        .iter()
        .map(|handover| (handover.at - start, handover.to))
        .collect();
    let expected = [
        (Duration::ZERO, Holder::Node(NodeId(1))),
        (TTL, Holder::Nobody),
        (TTL * 3, Holder::Unnamed),
        (TTL * 3, Holder::Nobody),
    ];
    assert_eq!(log, expected);
    assert_eq!(store.first_overlap(), None);

    store.put_raw("10.5.0.0-23", "{}");
    claim(&client, 1).await;
    let (_, older, younger) = store.first_overlap().unwrap();
    assert_eq!((older.to_key().as_str(), younger), ("10.5.0.0-23", subnet(1)));
}

#[tokio::test(start_paused = true)]
async fn events_reach_each_client_after_a_time_of_its_own_that_the_seed_determines() {
    let arrivals = async |seed| {
        let store = FakeStore::new(TTL);
        let clients: Vec<_> = (0..4).map(|_| store.client()).collect();
        store.set_latency(Duration::from_millis(500), seed);
        let mut times = Vec::new();
        for client in &clients {
            let start = Instant::now();
            client.watch().await.unwrap().next().await;
            times.push(start.elapsed());
        }
        times
    };
    let times = arrivals(1).await;
    assert_eq!(times, arrivals(1).await);
    assert_ne!(times, arrivals(2).await);
    assert!(times.iter().any(|time| *time != times[0]), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn watches_wake_in_the_order_in_which_they_began_to_wait() {
    let store = FakeStore::new(TTL);
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for number in 0..32 {
        let (mut watch, order) = (started(&store.client()).await, Arc::clone(&order));
        tasks.push(tokio::spawn(async move {
            watch.next().await;
            order.lock().unwrap().push(number);
        }));
    }
    tokio::task::yield_now().await;
    store.put_raw("10.5.1.0-24", "{}");
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), (0..32).collect::<Vec<_>>());
}

fn subnet(n: u8) -> SubnetKey {
    format!("10.5.{n}.0/24").parse().unwrap()
}

fn attrs(n: u8) -> LeaseAttrs {
    LeaseAttrs {
        node: Some(NodeId(n.into())),
        ..LeaseAttrs::from_json(&format!(r#"{{"PublicIP":"192.0.2.{n}"}}"#)).unwrap()
    }
}

async fn claim(client: &FakeStoreClient, n: u8) -> Lease {
    client.claim(subnet(n), None, &attrs(n)).await.unwrap()
}

/// A watch that has read its config and its first snapshot.
async fn started(client: &FakeStoreClient) -> BoxStream<'static, StoreEvent> {
    let mut watch = client.watch().await.unwrap();
    let first = [watch.next().await.unwrap(), watch.next().await.unwrap()];
    assert!(matches!(
        first,
        [
            StoreEvent::Config(_),
            StoreEvent::Snapshot { gap: Gap::Start, .. }
        ]
    ));
    watch
}

/// What can be read without waiting.
fn ready(watch: &mut BoxStream<'static, StoreEvent>) -> Vec<String> {
    std::iter::from_fn(|| watch.next().now_or_never().flatten().map(shown)).collect()
}

fn shown(event: StoreEvent) -> String {
    match event {
        StoreEvent::Config(_) => "config".to_owned(),
        StoreEvent::Snapshot { leases, gap } => {
            let subnets: Vec<SubnetKey> = leases.iter().map(|lease| lease.subnet).collect();
            format!("snapshot {gap:?} {subnets:?}")
        }
        StoreEvent::Put(lease) => format!("put {}", lease.subnet),
        StoreEvent::Delete(subnet) => format!("delete {subnet}"),
        StoreEvent::Unreadable { name, .. } => format!("unreadable {name}"),
        StoreEvent::Silent { .. } => "silent".to_owned(),
    }
}
