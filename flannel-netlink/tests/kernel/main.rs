//! `Netlink` against the real kernel, each test in a network namespace of its own. Run as root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of a test is a failed test"
)]

mod chains;
mod contract;
mod devices;
mod dropping;
mod filtering;
mod link_layer;
mod many;
mod namespace;
mod overlay;
mod overlay_watching;
mod programming;
mod reading;
mod refusals;
mod tables;
mod watching;
