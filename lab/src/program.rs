//! Programs: run to their end with a deadline, or kept in the background with their lines recorded.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{LabError, wait_until};

/// For programs that only talk to the kernel. Generous, because a loaded machine may stall one.
pub(crate) const PROGRAM_DEADLINE: Duration = Duration::from_secs(20);
/// Time for a background program to end after its signal.
const END_DEADLINE: Duration = Duration::from_secs(2);
/// Lines kept of one background program: an hour of pings each 10 ms, or a route flood.
const MAX_LINES: usize = 400_000;

/// A command in a process group of its own, so that Ctrl-C at the terminal reaches the lab alone, which then takes
/// everything down in order.
pub(crate) fn command<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    command.args(args).process_group(0).env("LC_ALL", "C");
    command
}

/// Runs `command` to its end, with `input` on its standard input.
pub(crate) fn run(mut command: Command, input: &str, within: Duration) -> Result<Output, LabError> {
    let line = line_of(&command);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|source| spawn_error(&command, source))?;
    let pid = child.id();
    let stdin = child.stdin.take();
    let input = input.to_owned();
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        if let Some(mut stdin) = stdin {
            // A program that does not read its input is judged by how it ends.
            let _ = stdin.write_all(input.as_bytes());
        }
        let _ = sender.send(child.wait_with_output());
    });
    match receiver.recv_timeout(within) {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(source)) => Err(LabError::Io {
            action: format!("run `{line}`"),
            source,
        }),
        Err(_) => {
            let _ = signal_pid(pid, Signal::SIGKILL);
            Err(LabError::ProgramTimedOut { line, after: within })
        }
    }
}

/// Runs `command`, which must succeed, and returns what it wrote to standard output.
pub(crate) fn succeed(command: Command, input: &str) -> Result<String, LabError> {
    let line = line_of(&command);
    let output = run(command, input, PROGRAM_DEADLINE)?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(LabError::Program {
            line,
            status: output.status,
            stderr,
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The error of a program that could not be started.
pub(crate) fn spawn_error(command: &Command, source: io::Error) -> LabError {
    let program = command.get_program().to_string_lossy().into_owned();
    if source.kind() == io::ErrorKind::NotFound {
        let package = match program.as_str() {
            "ip" => "iproute2",
            "ping" => "iputils-ping",
            "etcd" => "etcd-server",
            "etcdctl" => "etcd-client",
            "openssl" => "openssl",
            "supervisord" | "supervisorctl" => "supervisor",
            _ => "coreutils",
        };
        return LabError::ProgramMissing { program, package };
    }
    LabError::Io {
        action: format!("start `{program}`"),
        source,
    }
}

fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Sends `signal` to a process that this crate started, or found in one of its namespaces.
pub(crate) fn signal_pid(pid: u32, signal: Signal) -> nix::Result<()> {
    let pid = i32::try_from(pid).map_err(|_| nix::errno::Errno::ESRCH)?;
    kill(Pid::from_raw(pid), signal)
}

/// Locks without regard to a panic elsewhere: what a lab guards stays meaningful.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A line that a background program wrote, and when it was read.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) at: Instant,
    pub(crate) text: String,
}

/// A background program whose lines, of standard output and error together, are recorded. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Recorder {
    child: Child,
    lines: Arc<Mutex<Vec<Line>>>,
    reader: Option<JoinHandle<()>>,
}

impl Recorder {
    pub(crate) fn start(mut command: Command) -> Result<Self, LabError> {
        let pipe = || -> io::Result<_> {
            let (reader, writer) = io::pipe()?;
            let copy = writer.try_clone()?;
            Ok((reader, writer, copy))
        };
        let (reader, writer, copy) = pipe().map_err(|source| LabError::Io {
            action: "make a pipe".into(),
            source,
        })?;
        command.stdin(Stdio::null()).stdout(writer).stderr(copy);
        let child = command.spawn().map_err(|source| spawn_error(&command, source))?;
        // The command holds the pipe's writing ends: with them the reader would never see the end.
        drop(command);
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&lines);
        let reader = thread::spawn(move || {
            for text in BufReader::new(reader).lines().map_while(Result::ok) {
                let mut kept = lock(&kept);
                if kept.len() < MAX_LINES {
                    kept.push(Line {
                        at: Instant::now(),
                        text,
                    });
                }
            }
        });
        Ok(Self {
            child,
            lines,
            reader: Some(reader),
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What was read so far.
    pub(crate) fn lines(&self) -> Vec<Line> {
        lock(&self.lines).clone()
    }

    /// Whether the program has ended by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Ends the program with `signal` and returns all its lines.
    pub(crate) fn stop(mut self, signal: Signal) -> Vec<Line> {
        if self.ended().is_none() {
            let _ = signal_pid(self.child.id(), signal);
            let _ = wait_until(END_DEADLINE, "the program's end", || self.ended());
        }
        self.reap();
        std::mem::take(&mut *lock(&self.lines))
    }

    fn reap(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.reap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_is_reported_with_its_line_and_its_words() {
        let error = succeed(command("sh", ["-c", "echo so not >&2; exit 3"]), "").unwrap_err();
        assert!(
            matches!(&error, LabError::Program { status, .. } if status.code() == Some(3)),
            "{error:?}"
        );
        assert!(error.to_string().contains("so not"), "{error}");
    }

    #[test]
    fn a_program_that_hangs_is_killed_at_its_deadline() {
        let begin = Instant::now();
        let error = run(command("sleep", ["60"]), "", Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, LabError::ProgramTimedOut { .. }), "{error:?}");
        assert!(begin.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_missing_program_names_the_package_to_install() {
        let error = spawn_error(&command("ip", [""; 0]), io::Error::from(io::ErrorKind::NotFound));
        assert!(error.to_string().contains("apt-get install iproute2"), "{error}");
    }

    #[test]
    fn a_recorder_keeps_every_line_written_before_the_program_was_stopped() {
        let recorder =
            Recorder::start(command("sh", ["-c", "echo one; echo two >&2; exec sleep 60"])).unwrap();
        wait_until(Duration::from_secs(5), "two lines", || {
            recorder.lines().len() == 2
        })
        .unwrap();
        let lines: Vec<String> = recorder
            .stop(Signal::SIGINT)
            .into_iter()
            .map(|line| line.text)
            .collect();
        assert_eq!(lines, ["one", "two"]);
    }
}
