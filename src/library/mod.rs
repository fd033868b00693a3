//! A library: a place of our own where files are put. Manifests say what each byte must be; chunks hold the bytes.
//! Never here: mounts, caches, and where a home keeps its bytes (see `local` and `keyed`).
//!
//! Order is always: chunk bytes written and synced, then the names that lead to them. A crash leaves orphans, which
//! `gc` removes; never a name without its bytes.

pub mod backup;
pub mod blobs;
pub mod catalog;
pub mod content_type;
pub mod keyed;
pub mod local;
pub mod manifest;
pub mod place;
#[cfg(test)]
pub mod suite;
pub mod writer;

use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;
use crate::store::is_safe_name;

pub use manifest::{Chunk, Content, Manifest, Meta, Proof};

/// Files up to this many bytes (inclusive) are kept inside the catalog unless an option says otherwise: one row is read
/// faster than a file is opened, and most files beside films (subtitles, posters) are smaller.
pub const INLINE_BYTES_MAX: u64 = 64 << 10;
/// Names on one page of a listing, unless asked for otherwise.
pub const PAGE_NAMES: usize = 1_000;
/// Names on one page at most.
pub const PAGE_NAMES_MAX: usize = 10_000;
/// Bytes of a whole path: what most key-value services take as a key, less what is put around it.
pub const PATH_BYTES_MAX: usize = 4096;
/// Tags of one file, at most: each is an entry of an index.
pub const TAGS_MAX: usize = 64;
/// Bytes of one tag.
pub const TAG_BYTES_MAX: usize = 128;

/// How a home wants streams cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Streams of up to so many bytes come whole, in memory; longer ones in chunks.
    pub inline_bytes_max: u64,
    /// Bytes of each chunk but the last.
    pub chunk_size_bytes: u64,
}

/// Which names are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The folder; `""` is the top. Missing unless it is there.
    pub folder: String,
    /// Every file below it, rather than the names in it.
    pub is_recursive: bool,
    /// Paths from this one on (inclusive; compared by bytes, a folder's with its `/`).
    pub start: Option<String>,
    /// Paths before this one.
    pub end: Option<String>,
    /// Where the last page ended.
    pub cursor: Option<String>,
    /// Names on this page, 1 to `PAGE_NAMES_MAX`.
    pub limit: usize,
}

/// A small file on its way in, all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Small {
    /// From the top of the library.
    pub path: String,
    /// No more than the home keeps whole (see [`Cut`]).
    pub bytes: Bytes,
    /// What else is known.
    pub meta: Meta,
}

/// One name of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// From the top of the library, without slashes at its ends.
    pub path: String,
    /// What it is.
    pub kind: NamedKind,
    /// Last change, if the home knows it without opening the file.
    pub modified: Option<SystemTime>,
}

/// What a name of a listing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedKind {
    /// With names below it.
    Folder,
    /// A file; its size where the listing tells it.
    File {
        /// Exact.
        size_bytes: Option<u64>,
    },
    /// A symbolic link, a pipe, a device: shown, never read.
    Other,
}

/// One page of names, in the order of their paths' bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// At most as many as were asked for; may be fewer before the end.
    pub names: Vec<Named>,
    /// For the next page; `None` after the last.
    pub cursor: Option<String>,
}

/// A stretch of trouble or of waste that `verify` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub what: Damage,
    /// The file it is in; `None` of bytes that no file names.
    pub path: Option<String>,
    /// The file's chunk, from 0 on; `None` of a file that is kept whole.
    pub chunk: Option<usize>,
    /// The blob or the key.
    pub place: String,
    /// What its bytes must hash to, if that is known.
    pub sha256: Option<Digest>,
    /// Which bytes of the file; of an orphan as many as it has, from 0 on.
    pub range: ByteRange,
}

/// What is wrong with a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Damage {
    /// It is not there.
    Missing,
    /// Its bytes are not the ones that were put.
    Damaged,
    /// No file names it: left over by a crash, or not swept yet. Costs room, harms nothing.
    Orphaned,
}

