//! Keeps `have` equal to `want`. No I/O: it says what to do next, and is told what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::contested::Contested;
use super::pace::{Backoff, Pace};
use super::pass_log::{self, Counts, PassLog};
use crate::plan::diff_of;
use crate::{
    Applied, Changed, Device, DeviceName, KernelError, Object, ObjectId, Op, OpError, OpErrorKind, Ownership,
    PeerCounts, Plan, Repairs, State, Timings,
};

/// The kernel is looked at this often even when it is silent.
const AUDIT_EVERY: Duration = Duration::from_secs(10);

/// Operations of one plan: what is in the kernel's hands before shutdown and renewal are looked at.
const LARGEST_PLAN: usize = 1024;

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

/// An object that is not as it ought to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unlike {
    cause: Cause,
    /// Since when somebody who looks would see that; not counted while it keeps failing.
    since: Option<Instant>,
}

#[derive(Debug)]
struct Failing {
    backoff: Backoff,
    /// When it was last tried.
    last: Instant,
    due: Instant,
    error: OpError,
    /// The last look has shown something of the operator's in the place: until that is gone, trying
    /// again is of no use.
    blocked: bool,
    /// Whether a look has shown what the last try left behind.
    looked: bool,
    /// Whether it was tried at once for what a try had left behind.
    hurried: bool,
}

impl Unlike {
    const ASKED: Self = Self {
        cause: Cause::Asked,
        since: None,
    };
}

impl Failing {
    /// The kernel is another than the one that the last try met, which says nothing about this one. But
    /// the last try itself may have changed it: that is worth one more at once, and then the backoff.
    const fn met_another(&mut self) {
        if self.looked || !self.hurried {
            self.due = self.last;
        }
        self.hurried |= !self.looked;
    }

    /// It may well succeed now. Until it is tried, it is what is known.
    fn try_anew(&mut self) {
        self.due = self.last;
        self.backoff = Backoff::default();
        (self.blocked, self.hurried) = (false, false);
    }

    /// Whether it is not worth a try at once.
    fn waits(&self) -> bool {
        self.blocked || self.due > self.last
    }

    fn due(&self) -> Option<Instant> {
        (!self.blocked).then_some(self.due)
    }
}

/// The desired state, what is known of the kernel's, and exactly where they differ.
#[derive(Debug)]
pub(super) struct Reconciler {
    /// The protocol that marks our routes.
    protocol: u8,
    want: State,
    have: State,
    foreign: Vec<Object>,
    // Every object in which `want` and `have` differ, and no other.
    unlike: BTreeMap<ObjectId, Unlike>,
    failing: BTreeMap<ObjectId, Failing>,
    /// Whether `have` was ever read.
    known: bool,
    audit_wanted: bool,
    audits: Pace,
    /// Why the last request had no answer.
    trouble: Option<String>,
    backoff: Backoff,
    not_before: Option<Instant>,
    pub(super) repairs: Repairs,
    /// How long the kernel took for plans.
    pub(super) applying: Timings,
    /// What has been done so far; `None` once the kernel has been as it ought to be.
    start: Option<Counts>,
    /// Failures that the log has told of.
    told: BTreeMap<ObjectId, OpErrorKind>,
    log: PassLog,
    contested: Contested,
    seen_in_flight: Vec<Changed>,
    /// When the request that is under way began.
    in_flight: Option<Instant>,
    /// When the first request began since the kernel last answered one.
    unanswered: Option<Instant>,
}

impl Reconciler {
    pub(super) fn new(protocol: u8) -> Self {
        Self {
            protocol,
            want: State::new(),
            have: State::new(),
            foreign: Vec::new(),
            unlike: BTreeMap::new(),
            failing: BTreeMap::new(),
            known: false,
            audit_wanted: true,
            audits: Pace::default(),
            trouble: None,
            backoff: Backoff::default(),
            not_before: None,
            repairs: Repairs::default(),
            applying: Timings::default(),
            start: Some(Counts::default()),
            told: BTreeMap::new(),
            log: PassLog::default(),
            contested: Contested::default(),
            seen_in_flight: Vec::new(),
            in_flight: None,
            unanswered: None,
        }
    }

    pub(super) const fn want(&self) -> &State {
        &self.want
    }

    pub(super) fn foreign(&self) -> &[Object] {
        &self.foreign
    }

    /// The devices of ours that are in the kernel.
    pub(super) fn devices(&self) -> impl Iterator<Item = &Device> {
        // They come first.
        self.have.values().map_while(|object| match object {
            Object::Device(device) => Some(device),
            _ => None,
        })
    }

