//! Chains that drop what is forwarded, as the programs write them that people use.

use flannel_core::{Family, Filter, HostSource};
use flannel_netlink::Netlink;

use crate::namespace::{enter_a_new_namespace, ip6tables, iptables, nft, on_a_thread};

/// The chains that a look without a past finds.
pub(crate) async fn filters() -> Vec<Filter> {
    Netlink::open().unwrap().facts(&[]).await.unwrap().filters
}

fn filter(table: &str, chain: &str, families: &[Family], accepts: &[&str]) -> Filter {
    Filter {
        families: families.to_vec(),
        table: table.into(),
        chain: chain.into(),
        accepts: accepts.iter().map(|net| net.parse().unwrap()).collect(),
        ..Filter::default()
    }
}

const EVERYTHING: [&str; 2] = ["0.0.0.0/0", "::/0"];

#[test]
fn a_namespace_without_a_ruleset_and_one_that_accepts_drop_nothing() {
    on_a_thread(async || {
        enter_a_new_namespace();
        assert_eq!(filters().await, []);
        iptables("-P FORWARD ACCEPT");
        iptables("-P INPUT DROP");
        nft("add table inet t; add chain inet t c { type filter hook input priority 0; policy drop; }");
        nft("add chain inet t plain");
        nft("add table bridge t; add chain bridge t c { type filter hook forward priority 0; policy drop; }");
        assert_eq!(filters().await, []);
    });
}

#[test]
fn the_policy_of_forward_is_seen_with_what_its_rules_accept_and_over_when_it_accepts() {
    on_a_thread(async || {
        enter_a_new_namespace();
        iptables("-P FORWARD DROP");
        ip6tables("-P FORWARD DROP");
        let v4 = |accepts: &[&str]| filter("ip filter", "FORWARD", &[Family::V4], accepts);
        let v6 = |accepts: &[&str]| filter("ip6 filter", "FORWARD", &[Family::V6], accepts);
        assert_eq!(filters().await, [v4(&[]), v6(&[])]);
        iptables("-I FORWARD -s 10.77.0.0/16 -j ACCEPT");
        iptables("-I FORWARD -d 10.77.64.0/18 -m comment --comment ours -j ACCEPT");
        iptables("-I FORWARD -i eth0 -d 10.78.0.0/24 -j ACCEPT");
        iptables("-I FORWARD -d 10.79.0.0/16 -p tcp --dport 80 -j ACCEPT");
        iptables("-I FORWARD -s 10.80.0.0/16 -j DROP");
        ip6tables("-A FORWARD -s fd77::/48 -j ACCEPT");
        ip6tables("-A FORWARD -d fd78:0:0:4000::/50 -j ACCEPT");
        let expected = [
            v4(&["10.77.0.0/16", "10.77.64.0/18", "10.78.0.0/24"]),
            v6(&["fd77::/48", "fd78:0:0:4000::/50"]),
        ];
        assert_eq!(filters().await, expected);
        iptables("-P FORWARD ACCEPT");
        ip6tables("-P FORWARD ACCEPT");
        assert_eq!(filters().await, []);
    });
}

/// Runs iptables for every line.
pub(crate) fn all(lines: &str) {
    let lines = lines.lines().map(str::trim);
    lines.filter(|line| !line.is_empty()).for_each(iptables);
}

/// What docker sets up, in its own words.
pub(crate) const DOCKER: &str = "
    -N DOCKER-USER
    -A DOCKER-USER -j RETURN
    -N DOCKER
    -N DOCKER-ISOLATION-STAGE-1
    -N DOCKER-ISOLATION-STAGE-2
    -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
    -A DOCKER-ISOLATION-STAGE-1 -j RETURN
    -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
    -A DOCKER-ISOLATION-STAGE-2 -j RETURN
    -A FORWARD -j DOCKER-USER
    -A FORWARD -j DOCKER-ISOLATION-STAGE-1
    -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    -A FORWARD -o docker0 -j DOCKER
    -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
    -A FORWARD -i docker0 -o docker0 -j ACCEPT
    -A DOCKER -d 10.77.5.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
    -P FORWARD DROP";

#[test]
fn what_docker_accepts_for_itself_is_no_network() {
    on_a_thread(async || {
        enter_a_new_namespace();
        all(DOCKER);
        let docker = |accepts: &[&str]| [filter("ip filter", "FORWARD", &[Family::V4], accepts)];
        assert_eq!(filters().await, docker(&[]));
        // Where docker asks operators to put their rules.
        iptables("-I DOCKER-USER -d 10.77.0.0/16 -j ACCEPT");
        assert_eq!(filters().await, docker(&["10.77.0.0/16"]));
    });
}

