//! A network config that is accepted gives out subnets of its own, and none beside them.
#![no_main]

use flannel_core::{Family, NetworkConfig, PerFamily, Range};
use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &str| {
    let Ok(config) = NetworkConfig::from_json(json) else {
        return;
    };
    assert!(!config.ranges.is_empty() && !config.backend.kind.is_empty());
    for (family, range) in config.ranges.iter() {
        assert_eq!(Family::of_net(range.network), family);
        gives_out_what_it_counts(range);
    }
    let unmasqueraded = &config.unmasqueraded;
    assert!(unmasqueraded.iter().all(|range| *range == range.trunc()));
    let spelled_out = spell_out(&config.ranges, config.backend.options.get(), config.nftables);
    let again = NetworkConfig::from_json(&spelled_out)
        .unwrap_or_else(|error| panic!("{json:?} amounts to {spelled_out}, which is refused: {error}"));
    assert_eq!(again.ranges, config.ranges, "{json:?} amounts to {spelled_out}");
    assert_eq!(
        (again.backend.kind, again.nftables),
        (config.backend.kind, config.nftables)
    );
});

fn gives_out_what_it_counts(range: &Range) {
    let count = range.count();
    assert_eq!(range.nth(count), None);
    let Some(last) = count.checked_sub(1) else {
        assert!(range.first > range.last, "{range:?}");
        return;
    };
    for (index, bound) in [(0, range.first), (last, range.last)] {
        let net = range
            .nth(index)
            .unwrap_or_else(|| panic!("{range:?} has no subnet {index}"));
        assert_eq!(
            (net.network(), net.prefix_len()),
            (bound, range.subnet_len),
            "{range:?}"
        );
        assert!(
            range.network.contains(&net) && range.gives_out(net),
            "{range:?}: {net}"
        );
        for other in [net.supernet(), IpNet::new(net.addr(), range.subnet_len + 1).ok()] {
            assert!(
                other.is_none_or(|other| !range.gives_out(other)),
                "{range:?}: {other:?}"
            );
        }
    }
}

/// The config with nothing left to defaults.
fn spell_out(ranges: &PerFamily<Range>, backend: &str, nftables: bool) -> String {
    let mut members = vec![format!(r#""EnableNFTables":{nftables},"Backend":{backend}"#)];
    for (family, enable, prefix) in [(Family::V4, "EnableIPv4", ""), (Family::V6, "EnableIPv6", "IPv6")] {
        let range = ranges.get(family);
        members.push(format!(r#""{enable}":{}"#, range.is_some()));
        if let Some(Range {
            network,
            subnet_len,
            first,
            last,
        }) = range
        {
            members.push(format!(
                r#""{prefix}Network":"{network}","{prefix}SubnetLen":{subnet_len},"{prefix}SubnetMin":"{first}","{prefix}SubnetMax":"{last}""#
            ));
        }
    }
    format!("{{{}}}", members.join(","))
}
