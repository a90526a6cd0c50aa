//! Which subnet is mine? Pure, and the same for every store.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::ops;

use ipnet::IpNet;

use crate::challenge::challenged;
use crate::{Family, Lease, Leases, NetworkConfig, NodeId, PerFamily, Protected, Range, SubnetKey};

/// How many free subnets of a family are looked at before one is picked, as flannel does.
const CANDIDATES: usize = 100;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// This node, whatever its address.
    pub node: NodeId,
    /// What this host publishes.
    pub public: PerFamily<IpAddr>,
    /// Whether this process has lost a lease to somebody: then it takes none back by its node id
    /// alone, which a twin may have.
    pub lost: bool,
    /// Whether it publishes what is surely another host's address:
    /// [`Host::publishes_a_neighbours`](crate::Host::publishes_a_neighbours).
    pub neighbours: bool,
    /// Leases that it has challenged, and whose holders had the time to object.
    pub undisputed: BTreeSet<SubnetKey>,
}

/// What the asker would like.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// This subnet and no other.
    pub pinned: Option<SubnetKey>,
    /// The subnet that it had before, as `subnet.env` names it.
    pub previous: Option<SubnetKey>,
    /// Subnets that others were found to have taken, though their leases have not been seen yet.
    pub taken: BTreeSet<SubnetKey>,
    /// What picks among the free subnets.
    pub seed: u64,
}

/// The answer.
#[derive(Debug, Clone)]
pub enum Choice {
    /// This lease is mine as it stands: nothing is to be written.
    Keep(Lease),
    /// This lease is mine, and must be made to say so by compare-and-swap.
    TakeOver {
        /// As it stands.
        lease: Lease,
        /// Why it is mine.
        why: TakeOver,
    },
    /// Another's lease carries an address of mine: its holder is to be asked whether it lives, by
    /// compare-and-swap.
    Challenge(Lease),
    /// I have challenged this lease, and its holder may object yet.
    Contested(Lease),
    /// No lease is mine; this subnet is free.
    Create(SubnetKey),
    /// There is nothing to be had at present.
    Wait(Unavailable),
}

/// Why a lease that does not carry my name and address is mine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TakeOver {
    /// My node id: this host's address has changed.
    Readdressed,
    /// My address and nobody's node id: flannel wrote it.
    Unnamed,
    /// Another host has asked, in this lease of mine, whether I live.
    Claimed,
}

/// Why no subnet can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unavailable {
    /// Every subnet is leased.
    OutOfSubnets,
    /// Free subnets are left, but each covers something that the host needs.
    AllProtected {
        /// The first such subnet.
        subnet: IpNet,
        /// What it covers.
        covers: String,
    },
    /// The pinned subnet is another's.
    PinnedTaken {
        /// The pinned subnet.
        pinned: SubnetKey,
        /// The lease that stands there or overlaps it.
        by: SubnetKey,
        /// Whose that is, in words; `None` before the lease has been seen.
        holder: Option<String>,
    },
    /// The address that this host would publish stands in another's lease.
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// The lease that carries it.
        lease: SubnetKey,
        /// Whose that is, in words.
        holder: String,
        /// What is known of the holder.
        rival: Rival,
    },
    /// The network does not give out the pinned subnet.
    PinnedOutside {
        /// The pinned subnet.
        pinned: SubnetKey,
    },
    /// The pinned subnet covers something that the host needs.
    PinnedProtected {
        /// The pinned subnet.
        pinned: SubnetKey,
        /// What it covers.
        covers: String,
    },
}

