//! Network devices as `ip -d -j addr` prints them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use crate::{LabError, Namespace};

/// A network device. Two are equal if `ip` shows them alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkLine {
    /// Its name.
    pub name: String,
    /// Its index: a device that was made again has another.
    pub index: u32,
    /// What it is, `vxlan`; empty for hardware and the loopback device.
    pub kind: String,
    /// Its MAC address.
    pub mac: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is set up.
    pub up: bool,
    /// Of a VXLAN device alone.
    pub vxlan: Option<VxlanLine>,
    /// Its addresses in the kernel's order.
    pub addresses: Vec<IpNet>,
}

/// What a VXLAN device has beside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanLine {
    /// The network identifier.
    pub vni: u32,
    /// The UDP port on both ends.
    pub port: u16,
    /// The address that its packets have as source.
    pub local: Option<IpAddr>,
    /// The device that its packets leave by; a number, if that is in another namespace.
    pub uplink: Option<String>,
    /// Whether it learns from what it receives.
    pub learning: bool,
    /// Whether packets carry a group policy id.
    pub gbp: bool,
}

/// Packets of a device since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketCounts {
    /// Received.
    pub received: u64,
    /// Sent.
    pub sent: u64,
    /// Neither: errors and drops in both directions, and packets that no carrier took.
    pub lost: u64,
}

#[derive(Deserialize)]
struct Printed {
    ifname: String,
    ifindex: u32,
    #[serde(default)]
    address: String,
    mtu: u32,
    flags: Vec<String>,
    #[serde(default)]
    linkinfo: PrintedInfo,
    #[serde(default)]
    addr_info: Vec<PrintedAddress>,
}

#[derive(Default, Deserialize)]
struct PrintedInfo {
    #[serde(default)]
    info_kind: String,
    #[serde(default)]
    info_data: serde_json::Value,
}

#[derive(Deserialize)]
struct PrintedAddress {
    local: IpAddr,
    prefixlen: u8,
}

#[derive(Deserialize)]
struct PrintedVxlan {
    id: u32,
    port: u16,
    local: Option<IpAddr>,
    local6: Option<IpAddr>,
    link: Option<String>,
    learning: bool,
    #[serde(default)]
    gbp: bool,
}

#[derive(Deserialize)]
struct PrintedCounts {
    stats64: PrintedDirections,
}

#[derive(Deserialize)]
struct PrintedDirections {
    rx: PrintedDirection,
    tx: PrintedDirection,
}

#[derive(Deserialize)]
struct PrintedDirection {
    packets: u64,
    errors: u64,
    dropped: u64,
    #[serde(default)]
    carrier_errors: u64,
}

impl Namespace {
    /// Every device with its addresses, in the order of their indices.
    ///
    /// # Errors
    /// Those of `ip`, and [`LabError::Text`] if its output is not understood.
    pub fn links(&self) -> Result<Vec<LinkLine>, LabError> {
        parse(&self.ip(&["-d", "-j", "addr", "show"])?)
    }

    /// The device of this name, if there is one.
    ///
    /// # Errors
    /// As [`Self::links`].
    pub fn link(&self, name: &str) -> Result<Option<LinkLine>, LabError> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// What a device has counted.
    ///
    /// # Errors
    /// Those of `ip`, for example that there is no such device, and [`LabError::Text`].
    pub fn packets(&self, device: &str) -> Result<PacketCounts, LabError> {
        let json = self.ip(&["-s", "-j", "link", "show", "dev", device])?;
        let refused = |reason: String| LabError::text("the output of `ip -s -j link`", reason, &json);
        let printed: Vec<PrintedCounts> =
            serde_json::from_str(&json).map_err(|error| refused(error.to_string()))?;
        let Some(PrintedCounts { stats64 }) = printed.first() else {
            return Err(refused(format!("no {device}")));
        };
        let lost =
            |direction: &PrintedDirection| direction.errors + direction.dropped + direction.carrier_errors;
        Ok(PacketCounts {
            received: stats64.rx.packets,
            sent: stats64.tx.packets,
            lost: lost(&stats64.rx) + lost(&stats64.tx),
        })
    }

