//! Everything in scope, as it is.

use flannel_core::{Address, AddressId, DeviceName, Family, KernelError, Neighbour, Object, Scope};
use netlink_packet_core::{DecodeError, NetlinkSerializable};
use nix::errno::Errno;

use crate::device::{SeenDevice, SeenKind};
use crate::ethtool::Ethtool;
use crate::facts;
use crate::link::{self, Names};
use crate::namespace::Namespace;
use crate::socket::RequestSocket;
use crate::{address, forwarding, neighbour, route};

/// Dumps what is in scope. What is on a device that vanishes meanwhile vanishes with it.
pub(crate) fn dump(
    socket: &mut RequestSocket,
    namespace: &Namespace,
    ethtool: &Ethtool,
    scope: &Scope,
) -> Result<Vec<Object>, KernelError> {
    // First, since the kernel answers this only when whoever changes links or addresses is
    // done: it announces such a change before it drops the routes over them.
    let mut devices = Vec::new();
    let links = facts::seen_links(socket, |payload| {
        let link = link::decode(payload)?;
        if link.as_ref().is_some_and(|link| scope.has(&link.name)) {
            devices.extend(SeenDevice::decode(payload)?);
        }
        Ok(link)
    })?;
    let names = links.into_iter().collect::<Names>();
    let mut objects = Vec::new();
    for device in devices {
        let checksum_offload = ethtool.checksum_offload(namespace, device.index());
        objects.push(device.named(&names, checksum_offload).into());
        on_device(socket, &device, &mut objects)?;
    }
    routes(socket, scope, &names, &mut objects)?;
    Ok(objects)
}

/// What is on a device. The kernel filters by the index where it can; old ones send everything.
fn on_device(
    socket: &mut RequestSocket,
    seen: &SeenDevice,
    objects: &mut Vec<Object>,
) -> Result<(), KernelError> {
    let (index, device) = (seen.index(), seen.name());
    let addresses = of_device(
        socket,
        "list the addresses of a device",
        &address::question(Some(index)),
        |payload| Ok(address::decode(payload)?.filter(|(on, _)| *on == index)),
    )?;
    objects.extend(addresses.into_iter().map(|(_, address)| {
        let net = address.net;
        let id = AddressId { device, net };
        let permanent = address.permanent;
        Object::from(Address { id, permanent })
    }));
    // Those of other devices are the groups that they listen to.
    if matches!(seen.kind, SeenKind::Vxlan(_)) {
        let entries = of_device(
            socket,
            "list the forwarding database of a device",
            &forwarding::question(index),
            |payload| Ok(forwarding::decode(payload)?.filter(|entry| entry.index == index)),
        )?;
        objects.extend(
            forwarding::numbered(&entries, device)
                .into_iter()
                .map(Object::from),
        );
    }
    objects.extend(neighbours(socket, index, device)?.into_iter().map(Object::from));
    Ok(())
}

/// The permanent neighbours on a device.
pub(crate) fn neighbours(
    socket: &mut RequestSocket,
    index: u32,
    device: DeviceName,
) -> Result<Vec<Neighbour>, KernelError> {
    let mut all = Vec::new();
    for family in Family::ALL {
        let neighbours = of_device(
            socket,
            "list the neighbours on a device",
            &neighbour::question(family, index),
            |payload| {
                let seen = neighbour::decode(payload)?.filter(|neighbour| neighbour.index == index);
                Ok(seen.and_then(|seen| seen.named(device)))
            },
        )?;
        // Without IPv6 the kernel answers a question for its neighbours with all that it has.
        let of_family = |neighbour: &Neighbour| Family::of(neighbour.id.address) == family;
        all.extend(neighbours.into_iter().filter(of_family));
    }
    Ok(all)
}

fn of_device<M: NetlinkSerializable + Clone, T>(
    socket: &mut RequestSocket,
    doing: &'static str,
    question: &M,
    read: impl FnMut(&[u8]) -> Result<Option<T>, DecodeError>,
) -> Result<Vec<T>, KernelError> {
    match socket.dump(doing, question, read)? {
        // The device is gone, or does no IPv6.
        Err(failure) if matches!(failure.errno, Errno::ENODEV | Errno::EAFNOSUPPORT) => Ok(Vec::new()),
        found => found.map_err(facts::refused(doing)),
    }
}

fn routes(
    socket: &mut RequestSocket,
    scope: &Scope,
    names: &Names,
    objects: &mut Vec<Object>,
) -> Result<(), KernelError> {
    let mut seen = Vec::new();
    for family in Family::ALL {
        if scope.networks.iter().any(|net| Family::of_net(*net) == family) {
            let covered = |route: &route::Glance| scope.covers(route.destination);
            seen.extend(facts::routes(socket, family, covered, Some)?);
        }
    }
    let mut routes = seen.iter().map(|route| route.named(names)).collect::<Vec<_>>();
    route::number(&mut routes);
    objects.extend(routes.into_iter().map(Object::from));
    Ok(())
}

#[cfg(test)]
#[path = "dump_tests.rs"]
mod tests;
