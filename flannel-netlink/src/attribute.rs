//! Attributes of netlink messages, one inside the other, and messages that the codec has no type for.
//! Pure.

use std::net::IpAddr;

use flannel_core::MacAddress;
use netlink_packet_core::{DecodeError, NetlinkSerializable, NlasIterator, parse_u32_be};

/// `NLA_F_NESTED` in `linux/netlink.h`: the value is attributes.
pub(crate) const NESTED: u16 = 1 << 15;

/// `NLA_HDRLEN` in `linux/netlink.h`.
const HEADER_LEN: usize = 4;

/// The attributes of a message or of an attribute: the kind and the value of each.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), DecodeError>> {
    NlasIterator::new(bytes).map(|attribute| {
        let attribute = attribute?;
        let (kind, end) = (attribute.kind(), usize::from(attribute.length()));
        let value = attribute.into_inner().get(HEADER_LEN..end);
        Ok((kind, value.unwrap_or_default()))
    })
}

/// The value of the first attribute of a kind.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Result<Option<&[u8]>, DecodeError> {
    for attribute in attributes(bytes) {
        match attribute? {
            (found, value) if found == kind => return Ok(Some(value)),
            _ => {}
        }
    }
    Ok(None)
}

/// The same as a text, which the kernel ends with a zero; what is no text in it is replaced.
pub(crate) fn text(bytes: &[u8], kind: u16) -> Result<Option<String>, DecodeError> {
    let value = attribute(bytes, kind)?;
    Ok(value.map(|value| {
        let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
        String::from_utf8_lossy(&value[..end]).into_owned()
    }))
}

/// The same as a number in network byte order, as netfilter's are.
pub(crate) fn number(bytes: &[u8], kind: u16) -> Result<Option<u32>, DecodeError> {
    attribute(bytes, kind)?.map(parse_u32_be).transpose()
}

/// A value that is a MAC address.
pub(crate) fn mac(value: &[u8]) -> Option<MacAddress> {
    value.try_into().ok().map(MacAddress)
}

/// A value that is an IP address, of the family that its length tells.
pub(crate) fn address(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
}

/// An attribute as it stands in a message.
pub(crate) fn encoded(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(HEADER_LEN + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A text as the kernel expects it, with a zero at its end.
pub(crate) fn encoded_text(kind: u16, text: &str) -> Vec<u8> {
    encoded(kind, &[text.as_bytes(), &[0]].concat())
}

/// A message as plain bytes.
#[derive(Debug, Clone)]
pub(crate) struct Plain {
    pub(crate) kind: u16,
    /// The header of its protocol, then attributes.
    pub(crate) bytes: Vec<u8>,
}

impl NetlinkSerializable for Plain {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.bytes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.bytes);
    }
}
