//! Network devices as the kernel tells of them. Pure.

use std::collections::BTreeMap;

use flannel_core::{DeviceName, Link};
use netlink_packet_core::{DecodeError, NlasIterator, parse_string, parse_u32};
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkHeader, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::attribute::attribute;

/// `IFLA_IFNAME`, `IFLA_MTU` and `IFLA_AF_SPEC` in `linux/if_link.h`.
const ATTR_NAME: u16 = 3;
const ATTR_MTU: u16 = 4;
const ATTR_AF_SPEC: u16 = 26;

/// Within the last of these `AF_INET`, and in that `IFLA_INET_CONF`: the device's settings as numbers,
/// `IPV4_DEVCONF_FORWARDING` first (`linux/ip.h`).
const ATTR_INET: u16 = 2;
const ATTR_INET_CONF: u16 = 1;

/// `struct ifinfomsg` in `linux/rtnetlink.h`.
const HEADER_LEN: usize = 16;

/// The question for all devices, or for the one of this name.
pub(crate) fn question(name: Option<&DeviceName>) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    let name = name.map(|name| LinkAttribute::IfName(name.as_str().to_owned()));
    message.attributes.extend(name);
    // Statistics make up half of an answer.
    let shorter = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
    message.attributes.push(shorter);
    RouteNetlinkMessage::GetLink(message)
}

/// Reads the payload of `RTM_NEWLINK` or `RTM_DELLINK`; `None` where it is about a device's part in
/// something else, such as a bridge.
pub(crate) fn decode(payload: &[u8]) -> Result<Option<Link>, DecodeError> {
    let header = LinkHeader::parse(payload)?;
    if header.interface_family != AddressFamily::Unspec {
        return Ok(None);
    }
    let mut link = Link {
        name: placeholder(header.index),
        index: header.index,
        mtu: 0,
        up: header.flags.contains(LinkFlags::Up),
        loopback: header.flags.contains(LinkFlags::Loopback),
        addresses: Vec::new(),
    };
    for attribute in NlasIterator::new(payload.get(HEADER_LEN..).unwrap_or_default()) {
        let attribute = attribute?;
        match attribute.kind() {
            // A name need not be text; such a device goes by its index.
            ATTR_NAME => {
                let name = parse_string(attribute.value()).ok();
                link.name = name.and_then(|name| name.parse().ok()).unwrap_or(link.name);
            }
            ATTR_MTU => link.mtu = parse_u32(attribute.value())?,
            _ => {}
        }
    }
    Ok(Some(link))
}

/// Whether IPv4 packets that come in by the device are forwarded, out of the payload of
/// `RTM_NEWLINK`; `None` where the kernel does not say.
pub(crate) fn decode_forwarding(payload: &[u8]) -> Result<Option<bool>, DecodeError> {
    let mut value = payload.get(HEADER_LEN..).unwrap_or_default();
    for kind in [ATTR_AF_SPEC, ATTR_INET, ATTR_INET_CONF] {
        match attribute(value, kind)? {
            Some(inner) => value = inner,
            None => return Ok(None),
        }
    }
    let first = value.get(..4).map(parse_u32).transpose()?;
    Ok(first.map(|forwarding| forwarding != 0))
}

/// The devices' names by their index.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Names(BTreeMap<u32, DeviceName>);

impl Names {
    pub(crate) fn of(&self, index: u32) -> DeviceName {
        self.known(index).unwrap_or_else(|| placeholder(index))
    }

    pub(crate) fn known(&self, index: u32) -> Option<DeviceName> {
        self.0.get(&index).copied()
    }

    pub(crate) fn put(&mut self, link: &Link) {
        self.0.insert(link.index, link.name);
    }

    pub(crate) fn remove(&mut self, link: &Link) {
        self.0.remove(&link.index);
    }
}

impl FromIterator<Link> for Names {
    fn from_iter<T: IntoIterator<Item = Link>>(links: T) -> Self {
        Self(links.into_iter().map(|link| (link.index, link.name)).collect())
    }
}

/// What a device is called whose name is not known.
fn placeholder(index: u32) -> DeviceName {
    #[expect(clippy::expect_used, reason = "at most 12 letters and digits")]
    format!("if{index}").parse().expect("a device name")
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::NetlinkSerializable;

    fn payload(family: AddressFamily, index: u32, attributes: Vec<LinkAttribute>) -> Vec<u8> {
        let mut message = LinkMessage::default();
        message.header.interface_family = family;
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.attributes = attributes;
        let message = RouteNetlinkMessage::NewLink(message);
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    fn named(name: &str) -> Vec<LinkAttribute> {
        vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Mtu(1450)]
    }

    #[test]
    fn a_device_has_its_name_mtu_and_flags() {
        let link = decode(&payload(AddressFamily::Unspec, 7, named("eth0")))
            .unwrap()
            .unwrap();
        let expected = Link {
            name: "eth0".parse().unwrap(),
            index: 7,
            mtu: 1450,
            up: true,
            loopback: false,
            addresses: Vec::new(),
        };
        assert_eq!(link, expected);
    }

    #[test]
    fn a_device_without_a_readable_name_goes_by_its_index() {
        let strange = payload(AddressFamily::Unspec, u32::MAX, named("a:b"));
        let link = decode(&strange).unwrap().unwrap();
        assert_eq!(link.name.as_str(), "if4294967295");
        assert_eq!(Names::default().of(37).as_str(), "if37");
        assert_eq!(Names::from_iter([link]).of(u32::MAX).as_str(), "if4294967295");
    }

    #[test]
    fn leaving_a_bridge_is_no_removal_of_the_device() {
        let port = payload(AddressFamily::Bridge, 7, named("eth0"));
        assert_eq!(decode(&port).unwrap(), None);
    }

    /// The settings of a device, as the kernel gives them.
    fn with_settings(settings: &[u32]) -> Vec<u8> {
        let nested = |kind: u16, value: &[u8]| -> Vec<u8> {
            let length = u16::try_from(value.len() + 4).unwrap();
            [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat()
        };
        let numbers: Vec<u8> = settings.iter().flat_map(|number| number.to_ne_bytes()).collect();
        let inet = nested(ATTR_INET, &nested(ATTR_INET_CONF, &numbers));
        let mut bytes = payload(AddressFamily::Unspec, 7, named("eth0"));
        // Another family's come first.
        bytes.extend(nested(ATTR_AF_SPEC, &[nested(10, &[0; 8]), inet].concat()));
        bytes
    }

    #[test]
    fn forwarding_is_the_first_of_the_settings_of_ipv4() {
        for (settings, forwarding) in [
            (&[1, 0, 0][..], Some(true)),
            (&[0, 1, 1], Some(false)),
            (&[], None),
        ] {
            let bytes = with_settings(settings);
            assert_eq!(decode_forwarding(&bytes).unwrap(), forwarding, "{settings:?}");
            assert_eq!(decode(&bytes).unwrap().unwrap().index, 7);
        }
        let without = payload(AddressFamily::Unspec, 7, named("eth0"));
        assert_eq!(decode_forwarding(&without).unwrap(), None);
    }

    #[test]
    fn a_cut_message_is_refused() {
        let whole = payload(AddressFamily::Unspec, 7, named("eth0"));
        assert!(decode(&whole[..whole.len() - 5]).is_err());
        assert!(decode(&whole[..8]).is_err());
    }
}
