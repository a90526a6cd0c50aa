//! The name of a lease: the subnet, or pair of subnets, that one host holds.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;

use crate::{Family, PerFamily};

/// The longest prefix that a key may carry in each family: flannel keeps five bits for the IPv4
/// length and seven for the IPv6 one.
const LONGEST_KEY_PREFIX: [u8; 2] = [31, 127];

/// The subnets of one lease: an IPv4 one, an IPv6 one, or one of each. Host bits are always zero.
///
/// It has two written forms. The *key* is what stores use as a name, byte for byte flannel's:
/// `10.5.1.0-24`, `10.5.1.0-24&fd00::-64`, and for IPv6 alone `0.0.0.0-0&fd00::-64`. People read
/// and write CIDRs: `10.5.1.0/24`, `10.5.1.0/24,fd00::/64`.
///
/// ```
/// use flannel_core::SubnetKey;
///
/// let subnet: SubnetKey = "10.5.1.0/24,fd00::/64".parse()?;
/// assert_eq!(subnet.to_key(), "10.5.1.0-24&fd00::-64");
/// assert_eq!(SubnetKey::from_key("10.5.1.0-24&fd00::-64")?, subnet);
/// # Ok::<(), flannel_core::SubnetKeyError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubnetKey {
    // At least one is there: the constructors see to it.
    v4: Option<Ipv4Net>,
    v6: Option<Ipv6Net>,
}

/// Why a text is not a subnet.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SubnetKeyError {
    /// Not of the form `a.b.c.d-len`, `a.b.c.d-len&v6-len`.
    #[error("{0:?} is not a subnet key; write it as 10.5.1.0-24 or 10.5.1.0-24&fd00::-64")]
    Malformed(String),
    /// Bits are set behind the prefix: two keys would name one subnet.
    #[error("{key:?} has host bits set; the subnet is {subnet}")]
    HostBits {
        /// The key as read.
        key: String,
        /// What it would be without them.
        subnet: IpNet,
    },
    /// Not a CIDR, or two CIDRs of one family.
    #[error("{0:?} is not a subnet; write it as 10.5.1.0/24, fd00::/64 or 10.5.1.0/24,fd00::/64")]
    NotCidr(String),
}

impl SubnetKey {
    /// The subnet with these parts, host bits cut off; `None` when there is no part at all. Beside an
    /// IPv6 part `0.0.0.0/0` is none: it is how keys say so.
    #[must_use]
    pub fn new(v4: Option<Ipv4Net>, v6: Option<Ipv6Net>) -> Option<Self> {
        let v4 = v4.filter(|v4| v6.is_none() || v4.prefix_len() > 0);
        (v4.is_some() || v6.is_some()).then(|| Self {
            v4: v4.as_ref().map(Ipv4Net::trunc),
            v6: v6.as_ref().map(Ipv6Net::trunc),
        })
    }

    /// The subnet with the parts of these families; a part of the other family counts as none.
    pub(crate) fn of_nets(nets: PerFamily<IpNet>) -> Option<Self> {
        let v4 = nets
            .v4
            .and_then(|net| if let IpNet::V4(net) = net { Some(net) } else { None });
        let v6 = nets
            .v6
            .and_then(|net| if let IpNet::V6(net) = net { Some(net) } else { None });
        Self::new(v4, v6)
    }

    /// The IPv4 part.
    #[must_use]
    pub const fn v4(&self) -> Option<Ipv4Net> {
        self.v4
    }

    /// The IPv6 part.
    #[must_use]
    pub const fn v6(&self) -> Option<Ipv6Net> {
        self.v6
    }

    /// The part of one family.
    #[must_use]
    pub fn net(&self, family: Family) -> Option<IpNet> {
        match family {
            Family::V4 => self.v4.map(IpNet::V4),
            Family::V6 => self.v6.map(IpNet::V6),
        }
    }

    /// The parts that there are, IPv4 first.
    pub fn nets(&self) -> impl Iterator<Item = IpNet> + use<> {
        [self.v4.map(IpNet::V4), self.v6.map(IpNet::V6)]
            .into_iter()
            .flatten()
    }

