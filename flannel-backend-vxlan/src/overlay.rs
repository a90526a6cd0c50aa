//! From leases to the devices, neighbours, forwarding entries and routes of the tunnel.

use std::net::IpAddr;

use flannel_core::{
    Address, BackendError, Context, DataPlane, Desired, Device, DeviceKind, DeviceName, Family, Forwarding,
    Hop, Host, Lease, MacAddress, Neighbour, NeighbourId, NetworkConfig, Object, PerFamily, Published, Route,
    Skip, Vxlan,
};
use serde_json::value::RawValue;

use crate::data::TunnelEnd;
use crate::failure;
use crate::mac::{data, macs};
use crate::options::Options;
use crate::tunnel::Tunnel;

/// The overlay of one network.
#[derive(Debug)]
pub(crate) struct Overlay {
    options: Options,
    /// One for each family that the network has.
    devices: PerFamily<DeviceName>,
}

impl Overlay {
    pub(crate) fn new(config: &NetworkConfig) -> Result<Self, BackendError> {
        let undecodable =
            |problem: String| failure(format!("error decoding VXLAN backend config: {problem}"));
        let options = Options::read(config).map_err(|error| undecodable(error.to_string()))?;
        let devices = options.devices(config).map_err(undecodable)?;
        Ok(Self { options, devices })
    }

    /// What fits through the network between the hosts: what is promised beyond the uplink's MTU does
    /// not leave this host.
    fn underlay_mtu(&self, host: &Host) -> u32 {
        self.options.mtu.unwrap_or(u32::MAX).min(host.uplink.mtu)
    }

    fn device_mtu(&self, family: Family, host: &Host) -> u32 {
        self.underlay_mtu(host)
            .saturating_sub(Tunnel::of(family).overhead)
    }

    /// Why a device's MTU is of no use.
    fn cramped(&self, family: Family, device: &DeviceName, host: &Host) -> Option<String> {
        let Tunnel {
            overhead, least_mtu, ..
        } = Tunnel::of(family);
        let (mtu, underlay) = (self.device_mtu(family, host), self.underlay_mtu(host));
        let (whose, remedy) = if underlay < host.uplink.mtu {
            ("the option MTU".to_owned(), "or leave it out")
        } else {
            let uplink = format!("the MTU of {}", host.uplink.device);
            (uplink, "or give --iface another interface")
        };
        let enough = least_mtu + overhead;
        (mtu < *least_mtu).then(|| {
            format!(
                "{device} would have an MTU of {mtu}, and {family} needs at least {least_mtu}: {whose} is \
                 {underlay}, of which the tunnel takes {overhead}; make it at least {enough}, {remedy}"
            )
        })
    }

    /// What this host says about its end: as it was written where that says the same.
    fn written(&self, mac: MacAddress, before: Option<&RawValue>) -> Result<Box<RawValue>, BackendError> {
        let end = TunnelEnd::new(self.options.vni, mac);
        match before.filter(|before| TunnelEnd::read(before).as_ref() == Ok(&end)) {
            Some(before) => Ok(before.to_owned()),
            None => end.to_json().map_err(|error| failure(error.to_string())),
        }
    }

    /// Whether a peer is on the uplink's link, and is to be reached without a tunnel.
    fn is_direct(&self, host: &Host, public: IpAddr) -> bool {
        self.options.direct_routing && host.facts.underlay.link_of(public) == Some(host.uplink.device)
    }

    /// How a peer's subnet of one family is reached; `None` if it has none there. `own` is the MAC address
    /// of our device, which no peer may have, however it is reached: next time that may be by the tunnel.
    fn way(
        &self,
        context: &Context<'_>,
        (family, own): (Family, Option<&MacAddress>),
        peer: &Lease,
    ) -> Result<Option<Vec<Object>>, String> {
        let (Some(device), Some(subnet)) = (self.devices.get(family), peer.subnet.net(family)) else {
            return Ok(None);
        };
        let (device, uplink) = (*device, context.host.uplink.device);
        let public =
            *peer.attrs.public.get(family).ok_or_else(|| {
                format!("it has no public {family} address by which {subnet} could be reached")
            })?;
        let end = self.end(family, peer);
        if let Ok(TunnelEnd { mac, .. }) = &end
            && own == Some(mac)
        {
            return Err(format!(
                "its VtepMAC {mac} is that of this host's {device}, as happens when hosts are copied: on one \
                 of them stop flanneld, delete {device}, the lease and the state directory, and start it again"
            ));
        }
        if self.is_direct(context.host, public) {
            let route = Route::unicast(subnet, Hop::via(public, uplink), context.protocol);
            return Ok(Some(vec![route.into()]));
        }
        let mac = end?.mac;
        let address = subnet.network();
        let hop = Hop {
            onlink: true,
            ..Hop::via(address, device)
        };
        Ok(Some(vec![
            Forwarding::to(device, mac, public).into(),
            Neighbour {
                id: NeighbourId { device, address },
                mac,
            }
            .into(),
            Route::unicast(subnet, hop, context.protocol).into(),
        ]))
    }

