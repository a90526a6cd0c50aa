//! Rules in the words of `iptables` and `ip6tables`: a chain of our own in the tables nat and filter,
//! behind one jump each.

mod line;
mod obstacle;
mod stale;

use std::fmt::Write as _;

pub(crate) use obstacle::obstacles;

use flannel_core::Family;
use ipnet::IpNet;

use crate::ruleset::{Match, Names, Rule, Ruleset, Verdict, mark_text};
use line::{Chain, Line};
use stale::Old;

/// What the host has at present, as `iptables -t <table> -S <chain>` prints it; of IPv6, `ip6tables`.
///
/// Chains of ours are None where the program says that there is none, by its exit status 1: the older
/// variant says `No chain/target/match by that name.`, the one on nftables (1.8.9) ``chain
/// `FLANNEL-FWD' in table `filter' is incompatible, use 'nft' tool.``
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    /// `-t nat -S POSTROUTING`.
    pub(crate) postrouting: String,
    /// `-t nat -S FLANNEL-POSTRTG`, or what [`Names::masquerade_chain`] says.
    pub(crate) masquerade: Option<String>,
    /// `-t filter -S FORWARD`.
    pub(crate) forward: String,
    /// `-t filter -S FLANNEL-FWD`, or what [`Names::forward_chain`] says.
    pub(crate) forwards: Option<String>,
}

/// What `iptables-restore --noflush` reads to make everything right, one transaction for each table;
/// None where it is.
///
/// Our chain is rewritten whole where it is not exactly these rules in this order. The jump to it
/// keeps its place in the built-in chain, or is appended. What a flannel before v0.20 left in the
/// built-in chains is removed in the same transaction, as far as it is surely flannel's (the module
/// `stale` says when); `former` are networks that had such rules, besides the one of these rules. Of
/// the operator's rules none is removed, changed or moved.
pub(crate) fn transaction(rules: &Ruleset, names: &Names, seen: &Seen, former: &[IpNet]) -> Option<String> {
    let old = Old::replaced_by(rules, names, former);
    written(&parts(rules, names, seen, &old))
}

/// What [`transaction`] removes from the built-in chains that does not bear flannel's comment, so that
/// people find it missing: the commands, without program and table, that would make it anew
/// (`-A FORWARD -s 10.244.0.0/16 -j ACCEPT`).
pub(crate) fn outdated(rules: &Ruleset, names: &Names, seen: &Seen, former: &[IpNet]) -> Vec<String> {
    let old = Old::replaced_by(rules, names, former);
    let mut commands = Vec::new();
    for part in parts(rules, names, seen, &old) {
        let deleted = part.changes();
        let deleted = deleted.iter().filter_map(|line| line.strip_prefix("-D "));
        let strange = deleted.filter(|text| !text.contains(part.comment));
        commands.extend(strange.map(|text| format!("-A {text}")));
    }
    commands
}

/// What `iptables-restore --noflush` reads to remove all that is ours; None where there is nothing.
/// `networks` are those of which a flannel before v0.20 may have left rules, the present one included;
/// of rules without comments, only what is flannel's beyond doubt (the module `stale` says when).
pub(crate) fn removal(family: Family, names: &Names, seen: &Seen, networks: &[IpNet]) -> Option<String> {
    let old = Old::beyond_doubt(names, seen, networks);
    written(&parts(&Ruleset::none(family), names, seen, &old))
}

/// What [`removal`] would remove: the commands of `program` that would make it anew.
pub(crate) fn leftovers(
    program: &str,
    family: Family,
    names: &Names,
    seen: &Seen,
    networks: &[IpNet],
) -> Vec<String> {
    let old = Old::beyond_doubt(names, seen, networks);
    let mut commands = Vec::new();
    for part in parts(&Ruleset::none(family), names, seen, &old) {
        let mut lines = Vec::new();
        if let Some(chain) = &part.present {
            lines.push(format!("-N {}", part.chain));
            lines.extend(chain.lines.iter().map(|line| format!("-A {}", line.text)));
        }
        lines.extend(part.unwanted().into_iter().map(|text| format!("-A {text}")));
        commands.extend(
            lines
                .iter()
                .map(|line| format!("{program} -t {} {line}", part.table)),
        );
    }
    commands
}

