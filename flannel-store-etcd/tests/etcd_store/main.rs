//! The etcd store from outside, against real servers: the contract of every store, what is its own,
//! and what can happen to its servers and on the way there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed check is a panic"
)]

mod config;
mod contract;
mod failover;
mod leases;
mod login;
mod options;
mod outages;
mod place;
mod proxy;
mod tls;
mod v2;
