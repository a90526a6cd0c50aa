//! Everything of ours removed from the packet filter, wherever an earlier run has put it.

use std::fmt;

use flannel_core::{Family, FirewallError};
use ipnet::IpNet;
use thiserror::Error;

use super::HostFirewall;
use super::writing::Site;
use crate::iptables_host::Known;
use crate::nft_host::{Nft, header};
use crate::place::Places;
use crate::unused;

/// Something of ours in the packet filter. Displays as the command that would make it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    command: String,
    /// Made by iptables because of us, and removed unless others use it.
    shared: bool,
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.command)?;
        if self.shared {
            f.write_str(" (made by iptables; unless others use it)")?;
        }
        Ok(())
    }
}

/// What could not be looked at, or removed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}", joined(failures))]
pub struct RemovalError {
    /// One for each place that failed.
    pub failures: Vec<FirewallError>,
}

fn joined(failures: &[FirewallError]) -> String {
    let texts: Vec<String> = failures.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

impl HostFirewall {
    /// What [`HostFirewall::remove`] would remove, one for each table, chain and rule.
    ///
    /// # Errors
    ///
    /// [`FirewallError`], where it cannot be told.
    pub async fn leftovers(&self, networks: &[IpNet]) -> Result<Vec<Leftover>, FirewallError> {
        let _alone = self.keeper.lock().await;
        let mut known = Known::default();
        let mut leftovers = Vec::new();
        for family in Family::ALL {
            let places = Places::find(family, &self.directories, &mut known).await;
            for place in places.all() {
                let site = Site::new(self, &place, &places);
                if let Some(found) = site.look().await? {
                    let commands = place.leftovers(&found, &self.names, networks);
                    leftovers.extend(commands.into_iter().map(|command| Leftover {
                        command,
                        shared: false,
                    }));
                }
            }
            if let Some(nft) = &places.nft {
                let made = self.made(nft, family).await?;
                leftovers.extend(made.into_iter().map(|made| Leftover {
                    command: made.addition(),
                    shared: true,
                }));
            }
        }
        Ok(leftovers)
    }

    /// Removes every rule, chain and table of ours, in all modes, of both families, by whatever programs
    /// there are; and what [`HostFirewall::remembering`] says that iptables has made because of us, where
    /// nobody else uses it. `networks` are those of which a flannel before v0.20 may have left rules.
    ///
    /// # Errors
    ///
    /// What failed; all else is removed.
    pub async fn remove(&self, networks: &[IpNet]) -> Result<(), RemovalError> {
        let _alone = self.keeper.lock().await;
        let mut known = Known::default();
        let mut failures = Vec::new();
        for family in Family::ALL {
            let places = Places::find(family, &self.directories, &mut known).await;
            for place in places.all() {
                failures.extend(Site::new(self, &place, &places).clear(networks).await.err());
            }
            if let Some(nft) = &places.nft {
                failures.extend(self.remove_made(nft, family).await.err());
            }
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(RemovalError { failures })
        }
    }

    /// Removes what iptables has made because of us, and nobody uses. What another daemon of ours uses
    /// stays remembered for its removal.
    async fn remove_made(&self, nft: &Nft, family: Family) -> Result<(), FirewallError> {
        let mut made = self.made(nft, family).await?;
        // Chains first: what is left of a table then is what others have there.
        made.sort_by_key(|made| made.chain.is_none());
        for made in made {
            let deleted = unused::delete(unused::protocol(family), &made.table, made.chain.as_deref());
            deleted.map_err(|error| FirewallError::Failed {
                command: format!("deleting {}", made.object()),
                reason: error.to_string(),
            })?;
        }
        let left: Vec<String> = self.made(nft, family).await?.iter().map(Made::line).collect();
        self.origin.keep(family, &left).await
    }

    /// What iptables has made because of us, as far as it is there and as it was made.
    async fn made(&self, nft: &Nft, family: Family) -> Result<Vec<Made>, FirewallError> {
        let remembered = self.origin.made().await;
        let made: Vec<Made> = remembered
            .iter()
            .filter_map(|line| Made::parse(line, family))
            .collect();
        if made.is_empty() {
            return Ok(made);
        }
        let outline = nft.outline(family).await?;
        let is_there = |made: &Made| match &made.chain {
            None => outline.has_table(&made.table),
            Some(chain) => outline.has_open_chain(&made.table, chain),
        };
        Ok(made.into_iter().filter(is_there).collect())
    }
}

/// A table, or a chain in it.
struct Made {
    family: Family,
    table: String,
    chain: Option<String>,
}

impl Made {
    /// Reads a line as [`Origin`](crate::origin::Origin) has them; None where it is of another family.
    fn parse(line: &str, family: Family) -> Option<Self> {
        let mut words = line.split(' ').map(str::to_owned);
        if words.next()? != header(family) {
            return None;
        }
        Some(Self {
            family,
            table: words.next()?,
            chain: words.next(),
        })
    }

    /// As it was read.
    fn line(&self) -> String {
        let chain = self.chain.iter().flat_map(|chain| [" ", chain.as_str()]);
        format!(
            "{} {}{}",
            header(self.family),
            self.table,
            chain.collect::<String>()
        )
    }

    fn addition(&self) -> String {
        format!("nft add {}", self.object())
    }

    fn object(&self) -> String {
        let (header, table) = (header(self.family), &self.table);
        match &self.chain {
            None => format!("table {header} {table}"),
            Some(chain) => format!("chain {header} {table} {chain}"),
        }
    }
}
