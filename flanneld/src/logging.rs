//! The log: one line per event on standard error.
//!
//! **No reader and no disk can stop or kill the daemon.** Whoever logs only puts the line into a bounded queue;
//! one thread writes. A line that finds the queue full, or whose write fails, is dropped and counted, and when
//! writing works again one line says how many were lost.

mod drain;
mod layer;
mod line;
mod queue;
#[cfg(test)]
mod tests;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::panic::{self, PanicHookInfo};
use std::sync::Arc;
use std::time::Duration;

use tracing::Level;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Registry};

use layer::LineLayer;
use line::Line;
use queue::Queue;

/// How long the end of the process waits at most for its last lines to be written.
pub const FLUSH_DEADLINE: Duration = Duration::from_millis(500);

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// `2026-11-22T10:11:12.123456Z INFO  message key=value key="with space"`
    #[default]
    Text,
    /// One flat object per line: `time`, `level`, `message`, then the fields.
    Json,
}

/// What to log, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// 0 or less is info, 1 debug, 2 or more trace; for our own crates, others are logged from warnings up.
    pub verbosity: i32,
    /// How a line is written.
    pub format: LogFormat,
}

/// The way to the log's end: counts what was lost, waits for what is queued.
#[derive(Debug, Clone)]
pub struct LogHandle {
    queue: Arc<Queue>,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Standard error could not be duplicated, or the writing thread not started.
    #[error("cannot start writing to standard error: {0}")]
    Start(#[from] io::Error),
    /// The process has a log already.
    #[error("the process has a tracing subscriber already: set one up only once")]
    Installed,
}

/// Sends every `tracing` event of the process, and every panic, to standard error. `rust_log` is the value of
/// `RUST_LOG`, which overrides the verbosity wholly; one that is not a filter is reported and left aside.
pub fn start(options: LogOptions, rust_log: Option<OsString>) -> Result<LogHandle, LogError> {
    let handle = LogHandle::to_stderr(options.format)?;
    let (filter, complaint) = filter(options.verbosity, rust_log);
    let layer = LineLayer::new(options.format, Arc::clone(&handle.queue));
    tracing::subscriber::set_global_default(Registry::default().with(filter).with(layer))
        .map_err(|_| LogError::Installed)?;
    let for_panics = handle.clone();
    panic::set_hook(Box::new(move |info| log_panic(info, options.format, &for_panics)));
    if let Some(complaint) = complaint {
        tracing::warn!(
            error = complaint,
            "RUST_LOG is not a filter and is left aside: correct it or unset it"
        );
    }
    Ok(handle)
}

impl LogHandle {
    /// A writer of lines to standard error, and nothing else: for messages before `start`.
    pub fn to_stderr(format: LogFormat) -> io::Result<Self> {
        // A duplicate, because std's own handle has a lock that a stalled write would hold, and hides EBADF.
        Self::to_file(File::from(io::stderr().as_fd().try_clone_to_owned()?), format)
    }

    /// Likewise to any file, pipe or socket.
    pub fn to_file(file: File, format: LogFormat) -> io::Result<Self> {
        let queue = Arc::new(Queue::new());
        drain::spawn(Arc::clone(&queue), file, format)?;
        Ok(Self { queue })
    }

    /// Queues a line as it is, without time or level; never blocks.
    pub fn line(&self, text: impl Into<String>) {
        let mut line = text.into();
        line.push('\n');
        self.queue.push(line);
    }

    /// How many lines were dropped since the start: the queue was full, or the write failed.
    pub fn dropped(&self) -> u64 {
        self.queue.dropped()
    }

    /// Waits until every queued line was written or dropped, at most `deadline`; false if some are left.
    pub fn flush(&self, deadline: Duration) -> bool {
        self.queue.wait_until_empty(deadline)
    }
}

/// The filter, and what is wrong with `RUST_LOG`.
fn filter(verbosity: i32, rust_log: Option<OsString>) -> (EnvFilter, Option<String>) {
    let level = match verbosity {
        ..=0 => "info",
        1 => "debug",
        2.. => "trace",
    };
    // A target matches by prefix: this one is flanneld and every flannel_* crate.
    let ours = || EnvFilter::new(format!("warn,flannel={level}"));
    let Some(directives) = rust_log.filter(|value| !value.is_empty()) else {
        return (ours(), None);
    };
    let Some(directives) = directives.to_str() else {
        return (ours(), Some("not UTF-8".to_owned()));
    };
    match EnvFilter::try_new(directives) {
        Ok(filter) => (filter, None),
        Err(error) => (ours(), Some(error.to_string())),
    }
}

/// Past `tracing`, in whose midst the panic may have come. Waits for the line, as the process may end next.
fn log_panic(info: &PanicHookInfo<'_>, format: LogFormat, handle: &LogHandle) {
    let payload = info.payload();
    let reason = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    let mut line = Line::new(format, Level::ERROR);
    line.message(&format!("panic: {reason}"));
    line.text("thread", std::thread::current().name().unwrap_or("unnamed"));
    if let Some(location) = info.location() {
        line.text("location", &location.to_string());
    }
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        line.text("backtrace", &backtrace.to_string());
    }
    handle.queue.push(line.finish());
    handle.flush(FLUSH_DEADLINE);
}
