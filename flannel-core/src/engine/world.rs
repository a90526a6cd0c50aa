//! Everything that one engine knows, and what follows from it. No I/O.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;
use tracing::{info, warn};

use super::options::Options;
use super::pace::Pace;
use super::peers::Peers;
use super::reasons::{NO_LEASE_YET, Reasons};
use super::reconciler::{Reconciler, Work};
use super::registrar::{Registrar, Request, View};
use crate::ownership::conflicts;
use crate::status::LISTED;
use crate::{
    Admission, Applied, Backend, Changed, Conflict, Context, Failure, Family, Gap, Host, HostFacts,
    KernelError, Lease, LeaseAttrs, LeaseStatus, NetworkConfig, Object, Ownership, PeerCounts, PerFamily,
    Plan, Protected, Reason, Scope, Status, StoreError, StoreEvent, SubnetEnv, Wish, choose_uplink,
};

/// The host is looked at this often even when it is silent.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The engine's whole state.
pub(super) struct World {
    options: Options,
    backends: Vec<Box<dyn Backend>>,
    endpoints: Vec<IpAddr>,
    config: Option<Arc<NetworkConfig>>,
    facts: Option<Arc<HostFacts>>,
    host: Option<Host>,
    attrs: Option<LeaseAttrs>,
    protected: Protected,
    ownership: Ownership,
    snapshot_seen: bool,
    silent_since: Option<Instant>,
    registrar: Registrar,
    peers: Peers,
    reconciler: Reconciler,
    /// The lease that the kernel's state was planned with: kept while another is being taken.
    planned_with: Option<Lease>,
    look_wanted: bool,
    look_in_flight: bool,
    looks: Pace,
    conflicts: Vec<Conflict>,
    settled: bool,
    reasons: Reasons,
}

impl World {
    pub(super) fn new(options: Options, backends: Vec<Box<dyn Backend>>, endpoints: Vec<IpAddr>) -> Self {
        let wish = Wish {
            pinned: options.pinned,
            previous: options.previous,
            seed: options.seed,
            ..Wish::default()
        };
        let mut reasons = Reasons::default();
        reasons.set(Reason::NoSnapshot);
        Self {
            registrar: Registrar::new(options.node, options.renew_margin, wish),
            ownership: Ownership {
                scope: Scope::default(),
                protocol: options.protocol,
            },
            reasons,
            options,
            backends,
            endpoints,
            config: None,
            facts: None,
            host: None,
            attrs: None,
            protected: Protected::default(),
            snapshot_seen: false,
            silent_since: None,
            peers: Peers::default(),
            reconciler: Reconciler::new(),
            planned_with: None,
            look_wanted: true,
            look_in_flight: false,
            looks: Pace::default(),
            conflicts: Vec::new(),
            settled: false,
        }
    }

    /// Where the kernel is to be watched; `None` until the network is known.
    pub(super) fn scope(&self) -> Option<&Scope> {
        self.config.is_some().then_some(&self.ownership.scope)
    }

    /// Takes what happened from the store.
    pub(super) fn store_event(&mut self, event: StoreEvent, now: Instant) {
        let silent_since = self.silent_since;
        if !matches!(event, StoreEvent::Silent { .. }) && self.silent_since.take().is_some() {
            self.registrar.store_is_back();
            self.reasons.clear(|reason| matches!(reason, Reason::Store(_)));
        }
        match event {
            StoreEvent::Config(Ok(config)) => self.new_config(config),
            StoreEvent::Config(Err(error)) => {
                let text = error.to_string();
                self.reasons.set(match self.config {
                    None => Reason::Config(text),
                    Some(_) => Reason::ConfigRefused(format!("{text}; going on with the config as it was")),
                });
            }
            StoreEvent::Snapshot { leases, gap } => {
                let silence = silent_since.map(|since| now.saturating_duration_since(since));
                self.snapshot(leases, gap, silence, now);
            }
            StoreEvent::Put(lease) => {
                self.registrar.observe(&lease.subnet, Some(&lease));
                self.peers.put(lease);
            }
            StoreEvent::Delete(subnet) => {
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
                self.reasons.set(Reason::Store(format!(
                    "nothing is heard from the store: {reason}"
                )));
            }
        }
    }

