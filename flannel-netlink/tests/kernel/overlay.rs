//! The steps of tests about VXLAN devices.

use std::net::IpAddr;

use flannel_core::{
    Address, Device, DeviceKind, DeviceName, Forwarding, Hop, MacAddress, Neighbour, NeighbourId, Object, Op,
    OpError, Route, RouteProgrammer, Scope, Vxlan,
};

use crate::namespace::{Bench, ip};

pub(crate) fn name() -> DeviceName {
    "flannel.1".parse().unwrap()
}

pub(crate) fn scope() -> Scope {
    Scope {
        networks: vec!["10.5.0.0/16".parse().unwrap(), "fd10:5::/48".parse().unwrap()],
        devices: vec![name()],
        underlay: true,
    }
}

/// A device whose packets leave from this address.
pub(crate) fn device(local: &str) -> Device {
    let vxlan = Vxlan {
        local: local.parse().ok(),
        uplink: Some(Bench::uplink()),
        ..Vxlan::new(1, 8472)
    };
    Device {
        name: name(),
        kind: DeviceKind::Vxlan(vxlan),
        mac: mac(1),
        mtu: 1400,
        up: true,
        accepts_advertisements: false,
        checksum_offload: None,
    }
}

pub(crate) fn with(device: &Device, change: impl FnOnce(&mut Vxlan)) -> Device {
    let mut device = device.clone();
    let DeviceKind::Vxlan(vxlan) = &mut device.kind else {
        panic!("{device}");
    };
    change(vxlan);
    device
}

pub(crate) fn mac(n: u16) -> MacAddress {
    let [high, low] = n.to_be_bytes();
    MacAddress([2, 0, 0, 0, high, low])
}

/// All that is wanted for a peer: its entry, its neighbour and its route.
pub(crate) fn peer(n: u16) -> [Object; 3] {
    let [high, low] = n.to_be_bytes();
    let subnet = IpAddr::from([10, 5, high, low]);
    let id = NeighbourId {
        device: name(),
        address: subnet,
    };
    let hop = Hop {
        onlink: true,
        ..Hop::via(subnet, name())
    };
    [
        Forwarding::to(name(), mac(n), [192, 168, high, low].into()).into(),
        Neighbour { id, mac: mac(n) }.into(),
        Route::unicast(subnet.into(), hop, 70).into(),
    ]
}

pub(crate) fn own_address() -> Object {
    Address::permanent(name(), "10.5.0.0/32".parse().unwrap()).into()
}

impl Bench {
    pub(crate) async fn make(&self, objects: impl IntoIterator<Item = Object>) {
        let plan: Vec<Op> = objects.into_iter().map(Op::Add).collect();
        assert_eq!(self.netlink.apply(&plan).await.unwrap().failed, []);
    }

    pub(crate) async fn replace(&self, from: &Device, to: &Device) {
        let op = Op::Replace {
            from: from.clone().into(),
            to: to.clone().into(),
        };
        assert_eq!(self.netlink.apply(&[op]).await.unwrap().failed, []);
    }

    pub(crate) async fn refusal_of(&self, op: Op) -> OpError {
        let mut failed = self.netlink.apply(&[op]).await.unwrap().failed;
        assert_eq!(failed.len(), 1);
        failed.remove(0).1
    }

    pub(crate) async fn there(&self) -> Vec<Object> {
        self.netlink.dump(&scope()).await.unwrap()
    }

    pub(crate) async fn device(&self) -> Device {
        let there = self.there().await;
        let Some(Object::Device(device)) = there.first() else {
            panic!("{there:?}");
        };
        device.clone()
    }
}

pub(crate) fn index_of(name: &str) -> String {
    let link = ip(&format!("-o link show dev {name}"));
    link.split(':').next().unwrap().to_owned()
}
