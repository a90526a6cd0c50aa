//! Routes of table main.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::{DeviceName, Family};

/// What tells routes of table main apart in the kernel's FIB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId {
    /// Where it leads, host bits cut off.
    pub destination: IpNet,
    /// The type of service that it is for: 0 for all. Always 0 for IPv6.
    pub tos: u8,
    /// The priority: lower wins. For IPv6 the kernel stores 1024 where 0 is asked for.
    pub metric: u32,
    /// IPv4 routes of one destination, type of service and metric can be stacked
    /// (`ip route append`): 0 is the one that forwards, the others wait behind it.
    pub position: u16,
}

impl RouteId {
    /// The route to `destination` for all types of service, with the default metric.
    #[must_use]
    pub fn to(destination: IpNet) -> Self {
        let metric = Self::default_metric(Family::of_net(destination));
        Self {
            destination: destination.trunc(),
            tos: 0,
            metric,
            position: 0,
        }
    }

    /// The metric of a route that was added without one: 0, and `IP6_RT_PRIO_USER` for IPv6.
    #[must_use]
    pub const fn default_metric(family: Family) -> u32 {
        match family {
            Family::V4 => 0,
            Family::V6 => 1024,
        }
    }
}

/// A route in table main.
///
/// ```
/// use flannel_core::{Hop, Route};
///
/// let hop = Hop::via("192.0.2.7".parse().unwrap(), "eth0".parse().unwrap());
/// let route = Route::unicast("10.5.7.0/24".parse().unwrap(), hop, 70);
/// assert_eq!(route.to_string(), "10.5.7.0/24 via 192.0.2.7 dev eth0 proto 70");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Which one it is.
    pub id: RouteId,
    /// What it does.
    pub kind: RouteKind,
    /// Who made it: a `RTPROT_` number of `linux/rtnetlink.h`. 3 is boot, 4 static, 2 the kernel.
    pub protocol: u8,
    /// Where packets go next. Empty for a route that drops them; several for multipath.
    pub hops: Hops,
    /// The source address that it prefers.
    pub source: Option<IpAddr>,
    /// The scope of an IPv4 route (`RT_SCOPE_`): 0 universe, 253 link. Always 0 for IPv6.
    pub scope: u8,
    /// Whether it carries metrics or attributes that no route here ever has (an MTU, an
    /// encapsulation, a lifetime), so that it equals none.
    pub decorated: bool,
}

/// The protocol of a bare `ip route add`, and of flannel's routes.
pub const PROTOCOL_BOOT: u8 = 3;

/// The protocol of the routes that the kernel makes itself.
pub const PROTOCOL_KERNEL: u8 = 2;

impl Route {
    /// A plain route over one hop, with the default metric.
    #[must_use]
    pub fn unicast(destination: IpNet, hop: Hop, protocol: u8) -> Self {
        const SCOPE_LINK: u8 = 253;
        let on_link = hop.gateway.is_none() && matches!(destination, IpNet::V4(_));
        Self {
            id: RouteId::to(destination),
            kind: RouteKind::Unicast,
            protocol,
            hops: Hops::One(hop),
            source: None,
            scope: if on_link { SCOPE_LINK } else { 0 },
            decorated: false,
        }
    }

    /// A route that drops what no better one takes, as that of a bridge with the same destination is.
    #[must_use]
    pub fn blackhole(destination: IpNet, protocol: u8) -> Self {
        Self {
            id: RouteId {
                metric: BLACKHOLE_METRIC,
                ..RouteId::to(destination)
            },
            kind: RouteKind::Blackhole,
            protocol,
            hops: Hops::None,
            source: None,
            scope: 0,
            decorated: false,
        }
    }
}

/// Behind every route that somebody else may have to the same destination: the kernel's own has 0 in
/// IPv4 and 256 in IPv6, and those of DHCP clients and the like some hundreds or thousands.
const BLACKHOLE_METRIC: u32 = 65_535;

/// What a route does with a packet (`RTN_` in `linux/rtnetlink.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RouteKind {
    /// Sends it to the next hop.
    Unicast,
    /// Drops it without a word.
    Blackhole,
    /// Drops it and says "host unreachable".
    Unreachable,
    /// Any other, by its number.
    Other(u8),
}

/// The hops of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hops {
    /// None: the route drops packets.
    None,
    /// One.
    One(Hop),
    /// Several, with weights.
    Many(Vec<Hop>),
    /// A nexthop object, by its id.
    Object(u32),
}

impl Hops {
    /// All of them.
    #[must_use]
    pub fn as_slice(&self) -> &[Hop] {
        match self {
            Self::None | Self::Object(_) => &[],
            Self::One(hop) => std::slice::from_ref(hop),
            Self::Many(hops) => hops,
        }
    }
}

/// Where a packet goes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hop {
    /// The host that it is handed to; `None` when the destination is on the link itself.
    pub gateway: Option<IpAddr>,
    /// Out of which device.
    pub device: DeviceName,
    /// Take the gateway to be on the link, whatever the addresses say (`RTNH_F_ONLINK`).
    pub onlink: bool,
}

impl Hop {
    /// Via a gateway that is on the device's link.
    #[must_use]
    pub const fn via(gateway: IpAddr, device: DeviceName) -> Self {
        Self {
            gateway: Some(gateway),
            device,
            onlink: false,
        }
    }
}

impl fmt::Display for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        if self.tos != 0 {
            write!(f, " tos {:#x}", self.tos)?;
        }
        if self.metric != Self::default_metric(Family::of_net(self.destination)) {
            write!(f, " metric {}", self.metric)?;
        }
        if self.position != 0 {
            write!(f, " (shadowed)")?;
        }
        Ok(())
    }
}

impl fmt::Display for Route {
    /// As `ip route` writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RouteKind::Unicast => {}
            RouteKind::Blackhole => f.write_str("blackhole ")?,
            RouteKind::Unreachable => f.write_str("unreachable ")?,
            RouteKind::Other(number) => write!(f, "type {number} ")?,
        }
        write!(f, "{}", self.id)?;
        if let Hops::Object(id) = self.hops {
            write!(f, " nhid {id}")?;
        }
        for hop in self.hops.as_slice() {
            hop.fmt(f)?;
        }
        match self.protocol {
            PROTOCOL_KERNEL => f.write_str(" proto kernel"),
            PROTOCOL_BOOT => f.write_str(" proto boot"),
            4 => f.write_str(" proto static"),
            number => write!(f, " proto {number}"),
        }
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        write!(f, " dev {}", self.device)?;
        if self.onlink {
            f.write_str(" onlink")
        } else {
            Ok(())
        }
    }
}
