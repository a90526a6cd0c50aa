//! `subnet.env` as its consumers read it: `KEY=VALUE` lines.

use ipnet::{Ipv4Net, Ipv6Net};

use crate::LabError;

/// What a daemon tells the pods of its host. The nets carry the bridge's address, the first of the subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubnetEnv {
    /// `FLANNEL_SUBNET`, for example `10.77.3.1/24`.
    pub subnet: Option<Ipv4Net>,
    /// `FLANNEL_IPV6_SUBNET`, for example `fd77:0:0:3::1/64`.
    pub ipv6_subnet: Option<Ipv6Net>,
    /// `FLANNEL_MTU`, in bytes.
    pub mtu: u32,
}

impl SubnetEnv {
    /// Reads the text of a `subnet.env`; keys it does not need are skipped.
    ///
    /// # Errors
    /// [`LabError::Text`] if a value is no subnet or number, or if neither family has a subnet.
    pub fn parse(text: &str) -> Result<Self, LabError> {
        let refused = |reason: &str| LabError::text("subnet.env", reason, text);
        let value = |wanted: &str| {
            text.lines()
                .find_map(|line| line.trim().split_once('=').filter(|(key, _)| *key == wanted))
                .map(|pair| pair.1)
        };
        let read = Self {
            subnet: value("FLANNEL_SUBNET")
                .map(|text| {
                    text.parse()
                        .map_err(|_| refused("FLANNEL_SUBNET is no IPv4 subnet"))
                })
                .transpose()?,
            ipv6_subnet: value("FLANNEL_IPV6_SUBNET")
                .map(|text| {
                    text.parse()
                        .map_err(|_| refused("FLANNEL_IPV6_SUBNET is no IPv6 subnet"))
                })
                .transpose()?,
            mtu: value("FLANNEL_MTU")
                .ok_or_else(|| refused("FLANNEL_MTU is missing"))?
                .parse()
                .map_err(|_| refused("FLANNEL_MTU is no number"))?,
        };
        if read.subnet.is_none() && read.ipv6_subnet.is_none() {
            return Err(refused("neither FLANNEL_SUBNET nor FLANNEL_IPV6_SUBNET is there"));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_and_the_mtu_are_read() {
        let text = "FLANNEL_NETWORK=10.77.0.0/16\nFLANNEL_SUBNET=10.77.3.1/24\nFLANNEL_IPV6_NETWORK=fd77::/48\n\
                    FLANNEL_IPV6_SUBNET=fd77:0:0:3::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
        assert_eq!(
            SubnetEnv::parse(text).unwrap(),
            SubnetEnv {
                subnet: Some("10.77.3.1/24".parse().unwrap()),
                ipv6_subnet: Some("fd77:0:0:3::1/64".parse().unwrap()),
                mtu: 1450,
            }
        );
    }

    #[test]
    fn one_family_is_enough_and_none_is_refused() {
        let six = SubnetEnv::parse("FLANNEL_IPV6_SUBNET=fd77:0:0:3::1/64\nFLANNEL_MTU=1500\n").unwrap();
        assert_eq!(six.subnet, None);
        assert!(SubnetEnv::parse("FLANNEL_MTU=1500\n").is_err());
    }

    #[test]
    fn a_value_that_is_no_subnet_or_number_is_named() {
        for (text, named) in [
            ("FLANNEL_SUBNET=10.77.3.1\nFLANNEL_MTU=1500\n", "FLANNEL_SUBNET"),
            (
                "FLANNEL_IPV6_SUBNET=10.77.3.1/24\nFLANNEL_MTU=1500\n",
                "FLANNEL_IPV6_SUBNET",
            ),
            ("FLANNEL_SUBNET=10.77.3.1/24\nFLANNEL_MTU=big\n", "FLANNEL_MTU"),
        ] {
            let reason = match SubnetEnv::parse(text).unwrap_err() {
                LabError::Text { reason, .. } => reason,
                other => panic!("{other}"),
            };
            assert!(reason.starts_with(named), "{reason}");
        }
    }
}
