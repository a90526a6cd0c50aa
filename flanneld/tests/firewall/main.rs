//! Masquerade and forwarding rules, seen from the packets and the tables of real hosts. Needs root. Times that are
//! measured are printed: `--no-capture` shows them.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::print_stdout,
    reason = "programs are measured in real time, and a test's reader is there"
)]
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its lab has failed")]

mod cleanup;
mod docker;
mod faults;
mod heal;
mod matrix;
mod network;
mod obstacles;
mod programs;
mod restart;
