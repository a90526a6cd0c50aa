//! Settings of IPv4 that hold for all devices, as route netlink tells them (`linux/netconf.h`).

use flannel_core::KernelError;
use netlink_packet_core::{DecodeError, parse_u32};

use crate::attribute::{Plain, attribute, encoded};
use crate::socket::RequestSocket;

/// `RTM_GETNETCONF` in `linux/rtnetlink.h`.
const GET_NETCONF: u16 = 82;

/// `AF_INET`.
const INET: u8 = 2;

/// `NETCONFA_IFINDEX`, its value for all devices, and `NETCONFA_RP_FILTER`.
const ATTR_INDEX: u16 = 1;
const ALL: i32 = -1;
const ATTR_REVERSE_PATH_FILTER: u16 = 3;

/// `struct netconfmsg`, with what follows it.
const HEADER_LEN: usize = 4;

/// `net.ipv4.conf.all.rp_filter`; `None` where the kernel does not tell.
pub(crate) fn reverse_path_filter(socket: &mut RequestSocket) -> Result<Option<u32>, KernelError> {
    let header = [INET, 0, 0, 0];
    let question = Plain {
        kind: GET_NETCONF,
        bytes: [&header[..], &encoded(ATTR_INDEX, &ALL.to_ne_bytes())].concat(),
    };
    let answer = socket.ask("read a setting of all devices", question, decode)?;
    Ok(answer.ok().flatten())
}

fn decode(payload: &[u8]) -> Result<Option<u32>, DecodeError> {
    let attributes = payload.get(HEADER_LEN..).unwrap_or_default();
    let value = attribute(attributes, ATTR_REVERSE_PATH_FILTER)?;
    value.map(parse_u32).transpose()
}
