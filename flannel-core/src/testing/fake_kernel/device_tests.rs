//! VXLAN devices, and what is on them.

use std::net::IpAddr;

use futures_util::FutureExt;
use tokio::task::unconstrained;

use super::*;
use crate::{Address, Device, Forwarding, Neighbour, NeighbourId, PROTOCOL_KERNEL, Vxlan};

const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const OTHER_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);
const PEER_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);

fn host() -> FakeKernel {
    FakeKernel::host("eth0", &["192.0.2.1/24", "fd00::1/64"], &[])
}

fn name() -> DeviceName {
    device("flannel.1")
}

fn vxlan(edit: impl FnOnce(&mut Vxlan)) -> Device {
    let mut vxlan = Vxlan {
        local: Some(address_of("192.0.2.1")),
        uplink: Some(device("eth0")),
        ..Vxlan::new(1, 8472)
    };
    edit(&mut vxlan);
    Device {
        name: name(),
        kind: DeviceKind::Vxlan(vxlan),
        mac: MAC,
        mtu: 1450,
        up: true,
        accepts_advertisements: false,
        checksum_offload: None,
    }
}

fn plain() -> Device {
    vxlan(|_| {})
}

/// What a device in the kernel says where nobody asked.
fn seen(device: Device) -> Device {
    Device {
        checksum_offload: Some(true),
        ..device
    }
}

