//! What a host says in its lease about its end of the tunnel.

use flannel_core::{MacAddress, MemberError, Members};
use serde_json::value::RawValue;

const VNI: &str = "a VXLAN network identifier, a whole number";
const MAC: &str = "the MAC address of a device, such as \"8e:bc:f1:25:6b:a8\"";

/// The end of a tunnel: `BackendData` for IPv4, `BackendV6Data` for IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TunnelEnd {
    /// The VXLAN network identifier, as far as flannel writes it: [`written_vni`]. `None` before v0.14.0.
    vni: Option<u32>,
    /// The MAC address of its device.
    pub(crate) mac: MacAddress,
}

/// As much of a VNI as stands in a lease. flannel has 16 bits for it there (`vxlanLeaseAttrs` in
/// `pkg/backend/vxlan/vxlan_network.go`): it cuts off the rest, and refuses a lease in which there are
/// more.
pub(crate) const fn written_vni(vni: u32) -> u32 {
    vni & 0xffff
}

impl TunnelEnd {
    /// One of ours.
    pub(crate) const fn new(vni: u32, mac: MacAddress) -> Self {
        Self {
            vni: Some(written_vni(vni)),
            mac,
        }
    }

    /// Reads what stands in a lease: names in any case, no `VNI` accepted. A MAC address that can be no
    /// device's is none.
    pub(crate) fn read(data: &RawValue) -> Result<Self, MemberError> {
        if let Some(end) = Self::as_written(data.get()) {
            return Ok(end);
        }
        let members: Result<Members, _> = serde_json::from_str(data.get());
        let mut members = members.map_err(|_| MemberError::new("it", data.get(), "an object"))?;
        let vni = members.read("VNI", VNI)?;
        let text: String = members.read("VtepMAC", MAC)?.unwrap_or_default();
        let mac = text.parse().ok().filter(|mac: &MacAddress| mac.is_unicast());
        let mac = mac.ok_or_else(|| MemberError::new("VtepMAC", &format!("{text:?}"), MAC))?;
        Ok(Self { vni, mac })
    }

