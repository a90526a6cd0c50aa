//! Rules that flannel had put into the built-in chains before it had chains of its own.
//!
//! | flannel | rules | taken for flannel's |
//! |---|---|---|
//! | v0.16 to v0.19 | with the comments of today | every one with such a comment and nothing but what flannel says; by a network with a suffix, only those about its networks |
//! | up to v0.15, in POSTROUTING | four without a comment, appended | all four for a known network, one directly after the other, in flannel's order. A part of them may be the operator's |
//! | up to v0.15, in FORWARD | two without a comment, appended | both for a known network, one directly after the other, in flannel's order, with nothing behind them that may take packets from where our jump is appended. Where no rules of ours take their place, only if the four are there too |
//!
//! What has no comment and may be an operator's who does without our rules goes only as rules of ours
//! come, of the same chain and in the same place: from POSTROUTING where we masquerade there, from
//! FORWARD where we accept there. Where nothing of ours is wanted, in that place or any more, the four
//! are flannel's beyond doubt, and vouch for the two.
//!
//! What is deleted is deleted by what it says, and of two equal rules the first goes. Hence nothing is
//! taken for flannel's behind a rule of the operator's that says the same.

use flannel_core::Family;
use ipnet::IpNet;

use super::line::{Chain, Line, Target};
use super::{FORWARD_COMMENT, MASQUERADE_COMMENT, Seen};
use crate::nat::multicast;
use crate::ruleset::{Match, Names, Rule, Ruleset, Verdict};

/// Targets after which a packet goes on in the chain, or passes for good.
const HARMLESS: [&str; 3] = ["ACCEPT", "LOG", "NFLOG"];

/// Whose rules are looked for.
pub(super) struct Old {
    /// Networks that had, or may have had, rules of flannel's.
    networks: Vec<IpNet>,
    /// Those whose four rules in POSTROUTING are to go.
    groups: Vec<IpNet>,
    /// Those whose two rules in FORWARD are to go.
    pairs: Vec<IpNet>,
    /// Whether rules with comments are flannel's whatever network they are about.
    alone: bool,
}

impl Old {
    /// What these rules replace in their place.
    pub(super) fn replaced_by(rules: &Ruleset, names: &Names, former: &[IpNet]) -> Self {
        let networks = narrow(rules.network.iter().chain(former));
        let where_wanted = |wanted: &[Rule]| match wanted {
            [] => Vec::new(),
            _ => networks.clone(),
        };
        Self {
            groups: where_wanted(&rules.masquerade),
            pairs: where_wanted(&rules.forward),
            alone: *names == Names::flannels(),
            networks,
        }
    }

    /// What is flannel's beyond doubt, and goes without being replaced.
    pub(super) fn beyond_doubt(names: &Names, seen: &Seen, networks: &[IpNet]) -> Self {
        let networks = narrow(networks.iter());
        let postrouting = Chain::parse(&seen.postrouting);
        let lines: Vec<&Line<'_>> = postrouting.lines.iter().collect();
        let masqueraded = |network: &&IpNet| group(&lines, **network).is_some();
        Self {
            pairs: networks.iter().filter(masqueraded).copied().collect(),
            groups: networks.clone(),
            alone: *names == Names::flannels(),
            networks,
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

/// Of these rules in POSTROUTING, each as often as it is there. Four are side by side, too, if between
/// them was nothing but what goes.
pub(super) fn masquerading<'a>(lines: &[&Line<'a>], old: &Old) -> Vec<&'a str> {
    stale::<GROUP>(lines, old, MASQUERADE_COMMENT, |rest| {
        old.groups.iter().find_map(|net| group(rest, *net))
    })
}

/// Of these rules in FORWARD, likewise.
pub(super) fn forwarding<'a>(lines: &[&Line<'a>], old: &Old) -> Vec<&'a str> {
    stale::<PAIR>(lines, old, FORWARD_COMMENT, |rest| {
        old.pairs.iter().find_map(|net| pair(rest, *net))
    })
}

