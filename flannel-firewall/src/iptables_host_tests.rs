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

#[test]
fn no_tables_are_told_from_tables_that_cannot_be_read() {
    let directory = tempfile::TempDir::new().unwrap();
    let (gone, net) = (directory.path().join("gone"), directory.path().join("net"));
    let names = |nets: &[&Path]| table_names(nets, "ip_tables_names");
    let error = names(&[&gone, &net]).unwrap_err().to_string();
    assert!(error.contains("net/ip_tables_names"), "{error}");
    fs::create_dir(&net).unwrap();
    assert_eq!(names(&[&gone, &net]).unwrap(), "");
    fs::write(net.join("ip_tables_names"), "nat\n").unwrap();
    assert_eq!(names(&[&gone, &net]).unwrap(), "nat\n");
    fs::remove_file(net.join("ip_tables_names")).unwrap();
    fs::create_dir(net.join("ip_tables_names")).unwrap();
    let error = names(&[&net, &gone]).unwrap_err().to_string();
    assert!(error.contains("net/ip_tables_names failed: "), "{error}");
}

#[test]
fn a_text_tells_of_which_tables_it_is() {
    let tables = |text| tables(text).collect::<Vec<_>>();
    assert_eq!(tables("*filter\n-A FORWARD -j X\nCOMMIT\n"), ["filter"]);
    assert_eq!(tables("*nat\nCOMMIT\n*filter\nCOMMIT\n"), ["nat", "filter"]);
    assert_eq!(tables("table ip nat {\n}\n"), [""; 0]);
}
