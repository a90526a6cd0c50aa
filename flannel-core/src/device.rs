//! Names of network devices.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The longest name that the kernel takes: `IFNAMSIZ - 1` in `linux/if.h`.
const LONGEST: usize = 15;

/// The name of a network device. Objects name their device; the index is looked up when a plan is
/// applied, since a device that is deleted and made again has another one.
///
/// ```
/// let device: flannel_core::DeviceName = "eth0".parse()?;
/// assert_eq!(device.as_str(), "eth0");
/// assert!("eth0/1".parse::<flannel_core::DeviceName>().is_err());
/// # Ok::<(), flannel_core::DeviceNameError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceName {
    // Padded with zeros, so that the derived order is that of the text.
    bytes: [u8; LONGEST],
    len: u8,
}

/// A text that the kernel would not take as a device name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a device name: 1 to 15 bytes without '/', ':' and white space")]
pub struct DeviceNameError(pub String);

impl DeviceName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl FromStr for DeviceName {
    type Err = DeviceNameError;

    /// Checks what `dev_valid_name` in the kernel's `net/core/dev.c` checks.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = (1..=LONGEST).contains(&text.len())
            && text != "."
            && text != ".."
            && !text
                .contains(|char: char| char == '/' || char == ':' || char.is_whitespace() || char == '\0');
        if !valid {
            return Err(DeviceNameError(text.to_owned()));
        }
        let mut bytes = [0; LONGEST];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        #[expect(clippy::cast_possible_truncation, reason = "at most 15")]
        let len = text.len() as u8;
        Ok(Self { bytes, len })
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
