//! The program's refusals and answers, as a shell sees them.
#![allow(clippy::disallowed_methods, reason = "exit codes are those of a process")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step fails the test"
)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

fn flanneld(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flanneld"));
    command.env_clear().args(args).stdin(Stdio::null());
    command
}

fn told(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_refusal_is_one_line_on_stderr_and_an_exit_code() {
    for (args, code, said) in [
        (&["--bogus"][..], 2, "flanneld: unknown flag --bogus"),
        (&["--ip-masq", "false"], 2, "write --ip-masq=false"),
        (
            &["--kube-subnet-mgr"],
            1,
            "give --store=file:///var/lib/flannel/net",
        ),
        (
            &["--store=file:///srv/net", "--etcd-endpoints=http://10.0.0.1:2379"],
            1,
            "--etcd-endpoints",
        ),
    ] {
        let Output {
            status,
            stdout,
            stderr,
        } = flanneld(args).output().unwrap();
        let stderr = told(&stderr);
        assert_eq!(status.code(), Some(code), "{args:?}: {stderr}");
        assert!(
            stderr.contains(said) && stderr.ends_with('\n') && stderr.lines().count() == 1,
            "{stderr}"
        );
        assert_eq!(stdout, b"", "{args:?}");
    }
    let variable = flanneld(&[]).env("FLANNELD_IP_MASQ", "maybe").output().unwrap();
    assert_eq!(variable.status.code(), Some(2));
    assert!(told(&variable.stderr).contains("\"maybe\" for FLANNELD_IP_MASQ"));
}

#[test]
fn help_and_version_go_to_stdout_and_succeed() {
    for (args, said) in [
        (["-h"], "Usage: flanneld"),
        (["-help"], "--iface"),
        (["--version"], "v0."),
    ] {
        let Output {
            status,
            stdout,
            stderr,
        } = flanneld(&args).output().unwrap();
        assert_eq!(status.code(), Some(0), "{args:?}");
        assert!(told(&stdout).contains(said), "{args:?}");
        assert_eq!(stderr, b"", "{args:?}");
    }
}

#[test]
fn nobody_to_read_changes_no_exit_code() {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let unread = || {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        writer
    };
    let code = |mut command: Command| command.status().unwrap().code();
    let run = |args: &[&str], stdout: Stdio, stderr: Stdio| {
        let mut command = flanneld(args);
        command.stdout(stdout).stderr(stderr);
        code(command)
    };
    assert_eq!(run(&["--help"], full().into(), full().into()), Some(0));
    assert_eq!(run(&["--help"], unread().into(), unread().into()), Some(0));
    assert_eq!(run(&["--bogus"], full().into(), full().into()), Some(2));
    assert_eq!(run(&["--bogus"], unread().into(), unread().into()), Some(2));
    assert_eq!(
        run(&["--kube-subnet-mgr"], unread().into(), unread().into()),
        Some(1)
    );
}

#[test]
fn a_stalled_reader_does_not_hold_a_refusal() {
    let (_reader, mut writer) = UnixStream::pair().unwrap();
    writer.set_nonblocking(true).unwrap();
    while writer.write(&[b'x'; 1024]).is_ok() {}
    while writer.write(b"x").is_ok() {}
    writer.set_nonblocking(false).unwrap();
    let mut child = flanneld(&["--bogus"])
        .stderr(OwnedFd::from(writer))
        .spawn()
        .unwrap();
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait().unwrap()));
    let status = ended
        .recv_timeout(Duration::from_secs(10))
        .expect("the refusal waits for its reader");
    assert_eq!(status.code(), Some(2));
}