    /// The store cannot be watched.
    pub(super) fn store_failed(&mut self, error: &StoreError, now: Instant) {
        self.silent_since.get_or_insert(now);
        self.reasons.set(Reason::Store(error.to_string()));
    }

    fn snapshot(&mut self, leases: Vec<Lease>, gap: Gap, silence: Option<Duration>, now: Instant) {
        if !self.snapshot_seen {
            info!(leases = leases.len(), "leases listed");
        }
        self.snapshot_seen = true;
        self.reasons.clear(|reason| matches!(reason, Reason::NoSnapshot));
        if let Some(subnet) = self.registrar.own().map(|own| own.subnet) {
            self.registrar
                .observe(&subnet, leases.iter().find(|lease| lease.subnet == subnet));
        }
        let long = silence > self.registrar.life() && self.registrar.life().is_some();
        self.peers
            .snapshot(leases, gap == Gap::HistoryLost || long, self.options.node, now);
    }

    fn new_config(&mut self, config: Arc<NetworkConfig>) {
        self.reasons
            .clear(|reason| matches!(reason, Reason::Config(_) | Reason::ConfigRefused(_)));
        if let Some(current) = &self.config {
            if current.same_as(&config) {
                return;
            }
            if let Some(why) = self.refuse_change(current, &config) {
                self.reasons.set(Reason::ConfigRefused(why));
                return;
            }
        }
        let networks: Vec<String> = config.networks().map(|network| network.to_string()).collect();
        info!(
            network = networks.join(","),
            backend = config.backend.kind,
            "network config read"
        );
        let mut scope: Vec<IpNet> = config.networks().collect();
        for former in &self.options.former_networks {
            if !scope.contains(former) {
                scope.push(*former);
            }
        }
        self.ownership.scope = Scope { networks: scope };
        self.config = Some(config);
        self.registrar.reconsider();
        self.peers.mark_all();
        self.reconciler.audit();
        self.look_around();
    }

    /// Why a config cannot take effect while our lease is held.
    fn refuse_change(&self, current: &NetworkConfig, config: &NetworkConfig) -> Option<String> {
        let own = self.registrar.own()?;
        let why = if !config.gives_out(&own.subnet) {
            format!(
                "the changed network config does not give out our subnet {}",
                own.subnet
            )
        } else if current.backend.kind != config.backend.kind {
            format!(
                "the backend changed from {} to {}",
                current.backend.kind, config.backend.kind
            )
        } else {
            return None;
        };
        Some(format!(
            "{why}; going on with the config as it was: restart to take up the new one"
        ))
    }

    /// Takes the kernel's answer about the host.
    pub(super) fn looked(&mut self, result: Result<HostFacts, KernelError>, started: Instant, now: Instant) {
        self.look_in_flight = false;
        self.looks.ended(started, now);
        match result {
            Err(error) => {
                self.look_wanted = true;
                self.reasons.set(Reason::Kernel(error.to_string()));
            }
            Ok(facts) => {
                self.reasons.clear(|reason| matches!(reason, Reason::Kernel(_)));
                if self.facts.as_deref() != Some(&facts) {
                    self.facts = Some(Arc::new(facts));
                    self.reconciler.retry_all();
                    self.look_around();
                }
            }
        }
    }

