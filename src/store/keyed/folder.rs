//! A home in a folder of this machine, or of a share it has mounted: a file for each value, by its key's own name.
//! Never here: what is in the files.
//!
//! `OpenDAL` could write such files, but neither syncs them nor lists them in order.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::ops::Bound;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::{Key, Keyed, Limits, is_from, missing};
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;
use crate::store::{NAME_BYTES_MAX, is_safe_name};

/// Where values are written before they have their name. Not listed.
const SCRATCH: &str = ".reelfs/scratch";
/// What a killed writer left there is removed after so long; no value takes a day to write.
const SCRATCH_LIFE: Duration = Duration::from_hours(24);
/// A folder may go, empty, while a value is on its way into it.
const RENAMES_MAX: u32 = 8;
/// Linux's `PATH_MAX`, less what the folder itself may need.
const KEY_BYTES_MAX: usize = 3_500;

/// A key's parts are names of files.
const LIMITS: Limits = Limits { key_bytes_max: KEY_BYTES_MAX, name_bytes_max: NAME_BYTES_MAX, ..super::LIMITS };

/// Files below a folder.
pub(super) struct Folder {
    root: PathBuf,
    described: String,
}

impl Folder {
    /// The folder at `root`; made if it may be (`is_new`), else `Missing` unless it is there.
    pub fn open(root: &Path, is_new: bool, described: String) -> Result<Self> {
        let failed = |error: std::io::Error| Error::io(root.display(), &error);
        if is_new {
            fs::create_dir_all(root).map_err(failed)?;
        }
        if !fs::metadata(root).map_err(failed)?.is_dir() {
            return Err(Error::new(Kind::Missing, format!("{}: not a folder", root.display())));
        }
        let folder = Self { root: std::path::absolute(root).map_err(failed)?, described };
        folder.sweep_scratch();
        Ok(folder)
    }

    /// Room is all that is at stake: what fails here fails again where it matters.
    fn sweep_scratch(&self) {
        let Ok(entries) = fs::read_dir(self.root.join(SCRATCH)) else { return };
        for entry in entries.flatten() {
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
            if age.is_some_and(|age| age > SCRATCH_LIFE) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn path(&self, key: &str) -> Result<PathBuf> {
        if key.split('/').all(is_safe_name) {
            return Ok(self.root.join(key));
        }
        Err(Error::new(Kind::Invalid, format!("`{}` is not a key in {}", key.escape_debug(), self.described)))
    }

    /// Writes and syncs one value under its name; the name itself lasts when its folder is synced, too.
    fn write(&self, path: &Path, value: &[u8]) -> Result<()> {
        let scratch = self.root.join(SCRATCH).join(format!("{:032x}", fastrand::u128(..)));
        let written = create(&scratch).and_then(|mut file| {
            file.write_all(value)?;
            file.sync_all()?;
            rename(&scratch, path)
        });
        written.map_err(|error| {
            let _ = fs::remove_file(&scratch);
            Error::io(path.display(), &error)
        })
    }

    /// Takes folders away that hold nothing any longer, from `path`'s own on up: a folder without files is no folder here.
    fn prune(&self, path: &Path) {
        for folder in
            path.ancestors().skip(1).take_while(|folder| folder.starts_with(&self.root) && *folder != self.root)
        {
            if fs::remove_dir(folder).is_err() {
                return;
            }
        }
    }

    /// Appends keys of one folder (`""`, or with a `/` at its end) to `keys` until they are `limit`.
    fn walk(&self, folder: &str, prefix: &str, from: Bound<&str>, limit: usize, keys: &mut Vec<Key>) -> Result<()> {
        let mut after = None;
        loop {
            let names = self.names(folder, prefix, from, after.as_deref(), limit)?;
            let is_all = names.len() < limit;
            for key in &names {
                if keys.len() >= limit {
                    return Ok(());
                }
                if key.ends_with('/') {
                    self.walk(key, prefix, from, limit, keys)?;
                } else if let Ok(metadata) = fs::metadata(self.root.join(key)) {
                    // Else it went meanwhile.
                    keys.push(Key { key: key.clone(), size_bytes: Some(metadata.len()) });
                }
            }
            if is_all {
                return Ok(());
            }
            after = names.into_iter().next_back();
        }
    }

    /// The first names in a folder, in the order of the keys below them (a folder's with its `/`), that may lead to keys
    /// that are asked for. At most `limit` are held, however many there are.
    fn names(
        &self,
        folder: &str,
        prefix: &str,
        from: Bound<&str>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<BTreeSet<String>> {
        let there = self.root.join(folder);
        let failed = |error: std::io::Error| Error::io(there.display(), &error);
        let entries = match fs::read_dir(&there) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(BTreeSet::new());
            }
            entries => entries.map_err(failed)?,
        };
        let mut names = BTreeSet::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned).filter(|name| is_safe_name(name)) else {
                continue;
            };
            let Ok(kind) = entry.file_type() else { continue };
            let key = match () {
                () if kind.is_dir() => format!("{folder}{name}/"),
                () if kind.is_file() => format!("{folder}{name}"),
                () => continue,
            };
            if may_hold(&key, prefix, from) && after.is_none_or(|after| *key > *after) && key != format!("{SCRATCH}/") {
                names.insert(key);
                if names.len() > limit {
                    names.pop_last();
                }
            }
        }
        Ok(names)
    }
}