    /// Whether an address of one lies in the other.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.nets()
            .any(|net| other.nets().any(|theirs| overlap(net, theirs)))
    }

    /// Whether an address of it lies in `net`.
    #[must_use]
    pub fn overlaps_net(&self, net: IpNet) -> bool {
        self.nets().any(|own| overlap(own, net))
    }

    /// The name under which stores keep the lease.
    #[must_use]
    pub fn to_key(&self) -> String {
        let (v4, v4_len) = self.v4.map_or((Ipv4Addr::UNSPECIFIED, 0), |net| {
            (net.network(), net.prefix_len())
        });
        match self.v6 {
            None => format!("{v4}-{v4_len}"),
            Some(v6) => format!("{v4}-{v4_len}&{}-{}", v6.network(), v6.prefix_len()),
        }
    }

    /// Reads the last component of a store's key: what flannel accepts, except that the whole name
    /// must be the key (flannel takes `x/y/10.5.1.0-24`, too) and host bits are refused, since the
    /// lease could not be written back under its own name.
    ///
    /// # Errors
    ///
    /// [`SubnetKeyError::Malformed`] and [`SubnetKeyError::HostBits`].
    pub fn from_key(key: &str) -> Result<Self, SubnetKeyError> {
        let malformed = || SubnetKeyError::Malformed(key.to_owned());
        let (v4, v6) = match key.split_once('&') {
            Some((v4, v6)) => (v4, Some(v6)),
            None => (key, None),
        };
        let (v4, v4_len) = split_length(v4, LONGEST_KEY_PREFIX[0]).ok_or_else(malformed)?;
        let v4 = v4
            .parse::<Ipv4Addr>()
            .ok()
            .and_then(|v4| Ipv4Net::new(v4, v4_len).ok());
        let v4 = v4.ok_or_else(malformed)?;
        let v6 = match v6 {
            None => None,
            Some(v6) => {
                let (v6, v6_len) = split_length(v6, LONGEST_KEY_PREFIX[1]).ok_or_else(malformed)?;
                // Go writes lower case, and so must we: a key has one spelling.
                if !v6
                    .bytes()
                    .all(|byte| matches!(byte, b'a'..=b'f' | b'0'..=b'9' | b':'))
                {
                    return Err(malformed());
                }
                let v6 = v6
                    .parse::<Ipv6Addr>()
                    .ok()
                    .and_then(|v6| Ipv6Net::new(v6, v6_len).ok());
                Some(v6.ok_or_else(malformed)?)
            }
        };
        for net in [Some(IpNet::V4(v4)), v6.map(IpNet::V6)].into_iter().flatten() {
            if net != net.trunc() {
                return Err(SubnetKeyError::HostBits {
                    key: key.to_owned(),
                    subnet: net.trunc(),
                });
            }
        }
        let v4 = (v6.is_none() || v4.prefix_len() > 0).then_some(v4);
        let subnet = Self { v4, v6 };
        if subnet.to_key() == key {
            Ok(subnet)
        } else {
            Err(malformed())
        }
    }
}

/// Whether two prefixes share an address: prefixes either nest or are apart.
pub(crate) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// Reads a CIDR more strictly than ipnet: leading zeros are octal to some and decimal to others.
pub(crate) fn parse_net(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let length = length
        .parse()
        .ok()
        .filter(|_| length.bytes().all(|byte| byte.is_ascii_digit()))?;
    IpNet::new(address.parse().ok()?, length).ok()
}

fn split_length(text: &str, longest: u8) -> Option<(&str, u8)> {
    let (address, length) = text.rsplit_once('-')?;
    let digits = length.bytes().all(|byte| byte.is_ascii_digit());
    let length = length
        .parse::<u8>()
        .ok()
        .filter(|length| digits && *length <= longest)?;
    Some((address, length))
}

impl fmt::Display for SubnetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.v4, self.v6) {
            (Some(v4), Some(v6)) => write!(f, "{v4},{v6}"),
            (Some(v4), None) => write!(f, "{v4}"),
            (None, Some(v6)) => write!(f, "{v6}"),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Debug for SubnetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SubnetKey {
    type Err = SubnetKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let not_cidr = || SubnetKeyError::NotCidr(text.to_owned());
        let (mut v4, mut v6) = (None, None);
        for part in text.split(',') {
            match parse_net(part.trim()).ok_or_else(not_cidr)? {
                IpNet::V4(net) if v4.is_none() => v4 = Some(net),
                IpNet::V6(net) if v6.is_none() => v6 = Some(net),
                _ => return Err(not_cidr()),
            }
        }
        Self::new(v4, v6).ok_or_else(not_cidr)
    }
}

impl From<Ipv4Net> for SubnetKey {
    fn from(net: Ipv4Net) -> Self {
        Self {
            v4: Some(net.trunc()),
            v6: None,
        }
    }
}

