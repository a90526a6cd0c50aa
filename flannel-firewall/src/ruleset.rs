//! Rules as values: what each chain ought to hold, whatever program writes it.

use flannel_core::{Family, PodNetwork};
use ipnet::IpNet;

use crate::nat::{Flow, KUBE_PROXY_MARK, Nat, multicast};

/// Which rules are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleOptions {
    /// Masquerade what leaves the network (`--ip-masq`).
    pub masquerade: bool,
    /// Accept forwarded packets of the network (`--iptables-forward-rules`).
    pub forward: bool,
    /// Choose source ports at random, so that two connections seldom want the same one (all but
    /// `--ip-masq-fully-random-disable`).
    pub random_fully: bool,
}

/// What our chains of one family ought to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// Of which family.
    pub family: Family,
    /// The pods' network. None: there is none of this family.
    pub network: Option<IpNet>,
    /// The chain behind POSTROUTING of the table nat. Empty: there is to be none.
    pub masquerade: Vec<Rule>,
    /// The chain behind FORWARD of the table filter. Empty: there is to be none.
    pub forward: Vec<Rule>,
}

/// A rule: what it is about, and what becomes of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Of packets with this bit, or these, in their mark (`0x4000/0x4000`).
    pub mark: Option<u32>,
    /// From where.
    pub source: Option<Match>,
    /// To where.
    pub destination: Option<Match>,
    /// What happens.
    pub verdict: Verdict,
}

/// Whether an address is in a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// The network, host bits cut off.
    pub net: IpNet,
    /// Whether it has to be outside of it.
    pub negated: bool,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The rules of others decide.
    Return,
    /// It passes.
    Accept,
    /// Its source address becomes this host's.
    Masquerade {
        /// Whether the port is chosen at random.
        random_fully: bool,
    },
}

impl Ruleset {
    /// What is asked for in one family. Both chains are empty where the network does not have it.
    #[must_use]
    pub fn for_pods(family: Family, pods: &PodNetwork, options: RuleOptions) -> Self {
        let (mut masquerade, mut forward) = (Vec::new(), Vec::new());
        if let (Some(network), Some(subnet)) = (pods.networks.get(family), pods.subnets.get(family)) {
            let (network, subnet) = (Match::of(*network), Match::of(*subnet));
            if options.masquerade {
                let ranges = pods
                    .unmasqueraded
                    .iter()
                    .filter(|range| Family::of_net(**range) == family);
                let ranges: Vec<Match> = ranges.copied().map(Match::of).collect();
                masquerade = masquerading(family, network, subnet, &ranges, options.random_fully);
            }
            if options.forward {
                forward = vec![
                    Rule::new(Some(network), None, Verdict::Accept),
                    Rule::new(None, Some(network), Verdict::Accept),
                ];
            }
        }
        Self {
            network: pods.networks.get(family).map(IpNet::trunc),
            masquerade,
            forward,
            ..Self::none(family)
        }
    }

    /// No rule, for no network.
    pub(crate) const fn none(family: Family) -> Self {
        Self {
            family,
            network: None,
            masquerade: Vec::new(),
            forward: Vec::new(),
        }
    }

    /// Whether no rule is asked for.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.masquerade.is_empty() && self.forward.is_empty()
    }

    /// What its rules do to a packet: the first that fits decides.
    #[must_use]
    pub fn nat(&self, flow: &Flow) -> Nat {
        let first = self.masquerade.iter().find(|rule| rule.fits(flow));
        match first.map(|rule| rule.verdict) {
            Some(Verdict::Masquerade { .. }) => Nat::Masquerade,
            _ => Nat::Keep,
        }
    }
}