    /// Whether the kernel was ever read.
    pub(super) const fn is_known(&self) -> bool {
        self.known
    }

    /// Why nothing is known of the kernel at present.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.clone()
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

    /// What of ours is in the kernel.
    pub(super) const fn have(&self) -> &State {
        &self.have
    }

    /// Since when the kernel is not, or is not known to be, as it ought to be; what keeps failing is
    /// told of by itself.
    pub(super) fn behind_since(&mut self, now: Instant) -> Option<Instant> {
        let absent = self.absent_devices(Failing::waits);
        let (failing, want) = (&self.failing, &self.want);
        let told = |id: &ObjectId| {
            failing.get(id).is_some_and(Failing::waits) || rests_on_any(&absent, want.get(id))
        };
        let tried = self.unlike.iter_mut().filter(|(id, _)| !told(id));
        let unlike = tried.map(|(_, unlike)| *unlike.since.get_or_insert(now)).min();
        unlike.into_iter().chain(self.unanswered).min()
    }

    /// Since when the kernel owes an answer.
    pub(super) const fn unanswered_since(&self) -> Option<Instant> {
        self.unanswered
    }

    /// Whether the kernel has ever been as it ought to be.
    pub(super) const fn has_settled(&self) -> bool {
        self.start.is_none()
    }

    /// Says in the log that the kernel is as it ought to be, the first time that it is.
    pub(super) fn note_settled(&mut self, peers: PeerCounts) {
        if !self.is_settled() {
            return;
        }
        if let Some(counts) = self.start.take() {
            pass_log::settled(counts, peers);
        }
    }

    /// What somebody else changes as often as it is put right, after saying in the log what is due.
    pub(super) fn contested(&mut self, now: Instant) -> Option<String> {
        self.log.sum(now);
        self.contested.judge(now)
    }

    /// When [`Reconciler::contested`] has something else to say though nothing happens.
    pub(super) fn calm_at(&self) -> impl Iterator<Item = Instant> {
        self.contested.calm_at().into_iter().chain(self.log.sum_at())
    }

    /// Whether the kernel is as it ought to be, but for what keeps failing.
    fn is_settled(&self) -> bool {
        let waits = |id| self.failing.get(id).is_some_and(Failing::waits);
        self.known && self.in_flight.is_none() && self.unlike.keys().all(waits)
    }

    /// Asks for an object to be thus, or not to be.
    pub(super) fn set_want(&mut self, id: ObjectId, object: Option<Object>) {
        let same = self.want.get(&id) == object.as_ref();
        if same {
            return;
        }
        match object {
            Some(object) => {
                self.want.insert(id, object);
                self.failing.entry(id).and_modify(Failing::try_anew);
            }
            None => {
                self.want.remove(&id);
                self.disown(id);
                self.failing.remove(&id);
            }
        }
        self.compare(id, Unlike::ASKED);
    }

    /// Asks for a look at the kernel as soon as the pace allows.
    pub(super) const fn audit(&mut self) {
        self.audit_wanted = true;
    }

    /// Facts have changed in whose light failures may succeed.
    pub(super) fn retry_all(&mut self) {
        self.failing.values_mut().for_each(Failing::try_anew);
        self.not_before = None;
        self.audit_wanted = true;
    }

    /// What to do now, if anything. Not to be asked before all peers are known: it removes, too.
    pub(super) fn next(&mut self, now: Instant) -> Option<Work> {
        if self.in_flight.is_some() || self.not_before.is_some_and(|at| now < at) {
            return None;
        }
        self.not_before = None;
        if self.audits.is_due(self.audit_wanted, AUDIT_EVERY, now) {
            self.audit_wanted = false;
            self.ask(now);
            return Some(Work::Dump);
        }
        if !self.known {
            return None;
        }
        let plan = self.plan(now);
        if plan.is_empty() {
            return None;
        }
        self.ask(now);
        Some(Work::Apply(plan))
    }

    fn ask(&mut self, now: Instant) {
        self.in_flight = Some(now);
        self.unanswered.get_or_insert(now);
    }

