//! Entries of forwarding databases as the kernel tells of them, and as it is asked for them. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use flannel_core::{DeviceName, Forwarding, ForwardingId, MacAddress};
use netlink_packet_core::{DecodeError, NlasIterator};
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourHeader, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::attribute;
use crate::neighbour::{ATTR_DESTINATION, ATTR_MAC, HEADER_LEN};

/// `NDA_PORT`, `_VNI`, `_IFINDEX`, `_SRC_VNI` and `_NH_ID` in `linux/neighbour.h`: where an entry goes its
/// own way.
const DECORATIONS: [u16; 5] = [6, 7, 8, 11, 13];

/// `NUD_NOARP` and `NUD_PERMANENT`: nobody learned it, and it does not age.
const LASTING: u16 = 0x40 | 0x80;

/// An entry as the kernel tells of it, with its device by the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SeenForwarding {
    pub(crate) index: u32,
    mac: MacAddress,
    host: Option<IpAddr>,
    /// Attributes by which it differs from others with the same host.
    decorations: Vec<u8>,
    pub(crate) lasting: bool,
}

/// The question for the forwarding database of a device.
pub(crate) fn question(index: u32) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    RouteNetlinkMessage::GetNeighbour(message)
}

/// The question for the entry of a single host; `None` where there may be several, of which the kernel would
/// tell the first.
pub(crate) fn question_for(entry: &Forwarding, index: u32) -> Option<RouteNetlinkMessage> {
    let mut message = encode(entry, index);
    message.header.state = NeighbourState::None;
    message.attributes.truncate(1);
    let single = entry.id.mac.is_unicast() && !entry.decorated;
    single.then_some(RouteNetlinkMessage::GetNeighbour(message))
}

/// Reads the payload of `RTM_NEWNEIGH` or `RTM_DELNEIGH` of `AF_BRIDGE`; `None` for entries of a bridge that
/// the device is a port of.
pub(crate) fn decode(payload: &[u8]) -> Result<Option<SeenForwarding>, DecodeError> {
    let header = NeighbourHeader::parse(payload)?;
    let (mut mac, mut host, mut decorations) = (None, None, Vec::new());
    for attribute in NlasIterator::new(payload.get(HEADER_LEN..).unwrap_or_default()) {
        let attribute = attribute?;
        match attribute.kind() {
            ATTR_DESTINATION => host = attribute::address(attribute.value()),
            ATTR_MAC => mac = attribute::mac(attribute.value()),
            kind if DECORATIONS.contains(&kind) => {
                decorations.extend(attribute::encoded(kind, attribute.value()));
            }
            _ => {}
        }
    }
    let own = header.flags.contains(NeighbourFlags::Own);
    Ok(mac.filter(|_| own).map(|mac| SeenForwarding {
        index: header.ifindex,
        mac,
        host,
        decorations,
        lasting: u16::from(header.state) & LASTING != 0,
    }))
}

impl SeenForwarding {
    /// As an announcement has it, which does not tell how many there are before it.
    pub(crate) fn named(&self, device: DeviceName) -> Forwarding {
        Forwarding {
            id: ForwardingId {
                device,
                mac: self.mac,
                position: 0,
            },
            host: self.host,
            decorated: !self.decorations.is_empty(),
        }
    }
}

/// The entries of a device's forwarding database that last, out of a dump in its order, numbered. The
/// kernel does not say if it changed while it was dumped: what comes twice is one, and of two for the MAC
/// address of a device, which has no more, the later is.
pub(crate) fn numbered(seen: &[SeenForwarding], device: DeviceName) -> Vec<Forwarding> {
    let mut of_mac = BTreeMap::<MacAddress, Vec<&SeenForwarding>>::new();
    for entry in seen.iter().filter(|entry| entry.lasting) {
        let entries = of_mac.entry(entry.mac).or_default();
        if entry.mac.is_unicast() {
            entries.clear();
        }
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    let numbered = |entries: Vec<&SeenForwarding>| {
        let positions = 0..=u16::MAX;
        let place = |(position, entry): (u16, &SeenForwarding)| {
            let mut named = entry.named(device);
            named.id.position = position;
            named
        };
        positions.zip(entries).map(place).collect::<Vec<_>>()
    };
    of_mac.into_values().flat_map(numbered).collect()
}

/// The message's part that says which entry it is about. Without a host it is about all for the MAC
/// address, and so it is for those that go their own way, which nobody wants: the kernel finds none of them
/// by the host alone.
pub(crate) fn encode(entry: &Forwarding, index: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.flags = NeighbourFlags::Own;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(entry.id.mac.0.to_vec())];
    let host = entry.host.filter(|_| !entry.decorated);
    message
        .attributes
        .extend(host.map(|host| NeighbourAttribute::Destination(host.into())));
    message
}

#[cfg(test)]
#[path = "forwarding_tests.rs"]
mod tests;
