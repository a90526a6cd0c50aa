use flannel_core::{Hop, Hops, Object, Op, OpErrorKind, Route, RouteProgrammer};

use crate::namespace::{Bench, ip, route, run};

async fn error_of(bench: &Bench, op: Op) -> flannel_core::OpError {
    let mut failed = bench.netlink.apply(&[op]).await.unwrap().failed;
    assert_eq!(failed.len(), 1);
    failed.remove(0).1
}

#[test]
fn routes_look_to_ip_route_as_they_should() {
    run(async |bench| {
        bench
            .add([
                route("10.5.7.0/24", "192.168.9.2"),
                route("fd10:5:0:7::/64", "fd00:9::2"),
            ])
            .await;
        let v4 = ip("route show root 10.5.0.0/16");
        assert_eq!(v4.trim_end(), "10.5.7.0/24 via 192.168.9.2 dev v0 proto 70");
        let v6 = ip("-6 route show root fd10:5::/48");
        assert_eq!(
            v6.trim_end(),
            "fd10:5:0:7::/64 via fd00:9::2 dev v0 proto 70 metric 1024 pref medium"
        );
    });
}

#[test]
fn nothing_else_on_the_host_is_touched() {
    run(async |bench| {
        Bench::settle();
        ip("route add 10.5.7.0/24 via 192.168.9.3 table 100");
        ip("-6 route add fd10:5:0:7::/64 via fd00:9::3 table 1000");
        ip("route add 10.5.7.0/24 via 192.168.9.3 proto static metric 9");
        let everything = || {
            [
                ip("-4 route show table all"),
                ip("-6 route show table all"),
                ip("address"),
            ]
        };
        let before = everything();
        let made = [
            route("10.5.7.0/24", "192.168.9.2"),
            route("fd10:5:0:7::/64", "fd00:9::2"),
        ];
        bench.add(made.clone()).await;
        assert_ne!(everything(), before);
        let plan = made.map(|route| Op::Remove(route.into()));
        assert_eq!(bench.netlink.apply(&plan).await.unwrap().failed, []);
        assert_eq!(everything(), before);
    });
}

#[test]
fn a_failure_is_told_in_the_kernels_words() {
    run(async |bench| {
        let error = error_of(&bench, Op::Add(route("10.5.7.0/24", "203.0.113.1").into())).await;
        assert_eq!(error.kind, OpErrorKind::Unreachable);
        assert!(
            error
                .text
                .starts_with("cannot add 10.5.7.0/24 via 203.0.113.1 dev v0 proto 70: "),
            "{error}"
        );
        assert!(
            error.text.contains("Nexthop has invalid gateway (ENETUNREACH: "),
            "{error}"
        );
    });
}

#[test]
fn ipv6_that_is_disabled_on_a_device_is_not_taken_for_a_lack_of_privilege() {
    run(async |bench| {
        std::fs::write("/proc/sys/net/ipv6/conf/v0/disable_ipv6", "1").unwrap();
        let direct = Hop {
            gateway: None,
            device: Bench::uplink(),
            onlink: false,
        };
        let route = Route::unicast("fd10:5::/64".parse().unwrap(), direct, 70);
        let error = error_of(&bench, Op::Add(route.into())).await;
        assert_eq!(error.kind, OpErrorKind::Denied);
        assert!(
            error
                .text
                .ends_with("IPv6 is disabled on nexthop device (EACCES: Permission denied)"),
            "{error}"
        );
    });
}

#[test]
fn a_device_goes_by_its_name_and_not_by_an_alternative_one() {
    run(async |bench| {
        ip("link property add dev v0 altname uplink0");
        let hop = Hop::via("192.168.9.2".parse().unwrap(), "uplink0".parse().unwrap());
        let route = Route::unicast("10.5.7.0/24".parse().unwrap(), hop, 70);
        let error = error_of(&bench, Op::Add(route.into())).await;
        assert_eq!(error.kind, OpErrorKind::NoDevice);
        assert!(error.text.ends_with("there is no device uplink0"), "{error}");
    });
}

#[test]
fn a_device_that_was_made_again_is_found_by_its_name() {
    run(async |bench| {
        bench.add([route("10.5.7.0/24", "192.168.9.2")]).await;
        ip("link del v0");
        ip("link add v0 type veth peer name v1");
        ip("link set v0 up");
        ip("address add 192.168.9.1/16 dev v0");
        bench.add([route("10.5.7.0/24", "192.168.9.2")]).await;
    });
}

#[test]
fn a_source_address_and_a_gateway_of_the_other_family_are_kept() {
    run(async |bench| {
        let source = Route {
            source: Some("192.168.9.1".parse().unwrap()),
            ..route("10.5.7.0/24", "192.168.9.2")
        };
        let over_ipv6 = route("10.5.8.0/24", "fd00:9::2");
        bench.add([source.clone(), over_ipv6.clone()]).await;
        assert_eq!(
            bench.dump("10.5.0.0/16").await,
            [source, over_ipv6].map(Object::from)
        );
    });
}

#[test]
fn a_plan_of_many_hops_is_split_into_what_a_datagram_holds() {
    run(async |bench| {
        let hops = (0..200_u8)
            .map(|n| Hop::via([192, 168, 10, n].into(), Bench::uplink()))
            .collect::<Vec<_>>();
        let routes = (0..100).map(|n| Route {
            hops: Hops::Many(hops.clone()),
            ..route(&format!("10.5.{n}.0/24"), "192.168.9.2")
        });
        let routes = routes.collect::<Vec<_>>();
        bench.add(routes.clone()).await;
        assert_eq!(
            bench.dump("10.5.0.0/16").await,
            routes.into_iter().map(Object::from).collect::<Vec<_>>()
        );
    });
}

#[test]
fn an_apply_that_is_dropped_does_not_disturb_the_next() {
    run(async |bench| {
        let routes = |net: u8| (0..200).map(move |n| route(&format!("10.{net}.{n}.0/24"), "192.168.9.2"));
        let plan = routes(5).map(|route| Op::Add(route.into())).collect::<Vec<_>>();
        for _ in 0..20 {
            let dropped = bench.netlink.apply(&plan);
            let _ = tokio::time::timeout(std::time::Duration::from_micros(50), dropped).await;
        }
        bench.add(routes(6)).await;
        assert_eq!(bench.dump("10.6.0.0/16").await.len(), 200);
    });
}
