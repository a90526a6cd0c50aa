use flannel_core::testing::programmer_contract;

use crate::namespace::{Bench, on_a_thread};

#[test]
fn netlink_keeps_the_contract_of_route_programmers() {
    on_a_thread(async || programmer_contract::all(async || Bench::fresh()).await);
}
