use flannel_core::Backend;
use proptest::prelude::*;

use super::*;
use crate::Vxlan;
use crate::fixture::{DUAL, V4, V6, network};

fn read(options: &str) -> Options {
    Options::read(&network(V4, options)).unwrap()
}

/// What is wrong with options, in the words that an operator reads.
fn complaint(families: &str, options: &str) -> String {
    let error = Vxlan.configure(&network(families, options)).err();
    error.map(|error| error.to_string()).unwrap_or_default()
}

const DEFAULT: Options = Options {
    vni: 1,
    port: 8472,
    gbp: false,
    learning: false,
    direct_routing: false,
    mtu: None,
    offload: Offload::Auto,
};

#[test]
fn without_options_it_is_flannels_default() {
    assert_eq!(read(""), DEFAULT);
}

#[test]
fn each_option_is_read() {
    for (options, expected) in [
        (r#""VNI":0"#, Options { vni: 0, ..DEFAULT }),
        (
            r#""VNI":9999999"#,
            Options {
                vni: 9_999_999,
                ..DEFAULT
            },
        ),
        (
            r#""VNI":16777215"#,
            Options {
                vni: 16_777_215,
                ..DEFAULT
            },
        ),
        (r#""Port":0"#, DEFAULT),
        (r#""Port":1"#, Options { port: 1, ..DEFAULT }),
        (
            r#""Port":65535"#,
            Options {
                port: 65_535,
                ..DEFAULT
            },
        ),
        (r#""GBP":true"#, Options { gbp: true, ..DEFAULT }),
        (
            r#""Learning":true"#,
            Options {
                learning: true,
                ..DEFAULT
            },
        ),
        (
            r#""DirectRouting":true"#,
            Options {
                direct_routing: true,
                ..DEFAULT
            },
        ),
        (r#""MTU":0"#, DEFAULT),
        (
            r#""MTU":9000"#,
            Options {
                mtu: Some(9000),
                ..DEFAULT
            },
        ),
        (r#""TxChecksumOffload":"auto""#, DEFAULT),
        (
            r#""TxChecksumOffload":"on""#,
            Options {
                offload: Offload::On,
                ..DEFAULT
            },
        ),
        (
            r#""TxChecksumOffload":"OFF""#,
            Options {
                offload: Offload::Off,
                ..DEFAULT
            },
        ),
    ] {
        assert_eq!(read(options), expected, "{options}");
    }
}

#[test]
fn names_match_in_any_case_and_null_and_what_is_unknown_change_nothing() {
    let members = [
        "VNI",
        "Port",
        "GBP",
        "Learning",
        "DirectRouting",
        "MTU",
        "TxChecksumOffload",
    ];
    for member in members {
        assert_eq!(read(&format!(r#""{member}":null"#)), DEFAULT, "{member}");
    }
    // flannel on Windows has the first two.
    assert_eq!(read(r#""Name":7,"MacPrefix":[],"Comment":{"VNI":3}"#), DEFAULT);
    let odd = r#""vni":3,"PORT":4789,"gbp":true,"LEARNING":true,"directrouting":true,"mtu":1400,"txchecksumoffload":"On""#;
    let expected = Options {
        vni: 3,
        port: 4789,
        gbp: true,
        learning: true,
        direct_routing: true,
        mtu: Some(1400),
        offload: Offload::On,
    };
    assert_eq!(read(odd), expected);
    assert_eq!(read(r#""VNI":5,"vni":6"#).vni, 6);
}

#[test]
fn a_wrong_value_is_told_with_its_member_and_what_may_stand_there() {
    const PREFIX: &str = "vxlan: error decoding VXLAN backend config: ";
    const VNI: &str = "a whole number from 0 to 16777215";
    const PORT: &str = "a whole number from 0 to 65535, where 0 stands for 8472";
    const MTU: &str =
        "the MTU of the network between the hosts in bytes, such as 1500, or 0 for the uplink's";
    const OFFLOAD: &str = r#""auto", "on" or "off""#;
    for (member, values, expected) in [
        (
            "VNI",
            &["16777216", "4294967296", "-1", "1.5", "\"1\"", "true", "[1]"][..],
            VNI,
        ),
        ("Port", &["65536", "-1", "\"8472\"", "{}"], PORT),
        ("GBP", &["1", "\"true\""], "true or false"),
        ("Learning", &["0", "\"no\""], "true or false"),
        ("DirectRouting", &["\"yes\"", "[]"], "true or false"),
        ("MTU", &["-1", "\"1450\"", "1e3", "4294967296"], MTU),
        (
            "TxChecksumOffload",
            &["\"\"", "\"of\"", "\" on\"", "true", "0"],
            OFFLOAD,
        ),
    ] {
        for value in values {
            let text = complaint(V4, &format!(r#""{member}":{value}"#));
            assert_eq!(
                text,
                format!("{PREFIX}{member} is {value}, which is not {expected}")
            );
        }
    }
    let long = complaint(V4, &format!(r#""TxChecksumOffload":"{}""#, "x".repeat(10_000)));
    assert!(long.len() < 300, "{long}");
}

#[test]
fn a_vni_whose_device_name_the_kernel_would_not_take_is_refused_with_the_highest_that_fits() {
    for (families, highest, family, name) in [
        (V4, 9_999_999, "IPv4", "flannel.10000000"),
        (V6, 9_999, "IPv6", "flannel-v6.10000"),
        (DUAL, 9_999, "IPv6", "flannel-v6.10000"),
    ] {
        let vni = |vni: u32| format!(r#""VNI":{vni}"#);
        assert_eq!(complaint(families, &vni(highest)), "");
        assert_eq!(
            complaint(families, &vni(highest + 1)),
            format!(
                "vxlan: error decoding VXLAN backend config: VNI is {}, and with {family} it can be {highest} at \
                 most: {name:?} is longer than the 15 characters that the kernel takes as the name of a device",
                highest + 1
            )
        );
    }
}

#[test]
fn there_is_a_device_for_each_family_of_the_network() {
    for (families, devices) in [
        (V4, &["flannel.7"][..]),
        (V6, &["flannel-v6.7"]),
        (DUAL, &["flannel.7", "flannel-v6.7"]),
    ] {
        let data_plane = Vxlan.configure(&network(families, r#""VNI":7"#)).unwrap();
        let names: Vec<String> = data_plane.devices().iter().map(ToString::to_string).collect();
        assert_eq!(names, devices);
    }
    assert_eq!(Vxlan.kind(), "vxlan");
}

proptest! {
    #[test]
    fn no_value_of_any_option_is_a_panic(
        member in "(?i)(vni|port|gbp|learning|directrouting|mtu|txchecksumoffload)",
        value in r#"-?[0-9]{1,12}(\.[0-9]{1,3})?|true|false|null|"[a-z0-9 ]{0,8}"|\[[0-9]?\]|\{\}"#,
    ) {
        // A number with leading zeros is no JSON.
        let options = format!(r#""{member}":{value}"#);
        let json = format!(r#"{{{DUAL},"Backend":{{"Type":"vxlan",{options}}}}}"#);
        if let Ok(config) = NetworkConfig::from_json(&json)
            && let Err(error) = Vxlan.configure(&config)
        {
            prop_assert!(!error.problem.is_empty() && error.problem.len() < 400, "{}", error);
        }
    }
}

#[test]
fn every_option_that_is_read_is_known_and_one_that_is_nearly_so_is_told_of() {
    for name in NAMES {
        let json = format!(r#"{{"Network": "10.5.0.0/16", "Backend": {{"Type": "vxlan", "{name}": []}}}}"#);
        let config = NetworkConfig::from_json(&json).unwrap();
        let error = Options::read(&config).unwrap_err();
        assert_eq!(error.member, name);
        assert_eq!(config.backend.misspelt(&NAMES), []);
    }
    let json = r#"{"Network": "10.5.0.0/16", "Backend": {"type": "vxlan", "DirectRoutng": true, "vni": 7, "Name": "x"}}"#;
    let config = NetworkConfig::from_json(json).unwrap();
    let misspelt = config.backend.misspelt(&NAMES);
    let told: Vec<(&str, &str)> = misspelt
        .iter()
        .map(|one| (one.found.as_str(), one.meant))
        .collect();
    assert_eq!(told, [("DirectRoutng", "DirectRouting")]);
}
