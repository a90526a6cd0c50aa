use flannel_core::PerFamily;

use super::*;

#[test]
fn a_bridge_filter_is_missed_only_where_iptables_masquerades() {
    let masquerade = RuleOptions {
        masquerade: true,
        forward: true,
        random_fully: true,
    };
    let iptables = PodNetwork {
        networks: PerFamily {
            v4: Some("10.244.0.0/16".parse().unwrap()),
            v6: None,
        },
        ..PodNetwork::default()
    };
    let (loaded, missing) = (
        Path::new("/proc/sys/net"),
        Path::new("/proc/sys/net/no-such-thing"),
    );
    assert!(lacks_bridge_filter(masquerade, &iptables, missing));
    assert!(!lacks_bridge_filter(masquerade, &iptables, loaded));
    let forward = RuleOptions {
        masquerade: false,
        ..masquerade
    };
    assert!(!lacks_bridge_filter(forward, &iptables, missing));
    let nftables = PodNetwork {
        nftables: true,
        ..iptables
    };
    assert!(!lacks_bridge_filter(masquerade, &nftables, missing));
    assert!(!lacks_bridge_filter(masquerade, &PodNetwork::default(), missing));
}