    /// When [`Reconciler::next`] may have something to do without anything happening before.
    pub(super) fn wake(&self) -> Option<Instant> {
        if self.in_flight.is_some() {
            return None;
        }
        let audit = self.audits.next(self.audit_wanted, AUDIT_EVERY);
        // What is to be on an absent device is tried with that.
        let absent = self.absent_devices(|_| true);
        let failing = self.failing.iter();
        let retry = failing
            .filter(|(id, _)| !rests_on_any(&absent, self.want.get(id)))
            .filter_map(|(_, failing)| failing.due());
        let earliest = retry.fold(audit, Instant::min);
        Some(self.not_before.map_or(earliest, |at| at.max(earliest)))
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
        self.in_flight = None;
        let dump = match result {
            Ok(dump) => dump,
            Err(error) => return self.no_answer(&error, now),
        };
        self.unanswered = None;
        self.audits.ended(started, now);
        self.backoff = Backoff::default();
        self.trouble = None;
        self.not_before = None;
        let (have, foreign) = ownership.split(dump, peer_subnet);
        let had = std::mem::replace(&mut self.have, have);
        let stood = std::mem::replace(&mut self.foreign, foreign);
        let (stood, stands) = (ids(&stood), ids(&self.foreign));
        for (id, failing) in &mut self.failing {
            let (stood, stands) = (stood.contains(id), stands.contains(id));
            if had.get(id) != self.have.get(id) || stood != stands {
                failing.met_another();
            }
            (failing.blocked, failing.looked) = (stands, true);
        }
        let asked = std::mem::take(&mut self.unlike);
        let ids: Vec<ObjectId> = self.have.keys().chain(self.want.keys()).copied().collect();
        for id in ids {
            let cause = if self.known { Cause::Drift } else { Cause::Asked };
            let first = Unlike { cause, since: None };
            self.compare(id, asked.get(&id).copied().unwrap_or(first));
        }
        let unlike = &self.unlike;
        self.told.retain(|id, _| unlike.contains_key(id));
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
        if let Some(started) = self.in_flight.take() {
            self.applying.note(now.saturating_duration_since(started));
        }
        match result {
            Err(error) => self.no_answer(&error, now),
            Ok(applied) => {
                self.unanswered = None;
                self.account(plan, &applied, now);
            }
        }
        self.replay(ownership);
    }

    /// Something was seen to change. What equals our picture is our own echo.
    pub(super) fn changed(&mut self, change: Changed, ownership: &Ownership) {
        if self.in_flight.is_some() {
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
            Changed::Gone(id) => self.have.contains_key(id),
            Changed::Device(_) | Changed::Down(_) | Changed::Overrun => true,
            Changed::Host | Changed::Table(_) => false,
        };
        self.audit_wanted |= relevant && change.in_scope(ownership);
    }

    fn replay(&mut self, ownership: &Ownership) {
        for change in std::mem::take(&mut self.seen_in_flight) {
            self.changed(change, ownership);
        }
    }

    /// The devices that are not there, and could not be made when last tried, or cannot since somebody
    /// else's has the name.
    fn absent_devices(&self, holds: impl Fn(&Failing) -> bool) -> Vec<DeviceName> {
        let is_absent = |device: &DeviceName| {
            let id = ObjectId::Device(*device);
            let is_theirs = || self.foreign.iter().any(|object| object.id() == id);
            !self.have.contains_key(&id) && (self.failing.get(&id).is_some_and(&holds) || is_theirs())
        };
        // They come first.
        let wanted = self.want.keys().map_while(ObjectId::as_device);
        wanted.filter(is_absent).collect()
    }

    fn plan(&self, now: Instant) -> Plan {
        let waits = |failing: &Failing| failing.due().is_none_or(|at| at > now);
        let absent = self.absent_devices(waits);
        let due = |id: &ObjectId| {
            let failing = self.failing.get(id);
            failing.is_none_or(|failing| failing.due().is_some_and(|at| at <= now))
                && !rests_on_any(&absent, self.want.get(id))
        };
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
        self.contested.forget(now);
        let fought = self.contested.devices();
        self.log.begin(self.start.is_some(), plan.len(), now);
        let mut absent = Vec::new();
        for (index, op) in plan.iter().enumerate() {
            let id = op.id();
            let gone_already =
                |error: &&OpError| matches!(op, Op::Remove(_)) && error.kind == OpErrorKind::Gone;
            let no_device = |error: &&OpError| {
                let rests = |device| op.object().rests_on(device);
                error.kind == OpErrorKind::NoDevice && absent.iter().any(rests)
            };
            match failed.remove(&index) {
                // Its device is what failed, and has been told of.
                Some(error) if no_device(&error) => drop(self.failing.remove(&id)),
                Some(error) if !gone_already(&error) => {
                    let told = self.told.insert(id, error.kind) == Some(error.kind);
                    self.log.failed(op, error, told);
                    self.fail(id, error.clone(), now);
                    absent.extend(id.as_device());
                }
                _ => {
                    let drift = self
                        .unlike
                        .get(&id)
                        .is_some_and(|unlike| unlike.cause == Cause::Drift);
                    let mut quiet = false;
                    if drift {
                        self.repairs.count(op);
                        quiet = !self.contested.repaired(id, now);
                    } else if rests_on_any(&fought, Some(op.object())) {
                        self.contested.followed();
                        quiet = true;
                    }
                    self.log.done(op, drift, quiet);
                    match op.result() {
                        Some(object) => drop(self.have.insert(id, object.clone())),
                        None => drop(self.have.remove(&id)),
                    }
                    self.compare(id, Unlike::ASKED);
                    if let ObjectId::Device(device) = id {
                        self.device_done(op, &device);
                    }
                }
            }
        }
        if let Some(start) = &mut self.start {
            start.add(self.log.end());
        }
    }

