#[path = "reconciler_device_tests.rs"]
mod devices;

use proptest::prelude::*;

use super::*;
use crate::{Hop, PROTOCOL_BOOT, Route, Scope};

const OURS: u8 = 70;
const STATIC: u8 = 4;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The route to 10.5.`number`.0/24 via 192.0.2.`gateway`.
fn made_by(protocol: u8, number: u8, gateway: u8) -> Object {
    let hop = Hop::via([192, 0, 2, gateway].into(), "eth0".parse().unwrap());
    let net = format!("10.5.{number}.0/24").parse().unwrap();
    Route::unicast(net, hop, protocol).into()
}

fn route_of(object: Object) -> Route {
    let Object::Route(route) = object else {
        panic!("{object} is no route");
    };
    route
}

fn ours(number: u8, gateway: u8) -> Object {
    made_by(OURS, number, gateway)
}

fn id(number: u8) -> ObjectId {
    ours(number, 0).id()
}

/// Of ours, with a metric: a stray.
fn stray(number: u8) -> Object {
    let mut route = route_of(ours(number, 99));
    route.id.metric = 50;
    route.into()
}

fn error(kind: OpErrorKind) -> OpError {
    OpError {
        kind,
        text: "no".to_owned(),
    }
}

fn no_answer() -> KernelError {
    KernelError::Deadline {
        doing: "list the routes",
        deadline: ms(1000),
    }
}

/// A reconciler at some time.
struct Fixture {
    reconciler: Reconciler,
    ownership: Ownership,
    now: Instant,
}

impl Fixture {
    fn new() -> Self {
        Self {
            reconciler: Reconciler::new(OURS),
            ownership: Ownership {
                scope: Scope {
                    networks: vec!["10.5.0.0/16".parse().unwrap()],
                    ..Scope::default()
                },
                protocol: OURS,
            },
            now: Instant::now(),
        }
    }

    /// A reconciler that has seen a kernel with these routes, and some time ago.
    fn knowing(kernel: &[Object]) -> Self {
        let mut fixture = Self::new();
        fixture.dump(kernel);
        fixture.now += ms(100);
        fixture
    }

    fn want(&mut self, object: Object) {
        self.reconciler.set_want(object.id(), Some(object));
    }

    fn next(&mut self) -> Option<Work> {
        let work = self.reconciler.next(self.now);
        let wake = self.reconciler.wake();
        assert!(
            work.is_some() || wake.is_none_or(|at| at > self.now),
            "it asks to be woken in the past, and has nothing to do: {:?}",
            self.reconciler
        );
        work
    }

    /// Lets time pass until the reconciler wants to be asked, and says how long that took.
    fn sleep(&mut self) -> Duration {
        let slept = self
            .reconciler
            .wake()
            .unwrap()
            .saturating_duration_since(self.now);
        self.now += slept;
        slept
    }

    fn expect_dump(&mut self) {
        assert!(matches!(self.next(), Some(Work::Dump)), "{:?}", self.reconciler);
    }

    fn expect_plan(&mut self) -> Plan {
        match self.next() {
            Some(Work::Apply(plan)) => plan,
            other => panic!("no plan: {other:?}"),
        }
    }

    fn expect_nothing(&mut self) {
        let next = self.next();
        assert!(next.is_none(), "{next:?}");
    }

    fn dumped(&mut self, kernel: &[Object]) {
        let leased = |net| net == "10.5.7.0/24".parse().unwrap();
        let dump = Ok(kernel.to_vec());
        self.reconciler
            .dumped(dump, &self.ownership, leased, self.now, self.now);
    }

    fn dump(&mut self, kernel: &[Object]) {
        self.expect_dump();
        self.dumped(kernel);
    }

    fn applied(&mut self, plan: &Plan, failed: &[(usize, OpErrorKind)]) {
        let failed = failed.iter().map(|(place, kind)| (*place, error(*kind)));
        let applied = Applied {
            failed: failed.collect(),
        };
        self.reconciler
            .applied(plan, Ok(applied), &self.ownership, self.now);
    }

    fn changed(&mut self, change: Changed) {
        self.reconciler.changed(change, &self.ownership);
    }

    fn unlike(&self) -> Vec<ObjectId> {
        self.reconciler.unlike.keys().copied().collect()
    }
}

#[test]
fn the_kernel_is_read_before_anything_is_changed() {
    let mut fixture = Fixture::new();
    fixture.want(ours(1, 1));
    assert!(!fixture.reconciler.is_known() && !fixture.reconciler.is_settled());
    fixture.expect_dump();
    fixture.expect_nothing();
    assert_eq!(fixture.reconciler.wake(), None, "the answer wakes it");
    let failed = Err(no_answer());
    let ownership = fixture.ownership.clone();
    fixture
        .reconciler
        .dumped(failed, &ownership, |_| false, fixture.now, fixture.now);
    fixture.expect_nothing();
    assert_eq!(fixture.sleep(), ms(100));
    fixture.dump(&[]);
    assert!(fixture.reconciler.is_known());
    assert_eq!(fixture.expect_plan(), [Op::Add(ours(1, 1))]);
}

