//! Tables of the packet filter that change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use flannel_core::{Changed, HostSource, Op, RouteProgrammer};
use flannel_netlink::Netlink;
use tokio::time::Instant;

use crate::namespace::{
    Bench, PATIENCE, Watch, enter_a_new_namespace, ip6tables, iptables, nft, on_a_thread, route, run,
};

#[test]
fn every_change_of_a_table_is_told_by_its_name() {
    on_a_thread(async || {
        let bench = Bench::fresh();
        let mut watch = bench.watch("10.5.0.0/16");
        let mut soonest = Duration::MAX;
        for (ruleset, table) in [
            ("add table inet t", "inet t"),
            ("add chain inet t c", "inet t"),
            ("add rule inet t c counter", "inet t"),
            ("flush chain inet t c", "inet t"),
            ("add set inet t s { type ipv4_addr; }", "inet t"),
            ("add element inet t s { 192.0.2.1 }", "inet t"),
            ("delete element inet t s { 192.0.2.1 }", "inet t"),
            ("add counter inet t n", "inet t"),
            ("delete chain inet t c", "inet t"),
            ("add table bridge t", "bridge t"),
            ("add table arp t", "arp t"),
            ("add table netdev t", "netdev t"),
            ("delete table inet t", "inet t"),
        ] {
            nft(ruleset);
            let made = Instant::now();
            assert_eq!(watch.next_table().await.as_deref(), Some(table), "{ruleset}");
            soonest = soonest.min(made.elapsed());
        }
        assert!(soonest < Duration::from_millis(50), "told after {soonest:?}");
        iptables("-t nat -A POSTROUTING -j MASQUERADE");
        assert_eq!(watch.next_table().await.as_deref(), Some("ip nat"));
        ip6tables("-A FORWARD -j ACCEPT");
        assert_eq!(watch.next_table().await.as_deref(), Some("ip6 filter"));
        let mut flushed = Vec::new();
        nft("flush ruleset");
        for _ in 0..5 {
            flushed.extend(watch.next_table().await);
        }
        assert_eq!(flushed, ["arp t", "bridge t", "ip nat", "ip6 filter", "netdev t"]);
    });
}

#[test]
fn a_transaction_of_10_000_rules_is_told_once_for_each_table() {
    run(async |bench| {
        let mut watch = bench.watch("10.5.0.0/16");
        let rules = |table: &str| -> String {
            let rules = (0..5000).map(|n| format!("add rule {table} c tcp dport {n} counter\n"));
            format!(
                "add table {table}; add chain {table} c\n{}",
                rules.collect::<String>()
            )
        };
        nft(&format!("{}{}", rules("ip one"), rules("ip two")));
        // Told last, since those of one read are told in their order.
        nft("add table ip z");
        let mut told = Vec::new();
        while told.last() != Some(&Some("ip z".to_owned())) {
            told.push(watch.next_table().await);
        }
        let expected = ["ip one", "ip two", "ip z"].map(|table| Some(table.to_owned()));
        assert_eq!(told, expected);
    });
}

