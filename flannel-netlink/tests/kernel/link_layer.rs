use flannel_core::{Address, Object, Op, RouteProgrammer};

use crate::namespace::{bridge, ip, run};
use crate::overlay::{device, name, own_address, peer};

#[test]
fn addresses_of_all_origins_are_dumped() {
    run(async |bench| {
        bench.make([device("192.168.9.1").into(), own_address()]).await;
        ip("address add 169.254.7.7/16 dev flannel.1 scope link");
        ip("address add 198.51.100.7/24 dev flannel.1 valid_lft 600 preferred_lft 600");
        let there = bench.there().await;
        let addresses: Vec<&Address> = there
            .iter()
            .filter_map(|object| match object {
                Object::Address(address) => Some(address),
                _ => None,
            })
            .collect();
        let has = |net: &str, permanent| {
            let net = net.parse().unwrap();
            assert!(
                addresses
                    .iter()
                    .any(|address| address.id.net == net && address.permanent == permanent),
                "{net}: {addresses:?}"
            );
        };
        has("10.5.0.0/32", true);
        has("169.254.7.7/16", true);
        has("198.51.100.7/24", false);
        let link_local = |address: &&&Address| address.id.net.to_string().starts_with("fe80:");
        assert_eq!(addresses.iter().filter(link_local).count(), 1, "{addresses:?}");
        let kinds = addresses.iter().map(|address| address.id.device);
        assert!(kinds.into_iter().all(|device| device == name()));
    });
}

#[test]
fn a_neighbour_that_the_kernel_asked_for_in_vain_is_taken_over() {
    run(async |bench| {
        bench.make([device("192.168.9.1").into(), own_address()]).await;
        let [_, neighbour, _] = peer(7);
        for state in ["incomplete", "failed", "stale lladdr 02:00:00:00:00:09"] {
            ip(&format!("neigh replace 10.5.0.7 dev flannel.1 nud {state}"));
            assert!(!bench.there().await.contains(&neighbour));
            bench.make([neighbour.clone()]).await;
            assert!(bench.there().await.contains(&neighbour), "{state}");
        }
        let shown = ip("neigh show dev flannel.1 10.5.0.7");
        assert!(shown.contains("lladdr 02:00:00:00:00:07 PERMANENT"), "{shown}");
    });
}

#[test]
fn an_entry_whose_host_changed_is_replaced_and_what_was_learned_taken_over() {
    run(async |bench| {
        bench.make([device("192.168.9.1").into()]).await;
        bridge("fdb add 02:00:00:00:00:07 dev flannel.1 dst 192.168.0.9 dynamic");
        assert_eq!(
            bench.there().await.len(),
            2,
            "the device and its link-local address"
        );
        let [entry, ..] = peer(7);
        bench.make([entry.clone()]).await;
        assert!(bench.there().await.contains(&entry));
        bridge("fdb replace 02:00:00:00:00:07 dev flannel.1 dst 192.168.0.8");
        let moved = bench.there().await.pop().unwrap();
        assert_ne!(moved, entry);
        let op = Op::Replace {
            from: moved,
            to: entry.clone(),
        };
        assert_eq!(bench.netlink.apply(&[op]).await.unwrap().failed, []);
        assert_eq!(bench.there().await.pop(), Some(entry));
    });
}

#[test]
fn an_entry_that_leads_to_a_nexthop_object_is_replaced() {
    run(async |bench| {
        bench.make([device("192.168.9.1").into()]).await;
        ip("nexthop add id 17 via 192.168.9.9 fdb");
        ip("nexthop add id 18 group 17 fdb");
        bridge("fdb add 02:00:00:00:00:07 dev flannel.1 nhid 18 self permanent");
        let from = bench.there().await.pop().unwrap();
        assert!(
            matches!(&from, Object::Forwarding(entry) if entry.decorated && entry.host.is_none()),
            "{from}"
        );
        let [to, ..] = peer(7);
        let op = Op::Replace { from, to: to.clone() };
        assert_eq!(bench.netlink.apply(&[op]).await.unwrap().failed, []);
        assert_eq!(bench.there().await.pop(), Some(to));
    });
}

#[test]
fn an_entry_with_a_port_or_an_identifier_of_its_own_is_replaced_and_removed() {
    run(async |bench| {
        bench.make([device("192.168.9.1").into()]).await;
        let [entry, ..] = peer(7);
        for own in ["port 4789", "vni 7", "via v1"] {
            for replaced in [true, false] {
                bridge(&format!(
                    "fdb add 02:00:00:00:00:07 dev flannel.1 dst 192.168.0.7 {own} self permanent"
                ));
                let from = bench.there().await.pop().unwrap();
                assert!(
                    matches!(&from, Object::Forwarding(entry) if entry.decorated),
                    "{own}: {from}"
                );
                if replaced {
                    let to = entry.clone();
                    let op = Op::Replace { from, to };
                    assert_eq!(bench.netlink.apply(&[op]).await.unwrap().failed, []);
                    let there = bench.there().await.pop().unwrap();
                    assert_eq!(there, entry, "{own}");
                    let remove = [Op::Remove(there)];
                    assert_eq!(bench.netlink.apply(&remove).await.unwrap().failed, []);
                } else {
                    let remove = [Op::Remove(from)];
                    assert_eq!(bench.netlink.apply(&remove).await.unwrap().failed, []);
                }
                assert!(bench.there().await.len() == 2, "{own}");
            }
        }
    });
}

#[test]
fn a_peer_looks_to_iproute_as_flannels_does() {
    run(async |bench| {
        bench.make([device("192.168.9.1").into(), own_address()]).await;
        bench.make(peer(7)).await;
        assert_eq!(
            ip("neigh show dev flannel.1").trim_end(),
            "10.5.0.7 lladdr 02:00:00:00:00:07 PERMANENT"
        );
        assert_eq!(
            ip("route show root 10.5.0.0/16").trim_end(),
            "10.5.0.7 via 10.5.0.7 dev flannel.1 proto 70 onlink"
        );
        assert!(ip("-4 address show dev flannel.1").contains("inet 10.5.0.0/32 scope global flannel.1"));
    });
}
