//! `flanneld`, the node agent of a flannel network.

use std::env;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use flanneld::flags::{Command, ConfigVerb, Flags, Note, Parsed, Refusal};
use flanneld::logging::{self, FLUSH_DEADLINE, LogHandle};
use flanneld::notify::Notify;
use flanneld::{cleanup_verb, config_verb, daemon, status_verb};

fn main() -> ExitCode {
    let parsed = match Parsed::new(env::args_os().skip(1), |name| env::var_os(name)) {
        Ok(parsed) => parsed,
        Err(refusal) => return refuse(&refusal),
    };
    let log = match logging::start(parsed.log, env::var_os("RUST_LOG")) {
        Ok(log) => log,
        Err(error) => return last_words(&format!("cannot start the log on standard error: {error}")),
    };
    let done = match &parsed.command {
        Command::Run(flags) => run(flags, &parsed.notes, &log),
        Command::Config(verb, flags) => config(verb, flags, &log),
        Command::Cleanup { flags, dry_run } => cleanup(flags, *dry_run, &log),
        Command::Status { state_dir } => status(state_dir, &log),
    };
    log.flush(FLUSH_DEADLINE);
    if done {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run(flags: &Flags, notes: &[Note], log: &LogHandle) -> bool {
    for note in notes {
        note.log();
    }
    let notify = Notify::new(|name| env::var_os(name));
    let result = daemon::run(flags, &notify, log.clone());
    if let Err(error) = &result {
        notify.status(&error.to_string());
        tracing::error!(%error, "flanneld cannot go on");
    }
    result.is_ok()
}

fn config(verb: &ConfigVerb, flags: &Flags, log: &LogHandle) -> bool {
    match config_verb::run(verb, flags) {
        Ok(text) => writeln!(io::stdout().lock(), "{}", text.trim_end()).is_ok(),
        Err(error) => {
            log.line(format!("flanneld: {error}"));
            false
        }
    }
}

/// Whether nothing is left, or would be.
fn cleanup(flags: &Flags, dry_run: bool, log: &LogHandle) -> bool {
    match cleanup_verb::run(flags, dry_run) {
        Ok(cleaned) => {
            let told = io::stdout().lock().write_all(cleaned.text.as_bytes()).is_ok();
            let failures = cleaned.failures.iter();
            failures.for_each(|failure| log.line(format!("flanneld: {failure}")));
            told && cleaned.failures.is_empty()
        }
        Err(error) => {
            log.line(format!("flanneld: {error}"));
            false
        }
    }
}

/// Whether every daemon is there and does its work.
fn status(state_dir: &Path, log: &LogHandle) -> bool {
    match status_verb::run(state_dir) {
        Ok(answers) => io::stdout().lock().write_all(answers.text.as_bytes()).is_ok() && answers.ready,
        Err(error) => {
            log.line(format!("flanneld: {error}"));
            false
        }
    }
}

/// Help and version go to standard output, everything else is one line of the log. A reader that is gone or
/// stalled changes nothing: the exit code tells.
fn refuse(refusal: &Refusal) -> ExitCode {
    if refusal.to_stdout() {
        let _ = writeln!(io::stdout().lock(), "{refusal}");
    } else if let Ok(log) = LogHandle::to_stderr(logging::LogFormat::Text) {
        log.line(format!("flanneld: {refusal}"));
        log.flush(FLUSH_DEADLINE);
    }
    ExitCode::from(refusal.exit_code())
}

/// For the one failure that the log cannot tell: that there is none.
fn last_words(message: &str) -> ExitCode {
    let _ = writeln!(io::stderr().lock(), "flanneld: {message}");
    ExitCode::FAILURE
}
