//! What is on a device: its addresses, its neighbours, and where it sends frames.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::{DeviceName, MacAddress};

/// What tells addresses apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressId {
    /// Whose.
    pub device: DeviceName,
    /// The address with the length of its on-link prefix.
    pub net: IpNet,
}

/// An address of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Which one it is.
    pub id: AddressId,
    /// Lives until somebody removes it.
    pub permanent: bool,
}

impl Address {
    /// One that stays.
    #[must_use]
    pub const fn permanent(device: DeviceName, net: IpNet) -> Self {
        Self {
            id: AddressId { device, net },
            permanent: true,
        }
    }
}

/// What tells neighbours apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NeighbourId {
    /// On which device.
    pub device: DeviceName,
    /// Its address.
    pub address: IpAddr,
}

/// A permanent neighbour: a host on a device's link whose MAC address need not be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Which one it is.
    pub id: NeighbourId,
    /// Its MAC address.
    pub mac: MacAddress,
}

/// What tells the entries of forwarding databases apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ForwardingId {
    /// Of which device.
    pub device: DeviceName,
    /// For which MAC address.
    pub mac: MacAddress,
    /// Group addresses, and the one of all zeros, can have several entries: 0 is the first.
    pub position: u16,
}

/// A permanent entry of a VXLAN device's forwarding database: to which host frames for a MAC address go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarding {
    /// Which one it is.
    pub id: ForwardingId,
    /// The host. `None` for one that no entry here ever is.
    pub host: Option<IpAddr>,
    /// Whether it has a port, an identifier or a device of its own, as no entry here ever has.
    pub decorated: bool,
}

impl Forwarding {
    /// Frames for `mac` go to `host`.
    #[must_use]
    pub const fn to(device: DeviceName, mac: MacAddress, host: IpAddr) -> Self {
        Self {
            id: ForwardingId {
                device,
                mac,
                position: 0,
            },
            host: Some(host),
            decorated: false,
        }
    }
}

impl fmt::Display for AddressId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "address {} dev {}", self.net, self.device)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)?;
        f.write_str(if self.permanent { "" } else { " dynamic" })
    }
}

impl fmt::Display for NeighbourId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "neighbour {} dev {}", self.address, self.device)
    }
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lladdr {}", self.id, self.mac)
    }
}

impl fmt::Display for ForwardingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fdb {} dev {}", self.mac, self.device)?;
        if self.position == 0 {
            Ok(())
        } else {
            write!(f, " ({} more before it)", self.position)
        }
    }
}

impl fmt::Display for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)?;
        if let Some(host) = self.host {
            write!(f, " dst {host}")?;
        }
        f.write_str(if self.decorated { " ..." } else { "" })
    }
}
