//! A home in a folder of this machine, or of a share it has mounted: a file for each value, by its key's own name.
//! Never here: what is in the files.
//!
//! Links in the folder are nobody's values, and none is followed: what one leads to lies elsewhere. Each key is reached
//! folder by folder, through descriptors, so that no link can be put in the place of a folder meanwhile. The folder itself
//! may be reached by a link.
//!
//! `OpenDAL` could write such files, but neither syncs them nor lists them in order.

mod together;

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::ops::Bound;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::{IsValue, Key, Keyed, Limits, Look, is_from, missing};
use crate::error::{Error, Kind, Result};
use crate::modes::{self, Modes};
use crate::range::ByteRange;
use crate::store::{NAME_BYTES_MAX, is_safe_name};

/// What is surely ours: all but the values of files.
const OURS: &str = ".reelfs";
/// The first file of a library.
const SETTINGS: &str = ".reelfs/library.json";
/// Files and folders that are looked at before the folder of an earlier version is closed: no start takes long by it.
const LOOKED_AT_MAX: u64 = 1_000;
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
        let failed = |error: io::Error| Error::io(root.display(), &error);
        if is_new {
            // The folders above it are not only a library's.
            root.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
            Modes::OWNER.make_folder(root).map_err(failed)?;
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
        let Ok(scratch) = self.place(&format!("{SCRATCH}/."), None) else { return };
        let Ok(entries) = fs::read_dir(&scratch.path) else { return };
        for entry in entries.flatten() {
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
            if age.is_some_and(|age| age > SCRATCH_LIFE) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// As a person would call the file of a key.
    fn path(&self, key: &str) -> Result<PathBuf> {
        if key.split('/').all(is_safe_name) {
            return Ok(self.root.join(key));
        }
        Err(Error::new(Kind::Invalid, format!("`{}` is not a key in {}", key.escape_debug(), self.described)))
    }

    /// The folder of a key, which is made where it is missing if there are modes for it. `NotADirectory` if a link or a file
    /// stands in its way.
    fn place(&self, key: &str, modes: Option<Modes>) -> io::Result<Place> {
        let (above, name) = key.rsplit_once('/').unwrap_or(("", key));
        let mut folder = open_folder(&self.root, 0)?;
        for part in above.split('/').filter(|part| !part.is_empty()) {
            if !is_safe_name(part) {
                return Err(ErrorKind::NotFound.into());
            }
            let path = below(&folder, part);
            folder = match (open_folder(&path, libc::O_NOFOLLOW), modes) {
                (Err(error), Some(modes)) if error.kind() == ErrorKind::NotFound => {
                    modes.make_folder(&path)?;
                    open_folder(&path, libc::O_NOFOLLOW)?
                }
                (opened, _) => opened?,
            };
        }
        let path = below(&folder, name);
        Ok(Place { folder, path })
    }

    /// Writes and syncs one value under its name; the name itself lasts when its folder is synced, too.
    fn write(&self, key: &str, value: &[u8]) -> io::Result<()> {
        let modes = Modes::of(&self.root);
        let scratch = self.place(&format!("{SCRATCH}/{:032x}", fastrand::u128(..)), Some(modes))?;
        let written = modes.options().write(true).create_new(true).open(&scratch.path).and_then(|mut file| {
            modes.mend_file(&file);
            file.write_all(value)?;
            file.sync_all()?;
            self.rename(modes, &scratch.path, key)
        });
        written.inspect_err(|_| {
            let _ = fs::remove_file(&scratch.path);
        })
    }

    fn rename(&self, modes: Modes, from: &Path, key: &str) -> io::Result<()> {
        let mut tries = 0;
        loop {
            let renamed = self.place(key, Some(modes)).and_then(|to| fs::rename(from, &to.path));
            match renamed {
                Err(error) if error.kind() == ErrorKind::NotFound && tries < RENAMES_MAX => tries += 1,
                other => return other,
            }
        }
    }

    /// Opens the value of a key; nothing if there is none: neither a link nor a folder is one.
    fn open_value(&self, key: &str) -> io::Result<Option<File>> {
        let opened = self.place(key, None).and_then(|place| {
            // A pipe in its place must not wait for a writer.
            File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&place.path)
        });
        match opened {
            Err(error) if is_none(&error) => Ok(None),
            opened => {
                let file = opened?;
                Ok(file.metadata()?.is_file().then_some(file))
            }
        }
    }

    /// Takes folders away that hold nothing any longer, from the one of `key` on up: a folder without files is no folder here.
    fn prune(&self, key: &str) {
        let mut below = key;
        while let Some((folder, _)) = below.rsplit_once('/') {
            if self.place(folder, None).and_then(|place| fs::remove_dir(&place.path)).is_err() {
                return;
            }
            below = folder;
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
                } else if let Ok(metadata) = self.place(key, None).and_then(|place| fs::symlink_metadata(&place.path))
                    && metadata.is_file()
                {
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
        let failed = |error: io::Error| Error::io(there.display(), &error);
        // Of the folder's own place, so that it is no link either; open until its last name was read.
        let place = match self.place(&format!("{folder}."), None) {
            Err(error) if is_none(&error) => return Ok(BTreeSet::new()),
            place => place.map_err(failed)?,
        };
        let entries = fs::read_dir(&place.path).map_err(failed)?;
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

    fn mend_modes(&self, is_value: &IsValue<'_>) {
        // A library that was made since has no file that is open to others; whether its folder is ours was decided then.
        let settings = self.root.join(SETTINGS);
        if (modes::is_open_to_others(&settings) || !settings.exists()) && modes::is_open_to_others(&self.root) {
            if holds_values_alone(&self.root, Some(LOOKED_AT_MAX), is_value) {
                modes::mend(&self.root, &[OURS]);
                return;
            }
            let root = self.root.display();
            log::warn!(
                "{root}: others may read the library: the folder holds other files, too, so its mode stays; `chmod 700 {root}` closes it"
            );
        }
        // The settings last: with them all of it was closed.
        modes::mend_within(&self.root, &[OURS, SETTINGS]);
    }

    fn get(&self, key: &str, range: ByteRange) -> Result<Bytes> {
        let path = self.path(key)?;
        let failed = |error: io::Error| Error::io(path.display(), &error);
        let Some(file) = self.open_value(key).map_err(failed)? else { return Err(missing(&self.described, key)) };
        let metadata = file.metadata().map_err(failed)?;
        let end = range.end.min(metadata.len());
        let mut bytes = vec![0; end.saturating_sub(range.start) as usize];
        file.read_exact_at(&mut bytes, range.start).map_err(failed)?;
        Ok(bytes.into())
    }

    fn look(&self, key: &str) -> Result<Look> {
        let path = self.path(key)?;
        let failed = |error: io::Error| Error::io(path.display(), &error);
        let Some(file) = self.open_value(key).map_err(failed)? else { return Err(missing(&self.described, key)) };
        let metadata = file.metadata().map_err(failed)?;
        // Whatever time a program sets, the system's own of the last change goes on.
        let etag = format!("{} {}.{}", metadata.ino(), metadata.ctime(), metadata.ctime_nsec());
        Ok(Look { size_bytes: metadata.len(), modified: metadata.modified().ok(), etag: Some(etag) })
    }

    fn put(&self, entries: &[(String, Bytes)]) -> Result<()> {
        // Each with its name before the next is written: the order is what a crash leaves.
        for (key, value) in entries {
            let path = self.path(key)?;
            self.write(key, value).map_err(|error| not_written(&path, &error))?;
            sync_folders(&self.root, std::iter::once(path.as_path()))?;
        }
        Ok(())
    }

    fn put_together(&self, entries: &[(String, Bytes)]) -> Result<()> {
        together::put(self, entries)
    }

    fn delete(&self, keys: &[String]) -> Result<()> {
        let paths = keys.iter().map(|key| self.path(key)).collect::<Result<Vec<_>>>()?;
        for (key, path) in keys.iter().zip(&paths) {
            match self.place(key, None).and_then(|place| fs::remove_file(&place.path)) {
                Err(error) if !is_none(&error) => return Err(Error::io(path.display(), &error)),
                _ => {}
            }
        }
        sync_folders(&self.root, paths.iter().map(PathBuf::as_path))?;
        for key in keys {
            self.prune(key);
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

/// Opens the folder `root` and the library in it to its group, to be read. A folder that holds other files, too, stays as it
/// is, and so does one whose owner shares it with a group already (setgid).
pub fn set_group_read(root: &Path, is_value: &IsValue<'_>) -> io::Result<()> {
    if modes::is_shared(root) {
        return Ok(());
    }
    if !holds_values_alone(root, None, is_value) {
        log::warn!(
            "{}: the folder holds files that are not the library's, so its mode stays: nothing is opened to the group",
            root.display()
        );
        return Ok(());
    }
    modes::set_group_read(root, &[""], true)
}

/// Whether a folder holds nothing but one library; of a folder with more than `most` files nobody knows.
fn holds_values_alone(root: &Path, most: Option<u64>, is_value: &IsValue<'_>) -> bool {
    let mut left = most.unwrap_or(u64::MAX);
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { return false };
        for entry in entries {
            let Ok(entry) = entry else { return false };
            if folder == root && entry.file_name() == OURS {
                continue;
            }
            let Some(next) = left.checked_sub(1) else { return false };
            left = next;
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => {
                    let opened =
                        File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(entry.path());
                    if !opened.is_ok_and(|mut file| is_value(&mut file)) {
                        return false;
                    }
                }
                _ => return false,
            }
        }
    }
    true
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

/// Where a value is, or would be, as long as its folder is held.
struct Place {
    folder: File,
    path: PathBuf,
}

/// A folder to reach others from, opened for nothing else.
fn open_folder(path: &Path, flags: i32) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY | flags).open(path)
}

/// `name` in the very folder that is open, wherever it is by now.
fn below(folder: &File, name: &str) -> PathBuf {
    Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name)
}

fn not_written(path: &Path, error: &io::Error) -> Error {
    if error.kind() == ErrorKind::NotADirectory {
        let message = format!("{}: a link or a file stands in the way, and links are not followed", path.display());
        return Error::new(Kind::Denied, message);
    }
    Error::io(path.display(), error)
}

/// Whether an error says that a key has no value: links, and folders in a value's place, are none.
fn is_none(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory)
        || error.raw_os_error() == Some(libc::ELOOP)
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const WHOLE: ByteRange = ByteRange { start: 0, end: 1 << 20 };

    #[test]
    fn links_in_the_folder_are_no_values_and_lead_nowhere() {
        let temp = tempfile::tempdir().unwrap();
        let (root, outside) = (temp.path().join("home"), temp.path().join("outside"));
        fs::create_dir_all(outside.join("empty")).unwrap();
        fs::write(outside.join("secret"), "TOPSECRET").unwrap();
        fs::create_dir(&root).unwrap();
        symlink(&root, temp.path().join("way")).unwrap();
        // The folder itself may be reached by a link.
        let home = Folder::open(&temp.path().join("way"), false, "home".into()).unwrap();
        home.put(&[("films/one".to_owned(), Bytes::from_static(b"one"))]).unwrap();
        symlink(outside.join("secret"), root.join("film")).unwrap();
        symlink("films/one", root.join("inside")).unwrap();
        symlink(&outside, root.join("folder")).unwrap();
        symlink(&outside, root.join("films/deep")).unwrap();

        let keys = |prefix: &str| {
            let listed = home.list(prefix, Bound::Unbounded, 100).unwrap();
            listed.into_iter().map(|key| key.key).collect::<Vec<_>>()
        };
        assert_eq!(keys(""), ["films/one"]);
        for prefix in ["folder/", "films/deep/", "../outside/"] {
            assert!(keys(prefix).is_empty(), "{prefix}");
        }
        let taken = ["film", "inside", "folder", "folder/secret", "films/deep/secret", "folder/empty/x"];
        for key in taken {
            assert_eq!(home.get(key, WHOLE).unwrap_err().kind(), Kind::Missing, "{key}");
        }
        for key in ["folder/new", "films/deep/new", "folder/new/deeper"] {
            let error = home.put(&[(key.to_owned(), Bytes::from_static(b"x"))]).unwrap_err();
            assert!(error.kind() == Kind::Denied && error.to_string().contains("link"), "{key}: {error}");
        }
        // A link that has a value's name goes as the value would; what it leads to stays.
        home.put(&[("film".to_owned(), Bytes::from_static(b"a film"))]).unwrap();
        assert_eq!(home.get("film", WHOLE).unwrap(), b"a film".as_slice());
        home.delete(&taken.map(str::to_owned)).unwrap();
        assert_eq!(fs::read(outside.join("secret")).unwrap(), b"TOPSECRET");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 2, "nothing was made or taken away there");
        assert_eq!(home.get("films/one", WHOLE).unwrap(), b"one".as_slice());
    }

    /// Stands for what tells values from other files.
    fn is_x(bytes: &mut dyn io::Read) -> bool {
        let mut read = Vec::new();
        bytes.read_to_end(&mut read).is_ok_and(|_| read == b"x")
    }

    #[test]
    fn folder_with_other_files_keeps_its_mode_and_theirs() {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        for foreign in ["holiday.mkv", "films/holiday.mkv", "link"] {
            for made_open in [true, false] {
                let temp = tempfile::tempdir().unwrap();
                let root = temp.path().join("shared");
                fs::create_dir_all(root.join("films")).unwrap();
                if foreign == "link" {
                    symlink("films", root.join(foreign)).unwrap();
                } else {
                    fs::write(root.join(foreign), "of another user").unwrap();
                    fs::set_permissions(root.join(foreign), fs::Permissions::from_mode(0o644)).unwrap();
                }
                for folder in ["films", ""] {
                    fs::set_permissions(root.join(folder), fs::Permissions::from_mode(0o755)).unwrap();
                }
                let mode = |path: &str| fs::metadata(root.join(path)).unwrap().mode() & 0o7777;
                let home = Folder::open(&root, true, "home".into()).unwrap();
                home.put(&[
                    (SETTINGS.to_owned(), Bytes::from_static(b"x")),
                    ("one".to_owned(), Bytes::from_static(b"x")),
                ])
                .unwrap();
                if made_open {
                    fs::set_permissions(root.join(SETTINGS), fs::Permissions::from_mode(0o644)).unwrap();
                }
                let before = ["", "films", foreign].map(mode);
                home.mend_modes(&is_x);
                set_group_read(&root, &is_x).unwrap();
                assert_eq!(["", "films", foreign].map(mode), before, "{foreign}");
                assert_eq!([".reelfs", SETTINGS, "one"].map(mode), [0o700, 0o600, 0o600]);
            }
        }
        // Whose owner shares it with a group.
        let temp = tempfile::tempdir().unwrap();
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o2775)).unwrap();
        set_group_read(temp.path(), &is_x).unwrap();
        assert_eq!(fs::metadata(temp.path()).unwrap().mode() & 0o7777, 0o2775);
    }

    #[test]
    fn values_and_their_folders_are_their_owners_alone() {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("home");
        let mode = |path: &str| fs::metadata(root.join(path)).unwrap().mode() & 0o777;
        let put = |home: &Folder, key: &str| home.put(&[(key.to_owned(), Bytes::from_static(b"x"))]).unwrap();
        let home = Folder::open(&root, true, "home".into()).unwrap();
        put(&home, "films/one");
        put(&home, ".reelfs/library.json");
        assert_eq!(["", "films", ".reelfs/scratch", "films/one"].map(mode), [0o700, 0o700, 0o700, 0o600]);
        // As an earlier version left it.
        for (path, mode) in [("films/one", 0o644), ("films", 0o755), ("", 0o755)] {
            fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        for (path, mode) in [(".reelfs/scratch", 0o755), (".reelfs", 0o755), (".reelfs/library.json", 0o644)] {
            fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        // Not before it is known that a library is there: it may be anybody's folder.
        let home = Folder::open(&root, false, "home".into()).unwrap();
        assert_eq!(["", ".reelfs"].map(mode), [0o755, 0o755]);
        home.mend_modes(&is_x);
        assert_eq!(
            ["", ".reelfs", ".reelfs/scratch", "films", "films/one"].map(mode),
            [0o700, 0o700, 0o700, 0o755, 0o644]
        );
        set_group_read(&root, &is_x).unwrap();
        let home = Folder::open(&root, false, "home".into()).unwrap();
        put(&home, "films/two");
        put(&home, "new/three");
        let found = ["", "films", "films/one", "films/two", "new", "new/three"].map(mode);
        assert_eq!(found, [0o750, 0o750, 0o640, 0o640, 0o750, 0o640]);
    }
}