    /// Draws the conclusions from config and facts: uplink, what is published, what is protected.
    fn look_around(&mut self) {
        let (Some(config), Some(facts)) = (self.config.clone(), self.facts.clone()) else {
            return;
        };
        let families: Vec<Family> = config.ranges.iter().map(|(family, _)| family).collect();
        let current = self.host.as_ref().map(|host| host.uplink);
        let uplink = match choose_uplink(&self.options.uplink, &facts, &families, current.as_ref()) {
            Ok(uplink) => uplink,
            Err(error) => return self.reasons.set(Reason::Uplink(error.to_string())),
        };
        self.reasons.clear(|reason| matches!(reason, Reason::Uplink(_)));
        if current != Some(uplink) {
            info!(
                interface = %uplink.device,
                address = addresses(&uplink.addresses),
                public = addresses(&uplink.public),
                mtu = uplink.mtu,
                "uplink chosen"
            );
        }
        let host = Host { uplink, facts };
        let protected = Protected::of(&host, &self.endpoints);
        let before = self.host.as_ref();
        if before.is_none_or(|before| {
            before.uplink != uplink || before.facts.addresses() != host.facts.addresses()
        }) || self.protected != protected
        {
            self.peers.mark_all();
            self.registrar.reconsider();
        }
        self.protected = protected;
        self.publish(&config, &host);
        self.host = Some(host);
    }

    fn publish(&mut self, config: &NetworkConfig, host: &Host) {
        let Some(backend) = self
            .backends
            .iter()
            .find(|backend| backend.kind() == config.backend.kind)
        else {
            let kinds: Vec<&str> = self.backends.iter().map(|backend| backend.kind()).collect();
            return self.reasons.set(Reason::Backend(format!(
                "unknown backend type: {}; set the network config's Backend.Type to one of: {}",
                config.backend.kind,
                kinds.join(", ")
            )));
        };
        match backend.publish(host, self.registrar.own()) {
            Err(error) => self.reasons.set(Reason::Backend(error.to_string())),
            Ok(published) => {
                self.reasons.clear(|reason| matches!(reason, Reason::Backend(_)));
                self.attrs = Some(LeaseAttrs {
                    public: host.uplink.public,
                    backend: backend.kind().to_owned(),
                    backend_data: published.data,
                    backend_v6_data: published.v6_data,
                    node: Some(self.options.node),
                    unknown: Vec::new(),
                });
            }
        }
    }

    /// Something in the kernel was seen to change.
    pub(super) fn changed(&mut self, change: Changed) {
        self.look_wanted |= matches!(change, Changed::Host | Changed::Overrun);
        self.reconciler.changed(change, &self.ownership);
    }

    /// Looks at everything now.
    pub(super) const fn audit(&mut self) {
        self.look_wanted = true;
        self.reconciler.audit();
    }

    /// The kernel's tables cannot be watched, or can again.
    pub(super) fn watching(&mut self, problem: Option<String>) {
        self.reasons.hold(problem.map(Reason::Kernel), |reason| {
            matches!(reason, Reason::Kernel(_))
        });
    }

    /// Draws all conclusions: which objects ought to exist.
    pub(super) fn conclude(&mut self, now: Instant) {
        self.peers.let_go(now);
        self.registrar.decided = false;
        if let Some(own) = self.registrar.own() {
            let same = |planned: &Lease| planned.subnet == own.subnet && planned.attrs == own.attrs;
            if !self.planned_with.as_ref().is_some_and(same) {
                self.peers.mark_all();
                self.reconciler.audit();
                self.planned_with = Some(own.clone());
            }
        }
        self.plan();
        self.judge(now);
    }

    fn plan(&mut self) {
        let (Some(config), Some(host), Some(own)) = (&self.config, &self.host, &self.planned_with) else {
            return;
        };
        let Some(backend) = self
            .backends
            .iter()
            .find(|backend| backend.kind() == config.backend.kind)
        else {
            return;
        };
        let admission = Admission {
            config,
            host,
            own: own.subnet,
            protected: &self.protected,
            backend: backend.kind(),
        };
        let context = Context {
            host,
            own,
            config,
            protocol: self.ownership.protocol,
        };
        self.peers
            .plan(&admission, backend.as_ref(), &context, &mut self.reconciler);
    }

