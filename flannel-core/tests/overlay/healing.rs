//! What somebody else does to our devices is undone.

use std::time::Duration;

use flannel_core::testing::FakeKernel;
use flannel_core::{
    Address, Device, DeviceKind, Family, Forwarding, Hop, Hops, MacAddress, Neighbour, NeighbourId, Object,
    ObjectId, PROTOCOL_BOOT, Route, RouteId,
};

use crate::fixture::{Host, MOMENT, about, scope};

/// Routes, neighbours, forwarding entries and the device's state.
const SOON: Duration = Duration::from_secs(1);

/// What an operator's tool gives a device.
const FOREIGN_MAC: MacAddress = MacAddress([2, 9, 9, 9, 9, 9]);

/// A device that has to be made anew.
const ANEW: Duration = Duration::from_secs(2);

fn neighbour(device: &str, address: &str) -> NeighbourId {
    NeighbourId {
        device: device.parse().unwrap(),
        address: address.parse().unwrap(),
    }
}

/// The forwarding entry of the `n`th peer.
fn entry(device: &str, n: u8) -> Forwarding {
    let host = format!("198.51.100.{n}").parse().unwrap();
    Forwarding::to(device.parse().unwrap(), MacAddress([2, 0, 0, 0, 0, n]), host)
}

/// The route to a peer.
fn route(kernel: &FakeKernel) -> Option<Route> {
    let id = RouteId::to("10.5.7.0/24".parse().unwrap());
    kernel.routes().into_iter().find(|route| route.id == id)
}

fn address(device: &str, net: &str) -> Address {
    Address::permanent(device.parse().unwrap(), net.parse().unwrap())
}

/// What somebody does to a kernel; `None` where there is nothing to do it to.
type Act = fn(&FakeKernel) -> Option<()>;

/// What somebody does, and how long it may take until that is undone.
const DEEDS: &[(&str, Duration, Act)] = &[
    ("the device is deleted", ANEW, |kernel| {
        delete_device(kernel, "flannel.1")
    }),
    ("both devices are deleted", ANEW, |kernel| {
        delete_device(kernel, "flannel.1")?;
        delete_device(kernel, "flannel-v6.1")
    }),
    ("another device is made under its name", ANEW, |kernel| {
        let mut device = kernel.device("flannel.1")?;
        delete_device(kernel, "flannel.1")?;
        if let DeviceKind::Vxlan(vxlan) = &mut device.kind {
            vxlan.port = 4789;
        }
        device.mac = FOREIGN_MAC;
        kernel.put(device).ok()
    }),
    ("its MAC address is changed", SOON, |kernel| {
        change(kernel, "flannel.1", |device| device.mac = FOREIGN_MAC)
    }),
    ("its MTU is changed", SOON, |kernel| {
        change(kernel, "flannel.1", |device| device.mtu = 1300)
    }),
    ("it is taken down", SOON, |kernel| {
        change(kernel, "flannel.1", |device| device.up = false)
    }),
    (
        "the other one is taken down with another MAC address",
        SOON,
        |kernel| {
            change(kernel, "flannel-v6.1", |device| {
                device.up = false;
                device.mac = FOREIGN_MAC;
            })
        },
    ),
    ("it learns, and sends from elsewhere", SOON, |kernel| {
        change(kernel, "flannel.1", |device| {
            if let DeviceKind::Vxlan(vxlan) = &mut device.kind {
                vxlan.learning = true;
                vxlan.local = Some("192.0.2.77".parse().unwrap());
            }
        })
    }),
    ("it takes advertisements", SOON, |kernel| {
        change(kernel, "flannel.1", |device| device.accepts_advertisements = true)
    }),
    ("its address is removed", SOON, |kernel| {
        kernel.delete(own_address(kernel, Family::V4)?).ok()
    }),
    ("the address of the other one is removed", SOON, |kernel| {
        kernel.delete(own_address(kernel, Family::V6)?).ok()
    }),
    (
        "an address of our network that is not ours is added",
        SOON,
        |kernel| kernel.put(address("flannel.1", "10.5.77.1/32")).ok(),
    ),
    ("a neighbour is deleted", SOON, |kernel| {
        let id = neighbour("flannel.1", "10.5.7.0");
        kernel.delete(ObjectId::Neighbour(id)).ok()
    }),
    ("a neighbour is given another MAC address", SOON, |kernel| {
        let id = neighbour("flannel-v6.1", "fd05:0:0:8::");
        kernel.put(Neighbour { id, mac: FOREIGN_MAC }).ok()
    }),
    ("a neighbour ages", SOON, |kernel| {
        let id = neighbour("flannel.1", "10.5.9.0");
        let there = |object: &Object| object.id() == ObjectId::Neighbour(id);
        kernel.objects(&scope()).iter().find(|object| there(object))?;
        kernel.age(id);
        Some(())
    }),
    ("a neighbour comes that is nobody's", SOON, |kernel| {
        let id = neighbour("flannel.1", "10.5.99.0");
        let mac = MacAddress([2, 0, 0, 0, 0, 7]);
        kernel.put(Neighbour { id, mac }).ok()
    }),
    ("a forwarding entry is deleted", SOON, |kernel| {
        kernel.delete(ObjectId::Forwarding(entry("flannel.1", 7).id)).ok()
    }),
    ("a forwarding entry leads elsewhere", SOON, |kernel| {
        let host = "198.51.100.99".parse().ok();
        kernel
            .put(Forwarding {
                host,
                ..entry("flannel.1", 8)
            })
            .ok()
    }),
    ("a forwarding entry gets a port of its own", SOON, |kernel| {
        kernel
            .put(Forwarding {
                decorated: true,
                ..entry("flannel.1", 8)
            })
            .ok()
    }),
    ("everything unknown is sent to two hosts", SOON, |kernel| {
        for position in 0..2 {
            let mut entry = entry("flannel.1", 7);
            entry.id.mac = MacAddress([0; 6]);
            entry.id.position = position;
            kernel.put(entry).ok()?;
        }
        Some(())
    }),
    ("a route is deleted", SOON, |kernel| {
        kernel.delete(ObjectId::Route(route(kernel)?.id)).ok()
    }),
    ("a route leads elsewhere, as flannel writes it", SOON, |kernel| {
        let hop = Hop::via("192.0.2.66".parse().unwrap(), "eth0".parse().unwrap());
        let elsewhere = Route {
            protocol: PROTOCOL_BOOT,
            hops: Hops::One(hop),
            ..route(kernel)?
        };
        kernel.put(elsewhere).ok()
    }),
    ("a route leads to a peer that is not there", SOON, |kernel| {
        let hop = Hop {
            onlink: true,
            ..Hop::via("10.5.99.0".parse().unwrap(), "flannel.1".parse().unwrap())
        };
        let nowhere = Route::unicast("10.5.99.0/24".parse().unwrap(), hop, PROTOCOL_BOOT);
        kernel.put(nowhere).ok()
    }),
    ("all routes are flushed", SOON, |kernel| {
        kernel.flush();
        Some(())
    }),
    ("the uplink is deleted and made again", ANEW, |kernel| {
        kernel.delete_link("eth0");
        make_uplink(kernel);
        Some(())
    }),
];

