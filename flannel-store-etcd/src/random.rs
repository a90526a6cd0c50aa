//! Chance, for ids and for waiting times.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// A number that nobody else has. `RandomState` is keyed by the operating system's randomness.
pub(crate) fn number() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Between a half and the whole of a time, so that hosts that lost a server together do not come
/// back together.
pub(crate) fn jittered(time: Duration) -> Duration {
    let half = time / 2;
    let part = u32::try_from(number() & 0xffff).unwrap_or(0);
    half + half * part / 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jittered_time_lies_between_a_half_and_the_whole() {
        let time = Duration::from_secs(2);
        let times: Vec<_> = (0..100).map(|_| jittered(time)).collect();
        assert!(times.iter().all(|jittered| (time / 2..=time).contains(jittered)));
        assert!(times.iter().max() > times.iter().min());
    }
}
