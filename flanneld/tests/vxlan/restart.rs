//! The daemon ends and comes again, or the whole host does; the pods, the kernel and the other hosts do not notice.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use lab::{Daemon, DaemonOptions, Families, Family, Host, KernelEvent, Wire};

use crate::network::{BOTH, Network, report};
use crate::pings::{Pings, assert_all_reached};

/// For each of the two hosts.
const ROUNDS: usize = 3;
const MANY_ROUNDS: usize = 25;
const END: Duration = Duration::from_secs(3);

/// Which file it is, and when it was written.
fn version(path: &Path) -> (u64, SystemTime) {
    let file = fs::metadata(path).unwrap();
    (file.ino(), file.modified().unwrap())
}

/// The files that others go by: the leases and each host's `subnet.env`.
fn files(network: &Network) -> Vec<(u64, SystemTime)> {
    let leases = network.lab.leases().unwrap().into_iter();
    let leases = leases.map(|lease| network.lab.store_dir().join("subnets").join(lease.key));
    let envs = network.lab.hosts().iter();
    let envs = envs.map(|host| host.subnet_env_path(DaemonOptions::INSTANCE));
    leases.chain(envs).map(|path| version(&path)).collect()
}

/// Whether an event may be of a daemon's making. Pods and hosts find their neighbours by themselves, and what `ip` complains
/// about is none.
fn may_be_ours(event: &KernelEvent) -> bool {
    let has = |word| event.line.contains(word);
    let of_a_neighbour = has(" lladdr ") || has("FAILED");
    !event.line.starts_with("Error") && (has("flannel") || !of_a_neighbour)
}

/// Two hosts whose pods ping each other while the daemons are ended by `end` and started again.
fn restarted(name: &str, rounds: usize, end: impl Fn(&Daemon)) {
    let mut network = Network::new(name, [Wire::hosts(2)], Families::Both, "");
    network.start_all();
    let pods = network.pods();
    let links = |network: &Network| [0, 1].map(|index| network.lab.host(index).links().unwrap());
    let pings = Pings::between(&pods[0], &pods[1]);
    let before = (files(&network), links(&network));
    let monitors = [0, 1].map(|index| network.lab.host(index).monitor_kernel().unwrap());
    let mut times = Vec::new();
    for round in 0..2 * rounds {
        let index = round % 2;
        end(network.daemon(index));
        let begin = Instant::now();
        network.start(index, &[]);
        times.push(begin.elapsed());
    }
    report(&format!("{name}: start to readiness"), &times);
    for monitor in monitors {
        let events = monitor.stop().unwrap();
        let ours: Vec<_> = events.iter().filter(|event| may_be_ours(event)).collect();
        assert!(ours.is_empty(), "{ours:#?}");
    }
    pings.assert_lost_at_most(0);
    assert_eq!(
        (files(&network), links(&network)),
        before,
        "files are not written, nor devices changed"
    );
    network.check();
}

fn kill(daemon: &Daemon) {
    assert!(!daemon.kill().unwrap().success());
}

/// Ends a daemon as a supervisor does.
#[track_caller]
pub(crate) fn terminate(daemon: &Daemon) {
    assert!(daemon.terminate(END).unwrap().success());
}

#[test]
fn killed_and_started_again_it_loses_no_ping_writes_nothing_and_causes_no_event() {
    restarted("killed", ROUNDS, kill);
}

#[test]
fn ended_and_started_again_it_loses_no_ping_writes_nothing_and_causes_no_event() {
    restarted("ended", ROUNDS, terminate);
}

#[test]
#[ignore = "long: fifty restarts"]
fn fifty_times_killed_and_started_again_it_loses_no_ping_writes_nothing_and_causes_no_event() {
    restarted("killedoften", MANY_ROUNDS, kill);
}

#[test]
#[ignore = "long: fifty restarts"]
fn fifty_times_ended_and_started_again_it_loses_no_ping_writes_nothing_and_causes_no_event() {
    restarted("endedoften", MANY_ROUNDS, terminate);
}

/// What may be gone when a daemon comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    /// The device, as after a reboot.
    Devices,
    /// `/run`, likewise.
    SubnetEnv,
    /// What the daemon remembers.
    State,
    /// Its lease, as when it expires.
    Lease,
}

impl Lost {
    fn befall(self, network: &Network, host: &Host) {
        match self {
            Self::Devices => {
                for family in BOTH {
                    host.ip(&["link", "del", device(family)]).unwrap();
                }
            }
            Self::SubnetEnv => {
                fs::remove_file(host.subnet_env_path(DaemonOptions::INSTANCE)).unwrap();
            }
            Self::State => fs::remove_dir_all(host.state_directory(DaemonOptions::INSTANCE)).unwrap(),
            Self::Lease => network
                .lab
                .delete_lease(&network.lease(0).subnet.to_key())
                .unwrap(),
        }
    }
}

/// The name of the device of one family, where the VNI is the usual one.
pub(crate) fn device(family: Family) -> &'static str {
    match family {
        Family::V4 => "flannel.1",
        Family::V6 => "flannel-v6.1",
    }
}

fn macs(network: &Network) -> [String; 2] {
    BOTH.map(|family| network.device(0, family).unwrap().mac)
}

/// Not what a daemon gives its devices by itself.
const FOUND: [&str; 2] = ["0e:00:00:00:00:04", "0e:00:00:00:00:06"];

/// A host loses something while its daemon is down. Its devices have MAC addresses that the daemon has found there, if
/// `found`, or else its own.
fn comes_again(name: &str, found: bool, all_lost: &[Lost]) {
    let mut network = Network::new(name, [Wire::hosts(2)], Families::Both, "");
    if found {
        for (family, mac) in BOTH.into_iter().zip(FOUND) {
            let (host, name) = (network.lab.host(0), device(family));
            let local = host.address(family).unwrap().to_string();
            let words = [
                "link", "add", name, "address", mac, "type", "vxlan", "id", "1", "dev", "eth0",
            ];
            host.ip(&[&words[..], &["local", &local, "dstport", "8472"]].concat())
                .unwrap();
        }
    }
    network.start_all();
    let before = macs(&network);
    assert_eq!(before == FOUND, found, "{before:?}");
    terminate(network.daemon(0));
    // The lease is known by what is in subnet.env.
    for lost in all_lost.iter().rev() {
        lost.befall(&network, network.lab.host(0));
    }
    network.start(0, &[]);
    assert_eq!(macs(&network), before, "after a loss of {all_lost:?}");
    // The other host has followed, if there was anything to follow.
    network.check();
    assert_all_reached(&network.pods());
}

#[test]
fn after_a_reboot_it_has_the_mac_addresses_that_its_lease_says() {
    comes_again("reboot", true, &[Lost::SubnetEnv, Lost::Devices]);
}

#[test]
fn after_a_reboot_in_which_its_lease_expired_it_has_the_same_mac_addresses() {
    comes_again(
        "longreboot",
        false,
        &[Lost::SubnetEnv, Lost::Devices, Lost::Lease],
    );
}

#[test]
fn with_its_lease_and_its_state_lost_it_keeps_the_mac_addresses_of_its_devices() {
    comes_again("devicesonly", true, &[Lost::State, Lost::Lease]);
}

#[test]
fn with_its_devices_and_its_state_lost_it_keeps_the_mac_addresses_of_its_lease() {
    comes_again("leaseonly", true, &[Lost::State, Lost::SubnetEnv, Lost::Devices]);
}
