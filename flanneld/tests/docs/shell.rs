//! The shell of one host: one bash from the first command of a page to the last.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

/// No command of a page takes as long.
const DEADLINE: Duration = Duration::from_secs(60);
/// Of output that is kept of one command.
const MAX_OUTPUT: u64 = 1024 * 1024;

/// A bash that reads commands from the test. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Shell {
    child: Child,
    stdin: ChildStdin,
    statuses: Receiver<i32>,
    directory: PathBuf,
    count: usize,
}

/// What a command left.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: i32,
    /// Standard output and error, as a terminal shows them.
    pub(crate) output: String,
}

impl Shell {
    /// Begins with `command`, which must become a bash that reads its standard input; `directory` is for its files.
    pub(crate) fn start(mut command: Command, directory: &Path) -> Self {
        fs::create_dir_all(directory).unwrap();
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, statuses) = sync_channel(1);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let Ok(status) = line.trim().parse() else { break };
                if sender.send(status).is_err() {
                    break;
                }
            }
        });
        Self {
            stdin: child.stdin.take().unwrap(),
            child,
            statuses,
            directory: directory.to_owned(),
            count: 0,
        }
    }

    /// The process whose namespaces are those of the host.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs a command as if it was typed: what it sets stays set.
    ///
    /// # Errors
    /// That it, or the shell, does not come back.
    pub(crate) fn run(&mut self, text: &str) -> Result<Outcome, String> {
        self.count += 1;
        let [script, output] =
            ["sh", "out"].map(|kind| self.directory.join(format!("{}.{kind}", self.count)));
        fs::write(&script, format!("{text}\n")).unwrap();
        let (script, path) = (script.display(), output.display());
        // The command's output goes to a file, so that what it leaves running holds no pipe open.
        let line = format!(". '{script}' >'{path}' 2>&1 </dev/null; echo $?\n");
        let written = self.stdin.write_all(line.as_bytes());
        let status = match written {
            Ok(()) => self
                .statuses
                .recv_timeout(DEADLINE)
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let mut bytes = Vec::new();
        if let Ok(file) = File::open(&output) {
            file.take(MAX_OUTPUT).read_to_end(&mut bytes).unwrap();
        }
        let output = String::from_utf8_lossy(&bytes).into_owned();
        match status {
            Ok(status) => Ok(Outcome { status, output }),
            Err(error) => Err(format!("the shell does not come back ({error}):\n{output}")),
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
