//! A file on its way into a keyed library: reference, chunks, the index of tags, and then, in one step, its name.
//! Never here: how a stream is cut.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::changes::is_replaced;
use super::groups::{is_being_removed, tag_entries};
use super::keys::{self, Id};
use super::{KeyedLibrary, seen_of, value};
use crate::error::{Error, Kind, Result};
use crate::library::manifest::{CHUNKS_MAX, Kept};
use crate::library::{Chunk, Content, Draft, Manifest, Meta, Proof, check_tags};
use crate::range::ByteRange;
use crate::store::keyed::{Seen, Swap};

/// A long draft says this often that it is still under way: well within any grace.
const REFRESH_EVERY: Duration = Duration::from_mins(5);

/// A file on its way in.
pub(super) struct KeyedDraft<'a> {
    library: &'a KeyedLibrary,
    path: String,
    /// None until the first chunk.
    group: Option<Group>,
    /// What the content will be, if that is known: its group, and the chunks that are kept there.
    expected: Option<(Id, Vec<Chunk>)>,
    count: usize,
    /// Chunks that are being written, the oldest first; at most as many as the home gains from.
    writes: VecDeque<JoinHandle<Result<()>>>,
}

struct Group {
    id: Id,
    /// Chunks that were there already, with their sizes.
    there: HashMap<usize, u64>,
    refreshed: Instant,
}

impl<'a> KeyedDraft<'a> {
    pub fn begin(library: &'a KeyedLibrary, path: &str, expected: Option<&[Chunk]>) -> Result<Self> {
        library.check_new(path)?;
        library.passing.begin(library);
        library.check_folders(path)?;
        let expected = expected.map(|chunks| (Id::of_content(chunks), kept(chunks)));
        Ok(Self { library, path: path.to_owned(), group: None, expected, count: 0, writes: VecDeque::new() })
    }

    /// The group the chunks go to, referred to by now.
    fn group(&mut self) -> Result<&mut Group> {
        if self.group.is_none() {
            // Before anything large is sent.
            self.library.load_replaced(&self.path)?;
            let expected = self.expected.as_ref().map(|(id, _)| *id);
            let id = match expected {
                Some(id) if self.take(id)? => id,
                // Somebody is removing the same content, or did just now.
                Some(_) | None => {
                    let id = Id::random();
                    self.refer(id)?;
                    id
                }
            };
            let mut there = HashMap::new();
            if expected == Some(id) {
                self.library.asking.walk(&format!("{}_chunk_", id.chunk_prefix()), &mut |key| {
                    if let (Some((_, n)), Some(size)) = (Id::of_chunk(&key.key), key.size_bytes) {
                        there.insert(n, size);
                    }
                    Ok(there.len() < CHUNKS_MAX)
                })?;
            }
            self.group = Some(Group { id, there, refreshed: Instant::now() });
        }
        Ok(self.group.as_mut().expect("set just above"))
    }

    /// The chunks that must come, where the group is one that others may refer to: its id says what is in it.
    fn announced(&self) -> Option<&[Chunk]> {
        let (expected, chunks) = self.expected.as_ref()?;
        self.group.as_ref().is_some_and(|group| group.id == *expected).then_some(chunks)
    }

    /// The error of content that changed between its two readings.
    fn is_another(&self) -> Error {
        let message = format!("{}: it is not what was announced: put it again", self.path.escape_debug());
        Error::new(Kind::Changed, message)
    }

    /// Refers to a group that others may refer to, too; not if it is being removed.
    fn take(&self, id: Id) -> Result<bool> {
        self.refer(id)?;
        if !self.library.is_swept(id)? {
            return Ok(true);
        }
        // Unless this very name needs it already.
        self.library.refer_no_longer(id, &self.path)?;
        Ok(false)
    }

    fn refer(&self, id: Id) -> Result<()> {
        self.library.refer(id, &self.path)
    }

    /// Writes a chunk: where it gains from it, behind the caller's back, whom the next call tells what failed.
    fn write(&mut self, key: String, bytes: Bytes) -> Result<()> {
        let asking = &self.library.asking;
        let at_once = asking.limits().writes_at_once;
        if at_once <= 1 {
            return asking.put_one(key, bytes);
        }
        self.wait(at_once - 1)?;
        let asking = Arc::clone(asking);
        let started = thread::Builder::new().name("reelfs-put".into()).spawn(move || asking.put_one(key, bytes));
        self.writes.push_back(started.map_err(|error| Error::io("cannot start a thread", &error))?);
        Ok(())
    }

