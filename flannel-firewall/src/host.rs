//! The rules of this host, kept by the programs `nft` and `iptables`.

mod keeping;
mod removal;
mod writing;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use flannel_core::{Firewall, FirewallError, Kept, PodNetwork};

use crate::origin::Origin;
use crate::program::Directories;
use crate::ruleset::{Names, RuleOptions};
use keeping::Keeper;
pub use removal::{Leftover, RemovalError};

/// Keeps a network's rules in the packet filter of the host, or of the network namespace of the thread
/// that asks for it.
///
/// It runs `nft` where the network's config says so (`EnableNFTables`), and otherwise `iptables` and
/// `ip6tables`, of either variant; for each family only what its rules need, and nothing at all where no
/// rules are asked for. The rules are read every time, compared exactly, and written in one transaction
/// only where they differ.
///
/// ```
/// use std::time::Duration;
///
/// use flannel_core::{Firewall, PerFamily, PodNetwork};
/// use flannel_firewall::{HostFirewall, Names, RuleOptions};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let options = RuleOptions { masquerade: false, forward: false, random_fully: true };
/// let firewall = HostFirewall::new(options, Names::with_suffix("example"), Duration::from_secs(5));
/// let pods = PodNetwork {
///     networks: PerFamily { v4: Some("10.244.0.0/16".parse().unwrap()), v6: None },
///     subnets: PerFamily { v4: Some("10.244.7.0/24".parse().unwrap()), v6: None },
///     ..PodNetwork::default()
/// };
/// // No rules are asked for, and none were left by an earlier run.
/// assert!(firewall.keep(&pods).await.unwrap().written.is_empty());
/// # });
/// ```
#[derive(Debug)]
pub struct HostFirewall {
    options: RuleOptions,
    names: Names,
    resync: Duration,
    directories: Directories,
    origin: Origin,
    keeper: tokio::sync::Mutex<Keeper>,
    /// The tables of which changes are wanted to be told.
    concerned: Mutex<Vec<String>>,
}

impl HostFirewall {
    /// Rules with these names. They are to be looked at every `resync`, besides when nftables tells of a
    /// change.
    #[must_use]
    pub fn new(options: RuleOptions, names: Names, resync: Duration) -> Self {
        Self {
            options,
            names,
            resync,
            directories: Directories::of_path(),
            origin: Origin::default(),
            keeper: tokio::sync::Mutex::default(),
            concerned: Mutex::default(),
        }
    }

    /// Remembers in this file, until the next boot, where rules of ours are, for [`HostFirewall::remove`] to
    /// fail where their program is gone by then; and which tables and chains iptables has made in nftables
    /// because of us, for it to leave none behind. That takes `nft`; without it they stay, empty.
    ///
    /// Others of this host may use the same file, whose directory is locked while it is rewritten.
    #[must_use]
    pub fn remembering(mut self, file: impl Into<PathBuf>) -> Self {
        self.origin = Origin::in_file(file.into());
        self
    }

    /// Looks for programs in these directories alone, and not in those of `PATH` and the system's.
    #[must_use]
    pub fn with_programs_of(mut self, directories: Vec<PathBuf>) -> Self {
        self.directories = Directories::only(directories);
        self
    }
}

#[async_trait]
impl Firewall for HostFirewall {
    async fn keep(&self, pods: &PodNetwork) -> Result<Kept, FirewallError> {
        let mut keeper = self.keeper.lock().await;
        let done = keeper.keep(self, pods).await;
        *self.concerned.lock().unwrap_or_else(PoisonError::into_inner) = keeper.tables();
        done
    }

    fn masquerades(&self) -> bool {
        self.options.masquerade
    }

    fn is_concerned(&self, table: &str) -> bool {
        let concerned = self.concerned.lock().unwrap_or_else(PoisonError::into_inner);
        concerned.iter().any(|own| own == table)
    }

    fn resync(&self) -> Duration {
        self.resync
    }
}
