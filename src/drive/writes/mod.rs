//! What programs write, on its way into a library: whole files, put when they are closed.
//! Never here: FUSE, inode numbers and what the kernel remembers (see `changes`), and how a library keeps a file.
//!
//! A file that is written is *staged*: a file without a name beside the cache, that only those see who have it open. Its
//! close puts it in the library, in one step; until then everyone else has the old version, or nothing. A library asks
//! nobody for folders, so one that was made here and is empty lives in memory.

mod home;
mod made;
mod names;
mod staged;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::handles::Handles;
use super::jobs::Jobs;
use crate::error::{Error, Result};
use crate::origin::Origin;
use crate::origin::library::Kept;
use crate::refusal::Outcome;
use crate::sys;

pub(super) use home::{COPY_BYTES_MAX, Home, There};
pub(super) use made::{MadeFolders, WithMade};
pub(super) use names::{Names, Open, Staging};
pub(super) use staged::{Begun, Staged, When};

/// Files put at once: what a few connections bear, beside the readers'.
const PUT_THREADS: usize = 4;
/// Files fetched at once to be changed in place. Apart from puts: who opens one waits for it.
const FETCH_THREADS: usize = 4;
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
    pub fetches: Jobs,
    pub changes: Jobs,
    pub names: Arc<Names>,
    dir: Arc<File>,
    folder: Box<Path>,
    handles: Handles<Open>,
}

impl Writes {
    pub fn start(writable: Writable) -> Result<Self> {
        Ok(Self {
            home: Arc::new(writable.home),
            made: writable.made,
            puts: Jobs::start("put", PUT_THREADS)?,
            fetches: Jobs::start("fetch-old", FETCH_THREADS)?,
            changes: Jobs::start("change", CHANGE_THREADS)?,
            names: Arc::default(),
            dir: writable.dir,
            folder: writable.folder,
            handles: Handles::new(),
        })
    }

    fn file(&self) -> Result<File> {
        tempfile::tempfile_in(&self.folder).map_err(|error| Error::io(self.folder.display(), &error))
    }

    /// What is staged under `ino` or at `path`, opened once more; if nothing is, a file whose content is to be fetched.
    pub fn stage(&self, ino: u64, path: &str) -> Result<Staging> {
        let fresh = Staged::to_fill(ino, path, self.file()?, Arc::clone(&self.dir));
        Ok(self.names.open(ino, path, fresh))
    }

    /// A file for `path`, which is held and where no library has one, known by `ino` from now on, and opened.
    pub fn stage_new(&self, ino: u64, path: &str) -> Result<Open> {
        let staged = Staged::new(ino, path, self.file()?, Arc::clone(&self.dir));
        Ok(self.names.open_new(Arc::new(staged)))
    }

    /// The number of an open file.
    pub fn handle(&self, open: Open) -> u64 {
        self.handles.add(Arc::new(open)) | STAGED
    }

    /// The staged file of a handle; `None` of another one's.
    pub fn of_handle(&self, handle: u64) -> Option<Arc<Staged>> {
        if handle & STAGED == 0 {
            None
        } else {
            self.handles.get(handle & !STAGED).map(|open| Arc::clone(&open.staged))
        }
    }

    /// The handle is closed.
    pub fn close(&self, handle: u64) {
        self.handles.remove(handle & !STAGED);
    }

    /// Bytes that may still be staged.
    pub fn free_bytes(&self) -> u64 {
        sys::free_bytes(&self.dir).unwrap_or(0)
    }
}
