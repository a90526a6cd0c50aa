use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::{
    Address, Device, DeviceKind, DeviceName, Family, Forwarding, ForwardingId, Hop, Hops, MacAddress,
    Neighbour, NeighbourId, Route, RouteId, RouteKind, Vxlan,
};

fn route(destination: &str, gateway: &str) -> Object {
    let hop = Hop::via(gateway.parse().unwrap(), "eth0".parse().unwrap());
    Route::unicast(destination.parse().unwrap(), hop, 70).into()
}

fn state(objects: impl IntoIterator<Item = Object>) -> State {
    objects.into_iter().map(|object| (object.id(), object)).collect()
}

/// What a kernel would make of the plan; it refuses what does not fit, as kernels do. What rests on a
/// device goes with it.
fn apply(plan: &[Op], state: &State) -> Result<State, String> {
    let mut state = state.clone();
    for op in plan {
        let fits = match op {
            Op::Add(object) => state.insert(object.id(), object.clone()).is_none(),
            Op::Replace { from, to } => {
                let there = state.insert(to.id(), to.clone());
                // What went with its device is made.
                from.id() == to.id() && there.is_none_or(|there| there == *from)
            }
            Op::Remove(object) => state.remove(&object.id()).is_none_or(|there| there == *object),
        };
        if !fits {
            return Err(format!("{op:?} does not fit"));
        }
        state.retain(|_, object| !op.takes_along(object));
    }
    Ok(state)
}

/// Whether everything is there as wanted, and nothing else.
fn is_as_wanted(state: &State, want: &State) -> bool {
    state.keys().eq(want.keys())
        && state
            .values()
            .zip(want.values())
            .all(|(is, want)| is.satisfies(want))
}

/// What applying plans comes to, one after the other, until there is nothing to do.
fn applied_until_done(have: &State, want: &State) -> Result<State, String> {
    let mut state = have.clone();
    // A device that is made anew leaves work for a second plan.
    for _ in 0..2 {
        state = apply(&diff(&state, want), &state)?;
    }
    Ok(state)
}

#[test]
fn what_is_missing_is_added_what_differs_replaced_and_what_is_left_over_removed() {
    let [stays, before, after, new, old] = [
        route("10.5.1.0/24", "192.0.2.1"),
        route("10.5.2.0/24", "192.0.2.2"),
        route("10.5.2.0/24", "192.0.2.22"),
        route("10.5.3.0/24", "192.0.2.3"),
        route("10.5.0.0/24", "192.0.2.9"),
    ];
    let have = state([stays.clone(), before.clone(), old.clone()]);
    let want = state([stays, after.clone(), new.clone()]);
    let replace = Op::Replace {
        from: before,
        to: after,
    };
    assert_eq!(diff(&have, &want), [replace, Op::Add(new), Op::Remove(old)]);
}

#[test]
fn every_field_of_a_route_counts() {
    let Object::Route(plain) = route("10.5.1.0/24", "192.0.2.1") else {
        panic!("a route");
    };
    let hop = |gateway: &str, device: &str, onlink| Hop {
        onlink,
        ..Hop::via(gateway.parse().unwrap(), device.parse().unwrap())
    };
    for other in [
        Route {
            protocol: 3,
            ..plain.clone()
        },
        Route {
            kind: RouteKind::Blackhole,
            hops: Hops::None,
            ..plain.clone()
        },
        Route {
            hops: Hops::One(hop("192.0.2.2", "eth0", false)),
            ..plain.clone()
        },
        Route {
            hops: Hops::One(hop("192.0.2.1", "eth1", false)),
            ..plain.clone()
        },
        Route {
            hops: Hops::One(hop("192.0.2.1", "eth0", true)),
            ..plain.clone()
        },
        Route {
            source: Some("192.0.2.7".parse().unwrap()),
            ..plain.clone()
        },
        Route {
            scope: 253,
            ..plain.clone()
        },
        Route {
            decorated: true,
            ..plain.clone()
        },
    ] {
        let (have, want) = (state([other.clone().into()]), state([plain.clone().into()]));
        let expected = Op::Replace {
            from: other.into(),
            to: plain.clone().into(),
        };
        assert_eq!(diff(&have, &want), [expected]);
    }
}

#[test]
fn a_route_with_another_metric_or_position_is_another_route() {
    let Object::Route(plain) = route("10.5.1.0/24", "192.0.2.1") else {
        panic!("a route");
    };
    for id in [
        RouteId {
            metric: 50,
            ..plain.id
        },
        RouteId { tos: 8, ..plain.id },
        RouteId {
            position: 1,
            ..plain.id
        },
    ] {
        let stray: Object = Route { id, ..plain.clone() }.into();
        let want = state([plain.clone().into()]);
        let have = state([stray.clone()]);
        assert_eq!(
            diff(&have, &want),
            [Op::Add(plain.clone().into()), Op::Remove(stray)]
        );
    }
}