    fn judge(&mut self, now: Instant) {
        let held = self.registrar.own();
        let expired = held.filter(|own| own.expires.is_some_and(|at| at <= now));
        let lease = match (held, expired) {
            (_, Some(own)) => Some(format!(
                "the lease of {} has expired, and the store does not renew it",
                own.subnet
            )),
            (Some(_), None) => None,
            (None, _) if self.attrs.is_none() || !self.snapshot_seen => None,
            (None, _) => Some(
                self.registrar
                    .trouble()
                    .unwrap_or_else(|| NO_LEASE_YET.to_owned()),
            ),
        };
        let store = held.and_then(|_| self.registrar.trouble());
        self.reasons.hold(lease.map(Reason::Lease), |reason| {
            matches!(reason, Reason::Lease(_))
        });
        if let Some(store) = store {
            self.reasons.set(Reason::Store(store));
        } else if self.silent_since.is_none() {
            self.reasons.clear(|reason| matches!(reason, Reason::Store(_)));
        }
        if !self.settled && self.is_planned() && self.reconciler.is_settled() {
            self.settled = true;
            self.reconciler.settled = true;
            let failed = self.reconciler.failing().count();
            info!(
                peers = self.peers.admitted,
                refused = self.peers.refused,
                failed,
                "routes are in place"
            );
        }
        self.reasons.remind(now);
    }

    fn is_planned(&self) -> bool {
        self.snapshot_seen && self.planned_with.is_some() && self.host.is_some() && self.attrs.is_some()
    }