/// What is known of a host that publishes our address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rival {
    /// The address is none of ours, and lies in the network of our uplink: it is that host's.
    Neighbour,
    /// The host is being asked whether it lives.
    Asked,
    /// It lives.
    Alive,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfSubnets => f.write_str("out of subnets; remove a lease, or enlarge the network"),
            Self::AllProtected { subnet, covers } => {
                write!(
                    f,
                    "no subnet is free of the host's own networks: {subnet} covers {covers}"
                )
            }
            Self::PinnedTaken { pinned, by, holder } => {
                write!(f, "the pinned subnet {pinned} is taken by the lease {by}")?;
                match holder {
                    Some(holder) => write!(
                        f,
                        " of {holder}; waiting until it is free: pin another, or remove that lease if its host is \
                         gone"
                    ),
                    None => f.write_str(", which is not shown yet; waiting until it is free"),
                }
            }
            Self::AddressTaken {
                address,
                lease,
                holder,
                rival,
            } => {
                let flag = flag(*address);
                write!(
                    f,
                    "our public address {address} is published by the lease {lease} of {holder}"
                )?;
                match rival {
                    Rival::Neighbour => write!(
                        f,
                        ", and is no address of this host; give this host its own {flag}, or leave that out"
                    ),
                    Rival::Asked => f.write_str(
                        ", as after the loss of the state directory; taking the lease over unless that host objects",
                    ),
                    Rival::Alive => write!(
                        f,
                        ", which is alive; give each host its own {flag}, or remove that lease if its host is gone"
                    ),
                }
            }
            Self::PinnedOutside { pinned } => {
                write!(
                    f,
                    "the pinned subnet {pinned} is none that the network config gives out"
                )
            }
            Self::PinnedProtected { pinned, covers } => {
                write!(f, "the pinned subnet {pinned} covers {covers}")
            }
        }
    }
}

/// Which subnet is mine. In this order: the lease with my node id and my address; none, while another's
/// lease carries an address of mine and its holder may live; the lease with my node id; one that
/// flannel wrote for my address; one that I challenged in vain; the previous subnet, if free; any free
/// one.
///
/// ```
/// use flannel_core::*;
///
/// let config = NetworkConfig::from_json(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#)?;
/// let public = PerFamily { v4: Some("192.0.2.1".parse().unwrap()), v6: None };
/// let me = Identity { node: NodeId(7), public, lost: false, neighbours: false, undisputed: [].into() };
/// let wish = Wish { previous: Some("10.5.9.0/24".parse().unwrap()), ..Wish::default() };
/// let choice = choose(&config, &Leases::default(), &me, &wish, &Protected::default());
/// assert!(matches!(choice, Choice::Create(subnet) if subnet.to_key() == "10.5.9.0-24"));
/// # Ok::<(), ConfigError>(())
/// ```
#[must_use]
pub fn choose(
    config: &NetworkConfig,
    leases: &Leases,
    me: &Identity,
    wish: &Wish,
    protected: &Protected,
) -> Choice {
    let fits = |subnet: &SubnetKey| config.gives_out(subnet) && first_hit(subnet, protected).is_none();
    if let Some(pinned) = wish.pinned {
        if !config.gives_out(&pinned) {
            return Choice::Wait(Unavailable::PinnedOutside { pinned });
        }
        if let Some((_, covers)) = first_hit(&pinned, protected) {
            return Choice::Wait(Unavailable::PinnedProtected { pinned, covers });
        }
    }
    let concerning: Vec<&Lease> = leases.iter().filter(|lease| concerns(lease, me)).collect();
    let mine = concerning
        .iter()
        .filter_map(|lease| Some((claim_on(lease, me)?, *lease)))
        .filter(|(_, lease)| {
            wish.pinned
                .map_or_else(|| fits(&lease.subnet), |pinned| lease.subnet == pinned)
        })
        .min_by_key(|(claim, lease)| (*claim, wish.previous != Some(lease.subnet)));
    if !matches!(mine, Some((Claim::Mine | Claim::Claimed, _)))
        && let Some(choice) = dispute(&concerning, me, wish)
    {
        return choice;
    }
    if let Some((claim, lease)) = mine {
        let lease = lease.clone();
        let why = match claim {
            Claim::Mine | Claim::Undisputed => return Choice::Keep(lease),
            Claim::Readdressed => TakeOver::Readdressed,
            Claim::Unnamed => TakeOver::Unnamed,
            Claim::Claimed => TakeOver::Claimed,
        };
        return Choice::TakeOver { lease, why };
    }
    if let Some(pinned) = wish.pinned {
        return match blocker(&pinned, leases, &wish.taken) {
            None => Choice::Create(pinned),
            Some(by) => Choice::Wait(Unavailable::PinnedTaken {
                pinned,
                by,
                holder: leases.get(&by).map(holder),
            }),
        };
    }
    let free = |previous: &SubnetKey| fits(previous) && blocker(previous, leases, &wish.taken).is_none();
    match wish.previous.filter(free) {
        Some(previous) => Choice::Create(previous),
        None => allocate(config, leases, wish, protected),
    }
}

