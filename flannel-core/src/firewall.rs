//! Firewalls as a trait: what keeps the rules that pods need in the host's packet filter.

use std::time::Duration;

use async_trait::async_trait;
use ipnet::IpNet;
use thiserror::Error;

use crate::{Filter, PerFamily};

/// Keeps the rules that pods need in the host's packet filter: those that masquerade what leaves the
/// network, and those that let forwarded packets through. `flannel-firewall` has the one for Linux.
///
/// It is asked when the network, our subnet or the rules have changed, and every [`Firewall::resync`];
/// never twice at once.
#[async_trait]
pub trait Firewall: Send + Sync {
    /// Makes the rules what they ought to be for this network; where they are, nothing is written.
    /// There is no moment in which a rule is missing that was there before and is wanted still.
    ///
    /// # Errors
    ///
    /// [`FirewallError`], when they may not be as they ought to be.
    async fn keep(&self, pods: &PodNetwork) -> Result<Kept, FirewallError>;

    /// Whether pods reach the outside by its rules, so that without them they do not.
    fn masquerades(&self) -> bool;

    /// Whether rules of its own may be in this table, which has changed (`ip nat`).
    fn is_concerned(&self, table: &str) -> bool;

    /// Rules are looked at so often though nobody says that they have changed.
    fn resync(&self) -> Duration;
}

/// What rules are made for.
///
/// ```
/// use flannel_core::{PerFamily, PodNetwork};
///
/// let pods = PodNetwork {
///     networks: PerFamily { v4: Some("10.244.0.0/16".parse().unwrap()), v6: None },
///     subnets: PerFamily { v4: Some("10.244.7.0/24".parse().unwrap()), v6: None },
///     ..PodNetwork::default()
/// };
/// assert!(!pods.nftables);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodNetwork {
    /// The whole network.
    pub networks: PerFamily<IpNet>,
    /// This host's subnet of it.
    pub subnets: PerFamily<IpNet>,
    /// Destinations to which pods keep their addresses (`NonMasqueradeCIDRs`), of either family.
    pub unmasqueraded: Vec<IpNet>,
    /// Whether rules go to nftables instead of iptables (`EnableNFTables`).
    pub nftables: bool,
    /// Networks of earlier runs, for which rules may be left.
    pub former: Vec<IpNet>,
}

/// What came of a look at the rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kept {
    /// What had to be done, one text for each set of rules that was written or removed; empty where
    /// everything was as it ought to be.
    pub written: Vec<String>,
    /// Chains that drop forwarded packets whatever the rules accept, where they are not among
    /// [`HostFacts::filters`](crate::HostFacts::filters).
    pub filters: Vec<Filter>,
}

/// Why rules may not be as they ought to be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FirewallError {
    /// A program that is needed is not installed.
    #[error("{program} is not installed: {remedy}")]
    Missing {
        /// Its name.
        program: String,
        /// What to do.
        remedy: String,
    },
    /// A program did not do what it was asked.
    #[error("{command} failed: {reason}")]
    Failed {
        /// The program with its arguments.
        command: String,
        /// Its own words, on one line, or how it ended.
        reason: String,
    },
    /// A program did not end in time.
    #[error("{command} has not ended within {deadline:?}, and was killed; is the machine overloaded?")]
    Deadline {
        /// The program with its arguments.
        command: String,
        /// How long was waited.
        deadline: Duration,
    },
}

impl FirewallError {
    /// Whether trying again may help without anybody doing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Deadline { .. })
    }
}
