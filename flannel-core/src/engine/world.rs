//! Everything that one engine knows, and what follows from it. No I/O.

mod own_subnet;
mod standing;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;
use tracing::{info, warn};

use super::files::Unremembered;
use super::options::Options;
use super::peers::Peers;
use super::reasons::Reasons;
use super::reconciler::{Reconciler, Work};
use super::registrar::{Registrar, Request, View};
use super::rules::Rules;
use super::surroundings::{Effect, Replaced, Surroundings};
use crate::ownership::conflicts;
use crate::status::LISTED;
use crate::territory::Territory;
use crate::{
    Admission, Applied, Backend, Changed, ConfigError, Conflict, Context, Desired, DeviceName, Gap, Host,
    HostFacts, KernelError, Lease, NetworkConfig, Object, ObjectId, Ownership, PerFamily, Plan, Reason,
    Route, Scope, StoreError, StoreEvent, SubnetEnv, SubnetStore, Timings, Wish,
};

/// The engine's whole state.
pub(super) struct World {
    options: Options,
    surroundings: Surroundings,
    ownership: Ownership,
    /// Networks and devices that are no longer configured, in and on which something of ours may be left.
    former: Territory,
    /// What the next run will know of.
    remembered: Territory,
    /// A config whose devices are still to be claimed; until then the one before it is in force.
    staged: Option<Arc<NetworkConfig>>,
    /// How many full lists the store has shown.
    snapshots: u64,
    /// Whether the store was ever heard from.
    heard: bool,
    silent_since: Option<Instant>,
    /// When leases were last heard of before a silence that no lease has ended yet.
    unheard_since: Option<Instant>,
    registrar: Registrar,
    peers: Peers,
    reconciler: Reconciler,
    rules: Rules,
    /// What is to be there whoever the peers are.
    base: Vec<ObjectId>,
    base_marked: bool,
    /// The first lease that this process held, with what the backend published then: that stays, whatever
    /// others make of the store's value.
    first: Option<Lease>,
    /// The lease that the kernel's state was planned with, with what the backend publishes: kept while
    /// another is being taken.
    planned_with: Option<Lease>,
    conflicts: Vec<Conflict>,
    /// Why a device of ours cannot be ours.
    claim: Option<String>,
    reasons: Reasons,
    /// Since when the kernel is not as it ought to be.
    behind: Option<Instant>,
    /// When the last status was made.
    judged: Option<Instant>,
    /// Time spent on the next plan so far.
    planned_for: Duration,
    planning: Timings,
}

impl World {
    pub(super) fn new(options: Options, backends: Vec<Box<dyn Backend>>, store: &dyn SubnetStore) -> Self {
        let wish = Wish {
            pinned: options.pinned,
            previous: options.previous,
            seed: options.seed,
            ..Wish::default()
        };
        let protocol = options.protocol;
        let former = Territory {
            networks: options.former_networks.clone(),
            devices: options.former_devices.clone(),
        };
        let mut reasons = Reasons::default();
        reasons.set(Reason::NoSnapshot);
        Self {
            surroundings: Surroundings::new(
                options.node,
                options.uplink.clone(),
                backends,
                store.endpoints(),
            ),
            registrar: Registrar::new(options.node, options.renew_margin, wish, store.shows_expiry()),
            ownership: Ownership {
                scope: Scope::default(),
                protocol,
            },
            remembered: former.clone(),
            former,
            staged: None,
            reasons,
            options,
            snapshots: 0,
            heard: false,
            silent_since: None,
            unheard_since: None,
            peers: Peers::default(),
            reconciler: Reconciler::new(protocol),
            rules: Rules::new(None),
            base: Vec::new(),
            base_marked: true,
            first: None,
            planned_with: None,
            conflicts: Vec::new(),
            claim: None,
            behind: None,
            judged: None,
            planned_for: Duration::ZERO,
            planning: Timings::default(),
        }
    }

    /// Where the kernel is to be watched; `None` until the network is known.
    pub(super) fn scope(&self) -> Option<&Scope> {
        self.surroundings.config().map(|_| &self.ownership.scope)
    }

