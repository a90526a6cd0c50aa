use flannel_core::{HostSource, Object, Op, RouteProgrammer, State};
use tokio::time::Instant;

use crate::namespace::{Bench, program, run};
use crate::overlay::{device, own_address, peer};

/// How many peers there are, and how many come.
const PEERS: u16 = 5000;
const NEW_PEERS: u16 = 1000;

#[test]
#[allow(clippy::disallowed_macros, reason = "a test's reader is there")]
fn five_thousand_peers_are_made_dumped_and_removed() {
    run(async |bench| {
        bench.make([device("192.168.9.1").into(), own_address()]).await;
        let objects = |peers: std::ops::RangeInclusive<u16>| peers.flat_map(peer).collect::<Vec<Object>>();
        let first = objects(1..=PEERS);
        let started = Instant::now();
        bench.make(first.clone()).await;
        println!("{PEERS} peers were made in {:?}", started.elapsed());

        let new = objects(PEERS + 1..=PEERS + NEW_PEERS);
        let started = Instant::now();
        bench.make(new.clone()).await;
        println!("{NEW_PEERS} more were made in {:?}", started.elapsed());

        let started = Instant::now();
        let there = bench.there().await;
        println!("{} objects were dumped in {:?}", there.len(), started.elapsed());
        let there: State = there.into_iter().map(|object| (object.id(), object)).collect();
        for object in first.iter().chain(&new) {
            assert_eq!(there.get(&object.id()), Some(object));
        }

        let started = Instant::now();
        let facts = bench.netlink.facts(&[]).await.unwrap();
        println!("facts beside them were learned in {:?}", started.elapsed());
        assert_eq!(
            facts.underlay.link_of([192, 168, 9, 7].into()),
            Some(Bench::uplink())
        );

        let started = Instant::now();
        let plan: Vec<Op> = new.into_iter().rev().map(Op::Remove).collect();
        assert_eq!(bench.netlink.apply(&plan).await.unwrap().failed, []);
        println!("{NEW_PEERS} were removed in {:?}", started.elapsed());
        let gone = there.len() - bench.there().await.len();
        assert_eq!(gone, plan.len());
    });
}

/// How many routes a stranger has, as a router has that knows the internet.
const STRANGERS: u32 = 100_000;

/// The most bytes that a look at the host may take on top of what there is, whatever is routed.
const ROOM: u64 = 8 << 20;

#[test]
#[allow(clippy::disallowed_macros, reason = "a test's reader is there")]
fn a_hundred_thousand_routes_of_somebody_else_take_no_room() {
    run(async |bench| {
        let routes: String = (0..STRANGERS)
            .map(|n| {
                format!(
                    "route add 20.{}.{}.{}/28 via 192.168.9.9\n",
                    n >> 12,
                    n >> 4 & 255,
                    (n & 15) << 4
                )
            })
            .chain(["route add 192.168.77.0/24 via 192.168.9.9\n".to_owned()])
            .collect();
        program("ip", &["-batch", "-"], &routes);
        bench.netlink.facts(&[]).await.unwrap();
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = most_memory();
        let started = Instant::now();
        let facts = bench.netlink.facts(&[]).await.unwrap();
        let (took, room) = (started.elapsed(), most_memory() - before);
        println!("facts beside {STRANGERS} routes were learned in {took:?}, with {room} bytes");
        for (address, link) in [
            ([192, 168, 9, 7], Some(Bench::uplink())),
            ([192, 168, 77, 7], None),
            ([20, 1, 2, 3], None),
        ] {
            assert_eq!(facts.underlay.link_of(address.into()), link, "{address:?}");
        }
        assert!(room < ROOM, "{room}");
    });
}

/// The most memory that this process had, in bytes, since that was last reset.
fn most_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
