//! The rules of the packet filter, and the route that drops what is for no pod: kept, put right, told of.
#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use flannel_core::testing::{FakeFirewall, FakeKernel, FakeStore, Operator, PlainRoutes};
use flannel_core::{
    Engine, EngineHandle, Family, Filter, FirewallError, NodeId, Options, PodNetwork, Readiness, Reason,
    Route, RouteKind, Status, StoreError,
};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

const CONFIG: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#;
const TTL: Duration = Duration::from_secs(86_400);

struct Running {
    store: FakeStore,
    kernel: FakeKernel,
    firewall: FakeFirewall,
    handle: EngineHandle,
    task: JoinHandle<Result<(), StoreError>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    fn start(config: &str, firewall: FakeFirewall, options: Options) -> Self {
        let store = FakeStore::new(TTL);
        store.put_config(Some(config));
        let kernel = FakeKernel::host(
            "eth0",
            &["192.0.2.1/24", "2001:db8::1/64"],
            &["192.0.2.254", "2001:db8::fe"],
        );
        let engine = Engine::new(
            Arc::new(store.client()),
            Arc::new(kernel.clone()),
            vec![Box::new(PlainRoutes)],
            options,
        )
        .with_firewall(Arc::new(firewall.clone()));
        let handle = engine.handle();
        let task = tokio::spawn(engine.run(pending()));
        Self {
            store,
            kernel,
            firewall,
            handle,
            task,
        }
    }

    async fn ready(config: &str, firewall: FakeFirewall) -> Self {
        let running = Self::start(config, firewall, Options::new(NodeId(1)));
        running
            .until(|status| status.readiness() == Readiness::Ready)
            .await;
        running
    }

    async fn until(&self, asked: impl Fn(&Status) -> bool + Send) -> Arc<Status> {
        let found = timeout(Duration::from_secs(60), self.handle.wait_for(asked)).await;
        found
            .unwrap_or_else(|_| panic!("{:#?}", self.handle.status()))
            .unwrap()
    }

    fn rules(&self) -> PodNetwork {
        self.firewall.rules().unwrap()
    }
}

