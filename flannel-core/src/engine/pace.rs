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

/// The same after a look by which something was put right, which may be needed again at once, and by
/// programs that take a part of that second themselves.
const LONGEST_GAP_AFTER_REPAIR: Duration = Duration::from_millis(250);
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
    /// When the last look ended, and what has to pass before the next.
    last: Option<(Instant, Duration)>,
    backoff: Backoff,
}

impl Pace {
    /// The earliest time for the next look: as soon as may be when it is `wanted`, and otherwise
    /// when one is due anyway.
    pub(super) fn next(&self, wanted: bool, every: Duration) -> Instant {
        self.last.map_or_else(Instant::now, |(ended, gap)| {
            ended + if wanted { gap } else { gap.max(every) }
        })
    }

    /// Whether to look now.
    pub(super) fn is_due(&self, wanted: bool, every: Duration, now: Instant) -> bool {
        self.last.is_none() || now >= self.next(wanted, every)
    }

    /// A look has ended.
    pub(super) fn ended(&mut self, started: Instant, now: Instant) {
        self.ended_within(started, now, LONGEST_GAP);
    }

    /// A look has ended by which something was put right.
    pub(super) fn repaired(&mut self, started: Instant, now: Instant) {
        self.ended_within(started, now, LONGEST_GAP_AFTER_REPAIR);
    }

    fn ended_within(&mut self, started: Instant, now: Instant, longest: Duration) {
        let took = now.saturating_duration_since(started);
        let gap = took.saturating_mul(GAP_PER_LOOK).clamp(SHORTEST_GAP, longest);
        self.last = Some((now, gap));
        self.backoff = Backoff::default();
    }

    /// A look has come to nothing: how long that took says nothing about the next.
    pub(super) fn failed(&mut self, now: Instant) -> Duration {
        let delay = self.backoff.next_delay();
        self.last = Some((now, delay));
        delay
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

    const EVERY: Duration = Duration::from_secs(10);

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[tokio::test(start_paused = true)]
    async fn looks_are_20_times_their_length_apart() {
        let mut pace = Pace::default();
        let start = Instant::now();
        assert_eq!(pace.next(true, EVERY), start);
        pace.ended(start, start + ms(1));
        assert_eq!(pace.next(true, EVERY), start + ms(51));
        pace.ended(start, start + ms(10));
        assert_eq!(pace.next(true, EVERY), start + ms(210));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_nobody_wants_is_due_after_10_s() {
        let mut pace = Pace::default();
        let start = Instant::now();
        assert!(pace.is_due(false, EVERY, start));
        pace.ended(start, start + ms(1000));
        assert_eq!(pace.next(true, EVERY), start + ms(1500));
        assert_eq!(pace.next(false, EVERY), start + ms(11_000));
        assert!(!pace.is_due(false, EVERY, start + ms(10_999)));
        assert!(pace.is_due(false, EVERY, start + ms(11_000)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_ran_into_its_deadline_is_tried_again_after_100_ms_and_then_less_often() {
        let mut pace = Pace::default();
        let start = Instant::now();
        let late = start + ms(30_000);
        assert_eq!(pace.failed(late), ms(100));
        assert_eq!(pace.next(true, EVERY), late + ms(100));
        assert_eq!(pace.failed(late), ms(200));
        for _ in 0..20 {
            pace.failed(late);
        }
        assert_eq!(pace.next(false, EVERY), late + ms(30_000));
        pace.ended(late, late);
        assert_eq!(pace.failed(late), ms(100));
    }
}
