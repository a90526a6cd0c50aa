//! Facts about the host: what is asked of the kernel, and how its answers are put together.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use flannel_core::{DefaultRoute, Family, HostFacts, KernelError, Link, LinkAddress, Reached, Unforwarded};
use ipnet::IpNet;
use netlink_packet_core::{DecodeError, NlasIterator, Parseable};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeader, AddressMessage};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage};

use crate::link::{self, Names};
use crate::reply::Failure;
use crate::resolv;
use crate::route::{self, SeenRoute, address_family};
use crate::socket::RequestSocket;

/// `struct ifaddrmsg` in `linux/if_addr.h`.
const ADDRESS_HEADER_LEN: usize = 8;

/// Asks for everything of which route netlink knows; whether IPv6 is forwarded (`v6_forwarding`) it does
/// not.
pub(crate) fn gather(
    socket: &mut RequestSocket,
    reach: &[IpAddr],
    v6_forwarding: Option<bool>,
) -> Result<HostFacts, KernelError> {
    let seen = seen_links(socket, |payload| {
        let link = link::decode(payload)?;
        let forwarding = link::decode_forwarding(payload)?;
        Ok(link.map(|link| (link, forwarding)))
    })?;
    let unforwarded = Unforwarded {
        v4: seen
            .iter()
            .filter(|(_, forwarding)| *forwarding == Some(false))
            .map(|(link, _)| link.name)
            .collect(),
        v6: v6_forwarding == Some(false),
    };
    let mut links: Vec<Link> = seen.into_iter().map(|(link, _)| link).collect();
    links.sort_by_key(|link| link.index);
    let doing = "list the addresses";
    let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let addresses = socket
        .dump(doing, &all, decode_address)?
        .map_err(refused(doing))?;
    for (index, address) in addresses {
        if let Some(link) = links.iter_mut().find(|link| link.index == index) {
            link.addresses.push(address);
        }
    }
    let names = links.iter().cloned().collect::<Names>();
    let mut default_routes = Vec::new();
    for family in Family::ALL {
        let routes = routes(socket, family, SeenRoute::is_default)?;
        default_routes.extend(routes.iter().filter_map(|route| default_route(route, &names)));
    }
    default_routes.sort_by_key(|route| (route.family, route.metric));
    let mut reached = BTreeMap::new();
    for address in reach {
        if let Some(found) = look_up(socket, *address, &names)? {
            reached.insert(*address, found);
        }
    }
    Ok(HostFacts {
        links,
        default_routes,
        resolvers: resolv::read(Path::new(resolv::PATH)),
        reached,
        unforwarded,
        ..HostFacts::default()
    })
}

/// Every device, without addresses.
pub(crate) fn links(socket: &mut RequestSocket) -> Result<Vec<Link>, KernelError> {
    seen_links(socket, link::decode)
}

fn seen_links<T>(
    socket: &mut RequestSocket,
    read: impl FnMut(&[u8]) -> Result<Option<T>, DecodeError>,
) -> Result<Vec<T>, KernelError> {
    let doing = "list the devices";
    let links = socket.dump(doing, &link::question(None), read)?;
    links.map_err(refused(doing))
}

/// The entries of table main that are `wanted`, in the kernel's order.
pub(crate) fn routes(
    socket: &mut RequestSocket,
    family: Family,
    wanted: impl Fn(&SeenRoute) -> bool,
) -> Result<Vec<SeenRoute>, KernelError> {
    let doing = "list the routes";
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(family);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    let table = RouteNetlinkMessage::GetRoute(message);
    // Old kernels do not filter, and one without IPv6 answers with what it has.
    let routes = socket.dump(doing, &table, |payload| {
        let route = route::decode(payload)?;
        Ok(route.filter(|route| route.family() == family && route.is_entry() && wanted(route)))
    })?;
    match routes {
        // The table is made with its first route.
        Err(failure) if failure.errno == nix::errno::Errno::ENOENT => Ok(Vec::new()),
        routes => routes.map_err(refused(doing)),
    }
}

/// The refusal of a whole request as an error.
pub(crate) fn refused(doing: &'static str) -> impl Fn(Failure) -> KernelError {
    move |failure| KernelError::Refused {
        doing,
        text: failure.to_string(),
    }
}

