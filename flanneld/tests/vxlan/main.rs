//! Overlays as the kernel and the pods see them: hosts on one wire and behind routers, on real hosts. Needs root. Times
//! that are measured are printed: `--no-capture` shows them.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::print_stdout,
    reason = "programs are measured in real time, and a test's reader is there"
)]
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its lab has failed")]

mod cleanup;
mod life;
mod many;
mod matrix;
mod mishaps;
mod network;
mod offload;
mod pings;
mod port;
mod restart;
mod takeover;
mod told;
mod two_networks;
