//! An engine over the doubles, where a simulation does not reach: real files, and floods.
#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use flannel_core::testing::{FakeKernel, FakeStore, FakeStoreClient, PlainRoutes};
use flannel_core::{
    Backend, BackendError, DataPlane, Engine, Lease, LeaseAttrs, NetworkConfig, NodeId, Options, PerFamily,
    Reason, StoreError, StoreEvent, SubnetKey, SubnetStore,
};
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::sleep;

const CONFIG: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#;

fn kernel() -> FakeKernel {
    FakeKernel::host("eth0", &["192.0.2.1/24"], &["192.0.2.254"])
}

/// A shutdown that never comes and that counts how often it is asked about: once for each turn.
fn counted(turns: &Arc<AtomicU64>) -> impl Future<Output = ()> + Send + use<> {
    let turns = turns.clone();
    poll_fn(move |_| {
        let turns = turns.fetch_add(1, Ordering::Relaxed);
        assert!(turns < 10_000, "the engine spins");
        Poll::Pending
    })
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_cannot_write_its_state_changes_nothing_says_so_and_does_not_spin() {
    let file = tempfile();
    let store = FakeStore::new(Duration::from_secs(60));
    store.put_config(Some(CONFIG));
    let kernel = kernel();
    let options = Options {
        // A file where there ought to be a directory.
        state: Some(file.join("state")),
        ..Options::new(NodeId(1))
    };
    let backends: Vec<Box<dyn Backend>> = vec![Box::new(PlainRoutes)];
    let engine = Engine::new(
        Arc::new(store.client()),
        Arc::new(kernel.clone()),
        backends,
        options,
    );
    store.put_raw(
        "10.5.9.0-24",
        r#"{"PublicIP":"192.0.2.9","BackendType":"host-gw"}"#,
    );
    let (handle, turns) = (engine.handle(), Arc::default());
    let engine = tokio::spawn(engine.run(counted(&turns)));
    sleep(Duration::from_secs(120)).await;
    let status = handle.status();
    assert!(!status.is_ready() && status.lease.is_some());
    assert!(
        status
            .reasons
            .iter()
            .any(|reason| matches!(reason, Reason::State(text) if text.contains("state"))),
        "{:?}",
        status.reasons
    );
    assert!(
        kernel.log().is_empty(),
        "a route that the next run would not find"
    );
    assert!(!engine.is_finished());
    engine.abort();
    std::fs::remove_file(file).unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_cannot_read_the_host_asks_with_backoff_and_says_why() {
    let store = FakeStore::new(Duration::from_secs(60));
    store.put_config(Some(CONFIG));
    let kernel = kernel();
    kernel.fail_facts(u32::MAX);
    let backends: Vec<Box<dyn Backend>> = vec![Box::new(PlainRoutes)];
    let engine = Engine::new(
        Arc::new(store.client()),
        Arc::new(kernel.clone()),
        backends,
        Options::new(NodeId(1)),
    );
    let (handle, turns) = (engine.handle(), Arc::default());
    let engine = tokio::spawn(engine.run(counted(&turns)));
    sleep(Duration::from_secs(120)).await;
    let reasons = handle.status().reasons.clone();
    assert!(
        reasons.iter().any(|reason| matches!(reason, Reason::Host(_))),
        "{reasons:?}"
    );
    // 100 ms doubled to 30 s, and some turns for each.
    let turns = turns.load(Ordering::Relaxed);
    assert!(turns < 100, "{turns} turns in 2 minutes");
    kernel.fail_facts(0);
    sleep(Duration::from_secs(31)).await;
    assert!(handle.status().is_ready());
    engine.abort();
}

/// A backend of another name.
struct Other;

impl Backend for Other {
    fn kind(&self) -> &'static str {
        "other"
    }

    fn configure(&self, _: &NetworkConfig) -> Result<Arc<dyn DataPlane>, BackendError> {
        Ok(Arc::new(PlainRoutes))
    }
}

#[tokio::test(start_paused = true)]
async fn a_config_with_another_backend_is_refused_while_our_lease_carries_the_first() {
    let store = FakeStore::new(Duration::from_secs(60));
    store.put_config(Some(CONFIG));
    let backends: Vec<Box<dyn Backend>> = vec![Box::new(PlainRoutes), Box::new(Other)];
    let engine = Engine::new(
        Arc::new(store.client()),
        Arc::new(kernel()),
        backends,
        Options::new(NodeId(1)),
    );
    let (handle, turns) = (engine.handle(), Arc::default());
    let engine = tokio::spawn(engine.run(counted(&turns)));
    handle.wait_for(flannel_core::Status::is_ready).await.unwrap();
    let others = CONFIG.replace("host-gw", "other");
    store.put_config(Some(&others));
    sleep(Duration::from_secs(1)).await;
    let status = handle.status();
    assert!(status.is_ready());
    assert!(
        matches!(&status.reasons[..], [Reason::ConfigRefused(text)]
            if text.contains("the backend changed from host-gw to other")),
        "{:?}",
        status.reasons
    );
    assert_eq!(store.leases()[0].attrs.backend, "host-gw");
    store.put_config(Some(CONFIG));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(handle.status().reasons, []);
    engine.abort();
}

fn tempfile() -> std::path::PathBuf {
    let file = std::env::temp_dir().join(format!("flannel-core-engine-{}", std::process::id()));
    std::fs::write(&file, "").unwrap();
    file
}

/// A store whose watch never falls silent.
struct Flooding {
    client: FakeStoreClient,
    floods: AtomicU64,
    /// Not even for as long as it takes to make an event.
    at_all_times: bool,
}

#[async_trait]
impl SubnetStore for Flooding {
    async fn watch(&self) -> Result<BoxStream<'static, StoreEvent>, StoreError> {
        self.floods.fetch_add(1, Ordering::Relaxed);
        if self.at_all_times {
            let free = "10.5.9.0/24".parse().unwrap();
            return Ok(stream::repeat(StoreEvent::Delete(free)).boxed());
        }
        let (sender, receiver) = mpsc::channel(1024);
        tokio::spawn(async move {
            let address = |number: u64| IpAddr::from([192, 0, 2, 10 + (number % 2) as u8]);
            let mut number = 0;
            loop {
                number += 1;
                let attrs = LeaseAttrs {
                    public: PerFamily {
                        v4: Some(address(number)),
                        v6: None,
                    },
                    backend: "host-gw".to_owned(),
                    ..LeaseAttrs::default()
                };
                let lease = Lease::new("10.5.9.0/24".parse().unwrap(), attrs);
                if sender.send(StoreEvent::Put(lease)).await.is_err() {
                    return;
                }
            }
        });
        let flood = stream::unfold(receiver, |mut receiver| async {
            let event = receiver.recv().await?;
            Some((event, receiver))
        });
        let events = self.client.watch().await?.take(2);
        Ok(events.chain(flood).boxed())
    }

    async fn claim(
        &self,
        subnet: SubnetKey,
        seen: Option<&Lease>,
        attrs: &LeaseAttrs,
    ) -> Result<Lease, StoreError> {
        self.client.claim(subnet, seen, attrs).await
    }

    async fn keep(&self, own: &Lease, attrs: &LeaseAttrs) -> Result<Lease, StoreError> {
        self.client.keep(own, attrs).await
    }

    async fn release(&self, own: &Lease) -> Result<(), StoreError> {
        self.client.release(own).await
    }
}

