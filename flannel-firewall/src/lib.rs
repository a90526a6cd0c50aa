#![doc = include_str!("../README.md")]

mod empty_chains;
mod host;
mod iptables;
mod iptables_host;
mod nat;
mod nft;
mod nft_host;
mod origin;
mod place;
mod program;
mod ruleset;
mod wording;

pub use host::{HostFirewall, Leftover, RemovalError};
pub use nat::{Flow, Nat, decide};
pub use ruleset::{Match, Names, Rule, RuleOptions, Ruleset, Verdict};
