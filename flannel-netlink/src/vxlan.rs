//! VXLAN devices as the kernel tells of them, and as it is asked for them. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flannel_core::Vxlan;
use netlink_packet_core::{DecodeError, NlasIterator, parse_u16_be, parse_u32};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo};

use crate::attribute::address;
use crate::link::Names;

/// The kind of such a device in `IFLA_INFO_KIND`.
pub(crate) const KIND: &str = "vxlan";

/// `IFLA_VXLAN_*` in `linux/if_link.h`.
const ID: u16 = 1;
const GROUP: u16 = 2;
const LINK: u16 = 3;
const LOCAL: u16 = 4;
const LEARNING: u16 = 7;
const LIMIT: u16 = 9;
const PROXY: u16 = 11;
const RSC: u16 = 12;
const L2MISS: u16 = 13;
const L3MISS: u16 = 14;
const PORT: u16 = 15;
const GROUP6: u16 = 16;
const LOCAL6: u16 = 17;
const REMCSUM_TX: u16 = 21;
const REMCSUM_RX: u16 = 22;
const GBP: u16 = 23;
const REMCSUM_NOPARTIAL: u16 = 24;
const COLLECT_METADATA: u16 = 25;
const GPE: u16 = 27;
const VNIFILTER: u16 = 30;
const MC_ROUTE: u16 = 34;

/// A VXLAN device's settings, with the device below by its index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SeenVxlan {
    /// Without its uplink.
    settings: Vxlan,
    pub(crate) link: Option<u32>,
}

impl SeenVxlan {
    /// Reads `IFLA_INFO_DATA`. What the kernel leaves out is off; what it tells and is not known here are
    /// the defaults of a later kernel, and decorate nothing.
    pub(crate) fn decode(data: &[u8]) -> Result<Self, DecodeError> {
        let (mut settings, mut link) = (Vxlan::new(0, 0), None);
        for attribute in NlasIterator::new(data) {
            let attribute = attribute?;
            let value = attribute.value();
            let on = value.iter().any(|byte| *byte != 0);
            match attribute.kind() {
                ID => settings.vni = parse_u32(value)?,
                PORT => settings.port = parse_u16_be(value)?,
                LOCAL | LOCAL6 => settings.local = address(value),
                LINK => link = Some(parse_u32(value)?).filter(|index| *index != 0),
                LEARNING => settings.learning = on,
                GBP => settings.gbp = true,
                // Those that are set by being there.
                GROUP | GROUP6 | GPE | REMCSUM_NOPARTIAL => settings.decorated = true,
                LIMIT | PROXY | RSC | L2MISS | L3MISS | COLLECT_METADATA | VNIFILTER | REMCSUM_TX
                | REMCSUM_RX | MC_ROUTE => settings.decorated |= on,
                _ => {}
            }
        }
        Ok(Self { settings, link })
    }

    pub(crate) fn named(&self, names: &Names) -> Vxlan {
        Vxlan {
            uplink: self.link.map(|index| names.of(index)),
            ..self.settings.clone()
        }
    }

    /// Something about it is as with no device here.
    pub(crate) const fn decorate(&mut self) {
        self.settings.decorated = true;
    }
}

/// How many bytes of a packet go to the headers around it (RFC 7348, section 5).
pub(crate) const fn overhead(vxlan: &Vxlan) -> u32 {
    const ETHERNET_UDP_AND_VXLAN: u32 = 14 + 8 + 8;
    match vxlan.local {
        Some(IpAddr::V6(_)) => 40 + ETHERNET_UDP_AND_VXLAN,
        _ => 20 + ETHERNET_UDP_AND_VXLAN,
    }
}

/// What a new device is asked for with. `None` for what no device here is made with.
pub(crate) fn made(vxlan: &Vxlan, link: Option<u32>) -> Option<LinkAttribute> {
    if vxlan.decorated {
        return None;
    }
    let mut data = vec![
        InfoVxlan::Id(vxlan.vni),
        InfoVxlan::Port(vxlan.port),
        InfoVxlan::Learning(vxlan.learning),
    ];
    data.extend(vxlan.local.map(local));
    data.extend(link.map(InfoVxlan::Link));
    data.extend(vxlan.gbp.then_some(InfoVxlan::Gbp));
    Some(info(data))
}

/// What a device is asked for that is `now` like this and becomes the other; `None` if nothing. Naming
/// what stays as it is would do harm: the kernel refuses even the same port.
pub(crate) fn changed(
    now: &Vxlan,
    to: &Vxlan,
    link_now: Option<u32>,
    link: Option<u32>,
) -> Option<LinkAttribute> {
    let mut data = Vec::new();
    if now.local != to.local {
        let none = || now.local.map(unspecified);
        data.extend(to.local.or_else(none).map(local));
    }
    if link_now != link {
        data.extend(link.map(InfoVxlan::Link));
    }
    if now.learning != to.learning {
        data.push(InfoVxlan::Learning(to.learning));
    }
    (!data.is_empty()).then(|| info(data))
}

fn info(data: Vec<InfoVxlan>) -> LinkAttribute {
    LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Vxlan),
        LinkInfo::Data(InfoData::Vxlan(data)),
    ])
}

const fn local(address: IpAddr) -> InfoVxlan {
    match address {
        IpAddr::V4(address) => InfoVxlan::Local(address),
        IpAddr::V6(address) => InfoVxlan::Local6(address),
    }
}

const fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
#[path = "vxlan_tests.rs"]
mod tests;
