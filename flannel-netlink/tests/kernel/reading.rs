use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flannel_core::{
    DefaultRoute, Family, Hops, HostSource, KernelError, LinkAddress, Object, Op, Reached, RouteProgrammer,
};
use flannel_netlink::Netlink;

use crate::namespace::{Bench, enter_a_new_namespace, ip, on_a_thread, route, run, scope};

#[test]
fn a_namespace_that_never_had_a_route_has_none() {
    on_a_thread(async || {
        enter_a_new_namespace();
        let netlink = Netlink::open().unwrap();
        for network in ["10.5.0.0/16", "fd10:5::/48"] {
            assert_eq!(netlink.dump(&scope(network)).await.unwrap(), []);
        }
        let facts = netlink.facts(&["192.0.2.1".parse().unwrap()]).await.unwrap();
        assert_eq!(facts.links.len(), 1);
        assert!(facts.links[0].loopback && !facts.links[0].up);
        assert_eq!(facts.default_routes, []);
        assert_eq!(facts.reached, BTreeMap::new());
    });
}

#[test]
fn other_tables_are_not_dumped() {
    run(async |bench| {
        ip("route add 10.5.7.0/24 via 192.168.9.3 table 100");
        ip("route add local 10.5.8.0/24 dev lo table local");
        ip("route add broadcast 10.5.9.0/24 dev v0");
        assert_eq!(bench.dump("10.5.0.0/16").await, []);
    });
}

#[test]
fn a_route_over_a_nexthop_object_is_told_from_one_over_its_gateway() {
    run(async |bench| {
        ip("nexthop add id 17 via 192.168.9.2 dev v0");
        ip("route add 10.5.7.0/24 nhid 17 proto 70");
        let mut expected = route("10.5.7.0/24", "192.168.9.2");
        expected.hops = Hops::Object(17);
        assert_eq!(bench.dump("10.5.0.0/16").await, [Object::from(expected)]);
    });
}

#[test]
fn ipv6_routes_in_one_place_are_told_apart() {
    run(async |bench| {
        // Without gateways they are no multipath route.
        ip("link set v1 up");
        ip("-6 route add fd10:5::/64 dev v0 proto 70");
        ip("-6 route append fd10:5::/64 dev v1 proto 70");
        let dump = bench.dump("fd10:5::/48").await;
        let [Object::Route(first), Object::Route(second)] = &dump[..] else {
            panic!("{dump:?}");
        };
        assert_eq!((first.id.position, second.id.position), (0, 1));
        let devices = [first, second].map(|route| route.hops.as_slice()[0].device.to_string());
        assert_eq!(devices, ["v0", "v1"]);
    });
}

#[test]
fn a_route_with_a_lifetime_a_preference_or_a_realm_is_decorated() {
    run(async |bench| {
        ip("-6 route add fd10:5:0:1::/64 via fd00:9::2 proto 70 expires 600");
        ip("-6 route add fd10:5:0:2::/64 via fd00:9::2 proto 70 pref high");
        ip("route add 10.5.7.0/24 via 192.168.9.2 proto 70 realm 5");
        let mut dump = bench.dump("fd10:5::/48").await;
        dump.extend(bench.dump("10.5.0.0/16").await);
        assert_eq!(dump.len(), 3);
        for object in dump {
            assert!(
                matches!(&object, Object::Route(route) if route.decorated),
                "{object}"
            );
        }
    });
}

#[test]
fn facts_are_those_that_ip_address_shows() {
    run(async |bench| {
        ip("address add 192.168.9.8/16 dev v0");
        ip("address add 192.0.2.1 peer 192.0.2.2/32 dev v0");
        ip("address add fd00:9::2/64 dev v0 nodad preferred_lft 0 valid_lft 600");
        ip("link set v0 mtu 1450");
        let facts = bench.netlink.facts(&[]).await.unwrap();
        let link = facts.link(&Bench::uplink()).unwrap();
        assert_eq!((link.mtu, link.up, link.loopback), (1450, true, false));
        assert!(facts.links.is_sorted_by_key(|link| link.index));
        let address = |net: &str, unusable, permanent, temporary| LinkAddress {
            net: net.parse().unwrap(),
            unusable,
            permanent,
            temporary,
        };
        let expected = [
            address("192.168.9.1/16", false, true, false),
            address("192.0.2.1/32", false, true, false),
            address("192.168.9.8/16", false, true, true),
            address("fd00:9::2/64", true, false, false),
            address("fd00:9::1/64", false, true, false),
        ];
        assert_eq!(link.addresses, expected);
        assert!(facts.owns("127.0.0.1".parse().unwrap()));
    });
}