/// What `verify` went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Files whose manifest was read.
    pub files: u64,
    /// Chunks hashed, each once.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What will have been hashed at the end, as far as it was told before; 0 where nobody knows.
    pub total_bytes: u64,
}

/// What `gc` or `purge` removed, or would.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Names removed; 0 of a `gc`.
    pub files: u64,
    /// Chunks (blobs, or values).
    pub chunks: u64,
    /// Their bytes; as far as the home knows them without reading.
    pub bytes: u64,
}

/// A place where files are put. Paths are from its top, `/`-separated, decoded, of safe names; see [`check_path`].
pub trait Library: Send + Sync {
    /// As a person wrote it, without credentials.
    fn describe(&self) -> &str;

    /// How it wants streams cut.
    fn cut(&self) -> Cut;

    /// What the file at `path` is made of, checked: sizes add up. `Missing`, or `Unsupported` of a folder.
    fn manifest(&self, path: &str) -> Result<Manifest>;

    /// One page of names.
    fn list(&self, query: &Query) -> Result<Page>;

    /// Looks for what other programs have put since, where `list` does not show it by itself.
    fn find_others(&self) -> Result<()> {
        Ok(())
    }

    /// The bytes of chunk `n` of a manifest that is not inline; they hash to what it says. `Corrupt` (naming file, chunk and place)
    /// if those that are kept do not, `Missing` if there are none.
    fn chunk(&self, path: &str, manifest: &Manifest, n: usize) -> Result<Bytes>;

    /// Whether folders are there for themselves, also without a file in them.
    fn has_folders(&self) -> bool {
        false
    }

    /// Whether all that a manifest names is still there, as far as a look at sizes tells: a file that is not whole is not
    /// skipped when it is put again. `true` where a look costs too much.
    fn is_whole(&self, _manifest: &Manifest) -> Result<bool> {
        Ok(true)
    }

    /// Whether a draft gains from knowing what will be written, so that a file is worth reading twice.
    fn wants_expected(&self) -> bool {
        false
    }

    /// Begins a file. Nothing is seen of it before it is committed; dropped, it leaves orphans at most. `expected` is what will
    /// be written, if that is known: chunks that an earlier, broken-off draft of the same content left need not be sent again.
    fn draft(&self, path: &str, expected: Option<&[Chunk]>) -> Result<Box<dyn Draft + '_>>;

    /// The same of a file in the plain form: as other programs of the same store write it. Without hashes, without tags, and with
    /// a moment in which it is not there while it replaces another one. `Unsupported` where no other program has such a form.
    fn plain_draft(&self, path: &str) -> Result<Box<dyn Draft + '_>> {
        let (library, path) = (self.describe(), path.escape_debug());
        Err(Error::new(Kind::Unsupported, format!("{path}: {library} has no plain form: only stores do (kv+…)")))
    }

    /// Which of these paths nothing has yet, and nothing stands in the way of: small files can be put there together. `false`,
    /// too, where the home gains nothing from that.
    fn are_new(&self, paths: &[&str]) -> Result<Vec<bool>> {
        Ok(vec![false; paths.len()])
    }

    /// Puts small files by names that are new (see [`Library::are_new`]), many for little more than one costs, each in one
    /// step; what came of each, in their order. One that can't be put does not keep the others from it.
    fn put_new(&self, files: Vec<Small>) -> Vec<Result<()>> {
        let put = |file: Small| self.draft(&file.path, None)?.commit(Content::Inline(file.bytes), file.meta).map(drop);
        files.into_iter().map(put).collect()
    }

    /// Returns when every name that was given or taken away before is durable. Names that are given one by one, without
    /// this, cost a sync together and not each.
    fn flush(&self) -> Result<()> {
        Ok(())
    }

    /// Takes the name of a file or an empty folder away, and what only it needed, at once or after the home's grace period.
    fn remove(&self, path: &str) -> Result<()>;

    /// Gives the file at `from` the name `to`; what was there by this name is replaced, in one step.
    fn rename(&self, from: &str, to: &str) -> Result<()>;

    /// Sets a file's tags, all of them: sorted, each once (see [`check_tags`]).
    fn set_tags(&self, path: &str, tags: &[String]) -> Result<()>;

    /// Sets the time of a file's last change. `Unsupported` where the home can't, without its bytes being put again.
    fn set_modified(&self, path: &str, _modified: SystemTime) -> Result<()> {
        Err(Error::new(Kind::Unsupported, format!("{}: its time can't be set", path.escape_debug())))
    }

    /// Removes every file with this tag, and all that only they needed, now. Can be broken off (`go_on` says no) at any
    /// point and begun again: nothing is left over in the end. Tells after each file what went so far.
    fn purge(&self, tag: &str, go_on: &mut dyn FnMut(Swept) -> bool) -> Result<Swept>;

    /// Hashes every chunk, and looks for those that no file names. `found` hears of each trouble; damaged chunks are put
    /// aside, so that nobody reads them and a repair can put good ones in their place.
    fn verify(&self, go_on: &mut dyn FnMut(Verified) -> bool, found: &mut dyn FnMut(Finding)) -> Result<Verified>;

    /// Puts good bytes in the place of what [`Library::verify`] found damaged or missing: those of the finding's range, which
    /// hash to what the finding says.
    fn repair(&self, finding: &Finding, bytes: &[u8]) -> Result<()>;

    /// Damaged chunks that were put aside, and where: they are kept until a person has looked at them.
    fn put_aside(&self) -> Result<(Swept, String)> {
        Ok((Swept::default(), String::new()))
    }

    /// A damaged catalog that a salvage has left beside the new one: what no file names may be all that is left of files that
    /// it named.
    fn damaged_catalog(&self) -> Option<String> {
        None
    }

    /// Removes what no file names and nobody wrote within `grace`.
    fn gc(&self, grace: Duration, is_dry_run: bool) -> Result<Swept>;
}

