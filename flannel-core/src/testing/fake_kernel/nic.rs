//! Network devices, as `drivers/net/vxlan` makes, changes and removes those for VXLAN.

use std::net::IpAddr;

use super::kernel::{Kernel, refused, refused_because};
use crate::{
    Device, DeviceKind, DeviceName, Link, LinkAddress, MacAddress, Neighbour, OpError, OpErrorKind, Vxlan,
};

/// What a VXLAN packet needs beside what it carries, in bytes: the inner Ethernet header, VXLAN, UDP and
/// IPv4 or IPv6.
const HEADERS_V4: u32 = 50;
const HEADERS_V6: u32 = 70;

/// A network device: what all have, and what VXLAN ones have beside that.
#[derive(Debug, Clone)]
pub(super) struct Nic {
    pub(super) link: Link,
    pub(super) kind: DeviceKind,
    pub(super) accepts_advertisements: bool,
    pub(super) checksum_offload: Option<bool>,
}

impl Nic {
    pub(super) fn device(&self) -> Device {
        Device {
            name: self.link.name,
            kind: self.kind.clone(),
            mac: self.link.mac.unwrap_or(MacAddress([0; 6])),
            mtu: self.link.mtu,
            up: self.link.up,
            accepts_advertisements: self.accepts_advertisements,
            checksum_offload: self.checksum_offload,
        }
    }

    pub(super) const fn vxlan(&self) -> Option<&Vxlan> {
        match &self.kind {
            DeviceKind::Vxlan(vxlan) => Some(vxlan),
            DeviceKind::Other(_) => None,
        }
    }

    /// Whether it is the one that was seen before, though settings may have changed since.
    fn is_the_same(&self, seen: &Device) -> bool {
        match (&self.kind, &seen.kind) {
            (DeviceKind::Vxlan(now), DeviceKind::Vxlan(seen)) => (now.vni, now.port) == (seen.vni, seen.port),
            (now, seen) => now == seen,
        }
    }

    /// The same, as asked for: what is not asked for stays.
    fn changed_to(&self, wanted: &Device) -> Self {
        let link = Link {
            mac: Some(wanted.mac),
            mtu: wanted.mtu,
            up: wanted.up,
            ..self.link.clone()
        };
        Self {
            link,
            kind: wanted.kind.clone(),
            accepts_advertisements: wanted.accepts_advertisements,
            checksum_offload: wanted.checksum_offload.or(self.checksum_offload),
        }
    }
}

impl Kernel {
    pub(super) fn nic(&self, name: DeviceName) -> Option<&Nic> {
        self.nics.values().find(|nic| nic.link.name == name)
    }

    /// Makes a device where there is none of its name.
    pub(super) fn make_device(&mut self, wanted: &Device) -> Result<(), OpError> {
        if self.link(wanted.name).is_some() {
            return Err(refused(OpErrorKind::Exists, wanted));
        }
        let DeviceKind::Vxlan(vxlan) = &wanted.kind else {
            return Err(refused_because(
                OpErrorKind::Other,
                wanted,
                "Unknown device type (os error 95)",
            ));
        };
        self.check_vxlan(wanted, vxlan)?;
        // A device that is made is cut to what its uplink can carry, and that is told of.
        let mtu = wanted.mtu.min(self.largest_mtu(vxlan));
        self.last_index += 1;
        let index = self.last_index;
        let link = Link {
            name: wanted.name,
            index,
            mtu,
            up: wanted.up,
            loopback: false,
            mac: Some(wanted.mac),
            strict_reverse_path: false,
            addresses: Vec::new(),
        };
        let nic = Nic {
            link,
            kind: wanted.kind.clone(),
            accepts_advertisements: wanted.accepts_advertisements,
            checksum_offload: wanted.checksum_offload.or(Some(true)),
        };
        self.set_nic(index, Some(nic));
        if mtu < wanted.mtu {
            return Err(refused(OpErrorKind::Other, wanted));
        }
        Ok(())
    }

    /// Turns the device that was seen into another, unless another has its name by now. Neighbours that
    /// go with a MAC address are put back.
    pub(super) fn replace_device(&mut self, seen: &Device, wanted: &Device) -> Result<(), OpError> {
        let nic = self.nic(seen.name);
        if nic.is_some_and(|nic| !nic.is_the_same(seen)) {
            return Err(refused(OpErrorKind::Gone, wanted));
        }
        let in_place = nic.filter(|nic| nic.device().is_remade_for(wanted).is_none());
        let another_mac = in_place.is_some_and(|nic| nic.link.mac != Some(wanted.mac));
        let neighbours = self.link_layer.neighbours();
        let lost: Vec<Neighbour> = neighbours
            .filter(|neighbour| another_mac && neighbour.id.device == wanted.name)
            .collect();
        self.change_device(wanted)?;
        lost.iter()
            .try_for_each(|neighbour| self.put_neighbour(neighbour))
    }

