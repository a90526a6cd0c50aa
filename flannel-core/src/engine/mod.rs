//! The loop that keeps the kernel equal to the leases.
//!
//! [`World`](world::World) knows everything and decides everything, without I/O; this file carries
//! its wishes out and brings it the answers.

mod checks;
mod contest;
mod contested;
mod displaced;
mod files;
mod handle;
mod options;
mod pace;
mod pass_log;
mod peers;
mod reasons;
mod reconciler;
mod registrar;
mod rules;
mod surroundings;
mod world;

use std::future::{Future, pending};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

pub use handle::EngineHandle;
pub use options::Options;

use crate::{
    Applied, Backend, Changed, Firewall, FirewallError, HostFacts, HostSource, Kept, KernelError, Lease,
    Object, Plan, PodNetwork, Reason, RouteProgrammer, Scope, Status, StoreError, StoreEvent, SubnetStore,
};
use files::Files;
use handle::Question;
use pace::Backoff;
use reconciler::Work;
use registrar::Request;
use world::World;

/// Every request to the store is given up after this.
const STORE_DEADLINE: Duration = Duration::from_secs(10);

/// Every request to the kernel is given up after this.
const KERNEL_DEADLINE: Duration = Duration::from_secs(30);

/// The packet filter's rules are given up after this; it takes several programs to look at them.
const FIREWALL_DEADLINE: Duration = Duration::from_secs(60);

/// Events that are taken in before conclusions are drawn.
const EVENTS_PER_PASS: usize = 4096;

/// Questions that wait; who asks one more waits before.
const QUESTIONS: usize = 16;

/// One host's part in one network: takes a lease, and keeps the kernel equal to what the other
/// hosts' leases ask for.
///
/// Several engines can live in one process. Nothing is global; dropping the future of
/// [`Engine::run`] stops everything, and leaves the kernel's state in place.
///
/// ```
/// # async fn example(
/// #     store: std::sync::Arc<dyn flannel_core::SubnetStore>,
/// #     kernel: std::sync::Arc<flannel_core::testing::FakeKernel>,
/// #     backend: Box<dyn flannel_core::Backend>,
/// # ) -> Result<(), flannel_core::StoreError> {
/// use flannel_core::{Engine, NodeId, Options};
///
/// let engine = Engine::new(store, kernel, vec![backend], Options::new(NodeId(7)));
/// let handle = engine.handle();
/// engine.run(std::future::pending()).await?;
/// assert!(handle.status().is_ready());
/// # Ok(()) }
/// ```
pub struct Engine {
    store: Arc<dyn SubnetStore>,
    programmer: Arc<dyn RouteProgrammer>,
    host: Arc<dyn HostSource>,
    world: World,
    files: Files,
    status: watch::Sender<Arc<Status>>,
    audit: Arc<Notify>,
    // Held, so that there is always somebody who may ask.
    ask: mpsc::Sender<Question>,
    questions: mpsc::Receiver<Question>,
}

