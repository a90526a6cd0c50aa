//! A whole network on one thread: many engines over one [`FakeStore`] and a [`FakeKernel`] each,
//! with faults drawn by a seed, on tokio's paused clock.
//!
//! What must always hold is checked after every step, and what must hold at rest when all faults
//! are healed. A failure prints the seed; `SIM_SEED=… cargo test sim` replays it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::{Cut, Failure, FakeKernel, FakeStore, FakeStoreClient, Operator};
use crate::{
    Backend, Context, DEFAULT_PROTOCOL, Desired, Engine, EngineHandle, Family, Hop, Host, Lease, LeaseAttrs,
    NodeId, Object, Op, OpErrorKind, Options, Published, Route, RouteId, Skip, StoreError,
};

/// How long a lease of the simulation lives.
pub const TTL: Duration = Duration::from_secs(120);

/// By then everything is as it ought to be, once all faults are healed: a lease that nobody renews
/// has expired, what a wiped store forgot is let go, and the longest backoff is over.
const AT_REST: Duration = Duration::from_secs(400);

/// A backend of plain routes, as flannel's host-gw.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlainRoutes;

impl Backend for PlainRoutes {
    fn kind(&self) -> &'static str {
        "host-gw"
    }

    fn mtu(&self, host: &Host) -> u32 {
        host.uplink.mtu
    }

    fn publish(&self, _: &Host, _: Option<&Lease>) -> Result<Published, crate::BackendError> {
        Ok(Published::default())
    }

    fn peer(&self, context: &Context<'_>, peer: &Lease, out: &mut Desired) -> Result<(), Skip> {
        for family in context.families() {
            if let (Some(net), Some(gateway)) = (peer.subnet.net(family), peer.attrs.public.get(family)) {
                let hop = Hop::via(*gateway, context.host.uplink.device);
                out.insert(Route::unicast(net, hop, context.protocol));
            }
        }
        Ok(())
    }
}

/// One host of a [`Sim`].
pub struct SimHost {
    /// Its kernel, which outlives its engine.
    pub kernel: FakeKernel,
    /// Its connection to the store.
    pub client: FakeStoreClient,
    node: NodeId,
    address: u32,
    has_uplink: bool,
    running: Option<Running>,
}

struct Running {
    handle: EngineHandle,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), StoreError>>,
}

impl SimHost {
    /// Its engine, while it runs.
    #[must_use]
    pub fn engine(&self) -> Option<&EngineHandle> {
        self.running.as_ref().map(|running| &running.handle)
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
    saved: Option<super::Saved>,
    next_address: u32,
    next_node: u128,
    history: Vec<String>,
    checked: Vec<usize>,
}

/// The families of a simulated network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SimFamilies {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Both.
    Both,
}

impl SimFamilies {
    const fn v4(self) -> bool {
        matches!(self, Self::V4 | Self::Both)
    }

    const fn v6(self) -> bool {
        matches!(self, Self::V6 | Self::Both)
    }

    fn config(self) -> String {
        format!(
            r#"{{"EnableIPv4":{},"Network":"{}","EnableIPv6":{},"IPv6Network":"{}","Backend":{{"Type":"host-gw"}}}}"#,
            self.v4(),
            NETWORKS[0],
            self.v6(),
            NETWORKS[1],
        )
    }

    fn addresses(self, number: u32) -> Vec<String> {
        let v4 = self
            .v4()
            .then(|| format!("192.0.{}.{}/16", number >> 8, number & 255));
        let v6 = self.v6().then(|| format!("fd00::{number:x}/64"));
        v4.into_iter().chain(v6).collect()
    }

