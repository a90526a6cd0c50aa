//! Chains of nftables that drop forwarded packets: docker's `FORWARD` and firewalld's `filter_FORWARD`,
//! above all. Read no more often than they change, nor than that is cheap.
//!
//! Not seen: what the older iptables (`iptables-legacy`) has, which the kernel shows to its own program
//! alone; and chains that drop some packets only, whatever these are.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flannel_core::Filter;
use tokio::time::Instant;

use crate::chain;
use crate::namespace::Namespace;

/// Looks that nobody gave a reason for are at least so far apart, and so many times as far as the last one
/// took.
const SHORTEST_GAP: Duration = Duration::from_secs(5);
const GAP_PER_LOOK: u32 = 1000;

/// The same once a table with such a chain is known to have changed: within a second, and no more than a
/// twentieth of the time unless a look takes long.
const SHORTEST_HURRIED_GAP: Duration = Duration::from_millis(200);
const LONGEST_HURRIED_GAP: Duration = SHORTEST_GAP;
const HURRIED_GAP_PER_LOOK: u32 = 20;

/// The most tables that are told apart.
const TABLES: usize = 64;

/// What was seen last, and when to look again.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    /// Locked during a look.
    seen: Mutex<Vec<Filter>>,
    /// Locked for a moment.
    pace: Mutex<Pace>,
}

impl Filters {
    /// The chains, read anew if that is due. Where the kernel has no nftables, or does not let us look,
    /// nothing is known; what was seen stays where it could not be read this time.
    pub(crate) fn look(&self, namespace: &Namespace) -> Vec<Filter> {
        let mut seen = lock(&self.seen);
        let started = Instant::now();
        if !lock(&self.pace).begins(started) {
            return seen.clone();
        }
        let (filters, tables) = match chain::read(namespace) {
            Ok(read) => (Some(read.filters), Some(read.tables)),
            Err(error) => {
                tracing::debug!(%error, "the packet filter cannot be read");
                ((!error.is_transient()).then(Vec::new), None)
            }
        };
        *seen = filters.unwrap_or_else(|| std::mem::take(&mut seen));
        lock(&self.pace).ended(started, Instant::now(), tables);
        seen.clone()
    }

    /// Tables changed, or `any` may have. When a look shows that, if it may be about the chains at all.
    pub(crate) fn changed(&self, tables: &BTreeSet<String>, any: bool) -> Option<Instant> {
        lock(&self.pace).changed(tables, any)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When to look. Pure.
#[derive(Debug, Default)]
struct Pace {
    /// When the last look ended, and how long it took.
    last: Option<(Instant, Duration)>,
    /// Whether there has been a change since it began.
    stale: bool,
    /// The tables of which it saw a chain that forwarded packets pass; `None` where that is not known.
    tables: Option<BTreeSet<String>>,
}

impl Pace {
    /// Whether to look now.
    fn begins(&mut self, now: Instant) -> bool {
        let is_due = self.next(self.stale).is_none_or(|at| now >= at);
        self.stale &= !is_due;
        is_due
    }

    /// A look has ended; `None` if it has come to nothing.
    fn ended(&mut self, started: Instant, now: Instant, tables: Option<BTreeSet<String>>) {
        self.stale |= tables.is_none();
        self.tables = tables.filter(|tables| tables.len() <= TABLES);
        self.last = Some((now, now.saturating_duration_since(started)));
    }

    fn changed(&mut self, tables: &BTreeSet<String>, any: bool) -> Option<Instant> {
        let known = self.tables.as_ref().filter(|_| !any);
        if known.is_some_and(|known| known.is_disjoint(tables)) {
            return None;
        }
        self.stale = true;
        Some(self.next(true).unwrap_or_else(Instant::now))
    }

    fn next(&self, hurried: bool) -> Option<Instant> {
        let (ended, took) = self.last?;
        let gap = if hurried {
            let gap = took.saturating_mul(HURRIED_GAP_PER_LOOK);
            gap.clamp(SHORTEST_HURRIED_GAP, LONGEST_HURRIED_GAP)
        } else {
            took.saturating_mul(GAP_PER_LOOK).max(SHORTEST_GAP)
        };
        Some(ended + gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
        names.into_iter().map(str::to_owned).collect()
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A look that took so long has ended just now and saw one table.
    fn looked(took: Duration) -> (Pace, Instant) {
        let mut pace = Pace::default();
        let start = Instant::now();
        assert!(pace.begins(start), "the first look is never delayed");
        let ended = start + took;
        pace.ended(start, ended, Some(tables(["ip filter"])));
        (pace, ended)
    }

    #[test]
    fn without_a_reason_a_look_is_due_after_5_s_or_1000_times_its_length() {
        for (took, gap) in [(1, 5000), (5, 5000), (20, 20_000)] {
            let (mut pace, ended) = looked(ms(took));
            assert!(!pace.begins(ended + ms(gap) - ms(1)), "{took} ms");
            assert!(pace.begins(ended + ms(gap)), "{took} ms");
        }
    }

    #[test]
    fn after_a_change_it_is_due_after_200_ms_or_20_times_its_length_but_no_more_than_5_s() {
        for (took, gap) in [(1, 200), (10, 200), (20, 400), (1000, 5000)] {
            let (mut pace, ended) = looked(ms(took));
            let due = pace.changed(&tables(["ip filter", "ip nat"]), false);
            assert_eq!(due, Some(ended + ms(gap)), "{took} ms");
            assert!(!pace.begins(ended + ms(gap) - ms(1)), "{took} ms");
            assert!(pace.begins(ended + ms(gap)), "{took} ms");
            let again = ended + ms(gap);
            pace.ended(again, again, Some(tables([])));
            assert!(!pace.begins(again + ms(4999)), "seen, and over");
        }
    }

    #[test]
    fn a_change_of_other_tables_is_no_reason() {
        let (mut pace, ended) = looked(ms(1));
        assert_eq!(pace.changed(&tables(["ip nat", "ip6 filter"]), false), None);
        assert!(!pace.begins(ended + ms(4999)));
        assert!(pace.changed(&tables(["ip nat"]), true).is_some(), "any may have");
        assert!(pace.begins(ended + ms(200)));
    }

    #[test]
    fn every_change_is_a_reason_until_a_look_has_told_which_tables_there_are() {
        assert!(Pace::default().changed(&tables(["ip nat"]), false).is_some());
        let many = (0..=TABLES).map(|n| format!("ip t{n}")).collect();
        for unknown in [None, Some(many)] {
            let (mut pace, ended) = looked(ms(1));
            pace.ended(ended, ended, unknown);
            assert!(pace.changed(&tables(["ip nat"]), false).is_some());
        }
    }

    #[test]
    fn a_change_during_a_look_and_a_look_that_came_to_nothing_are_reasons_for_another() {
        let mut pace = Pace::default();
        let start = Instant::now();
        assert!(pace.begins(start));
        pace.changed(&tables(["ip filter"]), false);
        pace.ended(start, start, Some(tables(["ip filter"])));
        assert!(pace.begins(start + ms(200)));
        pace.ended(start, start, None);
        assert!(pace.begins(start + ms(200)));
    }
}
