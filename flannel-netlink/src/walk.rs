//! What becomes of forwarded packets in a chain and in those that it leads to: rule by rule, as the kernel
//! goes. Pure.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use flannel_core::{Family, KernelError};
use ipnet::IpNet;

use crate::rule::{Action, Reach, Rule};

/// The most chains that are read, and rules that are followed; beyond that nothing is known.
const CHAINS: usize = 128;
const STEPS: u32 = 16 * 1024;

/// The most conditions on devices that are looked into.
const NAMED: usize = 1024;

/// How deep a chain may lead to another: `NFT_JUMP_STACK_SIZE`.
const DEPTH: u32 = 16;

/// The most networks that are told of one chain, and of the packets that get to one rule.
const NETWORKS: usize = 1024;
const NETWORKS_AT_ONCE: usize = 64;

/// What a chain does to packets for which none of its rules decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    Accept,
    Drop,
}

/// A walk through the chains of a table; `read` tells the rules of one, `None` if they are not known.
pub(crate) struct Walk<R> {
    read: R,
    chains: BTreeMap<String, Option<Rc<[Rule]>>>,
    steps: u32,
}

impl<R: FnMut(&str) -> Result<Option<Vec<Rule>>, KernelError>> Walk<R> {
    pub(crate) const fn new(read: R) -> Self {
        Self {
            read,
            chains: BTreeMap::new(),
            steps: 0,
        }
    }

    /// If packets of a family are dropped for which no rule of the chain decides otherwise: the networks
    /// whose packets are seen not to be, `/0` where that may be all. Of all packets, or of those that come
    /// by others than a device and go by it.
    pub(crate) fn drops(
        &mut self,
        chain: &str,
        policy: Policy,
        family: Family,
        towards: Option<&str>,
    ) -> Result<Option<Vec<IpNet>>, KernelError> {
        self.steps = 0;
        let mut fate = Fate {
            family,
            towards: towards.map(str::to_owned),
            dropped: policy == Policy::Drop,
            accepted: Accepted::default(),
        };
        let left = self.pass(chain, Packets::all(), &mut fate, 0)?;
        if policy == Policy::Accept {
            fate.accepted.add(&left);
        }
        Ok(fate.dropped.then(|| fate.accepted.networks(family)))
    }

    /// The devices by which packets go that rules are about, of the chains that were read.
    pub(crate) fn outputs(&self) -> BTreeSet<String> {
        let rules = self.chains.values().flatten().flat_map(|rules| rules.iter());
        let outputs = rules
            .filter_map(|rule| rule.way.as_ref())
            .flat_map(|way| &way.output);
        let named = outputs.filter(|(same, _)| *same).map(|(_, name)| name.clone());
        named.take(NAMED).collect()
    }

    /// Has packets go through a chain; the answer are those that come back out of it.
    fn pass(
        &mut self,
        chain: &str,
        entering: Packets,
        fate: &mut Fate,
        depth: u32,
    ) -> Result<Packets, KernelError> {
        let mut back = Packets::default();
        let Some(rules) = self.rules(chain)?.filter(|_| depth <= DEPTH) else {
            // Whatever is in there.
            fate.accepted.anything = true;
            return Ok(back);
        };
        let mut here = entering;
        for rule in &*rules {
            self.steps += 1;
            if self.steps > STEPS {
                fate.accepted.anything = true;
                return Ok(back);
            }
            let Some(reach) = rule.reach_in(fate.family, fate.towards.as_deref()) else {
                continue;
            };
            let meant = here.meet(reach);
            let mut after = Packets::default();
            match &rule.action {
                Action::Accept => fate.accepted.add(&meant),
                Action::Drop => fate.dropped |= meant.share == Share::All,
                Action::Return => back.join(meant),
                Action::Jump(to) => after = self.pass(to, meant, fate, depth + 1)?,
                Action::Goto(to) => back.join(self.pass(to, meant, fate, depth + 1)?),
                Action::Other => continue,
            }
            if reach == Reach::All {
                here = after;
            }
            if here == Packets::default() {
                break;
            }
        }
        back.join(here);
        Ok(back)
    }

    fn rules(&mut self, chain: &str) -> Result<Option<Rc<[Rule]>>, KernelError> {
        if let Some(rules) = self.chains.get(chain) {
            return Ok(rules.clone());
        }
        if self.chains.len() >= CHAINS {
            return Ok(None);
        }
        let rules: Option<Rc<[Rule]>> = (self.read)(chain)?.map(Rc::from);
        self.chains.insert(chain.to_owned(), rules.clone());
        Ok(rules)
    }
}

/// What became of the packets of a family.
struct Fate {
    family: Family,
    /// The only device by which they go, and do not come.
    towards: Option<String>,
    /// Whether all are dropped that got to some rule, or to the end.
    dropped: bool,
    accepted: Accepted,
}

/// The packets that get to a rule: a share of all, and what goes from or to networks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Packets {
    share: Share,
    networks: BTreeSet<IpNet>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Share {
    #[default]
    None,
    /// Some, such as those of a connection or a device: only a network tells more of them.
    Some,
    /// Perhaps all.
    Unknown,
    All,
}

impl Packets {
    const fn all() -> Self {
        Self {
            share: Share::All,
            networks: BTreeSet::new(),
        }
    }

    /// Those of them that a rule is about.
    fn meet(&self, reach: Reach) -> Self {
        if reach == Reach::All {
            return self.clone();
        }
        let mut met = Self::default();
        match reach {
            Reach::Network(network) => {
                // What led here may be about the devices; the network is what counts.
                if self.share != Share::None {
                    met.networks.insert(network);
                }
                for other in &self.networks {
                    match narrower(network, *other) {
                        Some(both) => drop(met.networks.insert(both)),
                        None => met.share = Share::Some,
                    }
                }
            }
            Reach::Unknown => {
                met.share = match self.share {
                    Share::None => Share::None,
                    Share::Some | Share::Unknown | Share::All => Share::Unknown,
                };
                met.networks.clone_from(&self.networks);
            }
            Reach::Some | Reach::All => {
                met.share = if *self == Self::default() {
                    Share::None
                } else {
                    Share::Some
                };
            }
        }
        met
    }

    fn join(&mut self, other: Self) {
        self.share = self.share.max(other.share);
        self.networks.extend(other.networks);
        if self.networks.len() > NETWORKS_AT_ONCE {
            self.networks.clear();
            self.share = self.share.max(Share::Unknown);
        }
    }
}

/// The one of two networks that lies in the other.
fn narrower(one: IpNet, other: IpNet) -> Option<IpNet> {
    match one.prefix_len().cmp(&other.prefix_len()) {
        Ordering::Less => one.contains(&other).then_some(other),
        _ => other.contains(&one).then_some(one),
    }
}

/// What is accepted.
#[derive(Debug, Default)]
struct Accepted {
    anything: bool,
    networks: BTreeSet<IpNet>,
}

impl Accepted {
    fn add(&mut self, packets: &Packets) {
        self.anything |= packets.share >= Share::Unknown;
        self.networks.extend(&packets.networks);
        if self.networks.len() > NETWORKS {
            self.networks.clear();
            self.anything = true;
        }
    }

    fn networks(self, family: Family) -> Vec<IpNet> {
        if self.anything {
            return IpNet::new(family.unspecified(), 0).into_iter().collect();
        }
        self.networks.into_iter().collect()
    }
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