    /// What to ask of the store.
    pub(super) fn next_request(&mut self, now: Instant) -> Option<Request> {
        let (Some(config), Some(host), Some(attrs)) = (&self.config, &self.host, &self.attrs) else {
            return None;
        };
        if !self.snapshot_seen {
            return None;
        }
        let view = View {
            config,
            leases: self.peers.leases(),
            generation: self.peers.generation,
            public: host.uplink.public,
            attrs,
            protected: &self.protected,
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
        let answer = result.as_ref().ok().cloned().flatten();
        if self.registrar.done(request, result, now)
            && let Some(lease) = answer
        {
            self.peers.put(lease);
        }
    }

    /// What to do with the kernel.
    pub(super) fn next_work(&mut self, now: Instant) -> Option<Work> {
        if self.is_planned() {
            self.reconciler.next(now)
        } else {
            None
        }
    }

    /// The kernel answered a dump.
    pub(super) fn dumped(
        &mut self,
        result: Result<Vec<Object>, KernelError>,
        started: Instant,
        now: Instant,
    ) {
        let peers = &self.peers;
        self.reconciler
            .dumped(result, &self.ownership, |net| peers.is_subnet(net), started, now);
        self.note_conflicts();
    }

    /// The kernel answered a plan.
    pub(super) fn applied(&mut self, plan: &Plan, result: Result<Applied, KernelError>, now: Instant) {
        self.reconciler.applied(plan, result, &self.ownership, now);
    }

    fn note_conflicts(&mut self) {
        let own = self.planned_with.as_ref().map(|own| own.subnet);
        let in_own = |net: IpNet| own.is_some_and(|own| own.nets().any(|own| own.contains(&net)));
        let at_peer = |net: IpNet| self.peers.overlaps_peer(net);
        let found: Vec<Conflict> = conflicts(
            self.reconciler.foreign(),
            self.reconciler.want(),
            &in_own,
            &at_peer,
        )
        .collect();
        for conflict in found
            .iter()
            .filter(|conflict| !self.conflicts.contains(conflict))
            .take(LISTED)
        {
            warn!(%conflict, "a route of somebody else's");
        }
        if found.is_empty() && !self.conflicts.is_empty() {
            info!("no route of somebody else's is in the way any longer");
        }
        self.conflicts = found;
    }

    /// Whether to look at the host now.
    pub(super) fn next_look(&mut self, now: Instant) -> Option<Vec<IpAddr>> {
        let due = self.looks.last().is_none_or(|last| now >= last + LOOK_EVERY);
        if self.look_in_flight
            || self.config.is_none()
            || !(self.look_wanted || due)
            || !self.looks.allows(now)
        {
            return None;
        }
        self.look_wanted = false;
        self.look_in_flight = true;
        Some(self.options.uplink.reach())
    }

    /// What `subnet.env` ought to say.
    pub(super) fn subnet_env(&self) -> Option<SubnetEnv> {
        let (config, host, own) = (self.config.as_ref()?, self.host.as_ref()?, self.registrar.own()?);
        let backend = self
            .backends
            .iter()
            .find(|backend| backend.kind() == config.backend.kind)?;
        Some(SubnetEnv {
            networks: PerFamily::from_fn(|family| Some(config.ranges.get(family)?.network)),
            subnets: PerFamily::from_fn(|family| own.subnet.net(family)),
            mtu: Some(backend.mtu(host)),
            ip_masq: Some(self.options.ip_masq),
        })
    }

    /// The networks in which routes of ours may be: to be remembered before any is made.
    pub(super) fn networks(&self) -> Option<Vec<IpNet>> {
        let config = self.config.as_ref()?;
        Some(if self.settled {
            config.networks().collect()
        } else {
            self.ownership.scope.networks.clone()
        })
    }

    /// A file could not be written, or can again.
    pub(super) fn wrote(&mut self, problem: Option<String>) {
        self.reasons.hold(problem.map(Reason::SubnetEnv), |reason| {
            matches!(reason, Reason::SubnetEnv(_))
        });
    }

    /// When something is to be done though nothing happens before.
    pub(super) fn wake(&self) -> Option<Instant> {
        let look = match (self.look_in_flight || self.config.is_none(), self.looks.last()) {
            (true, _) => None,
            (false, None) => Some(self.looks.next_allowed()),
            (false, Some(_)) if self.look_wanted => Some(self.looks.next_allowed()),
            (false, Some(last)) => Some(last + LOOK_EVERY),
        };
        let kernel = if self.is_planned() {
            self.reconciler.wake()
        } else {
            None
        };
        let store = if self.attrs.is_some() && self.snapshot_seen {
            self.registrar.wake()
        } else {
            None
        };
        let expiry = self
            .registrar
            .own()
            .and_then(|own| own.expires)
            .filter(|at| *at > Instant::now());
        let decided = self.registrar.decided.then(Instant::now);
        let all = [
            look,
            kernel,
            store,
            expiry,
            decided,
            self.peers.wake(),
            self.reasons.wake(),
        ];
        all.into_iter().flatten().min()
    }

    /// How it all stands.
    pub(super) fn status(&self) -> Status {
        let owner_of = |id| self.peers.owner(&id);
        let missing: std::collections::BTreeSet<_> = self.reconciler.missing().filter_map(owner_of).collect();
        let failed: std::collections::BTreeSet<_> = self
            .reconciler
            .failing()
            .filter_map(|(id, _)| owner_of(id))
            .collect();
        let failures = self.reconciler.failing().take(LISTED).map(|(id, error)| Failure {
            object: id.to_string(),
            peer: owner_of(id),
            error: error.to_string(),
        });
        Status {
            lease: self.registrar.own().map(|own| LeaseStatus {
                subnet: own.subnet,
                expires: own.expires,
            }),
            uplink: self.host.as_ref().map(|host| host.uplink),
            peers: PeerCounts {
                desired: self.peers.admitted,
                installed: if self.settled || self.reconciler.is_known() {
                    self.peers.admitted.saturating_sub(missing.len())
                } else {
                    0
                },
                failed: failed.len(),
                refused: self.peers.refused,
            },
            failures: failures.collect(),
            conflicts: self.conflicts.iter().take(LISTED).cloned().collect(),
            conflict_count: self.conflicts.len(),
            reasons: self.reasons.list(),
            repairs: self.reconciler.repairs,
            settled: self.settled,
        }
    }
}

fn addresses(addresses: &PerFamily<IpAddr>) -> String {
    addresses
        .iter()
        .map(|(_, address)| address.to_string())
        .collect::<Vec<_>>()
        .join(",")
}
