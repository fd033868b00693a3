//! Immutable bytes on this machine's disk, named by their SHA-256: equal ones are kept once.
//!
//! ```text
//! blobs/ab/<sha256>.blob        ab: the first two digits
//! scratch/                      what is being written; nothing in it means anything after a restart
//! quarantine/<sha256>.blob      what did not hash to its name, out of everybody's way
//! ```
//!
//! Invariant: a file that has its name in `blobs/` was synced under another one first. So one that is there is whole,
//! however the machine stopped; and what is there is never written again.
//! Never here: which files need a blob (see `catalog`).

mod behind;
mod hold;
mod pins;
mod reading;
mod scratch;
mod written;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::modes::Modes;
use crate::sys;
use crate::timing::Timing;

pub use behind::BEHIND_BYTES_MAX;
use behind::Behind;
pub use hold::Hold;
pub use pins::Pinned;
use pins::Pins;
use reading::Readers;
pub use scratch::Scratch;
pub use written::Written;

/// From so many blobs on, one sync of the whole filesystem is cheaper than one for each.
const SYNC_EACH_MAX: usize = 8;

/// The blobs of one library. Its methods may be called from any thread.
pub struct Blobs {
    dir: PathBuf,
    // Who may look at a library's bytes past its catalog; nobody writes them.
    modes: Modes,
    pins: Arc<Pins>,
    readers: Readers,
    scratches: AtomicU64,
    behind: Arc<Behind>,
    // Held while one blob is removed; taken last.
    removing: Mutex<()>,
    syncs: Timing,
}

/// What is in the folder by one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub sha256: Digest,
    /// As long as it is.
    pub size_bytes: u64,
    /// When it was put there.
    pub modified: std::time::SystemTime,
}

impl Blobs {
    /// Makes the folders of a new library in `dir`, and syncs them.
    pub fn create(dir: &Path) -> Result<()> {
        let modes = Modes::of(dir);
        let make = |path: PathBuf| modes.make_folder(&path).map_err(|error| Error::io(path.display(), &error));
        for name in ["blobs", "scratch", "quarantine"] {
            make(dir.join(name))?;
        }
        for first in 0..=u8::MAX {
            make(dir.join("blobs").join(format!("{first:02x}")))?;
        }
        sync_folder(&dir.join("blobs"))?;
        sync_folder(dir)
    }

    /// The blobs in `dir`.
    pub fn open(dir: &Path) -> Result<Self> {
        Ok(Self {
            dir: dir.to_owned(),
            modes: Modes::of(dir),
            pins: Arc::default(),
            readers: Readers::new(),
            scratches: AtomicU64::new(0),
            behind: Arc::default(),
            removing: Mutex::default(),
            syncs: Timing::default(),
        })
    }

    /// Throws away what an earlier writer was about to write. Only the one writer of a library may.
    pub fn clear_scratch(&self) -> Result<()> {
        let folder = self.dir.join("scratch");
        let failed = |error: io::Error| Error::io(folder.display(), &error);
        for entry in fs::read_dir(&folder).map_err(failed)? {
            remove_file(&entry.map_err(failed)?.path())?;
        }
        Ok(())
    }

    /// A new file to write a blob's bytes to, gone when it is dropped.
    pub fn scratch(&self) -> Result<Scratch> {
        let number = self.scratches.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join("scratch").join(format!("{}-{number}.part", std::process::id()));
        Scratch::create(path, number, &self.behind)
    }

