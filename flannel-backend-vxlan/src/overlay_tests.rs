use std::net::IpAddr;

use flannel_core::{KernelRelease, Underlay};
use proptest::prelude::*;

use super::*;
use crate::fixture::{
    DUAL, OWN, SEVENTH, V4, V6, base, change, host, lease, name, network, on_link, own, seventh, wanted,
};

const DEVICE_V4: &str = "flannel.1 vxlan id 1 dstport 8472 local 192.0.2.1 dev eth0 nolearning address \
                         02:00:00:00:04:01 mtu 1450 up";
const DEVICE_V6: &str = "flannel-v6.1 vxlan id 1 dstport 8472 local 2001:db8::1 dev eth0 nolearning address \
                         02:00:00:00:06:01 mtu 1430 up";
const ADDRESS_V4: &str = "address 10.5.1.0/32 dev flannel.1";
const ADDRESS_V6: &str = "address fd00:5:0:1::/128 dev flannel-v6.1";

const TUNNEL_V4: [&str; 3] = [
    "fdb 02:00:00:00:04:07 dev flannel.1 dst 192.0.2.7",
    "neighbour 10.5.7.0 dev flannel.1 lladdr 02:00:00:00:04:07",
    "10.5.7.0/24 via 10.5.7.0 dev flannel.1 onlink proto 77",
];
const TUNNEL_V6: [&str; 3] = [
    "fdb 02:00:00:00:06:07 dev flannel-v6.1 dst 2001:db8::7",
    "neighbour fd00:5:0:7:: dev flannel-v6.1 lladdr 02:00:00:00:06:07",
    "fd00:5:0:7::/64 via fd00:5:0:7:: dev flannel-v6.1 onlink proto 77",
];
const DIRECT_V4: &str = "10.5.7.0/24 via 192.0.2.7 dev eth0 proto 77";
const DIRECT_V6: &str = "fd00:5:0:7::/64 via 2001:db8::7 dev eth0 proto 77";

#[test]
fn the_host_itself_is_a_device_per_family_with_the_first_address_of_its_subnet() {
    for (families, expected) in [
        (V4, vec![DEVICE_V4, ADDRESS_V4]),
        (V6, vec![DEVICE_V6, ADDRESS_V6]),
        (DUAL, vec![DEVICE_V6, DEVICE_V4, ADDRESS_V6, ADDRESS_V4]),
    ] {
        let config = network(families, "");
        assert_eq!(base(&config, &host(&config), &own()), expected, "{families}");
    }
}

#[test]
fn the_options_are_the_devices() {
    let config = network(
        V4,
        r#""VNI":42,"Port":4789,"GBP":true,"Learning":true,"MTU":1400,"TxChecksumOffload":"off""#,
    );
    assert_eq!(
        base(&config, &host(&config), &own())[0],
        "flannel.42 vxlan id 42 dstport 4789 local 192.0.2.1 dev eth0 learning gbp address 02:00:00:00:04:01 mtu \
         1350 up tx-checksum off"
    );
}

