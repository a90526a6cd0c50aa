//! Where rules of one family may be: a table of nftables, or chains in either variant of iptables.

use std::collections::BTreeSet;
use std::fmt;

use flannel_core::{Family, Filter, FirewallError, PodNetwork};
use ipnet::IpNet;

use crate::iptables::Seen;
use crate::iptables_host::{Iptables, Known, Refused, Variant, program};
use crate::nft_host::Nft;
use crate::program::Directories;
use crate::ruleset::{Names, Ruleset, header};
use crate::{iptables, nft, wording};

/// A place for rules, by the programs that read and write it.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Nftables(Family, Nft),
    Iptables(Iptables),
}

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Table(String),
    Chains(Seen),
}

impl Place {
    /// What is there; in tables that have been `written`, whether or not the kernel tells of them.
    pub(crate) async fn look(
        &self,
        names: &Names,
        written: &BTreeSet<&'static str>,
    ) -> Result<Found, FirewallError> {
        match self {
            Self::Nftables(family, nft) => nft.table(*family, names).await.map(Found::Table),
            Self::Iptables(iptables) => iptables.seen(names, written).await.map(Found::Chains),
        }
    }

    /// The chain FORWARD alone, where it is no table of our own.
    pub(crate) async fn look_at_forward(&self) -> Result<Option<Found>, FirewallError> {
        match self {
            Self::Nftables(..) => Ok(None),
            Self::Iptables(iptables) => iptables.forward().await.map(Found::Chains).map(Some),
        }
    }

    /// What has to be written for exactly these rules to be there; None where they are.
    pub(crate) fn correction(
        &self,
        found: &Found,
        rules: &Ruleset,
        names: &Names,
        former: &[IpNet],
    ) -> Option<String> {
        match found {
            Found::Table(listing) => {
                (!nft::says(listing, rules, names)).then(|| nft::transaction(rules, names))
            }
            Found::Chains(seen) => iptables::transaction(rules, names, seen, former),
        }
    }

    /// Of what [`Place::correction`] removes, rules of flannel before v0.16 that look like the operator's: one
    /// command for each that would make it anew.
    pub(crate) fn outdated(
        &self,
        found: &Found,
        rules: &Ruleset,
        names: &Names,
        former: &[IpNet],
    ) -> Vec<String> {
        match found {
            Found::Table(_) => Vec::new(),
            Found::Chains(seen) => iptables::outdated(rules, names, seen, former)
                .into_iter()
                .map(|line| {
                    let table = if line.starts_with("-A POSTROUTING ") {
                        "-t nat "
                    } else {
                        ""
                    };
                    format!("{} {table}{line}", self.program())
                })
                .collect(),
        }
    }

    /// Whether what is there may be these rules in other words, where `correction` would be written.
    pub(crate) fn may_say(&self, found: &Found, rules: &Ruleset, names: &Names, correction: &str) -> bool {
        match found {
            Found::Table(listing) => wording::of_table(listing, correction),
            Found::Chains(seen) => wording::of_chains(seen, rules, names, correction),
        }
    }

    /// What has to be written for nothing of ours to be there; None where nothing is.
    pub(crate) fn removal(&self, found: &Found, names: &Names, networks: &[IpNet]) -> Option<String> {
        match found {
            Found::Table(listing) => (!listing.trim().is_empty()).then(|| nft::removal(self.family(), names)),
            Found::Chains(seen) => iptables::removal(self.family(), names, seen, networks),
        }
    }

    /// What that would remove, one line for each object.
    pub(crate) fn leftovers(&self, found: &Found, names: &Names, networks: &[IpNet]) -> Vec<String> {
        match found {
            Found::Table(listing) => nft::leftovers(listing, self.family(), names),
            Found::Chains(seen) => iptables::leftovers(self.program(), self.family(), names, seen, networks),
        }
    }

    /// Chains that drop forwarded packets in spite of these rules, which are in this place or
    /// (`elsewhere`) in another, where they are not among `HostFacts::filters`.
    pub(crate) fn obstacles(
        &self,
        found: &Found,
        rules: &Ruleset,
        names: &Names,
        elsewhere: bool,
    ) -> Vec<Filter> {
        let (Found::Chains(seen), Self::Iptables(iptables)) = (found, self) else {
            return Vec::new();
        };
        let mut rules = rules.clone();
        if elsewhere {
            rules.forward.clear();
        }
        // Of chains in nftables, everybody sees the policy.
        let told = iptables.variant() == Variant::Nftables && rules.forward.is_empty() && {
            let mut lines = seen.forward.lines().map(str::trim);
            lines.any(|line| line == "-P FORWARD DROP")
        };
        if told {
            return Vec::new();
        }
        let mut filters = iptables::obstacles(seen, &rules, names);
        // Of chains in nftables, everybody sees the rules.
        if iptables.variant() == Variant::Legacy {
            for filter in &mut filters {
                filter.program = Some(self.program().to_owned());
            }
        }
        filters
    }

    /// Writes each table in one transaction.
    pub(crate) async fn write(&self, text: &str) -> Result<(), Refused> {
        match self {
            Self::Nftables(_, nft) => {
                let refused = |error| Refused { busy: false, error };
                nft.write(text).await.map_err(refused)
            }
            Self::Iptables(iptables) => iptables.write(text).await,
        }
    }

    /// The tables whose changes may be changes of these rules, where the kernel tells of them.
    pub(crate) fn tables(&self, rules: &Ruleset, names: &Names) -> Vec<String> {
        let header = header(self.family());
        match self {
            Self::Nftables(..) => vec![format!("{header} {}", names.table(self.family()))],
            Self::Iptables(iptables) if iptables.variant() == Variant::Nftables => {
                let nat = (!rules.masquerade.is_empty()).then(|| format!("{header} nat"));
                let filter = (!rules.forward.is_empty()).then(|| format!("{header} filter"));
                nat.into_iter().chain(filter).collect()
            }
            Self::Iptables(_) => Vec::new(),
        }
    }

