//! `flanneld`, the node agent of a flannel network.

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

use flanneld::daemon;
use flanneld::flags::{Flags, Refusal};
use flanneld::logging::{self, FLUSH_DEADLINE, LogHandle};

fn main() -> ExitCode {
    let parsed = match Flags::parse(env::args_os().skip(1), |name| env::var_os(name)) {
        Ok(parsed) => parsed,
        Err(refusal) => return refuse(&refusal),
    };
    let log = match logging::start(parsed.flags.log, env::var_os("RUST_LOG")) {
        Ok(log) => log,
        Err(error) => return last_words(&format!("cannot start the log on standard error: {error}")),
    };
    for note in &parsed.notes {
        note.log();
    }
    let result = daemon::run(&parsed.flags);
    if let Err(error) = &result {
        tracing::error!(%error, "flanneld cannot go on");
    }
    log.flush(FLUSH_DEADLINE);
    if result.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
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
