//! What an engine has done so far, as numbers.

use std::time::Duration;

use crate::Op;

/// What an engine has done since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Full lists of leases that the store has shown.
    pub snapshots: u64,
    /// Kernel objects that somebody else had changed and that were put right.
    pub repairs: Repairs,
    /// How often rules of the packet filter that somebody else had changed were put right.
    pub rule_repairs: u64,
    /// How long it took to work out each plan that changed something.
    pub planning: Timings,
    /// How long the kernel took for each plan, answered or given up.
    pub applying: Timings,
}

/// Kernel objects that somebody else had changed and that were put right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Repairs {
    /// They were missing.
    pub restored: u64,
    /// They were different.
    pub corrected: u64,
    /// They carried our mark where none of ours belongs.
    pub removed: u64,
}

impl Repairs {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.restored + self.corrected + self.removed
    }

    pub(crate) const fn count(&mut self, op: &Op) {
        match op {
            Op::Add(_) => self.restored += 1,
            Op::Replace { .. } => self.corrected += 1,
            Op::Remove(_) => self.removed += 1,
        }
    }
}

/// How often something took how long.
///
/// ```
/// let timings = flannel_core::Timings::default();
/// assert_eq!(timings.buckets().map(|(_, count)| count).sum::<u64>(), timings.count());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    buckets: [u64; Timings::BOUNDS.len() + 1],
    sum: Duration,
}

impl Timings {
    /// The longest time of each bucket but the last, which has no bound.
    pub const BOUNDS: [Duration; 11] = [
        Duration::from_micros(100),
        Duration::from_micros(500),
        Duration::from_millis(1),
        Duration::from_millis(5),
        Duration::from_millis(10),
        Duration::from_millis(50),
        Duration::from_millis(100),
        Duration::from_millis(500),
        Duration::from_secs(1),
        Duration::from_secs(5),
        Duration::from_secs(10),
    ];

    /// All of it together.
    #[must_use]
    pub const fn sum(&self) -> Duration {
        self.sum
    }

    /// How often in all.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// How often it took at most so long, and longer than the bound before; `None` is without bound.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> + '_ {
        let bounds = Self::BOUNDS.into_iter().map(Some).chain([None]);
        bounds.zip(self.buckets)
    }

    pub(crate) fn note(&mut self, took: Duration) {
        let bucket = Self::BOUNDS.partition_point(|bound| *bound < took);
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
        }
        self.sum = self.sum.saturating_add(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_counted_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        let mut timings = Timings::default();
        let times = [0, 100, 101, 10_000_000, 10_000_001].map(Duration::from_micros);
        times.into_iter().for_each(|took| timings.note(took));
        let counts: Vec<(Option<u128>, u64)> = timings
            .buckets()
            .filter(|(_, count)| *count > 0)
            .map(|(bound, count)| (bound.map(|bound| bound.as_micros()), count))
            .collect();
        assert_eq!(
            counts,
            [(Some(100), 2), (Some(500), 1), (Some(10_000_000), 1), (None, 1)]
        );
        assert_eq!((timings.count(), timings.sum()), (5, times.iter().sum()));
    }
}
