use flannel_core::testing::programmer_contract as c;
use crate::namespace::{Bench, on_a_thread};
macro_rules! probe { ($($name:ident),* $(,)?) => { $( #[test] fn $name() { on_a_thread(async || c::$name(&Bench::fresh()).await); } )* } }
probe!(a_device_and_what_is_on_it_are_dumped_as_asked,
    a_device_is_not_made_where_there_is_one,
    an_identifier_that_is_taken_is_refused,
    without_a_device_nothing_can_be_made,
    what_can_be_changed_in_place_is,
    what_cannot_be_changed_in_place_makes_the_device_anew,
    replace_makes_a_device_that_has_gone,
    a_removed_device_takes_along_what_is_on_it,
    a_device_that_is_down_loses_its_neighbours_and_routes,
    a_peer_that_cannot_be_made_stops_no_other,
    five_hundred_peers_in_one_plan_all_arrive,
    neighbours_and_entries_take_the_place_of_what_is_there,
    what_differs_on_a_device_is_not_removed,
    what_is_on_a_device_is_removed_one_by_one,
    foreign_addresses_are_dumped_as_they_are,
    a_neighbour_that_ages_is_not_dumped,
    entries_for_one_address_are_told_apart,
    foreign_changes_on_a_device_are_announced,
    a_device_is_announced_whatever_happens_to_it,
    a_device_that_is_not_in_scope_is_not_announced,
    a_device_goes_with_its_uplink);
