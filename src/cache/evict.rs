//! Making room: the budget is hard, so room is made before bytes are written, chunk by chunk, least recently used
//! first, never a chunk being read. What players open films with outlives the middle of films, within its share.
//! Never here: writing chunks.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::Shared;
use super::data::disk_cost;
use super::index::{ChunkRow, Part};
use crate::config::format_size;
use crate::error::Result;
use crate::sys;

/// Rows looked at in one go.
const PAGE: usize = 64;
/// Rows passed over, because they are being read, before the search ends.
const PASSED_OVER_MAX: usize = 4_096;
/// Evicted together at least this part of the budget, so that one transaction serves many chunks.
const BATCH_SHARE: u64 = 128;
/// Openings may hold this part of the room that is not pinned before they give way first: with 10 GiB those of some 600 films. A library
/// that is scanned has thousands, and they must not push out all else.
const OPENING_SHARE: u64 = 4;

/// Who gives way, one after the other: chunks of which kind, and at most so many bytes of them. Openings only of what is
/// above their share; then the middle of films; then, `at_last`, all openings.
fn order(opening_bytes: u64, room_bytes: u64, at_last: bool) -> [(Part, u64); 3] {
    let above_share = opening_bytes.saturating_sub(room_bytes / OPENING_SHARE);
    [(Part::Opening, above_share), (Part::Middle, u64::MAX), (Part::Opening, if at_last { u64::MAX } else { 0 })]
}

impl Shared {
    /// Bytes that must go before `cost` more can be written.
    pub(super) fn shortage(&self, cost: u64) -> u64 {
        let used = self.used_bytes.load(Ordering::Relaxed);
        let over_budget = (used + cost).saturating_sub(self.budget_bytes());
        let over_disk = self.config.min_free_bytes.saturating_add(cost).saturating_sub(self.free_bytes());
        over_budget.max(over_disk)
    }

    /// What the cache's disk has free. A filesystem that can't tell how full it is will say so when it is written to.
    pub(super) fn free_bytes(&self) -> u64 {
        sys::free_bytes(self.lock.lock().file()).unwrap_or(u64::MAX)
    }

    /// Why there is no room, though all was evicted that could be, for a person.
    pub(super) fn why_no_room(&self) -> String {
        let (free, min_free, dir) = (self.free_bytes(), self.config.min_free_bytes, self.config.dir.display());
        if free <= min_free.saturating_add(self.config.chunk_size_bytes) {
            return disk_is_full(&dir.to_string(), free, min_free);
        }
        "everything in it is pinned or being read: raise --cache-size, or unpin something".to_owned()
    }

    /// Evicts until `shortage` bytes are free or nothing more can go. Called by the writer thread only, so that no
    /// new bytes are written to a range between its row's end and its hole. `at_last`: there is nothing to wait for that
    /// could go before the openings. Returns the bytes freed.
    pub(super) fn evict(&self, shortage: u64, at_last: bool) -> Result<u64> {
        self.index.touch(&self.hot.take_touches())?;
        let target = shortage.max(self.budget_bytes() / BATCH_SHARE);
        let mut victims: Vec<(ChunkRow, u64)> = Vec::new();
        let mut wanted = 0;
        let mut passed = [0; 2];
        // Not read through us, they look old: passed over one by one, they would end the search before it finds anything.
        let lent = self.hot.pinned();
        let mut searched = Ok(());
        'search: for (part, bytes_max) in order(self.index.opening_bytes()?, self.room_bytes(), at_last) {
            let passed = &mut passed[part as usize];
            let enough = target.min(bytes_max.saturating_add(wanted));
            let mut is_last = false;
            while wanted < enough && *passed < PASSED_OVER_MAX && !is_last {
                let page = match self.index.oldest(part, *passed, PAGE, &lent) {
                    Ok(page) => page,
                    Err(error) => {
                        // What is released already must go, or nobody could ever read or fetch it again.
                        searched = Err(error);
                        break 'search;
                    }
                };
                is_last = page.len() < PAGE;
                for (row, slot_size) in page {
                    if wanted >= enough {
                        break;
                    }
                    *passed += 1;
                    if self.hot.release(row.entry_id, slot_size, row.range) {
                        wanted += disk_cost(row.range);
                        victims.push((row, slot_size));
                    }
                }
            }
        }
        let rows: Vec<_> = victims.iter().map(|(row, _)| row.clone()).collect();
        let removed = self.index.remove(&rows);
        let mut freed = 0;
        for (row, slot_size) in &victims {
            if removed.is_ok() {
                match self.with_data(row.entry_id, disk_cost(row.range), |data| data.punch(row.range)) {
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
        searched.map(|()| freed)
    }
}

/// The disk of the cache in `dir` has too little free for anything to be kept: why, and what to do.
pub(super) fn disk_is_full(dir: &str, free_bytes: u64, min_free_bytes: u64) -> String {
    let (free, min_free) = (format_size(free_bytes), format_size(min_free_bytes));
    format!(
        "the disk of {dir} has {free} free, and --min-free leaves {min_free} to others: free some of it, or lower --min-free"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openings_outlive_the_middle_within_their_share() {
        for (opening_bytes, first) in [(0, 0), (250, 0), (251, 1), (900, 650), (u64::MAX, u64::MAX - 250)] {
            for (at_last, last) in [(false, 0), (true, u64::MAX)] {
                let expected = [(Part::Opening, first), (Part::Middle, u64::MAX), (Part::Opening, last)];
                assert_eq!(order(opening_bytes, 1_000, at_last), expected);
            }
        }
    }
}
