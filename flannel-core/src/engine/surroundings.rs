//! What the network's config and the facts about the host come to: uplink, what is published, what
//! is protected. No I/O.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::value::RawValue;
use tokio::time::Instant;
use tracing::info;

use super::checks::Checks;
use super::pace::Pace;
use super::reasons::Reasons;
use crate::preflight::published_twice;
use crate::spelling::nearest;
use crate::{
    Backend, DataPlane, DeviceName, Family, Filter, Host, HostFacts, KernelError, Lease, LeaseAttrs, Leases,
    Misspelt, NetworkConfig, NodeId, PerFamily, Protected, Reason, Uplink, UplinkOptions, choose_uplink,
};

/// The host is looked at this often even when it is silent.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What an engine goes by, apart from leases.
pub(super) struct Surroundings {
    node: NodeId,
    uplink: UplinkOptions,
    backends: Vec<Box<dyn Backend>>,
    endpoints: Vec<IpAddr>,
    config: Option<Arc<NetworkConfig>>,
    /// What the config's backend comes to with its options.
    data_plane: Option<Arc<dyn DataPlane>>,
    /// A config that cannot take effect while our lease is held.
    refused: Option<Arc<NetworkConfig>>,
    facts: Option<Arc<HostFacts>>,
    host: Option<Host>,
    /// Whether the uplink of `host` is gone at present.
    uplink_lost: bool,
    attrs: Option<LeaseAttrs>,
    /// The backend's data of the lease that `attrs` were worked out with; `None`: they are to be worked
    /// out anew.
    published_over: Option<[Option<String>; 2]>,
    protected: Protected,
    checks: Checks,
    look_wanted: bool,
    looking: bool,
    looks: Pace,
}

/// Whether plans are to be made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing that a plan goes by.
    None,
    /// Something that every plan goes by.
    Replan,
}

impl Surroundings {
    pub(super) fn new(
        node: NodeId,
        uplink: UplinkOptions,
        backends: Vec<Box<dyn Backend>>,
        endpoints: Vec<IpAddr>,
    ) -> Self {
        Self {
            node,
            uplink,
            backends,
            endpoints,
            config: None,
            data_plane: None,
            refused: None,
            facts: None,
            host: None,
            uplink_lost: false,
            attrs: None,
            published_over: None,
            protected: Protected::default(),
            checks: Checks::default(),
            look_wanted: true,
            looking: false,
            looks: Pace::default(),
        }
    }

    pub(super) fn config(&self) -> Option<&NetworkConfig> {
        self.config.as_deref()
    }

    pub(super) const fn host(&self) -> Option<&Host> {
        self.host.as_ref()
    }

    /// What this host publishes, once that is known.
    pub(super) const fn attrs(&self) -> Option<&LeaseAttrs> {
        self.attrs.as_ref()
    }

    pub(super) const fn protected(&self) -> &Protected {
        &self.protected
    }

    /// The backend that the config names.
    pub(super) fn backend(&self) -> Option<&dyn Backend> {
        self.backend_of(self.config()?)
    }

    /// The same with its options, where they can be used.
    pub(super) fn data_plane(&self) -> Option<&dyn DataPlane> {
        self.data_plane.as_deref()
    }

    /// The devices that it makes.
    pub(super) fn devices(&self) -> Vec<DeviceName> {
        self.data_plane().map(DataPlane::devices).unwrap_or_default()
    }

    /// Whether it goes by the routes by which other hosts are reached.
    pub(super) fn follows_underlay(&self) -> bool {
        self.data_plane().is_some_and(DataPlane::follows_underlay)
    }

    /// The devices that it would make by another config; none if that is of no use.
    pub(super) fn devices_of(&self, config: &NetworkConfig) -> Vec<DeviceName> {
        let data_plane = self.configure(config);
        data_plane
            .map(|data_plane| data_plane.devices())
            .unwrap_or_default()
    }

    fn backend_of(&self, config: &NetworkConfig) -> Option<&dyn Backend> {
        let mut backends = self.backends.iter().map(AsRef::as_ref);
        backends.find(|backend: &&dyn Backend| backend.kind() == config.backend.kind)
    }

    fn configure(&self, config: &NetworkConfig) -> Result<Arc<dyn DataPlane>, String> {
        let backend = self
            .backend_of(config)
            .ok_or_else(|| self.unknown_backend(config))?;
        backend.configure(config).map_err(|error| error.to_string())
    }

    fn unknown_backend(&self, config: &NetworkConfig) -> String {
        let kinds: Vec<&str> = self.backends.iter().map(|backend| backend.kind()).collect();
        let meant = nearest(&config.backend.kind, kinds.iter().copied());
        let meant = meant.map_or_else(String::new, |kind| format!("; was {kind:?} meant?"));
        format!(
            "unknown backend type: {}; set the network config's Backend.Type to one of: {}{meant}",
            config.backend.kind,
            kinds.join(", ")
        )
    }

