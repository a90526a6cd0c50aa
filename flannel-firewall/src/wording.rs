//! Whether what a program prints may be the rules that were written, in words that are not known here.
//!
//! A rule that is missing, or that somebody has added, is no other wording of what was written; nor is
//! another chain, or another way into it.

use crate::iptables::Seen;
use crate::ruleset::{Names, Ruleset};

/// Of a listed table of nftables, and what was written to make it.
pub(crate) fn of_table(listing: &str, written: &str) -> bool {
    frame(listing) == frame(written)
}

/// Of listed chains of iptables, and what would be written to make them right.
pub(crate) fn of_chains(seen: &Seen, rules: &Ruleset, names: &Names, correction: &str) -> bool {
    let (masquerade, forward) = (names.masquerade_chain(), names.forward_chain());
    let chains = [
        (&masquerade, &seen.masquerade, rules.masquerade.len()),
        (&forward, &seen.forwards, rules.forward.len()),
    ];
    let as_many = chains.iter().all(|(_, listing, wanted)| {
        let rules = |listing: &String| listing.lines().filter(|line| line.starts_with("-A ")).count();
        listing.as_ref().map(rules) == Some(*wanted).filter(|wanted| *wanted > 0)
    });
    // Whatever else is to be written is about the jumps, or about rules that are to go.
    let is_ours = |line: &str| {
        let words: Vec<&str> = line.split(' ').take(2).collect();
        match words.as_slice() {
            ["-A", chain] => chains.iter().any(|(own, ..)| *own == chain),
            [word, ..] => word.starts_with(['*', ':']) || *word == "COMMIT",
            [] => true,
        }
    };
    as_many && correction.lines().all(is_ours)
}

/// A table line by line, without what its rules and comments say, and how priorities are called.
fn frame(text: &str) -> Vec<String> {
    let (mut frame, mut depth) = (Vec::new(), 0_u32);
    for line in text.lines() {
        let line = line.split(" # ").next().unwrap_or_default().trim();
        let is_outside = depth == 0 && !line.starts_with("table ");
        if line.is_empty() || is_outside || line.starts_with("comment ") {
            continue;
        }
        let kept = if line.ends_with('{') {
            depth += 1;
            line.to_owned()
        } else if line == "}" {
            depth = depth.saturating_sub(1);
            line.to_owned()
        } else if line.starts_with("type ") {
            let (hook, policy) = line.split_once(" priority ").unwrap_or((line, ""));
            format!(
                "{hook} {}",
                if policy.contains("drop") { "drop" } else { "accept" }
            )
        } else if depth > 1 {
            "a rule".to_owned()
        } else {
            line.to_owned()
        };
        frame.push(kept);
    }
    frame
}

#[cfg(test)]
#[path = "wording_tests.rs"]
mod tests;
