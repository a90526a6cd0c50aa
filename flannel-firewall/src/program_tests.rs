use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::*;

/// How long is waited for what happens at once.
const SOON: Duration = Duration::from_secs(10);

/// A directory with a shell script of this name.
fn script(name: &str, text: &str) -> (TempDir, Program) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let program = Directories::only(vec![directory.path().to_owned()])
        .find(name)
        .unwrap();
    (directory, program)
}

#[tokio::test]
async fn a_program_reads_prints_and_is_spoken_to_in_no_foreign_tongue() {
    let (_directory, program) = script("echo", "cat; echo \"$1 $LC_ALL\"; echo words >&2");
    let answer = program.run(&["$HOME; exit 1"], "text\n").await.unwrap();
    assert_eq!((answer.code(), answer.stderr()), (Some(0), "words\n"));
    assert_eq!(answer.succeeded().unwrap(), "text\n$HOME; exit 1 C\n");
}

#[tokio::test]
async fn what_a_failed_program_says_is_told_on_one_line() {
    let words = "printf 'at:1:2-3: Error: no such thing\\nadd rule x\\n         ^^^^\\n# Warning: old\\n' >&2; exit 7";
    let (_directory, program) = script("nft", words);
    let error = program
        .run(&["-f", "-"], "")
        .await
        .unwrap()
        .succeeded()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "nft -f - failed: at:1:2-3: Error: no such thing; add rule x"
    );
    let (_directory, program) = script("silent", "kill -9 $$");
    let error = program.run(&[], "").await.unwrap().succeeded().unwrap_err();
    assert_eq!(error.to_string(), "silent  failed: signal: 9 (SIGKILL)");
}

#[tokio::test]
async fn long_and_unprintable_words_are_cut() {
    let (_directory, program) = script("loud", "printf 'a\\033[31m' >&2; printf '%01000d' 1 >&2; exit 1");
    let error = program
        .run(&[], "")
        .await
        .unwrap()
        .succeeded()
        .unwrap_err()
        .to_string();
    assert!(!error.contains('\x1b') && error.len() < 500, "{error}");
}

#[tokio::test]
async fn a_program_that_prints_without_end_is_not_read_without_end() {
    let (_directory, program) = script("yes", "exec yes");
    let error = program.run(&[], "").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "yes  failed: it prints more than 8388608 bytes"
    );
}

#[tokio::test]
async fn a_program_that_does_not_read_does_not_hang() {
    let (_directory, program) = script("deaf", "echo done");
    let text = "x".repeat(1 << 20);
    assert_eq!(
        program.run(&[], &text).await.unwrap().succeeded().unwrap(),
        "done\n"
    );
}

#[tokio::test(start_paused = true)]
async fn a_program_that_does_not_end_is_given_up() {
    let (_directory, program) = script("sleeper", "exec sleep 1000");
    let started = Instant::now();
    let error = program.run(&["-S"], "").await.unwrap_err();
    assert!(error.is_transient());
    assert!(
        error
            .to_string()
            .starts_with("sleeper -S has not ended within 10s"),
        "{error}"
    );
    assert_eq!(started.elapsed(), DEADLINE);
}

#[tokio::test]
async fn a_program_that_nobody_waits_for_is_killed() {
    let (directory, program) = script("sleeper", "echo $$ > $1.new; mv $1.new $1; exec sleep 1000");
    let file = directory.path().join("pid");
    let path = file.display().to_string();
    let waiting = tokio::spawn(async move { program.run(&[&path], "").await.map(drop) });
    let started = Instant::now();
    while !file.exists() {
        assert!(started.elapsed() < SOON);
        sleep(Duration::from_millis(5)).await;
    }
    let pid = fs::read_to_string(&file).unwrap();
    let process = Path::new("/proc").join(pid.trim());
    assert!(process.exists());
    waiting.abort();
    while process.exists() {
        assert!(started.elapsed() < SOON, "{} lives", process.display());
        sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn only_what_can_be_run_is_a_program_and_the_first_one_is_taken() {
    let (first, _) = script("tool", "");
    let (second, _) = script("tool", "");
    let file = first.path().join("tool");
    let directories = [&first, &second].map(|directory| directory.path().to_owned());
    let directories = Directories::only(directories.to_vec());
    assert_eq!(directories.find("tool").unwrap().path, file);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(directories.find("tool").unwrap().path, second.path().join("tool"));
    assert_eq!(directories.find("other"), None);
    // A relative path would depend on where the daemon was started.
    assert_eq!(
        Directories::only(vec![PathBuf::from("usr/bin"), PathBuf::new()]).find("sh"),
        None
    );
}