#[test]
fn what_is_there_as_it_ought_to_be_is_not_touched() {
    let mut fixture = Fixture::new();
    fixture.want(ours(1, 1));
    fixture.dump(&[ours(1, 1)]);
    fixture.expect_nothing();
    assert!(fixture.reconciler.is_settled());
    assert_eq!(fixture.reconciler.missing().count(), 0);
}

#[test]
fn additions_and_replacements_come_in_order_before_removals_in_reverse_order() {
    let mut fixture = Fixture::new();
    for (number, gateway) in [(1, 1), (3, 9), (5, 5)] {
        fixture.want(ours(number, gateway));
    }
    fixture.dump(&[ours(2, 2), ours(3, 3), ours(4, 4), stray(5)]);
    let plan = fixture.expect_plan();
    assert_eq!(
        plan,
        [
            Op::Add(ours(1, 1)),
            Op::Replace {
                from: ours(3, 3),
                to: ours(3, 9)
            },
            Op::Add(ours(5, 5)),
            Op::Remove(stray(5)),
            Op::Remove(ours(4, 4)),
            Op::Remove(ours(2, 2)),
        ]
    );
    fixture.applied(&plan, &[]);
    assert!(fixture.reconciler.is_settled());
    fixture.expect_nothing();
}

#[test]
fn a_plan_has_at_most_1024_operations_and_removals_wait_for_all_additions() {
    let route = |number: u16| {
        let mut route = route_of(ours(0, 1));
        route.id.destination = format!("10.5.{}.{}/32", number >> 8, number & 255)
            .parse()
            .unwrap();
        Object::from(route)
    };
    let mut fixture = Fixture::knowing(&[stray(1)]);
    (0..1500).for_each(|number| fixture.want(route(number)));
    let plan = fixture.expect_plan();
    assert_eq!(plan.len(), 1024);
    assert!(plan.iter().all(|op| matches!(op, Op::Add(_))));
    fixture.applied(&plan, &[]);
    let plan = fixture.expect_plan();
    assert_eq!(plan.len(), 1500 - 1024 + 1);
    assert_eq!(plan.last(), Some(&Op::Remove(stray(1))));
    fixture.applied(&plan, &[]);
    fixture.expect_nothing();
}

#[test]
fn asking_for_what_is_asked_for_already_costs_nothing() {
    let mut fixture = Fixture::knowing(&[]);
    fixture.want(ours(1, 1));
    let plan = fixture.expect_plan();
    fixture.applied(&plan, &[(0, OpErrorKind::Unreachable)]);
    let due = fixture.reconciler.failing[&id(1)].due;
    fixture.want(ours(1, 1));
    assert_eq!(fixture.reconciler.failing[&id(1)].due, due);
}

#[test]
fn a_failed_operation_is_tried_again_from_100_ms_to_30_s_and_the_others_do_not_wait_for_it() {
    let mut fixture = Fixture::knowing(&[]);
    fixture.want(ours(1, 1));
    fixture.want(ours(2, 2));
    let plan = fixture.expect_plan();
    assert_eq!(plan.len(), 2);
    fixture.applied(&plan, &[(0, OpErrorKind::Unreachable)]);
    assert_eq!(fixture.reconciler.missing().collect::<Vec<_>>(), [id(1)]);
    let failing: Vec<_> = fixture.reconciler.failing().collect();
    assert_eq!(failing, [(id(1), &error(OpErrorKind::Unreachable))]);
    assert!(fixture.reconciler.is_settled(), "settled but for what fails");
    let mut failed = fixture.now;
    for delay in [
        100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000,
    ] {
        let plan = loop {
            match fixture.next() {
                Some(Work::Dump) => fixture.dumped(&[ours(2, 2)]),
                Some(Work::Apply(plan)) => break plan,
                None => drop(fixture.sleep()),
            }
        };
        assert_eq!(plan, [Op::Add(ours(1, 1))]);
        assert_eq!(fixture.now - failed, ms(delay));
        failed = fixture.now;
        fixture.applied(&plan, &[(0, OpErrorKind::Unreachable)]);
    }
    // A new peer is not held up by it.
    fixture.want(ours(3, 3));
    let plan = loop {
        match fixture.next() {
            Some(Work::Dump) => fixture.dumped(&[ours(2, 2)]),
            Some(Work::Apply(plan)) => break plan,
            None => panic!("it waits"),
        }
    };
    assert_eq!(plan, [Op::Add(ours(3, 3))]);
}

