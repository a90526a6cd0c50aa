//! What must hold in a simulated network: always, and at rest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use super::{NETWORKS, Sim, SimHost};
use crate::testing::{Handover, Holder, LogEntry};
use crate::{
    DEFAULT_PROTOCOL, Family, Hop, Lease, NodeId, Object, ObjectId, Op, PROTOCOL_BOOT, Reason, Route,
    RouteId, SubnetKey,
};

/// Long enough for every host to know of a change, and for what was forgotten to be let go.
const KNOWN_TO_ALL: Duration = Duration::from_secs(90);

/// By then an engine has looked at its kernel, even if some looks fail.
const LOOKED: Duration = Duration::from_secs(60);

/// What a host ought to come to, straight from the store.
struct Expected {
    routes: BTreeSet<String>,
    peers: usize,
    refused: usize,
    /// Peers for which a route of the operator's is in the way.
    blocked: BTreeSet<SubnetKey>,
}

impl Sim {
    /// Checks what must hold whatever happens.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn check_always(&mut self) {
        self.check_engines();
        self.check_handovers();
        self.check_removals();
        self.check_statics();
    }

    /// Engines run until they are stopped, do not turn in vain, and say why they are not ready.
    fn check_engines(&self) {
        for (number, host) in self.hosts.iter().enumerate() {
            let Some(running) = &host.running else { continue };
            assert!(
                !running.task.is_finished(),
                "the engine of host {number} has ended; {}",
                self.replay()
            );
            assert!(
                running.watched.unexplained().is_none(),
                "host {number} was not ready and did not say why from {:?} on; {}",
                running.watched.unexplained(),
                self.replay()
            );
        }
    }

    /// No two subnets that share an address are held by hosts at once, and no host takes what is
    /// another's.
    fn check_handovers(&mut self) {
        let handovers = self.store.handovers();
        for handover in handovers.get(self.handovers_checked..).unwrap_or_default() {
            let Handover { at, subnet, to } = *handover;
            let from = self.holders.insert(subnet, to).unwrap_or(Holder::Nobody);
            let Holder::Node(node) = to else { continue };
            let held = self
                .holders
                .iter()
                .filter(|(_, by)| matches!(by, Holder::Node(_)));
            let other = held
                .map(|(held, _)| held)
                .find(|held| **held != subnet && held.overlaps(&subnet));
            assert!(
                other.is_none() || self.restored.contains(&at),
                "{subnet} and {other:?} were held at once at {at:?}; {}",
                self.replay()
            );
            let rightly = match from {
                Holder::Nobody => true,
                Holder::Unnamed => self.flannels.contains(&subnet),
                // Whose state was lost or cloned.
                Holder::Node(former) => {
                    let both = |host: &SimHost| host.nodes.contains(&node) && host.nodes.contains(&former);
                    self.hosts.iter().any(both)
                }
            };
            assert!(
                rightly || self.restored.contains(&at),
                "{subnet} was taken from {from:?} by {to:?} at {at:?}; {}",
                self.replay()
            );
        }
        self.handovers_checked = handovers.len();
    }

    /// What a visible lease wants is never removed, nothing unmarked ever is, and only what is ours
    /// or stands where ours belongs is replaced.
    fn check_removals(&mut self) {
        let leases = self.store.leases();
        let by_net: BTreeMap<IpNet, &Lease> = leases
            .iter()
            .flat_map(|lease| lease.subnet.nets().map(move |net| (net, lease)))
            .collect();
        for number in 0..self.hosts.len() {
            let host = &self.hosts[number];
            let log = host.kernel.log();
            for entry in log.get(host.checked..).unwrap_or(&log) {
                self.check_mark(number, entry);
                let (Op::Remove(Object::Route(route)), Ok(())) = (&entry.op, &entry.outcome) else {
                    continue;
                };
                let plain = route.id == RouteId::to(route.id.destination);
                let Some(lease) = by_net.get(&route.id.destination).filter(|_| plain) else {
                    continue;
                };
                let family = Family::of_net(route.id.destination);
                let wanted = route.hops.as_slice().first().and_then(|hop| hop.gateway)
                    == lease.attrs.public.get(family).copied()
                    && !host.is_own(lease)
                    && !leases
                        .iter()
                        .any(|other| other.subnet != lease.subnet && other.subnet.overlaps(&lease.subnet))
                    && in_network(&lease.subnet, &self.ranges());
                assert!(
                    !(wanted && self.stands_for_long(&lease.subnet, entry.at)),
                    "host {number} removed {route}, which the lease {} wants; {}",
                    lease.subnet,
                    self.replay()
                );
            }
            self.hosts[number].checked = log.len();
        }
    }

    fn check_mark(&self, number: usize, entry: &LogEntry) {
        let ours =
            |object: &Object| matches!(object, Object::Route(route) if route.protocol == DEFAULT_PROTOCOL);
        let corrected = |object: &Object| {
            matches!(object, Object::Route(route)
                if route.protocol == PROTOCOL_BOOT && route.id == RouteId::to(route.id.destination))
        };
        let allowed = match &entry.op {
            Op::Add(object) => ours(object),
            Op::Replace { from, to } => ours(to) && (ours(from) || corrected(from)),
            Op::Remove(object) => ours(object),
        };
        assert!(
            allowed,
            "host {number} touched what is not ours: {:?}; {}",
            entry.op,
            self.replay()
        );
    }

    /// Whether nothing happened to this subnet, nor to any that overlaps it, for long.
    fn stands_for_long(&self, subnet: &SubnetKey, at: Instant) -> bool {
        let handovers = self.store.handovers();
        handovers
            .iter()
            .all(|handover| !handover.subnet.overlaps(subnet) || handover.at + KNOWN_TO_ALL < at)
    }

    /// What an operator put there stays, at the latest since the engine has seen it.
    fn check_statics(&mut self) {
        for number in 0..self.hosts.len() {
            let (there, log) = (
                self.hosts[number].kernel.routes(),
                self.hosts[number].kernel.log(),
            );
            let gone = |(_, route): &&(Instant, Route)| !is_there(route, &there);
            for (since, route) in self.hosts[number].statics.iter().filter(gone) {
                let culprit = log.iter().find(|entry| {
                    entry.op.id() == ObjectId::Route(route.id)
                        && entry.outcome.is_ok()
                        && entry.at > *since + LOOKED
                });
                assert!(
                    culprit.is_none(),
                    "host {number} took the operator's {route} away: {culprit:?}; {}",
                    self.replay()
                );
            }
            self.hosts[number].forget_lost_statics();
        }
    }

    /// Checks what must hold once everything has come to rest.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn check_at_rest(&mut self) {
        self.check_always();
        for (number, host) in self.hosts.iter().enumerate() {
            let expected = self.expected(host);
            assert_eq!(
                host.our_routes(),
                expected.routes,
                "host {number}: {}",
                self.replay()
            );
            let Some(status) = host.engine().map(crate::EngineHandle::status) else {
                continue;
            };
            let peers = status.peers;
            assert_eq!(
                (peers.desired, peers.refused, peers.installed),
                (
                    expected.peers,
                    expected.refused,
                    expected.peers - expected.blocked.len()
                ),
                "desired, refused, installed peers of host {number}: {}",
                self.replay()
            );
            for (_, route) in &host.statics {
                let reported = status.conflicts.iter().any(|conflict| {
                    matches!(&conflict.object, Object::Route(other)
                        if is_there(route, std::slice::from_ref(other)))
                });
                let own = status.lease.as_ref().map(|own| own.subnet);
                let in_own = own.is_some_and(|own| own.nets().any(|net| net.contains(&route.id.destination)));
                let inside = self
                    .ranges()
                    .iter()
                    .any(|range| range.contains(&route.id.destination));
                assert!(
                    reported || in_own || !inside || status.conflict_count > status.conflicts.len(),
                    "host {number} does not report {route}: {}",
                    self.replay()
                );
            }
        }
    }

    /// Every lease held against all older ones, as slow and simple as can be.
    fn expected(&self, host: &SimHost) -> Expected {
        let mut leases = self.store.leases();
        leases.sort_by_key(|lease| (lease.created, lease.subnet));
        let ranges = self.ranges();
        let own = host.own_subnet();
        let (mut admitted, mut refused) = (Vec::<Lease>::new(), 0);
        for lease in leases.into_iter().filter(|lease| Some(lease.subnet) != own) {
            let overlaps = |other: SubnetKey| other.overlaps(&lease.subnet);
            let fits = in_network(&lease.subnet, &ranges)
                && !own.is_some_and(overlaps)
                && ranges.iter().all(|range| {
                    let family = Family::of_net(*range);
                    let address = lease.attrs.public.get(family).copied();
                    lease.subnet.net(family).is_none()
                        || address
                            .is_some_and(|address| is_host(address) && !self.is_address_of(address, host))
                });
            if lease.attrs.backend != "host-gw"
                && in_network(&lease.subnet, &ranges)
                && !own.is_some_and(overlaps)
            {
                // Another backend's: neither peer nor fault.
            } else if fits && !admitted.iter().any(|older| overlaps(older.subnet)) {
                admitted.push(lease);
            } else {
                refused += 1;
            }
        }
        let there = host.kernel.routes();
        let (mut routes, mut blocked) = (BTreeSet::new(), BTreeSet::new());
        for lease in &admitted {
            for range in &ranges {
                let family = Family::of_net(*range);
                let (Some(net), Some(gateway)) = (lease.subnet.net(family), lease.attrs.public.get(family))
                else {
                    continue;
                };
                let id = RouteId::to(net);
                if there
                    .iter()
                    .any(|route| route.id == id && route.protocol != DEFAULT_PROTOCOL)
                {
                    blocked.insert(lease.subnet);
                    continue;
                }
                let hop = Hop::via(*gateway, "eth0".parse().expect("a device name"));
                routes.insert(Route::unicast(net, hop, DEFAULT_PROTOCOL).to_string());
            }
        }
        Expected {
            routes,
            peers: admitted.len(),
            refused,
            blocked,
        }
    }

    fn ranges(&self) -> Vec<IpNet> {
        let enabled = [self.families.v4(), self.families.v6()];
        let networks = NETWORKS.iter().zip(enabled).filter(|(_, enabled)| *enabled);
        networks
            .map(|(network, _)| network.parse().expect("a prefix"))
            .collect()
    }

    fn is_address_of(&self, address: IpAddr, host: &SimHost) -> bool {
        let own = self.families.addresses(host.address);
        own.iter().any(|own| own.starts_with(&format!("{address}/")))
    }

    pub(super) fn all_ready(&self) -> bool {
        self.hosts.iter().all(|host| {
            let Some(status) = host.engine().map(crate::EngineHandle::status) else {
                return true;
            };
            // All of its peers may be kept out by what an operator put there.
            let blocked =
                |reason: &Reason| matches!(reason, Reason::Routes { .. }) && !host.statics.is_empty();
            let mut reasons = status.reasons.iter().filter(|reason| reason.is_blocking());
            status.is_ready() || status.settled && status.lease.is_some() && reasons.all(blocked)
        })
    }

    /// Everything that ought to stand still at rest.
    pub(super) fn picture(&self) -> String {
        let mut picture = String::new();
        for lease in self.store.leases() {
            let _ = writeln!(picture, "{} {}", lease.subnet, lease.attrs.to_json());
        }
        for (number, host) in self.hosts.iter().enumerate() {
            let status = host.engine().map(crate::EngineHandle::status);
            let reasons = status.as_ref().map(|status| status.reasons.clone());
            let own = status.and_then(|status| status.lease.map(|own| own.subnet.to_string()));
            let _ = writeln!(
                picture,
                "host {number}: {own:?} {:?} {reasons:?}",
                host.our_routes()
            );
        }
        picture
    }

    /// How to see it again.
    pub(super) fn replay(&self) -> String {
        format!(
            "replay with SIM_SEED={}\n{}\n{}",
            self.seed,
            self.history.join("\n"),
            self.picture()
        )
    }
}

