//! What a daemon says of itself: `/readyz` and its log.

use std::time::{Duration, Instant};

use lab::{Daemon, wait_until};

use crate::network::SOON;

/// Waits until `/readyz` has this code and names all of these, or, without any, is `ready` and nothing else. Returns how
/// long that took.
#[track_caller]
pub(crate) fn becomes(daemon: &Daemon, code: u16, parts: &[&str]) -> Duration {
    becomes_by(|| daemon.get("/readyz"), daemon, code, parts)
}

/// The same with an answer that is to be had otherwise.
#[track_caller]
pub(crate) fn becomes_by(
    answer: impl Fn() -> Option<(u16, String)>,
    daemon: &Daemon,
    code: u16,
    parts: &[&str],
) -> Duration {
    let begin = Instant::now();
    let mut seen = None;
    let reached = wait_until(SOON, "readiness", || {
        seen = answer();
        seen.as_ref().is_some_and(|(is, body)| {
            let said = if parts.is_empty() {
                body == "ready"
            } else {
                parts.iter().all(|part| body.contains(part))
            };
            *is == code && said
        })
    });
    let took = begin.elapsed();
    assert!(
        reached.is_ok(),
        "not {code} with {parts:?}, but {seen:?} in\n{}",
        daemon.log()
    );
    println!("{code} {parts:?} after {took:.1?}");
    took
}

/// Waits until the log tells of everything that a daemon did to the kernel at its start.
#[track_caller]
pub(crate) fn settled(daemon: &Daemon) {
    daemon.wait_for_log("routes are in place", SOON).unwrap();
}

/// The lines of a daemon's log, as far as it has written it, that contain all of these.
pub(crate) fn lines_with(daemon: &Daemon, parts: &[&str]) -> Vec<String> {
    let log = daemon.log();
    let lines = log
        .lines()
        .filter(|line| parts.iter().all(|part| line.contains(part)));
    lines.map(str::to_owned).collect()
}
