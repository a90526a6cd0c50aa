//! What is published, and how much fits through.

use flannel_core::{DataPlane, Host, Lease, MacAddress, NetworkConfig};
use proptest::prelude::*;

use super::Overlay;
use crate::fixture::{DUAL, OWN, V4, V6, base, change, host, lease, link, network, own};

/// `BackendData` and `BackendV6Data` as they would be published.
fn published(config: &NetworkConfig, host: &Host, before: Option<&Lease>) -> [String; 2] {
    let published = Overlay::new(config).unwrap().publish(host, before).unwrap();
    [published.data, published.v6_data]
        .map(|data| data.map_or_else(String::new, |data| data.get().to_owned()))
}

fn with_mtu(config: &NetworkConfig, mtu: u32) -> Host {
    let mut host = host(config);
    host.uplink.mtu = mtu;
    host
}

/// The lease as the store would have it.
fn written(data: &[String; 2]) -> Lease {
    lease(
        "10.5.1.0/24,fd00:5:0:1::/64",
        ["192.0.2.1", "2001:db8::1"],
        [&data[0], &data[1]],
    )
}

#[test]
fn the_vni_and_the_mac_address_are_published_byte_for_byte_as_flannel_does() {
    for (families, expected) in [(V4, [OWN[0], ""]), (V6, ["", OWN[1]]), (DUAL, OWN)] {
        let config = network(families, "");
        let mut host = host(&config);
        let mac = |text: &str| text.parse::<MacAddress>().ok();
        change(&mut host, |facts| {
            facts.links = vec![
                link("flannel.1", mac("02:00:00:00:04:01")),
                link("flannel-v6.1", mac("02:00:00:00:06:01")),
            ];
        });
        assert_eq!(published(&config, &host, None), expected, "{families}");
    }
}

#[test]
fn a_family_in_which_the_host_has_no_address_is_not_published() {
    let config = network(DUAL, "");
    let mut host = host(&config);
    host.uplink.addresses.v6 = None;
    let [v4, v6] = published(&config, &host, None);
    assert!(!v4.is_empty() && v6.is_empty(), "{v6}");
}

#[test]
fn a_lease_that_says_the_same_is_kept_to_the_byte() {
    let config = network(DUAL, "");
    let host = host(&config);
    let odd = [
        r#"{ "VtepMAC" : "02-00-00-00-04-01", "vni":1, "Rack":7 }"#,
        r#"{"VNI":1,"VtepMAC":"0200.0000.0601"}"#,
    ];
    let before = lease("10.5.1.0/24,fd00:5:0:1::/64", ["", ""], odd);
    assert_eq!(published(&config, &host, Some(&before)), odd);
    // A restart of what was started without a lease.
    let first = published(&config, &host, None);
    assert_eq!(published(&config, &host, Some(&written(&first))), first);
}