    fn gateways(self) -> Vec<&'static str> {
        let v4 = self.v4().then_some("192.0.255.1");
        let v6 = self.v6().then_some("fd00::ffff:1");
        v4.into_iter().chain(v6).collect()
    }
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
        let store = FakeStore::new(TTL);
        store.put_config(Some(&families.config()));
        store.set_latency(Duration::from_millis(5), seed);
        let mut sim = Self {
            store,
            hosts: Vec::new(),
            seed,
            random: Random(seed),
            families,
            saved: None,
            next_address: 16,
            next_node: 1,
            history: Vec::new(),
            checked: vec![0; hosts],
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
                node,
                address,
                has_uplink: true,
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
            ..Options::new(host.node)
        };
        let (store, kernel) = (Arc::new(host.client.clone()), Arc::new(host.kernel.clone()));
        let engine = Engine::new(store, kernel, vec![Box::new(PlainRoutes)], options);
        let (handle, (stop, stopped)) = (engine.handle(), oneshot::channel::<()>());
        let task = tokio::spawn(engine.run(async move { drop(stopped.await) }));
        host.running = Some(Running { handle, stop, task });
    }

    /// Ends one engine: gracefully, or as SIGKILL does.
    pub async fn stop(&mut self, host: usize, gracefully: bool) {
        let Some(Running { stop, task, .. }) = self.hosts[host].running.take() else {
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

    /// Forgets who a host is, as when its state directory is lost.
    pub fn lose_state(&mut self, host: usize) {
        self.hosts[host].node = self.take_node();
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
        // Longer than what a store forgot is kept.
        while calm < 5 {
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

    /// Draws a fault, lets it happen, and lets some time pass.
    pub async fn step(&mut self) {
        let host = self.random.below(self.hosts.len());
        let fault = self.random.below(FAULTS);
        self.history
            .push(format!("{:?} fault {fault} on host {host}", Instant::now()));
        self.inject(fault, host).await;
        let pause = [10, 200, 3_000, 20_000, 90_000][self.random.below(5)];
        sleep(Duration::from_millis(self.random.below(pause) as u64)).await;
        self.check_always();
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
        (0..self.hosts.len()).for_each(|host| self.bring_up(host));
        self.store.put_config(Some(&self.families.config()));
        self.start_all();
    }

    /// Checks what must hold whatever happens.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn check_always(&mut self) {
        if let Some((at, one, other)) = self.store.first_overlap() {
            panic!("{one} and {other} were held at once at {at:?}; {}", self.replay());
        }
        let (leases, handovers) = (self.store.leases(), self.store.handovers());
        let by_net: BTreeMap<_, _> = leases
            .iter()
            .flat_map(|lease| lease.subnet.nets().map(move |net| (net, lease)))
            .collect();
        for (number, host) in self.hosts.iter().enumerate() {
            let log = host.kernel.log();
            let fresh = log.get(self.checked[number]..).unwrap_or(&log);
            for entry in fresh {
                let (Op::Remove(Object::Route(route)), Ok(())) = (&entry.op, &entry.outcome) else {
                    continue;
                };
                let plain = route.id == RouteId::to(route.id.destination);
                let Some(lease) = by_net.get(&route.id.destination).filter(|_| plain) else {
                    continue;
                };
                let family = Family::of_net(route.id.destination);
                let wanted = route.hops.as_slice().first().and_then(|hop| hop.gateway)
                    == lease.attrs.public.get(family).copied();
                let own = lease.attrs.node == Some(host.node);
                // Long enough for every host to know, and for what was forgotten to be let go.
                let settled = handovers.iter().all(|handover| {
                    handover.subnet != lease.subnet || handover.at + Duration::from_secs(90) < entry.at
                });
                assert!(
                    !(wanted && settled && !own && route.protocol == DEFAULT_PROTOCOL),
                    "host {number} removed {route}, which the lease {} wants; {}",
                    lease.subnet,
                    self.replay()
                );
            }
            self.checked[number] = log.len();
        }
    }

    /// Checks what must hold once everything has come to rest.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn check_at_rest(&mut self) {
        self.check_always();
        for number in 0..self.hosts.len() {
            let (have, want) = (self.hosts[number].our_routes(), self.wanted(number));
            assert_eq!(have, want, "host {number}: {}", self.replay());
        }
    }

    /// The routes that a host ought to have, straight from the store.
    fn wanted(&self, host: usize) -> BTreeSet<String> {
        let host = &self.hosts[host];
        let leases = self.store.leases();
        let mut want = BTreeSet::new();
        let networks = NETWORKS.map(|network| network.parse::<IpNet>().expect("a prefix"));
        for lease in leases.iter().filter(|lease| lease.attrs.node != Some(host.node)) {
            for net in lease
                .subnet
                .nets()
                .filter(|net| networks.iter().any(|network| network.contains(net)))
            {
                let Some(gateway) = lease.attrs.public.get(Family::of_net(net)) else {
                    continue;
                };
                let ours = self.families.addresses(host.address);
                if ours.iter().any(|own| own.starts_with(&format!("{gateway}/"))) {
                    continue;
                }
                let hop = Hop::via(*gateway, "eth0".parse().expect("a device name"));
                want.insert(Route::unicast(net, hop, DEFAULT_PROTOCOL).to_string());
            }
        }
        want
    }

    async fn inject(&mut self, fault: usize, host: usize) {
        let times = 1 + u32::try_from(self.random.below(4)).unwrap_or(0);
        let kernel = self.hosts[host].kernel.clone();
        let client = self.hosts[host].client.clone();
        match fault {
            0 => client.cut(Cut::Hangs),
            1 => client.cut(Cut::Refuses),
            2 | 3 => client.heal(),
            4 => self.store.compact(),
            5 => self.saved = Some(self.store.save()),
            6 => {
                if let Some(saved) = self.saved.take() {
                    self.store.restore(&saved);
                }
            }
            7 => self.store.wipe(),
            8 => {
                let leases = self.store.leases();
                if !leases.is_empty() {
                    self.store.expire(leases[self.random.below(leases.len())].subnet);
                }
            }
            9 => client.fail_next(times, Failure::Unavailable),
            10 => client.lose_replies(times),
            11 => kernel.flush(),
            12 => self.stray(host),
            13 => self.meddle(host),
            14 if self.hosts[host].has_uplink => kernel.link_down("eth0"),
            15 => self.bring_up(host),
            16 if std::mem::take(&mut self.hosts[host].has_uplink) => kernel.delete_link("eth0"),
            17 if self.hosts[host].has_uplink => self.readdress(host),
            18 => {
                let within = NETWORKS[usize::from(!self.families.v4())];
                let kinds = [OpErrorKind::Other, OpErrorKind::Unreachable, OpErrorKind::Exists];
                kernel.fail(
                    within.parse().expect("a prefix"),
                    kinds[self.random.below(3)],
                    times,
                );
            }
            19 => kernel.fail_dumps(times),
            20 => kernel.lose_replies(times),
            21 => kernel.mute(),
            22 => kernel.unmute(),
            23 => self.stop(host, true).await,
            24 => self.stop(host, false).await,
            25 => {
                self.stop(host, false).await;
                self.lose_state(host);
                self.start(host);
            }
            26 | 27 => self.start_all(),
            28 => self.store.put_raw("10.5.0.0-24&garbage", "{"),
            29 => self.store.put_raw(
                "10.9.9.0-24",
                r#"{"PublicIP":"192.0.9.9","BackendType":"host-gw"}"#,
            ),
            30 => kernel.fail_facts(times),
            31 => self.store.put_config(Some("{")),
            // There is no uplink to do it to.
            _ => {}
        }
    }

    /// Puts a route with our mark where none belongs.
    fn stray(&mut self, host: usize) {
        let number = self.random.below(255);
        let net = if self.families.v4() {
            format!("10.5.{number}.0/24")
        } else {
            format!("fd05:0:0:{number:x}::/64")
        };
        let gateway = if self.families.v4() {
            "192.0.200.1"
        } else {
            "fd00::200:1"
        };
        let hop = Hop::via(
            gateway.parse().expect("an address"),
            "eth0".parse().expect("a device name"),
        );
        let mut route = Route::unicast(net.parse().expect("a prefix"), hop, DEFAULT_PROTOCOL);
        if self.random.below(2) == 0 {
            route.id.metric = 50;
        }
        self.hosts[host].kernel.stray(route);
    }

    /// Deletes one of our routes by hand, or bends it as `ip route replace` does.
    fn meddle(&mut self, host: usize) {
        let routes = self.hosts[host].kernel.routes();
        let ours: Vec<Route> = routes
            .into_iter()
            .filter(|route| route.protocol == DEFAULT_PROTOCOL)
            .collect();
        if ours.is_empty() {
            return;
        }
        let mut route = ours[self.random.below(ours.len())].clone();
        let action = if self.random.below(2) == 0 {
            Operator::Delete(route)
        } else {
            route.protocol = crate::PROTOCOL_BOOT;
            Operator::Replace(route)
        };
        let _ = self.hosts[host].kernel.operator(action);
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

    fn all_ready(&self) -> bool {
        self.hosts
            .iter()
            .filter_map(SimHost::engine)
            .all(|engine| engine.status().is_ready())
    }

    /// Everything that ought to stand still at rest.
    fn picture(&self) -> String {
        let mut picture = String::new();
        for lease in self.store.leases() {
            let _ = writeln!(picture, "{} {}", lease.subnet, lease.attrs.to_json());
        }
        for (number, host) in self.hosts.iter().enumerate() {
            let reasons = host.engine().map(|engine| engine.status().reasons.clone());
            let _ = writeln!(picture, "host {number}: {:?} {reasons:?}", host.our_routes());
        }
        picture
    }

    /// How to see it again.
    fn replay(&self) -> String {
        format!(
            "replay with SIM_SEED={}\n{}\n{}",
            self.seed,
            self.history.join("\n"),
            self.picture()
        )
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
        let address = |family| {
            let addresses = self.families.addresses(self.hosts[host].address);
            let nets = addresses.iter().filter_map(|net| net.parse::<IpNet>().ok());
            nets.map(|net| net.addr())
                .find(|address| Family::of(*address) == family)
        };
        LeaseAttrs {
            public: crate::PerFamily::from_fn(address),
            backend: "host-gw".to_owned(),
            node: Some(self.hosts[host].node),
            ..LeaseAttrs::default()
        }
    }
}

/// The simulated network's ranges.
const NETWORKS: [&str; 2] = ["10.5.0.0/16", "fd05::/48"];

/// How many kinds of faults there are.
const FAULTS: usize = 32;

/// Numbers that a seed determines: SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        crate::choose::mix(self.0)
    }

    fn below(&mut self, bound: usize) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "below the bound")]
        let below = (self.next() % bound as u64) as usize;
        below
    }
}
