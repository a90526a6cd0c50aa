//! `Netlink` against the real kernel, each test in a network namespace of its own. Run as root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of a test is a failed test"
)]

mod chains;
mod contract;
mod contract_probe;
mod dropping;
mod filtering;
mod namespace;
mod programming;
mod reading;
mod tables;
mod watching;
