//! `flanneld status`: asks every daemon on this host that has its state below one directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::status_report::{FetchError, SOCKET, StatusReport, fetch, render};

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

/// What to print, and whether every daemon that is there is ready or degraded, and one is there.
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
        let mut answers = Vec::new();
        for socket in &sockets {
            answers.push(fetch(socket).await);
        }
        Answers::of(&answers)
    }))
}

impl Answers {
    /// Beside a daemon that answers, a socket where nobody is was left by one with other options.
    fn of(answers: &[Result<StatusReport, FetchError>]) -> Self {
        let one_is_there = answers.iter().any(Result::is_ok);
        let fails = |answer: &Result<StatusReport, FetchError>| match answer {
            Ok(report) => !report.ready,
            Err(FetchError::NotRunning { .. }) => !one_is_there,
            Err(_) => true,
        };
        let sections = answers.iter().map(|answer| match answer {
            Ok(report) => render(report),
            Err(error) => format!("{error}\n"),
        });
        Self {
            text: sections.collect::<Vec<_>>().join("\n"),
            ready: !answers.iter().any(fails),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(ready: bool) -> Result<StatusReport, FetchError> {
        Ok(StatusReport {
            ready,
            ..StatusReport::default()
        })
    }

    fn nobody() -> Result<StatusReport, FetchError> {
        Err(FetchError::NotRunning {
            socket: "/s/status.sock".into(),
            source: io::ErrorKind::ConnectionRefused.into(),
        })
    }

    #[test]
    fn each_daemon_has_a_section_of_its_own() {
        let text = Answers::of(&[answer(true), nobody(), answer(true)]).text;
        let sections: Vec<&str> = text
            .split("\n\nno flanneld answers at /s/status.sock: ")
            .collect();
        assert_eq!(sections.len(), 2, "{text}");
        assert!(sections[1].contains("its log says why\n\nflanneld "), "{text}");
        assert!(text.ends_with('\n'), "{text}");
    }

    #[test]
    fn every_daemon_that_is_there_has_to_be_ready_and_one_has_to_be_there() {
        for (answers, ready) in [
            (vec![answer(true)], true),
            (vec![answer(true), answer(false)], false),
            (vec![answer(true), nobody()], true),
            (vec![nobody()], false),
            (
                vec![
                    answer(true),
                    Err(FetchError::Silent {
                        socket: "/s/status.sock".into(),
                    }),
                ],
                false,
            ),
        ] {
            let said = Answers::of(&answers);
            assert_eq!(said.ready, ready, "{answers:?}");
            assert!(
                answers.iter().all(Result::is_ok) || said.text.contains("/s/status.sock"),
                "{said:?}"
            );
        }
    }
}
