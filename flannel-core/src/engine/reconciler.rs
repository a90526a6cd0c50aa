//! Keeps `have` equal to `want`. No I/O: it says what to do next, and is told what came of it.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::pace::{Backoff, Pace};
use crate::plan::diff_of;
use crate::{
    Applied, Changed, KernelError, Object, ObjectId, Op, OpError, OpErrorKind, Owner, Ownership, Plan, State,
};

/// The kernel is looked at this often even when it is silent.
const AUDIT_EVERY: Duration = Duration::from_secs(10);

/// Operations of one plan: what is in the kernel's hands before shutdown and renewal are looked at.
const LARGEST_PLAN: usize = 1024;

/// Lines that one pass may log about single objects.
const LINES_PER_PASS: usize = 100;

/// What is to be done with the kernel.
#[derive(Debug)]
pub(super) enum Work {
    Dump,
    Apply(Plan),
}

/// Why an object is not as it ought to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// Something else is wanted now.
    Asked,
    /// The kernel was changed behind our back.
    Drift,
}

#[derive(Debug)]
struct Failing {
    backoff: Backoff,
    due: Instant,
    error: OpError,
}

/// The desired state, what is known of the kernel's, and exactly where they differ.
#[derive(Debug)]
pub(super) struct Reconciler {
    want: State,
    have: State,
    foreign: Vec<Object>,
    // Every object in which `want` and `have` differ, and no other.
    unlike: BTreeMap<ObjectId, Cause>,
    failing: BTreeMap<ObjectId, Failing>,
    /// Whether `have` was ever read.
    known: bool,
    audit_wanted: bool,
    audits: Pace,
    audit_backoff: Backoff,
    not_before: Option<Instant>,
    pub(super) repairs: u64,
    pub(super) settled: bool,
    seen_in_flight: Vec<Changed>,
    in_flight: bool,
}

impl Reconciler {
    pub(super) fn new() -> Self {
        Self {
            want: State::new(),
            have: State::new(),
            foreign: Vec::new(),
            unlike: BTreeMap::new(),
            failing: BTreeMap::new(),
            known: false,
            audit_wanted: true,
            audits: Pace::default(),
            audit_backoff: Backoff::default(),
            not_before: None,
            repairs: 0,
            settled: false,
            seen_in_flight: Vec::new(),
            in_flight: false,
        }
    }

    pub(super) const fn want(&self) -> &State {
        &self.want
    }

    pub(super) fn foreign(&self) -> &[Object] {
        &self.foreign
    }

    /// Whether the kernel was ever read.
    pub(super) const fn is_known(&self) -> bool {
        self.known
    }

