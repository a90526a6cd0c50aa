//! What a receiver sees of a packet's source, with and without translation on the way.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up its lab has failed")]

use std::net::IpAddr;
use std::time::Duration;

use lab::{Family, Lab, LabError, Options, Pod, Receiver, SubnetEnv};

const SOON: Duration = Duration::from_secs(5);
const PORT: u16 = 7000;
const MASQUERADE: &str = "
    table inet test {
        chain postrouting {
            type nat hook postrouting priority srcnat;
            ip saddr 10.77.0.0/24 ip daddr != 10.77.0.0/16 masquerade
            ip6 saddr fd77::/64 ip6 daddr != fd77::/48 masquerade
        }
    }";

fn a_pod(lab: &Lab) -> Pod {
    let subnet = SubnetEnv {
        subnet: Some("10.77.0.1/24".parse().unwrap()),
        ipv6_subnet: Some("fd77::1/64".parse().unwrap()),
        mtu: 1400,
    };
    lab.host(0).add_pod_in(&subnet).unwrap()
}

#[test]
fn a_receiver_sees_a_pods_address_until_its_host_masquerades_it() {
    let lab = Lab::new("seen", Options::hosts(2)).unwrap();
    let (here, there) = (lab.host(0), lab.host(1));
    let pod = a_pod(&lab);
    // The way back.
    for (net, via) in [
        ("10.77.0.0/24", IpAddr::from(here.ipv4().unwrap())),
        ("fd77::/64", here.ipv6().unwrap().into()),
    ] {
        there
            .replace_route(net.parse().unwrap(), &["via", &via.to_string()])
            .unwrap();
    }
    let receivers = [(Family::V4, PORT), (Family::V6, PORT + 1)]
        .map(|(family, port)| Receiver::open(there, family, port).unwrap());
    let seen = || -> Vec<IpAddr> {
        let to = [IpAddr::from(there.ipv4().unwrap()), there.ipv6().unwrap().into()];
        to.into_iter()
            .zip(pod.addresses())
            .zip(&receivers)
            .flat_map(|((to, own), receiver)| {
                [
                    receiver.source_of_datagram(&pod, own, to, SOON).unwrap(),
                    receiver.source_of_connection(&pod, to, SOON).unwrap(),
                ]
            })
            .collect()
    };
    let pods: Vec<IpAddr> = pod.addresses().collect();
    assert_eq!(seen(), [pods[0], pods[0], pods[1], pods[1]]);
    here.feed(&["nft", "-f", "-"], MASQUERADE).unwrap();
    let hosts = [IpAddr::from(here.ipv4().unwrap()), here.ipv6().unwrap().into()];
    assert_eq!(seen(), [hosts[0], hosts[0], hosts[1], hosts[1]]);
}

#[test]
fn a_receiver_hears_a_multicast_group_only_after_it_has_joined() {
    let lab = Lab::new("group", Options::hosts(1)).unwrap();
    let (from, to) = (a_pod(&lab), a_pod(&lab));
    for (own, group) in from.addresses().zip(["239.7.7.7", "ff05::77"]) {
        let group = group.parse().unwrap();
        let receiver = Receiver::open(&to, Family::of(own), PORT).unwrap();
        let deaf = receiver.source_of_datagram(&from, own, group, Duration::from_millis(200));
        assert!(matches!(deaf, Err(LabError::TimedOut { .. })), "{deaf:?}");
        receiver.join(group).unwrap();
        assert_eq!(receiver.source_of_datagram(&from, own, group, SOON).unwrap(), own);
    }
}

#[test]
fn a_port_can_be_listened_on_again_while_programs_are_started_and_by_one_receiver_only() {
    let lab = Lab::new("again", Options::hosts(1)).unwrap();
    let host = lab.host(0);
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| (0..20).for_each(|_| drop(host.exec(&["true"]).unwrap())));
        while !starting.is_finished() {
            Receiver::open(host, Family::V6, PORT).unwrap();
        }
    });
    let _first = Receiver::open(host, Family::V6, PORT).unwrap();
    let second = Receiver::open(host, Family::V6, PORT).unwrap_err().to_string();
    assert!(second.contains("listen on port 7000"), "{second}");
}

#[test]
fn what_never_arrives_is_told_of_when_the_time_is_up() {
    let lab = Lab::new("dropped", Options::hosts(2)).unwrap();
    let (from, to) = (lab.host(0), lab.host(1));
    let (own, there) = (from.ipv4().unwrap().into(), to.ipv4().unwrap().into());
    let receiver = Receiver::open(to, Family::V4, PORT).unwrap();
    to.feed(
        &["nft", "-f", "-"],
        "table ip test { chain input { type filter hook input priority 0; policy drop; }; }",
    )
    .unwrap();
    let short = Duration::from_millis(300);
    for lost in [
        receiver.source_of_datagram(from, own, there, short),
        receiver.source_of_connection(from, there, short),
    ] {
        assert!(lost.as_ref().is_err_and(LabError::is_transient), "{lost:?}");
    }
}

#[test]
fn a_receiver_takes_no_others_question_for_the_one_it_was_asked() {
    let lab = Lab::new("crossed", Options::hosts(3)).unwrap();
    let to = lab.host(2);
    let receiver = Receiver::open(to, Family::V4, PORT).unwrap();
    let there = to.ipv4().unwrap().into();
    // Left in the queue by somebody else.
    let stray = lab.host(1).ipv4().unwrap();
    let other = lab
        .host(1)
        .inside(|| std::net::UdpSocket::bind((stray, 0)))
        .unwrap()
        .unwrap();
    other.send_to(b"other", (there, PORT)).unwrap();
    let own = lab.host(0).ipv4().unwrap().into();
    assert_eq!(
        receiver
            .source_of_datagram(lab.host(0), own, there, SOON)
            .unwrap(),
        own
    );
}