    /// Gives scratch files their names, after they were synced; when it returns, they stay whatever happens. Each must hold
    /// exactly the bytes that hash to its digest. What is there by one of these names is replaced.
    pub fn keep(&self, written: Vec<(Scratch, Digest, u64)>) -> Result<Vec<Pinned>> {
        // Opened before any byte of these was written: it is told of every error since, and nobody else takes them away.
        let oldest = written.iter().map(|(scratch, ..)| scratch).min_by_key(|scratch| scratch.number());
        let oldest = oldest.filter(|_| written.len() > SYNC_EACH_MAX);
        let oldest = oldest.map(|scratch| Arc::clone(scratch.written()));
        self.syncs.of(|| match &oldest {
            Some(oldest) => {
                written.iter().try_for_each(|(scratch, ..)| scratch.settled().map(drop))?;
                self.sync_filesystem(oldest)
            }
            None => written.iter().try_for_each(|(scratch, ..)| scratch.sync()),
        })?;
        let mut kept = Vec::with_capacity(written.len());
        let mut folders = BTreeSet::new();
        for (scratch, digest, size_bytes) in written {
            // Before it is there, so that nobody removes it as one that no file names.
            kept.push(Pins::pin(&self.pins, digest));
            let path = self.path(digest);
            let length = scratch.settled()?.metadata().map_err(|error| Error::io(path.display(), &error))?.len();
            if length != size_bytes {
                let message = format!("{}: {length} bytes were written, not {size_bytes}", path.display());
                return Err(Error::new(Kind::Local, message));
            }
            // Over one that is there: it may be damaged, and its name may not be synced yet.
            scratch.seal(self.modes.sealed())?.rename_to(&path)?;
            self.readers.forget(digest);
            folders.extend(path.parent().map(Path::to_owned));
        }
        self.sync_folders(&folders, oldest.as_deref())?;
        Ok(kept)
    }

    /// How long syncs of bytes took, before they became blobs: many at once are one.
    pub fn syncs(&self) -> &Timing {
        &self.syncs
    }

    /// How many blobs are held on to, by files on their way in.
    pub fn pinned_count(&self) -> usize {
        self.pins.count()
    }

    /// Holds on to a blob that is there with this size.
    pub fn pin(&self, digest: Digest, size_bytes: u64) -> Result<Option<Pinned>> {
        let pinned = Pins::pin(&self.pins, digest);
        Ok(has_blob(&self.path(digest), size_bytes)?.then_some(pinned))
    }

    /// The same, if its bytes hash to its name, as this process found out or does now: what is put again is put anyway where
    /// they do not. Its name may not be synced yet: see [`Blobs::sync_names`].
    pub fn adopt(&self, digest: Digest, size_bytes: u64) -> Result<Option<Pinned>> {
        let Some(pinned) = self.pin(digest, size_bytes)? else { return Ok(None) };
        match self.readers.check_once(digest, size_bytes, &self.path(digest)) {
            Ok(()) => Ok(Some(pinned)),
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Missing) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns when the names of adopted blobs are durable: another one may have given them just now.
    pub fn sync_names(&self, adopted: &[Pinned]) -> Result<()> {
        let folders = adopted.iter().filter_map(|pinned| self.path(pinned.digest()).parent().map(Path::to_owned));
        self.sync_folders(&folders.collect(), None)
    }

    /// Fills `bytes` from `offset` on; all of them lie within the blob, which has `size_bytes`. The first read hashes all of it:
    /// `Corrupt` or `Missing`, and nothing is given out, if it is not what its name says.
    pub fn read_at(&self, digest: Digest, size_bytes: u64, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.readers.read_at(digest, size_bytes, offset, bytes, &self.path(digest))
    }

    /// Hashes the bytes on the disk, read again: nothing that was found out earlier counts. `Corrupt` if they do not hash to
    /// their name, else how many there are.
    pub fn check(&self, digest: Digest) -> Result<u64> {
        self.readers.forget(digest);
        reading::check(digest, &self.path(digest))
    }

    /// Keeps every process from removing blobs, as long as it lives.
    pub fn hold(&self) -> Result<Hold> {
        Hold::to_copy(&self.dir)
    }

    /// Removes a blob, unless this process or a backup holds on to it, or `is_needed`. Nobody can take hold of it in between.
    /// Whether it went.
    pub fn remove_unless(&self, digest: Digest, is_needed: impl FnOnce() -> Result<bool>) -> Result<bool> {
        let Some(_going) = Pins::try_remove(&self.pins, digest) else { return Ok(false) };
        if is_needed()? {
            return Ok(false);
        }
        let _alone = self.removing.lock();
        let Some(_hold) = Hold::to_remove(&self.dir)? else { return Ok(false) };
        self.readers.forget(digest);
        remove_file(&self.path(digest))?;
        Ok(true)
    }

    /// Puts a blob that does not hash to its name out of everybody's way.
    pub fn quarantine(&self, digest: Digest) -> Result<()> {
        self.readers.forget(digest);
        let (from, to) = (self.path(digest), self.dir.join("quarantine").join(file_name(digest)));
        fs::rename(&from, &to).map_err(|error| Error::io(from.display(), &error))?;
        sync_folder(&self.dir.join("quarantine"))?;
        from.parent().map_or(Ok(()), sync_folder)
    }

    /// How many were put aside, and their bytes.
    pub fn quarantined(&self) -> Result<(u64, u64)> {
        let folder = self.dir.join("quarantine");
        let failed = |error: io::Error| Error::io(folder.display(), &error);
        let mut sum = (0, 0);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(sum),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let size_bytes = entry.and_then(|entry| entry.metadata()).map_err(failed)?.len();
            sum = (sum.0 + 1, sum.1 + size_bytes);
        }
        Ok(sum)
    }

