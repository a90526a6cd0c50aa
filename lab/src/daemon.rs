//! A running flanneld and its log.

use std::env;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::signal::Signal;
use regex::Regex;

use crate::host::tail;
use crate::program::{lock, signal_pid, spawn_error};
use crate::topology::Site;
use crate::{Host, LabError, wait_until};

/// Time for a killed process to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(5);
/// Time for a daemon that answers at all to answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);
/// Lines of the log that an error quotes.
const QUOTED_LINES: usize = 20;

/// How to run a flanneld.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// More arguments, after `--store`, `--state-dir` and `--subnet-file`, which the lab gives.
    pub arguments: Vec<String>,
    /// More environment variables.
    pub environment: Vec<(String, String)>,
    /// Names the directory of state, `subnet.env` and logs. Daemons side by side on a host need one each; a daemon that
    /// is started again finds its state under the same.
    pub instance: String,
    /// Another store than the lab's, for example `file:///elsewhere`.
    pub store: Option<String>,
}

impl DaemonOptions {
    /// The instance of a daemon that is not told another.
    pub const INSTANCE: &'static str = "flanneld";

    /// With these arguments more.
    pub fn arguments<S: Into<String>>(arguments: impl IntoIterator<Item = S>) -> Self {
        Self {
            arguments: arguments.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// Beside the host's first daemon.
    #[must_use]
    pub fn instance(mut self, name: impl Into<String>) -> Self {
        self.instance = name.into();
        self
    }
}

impl Default for DaemonOptions {
    fn default() -> Self {
        Self {
            arguments: Vec::new(),
            environment: Vec::new(),
            instance: Self::INSTANCE.into(),
            store: None,
        }
    }
}

/// A flanneld that runs, or has run, on a host. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    child: Mutex<Child>,
    pid: u32,
    host: String,
    log: PathBuf,
    state: PathBuf,
}

impl Daemon {
    pub(crate) fn start(
        site: &Site,
        host: &Host,
        run: usize,
        options: DaemonOptions,
    ) -> Result<Self, LabError> {
        let binary = &site.flanneld;
        if !binary.is_file() {
            return Err(LabError::NoDaemonBinary(binary.clone()));
        }
        let DaemonOptions {
            arguments,
            environment,
            instance,
            store,
        } = options;
        let store = store.unwrap_or_else(|| format!("file://{}", site.store().display()));
        let directory = host.directory().join(&instance);
        fs::create_dir_all(&directory).map_err(|error| LabError::io("make", &directory, error))?;
        let path = directory.join(format!("{run}.log"));
        let log = File::options().create(true).append(true).open(&path);
        let (log, copy) = log
            .and_then(|log| Ok((log.try_clone()?, log)))
            .map_err(|error| LabError::io("open the log", &path, error))?;

        let mut command = host.command(&[]);
        command.arg(binary);
        command.arg(format!("--store={store}"));
        command.arg(format!(
            "--state-dir={}",
            host.state_directory(&instance).display()
        ));
        command.arg(format!(
            "--subnet-file={}",
            host.subnet_env_path(&instance).display()
        ));
        command.args(arguments).envs(environment);
        command.stdin(Stdio::null()).stdout(log).stderr(copy);
        let child = command.spawn().map_err(|source| spawn_error(&command, source))?;
        Ok(Self {
            pid: child.id(),
            child: Mutex::new(child),
            host: host.label().to_owned(),
            log: path,
            state: host.state_directory(&instance),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The file that its standard output and error go to; each start has one of its own.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// All it has written so far.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Waits for a line that matches the regular expression `pattern`, and returns the first.
    ///
    /// # Errors
    /// [`LabError::TimedOut`] with the end of the log, [`LabError::DaemonEnded`] as soon as it has ended without the
    /// line, [`LabError::Text`] if the pattern is none.
    pub fn wait_for_log(&self, pattern: &str, within: Duration) -> Result<String, LabError> {
        let pattern = Regex::new(pattern).map_err(|error| LabError::text("a log pattern", error, pattern))?;
        let what = format!("/{pattern}/ in the log of flanneld on {}", self.host);
        let outcome = wait_until(within, &what, || {
            // Asked before the log is read: what it wrote before its end is seen.
            let running = self.must_run(&what);
            match self.log().lines().find(|line| pattern.is_match(line)) {
                Some(line) => Some(Ok(line.to_owned())),
                None => running.err().map(Err),
            }
        });
        outcome.map_err(|_| LabError::TimedOut {
            what,
            after: within,
            detail: format!("; it ends:\n{}", tail(&self.log(), QUOTED_LINES)),
        })?
    }

    /// The lines of its log, as far as it has written it, that contain all of these.
    pub fn lines_with(&self, parts: &[&str]) -> Vec<String> {
        let log = self.log();
        let lines = log
            .lines()
            .filter(|line| parts.iter().all(|part| line.contains(part)));
        lines.map(str::to_owned).collect()
    }

    /// Asks the socket in its state directory, as `/readyz`, and returns the status code and the body. `None`: it does not
    /// answer, or not yet.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let entries = fs::read_dir(&self.state).ok()?.flatten();
        let sockets = entries.map(|entry| entry.path().join("status.sock"));
        let mut stream = sockets
            .filter_map(|socket| UnixStream::connect(socket).ok())
            .next()?;
        stream.set_read_timeout(Some(ANSWER_DEADLINE)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: lab\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// Fails if it has ended, while `what` was expected.
    ///
    /// # Errors
    /// [`LabError::DaemonEnded`] with the end of its log.
    pub fn must_run(&self, what: &str) -> Result<(), LabError> {
        let Some(status) = self.try_wait() else {
            return Ok(());
        };
        let log = tail(&self.log(), QUOTED_LINES);
        Err(LabError::DaemonEnded {
            host: self.host.clone(),
            status,
            what: what.to_owned(),
            log,
        })
    }

    /// How it ended, if it has.
    pub fn try_wait(&self) -> Option<ExitStatus> {
        lock(&self.child).try_wait().ok().flatten()
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// [`LabError::TimedOut`] with the end of its log; it still runs then.
    pub fn wait(&self, within: Duration) -> Result<ExitStatus, LabError> {
        let what = format!("flanneld on {} to end", self.host);
        wait_until(within, &what, || self.try_wait()).map_err(|_| LabError::TimedOut {
            what,
            after: within,
            detail: format!("; its log ends:\n{}", tail(&self.log(), QUOTED_LINES)),
        })
    }

    /// Sends a signal; to one that has ended, nothing.
    ///
    /// # Errors
    /// [`LabError::Io`] if the system refuses.
    pub fn signal(&self, signal: Signal) -> Result<(), LabError> {
        // Under the lock: as long as the child is not reaped, its process id cannot be another's.
        let mut child = lock(&self.child);
        if matches!(child.try_wait(), Ok(None)) {
            signal_pid(self.pid, signal).map_err(|errno| LabError::Io {
                action: format!("send {signal} to flanneld on {}", self.host),
                source: errno.into(),
            })?;
        }
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// [`LabError::TimedOut`] with the end of its log; it still runs then.
    pub fn terminate(&self, within: Duration) -> Result<ExitStatus, LabError> {
        self.signal(Signal::SIGTERM)?;
        self.wait(within)
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// As [`Self::terminate`].
    pub fn kill(&self) -> Result<ExitStatus, LabError> {
        self.signal(Signal::SIGKILL)?;
        self.wait(KILL_DEADLINE)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let mut child = lock(&self.child);
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The daemon to run when nobody names one: `$FLANNELD`, else the one that was built together with this program, which
/// lies beside it or, for a test, one directory up.
pub(crate) fn binary() -> PathBuf {
    if let Some(named) = env::var_os("FLANNELD") {
        return named.into();
    }
    let program = env::current_exe().unwrap_or_default();
    let beside = |level: usize| {
        program
            .ancestors()
            .nth(level)
            .map(|directory| directory.join("flanneld"))
    };
    [beside(1), beside(2)]
        .into_iter()
        .flatten()
        .find(|path| path.is_file())
        .or_else(|| beside(1))
        .unwrap_or_else(|| "flanneld".into())
}
