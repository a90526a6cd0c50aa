//! What [`RouteProgrammer::apply`](crate::RouteProgrammer::apply) does.

use super::steps::{
    Events, STATIC, add, apply, apply_all, assert_routes, blackhole, elsewhere, failures, remove, replace,
    route,
};
use super::{Foreign, ProgrammerHarness, subnet};
use crate::{Changed, DEFAULT_PROTOCOL, Family, Hop, Hops, OpErrorKind, Route};

/// Routes over a gateway, over a gateway that is not on the link's networks, over none, with a metric
/// and a type of service, and one that drops packets.
pub async fn an_added_route_is_dumped_exactly_as_asked(harness: &dyn ProgrammerHarness) {
    for family in Family::ALL {
        let via = route(harness, family, 1, 1);
        let onlink = Route {
            hops: Hops::One(Hop {
                onlink: true,
                ..Hop::via(elsewhere(family), harness.uplink())
            }),
            ..route(harness, family, 2, 1)
        };
        let direct = Hop {
            gateway: None,
            device: harness.uplink(),
            onlink: false,
        };
        let direct = Route::unicast(subnet(family, 3), direct, DEFAULT_PROTOCOL);
        let mut second = route(harness, family, 1, 2);
        second.id.metric += 7;
        let behind = Route::blackhole(subnet(family, 1), DEFAULT_PROTOCOL);
        let mut want = vec![
            behind,
            via,
            onlink,
            direct,
            second,
            blackhole(family, 4, DEFAULT_PROTOCOL),
        ];
        if family == Family::V4 {
            let mut tos = route(harness, family, 1, 3);
            tos.id.tos = 0x10;
            want.push(tos);
        }
        apply_all(harness, want.iter().cloned().map(add)).await;
        assert_routes(harness, family, want).await;
    }
}

/// `Add` where there is a route fails with [`OpErrorKind::Exists`], be that route equal, with another
/// gateway, or another's.
pub async fn add_neither_replaces_nor_doubles(harness: &dyn ProgrammerHarness) {
    for family in Family::ALL {
        let ours = route(harness, family, 1, 1);
        let theirs = Route {
            protocol: STATIC,
            ..route(harness, family, 2, 1)
        };
        harness.foreign(Foreign::Add(theirs.clone())).await;
        apply_all(harness, [add(ours.clone())]).await;
        let plan = [
            add(ours.clone()),
            add(route(harness, family, 1, 2)),
            add(route(harness, family, 2, 2)),
        ];
        let all = OpErrorKind::Exists;
        assert_eq!(failures(harness, &plan).await, [(0, all), (1, all), (2, all)]);
        assert_routes(harness, family, vec![ours, theirs]).await;
    }
}

/// `Replace` gives a route another gateway and another protocol; nobody ever sees it gone.
pub async fn replace_changes_a_route_in_one_step(harness: &dyn ProgrammerHarness) {
    for family in Family::ALL {
        let before = Route {
            protocol: crate::PROTOCOL_BOOT,
            ..route(harness, family, 1, 1)
        };
        let after = route(harness, family, 1, 2);
        harness.foreign(Foreign::Add(before.clone())).await;
        let mut events = Events::of(harness, family);
        apply_all(harness, [replace(before, after.clone())]).await;
        assert_routes(harness, family, vec![after.clone()]).await;

        // Own changes need not be announced, but where they are, then as what they are.
        for event in events.until_fence(harness, family).await {
            let expected = event == Changed::Appeared(after.clone().into());
            assert!(expected, "a replacement was announced as {event:?}");
        }
    }
}

/// `Replace` of a route that somebody removed since the dump makes the new one.
pub async fn replace_makes_a_route_that_has_gone(harness: &dyn ProgrammerHarness) {
    for family in Family::ALL {
        let after = route(harness, family, 1, 2);
        apply_all(harness, [replace(route(harness, family, 1, 1), after.clone())]).await;
        assert_routes(harness, family, vec![after]).await;
    }
}

/// `Remove` takes away one route, whatever else leads to the same destination.
pub async fn remove_takes_exactly_the_route_that_it_names(harness: &dyn ProgrammerHarness) {
    for family in Family::ALL {
        let first = route(harness, family, 1, 1);
        let mut second = first.clone();
        second.id.metric += 7;
        let dropping = blackhole(family, 2, DEFAULT_PROTOCOL);
        let beside = route(harness, family, 3, 1);
        let made = [&first, &second, &dropping, &beside];
        apply_all(harness, made.map(|route| add(route.clone()))).await;

        apply_all(harness, [remove(second), remove(dropping)]).await;
        assert_routes(harness, family, vec![first.clone(), beside.clone()]).await;
        apply_all(harness, [remove(first)]).await;
        assert_routes(harness, family, vec![beside]).await;
    }
}