#[test]
fn an_operation_that_succeeds_after_failures_starts_its_next_backoff_anew() {
    let mut fixture = Fixture::knowing(&[]);
    fixture.want(ours(1, 1));
    let plan = fixture.expect_plan();
    fixture.applied(&plan, &[(0, OpErrorKind::Other)]);
    fixture.dump(&[]);
    fixture.sleep();
    let plan = fixture.expect_plan();
    fixture.applied(&plan, &[]);
    assert_eq!(fixture.reconciler.failing().count(), 0);
    fixture.want(ours(1, 2));
    let plan = fixture.expect_plan();
    fixture.applied(&plan, &[(0, OpErrorKind::Other)]);
    assert_eq!(fixture.reconciler.failing[&id(1)].due, fixture.now + ms(100));
}

#[test]
fn what_is_wanted_otherwise_is_tried_at_once_though_it_failed_before() {
    let mut fixture = Fixture::knowing(&[]);
    fixture.want(ours(1, 1));
    let plan = fixture.expect_plan();
    fixture.applied(&plan, &[(0, OpErrorKind::Unreachable)]);
    fixture.dump(&[]);
    fixture.expect_nothing();
    fixture.want(ours(1, 2));
    assert_eq!(fixture.expect_plan(), [Op::Add(ours(1, 2))]);
}

#[test]
fn new_facts_about_the_host_have_everything_tried_again_after_a_look() {
    let mut fixture = Fixture::knowing(&[]);
    fixture.want(ours(1, 1));
    let plan = fixture.expect_plan();
    fixture.applied(&plan, &[(0, OpErrorKind::Unreachable)]);
    fixture.dump(&[]);
    fixture.expect_nothing();
    fixture.now += ms(60);
    fixture.reconciler.retry_all();
    fixture.dump(&[]);
    assert_eq!(fixture.expect_plan(), [Op::Add(ours(1, 1))]);
}

#[test]
fn a_failure_is_followed_by_a_look_at_the_kernel() {
    let mut fixture = Fixture::knowing(&[]);
    fixture.want(ours(1, 1));
    let plan = fixture.expect_plan();
    fixture.applied(&plan, &[(0, OpErrorKind::Other)]);
    fixture.expect_dump();
}

#[test]
fn a_route_of_ours_that_the_dump_missed_is_replaced_at_once_when_the_addition_meets_it() {
    let mut fixture = Fixture::knowing(&[]);
    fixture.want(ours(1, 1));
    let plan = fixture.expect_plan();
    fixture.applied(&plan, &[(0, OpErrorKind::Exists)]);
    fixture.dump(&[ours(1, 9)]);
    let replace = Op::Replace {
        from: ours(1, 9),
        to: ours(1, 1),
    };
    assert_eq!(fixture.expect_plan(), [replace]);
}

#[test]
fn a_route_of_flannels_where_a_peer_has_come_is_replaced_at_once_when_the_addition_meets_it() {
    let flannels = made_by(PROTOCOL_BOOT, 7, 9);
    let mut fixture = Fixture::knowing(&[]);
    fixture.want(ours(7, 1));
    let plan = fixture.expect_plan();
    fixture.applied(&plan, &[(0, OpErrorKind::Exists)]);
    fixture.dump(std::slice::from_ref(&flannels));
    let replace = Op::Replace {
        from: flannels,
        to: ours(7, 1),
    };
    assert_eq!(fixture.expect_plan(), [replace]);
}

#[test]
fn a_route_of_the_operators_in_our_place_stays_and_ours_comes_as_soon_as_it_is_gone() {
    let theirs = made_by(STATIC, 1, 9);
    let mut fixture = Fixture::new();
    fixture.want(ours(1, 1));
    fixture.dump(std::slice::from_ref(&theirs));
    assert_eq!(fixture.reconciler.foreign(), std::slice::from_ref(&theirs));
    let plan = fixture.expect_plan();
    assert_eq!(plan, [Op::Add(ours(1, 1))], "an addition never replaces");
    fixture.applied(&plan, &[(0, OpErrorKind::Exists)]);
    fixture.sleep();
    for _ in 0..10 {
        // Nothing but the usual looks: trying again is of no use.
        fixture.dump(std::slice::from_ref(&theirs));
        fixture.expect_nothing();
        assert_eq!(fixture.sleep(), Duration::from_secs(10));
    }
    assert_eq!(fixture.reconciler.failing().count(), 1);
    fixture.dump(std::slice::from_ref(&theirs));
    fixture.now += ms(60);
    fixture.changed(Changed::Vanished(theirs));
    fixture.dump(&[]);
    assert_eq!(fixture.expect_plan(), [Op::Add(ours(1, 1))]);
}