    /// Takes up a config, unless our lease stands against it. The answer is the config that it
    /// replaces, or `None` when nothing changed.
    pub(super) fn new_config(
        &mut self,
        config: Arc<NetworkConfig>,
        own: Option<&Lease>,
        reasons: &mut Reasons,
    ) -> Option<Replaced> {
        reasons.clear(|reason| matches!(reason, Reason::Config(_) | Reason::ConfigRefused(_)));
        self.refused = None;
        let mut misspelt = config.misspelt.clone();
        if let Some(backend) = self.backend_of(&config) {
            misspelt.extend(config.backend.misspelt(backend.options()));
        }
        let doubt = (!misspelt.is_empty()).then(|| Reason::ConfigDoubt(doubt(&misspelt)));
        reasons.hold(doubt, |reason| matches!(reason, Reason::ConfigDoubt(_)));
        if self
            .config
            .as_ref()
            .is_some_and(|current| current.same_as(&config))
        {
            return None;
        }
        let configured = self.configure(&config);
        if self.config.is_some() {
            if let (Err(why), Some(_)) = (&configured, &self.data_plane) {
                reasons.set(Reason::ConfigRefused(format!(
                    "{why}; going on with the config as it was"
                )));
                return None;
            }
            if let Some(why) = own.and_then(|own| refusal(&config, own)) {
                reasons.set(Reason::ConfigRefused(why));
                self.refused = Some(config);
                return None;
            }
        }
        let networks: Vec<String> = config.networks().map(|network| network.to_string()).collect();
        info!(
            network = networks.join(","),
            backend = config.backend.kind,
            "network config read"
        );
        let unusable = configured.as_ref().err().cloned();
        reasons.hold(unusable.map(Reason::Backend), |reason| {
            matches!(reason, Reason::Backend(_))
        });
        self.data_plane = configured.ok();
        self.checks = Checks::of(self.data_plane.as_deref());
        let before = self.config.replace(config);
        self.look_around(reasons);
        Some(Replaced(before))
    }

    /// The config that was refused, once no lease stands against it.
    pub(super) const fn take_refused(&mut self) -> Option<Arc<NetworkConfig>> {
        self.refused.take()
    }

    /// Asks for a look at the host.
    pub(super) const fn look(&mut self) {
        self.look_wanted = true;
    }

    /// Whether to look at the host now; the answer is what is to be reached.
    pub(super) fn next_look(&mut self, now: Instant) -> Option<Vec<IpAddr>> {
        let due = self.looks.is_due(self.look_wanted, LOOK_EVERY, now);
        if self.looking || self.config.is_none() || !due {
            return None;
        }
        self.look_wanted = false;
        self.looking = true;
        Some(self.uplink.reach())
    }

    /// When [`Surroundings::next_look`] has something to do.
    pub(super) fn wake(&self) -> Option<Instant> {
        let idle = !self.looking && self.config.is_some();
        idle.then(|| self.looks.next(self.look_wanted, LOOK_EVERY))
    }

    /// Takes the kernel's answer about the host.
    pub(super) fn looked(
        &mut self,
        result: Result<HostFacts, KernelError>,
        started: Instant,
        now: Instant,
        reasons: &mut Reasons,
    ) -> Effect {
        self.looking = false;
        let facts = match result {
            Ok(facts) => facts,
            Err(error) => {
                self.look_wanted = true;
                self.looks.failed(now);
                reasons.set(Reason::Host(error.to_string()));
                return Effect::None;
            }
        };
        self.looks.ended(started, now);
        reasons.clear(|reason| matches!(reason, Reason::Host(_)));
        if self.facts.as_deref() == Some(&facts) {
            return Effect::None;
        }
        self.facts = Some(Arc::new(facts));
        self.look_around(reasons)
    }

    /// Says what the operator has set up otherwise than this network needs it. `rival` is what is known
    /// of another host that publishes our address, `filters` what [`Checks::judge`] says.
    pub(super) fn check(
        &mut self,
        own: Option<&Lease>,
        leases: &Leases,
        rival: Option<String>,
        filters: Option<&[Filter]>,
        reasons: &mut Reasons,
    ) {
        let (Some(config), Some(host)) = (&self.config, &self.host) else {
            return;
        };
        self.checks
            .judge(config, host, own.map(|own| own.subnet), leases, filters, reasons);
        // Where the backend refuses to publish an address, nobody asks for a lease with it.
        let refused = self.attrs.is_none();
        let twice = || published_twice(host, self.node, leases).filter(|_| refused);
        reasons.hold(rival.or_else(twice).map(Reason::Address), |reason| {
            matches!(reason, Reason::Address(_))
        });
    }

