//! One watch: a place in the server's history. It takes what lies ahead, and so needs no queue.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Server;
use super::delay::pass;
use super::server::{Entry, State, What};
use crate::{ConfigError, Gap, NetworkConfig, StoreEvent, SubnetKey};

/// How much of an entry's name is said when it cannot be read, in characters.
const LONGEST_NAME: usize = 100;

pub(super) struct Watch {
    server: Arc<Server>,
    client: usize,
    /// What of which history has been taken.
    place: Option<Place>,
    /// The config that was said last.
    config: Option<Option<String>>,
    /// What was said to be unreadable, and in which version.
    unreadable: BTreeMap<String, u64>,
    /// The beginning of the cut of which the reader knows.
    silent: Option<Instant>,
    ready: VecDeque<StoreEvent>,
}

#[derive(Clone, Copy)]
struct Place {
    epoch: u64,
    revision: u64,
}

enum Next {
    /// There is something to take; it arrives after this time.
    Take(Duration),
    Again,
    Wait(Option<Instant>),
}

impl Watch {
    pub(super) fn new(server: Arc<Server>, client: usize) -> Self {
        Self {
            server,
            client,
            place: None,
            config: None,
            unreadable: BTreeMap::new(),
            silent: None,
            ready: VecDeque::new(),
        }
    }

    pub(super) async fn next(mut self) -> Option<(StoreEvent, Self)> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some((event, self));
            }
            let server = Arc::clone(&self.server);
            // Before the look, so that no change falls between the look and the wait.
            let changed = server.wake.notified();
            match self.look() {
                Next::Again => {}
                Next::Take(delay) => {
                    pass(delay).await;
                    server.change(|state, _| self.take(state));
                }
                // Either way there may be something new to see.
                Next::Wait(Some(at)) => drop(timeout_at(at, changed).await),
                Next::Wait(None) => changed.await,
            }
        }
    }

    fn look(&mut self) -> Next {
        let server = Arc::clone(&self.server);
        server.change(|state, now| {
            if let Some((_, since)) = state.clients[self.client].cut {
                let silent = since + super::SILENT_AFTER;
                return match self.silent {
                    Some(known) if known == since => Next::Wait(None),
                    _ if now < silent => Next::Wait(Some(silent)),
                    _ => {
                        self.silent = Some(since);
                        self.ready.push_back(StoreEvent::Silent {
                            since,
                            reason: "cut off".to_owned(),
                        });
                        Next::Again
                    }
                };
            }
            let there = |place: Place| (place.epoch, place.revision) == (state.epoch, state.revision);
            if self.silent.is_some() || !self.place.is_some_and(there) {
                return Next::Take(state.clients[self.client].delay.next());
            }
            Next::Wait(state.next_expiry().map(|(at, _)| at))
        })
    }

    /// Takes everything up to the server's present.
    fn take(&mut self, state: &State) {
        if state.clients[self.client].cut.is_some() {
            return;
        }
        match self.place {
            None => self.list(state, Gap::Start),
            Some(place) if place.epoch != state.epoch => {
                self.unreadable.clear();
                self.list(state, Gap::HistoryLost);
            }
            Some(place) if place.revision < state.compacted => self.list(state, Gap::Missed),
            Some(place) => {
                for change in state
                    .history
                    .iter()
                    .filter(|change| change.revision > place.revision)
                {
                    match &change.what {
                        What::Config => self.tell_config(state),
                        What::Entry(key, entry) => self.tell(key, entry.as_ref()),
                    }
                }
            }
        }
        if self.silent.take().is_some() && self.ready.is_empty() {
            // Otherwise nobody would know that the silence is over.
            self.list(state, Gap::Missed);
        }
        self.place = Some(Place {
            epoch: state.epoch,
            revision: state.revision,
        });
    }

    fn list(&mut self, state: &State, gap: Gap) {
        self.tell_config(state);
        let leases = state
            .entries
            .iter()
            .filter_map(|(key, entry)| entry.lease(key).ok());
        let leases = leases.collect();
        self.ready.push_back(StoreEvent::Snapshot { leases, gap });
        for (key, entry) in &state.entries {
            if let Err(reason) = entry.lease(key) {
                self.tell_unreadable(key, entry, reason);
            }
        }
    }

    fn tell(&mut self, key: &str, entry: Option<&Entry>) {
        match entry.map(|entry| (entry, entry.lease(key))) {
            Some((_, Ok(lease))) => self.ready.push_back(StoreEvent::Put(lease)),
            Some((entry, Err(reason))) => self.tell_unreadable(key, entry, reason),
            None => {
                self.unreadable.remove(key);
                let subnet = SubnetKey::from_key(key).ok();
                self.ready.extend(subnet.map(StoreEvent::Delete));
            }
        }
    }

    fn tell_config(&mut self, state: &State) {
        if self.config.as_ref() == Some(&state.config) {
            return;
        }
        self.config = Some(state.config.clone());
        let config = match &state.config {
            Some(json) => NetworkConfig::from_json(json),
            None => Err(ConfigError::Missing {
                place: "the store in memory".to_owned(),
            }),
        };
        self.ready
            .push_back(StoreEvent::Config(config.map(Arc::new).map_err(Arc::new)));
    }

    fn tell_unreadable(&mut self, key: &str, entry: &Entry, reason: String) {
        let version = entry.token.revision;
        if self.unreadable.insert(key.to_owned(), version) != Some(version) {
            let name = key.chars().take(LONGEST_NAME).collect();
            self.ready.push_back(StoreEvent::Unreadable { name, reason });
        }
    }
}
