//! What an open sets going before the first read: a film's head is looked at, and its index is fetched wherever it is.
//! Never here: what a container says (see `container`), and anything a reader waits for.
//!
//! A container is believed about where to look. What is fetched for it is bounded, and called off with the last close.

use std::sync::Arc;

use super::container::{Piece, survey};
use super::pattern::Access;
use super::{Core, Handle};
use crate::cache::Entry;
use crate::config::{BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES};
use crate::error::Result;
use crate::fetch::Lane;
use crate::media::is_film_name;
use crate::range::ByteRange;

/// Of a film's start: the first chunk, which is longer than any header but an index, and a second or two of pictures.
const HEAD_BYTES: u64 = CHUNK_SIZE_BYTES;
/// Of a film's end: what a player looks at first, see `drive/contact.rs`.
const TAIL_BYTES: u64 = BLOCK_SIZE_BYTES;

/// Blocks of one film that are looked at: its head, the header behind its pictures, a list of places, the index's own
/// header, and as many again for the strange ones.
pub(super) const LOOKS_MAX: usize = 8;

/// What players open any film of this size with: its head and its tail, in whole blocks. They meet in a short one.
pub(super) fn ends(size_bytes: u64) -> [ByteRange; 2] {
    let head = ByteRange::new(0, HEAD_BYTES.min(size_bytes));
    let tail = ByteRange::new(size_bytes.saturating_sub(TAIL_BYTES), size_bytes);
    [head, tail.align(BLOCK_SIZE_BYTES, size_bytes)]
}

/// Bytes that players open a film of this size with, its index aside.
pub fn opening_bytes(size_bytes: u64) -> u64 {
    let [head, tail] = ends(size_bytes);
    head.len() + tail.len() - head.intersect(tail).len()
}

/// What was looked at so far.
type Looked = Vec<(u64, Vec<u8>)>;

impl Core {
    /// What is and will be here of a film's ends outlives its middle.
    pub(super) fn keep_ends(&self, entry: &Arc<Entry>) {
        if is_film_name(entry.path()) {
            for end in ends(entry.size_bytes()) {
                self.cache.opens_with(entry, end);
            }
        }
    }

    /// Looks at a film that was just opened, from its first bytes on.
    pub(super) fn look_into(self: &Arc<Self>, handle: &Arc<Handle>) -> Result<()> {
        let entry = &handle.entry;
        let is_whole = || Ok(self.cache.held(entry)?.1 == entry.size_bytes());
        if is_film_name(entry.path()) && entry.size_bytes() > BLOCK_SIZE_BYTES && !is_whole()? {
            self.look_at(handle, ByteRange::new(0, BLOCK_SIZE_BYTES), Looked::new());
        }
        Ok(())
    }

    /// Reads `part` as a player would, but without one; then goes on with what it tells.
    fn look_at(self: &Arc<Self>, handle: &Arc<Handle>, part: ByteRange, mut looked: Looked) {
        let (core, weak) = (Arc::downgrade(self), Arc::downgrade(handle));
        let reply = Box::new(move |answer: Result<&[u8]>| {
            // Closed meanwhile, or the reader will meet the same error.
            let (Some(core), Some(handle), Ok(bytes)) = (core.upgrade(), weak.upgrade(), answer) else { return };
            looked.push((part.start, bytes.to_vec()));
            core.go_on(&handle, looked);
        });
        let read = self.pending(&handle.entry, part, (Access::Probe, self.timeout), reply);
        self.look(&handle.entry, Access::Probe, &read);
    }

    fn go_on(self: &Arc<Self>, handle: &Arc<Handle>, looked: Looked) {
        let entry = &handle.entry;
        let pieces: Vec<_> = looked.iter().map(|(offset, bytes)| Piece { offset: *offset, bytes }).collect();
        let found = survey(entry.size_bytes(), &pieces);
        if let Some(duration) = found.duration {
            handle.learn_duration(duration);
        }
        for part in found.index {
            let blocks = part.align(BLOCK_SIZE_BYTES, entry.size_bytes());
            self.cache.opens_with(entry, blocks);
            for part in blocks.slots(entry.chunk_size_bytes()) {
                match self.fetch_slot(entry, part, Lane::Urgent, &[]) {
                    Ok(begun) => handle.opening.lock().extend(begun),
                    Err(error) => log::warn!("the index of {}: {error}", entry.path()),
                }
            }
        }
        if let Some(next) = found.next.filter(|_| looked.len() < LOOKS_MAX) {
            // One block: what lies across two is asked for with the next look.
            let block = ByteRange::new(next.start, next.start + 1).align(BLOCK_SIZE_BYTES, entry.size_bytes());
            self.look_at(handle, block, looked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    #[test]
    fn a_film_has_two_ends() {
        for (size, tail_start) in [(10 * MIB, 10 * MIB - 64 * KIB), (10 * MIB + 1, 10 * MIB - 64 * KIB), (64 * KIB, 0)]
        {
            let head = ByteRange::new(0, size.min(2 * MIB));
            assert_eq!(ends(size), [head, ByteRange::new(tail_start, size)], "{size}");
        }
        assert_eq!(ends(1), [ByteRange::new(0, 1); 2]);
        assert!(ends(0).iter().all(|end| end.is_empty()));
    }
}
