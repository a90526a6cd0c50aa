//! The time without a watch: when to try again, and what to say about it. No I/O.

use std::collections::VecDeque;
use std::time::Duration;

use flannel_core::StoreEvent;
use tokio::time::Instant;

use crate::endpoint::Endpoint;
use crate::failure::{Failure, Failures};
use crate::random::jittered;
use crate::servers::{ELECTED_WITHIN, NOTICED_WITHIN};

/// How long to wait once every server was asked in vain, at first and at most. Together with what
/// dead servers take until a connection is given up it stays below five seconds.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// As [`LAST_PAUSE`], where somebody has to do something first: to refuse a password costs a server
/// more than to take it.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// An outage is mentioned once every server was asked in vain, or after this time.
const MENTIONED_AFTER: Duration = Duration::from_secs(3);

/// An outage whose reasons change is not mentioned more often than this.
const MENTIONED_EVERY: Duration = Duration::from_secs(15);

/// Outages that follow one another are not mentioned more often than this in a minute.
const MENTIONED_A_MINUTE: usize = 4;
const MINUTE: Duration = Duration::from_secs(60);

/// A watch that ends sooner than this has failed like one that did not begin.
const LASTING: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Outage {
    servers: u32,
    /// When the store was heard from last.
    heard: Instant,
    /// When the present state began: connected, or apart.
    began: Instant,
    /// Attempts in vain since there was a lasting watch.
    failures: u32,
    /// What the servers said since.
    tried: Failures,
    /// What was said of this outage.
    mentioned: Option<String>,
    /// When something was said last, the latest first.
    mentions: VecDeque<Instant>,
}

impl Outage {
    pub(crate) fn new(servers: usize) -> Self {
        let now = Instant::now();
        Self {
            servers: u32::try_from(servers).unwrap_or(u32::MAX).max(1),
            heard: now,
            began: now,
            failures: 0,
            tried: Failures::default(),
            mentioned: None,
            mentions: VecDeque::new(),
        }
    }

    /// How long to wait before the next attempt: not at all until every server was asked once more.
    pub(crate) fn pause(&self) -> Duration {
        let rounds = self.failures / self.servers;
        if rounds == 0 || !self.failures.is_multiple_of(self.servers) {
            return Duration::ZERO;
        }
        let doubled = FIRST_PAUSE * 2u32.pow((rounds - 1).min(8));
        let longest = if self.tried.are_for_people() {
            REFUSED_PAUSE
        } else {
            LAST_PAUSE
        };
        jittered(doubled.min(longest))
    }

    /// Something was heard.
    pub(crate) fn heard(&mut self) {
        self.heard = Instant::now();
    }

    /// The watch ended, whose server was heard from without a word until shortly before.
    pub(crate) fn lost(&mut self, endpoint: &Endpoint, failure: Failure) {
        let now = Instant::now();
        if now.duration_since(self.began) >= LASTING {
            self.failures = 0;
            self.tried = Failures::default();
        } else {
            self.failures = self.failures.saturating_add(1);
        }
        self.heard = now
            .checked_sub(NOTICED_WITHIN)
            .map_or(self.heard, |at| self.heard.max(at));
        self.began = now;
        self.tried.note(endpoint, failure);
    }

    /// An attempt failed. What there is to be said about it, if anything.
    pub(crate) fn failed(&mut self, endpoint: &Endpoint, failure: Failure) -> Option<StoreEvent> {
        self.failures = self.failures.saturating_add(1);
        self.tried.note(endpoint, failure);
        let now = Instant::now();
        let time = now.duration_since(self.began);
        let serious = if self.tried.are_of_an_election() {
            time >= ELECTED_WITHIN
        } else {
            self.failures >= self.servers || time >= MENTIONED_AFTER
        };
        let often = match self.mentioned {
            Some(_) => self
                .mentions
                .front()
                .is_some_and(|at| now.duration_since(*at) < MENTIONED_EVERY),
            None => self
                .mentions
                .get(MENTIONED_A_MINUTE - 1)
                .is_some_and(|at| now.duration_since(*at) < MINUTE),
        };
        if !serious || often {
            return None;
        }
        let reason = self.tried.summary().to_string();
        if self.mentioned.as_ref() == Some(&reason) {
            return None;
        }
        self.mentioned = Some(reason.clone());
        self.mentions.push_front(now);
        self.mentions.truncate(MENTIONED_A_MINUTE);
        Some(StoreEvent::Silent {
            since: self.heard,
            reason,
        })
    }