#[test]
fn a_plan_over_some_objects_leaves_the_others_alone() {
    let [first, second] = [
        route("10.5.1.0/24", "192.0.2.1"),
        route("10.5.2.0/24", "192.0.2.2"),
    ];
    let want = state([first, second.clone()]);
    let plan = diff_of(&State::new(), &want, [second.id()].into_iter());
    assert_eq!(plan, [Op::Add(second)]);
}

#[test]
fn an_operation_knows_its_object_and_what_it_leaves_in_its_place() {
    let [before, after] = [
        route("10.5.1.0/24", "192.0.2.1"),
        route("10.5.1.0/24", "192.0.2.2"),
    ];
    let replace = Op::Replace {
        from: before.clone(),
        to: after.clone(),
    };
    for (op, result) in [
        (Op::Add(before.clone()), Some(&before)),
        (replace, Some(&after)),
        (Op::Remove(before.clone()), None),
    ] {
        assert_eq!(op.id(), before.id());
        assert_eq!(op.result(), result);
    }
}

#[test]
fn what_takes_a_device_away_takes_along_what_rests_on_it() {
    let name: DeviceName = "flannel.1".parse().unwrap();
    let device = |vni, mac| Device {
        name,
        kind: DeviceKind::Vxlan(Vxlan::new(vni, 8472)),
        mac: MacAddress([2, 0, 0, 0, 0, mac]),
        mtu: 1450,
        up: true,
        accepts_advertisements: false,
        checksum_offload: None,
    };
    let on = |name: DeviceName| -> [Object; 4] {
        let address = std::net::IpAddr::from([10, 5, 1, 0]);
        let (mac, hop) = (MacAddress([2, 0, 0, 0, 0, 9]), Hop::via(address, name));
        [
            Address::permanent(name, address.into()).into(),
            Forwarding::to(name, mac, address).into(),
            Neighbour {
                id: NeighbourId {
                    device: name,
                    address,
                },
                mac,
            }
            .into(),
            Route::unicast("10.5.1.0/24".parse().unwrap(), hop, 70).into(),
        ]
    };
    let replace = |to: Device| Op::Replace {
        from: device(1, 1).into(),
        to: to.into(),
    };
    let smaller = Device {
        mtu: 1400,
        ..device(1, 1)
    };
    for (op, expected) in [
        (Op::Remove(device(1, 1).into()), [true; 4]),
        (replace(device(2, 1)), [true; 4]),
        (replace(device(1, 2)), [false; 4]),
        (replace(smaller), [false; 4]),
        (Op::Add(device(1, 1).into()), [false; 4]),
        (Op::Remove(on(name)[0].clone()), [false; 4]),
    ] {
        let gone = on(name).map(|object| op.takes_along(&object));
        assert_eq!(gone, expected, "{op:?}");
        let elsewhere = on("flannel.2".parse().unwrap());
        assert!(elsewhere.iter().all(|object| !op.takes_along(object)), "{op:?}");
        assert!(
            !op.takes_along(&device(1, 1).into()),
            "a device does not rest on itself"
        );
    }
}

#[test]
fn a_peer_is_made_from_its_forwarding_entry_up_and_taken_away_from_its_route_down() {
    let name: DeviceName = "flannel.1".parse().unwrap();
    let address = std::net::IpAddr::from([10, 5, 1, 0]);
    let mac = |n| MacAddress([2, 0, 0, 0, 0, n]);
    let id = NeighbourId {
        device: name,
        address,
    };
    let (entry, neighbour) = (
        |n| Object::from(Forwarding::to(name, mac(n), [192, 0, 2, 1].into())),
        |n| Object::from(Neighbour { id, mac: mac(n) }),
    );
    let hop = Hop {
        onlink: true,
        ..Hop::via(address, name)
    };
    let route: Object = Route::unicast("10.5.1.0/24".parse().unwrap(), hop, 70).into();
    let before = state([entry(9), neighbour(9), route.clone()]);
    assert_eq!(
        diff(&State::new(), &before),
        [entry(9), neighbour(9), route.clone()].map(Op::Add)
    );
    assert_eq!(
        diff(&before, &State::new()),
        [route.clone(), neighbour(9), entry(9)].map(Op::Remove)
    );
    // Another MAC address: whichever of the two is the greater, its entry is there before it is used.
    for other in [1, 200] {
        let after = state([entry(other), neighbour(other), route.clone()]);
        let replace = Op::Replace {
            from: neighbour(9),
            to: neighbour(other),
        };
        let expected = [Op::Add(entry(other)), replace, Op::Remove(entry(9))];
        assert_eq!(diff(&before, &after), expected);
    }
}

