//! When to ask again: exponential backoff with jitter, and the origin's own word over both. Pure.
//! Never here: sleeping, and asking. This is the one place that decides on retries; no layer below has its own.

use std::time::Duration;

use crate::error::Error;

/// First wait; a lost packet is over by then.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Longest wait of our own choosing.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Longest wait an origin can ask for and be heeded within one read.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// How long to wait before attempt `attempt + 1` (`attempt` counts from 0), or `None` to give up.
/// `dice` is uniform in `[0, 1)`.
pub fn next_wait(attempt: u32, retries: u32, error: &Error, dice: f64) -> Option<Duration> {
    if attempt >= retries || !error.may_pass() {
        return None;
    }
    // Half fixed, half random: callers that failed together don't come back together.
    let backoff = BACKOFF_FIRST.saturating_mul(1 << attempt.min(10)).min(BACKOFF_MAX);
    let wait = backoff.mul_f64(0.5 + dice.clamp(0.0, 1.0) / 2.0);
    match error.retry_after() {
        Some(asked) if asked > RETRY_AFTER_MAX => None,
        Some(asked) => Some(wait.max(asked)),
        None => Some(wait),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn error(kind: Kind) -> Error {
        Error::new(kind, "test")
    }

    #[test]
    fn waits_grow_and_end() {
        let waits: Vec<_> = (0..4).map(|attempt| next_wait(attempt, 3, &error(Kind::TimedOut), 1.0)).collect();
        let millis = |ms| Some(Duration::from_millis(ms));
        assert_eq!(waits, [millis(100), millis(200), millis(400), None]);
        assert_eq!(next_wait(0, 3, &error(Kind::Busy), 0.0), millis(50));
        assert_eq!(next_wait(30, 99, &error(Kind::Busy), 1.0), Some(BACKOFF_MAX));
    }

    #[test]
    fn what_cannot_pass_is_not_asked_again() {
        for kind in [Kind::Missing, Kind::Denied, Kind::Changed, Kind::Unsupported, Kind::Cancelled, Kind::Corrupt] {
            assert_eq!(next_wait(0, 3, &error(kind), 0.5), None, "{kind:?}");
        }
    }

    #[test]
    fn the_origin_may_ask_for_longer_within_reason() {
        let asked = |secs| error(Kind::Busy).with_retry_after(Some(Duration::from_secs(secs)));
        assert_eq!(next_wait(0, 3, &asked(2), 0.5), Some(Duration::from_secs(2)));
        assert_eq!(next_wait(0, 3, &asked(3600), 0.5), None);
    }
}
