use super::*;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn lease(text: &str) -> Reason {
    Reason::Lease(text.to_owned())
}

fn is_lease(reason: &Reason) -> bool {
    matches!(reason, Reason::Lease(_))
}

#[test]
fn there_is_one_reason_of_each_kind_the_latest() {
    let mut reasons = Reasons::default();
    reasons.set(Reason::NoSnapshot);
    reasons.set(lease("one"));
    reasons.set(Reason::NoSnapshot);
    reasons.set(lease("other"));
    assert_eq!(reasons.list(), [lease("other"), Reason::NoSnapshot]);
}

#[test]
fn the_order_in_which_reasons_arise_does_not_show() {
    let all = [Reason::NoSnapshot, lease("one"), Reason::Config("no".to_owned())];
    let (mut some, mut others) = (Reasons::default(), Reasons::default());
    all.iter().for_each(|reason| some.set(reason.clone()));
    all.iter().rev().for_each(|reason| others.set(reason.clone()));
    assert_eq!(some.list(), others.list());
}

#[test]
fn clearing_one_kind_leaves_the_others() {
    let mut reasons = Reasons::default();
    reasons.set(Reason::NoSnapshot);
    reasons.hold(Some(lease("one")), is_lease);
    assert_eq!(reasons.list().len(), 2);
    reasons.hold(None, is_lease);
    assert_eq!(reasons.list(), [Reason::NoSnapshot]);
}

/// When each reason was last said.
fn said(reasons: &Reasons) -> Vec<Option<Instant>> {
    let said = |entry: &Entry| entry.next.filter(|_| entry.said).map(|next| next - REMIND_EVERY);
    reasons.all.iter().map(said).collect()
}

#[test]
fn a_reason_is_said_at_once_and_again_every_30_s_and_a_changed_one_at_once() {
    let start = Instant::now();
    let mut reasons = Reasons::default();
    assert_eq!(reasons.wake(), None);
    reasons.set(lease("one"));
    reasons.remind(start);
    assert_eq!(said(&reasons), [Some(start)]);
    assert_eq!(reasons.wake(), Some(start + seconds(30)));

    reasons.set(lease("one"));
    reasons.remind(start + seconds(29));
    assert_eq!(said(&reasons), [Some(start)], "said again too soon");

    reasons.remind(start + seconds(30));
    assert_eq!(said(&reasons), [Some(start + seconds(30))]);
    assert_eq!(reasons.wake(), Some(start + seconds(60)));

    reasons.set(lease("other"));
    reasons.remind(start + seconds(31));
    assert_eq!(said(&reasons), [Some(start + seconds(31))]);
}

#[test]
fn it_wakes_for_the_reason_that_is_due_first_and_never_in_the_past() {
    let start = Instant::now();
    let mut reasons = Reasons::default();
    reasons.set(lease("one"));
    reasons.remind(start);
    reasons.set(Reason::NoSnapshot);
    reasons.remind(start + seconds(10));
    assert_eq!(reasons.wake(), Some(start + seconds(11)));
    reasons.remind(start + seconds(11));
    assert_eq!(reasons.wake(), Some(start + seconds(30)));
    for late in [30, 35, 100, 1000] {
        let now = start + seconds(late);
        reasons.remind(now);
        assert!(reasons.wake().is_some_and(|at| at > now));
    }
}

#[test]
fn what_takes_its_usual_time_is_not_said_and_nor_is_its_end() {
    let start = Instant::now();
    let mut reasons = Reasons::default();
    for reason in [Reason::NoSnapshot, lease(NO_LEASE_YET)] {
        reasons.set(reason);
    }
    reasons.remind(start);
    reasons.remind(start + Duration::from_millis(999));
    assert_eq!(said(&reasons), [None, None]);
    reasons.remind(start + seconds(1));
    assert_eq!(said(&reasons), [Some(start + seconds(1)); 2]);
}

#[test]
fn failing_routes_have_lines_of_their_own_and_are_summed_up_every_30_s_whatever_their_count() {
    let start = Instant::now();
    let mut reasons = Reasons::default();
    for failed in 1..30 {
        reasons.set(Reason::Routes {
            failed,
            desired: 30,
            first: "no".to_owned(),
        });
        reasons.remind(start + seconds(failed as u64));
        assert_eq!(said(&reasons), [None]);
    }
    reasons.remind(start + seconds(31));
    assert_eq!(said(&reasons), [Some(start + seconds(31))]);
}
