//! Chains of nftables that drop forwarded packets: docker's `FORWARD`, above all, which iptables-nft
//! keeps there. Only read, over nfnetlink (`linux/netfilter/nf_tables.h`).
//!
//! Not seen: what the older iptables (`iptables-legacy`) has, which the kernel shows to its own program
//! alone; and chains whose last rule drops what their policy would accept.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use flannel_core::{Family, Filter, KernelError};
use ipnet::IpNet;
use netlink_packet_core::{DecodeError, NetlinkSerializable};
use netlink_sys::protocols::NETLINK_NETFILTER;
use tokio::time::Instant;

use crate::attribute::{attribute, number, text};
use crate::namespace::Namespace;
use crate::rule::{self, Action, Reach};
use crate::socket::{Answer, RequestSocket};

/// Looks are at least so far apart, and so many times as far as the last one took.
const SHORTEST_GAP: Duration = Duration::from_secs(5);
const GAP_PER_LOOK: u32 = 1000;

/// The most rules of a chain, and chains, that are read; beyond that nothing is known.
const RULES: u32 = 1024;
const CHAINS: usize = 32;

/// The most networks that are told of one chain.
const NETWORKS: usize = 1024;

/// The longest name that is told; nothing but letters, digits and punctuation is.
const NAME_LEN: usize = 64;

/// `NFNL_SUBSYS_NFTABLES << 8`, with `NFT_MSG_GETCHAIN` and `NFT_MSG_GETRULE`.
const GET_CHAIN: u16 = (10 << 8) | 4;
const GET_RULE: u16 = (10 << 8) | 7;

/// `struct nfgenmsg` in `linux/netfilter/nfnetlink.h`.
const HEADER_LEN: usize = 4;

/// `NFPROTO_UNSPEC`, `NFPROTO_INET`, `NFPROTO_IPV4`, `NFPROTO_IPV6`.
const UNSPEC: u8 = 0;
const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// `NFTA_CHAIN_TABLE`, `_NAME`, `_HOOK`, `_POLICY` and `_USE`.
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_USE: u16 = 6;

/// `NFTA_HOOK_HOOKNUM`, and `NF_INET_FORWARD` as its value.
const HOOK_NUMBER: u16 = 1;
const FORWARD: u32 = 2;

/// `NF_DROP`, as a chain's policy.
const DROP: u32 = 0;

/// `NFTA_RULE_TABLE` and `NFTA_RULE_CHAIN`.
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;

/// What was seen last, and when to look again.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    seen: Vec<Filter>,
    next: Option<Instant>,
}

impl Filters {
    /// The chains, read anew unless that was done a moment ago. Where the kernel has no nftables, or
    /// does not let us look, nothing is known.
    pub(crate) fn look(&mut self, namespace: &Namespace) -> Vec<Filter> {
        let started = Instant::now();
        if self.next.is_none_or(|at| started >= at) {
            self.seen = read(namespace).unwrap_or_else(|error| {
                tracing::debug!(%error, "the packet filter cannot be read");
                Vec::new()
            });
            let gap = started.elapsed().saturating_mul(GAP_PER_LOOK);
            self.next = Some(Instant::now() + gap.max(SHORTEST_GAP));
        }
        self.seen.clone()
    }
}

fn read(namespace: &Namespace) -> Result<Vec<Filter>, KernelError> {
    let mut socket = RequestSocket::open_for(NETLINK_NETFILTER, namespace)?;
    let question = Question::chains();
    let chains = socket.dump(DOING, &question, |payload| {
        let chain = Chain::decode(payload)?;
        Ok(chain.filter(|chain| chain.drops && !chain.families().is_empty()))
    });
    let mut filters = Vec::new();
    for chain in known(chains)?.unwrap_or_default() {
        let accepts = chain.accepts(&mut socket)?;
        let header = match chain.family {
            INET => "inet",
            IPV6 => "ip6",
            _ => "ip",
        };
        filters.push(Filter {
            families: chain.families().to_vec(),
            table: format!("{header} {}", told(&chain.table)),
            chain: told(&chain.name),
            accepts,
        });
    }
    Ok(filters)
}

const DOING: &str = "read the packet filter";

/// A refusal means that there is nothing to be seen, or that we may not.
fn known<T>(answer: Answer<T>) -> Result<Option<T>, KernelError> {
    Ok(answer?
        .inspect_err(|failure| tracing::debug!(%failure, "the packet filter is not shown"))
        .ok())
}

fn told(name: &str) -> String {
    name.chars()
        .filter(char::is_ascii_graphic)
        .take(NAME_LEN)
        .collect()
}

/// A chain.
#[derive(Debug, PartialEq, Eq)]
struct Chain {
    family: u8,
    table: String,
    name: String,
    /// Whether forwarded packets pass it, and those are dropped that no rule accepts.
    drops: bool,
    /// Rules, and references to it.
    uses: u32,
}

