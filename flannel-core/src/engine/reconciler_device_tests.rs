//! A reconciler with a device, and what is on it.

use super::*;
use crate::{Address, Device, DeviceKind, Forwarding, Hop, MacAddress, Neighbour, NeighbourId, Route, Vxlan};

const DEVICE: &str = "flannel.1";

fn name() -> DeviceName {
    DEVICE.parse().unwrap()
}

fn mac(n: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, n])
}

fn device(edit: impl FnOnce(&mut Device)) -> Object {
    let mut device = Device {
        name: name(),
        kind: DeviceKind::Vxlan(Vxlan::new(1, 8472)),
        mac: mac(0),
        mtu: 1450,
        up: true,
        accepts_advertisements: false,
        checksum_offload: None,
    };
    edit(&mut device);
    device.into()
}

fn plain() -> Object {
    device(|_| {})
}

/// As it is where its port has to change.
fn on_another_port() -> Object {
    device(|device| device.kind = DeviceKind::Vxlan(Vxlan::new(1, 4789)))
}

fn of_another_kind() -> Object {
    device(|device| device.kind = DeviceKind::Other("bridge".to_owned()))
}

fn own_address() -> Object {
    Address::permanent(name(), "10.5.0.0/32".parse().unwrap()).into()
}

/// What the peer 10.5.`n`.0/24 asks for.
fn peer(n: u8) -> [Object; 3] {
    let address = std::net::IpAddr::from([10, 5, n, 0]);
    let id = NeighbourId {
        device: name(),
        address,
    };
    let hop = Hop {
        onlink: true,
        ..Hop::via(address, name())
    };
    let net = format!("10.5.{n}.0/24").parse().unwrap();
    [
        Forwarding::to(name(), mac(n), [192, 0, 2, n].into()).into(),
        Neighbour { id, mac: mac(n) }.into(),
        Route::unicast(net, hop, OURS).into(),
    ]
}

/// Everything with these peers, in the order of creation.
fn everything(peers: &[u8]) -> Vec<Object> {
    let peers = peers.iter().flat_map(|n| peer(*n));
    let mut all: Vec<Object> = [plain(), own_address()].into_iter().chain(peers).collect();
    all.sort_by_key(Object::id);
    all
}

fn adds(objects: &[Object]) -> Plan {
    objects.iter().cloned().map(Op::Add).collect()
}

fn fixture() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.ownership.scope.devices = vec![name()];
    fixture
}

/// One that wants everything and has it.
fn settled(peers: &[u8]) -> Fixture {
    let mut fixture = fixture();
    let all = everything(peers);
    all.iter().cloned().for_each(|object| fixture.want(object));
    fixture.dump(&all);
    fixture.expect_nothing();
    fixture.now += ms(100);
    fixture
}

/// Every operation but the first fails for want of a device.
fn without_a_device(plan: &Plan, first: OpErrorKind) -> Vec<(usize, OpErrorKind)> {
    let others = (1..plan.len()).map(|at| (at, OpErrorKind::NoDevice));
    [(0, first)].into_iter().chain(others).collect()
}

fn failing(fixture: &Fixture) -> Vec<ObjectId> {
    fixture.reconciler.failing().map(|(id, _)| id).collect()
}

#[test]
fn a_device_is_made_before_what_is_on_it_and_removed_after_it() {
    let mut fixture = fixture();
    let all = everything(&[1, 2]);
    all.iter().rev().cloned().for_each(|object| fixture.want(object));
    fixture.dump(&[]);
    let plan = fixture.expect_plan();
    assert_eq!(plan, adds(&all));
    fixture.applied(&plan, &[]);
    fixture.expect_nothing();
    for object in &all {
        fixture.reconciler.set_want(object.id(), None);
    }
    let removals: Plan = all.iter().rev().cloned().map(Op::Remove).collect();
    assert_eq!(fixture.expect_plan(), removals);
}

#[test]
fn all_that_was_on_a_device_is_put_on_the_one_that_takes_its_place_without_a_look() {
    let mut fixture = fixture();
    let all = everything(&[1, 2]);
    all.iter().cloned().for_each(|object| fixture.want(object));
    let mut there = all.clone();
    there[0] = on_another_port();
    fixture.dump(&there);
    let plan = fixture.expect_plan();
    let replace = Op::Replace {
        from: on_another_port(),
        to: plain(),
    };
    assert_eq!(plan, [replace]);
    fixture.applied(&plan, &[]);
    let plan = fixture.expect_plan();
    assert_eq!(plan, adds(&all[1..]));
    fixture.applied(&plan, &[]);
    fixture.expect_nothing();
    assert!(fixture.reconciler.is_settled());
}

