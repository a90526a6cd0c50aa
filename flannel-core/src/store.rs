//! Stores as a trait: where the network's config and the leases are.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use thiserror::Error;
use tokio::time::Instant;

use crate::{ConfigError, Lease, LeaseAttrs, NetworkConfig, SubnetKey};

/// Where leases are kept. Whoever writes a store runs the contract suite of the `testing` feature
/// against it.
#[async_trait]
pub trait SubnetStore: Send + Sync {
    /// Config and leases: first [`StoreEvent::Config`], then [`StoreEvent::Snapshot`], then what
    /// changes. The stream heals itself: it reconnects with backoff, and ends only with the store.
    /// After a gap of any kind there is a new snapshot.
    ///
    /// # Errors
    ///
    /// [`StoreError`], when the store can never be watched as it is set up.
    async fn watch(&self) -> Result<BoxStream<'static, StoreEvent>, StoreError>;

    /// Takes a subnet. `seen` is what stood there: `None`, and nothing may stand there, or a lease,
    /// and it must still be the same version. A lease that has expired counts as nothing. The watch
    /// shows the lease soon after, unless it is gone again by then.
    ///
    /// # Errors
    ///
    /// [`StoreError::Taken`]: choose again. Others as [`StoreError`] says.
    async fn claim(
        &self,
        subnet: SubnetKey,
        seen: Option<&Lease>,
        attrs: &LeaseAttrs,
    ) -> Result<Lease, StoreError>;

    /// Renews a lease of ours; the value is written only where `attrs` differ from it, and others
    /// see an event only then. A lease without expiry stays so.
    ///
    /// # Errors
    ///
    /// [`StoreError::LeaseLost`], when it is gone, has expired or is another's: claim again.
    async fn keep(&self, own: &Lease, attrs: &LeaseAttrs) -> Result<Lease, StoreError>;

    /// Gives a lease back, if it is still the same version. One that is gone is no error.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    async fn release(&self, own: &Lease) -> Result<(), StoreError>;

    /// Whether the watch shows when leases end. Where it does not, [`Lease::expires`] comes early there,
    /// and whoever finds a lease of his renews it at once.
    fn shows_expiry(&self) -> bool {
        true
    }

    /// Addresses of servers that no subnet may cover.
    fn endpoints(&self) -> Vec<IpAddr> {
        Vec::new()
    }
}

/// Where the network's config can be administered: what `flanneld config` works on.
#[async_trait]
pub trait ConfigStore: Send + Sync {
    /// The text that stands there now, whatever it is; `None` where there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    async fn read_config(&self) -> Result<Option<String>, StoreError>;

    /// Puts a text in its place, at once and as a whole. Whether it is a config is for the caller
    /// to know.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    async fn write_config(&self, json: &str) -> Result<(), StoreError>;
}

/// What a store has to say.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum StoreEvent {
    /// The network's config, when first read and whenever it changes.
    Config(Result<Arc<NetworkConfig>, Arc<ConfigError>>),
    /// Every lease there is.
    Snapshot {
        /// The leases.
        leases: Vec<Lease>,
        /// What lies between this and what was known before.
        gap: Gap,
    },
    /// A lease is there, or is different.
    Put(Lease),
    /// A lease is gone.
    Delete(SubnetKey),
    /// An entry cannot be read. The others are not affected; said once for each version of it.
    /// A lease that was readable before stays with those who know it.
    Unreadable {
        /// The entry's name, cut off after 100 characters.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing has been heard from the store since then. Any later event ends the silence.
    Silent {
        /// When it was last heard from.
        since: Instant,
        /// Why, as far as the store knows.
        reason: String,
    },
}

/// What lies between a snapshot and what was known before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gap {
    /// Nothing was known.
    Start,
    /// Events were missed: connection lost, history compacted, queue overrun.
    Missed,
    /// This is another store's history: the revision went back, the cluster id changed, the
    /// directory was made anew. What is absent may merely be forgotten.
    HistoryLost,
}

/// Why a store did not do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It does not answer, or not in time.
    #[error("cannot {doing}: {source}")]
    Unavailable {
        /// What was tried.
        doing: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It does not let us.
    #[error("not permitted to {doing}: {source}")]
    Denied {
        /// What was tried.
        doing: String,
        /// The store's answer.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The subnet is another's, or not what was seen.
    #[error("{subnet} was taken by another host")]
    Taken {
        /// Which subnet.
        subnet: SubnetKey,
    },
    /// Our lease is gone, has expired, or is another's.
    #[error("the lease of {subnet} is no longer ours")]
    LeaseLost {
        /// Which subnet.
        subnet: SubnetKey,
    },
    /// It can never work as it is set up.
    #[error("{place} cannot be a store: {problem}")]
    Unusable {
        /// Which store.
        place: String,
        /// Why, and what to do.
        problem: String,
    },
}

impl StoreError {
    /// Whether trying the same again may help without anybody doing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}
