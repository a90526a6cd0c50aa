//! Whose is a kernel object? The one place that knows.

use ipnet::IpNet;

use crate::object::PROTOCOL_BOOT;
use crate::{Device, DeviceKind, Object, Route, RouteId, Scope, State};

/// The protocol that marks our routes unless another is asked for.
pub const DEFAULT_PROTOCOL: u8 = 70;

/// How our objects are told from everybody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ownership {
    /// Where we put anything at all: this network and our devices, and those before them.
    pub scope: Scope,
    /// The protocol that marks our routes (`RTPROT_` in `linux/rtnetlink.h`).
    pub protocol: u8,
}

/// Whose an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    /// Ours: it carries our mark, inside our networks.
    Ours,
    /// It stands exactly where a route to a current peer belongs and looks as flannel or a bare
    /// `ip route replace` would have written it: it is corrected in place.
    Unmarked,
    /// The operator's. Reported where it is in the way, and never touched.
    Foreign,
}

impl Ownership {
    /// Whose an object in a dump is; `leased` tells whether exactly this destination is a current peer's
    /// subnet. Our devices are ours with the forwarding entries on them, and with those addresses and
    /// neighbours that lie in our networks: others, such as those of a DHCP client, are the operator's.
    pub fn owner(&self, object: &Object, leased: impl FnOnce(IpNet) -> bool) -> Owner {
        let ours = match object {
            Object::Route(route) => return self.route_owner(route, leased),
            Object::Device(device) => self.is_our_kind(device),
            Object::Address(address) => self.scope.covers(address.id.net),
            Object::Neighbour(neighbour) => self.scope.covers(neighbour.id.address.into()),
            Object::Forwarding(_) => true,
        };
        let in_scope = object.id().device().is_some_and(|device| self.scope.has(&device));
        if ours && in_scope {
            Owner::Ours
        } else {
            Owner::Foreign
        }
    }

    /// Something else under the name of a device of ours is somebody else's.
    fn is_our_kind(&self, device: &Device) -> bool {
        matches!(device.kind, DeviceKind::Vxlan(_)) && self.scope.has(&device.name)
    }

    /// Whose `route` is; `leased` tells whether exactly this destination is a current peer's subnet.
    /// Over a device of ours even a route that flannel made for nobody who is left is ours.
    ///
    /// ```
    /// use flannel_core::{Hop, Owner, Ownership, Route, Scope};
    ///
    /// let scope = Scope { networks: vec!["10.5.0.0/16".parse().unwrap()], ..Scope::default() };
    /// let ours = Ownership { scope, protocol: 70 };
    /// let hop = Hop::via("192.0.2.7".parse().unwrap(), "eth0".parse().unwrap());
    /// let route = |protocol| Route::unicast("10.5.7.0/24".parse().unwrap(), hop, protocol);
    /// assert_eq!(ours.route_owner(&route(70), |_| false), Owner::Ours);
    /// assert_eq!(ours.route_owner(&route(3), |_| true), Owner::Unmarked);
    /// assert_eq!(ours.route_owner(&route(4), |_| true), Owner::Foreign);
    /// ```
    pub fn route_owner(&self, route: &Route, leased: impl FnOnce(IpNet) -> bool) -> Owner {
        let destination = route.id.destination;
        if !self.scope.covers(destination) {
            return Owner::Foreign;
        }
        let hops = route.hops.as_slice();
        let over_ours = !hops.is_empty() && hops.iter().all(|hop| self.scope.has(&hop.device));
        if route.protocol == self.protocol || over_ours && route.protocol == PROTOCOL_BOOT {
            return Owner::Ours;
        }
        let plain = RouteId {
            position: route.id.position,
            ..RouteId::to(destination)
        };
        if route.protocol == PROTOCOL_BOOT && route.id == plain && leased(destination) {
            return Owner::Unmarked;
        }
        Owner::Foreign
    }

    /// Splits a dump into what is ours to change and what is not. What is on somebody else's device
    /// under the name of ours is theirs.
    pub fn split(&self, dump: Vec<Object>, leased: impl Fn(IpNet) -> bool) -> (State, Vec<Object>) {
        let (mut ours, mut foreign) = (State::new(), Vec::new());
        let mut known = self.clone();
        known.scope.devices.retain(|name| {
            let is_theirs = |object: &Object| match object {
                Object::Device(device) => device.name == *name && !self.is_our_kind(device),
                _ => false,
            };
            !dump.iter().any(is_theirs)
        });
        for object in dump {
            match known.owner(&object, &leased) {
                Owner::Ours | Owner::Unmarked => drop(ours.insert(object.id(), object)),
                Owner::Foreign => foreign.push(object),
            }
        }
        (ours, foreign)
    }
}

/// Something of the operator's that our network runs into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// What stands there.
    pub object: Object,
    /// What it does to us.
    pub effect: Effect,
}

/// What a foreign object does to our network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Effect {
    /// It has the place of a route of ours, which cannot be made.
    InTheWay,
    /// It covers a peer's subnet, or a part of it: packets may take it instead of our route.
    Overlaps,
    /// It leads into our network, where no peer is.
    Strays,
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.effect {
            Effect::InTheWay => "has the place of ours, which is not installed; remove it",
            Effect::Overlaps => {
                "covers a peer's subnet and may take its packets; remove it if that is not meant"
            }
            Effect::Strays => "leads into the network and is not ours; left alone",
        };
        write!(f, "{} {what}", self.object)
    }
}

/// What of the operator's our network runs into. `own` is our own subnet: whatever lies in it, such
/// as the container bridge's, is as it should be, and so are the routes of the host's own links.
pub(crate) fn conflicts<'a>(
    foreign: &'a [Object],
    want: &'a State,
    own: &'a dyn Fn(IpNet) -> bool,
    peer: &'a dyn Fn(IpNet) -> bool,
) -> impl Iterator<Item = Conflict> + 'a {
    foreign.iter().filter_map(move |object| {
        let in_the_way = want.contains_key(&object.id());
        // A device of somebody else's under the name of ours is told of as one that cannot be made.
        let Object::Route(route) = object else {
            return None;
        };
        let destination = route.id.destination;
        // One that is stacked behind ours has not its place.
        let effect = if in_the_way {
            Effect::InTheWay
        } else if own(destination) {
            return None;
        } else if peer(destination) {
            Effect::Overlaps
        } else if route.protocol == crate::object::PROTOCOL_KERNEL {
            return None;
        } else {
            Effect::Strays
        };
        Some(Conflict {
            object: object.clone(),
            effect,
        })
    })
}