    /// Takes what happened from the store.
    pub(super) fn store_event(&mut self, event: StoreEvent, now: Instant) {
        if !matches!(event, StoreEvent::Silent { .. }) {
            self.heard = true;
            if self.silent_since.take().is_some() {
                self.registrar.store_is_back();
                self.reasons.clear(|reason| matches!(reason, Reason::Store(_)));
            }
        }
        match event {
            StoreEvent::Config(Ok(config)) => self.new_config(config),
            StoreEvent::Config(Err(error)) => {
                self.reasons.set(match (self.surroundings.config(), &*error) {
                    (None, error) => Reason::Config(error.to_string()),
                    // Any other config, such as the example of the usual message, would be a change.
                    (Some(config), ConfigError::Missing { place }) => Reason::ConfigRefused(format!(
                        "the network config is gone from {place}; going on with it as it was: put it back, \
                         `flanneld config set '{}'`",
                        config.text
                    )),
                    (Some(_), error) => {
                        Reason::ConfigRefused(format!("{error}; going on with the config as it was"))
                    }
                });
            }
            StoreEvent::Snapshot { leases, gap } => self.snapshot(leases, gap, now),
            StoreEvent::Put(lease) => {
                self.unheard_since = None;
                self.registrar.observe(&lease.subnet, Some(&lease));
                self.peers.put(lease);
            }
            StoreEvent::Delete(subnet) => {
                self.unheard_since = None;
                self.registrar.observe(&subnet, None);
                self.peers.delete(&subnet);
            }
            StoreEvent::Unreadable { name, reason } => {
                warn!(
                    entry = name,
                    reason, "a lease cannot be read; the others are not affected"
                );
            }
            StoreEvent::Silent { since, reason } => {
                self.silent_since.get_or_insert(since);
                self.unheard_since.get_or_insert(since);
                self.reasons.set(Reason::Store(format!(
                    "nothing is heard from the store: {reason}"
                )));
            }
        }
    }

    /// The store cannot be watched.
    pub(super) fn store_failed(&mut self, error: &StoreError, now: Instant) {
        self.silent_since.get_or_insert(now);
        self.unheard_since.get_or_insert(now);
        self.reasons.set(Reason::Store(error.to_string()));
    }

    fn snapshot(&mut self, leases: Vec<Lease>, gap: Gap, now: Instant) {
        if self.snapshots == 0 {
            info!(leases = leases.len(), "leases listed");
        }
        self.snapshots += 1;
        self.reasons.clear(|reason| matches!(reason, Reason::NoSnapshot));
        self.registrar.observe_all(&leases);
        if gap == Gap::HistoryLost {
            self.registrar.history_lost();
        }
        let unheard = self.unheard_since.take();
        let silence = unheard.map(|since| now.saturating_duration_since(since));
        let long = self.registrar.life().is_some_and(|life| silence > Some(life));
        self.peers
            .snapshot(leases, gap == Gap::HistoryLost || long, self.options.node, now);
    }

    const fn snapshot_seen(&self) -> bool {
        self.snapshots > 0
    }

    fn new_config(&mut self, config: Arc<NetworkConfig>) {
        if self.is_to_be_claimed(&config) {
            self.staged = Some(config);
            return;
        }
        self.staged = None;
        let replaced = self
            .surroundings
            .new_config(config, self.registrar.own(), &mut self.reasons);
        let Some(Replaced(before)) = replaced else { return };
        let networks = before.iter().flat_map(|before| before.networks());
        self.former.networks.extend(networks);
        // What was never claimed was never made.
        let devices = self.ownership.scope.devices.iter().copied();
        let claimed: Vec<DeviceName> = devices.filter(|device| self.has_claimed(device)).collect();
        self.former.devices.extend(claimed);
        self.scope_anew();
        self.replan();
    }

    /// Whether a config asks for devices that another daemon of the host may have, while a lease is held
    /// by the one in force.
    fn is_to_be_claimed(&self, config: &NetworkConfig) -> bool {
        let devices = || self.surroundings.devices_of(config);
        self.registrar.own().is_some()
            && self.surroundings.config().is_some()
            && !devices().iter().all(|device| self.has_claimed(device))
    }

    /// Whether a device is surely ours to make: no other daemon of the host has it.
    fn has_claimed(&self, device: &DeviceName) -> bool {
        self.options.state.is_none() || self.remembered.devices.contains(device)
    }

    /// This network's ranges and devices, then those in and on which something of ours may be left.
    fn scope_anew(&mut self) {
        let mut territory = self.configured();
        self.former.subtract(&territory);
        territory.networks.extend(&self.former.networks);
        territory.devices.extend(&self.former.devices);
        self.ownership.scope = Scope {
            networks: territory.networks,
            devices: territory.devices,
            underlay: self.surroundings.follows_underlay(),
        };
    }

