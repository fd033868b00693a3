//! When to ask again: exponential backoff with jitter, the origin's own word over both, and two budgets: the time that
//! whoever waits has left, and a share of all requests.
//! Never here: sleeping, and asking. This is the one place that decides on retries; no layer below has its own.
//!
//! The second budget is for an origin that fails under its load: without it, each request would come four times just then.
//! Requests pay in, retries are paid from it, and when it is empty a failure is final.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::metrics::Metrics;

/// First wait; a lost packet is over by then.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Longest wait of our own choosing.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// An attempt is given this part of the time that is left, so that a lost connection leaves time for another.
const STALL_SHARE: u32 = 2;
/// But no less than this part of the whole: the last attempt should have a chance, too.
const STALL_SHARE_MIN: u32 = 8;

/// Requests that pay for one retry. Where one in five fails, one retry for four is needed; where all fail, the origin gets
/// half as many requests again, and not four times as many.
const REQUESTS_FOR_RETRY: u32 = 2;
/// Retries that are there from the start, and may be saved up: a server that restarts fails all that is under way at once.
const SAVED_MAX: u32 = 64;

/// Decides on all retries of one mount.
#[derive(Debug)]
pub struct Retry {
    retries: u32,
    // In requests; `REQUESTS_FOR_RETRY` of them are one retry.
    saved: AtomicU32,
    metrics: Arc<Metrics>,
}

impl Retry {
    /// A failed request is made again up to `retries` times.
    pub fn new(retries: u32, metrics: Arc<Metrics>) -> Self {
        Self { retries, saved: AtomicU32::new(SAVED_MAX * REQUESTS_FOR_RETRY), metrics }
    }

    /// Something is asked for that was not asked for before.
    pub fn asked(&self) {
        self.change_saved(|saved| Some((saved + 1).min(SAVED_MAX * REQUESTS_FOR_RETRY)));
    }

    /// How long to wait before attempt `attempt + 1` (`attempt` counts from 0) when the last one ended in `error` and the
    /// answer is of use for `left` more. Or the error to end with: as it was, or saying that the wait asked for is too long.
    pub fn wait(&self, attempt: u32, error: &Error, left: Duration) -> Result<Duration> {
        let Some(wait) = next_wait(attempt, self.retries, error, left, fastrand::f64()) else {
            return Err(match error.retry_after().filter(|asked| *asked >= left) {
                Some(asked) => {
                    error.clone().context(format_args!("asked to come back in {asked:.0?}, which is too late"))
                }
                None => error.clone(),
            });
        };
        if !self.change_saved(|saved| saved.checked_sub(REQUESTS_FOR_RETRY)) {
            return Err(error.clone().context("not asked again, as too many requests fail"));
        }
        self.metrics.retries.add(1);
        Ok(wait)
    }

    /// Whether there was a change to make.
    fn change_saved(&self, change: impl FnMut(u32) -> Option<u32>) -> bool {
        self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change).is_ok()
    }
}

/// The longest silence to bear of one attempt, when the answer is of use for `left` more of `timeout` in all.
pub fn stall(left: Duration, timeout: Duration) -> Duration {
    (left / STALL_SHARE).max(timeout / STALL_SHARE_MIN)
}

/// The wait before the next attempt; `None` to give up. `dice` is uniform in `[0, 1)`.
fn next_wait(attempt: u32, retries: u32, error: &Error, left: Duration, dice: f64) -> Option<Duration> {
    // What was not even asked will not be better in a moment.
    if attempt >= retries || !error.may_pass() || error.kind() == Kind::Away {
        return None;
    }
    // Half fixed, half random: callers that failed together don't come back together.
    let backoff = BACKOFF_FIRST.saturating_mul(1 << attempt.min(10)).min(BACKOFF_MAX);
    let wait = backoff.mul_f64(0.5 + dice.clamp(0.0, 1.0) / 2.0).max(error.retry_after().unwrap_or_default());
    Some(wait).filter(|wait| *wait < left)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    fn error(kind: Kind) -> Error {
        Error::new(kind, "test")
    }

    fn asked(seconds: u64) -> Error {
        error(Kind::Busy).with_retry_after(Some(Duration::from_secs(seconds)))
    }

    #[test]
    fn waits_grow_and_end() {
        let waits: Vec<_> = (0..4).map(|attempt| next_wait(attempt, 3, &error(Kind::TimedOut), LONG, 1.0)).collect();
        let millis = |ms| Some(Duration::from_millis(ms));
        assert_eq!(waits, [millis(100), millis(200), millis(400), None]);
        assert_eq!(next_wait(0, 3, &error(Kind::Busy), LONG, 0.0), millis(50));
        assert_eq!(next_wait(30, 99, &error(Kind::Busy), LONG, 1.0), Some(BACKOFF_MAX));
        assert_eq!(next_wait(0, 3, &error(Kind::Busy), Duration::from_millis(100), 1.0), None, "nobody waits so long");
    }

    #[test]
    fn what_cannot_pass_is_not_asked_again() {
        use Kind::{Away, Cancelled, Changed, Corrupt, Denied, Missing, Unsupported};
        for kind in [Missing, Denied, Changed, Unsupported, Cancelled, Corrupt, Away] {
            assert_eq!(next_wait(0, 3, &error(kind), LONG, 0.5), None, "{kind:?}");
        }
    }

    #[test]
    fn the_origin_may_ask_for_longer_within_reason() {
        let retry = Retry::new(3, Arc::default());
        assert_eq!(retry.wait(0, &asked(2), LONG).unwrap(), Duration::from_secs(2));
        let too_late = retry.wait(0, &asked(3600), LONG).unwrap_err();
        assert_eq!(too_late.kind(), Kind::Busy);
        assert_eq!(too_late.to_string(), "asked to come back in 3600s, which is too late: test");
        assert_eq!(retry.metrics.retries.get(), 1);
    }

    #[test]
    fn each_attempt_leaves_time_for_another() {
        let seconds = Duration::from_secs;
        assert_eq!(stall(seconds(8), seconds(8)), seconds(4));
        assert_eq!(stall(seconds(4), seconds(8)), seconds(2));
        assert_eq!(stall(Duration::ZERO, seconds(8)), seconds(1));
    }

    #[test]
    fn where_all_fails_few_are_asked_again() {
        let retry = Retry::new(3, Arc::default());
        let mut requests = 0;
        for _ in 0..10_000 {
            retry.asked();
            requests += 1;
            requests += (0..4).take_while(|attempt| retry.wait(*attempt, &error(Kind::Busy), LONG).is_ok()).count();
        }
        assert!((15_000..15_100).contains(&requests), "{requests}");
        let refused = retry.wait(0, &error(Kind::Busy), LONG).unwrap_err();
        assert!(refused.to_string().contains("too many"), "{refused}");
    }

    proptest! {
        #[test]
        fn where_one_in_five_fails_all_are_asked_again(seed in any::<u64>()) {
            let (retry, mut dice) = (Retry::new(8, Arc::default()), fastrand::Rng::with_seed(seed));
            for _ in 0..1_000 {
                retry.asked();
                for attempt in (0..8).take_while(|_| dice.u8(..5) == 0) {
                    prop_assert!(retry.wait(attempt, &error(Kind::Busy), LONG).is_ok());
                }
            }
        }
    }
}
