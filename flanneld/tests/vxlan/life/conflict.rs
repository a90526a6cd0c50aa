//! What an operator put where a route of ours belongs stays, and is told of; ours is back once it has gone. What leads to
//! more than ours keeps none of them away.

use std::time::{Duration, Instant};

use ipnet::IpNet;
use lab::{Families, Family, STATIC, UPLINK};

use super::ground::{Ground, PEERS, STRUCK};
use crate::network::{BOTH, SOON, time_until};

const WITHIN: Duration = Duration::from_secs(1);

#[test]
fn a_route_that_was_made_static_is_the_operators_and_ours_is_back_within_a_second_of_its_removal() {
    let ground = Ground::new("static", Families::Both);
    for family in Families::Both.each() {
        for peer in PEERS {
            let target = ground.target(family, peer);
            let (subnet, via) = (target.peer.subnet, target.peer.subnet.network().to_string());
            let rest = ["via", &via, "dev", &target.device, "onlink", "proto", "static"];
            target.host.replace_route(subnet, &rest).unwrap();
            let daemon = ground.network.daemon(STRUCK);
            let said = format!("WARN .*{subnet}.*proto static");
            println!("{}", daemon.wait_for_log(&said, SOON).unwrap());
            let standing = target.host.routes_to(subnet).unwrap();
            assert!(
                standing.len() == 1 && standing[0].protocol == STATIC,
                "{standing:#?}"
            );

            let begin = Instant::now();
            target.host.delete_route(subnet).unwrap();
            let took = ground.becomes_right(begin, "a route in the way");
            println!("{subnet}: {took:.1?}");
            assert!(took <= WITHIN, "{took:?}");
        }
    }
    ground.end();
}

#[test]
fn under_a_wider_route_of_an_operators_over_the_uplink_a_deleted_route_is_back_within_a_second() {
    let ground = Ground::new("wider", Families::Both);
    for family in BOTH {
        let target = ground.target(family, PEERS[0]);
        let (host, subnet) = (target.host, target.peer.subnet);
        let length = if family == Family::V4 { 20 } else { 52 };
        let wider = IpNet::new(subnet.addr(), length).unwrap().trunc();
        let right = host.routes_to(subnet).unwrap();
        host.replace_route(wider, &["dev", UPLINK, "proto", "static"])
            .unwrap();
        host.delete_route(subnet).unwrap();
        let took = time_until(SOON, "the route to the peer", || {
            host.routes_to(subnet).unwrap() == right
        });
        println!("{subnet} under {wider}: {took:.1?}");
        assert!(took <= WITHIN, "{took:?}");
        host.delete_route(wider).unwrap();
        ground.becomes_right(Instant::now(), "the wider route is gone");
    }
    ground.end();
}
