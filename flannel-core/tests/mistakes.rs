//! What an operator has set up wrongly: the engine says so, and that it is over, by itself.
#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use flannel_core::testing::{Cut, FakeKernel, FakeStore, FakeStoreClient, Holder, PlainRoutes};
use flannel_core::{
    Backend, BackendError, Context, DataPlane, DeviceName, Engine, EngineHandle, Family, Filter, Host, Lease,
    NetworkConfig, NodeId, Options, Published, Readiness, Reason, Skip, Status, StoreError, SubnetKey,
    Unforwarded,
};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

const CONFIG: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#;
const DUAL: &str =
    r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/48","Backend":{"Type":"host-gw"}}"#;
const TTL: Duration = Duration::from_secs(120);

/// The host is looked at this often, and a look takes no time.
const LOOKED: Duration = Duration::from_secs(11);

fn store(config: &str) -> FakeStore {
    let store = FakeStore::new(TTL);
    store.put_config(Some(config));
    store
}

fn kernel(last: u8) -> FakeKernel {
    let addresses = [format!("192.0.2.{last}/24"), format!("2001:db8::{last}/64")];
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    FakeKernel::host("eth0", &addresses, &["192.0.2.254", "2001:db8::fe"])
}

/// An engine that runs until it is dropped.
struct Running {
    handle: EngineHandle,
    client: FakeStoreClient,
    kernel: FakeKernel,
    task: JoinHandle<Result<(), StoreError>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    fn with(store: &FakeStore, kernel: FakeKernel, backend: Box<dyn Backend>, options: Options) -> Self {
        let client = store.client();
        let engine = Engine::new(
            Arc::new(client.clone()),
            Arc::new(kernel.clone()),
            vec![backend],
            options,
        );
        Self {
            handle: engine.handle(),
            client,
            kernel,
            task: tokio::spawn(engine.run(pending())),
        }
    }

    fn start(store: &FakeStore, kernel: FakeKernel, node: u128) -> Self {
        let options = Options {
            renew_margin: TTL / 2,
            ..Options::new(NodeId(node))
        };
        Self::with(store, kernel, Box::new(PlainRoutes), options)
    }

    fn status(&self) -> Arc<Status> {
        self.handle.status()
    }

    fn subnet(&self) -> Option<SubnetKey> {
        self.status().lease.map(|lease| lease.subnet)
    }

    /// Waits until there is, or is no longer, a reason of a kind, and returns it.
    async fn expect(&self, kind: &str, there: bool, within: Duration) -> Option<Reason> {
        let found = |status: &Status| {
            status
                .reasons
                .iter()
                .find(|reason| reason.kind() == kind)
                .cloned()
        };
        let waited = timeout(
            within,
            self.handle.wait_for(|status| found(status).is_some() == there),
        )
        .await;
        let status = self.status();
        assert!(waited.is_ok(), "{kind}, there: {there}: {:?}", status.reasons);
        found(&status)
    }

    async fn ready(&self) {
        let ready = self.handle.wait_for(Status::is_ready);
        let ready = timeout(Duration::from_secs(30), ready).await;
        assert!(ready.is_ok(), "{:?}", self.status().reasons);
    }
}