/// The rules with this comment, and so many others wherever `first` finds some.
fn stale<'a, const COUNT: usize>(
    lines: &[&Line<'a>],
    old: &Old,
    comment: &str,
    first: impl Fn(&[&Line<'a>]) -> Option<usize>,
) -> Vec<&'a str> {
    let (commented, mut rest): (Vec<&Line<'_>>, Vec<&Line<'_>>) =
        lines.iter().partition(|line| old.is_commented(line, comment));
    let mut stale: Vec<&str> = commented.iter().map(|line| line.text).collect();
    while let Some(first) = first(&rest) {
        stale.extend(rest.drain(first..first + COUNT).map(|line| line.text));
    }
    stale
}

/// How many rules a network had in POSTROUTING, and in FORWARD.
const GROUP: usize = 4;
const PAIR: usize = 2;

/// Where this network's four rules begin.
fn group(lines: &[&Line<'_>], network: IpNet) -> Option<usize> {
    side_by_side(lines, GROUP, |rules| is_group(rules, network))
}

/// Where this network's two rules begin, if what they accept comes to the chain's end without them.
fn pair(lines: &[&Line<'_>], network: IpNet) -> Option<usize> {
    let pods = Some(Match::of(network));
    let from = Rule::new(pods, None, Verdict::Accept);
    let to = Rule::new(None, pods, Verdict::Accept);
    let first = side_by_side(lines, PAIR, |rules| *rules == [&from, &to])?;
    let mut behind = lines.iter().skip(first + PAIR);
    behind.all(|line| is_harmless(line)).then_some(first)
}

/// Where so many rules without comments begin that are these, if none of them is there before.
fn side_by_side(lines: &[&Line<'_>], count: usize, are: impl Fn(&[&Rule]) -> bool) -> Option<usize> {
    let is_before = |place: usize, line: &Line<'_>| {
        let mut before = lines.iter().take(place);
        before.any(|other| other.text == line.text)
    };
    let mut places = lines.windows(count).enumerate();
    let (place, _) = places.find(|(place, window)| {
        let rules: Option<Vec<&Rule>> = window.iter().map(|line| uncommented(line)).collect();
        rules.is_some_and(|rules| are(&rules)) && !window.iter().any(|line| is_before(*place, line))
    })?;
    Some(place)
}

fn uncommented<'l>(line: &'l Line<'_>) -> Option<&'l Rule> {
    line.rule.as_ref().filter(|_| line.comments.is_empty())
}

/// `-s N -d N -j RETURN`, `-s N ! -d 224.0.0.0/4 -j MASQUERADE`, `! -s N -d S -j RETURN` for a subnet S
/// of N, `! -s N -d N -j MASQUERADE`.
fn is_group(rules: &[&Rule], network: IpNet) -> bool {
    let [within, leaving, local, entering] = rules else {
        return false;
    };
    let pods = Match::of(network);
    let groups = Match::of(multicast(Family::of_net(network)));
    let subnet = local
        .destination
        .map(|to| to.net)
        .filter(|net| *net != network && network.contains(net));
    let returns = |rule: &Rule| rule.verdict == Verdict::Return;
    let masquerades = |rule: &Rule| matches!(rule.verdict, Verdict::Masquerade { .. });
    returns(within)
        && says(within, pods, pods)
        && masquerades(leaving)
        && says(leaving, pods, !groups)
        && returns(local)
        && subnet.is_some_and(|net| says(local, !pods, Match::of(net)))
        && masquerades(entering)
        && says(entering, !pods, pods)
}

fn says(rule: &Rule, source: Match, destination: Match) -> bool {
    *rule == Rule::new(Some(source), Some(destination), rule.verdict)
}

/// Whether whatever our chain accepts goes on behind this rule, or passes. Of chains of others, nobody
/// knows.
fn is_harmless(line: &Line<'_>) -> bool {
    match &line.target {
        None => true,
        Some(Target::Jump(name)) => {
            HARMLESS.contains(&name.as_str()) || name.starts_with(&Names::flannels().forward_chain())
        }
        Some(Target::Goto(_)) => false,
    }
}

/// Without those about all addresses, whose rules are anybody's.
fn narrow<'n>(networks: impl Iterator<Item = &'n IpNet>) -> Vec<IpNet> {
    let mut networks: Vec<IpNet> = networks.filter(|net| net.prefix_len() > 0).copied().collect();
    networks.sort_unstable();
    networks.dedup();
    networks
}
