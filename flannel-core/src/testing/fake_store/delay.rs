//! How long a request is on its way: drawn from a seed, in virtual milliseconds.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::choose::mix;

/// A sequence of numbers that a seed determines.
#[derive(Debug, Clone, Default)]
pub(in crate::testing) struct Delay {
    longest: Duration,
    seed: u64,
    drawn: u64,
}

impl Delay {
    /// Delays from nothing to `longest`, in whole milliseconds.
    pub(in crate::testing) const fn new(longest: Duration, seed: u64) -> Self {
        Self {
            longest,
            seed,
            drawn: 0,
        }
    }

    /// The next number, from 0 to `most`.
    pub(in crate::testing) const fn draw(&mut self, most: u64) -> u64 {
        self.drawn = self.drawn.wrapping_add(1);
        mix(mix(self.seed) ^ self.drawn) % most.saturating_add(1)
    }

    /// The next delay.
    pub(in crate::testing) fn next(&mut self) -> Duration {
        let longest = u64::try_from(self.longest.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.draw(longest))
    }
}

/// Waits for a delay that was drawn. None at all costs no turn of the scheduler.
pub(in crate::testing) async fn pass(delay: Duration) {
    if !delay.is_zero() {
        sleep_until(Instant::now() + delay).await;
    }
}
