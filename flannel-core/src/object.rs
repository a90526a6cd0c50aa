//! Kernel objects as values: what there is, and what ought to be.

mod device;
mod link_layer;
mod route;

use std::collections::BTreeMap;
use std::fmt;

use crate::DeviceName;

pub use device::{Device, DeviceKind, Vxlan};
pub use link_layer::{Address, AddressId, Forwarding, ForwardingId, Neighbour, NeighbourId};
pub use route::{Hop, Hops, PROTOCOL_BOOT, PROTOCOL_KERNEL, Route, RouteId, RouteKind};

/// What tells one kernel object from another, as the kernel does it. The order of the variants is
/// the order of creation; removal goes the other way. A peer's forwarding entry comes before the
/// neighbour that leads to it, so that a peer whose MAC address changes is reachable throughout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ObjectId {
    /// A device of ours.
    Device(DeviceName),
    /// An address of such a device.
    Address(AddressId),
    /// An entry of such a device's forwarding database.
    Forwarding(ForwardingId),
    /// A neighbour on such a device.
    Neighbour(NeighbourId),
    /// A route in table main.
    Route(RouteId),
}

/// A kernel object.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Object {
    /// A device of ours.
    Device(Device),
    /// An address of such a device.
    Address(Address),
    /// An entry of such a device's forwarding database.
    Forwarding(Forwarding),
    /// A neighbour on such a device.
    Neighbour(Neighbour),
    /// A route in table main.
    Route(Route),
}

impl Object {
    /// Which one it is.
    #[must_use]
    pub const fn id(&self) -> ObjectId {
        match self {
            Self::Device(device) => ObjectId::Device(device.name),
            Self::Address(address) => ObjectId::Address(address.id),
            Self::Forwarding(entry) => ObjectId::Forwarding(entry.id),
            Self::Neighbour(neighbour) => ObjectId::Neighbour(neighbour.id),
            Self::Route(route) => ObjectId::Route(route.id),
        }
    }

    /// Whether it is as `wanted`. What nobody asked for may be as it likes.
    #[must_use]
    pub fn satisfies(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::Device(device), Self::Device(wanted)) => device.satisfies(wanted),
            _ => self == wanted,
        }
    }

    /// Whether it goes when this device goes. A device does not rest on itself.
    #[must_use]
    pub fn rests_on(&self, device: &DeviceName) -> bool {
        match self {
            Self::Device(_) => false,
            Self::Route(route) => route.hops.as_slice().iter().any(|hop| hop.device == *device),
            Self::Address(_) | Self::Forwarding(_) | Self::Neighbour(_) => {
                self.id().device() == Some(*device)
            }
        }
    }
}

impl ObjectId {
    /// The device that it is.
    #[must_use]
    pub const fn as_device(&self) -> Option<DeviceName> {
        match self {
            Self::Device(device) => Some(*device),
            _ => None,
        }
    }

    /// The device that it is, or is on. Routes lead over devices, and are on none.
    #[must_use]
    pub const fn device(&self) -> Option<DeviceName> {
        match self {
            Self::Device(device) => Some(*device),
            Self::Address(id) => Some(id.device),
            Self::Forwarding(id) => Some(id.device),
            Self::Neighbour(id) => Some(id.device),
            Self::Route(_) => None,
        }
    }
}

impl From<Device> for Object {
    fn from(device: Device) -> Self {
        Self::Device(device)
    }
}

impl From<Address> for Object {
    fn from(address: Address) -> Self {
        Self::Address(address)
    }
}

impl From<Forwarding> for Object {
    fn from(entry: Forwarding) -> Self {
        Self::Forwarding(entry)
    }
}

impl From<Neighbour> for Object {
    fn from(neighbour: Neighbour) -> Self {
        Self::Neighbour(neighbour)
    }
}

impl From<Route> for Object {
    fn from(route: Route) -> Self {
        Self::Route(route)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(name) => write!(f, "device {name}"),
            Self::Address(id) => id.fmt(f),
            Self::Forwarding(id) => id.fmt(f),
            Self::Neighbour(id) => id.fmt(f),
            Self::Route(id) => id.fmt(f),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(device) => device.fmt(f),
            Self::Address(address) => address.fmt(f),
            Self::Forwarding(entry) => entry.fmt(f),
            Self::Neighbour(neighbour) => neighbour.fmt(f),
            Self::Route(route) => route.fmt(f),
        }
    }
}

/// Kernel objects, sorted in the order of their creation.
pub type State = BTreeMap<ObjectId, Object>;