#[test]
fn a_route_of_the_operators_that_waits_behind_ours_is_in_nobodys_way() {
    let mut behind = route_of(made_by(STATIC, 1, 8));
    behind.id.position = 1;
    let kernel = [ours(1, 9), behind.into()];
    let mut fixture = Fixture::new();
    fixture.want(ours(1, 1));
    fixture.dump(&kernel);
    let plan = fixture.expect_plan();
    fixture.applied(&plan, &[(0, OpErrorKind::Unreachable)]);
    fixture.sleep();
    fixture.dump(&kernel);
    fixture.sleep();
    assert_eq!(fixture.expect_plan(), plan);
}

#[test]
fn ours_does_not_wait_for_its_backoff_when_the_operators_route_goes() {
    let theirs = made_by(STATIC, 1, 9);
    let mut fixture = Fixture::knowing(&[]);
    fixture.want(ours(1, 1));
    let plan = fixture.expect_plan();
    fixture.applied(&plan, &[(0, OpErrorKind::Exists)]);
    fixture.dump(std::slice::from_ref(&theirs));
    fixture.now += ms(60);
    fixture.changed(Changed::Vanished(theirs));
    fixture.dump(&[]);
    assert_eq!(fixture.expect_plan(), [Op::Add(ours(1, 1))]);
}

#[test]
fn a_route_of_flannels_that_was_to_be_corrected_is_the_operators_again_when_its_peer_goes() {
    let flannels = made_by(PROTOCOL_BOOT, 7, 9);
    let mut fixture = Fixture::new();
    fixture.want(ours(7, 1));
    fixture.dump(std::slice::from_ref(&flannels));
    fixture.reconciler.set_want(id(7), None);
    fixture.expect_nothing();
    assert_eq!(fixture.reconciler.foreign(), [flannels]);
}

#[test]
fn a_removal_of_what_is_gone_already_is_done() {
    let mut fixture = Fixture::knowing(&[stray(1)]);
    let plan = fixture.expect_plan();
    assert_eq!(plan, [Op::Remove(stray(1))]);
    fixture.applied(&plan, &[(0, OpErrorKind::Gone)]);
    assert_eq!(fixture.unlike(), []);
    fixture.expect_nothing();
    assert_eq!(fixture.reconciler.failing().count(), 0);
}

#[test]
fn a_removal_that_fails_otherwise_is_not_done() {
    let mut fixture = Fixture::knowing(&[stray(1)]);
    let plan = fixture.expect_plan();
    fixture.applied(&plan, &[(0, OpErrorKind::Denied)]);
    assert_eq!(fixture.unlike(), [stray(1).id()]);
    assert_eq!(
        fixture.reconciler.missing().count(),
        0,
        "nothing wanted is missing"
    );
}

#[test]
fn a_replacement_of_what_is_gone_is_not_done() {
    let mut fixture = Fixture::knowing(&[ours(1, 9)]);
    fixture.want(ours(1, 1));
    let plan = fixture.expect_plan();
    fixture.applied(&plan, &[(0, OpErrorKind::Gone)]);
    assert_eq!(fixture.unlike(), [id(1)]);
    fixture.dump(&[]);
    assert_eq!(fixture.expect_plan(), [Op::Add(ours(1, 1))]);
}

#[test]
fn what_was_done_while_something_else_came_to_be_wanted_is_put_right_at_once() {
    let mut fixture = Fixture::knowing(&[]);
    fixture.want(ours(1, 1));
    fixture.want(ours(2, 2));
    let plan = fixture.expect_plan();
    fixture.want(ours(1, 9));
    fixture.reconciler.set_want(id(2), None);
    fixture.applied(&plan, &[]);
    let replace = Op::Replace {
        from: ours(1, 1),
        to: ours(1, 9),
    };
    assert_eq!(fixture.expect_plan(), [replace, Op::Remove(ours(2, 2))]);
}

#[test]
fn what_failed_and_is_no_longer_wanted_is_forgotten() {
    let mut fixture = Fixture::knowing(&[]);
    fixture.want(ours(1, 1));
    let plan = fixture.expect_plan();
    fixture.reconciler.set_want(id(1), None);
    fixture.applied(&plan, &[(0, OpErrorKind::Unreachable)]);
    assert_eq!(fixture.reconciler.failing().count(), 0);
    fixture.dump(&[]);
    fixture.expect_nothing();
    assert_eq!(fixture.sleep(), Duration::from_secs(10));
}

#[test]
fn a_lost_reply_means_a_look_after_100_ms_and_only_then_the_rest() {
    let mut fixture = Fixture::knowing(&[]);
    fixture.want(ours(1, 1));
    fixture.want(ours(2, 2));
    let plan = fixture.expect_plan();
    let ownership = fixture.ownership.clone();
    fixture
        .reconciler
        .applied(&plan, Err(no_answer()), &ownership, fixture.now);
    assert!(fixture.reconciler.trouble().unwrap().contains("list the routes"));
    fixture.want(ours(3, 3));
    fixture.expect_nothing();
    assert_eq!(fixture.sleep(), ms(100));
    // The plan was carried out in part.
    fixture.dump(&[ours(1, 1)]);
    assert_eq!(fixture.reconciler.trouble(), None);
    assert_eq!(fixture.expect_plan(), [Op::Add(ours(2, 2)), Op::Add(ours(3, 3))]);
}

