//! A host as flannel in Go leaves it, made with `ip` and `bridge`, and what flannel does when it comes back.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;

use ipnet::IpNet;
use lab::{DaemonOptions, Families, Family, Host, Lab};
use serde_json::Value;

use crate::restart::device;

/// A release of flannel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Release {
    /// With IPv6, and the VNI in leases.
    V0_28,
    /// IPv4 alone, a device whose MAC address is the kernel's choice, no VNI in leases.
    V0_11,
}

impl Release {
    pub(super) fn families(self) -> Families {
        match self {
            Self::V0_28 => Families::Both,
            Self::V0_11 => Families::V4,
        }
    }
}

/// What flannel has on one host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flannel<'a> {
    pub(super) host: &'a Host,
    /// Of its subnet, `10.77.<number>.0/24`.
    pub(super) number: u8,
    pub(super) release: Release,
}

/// An end of a tunnel as a lease says it.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) subnet: IpNet,
    pub(super) mac: String,
    pub(super) public: IpAddr,
}

/// A host that has left the network.
pub(super) fn departed(family: Family) -> End {
    let public = match family {
        Family::V4 => "192.168.77.99",
        Family::V6 => "fd00:77::99",
    };
    End {
        subnet: subnet(family, 199),
        mac: "0e:00:00:00:09:09".into(),
        public: public.parse().unwrap(),
    }
}

fn subnet(family: Family, number: u8) -> IpNet {
    let text = match family {
        Family::V4 => format!("10.77.{number}.0/24"),
        Family::V6 => format!("fd77:0:0:{number}::/64"),
    };
    text.parse().unwrap()
}

impl Flannel<'_> {
    pub(super) fn families(&self) -> impl Iterator<Item = Family> {
        self.release.families().each()
    }

    /// What its lease says, of each family.
    pub(super) fn ends(&self) -> Vec<End> {
        self.families().map(|family| self.end(family)).collect()
    }

    /// What its lease says about one family.
    pub(super) fn end(&self, family: Family) -> End {
        End {
            subnet: subnet(family, self.number),
            mac: self.host.link(device(family)).unwrap().unwrap().mac,
            public: self.host.address(family).unwrap(),
        }
    }

    /// Its first start: devices with their addresses, the lease and `subnet.env`.
    pub(super) fn install(&self, lab: &Lab) {
        let mut batch = String::new();
        for family in self.families() {
            let (name, local) = (device(family), self.host.address(family).unwrap());
            let own = match (self.release, family) {
                (Release::V0_11, _) => String::new(),
                (_, Family::V4) => format!("address 0e:00:00:00:04:{:02x} mtu 1450", self.number),
                (_, Family::V6) => format!("address 0e:00:00:00:06:{:02x} mtu 1430", self.number),
            };
            let base = IpNet::from(subnet(family, self.number).addr());
            let _ = write!(
                batch,
                "link add {name} txqueuelen 0 {own} type vxlan id 1 dev eth0 local {local} dstport 8472 nolearning\n\
                 addr add {base} dev {name}\nlink set {name} up\n"
            );
        }
        self.ip(&batch);
        if self.release == Release::V0_28 {
            for family in self.families() {
                let switch = format!("net/ipv6/conf/{}/accept_ra=0", device(family));
                self.host.exec(&["sysctl", "-qw", &switch]).unwrap();
            }
        }
        self.put_lease(lab);
        self.write_subnet_env();
    }

    /// Writes its lease, as each of its starts does.
    pub(super) fn put_lease(&self, lab: &Lab) {
        let data = |family| {
            let mac = self.end(family).mac;
            match self.release {
                Release::V0_28 => format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#),
                Release::V0_11 => format!(r#"{{"VtepMAC":"{mac}"}}"#),
            }
        };
        let (v4, data_v4) = (self.end(Family::V4).public, data(Family::V4));
        let value = match self.release {
            Release::V0_11 => {
                format!(r#"{{"PublicIP":"{v4}","BackendType":"vxlan","BackendData":{data_v4}}}"#)
            }
            Release::V0_28 => {
                let (v6, data_v6) = (self.end(Family::V6).public, data(Family::V6));
                format!(
                    r#"{{"PublicIP":"{v4}","PublicIPv6":"{v6}","BackendType":"vxlan","BackendData":{data_v4},"BackendV6Data":{data_v6}}}"#
                )
            }
        };
        lab.put_lease(&self.key(), &value).unwrap();
    }

    /// The name of its lease.
    pub(super) fn key(&self) -> String {
        let parts: Vec<String> = self
            .families()
            .map(|family| subnet(family, self.number).to_string().replace('/', "-"))
            .collect();
        parts.join("&")
    }

    fn write_subnet_env(&self) {
        let number = self.number;
        let mut text = format!("FLANNEL_NETWORK=10.77.0.0/16\nFLANNEL_SUBNET=10.77.{number}.1/24\n");
        if self.release == Release::V0_28 {
            let _ = write!(
                text,
                "FLANNEL_IPV6_NETWORK=fd77::/48\nFLANNEL_IPV6_SUBNET=fd77:0:0:{number}::1/64\n"
            );
        }
        text += "FLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";
        let path = self.host.subnet_env_path(DaemonOptions::INSTANCE);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Does what it does for each lease that it sees: a neighbour, an FDB entry and a route, each created or replaced.
    pub(super) fn programs(&self, peers: &[End]) {
        let mut batch = String::new();
        for End { subnet, mac, public } in peers {
            let (name, base) = (device(Family::of(*public)), subnet.addr());
            let _ = write!(
                batch,
                "neigh replace {base} lladdr {mac} dev {name} nud permanent\n\
                 route replace {subnet} via {base} dev {name} onlink\n"
            );
            let entry = format!("bridge fdb replace {mac} dev {name} dst {public} self permanent");
            self.host.exec(&entry.split(' ').collect::<Vec<_>>()).unwrap();
        }
        self.ip(&batch);
    }

    fn ip(&self, batch: &str) {
        self.host.feed(&["ip", "-batch", "-"], batch).unwrap();
    }

    /// What its next start has against the device that it finds: it compares type, VNI, link, source address, group,
    /// `l2miss`, port and `gbp` (`vxlanLinksIncompat`), and would make another if it found anything.
    pub(super) fn finds_incompatible(&self, family: Family) -> Vec<String> {
        let name = device(family);
        let json = self.host.ip(&["-d", "-j", "link", "show", "dev", name]).unwrap();
        let link: Value = serde_json::from_str(&json).unwrap();
        let (link, info) = (&link[0], &link[0]["linkinfo"]);
        let data = &info["info_data"];
        let local = if family == Family::V4 { "local" } else { "local6" };
        let wanted = [
            ("kind", &info["info_kind"], Value::from("vxlan")),
            ("id", &data["id"], Value::from(1)),
            ("link", &data["link"], Value::from("eth0")),
            (
                "local",
                &data[local],
                self.host.address(family).unwrap().to_string().into(),
            ),
            ("group", &data["group"], Value::Null),
            ("group6", &data["group6"], Value::Null),
            ("l2miss", &data["l2miss"], Value::Null),
            ("port", &data["port"], Value::from(8472)),
            ("gbp", &data["gbp"], Value::Null),
        ];
        let differing = wanted.into_iter().filter(|(_, is, ought)| *is != ought);
        differing
            .map(|(what, is, ought)| format!("{what}: {is} vs {ought} of {link}"))
            .collect()
    }
}