    /// Every blob there is, in the order of their names, folder by folder; what has another name is none.
    pub fn walk(&self, each: &mut dyn FnMut(Found) -> Result<()>) -> Result<()> {
        for first in 0..=u8::MAX {
            let folder = self.dir.join("blobs").join(format!("{first:02x}"));
            let failed = |error: io::Error| Error::io(folder.display(), &error);
            let entries = match fs::read_dir(&folder) {
                // A damaged library: its blobs are told as missing one by one.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(failed)?,
            };
            for entry in entries {
                let entry = entry.map_err(failed)?;
                let Some(sha256) = entry.file_name().to_str().and_then(digest_of) else { continue };
                let metadata = match entry.metadata() {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    metadata => metadata.map_err(failed)?,
                };
                let modified = metadata.modified().map_err(failed)?;
                each(Found { sha256, size_bytes: metadata.len(), modified })?;
            }
        }
        Ok(())
    }

    /// Where a blob is, or would be.
    pub fn path(&self, digest: Digest) -> PathBuf {
        let name = file_name(digest);
        self.dir.join("blobs").join(&name[..2]).join(&name)
    }

    /// `oldest`: where many are synced at once, a file of that filesystem opened before what is synced.
    fn sync_folders(&self, folders: &BTreeSet<PathBuf>, oldest: Option<&Written>) -> Result<()> {
        match oldest {
            Some(oldest) => self.sync_filesystem(oldest),
            None => folders.iter().try_for_each(|folder| sync_folder(folder)),
        }
    }

    fn sync_filesystem(&self, oldest: &Written) -> Result<()> {
        let synced = oldest.settled().and_then(sys::sync_filesystem);
        synced.map_err(|error| Error::io(self.dir.display(), &error))
    }
}

fn file_name(digest: Digest) -> String {
    format!("{digest}.blob")
}

fn digest_of(name: &str) -> Option<Digest> {
    Digest::from_hex(name.strip_suffix(".blob")?)
}

/// One of another size is damaged, and is written anew.
fn has_blob(path: &Path, size_bytes: u64) -> Result<bool> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len() == size_bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io(path.display(), &error)),
    }
}

fn sync_folder(path: &Path) -> Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(|error| Error::io(path.display(), &error))
}

/// One that is not there is as good as removed.
fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(path.display(), &error)),
        _ => Ok(()),
    }
}

/// What a reader is told of a blob that is not what its name says.
fn corrupt(path: &Path, what: &str) -> Error {
    Error::new(Kind::Corrupt, format!("{}: {what}", path.display()))
}

#[cfg(test)]
mod tests;
