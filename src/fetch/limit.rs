//! How many requests the origin takes at once, as its refusals tell. Pure.
//! Never here: what a refusal is, and who waits for his turn.
//!
//! Home servers, download hosts and proxies answer one or two requests at once and refuse what comes beside them. A refusal
//! while others are under way tells how many were too many; the limit then is what was seen to work:
//!
//! ```text
//! most ── refused beside n others ──▶ n ── HOLD answers at the limit ──▶ n + 1 ── answered ──▶ half the HOLD …
//!                                     ▲                                    └───── refused ──▶ twice the HOLD
//!                                     └──────────────────────────────────────────────┘
//! ```
//!
//! A server that fails now and then answers most requests at the limit, so that the limit soon is back where it was. A
//! request that is refused though none is beside it tells nothing of how many are too many.

/// Answers at the limit before one more request at once is tried, at first.
const HOLD_FIRST: u32 = 4;
/// And at most: a trial costs one request that is refused, and is made again.
const HOLD_MAX: u32 = 64;

/// The limit, and what is known of it.
///
/// Invariant: `1 <= now <= most`. It begins at `most`: what was never refused is not limited.
#[derive(Debug)]
pub(super) struct Limit {
    now: usize,
    most: usize,
    hold: u32,
    // Answers at the limit since it last changed.
    answered: u32,
    // The limit was raised, and nothing was answered at it yet.
    is_trial: bool,
}

impl Limit {
    pub fn new(most: usize) -> Self {
        let most = most.max(1);
        Self { now: most, most, hold: HOLD_FIRST, answered: 0, is_trial: false }
    }

    /// Requests at once.
    pub fn now(&self) -> usize {
        self.now
    }

    /// Whether the origin was seen to take fewer than are wanted.
    pub fn is_low(&self) -> bool {
        self.now < self.most
    }

    /// A request was refused while so many others were under way.
    pub fn refused(&mut self, others: usize) {
        if others == 0 || others >= self.now {
            return;
        }
        if self.is_trial {
            self.hold = (self.hold * 2).min(HOLD_MAX);
        }
        (self.now, self.answered, self.is_trial) = (others, 0, false);
    }

    /// A request was answered while so many others were under way. Whether one more may be tried now.
    pub fn answered(&mut self, others: usize) -> bool {
        if others + 1 < self.now {
            return false;
        }
        if std::mem::take(&mut self.is_trial) {
            self.hold = (self.hold / 2).max(1);
        }
        if !self.is_low() {
            return false;
        }
        self.answered += 1;
        let is_raised = self.answered >= self.hold;
        if is_raised {
            (self.now, self.answered, self.is_trial) = (self.now + 1, 0, true);
        }
        is_raised
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sends `requests` one behind the other, each beside as many others as the limit allows; how many were refused.
    fn send(limit: &mut Limit, requests: usize, mut takes: impl FnMut(usize) -> bool) -> usize {
        let mut refused = 0;
        for _ in 0..requests {
            let others = limit.now() - 1;
            if takes(others + 1) {
                limit.answered(others);
            } else {
                limit.refused(others);
                refused += 1;
            }
        }
        refused
    }

    #[test]
    fn limit_falls_to_what_was_seen_to_work() {
        let mut limit = Limit::new(10);
        // Eight requests at once at a server that takes two: six are refused, one after the other.
        for others in (2..8).rev() {
            limit.refused(others);
        }
        assert_eq!(limit.now(), 2);
        limit.refused(0);
        assert_eq!(limit.now(), 2, "a lone request that is refused tells nothing");
        let mut one = Limit::new(1);
        one.refused(0);
        assert!(one.now() == 1 && !one.is_low());
    }

    #[test]
    fn limit_grows_slowly_where_more_is_refused() {
        for takes in [1, 2, 5] {
            let mut limit = Limit::new(10);
            let refused = send(&mut limit, 2_000, |at_once| at_once <= takes);
            assert!(limit.now().abs_diff(takes) <= 1 && refused < 2_000 / 20, "{takes}: {limit:?}, {refused} refused");
        }
    }

    #[test]
    fn limit_is_lifted_when_the_origin_takes_more_again() {
        let mut limit = Limit::new(10);
        send(&mut limit, 500, |at_once| at_once <= 1);
        send(&mut limit, 500, |_| true);
        assert!(!limit.is_low(), "{limit:?}");
    }

    #[test]
    fn limit_of_an_origin_that_fails_now_and_then_stays_high() {
        const SEEDS: usize = 50;
        const REQUESTS: usize = 1_000;
        let mut sum = 0;
        for seed in 0..SEEDS {
            let (mut limit, mut dice) = (Limit::new(10), fastrand::Rng::with_seed(seed as u64));
            for _ in 0..REQUESTS {
                send(&mut limit, 1, |_| dice.u8(..10) > 0);
                sum += limit.now();
            }
        }
        assert!(sum > 8 * SEEDS * REQUESTS, "{sum}");
    }

    proptest! {
        #[test]
        fn limit_stays_within_its_bounds(most in 1usize..70, steps in prop::collection::vec((any::<bool>(), 0usize..80), 0..500)) {
            let mut limit = Limit::new(most);
            for (is_refused, others) in steps {
                if is_refused { limit.refused(others) } else { limit.answered(others); }
                prop_assert!((1..=most).contains(&limit.now()));
            }
        }
    }
}
