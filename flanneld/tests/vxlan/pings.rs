//! Pings between pods, and what was lost of them.

use lab::{Pinger, Pod, ping};

use crate::network::SOON;

/// Pings every 10 ms from pods to others, in every family.
pub(crate) struct Pings(Vec<Pinger>);

impl Pings {
    /// From one pod to another. Both have found their neighbours when they begin.
    #[track_caller]
    pub(crate) fn between(from: &Pod, to: &Pod) -> Self {
        let addresses = || to.addresses();
        for address in addresses() {
            ping(from, address, 3, SOON).unwrap();
        }
        let pingers: Vec<Pinger> = addresses().map(|address| from.pinger(address).unwrap()).collect();
        for pinger in &pingers {
            pinger.wait_for_replies(10, SOON).unwrap();
        }
        Self(pingers)
    }

    /// From each pod to the next one, and from the last one to the first.
    #[track_caller]
    pub(crate) fn around(pods: &[Pod]) -> Self {
        let pairs = pods.iter().zip(pods.iter().cycle().skip(1));
        Self(pairs.flat_map(|(from, to)| Self::between(from, to).0).collect())
    }

    /// Ends them. Fails if more than so many were lost of those between one pair in one family.
    #[track_caller]
    pub(crate) fn assert_lost_at_most(self, limit: u64) {
        for pinger in self.0 {
            let pings = pinger.stop().unwrap();
            println!("{pings:?}");
            assert!(pings.lost <= limit, "{pings:?}");
        }
    }
}

/// Fails unless every pod reaches every other.
#[track_caller]
pub(crate) fn assert_all_reached(pods: &[Pod]) {
    for (from, to) in (0..pods.len()).flat_map(|from| (0..pods.len()).map(move |to| (from, to))) {
        for address in pods[to].addresses() {
            ping(&pods[from], address, 3, SOON).unwrap();
        }
    }
}
