//! What the log says of changes to the kernel: one line for each, within limits, and sums.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::{Object, ObjectId, Op, OpError, PeerCounts};

/// Lines about single changes within so long a time, and as many about failures.
const LINES: usize = 100;
const LINES_WITHIN: Duration = Duration::from_secs(10);

/// What became of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub(super) added: usize,
    pub(super) replaced: usize,
    pub(super) removed: usize,
    pub(super) failed: usize,
}

impl Counts {
    /// One that succeeded.
    const fn count(&mut self, op: &Op) {
        match op {
            Op::Add(_) => self.added += 1,
            Op::Replace { .. } => self.replaced += 1,
            Op::Remove(_) => self.removed += 1,
        }
    }

    /// Adds those of a further pass.
    pub(super) const fn add(&mut self, other: Self) {
        self.added += other.added;
        self.replaced += other.replaced;
        self.removed += other.removed;
        self.failed += other.failed;
    }
}

/// The lines of all passes.
#[derive(Debug, Default)]
pub(super) struct PassLog {
    /// Since when lines are counted.
    since: Option<Instant>,
    changes_left: usize,
    failures_left: usize,
    /// What there were no lines for, and no sum yet.
    unsaid: Counts,
    /// What became of this pass so far.
    counts: Counts,
    at_start: bool,
    /// Whether the changes of this pass have no lines.
    summed: bool,
}

impl PassLog {
    /// A pass of so many operations. At the start many changes come to one sum, which is not told of
    /// here; failures are told of one by one all the same.
    pub(super) fn begin(&mut self, at_start: bool, ops: usize, now: Instant) {
        self.sum(now);
        if self.ends().is_none_or(|at| now >= at) {
            self.since = Some(now);
            (self.changes_left, self.failures_left) = (LINES, LINES);
        }
        self.counts = Counts::default();
        self.at_start = at_start;
        self.summed = at_start && ops > 1;
    }

    /// An operation succeeded; `drift` when it put right what somebody else had done; `quiet` when
    /// that is told of elsewhere.
    pub(super) fn done(&mut self, op: &Op, drift: bool, quiet: bool) {
        self.counts.count(op);
        if quiet {
            return;
        }
        let what = match (op, drift) {
            (Op::Add(_), false) => "added",
            (Op::Add(_), true) => "restored",
            (Op::Replace { .. }, false) => "replaced",
            (Op::Replace { .. }, true) => "corrected",
            (Op::Remove(_), _) => "removed",
        };
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
        let is_device = op.id().as_device().is_some();
        if !is_device && (self.summed || !take(&mut self.changes_left)) {
            if !self.at_start {
                self.unsaid.count(op);
            }
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
        let is_device = op.id().as_device().is_some();
        if is_device || take(&mut self.failures_left) {
            match op.id() {
                ObjectId::Route(route) => warn!(%route, %error, "route failed; trying again with backoff"),
                id => warn!(object = %id, %error, "{} failed; trying again with backoff", kind(id)),
            }
        } else if !self.at_start {
            self.unsaid.failed += 1;
        }
    }

    /// What became of the pass.
    pub(super) const fn end(&self) -> Counts {
        self.counts
    }

    /// Sums up what there were no lines for, once in so long a time.
    pub(super) fn sum(&mut self, now: Instant) {
        if self.sum_at().is_none_or(|at| now < at) {
            return;
        }
        let Counts {
            added,
            replaced,
            removed,
            failed,
        } = std::mem::take(&mut self.unsaid);
        info!(
            added,
            replaced, removed, failed, "more objects programmed, without a line for each"
        );
    }

    /// When [`PassLog::sum`] has something to say.
    pub(super) fn sum_at(&self) -> Option<Instant> {
        self.ends().filter(|_| self.unsaid != Counts::default())
    }

    fn ends(&self) -> Option<Instant> {
        self.since.map(|since| since + LINES_WITHIN)
    }
}

/// Says that the kernel is as it ought to be for the first time, and what that took.
pub(super) fn settled(counts: Counts, peers: PeerCounts) {
    let Counts {
        added,
        replaced,
        removed,
        ..
    } = counts;
    let PeerCounts {
        desired,
        failed,
        refused,
        ..
    } = peers;
    let what = if failed == 0 {
        "routes are in place"
    } else {
        "routes are in place but for those that failed"
    };
    info!(
        peers = desired,
        refused, failed, added, replaced, removed, "{what}"
    );
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, DeviceKind, Hop, MacAddress, OpErrorKind, Route, Vxlan};

    fn route() -> Op {
        let hop = Hop::via([192, 0, 2, 1].into(), "eth0".parse().unwrap());
        Op::Add(Route::unicast("10.5.1.0/24".parse().unwrap(), hop, 70).into())
    }

    fn device() -> Op {
        let device = Device {
            name: "flannel.1".parse().unwrap(),
            kind: DeviceKind::Vxlan(Vxlan::new(1, 8472)),
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            mtu: 1450,
            up: true,
            accepts_advertisements: false,
            checksum_offload: None,
        };
        Op::Add(device.into())
    }

    fn pass(log: &mut PassLog, at_start: bool, ops: usize, now: Instant) -> Counts {
        let error = OpError {
            kind: OpErrorKind::Other,
            text: "no".to_owned(),
        };
        log.begin(at_start, ops, now);
        for _ in 0..ops {
            log.done(&route(), true, false);
            log.failed(&route(), &error, false);
        }
        log.end()
    }

    #[test]
    fn however_many_passes_there_are_100_lines_and_100_failures_in_10_s_are_told_and_then_a_sum_of_the_rest()
    {
        let (mut log, start) = (PassLog::default(), Instant::now());
        for number in 0..5 {
            let counts = pass(&mut log, false, 1000, start + Duration::from_secs(number));
            assert_eq!((counts.added, counts.failed), (1000, 1000), "of this pass");
        }
        assert_eq!((log.changes_left, log.failures_left), (0, 0));
        assert_eq!((log.unsaid.added, log.unsaid.failed), (4900, 4900));
        assert_eq!(log.sum_at(), Some(start + LINES_WITHIN));
        log.sum(start + LINES_WITHIN - Duration::from_millis(1));
        assert_eq!(log.unsaid.added, 4900, "not yet");
        log.sum(start + LINES_WITHIN);
        assert_eq!(log.sum_at(), None);
        pass(&mut log, false, 1, start + LINES_WITHIN);
        assert_eq!((log.changes_left, log.unsaid), (LINES - 1, Counts::default()));
    }

    #[test]
    fn the_first_passes_are_told_of_in_one_sum_elsewhere() {
        let (mut log, start) = (PassLog::default(), Instant::now());
        pass(&mut log, true, 1000, start);
        assert_eq!((log.changes_left, log.failures_left), (LINES, 0));
        assert_eq!(log.sum_at(), None);
    }

    #[test]
    fn a_device_has_a_line_when_none_is_left_and_what_is_told_of_elsewhere_takes_none() {
        let (mut log, start) = (PassLog::default(), Instant::now());
        pass(&mut log, false, LINES, start);
        log.done(&device(), true, false);
        log.done(&route(), true, true);
        assert_eq!(log.unsaid, Counts::default());
        assert_eq!(log.end().added, LINES + 2);
    }
}
