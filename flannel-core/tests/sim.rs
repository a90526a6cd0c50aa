//! Many engines, one store, faults drawn by a seed. `SIM_SEED=7 cargo test sim` replays one run.

use std::time::Duration;

use flannel_core::Op;
use flannel_core::testing::{Cut, Sim, SimFamilies, SimHost};
use tokio::time::{Instant, sleep};

/// Seeds that every run tries; more in `make test-long`.
const SEEDS: u64 = 150;

fn random_faults(seed: u64) {
    let families = [SimFamilies::V4, SimFamilies::V6, SimFamilies::Both][(seed % 3) as usize];
    Sim::block_on(async {
        let mut sim = Sim::new(seed, 2 + (seed % 5) as usize, families);
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

fn run(seeds: impl Iterator<Item = u64>) {
    if let Some(seed) = Sim::seed_to_replay() {
        return random_faults(seed);
    }
    for seed in seeds {
        let run = std::panic::catch_unwind(|| random_faults(seed));
        assert!(
            run.is_ok(),
            "the simulation failed; replay with SIM_SEED={seed} cargo test sim"
        );
    }
}

#[test]
fn sim_of_random_faults_always_comes_to_rest_as_the_leases_ask() {
    run(0..SEEDS);
}

#[test]
#[ignore = "long: a hundred times as many seeds"]
fn sim_of_many_random_faults_always_comes_to_rest_as_the_leases_ask() {
    run(SEEDS..100 * SEEDS);
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
        assert!(sim.hosts[0].engine().unwrap().status().repairs > 0);
    });
}
