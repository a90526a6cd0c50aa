//! The backends of a simulated network.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::{PlainRoutes, Sim, SimFamilies, SimHost};
use crate::{
    Backend, Context, DEFAULT_PROTOCOL, DataPlane, Desired, DeviceName, Host, Lease, LeaseAttrs,
    NetworkConfig, Scope, State, Uplink,
};

/// What the engines of a [`Sim`] go by.
#[derive(Debug, Clone, Copy)]
pub struct SimBackend {
    /// The `Backend` object of the network config.
    pub options: &'static str,
    /// The same with other devices, which every host is to have some time; the same again where there
    /// are none.
    pub renumbered: &'static str,
    /// Makes the backend.
    pub make: fn() -> Box<dyn Backend>,
    /// What a host with this address publishes beside it, for each family alike.
    pub data: fn(IpAddr) -> Option<Box<RawValue>>,
}

impl SimBackend {
    /// [`PlainRoutes`].
    #[must_use]
    pub fn plain() -> Self {
        const OPTIONS: &str = r#"{"Type":"host-gw"}"#;
        Self {
            options: OPTIONS,
            renumbered: OPTIONS,
            make: || Box::new(PlainRoutes),
            data: |_| None,
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        (self.make)().kind()
    }

    /// Whether there are devices to do something to.
    pub(super) fn tunnels(&self) -> bool {
        self.options != self.renumbered
    }
}

/// What the backend comes to with the network's config as it is at rest.
pub(super) struct Planning {
    config: NetworkConfig,
    data_plane: Arc<dyn DataPlane>,
    /// The devices, and those that there are some time.
    devices: Vec<DeviceName>,
}

impl Planning {
    pub(super) fn new(families: SimFamilies, backend: &SimBackend) -> Self {
        let configured = |options| {
            let config = NetworkConfig::from_json(&families.config(options)).expect("a network config");
            let data_plane = (backend.make)().configure(&config);
            (config, data_plane.expect("options that can be used"))
        };
        let (config, data_plane) = configured(backend.options);
        let mut devices = data_plane.devices();
        devices.extend(configured(backend.renumbered).1.devices());
        devices.sort_unstable();
        devices.dedup();
        Self {
            config,
            data_plane,
            devices,
        }
    }
}

impl Sim {
    /// The network config at rest.
    pub(super) fn config(&self) -> String {
        self.families.config(self.backend.options)
    }

    /// Its devices, and those that it has some time.
    pub(super) fn devices(&self) -> &[DeviceName] {
        &self.planning.devices
    }

    /// Everything that can be ours on a host.
    pub(super) fn scope(&self) -> Scope {
        Scope {
            networks: self.ranges(),
            devices: self.devices().to_vec(),
            underlay: false,
        }
    }

    /// Has the backend plan for a host as it is now.
    pub(super) fn planner(&self, host: &SimHost) -> Planner<'_> {
        let facts = host.kernel.facts_now();
        let device = "eth0".parse().expect("a device name");
        let addresses = self.addresses(host);
        let uplink = Uplink {
            device,
            mtu: facts.link(&device).map_or(1500, |link| link.mtu),
            addresses,
            public: addresses,
        };
        let held = host.own_subnet();
        let mut leases = self.store.leases().into_iter();
        // While it holds none it plans with one that is nobody's.
        let nobodys = || Lease::new("192.0.2.0/24".parse().expect("a subnet"), LeaseAttrs::default());
        let own = leases.find(|lease| Some(lease.subnet) == held);
        Planner {
            planning: &self.planning,
            host: Host {
                node: host.node(),
                uplink,
                facts: Arc::new(facts),
            },
            own: own.unwrap_or_else(nobodys),
        }
    }
}

/// A backend with everything that it plans with.
pub(super) struct Planner<'a> {
    planning: &'a Planning,
    host: Host,
    own: Lease,
}

impl Planner<'_> {
    fn context(&self) -> Context<'_> {
        Context {
            host: &self.host,
            own: &self.own,
            config: &self.planning.config,
            protocol: DEFAULT_PROTOCOL,
        }
    }

    /// What is wanted whoever the peers are.
    pub(super) fn base(&self) -> State {
        let mut desired = Desired::default();
        self.planning.data_plane.base(&self.context(), &mut desired);
        desired.into_state()
    }

    /// What a peer asks for; `None` where the backend leaves it out.
    pub(super) fn peer(&self, lease: &Lease) -> Option<State> {
        let mut desired = Desired::default();
        let planned = self
            .planning
            .data_plane
            .peer(&self.context(), lease, &mut desired);
        planned.ok().map(|()| desired.into_state())
    }
}
