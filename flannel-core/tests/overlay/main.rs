//! An engine with the vxlan backend over the doubles: devices, and what is on them, put themselves right.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of a test is a failed test"
)]

mod fixture;
mod healing;
mod leases;
mod obstacles;
mod restarts;
mod states;
