//! An origin over a library that is far away: what the library says a file is made of is what the drive shows, and nothing
//! else ever is.
//! Never here: which home it has, and retries (they stand above).
//!
//! A version is a file's content. Whoever opened one reads it to its end though the file be replaced meanwhile, as long as
//! the library keeps the old chunks. Where another program wrote the manifest nothing tells contents of the same sizes
//! apart, and a version counts for a moment: what was read of it is given to nobody who comes later. So it is with any other
//! value of another program, unless its store has a time or a word for each state of it.

mod chunks;

use std::cmp::min;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;

use self::chunks::Chunks;
use super::{Body, Listed, ListedKind, Origin, Pages, Patience, Stat, Version};
use crate::config::PlacesConfig;
use crate::error::{Error, Kind, Result};
use crate::library::{Content, Library, Manifest, NamedKind, PAGE_NAMES, Proof, Query, place};
use crate::range::ByteRange;
use crate::store::keyed::address::Address;
use crate::store::{LISTING_NAMES_MAX, Paging};

/// Handed up at once of a hole, or of what is there already: small enough that a reader gets its first bytes soon.
const PIECE_BYTES: u64 = 256 << 10;
/// What is written is asked for again so often, where what failed may pass: some minutes of a store that is away.
const WRITE_RETRIES: u32 = 5;
/// What a hole reads as.
static ZEROS: [u8; PIECE_BYTES as usize] = [0; PIECE_BYTES as usize];
/// Files whose manifest is known: those that are open, and those a player looked at.
const MANIFESTS_MAX: NonZeroUsize = NonZeroUsize::new(512).expect("not 0");
/// As long a file without hashes is taken for the one it was: from looking its name up to opening it.
const UNPROVED_FOR: Duration = Duration::from_secs(1);
/// Chunks that are named by all of them together: 56 bytes each. Of the last file, however many it has.
const MANIFEST_CHUNKS_MAX: usize = 1 << 20;

/// A library in a store, seen as a source. It is opened when it is first asked for something, so that a drive can start
/// without it.
pub struct Kept {
    address: Address,
    places: PlacesConfig,
    described: String,
    opened: OnceLock<Opened>,
    /// What others have put is to be looked for.
    is_to_look: AtomicBool,
}

/// The library, and what is known of it.
struct Opened {
    library: Arc<dyn Library>,
    // The same, asked again by itself: whoever writes has nobody above who would.
    to_write: Arc<dyn Library>,
    root: Root,
    /// By path and version. Held for a look only.
    manifests: Mutex<Manifests>,
    /// Of files without hashes, by path: the version they have, and since when. Held for a look only.
    unproved: Mutex<LruCache<String, (Version, Instant)>>,
    chunks: Arc<Chunks>,
}

/// What of the library is the source.
enum Root {
    /// `""`, or a folder in it.
    Folder(String),
    /// One file, by its path; and the name it has on the drive.
    File(String, Box<str>),
}

struct Manifests {
    by_version: LruCache<(String, Version), Arc<Manifest>>,
    chunk_count: usize,
}

impl Kept {
    /// The library that `address` lies in. Asks nothing yet.
    pub fn new(address: &Address, places: &PlacesConfig) -> Self {
        let described = address.located(&places.s3);
        let (opened, is_to_look) = (OnceLock::new(), AtomicBool::default());
        Self { address: address.clone(), places: places.clone(), described, opened, is_to_look }
    }

    fn opened(&self) -> Result<&Opened> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        // Twice, if two ask at once: the second one is dropped.
        let (library, path) = place::open_keyed(&self.address, &self.places, 0)?;
        let to_write = Arc::new(library.asked_again(WRITE_RETRIES));
        let opened = Opened::new(Arc::new(library), to_write, path)?;
        Ok(self.opened.get_or_init(|| opened))
    }

    /// The library, to be changed, and its own path of `path`. A request that fails is made again.
    pub fn to_write(&self, path: &str) -> Result<(&dyn Library, String)> {
        let opened = self.opened()?;
        Ok((&*opened.to_write, opened.path(path)?))
    }
}

