//! When to try again.

use std::time::Duration;

use tokio::time::Instant;

/// The first and the longest delay after a failure.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// Looks at the kernel are at least this far apart, and so many times as far as the last one took, so
/// that looking does not take more than a twentieth of the time. But a look may only have taken long
/// because the machine is busy, and a change must be put right within a second all the same.
const SHORTEST_GAP: Duration = Duration::from_millis(50);
const LONGEST_GAP: Duration = Duration::from_millis(500);
const GAP_PER_LOOK: u32 = 20;

/// Delays that double, from 100 ms to 30 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait after one more failure.
    pub(super) fn next_delay(&mut self) -> Duration {
        let delay = FIRST_DELAY
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST_DELAY);
        self.failures += 1;
        delay
    }
}

/// Keeps a repeated look from taking over. The first is never delayed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    last: Option<(Instant, Duration)>,
}

impl Pace {
    /// When the last look ended.
    pub(super) fn last(&self) -> Option<Instant> {
        self.last.map(|(ended, _)| ended)
    }

    /// The earliest time for the next look.
    pub(super) fn next_allowed(&self) -> Instant {
        self.last.map_or_else(Instant::now, |(ended, took)| {
            ended + took.saturating_mul(GAP_PER_LOOK).clamp(SHORTEST_GAP, LONGEST_GAP)
        })
    }

    /// Whether a look may begin.
    pub(super) fn allows(&self, now: Instant) -> bool {
        self.last.is_none() || now >= self.next_allowed()
    }

    /// A look has ended.
    pub(super) fn ended(&mut self, started: Instant, now: Instant) {
        self.last = Some((now, now.saturating_duration_since(started)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_from_100_ms_to_30_s() {
        let mut backoff = Backoff::default();
        let delays: Vec<u128> = (0..11).map(|_| backoff.next_delay().as_millis()).collect();
        assert_eq!(
            delays,
            [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]
        );
        assert_eq!((0..100).map(|_| backoff.next_delay()).max(), Some(LONGEST_DELAY));
    }

    #[tokio::test(start_paused = true)]
    async fn looks_are_20_times_their_length_apart() {
        let mut pace = Pace::default();
        let start = Instant::now();
        assert_eq!(pace.next_allowed(), start);
        pace.ended(start, start + Duration::from_millis(1));
        assert_eq!(pace.next_allowed(), start + Duration::from_millis(51));
        pace.ended(start, start + Duration::from_millis(10));
        assert_eq!(pace.next_allowed(), start + Duration::from_millis(210));
    }
}
