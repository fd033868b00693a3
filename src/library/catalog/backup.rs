//! A copy of the catalog in one file, of one moment, also while another process writes to the library.
//! Never here: blobs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::{READING, UsedBlob, View, WRITING, failed, schema, take_lock};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::lock::Lock;
use crate::modes::Modes;
use crate::sqlite;

/// Where the daily copies of a library's catalog are, in its folder.
const DAILY_FOLDER: &str = "backups";
/// How their names begin and end; between is the day.
const DAILY_NAME: (&str, &str) = ("catalog-", ".sqlite");
/// Daily copies that are kept.
const DAILY_MAX: usize = 7;
/// A new one is made when the newest is as old.
const DAILY_AFTER: Duration = Duration::from_hours(24);
/// What the copy is called in a library's folder until it is the catalog.
const COMING: &str = "catalog.sqlite.backup";

/// Copies the catalog of the library in `dir` to `file`, which is replaced in one step, and synced. The copy was read again
/// and is sound. `Invalid` if `file` is something else than an earlier copy: a library's own catalog, or any other file.
pub fn copy(dir: &Path, file: &Path) -> Result<()> {
    schema::check_is_there(dir)?;
    check_target(file)?;
    remove_left_over(file);
    let path = schema::path(dir);
    let from = sqlite::open_reader(&path, READING).map_err(|error| failed(&path, &error))?;
    schema::check(&from, &path)?;
    let io = |error: std::io::Error| Error::io(file.display(), &error);
    let mut new = file.as_os_str().to_owned();
    new.push(format!(".new-{}", std::process::id()));
    let new = PathBuf::from(new);
    let _ = fs::remove_file(&new);
    Modes::OWNER.make_file(&new).map_err(io)?;
    let made = copy_to(&from, &path, &new).and_then(|()| {
        File::open(&new).and_then(|file| file.sync_all()).map_err(io)?;
        fs::rename(&new, file).map_err(io)?;
        let folder = folder_of(file).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
    });
    if made.is_err() {
        let _ = fs::remove_file(&new);
    }
    made
}

fn check_target(file: &Path) -> Result<()> {
    // Whatever way leads to it.
    let Ok(there) = fs::canonicalize(file) else { return Ok(()) };
    let invalid = |why: &str| Error::new(Kind::Invalid, format!("{} {why}: give another name", file.display()));
    if there.parent().is_some_and(|folder| schema::is_at(folder) && schema::path(folder) == there) {
        return Err(invalid("is the catalog of a library, and no copy"));
    }
    let is_copy = sqlite::open_reader(file, READING).is_ok_and(|copy| schema::check(&copy, file).is_ok());
    if is_copy { Ok(()) } else { Err(invalid("is there, and is no copy of a catalog")) }
}