    /// Waits until no more than so many chunks are being written.
    fn wait(&mut self, left: usize) -> Result<()> {
        while self.writes.len() > left {
            let Some(oldest) = self.writes.pop_front() else { break };
            let panicked = |_| Err(Error::new(Kind::Local, "a write failed inside reelfs"));
            oldest.join().unwrap_or_else(panicked)?;
        }
        Ok(())
    }

    /// One more chunk is there, or on its way.
    fn added(&mut self) -> Result<()> {
        self.count += 1;
        if let Some(group) = &mut self.group
            && group.refreshed.elapsed() > REFRESH_EVERY
        {
            self.library.check_referred(group.id, &self.path)?;
            self.library.refer(group.id, &self.path)?;
            group.refreshed = Instant::now();
        }
        Ok(())
    }

    fn value(&self, content: &Content, meta: &Meta) -> Result<(Bytes, Option<Id>)> {
        match content {
            Content::Inline(bytes) => Ok((value::frame(bytes, meta)?, None)),
            Content::Chunks(chunks) => {
                // Without a group: holes only.
                let id = self.group.as_ref().map_or_else(Id::random, |group| group.id);
                let chunk_size = self.library.settings.chunk_size_bytes;
                Ok((value::manifest(chunks, meta, chunk_size, id)?, Some(id)))
            }
        }
    }
}

impl Draft for KeyedDraft<'_> {
    fn add_known(&mut self, chunk: &Chunk) -> Result<bool> {
        let (library, n) = (self.library, self.count);
        self.group()?;
        if self.announced().is_some_and(|chunks| chunks.get(n) != Some(chunk)) {
            return Err(self.is_another());
        }
        let group = self.group()?;
        if group.there.get(&n) != Some(&chunk.range.len()) {
            return Ok(false);
        }
        // Read, not believed: a put of good bytes must not end in a file that is damaged.
        let key = keys::chunk(&group.id.chunk_prefix(), n);
        let is_whole =
            library.asking.get(&key, ByteRange::new(0, chunk.range.len() + 1)).is_ok_and(|kept| chunk.fits(&kept));
        if is_whole {
            self.added()?;
        } else {
            group.there.remove(&n);
        }
        Ok(is_whole)
    }

    fn add(&mut self, chunk: &Chunk, bytes: Bytes) -> Result<()> {
        if !chunk.fits(&bytes) {
            return Err(Error::new(Kind::Invalid, format!("{}: a chunk that is none", self.path.escape_debug())));
        }
        if self.add_known(chunk)? {
            return Ok(());
        }
        let n = self.count;
        let key = keys::chunk(&self.group()?.id.chunk_prefix(), n);
        self.write(key, bytes)?;
        self.added()
    }

    fn commit(mut self: Box<Self>, content: Content, meta: Meta) -> Result<Manifest> {
        self.wait(0)?;
        let meta = Meta { tags: check_tags(meta.tags)?, ..meta };
        let limits = self.library.asking.limits();
        meta.tags.iter().try_for_each(|tag| keys::check_tag(tag, limits))?;
        let manifest = Manifest::new(content, meta)?;
        let kept = kept(manifest.chunks());
        if kept.len() != self.count {
            let (path, came, kept) = (self.path.escape_debug(), self.count, kept.len());
            let message = format!("{path}: {came} chunks came, and {kept} are to be kept");
            return Err(Error::new(Kind::Invalid, message));
        }
        // It ended too early.
        if self.announced().is_some_and(|chunks| chunks != kept) {
            return Err(self.is_another());
        }
        let (value, id) = self.value(manifest.content(), manifest.meta())?;
        if let Some(id) = id.filter(|_| self.group.is_none()) {
            self.refer(id)?;
        }
        self.library.commit(&self.path, value, id, &manifest.meta().tags, None)?;
        Ok(match id {
            Some(id) => manifest.kept_in(Kept::Under { prefix: id.chunk_prefix().into() }),
            None => manifest,
        })
    }
}

/// All but holes.
fn kept(chunks: &[Chunk]) -> Vec<Chunk> {
    chunks.iter().filter(|chunk| chunk.proof != Proof::Zeros).copied().collect()
}

