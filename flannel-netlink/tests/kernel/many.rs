use flannel_core::{HostSource, Object, Op, RouteProgrammer, State};
use tokio::time::Instant;

use crate::namespace::{Bench, run};
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