#[test]
fn tables_are_those_of_the_namespace_in_which_it_was_opened() {
    run(async |bench| {
        let there = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        enter_a_new_namespace();
        let mut watch = bench.watch("10.5.0.0/16");
        nft("add table ip elsewhere");
        nix::sched::setns(there, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        nft("add table ip here");
        assert_eq!(watch.next_table().await.as_deref(), Some("ip here"));
    });
}

#[test]
fn lost_announcements_of_tables_are_told_as_such_and_not_as_lost_routes() {
    run(async |bench| {
        let mut watch = bench.watch("10.5.0.0/16");
        assert_eq!(watch.now(), None);
        for table in 0..3 {
            let rules = (0..20_000).map(|n| format!("add rule ip t{table} c tcp dport {n} counter\n"));
            nft(&format!(
                "add table ip t{table}; add chain ip t{table} c\n{}",
                rules.collect::<String>()
            ));
        }
        let mut told = Vec::new();
        while told.last() != Some(&None) {
            told.push(watch.next_table().await);
        }
        // From now on nothing is lost.
        nft("add table ip t9");
        assert_eq!(watch.next_table().await.as_deref(), Some("ip t9"));
        let other = Netlink::open().unwrap();
        let made = route("10.5.7.0/24", "192.168.9.2");
        other.apply(&[Op::Add(made.clone().into())]).await.unwrap();
        assert_eq!(watch.next_object().await, Changed::Appeared(made.into()));
    });
}

/// Somebody who rewrites a chain over and over until told to stop, in the maker's namespace.
struct Flood {
    stop: Arc<AtomicBool>,
    rewritten: Arc<AtomicU32>,
    thread: JoinHandle<()>,
}

impl Flood {
    /// Of so many rules and then one that drops everything, of a chain of hook forward or of none.
    async fn begin(rules: u32, hook: &str) -> Self {
        let rules: String = (0..rules)
            .map(|n| format!("add rule ip flood c tcp dport {n} counter\n"))
            .collect();
        let ruleset = format!(
            "add table ip flood; add chain ip flood c {hook}
             flush chain ip flood c\n{rules}add rule ip flood c drop"
        );
        let (stop, rewritten) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let thread = {
            let (stop, rewritten) = (Arc::clone(&stop), Arc::clone(&rewritten));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    nft(&ruleset);
                    rewritten.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        while rewritten.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Self {
            stop,
            rewritten,
            thread,
        }
    }

    fn end(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.rewritten.load(Ordering::Relaxed)
    }
}

/// Has routes made 20 ms apart: how long it takes until they are told, and how often something else is.
async fn told_routes(watch: &mut Watch, net: u8) -> (Vec<Duration>, u32, u32) {
    const ROUTES: u8 = 100;
    const PAUSE: Duration = Duration::from_millis(20);
    let other = Netlink::open().unwrap();
    let (mut times, mut tables, mut hosts) = (Vec::new(), 0, 0);
    for n in 0..ROUTES {
        let made = route(&format!("10.{net}.{n}.0/24"), "192.168.9.2");
        let added = Instant::now();
        other.apply(&[Op::Add(made.clone().into())]).await.unwrap();
        let mut told = None;
        while let Ok(changed) =
            tokio::time::timeout_at(told.unwrap_or(added + PATIENCE) + PAUSE, watch.next()).await
        {
            match changed {
                Changed::Table(_) => tables += 1,
                Changed::Host | Changed::Down(_) => hosts += 1,
                other => {
                    assert_eq!(other, Changed::Appeared(made.clone().into()));
                    told = Some(Instant::now());
                }
            }
        }
        times.push(told.expect("to be told") - added);
    }
    times.sort();
    (times, tables, hosts)
}

#[test]
#[allow(clippy::disallowed_macros, reason = "a test's reader is there")]
fn a_flood_of_changed_tables_does_not_hold_up_routes_and_is_told_no_more_often_than_it_changes() {
    run(async |bench| {
        let mut watch = bench.watch("10.0.0.0/8");
        let (quiet, ..) = told_routes(&mut watch, 5).await;
        let flood = Flood::begin(2000, "").await;
        let begin = Instant::now();
        let (flooded, tables, hosts) = told_routes(&mut watch, 6).await;
        let took = begin.elapsed();
        let rewritten = flood.end();
        println!(
            "routes are told after {:.1?} ({:.1?} at most), and after {:.1?} ({:.1?} at most) while 2,000 rules were \
             rewritten {rewritten} times in {took:.1?}: {tables} times a table was told, {hosts} times the host",
            quiet[50], quiet[99], flooded[50], flooded[99]
        );
        assert!(flooded[99] < Duration::from_secs(1), "{:?}", flooded[99]);
        assert!(tables <= rewritten + 1, "{tables} for {rewritten}");
    });
}

#[test]
#[allow(clippy::disallowed_macros, reason = "a test's reader is there")]
fn chains_that_are_rewritten_all_the_time_are_known_all_the_time() {
    run(async |bench| {
        Bench::settle();
        let mut watch = bench.watch("10.5.0.0/16");
        let hook = "{ type filter hook forward priority 0; }";
        nft(&format!(
            "add table ip flood; add chain ip flood c {hook}; add rule ip flood c drop"
        ));
        assert_eq!(bench.netlink.facts(&[]).await.unwrap().filters.len(), 1);
        let flood = Flood::begin(500, hook).await;
        let begin = Instant::now();
        let until = begin + Duration::from_secs(2);
        let (mut told, mut asking) = (0, Duration::ZERO);
        while Instant::now() < until {
            while watch.next().await != Changed::Host {
                assert!(Instant::now() < until + PATIENCE, "told of tables only");
            }
            let asked = Instant::now();
            let facts = bench.netlink.facts(&[]).await.unwrap();
            asking += asked.elapsed();
            assert_eq!(facts.filters.len(), 1);
            told += 1;
        }
        let took = begin.elapsed();
        let rewritten = flood.end();
        println!("{rewritten} times 500 rules: asked {told} times for facts, which took {asking:.1?} in all");
        // One for each look, which are 200 ms apart, and one for a change before the look that it causes.
        let most = 2 * (took.as_millis() / 200 + 2);
        assert!((1..=most).contains(&told), "{told} in {took:?}");
    });
}
