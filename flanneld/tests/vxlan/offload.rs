//! Checksums of packets in the tunnel: made by the kernel or left to the hardware, as the network config has it.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use lab::{Families, Host, Wire};

use crate::network::{Network, config, time_until};
use crate::restart::terminate;

/// Within this time a change is undone.
const LIMIT: Duration = Duration::from_secs(2);
const DEVICES: [&str; 2] = ["flannel.1", "flannel-v6.1"];
const FEATURE: &str = "tx-checksum-ip-generic";

/// What `ethtool` shows of a device.
fn features(host: &Host, device: &str) -> String {
    host.exec(&["ethtool", "-k", device]).unwrap()
}

/// `on` or `off`.
fn offload(host: &Host, device: &str) -> String {
    let features = features(host, device);
    let state = features
        .lines()
        .find_map(|line| line.trim().strip_prefix("tx-checksum-ip-generic: "));
    state.unwrap().to_owned()
}

fn offloads(host: &Host) -> [String; 2] {
    DEVICES.map(|device| offload(host, device))
}

fn set(host: &Host, device: &str, state: &str) {
    host.exec(&["ethtool", "-K", device, FEATURE, state]).unwrap();
}

/// The features of every device that is none of ours.
fn features_of_others(host: &Host) -> BTreeMap<String, String> {
    let links = host.links().unwrap().into_iter();
    let others = links.filter(|link| !DEVICES.contains(&link.name.as_str()));
    others
        .map(|link| (link.name.clone(), features(host, &link.name)))
        .collect()
}

/// Two hosts with pods on the first, and a VXLAN device of somebody else's there.
fn network(name: &str, option: &str) -> Network {
    let mut network = Network::new(name, [Wire::hosts(2)], Families::Both, option);
    let host = network.lab.host(0);
    for line in [
        "link add theirs type vxlan id 9 dev eth0 local 192.168.77.11 dstport 8472",
        // It gets no address of its own making later.
        "link set theirs addrgenmode none",
        "link set theirs up",
    ] {
        host.ip(&line.split(' ').collect::<Vec<_>>()).unwrap();
    }
    network.start_all();
    network
}

#[test]
fn checksum_offload_is_as_the_config_has_it_on_our_devices_alone_and_is_put_back() {
    let mut network = network("offload", "");
    let host = network.lab.host(0);
    let _pod = host.add_pod().unwrap();
    let others = features_of_others(host);
    for (state, other) in [("off", "on"), ("on", "off")] {
        for index in 0..2 {
            terminate(network.daemon(index));
        }
        let option = format!(r#""TxChecksumOffload":"{state}""#);
        network
            .lab
            .write_config(&config(Families::Both, &option))
            .unwrap();
        let devices = DEVICES.map(|device| network.lab.host(0).link(device).unwrap());
        network.start_all();
        let host = network.lab.host(0);
        assert_eq!(offloads(host), [state; 2]);
        for device in DEVICES {
            set(host, device, other);
            let took = time_until(LIMIT, "the offload to be put back", || {
                offload(host, device) == state
            });
            println!("{device}: {state} again after {took:.1?}");
        }
        assert_eq!(features_of_others(host), others);
        assert_eq!(
            DEVICES.map(|device| host.link(device).unwrap()),
            devices,
            "nothing else was changed"
        );
        network.check();
    }
}

/// The first two numbers of the kernel's version.
fn kernel() -> (u32, u32) {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = text.split(['.', '-']).map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn by_itself_checksum_offload_is_left_alone_where_the_kernel_is_right() {
    if kernel() < (5, 7) {
        println!("this kernel is not: nothing to see");
        return;
    }
    for option in ["", r#""TxChecksumOffload":"auto""#] {
        let mut network = network("offloadauto", option);
        assert_eq!(offloads(network.lab.host(0)), ["on"; 2]);
        for device in DEVICES {
            set(network.lab.host(0), device, "off");
        }
        terminate(network.daemon(0));
        network.start(0, &[]);
        network.check();
        assert_eq!(
            offloads(network.lab.host(0)),
            ["off"; 2],
            "an operator's choice stays"
        );
    }
}
