//! What an engine says of itself while things go wrong, and when.
#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use flannel_core::testing::{
    Cut, FakeKernel, FakeStore, FakeStoreClient, Operator, PlainRoutes, SILENT_AFTER,
};
use flannel_core::{
    Applied, Backend, Changed, Engine, EngineHandle, HostFacts, HostSource, KernelError, NodeId, Object, Op,
    OpErrorKind, Options, PeerState, Readiness, Reason, Route, RouteProgrammer, Scope, Status, StoreContact,
};
use futures_core::stream::BoxStream;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

const CONFIG: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#;

/// Ends when nothing else happens: what recurs does so after whole seconds.
const TTL: Duration = Duration::from_millis(61_700);

/// Time for a clock that only moves when everybody waits: what is due is done by then.
const MOMENT: Duration = Duration::from_millis(2);

/// A kernel that can be made to hang: it does what it is asked, and never says so.
struct Hanging {
    kernel: FakeKernel,
    hangs: AtomicBool,
    healed: watch::Sender<()>,
}

impl Hanging {
    fn hang(&self) {
        self.hangs.store(true, Ordering::Relaxed);
    }

    fn heal(&self) {
        self.hangs.store(false, Ordering::Relaxed);
        self.healed.send_replace(());
    }

    async fn wait(&self) {
        let mut healed = self.healed.subscribe();
        while self.hangs.load(Ordering::Relaxed) {
            healed.changed().await.unwrap();
        }
    }
}

#[async_trait]
impl RouteProgrammer for Hanging {
    async fn dump(&self, scope: &Scope) -> Result<Vec<Object>, KernelError> {
        self.wait().await;
        self.kernel.dump(scope).await
    }

    async fn apply(&self, plan: &[Op]) -> Result<Applied, KernelError> {
        self.wait().await;
        self.kernel.apply(plan).await
    }

    fn watch(&self, scope: &Scope) -> Result<BoxStream<'static, Changed>, KernelError> {
        self.kernel.watch(scope)
    }
}

#[async_trait]
impl HostSource for Hanging {
    async fn facts(&self, reach: &[IpAddr]) -> Result<HostFacts, KernelError> {
        self.kernel.facts(reach).await
    }
}

/// One engine, and everything that it depends on.
struct Fixture {
    store: FakeStore,
    client: FakeStoreClient,
    kernel: Arc<Hanging>,
    engine: EngineHandle,
}

impl Fixture {
    fn new(options: Options) -> Self {
        let store = FakeStore::new(TTL);
        let client = store.client();
        let kernel = Arc::new(Hanging {
            kernel: FakeKernel::host("eth0", &["192.0.2.1/24"], &["192.0.2.254"]),
            hangs: AtomicBool::new(false),
            healed: watch::Sender::new(()),
        });
        let backends: Vec<Box<dyn Backend>> = vec![Box::new(PlainRoutes)];
        let engine = Engine::new(Arc::new(client.clone()), kernel.clone(), backends, options);
        let handle = engine.handle();
        tokio::spawn(engine.run(std::future::pending()));
        Self {
            store,
            client,
            kernel,
            engine: handle,
        }
    }

    /// With a config and three peers, and as it ought to be.
    async fn ready() -> Self {
        let fixture = Self::new(Options::new(NodeId(1)));
        fixture.store.put_config(Some(CONFIG));
        (7..=9).for_each(|peer| fixture.put_peer(peer));
        fixture
            .becomes(Readiness::Ready, |status| status.peers.installed == 3)
            .await;
        fixture
    }