/// Who holds what, as the store has it over time.
fn holders(store: &FakeStore) -> Vec<(SubnetKey, Holder)> {
    let handovers = store.handovers();
    handovers
        .iter()
        .map(|handover| (handover.subnet, handover.to))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn forwarding_that_is_switched_off_is_told_of_by_the_next_look_and_so_is_its_end() {
    let running = Running::start(&store(DUAL), kernel(1), 1);
    running.ready().await;
    assert_eq!(running.status().readiness(), Readiness::Ready);
    let eth0: DeviceName = "eth0".parse().unwrap();
    for (unforwarded, names) in [
        (
            Unforwarded {
                v4: [eth0].into(),
                v6: false,
            },
            "sysctl -w net.ipv4.ip_forward=1",
        ),
        (
            Unforwarded {
                v4: [].into(),
                v6: true,
            },
            "sysctl -w net.ipv6.conf.all.forwarding=1",
        ),
    ] {
        running.kernel.set_unforwarded(unforwarded);
        let reason = running.expect("forwarding", true, LOOKED).await.unwrap();
        assert!(reason.to_string().contains(names), "{reason}");
        assert_eq!(
            running.status().readiness(),
            Readiness::Degraded,
            "a container runtime that waits for us is to switch it on"
        );
        running.kernel.set_unforwarded(Unforwarded::default());
        running.expect("forwarding", false, LOOKED).await;
    }
    assert_eq!(running.status().readiness(), Readiness::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_drops_is_told_of_by_the_next_look_until_it_accepts_the_network() {
    let running = Running::start(&store(CONFIG), kernel(1), 1);
    running.ready().await;
    let forward = |accepts: &[&str]| Filter {
        families: vec![Family::V4],
        table: "ip filter".into(),
        chain: "FORWARD".into(),
        accepts: accepts.iter().map(|net| net.parse().unwrap()).collect(),
        ..Filter::default()
    };
    running.kernel.set_filters(vec![forward(&[])]);
    let reason = running.expect("filter", true, LOOKED).await.unwrap();
    assert!(
        reason
            .to_string()
            .contains("iptables-nft -I FORWARD -s 10.5.0.0/16 -j ACCEPT"),
        "{reason}"
    );
    assert_eq!(running.status().readiness(), Readiness::Degraded);
    running.kernel.set_filters(vec![forward(&["10.5.0.0/16"])]);
    running.expect("filter", false, LOOKED).await;
}

#[tokio::test(start_paused = true)]
async fn a_bridge_for_another_subnet_is_told_of_at_once_with_its_holder_and_over_when_it_is_ours() {
    let store = store(CONFIG);
    store.put_raw(
        "10.5.200.0-24",
        r#"{"PublicIP":"192.0.2.9","BackendType":"host-gw"}"#,
    );
    let running = Running::start(&store, kernel(1), 1);
    running.ready().await;
    running.kernel.create_link("docker0", &["10.5.200.1/24"]);
    let soon = Duration::from_millis(100);
    let reason = running.expect("bridge", true, soon).await.unwrap().to_string();
    let own = running.subnet().unwrap().net(Family::V4).unwrap();
    let ought = own.hosts().next().unwrap();
    for part in [
        "docker0 has the address 10.5.200.1/24".to_owned(),
        format!("not in this host's subnet {own}"),
        "the lease 10.5.200.0/24 of 192.0.2.9".to_owned(),
        format!("ip address replace {ought}/24 dev docker0 && ip address del 10.5.200.1/24 dev docker0"),
    ] {
        assert!(reason.contains(&part), "{part}: {reason}");
    }
    // The holder is named as long as there is one.
    store.delete_raw("10.5.200.0-24");
    let nobodys = |status: &Status| {
        let mut reasons = status.reasons.iter();
        reasons.any(|reason| reason.kind() == "bridge" && !reason.to_string().contains("192.0.2.9"))
    };
    timeout(soon, running.handle.wait_for(nobodys)).await.unwrap();
    running.kernel.set_addresses("docker0", &[&format!("{ought}/24")]);
    running.expect("bridge", false, soon).await;
}

#[tokio::test(start_paused = true)]
async fn a_misspelt_member_is_told_of_until_it_is_mended() {
    let store = store(CONFIG);
    let running = Running::start(&store, kernel(1), 1);
    running.ready().await;
    let soon = Duration::from_secs(1);
    for misspelt in [
        CONFIG.replace(r#""Backend""#, r#""SubnetLen ":26,"Backend""#),
        CONFIG.replace("10.5.0.0/16", r#"10.5.0.0/16","SubnetLne":"26"#),
    ] {
        store.put_config(Some(&misspelt));
        let reason = running.expect("config_doubt", true, soon).await.unwrap();
        assert!(
            reason.to_string().contains(r#"was "SubnetLen" meant?"#),
            "{reason}"
        );
        assert_eq!(running.status().readiness(), Readiness::Degraded);
        store.put_config(Some(CONFIG));
        running.expect("config_doubt", false, soon).await;
    }
    // One that cannot be read for it: at the start, and later.
    let unreadable = CONFIG.replace("Network", "Netwrok");
    store.put_config(Some(&unreadable));
    let late = Running::start(&store, kernel(2), 2);
    for (running, kind) in [(&running, "config_refused"), (&late, "config")] {
        let reason = running.expect(kind, true, soon).await.unwrap();
        assert!(reason.to_string().contains(r#"was "Network" meant?"#), "{reason}");
    }
    store.put_config(Some(CONFIG));
    running.expect("config_refused", false, soon).await;
    late.ready().await;
    // A backend's name.
    store.put_config(Some(&CONFIG.replace("host-gw", "hots-gw")));
    let reason = running.expect("config_refused", true, soon).await.unwrap();
    assert!(
        reason.to_string().contains("unknown backend type: hots-gw")
            && reason.to_string().contains(r#"was "host-gw" meant?"#),
        "{reason}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_subnet_of_another_in_subnet_env_is_told_of_for_a_while_and_a_pinned_one_waited_for() {
    let store = store(CONFIG);
    let first = Running::start(&store, kernel(1), 1);
    first.ready().await;
    let taken = first.subnet().unwrap();
    let options = Options {
        previous: Some(taken),
        ..Options::new(NodeId(2))
    };
    let second = Running::with(&store, kernel(2), Box::new(PlainRoutes), options);
    second.ready().await;
    let reason = second
        .expect("subnet", true, Duration::from_secs(1))
        .await
        .unwrap()
        .to_string();
    for part in [
        format!(
            "the subnet {taken}, which subnet.env named, is taken by the lease {taken} of 192.0.2.1 (node "
        ),
        format!("this host has {} instead", second.subnet().unwrap()),
    ] {
        assert!(reason.contains(&part), "{part}: {reason}");
    }
    second.expect("subnet", false, Duration::from_secs(640)).await;

    let options = Options {
        pinned: Some(taken),
        ..Options::new(NodeId(3))
    };
    let third = Running::with(&store, kernel(3), Box::new(PlainRoutes), options);
    let reason = third
        .expect("lease", true, Duration::from_secs(1))
        .await
        .unwrap()
        .to_string();
    assert!(
        reason.contains(&format!(
            "the pinned subnet {taken} is taken by the lease {taken} of 192.0.2.1 (node "
        )),
        "{reason}"
    );
    assert_eq!(third.status().readiness(), Readiness::NotReady);
    drop(first);
    store.expire(taken);
    third.ready().await;
    assert_eq!(third.subnet(), Some(taken));
}

/// Two hosts that both have 192.0.2.1, the first with a lease.
async fn two_of_one_address(store: &FakeStore) -> (Running, Running, SubnetKey) {
    let first = Running::start(store, kernel(1), 1);
    first.ready().await;
    let own = first.subnet().unwrap();
    let second = Running::start(store, kernel(1), 2);
    let alive = |status: &Status| {
        let mut reasons = status.reasons.iter();
        reasons.any(|reason| matches!(reason, Reason::Lease(text) if text.contains("which is alive")))
    };
    timeout(Duration::from_secs(5), second.handle.wait_for(alive))
        .await
        .unwrap();
    (first, second, own)
}

#[tokio::test(start_paused = true)]
async fn a_second_host_of_one_address_takes_nothing_from_the_first_and_both_say_so() {
    for seed in 0..20 {
        let store = store(CONFIG);
        store.set_latency(Duration::from_millis(20), seed);
        let (first, second, own) = two_of_one_address(&store).await;
        let mut disturbed = Box::pin(first.handle.wait_for(|status| !status.is_ready()));
        let undisturbed = timeout(Duration::from_secs(500), &mut disturbed).await;
        assert!(undisturbed.is_err(), "seed {seed}: {:?}", undisturbed.unwrap());
        assert_eq!(first.subnet(), Some(own));
        assert_eq!(second.status().readiness(), Readiness::NotReady);
        assert_eq!(second.subnet(), None);
        // Not for an instant did anybody else hold it, nor did two hold anything.
        assert_eq!(holders(&store), [(own, Holder::Node(NodeId(1)))], "seed {seed}");
        let lease = store.leases().remove(0);
        assert_eq!(
            (lease.attrs.node, lease.attrs.unknown.len()),
            (Some(NodeId(1)), 0)
        );
        let theirs = second
            .expect("lease", true, Duration::ZERO)
            .await
            .unwrap()
            .to_string();
        assert!(
            theirs.contains(&format!(
                "our public address 192.0.2.1 is published by the lease {own} of 192.0.2.1"
            )),
            "{theirs}"
        );
        let ours = first
            .expect("address", true, Duration::ZERO)
            .await
            .unwrap()
            .to_string();
        assert!(
            ours.contains("node 00000000000000000000000000000002, publishes our address 192.0.2.1"),
            "{ours}"
        );
        // The claim, the challenge, the objection.
        assert_eq!(store.writes(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_with_our_address_beside_the_one_that_we_hold_is_refused_and_no_more_is_said() {
    let store = store(CONFIG);
    let running = Running::start(&store, kernel(1), 1);
    running.ready().await;
    store.put_raw(
        "10.5.200.0-24",
        r#"{"PublicIP":"192.0.2.1","BackendType":"host-gw","NodeID":"00000000000000000000000000000009"}"#,
    );
    sleep(LOOKED).await;
    let status = running.status();
    assert_eq!((status.peers.refused, &status.reasons[..]), (1, &[][..]));
}

#[tokio::test(start_paused = true)]
async fn peers_see_no_difference_while_two_hosts_contend_for_a_lease() {
    let store = store(CONFIG);
    let peer = Running::start(&store, kernel(9), 9);
    let (_first, _second, own) = two_of_one_address(&store).await;
    sleep(Duration::from_secs(1)).await;
    peer.kernel.clear_log();
    sleep(Duration::from_secs(300)).await;
    assert!(peer.kernel.log().is_empty(), "{:?}", peer.kernel.log());
    let to = own.net(Family::V4).unwrap();
    let routed = peer
        .kernel
        .routes()
        .iter()
        .any(|route| route.id.destination == to);
    assert!(routed, "{:?}", peer.kernel.routes());
}

#[tokio::test(start_paused = true)]
async fn a_second_host_goes_on_by_itself_as_soon_as_either_has_another_address() {
    for moved in [1, 2] {
        let store = store(CONFIG);
        let (first, second, own) = two_of_one_address(&store).await;
        let mover = if moved == 1 { &first } else { &second };
        mover
            .kernel
            .set_addresses("eth0", &["192.0.2.77/24", "2001:db8::77/64"]);
        second.ready().await;
        assert_eq!(first.subnet(), Some(own));
        assert_ne!(second.subnet(), Some(own));
        first.expect("address", false, Duration::from_secs(640)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_lease_of_a_host_that_is_gone_is_its_successors_within_seconds() {
    let store = store(CONFIG);
    let first = Running::start(&store, kernel(1), 1);
    first.ready().await;
    let own = first.subnet().unwrap();
    drop(first);
    // Installed anew: the same address, another id, and no subnet.env.
    let begin = Instant::now();
    let second = Running::start(&store, kernel(1), 2);
    second.ready().await;
    assert_eq!(second.subnet(), Some(own));
    let took = begin.elapsed();
    assert!((5..7).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_second_host_does_not_take_the_firsts_lease_while_that_reboots_but_when_it_has_expired() {
    let store = store(CONFIG);
    let (first, second, own) = two_of_one_address(&store).await;
    drop(first);
    sleep(TTL / 2 - Duration::from_secs(5)).await;
    assert_eq!(second.subnet(), None);
    let first = Running::start(&store, kernel(1), 1);
    first.ready().await;
    assert_eq!(first.subnet(), Some(own));
    drop(first);
    timeout(
        TTL + Duration::from_secs(5),
        second.handle.wait_for(Status::is_ready),
    )
    .await
    .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_comes_back_to_find_its_lease_anothers_does_not_fight_for_it() {
    let store = store(CONFIG);
    let first = Running::start(&store, kernel(1), 1);
    first.ready().await;
    let own = first.subnet().unwrap();
    first.client.cut(Cut::Hangs);
    let second = Running::start(&store, kernel(1), 2);
    second.ready().await;
    assert_eq!(second.subnet(), Some(own));
    first.client.heal();
    sleep(Duration::from_secs(300)).await;
    assert_eq!(second.subnet(), Some(own));
    assert_eq!(first.subnet(), None);
    let reason = first
        .expect("lease", true, Duration::ZERO)
        .await
        .unwrap()
        .to_string();
    assert!(
        reason.contains("192.0.2.1") && reason.contains("which is alive"),
        "{reason}"
    );
    let expected = [(own, Holder::Node(NodeId(1))), (own, Holder::Node(NodeId(2)))];
    assert_eq!(holders(&store), expected, "taken once, and not back and forth");
}

#[tokio::test(start_paused = true)]
async fn four_hosts_of_one_address_leave_the_lease_with_the_first() {
    for seed in 0..20 {
        let store = store(CONFIG);
        store.set_latency(Duration::from_millis(20), seed);
        let (first, _second, own) = two_of_one_address(&store).await;
        let _third = Running::start(&store, kernel(1), 3);
        let _fourth = Running::start(&store, kernel(1), 4);
        sleep(Duration::from_secs(1200)).await;
        assert_eq!(first.subnet(), Some(own), "seed {seed}");
        assert!(first.status().is_ready());
        assert_eq!(holders(&store), [(own, Holder::Node(NodeId(1)))], "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_three_hosts_of_one_address_one_of_the_others_succeeds_the_first_when_its_lease_has_expired() {
    for seed in 0..20 {
        let store = store(CONFIG);
        store.set_latency(Duration::from_millis(20), seed);
        let (first, second, _) = two_of_one_address(&store).await;
        let third = Running::start(&store, kernel(1), 3);
        sleep(Duration::from_secs(10)).await;
        drop(first);
        sleep(TTL + Duration::from_secs(60)).await;
        let ready = [&second, &third].map(|host| host.status().is_ready());
        assert!(ready.contains(&true), "seed {seed}: {ready:?}");
        // Who takes free subnets in one instant cannot know of the other; admission keeps them apart.
        let held: Vec<_> = [&second, &third]
            .iter()
            .filter_map(|host| host.subnet())
            .collect();
        assert_eq!(store.leases().len(), held.len());
    }
}

/// As host-gw does where the address is not the uplink's own.
struct Strict;

impl Backend for Strict {
    fn kind(&self) -> &'static str {
        "host-gw"
    }

    fn configure(&self, _: &NetworkConfig) -> Result<Arc<dyn DataPlane>, BackendError> {
        Ok(Arc::new(Self))
    }
}

impl DataPlane for Strict {
    fn mtu(&self, host: &Host) -> u32 {
        host.uplink.mtu
    }

    fn publish(&self, host: &Host, _: Option<&Lease>) -> Result<Published, BackendError> {
        if host.uplink.public != host.uplink.addresses {
            return Err(BackendError {
                backend: "host-gw",
                problem: "not its own".to_owned(),
            });
        }
        Ok(Published::default())
    }

    fn peer(&self, context: &Context<'_>, peer: &Lease, out: &mut flannel_core::Desired) -> Result<(), Skip> {
        PlainRoutes.peer(context, peer, out)
    }
}

#[tokio::test(start_paused = true)]
async fn a_public_ip_that_is_a_neighbours_is_told_of_with_the_lease_and_asked_of_nobody() {
    let store = store(CONFIG);
    let first = Running::start(&store, kernel(1), 1);
    first.ready().await;
    let own = first.subnet().unwrap();
    let copied = || {
        let mut options = Options::new(NodeId(2));
        options.uplink.public.v4 = Some("192.0.2.1".parse().unwrap());
        options
    };
    let published =
        format!("our public address 192.0.2.1 is published by the lease {own} of 192.0.2.1 (node ");
    let backends: [(Box<dyn Backend>, &str); 2] =
        [(Box::new(PlainRoutes), "lease"), (Box::new(Strict), "address")];
    for (backend, kind) in backends {
        let second = Running::with(&store, kernel(2), backend, copied());
        let reason = second
            .expect(kind, true, Duration::from_secs(1))
            .await
            .unwrap()
            .to_string();
        assert!(
            reason.contains(&published) && reason.contains("--public-ip"),
            "{reason}"
        );
        assert_eq!(second.status().readiness(), Readiness::NotReady);
        sleep(Duration::from_secs(300)).await;
        assert_eq!(holders(&store), [(own, Holder::Node(NodeId(1)))]);
        assert_eq!(first.status().reasons, [], "it has noticed nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn a_public_ip_behind_a_nat_is_no_neighbours_and_its_holder_is_asked() {
    let store = store(CONFIG);
    let behind_nat = |node| {
        let mut options = Options::new(NodeId(node));
        options.uplink.public.v4 = Some("203.0.113.7".parse().unwrap());
        options
    };
    let first = Running::with(&store, kernel(1), Box::new(PlainRoutes), behind_nat(1));
    first.ready().await;
    let own = first.subnet();
    let second = Running::with(&store, kernel(2), Box::new(PlainRoutes), behind_nat(2));
    let asked = second
        .expect("lease", true, Duration::from_secs(1))
        .await
        .unwrap();
    assert!(asked.to_string().contains("203.0.113.7"), "{asked}");
    first.expect("address", true, Duration::from_secs(1)).await;
    drop((first, second));
    // Installed anew, with nobody left to object.
    let third = Running::with(&store, kernel(1), Box::new(PlainRoutes), behind_nat(3));
    third.ready().await;
    assert_eq!(third.subnet(), own);
}

#[tokio::test(start_paused = true)]
async fn a_bridge_is_held_against_the_subnet_that_is_ours_now() {
    let store = store(CONFIG);
    let running = Running::start(&store, kernel(1), 1);
    running.ready().await;
    let own = running.subnet().unwrap();
    let bridge = own.net(Family::V4).unwrap().hosts().next().unwrap();
    running.kernel.create_link("docker0", &[&format!("{bridge}/24")]);
    sleep(LOOKED).await;
    assert_eq!(running.status().reasons, []);
    // Another host takes the subnet, and ours is another from then on.
    store.put_raw(
        &own.to_key(),
        r#"{"PublicIP":"192.0.2.9","BackendType":"host-gw","NodeID":"00000000000000000000000000000009"}"#,
    );
    let reason = running
        .expect("bridge", true, Duration::from_secs(1))
        .await
        .unwrap();
    assert!(
        reason
            .to_string()
            .contains(&format!("the lease {own} of 192.0.2.9")),
        "{reason}"
    );
}
