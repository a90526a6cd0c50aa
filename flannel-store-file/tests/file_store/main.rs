//! The file store from outside: the contract of every store, what is its own, and what can happen
//! to its files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed check is a panic"
)]

mod config;
mod contract;
mod hazards;
mod leases;
mod place;
mod processes;
