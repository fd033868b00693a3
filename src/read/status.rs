//! What an open file's reader does right now, for a person who wants to see it: put together from what is there anyway.
//! Never here: anything that a read waits for, and how it is shown.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Handle, Reader, pace};
use crate::metrics::Metrics;
use crate::range::{ByteRange, RangeSet};

/// Ranges told of one file: more than a screen has columns. Beyond, the smallest gaps are passed over.
const RANGES_MAX: usize = 256;
/// A read in a run that waits longer has let its player down: players decode about so far ahead of what they show.
const STALL_MIN: Duration = Duration::from_millis(250);

/// One open file. Counts are since it was opened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileStatus {
    /// Relative to the source.
    pub path: String,
    /// Of the file.
    pub size_bytes: u64,
    /// Where its reader stands: the one that reads on, if there are several.
    pub position_byte: u64,
    /// What lies ready after the position, without a gap.
    pub ahead_bytes: u64,
    /// How long that plays; nothing while its rate is not known.
    pub ahead_seconds: Option<f64>,
    /// Of the film, as its container tells; else, at which it is read.
    pub rate_bytes_per_second: Option<u64>,
    /// Reads, the kernel's readahead among them.
    pub reads: u64,
    /// Of them, those whose bytes had to come from the origin first.
    pub reads_waited: u64,
    /// The share of reads that did not wait, from 0 to 1; nothing before the first.
    pub hit_rate: Option<f64>,
    /// What the player waited for at first: the open and the first read together.
    pub first_byte_ms: Option<f64>,
    /// Times its reader was kept waiting in the middle of a run; seeks are none.
    pub stalls: u64,
    /// How long, together.
    pub stalled_seconds: f64,
    /// What came from the origin, lies behind the position and was never read.
    pub wasted_bytes: u64,
    /// Whether the kernel reads the file by itself: then nothing above is known of its reader.
    pub is_lent: bool,
    /// In the cache.
    pub cached_bytes: u64,
    /// Which bytes these are; of many ranges the smallest gaps are passed over.
    pub cached: Vec<ByteRange>,
    /// What is being fetched, or waits for it.
    pub in_flight: Vec<ByteRange>,
    /// Where its readers stand: a player may read picture and sound in turns.
    pub readers: Vec<u64>,
}

/// What one handle notes of itself, where a read waits anyway.
#[derive(Debug, Default)]
pub(super) struct Noted {
    // Microseconds; 0: not told.
    open_took: AtomicU64,
    // Microseconds of the open and the first read; 0: nothing was read.
    first_byte: AtomicU64,
    waited: AtomicU64,
    // Taken alone, by reads that waited.
    stalls: Mutex<Stalls>,
}

impl Noted {
    /// The open was answered after so long.
    pub(super) fn opened(&self, took: Duration) {
        self.open_took.store(took.as_micros() as u64, Ordering::Relaxed);
    }

