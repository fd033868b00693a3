//! A file on its way to being a blob.
//! Never here: what its bytes hash to.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::sys;

/// Written by whoever made it; removed when it is dropped, unless it was renamed.
#[derive(Debug)]
pub struct Scratch {
    file: File,
    // Empty once it has another name.
    path: PathBuf,
}

impl Scratch {
    pub(super) fn create(path: PathBuf) -> Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
        Ok(Self { file: file.map_err(|error| Error::io(path.display(), &error))?, path })
    }

    /// To read and write, at offsets.
    pub fn file(&self) -> &File {
        &self.file
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

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // What stays is thrown away by the next writer.
            let _ = fs::remove_file(&self.path);
        }
    }
}
