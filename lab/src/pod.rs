//! A pod: a namespace behind its host's bridge, as a CNI plugin wires it.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::ops::Deref;

use crate::program::{command, succeed};
use crate::topology::{NOT_FORWARDING, PLAIN};
use crate::{Host, LabError, Namespace, SubnetEnv};

/// The bridge on each host that its pods are connected to, where [`crate::Options`] say no other.
pub const POD_BRIDGE: &str = "cni0";

/// A pod of a host.
#[derive(Debug)]
pub struct Pod {
    namespace: Namespace,
    addresses: Vec<IpAddr>,
}

impl Pod {
    pub(crate) fn connect(
        host: &Host,
        namespace: Namespace,
        number: usize,
        subnet: &SubnetEnv,
    ) -> Result<Self, LabError> {
        let full = |limit: u128| LabError::TooMany {
            what: "pods",
            wanted: number,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
        };
        let mtu = subnet.mtu;
        let on_host = host.pod_bridge();
        let mut addresses = Vec::new();
        let mut bridge = String::new();
        let mut pod = format!("link set lo up\nlink set eth0 up mtu {mtu}\n");
        // `let _`: writing to a String cannot fail.
        if let Some(net) = subnet.subnet {
            let address =
                u32::from(net.addr()) + u32::try_from(number).unwrap_or(u32::MAX - u32::from(net.addr()));
            if address >= u32::from(net.broadcast()) {
                return Err(full(
                    u128::from(u32::from(net.broadcast()) - u32::from(net.addr())) - 1,
                ));
            }
            let address = std::net::Ipv4Addr::from(address);
            let _ = writeln!(bridge, "addr replace {net} dev {on_host}");
            let _ = writeln!(
                pod,
                "addr add {address}/{} dev eth0\nroute add default via {}",
                net.prefix_len(),
                net.addr()
            );
            addresses.push(address.into());
        }
        if let Some(net) = subnet.ipv6_subnet {
            let address = std::net::Ipv6Addr::from(u128::from(net.addr()) + number as u128);
            if !net.contains(&address) {
                return Err(full(u128::from(net.broadcast()) - u128::from(net.addr())));
            }
            let _ = writeln!(bridge, "addr replace {net} dev {on_host} nodad");
            let _ = writeln!(
                pod,
                "addr add {address}/{} dev eth0 nodad\nroute add default via {}",
                net.prefix_len(),
                net.addr()
            );
            addresses.push(address.into());
        }
        let _ = writeln!(
            bridge,
            "link set {on_host} up mtu {mtu}\n\
             link add veth{number} master {on_host} up mtu {mtu} type veth peer name eth0 netns {}",
            namespace.name()
        );
        succeed(command("ip", ["netns", "add", namespace.name()]), "")?;
        // A fixed address: a bridge otherwise takes the lowest of its ports', and neighbours would go stale.
        let make_bridge = format!(
            "[ -e /sys/class/net/{on_host} ] || \
             ip link add {on_host} address 02:00:00:00:00:01 type bridge mcast_snooping 0"
        );
        host.set_up(&[], &make_bridge, &bridge)?;
        namespace.set_up(&[PLAIN, NOT_FORWARDING].concat(), "", &pod)?;
        Ok(Self { namespace, addresses })
    }

    /// The pod's addresses: IPv4, then IPv6, as its subnet has them.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().copied()
    }
}

impl Deref for Pod {
    type Target = Namespace;
    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

impl AsRef<Namespace> for Pod {
    fn as_ref(&self) -> &Namespace {
        &self.namespace
    }
}
