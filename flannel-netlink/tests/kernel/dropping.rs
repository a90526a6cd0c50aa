//! Routes that drop packets: what keeps packets to addresses of our own subnet that no pod has from
//! leaving the host.

use flannel_core::{Changed, Object, Op, Route, RouteProgrammer};
use flannel_netlink::Netlink;

use crate::namespace::{Bench, ip, run};

const SUBNETS: [(&str, &str, &str); 2] = [
    ("10.5.7.0/24", "10.5.7.1/24", "10.5.0.0/16"),
    ("fd10:5:0:7::/64", "fd10:5:0:7::1/64", "fd10:5::/48"),
];

/// One that any other route to the same destination comes before.
fn blackhole(destination: &str) -> Route {
    let mut route = Route::blackhole(destination.parse().unwrap(), 70);
    route.id.metric = 65535;
    route
}

async fn done(bench: &Bench, op: Op) {
    let failed = bench.netlink.apply(&[op]).await.unwrap().failed;
    assert_eq!(failed, []);
}

#[test]
fn a_route_that_drops_packets_is_dumped_as_it_was_added_and_looks_to_ip_route_as_it_should() {
    run(async |bench| {
        for (subnet, _, network) in SUBNETS {
            bench.add([blackhole(subnet)]).await;
            assert_eq!(bench.dump(network).await, [Object::from(blackhole(subnet))]);
        }
        let v4 = ip("route show root 10.5.0.0/16");
        assert_eq!(v4.trim_end(), "blackhole 10.5.7.0/24 proto 70 metric 65535");
        let v6 = ip("-6 route show root fd10:5::/48");
        assert_eq!(
            v6.trim_end(),
            "blackhole fd10:5:0:7::/64 dev lo proto 70 metric 65535 pref medium"
        );
    });
}

#[test]
fn one_of_another_hand_is_dumped_and_announced_as_ours_would_be() {
    run(async |bench| {
        let other = Netlink::open().unwrap();
        for (subnet, _, network) in SUBNETS {
            let mut watch = bench.watch(network);
            ip(&format!("route add blackhole {subnet} metric 65535 proto 70"));
            assert_eq!(bench.dump(network).await, [Object::from(blackhole(subnet))]);
            let expected = Object::from(blackhole(subnet));
            assert_eq!(watch.next_object().await, Changed::Appeared(expected.clone()));
            let removed = other.apply(&[Op::Remove(expected.clone())]).await;
            assert_eq!(removed.unwrap().failed, []);
            assert_eq!(watch.next_object().await, Changed::Vanished(expected));
        }
    });
}

#[test]
fn beside_a_connected_route_it_is_added_replaced_and_removed_without_touching_that() {
    run(async |bench| {
        ip("link set v1 up");
        for (subnet, address, network) in SUBNETS {
            ip(&format!("address add {address} dev v1"));
            let connected = bench.dump(network).await;
            assert_eq!(connected.len(), 1, "{connected:?}");

            done(&bench, Op::Add(blackhole(subnet).into())).await;
            let of_both = |route: Route| [connected.clone(), vec![route.into()]].concat();
            assert_eq!(bench.dump(network).await, of_both(blackhole(subnet)));

            let mut unreachable = blackhole(subnet);
            unreachable.kind = flannel_core::RouteKind::Unreachable;
            for (from, to) in [
                (blackhole(subnet), unreachable.clone()),
                (unreachable, blackhole(subnet)),
            ] {
                let replace = Op::Replace {
                    from: from.into(),
                    to: to.clone().into(),
                };
                done(&bench, replace).await;
                assert_eq!(bench.dump(network).await, of_both(to));
            }

            done(&bench, Op::Remove(blackhole(subnet).into())).await;
            assert_eq!(bench.dump(network).await, connected);
        }
    });
}

#[test]
fn removing_one_leaves_those_with_another_metric_or_of_another_protocol_alone() {
    run(async |bench| {
        for (subnet, _, network) in SUBNETS {
            let mut other = blackhole(subnet);
            other.id.metric = 7;
            let mut foreign = blackhole(subnet);
            foreign.id.metric = 8;
            foreign.protocol = 4;
            bench
                .add([other.clone(), foreign.clone(), blackhole(subnet)])
                .await;
            done(&bench, Op::Remove(blackhole(subnet).into())).await;
            let left = [other, foreign.clone()].map(Object::from);
            assert_eq!(bench.dump(network).await, left);
            foreign.protocol = 70;
            let failed = bench.netlink.apply(&[Op::Remove(foreign.into())]).await;
            assert_eq!(failed.unwrap().failed.len(), 1);
            assert_eq!(bench.dump(network).await, left);
        }
    });
}