impl Chain {
    /// Reads the payload of `NFT_MSG_NEWCHAIN`.
    fn decode(payload: &[u8]) -> Result<Option<Self>, DecodeError> {
        let (Some(family), Some(chain)) = (payload.first(), payload.get(HEADER_LEN..)) else {
            return Err("a chain without a header".into());
        };
        let (Some(table), Some(name)) = (text(chain, CHAIN_TABLE)?, text(chain, CHAIN_NAME)?) else {
            return Ok(None);
        };
        let hook = attribute(chain, CHAIN_HOOK)?.map(|hook| number(hook, HOOK_NUMBER));
        let drops =
            hook.transpose()?.flatten() == Some(FORWARD) && number(chain, CHAIN_POLICY)? == Some(DROP);
        Ok(Some(Self {
            family: *family,
            table,
            name,
            drops,
            uses: number(chain, CHAIN_USE)?.unwrap_or(0),
        }))
    }

    const fn families(&self) -> &'static [Family] {
        match self.family {
            INET => &[Family::V4, Family::V6],
            IPV4 => &[Family::V4],
            IPV6 => &[Family::V6],
            _ => &[],
        }
    }

    /// The networks that rules of this chain accept, or of those that it leads to.
    fn accepts(&self, socket: &mut RequestSocket) -> Result<Vec<IpNet>, KernelError> {
        let mut accepted = Accepted::default();
        let mut open = VecDeque::from([(self.name.clone(), Reach::All)]);
        let mut seen = BTreeSet::new();
        while let Some((chain, reach)) = open.pop_front() {
            if !seen.insert((chain.clone(), reach == Reach::All)) {
                continue;
            }
            let question = Question::of_chain(GET_CHAIN, self, CHAIN_NAME, &chain);
            let uses = known(socket.ask(DOING, question, Self::decode))?.flatten();
            let few = uses.is_some_and(|chain| chain.uses <= RULES);
            if !few || seen.len() > CHAINS {
                accepted.anything = true;
                break;
            }
            let question = Question::of_chain(GET_RULE, self, RULE_CHAIN, &chain);
            let rules = socket.dump(DOING, &question, |payload| {
                let rule = payload.get(HEADER_LEN..).unwrap_or_default();
                // Old kernels do not filter.
                let wanted = text(rule, RULE_TABLE)?.as_ref() == Some(&self.table)
                    && text(rule, RULE_CHAIN)?.as_ref() == Some(&chain);
                wanted.then(|| rule::decode(rule)).transpose()
            });
            for (rule, action) in known(rules)?.unwrap_or_default() {
                match action {
                    Action::Accept => accepted.add(&narrower(&reach, rule)),
                    Action::Chain(chain) => open.push_back((chain, narrower(&reach, rule))),
                    Action::Other => {}
                }
            }
        }
        Ok(accepted.networks())
    }
}

/// For which packets a rule decides that is reached by some only.
fn narrower(reach: &Reach, rule: Reach) -> Reach {
    match (reach, rule) {
        (outer, Reach::All) => outer.clone(),
        // What led here may be about the devices; the network is what counts.
        (_, rule) => rule,
    }
}

/// What a chain accepts.
#[derive(Debug, Default)]
struct Accepted {
    anything: bool,
    networks: BTreeSet<IpNet>,
}

impl Accepted {
    fn add(&mut self, reach: &Reach) {
        match reach {
            Reach::All | Reach::Unknown => self.anything = true,
            Reach::Network(network) => drop(self.networks.insert(*network)),
            Reach::Some => {}
        }
        self.anything |= self.networks.len() > NETWORKS;
    }

    fn networks(self) -> Vec<IpNet> {
        if !self.anything {
            return self.networks.into_iter().collect();
        }
        let everything = Family::ALL.map(|family| IpNet::new(family.unspecified(), 0).ok());
        everything.into_iter().flatten().collect()
    }
}

/// A question about chains or rules.
#[derive(Debug, Clone)]
struct Question {
    kind: u16,
    /// `struct nfgenmsg`, then attributes.
    bytes: Vec<u8>,
}

impl Question {
    /// For every chain of every table.
    fn chains() -> Self {
        Self {
            kind: GET_CHAIN,
            bytes: vec![UNSPEC, 0, 0, 0],
        }
    }

    /// About a chain in the table of another; the table's attribute is the first of both kinds.
    fn of_chain(kind: u16, beside: &Chain, attribute: u16, chain: &str) -> Self {
        let mut bytes = vec![beside.family, 0, 0, 0];
        for (kind, text) in [(CHAIN_TABLE, beside.table.as_str()), (attribute, chain)] {
            let length = u16::try_from(HEADER_LEN + text.len() + 1).unwrap_or(u16::MAX);
            bytes.extend(length.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(text.as_bytes());
            bytes.push(0);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        Self { kind, bytes }
    }
}

impl NetlinkSerializable for Question {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.bytes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.bytes);
    }
}
