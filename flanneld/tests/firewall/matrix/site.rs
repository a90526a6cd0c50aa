//! Two hosts of a network and a machine outside it, with what others have on them: addresses, routes and marks.

use std::net::IpAddr;

use ipnet::IpNet;
use lab::{Daemon, DaemonOptions, Families, Family, Host, Lab};

use crate::network::{Mode, V4, V6, address, network, ready};
use crate::programs::Variant;

/// Marks packets by their ports, as others' rules do, before they are routed.
const MARKER: &str = "
    table inet marker {
        chain prerouting {
            type filter hook prerouting priority mangle;
            meta l4proto { tcp, udp } th dport 7004 meta mark set 0x4000
            meta l4proto { tcp, udp } th dport 7012 meta mark set 0xc000
            meta l4proto { tcp, udp } th dport 7008 meta mark set 0x8000
        }
    }";

/// Has bridged packets pass the rules as well, where `br_netfilter` is there, which not all kernels load.
const BRIDGED_TOO: &str =
    "cd /proc/sys/net; for f in bridge/bridge-nf-call-ip*tables; do [ ! -e $f ] || echo 1 >$f; done";

pub(super) const OUTSIDE: [&str; 2] = ["203.0.113.7", "2001:db8:113::7"];
pub(super) const EXEMPT: [&str; 2] = ["198.51.100.7", "2001:db8:51::7"];
pub(super) const BEHIND: [&str; 2] = ["192.0.2.7", "2001:db8:2::7"];
pub(super) const GROUP: [&str; 2] = ["239.7.7.7", "ff05::77"];
/// In the config; of both families in one list.
pub(super) const UNMASQUERADED: [&str; 2] = ["198.51.100.0/24", "2001:db8:51::/48"];

pub(super) fn of(pair: [&str; 2], family: Family) -> IpAddr {
    pair[usize::from(family == Family::V6)].parse().unwrap()
}

/// Two hosts of the network and a machine outside.
pub(super) struct Site {
    pub(super) lab: Lab,
    /// The iptables that they have; none: their rules are in nftables.
    pub(super) iptables: Option<Variant>,
}

impl Site {
    pub(super) fn new(name: &str, iptables: Option<Variant>) -> Self {
        let mode = iptables.map_or(Mode::Nftables, |_| Mode::Iptables);
        let more = format!(r#","NonMasqueradeCIDRs":{UNMASQUERADED:?}"#);
        let site = Self {
            lab: network(name, 3, Families::Both, mode, &more),
            iptables,
        };
        let (first, second, outside) = (site.lab.host(0), site.lab.host(1), site.lab.host(2));
        for host in [first, second] {
            host.feed(&["nft", "-f", "-"], MARKER).unwrap();
            host.exec(&["sh", "-euc", BRIDGED_TOO]).unwrap();
        }
        for family in [Family::V4, Family::V6] {
            let network = if family == Family::V4 { V4 } else { V6 };
            let route = |host: &Host, to: &str, via: &Host, rest: &[&str]| {
                let via = address(via, family).to_string();
                let to = to.parse().unwrap();
                host.replace_route(to, &[&["via", &via], rest].concat()).unwrap();
            };
            let own = |host: &Host, address: IpAddr| {
                let net = IpNet::from(address).to_string();
                host.ip(&["addr", "add", &net, "dev", "lo"]).unwrap();
            };
            let host_net = |pair| IpNet::from(of(pair, family)).to_string();
            own(outside, of(OUTSIDE, family));
            own(outside, of(EXEMPT, family));
            own(second, of(BEHIND, family));
            for host in [first, second] {
                route(host, &host_net(OUTSIDE), outside, &[]);
                route(host, &host_net(EXEMPT), outside, &[]);
            }
            route(first, &host_net(BEHIND), second, &[]);
            // All that the outside sends there goes by the first host.
            let source = of(OUTSIDE, family).to_string();
            for to in [network, &host_net(BEHIND)] {
                route(outside, to, first, &["src", &source]);
            }
        }
        site
    }

    /// Daemons on both hosts, with these arguments.
    pub(super) fn daemons(&self, arguments: &[&str]) -> [Daemon; 2] {
        let options = DaemonOptions::arguments(arguments.iter().copied());
        let options = match self.iptables {
            Some(variant) => variant.found(&self.lab, options),
            None => options,
        };
        [0, 1].map(|index| ready(self.lab.host(index), options.clone()))
    }

    /// Whether any rule of the hosts masquerades.
    pub(super) fn masquerades(&self) -> bool {
        let listed = |host: &Host| match self.iptables {
            Some(variant) => ["iptables-save", "ip6tables-save"]
                .map(|program| host.exec(&[&variant.program(program)]).unwrap())
                .concat(),
            None => host.exec(&["nft", "list", "ruleset"]).unwrap(),
        };
        let hosts = self.lab.hosts()[..2].iter();
        hosts
            .map(listed)
            .any(|rules| rules.to_lowercase().contains("masquerade"))
    }
}
