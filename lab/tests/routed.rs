//! Several wires with a router between them, and what is read of a host's kernel. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up its lab has failed")]

use std::net::IpAddr;
use std::time::Duration;

use lab::{
    Families, Family, Host, Lab, LabError, Options, Pod, Receiver, SubnetEnv, UPLINK, VxlanLine, Wire, ping,
    ping_whole,
};

const SOON: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_secs(1);
const BOTH: [Family; 2] = [Family::V4, Family::V6];
const PORT: u16 = 7000;
/// The overlay's devices over IPv4 and over IPv6.
const DEVICES: [&str; 2] = ["vx4", "vx6"];
/// The devices' addresses on either host.
const MACS: [&str; 2] = ["02:00:00:00:00:0a", "02:00:00:00:00:0b"];

fn address(host: &Host, family: Family) -> IpAddr {
    host.address(family).unwrap()
}

#[test]
fn hosts_on_different_wires_reach_each_other_by_the_router_and_those_on_one_wire_directly() {
    let lab = Lab::new("routed", Options::wires([Wire::hosts(2), Wire::hosts(1)])).unwrap();
    let (here, beside, away) = (lab.host(0), lab.host(1), lab.host(2));
    assert_eq!(away.ipv4(), Some("192.168.78.11".parse().unwrap()));
    assert_eq!(away.ipv6(), Some("fd00:78::11".parse().unwrap()));
    let nearest = |to: &Host, family: Family| {
        let to = address(to, family).to_string();
        // With a single hop allowed, a router stops it.
        here.exec(&["ping", "-t1", "-c1", "-w1", &to]).is_ok()
    };
    for family in BOTH {
        for (from, to) in [(here, away), (away, here), (away, beside), (here, beside)] {
            ping(from, address(to, family), 1, SOON).unwrap();
        }
        assert!(nearest(beside, family) && !nearest(away, family));
    }
}

#[test]
fn a_gateway_without_a_second_wire_forwards_nothing() {
    let lab = Lab::new("unrouted", Options::hosts(2)).unwrap();
    let (here, beside) = (lab.host(0), lab.host(1));
    let to = address(beside, Family::V4);
    let gateway = here.gateway(Family::V4).to_string();
    here.replace_route(to.into(), &["via", &gateway]).unwrap();
    assert!(ping(here, to, 1, SHORT).is_err());
}

#[test]
fn hosts_of_one_family_have_no_address_of_the_other_on_any_wire() {
    let wires = [Wire::hosts(1), Wire::hosts(1).translated()];
    let lab = Lab::new("routed6", Options::wires(wires).families(Families::V6)).unwrap();
    let away = lab.host(1);
    assert_eq!((away.ipv4(), away.public(Family::V4)), (None, None));
    assert_eq!(lab.host(0).public(Family::V6), None);
    for to in [away.address(Family::V6), away.public(Family::V6)] {
        ping(lab.host(0), to.unwrap(), 1, SOON).unwrap();
    }
}

#[test]
fn hosts_behind_a_nat_are_seen_at_their_public_addresses_and_reached_there_from_either_side() {
    let wires = [
        Wire::hosts(1),
        Wire::hosts(2).translated(),
        Wire::hosts(1).translated(),
    ];
    let lab = Lab::new("translated", Options::wires(wires)).unwrap();
    for family in BOTH {
        let public = |host: &Host| host.public(family).unwrap();
        for (from, to) in [(0, 1), (1, 2), (1, 3), (3, 1), (3, 0)] {
            let (from, to) = (lab.host(from), lab.host(to));
            let receiver = Receiver::open(to, family, PORT).unwrap();
            let own = address(from, family);
            let at = to.public(family).unwrap_or_else(|| address(to, family));
            let seen = receiver.source_of_datagram(from, own, at, SOON).unwrap();
            assert_eq!(seen, from.public(family).unwrap_or(own));
        }
        // On the wire they share nobody translates.
        let (from, to) = (lab.host(1), lab.host(2));
        let receiver = Receiver::open(to, family, PORT).unwrap();
        let own = address(from, family);
        let seen = receiver.source_of_datagram(from, own, address(to, family), SOON);
        assert_eq!(seen.unwrap(), own);
        assert_ne!(public(lab.host(1)), public(lab.host(3)));
    }
}

#[test]
fn a_wire_carries_packets_of_its_mtu_whole_and_not_a_byte_more() {
    let wires = [Wire::hosts(2).mtu(9000), Wire::hosts(1).mtu(1400)];
    let lab = Lab::new("mtu", Options::wires(wires)).unwrap();
    let here = lab.host(0);
    for family in BOTH {
        for (to, mtu) in [(1, 9000), (2, 1400)] {
            let to = address(lab.host(to), family);
            ping_whole(here, to, mtu, 1, SOON).unwrap();
            let lost = ping_whole(here, to, mtu + 1, 1, SHORT).unwrap_err();
            assert!(matches!(lost, LabError::NoAnswer { received: 0, .. }), "{lost}");
        }
    }
}

