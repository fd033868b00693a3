//! Many values written for the price of few syncs: all of their bytes, then all of their names, then the folders.
//! Never here: the order of values among each other.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::super::at_once::at_once;
use super::{Folder, SCRATCH, below, not_written, sync_folders};
use crate::error::{Error, Result};
use crate::modes::Modes;
use crate::sys;

/// From so many values on, one sync of the whole filesystem is cheaper than one for each.
const SYNC_EACH_MAX: usize = 8;
/// Values synced at a time where each is synced for itself: filesystems sync what waits together, and shares wait long.
const SYNCS_AT_ONCE: usize = 8;

/// Files that have no name yet; those that got none go when this is dropped.
struct Scratches(Vec<PathBuf>);

impl Drop for Scratches {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// Writes values, which all last when this returns. No name is there before its bytes are synced.
pub(super) fn put(home: &Folder, entries: &[(String, Bytes)]) -> Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let failed = |error: &io::Error| Error::io(home.root.display(), error);
    let paths = entries.iter().map(|(key, _)| home.path(key)).collect::<Result<Vec<_>>>()?;
    let modes = Modes::of(&home.root);
    // Opened before any byte is written: by it, the sync of all tells every error since.
    let root = File::open(&home.root).map_err(|error| failed(&error))?;
    let is_one_sync =
        entries.len() > SYNC_EACH_MAX && sys::keeps_all_by_one_sync(&root).map_err(|error| failed(&error))?;
    let place = home.place(&format!("{SCRATCH}/."), Some(modes)).map_err(|error| failed(&error))?;
    let names = entries.iter().map(|_| below(&place.folder, &format!("{:032x}", fastrand::u128(..))));
    let mut scratches = Scratches(names.collect());
    let work: Vec<_> = entries.iter().zip(&scratches.0).zip(&paths).collect();
    let written = at_once(&work, if is_one_sync { 1 } else { SYNCS_AT_ONCE }, |(((_, value), scratch), path)| {
        write(scratch, value, modes, !is_one_sync).map_err(|error| not_written(path, &error))
    });
    written.into_iter().collect::<Result<()>>()?;
    if is_one_sync {
        sys::sync_filesystem(&root).map_err(|error| failed(&error))?;
    }
    for (((key, _), scratch), path) in &work {
        home.rename(modes, scratch, key).map_err(|error| not_written(path, &error))?;
    }
    drop(work);
    scratches.0.clear();
    let folders: BTreeSet<_> = paths.iter().map(|path| path.parent()).collect();
    if is_one_sync && folders.len() > SYNC_EACH_MAX {
        return sys::sync_filesystem(&root).map_err(|error| failed(&error));
    }
    sync_folders(&home.root, paths.iter().map(PathBuf::as_path))
}

fn write(scratch: &Path, value: &[u8], modes: Modes, is_synced: bool) -> io::Result<()> {
    let mut file = modes.options().write(true).create_new(true).open(scratch)?;
    modes.mend_file(&file);
    file.write_all(value)?;
    if is_synced { file.sync_all() } else { Ok(()) }
}
