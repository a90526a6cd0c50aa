//! What can go wrong in a lab: each message names the object, the value and the remedy.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why the lab could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// Namespaces need root.
    #[error("network namespaces need root: run it again as root, for example with `sudo env PATH=$PATH …`")]
    NotRoot,
    /// A program that the lab runs is not installed.
    #[error("`{program}` is not installed: run `apt-get install {package}`")]
    ProgramMissing {
        /// The program's name.
        program: String,
        /// The Debian package that holds it.
        package: &'static str,
    },
    /// The kernel, or the container around this process, refuses network namespaces.
    #[error(
        "no network namespaces here ({reason}): use a kernel with CONFIG_NET_NS, or a container with --privileged"
    )]
    NoNamespaces {
        /// What was refused.
        reason: String,
    },
    /// A program ended with failure.
    #[error("`{line}` ended with {status}: {stderr}")]
    Program {
        /// The command line.
        line: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it wrote to standard error, trimmed.
        stderr: String,
    },
    /// A program was still running when its time was up, and was killed.
    #[error("`{line}` still ran after {after:?} and was killed")]
    ProgramTimedOut {
        /// The command line.
        line: String,
        /// How long it was given.
        after: Duration,
    },
    /// A file or a process could not be handled.
    #[error("{action}: {source}")]
    Io {
        /// What was being done, with the object's name.
        action: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A condition did not come true in time.
    #[error("waited {after:?} in vain for {what}{detail}")]
    TimedOut {
        /// The condition, as a noun phrase.
        what: String,
        /// How long it was given.
        after: Duration,
        /// What was seen instead; empty, or beginning with a separator.
        detail: String,
    },
    /// A daemon ended while something was expected of it.
    #[error("flanneld on {host} ended with {status} while waiting for {what}; its log ends:\n{log}")]
    DaemonEnded {
        /// The host's name.
        host: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What was expected.
        what: String,
        /// The last lines of its log.
        log: String,
    },
    /// An etcd ended while its answer was waited for.
    #[error("etcd {name} ended with {status}; its log ends:\n{log}")]
    EtcdEnded {
        /// The member's name.
        name: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// There is no flanneld to run.
    #[error("no flanneld at {}: run `cargo build -p flanneld`, or name the binary in $FLANNELD", .0.display())]
    NoDaemonBinary(PathBuf),
    /// A lab of that name lives in this process already.
    #[error("a lab named {0} lives in this process already: give each lab a name of its own")]
    NameTaken(String),
    /// More was asked for than the lab's wire or a subnet holds.
    #[error("{wanted} {what} are too many: at most {limit}")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// How many were asked for.
        wanted: usize,
        /// How many there can be.
        limit: usize,
    },
    /// Text of a program or of the daemon was not understood.
    #[error("{what} was not understood ({reason}): {text}")]
    Text {
        /// Whose text.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
        /// The text.
        text: String,
    },
    /// Nobody answered the ping.
    #[error("{to} did not answer {from} within {within:?}: {sent} sent, {received} answered")]
    NoAnswer {
        /// The namespace that pinged.
        from: String,
        /// The address that was pinged.
        to: std::net::IpAddr,
        /// How long it was tried.
        within: Duration,
        /// Requests sent.
        sent: u64,
        /// Replies that came.
        received: u64,
    },
}

impl LabError {
    pub(crate) fn io(action: &str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action: format!("{action} {}", path.display()),
            source,
        }
    }

    pub(crate) fn text(what: &'static str, reason: impl ToString, text: impl Into<String>) -> Self {
        Self::Text {
            what,
            reason: reason.to_string(),
            text: text.into(),
        }
    }

    /// Whether trying again can help: a wait that was too short, or a ping that got lost.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::TimedOut { .. } | Self::NoAnswer { .. } | Self::ProgramTimedOut { .. }
        )
    }
}
