//! Everything of ours removed from the packet filter, wherever an earlier run has put it.

use std::fmt;

use flannel_core::{Family, FirewallError};
use ipnet::IpNet;
use thiserror::Error;

use super::HostFirewall;
use super::writing::Site;
use crate::empty_chains;
use crate::iptables_host::Known;
use crate::nft_host::{Nft, Outline};
use crate::place::Places;
use crate::ruleset::header;

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
    /// [`FirewallError`], where it cannot be told; [`FirewallError::Missing`], where rules have been written
    /// by a program that is not there any more.
    pub async fn leftovers(&self, networks: &[IpNet]) -> Result<Vec<Leftover>, FirewallError> {
        let _alone = self.keeper.lock().await;
        let mut known = Known::default();
        let mut leftovers = Vec::new();
        for family in Family::ALL {
            let places = Places::find(family, &self.directories, &mut known).await;
            let written = self.origin.places(family, &self.names).await?;
            if let Some(lost) = places.lost(&written).pop() {
                return Err(lost);
            }
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
    /// What failed, [`FirewallError::Missing`] among it where rules have been written by a program that is
    /// not there any more; all else is removed.
    pub async fn remove(&self, networks: &[IpNet]) -> Result<(), RemovalError> {
        let _alone = self.keeper.lock().await;
        let mut known = Known::default();
        let mut failures = Vec::new();
        for family in Family::ALL {
            let places = Places::find(family, &self.directories, &mut known).await;
            match self.origin.places(family, &self.names).await {
                Ok(written) => failures.extend(places.lost(&written)),
                Err(error) => failures.push(error),
            }
            for place in places.all() {
                let site = Site::new(self, &place, &places);
                failures.extend(site.clear_and_forget(networks).await.err());
            }
            if let Some(nft) = &places.nft {
                failures.extend(self.remove_made(nft, family).await.err());
            }
        }
        if failures.is_empty() {
            return Ok(());
        }
        // What keeps one place from being cleared often keeps the next one, too.
        let mut told = Vec::new();
        for failure in failures {
            if !told.contains(&failure) {
                told.push(failure);
            }
        }
        Err(RemovalError { failures: told })
    }

    /// Removes what iptables has made because of us, and nobody uses. What another daemon of ours uses
    /// stays remembered for its removal.
    async fn remove_made(&self, nft: &Nft, family: Family) -> Result<(), FirewallError> {
        let made = self.made(nft, family).await?;
        let (tables, chains): (Vec<Made>, Vec<Made>) =
            made.into_iter().partition(|made| made.chain.is_none());
        chains.iter().try_for_each(Made::delete)?;
        if !tables.is_empty() {
            let outline = nft.outline(family).await?;
            let mut empty = tables.iter().filter(|table| table.is_empty_in(&outline));
            empty.try_for_each(Made::delete)?;
        }
        let left: Vec<String> = self.made(nft, family).await?.iter().map(Made::line).collect();
        self.origin.keep(family, &left).await
    }

    /// What iptables has made because of us, as far as it is there and as it was made.
    async fn made(&self, nft: &Nft, family: Family) -> Result<Vec<Made>, FirewallError> {
        let remembered = self.origin.made().await?;
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

    /// Whether it is a table, and what is left of it is not what others have there.
    fn is_empty_in(&self, outline: &Outline) -> bool {
        self.chain.is_none() && outline.has_empty_table(&self.table)
    }

    fn delete(&self) -> Result<(), FirewallError> {
        let protocol = empty_chains::protocol(self.family);
        let deleted = empty_chains::delete(protocol, &self.table, self.chain.as_deref());
        deleted.map_err(|error| FirewallError::Failed {
            command: format!("deleting {}", self.object()),
            reason: error.to_string(),
        })
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

#[cfg(test)]
#[path = "removal_tests.rs"]
mod tests;
