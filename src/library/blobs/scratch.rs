//! A file on its way to being a blob.
//! Never here: what its bytes hash to.

use std::cell::RefCell;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::sys;

/// What disks and memory are aligned to where the page cache is passed by.
const ALIGNED_BYTES: usize = 4096;
/// Shorter writes go to the page cache, which gathers them.
const DIRECT_BYTES_MIN: usize = 64 << 10;
/// Written past the page cache at once.
const DIRECT_BYTES_MAX: usize = 1 << 20;

thread_local! {
    // Where bytes are aligned on their way: used again and again, so that its pages are there.
    static ALIGNED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Written by whoever made it; removed when it is dropped, unless it was renamed.
#[derive(Debug)]
pub struct Scratch {
    file: File,
    // The same file past the page cache, where the filesystem can: what is written once, and read by nobody soon, need not
    // be copied there first.
    direct: Option<File>,
    // Greater for those made later.
    number: u64,
    // Empty once it has another name.
    path: PathBuf,
}

impl Scratch {
    pub(super) fn create(path: PathBuf, number: u64) -> Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|error| Error::io(path.display(), &error))?;
        let direct = File::options().write(true).custom_flags(libc::O_DIRECT).open(&path).ok();
        Ok(Self { file, direct, number, path })
    }

    /// Greater for those made later.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// To read and write, at offsets.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Writes all of `bytes` at `offset`; long, aligned ones past the page cache.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let is_long = bytes.len() >= DIRECT_BYTES_MIN && offset.is_multiple_of(ALIGNED_BYTES as u64);
        let Some(direct) = self.direct.as_ref().filter(|_| is_long) else {
            return self.file.write_all_at(bytes, offset);
        };
        let (aligned, rest) = bytes.split_at(bytes.len() - bytes.len() % ALIGNED_BYTES);
        let mut at = offset;
        for piece in aligned.chunks(DIRECT_BYTES_MAX) {
            write_aligned(direct, piece, at).or_else(|_| self.file.write_all_at(piece, at))?;
            at += piece.len() as u64;
        }
        self.file.write_all_at(rest, at)
    }

    /// Has the disk begin with it, when all of it is written: the sync to come finds less to do.
    pub fn begin_writing_out(&self) {
        sys::begin_writing_out(&self.file);
    }

    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| Error::io(self.path.display(), &error))
    }

    /// Nobody writes to it any longer.
    pub(super) fn seal(self, mode: u32) -> Result<Self> {
        let sealed = self.file.set_permissions(Permissions::from_mode(mode));
        sealed.map_err(|error| Error::io(self.path.display(), &error))?;
        Ok(self)
    }

    pub(super) fn rename_to(mut self, path: &Path) -> Result<()> {
        fs::rename(&self.path, path).map_err(|error| Error::io(path.display(), &error))?;
        self.path = PathBuf::new();
        Ok(())
    }
}

fn write_aligned(direct: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    ALIGNED.with_borrow_mut(|buffer| {
        buffer.resize(DIRECT_BYTES_MAX + ALIGNED_BYTES, 0);
        let start = buffer.as_ptr().align_offset(ALIGNED_BYTES).min(ALIGNED_BYTES);
        let aligned = &mut buffer[start..start + bytes.len()];
        aligned.copy_from_slice(bytes);
        direct.write_all_at(aligned, offset)
    })
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // What stays is thrown away by the next writer.
            let _ = fs::remove_file(&self.path);
        }
    }
}
