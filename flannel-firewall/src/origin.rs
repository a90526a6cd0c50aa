//! Which tables and chains iptables has made in nftables because of us, and where rules of ours are.
//!
//! That variant makes `table ip nat` with its `POSTROUTING` when it first writes a rule there, and never
//! removes them. Who wants to leave a host as it was found has to know that they were not there; and which
//! programs are needed for it, should one of them be missing by then.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flannel_core::{Family, FirewallError};
use tokio::time::Instant;

use crate::nft_host::Nft;
use crate::place::Place;
use crate::ruleset::{Names, header};

/// Tables of iptables with rules of ours, and the chains that it has there of itself.
const BUILT_IN: [(&str, &[&str]); 2] = [
    ("nat", &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]),
    ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
];

/// Another id after every boot, which leaves nothing of what is remembered here.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// How long is waited for another daemon that rewrites the file, and how often it is looked.
const LOCK_DEADLINE: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// A file, which all daemons of a host share. After a first line with the boot (`boot <id>`), it has a line
/// for each table (`ip nat`), each chain (`ip nat POSTROUTING`), and each place with rules
/// (`rules iptables-nft ip flannel-ipv4`: the last word tells whose).
#[derive(Debug, Default)]
pub(crate) struct Origin {
    file: Option<PathBuf>,
}

/// What was not there before a write.
pub(crate) struct Absent(BTreeSet<String>);

impl Origin {
    pub(crate) const fn in_file(file: PathBuf) -> Self {
        Self { file: Some(file) }
    }

    /// Remembers before a write that rules will be in a place.
    pub(crate) async fn remember(&self, place: &Place, names: &Names) {
        let Some(file) = &self.file else { return };
        let line = rules_line(place, names);
        let done = rewrite(file, |lines| lines.extend([line.clone()])).await;
        if let Err(error) = done {
            tracing::warn!(
                "cleaning up may leave rules in {place}, should its program be gone by then: {error}"
            );
        }
    }

    /// Rules are not in this place any more.
    pub(crate) async fn forget(&self, place: &Place, names: &Names) -> Result<(), FirewallError> {
        let Some(file) = &self.file else { return Ok(()) };
        let gone = rules_line(place, names);
        rewrite(file, |lines| lines.retain(|line| *line != gone)).await
    }

    /// Where rules with these names are, as [`Place::word`] says it.
    pub(crate) async fn places(
        &self,
        family: Family,
        names: &Names,
    ) -> Result<BTreeSet<String>, FirewallError> {
        let whose = whose(family, names);
        let lines = self.made().await?;
        let words = lines
            .iter()
            .filter_map(|line| line.strip_prefix(RULES)?.strip_suffix(&whose));
        Ok(words.map(str::to_owned).collect())
    }

    /// Remembers before a write what is not there yet, whether or not the write will make it: it may be
    /// the last thing that this process does.
    pub(crate) async fn before(&self, nft: &Nft, family: Family) -> Option<Absent> {
        let file = self.file.as_ref()?;
        let done = async {
            let absent = absent(nft, family).await?;
            rewrite(file, |lines| lines.extend(absent.iter().cloned())).await?;
            Ok::<_, FirewallError>(Absent(absent))
        };
        let done = done.await;
        done.inspect_err(|error| tracing::warn!("cleaning up will leave empty chains behind: {error}"))
            .ok()
    }

    /// Forgets what the write has not made.
    pub(crate) async fn after(&self, nft: &Nft, family: Family, before: Option<Absent>) {
        let (Some(file), Some(Absent(before))) = (&self.file, before) else {
            return;
        };
        let done = async {
            let absent = absent(nft, family).await?;
            rewrite(file, |lines| {
                lines.retain(|line| !before.contains(line) || !absent.contains(line));
            })
            .await
        };
        if let Err(error) = done.await {
            tracing::debug!(%error, "more is remembered than was made");
        }
    }

    /// All that is remembered: what was made because of us, and where rules are.
    pub(crate) async fn made(&self) -> Result<BTreeSet<String>, FirewallError> {
        let Some(file) = &self.file else {
            return Ok(BTreeSet::new());
        };
        remembered(file)
            .await
            .map_err(|error| failed("reading", file, &error))
    }

