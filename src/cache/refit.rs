//! What becomes of an entry whose data file another program changed, cut, moved or removed: trust in it ends at once, and the
//! writer gives it a new file if the old one is not in its place any longer.
//! Never here: what tells one state of a file from another (see `stamp`), and hashing.
//!
//! Only the writer thread replaces a data file, so that no bytes are on their way into the old one. A file that was changed
//! where it lies keeps its rows: the hash tells which chunks are still right. Of a file that is gone, the rows go, too.
//! A file that the kernel was lent is never mended where it lies, as its readers would see holes: it gives way to a new one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::Sender;

use super::data::{DISK_BLOCK_BYTES, DataFile};
use super::hot::{Change, Claim};
use super::index::ChunkRow;
use super::keeper::{Job, Written, flush};
use super::{Entry, Shared};
use crate::error::{Error, Result};

/// Looks at a file before it counts as changed by another program: between one look and its judgement, a change of our own may
/// have ended, which three times in a row is no accident.
const LOOKS: u32 = 3;

/// Whether the file is as it was when the claim's bytes were trusted. Asked after the bytes were read.
pub(super) fn agrees(claim: &Claim<'_>, data: &DataFile) -> io::Result<bool> {
    for _ in 0..LOOKS {
        if claim.agrees(&data.stamp()?) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Shared {
    /// Opens an entry's data file, made if it is missing: then, and if it is not as it was, nothing of it is trusted. Tells
    /// whether it was made.
    pub(super) fn open_data(&self, entry_id: i64, size_bytes: u64) -> Result<(DataFile, bool)> {
        let (data, is_new) = self.data.open_or_create(entry_id, size_bytes)?;
        let stamp = data.stamp().map_err(|error| Error::io("looking at the cache", &error))?;
        // Nothing of ours changes the file of an entry that is not open, but for the evictor, which announces it.
        if is_new || !(0..LOOKS).any(|_| data.stamp().is_ok_and(|stamp| self.hot.sees(entry_id, stamp))) {
            self.hot.found_changed(entry_id, stamp);
        }
        Ok((data, is_new))
    }

    /// Looks at an open entry's data file. `true`: another program changed it. Then nothing of it is trusted from now on, and
    /// the writer sees to it.
    pub(super) fn look_at(&self, entry: &Entry) -> bool {
        let data = entry.data();
        if !data.is_somewhere() {
            return false;
        }
        for _ in 0..LOOKS {
            match data.stamp() {
                Ok(stamp) if self.hot.sees(entry.id, stamp) => return false,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        self.found_changed(entry, &data);
        true
    }

    fn found_changed(&self, entry: &Entry, data: &Arc<DataFile>) {
        let Ok(stamp) = data.stamp() else { return };
        {
            let open = entry.data.read();
            if !Arc::ptr_eq(&open, data) {
                // Replaced meanwhile: what was seen is of the old one.
                return;
            }
            self.hot.found_changed(entry.id, stamp);
        }
        entry.is_suspect.store(true, Ordering::Release);
        if !entry.is_told_changed.swap(true, Ordering::Relaxed) {
            log::warn!(
                "cache: another program changed the data file of {}: its chunks are hashed before they are used again",
                entry.path
            );
        }
        // Best effort: the writer looks again before it writes to the file.
        let _ = self.queue.offer(Job::Refit { entry_id: entry.id });
    }

    /// Makes a change of our own to a data file, so that it does not count as another program's. `None`: it is made, and the
    /// file is not trusted any longer.
    pub(super) fn change(
        &self,
        entry_id: i64,
        data: &DataFile,
        freed_bytes: u64,
        make: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Option<u64>> {
        let change = self.announce(entry_id, data, freed_bytes)?;
        make()?;
        let Some(change) = change else { return Ok(None) };
        Ok(change.end(data.stamp()?))
    }

    /// Makes an entry's data file longer, which counts as no other program's change.
    pub(super) fn lengthen(&self, entry_id: i64, data: &DataFile, size_bytes: u64) -> io::Result<()> {
        let change = self.announce(entry_id, data, 0)?;
        if let Some(change) = &change {
            self.hot.grows(change, size_bytes);
        }
        data.set_len(size_bytes)?;
        if let Some(change) = change {
            change.end(data.stamp()?);
        }
        Ok(())
    }

    fn announce(&self, entry_id: i64, data: &DataFile, freed_bytes: u64) -> io::Result<Option<Change<'_>>> {
        for _ in 0..LOOKS {
            let change = self.hot.begin_change(entry_id, data.stamp()?, freed_bytes);
            if change.is_some() {
                return Ok(change);
            }
        }
        let stamp = data.stamp()?;
        self.hot.found_changed(entry_id, stamp);
        Ok(self.hot.begin_change(entry_id, stamp, freed_bytes))
    }

    /// Whether an open entry's data file is still the one that its name leads to. A folder above it that was moved leaves no
    /// trace on the file itself.
    pub(super) fn is_in_place(&self, entry: &Entry) -> bool {
        let Ok(stamp) = entry.data().stamp() else { return true };
        match self.data.open_existing(entry.id) {
            Ok(Some(there)) => there.stamp().is_ok_and(|there| stamp.is_same_file(&there)),
            Ok(None) => false,
            // What can't be looked at is not moved.
            Err(_) => true,
        }
    }

    /// Has the writer see to an open entry whose data file is not in its place any longer.
    pub(super) fn refit_if_moved(&self, entry: &Entry) {
        if !self.is_in_place(entry) {
            entry.is_suspect.store(true, Ordering::Release);
            let _ = self.queue.offer(Job::Refit { entry_id: entry.id });
        }
    }

    /// Sees to a data file that another program changed. Called by the writer thread only.
    pub(super) fn refit(&self, entry: &Entry, written: &Sender<Written>) -> Result<()> {
        entry.is_suspect.store(false, Ordering::Release);
        let failed = |error: io::Error| Error::io(format!("looking at the cached data of {}", entry.path), &error);
        let data = entry.data();
        let stamp = data.stamp().map_err(failed)?;
        let in_place = self.data.open_existing(entry.id)?.map(|data| data.stamp()).transpose().map_err(failed)?;
        if in_place.is_some_and(|in_place| stamp.is_same_file(&in_place)) {
            let has_other_size = stamp.size_bytes() != entry.size_bytes();
            if has_other_size && self.hot.is_pinned(entry.id) {
                log::warn!(
                    "cache: another program cut or grew the data file of {}, which the kernel reads: it gets a new one",
                    entry.path
                );
                return self.begin_file_anew(entry, written);
            }
            if has_other_size {
                // What is new of it is a hole, and the rows there fail their hash.
                data.set_len(entry.size_bytes()).map_err(failed)?;
                self.hot.found_changed(entry.id, data.stamp().map_err(failed)?);
            }
            return Ok(());
        }
        log::warn!("cache: the data file of {} is gone: what it held is fetched again", entry.path);
        self.begin_file_anew(entry, written)
    }

    /// Drops a recorded chunk whose bytes are wrong, but for its hole; `true`: that is to be punched. Called by the writer thread
    /// only: no row goes, and no bytes come, before the hole is there.
    pub(super) fn drop_row(&self, entry: &Entry, chunk: &ChunkRow, written: &Sender<Written>) -> Result<bool> {
        // Its right bytes may have been written since the check, and wait for their row.
        flush(written);
        let data = entry.data();
        if !self.index.covering(entry.id, chunk.range)?.contains(chunk) || Self::is_whole(&data, chunk) {
            return Ok(false);
        }
        log::warn!("cache: {} of {} failed its hash and is fetched again", chunk.range, entry.path);
        self.metrics.cache_corrupt_chunks.add(1);
        // Parts of it may have been trusted before the disk failed.
        if !self.hot.distrust(entry.id, entry.chunk_size_bytes, chunk.range) {
            // A hole in this file would be zeros for the program that the kernel reads it for.
            return self.begin_file_anew(entry, written).map(|()| false);
        }
        self.index.remove(std::slice::from_ref(chunk))?;
        Ok(true)
    }

    /// Forgets what the data file of an open entry held, and gives the entry a new file. Called by the writer thread only.
    fn begin_file_anew(&self, entry: &Entry, written: &Sender<Written>) -> Result<()> {
        if self.hot.is_pinned(entry.id) {
            // The kernel goes on with the file that it was lent, as that is now, until its readers close it.
            self.data.remove(entry.id)?;
        }
        self.forget_rows(entry.id, written)?;
        self.replace_data(entry);
        Ok(())
    }

    /// Gives an open entry the data file that is in its place, or a new one. Called by the writer thread only.
    pub(super) fn replace_data(&self, entry: &Entry) {
        let made = self.data.open_or_create(entry.id, entry.size_bytes());
        let (made, _) = made.unwrap_or_else(|error| {
            log::warn!("cache: {} is served but not kept: {error}", entry.path);
            (DataFile::nowhere(), true)
        });
        let mut open = entry.data.write();
        if let Ok(stamp) = made.stamp() {
            self.hot.found_changed(entry.id, stamp);
        }
        *open = Arc::new(made);
    }

    /// The rows of an entry go, whose data file is gone. Called by the writer thread only.
    pub(super) fn forget_rows(&self, entry_id: i64, written: &Sender<Written>) -> Result<()> {
        // What is on its way into the index first, so that it goes, too.
        flush(written);
        let removed_bytes = self.index.remove_chunks(entry_id, DISK_BLOCK_BYTES)?;
        self.forget_bytes(removed_bytes);
        Ok(())
    }
}
