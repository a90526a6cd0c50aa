//! Many engines, one store, faults drawn by a seed. `SIM_SEED=7 cargo test sim` replays one run.
#![allow(clippy::unwrap_used, reason = "a failed test is a panic")]

use std::net::IpAddr;
use std::time::Duration;

use flannel_backend_vxlan::Vxlan;
use flannel_core::testing::{Cut, Operator, Sim, SimBackend, SimFamilies, SimHost, TTL};
use flannel_core::{DEFAULT_PROTOCOL, Effect, Family, Hop, Op, PROTOCOL_BOOT, Reason, Route, SubnetKey};
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep};

/// Seeds that every run tries; more in `make test-long`.
const SEEDS: u64 = 90;

/// Likewise with tunnels, which take longer.
const TUNNEL_SEEDS: u64 = 60;

/// Tunnels: what a host publishes of itself is a MAC address.
fn tunnels() -> SimBackend {
    SimBackend {
        options: r#"{"Type":"vxlan"}"#,
        renumbered: r#"{"Type":"vxlan","VNI":2}"#,
        make: || Box::new(Vxlan),
        data: |address| {
            let last = match address {
                IpAddr::V4(address) => address.octets()[3],
                IpAddr::V6(address) => address.octets()[15],
            };
            let data = format!(r#"{{"VNI":1,"VtepMAC":"02:00:00:00:00:{last:02x}"}}"#);
            RawValue::from_string(data).ok()
        },
    }
}

fn random_faults(seed: u64, backend: SimBackend) {
    let families = [SimFamilies::V4, SimFamilies::V6, SimFamilies::Both][(seed % 3) as usize];
    Sim::block_on(async {
        let mut sim = Sim::with(seed, 2 + (seed % 5) as usize, families, backend);
        sim.start_all();
        for _ in 0..40 {
            sim.step().await;
        }
        sim.heal();
        sim.settle().await;
        sim.check_at_rest();
        idle_means_idle(&sim).await;
    });
}

/// At rest nobody touches the kernel or the store, but to renew a lease.
async fn idle_means_idle(sim: &Sim) {
    let writes = sim.store.writes();
    let subnets = |sim: &Sim| sim.hosts.iter().map(SimHost::own_subnet).collect::<Vec<_>>();
    let (held, renewals) = (subnets(sim), sim.store.renewals());
    let turns: Vec<u64> = sim.hosts.iter().map(SimHost::turns).collect();
    sim.hosts.iter().for_each(|host| host.kernel.clear_log());
    sleep(Duration::from_secs(600)).await;
    assert_eq!(subnets(sim), held);
    let expires = sim.store.leases().iter().any(|lease| lease.expires.is_some());
    assert!(sim.store.renewals() > renewals || !expires);
    for (host, before) in sim.hosts.iter().zip(turns) {
        let turns = host.turns() - before;
        assert!(turns < 1_500, "{turns} turns in 10 minutes");
    }
    assert_eq!(sim.store.writes(), writes, "lease values were written at rest");
    for host in &sim.hosts {
        assert!(
            host.kernel.log().is_empty(),
            "the kernel was changed at rest: {:?}",
            host.kernel.log()
        );
    }
}

fn run(seeds: impl Iterator<Item = u64>, backend: SimBackend) {
    if let Some(seed) = Sim::seed_to_replay() {
        return random_faults(seed, backend);
    }
    for seed in seeds {
        let run = std::panic::catch_unwind(|| random_faults(seed, backend));
        assert!(
            run.is_ok(),
            "the simulation failed; replay with SIM_SEED={seed} cargo test sim"
        );
    }
}

#[test]
fn sim_of_random_faults_always_comes_to_rest_as_the_leases_ask() {
    run(0..SEEDS, SimBackend::plain());
}

#[test]
fn sim_of_random_faults_to_tunnels_always_comes_to_rest_as_the_leases_ask() {
    run(0..TUNNEL_SEEDS, tunnels());
}

#[test]
#[ignore = "long: twenty times as many seeds"]
fn sim_of_many_random_faults_always_comes_to_rest_as_the_leases_ask() {
    run(SEEDS..20 * SEEDS, SimBackend::plain());
}

#[test]
#[ignore = "long: twenty times as many seeds"]
fn sim_of_many_random_faults_to_tunnels_always_comes_to_rest_as_the_leases_ask() {
    run(TUNNEL_SEEDS..20 * TUNNEL_SEEDS, tunnels());
}

/// The changes that were made to a host's kernel since its log was cleared.
fn ops(sim: &Sim, host: usize) -> Vec<Op> {
    sim.hosts[host]
        .kernel
        .log()
        .into_iter()
        .filter(|entry| entry.outcome.is_ok())
        .map(|entry| entry.op)
        .collect()
}

async fn network(hosts: usize) -> Sim {
    let mut sim = Sim::new(1, hosts, SimFamilies::Both);
    sim.start_all();
    sim.settle().await;
    sim.check_at_rest();
    sim.hosts.iter().for_each(|host| host.kernel.clear_log());
    sim
}

#[test]
fn sim_a_restart_with_unchanged_leases_writes_nothing_anywhere() {
    Sim::block_on(async {
        let mut sim = network(4).await;
        let writes = sim.store.writes();
        for gracefully in [true, false] {
            sim.stop(0, gracefully).await;
            sim.start(0);
            sim.settle().await;
        }
        assert_eq!(ops(&sim, 0), []);
        assert_eq!(sim.store.writes(), writes);
    });
}

#[test]
fn sim_a_wiped_store_withdraws_no_route_and_every_host_gets_its_subnet_back_within_5_s() {
    Sim::block_on(async {
        let mut sim = network(5).await;
        let subnets = |sim: &Sim| {
            sim.store
                .leases()
                .iter()
                .map(|lease| lease.subnet)
                .collect::<Vec<_>>()
        };
        let before = subnets(&sim);
        sim.store.wipe();
        sleep(Duration::from_secs(5)).await;
        assert_eq!(subnets(&sim), before);
        sim.settle().await;
        for host in 0..sim.hosts.len() {
            assert_eq!(ops(&sim, host), [], "host {host}");
        }
        sim.check_at_rest();
    });
}

#[test]
fn sim_a_host_that_was_cut_off_until_another_took_its_subnet_takes_another_and_never_takes_it_back() {
    Sim::block_on(async {
        let mut sim = network(3).await;
        let status = sim.hosts[0].engine().unwrap().status();
        let subnet = status.lease.unwrap().subnet;
        sim.hosts[0].client.cut(Cut::Hangs);
        sim.store.expire(subnet);
        let thief = r#"{"PublicIP":"192.0.99.99","PublicIPv6":"fd00::99:99","BackendType":"host-gw","NodeID":"000000000000000000000000000000ff"}"#;
        sim.store.put_raw(&subnet.to_key(), thief);
        sleep(Duration::from_secs(30)).await;
        sim.hosts[0].client.heal();
        sim.settle().await;
        let now = sim.hosts[0].engine().unwrap().status().lease.unwrap().subnet;
        assert_ne!(now, subnet);
        let there = sim
            .store
            .leases()
            .into_iter()
            .find(|lease| lease.subnet == subnet)
            .unwrap();
        assert_eq!(there.attrs.to_json(), thief);
        sim.check_at_rest();
    });
}

#[test]
fn sim_our_own_lease_that_is_removed_is_back_with_the_same_subnet_within_2_s() {
    Sim::block_on(async {
        let sim = network(2).await;
        let subnet = sim.hosts[0].engine().unwrap().status().lease.unwrap().subnet;
        sim.store.expire(subnet);
        sleep(Duration::from_secs(2)).await;
        assert!(sim.store.leases().iter().any(|lease| lease.subnet == subnet));
    });
}

#[test]
fn sim_a_new_address_is_followed_within_3_s_and_the_subnet_is_kept() {
    Sim::block_on(async {
        let mut sim = network(4).await;
        let subnet = sim.hosts[0].engine().unwrap().status().lease.unwrap().subnet;
        sim.readdress(0);
        sleep(Duration::from_secs(3)).await;
        assert_eq!(
            sim.hosts[0].engine().unwrap().status().lease.unwrap().subnet,
            subnet
        );
        sim.check_at_rest();
        let replaced = |op: &Op| matches!(op, Op::Replace { .. });
        assert!(ops(&sim, 1).iter().all(replaced), "a gap: {:?}", ops(&sim, 1));
    });
}

#[test]
fn sim_a_hundred_hosts_that_start_at_once_all_get_a_subnet() {
    Sim::block_on(async {
        let mut sim = Sim::new(3, 100, SimFamilies::V4);
        sim.store.put_config(Some(
            r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.100.0","Backend":{"Type":"host-gw"}}"#,
        ));
        let start = Instant::now();
        sim.start_all();
        while sim.store.leases().len() < 100 {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "{} leases",
                sim.store.leases().len()
            );
            sleep(Duration::from_millis(10)).await;
        }
        sim.settle().await;
        sim.check_at_rest();
    });
}