impl From<Ipv6Net> for SubnetKey {
    fn from(net: Ipv6Net) -> Self {
        Self {
            v4: None,
            v6: Some(net.trunc()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_that_flannel_writes_are_read_and_written_back_byte_for_byte() {
        for key in [
            "10.5.1.0-24",
            "10.5.1.0-24&fd00::-64",
            "10.5.49.0-24&fd00:5:0:5::-64",
            "0.0.0.0-0&fd00:0:0:1::-64",
            "0.0.0.0-0",
            "10.12.13.0-31",
            "10.12.13.0-24&2001::-127",
        ] {
            assert_eq!(
                SubnetKey::from_key(key).map(|subnet| subnet.to_key()).as_deref(),
                Ok(key)
            );
        }
    }

    #[test]
    fn keys_that_flannel_refuses_are_refused() {
        for key in [
            "10",
            "10.12.13.0",
            "10.12.13-24",
            "10.12.13.300-24",
            "10.12.13.0-24hi",
            "&2001::-56",
            "10.12.13.0-24&:12:13:-56",
            "10.12.13.0-24&20011::-56",
            "10.12.13.0-24&2001-56",
            "10.12.13.0-24&2001::",
            "10.12.13.0-24&2001::-56hi",
            "255.255.255.255-32",
            "10.5.1.0-24&FD00::-64",
            "10.5.1.0-24&fd00::-128",
            "010.5.1.0-24",
            "",
            "10.5.1.0-",
            "10.5.1.0-+4",
            "10.5.1.0-024",
        ] {
            assert!(SubnetKey::from_key(key).is_err(), "{key:?} was accepted");
        }
    }

    #[test]
    fn a_key_is_one_path_component_and_has_one_spelling() {
        for key in [
            "x/y/10.5.1.0-24",
            "subnets/10.5.1.0-24",
            "10.5.1.0-24&fd00:0:0:0::-64",
        ] {
            assert_eq!(
                SubnetKey::from_key(key),
                Err(SubnetKeyError::Malformed(key.to_owned()))
            );
        }
        let key = "10.5.1.7-24";
        assert!(matches!(
            SubnetKey::from_key(key),
            Err(SubnetKeyError::HostBits { .. })
        ));
        assert!(matches!(
            SubnetKey::from_key("10.5.1.0-0"),
            Err(SubnetKeyError::HostBits { .. })
        ));
    }

    #[test]
    fn people_write_cidrs_and_errors_say_how() {
        let dual: SubnetKey = "10.5.1.9/24, fd00::1/64".parse().unwrap();
        assert_eq!(dual.to_string(), "10.5.1.0/24,fd00::/64");
        for text in [
            "",
            "10.5.1.0",
            "10.5.1.0/33",
            "10.5.1.0/24,10.5.2.0/24",
            "fd00::/64,x",
        ] {
            let error = text.parse::<SubnetKey>().unwrap_err().to_string();
            assert!(error.contains("10.5.1.0/24,fd00::/64"), "{error}");
        }
    }

    #[test]
    fn all_of_ipv4_is_a_part_only_where_it_stands_alone() {
        for (text, key) in [
            ("0.0.0.0/0", "0.0.0.0-0"),
            ("0.0.0.0/0,fd00::/64", "0.0.0.0-0&fd00::-64"),
        ] {
            let subnet: SubnetKey = text.parse().unwrap();
            assert_eq!(subnet.to_key(), key);
            assert_eq!(SubnetKey::from_key(key), Ok(subnet));
        }
    }

    proptest! {
        #[test]
        fn every_subnet_survives_the_way_through_its_key(
            v4 in proptest::option::of((any::<u32>(), 0u8..=31)),
            v6 in proptest::option::of((any::<u128>(), 0u8..=127)),
        ) {
            let v4 = v4.map(|(bits, len)| Ipv4Net::new(Ipv4Addr::from(bits), len).unwrap());
            let v6 = v6.map(|(bits, len)| Ipv6Net::new(Ipv6Addr::from(bits), len).unwrap());
            if let Some(subnet) = SubnetKey::new(v4, v6) {
                prop_assert_eq!(SubnetKey::from_key(&subnet.to_key()), Ok(subnet));
                prop_assert_eq!(subnet.to_string().parse(), Ok(subnet));
            }
        }

        #[test]
        fn no_text_makes_the_key_reader_panic(text in "\\PC{0,40}") {
            if let Ok(subnet) = SubnetKey::from_key(&text) {
                prop_assert_eq!(subnet.to_key(), text);
            }
        }
    }
}
