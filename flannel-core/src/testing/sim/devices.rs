//! What can happen to the devices of a simulated network, drawn by the seed.

use ipnet::IpNet;

use super::Sim;
use crate::{
    Address, Device, DeviceKind, DeviceName, Forwarding, MacAddress, Neighbour, Object, ObjectId, OpErrorKind,
};

/// What somebody's tool gives a device, or a neighbour.
const FOREIGN_MAC: MacAddress = MacAddress([2, 9, 9, 9, 9, 9]);

/// What else may listen on the ports of tunnels.
const HOLDER: &str = "dnsmasq";

impl Sim {
    /// Does one of several things to the devices of a host.
    pub(super) fn disturb(&mut self, fault: usize, host: usize, times: u32) {
        let kernel = self.hosts[host].kernel.clone();
        let devices = self.devices().to_vec();
        let name = devices[self.random.below(devices.len())];
        let device = kernel.device(name.as_str());
        match (fault, device) {
            (0 | 1, Some(_)) => kernel.delete_link(name.as_str()),
            (2 | 3, Some(device)) => self.bend(host, device),
            (4 | 5, Some(_)) => self.meddle_on(host, name),
            (6, Some(_)) => self.change_addresses(host, name),
            (7, _) => {
                for port in ports(&devices, &kernel) {
                    kernel.take_port(port, HOLDER);
                }
            }
            (8, _) => self.heal_devices(host),
            (9, None) if self.hosts[host].has_uplink => kernel.create_link(name.as_str(), &[]),
            (9, Some(_)) => {
                kernel.fail_object(ObjectId::Device(name), OpErrorKind::Other, times);
                if self.random.below(3) == 0 {
                    self.renumber();
                }
            }
            // There is no such device to do it to.
            _ => {}
        }
    }

    /// Gives every host other devices, live.
    fn renumber(&mut self) {
        self.renumbered = true;
        let config = self.families.config(self.backend.renumbered);
        self.store.put_config(Some(&config));
    }

    /// Ports are free, and nobody else has a device under a name of ours.
    pub(super) fn heal_devices(&mut self, host: usize) {
        let kernel = &self.hosts[host].kernel;
        kernel.free_ports();
        for name in self.devices() {
            let device = kernel.device(name.as_str());
            if device.is_some_and(|device| matches!(device.kind, DeviceKind::Other(_))) {
                kernel.delete_link(name.as_str());
            }
        }
    }

    /// Changes a device by hand.
    fn bend(&mut self, host: usize, mut device: Device) {
        match self.random.below(6) {
            0 => device.mac = FOREIGN_MAC,
            1 => device.mtu = 1300,
            2 => device.up = false,
            3 => device.accepts_advertisements = true,
            choice => {
                if let DeviceKind::Vxlan(vxlan) = &mut device.kind {
                    match choice {
                        4 => vxlan.learning = true,
                        _ => vxlan.port = 4789,
                    }
                }
            }
        }
        let _ = self.hosts[host].kernel.put(device);
    }

    /// Deletes or changes a neighbour or a forwarding entry, or puts one there that is nobody's.
    fn meddle_on(&mut self, host: usize, device: DeviceName) {
        let kernel = self.hosts[host].kernel.clone();
        let on_it = |object: &Object| {
            let of_peers = matches!(object, Object::Neighbour(_) | Object::Forwarding(_));
            of_peers && object.id().device() == Some(device)
        };
        let mut all = kernel.objects(&self.scope());
        all.retain(on_it);
        if all.is_empty() {
            return;
        }
        let object = all[self.random.below(all.len())].clone();
        let _ = match (self.random.below(4), object) {
            (0, object) => kernel.delete(object.id()),
            (1, Object::Neighbour(neighbour)) => {
                kernel.age(neighbour.id);
                Ok(())
            }
            (2, Object::Neighbour(neighbour)) => kernel.put(Neighbour {
                mac: FOREIGN_MAC,
                ..neighbour
            }),
            (1 | 2, Object::Forwarding(entry)) => kernel.put(Forwarding {
                decorated: true,
                ..entry
            }),
            (_, Object::Neighbour(neighbour)) => {
                let mut stray = neighbour;
                stray.id.address = super::SimFamilies::stray_neighbour(stray.id.address.is_ipv6());
                kernel.put(stray)
            }
            (_, Object::Forwarding(entry)) => {
                let mut stray = entry;
                stray.id.mac = FOREIGN_MAC;
                kernel.put(stray)
            }
            (_, object) => kernel.put(object),
        };
    }

    /// Takes an address away, or gives the device one that is somebody else's or nobody's.
    fn change_addresses(&mut self, host: usize, device: DeviceName) {
        let kernel = &self.hosts[host].kernel;
        let own = kernel
            .objects(&self.scope())
            .into_iter()
            .find(|object| matches!(object, Object::Address(address) if address.id.device == device));
        let nets = [
            "198.18.0.1/24",
            "fe80::7/64",
            "10.5.250.7/32",
            "fd05:0:0:fa::7/128",
        ];
        let net: IpNet = nets[self.random.below(nets.len())].parse().expect("an address");
        let _ = match own {
            Some(own) if self.random.below(2) == 0 => kernel.delete(own.id()),
            _ => kernel.put(Address {
                permanent: self.random.below(2) == 0,
                ..Address::permanent(device, net)
            }),
        };
    }
}

/// The ports of a host's tunnels.
fn ports(devices: &[DeviceName], kernel: &crate::testing::FakeKernel) -> Vec<u16> {
    let devices = devices.iter().filter_map(|name| kernel.device(name.as_str()));
    let ports = devices.filter_map(|device| match device.kind {
        DeviceKind::Vxlan(vxlan) => Some(vxlan.port),
        DeviceKind::Other(_) => None,
    });
    ports.collect()
}