#[test]
fn a_lease_that_says_otherwise_is_written_anew_with_its_mac_address() {
    let config = network(V4, r#""VNI":2"#);
    let host = host(&config);
    for data in [
        OWN[0],
        r#"{"VtepMAC":"02:00:00:00:04:01"}"#,
        r#"{"VNI":null,"VtepMAC":"02:00:00:00:04:01"}"#,
    ] {
        let before = lease("10.5.1.0/24", ["", ""], [data, ""]);
        let expected = [r#"{"VNI":2,"VtepMAC":"02:00:00:00:04:01"}"#, ""];
        assert_eq!(published(&config, &host, Some(&before)), expected, "{data}");
    }
}

#[test]
fn nothing_is_taken_from_the_lease_of_another_backend() {
    let config = network(DUAL, "");
    let host = host(&config);
    let mut foreign = own();
    foreign.attrs.backend = "wireguard".to_owned();
    assert_eq!(
        published(&config, &host, Some(&foreign)),
        published(&config, &host, None)
    );
}

#[test]
fn what_is_published_is_what_the_devices_get() {
    let config = network(DUAL, "");
    let host = host(&config);
    for before in [None, Some(own())] {
        let data = published(&config, &host, before.as_ref());
        let devices = base(&config, &host, &written(&data));
        for (data, device) in data.iter().zip([&devices[1], &devices[0]]) {
            let mac = data.split('"').nth(5).unwrap();
            assert!(device.contains(&format!(" address {mac} ")), "{device} {data}");
        }
    }
}

#[test]
fn pods_have_the_smaller_of_what_both_tunnels_leave_and_devices_their_own() {
    for (families, option, uplink, expected, devices) in [
        (V4, "", 1500, 1450, &[1450][..]),
        (V4, r#""MTU":0"#, 1500, 1450, &[1450]),
        (V4, r#""MTU":1400"#, 1500, 1350, &[1350]),
        (V4, r#""MTU":9000"#, 1500, 1450, &[1450]),
        (V4, r#""MTU":1500"#, 9000, 1450, &[1450]),
        (V4, "", 9001, 8951, &[8951]),
        (V6, "", 1500, 1430, &[1430]),
        (V6, r#""MTU":1450"#, 1500, 1380, &[1380]),
        (DUAL, "", 1500, 1430, &[1430, 1450]),
        (DUAL, r#""MTU":1400"#, 1500, 1330, &[1330, 1350]),
    ] {
        let config = network(families, option);
        let host = with_mtu(&config, uplink);
        let overlay = Overlay::new(&config).unwrap();
        assert_eq!(overlay.mtu(&host), expected, "{families} {option} {uplink}");
        let texts = base(&config, &host, &own());
        for (text, mtu) in texts.iter().zip(devices) {
            assert!(text.contains(&format!(" mtu {mtu} ")), "{text}");
        }
    }
}

#[test]
fn an_mtu_that_is_of_no_use_is_refused_with_the_least_that_is() {
    for (families, option, least, expected) in [
        (
            V4,
            "",
            626,
            "flannel.1 would have an MTU of 575, and IPv4 needs at least 576: the MTU of eth0 is 625, of which the \
             tunnel takes 50; make it at least 626, or give --iface another interface",
        ),
        (
            V6,
            "",
            1350,
            "flannel-v6.1 would have an MTU of 1279, and IPv6 needs at least 1280: the MTU of eth0 is 1349, of \
             which the tunnel takes 70; make it at least 1350, or give --iface another interface",
        ),
        (
            DUAL,
            "",
            1350,
            "flannel-v6.1 would have an MTU of 1279, and IPv6 needs at least 1280: the MTU of eth0 is 1349, of \
             which the tunnel takes 70; make it at least 1350, or give --iface another interface",
        ),
    ] {
        let config = network(families, option);
        let overlay = Overlay::new(&config).unwrap();
        assert!(overlay.publish(&with_mtu(&config, least), None).is_ok());
        let error = overlay.publish(&with_mtu(&config, least - 1), None).unwrap_err();
        assert_eq!((error.backend, error.problem.as_str()), ("vxlan", expected));
    }
    let config = network(V6, r#""MTU":1349"#);
    let error = Overlay::new(&config)
        .unwrap()
        .publish(&host(&config), None)
        .unwrap_err();
    assert_eq!(
        error.problem,
        "flannel-v6.1 would have an MTU of 1279, and IPv6 needs at least 1280: the option MTU is 1349, of which \
         the tunnel takes 70; make it at least 1350, or leave it out"
    );
}

proptest! {
    #[test]
    fn no_mtu_is_a_panic(option in any_mtu(), uplink in any_mtu()) {
        let config = network(DUAL, &format!(r#""MTU":{option}"#));
        let host = with_mtu(&config, uplink);
        let overlay = Overlay::new(&config).unwrap();
        prop_assert!(overlay.mtu(&host) <= uplink);
        prop_assert_eq!(base(&config, &host, &own()).len(), 4);
        let _ = overlay.publish(&host, None);
    }
}

/// Any at all, and more often than not one around those that are too small.
fn any_mtu() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..200, 500u32..1500, any::<u32>()]
}
