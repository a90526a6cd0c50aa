use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::fixture::{DUAL, V4, change, host, lease, link, name, network, own};

const DEVICES: PerFamily<&str> = PerFamily {
    v4: Some("flannel.1"),
    v6: Some("flannel-v6.1"),
};

fn devices() -> PerFamily<DeviceName> {
    PerFamily::from_fn(|family| DEVICES.get(family).map(|device| name(device)))
}

fn mac(text: &str) -> MacAddress {
    text.parse().unwrap()
}

fn texts(macs: PerFamily<MacAddress>) -> Vec<String> {
    macs.iter().map(|(_, mac)| mac.to_string()).collect()
}

/// What follows from the id of the fixture's host.
const DERIVED: [&str; 2] = ["de:68:ae:90:48:21", "f6:3a:c5:67:46:a4"];

#[test]
fn the_derived_address_is_the_same_in_every_version() {
    let host = host(&network(DUAL, ""));
    assert_eq!(texts(macs(&devices(), &host, None)), DERIVED);
}

#[test]
fn the_lease_comes_before_the_device_and_that_before_the_derived_address() {
    let mut host = host(&network(DUAL, ""));
    change(&mut host, |facts| {
        facts.links = vec![
            link("flannel.1", Some(mac("02:00:00:00:aa:04"))),
            link("flannel-v6.1", Some(mac("02:00:00:00:aa:06"))),
        ];
    });
    let published = ["02:00:00:00:04:01", "02:00:00:00:06:01"];
    let present = ["02:00:00:00:aa:04", "02:00:00:00:aa:06"];
    assert_eq!(texts(macs(&devices(), &host, Some(&own()))), published);
    assert_eq!(texts(macs(&devices(), &host, None)), present);
    // Each family on its own.
    let half = lease("10.5.1.0/24", ["", ""], [crate::fixture::OWN[0], ""]);
    assert_eq!(
        texts(macs(&devices(), &host, Some(&half))),
        [published[0], present[1]]
    );
    let absent = self::host(&network(DUAL, ""));
    assert_eq!(
        texts(macs(&devices(), &absent, Some(&half))),
        [published[0], DERIVED[1]]
    );
}

#[test]
fn only_the_address_counts_in_a_lease_and_only_in_one_of_this_backend() {
    let host = host(&network(V4, ""));
    let only_v4 = PerFamily {
        v6: None,
        ..devices()
    };
    let of = |data: &str| {
        texts(macs(
            &only_v4,
            &host,
            Some(&lease("10.5.1.0/24", ["", ""], [data, ""])),
        ))
    };
    for data in [
        r#"{"VNI":99,"VtepMAC":"02:00:00:00:04:01"}"#,
        r#"{"VtepMAC":"02-00-00-00-04-01"}"#,
    ] {
        assert_eq!(of(data), ["02:00:00:00:04:01"], "{data}");
    }
    for data in [
        r#"{"VNI":1,"VtepMAC":"01:00:00:00:04:01"}"#,
        r#"{"VNI":1,"VtepMAC":"00:00:00:00:00:00"}"#,
        r#"{"VNI":1}"#,
        r#""02:00:00:00:04:01""#,
        "[]",
    ] {
        assert_eq!(of(data), DERIVED[..1], "{data}");
    }
    let mut foreign = own();
    foreign.attrs.backend = "wireguard".to_owned();
    assert_eq!(texts(macs(&only_v4, &host, Some(&foreign))), DERIVED[..1]);
}

#[test]
fn a_device_with_no_address_of_a_device_gets_the_derived_one() {
    for present in [None, Some(MacAddress([0; 6])), Some(mac("33:33:00:00:00:01"))] {
        let mut host = host(&network(DUAL, ""));
        change(&mut host, |facts| facts.links = vec![link("flannel.1", present)]);
        assert_eq!(texts(macs(&devices(), &host, None)), DERIVED, "{present:?}");
    }
}

#[test]
fn two_devices_never_have_the_same_address() {
    let data = crate::fixture::OWN[0];
    let twice = lease("10.5.1.0/24,fd00:5:0:1::/64", ["", ""], [data, data]);
    let mut host = host(&network(DUAL, ""));
    let expected = ["02:00:00:00:04:01", DERIVED[1]];
    assert_eq!(texts(macs(&devices(), &host, Some(&twice))), expected);
    change(&mut host, |facts| {
        facts.links = vec![link("flannel-v6.1", Some(mac("02:00:00:00:04:01")))];
    });
    assert_eq!(texts(macs(&devices(), &host, Some(&twice))), expected);
}

#[test]
fn hosts_networks_and_families_have_addresses_of_their_own() {
    let mut seen = BTreeSet::new();
    for node in 0..64 {
        for vni in 0..64 {
            for device in [format!("flannel.{vni}"), format!("flannel-v6.{vni}")] {
                let mac = derived(NodeId(node), &name(&device));
                assert!(seen.insert(mac), "{node} {device} {mac}");
            }
        }
    }
    // No bit but the two that say what kind of address it is stays as it is.
    let all = |fold: fn(u64, u64) -> u64, start: u64| {
        let number = |mac: &MacAddress| mac.0.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        seen.iter().map(number).fold(start, fold)
    };
    assert_eq!(all(|a, b| a & b, u64::MAX), 0x0200_0000_0000);
    assert_eq!(all(|a, b| a | b, 0), 0xfeff_ffff_ffff);
}

proptest! {
    #[test]
    fn whatever_stands_in_a_lease_each_device_has_a_unicast_address(
        data in ["[^\"\\\\\\x00-\\x1f]{0,20}", "([0-9a-f]{2}[:-]){5}[0-9a-f]{2}"],
        node: u128,
    ) {
        let json = format!(r#"{{"VtepMAC":"{}"}}"#, data[1]);
        let odd = format!(r#"{{"VtepMAC":"{}"}}"#, data[0]);
        let lease = lease("10.5.1.0/24", ["", ""], [&json, &odd]);
        let mut host = host(&network(DUAL, ""));
        host.node = NodeId(node);
        let macs = macs(&devices(), &host, Some(&lease));
        prop_assert!(macs.iter().count() == 2 && macs.iter().all(|(_, mac)| mac.is_unicast()));
        prop_assert_ne!(macs.v4, macs.v6);
    }
}
