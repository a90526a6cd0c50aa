//! Attributes of netlink messages, one inside the other. Pure.

use netlink_packet_core::{DecodeError, NlasIterator, parse_u32_be};

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
