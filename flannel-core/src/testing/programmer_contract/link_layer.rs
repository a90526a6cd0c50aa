//! What [`RouteProgrammer`](crate::RouteProgrammer) does with addresses, neighbours and forwarding entries.

use super::overlay::{add_all, assert_is, device, dump, entry, mac, make, name, neighbour, own};
use super::steps::failures;
use super::{Disturbance, ProgrammerHarness, subnet};
use crate::{Address, Family, Forwarding, MacAddress, Object, Op, OpErrorKind};

/// `Add` of a neighbour or of a forwarding entry puts it in the place of the one that is there, and so
/// does `Replace`, whatever stands there and though nothing does.
pub async fn neighbours_and_entries_take_the_place_of_what_is_there(harness: &dyn ProgrammerHarness) {
    for under in Family::ALL {
        let mut all = make(harness, under).await;
        for family in Family::ALL {
            put_both_ways(
                harness,
                &mut all,
                [2, 3].map(|n| neighbour(family, 1, mac(n)).into()),
            )
            .await;
            let new = neighbour(family, 5, mac(5)).into();
            replace(harness, &new, &new).await;
            all.push(new);
        }
        put_both_ways(
            harness,
            &mut all,
            [2, 3].map(|host| entry(harness, under, 1, host).into()),
        )
        .await;
        let new = entry(harness, under, 5, 5).into();
        replace(harness, &new, &new).await;
        all.push(new);
        assert_is(harness, &all).await;
        let device = dump(harness).await.remove(0);
        assert_eq!(failures(harness, &[Op::Remove(device)]).await, []);
    }
}

/// Adds the first, and replaces it by the second.
async fn put_both_ways(harness: &dyn ProgrammerHarness, all: &mut [Object], [first, second]: [Object; 2]) {
    add_all(harness, std::slice::from_ref(&first)).await;
    exchange(all, &first);
    assert_is(harness, all).await;
    replace(harness, &first, &second).await;
    exchange(all, &second);
    assert_is(harness, all).await;
}

fn exchange(all: &mut [Object], new: &Object) {
    let old = all.iter_mut().find(|object| object.id() == new.id());
    old.expect("one in its place").clone_from(new);
}

async fn replace(harness: &dyn ProgrammerHarness, from: &Object, to: &Object) {
    let (from, to) = (from.clone(), to.clone());
    assert_eq!(failures(harness, &[Op::Replace { from, to }]).await, []);
}

/// `Remove` of a neighbour or an entry that is another by now, or none, is [`OpErrorKind::Gone`], and
/// leaves alone what is there.
pub async fn what_differs_on_a_device_is_not_removed(harness: &dyn ProgrammerHarness) {
    let all = make(harness, Family::V4).await;
    let others: Vec<Object> = vec![
        neighbour(Family::V4, 1, mac(2)).into(),
        neighbour(Family::V6, 1, mac(2)).into(),
        neighbour(Family::V4, 7, mac(1)).into(),
        entry(harness, Family::V4, 1, 2).into(),
        entry(harness, Family::V4, 7, 7).into(),
        Address::permanent(name(), subnet(Family::V4, 7)).into(),
        Address::permanent(name(), subnet(Family::V6, 7)).into(),
    ];
    let plan: Vec<Op> = others.into_iter().map(Op::Remove).collect();
    let gone: Vec<_> = (0..plan.len()).map(|at| (at, OpErrorKind::Gone)).collect();
    assert_eq!(failures(harness, &plan).await, gone);
    assert_is(harness, &all).await;
}

/// `Remove` takes one object, and leaves what else is on the device.
pub async fn what_is_on_a_device_is_removed_one_by_one(harness: &dyn ProgrammerHarness) {
    let mut all = make(harness, Family::V4).await;
    // The last IPv4 address takes IPv4 neighbours and routes along: it goes when they are gone.
    while all.len() > 1 {
        let last = all.remove(all.len() - 1);
        assert_eq!(failures(harness, &[Op::Remove(last)]).await, []);
        assert_is(harness, &all).await;
    }
}

/// Addresses that somebody else gave the device are dumped as they are, those that will not last, too,
/// and stay when ours go. One that does not last is made permanent in place.
pub async fn foreign_addresses_are_dumped_as_they_are(harness: &dyn ProgrammerHarness) {
    add_all(harness, &[device(harness, Family::V4).into()]).await;
    let mut all: Vec<Object> = vec![device(harness, Family::V4).into()];
    for family in Family::ALL {
        let passing = Address {
            permanent: false,
            ..Address::permanent(name(), subnet(family, 9))
        };
        harness.disturb(Disturbance::Put(passing.into())).await;
        add_all(harness, &[own(family).into()]).await;
        all.extend([passing.into(), own(family).into()]);
    }
    assert_is(harness, &all).await;
    for family in Family::ALL {
        assert_eq!(failures(harness, &[Op::Remove(own(family).into())]).await, []);
        all.retain(|object| *object != own(family).into());
        let lasting: Object = Address::permanent(name(), subnet(family, 9)).into();
        let there = all.iter().find(|object| object.id() == lasting.id()).cloned();
        replace(harness, &there.expect("the other one"), &lasting).await;
        exchange(&mut all, &lasting);
        assert_is(harness, &all).await;
    }
}

/// Only permanent neighbours are objects. One that ages is none, and is made permanent by `Add`.
pub async fn a_neighbour_that_ages_is_not_dumped(harness: &dyn ProgrammerHarness) {
    let all = make(harness, Family::V4).await;
    for family in Family::ALL {
        let aged = neighbour(family, 1, mac(1));
        harness.disturb(Disturbance::Age(aged)).await;
        let mut rest = all.clone();
        rest.retain(|object| *object != aged.into());
        assert_is(harness, &rest).await;
        add_all(harness, &[aged.into()]).await;
        assert_is(harness, &all).await;
    }
}

/// The address of all zeros can have several entries, which are told apart and removed one by one.
pub async fn entries_for_one_address_are_told_apart(harness: &dyn ProgrammerHarness) {
    let device: Object = device(harness, Family::V4).into();
    add_all(harness, std::slice::from_ref(&device)).await;
    let mut several = [1, 2].map(|host| Forwarding {
        id: crate::ForwardingId {
            mac: MacAddress([0; 6]),
            ..entry(harness, Family::V4, 1, host).id
        },
        ..entry(harness, Family::V4, 1, host)
    });
    for (position, entry) in (0..).zip(&mut several) {
        entry.id.position = position;
        harness.disturb(Disturbance::Put((*entry).into())).await;
    }
    let there = dump(harness).await;
    let hosts = |objects: &[Object]| {
        let hosts = objects.iter().filter_map(|object| match object {
            Object::Forwarding(entry) => entry.host,
            _ => None,
        });
        let mut hosts: Vec<_> = hosts.collect();
        hosts.sort_unstable();
        hosts
    };
    assert_eq!(there.len(), 3, "{there:?}");
    assert_eq!(hosts(&there), several.map(|entry| entry.host.expect("a host")));
    for left in [1, 0] {
        let last = dump(harness).await.pop().expect("an entry");
        assert_eq!(failures(harness, &[Op::Remove(last)]).await, []);
        assert_eq!(hosts(&dump(harness).await).len(), left);
    }
}
