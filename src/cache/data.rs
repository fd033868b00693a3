//! Chunk bytes on disk: one sparse file for each entry, byte n of the film at offset n.
//!
//! ```text
//! CACHE/entries/ab/<entry_id>.data        entry_id in 16 hex digits, ab = its last two
//! ```
//!
//! Never here: what is valid. A hole reads as zeros, and only the index says where the holes are.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::modes::Modes;
use crate::range::ByteRange;
use crate::sys;

/// What a filesystem hands out at least; a chunk costs its bytes rounded up to this.
pub const DISK_BLOCK_BYTES: u64 = 4096;

/// Bytes on disk that `range` costs.
pub fn disk_cost(range: ByteRange) -> u64 {
    range.len().next_multiple_of(DISK_BLOCK_BYTES)
}

/// The folder of all data files.
pub struct DataDir {
    root: PathBuf,
}

impl DataDir {
    /// Makes the folder if it is missing.
    pub fn open(cache_dir: &Path) -> Result<Self> {
        let root = cache_dir.join("entries");
        Modes::of(cache_dir).make_folder(&root).map_err(|error| Error::io(root.display(), &error))?;
        Ok(Self { root })
    }

    fn path(&self, entry_id: i64) -> PathBuf {
        let name = format!("{entry_id:016x}");
        self.root.join(&name[14..]).join(format!("{name}.data"))
    }

    /// Opens an entry's data file, making it (and its length) if need be.
    pub fn open_or_create(&self, entry_id: i64, size_bytes: u64) -> Result<DataFile> {
        let path = self.path(entry_id);
        // Asked each time: a mount may open its cache to a group, or close it.
        let modes = Modes::of(&self.root);
        let open = || -> io::Result<File> {
            if let Some(folder) = path.parent() {
                modes.make_folders(folder)?;
            }
            let file = modes.options().read(true).write(true).create(true).truncate(false).open(&path)?;
            modes.mend_file(&file);
            if file.metadata()?.len() != size_bytes {
                file.set_len(size_bytes)?;
            }
            Ok(file)
        };
        open().map(DataFile::of).map_err(|error| Error::io(path.display(), &error))
    }

    /// Opens an entry's data file if it is there.
    pub fn open_existing(&self, entry_id: i64) -> Result<Option<DataFile>> {
        let path = self.path(entry_id);
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => {
                Modes::of(&self.root).mend_file(&file);
                Ok(Some(DataFile::of(file)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(path.display(), &error)),
        }
    }

    /// Deletes an entry's data file; one that is gone already is no error.
    pub fn remove(&self, entry_id: i64) -> Result<()> {
        let path = self.path(entry_id);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(path.display(), &error)),
            _ => Ok(()),
        }
    }

    /// Calls `visit` with the id of every data file; files with other names are left alone.
    pub fn for_each(&self, mut visit: impl FnMut(i64) -> Result<()>) -> Result<()> {
        let failed = |error: io::Error| Error::io(self.root.display(), &error);
        for shard in std::fs::read_dir(&self.root).map_err(failed)? {
            let shard = shard.map_err(failed)?.path();
            if !shard.is_dir() {
                continue;
            }
            for file in std::fs::read_dir(&shard).map_err(failed)? {
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

/// One entry's bytes.
pub struct DataFile {
    // `None`: there was no place for one. Every use of it fails then.
    file: Option<File>,
    // Failed syncs so far. Bytes written before one are lost with it, whenever the next sync succeeds.
    failed_syncs: AtomicU64,
}

impl DataFile {
    /// Keeps nothing.
    pub fn nowhere() -> Self {
        Self { file: None, failed_syncs: AtomicU64::new(0) }
    }

    fn of(file: File) -> Self {
        Self { file: Some(file), failed_syncs: AtomicU64::new(0) }
    }

    /// Over any file: tests have disks that fail.
    #[cfg(test)]
    pub fn over(file: File) -> Self {
        Self::of(file)
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
        if synced.is_err() {
            self.failed_syncs.fetch_add(1, Ordering::AcqRel);
        }
        synced
    }

    /// How often a sync has failed: asked before bytes are written, and again when they are thought to be on the disk.
    pub fn failed_syncs(&self) -> u64 {
        self.failed_syncs.load(Ordering::Acquire)
    }

    /// Bytes the filesystem holds for it.
    pub fn allocated_bytes(&self) -> io::Result<u64> {
        Ok(self.file()?.metadata()?.blocks() * 512)
    }
}
