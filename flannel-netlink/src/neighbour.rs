//! Neighbours as the kernel tells of them, and as it is asked for them. Pure.

use std::net::IpAddr;

use flannel_core::{DeviceName, Family, MacAddress, Neighbour, NeighbourId};
use netlink_packet_core::{DecodeError, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourHeader, NeighbourMessage, NeighbourState,
};

use crate::attribute;
use crate::route::address_family;

/// `struct ndmsg` in `linux/neighbour.h`.
pub(crate) const HEADER_LEN: usize = 12;

/// `NDA_DST` and `NDA_LLADDR` in `linux/neighbour.h`.
pub(crate) const ATTR_DESTINATION: u16 = 1;
pub(crate) const ATTR_MAC: u16 = 2;

/// A neighbour as the kernel tells of it, with its device by the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SeenNeighbour {
    pub(crate) index: u32,
    address: IpAddr,
    /// Where it is permanent.
    mac: Option<MacAddress>,
}

/// The question for the neighbours of a family on a device.
pub(crate) fn question(family: Family, index: u32) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = address_family(family);
    message.attributes.push(NeighbourAttribute::IfIndex(index));
    RouteNetlinkMessage::GetNeighbour(message)
}

/// The question for one neighbour, whatever its state.
pub(crate) fn question_for(id: &NeighbourId, index: u32) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = address_family(Family::of(id.address));
    message.header.ifindex = index;
    message.attributes = vec![NeighbourAttribute::Destination(id.address.into())];
    RouteNetlinkMessage::GetNeighbour(message)
}

/// Reads the payload of `RTM_NEWNEIGH` or `RTM_DELNEIGH` of an address family; `None` for addresses that
/// are answered for by this host.
pub(crate) fn decode(payload: &[u8]) -> Result<Option<SeenNeighbour>, DecodeError> {
    let header = NeighbourHeader::parse(payload)?;
    let (mut address, mut mac) = (None, None);
    for attribute in NlasIterator::new(payload.get(HEADER_LEN..).unwrap_or_default()) {
        let attribute = attribute?;
        match attribute.kind() {
            ATTR_DESTINATION => address = attribute::address(attribute.value()),
            ATTR_MAC => mac = attribute::mac(attribute.value()),
            _ => {}
        }
    }
    if header.flags.contains(NeighbourFlags::Proxy) {
        return Ok(None);
    }
    Ok(address.map(|address| SeenNeighbour {
        index: header.ifindex,
        address,
        mac: mac.filter(|_| header.state == NeighbourState::Permanent),
    }))
}

impl SeenNeighbour {
    pub(crate) const fn id(&self, device: DeviceName) -> NeighbourId {
        NeighbourId {
            device,
            address: self.address,
        }
    }

    /// The object, if it is permanent.
    pub(crate) fn named(&self, device: DeviceName) -> Option<Neighbour> {
        let id = self.id(device);
        self.mac.map(|mac| Neighbour { id, mac })
    }
}

/// The message's part that says which neighbour it is about.
pub(crate) fn encode(neighbour: &Neighbour, index: u32) -> NeighbourMessage {
    let address = neighbour.id.address;
    let mut message = NeighbourMessage::default();
    message.header.family = address_family(Family::of(address));
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(address.into()),
        NeighbourAttribute::LinkLayerAddress(neighbour.mac.0.to_vec()),
    ];
    message
}

#[cfg(test)]
#[path = "neighbour_tests.rs"]
mod tests;
