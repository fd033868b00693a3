//! Bytes of an entry that came from the origin while it was open, and that nobody has read yet: what is left of them
//! when it is closed was fetched in vain.
//! Never here: which bytes are there (see `hot` and `index`).

use std::sync::Arc;

use parking_lot::Mutex;

use super::{Cache, Entry};
use crate::error::Result;
use crate::metrics::Metrics;
use crate::range::{ByteRange, RangeSet};

/// Ranges noted of one entry: all of a film's chunks. What comes scattered beyond that is not counted.
const RANGES_MAX: usize = 8_192;

/// What is to be read of one entry.
pub(super) struct Unread {
    // Taken alone, once for each chunk that comes.
    ranges: Mutex<RangeSet>,
    metrics: Arc<Metrics>,
}

impl Unread {
    pub(super) fn new(metrics: &Arc<Metrics>) -> Self {
        Self { ranges: Mutex::default(), metrics: Arc::clone(metrics) }
    }

    /// These have come.
    pub(super) fn came(&self, range: ByteRange) {
        let mut ranges = self.ranges.lock();
        if ranges.iter().count() < RANGES_MAX {
            ranges.insert(range);
        }
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.metrics.wasted_bytes.add(self.ranges.get_mut().len());
    }
}

impl Entry {
    /// What came from the origin of `range` while the entry was open, without what `was_read`.
    pub fn unread(&self, range: ByteRange) -> RangeSet {
        self.unread.ranges.lock().overlap(range).into_iter().collect()
    }

    /// A reader that is done has read these.
    pub fn was_read(&self, read: &RangeSet) {
        let mut unread = self.unread.ranges.lock();
        for range in read.iter() {
            unread.remove(range);
        }
    }
}

impl Cache {
    /// All that can be read of `entry` now, trusted or yet to be checked. Unlike `coverage` it counts as no use.
    pub fn here(&self, entry: &Entry) -> Result<RangeSet> {
        let mut here = RangeSet::new();
        // What has come, and has no row yet. Never all slots of a file: its size is whatever its server says.
        for come in entry.unread(ByteRange::new(0, entry.size_bytes())).iter() {
            for part in self.shared.hot.look(entry.id, entry.chunk_size_bytes, come).iter() {
                here.insert(part);
            }
        }
        let mut from = 0;
        loop {
            let page = self.shared.index.chunks(entry.id, from)?;
            let Some(last) = page.last() else { return Ok(here) };
            from = last.range.end;
            for row in &page {
                here.insert(row.range);
            }
        }
    }

    /// Whether the kernel reads the entry by itself.
    pub fn is_lent(&self, entry: &Entry) -> bool {
        self.shared.hot.is_pinned(entry.id)
    }
}
