//! Backends as traits: from leases to the kernel objects that ought to exist.

use std::sync::Arc;

use serde_json::value::RawValue;
use thiserror::Error;

use crate::{DeviceName, Family, Host, Lease, NetworkConfig, Object, ObjectId, State};

/// A way for hosts to reach each other's subnets that a network config can name.
pub trait Backend: Send + Sync {
    /// The name in the network config and in leases, `host-gw`.
    fn kind(&self) -> &'static str;

    /// The options that it knows, so that a misspelt one can be told of.
    fn options(&self) -> &'static [&'static str] {
        &[]
    }

    /// What it comes to with the options of this network.
    ///
    /// # Errors
    ///
    /// [`BackendError`], when an option has a value that it cannot have.
    fn configure(&self, config: &NetworkConfig) -> Result<Arc<dyn DataPlane>, BackendError>;
}

/// A backend with the options of one network. Pure and synchronous: facts in, objects out. It never
/// sees the kernel, the store or the clock.
pub trait DataPlane: Send + Sync {
    /// The devices that it makes. Everything under these names is its own.
    fn devices(&self) -> Vec<DeviceName> {
        Vec::new()
    }

    /// Whether it goes by [`HostFacts::underlay`](crate::HostFacts).
    fn follows_underlay(&self) -> bool {
        false
    }

    /// The MTU, in bytes, that is left for pods.
    fn mtu(&self, host: &Host) -> u32;

    /// What this host publishes beside its addresses; `before` is its lease as it stands.
    ///
    /// # Errors
    ///
    /// [`BackendError`], when the backend cannot work on this host as it is.
    fn publish(&self, host: &Host, before: Option<&Lease>) -> Result<Published, BackendError>;

    /// What ought to exist whoever the peers are: devices and their addresses.
    fn base(&self, context: &Context<'_>, out: &mut Desired) {
        let _ = (context, out);
    }

    /// What ought to exist for one peer.
    ///
    /// # Errors
    ///
    /// [`Skip`], when nothing can be done for this peer.
    fn peer(&self, context: &Context<'_>, peer: &Lease, out: &mut Desired) -> Result<(), Skip>;
}

/// What a backend publishes in the lease.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// `BackendData`, raw JSON.
    pub data: Option<Box<RawValue>>,
    /// `BackendV6Data`, raw JSON.
    pub v6_data: Option<Box<RawValue>>,
}

/// What backends plan with.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// This host.
    pub host: &'a Host,
    /// Its lease.
    pub own: &'a Lease,
    /// The network.
    pub config: &'a NetworkConfig,
    /// The protocol that marks our routes.
    pub protocol: u8,
}

impl Context<'_> {
    /// The families that the network has and in which this host is reachable.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        let addresses = self.host.uplink.addresses;
        self.config
            .ranges
            .iter()
            .map(|(family, _)| family)
            .filter(move |family| addresses.get(*family).is_some())
    }
}

/// The objects that ought to exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired(State);

impl Desired {
    /// Asks for an object. The last of two with one identity stays.
    pub fn insert(&mut self, object: impl Into<Object>) {
        let object = object.into();
        self.0.insert(object.id(), object);
    }

    /// Which objects were asked for.
    pub(crate) fn ids(&self) -> impl Iterator<Item = ObjectId> + '_ {
        self.0.keys().copied()
    }

    /// What was asked for.
    #[must_use]
    pub fn into_state(self) -> State {
        self.0
    }
}

/// Why a backend cannot work on this host as it is.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{backend}: {problem}")]
pub struct BackendError {
    /// The backend's name.
    pub backend: &'static str,
    /// What is wrong, and what to do about it.
    pub problem: String,
}

/// Why a backend leaves a peer out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Skip(pub String);
