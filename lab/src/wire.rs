//! Wires: the networks that hosts stand on, how they are numbered there, and the way from one wire to another.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::{Family, LabError};

/// The first wire's IPv4 network: `.1` is the gateway, hosts begin at `.11`. The second wire has `192.168.78.0/24`, and so
/// on.
pub const WIRE_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 77, 0), 24);
/// The first wire's IPv6 network, numbered as [`WIRE_V4`]. The second wire has `fd00:78::/64`, and so on.
pub const WIRE_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 0), 64);
/// Wires that a lab can have.
pub const MAX_WIRES: usize = 16;

/// The number of the first host on a wire.
pub(crate) const FIRST_HOST: usize = 11;
/// The numbers that hosts may have.
const NUMBERS: RangeInclusive<usize> = 2..=254;
/// The gateway's number.
const GATEWAY: usize = 1;
/// Ethernet's.
const USUAL_MTU: u32 = 1500;
/// Where hosts behind a NAT are seen from elsewhere, each with the number of its place in the lab (RFC 5737, RFC 3849).
const PUBLIC_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 0), 24);
const PUBLIC_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0), 64);

/// A layer-2 network with hosts on it. A router, which is the gateway of every wire, forwards between them in both
/// families; the gateway of a wire that is the only one forwards nothing.
#[derive(Clone, Debug)]
pub struct Wire {
    /// The hosts' numbers, 2 to 254: on the first wire number 21 has `192.168.77.21`, or `fd00:77::21`.
    pub numbers: Vec<usize>,
    /// The longest packet that it carries, in bytes; its hosts' interfaces have the same.
    pub mtu: u32,
    /// Whether the router gives its hosts one public address each, and takes what is sent there to them (1:1 NAT, as
    /// clouds do for "elastic" addresses).
    pub translated: bool,
}

impl Wire {
    /// So many hosts, from `.11` on.
    pub fn hosts(hosts: usize) -> Self {
        Self::numbered(FIRST_HOST..FIRST_HOST + hosts)
    }

    /// Hosts of these numbers.
    pub fn numbered(numbers: impl IntoIterator<Item = usize>) -> Self {
        Self {
            numbers: numbers.into_iter().collect(),
            mtu: USUAL_MTU,
            translated: false,
        }
    }

    /// With packets of at most so many bytes, instead of 1500.
    #[must_use]
    pub fn mtu(mut self, bytes: u32) -> Self {
        self.mtu = bytes;
        self
    }

    /// With its hosts behind a 1:1 NAT: see [`Host::public`](crate::Host::public).
    #[must_use]
    pub fn translated(mut self) -> Self {
        self.translated = true;
        self
    }

    pub(crate) fn check(&self) -> Result<(), LabError> {
        match self.numbers.iter().find(|number| !NUMBERS.contains(number)) {
            None => Ok(()),
            Some(number) => {
                let reason = format!("they go from {} to {}", NUMBERS.start(), NUMBERS.end());
                Err(LabError::text("the number of a host", reason, number.to_string()))
            }
        }
    }
}

/// Which of a lab's wires, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WireIndex(pub(crate) usize);

impl WireIndex {
    /// The bridge that is the wire, in the switch's namespace: `wire`, `wire2`, `wire3`.
    pub(crate) fn bridge(self) -> String {
        match self.0 {
            0 => "wire".into(),
            index => format!("wire{}", index + 1),
        }
    }

    /// The address of a number, with the wire's prefix.
    pub(crate) fn v4(self, number: usize) -> Ipv4Net {
        let [a, b, c, _] = WIRE_V4.addr().octets();
        let wire = Ipv4Addr::new(a, b, c.saturating_add(small(self.0)), small(number));
        Ipv4Net::new_assert(wire, WIRE_V4.prefix_len())
    }