    /// Whether both are the same place, whatever the programs are.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.family() == other.family() && self.variant() == other.variant()
    }

    /// Which place it is, in one word.
    pub(crate) const fn word(&self) -> &'static str {
        match self.variant() {
            None => NFTABLES,
            Some(Variant::Nftables) => IPTABLES_NFT,
            Some(Variant::Legacy) => IPTABLES_LEGACY,
        }
    }

    /// The program by which people see it.
    fn program(&self) -> &str {
        match self {
            Self::Nftables(..) => Nft::PROGRAM,
            Self::Iptables(iptables) => iptables.program(),
        }
    }

    /// The variant of iptables that makes tables in nftables as it needs them.
    pub(crate) fn is_iptables_in_nftables(&self) -> bool {
        self.variant() == Some(Variant::Nftables)
    }

    pub(crate) const fn family(&self) -> Family {
        match self {
            Self::Nftables(family, _) => *family,
            Self::Iptables(iptables) => iptables.family(),
        }
    }

    const fn variant(&self) -> Option<Variant> {
        match self {
            Self::Nftables(..) => None,
            Self::Iptables(iptables) => Some(iptables.variant()),
        }
    }
}

/// Words for places: [`Place::word`].
const NFTABLES: &str = "nft";
const IPTABLES_NFT: &str = "iptables-nft";
const IPTABLES_LEGACY: &str = "iptables-legacy";

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nftables(..) => f.write_str("nftables"),
            Self::Iptables(iptables) => iptables.fmt(f),
        }
    }
}

/// Every place of a family for which there is a program.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) nft: Option<Nft>,
    family: Family,
    /// What `iptables` is.
    usual: Result<Iptables, FirewallError>,
    /// The variants that it is not.
    others: Vec<Iptables>,
    /// Those of them that are there, and cannot be asked.
    broken: Vec<(Variant, FirewallError)>,
}

impl Places {
    pub(crate) async fn find(family: Family, directories: &Directories, known: &mut Known) -> Self {
        let nft = Nft::find(directories);
        let usual = Iptables::usual(family, directories, known).await;
        let (mut others, mut broken) = (Vec::new(), Vec::new());
        for variant in [Variant::Nftables, Variant::Legacy] {
            if usual.as_ref().is_ok_and(|usual| usual.variant() == variant) {
                continue;
            }
            match Iptables::of_variant(family, variant, directories, known).await {
                Ok(found) => others.extend(found),
                Err(error) => {
                    tracing::debug!(%error, "a variant of iptables cannot be asked");
                    broken.push((variant, error));
                }
            }
        }
        Self {
            nft,
            family,
            usual,
            others,
            broken,
        }
    }

    pub(crate) const fn family(&self) -> Family {
        self.family
    }

    /// The one that the network's config asks for.
    ///
    /// # Errors
    ///
    /// When its program is missing, or does not say what it is.
    pub(crate) fn wanted(&self, pods: &PodNetwork) -> Result<Place, FirewallError> {
        if pods.nftables {
            let nft = self.nft.clone().map(|nft| Place::Nftables(self.family, nft));
            return nft.ok_or_else(|| self.missing(Nft::PROGRAM.to_owned(), "install nftables"));
        }
        let usual = self.usual.clone().map(Place::Iptables);
        usual.map_err(|error| match error {
            FirewallError::Missing { program, .. } => self.missing(program, "install iptables"),
            error => error,
        })
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = Place> {
        let nft = self.nft.clone().map(|nft| Place::Nftables(self.family, nft));
        let iptables = self.usual.iter().chain(&self.others).cloned();
        nft.into_iter().chain(iptables.map(Place::Iptables))
    }

    /// Why of places with these words nobody knows what is there, one for each.
    pub(crate) fn lost(&self, words: &BTreeSet<String>) -> Vec<FirewallError> {
        let is_there = |word: &str| self.all().any(|place| place.word() == word);
        let lost = words.iter().filter(|word| !is_there(word));
        lost.filter_map(|word| self.loss(word)).collect()
    }

    fn loss(&self, word: &str) -> Option<FirewallError> {
        let variant = match word {
            NFTABLES => None,
            IPTABLES_NFT => Some(Variant::Nftables),
            IPTABLES_LEGACY => Some(Variant::Legacy),
            _ => return None,
        };
        let program = variant.map_or_else(|| Nft::PROGRAM.to_owned(), |variant| variant.program(self.family));
        let missing = FirewallError::Missing {
            remedy: format!("install it, as rules of ours may be left where {program} had put them"),
            program,
        };
        let broken = self.broken.iter().find(|(broken, _)| Some(*broken) == variant);
        Some(match (&self.usual, broken) {
            (_, Some((_, error))) => error.clone(),
            (Err(error), None) if variant.is_some() && !matches!(error, FirewallError::Missing { .. }) => {
                error.clone()
            }
            _ => missing,
        })
    }

    fn missing(&self, missing: String, install: &str) -> FirewallError {
        let instead = match (missing == Nft::PROGRAM, &self.nft, &self.usual) {
            (true, _, Ok(_)) => Some(("false", program(self.family))),
            (false, Some(_), _) => Some(("true", Nft::PROGRAM)),
            _ => None,
        };
        let instead = instead.map_or_else(String::new, |(value, there)| {
            format!(", or have the network's config say \"EnableNFTables\": {value}, as {there} is there")
        });
        FirewallError::Missing {
            program: missing,
            remedy: format!("{install}{instead}"),
        }
    }
}

#[cfg(test)]
#[path = "place_tests.rs"]
mod tests;
