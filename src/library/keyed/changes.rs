//! What is done to names that are there: taken away, given another name, other tags.
//! Never here: new content (see `draft`), and many files at once (see `purge`).

use bytes::Bytes;

use super::groups::{is_being_removed, tag_entries};
use super::keys;
use super::{KeyedLibrary, Loaded, read, value};
use crate::error::{Error, Kind, Result};
use crate::library::manifest::{CHUNK_BYTES_MAX, Kept};
use crate::library::{Content, Library as _, Meta, check_tags};
use crate::range::ByteRange;
use crate::store::keyed::Swap;

/// A file that is put again each time its tags are set has somebody else at it.
const CHANGES_MAX: u32 = 8;

impl KeyedLibrary {
    /// Takes a name away; its group stays for the grace period. One that is damaged can be taken away, too.
    pub(super) fn remove_file(&self, path: &str) -> Result<()> {
        keys::check(path, self.asking.limits())?;
        let file = match self.load(path) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == Kind::Corrupt => None,
            Err(error) if error.kind() == Kind::Missing => return self.manifest(path).map(|_| ()),
            Err(error) => return Err(error),
        };
        self.passing.begin(self);
        let id = file.as_ref().and_then(|file| file.id);
        if let Some(id) = id {
            self.give_up(id)?;
        }
        self.remove_plain_chunks(path, file.as_ref())?;
        self.asking.delete(&[path.to_owned()])?;
        if let Some(id) = id {
            self.release(id, path)?;
        }
        if let Some(file) = &file {
            self.untag(path, &file.manifest.meta().tags)?;
        }
        Ok(())
    }

    /// The chunks of another program's file are its own, and would be taken for files without it: they go first, the last
    /// one first of all. What is broken off leaves a damaged file, which can be removed again.
    pub(super) fn remove_plain_chunks(&self, path: &str, file: Option<&Loaded>) -> Result<()> {
        let Some(file) = file.filter(|file| file.id.is_none()) else { return Ok(()) };
        let Kept::Under { prefix } = file.manifest.kept() else { return Ok(()) };
        self.plain.lock().pop(path);
        let keys: Vec<_> = (0..file.manifest.chunks().len()).rev().map(|n| keys::chunk(prefix, n)).collect();
        self.asking.delete(&keys)
    }

    /// Takes entries of the index away, but for those of the file that has the name by now: whoever puts it looks for them
    /// afterwards, so that at least one sees the other.
    pub(super) fn untag(&self, path: &str, tags: &[String]) -> Result<()> {
        if tags.is_empty() {
            return Ok(());
        }
        self.asking.delete(&tags.iter().map(|tag| keys::tag(tag, path)).collect::<Vec<_>>())?;
        let Some(now) = self.load_any(path)? else { return Ok(()) };
        self.index_again(tag_entries(&now.manifest.meta().tags, path, now.id))
    }

    /// Gives a file another name. There it is in one step; broken off, it may have both.
    pub(super) fn rename_file(&self, from: &str, to: &str) -> Result<()> {
        keys::check(from, self.asking.limits())?;
        self.check_new(to)?;
        // Once: what is committed is what is looked at.
        let value = match self.whole(from) {
            Err(error) if error.kind() == Kind::Missing => return self.manifest(from).map(|_| ()),
            value => value?,
        };
        let file = read(from, &value)?;
        if from == to {
            return Ok(());
        }
        self.check_folders(to)?;
        if file.id.is_none() && matches!(file.manifest.kept(), Kept::Under { .. }) {
            let message = format!("{}: another program's file; get it and put it again", from.escape_debug());
            return Err(Error::new(Kind::Unsupported, message));
        }
        self.load_replaced(to)?;
        if let Some(id) = file.id {
            self.refer(id, to)?;
            if self.is_swept(id)? {
                self.refer_no_longer(id, to)?;
                return Err(is_being_removed(from));
            }
        }
        let tags = &file.manifest.meta().tags;
        self.commit(to, value, file.id, tags, None)?;
        if !self.asking.swap_one(Swap { key: from.to_owned(), seen: file.seen, value: None })? {
            let (from, to) = (from.escape_debug(), to.escape_debug());
            let message = format!("{from}: replaced meanwhile; what it was is now {to}, and the new one stays");
            return Err(Error::new(Kind::Changed, message));
        }
        if let Some(id) = file.id {
            self.refer_no_longer(id, from)?;
        }
        self.untag(from, tags)
    }

    /// Sets a file's tags, all of them.
    pub(super) fn change_tags(&self, path: &str, tags: &[String]) -> Result<()> {
        keys::check(path, self.asking.limits())?;
        let tags = check_tags(tags.to_vec())?;
        tags.iter().try_for_each(|tag| keys::check_tag(tag, self.asking.limits()))?;
        self.change_meta(path, |meta| Meta { tags: tags.clone(), ..meta })
    }

    /// Changes what is known of a file beside its bytes, whichever they are by then.
    pub(super) fn change_meta(&self, path: &str, change: impl Fn(Meta) -> Meta) -> Result<()> {
        let mut tries = 1;
        loop {
            match self.try_change_meta(path, &change) {
                Err(error) if error.kind() == Kind::Changed && tries < CHANGES_MAX => tries += 1,
                done => return done,
            }
        }
    }

    fn try_change_meta(&self, path: &str, change: &impl Fn(Meta) -> Meta) -> Result<()> {
        let file = match self.load(path) {
            Err(error) if error.kind() == Kind::Missing => return self.manifest(path).map(|_| ()),
            file => file?,
        };
        let meta = change(file.manifest.meta().clone());
        if *file.manifest.meta() == meta {
            return Ok(());
        }
        let value = match (file.id, file.manifest.kept()) {
            (Some(id), _) => {
                let chunks = file.manifest.chunks();
                // Also where it was lost: what is needed is referred to.
                self.refer(id, path)?;
                value::manifest(chunks, &meta, self.settings.chunk_size_bytes, id)?
            }
            (None, Kept::Under { .. }) => {
                let message = format!(
                    "{}: another program's file, which says nothing of itself; put it again",
                    path.escape_debug()
                );
                return Err(Error::new(Kind::Unsupported, message));
            }
            (None, _) => value::frame(&self.frame_bytes(path, &file)?, &meta)?,
        };
        self.commit(path, value, file.id, &meta.tags, Some(file.seen))
    }

    /// A value, all of it.
    pub(super) fn whole(&self, path: &str) -> Result<Bytes> {
        let bytes_max = self.asking.limits().value_bytes_max;
        let value = self.asking.get(path, ByteRange::new(0, bytes_max + 1))?;
        if value.len() as u64 > bytes_max {
            let message = format!("{}: larger than any value of a library", path.escape_debug());
            return Err(Error::new(Kind::Unsupported, message));
        }
        Ok(value)
    }

    /// The bytes of a file that is one value: all of them, as they were put. `Changed` if it is another one by now.
    fn frame_bytes(&self, path: &str, file: &Loaded) -> Result<Bytes> {
        let manifest = &file.manifest;
        if let Content::Inline(bytes) = manifest.content() {
            return Ok(bytes.clone());
        }
        let mut bytes = Vec::with_capacity(manifest.size_bytes().min(CHUNK_BYTES_MAX) as usize);
        for n in 0..manifest.chunks().len() {
            match self.checked_chunk(path, manifest, n) {
                Err(error) if matches!(error.kind(), Kind::Missing | Kind::Corrupt) => {
                    let is_same = self.load_any(path)?.is_some_and(|now| now.seen == file.seen);
                    return Err(if is_same { error } else { is_replaced(path) });
                }
                chunk => bytes.extend_from_slice(&chunk?),
            }
        }
        Ok(bytes.into())
    }
}

/// The error of whoever finds another file than the one that was looked at.
pub(super) fn is_replaced(path: &str) -> Error {
    Error::new(Kind::Changed, format!("{}: replaced meanwhile", path.escape_debug()))
}
