//! Facts about the host, as values.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::IpNet;

use crate::family::is_link_local;
use crate::{DeviceName, Family, KernelError, MacAddress, NodeId, Uplink};

/// Where facts about the host come from. That they changed is announced by
/// [`Changed::Host`](crate::Changed::Host).
#[async_trait]
pub trait HostSource: Send + Sync {
    /// The host as it is now; `reach` are the addresses for which [`HostFacts::reached`] is asked.
    ///
    /// # Errors
    ///
    /// [`KernelError`], when the kernel gave no whole answer.
    async fn facts(&self, reach: &[IpAddr]) -> Result<HostFacts, KernelError>;
}

/// Links, addresses, default routes and resolvers of a host, and what it does to packets for others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostFacts {
    /// Every device, ordered by index.
    pub links: Vec<Link>,
    /// The default routes of table main, the preferred one (lowest metric) of each family first.
    pub default_routes: Vec<DefaultRoute>,
    /// The name servers of `/etc/resolv.conf`.
    pub resolvers: Vec<IpAddr>,
    /// By which device and source address the kernel reaches the addresses that were asked for.
    pub reached: BTreeMap<IpAddr, Reached>,
    /// Where forwarding is known to be switched off.
    pub unforwarded: Unforwarded,
    /// Chains of the packet filter that drop what they are not told to accept, as far as known.
    pub filters: Vec<Filter>,
    /// How addresses of hosts on the same links are reached.
    pub underlay: Underlay,
    /// The version of the kernel, as far as known.
    pub kernel: Option<KernelRelease>,
}

/// The version of a kernel, `6.1` of `6.1.0-18-amd64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelRelease {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
}

/// Routes of table main that have no gateway, and those within their destinations that have one, or that
/// drop packets. Whatever policy routing has in other tables is not seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Underlay(BTreeMap<(IpNet, u32), Option<DeviceName>>);

impl Underlay {
    /// Takes a route: its destination, its metric, and the device on whose link its destination is;
    /// `None` when that is behind a gateway, or nowhere. Of several with one destination and metric the
    /// first counts, as it does for the kernel.
    pub fn insert(&mut self, destination: IpNet, metric: u32, on_link: Option<DeviceName>) {
        self.0.entry((destination.trunc(), metric)).or_insert(on_link);
    }

    /// Leaves out what says nothing about any link: routes behind a gateway that lie in no destination
    /// on one.
    pub fn retain_relevant(&mut self) {
        let on_link = |(net, device): (&(IpNet, u32), &Option<DeviceName>)| device.map(|_| net.0);
        let links: Vec<IpNet> = self.0.iter().filter_map(on_link).collect();
        self.0
            .retain(|(net, _), device| device.is_some() || links.iter().any(|link| link.contains(net)));
    }

    /// On whose link an address is, going by the longest destination that contains it.
    #[must_use]
    pub fn link_of(&self, address: IpAddr) -> Option<DeviceName> {
        let containing = self.0.iter().filter(|((net, _), _)| net.contains(&address));
        // The map is in the order of metrics where destinations are equal, and the first wins.
        let best = containing.min_by_key(|((net, metric), _)| (u8::MAX - net.prefix_len(), *metric))?;
        *best.1
    }

    /// The same without what lies in any of these networks.
    #[must_use]
    pub fn outside(&self, networks: &[IpNet]) -> Self {
        let outside = |net: &IpNet| !networks.iter().any(|network| network.contains(net));
        let routes = self.0.iter().filter(|((net, _), _)| outside(net));
        Self(routes.map(|(key, device)| (*key, *device)).collect())
    }
}

/// Where packets that are for others are dropped, because forwarding is switched off.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unforwarded {
    /// IPv4 packets that come in by these devices (`net.ipv4.conf.<device>.forwarding`, which
    /// `net.ipv4.ip_forward` sets for all).
    pub v4: BTreeSet<DeviceName>,
    /// All IPv6 packets (`net.ipv6.conf.all.forwarding`): for them there is no switch per device.
    pub v6: bool,
}

/// A chain that every forwarded packet has to pass, and that drops by its policy, or by a rule, those
/// that none of its rules accepts before, as docker's `FORWARD` does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// The families whose packets pass it.
    pub families: Vec<Family>,
    /// The family and name of its table, `ip filter`.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// Only what other devices receive and this one is to send is dropped, as docker does for its
    /// bridges. `None`: whatever comes.
    pub device: Option<DeviceName>,
    /// The program that lists and changes it, `iptables-legacy`. `None`: it is nftables', so that `nft`
    /// does, and for the tables of iptables `iptables-nft`.
    pub program: Option<String>,
    /// Networks whose packets it is seen to accept, by source or destination. A `/0` where a rule
    /// may accept anything, as far as can be told.
    pub accepts: Vec<IpNet>,
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: DeviceName,
    /// Its index, which a device that is made again under the same name does not keep.
    pub index: u32,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is up (`IFF_UP`).
    pub up: bool,
    /// Whether it is the loopback device.
    pub loopback: bool,
    /// Its MAC address, if it has one.
    pub mac: Option<MacAddress>,
    /// Whether packets that come in by it are dropped unless the way back leads out of it
    /// (`net.ipv4.conf.<device>.rp_filter` or that of `all` is 1, and neither is 2).
    pub strict_reverse_path: bool,
    /// Its addresses in the kernel's order.
    pub addresses: Vec<LinkAddress>,
}

