//! Tables and chains of nftables deleted where nothing is in them, which `nft` cannot do: its `delete`
//! takes the rules along that somebody may have put there a moment ago.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

/// `NFNL_MSG_BATCH_BEGIN` and `_END`, and `NFNL_SUBSYS_NFTABLES` (`linux/netfilter/nfnetlink.h`).
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;
const NFTABLES: u16 = 10;

/// `NFT_MSG_DELTABLE` and `NFT_MSG_DELCHAIN` (`linux/netfilter/nf_tables.h`).
const DELETE_TABLE: u16 = NFTABLES << 8 | 2;
const DELETE_CHAIN: u16 = NFTABLES << 8 | 5;

/// `NFTA_TABLE_NAME`, which is `NFTA_CHAIN_TABLE` as well, and `NFTA_CHAIN_NAME`.
const TABLE: u16 = 1;
const CHAIN: u16 = 3;

/// `NLM_F_REQUEST`, `NLM_F_ACK` and `NLM_F_NONREC`: not with what is in it. A kernel before 4.14 does not
/// know the last one for tables.
const REQUEST: u16 = 1;
const ACKNOWLEDGED: u16 = 4;
const ALONE: u16 = 0x100;

/// `NLMSG_ERROR`, which carries a negative errno, or 0.
const ERROR: u16 = 2;
const HEADER: usize = 16;
const BUSY: i32 = 16;
const GONE: i32 = 2;

/// The most that is read of an answer.
const ANSWER: usize = 4096;

/// Of which family (`NFPROTO_IPV4`, `NFPROTO_IPV6`).
pub(crate) const fn protocol(family: flannel_core::Family) -> u8 {
    match family {
        flannel_core::Family::V4 => 2,
        flannel_core::Family::V6 => 10,
    }
}

/// Deletes a table, or a chain of it, in the network namespace of the calling thread. What is used, or is
/// not there, stays as it is. The kernel answers at once.
///
/// # Errors
///
/// When the kernel refuses it for another reason.
pub(crate) fn delete(protocol: u8, table: &str, chain: Option<&str>) -> io::Result<()> {
    let mut body = vec![protocol, 0, 0, 0];
    attribute(&mut body, TABLE, table);
    let kind = match chain {
        None => DELETE_TABLE,
        Some(chain) => {
            attribute(&mut body, CHAIN, chain);
            DELETE_CHAIN
        }
    };
    let frame = [&[0, 0][..], &NFTABLES.to_be_bytes()].concat();
    let batch = [
        message(BEGIN, REQUEST, &frame),
        message(kind, REQUEST | ACKNOWLEDGED | ALONE, &body),
        message(END, REQUEST, &frame),
    ];
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    socket.send(&batch.concat(), 0)?;
    let mut answer = Vec::with_capacity(ANSWER);
    socket.recv(&mut answer, 0)?;
    match refusal(&answer)? {
        0 | BUSY | GONE => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// A message with its header; only its kind is told in the answer.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

fn attribute(body: &mut Vec<u8>, kind: u16, text: &str) {
    let length = u16::try_from(4 + text.len() + 1).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(text.as_bytes());
    body.push(0);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The errno of an answer.
fn refusal(answer: &[u8]) -> io::Result<i32> {
    let kind = answer
        .get(4..6)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u16::from_ne_bytes);
    let errno = answer
        .get(HEADER..HEADER + 4)
        .and_then(|bytes| bytes.try_into().ok());
    match (kind, errno.map(i32::from_ne_bytes)) {
        (Some(ERROR), Some(errno)) => Ok(errno.saturating_neg()),
        _ => Err(io::Error::other("the kernel's answer is none")),
    }
}
