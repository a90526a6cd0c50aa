//! What the log says of a pass over the kernel: one line per change, within limits, and sums.

use tracing::{info, warn};

use crate::{Op, OpError};

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
            (Op::Add(_), false) => (&mut self.counts.added, "route added"),
            (Op::Add(_), true) => (&mut self.counts.added, "route restored"),
            (Op::Replace { .. }, false) => (&mut self.counts.replaced, "route replaced"),
            (Op::Replace { .. }, true) => (&mut self.counts.replaced, "route corrected"),
            (Op::Remove(_), _) => (&mut self.counts.removed, "route removed"),
        };
        *count += 1;
        if !take(&mut self.changes_left) {
            self.unsaid = true;
            return;
        }
        match op {
            Op::Add(object) | Op::Remove(object) => info!(route = %object, "{what}"),
            Op::Replace { from, to } => info!(route = %to, was = %from, "{what}"),
        }
    }

    /// An operation failed; `told` when the log has said so before.
    pub(super) fn failed(&mut self, op: &Op, error: &OpError, told: bool) {
        self.counts.failed += 1;
        if told {
            return;
        }
        if take(&mut self.failures_left) {
            warn!(route = %op.id(), %error, "route failed; trying again with backoff");
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
            info!(added, replaced, removed, failed, "routes programmed");
        }
        self.counts
    }
}

const fn take(left: &mut usize) -> bool {
    let some = *left > 0;
    if some {
        *left -= 1;
    }
    some
}
