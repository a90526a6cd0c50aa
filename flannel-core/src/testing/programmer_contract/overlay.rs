//! The steps of which the clauses about devices are made.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::steps::{Events, apply};
use super::{ProgrammerHarness, network, subnet};
use crate::{
    Address, AddressId, Applied, Changed, DEFAULT_PROTOCOL, Device, DeviceKind, DeviceName, Family,
    Forwarding, Hop, MacAddress, Neighbour, NeighbourId, Object, Op, PROTOCOL_KERNEL, Route, Scope, Vxlan,
};

/// How long the kernel may take to do what follows from a change.
const PATIENCE: Duration = Duration::from_secs(10);

/// So often is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The device of the suite.
pub(super) fn name() -> DeviceName {
    "flannel.4242".parse().expect("a device name")
}

/// Another one.
pub(super) fn other_name() -> DeviceName {
    "flannel.4243".parse().expect("a device name")
}

/// A VXLAN device over the uplink whose packets travel over this family.
pub(super) fn device(harness: &dyn ProgrammerHarness, under: Family) -> Device {
    let vxlan = Vxlan {
        local: Some(harness.gateway(under, 0)),
        uplink: Some(harness.uplink()),
        ..Vxlan::new(4242, 8472)
    };
    Device {
        name: name(),
        kind: DeviceKind::Vxlan(vxlan),
        mac: mac(0),
        mtu: 1400,
        up: true,
        accepts_advertisements: false,
        checksum_offload: None,
    }
}

/// The same device with other VXLAN settings.
pub(super) fn with(device: &Device, edit: impl FnOnce(&mut Vxlan)) -> Device {
    let mut device = device.clone();
    if let DeviceKind::Vxlan(vxlan) = &mut device.kind {
        edit(vxlan);
    }
    device
}

/// The `n`th MAC address.
pub(super) fn mac(n: u16) -> MacAddress {
    let [high, low] = n.to_be_bytes();
    MacAddress([2, 0, 0, 42, high, low])
}

/// The device's own address in a family.
pub(super) fn own(family: Family) -> Address {
    let net = subnet(family, 0).addr();
    Address::permanent(name(), IpNet::from(net))
}

/// The neighbour of the `n`th peer in a family.
pub(super) fn neighbour(family: Family, n: u16, mac: MacAddress) -> Neighbour {
    let id = NeighbourId {
        device: name(),
        address: subnet(family, n).addr(),
    };
    Neighbour { id, mac }
}

/// The `n`th peer's entry: it is the host of that number, or another.
pub(super) fn entry(harness: &dyn ProgrammerHarness, under: Family, n: u16, host: u8) -> Forwarding {
    Forwarding::to(name(), mac(n), harness.gateway(under, host))
}

/// The route to the `n`th peer.
pub(super) fn onlink(family: Family, n: u16) -> Route {
    let hop = Hop {
        onlink: true,
        ..Hop::via(subnet(family, n).addr(), name())
    };
    Route::unicast(subnet(family, n), hop, DEFAULT_PROTOCOL)
}

/// All that the `n`th peer asks for.
pub(super) fn peer(harness: &dyn ProgrammerHarness, under: Family, n: u16) -> Vec<Object> {
    let [_, host] = (n % 100).to_be_bytes();
    let mut all = vec![entry(harness, under, n, host).into()];
    for family in Family::ALL {
        all.push(neighbour(family, n, mac(n)).into());
        all.push(onlink(family, n).into());
    }
    all.sort_by_key(Object::id);
    all
}

/// A device, its addresses and one peer, in the order of their creation.
pub(super) fn all_kinds(harness: &dyn ProgrammerHarness, under: Family) -> Vec<Object> {
    let mut all = vec![device(harness, under).into()];
    all.extend(Family::ALL.map(|family| own(family).into()));
    all.extend(peer(harness, under, 1));
    all
}

/// Makes that.
pub(super) async fn make(harness: &dyn ProgrammerHarness, under: Family) -> Vec<Object> {
    let all = all_kinds(harness, under);
    add_all(harness, &all).await;
    all
}

pub(super) async fn add_all(harness: &dyn ProgrammerHarness, objects: &[Object]) {
    let plan: Vec<Op> = objects.iter().cloned().map(Op::Add).collect();
    assert_eq!(apply(harness, &plan).await, Applied::default());
}

/// Has the programmer turn the device, as it is dumped, into this one.
pub(super) async fn turn_into(harness: &dyn ProgrammerHarness, wanted: &Device) {
    let from = dump(harness).await.into_iter().find(|object| {
        // The device of another name is nobody's.
        matches!(object, Object::Device(device) if device.name == wanted.name)
    });
    let op = Op::Replace {
        from: from.expect("the device is there"),
        to: wanted.clone().into(),
    };
    assert_eq!(apply(harness, &[op]).await, Applied::default());
}

/// Everything in scope, but for what the kernel makes by itself.
pub(super) async fn dump(harness: &dyn ProgrammerHarness) -> Vec<Object> {
    let dump = harness.programmer().dump(&scope()).await;
    let mut all = dump.expect("a whole dump");
    all.retain(|object| match object {
        Object::Route(route) => route.protocol != PROTOCOL_KERNEL,
        Object::Address(Address {
            id: AddressId { net, .. },
            ..
        }) => !matches!(net.addr(), IpAddr::V6(v6) if v6.is_unicast_link_local()),
        _ => true,
    });
    all.sort_by_key(Object::id);
    all
}

/// Everything in scope is as wanted, and nothing else is there.
pub(super) async fn assert_is(harness: &dyn ProgrammerHarness, want: &[Object]) {
    let mut want = want.to_vec();
    want.sort_by_key(Object::id);
    let there = dump(harness).await;
    let fits = there.len() == want.len() && there.iter().zip(&want).all(|(is, want)| is.satisfies(want));
    assert!(
        fits,
        "there is:\n{}\nand ought to be:\n{}",
        lines(&there),
        lines(&want)
    );
}

/// Everything in scope comes to be as wanted.
pub(super) async fn assert_becomes(harness: &dyn ProgrammerHarness, want: &[Object]) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while dump(harness).await.len() != want.len() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    assert_is(harness, want).await;
}

fn lines(objects: &[Object]) -> String {
    let lines: Vec<String> = objects.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

pub(super) fn scope() -> Scope {
    Scope {
        networks: Family::ALL.map(network).to_vec(),
        devices: vec![name()],
        underlay: false,
    }
}

impl Events {
    /// What happens in the network and to the device.
    pub(super) fn of_overlay(harness: &dyn ProgrammerHarness) -> Self {
        Self::in_scope(harness, &scope())
    }

    /// Reads until it is said that the device is to be looked at.
    pub(super) async fn until_device(&mut self) {
        while self.next().await != Changed::Device(name()) {}
    }

    /// What was announced before a route that is made now, but for devices and facts about the host.
    pub(super) async fn objects_until_fence(&mut self, harness: &dyn ProgrammerHarness) -> Vec<Changed> {
        let mut seen = self.until_fence(harness, Family::V4).await;
        seen.retain(|event| match event {
            Changed::Device(_) => false,
            // The kernel makes some for every address.
            Changed::Appeared(Object::Route(route)) | Changed::Vanished(Object::Route(route)) => {
                route.protocol != PROTOCOL_KERNEL
            }
            _ => true,
        });
        seen
    }
}