/// A file on its way in.
pub trait Draft: Send {
    /// Takes the next chunk, if its bytes are here already and hash to its proof; if not, says so, and it is to be added.
    fn add_known(&mut self, _chunk: &Chunk) -> Result<bool> {
        Ok(false)
    }

    /// Keeps the next chunk: in order, each beginning where the last ended; not for holes. Its bytes fit its proof. May return
    /// before they are written; an error may come from an earlier one.
    fn add(&mut self, chunk: &Chunk, bytes: Bytes) -> Result<()>;

    /// Waits until all chunks are synced, then gives the content its name, in one step. What was there by this name before
    /// is whole until then, and gone after.
    fn commit(self: Box<Self>, content: Content, meta: Meta) -> Result<Manifest>;
}

/// Where a library on this machine is, if `text` names one: `library:/path`.
pub fn local_dir(text: &str) -> Option<&Path> {
    text.strip_prefix("library:").filter(|path| !path.is_empty()).map(Path::new)
}

/// Whether `path` names something in a library: components that are safe names, not too long together.
pub fn check_path(path: &str) -> Result<()> {
    if path.len() > PATH_BYTES_MAX {
        let shown: String = path.chars().take(60).collect();
        let message = format!("`{}…`: a path of {} bytes; {PATH_BYTES_MAX} at most", shown.escape_debug(), path.len());
        return Err(Error::new(Kind::Invalid, message));
    }
    if path.split('/').all(is_safe_name) {
        return Ok(());
    }
    Err(Error::new(Kind::Invalid, format!("`{}` is not a path in a library", path.escape_debug())))
}

/// Tags as they are kept: sorted, each once; `Invalid` if one is empty, too long or holds control characters, or there
/// are too many.
pub fn check_tags(mut tags: Vec<String>) -> Result<Vec<String>> {
    tags.sort_unstable();
    tags.dedup();
    if let Some(tag) =
        tags.iter().find(|tag| tag.is_empty() || tag.len() > TAG_BYTES_MAX || tag.chars().any(char::is_control))
    {
        let message = format!("`{}` is no tag: 1 to {TAG_BYTES_MAX} bytes, no control characters", tag.escape_debug());
        return Err(Error::new(Kind::Invalid, message));
    }
    if tags.len() > TAGS_MAX {
        return Err(Error::new(Kind::Invalid, format!("{} tags; {TAGS_MAX} at most", tags.len())));
    }
    Ok(tags)
}
