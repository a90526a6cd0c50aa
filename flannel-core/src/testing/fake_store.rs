//! A store in memory: one server, and clients that can be cut off from it.

pub(super) mod delay;
mod server;
mod watch;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};
use tokio::sync::Notify;
use tokio::time::Instant;

use self::delay::pass;
use self::server::{Entry, State};
use self::watch::Watch;
use crate::{Lease, LeaseAttrs, NodeId, StoreError, StoreEvent, SubnetKey, SubnetStore};

/// How long a watch waits, once its client is cut off, before it says
/// [`Silent`](StoreEvent::Silent).
pub const SILENT_AFTER: Duration = Duration::from_secs(10);

/// A store in memory that behaves as etcd would if it never failed, until a test makes it fail.
/// A clone is the same server; each host gets a [`FakeStore::client`] of its own.
///
/// Every write is a new revision, and a lease's [`Token`](crate::Token) is the revision of its
/// value and the grant that keeps it alive. Each claim makes a grant, unless the lease has no
/// expiry; [`keep`](SubnetStore::keep) knows its own lease by the grant, so that a write whose reply
/// was lost does not make it another's. Leases expire on time, whether or not anybody asks. An entry
/// that becomes unreadable is no deletion, but is missing from snapshots.
///
/// Watches read a history of bounded length. One that is cut off says so after [`SILENT_AFTER`];
/// when it is healed there come the events that it missed, in order, or a snapshot, where the
/// history does not go back so far or nothing was missed.
///
/// ```
/// use std::time::Duration;
///
/// use flannel_core::testing::FakeStore;
/// use flannel_core::{LeaseAttrs, SubnetStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), flannel_core::StoreError> {
/// let store = FakeStore::new(Duration::from_secs(60));
/// store.put_config(Some(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#));
/// let (one, other) = (store.client(), store.client());
/// let subnet = "10.5.1.0/24".parse().unwrap();
/// let lease = one.claim(subnet, None, &LeaseAttrs::default()).await?;
/// assert!(other.claim(subnet, None, &LeaseAttrs::default()).await.is_err());
///
/// store.expire(subnet);
/// assert!(one.keep(&lease, &lease.attrs).await.is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct FakeStore(Arc<Server>);

/// One host's connection to a [`FakeStore`]. A clone is the same connection.
#[derive(Clone)]
pub struct FakeStoreClient {
    server: Arc<Server>,
    number: usize,
}

struct Server {
    state: Mutex<State>,
    /// Not a `tokio::sync::watch`, which wakes in an order that no seed determines.
    wake: Notify,
}

/// What happens to the requests of a client that is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// They wait until the client is healed: packets are dropped.
    Hangs,
    /// They fail with [`StoreError::Unavailable`]: the connection is refused.
    Refuses,
}

/// How a request fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// With [`StoreError::Unavailable`].
    Unavailable,
    /// With [`StoreError::Denied`].
    Denied,
}

/// A subnet changed hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handover {
    /// When.
    pub at: Instant,
    /// Which subnet.
    pub subnet: SubnetKey,
    /// Who holds it from then on.
    pub to: Holder,
}

/// Who holds a subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// It is free.
    Nobody,
    /// The node of this id.
    Node(NodeId),
    /// Somebody without an id: flannel, an operator, or a value that cannot be read.
    Unnamed,
}

/// The contents of a store at one time.
#[derive(Clone)]
pub struct Saved {
    entries: BTreeMap<String, Entry>,
    config: Option<String>,
    revision: u64,
}