/// What docker 28 adds: nothing from elsewhere gets to a container by its own address.
const NO_DIRECT_ROUTING: &str = "-A DOCKER ! -i docker0 -o docker0 -j DROP";

#[test]
fn what_is_dropped_on_its_way_to_one_device_is_told_with_the_device() {
    on_a_thread(async || {
        enter_a_new_namespace();
        all(DOCKER);
        let ours = "
            -N FLANNEL-FWD
            -A FLANNEL-FWD -s 10.77.0.0/16 -j ACCEPT
            -A FLANNEL-FWD -d 10.77.0.0/16 -j ACCEPT
            -A FORWARD -j FLANNEL-FWD";
        all(ours);
        let forward = |accepts: &[&str]| filter("ip filter", "FORWARD", &[Family::V4], accepts);
        let accepted = forward(&["10.77.0.0/16"]);
        assert_eq!(filters().await, std::slice::from_ref(&accepted));
        iptables(NO_DIRECT_ROUTING);
        let to_docker0 = Filter {
            device: Some("docker0".parse().unwrap()),
            ..forward(&[])
        };
        assert_eq!(filters().await, [accepted.clone(), to_docker0]);
        iptables("-I DOCKER-USER -d 10.77.0.0/16 -j ACCEPT");
        assert_eq!(filters().await, [accepted]);
    });
}

