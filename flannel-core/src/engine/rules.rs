//! The rules that pods need in the packet filter: when they are looked at, and what came of it. No I/O.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info};

use super::pace::Pace;
use super::reasons::{RULES_NOT_IN_PLACE_YET, Reasons};
use crate::{Filter, Firewall, FirewallError, Kept, PodNetwork, Reason};

/// So long the rules may not be to be had before that counts: somebody else may hold the lock.
const BEHIND: Duration = Duration::from_secs(2);

/// Repairs in a row are told of so often.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// What is known of the rules.
pub(super) struct Rules {
    firewall: Option<Arc<dyn Firewall>>,
    /// What they are to be made for.
    wanted: Option<PodNetwork>,
    /// What they were last made for.
    kept: Option<PodNetwork>,
    look_wanted: bool,
    looking: bool,
    looks: Pace,
    failing_since: Option<Instant>,
    filters: Vec<Filter>,
    /// How often they were put right.
    pub(super) repairs: u64,
    told: Option<Instant>,
}

impl Rules {
    pub(super) fn new(firewall: Option<Arc<dyn Firewall>>) -> Self {
        Self {
            firewall,
            wanted: None,
            kept: None,
            look_wanted: false,
            looking: false,
            looks: Pace::of_programs(),
            failing_since: None,
            filters: Vec::new(),
            repairs: 0,
            told: None,
        }
    }

    /// They are to be made for this.
    pub(super) fn want(&mut self, pods: PodNetwork) {
        if self.firewall.is_some() && self.wanted.as_ref() != Some(&pods) {
            self.wanted = Some(pods);
        }
    }

    /// A table changed; `None`: any may have.
    pub(super) fn changed(&mut self, table: Option<&str>) {
        let concerned = |firewall: &Arc<dyn Firewall>| table.is_none_or(|table| firewall.is_concerned(table));
        self.look_wanted |= self.firewall.as_ref().is_some_and(concerned);
    }

    /// Asks for a look.
    pub(super) const fn look(&mut self) {
        self.look_wanted = true;
    }

    /// Whether to look at them now, and for what they are to be.
    pub(super) fn next(&mut self, now: Instant) -> Option<PodNetwork> {
        let resync = self.firewall.as_ref()?.resync();
        if self.looking || !self.looks.is_due(self.is_due(), resync, now) {
            return None;
        }
        self.look_wanted = false;
        self.looking = self.wanted.is_some();
        self.wanted.clone()
    }

    /// When [`Rules::next`] has something to say.
    pub(super) fn wake(&self) -> Option<Instant> {
        let resync = self.firewall.as_ref()?.resync();
        let idle = self.wanted.is_some() && !self.looking;
        idle.then(|| self.looks.next(self.is_due(), resync))
    }

    fn is_due(&self) -> bool {
        self.look_wanted || self.wanted != self.kept || self.failing_since.is_some()
    }

    /// What came of a look.
    pub(super) fn kept(
        &mut self,
        pods: PodNetwork,
        result: Result<Kept, FirewallError>,
        started: Instant,
        now: Instant,
        reasons: &mut Reasons,
    ) {
        self.looking = false;
        match result {
            Ok(Kept { written, filters }) => {
                self.looks.ended(started, now);
                self.failing_since = None;
                let repair = self.kept.as_ref() == Some(&pods);
                self.tell(&written, repair, now);
                self.filters = filters;
                self.kept = Some(pods);
                reasons.clear(is_of_rules);
            }
            Err(error) => {
                self.looks.failed(now);
                let since = *self.failing_since.get_or_insert(now);
                if self.kept.is_none() || now >= since + BEHIND {
                    reasons.set(self.reason(error.to_string()));
                } else {
                    debug!(%error, "rules not looked at");
                }
            }
        }
    }

    /// That they are still to be made.
    pub(super) fn judge(&self, reasons: &mut Reasons) {
        if self.are_unknown() && self.wanted.is_some() && !reasons.any(is_of_rules) {
            reasons.set(self.reason(RULES_NOT_IN_PLACE_YET.to_owned()));
        }
    }

    /// Whether they have never been made, nor was it impossible: nothing can be said yet of what packets
    /// meet.
    pub(super) const fn are_unknown(&self) -> bool {
        self.firewall.is_some() && self.kept.is_none() && self.failing_since.is_none()
    }

    /// Chains that drop forwarded packets, and that the host's facts do not show.
    pub(super) fn filters(&self) -> &[Filter] {
        &self.filters
    }

    fn reason(&self, text: String) -> Reason {
        if self
            .firewall
            .as_ref()
            .is_some_and(|firewall| firewall.masquerades())
        {
            Reason::Masquerade(text)
        } else {
            Reason::ForwardRules(text)
        }
    }

    /// One line for each thing done; where somebody else undoes it all the time, a line now and then.
    fn tell(&mut self, written: &[String], repair: bool, now: Instant) {
        if written.is_empty() {
            return;
        }
        if !repair {
            written.iter().for_each(|what| info!("{what}"));
            return;
        }
        self.repairs += 1;
        if self.told.is_none_or(|told| now >= told + TELL_EVERY) {
            self.told = Some(now);
            let repairs = self.repairs;
            written
                .iter()
                .for_each(|what| info!(repairs, "somebody else changed rules of ours: {what}"));
        }
    }
}

const fn is_of_rules(reason: &Reason) -> bool {
    matches!(reason, Reason::Masquerade(_) | Reason::ForwardRules(_))
}