#[test]
fn sim_a_route_that_is_deleted_unheard_is_back_after_the_next_audit() {
    Sim::block_on(async {
        let mut sim = network(3).await;
        sim.hosts[0].kernel.mute();
        sim.hosts[0].kernel.flush();
        sleep(Duration::from_secs(15)).await;
        sim.check_at_rest();
        assert!(sim.hosts[0].engine().unwrap().status().counters.repairs.total() > 0);
    });
}

/// A network, and a peer in it that no engine runs.
async fn network_with_a_static_peer(hosts: usize) -> Sim {
    let mut sim = network(hosts).await;
    sim.put_lease(static_subnet(), "192.0.200.1", "fd00::200:1");
    sleep(Duration::from_secs(1)).await;
    sim.check_at_rest();
    sim.hosts.iter().for_each(|host| host.kernel.clear_log());
    sim
}

/// Beyond those that hosts choose from.
fn static_subnet() -> SubnetKey {
    "10.5.200.0/24,fd05:0:0:c8::/64".parse().unwrap()
}

fn dumps(sim: &Sim) -> Vec<u64> {
    sim.hosts.iter().map(|host| host.kernel.dumps()).collect()
}

#[test]
fn sim_a_change_of_one_peer_costs_that_peer_within_100_ms_and_no_look_at_the_table() {
    Sim::block_on(async {
        let mut sim = network_with_a_static_peer(5).await;
        // Just after a look that comes anyway.
        let before = dumps(&sim);
        while dumps(&sim) == before {
            sleep(Duration::from_millis(10)).await;
        }
        sleep(Duration::from_millis(100)).await;
        let before = dumps(&sim);
        for change in 0..3 {
            match change {
                0 => sim.put_lease(static_subnet(), "192.0.200.2", "fd00::200:2"),
                1 => sim.store.delete_raw(&static_subnet().to_key()),
                _ => sim.put_lease(static_subnet(), "192.0.200.3", "fd00::200:3"),
            }
            sleep(Duration::from_millis(100)).await;
            for host in 0..sim.hosts.len() {
                let done = ops(&sim, host);
                assert_eq!(done.len(), 2, "one for each family: {done:?}");
                let expected = |op: &Op| match change {
                    0 => matches!(op, Op::Replace { .. }),
                    1 => matches!(op, Op::Remove(_)),
                    _ => matches!(op, Op::Add(_)),
                };
                assert!(done.iter().all(expected), "{done:?}");
                sim.hosts[host].kernel.clear_log();
            }
            assert_eq!(dumps(&sim), before);
        }
        sim.check_at_rest();
    });
}