#[test]
fn new_facts_about_the_host_end_the_wait_after_a_lost_reply() {
    let mut fixture = Fixture::knowing(&[]);
    fixture.want(ours(1, 1));
    let plan = fixture.expect_plan();
    let ownership = fixture.ownership.clone();
    fixture
        .reconciler
        .applied(&plan, Err(no_answer()), &ownership, fixture.now);
    fixture.reconciler.retry_all();
    fixture.expect_dump();
}

#[test]
fn looks_that_fail_are_tried_again_with_backoff_and_say_why() {
    let mut fixture = Fixture::new();
    let ownership = fixture.ownership.clone();
    for delay in [100, 200, 400] {
        fixture.expect_dump();
        fixture
            .reconciler
            .dumped(Err(no_answer()), &ownership, |_| false, fixture.now, fixture.now);
        assert!(fixture.reconciler.trouble().is_some());
        fixture.expect_nothing();
        assert_eq!(fixture.sleep(), ms(delay));
    }
    fixture.dump(&[]);
    assert_eq!(fixture.reconciler.trouble(), None);
    fixture.now += Duration::from_secs(10);
    fixture.expect_dump();
    fixture
        .reconciler
        .dumped(Err(no_answer()), &ownership, |_| false, fixture.now, fixture.now);
    assert_eq!(fixture.sleep(), ms(100), "the backoff did not begin anew");
}

#[test]
fn the_kernel_is_looked_at_every_10_s_though_nothing_happens() {
    let mut fixture = Fixture::new();
    for _ in 0..3 {
        fixture.dump(&[]);
        fixture.expect_nothing();
        assert_eq!(fixture.sleep(), Duration::from_secs(10));
    }
}

#[test]
fn looks_are_50_ms_apart_and_more_when_they_take_long() {
    for (took, gap) in [(0, 50), (1, 50), (5, 100), (1000, 500)] {
        let mut fixture = Fixture::new();
        fixture.expect_dump();
        let started = fixture.now;
        fixture.now += ms(took);
        let ownership = fixture.ownership.clone();
        fixture
            .reconciler
            .dumped(Ok(Vec::new()), &ownership, |_| false, started, fixture.now);
        fixture.reconciler.audit();
        fixture.expect_nothing();
        assert_eq!(fixture.sleep(), ms(gap));
        fixture.expect_dump();
    }
}

/// Whether this event makes the reconciler look at a kernel that it knows.
fn has_it_look(fixture: &mut Fixture, change: Changed) -> bool {
    fixture.changed(change);
    match fixture.next() {
        None => false,
        Some(Work::Dump) => true,
        Some(Work::Apply(plan)) => panic!("a change is never believed, but looked at: {plan:?}"),
    }
}

#[test]
fn events_that_differ_from_what_is_known_make_it_look_and_echoes_do_not() {
    let theirs = made_by(STATIC, 9, 9);
    let mut outside = route_of(made_by(OURS, 1, 1));
    outside.id.destination = "10.6.1.0/24".parse().unwrap();
    let (appeared, vanished) = (Changed::Appeared, Changed::Vanished);
    for (change, looks) in [
        (appeared(ours(1, 1)), false),
        (appeared(ours(1, 2)), true),
        (appeared(made_by(PROTOCOL_BOOT, 1, 1)), true),
        (appeared(ours(2, 2)), true),
        (appeared(stray(1)), true),
        (appeared(theirs.clone()), false),
        (appeared(made_by(STATIC, 9, 8)), true),
        (appeared(Object::Route(outside.clone())), false),
        (vanished(ours(1, 1)), true),
        (vanished(ours(1, 2)), false),
        (vanished(ours(2, 2)), false),
        (vanished(theirs.clone()), true),
        (vanished(Object::Route(outside)), false),
        (Changed::Host, false),
        (Changed::Down("eth0".parse().unwrap()), true),
        (Changed::Overrun, true),
    ] {
        let mut fixture = Fixture::new();
        fixture.want(ours(1, 1));
        fixture.dump(&[ours(1, 1), theirs.clone()]);
        fixture.now += ms(60);
        assert_eq!(has_it_look(&mut fixture, change.clone()), looks, "{change:?}");
    }
}

