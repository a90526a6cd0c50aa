//! flanneld as an operator sees it: a program, its files and the kernel's routes, on hosts that are network
//! namespaces. Needs root. Times that are measured are printed: `--no-capture` shows them.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::print_stdout,
    reason = "programs are measured in real time, and a test's reader is there"
)]
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its lab has failed")]

mod config_verb;
mod follow;
mod garbage;
mod hand_over;
mod heal;
mod health;
mod log_lines;
mod mistakes;
mod network;
mod orphan;
mod own_networks;
mod reach;
mod repair;
mod restart;
mod start;
mod sweep;
mod uplink;
