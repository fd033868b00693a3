//! Files in the plain form, as other programs write them: a manifest under the file's name, which holds no hashes, and its
//! chunks under `NAME_chunk_N`. Here they are written, and what a broken-off one left is removed.
//! Never here: how they are read (see `value`), and our own form (see `draft`).
//!
//! Such a file has no step in which it is replaced: chunks of the next version take the places of those of the one before. So
//! the old manifest goes first, and the new one comes last; in between there is no such file. A note of ours says meanwhile
//! which file it is, so that its chunks are neither listed as files nor taken for another program's, and go in the end.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::groups::Mark;
use super::keys::{self, Id};
use super::{KeyedLibrary, Loaded, value};
use crate::error::{Error, Kind, Result};
use crate::library::manifest::{CHUNKS_MAX, Kept};
use crate::library::{Chunk, Content, Draft, Manifest, Meta, Proof};
use crate::store::keyed::Swap;

/// A long put says this often that it is still under way: well within any grace.
const REFRESH_EVERY: Duration = Duration::from_mins(5);

/// Chunks removed at once.
const REMOVED_AT_ONCE: usize = 1_000;

/// A file on its way in.
pub(super) struct PlainDraft<'a> {
    library: &'a KeyedLibrary,
    path: String,
    count: usize,
    /// In the note, so that two puts of the same file at once see each other.
    id: Id,
    /// When the note was written last; nothing before the first chunk.
    noted: Option<Instant>,
}

impl<'a> PlainDraft<'a> {
    /// `Invalid` if a chunk would take the place of another file.
    pub fn begin(library: &'a KeyedLibrary, path: &str) -> Result<Self> {
        library.check_new(path)?;
        library.check_folders(path)?;
        library.load_replaced(path)?;
        library.plain.lock().pop(path);
        for n in library.chunk_like(path)? {
            let key = keys::chunk(path, n);
            if !library.is_plain_chunk(&key)? {
                let (shown, key) = (path.escape_debug(), key.escape_debug());
                let message = format!("{shown}: `{key}` is another file, and a part of this one would be kept there");
                return Err(Error::new(Kind::Invalid, message));
            }
        }
        Ok(Self { library, path: path.to_owned(), count: 0, id: Id::random(), noted: None })
    }

    fn key(&self) -> String {
        keys::plain(&self.path)
    }

    /// Says that this file is being written, and, asked before each chunk, that nobody else says so. What was there in the same
    /// form goes, as its chunks are about to.
    fn note(&mut self) -> Result<()> {
        let is_first = self.noted.is_none();
        if !is_first {
            self.check_noted()?;
        }
        if self.noted.is_some_and(|noted| noted.elapsed() < REFRESH_EVERY) {
            return Ok(());
        }
        let asking = &self.library.asking;
        asking.put_one(self.key(), Mark::now(&self.path, Some(self.id)).value())?;
        if is_first && let Some(old) = self.library.load_replaced(&self.path)?.filter(is_plain) {
            asking.swap_one(Swap { key: self.path.clone(), seen: old.seen, value: None })?;
        }
        self.noted = Some(Instant::now());
        Ok(())
    }

    /// Refuses what a collector took for broken off, or what another put writes at the same time.
    fn check_noted(&self) -> Result<()> {
        if self.library.mark(&self.key())?.is_some_and(|mark| mark.id() == Some(self.id)) {
            return Ok(());
        }
        let path = self.path.escape_debug();
        Err(Error::new(
            Kind::Busy,
            format!("{path}: another program puts or removes it at the same time: put it again"),
        ))
    }
}

impl Draft for PlainDraft<'_> {
    fn add(&mut self, chunk: &Chunk, bytes: Bytes) -> Result<()> {
        if !chunk.fits(&bytes) {
            return Err(Error::new(Kind::Invalid, format!("{}: a chunk that is none", self.path.escape_debug())));
        }
        self.note()?;
        self.library.asking.put_one(keys::chunk(&self.path, self.count), bytes)?;
        self.count += 1;
        Ok(())
    }

    fn commit(mut self: Box<Self>, content: Content, meta: Meta) -> Result<Manifest> {
        self.note()?;
        let (library, path, count) = (self.library, self.path.as_str(), self.count);
        let size_bytes = Manifest::new(content.clone(), Meta::now())?.size_bytes();
        let chunks = if let Content::Chunks(chunks) = content { chunks } else { Vec::new() };
        let is_whole = chunks.len() == count && chunks.last().map_or(0, |chunk| chunk.range.end) == size_bytes;
        if !is_whole || chunks.iter().any(|chunk| chunk.proof == Proof::Zeros) {
            let message = format!("{}: a file in the plain form comes in chunks, all of them", path.escape_debug());
            return Err(Error::new(Kind::Invalid, message));
        }
        let value = value::plain(&chunks, meta.content_type.as_deref(), library.settings.chunk_size_bytes)?;
        let (manifest, _) = value::read_manifest(path, &value)?;
        let old = library.load_replaced(path)?;
        self.check_noted()?;
        library.asking.put_one(path.to_owned(), value)?;
        library.plain.lock().pop(path);
        if let Some(old) = old {
            library.untag(path, &old.manifest.meta().tags)?;
            if let Some(id) = old.id {
                library.give_up(id)?;
                library.release(id, path)?;
            }
        }
        library.remove_chunk_like(path, count)?;
        library.asking.delete(&[self.key()])?;
        Ok(manifest)
    }
}

fn is_plain(file: &Loaded) -> bool {
    file.id.is_none() && matches!(file.manifest.kept(), Kept::Under { .. })
}

impl KeyedLibrary {
    /// The numbers of all keys that stand where chunks of a plain file at `path` do, in no order.
    pub(super) fn chunk_like(&self, path: &str) -> Result<Vec<usize>> {
        let mut numbers = Vec::new();
        self.asking.walk(&keys::chunk_prefix(path), &mut |key| {
            if let Some((base, n)) = keys::parse_chunk(&key.key)
                && base == path
            {
                numbers.push(n);
            }
            Ok(numbers.len() < CHUNKS_MAX)
        })?;
        Ok(numbers)
    }

    /// Removes chunks of a plain file from number `count` on.
    fn remove_chunk_like(&self, path: &str, count: usize) -> Result<()> {
        let left: Vec<_> = self.chunk_like(path)?.into_iter().filter(|n| *n >= count).collect();
        for some in left.chunks(REMOVED_AT_ONCE) {
            self.asking.delete(&some.iter().map(|n| keys::chunk(path, *n)).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// What broken-off puts of plain files left.
    pub(super) fn collect_plain(&self, grace: Duration) -> Result<()> {
        self.asking.walk(keys::PLAIN, &mut |key| {
            let Some(mark) = self.mark(&key.key)? else { return Ok(true) };
            if keys::plain(&mark.path) != key.key || !mark.is_older(grace) {
                return Ok(true);
            }
            let file = match self.load(&mark.path) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == Kind::Missing => None,
                Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Unsupported) => {
                    log::warn!("{error}: what stands beside it stays");
                    return Ok(true);
                }
                Err(error) => return Err(error),
            };
            let count = file.filter(is_plain).map_or(0, |file| file.manifest.chunks().len());
            // A put that is under way after all finds another note, and gives way.
            self.asking.put_one(key.key.clone(), Mark { id: None, ..mark.clone() }.value())?;
            self.remove_chunk_like(&mark.path, count)?;
            self.asking.delete(&[key.key])?;
            Ok(true)
        })
    }
}
