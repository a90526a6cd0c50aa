//! Devices of ours as the kernel tells of them, and as it is asked for them. Pure.

use flannel_core::{Device, DeviceKind, DeviceName, Link, MacAddress, Vxlan};
use netlink_packet_core::DecodeError;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use crate::attribute::{attribute, text};
use crate::link::{self, Names, Settings};
use crate::vxlan::{self, SeenVxlan};

/// `IFLA_LINKINFO` and `IFLA_LINK_NETNSID` in `linux/if_link.h`, and within the first `IFLA_INFO_KIND` and
/// `IFLA_INFO_DATA`.
const ATTR_INFO: u16 = 18;
const ATTR_LINK_NAMESPACE: u16 = 37;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;

/// `struct ifinfomsg` in `linux/rtnetlink.h`.
const HEADER_LEN: usize = 16;

/// A device as the kernel tells of it, with the one below by its index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SeenDevice {
    pub(crate) link: Link,
    pub(crate) kind: SeenKind,
    accepts_advertisements: bool,
}

/// What it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SeenKind {
    Vxlan(SeenVxlan),
    /// Any other; empty for hardware.
    Other(String),
}

impl SeenDevice {
    /// Reads the payload of `RTM_NEWLINK`; `None` where it is about a device's part in something else.
    pub(crate) fn decode(payload: &[u8]) -> Result<Option<Self>, DecodeError> {
        let Some(link) = link::decode(payload)? else {
            return Ok(None);
        };
        let attributes = payload.get(HEADER_LEN..).unwrap_or_default();
        let info = attribute(attributes, ATTR_INFO)?.unwrap_or_default();
        let mut kind = match text(info, INFO_KIND)? {
            Some(kind) if kind == vxlan::KIND => {
                let data = attribute(info, INFO_DATA)?.unwrap_or_default();
                SeenKind::Vxlan(SeenVxlan::decode(data)?)
            }
            kind => SeenKind::Other(kind.unwrap_or_default()),
        };
        // Its packets leave by another network namespace, where it was made.
        if let SeenKind::Vxlan(vxlan) = &mut kind
            && attribute(attributes, ATTR_LINK_NAMESPACE)?.is_some()
        {
            vxlan.decorate();
        }
        Ok(Some(Self {
            link,
            kind,
            accepts_advertisements: Settings::decode(payload)?.accept_ra.unwrap_or(false),
        }))
    }

    pub(crate) fn name(&self) -> DeviceName {
        self.link.name
    }

    pub(crate) fn index(&self) -> u32 {
        self.link.index
    }

    pub(crate) fn named(&self, names: &Names, checksum_offload: Option<bool>) -> Device {
        Device {
            name: self.link.name,
            kind: match &self.kind {
                SeenKind::Vxlan(vxlan) => DeviceKind::Vxlan(vxlan.named(names)),
                SeenKind::Other(kind) => DeviceKind::Other(kind.clone()),
            },
            mac: self.link.mac.unwrap_or(MacAddress([0; 6])),
            mtu: self.link.mtu,
            up: self.link.up,
            accepts_advertisements: self.accepts_advertisements,
            checksum_offload,
        }
    }
}

/// What a new device is asked for with; `None` for one that is not made here.
pub(crate) fn made(device: &Device, link: Option<u32>) -> Option<LinkMessage> {
    let DeviceKind::Vxlan(vxlan) = &device.kind else {
        return None;
    };
    let mut message = LinkMessage::default();
    set_up(&mut message, device.up);
    message.attributes = vec![
        LinkAttribute::IfName(device.name.to_string()),
        mac(device.mac),
        LinkAttribute::Mtu(device.mtu),
        // Packets wait for the device below, if for any.
        LinkAttribute::TxQueueLen(0),
        vxlan::made(vxlan, link)?,
    ];
    Some(message)
}

/// What is asked for so that a VXLAN device that is `now` like this becomes the other, in this order. First
/// the tunnel's settings, and alone: the kernel takes no MTU with them, and cuts the one that there is
/// down to what the device below takes.
pub(crate) fn changed(
    (now, now_vxlan): (&Device, &Vxlan),
    (to, to_vxlan): (&Device, &Vxlan),
    index: u32,
    link_now: Option<u32>,
    link: Option<u32>,
) -> Vec<LinkMessage> {
    let about = |attributes| {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = attributes;
        message
    };
    let tunnel = vxlan::changed(now_vxlan, to_vxlan, link_now, link);
    let mut rest = Vec::new();
    if now.mac != to.mac {
        rest.push(mac(to.mac));
    }
    if now.mtu != to.mtu || tunnel.is_some() {
        rest.push(LinkAttribute::Mtu(to.mtu));
    }
    let mut rest = about(rest);
    if now.up != to.up {
        set_up(&mut rest, to.up);
    }
    let tunnel = tunnel.map(|tunnel| about(vec![tunnel]));
    let needed = !rest.attributes.is_empty() || !rest.header.change_mask.is_empty();
    tunnel.into_iter().chain(needed.then_some(rest)).collect()
}

/// What is asked for so that a device goes.
pub(crate) fn removed(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

/// The same for one whose index is not known yet.
pub(crate) fn removed_by_name(name: DeviceName) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_string())];
    message
}

fn mac(mac: MacAddress) -> LinkAttribute {
    LinkAttribute::Address(mac.0.to_vec())
}

fn set_up(message: &mut LinkMessage, up: bool) {
    message.header.change_mask = LinkFlags::Up;
    if up {
        message.header.flags = LinkFlags::Up;
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
