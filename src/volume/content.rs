//! The bytes of an open file: what the catalog says of it, under what was written since. Read, write, truncate, punch.
//! Never here: locks, commits, and when they are made.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use super::disk::Disk;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::library::blobs::{Pinned, Scratch, Written};
use crate::library::catalog::{ChunkRow, Node};
use crate::range::ByteRange;

/// Hashed and copied at once.
const PIECE_BYTES: u64 = 256 << 10;

/// A file's bytes, as programs see them.
pub(super) struct Content {
    /// Of the file, now.
    pub size: u64,
    /// When bytes were last written.
    pub modified: SystemTime,
    /// When anything was last changed.
    pub changed: SystemTime,
    /// What the catalog still says truly.
    pub base: Base,
    /// All of it, instead of chunks: of a small file that is being written.
    pub small: Option<Vec<u8>>,
    /// Chunks that were changed, by number. What is neither here nor in the base is a hole.
    pub chunks: BTreeMap<u64, DirtyChunk>,
    /// Counts changes: equal stamps, equal bytes.
    pub stamp: u64,
    /// Of the chunks the last commit began with, so many were not cut off since.
    pub uncut: u64,
}

/// What the catalog says of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Base {
    /// Its bytes are in the node. Nothing else counts then.
    pub is_inline: bool,
    /// The first so many chunks are as the catalog says...
    pub chunks: u64,
    /// ...up to this byte.
    pub size: u64,
}

/// A chunk that is not as the catalog says.
pub(super) struct DirtyChunk {
    /// So many bytes from its start on; what follows is zeros.
    pub len: u64,
    /// Of the content when this was last written.
    pub stamp: u64,
    /// What its bytes hash to, once somebody found out.
    pub digest: Option<Digest>,
    /// Where they are.
    pub place: Place,
}

/// Where the bytes of a changed chunk are.
pub(super) enum Place {
    /// In a file of their own, to be written further.
    Scratch(Scratch),
    /// In a file that is on its way to being a blob, or could not become one: only to be read.
    Sealed(Arc<Written>),
    /// In a blob, as its name says.
    Blob(Pinned),
    /// A hole.
    Nowhere,
}

impl Base {
    /// Where what the catalog says ends.
    pub fn end(&self, chunk_size: u64) -> u64 {
        self.chunks.saturating_mul(chunk_size).min(self.size)
    }
}

impl Content {
    /// Of a file nobody has changed yet.
    pub fn of(node: &Node, chunk_size: u64) -> Self {
        let chunks = node.size_bytes.div_ceil(chunk_size);
        Self {
            size: node.size_bytes,
            modified: node.modified,
            changed: node.changed,
            base: Base { is_inline: node.is_inline, chunks, size: node.size_bytes },
            small: None,
            chunks: BTreeMap::new(),
            stamp: 0,
            uncut: u64::MAX,
        }
    }

    /// Fills `bytes` from `offset` on; all of them lie within the file.
    pub fn read(&self, disk: &Disk<'_>, offset: u64, bytes: &mut [u8]) -> Result<()> {
        if let Some(small) = &self.small {
            return copy_from(small, offset, bytes);
        }
        if self.base.is_inline {
            return copy_from(&disk.inline()?, offset, bytes);
        }
        let mut rest = bytes;
        for range in ByteRange::at(offset, rest.len() as u64).slots(disk.chunk_size()) {
            let (part, behind) = rest.split_at_mut(range.len() as usize);
            rest = behind;
            let number = range.start / disk.chunk_size();
            match self.chunks.get(&number) {
                Some(chunk) => chunk.read(disk, range.start - number * disk.chunk_size(), part)?,
                None if number < self.base.chunks => self.read_base(disk, range, part)?,
                None => part.fill(0),
            }
        }
        Ok(())
    }

    fn read_base(&self, disk: &Disk<'_>, range: ByteRange, bytes: &mut [u8]) -> Result<()> {
        let known = range.intersect(ByteRange::new(0, self.base.size));
        bytes.fill(0);
        for row in disk.covering(known)? {
            let hit = row.range.intersect(known);
            if let Some(digest) = row.digest {
                let part = &mut bytes[(hit.start - range.start) as usize..(hit.end - range.start) as usize];
                disk.read_blob(digest, row.range, hit.start - row.range.start, part)?;
            }
        }
        Ok(())
    }

