//! udev and NetworkManager give a device another MAC address as soon as they are told of it.

use std::time::{Duration, Instant};

use lab::{Families, Wire, ping, wait_until};

use crate::network::{BOTH, Network, SOON};

const WITHIN: Duration = Duration::from_secs(2);
/// Not what the daemon chooses.
const THEIRS: [&str; 2] = ["02:00:00:00:00:04", "02:00:00:00:00:06"];

/// Whether a host's lease says of both ends what the kernel has. Until it has a lease, it does not.
fn is_published(network: &Network, index: usize) -> bool {
    let leases = network.lab.leases().unwrap();
    BOTH.into_iter().all(|family| {
        let mac = network.device(index, family).map(|device| device.mac);
        mac.is_some_and(|mac| leases.iter().any(|lease| lease.text.contains(&mac)))
    })
}

#[test]
fn a_mac_changed_as_soon_as_the_device_is_there_for_the_first_time_is_put_back_or_published_within_two_seconds()
 {
    let mut network = Network::new("udev", [Wire::hosts(2)], Families::Both, "");
    network.start(1, &[]);
    network.launch(0, &[]);
    let host = network.lab.host(0);
    for (device, mac) in ["flannel.1", "flannel-v6.1"].into_iter().zip(THEIRS) {
        let change = ["link", "set", device, "address", mac];
        wait_until(SOON, device, || host.ip(&change).is_ok()).unwrap();
    }
    let begin = Instant::now();
    wait_until(SOON, "the published MAC addresses", || is_published(&network, 0)).unwrap();
    let took = begin.elapsed();
    println!("published {took:.1?} after the change");
    assert!(took <= WITHIN, "{took:?}");
    network.wait_until_ready(0);
    network.check();
    let pods = network.pods();
    for address in pods[0].addresses() {
        ping(&pods[1], address, 1, SOON).unwrap();
    }
}
