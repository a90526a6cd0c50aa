use std::net::UdpSocket;
use std::sync::mpsc::channel;

use flannel_core::{Address, Device, Object, Op, OpErrorKind, RouteProgrammer};

use crate::namespace::{Bench, enter_a_new_namespace, ip, run};
use crate::overlay::{device, index_of, own_address, peer, with};

#[test]
fn a_port_that_a_process_has_is_told_with_the_process() {
    run(async |bench| {
        for (address, local) in [
            ("0.0.0.0:8472", "192.168.9.1"),
            ("127.0.0.1:8472", "192.168.9.1"),
            ("[::]:8472", "fd00:9::1"),
        ] {
            let holder = UdpSocket::bind(address).unwrap();
            let error = bench.refusal_of(Op::Add(device(local).into())).await;
            let pid = std::process::id();
            let words =
                format!("EADDRINUSE: Address already in use; UDP port 8472 is held by process {pid} (");
            assert!(error.text.contains(&words), "{error}");
            assert_eq!(bench.there().await, [], "nothing half made is left");
            drop(holder);
            bench.make([device(local).into()]).await;
            ip("link del flannel.1");
        }
    });
}

#[test]
fn vxlan_devices_that_do_not_have_the_port_are_not_blamed() {
    run(async |bench| {
        // One that is down, one of the other address family, and one on another port.
        ip("link add vx0 type vxlan id 77 dstport 8472 gbp");
        ip("link add vx6 type vxlan id 78 dstport 8472 gbp local fd00:9::1");
        ip("link add vx1 type vxlan id 79 dstport 8473 gbp");
        ip("link set vx6 up");
        ip("link set vx1 up");
        let _holder = UdpSocket::bind("0.0.0.0:8472").unwrap();
        let error = bench.refusal_of(Op::Add(device("192.168.9.1").into())).await;
        assert!(error.text.contains("is held by process"), "{error}");
    });
}

#[test]
fn a_port_that_another_vxlan_device_has_is_told_with_the_device() {
    run(async |bench| {
        for settings in ["id 77 gbp", "external"] {
            ip(&format!("link add vx0 type vxlan dstport 8472 {settings}"));
            ip("link set vx0 up");
            let error = bench.refusal_of(Op::Add(device("192.168.9.1").into())).await;
            assert!(
                error
                    .text
                    .contains("UDP port 8472 is held by the device vx0 (vxlan id "),
                "{error}"
            );
            ip("link del vx0");
        }
    });
}

#[test]
fn a_port_whose_holder_cannot_be_told_is_told_with_how_to_find_it() {
    run(async |bench| {
        // That of a device in another namespace whose socket is here.
        ip("link add vx0 type vxlan id 77 dstport 8472 gbp");
        let (entered, inside) = channel();
        let (moved, is_moved) = channel();
        let (set_up, is_up) = channel();
        let (looked, has_looked) = channel::<()>();
        let elsewhere = std::thread::spawn(move || {
            enter_a_new_namespace();
            let thread = std::fs::read_link("/proc/thread-self").unwrap();
            entered
                .send(thread.file_name().unwrap().to_str().unwrap().to_owned())
                .unwrap();
            let () = is_moved.recv().unwrap();
            ip("link set vx0 up");
            set_up.send(()).unwrap();
            let () = has_looked.recv().unwrap();
        });
        ip(&format!("link set vx0 netns {}", inside.recv().unwrap()));
        moved.send(()).unwrap();
        let () = is_up.recv().unwrap();
        let error = bench.refusal_of(Op::Add(device("192.168.9.1").into())).await;
        looked.send(()).unwrap();
        elsewhere.join().unwrap();
        assert!(error.text.contains("`ss -lunp sport = :8472`"), "{error}");
    });
}

#[test]
fn a_port_is_shared_with_a_device_whose_packets_are_read_alike() {
    run(async |bench| {
        ip("link add vx0 type vxlan id 77 dstport 8472");
        ip("link set vx0 up");
        bench.make([device("192.168.9.1").into()]).await;
    });
}

#[test]
fn an_identifier_that_another_device_has_is_told_with_the_device() {
    run(async |bench| {
        ip("link add vx0 type vxlan id 1 dstport 8472");
        let error = bench.refusal_of(Op::Add(device("192.168.9.1").into())).await;
        assert_eq!(error.kind, OpErrorKind::Exists);
        let words = "A VXLAN device with the specified VNI already exists (EEXIST: File exists); vx0 has VNI 1 on port \
                     8472: remove it with `ip link del vx0`";
        assert!(error.text.contains(words), "{error}");
    });
}

