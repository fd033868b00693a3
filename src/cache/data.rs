//! Chunk bytes on disk: one sparse file for each entry, byte n of the film at offset n.
//!
//! ```text
//! CACHE/entries/ab/<entry_id>.data        entry_id in 16 hex digits, ab = its last two
//! ```
//!
//! Never here: what is valid. A hole reads as zeros, and only the index says where the holes are.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::stamp::Stamp;
use crate::error::{Error, Kind, Result};
use crate::modes::Modes;
use crate::range::ByteRange;
use crate::sys;

/// What a filesystem hands out at least; a chunk costs its bytes rounded up to this.
pub const DISK_BLOCK_BYTES: u64 = 4096;

/// The folder of all data files.
const ENTRIES: &str = "entries";
/// A folder is opened as itself, never through a link.
const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// A data file is opened as itself, and nothing that it may have been replaced by (a FIFO, a terminal) holds the opener up.
const DATA: OFlags =
    OFlags::RDWR.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Bytes on disk that `range` costs.
pub fn disk_cost(range: ByteRange) -> u64 {
    range.len().next_multiple_of(DISK_BLOCK_BYTES)
}

/// The folder of all data files. Each use begins at its path: a folder that was removed meanwhile is made again, and one that
/// was moved away is left alone.
pub struct DataDir {
    cache_dir: PathBuf,
}

impl DataDir {
    /// Makes the folder if it is missing. A link in its place is an error: nothing is read or written through it.
    pub fn open(cache_dir: &Path) -> Result<Self> {
        let dir = Self { cache_dir: cache_dir.to_owned() };
        dir.root(true).map_err(|error| match error {
            Errno::NOTDIR | Errno::LOOP => Error::new(
                Kind::Denied,
                format!(
                    "{} is a link or a file where a folder of data files belongs: remove it, or give --cache-dir the folder that is meant",
                    dir.shown_root().display()
                ),
            ),
            error => Error::io(dir.shown_root().display(), &error.into()),
        })?;
        Ok(dir)
    }

    fn shown_root(&self) -> PathBuf {
        self.cache_dir.join(ENTRIES)
    }

    /// For messages.
    fn shown(&self, entry_id: i64) -> String {
        let (folder, name) = names(entry_id);
        self.shown_root().join(folder).join(name).display().to_string()
    }

    /// Asked each time: a mount may open its cache to a group, or close it.
    fn modes(&self) -> Modes {
        Modes::of(&self.cache_dir)
    }

    /// The folder of all data files, made if `is_made`.
    fn root(&self, is_made: bool) -> rustix::io::Result<OwnedFd> {
        // The user may have put the cache itself behind a link.
        let open = || rustix::fs::openat(CWD, &self.cache_dir, FOLDER - OFlags::NOFOLLOW, Mode::empty());
        let cache_dir = match open() {
            Err(Errno::NOENT) if is_made => {
                Modes::OWNER
                    .make_folders(&self.cache_dir)
                    .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
                open()?
            }
            opened => opened?,
        };
        folder(&cache_dir, ENTRIES, is_made.then(|| self.modes()))
    }

    /// The folder of an entry's data file, made if `is_made`. What stands in its place and is no folder gives way.
    fn shard(&self, entry_id: i64, is_made: bool) -> rustix::io::Result<OwnedFd> {
        let root = self.root(is_made)?;
        let (name, _) = names(entry_id);
        match folder(&root, &name, is_made.then(|| self.modes())) {
            Err(Errno::NOTDIR | Errno::LOOP) if is_made => {
                log::warn!("cache: {} was no folder: it is replaced by one", self.shown_root().join(&name).display());
                rustix::fs::unlinkat(&root, &name, AtFlags::empty())?;
                folder(&root, &name, Some(self.modes()))
            }
            opened => opened,
        }
    }

