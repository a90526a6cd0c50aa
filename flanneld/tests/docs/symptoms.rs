//! The mistakes of an operator, made one after the other, for the table of what flanneld says to each.

mod cases;

use std::fs;
use std::process::Command;
use std::time::Duration;

use lab::wait_until;

use crate::fit::fits;
use crate::page::{self, Page, code_spans};
use crate::stage::Stage;

use cases::CASES;
use cases::Made::{Build, Change, Daemon, Ended, Running};

/// Time for a message to be there. Two daemons that publish one address take three seconds to find out.
const SOON: Duration = Duration::from_secs(15);

/// What a daemon says once all is well.
const SETTLED: &str = "routes are in place";

/// The words of the cases.
const WORDS: &str = include_str!("symptoms.sh");

/// Makes every mistake of the table, and looks for what the table says that flanneld says.
///
/// # Panics
/// At a row that nothing is done for, and with what was said where it is something else.
pub(crate) fn make_all(stage: &mut Stage, page: &Page, heading: &str) {
    let rows = page.rows(heading);
    stage.prepare(0, WORDS);
    for case in CASES {
        let found = rows.iter().any(|(_, cells)| cells[0] == case.symptom);
        assert!(found, "{}: no row {:?}", page.name, case.symptom);
    }
    let mut wrong = Vec::new();
    for (line, cells) in &rows {
        let messages = code_spans(&cells[1]);
        let case = CASES.iter().find(|case| case.symptom == cells[0]);
        let case = case.unwrap_or_else(|| panic!("{}:{line}: nobody tries {:?}", page.name, cells[0]));
        assert!(!messages.is_empty(), "{}:{line}: no message", page.name);
        let said = match case.made {
            Daemon(before, flags) => {
                begin(stage, before, flags);
                end(stage, &messages, case.after)
            }
            Change(change) => {
                begin(stage, "", "");
                hear(stage, &[SETTLED.to_owned()]);
                stage.prepare(0, change);
                end(stage, &messages, case.after)
            }
            Ended(question) => {
                begin(stage, "", "");
                end(stage, &[SETTLED.to_owned()], case.after);
                ask(stage, question)
            }
            Running(question) => {
                begin(stage, "", "");
                hear(stage, &[SETTLED.to_owned()]);
                let said = ask(stage, question);
                end(stage, &[], case.after);
                said
            }
            Build(script) => by_build(script),
        };
        println!("== {}\n{said}", cells[0]);
        for message in messages {
            if !is_said(&message, &said) {
                wrong.push(format!("{}:{line}: {message}\nis not said:\n{said}", page.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Starts a daemon after `before` has been done.
fn begin(stage: &mut Stage, before: &str, flags: &str) {
    let before = if before.is_empty() { "true" } else { before };
    stage.prepare(0, &format!("restore && cd && {before}"));
    stage.prepare(0, &format!("begin flanneld {flags}"));
}

/// What it has said when all of this is among it, or when the time is up.
fn hear(stage: &Stage, messages: &[String]) -> String {
    let log = stage.inside(0, "/root/flanneld.log");
    let mut said = String::new();
    let _ = wait_until(SOON, "the messages", || {
        said = fs::read_to_string(&log).unwrap_or_default().replace("\\\"", "\"");
        messages.iter().all(|message| is_said(message, &said))
    });
    said
}

fn end(stage: &mut Stage, messages: &[String], after: &str) -> String {
    let said = hear(stage, messages);
    stage.prepare(0, &format!("end flanneld; {after}\ntrue"));
    said
}

/// What a command says, however it ends.
fn ask(stage: &mut Stage, question: &str) -> String {
    stage.prepare(0, &format!("{question} >said.txt 2>&1\ntrue"));
    fs::read_to_string(stage.inside(0, "/root/said.txt")).unwrap()
}

fn is_said(message: &str, said: &str) -> bool {
    said.lines().any(|line| fits(&[format!("…{message}…")], line))
}

/// What cargo would show.
fn by_build(script: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("build");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let compiled = Command::new(rustc)
        .args(["--edition=2024", "-o"])
        .arg(&program)
        .arg(page::root().join(script))
        .status();
    assert!(compiled.unwrap().success(), "{script}");
    let output = Command::new(program).env_clear().output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