/// An address of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkAddress {
    /// The address with the length of its on-link prefix.
    pub net: IpNet,
    /// Not to be used for new connections: deprecated, or not yet or never confirmed to be the only
    /// one (`IFA_F_DEPRECATED`, `IFA_F_TENTATIVE`, `IFA_F_DADFAILED`).
    pub unusable: bool,
    /// Lives until somebody removes it (`IFA_F_PERMANENT`).
    pub permanent: bool,
    /// A privacy address (`IFA_F_TEMPORARY`, which is IPv4's `IFA_F_SECONDARY`).
    pub temporary: bool,
}

/// A default route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefaultRoute {
    /// Of which family.
    pub family: Family,
    /// Out of which device.
    pub device: DeviceName,
    /// To which host; `None` when everything is on the link.
    pub gateway: Option<IpAddr>,
    /// Its priority: lower wins.
    pub metric: u32,
}

/// The kernel's answer to a route look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// Out of which device.
    pub device: DeviceName,
    /// From which address.
    pub source: Option<IpAddr>,
}

impl HostFacts {
    /// The device of this name.
    #[must_use]
    pub fn link(&self, name: &DeviceName) -> Option<&Link> {
        self.links.iter().find(|link| link.name == *name)
    }

    /// Every address that others could use, in no particular order but a stable one.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let all = self.links.iter().flat_map(|link| &link.addresses);
        let mut all: Vec<IpAddr> = all
            .filter(|own| !is_link_local(own.net.addr()))
            .map(|own| own.net.addr())
            .collect();
        all.sort_unstable();
        all
    }

    /// Whether packets of this family that come in by the device are known not to be forwarded.
    #[must_use]
    pub fn is_unforwarded(&self, device: &DeviceName, family: Family) -> bool {
        match family {
            Family::V4 => self.unforwarded.v4.contains(device),
            Family::V6 => self.unforwarded.v6,
        }
    }

    /// Whether the address is this host's own.
    #[must_use]
    pub fn owns(&self, address: IpAddr) -> bool {
        self.links
            .iter()
            .any(|link| link.addresses.iter().any(|own| own.net.addr() == address))
    }
}

/// The host as backends see it: rebuilt whenever a fact changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Who it is.
    pub node: NodeId,
    /// The way to the other hosts.
    pub uplink: Uplink,
    /// Everything else.
    pub facts: Arc<HostFacts>,
}

impl Host {
    /// Whether it publishes an address that is surely another host's: none of its own, though the
    /// uplink's network contains it, and so no NAT is in between.
    #[must_use]
    pub fn publishes_a_neighbours(&self) -> bool {
        let link = self.facts.link(&self.uplink.device);
        let networks: Vec<IpNet> = link
            .iter()
            .flat_map(|link| &link.addresses)
            .map(|own| own.net)
            .collect();
        self.uplink.public.iter().any(|(_, address)| {
            !self.facts.owns(*address) && networks.iter().any(|network| network.contains(address))
        })
    }
}

/// Prefixes that no lease may cover a part of, since the host would lose them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Protected(Vec<(IpNet, String)>);

impl Protected {
    /// The uplink's networks, the default gateways, the resolvers and the store's endpoints.
    /// Addresses of the host itself need no protection: it reaches them whatever the routes say.
    #[must_use]
    pub fn of(host: &Host, endpoints: &[IpAddr]) -> Self {
        let mut all = Vec::new();
        let device = host.uplink.device;
        if let Some(link) = host.facts.link(&device) {
            for address in &link.addresses {
                let net = address.net.trunc();
                if !is_link_local(net.addr()) {
                    all.push((net, format!("the network {net} of {device}")));
                }
            }
        }
        let gateways = host.facts.default_routes.iter().filter_map(|route| route.gateway);
        let resolvers = host.facts.resolvers.iter().copied();
        let named = gateways
            .map(|address| (address, "the default gateway"))
            .chain(resolvers.map(|address| (address, "the resolver")))
            .chain(endpoints.iter().map(|address| (*address, "the store's endpoint")));
        for (address, what) in named {
            if !address.is_loopback() && !host.facts.owns(address) {
                all.push((IpNet::from(address), format!("{what} {address}")));
            }
        }
        Self(all)
    }

    /// All of them, each with what it is in words.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &str)> {
        self.0.iter().map(|(net, what)| (*net, what.as_str()))
    }

    pub(crate) fn nets(&self) -> impl Iterator<Item = IpNet> {
        self.0.iter().map(|(net, _)| *net)
    }

    /// What `net` covers a part of, in words.
    #[must_use]
    pub fn hit(&self, net: IpNet) -> Option<&str> {
        let hit = self
            .0
            .iter()
            .find(|(protected, _)| crate::subnet::overlap(*protected, net));
        hit.map(|(_, what)| what.as_str())
    }
}
