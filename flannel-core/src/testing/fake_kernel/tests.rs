use futures_util::FutureExt;
use tokio::task::unconstrained;

use super::kernel::is_default;
use super::*;
use crate::testing::programmer_contract::{self, Disturbance, Foreign, ProgrammerHarness};
use crate::{Hops, RouteId, RouteKind};

struct Harness(FakeKernel);

#[async_trait]
impl ProgrammerHarness for Harness {
    fn programmer(&self) -> Arc<dyn RouteProgrammer> {
        Arc::new(self.0.clone())
    }

    fn uplink(&self) -> DeviceName {
        device("eth0")
    }

    fn gateway(&self, family: Family, n: u8) -> IpAddr {
        let first = match family {
            Family::V4 => "192.0.2.1",
            Family::V6 => "fd00::1",
        };
        family.address(Family::to_number(first.parse().unwrap()) + u128::from(n))
    }

    async fn foreign(&self, change: Foreign) {
        match change {
            Foreign::Add(route) => self.0.operator(Operator::Add(route)).unwrap(),
            Foreign::Append(route) => self.0.operator(Operator::Append(route)).unwrap(),
            Foreign::Remove(route) => self.0.operator(Operator::Delete(route)).unwrap(),
            Foreign::Replace(route) => self.0.operator(Operator::Replace(route)).unwrap(),
            Foreign::LinkDown => self.0.link_down("eth0"),
            Foreign::LinkUp => self.0.link_up("eth0"),
        }
    }

