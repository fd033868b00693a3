//! A library on a key-value store or in a bucket: files and manifests under their own names, chunks in groups beside them.
//! Never here: which store it is, and what its values look like on the inside (see `value`).
//!
//! A file that fits is one value, in a frame. Of a larger one, the base key holds a manifest; its chunks are a *group* with
//! an id, which nobody ever writes to again. What keeps a group alive is a *reference*: written before its chunks, deleted
//! after the last name that leads there. Nothing here locks: whoever removes a group says so (`swept`) and then looks for
//! references; whoever takes one writes the reference and then looks for `swept`. At least one sees the other, and gives way.
//! That word stays long after the last chunk went: equal content has the same id again, and a request that was sent to
//! delete a chunk may arrive late.
//!
//! A replaced or removed group stays for a grace period (`gone` says since when), so that whoever is reading it comes to the
//! end. Until it is removed it can be taken again.

mod asking;
mod changes;
mod check;
mod draft;
mod groups;
mod keys;
mod listing;
mod passing;
mod plain;
mod purge;
mod raw;
mod together;
mod value;

pub use value::is_ours as is_value;

use std::num::NonZeroUsize;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::asking::Asking;
use self::keys::Id;
use self::passing::InPassing;
use self::value::{Begins, HEAD_BYTES, MANIFEST_BYTES_MAX};
use super::manifest::{CHUNK_BYTES_MAX, Kept};
use super::{Chunk, Cut, Draft, Finding, Library, Manifest, Meta, Page, Proof, Query, Small, Swept, Verified};
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;
use crate::store::keyed::{Keyed, Seen};

/// Files up to this many bytes are one value, unless said otherwise at `init`: one request rather than several, and most
/// services take 25 MiB.
pub const WHOLE_BYTES_MAX: u64 = 20 << 20;
/// Bytes of each chunk but the last of a larger file, unless said otherwise at `init`.
pub const CHUNK_SIZE_BYTES: u64 = 5 << 20;
/// A replaced or removed group is kept for so long: a reader may be in the middle of it.
const GRACE: Duration = Duration::from_hours(1);
/// No request lives as long: not one that is made again and again, nor one of a machine that slept for a while.
const REQUEST_LIFE: Duration = Duration::from_hours(1);
/// Another program may put a file, or take it away, while a mount lasts: what is known of its chunks is good for so long.
const PLAIN_LIFE: Duration = Duration::from_secs(30);
/// How a library is laid out; one of a later format is refused.
const FORMAT: u32 = 1;
/// A larger value under the key of the settings holds none.
const SETTINGS_BYTES_MAX: u64 = 64 << 10;
/// Room around the bytes of a file in one value.
const FRAME_BYTES_MAX: u64 = HEAD_BYTES;
/// What tells one value from another: a frame's head, which holds the hashes of the rest.
const HEAD: ByteRange = ByteRange { start: 0, end: HEAD_BYTES };
/// And all of a manifest, however large.
const WHOLE: ByteRange = ByteRange { start: 0, end: MANIFEST_BYTES_MAX + 1 };
/// Folders and bases that were looked at already.
const KNOWN_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("not 0");

/// How a library cuts its files; said once, when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    format: u32,
    /// Files up to this many bytes are one value.
    pub whole_bytes_max: u64,
    /// Bytes of each chunk but the last of a larger one.
    pub chunk_size_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { format: FORMAT, whole_bytes_max: WHOLE_BYTES_MAX, chunk_size_bytes: CHUNK_SIZE_BYTES }
    }
}

/// A library over a home of values.
pub struct KeyedLibrary {
    asking: Arc<Asking>,
    settings: Settings,
    /// Folders that no file stands in the way of. Held for a look only, as all below.
    folders: Mutex<LruCache<String, ()>>,
    /// How many chunks of another program's file stand beside it, by its path, and when they were counted.
    plain: Mutex<LruCache<String, (usize, Instant)>>,
    passing: InPassing,
}

/// What is under a file's key.
struct Loaded {
    manifest: Manifest,
    /// The group it needs.
    id: Option<Id>,
    /// What of the value was read: all that tells it from another one.
    seen: Seen,
}

impl KeyedLibrary {
    /// The library in `home`. `Missing` if none was made there; `Unsupported` if its format is a later one. A request that
    /// fails is made again up to `retries` times: 0 where the asker's own asker asks again.
    pub fn open(home: Arc<dyn Keyed>, retries: u32) -> Result<Self> {
        let asking = Asking::new(home, retries);
        let settings = settings(&asking)?.ok_or_else(|| {
            let place = asking.describe();
            Error::new(Kind::Missing, format!("{place}: no library is there; make one: reelfs init {place}"))
        })?;
        asking.mend_modes();
        Ok(Self::with(asking, settings))
    }

