use super::*;

/// Kernels before 4.14 delete a table with all that is in it.
#[test]
fn a_table_is_deleted_only_where_no_chain_is_in_it() {
    let outline = Outline::parse("table ip nat {\n\tchain DOCKER {\n\t}\n}\ntable ip filter {\n}\n");
    let is_deleted = |line| Made::parse(line, Family::V4).unwrap().is_empty_in(&outline);
    assert!(!is_deleted("ip nat"));
    assert!(is_deleted("ip filter"));
    // Gone by itself.
    assert!(!is_deleted("ip mangle"));
}

#[test]
fn where_rules_were_written_is_no_table_that_iptables_made() {
    for line in [
        "rules iptables-nft ip flannel-ipv4",
        "rules nft ip6 flannel-ipv6",
        "boot 0123",
    ] {
        for family in Family::ALL {
            assert!(Made::parse(line, family).is_none(), "{line}");
        }
    }
}
