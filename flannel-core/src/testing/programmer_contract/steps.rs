//! The steps of which the clauses are made.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_core::stream::BoxStream;
use futures_util::StreamExt;
use ipnet::IpNet;

use super::{Foreign, ProgrammerHarness, network, subnet};
use crate::{
    Applied, Changed, DEFAULT_PROTOCOL, Family, Hop, Object, Op, OpErrorKind, Route, RouteId, Scope,
};

/// How long an announcement may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// `RTPROT_STATIC`: what an operator's routes carry.
pub(super) const STATIC: u8 = 4;

/// A watch whose reader does not wait for ever.
pub(super) struct Events {
    stream: BoxStream<'static, Changed>,
}

impl Events {
    pub(super) fn of(harness: &dyn ProgrammerHarness, family: Family) -> Self {
        Self::in_scope(harness, &scope(family))
    }

    pub(super) fn in_scope(harness: &dyn ProgrammerHarness, scope: &Scope) -> Self {
        let stream = harness.programmer().watch(scope);
        Self {
            stream: stream.expect("a watch"),
        }
    }

    pub(super) async fn next(&mut self) -> Changed {
        let next = tokio::time::timeout(PATIENCE, self.stream.next());
        let next = next.await.expect("an announcement in time");
        next.expect("a watch that does not end")
    }

    /// What was announced before a route that is made now, but for facts about the host: those may
    /// change at any time.
    pub(super) async fn until_fence(
        &mut self,
        harness: &dyn ProgrammerHarness,
        family: Family,
    ) -> Vec<Changed> {
        let fence = route(harness, family, 1023, 0);
        harness.foreign(Foreign::Add(fence.clone())).await;
        let appeared = Changed::Appeared(fence.clone().into());
        let mut seen = Vec::new();
        loop {
            match self.next().await {
                Changed::Host | Changed::Down(_) | Changed::Table(_) => {}
                event if event == appeared => break,
                event => seen.push(event),
            }
        }
        harness.foreign(Foreign::Remove(fence)).await;
        seen
    }
}

pub(super) fn route(harness: &dyn ProgrammerHarness, family: Family, n: u16, gateway: u8) -> Route {
    let hop = Hop::via(harness.gateway(family, gateway), harness.uplink());
    Route::unicast(subnet(family, n), hop, DEFAULT_PROTOCOL)
}

pub(super) fn blackhole(family: Family, n: u16, protocol: u8) -> Route {
    Route {
        id: RouteId::to(subnet(family, n)),
        ..Route::blackhole(subnet(family, n), protocol)
    }
}

pub(super) fn add(route: Route) -> Op {
    Op::Add(route.into())
}

pub(super) fn remove(route: Route) -> Op {
    Op::Remove(route.into())
}

pub(super) fn replace(from: Route, to: Route) -> Op {
    Op::Replace {
        from: from.into(),
        to: to.into(),
    }
}

pub(super) async fn apply(harness: &dyn ProgrammerHarness, plan: &[Op]) -> Applied {
    let applied = harness.programmer().apply(plan).await;
    applied.expect("a known outcome")
}

pub(super) async fn apply_all(harness: &dyn ProgrammerHarness, plan: impl IntoIterator<Item = Op>) {
    let plan = plan.into_iter().collect::<Vec<_>>();
    assert_eq!(apply(harness, &plan).await, Applied::default());
}

pub(super) async fn failures(harness: &dyn ProgrammerHarness, plan: &[Op]) -> Vec<(usize, OpErrorKind)> {
    let failed = apply(harness, plan).await.failed;
    failed.into_iter().map(|(at, error)| (at, error.kind)).collect()
}

pub(super) async fn assert_routes(harness: &dyn ProgrammerHarness, family: Family, want: Vec<Route>) {
    let dump = harness.programmer().dump(&scope(family)).await;
    let sorted = |mut objects: Vec<Object>| {
        objects.sort_by_key(Object::id);
        objects
    };
    let want = want.into_iter().map(Object::from).collect();
    assert_eq!(sorted(dump.expect("a whole dump")), sorted(want));
}

pub(super) fn scope(family: Family) -> Scope {
    Scope {
        networks: vec![network(family)],
        ..Scope::default()
    }
}

/// A host on none of the uplink's networks.
pub(super) fn elsewhere(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(203, 0, 113, 1).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1).into(),
    }
}

/// A network that contains [`network`].
pub(super) fn wider(family: Family) -> IpNet {
    network(family).supernet().expect("room above it")
}
