//! What the origin's last answers tell: after how long a request is late, and whether a second one may be asked for.
//! Pure: times are told, not asked for.
//! Never here: requests (see `race`).

use std::collections::VecDeque;
use std::time::Duration;

/// First bytes remembered: enough for a 95th in a hundred to mean something, few enough to follow a link that changes.
const FIRST_BYTES_MAX: usize = 64;
/// Below so many, nothing is known of the origin.
const FIRST_BYTES_MIN: usize = 16;
/// In a hundred, a request slower than so many is late.
const PERCENTILE: usize = 95;
/// Nothing is late before so many times the median: a second request takes a median itself.
const MEDIANS_MIN: u32 = 2;
/// And all is late after so many: where one in ten hangs, the 95th in a hundred hangs, too.
const MEDIANS_MAX: u32 = 4;
/// Nor earlier than this: a player does not notice it, and a busy machine is as likely the cause as a far one.
const LATE_AFTER_MIN: Duration = Duration::from_millis(200);

/// Ends of requests remembered, to see whether the origin is well.
const ENDS_MAX: usize = 32;
/// Of them so many failed: it is struggling, and asking twice would make it worse.
const FAILURES_MAX: usize = 2;

/// Requests that pay for one second request: 5 % more at most.
const REQUESTS_FOR_SECOND: u32 = 20;
/// Second requests that may be saved up: a far server that hiccups makes a few late at once.
const SAVED_MAX: u32 = 3;

/// The recent past of one origin.
#[derive(Debug)]
pub(super) struct Late {
    first_bytes: VecDeque<Duration>,
    // Oldest first; `true` is a failure.
    ends: VecDeque<bool>,
    // In requests; `REQUESTS_FOR_SECOND` of them are one second request.
    saved: u32,
}

impl Late {
    /// Nothing is known; one second request is given in advance.
    pub fn new() -> Self {
        Self { first_bytes: VecDeque::new(), ends: VecDeque::new(), saved: REQUESTS_FOR_SECOND }
    }

    /// A request was sent.
    pub fn asked(&mut self) {
        self.saved = (self.saved + 1).min(SAVED_MAX * REQUESTS_FOR_SECOND);
    }

    /// Its answer began after `first_byte`, or had not begun by then and was given up for another.
    pub fn began(&mut self, first_byte: Duration) {
        push(&mut self.first_bytes, first_byte, FIRST_BYTES_MAX);
    }

    /// It ended, well or not; one that was called off did neither.
    pub fn ended(&mut self, has_failed: bool) {
        push(&mut self.ends, has_failed, ENDS_MAX);
    }

    /// After how long a request is late; `None` when a second one would be no help.
    pub fn after(&self) -> Option<Duration> {
        let is_struggling = self.ends.iter().filter(|has_failed| **has_failed).count() > FAILURES_MAX;
        if is_struggling || self.first_bytes.len() < FIRST_BYTES_MIN {
            return None;
        }
        let mut sorted: Vec<_> = self.first_bytes.iter().copied().collect();
        sorted.sort_unstable();
        let rank = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100) - 1];
        let median = rank(50);
        Some(rank(PERCENTILE).clamp(median * MEDIANS_MIN, median * MEDIANS_MAX).max(LATE_AFTER_MIN))
    }

    /// Pays for a second request; `false` when there were too many.
    pub fn pay(&mut self) -> bool {
        let left = self.saved.checked_sub(REQUESTS_FOR_SECOND);
        self.saved = left.unwrap_or(self.saved);
        left.is_some()
    }
}

fn push<T>(queue: &mut VecDeque<T>, item: T, len_max: usize) {
    if queue.len() == len_max {
        queue.pop_front();
    }
    queue.push_back(item);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn after(first_bytes: impl IntoIterator<Item = u32>) -> Option<Duration> {
        let mut late = Late::new();
        first_bytes.into_iter().for_each(|ms| late.began(MS * ms));
        late.after()
    }

    #[test]
    fn late_is_later_than_most() {
        assert_eq!(after([150; 15]), None, "too few to tell");
        assert_eq!(after([150; 16]), Some(300 * MS), "a second request takes as long");
        // A spread: the 95th in a hundred.
        let spread = (0..64).map(|n| if n < 57 { 100 } else { 300 + n });
        assert_eq!(after(spread), Some(360 * MS));
        let spread = (0..64).map(|n| if n < 57 { 100 } else { 500 });
        assert_eq!(after(spread), Some(400 * MS), "no later than four times the usual");
        assert_eq!(after([0; 64]), Some(LATE_AFTER_MIN));
        // Only the last ones count.
        assert_eq!(after([900; 64].into_iter().chain([150; 64])), Some(300 * MS));
    }

    #[test]
    fn one_in_ten_that_hangs_is_late_all_the_same() {
        assert_eq!(after((0..64).map(|n| if n % 10 == 0 { 2_000 } else { 100 })), Some(400 * MS));
    }

    #[test]
    fn an_origin_that_struggles_is_asked_once() {
        let mut late = Late::new();
        (0..20).for_each(|_| late.began(40 * MS));
        late.ended(true);
        late.ended(true);
        assert!(late.after().is_some(), "two failures happen");
        late.ended(true);
        assert_eq!(late.after(), None);
        (0..ENDS_MAX).for_each(|_| late.ended(false));
        assert!(late.after().is_some(), "and well again");
    }

    proptest! {
        #[test]
        fn second_requests_are_few(asks in prop::collection::vec(any::<bool>(), 0..2_000)) {
            let mut late = Late::new();
            let (mut requests, mut seconds) = (0, 0);
            for is_late in asks {
                requests += 1;
                late.asked();
                seconds += u32::from(is_late && late.pay());
                prop_assert!(seconds <= requests / REQUESTS_FOR_SECOND + 1);
            }
        }

        #[test]
        fn any_past_has_an_answer(first_bytes in prop::collection::vec(any::<u32>(), FIRST_BYTES_MIN..200)) {
            prop_assert!(after(first_bytes).is_some_and(|late| late >= LATE_AFTER_MIN));
        }
    }
}