#[test]
fn a_device_that_is_changed_in_place_keeps_what_is_on_it() {
    let edits: [fn(&mut Device); 3] = [
        |device| device.mtu = 1300,
        |device| device.accepts_advertisements = true,
        |device| device.mac = mac(99),
    ];
    for edit in edits {
        let mut fixture = fixture();
        let all = everything(&[1, 2]);
        all.iter().cloned().for_each(|object| fixture.want(object));
        let mut there = all.clone();
        there[0] = device(edit);
        fixture.dump(&there);
        let plan = fixture.expect_plan();
        assert_eq!(plan.len(), 1);
        fixture.applied(&plan, &[]);
        fixture.expect_nothing();
        assert!(fixture.reconciler.is_settled());
    }
}

#[test]
fn a_device_that_cannot_be_made_is_one_failure_and_what_belongs_on_it_comes_with_it() {
    let mut fixture = fixture();
    let all = everything(&[1, 2, 3]);
    all.iter().cloned().for_each(|object| fixture.want(object));
    fixture.dump(&[]);
    let mut delays = Vec::new();
    for _ in 0..6 {
        let plan = fixture.expect_plan();
        assert_eq!(plan, adds(&all));
        fixture.applied(&plan, &without_a_device(&plan, OpErrorKind::Other));
        assert_eq!(failing(&fixture), [all[0].id()]);
        assert_eq!(fixture.reconciler.missing().count(), all.len());
        assert_eq!(
            fixture.reconciler.behind_since(fixture.now),
            None,
            "the device is told of, and what belongs on it follows"
        );
        let failed = fixture.now;
        while fixture.reconciler.failing[&all[0].id()].due > fixture.now {
            match fixture.next() {
                Some(Work::Dump) => fixture.dumped(&[]),
                Some(Work::Apply(plan)) => panic!("without a device: {plan:?}"),
                None => drop(fixture.sleep()),
            }
        }
        delays.push(fixture.now - failed);
    }
    assert_eq!(delays, [100, 200, 400, 800, 1600, 3200].map(ms));
    let plan = fixture.expect_plan();
    fixture.applied(&plan, &[]);
    assert_eq!(failing(&fixture), []);
    fixture.expect_nothing();
}

#[test]
fn what_fails_on_a_device_for_its_own_reasons_is_a_failure_of_its_own() {
    let mut fixture = fixture();
    let all = everything(&[1, 2]);
    all.iter().cloned().for_each(|object| fixture.want(object));
    fixture.dump(&[]);
    let plan = fixture.expect_plan();
    fixture.applied(&plan, &[(2, OpErrorKind::Other), (3, OpErrorKind::NoDevice)]);
    assert_eq!(
        failing(&fixture),
        [all[2].id(), all[3].id()],
        "the device is there"
    );
}

#[test]
fn what_could_not_be_put_on_a_device_is_tried_at_once_when_that_has_changed() {
    let mut fixture = settled(&[1, 2]);
    fixture.want(peer(3)[0].clone());
    let plan = fixture.expect_plan();
    fixture.applied(&plan, &[(0, OpErrorKind::Other)]);
    fixture.dump(&everything(&[1, 2]));
    fixture.expect_nothing();
    fixture.want(device(|device| device.mtu = 1400));
    let plan = fixture.expect_plan();
    assert_eq!(plan.len(), 1);
    fixture.applied(&plan, &[]);
    assert_eq!(fixture.expect_plan(), adds(&peer(3)[..1]));
}

#[test]
fn a_device_that_vanishes_is_looked_at_and_comes_back_with_everything_on_it() {
    let mut fixture = settled(&[1, 2]);
    for change in [
        Changed::Device(name()),
        Changed::Gone(peer(1)[1].id()),
        Changed::Vanished(peer(1)[0].clone()),
    ] {
        fixture.changed(change);
        fixture.dump(&[]);
        let plan = fixture.expect_plan();
        assert_eq!(plan, adds(&everything(&[1, 2])));
        fixture.applied(&plan, &[]);
        fixture.now += ms(100);
    }
    assert_eq!(fixture.reconciler.repairs.total(), 3 * 8);
    // What is out of scope, or was never there, is nobody's business.
    fixture.changed(Changed::Device("flannel.2".parse().unwrap()));
    fixture.changed(Changed::Gone(peer(9)[1].id()));
    fixture.expect_nothing();
}

#[test]
fn nothing_is_put_on_a_device_of_somebody_elses_under_our_name() {
    let mut fixture = fixture();
    let all = everything(&[1]);
    all.iter().cloned().for_each(|object| fixture.want(object));
    fixture.dump(&[of_another_kind()]);
    // That the device itself is tried is how it comes to be told of.
    let plan = fixture.expect_plan();
    assert_eq!(plan, adds(&all[..1]));
    fixture.applied(&plan, &[(0, OpErrorKind::Exists)]);
    for _ in 0..3 {
        fixture.sleep();
        fixture.dump(&[of_another_kind()]);
        fixture.expect_nothing();
    }
    assert_eq!(failing(&fixture), [all[0].id()]);
    fixture.now += ms(100);
    fixture.changed(Changed::Device(name()));
    fixture.dump(&[]);
    assert_eq!(fixture.expect_plan(), adds(&all));
}

