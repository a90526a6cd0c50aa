//! The rules that pods need in the packet filter: when they are looked at, and what came of it. No I/O.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info};

use super::pace::{Backoff, Pace};
use super::reasons::{RULES_NOT_IN_PLACE_YET, Reasons};
use crate::{Filter, Firewall, FirewallError, Kept, PodNetwork, Reason};

/// So long the rules may not be to be had before that counts: somebody else may hold the lock.
const BEHIND: Duration = Duration::from_secs(2);

/// After a failure, something new is tried after this all the same.
const HURRIED_RETRY: Duration = Duration::from_millis(100);

/// So many repairs within so long a time are a fight: rules of ours are gone between them.
const FIGHT: usize = 10;
pub(super) const FIGHT_WITHIN: Duration = Duration::from_secs(60);

/// Repairs in a row are told of so often.
pub(super) const TELL_EVERY: Duration = Duration::from_secs(30);

/// What is known of the rules.
pub(super) struct Rules {
    firewall: Option<Arc<dyn Firewall>>,
    /// What they are to be made for.
    wanted: Option<PodNetwork>,
    /// What they were last made for.
    kept: Option<PodNetwork>,
    look_wanted: bool,
    /// What is looked at now, or was last.
    tried: Option<PodNetwork>,
    looking: bool,
    looks: Pace,
    failing: Option<Failing>,
    /// The last repairs.
    repaired: VecDeque<Instant>,
    filters: Vec<Filter>,
    /// How often they were put right.
    pub(super) repairs: u64,
    told: Option<Instant>,
}

/// Looks that come to nothing.
#[derive(Debug, Clone, Copy)]
struct Failing {
    since: Instant,
    last: Instant,
    retry: Instant,
    backoff: Backoff,
}

impl Rules {
    pub(super) fn new(firewall: Option<Arc<dyn Firewall>>) -> Self {
        Self {
            firewall,
            wanted: None,
            kept: None,
            look_wanted: false,
            tried: None,
            looking: false,
            looks: Pace::default(),
            failing: None,
            repaired: VecDeque::new(),
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

    /// Whether to look at them now: by whom, and for what they are to be.
    pub(super) fn next(&mut self, now: Instant) -> Option<(Arc<dyn Firewall>, PodNetwork)> {
        let firewall = self.firewall.clone()?;
        let resync = firewall.resync();
        let due = match &self.failing {
            None => self.looks.is_due(self.is_news(), resync, now),
            Some(_) => self.wake().is_some_and(|at| now >= at),
        };
        if self.looking || !due {
            return None;
        }
        self.look_wanted = false;
        self.looking = self.wanted.is_some();
        self.tried.clone_from(&self.wanted);
        self.wanted.clone().map(|pods| (firewall, pods))
    }

    /// When [`Rules::next`] has something to say.
    pub(super) fn wake(&self) -> Option<Instant> {
        let resync = self.firewall.as_ref()?.resync();
        if self.wanted.is_none() || self.looking {
            return None;
        }
        Some(match &self.failing {
            None => self.looks.next(self.is_news(), resync),
            Some(failing) if self.is_news() => failing.retry.min(failing.last + HURRIED_RETRY),
            Some(failing) => failing.retry,
        })
    }

    /// When a fight is over unless it goes on.
    pub(super) fn calm_at(&self) -> Option<Instant> {
        let first = self.repaired.front().filter(|_| self.repaired.len() >= FIGHT);
        first.map(|at| *at + FIGHT_WITHIN)
    }

    /// Whether something has changed since the last look.
    fn is_news(&self) -> bool {
        self.look_wanted || self.wanted != self.tried
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
                if written.is_empty() {
                    self.looks.ended(started, now);
                } else {
                    self.looks.repaired(started, now);
                }
                self.failing = None;
                let repair = self.kept.as_ref() == Some(&pods);
                self.tell(&written, repair, now);
                self.filters = filters;
                self.kept = Some(pods);
                reasons.clear(is_of_rules);
            }
            Err(error) => {
                let mut failing = self.failing.unwrap_or(Failing {
                    since: now,
                    last: now,
                    retry: now,
                    backoff: Backoff::default(),
                });
                let resync = self
                    .firewall
                    .as_ref()
                    .map_or(BEHIND, |firewall| firewall.resync());
                failing.last = now;
                failing.retry = now + failing.backoff.next_delay().min(resync);
                self.failing = Some(failing);
                if self.kept.is_none() || now >= failing.since + BEHIND {
                    reasons.set(self.reason(error.to_string()));
                } else {
                    debug!(%error, "rules not looked at");
                }
            }
        }
    }

    /// That they are still to be made, or that somebody undoes them all the time.
    pub(super) fn judge(&mut self, reasons: &mut Reasons, now: Instant) {
        self.repaired.retain(|at| now < *at + FIGHT_WITHIN);
        let fight = (self.repaired.len() >= FIGHT).then(|| {
            Reason::RulesUndone(format!(
                "rules of ours in the packet filter were put right {FIGHT} times and more within {} s, and are \
                 missing in between: somebody else changes them, such as another flanneld of this host with a \
                 --state-dir of its own; `nft monitor` shows who",
                FIGHT_WITHIN.as_secs()
            ))
        });
        reasons.hold(fight, |reason| matches!(reason, Reason::RulesUndone(_)));
        if self.are_unknown() && self.wanted.is_some() && !reasons.any(is_of_rules) {
            reasons.set(self.reason(RULES_NOT_IN_PLACE_YET.to_owned()));
        }
    }

    /// Whether they have never been made, nor was it impossible: nothing can be said yet of what packets
    /// meet.
    pub(super) const fn are_unknown(&self) -> bool {
        self.firewall.is_some() && self.kept.is_none() && self.failing.is_none()
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
        self.repaired.push_back(now);
        if self.repaired.len() > FIGHT {
            self.repaired.pop_front();
        }
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
