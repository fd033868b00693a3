//! Open files: read, written, cut, synced, closed.
//! Never here: the content itself (see `content`).

use std::sync::Arc;
use std::time::SystemTime;

use super::file::{OpenFile, SCRATCHES_KEPT, SCRATCHES_MAX, scratches};
use super::{Outcome, Refusal, Volume};
use crate::error::Result;
use crate::library::catalog::NodeKind;
use crate::library::manifest::FILE_BYTES_MAX;
use crate::range::ByteRange;

/// Bytes that one `copy_file_range` copies where it can't share them.
const COPY_BYTES: u64 = 1 << 20;

impl Volume {
    /// Opens a file; `truncates` empties it first. Closed as often as it was opened, by [`Volume::close`].
    pub fn open_file(&self, node_id: u64, truncates: bool) -> Outcome<()> {
        let node = self.shared.catalog.read(|view| view.node(node_id))?.ok_or(Refusal::Missing)?;
        if node.kind != NodeKind::File {
            return Err(if node.kind == NodeKind::Folder { Refusal::IsFolder } else { Refusal::Invalid });
        }
        self.shared.inodes.open(node_id, || OpenFile::new(node_id));
        if truncates {
            self.truncate(node_id, 0).inspect_err(|_| self.close(node_id))?;
        }
        Ok(())
    }

    /// Up to `len` bytes from `offset` on; fewer only where the file ends.
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

    /// Writes `bytes` at `offset`; says how many, if not all of them, at least one.
    pub fn write(&self, node_id: u64, offset: u64, bytes: &[u8]) -> Outcome<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= FILE_BYTES_MAX);
        let end = end.ok_or(Refusal::TooLarge)?;
        self.check_room(bytes.len() as u64)?;
        let disk = self.disk(node_id);
        self.with_file(node_id, |file| {
            let (written, scratches) = {
                let mut state = file.change(&disk)?;
                // Also of a write that fails half-way: what it wrote is there.
                state.touch(SystemTime::now());
                let written = state.content.write(&disk, offset, bytes)?;
                (written, scratches(&state.content))
            };
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
        let was_open = self.shared.inodes.file(node_id).is_some();
        self.with_file(node_id, |file| {
            {
                let mut state = file.change(&disk)?;
                state.content.truncate(&disk, size)?;
                state.touch(SystemTime::now());
            }
            // Nobody will close it.
            if !was_open {
                self.shared.commit(file)?;
            }
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
        self.with_file(node_id, |file| {
            let state = file.look(&disk)?;
            let size = state.content.size;
            let mut at = offset;
            while at < size {
                let (is_data, end) = state.content.extent(&disk, at)?;
                if is_data == wants_data {
                    return Ok(at);
                }
                at = end;
            }
            if wants_data || offset >= size { Err(Refusal::PastEnd) } else { Ok(size) }
        })
    }

    /// Copies up to `len` bytes from one file (or place) to another; says how many, 0 at the end.
    pub fn copy(&self, from: (u64, u64), to: (u64, u64), len: u64) -> Outcome<usize> {
        let bytes = self.read(from.0, from.1, len.min(COPY_BYTES) as usize)?;
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
        if self.shared.inodes.close(node_id)
            && let Err(error) = self.drop_node(node_id)
        {
            log::warn!("node {node_id}: {error}");
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
        if let Some(file) = self.shared.inodes.file(node_id) {
            return act(&file);
        }
        let file = self.shared.inodes.open(node_id, || OpenFile::new(node_id));
        let done = act(&file);
        self.close(node_id);
        done
    }
}