fn written(parts: &[Part<'_>]) -> Option<String> {
    let mut text = String::new();
    for part in parts {
        let lines = part.changes();
        if !lines.is_empty() {
            let _ = writeln!(text, "*{}\n{}\nCOMMIT", part.table, lines.join("\n"));
        }
    }
    (!text.is_empty()).then_some(text)
}

/// One of the two chains: what is there, and what ought to be.
struct Part<'a> {
    table: &'static str,
    /// Our chain.
    chain: String,
    comment: &'static str,
    wanted: &'a [Rule],
    /// Our chain as it is.
    present: Option<Chain<'a>>,
    /// The built-in chain from which the jump comes, and its name.
    hook: Chain<'a>,
    hook_name: &'static str,
    /// Of that, what flannel had put there before it had chains.
    stale: fn(&[&Line<'a>], &Old) -> Vec<&'a str>,
    old: &'a Old,
}

fn parts<'a>(rules: &'a Ruleset, names: &Names, seen: &'a Seen, old: &'a Old) -> [Part<'a>; 2] {
    let masquerade = Part {
        table: "nat",
        chain: names.masquerade_chain(),
        comment: MASQUERADE_COMMENT,
        wanted: &rules.masquerade,
        present: seen.masquerade.as_deref().map(Chain::parse),
        hook: Chain::parse(&seen.postrouting),
        hook_name: POSTROUTING,
        stale: stale::masquerading,
        old,
    };
    let forward = Part {
        table: "filter",
        chain: names.forward_chain(),
        comment: FORWARD_COMMENT,
        wanted: &rules.forward,
        present: seen.forwards.as_deref().map(Chain::parse),
        hook: Chain::parse(&seen.forward),
        hook_name: FORWARD,
        stale: stale::forwarding,
        old,
    };
    [masquerade, forward]
}

/// Built-in chains, and the comments of flannel's rules behind them.
const POSTROUTING: &str = "POSTROUTING";
const MASQUERADE_COMMENT: &str = "flanneld masq";
const FORWARD: &str = "FORWARD";
const FORWARD_COMMENT: &str = "flanneld forward";

impl<'a> Part<'a> {
    /// What is to be done in this table.
    fn changes(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.wanted.is_empty() {
            lines.extend(self.unwanted().into_iter().map(|text| format!("-D {text}")));
            if self.present.is_some() {
                // The chain has to be empty, and nothing may lead to it.
                lines.extend([format!("-F {}", self.chain), format!("-X {}", self.chain)]);
            }
            return lines;
        }
        if !self.is_right() {
            // Empties the chain where it is there, whatever `--noflush` says of the others.
            lines.push(format!(":{} - [0:0]", self.chain));
            lines.extend(self.wanted.iter().map(|rule| self.command(rule)));
        }
        let places = || self.hook.lines.iter().enumerate();
        let jumps: Vec<_> = places().filter(|(_, line)| self.is_jump(line)).collect();
        lines.extend(self.one_jump(&jumps));
        let first = jumps.first().map(|(place, _)| *place);
        let staying = places().filter(|(place, line)| Some(*place) == first || !self.is_jump(line));
        let staying: Vec<_> = staying.map(|(_, line)| line).collect();
        let stale = (self.stale)(&staying, self.old).into_iter();
        lines.extend(stale.map(|text| format!("-D {text}")));
        lines
    }

    /// What is to go from the built-in chain together with our chain: whatever leads there, and what
    /// earlier flannels had put there.
    fn unwanted(&self) -> Vec<&'a str> {
        let lines = self.hook.lines.iter();
        let (leading, others): (Vec<_>, Vec<_>) = lines.partition(|line| line.leads_to(&self.chain));
        let mut texts: Vec<&str> = leading.iter().map(|line| line.text).collect();
        texts.extend((self.stale)(&others, self.old));
        texts
    }

    /// Whether our chain is exactly what it ought to be.
    fn is_right(&self) -> bool {
        let Some(present) = &self.present else {
            return false;
        };
        let says =
            |line: &Line<'_>, rule| line.rule.as_ref() == Some(rule) && line.is_commented(self.comment);
        present.understood
            && present.lines.len() == self.wanted.len()
            && present
                .lines
                .iter()
                .zip(self.wanted)
                .all(|(line, rule)| says(line, rule))
    }

    /// What makes one jump of these. Several become one at the place of the first: a rule is deleted
    /// by what it says, so the first goes first, and has to be put back.
    fn one_jump(&self, jumps: &[(usize, &Line<'_>)]) -> Vec<String> {
        let jump = format!("-m comment --comment \"{}\" -j {}", self.comment, self.chain);
        match jumps {
            [] => vec![format!("-A {} {jump}", self.hook_name)],
            [_] => Vec::new(),
            [(first, _), ..] => {
                let deleted = jumps.iter().map(|(_, line)| format!("-D {}", line.text));
                let put_back = format!("-I {} {} {jump}", self.hook_name, first + 1);
                deleted.chain([put_back]).collect()
            }
        }
    }

    /// A jump of ours. One without our comment, or for some packets only, is the operator's.
    fn is_jump(&self, line: &Line<'_>) -> bool {
        line.for_all && line.is_commented(self.comment) && line.jumps_to(&self.chain)
    }

    fn command(&self, rule: &Rule) -> String {
        let mut text = format!("-A {}", self.chain);
        for (flag, wanted) in [("-s", rule.source), ("-d", rule.destination)] {
            if let Some(Match { net, negated }) = wanted {
                let not = if negated { "! " } else { "" };
                let _ = write!(text, " {not}{flag} {net}");
            }
        }
        if let Some(bits) = rule.mark {
            let bits = mark_text(bits);
            let _ = write!(text, " -m mark --mark {bits}/{bits}");
        }
        let target = match rule.verdict {
            Verdict::Return => "RETURN",
            Verdict::Accept => "ACCEPT",
            Verdict::Masquerade { random_fully: false } => "MASQUERADE",
            Verdict::Masquerade { random_fully: true } => "MASQUERADE --random-fully",
        };
        let _ = write!(text, " -m comment --comment \"{}\" -j {target}", self.comment);
        text
    }
}

#[cfg(test)]
#[path = "iptables/tests.rs"]
mod tests;
