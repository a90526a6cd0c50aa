//! With `DirectRouting`, a peer that comes to be on the uplink's link, or ceases to be, is reached the other way from
//! then on, and no packet is lost over it.

use std::time::Duration;

use ipnet::IpNet;
use lab::{Families, Family, Pinger, Wire};

use super::Site;
use crate::network::{Network, SOON, report, subnets, time_until};

/// Within this time a route is on its other way.
const MOVED: Duration = Duration::from_secs(2);
const ROUNDS: usize = 3;

/// Two hosts on a wire that has a router, and one behind it. Both directions are pinged throughout.
struct Moving {
    site: Site,
    pingers: Vec<Pinger>,
}

impl Moving {
    /// `before` is done to the first host before its daemon starts.
    fn new(name: &str, before: &[&str]) -> Self {
        // What `/28` and `/123` from the first host on do not contain is the second.
        let wires = [Wire::numbered([11, 21]), Wire::hosts(1)];
        let mut network = Network::new(name, wires, Families::Both, r#""DirectRouting":true"#);
        for net in before {
            network.lab.host(0).change_address(net.parse().unwrap()).unwrap();
        }
        network.start_all();
        let pods = network.pods();
        let pingers = [(0, 1), (1, 0), (0, 2), (2, 0)]
            .into_iter()
            .flat_map(|(from, to)| {
                let addresses = pods[to].addresses();
                // The first packets look for neighbours.
                let start = |address| {
                    lab::ping(&pods[from], address, 1, SOON).unwrap();
                    pods[from].pinger(address).unwrap()
                };
                addresses.map(start).collect::<Vec<_>>()
            });
        let pingers: Vec<Pinger> = pingers.collect();
        for pinger in &pingers {
            pinger.wait_for_replies(10, SOON).unwrap();
        }
        Self {
            site: Site { network, pods },
            pingers,
        }
    }

    /// The device by which the first host sends to the second's pods.
    fn device(&self, family: Family) -> Option<String> {
        let lab = &self.site.network.lab;
        let mut subnets = subnets(lab.host(1)).into_iter();
        let subnet: IpNet = subnets.find(|net| Family::of(net.addr()) == family)?;
        lab.host(0).routes_to(subnet).unwrap().pop()?.device
    }

    /// Does this to the first host, and returns how long it took until its route is over that device.
    #[track_caller]
    fn moved(&self, family: Family, words: &[&str], device: &str) -> Duration {
        assert_ne!(self.device(family).as_deref(), Some(device));
        self.site.network.lab.host(0).ip(words).unwrap();
        let took = time_until(MOVED, &format!("the route over {device} after {words:?}"), || {
            self.device(family).as_deref() == Some(device)
        });
        // What goes this way now is pinged for a while.
        for pinger in &self.pingers {
            pinger.wait_for_more(1, SOON).unwrap();
        }
        took
    }

    /// Fails if a ping was lost, or anything is not as it was in the beginning.
    #[track_caller]
    fn end(self, what: &str, times: &[Duration]) {
        report(what, times);
        for pinger in self.pingers {
            let report = pinger.stop().unwrap();
            assert_eq!(report.lost, 0, "{report:?}");
        }
        self.site.network.check();
    }
}

/// The overlay's device of one family.
fn tunnel(family: Family) -> &'static str {
    match family {
        Family::V4 => "flannel.1",
        Family::V6 => "flannel-v6.1",
    }
}

fn a_route_comes_and_goes(name: &str, family: Family) {
    let moving = Moving::new(name, &[]);
    let lab = &moving.site.network.lab;
    let to = IpNet::from(lab.host(1).address(family).unwrap()).to_string();
    let gateway = lab.host(0).gateway(family).to_string();
    let route = |what| [family.option(), "route", what, &to, "via", &gateway];
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        times.push(moving.moved(family, &route("add"), tunnel(family)));
        times.push(moving.moved(family, &route("del"), lab::UPLINK));
    }
    moving.end(name, &times);
}

#[test]
fn over_ipv4_a_route_by_a_gateway_moves_a_peer_into_the_tunnel_and_back_without_a_lost_ping() {
    a_route_comes_and_goes("gateway4", Family::V4);
}

#[test]
fn over_ipv6_a_route_by_a_gateway_moves_a_peer_into_the_tunnel_and_back_without_a_lost_ping() {
    a_route_comes_and_goes("gateway6", Family::V6);
}

/// `narrow` is the first host's address from the beginning, and `wide` the one that comes and goes.
fn an_address_comes_and_goes(name: &str, family: Family, narrow: &str, wide: &str) {
    let moving = Moving::new(name, &[narrow]);
    // Usable at once. IPv4 has no such thing.
    let at_once = (family == Family::V6).then_some("nodad");
    let add = ["addr", "add", wide, "dev", lab::UPLINK]
        .into_iter()
        .chain(at_once);
    let add: Vec<&str> = add.collect();
    let del = ["addr", "del", wide, "dev", lab::UPLINK];
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        times.push(moving.moved(family, &add, lab::UPLINK));
        times.push(moving.moved(family, &del, tunnel(family)));
    }
    moving.end(name, &times);
}

#[test]
fn over_ipv4_an_address_moves_a_peer_out_of_the_tunnel_and_back_without_a_lost_ping() {
    an_address_comes_and_goes("address4", Family::V4, "192.168.77.11/28", "192.168.77.50/24");
}

#[test]
fn over_ipv6_an_address_moves_a_peer_out_of_the_tunnel_and_back_without_a_lost_ping() {
    an_address_comes_and_goes("address6", Family::V6, "fd00:77::11/123", "fd00:77::50/64");
}