#[test]
fn events_that_arrive_while_a_request_is_under_way_are_held_against_its_outcome() {
    let (appeared, vanished) = (Changed::Appeared, Changed::Vanished);
    for (change, looks) in [
        (appeared(ours(1, 1)), false),
        (vanished(ours(1, 1)), true),
        (appeared(ours(1, 5)), true),
        (vanished(stray(3)), false),
        (appeared(stray(3)), true),
    ] {
        // While a plan is carried out.
        let mut fixture = Fixture::knowing(&[stray(3)]);
        fixture.want(ours(1, 1));
        let plan = fixture.expect_plan();
        fixture.changed(change.clone());
        fixture.applied(&plan, &[]);
        assert_eq!(
            matches!(fixture.next(), Some(Work::Dump)),
            looks,
            "plan: {change:?}"
        );

        // While the kernel is read.
        let mut fixture = Fixture::new();
        fixture.want(ours(1, 1));
        fixture.expect_dump();
        fixture.changed(change.clone());
        fixture.dumped(&[ours(1, 1)]);
        fixture.now += ms(60);
        assert_eq!(
            matches!(fixture.next(), Some(Work::Dump)),
            looks,
            "dump: {change:?}"
        );
    }
}

#[test]
fn a_lost_reply_loses_no_event() {
    let mut fixture = Fixture::knowing(&[]);
    fixture.want(ours(1, 1));
    let plan = fixture.expect_plan();
    fixture.changed(Changed::Appeared(ours(1, 1)));
    let ownership = fixture.ownership.clone();
    fixture
        .reconciler
        .applied(&plan, Err(no_answer()), &ownership, fixture.now);
    assert!(fixture.reconciler.seen_in_flight.is_empty());
}

#[test]
fn more_events_than_can_be_remembered_while_a_request_is_under_way_make_it_look() {
    let mut fixture = Fixture::knowing(&[]);
    fixture.want(ours(1, 1));
    let plan = fixture.expect_plan();
    for _ in 0..LARGEST_PLAN {
        fixture.changed(Changed::Appeared(ours(1, 1)));
    }
    assert!(!fixture.reconciler.audit_wanted);
    fixture.changed(Changed::Appeared(ours(1, 1)));
    assert_eq!(fixture.reconciler.seen_in_flight.len(), LARGEST_PLAN);
    fixture.applied(&plan, &[]);
    fixture.expect_dump();
}

#[test]
fn repairs_count_what_others_changed_and_nothing_that_was_asked_for() {
    let mut fixture = Fixture::new();
    (1..=3).for_each(|number| fixture.want(ours(number, number)));
    fixture.dump(&[ours(1, 1), stray(5)]);
    let plan = fixture.expect_plan();
    fixture.applied(&plan, &[]);
    assert_eq!(
        fixture.reconciler.repairs.total(),
        0,
        "the first pass repairs nothing"
    );

    fixture.want(ours(4, 4));
    fixture.now += ms(60);
    fixture.reconciler.audit();
    fixture.dump(&[ours(2, 9), ours(3, 3), stray(6)]);
    let plan = fixture.expect_plan();
    assert_eq!(plan.len(), 4);
    fixture.applied(&plan, &[(1, OpErrorKind::Other)]);
    // 1 restored, the stray removed; 2 failed; 4 was asked for.
    assert_eq!(fixture.reconciler.repairs.total(), 2);
    fixture.now += ms(100);
    fixture.dump(&[ours(1, 1), ours(2, 9), ours(3, 3), ours(4, 4)]);
    let plan = fixture.expect_plan();
    fixture.applied(&plan, &[]);
    assert_eq!(fixture.reconciler.repairs.total(), 3);
}

#[test]
fn each_object_is_behind_since_it_was_asked_for_and_no_longer_once_it_is_there() {
    let mut fixture = Fixture::knowing(&[]);
    assert_eq!(fixture.reconciler.behind_since(fixture.now), None);
    let first = fixture.now;
    fixture.want(ours(1, 1));
    assert_eq!(fixture.reconciler.behind_since(fixture.now), Some(first));
    fixture.now += ms(500);
    fixture.want(ours(2, 2));
    assert_eq!(fixture.reconciler.behind_since(fixture.now), Some(first));
    let plan = fixture.expect_plan();
    fixture.want(ours(3, 3));
    fixture.now += ms(500);
    fixture.reconciler.behind_since(fixture.now);
    fixture.applied(&plan, &[]);
    // The third has been waiting since it was first looked at.
    assert_eq!(
        fixture.reconciler.behind_since(fixture.now),
        Some(first + ms(1000))
    );
    let plan = fixture.expect_plan();
    fixture.applied(&plan, &[]);
    assert_eq!(fixture.reconciler.behind_since(fixture.now), None);
}

#[test]
fn what_keeps_failing_is_not_behind_and_starts_anew_when_it_is_tried_anew() {
    let mut fixture = Fixture::knowing(&[]);
    fixture.want(ours(1, 1));
    fixture.reconciler.behind_since(fixture.now);
    let plan = fixture.expect_plan();
    fixture.applied(&plan, &[(0, OpErrorKind::Unreachable)]);
    fixture.now += ms(60_000);
    assert_eq!(fixture.reconciler.behind_since(fixture.now), None);
    fixture.reconciler.retry_all();
    assert_eq!(fixture.reconciler.behind_since(fixture.now), Some(fixture.now));
}

