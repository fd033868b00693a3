//! When to ask again: exponential backoff with jitter, the origin's own word over both, and two budgets: the time that
//! whoever waits has left, and a share of all requests.
//! Never here: sleeping, and asking. This is the one place that decides on retries; no layer below has its own.
//!
//! A request that somebody waits for is counted in time: it is made again until the deadline of the one who waits. A
//! request that nobody waits for is counted in number.
//!
//! The second budget is for an origin that fails under its load: without it, each request would come four times just then.
//! Requests pay in, retries are paid from it. When it is empty, the failure of a guess is final, and a request that
//! somebody waits for is made again at the longest pace only.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::metrics::Metrics;

/// First wait; a lost packet is over by then.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Longest wait of our own choosing.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Longest wait of our own choosing before a request that somebody waits for: a server that restarts is found back soon.
const BACKOFF_AWAITED_MAX: Duration = Duration::from_secs(1);
/// With less time left than this no request is made again: its answer would come too late.
const LEFT_MIN: Duration = Duration::from_millis(50);
/// An attempt is given this part of the time that is left, so that a lost connection leaves time for another.
const STALL_SHARE: u32 = 2;
/// But no less than this part of the whole: the last attempt should have a chance, too.
const STALL_SHARE_MIN: u32 = 8;

/// After such a silence an attempt is given this part of the whole at most.
const STALL_SHARE_SILENT: u32 = 5;
/// Two requests of somebody who reads follow each other sooner.
const SILENT_MIN: Duration = Duration::from_millis(1_500);

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
    /// A failed request is made again up to `retries` times, or, if somebody waits for it, until the deadline; with 0
    /// retries none is.
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
            return Err(too_late(error, left));
        };
        if !self.change_saved(|saved| saved.checked_sub(REQUESTS_FOR_RETRY)) {
            return Err(error.clone().context("not asked again, as too many requests fail"));
        }
        self.metrics.retries.add(1);
        Ok(wait)
    }

    /// The same for a request that somebody waits for until `left` is over: retries are counted in time, not in number.
    pub fn wait_awaited(&self, attempt: u32, error: &Error, left: Duration) -> Result<Duration> {
        if self.retries == 0 {
            return Err(error.clone());
        }
        let is_paid = self.change_saved(|saved| saved.checked_sub(REQUESTS_FOR_RETRY));
        let wait =
            next_awaited_wait(attempt, is_paid, error, left, fastrand::f64()).ok_or_else(|| too_late(error, left))?;
        self.metrics.retries.add(1);
        Ok(wait)
    }

    /// Whether there was a change to make.
    fn change_saved(&self, change: impl FnMut(u32) -> Option<u32>) -> bool {
        self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change).is_ok()
    }
}

/// The error to end with: as it was, or saying that the wait that the origin asks for is longer than what is left.
fn too_late(error: &Error, left: Duration) -> Error {
    match error.retry_after().filter(|asked| *asked >= left && error.kind() != Kind::Away) {
        Some(asked) => error.clone().context(format_args!("asked to come back in {asked:.0?}, which is too late")),
        None => error.clone(),
    }
}

/// The longest silence to bear of one attempt, when the answer is of use for `left` more of `timeout` in all, and nothing
/// has come over any connection for `silent_for`: those that are open may have died unseen, and a new one is tried soon.
pub fn stall(left: Duration, timeout: Duration, silent_for: Duration) -> Duration {
    let stall = (left / STALL_SHARE).max(timeout / STALL_SHARE_MIN);
    if silent_for >= SILENT_MIN { stall.min(timeout / STALL_SHARE_SILENT) } else { stall }
}

/// Since when nothing must have come over any connection for all that are open to be doubted, when a request that was sent
/// at `asked_at` ended in `error` at `now`; `None`: they are not.
pub fn silent_since(error: &Error, asked_at: Instant, now: Instant, timeout: Duration) -> Option<Instant> {
    match error.kind() {
        Kind::TimedOut => {
            Some(now.checked_sub(timeout / STALL_SHARE_MIN).map_or(asked_at, |since| since.max(asked_at)))
        }
        Kind::Unreachable => Some(asked_at),
        _ => None,
    }
}

/// The wait before the next attempt; `None` to give up. `dice` is uniform in `[0, 1)`.
fn next_wait(attempt: u32, retries: u32, error: &Error, left: Duration, dice: f64) -> Option<Duration> {
    // What was not even asked will not be better in a moment.
    if attempt >= retries || !error.may_pass() || error.kind() == Kind::Away {
        return None;
    }
    let wait = backoff(attempt, BACKOFF_MAX, dice).max(error.retry_after().unwrap_or_default());
    Some(wait).filter(|wait| *wait < left)
}

