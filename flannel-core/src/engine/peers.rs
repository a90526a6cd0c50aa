//! The other hosts: which leases there are, which of them are peers, and what each asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::reconciler::Reconciler;
use crate::admit::Known;
use crate::choose::shared;
use crate::{
    Admission, Context, DataPlane, Desired, Lease, Leases, NodeId, ObjectId, PeerList, PeerState, PeerStatus,
    PerFamily, Refusal, State, SubnetKey,
};

/// How long a lease that a wiped or cut-off store no longer shows is kept for.
const GRACE: Duration = Duration::from_secs(60);

/// What a lease comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// A peer, and the objects that it asks for.
    Peer(BTreeSet<ObjectId>),
    /// No peer.
    Refused(Refusal),
    /// A peer for which the backend can do nothing.
    Skipped(String),
    /// A lease of another backend: no fault of anybody's.
    Elsewhere,
}

/// Every lease that the store has, and what is made of each.
#[derive(Debug, Default)]
pub(super) struct Peers {
    leases: Leases,
    // Absent from the last snapshot, and kept until then all the same.
    kept: BTreeMap<SubnetKey, Instant>,
    verdicts: BTreeMap<SubnetKey, Verdict>,
    /// The peers that ask for an object. It is the same for all of them.
    owners: BTreeMap<ObjectId, Vec<SubnetKey>>,
    /// Leases that were left out because an older one has an object otherwise.
    contending: BTreeMap<ObjectId, BTreeSet<SubnetKey>>,
    dirty: BTreeSet<SubnetKey>,
    /// Counts of verdicts, so that a status costs nothing.
    pub(super) admitted: usize,
    pub(super) refused: usize,
    /// Changes whenever `leases` does.
    pub(super) generation: u64,
}

impl Peers {
    pub(super) const fn leases(&self) -> &Leases {
        &self.leases
    }

    /// The peers that ask for an object.
    pub(super) fn owners(&self, id: &ObjectId) -> &[SubnetKey] {
        self.owners.get(id).map(Vec::as_slice).unwrap_or_default()
    }

    /// The lease that an earlier run of ours took, or flannel on this host, if the store has one.
    pub(super) fn earlier(&self, me: NodeId, public: PerFamily<IpAddr>) -> Option<&Lease> {
        let flannels = |lease: &&Lease| lease.attrs.node.is_none() && shared(lease, public).is_some();
        // One that we have challenged is what is left of this host if nobody objects.
        let ours = self.leases.iter().find(|lease| lease.attrs.node == Some(me));
        ours.or_else(|| self.leases.iter().find(flannels))
    }

    /// One of the leases for which the backend can do nothing, and why not.
    pub(super) fn first_skipped(&self) -> Option<(SubnetKey, &str)> {
        self.verdicts.iter().find_map(|(subnet, verdict)| match verdict {
            Verdict::Skipped(why) => Some((*subnet, why.as_str())),
            _ => None,
        })
    }

    /// Whether exactly this prefix is a subnet of a peer.
    pub(super) fn is_subnet(&self, net: ipnet::IpNet) -> bool {
        self.leases.overlapping_net(net).any(|lease| {
            lease.subnet.nets().any(|own| own == net)
                && matches!(self.verdicts.get(&lease.subnet), Some(Verdict::Peer(_)))
        })
    }

    /// Whether a part of this prefix is a peer's.
    pub(super) fn overlaps_peer(&self, net: ipnet::IpNet) -> bool {
        let mut overlapping = self.leases.overlapping_net(net);
        overlapping.any(|lease| matches!(self.verdicts.get(&lease.subnet), Some(Verdict::Peer(_))))
    }

