//! What a lease file says: flannel's lease value, and when it was made and ends.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flannel_core::{Lease, LeaseAttrs, LeaseValueError, MemberError, SubnetKey, Token};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::Instant;

/// When the lease was first claimed: nanoseconds since 1970. Absent, that is 0: what an operator
/// put there is the oldest.
const CREATED: &str = "Created";
/// When the lease ends: seconds since 1970, with a fraction if need be. Absent: never.
const EXPIRES: &str = "Expires";
/// An expiry that lies farther ahead is taken for this far, and looked at again then.
const FARTHEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// One moment on both clocks: files outlive the machine's run, timers must not jump.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    /// Since 1970.
    pub(crate) wall: Duration,
    pub(crate) instant: Instant,
}

impl Clock {
    pub(crate) fn now() -> Self {
        Self {
            wall: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            instant: Instant::now(),
        }
    }

    /// The expiry of what is written now: whole milliseconds since 1970.
    pub(crate) fn after(&self, ttl: Duration) -> Duration {
        milliseconds(self.wall.saturating_add(ttl))
    }

    /// `created` of what is claimed now.
    pub(crate) fn created(&self) -> u64 {
        u64::try_from(self.wall.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The content of a lease file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) attrs: LeaseAttrs,
    pub(crate) created: u64,
    /// Since 1970.
    pub(crate) expires: Option<Duration>,
}

impl Entry {
    pub(crate) fn parse(text: &str) -> Result<Self, LeaseValueError> {
        let mut attrs = LeaseAttrs::from_json(text)?;
        let created: Option<u64> = attrs.take_unknown(CREATED, "nanoseconds since 1970")?;
        let expected = "seconds since 1970; leave it out for a lease that never expires";
        let expires: Option<f64> = attrs.take_unknown(EXPIRES, expected)?;
        let expires = expires.map(|seconds| {
            Duration::try_from_secs_f64(seconds).map_err(|_| MemberError {
                member: EXPIRES,
                value: seconds.to_string(),
                expected,
            })
        });
        Ok(Self {
            attrs,
            created: created.unwrap_or(0),
            expires: expires.transpose()?.map(milliseconds),
        })
    }

    pub(crate) fn to_text(&self) -> String {
        let mut attrs = self.attrs.clone();
        attrs.unknown.retain(|(name, _)| !is_ours(name));
        let mut add = |name: &str, value: Option<Box<RawValue>>| {
            attrs.unknown.extend(value.map(|value| (name.to_owned(), value)));
        };
        add(CREATED, raw(&self.created));
        add(
            EXPIRES,
            self.expires.and_then(|expires| raw(&expires.as_secs_f64())),
        );
        attrs.to_json() + "\n"
    }

    /// A digest of everything but the moment of expiry: a renewal is no new version, since nobody
    /// who watches is told of it.
    pub(crate) fn token(&self) -> Token {
        Token {
            revision: digest((self.attrs.to_json(), self.created, self.expires.is_some())),
            grant: 0,
        }
    }

    pub(crate) fn has_expired(&self, clock: &Clock) -> bool {
        self.expires.is_some_and(|expires| expires <= clock.wall)
    }

