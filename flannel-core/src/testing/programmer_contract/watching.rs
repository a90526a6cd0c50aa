//! What [`RouteProgrammer::watch`](crate::RouteProgrammer::watch) tells.

use super::steps::{Events, STATIC, add, apply_all, assert_routes, route};
use super::{Foreign, ProgrammerHarness};
use crate::{Changed, Family, Route};

/// Whatever somebody else adds, replaces or removes after a watch has begun is announced, read or
/// not; a replacement is no removal.
pub async fn foreign_changes_are_announced(harness: &dyn ProgrammerHarness) {
    for family in Family::ALL {
        let before = Route {
            protocol: STATIC,
            ..route(harness, family, 1, 1)
        };
        let after = Route {
            protocol: crate::PROTOCOL_BOOT,
            ..route(harness, family, 1, 2)
        };
        let mut events = Events::of(harness, family);
        harness.foreign(Foreign::Add(before.clone())).await;
        harness.foreign(Foreign::Replace(after.clone())).await;
        harness.foreign(Foreign::Remove(after.clone())).await;
        let seen = events.until_fence(harness, family).await;
        let expected = [
            Changed::Appeared(before.into()),
            Changed::Appeared(after.clone().into()),
            Changed::Vanished(after.into()),
        ];
        assert_eq!(seen, expected);
    }
}

/// Two watches are independent of each other, and each sees its own scope.
pub async fn every_watch_is_told(harness: &dyn ProgrammerHarness) {
    let mut watches = Family::ALL.map(|family| Events::of(harness, family));
    for family in Family::ALL {
        let theirs = route(harness, family, 1, 1);
        harness.foreign(Foreign::Add(theirs)).await;
    }
    for (family, events) in Family::ALL.into_iter().zip(&mut watches) {
        let seen = events.until_fence(harness, family).await;
        let expected = Changed::Appeared(route(harness, family, 1, 1).into());
        assert_eq!(seen, [expected], "{family}");
    }
}

/// The kernel drops a downed link's routes, those of IPv4 without a word: what is announced is
/// [`Changed::Down`], and the next dump has none of them. That it is up again is [`Changed::Host`].
pub async fn a_link_that_goes_down_is_announced_and_its_routes_are_gone(harness: &dyn ProgrammerHarness) {
    let made = Family::ALL.map(|family| route(harness, family, 1, 1));
    apply_all(harness, made.iter().cloned().map(add)).await;

    let mut events = Events::of(harness, Family::V4);
    harness.foreign(Foreign::LinkDown).await;
    while events.next().await != Changed::Down(harness.uplink()) {}
    for family in Family::ALL {
        assert_routes(harness, family, vec![]).await;
    }
    harness.foreign(Foreign::LinkUp).await;
    while events.next().await != Changed::Host {}
    apply_all(harness, made.iter().cloned().map(add)).await;
    for (family, route) in Family::ALL.into_iter().zip(made) {
        assert_routes(harness, family, vec![route]).await;
    }
}
