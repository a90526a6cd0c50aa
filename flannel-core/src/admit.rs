//! Which leases become peers. What other hosts publish is input from outside.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use crate::{Family, Host, Lease, Leases, NetworkConfig, Protected, SubnetKey};

/// Of leases of one set, whether each is a peer.
pub(crate) type Known = BTreeMap<SubnetKey, bool>;

/// What leases are held against.
#[derive(Debug, Clone, Copy)]
pub struct Admission<'a> {
    /// The network.
    pub config: &'a NetworkConfig,
    /// This host.
    pub host: &'a Host,
    /// This host's subnet.
    pub own: SubnetKey,
    /// What no lease may cover.
    pub protected: &'a Protected,
    /// The backend's name; leases of another are another's.
    pub backend: &'a str,
}

/// Why a lease is no peer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// It lies outside the network.
    Outside,
    /// It shares addresses with this host's subnet.
    OverlapsOwn(SubnetKey),
    /// It shares addresses with an older lease.
    OverlapsOlder(SubnetKey),
    /// It covers a part of what this host needs.
    Covers(String),
    /// It names no address to reach it at, or one at which nobody can be reached.
    BadAddress(Option<IpAddr>, Family),
    /// It names the address by which all hosts of the uplink's own network are meant (RFC 919), or the network
    /// itself is.
    Broadcast(IpAddr, Ipv4Net),
    /// It names this host's own address.
    OurAddress(IpAddr),
    /// This host left it behind: after a change of the network, or a claim whose answer was lost.
    LeftBehind,
    /// It belongs to another backend.
    Backend(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside => f.write_str("it lies outside the network"),
            Self::OverlapsOwn(own) => write!(f, "it overlaps our own subnet {own}"),
            Self::OverlapsOlder(older) => write!(f, "it overlaps the older lease {older}"),
            Self::Covers(what) => write!(f, "it covers {what}"),
            Self::BadAddress(None, family) => write!(f, "it has no public {family} address"),
            Self::BadAddress(Some(address), _) => write!(f, "{address} can be no host's public address"),
            Self::Broadcast(address, net) => {
                let what = if *address == net.broadcast() {
                    "broadcast"
                } else {
                    "network"
                };
                write!(
                    f,
                    "its public address {address} is the {what} address of {net} here, and no host's; give it one of \
                     its own with --public-ip"
                )
            }
            Self::OurAddress(address) => {
                write!(
                    f,
                    "its public address {address} is this host's own; give each host its own --public-ip"
                )
            }
            Self::LeftBehind => f.write_str("this host holds another; it is given back, or ends by itself"),
            Self::Backend(kind) => write!(f, "its backend is {kind:?}"),
        }
    }
}