impl Engine {
    /// An engine over a store, a kernel and the backends that the network config can name.
    pub fn new<K: RouteProgrammer + HostSource + 'static>(
        store: Arc<dyn SubnetStore>,
        kernel: Arc<K>,
        backends: Vec<Box<dyn Backend>>,
        options: Options,
    ) -> Self {
        let files = Files::new(&options);
        let world = World::new(options, backends, &*store);
        let status = watch::Sender::new(Arc::new(Status {
            reasons: vec![Reason::NoSnapshot],
            ..Status::default()
        }));
        let audit = Arc::new(Notify::new());
        let (ask, questions) = mpsc::channel(QUESTIONS);
        Self {
            store,
            programmer: kernel.clone(),
            host: kernel,
            world,
            files,
            status,
            audit,
            ask,
            questions,
        }
    }

    /// Has the rules kept that pods need in the packet filter.
    #[must_use]
    pub fn with_firewall(mut self, firewall: Arc<dyn Firewall>) -> Self {
        self.world.guard(firewall);
        self
    }

    /// Looks at the engine from elsewhere.
    #[must_use]
    pub fn handle(&self) -> EngineHandle {
        EngineHandle {
            status: self.status.subscribe(),
            audit: self.audit.clone(),
            ask: self.ask.clone(),
        }
    }

    /// Runs until `shutdown` completes. What can heal by itself is waited for. The data plane stays
    /// as it is at the end: pods keep talking.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unusable`], when the store can never work as it is set up.
    pub async fn run(mut self, shutdown: impl Future<Output = ()> + Send) -> Result<(), StoreError> {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut io = Io::default();
        loop {
            let now = Instant::now();
            self.ask(&mut io, now);
            self.world.conclude(now);
            self.start(&mut io, now);
            self.tell(now);
            // One in each turn: who asks without end is answered, and holds nothing up.
            if let Ok(question) = self.questions.try_recv() {
                self.reply(question);
            }
            let wake = self.wake(&io);
            // Renewal and shutdown come before events, so that a flood cannot starve them.
            tokio::select! {
                biased;
                () = &mut shutdown => return Ok(()),
                (request, answer) = answer(&mut io.request) => {
                    self.world.answered(&request, answer, Instant::now());
                }
                () = until(wake) => {}
                (result, started) = answer(&mut io.look) => self.world.looked(result, started, Instant::now()),
                done = answer(&mut io.work) => match done {
                    Done::Dumped(result, started) => {
                        self.files.doubt();
                        self.world.dumped(result, started, Instant::now());
                    }
                    Done::Applied(plan, result) => self.world.applied(&plan, result, Instant::now()),
                },
                (pods, result, started) = answer(&mut io.rules) => {
                    self.world.ruled(pods, result, started, Instant::now());
                }
                () = self.files.written() => {
                    if let Some(territory) = self.files.territory() {
                        self.world.remembered(territory);
                    }
                    let (env, state) = self.files.problems();
                    self.world.files(env, state);
                }
                () = self.audit.notified() => self.world.audit(),
                watched = answer(&mut io.watch) => match watched {
                    Ok(events) => io.store_events = Some(events.fuse().boxed()),
                    Err(error @ StoreError::Unusable { .. }) => return Err(error),
                    Err(error) => {
                        self.world.store_failed(&error, Instant::now());
                        io.watch_again = Some(Instant::now() + io.watch_backoff.next_delay());
                    }
                },
                event = next(&mut io.kernel_events) => match event {
                    None => {
                        io.kernel_events = None;
                        io.kernel_again = Some(Instant::now() + io.kernel_backoff.next_delay());
                    }
                    Some(event) => {
                        self.world.changed(event);
                        for event in ready(&mut io.kernel_events) {
                            self.world.changed(event);
                        }
                        // Leases are heard of even while the kernel never falls silent.
                        let now = Instant::now();
                        for event in ready(&mut io.store_events) {
                            self.world.store_event(event, now);
                        }
                    }
                },
                event = next(&mut io.store_events) => match event {
                    None => {
                        io.store_events = None;
                        io.watch_again = Some(Instant::now() + io.watch_backoff.next_delay());
                    }
                    Some(event) => {
                        io.watch_backoff = Backoff::default();
                        let now = Instant::now();
                        self.world.store_event(event, now);
                        for event in ready(&mut io.store_events) {
                            self.world.store_event(event, now);
                        }
                    }
                },
                Some(question) = self.questions.recv() => self.reply(question),
            }
        }
    }

    fn reply(&self, question: Question) {
        match question {
            Question::Peers(limit, answer) => drop(answer.send(self.world.peer_list(limit))),
            Question::Alive(answer) => drop(answer.send(())),
        }
    }

    /// Asks the store for whatever is to be asked. What can be decided without it is decided here.
    fn ask(&mut self, io: &mut Io, now: Instant) {
        if let Some(request) = self.world.next_request(now) {
            let store = self.store.clone();
            io.request = Some(async move { (request.clone(), ask(&*store, &request).await) }.boxed());
        }
    }

    /// Starts whatever else is to be done and is not being done yet.
    fn start(&mut self, io: &mut Io, now: Instant) {
        if io.store_events.is_none() && io.watch.is_none() && io.watch_again.is_none_or(|at| now >= at) {
            let store = self.store.clone();
            io.watch_again = None;
            io.watch = Some(async move { in_time(store.watch()).await }.boxed());
        }
        self.watch_kernel(io, now);
        if let Some(reach) = self.world.next_look(now) {
            let host = self.host.clone();
            io.look = Some(
                async move {
                    let facts = timeout(KERNEL_DEADLINE, host.facts(&reach)).await;
                    (facts.unwrap_or_else(|_| Err(late("look at the host"))), now)
                }
                .boxed(),
            );
        }
        if let Some((firewall, pods)) = self.world.next_rules(now) {
            io.rules = Some(
                async move {
                    let kept = timeout(FIREWALL_DEADLINE, firewall.keep(&pods)).await;
                    let kept = kept.unwrap_or_else(|_| {
                        Err(FirewallError::Deadline {
                            command: "keeping the packet filter's rules".to_owned(),
                            deadline: FIREWALL_DEADLINE,
                        })
                    });
                    (pods, kept, now)
                }
                .boxed(),
            );
        }
        self.files
            .start(self.world.subnet_env(), self.world.territory(), now);
        if let Some(work) = self.world.next_work(now) {
            let scope = self.world.scope().cloned().unwrap_or_default();
            io.work = Some(carry_out(self.programmer.clone(), scope, work, now).boxed());
        }
    }

    /// Watches the kernel where the network is; the watch comes before the first dump.
    fn watch_kernel(&mut self, io: &mut Io, now: Instant) {
        let Some(scope) = self.world.scope() else { return };
        if io.kernel_events.is_some() && io.kernel_scope.as_ref() == Some(scope) {
            io.kernel_again = None;
            return;
        }
        if io.kernel_again.is_some_and(|at| now < at) {
            return;
        }
        let scope = scope.clone();
        match self.programmer.watch(&scope) {
            Ok(events) => {
                io.kernel_events = Some(events.fuse().boxed());
                io.kernel_scope = Some(scope);
                io.kernel_again = None;
                io.kernel_backoff = Backoff::default();
                self.world.watching(None);
            }
            Err(error) => {
                io.kernel_again = Some(now + io.kernel_backoff.next_delay());
                self.world.watching(Some(error.to_string()));
            }
        }
        self.world.audit();
    }

    fn wake(&self, io: &Io) -> Option<Instant> {
        let watch = io.watch_again.filter(|_| io.watch.is_none());
        [self.world.wake(), watch, io.kernel_again, self.files.wake()]
            .into_iter()
            .flatten()
            .min()
    }

    fn tell(&mut self, now: Instant) {
        let written = self.files.env_says(self.world.subnet_env().as_ref());
        let status = self.world.status(written, now);
        self.status.send_if_modified(|told| {
            let news = **told != status;
            if news {
                *told = Arc::new(status);
            }
            news
        });
    }
}

