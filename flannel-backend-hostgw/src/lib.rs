#![doc = include_str!("../README.md")]

use std::net::IpAddr;
use std::sync::Arc;

use flannel_core::{
    Backend, BackendError, Context, DataPlane, Desired, Family, Hop, Host, Lease, NetworkConfig, Published,
    Route, Skip,
};

/// The name in the network config and in leases.
const KIND: &str = "host-gw";

/// Plain routes: to every peer's subnet via the peer itself. Nothing is wrapped, and so the hosts
/// have to stand on one network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostGw;

impl Backend for HostGw {
    fn kind(&self) -> &'static str {
        KIND
    }

    /// There are no options.
    fn configure(&self, _config: &NetworkConfig) -> Result<Arc<dyn DataPlane>, BackendError> {
        Ok(Arc::new(*self))
    }
}

impl DataPlane for HostGw {
    /// That of the uplink: packets travel as they are.
    fn mtu(&self, host: &Host) -> u32 {
        host.uplink.mtu
    }

    /// Nothing beside the addresses. Refuses to work where peers would send to an address that is
    /// not the device's own, in either family.
    fn publish(&self, host: &Host, _before: Option<&Lease>) -> Result<Published, BackendError> {
        let uplink = &host.uplink;
        for (family, address) in uplink.addresses.iter() {
            let public = uplink.public.get(family).unwrap_or(address);
            if public != address {
                return Err(BackendError {
                    backend: KIND,
                    problem: behind_nat(host, family, *public, *address),
                });
            }
        }
        Ok(Published::default())
    }

    /// One route per family to the peer's subnet. A peer that lacks an address in one of them is
    /// left out altogether.
    fn peer(&self, context: &Context<'_>, peer: &Lease, out: &mut Desired) -> Result<(), Skip> {
        let mut routes = Vec::new();
        for family in context.families() {
            let Some(subnet) = peer.subnet.net(family) else {
                continue;
            };
            let gateway = peer.attrs.public.get(family);
            let gateway = gateway.ok_or_else(|| {
                Skip(format!(
                    "it has no public {family} address by which {subnet} could be reached"
                ))
            })?;
            let hop = Hop::via(*gateway, context.host.uplink.device);
            routes.push(Route::unicast(subnet, hop, context.protocol));
        }
        if routes.is_empty() {
            let families: Vec<String> = context.families().map(|family| family.to_string()).collect();
            return Err(Skip(format!("it has no {} subnet", families.join(" or "))));
        }
        routes.into_iter().for_each(|route| out.insert(route));
        Ok(())
    }
}

fn behind_nat(host: &Host, family: Family, public: IpAddr, own: IpAddr) -> String {
    let flag = match family {
        Family::V4 => "--public-ip",
        Family::V6 => "--public-ipv6",
    };
    format!(
        "your PublicIP differs from interface IP, meaning that probably you're on a NAT, which is not supported \
         by host-gw backend: {flag} is {public}, but {} has {own}; leave out {flag}, give --iface the interface \
         that has {public}, or use the backend vxlan",
        host.uplink.device
    )
}

#[cfg(test)]
mod tests;
