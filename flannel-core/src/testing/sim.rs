//! A whole network on one thread: many engines over one [`FakeStore`] and a [`FakeKernel`] each,
//! with faults drawn by a seed, on tokio's paused clock.
//!
//! What must always hold is checked after every step, and what must hold at rest when all faults
//! are healed. A failure prints the seed; `SIM_SEED=… cargo test sim` replays it.

mod backend;
mod checks;
mod devices;
mod families;
mod faults;
mod plain_routes;
mod removals;
mod watched;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use self::backend::Planning;
pub use self::backend::SimBackend;
pub use self::families::SimFamilies;
use self::families::{ENLARGED, NETWORKS};
pub use self::plain_routes::PlainRoutes;
use self::removals::Values;
use self::watched::Watched;
use super::{Failure, FakeKernel, FakeStore, FakeStoreClient, Holder};
use crate::{
    DEFAULT_PROTOCOL, DeviceName, Engine, EngineHandle, Family, LeaseAttrs, NodeId, Options, PerFamily,
    Route, StoreError, SubnetKey,
};

/// How long a lease of the simulation lives.
pub const TTL: Duration = Duration::from_secs(120);

/// By then everything is as it ought to be, once all faults are healed: a lease that nobody renews
/// has expired, what a wiped store forgot is let go, and the longest backoff is over.
const AT_REST: Duration = Duration::from_secs(600);

/// One host of a [`Sim`].
pub struct SimHost {
    /// Its kernel, which outlives its engine.
    pub kernel: FakeKernel,
    /// Its connection to the store.
    pub client: FakeStoreClient,
    /// Every id that it ever had; the last is its own.
    nodes: Vec<NodeId>,
    /// What its `subnet.env` would say.
    previous: Option<SubnetKey>,
    /// What its state directory would remember.
    former: Vec<IpNet>,
    former_devices: Vec<DeviceName>,
    address: u32,
    has_uplink: bool,
    /// What an operator has put into its kernel, and when.
    statics: Vec<(Instant, Route)>,
    /// How much of its kernel's log has been checked.
    checked: usize,
    running: Option<Running>,
}

struct Running {
    handle: EngineHandle,
    watched: Watched,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), StoreError>>,
}

impl SimHost {
    /// Its engine, while it runs.
    #[must_use]
    pub fn engine(&self) -> Option<&EngineHandle> {
        self.running.as_ref().map(|running| &running.handle)
    }

    /// How often its engine has looked for something to do since it was started.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.running.as_ref().map_or(0, |running| running.watched.turns())
    }

    fn node(&self) -> NodeId {
        *self.nodes.last().expect("an id")
    }

    /// The routes that carry our mark.
    #[must_use]
    pub fn our_routes(&self) -> BTreeSet<String> {
        let ours = |route: &Route| route.protocol == DEFAULT_PROTOCOL;
        self.kernel
            .routes()
            .iter()
            .filter(|route| ours(route))
            .map(ToString::to_string)
            .collect()
    }
}

/// A network of engines.
///
/// ```
/// use flannel_core::testing::{Sim, SimFamilies};
///
/// Sim::block_on(async {
///     let mut sim = Sim::new(7, 3, SimFamilies::Both);
///     sim.start_all();
///     sim.settle().await;
///     sim.check_at_rest();
/// });
/// ```
pub struct Sim {
    /// The store that all share.
    pub store: FakeStore,
    /// The hosts.
    pub hosts: Vec<SimHost>,
    seed: u64,
    random: Random,
    families: SimFamilies,
    backend: SimBackend,
    planning: Planning,
    saved: Option<super::Saved>,
    next_address: u32,
    next_node: u128,
    /// Whether the network has ever been larger.
    enlarged: bool,
    /// Whether its devices have ever been others.
    renumbered: bool,
    /// Whether two hosts have ever had one id, and so one MAC address.
    cloned: bool,
    history: Vec<String>,
    holders: BTreeMap<SubnetKey, Holder>,
    handovers_checked: usize,
    restored: Vec<Instant>,
    values: Values,
    /// Subnets that flannel has written into.
    flannels: BTreeSet<SubnetKey>,
}