    /// Writes as many of `bytes` at `offset` as it can, at least one, and says how many.
    pub fn write(&mut self, disk: &Disk<'_>, offset: u64, bytes: &[u8]) -> Result<usize> {
        let end = offset + bytes.len() as u64;
        self.stamp += 1;
        if self.is_small() {
            if end <= disk.inline_max() {
                let small = self.small(disk)?;
                small.resize((end as usize).max(small.len()), 0);
                small[offset as usize..end as usize].copy_from_slice(bytes);
                self.size = self.size.max(end);
                return Ok(bytes.len());
            }
            self.spill(disk)?;
        }
        let mut written = 0;
        for range in ByteRange::new(offset, end).slots(disk.chunk_size()) {
            let part = &bytes[written..written + range.len() as usize];
            match self.write_chunk(disk, range, part) {
                Ok(()) => written += part.len(),
                Err(error) if written == 0 => return Err(error),
                // The program hears of it when it comes with the rest.
                Err(_) => break,
            }
            self.size = self.size.max(range.end);
        }
        Ok(written)
    }

    /// Writes within one chunk.
    fn write_chunk(&mut self, disk: &Disk<'_>, range: ByteRange, bytes: &[u8]) -> Result<()> {
        let number = range.start / disk.chunk_size();
        let within = range.start - number * disk.chunk_size();
        // A new copy takes the old one's place only when all went well.
        let mut fresh = None;
        if !self.chunks.get(&number).is_some_and(|chunk| matches!(chunk.place, Place::Scratch(_))) {
            self.part(disk, number)?;
            fresh = Some(self.copied(disk, number, ByteRange::at(within, range.len()))?);
        }
        let stamp = self.stamp;
        let missing = || Error::new(Kind::Local, "a chunk that was just copied is not there");
        let chunk = fresh.as_mut().or_else(|| self.chunks.get_mut(&number)).ok_or_else(missing)?;
        chunk.write(disk, within, bytes, stamp)?;
        if let Some(chunk) = fresh {
            self.chunks.insert(number, chunk);
        }
        Ok(())
    }

    /// The chunk in a file that may be written to, with the bytes it has; those in `overwritten` need not be right.
    fn writable(&mut self, disk: &Disk<'_>, number: u64, overwritten: ByteRange) -> Result<&mut DirtyChunk> {
        let is_writable = self.chunks.get(&number).is_some_and(|chunk| matches!(chunk.place, Place::Scratch(_)));
        if !is_writable {
            self.part(disk, number)?;
            let copied = self.copied(disk, number, overwritten)?;
            self.chunks.insert(number, copied);
        }
        let missing = || Error::new(Kind::Local, "a chunk that was just copied is not there");
        self.chunks.get_mut(&number).ok_or_else(missing)
    }

    /// Blobs that hold bytes of this chunk and of others, too, are taken apart: no part of them can stay in the catalog when
    /// this chunk is changed. Those of other homes may have been cut otherwise.
    fn part(&mut self, disk: &Disk<'_>, number: u64) -> Result<()> {
        if number >= self.base.chunks || self.chunks.contains_key(&number) {
            return Ok(());
        }
        for other in sharing(disk, number, self.base.end(disk.chunk_size()))? {
            if other != number && other < self.base.chunks && !self.chunks.contains_key(&other) {
                let copied = self.copied(disk, other, ByteRange::new(0, 0))?;
                self.chunks.insert(other, copied);
            }
        }
        Ok(())
    }

    /// A copy of a chunk's bytes in a file of its own, unless all that it has is `overwritten` anyway.
    fn copied(&self, disk: &Disk<'_>, number: u64, overwritten: ByteRange) -> Result<DirtyChunk> {
        let start = number * disk.chunk_size();
        let len = match self.chunks.get(&number) {
            Some(chunk) => chunk.len,
            None if number < self.base.chunks => (self.base.size - start).min(disk.chunk_size()),
            None => 0,
        };
        let scratch = disk.scratch()?;
        if !overwritten.contains(ByteRange::new(0, len)) {
            let mut buffer = vec![0; len.min(PIECE_BYTES) as usize];
            for part in ByteRange::at(start, len).slots(PIECE_BYTES) {
                let bytes = &mut buffer[..part.len() as usize];
                match self.chunks.get(&number) {
                    Some(chunk) => chunk.read(disk, part.start - start, bytes)?,
                    None => self.read_base(disk, part, bytes)?,
                }
                let written = scratch.copy_all_at(bytes, part.start - start);
                written.map_err(|error| disk.scratch_failed(&error))?;
            }
            // It takes the place of the one that is good.
            scratch.written().settle().map_err(|error| disk.scratch_failed(&error))?;
        }
        Ok(DirtyChunk { len, stamp: self.stamp, digest: None, place: Place::Scratch(scratch) })
    }