    /// Makes a library in `home`. One that is there already stays as it is: `Invalid` if it was made with other settings.
    pub fn init(home: Arc<dyn Keyed>, settings: Settings, retries: u32) -> Result<Self> {
        let asking = Asking::new(home, retries);
        settings.check(asking.limits().value_bytes_max)?;
        keys::check_home(asking.limits())?;
        match self::settings(&asking)? {
            Some(there) if there == settings => asking.mend_modes(),
            Some(_) => {
                let message = format!("{}: a library is there already, made with other sizes", asking.describe());
                return Err(Error::new(Kind::Invalid, message));
            }
            None => {
                let value =
                    serde_json::to_vec(&settings).map_err(|error| Error::new(Kind::Local, error.to_string()))?;
                if asking.list("", Bound::Unbounded, 1)?.is_empty() {
                    asking.mend_modes();
                } else {
                    log::warn!("{}: not empty: what is there is listed, and left alone", asking.describe());
                }
                asking.put_one(keys::SETTINGS.to_owned(), value.into())?;
            }
        }
        Ok(Self::with(asking, settings))
    }

    /// The same library, whose requests are made again up to `retries` times.
    #[must_use]
    pub fn asked_again(&self, retries: u32) -> Self {
        Self::with(self.asking.again_for(retries), self.settings)
    }

    fn with(asking: Asking, settings: Settings) -> Self {
        let (folders, plain) = (Mutex::new(LruCache::new(KNOWN_MAX)), Mutex::new(LruCache::new(KNOWN_MAX)));
        Self { asking: Arc::new(asking), settings, folders, plain, passing: InPassing::default() }
    }

    /// What is under a file's key. `Missing`; `Corrupt` if it is damaged; `Unsupported` if it is another program's and no
    /// manifest, or of a newer reelfs: whatever changes something asks this, and leaves such a value alone.
    fn load(&self, path: &str) -> Result<Loaded> {
        self.read_whole(path).and_then(|value| read(path, &value))
    }

    /// What is shown of a file of any program. As `load`; but a value of another program is a file, too.
    fn shown(&self, path: &str) -> Result<Manifest> {
        let value = self.read_whole(path)?;
        let head = value.slice(..value.len().min(HEAD_BYTES as usize));
        match read_ours(path, &value) {
            Err(_) if value::is_foreign(&head) && !keys::is_nested(path) => self.raw(path, head),
            Err(_) if value::is_foreign(&head) => Err(is_foreign(path)),
            ours => Ok(ours?.manifest),
        }
    }

    /// All of a manifest, and the first `HEAD_BYTES` of anything else.
    fn read_whole(&self, path: &str) -> Result<Bytes> {
        let head = self.asking.get(path, HEAD)?;
        let is_json = value::begins(path, &head).is_ok_and(|begins| begins == Begins::Json);
        if is_json && head.len() as u64 >= HEAD_BYTES { self.asking.get(path, WHOLE) } else { Ok(head) }
    }