fn delete_device(kernel: &FakeKernel, name: &str) -> Option<()> {
    kernel.device(name)?;
    kernel.delete_link(name);
    Some(())
}

fn change(kernel: &FakeKernel, name: &str, edit: fn(&mut Device)) -> Option<()> {
    let mut device = kernel.device(name)?;
    edit(&mut device);
    kernel.put(device).ok()
}

fn make_uplink(kernel: &FakeKernel) {
    kernel.create_link("eth0", &["192.0.2.1/24", "2001:db8::1/64"]);
    add_default_routes(kernel);
}

fn add_default_routes(kernel: &FakeKernel) {
    for gateway in ["192.0.2.254", "2001:db8::fe"] {
        kernel.add_default_route(gateway, "eth0");
    }
}

fn own_address(kernel: &FakeKernel, family: Family) -> Option<ObjectId> {
    let objects = kernel.objects(&scope());
    let mut own = objects.iter().filter_map(|object| match object {
        Object::Address(address) if Family::of_net(address.id.net) == family => Some(object.id()),
        _ => None,
    });
    own.next()
}

#[tokio::test(start_paused = true)]
async fn whatever_is_done_to_the_devices_is_undone_within_a_second_and_no_peer_has_to_know() {
    let host = Host::ready().await;
    let (before, writes) = (host.picture(), host.store.writes());
    for (deed, within, act) in DEEDS {
        act(&host.kernel).expect("something to do it to");
        assert_ne!(host.picture(), before, "{deed}: nothing was done");
        let took = host.until(deed, |host| host.picture() == before).await;
        assert!(took <= *within, "{deed}: undone after {took:?}");
        // Nothing follows that would change it again; and it is no fight.
        tokio::time::sleep(3 * MOMENT).await;
        host.kernel.clear_log();
        assert_eq!(host.picture(), before, "{deed}");
        let status = host.engine.status();
        assert!(
            status.is_ready() && status.peers.installed == 3,
            "{deed}: {status:#?}"
        );
    }
    assert_eq!(host.store.writes(), writes, "the lease was written");
    assert_eq!(host.reasons(), []);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_announces_is_undone_at_the_next_look() {
    let host = Host::ready().await;
    let before = host.picture();
    for (deed, _, act) in DEEDS {
        host.kernel.mute();
        act(&host.kernel).expect("something to do it to");
        host.kernel.unmute();
        let took = host.until(deed, |host| host.picture() == before).await;
        assert!(took <= Duration::from_secs(21), "{deed}: undone after {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn deeds_that_come_one_upon_the_other_are_all_undone() {
    let host = Host::ready().await;
    let before = host.picture();
    // Every deed with every other, in both orders, so far as the second can still be done.
    for (first, _, act) in DEEDS {
        for (second, _, then) in DEEDS {
            act(&host.kernel);
            then(&host.kernel);
            let what = format!("{first}, and then: {second}");
            let took = host.until(&what, |host| host.picture() == before).await;
            assert!(took <= Duration::from_secs(2), "{what}: undone after {took:?}");
            tokio::time::sleep(MOMENT).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_put_on_the_device_by_others_stays() {
    let host = Host::ready().await;
    let mut passing = address("flannel.1", "198.18.0.1/24");
    passing.permanent = false;
    let lasting = address("flannel.1", "169.254.7.7/16");
    let link_local = address("flannel-v6.1", "fe80::7/64");
    for foreign in [passing, lasting, link_local] {
        host.kernel.put(foreign).unwrap();
    }
    let id = neighbour("flannel.1", "198.18.0.7");
    let foreign = Neighbour { id, mac: FOREIGN_MAC };
    host.kernel.put(foreign).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    host.engine.audit();
    tokio::time::sleep(MOMENT).await;
    let picture = host.picture();
    for kept in [
        "198.18.0.1/24 dev flannel.1 dynamic",
        "169.254.7.7/16",
        "fe80::7/64",
        "neighbour 198.18.0.7",
    ] {
        assert_eq!(about(&picture, kept).len(), 1, "{kept}: {picture:#?}");
    }
    let touched = host.kernel.log().into_iter().filter(|entry| {
        let text = entry.op.id().to_string();
        ["198.18.0.", "169.254.7.7", "fe80::7"]
            .iter()
            .any(|foreign| text.contains(foreign))
    });
    assert_eq!(touched.count(), 0);
    assert!(host.engine.status().is_ready());
}

#[tokio::test(start_paused = true)]
async fn an_uplink_that_is_bounced_costs_nothing() {
    let host = Host::ready().await;
    host.kernel.clear_log();
    let (before, writes) = (host.picture(), host.store.writes());
    host.kernel.link_down("eth0");
    tokio::time::sleep(Duration::from_secs(30)).await;
    host.kernel.link_up("eth0");
    add_default_routes(&host.kernel);
    host.has(3).await;
    assert_eq!(host.picture(), before);
    assert_eq!(host.ops(), []);
    assert_eq!(host.store.writes(), writes);
}

#[tokio::test(start_paused = true)]
async fn an_uplink_that_stays_away_is_named_and_everything_is_back_when_it_is() {
    let host = Host::ready().await;
    let before = host.picture();
    host.kernel.delete_link("eth0");
    host.until("a word about it", |host| host.kinds().contains(&"uplink"))
        .await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    make_uplink(&host.kernel);
    let took = host
        .until("the devices and peers", |host| host.picture() == before)
        .await;
    assert!(took <= Duration::from_secs(2), "{took:?}");
    host.has(3).await;
    assert_eq!(host.reasons(), []);
}

#[tokio::test(start_paused = true)]
async fn another_address_or_mtu_of_the_uplink_reaches_the_devices_the_lease_and_subnet_env() {
    let host = Host::ready().await;
    host.kernel.change_link("eth0", |link| link.mtu = 1400);
    host.until("the smaller MTU", |host| {
        let picture = host.picture();
        let of = |device: &str, mtu: &str| {
            let lines = about(&picture, "vxlan id");
            lines
                .iter()
                .any(|line| line.starts_with(device) && line.contains(mtu))
        };
        of("flannel.1 ", "mtu 1350") && of("flannel-v6.1 ", "mtu 1330")
    })
    .await;
    host.kernel
        .set_addresses("eth0", &["192.0.2.44/24", "2001:db8::1/64"]);
    host.until("the other address", |host| {
        let public = host.lease().attrs.public.v4.map(|address| address.to_string());
        public.as_deref() == Some("192.0.2.44") && about(&host.picture(), "local 192.0.2.44").len() == 1
    })
    .await;
    host.kernel.add_default_route("192.0.2.254", "eth0");
    host.has(3).await;
}
