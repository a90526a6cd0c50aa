//! What a watch knows of the leases, and what it has to say when a file turns out to be different.
//! Pure: files come in as readings, events go out.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use flannel_core::{Lease, StoreEvent};
use tokio::time::Instant;

use crate::directory::Reading;
use crate::entry::{Clock, digest};

/// A name that events carry is no longer than this.
const MAX_NAME_CHARS: usize = 100;

/// The entries by their names.
#[derive(Debug, Default)]
pub(crate) struct View(BTreeMap<OsString, Known>);

#[derive(Debug, Default)]
struct Known {
    /// What was last readable and has not ended.
    lease: Option<Lease>,
    /// The reason that was last given for not reading it.
    complaint: Option<u64>,
}

/// What one reading led to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) events: Vec<StoreEvent>,
    /// The file is an expired lease's: it may be removed.
    pub(crate) expired: bool,
}

impl View {
    /// Takes note of one entry as it is now.
    ///
    /// An entry that cannot be read any more still counts as what it said before, until it is
    /// deleted, mended, or ends by its own expiry: a slip of an editor must not cut off a host.
    pub(crate) fn note(&mut self, name: &OsStr, reading: Reading, clock: &Clock) -> Outcome {
        let known = self.0.entry(name.to_owned()).or_default();
        let before = known.lease.take();
        let mut outcome = Outcome::default();
        match reading {
            Reading::Absent => *known = Known::default(),
            Reading::Lease(_, entry) if entry.has_expired(clock) => {
                *known = Known::default();
                outcome.expired = true;
            }
            Reading::Lease(subnet, entry) => {
                let lease = entry.lease(subnet, clock);
                let same = before.as_ref().is_some_and(|before| before.token == lease.token);
                outcome
                    .events
                    .extend((!same).then(|| StoreEvent::Put(lease.clone())));
                *known = Known {
                    lease: Some(lease),
                    complaint: None,
                };
            }
            Reading::Garbled { .. } | Reading::Unreadable(_) => {
                let lasts = |lease: &Lease| lease.expires.is_none_or(|expires| expires > clock.instant);
                known.lease = before.clone().filter(lasts);
                outcome.events.extend(known.complain(name, reading));
            }
        }
        if let (Some(before), None) = (&before, &known.lease) {
            outcome.events.push(StoreEvent::Delete(before.subnet));
        }
        if known.lease.is_none() && known.complaint.is_none() {
            self.0.remove(name);
        }
        outcome
    }

    /// Forgets the entries that are not among these.
    pub(crate) fn retain(&mut self, names: &[OsString]) {
        let mut names: Vec<&OsString> = names.iter().collect();
        names.sort_unstable();
        self.0.retain(|name, _| names.binary_search(&name).is_ok());
    }

    /// Every lease.
    pub(crate) fn leases(&self) -> Vec<Lease> {
        self.0.values().filter_map(|known| known.lease.clone()).collect()
    }

    /// When the first of them ends.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.0.values().filter_map(Known::expires).min()
    }

    /// The entries whose leases end by now.
    pub(crate) fn due(&self, now: Instant) -> Vec<OsString> {
        let due = |known: &Known| known.expires().is_some_and(|expires| expires <= now);
        let due = self.0.iter().filter(|(_, known)| due(known));
        due.map(|(name, _)| name.clone()).collect()
    }
}

impl Known {
    /// What is wrong with an entry, unless it was said of this version before.
    fn complain(&mut self, name: &OsStr, reading: Reading) -> Option<StoreEvent> {
        let (reason, version) = match reading {
            Reading::Absent | Reading::Lease(..) => return None,
            Reading::Garbled { reason, version } => (reason, version),
            Reading::Unreadable(reason) => {
                let version = digest(&reason);
                (reason, version)
            }
        };
        let news = self.complaint.replace(version) != Some(version);
        news.then(|| StoreEvent::Unreadable {
            name: name.to_string_lossy().chars().take(MAX_NAME_CHARS).collect(),
            reason,
        })
    }

