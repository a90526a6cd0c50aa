//! What is there when an engine starts, and what it makes of that.

use std::time::Duration;

use flannel_core::testing::Cut;
use flannel_core::{
    Address, Device, DeviceKind, Forwarding, Hop, MacAddress, Neighbour, NeighbourId, NodeId, Options,
    PROTOCOL_BOOT, Route, SubnetKey, Vxlan,
};

use crate::fixture::{Host, MOMENT, V4, about, delete, kernel, mac, put, put_peers, store};

const FLANNELS_MAC: MacAddress = MacAddress([0x8e, 0xbc, 0xf1, 0x25, 0x6b, 0xa8]);

/// `flannel.1` as flannel leaves it on a host with 10.5.3.0/24, with these peers.
fn as_flannel_leaves_it(peers: &[u8]) -> flannel_core::testing::FakeKernel {
    let kernel = kernel();
    let name = "flannel.1".parse().unwrap();
    let vxlan = Vxlan {
        local: "192.0.2.1".parse().ok(),
        uplink: "eth0".parse().ok(),
        ..Vxlan::new(1, 8472)
    };
    let device = Device {
        name,
        kind: DeviceKind::Vxlan(vxlan),
        mac: FLANNELS_MAC,
        mtu: 1450,
        up: true,
        accepts_advertisements: false,
        checksum_offload: None,
    };
    kernel.put(device).unwrap();
    kernel
        .put(Address::permanent(name, "10.5.3.0/32".parse().unwrap()))
        .unwrap();
    for n in peers {
        let address = std::net::IpAddr::from([10, 5, *n, 0]);
        let mac = MacAddress([2, 0, 0, 0, 0, *n]);
        let host = std::net::IpAddr::from([198, 51, 100, *n]);
        let id = NeighbourId {
            device: name,
            address,
        };
        let hop = Hop {
            onlink: true,
            ..Hop::via(address, name)
        };
        let net = format!("10.5.{n}.0/24").parse().unwrap();
        kernel.put(Forwarding::to(name, mac, host)).unwrap();
        kernel.put(Neighbour { id, mac }).unwrap();
        kernel.put(Route::unicast(net, hop, PROTOCOL_BOOT)).unwrap();
    }
    kernel
}

/// The lease that flannel on this host has written.
fn put_flannels_lease(store: &flannel_core::testing::FakeStore) {
    store.put_raw(
        "10.5.3.0-24",
        &format!(
            r#"{{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{FLANNELS_MAC}"}}}}"#
        ),
    );
}

