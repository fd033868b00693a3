//! A look at the counters a demo shows, and what changed between two looks.
//! Never here: printing.

use crate::metrics::Metrics;

/// Counts at one moment, or what came between two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) reads: u64,
    pub(super) read_errors: u64,
    pub(super) reads_waited: u64,
    /// What those waited, together.
    pub(super) read_wait_micros: u64,
    /// Bytes that readers got from the cache.
    pub(super) cached_bytes: u64,
    /// Bytes that readers waited for.
    pub(super) waited_bytes: u64,
    pub(super) origin_requests: u64,
    pub(super) origin_bytes: u64,
}

impl Counted {
    /// The counts right now.
    pub(super) fn now(metrics: &Metrics) -> Self {
        Self {
            reads: metrics.reads.get(),
            read_errors: metrics.read_errors.get(),
            reads_waited: metrics.reads_waited.get(),
            read_wait_micros: metrics.read_wait_micros.get(),
            cached_bytes: metrics.read_cached_bytes.get(),
            waited_bytes: metrics.read_waited_bytes.get(),
            origin_requests: metrics.origin_requests.get(),
            origin_bytes: metrics.origin_bytes.get(),
        }
    }

    /// What came since `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            reads: self.reads - earlier.reads,
            read_errors: self.read_errors - earlier.read_errors,
            reads_waited: self.reads_waited - earlier.reads_waited,
            read_wait_micros: self.read_wait_micros - earlier.read_wait_micros,
            cached_bytes: self.cached_bytes - earlier.cached_bytes,
            waited_bytes: self.waited_bytes - earlier.waited_bytes,
            origin_requests: self.origin_requests - earlier.origin_requests,
            origin_bytes: self.origin_bytes - earlier.origin_bytes,
        }
    }
}
