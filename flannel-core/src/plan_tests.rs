use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::{Family, Hop, Hops, Route, RouteId, RouteKind};

fn route(destination: &str, gateway: &str) -> Object {
    let hop = Hop::via(gateway.parse().unwrap(), "eth0".parse().unwrap());
    Route::unicast(destination.parse().unwrap(), hop, 70).into()
}

fn state(objects: impl IntoIterator<Item = Object>) -> State {
    objects.into_iter().map(|object| (object.id(), object)).collect()
}

/// What a kernel would make of the plan; it refuses what does not fit, as kernels do.
fn apply(plan: &[Op], state: &State) -> Result<State, String> {
    let mut state = state.clone();
    for op in plan {
        let fits = match op {
            Op::Add(object) => state.insert(object.id(), object.clone()).is_none(),
            Op::Replace { from, to } => {
                from.id() == to.id() && state.insert(to.id(), to.clone()).as_ref() == Some(from)
            }
            Op::Remove(object) => state.remove(&object.id()).as_ref() == Some(object),
        };
        if !fits {
            return Err(format!("{op:?} does not fit"));
        }
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

fn any_object() -> impl Strategy<Value = Object> {
    let families = prop_oneof![Just(Family::V4), Just(Family::V6)];
    (families, 0u128..6, 0u32..2, 0u16..2, 1u128..4, 0u8..2).prop_map(
        |(family, third, metric, position, host, protocol)| {
            let (destination, gateway) = match family {
                Family::V4 => (0x0a05_0000 | third << 8, 0xc000_0200 | host),
                Family::V6 => (0xfd00 << 112 | third << 64, 0x2001 << 112 | host),
            };
            let len = family.bits() - 8;
            let destination = IpNet::new(family.address(destination), len).unwrap().trunc();
            let hop = Hop::via(family.address(gateway), "eth0".parse().unwrap());
            let route = Route::unicast(destination, hop, 70 + protocol);
            let id = RouteId {
                metric: route.id.metric + metric,
                position,
                ..route.id
            };
            Route { id, ..route }.into()
        },
    )
}

fn any_state() -> impl Strategy<Value = State> {
    proptest::collection::vec(any_object(), 0..12).prop_map(state)
}

proptest! {
    #[test]
    fn a_plan_turns_what_there_is_into_what_is_wanted(have in any_state(), want in any_state()) {
        prop_assert_eq!(apply(&diff(&have, &want), &have), Ok(want.clone()));
        prop_assert_eq!(diff(&want, &want), []);
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
            prop_assert!(have.get(&op.id()) != want.get(&op.id()));
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
        prop_assert_eq!(apply(&diff(&half, &want), &half), Ok(want));
    }
}
