//! What programs write, on its way into a library: whole files, put when they are closed.
//! Never here: FUSE, inode numbers and what the kernel remembers (see `changes`), and how a library keeps a file.
//!
//! A file that is written is *staged*: a file without a name beside the cache, that only those see who have it open. Its
//! close puts it in the library, in one step; until then everyone else has the old version, or nothing. A library asks
//! nobody for folders, so one that was made here and is empty lives in memory.

mod home;
mod made;
mod staged;

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::handles::Handles;
use super::jobs::Jobs;
use crate::error::{Error, Result};
use crate::origin::Origin;
use crate::origin::library::Kept;
use crate::refusal::Outcome;
use crate::sys;

pub(super) use home::{COPY_BYTES_MAX, Home, There};
pub(super) use made::{MadeFolders, WithMade};
pub(super) use staged::{Begun, Staged, When};

/// Files put at once: what a few connections bear, beside the readers'.
const PUT_THREADS: usize = 4;
/// Names changed at once. Apart from puts, which can take long.
const CHANGE_THREADS: usize = 4;
/// Handles of staged files have this bit, and no others.
const STAGED: u64 = 1 << 63;

/// Takes an outcome.
pub(super) type Then<T> = Box<dyn FnOnce(Outcome<T>) + Send>;

/// A library that a drive may write to, and room for what is not in it yet.
pub struct Writable {
    home: Home,
    // The folder of staged files.
    dir: Arc<File>,
    folder: Box<Path>,
    made: Arc<MadeFolders>,
}

impl Writable {
    /// Files wait in `folder`, which is there.
    pub fn new(library: Arc<Kept>, folder: &Path) -> Result<Self> {
        let dir = File::open(folder).map_err(|error| Error::io(folder.display(), &error))?;
        Ok(Self { home: Home::new(library), dir: Arc::new(dir), folder: folder.into(), made: Arc::default() })
    }

    /// `origin` with the folders that were made here.
    pub(super) fn shown_by(&self, origin: Arc<dyn Origin>) -> Arc<dyn Origin> {
        Arc::new(WithMade::new(origin, Arc::clone(&self.made)))
    }
}

/// All that is being written.
pub(super) struct Writes {
    pub home: Arc<Home>,
    pub made: Arc<MadeFolders>,
    pub puts: Jobs,
    pub changes: Jobs,
    dir: Arc<File>,
    folder: Box<Path>,
    handles: Handles<Staged>,
    // By inode number, until the last close. Taken alone.
    staged: Mutex<HashMap<u64, Arc<Staged>>>,
}

impl Writes {
    pub fn start(writable: Writable) -> Result<Self> {
        Ok(Self {
            home: Arc::new(writable.home),
            made: writable.made,
            puts: Jobs::start("put", PUT_THREADS)?,
            changes: Jobs::start("change", CHANGE_THREADS)?,
            dir: writable.dir,
            folder: writable.folder,
            handles: Handles::new(),
            staged: Mutex::default(),
        })
    }

    /// A new staged file for `path`, known by `ino` from now on. `is_new`: no library has it yet.
    pub fn stage(&self, ino: u64, path: &str, is_new: bool) -> Result<Arc<Staged>> {
        let file = tempfile::tempfile_in(&self.folder).map_err(|error| Error::io(self.folder.display(), &error))?;
        let staged = Arc::new(Staged::new(ino, path, is_new, file, Arc::clone(&self.dir)));
        self.staged.lock().insert(ino, Arc::clone(&staged));
        Ok(staged)
    }

    /// What is written under this number.
    pub fn staged(&self, ino: u64) -> Option<Arc<Staged>> {
        self.staged.lock().get(&ino).map(Arc::clone)
    }

    /// Whatever is to have the name `path`.
    pub fn staged_at(&self, path: &str) -> Vec<Arc<Staged>> {
        let all: Vec<_> = self.staged.lock().values().map(Arc::clone).collect();
        all.into_iter().filter(|staged| staged.is_at(path)).collect()
    }

    /// One at `path` that nobody may change just now.
    pub fn busy_at(&self, path: &str) -> Option<Arc<Staged>> {
        self.staged_at(path).into_iter().find(|staged| staged.is_busy())
    }

    /// Whether anything is to have a name in this folder, or below it.
    pub fn is_any_below(&self, folder: &str) -> bool {
        let all: Vec<_> = self.staged.lock().values().map(Arc::clone).collect();
        all.iter().any(|staged| staged.is_below(folder))
    }

    /// The number of a file that is at `path`, and in no library yet.
    pub fn new_at(&self, path: &str) -> Option<u64> {
        self.staged_at(path).iter().find(|staged| staged.is_new()).map(|staged| staged.ino)
    }

    /// One more open of it.
    pub fn open(&self, staged: &Arc<Staged>) -> u64 {
        staged.opened();
        self.handles.add(Arc::clone(staged)) | STAGED
    }

    /// The staged file of a handle; `None` of another one's.
    pub fn handle(&self, handle: u64) -> Option<Arc<Staged>> {
        if handle & STAGED == 0 { None } else { self.handles.get(handle & !STAGED) }
    }

    /// The handle is closed.
    pub fn close(&self, handle: u64) {
        self.handles.remove(handle & !STAGED);
    }

    /// Nobody has it open.
    pub fn forget(&self, staged: &Staged) {
        self.staged.lock().remove(&staged.ino);
    }

    /// Bytes that may still be staged.
    pub fn free_bytes(&self) -> u64 {
        sys::free_bytes(&self.dir).unwrap_or(0)
    }
}