    /// Opens an entry's data file, making it (and its length) if need be, and tells whether it was made. Anything else of that
    /// name (a link, another user's file, a file with a second name) gives way, and is not touched.
    pub fn open_or_create(&self, entry_id: i64, size_bytes: u64) -> Result<(DataFile, bool)> {
        let open = || -> io::Result<(DataFile, bool)> {
            let shard = self.shard(entry_id, true)?;
            let (_, name) = names(entry_id);
            let (file, is_new) = match open_plain(&shard, &name)? {
                Found::Plain(file) => (file, false),
                Found::Nothing => (create(&shard, &name, self.modes())?, true),
                Found::Other => {
                    log::warn!("cache: {} was not written by reelfs: it is replaced", self.shown(entry_id));
                    rustix::fs::unlinkat(&shard, &name, AtFlags::empty())?;
                    (create(&shard, &name, self.modes())?, true)
                }
            };
            self.modes().mend_file(&file);
            if file.metadata()?.len() != size_bytes {
                file.set_len(size_bytes)?;
            }
            Ok((DataFile::of(file), is_new))
        };
        open().map_err(|error| Error::io(self.shown(entry_id), &error))
    }

    /// Opens an entry's data file if it is there. Changes nothing of it, not its mode: that would count as another program's
    /// change. Modes are mended when the cache is opened.
    pub fn open_existing(&self, entry_id: i64) -> Result<Option<DataFile>> {
        let open = || -> rustix::io::Result<Option<DataFile>> {
            let shard = match self.shard(entry_id, false) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                shard => shard?,
            };
            match open_plain(&shard, &names(entry_id).1)? {
                Found::Plain(file) => Ok(Some(DataFile::of(file))),
                Found::Nothing | Found::Other => Ok(None),
            }
        };
        open().map_err(|error| Error::io(self.shown(entry_id), &error.into()))
    }

    /// Deletes an entry's data file; one that is gone already is no error.
    pub fn remove(&self, entry_id: i64) -> Result<()> {
        let remove = || rustix::fs::unlinkat(self.shard(entry_id, false)?, names(entry_id).1, AtFlags::empty());
        match remove() {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(error) => Err(Error::io(self.shown(entry_id), &error.into())),
        }
    }

    /// Calls `visit` with the id of every data file; files with other names are left alone, and links are not followed.
    pub fn for_each(&self, mut visit: impl FnMut(i64) -> Result<()>) -> Result<()> {
        let root = self.shown_root();
        let failed = |error: io::Error| Error::io(root.display(), &error);
        let shards = match std::fs::read_dir(&root) {
            // Removed a moment ago.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            shards => shards.map_err(failed)?,
        };
        for shard in shards {
            let shard = shard.map_err(failed)?;
            if !shard.file_type().map_err(failed)?.is_dir() {
                continue;
            }
            for file in std::fs::read_dir(shard.path()).map_err(failed)? {
                let name = file.map_err(failed)?.file_name();
                let id = name.to_str().and_then(|name| name.strip_suffix(".data"));
                if let Some(id) = id.and_then(|hex| i64::from_str_radix(hex, 16).ok()) {
                    visit(id)?;
                }
            }
        }
        Ok(())
    }
}

/// The names of an entry's folder and of its data file.
fn names(entry_id: i64) -> (String, String) {
    let name = format!("{entry_id:016x}");
    (name[14..].to_owned(), format!("{name}.data"))
}

/// Opens a folder, made as told if it is missing.
fn folder(parent: &OwnedFd, name: &str, made_as: Option<Modes>) -> rustix::io::Result<OwnedFd> {
    let open = || rustix::fs::openat(parent, name, FOLDER, Mode::empty());
    match (open(), made_as) {
        (Err(Errno::NOENT), Some(made_as)) => {
            let mode = Mode::from_raw_mode(made_as.folder());
            rustix::fs::mkdirat(parent, name, mode)?;
            let folder = open()?;
            // A umask may have taken more. There are filesystems without modes.
            let _ = rustix::fs::fchmod(&folder, mode);
            Ok(folder)
        }
        (opened, _) => opened,
    }
}

/// What stands where a data file belongs.
enum Found {
    Nothing,
    Plain(File),
    /// A link, a folder, a device, another user's file, or a file that has a second name somewhere.
    Other,
}