/// What makes a lease mine, the strongest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    Mine,
    Claimed,
    Readdressed,
    Unnamed,
    Undisputed,
}

/// Whether a lease carries an address or a node id of mine.
fn concerns(lease: &Lease, me: &Identity) -> bool {
    let node = Some(me.node);
    lease.attrs.node == node || shared(lease, me.public).is_some() || challenged(&lease.attrs) == node
}

fn claim_on(lease: &Lease, me: &Identity) -> Option<Claim> {
    let my_address = !me.public.is_empty() && lease.attrs.public == me.public;
    match lease.attrs.node {
        Some(node) if node == me.node && challenged(&lease.attrs).is_some() => {
            let undisputed = is_my_challenge(lease, me) && me.undisputed.contains(&lease.subnet);
            undisputed.then_some(Claim::Undisputed)
        }
        Some(node) if node == me.node && my_address => Some(Claim::Mine),
        // Whoever lost a lease to its own id has a twin: a cloned state directory.
        Some(node) if node == me.node => (!me.lost).then_some(Claim::Readdressed),
        None if my_address => Some(Claim::Unnamed),
        Some(_) if challenged(&lease.attrs) == Some(me.node) => Some(Claim::Claimed),
        _ => None,
    }
}

/// Whether I have asked the holder of this lease. A twin, with my id, asks about an address of its own.
fn is_my_challenge(lease: &Lease, me: &Identity) -> bool {
    lease.attrs.node == Some(me.node)
        && challenged(&lease.attrs).is_some()
        && shared(lease, me.public).is_some()
}

/// What is to be done about hosts that publish an address of mine before I may publish it, too.
fn dispute(concerning: &[&Lease], me: &Identity, wish: &Wish) -> Option<Choice> {
    let is_contested = |lease: &&&Lease| is_my_challenge(lease, me) && !me.undisputed.contains(&lease.subnet);
    if let Some(contested) = concerning.iter().find(is_contested) {
        return Some(Choice::Contested((*contested).clone()));
    }
    let rivals = concerning.iter().copied().filter(|lease| match lease.attrs.node {
        Some(node) => node != me.node && shared(lease, me.public).is_some(),
        // flannel answers nobody: the address alone decides.
        None => me.neighbours && lease.attrs.public == me.public,
    });
    let wished = |lease: &Lease| [wish.pinned, wish.previous].contains(&Some(lease.subnet));
    let rival = rivals.min_by_key(|lease| !wished(lease))?;
    if me.neighbours {
        return address_taken(rival, me.public, Rival::Neighbour).map(Choice::Wait);
    }
    Some(Choice::Challenge(rival.clone()))
}

/// An address that a lease carries and that is among these.
pub(crate) fn shared(lease: &Lease, public: PerFamily<IpAddr>) -> Option<IpAddr> {
    let theirs = lease.attrs.public;
    // Both spelt out: this is asked of every lease there is.
    let v4 = public.v4.filter(|_| public.v4 == theirs.v4);
    v4.or_else(|| public.v6.filter(|_| public.v6 == theirs.v6))
}

/// That a lease carries an address among these.
pub(crate) fn address_taken(lease: &Lease, public: PerFamily<IpAddr>, rival: Rival) -> Option<Unavailable> {
    Some(Unavailable::AddressTaken {
        address: shared(lease, public)?,
        lease: lease.subnet,
        holder: holder(lease),
        rival,
    })
}

/// Whose a lease is, in words: its addresses, and its node id if it has one.
pub(crate) fn holder(lease: &Lease) -> String {
    let addresses = lease.attrs.public.iter().map(|(_, address)| address.to_string());
    let addresses = addresses.collect::<Vec<_>>().join(",");
    // Whoever has challenged a lease does not hold it yet.
    match challenged(&lease.attrs).or(lease.attrs.node) {
        Some(node) => format!("{addresses} (node {node})"),
        None => addresses,
    }
}

