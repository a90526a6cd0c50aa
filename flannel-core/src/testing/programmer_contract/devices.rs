//! What [`RouteProgrammer`](crate::RouteProgrammer) does with devices.

use super::overlay::{
    add_all, all_kinds, assert_becomes, assert_is, device, dump, entry, mac, make, name, onlink, other_name,
    own, peer, scope, turn_into, with,
};
use super::steps::{apply, failures};
use super::{Disturbance, ProgrammerHarness, subnet};
use crate::{Device, DeviceKind, Family, Object, Op, OpErrorKind, Scope};

/// A VXLAN device with its addresses, neighbours, forwarding entries and routes over it is dumped as it
/// was asked for, whichever family its packets travel over.
pub async fn a_device_and_what_is_on_it_are_dumped_as_asked(harness: &dyn ProgrammerHarness) {
    for under in Family::ALL {
        let all = make(harness, under).await;
        assert_is(harness, &all).await;
        let elsewhere = Scope {
            devices: vec![other_name()],
            ..Scope::default()
        };
        let nothing = harness.programmer().dump(&elsewhere).await.unwrap();
        assert_eq!(nothing, [], "of a device that is not in scope");
        remove_device(harness).await;
        assert_becomes(harness, &[]).await;
    }
}

/// `Add` of a device whose name is taken fails with [`OpErrorKind::Exists`] and changes nothing, be that
/// one alike, another, or of another kind.
pub async fn a_device_is_not_made_where_there_is_one(harness: &dyn ProgrammerHarness) {
    let all = make(harness, Family::V4).await;
    let alike = device(harness, Family::V4);
    let other = Device {
        mtu: 1300,
        ..with(&alike, |vxlan| vxlan.vni = 4244)
    };
    let plan = [Op::Add(alike.clone().into()), Op::Add(other.into())];
    let exists = OpErrorKind::Exists;
    assert_eq!(failures(harness, &plan).await, [(0, exists), (1, exists)]);
    assert_is(harness, &all).await;

    remove_device(harness).await;
    harness.disturb(Disturbance::MakeOtherKind(name())).await;
    assert_eq!(failures(harness, &plan[..1]).await, [(0, exists)]);
    let there = dump(harness).await;
    let [Object::Device(other)] = &there[..] else {
        panic!("{there:?}");
    };
    assert!(matches!(other.kind, DeviceKind::Other(_)), "{other}");
}

/// Two devices with one identifier and one port there cannot be: the second is not made, and the error
/// names it.
pub async fn an_identifier_that_is_taken_is_refused(harness: &dyn ProgrammerHarness) {
    let first = device(harness, Family::V4);
    add_all(harness, &[first.clone().into()]).await;
    let second = Device {
        name: other_name(),
        ..first.clone()
    };
    let failed = apply(harness, &[Op::Add(second.into())]).await.failed;
    let [(0, error)] = &failed[..] else {
        panic!("{failed:?}");
    };
    assert!(error.text.contains(other_name().as_str()), "{error}");
    assert_is(harness, &[first.into()]).await;
}

/// A device over an uplink that is not there is [`OpErrorKind::NoDevice`], and so is whatever is to be
/// put on a device that is not there. The error names the object.
pub async fn without_a_device_nothing_can_be_made(harness: &dyn ProgrammerHarness) {
    let nowhere = with(&device(harness, Family::V4), |vxlan| {
        vxlan.uplink = Some("nosuchdevice".parse().expect("a device name"));
    });
    let [_, on_it @ ..] = &all_kinds(harness, Family::V4)[..] else {
        panic!("a device and what is on it");
    };
    let wanted: Vec<Object> = [nowhere.into()]
        .into_iter()
        .chain(on_it.iter().cloned())
        .collect();
    let plan: Vec<Op> = wanted.iter().cloned().map(Op::Add).collect();
    let failed = apply(harness, &plan).await.failed;
    assert_eq!(failed.len(), plan.len(), "{failed:?}");
    for ((_, error), object) in failed.iter().zip(&wanted) {
        assert_eq!(error.kind, OpErrorKind::NoDevice, "{error}");
        let named = match object {
            Object::Device(device) => device.name.to_string(),
            object => object.id().to_string(),
        };
        assert!(error.text.contains(&named), "{error} does not name {named}");
    }
    assert_is(harness, &[]).await;
}