    /// Whether there is anything to plan.
    pub(super) fn is_marked(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// At most so many of the leases that are not our own; `installed` says how the kernel stands by
    /// those that are peers.
    pub(super) fn list(&self, limit: usize, installed: impl Fn(&SubnetKey) -> PeerState) -> PeerList {
        let row = |(subnet, verdict): (&SubnetKey, &Verdict)| {
            let lease = self.leases.get(subnet)?;
            let state = match verdict {
                Verdict::Peer(_) => installed(subnet),
                Verdict::Refused(refusal) => PeerState::Refused(refusal.to_string()),
                Verdict::Skipped(why) => PeerState::Refused(why.clone()),
                Verdict::Elsewhere => PeerState::Elsewhere(lease.attrs.backend.clone()),
            };
            let (subnet, public) = (*subnet, lease.attrs.public);
            Some(PeerStatus {
                subnet,
                public,
                state,
            })
        };
        let all = || self.verdicts.iter().filter_map(row);
        let is_installed = |row: &PeerStatus| row.state == PeerState::Installed;
        // What an operator looks for comes first where not all can be listed.
        let troubled = all().filter(|row| !is_installed(row));
        let mut rows: Vec<PeerStatus> = troubled.chain(all().filter(is_installed)).take(limit).collect();
        rows.sort_unstable_by_key(|row| row.subnet);
        PeerList {
            rows,
            total: self.verdicts.len(),
        }
    }

    /// A lease is there, or is different.
    pub(super) fn put(&mut self, lease: Lease) {
        let subnet = lease.subnet;
        self.kept.remove(&subnet);
        // Whoever is here now has taken the place of what is only remembered.
        if !self.kept.is_empty() {
            let overlapped = self.leases.overlapping(&subnet).into_iter();
            let kept = overlapped.filter(|other| self.kept.contains_key(&other.subnet));
            let displaced: Vec<SubnetKey> = kept.map(|other| other.subnet).collect();
            for other in displaced {
                self.delete(&other);
            }
        }
        let (attrs, created) = (lease.attrs.clone(), lease.created);
        let before = self.leases.insert(lease);
        self.generation += 1;
        match before {
            Some(before) if before.attrs == attrs && before.created == created => {}
            Some(before) => self.mark(subnet, before.created.min(created)),
            None => self.mark(subnet, created),
        }
    }

    /// A lease is gone.
    pub(super) fn delete(&mut self, subnet: &SubnetKey) {
        self.kept.remove(subnet);
        if let Some(lease) = self.leases.remove(subnet) {
            self.generation += 1;
            self.mark(*subnet, lease.created);
        }
    }

    /// Every lease there is. What is absent goes at once, unless the store may merely have
    /// `forgotten` it. Our own (`me`) go always: they are to be taken anew.
    pub(super) fn snapshot(&mut self, leases: Vec<Lease>, forgotten: bool, me: NodeId, now: Instant) {
        let present: BTreeSet<SubnetKey> = leases.iter().map(|lease| lease.subnet).collect();
        let absent: Vec<(SubnetKey, bool)> = self
            .leases
            .iter()
            .filter(|lease| !present.contains(&lease.subnet))
            .map(|lease| (lease.subnet, lease.attrs.node == Some(me)))
            .collect();
        for (subnet, ours) in &absent {
            if *ours || !forgotten && !self.kept.contains_key(subnet) {
                self.delete(subnet);
            } else {
                self.kept.entry(*subnet).or_insert(now + GRACE);
            }
        }
        if forgotten && !absent.is_empty() {
            warn!(
                leases = absent.len(),
                seconds = GRACE.as_secs(),
                "the store no longer shows leases that it had; keeping their routes for a while"
            );
        }
        for lease in leases {
            self.put(lease);
        }
    }

    /// Lets go of what was kept long enough.
    pub(super) fn let_go(&mut self, now: Instant) {
        let due: Vec<SubnetKey> = self
            .kept
            .iter()
            .filter(|(_, until)| **until <= now)
            .map(|(subnet, _)| *subnet)
            .collect();
        for subnet in due {
            warn!(%subnet, "the lease did not come back; letting its routes go");
            self.delete(&subnet);
        }
    }

    /// When [`Peers::let_go`] has something to do.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.kept.values().min().copied()
    }

    /// Everything is to be looked at anew: the host, our own lease or the config changed.
    pub(super) fn mark_all(&mut self) {
        self.dirty.extend(self.leases.iter().map(|lease| lease.subnet));
    }

    /// Asks the reconciler for what the marked leases ask for. Costs what is marked.
    pub(super) fn plan(
        &mut self,
        admission: &Admission<'_>,
        data_plane: &dyn DataPlane,
        context: &Context<'_>,
        reconciler: &mut Reconciler,
    ) {
        let mut known = Known::new();
        // Ends: of leases that contend for an object the older always prevails.
        while let Some(subnet) = self.dirty.pop_first() {
            let (mut verdict, desired) = self.judge(&subnet, admission, data_plane, context, &mut known);
            let mut after = desired.into_state();
            if let Some(why) = self.contend(&subnet, &after, reconciler.want()) {
                verdict = Some(Verdict::Skipped(why));
                after.clear();
            }
            let before = match self.record(subnet, verdict) {
                Some(Verdict::Peer(objects)) => objects,
                _ => BTreeSet::new(),
            };
            for id in before.iter().filter(|id| !after.contains_key(id)) {
                if self.disown(id, &subnet) {
                    reconciler.set_want(*id, None);
                }
            }
            for (id, object) in after {
                let owners = self.owners.entry(id).or_default();
                if !owners.contains(&subnet) {
                    owners.push(subnet);
                }
                // Whoever was left out may be older than this one has become.
                self.dirty.extend(self.contending.remove(&id).unwrap_or_default());
                reconciler.set_want(id, Some(object));
            }
        }
    }

