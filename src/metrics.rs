//! Counters every room adds to and the command line reads. Plain atomics, shared as one `Arc`.
//! Never here: formatting, and any decision taken from a count.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::problems::Problems;
use crate::timing::Timing;

/// Times remembered: enough for a 99th in a hundred to mean something, few enough to tell of now.
const TIMES_MAX: usize = 256;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long something took, the last `TIMES_MAX` times.
#[derive(Debug)]
pub struct Times {
    // In microseconds; 0 where there is none yet.
    micros: [AtomicU32; TIMES_MAX],
    next: AtomicUsize,
}

impl Default for Times {
    fn default() -> Self {
        Self { micros: [const { AtomicU32::new(0) }; TIMES_MAX], next: AtomicUsize::new(0) }
    }
}

impl Times {
    /// It took so long once more.
    pub fn add(&self, time: Duration) {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % TIMES_MAX;
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX).max(1);
        self.micros[at].store(micros, Ordering::Relaxed);
    }

    /// What so many in a hundred did not exceed; `None` while nothing is known.
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        let known = self.micros.iter().map(|micros| micros.load(Ordering::Relaxed)).filter(|micros| *micros > 0);
        let mut sorted: Vec<_> = known.collect();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent.min(100)).div_ceil(100).max(1);
        sorted.get(rank - 1).map(|micros| Duration::from_micros(u64::from(*micros)))
    }
}

/// How much came within the last seconds.
#[derive(Debug)]
pub struct Recent {
    since: Instant,
    // What came in one second, and which second that was. Two threads that begin the same second may lose a little.
    seconds: [(AtomicU64, AtomicU64); RECENT_SECONDS + 2],
}

/// A rate is told of so many whole seconds, and the one that has begun: longer than the pauses between chunks.
const RECENT_SECONDS: usize = 4;

impl Default for Recent {
    fn default() -> Self {
        Self { since: Instant::now(), seconds: std::array::from_fn(|_| <_>::default()) }
    }
}

impl Recent {
    /// `n` more, now.
    pub fn add(&self, n: u64) {
        self.add_at(n, self.since.elapsed());
    }

    /// By the second.
    pub fn per_second(&self) -> u64 {
        self.per_second_at(self.since.elapsed())
    }

    fn add_at(&self, n: u64, at: Duration) {
        let second = at.as_secs();
        let (stamp, sum) = &self.seconds[second as usize % self.seconds.len()];
        if stamp.swap(second, Ordering::Relaxed) != second {
            sum.store(0, Ordering::Relaxed);
        }
        sum.fetch_add(n, Ordering::Relaxed);
    }

    fn per_second_at(&self, at: Duration) -> u64 {
        let first = at.as_secs().saturating_sub(RECENT_SECONDS as u64);
        let seconds =
            self.seconds.iter().filter(|(stamp, _)| (first..=at.as_secs()).contains(&stamp.load(Ordering::Relaxed)));
        let sum: u64 = seconds.map(|(_, sum)| sum.load(Ordering::Relaxed)).sum();
        let millis = at.saturating_sub(Duration::from_secs(first)).as_millis().max(1_000) as u64;
        sum.saturating_mul(1_000) / millis
    }
}

/// What happened since the start, over all files.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Reads answered, of any kind.
    pub reads: Counter,
    /// Bytes that readers got without waiting for the origin.
    pub read_cached_bytes: Counter,
    /// Bytes that readers waited for.
    pub read_waited_bytes: Counter,
    /// Reads that had to wait.
    pub reads_waited: Counter,
    /// Microseconds that they waited, together: from the question to all of its bytes.
    pub read_wait_micros: Counter,
    /// Times a player was kept waiting in the middle of a run.
    pub stalls: Counter,
    /// Microseconds of these, together.
    pub stalled_micros: Counter,
    /// Reads that ended in an error.
    pub read_errors: Counter,
    /// Covering queries asked of the index on the way of a read.
    pub index_lookups: Counter,
    /// Bytes that arrived from the origin.
    pub origin_bytes: Counter,
    /// The same, of the last seconds.
    pub origin_rate: Recent,
    /// Range requests made to the origin.
    pub origin_requests: Counter,
    /// Questions of any kind that the origin did not answer, or answered with an error that may pass.
    pub origin_errors: Counter,
    /// How long its answers about files took to begin.
    pub origin_answer_times: Times,
    /// Times it was found to be away.
    pub origin_outages: Counter,
    /// Requests made again after a failure that might pass.
    pub retries: Counter,
    /// Second requests made because the first was late; counted as requests, too.
    pub hedges: Counter,
    /// Second requests that were answered first.
    pub hedge_wins: Counter,
    /// Flights called off because nobody wanted them any longer.
    pub flights_cancelled: Counter,
    /// Bytes written to the cache.
    pub cache_written_bytes: Counter,
    /// Bytes that came from the origin and were not read before their file was closed.
    pub wasted_bytes: Counter,
    /// Bytes evicted to keep the budget.
    pub cache_evicted_bytes: Counter,
    /// Bytes served but not kept: no room, or the disk failed.
    pub cache_skipped_bytes: Counter,
    /// Recorded chunks whose bytes failed their hash and were dropped.
    pub cache_corrupt_chunks: Counter,
    /// Questions to the index, on the way of a read, for what of a range is recorded.
    pub index_query: Timing,
    /// Commits of rows for chunks that were synced.
    pub index_commit: Timing,
    /// Of the bytes of one chunk, to a file of the cache.
    pub cache_write: Timing,
    /// Of one file of the cache, with all that was written to it.
    pub cache_sync: Timing,
    /// How long a chunk waited for the cache's writer.
    pub cache_queue: Timing,
    /// From the request for a chunk's bytes to the first of them.
    pub chunk_first_byte: Timing,
    /// From the first request for a chunk to its last byte.
    pub chunk_download: Timing,
    /// How long the first read after a jump took; 0 where it was answered at once.
    pub seek: Timing,
    /// From a file's opening to the answer.
    pub open: Timing,
    /// What is wrong now, and what went wrong last.
    pub problems: Problems,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_times_tell() {
        let times = Times::default();
        assert_eq!(times.percentile(50), None);
        (0..TIMES_MAX).for_each(|_| times.add(Duration::from_hours(9)));
        (1..=TIMES_MAX as u64).for_each(|ms| times.add(Duration::from_millis(ms)));
        assert_eq!(times.percentile(50), Some(Duration::from_millis(128)));
        assert_eq!(times.percentile(99), Some(Duration::from_millis(254)));
        assert_eq!(times.percentile(0), Some(Duration::from_millis(1)));
    }

    #[test]
    fn a_rate_is_of_the_last_seconds() {
        let recent = Recent::default();
        let at = Duration::from_millis;
        recent.add_at(100, at(0));
        assert_eq!(recent.per_second_at(at(500)), 100, "no rate is told of less than a second");
        for second in 1..=20 {
            recent.add_at(100, at(second * 1_000));
        }
        assert_eq!(recent.per_second_at(at(21_000)), 100);
        assert_eq!(recent.per_second_at(at(60_000)), 0);
    }
}