impl Keyed for Folder {
    fn describe(&self) -> &str {
        &self.described
    }

    fn limits(&self) -> &Limits {
        &LIMITS
    }

    fn get(&self, key: &str, range: ByteRange) -> Result<Bytes> {
        let path = self.path(key)?;
        let failed = |error: std::io::Error| Error::io(path.display(), &error);
        let file = match File::open(&path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Err(missing(&self.described, key));
            }
            file => file.map_err(failed)?,
        };
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(missing(&self.described, key));
        }
        let end = range.end.min(metadata.len());
        let mut bytes = vec![0; end.saturating_sub(range.start) as usize];
        file.read_exact_at(&mut bytes, range.start).map_err(failed)?;
        Ok(bytes.into())
    }

    fn put(&self, entries: &[(String, Bytes)]) -> Result<()> {
        // Each with its name before the next is written: the order is what a crash leaves.
        for (key, value) in entries {
            let path = self.path(key)?;
            self.write(&path, value)?;
            sync_folders(&self.root, std::iter::once(path.as_path()))?;
        }
        Ok(())
    }

    fn delete(&self, keys: &[String]) -> Result<()> {
        let paths = keys.iter().map(|key| self.path(key)).collect::<Result<Vec<_>>>()?;
        for path in &paths {
            match fs::remove_file(path) {
                Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                    return Err(Error::io(path.display(), &error));
                }
                _ => {}
            }
        }
        sync_folders(&self.root, paths.iter().map(PathBuf::as_path))?;
        for path in &paths {
            self.prune(path);
        }
        Ok(())
    }

    fn list(&self, prefix: &str, from: Bound<&str>, limit: usize) -> Result<Vec<Key>> {
        let mut keys = Vec::new();
        let folder = prefix.rfind('/').map_or("", |slash| &prefix[..=slash]);
        self.walk(folder, prefix, from, limit, &mut keys)?;
        Ok(keys)
    }
}

/// Whether keys that are asked for are `key`, or below it where it ends in `/`.
fn may_hold(key: &str, prefix: &str, from: Bound<&str>) -> bool {
    let is_below_start = || match from {
        Bound::Included(start) | Bound::Excluded(start) => start.starts_with(key),
        Bound::Unbounded => false,
    };
    if key.ends_with('/') {
        (key.starts_with(prefix) || prefix.starts_with(key)) && (is_from(key, from) || is_below_start())
    } else {
        key.starts_with(prefix) && is_from(key, from)
    }
}

/// A new file, in a folder that is made where it is missing.
fn create(path: &Path) -> std::io::Result<File> {
    match File::create_new(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            File::create_new(path)
        }
        other => other,
    }
}

fn rename(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut tries = 0;
    loop {
        match fs::rename(from, to) {
            Err(error) if error.kind() == ErrorKind::NotFound && tries < RENAMES_MAX => {
                fs::create_dir_all(to.parent().unwrap_or(to))?;
                tries += 1;
            }
            other => return other,
        }
    }
}

/// Makes names last: each of the files' folders, and those above, which may be new.
fn sync_folders<'a>(root: &Path, files: impl Iterator<Item = &'a Path>) -> Result<()> {
    let mut synced: HashSet<&OsStr> = HashSet::new();
    for file in files {
        for folder in file.ancestors().skip(1).take_while(|folder| folder.starts_with(root)) {
            if !synced.insert(folder.as_os_str()) {
                break;
            }
            match File::open(folder).and_then(|folder| folder.sync_all()) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io(folder.display(), &error)),
                _ => {}
            }
        }
    }
    Ok(())
}
