//! Datagrams of the kernel, taken apart into messages, acknowledgements and errors. Pure.

use std::fmt;

use netlink_packet_core::{
    DecodeError, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
    NlasIterator, parse_i32,
};
use nix::errno::Errno;

/// `NLMSG_HDRLEN` in `linux/netlink.h`.
const HEADER_LEN: usize = 16;

/// `NLMSGERR_ATTR_MSG` in `linux/netlink.h`.
const ATTR_MESSAGE: u16 = 1;

/// The longest text of the kernel that is repeated; its own are shorter.
const TEXT_MAX: usize = 256;

/// One message of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    /// `RTM_NEWROUTE` and the like, or a control message's type.
    pub(crate) kind: u16,
    /// Of the request that it answers.
    pub(crate) sequence: u32,
    /// Of the socket that asked; in an announcement, of the one that made the change.
    pub(crate) port: u32,
    pub(crate) payload: &'a [u8],
    flags: u16,
}

/// What a message says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply<'a> {
    /// The request was carried out.
    Acknowledged,
    /// The request failed.
    Failed(Failure),
    /// A dump has come to its end. The kernel reports an error in mid-dump here and nowhere else.
    Done(Result<(), Failure>),
    /// An object.
    Object(&'a [u8]),
}

/// The kernel's refusal of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) errno: Errno,
    /// The reason in words, which the kernel gives for some errors (`NLMSGERR_ATTR_MSG`).
    pub(crate) text: Option<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => write!(f, "{text} ({})", self.errno),
            None => self.errno.fmt(f),
        }
    }
}

/// What has come of a dump so far.
#[derive(Debug)]
pub(crate) struct Dump<T> {
    objects: Vec<T>,
    interrupted: bool,
}

/// How a dump ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Dumped<T> {
    Whole(Vec<T>),
    /// The table changed meanwhile: some objects may be missing, others there twice.
    Interrupted,
    Refused(Failure),
}

impl<T> Dump<T> {
    pub(crate) const fn new() -> Self {
        Self {
            objects: Vec::new(),
            interrupted: false,
        }
    }

    /// Takes the next message; `read` turns an object's into a value, or passes over it.
    pub(crate) fn take(
        &mut self,
        message: &Message<'_>,
        read: impl FnOnce(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> Result<Option<Dumped<T>>, DecodeError> {
        self.interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
        match message.reply()? {
            Reply::Object(payload) => {
                self.objects.extend(read(payload)?);
                Ok(None)
            }
            Reply::Done(Ok(())) if self.interrupted => Ok(Some(Dumped::Interrupted)),
            Reply::Done(Ok(())) => Ok(Some(Dumped::Whole(std::mem::take(&mut self.objects)))),
            Reply::Done(Err(failure)) | Reply::Failed(failure) => Ok(Some(Dumped::Refused(failure))),
            Reply::Acknowledged => Err("a table answered by an acknowledgement".into()),
        }
    }
}

/// The messages of a datagram, up to the first that makes no sense.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<Message<'_>, DecodeError>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let header = match NetlinkBuffer::new_checked(rest) {
            Ok(header) => header,
            Err(error) => {
                rest = &[];
                return Some(Err(error));
            }
        };
        let (payload, next) = split(rest, header.length());
        rest = next;
        Some(Ok(Message {
            kind: header.message_type(),
            sequence: header.sequence_number(),
            port: header.port_number(),
            payload,
            flags: header.flags(),
        }))
    })
}

impl<'a> Message<'a> {
    pub(crate) fn reply(&self) -> Result<Reply<'a>, DecodeError> {
        match self.kind {
            NLMSG_ERROR => {
                let (code, rest) = code(self.payload)?;
                Ok(match code {
                    0 => Reply::Acknowledged,
                    code => Reply::Failed(self.failure(code, self.after_request(rest))),
                })
            }
            // Kernels before 2.6.38 end some dumps without a code.
            NLMSG_DONE if self.payload.is_empty() => Ok(Reply::Done(Ok(()))),
            NLMSG_DONE => {
                let (code, rest) = code(self.payload)?;
                Ok(Reply::Done(match code {
                    0.. => Ok(()),
                    code => Err(self.failure(code, rest)),
                }))
            }
            _ => Ok(Reply::Object(self.payload)),
        }
    }

    fn failure(&self, code: i32, attributes: &[u8]) -> Failure {
        let attributes = if self.flags & NLM_F_ACK_TLVS == 0 {
            &[]
        } else {
            attributes
        };
        let text = NlasIterator::new(attributes)
            .flatten()
            .find(|attribute| attribute.kind() == ATTR_MESSAGE)
            .map(|attribute| {
                let text = String::from_utf8_lossy(attribute.value());
                text.trim_end_matches('\0').chars().take(TEXT_MAX).collect()
            });
        Failure {
            errno: Errno::from_raw(code.checked_neg().unwrap_or(0)),
            text,
        }
    }

    /// What follows the echo of the request, which a kernel that was told to, and can, cuts down to
    /// the header.
    fn after_request(&self, echo: &'a [u8]) -> &'a [u8] {
        let echoed = match NetlinkBuffer::new(echo) {
            _ if self.flags & NLM_F_CAPPED != 0 || echo.len() < HEADER_LEN => HEADER_LEN,
            request => aligned(request.length()),
        };
        echo.get(echoed..).unwrap_or_default()
    }
}

/// The payload of the message at the start, whose length was checked, and what follows it.
fn split(datagram: &[u8], length: u32) -> (&[u8], &[u8]) {
    let payload = datagram.get(HEADER_LEN..usize::try_from(length).unwrap_or(usize::MAX));
    let next = datagram.get(aligned(length)..);
    (payload.unwrap_or_default(), next.unwrap_or_default())
}

/// `NLMSG_ALIGN` in `linux/netlink.h`.
fn aligned(length: u32) -> usize {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    length.checked_next_multiple_of(4).unwrap_or(usize::MAX)
}

fn code(payload: &[u8]) -> Result<(i32, &[u8]), DecodeError> {
    let (code, rest) = payload
        .split_at_checked(4)
        .ok_or_else(|| DecodeError::from("a status without a code"))?;
    Ok((parse_i32(code)?, rest))
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
