//! What is not as it ought to be: said at once, again while it lasts, and when it is over.

use std::mem::discriminant;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::Reason;

/// What keeps us waiting is said this often.
const REMIND_EVERY: Duration = Duration::from_secs(30);

/// Why there is no lease while the store is being asked for one.
pub(super) const NO_LEASE_YET: &str = "no lease yet";

/// At most one reason of each kind.
#[derive(Debug, Default)]
pub(super) struct Reasons {
    all: Vec<(Reason, Option<Instant>)>,
}

impl Reasons {
    /// The reasons, in a stable order.
    pub(super) fn list(&self) -> Vec<Reason> {
        let mut list: Vec<Reason> = self.all.iter().map(|(reason, _)| reason.clone()).collect();
        list.sort();
        list
    }

    /// Puts a reason in place of the one of its kind.
    pub(super) fn set(&mut self, reason: Reason) {
        let kind = discriminant(&reason);
        match self.all.iter_mut().find(|(other, _)| discriminant(other) == kind) {
            Some((other, _)) if *other == reason => {}
            Some(entry) => *entry = (reason, None),
            None => self.all.push((reason, None)),
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
        self.all.retain(|(reason, said)| {
            let over = kind(reason);
            if over && said.is_some() {
                info!(was = %reason, "no longer waiting");
            }
            !over
        });
    }

    /// Says what is new, and what has not been said for a while.
    pub(super) fn remind(&mut self, now: Instant) {
        for (reason, said) in &mut self.all {
            if said.is_none_or(|at| now >= at + REMIND_EVERY) {
                *said = Some(now);
                match reason {
                    // What only takes its usual time is not worth a warning.
                    Reason::NoSnapshot => info!(%reason, "waiting"),
                    Reason::Lease(text) if text == NO_LEASE_YET => info!(%reason, "waiting"),
                    _ => warn!(%reason, "waiting"),
                }
            }
        }
    }

    /// When [`Reasons::remind`] has something to say.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.all
            .iter()
            .filter_map(|(_, said)| Some((*said)? + REMIND_EVERY))
            .min()
    }
}
