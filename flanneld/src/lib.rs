#![doc = include_str!("../README.md")]
//!
//! This library holds the parts of the binary that its tests drive on their own: the command line, the log and the
//! wiring. Another program wants `flannel-core` and the crates around it, which read no environment, set up no log and
//! end no process.

pub mod daemon;
pub mod flags;
pub mod logging;