    fn put_peer(&self, number: u8) {
        self.store.put_raw(
            &format!("10.5.{number}.0-24"),
            &format!(r#"{{"PublicIP":"192.0.2.{number}","BackendType":"host-gw"}}"#),
        );
    }

    /// Waits until the engine says so by itself.
    async fn becomes(&self, readiness: Readiness, also: impl Fn(&Status) -> bool + Send) -> Arc<Status> {
        let asked = move |status: &Status| status.readiness() == readiness && also(status);
        match timeout(Duration::from_secs(120), self.engine.wait_for(asked)).await {
            Ok(status) => status.unwrap(),
            Err(_) => panic!("not {readiness:?}, but {:#?}", self.engine.status()),
        }
    }

    fn kinds(&self) -> Vec<&'static str> {
        self.engine.status().reasons.iter().map(Reason::kind).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn before_anything_is_known_it_is_not_ready_and_there_is_a_reason() {
    let fixture = Fixture::new(Options::new(NodeId(1)));
    assert_eq!(fixture.engine.status().readiness(), Readiness::NotReady);
    assert_eq!(fixture.kinds(), ["snapshot"]);
    sleep(MOMENT).await;
    assert!(fixture.kinds().contains(&"config"), "{:?}", fixture.kinds());
    assert_eq!(fixture.engine.status().readiness(), Readiness::NotReady);
}

#[tokio::test(start_paused = true)]
async fn at_every_moment_of_a_start_that_is_not_ready_there_is_a_reason_that_says_why() {
    let fixture = Fixture::new(Options::new(NodeId(1)));
    fixture.store.set_latency(Duration::from_millis(300), 3);
    fixture.kernel.kernel.set_latency(Duration::from_millis(300), 5);
    let mut statuses = pin!(fixture.engine.statuses());
    fixture.store.put_config(Some(CONFIG));
    fixture.put_peer(7);
    let mut seen = Vec::new();
    loop {
        let status = statuses.next().await.unwrap();
        seen.extend(status.reasons.iter().map(Reason::kind));
        if status.is_ready() && status.peers.installed == 1 {
            break;
        }
        assert!(
            status.is_ready() || status.reasons.iter().any(Reason::is_blocking),
            "{status:#?}"
        );
    }
    for kind in ["snapshot", "lease", "kernel"] {
        assert!(seen.contains(&kind), "{kind} is not among {seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_the_clock_alone_ends_makes_it_not_ready_at_that_moment() {
    let fixture = Fixture::ready().await;
    fixture.client.cut(Cut::Hangs);
    let expires = fixture.engine.status().lease.unwrap().expires.unwrap();
    let status = fixture.becomes(Readiness::NotReady, |_| true).await;
    let late = Instant::now().saturating_duration_since(expires);
    assert!(Instant::now() >= expires && late <= MOMENT, "{late:?} late");
    assert!(
        matches!(&status.reasons[..], [Reason::Lease(text), Reason::Store(_)] if text.contains("expired")),
        "{:?}",
        status.reasons
    );
    fixture.client.heal();
    fixture
        .becomes(Readiness::Ready, |status| status.reasons.is_empty())
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_falls_silent_degrades_it_and_how_long_ago_is_known() {
    let fixture = Fixture::ready().await;
    assert_eq!(fixture.engine.status().store, StoreContact::Now);
    // Hours without an event are nothing to worry about.
    sleep(Duration::from_secs(3 * 3600)).await;
    assert_eq!(fixture.engine.status().store, StoreContact::Now);
    let cut = Instant::now();
    fixture.client.cut(Cut::Hangs);
    let status = fixture.becomes(Readiness::Degraded, |_| true).await;
    assert!(
        matches!(&status.reasons[..], [Reason::Store(_)]),
        "{:?}",
        status.reasons
    );
    sleep(Duration::from_secs(5)).await;
    let status = fixture
        .becomes(Readiness::Degraded, |status| status.store != StoreContact::Now)
        .await;
    let silence = status.store.silence(Instant::now()).unwrap();
    let cut_for = cut.elapsed();
    assert!(
        silence <= cut_for + SILENT_AFTER && silence + SILENT_AFTER >= cut_for,
        "{silence:?} of {cut_for:?}"
    );
    fixture.client.heal();
    let status = fixture.becomes(Readiness::Ready, |_| true).await;
    assert_eq!(status.store, StoreContact::Now);
}

#[tokio::test(start_paused = true)]
async fn a_kernel_that_hangs_in_a_look_or_in_a_change_makes_it_not_ready_after_2_s() {
    for in_a_change in [false, true] {
        let fixture = Fixture::ready().await;
        sleep(Duration::from_millis(100)).await;
        let begin = Instant::now();
        fixture.kernel.hang();
        if in_a_change {
            fixture.put_peer(10);
        } else {
            fixture.engine.audit();
        }
        sleep(Duration::from_millis(1900)).await;
        assert_eq!(fixture.engine.status().readiness(), Readiness::Ready);
        let status = fixture.becomes(Readiness::NotReady, |_| true).await;
        let took = begin.elapsed();
        assert!(
            took >= Duration::from_secs(2) && took <= Duration::from_millis(2600),
            "{took:?}"
        );
        assert!(
            matches!(&status.reasons[..], [Reason::Kernel(_)]),
            "{:?}",
            status.reasons
        );
        // Past every deadline: that it is given up and tried again makes nothing better.
        for _ in 0..100 {
            sleep(Duration::from_secs(1)).await;
            assert_eq!(fixture.engine.status().readiness(), Readiness::NotReady);
        }
        fixture.kernel.heal();
        fixture
            .becomes(Readiness::Ready, |status| status.reasons.is_empty())
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_kernel_that_fails_to_answer_for_a_moment_is_nothing_and_for_2_s_it_is() {
    let fixture = Fixture::ready().await;
    let mut statuses = pin!(fixture.engine.statuses());
    statuses.next().await.unwrap();
    // 100 ms, 200 ms and 400 ms later it is asked again.
    fixture.kernel.kernel.fail_dumps(3);
    fixture.engine.audit();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(fixture.engine.status().readiness(), Readiness::Ready);
    fixture.kernel.kernel.fail_dumps(u32::MAX);
    fixture.engine.audit();
    let begin = Instant::now();
    let status = fixture.becomes(Readiness::NotReady, |_| true).await;
    let took = begin.elapsed();
    assert!(
        took >= Duration::from_secs(2) && took <= Duration::from_millis(2600),
        "{took:?}"
    );
    assert!(
        matches!(&status.reasons[..], [Reason::Kernel(_)]),
        "{:?}",
        status.reasons
    );
    fixture.kernel.kernel.fail_dumps(0);
    fixture.becomes(Readiness::Ready, |_| true).await;
}

#[tokio::test(start_paused = true)]
async fn peers_that_come_and_go_without_end_are_no_kernel_that_lags_behind() {
    let fixture = Fixture::ready().await;
    fixture.kernel.kernel.set_latency(Duration::from_millis(400), 7);
    for change in 0..1000u32 {
        let number = 20 + (change % 200) as u8;
        if change % 400 < 200 {
            fixture.put_peer(number);
        } else {
            fixture.store.delete_raw(&format!("10.5.{number}.0-24"));
        }
        sleep(Duration::from_millis(20)).await;
        let status = fixture.engine.status();
        assert_eq!(status.readiness(), Readiness::Ready, "{:?}", status.reasons);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_fails_degrades_it_and_all_of_them_make_it_not_ready() {
    let fixture = Fixture::ready().await;
    let kernel = &fixture.kernel.kernel;
    kernel.fail(
        "10.5.10.0/24".parse().unwrap(),
        OpErrorKind::Unreachable,
        u32::MAX,
    );
    fixture.put_peer(10);
    let status = fixture.becomes(Readiness::Degraded, |_| true).await;
    assert!(
        matches!(
            &status.reasons[..],
            [Reason::Routes {
                failed: 1,
                desired: 4,
                ..
            }]
        ),
        "{:?}",
        status.reasons
    );
    // However long that lasts: it is one peer.
    for _ in 0..100 {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(fixture.engine.status().readiness(), Readiness::Degraded);
    }
    kernel.fail("10.5.0.0/16".parse().unwrap(), OpErrorKind::Unreachable, u32::MAX);
    kernel.flush();
    let status = fixture
        .becomes(Readiness::NotReady, |status| status.peers.failed == 4)
        .await;
    assert!(
        matches!(
            &status.reasons[..],
            [Reason::Routes {
                failed: 4,
                desired: 4,
                ..
            }]
        ),
        "{:?}",
        status.reasons
    );
    kernel.stop_failing();
    fixture
        .becomes(Readiness::Ready, |status| status.reasons.is_empty())
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_an_operator_has_put_in_the_way_degrades_it_until_it_is_gone() {
    let fixture = Fixture::ready().await;
    let hop = flannel_core::Hop::via("192.0.2.99".parse().unwrap(), "eth0".parse().unwrap());
    let theirs = Route::unicast("10.5.200.0/24".parse().unwrap(), hop, 4);
    fixture
        .kernel
        .kernel
        .operator(Operator::Add(theirs.clone()))
        .unwrap();
    let status = fixture.becomes(Readiness::Degraded, |_| true).await;
    assert!(
        matches!(&status.reasons[..], [Reason::Conflicts { count: 1, first }] if first.contains("10.5.200.0/24")),
        "{:?}",
        status.reasons
    );
    fixture.kernel.kernel.operator(Operator::Delete(theirs)).unwrap();
    fixture.becomes(Readiness::Ready, |_| true).await;
}

/// A directory that goes when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("flannel-core-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn it_is_not_ready_before_subnet_env_is_written_nor_when_it_cannot_be_any_longer() {
    let scratch = Scratch::new("readiness");
    let directory = scratch.0.join("run");
    // A file where there ought to be a directory.
    std::fs::write(&directory, "").unwrap();
    let options = Options {
        subnet_env: Some(directory.join("subnet.env")),
        ..Options::new(NodeId(1))
    };
    let fixture = Fixture::new(options);
    fixture.store.put_config(Some(CONFIG));
    let only_env =
        |status: &Status| matches!(&status.reasons[..], [Reason::SubnetEnv(text)] if text.contains("run"));
    fixture.becomes(Readiness::NotReady, only_env).await;
    std::fs::remove_file(&directory).unwrap();
    fixture
        .becomes(Readiness::Ready, |status| status.reasons.is_empty())
        .await;
    assert!(directory.join("subnet.env").exists());
}

#[tokio::test(start_paused = true)]
async fn every_peer_is_listed_with_its_state_and_those_in_trouble_first_to_be_taken_in() {
    let fixture = Fixture::ready().await;
    let kernel = &fixture.kernel.kernel;
    kernel.fail(
        "10.5.10.0/24".parse().unwrap(),
        OpErrorKind::Unreachable,
        u32::MAX,
    );
    fixture.put_peer(10);
    // Our own address.
    fixture.store.put_raw(
        "10.5.11.0-24",
        r#"{"PublicIP":"192.0.2.1","BackendType":"host-gw"}"#,
    );
    fixture.store.put_raw(
        "10.5.12.0-24",
        r#"{"PublicIP":"192.0.2.12","BackendType":"vxlan"}"#,
    );
    fixture
        .becomes(Readiness::Degraded, |status| status.peers.refused == 1)
        .await;
    let rows = |list: &flannel_core::PeerList| -> Vec<(String, &'static str)> {
        let row = |row: &flannel_core::PeerStatus| (row.subnet.to_string(), row.state.name());
        list.rows.iter().map(row).collect()
    };
    let all = fixture.engine.peers(100).await.unwrap();
    let expected = [
        (7, "installed"),
        (8, "installed"),
        (9, "installed"),
        (10, "failed"),
        (11, "refused"),
        (12, "elsewhere"),
    ];
    let named = expected.map(|(number, state)| (format!("10.5.{number}.0/24"), state));
    assert_eq!(rows(&all), named);
    assert_eq!(all.total, 6);
    assert_eq!(all.rows[0].public.v4, Some("192.0.2.7".parse().unwrap()));
    let PeerState::Failed(why) = &all.rows[3].state else {
        panic!("{:?}", all.rows[3]);
    };
    assert!(!why.is_empty());
    assert_eq!(all.rows[5].state, PeerState::Elsewhere("vxlan".to_owned()));

    let few = fixture.engine.peers(4).await.unwrap();
    assert_eq!(rows(&few), [&named[..1], &named[3..]].concat());
    assert_eq!(few.total, 6);
}

#[tokio::test(start_paused = true)]
async fn the_counters_tell_what_has_been_done() {
    let fixture = Fixture::ready().await;
    let before = fixture.engine.status().counters;
    assert_eq!((before.snapshots, before.repairs.total()), (1, 0));
    assert!(before.applying.count() >= 1);
    assert_eq!(before.applying.count(), before.planning.count());

    let routes = fixture.kernel.kernel.routes();
    let ours = |route: &&Route| route.protocol == flannel_core::DEFAULT_PROTOCOL;
    let ours: Vec<Route> = routes.iter().filter(ours).cloned().collect();
    let [first, second, _] = &ours[..] else {
        panic!("{ours:?}")
    };
    let kernel = &fixture.kernel.kernel;
    kernel.operator(Operator::Delete(first.clone())).unwrap();
    let mut bent = second.clone();
    bent.hops = first.hops.clone();
    kernel.operator(Operator::Replace(bent)).unwrap();
    let mut stray = first.clone();
    stray.id.destination = "10.5.99.0/24".parse().unwrap();
    kernel.stray(stray);
    sleep(Duration::from_secs(2)).await;
    let repairs = fixture.engine.status().counters.repairs;
    assert_eq!((repairs.restored, repairs.corrected, repairs.removed), (1, 1, 1));

    fixture.client.cut(Cut::Refuses);
    sleep(Duration::from_secs(20)).await;
    fixture.store.compact();
    fixture.client.heal();
    fixture
        .becomes(Readiness::Ready, |status| status.counters.snapshots == 2)
        .await;
}

#[tokio::test(start_paused = true)]
async fn while_nothing_happens_there_is_nothing_new_but_the_renewal_of_the_lease() {
    let fixture = Fixture::ready().await;
    sleep(Duration::from_secs(1)).await;
    let mut statuses = pin!(fixture.engine.statuses());
    let mut last = statuses.next().await.unwrap();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(600) {
        let Ok(status) = timeout(Duration::from_secs(600), statuses.next()).await else {
            break;
        };
        let status = status.unwrap();
        assert_ne!(status.lease, last.lease, "{status:#?} after {last:#?}");
        assert_eq!((&status.counters, &status.store), (&last.counters, &last.store));
        last = status;
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_answers_while_it_runs_and_nobody_waits_for_one_that_has_ended() {
    let store = FakeStore::new(TTL);
    let kernel = Arc::new(FakeKernel::host("eth0", &["192.0.2.1/24"], &["192.0.2.254"]));
    let engine = Engine::new(
        Arc::new(store.client()),
        kernel,
        Vec::new(),
        Options::new(NodeId(1)),
    );
    let handle = engine.handle();
    let asked = timeout(Duration::from_secs(1), handle.is_alive()).await;
    assert!(asked.is_err(), "it does not run yet");
    let running = tokio::spawn(engine.run(std::future::pending()));
    assert!(handle.is_alive().await);
    assert_eq!(handle.peers(10).await, Some(flannel_core::PeerList::default()));
    running.abort();
    assert!(running.await.is_err());
    assert!(!handle.is_alive().await);
    assert_eq!(handle.peers(10).await, None);
}
