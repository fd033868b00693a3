//! Counters every room adds to and the command line reads. Plain atomics, shared as one `Arc`.
//! Never here: formatting, and any decision taken from a count.

use std::sync::atomic::{AtomicU64, Ordering};

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
    /// Reads that ended in an error.
    pub read_errors: Counter,
    /// Covering queries asked of the index on the way of a read.
    pub index_lookups: Counter,
    /// Bytes that arrived from the origin.
    pub origin_bytes: Counter,
    /// Range requests made to the origin.
    pub origin_requests: Counter,
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
    /// Bytes evicted to keep the budget.
    pub cache_evicted_bytes: Counter,
    /// Bytes served but not kept: no room, or the disk failed.
    pub cache_skipped_bytes: Counter,
    /// Recorded chunks whose bytes failed their hash and were dropped.
    pub cache_corrupt_chunks: Counter,
}
