//! What is not as it ought to be: said at once, again while it lasts, and when it is over.

use std::mem::discriminant;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::Reason;

/// What is not as it ought to be is said this often.
const REMIND_EVERY: Duration = Duration::from_secs(30);

/// What only takes its usual time is not worth a line before this.
const USUAL_TIME: Duration = Duration::from_secs(1);

/// Why there is no lease while the store is being asked for one.
pub(super) const NO_LEASE_YET: &str = "no lease yet";

/// Why `subnet.env` does not say what it ought to while it is being written.
pub(super) const NOT_WRITTEN_YET: &str = "subnet.env is not written yet";

/// Why the kernel is not as it ought to be while it is first being made so.
pub(super) const NOT_IN_PLACE_YET: &str = "the routes are not in place yet";

/// Why the packet filter is not as it ought to be while its rules are first being made.
pub(super) const RULES_NOT_IN_PLACE_YET: &str = "the rules of the packet filter are not in place yet";

/// At most one reason of each kind.
#[derive(Debug, Default)]
pub(super) struct Reasons {
    all: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    reason: Reason,
    /// When it is to be said next; `None`: it is new.
    next: Option<Instant>,
    said: bool,
}

impl Reasons {
    /// The reasons, in a stable order.
    pub(super) fn list(&self) -> Vec<Reason> {
        let mut list: Vec<Reason> = self.all.iter().map(|entry| entry.reason.clone()).collect();
        list.sort();
        list
    }

    /// Whether there is one for which this holds.
    pub(super) fn any(&self, holds: impl Fn(&Reason) -> bool) -> bool {
        self.all.iter().any(|entry| holds(&entry.reason))
    }

    /// Puts a reason in place of the one of its kind.
    pub(super) fn set(&mut self, reason: Reason) {
        let kind = discriminant(&reason);
        match self
            .all
            .iter_mut()
            .find(|entry| discriminant(&entry.reason) == kind)
        {
            Some(entry) if entry.reason == reason => {}
            Some(entry) => {
                // The counts change with every try.
                if !matches!(reason, Reason::Routes { .. }) {
                    entry.next = None;
                }
                entry.reason = reason;
            }
            None => self.all.push(Entry {
                reason,
                next: None,
                said: false,
            }),
        }
    }

    /// Puts a reason of this kind, or takes it away.
    pub(super) fn hold(&mut self, reason: Option<Reason>, kind: fn(&Reason) -> bool) {
        match reason {
            Some(reason) => self.set(reason),
            None => self.clear(kind),
        }
    }

    /// It is over.
    pub(super) fn clear(&mut self, kind: fn(&Reason) -> bool) {
        self.all.retain(|entry| {
            let over = kind(&entry.reason);
            if over && entry.said {
                info!(was = %entry.reason, "mended");
            }
            !over
        });
    }

    /// Says what is new, and what has not been said for a while.
    pub(super) fn remind(&mut self, now: Instant) {
        for entry in &mut self.all {
            let reason = &entry.reason;
            let due = *entry.next.get_or_insert_with(|| now + first_said_after(reason));
            if now >= due {
                entry.next = Some(now + REMIND_EVERY);
                entry.said = true;
                warn!(reason = %entry.reason, "not as it ought to be");
            }
        }
    }

    /// When [`Reasons::remind`] has something to say.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.all.iter().filter_map(|entry| entry.next).min()
    }
}

/// Most reasons are said at once.
fn first_said_after(reason: &Reason) -> Duration {
    match reason {
        Reason::NoSnapshot => USUAL_TIME,
        Reason::Lease(text) if text == NO_LEASE_YET => USUAL_TIME,
        Reason::SubnetEnv(text) if text == NOT_WRITTEN_YET => USUAL_TIME,
        Reason::Kernel(text) if text == NOT_IN_PLACE_YET => USUAL_TIME,
        Reason::Masquerade(text) | Reason::ForwardRules(text) if text == RULES_NOT_IN_PLACE_YET => USUAL_TIME,
        // Who changes the packet filter mostly does so in several steps, and we are one of them.
        Reason::Filter(_) => USUAL_TIME,
        // Each failure has a line of its own.
        Reason::Routes { .. } => REMIND_EVERY,
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
#[path = "reasons_tests.rs"]
mod tests;