#[test]
fn a_kernel_that_owes_an_answer_is_behind_since_it_was_first_asked() {
    let mut fixture = Fixture::knowing(&[]);
    let ownership = fixture.ownership.clone();
    fixture.reconciler.audit();
    let first = fixture.now;
    for _ in 0..5 {
        fixture.expect_dump();
        fixture.now += ms(1000);
        assert_eq!(fixture.reconciler.behind_since(fixture.now), Some(first));
        fixture
            .reconciler
            .dumped(Err(no_answer()), &ownership, |_| false, fixture.now, fixture.now);
        assert_eq!(fixture.reconciler.behind_since(fixture.now), Some(first));
        fixture.sleep();
    }
    fixture.dump(&[]);
    assert_eq!(fixture.reconciler.behind_since(fixture.now), None);
}

#[test]
fn it_is_settled_only_when_nothing_is_left_to_try() {
    let mut fixture = Fixture::new();
    fixture.want(ours(1, 1));
    fixture.dump(&[]);
    assert!(!fixture.reconciler.is_settled());
    let plan = fixture.expect_plan();
    assert!(!fixture.reconciler.is_settled());
    fixture.applied(&plan, &[]);
    assert!(fixture.reconciler.is_settled());
}

/// What happens to a reconciler and its kernel.
#[derive(Debug, Clone)]
enum Happening {
    Want(u8, Option<u8>),
    /// It is asked what to do, and the kernel does it like this.
    Work(Outcome),
    Sleep(u64),
    SleepUntilItWakes,
    /// Somebody puts a route or takes one away: with what protocol, and whether it is heard of.
    Meddle(u8, Option<(u8, u8)>, bool),
    Host,
    Retry,
    Audit,
}

#[derive(Debug, Clone, Copy)]
enum Outcome {
    Honest,
    /// Every operation whose bit is set fails.
    Fails(u8),
    /// So many operations are done, and nothing is said.
    Lost(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    let outcome = prop_oneof![
        3 => Just(Outcome::Honest),
        1 => any::<u8>().prop_map(Outcome::Fails),
        1 => (0usize..4).prop_map(Outcome::Lost),
    ];
    let protocol = prop_oneof![Just(OURS), Just(PROTOCOL_BOOT), Just(STATIC)];
    prop_oneof![
        6 => (0u8..6, proptest::option::weighted(0.7, 0u8..3)).prop_map(|(n, g)| Happening::Want(n, g)),
        8 => outcome.prop_map(Happening::Work),
        2 => (0u64..20_000).prop_map(Happening::Sleep),
        4 => Just(Happening::SleepUntilItWakes),
        4 => (0u8..8, proptest::option::of((protocol, 0u8..3)), any::<bool>())
            .prop_map(|(n, put, heard)| Happening::Meddle(n, put, heard)),
        1 => Just(Happening::Host),
        1 => Just(Happening::Retry),
        1 => Just(Happening::Audit),
    ]
}

/// A reconciler over a kernel that keeps one route in each place.
struct Play {
    fixture: Fixture,
    kernel: State,
    /// The operator's, as of the last look.
    seen: Vec<Object>,
}

impl Play {
    /// Destinations 6 and 7 are strays with a metric.
    fn place(number: u8, protocol: u8, gateway: u8) -> Object {
        let mut route = route_of(made_by(protocol, number % 6, gateway));
        route.id.metric = if number < 6 { 0 } else { 50 };
        route.into()
    }

    fn happen(&mut self, happening: &Happening) {
        match happening {
            Happening::Want(number, gateway) => {
                let object = gateway.map(|gateway| ours(*number, gateway));
                self.fixture.reconciler.set_want(id(*number), object);
            }
            Happening::Work(outcome) => drop(self.work(*outcome)),
            Happening::Sleep(millis) => self.fixture.now += ms(*millis),
            Happening::SleepUntilItWakes => {
                if self.fixture.reconciler.wake().is_some() {
                    self.fixture.sleep();
                }
            }
            Happening::Meddle(number, put, heard) => {
                let place = Self::place(*number, OURS, 0).id();
                let change = match put {
                    Some((protocol, gateway)) => {
                        let object = Self::place(*number, *protocol, *gateway);
                        self.kernel.insert(place, object.clone());
                        Some(Changed::Appeared(object))
                    }
                    None => self.kernel.remove(&place).map(Changed::Vanished),
                };
                if let (Some(change), true) = (change, heard) {
                    self.fixture.changed(change);
                }
            }
            Happening::Host => self.fixture.changed(Changed::Host),
            Happening::Retry => self.fixture.reconciler.retry_all(),
            Happening::Audit => self.fixture.reconciler.audit(),
        }
        self.check();
    }

