use flannel_core::{Changed, Op, RouteProgrammer, Scope};
use flannel_netlink::Netlink;

use crate::namespace::{Bench, add, enter_a_new_namespace, ip, route, run, scope};

fn appeared(destination: &str, gateway: &str) -> Changed {
    Changed::Appeared(route(destination, gateway).into())
}

#[test]
fn what_a_netlink_changes_itself_is_told_to_all_others_only() {
    run(async |bench| {
        let other = Bench {
            netlink: Netlink::open().unwrap(),
        };
        let mut ours = bench.watch("10.5.0.0/16");
        let mut theirs = other.watch("10.5.0.0/16");
        bench.add([route("10.5.7.0/24", "192.168.9.2")]).await;
        other.add([route("10.5.8.0/24", "192.168.9.3")]).await;
        assert_eq!(ours.next_object().await, appeared("10.5.8.0/24", "192.168.9.3"));
        assert_eq!(theirs.next_object().await, appeared("10.5.7.0/24", "192.168.9.2"));
    });
}

#[test]
fn a_watch_whose_reader_is_slow_is_told_that_it_missed_something_and_goes_on() {
    run(async |bench| {
        let other = Netlink::open().unwrap();
        let mut watch = bench.watch("10.0.0.0/8");
        add(&other, [route("10.7.0.0/24", "192.168.9.2")]).await;
        assert_eq!(watch.next_object().await, appeared("10.7.0.0/24", "192.168.9.2"));

        let flood = (0..40_000).map(|n| route(&format!("10.5.{}.{}/32", n / 250, n % 250), "192.168.9.2"));
        add(&other, flood).await;
        ip("link add v2 type veth peer name v3");
        ip("link set v2 up");
        while watch.next().await != Changed::Overrun {}
        // The kernel forgets whatever happens until all that it kept has been read; the names of
        // devices are part of that.
        ip("route add 10.6.0.0/24 dev v2 proto 70");
        match watch.next_object().await {
            Changed::Appeared(object) => assert_eq!(object.to_string(), "10.6.0.0/24 dev v2 proto 70"),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_watch_belongs_to_the_namespace_in_which_its_netlink_was_opened() {
    run(async |bench| {
        let other = Netlink::open().unwrap();
        enter_a_new_namespace();
        let mut watch = bench.watch("10.5.0.0/16");
        add(&other, [route("10.5.7.0/24", "192.168.9.2")]).await;
        assert_eq!(watch.next_object().await, appeared("10.5.7.0/24", "192.168.9.2"));
        assert_eq!(bench.dump("10.5.0.0/16").await.len(), 1);
    });
}

#[test]
fn a_watch_outside_of_a_runtime_is_an_error() {
    let netlink = Netlink::open().unwrap();
    let error = netlink.watch(&Scope::default()).err().unwrap();
    assert!(
        error
            .to_string()
            .starts_with("cannot subscribe to the kernel's announcements: "),
        "{error}"
    );
}

#[test]
fn links_addresses_and_default_routes_are_facts_about_the_host() {
    run(async |bench| {
        Bench::settle();
        for change in [
            "address add 192.0.2.1/24 dev v0",
            "address add fd00:8::1/64 dev v0",
            "route add default via 192.168.9.9",
            "route del default",
            "-6 route add default via fd00:9::9",
            "-6 route del default",
            "link set v0 mtu 1400",
        ] {
            let mut watch = bench.watch("10.5.0.0/16");
            ip(change);
            assert_eq!(watch.next().await, Changed::Host, "{change}");
        }
    });
}

#[test]
fn a_link_that_goes_down_or_away_or_loses_an_address_is_told_by_its_name() {
    run(async |bench| {
        ip("address add 192.0.2.1/24 dev v0");
        Bench::settle();
        for change in [
            "address del 192.0.2.1/24 dev v0",
            "address del fd00:9::1/64 dev v0",
            "link set v0 down",
            "link del v0",
        ] {
            let mut watch = bench.watch("10.5.0.0/16");
            // The names of devices are asked for with the first announcement that is waited for.
            assert_eq!(watch.now(), None);
            ip(change);
            assert_eq!(watch.next_down().await, Bench::uplink(), "{change}");
        }
    });
}

#[test]
fn what_was_lost_before_the_names_of_devices_were_asked_for_is_told_all_the_same() {
    run(async |bench| {
        Bench::settle();
        let mut watch = bench.watch("10.5.0.0/16");
        ip("link set v0 down");
        assert_eq!(watch.next_down().await, Bench::uplink());

        let mut watch = bench.watch("10.5.0.0/16");
        ip("address del 192.168.9.1/16 dev v0");
        ip("link del v0");
        // There is no such device any more.
        while watch.next().await != Changed::Overrun {}
        assert_eq!(watch.next_down().await, Bench::uplink());
    });
}

#[test]
fn a_link_without_a_carrier_or_under_another_name_keeps_its_routes_and_is_not_down() {
    run(async |bench| {
        Bench::settle();
        bench.add([route("10.5.7.0/24", "192.168.9.2")]).await;
        let mut watch = bench.watch("10.5.0.0/16");
        ip("link set v1 down");
        while !ip("route show 10.5.7.0/24").contains("linkdown") {
            let heard = watch.next().await;
            assert_ne!(heard, Changed::Down(Bench::uplink()));
        }
        ip("link set v0 name wan");
        ip("route add 10.5.8.0/24 dev wan proto 70");
        let [kept] = &bench.dump("10.5.7.0/24").await[..] else {
            panic!("the route is gone");
        };
        assert_eq!(kept.to_string(), "10.5.7.0/24 via 192.168.9.2 dev wan proto 70");
        loop {
            match watch.next().await {
                Changed::Down(device) => assert_eq!(device, Bench::other_end()),
                Changed::Appeared(_) => break,
                _ => {}
            }
        }
    });
}

#[test]
fn a_device_made_or_renamed_after_the_watch_began_has_its_name() {
    run(async |bench| {
        let mut watch = bench.watch("10.5.0.0/16");
        ip("route add 10.5.8.0/24 via 192.168.9.2 proto 70");
        assert_eq!(watch.next_object().await, appeared("10.5.8.0/24", "192.168.9.2"));
        ip("link add v2 type veth peer name v3");
        ip("link set v2 name wan");
        ip("link set wan up");
        ip("route add 10.5.7.0/24 dev wan proto 70");
        let named = loop {
            if let Changed::Appeared(object) = watch.next().await {
                break object;
            }
        };
        assert_eq!(named.to_string(), "10.5.7.0/24 dev wan proto 70");
    });
}

#[test]
fn removals_are_told_as_what_was_removed() {
    run(async |bench| {
        let other = Netlink::open().unwrap();
        let gone = route("fd10:5:0:7::/64", "fd00:9::2");
        bench.add([gone.clone()]).await;
        let mut watch = bench.watch("fd10:5::/48");
        assert_eq!(
            other
                .apply(&[Op::Remove(gone.clone().into())])
                .await
                .unwrap()
                .failed,
            []
        );
        assert_eq!(watch.next_object().await, Changed::Vanished(gone.into()));
        assert_eq!(other.dump(&scope("fd10:5::/48")).await.unwrap(), []);
    });
}
