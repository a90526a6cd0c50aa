//! Operations as requests. Pure.

use flannel_core::{DeviceName, Object, Op, OpError, OpErrorKind};
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

/// What the kernel is asked for an operation on anything but a device.
pub(crate) fn request(op: &Op, index: impl Fn(&DeviceName) -> Option<u32>) -> Result<Request, OpError> {
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

fn no_device(op: &Op, device: DeviceName) -> OpError {
    refusal(op, OpErrorKind::NoDevice, &format!("there is no device {device}"))
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
