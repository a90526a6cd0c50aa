//! What the server holds, and what each request does to it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::delay::Delay;
use super::{Cut, Failure, Handover, Holder};
use crate::challenge::challenged;
use crate::choose::mix;
use crate::{Lease, LeaseAttrs, StoreError, SubnetKey, Token};

/// How many changes the server remembers: a watch that is further behind has missed some.
pub(super) const HISTORY: usize = 1024;

/// How many handovers the log holds; a test that makes more than that is too long.
const LOG_LIMIT: usize = 1 << 20;

/// The state of the server and of its clients' connections.
#[derive(Default)]
pub(super) struct State {
    pub(super) ttl: Duration,
    /// Differs whenever there is something to wake up for.
    pub(super) stamp: u64,
    /// Differs when the history is another one.
    pub(super) epoch: u64,
    pub(super) revision: u64,
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) config: Option<String>,
    pub(super) history: VecDeque<Change>,
    /// The last revision that the history lacks.
    pub(super) compacted: u64,
    pub(super) clients: Vec<Client>,
    pub(super) latency: (Duration, u64),
    pub(super) writes: u64,
    pub(super) renewals: u64,
    pub(super) handovers: Vec<Handover>,
    pub(super) last_grant: i64,
}

/// A key's value.
#[derive(Clone)]
pub(super) struct Entry {
    value: String,
    created: u64,
    pub(super) token: Token,
    expires: Option<Instant>,
}

/// One revision.
pub(super) struct Change {
    pub(super) revision: u64,
    pub(super) what: What,
}

/// What a revision changed.
pub(super) enum What {
    Config,
    Entry(String, Option<Entry>),
}

/// One client's connection.
#[derive(Default)]
pub(super) struct Client {
    /// How it is cut, and since when.
    pub(super) cut: Option<(Cut, Instant)>,
    pub(super) failing: Option<(u32, Failure)>,
    pub(super) lost_replies: u32,
    pub(super) delay: Delay,
}

impl Entry {
    /// The lease, or why there is none to be read.
    pub(super) fn lease(&self, key: &str) -> Result<Lease, String> {
        Ok(Lease {
            subnet: SubnetKey::from_key(key).map_err(|error| error.to_string())?,
            attrs: LeaseAttrs::from_json(&self.value).map_err(|error| error.to_string())?,
            expires: self.expires,
            created: self.created,
            token: self.token,
        })
    }

    /// Whoever has challenged a lease does not hold it yet.
    fn holder(&self) -> Holder {
        let attrs = LeaseAttrs::from_json(&self.value).ok();
        attrs
            .and_then(|attrs| challenged(&attrs).or(attrs.node))
            .map_or(Holder::Unnamed, Holder::Node)
    }
}

impl State {
    /// Another client, and its number.
    pub(super) fn connect(&mut self) -> usize {
        self.clients.push(Client::default());
        self.set_latency(self.latency.0, self.latency.1);
        self.clients.len() - 1
    }

    pub(super) fn set_latency(&mut self, longest: Duration, seed: u64) {
        self.latency = (longest, seed);
        for (client, number) in self.clients.iter_mut().zip(0..) {
            client.delay = Delay::new(longest, mix(seed) ^ number);
        }
    }

