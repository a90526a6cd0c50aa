//! A peer gets another MAC address, or is at another public one: what leads to it is replaced without a gap, nothing is
//! left of what was before, and no other peer is touched.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use lab::{DaemonOptions, Families, Host, KernelEvent, Pinger, SubnetEnv, UPLINK, Wire, wait_until};

use super::ground::{Ground, PEERS, STRUCK, is_of_pods};
use super::pings::{lost, pingers};
use crate::network::{BOTH, Network, SOON, core_family, public, report};

const WITHIN: Duration = Duration::from_secs(1);
const ROUNDS: usize = 10;
/// The subnets of the peer; daemons choose others.
const SUBNETS: [&str; 2] = ["10.77.200.0/24", "fd77:0:0:200::/64"];
const KEY: &str = "10.77.200.0-24&fd77:0:0:200::-64";
/// Where it is, beside the address that it has anyway.
const ELSEWHERE: [&str; 2] = ["192.168.78.200/24", "fd00:78::200/64"];
/// Takes whatever comes out of a tunnel, for whatever MAC address it is: so it is seen whether packets ever went nowhere.
const TAKE_ALL: &str = "table netdev takeall {
    chain v4 { type filter hook ingress device \"flannel.1\" priority 0; meta pkttype set host; }
    chain v6 { type filter hook ingress device \"flannel-v6.1\" priority 0; meta pkttype set host; }
}";

/// What a lease says of one end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
struct End {
    device: &'static str,
    subnet: IpNet,
    public: IpAddr,
    mac: String,
}

/// What the peer's lease says in a round: each time something else.
#[derive(Clone, Copy)]
struct Change {
    mac: bool,
    public: bool,
}

/// Both ends of a peer in a round.
fn ends(peer: &Host, change: Change, round: usize) -> [End; 2] {
    let mac_of = if change.mac { round } else { 0 };
    let is_elsewhere = change.public && round % 2 == 1;
    [0, 1].map(|index| {
        let family = BOTH[index];
        let elsewhere: IpNet = ELSEWHERE[index].parse().unwrap();
        let own = public(peer, family).unwrap();
        End {
            device: ["flannel.1", "flannel-v6.1"][index],
            subnet: SUBNETS[index].parse().unwrap(),
            public: if is_elsewhere { elsewhere.addr() } else { own },
            mac: format!("0a:00:00:00:{index:02x}:{mac_of:02x}"),
        }
    })
}

/// The peer's lease as flannel writes it.
fn lease([v4, v6]: &[End; 2]) -> String {
    format!(
        r#"{{"PublicIP":"{}","PublicIPv6":"{}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{}"}},"BackendV6Data":{{"VNI":1,"VtepMAC":"{}"}}}}"#,
        v4.public, v6.public, v4.mac, v6.mac
    )
}

/// Makes, on a host without a daemon, the peer's devices and the way to the host of the first daemon.
fn set_up(network: &Network, peer: &Host, ends: &[End; 2]) {
    for (index, family) in BOTH.into_iter().enumerate() {
        let End {
            device,
            subnet,
            public: at,
            mac,
        } = &ends[index];
        let their_mac = network.device(STRUCK, family).unwrap().mac;
        let theirs: IpNet = network.lease(STRUCK).subnet.net(core_family(family)).unwrap();
        let (via, own, there) = (theirs.addr(), IpNet::from(subnet.addr()), ELSEWHERE[index]);
        let batch = format!(
            "addr add {there} dev {UPLINK}\n\
             link add {device} address {mac} mtu 1430 type vxlan id 1 dev {UPLINK} local {at} dstport 8472 nolearning\n\
             addr add {own} dev {device}\n\
             link set {device} up\n\
             neigh add {via} lladdr {their_mac} dev {device} nud permanent\n\
             route add {theirs} via {via} dev {device} onlink\n"
        );
        peer.feed(&["ip", "-batch", "-"], &batch).unwrap();
        let host = public(network.lab.host(STRUCK), family).unwrap();
        let entry = format!("bridge fdb add {their_mac} dev {device} dst {host} self permanent");
        peer.exec(&entry.split(' ').collect::<Vec<_>>()).unwrap();
    }
    peer.feed(&["nft", "-f", "-"], TAKE_ALL).unwrap();
}

/// Whether the neighbour and the forwarding entry of an end are as it says, and one of another end is not there.
fn is_known(host: &Host, end: &End, before: &End) -> bool {
    let entries = host.fdb(end.device).unwrap();
    let forwards = entries
        .iter()
        .any(|entry| entry.mac == end.mac && entry.host == Some(end.public));
    let stale = entries
        .iter()
        .any(|entry| (&entry.mac, entry.host) == (&before.mac, Some(before.public)));
    let mut neighbours = host.neighbours(end.device).unwrap().into_iter();
    let resolves = neighbours.any(|line| {
        line.address == end.subnet.addr()
            && line.mac.as_deref() == Some(&end.mac)
            && line.state == ["PERMANENT"]
    });
    forwards && resolves && (end == before || !stale)
}

/// Fails unless the events lead from one end to another with no gap: the new forwarding entry is there before anything
/// uses it, the neighbour is replaced, the old entry goes last, and nothing else is touched.
#[track_caller]
fn without_a_gap(events: &[KernelEvent], before: &End, after: &End) {
    let on_device = format!(" dev {} ", after.device);
    let about: Vec<&KernelEvent> = events
        .iter()
        .filter(|event| event.line.contains(&on_device) && !event.line.contains("33:33:"))
        .collect();
    let steps: Vec<String> = about.iter().map(|event| step(event)).collect();
    let (old, new) = (&before.mac, &after.mac);
    let mut expected = vec![format!("forwarding {new}")];
    if old != new {
        expected.extend([format!("neighbour {new}"), format!("deleted forwarding {old}")]);
    }
    assert_eq!(steps, expected, "{about:#?}");
}

/// What an event says of which MAC address.
fn step(event: &KernelEvent) -> String {
    let deleted = if event.deleted { "deleted " } else { "" };
    let what = if is_of_pods(&event.line) {
        "neighbour"
    } else {
        "forwarding"
    };
    let words: Vec<&str> = event.line.split_whitespace().collect();
    let mac = words.iter().skip_while(|word| **word != "lladdr").nth(1);
    // A route, or a device, has none.
    mac.map_or_else(|| event.line.clone(), |mac| format!("{deleted}{what} {mac}"))
}

fn replaced(name: &str, change: Change) {
    let wires = [Wire::hosts(2), Wire::hosts(1)];
    let mut network = Network::new(name, wires, Families::Both, "");
    let mut before = ends(network.lab.host(2), change, 0);
    network.lab.put_lease(KEY, &lease(&before)).unwrap();
    for index in [STRUCK, 1] {
        network.start(index, &[]);
    }
    let (host, peer) = (network.lab.host(STRUCK), network.lab.host(2));
    set_up(&network, peer, &before);
    let env = SubnetEnv {
        subnet: Some("10.77.200.1/24".parse().unwrap()),
        ipv6_subnet: Some("fd77:0:0:200::1/64".parse().unwrap()),
        mtu: 1430,
    };
    let pod = host.add_pod().unwrap();
    let [other, far] = [
        network.lab.host(1).add_pod().unwrap(),
        peer.add_pod_in(&env).unwrap(),
    ];
    network.check();
    let addresses: Vec<IpAddr> = far.addresses().chain(other.addresses()).collect();
    let pingers: Vec<Pinger> = addresses.iter().map(|to| pod.pinger(*to).unwrap()).collect();
    for pinger in &pingers {
        pinger.wait_for_replies(10, SOON).unwrap();
    }
    let mut times = Vec::new();
    for round in 1..=ROUNDS {
        let after = ends(peer, change, round);
        let monitor = host.monitor_kernel().unwrap();
        let begin = Instant::now();
        network.lab.put_lease(KEY, &lease(&after)).unwrap();
        for (before, after) in before.iter().zip(&after) {
            wait_until(SOON, format!("{after:?}"), || is_known(host, after, before)).unwrap();
        }
        times.push(begin.elapsed());
        // It goes on with what is there now.
        for pinger in &pingers {
            pinger.wait_for_more(3, SOON).unwrap();
        }
        let events = monitor.stop().unwrap();
        for (before, after) in before.iter().zip(&after) {
            without_a_gap(&events, before, after);
        }
        before = after;
    }
    for (pinger, to) in pingers.into_iter().zip(addresses) {
        let pings = pinger.stop().unwrap();
        assert_eq!(pings.lost, 0, "to {to}: {pings:?}");
    }
    let (_, longest) = report(name, &times);
    assert!(longest <= WITHIN, "{times:?}");
    network.check();
}

#[test]
fn a_peer_with_another_mac_is_reached_throughout_and_its_old_entry_goes_last() {
    replaced(
        "peermac",
        Change {
            mac: true,
            public: false,
        },
    );
}

#[test]
fn a_peer_at_another_address_is_reached_throughout_by_the_same_entry() {
    replaced(
        "peerpublic",
        Change {
            mac: false,
            public: true,
        },
    );
}

#[test]
fn a_peer_with_another_mac_at_another_address_is_reached_throughout() {
    replaced(
        "peerboth",
        Change {
            mac: true,
            public: true,
        },
    );
}

#[test]
fn a_peer_that_lost_its_devices_its_state_and_its_lease_comes_back_with_other_macs_and_leaves_nothing() {
    let Ground {
        mut network, pods, ..
    } = Ground::new("lostall", Families::Both);
    let peer = PEERS[0];
    let macs = |network: &Network| BOTH.map(|family| network.device(peer, family).unwrap().mac);
    let before = macs(&network);
    let bystanders = pingers(&pods, STRUCK, PEERS[1]);

    network.daemon(peer).kill().unwrap();
    let host = network.lab.host(peer);
    for family in BOTH {
        let device = network.device(peer, family).unwrap().name;
        host.ip(&["link", "del", &device]).unwrap();
    }
    network
        .lab
        .delete_lease(&network.lease(peer).subnet.to_key())
        .unwrap();
    fs::remove_dir_all(host.state_directory(DaemonOptions::INSTANCE)).unwrap();
    network.start(peer, &[]);

    network.check();
    let after = macs(&network);
    assert!(
        before.iter().zip(&after).all(|(before, after)| before != after),
        "{after:?}"
    );
    assert_eq!(lost(bystanders), 0);
}
