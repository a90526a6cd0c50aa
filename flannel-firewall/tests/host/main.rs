//! The rules of a host as `nft` and both variants of `iptables` keep them, each test in network
//! namespaces of its own. Run as root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of a test is a failed test"
)]

mod adopting;
mod bystanders;
mod changing;
mod demands;
mod disturbances;
mod healing;
mod obstacles;
mod quirks;
mod removing;
mod sampler;
mod setting;
