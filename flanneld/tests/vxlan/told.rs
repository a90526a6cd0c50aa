//! What a daemon says of itself: `/readyz` and its log.

use std::time::Duration;

use lab::{Daemon, wait_until_told};

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
    let told = wait_until_told(SOON, code, parts, answer);
    let took = told.unwrap_or_else(|error| panic!("{error} in\n{}", daemon.log()));
    println!("{code} {parts:?} after {took:.1?}");
    took
}

/// Waits until the log tells of everything that a daemon did to the kernel at its start.
#[track_caller]
pub(crate) fn settled(daemon: &Daemon) {
    daemon.wait_for_log("routes are in place", SOON).unwrap();
}