#[test]
fn checksum_offload_goes_by_the_option_and_the_kernel() {
    for (option, minor, expected) in [
        ("auto", 4, " up tx-checksum off"),
        ("auto", 10, " up"),
        ("on", 4, " up tx-checksum on"),
        ("off", 10, " up tx-checksum off"),
    ] {
        let config = network(V4, &format!(r#""TxChecksumOffload":"{option}""#));
        let mut host = host(&config);
        change(&mut host, |facts| {
            facts.kernel = Some(KernelRelease { major: 5, minor });
        });
        let device = &base(&config, &host, &own())[0];
        assert!(device.ends_with(&format!("mtu 1450{expected}")), "{device}");
    }
}

#[test]
fn packets_leave_from_the_hosts_own_address_whatever_is_published() {
    let config = network(DUAL, "");
    let mut behind_nat = host(&config);
    behind_nat.uplink.public.v4 = "203.0.113.5".parse().ok();
    behind_nat.uplink.public.v6 = "2001:db8:ffff::5".parse().ok();
    assert_eq!(
        base(&config, &behind_nat, &own()),
        base(&config, &host(&config), &own())
    );
}

#[test]
fn a_family_in_which_the_host_has_no_address_is_left_out() {
    let config = network(DUAL, "");
    for (without, host_itself, peer) in [
        (Family::V6, [DEVICE_V4, ADDRESS_V4], TUNNEL_V4),
        (Family::V4, [DEVICE_V6, ADDRESS_V6], TUNNEL_V6),
    ] {
        let mut host = host(&config);
        host.uplink.addresses.set(without, None);
        host.uplink.public.set(without, None);
        assert_eq!(base(&config, &host, &own()), host_itself, "{without}");
        assert_eq!(wanted(&config, &host, &seventh()).unwrap(), peer, "{without}");
    }
}

#[test]
fn a_peer_is_a_forwarding_entry_a_neighbour_and_an_onlink_route_per_family() {
    for (families, expected) in [
        (V4, TUNNEL_V4.to_vec()),
        (V6, TUNNEL_V6.to_vec()),
        (DUAL, [TUNNEL_V4, TUNNEL_V6].concat()),
    ] {
        let config = network(families, "");
        let objects = wanted(&config, &host(&config), &seventh()).unwrap();
        assert_eq!(sorted(objects), sorted(expected), "{families}");
    }
    // Without DirectRouting on one link, too.
    let config = network(V4, r#""DirectRouting":false"#);
    let host = on_link(host(&config));
    assert_eq!(wanted(&config, &host, &seventh()).unwrap(), TUNNEL_V4);
}

#[test]
fn with_direct_routing_a_peer_on_the_uplinks_link_is_a_plain_route() {
    let config = network(DUAL, r#""DirectRouting":true"#);
    let host = on_link(host(&config));
    assert_eq!(
        wanted(&config, &host, &seventh()).unwrap(),
        [DIRECT_V4, DIRECT_V6]
    );
    // What only the tunnel needs is not asked for.
    let mut plain = seventh();
    plain.attrs.backend_data = None;
    plain.attrs.backend_v6_data = None;
    assert_eq!(wanted(&config, &host, &plain).unwrap(), [DIRECT_V4, DIRECT_V6]);
}

#[test]
fn with_direct_routing_each_family_goes_by_its_own_address() {
    let config = network(DUAL, r#""DirectRouting":true"#);
    let host = on_link(host(&config));
    let mut peer = seventh();
    peer.attrs.public.v6 = "2001:db8:0:9::7".parse().ok();
    let tunnel_v6 = TUNNEL_V6.map(|text| text.replace("2001:db8::7", "2001:db8:0:9::7"));
    let expected = [vec![DIRECT_V4.to_owned()], tunnel_v6.to_vec()].concat();
    assert_eq!(sorted(wanted(&config, &host, &peer).unwrap()), sorted(expected));
}

#[test]
fn with_direct_routing_a_peer_behind_a_router_or_on_another_link_is_in_the_tunnel() {
    let config = network(V4, r#""DirectRouting":true"#);
    let nowhere = host(&config);
    let mut behind_router = on_link(host(&config));
    let mut elsewhere = on_link(host(&config));
    let more_precise = |device| {
        let mut underlay = Underlay::default();
        underlay.insert("192.0.2.0/24".parse().unwrap(), 0, Some(name("eth0")));
        underlay.insert("192.0.2.7/32".parse().unwrap(), 0, device);
        underlay
    };
    change(&mut behind_router, |facts| facts.underlay = more_precise(None));
    change(&mut elsewhere, |facts| {
        facts.underlay = more_precise(Some(name("eth1")))
    });
    for host in [nowhere, behind_router, elsewhere] {
        assert_eq!(wanted(&config, &host, &seventh()).unwrap(), TUNNEL_V4);
    }
}

#[test]
fn only_direct_routing_goes_by_the_underlay() {
    for (options, expected) in [("", false), (r#""DirectRouting":true"#, true)] {
        let overlay = Overlay::new(&network(V4, options)).unwrap();
        assert_eq!(overlay.follows_underlay(), expected);
    }
}

#[test]
fn a_peer_is_reached_by_whatever_address_it_publishes() {
    let config = network(V4, "");
    let peer = lease("10.5.7.0/24", ["203.0.113.7", ""], SEVENTH);
    let objects = wanted(&config, &host(&config), &peer).unwrap();
    assert_eq!(objects[0], "fdb 02:00:00:00:04:07 dev flannel.1 dst 203.0.113.7");
}

#[test]
fn data_without_a_vni_is_as_good_and_so_are_the_16_bits_that_flannel_writes_of_one() {
    let config = network(V4, r#""VNI":70000"#);
    for vni in ["", r#""VNI":70000,"#, r#""VNI":4464,"#] {
        let data = format!(r#"{{{vni}"VtepMAC":"02:00:00:00:04:07"}}"#);
        let peer = lease("10.5.7.0/24", ["192.0.2.7", ""], [&data, ""]);
        let expected = TUNNEL_V4.map(|text| text.replace("flannel.1", "flannel.70000"));
        assert_eq!(wanted(&config, &host(&config), &peer).unwrap(), expected);
    }
}

#[test]
fn a_family_in_which_the_peer_has_no_subnet_is_left_out() {
    let config = network(DUAL, "");
    for (subnet, public, data, expected) in [
        ("10.5.7.0/24", ["192.0.2.7", ""], [SEVENTH[0], ""], TUNNEL_V4),
        (
            "fd00:5:0:7::/64",
            ["", "2001:db8::7"],
            ["", SEVENTH[1]],
            TUNNEL_V6,
        ),
    ] {
        let peer = lease(subnet, public, data);
        assert_eq!(wanted(&config, &host(&config), &peer).unwrap(), expected);
    }
    for (families, subnet, expected) in [
        (V6, "10.5.7.0/24", "it has no IPv6 subnet"),
        (V4, "fd00:5:0:7::/64", "it has no IPv4 subnet"),
    ] {
        let config = network(families, "");
        let peer = lease(subnet, ["192.0.2.7", "2001:db8::7"], SEVENTH);
        assert_eq!(wanted(&config, &host(&config), &peer), Err(expected.to_owned()));
    }
}

#[test]
fn a_peer_that_lacks_something_in_one_family_is_left_out_as_a_whole_with_the_reason() {
    const MAC: &str = r#"which is not the MAC address of a device, such as "8e:bc:f1:25:6b:a8""#;
    const BOTH: [&str; 2] = ["192.0.2.7", "2001:db8::7"];
    let config = network(DUAL, "");
    for (public, data, expected) in [
        (
            ["", BOTH[1]],
            SEVENTH,
            "it has no public IPv4 address by which 10.5.7.0/24 could be reached".to_owned(),
        ),
        (
            [BOTH[0], ""],
            SEVENTH,
            "it has no public IPv6 address by which fd00:5:0:7::/64 could be reached".to_owned(),
        ),
        (
            BOTH,
            ["", SEVENTH[1]],
            "it has no BackendData, and so no VtepMAC".to_owned(),
        ),
        (
            BOTH,
            [SEVENTH[0], ""],
            "it has no BackendV6Data, and so no VtepMAC".to_owned(),
        ),
        (
            BOTH,
            [SEVENTH[0], "[1]"],
            "its BackendV6Data is of no use: it is [1], which is not an object".to_owned(),
        ),
        (
            BOTH,
            [r#"{"VNI":1,"VtepMAC":"8e:bc"}"#, SEVENTH[1]],
            format!(r#"its BackendData is of no use: VtepMAC is "8e:bc", {MAC}"#),
        ),
        (
            BOTH,
            [r#"{"VNI":1,"VtepMAC":"01:00:5e:00:00:01"}"#, SEVENTH[1]],
            format!(r#"its BackendData is of no use: VtepMAC is "01:00:5e:00:00:01", {MAC}"#),
        ),
        (
            BOTH,
            [r#"{"VNI":2,"VtepMAC":"02:00:00:00:04:07"}"#, SEVENTH[1]],
            "its VNI is 2 and this host's is 1, and so neither could read the other's packets: both need the same \
             network config"
                .to_owned(),
        ),
        (
            BOTH,
            [SEVENTH[0], OWN[1]],
            "its VtepMAC 02:00:00:00:06:01 is that of this host's flannel-v6.1, as happens when hosts are copied: \
             on one of them stop flanneld, delete flannel-v6.1, the lease and the state directory, and start it \
             again"
                .to_owned(),
        ),
    ] {
        let peer = lease("10.5.7.0/24,fd00:5:0:7::/64", public, data);
        assert_eq!(wanted(&config, &host(&config), &peer), Err(expected));
    }
}

#[test]
fn a_peer_with_our_mac_address_is_left_out_though_it_is_on_the_uplinks_link() {
    let config = network(DUAL, r#""DirectRouting":true"#);
    let host = on_link(host(&config));
    for (data, device) in [
        ([OWN[0], SEVENTH[1]], "flannel.1"),
        ([SEVENTH[0], OWN[1]], "flannel-v6.1"),
    ] {
        let peer = lease("10.5.7.0/24,fd00:5:0:7::/64", ["192.0.2.7", "2001:db8::7"], data);
        let why = wanted(&config, &host, &peer).unwrap_err();
        let words = format!("is that of this host's {device}, as happens when hosts are copied");
        assert!(why.contains(&words), "{why}");
    }
}

#[test]
fn every_mac_address_is_held_against_the_device_of_its_family_alone() {
    let config = network(DUAL, "");
    let peer = lease(
        "10.5.7.0/24,fd00:5:0:7::/64",
        ["192.0.2.7", "2001:db8::7"],
        [OWN[1], OWN[0]],
    );
    assert_eq!(wanted(&config, &host(&config), &peer).unwrap().len(), 6);
}

fn sorted<T: Into<String>>(texts: Vec<T>) -> Vec<String> {
    let mut texts: Vec<String> = texts.into_iter().map(Into::into).collect();
    texts.sort();
    texts
}

proptest! {
    #[test]
    fn whatever_a_peer_publishes_it_is_wanted_as_a_whole_or_not_at_all(
        data in [arbitrary_json(), arbitrary_json()],
        v4: Option<std::net::Ipv4Addr>,
        v6: Option<std::net::Ipv6Addr>,
        direct: bool,
    ) {
        let config = network(DUAL, if direct { r#""DirectRouting":true"# } else { "" });
        let mut peer = seventh();
        peer.attrs.public = PerFamily { v4: v4.map(IpAddr::V4), v6: v6.map(IpAddr::V6) };
        let [v4_data, v6_data] = data.map(|json| serde_json::value::RawValue::from_string(json).ok());
        peer.attrs.backend_data = v4_data;
        peer.attrs.backend_v6_data = v6_data;
        match wanted(&config, &on_link(host(&config)), &peer) {
            Ok(objects) => prop_assert!([2, 4, 6].contains(&objects.len()), "{:?}", objects),
            Err(why) => prop_assert!(!why.is_empty() && why.len() < 600, "{}", why),
        }
    }
}

/// JSON of any kind, more often than not with the members that count.
fn arbitrary_json() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        "null|true|1|70000|-1|1.5|\\[\\]|\\{\\}",
        r#""[0-9a-f]{2}(:[0-9a-f]{2}){5}""#,
        any::<String>().prop_map(|text| serde_json::Value::from(text).to_string()),
    ];
    let members =
        (value.clone(), value.clone()).prop_map(|(vni, mac)| format!(r#"{{"VNI":{vni},"VtepMAC":{mac}}}"#));
    let no_vni = value.clone().prop_map(|mac| format!(r#"{{"VtepMAC":{mac}}}"#));
    prop_oneof![members, no_vni, value]
}