    /// Why a lease cannot have what it asks for: an older one has it otherwise. Younger ones that do are
    /// looked at again.
    fn contend(&mut self, subnet: &SubnetKey, after: &State, want: &State) -> Option<String> {
        let age = |subnet: &SubnetKey| self.leases.get(subnet).map(|lease| (lease.created, lease.subnet));
        let mut younger = Vec::new();
        for (id, object) in after {
            let others = self.owners(id).iter().filter(|other| *other != subnet);
            if want.get(id) == Some(object) {
                continue;
            }
            for other in others {
                if age(other).is_some_and(|other| Some(other) < age(subnet)) {
                    let why = format!("it asks for {object}, and the older lease {other} for another");
                    self.contending.entry(*id).or_default().insert(*subnet);
                    return Some(why);
                }
                younger.push(*other);
            }
        }
        self.dirty.extend(younger);
        None
    }

    /// A peer no longer asks for an object: whether nobody does. Who wanted it otherwise may have it.
    fn disown(&mut self, id: &ObjectId, subnet: &SubnetKey) -> bool {
        let Some(owners) = self.owners.get_mut(id) else {
            return false;
        };
        owners.retain(|owner| owner != subnet);
        let nobody = owners.is_empty();
        if nobody {
            self.owners.remove(id);
        }
        self.dirty.extend(self.contending.remove(id).unwrap_or_default());
        nobody
    }

    fn judge(
        &self,
        subnet: &SubnetKey,
        admission: &Admission<'_>,
        data_plane: &dyn DataPlane,
        context: &Context<'_>,
        known: &mut Known,
    ) -> (Option<Verdict>, Desired) {
        let mut desired = Desired::default();
        let Some(lease) = self
            .leases
            .get(subnet)
            .filter(|lease| lease.subnet != admission.own)
        else {
            return (None, desired);
        };
        let me = context.own.attrs.node;
        let is_ours = |lease: &Lease| me.is_some() && lease.attrs.node == me;
        let verdict = match admission.admit_knowing(lease, &self.leases, known) {
            Err(Refusal::Backend(_)) => Verdict::Elsewhere,
            // By our address it is another host's fault only if it does not carry our name.
            Err(Refusal::OurAddress(_)) if is_ours(lease) => Verdict::Refused(Refusal::LeftBehind),
            Err(refusal) => Verdict::Refused(refusal),
            Ok(()) => match data_plane.peer(context, lease, &mut desired) {
                Ok(()) => {
                    if admission.is_cut_differently(lease) && !self.verdicts.contains_key(subnet) {
                        warn!(%subnet, "the lease has another subnet length than the network config");
                    }
                    Verdict::Peer(desired.ids().collect())
                }
                Err(skip) => {
                    desired = Desired::default();
                    Verdict::Skipped(skip.0)
                }
            },
        };
        (Some(verdict), desired)
    }

    /// Takes note of what a lease comes to, and returns what it came to before.
    fn record(&mut self, subnet: SubnetKey, verdict: Option<Verdict>) -> Option<Verdict> {
        let before = self.verdicts.remove(&subnet);
        let admitted = |verdict: &Option<Verdict>| matches!(verdict, Some(Verdict::Peer(_)));
        let refused =
            |verdict: &Option<Verdict>| matches!(verdict, Some(Verdict::Refused(_) | Verdict::Skipped(_)));
        self.admitted = self.admitted + usize::from(admitted(&verdict)) - usize::from(admitted(&before));
        self.refused = self.refused + usize::from(refused(&verdict)) - usize::from(refused(&before));
        if before != verdict {
            match &verdict {
                Some(Verdict::Refused(reason)) => warn!(%subnet, %reason, "lease refused"),
                Some(Verdict::Skipped(reason)) => warn!(%subnet, %reason, "lease skipped"),
                Some(Verdict::Elsewhere) => info!(%subnet, "lease of another backend left alone"),
                Some(Verdict::Peer(_)) | None => {}
            }
        }
        if let Some(verdict) = verdict {
            self.verdicts.insert(subnet, verdict);
        }
        before
    }

    /// A lease of this age changed: so may the standing of younger ones that share addresses with
    /// it, and of younger ones still that share addresses with those.
    fn mark(&mut self, subnet: SubnetKey, created: u64) {
        let mut reached = vec![(created, subnet)];
        let mut seen = BTreeSet::from([subnet]);
        while let Some((created, subnet)) = reached.pop() {
            self.dirty.insert(subnet);
            for other in self.leases.overlapping(&subnet) {
                if (other.created, other.subnet) > (created, subnet) && seen.insert(other.subnet) {
                    reached.push((other.created, other.subnet));
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
