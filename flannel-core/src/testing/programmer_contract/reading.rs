//! What [`RouteProgrammer::dump`](crate::RouteProgrammer::dump) tells.

use super::steps::{Events, STATIC, add, apply_all, assert_routes, blackhole, remove, replace, route, wider};
use super::{Foreign, ProgrammerHarness, supernet};
use crate::{Family, Hop, Hops, Route, RouteId, RouteKind, Scope};

/// A route whose destination is not wholly inside the scope is no business of ours.
pub async fn routes_outside_the_scope_are_neither_dumped_nor_announced(harness: &dyn ProgrammerHarness) {
    for family in Family::ALL {
        let inside = route(harness, family, 1, 1);
        let mut events = Events::of(harness, family);
        for destination in [supernet(family, 6), wider(family)] {
            let outside = Route {
                id: RouteId::to(destination),
                ..inside.clone()
            };
            harness.foreign(Foreign::Add(outside)).await;
        }
        let seen = events.until_fence(harness, family).await;
        assert!(seen.is_empty(), "announced from outside the scope: {seen:?}");
        harness.foreign(Foreign::Add(inside.clone())).await;
        assert_routes(harness, family, vec![inside]).await;
    }
    let nothing = harness.programmer().dump(&Scope::default()).await.unwrap();
    assert_eq!(nothing, [], "an empty scope has objects");
}

/// Other people's routes are dumped with their protocol, metric, type of service and kind; one that
/// carries an attribute that ours never do is [`Route::decorated`].
pub async fn foreign_routes_are_dumped_as_they_are(harness: &dyn ProgrammerHarness) {
    for family in Family::ALL {
        let mut metric = route(harness, family, 1, 1);
        metric.protocol = 186;
        metric.id.metric = 42;
        let mut unreachable = blackhole(family, 2, STATIC);
        unreachable.kind = RouteKind::Unreachable;
        let mut prohibit = blackhole(family, 3, STATIC);
        prohibit.kind = RouteKind::Other(8);
        let mut decorated = route(harness, family, 4, 1);
        decorated.decorated = true;
        let mut all = vec![
            metric,
            unreachable,
            prohibit,
            blackhole(family, 5, STATIC),
            decorated,
        ];
        if family == Family::V4 {
            let mut tos = route(harness, family, 1, 1);
            tos.id.tos = 8;
            all.push(tos);
        }
        for route in &all {
            harness.foreign(Foreign::Add(route.clone())).await;
        }
        assert_routes(harness, family, all).await;
    }
}

/// IPv4 routes in one place are numbered from the one that forwards.
pub async fn stacked_routes_are_told_apart(harness: &dyn ProgrammerHarness) {
    let mut stack = [1, 2, 3].map(|gateway| route(harness, Family::V4, 1, gateway));
    for (position, route) in (0..).zip(&mut stack) {
        harness.foreign(Foreign::Append(route.clone())).await;
        route.id.position = position;
    }
    assert_routes(harness, Family::V4, stack.to_vec()).await;

    let [first, mut second, mut third] = stack;
    apply_all(harness, [remove(second.clone())]).await;
    third.id.position = 1;
    assert_routes(harness, Family::V4, vec![first.clone(), third.clone()]).await;
    second.id.position = 0;
    apply_all(harness, [replace(first, second.clone())]).await;
    assert_routes(harness, Family::V4, vec![second, third]).await;
}

/// A multipath route has all its hops, and removing a route over one of them leaves it alone.
pub async fn several_hops_are_not_taken_for_one(harness: &dyn ProgrammerHarness) {
    for family in Family::ALL {
        let one = route(harness, family, 1, 1);
        let hop = |n| Hop::via(harness.gateway(family, n), harness.uplink());
        let many = Route {
            hops: Hops::Many(vec![hop(1), hop(2)]),
            ..one.clone()
        };
        harness.foreign(Foreign::Add(many.clone())).await;
        assert_routes(harness, family, vec![many.clone()]).await;

        let three = Route {
            hops: Hops::Many(vec![hop(1), hop(2), hop(3)]),
            ..route(harness, family, 2, 1)
        };
        apply_all(harness, [add(three.clone()), replace(many, one.clone())]).await;
        assert_routes(harness, family, vec![one.clone(), three.clone()]).await;
        apply_all(harness, [remove(three)]).await;
        assert_routes(harness, family, vec![one]).await;
    }
}