/// What copies to `file` left over that were killed.
fn remove_left_over(file: &Path) {
    let Some(name) = file.file_name().and_then(|name| name.to_str()) else { return };
    let folder = folder_of(file).unwrap_or(Path::new("."));
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let left = entry.file_name().to_str().and_then(|left| pid_of(left, name));
        if left.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The process that made `left`, if that is a copy on its way to `name`, or the journal of one.
fn pid_of(left: &str, name: &str) -> Option<u32> {
    let pid = left.strip_prefix(name)?.strip_prefix(".new-")?;
    pid.strip_suffix("-journal").unwrap_or(pid).parse().ok()
}

/// `None` of a bare name.
fn folder_of(file: &Path) -> Option<&Path> {
    file.parent().filter(|folder| !folder.as_os_str().is_empty())
}

fn copy_to(from: &Connection, path: &Path, new: &Path) -> Result<()> {
    let wrong = |error: rusqlite::Error| failed(new, &error);
    let open = || sqlite::open(new, OpenFlags::SQLITE_OPEN_READ_WRITE, WRITING).map_err(wrong);
    let mut copy = open()?;
    {
        let backup = Backup::new(from, &mut copy).map_err(wrong)?;
        // All in one step is one moment; with a journal of this kind, no writer waits for it.
        let stepped = backup.step(-1).map_err(|error| {
            // What is full is the disk of the copy.
            if sqlite::kind(&error) == Kind::Full { wrong(error) } else { failed(path, &error) }
        });
        match stepped? {
            StepResult::Done => {}
            _ => return Err(Error::new(Kind::Busy, format!("the catalog {} is busy: try again", path.display()))),
        }
    }
    copy.close().map_err(|(_, error)| wrong(error))?;
    // One file, which needs no journal beside it.
    let copy = open()?;
    copy.pragma_update(None, "journal_mode", "delete").map_err(wrong)?;
    schema::check_all(&copy, new)?;
    copy.close().map_err(|(_, error)| wrong(error))
}

/// The catalog of a whole copy of a library, on its way into `dir`: it gets its name when all its blobs are there.
pub struct Coming {
    dir: PathBuf,
    path: PathBuf,
    connection: Connection,
    // Nobody else writes to that copy.
    _lock: Lock,
}

impl Coming {
    /// Of the library in `from`. `dir` is a folder that is there.
    pub fn begin(from: &Path, dir: &Path) -> Result<Self> {
        let lock = take_lock(dir)?;
        let path = dir.join(COMING);
        copy(from, &path)?;
        let connection = sqlite::open_reader(&path, READING).map_err(|error| failed(&path, &error))?;
        Ok(Self { dir: dir.to_owned(), path, connection, _lock: lock })
    }

    /// Up to `limit` of the blobs that its files name, from the one behind `after` on.
    pub fn blobs(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<UsedBlob>> {
        View { connection: &self.connection, path: &self.path }.blobs(after, limit)
    }

    /// How many files it has.
    pub fn files(&self) -> Result<u64> {
        files(&self.connection).map_err(|error| failed(&self.path, &error))
    }

    /// Makes it the catalog there, in one step. An older one goes.
    pub fn arrive(self) -> Result<()> {
        let old = schema::path(&self.dir);
        let io = |error: std::io::Error| Error::io(old.display(), &error);
        if old.exists() {
            // Its journal would be taken for that of the new one.
            let writer = sqlite::open(&old, OpenFlags::SQLITE_OPEN_READ_WRITE, WRITING);
            let folded = writer.and_then(|writer| sqlite::fold_in(&writer)).map_err(|error| failed(&old, &error));
            if !folded.is_ok_and(|is_folded| is_folded) {
                log::warn!("{}: what its last writer wrote is given up for the backup", old.display());
            }
            for end in ["-wal", "-shm"] {
                let _ = fs::remove_file(self.dir.join(format!("catalog.sqlite{end}")));
            }
        }
        fs::rename(&self.path, &old).map_err(io)?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(io)
    }
}

fn files(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("SELECT count(*) FROM nodes WHERE kind = 8", [], |row| row.get(0).map(sqlite::loaded))
}

/// Makes a copy of the catalog in the library's own folder, if the newest one there is a day old, and lets the oldest go.
/// Whether it made one.
pub fn daily(dir: &Path, now: SystemTime) -> Result<bool> {
    let is_due = |path: &PathBuf| {
        let made = fs::metadata(path).and_then(|meta| meta.modified());
        // One from the future: the clock was set back.
        made.is_ok_and(|made| now.duration_since(made).is_ok_and(|age| age < DAILY_AFTER))
    };
    let mut copies = copies(dir);
    if copies.first().is_some_and(is_due) {
        return Ok(false);
    }
    let folder = dir.join(DAILY_FOLDER);
    Modes::of(dir).make_folder(&folder).map_err(|error| Error::io(folder.display(), &error))?;
    let day = Timestamp::try_from(now).map_or_else(|_| "0".to_owned(), |now| now.strftime("%F").to_string());
    let path = folder.join(format!("{}{day}{}", DAILY_NAME.0, DAILY_NAME.1));
    copy(dir, &path)?;
    copies.retain(|copy| *copy != path);
    for old in copies.into_iter().skip(DAILY_MAX - 1) {
        fs::remove_file(&old).map_err(|error| Error::io(old.display(), &error))?;
    }
    Ok(true)
}

/// The daily copies in the library's folder, newest first.
fn copies(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join(DAILY_FOLDER)).into_iter().flatten().flatten();
    let is_copy = |name: &str| name.starts_with(DAILY_NAME.0) && name.ends_with(DAILY_NAME.1);
    let mut copies: Vec<_> =
        entries.filter(|entry| entry.file_name().to_str().is_some_and(is_copy)).map(|entry| entry.path()).collect();
    // The day is in the name.
    copies.sort_unstable_by(|a, b| b.cmp(a));
    copies
}

/// The newest daily copy that is sound, with the number of its files that are whole: all their blobs are there.
pub(super) fn newest_good(
    dir: &Path,
    has_blob: &dyn Fn(Digest, u64) -> Result<bool>,
) -> Result<Option<(PathBuf, u64)>> {
    for path in copies(dir) {
        match whole_files(&path, has_blob) {
            Ok(whole) => return Ok(Some((path, whole))),
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Unsupported) => log::warn!("{error}"),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn whole_files(path: &Path, has_blob: &dyn Fn(Digest, u64) -> Result<bool>) -> Result<u64> {
    const STEP: usize = 1_000;
    let wrong = |error: rusqlite::Error| failed(path, &error);
    let connection = sqlite::open_reader(path, READING).map_err(wrong)?;
    schema::check(&connection, path)?;
    schema::check_all(&connection, path)?;
    let view = View { connection: &connection, path };
    let (mut after, mut broken) = (None, std::collections::HashSet::new());
    loop {
        let blobs = view.blobs(after.as_ref(), STEP)?;
        for blob in &blobs {
            if !has_blob(blob.digest, blob.size_bytes_max)? {
                broken.extend(view.uses(&blob.digest, None, usize::MAX >> 1)?.into_iter().map(|chunk| chunk.node_id));
            }
        }
        match blobs.last() {
            Some(last) if blobs.len() == STEP => after = Some(last.digest),
            _ => break,
        }
    }
    Ok(files(&connection).map_err(wrong)?.saturating_sub(broken.len() as u64))
}