    fn expires(&self) -> Option<Instant> {
        self.lease.as_ref().and_then(|lease| lease.expires)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use flannel_core::SubnetKey;

    use super::*;
    use crate::entry::Entry;

    const KEY: &str = "10.5.1.0-24";

    struct Followed {
        view: View,
        clock: Clock,
    }

    impl Followed {
        fn new() -> Self {
            Self {
                view: View::default(),
                clock: Clock::now(),
            }
        }

        /// What a reading led to, in short.
        fn note(&mut self, reading: Reading) -> String {
            let outcome = self.view.note(OsStr::new(KEY), reading, &self.clock);
            let events = outcome.events.iter().map(|event| match event {
                StoreEvent::Put(lease) => format!("put {}", lease.attrs.backend),
                StoreEvent::Delete(subnet) => format!("delete {subnet}"),
                StoreEvent::Unreadable { reason, .. } => format!("unreadable {reason}"),
                other => format!("{other:?}"),
            });
            let expired = outcome.expired.then(|| "expired".to_owned());
            events.chain(expired).collect::<Vec<_>>().join(", ")
        }

        /// A lease that ends so many seconds from the start.
        fn lease(&self, backend: &str, expires: Option<u64>) -> Reading {
            let mut entry = Entry::parse("{}").unwrap();
            entry.attrs.backend = backend.to_owned();
            entry.expires = expires.map(|seconds| self.clock.after(Duration::from_secs(seconds)));
            Reading::Lease(SubnetKey::from_key(KEY).unwrap(), entry)
        }

        fn pass(&mut self, seconds: u64) {
            let time = Duration::from_secs(seconds);
            self.clock.wall += time;
            self.clock.instant += time;
        }
    }

    fn garbled(version: u64) -> Reading {
        Reading::Garbled {
            reason: "bad".to_owned(),
            version,
        }
    }

    #[tokio::test]
    async fn a_renewal_is_silent_and_moves_the_end() {
        let mut followed = Followed::new();
        assert_eq!(followed.note(followed.lease("a", Some(10))), "put a");
        assert_eq!(followed.note(followed.lease("a", Some(20))), "");
        let end = followed.clock.instant + Duration::from_secs(20);
        let ends = followed.view.next_expiry().unwrap();
        assert!(ends.duration_since(end - Duration::from_millis(1)) <= Duration::from_millis(2));
        assert_eq!(followed.note(followed.lease("b", Some(20))), "put b");
        assert_eq!(followed.note(followed.lease("b", None)), "put b");
        assert_eq!(followed.view.next_expiry(), None);
    }

    #[tokio::test]
    async fn a_lease_that_has_ended_is_deleted_once_and_back_when_renewed() {
        let mut followed = Followed::new();
        let old = || Followed::new().lease("a", Some(10));
        assert_eq!(followed.note(old()), "put a");
        followed.pass(11);
        assert_eq!(followed.view.due(followed.clock.instant), [KEY]);
        assert_eq!(followed.note(old()), "delete 10.5.1.0/24, expired");
        assert_eq!(followed.note(old()), "expired");
        assert_eq!(followed.view.next_expiry(), None);
        assert_eq!(followed.note(followed.lease("a", Some(10))), "put a");
    }

    #[tokio::test]
    async fn garbage_is_named_once_for_each_version_and_withdraws_nothing() {
        let mut followed = Followed::new();
        followed.note(followed.lease("a", None));
        assert_eq!(followed.note(garbled(1)), "unreadable bad");
        assert_eq!(followed.note(garbled(1)), "");
        assert_eq!(followed.note(garbled(2)), "unreadable bad");
        assert_eq!(
            followed.note(Reading::Unreadable("denied".to_owned())),
            "unreadable denied"
        );
        assert_eq!(followed.view.leases().len(), 1);
        assert_eq!(followed.note(followed.lease("a", None)), "", "it is what it was");
        assert_eq!(followed.note(garbled(2)), "unreadable bad");
        assert_eq!(followed.note(Reading::Absent), "delete 10.5.1.0/24");
        assert_eq!(followed.note(Reading::Absent), "");
    }

    #[tokio::test]
    async fn a_garbled_lease_ends_when_it_would_have_ended() {
        let mut followed = Followed::new();
        followed.note(followed.lease("a", Some(10)));
        assert_eq!(followed.note(garbled(1)), "unreadable bad");
        assert!(followed.view.next_expiry().is_some());
        followed.pass(11);
        assert_eq!(followed.note(garbled(1)), "delete 10.5.1.0/24");
        assert_eq!(followed.view.next_expiry(), None);
    }

    #[test]
    fn a_name_is_cut_off_and_need_not_be_text() {
        use std::os::unix::ffi::OsStrExt;
        let name = [b"\xff".as_slice(), &[b'x'; 200]].concat();
        let reading = Reading::Unreadable("bad".to_owned());
        let outcome = View::default().note(OsStr::from_bytes(&name), reading, &Clock::now());
        let StoreEvent::Unreadable { name, .. } = &outcome.events[0] else {
            panic!("{outcome:?}");
        };
        assert_eq!(name.chars().count(), MAX_NAME_CHARS);
    }
}
