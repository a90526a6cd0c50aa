//! The host gets another address: its lease follows, its peers follow that, and nothing of the old one is left.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use flannel_core::Lease;
use ipnet::IpNet;
use lab::{Families, Family, ForwardingLine, Host, KernelEvent, UPLINK, ping, wait_until};

use super::ground::{Ground, PEERS, STRUCK, is_of_pods, is_of_the_overlay};
use super::pings::{lost, pingers};
use crate::network::{Network, SOON, report};

/// For everything to be right again on all hosts, and for pings to pass in both directions.
const WITHIN: Duration = Duration::from_secs(2);

/// How a host gets other addresses.
type Change = fn(&Host, &[IpNet]);

const CHANGES: &[(&str, Change)] = &[
    ("old one removed, new one added", |host, nets| {
        for net in nets {
            host.change_address(*net).unwrap();
        }
    }),
    ("new one added, old one removed", |host, nets| {
        let promote = |value| {
            let switch = format!("net.ipv4.conf.all.promote_secondaries={value}");
            host.exec(&["sysctl", "-qw", &switch]).unwrap();
        };
        // Or the kernel takes the new one along with the old one, if they are of one network.
        promote(1);
        for net in nets {
            let text = net.to_string();
            let more: &[&str] = if net.addr().is_ipv4() {
                &["brd", "+"]
            } else {
                &["nodad"]
            };
            let words = [&["addr", "add", &text, "dev", UPLINK], more].concat();
            host.ip(&words).unwrap();
        }
        for net in nets {
            host.change_address(*net).unwrap();
        }
        promote(0);
    }),
    ("uplink made again with another", |host, nets| {
        host.recreate_uplink_with(nets).unwrap();
    }),
];

/// Everything by which others reach a host is as its new addresses ask, and nothing is left of the old ones.
fn has_arrived(network: &Network, moved: usize, nets: &[IpNet]) -> bool {
    nets.iter().all(|net| {
        let at = Some(net.addr());
        let Some(device) = network.device(moved, Family::of(net.addr())) else {
            return false;
        };
        let is_known = |other: usize| {
            let entries = network.lab.host(other).fdb(&device.name).unwrap();
            let is = |entry: &ForwardingLine| entry.mac == device.mac && entry.host == at;
            entries.len() == PEERS.len() && entries.iter().any(is)
        };
        device.vxlan.and_then(|vxlan| vxlan.local) == at && others(moved).into_iter().all(is_known)
    })
}

fn others(of: usize) -> [usize; 2] {
    let [first, second] = PEERS;
    match of {
        STRUCK => [first, second],
        other => [STRUCK, first + second - other],
    }
}

/// Fails if anything but where frames go to was changed on a peer, or anything was removed.
#[track_caller]
fn nothing_but_replaced_entries(events: &[KernelEvent], name: &str) {
    // `192.168.77.91 dev flannel.1 lladdr …`: a forwarding entry. A neighbour is an address of a pods' network.
    let is_forwarding = |line: &str| line.contains(" lladdr ") && !is_of_pods(line);
    let is_fine = |event: &&KernelEvent| !event.deleted && is_forwarding(&event.line);
    let other: Vec<&KernelEvent> = events
        .iter()
        .filter(|event| is_of_the_overlay(&event.line) && !is_fine(event))
        .collect();
    assert!(other.is_empty(), "{name}: {other:#?}");
}

/// Changes addresses of a host, and tells how long it took until all hosts were right and pings passed in both
/// directions.
#[track_caller]
fn moves(ground: &Ground, (name, change): (&str, Change), moved: usize, nets: &[IpNet]) -> Duration {
    let (network, pods) = (&ground.network, &ground.pods);
    let before = network.lease(moved);
    let others = others(moved);
    let monitors = others.map(|other| network.lab.host(other).monitor_kernel().unwrap());
    let between = others.map(|other| pingers(pods, other, moved));
    let bystanders = pingers(pods, others[0], others[1]);

    let begin = Instant::now();
    change(network.lab.host(moved), nets);
    let arrived = wait_until(SOON, "the new address", || has_arrived(network, moved, nets));
    let tables = begin.elapsed();
    assert!(
        arrived.is_ok(),
        "{name}: not everywhere after {tables:?}: {nets:?}"
    );
    for [from, to] in others.iter().flat_map(|other| [[*other, moved], [moved, *other]]) {
        for address in pods[to].addresses() {
            ping(&pods[from], address, 1, SOON).unwrap();
        }
    }
    let took = begin.elapsed();

    println!(
        "{} {nets:?}: {name}: tables {tables:.1?}, and pings {took:.1?}, lost {:?}",
        network.lab.host(moved).label(),
        between.map(lost)
    );
    assert_eq!(lost(bystanders), 0, "{name}: pings between others");
    for monitor in monitors {
        nothing_but_replaced_entries(&monitor.stop().unwrap(), name);
    }
    let after = network.lease(moved);
    assert_eq!(after.subnet, before.subnet);
    assert_ne!(after.attrs.public, before.attrs.public);
    let data = |lease: &Lease| {
        [&lease.attrs.backend_data, &lease.attrs.backend_v6_data]
            .map(|data| data.as_ref().map(ToString::to_string))
    };
    assert_eq!(data(&after), data(&before), "MAC addresses");
    took
}

/// Every change, there and back, of the addresses of these families: on the wire, and behind the router.
fn followed(name: &str, families: Families, on_the_wire: &[&[Family]], behind: &[&[Family]]) {
    let ground = Ground::new(name, families);
    let mut times = Vec::new();
    for (moved, wire, groups) in [(STRUCK, 77, on_the_wire), (PEERS[1], 78, behind)] {
        let host = ground.network.lab.host(moved);
        let with_prefix = |address: IpAddr| {
            let length = if address.is_ipv4() { 24 } else { 64 };
            IpNet::new(address, length).unwrap()
        };
        let mut number = 90;
        for change in CHANGES {
            for group in groups {
                number += 1;
                let own = |family: &Family| with_prefix(host.address(*family).unwrap());
                let other = |family: &Family| {
                    let text = match family {
                        Family::V4 => format!("192.168.{wire}.{number}"),
                        Family::V6 => format!("fd00:{wire}::{number}"),
                    };
                    with_prefix(text.parse().unwrap())
                };
                let back: Vec<IpNet> = group.iter().map(own).collect();
                let there: Vec<IpNet> = group.iter().map(other).collect();
                times.push(moves(&ground, *change, moved, &there));
                times.push(moves(&ground, *change, moved, &back));
                ground.network.check();
            }
        }
    }
    let (_, longest) = report(name, &times);
    assert!(longest <= WITHIN, "{times:?}");
    assert_eq!(ground.network.leases().len(), 1 + PEERS.len());
}

#[test]
fn over_ipv4_a_changed_address_is_followed_by_lease_and_peers_within_two_seconds() {
    followed("readdress4", Families::V4, &[&[Family::V4]], &[&[Family::V4]]);
}

#[test]
fn in_both_families_a_changed_address_is_followed_by_lease_and_peers_within_two_seconds() {
    let both: &[Family] = &[Family::V4, Family::V6];
    followed("readdress", Families::Both, &[&[Family::V6], both], &[both]);
}