    /// Turns the device of this name into another: in place where that can be done. Makes it where there
    /// is none.
    pub(super) fn change_device(&mut self, wanted: &Device) -> Result<(), OpError> {
        let Some(nic) = self.nic(wanted.name).cloned() else {
            return self.make_device(wanted);
        };
        let (Some(_), DeviceKind::Vxlan(vxlan)) = (nic.vxlan(), &wanted.kind) else {
            return Err(refused(OpErrorKind::Exists, wanted));
        };
        let index = nic.link.index;
        self.check_vxlan(wanted, vxlan)?;
        if nic.device().is_remade_for(wanted).is_some() {
            self.set_nic(index, None);
            return self.make_device(wanted);
        }
        let too_large = wanted.mtu != nic.link.mtu && wanted.mtu > self.largest_mtu(vxlan);
        if too_large || nic.vxlan().is_some_and(|before| is_v6(before) != is_v6(vxlan)) {
            return Err(refused(OpErrorKind::Other, wanted));
        }
        self.set_nic(index, Some(nic.changed_to(wanted)));
        Ok(())
    }

    /// Removes the device that was seen.
    pub(super) fn remove_device(&mut self, device: &Device) -> Result<(), OpError> {
        let found = self.nic(device.name).filter(|nic| nic.is_the_same(device));
        let index = found.map(|nic| nic.link.index);
        let index = index.ok_or_else(|| refused(OpErrorKind::Gone, device))?;
        self.set_nic(index, None);
        Ok(())
    }

    /// The VXLAN devices that go with this one.
    pub(super) fn over(&self, uplink: DeviceName) -> Vec<u32> {
        let over = self.nics.iter().filter(|(_, nic)| {
            let vxlan = nic.vxlan();
            vxlan.is_some_and(|vxlan| vxlan.uplink == Some(uplink))
        });
        over.map(|(index, _)| *index).collect()
    }

    /// What `vxlan_config_validate` checks, and `vxlan_open` where it is to be up.
    fn check_vxlan(&self, wanted: &Device, vxlan: &Vxlan) -> Result<(), OpError> {
        if vxlan.uplink.is_some_and(|uplink| self.link(uplink).is_none()) {
            return Err(refused(OpErrorKind::NoDevice, wanted));
        }
        let others = || {
            let others = self.nics.values().filter(|nic| nic.link.name != wanted.name);
            others.filter_map(|nic| Some((nic, nic.vxlan()?)))
        };
        let same_port = |other: &Vxlan| other.port == vxlan.port && is_v6(other) == is_v6(vxlan);
        let twin = |other: &Vxlan| other.vni == vxlan.vni && other.gbp == vxlan.gbp && same_port(other);
        if vxlan.vni >= 1 << 24 || others().any(|(_, other)| twin(other)) {
            let (kind, words) = if vxlan.vni >= 1 << 24 {
                (
                    OpErrorKind::Other,
                    "Numerical result out of range (os error 34)".to_owned(),
                )
            } else {
                let words = "A VXLAN device with the specified VNI already exists: File exists (os error 17)";
                (OpErrorKind::Exists, words.to_owned())
            };
            return Err(refused_because(kind, wanted, &words));
        }
        if !wanted.up {
            return Ok(());
        }
        let foreign = others().find(|(nic, other)| nic.link.up && same_port(other) && other.gbp != vxlan.gbp);
        let foreign = foreign.map(|(nic, _)| nic.link.name.to_string());
        match self.ports.get(&vxlan.port).cloned().or(foreign) {
            None => Ok(()),
            Some(holder) => Err(refused_because(
                OpErrorKind::Other,
                wanted,
                &format!(
                    "Address already in use (os error 98): UDP port {} is {holder}'s",
                    vxlan.port
                ),
            )),
        }
    }

    /// The longest packet that the uplink leaves room for.
    fn largest_mtu(&self, vxlan: &Vxlan) -> u32 {
        let headers = if is_v6(vxlan) { HEADERS_V6 } else { HEADERS_V4 };
        let uplink = vxlan.uplink.and_then(|uplink| self.link(uplink));
        uplink.map_or(u32::MAX, |uplink| uplink.mtu.saturating_sub(headers))
    }
}

impl Kernel {
    /// Gives a device an address; `replace`: whether it may have it already.
    pub(super) fn put_address(&mut self, address: &crate::Address, replace: bool) -> Result<(), OpError> {
        let Some(mut nic) = self.nic(address.id.device).cloned() else {
            return Err(refused(OpErrorKind::NoDevice, address));
        };
        let addresses = &mut nic.link.addresses;
        match addresses.iter_mut().find(|own| own.net == address.id.net) {
            Some(_) if !replace => return Err(refused(OpErrorKind::Exists, address)),
            Some(own) => own.permanent = address.permanent,
            None => addresses.push(LinkAddress {
                net: address.id.net,
                unusable: false,
                permanent: address.permanent,
                temporary: false,
            }),
        }
        self.set_nic(nic.link.index, Some(nic));
        Ok(())
    }

    /// Takes an address away that is like this one in every field.
    pub(super) fn remove_address(&mut self, address: &crate::Address) -> Result<(), OpError> {
        let gone = || refused(OpErrorKind::Gone, address);
        let mut nic = self.nic(address.id.device).cloned().ok_or_else(gone)?;
        let is_it = |own: &LinkAddress| own.net == address.id.net && own.permanent == address.permanent;
        let before = nic.link.addresses.len();
        nic.link.addresses.retain(|own| !is_it(own));
        if nic.link.addresses.len() == before {
            return Err(gone());
        }
        self.set_nic(nic.link.index, Some(nic));
        Ok(())
    }
}

/// Whether its packets travel over IPv6.
pub(super) fn is_v6(vxlan: &Vxlan) -> bool {
    matches!(vxlan.local, Some(IpAddr::V6(_)))
}
