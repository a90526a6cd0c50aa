//! `iptables` and `ip6tables`, of either variant, and what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{fmt, fs, io};

use flannel_core::{Family, FirewallError};

use crate::iptables::Seen;
use crate::program::{Answer, Directories, File, Program};
use crate::ruleset::Names;

/// Seconds that the program waits for another one of its kind to end (`-w`); less than the time after
/// which it is killed.
const LOCK_SECONDS: &str = "5";

/// `RESOURCE_PROBLEM` in `xtables.h`: above all, that another one of its kind holds the lock.
const RESOURCE_PROBLEM: i32 = 4;

/// `OTHER_PROBLEM`, as which a chain that does not exist is told.
const OTHER_PROBLEM: i32 = 1;

/// From here on, `-w` may be followed by a number of seconds.
const WAITS_SECONDS: Version = Version(1, 6, 0);

/// From here on, there is `-w`.
const WAITS: Version = Version(1, 4, 20);

/// From here on, `iptables-restore` knows `-w`.
const RESTORE_WAITS: Version = Version(1, 6, 2);

/// Where the kernel keeps what the program writes; neither sees the other's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// In nftables, in tables like `ip nat`.
    Nftables,
    /// In its own tables.
    Legacy,
}

impl Variant {
    /// The program that is named for it (`iptables-legacy`).
    pub(crate) fn program(self, family: Family) -> String {
        let variant = match self {
            Self::Nftables => "nft",
            Self::Legacy => "legacy",
        };
        format!("{}-{variant}", program(family))
    }
}

/// A pair of programs, which read and write rules of one family.
#[derive(Debug, Clone)]
pub(crate) struct Iptables {
    family: Family,
    kind: Kind,
    list: Program,
    restore: Program,
}

/// What `--version` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    variant: Variant,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32, u32);

/// What each program file said of itself: it is asked once.
#[derive(Debug, Default)]
pub(crate) struct Known(BTreeMap<File, Kind>);

/// The most files that are known; every update makes a new one.
const KNOWN: usize = 64;