#[test]
fn default_routes_come_with_the_preferred_one_first() {
    run(async |bench| {
        ip("route add default via 192.168.9.9 metric 100");
        ip("route add default nexthop via 192.168.9.7 dev v0 nexthop via 192.168.9.8 dev v0");
        ip("route add unreachable default metric 5");
        ip("route add default via 192.168.9.3 table 100");
        ip("route add default via 192.168.9.4 tos 8");
        ip("-6 route add default dev v0 metric 7");
        ip("-6 route add default from fd00:9::/64 via fd00:9::3 metric 6");
        ip("-6 route add default from fd00:8::/64 via fd00:9::4 metric 9");
        let facts = bench.netlink.facts(&[]).await.unwrap();
        let expected = [
            (Family::V4, Some("192.168.9.7"), 0),
            (Family::V4, Some("192.168.9.9"), 100),
            (Family::V6, Some("fd00:9::3"), 6),
            (Family::V6, None, 7),
            (Family::V6, Some("fd00:9::4"), 9),
        ];
        let expected = expected.map(|(family, gateway, metric)| DefaultRoute {
            family,
            device: Bench::uplink(),
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            metric,
        });
        assert_eq!(facts.default_routes, expected);
    });
}

#[test]
fn a_nexthop_objects_gateway_is_a_default_gateway() {
    run(async |bench| {
        ip("nexthop add id 17 via 192.168.9.2 dev v0");
        ip("route add default nhid 17");
        let facts = bench.netlink.facts(&[]).await.unwrap();
        let gateways = facts
            .default_routes
            .iter()
            .map(|route| route.gateway)
            .collect::<Vec<_>>();
        assert_eq!(gateways, ["192.168.9.2".parse().ok()]);
    });
}

#[test]
fn links_have_their_mac_address_and_the_kernel_its_version() {
    run(async |bench| {
        ip("link set v0 address 02:00:00:00:00:09");
        let facts = bench.netlink.facts(&[]).await.unwrap();
        let link = facts.link(&Bench::uplink()).unwrap();
        assert_eq!(link.mac, "02:00:00:00:00:09".parse().ok());
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let kernel = facts.kernel.unwrap();
        assert!(
            release.starts_with(&format!("{}.{}", kernel.major, kernel.minor)),
            "{release}"
        );
    });
}

#[test]
fn the_reverse_path_is_strict_by_the_larger_of_the_devices_setting_and_that_of_all() {
    run(async |bench| {
        let set = |of: &str, value: u8| {
            let path = format!("/proc/sys/net/ipv4/conf/{of}/rp_filter");
            std::fs::write(path, value.to_string()).unwrap();
        };
        for (all, own, strict) in [
            (0, 0, false),
            (1, 0, true),
            (0, 1, true),
            (1, 1, true),
            (2, 1, false),
            (1, 2, false),
        ] {
            set("all", all);
            set("v0", own);
            set("v1", 2);
            let facts = bench.netlink.facts(&[]).await.unwrap();
            let strict_of = |name| facts.link(&name).unwrap().strict_reverse_path;
            assert_eq!(strict_of(Bench::uplink()), strict, "all {all}, own {own}");
            assert!(!strict_of(Bench::other_end()));
        }
    });
}