    fn configured(&self) -> Territory {
        let config = self.surroundings.config();
        Territory {
            networks: config.into_iter().flat_map(NetworkConfig::networks).collect(),
            devices: self.surroundings.devices(),
        }
    }

    fn replan(&mut self) {
        self.registrar.reconsider();
        self.peers.mark_all();
        self.plan_own_subnet();
        self.base_marked = true;
        self.reconciler.retry_all();
    }

    /// Takes the kernel's answer about the host.
    pub(super) fn looked(&mut self, result: Result<HostFacts, KernelError>, started: Instant, now: Instant) {
        if self.surroundings.looked(result, started, now, &mut self.reasons) == Effect::Replan {
            self.replan();
        }
    }

    /// Something in the kernel was seen to change.
    pub(super) fn changed(&mut self, change: Changed) {
        match &change {
            Changed::Host | Changed::Overrun => self.surroundings.look(),
            Changed::Table(table) => return self.rules.changed(table.as_deref()),
            Changed::Down(device) => {
                self.surroundings.look();
                // A device that was renamed a moment ago is not known by its name.
                let other = |host: &Host| host.uplink.device != *device && host.facts.link(device).is_some();
                if self.surroundings.host().is_some_and(other) {
                    return;
                }
            }
            Changed::Device(_) => self.surroundings.look(),
            Changed::Appeared(object) | Changed::Vanished(object) if self.is_pods(object) => return,
            Changed::Appeared(_) | Changed::Vanished(_) | Changed::Gone(_) => {}
        }
        self.reconciler.changed(change, &self.ownership);
    }

    /// Whether it is a route of somebody else's inside our own subnet, such as a container runtime
    /// makes for every pod: no concern of ours, and no reason to read all routes.
    fn is_pods(&self, object: &Object) -> bool {
        let Object::Route(route) = object else {
            return false;
        };
        let own = self.planned_with.as_ref().map(|own| own.subnet);
        let inside = own.is_some_and(|own| own.nets().any(|net| net.contains(&route.id.destination)));
        inside && route.protocol != self.ownership.protocol
    }

    /// Looks at everything now.
    pub(super) const fn audit(&mut self) {
        self.surroundings.look();
        self.rules.look();
        self.reconciler.audit();
    }

    /// The kernel's tables cannot be watched, or can again.
    pub(super) fn watching(&mut self, problem: Option<String>) {
        self.reasons.hold(problem.map(Reason::Watch), |reason| {
            matches!(reason, Reason::Watch(_))
        });
    }

    /// Draws all conclusions: which objects ought to exist.
    pub(super) fn conclude(&mut self, now: Instant) {
        self.peers.let_go(now);
        match self.registrar.own() {
            Some(own) => {
                let mut own = own.clone();
                if let Some(published) = self.surroundings.attrs() {
                    own.attrs.backend.clone_from(&published.backend);
                    own.attrs.backend_data.clone_from(&published.backend_data);
                    own.attrs.backend_v6_data.clone_from(&published.backend_v6_data);
                    self.first.get_or_insert_with(|| own.clone());
                }
                let same = |planned: &Lease| planned.subnet == own.subnet && planned.attrs == own.attrs;
                if !self.planned_with.as_ref().is_some_and(same) {
                    self.planned_with = Some(own);
                    self.peers.mark_all();
                    self.plan_own_subnet();
                    self.base_marked = true;
                }
            }
            // No lease stands against it any more.
            None => {
                if let Some(config) = self.surroundings.take_refused() {
                    self.new_config(config);
                }
            }
        }
        self.plan();
        self.note_refused();
    }

    /// Whoever has no peer at all though others are there had better know.
    fn note_refused(&mut self) {
        let none = self.peers.admitted == 0 && self.peers.refused > 0;
        let refused = none.then(|| self.peers.first_skipped()).flatten();
        let refused = refused.map(|(subnet, why)| {
            Reason::Refused(format!(
                "none of the leases of other hosts can be a peer: {} of {} refused, such as {subnet}: {why}",
                self.peers.refused,
                self.peers.leases().len()
            ))
        });
        self.reasons
            .hold(refused, |reason| matches!(reason, Reason::Refused(_)));
    }

