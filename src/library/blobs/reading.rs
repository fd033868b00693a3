//! Reading blobs that are what their names say. A blob is hashed the first time this process reads it.
//! Never here: writing.

use std::fs::File;
use std::io::{self, Read as _};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
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
    trusted: Mutex<LruCache<Digest, ()>>,
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
        if !self.is_trusted(digest) {
            let _one = blob.hashing.lock();
            if !self.is_trusted(digest) {
                let whole = read_whole(&blob.file, digest, size, path)?;
                self.trusted.lock().put(digest, ());
                // Those very bytes.
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(whole.len());
                let Some(wanted) = whole[start..].get(..bytes.len()) else {
                    return Err(corrupt(path, "is shorter than its file needs"));
                };
                bytes.copy_from_slice(wanted);
                return Ok(());
            }
        }
        blob.file.read_exact_at(bytes, offset).map_err(|error| failed(path, &error))
    }

    /// Hashes a blob unless this process has done so before.
    pub fn check_once(&self, digest: Digest, size_bytes: u64, path: &Path) -> Result<()> {
        if !self.is_trusted(digest) {
            let length = check(digest, path)?;
            if length != size_bytes {
                return Err(wrong_length(path, length, size_bytes));
            }
            self.trusted.lock().put(digest, ());
        }
        Ok(())
    }

    pub fn forget(&self, digest: Digest) {
        self.trusted.lock().pop(&digest);
        self.open.lock().pop(&digest);
    }

    fn is_trusted(&self, digest: Digest) -> bool {
        self.trusted.lock().get(&digest).is_some()
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
