//! One daemon for each network and subnet file: takes the state directory, from a predecessor if need be.

use std::fs;
use std::path::Path;
use std::time::Duration;

use flannel_core::{StateDir, StateDirError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::blocking::off_the_loop;

/// A predecessor that is about to end gets so long to let the state directory and the port go. Supervisors take a program
/// for started that has run for three seconds, as guides set it: one that cannot start has ended before.
pub(crate) const HANDOVER: Duration = Duration::from_secs(2);

/// How often it is tried.
pub(crate) const RETRY_EVERY: Duration = Duration::from_millis(50);

/// Waiting is worth a line after this. A holder that has ended may be outlived for a moment by a program that it has just
/// started, whose copy of the lock goes when the program begins.
const TELL_AFTER: Duration = Duration::from_millis(500);

/// Says in the state directory who holds it: process, its parent, and when it started.
const HOLDER: &str = "holder";

/// Takes the state directory of `purpose`. A holder whose parent died while it ran is one that a supervisor has lost
/// with the script around it, and that nobody will end any more: it is asked to. Any other has until `deadline` to end by
/// itself.
///
/// # Errors
///
/// [`StateDirError`]; its `Locked` names the holder.
pub(crate) async fn take(root: &Path, purpose: &str, deadline: Instant) -> Result<StateDir, StateDirError> {
    let (mut told, mut asked) = (false, false);
    let begin = Instant::now();
    loop {
        let (path, what) = (root.to_owned(), purpose.to_owned());
        let opened = off_the_loop(move || {
            let state = StateDir::open(&path, &what)?;
            sign(state.path());
            Ok(state)
        });
        let error = match opened.await {
            Err(error @ StateDirError::Locked { .. }) if Instant::now() < deadline => error,
            result => return result,
        };
        if let StateDirError::Locked { pid, directory, .. } = &error
            && !asked
        {
            let (pid, directory) = (pid.clone(), directory.clone());
            asked = off_the_loop(move || ask_orphan_to_end(&directory, &pid)).await;
        }
        if !told && !asked && begin.elapsed() >= TELL_AFTER {
            warn!(%error, "waiting for it to end");
            told = true;
        }
        sleep(RETRY_EVERY).await;
    }
}

/// Without this file, or without /proc, nobody gives way to anybody.
fn sign(directory: &Path) {
    let pid = std::process::id();
    let signed = Process::of(&pid.to_string()).map(|own| fs::write(directory.join(HOLDER), own.to_line(pid)));
    if !matches!(signed, Some(Ok(()))) {
        warn!(pid, directory = %directory.display(), "cannot note who holds the state: no later flanneld can take over");
    }
}

/// Whether the holder was asked.
fn ask_orphan_to_end(directory: &Path, pid: &str) -> bool {
    let Some(holder) = fs::read_to_string(directory.join(HOLDER)).ok() else {
        return false;
    };
    let Ok(number) = pid.parse() else { return false };
    if !Process::of(pid).is_some_and(|now| now.lost_parent(&holder, number)) {
        return false;
    }
    let asked =
        i32::try_from(number).is_ok_and(|number| kill(Pid::from_raw(number), Signal::SIGTERM).is_ok());
    if asked {
        info!(
            holder = number,
            "the process that started the holder is gone: it gives way to this one"
        );
    }
    asked
}

/// What tells a process from another of the same number, and an orphan from one with parents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    parent: u32,
    /// In clock ticks since the kernel started.
    started: u64,
}

impl Process {
    fn of(pid: &str) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// proc_pid_stat(5): the second field is the name in parentheses, which may hold spaces and parentheses itself.
    fn parse(stat: &str) -> Option<Self> {
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let parent = fields.nth(1)?.parse().ok()?;
        let started = fields.nth(17)?.parse().ok()?;
        Some(Self { parent, started })
    }

    fn to_line(self, pid: u32) -> String {
        format!("{pid} {} {}\n", self.parent, self.started)
    }

    /// Whether this is the process that signed, and its parent is another by now.
    fn lost_parent(self, signed: &str, pid: u32) -> bool {
        let mut fields = signed.split_ascii_whitespace().map(str::parse::<u64>);
        let mut next = || fields.next()?.ok();
        let (signed_pid, parent, started) = (next(), next(), next());
        signed_pid == Some(pid.into())
            && started == Some(self.started)
            && parent.is_some_and(|parent| parent != u64::from(self.parent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "4711 (a (b) c) S 4242 4711 4711 0 -1 4194560 95 0 0 0 0 0 0 0 20 0 1 0 815 8454144 \
                        410 18446744073709551615 1 1 0 0 0 0 0";

    #[test]
    fn parent_and_start_are_read_whatever_the_name_of_the_program() {
        let expected = Process {
            parent: 4242,
            started: 815,
        };
        assert_eq!(Process::parse(STAT), Some(expected));
        assert_eq!(Process::parse("4711 (x"), None);
        assert_eq!(Process::parse("4711 (x) S 1"), None);
    }

    #[test]
    fn this_process_is_itself_and_has_its_parent() {
        let pid = std::process::id();
        let own = Process::of(&pid.to_string()).unwrap();
        assert!(!own.lost_parent(&own.to_line(pid), pid));
    }

    #[test]
    fn only_the_process_that_signed_can_have_lost_its_parent() {
        let orphan = Process {
            parent: 1,
            started: 815,
        };
        assert!(orphan.lost_parent("4711 4242 815\n", 4711));
        for (signed, why) in [
            ("4711 1 815\n", "its parent is the same"),
            ("4712 4242 815\n", "another process signed"),
            ("4711 4242 816\n", "the number was given out again"),
            ("4711 4242\n", "cut off"),
            ("", "empty"),
            ("a b c", "garbage"),
        ] {
            assert!(!orphan.lost_parent(signed, 4711), "{why}");
        }
    }
}
