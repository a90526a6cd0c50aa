use std::net::IpAddr;

use flannel_core::{Device, Object, Op, RouteProgrammer};

use crate::namespace::{Bench, bridge, enter_a_new_namespace, ip, run};
use crate::overlay::{device, index_of, mac, own_address, scope, with};

const LOCALS: [&str; 2] = ["192.168.9.1", "fd00:9::1"];

/// Devices that differ in one setting each.
fn variants(local: &str) -> Vec<Device> {
    let plain = device(local);
    let other = Device {
        mac: mac(9),
        mtu: 1350,
        ..plain.clone()
    };
    vec![
        plain.clone(),
        other,
        Device {
            up: false,
            ..plain.clone()
        },
        Device {
            accepts_advertisements: true,
            ..plain.clone()
        },
        Device {
            checksum_offload: Some(false),
            ..plain.clone()
        },
        with(&plain, |vxlan| vxlan.learning = true),
        with(&plain, |vxlan| vxlan.gbp = true),
        with(&plain, |vxlan| (vxlan.vni, vxlan.port) = (0xff_fffe, 4789)),
        with(&plain, |vxlan| vxlan.uplink = None),
    ]
}

#[test]
fn every_setting_of_a_device_comes_back_as_it_was_asked_for() {
    run(async |bench| {
        for wanted in LOCALS.into_iter().flat_map(variants) {
            bench.make([wanted.clone().into()]).await;
            let there = bench.device().await;
            assert!(there.satisfies(&wanted), "{there} and not {wanted}");
            assert!(there.checksum_offload.is_some(), "the kernel tells");
            let removed = bench.netlink.apply(&[Op::Remove(there.into())]).await;
            assert_eq!(removed.unwrap().failed, []);
            assert_eq!(bench.there().await, []);
        }
    });
}

#[test]
fn a_device_looks_to_ip_link_as_flannels_does() {
    run(async |bench| {
        bench.make([device("192.168.9.1").into()]).await;
        let shown = ip("-d link show dev flannel.1");
        for words in [
            "vxlan id 1 local 192.168.9.1 dev v0 srcport 0 0 dstport 8472 nolearning ttl auto",
            "link/ether 02:00:00:00:00:01",
            "mtu 1400",
            "udpcsum noudp6zerocsumtx noudp6zerocsumrx",
            "<BROADCAST,MULTICAST,UP,LOWER_UP>",
        ] {
            assert!(shown.contains(words), "{words} is not in {shown}");
        }
        assert!(!shown.contains("gbp") && !shown.contains("qlen"), "{shown}");
    });
}

#[test]
fn what_can_be_changed_is_and_the_device_stays_with_what_is_on_it() {
    run(async |bench| {
        ip("address add 192.168.9.2/16 dev v0");
        ip("address add fd00:9::2/64 dev v0 nodad");
        for (local, other) in [("192.168.9.1", "192.168.9.2"), ("fd00:9::1", "fd00:9::2")] {
            let plain = device(local);
            bench.make([plain.clone().into(), own_address()]).await;
            let host: IpAddr = other.parse().unwrap();
            bridge(&format!("fdb add 02:00:00:00:00:07 dev flannel.1 dst {host}"));
            ip("neigh add 10.5.0.7 lladdr 02:00:00:00:00:07 dev flannel.1");
            ip("neigh add fd10:5:0:7:: lladdr 02:00:00:00:00:07 dev flannel.1");
            let index = index_of("flannel.1");
            let mut before = plain.clone();
            for wanted in [
                Device {
                    mtu: 1300,
                    ..plain.clone()
                },
                Device {
                    mac: mac(9),
                    ..plain.clone()
                },
                with(&plain, |vxlan| vxlan.local = other.parse().ok()),
                with(&plain, |vxlan| vxlan.learning = true),
                with(&plain, |vxlan| vxlan.uplink = Some(Bench::other_end())),
                Device {
                    accepts_advertisements: true,
                    checksum_offload: Some(false),
                    ..plain.clone()
                },
                plain.clone(),
            ] {
                bench.replace(&before, &wanted).await;
                let there = bench.there().await;
                let Object::Device(is) = &there[0] else {
                    panic!("{there:?}");
                };
                assert!(is.satisfies(&wanted), "{is} and not {wanted}");
                assert_eq!(index_of("flannel.1"), index);
                assert!(there.contains(&own_address()), "{there:?}");
                let on_it = there
                    .iter()
                    .filter(|object| matches!(object, Object::Forwarding(_) | Object::Neighbour(_)));
                assert_eq!(on_it.count(), 3, "{there:?}");
                before = is.clone();
            }
            ip("link del flannel.1");
        }
    });
}

