//! What can happen to a simulated network, drawn by the seed.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::{Instant, sleep};

use super::{NETWORKS, Random, Sim};
use crate::testing::{Cut, Failure, Operator};
use crate::{DEFAULT_PROTOCOL, Hop, LeaseAttrs, OpErrorKind, Route, SubnetKey};

/// How many kinds of faults there are without devices.
const FAULTS: usize = 46;

/// And how many more are done to devices.
const DEVICE_FAULTS: usize = 10;

/// The protocol of what an operator puts there by hand: `static`.
const PROTOCOL_STATIC: u8 = 4;

impl Sim {
    /// Draws a fault, lets it happen, and lets some time pass.
    pub async fn step(&mut self) {
        let host = self.random.below(self.hosts.len());
        let devices = if self.backend.tunnels() { DEVICE_FAULTS } else { 0 };
        let fault = self.random.below(FAULTS + devices);
        self.history
            .push(format!("{:?} fault {fault} on host {host}", Instant::now()));
        self.inject(fault, host).await;
        // What an operator put there may have gone with a link, or by another hand.
        self.hosts
            .iter_mut()
            .for_each(super::SimHost::forget_lost_statics);
        let pause = [10, 200, 3_000, 20_000, 90_000][self.random.below(5)];
        sleep(Duration::from_millis(self.random.below(pause) as u64)).await;
        self.check_always();
    }