    pub(crate) fn lease(&self, subnet: SubnetKey, clock: &Clock) -> Lease {
        let ends = |expires: Duration| {
            let ahead = expires.saturating_sub(clock.wall).min(FARTHEST);
            clock.instant.checked_add(ahead).unwrap_or(clock.instant)
        };
        Lease {
            subnet,
            attrs: self.attrs.clone(),
            expires: self.expires.map(ends),
            created: self.created,
            token: self.token(),
        }
    }
}

/// Tells one version of something from the next. The hasher's keys are fixed, so that processes of
/// one build agree; none keeps a digest longer than it runs.
pub(crate) fn digest(version: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    version.hash(&mut hasher);
    hasher.finish()
}

/// Rounded, since a binary fraction of a second is seldom a whole number of them.
fn milliseconds(time: Duration) -> Duration {
    let rounded = time.saturating_add(Duration::from_micros(500)).as_millis();
    Duration::from_millis(u64::try_from(rounded).unwrap_or(u64::MAX))
}

fn is_ours(name: &str) -> bool {
    [CREATED, EXPIRES]
        .iter()
        .any(|ours| name.eq_ignore_ascii_case(ours))
}

fn raw(number: &impl Serialize) -> Option<Box<RawValue>> {
    to_raw_value(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> Entry {
        Entry::parse(text).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back_and_our_members_stand_last() {
        let text = r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"host-gw","Zone":"b","Created":1753000000123456789,"Expires":1753000000.123}"#;
        let entry = entry(text);
        assert_eq!(entry.created, 1_753_000_000_123_456_789);
        assert_eq!(entry.expires, Some(Duration::from_millis(1_753_000_000_123)));
        assert_eq!(entry.attrs.unknown.len(), 1);
        assert_eq!(entry.to_text(), text.to_owned() + "\n");
    }

    #[test]
    fn a_flannel_value_without_our_members_is_the_oldest_and_never_expires() {
        let entry = entry(r#"{"PublicIP":"192.0.2.1","Expires":null}"#);
        assert_eq!((entry.created, entry.expires), (0, None));
        assert!(!entry.has_expired(&Clock::now()));
    }

    #[test]
    fn a_renewal_is_no_new_version_and_anything_else_is() {
        let before = entry(r#"{"PublicIP":"192.0.2.1","Created":7,"Expires":10}"#);
        let renewed = entry(r#"{"PublicIP":"192.0.2.1","Created":7,"Expires":20}"#);
        assert_eq!(before.token(), renewed.token());
        for other in [
            r#"{"PublicIP":"192.0.2.2","Created":7,"Expires":10}"#,
            r#"{"PublicIP":"192.0.2.1","Created":8,"Expires":10}"#,
            r#"{"PublicIP":"192.0.2.1","Created":7}"#,
            r#"{"PublicIP":"192.0.2.1","Zone":1,"Created":7,"Expires":10}"#,
        ] {
            assert_ne!(before.token(), entry(other).token(), "{other}");
        }
    }

    #[test]
    fn a_bad_expiry_or_age_is_refused_by_name_with_the_remedy() {
        for (text, expected) in [
            (
                r#"{"Expires":"tomorrow"}"#,
                r#"Expires is "tomorrow", which is not seconds since 1970; leave it out"#,
            ),
            (r#"{"Expires":-1}"#, "Expires is -1"),
            (r#"{"Expires":1e300}"#, "Expires is 1"),
            (r#"{"created":1.5}"#, "Created is 1.5, which is not nanoseconds"),
            ("garbage", "not a JSON object"),
        ] {
            let error = Entry::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn expiry_is_by_the_wall_clock_and_no_moment_is_out_of_range() {
        let clock = Clock::now();
        let at = |expires| Entry {
            attrs: LeaseAttrs::default(),
            created: 0,
            expires: Some(expires),
        };
        assert!(at(clock.wall).has_expired(&clock));
        assert!(!at(clock.wall + Duration::from_millis(1)).has_expired(&clock));
        let subnet = SubnetKey::from_key("10.5.1.0-24").unwrap();
        let soon = at(clock.wall + Duration::from_secs(2)).lease(subnet, &clock);
        assert_eq!(soon.expires, Some(clock.instant + Duration::from_secs(2)));
        let never = at(Duration::MAX).lease(subnet, &clock);
        assert_eq!(never.expires, Some(clock.instant + FARTHEST));
        assert_eq!(
            Clock {
                wall: Duration::MAX,
                ..clock
            }
            .created(),
            u64::MAX
        );
    }

    #[test]
    fn members_of_ours_that_a_caller_hands_in_are_not_written_twice() {
        let mut attrs = LeaseAttrs::default();
        attrs.unknown = entry("{}").attrs.unknown;
        attrs.unknown.push(("expires".to_owned(), raw(&1).unwrap()));
        let text = Entry {
            attrs,
            created: 3,
            expires: None,
        }
        .to_text();
        assert_eq!(
            text,
            "{\"PublicIP\":\"0.0.0.0\",\"PublicIPv6\":null,\"Created\":3}\n"
        );
    }
}