/// `iptables` or `ip6tables`.
pub(crate) const fn program(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

impl Iptables {
    /// The one that people get who type `iptables`.
    ///
    /// # Errors
    ///
    /// [`FirewallError::Missing`], with the name of the first program that is.
    pub(crate) async fn usual(
        family: Family,
        directories: &Directories,
        known: &mut Known,
    ) -> Result<Self, FirewallError> {
        Self::named(family, program(family), directories, known).await
    }

    /// The one that is named for its variant (`iptables-legacy`), if it is installed.
    pub(crate) async fn of_variant(
        family: Family,
        variant: Variant,
        directories: &Directories,
        known: &mut Known,
    ) -> Result<Option<Self>, FirewallError> {
        match Self::named(family, &variant.program(family), directories, known).await {
            Ok(found) => Ok(Some(found)),
            Err(FirewallError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn named(
        family: Family,
        name: &str,
        directories: &Directories,
        known: &mut Known,
    ) -> Result<Self, FirewallError> {
        let find = |name: &str| {
            directories.find(name).ok_or_else(|| FirewallError::Missing {
                program: name.to_owned(),
                remedy: "install iptables".to_owned(),
            })
        };
        let list = find(name)?;
        let restore = find(&format!("{name}-restore"))?;
        let kind = known.ask(&list).await?;
        Ok(Self {
            family,
            kind,
            list,
            restore,
        })
    }

    pub(crate) const fn family(&self) -> Family {
        self.family
    }

    pub(crate) const fn variant(&self) -> Variant {
        self.kind.variant
    }

    /// The name by which it was found.
    pub(crate) fn program(&self) -> &str {
        self.list.name()
    }

    /// Our chains, and those that lead there. Tables that the kernel does not have are not looked into,
    /// since that would make them; those that have been `written` are there.
    pub(crate) async fn seen(
        &self,
        names: &Names,
        written: &BTreeSet<&'static str>,
    ) -> Result<Seen, FirewallError> {
        let mut seen = Seen::default();
        let has = |table| Ok::<_, FirewallError>(written.contains(table) || self.has(table)?);
        if has("nat")? {
            seen.postrouting = self.chain("nat", "POSTROUTING").await?.succeeded()?;
            seen.masquerade = self.own_chain("nat", &names.masquerade_chain()).await?;
        }
        if has("filter")? {
            seen.forward = self.chain("filter", "FORWARD").await?.succeeded()?;
            seen.forwards = self.own_chain("filter", &names.forward_chain()).await?;
        }
        Ok(seen)
    }

    /// The chain FORWARD alone.
    pub(crate) async fn forward(&self) -> Result<Seen, FirewallError> {
        let mut seen = Seen::default();
        if self.has("filter")? {
            seen.forward = self.chain("filter", "FORWARD").await?.succeeded()?;
        }
        Ok(seen)
    }

    /// Carries out what [`iptables-restore`](https://man7.org/linux/man-pages/man8/iptables-restore.8.html)
    /// reads, each table in one transaction. One that fails does not keep the next one from being written.
    pub(crate) async fn write(&self, text: &str) -> Result<(), Refused> {
        let mut done = Ok(());
        for table in text.split_inclusive("COMMIT\n") {
            done = done.and(self.write_table(table).await);
        }
        done
    }

    async fn write_table(&self, text: &str) -> Result<(), Refused> {
        let mut arguments = vec!["--noflush"];
        if self.kind.version >= RESTORE_WAITS {
            arguments.extend(["-w", LOCK_SECONDS]);
        }
        let answer = self.restore.run(&arguments, text).await;
        let answer = answer.map_err(|error| Refused { busy: false, error })?;
        let busy = answer.code() == Some(RESOURCE_PROBLEM);
        answer
            .succeeded()
            .map(drop)
            .map_err(|error| Refused { busy, error })
    }

    async fn own_chain(&self, table: &str, chain: &str) -> Result<Option<String>, FirewallError> {
        let answer = self.chain(table, chain).await?;
        if answer.code() == Some(OTHER_PROBLEM) {
            return Ok(None);
        }
        answer.succeeded().map(Some)
    }

    async fn chain(&self, table: &str, chain: &str) -> Result<Answer, FirewallError> {
        let mut arguments = Vec::new();
        if self.kind.version >= WAITS {
            arguments.push("-w");
        }
        if self.kind.version >= WAITS_SECONDS {
            arguments.push(LOCK_SECONDS);
        }
        arguments.extend(["-t", table, "-S", chain]);
        self.list.run(&arguments, "").await
    }

    /// Whether the kernel has a table. Of nftables, it is not asked: looking makes none there.
    fn has(&self, table: &str) -> Result<bool, FirewallError> {
        if self.kind.variant == Variant::Nftables {
            return Ok(true);
        }
        let file = match self.family {
            Family::V4 => "ip_tables_names",
            Family::V6 => "ip6_tables_names",
        };
        let names = table_names(&NETS.map(Path::new), file)?;
        Ok(names.lines().any(|name| name == table))
    }
}

/// The tables of those that we write into which this text for [`Iptables::write`] is about.
pub(crate) fn tables(text: &str) -> impl Iterator<Item = &'static str> {
    let is_about = |table: &&str| text.lines().any(|line| line.strip_prefix('*') == Some(*table));
    ["nat", "filter"].into_iter().filter(is_about)
}

/// Where the kernel tells of the network namespace of this thread; before Linux 3.17, only of the process.
const NETS: [&str; 2] = ["/proc/thread-self/net", "/proc/self/net"];

/// The file with the names of tables, in the first of these directories that is there. The kernel has no
/// such file as long as it has no tables.
fn table_names(nets: &[&Path], file: &str) -> Result<String, FirewallError> {
    let failed = |path: &Path, error: &io::Error| FirewallError::Failed {
        command: format!("reading {}", path.display()),
        reason: error.to_string(),
    };
    let mut missing = None;
    for net in nets {
        let path = net.join(file);
        match fs::read_to_string(&path) {
            Ok(names) => return Ok(names),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&path, &error)),
            Err(error) => match fs::metadata(net) {
                Ok(_) => return Ok(String::new()),
                Err(_) => missing = Some(failed(&path, &error)),
            },
        }
    }
    missing.map_or_else(|| Ok(String::new()), Err)
}

/// Why nothing was written.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Because another program was at it: trying again helps.
    pub(crate) busy: bool,
    pub(crate) error: FirewallError,
}

impl fmt::Display for Iptables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({})",
            program(self.family),
            match self.kind.variant {
                Variant::Nftables => "nf_tables",
                Variant::Legacy => "legacy",
            }
        )
    }
}

impl Known {
    async fn ask(&mut self, program: &Program) -> Result<Kind, FirewallError> {
        let file = program.file();
        if let Some(kind) = self.0.get(&file) {
            return Ok(*kind);
        }
        let text = program.run(&["--version"], "").await?.succeeded()?;
        let kind = Kind::parse(&text).ok_or_else(|| FirewallError::Failed {
            command: format!("{} --version", program.name()),
            reason: "it does not say which version it is".to_owned(),
        })?;
        if self.0.len() >= KNOWN {
            self.0.clear();
        }
        self.0.insert(file, kind);
        Ok(kind)
    }
}

impl Kind {
    /// Reads `iptables v1.8.9 (nf_tables)`; before 1.8 there was but one variant.
    fn parse(text: &str) -> Option<Self> {
        let version = text.split_whitespace().find_map(|word| word.strip_prefix('v'))?;
        let mut numbers = version.split('.').map(|number| {
            let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u32>()
        });
        let version = Version(
            numbers.next()?.ok()?,
            numbers.next()?.ok()?,
            numbers.next().map_or(Some(0), Result::ok)?,
        );
        let variant = if text.contains("(nf_tables)") {
            Variant::Nftables
        } else {
            Variant::Legacy
        };
        Some(Self { variant, version })
    }
}

#[cfg(test)]
#[path = "iptables_host_tests.rs"]
mod tests;
