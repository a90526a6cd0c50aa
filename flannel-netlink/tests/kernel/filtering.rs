//! What the host does to packets for others: forwarding, and chains that drop.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use flannel_core::{DeviceName, Family, Filter, HostFacts, HostSource};
use flannel_netlink::Netlink;
use tokio::time::Instant;

use crate::namespace::{Bench, enter_a_new_namespace, ip, on_a_thread, run};

const IPV4: &str = "/proc/sys/net/ipv4/ip_forward";
const IPV6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

fn set(path: &str, value: &str) {
    fs::write(path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

fn device(name: &str) -> DeviceName {
    name.parse().unwrap()
}

async fn facts(netlink: &Netlink) -> HostFacts {
    netlink.facts(&[]).await.unwrap()
}

#[test]
fn forwarding_that_is_off_is_seen_for_all_devices_or_one_and_in_each_family() {
    run(async |bench| {
        for (v4, v6, unforwarded) in [
            ("0", "1", &["lo", "v0", "v1"][..]),
            ("1", "0", &[]),
            ("1", "1", &[]),
        ] {
            set(IPV4, v4);
            set(IPV6, v6);
            let seen = facts(&bench.netlink).await.unforwarded;
            let expected = unforwarded.iter().map(|name| device(name)).collect();
            assert_eq!((seen.v4, seen.v6), (expected, v6 == "0"), "{v4} {v6}");
        }
        set("/proc/sys/net/ipv4/conf/v0/forwarding", "0");
        assert_eq!(facts(&bench.netlink).await.unforwarded.v4, [device("v0")].into());
    });
}

#[test]
fn forwarding_is_that_of_the_namespace_in_which_it_was_opened() {
    run(async |bench| {
        set(IPV4, "0");
        set(IPV6, "0");
        enter_a_new_namespace();
        set(IPV4, "1");
        set(IPV6, "1");
        let seen = facts(&bench.netlink).await.unforwarded;
        assert_eq!(
            (seen.v4.contains(&Bench::uplink()), seen.v6),
            (true, true),
            "another namespace's"
        );
        let here = facts(&Netlink::open().unwrap()).await.unforwarded;
        assert_eq!((here.v4.is_empty(), here.v6), (true, false));
    });
}

/// Runs a program in this thread's namespace.
#[allow(
    clippy::disallowed_methods,
    reason = "the programs that operators use are the judges"
)]
fn program(name: &str, arguments: &[&str], input: &str) {
    let child = std::process::Command::new(name)
        .args(arguments)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{name} (Debian: iptables, nftables): {error}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?}: {said}");
}

fn nft(ruleset: &str) {
    program("nft", &["-f", "-"], ruleset);
}

fn iptables(arguments: &str) {
    program(
        "iptables-nft",
        &arguments.split_whitespace().collect::<Vec<_>>(),
        "",
    );
}

fn ip6tables(arguments: &str) {
    program(
        "ip6tables-nft",
        &arguments.split_whitespace().collect::<Vec<_>>(),
        "",
    );
}

/// The chains that a look without a past finds.
async fn filters() -> Vec<Filter> {
    facts(&Netlink::open().unwrap()).await.filters
}

fn filter(table: &str, chain: &str, families: &[Family], accepts: &[&str]) -> Filter {
    Filter {
        families: families.to_vec(),
        table: table.into(),
        chain: chain.into(),
        accepts: accepts.iter().map(|net| net.parse().unwrap()).collect(),
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

/// What docker sets up, in its own words.
const DOCKER: &str = "
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
        DOCKER
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .for_each(iptables);
        let docker = |accepts: &[&str]| [filter("ip filter", "FORWARD", &[Family::V4], accepts)];
        assert_eq!(filters().await, docker(&[]));
        // Where docker asks operators to put their rules.
        iptables("-I DOCKER-USER -d 10.77.0.0/16 -j ACCEPT");
        assert_eq!(filters().await, docker(&["10.77.0.0/16"]));
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
        for rule in [
            "ip daddr { 10.1.0.0/16, 10.2.0.0/16 } accept",
            "ip daddr 10.1.0.0-10.3.0.0 accept",
            "ip saddr != 10.9.0.0/16 accept",
            "iifname vmap { eth0 : jump lan }",
            "counter accept",
        ] {
            nft(&format!("add rule inet mine loop {rule}"));
            assert_eq!(
                filters().await,
                [filter("inet mine", "forwarded", &both, &EVERYTHING)],
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
            filter("ip long", "f", &[Family::V4], &EVERYTHING),
        ];
        assert_eq!(filters().await, expected);
    });
}

#[test]
fn chains_are_those_of_the_namespace_in_which_it_was_opened() {
    run(async |bench| {
        iptables("-P FORWARD DROP");
        enter_a_new_namespace();
        assert_eq!(facts(&bench.netlink).await.filters.len(), 1);
        assert_eq!(filters().await, []);
    });
}

#[test]
fn a_look_at_the_chains_is_remembered_for_5_s() {
    run(async |bench| {
        iptables("-P FORWARD DROP");
        assert_eq!(facts(&bench.netlink).await.filters.len(), 1);
        iptables("-P FORWARD ACCEPT");
        let changed = Instant::now();
        assert_eq!(facts(&bench.netlink).await.filters.len(), 1);
        ip("link set v0 mtu 1400");
        let until = changed + Duration::from_secs(10);
        while !facts(&bench.netlink).await.filters.is_empty() {
            assert!(Instant::now() < until, "never looked again");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(changed.elapsed() > Duration::from_secs(4), "looked again at once");
        let link = facts(&bench.netlink)
            .await
            .links
            .into_iter()
            .find(|link| link.name == Bench::uplink());
        assert_eq!(
            link.map(|link| link.mtu),
            Some(1400),
            "the rest is read every time"
        );
    });
}

/// The median time that facts take from a `Netlink` that has seen nothing yet.
async fn cost() -> Duration {
    let mut times = Vec::new();
    for _ in 0..21 {
        let netlink = Netlink::open().unwrap();
        let begin = Instant::now();
        facts(&netlink).await;
        times.push(begin.elapsed());
    }
    times.sort();
    times[10]
}

#[test]
#[allow(clippy::disallowed_macros, reason = "a test's reader is there")]
fn a_look_at_the_packet_filter_costs_little() {
    on_a_thread(async || {
        enter_a_new_namespace();
        let without = cost().await;
        DOCKER
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .for_each(iptables);
        let docker = cost().await;
        let chains: String = (0..5000)
            .map(|n| format!("add chain ip nat KUBE-SVC-{n:016}\n"))
            .collect();
        nft(&format!("add table ip nat\n{chains}"));
        let kubernetes = cost().await;
        println!(
            "facts: {without:.1?} without rules, {docker:.1?} with docker's, {kubernetes:.1?} with 5,000 chains"
        );
        assert!(docker < Duration::from_millis(20), "{docker:?}");
        assert!(kubernetes < Duration::from_millis(200), "{kubernetes:?}");
    });
}
