//! In what the tunnels of the two families differ. Everything else is one piece of code.

use flannel_core::{DeviceName, Family};

/// What holds for the tunnel of one family: the family of the pods is that of the hosts, too.
#[derive(Debug)]
pub(crate) struct Tunnel {
    /// The device's name without the VNI.
    prefix: &'static str,
    /// The highest VNI with which the name is no longer than the kernel takes (`IFNAMSIZ`).
    pub(crate) highest_vni: u32,
    /// What a packet grows by, in bytes: the IP header, 8 of UDP, 8 of VXLAN (RFC 7348), 14 of the
    /// inner Ethernet header.
    pub(crate) overhead: u32,
    /// The smallest MTU that is of use, in bytes. IPv6 does not work on a link with less (RFC 8200,
    /// section 5); every IPv4 host takes packets of this size (RFC 791), and programs rely on that.
    /// The kernel would go down to 68.
    pub(crate) least_mtu: u32,
    /// The member of a lease with its data.
    pub(crate) data: &'static str,
}

static V4: Tunnel = Tunnel {
    prefix: "flannel.",
    highest_vni: 9_999_999,
    overhead: 20 + 8 + 8 + 14,
    least_mtu: 576,
    data: "BackendData",
};

static V6: Tunnel = Tunnel {
    prefix: "flannel-v6.",
    highest_vni: 9_999,
    overhead: 40 + 8 + 8 + 14,
    least_mtu: 1280,
    data: "BackendV6Data",
};

impl Tunnel {
    pub(crate) fn of(family: Family) -> &'static Self {
        match family {
            Family::V4 => &V4,
            Family::V6 => &V6,
        }
    }

    /// The name of its device: flannel's.
    pub(crate) fn name(&self, vni: u32) -> String {
        format!("{}{vni}", self.prefix)
    }

    /// The same where it is short enough.
    pub(crate) fn device(&self, vni: u32) -> Option<DeviceName> {
        self.name(vni).parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_vni_is_the_last_whose_device_name_the_kernel_takes() {
        for family in Family::ALL {
            let tunnel = Tunnel::of(family);
            assert!(tunnel.device(tunnel.highest_vni).is_some(), "{family}");
            assert_eq!(tunnel.device(tunnel.highest_vni + 1), None, "{family}");
        }
    }
}
