//! What must hold in a simulated network: always, and at rest.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use super::{NETWORKS, Sim, SimHost};
use crate::testing::{Handover, Holder};
use crate::{
    DEFAULT_PROTOCOL, Family, Lease, NodeId, Object, ObjectId, Op, Reason, Route, RouteId, State, SubnetKey,
};

/// By then an engine has looked at its kernel, even if some looks fail.
const LOOKED: Duration = Duration::from_secs(60);

/// What a host ought to come to, straight from the store.
struct Expected {
    objects: State,
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

    /// What an operator put there stays, at the latest since the engine has seen it.
    fn check_statics(&mut self) {
        for number in 0..self.hosts.len() {
            let there = self.hosts[number].kernel.routes();
            let gone = |(_, route): &&(Instant, Route)| !is_there(route, &there);
            for (since, route) in self.hosts[number].statics.iter().filter(gone) {
                let log = self.hosts[number].kernel.log();
                let culprit = log.iter().find(|entry| {
                    // An addition takes nothing away.
                    !matches!(entry.op, Op::Add(_))
                        && entry.op.id() == ObjectId::Route(route.id)
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
            let there = self.our_objects(host);
            let fits = there.keys().eq(expected.objects.keys())
                && there
                    .values()
                    .zip(expected.objects.values())
                    .all(|(is, wanted)| is.satisfies(wanted));
            assert!(
                fits,
                "host {number} has\n{}\nand ought to have\n{}\n{}",
                lines(&there),
                lines(&expected.objects),
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
        let planner = self.planner(host);
        let (mut objects, base) = (State::new(), planner.base());
        let (mut admitted, mut peers, mut refused) = (Vec::<Lease>::new(), Vec::<Lease>::new(), 0);
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
            if lease.attrs.backend != self.backend.kind()
                && in_network(&lease.subnet, &ranges)
                && !own.is_some_and(overlaps)
            {
                // Another backend's: neither peer nor fault.
                continue;
            }
            let admits = fits && !admitted.iter().any(|older| overlaps(older.subnet));
            if admits {
                admitted.push(lease.clone());
            }
            let agrees = |asked: &State| {
                let mut asked = asked.iter();
                asked.all(|(id, object)| objects.get(id).is_none_or(|there| there == object))
            };
            match planner.peer(&lease).filter(|asked| admits && agrees(asked)) {
                Some(asked) => {
                    objects.extend(asked);
                    peers.push(lease);
                }
                None => refused += 1,
            }
        }
        objects.extend(base);
        let there = host.kernel.routes();
        let mut blocked = BTreeSet::new();
        for lease in &peers {
            for net in lease.subnet.nets() {
                let id = RouteId::to(net);
                if there
                    .iter()
                    .any(|route| route.id == id && route.protocol != DEFAULT_PROTOCOL)
                {
                    blocked.insert(lease.subnet);
                    objects.remove(&ObjectId::Route(id));
                }
            }
        }
        Expected {
            objects,
            peers: peers.len(),
            refused,
            blocked,
        }
    }

    /// What is ours of what is in a host's kernel.
    fn our_objects(&self, host: &SimHost) -> State {
        let ranges = self.ranges();
        let ours = |object: &Object| match object {
            Object::Route(route) => route.protocol == DEFAULT_PROTOCOL,
            Object::Address(address) => ranges.iter().any(|range| range.contains(&address.id.net)),
            _ => true,
        };
        let mut scope = self.scope();
        // Wherever a route of ours leads.
        scope.networks = vec![
            "0.0.0.0/0".parse().expect("a prefix"),
            "::/0".parse().expect("a prefix"),
        ];
        let objects = host.kernel.objects(&scope).into_iter().filter(ours);
        objects.map(|object| (object.id(), object)).collect()
    }

    pub(super) fn ranges(&self) -> Vec<IpNet> {
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
                "host {number}: {own:?} {reasons:?}\n{}",
                lines(&self.our_objects(host))
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

    pub(super) fn is_own(&self, lease: &Lease) -> bool {
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

pub(super) fn in_network(subnet: &SubnetKey, ranges: &[IpNet]) -> bool {
    let parts: Vec<bool> = ranges
        .iter()
        .filter_map(|range| Some((range, subnet.net(Family::of_net(*range))?)))
        .map(|(range, net)| range.contains(&net) && net.prefix_len() > range.prefix_len())
        .collect();
    !parts.is_empty() && parts.iter().all(|inside| *inside)
}

fn lines(objects: &State) -> String {
    let lines: Vec<String> = objects.values().map(ToString::to_string).collect();
    lines.join("\n")
}

fn is_host(address: IpAddr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
}