impl SimHost {
    /// The subnet that its engine holds.
    #[must_use]
    pub fn own_subnet(&self) -> Option<SubnetKey> {
        Some(self.engine()?.status().lease?.subnet)
    }

    fn is_own(&self, lease: &Lease) -> bool {
        let node: Option<NodeId> = lease.attrs.node;
        Some(lease.subnet) == self.own_subnet() || node.is_some_and(|node| self.nodes.contains(&node))
    }

    /// An operator's routes that are gone no longer count.
    pub(super) fn forget_lost_statics(&mut self) {
        let there = self.kernel.routes();
        self.statics.retain(|(_, route)| is_there(route, &there));
    }
}

/// Wherever in its stack.
fn is_there(route: &Route, routes: &[Route]) -> bool {
    routes.iter().any(|other| {
        let id = RouteId {
            position: route.id.position,
            ..other.id
        };
        Route { id, ..other.clone() } == *route
    })
}

fn in_network(subnet: &SubnetKey, ranges: &[IpNet]) -> bool {
    let parts: Vec<bool> = ranges
        .iter()
        .filter_map(|range| Some((range, subnet.net(Family::of_net(*range))?)))
        .map(|(range, net)| range.contains(&net) && net.prefix_len() > range.prefix_len())
        .collect();
    !parts.is_empty() && parts.iter().all(|inside| *inside)
}

fn is_host(address: IpAddr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
}
