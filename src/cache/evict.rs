//! Making room: the budget is hard, so room is made before bytes are written, chunk by chunk, least recently used
//! first, never a chunk being read.
//! Never here: writing chunks.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::Shared;
use super::data::disk_cost;
use super::index::ChunkRow;
use crate::error::Result;
use crate::sys;

/// Rows looked at in one go.
const PAGE: usize = 64;
/// Rows passed over, because they are being read, before the search ends.
const PASSED_OVER_MAX: usize = 4_096;
/// Evicted together at least this part of the budget, so that one transaction serves many chunks.
const BATCH_SHARE: u64 = 128;

impl Shared {
    /// Bytes that must go before `cost` more can be written.
    pub(super) fn shortage(&self, cost: u64) -> u64 {
        let used = self.used_bytes.load(Ordering::Relaxed);
        let over_budget = (used + cost).saturating_sub(self.budget_bytes());
        // A filesystem that can't tell how full it is will say so when it is written to.
        let free = sys::free_bytes(&self.lock).unwrap_or(u64::MAX);
        let over_disk = self.config.min_free_bytes.saturating_add(cost).saturating_sub(free);
        over_budget.max(over_disk)
    }

    /// Evicts until `shortage` bytes are free or nothing more can go. Called by the writer thread only, so that no
    /// new bytes are written to a range between its row's end and its hole. Returns the bytes freed.
    pub(super) fn evict(&self, shortage: u64) -> Result<u64> {
        self.index.touch(&self.hot.take_touches())?;
        let target = shortage.max(self.budget_bytes() / BATCH_SHARE);
        let mut victims: Vec<(ChunkRow, u64)> = Vec::new();
        let mut wanted = 0;
        let mut passed = 0;
        // Not read through us, they look old: passed over one by one, they would end the search before it finds anything.
        let lent = self.hot.pinned();
        'search: while passed < PASSED_OVER_MAX {
            let page = self.index.oldest(passed, PAGE, &lent)?;
            let is_last = page.len() < PAGE;
            for (row, slot_size) in page {
                passed += 1;
                if !self.hot.release(row.entry_id, slot_size, row.range) {
                    continue;
                }
                wanted += disk_cost(row.range);
                victims.push((row, slot_size));
                if wanted >= target {
                    break 'search;
                }
            }
            if is_last {
                break;
            }
        }
        let rows: Vec<_> = victims.iter().map(|(row, _)| row.clone()).collect();
        let removed = self.index.remove(&rows);
        let mut freed = 0;
        for (row, slot_size) in &victims {
            if removed.is_ok() {
                match self.with_data(row.entry_id, |data| data.punch(row.range)) {
                    Ok(()) => {
                        self.forget_bytes(disk_cost(row.range));
                        freed += disk_cost(row.range);
                        self.metrics.cache_evicted_bytes.add(row.range.len());
                    }
                    // They stay counted, as they stay on the disk, until the next start sweeps them.
                    Err(error) => log::warn!("cache: cannot evict {}: {error}", row.range),
                }
            }
            self.hot.gone(row.entry_id, *slot_size, row.range);
        }
        removed?;
        // An entry whose last chunk went is a row and an empty file: a scan of many films must not leave a heap of them.
        for entry_id in rows.iter().map(|row| row.entry_id).collect::<BTreeSet<_>>() {
            if self.index.held(entry_id)?.0 == 0 {
                self.retire(entry_id)?;
            }
        }
        Ok(freed)
    }
}