    fn plan(&mut self) {
        let surroundings = &self.surroundings;
        let (Some(config), Some(host), Some(own), Some(backend), Some(data_plane)) = (
            surroundings.config(),
            surroundings.host(),
            &self.planned_with,
            surroundings.backend(),
            surroundings.data_plane(),
        ) else {
            return;
        };
        let admission = Admission {
            config,
            host,
            own: own.subnet,
            protected: surroundings.protected(),
            backend: backend.kind(),
        };
        let context = Context {
            host,
            own,
            config,
            protocol: self.ownership.protocol,
        };
        if std::mem::take(&mut self.base_marked) {
            let mut base = Desired::default();
            data_plane.base(&context, &mut base);
            if self.options.blackhole {
                let subnets = own.subnet.nets();
                subnets.for_each(|net| base.insert(Route::blackhole(net, context.protocol)));
            }
            let base = base.into_state();
            for gone in self.base.iter().filter(|id| !base.contains_key(id)) {
                self.reconciler.set_want(*gone, None);
            }
            self.base = base.keys().copied().collect();
            for (id, object) in base {
                self.reconciler.set_want(id, Some(object));
            }
        }
        if self.peers.is_marked() {
            let started = Instant::now();
            self.peers
                .plan(&admission, data_plane, &context, &mut self.reconciler);
            self.planned_for += started.elapsed();
        }
    }

    /// Whether the kernel may be touched: every lease has been shown, ours is known, and the next
    /// run will know where to look.
    fn is_planned(&self) -> bool {
        self.snapshot_seen()
            && self.planned_with.is_some()
            && self.surroundings.attrs().is_some()
            && (self.options.state.is_none() || self.remembered.covers(&self.ownership.scope))
    }

    /// Whether all devices in scope are. Who may not have its device takes no lease, so that nobody takes
    /// this host for a peer.
    fn may_have_devices(&self) -> bool {
        let mut devices = self.ownership.scope.devices.iter();
        devices.all(|device| self.has_claimed(device))
    }

    /// What to ask of the store.
    pub(super) fn next_request(&mut self, now: Instant) -> Option<Request> {
        let public = self.surroundings.host()?.uplink.public;
        let earlier = || self.peers.earlier(self.options.node, public);
        let before = self
            .first
            .as_ref()
            .or_else(|| self.registrar.own())
            .or_else(earlier);
        self.surroundings.publish(before, &mut self.reasons);
        if self.registrar.own().is_none() && !self.may_have_devices() {
            return None;
        }
        let surroundings = &self.surroundings;
        let (config, host, attrs) = (
            surroundings.config()?,
            surroundings.host()?,
            surroundings.attrs()?,
        );
        if !self.snapshot_seen() {
            return None;
        }
        let view = View {
            config,
            leases: self.peers.leases(),
            generation: self.peers.generation,
            public: host.uplink.public,
            neighbours: host.publishes_a_neighbours(),
            attrs,
            protected: surroundings.protected(),
        };
        self.registrar.next(view, now)
    }

    /// The store's answer.
    pub(super) fn answered(
        &mut self,
        request: &Request,
        result: Result<Option<Lease>, StoreError>,
        now: Instant,
    ) {
        self.registrar.done(request, result, now);
    }

    /// What to do with the kernel.
    pub(super) fn next_work(&mut self, now: Instant) -> Option<Work> {
        if !self.is_planned() {
            return None;
        }
        let started = Instant::now();
        let work = self.reconciler.next(now)?;
        if let Work::Apply(_) = work {
            let took = std::mem::take(&mut self.planned_for) + started.elapsed();
            self.planning.note(took);
        }
        Some(work)
    }

    /// The kernel answered a dump.
    pub(super) fn dumped(
        &mut self,
        result: Result<Vec<Object>, KernelError>,
        started: Instant,
        now: Instant,
    ) {
        let (peers, answered) = (&self.peers, result.is_ok());
        self.reconciler
            .dumped(result, &self.ownership, |net| peers.is_subnet(net), started, now);
        if answered {
            self.note_conflicts();
            self.forget_former();
        }
    }

    /// Once a dump shows nothing of ours in the former networks, nor on the former devices, there is
    /// nothing to look for.
    fn forget_former(&mut self) {
        let configured = self.configured();
        let former = |id: &ObjectId| self.former.includes(id) && !configured.includes(id);
        if !self.former.is_empty() && !self.reconciler.have().keys().any(former) {
            self.former = Territory::default();
            self.scope_anew();
        }
    }