    /// A read was answered after `waited`; only the first one counts here.
    pub(super) fn first_byte(&self, waited: Duration) {
        if self.first_byte.load(Ordering::Relaxed) == 0 {
            let micros = self.open_took.load(Ordering::Relaxed) + waited.as_micros() as u64;
            // Several first reads at once: the first answer counts.
            let _ = self.first_byte.compare_exchange(0, micros.max(1), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// A read has to wait.
    pub(super) fn waits(&self) {
        self.waited.fetch_add(1, Ordering::Relaxed);
    }

    /// A read in a run had to wait from `asked_at` until now.
    pub(super) fn waited_in_run(&self, asked_at: Instant, metrics: &Metrics) {
        let now = Instant::now();
        if now.duration_since(asked_at) >= STALL_MIN {
            let (is_new, longer) = self.stalls.lock().add(asked_at, now);
            metrics.stalls.add(u64::from(is_new));
            metrics.stalled_micros.add(longer.as_micros() as u64);
        }
    }
}

/// Times a reader was kept waiting. Reads that wait at the same time, or one right behind the other, are one stall.
#[derive(Debug, Default)]
struct Stalls {
    count: u64,
    total: Duration,
    last_end: Option<Instant>,
}

impl Stalls {
    /// Whether it is a new one, and how much longer all are now.
    fn add(&mut self, from: Instant, to: Instant) -> (bool, Duration) {
        let is_new = self.last_end.is_none_or(|end| from > end);
        self.count += u64::from(is_new);
        let from = self.last_end.map_or(from, |end| end.max(from));
        let longer = to.saturating_duration_since(from);
        self.total += longer;
        self.last_end = Some(self.last_end.map_or(to, |end| end.max(to)));
        (is_new, longer)
    }
}

impl Reader {
    /// What `handle`'s reader does. Asks the index and no origin.
    pub fn status(&self, handle: &Handle) -> FileStatus {
        let (core, entry) = (&self.core, &handle.entry);
        let size = entry.size_bytes();
        let (seen, runs) = {
            let pattern = handle.pattern.lock();
            (pattern.seen(size), pattern.runs())
        };
        let observed = handle.pace.lock().bytes_per_second();
        // A player that fills a buffer of its own reads faster than it plays: its container knows better.
        let rate = pace::rate(None, size, handle.duration.get().copied()).or(observed);
        let cached = core.cache.here(entry).unwrap_or_else(|error| {
            log::warn!("{}: {error}", entry.path());
            RangeSet::new()
        });
        let flights = core.fetcher.under_way(entry);
        let mut ready = cached.clone();
        for flight in &flights {
            ready.insert(flight.landed);
        }
        let ahead_bytes = ready
            .overlap(ByteRange::new(seen.position, size))
            .first()
            .map_or(0, |first| if first.start == seen.position { first.len() } else { 0 });
        let mut behind = entry.unread(ByteRange::new(0, seen.position));
        for run in runs.iter() {
            behind.remove(run);
        }
        let waited = handle.noted.waited.load(Ordering::Relaxed);
        let first_byte = handle.noted.first_byte.load(Ordering::Relaxed);
        let (stalls, stalled) = {
            let stalls = handle.noted.stalls.lock();
            (stalls.count, stalls.total)
        };
        #[allow(clippy::cast_precision_loss, reason = "shares and seconds are shown, not counted")]
        FileStatus {
            path: entry.path().to_owned(),
            size_bytes: size,
            position_byte: seen.position,
            ahead_bytes,
            ahead_seconds: rate.filter(|rate| *rate > 0).map(|rate| ahead_bytes as f64 / rate as f64),
            rate_bytes_per_second: rate,
            reads: seen.reads,
            reads_waited: waited,
            hit_rate: (seen.reads > 0).then(|| 1.0 - waited.min(seen.reads) as f64 / seen.reads as f64),
            first_byte_ms: (first_byte > 0).then(|| first_byte as f64 / 1e3),
            stalls,
            stalled_seconds: stalled.as_secs_f64(),
            wasted_bytes: behind.len(),
            is_lent: core.cache.is_lent(entry),
            cached_bytes: cached.len(),
            cached: coarse(&cached, RANGES_MAX),
            in_flight: flights.iter().take(RANGES_MAX).map(|flight| flight.missing).collect(),
            readers: seen.readers,
        }
    }
}

/// `set` as at most `most` ranges: the smallest gaps are passed over.
fn coarse(set: &RangeSet, most: usize) -> Vec<ByteRange> {
    let ranges: Vec<_> = set.iter().collect();
    let mut gaps: Vec<_> = ranges.windows(2).map(|two| ByteRange::new(two[0].end, two[1].start)).collect();
    let Some(too_many) = ranges.len().checked_sub(most).filter(|too_many| *too_many > 0) else { return ranges };
    gaps.sort_by_key(|gap| gap.len());
    let mut coarse = set.clone();
    for gap in gaps.into_iter().take(too_many) {
        coarse.insert(gap);
    }
    coarse.iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_that_overlap_are_one_stall() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut stalls = Stalls::default();
        for (from, to) in [(10, 12), (11, 13), (10, 11), (20, 21)] {
            stalls.add(at(from), at(to));
        }
        assert_eq!((stalls.count, stalls.total), (2, Duration::from_secs(4)));
    }

    #[test]
    fn the_first_answer_counts_with_the_open() {
        let noted = Noted::default();
        noted.opened(Duration::from_millis(40));
        noted.first_byte(Duration::from_millis(2));
        noted.first_byte(Duration::from_secs(2));
        assert_eq!(noted.first_byte.load(Ordering::Relaxed), 42_000);
    }

    #[test]
    fn of_too_many_ranges_the_smallest_gaps_go() {
        let set: RangeSet =
            [(0, 10), (11, 20), (30, 40), (42, 50)].map(|(a, b)| ByteRange::new(a, b)).into_iter().collect();
        let told = |most| coarse(&set, most).iter().map(|range| (range.start, range.end)).collect::<Vec<_>>();
        assert_eq!(told(4).len(), 4);
        assert_eq!(told(2), [(0, 20), (30, 50)]);
        assert_eq!(told(1), [(0, 50)]);
    }
}