/// `Remove` of a route that has another protocol, gateway or kind by now is [`OpErrorKind::Gone`].
pub async fn remove_leaves_a_route_that_differs_alone(harness: &dyn ProgrammerHarness) {
    for family in Family::ALL {
        let theirs = Route {
            protocol: STATIC,
            ..route(harness, family, 1, 1)
        };
        let moved = route(harness, family, 2, 2);
        let drops = blackhole(family, 3, DEFAULT_PROTOCOL);
        let forwards = route(harness, family, 4, 1);
        let stay = vec![theirs, moved, drops, forwards];
        for route in &stay {
            harness.foreign(Foreign::Add(route.clone())).await;
        }

        let mut plan = vec![
            remove(route(harness, family, 1, 1)),
            remove(route(harness, family, 2, 1)),
            remove(route(harness, family, 3, 1)),
            remove(blackhole(family, 4, DEFAULT_PROTOCOL)),
            remove(route(harness, family, 5, 1)),
        ];
        let mut other_metric = route(harness, family, 4, 1);
        other_metric.id.metric = 7;
        plan.push(remove(other_metric));

        let gone = (0..plan.len())
            .map(|at| (at, OpErrorKind::Gone))
            .collect::<Vec<_>>();
        assert_eq!(failures(harness, &plan).await, gone);
        assert_routes(harness, family, stay).await;
    }
}

/// What comes after a failed operation is made all the same, and the failures tell their places.
pub async fn a_failure_names_the_operation_and_stops_no_other(harness: &dyn ProgrammerHarness) {
    for family in Family::ALL {
        let good = [1, 2, 3].map(|n| route(harness, family, n, 1));
        let [first, second, third] = good.clone();
        let plan = [
            add(first),
            add(Route {
                hops: Hops::One(Hop::via(elsewhere(family), harness.uplink())),
                ..route(harness, family, 4, 1)
            }),
            add(second),
            remove(route(harness, family, 5, 1)),
            add(third),
        ];
        let expected = [(1, OpErrorKind::Unreachable), (3, OpErrorKind::Gone)];
        assert_eq!(failures(harness, &plan).await, expected);
        assert_routes(harness, family, good.to_vec()).await;
    }
}

/// An unreachable gateway and a missing device are told apart, and the text names the object.
pub async fn a_failure_says_what_it_means(harness: &dyn ProgrammerHarness) {
    for family in Family::ALL {
        let missing = "nosuchdevice".parse().unwrap();
        let hops = [
            (
                Hop::via(elsewhere(family), harness.uplink()),
                OpErrorKind::Unreachable,
            ),
            (
                Hop::via(harness.gateway(family, 1), missing),
                OpErrorKind::NoDevice,
            ),
        ];
        for (hop, kind) in hops {
            let bad = Route {
                hops: Hops::One(hop),
                ..route(harness, family, 1, 1)
            };
            let failed = apply(harness, &[add(bad.clone())]).await.failed;
            let [(0, error)] = &failed[..] else {
                panic!("{bad}: {failed:?}");
            };
            assert_eq!(error.kind, kind, "{error}");
            assert!(
                error.text.contains(&bad.to_string()),
                "{error} does not name {bad}"
            );
        }
        assert_routes(harness, family, vec![]).await;
    }
}

/// Each operation meets what those before it left.
pub async fn operations_are_made_in_their_order(harness: &dyn ProgrammerHarness) {
    for family in Family::ALL {
        let first = route(harness, family, 1, 1);
        let second = route(harness, family, 1, 2);
        let plan = [
            add(first.clone()),
            remove(first.clone()),
            add(second.clone()),
            remove(second.clone()),
            add(first.clone()),
            replace(first, second.clone()),
        ];
        apply_all(harness, plan).await;
        assert_routes(harness, family, vec![second]).await;
    }
}

/// Nothing asked, nothing done, no error.
pub async fn an_empty_plan_changes_nothing(harness: &dyn ProgrammerHarness) {
    assert_eq!(failures(harness, &[]).await, []);
    for family in Family::ALL {
        assert_routes(harness, family, vec![]).await;
    }
}

/// A plan has no upper limit.
pub async fn a_thousand_routes_in_one_plan_all_arrive(harness: &dyn ProgrammerHarness) {
    for family in Family::ALL {
        let want = (0..1000).map(|n| route(harness, family, n, n.to_be_bytes()[1] % 7));
        let want = want.collect::<Vec<_>>();
        apply_all(harness, want.iter().cloned().map(add)).await;
        assert_routes(harness, family, want.clone()).await;
        apply_all(harness, want.into_iter().map(remove)).await;
        assert_routes(harness, family, vec![]).await;
    }
}