#[test]
fn a_device_with_settings_that_cannot_be_changed_is_made_anew() {
    run(async |bench| {
        let wanted = device("192.168.9.1");
        for settings in [
            "remote 192.168.9.2",
            "group 239.0.0.1",
            "proxy",
            "rsc",
            "l2miss",
            "l3miss",
            "maxaddress 7",
        ] {
            ip(&format!(
                "link add flannel.1 type vxlan id 1 dev v0 local 192.168.9.1 dstport 8472 nolearning {settings}"
            ));
            let foreign = bench.device().await;
            let remade = foreign.is_remade_for(&wanted);
            assert!(remade.is_some(), "{settings}: {foreign}");
            let index = index_of("flannel.1");
            bench.replace(&foreign, &wanted).await;
            assert!(bench.device().await.satisfies(&wanted));
            assert_ne!(index_of("flannel.1"), index);
            ip("link del flannel.1");
        }
        ip("link add flannel.1 type vxlan external dstport 8472");
        assert!(bench.device().await.is_remade_for(&wanted).is_some());
        ip("link del flannel.1");
        // One that is down, and is in the way of the one in its place all the same.
        let wanted_v6 = device("fd00:9::1");
        ip("link add flannel.1 type vxlan id 1 dev v0 group ff05::1 dstport 8472");
        bench.replace(&bench.device().await, &wanted_v6).await;
        assert!(bench.device().await.satisfies(&wanted_v6));
        ip("link del flannel.1");
        // The kernel does not let go of the device below.
        bench.make([wanted.clone().into()]).await;
        let before = bench.device().await;
        let without = with(&before, |vxlan| vxlan.uplink = None);
        bench.replace(&before, &without).await;
        assert!(bench.device().await.satisfies(&without));
    });
}

#[test]
fn a_device_as_flannel_makes_it_is_nothing_that_has_to_be_made_anew() {
    run(async |bench| {
        ip(
            "link add flannel.1 address 02:00:00:00:00:01 txqueuelen 0 mtu 1400 type vxlan id 1 dev v0 local \
             192.168.9.1 dstport 8472 nolearning ttl auto tos 0 ageing 300 noudp6zerocsumtx noudp6zerocsumrx",
        );
        ip("link set flannel.1 up");
        let wanted = device("192.168.9.1");
        let adopted = Device {
            accepts_advertisements: true,
            ..wanted.clone()
        };
        let there = bench.device().await;
        assert!(there.satisfies(&adopted), "{there}");
        bench.replace(&there, &wanted).await;
        assert!(bench.device().await.satisfies(&wanted));
    });
}

#[test]
fn the_mtu_follows_that_of_the_device_below_in_either_direction() {
    run(async |bench| {
        let mut before = device("192.168.9.1");
        bench.make([before.clone().into()]).await;
        for (below, mtu) in [(1300, 1250), (9000, 8950), (1500, 1450)] {
            ip(&format!("link set v0 mtu {below}"));
            let wanted = Device {
                mtu,
                ..before.clone()
            };
            bench.replace(&before, &wanted).await;
            assert!(bench.device().await.satisfies(&wanted), "{below}");
            before = wanted;
        }
        // Over another device, with more room and with less.
        for (end, below, mtu) in [("v1", 9000, 8950), ("v0", 1400, 1350)] {
            ip(&format!("link set {end} mtu {below}"));
            let wanted = with(
                &Device {
                    mtu,
                    ..before.clone()
                },
                |vxlan| {
                    vxlan.uplink = end.parse().ok();
                },
            );
            bench.replace(&before, &wanted).await;
            assert!(bench.device().await.satisfies(&wanted), "{end}");
            before = wanted;
        }
    });
}

#[test]
fn routers_are_not_heard_and_the_setting_is_the_devices_own() {
    run(async |bench| {
        let setting = |device: &str| {
            let text = std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{device}/accept_ra"));
            text.unwrap().trim().to_owned()
        };
        let before = setting("v0");
        bench.make([device("192.168.9.1").into()]).await;
        assert_eq!(setting("flannel.1"), "0");
        assert_eq!(setting("v0"), before);
        let heard = Device {
            accepts_advertisements: true,
            ..device("192.168.9.1")
        };
        bench.replace(&device("192.168.9.1"), &heard).await;
        assert_eq!(setting("flannel.1"), "1");
    });
}

#[test]
fn a_device_too_small_for_ipv6_is_made_all_the_same() {
    run(async |bench| {
        let small = Device {
            mtu: 1000,
            ..device("192.168.9.1")
        };
        bench.make([small.clone().into(), own_address()]).await;
        assert!(bench.device().await.satisfies(&small));
    });
}

#[test]
fn devices_are_those_of_the_namespace_in_which_the_netlink_was_opened() {
    run(async |bench| {
        // By a thread that is elsewhere.
        enter_a_new_namespace();
        let wanted = Device {
            checksum_offload: Some(false),
            ..device("192.168.9.1")
        };
        bench.make([wanted.clone().into(), own_address()]).await;
        let there = bench.device().await;
        assert!(there.satisfies(&wanted), "{there}");
        assert!(!ip("link").contains("flannel.1"));
    });
}

#[test]
fn a_device_that_goes_while_it_is_dumped_is_no_error() {
    run(async |bench| {
        let netlink = bench.netlink.clone();
        let handle = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = std::sync::Arc::clone(&stop);
        let churn = std::thread::spawn(move || {
            nix::sched::setns(handle, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let mut times = 0;
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                ip("link add flannel.1 type vxlan id 1 dev v0 local 192.168.9.1 dstport 8472");
                ip("address add 10.5.0.0/32 dev flannel.1");
                ip("link del flannel.1");
                times += 1;
            }
            times
        });
        let (mut with, mut without) = (0, 0);
        let until = tokio::time::Instant::now() + crate::namespace::PATIENCE;
        while (with < 200 || without < 20) && tokio::time::Instant::now() < until {
            match netlink.dump(&scope()).await {
                Ok(there) if there.is_empty() => without += 1,
                Ok(_) => with += 1,
                Err(flannel_core::KernelError::Unstable { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(churn.join().unwrap() > 0);
        assert!(with > 0 && without > 0, "{with} dumps with it, {without} without");
    });
}
