//! Open files: read, written, cut, synced, closed.
//! Never here: the content itself (see `content`).

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::Volume;
use super::content::{Content, other_size};
use super::disk::Disk;
use super::file::{OpenFile, SCRATCHES_KEPT, SCRATCHES_MAX, scratches};
use crate::error::{Error, Kind, Result};
use crate::library::catalog::{Node, NodeKind};
use crate::library::manifest::FILE_BYTES_MAX;
use crate::range::ByteRange;
use crate::refusal::{Outcome, Refusal};
use crate::sqlite;

/// A file that is closed is committed so often, if others change it all the while.
const COMMITS_MAX: u32 = 1_000;

/// Bytes that one `copy_file_range` copies where it can't share them.
const COPY_BYTES: u64 = 1 << 20;
/// Files open at once whose content may wait in memory for its commit: 64 MiB of small ones.
const SMALL_FILES_MAX: usize = 1024;
/// What tells two states of a file apart, for who reads beside a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version(pub u64);

impl Version {
    /// Of a node as it is now.
    pub fn of(node: &Node) -> Self {
        let modified = sqlite::nanos(node.modified).unwrap_or_default();
        Self(modified.cast_unsigned() ^ node.size_bytes.rotate_left(32))
    }
}

impl Volume {
    /// Opens a file, and says what it was; `truncates` empties it first. Closed as often as it was opened, by
    /// [`Volume::close`].
    pub fn open_file(&self, node_id: u64, truncates: bool) -> Outcome<Node> {
        let begun = Instant::now();
        let node = self.shared.catalog.read(|view| view.node(node_id))?.ok_or(Refusal::Missing)?;
        if node.kind != NodeKind::File {
            return Err(if node.kind == NodeKind::Folder { Refusal::IsFolder } else { Refusal::Invalid });
        }
        self.shared.inodes.open(node_id, || OpenFile::new(node_id));
        if truncates {
            self.truncate(node_id, 0).inspect_err(|_| self.close(node_id))?;
        }
        self.shared.figures.open.add(begun.elapsed());
        Ok(node)
    }

    /// Up to `len` bytes from `offset` on; fewer only where the file ends. Not beside another writer: see
    /// [`Volume::read_version`].
    pub fn read(&self, node_id: u64, offset: u64, len: usize) -> Outcome<Vec<u8>> {
        let disk = self.disk(node_id);
        self.with_file(node_id, |file| {
            let state = file.look(&disk)?;
            let len = (len as u64).min(state.content.size.saturating_sub(offset));
            let mut bytes = vec![0; len as usize];
            if len > 0 {
                state.content.read(&disk, offset, &mut bytes)?;
            }
            Ok(bytes)
        })
    }

    /// Beside another writer: bytes of the version that was opened. `Changed` if it has been replaced since.
    pub fn read_version(&self, node_id: u64, version: Version, offset: u64, len: usize) -> Outcome<Vec<u8>> {
        let replaced = || Refusal::Failed(Error::new(Kind::Changed, "the file was replaced after it was opened"));
        let (inline, rows, range) = self.shared.catalog.read_state(|view| {
            let node = view.node(node_id)?.filter(|node| Version::of(node) == version).ok_or_else(replaced)?;
            let range = ByteRange::at(offset, len as u64).intersect(ByteRange::new(0, node.size_bytes));
            if node.is_inline {
                return Ok((view.inline(node_id)?, Vec::new(), range));
            }
            Ok::<_, Refusal>((None, view.covering(node_id, range)?, range))
        })?;
        if range.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(bytes) = inline {
            let part = bytes.get(range.start as usize..range.end as usize).map(<[u8]>::to_vec);
            return Ok(part.ok_or_else(other_size)?);
        }
        let mut bytes = vec![0; range.len() as usize];
        for row in rows {
            let hit = row.range.intersect(range);
            if let Some(digest) = row.digest {
                let part = &mut bytes[(hit.start - range.start) as usize..(hit.end - range.start) as usize];
                let offset = hit.start - row.range.start;
                let read = self.shared.blobs.read_at(digest, row.range.len(), offset, part);
                if read.is_ok() {
                    continue;
                }
                // Whoever writes may have taken it away at any moment.
                if !self.shared.catalog.read(|view| view.is_used(&digest))? {
                    return Err(replaced());
                }
                // What is needed is there by now, or it is damaged.
                self.disk(node_id).read_blob(digest, row.range, offset, part)?;
            }
        }
        Ok(bytes)
    }