    /// The wanted objects that are not there as they ought to be.
    pub(super) fn missing(&self) -> impl Iterator<Item = ObjectId> + '_ {
        self.unlike
            .keys()
            .copied()
            .filter(|id| self.want.contains_key(id))
    }

    /// What failed when last tried.
    pub(super) fn failing(&self) -> impl Iterator<Item = (ObjectId, &OpError)> {
        self.failing.iter().map(|(id, failing)| (*id, &failing.error))
    }

    /// Whether the kernel is as it ought to be, but for what keeps failing.
    pub(super) fn is_settled(&self) -> bool {
        self.known && !self.in_flight && self.unlike.keys().all(|id| self.failing.contains_key(id))
    }

    /// Asks for an object to be thus, or not to be.
    pub(super) fn set_want(&mut self, id: ObjectId, object: Option<Object>) {
        let same = self.want.get(&id) == object.as_ref();
        if same {
            return;
        }
        match object {
            Some(object) => drop(self.want.insert(id, object)),
            None => drop(self.want.remove(&id)),
        }
        self.failing.remove(&id);
        self.compare(id, Cause::Asked);
    }

    /// Asks for a look at the kernel as soon as the pace allows.
    pub(super) const fn audit(&mut self) {
        self.audit_wanted = true;
    }

    /// Facts have changed in whose light failures may succeed.
    pub(super) fn retry_all(&mut self) {
        self.failing.clear();
        self.not_before = None;
        self.audit_wanted = true;
    }

    /// What to do now, if anything. Not to be asked before all peers are known: it removes, too.
    pub(super) fn next(&mut self, now: Instant) -> Option<Work> {
        if self.in_flight || self.not_before.is_some_and(|at| now < at) {
            return None;
        }
        self.not_before = None;
        if self.audit_due(now) {
            self.audit_wanted = false;
            self.in_flight = true;
            return Some(Work::Dump);
        }
        if !self.known {
            return None;
        }
        let plan = self.plan(now);
        self.in_flight = !plan.is_empty();
        self.in_flight.then_some(Work::Apply(plan))
    }

    /// When [`Reconciler::next`] may have something to do without anything happening before.
    pub(super) fn wake(&self) -> Option<Instant> {
        if self.in_flight {
            return None;
        }
        let periodic = self.audits.last().map(|last| last + AUDIT_EVERY);
        let audit = if self.audit_wanted {
            Some(self.audits.next_allowed())
        } else {
            periodic
        };
        let retry = self.failing.values().map(|failing| failing.due).min();
        let earliest = audit.into_iter().chain(retry).min();
        match (earliest, self.not_before) {
            (Some(at), Some(not_before)) => Some(at.max(not_before)),
            (at, not_before) => at.or(not_before),
        }
    }

    /// The kernel answered a dump.
    pub(super) fn dumped(
        &mut self,
        result: Result<Vec<Object>, KernelError>,
        ownership: &Ownership,
        peer_subnet: impl Fn(ipnet::IpNet) -> bool,
        started: Instant,
        now: Instant,
    ) {
        self.in_flight = false;
        self.audits.ended(started, now);
        let dump = match result {
            Ok(dump) => dump,
            Err(error) => return self.no_answer(&error, now),
        };
        self.audit_backoff = Backoff::default();
        self.not_before = None;
        let (have, foreign) = ownership.split(dump, peer_subnet);
        let before = std::mem::replace(&mut self.have, have);
        self.foreign = foreign;
        // A failure that met another kernel says nothing about this one.
        let have = &self.have;
        self.failing.retain(|id, _| before.get(id) == have.get(id));
        let asked = std::mem::take(&mut self.unlike);
        let ids: Vec<ObjectId> = self.have.keys().chain(self.want.keys()).copied().collect();
        for id in ids {
            let first = if self.known { Cause::Drift } else { Cause::Asked };
            self.compare(id, asked.get(&id).copied().unwrap_or(first));
        }
        let unlike = &self.unlike;
        self.failing.retain(|id, _| unlike.contains_key(id));
        self.known = true;
        self.replay(ownership);
    }

    /// The kernel answered a plan.
    pub(super) fn applied(
        &mut self,
        plan: &Plan,
        result: Result<Applied, KernelError>,
        ownership: &Ownership,
        now: Instant,
    ) {
        self.in_flight = false;
        match result {
            Err(error) => self.no_answer(&error, now),
            Ok(applied) => self.account(plan, &applied, now),
        }
        self.replay(ownership);
    }

    /// Something was seen to change. What equals our picture is our own echo.
    pub(super) fn changed(&mut self, change: Changed, ownership: &Ownership) {
        if self.in_flight {
            if self.seen_in_flight.len() < LARGEST_PLAN {
                self.seen_in_flight.push(change);
            } else {
                self.audit_wanted = true;
            }
            return;
        }
        let relevant = match &change {
            Changed::Appeared(object) => {
                let foreign = self.foreign.contains(object);
                !foreign && self.have.get(&object.id()) != Some(object)
            }
            Changed::Vanished(object) => {
                self.have.get(&object.id()) == Some(object) || self.foreign.contains(object)
            }
            Changed::Host | Changed::Overrun => true,
        };
        self.audit_wanted |= relevant && change.in_scope(ownership);
    }

    fn replay(&mut self, ownership: &Ownership) {
        for change in std::mem::take(&mut self.seen_in_flight) {
            self.changed(change, ownership);
        }
    }

    fn audit_due(&self, now: Instant) -> bool {
        let periodic = self.audits.last().is_none_or(|last| now >= last + AUDIT_EVERY);
        (self.audit_wanted || periodic) && self.audits.allows(now)
    }

    fn plan(&self, now: Instant) -> Plan {
        let due = |id: &ObjectId| self.failing.get(id).is_none_or(|failing| failing.due <= now);
        let due: Vec<ObjectId> = self.unlike.keys().copied().filter(due).collect();
        let (wanted, gone): (Vec<_>, Vec<_>) = due.into_iter().partition(|id| self.want.contains_key(id));
        let gone = gone.into_iter().rev();
        diff_of(
            &self.have,
            &self.want,
            wanted.into_iter().chain(gone).take(LARGEST_PLAN),
        )
    }

    /// Takes the outcome of each operation into `have`.
    fn account(&mut self, plan: &Plan, applied: &Applied, now: Instant) {
        let mut failed: BTreeMap<usize, &OpError> = applied
            .failed
            .iter()
            .map(|(index, error)| (*index, error))
            .collect();
        let mut log = PassLog::new(self.settled, plan.len());
        for (index, op) in plan.iter().enumerate() {
            let id = op.id();
            let gone_already =
                |error: &&OpError| matches!(op, Op::Remove(_)) && error.kind == OpErrorKind::Gone;
            match failed.remove(&index) {
                Some(error) if !gone_already(&error) => {
                    log.failed(op, error, self.failing.contains_key(&id));
                    self.fail(id, error.clone(), now);
                }
                _ => {
                    let drift = self.unlike.get(&id) == Some(&Cause::Drift);
                    self.repairs += u64::from(drift);
                    log.done(op, drift);
                    self.failing.remove(&id);
                    match op.result() {
                        Some(object) => drop(self.have.insert(id, object.clone())),
                        None => drop(self.have.remove(&id)),
                    }
                    self.compare(id, Cause::Asked);
                }
            }
        }
        log.end();
    }

    fn fail(&mut self, id: ObjectId, error: OpError, now: Instant) {
        let mut backoff = self
            .failing
            .remove(&id)
            .map(|failing| failing.backoff)
            .unwrap_or_default();
        let due = now + backoff.next_delay();
        self.failing.insert(id, Failing { backoff, due, error });
        self.audit_wanted = true;
    }

    /// It is not known what the kernel did: look again, and not at once if that goes on.
    fn no_answer(&mut self, error: &KernelError, now: Instant) {
        self.audit_wanted = true;
        let delay = self.audit_backoff.next_delay();
        self.not_before = Some(now + delay);
        warn!(%error, retry_in = ?delay, "no answer from the kernel");
    }

    fn compare(&mut self, id: ObjectId, cause: Cause) {
        if self.have.get(&id) == self.want.get(&id) {
            self.unlike.remove(&id);
            self.failing.remove(&id);
        } else {
            self.unlike.insert(id, cause);
        }
    }
}