#[test]
fn a_device_stays_with_all_that_is_on_it_where_the_one_in_its_place_could_not_be_made() {
    run(async |bench| {
        let before = device("192.168.9.1");
        let wanted = [before.clone().into(), own_address()];
        bench.make(wanted.into_iter().chain(peer(7))).await;
        let (index, there) = (index_of("flannel.1"), bench.there().await);
        let _holder = UdpSocket::bind("0.0.0.0:4789").unwrap();
        ip("link add vx0 type vxlan id 77 dstport 4790 gbp");
        ip("link set vx0 up");
        ip("link add vx1 type vxlan id 2 dstport 8472");
        let process = format!("UDP port 4789 is held by process {}", std::process::id());
        for (settings, words) in [
            ((1, 4789, false), process.as_str()),
            (
                (1, 4790, false),
                "UDP port 4790 is held by the device vx0 (vxlan id 77",
            ),
            ((2, 8472, false), "vx1 has VNI 2 on port 8472"),
        ] {
            let to = with(&before, |vxlan| (vxlan.vni, vxlan.port, vxlan.gbp) = settings);
            let error = bench.refusal_of(replaced(&before, &to)).await;
            assert!(error.text.contains(words), "{error}");
            assert_eq!(bench.there().await, there, "{settings:?}");
        }
        // A device that shares our port reads packets as ours does, and could not share it any more.
        ip("link set vx1 up");
        let to = with(&before, |vxlan| vxlan.gbp = true);
        let error = bench.refusal_of(replaced(&before, &to)).await;
        let words = "EADDRINUSE: Address already in use; UDP port 8472 is held by the device vx1 (vxlan id 2";
        assert!(error.text.contains(words), "{error}");
        assert_eq!(bench.there().await, there);
        assert_eq!(index_of("flannel.1"), index);
        assert!(!ip("link").contains("fltry"));
        ip("link del vx1");
        bench.replace(&before, &to).await;
        assert!(bench.device().await.satisfies(&to));
        assert!(!ip("link").contains("fltry"));
    });
}

#[test]
fn a_device_that_is_tried_out_first_is_seen_by_nobody_who_looks_and_leaves_nothing() {
    run(async |bench| {
        let mut before = device("192.168.9.1");
        bench.make([before.clone().into()]).await;
        for port in [4789, 8472, 8473] {
            let to = with(&before, |vxlan| vxlan.port = port);
            bench.replace(&before, &to).await;
            assert!(bench.device().await.satisfies(&to));
            let names = ip("-br link").lines().count();
            assert_eq!(names, 4, "lo, v0, v1 and flannel.1");
            before = to;
        }
        // Somebody has the name under which it would be tried out: it stays, and is not asked.
        ip("link add vx0 type bridge");
        ip(&format!("link set vx0 name fltry{}", index_of("flannel.1")));
        let to = with(&before, |vxlan| vxlan.port = 4789);
        bench.replace(&before, &to).await;
        assert!(bench.device().await.satisfies(&to));
        assert!(ip("link").contains("fltry"));
    });
}

#[test]
fn an_identifier_that_a_device_in_another_namespace_has_is_told_with_how_to_find_it() {
    run(async |bench| {
        ip("link add vx0 type vxlan id 1 dstport 8472");
        let (entered, inside) = channel();
        let (looked, has_looked) = channel::<()>();
        let elsewhere = std::thread::spawn(move || {
            enter_a_new_namespace();
            let thread = std::fs::read_link("/proc/thread-self").unwrap();
            let thread = thread.file_name().unwrap().to_str().unwrap().to_owned();
            entered.send(thread).unwrap();
            let () = has_looked.recv().unwrap();
        });
        ip(&format!("link set vx0 netns {}", inside.recv().unwrap()));
        let error = bench.refusal_of(Op::Add(device("192.168.9.1").into())).await;
        looked.send(()).unwrap();
        elsewhere.join().unwrap();
        assert_eq!(error.kind, OpErrorKind::Exists);
        let words = "a device that was made here and is in another network namespace has VNI 1 on port 8472: find it \
                     with `ip -all netns exec ip -d link show type vxlan`";
        assert!(error.text.contains(words), "{error}");
    });
}

#[test]
fn our_device_under_another_name_is_told_with_how_it_gets_its_name_back() {
    run(async |bench| {
        let wanted = device("192.168.9.1");
        bench
            .make([wanted.clone().into()].into_iter().chain(peer(7)))
            .await;
        let there = bench.there().await;
        ip("link set flannel.1 name old0");
        let error = bench.refusal_of(Op::Add(wanted.into())).await;
        assert!(
            error.text.contains("old0 is this device under another name"),
            "{error}"
        );
        let (_, command) = error.text.split_once("`ip ").unwrap();
        ip(command.split_once('`').unwrap().0);
        assert_eq!(bench.there().await, there);
    });
}