#[test]
fn an_uplink_keeps_its_mtu_and_takes_other_addresses_when_it_is_made_again() {
    let lab = Lab::new("again", Options::wires([Wire::hosts(2), Wire::hosts(1)])).unwrap();
    let (host, other) = (lab.host(0), lab.host(1));
    let link = || host.link(UPLINK).unwrap().unwrap();
    let before = link();
    for mtu in [1600, 1400] {
        host.change_mtu(mtu).unwrap();
        other.change_mtu(mtu).unwrap();
        for family in BOTH {
            ping_whole(host, address(other, family), mtu, 1, SOON).unwrap();
        }
    }
    let new = ["192.168.77.99/24", "fd00:77::99/64"].map(|net| net.parse().unwrap());
    host.recreate_uplink_with(&new).unwrap();
    let after = link();
    assert_eq!((after.mtu, &after.mac), (1400, &before.mac));
    assert_ne!(after.index, before.index);
    assert_eq!(after.addresses[..2], new);
    for (family, net) in BOTH.into_iter().zip(new) {
        assert_eq!(address(host, family), net.addr());
        for from in [other, lab.host(2)] {
            ping(from, net.addr(), 1, SOON).unwrap();
        }
    }
}

/// An overlay over two wires, as `ip` and `bridge` make it: a device per family and host, and a pod behind each.
struct Overlay {
    lab: Lab,
    pods: [Pod; 2],
}

impl Overlay {
    fn new(name: &str) -> Self {
        let lab = Lab::new(name, Options::wires([Wire::hosts(1), Wire::hosts(1)])).unwrap();
        for (here, there) in [(0, 1), (1, 0)] {
            let (host, other) = (lab.host(here), lab.host(there));
            for (device, family) in DEVICES.into_iter().zip(BOTH) {
                let (local, remote) = (address(host, family), address(other, family).to_string());
                let (mtu, subnet, length, whole) = match family {
                    Family::V4 => (1450, "10.77.N.0", 24, 32),
                    Family::V6 => (1430, "fd77:0:0:N::", 64, 128),
                };
                let [own, peer] = [here, there].map(|index| subnet.replace('N', &index.to_string()));
                let batch = format!(
                    "link add {device} address {} mtu {mtu} type vxlan id 1 dev {UPLINK} local {local} \
                     dstport 8472 nolearning\n\
                     link set {device} up\n\
                     addr add {own}/{whole} dev {device}\n\
                     neigh add {peer} lladdr {} dev {device} nud permanent\n\
                     route add {peer}/{length} via {peer} dev {device} onlink\n",
                    MACS[here], MACS[there]
                );
                host.feed(&["ip", "-batch", "-"], &batch).unwrap();
                let entry = [
                    "fdb",
                    "add",
                    MACS[there],
                    "dst",
                    &remote,
                    "dev",
                    device,
                    "self",
                    "permanent",
                ];
                host.exec(&[&["bridge"][..], &entry].concat()).unwrap();
            }
        }
        let pods = [0, 1].map(|index| {
            let subnet = SubnetEnv {
                subnet: Some(format!("10.77.{index}.1/24").parse().unwrap()),
                ipv6_subnet: Some(format!("fd77:0:0:{index}::1/64").parse().unwrap()),
                mtu: 1430,
            };
            lab.host(index).add_pod_in(&subnet).unwrap()
        });
        Self { lab, pods }
    }
}

#[test]
fn an_overlay_across_the_router_carries_whole_packets_and_they_are_counted_on_the_wire() {
    let Overlay { lab, pods } = Overlay::new("overlay");
    let kinds = [
        ["ip version 4 udp dport 8472", "ip saddr 10.77.0.0/16"],
        ["ip6 version 6 udp dport 8472", "ip6 saddr fd77::/48"],
    ];
    for ((to, device), kinds) in pods[1].addresses().zip(DEVICES).zip(kinds) {
        let counters = [0, 1].map(|index| lab.host(index).count(kinds).unwrap());
        let before = lab.host(1).packets(device).unwrap();
        let sent = ping_whole(&pods[0], to, 1430, 5, SOON).unwrap().sent;
        for counter in &counters {
            for [wrapped, plain] in [counter.sent().unwrap(), counter.received().unwrap()] {
                assert!(wrapped >= sent && plain == 0, "{wrapped} and {plain} of {sent}");
            }
        }
        let after = lab.host(1).packets(device).unwrap();
        assert!(after.received >= before.received + sent && after.sent >= before.sent + sent);
    }
}

#[test]
fn a_pinger_of_whole_packets_loses_them_where_the_way_gets_narrower_and_tells_when() {
    let Overlay { lab, pods } = Overlay::new("narrow");
    for (to, device) in pods[1].addresses().zip(DEVICES) {
        let pinger = pods[0].pinger_whole(to, 1430).unwrap();
        pinger.wait_for_replies(5, SOON).unwrap();
        let begin = std::time::SystemTime::now();
        lab.host(0).ip(&["link", "set", device, "mtu", "1280"]).unwrap();
        lab::wait_until(SOON, "a smaller packet's loss", || {
            pinger.unanswered_so_far() >= 5
        })
        .unwrap();
        let report = pinger.stop().unwrap();
        assert!(report.lost >= 5, "{report:?}");
        let interval = Duration::from_millis(10);
        assert!(report.lost_at[0] + interval >= begin, "{report:?}");
    }
}

