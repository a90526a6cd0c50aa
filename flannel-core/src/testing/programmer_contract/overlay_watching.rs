//! What [`RouteProgrammer::watch`](crate::RouteProgrammer::watch) tells of devices.

use super::overlay::{
    add_all, assert_becomes, device, dump, entry, mac, make, name, neighbour, onlink, other_name,
};
use super::steps::{Events, failures};
use super::{Disturbance, ProgrammerHarness, subnet};
use crate::{Address, Changed, Device, Family, Object, ObjectId, Op, Scope};

/// Whatever somebody else does to neighbours, forwarding entries and routes on a device is announced, in
/// its order; what ages instead of being permanent is [`Changed::Gone`], and a neighbour that is removed
/// may be, too.
pub async fn foreign_changes_on_a_device_are_announced(harness: &dyn ProgrammerHarness) {
    let _ = make(harness, Family::V4).await;
    let mut events = Events::of_overlay(harness);
    let mut expected = Vec::new();
    for family in Family::ALL {
        let (before, after) = (neighbour(family, 1, mac(1)), neighbour(family, 1, mac(2)));
        harness.disturb(Disturbance::Put(after.into())).await;
        harness.disturb(Disturbance::Delete(after.into())).await;
        harness.disturb(Disturbance::Put(before.into())).await;
        harness.disturb(Disturbance::Age(before)).await;
        harness
            .disturb(Disturbance::Delete(onlink(family, 1).into()))
            .await;
        expected.extend([
            Changed::Appeared(after.into()),
            Changed::Gone(ObjectId::Neighbour(after.id)),
            Changed::Appeared(before.into()),
            Changed::Gone(ObjectId::Neighbour(before.id)),
            Changed::Vanished(onlink(family, 1).into()),
        ]);
    }
    let (before, after) = (entry(harness, Family::V4, 1, 1), entry(harness, Family::V4, 1, 2));
    harness.disturb(Disturbance::Put(after.into())).await;
    harness.disturb(Disturbance::Delete(after.into())).await;
    harness.disturb(Disturbance::Put(before.into())).await;
    expected.extend([
        Changed::Appeared(after.into()),
        Changed::Vanished(after.into()),
        Changed::Appeared(before.into()),
    ]);
    let mut seen = events.objects_until_fence(harness).await;
    for event in &mut seen {
        if let Changed::Vanished(Object::Neighbour(neighbour)) = event {
            *event = Changed::Gone(ObjectId::Neighbour(neighbour.id));
        }
    }
    assert_eq!(seen, expected);
}

/// That a device in scope is made, changed or removed, or an address of it is, is [`Changed::Device`].
pub async fn a_device_is_announced_whatever_happens_to_it(harness: &dyn ProgrammerHarness) {
    let plain = device(harness, Family::V4);
    let mut events = Events::of_overlay(harness);
    add_all(harness, &[plain.clone().into()]).await;
    events.until_device().await;
    let changes = [
        Device {
            mtu: 1300,
            ..plain.clone()
        },
        Device {
            mac: mac(9),
            mtu: 1300,
            ..plain.clone()
        },
        Device {
            up: false,
            mac: mac(9),
            mtu: 1300,
            ..plain.clone()
        },
        plain.clone(),
    ];
    for change in changes {
        // What was announced late of the change before.
        events.until_fence(harness, Family::V4).await;
        harness.disturb(Disturbance::Change(change)).await;
        events.until_device().await;
    }
    for family in Family::ALL {
        let address: Object = Address::permanent(name(), subnet(family, 9)).into();
        events.until_fence(harness, Family::V4).await;
        harness.disturb(Disturbance::Put(address.clone())).await;
        events.until_device().await;
        events.until_fence(harness, Family::V4).await;
        harness.disturb(Disturbance::Delete(address)).await;
        events.until_device().await;
    }
    events.until_fence(harness, Family::V4).await;
    harness.disturb(Disturbance::Delete(plain.into())).await;
    events.until_device().await;
    assert_becomes(harness, &[]).await;
}

/// A device that nobody asked about is a fact about the host at most.
pub async fn a_device_that_is_not_in_scope_is_not_announced(harness: &dyn ProgrammerHarness) {
    let elsewhere = Scope {
        devices: vec![other_name()],
        ..super::overlay::scope()
    };
    let mut events = Events::in_scope(harness, &elsewhere);
    let mut all = make(harness, Family::V4).await;
    all.retain(|object| !matches!(object, Object::Route(_)));
    let mut seen = events.objects_until_fence(harness).await;
    seen.retain(|event| !matches!(event, Changed::Appeared(Object::Route(_))));
    assert_eq!(seen, []);
    let there = dump(harness).await.remove(0);
    assert_eq!(failures(harness, &[Op::Remove(there)]).await, []);
    let mut seen = events.until_fence(harness, Family::V4).await;
    seen.retain(|event| !matches!(event, Changed::Vanished(Object::Route(_))));
    assert_eq!(seen, []);
}

/// A VXLAN device goes with its uplink, and that is announced. The harness is of no use afterwards.
pub async fn a_device_goes_with_its_uplink(harness: &dyn ProgrammerHarness) {
    let _ = make(harness, Family::V4).await;
    let mut events = Events::of_overlay(harness);
    harness.disturb(Disturbance::DeleteUplink).await;
    events.until_device().await;
    assert_becomes(harness, &[]).await;
}
