//! MAC addresses.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The MAC address of a device (IEEE 802, EUI-48).
///
/// ```
/// let mac: flannel_core::MacAddress = "8E-BC-F1-25-6B-A8".parse()?;
/// assert_eq!(mac.to_string(), "8e:bc:f1:25:6b:a8");
/// assert!(mac.is_unicast());
/// # Ok::<(), flannel_core::MacAddressError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

/// A text that is no MAC address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a MAC address: six bytes such as 8e:bc:f1:25:6b:a8")]
pub struct MacAddressError(pub String);

impl MacAddress {
    /// Whether it can be a device's: neither a group's nor all zeros.
    #[must_use]
    pub const fn is_unicast(self) -> bool {
        let [first, ..] = self.0;
        first & 1 == 0 && !matches!(self.0, [0, 0, 0, 0, 0, 0])
    }

    /// The address of a device that is nobody's hardware, made of these bits: unicast and locally
    /// administered.
    #[must_use]
    pub const fn local(bits: u64) -> Self {
        let [_, _, first, b, c, d, e, f] = bits.to_be_bytes();
        Self([first & 0xfe | 0x02, b, c, d, e, f])
    }
}

impl FromStr for MacAddress {
    type Err = MacAddressError;

    /// Reads six bytes in the forms that Go's `net.ParseMAC` takes: in twos by `:` or `-`, in fours
    /// by `.`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || MacAddressError(text.chars().take(100).collect());
        let (separator, digits) = match text.as_bytes().get(2) {
            Some(separator @ (b':' | b'-')) => (char::from(*separator), 2),
            _ => ('.', 4),
        };
        let mut bytes = [0; 6];
        let mut at = bytes.iter_mut();
        for part in text.split(separator) {
            let hexadecimal = part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            let number = u16::from_str_radix(part, 16).ok().filter(|_| hexadecimal);
            let [high, low] = number.ok_or_else(bad)?.to_be_bytes();
            if digits == 4 {
                *at.next().ok_or_else(bad)? = high;
            }
            *at.next().ok_or_else(bad)? = low;
        }
        if at.next().is_some() {
            return Err(bad());
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_that_go_takes_is_read_and_one_is_written() {
        for text in ["8e:bc:f1:25:6b:a8", "8E-BC-F1-25-6B-A8", "8ebc.f125.6ba8"] {
            let mac: MacAddress = text.parse().unwrap();
            assert_eq!(mac.to_string(), "8e:bc:f1:25:6b:a8");
        }
    }

    #[test]
    fn what_is_no_address_of_six_bytes_is_refused() {
        for text in [
            "",
            "8e",
            "8e:bc:f1:25:6b",
            "8e:bc:f1:25:6b:a8:01",
            "8e:bc:f1:25:6b:a",
            "8e:bc-f1:25:6b:a8",
            "8e:bc:f1:25:6b:+8",
            "8ebc.f125",
            "8ebcf1256ba8",
            "8ebc.f125.6ba8.0000",
            "02:00:5e:10:00:00:00:01",
        ] {
            assert_eq!(
                text.parse::<MacAddress>(),
                Err(MacAddressError(text.to_owned())),
                "{text}"
            );
        }
    }

    #[test]
    fn a_made_up_address_is_unicast_and_local_whatever_the_bits() {
        for bits in [0, u64::MAX, 0x0001_0203_0405_0607] {
            let mac = MacAddress::local(bits);
            assert!(mac.is_unicast() && mac.0[0] & 2 == 2, "{mac}");
        }
        assert_eq!(
            MacAddress::local(0x0001_0203_0405_0607).to_string(),
            "02:03:04:05:06:07"
        );
        assert!(!MacAddress([0; 6]).is_unicast());
        assert!(!MacAddress([1, 0, 0, 0, 0, 0]).is_unicast());
    }
}