    /// As `load`; nothing if there is no file, or none that could be read: what is put in its place is better.
    fn load_any(&self, path: &str) -> Result<Option<Loaded>> {
        match self.load(path) {
            Ok(loaded) => Ok(Some(loaded)),
            Err(error) if matches!(error.kind(), Kind::Missing | Kind::Corrupt | Kind::Unsupported) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is to be replaced; nothing if there is no file, or a damaged one. `Unsupported` if it is not ours to replace.
    fn load_replaced(&self, path: &str) -> Result<Option<Loaded>> {
        match self.load(path) {
            Err(error) if matches!(error.kind(), Kind::Missing | Kind::Corrupt) => Ok(None),
            loaded => loaded.map(Some),
        }
    }

    fn is_folder(&self, path: &str) -> Result<bool> {
        Ok(!self.asking.list(&format!("{path}/"), Bound::Unbounded, 1)?.is_empty())
    }

    /// The bytes of a chunk as they are kept, whatever they are: `Missing` if there are none.
    fn kept_bytes(&self, path: &str, manifest: &Manifest, n: usize) -> Result<Bytes> {
        let range = manifest.chunks()[n].range;
        match manifest.kept() {
            Kept::Within { start_byte } => {
                self.asking.get(path, ByteRange::new(start_byte + range.start, start_byte + range.end))
            }
            // One more than it should hold: a longer one is not the chunk that was put.
            Kept::Under { .. } => self.asking.get(&place(path, manifest, n), ByteRange::new(0, range.len() + 1)),
            Kept::ByHash => Err(Error::new(Kind::Invalid, "a manifest of another home")),
        }
    }

    /// Chunk `n`, or what is wrong with it as it is kept now.
    fn checked_chunk(&self, path: &str, manifest: &Manifest, n: usize) -> Result<Bytes> {
        let chunk = manifest.chunks()[n];
        let place = place(path, manifest, n);
        let shown = || format!("{}: chunk {n} (`{}`)", path.escape_debug(), place.escape_debug());
        let promised = chunk.range.len();
        let bytes = self.kept_bytes(path, manifest, n).map_err(|error| match error.kind() {
            Kind::Missing => Error::new(Kind::Missing, format!("{} is missing: {promised} bytes", shown())),
            _ => error,
        })?;
        if chunk.fits(&bytes) {
            return Ok(bytes);
        }
        if bytes.len() as u64 != promised {
            let found = match manifest.kept() {
                // No more than one too many was read.
                Kept::Under { .. } => self.asking.look(&place).map_or(bytes.len() as u64, |look| look.size_bytes),
                _ => bytes.len() as u64,
            };
            let message = format!("{}: {found} bytes are there, and the manifest says {promised}", shown());
            return Err(Error::new(Kind::Corrupt, message));
        }
        Err(Error::new(Kind::Corrupt, format!("{}: its bytes are not the ones that were put", shown())))
    }
}

impl Library for KeyedLibrary {
    fn describe(&self) -> &str {
        self.asking.describe()
    }

    fn cut(&self) -> Cut {
        Cut { inline_bytes_max: self.settings.whole_bytes_max, chunk_size_bytes: self.settings.chunk_size_bytes }
    }

    fn manifest(&self, path: &str) -> Result<Manifest> {
        keys::check(path, self.asking.limits())?;
        match self.shown(path) {
            Err(error) if error.kind() == Kind::Missing => {
                if self.is_folder(path)? {
                    return Err(Error::new(
                        Kind::Unsupported,
                        format!("{}: a folder, not a file", path.escape_debug()),
                    ));
                }
                Err(Error::new(Kind::Missing, format!("{}: no such file in {}", path.escape_debug(), self.describe())))
            }
            shown => shown,
        }
    }

    fn list(&self, query: &Query) -> Result<Page> {
        listing::list(self, query)
    }

    fn find_others(&self) -> Result<()> {
        self.asking.find_others()
    }

    fn chunk(&self, path: &str, manifest: &Manifest, n: usize) -> Result<Bytes> {
        let Some(chunk) = manifest.chunks().get(n) else {
            return Err(Error::new(Kind::Invalid, format!("{}: there is no chunk {n}", path.escape_debug())));
        };
        if chunk.proof == Proof::Zeros {
            return Err(Error::new(Kind::Invalid, format!("{}: chunk {n} is a hole", path.escape_debug())));
        }
        let replaced = || Error::new(Kind::Changed, format!("{}: replaced while it was read", path.escape_debug()));
        let error = match self.checked_chunk(path, manifest, n) {
            // No hash tells whose bytes they are, and another program writes the next file's to the same keys.
            Ok(bytes) if chunk.proof == Proof::Size => {
                let is_same =
                    |now: &Manifest| now.kept() == manifest.kept() && now.content_id() == manifest.content_id();
                return match self.shown(path) {
                    Ok(now) if is_same(&now) => Ok(bytes),
                    Err(error) if !matches!(error.kind(), Kind::Missing | Kind::Corrupt | Kind::Unsupported) => {
                        Err(error)
                    }
                    _ => Err(replaced()),
                };
            }
            Err(error) if matches!(error.kind(), Kind::Missing | Kind::Corrupt) => error,
            other => return other,
        };
        // A file that was replaced meanwhile looks like a damaged one.
        match self.shown(path) {
            Ok(now) if now.content_id() == manifest.content_id() => {
                if now.kept() == manifest.kept() {
                    return Err(error);
                }
                self.checked_chunk(path, &now, n)
            }
            Ok(_) => Err(replaced()),
            Err(gone) if gone.kind() == Kind::Missing => {
                Err(Error::new(Kind::Changed, format!("{}: removed while it was read", path.escape_debug())))
            }
            Err(other) => Err(other),
        }
    }

    fn wants_expected(&self) -> bool {
        true
    }

    fn draft(&self, path: &str, expected: Option<&[Chunk]>) -> Result<Box<dyn Draft + '_>> {
        Ok(Box::new(draft::KeyedDraft::begin(self, path, expected)?))
    }

    fn plain_draft(&self, path: &str) -> Result<Box<dyn Draft + '_>> {
        Ok(Box::new(plain::PlainDraft::begin(self, path)?))
    }

    fn are_new(&self, paths: &[&str]) -> Result<Vec<bool>> {
        KeyedLibrary::are_new(self, paths)
    }

    fn put_new(&self, files: Vec<Small>) -> Vec<Result<()>> {
        self.put_small(files)
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.remove_file(path)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.rename_file(from, to)
    }

    fn set_tags(&self, path: &str, tags: &[String]) -> Result<()> {
        self.change_tags(path, tags)
    }

