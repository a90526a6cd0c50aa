#![doc = include_str!("../README.md")]
//!
//! This library holds the parts of the binary that its tests drive on their own: the command line, the log and the
//! wiring. Another program wants `flannel-core` and the crates around it, which read no environment, set up no log and
//! end no process.

mod blocking;
pub mod cleanup_verb;
pub mod config_verb;
pub mod daemon;
pub mod flags;
pub mod health;
mod instance;
pub mod logging;
pub mod notify;
mod shutdown;
pub mod status_report;
pub mod status_verb;
mod store;