    /// Cuts the file off at `size`, or has it grow by a hole.
    pub fn truncate(&mut self, disk: &Disk<'_>, size: u64) -> Result<()> {
        self.stamp += 1;
        if self.is_small() {
            if size <= disk.inline_max() {
                self.small(disk)?.resize(size as usize, 0);
                self.size = size;
                return Ok(());
            }
            self.spill(disk)?;
        }
        if size < self.size {
            let (number, within) = (size / disk.chunk_size(), size % disk.chunk_size());
            self.part(disk, number)?;
            if within > 0 && (self.chunks.contains_key(&number) || number < self.base.chunks) {
                let stamp = self.stamp;
                let chunk = self.writable(disk, number, ByteRange::new(within, disk.chunk_size()))?;
                if chunk.len > within {
                    if let Place::Scratch(scratch) = &chunk.place {
                        scratch.set_len(within).map_err(|error| disk.scratch_failed(&error))?;
                    }
                    chunk.len = within;
                }
                chunk.stamp = stamp;
                chunk.digest = None;
            }
            let gone = self.chunks.split_off(&(number + u64::from(within > 0)));
            self.base.chunks = self.base.chunks.min(number);
            self.uncut = self.uncut.min(number);
            drop(gone);
        }
        self.size = size;
        Ok(())
    }

    /// Has the file read zeros in `range`, as far as it goes, and gives back what holds it.
    pub fn punch(&mut self, disk: &Disk<'_>, range: ByteRange) -> Result<()> {
        let range = range.intersect(ByteRange::new(0, self.size));
        self.stamp += 1;
        if range.is_empty() {
            return Ok(());
        }
        if self.is_small() {
            self.small(disk)?[range.start as usize..range.end as usize].fill(0);
            return Ok(());
        }
        let chunk_size = disk.chunk_size();
        let zeros = vec![0; PIECE_BYTES.min(range.len()) as usize];
        let mut at = range.start;
        while at < range.end {
            let (is_data, end) = self.extent(disk, at)?;
            if !is_data {
                // A hole already, and it may be a long one.
                at = end;
                continue;
            }
            let number = at / chunk_size;
            let whole = ByteRange::new(number * chunk_size, ((number + 1) * chunk_size).min(self.size));
            let part = ByteRange::new(at, whole.end.min(range.end));
            if range.contains(whole) {
                self.part(disk, number)?;
                let hole = DirtyChunk { len: 0, stamp: self.stamp, digest: None, place: Place::Nowhere };
                self.chunks.insert(number, hole);
            } else {
                for piece in part.slots(PIECE_BYTES) {
                    self.write_chunk(disk, piece, &zeros[..piece.len() as usize])?;
                }
            }
            at = part.end;
        }
        Ok(())
    }

    /// A whole chunk that is one blob, held so that it stays; `None` of every other.
    pub fn shared(&self, disk: &Disk<'_>, number: u64) -> Result<Option<(Pinned, u64)>> {
        let range = ByteRange::at(number * disk.chunk_size(), disk.chunk_size());
        if range.end > self.size || self.is_small() {
            return Ok(None);
        }
        let digest = match self.chunks.get(&number) {
            Some(DirtyChunk { place: Place::Blob(blob), len, .. }) if *len == range.len() => Some(blob.digest()),
            None if range.end <= self.base.end(disk.chunk_size()) => {
                disk.covering(range)?.first().filter(|row| row.range == range).and_then(|row| row.digest)
            }
            _ => None,
        };
        let Some(digest) = digest else { return Ok(None) };
        Ok(disk.blobs.pin(digest, range.len())?.map(|blob| (blob, range.len())))
    }

    /// Puts a whole blob in a chunk's place.
    pub fn put_shared(&mut self, disk: &Disk<'_>, number: u64, (blob, len): (Pinned, u64)) -> Result<()> {
        self.stamp += 1;
        if self.is_small() {
            self.spill(disk)?;
        }
        self.part(disk, number)?;
        let digest = Some(blob.digest());
        self.chunks.insert(number, DirtyChunk { len, stamp: self.stamp, digest, place: Place::Blob(blob) });
        self.size = self.size.max(number * disk.chunk_size() + len);
        Ok(())
    }

    /// What is at `offset`, which lies in the file: data or a hole, and up to where at least.
    pub fn extent(&self, disk: &Disk<'_>, offset: u64) -> Result<(bool, u64)> {
        if self.is_small() {
            return Ok((true, self.size));
        }
        let chunk_size = disk.chunk_size();
        let number = offset / chunk_size;
        if let Some(chunk) = self.chunks.get(&number) {
            let end = ((number + 1) * chunk_size).min(self.size);
            let data_end = (number * chunk_size + chunk.len).min(end);
            return Ok(if offset < data_end { (true, data_end) } else { (false, end) });
        }
        let next = self.chunks.range(number..).next().map_or(self.size, |(next, _)| (next * chunk_size).min(self.size));
        let known = self.base.end(chunk_size).min(next);
        if offset >= known {
            return Ok((false, next));
        }
        let rows = disk.covering(ByteRange::at(offset, 1))?;
        Ok(rows.first().map_or((false, known), |row| (row.digest.is_some(), row.range.end.min(known))))
    }