#[test]
fn sim_routes_that_a_runtime_makes_for_pods_in_our_own_subnet_cost_nothing() {
    Sim::block_on(async {
        let sim = network(2).await;
        sleep(Duration::from_millis(100)).await;
        let before = dumps(&sim);
        let kernel = &sim.hosts[0].kernel;
        let own = sim.hosts[0].own_subnet().unwrap().net(Family::V4).unwrap();
        kernel.create_link("cni0", &[]);
        sleep(Duration::from_secs(1)).await;
        let counted = dumps(&sim);
        for pod in own.hosts().take(20) {
            let hop = Hop {
                gateway: None,
                device: "cni0".parse().unwrap(),
                onlink: false,
            };
            let route = Route::unicast(pod.into(), hop, PROTOCOL_BOOT);
            kernel.operator(Operator::Add(route.clone())).unwrap();
            sleep(Duration::from_millis(100)).await;
            kernel.operator(Operator::Delete(route)).unwrap();
            sleep(Duration::from_millis(100)).await;
        }
        assert!(
            dumps(&sim)[0] <= counted[0] + 1,
            "{before:?} {counted:?} {:?}",
            dumps(&sim)
        );
        assert_eq!(ops(&sim, 0), []);
        let hop = Hop::via("192.0.200.1".parse().unwrap(), "eth0".parse().unwrap());
        kernel
            .operator(Operator::Add(Route::unicast(own, hop, 4)))
            .unwrap();
        sleep(Duration::from_secs(15)).await;
        let status = sim.hosts[0].engine().unwrap().status();
        assert_eq!(status.conflicts, [], "what lies in our own subnet is no conflict");
    });
}

