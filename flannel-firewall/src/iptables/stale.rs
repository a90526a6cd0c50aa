//! Rules that flannel had put into the built-in chains before it had chains of its own.
//!
//! | flannel | rules | taken for flannel's |
//! |---|---|---|
//! | v0.16 to v0.19 | with the comments of today | every one with such a comment and nothing but what flannel says; by a network with a suffix, only those about its networks |
//! | up to v0.15, in POSTROUTING | four without a comment | where the one that masquerades all but multicast is there, for a known network: that one, and what else of the four is there. Without it the others may be anybody's |
//! | up to v0.15, in FORWARD | two without a comment | for a known network, one directly after the other, in flannel's order. Whoever is told to insert them by hand gets the opposite order |
//!
//! What is deleted is deleted by what it says, and of two equal rules the first goes. Hence nothing is
//! taken for flannel's behind a rule of the operator's that says the same.

use flannel_core::Family;
use ipnet::IpNet;

use super::line::Line;
use super::{FORWARD_COMMENT, MASQUERADE_COMMENT};
use crate::nat::multicast;
use crate::ruleset::{Match, Names, Rule, Verdict};

/// Whose rules are looked for.
pub(super) struct Old {
    /// Networks whose rules without comments are flannel's.
    networks: Vec<IpNet>,
    /// Whether that holds for the two in FORWARD.
    pub(super) pairs: bool,
    /// Whether rules with comments are flannel's whatever network they are about.
    alone: bool,
}

impl Old {
    /// All that there can be of these networks.
    pub(super) fn of(networks: &[IpNet], names: &Names) -> Self {
        // Rules about all addresses are anybody's.
        let narrow = networks.iter().filter(|net| net.prefix_len() > 0);
        let mut networks: Vec<IpNet> = narrow.copied().collect();
        networks.sort_unstable();
        networks.dedup();
        Self {
            networks,
            pairs: true,
            alone: *names == Names::flannels(),
        }
    }

    /// Whether it is a rule with flannel's comment, and one of a flannel that we are to clean up after.
    fn is_commented(&self, line: &Line<'_>, comment: &str) -> bool {
        let is_about = |rule: &Rule| {
            let nets = [rule.source, rule.destination];
            let mut nets = nets.iter().flatten().map(|wanted| wanted.net);
            nets.any(|net| self.networks.contains(&net))
        };
        let rule = line.rule.as_ref().filter(|_| line.is_commented(comment));
        rule.is_some_and(|rule| self.alone || is_about(rule))
    }
}

/// Of these rules in POSTROUTING, each as often as it is there.
pub(super) fn masquerading<'a>(lines: &[&Line<'a>], old: &Old) -> Vec<&'a str> {
    let rules = || lines.iter().filter_map(|line| uncommented(line));
    let leaves = |net: &&IpNet| rules().any(|rule| is_leaving(rule, **net));
    let networks: Vec<IpNet> = old.networks.iter().filter(leaves).copied().collect();
    let is_of_group = |rule: &Rule| networks.iter().any(|net| is_of_group(rule, *net));
    let is_stale = |line: &Line<'_>| {
        old.is_commented(line, MASQUERADE_COMMENT) || uncommented(line).is_some_and(is_of_group)
    };
    lines
        .iter()
        .filter(|line| is_stale(line))
        .map(|line| line.text)
        .collect()
}

/// Of these rules in FORWARD, each as often as it is there. Two are side by side, too, if between them
/// was nothing but what goes.
pub(super) fn forwarding<'a>(lines: &[&Line<'a>], old: &Old) -> Vec<&'a str> {
    let (commented, mut rest): (Vec<&Line<'_>>, Vec<&Line<'_>>) = lines
        .iter()
        .partition(|line| old.is_commented(line, FORWARD_COMMENT));
    let mut stale: Vec<&str> = commented.iter().map(|line| line.text).collect();
    while let Some(first) = old
        .networks
        .iter()
        .filter(|_| old.pairs)
        .find_map(|net| pair(&rest, *net))
    {
        stale.extend(rest.drain(first..first + 2).map(|line| line.text));
    }
    stale
}

/// Where the first rule is that accepts all from this network, or all to it, if that is the former, and
/// the latter follows.
fn pair(lines: &[&Line<'_>], network: IpNet) -> Option<usize> {
    let network = Some(Match::of(network));
    let from = Rule::new(network, None, Verdict::Accept);
    let to = Rule::new(None, network, Verdict::Accept);
    let accepting = |line: &&Line<'_>| uncommented(line).is_some_and(|rule| [from, to].contains(rule));
    let first = lines.iter().position(accepting)?;
    let is_pair =
        uncommented(lines.get(first)?) == Some(&from) && uncommented(lines.get(first + 1)?) == Some(&to);
    is_pair.then_some(first)
}

fn uncommented<'l>(line: &'l Line<'_>) -> Option<&'l Rule> {
    line.rule.as_ref().filter(|_| line.comments.is_empty())
}

/// `-s N ! -d 224.0.0.0/4 -j MASQUERADE`.
fn is_leaving(rule: &Rule, network: IpNet) -> bool {
    let groups = Match::of(multicast(Family::of_net(network)));
    says(rule, Match::of(network), !groups) && masquerades(rule)
}

/// That, or `-s N -d N -j RETURN`, `! -s N -d S -j RETURN` for a subnet S, `! -s N -d N -j MASQUERADE`.
fn is_of_group(rule: &Rule, network: IpNet) -> bool {
    let pods = Match::of(network);
    let returns = rule.verdict == Verdict::Return;
    let subnet = rule
        .destination
        .map(|to| to.net)
        .filter(|net| *net != network && network.contains(net));
    is_leaving(rule, network)
        || returns && says(rule, pods, pods)
        || returns && subnet.is_some_and(|net| says(rule, !pods, Match::of(net)))
        || masquerades(rule) && says(rule, !pods, pods)
}

fn says(rule: &Rule, source: Match, destination: Match) -> bool {
    *rule == Rule::new(Some(source), Some(destination), rule.verdict)
}

const fn masquerades(rule: &Rule) -> bool {
    matches!(rule.verdict, Verdict::Masquerade { .. })
}