impl FakeStore {
    /// An empty store, without a config, whose leases live for `ttl` unless renewed.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        let state = State {
            ttl,
            ..State::default()
        };
        Self(Arc::new(Server {
            state: Mutex::new(state),
            wake: Notify::new(),
        }))
    }

    /// A connection that can be cut on its own.
    #[must_use]
    pub fn client(&self) -> FakeStoreClient {
        FakeStoreClient {
            server: Arc::clone(&self.0),
            number: self.0.change(|state, _| state.connect()),
        }
    }

    /// Lets every request take a while before and after it takes effect, and every event until it
    /// arrives: from nothing to `longest`, in whole milliseconds of tokio's clock, drawn by the
    /// seed for each client.
    pub fn set_latency(&self, longest: Duration, seed: u64) {
        self.0.change(|state, _| state.set_latency(longest, seed));
    }

    /// Writes the network config, or removes it.
    pub fn put_config(&self, json: Option<&str>) {
        self.0.change(|state, _| state.put_config(json));
    }

    /// Writes an entry without expiry, as an operator would; nothing is checked.
    pub fn put_raw(&self, key: &str, value: &str) {
        self.0.change(|state, now| state.put_raw(now, key, value));
    }

    /// Removes an entry.
    pub fn delete_raw(&self, key: &str) {
        self.0.change(|state, now| state.write(now, key, None));
    }

    /// Ends a lease now, as if its time had come.
    pub fn expire(&self, subnet: SubnetKey) {
        self.delete_raw(&subnet.to_key());
    }

    /// Forgets the history: a watch that has not read all of it gets a snapshot.
    pub fn compact(&self) {
        self.0.change(|state, _| state.compact());
    }

    /// What the store holds now, for [`FakeStore::restore`].
    #[must_use]
    pub fn save(&self) -> Saved {
        self.0.change(|state, _| Saved {
            entries: state.entries.clone(),
            config: state.config.clone(),
            revision: state.revision,
        })
    }

    /// Goes back to what was saved, as etcd does from a backup: the revision goes back, the history
    /// is another one, and leases have their full time before them.
    pub fn restore(&self, saved: &Saved) {
        self.0.change(|state, now| {
            state.config.clone_from(&saved.config);
            state.replace(now, saved.entries.clone(), saved.revision);
        });
    }

    /// Loses everything but the config.
    pub fn wipe(&self) {
        self.0.change(|state, now| state.replace(now, BTreeMap::new(), 1));
    }

    /// The leases that can be read, ordered by their keys.
    #[must_use]
    pub fn leases(&self) -> Vec<Lease> {
        self.0.change(|state, _| {
            let leases = state
                .entries
                .iter()
                .filter_map(|(key, entry)| entry.lease(key).ok());
            leases.collect()
        })
    }

    /// How many values clients have written.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.0.change(|state, _| state.writes)
    }

    /// How often clients have renewed a lease.
    #[must_use]
    pub fn renewals(&self) -> u64 {
        self.0.change(|state, _| state.renewals)
    }

    /// Who has held which subnet, from the beginning.
    #[must_use]
    pub fn handovers(&self) -> Vec<Handover> {
        self.0.change(|state, _| state.handovers.clone())
    }

    /// The first time at which two subnets that share an address were held, and which.
    #[must_use]
    pub fn first_overlap(&self) -> Option<(Instant, SubnetKey, SubnetKey)> {
        let mut held: Vec<SubnetKey> = Vec::new();
        for Handover { at, subnet, to } in self.handovers() {
            held.retain(|other| *other != subnet);
            if to != Holder::Nobody {
                if let Some(other) = held.iter().find(|other| other.overlaps(&subnet)) {
                    return Some((at, *other, subnet));
                }
                held.push(subnet);
            }
        }
        None
    }
}

impl FakeStoreClient {
    /// Cuts the client off. Its watches hear nothing; what its requests do, `cut` says. One that is
    /// on its way when this happens may have taken effect.
    pub fn cut(&self, cut: Cut) {
        self.server.change(|state, now| {
            let since = state.clients[self.number].cut.map_or(now, |(_, since)| since);
            state.clients[self.number].cut = Some((cut, since));
            state.stamp += 1;
        });
    }