    /// Ends what is due, each lease at its own time.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((at, key)) = self.next_expiry().filter(|(at, _)| *at <= now) {
            let key = key.to_owned();
            self.write(at, &key, None);
        }
    }

    /// Which lease ends next, and when.
    pub(super) fn next_expiry(&self) -> Option<(Instant, &str)> {
        let ends = self
            .entries
            .iter()
            .filter_map(|(key, entry)| Some((entry.expires?, key.as_str())));
        ends.min()
    }

    pub(super) fn claim(
        &mut self,
        now: Instant,
        subnet: SubnetKey,
        seen: Option<&Lease>,
        attrs: &LeaseAttrs,
    ) -> Result<Lease, StoreError> {
        let key = subnet.to_key();
        let stands = self.entries.get(&key);
        if stands.map(|entry| entry.token) != seen.map(|lease| lease.token) {
            return Err(StoreError::Taken { subnet });
        }
        let (grant, expires) = match stands {
            Some(entry) if entry.expires.is_none() => (0, None),
            _ => (self.new_grant(), Some(now + self.ttl)),
        };
        Ok(self.publish(now, subnet, attrs, grant, expires))
    }

    pub(super) fn keep(
        &mut self,
        now: Instant,
        own: &Lease,
        attrs: &LeaseAttrs,
    ) -> Result<Lease, StoreError> {
        let (subnet, key) = (own.subnet, own.subnet.to_key());
        // A grant is one holder's for ever, even where the reply to its last write was lost.
        let entry = self.entries.get_mut(&key).filter(|entry| match own.token.grant {
            0 => entry.token == own.token,
            grant => entry.token.grant == grant,
        });
        let entry = entry.ok_or(StoreError::LeaseLost { subnet })?;
        if let Some(expires) = &mut entry.expires {
            *expires = now + self.ttl;
            self.renewals += 1;
        }
        match entry.lease(&key) {
            Ok(lease) if lease.attrs == *attrs => Ok(lease),
            _ => {
                let (grant, expires) = (entry.token.grant, entry.expires);
                Ok(self.publish(now, subnet, attrs, grant, expires))
            }
        }
    }

    pub(super) fn release(&mut self, now: Instant, own: &Lease) {
        let key = own.subnet.to_key();
        if self
            .entries
            .get(&key)
            .is_some_and(|entry| entry.token == own.token)
        {
            self.write(now, &key, None);
        }
    }

    /// Writes a value past every client; a grant that was there is detached.
    pub(super) fn put_raw(&mut self, now: Instant, key: &str, value: &str) {
        self.put(now, key, value.to_owned(), 0, None);
    }

    pub(super) fn put_config(&mut self, json: Option<&str>) {
        self.config = json.map(str::to_owned);
        self.remember(What::Config);
    }

    /// Puts other contents in place of these, with another history.
    pub(super) fn replace(&mut self, now: Instant, entries: BTreeMap<String, Entry>, revision: u64) {
        // Removals first, so that the log shows no overlap that never was.
        for key in std::mem::take(&mut self.entries).into_keys() {
            let to = entries.get(&key).map_or(Holder::Nobody, Entry::holder);
            if to == Holder::Nobody {
                self.hand_over(now, &key, to);
            }
        }
        for (key, mut entry) in entries {
            entry.expires = entry.expires.map(|_| now + self.ttl);
            self.hand_over(now, &key, entry.holder());
            self.entries.insert(key, entry);
        }
        self.revision = revision;
        self.epoch += 1;
        self.compact();
        self.stamp += 1;
    }

    pub(super) fn compact(&mut self) {
        self.history.clear();
        self.compacted = self.revision;
    }

    /// Removes an entry, or puts it.
    pub(super) fn write(&mut self, at: Instant, key: &str, entry: Option<Entry>) {
        let holder = entry.as_ref().map_or(Holder::Nobody, Entry::holder);
        match entry.clone() {
            Some(entry) => drop(self.entries.insert(key.to_owned(), entry)),
            None if self.entries.remove(key).is_none() => return,
            None => {}
        }
        self.hand_over(at, key, holder);
        self.remember(What::Entry(key.to_owned(), entry));
    }

    fn publish(
        &mut self,
        now: Instant,
        subnet: SubnetKey,
        attrs: &LeaseAttrs,
        grant: i64,
        expires: Option<Instant>,
    ) -> Lease {
        self.writes += 1;
        let (created, token) = self.put(now, &subnet.to_key(), attrs.to_json(), grant, expires);
        Lease {
            subnet,
            attrs: attrs.clone(),
            expires,
            created,
            token,
        }
    }

    fn put(
        &mut self,
        now: Instant,
        key: &str,
        value: String,
        grant: i64,
        expires: Option<Instant>,
    ) -> (u64, Token) {
        let revision = self.revision + 1;
        let token = Token { revision, grant };
        let created = self.entries.get(key).map_or(revision, |entry| entry.created);
        let entry = Entry {
            value,
            created,
            token,
            expires,
        };
        self.write(now, key, Some(entry));
        (created, token)
    }

    const fn new_grant(&mut self) -> i64 {
        self.last_grant += 1;
        self.last_grant
    }

    fn remember(&mut self, what: What) {
        self.revision += 1;
        self.stamp += 1;
        let revision = self.revision;
        self.history.push_back(Change { revision, what });
        if self.history.len() > HISTORY
            && let Some(forgotten) = self.history.pop_front()
        {
            self.compacted = forgotten.revision;
        }
    }

    fn hand_over(&mut self, at: Instant, key: &str, to: Holder) {
        let Ok(subnet) = SubnetKey::from_key(key) else {
            return;
        };
        let last = self
            .handovers
            .iter()
            .rev()
            .find(|handover| handover.subnet == subnet);
        if last.map_or(Holder::Nobody, |last| last.to) != to {
            assert!(self.handovers.len() < LOG_LIMIT, "too many handovers to remember");
            self.handovers.push(Handover { at, subnet, to });
        }
    }
}
