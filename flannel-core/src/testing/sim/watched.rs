//! What is noted of an engine while it runs.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::Instant;

use crate::{EngineHandle, Status};

/// An engine that is not ready says why, unless it is about to be.
const ABOUT: Duration = Duration::from_secs(2);

/// How often an engine may look for something to do before any time passes.
const TURNS_AT_ONCE: u64 = 10_000;

/// A clone notes the same.
#[derive(Clone)]
pub(super) struct Watched(Arc<Mutex<Notes>>);

#[derive(Default)]
struct Notes {
    turns: u64,
    turns_at_once: u64,
    last_turn: Option<Instant>,
    /// Since when it has been unready without a word.
    silent_since: Option<Instant>,
    /// Since when it was so for too long.
    unexplained: Option<Instant>,
}

impl Watched {
    /// Watches an engine's status until it ends.
    pub(super) fn new(handle: &EngineHandle) -> Self {
        let watched = Self(Arc::default());
        let (noting, statuses) = (watched.clone(), handle.statuses());
        tokio::spawn(async move {
            let mut statuses = pin!(statuses);
            while let Some(status) = statuses.next().await {
                noting.notes().status(&status, Instant::now());
            }
        });
        watched
    }

    /// The engine polls its shutdown on every turn.
    pub(super) async fn count_turns<T>(self, shutdown: impl Future<Output = T>) -> T {
        let mut shutdown = pin!(shutdown);
        std::future::poll_fn(|context| {
            self.notes().turn(Instant::now());
            shutdown.as_mut().poll(context)
        })
        .await
    }

    pub(super) fn turns(&self) -> u64 {
        self.notes().turns
    }

    /// Since when the engine was unready for too long without saying why.
    pub(super) fn unexplained(&self) -> Option<Instant> {
        let mut notes = self.notes();
        notes.look(Instant::now());
        notes.unexplained
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().expect("no panic while the lock was held")
    }
}

impl Notes {
    fn turn(&mut self, now: Instant) {
        self.turns += 1;
        self.turns_at_once = if self.last_turn == Some(now) {
            self.turns_at_once + 1
        } else {
            0
        };
        self.last_turn = Some(now);
        let at_once = self.turns_at_once;
        assert!(at_once < TURNS_AT_ONCE, "the engine turns though nothing happens");
    }

    fn status(&mut self, status: &Status, now: Instant) {
        self.look(now);
        let silent = !status.is_ready() && status.reasons.is_empty();
        self.silent_since = silent.then(|| self.silent_since.unwrap_or(now));
    }

    fn look(&mut self, now: Instant) {
        let too_long = self.silent_since.filter(|since| *since + ABOUT < now);
        self.unexplained = self.unexplained.or(too_long);
    }
}
