//! Chains of nftables that forwarded packets pass, read over nfnetlink, and never changed.

use std::collections::BTreeSet;

use flannel_core::{Family, Filter, KernelError};
use netlink_packet_core::DecodeError;
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::attribute::{Plain, encoded_text, number, text};
use crate::namespace::Namespace;
use crate::nf_tables::{self, INET, IPV4, IPV6, SUBSYSTEM, TABLE, UNSPEC, told};
use crate::rule::{self, Rule};
use crate::socket::{Answer, RequestSocket};
use crate::walk::{Policy, Walk};

/// The most rules of a chain that are read; beyond that nothing is known.
const RULES: u32 = 1024;

/// How often rules are read of which some were missing.
const READS: u32 = 8;

/// The most devices towards which packets are followed.
const DEVICES: usize = 16;

const DOING: &str = "read the packet filter";

/// `NFT_MSG_GETCHAIN` and `NFT_MSG_GETRULE`.
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const GET_RULE: u16 = SUBSYSTEM | 7;

/// `NFTA_CHAIN_NAME`, `_POLICY` and `_USE`.
const CHAIN_NAME: u16 = 3;
const CHAIN_POLICY: u16 = 5;
const CHAIN_USE: u16 = 6;

/// `NF_DROP`, as a chain's policy.
const DROP: u32 = 0;

/// `NFTA_RULE_CHAIN`.
const RULE_CHAIN: u16 = 2;

/// What was seen.
pub(crate) struct Read {
    /// The chains that drop forwarded packets.
    pub(crate) filters: Vec<Filter>,
    /// The tables with a chain that forwarded packets pass.
    pub(crate) tables: BTreeSet<String>,
}

/// Reads all chains that forwarded packets pass.
pub(crate) fn read(namespace: &Namespace) -> Result<Read, KernelError> {
    let mut socket = RequestSocket::open_for(NETLINK_NETFILTER, namespace)?;
    let chains = socket.dump(DOING, &all_chains(), |payload| {
        let chain = Chain::decode(payload)?;
        Ok(chain.filter(|chain| chain.forward && !chain.families().is_empty()))
    });
    let (mut filters, mut tables) = (Vec::new(), BTreeSet::new());
    for chain in known(chains)?.unwrap_or_default() {
        let table = nf_tables::table(chain.family, &chain.table).unwrap_or_default();
        filters.extend(chain.filters(&table, &mut socket)?);
        tables.insert(table);
    }
    Ok(Read { filters, tables })
}

/// A refusal means that there is nothing to be seen, or that we may not.
fn known<T>(answer: Answer<T>) -> Result<Option<T>, KernelError> {
    Ok(answer?
        .inspect_err(|failure| tracing::debug!(%failure, "the packet filter is not shown"))
        .ok())
}

/// A chain.
#[derive(Debug, PartialEq, Eq)]
struct Chain {
    family: u8,
    table: String,
    name: String,
    /// Whether forwarded packets pass it.
    forward: bool,
    policy: Policy,
    /// Rules, and references to it.
    uses: u32,
}

impl Chain {
    /// Reads the payload of `NFT_MSG_NEWCHAIN`.
    fn decode(payload: &[u8]) -> Result<Option<Self>, DecodeError> {
        let (family, chain) = nf_tables::split(payload)?;
        let (Some(table), Some(name)) = (text(chain, TABLE)?, text(chain, CHAIN_NAME)?) else {
            return Ok(None);
        };
        let drops = number(chain, CHAIN_POLICY)? == Some(DROP);
        Ok(Some(Self {
            family,
            table,
            name,
            forward: nf_tables::is_forward(chain)?,
            policy: if drops { Policy::Drop } else { Policy::Accept },
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

    /// What it drops: of all packets, and beyond that of those towards a device.
    fn filters(&self, table: &str, socket: &mut RequestSocket) -> Result<Vec<Filter>, KernelError> {
        let mut walk = Walk::new(|chain| self.rules(chain, socket));
        let filter = |device| Filter {
            table: table.to_owned(),
            chain: told(&self.name),
            device,
            ..Filter::default()
        };
        let mut all = filter(None);
        let mut dropped = Vec::new();
        for family in self.families() {
            let accepted = walk.drops(&self.name, self.policy, *family, None)?;
            if let Some(accepted) = &accepted {
                all.families.push(*family);
                all.accepts.extend(accepted);
            }
            dropped.push(accepted);
        }
        let mut filters = vec![all];
        for name in walk.outputs().into_iter().take(DEVICES) {
            let Ok(device) = name.parse() else { continue };
            let mut towards = filter(Some(device));
            for (family, dropped) in self.families().iter().zip(&dropped) {
                let accepted = walk.drops(&self.name, self.policy, *family, Some(&name))?;
                if let Some(accepted) = accepted.filter(|accepted| dropped.as_ref() != Some(accepted)) {
                    towards.families.push(*family);
                    towards.accepts.extend(accepted);
                }
            }
            filters.push(towards);
        }
        filters.retain(|filter| !filter.families.is_empty());
        Ok(filters)
    }

    /// The rules of a chain in the same table; `None` if they are too many, or cannot be read. At the end
    /// of a transaction the kernel cuts a dump short without a word, which shows where every use is a rule:
    /// nothing leads to a chain with a hook. For the others, that the transaction has ended is a reason to
    /// look again.
    fn rules(&self, chain: &str, socket: &mut RequestSocket) -> Result<Option<Vec<Rule>>, KernelError> {
        let mut rules = Vec::new();
        for _ in 0..READS {
            let question = about(GET_CHAIN, self, CHAIN_NAME, chain);
            let found = known(socket.ask(DOING, question, Self::decode))?.flatten();
            let Some(found) = found.filter(|chain| chain.uses <= RULES) else {
                return Ok(None);
            };
            let question = about(GET_RULE, self, RULE_CHAIN, chain);
            let dumped = socket.dump(DOING, &question, |payload| {
                let (_, rule) = nf_tables::split(payload)?;
                // Old kernels do not filter.
                let wanted = text(rule, TABLE)?.as_ref() == Some(&self.table)
                    && text(rule, RULE_CHAIN)?.as_deref() == Some(chain);
                wanted.then(|| rule::decode(rule)).transpose()
            });
            let Some(dumped) = known(dumped)? else {
                return Ok(None);
            };
            rules = dumped;
            if !found.forward || u32::try_from(rules.len()) == Ok(found.uses) {
                break;
            }
        }
        Ok(Some(rules))
    }
}

/// A question for every chain of every table.
fn all_chains() -> Plain {
    Plain {
        kind: GET_CHAIN,
        bytes: vec![UNSPEC, 0, 0, 0],
    }
}

/// A question about a chain in the table of another.
fn about(kind: u16, beside: &Chain, attribute: u16, chain: &str) -> Plain {
    let mut bytes = vec![beside.family, 0, 0, 0];
    bytes.extend(encoded_text(TABLE, &beside.table));
    bytes.extend(encoded_text(attribute, chain));
    Plain { kind, bytes }
}
