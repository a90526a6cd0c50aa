//! What every [`RouteProgrammer`] keeps to, as a suite that runs against any of them.
//!
//! Whoever writes a programmer, or a double of one, implements [`ProgrammerHarness`] and runs [`all`]:
//!
//! ```ignore
//! #[tokio::test]
//! async fn my_programmer_keeps_the_contract() {
//!     programmer_contract::all(async || MyHarness::fresh().await).await;
//! }
//! ```

mod changing;
mod devices;
mod link_layer;
mod overlay;
mod overlay_watching;
mod reading;
mod steps;
mod watching;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub use self::changing::*;
pub use self::devices::*;
pub use self::link_layer::*;
pub use self::overlay_watching::*;
pub use self::reading::*;
pub use self::watching::*;
use crate::{Device, DeviceName, Family, Neighbour, Object, Route, RouteProgrammer};

/// A kernel, real or not, that nobody else uses: no route in [`network`] but those of the suite, and
/// no default route.
#[async_trait]
pub trait ProgrammerHarness: Send + Sync {
    /// The programmer that is looked at; the same one each time.
    fn programmer(&self) -> Arc<dyn RouteProgrammer>;

    /// A device that is up and has on-link networks of both families.
    fn uplink(&self) -> DeviceName;

    /// The `n`th of at least 200 hosts on the uplink's link.
    fn gateway(&self, family: Family, n: u8) -> IpAddr;

    /// Makes a change that is not the programmer's, and returns once it is made.
    async fn foreign(&self, change: Foreign);

    /// Makes a change to a device or to what is on it that is not the programmer's, and returns once it
    /// is made.
    async fn disturb(&self, disturbance: Disturbance) {
        panic!("this harness does not make {disturbance:?}");
    }
}

/// What somebody else does to devices, and to what is on them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disturbance {
    /// Makes a device of this name that is no VXLAN device, `ip link add ... type veth`.
    MakeOtherKind(DeviceName),
    /// Gives a VXLAN device another MAC address and MTU, and takes it up or down (`ip link set`).
    Change(Device),
    /// Makes an address, a neighbour, a forwarding entry, or puts it in the place of what is there
    /// (`ip address replace`, `ip neigh replace`, `bridge fdb replace`). An address that is not permanent
    /// gets a lifetime of an hour. A forwarding entry with a position comes behind those that are there
    /// (`bridge fdb append`).
    Put(Object),
    /// Removes a device, an address, a neighbour, a forwarding entry or a route.
    Delete(Object),
    /// Has a neighbour age (`ip neigh replace ... nud stale`).
    Age(Neighbour),
    /// Removes the uplink, `ip link del`.
    DeleteUplink,
}

/// What somebody else does to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Foreign {
    /// Makes a route where there is none (`ip route add`). One that is [decorated](Route::decorated)
    /// gets an MTU.
    Add(Route),
    /// Puts a route behind those in its place (`ip route append`).
    Append(Route),
    /// Removes a route (`ip route del`).
    Remove(Route),
    /// Puts a route in the place of the one that forwards (`ip route replace`).
    Replace(Route),
    /// Takes the uplink down, and its routes with it.
    LinkDown,
    /// Takes the uplink up again, with the addresses that it had; its routes stay away.
    LinkUp,
}

