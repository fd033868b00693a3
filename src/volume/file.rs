//! An open file: its content behind locks, and how it gets into the catalog.
//! Never here: who has it open, and when it is committed unasked (see `upkeep`).

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::content::{Base, Content, Place};
use super::disk::Disk;
use super::rows::{Changed, rows};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::library::blobs::{Blobs, Pinned, Scratch, Written};
use crate::library::catalog::{Catalog, ChunkRow, Node};
use crate::range::ByteRange;

/// Chunks of one file held as scratch files: each costs an open file, and in all they are what one commit has to sync.
pub(super) const SCRATCHES_MAX: usize = 64;
/// From so many on, whole ones become blobs behind the writer's back.
pub(super) const SCRATCHES_KEPT: usize = 16;

/// One node that is open, however often.
pub(super) struct OpenFile {
    node_id: u64,
    // Guards that there is one commit at a time. Taken before `state`, and held over syncs.
    committing: Mutex<()>,
    // Guards the content; `None` before its first use. Reads share it. Held over copies of a chunk, and reads of the catalog.
    state: RwLock<Option<State>>,
}

/// What is open of it.
pub(super) struct State {
    pub content: Content,
    /// Since when there is something to commit.
    pub dirty_since: Option<Instant>,
    /// It is being written into the catalog, which may say what was before, or what is now.
    is_committing: bool,
}

/// What a commit writes: the content as it was at one moment.
struct Snapshot {
    stamp: u64,
    modified: SystemTime,
    changed: SystemTime,
    size: u64,
    what: Bytes,
}

enum Bytes {
    Inline(Vec<u8>),
    Chunks { kept: u64, rows: Vec<ChunkRow>, written: Vec<(u64, u64)> },
}

impl OpenFile {
    pub fn new(node_id: u64) -> Self {
        Self { node_id, committing: Mutex::default(), state: RwLock::new(None) }
    }

    /// Which.
    pub fn node_id(&self) -> u64 {
        self.node_id
    }

    /// Where its bytes come from.
    pub fn disk<'a>(&self, catalog: &'a Catalog, blobs: &'a Blobs) -> Disk<'a> {
        Disk { catalog, blobs, node_id: self.node_id }
    }

