//! The bandwidth limit: one bucket for all that the origin sends. Bytes are paid for before they are asked for, as what was
//! asked for comes, whatever we do about it; so a request under a limit is short.
//! Never here: the origin's own rate. A flight that was held back tells nothing of it, and is not measured.
//!
//! The rules:
//! - Whoever asks waits until all that was asked for before is paid for. No more comes than the limit, but for what `BURST`
//!   saves up and for one request of each kind.
//! - While somebody waits for bytes, guesses get none; but each asks once in `GUESS_WAIT_MAX`, so that none waits for ever,
//!   or later where they are many: all together they get a small part (`GUESS_PAUSE`).
//! - Whoever waits for bytes does not wait for guesses to be paid for. They are, before the next guess.

use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::flight::Flight;
use crate::config::BLOCK_SIZE_BYTES;

/// What was not used may be used so much later: a thread that wakes late loses nothing.
const BURST: Duration = Duration::from_millis(100);
/// Somebody is waiting until this long after what he asked for is paid for: between two reads, and two requests of one.
const DEMAND_HOLD: Duration = Duration::from_millis(250);
/// A guess is put off no longer, if it is the next one: a film that is read too fast for the limit is fetched ahead, too.
const GUESS_WAIT_MAX: Duration = Duration::from_secs(2);
/// While somebody waits, a guess is followed by a pause of so many times its own length: all guesses together get a fifth.
const GUESS_PAUSE: u32 = 4;
/// A request takes this long at the limit: a small part of ten seconds, over which the rate should be as stated. A guess
/// takes less, as it may be in somebody's way.
const DEMAND_REQUEST: Duration = Duration::from_millis(200);
const GUESS_REQUEST: Duration = Duration::from_millis(100);
/// No request takes longer; so times can be added to without care.
const PAY_MAX: Duration = Duration::from_hours(1);
/// How often whoever is held back looks whether somebody wants its bytes by now, or nobody any longer.
const LOOK: Duration = Duration::from_millis(20);

/// What may come, for all connections together.
pub(super) struct Throttle {
    // Taken alone, for a look. `None`: no limit.
    bucket: Option<Mutex<Bucket>>,
}

/// The decision. Pure: times are told, not asked for.
struct Bucket {
    bytes_per_second: u64,
    // By then all that was asked for is paid for; and what somebody waited for. The second is never later.
    paid_at: Instant,
    demand_paid_at: Instant,
    // Until then no guess has its turn while somebody is waiting: one had it a moment ago.
    guess_pause_until: Instant,
    // Until then somebody is waiting.
    demanded_until: Option<Instant>,
}

impl Bucket {
    fn new(bytes_per_second: u64, now: Instant) -> Self {
        Self { bytes_per_second, paid_at: now, demand_paid_at: now, guess_pause_until: now, demanded_until: None }
    }

    /// Takes `bytes` at `now`, for somebody who has waited for them since `since`; or tells when to try again.
    fn take(&mut self, bytes: u64, is_demanded: bool, since: Instant, now: Instant) -> Result<(), Instant> {
        let due = if is_demanded {
            self.demand_paid_at
        } else {
            let yields_until = self.demanded_until.map_or(since, |until| until.min(since + GUESS_WAIT_MAX));
            let paid_at =
                if self.is_demanded(now) { self.demand_paid_at.max(self.guess_pause_until) } else { self.paid_at };
            paid_at.max(yields_until)
        };
        if due > now {
            return Err(due);
        }
        if !is_demanded {
            self.guess_pause_until = now + self.time_of(bytes) * (1 + GUESS_PAUSE);
        }
        self.came(bytes, is_demanded, now);
        Ok(())
    }

    /// So many bytes come without having been paid for.
    fn came(&mut self, bytes: u64, is_demanded: bool, now: Instant) {
        let time = self.time_of(bytes);
        let add = |paid_at: Instant| paid_at.max(now.checked_sub(BURST).unwrap_or(now)) + time;
        self.paid_at = add(self.paid_at);
        // What a guess takes beside them is paid by whoever waits, or it would come on top of the limit.
        if is_demanded || self.is_demanded(now) {
            self.demand_paid_at = add(self.demand_paid_at);
        }
        if is_demanded {
            self.demanded_until = Some(self.demand_paid_at.max(now) + DEMAND_HOLD);
        }
    }

    fn is_demanded(&self, now: Instant) -> bool {
        self.demanded_until.is_some_and(|until| now < until)
    }

    fn time_of(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(PAY_MAX)
    }

    /// The longest request; whole blocks.
    fn request_max_bytes(&self, is_demanded: bool) -> u64 {
        let time = if is_demanded { DEMAND_REQUEST } else { GUESS_REQUEST };
        let bytes = u128::from(self.bytes_per_second) * time.as_micros() / 1_000_000;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        (bytes - bytes % BLOCK_SIZE_BYTES).max(BLOCK_SIZE_BYTES)
    }
}

