//! Which tables and chains iptables has made in nftables because of us.
//!
//! That variant makes `table ip nat` with its `POSTROUTING` when it first writes a rule there, and never
//! removes them. Who wants to leave a host as it was found has to know that they were not there.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use flannel_core::{Family, FirewallError};
use tokio::sync::Mutex;

use crate::nft_host::{Nft, header};

/// Tables of iptables with rules of ours, and the chains that it has there of itself.
const BUILT_IN: [(&str, &[&str]); 2] = [
    ("nat", &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]),
    ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
];

/// A file, with a line for each of them: `ip nat` for a table, `ip nat POSTROUTING` for a chain.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    file: Option<PathBuf>,
    /// Held while the file is rewritten.
    rewriting: Mutex<()>,
}

/// What was not there before a write.
pub(crate) struct Absent(BTreeSet<String>);

impl Origin {
    pub(crate) fn in_file(file: PathBuf) -> Self {
        Self {
            file: Some(file),
            rewriting: Mutex::default(),
        }
    }

    /// Remembers before a write what is not there yet, whether or not the write will make it: it may be
    /// the last thing that this process does.
    pub(crate) async fn before(&self, nft: &Nft, family: Family) -> Option<Absent> {
        let file = self.file.as_ref()?;
        let done = async {
            let absent = absent(nft, family).await?;
            self.rewrite(file, |lines| lines.extend(absent.iter().cloned()))
                .await?;
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
            self.rewrite(file, |lines| {
                lines.retain(|line| !before.contains(line) || !absent.contains(line))
            })
            .await
        };
        if let Err(error) = done.await {
            tracing::debug!(%error, "more is remembered than was made");
        }
    }

    /// What was made because of us.
    pub(crate) async fn made(&self) -> BTreeSet<String> {
        let Some(file) = self.file.clone() else {
            return BTreeSet::new();
        };
        let read = tokio::task::spawn_blocking(move || read(&file)).await;
        read.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Forgets what is of this family, but for these lines.
    pub(crate) async fn keep(&self, family: Family, left: &[String]) -> Result<(), FirewallError> {
        let Some(file) = &self.file else { return Ok(()) };
        let of_family = format!("{} ", header(family));
        let is_kept = |line: &String| !line.starts_with(&of_family) || left.contains(line);
        self.rewrite(file, |lines| lines.retain(is_kept)).await
    }

    async fn rewrite(
        &self,
        file: &Path,
        change: impl FnOnce(&mut BTreeSet<String>),
    ) -> Result<(), FirewallError> {
        let _held = self.rewriting.lock().await;
        let lines = self.made().await;
        let mut changed = lines.clone();
        change(&mut changed);
        if changed == lines {
            return Ok(());
        }
        let path = file.to_owned();
        let written = tokio::task::spawn_blocking(move || write(&path, &changed)).await;
        let written = written.map_err(io::Error::other).and_then(|written| written);
        written.map_err(|error| FirewallError::Failed {
            command: format!("writing {}", file.display()),
            reason: error.to_string(),
        })
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

fn read(file: &Path) -> io::Result<BTreeSet<String>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

/// Puts the file in place of the one that is there; one without lines is removed.
fn write(file: &Path, lines: &BTreeSet<String>) -> io::Result<()> {
    if lines.is_empty() {
        return fs::remove_file(file);
    }
    let mut text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
    text.shrink_to_fit();
    let beside = file.with_extension("new");
    let mut new = File::create(&beside)?;
    new.write_all(text.as_bytes())?;
    new.sync_all()?;
    fs::rename(&beside, file)
}