#[test]
fn chains_of_nft_are_seen_with_those_that_they_lead_to() {
    on_a_thread(async || {
        enter_a_new_namespace();
        nft("add table inet mine
             add chain inet mine forwarded { type filter hook forward priority 10; policy drop; }
             add chain inet mine pods
             add chain inet mine loop
             add chain inet mine lan
             add rule inet mine forwarded ct state vmap { established : accept, related : accept, invalid : drop }
             add rule inet mine forwarded meta l4proto icmp accept
             add rule inet mine forwarded jump pods
             add rule inet mine forwarded iifname lan0 jump lan
             add rule inet mine lan accept
             add rule inet mine pods ip saddr 10.77.0.0/20 accept
             add rule inet mine pods ip6 daddr fd77::/48 counter accept
             add rule inet mine pods ip saddr 10.0.0.0/8 ip daddr 10.78.0.0/16 accept
             add rule inet mine pods jump loop");
        let both = [Family::V4, Family::V6];
        let accepts = ["10.77.0.0/20", "10.78.0.0/16", "fd77::/48"];
        assert_eq!(
            filters().await,
            [filter("inet mine", "forwarded", &both, &accepts)]
        );
        let every_v4 = ["0.0.0.0/0", "fd77::/48"];
        for (rule, accepts) in [
            ("ip daddr { 10.1.0.0/16, 10.2.0.0/16 } accept", every_v4),
            ("ip daddr 10.1.0.0-10.3.0.0 accept", every_v4),
            ("ip saddr != 10.9.0.0/16 accept", every_v4),
            ("meta nfproto ipv4 accept", every_v4),
            ("iifname vmap { eth0 : jump lan }", EVERYTHING),
            ("counter accept", EVERYTHING),
        ] {
            nft(&format!("add rule inet mine loop {rule}"));
            assert_eq!(
                filters().await,
                [filter("inet mine", "forwarded", &both, &accepts)],
                "{rule}: perhaps it accepts pods"
            );
            nft("flush chain inet mine loop");
        }
    });
}

#[test]
fn every_chain_that_drops_is_seen_and_one_too_long_to_read_is_given_the_benefit_of_the_doubt() {
    on_a_thread(async || {
        enter_a_new_namespace();
        let rules: String = (0..1100)
            .map(|n| format!("add rule ip long f tcp dport {n} drop\n"))
            .collect();
        nft(&format!(
            "add table ip short; add chain ip short f {{ type filter hook forward priority 0; policy drop; }}
             add table ip long; add chain ip long f {{ type filter hook forward priority 1; policy drop; }}
             {rules}"
        ));
        let expected = [
            filter("ip short", "f", &[Family::V4], &[]),
            filter("ip long", "f", &[Family::V4], &["0.0.0.0/0"]),
        ];
        assert_eq!(filters().await, expected);
    });
}

/// What firewalld sets up for the zones public and trusted, with masses of empty chains left out.
const FIREWALLD: &str = "
    add table inet firewalld
    add chain inet firewalld filter_FORWARD { type filter hook forward priority filter + 10; policy accept; }
    add chain inet firewalld filter_FORWARD_POLICIES_pre
    add chain inet firewalld filter_FORWARD_ZONES
    add chain inet firewalld filter_FORWARD_POLICIES_post
    add chain inet firewalld filter_FWD_public
    add chain inet firewalld filter_FWD_public_allow
    add chain inet firewalld filter_FWD_trusted
    add rule inet firewalld filter_FORWARD ct state { established, related } accept
    add rule inet firewalld filter_FORWARD ct status dnat accept
    add rule inet firewalld filter_FORWARD iifname lo accept
    add rule inet firewalld filter_FORWARD ip6 daddr { ::/96, 2002::/24 } reject with icmpv6 addr-unreachable
    add rule inet firewalld filter_FORWARD jump filter_FORWARD_POLICIES_pre
    add rule inet firewalld filter_FORWARD jump filter_FORWARD_ZONES
    add rule inet firewalld filter_FORWARD jump filter_FORWARD_POLICIES_post
    add rule inet firewalld filter_FORWARD ct state invalid drop
    add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited
    add rule inet firewalld filter_FORWARD_ZONES iifname eth0 goto filter_FWD_public
    add rule inet firewalld filter_FORWARD_ZONES goto filter_FWD_public
    add rule inet firewalld filter_FWD_public jump filter_FWD_public_allow
    add rule inet firewalld filter_FWD_public_allow oifname eth0 accept
    add rule inet firewalld filter_FWD_trusted accept";

#[test]
fn what_firewalld_rejects_at_last_is_seen_until_the_pods_network_is_trusted() {
    on_a_thread(async || {
        enter_a_new_namespace();
        nft(FIREWALLD);
        let both = [Family::V4, Family::V6];
        let firewalld = |accepts: &[&str]| [filter("inet firewalld", "filter_FORWARD", &both, accepts)];
        assert_eq!(filters().await, firewalld(&[]));
        // So do its newer versions already in the zone's chain.
        nft("add rule inet firewalld filter_FWD_public reject with icmpx admin-prohibited");
        assert_eq!(filters().await, firewalld(&[]));
        nft(
            "insert rule inet firewalld filter_FORWARD_ZONES ip saddr 10.77.0.0/16 goto filter_FWD_trusted
             insert rule inet firewalld filter_FORWARD_ZONES ip6 saddr fd77::/48 goto filter_FWD_trusted",
        );
        assert_eq!(filters().await, firewalld(&["10.77.0.0/16", "fd77::/48"]));
        nft("add rule inet firewalld filter_FORWARD_POLICIES_pre counter accept");
        assert_eq!(filters().await, [], "nothing is left to be rejected");
    });
}

#[test]
fn a_reject_at_the_end_of_forward_is_seen_and_what_is_accepted_behind_it_is_not() {
    on_a_thread(async || {
        enter_a_new_namespace();
        // What RHEL has by default.
        for rules in [iptables, ip6tables] {
            rules("-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
            rules("-A FORWARD -i lo -j ACCEPT");
        }
        assert_eq!(filters().await, []);
        iptables("-A FORWARD -j REJECT --reject-with icmp-host-prohibited");
        ip6tables("-A FORWARD -m comment --comment closed -j REJECT --reject-with icmp6-adm-prohibited");
        let v4 = |accepts: &[&str]| filter("ip filter", "FORWARD", &[Family::V4], accepts);
        let v6 = filter("ip6 filter", "FORWARD", &[Family::V6], &[]);
        assert_eq!(filters().await, [v4(&[]), v6.clone()]);
        iptables("-A FORWARD -s 10.77.0.0/16 -j ACCEPT");
        assert_eq!(filters().await, [v4(&[]), v6.clone()], "too late");
        iptables("-I FORWARD -s 10.78.0.0/16 -j ACCEPT");
        assert_eq!(filters().await, [v4(&["10.78.0.0/16"]), v6]);
        iptables("-D FORWARD -j REJECT --reject-with icmp-host-prohibited");
        ip6tables("-F FORWARD");
        assert_eq!(filters().await, []);
    });
}

/// What ufw sets up, in its own words, but for the chains that log and count.
const UFW: &str = "
    -N ufw-before-forward
    -N ufw-user-forward
    -N ufw-after-forward
    -N ufw-reject-forward
    -N ufw-track-forward
    -A FORWARD -j ufw-before-forward
    -A FORWARD -j ufw-after-forward
    -A FORWARD -j ufw-reject-forward
    -A FORWARD -j ufw-track-forward
    -A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    -A ufw-before-forward -p icmp --icmp-type echo-request -j ACCEPT
    -A ufw-before-forward -j ufw-user-forward
    -P FORWARD DROP";

#[test]
fn what_ufw_drops_or_rejects_is_seen_with_the_routes_that_it_was_told_to_allow() {
    on_a_thread(async || {
        enter_a_new_namespace();
        all(UFW);
        let ufw = |accepts: &[&str]| [filter("ip filter", "FORWARD", &[Family::V4], accepts)];
        assert_eq!(filters().await, ufw(&[]));
        // `ufw route allow from 10.77.0.0/16`.
        iptables("-A ufw-user-forward -s 10.77.0.0/16 -j ACCEPT");
        assert_eq!(filters().await, ufw(&["10.77.0.0/16"]));
        // `ufw default reject routed`.
        iptables("-P FORWARD ACCEPT");
        iptables("-A ufw-reject-forward -j REJECT");
        assert_eq!(filters().await, ufw(&["10.77.0.0/16"]));
    });
}

#[test]
fn whatever_drops_everything_is_seen_in_any_table_and_at_any_priority() {
    on_a_thread(async || {
        enter_a_new_namespace();
        iptables("-t mangle -A FORWARD -j DROP");
        nft("add table ip6 early
             add chain ip6 early f { type filter hook forward priority -310; policy accept; }
             add counter ip6 early dropped
             add rule ip6 early f counter name dropped log prefix dropped drop
             add table inet late
             add chain inet late f { type filter hook forward priority 310; policy accept; }
             add rule inet late f meta nfproto ipv6 accept
             add rule inet late f reject with icmp host-prohibited");
        let expected = [
            filter("ip mangle", "FORWARD", &[Family::V4], &[]),
            filter("ip6 early", "f", &[Family::V6], &[]),
            filter("inet late", "f", &[Family::V4], &[]),
        ];
        assert_eq!(filters().await, expected);
    });
}

#[test]
fn a_drop_of_some_packets_is_none_of_all() {
    on_a_thread(async || {
        enter_a_new_namespace();
        nft("add table ip mine
             add chain ip mine f { type filter hook forward priority 0; policy accept; }
             add chain ip mine deny
             add rule ip mine deny drop");
        for rule in [
            "tcp dport 25 drop",
            "iifname eth0 drop",
            "ct state invalid drop",
            "ip saddr 192.0.2.0/24 drop",
            "ip saddr { 192.0.2.1, 192.0.2.2 } reject",
            "limit rate over 10/second drop",
            "fib daddr type local drop",
            "iifname eth0 jump deny",
            "ip saddr 192.0.2.0/24 goto deny",
            "iifname vmap { eth0 : goto deny }",
        ] {
            nft(&format!("add rule ip mine f {rule}"));
            assert_eq!(filters().await, [], "{rule}");
            nft("flush chain ip mine f");
        }
        for rule in ["jump deny", "goto deny", "counter drop", "reject with tcp reset"] {
            nft(&format!("add rule ip mine f {rule}"));
            let expected = match rule {
                // Of TCP only.
                "reject with tcp reset" => vec![],
                _ => vec![filter("ip mine", "f", &[Family::V4], &[])],
            };
            assert_eq!(filters().await, expected, "{rule}");
            nft("flush chain ip mine f");
        }
    });
}

#[test]
fn packets_that_a_chain_gives_back_before_it_drops_are_not_dropped_there() {
    on_a_thread(async || {
        enter_a_new_namespace();
        all("-N strangers
             -A FORWARD -j strangers
             -A strangers -s 10.77.0.0/16 -j RETURN
             -A strangers -j DROP");
        let expected = [filter("ip filter", "FORWARD", &[Family::V4], &["10.77.0.0/16"])];
        assert_eq!(filters().await, expected);
    });
}

#[test]
fn tables_that_accept_forwarded_pods_drop_nothing() {
    on_a_thread(async || {
        enter_a_new_namespace();
        nft("add table ip flannel-ipv4
             add chain ip flannel-ipv4 forward { type filter hook forward priority filter; policy accept; }
             add rule ip flannel-ipv4 forward ip saddr 10.77.0.0/16 accept
             add rule ip flannel-ipv4 forward ip daddr 10.77.0.0/16 accept
             add table ip6 flannel-ipv6
             add chain ip6 flannel-ipv6 forward { type filter hook forward priority filter; policy accept; }
             add rule ip6 flannel-ipv6 forward ip6 saddr fd77::/48 accept");
        all("-N FLANNEL-FWD
             -A FORWARD -m comment --comment flanneld-forward -j FLANNEL-FWD
             -A FLANNEL-FWD -s 10.77.0.0/16 -m comment --comment flanneld-forward -j ACCEPT
             -A FLANNEL-FWD -d 10.77.0.0/16 -m comment --comment flanneld-forward -j ACCEPT");
        assert_eq!(filters().await, []);
    });
}
