//! The faults in random order. `LIFE_SEED` replays a run.

use std::env;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lab::{Families, Family};

use super::faults::{ANEW, Fault, IN_PLACE, OF_A_PEER, OF_THE_DEVICE, OF_THE_UPLINK};
use super::ground::{Ground, PEERS, Repair, print};

/// Numbers that follow from a seed (SplitMix64, <https://prng.di.unimi.it/splitmix64.c>).
struct Random(u64);

impl Random {
    /// From `LIFE_SEED`, or the clock.
    fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let seed = env::var("LIFE_SEED").map_or(now.subsec_nanos().into(), |seed| seed.parse().unwrap());
        println!("LIFE_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            all.swap(last, self.below(last + 1));
        }
    }
}

/// The time within which 99 of 100 were over, or all of fewer.
fn p99(repairs: &[&Repair]) -> Duration {
    let mut times: Vec<Duration> = repairs.iter().map(|repair| repair.whole).collect();
    times.sort();
    times[(times.len() * 99).div_ceil(100) - 1]
}

/// So many faults that may take a second, and as many that may take two.
fn in_random_order(name: &str, of_each_kind: usize) {
    let mut random = Random::new();
    let mut faults: Vec<&Fault> = Vec::new();
    for limit in [IN_PLACE, ANEW] {
        let all = OF_A_PEER.iter().chain(OF_THE_DEVICE).chain(OF_THE_UPLINK);
        let kind: Vec<&Fault> = all.filter(|fault| fault.limit == limit).collect();
        faults.extend((0..of_each_kind).map(|_| random.one_of(&kind)));
    }
    random.shuffle(&mut faults);
    let ground = Ground::new(name, Families::Both);
    let strike = |fault| {
        let (family, peer) = (random.one_of(&[Family::V4, Family::V6]), random.one_of(&PEERS));
        ground.repaired(fault, family, peer)
    };
    let repairs: Vec<Repair> = faults.into_iter().map(strike).collect();
    print(name, &repairs);
    for limit in [IN_PLACE, ANEW] {
        let kind: Vec<&Repair> = repairs.iter().filter(|repair| repair.limit() == limit).collect();
        let (p99, longest) = (p99(&kind), kind.iter().map(|repair| repair.whole).max().unwrap());
        println!(
            "{} that may take {limit:?}: p99 {p99:.1?}, longest {longest:.1?}",
            kind.len()
        );
        assert!(p99 <= limit, "{p99:?}");
    }
    ground.restore_mtu();
    ground.end();
}

#[test]
fn in_random_order_faults_are_repaired_within_a_second_and_within_two_where_something_is_made_anew() {
    in_random_order("random", 15);
}

#[test]
#[ignore = "long: two hundred repairs"]
fn of_a_hundred_faults_of_each_kind_in_random_order_99_are_repaired_within_a_second_or_two() {
    in_random_order("randomlong", 100);
}