    /// There is a watch.
    pub(crate) fn over(&mut self) {
        let now = Instant::now();
        (self.heard, self.began) = (now, now);
        self.mentioned = None;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::failure::Kind;

    fn endpoint(port: u16) -> Endpoint {
        Endpoint::parse(&format!("http://10.0.0.1:{port}"), false).unwrap()
    }

    fn refused() -> Failure {
        Failure::new(Kind::Unreachable, "refused")
    }

    /// The reason that an event gives.
    fn reason(event: Option<StoreEvent>) -> Option<String> {
        event.map(|event| match event {
            StoreEvent::Silent { reason, .. } => reason,
            other => panic!("not silent: {other:?}"),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn every_server_is_asked_at_once_and_rounds_are_farther_and_farther_apart() {
        let mut outage = Outage::new(3);
        let mut pauses = Vec::new();
        for attempt in 0..30 {
            let pause = outage.pause();
            if attempt % 3 == 0 && attempt > 0 {
                pauses.push(pause);
            } else {
                assert_eq!(pause, Duration::ZERO, "attempt {attempt}");
            }
            outage.failed(&endpoint(1 + attempt % 3), refused());
        }
        assert!(pauses[0] <= FIRST_PAUSE && pauses[0] >= FIRST_PAUSE / 2);
        assert!(pauses.iter().all(|pause| *pause <= LAST_PAUSE), "{pauses:?}");
        assert!(
            pauses.iter().skip(5).all(|pause| *pause >= LAST_PAUSE / 2),
            "{pauses:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn servers_that_refuse_us_are_asked_less_often() {
        let mut outage = Outage::new(1);
        for _ in 0..10 {
            outage.failed(&endpoint(1), Failure::new(Kind::Denied, "wrong password"));
        }
        assert!(
            (REFUSED_PAUSE / 2..=REFUSED_PAUSE).contains(&outage.pause()),
            "{:?}",
            outage.pause()
        );
        outage.failed(&endpoint(1), refused());
        assert!(outage.pause() <= LAST_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_said_once_every_server_has_failed_and_again_when_the_reason_is_another() {
        let mut outage = Outage::new(2);
        assert!(outage.failed(&endpoint(1), refused()).is_none());
        let said = reason(outage.failed(&endpoint(2), refused())).unwrap();
        assert_eq!(said, "http://10.0.0.1:1, http://10.0.0.1:2: refused");
        advance(MENTIONED_EVERY).await;
        assert!(outage.failed(&endpoint(1), refused()).is_none(), "that was said");
        let late = || Failure::new(Kind::Unreachable, "late");
        let said = reason(outage.failed(&endpoint(1), late())).unwrap();
        assert_eq!(said, "http://10.0.0.1:1: late; http://10.0.0.1:2: refused");
        assert!(outage.failed(&endpoint(2), late()).is_none(), "too often");
        advance(MENTIONED_EVERY).await;
        assert!(outage.failed(&endpoint(2), late()).is_some());
        outage.over();
        assert!(outage.failed(&endpoint(2), late()).is_some(), "another outage");
    }

    #[tokio::test(start_paused = true)]
    async fn of_outages_that_follow_one_another_a_few_are_mentioned() {
        let mut outage = Outage::new(1);
        let mut said = 0;
        for _ in 0..60 {
            said += usize::from(outage.failed(&endpoint(1), refused()).is_some());
            outage.over();
            outage.lost(&endpoint(1), refused());
            advance(Duration::from_secs(2)).await;
        }
        assert_eq!(said, 2 * MENTIONED_A_MINUTE, "in two minutes");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_said_in_time_where_servers_are_slow_to_fail() {
        let mut outage = Outage::new(5);
        advance(MENTIONED_AFTER).await;
        assert!(outage.failed(&endpoint(1), refused()).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_election_is_mentioned_only_if_it_takes_too_long() {
        let electing = || Failure::new(Kind::Electing, "no leader");
        let mut outage = Outage::new(2);
        for _ in 0..10 {
            assert!(outage.failed(&endpoint(1), refused()).is_none());
            assert!(outage.failed(&endpoint(2), electing()).is_none());
        }
        advance(ELECTED_WITHIN).await;
        assert!(outage.failed(&endpoint(2), electing()).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_was_heard_from_as_long_as_its_connection_was_alive() {
        let start = Instant::now();
        let mut outage = Outage::new(1);
        outage.over();
        advance(Duration::from_secs(3600)).await;
        outage.lost(&endpoint(1), refused());
        let Some(StoreEvent::Silent { since, .. }) = outage.failed(&endpoint(1), refused()) else {
            panic!("nothing was said");
        };
        assert_eq!(since - start, Duration::from_secs(3600) - NOTICED_WITHIN);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_lasted_is_begun_again_at_once_and_one_that_did_not_is_not() {
        let mut outage = Outage::new(1);
        for _ in 0..10 {
            outage.over();
            outage.lost(&endpoint(1), refused());
        }
        assert!(outage.pause() >= LAST_PAUSE / 2, "{:?}", outage.pause());
        outage.over();
        advance(LASTING).await;
        outage.lost(&endpoint(1), refused());
        assert_eq!(outage.pause(), Duration::ZERO);
    }
}
