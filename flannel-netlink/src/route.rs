//! Routes as the kernel writes them, and back. Pure.

use std::collections::HashMap;
use std::net::IpAddr;

use flannel_core::{DeviceName, Family, Hop, Hops, Route, RouteId, RouteKind};
use ipnet::IpNet;
use netlink_packet_core::{DecodeError, NlaBuffer, NlasIterator, ParseableParametrized};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteLwEnCapType, RouteMessage, RouteNextHop,
    RouteNextHopFlags, RoutePreference, RouteType, RouteVia,
};

use crate::attribute::address;
use crate::link::Names;

/// The most hops of a multipath route: an attribute holds 64 KiB, and a hop takes up to 32 bytes.
const HOPS_MAX: usize = 1024;

/// `LOOPBACK_IFINDEX` in the kernel's `net/flow.h`.
const LOOPBACK: u32 = 1;

/// `struct rtmsg` in `linux/rtnetlink.h`.
const HEADER_LEN: usize = 12;

/// `RTA_DST`, `RTA_GATEWAY` and `RTA_VIA` in `linux/rtnetlink.h`.
const ATTR_DESTINATION: u16 = 1;
const ATTR_GATEWAY: u16 = 5;
const ATTR_VIA: u16 = 18;

/// A route as the kernel tells of it, with devices by their index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SeenRoute {
    pub(crate) id: RouteId,
    pub(crate) kind: RouteType,
    pub(crate) hops: Vec<SeenHop>,
    protocol: u8,
    scope: u8,
    table: u32,
    /// A copy for one destination (an exception of the path MTU, say) and no entry of the table.
    cloned: bool,
    multipath: bool,
    nexthop_object: Option<u32>,
    source: Option<IpAddr>,
    decorated: bool,
}

/// One hop of a [`SeenRoute`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SeenHop {
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) device: u32,
    onlink: bool,
}

/// As much of a route as can be had without reading it in full: a host may have many that are of no concern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Glance {
    pub(crate) destination: IpNet,
    /// Whether it is no multipath route and leads through a gateway.
    pub(crate) has_gateway: bool,
}

/// What a route is encoded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Make,
    /// The kernel takes what is left out for "any", so that nothing is left out that it compares.
    Remove,
}

/// Why a route cannot be put into a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unencodable {
    NoDevice(DeviceName),
    TooManyHops(usize),
}

/// The message's part that says which route it is about.
pub(crate) fn encode(
    route: &Route,
    purpose: Purpose,
    index: impl Fn(&DeviceName) -> Option<u32>,
) -> Result<RouteMessage, Unencodable> {
    let destination = route.id.destination;
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: address_family(Family::of_net(destination)),
        destination_prefix_length: destination.prefix_len(),
        tos: route.id.tos,
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: route.protocol.into(),
        scope: route.scope.into(),
        kind: kind_to_wire(route.kind),
        ..RouteHeader::default()
    };
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Destination(destination.addr().into()));
    attributes.push(RouteAttribute::Priority(route.id.metric));
    attributes.extend(
        route
            .source
            .map(|source| RouteAttribute::PrefSource(source.into())),
    );
    let resolve = |hop: &Hop| index(&hop.device).ok_or(Unencodable::NoDevice(hop.device));
    match &route.hops {
        // The kernel compares the type only for IPv4, but has IPv6 routes that drop packets on the
        // loopback device, where no others are.
        Hops::None if purpose == Purpose::Remove && matches!(destination, IpNet::V6(_)) => {
            attributes.push(RouteAttribute::Oif(LOOPBACK));
        }
        Hops::None => {}
        Hops::One(hop) => {
            attributes.extend(hop.gateway.map(|gateway| gateway_to_wire(destination, gateway)));
            attributes.push(RouteAttribute::Oif(resolve(hop)?));
            if hop.onlink {
                message.header.flags = RouteFlags::Onlink;
            }
        }
        Hops::Many(hops) if hops.len() > HOPS_MAX => return Err(Unencodable::TooManyHops(hops.len())),
        Hops::Many(hops) => {
            let hops = hops.iter().map(|hop| {
                let mut wire = RouteNextHop::default();
                wire.interface_index = resolve(hop)?;
                wire.attributes
                    .extend(hop.gateway.map(|gateway| gateway_to_wire(destination, gateway)));
                if hop.onlink {
                    wire.flags = RouteNextHopFlags::Onlink;
                }
                Ok(wire)
            });
            attributes.push(RouteAttribute::MultiPath(hops.collect::<Result<_, _>>()?));
        }
        Hops::Object(id) => attributes.push(RouteAttribute::NhId(*id)),
    }
    Ok(message)
}

