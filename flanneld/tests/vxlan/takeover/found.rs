//! What a daemon finds under the name of its device when it starts.

use lab::{Families, Family, Wire, wait_until};

use crate::network::{BOTH, Network, SOON, subnets, time_until};
use crate::pings::Pings;
use crate::restart::{device, terminate};
use crate::told::{becomes, settled};

/// Done to a device with `ip` while the daemon is down: what the kernel can change in place.
const IN_PLACE: &[&str] = &[
    "link set DEVICE mtu 1300",
    "link set DEVICE type vxlan id 1 learning",
    "link set DEVICE type vxlan id 1 local OTHER",
    "link set DEVICE down",
    "link set DEVICE address 0e:00:00:00:00:77",
    "addr flush dev DEVICE to NETWORK",
    // Of a subnet that this host had before.
    "addr add FORMER dev DEVICE",
];

/// Devices that have to be made anew, and why.
const ANEW: &[(&str, &str)] = &[
    ("id 7 dstport 8472", "its VNI is 7 and ought to be 1"),
    ("id 1 dstport 4789", "its port is 4789 and ought to be 8472"),
    ("id 1 dstport 8472 gbp", "GBP is on and ought to be off"),
    ("id 1 dstport 8472 l2miss", "settings that cannot be changed"),
];

fn two_hosts(name: &str) -> Network {
    let mut network = Network::new(name, [Wire::hosts(2)], Families::Both, "");
    network.start_all();
    network
}

fn ip(network: &Network, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    network.lab.host(0).ip(&words).unwrap();
}

#[test]
fn what_the_kernel_can_change_on_a_device_is_changed_in_place() {
    let mut network = two_hosts("inplace");
    for family in BOTH {
        let name = device(family);
        let [other, former, all] = match family {
            Family::V4 => ["192.168.77.200", "10.77.250.0/32", crate::network::V4],
            Family::V6 => ["fd00:77::200", "fd77:0:0:250::/128", crate::network::V6],
        };
        for change in IN_PLACE {
            let before = network.device(0, family).unwrap();
            terminate(network.daemon(0));
            let change = change.replace("DEVICE", name).replace("OTHER", other);
            let change = change.replace("FORMER", former).replace("NETWORK", all);
            ip(&network, &change);
            assert_ne!(network.device(0, family).unwrap(), before, "{change}");
            let daemon = network.start(0, &[]);
            settled(daemon);
            let anew = daemon.lines_with(&["made anew"]);
            assert!(anew.is_empty(), "{change}: {anew:#?}");
            network.check();
            let after = network.device(0, family).unwrap();
            assert_eq!((after.index, after.mac), (before.index, before.mac), "{change}");
        }
    }
}

#[test]
fn a_device_that_cannot_be_changed_is_made_anew_with_its_mac_address_and_the_log_says_which_and_why() {
    let mut network = two_hosts("anew");
    for family in BOTH {
        let name = device(family);
        for (attributes, why) in ANEW {
            let before = network.device(0, family).unwrap();
            terminate(network.daemon(0));
            let local = network.lab.host(0).address(family).unwrap();
            ip(&network, &format!("link del {name}"));
            ip(
                &network,
                &format!("link add {name} type vxlan dev eth0 local {local} nolearning {attributes}"),
            );
            ip(&network, &format!("link set {name} up"));
            let found = network.device(0, family).unwrap();
            let daemon = network.start(0, &[]);
            settled(daemon);
            let said = daemon.lines_with(&["WARN", "made anew", name, why]);
            assert_eq!(said.len(), 1, "{attributes}: {}", daemon.log());
            let all = daemon.lines_with(&["made anew"]);
            assert_eq!(all, said, "nothing else was made anew");
            network.check();
            let after = network.device(0, family).unwrap();
            assert_ne!(after.index, found.index, "{attributes}");
            assert_eq!(after.mac, before.mac, "{attributes}");
        }
    }
}