/// `Fixture::next` asserts that it never asks to be woken in vain.
#[test]
fn what_failed_on_a_device_that_has_gone_since_wakes_nobody() {
    for first in [OpErrorKind::Exists, OpErrorKind::Other] {
        let there = match first {
            OpErrorKind::Exists => vec![of_another_kind()],
            _ => vec![],
        };
        let mut fixture = settled(&[1]);
        fixture.want(peer(2)[0].clone());
        let plan = fixture.expect_plan();
        fixture.applied(&plan, &[(0, OpErrorKind::Other)]);
        fixture.changed(Changed::Device(name()));
        fixture.dump(&there);
        let plan = fixture.expect_plan();
        let failed = without_a_device(&plan, first);
        fixture.applied(&plan, &failed);
        let end = fixture.now + Duration::from_secs(60);
        while fixture.now < end {
            match fixture.next() {
                Some(Work::Dump) => fixture.dumped(&there),
                Some(Work::Apply(plan)) => fixture.applied(&plan, &without_a_device(&plan, first)),
                None => drop(fixture.sleep()),
            }
        }
    }
}

#[test]
fn a_device_that_is_changed_as_often_as_it_is_put_right_is_contested_until_a_minute_after() {
    let mut fixture = settled(&[1, 2]);
    let mut there = everything(&[1, 2]);
    for _ in 0..20 {
        assert!(
            fixture.reconciler.repairs.total() >= 5 || fixture.reconciler.contested(fixture.now).is_none()
        );
        there[0] = device(|device| device.mac = mac(99));
        fixture.changed(Changed::Device(name()));
        fixture.dump(&there);
        let plan = fixture.expect_plan();
        fixture.applied(&plan, &[]);
        fixture.now += ms(100);
    }
    assert_eq!(
        fixture.reconciler.repairs.corrected, 20,
        "it is put right all the same"
    );
    let text = fixture.reconciler.contested(fixture.now).unwrap();
    assert!(
        text.starts_with("device flannel.1 was put right 5 times"),
        "{text}"
    );
    fixture.now = fixture.reconciler.calm_at().min().unwrap();
    assert_eq!(fixture.reconciler.contested(fixture.now), None);
}

/// As where its port is taken: it is made, and then cannot be set up.
#[test]
fn a_failure_that_changes_the_kernel_each_time_is_failing_throughout_and_tried_ever_less_often() {
    let mut fixture = fixture();
    fixture.want(plain());
    fixture.dump(&[]);
    let down: &[Object] = &[device(|device| device.up = false)];
    let none: &[Object] = &[];
    let (mut delays, mut last) = (Vec::new(), None);
    for turn in 0..7 {
        let (before, after) = if turn % 2 == 0 { (none, down) } else { (down, none) };
        let plan = loop {
            match fixture.next() {
                Some(Work::Dump) => fixture.dumped(before),
                Some(Work::Apply(plan)) => break plan,
                None => drop(fixture.sleep()),
            }
            assert!(
                turn == 0 || failing(&fixture) == [plain().id()],
                "nothing is mended"
            );
        };
        delays.extend(last.map(|last| fixture.now - last));
        last = Some(fixture.now);
        fixture.applied(&plan, &[(0, OpErrorKind::Other)]);
        fixture.now += ms(60);
        fixture.dump(after);
        assert_eq!(failing(&fixture), [plain().id()], "nothing is mended");
    }
    assert_eq!(delays, [60, 200, 400, 800, 1600, 3200].map(ms));
    // What somebody else does is worth a try at once.
    fixture.now += ms(60);
    fixture.changed(Changed::Device(name()));
    fixture.dump(none);
    let plan = fixture.expect_plan();
    fixture.applied(&plan, &[]);
    assert_eq!(failing(&fixture), []);
}

#[test]
fn what_fails_is_failing_until_it_was_tried_anew_whatever_makes_that_worth_it() {
    let makes: [fn(&mut Fixture); 3] = [
        |fixture| fixture.reconciler.retry_all(),
        |fixture| fixture.want(device(|device| device.mtu = 1400)),
        |fixture| {
            fixture.changed(Changed::Device(name()));
            fixture.dump(&[device(|device| device.mtu = 1300)]);
        },
    ];
    for make in makes {
        let mut fixture = fixture();
        fixture.want(plain());
        fixture.dump(&[]);
        let plan = fixture.expect_plan();
        fixture.applied(&plan, &[(0, OpErrorKind::Other)]);
        fixture.now += ms(60);
        fixture.dump(&[]);
        fixture.expect_nothing();
        fixture.now += ms(60);
        // Not yet due.
        fixture
            .reconciler
            .failing
            .values_mut()
            .for_each(|failing| failing.due += ms(60_000));
        make(&mut fixture);
        assert_eq!(failing(&fixture), [plain().id()]);
        let plan = loop {
            match fixture.next() {
                Some(Work::Dump) => fixture.dumped(&[]),
                Some(Work::Apply(plan)) => break plan,
                None => panic!("it waits"),
            }
        };
        fixture.applied(&plan, &[]);
        assert_eq!(failing(&fixture), []);
    }
}