/// Reads the payload of `RTM_NEWROUTE` or `RTM_DELROUTE`; `None` for other families than IP. An
/// attribute that is unknown or unreadable makes the route decorated: some stranger's route must not
/// hide the rest of the table.
pub(crate) fn decode(payload: &[u8]) -> Result<Option<SeenRoute>, DecodeError> {
    let header = RouteHeader::parse(payload)?;
    let family = match header.address_family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return Ok(None),
    };
    let mut destination = (header.destination_prefix_length == 0).then(|| family.unspecified());
    let mut route = SeenRoute {
        id: RouteId::to(IpNet::from(family.unspecified())),
        kind: header.kind,
        hops: Vec::new(),
        protocol: header.protocol.into(),
        scope: header.scope.into(),
        table: header.table.into(),
        cloned: header.flags.contains(RouteFlags::Cloned),
        multipath: false,
        nexthop_object: None,
        source: None,
        decorated: header.source_prefix_length != 0,
    };
    let mut metric = 0;
    let mut hop = SeenHop {
        onlink: header.flags.contains(RouteFlags::Onlink),
        ..SeenHop::default()
    };
    for attribute in NlasIterator::new(payload.get(HEADER_LEN..).unwrap_or_default()) {
        match read(&attribute?, &header) {
            Some(RouteAttribute::Destination(address)) => destination = ip(address),
            Some(RouteAttribute::Table(table)) => route.table = table,
            Some(RouteAttribute::Priority(priority)) => metric = priority,
            Some(RouteAttribute::PrefSource(address)) => route.source = ip(address),
            Some(RouteAttribute::NhId(id)) => route.nexthop_object = Some(id),
            Some(RouteAttribute::MultiPath(hops)) => {
                route.multipath = true;
                for wire in hops {
                    let (hop, plain) = multipath_hop(wire);
                    route.hops.push(hop);
                    route.decorated |= !plain;
                }
            }
            // Whether a route expires is all that its cache entry says about the route itself.
            Some(RouteAttribute::CacheInfo(info)) => route.decorated |= info.expires != 0,
            Some(RouteAttribute::Preference(preference)) => {
                route.decorated |= preference != RoutePreference::Medium;
            }
            Some(other) => route.decorated |= !hop.take(other),
            None => route.decorated = true,
        }
    }
    if !route.multipath && hop != SeenHop::default() {
        route.hops.push(hop);
    }
    let destination = destination.ok_or_else(|| DecodeError::from("a route without a destination"))?;
    let net = IpNet::new(destination, header.destination_prefix_length)
        .map_err(|error| DecodeError::from(error.to_string()))?;
    route.id = RouteId {
        destination: net.trunc(),
        tos: header.tos,
        metric,
        position: 0,
    };
    Ok(Some(route))
}

/// Looks at what [`decode`] reads; `None` for other families than IP.
pub(crate) fn glance(payload: &[u8]) -> Result<Option<Glance>, DecodeError> {
    let header = RouteHeader::parse(payload)?;
    let family = match header.address_family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return Ok(None),
    };
    let (mut destination, mut has_gateway) = (family.unspecified(), false);
    for attribute in NlasIterator::new(payload.get(HEADER_LEN..).unwrap_or_default()) {
        let attribute = attribute?;
        match attribute.kind() {
            ATTR_DESTINATION => destination = address(attribute.value()).unwrap_or(destination),
            ATTR_GATEWAY | ATTR_VIA => has_gateway = true,
            _ => {}
        }
    }
    let net = IpNet::new(destination, header.destination_prefix_length)
        .map_err(|error| DecodeError::from(error.to_string()))?;
    Ok(Some(Glance {
        destination: net.trunc(),
        has_gateway,
    }))
}

impl SeenRoute {
    /// Whether it is an entry of table main that somebody may have made: not the kernel's notes of
    /// which addresses are its own, broadcast or multicast.
    pub(crate) fn is_entry(&self) -> bool {
        let own_address = matches!(
            self.kind,
            RouteType::Local | RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast
        );
        self.table == u32::from(RouteHeader::RT_TABLE_MAIN) && !self.cloned && !own_address
    }

    /// Whether it leads everywhere, and for all types of service.
    pub(crate) fn is_default(&self) -> bool {
        self.id.destination.prefix_len() == 0 && self.id.tos == 0 && self.kind == RouteType::Unicast
    }

