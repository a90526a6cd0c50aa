//! What every [`RouteProgrammer`] keeps to, as a suite that runs against any of them.
//!
//! Whoever writes a programmer, or a double of one, implements [`ProgrammerHarness`] and runs [`all`]:
//!
//! ```ignore
//! #[tokio::test]
//! async fn my_programmer_keeps_the_contract() {
//!     programmer_contract::all(async || MyHarness::fresh().await).await;
//! }
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use futures_util::StreamExt;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{
    Applied, Changed, DEFAULT_PROTOCOL, DeviceName, Family, Hop, Hops, Object, Op, OpErrorKind, Route,
    RouteId, RouteKind, RouteProgrammer, Scope,
};

/// How long an announcement may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// `RTPROT_STATIC`: what an operator's routes carry.
const STATIC: u8 = 4;

/// A kernel, real or not, that nobody else uses: no route in [`network`] but those of the suite, and
/// no default route.
#[async_trait]
pub trait ProgrammerHarness: Send + Sync {
    /// The programmer that is looked at; the same one each time.
    fn programmer(&self) -> Arc<dyn RouteProgrammer>;

    /// A device that is up and has on-link networks of both families.
    fn uplink(&self) -> DeviceName;

    /// The `n`th of at least 200 hosts on the uplink's link.
    fn gateway(&self, family: Family, n: u8) -> IpAddr;

    /// Makes a change that is not the programmer's, and returns once it is made.
    async fn foreign(&self, change: Foreign);
}

/// What somebody else does to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Foreign {
    /// Makes a route where there is none (`ip route add`). One that is [decorated](Route::decorated)
    /// gets an MTU.
    Add(Route),
    /// Puts a route behind those in its place (`ip route append`).
    Append(Route),
    /// Removes a route (`ip route del`).
    Remove(Route),
    /// Puts a route in the place of the one that forwards (`ip route replace`).
    Replace(Route),
    /// Takes the uplink down, and its routes with it.
    LinkDown,
    /// Takes the uplink up again, with the addresses that it had; its routes stay away.
    LinkUp,
}

/// Runs every clause, each against a harness of its own.
///
/// # Panics
///
/// When a clause is broken.
pub async fn all<H: ProgrammerHarness>(make: impl AsyncFn() -> H) {
    an_added_route_is_dumped_exactly_as_asked(&make().await).await;
    add_neither_replaces_nor_doubles(&make().await).await;
    replace_changes_a_route_in_one_step(&make().await).await;
    replace_makes_a_route_that_has_gone(&make().await).await;
    remove_takes_exactly_the_route_that_it_names(&make().await).await;
    remove_leaves_a_route_that_differs_alone(&make().await).await;
    a_failure_names_the_operation_and_stops_no_other(&make().await).await;
    a_failure_says_what_it_means(&make().await).await;
    operations_are_made_in_their_order(&make().await).await;
    an_empty_plan_changes_nothing(&make().await).await;
    a_thousand_routes_in_one_plan_all_arrive(&make().await).await;
    routes_outside_the_scope_are_neither_dumped_nor_announced(&make().await).await;
    foreign_routes_are_dumped_as_they_are(&make().await).await;
    stacked_routes_are_told_apart(&make().await).await;
    several_hops_are_not_taken_for_one(&make().await).await;
    foreign_changes_are_announced(&make().await).await;
    every_watch_is_told(&make().await).await;
    a_link_that_goes_down_is_announced_and_its_routes_are_gone(&make().await).await;
}

/// The network that the suite works in.
#[must_use]
pub fn network(family: Family) -> IpNet {
    supernet(family, 5)
}

