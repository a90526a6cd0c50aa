//! What may be removed and changed in a simulated host's kernel.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use super::checks::in_network;
use super::{ENLARGED, NETWORKS, Sim};
use crate::testing::LogEntry;
use crate::{
    DEFAULT_PROTOCOL, DeviceKind, DeviceName, Lease, Object, ObjectId, Op, PROTOCOL_BOOT, RouteId, State,
    SubnetKey,
};

/// Long enough for every host to know of a change, and for what was forgotten to be let go.
const KNOWN_TO_ALL: Duration = Duration::from_secs(90);

/// The values of leases, as far as they were seen.
#[derive(Default)]
pub(super) struct Values {
    present: BTreeMap<SubnetKey, (Lease, Instant)>,
    /// Those that are gone or others by now, and until when they were there.
    past: Vec<(Lease, Instant)>,
}

impl Values {
    fn observe(&mut self, leases: Vec<Lease>, now: Instant) {
        let mut before = std::mem::take(&mut self.present);
        for lease in leases {
            let before = before.remove(&lease.subnet);
            let same = before.as_ref().filter(|(before, _)| before.attrs == lease.attrs);
            let since = same.map_or(now, |(_, since)| *since);
            if same.is_none() {
                self.past.extend(before.map(|(before, _)| (before, now)));
            }
            self.present.insert(lease.subnet, (lease, since));
        }
        self.past.retain(|(_, until)| *until + 2 * KNOWN_TO_ALL > now);
        self.past
            .extend(before.into_values().map(|(lease, _)| (lease, now)));
    }

    /// Whether a lease has long been as it is.
    fn stood(&self, subnet: &SubnetKey, at: Instant) -> bool {
        let present = self.present.get(subnet);
        present.is_some_and(|(_, since)| *since + KNOWN_TO_ALL < at)
    }
}

impl Sim {
    /// What a visible lease wants is never removed, nothing unmarked ever is, and only what is ours
    /// or stands where ours belongs is replaced.
    pub(super) fn check_removals(&mut self) {
        self.values.observe(self.store.leases(), Instant::now());
        for number in 0..self.hosts.len() {
            let host = &self.hosts[number];
            let (new, length) = host.kernel.log_from(host.checked);
            for entry in &new {
                self.check_mark(number, entry);
            }
            let removed = |entry: &&LogEntry| matches!(entry.op, Op::Remove(_)) && entry.outcome.is_ok();
            let removed: Vec<&LogEntry> = new.iter().filter(removed).collect();
            if !removed.is_empty() {
                self.check_removed(number, &removed);
            }
            self.hosts[number].checked = length;
        }
    }

    fn check_removed(&self, number: usize, removed: &[&LogEntry]) {
        let host = &self.hosts[number];
        let (leases, ranges, planner) = (self.store.leases(), self.ranges(), self.planner(host));
        let asked: Vec<(&Lease, State)> = leases
            .iter()
            .filter_map(|lease| Some((lease, planner.peer(lease)?)))
            .collect();
        // A lease that has gone meanwhile may have been older.
        let past = self.values.past.iter();
        let past: Vec<(Instant, State)> = past
            .filter_map(|(lease, until)| Some((*until, planner.peer(lease)?)))
            .collect();
        let stands_alone = |lease: &Lease, own: &State, at: Instant| {
            let differs = |(id, object): (&ObjectId, &Object)| own.get(id).is_some_and(|own| own != object);
            let disagrees = |other: &State| other.iter().any(differs);
            let mut others = asked.iter().filter(|(other, _)| other.subnet != lease.subnet);
            let mut recent = past.iter().filter(|(until, _)| *until + KNOWN_TO_ALL > at);
            let overlapped = leases
                .iter()
                .any(|other| other.subnet != lease.subnet && other.subnet.overlaps(&lease.subnet));
            !overlapped
                && !others.any(|(_, other)| disagrees(other))
                && !recent.any(|(_, other)| disagrees(other))
        };
        for entry in removed {
            let object = entry.op.object();
            let rests_on = |device: &DeviceName| object.rests_on(device);
            // It is not seen from here what a host took for wanted then.
            let unclear = self.renumbered || self.cloned;
            if unclear && self.devices().iter().any(rests_on) {
                continue;
            }
            let wants = |(lease, own): &&(&Lease, State)| {
                own.get(&object.id()).is_some_and(|own| object.satisfies(own))
                    && !host.is_own(lease)
                    && in_network(&lease.subnet, &ranges)
                    && self.stands_for_long(&lease.subnet, entry.at)
                    && self.values.stood(&lease.subnet, entry.at)
                    && stands_alone(lease, own, entry.at)
            };
            let wanted = asked.iter().find(wants).map(|(lease, _)| lease.subnet);
            assert!(
                wanted.is_none(),
                "host {number} removed {object}, which the lease {wanted:?} wants; {}",
                self.replay()
            );
        }
    }

    fn check_mark(&self, number: usize, entry: &LogEntry) {
        let devices = self.devices();
        let ours = |object: &Object| match object {
            Object::Route(route) => {
                let hops = route.hops.as_slice();
                let over_ours = !hops.is_empty() && hops.iter().all(|hop| devices.contains(&hop.device));
                route.protocol == DEFAULT_PROTOCOL || over_ours && route.protocol == PROTOCOL_BOOT
            }
            Object::Address(address) => {
                let inside = |range: &str| {
                    let range: IpNet = range.parse().expect("a prefix");
                    range.contains(&address.id.net)
                };
                let networks = NETWORKS.iter().chain(&ENLARGED);
                networks.into_iter().any(|range| inside(range)) && devices.contains(&address.id.device)
            }
            Object::Device(device) => {
                matches!(device.kind, DeviceKind::Vxlan(_)) && devices.contains(&device.name)
            }
            _ => object
                .id()
                .device()
                .is_some_and(|device| devices.contains(&device)),
        };
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
}