#[test]
fn sim_an_operators_route_in_the_place_of_ours_is_untouched_and_reported_and_ours_is_back_when_it_goes() {
    Sim::block_on(async {
        let mut sim = network_with_a_static_peer(2).await;
        let kernel = sim.hosts[0].kernel.clone();
        for family in Family::ALL {
            let destination = static_subnet().net(family).unwrap();
            let ours = |route: &&Route| route.id.destination == destination;
            let mut theirs = kernel.routes().iter().find(ours).unwrap().clone();
            theirs.protocol = 4;
            kernel.operator(Operator::Replace(theirs.clone())).unwrap();
            sleep(Duration::from_secs(100)).await;
            let there: Vec<Route> = kernel.routes().into_iter().filter(|route| ours(&route)).collect();
            assert_eq!(there, [theirs.clone()]);
            assert_eq!(ops(&sim, 0), []);
            assert!(
                kernel.log().len() <= 2,
                "tried again and again though it is of no use: {:?}",
                kernel.log()
            );
            let status = sim.hosts[0].engine().unwrap().status();
            assert!(
                status.is_ready(),
                "one peer that is in the way is no reason not to serve the others"
            );
            assert_eq!(status.peers.installed, status.peers.desired - 1);
            assert!(
                status
                    .conflicts
                    .iter()
                    .any(|conflict| conflict.object == theirs.clone().into()
                        && conflict.effect == Effect::InTheWay),
                "{:?}",
                status.conflicts
            );
            kernel.operator(Operator::Delete(theirs)).unwrap();
            sleep(Duration::from_secs(1)).await;
            sim.check_at_rest();
            let status = sim.hosts[0].engine().unwrap().status();
            assert_eq!(status.conflict_count, 0);
            kernel.clear_log();
        }
    });
}

#[test]
fn sim_a_stray_of_ours_that_shadows_a_route_by_its_metric_is_gone_within_1_s() {
    Sim::block_on(async {
        let mut sim = network_with_a_static_peer(2).await;
        for family in Family::ALL {
            let destination = static_subnet().net(family).unwrap();
            let kernel = &sim.hosts[0].kernel;
            let ours = |route: &&Route| route.id.destination == destination;
            let mut stray = kernel.routes().iter().find(ours).unwrap().clone();
            stray.id.metric = if family == Family::V6 { 1 } else { 50 };
            kernel.stray(stray.clone());
            sleep(Duration::from_secs(1)).await;
            assert_eq!(ops(&sim, 0), [Op::Remove(stray.into())]);
            kernel.clear_log();
            sim.check_at_rest();
        }
    });
}

#[test]
fn sim_a_stray_of_ours_inside_our_own_subnet_is_gone_within_1_s() {
    Sim::block_on(async {
        let sim = network(2).await;
        let destination = sim.hosts[0].own_subnet().unwrap().net(Family::V4).unwrap();
        let hop = Hop::via("192.0.200.1".parse().unwrap(), "eth0".parse().unwrap());
        let stray = Route::unicast(destination, hop, DEFAULT_PROTOCOL);
        sleep(Duration::from_millis(100)).await;
        sim.hosts[0].kernel.stray(stray.clone());
        sleep(Duration::from_secs(1)).await;
        assert_eq!(ops(&sim, 0), [Op::Remove(stray.into())]);
    });
}

#[test]
fn sim_two_hosts_with_one_state_directory_come_to_hold_two_subnets_and_leave_it_at_that() {
    Sim::block_on(async {
        let mut sim = network(3).await;
        sim.stop(1, true).await;
        sim.clone_state(0, 1);
        sim.start(1);
        sim.settle().await;
        sim.check_at_rest();
        assert_ne!(sim.hosts[0].own_subnet(), sim.hosts[1].own_subnet());
        idle_means_idle(&sim).await;
        // Each finds its own by its address.
        let held = [sim.hosts[0].own_subnet(), sim.hosts[1].own_subnet()];
        let writes = sim.store.writes();
        for host in [0, 1] {
            sim.stop(host, false).await;
            sim.start(host);
            sim.settle().await;
        }
        assert_eq!([sim.hosts[0].own_subnet(), sim.hosts[1].own_subnet()], held);
        assert_eq!(sim.store.writes(), writes);
    });
}

#[test]
fn sim_a_network_that_is_enlarged_takes_in_more_peers_and_one_that_is_shrunk_lets_go_of_them() {
    Sim::block_on(async {
        let mut sim = network(3).await;
        let outside: SubnetKey = "10.4.7.0/24".parse().unwrap();
        sim.put_lease(outside, "192.0.200.1", "fd00::200:1");
        sleep(Duration::from_secs(1)).await;
        sim.check_at_rest();
        sim.enlarge();
        sleep(Duration::from_secs(1)).await;
        for host in &sim.hosts {
            assert!(
                host.our_routes()
                    .contains("10.4.7.0/24 via 192.0.200.1 dev eth0 proto 70")
            );
        }
        sim.heal();
        sleep(Duration::from_secs(1)).await;
        sim.check_at_rest();
        for host in 0..3 {
            assert_eq!(ops(&sim, host).len(), 2, "{:?}", ops(&sim, host));
        }
    });
}

