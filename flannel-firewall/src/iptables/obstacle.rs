//! What drops forwarded packets in spite of our rules.

use flannel_core::Filter;
use ipnet::IpNet;

use super::line::{Chain, Line, Target};
use super::{FORWARD, Seen};
use crate::ruleset::{Names, Ruleset, Verdict, header};

/// How chains are called that accept packets of containers, or of services, but not all of a network.
const HARMLESS: [&str; 2] = ["DOCKER", "KUBE-"];

/// The built-in chain FORWARD, where it drops forwarded packets of pods: because a rule drops or
/// rejects everything in front of our jump, or of where it would be appended; or because no rules of
/// ours are wanted, and what the operator's do not accept is dropped.
///
/// Rules for some packets only do not count, nor does a policy to drop what our chain accepts. Chains
/// of others are not looked into: where no rules of ours are wanted, they may accept anything, but for
/// docker's and kube-proxy's.
///
/// Of iptables on nftables, the kernel shows policies to everybody: with such a policy, and no rules
/// wanted, this is among [`HostFacts::filters`](flannel_core::HostFacts::filters) too.
pub(crate) fn obstacles(seen: &Seen, rules: &Ruleset, names: &Names) -> Vec<Filter> {
    let forward = Chain::parse(&seen.forward);
    let ours = names.forward_chain();
    let wanted = !rules.forward.is_empty();
    let mut accepts = Vec::new();
    let mut drops = forward.policy == Some("DROP") && !wanted;
    for line in &forward.lines {
        let (Some(Target::Jump(target) | Target::Goto(target)), for_all) = (&line.target, line.for_all)
        else {
            continue;
        };
        match target.as_str() {
            "DROP" | "REJECT" | "ACCEPT" if for_all => {
                drops = target != "ACCEPT";
                break;
            }
            "RETURN" if for_all => {
                drops = forward.policy == Some("DROP");
                break;
            }
            "ACCEPT" => accepts.extend(accepted(line)),
            "DROP" | "REJECT" | "RETURN" => {}
            chain if chain == ours => {
                if wanted && for_all {
                    return Vec::new();
                }
            }
            chain if wanted || HARMLESS.iter().any(|prefix| chain.starts_with(prefix)) => {}
            _ => return Vec::new(),
        }
    }
    let filter = Filter {
        families: vec![rules.family],
        table: format!("{} filter", header(rules.family)),
        chain: FORWARD.to_owned(),
        accepts,
        ..Filter::default()
    };
    if drops && rules.network.is_some() {
        vec![filter]
    } else {
        Vec::new()
    }
}

/// The network all of whose packets it accepts, by source or destination.
fn accepted(line: &Line<'_>) -> Option<IpNet> {
    let rule = line
        .rule
        .filter(|rule| rule.verdict == Verdict::Accept && rule.mark.is_none())?;
    match (rule.source, rule.destination) {
        (Some(net), None) | (None, Some(net)) if !net.negated => Some(net.net),
        _ => None,
    }
}
