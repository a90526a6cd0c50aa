use super::*;

fn some(text: &str) -> String {
    text.to_owned()
}

fn routes(failed: usize, desired: usize) -> Reason {
    Reason::Routes {
        failed,
        desired,
        first: some("no"),
    }
}

/// Each reason, the word for it, and whether pods are reached all the same.
fn reasons() -> Vec<(Reason, &'static str, Readiness)> {
    use Readiness::{Degraded, NotReady};
    let conflicts = |count| Reason::Conflicts {
        count,
        first: some("no"),
    };
    vec![
        (Reason::Config(some("no")), "config", NotReady),
        (Reason::Uplink(some("no")), "uplink", NotReady),
        (Reason::Backend(some("no")), "backend", NotReady),
        (Reason::Lease(some("no")), "lease", NotReady),
        (Reason::NoSnapshot, "snapshot", NotReady),
        (Reason::Store(some("no")), "store", Degraded),
        (Reason::Kernel(some("no")), "kernel", NotReady),
        (Reason::Watch(some("no")), "watch", Degraded),
        (Reason::Host(some("no")), "host", Degraded),
        (routes(1, 3), "routes", Degraded),
        (routes(3, 3), "routes", NotReady),
        (conflicts(1), "conflicts", Degraded),
        (Reason::SubnetEnv(some("no")), "subnet_env", NotReady),
        (Reason::State(some("no")), "state", Degraded),
        (Reason::ConfigRefused(some("no")), "config_refused", Degraded),
        (Reason::ConfigDoubt(some("no")), "config_doubt", Degraded),
        (Reason::Address(some("no")), "address", Degraded),
        (Reason::Subnet(some("no")), "subnet", Degraded),
        (Reason::Bridge(some("no")), "bridge", Degraded),
        (Reason::Forwarding(some("no")), "forwarding", Degraded),
        (Reason::Filter(some("no")), "filter", Degraded),
    ]
}

/// As it ought to be.
fn well() -> Status {
    Status {
        lease: Some(LeaseStatus {
            subnet: "10.5.1.0/24".parse().unwrap(),
            expires: None,
        }),
        settled: true,
        ..Status::default()
    }
}

#[test]
fn each_reason_alone_is_blocking_or_not() {
    for (reason, kind, expected) in reasons() {
        let status = Status {
            reasons: vec![reason.clone()],
            ..well()
        };
        assert_eq!(status.readiness(), expected, "{reason:?}");
        assert_eq!(status.is_ready(), expected != Readiness::NotReady, "{reason:?}");
        assert_eq!(reason.kind(), kind);
    }
}

#[test]
fn one_blocking_reason_among_others_is_enough() {
    let status = Status {
        reasons: vec![Reason::Store(some("no")), Reason::NoSnapshot, routes(1, 3)],
        ..well()
    };
    assert_eq!(status.readiness(), Readiness::NotReady);
}

#[test]
fn it_takes_a_lease_and_a_kernel_that_is_as_it_ought_to_be_and_no_reason_to_be_ready() {
    assert_eq!(well().readiness(), Readiness::Ready);
    let unsettled = Status {
        settled: false,
        ..well()
    };
    let without_lease = Status {
        lease: None,
        ..well()
    };
    for status in [unsettled, without_lease, Status::default()] {
        assert_eq!(status.readiness(), Readiness::NotReady);
        assert!(!status.is_ready());
    }
}

#[test]
fn a_store_that_is_silent_was_last_there_when_it_fell_silent() {
    let then = Instant::now();
    let now = then + Duration::from_secs(42);
    for (contact, last, silence) in [
        (StoreContact::Never, None, None),
        (StoreContact::Now, Some(now), None),
        (
            StoreContact::Lost(then),
            Some(then),
            Some(Duration::from_secs(42)),
        ),
    ] {
        assert_eq!((contact.last(now), contact.silence(now)), (last, silence));
    }
}

#[test]
fn many_conflicts_are_told_of_by_their_number_and_one_of_them() {
    let told = |count| {
        let reason = Reason::Conflicts {
            count,
            first: some("10.5.0.0/16 dev eth9 is in the way"),
        };
        reason.to_string()
    };
    assert_eq!(told(1), "10.5.0.0/16 dev eth9 is in the way");
    assert_eq!(
        told(7),
        "7 routes of somebody else's, such as: 10.5.0.0/16 dev eth9 is in the way"
    );
}