impl Opened {
    fn new(library: Arc<dyn Library>, to_write: Arc<dyn Library>, path: String) -> Result<Self> {
        let root = if path.is_empty() {
            Root::Folder(path)
        } else {
            match library.manifest(&path) {
                Ok(_) => {
                    let name = path.rsplit('/').next().unwrap_or_default().into();
                    Root::File(path, name)
                }
                // Whether there is such a folder shows when it is listed.
                Err(error) if matches!(error.kind(), Kind::Missing | Kind::Unsupported) => Root::Folder(path),
                Err(error) => return Err(error),
            }
        };
        let manifests = Manifests { by_version: LruCache::new(MANIFESTS_MAX), chunk_count: 0 };
        let chunks = Chunks::new(Arc::clone(&library));
        let unproved = Mutex::new(LruCache::new(MANIFESTS_MAX));
        Ok(Self { library, to_write, root, manifests: Mutex::new(manifests), unproved, chunks: Arc::new(chunks) })
    }

    /// The library's own path of a path.
    fn path(&self, path: &str) -> Result<String> {
        match &self.root {
            Root::Folder(folder) if folder.is_empty() || path.is_empty() => Ok(format!("{folder}{path}")),
            Root::Folder(folder) => Ok(format!("{folder}/{path}")),
            Root::File(file, name) if **name == *path => Ok(file.clone()),
            Root::File(..) => {
                let message = format!("{}: no file `{}`", self.library.describe(), path.escape_debug());
                Err(Error::new(Kind::Missing, message))
            }
        }
    }

    /// What the file is now.
    fn ask(&self, path: String) -> Result<(Stat, Arc<Manifest>)> {
        let manifest = match self.library.manifest(&path) {
            Err(error) if error.kind() == Kind::Unsupported => {
                // A folder is no file.
                return Err(Error::new(Kind::Missing, error.to_string()));
            }
            manifest => Arc::new(manifest?),
        };
        let version = if manifest.is_proved() {
            Version::from_stored(format!("sha256:{}", manifest.content_id()))
        } else if manifest.is_told_apart() {
            Version::from_stored(format!("told:{}", manifest.content_id()))
        } else {
            self.unproved_version(&path, &manifest)
        };
        self.manifests.lock().put((path, version.clone()), Arc::clone(&manifest));
        let modified = Some(manifest.meta().modified).filter(|modified| *modified != SystemTime::UNIX_EPOCH);
        Ok((Stat { size_bytes: manifest.size_bytes(), modified, version }, manifest))
    }

    /// The version of a file without hashes: another one after a moment, also in the next run.
    fn unproved_version(&self, path: &str, manifest: &Manifest) -> Version {
        let mut unproved = self.unproved.lock();
        let sizes = format!("sizes:{} ", manifest.content_id());
        if let Some((version, since)) = unproved.get(path)
            && since.elapsed() < UNPROVED_FOR
            && version.as_str().starts_with(&sizes)
        {
            return version.clone();
        }
        let version = Version::from_stored(format!("{sizes}seen:{:032x}", fastrand::u128(..)));
        unproved.put(path.to_owned(), (version.clone(), Instant::now()));
        version
    }

    /// What the file was in this version. `Changed` where only a later one is known.
    fn manifest(&self, path: String, version: &Version) -> Result<Arc<Manifest>> {
        let wanted = (path, version.clone());
        if let Some(manifest) = self.manifests.lock().by_version.get(&wanted) {
            return Ok(Arc::clone(manifest));
        }
        let (path, _) = wanted;
        let (now, manifest) = self.ask(path.clone())?;
        if now.version == *version {
            return Ok(manifest);
        }
        Err(Error::new(Kind::Changed, format!("{}: {} was replaced", self.library.describe(), path.escape_debug())))
    }
}