impl Admission<'_> {
    /// Holds one lease against everything but the other leases.
    ///
    /// # Errors
    ///
    /// [`Refusal`].
    pub fn check(&self, lease: &Lease) -> Result<(), Refusal> {
        if !self.in_network(&lease.subnet) {
            return Err(Refusal::Outside);
        }
        if lease.subnet.overlaps(&self.own) {
            return Err(Refusal::OverlapsOwn(self.own));
        }
        if let Some(covers) = lease.subnet.nets().find_map(|net| self.protected.hit(net)) {
            return Err(Refusal::Covers(covers.to_owned()));
        }
        if lease.attrs.backend != self.backend {
            return Err(Refusal::Backend(lease.attrs.backend.clone()));
        }
        for (family, _) in self.config.ranges.iter() {
            let Some(net) = lease.subnet.net(family) else {
                continue;
            };
            let address = lease.attrs.public.get(family).copied();
            let reachable = |address: &IpAddr| is_host(*address) && !net.contains(address);
            let Some(address) = address.filter(reachable) else {
                return Err(Refusal::BadAddress(address, family));
            };
            if let Some(net) = self.broadcast_in(address) {
                return Err(Refusal::Broadcast(address, net));
            }
            if self.host.uplink.public.get(family) == Some(&address) || self.host.facts.owns(address) {
                return Err(Refusal::OurAddress(address));
            }
        }
        Ok(())
    }

    /// Decides whether a lease is a peer: it passes [`Admission::check`], and no older lease that
    /// is a peer itself shares an address with it.
    ///
    /// # Errors
    ///
    /// [`Refusal`].
    pub fn admit(&self, lease: &Lease, leases: &Leases) -> Result<(), Refusal> {
        self.admit_knowing(lease, leases, &mut Known::new())
    }

    /// As [`Admission::admit`], for many leases of one set: each is asked about once. Without that,
    /// rivals that have rivals in common would take exponential time.
    pub(crate) fn admit_knowing(
        &self,
        lease: &Lease,
        leases: &Leases,
        known: &mut Known,
    ) -> Result<(), Refusal> {
        self.check(lease)?;
        let mut open = vec![self.open(lease, leases)];
        while let Some(Open { subnet, rivals }) = open.last_mut() {
            let refused = |rival: &mut &Lease| known.get(&rival.subnet) == Some(&false);
            while rivals.pop_if(refused).is_some() {}
            let rival = rivals.last().copied();
            if let Some(unknown) = rival.filter(|rival| !known.contains_key(&rival.subnet)) {
                open.push(self.open(unknown, leases));
                continue;
            }
            known.insert(*subnet, rival.is_none());
            if let (1, Some(older)) = (open.len(), rival) {
                return Err(Refusal::OverlapsOlder(older.subnet));
            }
            open.pop();
        }
        Ok(())
    }

    /// Rivals are only ever older, and so the search comes to an end.
    fn open<'a>(&self, lease: &Lease, leases: &'a Leases) -> Open<'a> {
        let mut rivals = leases.overlapping(&lease.subnet);
        rivals.retain(|rival| age(rival) < age(lease) && self.check(rival).is_ok());
        rivals.sort_by_key(|rival| std::cmp::Reverse(age(rival)));
        Open {
            subnet: lease.subnet,
            rivals,
        }
    }

    /// Whether another subnet length than the config's is used: admitted, since configs change
    /// while hosts live, but worth a warning.
    #[must_use]
    pub fn is_cut_differently(&self, lease: &Lease) -> bool {
        self.config.ranges.iter().any(|(family, range)| {
            lease
                .subnet
                .net(family)
                .is_some_and(|net| net.prefix_len() != range.subnet_len)
        })
    }

    /// The uplink's network in which an address is the first or the last. Networks of two addresses or one have
    /// none that is no host's (RFC 3021).
    fn broadcast_in(&self, address: IpAddr) -> Option<Ipv4Net> {
        let link = self.host.facts.link(&self.host.uplink.device)?;
        let nets = link.addresses.iter().filter_map(|own| match own.net {
            IpNet::V4(net) if net.prefix_len() <= 30 => Some(net.trunc()),
            _ => None,
        });
        let mut nets = nets.filter(|net| address == net.network() || address == net.broadcast());
        nets.next()
    }

    fn in_network(&self, subnet: &SubnetKey) -> bool {
        let mut parts = self.config.ranges.iter().filter_map(|(family, range)| {
            let net = subnet.net(family)?;
            Some(range.network.contains(&net) && net.prefix_len() > range.network.prefix_len())
        });
        parts
            .next()
            .is_some_and(|first| first && parts.all(|inside| inside))
    }
}

/// A lease that is a peer unless one of its rivals is.
struct Open<'a> {
    subnet: SubnetKey,
    /// The youngest first: the oldest, which most likely is a peer, is asked about first.
    rivals: Vec<&'a Lease>,
}

fn age(lease: &Lease) -> (u64, SubnetKey) {
    (lease.created, lease.subnet)
}

/// Whether packets can be sent to one host by this address. IPv4's above 240.0.0.0 are reserved (RFC 1112,
/// section 4), and IPv6's that stand for one of IPv4's (RFC 4291, section 2.5.5) are on no wire.
fn is_host(address: IpAddr) -> bool {
    let is_nobody = match address {
        IpAddr::V4(v4) => matches!(v4.octets()[0], 0 | 240..),
        IpAddr::V6(v6) => v6.to_ipv4().is_some(),
    };
    !(is_nobody || address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

#[cfg(test)]
#[path = "admit_tests.rs"]
mod tests;