#[test]
fn devices_neighbours_and_forwarding_entries_are_read_as_the_kernel_has_them() {
    let Overlay { lab, .. } = Overlay::new("read");
    let (host, other) = (lab.host(0), lab.host(1));
    let link = host.link(DEVICES[0]).unwrap().unwrap();
    assert_eq!(
        (link.kind.as_str(), link.mac.as_str(), link.mtu, link.up),
        ("vxlan", MACS[0], 1450, true)
    );
    assert!(link.addresses.contains(&"10.77.0.0/32".parse().unwrap()));
    let vxlan = VxlanLine {
        vni: 1,
        port: 8472,
        local: host.address(Family::V4),
        uplink: Some(UPLINK.into()),
        learning: false,
        gbp: false,
    };
    assert_eq!(link.vxlan, Some(vxlan));
    assert_eq!(
        host.link(DEVICES[1]).unwrap().unwrap().vxlan.unwrap().local,
        host.address(Family::V6)
    );
    assert_eq!(host.link("vx9").unwrap(), None);

    let mut neighbours = host.neighbours(DEVICES[0]).unwrap();
    neighbours.retain(|line| line.state == ["PERMANENT"]);
    assert_eq!(neighbours.len(), 1, "{neighbours:?}");
    assert_eq!(neighbours[0].address, "10.77.1.0".parse::<IpAddr>().unwrap());
    assert_eq!(neighbours[0].mac.as_deref(), Some(MACS[1]));
    let fdb = host.fdb(DEVICES[0]).unwrap();
    assert_eq!(fdb.len(), 1, "{fdb:?}");
    assert_eq!(
        (fdb[0].host, fdb[0].state.as_str()),
        (other.address(Family::V4), "permanent")
    );
    for device in ["vx9", "lo"] {
        assert!(host.neighbours(device).unwrap().is_empty() && host.fdb(device).unwrap().is_empty());
    }
    assert_eq!(host.sysctl("ipv4/ip_forward").unwrap(), "1");
    assert_eq!(
        lab.switch().sysctl("ipv4/conf/wire2/send_redirects").unwrap(),
        "0"
    );
}

#[test]
fn a_counter_counts_on_when_the_uplink_is_made_again_and_leaves_nothing_when_dropped() {
    let lab = Lab::new("counter", Options::hosts(2)).unwrap();
    let (host, to) = (lab.host(0), address(lab.host(1), Family::V4));
    let counter = host.count(["icmp type echo-request"]).unwrap();
    let before = ping(host, to, 3, SOON).unwrap().sent;
    assert_eq!(
        (counter.sent().unwrap(), counter.received().unwrap()),
        ([before], [0])
    );
    host.recreate_uplink().unwrap();
    let after = ping(host, to, 3, SOON).unwrap().sent;
    assert_eq!(counter.sent().unwrap(), [before + after]);
    drop(counter);
    assert_eq!(lab.switch().exec(&["nft", "list", "ruleset"]).unwrap(), "");
}

#[test]
fn a_monitor_of_the_kernel_tells_what_comes_to_a_device_and_what_goes_from_it() {
    let Overlay { lab, .. } = Overlay::new("kernel");
    let host = lab.host(0);
    let device = DEVICES[0];
    let told = |change: &[&str]| {
        let monitor = host.monitor_kernel().unwrap();
        host.exec(change).unwrap();
        let events = monitor.stop().unwrap().into_iter();
        let about = events.filter(|event| event.line.contains(device));
        about.map(|event| (event.deleted, event.line)).collect::<Vec<_>>()
    };
    let to = address(lab.host(1), Family::V4).to_string();
    for (change, deleted, words) in [
        (
            &["ip", "link", "set", device, "mtu", "1400"][..],
            false,
            "mtu 1400",
        ),
        (
            &["bridge", "fdb", "del", MACS[1], "dst", &to, "dev", device],
            true,
            MACS[1],
        ),
        (
            &["ip", "neigh", "del", "10.77.1.0", "dev", device],
            true,
            "10.77.1.0 ",
        ),
        (&["ip", "route", "del", "10.77.1.0/24"], true, "10.77.1.0/24"),
        (
            &["ip", "addr", "add", "10.77.0.9/32", "dev", device],
            false,
            "10.77.0.9/32",
        ),
        (&["ip", "link", "del", device], true, device),
    ] {
        let events = told(change);
        let expected = |(is_deleted, line): &(bool, String)| *is_deleted == deleted && line.contains(words);
        assert!(events.iter().any(expected), "{change:?}: {events:#?}");
    }
}
