//! How it all stands: the status, and the reasons why it is not as it ought to be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::World;
use crate::engine::reasons::{NO_LEASE_YET, NOT_IN_PLACE_YET, NOT_WRITTEN_YET};
use crate::status::LISTED;
use crate::{
    Backend, Counters, Failure, LeaseStatus, Object, ObjectId, OpError, PeerCounts, PeerList, PeerState,
    PerFamily, Reason, Status, StoreContact, SubnetKey,
};

/// So long the kernel may be unlike what it ought to be before that counts.
const BEHIND: Duration = Duration::from_secs(2);

/// Said of a kernel that is.
const NOT_AS_IT_OUGHT: &str = "what is ours in the kernel has not been as it ought to be for 2 s";

/// Said of a kernel that hangs.
const NO_ANSWER: &str = "the kernel has owed an answer for 2 s";

impl World {
    /// The other hosts, at most so many.
    pub(in crate::engine) fn peer_list(&self, limit: usize) -> PeerList {
        let owners = |id: ObjectId| self.peers.owners(&id).iter().copied();
        let missing: BTreeSet<SubnetKey> = self.reconciler.missing().flat_map(owners).collect();
        let failing = self.reconciler.failing();
        let failing = failing.flat_map(|(id, error)| owners(id).map(move |owner| (owner, error)));
        let failing: BTreeMap<SubnetKey, &OpError> = failing.collect();
        self.peers.list(limit, |subnet| match failing.get(subnet) {
            Some(error) => PeerState::Failed(error.to_string()),
            None if missing.contains(subnet) || !self.reconciler.is_known() => PeerState::Pending,
            None => PeerState::Installed,
        })
    }

    /// How it all stands, after saying in the log what is new about it. `written` says whether
    /// `subnet.env`, if there is to be one, says what it ought to.
    pub(in crate::engine) fn status(&mut self, written: bool, now: Instant) -> Status {
        let owners = |ids: &mut dyn Iterator<Item = ObjectId>| -> BTreeSet<SubnetKey> {
            ids.flat_map(|id| self.peers.owners(&id)).copied().collect()
        };
        let missing = owners(&mut self.reconciler.missing()).len();
        let failed = owners(&mut self.reconciler.failing().map(|(id, _)| id)).len();
        let desired = self.peers.admitted;
        let installed = if self.reconciler.is_known() {
            desired.saturating_sub(missing)
        } else {
            0
        };
        let peers = PeerCounts {
            desired,
            installed,
            failed,
            refused: self.peers.refused,
        };
        if self.is_planned() {
            self.reconciler.note_settled(peers);
        }
        self.behind = self.reconciler.behind_since(now);
        self.judge(peers, written, now);
        let failures = self.reconciler.failing().take(LISTED).map(|(id, error)| Failure {
            object: id.to_string(),
            peer: self.peers.owners(&id).first().copied(),
            error: error.to_string(),
        });
        let held = self.registrar.own();
        Status {
            lease: held.map(|own| LeaseStatus {
                subnet: own.subnet,
                expires: own.expires,
            }),
            network: PerFamily::from_fn(|family| {
                Some(self.surroundings.config()?.ranges.get(family)?.network)
            }),
            backend: self.surroundings.backend().map(Backend::kind),
            store: self.contact(),
            uplink: self.surroundings.host().map(|host| host.uplink),
            devices: self.reconciler.devices().cloned().collect(),
            peers,
            failures: failures.collect(),
            conflicts: self.conflicts.iter().take(LISTED).cloned().collect(),
            conflict_count: self.conflicts.len(),
            reasons: self.all_reasons(),
            counters: Counters {
                snapshots: self.snapshots,
                repairs: self.reconciler.repairs,
                rule_repairs: self.rules.repairs,
                planning: self.planning,
                applying: self.reconciler.applying,
            },
            settled: self.reconciler.has_settled()
                && !self.rules.are_unknown()
                && (written || self.subnet_env().is_none()),
        }
    }

    fn contact(&self) -> StoreContact {
        match self.silent_since {
            _ if !self.heard => StoreContact::Never,
            None => StoreContact::Now,
            Some(since) => StoreContact::Lost(since),
        }
    }

    /// Each conflict has had a line in the log, and is nothing that anybody waits for.
    fn all_reasons(&self) -> Vec<Reason> {
        let mut reasons = self.reasons.list();
        reasons.extend(self.conflicts.first().map(|first| Reason::Conflicts {
            count: self.conflicts.len(),
            first: first.to_string(),
        }));
        reasons.sort();
        reasons
    }