    /// The value of a switch below `/proc/sys/net`, for example `ipv6/conf/eth0/accept_ra`.
    ///
    /// # Errors
    /// [`LabError::Io`] if there is none.
    pub fn sysctl(&self, path: &str) -> Result<String, LabError> {
        let path = std::path::Path::new("/proc/sys/net").join(path);
        let text = self.inside(|| std::fs::read_to_string(&path))?;
        text.map(|text| text.trim().to_owned())
            .map_err(|error| LabError::io("read", &path, error))
    }
}

/// Reads the output of `ip -d -j addr show`.
fn parse(json: &str) -> Result<Vec<LinkLine>, LabError> {
    let refused = |error: serde_json::Error| LabError::text("the output of `ip -d -j addr`", error, json);
    let printed: Vec<Printed> = serde_json::from_str(json).map_err(refused)?;
    let read = |printed: Printed| {
        let PrintedInfo { info_kind, info_data } = printed.linkinfo;
        let vxlan = (info_kind == "vxlan").then(|| serde_json::from_value(info_data));
        let vxlan: Option<PrintedVxlan> = vxlan.transpose().map_err(refused)?;
        let net = |own: PrintedAddress| IpNet::new(own.local, own.prefixlen);
        let addresses: Result<Vec<IpNet>, _> = printed.addr_info.into_iter().map(net).collect();
        Ok(LinkLine {
            name: printed.ifname,
            index: printed.ifindex,
            kind: info_kind,
            mac: printed.address,
            mtu: printed.mtu,
            up: printed.flags.iter().any(|flag| flag == "UP"),
            vxlan: vxlan.map(VxlanLine::from),
            addresses: addresses
                .map_err(|error| LabError::text("the output of `ip -d -j addr`", error, json))?,
        })
    };
    printed.into_iter().map(read).collect()
}

impl From<PrintedVxlan> for VxlanLine {
    fn from(printed: PrintedVxlan) -> Self {
        Self {
            vni: printed.id,
            port: printed.port,
            local: printed.local.or(printed.local6),
            uplink: printed.link,
            learning: printed.learning,
            gbp: printed.gbp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vxlan_device_is_read_with_what_only_it_has() {
        let json = r#"[{"ifindex":4,"ifname":"flannel-v6.1","flags":["BROADCAST","MULTICAST","UP","LOWER_UP"],
            "mtu":1430,"address":"02:11:22:33:44:55","linkinfo":{"info_kind":"vxlan","info_data":{"id":1,
            "local6":"fd00::1","link":"eth0","port":8472,"learning":false,"gbp":true}},"addr_info":[
            {"family":"inet6","local":"fd77::","prefixlen":128,"scope":"global"}]}]"#;
        let link = parse(json).unwrap().remove(0);
        assert_eq!(
            (link.name.as_str(), link.mtu, link.up),
            ("flannel-v6.1", 1430, true)
        );
        assert_eq!(link.addresses, ["fd77::/128".parse().unwrap()]);
        let vxlan = VxlanLine {
            vni: 1,
            port: 8472,
            local: Some("fd00::1".parse().unwrap()),
            uplink: Some("eth0".into()),
            learning: false,
            gbp: true,
        };
        assert_eq!(link.vxlan, Some(vxlan));
    }

    #[test]
    fn hardware_has_no_kind_and_a_device_without_addresses_has_none() {
        let json = r#"[{"ifindex":1,"ifname":"eth0","flags":["BROADCAST"],"mtu":1500,"address":"02:00:00:00:00:01"}]"#;
        let link = parse(json).unwrap().remove(0);
        assert_eq!((link.kind.as_str(), link.up, link.vxlan), ("", false, None));
        assert!(link.addresses.is_empty());
    }

    #[test]
    fn what_is_no_list_of_devices_is_refused_with_its_text() {
        for json in ["", "Error: nonsense", r#"[{"ifname":"x"}]"#] {
            assert!(parse(json).unwrap_err().to_string().contains(json), "{json}");
        }
    }
}