    /// The kernel answered a plan.
    pub(super) fn applied(&mut self, plan: &Plan, result: Result<Applied, KernelError>, now: Instant) {
        self.reconciler.applied(plan, result, &self.ownership, now);
    }

    fn note_conflicts(&mut self) {
        let own = self.planned_with.as_ref().map(|own| own.subnet);
        let in_own = |net: IpNet| own.is_some_and(|own| own.nets().any(|own| own.contains(&net)));
        let at_peer = |net: IpNet| self.peers.overlaps_peer(net);
        let (foreign, want) = (self.reconciler.foreign(), self.reconciler.want());
        let found: Vec<Conflict> = conflicts(foreign, want, &in_own, &at_peer).collect();
        let new = found.iter().filter(|conflict| !self.conflicts.contains(conflict));
        for conflict in new.take(LISTED) {
            warn!(%conflict, "a route of somebody else's");
        }
        if found.is_empty() && !self.conflicts.is_empty() {
            info!("no route of somebody else's is in the way any longer");
        }
        self.conflicts = found;
    }

    /// What to ask the kernel about the host.
    pub(super) fn next_look(&mut self, now: Instant) -> Option<Vec<IpAddr>> {
        self.surroundings.next_look(now)
    }

    /// What `subnet.env` ought to say.
    pub(super) fn subnet_env(&self) -> Option<SubnetEnv> {
        let (config, host) = (self.surroundings.config()?, self.surroundings.host()?);
        let (own, data_plane) = (self.registrar.own()?, self.surroundings.data_plane()?);
        Some(SubnetEnv {
            networks: PerFamily::from_fn(|family| Some(config.ranges.get(family)?.network)),
            subnets: PerFamily::from_fn(|family| own.subnet.net(family)),
            mtu: Some(data_plane.mtu(host)),
            ip_masq: Some(self.options.ip_masq),
        })
    }

    /// What the next run is to know of.
    pub(super) fn territory(&self) -> Option<Territory> {
        let mut territory = self.scope().map(Territory::from)?;
        let staged = self.staged.as_deref();
        let staged = staged
            .map(|config| self.surroundings.devices_of(config))
            .unwrap_or_default();
        let new = staged
            .into_iter()
            .filter(|device| !territory.devices.contains(device));
        let new: Vec<DeviceName> = new.collect();
        territory.devices.extend(new);
        Some(territory)
    }

    /// The next run knows of this.
    pub(super) fn remembered(&mut self, territory: &Territory) {
        self.remembered = territory.clone();
        if let Some(config) = self.staged.take() {
            self.new_config(config);
        }
    }

    /// What keeps the files from being written, if anything does.
    pub(super) fn files(&mut self, env: Option<String>, state: Option<Unremembered>) {
        let (claim, state) = match state {
            Some(Unremembered::Taken(text)) if self.staged.is_some() => {
                self.reasons.set(Reason::ConfigRefused(format!(
                    "{text}; going on with the config as it was, and trying again"
                )));
                (None, None)
            }
            Some(Unremembered::Taken(text)) => (Some(text), None),
            Some(Unremembered::Unwritten(text)) => (None, Some(text)),
            None => (None, None),
        };
        self.reasons.hold(env.map(Reason::SubnetEnv), |reason| {
            matches!(reason, Reason::SubnetEnv(_))
        });
        self.reasons.hold(state.map(Reason::State), |reason| {
            matches!(reason, Reason::State(_))
        });
        self.claim = claim;
    }

    /// When something is to be done though nothing happens before.
    pub(super) fn wake(&self) -> Option<Instant> {
        let kernel = if self.is_planned() {
            self.reconciler.wake()
        } else {
            None
        };
        let may_ask = self.surroundings.attrs().is_some() && self.snapshot_seen();
        let store = if may_ask { self.registrar.wake() } else { None };
        let expiry = self.registrar.own().and_then(|own| own.expires);
        let behind = self.overdue_at();
        // What the last status has taken into account already wakes nobody.
        let ahead = |at: &Instant| self.judged.is_none_or(|judged| *at > judged);
        let all = [
            self.surroundings.wake(),
            self.rules.wake(),
            self.rules.calm_at().filter(ahead),
            kernel,
            store,
            expiry.filter(ahead),
            behind.filter(ahead),
            self.peers.wake(),
            self.reasons.wake(),
        ];
        all.into_iter().flatten().min()
    }
}