impl Throttle {
    /// So many bytes a second; `None`: any number.
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bucket: bytes_per_second.map(|rate| Mutex::new(Bucket::new(rate, Instant::now()))) }
    }

    /// How many of the flight's missing bytes may be asked for: waits until that is so, or the flight is called off. `None`:
    /// all.
    pub(super) fn wait_to_ask(&self, flight: &Flight) -> Option<u64> {
        let bucket = self.bucket.as_ref()?;
        let since = Instant::now();
        loop {
            let (is_demanded, missing) = (flight.is_waited_for(), flight.missing().len());
            let now = Instant::now();
            let mut bucket = bucket.lock();
            let bytes = bucket.request_max_bytes(is_demanded).min(missing);
            let Err(due) = bucket.take(bytes, is_demanded, since, now) else { return Some(bytes) };
            drop(bucket);
            if flight.cancel.is_cancelled() {
                return Some(bytes);
            }
            thread::sleep((due - now).min(LOOK));
        }
    }

    /// Bytes of an answer that was under way before its flight have come: what is asked for later waits the longer.
    pub(super) fn came_unasked(&self, bytes: u64) {
        if let Some(bucket) = &self.bucket {
            bucket.lock().came(bytes, false, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: u64 = 1_000_000;
    const PIECE: u64 = 64 << 10;
    const MS: Duration = Duration::from_millis(1);

    /// Connections that ask whenever they may, for `time`: what each has asked for.
    fn run(bucket: &mut Bucket, from: Instant, time: Duration, demanded: &[bool]) -> Vec<u64> {
        let mut since: Vec<_> = demanded.iter().map(|_| from).collect();
        let mut taken = vec![0; demanded.len()];
        let mut now = from;
        while now < from + time {
            // None is always the first to look.
            let first = (now - from).as_millis() as usize;
            for at in (0..demanded.len()).map(|at| (first + at) % demanded.len()) {
                if bucket.take(PIECE, demanded[at], since[at], now).is_ok() {
                    taken[at] += PIECE;
                    since[at] = now;
                }
            }
            now += MS;
        }
        taken
    }

    #[test]
    fn guesses_alone_share_the_limit() {
        let now = Instant::now();
        let taken = run(&mut Bucket::new(RATE, now), now, 10_000 * MS, &[false; 4]);
        assert!((9_900_000..10_200_000).contains(&taken.iter().sum::<u64>()), "{taken:?}");
    }

    #[test]
    fn who_waits_gets_all_but_what_keeps_guesses_going() {
        let now = Instant::now();
        let mut bucket = Bucket::new(RATE, now);
        let taken = run(&mut bucket, now, 10_000 * MS, &[true, false, false]);
        assert!((9_900_000..10_200_000).contains(&taken.iter().sum::<u64>()), "{taken:?}");
        assert!(taken[1..].iter().all(|bytes| (3 * PIECE..=6 * PIECE).contains(bytes)), "{taken:?}");
        // Then nobody waits any longer.
        let taken = run(&mut bucket, now + 10_000 * MS, 2_000 * MS, &[false, false]);
        assert!(taken.iter().sum::<u64>() > 1_500_000, "{taken:?}");
    }

    #[test]
    fn many_guesses_do_not_outvote_who_waits() {
        let now = Instant::now();
        let demanded: Vec<_> = (0..49).map(|at| at == 0).collect();
        let taken = run(&mut Bucket::new(RATE, now), now, 10_000 * MS, &demanded);
        assert!(taken[0] > 7_500_000, "{taken:?}");
        assert!((1_000_000..2_200_000).contains(&taken[1..].iter().sum::<u64>()), "{taken:?}");
    }

    #[test]
    fn what_guesses_have_taken_holds_no_reader_up() {
        let now = Instant::now();
        let mut bucket = Bucket::new(RATE, now);
        assert_eq!(bucket.take(2_000_000, false, now, now), Ok(()));
        assert_eq!(bucket.take(1, false, now, now), Err(now + 2_000 * MS));
        assert_eq!(bucket.take(100_000, true, now, now), Ok(()));
        assert_eq!(bucket.take(100_000, true, now, now), Err(now + 100 * MS));
        // What came unasked is paid for afterwards.
        let mut bucket = Bucket::new(RATE, now);
        bucket.came(500_000, false, now);
        assert_eq!(bucket.take(1, false, now, now), Err(now + 500 * MS));
    }

    #[test]
    fn requests_are_as_short_as_the_limit_is_low() {
        for (rate, demanded, guessed) in [(65_536, 1, 1), (2_500_000, 7, 3), (12_500_000, 38, 19)] {
            let bucket = Bucket::new(rate, Instant::now());
            let blocks = [true, false].map(|is_demanded| bucket.request_max_bytes(is_demanded) / BLOCK_SIZE_BYTES);
            assert_eq!(blocks, [demanded, guessed], "{rate}");
        }
        assert!(Bucket::new(u64::MAX, Instant::now()).request_max_bytes(true) > 1 << 40);
    }

    proptest! {
        #[test]
        fn no_order_of_requests_exceeds_the_limit(
            asked in prop::collection::vec((1u64..100_000, any::<bool>(), 0u32..300), 1..300),
        ) {
            let begun = Instant::now();
            let (mut bucket, mut now, mut bytes) = (Bucket::new(RATE, begun), begun, 0);
            for (piece, is_demanded, pause) in asked {
                now += MS * pause;
                let since = now;
                while let Err(due) = bucket.take(piece, is_demanded, since, now) {
                    prop_assert!(due > now && due - now < 3_000 * MS);
                    now = due;
                }
                bytes += piece;
                // What was saved up, and the last request of each kind.
                let allowed = (now - begun + BURST).as_micros() as u64 + 2 * 100_000;
                prop_assert!(bytes <= allowed, "{bytes} bytes where {allowed} may come");
            }
        }
    }
}