/// Runs every clause, each against a harness of its own.
///
/// # Panics
///
/// When a clause is broken.
pub async fn all<H: ProgrammerHarness>(make: impl AsyncFn() -> H) {
    an_added_route_is_dumped_exactly_as_asked(&make().await).await;
    add_neither_replaces_nor_doubles(&make().await).await;
    replace_changes_a_route_in_one_step(&make().await).await;
    replace_makes_a_route_that_has_gone(&make().await).await;
    remove_takes_exactly_the_route_that_it_names(&make().await).await;
    remove_leaves_a_route_that_differs_alone(&make().await).await;
    a_failure_names_the_operation_and_stops_no_other(&make().await).await;
    a_failure_says_what_it_means(&make().await).await;
    operations_are_made_in_their_order(&make().await).await;
    an_empty_plan_changes_nothing(&make().await).await;
    a_thousand_routes_in_one_plan_all_arrive(&make().await).await;
    routes_outside_the_scope_are_neither_dumped_nor_announced(&make().await).await;
    foreign_routes_are_dumped_as_they_are(&make().await).await;
    stacked_routes_are_told_apart(&make().await).await;
    several_hops_are_not_taken_for_one(&make().await).await;
    foreign_changes_are_announced(&make().await).await;
    every_watch_is_told(&make().await).await;
    a_link_that_goes_down_is_announced_and_its_routes_are_gone(&make().await).await;
    overlay(make).await;
}

/// Runs those of the clauses that are about devices and what is on them.
///
/// # Panics
///
/// When one is broken.
pub async fn overlay<H: ProgrammerHarness>(make: impl AsyncFn() -> H) {
    a_device_and_what_is_on_it_are_dumped_as_asked(&make().await).await;
    a_device_is_not_made_where_there_is_one(&make().await).await;
    an_identifier_that_is_taken_is_refused(&make().await).await;
    without_a_device_nothing_can_be_made(&make().await).await;
    what_can_be_changed_in_place_is(&make().await).await;
    what_cannot_be_changed_in_place_makes_the_device_anew(&make().await).await;
    a_device_that_cannot_be_made_anew_stays(&make().await).await;
    replace_makes_a_device_that_has_gone(&make().await).await;
    a_removed_device_takes_along_what_is_on_it(&make().await).await;
    a_device_that_is_down_loses_its_neighbours_and_routes(&make().await).await;
    a_peer_that_cannot_be_made_stops_no_other(&make().await).await;
    five_hundred_peers_in_one_plan_all_arrive(&make().await).await;
    neighbours_and_entries_take_the_place_of_what_is_there(&make().await).await;
    what_differs_on_a_device_is_not_removed(&make().await).await;
    what_is_on_a_device_is_removed_one_by_one(&make().await).await;
    foreign_addresses_are_dumped_as_they_are(&make().await).await;
    a_neighbour_that_ages_is_not_dumped(&make().await).await;
    entries_for_one_address_are_told_apart(&make().await).await;
    foreign_changes_on_a_device_are_announced(&make().await).await;
    a_device_is_announced_whatever_happens_to_it(&make().await).await;
    a_device_that_is_not_in_scope_is_not_announced(&make().await).await;
    a_device_goes_with_its_uplink(&make().await).await;
}

/// The network that the suite works in.
#[must_use]
pub fn network(family: Family) -> IpNet {
    supernet(family, 5)
}

/// The `n`th of 1024 subnets of [`network`].
///
/// # Panics
///
/// When `n` is 1024 or more.
#[must_use]
pub fn subnet(family: Family, n: u16) -> IpNet {
    assert!(n < 1024, "there is no subnet {n}");
    let [high, low] = (n << 6).to_be_bytes();
    match family {
        Family::V4 => v4(Ipv4Addr::new(10, 5, high, low), 26),
        Family::V6 => v6(Ipv6Addr::new(0xfd10, 5, 0, n, 0, 0, 0, 0), 64),
    }
}

fn supernet(family: Family, n: u8) -> IpNet {
    match family {
        Family::V4 => v4(Ipv4Addr::new(10, n, 0, 0), 16),
        Family::V6 => v6(Ipv6Addr::new(0xfd10, n.into(), 0, 0, 0, 0, 0, 0), 48),
    }
}

fn v4(address: Ipv4Addr, len: u8) -> IpNet {
    Ipv4Net::new(address, len).expect("a prefix length").into()
}

fn v6(address: Ipv6Addr, len: u8) -> IpNet {
    Ipv6Net::new(address, len).expect("a prefix length").into()
}
