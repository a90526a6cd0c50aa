//! Links and addresses, and what their changes do to what is on them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::kernel::{Kernel, is_default};
use super::nic::Nic;
use super::notice::Notice;
use super::table::How;
use crate::{
    Changed, DefaultRoute, DeviceName, Family, Hop, HostFacts, Link, PROTOCOL_KERNEL, Reached, Route,
    RouteId, RouteKind, Underlay,
};

/// The metric of the kernel's own IPv6 routes (`IP6_RT_PRIO_ADDRCONF`).
const ADDRCONF_METRIC: u32 = 256;

impl Kernel {
    pub(super) fn link(&self, name: DeviceName) -> Option<&Link> {
        self.links().find(|link| link.name == name)
    }

    fn links(&self) -> impl Iterator<Item = &Link> {
        self.nics.values().map(|nic| &nic.link)
    }

    pub(super) fn owns(&self, address: IpAddr) -> bool {
        let mut all = self.links().flat_map(|link| &link.addresses);
        all.any(|own| own.net.addr() == address)
    }

    /// Puts the device, or takes it away, and does to what is on it what the kernel does.
    pub(super) fn set_nic(&mut self, index: u32, mut after: Option<Nic>) {
        if let Some(nic) = &mut after
            && self.nics.get(&index).is_some_and(|before| before.link.up)
        {
            nic.lose_addresses();
        }
        if after.is_none() {
            let gone = self.nics.get(&index).map(|nic| nic.link.name);
            let over: Vec<u32> = gone.into_iter().flat_map(|gone| self.over(gone)).collect();
            over.into_iter().for_each(|index| self.set_nic(index, None));
        }
        let before = match after.clone() {
            Some(after) => self.nics.insert(index, after),
            None => self.nics.remove(&index),
        };
        let (before, after) = (before.map(|nic| nic.link), after.map(|nic| nic.link));
        let Some(device) = before.as_ref().or(after.as_ref()).map(|link| link.name) else {
            return;
        };
        if after.is_none() {
            self.flush_forwarding(device);
        }
        let (old, new) = (connected(before.as_ref()), connected(after.as_ref()));
        let lost = before
            .as_ref()
            .is_some_and(|before| loses(before, after.as_ref()));
        match (before, after.filter(|after| after.up)) {
            (Some(before), Some(after)) => {
                for route in old.iter().filter(|route| !new.contains(route)) {
                    if let Some(vanished) = self.table.remove(route) {
                        self.announce(vanished);
                    }
                }
                self.forget_addresses(&before, &after);
                if before.mac != after.mac {
                    self.flush_neighbours(|id| id.device == device);
                }
            }
            (Some(before), None) if before.up || !self.nics.contains_key(&index) => {
                self.flush_neighbours(|id| id.device == device);
                self.flush_device(device, Family::V4);
                for route in self.flush_device(device, Family::V6) {
                    self.announce(Changed::Vanished(route.into()));
                }
            }
            (_, _) => {}
        }
        for route in new.into_iter().filter(|route| !old.contains(route)) {
            if let Ok(Some(appeared)) = self.table.put(&route, How::Append) {
                self.announce(appeared);
            }
        }
        self.notify(Notice::Link { device, lost });
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
            let device = before.name;
            self.flush_neighbours(|id| id.device == device && id.address.is_ipv4());
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
            links: self.links().cloned().collect(),
            default_routes,
            resolvers: self.resolvers.clone(),
            reached: reached.collect::<BTreeMap<_, _>>(),
            unforwarded: self.unforwarded.clone(),
            filters: self.filters.clone(),
            underlay: self.underlay(),
            kernel: self.release,
        }
    }

    fn underlay(&self) -> Underlay {
        let mut underlay = Underlay::default();
        for route in self.table.routes() {
            let on_link = match route.hops.as_slice() {
                [hop] if hop.gateway.is_none() && route.kind == RouteKind::Unicast => Some(hop.device),
                _ => None,
            };
            underlay.insert(route.id.destination, route.id.metric, on_link);
        }
        underlay.retain_relevant();
        underlay
    }

    fn reach(&self, address: IpAddr) -> Option<Reached> {
        if self.owns(address) {
            let device = self.links().find(|link| link.loopback)?.name;
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

impl Nic {
    /// A VXLAN device that is down has no IPv6 address.
    fn lose_addresses(&mut self) {
        if !self.link.up && self.vxlan().is_some() {
            self.link.addresses.retain(|own| own.net.addr().is_ipv4());
        }
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
