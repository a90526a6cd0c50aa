use super::*;

const BACKEND: &str = r#""Backend":{"Type":"host-gw"}"#;

/// The members, with a backend added.
fn read_config(members: &str) -> Result<NetworkConfig, ConfigError> {
    let comma = if members.is_empty() { "" } else { "," };
    NetworkConfig::from_json(&format!("{{{members}{comma}{BACKEND}}}"))
}

fn cut_as(range: Option<Range>) -> String {
    range.map_or_else(
        || "none".to_owned(),
        |range| {
            format!(
                "{} /{} {}..{}",
                range.network, range.subnet_len, range.first, range.last
            )
        },
    )
}

#[test]
fn networks_are_cut_as_flannel_cuts_them() {
    for (members, expected) in [
        (r#""Network":"10.5.0.0/22""#, "10.5.0.0/22 /24 10.5.1.0..10.5.3.0"),
        (
            r#""Network":"10.5.0.0/23""#,
            "10.5.0.0/23 /25 10.5.0.128..10.5.1.128",
        ),
        (
            r#""Network":"10.5.0.0/24""#,
            "10.5.0.0/24 /26 10.5.0.64..10.5.0.192",
        ),
        (
            r#""Network":"10.5.0.0/28""#,
            "10.5.0.0/28 /30 10.5.0.4..10.5.0.12",
        ),
        (
            r#""Network":"255.255.0.0/16""#,
            "255.255.0.0/16 /24 255.255.1.0..255.255.255.0",
        ),
        (
            r#""Network":"10.5.3.4/16""#,
            "10.5.0.0/16 /24 10.5.1.0..10.5.255.0",
        ),
        (
            r#""Network":"10.5.0.0/16","SubnetMin":"10.5.0.0""#,
            "10.5.0.0/16 /24 10.5.0.0..10.5.255.0",
        ),
        (
            r#""Network":"10.3.0.0/16","SubnetMin":"10.3.5.0","SubnetMax":"10.3.8.0","SubnetLen":28"#,
            "10.3.0.0/16 /28 10.3.5.0..10.3.8.0",
        ),
        (
            r#""network":"10.5.0.0/16","NETWORK":"10.6.0.0/16""#,
            "10.6.0.0/16 /24 10.6.1.0..10.6.255.0",
        ),
        (
            r#""Network":"10.5.0.0/16","SubnetLen":null,"Other":[1]"#,
            "10.5.0.0/16 /24 10.5.1.0..10.5.255.0",
        ),
        (
            r#""Network":"10.5.0.0/16","SubnetMin":"0.0.0.0""#,
            "10.5.0.0/16 /24 10.5.1.0..10.5.255.0",
        ),
    ] {
        let config = read_config(members).unwrap_or_else(|error| panic!("{members}: {error}"));
        assert_eq!(cut_as(config.ranges.v4), expected, "{members}");
        assert_eq!(config.ranges.v6, None, "{members}");
    }
}

#[test]
fn ipv6_networks_are_cut_as_flannel_cuts_them() {
    for (members, expected) in [
        (
            r#""IPv6Network":"fc00::/48""#,
            "fc00::/48 /64 fc00:0:0:1::..fc00:0:0:ffff::",
        ),
        (
            r#""IPv6Network":"fd00::/63""#,
            "fd00::/63 /65 fd00::8000:0:0:0..fd00:0:0:1:8000::",
        ),
        (
            r#""IPv6Network":"fc00::/48","IPv6SubnetMin":null"#,
            "fc00::/48 /64 fc00:0:0:1::..fc00:0:0:ffff::",
        ),
        (
            r#""ipv6network":"fc00::/48","IPv6SubnetLen":124,"IPv6SubnetMin":"fc00::10","IPv6SubnetMax":"fc00::f0""#,
            "fc00::/48 /124 fc00::10..fc00::f0",
        ),
    ] {
        let members = format!(r#""EnableIPv4":false,"enableIPv6":true,{members}"#);
        let config = read_config(&members).unwrap_or_else(|error| panic!("{members}: {error}"));
        assert_eq!(cut_as(config.ranges.v6), expected, "{members}");
        assert_eq!(config.ranges.v4, None, "{members}");
    }
}

#[test]
fn what_flannel_refuses_is_refused_in_its_words() {
    let v6 = |members: &str| format!(r#""EnableIPv4":false,"EnableIPv6":true,{members}"#);
    for (members, expected) in [
        (
            String::new(),
            "please define a correct Network parameter in the flannel config",
        ),
        (
            r#""Network":"0.0.0.0/0""#.into(),
            "please define a correct Network parameter in the flannel config",
        ),
        (
            r#""Network":"10.5.0.0/16","SubnetLen":31"#.into(),
            "SubnetLen must be less than /31",
        ),
        (
            r#""Network":"10.5.0.0/16","SubnetLen":3000"#.into(),
            "SubnetLen must be less than /31",
        ),
        (
            r#""Network":"10.5.0.0/16","SubnetLen":17"#.into(),
            "network must be able to accommodate at least four subnets",
        ),
        (
            r#""Network":"10.5.0.0/30","SubnetLen":30"#.into(),
            "network must be able to accommodate at least four subnets",
        ),
        (
            r#""Network":"10.5.0.0/29""#.into(),
            "network is too small. Minimum useful network prefix is /28",
        ),
        (
            r#""Network":"10.5.0.0/16","SubnetMin":"10.6.1.0""#.into(),
            "SubnetMin is not in the range of the Network",
        ),
        (
            r#""Network":"10.5.0.0/16","SubnetMax":"10.6.1.0""#.into(),
            "SubnetMax is not in the range of the Network",
        ),
        (
            r#""Network":"10.5.0.0/16","SubnetMin":"10.5.1.128""#.into(),
            "SubnetMin is not on a SubnetLen boundary: 10.5.1.128",
        ),
        (
            r#""Network":"10.5.0.0/16","SubnetMax":"10.5.1.128""#.into(),
            "SubnetMax is not on a SubnetLen boundary: 10.5.1.128",
        ),
        (
            r#""Network":"10.05.0.0/16""#.into(),
            "invalid CIDR address: 10.05.0.0/16",
        ),
        (r#""Network":5"#.into(), "invalid CIDR address: 5"),
        (r#""Network":null"#.into(), "invalid CIDR address: null"),
        (
            r#""Network":"fd00::/48""#.into(),
            "invalid IPv4 CIDR format: fd00::/48",
        ),
        (
            r#""Network":"10.5.0.0/16","SubnetMin":null"#.into(),
            "invalid IP address format: null",
        ),
        (
            r#""Network":"10.5.0.0/16","SubnetMin":"fd00::""#.into(),
            "invalid IPv4 address format: fd00::",
        ),
        (
            v6(r#""IPv6Network":"10.5.0.0/16""#),
            "invalid IPv6 CIDR format: 10.5.0.0/16",
        ),
        (
            v6(r#""Network":"10.5.0.0/16""#),
            "please define a correct IPv6Network parameter in the flannel config",
        ),
        (
            v6(r#""IPv6Network":"fc00::/48","IPv6SubnetLen":127"#),
            "SubnetLen must be less than /127",
        ),
        (
            v6(r#""IPv6Network":"fc00::/48","IPv6SubnetLen":49"#),
            "network must be able to accommodate at least four subnets",
        ),
        (
            v6(r#""IPv6Network":"fc00::/125""#),
            "IPv6Network is too small. Minimum useful network prefix is /124",
        ),
        (
            v6(r#""IPv6Network":"fc00::/48","IPv6SubnetMin":"fd00::""#),
            "IPv6SubnetMin is not in the range of the IPv6Network",
        ),
        (
            v6(r#""IPv6Network":"fc00::/48","IPv6SubnetMax":"fd00::""#),
            "IPv6SubnetMax is not in the range of the IPv6Network",
        ),
        (
            v6(r#""IPv6Network":"fc00::/48","IPv6SubnetMin":"fc00::1""#),
            "IPv6SubnetMin is not on a SubnetLen boundary: fc00::1",
        ),
        (
            v6(r#""IPv6Network":"fc00::/48","IPv6SubnetMax":"fc00::1""#),
            "IPv6SubnetMax is not on a SubnetLen boundary: fc00::1",
        ),
        (r#""EnableIPv4":false"#.into(), "none defined stack"),
        (
            r#""EnableIPv4":"true","Network":"10.5.0.0/16""#.into(),
            r#"EnableIPv4 is "true", which is not true or false"#,
        ),
        (
            r#""Network":"10.5.0.0/16","SubnetLen":24.0"#.into(),
            "SubnetLen is 24.0, which is not a whole number",
        ),
        (
            r#""Network":"10.5.0.0/16","SubnetLen":2.4e1"#.into(),
            "SubnetLen is 2.4e1, which is not a whole number",
        ),
        (
            r#""Network":"10.5.0.0/16","SubnetLen":"24""#.into(),
            r#"SubnetLen is "24", which is not a whole number"#,
        ),
        (
            r#""Network":"10.5.0.0/16","SubnetLen":-1"#.into(),
            "SubnetLen is -1, which is not a whole number",
        ),
    ] {
        let error = read_config(&members).expect_err(&members).to_string();
        assert!(error.contains(expected), "{members}: {error}");
    }
}

#[test]
fn text_that_is_no_json_object_is_refused() {
    for json in [
        "",
        "x",
        "[]",
        "7",
        r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}} x"#,
    ] {
        assert!(
            matches!(NetworkConfig::from_json(json), Err(ConfigError::NotJson(_))),
            "{json:?}"
        );
    }
    let error = NetworkConfig::from_json("null").unwrap_err().to_string();
    assert!(error.contains("please define a correct Network"), "{error}");
}

#[test]
fn the_backend_must_be_named_and_an_absent_one_is_refused_with_the_remedy() {
    let read = |backend: &str| NetworkConfig::from_json(&format!(r#"{{"Network":"10.5.0.0/16"{backend}}}"#));
    let error = read("").unwrap_err().to_string();
    assert!(
        error.contains(r#"add one, such as "Backend": {"Type": "host-gw"}"#),
        "{error}"
    );
    for backend in [
        r#","Backend":{}"#,
        r#","Backend":null"#,
        r#","Backend":7"#,
        r#","Backend":{"Type":7}"#,
    ] {
        assert!(
            matches!(read(backend), Err(ConfigError::Member { .. })),
            "{backend}"
        );
    }
    let config = read(r#","Backend":{"type":"HOST-GW","Other":1}"#).unwrap();
    assert_eq!(config.backend.kind, "host-gw");
    assert_eq!(config.backend.options.get(), r#"{"type":"HOST-GW","Other":1}"#);
}

#[test]
fn subnet_min_above_subnet_max_leaves_nothing_to_give_out() {
    let config =
        read_config(r#""Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0""#).unwrap();
    let range = config.ranges.v4.unwrap();
    assert_eq!((range.count(), range.nth(0)), (0, None));
}

#[test]
fn every_subnet_that_is_counted_is_given_out_and_no_other() {
    let config = read_config(r#""Network":"10.5.0.0/24","SubnetLen":28"#).unwrap();
    let range = config.ranges.v4.unwrap();
    let all: Vec<IpNet> = (0..range.count()).filter_map(|index| range.nth(index)).collect();
    assert_eq!(all.len(), 15);
    assert!(all.iter().all(|net| range.gives_out(*net)));
    for other in [
        "10.5.0.0/28",
        "10.5.0.16/29",
        "10.5.1.0/28",
        "10.5.0.17/28",
        "fd00::/28",
    ] {
        assert!(!range.gives_out(other.parse().unwrap()), "{other}");
    }
}

#[test]
fn a_subnet_is_given_out_only_with_exactly_the_enabled_families() {
    let dual = read_config(r#""Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48""#).unwrap();
    assert!(dual.gives_out(&"10.5.1.0/24,fd00:0:0:1::/64".parse().unwrap()));
    assert!(!dual.gives_out(&"10.5.1.0/24".parse().unwrap()));
    let v4 = read_config(r#""Network":"10.5.0.0/16""#).unwrap();
    assert!(!v4.gives_out(&"10.5.1.0/24,fd00:0:0:1::/64".parse().unwrap()));
}

/// What a config's misspelt members were taken for.
fn doubts(json: &str) -> Vec<(String, &'static str)> {
    let config = NetworkConfig::from_json(json).unwrap_or_else(|error| panic!("{json}: {error}"));
    let doubt = |misspelt: Misspelt| (misspelt.found, misspelt.meant);
    config.misspelt.into_iter().map(doubt).collect()
}

#[test]
fn a_misspelt_member_is_ignored_and_told_of_with_what_was_meant() {
    for (member, meant) in [
        (r#""SubnetLen ":26"#, Some("SubnetLen")),
        (r#""Subnet_Len":26"#, Some("SubnetLen")),
        (r#""SubentMin":"10.5.9.0""#, Some("SubnetMin")),
        (r#""IPv4SubnetMax":"10.5.9.0""#, Some("SubnetMax")),
        (r#""ipv4subnetlne":26"#, Some("SubnetLen")),
        (r#""IPv6Networks":"fd00::/48""#, Some("IPv6Network")),
        (r#""EnableIP6":true"#, Some("EnableIPv6")),
        (r#""EnableNFTabels":true"#, Some("EnableNFTables")),
        (r#""backends":{}"#, Some("Backend")),
        // Known in any case, or anybody's.
        (r#""subnetLEN":26"#, None),
        (r#""Comment":"ours""#, None),
        (r#""ÄÖÜ":1"#, None),
        (r#""":1"#, None),
    ] {
        let json = format!(r#"{{"Network":"10.5.0.0/16","Backend":{{"Type":"host-gw"}},{member}}}"#);
        let meant: Vec<_> = meant.into_iter().collect();
        let found: Vec<_> = doubts(&json).into_iter().map(|(_, meant)| meant).collect();
        assert_eq!(found, meant, "{json}");
    }
    let json =
        r#"{"Network":"10.5.0.0/16","Netwrok":"10.6.0.0/16","SubnetLne":9,"Backend":{"Type":"host-gw"}}"#;
    let told = NetworkConfig::from_json(json).unwrap().misspelt;
    assert_eq!(
        told.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            r#""Netwrok" is no member of the network config: was "Network" meant?"#,
            r#""SubnetLne" is no member of the network config: was "SubnetLen" meant?"#
        ]
    );
}

#[test]
fn a_config_that_cannot_be_read_for_a_misspelt_member_says_what_was_meant() {
    for (json, expected) in [
        (
            r#"{"Netwrok":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#,
            "please define a correct Network parameter in the flannel config; \"Netwrok\" is no member of the network \
             config: was \"Network\" meant?",
        ),
        (
            r#"{"IPv4Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#,
            "was \"Network\" meant?",
        ),
        (
            r#"{"Network":"10.5.0.0/16","Backed":{"Type":"host-gw"}}"#,
            "the network config has no Backend; add one, such as \"Backend\": {\"Type\": \"host-gw\"}; \"Backed\" is no \
             member of the network config: was \"Backend\" meant?",
        ),
    ] {
        let error = NetworkConfig::from_json(json).unwrap_err().to_string();
        assert!(error.ends_with(expected), "{json}: {error}");
    }
}

#[test]
fn members_without_end_or_of_endless_names_cost_nothing_and_show_eight_of_them() {
    let many: String = (0..10_000)
        .map(|number| format!(r#""Netwrok{number}":1,"#))
        .collect();
    let json = format!(r#"{{{many}"Network":"10.5.0.0/16","Backend":{{"Type":"host-gw"}}}}"#);
    assert!(doubts(&json).len() <= 8);
    let long = "Network ".repeat(100_000);
    let json = format!(r#"{{"{long}":1,"Network":"10.5.0.0/16","Backend":{{"Type":"host-gw"}}}}"#);
    assert_eq!(doubts(&json), []);
    let padded = format!("Network{}", " ".repeat(1000));
    let json = format!(r#"{{"{padded}":1,"Network":"10.5.0.0/16","Backend":{{"Type":"host-gw"}}}}"#);
    assert_eq!(doubts(&json)[0].0.len(), 100);
}

#[test]
fn ranges_that_are_not_masqueraded_are_of_either_family_and_each_there_once() {
    let ranges = |list: &str| {
        let config = read_config(&format!(r#""Network":"10.5.0.0/16","NonMasqueradeCIDRs":{list}"#));
        let ranges = config.map(|config| config.unmasqueraded);
        ranges.map(|ranges| ranges.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(
        ranges(r#"["192.168.7.9/16","fd20::/48","192.168.0.0/16"]"#).unwrap(),
        ["192.168.0.0/16", "fd20::/48"]
    );
    assert!(ranges("[]").unwrap().is_empty() && ranges("null").unwrap().is_empty());
    for (list, said) in [
        (
            r#"["192.168.0.0"]"#,
            r#"NonMasqueradeCIDRs holds "192.168.0.0", which is no CIDR such as"#,
        ),
        (r#"["192.168.0.0/33"]"#, "is no CIDR"),
        (r#"["host"]"#, "is no CIDR"),
        (r#""192.168.0.0/16""#, "is not a list of CIDRs such as"),
        ("[7]", "is not a list of CIDRs such as"),
    ] {
        let error = ranges(list).unwrap_err().to_string();
        assert!(error.contains(said), "{list}: {error}");
    }
    let many: Vec<String> = (0..=256)
        .map(|number| format!("\"10.{}.{}.0/24\"", number / 256, number % 256))
        .collect();
    let error = ranges(&format!("[{}]", many.join(","))).unwrap_err().to_string();
    assert!(error.contains("holds 257 ranges; 256 is the most"), "{error}");
}

#[test]
fn a_config_with_other_ranges_that_are_not_masqueraded_is_another() {
    let config =
        |list: &str| read_config(&format!(r#""Network":"10.5.0.0/16","NonMasqueradeCIDRs":{list}"#)).unwrap();
    assert!(config("[]").same_as(&config("null")));
    assert!(!config("[]").same_as(&config(r#"["192.168.0.0/16"]"#)));
}
