//! Other people's programs: found, run without a shell, and never waited for longer than a deadline.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use flannel_core::FirewallError;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// A program that has not ended by then is killed.
const DEADLINE: Duration = Duration::from_secs(10);

/// The most that is read of what a program prints: a chain of ten thousand rules has one or two
/// mebibytes.
const OUTPUT: u64 = 8 << 20;

/// The most characters of a program's words that errors repeat.
const REASON: usize = 400;

/// Where system programs are, which the `PATH` of a service may leave out.
const SYSTEM: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Directories with programs, the first one first.
#[derive(Debug, Clone)]
pub(crate) struct Directories(Vec<PathBuf>);

impl Directories {
    /// Those of `PATH`, then those of system programs.
    pub(crate) fn of_path() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let system = SYSTEM.into_iter().map(PathBuf::from);
        Self(std::env::split_paths(&path).chain(system).collect())
    }

    /// These alone.
    pub(crate) const fn only(directories: Vec<PathBuf>) -> Self {
        Self(directories)
    }

    /// The first program of this name.
    pub(crate) fn find(&self, name: &str) -> Option<Program> {
        let paths = self.0.iter().map(|directory| directory.join(name));
        let path = paths
            .filter(|path| path.is_absolute())
            .find(|path| is_program(path))?;
        Some(Program {
            name: name.to_owned(),
            path,
        })
    }
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// A program that is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    name: String,
    path: PathBuf,
}

/// Which file a program is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct File {
    path: PathBuf,
    written: Option<SystemTime>,
}

impl Program {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The file behind all links, and when it was written: another one where an alternative has been
    /// chosen, or a version installed.
    pub(crate) fn file(&self) -> File {
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let written = fs::metadata(&path).and_then(|file| file.modified()).ok();
        File { path, written }
    }

    /// Runs it, with `input` to read, in the network namespace of the calling thread. It is killed at the
    /// deadline, and when nobody waits for it any more.
    ///
    /// # Errors
    ///
    /// When it did not run to its end; how it ended is in the [`Answer`].
    pub(crate) async fn run(&self, arguments: &[&str], input: &str) -> Result<Answer, FirewallError> {
        let command = format!("{} {}", self.name, arguments.join(" "));
        let failed = |reason: String| FirewallError::Failed {
            command: command.clone(),
            reason,
        };
        let child = Command::new(&self.path)
            .args(arguments)
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let child = child.map_err(|error| failed(error.to_string()))?;
        match tokio::time::timeout(DEADLINE, converse(child, input)).await {
            Err(_) => Err(FirewallError::Deadline {
                command,
                deadline: DEADLINE,
            }),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Ok(Ok(Spoken {
                status,
                stdout,
                stderr,
            })) => Ok(Answer {
                command,
                status,
                stdout,
                stderr,
            }),
        }
    }
}

/// What a program printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Answer {
    command: String,
    status: std::process::ExitStatus,
    stdout: String,
    stderr: String,
}

impl Answer {
    /// What it printed.
    ///
    /// # Errors
    ///
    /// When it says by its exit status that it failed.
    pub(crate) fn succeeded(self) -> Result<String, FirewallError> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        let words = one_line(&self.stderr);
        let reason = if words.is_empty() {
            self.status.to_string()
        } else {
            words
        };
        Err(FirewallError::Failed {
            command: self.command,
            reason,
        })
    }

    /// Its exit status; None where a signal ended it.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// What it printed to standard error.
    pub(crate) fn stderr(&self) -> &str {
        &self.stderr
    }
}

struct Spoken {
    status: std::process::ExitStatus,
    stdout: String,
    stderr: String,
}

async fn converse(mut child: Child, input: &str) -> std::io::Result<Spoken> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // Whoever does not read to the end has said why on standard error.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        Ok(())
    };
    let ((), stdout, stderr) = tokio::try_join!(write, read(stdout), read(stderr))?;
    let status = child.wait().await?;
    Ok(Spoken {
        status,
        stdout,
        stderr,
    })
}

async fn read(pipe: Option<impl AsyncRead + Unpin>) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(OUTPUT + 1).read_to_end(&mut bytes).await?;
    }
    if bytes.len() as u64 > OUTPUT {
        return Err(std::io::Error::other(format!(
            "it prints more than {OUTPUT} bytes"
        )));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A program's words on one line, without the lines that only point at others (`^^^`) and without remarks
/// (`# Warning: …`).
fn one_line(words: &str) -> String {
    let lines = words.lines().map(str::trim);
    let telling = lines.filter(|line| !line.starts_with('#') && line.contains(char::is_alphanumeric));
    let text: Vec<&str> = telling.collect();
    let printable = |character: char| if character.is_control() { ' ' } else { character };
    text.join("; ").chars().map(printable).take(REASON).collect()
}

#[cfg(test)]
#[path = "program_tests.rs"]
mod tests;