    /// Does what the reconciler asks for; `false` when that is nothing.
    fn work(&mut self, outcome: Outcome) -> bool {
        let known = self.fixture.reconciler.is_known();
        let now = self.fixture.now;
        let ownership = self.fixture.ownership.clone();
        match self.fixture.next() {
            None => return false,
            Some(Work::Dump) => {
                let dump: Vec<Object> = self.kernel.values().cloned().collect();
                let result = match outcome {
                    Outcome::Lost(_) => Err(no_answer()),
                    _ => Ok(dump),
                };
                let answered = result.is_ok();
                let want = self.fixture.reconciler.want().clone();
                let leased = |net| {
                    want.keys()
                        .any(|id| matches!(id, ObjectId::Route(id) if id.destination == net))
                };
                self.fixture
                    .reconciler
                    .dumped(result, &ownership, leased, now, now);
                if answered {
                    self.seen = self.fixture.reconciler.foreign().to_vec();
                }
            }
            Some(Work::Apply(plan)) => {
                assert!(known, "a change before the kernel was read");
                let removals = plan.iter().skip_while(|op| !matches!(op, Op::Remove(_)));
                assert!(
                    removals.clone().all(|op| matches!(op, Op::Remove(_))),
                    "a removal before an addition: {plan:?}"
                );
                let done = match outcome {
                    Outcome::Lost(done) => done,
                    _ => plan.len(),
                };
                let mut applied = Applied::default();
                for (place, op) in plan.iter().enumerate().take(done) {
                    let fails = matches!(outcome, Outcome::Fails(bits) if bits >> (place % 8) & 1 == 1);
                    let result = if fails {
                        Err(OpErrorKind::Other)
                    } else {
                        self.operate(op)
                    };
                    applied
                        .failed
                        .extend(result.err().map(|kind| (place, error(kind))));
                }
                let result = match outcome {
                    Outcome::Lost(_) => Err(no_answer()),
                    _ => Ok(applied),
                };
                self.fixture.reconciler.applied(&plan, result, &ownership, now);
            }
        }
        true
    }

    fn operate(&mut self, op: &Op) -> Result<(), OpErrorKind> {
        let there = self.kernel.get(&op.id());
        assert!(
            matches!(op, Op::Add(_)) || there.is_none_or(|there| !self.seen.contains(there)),
            "{op:?} changes the operator's {there:?}"
        );
        match op {
            Op::Add(_) if there.is_some() => return Err(OpErrorKind::Exists),
            Op::Add(object) | Op::Replace { to: object, .. } => {
                // What was seen there is gone; whether it comes back unheard, nobody knows before the next dump.
                self.seen.retain(|seen| seen.id() != op.id());
                self.kernel.insert(op.id(), object.clone());
                self.fixture.changed(Changed::Appeared(object.clone()));
            }
            Op::Remove(object) if there == Some(object) => {
                let route = route_of(object.clone());
                assert_eq!(route.protocol, OURS, "only what carries our mark is removed");
                self.kernel.remove(&op.id());
                self.fixture.changed(Changed::Vanished(object.clone()));
            }
            Op::Remove(_) => return Err(OpErrorKind::Gone),
        }
        Ok(())
    }

    fn check(&self) {
        let Reconciler {
            want,
            have,
            unlike,
            failing,
            ..
        } = &self.fixture.reconciler;
        let ids: BTreeSet<ObjectId> = want.keys().chain(have.keys()).copied().collect();
        let differing = ids.into_iter().filter(|id| want.get(id) != have.get(id));
        assert!(
            differing.eq(unlike.keys().copied()),
            "unlike is not the difference: {:?}",
            self.fixture.reconciler
        );
        assert!(failing.keys().all(|id| unlike.contains_key(id)));
    }
}

proptest! {
    /// `Fixture::next` asserts that the reconciler never asks to be woken in vain.
    #[test]
    fn whatever_happens_unlike_is_the_difference_and_the_kernel_comes_to_be_as_wanted(
        happenings in proptest::collection::vec(happening(), 1..80),
    ) {
        let mut play = Play { fixture: Fixture::new(), kernel: State::new(), seen: Vec::new() };
        for happening in &happenings {
            play.happen(happening);
        }
        let deadline = play.fixture.now + Duration::from_secs(60);
        while play.fixture.now < deadline {
            if !play.work(Outcome::Honest) {
                play.fixture.sleep();
            }
            play.check();
        }
        let want = play.fixture.reconciler.want();
        for (id, object) in want {
            let there = play.kernel.get(id);
            let foreign = there.is_some_and(|there| play.seen.contains(there));
            prop_assert!(there == Some(object) || foreign, "{object} is {there:?}");
        }
        for (id, object) in &play.kernel {
            let route = route_of(object.clone());
            prop_assert!(route.protocol != OURS || want.contains_key(id), "{object} is left");
        }
        prop_assert!(play.fixture.reconciler.is_settled());
    }
}