#[tokio::test]
async fn a_flood_of_leases_starves_neither_renewal_nor_shutdown() {
    let store = FakeStore::new(Duration::from_millis(900));
    store.put_config(Some(CONFIG));
    let flooding = Arc::new(Flooding {
        client: store.client(),
        floods: AtomicU64::new(0),
        at_all_times: false,
    });
    let backends: Vec<Box<dyn Backend>> = vec![Box::new(PlainRoutes)];
    let engine = Engine::new(
        flooding.clone(),
        Arc::new(kernel()),
        backends,
        Options::new(NodeId(1)),
    );
    let handle = engine.handle();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let engine = tokio::spawn(engine.run(async move { drop(stopped.await) }));
    let mut leased = pin!(handle.wait_for(|status| status.lease.is_some()));
    leased.as_mut().await.unwrap();
    sleep(Duration::from_secs(3)).await;
    assert!(store.renewals() >= 3, "{} renewals", store.renewals());
    assert_eq!(store.handovers().len(), 1, "{:?}", store.handovers());
    assert_eq!(flooding.floods.load(Ordering::Relaxed), 1);
    stop.send(()).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(3), engine).await;
    ended.unwrap().unwrap().unwrap();
}

/// A runtime for one thread.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
}

#[test]
fn questions_are_answered_though_there_is_an_event_at_all_times() {
    let flooding = Arc::new(Flooding {
        client: FakeStore::new(Duration::from_secs(60)).client(),
        floods: AtomicU64::new(0),
        at_all_times: true,
    });
    let engine = Engine::new(flooding, Arc::new(kernel()), Vec::new(), Options::new(NodeId(1)));
    let handle = engine.handle();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    // The engine lets nobody else run in its own thread.
    let asker = std::thread::spawn(move || {
        let answers = async {
            let asked = || tokio::time::timeout(Duration::from_secs(10), handle.is_alive());
            for _ in 0..10 {
                assert_eq!(asked().await, Ok(true));
            }
        };
        runtime().block_on(answers);
        drop(stop);
    });
    runtime()
        .block_on(engine.run(async { drop(stopped.await) }))
        .unwrap();
    asker.join().unwrap();
}