#[test]
fn sim_a_config_with_another_backend_is_refused_by_name_and_the_network_goes_on() {
    Sim::block_on(async {
        let mut sim = network(2).await;
        for (config, word) in [
            (
                r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/48","Backend":{"Type":"vxlan"}}"#,
                "vxlan",
            ),
            (
                r#"{"Network":"10.9.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/48","Backend":{"Type":"host-gw"}}"#,
                "10.5.",
            ),
            ("{", "JSON"),
        ] {
            sim.store.put_config(Some(config));
            sleep(Duration::from_secs(1)).await;
            for host in &sim.hosts {
                let status = host.engine().unwrap().status();
                assert!(status.is_ready());
                assert!(
                    matches!(&status.reasons[..], [Reason::ConfigRefused(text)] if text.contains(word)),
                    "{:?}",
                    status.reasons
                );
            }
            if word != "10.5." {
                // Not even while our own lease is gone for a moment.
                sim.store.expire(sim.hosts[0].own_subnet().unwrap());
                sleep(Duration::from_secs(1)).await;
                assert!(sim.hosts[0].engine().unwrap().status().is_ready());
            }
        }
        sim.heal();
        sim.settle().await;
        sim.check_at_rest();
        assert_eq!(sim.hosts[1].engine().unwrap().status().reasons, []);
    });
}

#[test]
fn sim_peers_that_a_store_no_longer_shows_after_a_long_silence_are_kept_for_a_minute() {
    for config_changes in [false, true] {
        Sim::block_on(async {
            let mut sim = network_with_a_static_peer(2).await;
            sim.hosts[0].client.cut(Cut::Hangs);
            sleep(TTL + Duration::from_secs(30)).await;
            sim.store.delete_raw(&static_subnet().to_key());
            if config_changes {
                sim.enlarge();
            }
            sim.store.compact();
            sim.hosts[0].client.heal();
            let routes = |sim: &Sim| {
                let routes = sim.hosts[0].our_routes();
                routes
                    .iter()
                    .filter(|route| route.starts_with("10.5.200.0/24"))
                    .count()
            };
            sleep(Duration::from_secs(50)).await;
            assert_eq!(routes(&sim), 1, "withdrawn at once");
            sleep(Duration::from_secs(20)).await;
            assert_eq!(routes(&sim), 0);
            sim.heal();
            sim.settle().await;
            sim.check_at_rest();
        });
    }
}

#[test]
fn sim_a_short_silence_is_no_reason_to_keep_what_the_store_no_longer_shows() {
    Sim::block_on(async {
        let mut sim = network_with_a_static_peer(2).await;
        sim.hosts[0].client.cut(Cut::Hangs);
        sleep(Duration::from_secs(20)).await;
        sim.store.delete_raw(&static_subnet().to_key());
        sim.store.compact();
        sim.hosts[0].client.heal();
        sleep(Duration::from_secs(1)).await;
        sim.check_at_rest();
    });
}

#[test]
fn sim_a_silence_that_events_ended_is_not_held_against_a_later_snapshot() {
    Sim::block_on(async {
        let mut sim = network_with_a_static_peer(2).await;
        sim.hosts[0].client.cut(Cut::Hangs);
        sleep(Duration::from_secs(20)).await;
        // What was missed can be told, and so there is no snapshot.
        sim.put_lease("10.5.201.0/24".parse().unwrap(), "192.0.200.2", "");
        sim.hosts[0].client.heal();
        sleep(TTL + Duration::from_secs(30)).await;
        sim.hosts[0].client.cut(Cut::Hangs);
        sim.store.delete_raw(&static_subnet().to_key());
        sim.store.compact();
        sim.hosts[0].client.heal();
        sleep(Duration::from_secs(1)).await;
        sim.check_at_rest();
    });
}

#[test]
fn sim_hosts_that_start_while_a_config_names_an_unknown_backend_remove_nothing_and_say_why() {
    Sim::block_on(async {
        let mut sim = network(3).await;
        sim.store
            .put_config(Some(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#));
        sim.stop(0, false).await;
        sim.start(0);
        sleep(Duration::from_secs(30)).await;
        assert_eq!(ops(&sim, 0), []);
        let reasons = &sim.hosts[0].engine().unwrap().status().reasons;
        assert!(
            matches!(&reasons[..], [Reason::Backend(text)] if text.contains("vxlan")),
            "{reasons:?}"
        );
        sim.heal();
        sim.settle().await;
        sim.check_at_rest();
        assert_eq!(ops(&sim, 0), []);
    });
}
