//! The simulated link: how far away the origin is, and when each piece of a body may go out under its rates.
//! Never here: sockets and sleeping. Callers are told a moment; waiting for it is theirs.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A wake-up later than this is not caught up: longer than a busy machine's scheduler makes a thread wait,
/// shorter than anyone would notice as a burst.
const LATENESS_MAX: Duration = Duration::from_millis(50);

/// Pieces a second under a rate: a millisecond each is fine enough that a reader sees a steady flow, and coarse
/// enough that a timer's imprecision (some 60 µs) is small beside it.
const PACED_PIECES_PER_SECOND: u64 = 1000;

/// Smaller pieces cost more in system calls than they add in smoothness.
const PACED_PIECE_BYTES_MIN: u64 = 1 << 10;

/// Larger ones would let one connection hold a shared rate for too long.
const PACED_PIECE_BYTES_MAX: u64 = 64 << 10;

/// Without a rate: large enough that system calls cost nothing, small enough to stay in a core's own cache.
const FREE_PIECE_BYTES: usize = 256 << 10;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// How far away the origin seems. The default is no distance at all: the machine's own loopback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Passes once before a new connection's first request is heard, and once between each request and its answer.
    pub round_trip: Duration,
    /// Bytes of bodies a second over each connection; `None` is unlimited.
    pub rate_per_connection: Option<u64>,
    /// Bytes of bodies a second over all connections together; `None` is unlimited.
    pub rate_total: Option<u64>,
}

impl Link {
    /// How much of a body is best written at once.
    pub(super) fn piece_bytes(self) -> usize {
        let slowest = self.rate_per_connection.into_iter().chain(self.rate_total).min();
        slowest.map_or(FREE_PIECE_BYTES, |rate| {
            (rate / PACED_PIECES_PER_SECOND).clamp(PACED_PIECE_BYTES_MIN, PACED_PIECE_BYTES_MAX) as usize
        })
    }

    /// The earliest answer to a request heard at `asked` over a connection made at `connected`.
    pub(super) fn answer_at(self, connected: Instant, asked: Instant) -> Instant {
        asked.max(connected + self.round_trip) + self.round_trip
    }
}

/// A token bucket in its virtual-scheduling form: it remembers only when everything granted so far has passed.
/// Moments are counted from an epoch of the caller's choice.
///
/// Invariant: what passes within any `t` seconds is at most `rate * (t + LATENESS_MAX)` bytes and one grant.
#[derive(Debug)]
struct TokenBucket {
    bytes_per_second: u64,
    clear_at: Duration,
}

impl TokenBucket {
    /// An empty one: the first byte takes its full time. A rate of 0 counts as 1, so that every wait has an end.
    fn new(bytes_per_second: u64, now: Duration) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), clear_at: now }
    }

    /// Forgets that nothing passed until now: being idle earns nothing.
    fn resume(&mut self, now: Duration) {
        self.clear_at = self.clear_at.max(now);
    }

    /// When the last of `bytes` more bytes has passed. Bytes granted late are let through faster until the schedule is
    /// met again, so that imprecise timers do not lower the rate.
    fn grant(&mut self, bytes: u64, now: Duration) -> Duration {
        let start = self.clear_at.max(now.saturating_sub(LATENESS_MAX));
        self.clear_at = start.saturating_add(time_for(bytes, self.bytes_per_second));
        self.clear_at
    }
}

/// How long `bytes` take, rounded up: a rate is never exceeded by rounding.
fn time_for(bytes: u64, bytes_per_second: u64) -> Duration {
    let nanos = (u128::from(bytes) * NANOS_PER_SECOND).div_ceil(u128::from(bytes_per_second));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Paces all bodies over one link.
pub(super) struct Pacer {
    link: Link,
    epoch: Instant,
    total: Option<Mutex<Total>>,
}

struct Total {
    bucket: TokenBucket,
    /// Under way right now; only when there is none is the link idle.
    bodies: usize,
}

impl Pacer {
    /// For a link nobody uses yet.
    pub(super) fn new(link: Link) -> Self {
        let bucket = |rate| Mutex::new(Total { bucket: TokenBucket::new(rate, Duration::ZERO), bodies: 0 });
        Self { link, epoch: Instant::now(), total: link.rate_total.map(bucket) }
    }

    /// The link it paces.
    pub(super) fn link(&self) -> Link {
        self.link
    }

    /// A body begins; it ends when what is returned is dropped.
    pub(super) fn begin(&self) -> BodyPace<'_> {
        let now = self.epoch.elapsed();
        if let Some(total) = &self.total {
            let mut total = total.lock();
            if total.bodies == 0 {
                total.bucket.resume(now);
            }
            total.bodies += 1;
        }
        BodyPace { pacer: self, own: self.link.rate_per_connection.map(|rate| TokenBucket::new(rate, now)) }
    }
}

/// One body's place on the link.
pub(super) struct BodyPace<'a> {
    pacer: &'a Pacer,
    own: Option<TokenBucket>,
}

