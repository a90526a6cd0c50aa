//! What a watch knows, and what it has to say about what it hears. Pure: answers of etcd's go in,
//! events and decisions come out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flannel_core::{ConfigError, Gap, Lease, NetworkConfig, StoreEvent, SubnetKey};

use crate::entry::{Entry, Moment};
use crate::keys::Keys;

/// A name that events carry is no longer than this.
const MAX_NAME_CHARS: usize = 100;

/// Everything below the prefix at one revision.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) moment: Moment,
    pub(crate) entries: Vec<Entry>,
}

/// What one of the two watches is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Config,
    Leases,
}

/// What a watch says.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) which: Which,
    pub(crate) moment: Moment,
    pub(crate) state: WatchState,
    pub(crate) changes: Vec<Change>,
}

/// What a watch says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WatchState {
    /// It begins.
    Created,
    Going,
    /// It ends: the revisions from which it was to begin are gone.
    Compacted,
    /// It ends for another reason.
    Canceled(String),
}

/// What happened to a key.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Put(Entry),
    Delete { key: Vec<u8>, revision: i64 },
}

/// The config as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConfigText {
    Text(Vec<u8>),
    /// None; and where it was looked for.
    Missing(String),
    /// None; and where there is one that may not be taken over, for a reason.
    Elsewhere {
        place: String,
        reason: String,
    },
}

/// What follows from a message.
#[derive(Debug)]
pub(crate) enum Next {
    Say(Vec<StoreEvent>),
    /// The config was removed: say so, when it is known where else it may be.
    ConfigGone,
    /// Only a new listing tells how things are.
    List,
    /// This watch is over.
    Over(String),
}

/// The state of a watch.
#[derive(Debug)]
pub(crate) struct Follower {
    keys: Keys,
    ttl: Duration,
    /// The latest point of the history that was seen.
    seen: Option<Moment>,
    /// The first revisions that were not heard of, by watch.
    next: [i64; 2],
    /// Whether what is known is out of date beyond what a watch can tell.
    must_list: bool,
    config: Option<ConfigText>,
    /// Whether a config or a lease has been seen.
    in_use: bool,
    /// What was last readable under each key. It stays when a key cannot be read any more: a slip of
    /// an editor must not cut off a host.
    leases: BTreeMap<SubnetKey, Lease>,
    /// The keys that were said to be unreadable, each with the revision of its value.
    complaints: BTreeMap<Vec<u8>, i64>,
}

impl Follower {
    pub(crate) const fn new(keys: Keys, ttl: Duration) -> Self {
        Self {
            keys,
            ttl,
            seen: None,
            next: [0; 2],
            must_list: true,
            config: None,
            in_use: false,
            leases: BTreeMap::new(),
            complaints: BTreeMap::new(),
        }
    }

    pub(crate) const fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(crate) const fn must_list(&self) -> bool {
        self.must_list
    }

    /// Whether a config may be taken over from elsewhere: the network has never been in use. One that is has
    /// had a config, and an older one would make another network of it.
    pub(crate) const fn may_import(&self) -> bool {
        !self.in_use
    }

    /// Takes note of a listing before it is taken in: whether there is something to be lost.
    pub(crate) const fn note_use(&mut self, listing: &Listing) {
        self.in_use |= !listing.entries.is_empty();
    }

    /// The revision from which a watch has to begin.
    pub(crate) const fn next(&self, which: Which) -> i64 {
        self.next[which as usize]
    }

    /// Takes in how everything is, the config apart, which is noted before.
    pub(crate) fn list(&mut self, listing: &Listing) -> Vec<StoreEvent> {
        let gap = match &self.seen {
            None => Gap::Start,
            Some(seen) if listing.moment.follows(seen) => Gap::Missed,
            Some(_) => Gap::HistoryLost,
        };
        self.seen = Some(listing.moment);
        self.next = [listing.moment.revision + 1; 2];
        self.must_list = false;
        let mut leases = std::mem::take(&mut self.leases);
        let mut complaints = std::mem::take(&mut self.complaints);
        if gap != Gap::Missed {
            (leases, complaints) = Default::default();
        }
        let mut said = Vec::new();
        for entry in &listing.entries {
            match entry.lease(&self.keys, self.ttl) {
                Ok(lease) => drop(self.leases.insert(lease.subnet, lease)),
                Err(reason) => {
                    let known = self.subnet(&entry.key).and_then(|subnet| leases.remove(&subnet));
                    self.leases.extend(known.map(|known| (known.subnet, known)));
                    self.complaints.extend(complaints.remove_entry(&entry.key));
                    said.extend(self.complain(entry, reason));
                }
            }
        }
        said.insert(0, self.snapshot(gap));
        said
    }

