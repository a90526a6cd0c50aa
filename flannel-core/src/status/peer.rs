//! One row for each other host.

use std::fmt;
use std::net::IpAddr;

use crate::{PerFamily, SubnetKey};

/// Other hosts' leases and what became of each: the answer of [`EngineHandle::peers`](crate::EngineHandle::peers).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerList {
    /// As many as were asked for, those that are not installed first to be taken in; by subnet.
    pub rows: Vec<PeerStatus>,
    /// How many there are.
    pub total: usize,
}

/// Another host's lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Which subnet.
    pub subnet: SubnetKey,
    /// Where the host says that it is reached.
    pub public: PerFamily<IpAddr>,
    /// What became of it.
    pub state: PeerState,
}

/// What became of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerState {
    /// The kernel is as the lease asks.
    Installed,
    /// It is about to be.
    Pending,
    /// The kernel refused, for this reason; it is tried again.
    Failed(String),
    /// The lease is no peer, for this reason.
    Refused(String),
    /// The lease is of this backend, and no concern of ours.
    Elsewhere(String),
}

impl PeerState {
    /// One word for it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Installed => "installed",
            Self::Pending => "pending",
            Self::Failed(_) => "failed",
            Self::Refused(_) => "refused",
            Self::Elsewhere(_) => "elsewhere",
        }
    }

    /// Why it is not installed, where there is more to say than that.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Installed | Self::Pending => None,
            Self::Failed(why) | Self::Refused(why) | Self::Elsewhere(why) => Some(why),
        }
    }
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.why() {
            Some(why) => write!(f, "{}: {why}", self.name()),
            None => f.write_str(self.name()),
        }
    }
}