/// The `n`th of 1024 subnets of [`network`].
///
/// # Panics
///
/// When `n` is 1024 or more.
#[must_use]
pub fn subnet(family: Family, n: u16) -> IpNet {
    assert!(n < 1024, "there is no subnet {n}");
    let [high, low] = (n << 6).to_be_bytes();
    match family {
        Family::V4 => v4(Ipv4Addr::new(10, 5, high, low), 26),
        Family::V6 => v6(Ipv6Addr::new(0xfd10, 5, 0, n, 0, 0, 0, 0), 64),
    }
}

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
        let mut want = vec![
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

/// Whatever somebody else adds, replaces or removes after [`RouteProgrammer::watch`] has returned is
/// announced, read or not; a replacement is no removal.
pub async fn foreign_changes_are_announced(harness: &dyn ProgrammerHarness) {
    for family in Family::ALL {
        let before = Route {
            protocol: STATIC,
            ..route(harness, family, 1, 1)
        };
        let after = Route {
            protocol: crate::PROTOCOL_BOOT,
            ..route(harness, family, 1, 2)
        };
        let mut events = Events::of(harness, family);
        harness.foreign(Foreign::Add(before.clone())).await;
        harness.foreign(Foreign::Replace(after.clone())).await;
        harness.foreign(Foreign::Remove(after.clone())).await;
        let seen = events.until_fence(harness, family).await;
        let expected = [
            Changed::Appeared(before.into()),
            Changed::Appeared(after.clone().into()),
            Changed::Vanished(after.into()),
        ];
        assert_eq!(seen, expected);
    }
}

/// Two watches are independent of each other, and each sees its own scope.
pub async fn every_watch_is_told(harness: &dyn ProgrammerHarness) {
    let mut watches = Family::ALL.map(|family| Events::of(harness, family));
    for family in Family::ALL {
        let theirs = route(harness, family, 1, 1);
        harness.foreign(Foreign::Add(theirs)).await;
    }
    for (family, events) in Family::ALL.into_iter().zip(&mut watches) {
        let seen = events.until_fence(harness, family).await;
        let expected = Changed::Appeared(route(harness, family, 1, 1).into());
        assert_eq!(seen, [expected], "{family}");
    }
}

/// The kernel drops a downed link's routes, those of IPv4 without a word: what is announced is
/// [`Changed::Host`], and the next dump has none of them.
pub async fn a_link_that_goes_down_is_announced_and_its_routes_are_gone(harness: &dyn ProgrammerHarness) {
    let made = Family::ALL.map(|family| route(harness, family, 1, 1));
    apply_all(harness, made.iter().cloned().map(add)).await;

    let mut events = Events::of(harness, Family::V4);
    harness.foreign(Foreign::LinkDown).await;
    while events.next().await != Changed::Host {}
    for family in Family::ALL {
        assert_routes(harness, family, vec![]).await;
    }
    harness.foreign(Foreign::LinkUp).await;
    while events.next().await != Changed::Host {}
    apply_all(harness, made.iter().cloned().map(add)).await;
    for (family, route) in Family::ALL.into_iter().zip(made) {
        assert_routes(harness, family, vec![route]).await;
    }
}

/// A watch whose reader does not wait for ever.
struct Events {
    stream: BoxStream<'static, Changed>,
}

impl Events {
    fn of(harness: &dyn ProgrammerHarness, family: Family) -> Self {
        let stream = harness.programmer().watch(&scope(family));
        Self {
            stream: stream.expect("a watch"),
        }
    }

    async fn next(&mut self) -> Changed {
        let next = tokio::time::timeout(PATIENCE, self.stream.next());
        let next = next.await.expect("an announcement in time");
        next.expect("a watch that does not end")
    }

    /// What was announced before a route that is made now, but for facts about the host: those may
    /// change at any time.
    async fn until_fence(&mut self, harness: &dyn ProgrammerHarness, family: Family) -> Vec<Changed> {
        let fence = route(harness, family, 1023, 0);
        harness.foreign(Foreign::Add(fence.clone())).await;
        let appeared = Changed::Appeared(fence.clone().into());
        let mut seen = Vec::new();
        loop {
            match self.next().await {
                Changed::Host => {}
                event if event == appeared => break,
                event => seen.push(event),
            }
        }
        harness.foreign(Foreign::Remove(fence)).await;
        seen
    }
}

fn route(harness: &dyn ProgrammerHarness, family: Family, n: u16, gateway: u8) -> Route {
    let hop = Hop::via(harness.gateway(family, gateway), harness.uplink());
    Route::unicast(subnet(family, n), hop, DEFAULT_PROTOCOL)
}

fn blackhole(family: Family, n: u16, protocol: u8) -> Route {
    Route {
        id: RouteId::to(subnet(family, n)),
        kind: RouteKind::Blackhole,
        protocol,
        hops: Hops::None,
        source: None,
        scope: 0,
        decorated: false,
    }
}

fn add(route: Route) -> Op {
    Op::Add(route.into())
}

fn remove(route: Route) -> Op {
    Op::Remove(route.into())
}

fn replace(from: Route, to: Route) -> Op {
    Op::Replace {
        from: from.into(),
        to: to.into(),
    }
}

async fn apply(harness: &dyn ProgrammerHarness, plan: &[Op]) -> Applied {
    let applied = harness.programmer().apply(plan).await;
    applied.expect("a known outcome")
}

async fn apply_all(harness: &dyn ProgrammerHarness, plan: impl IntoIterator<Item = Op>) {
    let plan = plan.into_iter().collect::<Vec<_>>();
    assert_eq!(apply(harness, &plan).await, Applied::default());
}

async fn failures(harness: &dyn ProgrammerHarness, plan: &[Op]) -> Vec<(usize, OpErrorKind)> {
    let failed = apply(harness, plan).await.failed;
    failed.into_iter().map(|(at, error)| (at, error.kind)).collect()
}

async fn assert_routes(harness: &dyn ProgrammerHarness, family: Family, want: Vec<Route>) {
    let dump = harness.programmer().dump(&scope(family)).await;
    let sorted = |mut objects: Vec<Object>| {
        objects.sort_by_key(Object::id);
        objects
    };
    let want = want.into_iter().map(Object::from).collect();
    assert_eq!(sorted(dump.expect("a whole dump")), sorted(want));
}

fn scope(family: Family) -> Scope {
    Scope {
        networks: vec![network(family)],
    }
}

/// A host on none of the uplink's networks.
fn elsewhere(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(203, 0, 113, 1).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1).into(),
    }
}

fn supernet(family: Family, n: u8) -> IpNet {
    match family {
        Family::V4 => v4(Ipv4Addr::new(10, n, 0, 0), 16),
        Family::V6 => v6(Ipv6Addr::new(0xfd10, n.into(), 0, 0, 0, 0, 0, 0), 48),
    }
}

/// A network that contains [`network`].
fn wider(family: Family) -> IpNet {
    network(family).supernet().expect("room above it")
}

fn v4(address: Ipv4Addr, len: u8) -> IpNet {
    Ipv4Net::new(address, len).expect("a prefix length").into()
}

fn v6(address: Ipv6Addr, len: u8) -> IpNet {
    Ipv6Net::new(address, len).expect("a prefix length").into()
}