fn replaced(from: &Device, to: &Device) -> Op {
    Op::Replace {
        from: from.clone().into(),
        to: to.clone().into(),
    }
}

#[test]
fn a_name_that_another_kind_of_device_has_is_told_with_the_kind() {
    run(async |bench| {
        ip("link add flannel.1 type bridge");
        let error = bench.refusal_of(Op::Add(device("192.168.9.1").into())).await;
        assert_eq!(error.kind, OpErrorKind::Exists);
        let words =
            "flannel.1 is a device of the kind bridge: rename it, or remove it with `ip link del flannel.1`";
        assert!(error.text.ends_with(words), "{error}");
        let error = bench.refusal_of(Op::Remove(device("192.168.9.1").into())).await;
        assert_eq!(error.kind, OpErrorKind::Gone);
        assert!(
            error
                .text
                .contains("another device has the name by now, flannel.1 bridge"),
            "{error}"
        );
        assert!(ip("link").contains("flannel.1"));
    });
}

#[test]
fn an_mtu_that_does_not_fit_below_is_told_with_the_device_below() {
    run(async |bench| {
        let fits = device("192.168.9.1");
        let large = Device {
            mtu: 1451,
            ..fits.clone()
        };
        let words = "an MTU of 1451 and 50 bytes around it are more than the MTU of v0, 1500";
        let error = bench.refusal_of(Op::Add(large.clone().into())).await;
        assert!(error.text.ends_with(words), "{error}");
        let replace = Op::Replace {
            from: bench.device().await.into(),
            to: large.into(),
        };
        let error = bench.refusal_of(replace).await;
        assert!(error.text.ends_with(words), "{error}");
        bench.replace(&bench.device().await, &fits).await;
    });
}

#[test]
fn a_device_below_that_is_not_there_is_told_before_anything_is_touched() {
    run(async |bench| {
        let before = device("192.168.9.1");
        bench.make([before.clone().into()]).await;
        let nowhere = with(&before, |vxlan| {
            vxlan.uplink = "nosuchdevice".parse().ok();
            vxlan.vni = 2;
        });
        let error = bench
            .refusal_of(Op::Replace {
                from: before.clone().into(),
                to: nowhere.into(),
            })
            .await;
        assert_eq!(error.kind, OpErrorKind::NoDevice);
        let words = "there is no device nosuchdevice by which its packets could leave";
        assert!(error.text.ends_with(words), "{error}");
        assert!(bench.device().await.satisfies(&before));
    });
}

#[test]
fn ipv6_that_is_disabled_on_the_device_is_told_with_the_setting() {
    run(async |bench| {
        bench.make([device("192.168.9.1").into()]).await;
        std::fs::write("/proc/sys/net/ipv6/conf/flannel.1/disable_ipv6", "1").unwrap();
        let address = Address::permanent("flannel.1".parse().unwrap(), "fd10:5::/128".parse().unwrap());
        let error = bench.refusal_of(Op::Add(address.into())).await;
        assert_eq!(error.kind, OpErrorKind::Denied);
        assert!(
            error
                .text
                .ends_with("`sysctl -w net/ipv6/conf/flannel.1/disable_ipv6=0`"),
            "{error}"
        );
    });
}

#[test]
fn what_is_on_a_device_that_does_not_exist_cannot_be_made_and_need_not_be_removed() {
    run(async |bench| {
        let all: Vec<Object> = [own_address()].into_iter().chain(peer(7)).collect();
        for object in all {
            let error = bench.refusal_of(Op::Add(object.clone())).await;
            assert_eq!(error.kind, OpErrorKind::NoDevice);
            assert!(error.text.ends_with("there is no device flannel.1"), "{error}");
            assert_eq!(bench.refusal_of(Op::Remove(object)).await.kind, OpErrorKind::Gone);
        }
    });
}

#[test]
fn a_plan_makes_a_device_and_what_is_on_it_and_goes_on_after_a_failure() {
    run(async |bench: Bench| {
        let wanted: Vec<Object> = [device("192.168.9.1").into(), own_address(), own_address()]
            .into_iter()
            .chain(peer(7))
            .collect();
        let mut plan: Vec<Op> = wanted.into_iter().map(Op::Add).collect();
        plan.push(Op::Remove(device("192.168.9.1").into()));
        plan.push(Op::Add(own_address()));
        let failed = bench.netlink.apply(&plan).await.unwrap().failed;
        let kinds: Vec<_> = failed.iter().map(|(place, error)| (*place, error.kind)).collect();
        assert_eq!(kinds, [(2, OpErrorKind::Exists), (7, OpErrorKind::NoDevice)]);
        assert!(
            failed[0]
                .1
                .text
                .ends_with("`ip address del 10.5.0.0/32 dev flannel.1`")
        );
    });
}