/// What is under way: at most one thing of each kind.
#[derive(Default)]
struct Io {
    watch: Slot<Result<BoxStream<'static, StoreEvent>, StoreError>>,
    watch_again: Option<Instant>,
    watch_backoff: Backoff,
    store_events: Option<BoxStream<'static, StoreEvent>>,
    kernel_events: Option<BoxStream<'static, Changed>>,
    kernel_scope: Option<Scope>,
    kernel_again: Option<Instant>,
    kernel_backoff: Backoff,
    request: Slot<(Request, Result<Option<Lease>, StoreError>)>,
    look: Slot<(Result<HostFacts, KernelError>, Instant)>,
    rules: Slot<(PodNetwork, Result<Kept, FirewallError>, Instant)>,
    work: Slot<Done>,
}

type Slot<T> = Option<BoxFuture<'static, T>>;

enum Done {
    Dumped(Result<Vec<Object>, KernelError>, Instant),
    Applied(Plan, Result<Applied, KernelError>),
}

async fn ask(store: &dyn SubnetStore, request: &Request) -> Result<Option<Lease>, StoreError> {
    match request {
        Request::Claim { subnet, seen, attrs } => in_time(store.claim(*subnet, seen.as_ref(), attrs))
            .await
            .map(Some),
        Request::Keep { own, attrs } => in_time(store.keep(own, attrs)).await.map(Some),
        Request::Release(lease) => in_time(store.release(lease)).await.map(|()| None),
    }
}

async fn in_time<T>(request: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    timeout(STORE_DEADLINE, request).await.unwrap_or_else(|_| {
        let source = format!("no answer within {STORE_DEADLINE:?}").into();
        Err(StoreError::Unavailable {
            doing: "reach the store".to_owned(),
            source,
        })
    })
}

async fn carry_out(programmer: Arc<dyn RouteProgrammer>, scope: Scope, work: Work, started: Instant) -> Done {
    match work {
        Work::Dump => {
            let dumped = timeout(KERNEL_DEADLINE, programmer.dump(&scope)).await;
            Done::Dumped(dumped.unwrap_or_else(|_| Err(late("list the routes"))), started)
        }
        Work::Apply(plan) => {
            let applied = timeout(KERNEL_DEADLINE, programmer.apply(&plan)).await;
            let applied = applied.unwrap_or_else(|_| Err(late("change the routes")));
            Done::Applied(plan, applied)
        }
    }
}

const fn late(doing: &'static str) -> KernelError {
    KernelError::Deadline {
        doing,
        deadline: KERNEL_DEADLINE,
    }
}

/// Completes when what is under way does; never when nothing is.
async fn answer<T>(slot: &mut Slot<T>) -> T {
    let Some(future) = slot else {
        return pending().await;
    };
    let answer = future.await;
    *slot = None;
    answer
}

async fn next<T>(stream: &mut Option<BoxStream<'static, T>>) -> Option<T> {
    match stream {
        Some(stream) => stream.next().await,
        None => pending().await,
    }
}

/// What else is there already, within limits.
fn ready<T>(stream: &mut Option<BoxStream<'static, T>>) -> impl Iterator<Item = T> {
    let events = std::iter::from_fn(|| stream.as_mut()?.next().now_or_never().flatten());
    events.take(EVENTS_PER_PASS)
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// Addresses that the uplink rules ask the kernel about.
impl crate::UplinkOptions {
    pub(crate) fn reach(&self) -> Vec<IpAddr> {
        let reach = self.rules.iter().filter_map(|rule| match rule {
            crate::UplinkRule::CanReach(address) => Some(*address),
            _ => None,
        });
        reach.collect()
    }
}