    async fn inject(&mut self, fault: usize, host: usize) {
        let times = 1 + u32::try_from(self.random.below(4)).unwrap_or(0);
        let kernel = self.hosts[host].kernel.clone();
        let client = self.hosts[host].client.clone();
        match fault {
            0 => client.cut(Cut::Hangs),
            1 => client.cut(Cut::Refuses),
            2 | 3 => client.heal(),
            4 => self.store.compact(),
            5 => self.saved = Some(self.store.save()),
            6 => {
                if let Some(saved) = self.saved.take() {
                    self.restored.push(Instant::now());
                    self.store.restore(&saved);
                }
            }
            7 => self.store.wipe(),
            8 => {
                if let Some(subnet) = self.any_leased() {
                    self.store.expire(subnet);
                }
            }
            9 => client.fail_next(times, Failure::Unavailable),
            10 => client.lose_replies(times),
            11 => kernel.flush(),
            12 => self.stray(host),
            13 => self.meddle(host),
            14 if self.hosts[host].has_uplink => kernel.link_down("eth0"),
            15 => self.bring_up(host),
            16 if std::mem::take(&mut self.hosts[host].has_uplink) => kernel.delete_link("eth0"),
            17 if self.hosts[host].has_uplink => self.readdress(host),
            18 => {
                let within = NETWORKS[usize::from(!self.families.v4())];
                let kinds = [OpErrorKind::Other, OpErrorKind::Unreachable, OpErrorKind::Exists];
                kernel.fail(
                    within.parse().expect("a prefix"),
                    kinds[self.random.below(3)],
                    times,
                );
            }
            19 => kernel.fail_dumps(times),
            20 => kernel.lose_replies(times),
            21 => kernel.mute(),
            22 => kernel.unmute(),
            23 => self.stop(host, true).await,
            24 => self.stop(host, false).await,
            25 => {
                self.stop(host, false).await;
                self.lose_state(host);
                self.start(host);
            }
            26 | 27 => self.start_all(),
            28 => self.store.put_raw("10.5.0.0-24&garbage", "{"),
            29 => self.put_lease("10.9.9.0/24".parse().expect("a subnet"), "192.0.9.9", "fd00::9:9"),
            30 => kernel.fail_facts(times),
            31 => self.store.put_config(Some("{")),
            32..=34 => self.static_peer(),
            35 => self.bad_peer(host),
            36 => self.steal(),
            37 => self.rewrite_as_flannel(),
            38 | 39 => self.operator_adds(host),
            40 => self.operator_replaces(host),
            41 => self.operator_deletes(host),
            42 => {
                let other = self.random.below(self.hosts.len());
                self.stop(host, false).await;
                self.clone_state(other, host);
                self.start(host);
            }
            43 => self.enlarge(),
            44 => {
                let other = self.families.config(r#"{"Type":"udp"}"#);
                self.store.put_config(Some(&other));
            }
            45 => {
                let config = self.config();
                self.store.put_config(Some(&config));
            }
            46.. => self.disturb(fault - FAULTS, host, times),
            // There is no uplink to do it to.
            _ => {}
        }
    }

    /// Forgets who a host is, as when its state directory is lost.
    pub fn lose_state(&mut self, host: usize) {
        let node = self.take_node();
        self.hosts[host].nodes.push(node);
        if self.random.below(2) == 0 {
            self.hosts[host].previous = None;
        }
    }

    /// Enlarges the network live. Subnets are still given out in the first part only.
    pub fn enlarge(&mut self) {
        self.enlarged = true;
        let config = self.families.enlarged(self.backend.options);
        self.store.put_config(Some(&config));
    }

    /// Gives one host the state directory of another: two hosts with one id.
    pub fn clone_state(&mut self, from: usize, to: usize) {
        self.cloned = true;
        let (node, previous) = (self.hosts[from].node(), self.hosts[from].previous);
        self.hosts[to].nodes.push(node);
        self.hosts[to].previous = previous;
    }

    /// A lease that a configuration tool put there, or put otherwise.
    pub fn put_lease(&self, subnet: SubnetKey, v4: &str, v6: &str) {
        let address = v4.parse().or(v6.parse()).ok();
        self.put_lease_of(subnet, v4, v6, address);
    }

    /// Likewise, with the data that a host of the address `data` publishes.
    fn put_lease_of(&self, subnet: SubnetKey, v4: &str, v6: &str, data: Option<IpAddr>) {
        let public = crate::PerFamily {
            v4: v4.parse().ok(),
            v6: v6.parse().ok(),
        };
        let data = || data.and_then(self.backend.data);
        let attrs = LeaseAttrs {
            public,
            backend: self.backend.kind().to_owned(),
            backend_data: data(),
            backend_v6_data: data(),
            ..LeaseAttrs::default()
        };
        self.store.put_raw(&subnet.to_key(), &attrs.to_json());
    }

    /// A static peer: of any size, mostly in the network, perhaps overlapping others or with the
    /// address of another, perhaps moved.
    fn static_peer(&mut self) {
        let subnet = self.any_subnet();
        let number = 1 + self.random.below(4);
        // A copied host publishes what another does.
        let copied = self.backend.tunnels() && self.random.below(4) == 0;
        let of = if copied { 1 + self.random.below(4) } else { number };
        let address = |number: usize| format!("192.0.200.{number}");
        self.put_lease_of(
            subnet,
            &address(number),
            &format!("fd00::200:{number}"),
            address(of).parse().ok(),
        );
    }

    /// A lease that is nobody's peer.
    fn bad_peer(&mut self, host: usize) {
        let subnet = self.any_subnet();
        let attrs = self.attrs(host);
        let own = |family| {
            attrs
                .public
                .get(family)
                .map_or_else(String::new, ToString::to_string)
        };
        match self.random.below(4) {
            0 => self.put_lease(subnet, "224.0.0.1", "ff02::1"),
            1 => self.put_lease(subnet, "", ""),
            2 => {
                // As flannel writes it, so that the host may come to take it for its own.
                self.flannels.insert(subnet);
                self.put_lease(subnet, &own(crate::Family::V4), &own(crate::Family::V6));
            }
            _ => self.store.put_raw(
                &subnet.to_key(),
                r#"{"PublicIP":"192.0.200.9","PublicIPv6":"fd00::200:9","BackendType":"udp"}"#,
            ),
        }
    }

    /// Somebody puts a lease of his own where another stands.
    fn steal(&mut self) {
        if let Some(subnet) = self.any_leased() {
            self.put_lease(subnet, "192.0.200.77", "fd00::200:77");
        }
    }

    /// flannel writes the lease of a host anew: same address, no id.
    fn rewrite_as_flannel(&mut self) {
        let Some(subnet) = self.any_leased() else { return };
        let leases = self.store.leases();
        let Some(lease) = leases.into_iter().find(|lease| lease.subnet == subnet) else {
            return;
        };
        if lease.attrs.node.is_some() {
            let attrs = LeaseAttrs {
                node: None,
                ..lease.attrs
            };
            self.flannels.insert(subnet);
            self.store.put_raw(&subnet.to_key(), &attrs.to_json());
        }
    }

    fn any_leased(&mut self) -> Option<SubnetKey> {
        let leases = self.store.leases();
        (!leases.is_empty()).then(|| leases[self.random.below(leases.len())].subnet)
    }

    /// A subnet of the network, or of the part that is added when it is enlarged.
    fn any_subnet(&mut self) -> SubnetKey {
        let number = self.random.below(40);
        let [v4, v6] = if self.random.below(5) == 0 {
            ["10.4", "fd04"]
        } else {
            ["10.5", "fd05"]
        };
        let (shorter, longer) = (self.random.below(3), self.random.below(2));
        let v4 = format!("{v4}.{number}.0/{}", 24 - shorter + longer);
        let v6 = format!("{v6}:0:0:{number:x}::/{}", 64 - shorter + longer);
        let text = match (self.families.v4(), self.families.v6()) {
            (true, true) if self.random.below(3) > 0 => format!("{v4},{v6}"),
            (true, _) => v4,
            (false, _) => v6,
        };
        let nets = text
            .split(',')
            .map(|net| net.parse::<IpNet>().expect("a prefix").trunc().to_string());
        let nets: Vec<String> = nets.collect();
        nets.join(",").parse().expect("a subnet")
    }

    /// A destination of one family in the network.
    fn any_destination(&mut self) -> (IpNet, &'static str) {
        let number = self.random.below(255);
        let v4 = self.families.v4() && !(self.families.v6() && self.random.below(2) == 0);
        let (net, gateway) = if v4 {
            (format!("10.5.{number}.0/24"), "192.0.200.1")
        } else {
            (format!("fd05:0:0:{number:x}::/64"), "fd00::200:1")
        };
        (net.parse().expect("a prefix"), gateway)
    }

    /// Puts a route with our mark where none belongs.
    fn stray(&mut self, host: usize) {
        let (net, gateway) = self.any_destination();
        let mut route = route(net, gateway, DEFAULT_PROTOCOL);
        if self.random.below(2) == 0 {
            route.id.metric = 50;
        }
        self.hosts[host].kernel.stray(route);
    }

    /// Deletes one of our routes by hand, or bends it as `ip route replace` does.
    fn meddle(&mut self, host: usize) {
        let Some(mut route) = self.any_of_ours(host) else {
            return;
        };
        let action = if self.random.below(2) == 0 {
            Operator::Delete(route)
        } else {
            route.protocol = crate::PROTOCOL_BOOT;
            Operator::Replace(route)
        };
        let _ = self.hosts[host].kernel.operator(action);
    }

    /// An operator's route where none of ours is: of any protocol but ours, metric and size.
    fn operator_adds(&mut self, host: usize) {
        let (net, gateway) = self.any_destination();
        let length = net.prefix_len() - 1 + u8::try_from(self.random.below(3)).unwrap_or(0);
        let net = IpNet::new(net.addr(), length).expect("a length").trunc();
        let protocol = [PROTOCOL_STATIC, 186][self.random.below(2)];
        let mut route = route(net, gateway, protocol);
        if self.random.below(2) == 0 {
            route.id.metric = 7;
        }
        if self.hosts[host]
            .kernel
            .operator(Operator::Add(route.clone()))
            .is_ok()
        {
            self.hosts[host].statics.push((Instant::now(), route));
        }
    }

    /// An operator's route in the place of one of ours.
    fn operator_replaces(&mut self, host: usize) {
        let Some(mut route) = self.any_of_ours(host) else {
            return;
        };
        route.protocol = PROTOCOL_STATIC;
        if self.hosts[host]
            .kernel
            .operator(Operator::Replace(route.clone()))
            .is_ok()
        {
            self.hosts[host].statics.push((Instant::now(), route));
        }
    }

    fn operator_deletes(&mut self, host: usize) {
        for (_, route) in std::mem::take(&mut self.hosts[host].statics) {
            let _ = self.hosts[host].kernel.operator(Operator::Delete(route));
        }
    }

    /// One of our routes, none that waits behind another.
    fn any_of_ours(&mut self, host: usize) -> Option<Route> {
        let mut routes = self.hosts[host].kernel.routes();
        routes.retain(|route| route.protocol == DEFAULT_PROTOCOL && route.id.position == 0);
        (!routes.is_empty()).then(|| routes[self.random.below(routes.len())].clone())
    }
}

fn route(net: IpNet, gateway: &str, protocol: u8) -> Route {
    let hop = Hop::via(
        gateway.parse().expect("an address"),
        "eth0".parse().expect("a device name"),
    );
    Route::unicast(net, hop, protocol)
}

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        crate::choose::mix(self.0)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "below the bound")]
        let below = (self.next() % bound as u64) as usize;
        below
    }
}