impl Changed {
    fn in_scope(&self, ownership: &Ownership) -> bool {
        match self {
            Self::Appeared(object) | Self::Vanished(object) => {
                let Object::Route(route) = object;
                ownership.owner(route, |_| true) != Owner::Foreign
                    || ownership.scope.covers(route.id.destination)
            }
            Self::Host | Self::Overrun => true,
        }
    }
}

/// One line per change, one summary for a pass at start.
struct PassLog {
    lines: Option<usize>,
    counts: [usize; 4],
}

impl PassLog {
    const fn new(settled: bool, ops: usize) -> Self {
        let lines = if settled || ops == 1 {
            Some(LINES_PER_PASS)
        } else {
            None
        };
        Self {
            lines,
            counts: [0; 4],
        }
    }

    fn line(&mut self) -> bool {
        match &mut self.lines {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }

    fn done(&mut self, op: &Op, drift: bool) {
        let (slot, what) = match (op, drift) {
            (Op::Add(_), false) => (0, "route added"),
            (Op::Add(_), true) => (0, "route restored"),
            (Op::Replace { .. }, false) => (1, "route replaced"),
            (Op::Replace { .. }, true) => (1, "route corrected"),
            (Op::Remove(_), _) => (2, "route removed"),
        };
        self.counts[slot] += 1;
        if !self.line() {
            return;
        }
        match op {
            Op::Add(object) | Op::Remove(object) => info!(route = %object, "{what}"),
            Op::Replace { from, to } => info!(route = %to, was = %from, "{what}"),
        }
    }

    fn failed(&mut self, op: &Op, error: &OpError, again: bool) {
        self.counts[3] += 1;
        if !again && self.line() {
            warn!(route = %op.id(), %error, "route failed; trying again with backoff");
        }
    }

    fn end(self) {
        let [added, replaced, removed, failed] = self.counts;
        if self.lines.is_none_or(|left| left == 0) {
            info!(added, replaced, removed, failed, "routes programmed");
        }
    }
}