fn put_v4_peers(store: &flannel_core::testing::FakeStore, peers: &[u8]) {
    for n in peers {
        store.put_raw(
            &format!("10.5.{n}.0-24"),
            &format!(
                r#"{{"PublicIP":"198.51.100.{n}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{}"}}}}"#,
                mac(*n)
            ),
        );
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_swept_from_the_device_before_the_first_full_list_and_all_that_is_stale_after_it() {
    let store = store(V4);
    put_flannels_lease(&store);
    put_v4_peers(&store, &[7, 8]);
    let kernel = as_flannel_leaves_it(&[7, 8, 9]);
    let client = store.client();
    client.cut(Cut::Hangs);
    let host = Host::start_with(&store, client, &kernel, Options::new(NodeId(1)));
    let before = host.picture();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(host.picture(), before);
    assert!(kernel.log().is_empty());

    host.client.heal();
    host.has(2).await;
    let picture = host.picture();
    assert!(about(&picture, "10.5.9.0").is_empty(), "{picture:#?}");
    assert!(about(&picture, &mac(9)).is_empty(), "{picture:#?}");
    assert!(about(&picture, "proto boot").is_empty(), "{picture:#?}");
    // What was right stays as it is; routes are given our mark.
    let touched = |what: &str| {
        let ops = host.ops();
        ops.iter().filter(|op| op.id().to_string().contains(what)).count()
    };
    assert_eq!(touched(&mac(7)), 0, "{:?}", host.ops());
    assert_eq!(touched("neighbour 10.5.7.0"), 0);
    assert_eq!(touched("device flannel.1"), 0, "{:?}", host.ops());
    assert_eq!(touched("address 10.5.3.0"), 0);
    assert_eq!(touched("10.5.7.0/24"), 1);
}

#[tokio::test(start_paused = true)]
async fn flannels_lease_is_taken_over_with_its_mac_address_whether_or_not_the_device_is_there() {
    for kernel in [kernel(), as_flannel_leaves_it(&[])] {
        let store = store(V4);
        put_flannels_lease(&store);
        let host = Host::start(&store, &kernel, Options::new(NodeId(1)));
        host.has(0).await;
        let lease = host.lease();
        assert_eq!(lease.subnet, "10.5.3.0/24".parse::<SubnetKey>().unwrap());
        assert_eq!(lease.attrs.node, Some(NodeId(1)));
        let data = lease.attrs.backend_data.unwrap();
        assert_eq!(
            data.get(),
            format!(r#"{{"VNI":1,"VtepMAC":"{FLANNELS_MAC}"}}"#),
            "byte for byte"
        );
        assert_eq!(host.device_mac(), Some(FLANNELS_MAC));
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_changes_neither_the_kernel_nor_the_store() {
    let host = Host::ready().await;
    let (store, kernel) = (host.store.clone(), host.kernel.clone());
    host.stop().await;
    let (writes, before) = (store.writes(), crate::fixture::picture(&kernel));
    kernel.clear_log();
    let host = Host::start(&store, &kernel, Options::new(NodeId(1)));
    host.has(3).await;
    assert_eq!(host.picture(), before);
    assert_eq!(host.ops(), []);
    assert_eq!(store.writes(), writes);
}

#[tokio::test(start_paused = true)]
async fn after_a_reboot_the_mac_address_is_that_of_the_lease_and_nothing_is_written() {
    let host = Host::ready().await;
    let (store, before) = (host.store.clone(), host.picture());
    host.stop().await;
    let writes = store.writes();
    let host = Host::start(&store, &kernel(), Options::new(NodeId(1)));
    host.has(3).await;
    assert_eq!(host.picture(), before);
    assert_eq!(store.writes(), writes);
}

#[tokio::test(start_paused = true)]
async fn a_mac_address_that_was_changed_while_nobody_ran_is_put_back() {
    let host = Host::ready().await;
    let (store, kernel, before) = (host.store.clone(), host.kernel.clone(), host.picture());
    host.stop().await;
    let writes = store.writes();
    kernel.change_device("flannel.1", |device| device.mac = MacAddress([2, 9, 9, 9, 9, 9]));
    let host = Host::start(&store, &kernel, Options::new(NodeId(1)));
    host.until("the MAC address of the lease", |host| host.picture() == before)
        .await;
    assert_eq!(store.writes(), writes);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_lost_is_taken_anew_with_the_mac_address_that_the_device_has() {
    let host = Host::ready().await;
    let mac = host.device_mac().unwrap();
    host.store.wipe();
    put_peers(&host.store, 7..=9);
    host.until("the lease", |host| !host.store.leases().is_empty())
        .await;
    host.has(3).await;
    let data = host.lease().attrs.backend_data.unwrap();
    assert!(data.get().contains(&mac.to_string()), "{data}");
    assert_eq!(host.device_mac(), Some(mac));
}

#[tokio::test(start_paused = true)]
async fn peers_that_changed_and_left_while_nobody_ran_leave_nothing_on_the_device() {
    let host = Host::ready().await;
    let (store, kernel) = (host.store.clone(), host.kernel.clone());
    host.stop().await;
    delete(&store, 7);
    put(&store, 8, &mac(0x88), 88);
    let host = Host::start(&store, &kernel, Options::new(NodeId(1)));
    host.has(2).await;
    tokio::time::sleep(MOMENT).await;
    let picture = host.picture();
    for stale in [mac(7), mac(8), "198.51.100.8 ".to_owned(), "10.5.7.0".to_owned()] {
        assert!(about(&picture, &stale).is_empty(), "{stale}: {picture:#?}");
    }
    assert_eq!(about(&picture, "dst 198.51.100.88").len(), 1, "{picture:#?}");
}