    /// Writes `bytes` at `offset`; says how many, if not all of them, at least one.
    pub fn write(&self, node_id: u64, offset: u64, bytes: &[u8]) -> Outcome<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= FILE_BYTES_MAX);
        let end = end.ok_or(Refusal::TooLarge)?;
        let begun = Instant::now();
        self.check_room(bytes.len() as u64)?;
        let disk = self.disk(node_id);
        self.with_file(node_id, |file| {
            let (written, scratches, is_small) = {
                let mut state = file.change(&disk)?;
                // Also of a write that fails half-way: what it wrote is there.
                state.touch(SystemTime::now());
                let written = state.content.write(&disk, offset, bytes)?;
                (written, scratches(&state.content), state.content.small.is_some())
            };
            if is_small && self.shared.inodes.open_count() > SMALL_FILES_MAX {
                self.commit(file)?;
            }
            let chunk_size = disk.chunk_size();
            for chunk in ByteRange::new(offset, end).slots(chunk_size) {
                // Whoever writes on from here won't come back to it.
                if chunk.end.is_multiple_of(chunk_size) {
                    self.upkeep.hash(file, chunk.start / chunk_size, scratches > SCRATCHES_KEPT);
                }
            }
            if scratches > SCRATCHES_MAX {
                // The disk is slower than whoever writes: they wait for it here.
                file.keep_some(&disk, SCRATCHES_MAX)?;
            }
            let figures = &self.shared.figures;
            figures.write.add(begun.elapsed());
            figures.written_bytes.add(written as u64);
            Ok(written)
        })
    }

    /// Cuts a file off, or has it grow by a hole.
    pub(super) fn truncate(&self, node_id: u64, size: u64) -> Outcome<()> {
        self.check_writable()?;
        let node = self.shared.catalog.read(|view| view.node(node_id))?.ok_or(Refusal::Missing)?;
        if node.kind != NodeKind::File {
            return Err(if node.kind == NodeKind::Folder { Refusal::IsFolder } else { Refusal::Invalid });
        }
        let disk = self.disk(node_id);
        self.with_file(node_id, |file| {
            let mut state = file.change(&disk)?;
            state.content.truncate(&disk, size)?;
            state.touch(SystemTime::now());
            Ok(())
        })
    }

    /// Makes room for `range`, or has it read zeros (`punches`); the file grows to its end unless it `keeps_size`.
    pub fn allocate(&self, node_id: u64, range: ByteRange, punches: bool, keeps_size: bool) -> Outcome<()> {
        if range.is_empty() {
            return Err(Refusal::Invalid);
        }
        if range.end > FILE_BYTES_MAX {
            return Err(Refusal::TooLarge);
        }
        // Room can't be set aside: what is written later goes elsewhere. That there is some, for now, can be said.
        self.check_room(if punches { 0 } else { range.len() })?;
        let disk = self.disk(node_id);
        self.with_file(node_id, |file| {
            let mut state = file.change(&disk)?;
            if punches {
                state.content.punch(&disk, range)?;
            }
            if !keeps_size && range.end > state.content.size {
                state.content.truncate(&disk, range.end)?;
            }
            state.touch(SystemTime::now());
            Ok(())
        })
    }

    /// The next data (or hole) at `offset` or after it. `PastEnd` if there is none; a hole ends every file.
    pub fn seek(&self, node_id: u64, offset: u64, wants_data: bool) -> Outcome<u64> {
        let disk = self.disk(node_id);
        if self.is_read_only() {
            // What is remembered may be of before another writer's change.
            let node = self.shared.catalog.read(|view| view.node(node_id))?.ok_or(Refusal::Missing)?;
            return seek(&Content::of(&node, disk.chunk_size()), &disk, offset, wants_data);
        }
        self.with_file(node_id, |file| seek(&file.look(&disk)?.content, &disk, offset, wants_data))
    }

    /// Copies up to `len` bytes from one place to another, in one file or between two; says how many, 0 at the end. Whole
    /// chunks are not copied, but shared.
    pub fn copy(&self, from: (u64, u64), to: (u64, u64), len: u64) -> Outcome<usize> {
        let chunk_size = self.shared.catalog.cut().chunk_size_bytes;
        let is_aligned = |(_, offset): (u64, u64)| offset.is_multiple_of(chunk_size);
        if is_aligned(from) && is_aligned(to) && len >= chunk_size && to.1 <= FILE_BYTES_MAX - chunk_size {
            self.check_room(0)?;
            let disk = self.disk(from.0);
            let chunk =
                self.with_file(from.0, |file| Ok(file.look(&disk)?.content.shared(&disk, from.1 / chunk_size)?))?;
            if let Some(chunk) = chunk {
                let disk = self.disk(to.0);
                return self.with_file(to.0, |file| {
                    let mut state = file.change(&disk)?;
                    state.content.put_shared(&disk, to.1 / chunk_size, chunk)?;
                    state.touch(SystemTime::now());
                    Ok(chunk_size as usize)
                });
            }
        }
        // Up to where a chunk may be shared again.
        let to_edge = chunk_size - from.1 % chunk_size;
        let bytes = self.read(from.0, from.1, len.min(to_edge).min(COPY_BYTES) as usize)?;
        self.write(to.0, to.1, &bytes)
    }

    /// Returns when the file's bytes, and all names and attributes so far, are durable.
    pub fn sync(&self, node_id: u64) -> Outcome<()> {
        if let Some(file) = self.shared.inodes.file(node_id) {
            self.commit(&file)?;
        }
        Ok(self.shared.catalog.flush()?)
    }

    /// Returns when all names and attributes so far are durable.
    pub fn sync_names(&self) -> Outcome<()> {
        Ok(self.shared.catalog.flush()?)
    }

    /// A program closes one of its descriptors: what was written is durable, or it is told.
    pub fn flush(&self, node_id: u64) -> Outcome<()> {
        if let Some(file) = self.shared.inodes.file(node_id) {
            self.commit(&file)?;
        }
        Ok(())
    }

    /// The last of the descriptors of one open is gone.
    pub fn close(&self, node_id: u64) {
        // Written through memory after the descriptor was closed: nobody is left to be told.
        if let Some(file) = self.shared.inodes.file(node_id)
            && let Err(error) = self.commit(&file)
        {
            log::error!("node {node_id}: {error}; what was written last is lost");
        }
        if let Err(error) = self.let_go(node_id) {
            log::error!("node {node_id}: {error}; what was written last is lost");
        }
    }

    /// Closes the node once. What somebody changed in it meanwhile is committed, if nobody else will.
    fn let_go(&self, node_id: u64) -> Result<()> {
        let (mut failed, mut tries) = (None, 0);
        loop {
            tries += 1;
            // One that could not be committed goes all the same: there is nobody left who could try again.
            let may_go = |file: &OpenFile| failed.is_some() || tries > COMMITS_MAX || file.is_clean();
            match self.shared.inodes.close(node_id, may_go) {
                Some(is_to_go) => {
                    if is_to_go && let Err(error) = self.drop_node(node_id) {
                        log::warn!("node {node_id}: {error}");
                    }
                    if failed.is_some() {
                        // Too many at once: see `LOST_MAX`.
                        let _ = self.shared.lost.0.try_send(node_id);
                    }
                    return failed.map_or(Ok(()), Err);
                }
                None => {
                    if let Some(file) = self.shared.inodes.file(node_id) {
                        // Before the last close: the next open must not find the kernel's pages.
                        failed = self.commit(&file).inspect_err(|_| self.shared.inodes.lost(node_id)).err();
                    }
                }
            }
        }
    }

    fn commit(&self, file: &OpenFile) -> Result<()> {
        if self.shared.commit(file)? {
            self.upkeep.sweep();
        }
        Ok(())
    }

    /// The file, opened for as long as this takes if it is not.
    fn with_file<T>(&self, node_id: u64, act: impl FnOnce(&Arc<OpenFile>) -> Outcome<T>) -> Outcome<T> {
        // Counted, also where it is open: whoever closes it meanwhile must not let go of what is changed here.
        let file = self.shared.inodes.open(node_id, || OpenFile::new(node_id));
        let done = act(&file);
        drop(file);
        let closed = self.let_go(node_id);
        let done = done?;
        closed?;
        Ok(done)
    }
}

fn seek(content: &Content, disk: &Disk<'_>, offset: u64, wants_data: bool) -> Outcome<u64> {
    let mut at = offset;
    while at < content.size {
        let (is_data, end) = content.extent(disk, at)?;
        if is_data == wants_data {
            return Ok(at);
        }
        at = end;
    }
    if wants_data || offset >= content.size { Err(Refusal::PastEnd) } else { Ok(content.size) }
}
