//! The bounded queue between those who log and the one thread that writes.
//!
//! **Pushing never waits for the writer**: the lock is held for a push or a pop only, never during a write.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Lines that wait at most.
pub(super) const QUEUE_LINES: usize = 4096;

/// Bytes that wait at most.
pub(super) const QUEUE_BYTES: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
    emptied: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Each with the number of lines dropped between it and the one before.
    lines: VecDeque<(u64, String)>,
    bytes: usize,
    /// Dropped after the last one in `lines`.
    dropped_at_end: u64,
    /// Something taken is not dealt with yet.
    in_hand: bool,
}

/// What the writer is to do next.
#[derive(Debug)]
pub(super) struct Work {
    /// So many lines are missing here.
    pub(super) dropped_before: u64,
    /// None: nothing followed them so far.
    pub(super) line: Option<String>,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State::default()),
            arrived: Condvar::new(),
            emptied: Condvar::new(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Queues the line, or counts it as dropped.
    pub(super) fn push(&self, line: String) {
        let mut state = self.lock();
        if state.lines.len() >= QUEUE_LINES || state.bytes.saturating_add(line.len()) > QUEUE_BYTES {
            state.dropped_at_end += 1;
            self.count_dropped();
        } else {
            state.bytes += line.len();
            let dropped_before = std::mem::take(&mut state.dropped_at_end);
            state.lines.push_back((dropped_before, line));
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// Says that what was taken last is dealt with, and waits for more.
    pub(super) fn next(&self) -> Work {
        let mut state = self.lock();
        state.in_hand = false;
        loop {
            let work = match state.lines.pop_front() {
                Some((dropped_before, line)) => {
                    state.bytes -= line.len();
                    Work {
                        dropped_before,
                        line: Some(line),
                    }
                }
                None if state.dropped_at_end > 0 => Work {
                    dropped_before: std::mem::take(&mut state.dropped_at_end),
                    line: None,
                },
                None => {
                    self.emptied.notify_all();
                    state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
            };
            state.in_hand = true;
            return work;
        }
    }

    pub(super) fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// False if the deadline passes first.
    pub(super) fn wait_until_empty(&self, deadline: Duration) -> bool {
        let busy = |state: &mut State| state.in_hand || !state.lines.is_empty() || state.dropped_at_end > 0;
        let (_state, timeout) = self
            .emptied
            .wait_timeout_while(self.lock(), deadline, busy)
            .unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
