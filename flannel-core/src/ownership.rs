//! Whose is a kernel object? The one place that knows.

use ipnet::IpNet;

use crate::object::PROTOCOL_BOOT;
use crate::{Object, Route, RouteId, Scope, State};

/// The protocol that marks our routes unless another is asked for.
pub const DEFAULT_PROTOCOL: u8 = 70;

/// How our objects are told from everybody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ownership {
    /// Where we put anything at all: this network, and the one before it.
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
    /// Whose `route` is; `leased` tells whether exactly this destination is a current peer's subnet.
    ///
    /// ```
    /// use flannel_core::{Hop, Owner, Ownership, Route, Scope};
    ///
    /// let ours = Ownership { scope: Scope { networks: vec!["10.5.0.0/16".parse().unwrap()] }, protocol: 70 };
    /// let hop = Hop::via("192.0.2.7".parse().unwrap(), "eth0".parse().unwrap());
    /// let route = |protocol| Route::unicast("10.5.7.0/24".parse().unwrap(), hop, protocol);
    /// assert_eq!(ours.owner(&route(70), |_| false), Owner::Ours);
    /// assert_eq!(ours.owner(&route(3), |_| true), Owner::Unmarked);
    /// assert_eq!(ours.owner(&route(4), |_| true), Owner::Foreign);
    /// ```
    pub fn owner(&self, route: &Route, leased: impl FnOnce(IpNet) -> bool) -> Owner {
        let destination = route.id.destination;
        if !self.scope.covers(destination) {
            return Owner::Foreign;
        }
        if route.protocol == self.protocol {
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

    /// Splits a dump into what is ours to change and what is not.
    pub fn split(&self, dump: Vec<Object>, leased: impl Fn(IpNet) -> bool) -> (State, Vec<Object>) {
        let (mut ours, mut foreign) = (State::new(), Vec::new());
        for object in dump {
            let Object::Route(route) = &object;
            match self.owner(route, &leased) {
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
        let Object::Route(route) = object;
        let destination = route.id.destination;
        // One that is stacked behind ours has not its place.
        let effect = if want.contains_key(&object.id()) {
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