/// Looks before it opens: opening a device can do something.
fn open_plain(shard: &OwnedFd, name: &str) -> rustix::io::Result<Found> {
    match rustix::fs::statat(shard, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(Found::Nothing),
        stat => {
            if !is_plain(&stat?) {
                return Ok(Found::Other);
            }
        }
    }
    let file = rustix::fs::openat(shard, name, DATA, Mode::empty())?;
    let is_plain = is_plain(&rustix::fs::fstat(&file)?);
    Ok(if is_plain { Found::Plain(file.into()) } else { Found::Other })
}

fn create(shard: &OwnedFd, name: &str, made_as: Modes) -> rustix::io::Result<File> {
    let mode = Mode::from_raw_mode(made_as.file());
    rustix::fs::openat(shard, name, DATA | OFlags::CREATE | OFlags::EXCL, mode).map(File::from)
}

/// A file that this user made, and that has no other name.
fn is_plain(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_nlink == 1
        && stat.st_uid == geteuid().as_raw()
}

/// One entry's bytes.
pub struct DataFile {
    // `None`: there was no place for one. Every use of it fails then.
    file: Option<File>,
    // Failed syncs so far. Bytes written before one are lost with it, whenever the next sync succeeds.
    failed_syncs: AtomicU64,
    #[cfg(test)]
    refuses_syncs: std::sync::atomic::AtomicBool,
}

impl DataFile {
    /// Keeps nothing.
    pub fn nowhere() -> Self {
        Self {
            file: None,
            failed_syncs: AtomicU64::new(0),
            #[cfg(test)]
            refuses_syncs: std::sync::atomic::AtomicBool::default(),
        }
    }

    fn of(file: File) -> Self {
        Self { file: Some(file), ..Self::nowhere() }
    }

    /// Tests have disks that fail.
    #[cfg(test)]
    pub fn refuse_syncs(&self, refuses: bool) {
        self.refuses_syncs.store(refuses, Ordering::Relaxed);
    }

    /// Whether it can keep anything.
    pub fn is_somewhere(&self) -> bool {
        self.file.is_some()
    }

    fn file(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
    }

    /// The file itself, if there is one.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(|file| file.as_fd())
    }

    /// Fills `buffer` from `offset` on; a file that is too short is an error, as a hole would be zeros.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file()?.read_exact_at(buffer, offset)
    }

    /// Writes all of `bytes` at `offset`.
    pub fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file()?.write_all_at(bytes, offset)
    }

    /// Gives the range's blocks back to the filesystem.
    pub fn punch(&self, range: ByteRange) -> io::Result<()> {
        // A hole that ends with the file, within a block, would leave that block on the disk.
        let is_last = range.end >= self.file()?.metadata()?.len();
        let end = if is_last { range.end.next_multiple_of(DISK_BLOCK_BYTES) } else { range.end };
        sys::punch_hole(self.file()?, ByteRange::new(range.start, end))
    }

    /// Asks the kernel to let its copy of `range` go; what is not on the disk yet stays.
    pub fn drop_pages(&self, range: ByteRange) -> io::Result<()> {
        sys::drop_pages(self.file()?, range)
    }

    /// Returns when all written bytes are on the disk.
    pub fn sync(&self) -> io::Result<()> {
        let synced = self.file()?.sync_data();
        #[cfg(test)]
        let synced = if self.refuses_syncs.load(Ordering::Relaxed) { Err(io::Error::other("test")) } else { synced };
        if synced.is_err() {
            self.failed_syncs.fetch_add(1, Ordering::AcqRel);
        }
        synced
    }

    /// How often a sync has failed: asked before bytes are written, and again when they are thought to be on the disk.
    pub fn failed_syncs(&self) -> u64 {
        self.failed_syncs.load(Ordering::Acquire)
    }

    /// The file as it is now.
    pub fn stamp(&self) -> io::Result<Stamp> {
        Ok(Stamp::of(&self.file()?.metadata()?))
    }

    /// Gives a file its length: one that was cut, or one whose film has grown.
    pub fn set_len(&self, size_bytes: u64) -> io::Result<()> {
        self.file()?.set_len(size_bytes)
    }
}