    /// A device was made, changed or removed: what was on one that is gone is gone, too, and what could
    /// not be put on it may be now.
    fn device_done(&mut self, op: &Op, device: &DeviceName) {
        let lost = self.have.iter().filter(|(_, object)| op.takes_along(object));
        let lost: Vec<ObjectId> = lost.map(|(id, _)| *id).collect();
        for id in lost {
            self.have.remove(&id);
            self.compare(id, Unlike::ASKED);
        }
        let want = &self.want;
        let on_it = |id: &ObjectId| want.get(id).is_some_and(|object| object.rests_on(device));
        let failing = self.failing.iter_mut().filter(|(id, _)| on_it(id));
        failing.for_each(|(_, failing)| failing.try_anew());
    }

    fn fail(&mut self, id: ObjectId, error: OpError, now: Instant) {
        self.audit_wanted = true;
        let Some(unlike) = self.unlike.get_mut(&id) else {
            // Meanwhile it is no longer asked for.
            return;
        };
        unlike.since = None;
        let before = self.failing.remove(&id);
        let hurried = before.as_ref().is_some_and(|before| before.hurried);
        let mut backoff = before.map(|before| before.backoff).unwrap_or_default();
        let due = now + backoff.next_delay();
        let failing = Failing {
            backoff,
            last: now,
            due,
            error,
            blocked: false,
            looked: false,
            hurried,
        };
        self.failing.insert(id, failing);
    }

    /// It is not known what the kernel did: look again, and not at once if that goes on.
    fn no_answer(&mut self, error: &KernelError, now: Instant) {
        self.audit_wanted = true;
        let delay = self.backoff.next_delay();
        self.not_before = Some(now + delay);
        self.trouble = Some(error.to_string());
        warn!(%error, retry_in = ?delay, "no answer from the kernel");
    }

    /// Nobody wants it any longer. What does not carry our mark was to be corrected, and is the
    /// operator's again.
    fn disown(&mut self, id: ObjectId) {
        let marked = |object: &Object| match object {
            Object::Route(route) => route.protocol == self.protocol,
            _ => true,
        };
        if self.have.get(&id).is_some_and(|object| !marked(object)) {
            self.foreign.extend(self.have.remove(&id));
        }
    }

    fn compare(&mut self, id: ObjectId, unlike: Unlike) {
        let same = match (self.have.get(&id), self.want.get(&id)) {
            (Some(have), Some(want)) => have.satisfies(want),
            (have, want) => have.is_none() && want.is_none(),
        };
        if same {
            self.unlike.remove(&id);
            self.failing.remove(&id);
            self.told.remove(&id);
        } else {
            self.unlike.insert(id, unlike);
        }
    }
}

fn rests_on_any(devices: &[DeviceName], object: Option<&Object>) -> bool {
    object.is_some_and(|object| devices.iter().any(|device| object.rests_on(device)))
}

fn ids(objects: &[Object]) -> BTreeSet<ObjectId> {
    objects.iter().map(Object::id).collect()
}

impl Changed {
    fn in_scope(&self, ownership: &Ownership) -> bool {
        match self {
            Self::Appeared(object) | Self::Vanished(object) => ownership.scope.includes(&object.id()),
            Self::Gone(id) => ownership.scope.includes(id),
            Self::Device(device) => ownership.scope.has(device),
            Self::Host | Self::Table(_) | Self::Down(_) | Self::Overrun => true,
        }
    }
}

#[cfg(test)]
#[path = "reconciler_tests.rs"]
mod tests;