    /// The same numbers as in IPv4, in their decimal digits: host `.78.11` is `78::11`.
    pub(crate) fn v6(self, number: usize) -> Ipv6Net {
        let [prefix, first, ..] = WIRE_V6.addr().segments();
        let wire = digits(usize::from(decimal(first)) + self.0);
        let address = Ipv6Addr::new(prefix, wire, 0, 0, 0, 0, 0, digits(number));
        Ipv6Net::new_assert(address, WIRE_V6.prefix_len())
    }

    /// The default route's next hop.
    pub(crate) fn gateway(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4(GATEWAY).addr().into(),
            Family::V6 => self.v6(GATEWAY).addr().into(),
        }
    }

    /// `ip` lines that make the wire and give the gateway its addresses.
    pub(crate) fn batch(self, mtu: u32) -> String {
        let bridge = self.bridge();
        let octet = self.v4(GATEWAY).addr().octets()[2];
        // Set once more: a bridge that was only made with an MTU takes its ports'.
        format!(
            "link add {bridge} address 02:00:00:00:{octet}:01 type bridge mcast_snooping 0\n\
             link set {bridge} mtu {mtu}\n\
             addr add {} dev {bridge}\naddr add {} dev {bridge} nodad\nlink set {bridge} up\n",
            self.v4(GATEWAY),
            self.v6(GATEWAY)
        )
    }
}

/// The public address of the host in that place of the lab, from 1.
pub(crate) fn public(position: usize, family: Family) -> IpAddr {
    match family {
        Family::V4 => {
            let [a, b, c, _] = PUBLIC_V4.addr().octets();
            Ipv4Addr::new(a, b, c, small(position)).into()
        }
        Family::V6 => {
            let [a, b, c, d, e, f, g, _] = PUBLIC_V6.addr().segments();
            Ipv6Addr::new(a, b, c, d, e, f, g, digits(position)).into()
        }
    }
}

/// The router's rules for pairs of a host's own and its public address.
pub(crate) fn translation(pairs: &[(IpAddr, IpAddr)]) -> String {
    let (mut to, mut from) = (String::new(), String::new());
    for (own, public) in pairs {
        let ip = if own.is_ipv4() { "ip" } else { "ip6" };
        // `let _`: writing to a String cannot fail.
        let _ = writeln!(to, "{ip} daddr {public} dnat {ip} to {own}");
        let _ = writeln!(from, "{ip} saddr {own} snat {ip} to {public}");
    }
    format!(
        "table inet translation {{\n\
         chain to {{\ntype nat hook prerouting priority dstnat;\n{to}}}\n\
         chain from {{\ntype nat hook postrouting priority srcnat;\n{from}}}\n}}\n"
    )
}

fn small(number: usize) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

/// The number whose hexadecimal digits are the decimal ones of `number`.
fn digits(number: usize) -> u16 {
    u16::from_str_radix(&number.to_string(), 16).unwrap_or(u16::MAX)
}

/// What [`digits`] made of it.
fn decimal(digits: u16) -> u16 {
    format!("{digits:x}").parse().unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_numbered_alike_in_both_families_and_on_every_wire() {
        let first = WireIndex(0);
        assert_eq!(first.v4(11).to_string(), "192.168.77.11/24");
        assert_eq!(first.v6(11).to_string(), "fd00:77::11/64");
        assert_eq!(first.v6(210).to_string(), "fd00:77::210/64");
        assert_eq!(first.v4(0), WIRE_V4);
        assert_eq!(first.v6(0), WIRE_V6);
        let last = WireIndex(MAX_WIRES - 1);
        assert_eq!(last.v4(254).to_string(), "192.168.92.254/24");
        assert_eq!(last.v6(254).to_string(), "fd00:92::254/64");
        assert_eq!(last.gateway(Family::V6).to_string(), "fd00:92::1");
    }

    #[test]
    fn public_addresses_are_numbered_by_the_hosts_places() {
        assert_eq!(public(3, Family::V4).to_string(), "203.0.113.3");
        assert_eq!(public(12, Family::V6).to_string(), "2001:db8:113::12");
    }
}