    /// All of its bytes, of a file that fits into memory.
    pub fn whole(&self, disk: &Disk<'_>) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.size as usize];
        self.read(disk, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// Whether its bytes are in one place, and not in chunks.
    pub fn is_small(&self) -> bool {
        self.small.is_some() || self.base.is_inline
    }

    /// From now on it is held whole, and not in chunks.
    pub fn hold_small(&mut self, bytes: Vec<u8>) {
        self.small = Some(bytes);
        self.chunks.clear();
        self.base = Base { is_inline: false, chunks: 0, size: 0 };
    }

    fn small(&mut self, disk: &Disk<'_>) -> Result<&mut Vec<u8>> {
        if self.small.is_none() {
            let bytes = disk.inline()?;
            if bytes.len() as u64 != self.size {
                return Err(other_size());
            }
            self.hold_small(bytes);
        }
        Ok(self.small.get_or_insert_default())
    }

    /// From now on it is held in chunks: it grows.
    fn spill(&mut self, disk: &Disk<'_>) -> Result<()> {
        let bytes = std::mem::take(self.small(disk)?);
        let scratch = disk.scratch();
        let written = scratch.and_then(|scratch| {
            scratch.write_all_at(&bytes, 0).map_err(|error| disk.scratch_failed(&error))?;
            Ok(scratch)
        });
        match written {
            Ok(scratch) => {
                let place = Place::Scratch(scratch);
                let chunk = DirtyChunk { len: bytes.len() as u64, stamp: self.stamp, digest: None, place };
                self.chunks.insert(0, chunk);
                self.small = None;
                Ok(())
            }
            Err(error) => {
                self.small = Some(bytes);
                Err(error)
            }
        }
    }
}

impl DirtyChunk {
    /// Writes to its scratch file. After an error it is as long as it was, or good for nothing; what the bytes were to replace is
    /// undefined.
    fn write(&mut self, disk: &Disk<'_>, offset: u64, bytes: &[u8], stamp: u64) -> Result<()> {
        let Place::Scratch(scratch) = &self.place else {
            return Err(Error::new(Kind::Local, "a chunk that was just copied can't be written to"));
        };
        // Before the first byte: what was known of it holds no longer.
        (self.stamp, self.digest) = (stamp, None);
        if let Err(error) = scratch.write_all_at(bytes, offset) {
            let _ = scratch.set_len(self.len);
            return Err(disk.scratch_failed(&error));
        }
        self.len = self.len.max(offset + bytes.len() as u64);
        Ok(())
    }

    /// Fills `bytes` from `offset` in the chunk on.
    fn read(&self, disk: &Disk<'_>, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let held = self.len.saturating_sub(offset).min(bytes.len() as u64) as usize;
        let (held, zeros) = bytes.split_at_mut(held);
        zeros.fill(0);
        if held.is_empty() {
            return Ok(());
        }
        match &self.place {
            Place::Scratch(scratch) => scratch.written().read_exact_at(held, offset),
            Place::Sealed(written) => written.read_exact_at(held, offset),
            Place::Blob(blob) => return disk.read_blob(blob.digest(), ByteRange::new(0, self.len), offset, held),
            Place::Nowhere => {
                held.fill(0);
                Ok(())
            }
        }
        .map_err(|error| disk.scratch_failed(&error))
    }
}

/// The chunks that share a blob with this one, or with one that does.
fn sharing(disk: &Disk<'_>, number: u64, end: u64) -> Result<Range<u64>> {
    let chunk_size = disk.chunk_size();
    let mut shared = ByteRange::new(number * chunk_size, ((number + 1) * chunk_size).min(end));
    loop {
        let mut wider = shared;
        for ChunkRow { range, digest } in disk.covering(shared)? {
            if digest.is_some() {
                wider = ByteRange::new(wider.start.min(range.start), wider.end.max(range.end));
            }
        }
        let wider = wider.align(chunk_size, u64::MAX);
        let wider = ByteRange::new(wider.start, wider.end.min(end));
        if wider == shared {
            return Ok(shared.start / chunk_size..shared.end.div_ceil(chunk_size));
        }
        shared = wider;
    }
}

fn copy_from(whole: &[u8], offset: u64, bytes: &mut [u8]) -> Result<()> {
    let part = whole.get(offset as usize..).and_then(|rest| rest.get(..bytes.len())).ok_or_else(other_size)?;
    bytes.copy_from_slice(part);
    Ok(())
}

pub(super) fn other_size() -> Error {
    Error::new(Kind::Corrupt, "the catalog holds another number of bytes of a file than its size")
}
