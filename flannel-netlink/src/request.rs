//! Operations as requests. Pure.

use std::net::IpAddr;

use flannel_core::{DeviceName, Forwarding, Hop, Hops, Object, Op, OpError, OpErrorKind, Route};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;

use crate::refusal::refusal;
use crate::route::{self, Purpose, Unencodable};
use crate::socket::Request;
use crate::{address, forwarding, neighbour};

/// The devices that have to be there for an operation on anything but a device.
pub(crate) fn devices(op: &Op) -> impl Iterator<Item = DeviceName> {
    let hops = match op.object() {
        Object::Route(route) => route.hops.as_slice(),
        _ => &[],
    };
    let on = op.object().id().device();
    on.into_iter().chain(hops.iter().map(|hop| hop.device))
}

/// What the kernel is asked for an operation on anything but a device, in this order.
pub(crate) fn requests(op: &Op, index: impl Fn(&DeviceName) -> Option<u32>) -> Result<Vec<Request>, OpError> {
    let mut requests = Vec::new();
    // The kernel says that it has replaced an entry that leads to a nexthop object, and has not.
    if let Op::Replace {
        from: Object::Forwarding(entry @ Forwarding { host: None, .. }),
        ..
    } = op
    {
        requests.push(request(&Op::Remove((*entry).into()), &index)?);
    }
    requests.push(request(op, index)?);
    Ok(requests)
}

/// The same for one that was refused: an IPv6 route to an onlink gateway. The kernel looks the gateway up,
/// and takes it for another link's while a route that covers it leads there, such as the one that is to be
/// replaced (`ip6_route_check_nh_onlink` in `net/ipv6/route.c`). So the gateway has a route of its own for
/// that moment. `None`: that is not why.
pub(crate) fn requests_by_a_step(
    op: &Op,
    index: impl Fn(&DeviceName) -> Option<u32>,
) -> Option<Vec<Request>> {
    let step = Object::from(stepping_stone(op)?);
    let steps = [Op::Add(step.clone()), op.clone(), Op::Remove(step)];
    let requests: Result<_, _> = steps.iter().map(|op| request(op, &index)).collect();
    requests.ok()
}

fn stepping_stone(op: &Op) -> Option<Route> {
    let (Op::Add(Object::Route(route))
    | Op::Replace {
        to: Object::Route(route),
        ..
    }) = op
    else {
        return None;
    };
    let Hops::One(Hop {
        gateway: Some(gateway @ IpAddr::V6(_)),
        device,
        onlink: true,
    }) = route.hops
    else {
        return None;
    };
    let on_link = Hop {
        gateway: None,
        device,
        onlink: false,
    };
    Some(Route::unicast(gateway.into(), on_link, route.protocol))
}

fn request(op: &Op, index: impl Fn(&DeviceName) -> Option<u32>) -> Result<Request, OpError> {
    let on = || {
        let device = op.object().id().device();
        let missing = || device.map_or_else(|| unknown(op), |device| no_device(op, device));
        device.as_ref().and_then(&index).ok_or_else(missing)
    };
    let removes = matches!(op, Op::Remove(_));
    let message = match op.object() {
        Object::Route(route) => {
            let purpose = if removes { Purpose::Remove } else { Purpose::Make };
            let message = route::encode(route, purpose, index).map_err(|error| unencodable(op, error))?;
            if removes {
                RouteNetlinkMessage::DelRoute(message)
            } else {
                RouteNetlinkMessage::NewRoute(message)
            }
        }
        Object::Address(address) => {
            let message = address::encode(address, on()?);
            if removes {
                RouteNetlinkMessage::DelAddress(message)
            } else {
                RouteNetlinkMessage::NewAddress(message)
            }
        }
        Object::Neighbour(neighbour) => {
            let message = neighbour::encode(neighbour, on()?);
            if removes {
                RouteNetlinkMessage::DelNeighbour(message)
            } else {
                RouteNetlinkMessage::NewNeighbour(message)
            }
        }
        Object::Forwarding(entry) => {
            let message = forwarding::encode(entry, on()?);
            if removes {
                RouteNetlinkMessage::DelNeighbour(message)
            } else {
                RouteNetlinkMessage::NewNeighbour(message)
            }
        }
        _ => return Err(unknown(op)),
    };
    // All neighbours and forwarding entries on a device of ours are ours, and the kernel may have put one
    // there that it has asked for in vain.
    let takes_over = matches!(op.object(), Object::Neighbour(_) | Object::Forwarding(_));
    let flags = match op {
        Op::Remove(_) => 0,
        Op::Add(_) if !takes_over => NLM_F_CREATE | NLM_F_EXCL,
        Op::Add(_) | Op::Replace { .. } => NLM_F_CREATE | NLM_F_REPLACE,
    };
    Ok(Request { message, flags })
}

fn unknown(op: &Op) -> OpError {
    refusal(op, OpErrorKind::Other, "not a kind of object that is known here")
}

/// What is to be removed has gone with its device.
fn no_device(op: &Op, device: DeviceName) -> OpError {
    let kind = match op {
        Op::Remove(_) => OpErrorKind::Gone,
        _ => OpErrorKind::NoDevice,
    };
    refusal(op, kind, &format!("there is no device {device}"))
}

fn unencodable(op: &Op, error: Unencodable) -> OpError {
    match error {
        Unencodable::NoDevice(device) => no_device(op, device),
        Unencodable::TooManyHops(count) => {
            let reason = format!("{count} hops are more than a message holds");
            refusal(op, OpErrorKind::Other, &reason)
        }
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
