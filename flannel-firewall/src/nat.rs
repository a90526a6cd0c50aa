//! Which packets are masqueraded: the decision, once, for both kinds of rules to be checked against.

use std::net::IpAddr;

use flannel_core::{Family, PodNetwork};
use ipnet::IpNet;

/// The bit by which kube-proxy marks what it is going to masquerade by itself.
pub(crate) const KUBE_PROXY_MARK: u32 = 0x4000;

/// A packet about to leave the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// The mark that others have put on it (`nfmark`).
    pub mark: u32,
}

/// What happens to a packet's source address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Nat {
    /// It stays.
    Keep,
    /// It becomes this host's.
    Masquerade,
}

/// Whether a packet's source address becomes this host's, where masquerading is switched on.
///
/// | from | to | |
/// |---|---|---|
/// | anywhere, marked by kube-proxy | anywhere | stays: kube-proxy masquerades it |
/// | a pod of this host | the network | stays |
/// | the network | a pod of this host | stays |
/// | outside | a pod of this host | stays |
/// | the network | a range of `NonMasqueradeCIDRs` | stays |
/// | the network | a multicast group | stays |
/// | the network | anywhere else | becomes this host's |
/// | outside | a pod of another host | becomes this host's, so that the answer comes back here |
/// | outside | outside | stays |
///
/// The first line that fits counts. It is flannel v0.28's decision in iptables mode; of its nftables
/// rules, one is never reached, and the mark is compared without its mask.
#[must_use]
pub fn decide(flow: &Flow, pods: &PodNetwork) -> Nat {
    let family = Family::of(flow.source);
    let (Some(network), Some(subnet)) = (pods.networks.get(family), pods.subnets.get(family)) else {
        return Nat::Keep;
    };
    let Flow {
        source,
        destination,
        mark,
    } = flow;
    let from_pods = network.contains(source);
    let local = subnet.contains(destination) || subnet.contains(source) && network.contains(destination);
    let exempt = from_pods && pods.unmasqueraded.iter().any(|range| range.contains(destination));
    if mark & KUBE_PROXY_MARK != 0 || local || exempt {
        return Nat::Keep;
    }
    let leaves = from_pods && !multicast(family).contains(destination);
    let enters = !from_pods && network.contains(destination);
    if leaves || enters {
        Nat::Masquerade
    } else {
        Nat::Keep
    }
}

/// Every multicast group of a family (RFC 5771, RFC 4291).
pub(crate) fn multicast(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::V4(ipnet::Ipv4Net::new_assert(
            std::net::Ipv4Addr::new(224, 0, 0, 0),
            4,
        )),
        Family::V6 => IpNet::V6(ipnet::Ipv6Net::new_assert(
            std::net::Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0),
            8,
        )),
    }
}

#[cfg(test)]
#[path = "nat_tests.rs"]
mod tests;
