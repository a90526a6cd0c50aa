//! Network devices that we make.

use std::fmt;
use std::net::IpAddr;

use crate::{DeviceName, MacAddress};

/// A network device: one of ours, or what stands under the name of one.
///
/// ```
/// use flannel_core::{Device, DeviceKind, Vxlan};
///
/// let vxlan = Vxlan { local: Some("192.0.2.1".parse().unwrap()), ..Vxlan::new(1, 8472) };
/// let device = Device {
///     name: "flannel.1".parse().unwrap(),
///     kind: DeviceKind::Vxlan(vxlan),
///     mac: "8e:bc:f1:25:6b:a8".parse().unwrap(),
///     mtu: 1450,
///     up: true,
///     accepts_advertisements: false,
///     checksum_offload: None,
/// };
/// assert!(device.to_string().starts_with("flannel.1 vxlan id 1 dstport 8472 local 192.0.2.1"));
/// let other = Device { mtu: 1400, ..device.clone() };
/// assert!(!other.satisfies(&device) && other.is_remade_for(&device).is_none());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: DeviceName,
    /// What it does.
    pub kind: DeviceKind,
    /// Its MAC address.
    pub mac: MacAddress,
    /// The longest packet that it takes, in bytes.
    pub mtu: u32,
    /// Whether it is set up (`IFF_UP`).
    pub up: bool,
    /// Whether routers on it may give it addresses and routes (`net.ipv6.conf.<device>.accept_ra`).
    /// False where there is no IPv6.
    pub accepts_advertisements: bool,
    /// Whether checksums of packets that leave by it are left to the hardware below
    /// (`tx-checksum-ip-generic`). Wanted `None`: as it is. Seen `None`: the kernel does not say.
    pub checksum_offload: Option<bool>,
}

/// What a device does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceKind {
    /// It wraps packets in UDP (RFC 7348).
    Vxlan(Vxlan),
    /// Nothing that is made here. Its kind, as `ip -d link` has it; empty for hardware.
    Other(String),
}

/// A VXLAN device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// The VXLAN network identifier, below 2^24.
    pub vni: u32,
    /// The UDP port, on both ends.
    pub port: u16,
    /// Whether packets carry a group policy id.
    pub gbp: bool,
    /// Whether it learns from what it receives where a MAC address is.
    pub learning: bool,
    /// The address of this host from which its packets leave.
    pub local: Option<IpAddr>,
    /// The device by which they leave. The kernel removes a VXLAN device with it.
    pub uplink: Option<DeviceName>,
    /// Whether it has settings that no device here ever has and that cannot be changed in place
    /// (`group`, `remote`, `external`, `proxy`, `rsc`, `l2miss`, `l3miss`).
    pub decorated: bool,
}

impl Vxlan {
    /// One with nothing but its identifier and port.
    #[must_use]
    pub const fn new(vni: u32, port: u16) -> Self {
        Self {
            vni,
            port,
            gbp: false,
            learning: false,
            local: None,
            uplink: None,
            decorated: false,
        }
    }
}

impl Device {
    /// Whether it is as `wanted`, as far as the kernel tells.
    #[must_use]
    pub fn satisfies(&self, wanted: &Self) -> bool {
        let differs = |(is, wanted): (bool, bool)| is != wanted;
        if self
            .checksum_offload
            .zip(wanted.checksum_offload)
            .is_some_and(differs)
        {
            return false;
        }
        let comparable = Self {
            checksum_offload: wanted.checksum_offload,
            ..self.clone()
        };
        comparable == *wanted
    }

    /// Whether it does what it is wanted for, though a setting may be missing that this kernel, or whoever
    /// confines this process, does not let us change.
    #[must_use]
    pub fn works_as(&self, wanted: &Self) -> bool {
        let comparable = Self {
            accepts_advertisements: wanted.accepts_advertisements,
            checksum_offload: wanted.checksum_offload,
            ..self.clone()
        };
        comparable == *wanted
    }

    /// Why it has to be removed and made again to be as `wanted`, if the kernel cannot change that in
    /// place. All that is on it goes then.
    #[must_use]
    pub fn is_remade_for(&self, wanted: &Self) -> Option<String> {
        let (DeviceKind::Vxlan(is), DeviceKind::Vxlan(wanted)) = (&self.kind, &wanted.kind) else {
            return (self.kind != wanted.kind).then(|| "it is of another kind".to_owned());
        };
        let mut why = Vec::new();
        if is.vni != wanted.vni {
            why.push(format!("its VNI is {} and ought to be {}", is.vni, wanted.vni));
        }
        if is.port != wanted.port {
            why.push(format!("its port is {} and ought to be {}", is.port, wanted.port));
        }
        if is.gbp != wanted.gbp {
            let on = |gbp| if gbp { "on" } else { "off" };
            why.push(format!(
                "GBP is {} and ought to be {}",
                on(is.gbp),
                on(wanted.gbp)
            ));
        }
        // Without a local address it is one for IPv4.
        let is_ipv6 = |vxlan: &Vxlan| vxlan.local.is_some_and(|local| local.is_ipv6());
        if is_ipv6(is) != is_ipv6(wanted) {
            why.push("its packets are of the other address family".to_owned());
        }
        // The kernel takes such a change, and does nothing.
        if is.uplink.is_some() && wanted.uplink.is_none() {
            why.push("its packets leave by one device and ought to by any".to_owned());
        }
        if is.decorated && !wanted.decorated {
            why.push("it has settings that cannot be changed (see `ip -d link`)".to_owned());
        }
        (!why.is_empty()).then(|| why.join("; "))
    }
}

impl fmt::Display for Device {
    /// Much as `ip -d link` writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        match &self.kind {
            DeviceKind::Vxlan(vxlan) => write!(f, " vxlan {vxlan}")?,
            DeviceKind::Other(kind) if kind.is_empty() => {}
            DeviceKind::Other(kind) => write!(f, " {kind}")?,
        }
        write!(f, " address {} mtu {}", self.mac, self.mtu)?;
        f.write_str(if self.up { " up" } else { " down" })?;
        if self.accepts_advertisements {
            f.write_str(" accept_ra")?;
        }
        match self.checksum_offload {
            Some(true) => f.write_str(" tx-checksum on"),
            Some(false) => f.write_str(" tx-checksum off"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Vxlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "id {} dstport {}", self.vni, self.port)?;
        if let Some(local) = self.local {
            write!(f, " local {local}")?;
        }
        if let Some(uplink) = self.uplink {
            write!(f, " dev {uplink}")?;
        }
        f.write_str(if self.learning { " learning" } else { " nolearning" })?;
        if self.gbp {
            f.write_str(" gbp")?;
        }
        if self.decorated {
            f.write_str(" ...")?;
        }
        Ok(())
    }
}
