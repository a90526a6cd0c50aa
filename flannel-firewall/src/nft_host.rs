//! `nft`, and what it says.

use flannel_core::{Family, FirewallError};

use crate::program::{Directories, Program};
use crate::ruleset::Names;

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
        self.list(family, &names.table(family)).await
    }

    async fn list(&self, family: Family, table: &str) -> Result<String, FirewallError> {
        let answer = self
            .0
            .run(&["-s", "list", "table", header(family), table], "")
            .await?;
        if answer.code() == Some(1) && answer.stderr().contains("No such file or directory") {
            return Ok(String::new());
        }
        answer.succeeded()
    }

    /// The tables of a family, by name.
    pub(crate) async fn tables(&self, family: Family) -> Result<Vec<String>, FirewallError> {
        let header = header(family);
        let listing = self.0.run(&["list", "tables", header], "").await?.succeeded()?;
        let names = listing.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("table") && words.next() == Some(header)).then(|| words.next())?
        });
        Ok(names.map(str::to_owned).collect())
    }

    /// The chains of every table of a family.
    pub(crate) async fn chains(&self, family: Family) -> Result<Vec<ListedChain>, FirewallError> {
        let listing = self
            .0
            .run(&["list", "chains", header(family)], "")
            .await?
            .succeeded()?;
        let (mut table, mut chains) = ("", Vec::<ListedChain>::new());
        for line in listing.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), chains.last_mut()) {
                (Some("table"), _) => table = words.nth(1).unwrap_or_default(),
                (Some("chain"), _) => chains.push(ListedChain {
                    table: table.to_owned(),
                    name: words.next().unwrap_or_default().to_owned(),
                    accepts: false,
                }),
                (Some("type"), Some(chain)) => chain.accepts = line.contains("policy accept;"),
                _ => {}
            }
        }
        Ok(chains)
    }

    /// Whether a table has nothing at all.
    pub(crate) async fn is_empty(&self, family: Family, table: &str) -> Result<bool, FirewallError> {
        let listing = self.list(family, table).await?;
        Ok(listing.lines().filter(|line| !line.trim().is_empty()).count() == 2)
    }

    /// Carries out one statement, unless something is used still, or is not there any more.
    pub(crate) async fn delete_unless_busy(&self, statement: &str) -> Result<(), FirewallError> {
        let answer = self.0.run(&["-f", "-"], statement).await?;
        let left = ["resource busy", "No such file or directory"];
        if left.iter().any(|words| answer.stderr().contains(words)) {
            return Ok(());
        }
        answer.succeeded().map(drop)
    }

    /// Carries out statements in one transaction.
    pub(crate) async fn write(&self, statements: &str) -> Result<(), FirewallError> {
        self.0.run(&["-f", "-"], statements).await?.succeeded().map(drop)
    }
}

/// A chain, as `nft list chains` shows it.
#[derive(Debug)]
pub(crate) struct ListedChain {
    pub(crate) table: String,
    pub(crate) name: String,
    /// Whether packets come through it by themselves, and may pass unless a rule says otherwise.
    pub(crate) accepts: bool,
}

/// The word for a family in statements.
pub(crate) const fn header(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}