    /// Forgets which tables and chains of this family were made, but for these lines.
    pub(crate) async fn keep(&self, family: Family, left: &[String]) -> Result<(), FirewallError> {
        let Some(file) = &self.file else { return Ok(()) };
        let of_family = format!("{} ", header(family));
        let is_kept = |line: &String| !line.starts_with(&of_family) || left.contains(line);
        rewrite(file, |lines| lines.retain(is_kept)).await
    }
}

/// What a line about a place starts with.
const RULES: &str = "rules ";

fn rules_line(place: &Place, names: &Names) -> String {
    format!("{RULES}{}{}", place.word(), whose(place.family(), names))
}

/// How such a line ends. Of daemons with other names, each has its own.
fn whose(family: Family, names: &Names) -> String {
    format!(" {} {}", header(family), names.table(family))
}

async fn rewrite(file: &Path, change: impl Fn(&mut BTreeSet<String>)) -> Result<(), FirewallError> {
    let changed = async || {
        let lines = remembered(file).await?;
        let mut changed = lines.clone();
        change(&mut changed);
        Ok::<_, io::Error>((changed != lines).then_some(changed))
    };
    let rewritten = async {
        if changed().await?.is_none() {
            return Ok(());
        }
        let _lock = lock_beside(file).await?;
        let Some(lines) = changed().await? else {
            return Ok(());
        };
        let path = file.to_owned();
        blocking(move || write(&path, &lines)).await
    };
    rewritten.await.map_err(|error| failed("writing", file, &error))
}

async fn remembered(file: &Path) -> io::Result<BTreeSet<String>> {
    let path = file.to_owned();
    blocking(move || read(&path)).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other).and_then(|done| done)
}

fn failed(doing: &str, file: &Path, error: &io::Error) -> FirewallError {
    FirewallError::Failed {
        command: format!("{doing} {}", file.display()),
        reason: error.to_string(),
    }
}

/// Keeps other daemons from rewriting the file, by a lock on its directory, until it is dropped.
async fn lock_beside(file: &Path) -> io::Result<File> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(directory.unwrap_or(Path::new(".")))?;
    let deadline = Instant::now() + LOCK_DEADLINE;
    loop {
        match directory.try_lock() {
            Ok(()) => return Ok(directory),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other("another process has its directory locked"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Of what iptables has of itself, what is not there.
async fn absent(nft: &Nft, family: Family) -> Result<BTreeSet<String>, FirewallError> {
    let outline = nft.outline(family).await?;
    let header = header(family);
    let mut absent = BTreeSet::new();
    for (table, built_in) in BUILT_IN {
        if !outline.has_table(table) {
            absent.insert(format!("{header} {table}"));
        }
        let missing = built_in.iter().filter(|chain| !outline.has_chain(table, chain));
        absent.extend(missing.map(|chain| format!("{header} {table} {chain}")));
    }
    Ok(absent)
}

/// What is remembered since this boot.
fn read(file: &Path) -> io::Result<BTreeSet<String>> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(error),
    };
    let boot = boot_line()?;
    let lines = text.strip_prefix(&boot).unwrap_or_default().lines();
    Ok(lines.map(str::to_owned).collect())
}

/// Puts the file in place of the one that is there; one without lines is removed.
fn write(file: &Path, lines: &BTreeSet<String>) -> io::Result<()> {
    if lines.is_empty() {
        return fs::remove_file(file);
    }
    let boot = boot_line()?;
    let lines = lines.iter().flat_map(|line| [line.as_str(), "\n"]);
    let text: String = [boot.as_str()].into_iter().chain(lines).collect();
    let beside = file.with_extension("new");
    let mut new = File::create(&beside)?;
    new.write_all(text.as_bytes())?;
    new.sync_all()?;
    fs::rename(&beside, file)
}

/// The first line of the file, to its end.
fn boot_line() -> io::Result<String> {
    let id = fs::read_to_string(BOOT_ID)?;
    Ok(format!("boot {}\n", id.trim()))
}

#[cfg(test)]
#[path = "origin_tests.rs"]
mod tests;