    /// The content, for looking.
    pub fn look(&self, disk: &Disk<'_>) -> Result<parking_lot::MappedRwLockReadGuard<'_, State>> {
        loop {
            if let Ok(state) = RwLockReadGuard::try_map(self.state.read(), Option::as_ref) {
                return Ok(state);
            }
            drop(self.change(disk)?);
        }
    }

    /// The node, with what the catalog does not know yet. Nothing is committed in between.
    pub fn attributes(&self, disk: &Disk<'_>) -> Result<Option<Node>> {
        let state = self.state.read();
        let node = disk.catalog.read(|view| view.node(self.node_id))?;
        Ok(match &*state {
            Some(state) if state.is_ahead() => node.map(|node| state.over(node)),
            _ => node,
        })
    }

    /// Whether it has waited for a commit for so long.
    pub fn is_older(&self, age: Duration) -> bool {
        let state = self.state.read();
        state.as_ref().and_then(|state| state.dirty_since).is_some_and(|since| since.elapsed() >= age)
    }

    /// Whether the catalog says all of it; one that is being looked at or changed right now is not.
    pub fn is_clean(&self) -> bool {
        self.state.try_read().is_some_and(|state| state.as_ref().is_none_or(|state| !state.is_ahead()))
    }

    /// Bytes of it that the catalog does not know yet, whole chunks of which a part was written included; 0 of one that is
    /// being changed right now.
    pub fn uncommitted_bytes(&self) -> u64 {
        let Some(state) = self.state.try_read() else { return 0 };
        let ahead = state.as_ref().filter(|state| state.is_ahead());
        ahead.map_or(0, |state| {
            let small = state.content.small.as_ref().map_or(0, |bytes| bytes.len() as u64);
            small + state.content.chunks.values().map(|chunk| chunk.len).sum::<u64>()
        })
    }

    /// The content, for changing.
    pub fn change(&self, disk: &Disk<'_>) -> Result<parking_lot::MappedRwLockWriteGuard<'_, State>> {
        let mut state = self.state.write();
        if state.is_none() {
            let gone = || Error::new(Kind::Missing, format!("there is no node {} any more", self.node_id));
            let node = disk.catalog.read(|view| view.node(self.node_id))?.ok_or_else(gone)?;
            *state =
                Some(State { content: Content::of(&node, disk.chunk_size()), dirty_since: None, is_committing: false });
        }
        RwLockWriteGuard::try_map(state, Option::as_mut)
            .map_err(|_| Error::new(Kind::Local, "a file that was just loaded is gone"))
    }

    /// Has the catalog say what the content is, durably. Whether there was anything to say.
    pub fn commit(&self, disk: &Disk<'_>) -> Result<bool> {
        let _one = self.committing.lock();
        if !self.is_older(Duration::ZERO) {
            return Ok(false);
        }
        self.hash_ahead(disk)?;
        let (snapshot, to_keep) = {
            let mut state = self.change(disk)?;
            let begun = snapshot(&mut state.content, disk)?;
            state.dirty_since = None;
            state.is_committing = true;
            begun
        };
        let committed = keep(disk, to_keep).and_then(|kept| {
            self.record(disk, &snapshot)?;
            // Their rows are there; from now on these say that they are needed.
            drop(kept);
            disk.catalog.flush()
        });
        let mut state = self.change(disk)?;
        state.is_committing = false;
        if let Err(error) = committed {
            state.dirty_since.get_or_insert_with(Instant::now);
            return Err(error);
        }
        if (state.content.modified, state.content.changed) != (snapshot.modified, snapshot.changed) {
            // Set while the old ones were being written down.
            state.dirty_since.get_or_insert_with(Instant::now);
        }
        settle(&mut state.content, snapshot, disk.chunk_size());
        Ok(true)
    }

    /// Hashes what no write has changed since it was looked at; writes need not wait for it.
    fn hash_ahead(&self, disk: &Disk<'_>) -> Result<()> {
        let unhashed: Vec<_> = {
            let state = self.look(disk)?;
            let chunks = state.content.chunks.iter().filter(|(_, chunk)| chunk.digest.is_none() && chunk.len > 0);
            let written = chunks.filter_map(|(number, chunk)| match &chunk.place {
                Place::Scratch(scratch) => Some((*number, chunk.stamp, chunk.len, Arc::clone(scratch.written()))),
                _ => None,
            });
            written.collect()
        };
        for (number, stamp, len, written) in unhashed {
            self.learn_digest(disk, number, stamp, written.digest(len))?;
        }
        Ok(())
    }

    /// The chunk as it was at `stamp` hashes to `digest`; an error if it can't be read. It may have been cut shorter meanwhile:
    /// then its stamp is another one.
    fn learn_digest(&self, disk: &Disk<'_>, number: u64, stamp: u64, digest: std::io::Result<Digest>) -> Result<()> {
        let mut state = self.change(disk)?;
        if let Some(chunk) = state.content.chunks.get_mut(&number).filter(|chunk| chunk.stamp == stamp) {
            chunk.digest = Some(digest.map_err(|error| disk.scratch_failed(&error))?);
        }
        Ok(())
    }

    /// Says whether all that was written so far has come to be, of a file that is never committed.
    pub fn check_written(&self, disk: &Disk<'_>) -> Result<()> {
        let written: Vec<_> = {
            let state = self.state.read();
            let chunks = state.iter().flat_map(|state| state.content.chunks.values());
            let written = chunks.filter_map(|chunk| match &chunk.place {
                Place::Scratch(scratch) => Some(Arc::clone(scratch.written())),
                Place::Sealed(written) => Some(Arc::clone(written)),
                _ => None,
            });
            written.collect()
        };
        written.iter().try_for_each(|written| written.settle()).map_err(|error| disk.scratch_failed(&error))
    }

    /// Hashes one chunk that was written to its end, and has the disk begin with it.
    pub fn hash_chunk(&self, disk: &Disk<'_>, number: u64) -> Result<()> {
        let (written, stamp, len) = {
            let state = self.look(disk)?;
            let Some(chunk) = state.content.chunks.get(&number).filter(|chunk| chunk.digest.is_none()) else {
                return Ok(());
            };
            let Place::Scratch(scratch) = &chunk.place else { return Ok(()) };
            (Arc::clone(scratch.written()), chunk.stamp, chunk.len)
        };
        written.begin_writing_out();
        self.learn_digest(disk, number, stamp, written.digest(len))
    }

    /// Makes blobs of chunks, so that no more than `most` are held as scratch files. The catalog learns of it later.
    pub fn keep_some(&self, disk: &Disk<'_>, most: usize) -> Result<()> {
        let is_more = |state: &State| scratches(&state.content) > most;
        if !is_more(&*self.look(disk)?) {
            return Ok(());
        }
        let _one = self.committing.lock();
        if !is_more(&*self.look(disk)?) {
            return Ok(());
        }
        self.hash_ahead(disk)?;
        let (to_keep, taken) = {
            let mut state = self.change(disk)?;
            let mut taken = Vec::new();
            let mut to_keep = Vec::new();
            let newest = state.content.stamp;
            for (number, chunk) in &mut state.content.chunks {
                // The one that was written last is probably written further.
                let Some(digest) = chunk.digest.filter(|_| chunk.stamp < newest) else { continue };
                if let Some(scratch) = seal(&mut chunk.place) {
                    to_keep.push((scratch, digest, chunk.len));
                    taken.push((*number, chunk.stamp));
                }
            }
            (to_keep, taken)
        };
        let kept = keep(disk, to_keep)?;
        let mut state = self.change(disk)?;
        for ((number, stamp), pinned) in taken.into_iter().zip(kept) {
            if let Some(chunk) = state.content.chunks.get_mut(&number).filter(|chunk| chunk.stamp == stamp) {
                chunk.place = Place::Blob(pinned);
            }
        }
        Ok(())
    }

    fn record(&self, disk: &Disk<'_>, snapshot: &Snapshot) -> Result<()> {
        disk.catalog.change(|change| {
            // Without a name and without anybody who could open it again.
            let Some(node) = change.node(self.node_id)? else { return Ok(()) };
            match &snapshot.what {
                Bytes::Inline(bytes) => change.set_inline(self.node_id, bytes)?,
                Bytes::Chunks { kept, rows, .. } => change.splice_chunks(self.node_id, *kept, rows)?,
            }
            let changed = snapshot.changed.max(node.changed);
            change.set_attributes(&Node { modified: snapshot.modified, changed, ..node })
        })
    }
}

impl State {
    /// The node as it is with what the catalog does not know yet.
    pub fn over(&self, node: Node) -> Node {
        let content = &self.content;
        // At most so much is kept: what was written may stand in the place of what the catalog says.
        let kept_bytes = node.size_bytes.saturating_sub(node.hole_bytes);
        let written_bytes: u64 = content.chunks.values().map(|chunk| chunk.len).sum();
        let data_bytes = if content.is_small() { content.size } else { kept_bytes.saturating_add(written_bytes) };
        Node {
            size_bytes: content.size,
            hole_bytes: content.size.saturating_sub(data_bytes),
            modified: content.modified,
            changed: content.changed.max(node.changed),
            ..node
        }
    }

    /// Something was changed, now.
    pub fn touch(&mut self, now: SystemTime) {
        self.content.modified = now;
        self.content.changed = now;
        self.dirty_since.get_or_insert_with(Instant::now);
    }

    /// Whether the catalog does not say all of it.
    pub fn is_ahead(&self) -> bool {
        self.dirty_since.is_some() || self.is_committing
    }
}

/// Chunks that are held as files of their own.
pub(super) fn scratches(content: &Content) -> usize {
    content.chunks.values().filter(|chunk| matches!(chunk.place, Place::Scratch(_) | Place::Sealed(_))).count()
}

type ToKeep = Vec<(Scratch, Digest, u64)>;

/// What a commit that begins now writes, and the scratch files that are to be blobs first.
fn snapshot(content: &mut Content, disk: &Disk<'_>) -> Result<(Snapshot, ToKeep)> {
    if content.size <= disk.inline_max() && content.small.is_none() {
        let bytes = content.whole(disk)?;
        content.hold_small(bytes);
    }
    let mut to_keep = Vec::new();
    let what = if let Some(small) = &content.small {
        Bytes::Inline(small.clone())
    } else {
        let failed = |error: std::io::Error| disk.scratch_failed(&error);
        // Written since they were hashed ahead. First: if one is bad, nothing is done with the others.
        for chunk in content.chunks.values_mut() {
            if let Place::Scratch(scratch) = &chunk.place
                && chunk.digest.is_none()
                && chunk.len > 0
            {
                chunk.digest = Some(scratch.written().digest(chunk.len).map_err(failed)?);
            }
        }
        let mut changed = Vec::with_capacity(content.chunks.len());
        for (number, chunk) in &mut content.chunks {
            if chunk.len == 0 {
                chunk.place = Place::Nowhere;
            }
            if let Place::Sealed(written) = &chunk.place {
                // It could not become a blob the last time.
                let scratch = disk.scratch()?;
                copy(written, &scratch, chunk.len).map_err(failed)?;
                // After a sync that failed, the system may have forgotten what was written.
                let copied = scratch.written().digest(chunk.len).map_err(failed)?;
                if chunk.digest.is_some_and(|digest| digest != copied) {
                    return Err(Error::new(Kind::Local, "the disk lost what was written to it"));
                }
                chunk.digest = Some(copied);
                chunk.place = Place::Scratch(scratch);
            }
            let digest = chunk.digest.filter(|_| chunk.len > 0);
            if let Some(digest) = digest
                && let Some(scratch) = seal(&mut chunk.place)
            {
                to_keep.push((scratch, digest, chunk.len));
            }
            changed.push((Changed { number: *number, bytes: digest.map(|digest| (chunk.len, digest)) }, chunk.stamp));
        }
        let kept = content.base.end(disk.chunk_size());
        let written = changed.iter().map(|(changed, stamp)| (changed.number, *stamp)).collect();
        let changed: Vec<_> = changed.into_iter().map(|(changed, _)| changed).collect();
        Bytes::Chunks { kept, rows: rows(&changed, kept, content.size, disk.chunk_size()), written }
    };
    content.uncut = u64::MAX;
    let (modified, changed) = (content.modified, content.changed);
    Ok((Snapshot { stamp: content.stamp, modified, changed, size: content.size, what }, to_keep))
}

/// The catalog says now what `snapshot` was; what is as it was then need not be held any longer.
fn settle(content: &mut Content, snapshot: Snapshot, chunk_size: u64) {
    match snapshot.what {
        Bytes::Inline(_) if content.stamp == snapshot.stamp => {
            content.small = None;
            content.base = Base { is_inline: true, chunks: 0, size: snapshot.size };
        }
        // It has grown, or was written again: all of it is held here.
        Bytes::Inline(_) => {}
        Bytes::Chunks { written, .. } => {
            for (number, stamp) in written {
                if content.chunks.get(&number).is_some_and(|chunk| chunk.stamp == stamp) {
                    content.chunks.remove(&number);
                }
            }
            let chunks = snapshot.size.div_ceil(chunk_size).min(content.uncut);
            content.base = Base { is_inline: false, chunks, size: snapshot.size };
        }
    }
}

/// The scratch file, to be a blob; what is read of it until then is read from the same file.
fn seal(place: &mut Place) -> Option<Scratch> {
    let Place::Scratch(scratch) = place else { return None };
    let sealed = Place::Sealed(Arc::clone(scratch.written()));
    match std::mem::replace(place, sealed) {
        Place::Scratch(scratch) => Some(scratch),
        _ => None,
    }
}

/// Makes blobs of them, durably. Noted first as what nobody needs: a crash leaves nothing that has to be searched for.
fn keep(disk: &Disk<'_>, to_keep: ToKeep) -> Result<Vec<Pinned>> {
    if to_keep.is_empty() {
        return Ok(Vec::new());
    }
    let noted: Vec<_> = to_keep.iter().map(|(_, digest, size)| (*digest, *size)).collect();
    let note = || disk.catalog.change(|change| change.note_loose(&noted, SystemTime::now()));
    note()?;
    let kept = disk.blobs.keep(to_keep)?;
    // A sweep may have found a blob noted that was not there yet. Now they are held.
    note()?;
    Ok(kept)
}

fn copy(from: &Written, to: &Scratch, len: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    for part in ByteRange::new(0, len).slots(buffer.len() as u64) {
        let bytes = &mut buffer[..part.len() as usize];
        from.read_exact_at(bytes, part.start)?;
        to.write_all_at(bytes, part.start)?;
    }
    Ok(())
}