/// The MTU, the MAC address, learning, the local address and the rest are changed in place: what is on
/// the device stays, neighbours, too, which the kernel drops with the MAC address.
pub async fn what_can_be_changed_in_place_is(harness: &dyn ProgrammerHarness) {
    for under in Family::ALL {
        let before = device(harness, under);
        let [_, kept @ ..] = &make(harness, under).await[..] else {
            panic!("a device and what is on it");
        };
        let is = async |device: &Device| {
            let all: Vec<Object> = [device.clone().into()]
                .into_iter()
                .chain(kept.iter().cloned())
                .collect();
            assert_is(harness, &all).await;
        };
        let plain = || before.clone();
        let changes = [
            Device { mtu: 1300, ..plain() },
            Device {
                mac: mac(9),
                ..plain()
            },
            Device {
                accepts_advertisements: true,
                ..plain()
            },
            Device {
                checksum_offload: Some(false),
                ..plain()
            },
            Device {
                checksum_offload: Some(true),
                ..plain()
            },
            with(&before, |vxlan| vxlan.learning = true),
            with(&before, |vxlan| vxlan.local = Some(harness.gateway(under, 7))),
            Device {
                mtu: 1350,
                mac: mac(8),
                ..with(&before, |vxlan| vxlan.local = Some(harness.gateway(under, 8)))
            },
        ];
        for wanted in changes {
            turn_into(harness, &wanted).await;
            is(&wanted).await;
            turn_into(harness, &before).await;
            is(&before).await;
        }
        remove_device(harness).await;
    }
}

/// For another identifier, port, GBP setting or address family the device is made anew, and nothing is
/// on it.
pub async fn what_cannot_be_changed_in_place_makes_the_device_anew(harness: &dyn ProgrammerHarness) {
    let before = device(harness, Family::V4);
    let changes = [
        with(&before, |vxlan| vxlan.vni = 4244),
        with(&before, |vxlan| vxlan.port = 4789),
        with(&before, |vxlan| vxlan.gbp = true),
        device(harness, Family::V6),
    ];
    for wanted in changes {
        make(harness, Family::V4).await;
        turn_into(harness, &wanted).await;
        assert_becomes(harness, &[wanted.into()]).await;
        remove_device(harness).await;
    }
}

/// A device that cannot be made anew, since another has the identifier, stays with all that is on it.
pub async fn a_device_that_cannot_be_made_anew_stays(harness: &dyn ProgrammerHarness) {
    let all = make(harness, Family::V4).await;
    let before = device(harness, Family::V4);
    let wanted = with(&before, |vxlan| vxlan.vni = 4244);
    let other = Device {
        name: other_name(),
        ..wanted.clone()
    };
    add_all(harness, &[other.into()]).await;
    let op = Op::Replace {
        from: before.into(),
        to: wanted.into(),
    };
    let failed = apply(harness, &[op]).await.failed;
    let [(0, error)] = &failed[..] else {
        panic!("{failed:?}");
    };
    assert!(error.text.contains(name().as_str()), "{error}");
    assert_is(harness, &all).await;
}

/// `Replace` of a device that somebody deleted since the dump makes it.
pub async fn replace_makes_a_device_that_has_gone(harness: &dyn ProgrammerHarness) {
    let wanted = device(harness, Family::V4);
    let from = Device {
        mtu: 1300,
        ..wanted.clone()
    };
    let op = Op::Replace {
        from: from.into(),
        to: wanted.clone().into(),
    };
    assert_eq!(failures(harness, &[op]).await, []);
    assert_is(harness, &[wanted.into()]).await;
}

