//! Everything of ours removed from the packet filter, wherever an earlier run has put it.

use std::fmt;

use flannel_core::{Family, FirewallError};
use ipnet::IpNet;

use super::HostFirewall;
use super::writing::Site;
use crate::iptables_host::Known;
use crate::nft_host::{Nft, header};
use crate::place::Places;

/// Something of ours in the packet filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// The programs that see it.
    place: String,
    /// The command that would make it.
    command: String,
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.command)
    }
}

/// What could not be looked at, or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovalError {
    /// One for each place that failed.
    pub failures: Vec<FirewallError>,
}

impl fmt::Display for RemovalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.failures.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join("; "))
    }
}

impl std::error::Error for RemovalError {}

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
            let networks = of_family(networks, family);
            for place in places.all() {
                let site = self.site(&place, &places);
                if let Some(found) = site.look().await? {
                    let commands = place.leftovers(&found, &self.names, &networks);
                    leftovers.extend(commands.into_iter().map(|command| Leftover {
                        place: place.to_string(),
                        command,
                    }));
                }
            }
            if let Some(nft) = &places.nft {
                let made = self.made(nft, family).await?;
                leftovers.extend(made.into_iter().map(|made| Leftover {
                    place: "made by iptables, removed where nothing else is in it".to_owned(),
                    command: made.addition(),
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
            let networks = of_family(networks, family);
            for place in places.all() {
                failures.extend(self.site(&place, &places).clear(&networks).await.err());
            }
            if let Some(nft) = &places.nft {
                failures.extend(self.remove_made(nft, family).await.err());
            }
        }
        if failures.is_empty() {
            failures.extend(self.origin.forget().await.err());
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(RemovalError { failures })
        }
    }

    fn site<'a>(&'a self, place: &'a crate::place::Place, places: &'a Places) -> Site<'a> {
        Site {
            host: self,
            place,
            nft: places.nft.as_ref(),
        }
    }

    /// Removes what iptables has made because of us, and nobody uses. The kernel does not let go of a
    /// chain with rules, or to which rules lead.
    async fn remove_made(&self, nft: &Nft, family: Family) -> Result<(), FirewallError> {
        let mut made = self.made(nft, family).await?;
        // Chains first: what is left of a table is what others have there.
        made.sort_by_key(|made| made.chain.is_none());
        for made in made {
            if made.chain.is_some() || nft.is_empty(family, &made.table).await? {
                nft.delete_unless_busy(&made.removal()).await?;
            }
        }
        Ok(())
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
        let tables = nft.tables(family).await?;
        let chains = nft.chains(family).await?;
        let is_there = |made: &Made| match &made.chain {
            None => tables.contains(&made.table),
            Some(name) => {
                let mut chains = chains.iter();
                chains.any(|chain| chain.table == made.table && chain.name == *name && chain.accepts)
            }
        };
        Ok(made.into_iter().filter(is_there).collect())
    }
}

fn of_family(networks: &[IpNet], family: Family) -> Vec<IpNet> {
    let networks = networks.iter().copied();
    networks.filter(|net| Family::of_net(*net) == family).collect()
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

    fn addition(&self) -> String {
        format!("nft add {}", self.object())
    }

    fn removal(&self) -> String {
        format!("delete {}\n", self.object())
    }

    fn object(&self) -> String {
        let (header, table) = (header(self.family), &self.table);
        match &self.chain {
            None => format!("table {header} {table}"),
            Some(chain) => format!("chain {header} {table} {chain}"),
        }
    }
}
