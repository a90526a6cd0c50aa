//! Facts about the host: what is asked of the kernel, and how its answers are put together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use flannel_core::{
    DefaultRoute, Family, HostFacts, KernelError, KernelRelease, Link, Reached, Underlay, Unforwarded,
};
use ipnet::IpNet;
use netlink_packet_core::DecodeError;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage};

use crate::link::{self, Names, Settings};
use crate::reply::Failure;
use crate::route::{self, Glance, SeenRoute, address_family};
use crate::socket::RequestSocket;
use crate::{address, all_devices, resolv};

/// The value of `rp_filter` by which packets are dropped unless the way back leads out of the device by
/// which they came (RFC 3704, section 2.2).
const STRICT: u32 = 1;

/// What route netlink does not tell of the host.
pub(crate) struct Elsewhere {
    /// Whether IPv6 packets are forwarded, where that is known.
    pub(crate) v6_forwarding: Option<bool>,
    pub(crate) kernel: Option<KernelRelease>,
}

/// Networks, among which one that contains another is found without a look at each.
#[derive(Debug, Default)]
struct Nets {
    lengths: BTreeSet<u8>,
    nets: BTreeSet<IpNet>,
}

impl Nets {
    fn contain(&self, net: IpNet) -> bool {
        let mut shorter = self.lengths.range(..=net.prefix_len());
        shorter.any(|length| {
            let around = IpNet::new(net.addr(), *length);
            around.is_ok_and(|around| self.nets.contains(&around.trunc()))
        })
    }
}

impl FromIterator<IpNet> for Nets {
    fn from_iter<T: IntoIterator<Item = IpNet>>(nets: T) -> Self {
        let nets: BTreeSet<IpNet> = nets.into_iter().collect();
        Self {
            lengths: nets.iter().map(IpNet::prefix_len).collect(),
            nets,
        }
    }
}

/// Asks for everything of which route netlink knows.
pub(crate) fn gather(
    socket: &mut RequestSocket,
    reach: &[IpAddr],
    elsewhere: &Elsewhere,
) -> Result<HostFacts, KernelError> {
    let seen = seen_links(socket, |payload| {
        let link = link::decode(payload)?;
        let settings = Settings::decode(payload)?;
        Ok(link.map(|link| (link, settings)))
    })?;
    let unforwarded = Unforwarded {
        v4: seen
            .iter()
            .filter(|(_, settings)| settings.forwarding == Some(false))
            .map(|(link, _)| link.name)
            .collect(),
        v6: elsewhere.v6_forwarding == Some(false),
    };
    let of_all = all_devices::reverse_path_filter(socket)?.unwrap_or(0);
    let mut links: Vec<Link> = seen
        .into_iter()
        .map(|(link, settings)| Link {
            strict_reverse_path: settings.reverse_path_filter.map(|own| own.max(of_all)) == Some(STRICT),
            ..link
        })
        .collect();
    links.sort_by_key(|link| link.index);
    let doing = "list the addresses";
    let addresses = socket
        .dump(doing, &address::question(None), address::decode)?
        .map_err(refused(doing))?;
    for (index, address) in addresses {
        if let Some(link) = links.iter_mut().find(|link| link.index == index) {
            link.addresses.push(address);
        }
    }
    let names = links.iter().cloned().collect::<Names>();
    let (mut default_routes, mut underlay) = (Vec::new(), Underlay::default());
    for family in Family::ALL {
        // A host may have many routes behind gateways. Those to where no link is are of no concern, and so they
        // are passed over in a second look, and never kept.
        let direct = |route: &Glance| !route.has_gateway;
        let on_links: Nets = routes(socket, family, direct, destination_on_link)?
            .into_iter()
            .collect();
        let concerns = |route: &Glance| {
            let destination = route.destination;
            destination.prefix_len() == 0 || on_links.contain(destination)
        };
        let plain = |route: SeenRoute| (route.id.tos == 0).then_some(route);
        for route in routes(socket, family, concerns, plain)? {
            default_routes.extend(default_route(&route, &names));
            let on_link = route.on_link().map(|index| names.of(index));
            underlay.insert(route.id.destination, route.id.metric, on_link);
        }
    }
    default_routes.sort_by_key(|route| (route.family, route.metric));
    underlay.retain_relevant();
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
        underlay,
        kernel: elsewhere.kernel,
        ..HostFacts::default()
    })
}

/// Every device, without addresses.
pub(crate) fn links(socket: &mut RequestSocket) -> Result<Vec<Link>, KernelError> {
    seen_links(socket, link::decode)
}

pub(crate) fn seen_links<T>(
    socket: &mut RequestSocket,
    read: impl FnMut(&[u8]) -> Result<Option<T>, DecodeError>,
) -> Result<Vec<T>, KernelError> {
    let doing = "list the devices";
    let links = socket.dump(doing, &link::question(None), read)?;
    links.map_err(refused(doing))
}

/// What is `read` out of the entries of table main that are `wanted` at a glance, in the kernel's order.
pub(crate) fn routes<T>(
    socket: &mut RequestSocket,
    family: Family,
    wanted: impl Fn(&Glance) -> bool,
    read: impl Fn(SeenRoute) -> Option<T>,
) -> Result<Vec<T>, KernelError> {
    let doing = "list the routes";
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(family);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    let table = RouteNetlinkMessage::GetRoute(message);
    // Old kernels do not filter, and one without IPv6 answers with what it has.
    let routes = socket.dump(doing, &table, |payload| {
        if !route::glance(payload)?.is_some_and(|route| wanted(&route)) {
            return Ok(None);
        }
        let route = route::decode(payload)?;
        let route = route.filter(|route| route.family() == family && route.is_entry());
        Ok(route.and_then(&read))
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

fn destination_on_link(route: SeenRoute) -> Option<IpNet> {
    (route.id.tos == 0 && route.on_link().is_some()).then_some(route.id.destination)
}

fn default_route(route: &SeenRoute, names: &Names) -> Option<DefaultRoute> {
    let hop = route.hops.first().filter(|_| route.is_default())?;
    Some(DefaultRoute {
        family: route.family(),
        device: names.of(hop.device),
        gateway: hop.gateway,
        metric: route.id.metric,
    })
}
