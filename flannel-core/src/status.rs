//! How an engine is doing, as a value.

mod counters;
mod peer;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use crate::{Conflict, Device, PerFamily, SubnetKey, Uplink};

pub use counters::{Counters, Repairs, Timings};
pub use peer::{PeerList, PeerState, PeerStatus};

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
    /// The network, as the config that is in force has it.
    pub network: PerFamily<IpNet>,
    /// The backend at work.
    pub backend: Option<&'static str>,
    /// When the store was last heard from.
    pub store: StoreContact,
    /// The way to the other hosts.
    pub uplink: Option<Uplink>,
    /// The backend's own devices, as the kernel has them.
    pub devices: Vec<Device>,
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
    /// What has been done so far.
    pub counters: Counters,
    /// Whether the kernel has been brought in line with the leases since the start, `subnet.env` says
    /// what it ought to, and the packet filter's rules were made, or could not be.
    pub settled: bool,
}

impl Status {
    /// Whether pods can reach each other as far as this host can tell.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.readiness() != Readiness::NotReady
    }

    /// The same, with a word for what works and yet is not as it ought to be. The engine says so by
    /// itself when the clock alone changes it: a lease expires, the kernel stays behind.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        if !self.settled || self.lease.is_none() || self.reasons.iter().any(Reason::is_blocking) {
            Readiness::NotReady
        } else if self.reasons.is_empty() {
            Readiness::Ready
        } else {
            Readiness::Degraded
        }
    }
}

/// Whether this host's pods and the others' can reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Readiness {
    /// They can.
    Ready,
    /// They can, or most can, for now; the reasons say what is not as it ought to be.
    Degraded,
    /// They cannot, or nobody knows; the reasons say why.
    NotReady,
}

impl Readiness {
    /// `ready`, `degraded` or `not ready`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::NotReady => "not ready",
        }
    }
}

/// When the store was last heard from. One that has nothing to say and is there all the same counts
/// as heard: it is for the store to tell when that is over ([`StoreEvent::Silent`](crate::StoreEvent::Silent)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StoreContact {
    /// Not yet.
    #[default]
    Never,
    /// It is in contact.
    Now,
    /// Not since then.
    Lost(Instant),
}

impl StoreContact {
    /// The last contact, if there was any.
    #[must_use]
    pub const fn last(self, now: Instant) -> Option<Instant> {
        match self {
            Self::Never => None,
            Self::Now => Some(now),
            Self::Lost(since) => Some(since),
        }
    }

    /// How long nothing has been heard for, if that is so.
    #[must_use]
    pub fn silence(self, now: Instant) -> Option<Duration> {
        match self {
            Self::Never | Self::Now => None,
            Self::Lost(since) => Some(now.saturating_duration_since(since)),
        }
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
    /// A device of ours, or an address of it, is not there or not as it ought to be.
    Device(String),
    /// A device of ours works, and has a setting that it ought not to have.
    DeviceSetting(String),
    /// The backend cannot work on this host, or there is none of the name.
    Backend(String),
    /// No lease is held.
    Lease(String),
    /// The store has not shown its leases yet.
    NoSnapshot,
    /// Nothing is heard from the store, or it does not do what it is asked.
    Store(String),
    /// The kernel has not been as it ought to be since the start, or for two seconds.
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
    /// There are leases of other hosts, and none of them can be a peer.
    Refused(String),
    /// Routes of somebody else's run into the network.
    Conflicts {
        /// How many.
        count: usize,
        /// One of them.
        first: String,
    },
    /// `subnet.env` does not say what it ought to.
    SubnetEnv(String),
    /// The state directory could not be written.
    State(String),
    /// A changed network config cannot take effect while this lease is held.
    ConfigRefused(String),
    /// The network config has a member that nobody knows, and whose name is nearly a known one's.
    ConfigDoubt(String),
    /// Another host publishes our address.
    Address(String),
    /// The subnet that `subnet.env` named at the start is another host's.
    Subnet(String),
    /// A bridge was set up for another subnet than ours.
    Bridge(String),
    /// Packets for others are dropped, because forwarding is switched off. Not blocking: container
    /// runtimes that wait for us switch it on when they start.
    Forwarding(String),
    /// A device of ours drops packets that come another way than the answer goes.
    ReversePath(String),
    /// The packet filter may drop packets from pods to pods.
    Filter(String),
    /// The rules by which pods reach the outside cannot be kept in the packet filter.
    Masquerade(String),
    /// The rules that accept forwarded packets cannot be kept in the packet filter. Not blocking:
    /// most filters accept what they know nothing of, and one that is seen not to is a reason of
    /// its own.
    ForwardRules(String),
    /// Somebody else undoes rules of ours as often as they are put right.
    RulesUndone(String),
    /// Somebody else changes an object of ours as often as it is put right.
    Undone(String),
}

impl Reason {
    /// Whether it keeps this host's pods from being reached; if not, they are, for now.
    #[must_use]
    pub const fn is_blocking(&self) -> bool {
        match self {
            Self::Store(_)
            | Self::ConfigRefused(_)
            | Self::Watch(_)
            | Self::Host(_)
            | Self::State(_)
            | Self::ConfigDoubt(_)
            | Self::Address(_)
            | Self::Subnet(_)
            | Self::Bridge(_)
            | Self::Forwarding(_)
            | Self::DeviceSetting(_)
            | Self::ReversePath(_)
            | Self::Filter(_)
            | Self::ForwardRules(_)
            | Self::RulesUndone(_)
            | Self::Undone(_)
            | Self::Refused(_)
            | Self::Conflicts { .. } => false,
            Self::Routes { failed, desired, .. } => *failed >= *desired,
            Self::Config(_)
            | Self::Uplink(_)
            | Self::Device(_)
            | Self::Backend(_)
            | Self::Lease(_)
            | Self::NoSnapshot
            | Self::Kernel(_)
            | Self::Masquerade(_)
            | Self::SubnetEnv(_) => true,
        }
    }

