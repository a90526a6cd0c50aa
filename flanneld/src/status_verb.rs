//! `flanneld status`: asks every daemon on this host that has its state below one directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::status_report::{FetchError, SOCKET, fetch, render};

/// Why there is nothing to say.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StatusVerbError {
    /// The asynchronous runtime.
    #[error("cannot start: {0}")]
    Start(#[source] io::Error),
    /// The directory cannot be listed.
    #[error("cannot look for daemons below {directory}: {source}; name the daemon's --state-dir", directory = directory.display())]
    Unreadable {
        /// Where they were looked for.
        directory: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// None has ever run there.
    #[error(
        "no flanneld has its state below {directory}; name the daemon's --state-dir if it has another",
        directory = directory.display()
    )]
    None {
        /// Where they were looked for.
        directory: PathBuf,
    },
}

/// What to print, and whether every daemon is there and ready or degraded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answers {
    /// One section for each daemon.
    pub text: String,
    /// Whether pods of every network can be reached.
    pub ready: bool,
}

/// Asks them, one after the other.
///
/// # Errors
///
/// [`StatusVerbError`], when there is nobody to ask.
pub fn run(state_dir: &Path) -> Result<Answers, StatusVerbError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(StatusVerbError::Start)?;
    let sockets = sockets(state_dir)?;
    Ok(runtime.block_on(async {
        let mut answers = Answers {
            text: String::new(),
            ready: true,
        };
        for socket in &sockets {
            let answer = fetch(socket).await;
            answers.add(answer);
        }
        answers
    }))
}

impl Answers {
    fn add(&mut self, answer: Result<crate::status_report::StatusReport, FetchError>) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        match answer {
            Ok(report) => {
                self.ready &= report.ready;
                self.text.push_str(&render(&report));
            }
            Err(error) => {
                self.ready = false;
                self.text.push_str(&format!("{error}\n"));
            }
        }
    }
}

/// In a stable order.
fn sockets(state_dir: &Path) -> Result<Vec<PathBuf>, StatusVerbError> {
    let directory = || state_dir.to_owned();
    let unreadable = |source| StatusVerbError::Unreadable {
        directory: directory(),
        source,
    };
    let entries = match fs::read_dir(state_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(StatusVerbError::None {
                directory: directory(),
            });
        }
        entries => entries.map_err(unreadable)?,
    };
    let paths = entries.map(|entry| Ok(entry.map_err(unreadable)?.path().join(SOCKET)));
    let mut sockets = paths.collect::<Result<Vec<_>, _>>()?;
    sockets.retain(|socket| socket.exists());
    sockets.sort();
    if sockets.is_empty() {
        return Err(StatusVerbError::None {
            directory: directory(),
        });
    }
    Ok(sockets)
}