    /// The index of the device on whose link its destination is.
    pub(crate) fn on_link(&self) -> Option<u32> {
        match &self.hops[..] {
            [hop] if self.kind == RouteType::Unicast && hop.gateway.is_none() => Some(hop.device),
            _ => None,
        }
    }

    pub(crate) fn family(&self) -> Family {
        Family::of_net(self.id.destination)
    }

    /// The address that packets leave with.
    pub(crate) const fn source(&self) -> Option<IpAddr> {
        self.source
    }

    pub(crate) fn named(&self, names: &Names) -> Route {
        let named = |hop: &SeenHop| Hop {
            gateway: hop.gateway,
            device: names.of(hop.device),
            onlink: hop.onlink,
        };
        let hops = match (&self.hops[..], self.nexthop_object) {
            (_, Some(id)) => Hops::Object(id),
            // The loopback device of IPv6 routes that drop packets leads nowhere.
            _ if self.kind != RouteType::Unicast => Hops::None,
            (hops, None) if self.multipath => Hops::Many(hops.iter().map(named).collect()),
            ([hop, ..], None) => Hops::One(named(hop)),
            ([], None) => Hops::None,
        };
        Route {
            id: self.id,
            kind: kind_of_wire(self.kind),
            protocol: self.protocol,
            hops,
            source: self.source,
            scope: if self.family() == Family::V4 {
                self.scope
            } else {
                0
            },
            decorated: self.decorated,
        }
    }
}

impl SeenHop {
    /// Takes an attribute that says something about a hop.
    fn take(&mut self, attribute: RouteAttribute) -> bool {
        match attribute {
            RouteAttribute::Oif(index) => self.device = index,
            RouteAttribute::Gateway(address) => self.gateway = ip(address),
            RouteAttribute::Via(RouteVia::Inet(address)) => self.gateway = Some(address.into()),
            RouteAttribute::Via(RouteVia::Inet6(address)) => self.gateway = Some(address.into()),
            _ => return false,
        }
        true
    }
}

/// Numbers the routes that share a place, in the order of the dump: that is the order in which the
/// kernel tries them.
pub(crate) fn number(routes: &mut [Route]) {
    let mut counts = HashMap::with_capacity(routes.len());
    for route in routes {
        let next = counts.entry(route.id).or_insert(0_u16);
        route.id.position = *next;
        *next = next.saturating_add(1);
    }
}

pub(crate) const fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn read(attribute: &NlaBuffer<&[u8]>, header: &RouteHeader) -> Option<RouteAttribute> {
    // Encapsulations differ in their attributes; that there is one is all that matters.
    let context = (header.address_family, header.kind, RouteLwEnCapType::None);
    RouteAttribute::parse_with_param(attribute, context).ok()
}

/// The hop, and whether that is all there is to it.
fn multipath_hop(wire: RouteNextHop) -> (SeenHop, bool) {
    let mut hop = SeenHop {
        device: wire.interface_index,
        onlink: wire.flags.contains(RouteNextHopFlags::Onlink),
        ..SeenHop::default()
    };
    let mut plain = wire.hops == 0;
    for attribute in wire.attributes {
        plain &= hop.take(attribute);
    }
    (hop, plain)
}

/// An IPv4 route over an IPv6 gateway has it in another attribute.
fn gateway_to_wire(destination: IpNet, gateway: IpAddr) -> RouteAttribute {
    match (destination, gateway) {
        (IpNet::V4(_), IpAddr::V6(address)) => RouteAttribute::Via(RouteVia::Inet6(address)),
        (IpNet::V6(_), IpAddr::V4(address)) => RouteAttribute::Via(RouteVia::Inet(address)),
        _ => RouteAttribute::Gateway(gateway.into()),
    }
}

fn ip(address: RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(address.into()),
        RouteAddress::Inet6(address) => Some(address.into()),
        _ => None,
    }
}

fn kind_to_wire(kind: RouteKind) -> RouteType {
    match kind {
        RouteKind::Blackhole => RouteType::BlackHole,
        RouteKind::Unreachable => RouteType::Unreachable,
        RouteKind::Other(number) => number.into(),
        // What else there may come to be, the kernel would be told wrongly; it refuses type 0.
        RouteKind::Unicast => RouteType::Unicast,
        _ => RouteType::Unspec,
    }
}

fn kind_of_wire(kind: RouteType) -> RouteKind {
    match kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        other => RouteKind::Other(other.into()),
    }
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