    /// What stands there in the very form of [`TunnelEnd::to_json`], as in nearly every lease. Ours is read anew
    /// for each peer, and there may be thousands.
    fn as_written(json: &str) -> Option<Self> {
        let (vni, rest) = json.strip_prefix(r#"{"VNI":"#)?.split_once(r#","VtepMAC":""#)?;
        let is_number =
            vni.bytes().all(|byte| byte.is_ascii_digit()) && (vni == "0" || !vni.starts_with('0'));
        let mac: MacAddress = rest.strip_suffix(r#""}"#)?.parse().ok()?;
        (is_number && mac.is_unicast()).then_some(Self {
            vni: Some(vni.parse().ok()?),
            mac,
        })
    }

    /// As flannel writes it.
    pub(crate) fn to_json(self) -> Result<Box<RawValue>, serde_json::Error> {
        let vni = self.vni.map(|vni| format!("\"VNI\":{vni},")).unwrap_or_default();
        RawValue::from_string(format!("{{{vni}\"VtepMAC\":\"{}\"}}", self.mac))
    }

    /// Its VNI, if that is known to be another than this network's.
    pub(crate) fn foreign_vni(&self, vni: u32) -> Option<u32> {
        self.vni
            .filter(|theirs| ![vni, written_vni(vni)].contains(theirs))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: MacAddress = MacAddress([0x8e, 0xbc, 0xf1, 0x25, 0x6b, 0xa8]);

    fn read(json: &str) -> Result<TunnelEnd, String> {
        let raw = RawValue::from_string(json.to_owned()).unwrap();
        TunnelEnd::read(&raw).map_err(|error| error.to_string())
    }

    #[test]
    fn it_is_written_byte_for_byte_as_flannel_does() {
        for (vni, json) in [
            (1, r#"{"VNI":1,"VtepMAC":"8e:bc:f1:25:6b:a8"}"#),
            (0, r#"{"VNI":0,"VtepMAC":"8e:bc:f1:25:6b:a8"}"#),
            (65_535, r#"{"VNI":65535,"VtepMAC":"8e:bc:f1:25:6b:a8"}"#),
            (70_000, r#"{"VNI":4464,"VtepMAC":"8e:bc:f1:25:6b:a8"}"#),
        ] {
            let end = TunnelEnd::new(vni, MAC);
            assert_eq!(end.to_json().unwrap().get(), json);
            assert_eq!(read(json), Ok(end));
        }
    }

    #[test]
    fn every_form_that_flannel_reads_is_read() {
        for json in [
            r#"{"VNI":1,"VtepMAC":"8e:bc:f1:25:6b:a8"}"#,
            r#" { "vtepmac" : "8E-BC-F1-25-6B-A8" , "Vni" : 1 , "Rack" : {} } "#,
            r#"{"VNI":1,"VtepMAC":"00:00:00:00:00:00","VtepMAC":"8ebc.f125.6ba8"}"#,
        ] {
            assert_eq!(read(json), Ok(TunnelEnd::new(1, MAC)), "{json}");
        }
        for json in [
            r#"{"VtepMAC":"8e:bc:f1:25:6b:a8"}"#,
            r#"{"VNI":null,"VtepMAC":"8e:bc:f1:25:6b:a8"}"#,
        ] {
            assert_eq!(read(json), Ok(TunnelEnd { vni: None, mac: MAC }), "{json}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_named_with_what_may_stand_there() {
        const NO_MAC: &str = r#"which is not the MAC address of a device, such as "8e:bc:f1:25:6b:a8""#;
        for (json, expected) in [
            ("7", "it is 7, which is not an object".to_owned()),
            (r#""{}""#, r#"it is "{}", which is not an object"#.to_owned()),
            ("{}", format!(r#"VtepMAC is "", {NO_MAC}"#)),
            (r#"{"VtepMAC":null}"#, format!(r#"VtepMAC is "", {NO_MAC}"#)),
            (r#"{"VtepMAC":7}"#, format!("VtepMAC is 7, {NO_MAC}")),
            (
                r#"{"VtepMAC":"8e:bc:f1:25:6b"}"#,
                format!(r#"VtepMAC is "8e:bc:f1:25:6b", {NO_MAC}"#),
            ),
            (
                r#"{"VtepMAC":"00:00:00:00:00:00"}"#,
                format!(r#"VtepMAC is "00:00:00:00:00:00", {NO_MAC}"#),
            ),
            (
                r#"{"VtepMAC":"ff:ff:ff:ff:ff:ff"}"#,
                format!(r#"VtepMAC is "ff:ff:ff:ff:ff:ff", {NO_MAC}"#),
            ),
            (
                r#"{"VtepMAC":"02:00:5e:10:00:00:00:01"}"#,
                format!(r#"VtepMAC is "02:00:5e:10:00:00:00:01", {NO_MAC}"#),
            ),
            (
                r#"{"VNI":"1","VtepMAC":"8e:bc:f1:25:6b:a8"}"#,
                format!(r#"VNI is "1", which is not {VNI}"#),
            ),
            (
                r#"{"VNI":-1,"VtepMAC":"8e:bc:f1:25:6b:a8"}"#,
                format!("VNI is -1, which is not {VNI}"),
            ),
        ] {
            assert_eq!(read(json), Err(expected), "{json}");
        }
        let long = read(&format!(r#"{{"VtepMAC":"{}"}}"#, "x".repeat(10_000))).unwrap_err();
        assert!(long.len() < 300, "{long}");
    }

    #[test]
    fn what_is_written_is_read_without_a_look_at_its_members_and_nothing_else_is() {
        let end = TunnelEnd::new(1, MAC);
        assert_eq!(TunnelEnd::as_written(end.to_json().unwrap().get()), Some(end));
        for json in [
            r#"{"VNI":01,"VtepMAC":"8e:bc:f1:25:6b:a8"}"#,
            r#"{"VNI":+1,"VtepMAC":"8e:bc:f1:25:6b:a8"}"#,
            r#"{"VNI":,"VtepMAC":"8e:bc:f1:25:6b:a8"}"#,
            r#"{"VNI":4294967296,"VtepMAC":"8e:bc:f1:25:6b:a8"}"#,
            r#"{"VNI":1,"VtepMAC":"00:00:00:00:00:00"}"#,
            r#"{"VNI":1,"VtepMAC":"00:00:00:00:00:00","VtepMAC":"8e:bc:f1:25:6b:a8"}"#,
            r#"{"VNI":1,"VtepMAC":"8e:bc:f1:25:6b:a8","VNI":2}"#,
        ] {
            assert_eq!(TunnelEnd::as_written(json), None, "{json}");
        }
    }

    #[test]
    fn only_a_vni_that_differs_in_what_flannel_writes_of_it_is_foreign() {
        for (theirs, ours, expected) in [
            (Some(1), 1, None),
            (None, 7, None),
            (Some(2), 1, Some(2)),
            (Some(4464), 70_000, None),
            (Some(70_000), 70_000, None),
            (Some(70_000), 4464, Some(70_000)),
            (Some(70_001), 70_000, Some(70_001)),
        ] {
            let end = TunnelEnd {
                vni: theirs,
                mac: MAC,
            };
            assert_eq!(end.foreign_vni(ours), expected, "{theirs:?} {ours}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(vni in 0u32..1 << 24, bits: u64) {
            let end = TunnelEnd::new(vni, MacAddress::local(bits));
            prop_assert_eq!(TunnelEnd::read(&end.to_json().unwrap()), Ok(end));
            prop_assert_eq!(end.foreign_vni(vni), None);
        }
    }
}