/// flannel's rules, in flannel's order.
fn masquerading(
    family: Family,
    network: Match,
    subnet: Match,
    ranges: &[Match],
    random_fully: bool,
) -> Vec<Rule> {
    let masquerade = Verdict::Masquerade { random_fully };
    let marked = Rule {
        mark: Some(KUBE_PROXY_MARK),
        ..Rule::new(None, None, Verdict::Return)
    };
    let exempt = ranges
        .iter()
        .map(|range| Rule::new(Some(network), Some(*range), Verdict::Return));
    let mut rules = vec![
        marked,
        Rule::new(Some(subnet), Some(network), Verdict::Return),
        Rule::new(Some(network), Some(subnet), Verdict::Return),
        Rule::new(Some(!network), Some(subnet), Verdict::Return),
    ];
    rules.extend(exempt);
    rules.extend([
        Rule::new(Some(network), Some(!Match::of(multicast(family))), masquerade),
        Rule::new(Some(!network), Some(network), masquerade),
    ]);
    // Programs refuse a rule that fits nothing.
    let is_nowhere = |wanted: Match| wanted.negated && wanted.net.prefix_len() == 0;
    rules.retain(|rule| !rule.source.is_some_and(is_nowhere) && !rule.destination.is_some_and(is_nowhere));
    rules
}

impl Rule {
    /// A rule for whatever mark. That an address is anywhere at all is nothing to be matched, nor do
    /// programs print it.
    #[must_use]
    pub fn new(source: Option<Match>, destination: Option<Match>, verdict: Verdict) -> Self {
        let says_something = |wanted: &Match| wanted.negated || wanted.net.prefix_len() > 0;
        Self {
            mark: None,
            source: source.filter(says_something),
            destination: destination.filter(says_something),
            verdict,
        }
    }

    /// Whether it is about this packet.
    #[must_use]
    pub fn fits(&self, flow: &Flow) -> bool {
        let Flow {
            source,
            destination,
            mark,
        } = flow;
        self.mark.is_none_or(|bits| mark & bits == bits)
            && self.source.is_none_or(|wanted| wanted.holds(source))
            && self.destination.is_none_or(|wanted| wanted.holds(destination))
    }
}

impl Match {
    /// In this network.
    #[must_use]
    pub fn of(net: IpNet) -> Self {
        Self {
            net: net.trunc(),
            negated: false,
        }
    }

    fn holds(self, address: &std::net::IpAddr) -> bool {
        self.net.contains(address) != self.negated
    }
}

impl std::ops::Not for Match {
    type Output = Self;

    fn not(self) -> Self {
        Self {
            negated: !self.negated,
            ..self
        }
    }
}

/// What our chains and tables are called. A second network of one host has names of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    /// What is appended to flannel's names after a hyphen. Letters and digits, at most 8.
    suffix: Option<String>,
}

impl Names {
    /// flannel's names.
    #[must_use]
    pub const fn flannels() -> Self {
        Self { suffix: None }
    }

    /// flannel's names, and a suffix: its first eight letters and digits.
    #[must_use]
    pub fn with_suffix(suffix: &str) -> Self {
        let suffix: String = suffix
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .take(8)
            .collect();
        Self {
            suffix: (!suffix.is_empty()).then_some(suffix),
        }
    }

    /// `FLANNEL-POSTRTG`, the iptables chain behind POSTROUTING.
    #[must_use]
    pub fn masquerade_chain(&self) -> String {
        self.suffixed("FLANNEL-POSTRTG")
    }

    /// `FLANNEL-FWD`, the iptables chain behind FORWARD.
    #[must_use]
    pub fn forward_chain(&self) -> String {
        self.suffixed("FLANNEL-FWD")
    }

    /// `flannel-ipv4` or `flannel-ipv6`, the nftables table.
    #[must_use]
    pub fn table(&self, family: Family) -> String {
        match family {
            Family::V4 => self.suffixed("flannel-ipv4"),
            Family::V6 => self.suffixed("flannel-ipv6"),
        }
    }

    fn suffixed(&self, name: &str) -> String {
        match &self.suffix {
            None => name.to_owned(),
            Some(suffix) => format!("{name}-{suffix}"),
        }
    }
}

/// The word for a family in statements of `nft`.
pub(crate) const fn header(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// A mark as both programs print it, `0x4000`.
pub(crate) fn mark_text(bits: u32) -> String {
    format!("{bits:#x}")
}

/// A mark as a program prints it, of whatever width.
pub(crate) fn mark_number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
#[path = "ruleset_tests.rs"]
pub(crate) mod tests;