impl BodyPace<'_> {
    /// When the next `bytes` may be handed over; `None` means now. A body asks for its next piece only after handing
    /// over the last, so bodies take turns on a shared rate.
    pub(super) fn due(&mut self, bytes: u64) -> Option<Instant> {
        let now = self.pacer.epoch.elapsed();
        let own = self.own.as_mut().map(|bucket| bucket.grant(bytes, now));
        let total = self.pacer.total.as_ref().map(|total| total.lock().bucket.grant(bytes, now));
        own.max(total).map(|at| self.pacer.epoch + at)
    }
}

impl Drop for BodyPace<'_> {
    fn drop(&mut self) {
        if let Some(total) = &self.pacer.total {
            total.lock().bodies -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_steady_flow_takes_exactly_its_time() {
        // 100 Mbit/s, in the pieces the server would write, each asked for when the last is due.
        let rate = 12_500_000;
        let mut bucket = TokenBucket::new(rate, 7 * MS);
        let mut now = 7 * MS;
        for _ in 0..1000 {
            now = bucket.grant(12_500, now);
        }
        assert_eq!(now, 1007 * MS);
    }

    #[test]
    fn late_wake_ups_do_not_lower_the_rate() {
        let mut bucket = TokenBucket::new(1_000_000, Duration::ZERO);
        let mut due = Duration::ZERO;
        for late_ms in (0..1000).map(|n| n * 7 % 40) {
            due = bucket.grant(1000, due + late_ms * MS);
        }
        assert_eq!(due, 1000 * MS);
    }

    #[test]
    fn a_long_pause_earns_no_more_than_the_lateness_allowed() {
        let mut bucket = TokenBucket::new(1_000_000, Duration::ZERO);
        assert_eq!(bucket.grant(1000, 500 * MS) + LATENESS_MAX, 501 * MS);
        bucket.resume(900 * MS);
        assert_eq!(bucket.grant(1000, 900 * MS), 901 * MS, "an idle link earns nothing");
    }

    proptest! {
        /// The invariant, over any pattern of asking: bytes due within a window fit the rate.
        #[test]
        fn no_window_holds_more_than_its_rate(asks in prop::collection::vec((0u64..200, 1u64..5000), 1..60)) {
            let mut bucket = TokenBucket::new(100_000, Duration::ZERO);
            let mut now = Duration::ZERO;
            let mut passed = Vec::new();
            for (pause_ms, bytes) in asks {
                now += Duration::from_millis(pause_ms);
                // A caller waits for its moment, or is late for it.
                now = now.max(bucket.grant(bytes, now));
                passed.push((now, bytes));
            }
            for (first, (from, _)) in passed.iter().enumerate() {
                let mut sum = 0;
                for (until, bytes) in &passed[first + 1..] {
                    sum += bytes;
                    prop_assert!(*from + time_for(sum, 100_000) <= *until + LATENESS_MAX);
                }
            }
        }
    }

    #[test]
    fn extreme_rates_neither_divide_by_zero_nor_overflow() {
        assert_eq!(TokenBucket::new(0, Duration::ZERO).grant(3, Duration::ZERO), Duration::from_secs(3));
        assert_eq!(time_for(u64::MAX, u64::MAX), Duration::from_secs(1));
        assert_eq!(time_for(u64::MAX, 1), Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn pieces_follow_the_slowest_rate() {
        let link = |own, total| Link { rate_per_connection: own, rate_total: total, ..Link::default() };
        assert_eq!(link(None, None).piece_bytes(), FREE_PIECE_BYTES);
        assert_eq!(link(Some(12_500_000), None).piece_bytes(), 12_500);
        assert_eq!(link(Some(12_500_000), Some(2_000_000)).piece_bytes(), 2000);
        assert_eq!(link(Some(10), None).piece_bytes(), 1 << 10);
        assert_eq!(link(None, Some(u64::MAX)).piece_bytes(), 64 << 10);
    }

    #[test]
    fn the_first_answer_takes_two_round_trips_and_each_later_one_takes_one() {
        let link = Link { round_trip: 30 * MS, ..Link::default() };
        let start = Instant::now();
        assert_eq!(link.answer_at(start, start), start + 60 * MS);
        assert_eq!(link.answer_at(start, start + 10 * MS), start + 60 * MS);
        assert_eq!(link.answer_at(start, start + 100 * MS), start + 130 * MS);
    }

    #[test]
    fn bodies_share_the_total_and_each_keeps_to_its_own() {
        let pacer = Pacer::new(Link { rate_per_connection: Some(1_000), rate_total: Some(1_500), ..Link::default() });
        let (mut a, mut b) = (pacer.begin(), pacer.begin());
        let first = a.due(1_000).expect("a rate is set");
        let second = b.due(1_000).expect("a rate is set");
        // Alone, a's second is its own rate's; behind it, b's is the shared one's: 2000 bytes at 1500 a second.
        assert!(second - first >= 300 * MS, "{:?}", second - first);
        drop((a, b));
        assert_eq!(pacer.total.as_ref().map(|total| total.lock().bodies), Some(0));
        assert!(Pacer::new(Link::default()).begin().due(1 << 40).is_none());
    }
}
