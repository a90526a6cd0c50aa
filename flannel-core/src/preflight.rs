//! What of an operator's setting up keeps packets from pods, though every route is right. Pure: facts
//! in, words with the remedy out.

use std::fmt::Write as _;

use ipnet::IpNet;

use crate::choose::{flag, holder, shared};
use crate::{
    DeviceName, Family, Filter, Host, HostFacts, Lease, Leases, Link, NetworkConfig, NodeId, SubnetKey,
};

/// Addresses that one text lists.
const LISTED: usize = 4;

/// That packets for pods, or from them, are not forwarded. Looked at are the uplink and the devices
/// with an address in our own subnet, behind which pods are.
pub(crate) fn forwarding(config: &NetworkConfig, host: &Host, own: Option<&SubnetKey>) -> Option<String> {
    let mut texts = Vec::new();
    for (family, _) in config.ranges.iter() {
        let net = own.and_then(|own| own.net(family));
        let with_pods = host.facts.links.iter().filter(|link| {
            let mut addresses = link.addresses.iter().map(|own| own.net.addr());
            net.is_some_and(|net| addresses.any(|address| net.contains(&address)))
        });
        let uplink = host.uplink.device;
        let devices = std::iter::once(uplink).chain(with_pods.map(|link| link.name));
        let mut off: Vec<DeviceName> = devices
            .filter(|device| host.facts.is_unforwarded(device, family))
            .collect();
        off.dedup();
        let Some(first) = off.first() else { continue };
        let forwarding = setting("ipv4", first, "forwarding");
        let accepting = setting("ipv6", &uplink, "accept_ra");
        texts.push(match family {
            Family::V4 => format!(
                "IPv4 packets that come in by {first} are not forwarded ({forwarding} is 0): other hosts' pods and \
                 ours do not reach each other; sysctl -w net.ipv4.ip_forward=1 {forwarding}=1"
            ),
            Family::V6 => format!(
                "IPv6 packets are not forwarded (net.ipv6.conf.all.forwarding is 0): other hosts' pods and ours do \
                 not reach each other; sysctl -w net.ipv6.conf.all.forwarding=1 (after \
                 {accepting}=2, if {uplink} is set up by router advertisements)"
            ),
        });
    }
    join(texts)
}

/// That packets are dropped which come by one way while the way back leads another, as they do for a
/// moment wherever a peer comes to be on our link, or ceases to, and two hosts do not see that at once.
pub(crate) fn reverse_path(facts: &HostFacts, devices: &[DeviceName]) -> Option<String> {
    let strict = devices.iter().filter(|device| {
        let link = facts.link(device);
        link.is_some_and(|link| link.strict_reverse_path)
    });
    let strict = strict.map(|device| {
        let filter = setting("ipv4", device, "rp_filter");
        format!(
            "packets that come in by {device} are dropped while a peer is reached another way, as happens with \
             DirectRouting ({filter} or that of all is 1); sysctl -w {filter}=2"
        )
    });
    join(strict.collect())
}

/// A setting of a device as sysctl takes it: dots in a device's name are none of its own.
fn setting(family: &str, device: &DeviceName, name: &str) -> String {
    if device.as_str().contains('.') {
        format!("net/{family}/conf/{device}/{name}")
    } else {
        format!("net.{family}.conf.{device}.{name}")
    }
}

/// That a chain of the packet filter may drop packets from pods to pods.
pub(crate) fn filtering<'a>(
    config: &NetworkConfig,
    facts: &'a HostFacts,
    others: impl Iterator<Item = &'a Filter>,
    own: Option<&SubnetKey>,
) -> Option<String> {
    let mut texts = Vec::new();
    let mut seen: Vec<&Filter> = Vec::new();
    for filter in facts.filters.iter().chain(others) {
        if seen.contains(&filter) {
            continue;
        }
        seen.push(filter);
        for (family, range) in config.ranges.iter() {
            let subnet = own.and_then(|own| own.net(family));
            let pods = subnet.unwrap_or(range.network);
            let accepted = filter.accepts.iter().any(|net| net.contains(&pods));
            let elsewhere = filter
                .device
                .is_some_and(|device| !leads_to(facts, device, subnet));
            if accepted || elsewhere || !filter.families.contains(&family) {
                continue;
            }
            let (table, chain, network) = (&filter.table, &filter.chain, range.network);
            let what = filter
                .device
                .map_or_else(String::new, |device| format!(" on its way to {device}"));
            texts.push(format!(
                "packets from pods to pods may be dropped: the chain {chain} (table {table}) drops what its rules do \
                 not accept{what}, and none of them is seen to accept {network}; {}",
                accept(filter, network)
            ));
        }
    }
    join(texts)
}

