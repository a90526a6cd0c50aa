use super::*;

#[test]
fn versions_tell_the_variant() {
    let kind = |text| Kind::parse(text).map(|kind| (kind.variant, kind.version));
    assert_eq!(
        kind("iptables v1.8.9 (nf_tables)\n"),
        Some((Variant::Nftables, Version(1, 8, 9)))
    );
    assert_eq!(
        kind("ip6tables v1.8.10 (legacy)\n"),
        Some((Variant::Legacy, Version(1, 8, 10)))
    );
    // Before 1.8, there was but one.
    assert_eq!(
        kind("iptables v1.4.21\n"),
        Some((Variant::Legacy, Version(1, 4, 21)))
    );
    assert_eq!(
        kind("iptables v1.6.0-rc1"),
        Some((Variant::Legacy, Version(1, 6, 0)))
    );
    assert_eq!(kind("iptables v2.0"), Some((Variant::Legacy, Version(2, 0, 0))));
    for garbage in [
        "",
        "iptables",
        "iptables v",
        "iptables vx.y",
        "iptables v1",
        "v99999999999.1.1",
    ] {
        assert_eq!(kind(garbage), None, "{garbage}");
    }
}

#[test]
fn a_newer_version_has_a_greater_number() {
    assert!(Version(1, 8, 10) > Version(1, 8, 9));
    assert!(Version(1, 10, 0) > Version(1, 6, 2));
}