impl Sim {
    /// Runs a simulation on a thread of its own clock, which jumps whenever everybody waits.
    ///
    /// # Panics
    ///
    /// When the simulation does.
    pub fn block_on<T>(simulation: impl Future<Output = T>) -> T {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime")
            .block_on(simulation)
    }

    /// The seed that `SIM_SEED` names, if it does.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "how a failed run is replayed")]
    pub fn seed_to_replay() -> Option<u64> {
        std::env::var("SIM_SEED")
            .ok()
            .map(|seed| seed.parse().expect("SIM_SEED is a number"))
    }

    /// A network of so many hosts, none of which runs yet. Must be called inside [`Sim::block_on`].
    #[must_use]
    pub fn new(seed: u64, hosts: usize, families: SimFamilies) -> Self {
        Self::with(seed, hosts, families, SimBackend::plain())
    }

    /// Likewise, with another backend.
    #[must_use]
    pub fn with(seed: u64, hosts: usize, families: SimFamilies, backend: SimBackend) -> Self {
        let store = FakeStore::new(TTL);
        store.put_config(Some(&families.config(backend.options)));
        store.set_latency(Duration::from_millis(5), seed);
        let mut sim = Self {
            store,
            hosts: Vec::new(),
            seed,
            random: Random(seed),
            families,
            planning: Planning::new(families, &backend),
            backend,
            saved: None,
            next_address: 16,
            next_node: 1,
            enlarged: false,
            renumbered: false,
            cloned: false,
            history: Vec::new(),
            holders: BTreeMap::new(),
            handovers_checked: 0,
            restored: Vec::new(),
            values: Values::default(),
            flannels: BTreeSet::new(),
        };
        for number in 0..hosts {
            let address = sim.take_address();
            let addresses = families.addresses(address);
            let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
            let kernel = FakeKernel::host("eth0", &addresses, &families.gateways());
            kernel.set_latency(Duration::from_millis(2), seed ^ number as u64);
            let (client, node) = (sim.store.client(), sim.take_node());
            sim.hosts.push(SimHost {
                kernel,
                client,
                nodes: vec![node],
                previous: None,
                former: Vec::new(),
                former_devices: Vec::new(),
                address,
                has_uplink: true,
                statics: Vec::new(),
                checked: 0,
                running: None,
            });
        }
        sim
    }

    /// Starts every engine that does not run.
    pub fn start_all(&mut self) {
        (0..self.hosts.len()).for_each(|host| self.start(host));
    }

    /// Starts one engine.
    pub fn start(&mut self, host: usize) {
        let seed = self.random.next();
        let host = &mut self.hosts[host];
        if host.running.is_some() {
            return;
        }
        let options = Options {
            seed,
            renew_margin: TTL / 2,
            previous: host.previous,
            former_networks: host.former.clone(),
            former_devices: host.former_devices.clone(),
            ..Options::new(host.node())
        };
        let (store, kernel) = (Arc::new(host.client.clone()), Arc::new(host.kernel.clone()));
        let engine = Engine::new(store, kernel, vec![(self.backend.make)()], options);
        let (handle, (stop, stopped)) = (engine.handle(), oneshot::channel::<()>());
        let watched = Watched::new(&handle);
        let stopped = watched.clone().count_turns(async move { drop(stopped.await) });
        let task = tokio::spawn(engine.run(stopped));
        host.running = Some(Running {
            handle,
            watched,
            stop,
            task,
        });
    }

