//! Network devices as the kernel tells of them. Pure.

use std::collections::BTreeMap;

use flannel_core::{DeviceName, Link};
use netlink_packet_core::{DecodeError, NlasIterator, parse_string, parse_u32};
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkHeader, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::attribute::{attribute, mac};

/// `IFLA_ADDRESS`, `IFLA_IFNAME`, `IFLA_MTU` and `IFLA_AF_SPEC` in `linux/if_link.h`.
const ATTR_MAC: u16 = 1;
const ATTR_NAME: u16 = 3;
const ATTR_MTU: u16 = 4;
const ATTR_AF_SPEC: u16 = 26;

/// Within the last of these `AF_INET`, and in that `IFLA_INET_CONF`: the device's settings as numbers, in
/// the order of `linux/ip.h`, where the first is called 1.
const ATTR_INET: u16 = 2;
const ATTR_INET_CONF: u16 = 1;
const FORWARDING: usize = 0;
const REVERSE_PATH_FILTER: usize = 7;

/// Likewise `AF_INET6` and `IFLA_INET6_CONF`, in the order of `linux/ipv6.h`, where the first is called 0.
const ATTR_INET6: u16 = 10;
const ATTR_INET6_CONF: u16 = 2;
const ACCEPT_RA: usize = 3;

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
        mac: None,
        strict_reverse_path: false,
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
            // Some tunnels have an IP address there, and a TUN device has none.
            ATTR_MAC => link.mac = mac(attribute.value()),
            _ => {}
        }
    }
    Ok(Some(link))
}

/// Settings of a device; `None` for what the kernel does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Settings {
    /// Whether IPv4 packets that come in by it are forwarded.
    pub(crate) forwarding: Option<bool>,
    /// `rp_filter`, its own: the larger of this and that of all devices counts.
    pub(crate) reverse_path_filter: Option<u32>,
    /// Whether routers may give it IPv6 addresses; nothing is said where it does no IPv6.
    pub(crate) accept_ra: Option<bool>,
}

impl Settings {
    /// Out of the payload of `RTM_NEWLINK`.
    pub(crate) fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let attributes = payload.get(HEADER_LEN..).unwrap_or_default();
        let Some(families) = attribute(attributes, ATTR_AF_SPEC)? else {
            return Ok(Self::default());
        };
        let settings = |family, kind| match attribute(families, family)? {
            Some(family) => attribute(family, kind),
            None => Ok(None),
        };
        let (v4, v6) = (
            settings(ATTR_INET, ATTR_INET_CONF)?,
            settings(ATTR_INET6, ATTR_INET6_CONF)?,
        );
        Ok(Self {
            forwarding: setting(v4, FORWARDING)?.map(|forwarding| forwarding != 0),
            reverse_path_filter: setting(v4, REVERSE_PATH_FILTER)?,
            accept_ra: setting(v6, ACCEPT_RA)?.map(|accept| accept != 0),
        })
    }
}

fn setting(settings: Option<&[u8]>, place: usize) -> Result<Option<u32>, DecodeError> {
    const LEN: usize = size_of::<u32>();
    let at = place * LEN;
    let value = settings.and_then(|settings| settings.get(at..at + LEN));
    value.map(parse_u32).transpose()
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
    use crate::attribute::encoded;
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
        let mac = LinkAttribute::Address(vec![2, 0, 0, 0, 0, 7]);
        vec![
            LinkAttribute::IfName(name.to_owned()),
            mac,
            LinkAttribute::Mtu(1450),
        ]
    }

    #[test]
    fn a_device_has_its_name_mac_mtu_and_flags() {
        let link = decode(&payload(AddressFamily::Unspec, 7, named("eth0")))
            .unwrap()
            .unwrap();
        let expected = Link {
            name: "eth0".parse().unwrap(),
            index: 7,
            mtu: 1450,
            up: true,
            loopback: false,
            mac: "02:00:00:00:00:07".parse().ok(),
            strict_reverse_path: false,
            addresses: Vec::new(),
        };
        assert_eq!(link, expected);
    }

    #[test]
    fn what_is_no_mac_address_is_passed_over() {
        let tunnel = vec![LinkAttribute::Address(vec![192, 0, 2, 1])];
        let link = decode(&payload(AddressFamily::Unspec, 7, tunnel));
        assert_eq!(link.unwrap().unwrap().mac, None);
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
    fn with_settings(v4: &[u32], v6: &[u32]) -> Vec<u8> {
        let numbers = |settings: &[u32]| -> Vec<u8> {
            settings.iter().flat_map(|number| number.to_ne_bytes()).collect()
        };
        let inet = encoded(ATTR_INET, &encoded(ATTR_INET_CONF, &numbers(v4)));
        let inet6 = encoded(ATTR_INET6, &encoded(ATTR_INET6_CONF, &numbers(v6)));
        let mut bytes = payload(AddressFamily::Unspec, 7, named("eth0"));
        // The flags of IPv6 come before its settings.
        let flagged = encoded(ATTR_INET6, &[encoded(1, &[0; 4]), inet6[4..].to_vec()].concat());
        bytes.extend(encoded(ATTR_AF_SPEC, &[flagged, inet].concat()));
        bytes
    }

    #[test]
    fn settings_are_found_in_their_places() {
        let bytes = with_settings(&[1, 0, 0, 0, 0, 0, 0, 2, 9], &[0, 64, 1500, 2, 1]);
        let expected = Settings {
            forwarding: Some(true),
            reverse_path_filter: Some(2),
            accept_ra: Some(true),
        };
        assert_eq!(Settings::decode(&bytes).unwrap(), expected);
        assert_eq!(decode(&bytes).unwrap().unwrap().index, 7);
        let off = with_settings(&[0, 1, 1, 1, 1, 1, 1, 0], &[1, 1, 1, 0]);
        let expected = Settings {
            forwarding: Some(false),
            reverse_path_filter: Some(0),
            accept_ra: Some(false),
        };
        assert_eq!(Settings::decode(&off).unwrap(), expected);
    }

    #[test]
    fn settings_that_the_kernel_does_not_tell_are_not_known() {
        let without = payload(AddressFamily::Unspec, 7, named("eth0"));
        assert_eq!(Settings::decode(&without).unwrap(), Settings::default());
        let short = with_settings(&[], &[0, 64]);
        assert_eq!(Settings::decode(&short).unwrap(), Settings::default());
    }

    #[test]
    fn a_cut_message_is_refused() {
        let whole = payload(AddressFamily::Unspec, 7, named("eth0"));
        assert!(decode(&whole[..whole.len() - 5]).is_err());
        assert!(decode(&whole[..8]).is_err());
    }
}
