//! Whether checksums are left to the hardware, which ethtool netlink tells and changes
//! (`linux/ethtool_netlink.h`, features since Linux 5.7).

use std::sync::{Mutex, PoisonError};

use flannel_core::DeviceName;
use netlink_packet_core::{DecodeError, parse_u16};
use netlink_sys::protocols::NETLINK_GENERIC;

use crate::attribute::{NESTED, Plain, attribute, attributes, encoded, encoded_text, text};
use crate::namespace::Namespace;
use crate::socket::{Answer, Request, RequestSocket};

/// What `ethtool -K` calls it.
const FEATURE: &str = "tx-checksum-ip-generic";

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID` and `CTRL_ATTR_FAMILY_NAME` in
/// `linux/genetlink.h`.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// The family's name and version.
const NAME: &str = "ethtool";
const VERSION: u8 = 1;

/// `struct genlmsghdr`.
const HEADER_LEN: usize = 4;

/// `ETHTOOL_MSG_FEATURES_GET` and `_SET`.
const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;

/// `ETHTOOL_A_FEATURES_HEADER`, `_WANTED` and `_ACTIVE`.
const HEADER: u16 = 1;
const WANTED: u16 = 3;
const ACTIVE: u16 = 4;

/// `ETHTOOL_A_HEADER_DEV_INDEX`, `ETHTOOL_A_HEADER_FLAGS` and `ETHTOOL_FLAG_OMIT_REPLY`.
const DEVICE_INDEX: u16 = 1;
const FLAGS: u16 = 3;
const OMIT_REPLY: u32 = 2;

/// `ETHTOOL_A_BITSET_NOMASK` and `_BITS`, `ETHTOOL_A_BITSET_BITS_BIT`, `ETHTOOL_A_BITSET_BIT_NAME` and
/// `_VALUE`. Without a mask all bits that are there are on.
const NO_MASK: u16 = 1;
const BITS: u16 = 3;
const BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;

const DOING: &str = "ask about checksum offload";

/// What to tell of a change that was refused: the program falls back to what older kernels know.
pub(crate) fn refused(device: DeviceName, on: bool, error: &str) -> String {
    let state = if on { "on" } else { "off" };
    format!(
        "its checksum offload cannot be changed: {error}; change it with `ethtool -K {device} {FEATURE} {state}`"
    )
}

/// A conversation with ethtool netlink, begun when it is first needed.
#[derive(Default)]
pub(crate) struct Ethtool(Mutex<Option<Session>>);

struct Session {
    socket: RequestSocket,
    family: u16,
}

impl Ethtool {
    /// Whether checksums of what leaves by the device are left to the hardware; `None` where the kernel
    /// does not tell.
    pub(crate) fn checksum_offload(&self, namespace: &Namespace, index: u32) -> Option<bool> {
        let answer = self.talk(namespace, |session| session.checksum_offload(index));
        match answer {
            Ok(Ok(on)) => on,
            Ok(Err(failure)) => {
                tracing::debug!(%failure, index, "the kernel does not tell about checksum offload");
                None
            }
            Err(error) => {
                tracing::debug!(%error, index, "the kernel does not tell about checksum offload");
                None
            }
        }
    }

    /// Leaves them to the hardware, or not; the kernel's reason if it does not.
    pub(crate) fn set_checksum_offload(
        &self,
        namespace: &Namespace,
        index: u32,
        on: bool,
    ) -> Result<(), String> {
        let changed = self.talk(namespace, |session| {
            if let Err(failure) = session.set_checksum_offload(index, on)? {
                return Ok(Err(failure));
            }
            // What the device cannot do is left as it was, without an error.
            session.checksum_offload(index)
        });
        match changed {
            Ok(Ok(now)) if now == Some(on) => Ok(()),
            Ok(Ok(_)) => Err("the device has it fixed".to_owned()),
            Ok(Err(failure)) => Err(failure.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn talk<T>(&self, namespace: &Namespace, talk: impl FnOnce(&mut Session) -> Answer<T>) -> Answer<T> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut session = match held.take() {
            Some(session) => session,
            None => match Session::open(namespace)? {
                Ok(session) => session,
                Err(failure) => return Ok(Err(failure)),
            },
        };
        let answer = talk(&mut session)?;
        *held = Some(session);
        Ok(answer)
    }
}

impl Session {
    fn open(namespace: &Namespace) -> Answer<Self> {
        let mut socket = RequestSocket::open_for(NETLINK_GENERIC, namespace)?;
        let family = socket.ask(DOING, family_question(), decode_family)?;
        Ok(family.map(|family| Self { socket, family }))
    }

    fn checksum_offload(&mut self, index: u32) -> Answer<Option<bool>> {
        let question = message(self.family, FEATURES_GET, &header(index, 0));
        self.socket.ask(DOING, question, decode_features)
    }

    fn set_checksum_offload(&mut self, index: u32, on: bool) -> Answer<()> {
        let attributes = [header(index, OMIT_REPLY), wanted(on)].concat();
        let request = Request {
            message: message(self.family, FEATURES_SET, &attributes),
            flags: 0,
        };
        let mut failed = self.socket.change(DOING, &[request])?;
        Ok(failed.pop().map_or(Ok(()), |(_, failure)| Err(failure)))
    }
}

fn message(family: u16, command: u8, attributes: &[u8]) -> Plain {
    Plain {
        kind: family,
        bytes: [&[command, VERSION, 0, 0], attributes].concat(),
    }
}

fn family_question() -> Plain {
    message(CONTROL, GET_FAMILY, &encoded_text(FAMILY_NAME, NAME))
}

fn decode_family(payload: &[u8]) -> Result<u16, DecodeError> {
    let attributes = payload.get(HEADER_LEN..).unwrap_or_default();
    let id = attribute(attributes, FAMILY_ID)?;
    parse_u16(id.ok_or_else(|| DecodeError::from("a family without a number"))?)
}

fn header(index: u32, flags: u32) -> Vec<u8> {
    let device = encoded(DEVICE_INDEX, &index.to_ne_bytes());
    let flags = encoded(FLAGS, &flags.to_ne_bytes());
    encoded(HEADER | NESTED, &[device, flags].concat())
}

/// One feature as it is to be, and all others as they are.
fn wanted(on: bool) -> Vec<u8> {
    let mut bit = encoded_text(BIT_NAME, FEATURE);
    if on {
        bit.extend(encoded(BIT_VALUE, &[]));
    }
    let bits = encoded(BITS | NESTED, &encoded(BIT | NESTED, &bit));
    encoded(WANTED | NESTED, &bits)
}

/// Reads the answer to `ETHTOOL_MSG_FEATURES_GET`: whether the feature is active.
fn decode_features(payload: &[u8]) -> Result<Option<bool>, DecodeError> {
    let features = payload.get(HEADER_LEN..).unwrap_or_default();
    let Some(active) = attribute(features, ACTIVE)? else {
        return Ok(None);
    };
    let only_set = attribute(active, NO_MASK)?.is_some();
    for bit in attributes(attribute(active, BITS)?.unwrap_or_default()) {
        let (_, bit) = bit?;
        if text(bit, BIT_NAME)?.as_deref() == Some(FEATURE) {
            return Ok(Some(only_set || attribute(bit, BIT_VALUE)?.is_some()));
        }
    }
    Ok(Some(false))
}

#[cfg(test)]
#[path = "ethtool_tests.rs"]
mod tests;