    /// Draws the conclusions.
    fn look_around(&mut self, reasons: &mut Reasons) -> Effect {
        let (Some(config), Some(facts)) = (&self.config, &self.facts) else {
            return Effect::None;
        };
        let families: Vec<Family> = config.ranges.iter().map(|(family, _)| family).collect();
        let current = self.host.as_ref().map(|host| host.uplink);
        let (uplink, whole) = match choose_uplink(&self.uplink, facts, &families, current.as_ref()) {
            Ok(uplink) => (uplink, true),
            Err(error) => {
                self.uplink_lost = true;
                reasons.set(Reason::Uplink(error.to_string()));
                // That one family has no way does not hold up the other.
                match current.and_then(|current| partly(&self.uplink, facts, &families, current)) {
                    Some(uplink) if Some(uplink) != current => (uplink, false),
                    _ => return Effect::None,
                }
            }
        };
        if whole {
            reasons.clear(|reason| matches!(reason, Reason::Uplink(_)));
        }
        let back = whole && std::mem::take(&mut self.uplink_lost);
        if current != Some(uplink) {
            info!(
                interface = %uplink.device,
                address = list(&uplink.addresses),
                public = list(&uplink.public),
                mtu = uplink.mtu,
                "uplink chosen"
            );
        }
        let host = Host {
            node: self.node,
            uplink,
            facts: facts.clone(),
        };
        let protected = Protected::of(&host, &self.endpoints);
        let follows_underlay = self.follows_underlay();
        let networks: Vec<IpNet> = config.networks().collect();
        let same = self.host.as_ref().is_some_and(|before| {
            let underlay = |host: &Host| host.facts.underlay.outside(&networks);
            before.same_for_plans(&host) && (!follows_underlay || underlay(before) == underlay(&host))
        });
        let effect = if same && !back && self.protected == protected {
            Effect::None
        } else {
            Effect::Replan
        };
        self.protected = protected;
        self.published_over = None;
        self.host = Some(host);
        effect
    }

    /// Works out what to publish. `before` is the lease that is ours, or was in an earlier run.
    pub(super) fn publish(&mut self, before: Option<&Lease>, reasons: &mut Reasons) {
        let (Some(config), Some(host), Some(data_plane)) = (self.config(), self.host(), self.data_plane())
        else {
            return;
        };
        let text = |data: &Option<Box<RawValue>>| data.as_ref().map(|data| data.get().to_owned());
        let data = before.map(|before| [&before.attrs.backend_data, &before.attrs.backend_v6_data]);
        let over = data.map_or_else(Default::default, |data| data.map(text));
        if self.published_over.as_ref() == Some(&over) {
            return;
        }
        match data_plane.publish(host, before) {
            Err(error) => reasons.set(Reason::Backend(error.to_string())),
            Ok(published) => {
                reasons.clear(|reason| matches!(reason, Reason::Backend(_)));
                self.attrs = Some(LeaseAttrs {
                    public: host.uplink.public,
                    backend: config.backend.kind.clone(),
                    backend_data: published.data,
                    backend_v6_data: published.v6_data,
                    node: Some(self.node),
                    unknown: Vec::new(),
                });
            }
        }
        self.published_over = Some(over);
    }
}

/// The uplink as it is in the families that have one, and as it was in the others.
fn partly(
    options: &UplinkOptions,
    facts: &HostFacts,
    families: &[Family],
    current: Uplink,
) -> Option<Uplink> {
    let mut uplink = None;
    for family in families {
        let found = choose_uplink(options, facts, &[*family], Some(&current)).ok();
        let Some(found) = found.filter(|found| found.device == current.device) else {
            continue;
        };
        let partly = uplink.get_or_insert(current);
        partly.mtu = found.mtu;
        partly
            .addresses
            .set(*family, found.addresses.get(*family).copied());
        partly.public.set(*family, found.public.get(*family).copied());
    }
    uplink
}

/// That members of the config are as good as not there.
fn doubt(misspelt: &[Misspelt]) -> String {
    let texts: Vec<String> = misspelt.iter().map(ToString::to_string).collect();
    format!("{} (what nobody knows is ignored)", texts.join("; "))
}

/// A config took effect; before it there was this one.
pub(super) struct Replaced(pub(super) Option<Arc<NetworkConfig>>);

impl Host {
    /// Whether plans that went by one are right by the other: pods that come and go are not asked about.
    fn same_for_plans(&self, other: &Self) -> bool {
        let link = |host: &Self| {
            host.facts
                .link(&host.uplink.device)
                .map(|link| (link.index, link.up))
        };
        self.uplink == other.uplink
            && link(self) == link(other)
            && self.facts.addresses() == other.facts.addresses()
    }
}

/// Why a config cannot take effect while our lease is held.
fn refusal(config: &NetworkConfig, own: &Lease) -> Option<String> {
    let why = if !config.gives_out(&own.subnet) {
        format!(
            "the changed network config does not give out our subnet {}",
            own.subnet
        )
    } else if own.attrs.backend != config.backend.kind {
        format!(
            "the backend changed from {} to {}",
            own.attrs.backend, config.backend.kind
        )
    } else {
        return None;
    };
    Some(format!(
        "{why}; going on with the config as it was: restart to take up the new one"
    ))
}

fn list(addresses: &PerFamily<IpAddr>) -> String {
    let addresses = addresses.iter().map(|(_, address)| address.to_string());
    addresses.collect::<Vec<_>>().join(",")
}
