//! From the engine's clock, which only ever counts on, to that on the wall.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    pub(super) now: Instant,
    wall: SystemTime,
}

impl Clock {
    pub(super) fn now() -> Self {
        Self {
            now: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    #[cfg(test)]
    pub(super) const fn at(now: Instant, wall: SystemTime) -> Self {
        Self { now, wall }
    }

    /// The time since 1970, to the millisecond: finer than that the two clocks do not agree.
    pub(super) fn unix(self, at: Instant) -> Duration {
        let wall = match at.checked_duration_since(self.now) {
            Some(ahead) => self.wall.checked_add(ahead),
            None => self.wall.checked_sub(self.now.saturating_duration_since(at)),
        };
        let since = wall.and_then(|wall| wall.duration_since(UNIX_EPOCH).ok());
        let millis = since.unwrap_or_default().as_millis();
        Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }

    /// `2026-11-22T10:11:12Z`.
    pub(super) fn rfc3339(self, at: Instant) -> String {
        rfc3339(self.unix(at))
    }
}

/// The time since 1970 as RFC 3339 writes it, in whole seconds of UTC.
pub(super) fn rfc3339(unix: Duration) -> String {
    let (days, second) = (unix.as_secs() / SECONDS_PER_DAY, unix.as_secs() % SECONDS_PER_DAY);
    let (year, month, day) = date(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z",
        second % 60
    )
}

/// The Gregorian date so many days after 1 January 1970. Counted from March, so that the leap day is a year's last;
/// the calendar repeats after 400 years, which are 146,097 days.
const fn date(days: u64) -> (u64, u64, u64) {
    const TO_MARCH_OF_YEAR_0: u64 = 719_468;
    let days = days + TO_MARCH_OF_YEAR_0;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_date_has_them() {
        // date -u -d @… +%FT%TZ
        for (unix, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_210_096, "2024-02-29T12:34:56Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (1_767_225_600, "2026-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(Duration::from_secs(unix)), expected);
        }
    }

    #[test]
    fn every_day_of_eight_centuries_is_the_day_after_the_one_before() {
        let mut before = date(0);
        for days in 1..800 * 366 {
            let next = date(days);
            let (year, month, day) = before;
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let expected = match (day == length, month) {
                (false, _) => (year, month, day + 1),
                (true, 12) => (year + 1, 1, 1),
                (true, _) => (year, month + 1, 1),
            };
            assert_eq!(next, expected);
            before = next;
        }
    }

    #[test]
    fn what_lies_ahead_and_behind_is_as_far_away_on_both_clocks() {
        let now = Instant::now();
        let clock = Clock::at(now, UNIX_EPOCH + Duration::from_secs(1_000_000));
        assert_eq!(clock.unix(now + Duration::from_secs(5)).as_secs(), 1_000_005);
        assert_eq!(clock.unix(now - Duration::from_secs(5)).as_secs(), 999_995);
    }
}
