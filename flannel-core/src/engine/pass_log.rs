//! What the log says of a pass over the kernel: one line per change, within limits, and sums.

use tracing::{info, warn};

use crate::{Object, ObjectId, Op, OpError};

/// Lines that one pass may log about single changes, and as many about failures.
const LINES_PER_PASS: usize = 100;

/// What became of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub(super) added: usize,
    pub(super) replaced: usize,
    pub(super) removed: usize,
    pub(super) failed: usize,
}

impl Counts {
    /// Adds those of a further pass.
    pub(super) const fn add(&mut self, other: Self) {
        self.added += other.added;
        self.replaced += other.replaced;
        self.removed += other.removed;
        self.failed += other.failed;
    }
}

/// The lines of one pass.
pub(super) struct PassLog {
    changes_left: usize,
    failures_left: usize,
    unsaid: bool,
    at_start: bool,
    counts: Counts,
}

impl PassLog {
    /// A pass of so many operations. At the start many changes come to one sum; failures are told
    /// of one by one all the same.
    pub(super) const fn new(at_start: bool, ops: usize) -> Self {
        let changes_left = if at_start && ops > 1 { 0 } else { LINES_PER_PASS };
        let counts = Counts {
            added: 0,
            replaced: 0,
            removed: 0,
            failed: 0,
        };
        Self {
            changes_left,
            failures_left: LINES_PER_PASS,
            unsaid: false,
            at_start,
            counts,
        }
    }

    /// An operation succeeded; `drift` when it put right what somebody else had done.
    pub(super) fn done(&mut self, op: &Op, drift: bool) {
        let (count, what) = match (op, drift) {
            (Op::Add(_), false) => (&mut self.counts.added, "added"),
            (Op::Add(_), true) => (&mut self.counts.added, "restored"),
            (Op::Replace { .. }, false) => (&mut self.counts.replaced, "replaced"),
            (Op::Replace { .. }, true) => (&mut self.counts.replaced, "corrected"),
            (Op::Remove(_), _) => (&mut self.counts.removed, "removed"),
        };
        *count += 1;
        // A device is worth a line at any time.
        if let Op::Replace {
            from: Object::Device(from),
            to: Object::Device(to),
        } = op
        {
            return match from.is_remade_for(to) {
                Some(why) => warn!(device = %to, was = %from, why, "device made anew"),
                None => info!(device = %to, was = %from, "device {what}"),
            };
        }
        let is_device = matches!(op.id(), ObjectId::Device(_));
        if !is_device && !take(&mut self.changes_left) {
            self.unsaid = true;
            return;
        }
        match op {
            Op::Add(Object::Route(route)) | Op::Remove(Object::Route(route)) => {
                info!(%route, "route {what}");
            }
            Op::Replace {
                from,
                to: Object::Route(route),
            } => info!(%route, was = %from, "route {what}"),
            Op::Add(object) | Op::Remove(object) => info!(%object, "{} {what}", kind(object.id())),
            Op::Replace { from, to } => info!(object = %to, was = %from, "{} {what}", kind(to.id())),
        }
    }

    /// An operation failed; `told` when the log has said so before.
    pub(super) fn failed(&mut self, op: &Op, error: &OpError, told: bool) {
        self.counts.failed += 1;
        if told {
            return;
        }
        if take(&mut self.failures_left) {
            match op.id() {
                ObjectId::Route(route) => warn!(%route, %error, "route failed; trying again with backoff"),
                id => warn!(object = %id, %error, "{} failed; trying again with backoff", kind(id)),
            }
        } else {
            self.unsaid = true;
        }
    }

    /// Sums up what there were no lines for, and returns the sums.
    pub(super) fn end(self) -> Counts {
        let Counts {
            added,
            replaced,
            removed,
            failed,
        } = self.counts;
        if self.unsaid && !self.at_start {
            info!(
                added,
                replaced, removed, failed, "routes and what they go by programmed"
            );
        }
        self.counts
    }
}

const fn kind(id: ObjectId) -> &'static str {
    match id {
        ObjectId::Device(_) => "device",
        ObjectId::Address(_) => "address",
        ObjectId::Forwarding(_) => "forwarding entry",
        ObjectId::Neighbour(_) => "neighbour",
        ObjectId::Route(_) => "route",
    }
}

const fn take(left: &mut usize) -> bool {
    let some = *left > 0;
    if some {
        *left -= 1;
    }
    some
}
