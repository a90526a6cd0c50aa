//! Whatever becomes of standard error, the daemon neither stops nor dies: this program starts itself as a
//! child that logs, with every kind of bad standard error.
#![allow(
    clippy::disallowed_methods,
    reason = "a bad standard error can only be given to a new process"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step fails the test"
)]

use std::env;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use flanneld::logging::{self, FLUSH_DEADLINE, LogFormat, LogOptions};

/// Set in the child, to the format it shall log in.
const CHILD: &str = "FLANNELD_TEST_LOGGING_CHILD";

/// Events of this program itself would only be logged from warnings up.
const OURS: &str = "flanneld";

const PADDING: &str = "a line of the usual length, give or take";

/// Far more than a pipe (64 KiB) and the queue (4096 lines) hold.
const LINES: usize = 20_000;

/// Far more than the child needs, far less than for ever.
const DEADLINE: Duration = Duration::from_secs(30);

/// The child: logs `LINES` lines, reports what was lost, and does so again after each command on its input.
#[test]
fn child() {
    let Some(format) = env::var_os(CHILD) else { return };
    let format = if format == "json" {
        LogFormat::Json
    } else {
        LogFormat::Text
    };
    let log = logging::start(LogOptions { verbosity: 0, format }, None).unwrap();
    flood();
    let report = |what: &str| {
        let flushed = log.flush(FLUSH_DEADLINE);
        writeln!(
            io::stdout(),
            "\nREPORT {what} flushed={flushed} dropped={}",
            log.dropped()
        )
        .unwrap();
    };
    report("logged");
    for command in io::stdin().lines() {
        match command.unwrap().as_str() {
            "panic" => assert!(thread::spawn(|| panic!("on purpose")).join().is_err()),
            "flood" => flood(),
            "log" => tracing::info!(target: OURS, "one more"),
            unknown => panic!("{unknown}"),
        }
        report("done");
    }
}

fn flood() {
    for number in 0..LINES {
        tracing::info!(target: OURS, number, padding = PADDING, "numbered");
    }
}

/// The child as its parent sees it.
struct Logger {
    child: Child,
    stdin: ChildStdin,
    reports: mpsc::Receiver<Report>,
}

#[derive(Debug)]
struct Report {
    flushed: bool,
    dropped: u64,
}

impl Logger {
    fn start(format: &str, stderr: Stdio) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.stderr(stderr);
        Self::run(command, format)
    }

    fn start_with_stderr_closed() -> Self {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "exec \"$0\" \"$@\" 2>&-"])
            .arg(env::current_exe().unwrap());
        Self::run(command, "text")
    }

    fn run(mut command: Command, format: &str) -> Self {
        command
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(CHILD, format);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The command holds our copy of its standard error, which would keep a pipe open.
        drop(command);
        let stdin = child.stdin.take().unwrap();
        let reports = reports(child.stdout.take().unwrap());
        Self {
            child,
            stdin,
            reports,
        }
    }

    fn report(&self) -> Report {
        self.reports
            .recv_timeout(DEADLINE)
            .expect("the child blocks or has died")
    }

    fn tell(&mut self, command: &str) -> Report {
        writeln!(self.stdin, "{command}").unwrap();
        self.report()
    }

    /// Ends the child's input and waits for its end, which nothing may delay.
    fn end(self) -> ExitStatus {
        let Self { mut child, stdin, .. } = self;
        drop(stdin);
        let pid = child.id();
        let (sender, ended) = mpsc::channel();
        thread::spawn(move || sender.send(child.wait().unwrap()));
        ended
            .recv_timeout(DEADLINE)
            .unwrap_or_else(|_| panic!("child {pid} does not end"))
    }
}

/// Every report that the child prints, as it comes.
fn reports(stdout: ChildStdout) -> mpsc::Receiver<Report> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let value = |key: &str| {
                line.split(' ')
                    .find_map(|word| word.strip_prefix(key))
                    .map(str::to_owned)
            };
            let (Some(flushed), Some(dropped)) = (value("flushed="), value("dropped=")) else {
                continue;
            };
            let report = Report {
                flushed: flushed == "true",
                dropped: dropped.parse().unwrap(),
            };
            if sender.send(report).is_err() {
                return;
            }
        }
    });
    receiver
}