/// The wait before the next attempt at what somebody waits for; `None` to give up. The last attempts come sooner than
/// their backoff, so that none of the time that is left is wasted.
fn next_awaited_wait(attempt: u32, is_paid: bool, error: &Error, left: Duration, dice: f64) -> Option<Duration> {
    // An origin that is away says when it is looked at next, while its outage is young; later there is nothing to wait for.
    let is_away_for_long = error.kind() == Kind::Away && error.retry_after().is_none();
    if !error.may_pass() || is_away_for_long || left < LEFT_MIN {
        return None;
    }
    let attempt = if is_paid { attempt } else { u32::MAX };
    let wait = backoff(attempt, BACKOFF_AWAITED_MAX, dice).min(left / 2);
    Some(wait.max(error.retry_after().unwrap_or_default())).filter(|wait| *wait < left)
}

/// Half fixed, half random: callers that failed together don't come back together.
fn backoff(attempt: u32, max: Duration, dice: f64) -> Duration {
    let backoff = BACKOFF_FIRST.saturating_mul(1 << attempt.min(10)).min(max);
    backoff.mul_f64(0.5 + dice.clamp(0.0, 1.0) / 2.0)
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

    /// Waits before each attempt of a request that fails at once for `left`, and somebody waits.
    fn awaited(error: &Error, mut left: Duration) -> Vec<Duration> {
        let mut waits = Vec::new();
        while let Some(wait) = next_awaited_wait(waits.len().try_into().unwrap(), true, error, left, 1.0) {
            left -= wait;
            waits.push(wait);
        }
        waits
    }

    #[test]
    fn awaited_requests_are_made_again_until_the_deadline() {
        for kind in [Kind::Unreachable, Kind::TimedOut, Kind::Busy] {
            let waits = awaited(&error(kind), Duration::from_secs(10));
            assert!(waits.len() > 10 && waits.iter().all(|wait| *wait <= BACKOFF_AWAITED_MAX), "{waits:?}");
            let all: Duration = waits.iter().sum();
            assert!(all >= Duration::from_millis(9_900), "{all:?}: none of the time is wasted");
        }
        for kind in [Kind::Missing, Kind::Denied, Kind::Changed, Kind::Unsupported, Kind::Cancelled, Kind::Corrupt] {
            assert_eq!(next_awaited_wait(0, true, &error(kind), LONG, 0.5), None, "{kind:?}");
        }
        assert_eq!(next_awaited_wait(0, true, &asked(3), LONG, 0.5), Some(Duration::from_secs(3)));
        assert_eq!(next_awaited_wait(0, true, &asked(60), LONG, 0.5), None, "asked to come back too late");
    }

    #[test]
    fn awaited_requests_wait_for_a_young_outage_only() {
        let away = error(Kind::Away);
        assert_eq!(next_awaited_wait(0, true, &away, LONG, 0.5), None, "away for long");
        let young = away.with_retry_after(Some(Duration::from_secs(1)));
        assert_eq!(next_awaited_wait(0, true, &young, LONG, 0.5), Some(Duration::from_secs(1)));
        assert_eq!(next_wait(0, 3, &young, LONG, 0.5), None, "a guess is not worth it");
        let retry = Retry::new(3, Arc::default());
        let told = retry.wait_awaited(0, &young, Duration::from_millis(500)).unwrap_err();
        assert_eq!((told.kind(), told.to_string()), (Kind::Away, "test".to_owned()));
    }

    #[test]
    fn awaited_requests_are_made_again_however_many_fail_but_slowly() {
        let retry = Retry::new(3, Arc::default());
        while retry.wait(0, &error(Kind::Busy), LONG).is_ok() {}
        for attempt in 0..100 {
            let wait = retry.wait_awaited(attempt, &error(Kind::Unreachable), LONG).unwrap();
            assert!(wait >= BACKOFF_AWAITED_MAX / 2, "{wait:?}");
        }
        let never = Retry::new(0, Arc::default());
        assert!(never.wait_awaited(0, &error(Kind::Busy), LONG).is_err(), "the user wants none");
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
        let used = Duration::ZERO;
        assert_eq!(stall(seconds(8), seconds(8), used), seconds(4));
        assert_eq!(stall(seconds(4), seconds(8), used), seconds(2));
        assert_eq!(stall(Duration::ZERO, seconds(8), used), seconds(1));
    }

    #[test]
    fn connections_are_doubted_after_a_silence() {
        let (asked_at, timeout) = (Instant::now(), Duration::from_secs(8));
        let since = |kind, after| silent_since(&error(kind), asked_at, asked_at + after, timeout);
        let second = Duration::from_secs(1);
        assert_eq!(since(Kind::TimedOut, second / 2), Some(asked_at));
        assert_eq!(since(Kind::TimedOut, 5 * second), Some(asked_at + 4 * second), "an answer that broke off, too");
        assert_eq!(since(Kind::Unreachable, second), Some(asked_at));
        assert_eq!(since(Kind::Busy, second), None);
    }

    #[test]
    fn connections_that_were_silent_are_given_less_time() {
        let seconds = Duration::from_secs;
        assert_eq!(stall(seconds(10), seconds(10), seconds(3)), seconds(2));
        assert_eq!(stall(seconds(10), seconds(10), seconds(1)), seconds(5), "it was in use a moment ago");
        assert_eq!(stall(Duration::ZERO, seconds(10), seconds(3)), stall(Duration::ZERO, seconds(10), seconds(0)));
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