#[test]
fn foreign_addresses_on_a_device_are_no_reason_to_fail_and_stay() {
    const OF_OTHERS: &[&str] = &[
        "169.254.33.5/16",
        "192.168.9.9/24",
        "fe80::77:77/64",
        "fd99::9/64",
    ];
    let mut network = Network::new("foreign", [Wire::hosts(2)], Families::Both, "");
    let lines: Vec<String> = BOTH
        .into_iter()
        .flat_map(|family| {
            let name = device(family);
            let local = network.lab.host(0).address(family).unwrap();
            let add = format!("link add {name} type vxlan id 1 dev eth0 local {local} dstport 8472");
            let addresses = OF_OTHERS
                .iter()
                .map(move |net| format!("addr add {net} dev {name}"));
            [add, format!("link set {name} up")].into_iter().chain(addresses)
        })
        .collect();
    lines.iter().for_each(|line| ip(&network, line));
    let present = |network: &Network| {
        BOTH.map(|family| {
            let addresses = network.device(0, family).unwrap().addresses;
            let foreign = addresses.into_iter().filter(|net| {
                !["10.77.", "fd77:"]
                    .iter()
                    .any(|own| net.to_string().starts_with(own))
            });
            let mut foreign: Vec<String> = foreign.map(|net| net.to_string()).collect();
            foreign.sort();
            foreign
        })
    };
    // The kernel's own link-local address is one more.
    let all = || present(&network).each_ref().map(Vec::len) == [OF_OTHERS.len() + 1; 2];
    wait_until(SOON, "the foreign addresses", all).unwrap();
    let before = present(&network);
    network.start_all();
    for _ in 0..2 {
        assert_eq!(present(&network), before);
        let daemon = network.daemon(0);
        settled(daemon);
        assert!(daemon.lines_with(&["WARN"]).is_empty(), "{}", daemon.log());
        network.check();
        terminate(daemon);
        network.start(0, &[]);
    }
}

/// As a daemon of host-gw leaves them, or one that was direct.
#[test]
fn routes_over_the_uplink_become_those_of_the_tunnel_without_a_gap() {
    let mut network = two_hosts("uplinkroutes");
    let pods = network.pods();
    terminate(network.daemon(0));
    let (host, peer) = (network.lab.host(0), network.lab.host(1));
    for subnet in subnets(peer) {
        let family = Family::of(subnet.addr());
        let gateway = peer.address(family).unwrap().to_string();
        host.replace_route(subnet, &["via", &gateway, "dev", "eth0", "proto", "70"])
            .unwrap();
    }
    let monitor = host.monitor_routes().unwrap();
    let pings = Pings::between(&pods[0], &pods[1]);
    network.start(0, &[]);
    network.check();
    pings.assert_lost_at_most(0);
    let events = monitor.stop().unwrap();
    let peers = subnets(network.lab.host(1));
    let touched: Vec<_> = events
        .iter()
        .filter(|event| peers.contains(&event.destination))
        .collect();
    assert!(
        !touched.is_empty() && touched.iter().all(|event| !event.deleted),
        "{events:#?}"
    );
}

#[test]
fn a_bridge_under_the_name_of_our_device_is_left_alone_and_named_with_the_remedy() {
    let mut network = Network::new("bridge", [Wire::hosts(2)], Families::Both, "");
    network.start(1, &[]);
    for line in [
        "link add flannel.1 type bridge",
        // It gets no address of its own making later.
        "link set flannel.1 addrgenmode none",
        "addr add 10.99.0.1/24 dev flannel.1",
        "link set flannel.1 up",
    ] {
        ip(&network, line);
    }
    let all = |network: &Network| {
        let host = network.lab.host(0);
        let mut routes = host.routes(Family::V4).unwrap();
        routes.retain(|route| route.device.as_deref() == Some("flannel.1"));
        let mut neighbours = host.neighbours("flannel.1").unwrap();
        neighbours.retain(|line| line.state == ["PERMANENT"]);
        let on_it = (neighbours, host.fdb("flannel.1").unwrap());
        (network.device(0, Family::V4), on_it, routes)
    };
    let before = all(&network);
    let daemon = network.launch(0, &[]);
    let remedy = "rename it, or remove it with `ip link del flannel.1`";
    becomes(
        daemon,
        503,
        &[r#""reason":"device""#, "flannel.1", "bridge", remedy],
    );
    daemon
        .wait_for_log("WARN .*flannel.1 is .*bridge.*rename it", SOON)
        .unwrap();
    time_until(SOON, "the route of the other family", || {
        let peer = subnets(network.lab.host(1))[1];
        !network.lab.host(0).routes_to(peer).unwrap().is_empty()
    });
    assert_eq!(all(&network), before);
    ip(&network, "link del flannel.1");
    becomes(network.daemon(0), 200, &[]);
    network.check();
}
