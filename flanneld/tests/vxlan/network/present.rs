//! What the kernel has, read with `ip` and `bridge` and told in the library's words.

use flannel_core::{
    Address, Device, DeviceKind, DeviceName, Forwarding, ForwardingId, Hop, Hops, Neighbour, NeighbourId,
    Object, PROTOCOL_BOOT, Route, RouteKind, State, Vxlan,
};
use ipnet::IpNet;
use lab::{Family, Host, LinkLine, RouteLine, UNICAST, VxlanLine};

use super::PROTOCOL;

/// Everything of a daemon's on a host: its devices, what is on them, and routes into the networks that are marked as its
/// own or lead over its devices.
pub(super) fn present(host: &Host, devices: &[DeviceName], networks: &[IpNet]) -> State {
    let within = |net: &IpNet| networks.iter().any(|network| network.contains(net));
    let mut objects: Vec<Object> = Vec::new();
    let links = host.links().unwrap();
    for name in devices {
        let Some(link) = links.iter().find(|link| link.name == name.as_str()) else {
            continue;
        };
        objects.push(device(host, *name, link).into());
        let own = link.addresses.iter().filter(|net| within(net));
        objects.extend(own.map(|net| Address::permanent(*name, *net).into()));
        objects.extend(forwarding(host, *name));
        objects.extend(neighbours(host, *name));
    }
    let routes = [Family::V4, Family::V6].into_iter();
    let routes = routes.flat_map(|family| host.routes(family).unwrap());
    let is_ours = |route: &RouteLine| {
        let over_ours = devices
            .iter()
            .any(|name| route.device.as_deref() == Some(name.as_str()));
        route.protocol == PROTOCOL || over_ours && route.protocol == PROTOCOL_BOOT
    };
    let ours = routes.filter(|line| within(&line.destination) && is_ours(line));
    objects.extend(ours.map(|line| route(line).into()));
    objects.into_iter().map(|object| (object.id(), object)).collect()
}

fn device(host: &Host, name: DeviceName, link: &LinkLine) -> Device {
    // Without IPv6 there is no such switch.
    let advertisements = host.sysctl(&format!("ipv6/conf/{name}/accept_ra"));
    Device {
        name,
        kind: link.vxlan.as_ref().map_or_else(
            || DeviceKind::Other(link.kind.clone()),
            |vxlan| DeviceKind::Vxlan(tunnel(vxlan)),
        ),
        mac: link.mac.parse().unwrap(),
        mtu: link.mtu,
        up: link.up,
        accepts_advertisements: advertisements.is_ok_and(|value| value != "0"),
        checksum_offload: None,
    }
}

fn tunnel(line: &VxlanLine) -> Vxlan {
    Vxlan {
        gbp: line.gbp,
        learning: line.learning,
        local: line.local,
        uplink: line.uplink.as_ref().map(|name| name.parse().unwrap()),
        ..Vxlan::new(line.vni, line.port)
    }
}

/// Those that somebody set. What is learned, or belongs to the kernel's own groups, is none of it.
fn forwarding(host: &Host, device: DeviceName) -> impl Iterator<Item = Object> {
    let entries = host.fdb(device.as_str()).unwrap().into_iter();
    let set = entries.filter(|entry| entry.state == "permanent");
    set.map(move |entry| {
        let entry = Forwarding {
            id: ForwardingId {
                device,
                mac: entry.mac.parse().unwrap(),
                position: 0,
            },
            host: entry.host,
            decorated: false,
        };
        entry.into()
    })
}

fn neighbours(host: &Host, device: DeviceName) -> impl Iterator<Item = Object> {
    let neighbours = host.neighbours(device.as_str()).unwrap().into_iter();
    let set = neighbours.filter(|line| line.state == ["PERMANENT"]);
    set.map(move |line| {
        let neighbour = Neighbour {
            id: NeighbourId {
                device,
                address: line.address,
            },
            mac: line.mac.unwrap().parse().unwrap(),
        };
        neighbour.into()
    })
}

fn route(line: RouteLine) -> Route {
    let device = line.device.map(|name| name.parse().unwrap());
    let hop = device.map(|device| Hop {
        gateway: line.gateway,
        device,
        onlink: line.flags.iter().any(|flag| flag == "onlink"),
    });
    let known = line.flags.iter().all(|flag| flag == "onlink");
    let mut route = match hop {
        Some(hop) => Route::unicast(line.destination, hop, line.protocol),
        None => Route {
            hops: Hops::None,
            ..Route::blackhole(line.destination, line.protocol)
        },
    };
    if line.kind != UNICAST {
        route.kind = RouteKind::Other(line.kind);
    }
    route.id.metric = line.metric;
    // A flag that none of ours has, such as `linkdown`.
    route.decorated = !known;
    route
}
