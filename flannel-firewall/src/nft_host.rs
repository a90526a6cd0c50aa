//! `nft`, and what it says.

use flannel_core::{Family, FirewallError};

use crate::program::{Directories, Program};
use crate::ruleset::{Names, header};

/// The program `nft`.
#[derive(Debug, Clone)]
pub(crate) struct Nft(Program);

impl Nft {
    pub(crate) const PROGRAM: &str = "nft";

    pub(crate) fn find(directories: &Directories) -> Option<Self> {
        directories.find(Self::PROGRAM).map(Self)
    }

    /// Our table of a family, as `nft list table` prints it without counters; empty where there is none.
    pub(crate) async fn table(&self, family: Family, names: &Names) -> Result<String, FirewallError> {
        let (header, table) = (header(family), names.table(family));
        let answer = self.0.run(&["-s", "list", "table", header, &table], "").await?;
        if answer.code() == Some(1) && answer.stderr().contains("No such file or directory") {
            return Ok(String::new());
        }
        answer.succeeded()
    }

    /// Every table of a family, with its chains, without their rules.
    pub(crate) async fn outline(&self, family: Family) -> Result<Outline, FirewallError> {
        let listing = self.0.run(&["list", "chains", header(family)], "").await?;
        listing.succeeded().map(|listing| Outline::parse(&listing))
    }

    /// Carries out statements in one transaction.
    pub(crate) async fn write(&self, statements: &str) -> Result<(), FirewallError> {
        self.0.run(&["-f", "-"], statements).await?.succeeded().map(drop)
    }
}

/// Tables and their chains.
#[derive(Debug, Default)]
pub(crate) struct Outline {
    tables: Vec<String>,
    chains: Vec<ListedChain>,
}

#[derive(Debug)]
struct ListedChain {
    table: String,
    name: String,
    /// Whether packets come through it by themselves, and may pass unless a rule says otherwise.
    accepts: bool,
}

impl Outline {
    /// Reads what `nft list chains` prints.
    pub(crate) fn parse(listing: &str) -> Self {
        let mut outline = Self::default();
        for line in listing.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), outline.chains.last_mut()) {
                (Some("table"), _) => outline.tables.extend(words.nth(1).map(str::to_owned)),
                (Some("chain"), _) => outline.chains.push(ListedChain {
                    table: outline.tables.last().cloned().unwrap_or_default(),
                    name: words.next().unwrap_or_default().to_owned(),
                    accepts: false,
                }),
                (Some("type"), Some(chain)) => chain.accepts = line.contains("policy accept;"),
                _ => {}
            }
        }
        outline
    }

    pub(crate) fn has_table(&self, table: &str) -> bool {
        self.tables.iter().any(|name| name == table)
    }

    /// Whether a table is there, and no chain in it.
    pub(crate) fn has_empty_table(&self, table: &str) -> bool {
        self.has_table(table) && !self.chains.iter().any(|chain| chain.table == table)
    }

    pub(crate) fn has_chain(&self, table: &str, chain: &str) -> bool {
        self.chain(table, chain).is_some()
    }

    /// Whether a chain is there through which packets come by themselves, and that lets all pass.
    pub(crate) fn has_open_chain(&self, table: &str, chain: &str) -> bool {
        self.chain(table, chain).is_some_and(|chain| chain.accepts)
    }

    fn chain(&self, table: &str, chain: &str) -> Option<&ListedChain> {
        self.chains
            .iter()
            .find(|listed| listed.table == table && listed.name == chain)
    }
}