    /// Says what is not as it ought to be.
    fn judge(&mut self, peers: PeerCounts, written: bool, now: Instant) {
        self.judged = Some(now);
        let held = self.registrar.own();
        let lease = match held {
            Some(own) if own.expires.is_some_and(|at| at <= now) => Some(format!(
                "the lease of {} has expired, and the store does not renew it",
                own.subnet
            )),
            Some(_) => None,
            None if self.surroundings.attrs().is_none() || !self.snapshot_seen() => None,
            None => Some(
                self.registrar
                    .trouble()
                    .unwrap_or_else(|| NO_LEASE_YET.to_owned()),
            ),
        };
        let store = held.and_then(|_| self.registrar.trouble());
        self.reasons.hold(lease.map(Reason::Lease), |reason| {
            matches!(reason, Reason::Lease(_))
        });
        if let Some(store) = store {
            self.reasons.set(Reason::Store(store));
        } else if self.silent_since.is_none() {
            self.reasons.clear(|reason| matches!(reason, Reason::Store(_)));
        }
        let is_env = |reason: &Reason| matches!(reason, Reason::SubnetEnv(_));
        if written {
            self.reasons.clear(is_env);
        } else if self.subnet_env().is_some() && !self.reasons.any(is_env) {
            self.reasons.set(Reason::SubnetEnv(NOT_WRITTEN_YET.to_owned()));
        }
        let first = self
            .reconciler
            .failing()
            .find(|(id, _)| !self.peers.owners(id).is_empty());
        let routes = first.map(|(_, error)| Reason::Routes {
            failed: peers.failed,
            desired: peers.desired,
            first: error.to_string(),
        });
        self.reasons
            .hold(routes, |reason| matches!(reason, Reason::Routes { .. }));
        self.judge_devices();
        self.judge_kernel(now);
        let contested = self.reconciler.contested(now);
        self.reasons.hold(contested.map(Reason::Undone), |reason| {
            matches!(reason, Reason::Undone(_))
        });
        self.rules.judge(&mut self.reasons, now);
        let rival = self.registrar.rival(now).map(str::to_owned);
        self.surroundings.check(
            self.registrar.own(),
            self.peers.leases(),
            rival,
            (!self.rules.are_unknown()).then_some(self.rules.filters()),
            &mut self.reasons,
        );
        let displaced = self.registrar.displaced(now);
        self.reasons.hold(displaced.map(Reason::Subnet), |reason| {
            matches!(reason, Reason::Subnet(_))
        });
        self.reasons.remind(now);
    }

    fn judge_devices(&mut self) {
        let (want, have) = (self.reconciler.want(), self.reconciler.have());
        let works = |id: &ObjectId| match (have.get(id), want.get(id)) {
            (Some(Object::Device(device)), Some(Object::Device(wanted))) => device.works_as(wanted),
            _ => false,
        };
        let failing = self.reconciler.failing();
        let failing = failing.filter(|(id, _)| self.base.contains(id) && id.device().is_some());
        let (settings, broken): (Vec<_>, Vec<_>) = failing.partition(|(id, _)| works(id));
        let first = |failing: &[(ObjectId, &OpError)]| failing.first().map(|(_, error)| error.to_string());
        let (setting, broken) = (first(&settings), first(&broken));
        self.reasons
            .hold(self.claim.clone().or(broken).map(Reason::Device), |reason| {
                matches!(reason, Reason::Device(_))
            });
        self.reasons.hold(setting.map(Reason::DeviceSetting), |reason| {
            matches!(reason, Reason::DeviceSetting(_))
        });
    }

    fn judge_kernel(&mut self, now: Instant) {
        let is_kernel = |reason: &Reason| matches!(reason, Reason::Kernel(_));
        let overdue = |since: Option<Instant>| since.is_some_and(|since| now >= since + BEHIND);
        let explained = self
            .reasons
            .any(|reason| reason.is_blocking() && !is_kernel(reason));
        let kernel = if overdue(self.behind) {
            let hangs = overdue(self.reconciler.unanswered_since());
            let unlike = if hangs { NO_ANSWER } else { NOT_AS_IT_OUGHT };
            Some(self.reconciler.trouble().unwrap_or_else(|| unlike.to_owned()))
        } else if !self.reconciler.has_settled() && !explained {
            Some(NOT_IN_PLACE_YET.to_owned())
        } else {
            None
        };
        self.reasons.hold(kernel.map(Reason::Kernel), is_kernel);
    }

    /// When there is something else to say though nothing happens: the kernel has been behind for too
    /// long, or what was fought for is calm.
    pub(super) fn overdue_at(&self) -> Option<Instant> {
        let behind = self.behind.map(|since| since + BEHIND);
        let all = behind.into_iter().chain(self.reconciler.calm_at());
        // What the last status has taken into account already hides nothing that is to come.
        all.filter(|at| self.judged.is_none_or(|judged| *at > judged))
            .min()
    }
}
