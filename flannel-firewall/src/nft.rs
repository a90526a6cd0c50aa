//! Rules in the words of `nft`: a table of our own for each family, written whole or not at all.

mod listing;

use std::fmt::Write as _;

use flannel_core::Family;

use crate::ruleset::{Match, Names, Rule, Ruleset, Verdict, header, mark_text};
use listing::{Base, Chain, Table};

/// The chains' names, which need no suffix: the table has it.
const MASQUERADE_CHAIN: &str = "postrtg";
const FORWARD_CHAIN: &str = "forward";

/// What `nft -f -` reads to make the family's table exactly this, in one transaction: all of it is
/// there afterwards, or nothing has changed. Without rules, the table is removed.
///
/// It needs nft 1.0.1, as flannel's own rules do; hence `add` and `delete` instead of `destroy`.
pub(crate) fn transaction(rules: &Ruleset, names: &Names) -> String {
    let mut text = removal(rules.family, names);
    let (header, table) = (header(rules.family), names.table(rules.family));
    if rules.is_empty() {
        return text;
    }
    let _ = writeln!(text, "table {header} {table} {{");
    let _ = writeln!(text, "\tcomment \"rules for {table}\"");
    for chain in chains(rules) {
        let Base { kind, hook, .. } = chain.base;
        let _ = writeln!(text, "\tchain {} {{", chain.name);
        let _ = writeln!(text, "\t\tcomment \"{}\"", chain.comment);
        let _ = writeln!(
            text,
            "\t\ttype {kind} hook {hook} priority {}; policy accept;",
            chain.priority
        );
        for rule in chain.rules {
            let _ = writeln!(text, "\t\t{}", statement(rule, header));
        }
        text.push_str("\t}\n");
    }
    text.push_str("}\n");
    text
}

/// What `nft -f -` reads to remove the family's table. It does not fail where there is none, but
/// tells every listener of a table that came and went.
pub(crate) fn removal(family: Family, names: &Names) -> String {
    let (header, table) = (header(family), names.table(family));
    format!("add table {header} {table}\ndelete table {header} {table}\n")
}

/// Whether what `nft list table` printed is exactly these rules in this order, and nothing else.
///
/// Versions print differently: priorities and marks are compared as numbers, and comments, handles and
/// counters do not count. What is not understood is something else. An empty text, as there is where
/// there is no table, is the empty set of rules.
pub(crate) fn says(listing: &str, rules: &Ruleset, names: &Names) -> bool {
    if listing.trim().is_empty() || rules.is_empty() {
        return listing.trim().is_empty() && rules.is_empty();
    }
    let Some(Table { family, name, chains }) = listing::parse(listing) else {
        return false;
    };
    let is_wanted = |found: &Chain, wanted: &Wanted| {
        found.name == wanted.name && found.base == Some(wanted.base) && found.rules == wanted.rules
    };
    let wanted = self::chains(rules);
    (family, name) == (rules.family, names.table(rules.family).as_str())
        && chains.len() == wanted.len()
        && wanted
            .iter()
            .all(|wanted| chains.iter().any(|found| is_wanted(found, wanted)))
}

/// What [`removal`] would remove, one line for each object, where `nft list table` printed this.
pub(crate) fn leftovers(listing: &str, family: Family, names: &Names) -> Vec<String> {
    if listing.trim().is_empty() {
        return Vec::new();
    }
    let table = format!("{} {}", header(family), names.table(family));
    let mut lines = vec![format!("nft add table {table}")];
    lines.extend(listing::contents(listing).map(|object| match object.rule {
        None => format!("nft add {} {table} {}", object.kind, object.name),
        Some(rule) => format!("nft add rule {table} {} {rule}", object.name),
    }));
    lines
}

/// A chain that ought to be there.
struct Wanted<'a> {
    name: &'static str,
    comment: &'static str,
    base: Base<'static>,
    /// The priority as flannel writes it.
    priority: &'static str,
    rules: &'a [Rule],
}

fn chains(rules: &Ruleset) -> Vec<Wanted<'_>> {
    let masquerade = Wanted {
        name: MASQUERADE_CHAIN,
        comment: "chain to manage traffic masquerading by flannel",
        base: Base {
            kind: "nat",
            hook: "postrouting",
            priority: listing::SRCNAT,
        },
        priority: "srcnat",
        rules: &rules.masquerade,
    };
    let forward = Wanted {
        name: FORWARD_CHAIN,
        comment: "chain to accept flannel traffic",
        base: Base {
            kind: "filter",
            hook: "forward",
            priority: listing::FILTER,
        },
        priority: "filter",
        rules: &rules.forward,
    };
    let mut chains = vec![masquerade, forward];
    chains.retain(|chain| !chain.rules.is_empty());
    chains
}

fn statement(rule: &Rule, header: &str) -> String {
    let mut text = String::new();
    if let Some(bits) = rule.mark {
        let bits = mark_text(bits);
        let _ = write!(text, "meta mark & {bits} == {bits} ");
    }
    for (field, wanted) in [("saddr", rule.source), ("daddr", rule.destination)] {
        if let Some(Match { net, negated }) = wanted {
            let not = if negated { "!= " } else { "" };
            let _ = write!(text, "{header} {field} {not}{net} ");
        }
    }
    text.push_str(match rule.verdict {
        Verdict::Return => "return",
        Verdict::Accept => "accept",
        Verdict::Masquerade { random_fully: false } => "masquerade",
        Verdict::Masquerade { random_fully: true } => "masquerade fully-random",
    });
    text
}

#[cfg(test)]
#[path = "nft/tests.rs"]
mod tests;
