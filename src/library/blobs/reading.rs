//! Reading blobs that are what their names say. A blob is hashed the first time this process reads it, and again whenever its
//! file is not as it was then: no more than a look at its inode tells that.
//! Never here: writing.

use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::corrupt;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};

/// Files held open: what a few dozen readers at a time are in.
const OPEN_MAX: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// Blobs remembered as hashed: 128 GiB of film in chunks of 2 MiB. Those read longest ago are hashed again.
const TRUSTED_MAX: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();
/// Hashed at once, where nobody waits for the bytes.
const PIECE_BYTES: usize = 256 << 10;

/// Who reads, and what was found out.
pub(super) struct Readers {
    // Each is taken alone, for a look. A blob that is hashed is locked by itself, so that it is hashed once.
    open: Mutex<LruCache<Digest, Arc<Blob>>>,
    trusted: Mutex<LruCache<Digest, State>>,
}

/// A blob's file as it was when its bytes were hashed: each write, cut or replacement shows in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    device: u64,
    inode: u64,
    size_bytes: u64,
    changed: (i64, i64),
}

impl State {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

struct Blob {
    file: File,
    // Held while it is hashed.
    hashing: Mutex<()>,
}

impl Readers {
    pub fn new() -> Self {
        Self { open: Mutex::new(LruCache::new(OPEN_MAX)), trusted: Mutex::new(LruCache::new(TRUSTED_MAX)) }
    }

    pub fn read_at(&self, digest: Digest, size: u64, offset: u64, bytes: &mut [u8], path: &Path) -> Result<()> {
        let blob = self.open(digest, path)?;
        if self.read_trusted(&blob.file, digest, size, offset, bytes, path)? {
            return Ok(());
        }
        let _one = blob.hashing.lock();
        // Another one may have hashed it just now.
        if self.read_trusted(&blob.file, digest, size, offset, bytes, path)? {
            return Ok(());
        }
        let before = state(&blob.file, path)?;
        let whole = read_whole(&blob.file, digest, size, path).inspect_err(|_| {
            // Another file may have its name by now, or may be given it by a repair.
            self.open.lock().pop(&digest);
        })?;
        // One that is written to meanwhile had these bytes, and may have others now.
        if state(&blob.file, path)? == before {
            self.trusted.lock().put(digest, before);
        }
        // Those very bytes.
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(whole.len());
        let Some(wanted) = whole[start..].get(..bytes.len()) else {
            return Err(corrupt(path, "is shorter than its file needs"));
        };
        bytes.copy_from_slice(wanted);
        Ok(())
    }

    /// Whether the bytes are those of a blob that was hashed: its file is looked at after they were read.
    fn read_trusted(
        &self,
        file: &File,
        digest: Digest,
        size: u64,
        offset: u64,
        bytes: &mut [u8],
        path: &Path,
    ) -> Result<bool> {
        let Some(hashed) = self.trusted(digest) else { return Ok(false) };
        if hashed.size_bytes != size {
            // Whoever says so is wrong: the blob is what its name says.
            return Err(wrong_length(path, hashed.size_bytes, size));
        }
        let read = file.read_exact_at(bytes, offset);
        if state(file, path)? == hashed {
            return read.map(|()| true).map_err(|error| failed(path, &error));
        }
        self.trusted.lock().pop(&digest);
        Ok(false)
    }

    /// Hashes a blob unless this process has done so before.
    pub fn check_once(&self, digest: Digest, size_bytes: u64, path: &Path) -> Result<()> {
        let looked_at = || fs::metadata(path).map_err(|error| Error::io(path.display(), &error));
        let before = State::of(&looked_at()?);
        if self.trusted(digest) == Some(before) && before.size_bytes == size_bytes {
            return Ok(());
        }
        let length = check(digest, path)?;
        if length != size_bytes {
            return Err(wrong_length(path, length, size_bytes));
        }
        if State::of(&looked_at()?) == before {
            self.trusted.lock().put(digest, before);
        }
        Ok(())
    }

    pub fn forget(&self, digest: Digest) {
        self.trusted.lock().pop(&digest);
        self.open.lock().pop(&digest);
    }

    fn trusted(&self, digest: Digest) -> Option<State> {
        self.trusted.lock().get(&digest).copied()
    }

    fn open(&self, digest: Digest, path: &Path) -> Result<Arc<Blob>> {
        if let Some(blob) = self.open.lock().get(&digest) {
            return Ok(Arc::clone(blob));
        }
        let file = File::open(path).map_err(|error| Error::io(path.display(), &error))?;
        let mut open = self.open.lock();
        // Another thread may have been faster; there is one lock for each blob.
        let blob = open.get_or_insert(digest, || Arc::new(Blob { file, hashing: Mutex::new(()) }));
        Ok(Arc::clone(blob))
    }
}

fn state(file: &File, path: &Path) -> Result<State> {
    file.metadata().map(|metadata| State::of(&metadata)).map_err(|error| failed(path, &error))
}

/// Reads all of it into memory: a chunk's worth, as whoever opened it knows.
fn read_whole(file: &File, digest: Digest, size_bytes: u64, path: &Path) -> Result<Vec<u8>> {
    let length = file.metadata().map_err(|error| failed(path, &error))?.len();
    if length != size_bytes {
        return Err(wrong_length(path, length, size_bytes));
    }
    let mut whole = vec![0; size_bytes as usize];
    file.read_exact_at(&mut whole, 0).map_err(|error| failed(path, &error))?;
    if Digest::of(&whole) != digest {
        return Err(corrupt(path, "its bytes are not those that were put (`reelfs verify` tells more)"));
    }
    Ok(whole)
}

/// Hashes what the disk has, piece by piece; returns how many bytes there are.
pub(super) fn check(digest: Digest, path: &Path) -> Result<u64> {
    let mut file = File::open(path).map_err(|error| Error::io(path.display(), &error))?;
    // As far as advice can make it: not what memory still holds of it.
    let _ = crate::sys::drop_page_cache(&file);
    let (mut hasher, mut length, mut piece) = (Hasher::new(), 0, vec![0; PIECE_BYTES]);
    loop {
        let count = file.read(&mut piece).map_err(|error| failed(path, &error))?;
        if count == 0 {
            break;
        }
        hasher.update(&piece[..count]);
        length += count as u64;
    }
    if hasher.finish() != digest {
        return Err(corrupt(path, "its bytes are not those that were put"));
    }
    Ok(length)
}

fn wrong_length(path: &Path, length: u64, size_bytes: u64) -> Error {
    corrupt(path, &format!("is {length} bytes long, not {size_bytes}"))
}

/// One that ends early was cut after it was opened.
fn failed(path: &Path, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => corrupt(path, "ends too early"),
        _ => Error::io(path.display(), error),
    }
}