impl Manifests {
    fn put(&mut self, key: (String, Version), manifest: Arc<Manifest>) {
        self.chunk_count += manifest.chunks().len();
        if let Some((_, old)) = self.by_version.push(key, manifest) {
            self.chunk_count -= old.chunks().len();
        }
        while self.chunk_count > MANIFEST_CHUNKS_MAX && self.by_version.len() > 1 {
            if let Some((_, old)) = self.by_version.pop_lru() {
                self.chunk_count -= old.chunks().len();
            }
        }
    }
}

impl Origin for Kept {
    fn look_anew(&self) {
        self.is_to_look.store(true, Ordering::Relaxed);
    }

    fn list(&self, folder: &str, _: &Patience, pages: &mut Pages<'_>) -> Result<()> {
        let opened = self.opened()?;
        if self.is_to_look.swap(false, Ordering::Relaxed)
            && let Err(error) = opened.library.find_others()
        {
            log::warn!("{error}: what other programs have put since may not be listed");
        }
        let mut paging = Paging::new(pages);
        if let (Root::File(path, name), "") = (&opened.root, folder) {
            let (stat, _) = opened.ask(path.clone())?;
            paging.add(Listed::file(name.clone(), &stat))?;
            return paging.finish();
        }
        let folder = opened.path(folder)?;
        let mut query = Query { folder, limit: PAGE_NAMES, ..Query::default() };
        // A library that has more than a drive shows ends at the limit, or here.
        for _ in 0..=LISTING_NAMES_MAX {
            let page = opened.library.list(&query)?;
            for named in page.names {
                let kind = match named.kind {
                    NamedKind::Folder => ListedKind::Folder,
                    NamedKind::File { size_bytes } => ListedKind::File { size_bytes },
                    NamedKind::Other => continue,
                };
                let name = named.path.rsplit('/').next().unwrap_or_default().into();
                paging.add(Listed { name, kind, modified: named.modified })?;
            }
            query.cursor = page.cursor;
            if query.cursor.is_none() {
                break;
            }
        }
        paging.finish()
    }

    fn stat(&self, path: &str, _: &Patience) -> Result<Stat> {
        let opened = self.opened()?;
        Ok(opened.ask(opened.path(path)?)?.0)
    }

    fn read(&self, path: &str, expected: &Stat, range: ByteRange, patience: &Patience) -> Result<Box<dyn Body>> {
        let opened = self.opened()?;
        let path = opened.path(path)?;
        let manifest = opened.manifest(path.clone(), &expected.version)?;
        let chunks = Arc::clone(&opened.chunks);
        let version = expected.version.clone();
        Ok(Box::new(KeptBody { chunks, path, version, manifest, left: range, patience: patience.clone() }))
    }

    fn describe(&self) -> &str {
        &self.described
    }
}

/// The bytes of a range of one version, each from a chunk that was hashed whole.
struct KeptBody {
    chunks: Arc<Chunks>,
    path: String,
    version: Version,
    manifest: Arc<Manifest>,
    left: ByteRange,
    patience: Patience,
}

impl Body for KeptBody {
    fn next(&mut self) -> Result<Option<Bytes>> {
        if self.left.is_empty() {
            return Ok(None);
        }
        let start = self.left.start;
        let end = min(self.left.end, start + PIECE_BYTES);
        let piece = match self.manifest.content() {
            Content::Inline(bytes) => bytes.slice(start as usize..end as usize),
            Content::Chunks(chunks) => {
                let n = self.manifest.covering(ByteRange::new(start, end)).start;
                let chunk = chunks[n];
                let end = min(end, chunk.range.end);
                if chunk.proof == Proof::Zeros {
                    Bytes::from_static(&ZEROS[..(end - start) as usize])
                } else {
                    let bytes = self.chunks.get((&self.path, &self.version), &self.manifest, n, &self.patience)?;
                    bytes.slice((start - chunk.range.start) as usize..(end - chunk.range.start) as usize)
                }
            }
        };
        self.left.start += piece.len() as u64;
        Ok(Some(piece))
    }
}

#[cfg(test)]
mod tests;
