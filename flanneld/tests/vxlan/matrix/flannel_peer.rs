//! A peer that flannel runs on: its lease as flannel writes it, now and in earlier days, and its devices as flannel leaves
//! them.

use ipnet::IpNet;
use lab::{Families, Family, Host, SubnetEnv, UPLINK, Wire, ping_whole};

use crate::network::{BOTH, Network, SOON, core_family, public};

/// The subnets of flannel's host; the daemon chooses others.
const SUBNETS: [&str; 2] = ["10.77.200.0/24", "fd77:0:0:200::/64"];
const KEY: &str = "10.77.200.0-24&fd77:0:0:200::-64";
const DEVICES: [&str; 2] = ["flannel.1", "flannel-v6.1"];
const MACS: [&str; 2] = ["8e:bc:f1:25:6b:a8", "8e:bc:f1:25:6b:a9"];

/// Makes flannel's devices, and the way to the host that the daemon is on.
fn like_flannel(network: &Network, host: &Host) {
    let own = network.lease(0);
    for (index, family) in BOTH.into_iter().enumerate() {
        let (device, local) = (DEVICES[index], public(host, family).unwrap());
        let to = public(network.lab.host(0), family).unwrap().to_string();
        let mac = network.device(0, family).unwrap().mac;
        let subnet: IpNet = own.subnet.net(core_family(family)).unwrap();
        let via = subnet.addr();
        let address = IpNet::from(SUBNETS[index].parse::<IpNet>().unwrap().addr());
        let mtu = if family == Family::V4 { 1450 } else { 1430 };
        let batch = format!(
            "link add {device} address {} mtu {mtu} type vxlan id 1 dev {UPLINK} local {local} dstport 8472 nolearning\n\
             addr add {address} dev {device}\n\
             link set {device} up\n\
             neigh replace {via} lladdr {mac} dev {device} nud permanent\n\
             route replace {subnet} via {via} dev {device} onlink\n",
            MACS[index]
        );
        host.feed(&["ip", "-batch", "-"], &batch).unwrap();
        let entry = ["fdb", "add", &mac, "dst", &to, "dev", device, "self", "permanent"];
        host.exec(&[&["bridge"][..], &entry].concat()).unwrap();
    }
}

fn reached(name: &str, data: impl Fn(&str) -> String) {
    let mut network = Network::new(name, [Wire::hosts(1), Wire::hosts(1)], Families::Both, "");
    let there = network.lab.host(1);
    let lease = format!(
        r#"{{"PublicIP":"{}","PublicIPv6":"{}","BackendType":"vxlan","BackendData":{},"BackendV6Data":{}}}"#,
        there.ipv4().unwrap(),
        there.ipv6().unwrap(),
        data(MACS[0]),
        data(MACS[1])
    );
    network.lab.put_lease(KEY, &lease).unwrap();
    network.start(0, &[]);
    let (here, there) = (network.lab.host(0), network.lab.host(1));
    like_flannel(&network, there);
    let env = SubnetEnv {
        subnet: Some("10.77.200.1/24".parse().unwrap()),
        ipv6_subnet: Some("fd77:0:0:200::1/64".parse().unwrap()),
        mtu: 1430,
    };
    let (near, far) = (here.add_pod().unwrap(), there.add_pod_in(&env).unwrap());
    for (from, to) in [(&near, &far), (&far, &near)] {
        for address in to.addresses() {
            ping_whole(from, address, 1430, 3, SOON).unwrap();
        }
    }
    network.check();
}

#[test]
fn a_peer_with_flannels_lease_of_today_is_reached_and_reaches_us() {
    reached("today", |mac| format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#));
}

#[test]
fn a_peer_with_flannels_lease_without_a_vni_is_reached_and_reaches_us() {
    reached("early", |mac| format!(r#"{{"VtepMAC":"{mac}"}}"#));
}