impl KeyedLibrary {
    /// Gives a value the name `path`, whose group (referred to by now) and tags are these; what was there goes. `Changed`
    /// where that must be what was `seen`, and is another one.
    pub(super) fn commit(
        &self,
        path: &str,
        value: Bytes,
        id: Option<Id>,
        tags: &[String],
        seen: Option<Seen>,
    ) -> Result<()> {
        let (bytes, bytes_max) = (value.len() as u64, self.asking.limits().value_bytes_max);
        if bytes > bytes_max {
            let message = format!("{}: a value of {bytes} bytes; this home takes {bytes_max}", path.escape_debug());
            return Err(Error::new(Kind::Invalid, message));
        }
        let entries = tag_entries(tags, path, id);
        // Before the name: a file that has a tag is always found by it.
        self.asking.put(&entries)?;
        let old = match self.load_replaced(path) {
            Err(error) if error.kind() == Kind::Unsupported => {
                self.untag(path, tags)?;
                return Err(error);
            }
            old => old?,
        };
        // Of a group that this very name needs, somebody else would have given way.
        let sound = match id {
            Some(id) if old.as_ref().is_none_or(|old| old.id != Some(id)) => self.check_referred(id, path),
            _ => Ok(()),
        };
        let written = seen_of(&value);
        let is_there = match seen {
            None => {
                sound?;
                self.asking.put_one(path.to_owned(), value)?;
                true
            }
            Some(seen) => {
                let swap = Swap { key: path.to_owned(), seen, value: Some(value) };
                sound.is_ok() && self.asking.swap_one(swap)?
            }
        };
        if !is_there {
            self.untag(path, tags)?;
            if let Some(id) = id {
                self.refer_no_longer(id, path)?;
            }
            return Err(is_replaced(path));
        }
        // Whoever took this name's file away meanwhile took these along, or sees the new one.
        if let Some(id) = id
            && self.mark(&id.reference(path))?.is_none()
        {
            self.refer(id, path)?;
            // And perhaps the group as well: no name without its bytes.
            if self.is_swept(id)? {
                self.asking.swap_one(Swap { key: path.to_owned(), seen: written, value: None })?;
                self.refer_no_longer(id, path)?;
                return Err(is_being_removed(path));
            }
        }
        self.index_again(entries)?;
        let Some(old) = old else { return Ok(()) };
        self.remove_plain_chunks(path, Some(&old))?;
        let stale: Vec<_> = old.manifest.meta().tags.iter().filter(|tag| !tags.contains(tag)).cloned().collect();
        self.untag(path, &stale)?;
        match old.id {
            Some(old) if Some(old) != id => {
                self.give_up(old)?;
                self.release(old, path)
            }
            _ => Ok(()),
        }
    }

    /// Puts those entries of the index that are missing.
    pub(super) fn index_again(&self, entries: Vec<(String, Bytes)>) -> Result<()> {
        for (key, value) in entries {
            if self.mark(&key)?.is_none() {
                self.asking.put_one(key, value)?;
            }
        }
        Ok(())
    }

    /// Refuses a group that was collected while the file was on its way.
    fn check_referred(&self, id: Id, path: &str) -> Result<()> {
        let is_sound = !self.is_swept(id)? && self.mark(&id.reference(path))?.is_some();
        if is_sound { Ok(()) } else { Err(is_being_removed(path)) }
    }

    /// Refuses a name that a folder has, or that is below a file's.
    pub(super) fn check_folders(&self, path: &str) -> Result<()> {
        for (slash, _) in path.match_indices('/') {
            let folder = &path[..slash];
            if self.folders.lock().get(folder).is_some() {
                continue;
            }
            match self.asking.get(folder, ByteRange::new(0, 1)) {
                Err(error) if error.kind() == Kind::Missing => {}
                Err(error) => return Err(error),
                Ok(_) => {
                    let message = format!("{}: {} is a file", path.escape_debug(), folder.escape_debug());
                    return Err(Error::new(Kind::Invalid, message));
                }
            }
            self.folders.lock().put(folder.to_owned(), ());
        }
        if self.is_folder(path)? {
            return Err(Error::new(Kind::Invalid, format!("{}: a folder has this name", path.escape_debug())));
        }
        self.folders.lock().pop(path);
        Ok(())
    }
}
