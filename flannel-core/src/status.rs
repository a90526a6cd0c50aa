//! How an engine is doing, as a value.

use std::fmt;

use tokio::time::Instant;

use crate::{Conflict, SubnetKey, Uplink};

/// Details that a status lists: of more there is only the count.
pub(crate) const LISTED: usize = 32;

/// How an engine is doing. [`EngineHandle::status`](crate::EngineHandle::status) has the latest, and
/// a stream of them.
///
/// ```
/// let status = flannel_core::Status::default();
/// assert!(!status.is_ready());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Status {
    /// The lease of this host.
    pub lease: Option<LeaseStatus>,
    /// The way to the other hosts.
    pub uplink: Option<Uplink>,
    /// The other hosts.
    pub peers: PeerCounts,
    /// What could not be programmed, the first few.
    pub failures: Vec<Failure>,
    /// What of the operator's is in the way, the first few.
    pub conflicts: Vec<Conflict>,
    /// How many conflicts there are.
    pub conflict_count: usize,
    /// What is not as it ought to be.
    pub reasons: Vec<Reason>,
    /// Kernel objects that somebody else had changed and that were put right.
    pub repairs: u64,
    /// Whether the kernel has been brought in line with the leases since the start.
    pub settled: bool,
}

impl Status {
    /// Whether pods can reach each other as far as this host can tell.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.settled && self.lease.is_some() && !self.reasons.iter().any(Reason::is_blocking)
    }
}

/// A lease that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseStatus {
    /// Which subnet.
    pub subnet: SubnetKey,
    /// When it ends unless renewed; `None`: never.
    pub expires: Option<Instant>,
}

/// Counts of other hosts' leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerCounts {
    /// Those that are peers.
    pub desired: usize,
    /// Those for which the kernel is as it ought to be.
    pub installed: usize,
    /// Those for which it refused.
    pub failed: usize,
    /// Leases that are no peers, for a reason that the log names.
    pub refused: usize,
}

/// A kernel object that could not be programmed; it is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which object.
    pub object: String,
    /// For which peer.
    pub peer: Option<SubnetKey>,
    /// The kernel's answer.
    pub error: String,
}

/// Something that is not as it ought to be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reason {
    /// There is no usable network config.
    Config(String),
    /// There is no way to the other hosts.
    Uplink(String),
    /// The backend cannot work on this host, or there is none of the name.
    Backend(String),
    /// No lease is held.
    Lease(String),
    /// The store has not shown its leases yet.
    NoSnapshot,
    /// Nothing is heard from the store, or it does not do what it is asked.
    Store(String),
    /// The kernel does not answer.
    Kernel(String),
    /// The kernel's tables cannot be watched: they are looked at every ten seconds only.
    Watch(String),
    /// The host's links and addresses cannot be read.
    Host(String),
    /// Routes cannot be programmed.
    Routes {
        /// Peers that this concerns.
        failed: usize,
        /// Peers in all.
        desired: usize,
        /// The kernel's answer for one of them.
        first: String,
    },
    /// `subnet.env` could not be written.
    SubnetEnv(String),
    /// The state directory could not be written.
    State(String),
    /// A changed network config cannot take effect while this lease is held.
    ConfigRefused(String),
}

impl Reason {
    /// Whether it keeps this host's pods from being reached; if not, they are, for now.
    #[must_use]
    pub const fn is_blocking(&self) -> bool {
        match self {
            Self::Store(_) | Self::ConfigRefused(_) | Self::Watch(_) | Self::Host(_) => false,
            Self::Routes { failed, desired, .. } => *failed >= *desired,
            _ => true,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(text)
            | Self::Uplink(text)
            | Self::Backend(text)
            | Self::Lease(text)
            | Self::Store(text)
            | Self::Kernel(text)
            | Self::Watch(text)
            | Self::Host(text)
            | Self::SubnetEnv(text)
            | Self::State(text)
            | Self::ConfigRefused(text) => f.write_str(text),
            Self::Routes {
                failed,
                desired,
                first,
            } => {
                write!(f, "{failed} of {desired} peers cannot be programmed: {first}")
            }
            Self::NoSnapshot => f.write_str("the store has not shown its leases yet"),
        }
    }
}
