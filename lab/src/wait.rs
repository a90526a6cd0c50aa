//! The one way to wait: poll for a condition, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

use crate::LabError;

/// Time between two looks at a condition.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// What a condition may return: `bool`, or `Option<T>` where `Some` is the outcome.
pub trait Condition {
    /// What the wait yields.
    type Outcome;
    /// The outcome, if the condition holds.
    fn met(self) -> Option<Self::Outcome>;
}

impl Condition for bool {
    type Outcome = ();
    fn met(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Condition for Option<T> {
    type Outcome = T;
    fn met(self) -> Option<T> {
        self
    }
}

/// Looks every 5 ms whether `condition` holds, for at most `within`, and at least once.
///
/// # Errors
/// [`LabError::TimedOut`], which names `what`.
pub fn wait_until<C: Condition>(
    within: Duration,
    what: impl AsRef<str>,
    mut condition: impl FnMut() -> C,
) -> Result<C::Outcome, LabError> {
    let start = Instant::now();
    loop {
        // Read before the look, so that a slow look at the end of the time still counts.
        let late = start.elapsed() >= within;
        if let Some(outcome) = condition().met() {
            return Ok(outcome);
        }
        if late {
            return Err(LabError::TimedOut {
                what: what.as_ref().to_owned(),
                after: within,
                detail: String::new(),
            });
        }
        thread::sleep(POLL.min(within.saturating_sub(start.elapsed())));
    }
}

/// Waits until an answer of `/readyz` has this code and names all of `parts` or, without any, is `ready` and nothing else.
/// Returns how long that took.
///
/// # Errors
/// [`LabError::TimedOut`], which shows the last answer.
pub fn wait_until_told(
    within: Duration,
    code: u16,
    parts: &[&str],
    answer: impl Fn() -> Option<(u16, String)>,
) -> Result<Duration, LabError> {
    let begin = Instant::now();
    let mut seen = None;
    let told = wait_until(within, format!("{code} with {parts:?}"), || {
        seen = answer();
        seen.as_ref().is_some_and(|(is, body)| {
            let said = if parts.is_empty() {
                body == "ready"
            } else {
                parts.iter().all(|part| body.contains(part))
            };
            *is == code && said
        })
    });
    let took = begin.elapsed();
    match told {
        Err(LabError::TimedOut { what, after, .. }) => Err(LabError::TimedOut {
            what,
            after,
            detail: format!(", but {seen:?}"),
        }),
        told => told.map(|()| took),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_becomes_true_ends_the_wait_with_its_value() {
        let mut looks = 0;
        let found = wait_until(Duration::from_secs(5), "the third look", || {
            looks += 1;
            (looks == 3).then_some("here")
        });
        assert_eq!(found.unwrap(), "here");
    }

    #[test]
    fn a_condition_that_stays_false_is_named_when_the_time_is_up() {
        let error = wait_until(Duration::from_millis(12), "rain in the desert", || false).unwrap_err();
        assert!(error.to_string().contains("rain in the desert"), "{error}");
        assert!(error.is_transient());
    }

    #[test]
    fn without_any_time_the_condition_is_still_looked_at_once() {
        assert!(wait_until(Duration::ZERO, "now", || true).is_ok());
    }
}