#[test]
fn hosts_are_on_a_link_unless_a_route_leads_elsewhere() {
    run(async |bench| {
        ip("address add fd00:9::8/64 dev v1 nodad");
        for route in [
            "192.168.9.64/26 via 192.168.9.9",
            "192.168.10.0/24 dev v1",
            "blackhole 192.168.11.0/24",
            "unreachable 192.168.12.0/24",
            "192.168.13.0/24 nexthop via 192.168.9.9 dev v0 nexthop via 192.168.9.8 dev v0",
            "192.168.14.0/24 via 192.168.9.9 metric 7",
            "192.168.14.0/24 dev v1 metric 8",
            "192.168.15.0/24 via 192.168.9.9 tos 8",
            "192.168.16.0/24 via 192.168.9.9 table 100",
            "198.51.100.0/24 via 192.168.9.9",
            // A link that has its network's address in common with a part of it that lies behind a gateway.
            "172.20.0.0/24 via 192.168.9.9",
            "172.20.0.0/16 dev v1",
            "default via 192.168.9.9",
        ] {
            ip(&format!("route add {route}"));
        }
        ip("nexthop add id 17 dev v1");
        ip("route add 203.0.113.0/24 nhid 17");
        let underlay = bench.netlink.facts(&[]).await.unwrap().underlay;
        let (v0, v1) = (Some(Bench::uplink()), Some(Bench::other_end()));
        for (address, link) in [
            ("192.168.9.7", v0),
            ("192.168.9.70", None),
            ("192.168.10.7", v1),
            ("192.168.11.7", None),
            ("192.168.12.7", None),
            ("192.168.13.7", None),
            ("192.168.14.7", None),
            ("192.168.15.7", v0),
            ("192.168.16.7", v0),
            ("198.51.100.7", None),
            ("172.20.0.7", None),
            ("172.20.1.7", v1),
            ("203.0.113.7", v1),
            ("8.8.8.8", None),
            ("fd00:8::7", None),
        ] {
            assert_eq!(underlay.link_of(address.parse().unwrap()), link, "{address}");
        }
        assert!(underlay.link_of("fd00:9::7".parse().unwrap()).is_some());
    });
}

#[test]
fn what_the_kernel_cannot_reach_is_left_out() {
    run(async |bench| {
        ip("route add prohibit 198.51.100.0/24");
        ip("route add blackhole 203.0.113.0/24");
        let asked = [
            "192.168.77.7",
            "fd00:9::77",
            "192.0.2.1",
            "2001:db8::1",
            "198.51.100.1",
            "203.0.113.1",
        ];
        let asked = asked.map(|address| address.parse().unwrap());
        let facts = bench.netlink.facts(&asked).await.unwrap();
        let reached = |source: &str| Reached {
            device: Bench::uplink(),
            source: source.parse().ok(),
        };
        let expected = [
            (asked[0], reached("192.168.9.1")),
            (asked[1], reached("fd00:9::1")),
        ];
        assert_eq!(facts.reached, BTreeMap::from(expected));
    });
}

#[test]
fn a_dump_is_whole_while_others_change_the_table() {
    const STEADY: usize = 1500;
    run(async |bench| {
        let steady = (0..STEADY).map(|n| route(&format!("10.5.{}.{}/32", n / 250, n % 250), "192.168.9.2"));
        bench.add(steady).await;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let churn = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(churn(&stopped));
        });
        let mut whole = 0;
        for _ in 0..100 {
            match bench.netlink.dump(&scope("10.5.0.0/16")).await {
                Ok(dump) => {
                    assert_eq!(dump.len(), STEADY);
                    whole += 1;
                }
                Err(KernelError::Unstable { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
        churn.join().unwrap();
        assert!(whole > 0, "no dump was whole");
    });
}

async fn churn(stop: &AtomicBool) {
    let netlink = Netlink::open().unwrap();
    let routes = (0..250).map(|n| route(&format!("10.6.0.{n}/32"), "192.168.9.3"));
    let routes = routes.map(Object::from).collect::<Vec<_>>();
    while !stop.load(Ordering::Relaxed) {
        let add = routes.iter().cloned().map(Op::Add).collect::<Vec<_>>();
        let remove = routes.iter().cloned().map(Op::Remove).collect::<Vec<_>>();
        assert_eq!(netlink.apply(&add).await.unwrap().failed, []);
        assert_eq!(netlink.apply(&remove).await.unwrap().failed, []);
    }
}
