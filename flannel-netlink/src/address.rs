//! Addresses as the kernel tells of them, and as it is asked for them. Pure.

use flannel_core::{Address, LinkAddress};
use ipnet::IpNet;
use netlink_packet_core::{DecodeError, NlasIterator, Parseable};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeader, AddressHeaderFlags, AddressMessage,
};

use crate::route::address_family;

/// `struct ifaddrmsg` in `linux/if_addr.h`.
const HEADER_LEN: usize = 8;

/// The question for all addresses of both families, or for those of one device.
pub(crate) fn question(device: Option<u32>) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.index = device.unwrap_or(0);
    RouteNetlinkMessage::GetAddress(message)
}

/// Reads the payload of `RTM_NEWADDR`: the device's index and the address.
pub(crate) fn decode(payload: &[u8]) -> Result<Option<(u32, LinkAddress)>, DecodeError> {
    let header = AddressHeader::parse(payload)?;
    let (mut local, mut address) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(header.flags.bits().into());
    for attribute in NlasIterator::new(payload.get(HEADER_LEN..).unwrap_or_default()) {
        match AddressAttribute::parse(&attribute?) {
            Ok(AddressAttribute::Local(own)) => local = Some(own),
            Ok(AddressAttribute::Address(own)) => address = Some(own),
            // The header has room for the first eight flags only.
            Ok(AddressAttribute::Flags(all)) => flags = all,
            _ => {}
        }
    }
    // On a point-to-point link the other attribute is the peer's.
    let Some(own) = local.or(address) else {
        return Ok(None);
    };
    let net = IpNet::new(own, header.prefix_len).map_err(|error| DecodeError::from(error.to_string()))?;
    let unusable = AddressFlags::Deprecated | AddressFlags::Tentative | AddressFlags::Dadfailed;
    let address = LinkAddress {
        net,
        unusable: flags.intersects(unusable),
        permanent: flags.contains(AddressFlags::Permanent),
        temporary: flags.contains(AddressFlags::Secondary),
    };
    Ok(Some((header.index, address)))
}

/// The message's part that says which address it is about. Without a lifetime it is permanent.
pub(crate) fn encode(address: &Address, index: u32) -> AddressMessage {
    let net = address.id.net;
    let mut message = AddressMessage::default();
    message.header.family = address_family(flannel_core::Family::of_net(net));
    message.header.prefix_len = net.prefix_len();
    message.header.index = index;
    if matches!(net, IpNet::V6(_)) {
        // There is nobody to ask whether it is taken, and until then it would be of no use.
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    // The second is that of the other end of a point-to-point link, or the same.
    message.attributes = vec![
        AddressAttribute::Local(net.addr()),
        AddressAttribute::Address(net.addr()),
    ];
    message
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use netlink_packet_core::Emitable;

    fn payload(header: AddressHeader, attributes: Vec<AddressAttribute>) -> Vec<u8> {
        let mut message = AddressMessage::default();
        message.header = header;
        message.attributes = attributes;
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    fn header(prefix_len: u8, flags: AddressHeaderFlags) -> AddressHeader {
        AddressHeader {
            prefix_len,
            flags,
            index: 3,
            ..AddressHeader::default()
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_point_to_point_address_is_the_hosts_own_and_not_its_peers() {
        let attributes = vec![
            AddressAttribute::Address(ip("192.0.2.2")),
            AddressAttribute::Local(ip("192.0.2.1")),
        ];
        let read = decode(&payload(header(32, AddressHeaderFlags::Permanent), attributes));
        let expected = LinkAddress {
            net: "192.0.2.1/32".parse().unwrap(),
            unusable: false,
            permanent: true,
            temporary: false,
        };
        assert_eq!(read.unwrap(), Some((3, expected)));
    }

    #[test]
    fn flags_are_those_of_the_attribute_where_there_is_one() {
        let read = |flags| {
            let attributes = vec![
                AddressAttribute::Address(ip("2001:db8::1")),
                AddressAttribute::Flags(flags),
            ];
            let bytes = payload(header(64, AddressHeaderFlags::Permanent), attributes);
            decode(&bytes).unwrap().unwrap().1
        };
        let flagged = |address: LinkAddress| (address.unusable, address.permanent, address.temporary);
        assert_eq!(flagged(read(AddressFlags::Tentative)), (true, false, false));
        assert_eq!(flagged(read(AddressFlags::Dadfailed)), (true, false, false));
        assert_eq!(flagged(read(AddressFlags::Deprecated)), (true, false, false));
        assert_eq!(flagged(read(AddressFlags::Secondary)), (false, false, true));
        assert_eq!(flagged(read(AddressFlags::Permanent)), (false, true, false));
    }

    #[test]
    fn an_address_that_is_asked_for_is_usable_at_once_and_no_peers() {
        for net in ["10.5.7.0/32", "fd10:5:0:7::/128"] {
            let address = Address::permanent("flannel.1".parse().unwrap(), net.parse().unwrap());
            let message = encode(&address, 3);
            let v6 = net.contains(':');
            assert_eq!(message.header.flags.contains(AddressHeaderFlags::Nodad), v6);
            let mut bytes = vec![0; message.buffer_len()];
            message.emit(&mut bytes);
            let (index, read) = decode(&bytes).unwrap().unwrap();
            assert_eq!((index, read.net), (3, address.id.net));
        }
    }

    #[test]
    fn an_impossible_prefix_length_is_refused() {
        let attributes = vec![AddressAttribute::Local(ip("192.0.2.1"))];
        assert!(decode(&payload(header(33, AddressHeaderFlags::empty()), attributes)).is_err());
    }
}