fn refused() -> FirewallError {
    FirewallError::Failed {
        command: "nft -f -".to_owned(),
        reason: "no".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn rules_are_made_for_what_the_config_and_the_lease_say() {
    let config = r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/48","EnableNFTables":true,
        "NonMasqueradeCIDRs":["192.168.0.0/16","fd20::/48"],"Backend":{"Type":"host-gw"}}"#;
    let running = Running::ready(config, FakeFirewall::masquerading()).await;
    let (rules, lease) = (running.rules(), running.handle.status().lease.unwrap());
    assert_eq!(rules.networks, running.handle.status().network);
    for family in Family::ALL {
        assert!(rules.subnets.get(family).is_some());
        assert_eq!(rules.subnets.get(family).copied(), lease.subnet.net(family));
    }
    let ranges: Vec<String> = rules.unmasqueraded.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["192.168.0.0/16", "fd20::/48"]);
    assert!(rules.nftables);
    assert_eq!((running.firewall.looks(), running.firewall.writes()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_changed_config_changes_the_rules_at_once() {
    let running = Running::ready(CONFIG, FakeFirewall::forwarding()).await;
    assert!(!running.rules().nftables);
    for (config, holds) in [
        (
            r#"{"Network":"10.5.0.0/16","EnableNFTables":true,"Backend":{"Type":"host-gw"}}"#,
            (|rules| rules.nftables) as fn(&PodNetwork) -> bool,
        ),
        (
            r#"{"Network":"10.5.0.0/16","NonMasqueradeCIDRs":["192.0.2.0/24"],"Backend":{"Type":"host-gw"}}"#,
            |rules| rules.unmasqueraded.len() == 1 && !rules.nftables,
        ),
    ] {
        running.store.put_config(Some(config));
        let begin = Instant::now();
        while !holds(&running.rules()) {
            assert!(begin.elapsed() < Duration::from_secs(1), "{config}");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rules_that_are_gone_are_back_at_once_when_that_is_heard_of_and_by_the_next_resync_when_not() {
    let running = Running::ready(CONFIG, FakeFirewall::masquerading()).await;
    for (table, within) in [
        (Some(Some("ip fake")), 1),
        (Some(None), 1),
        (Some(Some("ip other")), 6),
        (None, 6),
    ] {
        sleep(Duration::from_millis(700)).await;
        running.firewall.flush();
        if let Some(table) = table {
            running.kernel.change_table(table);
        }
        let begin = Instant::now();
        while running.firewall.rules().is_none() {
            assert!(begin.elapsed() < Duration::from_secs(within), "{table:?}");
            sleep(Duration::from_millis(10)).await;
        }
        if table.is_none_or(|table| table == Some("ip other")) {
            assert!(
                begin.elapsed() > Duration::from_secs(2),
                "{table:?} was no concern"
            );
        }
    }
    assert_eq!(running.handle.status().counters.rule_repairs, 4);
}

#[tokio::test(start_paused = true)]
async fn rules_that_nobody_changes_are_looked_at_every_resync_and_not_written() {
    let running = Running::ready(CONFIG, FakeFirewall::masquerading()).await;
    let before = running.firewall.looks();
    sleep(Duration::from_secs(60)).await;
    let looks = running.firewall.looks() - before;
    assert!((11..=12).contains(&looks), "{looks}");
    assert_eq!(running.firewall.writes(), 1);
    assert_eq!(running.handle.status().counters.rule_repairs, 0);
}

#[tokio::test(start_paused = true)]
async fn tables_that_never_rest_are_looked_at_twenty_times_a_second_at_most() {
    let running = Running::ready(CONFIG, FakeFirewall::masquerading()).await;
    let before = running.firewall.looks();
    for _ in 0..1000 {
        running.kernel.change_table(Some("ip fake"));
        sleep(Duration::from_millis(1)).await;
    }
    let looks = running.firewall.looks() - before;
    assert!((15..=21).contains(&looks), "{looks}");
}

#[tokio::test(start_paused = true)]
async fn a_host_is_not_ready_before_its_rules_are_made() {
    for firewall in [FakeFirewall::masquerading(), FakeFirewall::forwarding()] {
        let running = Running::start(CONFIG, firewall, Options::new(NodeId(1)));
        while running.firewall.writes() == 0 {
            assert!(!running.handle.status().is_ready());
            tokio::task::yield_now().await;
        }
        running
            .until(|status| status.readiness() == Readiness::Ready)
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_masquerade_rules_that_were_asked_for_the_host_is_not_ready_and_says_why() {
    let firewall = FakeFirewall::masquerading();
    firewall.fail(Some(refused()));
    let running = Running::start(CONFIG, firewall, Options::new(NodeId(1)));
    let told = |status: &Status| {
        let text = "nft -f - failed: no".to_owned();
        status.reasons == [Reason::Masquerade(text)]
    };
    let status = running.until(told).await;
    assert_eq!(status.readiness(), Readiness::NotReady);
    running.firewall.fail(None);
    running
        .until(|status| status.readiness() == Readiness::Ready)
        .await;
}

#[tokio::test(start_paused = true)]
async fn without_forward_rules_the_host_is_degraded_and_says_why() {
    let firewall = FakeFirewall::forwarding();
    firewall.fail(Some(refused()));
    let running = Running::start(CONFIG, firewall, Options::new(NodeId(1)));
    let status = running.until(Status::is_ready).await;
    assert_eq!(status.readiness(), Readiness::Degraded);
    assert!(
        matches!(&*status.reasons, [Reason::ForwardRules(_)]),
        "{status:#?}"
    );
    running.firewall.fail(None);
    running
        .until(|status| status.readiness() == Readiness::Ready)
        .await;
}

#[tokio::test(start_paused = true)]
async fn rules_that_cannot_be_looked_at_for_a_moment_do_not_count() {
    let running = Running::ready(CONFIG, FakeFirewall::masquerading()).await;
    running.firewall.fail(Some(refused()));
    running.kernel.change_table(None);
    sleep(Duration::from_millis(900)).await;
    assert_eq!(running.handle.status().reasons, []);
    let begin = Instant::now();
    running.until(|status| !status.is_ready()).await;
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn rules_that_cannot_be_kept_are_tried_again_every_resync_and_soon_after_a_change() {
    let running = Running::ready(CONFIG, FakeFirewall::masquerading()).await;
    running.firewall.fail(Some(refused()));
    sleep(Duration::from_secs(60)).await;
    let before = running.firewall.looks();
    sleep(Duration::from_secs(60)).await;
    let looks = running.firewall.looks() - before;
    assert!((11..=13).contains(&looks), "{looks}");
    for announce in [
        (|running: &Running| running.kernel.change_table(Some("ip fake"))) as fn(&Running),
        |running| running.handle.audit(),
    ] {
        // Just after a try.
        let looks = running.firewall.looks();
        while running.firewall.looks() == looks {
            sleep(Duration::from_millis(10)).await;
        }
        let looks = running.firewall.looks();
        announce(&running);
        sleep(Duration::from_millis(400)).await;
        assert_eq!(running.firewall.looks(), looks + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn somebody_who_undoes_rules_again_and_again_is_told_of_until_that_is_over() {
    let running = Running::ready(CONFIG, FakeFirewall::masquerading()).await;
    for repairs in 1..=10 {
        assert_eq!(
            running.handle.status().reasons,
            [],
            "after {} repairs",
            repairs - 1
        );
        running.firewall.flush();
        running.kernel.change_table(Some("ip fake"));
        running
            .until(|status| status.counters.rule_repairs == repairs)
            .await;
    }
    let status = running
        .until(|status| matches!(&*status.reasons, [Reason::RulesUndone(_)]))
        .await;
    assert_eq!(status.readiness(), Readiness::Degraded);
    let begin = Instant::now();
    let calm = timeout(
        Duration::from_secs(70),
        running.handle.wait_for(|status| status.reasons.is_empty()),
    );
    assert!(calm.await.is_ok());
    assert!(begin.elapsed() > Duration::from_secs(50), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_the_firewall_sees_of_other_filters_is_told_of_like_what_the_kernel_shows() {
    let filter = |accepts: &[&str]| Filter {
        families: vec![Family::V4],
        table: "ip filter".to_owned(),
        chain: "FORWARD".to_owned(),
        accepts: accepts.iter().map(|net| net.parse().unwrap()).collect(),
        ..Filter::default()
    };
    let firewall = FakeFirewall::forwarding();
    firewall.set_filters(vec![filter(&[])]);
    let running = Running::start(CONFIG, firewall, Options::new(NodeId(1)));
    let dropped =
        |status: &Status| matches!(&*status.reasons, [Reason::Filter(text)] if text.contains("FORWARD"));
    running.until(dropped).await;
    running.firewall.set_filters(vec![filter(&["10.5.0.0/16"])]);
    running
        .until(|status| status.readiness() == Readiness::Ready)
        .await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_of_filters_before_our_own_rules_stand() {
    let firewall = FakeFirewall::masquerading();
    let running = Running::start(CONFIG, firewall, Options::new(NodeId(1)));
    let mut seen = Vec::new();
    running.kernel.set_filters(vec![Filter {
        families: vec![Family::V4],
        table: "ip filter".to_owned(),
        chain: "FORWARD".to_owned(),
        ..Filter::default()
    }]);
    let begin = Instant::now();
    while running.firewall.writes() == 0 && begin.elapsed() < Duration::from_secs(10) {
        seen.extend(running.handle.status().reasons.clone());
        tokio::task::yield_now().await;
    }
    assert_eq!(running.firewall.writes(), 1);
    assert!(!seen.iter().any(|reason| reason.kind() == "filter"), "{seen:?}");
    running
        .until(|status| status.reasons.iter().any(|reason| reason.kind() == "filter"))
        .await;
}

#[tokio::test(start_paused = true)]
async fn former_networks_are_named_to_the_firewall_and_the_present_one_is_none_of_them() {
    let options = Options {
        former_networks: vec!["10.4.0.0/16".parse().unwrap(), "10.5.0.0/16".parse().unwrap()],
        ..Options::new(NodeId(1))
    };
    let running = Running::start(CONFIG, FakeFirewall::forwarding(), options);
    running.until(Status::is_ready).await;
    assert_eq!(running.rules().former, ["10.4.0.0/16".parse().unwrap()]);
}

fn blackholes(kernel: &FakeKernel) -> Vec<Route> {
    let routes = kernel.routes().into_iter();
    routes
        .filter(|route| route.kind == RouteKind::Blackhole)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_for_no_pod_is_dropped_where_that_is_asked_for() {
    for (blackhole, count) in [(false, 0), (true, 1)] {
        let options = Options {
            blackhole,
            ..Options::new(NodeId(1))
        };
        let running = Running::start(CONFIG, FakeFirewall::forwarding(), options);
        let status = running
            .until(|status| status.readiness() == Readiness::Ready)
            .await;
        let routes = blackholes(&running.kernel);
        assert_eq!(routes.len(), count);
        for route in routes {
            let own = status.lease.unwrap().subnet.net(Family::V4).unwrap();
            assert_eq!(route, Route::blackhole(own, 70));
            running.kernel.operator(Operator::Delete(route)).unwrap();
            let begin = Instant::now();
            while blackholes(&running.kernel).is_empty() {
                assert!(begin.elapsed() < Duration::from_secs(1));
                sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_route_that_drops_goes_once_it_is_no_longer_asked_for() {
    let options = Options {
        blackhole: true,
        ..Options::new(NodeId(1))
    };
    let first = Running::start(CONFIG, FakeFirewall::forwarding(), options);
    first.until(|status| status.readiness() == Readiness::Ready).await;
    assert_eq!(blackholes(&first.kernel).len(), 1);
    let (kernel, client) = (first.kernel.clone(), first.store.client());
    drop(first);
    let engine = Engine::new(
        Arc::new(client),
        Arc::new(kernel.clone()),
        vec![Box::new(PlainRoutes)],
        Options::new(NodeId(1)),
    );
    let handle = engine.handle();
    let task = tokio::spawn(engine.run(pending()));
    let ready = timeout(Duration::from_secs(30), handle.wait_for(Status::is_ready)).await;
    assert!(ready.is_ok());
    assert_eq!(blackholes(&kernel), []);
    task.abort();
}
