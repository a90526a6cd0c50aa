//! What the host does to packets for others: forwarding, and chains that drop.

use std::fs;
use std::time::Duration;

use flannel_core::{Changed, DeviceName, HostFacts, HostSource};
use flannel_netlink::Netlink;
use tokio::time::Instant;

use crate::chains::{DOCKER, all, filters};
use crate::namespace::{Bench, enter_a_new_namespace, ip, iptables, nft, on_a_thread, run};

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
fn a_look_at_the_chains_that_nothing_gave_a_reason_for_is_remembered_for_5_s() {
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

#[test]
fn a_watch_tells_of_chains_that_changed_and_has_them_read_anew_within_a_second() {
    run(async |bench| {
        Bench::settle();
        let mut watch = bench.watch("10.5.0.0/16");
        assert_eq!(facts(&bench.netlink).await.filters, []);
        let mut looks = 0;
        for nth in 0..6 {
            let (policy, expected) = if nth % 2 == 0 { ("DROP", 1) } else { ("ACCEPT", 0) };
            iptables(&format!("-P FORWARD {policy}"));
            let changed = Instant::now();
            while facts(&bench.netlink).await.filters.len() != expected {
                while watch.next().await != Changed::Host {}
                looks += 1;
            }
            assert!(
                changed.elapsed() < Duration::from_secs(1),
                "{:?}",
                changed.elapsed()
            );
        }
        assert!(looks > 0, "told by nobody");
    });
}

#[test]
fn chains_of_no_concern_are_no_reason_to_look() {
    run(async |bench| {
        Bench::settle();
        iptables("-P FORWARD ACCEPT");
        let mut watch = bench.watch("10.5.0.0/16");
        facts(&bench.netlink).await;
        iptables("-t nat -A POSTROUTING -j MASQUERADE");
        assert_eq!(watch.next().await, Changed::Table(Some("ip nat".into())));
        // Whatever else there is to be said comes in order, and behind what is due at once.
        tokio::time::timeout(Duration::from_millis(500), watch.next())
            .await
            .unwrap_err();
        nft("add table inet new; add chain inet new f { type filter hook forward priority 0; policy drop; }");
        assert_eq!(watch.next().await, Changed::Table(Some("inet new".into())));
        assert_eq!(watch.next().await, Changed::Host);
        assert_eq!(facts(&bench.netlink).await.filters.len(), 1);
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
        all(DOCKER);
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
