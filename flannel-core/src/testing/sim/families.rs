//! Which addresses a simulated network has.

use std::net::IpAddr;

/// The families of a simulated network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SimFamilies {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Both.
    Both,
}

impl SimFamilies {
    pub(super) const fn v4(self) -> bool {
        matches!(self, Self::V4 | Self::Both)
    }

    pub(super) const fn v6(self) -> bool {
        matches!(self, Self::V6 | Self::Both)
    }

    pub(super) fn config(self, backend: &str) -> String {
        format!(
            r#"{{"EnableIPv4":{},"Network":"{}","EnableIPv6":{},"IPv6Network":"{}","Backend":{backend}}}"#,
            self.v4(),
            NETWORKS[0],
            self.v6(),
            NETWORKS[1],
        )
    }

    /// The network and its neighbour; subnets are still given out in the first only.
    pub(super) fn enlarged(self, backend: &str) -> String {
        format!(
            r#"{{"EnableIPv4":{},"Network":"{}","SubnetMin":"10.5.1.0","SubnetMax":"10.5.255.0","EnableIPv6":{},"IPv6Network":"{}","IPv6SubnetMin":"fd05:0:0:1::","IPv6SubnetMax":"fd05:0:0:ffff::","Backend":{backend}}}"#,
            self.v4(),
            ENLARGED[0],
            self.v6(),
            ENLARGED[1],
        )
    }

    pub(super) fn addresses(self, number: u32) -> Vec<String> {
        let v4 = self
            .v4()
            .then(|| format!("192.0.{}.{}/16", number >> 8, number & 255));
        let v6 = self.v6().then(|| format!("fd00::{number:x}/64"));
        v4.into_iter().chain(v6).collect()
    }

    /// A neighbour that no peer has.
    pub(super) fn stray_neighbour(v6: bool) -> IpAddr {
        let text = if v6 { "fd05:0:0:fb::" } else { "10.5.251.0" };
        text.parse().expect("an address")
    }

    pub(super) fn gateways(self) -> Vec<&'static str> {
        let v4 = self.v4().then_some("192.0.255.1");
        let v6 = self.v6().then_some("fd00::ffff:1");
        v4.into_iter().chain(v6).collect()
    }
}

/// The simulated network's ranges.
pub(super) const NETWORKS: [&str; 2] = ["10.5.0.0/16", "fd05::/48"];

/// What they become when the network is enlarged.
pub(super) const ENLARGED: [&str; 2] = ["10.4.0.0/15", "fd04::/15"];