/// The flag that says what a host publishes.
pub(crate) const fn flag(address: IpAddr) -> &'static str {
    match Family::of(address) {
        Family::V4 => "--public-ip",
        Family::V6 => "--public-ipv6",
    }
}

fn first_hit(subnet: &SubnetKey, protected: &Protected) -> Option<(IpNet, String)> {
    subnet
        .nets()
        .find_map(|net| Some((net, protected.hit(net)?.to_owned())))
}

/// Who has the subnet, or a part of it.
fn blocker(subnet: &SubnetKey, leases: &Leases, taken: &BTreeSet<SubnetKey>) -> Option<SubnetKey> {
    let own = leases.get(subnet).map(|lease| lease.subnet);
    own.or_else(|| leases.overlapping(subnet).first().map(|lease| lease.subnet))
        .or_else(|| taken.iter().find(|taken| taken.overlaps(subnet)).copied())
}

/// Picks one of the first free subnets. With two families the subnets of one index belong together:
/// two hosts that pick at once then either pick one key, of which the store lets one pass, or share
/// no address. Where flannel has paired them otherwise, each family is picked for itself.
fn allocate(config: &NetworkConfig, leases: &Leases, wish: &Wish, protected: &Protected) -> Choice {
    let taken = |range: Range| {
        let subnets = leases.iter().map(|lease| &lease.subnet).chain(&wish.taken);
        subnets
            .flat_map(SubnetKey::nets)
            .filter_map(move |net| range.indices(net))
    };
    let harmful = |range: Range| protected.nets().filter_map(move |net| range.indices(net));
    let pick = |free: &[u128], family: Family| {
        let spread = mix(wish.seed.wrapping_add(family as u64)) as usize;
        free.get(spread % free.len().max(1)).copied()
    };
    if let (Some(v4), Some(v6)) = (config.ranges.v4, config.ranges.v6) {
        let blocked = [v4, v6]
            .into_iter()
            .flat_map(|range| taken(range).chain(harmful(range)));
        let free = first_free(v4.count().min(v6.count()), blocked);
        let pair = pick(&free, Family::V4).and_then(|index| pair(v4.nth(index)?, v6.nth(index)?));
        if let Some(pair) = pair {
            return Choice::Create(pair);
        }
    }
    let mut parts = PerFamily::NONE;
    for (family, &range) in config.ranges.iter() {
        let free = first_free(range.count(), taken(range).chain(harmful(range)));
        let Some(net) = pick(&free, family).and_then(|index| range.nth(index)) else {
            let left = first_free(range.count(), taken(range));
            let left = left.first().and_then(|index| range.nth(*index));
            let covers = left.and_then(|subnet| Some((subnet, protected.hit(subnet)?.to_owned())));
            return Choice::Wait(match covers {
                None => Unavailable::OutOfSubnets,
                Some((subnet, covers)) => Unavailable::AllProtected { subnet, covers },
            });
        };
        parts.set(family, Some(net));
    }
    SubnetKey::of_nets(parts).map_or(Choice::Wait(Unavailable::OutOfSubnets), Choice::Create)
}

/// The first of `count` places that are not blocked. Steps from gap to gap: a range can have more
/// subnets than could ever be looked at, and one prefix can block most of them.
fn first_free(count: u128, blocked: impl Iterator<Item = ops::Range<u128>>) -> Vec<u128> {
    let mut blocked: Vec<_> = blocked.collect();
    blocked.sort_unstable_by_key(|places| places.start);
    let (mut free, mut next) = (Vec::new(), 0);
    for taken in blocked.into_iter().chain(std::iter::once(count..count)) {
        free.extend((next..taken.start.min(count)).take(CANDIDATES - free.len()));
        next = next.max(taken.end);
    }
    free
}

fn pair(v4: IpNet, v6: IpNet) -> Option<SubnetKey> {
    SubnetKey::of_nets(PerFamily {
        v4: Some(v4),
        v6: Some(v6),
    })
}

/// Spreads the bits of a seed: the finaliser of SplitMix64.
pub(crate) const fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
