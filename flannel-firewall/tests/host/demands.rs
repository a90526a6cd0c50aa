//! What has to be installed: what the rules that are asked for need, and nothing else.

use flannel_core::{Firewall, FirewallError, PerFamily, PodNetwork};
use flannel_firewall::RuleOptions;

use crate::setting::{ALL_RULES, MODES, Mode, Programs, everything, in_namespace, keep, pods};

const NONE: RuleOptions = RuleOptions {
    masquerade: false,
    forward: false,
    random_fully: true,
};

async fn refusal(programs: &Programs, pods: &PodNetwork) -> FirewallError {
    let error = programs.firewall(ALL_RULES).keep(pods).await.unwrap_err();
    assert!(matches!(error, FirewallError::Missing { .. }), "{error:?}");
    error
}

#[test]
fn without_rules_no_program_is_needed() {
    in_namespace(async {
        let programs = Programs::none();
        for mode in MODES {
            let kept = keep(&programs.firewall(NONE), &pods(mode)).await;
            assert_eq!(kept, flannel_core::Kept::default());
        }
    });
}

#[test]
fn nftables_need_no_iptables_and_iptables_no_nft() {
    in_namespace(async {
        let programs = Programs::none();
        programs.add("nft", "nft");
        keep(&programs.firewall(ALL_RULES), &pods(Mode::Nftables)).await;
        assert!(everything().await.contains("flannel-ipv6"));
    });
    for mode in [Mode::IptablesNft, Mode::IptablesLegacy] {
        in_namespace(async {
            let programs = Programs::none();
            programs.set_iptables(mode);
            keep(&programs.firewall(ALL_RULES), &pods(mode)).await;
            assert!(everything().await.contains("fd00:244::/48"));
        });
    }
}

#[test]
fn a_network_without_ipv6_needs_no_ip6tables() {
    in_namespace(async {
        let programs = Programs::of(Mode::IptablesNft);
        for name in [
            "ip6tables",
            "ip6tables-restore",
            "ip6tables-nft",
            "ip6tables-legacy",
        ] {
            programs.remove(name);
        }
        let both = pods(Mode::IptablesNft);
        let v4 = PodNetwork {
            networks: PerFamily {
                v6: None,
                ..both.networks
            },
            ..both.clone()
        };
        keep(&programs.firewall(ALL_RULES), &v4).await;
        let error = refusal(&programs, &both).await.to_string();
        assert_eq!(
            error,
            "ip6tables is not installed: install iptables, or have the network's config say \
             \"EnableNFTables\": true, as nft is there"
        );
        // What can be done is done.
        assert!(everything().await.contains("10.244.7.0/24"));
    });
}

#[test]
fn what_is_missing_is_named_with_the_remedy() {
    in_namespace(async {
        let programs = Programs::none();
        let (nftables, iptables) = (pods(Mode::Nftables), pods(Mode::IptablesNft));
        assert_eq!(
            refusal(&programs, &nftables).await.to_string(),
            "nft is not installed: install nftables"
        );
        assert_eq!(
            refusal(&programs, &iptables).await.to_string(),
            "iptables is not installed: install iptables"
        );
        programs.set_iptables(Mode::IptablesLegacy);
        assert_eq!(
            refusal(&programs, &nftables).await.to_string(),
            "nft is not installed: install nftables, or have the network's config say \"EnableNFTables\": \
             false, as iptables is there"
        );
        programs.remove("iptables-restore");
        assert_eq!(
            refusal(&programs, &iptables).await.to_string(),
            "iptables-restore is not installed: install iptables"
        );
        // It is found as soon as it is there.
        programs.add("nft", "nft");
        keep(&programs.firewall(ALL_RULES), &nftables).await;
    });
}

#[test]
fn looking_makes_no_tables() {
    in_namespace(async {
        let before = everything().await;
        for mode in MODES {
            let programs = Programs::of(mode);
            keep(&programs.firewall(NONE), &pods(mode)).await;
            programs.firewall(ALL_RULES).leftovers(&[]).await.unwrap();
            programs.firewall(ALL_RULES).remove(&[]).await.unwrap();
        }
        assert_eq!(everything().await, before);
        keep(
            &Programs::of(Mode::Nftables).firewall(ALL_RULES),
            &pods(Mode::Nftables),
        )
        .await;
        assert!(!everything().await.contains("*nat"));
        assert_eq!(
            crate::setting::sh("cat /proc/thread-self/net/ip*_tables_names").await,
            ""
        );
    });
}