fn any_route() -> impl Strategy<Value = Object> {
    let families = prop_oneof![Just(Family::V4), Just(Family::V6)];
    (
        families,
        0u128..6,
        0u32..2,
        0u16..2,
        1u128..4,
        0u8..2,
        any_device_name(),
    )
        .prop_map(|(family, third, metric, position, host, protocol, device)| {
            let (destination, gateway) = match family {
                Family::V4 => (0x0a05_0000 | third << 8, 0xc000_0200 | host),
                Family::V6 => (0xfd00 << 112 | third << 64, 0x2001 << 112 | host),
            };
            let len = family.bits() - 8;
            let destination = IpNet::new(family.address(destination), len).unwrap().trunc();
            let hop = Hop::via(family.address(gateway), device);
            let route = Route::unicast(destination, hop, 70 + protocol);
            let id = RouteId {
                metric: route.id.metric + metric,
                position,
                ..route.id
            };
            Route { id, ..route }.into()
        })
}

fn any_device_name() -> impl Strategy<Value = DeviceName> {
    prop_oneof![Just("flannel.1"), Just("flannel.2"), Just("eth0")].prop_map(|name| name.parse().unwrap())
}

fn any_device() -> impl Strategy<Value = Object> {
    let offload = prop_oneof![Just(None), Just(Some(true)), Just(Some(false))];
    (
        any_device_name(),
        1u32..3,
        1u8..3,
        0u32..2,
        any::<bool>(),
        offload,
    )
        .prop_map(|(name, vni, mac, mtu, up, checksum_offload)| {
            Device {
                name,
                kind: DeviceKind::Vxlan(Vxlan::new(vni, 8472)),
                mac: MacAddress([2, 0, 0, 0, 0, mac]),
                mtu: 1400 + mtu,
                up,
                accepts_advertisements: false,
                checksum_offload,
            }
            .into()
        })
}

/// An address, a neighbour or a forwarding entry.
fn any_object_on_a_device() -> impl Strategy<Value = Object> {
    (any_device_name(), 0u8..3, 0u8..4, 0u8..3, any::<bool>()).prop_map(|(device, kind, n, value, flag)| {
        let address = std::net::IpAddr::from([10, 5, n, 0]);
        let mac = MacAddress([2, 0, 0, 0, 0, value]);
        match kind {
            0 => Object::Address(Address {
                permanent: flag,
                ..Address::permanent(device, address.into())
            }),
            1 => Object::Neighbour(Neighbour {
                id: NeighbourId { device, address },
                mac,
            }),
            _ => {
                let entry = Forwarding::to(device, MacAddress([2, 0, 0, 0, 1, n]), [192, 0, 2, value].into());
                let position = u16::from(flag && n == 0);
                Object::Forwarding(Forwarding {
                    id: ForwardingId { position, ..entry.id },
                    decorated: flag,
                    ..entry
                })
            }
        }
    })
}

fn any_object() -> impl Strategy<Value = Object> {
    prop_oneof![2 => any_route(), 1 => any_device(), 3 => any_object_on_a_device()]
}

fn any_state() -> impl Strategy<Value = State> {
    proptest::collection::vec(any_object(), 0..16).prop_map(state)
}

proptest! {
    #[test]
    fn a_plan_turns_what_there_is_into_what_is_wanted(have in any_state(), want in any_state()) {
        let after = applied_until_done(&have, &want).unwrap();
        prop_assert!(is_as_wanted(&after, &want), "{:?}", after);
        prop_assert_eq!(diff(&after, &want), []);
        prop_assert_eq!(diff(&want, &want), []);
    }

    #[test]
    fn one_plan_is_enough_where_no_device_is_made_anew(
        have in any_state(),
        want in any_state(),
    ) {
        let plan = diff(&have, &want);
        let takes_along = |op: &Op| want.values().any(|object| op.takes_along(object));
        let after = apply(&plan, &have).unwrap();
        prop_assert!(plan.iter().any(takes_along) || is_as_wanted(&after, &want), "{:?}", after);
    }

    #[test]
    fn additions_come_in_the_order_of_creation_and_removals_last_in_reverse(
        have in any_state(),
        want in any_state(),
    ) {
        let plan = diff(&have, &want);
        let creations: Vec<ObjectId> = plan
            .iter()
            .take_while(|op| op.result().is_some())
            .map(Op::id)
            .collect();
        prop_assert!(creations.is_sorted_by(|one, next| one < next));
        let removals = &plan[creations.len()..];
        prop_assert!(removals.iter().all(|op| op.result().is_none()));
        prop_assert!(removals.is_sorted_by(|one, next| one.id() > next.id()));
        // Nothing is touched twice, and nothing that is as it should be.
        for op in &plan {
            let as_it_should_be = match (have.get(&op.id()), want.get(&op.id())) {
                (Some(have), Some(want)) => have.satisfies(want),
                (have, want) => have.is_none() && want.is_none(),
            };
            prop_assert!(!as_it_should_be, "{:?}", op);
        }
    }

    #[test]
    fn a_plan_that_stops_anywhere_is_finished_by_the_next(
        have in any_state(),
        want in any_state(),
        done in 0usize..24,
    ) {
        let plan = diff(&have, &want);
        let half = apply(&plan[..done.min(plan.len())], &have).unwrap();
        let after = applied_until_done(&half, &want).unwrap();
        prop_assert!(is_as_wanted(&after, &want), "{:?}", after);
    }
}