    /// Connects the client again.
    pub fn heal(&self) {
        self.server.change(|state, _| {
            state.clients[self.number].cut = None;
            state.stamp += 1;
        });
    }

    /// Fails the next `times` requests of this client, without effect.
    pub fn fail_next(&self, times: u32, failure: Failure) {
        self.server
            .change(|state, _| state.clients[self.number].failing = Some((times, failure)));
    }

    /// Loses the replies to the next `times` requests of this client: they take effect, and end
    /// with [`StoreError::Unavailable`].
    pub fn lose_replies(&self, times: u32) {
        self.server
            .change(|state, _| state.clients[self.number].lost_replies = times);
    }

    async fn request<T>(
        &self,
        doing: &str,
        effect: impl FnOnce(&mut State, Instant) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.travel(doing).await?;
        let (outcome, lost) = self.server.change(|state, now| {
            let client = &mut state.clients[self.number];
            if let Some((times, failure)) = client.failing.filter(|(times, _)| *times > 0) {
                client.failing = Some((times - 1, failure));
                return (Err(failed(failure, doing)), false);
            }
            let lost = client.lost_replies > 0;
            client.lost_replies = client.lost_replies.saturating_sub(1);
            (effect(state, now), lost)
        });
        self.travel(doing).await?;
        match lost {
            true => Err(unavailable(doing, "the connection was reset")),
            false => outcome,
        }
    }

    /// One way of a request.
    async fn travel(&self, doing: &str) -> Result<(), StoreError> {
        pass(
            self.server
                .change(|state, _| state.clients[self.number].delay.next()),
        )
        .await;
        loop {
            let changed = self.server.wake.notified();
            match self.server.change(|state, _| state.clients[self.number].cut) {
                None => return Ok(()),
                Some((Cut::Refuses, _)) => return Err(unavailable(doing, "the connection was refused")),
                Some((Cut::Hangs, _)) => changed.await,
            }
        }
    }
}

#[async_trait]
impl SubnetStore for FakeStoreClient {
    async fn watch(&self) -> Result<BoxStream<'static, StoreEvent>, StoreError> {
        let watch = Watch::new(Arc::clone(&self.server), self.number);
        Ok(stream::unfold(watch, Watch::next).boxed())
    }

    async fn claim(
        &self,
        subnet: SubnetKey,
        seen: Option<&Lease>,
        attrs: &LeaseAttrs,
    ) -> Result<Lease, StoreError> {
        self.request("claim a lease", |state, now| {
            state.claim(now, subnet, seen, attrs)
        })
        .await
    }

    async fn keep(&self, own: &Lease, attrs: &LeaseAttrs) -> Result<Lease, StoreError> {
        self.request("renew the lease", |state, now| state.keep(now, own, attrs))
            .await
    }

    async fn release(&self, own: &Lease) -> Result<(), StoreError> {
        self.request("release the lease", |state, now| {
            state.release(now, own);
            Ok(())
        })
        .await
    }
}

impl Server {
    /// Looks at the state, or changes it, with every lease ended that is due; wakes whoever waits.
    fn change<T>(&self, change: impl FnOnce(&mut State, Instant) -> T) -> T {
        let mut state = self.lock();
        let (now, stamp) = (Instant::now(), state.stamp);
        state.expire(now);
        let result = change(&mut state, now);
        if state.stamp != stamp {
            self.wake.notify_waiters();
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the lock was held")
    }
}

fn failed(failure: Failure, doing: &str) -> StoreError {
    match failure {
        Failure::Unavailable => unavailable(doing, "the server is busy"),
        Failure::Denied => StoreError::Denied {
            doing: doing.to_owned(),
            source: "permission denied".into(),
        },
    }
}

fn unavailable(doing: &str, why: &str) -> StoreError {
    StoreError::Unavailable {
        doing: doing.to_owned(),
        source: why.into(),
    }
}

#[cfg(test)]
#[path = "fake_store/tests.rs"]
mod tests;
