//! What befalls a device, what is on it, and the uplink, is put right soon, whoever did it, and no other host has to do
//! anything for that. Pods ping each other every 10 ms meanwhile; what every fault cost is printed.

mod conflict;
mod faults;
mod ground;
mod peer;
mod pings;
mod random;
mod readdress;
mod sweep;
mod udev;

use std::time::Instant;

use lab::{Families, Signal};

use crate::network::SOON;
use faults::{Fault, OF_A_PEER, OF_THE_DEVICE, OF_THE_UPLINK};
use ground::{Ground, PEERS, Repair, STRUCK, print};

/// Each of the faults, in every family, alone.
fn each_alone(name: &str, families: Families, faults: &'static [Fault]) {
    let ground = Ground::new(name, families);
    let mut repairs = Vec::new();
    for fault in faults {
        let peers = if fault.is_about_one_peer() {
            &PEERS[..]
        } else {
            &PEERS[..1]
        };
        for family in families.each() {
            repairs.extend(peers.iter().map(|peer| ground.repaired(fault, family, *peer)));
        }
    }
    print(&format!("{name}: {families:?}"), &repairs);
    let bad: Vec<String> = repairs
        .iter()
        .filter(|repair| !repair.is_good())
        .map(Repair::to_string)
        .collect();
    assert!(bad.is_empty(), "too slow, or others were disturbed: {bad:#?}");
    ground.end();
}

#[test]
fn over_ipv4_entries_of_a_peer_are_right_again_within_a_second_and_no_other_peer_notices() {
    each_alone("entries4", Families::V4, OF_A_PEER);
}

#[test]
fn in_both_families_entries_of_a_peer_are_right_again_within_a_second_and_no_other_peer_notices() {
    each_alone("entries", Families::Both, OF_A_PEER);
}

#[test]
fn over_ipv4_a_device_is_right_again_within_a_second_and_within_two_if_it_was_deleted() {
    each_alone("device4", Families::V4, OF_THE_DEVICE);
}

#[test]
fn in_both_families_a_device_is_right_again_within_a_second_and_within_two_if_it_was_deleted() {
    each_alone("device", Families::Both, OF_THE_DEVICE);
}

#[test]
fn over_ipv4_whatever_befell_the_uplink_is_over_within_two_seconds_of_its_return() {
    each_alone("uplink4", Families::V4, OF_THE_UPLINK);
}

#[test]
fn in_both_families_whatever_befell_the_uplink_is_over_within_two_seconds_of_its_return() {
    each_alone("uplink", Families::Both, OF_THE_UPLINK);
}

#[test]
fn none_of_these_faults_goes_away_by_itself_and_a_daemon_that_hung_meanwhile_repairs_it() {
    let ground = Ground::new("hung", Families::Both);
    let all = OF_A_PEER.iter().chain(OF_THE_DEVICE).chain(OF_THE_UPLINK);
    for fault in all.filter(|fault| fault.shows) {
        for family in Families::Both.each() {
            let daemon = ground.network.daemon(STRUCK);
            daemon.signal(Signal::SIGSTOP).unwrap();
            let target = ground.target(family, PEERS[0]);
            fault.prepare(&target);
            fault.strike(&target);
            let wrong = ground.wrong();
            assert!(!wrong.is_empty(), "{}: {family:?}", fault.name);
            daemon.signal(Signal::SIGCONT).unwrap();
            let took = ground.becomes_right(Instant::now(), fault.name);
            println!("{} {family:?}: {} lines, {took:.1?}", fault.name, wrong.len());
            assert!(took < SOON, "{}: {took:?}", fault.name);
        }
    }
    ground.end();
}