    async fn disturb(&self, disturbance: Disturbance) {
        let kernel = &self.0;
        match disturbance {
            Disturbance::MakeOtherKind(name) => kernel.create_link(name.as_str(), &[]),
            Disturbance::Change(device) => kernel.put(device).unwrap(),
            Disturbance::Put(object) => kernel.put(object).unwrap(),
            Disturbance::Delete(object) => kernel.delete(object.id()).unwrap(),
            Disturbance::Age(neighbour) => kernel.age(neighbour.id),
            Disturbance::DeleteUplink => kernel.delete_link("eth0"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_fake_keeps_the_contract_of_a_programmer() {
    programmer_contract::all(async || Harness(host())).await;
}

#[tokio::test(start_paused = true)]
async fn the_fake_keeps_the_contract_however_long_requests_take() {
    programmer_contract::all(async || {
        let kernel = host();
        kernel.set_latency(Duration::from_millis(50), 7);
        Harness(kernel)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_kernel_that_is_left_alone_takes_no_time() {
    let start = Instant::now();
    let kernel = host();
    apply(&kernel, &[Op::Add(via("10.5.8.0/24", "192.0.2.8"))]).await;
    kernel.dump(&scope()).await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_goes_down_takes_ipv4_routes_silently_and_ipv6_routes_with_events() {
    let kernel = host();
    kernel.add_default_route("192.0.2.1", "eth0");
    let v6 = via("fd10:5:0:1::/64", "fd00::8");
    apply(
        &kernel,
        &[Op::Add(via("10.5.8.0/24", "192.0.2.8")), Op::Add(v6.clone())],
    )
    .await;
    let mut watch = kernel.watch(&scope()).unwrap();

    kernel.link_down("eth0");
    assert_eq!(ready(&mut watch), [Changed::Vanished(v6), down()]);
    assert_eq!(kernel.routes(), []);
    let failed = apply(&kernel, &[Op::Add(via("10.5.8.0/24", "192.0.2.8"))]).await;
    assert_eq!(failed, [OpErrorKind::Unreachable]);

    kernel.link_up("eth0");
    assert_eq!(ready(&mut watch), [Changed::Host]);
    assert_eq!(
        shown(&kernel),
        [
            "192.0.2.0/24 dev eth0 proto kernel",
            "fd00::/64 metric 256 dev eth0 proto kernel"
        ]
    );
    assert_eq!(kernel.facts(&[]).await.unwrap().default_routes, []);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_made_again_has_another_index_and_no_routes_but_its_own() {
    let kernel = host();
    apply(&kernel, &[Op::Add(via("10.5.8.0/24", "192.0.2.8"))]).await;
    let index = |facts: &HostFacts| facts.link(&device("eth0")).map(|link| link.index);
    let before = index(&kernel.facts(&[]).await.unwrap());
    kernel.delete_link("eth0");
    assert_eq!(index(&kernel.facts(&[]).await.unwrap()), None);
    assert_eq!(
        apply(&kernel, &[Op::Add(via("10.5.8.0/24", "192.0.2.8"))]).await,
        [OpErrorKind::NoDevice]
    );
    kernel.create_link("eth0", &["192.0.2.7/24"]);
    assert!(index(&kernel.facts(&[]).await.unwrap()) > before);
    assert_eq!(shown(&kernel), ["192.0.2.0/24 dev eth0 proto kernel"]);
}

#[tokio::test(start_paused = true)]
async fn the_last_ipv4_address_takes_the_devices_ipv4_routes_along_and_one_of_several_does_not() {
    let kernel = FakeKernel::host(
        "eth0",
        &["192.0.2.7/24", "198.51.100.7/24", "fd00::7/64"],
        &["192.0.2.1"],
    );
    let (v4, v6) = (via("10.5.8.0/24", "192.0.2.8"), via("fd10:5:0:1::/64", "fd00::8"));
    let mut preferring = route("10.5.9.0/24", "192.0.2.8");
    preferring.source = Some("192.0.2.7".parse().unwrap());
    apply(&kernel, &[Op::Add(v4), Op::Add(v6), Op::Add(preferring.into())]).await;
    let mut watch = kernel.watch(&scope()).unwrap();

    kernel.set_addresses("eth0", &["198.51.100.7/24", "fd00::7/64"]);
    let left = [
        "0.0.0.0/0 via 192.0.2.1 dev eth0 proto boot",
        "10.5.8.0/24 via 192.0.2.8 dev eth0 proto 70",
        "198.51.100.0/24 dev eth0 proto kernel",
        "fd00::/64 metric 256 dev eth0 proto kernel",
        "fd10:5:0:1::/64 via fd00::8 dev eth0 proto 70",
    ];
    assert_eq!(shown(&kernel), left);
    let failed = apply(&kernel, &[Op::Add(via("10.5.9.0/24", "192.0.2.8"))]).await;
    assert_eq!(
        failed,
        [OpErrorKind::Unreachable],
        "the gateway is no longer on the link"
    );

    kernel.set_addresses("eth0", &["192.0.2.9/24", "fd00::7/64"]);
    assert_eq!(
        shown(&kernel),
        ["192.0.2.0/24 dev eth0 proto kernel", left[3], left[4]]
    );
    // Some are removed, new ones are added, and likewise again.
    assert_eq!(ready(&mut watch), [down(), Changed::Host, down(), Changed::Host]);
}

#[tokio::test(start_paused = true)]
async fn a_link_is_down_when_it_goes_down_or_away_or_loses_an_address_and_else_there_are_facts() {
    type Edit = fn(&mut Link);
    let kernel = host();
    let mut watch = kernel.watch(&scope()).unwrap();
    let gains = |link: &mut Link| link.addresses.push(address("192.0.2.253/24"));
    let deprecates = |link: &mut Link| link.addresses.iter_mut().for_each(|own| own.unusable = true);
    let loses = |link: &mut Link| link.addresses.truncate(link.addresses.len() - 1);
    let shrinks = |link: &mut Link| link.mtu = 1400;
    let stops = |link: &mut Link| link.up = false;
    let starts = |link: &mut Link| link.up = true;
    let steps: [(Edit, Changed); 9] = [
        (gains, Changed::Host),
        (deprecates, Changed::Host),
        (loses, down()),
        (shrinks, Changed::Host),
        (stops, down()),
        (shrinks, Changed::Host),
        (loses, down()),
        (starts, Changed::Host),
        (shrinks, Changed::Host),
    ];
    for (nth, (edit, expected)) in steps.into_iter().enumerate() {
        kernel.change_link("eth0", edit);
        assert_eq!(ready(&mut watch), [expected], "step {nth}");
    }
    kernel.delete_link("eth0");
    kernel.create_link("eth0", &["192.0.2.7/24"]);
    assert_eq!(ready(&mut watch), [down(), Changed::Host]);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_is_on_the_link_when_the_longest_match_over_the_device_has_no_gateway() {
    let kernel = host();
    let on_link = Hop {
        gateway: None,
        ..Hop::via("192.0.2.1".parse().unwrap(), device("eth0"))
    };
    let wide = Route::unicast("10.5.0.0/16".parse().unwrap(), on_link, 4);
    kernel.operator(Operator::Add(wide)).unwrap();
    kernel
        .operator(Operator::Add(route("10.5.7.0/24", "192.0.2.1")))
        .unwrap();
    let plan = [
        Op::Add(via("10.6.1.0/24", "10.5.6.1")),
        Op::Add(via("10.6.2.0/24", "10.5.7.1")),
        Op::Add(via("fd10:5::/64", "fe80::1")),
        Op::Add(via("fd10:5:0:1::/64", "fd00::fe")),
    ];
    assert_eq!(
        apply(&kernel, &plan).await,
        [OpErrorKind::Unreachable, OpErrorKind::Other],
        "behind a gateway, and our own"
    );
}

#[tokio::test(start_paused = true)]
async fn what_the_kernel_cannot_use_it_refuses_by_its_reason() {
    let kernel = host();
    let ours = route("10.5.8.0/24", "192.0.2.8");
    let foreign_source = Route {
        source: Some("192.0.2.9".parse().unwrap()),
        ..ours.clone()
    };
    let no_hop = Route {
        hops: Hops::None,
        ..ours.clone()
    };
    for bad in [foreign_source, no_hop] {
        assert_eq!(apply(&kernel, &[Op::Add(bad.into())]).await, [OpErrorKind::Other]);
    }
    kernel.operator(Operator::Add(ours.clone())).unwrap();
    let twice = kernel.operator(Operator::Append(ours.clone())).unwrap_err();
    assert_eq!(twice.kind, OpErrorKind::Exists);

    kernel.link_down("eth0");
    let mut hop = ours.hops.as_slice()[0];
    hop.onlink = true;
    let onlink = Route {
        hops: Hops::One(hop),
        ..ours
    };
    let failed = apply(&kernel, &[Op::Add(onlink.into())]).await;
    assert_eq!(failed, [OpErrorKind::NoDevice], "the network is down");
}

#[tokio::test(start_paused = true)]
async fn an_ipv4_replacement_that_changes_nothing_is_not_announced_and_one_of_what_waits_behind_fails() {
    let kernel = host();
    let mut watch = kernel.watch(&scope()).unwrap();
    let (first, second) = (
        route("10.5.8.0/24", "192.0.2.8"),
        route("10.5.8.0/24", "192.0.2.9"),
    );
    kernel.operator(Operator::Add(first.clone())).unwrap();
    kernel.operator(Operator::Append(second.clone())).unwrap();
    ready(&mut watch);

    let replace = |to: &Route| Op::Replace {
        from: first.clone().into(),
        to: to.clone().into(),
    };
    assert_eq!(
        apply(&kernel, &[replace(&first), replace(&second)]).await,
        [OpErrorKind::Exists]
    );
    assert_eq!(ready(&mut watch), []);

    kernel.operator(Operator::Delete(first)).unwrap();
    assert_eq!(
        kernel.routes().iter().filter(|route| **route == second).count(),
        1,
        "it moved up"
    );
}

#[tokio::test(start_paused = true)]
async fn an_ipv6_gateway_that_is_appended_becomes_a_hop_and_a_metric_of_0_becomes_1024() {
    let kernel = host();
    let mut first = route("fd10:5::/64", "fd00::8");
    first.id.metric = 0;
    kernel.operator(Operator::Add(first)).unwrap();
    kernel
        .operator(Operator::Append(route("fd10:5::/64", "fd00::9")))
        .unwrap();
    assert_eq!(
        shown(&kernel)[2],
        "fd10:5::/64 via fd00::8 dev eth0 via fd00::9 dev eth0 proto 70"
    );
}

#[tokio::test(start_paused = true)]
async fn own_changes_come_back_as_events_in_their_order() {
    let kernel = host();
    let mut watch = kernel.watch(&scope()).unwrap();
    let (before, after) = (via("10.5.8.0/24", "192.0.2.8"), via("10.5.8.0/24", "192.0.2.9"));
    let replace = Op::Replace {
        from: before.clone(),
        to: after.clone(),
    };
    apply(
        &kernel,
        &[Op::Add(before.clone()), replace, Op::Remove(after.clone())],
    )
    .await;
    let expected = [
        Changed::Appeared(before),
        Changed::Appeared(after.clone()),
        Changed::Vanished(after),
    ];
    assert_eq!(ready(&mut watch), expected);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_too_slow_is_told_and_hears_the_latest() {
    let kernel = host();
    let mut watch = kernel.watch(&scope()).unwrap();
    for n in 0..=QUEUE {
        kernel.stray(route(&format!("10.5.{}.{}/30", n / 64, n % 64 * 4), "192.0.2.8"));
    }
    let heard = ready(&mut watch);
    assert_eq!(heard[0], Changed::Overrun);
    assert_eq!(heard.len(), QUEUE + 1);
    assert_eq!(heard[QUEUE], Changed::Appeared(via("10.5.4.0/30", "192.0.2.8")));
    kernel.flush();
    assert_eq!(ready(&mut watch)[0], Changed::Overrun, "each time anew");
}

#[tokio::test(start_paused = true)]
async fn a_flush_leaves_what_the_host_needs_and_a_mute_kernel_says_nothing() {
    let kernel = host();
    kernel.add_default_route("192.0.2.1", "eth0");
    let needed = kernel.routes();
    let ours = via("10.5.8.0/24", "192.0.2.8");
    let mut watch = kernel.watch(&scope()).unwrap();
    apply(&kernel, &[Op::Add(ours.clone())]).await;
    ready(&mut watch);
    kernel.flush();
    assert_eq!(kernel.routes(), needed);
    assert_eq!(ready(&mut watch), [Changed::Vanished(ours.clone())]);

    kernel.mute();
    apply(&kernel, &[Op::Add(ours)]).await;
    kernel.flush();
    kernel.unmute();
    assert_eq!(ready(&mut watch), []);
    assert_eq!(kernel.routes(), needed);
}

#[tokio::test(start_paused = true)]
async fn operations_fail_as_often_as_asked_and_without_effect() {
    let kernel = host();
    let ours = via("10.5.8.0/24", "192.0.2.8");
    kernel.fail("10.5.8.0/24".parse().unwrap(), OpErrorKind::Denied, 2);
    let plan = [Op::Add(ours.clone()), Op::Add(via("10.5.9.0/24", "192.0.2.8"))];
    assert_eq!(apply(&kernel, &plan).await, [OpErrorKind::Denied]);
    assert_eq!(
        apply(&kernel, &[Op::Remove(ours.clone())]).await,
        [OpErrorKind::Denied]
    );
    assert_eq!(apply(&kernel, &[Op::Add(ours)]).await, []);
    let outcomes: Vec<_> = kernel.log().iter().map(|entry| entry.outcome.is_ok()).collect();
    assert_eq!(outcomes, [false, true, false, true]);
    kernel.clear_log();
    assert!(kernel.log().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_plan_whose_reply_is_lost_has_taken_effect_up_to_some_operation() {
    let plan: Vec<Op> = (0..8)
        .map(|n| Op::Add(via(&format!("10.5.{n}.0/24"), "192.0.2.8")))
        .collect();
    let mut done = Vec::new();
    for seed in 0..32 {
        let kernel = host();
        kernel.set_latency(Duration::ZERO, seed);
        kernel.lose_replies(1);
        let lost = kernel.apply(&plan).await.unwrap_err();
        assert!(lost.is_transient());
        done.push(kernel.log().len());
        assert_eq!(kernel.dump(&scope()).await.unwrap().len(), kernel.log().len());
        assert!(kernel.apply(&[]).await.is_ok(), "only the one was to be lost");
    }
    assert_eq!(
        (done.iter().min(), done.iter().max()),
        (Some(&0), Some(&8)),
        "{done:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn dumps_fail_as_often_as_asked_and_are_counted_all_the_same() {
    let kernel = host();
    kernel.fail_dumps(1);
    kernel.fail_facts(1);
    assert!(kernel.dump(&scope()).await.unwrap_err().is_transient());
    assert!(kernel.facts(&[]).await.unwrap_err().is_transient());
    assert!(kernel.dump(&scope()).await.is_ok());
    assert!(kernel.facts(&[]).await.is_ok());
    assert_eq!(kernel.dumps(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_seed_makes_the_same_delays_again_and_another_makes_others() {
    let time = async |seed| {
        let kernel = host();
        kernel.set_latency(Duration::from_millis(500), seed);
        let start = Instant::now();
        kernel.dump(&scope()).await.unwrap();
        start.elapsed()
    };
    assert_eq!(time(1).await, time(1).await);
    assert_ne!(time(1).await, time(2).await);
}

#[tokio::test(start_paused = true)]
async fn the_facts_are_those_of_the_links_and_of_the_table() {
    let kernel = FakeKernel::host("eth0", &["192.0.2.7/24", "fd00::7/64"], &["fd00::1", "192.0.2.1"]);
    kernel.create_link("eth1", &["198.51.100.7/24"]);
    kernel.change_link("eth1", |link| link.mtu = 9000);
    let resolver = "192.0.2.53".parse().unwrap();
    kernel.set_resolvers(&[resolver]);
    let mut better = kernel.routes().into_iter().find(is_default).unwrap();
    better.hops = Hops::One(Hop::via("198.51.100.1".parse().unwrap(), device("eth1")));
    better.id.metric = 100;
    kernel.operator(Operator::Add(better)).unwrap();

    let addresses = ["8.8.8.8", "198.51.100.9", "2001:db8::1", "192.0.2.7"].map(|text| text.parse().unwrap());
    let facts = kernel.facts(&addresses).await.unwrap();
    let names: Vec<&str> = facts.links.iter().map(|link| link.name.as_str()).collect();
    assert_eq!((names, facts.links[2].mtu), (vec!["lo", "eth0", "eth1"], 9000));
    let defaults: Vec<_> = facts
        .default_routes
        .iter()
        .map(|route| (route.family, route.metric))
        .collect();
    assert_eq!(defaults, [(Family::V4, 0), (Family::V4, 100), (Family::V6, 1024)]);
    assert_eq!(facts.resolvers, [resolver]);
    let reached: Vec<_> = addresses
        .iter()
        .map(|address| facts.reached.get(address))
        .map(|reached| reached.map(|reached| format!("{} {}", reached.device, reached.source.unwrap())))
        .collect();
    let expected = [
        "eth0 192.0.2.7",
        "eth1 198.51.100.7",
        "eth0 fd00::7",
        "lo 192.0.2.7",
    ];
    assert_eq!(reached, expected.map(|text| Some(text.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_with_the_kernel_and_a_default_route_is_news_about_the_host() {
    let kernel = host();
    let mut watch = kernel.watch(&scope()).unwrap();
    kernel.add_default_route("192.0.2.1", "eth0");
    let blackhole = Route {
        kind: RouteKind::Blackhole,
        hops: Hops::None,
        id: RouteId::to("10.5.0.0/16".parse().unwrap()),
        ..route("10.5.0.0/16", "192.0.2.1")
    };
    kernel.operator(Operator::Add(blackhole.clone())).unwrap();
    assert_eq!(
        ready(&mut watch),
        [Changed::Host, Changed::Appeared(blackhole.into())]
    );
    drop(kernel);
    assert_eq!(watch.next().await, None);
}

fn down() -> Changed {
    Changed::Down(device("eth0"))
}

fn host() -> FakeKernel {
    FakeKernel::host("eth0", &["192.0.2.254/24", "fd00::fe/64"], &[])
}

fn scope() -> Scope {
    Scope {
        networks: vec!["10.5.0.0/16".parse().unwrap(), "fd10:5::/48".parse().unwrap()],
        ..Scope::default()
    }
}

fn route(destination: &str, gateway: &str) -> Route {
    let hop = Hop::via(gateway.parse().unwrap(), device("eth0"));
    Route::unicast(destination.parse().unwrap(), hop, 70)
}

fn via(destination: &str, gateway: &str) -> Object {
    route(destination, gateway).into()
}

async fn apply(kernel: &FakeKernel, plan: &[Op]) -> Vec<OpErrorKind> {
    let failed = kernel.apply(plan).await.unwrap().failed;
    failed.into_iter().map(|(_, error)| error.kind).collect()
}

fn shown(kernel: &FakeKernel) -> Vec<String> {
    kernel.routes().iter().map(Route::to_string).collect()
}

/// What can be read without waiting, however much it is.
fn ready(watch: &mut BoxStream<'static, Changed>) -> Vec<Changed> {
    std::iter::from_fn(|| unconstrained(watch.next()).now_or_never().flatten()).collect()
}