    fn set_modified(&self, path: &str, modified: SystemTime) -> Result<()> {
        keys::check(path, self.asking.limits())?;
        self.change_meta(path, |meta| Meta { modified, ..meta })
    }

    fn purge(&self, tag: &str, go_on: &mut dyn FnMut(Swept) -> bool) -> Result<Swept> {
        purge::purge(self, tag, go_on)
    }

    fn verify(&self, go_on: &mut dyn FnMut(Verified) -> bool, found: &mut dyn FnMut(Finding)) -> Result<Verified> {
        check::verify(self, go_on, found)
    }

    fn repair(&self, finding: &Finding, bytes: &[u8]) -> Result<()> {
        check::repair(self, finding, bytes)
    }

    fn gc(&self, grace: Duration, is_dry_run: bool) -> Result<Swept> {
        self.collect(grace, is_dry_run)
    }
}

impl Settings {
    /// Sizes that are not given are the usual ones.
    pub fn new(whole_bytes_max: Option<u64>, chunk_size_bytes: Option<u64>) -> Self {
        let usual = Self::default();
        Self {
            whole_bytes_max: whole_bytes_max.unwrap_or(usual.whole_bytes_max),
            chunk_size_bytes: chunk_size_bytes.unwrap_or(usual.chunk_size_bytes),
            ..usual
        }
    }

    fn check(&self, value_bytes_max: u64) -> Result<()> {
        let most = CHUNK_BYTES_MAX.min(value_bytes_max.saturating_sub(FRAME_BYTES_MAX));
        for (what, bytes, least) in [("whole", self.whole_bytes_max, 0), ("chunk", self.chunk_size_bytes, 1)] {
            if bytes < least || bytes > most {
                let message = format!("{what} files of {bytes} bytes: from {least} to {most} can be kept as one value");
                return Err(Error::new(Kind::Invalid, message));
            }
        }
        Ok(())
    }
}

/// What was said when the library was made, if one was.
fn settings(asking: &Asking) -> Result<Option<Settings>> {
    let value = match asking.get(keys::SETTINGS, ByteRange::new(0, SETTINGS_BYTES_MAX)) {
        Err(error) if error.kind() == Kind::Missing => return Ok(None),
        value => value?,
    };
    let shown = || format!("{}: {}", asking.describe(), keys::SETTINGS);
    let settings: Settings = serde_json::from_slice(&value)
        .map_err(|error| Error::new(Kind::Corrupt, format!("{} cannot be read: {error}", shown())))?;
    if settings.format > FORMAT {
        let message = format!("{}: written by a newer reelfs (format {})", shown(), settings.format);
        return Err(Error::new(Kind::Unsupported, message));
    }
    settings.check(asking.limits().value_bytes_max).map_err(|error| error.context(shown()))?;
    Ok(Some(settings))
}

/// What a file's own value says, of which all of a manifest is there, and the first `HEAD_BYTES` of anything else.
fn read(path: &str, value: &Bytes) -> Result<Loaded> {
    let head = &value[..value.len().min(HEAD_BYTES as usize)];
    read_ours(path, value).map_err(|error| if value::is_foreign(head) { is_foreign(path) } else { error })
}

fn read_ours(path: &str, value: &Bytes) -> Result<Loaded> {
    if value::begins(path, value)? == Begins::Frame {
        let head = value.slice(..value.len().min(HEAD_BYTES as usize));
        return Ok(Loaded { manifest: value::read_frame(path, &head)?, id: None, seen: seen_of(value) });
    }
    if value.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(Error::new(Kind::Corrupt, format!("{}: larger than any manifest is", path.escape_debug())));
    }
    let (manifest, id) = value::read_manifest(path, value)?;
    let seen = seen_of(value);
    let manifest = if id.is_none() { manifest.told_by(seen.sha256, false) } else { manifest };
    Ok(Loaded { manifest, id, seen })
}

/// The error of whoever finds something else than a file.
fn is_foreign(path: &str) -> Error {
    let path = path.escape_debug();
    Error::new(Kind::Unsupported, format!("{path}: another program's, no file of this library: it is left alone"))
}

/// What tells a value from another one; `read` says what must be there of it.
fn seen_of(value: &Bytes) -> Seen {
    let is_manifest = value.first() == Some(&b'{');
    let range = if is_manifest { WHOLE } else { HEAD };
    Seen::of(range, &value[..value.len().min(range.end as usize)])
}

/// Under which key a chunk is.
fn place(path: &str, manifest: &Manifest, n: usize) -> String {
    match manifest.kept() {
        Kept::Under { prefix } => {
            // Holes are kept nowhere, and not counted.
            let before = &manifest.chunks()[..n];
            keys::chunk(prefix, before.iter().filter(|chunk| chunk.proof != Proof::Zeros).count())
        }
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests;