fn address_of(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn own(text: &str) -> Object {
    Address::permanent(name(), text.parse().unwrap()).into()
}

fn neighbour(address: &str, mac: MacAddress) -> Neighbour {
    let id = NeighbourId {
        device: name(),
        address: address_of(address),
    };
    Neighbour { id, mac }
}

fn forwarding(mac: MacAddress, host: &str) -> Forwarding {
    Forwarding::to(name(), mac, address_of(host))
}

fn onlink(destination: &str, gateway: &str) -> Object {
    let hop = Hop {
        onlink: true,
        ..Hop::via(address_of(gateway), name())
    };
    Route::unicast(destination.parse().unwrap(), hop, 70).into()
}

/// What one peer asks for, in both families.
fn peer() -> [Object; 5] {
    [
        forwarding(PEER_MAC, "192.0.2.2").into(),
        neighbour("10.5.2.0", PEER_MAC).into(),
        neighbour("fd05:0:0:2::", PEER_MAC).into(),
        onlink("10.5.2.0/24", "10.5.2.0"),
        onlink("fd05:0:0:2::/64", "fd05:0:0:2::"),
    ]
}

/// A device with an address of each family and one peer.
fn filled() -> FakeKernel {
    let kernel = host();
    kernel.put(plain()).unwrap();
    let all = [own("10.5.1.0/32"), own("fd05:0:0:1::/128")];
    for object in all.into_iter().chain(peer()) {
        kernel.put(object).unwrap();
    }
    kernel
}

fn scope() -> Scope {
    Scope {
        networks: vec!["10.5.0.0/16".parse().unwrap(), "fd05::/48".parse().unwrap()],
        devices: vec![name()],
        underlay: false,
    }
}

fn index(kernel: &FakeKernel) -> u32 {
    kernel.kernel().link(name()).unwrap().index
}

/// What is there, without the device and the kernel's own routes.
fn on_it(kernel: &FakeKernel) -> Vec<String> {
    let objects = kernel
        .objects(&scope())
        .into_iter()
        .filter(|object| match object {
            Object::Device(_) => false,
            Object::Route(route) => route.protocol != PROTOCOL_KERNEL,
            _ => true,
        });
    objects.map(|object| object.to_string()).collect()
}

const ADDRESS_V4: &str = "address 10.5.1.0/32 dev flannel.1";
const ADDRESS_V6: &str = "address fd05:0:0:1::/128 dev flannel.1";
const ENTRY: &str = "fdb 02:00:00:00:00:02 dev flannel.1 dst 192.0.2.2";
const NEIGHBOUR_V4: &str = "neighbour 10.5.2.0 dev flannel.1 lladdr 02:00:00:00:00:02";
const NEIGHBOUR_V6: &str = "neighbour fd05:0:0:2:: dev flannel.1 lladdr 02:00:00:00:00:02";
const ROUTE_V4: &str = "10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink proto 70";
const ROUTE_V6: &str = "fd05:0:0:2::/64 via fd05:0:0:2:: dev flannel.1 onlink proto 70";

async fn failure(kernel: &FakeKernel, op: Op) -> OpError {
    let mut failed = kernel.apply(&[op]).await.unwrap().failed;
    assert_eq!(failed.len(), 1, "{failed:?}");
    failed.remove(0).1
}

async fn done(kernel: &FakeKernel, op: Op) {
    assert_eq!(kernel.apply(&[op]).await.unwrap().failed, []);
}

fn ready(watch: &mut BoxStream<'static, Changed>) -> Vec<Changed> {
    std::iter::from_fn(|| unconstrained(watch.next()).now_or_never().flatten()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_device_shows_up_in_the_dump_and_in_the_facts() {
    let kernel = filled();
    let objects = kernel.dump(&scope()).await.unwrap();
    assert_eq!(objects[0], seen(plain()).into());
    let there = [
        ADDRESS_V4,
        ADDRESS_V6,
        ENTRY,
        NEIGHBOUR_V4,
        NEIGHBOUR_V6,
        ROUTE_V4,
        ROUTE_V6,
    ];
    assert_eq!(on_it(&kernel), there);

    let facts = kernel.facts(&[]).await.unwrap();
    let link = facts.link(&name()).unwrap();
    assert_eq!((link.mac, link.mtu, link.up), (Some(MAC), 1450, true));
    assert_eq!(link.index, index(&kernel));
    let nets: Vec<String> = link.addresses.iter().map(|own| own.net.to_string()).collect();
    assert_eq!(nets, ["10.5.1.0/32", "fd05:0:0:1::/128"]);
    assert_eq!(facts.kernel, Some(RELEASE));

    // Out of scope there is nothing of it.
    let elsewhere = Scope {
        devices: vec![device("flannel.2")],
        ..Scope::default()
    };
    assert_eq!(kernel.dump(&elsewhere).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_name_an_identifier_or_a_port_that_is_taken_is_refused_and_leaves_nothing() {
    let kernel = host();
    kernel.create_link("flannel.1", &[]);
    assert_eq!(
        failure(&kernel, Op::Add(plain().into())).await.kind,
        OpErrorKind::Exists
    );
    let from = seen(plain()).into();
    let replace = Op::Replace {
        from,
        to: plain().into(),
    };
    assert_eq!(
        failure(&kernel, replace).await.kind,
        OpErrorKind::Gone,
        "somebody else's"
    );
    kernel.delete_link("flannel.1");

    let twin = Device {
        name: device("vxlan1"),
        up: false,
        ..plain()
    };
    kernel.put(twin).unwrap();
    let error = failure(&kernel, Op::Add(plain().into())).await;
    assert_eq!(error.kind, OpErrorKind::Exists);
    assert!(error.text.contains("specified VNI already exists"), "{error}");
    kernel.delete_link("vxlan1");

    kernel.take_port(8472, "dnsmasq");
    let error = failure(&kernel, Op::Add(plain().into())).await;
    assert_eq!(error.kind, OpErrorKind::Other);
    assert!(
        error.text.contains("UDP port 8472 is dnsmasq's") && error.text.contains("flannel.1"),
        "{error}"
    );
    assert_eq!(kernel.device("flannel.1"), None);
    kernel.free_port(8472);
    // Another device's, whose packets look otherwise.
    let other = Device {
        name: device("vxlan2"),
        ..vxlan(|vxlan| (vxlan.vni, vxlan.gbp) = (2, true))
    };
    kernel.put(other).unwrap();
    let error = failure(&kernel, Op::Add(plain().into())).await;
    assert!(error.text.contains("UDP port 8472 is vxlan2's"), "{error}");
    kernel.link_down("vxlan2");
    done(&kernel, Op::Add(plain().into())).await;
}

#[tokio::test(start_paused = true)]
async fn a_device_needs_its_uplink_is_cut_to_its_mtu_and_goes_with_it() {
    let kernel = host();
    let missing = vxlan(|vxlan| vxlan.uplink = Some(device("eth9")));
    assert_eq!(
        failure(&kernel, Op::Add(missing.into())).await.kind,
        OpErrorKind::NoDevice
    );
    let large = Device { mtu: 1500, ..plain() };
    let cut = failure(&kernel, Op::Add(large.clone().into())).await;
    assert_eq!(cut.kind, OpErrorKind::Other);
    assert_eq!(kernel.device("flannel.1").unwrap().mtu, 1450);
    let from = kernel.device("flannel.1").unwrap().into();
    let larger = Op::Replace {
        from,
        to: large.into(),
    };
    assert_eq!(failure(&kernel, larger).await.kind, OpErrorKind::Other);
    kernel.change_link("eth0", |link| link.mtu = 1400);
    assert_eq!(kernel.device("flannel.1").unwrap().mtu, 1450, "it stays as it is");

    let mut watch = kernel.watch(&scope()).unwrap();
    kernel.delete_link("eth0");
    assert_eq!(kernel.device("flannel.1"), None);
    assert_eq!(
        ready(&mut watch),
        [Changed::Device(name()), Changed::Down(device("eth0"))]
    );
}

#[tokio::test(start_paused = true)]
async fn what_can_be_changed_in_place_keeps_the_index_and_what_is_on_the_device() {
    let edits: [fn(&mut Device); 6] = [
        |device| device.mtu = 1400,
        |device| device.mac = OTHER_MAC,
        |device| device.accepts_advertisements = true,
        |device| device.checksum_offload = Some(false),
        |device| device.kind = vxlan(|vxlan| vxlan.learning = true).kind,
        |device| device.kind = vxlan(|vxlan| vxlan.local = Some(address_of("192.0.2.9"))).kind,
    ];
    for edit in edits {
        let kernel = filled();
        let (before, all) = (index(&kernel), on_it(&kernel));
        let mut changed = plain();
        edit(&mut changed);
        let from = kernel.device("flannel.1").unwrap().into();
        let to: Object = changed.clone().into();
        done(&kernel, Op::Replace { from, to: to.clone() }).await;
        assert_eq!((index(&kernel), on_it(&kernel)), (before, all));
        let there: Object = kernel.device("flannel.1").unwrap().into();
        assert!(there.satisfies(&to), "{there} is not {to}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_changed_in_place_makes_the_device_anew_with_nothing_on_it() {
    let edits: [fn(&mut Vxlan); 4] = [
        |vxlan| vxlan.vni = 2,
        |vxlan| vxlan.port = 4789,
        |vxlan| vxlan.gbp = true,
        |vxlan| vxlan.local = Some(address_of("fd00::1")),
    ];
    for edit in edits {
        let kernel = filled();
        let before = index(&kernel);
        let to = Device {
            mtu: 1430,
            ..vxlan(edit)
        };
        let from = kernel.device("flannel.1").unwrap().into();
        done(
            &kernel,
            Op::Replace {
                from,
                to: to.clone().into(),
            },
        )
        .await;
        assert!(index(&kernel) > before);
        assert_eq!(kernel.device("flannel.1"), Some(seen(to)));
        assert_eq!(on_it(&kernel), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_goes_down_keeps_its_ipv4_addresses_and_forwarding_entries() {
    let kernel = filled();
    let mut watch = kernel.watch(&scope()).unwrap();
    kernel.change_device("flannel.1", |device| device.up = false);
    assert_eq!(on_it(&kernel), [ADDRESS_V4, ENTRY]);
    let [_, v4, v6, _, route] = peer();
    let connected = ready(&mut watch);
    let expected = [v4, v6, route].map(Changed::Vanished);
    assert!(
        expected.iter().all(|changed| connected.contains(changed)),
        "{connected:?}"
    );
    assert_eq!(connected.last(), Some(&Changed::Device(name())));

    // Nothing leads over it then, but it can be filled.
    let route = onlink("10.5.2.0/24", "10.5.2.0");
    assert_eq!(failure(&kernel, Op::Add(route)).await.kind, OpErrorKind::NoDevice);
    done(&kernel, Op::Add(neighbour("10.5.2.0", PEER_MAC).into())).await;
    kernel.change_device("flannel.1", |device| device.up = true);
    assert_eq!(on_it(&kernel), [ADDRESS_V4, ENTRY, NEIGHBOUR_V4]);

    kernel.change_device("flannel.1", |device| device.up = false);
    kernel.take_port(8472, "dnsmasq");
    let from = kernel.device("flannel.1").unwrap().into();
    let up = Op::Replace {
        from,
        to: plain().into(),
    };
    assert!(failure(&kernel, up).await.text.contains("8472"));
    assert!(!kernel.device("flannel.1").unwrap().up);
}

#[tokio::test(start_paused = true)]
async fn another_mac_address_costs_the_neighbours_and_the_last_ipv4_address_what_is_ipv4() {
    let kernel = filled();
    let mut watch = kernel.watch(&scope()).unwrap();
    kernel.change_device("flannel.1", |device| device.mac = OTHER_MAC);
    assert_eq!(
        on_it(&kernel),
        [ADDRESS_V4, ADDRESS_V6, ENTRY, ROUTE_V4, ROUTE_V6]
    );
    let [_, v4, v6, ..] = peer();
    let expected = [
        Changed::Vanished(v4),
        Changed::Vanished(v6),
        Changed::Device(name()),
    ];
    assert_eq!(ready(&mut watch), expected);

    let kernel = filled();
    kernel.delete(own("10.5.1.0/32").id()).unwrap();
    assert_eq!(on_it(&kernel), [ADDRESS_V6, ENTRY, NEIGHBOUR_V6, ROUTE_V6]);
}

#[tokio::test(start_paused = true)]
async fn a_removed_device_takes_everything_with_it_and_says_so() {
    let kernel = filled();
    let mut watch = kernel.watch(&scope()).unwrap();
    let another = vxlan(|vxlan| vxlan.port = 4789);
    let (remove, replace) = (
        Op::Remove(another.clone().into()),
        Op::Replace {
            from: another.into(),
            to: plain().into(),
        },
    );
    for differs in [remove, replace] {
        assert_eq!(failure(&kernel, differs).await.kind, OpErrorKind::Gone);
    }
    // Settings that have changed since do not make it another.
    done(&kernel, Op::Remove(plain().into())).await;
    assert_eq!(kernel.objects(&scope()), []);
    let events = ready(&mut watch);
    let [entry, v4, v6, _, route] = peer();
    for gone in [entry, v4, v6, route] {
        assert!(events.contains(&Changed::Vanished(gone.clone())), "{gone}");
    }
    assert_eq!(events.last(), Some(&Changed::Device(name())));
    for object in peer() {
        assert_eq!(
            failure(&kernel, Op::Add(object)).await.kind,
            OpErrorKind::NoDevice
        );
    }
    assert_eq!(
        failure(&kernel, Op::Add(own("10.5.1.0/32"))).await.kind,
        OpErrorKind::NoDevice
    );
}

#[tokio::test(start_paused = true)]
async fn an_added_neighbour_or_entry_takes_the_place_of_the_one_that_is_there_and_an_address_does_not() {
    let kernel = filled();
    let mut watch = kernel.watch(&scope()).unwrap();
    let other: Object = neighbour("10.5.2.0", OTHER_MAC).into();
    let moved: Object = forwarding(PEER_MAC, "192.0.2.9").into();
    for object in [&other, &moved] {
        // The second time it is no change.
        done(&kernel, Op::Add(object.clone())).await;
        done(&kernel, Op::Add(object.clone())).await;
        assert!(kernel.objects(&scope()).contains(object), "{object}");
    }
    assert_eq!(
        ready(&mut watch),
        [Changed::Appeared(other), Changed::Appeared(moved)]
    );
    let [entry, v4, ..] = peer();
    for gone in [entry, v4] {
        assert_eq!(failure(&kernel, Op::Remove(gone)).await.kind, OpErrorKind::Gone);
    }
    assert_eq!(
        failure(&kernel, Op::Add(own("10.5.1.0/32"))).await.kind,
        OpErrorKind::Exists
    );
    let far = forwarding(OTHER_MAC, "fd00::2");
    assert_eq!(
        failure(&kernel, Op::Add(far.into())).await.kind,
        OpErrorKind::Other,
        "the other family"
    );
}

#[tokio::test(start_paused = true)]
async fn a_neighbour_that_ages_is_gone_and_can_be_made_permanent_again() {
    let kernel = filled();
    let mut watch = kernel.watch(&scope()).unwrap();
    let ours = neighbour("10.5.2.0", PEER_MAC);
    kernel.age(ours.id);
    let id = ObjectId::Neighbour(ours.id);
    assert_eq!(ready(&mut watch), [Changed::Gone(id)]);
    assert!(!on_it(&kernel).contains(&NEIGHBOUR_V4.to_owned()));
    done(&kernel, Op::Add(ours.into())).await;
    assert_eq!(ready(&mut watch), [Changed::Appeared(ours.into())]);
    assert!(on_it(&kernel).contains(&NEIGHBOUR_V4.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_group_address_has_several_entries_that_are_told_apart() {
    let kernel = filled();
    let zeros = MacAddress([0; 6]);
    for position in 0..2 {
        let mut entry = forwarding(zeros, &format!("192.0.2.{}", 7 + position));
        entry.id.position = position;
        kernel.put(entry).unwrap();
    }
    let shown = |kernel: &FakeKernel| {
        let mut all = on_it(kernel);
        all.retain(|text| text.contains("fdb 00"));
        all
    };
    let first = "fdb 00:00:00:00:00:00 dev flannel.1 dst 192.0.2.7";
    let second = "fdb 00:00:00:00:00:00 dev flannel.1 (1 more before it) dst 192.0.2.8";
    assert_eq!(shown(&kernel), [first, second]);
    kernel
        .delete(ObjectId::Forwarding(forwarding(zeros, "192.0.2.7").id))
        .unwrap();
    assert_eq!(
        shown(&kernel),
        ["fdb 00:00:00:00:00:00 dev flannel.1 dst 192.0.2.8"]
    );
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_to_fail_does_and_the_others_do_not() {
    let kernel = host();
    let entry = forwarding(PEER_MAC, "192.0.2.2");
    kernel.fail_object(ObjectId::Forwarding(entry.id), OpErrorKind::Denied, 1);
    kernel.fail("10.5.0.0/16".parse().unwrap(), OpErrorKind::Unreachable, 2);
    done(&kernel, Op::Add(plain().into())).await;
    let denied = failure(&kernel, Op::Add(entry.into())).await;
    assert_eq!(denied.kind, OpErrorKind::Denied);
    let within = [own("10.5.1.0/32"), neighbour("10.5.2.0", PEER_MAC).into()];
    for object in &within {
        let failed = failure(&kernel, Op::Add(object.clone())).await;
        assert_eq!(failed.kind, OpErrorKind::Unreachable);
    }
    for object in within {
        done(&kernel, Op::Add(object)).await;
    }
    done(&kernel, Op::Add(entry.into())).await;
}

#[tokio::test(start_paused = true)]
async fn the_underlay_is_what_is_on_a_link_and_a_change_of_it_is_told_to_who_asked() {
    let kernel = host();
    let asked = Scope {
        underlay: true,
        ..scope()
    };
    let (mut asking, mut other) = (kernel.watch(&asked).unwrap(), kernel.watch(&scope()).unwrap());
    let hop = Hop::via(address_of("192.0.2.2"), device("eth0"));
    let far = Route::unicast("192.0.2.128/25".parse().unwrap(), hop, 4);
    kernel.put(far.clone()).unwrap();
    assert_eq!(
        (ready(&mut asking), ready(&mut other)),
        (vec![Changed::Host], vec![])
    );
    let underlay = kernel.facts(&[]).await.unwrap().underlay;
    let link = |address: &str| underlay.link_of(address_of(address));
    assert_eq!(link("192.0.2.7"), Some(device("eth0")));
    assert_eq!(link("fd00::7"), Some(device("eth0")));
    assert_eq!(link("192.0.2.200"), None, "behind a gateway");
    assert_eq!(link("198.51.100.1"), None);
    // Inside the network a route is no fact about the host.
    let inside = Route {
        id: crate::RouteId::to("10.5.9.0/24".parse().unwrap()),
        ..far
    };
    kernel.put(inside.clone()).unwrap();
    let appeared = [Changed::Appeared(inside.into())];
    assert_eq!(ready(&mut asking), appeared);
    assert_eq!(ready(&mut other), appeared);
}
