//! Doubles of the store, the kernel and the firewall, and the contract suites that real ones pass, too.
//!
//! Not for production: it panics on purpose.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a failed check is a panic"
)]

mod fake_firewall;
mod fake_kernel;
mod fake_store;
pub mod programmer_contract;
mod sim;
pub mod store_contract;

pub use fake_firewall::FakeFirewall;
pub use fake_kernel::*;
pub use fake_store::*;
pub use sim::{PlainRoutes, Sim, SimBackend, SimFamilies, SimHost, TTL};
