//! Somebody else has the UDP port, or the VNI on it: who that is, is said, and once they let go all is there.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::process;

use lab::{Families, Family, Wire};

use crate::network::{Network, SOON};
use crate::pings::assert_all_reached;
use crate::restart::terminate;
use crate::told::becomes;

const PORT: u16 = 8472;

/// Two hosts, the first of which comes up after a reboot, without its daemon as yet.
fn network(name: &str, families: Families) -> Network {
    let mut network = Network::new(name, [Wire::hosts(2)], families, "");
    network.start_all();
    terminate(network.daemon(0));
    for family in families.each() {
        let device = network.device(0, family).unwrap().name;
        network.lab.host(0).ip(&["link", "del", &device]).unwrap();
    }
    network
}

/// All of an overlay is there: each pod reaches the other.
#[track_caller]
fn assert_all_there(network: &Network) {
    becomes(network.daemon(0), 200, &[]);
    network.check();
    assert_all_reached(&network.pods());
}

/// A program has the port of every address of a family; the device of the other family is not held up.
fn taken_by_a_program(name: &str, family: Family) {
    let mut network = network(name, Families::Both);
    let host = network.lab.host(0);
    let bound = host.inside(|| match family {
        Family::V4 => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)),
        // For IPv4 as well.
        Family::V6 => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)),
    });
    let socket = bound.unwrap().unwrap();
    let daemon = network.launch(0, &[]);
    let program = std::fs::read_to_string("/proc/self/comm").unwrap();
    let (program, pid, port) = (program.trim(), process::id().to_string(), PORT.to_string());
    let parts = [r#""reason":"device""#, &port, program, &pid];
    becomes(daemon, 503, &parts);
    let said = format!(r"WARN .*UDP port {port} is held by process {pid} \({program}\)");
    daemon.wait_for_log(&said, SOON).unwrap();
    if family == Family::V4 {
        let other = || network.device(0, Family::V6).is_some_and(|device| device.up);
        lab::wait_until(SOON, "the device of the other family", other).unwrap();
    }
    drop(socket);
    assert_all_there(&network);
}

#[test]
fn a_program_on_the_port_is_named_and_once_it_lets_go_all_is_there() {
    taken_by_a_program("program", Family::V4);
}

#[test]
fn a_program_on_the_port_of_both_families_is_named_and_once_it_lets_go_all_is_there() {
    taken_by_a_program("programboth", Family::V6);
}

/// A device of somebody else's with these attributes is in the way.
fn taken_by_a_device(name: &str, attributes: &str, parts: &[&str]) {
    let mut network = network(name, Families::V4);
    let host = network.lab.host(0);
    let local = host.ipv4().unwrap();
    let add = format!("link add theirs type vxlan dev eth0 local {local} dstport {PORT} {attributes}");
    // It gets no address of its own making later.
    let bare = "link set theirs addrgenmode none";
    for line in [add.as_str(), bare, "link set theirs up"] {
        host.ip(&line.split(' ').collect::<Vec<_>>()).unwrap();
    }
    let theirs = host.link("theirs").unwrap();
    network.launch(0, &[]);
    let (host, daemon) = (network.lab.host(0), network.daemon(0));
    let parts = [&[r#""reason":"device""#, "theirs"], parts].concat();
    becomes(daemon, 503, &parts);
    daemon.wait_for_log("WARN .*theirs", SOON).unwrap();
    assert_eq!(host.link("theirs").unwrap(), theirs);
    host.ip(&["link", "del", "theirs"]).unwrap();
    assert_all_there(&network);
}

#[test]
fn a_foreign_vxlan_of_the_same_vni_and_port_is_named_and_once_it_is_gone_all_is_there() {
    taken_by_a_device("samevni", "id 1", &["VNI 1", "8472"]);
}

#[test]
fn a_foreign_vxlan_that_cannot_share_the_port_is_named_and_once_it_is_gone_all_is_there() {
    taken_by_a_device("gbp", "id 9 gbp", &["8472"]);
}
