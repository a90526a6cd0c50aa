//! Operations as requests, and refusals as errors that name them. Pure.

use flannel_core::{DeviceName, Object, Op, OpError, OpErrorKind};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;

use crate::reply::Failure;
use crate::route::{Purpose, Unencodable, encode};
use crate::socket::Request;

/// The devices that an operation names.
pub(crate) fn devices(op: &Op) -> impl Iterator<Item = DeviceName> {
    let route = match subject(op) {
        Object::Route(route) => Some(route),
        _ => None,
    };
    let hops = route.map(|route| route.hops.as_slice()).unwrap_or_default();
    hops.iter().map(|hop| hop.device)
}

/// What the kernel is asked for an operation.
pub(crate) fn request(op: &Op, index: impl Fn(&DeviceName) -> Option<u32>) -> Result<Request, OpError> {
    let Object::Route(route) = subject(op) else {
        let text = format!("{}: not a kind of object that is known here", describe(op));
        return Err(OpError {
            kind: OpErrorKind::Other,
            text,
        });
    };
    let (purpose, flags) = match op {
        Op::Add(_) => (Purpose::Make, NLM_F_CREATE | NLM_F_EXCL),
        Op::Replace { .. } => (Purpose::Make, NLM_F_CREATE | NLM_F_REPLACE),
        Op::Remove(_) => (Purpose::Remove, 0),
    };
    let message = encode(route, purpose, index).map_err(|error| unencodable(op, error))?;
    let message = match purpose {
        Purpose::Make => RouteNetlinkMessage::NewRoute(message),
        Purpose::Remove => RouteNetlinkMessage::DelRoute(message),
    };
    Ok(Request { message, flags })
}

/// The kernel's refusal of an operation.
pub(crate) fn error(op: &Op, failure: &Failure) -> OpError {
    let kind = kind(failure.errno);
    let text = match remedy(failure.errno) {
        Some(remedy) => format!("{}: {failure}; {remedy}", describe(op)),
        None => format!("{}: {failure}", describe(op)),
    };
    OpError { kind, text }
}

const fn subject(op: &Op) -> &Object {
    match op {
        Op::Add(object) | Op::Replace { to: object, .. } | Op::Remove(object) => object,
    }
}

fn describe(op: &Op) -> String {
    match op {
        Op::Add(object) => format!("cannot add {object}"),
        Op::Replace { from, to } => format!("cannot replace {from} by {to}"),
        Op::Remove(object) => format!("cannot remove {object}"),
    }
}

const fn kind(errno: Errno) -> OpErrorKind {
    match errno {
        Errno::EEXIST => OpErrorKind::Exists,
        Errno::ESRCH | Errno::ENOENT => OpErrorKind::Gone,
        Errno::ENETUNREACH | Errno::EHOSTUNREACH => OpErrorKind::Unreachable,
        Errno::ENODEV | Errno::ENETDOWN => OpErrorKind::NoDevice,
        Errno::EPERM | Errno::EACCES => OpErrorKind::Denied,
        _ => OpErrorKind::Other,
    }
}

/// What to do about it. `EACCES` is not there: the kernel gives its reason, such as IPv6 being disabled
/// on a device.
const fn remedy(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::EEXIST => Some("remove the route that is there, or give it another metric"),
        Errno::ENETUNREACH | Errno::EHOSTUNREACH => Some(
            "the gateway is not on the device's segment: give the device an address in the gateway's network, or use \
             the backend vxlan with DirectRouting",
        ),
        Errno::ENODEV | Errno::ENETDOWN => Some("make the device and set it up"),
        Errno::EPERM => Some("run with CAP_NET_ADMIN"),
        _ => None,
    }
}

fn unencodable(op: &Op, error: Unencodable) -> OpError {
    let (kind, reason) = match error {
        Unencodable::NoDevice(device) => (OpErrorKind::NoDevice, format!("there is no device {device}")),
        Unencodable::TooManyHops(count) => (
            OpErrorKind::Other,
            format!("{count} hops are more than a message holds"),
        ),
    };
    OpError {
        kind,
        text: format!("{}: {reason}", describe(op)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flannel_core::{Hop, Hops, Route};

    fn route() -> Route {
        let hop = Hop::via("192.0.2.7".parse().unwrap(), "eth0".parse().unwrap());
        Route::unicast("10.5.7.0/24".parse().unwrap(), hop, 70)
    }

    fn failure(errno: Errno, text: Option<&str>) -> Failure {
        Failure {
            errno,
            text: text.map(str::to_owned),
        }
    }

    #[test]
    fn an_error_names_the_route_the_kernels_words_the_errno_and_the_remedy() {
        let failure = failure(Errno::ENETUNREACH, Some("Nexthop has invalid gateway"));
        let error = error(&Op::Add(route().into()), &failure);
        assert_eq!(error.kind, OpErrorKind::Unreachable);
        assert_eq!(
            error.text,
            "cannot add 10.5.7.0/24 via 192.0.2.7 dev eth0 proto 70: Nexthop has invalid gateway \
             (ENETUNREACH: Network is unreachable); the gateway is not on the device's segment: give the device an \
             address in the gateway's network, or use the backend vxlan with DirectRouting"
        );
    }

    #[test]
    fn each_errno_means_what_its_caller_acts_on() {
        let table = [
            (Errno::EEXIST, OpErrorKind::Exists),
            (Errno::ESRCH, OpErrorKind::Gone),
            (Errno::ENOENT, OpErrorKind::Gone),
            (Errno::EHOSTUNREACH, OpErrorKind::Unreachable),
            (Errno::ENODEV, OpErrorKind::NoDevice),
            (Errno::ENETDOWN, OpErrorKind::NoDevice),
            (Errno::EPERM, OpErrorKind::Denied),
            (Errno::EINVAL, OpErrorKind::Other),
        ];
        for (errno, kind) in table {
            assert_eq!(
                error(&Op::Remove(route().into()), &failure(errno, None)).kind,
                kind,
                "{errno}"
            );
        }
    }

    #[test]
    fn a_missing_device_is_named_without_asking_the_kernel() {
        let error = request(&Op::Add(route().into()), |_| None).unwrap_err();
        assert_eq!(error.kind, OpErrorKind::NoDevice);
        assert!(
            error.text.ends_with("proto 70: there is no device eth0"),
            "{error}"
        );
    }

    #[test]
    fn a_route_with_more_hops_than_fit_is_refused() {
        let many = Route {
            hops: Hops::Many(vec![route().hops.as_slice()[0]; 5000]),
            ..route()
        };
        let error = request(&Op::Add(many.into()), |_| Some(1)).unwrap_err();
        assert!(
            error.text.ends_with("5000 hops are more than a message holds"),
            "{error}"
        );
    }
}
