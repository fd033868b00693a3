//! A whole entry lent out as one file: pinned for as long as it is, so that no byte under its reader ever goes away.
//! Never here: the kernel that reads it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Cache, Entry, Shared};
use crate::error::Result;
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
    is_used: AtomicBool,
}

impl Cache {
    /// Lends out all of `entry`. `None`: it is not whole, or not all of it was hashed by this process, or too much is
    /// lent out already.
    pub fn backing(&self, entry: &Arc<Entry>) -> Result<Option<Backing>> {
        let shared = &self.shared;
        let size = entry.size_bytes();
        // A pinned film has its room already.
        let cost = if self.is_pinned(entry)? { 0 } else { size };
        // Lent before it is looked at, so that what is found stays true.
        if size == 0 || !entry.is_kept() || !shared.hot.pin(entry.id, cost, shared.room_bytes() / LENT_SHARE) {
            return Ok(None);
        }
        let backing = Backing { shared: Arc::clone(shared), entry: Arc::clone(entry), is_used: AtomicBool::new(false) };
        // Recorded means synced, too: what the disk may still refuse is no ground to build on.
        if shared.index.held(entry.id)?.1 < size {
            return Ok(None);
        }
        let whole = ByteRange::new(0, size);
        let mut pieces = whole.slots(entry.chunk_size_bytes.saturating_mul(SLOTS_LOOKED_AT_MAX));
        Ok(pieces.all(|piece| self.trusted(entry, piece).contains(piece)).then_some(backing))
    }
}

impl Backing {
    /// Somebody reads it from now on: with its end all of it counts as just used.
    pub fn used(&self) {
        self.is_used.store(true, Ordering::Relaxed);
    }
}

impl AsFd for Backing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // Looked at in `Cache::backing`: an entry that keeps nothing is never lent out.
        self.entry.data.as_fd().expect("a lent entry has a file")
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        let used = self.is_used.get_mut().then(|| (self.entry.chunk_size_bytes, self.entry.size_bytes()));
        self.shared.hot.unpin(self.entry.id, used);
    }
}