    /// One word for its kind, as metrics have it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Config(_) => "config",
            Self::Uplink(_) => "uplink",
            Self::Device(_) => "device",
            Self::DeviceSetting(_) => "device_setting",
            Self::Backend(_) => "backend",
            Self::Lease(_) => "lease",
            Self::NoSnapshot => "snapshot",
            Self::Store(_) => "store",
            Self::Kernel(_) => "kernel",
            Self::Watch(_) => "watch",
            Self::Host(_) => "host",
            Self::Routes { .. } => "routes",
            Self::Refused(_) => "refused",
            Self::Conflicts { .. } => "conflicts",
            Self::SubnetEnv(_) => "subnet_env",
            Self::State(_) => "state",
            Self::ConfigRefused(_) => "config_refused",
            Self::ConfigDoubt(_) => "config_doubt",
            Self::Address(_) => "address",
            Self::Subnet(_) => "subnet",
            Self::Bridge(_) => "bridge",
            Self::Forwarding(_) => "forwarding",
            Self::ReversePath(_) => "reverse_path",
            Self::Filter(_) => "filter",
            Self::Masquerade(_) => "masquerade",
            Self::ForwardRules(_) => "forward_rules",
            Self::RulesUndone(_) => "rules_undone",
            Self::Undone(_) => "undone",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(text)
            | Self::Uplink(text)
            | Self::Device(text)
            | Self::DeviceSetting(text)
            | Self::Backend(text)
            | Self::Lease(text)
            | Self::Store(text)
            | Self::Kernel(text)
            | Self::Watch(text)
            | Self::Host(text)
            | Self::SubnetEnv(text)
            | Self::State(text)
            | Self::ConfigRefused(text)
            | Self::ConfigDoubt(text)
            | Self::Address(text)
            | Self::Subnet(text)
            | Self::Bridge(text)
            | Self::Forwarding(text)
            | Self::ReversePath(text)
            | Self::Filter(text)
            | Self::Masquerade(text)
            | Self::ForwardRules(text)
            | Self::Refused(text)
            | Self::RulesUndone(text)
            | Self::Undone(text) => f.write_str(text),
            Self::Routes {
                failed,
                desired,
                first,
            } => {
                write!(f, "{failed} of {desired} peers cannot be programmed: {first}")
            }
            Self::Conflicts { count: 1, first } => f.write_str(first),
            Self::Conflicts { count, first } => {
                write!(f, "{count} routes of somebody else's, such as: {first}")
            }
            Self::NoSnapshot => f.write_str("the store has not shown its leases yet"),
        }
    }
}
