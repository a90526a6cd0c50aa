//! Links and addresses, and what their changes do to table main.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::kernel::{Kernel, is_default};
use super::table::How;
use crate::{
    Changed, DefaultRoute, DeviceName, Family, Hop, HostFacts, Link, PROTOCOL_KERNEL, Reached, Route,
    RouteId, RouteKind,
};

/// The metric of the kernel's own IPv6 routes (`IP6_RT_PRIO_ADDRCONF`).
const ADDRCONF_METRIC: u32 = 256;

impl Kernel {
    pub(super) fn link(&self, name: DeviceName) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    pub(super) fn owns(&self, address: IpAddr) -> bool {
        let mut all = self.links.values().flat_map(|link| &link.addresses);
        all.any(|own| own.net.addr() == address)
    }

    /// Puts the link, or takes it away, and does to the routes what the kernel does.
    pub(super) fn set_link(&mut self, index: u32, after: Option<Link>) {
        let before = match after.clone() {
            Some(after) => self.links.insert(index, after),
            None => self.links.remove(&index),
        };
        let (old, new) = (connected(before.as_ref()), connected(after.as_ref()));
        let lost = before.as_ref().filter(|before| loses(before, after.as_ref()));
        let announced = lost.map_or(Changed::Host, |before| Changed::Down(before.name));
        match (before, after.filter(|after| after.up)) {
            (Some(before), Some(after)) => {
                for route in old.iter().filter(|route| !new.contains(route)) {
                    if let Some(vanished) = self.table.remove(route) {
                        self.announce(vanished);
                    }
                }
                self.forget_addresses(&before, &after);
            }
            (Some(before), None) => {
                self.flush_device(before.name, Family::V4);
                for route in self.flush_device(before.name, Family::V6) {
                    self.announce(Changed::Vanished(route.into()));
                }
            }
            (None, _) => {}
        }
        for route in new.into_iter().filter(|route| !old.contains(route)) {
            if let Ok(Some(appeared)) = self.table.put(&route, How::Append) {
                self.announce(appeared);
            }
        }
        self.announce(announced);
    }

    /// Drops, without a word, the IPv4 routes that prefer a source which is gone, and all of the
    /// device when its last IPv4 address is gone (`fib_sync_down_addr`, `fib_disable_ip`).
    fn forget_addresses(&mut self, before: &Link, after: &Link) {
        let v4 = |link: &Link| -> Vec<IpAddr> {
            let addresses = link.addresses.iter().map(|address| address.net.addr());
            addresses.filter(IpAddr::is_ipv4).collect()
        };
        let (before_v4, after_v4) = (v4(before), v4(after));
        let gone = |source: &IpAddr| before_v4.contains(source) && !after_v4.contains(source);
        self.table.flush(|route| route.source.as_ref().is_some_and(gone));
        if after_v4.is_empty() && !before_v4.is_empty() {
            self.flush_device(before.name, Family::V4);
        }
    }

    fn flush_device(&mut self, device: DeviceName, family: Family) -> Vec<Route> {
        self.table.flush(|route| {
            let hops = route.hops.as_slice();
            Family::of_net(route.id.destination) == family
                && !hops.is_empty()
                && hops.iter().all(|hop| hop.device == device)
        })
    }

    pub(super) fn facts(&self, reach: &[IpAddr]) -> HostFacts {
        // The table's order is that of family and metric already.
        let default_routes = self
            .table
            .routes()
            .filter(|route| is_default(route) && route.kind == RouteKind::Unicast)
            .filter_map(|route| {
                let hop = route.hops.as_slice().first()?;
                Some(DefaultRoute {
                    family: Family::of_net(route.id.destination),
                    device: hop.device,
                    gateway: hop.gateway,
                    metric: route.id.metric,
                })
            })
            .collect();
        let reached = reach
            .iter()
            .filter_map(|&address| Some((address, self.reach(address)?)));
        HostFacts {
            links: self.links.values().cloned().collect(),
            default_routes,
            resolvers: self.resolvers.clone(),
            reached: reached.collect::<BTreeMap<_, _>>(),
            unforwarded: self.unforwarded.clone(),
            filters: self.filters.clone(),
        }
    }

    fn reach(&self, address: IpAddr) -> Option<Reached> {
        if self.owns(address) {
            let device = self.links.values().find(|link| link.loopback)?.name;
            return Some(Reached {
                device,
                source: Some(address),
            });
        }
        let (route, hop) = self.table.look_up(address, None)?;
        let device = hop?.device;
        let link = self.link(device)?;
        let own = link.addresses.iter().map(|own| own.net.addr());
        let source = route.source.or_else(|| {
            own.into_iter()
                .find(|own| Family::of(*own) == Family::of(address))
        });
        Some(Reached { device, source })
    }
}

/// Whether the link goes down or away, or loses an address.
fn loses(before: &Link, after: Option<&Link>) -> bool {
    let Some(after) = after else { return true };
    let kept = |net| after.addresses.iter().any(|own| own.net == net);
    (before.up && !after.up) || !before.addresses.iter().all(|own| kept(own.net))
}

/// The routes that the kernel makes for the addresses of a link. Loopback's are in table local.
fn connected(link: Option<&Link>) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    let Some(link) = link.filter(|link| link.up && !link.loopback) else {
        return routes;
    };
    for address in &link.addresses {
        let hop = Hop {
            gateway: None,
            device: link.name,
            onlink: false,
        };
        let mut route = Route::unicast(address.net, hop, PROTOCOL_KERNEL);
        match address.net {
            IpNet::V4(net) if net.prefix_len() == 32 => continue,
            IpNet::V4(net) => route.source = Some(net.addr().into()),
            IpNet::V6(_) => {
                route.id = RouteId {
                    metric: ADDRCONF_METRIC,
                    ..route.id
                }
            }
        }
        if routes.iter().all(|other| other.id != route.id) {
            routes.push(route);
        }
    }
    routes
}