    /// Ends one engine: gracefully, or as SIGKILL does.
    pub async fn stop(&mut self, host: usize, gracefully: bool) {
        let devices = self.renumbered.then(|| self.devices().to_vec());
        let host = &mut self.hosts[host];
        host.former_devices.extend(devices.into_iter().flatten());
        host.previous = host.own_subnet().or(host.previous);
        if self.enlarged {
            host.former = ENLARGED
                .map(|network| network.parse().expect("a prefix"))
                .to_vec();
        }
        let Some(Running { stop, task, .. }) = host.running.take() else {
            return;
        };
        if gracefully {
            let _ = stop.send(());
            let ended = timeout(Duration::from_secs(3), task).await;
            ended
                .expect("a stop takes at most 3 s")
                .expect("no panic")
                .expect("a clean end");
        } else {
            task.abort();
            let _ = task.await;
        }
    }

    /// Gives a host's uplink another address, as DHCP does.
    pub fn readdress(&mut self, host: usize) {
        let address = self.take_address();
        let addresses = self.families.addresses(address);
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        self.hosts[host].address = address;
        self.hosts[host].kernel.set_addresses("eth0", &addresses);
    }

    /// Waits until every engine is ready and nothing has changed for a while.
    ///
    /// # Panics
    ///
    /// When that takes too long.
    pub async fn settle(&self) {
        let deadline = Instant::now() + AT_REST;
        let mut calm = 0;
        let mut before = String::new();
        // Longer than a lease lives that nobody renews, and than what a store forgot is kept.
        while calm < 9 {
            assert!(
                Instant::now() < deadline,
                "not at rest after {AT_REST:?}: {}",
                self.picture()
            );
            sleep(Duration::from_secs(15)).await;
            let now = self.picture();
            calm = if now == before && self.all_ready() {
                calm + 1
            } else {
                0
            };
            before = now;
        }
    }

    /// Ends every fault.
    pub fn heal(&mut self) {
        for host in &self.hosts {
            host.client.heal();
            host.client.fail_next(0, Failure::Unavailable);
            host.client.lose_replies(0);
            host.kernel.stop_failing();
            host.kernel.fail_dumps(0);
            host.kernel.fail_facts(0);
            host.kernel.lose_replies(0);
            host.kernel.unmute();
        }
        (0..self.hosts.len()).for_each(|host| {
            self.bring_up(host);
            self.heal_devices(host);
        });
        self.store.put_config(Some(&self.config()));
        self.start_all();
    }

    /// The uplink is there, up and with its address.
    fn bring_up(&mut self, host: usize) {
        let SimHost {
            kernel,
            address,
            has_uplink,
            ..
        } = &mut self.hosts[host];
        let addresses = self.families.addresses(*address);
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        if std::mem::replace(has_uplink, true) {
            kernel.link_up("eth0");
            kernel.set_addresses("eth0", &addresses);
        } else {
            kernel.create_link("eth0", &addresses);
        }
        for gateway in self.families.gateways() {
            let address = gateway.parse().expect("an address");
            let is_there = |route: &Route| {
                route
                    .hops
                    .as_slice()
                    .iter()
                    .any(|hop| hop.gateway == Some(address))
            };
            if !kernel.routes().iter().any(is_there) {
                kernel.add_default_route(gateway, "eth0");
            }
        }
    }

    fn take_address(&mut self) -> u32 {
        self.next_address += 1;
        self.next_address
    }

    fn take_node(&mut self) -> NodeId {
        self.next_node += 1;
        NodeId(self.next_node)
    }

    /// What a host publishes.
    #[must_use]
    pub fn attrs(&self, host: usize) -> LeaseAttrs {
        LeaseAttrs {
            public: self.addresses(&self.hosts[host]),
            backend: self.backend.kind().to_owned(),
            node: Some(self.hosts[host].node()),
            ..LeaseAttrs::default()
        }
    }

    /// The addresses of a host's uplink.
    fn addresses(&self, host: &SimHost) -> PerFamily<IpAddr> {
        let addresses = self.families.addresses(host.address);
        let nets = || addresses.iter().filter_map(|net| net.parse::<IpNet>().ok());
        PerFamily::from_fn(|family| {
            nets()
                .map(|net| net.addr())
                .find(|address| Family::of(*address) == family)
        })
    }
}

/// Numbers that a seed determines: SplitMix64.
struct Random(u64);