    /// A peer's end of the tunnel.
    fn end(&self, family: Family, peer: &Lease) -> Result<TunnelEnd, String> {
        let member = Tunnel::of(family).data;
        let data = data(peer, family).ok_or_else(|| format!("it has no {member}, and so no VtepMAC"))?;
        let end = TunnelEnd::read(data).map_err(|error| format!("its {member} is of no use: {error}"))?;
        match end.foreign_vni(self.options.vni) {
            None => Ok(end),
            Some(theirs) => Err(format!(
                "its VNI is {theirs} and this host's is {}, and so neither could read the other's packets: \
                 both need the same network config",
                self.options.vni
            )),
        }
    }
}

impl DataPlane for Overlay {
    fn devices(&self) -> Vec<DeviceName> {
        self.devices.iter().map(|(_, device)| *device).collect()
    }

    /// Where peers on the uplink's link are reached without a tunnel.
    fn follows_underlay(&self) -> bool {
        self.options.direct_routing
    }

    /// The smallest of its devices': pods have one for both families.
    fn mtu(&self, host: &Host) -> u32 {
        let families = self.devices.iter().map(|(family, _)| family);
        let mtus = families.map(|family| self.device_mtu(family, host));
        mtus.min().unwrap_or(host.uplink.mtu)
    }

    /// The VNI and the device's MAC address, per family. Refuses to work where the MTU that is left is of
    /// no use.
    fn publish(&self, host: &Host, before: Option<&Lease>) -> Result<Published, BackendError> {
        let macs = macs(&self.devices, host, before);
        let mut written = PerFamily::NONE;
        for (family, device) in self.devices.iter() {
            if let Some(problem) = self.cramped(family, device, host) {
                return Err(failure(problem));
            }
            if let (Some(mac), Some(_)) = (macs.get(family), host.uplink.addresses.get(family)) {
                let before = before.and_then(|before| data(before, family));
                written.set(family, Some(self.written(*mac, before)?));
            }
        }
        Ok(Published {
            data: written.v4,
            v6_data: written.v6,
        })
    }

    /// A device per family with the first address of our subnet, by which pods elsewhere see this host.
    fn base(&self, context: &Context<'_>, out: &mut Desired) {
        let host = context.host;
        let macs = macs(&self.devices, host, Some(context.own));
        for family in context.families() {
            let (Some(name), Some(mac)) = (self.devices.get(family), macs.get(family)) else {
                continue;
            };
            let vxlan = Vxlan {
                gbp: self.options.gbp,
                learning: self.options.learning,
                // What others see of this host may be on no device of it.
                local: host.uplink.addresses.get(family).copied(),
                uplink: Some(host.uplink.device),
                ..Vxlan::new(self.options.vni, self.options.port)
            };
            out.insert(Device {
                name: *name,
                kind: DeviceKind::Vxlan(vxlan),
                mac: *mac,
                mtu: self.device_mtu(family, host),
                up: true,
                accepts_advertisements: false,
                checksum_offload: self.options.offload.wanted(host.facts.kernel),
            });
            if let Some(subnet) = context.own.subnet.net(family) {
                out.insert(Address::permanent(*name, subnet.network().into()));
            }
        }
    }

    /// Per family either a plain route or, through the tunnel, a route with the neighbour and the
    /// forwarding entry that it needs. A peer that lacks something in one family is left out altogether.
    fn peer(&self, context: &Context<'_>, peer: &Lease, out: &mut Desired) -> Result<(), Skip> {
        let macs = macs(&self.devices, context.host, Some(context.own));
        let mut objects = Vec::new();
        for family in context.families() {
            let way = self
                .way(context, (family, macs.get(family)), peer)
                .map_err(Skip)?;
            objects.extend(way.into_iter().flatten());
        }
        if objects.is_empty() {
            let families: Vec<String> = context.families().map(|family| family.to_string()).collect();
            return Err(Skip(format!("it has no {} subnet", families.join(" or "))));
        }
        objects.into_iter().for_each(|object| out.insert(object));
        Ok(())
    }
}

#[cfg(test)]
#[path = "overlay_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "publish_tests.rs"]
mod publish_tests;