fn look_up(
    socket: &mut RequestSocket,
    address: IpAddr,
    names: &Names,
) -> Result<Option<Reached>, KernelError> {
    let family = Family::of(address);
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(family);
    message.header.destination_prefix_length = family.bits();
    message
        .attributes
        .push(RouteAttribute::Destination(address.into()));
    let question = RouteNetlinkMessage::GetRoute(message);
    let found = socket.ask("look up a route", question, route::decode)?;
    // That there is no route, or one that drops packets, is an errno.
    let hop = |route: &SeenRoute| Some((*route.hops.first()?, route.source()));
    Ok(found
        .ok()
        .flatten()
        .as_ref()
        .and_then(hop)
        .map(|(hop, source)| Reached {
            device: names.of(hop.device),
            source,
        }))
}

fn default_route(route: &SeenRoute, names: &Names) -> Option<DefaultRoute> {
    let hop = route.hops.first()?;
    Some(DefaultRoute {
        family: route.family(),
        device: names.of(hop.device),
        gateway: hop.gateway,
        metric: route.id.metric,
    })
}

/// Reads the payload of `RTM_NEWADDR`: the device's index and the address.
fn decode_address(payload: &[u8]) -> Result<Option<(u32, LinkAddress)>, DecodeError> {
    let header = AddressHeader::parse(payload)?;
    let (mut local, mut address) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(header.flags.bits().into());
    for attribute in NlasIterator::new(payload.get(ADDRESS_HEADER_LEN..).unwrap_or_default()) {
        match AddressAttribute::parse(&attribute?) {
            Ok(AddressAttribute::Local(own)) => local = Some(own),
            Ok(AddressAttribute::Address(own)) => address = Some(own),
            // The header has room for the first eight flags only.
            Ok(AddressAttribute::Flags(all)) => flags = all,
            _ => {}
        }
    }
    // On a point-to-point link the other attribute is the peer's.
    let Some(own) = local.or(address) else {
        return Ok(None);
    };
    let net = IpNet::new(own, header.prefix_len).map_err(|error| DecodeError::from(error.to_string()))?;
    let unusable = AddressFlags::Deprecated | AddressFlags::Tentative | AddressFlags::Dadfailed;
    let address = LinkAddress {
        net,
        unusable: flags.intersects(unusable),
        permanent: flags.contains(AddressFlags::Permanent),
        temporary: flags.contains(AddressFlags::Secondary),
    };
    Ok(Some((header.index, address)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;
    use netlink_packet_route::address::AddressHeaderFlags;

    fn payload(header: AddressHeader, attributes: Vec<AddressAttribute>) -> Vec<u8> {
        let mut message = AddressMessage::default();
        message.header = header;
        message.attributes = attributes;
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    fn header(prefix_len: u8, flags: AddressHeaderFlags) -> AddressHeader {
        AddressHeader {
            prefix_len,
            flags,
            index: 3,
            ..AddressHeader::default()
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_point_to_point_address_is_the_hosts_own_and_not_its_peers() {
        let attributes = vec![
            AddressAttribute::Address(ip("192.0.2.2")),
            AddressAttribute::Local(ip("192.0.2.1")),
        ];
        let read = decode_address(&payload(header(32, AddressHeaderFlags::Permanent), attributes));
        let expected = LinkAddress {
            net: "192.0.2.1/32".parse().unwrap(),
            unusable: false,
            permanent: true,
            temporary: false,
        };
        assert_eq!(read.unwrap(), Some((3, expected)));
    }

    #[test]
    fn flags_are_those_of_the_attribute_where_there_is_one() {
        let read = |flags| {
            let attributes = vec![
                AddressAttribute::Address(ip("2001:db8::1")),
                AddressAttribute::Flags(flags),
            ];
            let bytes = payload(header(64, AddressHeaderFlags::Permanent), attributes);
            decode_address(&bytes).unwrap().unwrap().1
        };
        let flagged = |address: LinkAddress| (address.unusable, address.permanent, address.temporary);
        assert_eq!(flagged(read(AddressFlags::Tentative)), (true, false, false));
        assert_eq!(flagged(read(AddressFlags::Dadfailed)), (true, false, false));
        assert_eq!(flagged(read(AddressFlags::Deprecated)), (true, false, false));
        assert_eq!(flagged(read(AddressFlags::Secondary)), (false, false, true));
        assert_eq!(flagged(read(AddressFlags::Permanent)), (false, true, false));
    }

    #[test]
    fn an_impossible_prefix_length_is_refused() {
        let attributes = vec![AddressAttribute::Local(ip("192.0.2.1"))];
        assert!(decode_address(&payload(header(33, AddressHeaderFlags::empty()), attributes)).is_err());
    }
}
