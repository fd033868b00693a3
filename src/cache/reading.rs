//! What is here of a range, and its bytes: those that are trusted at once, those that an earlier run recorded once they are
//! hashed.
//! Never here: writing, and what becomes of a file that another program changed (see `refit`).

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::data::DataFile;
use super::index::ChunkRow;
use super::keeper::Job;
use super::{Cache, Coverage, Entry, Shared, refit};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::range::{ByteRange, RangeSet};

/// A check waits so long for the writer to drop a bad chunk: reads wait for the check, and ask the origin only after it.
const DROP_MAX: Duration = Duration::from_secs(2);

impl Cache {
    /// What is held of `range`.
    pub fn coverage(&self, entry: &Entry, range: ByteRange) -> Result<Coverage> {
        let trusted = self.shared.hot.trusted(entry.id, entry.chunk_size_bytes, range);
        let mut unchecked = Vec::new();
        let mut known = trusted.clone();
        let missing = trusted.gaps(range);
        if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
            self.shared.metrics.index_lookups.add(1);
            let wanted = ByteRange::new(first.start, last.end);
            let recorded = self.shared.metrics.index_query.of(|| self.shared.index.covering(entry.id, wanted));
            // A film is played without an index, too: what is not known to be here is fetched.
            let recorded = recorded.unwrap_or_else(|error| {
                log::debug!("cache: {error}");
                self.shared.renew_if_damaged();
                Vec::new()
            });
            for row in recorded {
                if missing.iter().any(|gap| !gap.intersect(row.range).is_empty()) {
                    known.insert(row.range);
                    unchecked.push(row);
                }
            }
        }
        Ok(Coverage { gaps: known.gaps(range), trusted, unchecked })
    }

    /// The parts of `range` that are trusted and can be read now. No index is asked.
    pub fn trusted(&self, entry: &Entry, range: ByteRange) -> RangeSet {
        self.shared.hot.trusted(entry.id, entry.chunk_size_bytes, range)
    }

    /// Fills `buffer` from `offset` if every byte is trusted; `false`: ask `coverage`, the buffer holds nothing.
    pub fn read(&self, entry: &Entry, offset: u64, buffer: &mut [u8]) -> bool {
        let range = ByteRange::at(offset, buffer.len() as u64);
        let Some(claim) = self.shared.hot.claim(entry.id, entry.chunk_size_bytes, range) else { return false };
        let data = entry.data();
        // The file is looked at after its bytes were read: what another program did to it before then is seen.
        match data.read(buffer, offset).and_then(|()| refit::agrees(&claim, &data)) {
            Ok(true) => true,
            Ok(false) => {
                self.shared.look_at(entry);
                false
            }
            Err(error) => {
                // A file that was cut is too short: that is no failure of the disk.
                if !self.shared.look_at(entry) {
                    // What the disk can't give back is not cached: the check will drop it, the origin has it.
                    log::warn!("cache: cannot read {range} of {}: {error}", entry.path);
                    self.shared.hot.distrust(entry.id, entry.chunk_size_bytes, range);
                }
                false
            }
        }
    }

    /// Has the kernel forget its copy of what a reader has left behind: it has one more, under the drive's own name, and
    /// a film that is played through must not push everything else out of memory twice. Best effort.
    pub fn leave_behind(&self, entry: &Entry, range: ByteRange) {
        // Of an entry that has no file there is nothing to forget.
        let _ = entry.data().drop_pages(range);
    }

    /// Hashes a recorded chunk: trusted from now on if it is what was recorded (`true`), else dropped (`false`).
    pub fn check(&self, entry: &Arc<Entry>, chunk: &ChunkRow) -> Result<bool> {
        let shared = &self.shared;
        let is_recorded = || Ok::<_, Error>(shared.index.covering(entry.id, chunk.range)?.contains(chunk));
        shared.look_at(entry);
        let Some(claim) = shared.hot.hold(entry.id, entry.chunk_size_bytes, chunk.range) else { return Ok(false) };
        // Evicted before the claim, it is a hole, or new bytes whose row is still to come; from here on it stays.
        if !is_recorded()? {
            return Ok(false);
        }
        let data = entry.data();
        if Shared::is_whole(&data, chunk) {
            // Changed while it was hashed, it is looked at once more.
            return Ok(refit::agrees(&claim, &data).unwrap_or(false) && shared.hot.trust(&claim));
        }
        drop(claim);
        let (done, wait) = bounded(1);
        let gone = || Error::new(Kind::Cancelled, "the cache is being closed");
        let job = Job::DropChunk { entry: Arc::clone(entry), chunk: chunk.clone(), done };
        shared.queue.push(job).map_err(|_| gone())?;
        match wait.recv_timeout(DROP_MAX) {
            Ok(dropped) => dropped.map(|()| false),
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
            // The writer comes to it later.
            Err(RecvTimeoutError::Timeout) => Err(Error::new(
                Kind::TimedOut,
                format!("{} of {} failed its hash, and the disk is too slow to drop it", chunk.range, entry.path),
            )),
        }
    }
}

impl Shared {
    /// Whether the bytes on disk are the ones recorded.
    pub(super) fn is_whole(data: &DataFile, chunk: &ChunkRow) -> bool {
        let mut bytes = vec![0; chunk.range.len() as usize];
        data.read(&mut bytes, chunk.range.start).is_ok() && Digest::of(&bytes) == chunk.digest
    }
}