/// Whether our pods are behind this device: it has an address of our subnet.
fn leads_to(facts: &HostFacts, device: DeviceName, subnet: Option<IpNet>) -> bool {
    let addresses = facts.link(&device).into_iter().flat_map(|link| &link.addresses);
    let mut addresses = addresses.map(|own| own.net.addr());
    subnet.is_some_and(|subnet| addresses.any(|address| subnet.contains(&address)))
}

/// The commands that have a chain accept a network.
fn accept(filter: &Filter, network: IpNet) -> String {
    let Filter {
        table,
        chain,
        program,
        ..
    } = filter;
    let (of_nft, header) = match network {
        IpNet::V4(_) => ("iptables-nft", "ip"),
        IpNet::V6(_) => ("ip6tables-nft", "ip6"),
    };
    let program = program.as_deref().unwrap_or(of_nft);
    if chain == "FORWARD" && *table == format!("{header} filter") {
        format!("{program} -I FORWARD -s {network} -j ACCEPT && {program} -I FORWARD -d {network} -j ACCEPT")
    } else {
        format!(
            "nft insert rule {table} {chain} {header} saddr {network} accept && nft insert rule {table} {chain} \
             {header} daddr {network} accept"
        )
    }
}

/// An address in the network, but not in our own subnet, on a device that is no way to other hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Misplaced {
    pub(crate) device: DeviceName,
    address: IpNet,
    /// What the device ought to have instead: the first address of our subnet.
    ought: IpNet,
}

/// Addresses of bridges that were set up for another subnet than ours. A device's own point in the
/// network (a `/32`), as tunnels have it, is none, nor is what lies in a network of the uplink: hosts
/// may stand inside the network.
pub(crate) fn misplaced(config: &NetworkConfig, host: &Host, own: &SubnetKey) -> Vec<Misplaced> {
    let uplink = host.facts.link(&host.uplink.device);
    let underlay: Vec<IpNet> = uplink
        .iter()
        .flat_map(|link| &link.addresses)
        .map(|own| own.net)
        .collect();
    let is_bridge = |link: &&Link| link.name != host.uplink.device && !link.loopback;
    let mut found = Vec::new();
    for link in host.facts.links.iter().filter(is_bridge) {
        for address in link.addresses.iter().map(|address| address.net) {
            let family = Family::of_net(address);
            let (Some(range), Some(ours)) = (config.ranges.get(family), own.net(family)) else {
                continue;
            };
            let elsewhere = range.network.contains(&address.addr()) && !ours.contains(&address.addr());
            let of_hosts = underlay.iter().any(|net| net.contains(&address.addr()));
            if elsewhere && !of_hosts && address.prefix_len() < family.bits() {
                found.push(Misplaced {
                    device: link.name,
                    address,
                    ought: first_host(ours),
                });
            }
        }
    }
    found
}

/// The same in words; who holds the other subnet is looked up in `leases`.
pub(crate) fn told(misplaced: &[Misplaced], leases: &Leases) -> Option<String> {
    let mut texts = Vec::new();
    for Misplaced {
        device,
        address,
        ought,
    } in misplaced.iter().take(LISTED)
    {
        let theirs = leases.overlapping_net(address.addr().into()).next();
        let theirs = theirs.map_or_else(String::new, |lease| {
            format!(", but in the lease {} of {}", lease.subnet, holder(lease))
        });
        texts.push(format!(
            "{device} has the address {address}, which is not in this host's subnet {}{theirs}: other hosts do not \
             reach what is behind it; ip address replace {ought} dev {device} && ip address del {address} dev \
             {device} (docker: --bip={ought})",
            ought.trunc()
        ));
    }
    let mut text = join(texts)?;
    if misplaced.len() > LISTED {
        let _ = write!(text, "; and {} more", misplaced.len() - LISTED);
    }
    Some(text)
}

/// The address that `subnet.env` gives the bridge, with the length of the subnet.
fn first_host(subnet: IpNet) -> IpNet {
    let family = Family::of_net(subnet);
    let first = family.address(Family::to_number(subnet.network()) + 1);
    let inside = IpNet::new(first, subnet.prefix_len())
        .ok()
        .filter(|_| subnet.contains(&first));
    inside.unwrap_or(subnet)
}

/// That an address of ours stands in another's lease, where that keeps nothing else from being said.
pub(crate) fn published_twice(host: &Host, me: NodeId, leases: &Leases) -> Option<String> {
    let public = host.uplink.public;
    let theirs = |lease: &&Lease| lease.attrs.node != Some(me) && shared(lease, public).is_some();
    let lease = leases.iter().find(theirs)?;
    let address = shared(lease, public)?;
    Some(format!(
        "our public address {address} is published by the lease {} of {} already; give each host its own {}",
        lease.subnet,
        holder(lease),
        flag(address)
    ))
}

fn join(texts: Vec<String>) -> Option<String> {
    (!texts.is_empty()).then(|| texts.join("; "))
}

#[cfg(test)]
#[path = "preflight_tests.rs"]
mod tests;