/// `Remove` of a device takes along what is on it; that and the device are [`OpErrorKind::Gone`] then.
pub async fn a_removed_device_takes_along_what_is_on_it(harness: &dyn ProgrammerHarness) {
    for under in Family::ALL {
        make(harness, under).await;
        let there = dump(harness).await;
        remove_device(harness).await;
        assert_becomes(harness, &[]).await;
        let on_it = there.into_iter().rev();
        // The kernel does not tell a missing device from a missing route over it.
        let again: Vec<Op> = on_it
            .filter(|object| !matches!(object, Object::Route(_)))
            .map(Op::Remove)
            .collect();
        let gone: Vec<_> = (0..again.len()).map(|at| (at, OpErrorKind::Gone)).collect();
        assert_eq!(failures(harness, &again).await, gone, "{again:?}");
    }
}

/// A device that is down has no neighbours and no routes, takes none of the latter, and has all its
/// forwarding entries. Once it is up it takes everything again.
pub async fn a_device_that_is_down_loses_its_neighbours_and_routes(harness: &dyn ProgrammerHarness) {
    let all = make(harness, Family::V4).await;
    let down = Device {
        up: false,
        ..device(harness, Family::V4)
    };
    harness.disturb(Disturbance::Change(down.clone())).await;
    let kept: [Object; 3] = [
        down.into(),
        own(Family::V4).into(),
        entry(harness, Family::V4, 1, 1).into(),
    ];
    assert_becomes(harness, &kept).await;
    for family in Family::ALL {
        let refused = failures(harness, &[Op::Add(onlink(family, 1).into())]).await;
        assert_eq!(refused, [(0, OpErrorKind::NoDevice)]);
    }
    turn_into(harness, &device(harness, Family::V4)).await;
    let lost: Vec<Object> = all
        .iter()
        .filter(|object| !kept.iter().any(|kept| kept.id() == object.id()))
        .cloned()
        .collect();
    add_all(harness, &lost).await;
    assert_is(harness, &all).await;
}

/// A plan goes on after what failed, in the order in which it stands.
pub async fn a_peer_that_cannot_be_made_stops_no_other(harness: &dyn ProgrammerHarness) {
    let mut all = all_kinds(harness, Family::V4);
    let bad = crate::Route {
        hops: crate::Hops::One(crate::Hop::via(
            subnet(Family::V4, 2).addr(),
            "nosuchdevice".parse().expect("a device name"),
        )),
        ..onlink(Family::V4, 2)
    };
    let at = all.len();
    all.push(bad.into());
    all.extend(peer(harness, Family::V4, 3));
    let plan: Vec<Op> = all.iter().cloned().map(Op::Add).collect();
    assert_eq!(failures(harness, &plan).await, [(at, OpErrorKind::NoDevice)]);
    all.remove(at);
    assert_is(harness, &all).await;
}

/// A plan has no upper limit, whatever is in it.
pub async fn five_hundred_peers_in_one_plan_all_arrive(harness: &dyn ProgrammerHarness) {
    let mut all = all_kinds(harness, Family::V4);
    for n in 2..500 {
        all.extend(peer(harness, Family::V4, n));
    }
    all.sort_by_key(Object::id);
    add_all(harness, &all).await;
    assert_is(harness, &all).await;
    let removals: Vec<Op> = all.iter().rev().cloned().map(Op::Remove).collect();
    let [.., device] = &removals[..] else {
        panic!("a device");
    };
    assert!(matches!(device, Op::Remove(Object::Device(_))));
    let on_it = &removals[..removals.len() - 1];
    assert_eq!(failures(harness, on_it).await, []);
    assert_is(harness, &all[..1]).await;
}

async fn remove_device(harness: &dyn ProgrammerHarness) {
    let dump = harness.programmer().dump(&scope()).await.unwrap();
    let device = dump
        .into_iter()
        .find(|object| matches!(object, Object::Device(_)));
    let op = Op::Remove(device.expect("there is the device"));
    assert_eq!(failures(harness, &[op]).await, []);
}
