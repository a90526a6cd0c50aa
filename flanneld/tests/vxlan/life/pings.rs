//! Pods that ping each other while something happens.

use lab::{Pinger, Pod};

use crate::network::SOON;

/// From the pod of one host to that of another, in every family; some have passed.
pub(super) fn pingers(pods: &[Pod], from: usize, to: usize) -> Vec<Pinger> {
    let start = |address| pods[from].pinger(address).unwrap();
    let pingers: Vec<Pinger> = pods[to].addresses().map(start).collect();
    for pinger in &pingers {
        pinger.wait_for_replies(2, SOON).unwrap();
    }
    pingers
}

/// How many were lost, once some pass again: a request without an answer shows when later ones have theirs.
pub(super) fn lost(pingers: impl IntoIterator<Item = Pinger>) -> u64 {
    let lost = pingers.into_iter().map(|pinger| {
        pinger.wait_for_more(2, SOON).unwrap();
        pinger.stop().unwrap().lost
    });
    lost.sum()
}
