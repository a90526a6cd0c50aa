//! Table main as the kernel keeps it: stacks of routes, one stack for each place.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::{Changed, DeviceName, Family, Hop, Hops, OpErrorKind, Route, RouteId, RouteKind};

/// Table main. The key of a stack is the identity of its first route.
#[derive(Debug, Clone, Default)]
pub(super) struct Table(BTreeMap<RouteId, Vec<Route>>);

/// The flags of `RTM_NEWROUTE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// `NLM_F_CREATE | NLM_F_EXCL`.
    Exclusive,
    /// `NLM_F_CREATE | NLM_F_REPLACE`.
    Replace,
    /// `NLM_F_CREATE | NLM_F_APPEND`.
    Append,
}

impl Table {
    /// Puts a route and says what is announced: the kernel does not announce an IPv4 replacement
    /// that changes nothing.
    pub(super) fn put(&mut self, route: &Route, how: How) -> Result<Option<Changed>, OpErrorKind> {
        let route = normal(route);
        let v6 = Family::of_net(route.id.destination) == Family::V6;
        let stack = self.0.entry(route.id).or_default();
        let twin = stack.iter().position(|other| *other == route);
        match how {
            How::Exclusive if !stack.is_empty() => return Err(OpErrorKind::Exists),
            How::Replace if twin == Some(0) && !v6 => return Ok(None),
            // It stands behind the one that it would replace.
            How::Replace | How::Append if twin.is_some_and(|at| at > 0 || how == How::Append) => {
                return Err(OpErrorKind::Exists);
            }
            How::Replace if !stack.is_empty() => stack[0] = route.clone(),
            How::Append if v6 && merge(stack, &route) => {
                return Ok(Some(Changed::Appeared(stack[0].clone().into())));
            }
            _ => stack.push(route.clone()),
        }
        Ok(Some(Changed::Appeared(route.into())))
    }

    /// Removes the first route in the stack that is like this one in every field.
    pub(super) fn remove(&mut self, route: &Route) -> Option<Changed> {
        let route = normal(route);
        let stack = self.0.get_mut(&route.id);
        let found = stack.and_then(|stack| {
            let at = stack.iter().position(|other| *other == route)?;
            Some(stack.remove(at))
        });
        if self.0.get(&route.id).is_some_and(Vec::is_empty) {
            self.0.remove(&route.id);
        }
        Some(Changed::Vanished(found?.into()))
    }

    /// Takes out every route that `gone` names.
    pub(super) fn flush(&mut self, gone: impl Fn(&Route) -> bool) -> Vec<Route> {
        let mut flushed = Vec::new();
        self.0.retain(|_, stack| {
            flushed.extend(stack.extract_if(.., |route| gone(route)));
            !stack.is_empty()
        });
        flushed
    }

    /// Every route, numbered by its place in its stack.
    pub(super) fn routes(&self) -> impl Iterator<Item = Route> {
        self.0.values().flat_map(|stack| {
            (0..).zip(stack).map(|(position, route)| {
                let id = RouteId { position, ..route.id };
                Route { id, ..route.clone() }
            })
        })
    }

    /// The route that packets to `address` take, among those over `device` where one is named.
    pub(super) fn look_up(
        &self,
        address: IpAddr,
        device: Option<DeviceName>,
    ) -> Option<(&Route, Option<Hop>)> {
        (0..=Family::of(address).bits()).rev().find_map(|len| {
            let destination = IpNet::new(address, len).ok()?.trunc();
            let first = RouteId {
                destination,
                tos: 0,
                metric: 0,
                position: 0,
            };
            let last = RouteId {
                metric: u32::MAX,
                position: u16::MAX,
                ..first
            };
            self.0.range(first..=last).find_map(|(_, stack)| {
                let route = stack.first()?;
                let mut hops = route.hops.as_slice().iter();
                match device {
                    None => Some((route, hops.next().copied())),
                    Some(device) => Some((route, Some(*hops.find(|hop| hop.device == device)?))),
                }
            })
        })
    }

    /// Whether the kernel takes `gateway` to be a neighbour on `device`'s link.
    pub(super) fn is_on_link(&self, gateway: IpAddr, device: DeviceName) -> bool {
        if matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
            return true;
        }
        self.look_up(gateway, Some(device)).is_some_and(|(route, hop)| {
            route.kind == RouteKind::Unicast && hop.is_some_and(|hop| hop.gateway.is_none())
        })
    }
}

/// As the kernel stores it: no position, and no IPv6 route without a metric.
fn normal(route: &Route) -> Route {
    let mut route = route.clone();
    route.id.position = 0;
    if let (IpNet::V6(_), 0) = (route.id.destination, route.id.metric) {
        route.id.metric = RouteId::default_metric(Family::V6);
    }
    route
}

/// A gateway that is appended to an IPv6 route becomes a further hop of it.
fn merge(stack: &mut [Route], route: &Route) -> bool {
    let gateways = |hops: &Hops| {
        let hops = hops.as_slice();
        !hops.is_empty() && hops.iter().all(|hop| hop.gateway.is_some())
    };
    match stack
        .first_mut()
        .filter(|first| gateways(&first.hops) && gateways(&route.hops))
    {
        None => false,
        Some(first) => {
            first.hops = Hops::Many([first.hops.as_slice(), route.hops.as_slice()].concat());
            true
        }
    }
}
