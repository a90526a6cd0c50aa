use super::*;

fn pods(ranges: &[&str]) -> PodNetwork {
    PodNetwork {
        unmasqueraded: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        ..crate::ruleset::tests::pods()
    }
}

/// Source, destination, mark.
type Row = (&'static str, &'static str, u32);

#[track_caller]
fn all_are(nat: Nat, rows: &[Row], pods: &PodNetwork) {
    for (source, destination, mark) in rows {
        let flow = Flow {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            mark: *mark,
        };
        assert_eq!(decide(&flow, pods), nat, "{flow:?}");
    }
}

#[test]
fn every_line_of_the_table_is_what_happens() {
    use Nat::{Keep, Masquerade};
    let none = &pods(&[]);
    // Marked by kube-proxy, alone or with other bits.
    let marked = [
        ("10.244.7.2", "192.0.2.1", 0x4000),
        ("192.0.2.1", "10.244.9.2", 0xc001),
        ("fd00:244:0:7::2", "2001:db8::1", 0x4000),
    ];
    all_are(Keep, &marked, none);
    // Other bits are nothing to us.
    all_are(Masquerade, &[("10.244.7.2", "192.0.2.1", 0x8000)], none);
    // A pod of this host to the network.
    let to_pods = [
        ("10.244.7.2", "10.244.7.3", 0),
        ("10.244.7.2", "10.244.9.3", 0),
        ("fd00:244:0:7::2", "fd00:244:0:9::2", 0),
    ];
    all_are(Keep, &to_pods, none);
    // The network, and outside, to a pod of this host.
    let to_us = [
        ("10.244.9.3", "10.244.7.2", 0),
        ("192.0.2.1", "10.244.7.2", 0),
        ("fd00:244:0:9::2", "fd00:244:0:7::2", 0),
        ("2001:db8::1", "fd00:244:0:7::2", 0),
    ];
    all_are(Keep, &to_us, none);
    // The network to a range that is not masqueraded, and that from outside.
    let ranges = &pods(&["192.0.2.0/24", "2001:db8::/32", "10.244.9.0/24"]);
    let to_ranges = [
        ("10.244.7.2", "192.0.2.1", 0),
        ("10.244.9.3", "192.0.2.1", 0),
        ("10.244.11.3", "10.244.9.2", 0),
        ("fd00:244:0:7::2", "2001:db8::1", 0),
    ];
    all_are(Keep, &to_ranges, ranges);
    all_are(Masquerade, &to_ranges, none);
    all_are(Masquerade, &[("192.0.2.1", "10.244.9.3", 0)], ranges);
    // The network to a multicast group.
    let to_groups = [
        ("10.244.7.2", "224.0.0.251", 0),
        ("fd00:244:0:7::2", "ff02::fb", 0),
    ];
    all_are(Keep, &to_groups, none);
    // The network to anywhere else.
    let leaving = [
        ("10.244.7.2", "192.0.2.1", 0),
        ("10.244.9.2", "192.0.2.1", 0),
        ("10.244.9.2", "10.244.11.2", 0),
        ("fd00:244:0:7::2", "2001:db8::1", 0),
    ];
    all_are(Masquerade, &leaving, none);
    // Outside to a pod of another host.
    let entering = [
        ("192.0.2.1", "10.244.9.3", 0),
        ("2001:db8::1", "fd00:244:0:9::2", 0),
    ];
    all_are(Masquerade, &entering, none);
    // Outside to outside.
    let passing = [
        ("192.0.2.1", "198.51.100.1", 0),
        ("2001:db8::1", "2001:db8::2", 0),
    ];
    all_are(Keep, &passing, none);
}

#[test]
fn nothing_is_masqueraded_of_a_family_without_a_network_or_a_subnet() {
    let leaving = [("10.244.7.2", "192.0.2.1", 0), ("192.0.2.1", "10.244.9.3", 0)];
    let mut without = pods(&[]);
    without.networks.v4 = None;
    all_are(Nat::Keep, &leaving, &without);
    all_are(
        Nat::Masquerade,
        &[("fd00:244:0:7::2", "2001:db8::1", 0)],
        &without,
    );
    let mut without = pods(&[]);
    without.subnets.v4 = None;
    all_are(Nat::Keep, &leaving, &without);
}
