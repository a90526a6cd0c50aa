//! Hosts of flannel become hosts of ours, one after the other, and go back; and what is found under the name of our
//! device is put right, or left alone.

mod flannel;
mod found;

use lab::{BOOT, Host, KernelEvent, Pod, RouteLine, Wire};

use crate::network::{BOTH, Network, PROTOCOL};
use crate::pings::{Pings, assert_all_reached};
use crate::restart::{device, terminate};
use flannel::{End, Flannel, Release, departed};

/// Of the pings from one pod to another, all in all.
const MAY_BE_LOST: u64 = 1;

/// Hosts of flannel with pods on them.
struct Fleet {
    network: Network,
    release: Release,
    pods: Vec<Pod>,
}

impl Fleet {
    /// So many hosts, each with entries for the others and for one that has left.
    fn new(name: &str, hosts: usize, release: Release) -> Self {
        let network = Network::new(name, [Wire::hosts(hosts)], release.families(), "");
        let mut fleet = Self {
            network,
            release,
            pods: Vec::new(),
        };
        for index in 0..hosts {
            fleet.flannel(index).install(&fleet.network.lab);
        }
        for index in 0..hosts {
            let gone = release.families().each().map(departed);
            let known: Vec<End> = fleet.others(index).into_iter().chain(gone).collect();
            fleet.flannel(index).programs(&known);
        }
        fleet.pods = fleet.network.pods();
        fleet
    }

    fn host(&self, index: usize) -> &Host {
        self.network.lab.host(index)
    }

    fn indices(&self) -> std::ops::Range<usize> {
        0..self.network.lab.hosts().len()
    }

    fn flannel(&self, index: usize) -> Flannel<'_> {
        Flannel {
            host: self.host(index),
            number: 101 + u8::try_from(index).unwrap(),
            release: self.release,
        }
    }

    /// What the other hosts' leases say.
    fn others(&self, index: usize) -> Vec<End> {
        let others = self.indices().filter(|other| *other != index);
        others.flat_map(|other| self.flannel(other).ends()).collect()
    }

    /// The routes of a host that lead to subnets over flannel's devices.
    fn routes(&self, index: usize) -> Vec<RouteLine> {
        let families = self.release.families().each();
        let mut routes: Vec<RouteLine> = families
            .flat_map(|family| self.host(index).routes(family).unwrap())
            .collect();
        // Others are the kernel's.
        routes.retain(|route| {
            let over_ours = route
                .device
                .as_deref()
                .is_some_and(|name| name.starts_with("flannel"));
            over_ours && [PROTOCOL, BOOT].contains(&route.protocol)
        });
        routes
    }

    /// Fails unless there is exactly one route to each other host's subnet, with this protocol.
    #[track_caller]
    fn assert_routes(&self, index: usize, protocol: u8) {
        let routes = self.routes(index);
        assert!(
            routes.iter().all(|route| route.protocol == protocol),
            "{routes:#?}"
        );
        let mut to: Vec<_> = routes.iter().map(|route| route.destination).collect();
        let mut ought: Vec<_> = self.others(index).iter().map(|end| end.subnet).collect();
        to.sort_unstable();
        ought.sort_unstable();
        assert_eq!(to, ought);
    }
}

/// Whether an event is about the entries of the host that has left.
fn of_departed(event: &KernelEvent) -> bool {
    BOTH.into_iter().map(departed).any(|end| {
        let of = [end.subnet.addr().to_string(), end.mac, end.public.to_string()];
        of.iter().any(|part| event.line.contains(part))
    })
}

fn taken_over(name: &str, hosts: usize, release: Release) {
    let mut fleet = Fleet::new(name, hosts, release);
    let links = |fleet: &Fleet| -> Vec<_> {
        let found = fleet.indices().flat_map(|index| {
            let families = release.families().each();
            families.map(move |family| (index, device(family)))
        });
        found
            .map(|(index, device)| fleet.host(index).link(device).unwrap().unwrap())
            .collect()
    };
    let keys = |fleet: &Fleet| -> Vec<String> {
        let leases = fleet.network.lab.leases().unwrap().into_iter();
        leases.map(|lease| lease.key).collect()
    };
    let before = (links(&fleet), keys(&fleet));
    let monitors: Vec<_> = fleet
        .indices()
        .map(|index| fleet.host(index).monitor_kernel().unwrap())
        .collect();
    let pings = Pings::around(&fleet.pods);
    for index in fleet.indices() {
        fleet.network.start(index, &[]);
        fleet.assert_routes(index, PROTOCOL);
    }
    assert_all_reached(&fleet.pods);
    pings.assert_lost_at_most(MAY_BE_LOST);
    assert_eq!(
        (links(&fleet), keys(&fleet)),
        before,
        "devices and subnets are kept"
    );
    for monitor in monitors {
        let events = monitor.stop().unwrap();
        let (of_departed, others): (Vec<_>, Vec<_>) = events
            .iter()
            .filter(|event| event.deleted && event.line.contains("flannel"))
            .partition(|event| of_departed(event));
        assert!(others.is_empty(), "{others:#?}");
        // A route, a neighbour and an FDB entry.
        assert_eq!(
            of_departed.len(),
            3 * release.families().each().count(),
            "{events:#?}"
        );
    }
    fleet.network.check();
}

#[test]
fn hosts_of_flannel_are_taken_over_one_by_one_with_at_most_one_ping_lost() {
    taken_over("go", 3, Release::V0_28);
}

#[test]
fn hosts_of_flannel_v0_11_are_taken_over_one_by_one_with_at_most_one_ping_lost() {
    taken_over("goold", 2, Release::V0_11);
}

#[test]
fn flannel_takes_over_what_we_leave_and_we_what_it_leaves_then() {
    let release = Release::V0_28;
    let mut fleet = Fleet::new("goback", 2, release);
    for index in fleet.indices() {
        fleet.network.start(index, &[]);
    }
    let pings = Pings::around(&fleet.pods);
    for index in fleet.indices() {
        terminate(fleet.network.daemon(index));
        let flannel = fleet.flannel(index);
        for family in flannel.families() {
            assert_eq!(flannel.finds_incompatible(family), [""; 0]);
        }
        flannel.put_lease(&fleet.network.lab);
        flannel.programs(&fleet.others(index));
        fleet.assert_routes(index, BOOT);
    }
    for index in fleet.indices() {
        fleet.network.start(index, &[]);
        fleet.assert_routes(index, PROTOCOL);
    }
    assert_all_reached(&fleet.pods);
    pings.assert_lost_at_most(MAY_BE_LOST);
    fleet.network.check();
}

#[test]
fn a_host_that_reboots_from_flannel_into_ours_keeps_the_mac_addresses_that_its_lease_says() {
    let mut fleet = Fleet::new("goreboot", 2, Release::V0_28);
    let before: Vec<String> = fleet.flannel(0).ends().into_iter().map(|end| end.mac).collect();
    for family in fleet.release.families().each() {
        fleet.host(0).ip(&["link", "del", device(family)]).unwrap();
    }
    for index in fleet.indices() {
        fleet.network.start(index, &[]);
    }
    let after: Vec<String> = fleet.flannel(0).ends().into_iter().map(|end| end.mac).collect();
    assert_eq!(after, before);
    assert_all_reached(&fleet.pods);
    fleet.network.check();
}
