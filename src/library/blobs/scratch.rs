//! A file on its way to being a blob.
//! Never here: what its bytes hash to.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::behind::{ALIGNED_BYTES, Behind, PIECE_BYTES};
use super::written::Written;
use crate::error::{Error, Result};

/// Shorter writes go to the page cache, which gathers them.
const BEHIND_BYTES_MIN: usize = 64 << 10;

/// Written by whoever made it; removed when it is dropped, unless it was renamed.
#[derive(Debug)]
pub struct Scratch {
    written: Arc<Written>,
    // The way of long writes.
    behind: Arc<Behind>,
    // Greater for those made later.
    number: u64,
    // Empty once it has another name.
    path: PathBuf,
}

impl Scratch {
    pub(super) fn create(path: PathBuf, number: u64, behind: &Arc<Behind>) -> Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|error| Error::io(path.display(), &error))?;
        let direct = File::options().write(true).custom_flags(libc::O_DIRECT).open(&path).ok();
        Ok(Self { written: Arc::new(Written::new(file, direct)), behind: Arc::clone(behind), number, path })
    }

    /// Greater for those made later.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// What is in it, for whoever looks.
    pub fn written(&self) -> &Arc<Written> {
        &self.written
    }

    /// Takes all of `bytes`, to be written at `offset`, by one thread at a time. Long, aligned ones may still be on their way to
    /// the disk when it returns: an error is told later, and by [`Blobs::keep`](super::Blobs::keep) at the latest.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let is_long = bytes.len() >= BEHIND_BYTES_MIN && offset.is_multiple_of(ALIGNED_BYTES as u64);
        if !(is_long && self.written.has_direct()) {
            return self.write_now(bytes, offset);
        }
        let (aligned, rest) = bytes.split_at(bytes.len() - bytes.len() % ALIGNED_BYTES);
        let mut at = offset;
        for piece in aligned.chunks(PIECE_BYTES) {
            self.behind.write(&self.written, piece, at)?;
            at += piece.len() as u64;
        }
        self.write_now(rest, at)
    }

    /// The same of bytes that are copied from elsewhere, to be changed: they are not hashed on the way.
    pub fn copy_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.written.forget_order();
        self.write_all_at(bytes, offset)
    }

    fn write_now(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.written.settle()?;
        self.written.begin(offset, bytes.len())?;
        let written = self.written.write(bytes, offset, false);
        self.written.end(Ok(()));
        written
    }

    /// Cuts it off.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        self.written.set_len(len)
    }

    /// With all in it that was written.
    pub(super) fn settled(&self) -> Result<&File> {
        self.written.settled().map_err(|error| self.failed(&error))
    }

    pub(super) fn sync(&self) -> Result<()> {
        self.settled()?.sync_data().map_err(|error| self.failed(&error))
    }

    /// Nobody writes to it any longer.
    pub(super) fn seal(self, mode: u32) -> Result<Self> {
        let sealed = self.settled()?.set_permissions(Permissions::from_mode(mode));
        sealed.map_err(|error| self.failed(&error))?;
        Ok(self)
    }

    fn failed(&self, error: &io::Error) -> Error {
        Error::io(self.path.display(), error)
    }

    pub(super) fn rename_to(mut self, path: &Path) -> Result<()> {
        fs::rename(&self.path, path).map_err(|error| Error::io(path.display(), &error))?;
        self.path = PathBuf::new();
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // What stays is thrown away by the next writer.
            let _ = fs::remove_file(&self.path);
        }
    }
}
