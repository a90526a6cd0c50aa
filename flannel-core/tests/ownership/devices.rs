//! Devices of ours, and what is on them.

use std::net::IpAddr;

use flannel_core::{
    Address, DEFAULT_PROTOCOL, Device, DeviceKind, DeviceName, Forwarding, Hop, Hops, MacAddress, Neighbour,
    NeighbourId, Object, Owner, Ownership, PROTOCOL_BOOT, Route, RouteId, Vxlan,
};

use crate::{STATIC, net, ours};

const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);

/// The device of the network, and of the one before it.
const OURS: [&str; 2] = ["flannel.1", "flannel.7"];

fn with_devices() -> Ownership {
    let mut ours = ours();
    ours.scope.devices = OURS.map(name).to_vec();
    ours
}

fn name(text: &str) -> DeviceName {
    text.parse().unwrap()
}

fn device(device: &str, kind: DeviceKind) -> Object {
    Device {
        name: name(device),
        kind,
        mac: MAC,
        mtu: 1450,
        up: true,
        accepts_advertisements: false,
        checksum_offload: None,
    }
    .into()
}

fn vxlan() -> DeviceKind {
    DeviceKind::Vxlan(Vxlan::new(1, 8472))
}

fn bridge() -> DeviceKind {
    DeviceKind::Other("bridge".to_owned())
}

fn owner(object: &Object) -> Owner {
    with_devices().owner(object, |_| false)
}

/// A forwarding entry, and a neighbour in our network.
fn entries(device: &str) -> [Object; 2] {
    let host = IpAddr::from([198, 51, 100, 7]);
    let neighbour = neighbour(device, "10.5.7.0");
    [Forwarding::to(name(device), MAC, host).into(), neighbour]
}

fn neighbour(device: &str, address: &str) -> Object {
    let id = NeighbourId {
        device: name(device),
        address: address.parse().unwrap(),
    };
    Neighbour { id, mac: MAC }.into()
}

#[test]
fn a_vxlan_device_of_our_name_is_ours_whatever_it_says_and_anything_else_is_not() {
    for ours in OURS {
        assert_eq!(owner(&device(ours, vxlan())), Owner::Ours);
        let mut odd = Vxlan::new(99, 4789);
        odd.decorated = true;
        assert_eq!(owner(&device(ours, DeviceKind::Vxlan(odd))), Owner::Ours);
        assert_eq!(owner(&device(ours, bridge())), Owner::Foreign);
    }
    assert_eq!(owner(&device("vxlan1", vxlan())), Owner::Foreign);
    assert_eq!(owner(&device("flannel.10", vxlan())), Owner::Foreign);
}

#[test]
fn forwarding_entries_on_our_devices_are_ours_and_so_are_neighbours_in_our_networks() {
    for ours in OURS {
        for object in entries(ours) {
            assert_eq!(owner(&object), Owner::Ours, "{object}");
        }
        for inside in ["10.99.7.0", "fd00:5:0:7::"] {
            assert_eq!(owner(&neighbour(ours, inside)), Owner::Ours, "{inside}");
        }
        for outside in ["203.0.113.7", "10.6.0.1", "fe80::7"] {
            assert_eq!(owner(&neighbour(ours, outside)), Owner::Foreign, "{outside}");
        }
    }
    for object in entries("eth0") {
        assert_eq!(owner(&object), Owner::Foreign, "{object}");
    }
}

#[test]
fn addresses_on_our_devices_are_ours_where_they_lie_in_our_networks() {
    let own = |device, net_of| Address::permanent(name(device), net(net_of)).into();
    for inside in ["10.5.3.0/32", "10.5.3.7/24", "10.99.3.0/32", "fd00:5:0:3::/128"] {
        assert_eq!(owner(&own("flannel.1", inside)), Owner::Ours, "{inside}");
        assert_eq!(owner(&own("cni0", inside)), Owner::Foreign, "{inside}");
    }
    for outside in [
        "198.18.0.1/24",
        "169.254.3.7/16",
        "fe80::1/64",
        "10.5.3.0/8",
        "10.6.0.1/32",
    ] {
        assert_eq!(owner(&own("flannel.1", outside)), Owner::Foreign, "{outside}");
    }
}

#[test]
fn a_boot_route_is_ours_where_it_leads_over_our_devices_alone() {
    let hop = |device: &str| Hop::via(IpAddr::from([10, 5, 8, 0]), name(device));
    let route = |hops: Hops, protocol| Route {
        hops,
        ..Route::unicast(net("10.5.8.0/24"), hop("eth0"), protocol)
    };
    let over = |device| Hops::One(hop(device));
    let many = |devices: [&str; 2]| Hops::Many(devices.map(hop).to_vec());
    for (hops, protocol, expected) in [
        (over("flannel.1"), PROTOCOL_BOOT, Owner::Ours),
        (over("flannel.7"), PROTOCOL_BOOT, Owner::Ours),
        (many(["flannel.1", "flannel.7"]), PROTOCOL_BOOT, Owner::Ours),
        (many(["flannel.1", "eth0"]), PROTOCOL_BOOT, Owner::Foreign),
        (over("eth0"), PROTOCOL_BOOT, Owner::Foreign),
        (Hops::None, PROTOCOL_BOOT, Owner::Foreign),
        (over("flannel.1"), STATIC, Owner::Foreign),
        (over("eth0"), DEFAULT_PROTOCOL, Owner::Ours),
    ] {
        let route = route(hops, protocol);
        assert_eq!(owner(&route.clone().into()), expected, "{route}");
    }
    let outside = Route {
        id: RouteId::to(net("10.6.8.0/24")),
        ..route(over("flannel.1"), PROTOCOL_BOOT)
    };
    assert_eq!(owner(&outside.into()), Owner::Foreign, "outside the network");
}

#[test]
fn what_is_on_a_device_of_somebody_elses_under_our_name_is_somebody_elses() {
    let own = Address::permanent(name("flannel.1"), net("10.5.3.0/32"));
    let hop = Hop::via(IpAddr::from([10, 5, 8, 0]), name("flannel.1"));
    let mut dump = vec![device("flannel.1", bridge()), own.into()];
    dump.extend(entries("flannel.1"));
    dump.push(Route::unicast(net("10.5.8.0/24"), hop, PROTOCOL_BOOT).into());
    let (mine, foreign) = with_devices().split(dump.clone(), |_| false);
    assert!(mine.is_empty(), "{mine:?}");
    assert_eq!(foreign, dump);
    // The other one is ours all the same.
    let mut both = dump.clone();
    let others: Vec<Object> = [device("flannel.7", vxlan())]
        .into_iter()
        .chain(entries("flannel.7"))
        .collect();
    both.extend(others.clone());
    let (mine, foreign) = with_devices().split(both, |_| false);
    assert_eq!(foreign, dump);
    assert_eq!(mine.len(), others.len());
}
