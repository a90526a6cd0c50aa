//! Routes as `ip -N -j route` prints them.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;

use crate::LabError;

/// Protocol of routes that the kernel makes for an interface's own network (`RTPROT_KERNEL`, linux/rtnetlink.h).
pub const KERNEL: u8 = 2;
/// Protocol of a bare `ip route replace` (`RTPROT_BOOT`).
pub const BOOT: u8 = 3;
/// Protocol that operators give their own routes (`RTPROT_STATIC`).
pub const STATIC: u8 = 4;
/// Type of a route that forwards (`RTN_UNICAST`); 6 is blackhole, 7 unreachable.
pub const UNICAST: u8 = 1;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The option of `ip` and `ping` that selects this family.
    pub fn option(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn everything(self) -> IpNet {
        match self {
            Self::V4 => IpNet::V4(Ipv4Net::default()),
            Self::V6 => IpNet::V6(Ipv6Net::default()),
        }
    }
}

/// One route of table main. Two are equal if `ip` shows them alike, so that sorted lists tell what changed on a host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteLine {
    /// The destination; the default route is `0.0.0.0/0` or `::/0`.
    pub destination: IpNet,
    /// The neighbour that forwards, where there is one.
    pub gateway: Option<IpAddr>,
    /// The device; a blackhole has none.
    pub device: Option<String>,
    /// Who made it, as a number: [`KERNEL`], [`BOOT`], [`STATIC`], flannel's 70.
    pub protocol: u8,
    /// Metric, 0 when none is shown.
    pub metric: u32,
    /// Type, [`UNICAST`] for one that forwards.
    pub kind: u8,
    /// Flags such as `onlink`, `linkdown`, `dead`.
    pub flags: Vec<String>,
}

/// The JSON of iproute2: numbers are strings under `-N`, and protocol boot and type unicast are left out.
#[derive(Deserialize)]
struct Printed {
    dst: String,
    gateway: Option<IpAddr>,
    dev: Option<String>,
    protocol: Option<String>,
    #[serde(default)]
    metric: u32,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    flags: Vec<String>,
}

/// Reads the output of `ip -N -j -4|-6 route show`, sorted.
pub(crate) fn parse(family: Family, json: &str) -> Result<Vec<RouteLine>, LabError> {
    let refused = |reason: String| LabError::text("the output of `ip -N -j route`", reason, json);
    // An empty table prints nothing with some versions and `[ ]` with others.
    if json.trim().is_empty() {
        return Ok(Vec::new());
    }
    let printed: Vec<Printed> = serde_json::from_str(json).map_err(|error| refused(error.to_string()))?;
    let number = |text: Option<String>, absent: u8| {
        text.map_or(Ok(absent), |text| {
            text.parse()
                .map_err(|_| refused(format!("{text:?} is not a number")))
        })
    };
    let mut routes = printed
        .into_iter()
        .map(|route| {
            Ok(RouteLine {
                destination: destination(family, &route.dst)
                    .ok_or_else(|| refused(format!("{:?} is not a destination", route.dst)))?,
                gateway: route.gateway,
                device: route.dev,
                protocol: number(route.protocol, BOOT)?,
                metric: route.metric,
                kind: number(route.kind, UNICAST)?,
                flags: route.flags,
            })
        })
        .collect::<Result<Vec<_>, LabError>>()?;
    routes.sort();
    Ok(routes)
}

/// A destination as `ip` prints it: `default`, a prefix, or an address for a host route.
pub(crate) fn destination(family: Family, text: &str) -> Option<IpNet> {
    if text == "default" {
        return Some(family.everything());
    }
    text.parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = r#"[
        {"dst":"default","gateway":"192.168.77.1","dev":"eth0","flags":[]},
        {"dst":"192.168.77.0/24","dev":"eth0","protocol":"2","scope":"253","prefsrc":"192.168.77.11","flags":[]},
        {"dst":"10.77.3.0/24","gateway":"192.168.77.12","dev":"eth0","protocol":"70","flags":["linkdown"]},
        {"dst":"10.77.3.9","gateway":"192.168.77.1","dev":"eth0","protocol":"4","metric":5,"flags":[]},
        {"type":"6","dst":"10.9.0.0/16","flags":[]}]"#;

    #[test]
    fn every_field_of_a_route_is_read_and_what_ip_leaves_out_is_filled_in() {
        let routes = parse(Family::V4, V4).unwrap();
        let of = |text: &str| {
            routes
                .iter()
                .find(|route| route.destination == text.parse().unwrap())
                .unwrap()
        };
        assert_eq!(
            *of("10.77.3.0/24"),
            RouteLine {
                destination: "10.77.3.0/24".parse().unwrap(),
                gateway: Some("192.168.77.12".parse().unwrap()),
                device: Some("eth0".into()),
                protocol: 70,
                metric: 0,
                kind: UNICAST,
                flags: vec!["linkdown".into()],
            }
        );
        assert_eq!(of("0.0.0.0/0").protocol, BOOT);
        assert_eq!(of("192.168.77.0/24").protocol, KERNEL);
        assert_eq!(
            (of("10.77.3.9/32").metric, of("10.77.3.9/32").protocol),
            (5, STATIC)
        );
        assert_eq!(
            (of("10.9.0.0/16").kind, of("10.9.0.0/16").device.as_deref()),
            (6, None)
        );
    }

    #[test]
    fn a_default_route_has_the_family_that_was_asked_for() {
        let json = r#"[{"dst":"default","gateway":"fd00:77::1","dev":"eth0","metric":1024,"flags":[],"pref":"medium"}]"#;
        assert_eq!(
            parse(Family::V6, json).unwrap()[0].destination,
            "::/0".parse().unwrap()
        );
    }

    #[test]
    fn an_empty_table_is_no_error_in_either_spelling() {
        assert_eq!(parse(Family::V4, "").unwrap(), []);
        assert_eq!(parse(Family::V4, "[ ]\n").unwrap(), []);
    }

    #[test]
    fn what_is_no_route_is_refused_with_its_text() {
        for json in [
            "Error: nonsense",
            r#"[{"dst":"elsewhere"}]"#,
            r#"[{"dst":"10.0.0.0/8","protocol":"bird"}]"#,
        ] {
            assert!(
                parse(Family::V4, json).unwrap_err().to_string().contains(json),
                "{json}"
            );
        }
    }
}