    /// Every lease, as far as it is known.
    pub(crate) fn snapshot(&self, gap: Gap) -> StoreEvent {
        StoreEvent::Snapshot {
            leases: self.leases.values().cloned().collect(),
            gap,
        }
    }

    /// Takes in what a watch says.
    pub(crate) fn take(&mut self, message: Message) -> Next {
        match message.state {
            WatchState::Compacted => {
                self.must_list = true;
                return Next::List;
            }
            WatchState::Canceled(reason) => return Next::Over(reason),
            // Of a history that went back nothing would ever be heard.
            WatchState::Created => {
                if self.seen.is_some_and(|seen| !message.moment.follows(&seen)) {
                    self.must_list = true;
                    return Next::List;
                }
                return Next::Say(Vec::new());
            }
            WatchState::Going => {}
        }
        let at = &mut self.next[message.which as usize];
        // Of a watch that catches up the header runs ahead of what has been said.
        *at = match message.changes.last() {
            Some(change) => change.revision() + 1,
            None => (message.moment.revision + 1).max(*at),
        };
        if let Some(seen) = &mut self.seen {
            seen.advance(message.moment);
        }
        match message.which {
            Which::Config => match message.changes.into_iter().next_back() {
                None => Next::Say(Vec::new()),
                Some(Change::Put(entry)) => Next::Say(
                    self.note_config(ConfigText::Text(entry.value))
                        .into_iter()
                        .collect(),
                ),
                Some(Change::Delete { .. }) => Next::ConfigGone,
            },
            Which::Leases => Next::Say(
                message
                    .changes
                    .into_iter()
                    .filter_map(|change| self.change(change))
                    .collect(),
            ),
        }
    }

    /// Takes in what stands in the config's place, and says it if it is not what stood there before.
    pub(crate) fn note_config(&mut self, config: ConfigText) -> Option<StoreEvent> {
        if self.config.as_ref() == Some(&config) {
            return None;
        }
        let key = &self.keys.config;
        let parsed = match &config {
            ConfigText::Text(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => NetworkConfig::from_json(text),
                Err(error) => Err(ConfigError::Unreadable {
                    place: format!("{key} in etcd"),
                    reason: format!("it is not JSON: {error}"),
                }),
            },
            ConfigText::Missing(place) => Err(ConfigError::Missing { place: place.clone() }),
            ConfigText::Elsewhere { place, reason } => Err(ConfigError::Unreadable {
                place: place.clone(),
                reason: reason.clone(),
            }),
        };
        self.in_use |= matches!(config, ConfigText::Text(_));
        self.config = Some(config);
        Some(StoreEvent::Config(parsed.map(Arc::new).map_err(Arc::new)))
    }

    fn change(&mut self, change: Change) -> Option<StoreEvent> {
        match change {
            Change::Put(entry) => match entry.lease(&self.keys, self.ttl) {
                Ok(lease) => {
                    self.complaints.remove(&entry.key);
                    self.in_use = true;
                    self.leases.insert(lease.subnet, lease.clone());
                    Some(StoreEvent::Put(lease))
                }
                Err(reason) => self.complain(&entry, reason),
            },
            Change::Delete { key, .. } => {
                self.complaints.remove(&key);
                let subnet = self.subnet(&key)?;
                self.leases.remove(&subnet)?;
                Some(StoreEvent::Delete(subnet))
            }
        }
    }

    fn subnet(&self, key: &[u8]) -> Option<SubnetKey> {
        SubnetKey::from_key(&self.keys.name(key)).ok()
    }

    /// What is wrong with an entry, unless that was said of this version before.
    fn complain(&mut self, entry: &Entry, reason: String) -> Option<StoreEvent> {
        let news = self.complaints.insert(entry.key.clone(), entry.modified) != Some(entry.modified);
        news.then(|| StoreEvent::Unreadable {
            name: self.keys.name(&entry.key).chars().take(MAX_NAME_CHARS).collect(),
            reason,
        })
    }
}

impl Change {
    const fn revision(&self) -> i64 {
        match self {
            Self::Put(entry) => entry.modified,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

#[cfg(test)]
#[path = "follower_tests.rs"]
mod tests;