#[test]
fn with_a_reader_everything_arrives_in_order_and_nothing_is_lost() {
    for format in ["text", "json"] {
        let (reader, writer) = io::pipe().unwrap();
        let logger = Logger::start(format, writer.into());
        let text = thread::spawn(move || io::read_to_string(reader).unwrap());
        let report = logger.report();
        assert!(logger.end().success());
        let text = text.join().unwrap();
        let lost = text
            .lines()
            .filter(|line| line.contains("log lines were lost here"))
            .count();
        assert_eq!(lost > 0, report.dropped > 0, "{report:?}");
        assert_eq!(
            text.lines().count() as u64,
            LINES as u64 - report.dropped + lost as u64
        );
        assert!(report.flushed, "{report:?}");
    }
}

#[test]
fn a_closed_stderr_neither_blocks_nor_kills() {
    let mut logger = Logger::start_with_stderr_closed();
    // The runtime has opened /dev/null in its place: nothing counts as lost.
    assert!(logger.report().flushed);
    assert!(logger.tell("panic").flushed);
    assert!(logger.end().success());
}

#[test]
fn a_reader_that_is_gone_neither_blocks_nor_kills_and_all_is_counted() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut logger = Logger::start("text", writer.into());
    let report = logger.report();
    assert!(report.flushed && report.dropped == LINES as u64, "{report:?}");
    assert_eq!(logger.tell("log").dropped, LINES as u64 + 1);
    assert_eq!(logger.tell("panic").dropped, LINES as u64 + 2);
    assert!(logger.end().success());
}

#[test]
fn a_full_disk_neither_blocks_nor_kills_and_all_is_counted() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut logger = Logger::start("json", full.into());
    let report = logger.report();
    assert!(report.flushed && report.dropped == LINES as u64, "{report:?}");
    assert_eq!(logger.tell("panic").dropped, LINES as u64 + 1);
    assert!(logger.end().success());
}

#[test]
fn a_stalled_reader_neither_blocks_nor_kills_nor_holds_the_exit() {
    let (reader, writer) = io::pipe().unwrap();
    let mut logger = Logger::start("text", writer.into());
    let report = logger.report();
    assert!(!report.flushed && report.dropped > 0, "{report:?}");
    let flooded = logger.tell("flood");
    assert!(
        !flooded.flushed && flooded.dropped > report.dropped,
        "{flooded:?}"
    );
    assert!(logger.tell("panic").dropped > flooded.dropped);
    assert!(logger.end().success());
    drop(reader);
}

#[test]
fn when_a_stalled_reader_reads_on_no_line_is_torn_and_the_loss_is_told() {
    let (reader, writer) = io::pipe().unwrap();
    reads_on_after_stall(writer.into(), reader);
}

#[test]
fn a_stderr_that_does_not_block_is_waited_for_likewise() {
    let (reader, writer) = UnixStream::pair().unwrap();
    writer.set_nonblocking(true).unwrap();
    reads_on_after_stall(Stdio::from(OwnedFd::from(writer)), reader);
}

fn reads_on_after_stall(stderr: Stdio, reader: impl Read + Send + 'static) {
    let mut logger = Logger::start("text", stderr);
    let stalled = logger.report();
    assert!(!stalled.flushed && stalled.dropped > 0, "{stalled:?}");

    let text = thread::spawn(move || io::read_to_string(reader).unwrap());
    assert!(
        (0..20).any(|_| logger.tell("log").flushed),
        "reading on does not help"
    );
    let report = logger.tell("log");
    assert!(report.flushed, "{report:?}");
    let panicked = logger.tell("panic");
    assert!(
        panicked.flushed && panicked.dropped == report.dropped,
        "{panicked:?}"
    );
    assert!(logger.end().success());

    let text = text.join().unwrap();
    let (mut numbered, mut lost) = (0, 0);
    for line in text.lines() {
        assert!(
            line.starts_with("20") && line.as_bytes()[10] == b'T',
            "torn: {line:?}"
        );
        if line.contains(" INFO  numbered number=") {
            assert!(line.ends_with(&format!("padding={PADDING:?}")), "torn: {line:?}");
            numbered += 1;
        } else if let Some((_, lines)) = line.split_once("lines=") {
            lost += lines.parse::<u64>().unwrap();
        }
    }
    assert_eq!(lost, panicked.dropped, "every lost line is told");
    assert_eq!(numbered + stalled.dropped, LINES as u64);
    assert!(text.contains(" INFO  one more\n"));
    assert!(
        text.contains(" ERROR panic: on purpose thread="),
        "{}",
        text.lines().last().unwrap_or_default()
    );
}
