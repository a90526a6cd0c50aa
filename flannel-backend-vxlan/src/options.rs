//! The options of the network config's `Backend` object.

use flannel_core::{DeviceName, MemberError, Members, NetworkConfig, PerFamily};

use crate::offload::Offload;
use crate::tunnel::Tunnel;

/// The highest VXLAN network identifier: it has 24 bits (RFC 7348, section 5).
const HIGHEST_VNI: u32 = (1 << 24) - 1;

/// Those that are read.
pub(crate) const NAMES: [&str; 7] = [
    "VNI",
    "Port",
    "GBP",
    "Learning",
    "DirectRouting",
    "MTU",
    "TxChecksumOffload",
];

const DEFAULT_VNI: u32 = 1;

/// What Linux has taken since before IANA assigned 4789 (`vxlan_port` in `drivers/net/vxlan`), and so
/// what flannel uses.
const DEFAULT_PORT: u16 = 8472;

const BOOL: &str = "true or false";
const VNI: &str = "a whole number from 0 to 16777215";
const PORT: &str = "a whole number from 0 to 65535, where 0 stands for 8472";
const MTU: &str = "the MTU of the network between the hosts in bytes, such as 1500, or 0 for the uplink's";
const OFFLOAD: &str = "\"auto\", \"on\" or \"off\"";

/// The options of one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    /// The VXLAN network identifier.
    pub(crate) vni: u32,
    /// The UDP port on both ends.
    pub(crate) port: u16,
    /// Whether packets carry a group policy id.
    pub(crate) gbp: bool,
    /// Whether devices learn where MAC addresses are.
    pub(crate) learning: bool,
    /// Whether peers on the uplink's link are reached without a tunnel.
    pub(crate) direct_routing: bool,
    /// The MTU of the network between the hosts; `None`: the uplink's.
    pub(crate) mtu: Option<u32>,
    /// Who makes checksums.
    pub(crate) offload: Offload,
}

impl Options {
    /// Reads them as flannel does: names in any case, `null` leaves the default, unknown ones are no
    /// error.
    pub(crate) fn read(config: &NetworkConfig) -> Result<Self, MemberError> {
        let options = &config.backend.options;
        let members: Result<Members, _> = serde_json::from_str(options.get());
        let mut members = members.map_err(|_| MemberError::new("Backend", options.get(), "an object"))?;
        let vni: Option<u32> = members.read("VNI", VNI)?;
        let port: Option<u16> = members.read("Port", PORT)?;
        let mtu: Option<u32> = members.read("MTU", MTU)?;
        let offload: Option<String> = members.read("TxChecksumOffload", OFFLOAD)?;
        let mut flag = |name| Ok(members.read(name, BOOL)?.unwrap_or(false));
        Ok(Self {
            vni: match vni {
                Some(vni) if vni > HIGHEST_VNI => return Err(MemberError::new("VNI", &vni.to_string(), VNI)),
                vni => vni.unwrap_or(DEFAULT_VNI),
            },
            port: port.filter(|port| *port != 0).unwrap_or(DEFAULT_PORT),
            gbp: flag("GBP")?,
            learning: flag("Learning")?,
            direct_routing: flag("DirectRouting")?,
            mtu: mtu.filter(|mtu| *mtu != 0),
            offload: match offload {
                Some(text) => Offload::named(&text)
                    .ok_or_else(|| MemberError::new("TxChecksumOffload", &format!("{text:?}"), OFFLOAD))?,
                None => Offload::default(),
            },
        })
    }

    /// The device of each family that the network has.
    pub(crate) fn devices(&self, config: &NetworkConfig) -> Result<PerFamily<DeviceName>, String> {
        let mut devices = PerFamily::NONE;
        for (family, _) in config.ranges.iter() {
            let tunnel = Tunnel::of(family);
            let device = tunnel.device(self.vni).ok_or_else(|| {
                let (name, highest) = (tunnel.name(self.vni), tunnel.highest_vni);
                format!(
                    "VNI is {}, and with {family} it can be {highest} at most: {name:?} is longer than the 15 \
                     characters that the kernel takes as the name of a device",
                    self.vni
                )
            })?;
            devices.set(family, Some(device));
        }
        Ok(devices)
    }
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
