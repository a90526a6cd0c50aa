use std::time::Duration;

use flannel_core::{Changed, Device, Object, ObjectId, Op, RouteProgrammer};
use flannel_netlink::Netlink;
use tokio::time::Instant;

use crate::namespace::{Bench, Watch, bridge, ip, run};
use crate::overlay::{device, mac, name, own_address, peer, scope};

/// How long nothing is to come.
const QUIET: Duration = Duration::from_millis(300);

impl Watch {
    /// What comes until nothing has for a while.
    async fn all(&mut self) -> Vec<Changed> {
        let mut all = Vec::new();
        while let Ok(changed) = tokio::time::timeout(QUIET, self.next()).await {
            all.push(changed);
        }
        all
    }

    async fn until(&mut self, expected: &Changed) {
        while self.next().await != *expected {}
    }
}

fn overlay_watch(bench: &Bench) -> Watch {
    Watch::of(&bench.netlink, &scope())
}

#[test]
fn our_own_changes_are_a_reason_to_look_at_most_and_come_to_an_end() {
    run(async |bench| {
        Bench::settle();
        let mut watch = overlay_watch(&bench);
        bench.make([device("192.168.9.1").into(), own_address()]).await;
        bench.make(peer(7)).await;
        let bigger = Device {
            mtu: 1450,
            mac: mac(2),
            checksum_offload: Some(false),
            ..device("192.168.9.1")
        };
        bench.replace(&device("192.168.9.1"), &bigger).await;
        let [entry, neighbour, _] = peer(7);
        for changed in watch.all().await {
            let expected = match &changed {
                Changed::Host | Changed::Table(_) => true,
                Changed::Device(device) | Changed::Down(device) => *device == name(),
                // The kernel does not say who made it.
                Changed::Appeared(object) => *object == entry,
                // With the MAC address of the device, and put back at once.
                Changed::Vanished(object) => *object == neighbour,
                // Neighbours that it looks for itself, such as routers.
                Changed::Gone(ObjectId::Neighbour(_)) => true,
                _ => false,
            };
            assert!(expected, "{changed:?}");
        }
        // Looking changes nothing.
        assert!(bench.there().await.contains(&neighbour));
        let late = watch.all().await;
        assert!(
            late.iter()
                .all(|changed| matches!(changed, Changed::Host | Changed::Device(_))),
            "{late:?}"
        );
    });
}

#[test]
fn what_others_do_to_a_peer_is_told() {
    run(async |bench| {
        bench.make([device("192.168.9.1").into(), own_address()]).await;
        bench.make(peer(7)).await;
        let [entry, neighbour, route] = peer(7);
        let mut watch = overlay_watch(&bench);
        bridge("fdb del 02:00:00:00:00:07 dev flannel.1 dst 192.168.0.7");
        watch.until(&Changed::Vanished(entry.clone())).await;
        bridge("fdb add 02:00:00:00:00:07 dev flannel.1 dst 192.168.0.7");
        watch.until(&Changed::Appeared(entry)).await;
        // The kernel does not tell which MAC address it had.
        ip("neigh del 10.5.0.7 dev flannel.1");
        watch.until(&Changed::Gone(neighbour.id())).await;
        ip("neigh add 10.5.0.7 lladdr 02:00:00:00:00:07 dev flannel.1");
        watch.until(&Changed::Appeared(neighbour.clone())).await;
        ip("neigh replace 10.5.0.7 lladdr 02:00:00:00:00:07 dev flannel.1 nud reachable");
        watch.until(&Changed::Gone(neighbour.id())).await;
        ip("route del 10.5.0.7");
        watch.until(&Changed::Vanished(route)).await;
    });
}

#[test]
fn what_happens_to_a_device_is_told_by_its_name() {
    run(async |bench| {
        let mut watch = overlay_watch(&bench);
        let ours = Changed::Device(name());
        ip("link add flannel.1 type vxlan id 1 dev v0 dstport 8472");
        watch.until(&ours).await;
        for change in [
            "link set flannel.1 up",
            "link set flannel.1 mtu 1300",
            "link set flannel.1 address 02:00:00:00:00:09",
            "link set flannel.1 type vxlan learning",
            "address add 10.5.0.0/32 dev flannel.1",
            "address del 10.5.0.0/32 dev flannel.1",
            "link set flannel.1 down",
            "link set flannel.1 name other",
            "link set other name flannel.1",
            "link del v0",
        ] {
            drop(watch.all().await);
            ip(change);
            watch.until(&ours).await;
        }
    });
}

#[test]
fn neighbours_on_other_devices_are_not_told() {
    run(async |bench| {
        Bench::settle();
        ip("link add vx0 type vxlan id 77 dev v0 dstport 8473");
        ip("link set vx0 up");
        let mut watch = overlay_watch(&bench);
        drop(watch.all().await);
        ip("neigh add 192.168.9.7 lladdr 02:00:00:00:00:07 dev v0");
        ip("neigh add 10.5.0.7 lladdr 02:00:00:00:00:07 dev vx0");
        bridge("fdb add 02:00:00:00:00:07 dev vx0 dst 192.168.9.7");
        ip("neigh del 192.168.9.7 dev v0");
        let told = watch.all().await;
        assert!(told.iter().all(|changed| *changed == Changed::Host), "{told:?}");
    });
}

#[test]
fn routes_to_other_hosts_are_facts_about_the_host_where_they_matter() {
    run(async |bench| {
        Bench::settle();
        let mut watch = overlay_watch(&bench);
        for change in ["add", "del"] {
            drop(watch.all().await);
            ip(&format!("route {change} 192.0.2.0/24 via 192.168.9.9"));
            watch.until(&Changed::Host).await;
        }
    });
}

#[test]
#[allow(clippy::disallowed_macros, reason = "a test's reader is there")]
fn a_change_is_told_within_50_ms() {
    const TIMES: usize = 100;
    run(async |bench| {
        bench.make([device("192.168.9.1").into(), own_address()]).await;
        let other = Netlink::open().unwrap();
        let mut watch = overlay_watch(&bench);
        let mut took = Vec::new();
        for n in 0..TIMES {
            let [entry, neighbour, _] = peer(u16::try_from(n + 1).unwrap());
            for object in [entry, neighbour] {
                let plan = [Op::Add(object.clone())];
                assert_eq!(other.apply(&plan).await.unwrap().failed, []);
                let started = Instant::now();
                watch.until(&Changed::Appeared(object)).await;
                took.push(started.elapsed());
            }
        }
        took.sort();
        println!("told after {:?}, at worst {:?}", took[TIMES], took[2 * TIMES - 1]);
        assert!(took[TIMES] < Duration::from_millis(50), "{took:?}");
    });
}

#[test]
fn a_thousand_peers_that_go_with_their_device_are_told_or_said_to_be_lost() {
    run(async |bench| {
        bench.make([device("192.168.9.1").into(), own_address()]).await;
        bench.make((1..1000).flat_map(peer)).await;
        let mut watch = overlay_watch(&bench);
        // The names of devices are asked for with the first announcement that is waited for.
        assert_eq!(watch.now(), None);
        ip("link del flannel.1");
        let mut entries = 0;
        loop {
            match watch.next().await {
                Changed::Vanished(Object::Forwarding(_)) => entries += 1,
                Changed::Device(_) if entries == 999 => break,
                Changed::Overrun => break,
                _ => {}
            }
        }
        assert_eq!(bench.there().await, []);
    });
}
