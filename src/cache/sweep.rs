//! What a start finds and mends: data without rows, rows without data, a budget that shrank.
//! Never here: hashing. Rows are believed when they are first used, not before.

use std::sync::atomic::Ordering;

use super::Shared;
use super::data::{DISK_BLOCK_BYTES, DataFile};
use super::index::EntryRow;
use crate::error::{Error, Result};
use crate::range::ByteRange;

impl Shared {
    /// Removes orphans and counts what is there. Runs before any other thread does.
    pub(super) fn sweep(&self) -> Result<()> {
        self.index.remove_chunks_without_entry()?;
        self.data.for_each(|entry_id| {
            if !self.index.has_entry(entry_id)? {
                self.remove_or_leave(entry_id);
            }
            Ok(())
        })?;
        let mut after = i64::MIN;
        loop {
            let page = self.index.entries(after)?;
            let Some(last) = page.last() else { break };
            after = last.entry_id;
            for entry in &page {
                self.sweep_entry(entry)?;
            }
        }
        self.drop_pins_beyond_budget()?;
        self.used_bytes.store(self.index.used_bytes(DISK_BLOCK_BYTES)?, Ordering::Relaxed);
        loop {
            let over = self.used_bytes.load(Ordering::Relaxed).saturating_sub(self.budget_bytes());
            if over == 0 || self.evict(over, true)? == 0 {
                return Ok(());
            }
        }
    }

    fn sweep_entry(&self, entry: &EntryRow) -> Result<()> {
        let (chunks, held_bytes) = self.index.held(entry.entry_id)?;
        let data = self.data.open_existing(entry.entry_id)?;
        let Some(data) = data.filter(|_| chunks > 0 || entry.pinned) else {
            if entry.pinned {
                // A pin is on the file, not on what was here of it.
                return self.index.remove_chunks(entry.entry_id, DISK_BLOCK_BYTES).map(|_| ());
            }
            self.index.remove_entry(entry.entry_id, DISK_BLOCK_BYTES)?;
            self.remove_or_leave(entry.entry_id);
            return Ok(());
        };
        // Written but never recorded: then the file holds more than its rows say. (Or the filesystem counts blocks of
        // its own; then holes are punched where there are holes.) Only a file's last row ends within a block.
        let failed = |error| Error::io("looking through the cache", &error);
        if data.stamp().map_err(failed)?.held_bytes() > held_bytes.next_multiple_of(DISK_BLOCK_BYTES) {
            self.punch_unrecorded(entry, &data)?;
        }
        Ok(())
    }

    /// What can't be removed (a folder with something in it, where a data file belongs) keeps nobody from mounting.
    pub(super) fn remove_or_leave(&self, entry_id: i64) {
        if let Err(error) = self.data.remove(entry_id) {
            log::warn!("cache: what no entry needs stays: {error}");
        }
    }

    /// Punches every gap between an entry's rows.
    fn punch_unrecorded(&self, entry: &EntryRow, data: &DataFile) -> Result<()> {
        let mut at = 0;
        let punch = |from: u64, to: u64| {
            data.punch(ByteRange::new(from, to)).map_err(|error| Error::io("punching a hole into the cache", &error))
        };
        loop {
            let page = self.index.chunks(entry.entry_id, at)?;
            for chunk in &page {
                punch(at, chunk.range.start)?;
                at = chunk.range.end;
            }
            if page.is_empty() {
                return punch(at, entry.size_bytes.next_multiple_of(DISK_BLOCK_BYTES));
            }
        }
    }

    /// Deletes an entry with all its chunks, unless it is open or pinned.
    pub(super) fn retire(&self, entry_id: i64) -> Result<u64> {
        let open = self.open.lock();
        if open.get(&entry_id).is_some_and(|entry| entry.strong_count() > 0) || self.index.is_pinned(entry_id)? {
            return Ok(0);
        }
        let freed = self.index.remove_entry(entry_id, DISK_BLOCK_BYTES)?;
        self.data.remove(entry_id)?;
        self.forget_bytes(freed);
        Ok(freed)
    }
}
