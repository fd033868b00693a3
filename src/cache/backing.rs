//! A whole entry lent out as one file: pinned for as long as it is, so that no byte under its reader ever goes away.
//! Never here: the kernel that reads it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::data::DataFile;
use super::stamp::Stamp;
use super::{Cache, Entry, Shared};
use crate::error::{Error, Result};
use crate::range::ByteRange;

/// All that is lent out at once may take this part of the room that is not pinned: what is lent can't make room for other
/// films.
const LENT_SHARE: u64 = 2;
/// Slots looked up in one go: the lock that every hit takes is held about a tenth of a millisecond.
const SLOTS_LOOKED_AT_MAX: u64 = 1_024;

/// The data file of an entry every byte of which is recorded and trusted. While it lives nothing of the entry is
/// evicted, punched or deleted; a newer version of the file is another entry.
pub struct Backing {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    // The file that is lent, and how it was when all of it was trusted.
    data: Arc<DataFile>,
    stamp: Stamp,
    is_used: AtomicBool,
}

impl Cache {
    /// Lends out all of `entry`. `None`: it is not whole, or not all of it was hashed by this process, or too much is
    /// lent out already.
    pub fn backing(&self, entry: &Arc<Entry>) -> Result<Option<Backing>> {
        let shared = &self.shared;
        let size = entry.size_bytes();
        let looked = |error: std::io::Error| Error::io(format!("looking at the cached data of {}", entry.path), &error);
        // A pinned film has its room already.
        let cost = if self.is_pinned(entry)? { 0 } else { size };
        if size == 0 || !entry.is_kept() || shared.look_at(entry) || entry.is_suspect.load(Ordering::Acquire) {
            return Ok(None);
        }
        let data = entry.data();
        let stamp = data.stamp().map_err(looked)?;
        // Lent before it is looked at, so that what is found stays true.
        if !shared.hot.pin(entry.id, cost, shared.room_bytes() / LENT_SHARE) {
            return Ok(None);
        }
        let is_used = AtomicBool::new(false);
        let mut backing = Backing { shared: Arc::clone(shared), entry: Arc::clone(entry), data, stamp, is_used };
        // Recorded means synced, too: what the disk may still refuse is no ground to build on.
        if shared.index.held(entry.id)?.1 < size {
            return Ok(None);
        }
        let epoch = shared.hot.epoch(entry.id);
        let whole = ByteRange::new(0, size);
        let mut pieces = whole.slots(entry.chunk_size_bytes.saturating_mul(SLOTS_LOOKED_AT_MAX));
        if !pieces.all(|piece| self.trusted(entry, piece).contains(piece)) {
            return Ok(None);
        }
        // The trust is of the file as it is now, and the kernel is given this very file.
        backing.stamp = backing.data.stamp().map_err(looked)?;
        let is_as_trusted = shared.hot.sees(entry.id, backing.stamp) && shared.hot.epoch(entry.id) == epoch;
        // One that grew meanwhile is not whole.
        let is_as_long = entry.size_bytes() == size;
        Ok((is_as_trusted && is_as_long).then_some(backing))
    }
}

impl Backing {
    /// Whether no other program changed the file since it was lent: nothing of ours does. One that was removed counts as
    /// changed: it is right still, but nobody else should be given it.
    pub fn is_unchanged(&self) -> bool {
        self.data.stamp().is_ok_and(|stamp| self.stamp.is_unchanged(&stamp, 0))
    }

    /// Somebody reads it from now on: with its end all of it counts as just used.
    pub fn used(&self) {
        self.is_used.store(true, Ordering::Relaxed);
    }
}

impl AsFd for Backing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // Looked at in `Cache::backing`: an entry that keeps nothing is never lent out.
        self.data.as_fd().expect("a lent entry has a file")
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        let used = self.is_used.get_mut().then(|| (self.entry.chunk_size_bytes, self.entry.size_bytes()));
        self.shared.hot.unpin(self.entry.id, used);
    }
}
