//! The options of the network config's `Backend`, and what a lease says of them.

use lab::{Families, Family, Wire};

use super::{PORT, Site, Way};
use crate::network::{BOTH, Network};

/// A host on either side of a router.
fn two_hosts(name: &str, options: &str) -> Site {
    Site::new(name, [Wire::hosts(1), Wire::hosts(1)], Families::Both, options)
}

#[test]
fn another_vni_and_port_are_in_the_devices_names_and_on_the_wire() {
    let site = two_hosts("vni", r#""VNI":4096,"Port":4789"#);
    let names = BOTH.map(|family| site.network.device(0, family).unwrap().name);
    assert_eq!(names, ["flannel.4096", "flannel-v6.4096"]);
    let old = site
        .network
        .lab
        .host(0)
        .count([&format!("udp dport {PORT}")])
        .unwrap();
    site.pods_have_mtu(1430);
    site.every_pair_is_wrapped(1430, 4789);
    assert_eq!((old.sent().unwrap(), old.received().unwrap()), ([0], [0]));
    site.network.check();
}

#[test]
fn the_port_0_is_linuxs_own() {
    let site = two_hosts("port0", r#""Port":0"#);
    site.every_pair_is_wrapped(1430, PORT);
    site.network.check();
}

#[test]
fn a_group_policy_and_learning_are_set_on_the_devices_where_they_are_asked_for() {
    for (name, options, gbp, learning) in [
        ("neither", "", false, false),
        ("gbp", r#""GBP":true"#, true, false),
        ("learning", r#""Learning":true"#, false, true),
    ] {
        let site = two_hosts(name, options);
        for family in BOTH {
            let vxlan = site.network.device(0, family).unwrap().vxlan.unwrap();
            assert_eq!((vxlan.gbp, vxlan.learning), (gbp, learning), "{options}");
        }
        site.every_pair_is_wrapped(1430, PORT);
        site.network.check();
    }
}

#[test]
fn the_mtu_of_the_narrowest_wire_leaves_that_much_less_for_devices_and_pods_everywhere() {
    let wires = [Wire::hosts(1).mtu(9000), Wire::hosts(1).mtu(1400)];
    let site = Site::new("narrow", wires, Families::Both, r#""MTU":1400"#);
    for index in [0, 1] {
        assert_eq!(BOTH.map(|family| site.mtu(index, family)), [1350, 1330]);
    }
    site.pods_have_mtu(1330);
    site.widen_pods(1400);
    site.every_pair_goes(PORT, |_| Way::Wrapped(PORT));
    site.network.check();
}

#[test]
fn jumbo_frames_are_used_to_the_last_byte() {
    let wires = [Wire::hosts(2).mtu(9000)];
    let site = Site::new("jumbo", wires, Families::Both, "");
    assert_eq!(BOTH.map(|family| site.mtu(0, family)), [8950, 8930]);
    site.pods_have_mtu(8930);
    site.widen_pods(9000);
    site.every_pair_goes(PORT, |_| Way::Wrapped(PORT));
    let longer = |pair: super::Pair| (pair, site.mtu(pair.from, pair.family) + 1);
    site.none_passes(&site.pairs().into_iter().map(longer).collect::<Vec<_>>());
    site.network.check();
}

#[test]
fn a_lease_has_the_data_that_flannel_writes_byte_for_byte() {
    for (name, families) in [
        ("lease4", Families::V4),
        ("lease6", Families::V6),
        ("lease", Families::Both),
    ] {
        let mut network = Network::new(name, [Wire::hosts(1)], families, "");
        network.start_all();
        let text = network.lab.leases().unwrap().remove(0).text;
        let host = network.lab.host(0);
        let data = |family: Family| {
            let mac = network.device(0, family)?.mac;
            Some(format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#))
        };
        let v4 = host.ipv4().map_or("0.0.0.0".to_owned(), |v4| v4.to_string());
        let v6 = host.ipv6().map_or("null".to_owned(), |v6| format!("\"{v6}\""));
        let mut ought = format!(r#"{{"PublicIP":"{v4}","PublicIPv6":{v6},"BackendType":"vxlan""#);
        for (member, family) in [("BackendData", Family::V4), ("BackendV6Data", Family::V6)] {
            assert_eq!(data(family).is_some(), families.contains(family));
            if let Some(data) = data(family) {
                ought += &format!(r#","{member}":{data}"#);
            }
        }
        assert!(text.starts_with(&ought), "{text}\ndoes not begin with\n{ought}");
        network.check();
    }
}
