use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const CONFIG: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#;

const TTL: Duration = Duration::from_secs(60);

fn keys() -> Keys {
    Keys::new("/net")
}

fn moment(revision: i64) -> Moment {
    Moment {
        cluster: 1,
        term: 2,
        revision,
    }
}

fn entry(name: &str, value: &str, modified: i64) -> Entry {
    Entry {
        key: format!("/net/subnets/{name}").into_bytes(),
        value: value.as_bytes().to_vec(),
        created: modified,
        modified,
        grant: 7,
    }
}

fn put(name: &str, value: &str, modified: i64) -> Change {
    Change::Put(entry(name, value, modified))
}

fn delete(name: &str, revision: i64) -> Change {
    Change::Delete {
        key: format!("/net/subnets/{name}").into_bytes(),
        revision,
    }
}

fn value(host: u8) -> String {
    format!(r#"{{"PublicIP":"192.0.2.{host}"}}"#)
}

/// What an event says, in short.
fn short(event: &StoreEvent) -> String {
    match event {
        StoreEvent::Config(Ok(_)) => "config".to_owned(),
        StoreEvent::Config(Err(error)) => format!("no config: {error}"),
        StoreEvent::Snapshot { leases, gap } => {
            let subnets: Vec<String> = leases.iter().map(|lease| lease.subnet.to_key()).collect();
            format!("{gap:?} [{}]", subnets.join(" "))
        }
        StoreEvent::Put(lease) => format!("put {}", lease.subnet.to_key()),
        StoreEvent::Delete(subnet) => format!("delete {}", subnet.to_key()),
        StoreEvent::Unreadable { name, .. } => format!("unreadable {name}"),
        other => format!("{other:?}"),
    }
}

struct Watched(Follower);

impl Watched {
    /// A follower that has listed this at revision 10.
    fn new(entries: &[Entry]) -> Self {
        let mut watched = Self(Follower::new(keys(), TTL));
        watched.list(10, entries);
        watched
    }

    fn list(&mut self, revision: i64, entries: &[Entry]) -> Vec<String> {
        self.list_at(moment(revision), entries)
    }

    fn list_at(&mut self, moment: Moment, entries: &[Entry]) -> Vec<String> {
        let entries = entries.to_vec();
        self.0
            .list(&Listing { moment, entries })
            .iter()
            .map(short)
            .collect()
    }

    fn take(&mut self, which: Which, moment: Moment, state: WatchState, changes: Vec<Change>) -> Vec<String> {
        let next = self.0.take(Message {
            which,
            moment,
            state,
            changes,
        });
        match next {
            Next::Say(events) => events.iter().map(short).collect(),
            other => vec![format!("{other:?}")],
        }
    }

    fn leases(&mut self, revision: i64, changes: Vec<Change>) -> Vec<String> {
        self.take(Which::Leases, moment(revision), WatchState::Going, changes)
    }

    fn created(&mut self, moment: Moment) -> Vec<String> {
        self.take(Which::Leases, moment, WatchState::Created, Vec::new())
    }
}

#[test]
fn the_first_listing_is_a_start_and_watches_begin_behind_it() {
    let mut watched = Watched(Follower::new(keys(), TTL));
    assert!(watched.0.must_list());
    let said = watched.list(
        10,
        &[entry("10.5.1.0-24", &value(1), 4), entry("garbage", "x", 5)],
    );
    assert_eq!(said, ["Start [10.5.1.0-24]", "unreadable garbage"]);
    assert!(!watched.0.must_list());
    assert_eq!(
        [Which::Config, Which::Leases].map(|which| watched.0.next(which)),
        [11, 11]
    );
}

#[test]
fn a_watch_resumes_behind_what_was_said_even_where_the_header_runs_ahead() {
    let mut watched = Watched::new(&[]);
    watched.leases(
        50,
        vec![put("10.5.1.0-24", &value(1), 12), delete("10.5.1.0-24", 13)],
    );
    assert_eq!(
        watched.0.next(Which::Leases),
        14,
        "more of what lies before 50 is to come"
    );
    assert_eq!(
        watched.0.next(Which::Config),
        11,
        "the other watch has said nothing"
    );
    watched.leases(60, Vec::new());
    assert_eq!(
        watched.0.next(Which::Leases),
        61,
        "a notice without changes says that there were none"
    );
}

#[test]
fn compaction_leads_to_a_listing_and_its_revision_counts_for_nothing() {
    let mut watched = Watched::new(&[entry("10.5.1.0-24", &value(1), 4)]);
    let none = Moment {
        cluster: 0,
        term: 0,
        revision: 0,
    };
    assert_eq!(
        watched.take(Which::Leases, none, WatchState::Compacted, Vec::new()),
        ["List"]
    );
    assert!(watched.0.must_list());
    assert_eq!(watched.list(30, &[]), ["Missed []"]);
}

#[test]
fn a_history_that_went_back_or_is_anothers_is_listed_anew_and_said_to_be_lost() {
    let earlier = moment(9);
    let other = Moment {
        cluster: 9,
        ..moment(90)
    };
    let younger = Moment {
        term: 1,
        ..moment(90)
    };
    for begun in [earlier, other, younger] {
        let mut watched = Watched::new(&[entry("10.5.1.0-24", &value(1), 4)]);
        assert_eq!(watched.created(begun), ["List"]);
        assert_eq!(watched.list_at(begun, &[]), ["HistoryLost []"]);
    }
}

#[test]
fn a_server_that_merely_lags_is_no_lost_history() {
    let mut watched = Watched::new(&[]);
    watched.leases(20, Vec::new());
    assert_eq!(watched.created(moment(19)), ["List"]);
    assert_eq!(watched.list(20, &[]), ["Missed []"]);
    assert!(watched.created(moment(20)).is_empty());
}

#[test]
fn a_config_may_come_from_elsewhere_only_while_the_network_has_never_been_in_use() {
    let missing = || ConfigText::Missing("nowhere".to_owned());
    let mut fresh = Watched::new(&[]).0;
    fresh.note_config(missing());
    assert!(fresh.may_import());
    fresh.note_config(ConfigText::Text(CONFIG.as_bytes().to_vec()));
    assert!(!fresh.may_import(), "there is one");
    fresh.note_config(missing());
    assert!(!fresh.may_import(), "there was one");

    let mut held = Watched::new(&[]);
    held.0.note_config(missing());
    held.leases(11, vec![put("10.5.1.0-24", &value(1), 11)]);
    held.leases(12, vec![delete("10.5.1.0-24", 12)]);
    assert!(!held.0.may_import(), "there was a lease");

    let mut listed = Follower::new(keys(), TTL);
    listed.note_use(&Listing {
        moment: moment(10),
        entries: vec![entry("10.5.1.0-24", &value(1), 9)],
    });
    listed.note_config(missing());
    assert!(!listed.may_import(), "there is a lease");
}

#[test]
fn a_watch_that_the_server_ends_is_over_for_its_reason() {
    let mut watched = Watched::new(&[]);
    let canceled = WatchState::Canceled("permission denied".to_owned());
    let said = watched.take(Which::Config, moment(20), canceled, Vec::new());
    assert_eq!(said, [r#"Over("permission denied")"#]);
}

#[test]
fn garbage_is_said_once_for_each_version_and_withdraws_nothing() {
    let good = entry("10.5.1.0-24", &value(1), 4);
    let mut watched = Watched::new(std::slice::from_ref(&good));
    let bad = entry("10.5.1.0-24", "x", 11);
    assert_eq!(
        watched.leases(11, vec![Change::Put(bad.clone())]),
        ["unreadable 10.5.1.0-24"]
    );
    assert_eq!(
        watched.list(12, std::slice::from_ref(&bad)),
        ["Missed [10.5.1.0-24]"],
        "it is what it was"
    );
    assert_eq!(
        watched.leases(13, vec![put("10.5.1.0-24", "y", 13)]),
        ["unreadable 10.5.1.0-24"]
    );
    assert_eq!(
        watched.leases(14, vec![delete("10.5.1.0-24", 14)]),
        ["delete 10.5.1.0-24"]
    );
    assert!(watched.leases(15, vec![delete("10.5.1.0-24", 15)]).is_empty());
    assert_eq!(
        watched
            .leases(16, vec![Change::Put(entry("10.5.1.0-24", "x", 16))])
            .len(),
        1
    );
    let lost = Moment {
        cluster: 9,
        ..moment(3)
    };
    let said = watched.list_at(lost, &[entry("10.5.1.0-24", "x", 2)]);
    assert_eq!(
        said,
        ["HistoryLost []", "unreadable 10.5.1.0-24"],
        "what was known is of another history"
    );
}

#[test]
fn a_name_is_cut_off_and_need_not_be_text() {
    let mut long = entry("", "x", 11);
    long.key.extend([0xff; 300]);
    let mut watched = Watched::new(&[]);
    let said = watched.leases(11, vec![Change::Put(long)]);
    assert_eq!(
        said,
        [format!("unreadable {}", "\u{fffd}".repeat(MAX_NAME_CHARS))]
    );
}

#[test]
fn the_config_is_said_when_it_changes() {
    let mut watched = Watched::new(&[]);
    let mut note = |config: ConfigText| watched.0.note_config(config).as_ref().map(short);
    let text = |text: &str| ConfigText::Text(text.as_bytes().to_vec());
    assert_eq!(note(text(CONFIG)).as_deref(), Some("config"));
    assert_eq!(note(text(CONFIG)), None);
    assert!(note(text("garbage")).is_some_and(|said| said.contains("not a JSON object")));
    assert!(note(ConfigText::Text(vec![0xff])).is_some_and(|said| said.contains("/net/config in etcd")));
    assert!(note(ConfigText::Missing("there".to_owned())).is_some_and(|said| said.contains("at there")));
    assert_eq!(note(ConfigText::Missing("there".to_owned())), None);
}

#[test]
fn of_several_changes_of_the_config_in_one_message_the_last_counts() {
    let mut watched = Watched::new(&[]);
    let config = |value: &str, modified| {
        Change::Put(Entry {
            key: b"/net/config".to_vec(),
            ..entry("", value, modified)
        })
    };
    let gone = || Change::Delete {
        key: b"/net/config".to_vec(),
        revision: 13,
    };
    let mut take = |changes| watched.take(Which::Config, moment(13), WatchState::Going, changes);
    assert_eq!(take(vec![config("garbage", 11), config(CONFIG, 12)]), ["config"]);
    assert_eq!(take(vec![config("garbage", 12), gone()]), ["ConfigGone"]);
    assert_eq!(watched.0.next(Which::Config), 14);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_may_be_ones_own_is_to_be_renewed_soon_and_one_without_an_end_never() {
    let now = tokio::time::Instant::now();
    let mut reserved = entry("10.5.1.0-24", &value(1), 4);
    reserved.grant = 0;
    assert_eq!(reserved.lease(&keys(), TTL).unwrap().expires, None);
    let leased = entry("10.5.1.0-24", &value(1), 4);
    for (ttl, life) in [(24 * 3600, 10), (60, 10), (4, 1)] {
        let lease = leased.lease(&keys(), Duration::from_secs(ttl)).unwrap();
        assert_eq!(lease.expires, Some(now + Duration::from_secs(life)), "{ttl}");
    }
}

/// A server that remembers its history, and what a reader makes of the events.
#[derive(Default)]
struct Server {
    revision: i64,
    compacted: i64,
    history: Vec<Change>,
    entries: BTreeMap<Vec<u8>, Entry>,
}

impl Server {
    fn change(&mut self, host: u8, kind: u8) {
        self.revision += 1;
        let key = format!("/net/subnets/10.5.{host}.0-24").into_bytes();
        let change = if kind == 0 {
            self.entries.remove(&key);
            Change::Delete {
                key,
                revision: self.revision,
            }
        } else {
            let text = if kind == 1 {
                "garbage".to_owned()
            } else {
                value(kind)
            };
            let new = Entry {
                key: key.clone(),
                ..entry("", &text, self.revision)
            };
            self.entries.insert(key, new.clone());
            Change::Put(new)
        };
        self.history.push(change);
    }

    fn since(&self, revision: i64, count: usize) -> Vec<Change> {
        let later = self.history.iter().filter(|change| change.revision() >= revision);
        later.take(count).cloned().collect()
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_events_add_up_to_what_the_server_has(
        steps in proptest::collection::vec((0u8..8, 0u8..5, 0u8..6), 1..120),
    ) {
        let mut server = Server::default();
        let mut follower = Follower::new(keys(), TTL);
        let mut read: BTreeMap<SubnetKey, u64> = BTreeMap::new();
        let mut apply = |events: Vec<StoreEvent>| for event in events {
            match event {
                StoreEvent::Snapshot { leases, .. } => {
                    read = leases.iter().map(|lease| (lease.subnet, lease.token.revision)).collect();
                }
                StoreEvent::Put(lease) => drop(read.insert(lease.subnet, lease.token.revision)),
                StoreEvent::Delete(subnet) => drop(read.remove(&subnet)),
                _ => {}
            }
        };
        let catch_up = |server: &Server, follower: &mut Follower, count| {
            let compacted = follower.next(Which::Leases) <= server.compacted;
            let changes = server.since(follower.next(Which::Leases), count);
            let next = follower.take(Message {
                which: Which::Leases,
                moment: moment(server.revision),
                state: if compacted { WatchState::Compacted } else { WatchState::Going },
                changes,
            });
            match next {
                Next::Say(events) => events,
                _ => follower.list(&Listing {
                    moment: moment(server.revision),
                    entries: server.entries.values().cloned().collect(),
                }),
            }
        };
        for (host, kind, what) in steps {
            match what {
                0..3 => server.change(host, kind),
                3 => server.compacted = server.revision,
                4 => apply(vec![follower.snapshot(Gap::Missed)]),
                _ => apply(catch_up(&server, &mut follower, usize::from(kind) + 1)),
            }
        }
        while follower.must_list() || follower.next(Which::Leases) <= server.revision {
            apply(catch_up(&server, &mut follower, 3));
        }
        for (key, entry) in &server.entries {
            let subnet = follower.subnet(key).unwrap();
            if entry.attrs().is_ok() {
                prop_assert_eq!(read.remove(&subnet), Some(entry.modified.unsigned_abs()));
            } else {
                read.remove(&subnet);
            }
        }
        prop_assert!(read.is_empty(), "{:?} is not there any more", read);
    }
}
