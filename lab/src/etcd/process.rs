//! The process behind a member.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use nix::sys::signal::Signal;

use crate::LabError;
use crate::program::{signal_pid, spawn_error};

/// A running etcd and its guard: a shell that kills it when this process ends without having done so.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) child: Child,
    guard: Option<(Child, ChildStdin)>,
}

impl Process {
    pub(super) fn start(mut command: Command, log: PathBuf) -> Result<Self, LabError> {
        let file = File::create(&log)
            .and_then(|log| Ok((log.try_clone()?, log)))
            .map_err(|error| LabError::io("open the log", &log, error))?;
        command.stdin(Stdio::null()).stdout(file.0).stderr(file.1);
        let child = command.spawn().map_err(|source| spawn_error(&command, source))?;
        // From here on a failure kills the child.
        let mut process = Self { child, guard: None };
        let script = format!("read -r done || kill -9 {}", process.child.id());
        let mut guard = crate::program::command("sh", ["-c", &script]);
        guard
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut guard = guard.spawn().map_err(|source| spawn_error(&guard, source))?;
        process.guard = guard.stdin.take().map(|stdin| (guard, stdin));
        Ok(process)
    }

    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    pub(super) fn signal(&mut self, signal: Signal) -> std::io::Result<()> {
        // Asked first: as long as the child is not reaped, its process id cannot be another's.
        if self.ended().is_none() {
            signal_pid(self.child.id(), signal)?;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The guard first: once the child is reaped, its process id may become another's.
        if let Some((mut guard, mut stdin)) = self.guard.take() {
            let _ = stdin.write_all(b"done\n");
            drop(stdin);
            let _ = guard.wait();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
