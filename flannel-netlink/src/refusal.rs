//! Why an operation failed: what it was about, the kernel's words, and the remedy. Pure.

use flannel_core::{Object, Op, OpError, OpErrorKind};
use ipnet::IpNet;
use nix::errno::Errno;

use crate::reply::Failure;

/// An operation that failed for this reason.
pub(crate) fn refusal(op: &Op, kind: OpErrorKind, reason: &str) -> OpError {
    let what = match op {
        Op::Add(object) => format!("cannot add {object}"),
        Op::Replace { from, to } => format!("cannot replace {from} by {to}"),
        Op::Remove(object) => format!("cannot remove {object}"),
    };
    OpError {
        kind,
        text: format!("{what}: {reason}"),
    }
}

/// The kernel's refusal of an operation.
pub(crate) fn error(op: &Op, failure: &Failure) -> OpError {
    explained(op, failure, remedy(op, failure))
}

/// The same, with a remedy that is known better.
pub(crate) fn explained(op: &Op, failure: &Failure, remedy: Option<String>) -> OpError {
    let reason = match remedy {
        Some(remedy) => format!("{failure}; {remedy}"),
        None => failure.to_string(),
    };
    refusal(op, kind(op, failure.errno), &reason)
}

fn kind(op: &Op, errno: Errno) -> OpErrorKind {
    match errno {
        Errno::EEXIST => OpErrorKind::Exists,
        Errno::ESRCH | Errno::ENOENT => OpErrorKind::Gone,
        // Only of addresses does it say that there is none; a device has it for a MAC address.
        Errno::EADDRNOTAVAIL if matches!(op.object(), Object::Address(_)) => OpErrorKind::Gone,
        Errno::ENETUNREACH | Errno::EHOSTUNREACH => OpErrorKind::Unreachable,
        Errno::ENODEV | Errno::ENETDOWN => OpErrorKind::NoDevice,
        Errno::EPERM | Errno::EACCES => OpErrorKind::Denied,
        _ => OpErrorKind::Other,
    }
}

/// What to do about it, if the kernel's own reason does not say enough.
pub(crate) fn remedy(op: &Op, failure: &Failure) -> Option<String> {
    match (failure.errno, op.object()) {
        // Where it gives a reason, that is the lack, such as of IPv6.
        (Errno::EPERM, _) if failure.text.is_none() => Some("run with CAP_NET_ADMIN".to_owned()),
        (Errno::EACCES, Object::Address(address)) if matches!(address.id.net, IpNet::V6(_)) => {
            let device = address.id.device;
            Some(format!(
                "IPv6 is disabled on the device: enable it with `sysctl -w net/ipv6/conf/{device}/disable_ipv6=0`"
            ))
        }
        (Errno::ENODEV | Errno::ENETDOWN, _) => Some("make the device and set it up".to_owned()),
        (errno, Object::Route(_)) => of_route(errno).map(str::to_owned),
        (Errno::EEXIST, Object::Address(address)) => {
            let id = address.id;
            Some(format!(
                "remove the one that is there with `ip address del {} dev {}`",
                id.net, id.device
            ))
        }
        (Errno::EOPNOTSUPP, Object::Device(_)) => {
            Some("load the kernel's module with `modprobe vxlan`, or run a later kernel".to_owned())
        }
        (Errno::EOPNOTSUPP, Object::Forwarding(entry)) => Some(format!(
            "{} is no VXLAN device, or its entry is for no single host: see `bridge fdb show dev {0}`",
            entry.id.device
        )),
        _ => None,
    }
}

const fn of_route(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::EEXIST => Some("remove the route that is there, or give it another metric"),
        Errno::ENETUNREACH | Errno::EHOSTUNREACH => Some(
            "the gateway is not on the device's segment: give the device an address in the gateway's network, or use \
             the backend vxlan with DirectRouting",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flannel_core::{Address, Hop, Route};

    fn route() -> Object {
        let hop = Hop::via("192.0.2.7".parse().unwrap(), "eth0".parse().unwrap());
        Route::unicast("10.5.7.0/24".parse().unwrap(), hop, 70).into()
    }

    fn address(net: &str) -> Object {
        Address::permanent("flannel.1".parse().unwrap(), net.parse().unwrap()).into()
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
        let error = error(&Op::Add(route()), &failure);
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
            (Errno::EADDRNOTAVAIL, OpErrorKind::Other),
        ];
        for (errno, kind) in table {
            assert_eq!(
                error(&Op::Remove(route()), &failure(errno, None)).kind,
                kind,
                "{errno}"
            );
        }
        let gone = error(
            &Op::Remove(address("10.5.7.0/32")),
            &failure(Errno::EADDRNOTAVAIL, None),
        );
        assert_eq!(gone.kind, OpErrorKind::Gone);
    }

    #[test]
    fn a_remedy_is_for_the_kind_of_object() {
        let said = |object: Object, errno| error(&Op::Add(object), &failure(errno, None)).text;
        assert!(said(route(), Errno::EEXIST).contains("remove the route that is there"));
        let taken = said(address("10.5.7.0/32"), Errno::EEXIST);
        assert!(
            taken.ends_with("`ip address del 10.5.7.0/32 dev flannel.1`"),
            "{taken}"
        );
        let disabled = said(address("fd10:5::/128"), Errno::EACCES);
        assert!(
            disabled.ends_with("`sysctl -w net/ipv6/conf/flannel.1/disable_ipv6=0`"),
            "{disabled}"
        );
    }

    #[test]
    fn a_privilege_is_asked_for_only_where_the_kernel_gives_no_other_reason() {
        let said = |text| error(&Op::Add(route()), &failure(Errno::EPERM, text)).text;
        assert!(said(None).ends_with("run with CAP_NET_ADMIN"));
        assert!(!said(Some("IPv6 support disabled by administrator")).contains("CAP_NET_ADMIN"));
    }
}
