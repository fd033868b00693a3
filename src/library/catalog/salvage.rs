//! A damaged catalog: what can still be read of it goes into a new one, and what is lost is told. The old one stays beside
//! it, under a name of its own: a salvage that was begun with half of the disks there can be made again from it.
//! Never here: blobs; whether one is there is asked.
//!
//! Tables are read in the order of their keys, row by row. Where a page can't be read, the next rows are looked for farther
//! on, in steps that double: about as many as the page held are lost beside it. It is never looked for before where it was
//! looked for last, whatever the keys say: so it ends.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, params, params_from_iter};

use super::schema::{self, write_tables};
use super::{READING, WRITING, failed, take_lock};
use crate::config::CHUNK_SIZE_BYTES;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::library::{Cut, INLINE_BYTES_MAX};
use crate::sqlite::{self, loaded};

/// Files named as lost; more are counted only.
const LOST_NAMED_MAX: usize = 10_000;
/// A step that finds nothing any more: no table has as many rows.
const JUMP_MAX: i64 = 1 << 40;
/// Damaged catalogs kept beside a library, at most: nobody salvages so often without a look.
const ASIDE_MAX: u32 = 1_000;
/// What the first of them is called.
const ASIDE: &str = "catalog.sqlite.damaged";
/// Where files are put whose names are lost.
const FOUND_FOLDER: &str = "lost+found";

const NODES: &str = "node_id, kind, mode, uid, gid, rdev, links, size_bytes, modified_ns, changed_ns, accessed_ns,
    created_ns, content_type, target, inline_sha256, inline";
const NAMES: &str = "name_id, folder_id, name, node_id, is_folder";

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Files that are whole.
    pub files: u64,
    /// Of these, files whose names were lost; they are in `lost+found`.
    pub nameless: u64,
    /// Files that are lost, by the last of their names; the first 10,000.
    pub lost: Vec<String>,
    /// All of them, as far as anything tells of them.
    pub lost_count: u64,
    /// Stretches of tables that could not be read.
    pub holes: u64,
    /// The daily copy that is the catalog now, as it has more whole files than could be read of the damaged one.
    pub backup: Option<PathBuf>,
}

/// Why a salvage ended before its time.
enum Stop {
    /// The new catalog can't be written.
    New(rusqlite::Error),
    Other(Error),
}

type Attempt<T> = std::result::Result<T, Stop>;

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::New(error)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Looks for the blobs that files name, and counts.
struct Blobs<'a> {
    is_there: &'a dyn Fn(Digest, u64) -> Result<bool>,
    named: Cell<u64>,
    found: Cell<u64>,
}

impl Blobs<'_> {
    fn is_there(&self, digest: Digest, size_bytes: u64) -> Result<bool> {
        let is_there = (self.is_there)(digest, size_bytes)?;
        self.named.set(self.named.get() + 1);
        self.found.set(self.found.get() + u64::from(is_there));
        Ok(is_there)
    }
}

impl Salvaged {
    fn lose(&mut self, name: String) {
        self.lost_count += 1;
        if self.lost.len() < LOST_NAMED_MAX {
            self.lost.push(name);
        }
    }
}

/// Makes a new catalog of what can be read of the one in `dir`. `has_blob` says whether there is one of that size; where it
/// can't tell, nothing is done. `Corrupt` if nothing can be read at all, `Missing` if files name blobs and none is there,
/// `Invalid` if the catalog is sound, `Cancelled` if `go_on` says no: the old one is where it was, then.
pub fn salvage(
    dir: &Path,
    has_blob: &dyn Fn(Digest, u64) -> Result<bool>,
    go_on: &dyn Fn() -> bool,
) -> Result<Salvaged> {
    schema::check_is_there(dir)?;
    let _lock = take_lock(dir)?;
    let path = schema::path(dir);
    if let Err(error) = write_back(&path) {
        log::debug!("{}: its journal stays beside it: {error}", path.display());
    }
    let new_path = path.with_extension("sqlite.new");
    for name in ["sqlite.new", "sqlite.new-wal", "sqlite.new-shm"] {
        let _ = fs::remove_file(path.with_extension(name));
    }
    let old = match sqlite::open_reader(&path, READING).map_err(|error| failed(&path, &error)) {
        // It is no database any more: a copy of it may be there.
        Err(error) if error.kind() == Kind::Corrupt => {
            let backup = or_backup(None, dir, &new_path, has_blob)?.ok_or(error)?;
            return replace(dir, &new_path).map(|()| backup);
        }
        opened => opened?,
    };
    let cut = schema::cut(&old, &path);
    if cut.is_ok() && schema::check(&old, &path).is_ok() && is_sound(&old) {
        let message = format!("the catalog {} is sound: there is nothing to salvage", path.display());
        return Err(Error::new(Kind::Invalid, message));
    }
    let cut = cut.unwrap_or(Cut { inline_bytes_max: INLINE_BYTES_MAX, chunk_size_bytes: CHUNK_SIZE_BYTES });
    schema::make_file(&new_path)?;
    let blobs = Blobs { is_there: has_blob, named: Cell::new(0), found: Cell::new(0) };
    let go_on = || {
        let cancelled = || Error::new(Kind::Cancelled, "broken off: nothing was changed");
        if go_on() { Ok(()) } else { Err(Stop::Other(cancelled())) }
    };
    let salvaged = write_new(&old, &new_path, cut, &blobs, &go_on).map_err(|stop| match stop {
        Stop::New(error) => failed(&new_path, &error),
        Stop::Other(error) => error,
    });
    drop(old);
    let salvaged = salvaged.and_then(|salvaged| match worth(&salvaged, &blobs, dir) {
        Err(error) if error.kind() == Kind::Corrupt => or_backup(None, dir, &new_path, has_blob)?.ok_or(error),
        worth => {
            worth?;
            let files = salvaged.files;
            Ok(or_backup(Some(files), dir, &new_path, has_blob)?.unwrap_or(salvaged))
        }
    });
    let salvaged = salvaged.and_then(|salvaged| replace(dir, &new_path).map(|()| salvaged));
    if salvaged.is_err() {
        let _ = fs::remove_file(&new_path);
    }
    salvaged
}

/// Whether tables and indexes are whole, and say the same.
fn is_sound(old: &Connection) -> bool {
    old.pragma_query_value(None, "integrity_check", |row| row.get::<_, String>(0)).is_ok_and(|verdict| verdict == "ok")
}

/// Takes the newest daily copy that is sound in place of the new catalog, if it has more whole files than the `files` that were
/// saved; `None`: it has not, or there is none.
fn or_backup(
    files: Option<u64>,
    dir: &Path,
    new_path: &Path,
    has_blob: &dyn Fn(Digest, u64) -> Result<bool>,
) -> Result<Option<Salvaged>> {
    let found = super::backup::newest_good(dir, has_blob)?;
    let Some((backup, whole)) = found.filter(|(_, whole)| files.is_none_or(|files| *whole > files)) else {
        return Ok(None);
    };
    let io = |error: std::io::Error| Error::io(new_path.display(), &error);
    if !new_path.exists() {
        schema::make_file(new_path)?;
    }
    // Its bytes only: the modes are those of the library.
    let copy = || std::io::copy(&mut File::open(&backup)?, &mut File::create(new_path)?);
    copy().map_err(io)?;
    Ok(Some(Salvaged { files: whole, backup: Some(backup), ..Salvaged::default() }))
}

/// Refuses a new catalog that would be worse than the damaged one.
fn worth(salvaged: &Salvaged, blobs: &Blobs<'_>, dir: &Path) -> Result<()> {
    let (shown, named) = (dir.display(), blobs.named.get());
    if salvaged.files == 0 && salvaged.holes > 0 && salvaged.lost_count == 0 {
        let message =
            format!("nothing of the catalog in {shown} can be read; the blobs beside it are left as they are");
        return Err(Error::new(Kind::Corrupt, message));
    }
    if named > 0 && blobs.found.get() == 0 {
        let message = format!(
            "{shown}: files need {named} blobs, and none of them is in `blobs`: is its disk there? Nothing was changed"
        );
        return Err(Error::new(Kind::Missing, message));
    }
    Ok(())
}

/// Brings what a writer had committed from the journal into the catalog, as every writer does when it ends: it is whole
/// without its journal then.
fn write_back(path: &Path) -> rusqlite::Result<()> {
    let old = sqlite::open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, WRITING)?;
    old.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

/// Gives the new catalog, which is whole, its name. The old one has had another one by then, that nothing had before: a
/// kill at any point leaves one of them in its place.
fn replace(dir: &Path, new_path: &Path) -> Result<()> {
    let path = schema::path(dir);
    let io = |error: std::io::Error| Error::io(path.display(), &error);
    let sync_dir = || File::open(dir).and_then(|dir| dir.sync_all()).map_err(io);
    File::open(new_path).and_then(|file| file.sync_all()).map_err(io)?;
    let aside = free_name(dir)?;
    let journals =
        ["-wal", "-shm"].map(|end| (dir.join(format!("catalog.sqlite{end}")), dir.join(format!("{aside}{end}"))));
    name_too(&path, &dir.join(&aside)).map_err(io)?;
    let [(wal, wal_aside), _] = &journals;
    // It was not written back.
    if fs::metadata(wal).is_ok_and(|metadata| metadata.len() > 0) {
        name_too(wal, wal_aside).map_err(io)?;
    }
    sync_dir()?;
    // The new one would take them for its own.
    for (journal, _) in &journals {
        match fs::remove_file(journal) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
    }
    sync_dir()?;
    fs::rename(new_path, &path).map_err(io)?;
    sync_dir()
}

/// Gives a file one more name; where a filesystem has one for each file only, a copy has it.
fn name_too(from: &Path, to: &Path) -> std::io::Result<()> {
    match fs::hard_link(from, to) {
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported) => {
            fs::copy(from, to)?;
            File::open(to)?.sync_all()
        }
        linked => linked,
    }
}

/// The newest damaged catalog that was set aside in `dir` and is still there.
pub fn damaged(dir: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let aside = entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.starts_with(ASIDE));
    // Being set aside changed it last. A journal alone is told, too, but after any catalog.
    let newest = aside.max_by_key(|name| {
        let is_journal = name.ends_with("-wal") || name.ends_with("-shm");
        let changed = fs::symlink_metadata(dir.join(name)).map(|metadata| (metadata.ctime(), metadata.ctime_nsec()));
        (!is_journal, changed.ok())
    });
    newest.map(|name| dir.join(name)).or_else(|| Some(dir.join(ASIDE)).filter(|path| is_name_taken(path)))
}

/// A name for the damaged catalog that nothing has yet, in any of its parts.
fn free_name(dir: &Path) -> Result<String> {
    (0..ASIDE_MAX)
        .map(|n| if n == 0 { ASIDE.to_owned() } else { format!("{ASIDE}.{n}") })
        .find(|name| ["", "-wal", "-shm"].iter().all(|end| !is_name_taken(&dir.join(format!("{name}{end}")))))
        .ok_or_else(|| {
            let message = format!("{}: {ASIDE_MAX} damaged catalogs are there already", dir.display());
            Error::new(Kind::Full, message)
        })
}

/// Also by what can't be looked at.
fn is_name_taken(path: &Path) -> bool {
    !matches!(fs::symlink_metadata(path), Err(error) if error.kind() == ErrorKind::NotFound)
}

fn write_new(
    old: &Connection,
    new_path: &Path,
    cut: Cut,
    blobs: &Blobs<'_>,
    go_on: &dyn Fn() -> Attempt<()>,
) -> Attempt<Salvaged> {
    write_tables(new_path, cut)?;
    let mut new = sqlite::open(new_path, OpenFlags::SQLITE_OPEN_READ_WRITE, WRITING)?;
    let salvaged = fill(old, &mut new, blobs, go_on)?;
    // All of it in the one file that gets another name; says so if it can't.
    new.pragma_update(None, "journal_mode", "delete")?;
    new.close().map_err(|(_, error)| error)?;
    Ok(salvaged)
}

fn fill(
    old: &Connection,
    new: &mut Connection,
    blobs: &Blobs<'_>,
    go_on: &dyn Fn() -> Attempt<()>,
) -> Attempt<Salvaged> {
    let mut salvaged = Salvaged::default();
    let new = new.transaction()?;
    for (table, key, columns) in [("nodes", "node_id", NODES), ("names", "name_id", NAMES)] {
        salvaged.holes += each_row(old, table, key, columns, &mut |row| {
            go_on()?;
            Ok(insert(&new, table, columns, row)?)
        })?;
    }
    copy_parts(old, &new, blobs, go_on, &mut salvaged)?;
    mend_names(&new, &mut salvaged)?;
    salvaged.files = new.query_row("SELECT count(*) FROM nodes WHERE kind = 8", [], |row| row.get(0).map(loaded))?;
    new.commit()?;
    Ok(salvaged)
}

/// Hands on every row that can be read; returns how many stretches could not.
fn each_row(
    old: &Connection,
    table: &str,
    key: &str,
    columns: &str,
    each: &mut dyn FnMut(Vec<Value>) -> Attempt<()>,
) -> Attempt<u64> {
    let sql = format!("SELECT {columns} FROM {table} NOT INDEXED WHERE {key} > ?1 ORDER BY {key}");
    let (mut after, mut jump, mut holes) = (-1_i64, 1_i64, 0);
    while jump < JUMP_MAX {
        let mut last = after;
        let is_read = rows_after(old, &sql, after, &mut |row| {
            if let Some(Value::Integer(at)) = row.first() {
                last = *at;
            }
            each(row)
        })?;
        if is_read {
            break;
        }
        if last > after {
            (after, jump) = (last, 1);
            continue;
        }
        holes += u64::from(jump == 1);
        after = after.saturating_add(jump);
        jump *= 2;
    }
    Ok(holes)
}

/// Hands on the rows up to the first that can't be read, one at a time; returns whether there was none such.
fn rows_after(
    old: &Connection,
    sql: &str,
    after: i64,
    each: &mut dyn FnMut(Vec<Value>) -> Attempt<()>,
) -> Attempt<bool> {
    let Ok(mut query) = old.prepare_cached(sql) else { return Ok(false) };
    let count = query.column_count();
    let Ok(mut rows) = query.query([after]) else { return Ok(false) };
    loop {
        let Ok(row) = rows.next() else { return Ok(false) };
        let Some(row) = row else { return Ok(true) };
        let values: rusqlite::Result<_> = (0..count).map(|column| row.get(column)).collect();
        let Ok(values) = values else { return Ok(false) };
        each(values)?;
    }
}

/// A row that contradicts one that is there is left out.
fn insert(new: &Connection, table: &str, columns: &str, row: Vec<Value>) -> rusqlite::Result<()> {
    let places = vec!["?"; row.len()].join(", ");
    // The top folder is there, and its own attributes are better.
    let verb = if row.first() == Some(&Value::Integer(1)) && table == "nodes" { "REPLACE" } else { "IGNORE" };
    let sql = format!("INSERT OR {verb} INTO {table} ({columns}) VALUES ({places})");
    new.prepare_cached(&sql)?.execute(params_from_iter(row)).map(drop)
}

/// What hangs on each file: chunks, tags, attributes. A file without all of its bytes is lost.
fn copy_parts(
    old: &Connection,
    new: &Connection,
    blobs: &Blobs<'_>,
    go_on: &dyn Fn() -> Attempt<()>,
    salvaged: &mut Salvaged,
) -> Attempt<()> {
    let mut files = new.prepare("SELECT node_id, kind, size_bytes, inline, inline_sha256 FROM nodes")?;
    let mut rows = files.query([])?;
    let mut lost = Vec::new();
    while let Some(row) = rows.next()? {
        go_on()?;
        let (node_id, kind, size_bytes): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        for (table, columns) in [("tags", "tag, node_id"), ("xattrs", "node_id, name, value")] {
            // What can't be read of these is not worth the file.
            let sql = format!("SELECT {columns} FROM {table} WHERE node_id = ?1");
            for row in parts(old, &sql, node_id).unwrap_or_default() {
                insert(new, table, columns, row)?;
            }
        }
        let is_whole = match (kind, row.get_ref(3)?.as_blob_or_null().map_err(rusqlite::Error::from)?) {
            (8, Some(bytes)) => {
                let sha256 = row.get_ref(4)?.as_blob_or_null().map_err(rusqlite::Error::from)?;
                sha256 == Some(Digest::of(bytes).as_bytes().as_slice())
            }
            (8, None) => copy_chunks(old, new, (node_id, size_bytes), blobs)?,
            _ => true,
        };
        if !is_whole {
            lost.push(node_id);
        }
    }
    for node_id in lost {
        let name = new.query_row("SELECT max(name) FROM names WHERE node_id = ?1", [node_id], |row| row.get(0));
        salvaged.lose(name.unwrap_or(None).unwrap_or_else(|| format!("a file without a name, number {node_id}")));
        for table in ["names", "nodes", "file_chunks", "tags", "xattrs"] {
            new.execute(&format!("DELETE FROM {table} WHERE node_id = ?1"), [node_id])?;
        }
    }
    Ok(())
}

fn parts(old: &Connection, sql: &str, node_id: i64) -> rusqlite::Result<Vec<Vec<Value>>> {
    let mut query = old.prepare_cached(sql)?;
    let count = query.column_count();
    query.query_map([node_id], |row| (0..count).map(|column| row.get(column)).collect())?.collect()
}

/// Whether the file has all of its chunks, and they their blobs.
fn copy_chunks(
    old: &Connection,
    new: &Connection,
    (node_id, size_bytes): (i64, i64),
    blobs: &Blobs<'_>,
) -> Attempt<bool> {
    let columns = "node_id, start_byte, end_byte, sha256";
    let sql = format!("SELECT {columns} FROM file_chunks WHERE node_id = ?1 ORDER BY start_byte");
    let Ok(chunks) = parts(old, &sql, node_id) else { return Ok(false) };
    let mut end = 0;
    for chunk in chunks {
        let [_, Value::Integer(start), Value::Integer(next), sha256] = chunk.as_slice() else { return Ok(false) };
        let is_there = match sha256 {
            Value::Null => true,
            Value::Blob(sha256) => match Digest::from_stored(sha256) {
                Some(digest) => blobs.is_there(digest, loaded(next.saturating_sub(*start)))?,
                None => false,
            },
            _ => false,
        };
        if *start != end || next <= start || !is_there {
            return Ok(false);
        }
        end = *next;
        insert(new, "file_chunks", columns, chunk)?;
    }
    Ok(end == size_bytes)
}

/// Every name leads to a node, every folder is there, every node has a name, and links are counted.
fn mend_names(new: &Connection, salvaged: &mut Salvaged) -> rusqlite::Result<()> {
    let mut dangling =
        new.prepare("SELECT name FROM names WHERE is_folder = 0 AND node_id NOT IN (SELECT node_id FROM nodes)")?;
    for name in dangling.query_map([], |row| row.get(0))? {
        salvaged.lose(name?);
    }
    new.execute_batch(
        "DELETE FROM names WHERE node_id NOT IN (SELECT node_id FROM nodes);
         DELETE FROM names WHERE folder_id NOT IN (SELECT node_id FROM nodes WHERE kind = 4);",
    )?;
    let nameless: Vec<(i64, i64)> = new
        .prepare(
            "SELECT node_id, kind FROM nodes
             WHERE node_id <> 1 AND links > 0 AND node_id NOT IN (SELECT node_id FROM names)",
        )?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    if !nameless.is_empty() {
        let folder = found_folder(new)?;
        for (node_id, kind) in nameless {
            let row = params![folder, node_id.to_string(), node_id, kind == 4];
            new.execute(
                "INSERT OR IGNORE INTO names (folder_id, name, node_id, is_folder) VALUES (?1, ?2, ?3, ?4)",
                row,
            )?;
            salvaged.nameless += u64::from(kind == 8);
        }
    }
    new.execute_batch(
        "DELETE FROM nodes WHERE node_id <> 1 AND node_id NOT IN (SELECT node_id FROM names);
         UPDATE nodes SET links = CASE kind
            WHEN 4 THEN 2 + (SELECT count(*) FROM names WHERE folder_id = nodes.node_id AND is_folder = 1)
            ELSE (SELECT count(*) FROM names WHERE node_id = nodes.node_id) END;",
    )
}

/// Made at the top, unless it is there.
fn found_folder(new: &Connection) -> rusqlite::Result<i64> {
    let there =
        new.query_row("SELECT node_id FROM names WHERE folder_id = 1 AND name = ?1", [FOUND_FOLDER], |row| row.get(0));
    if let Ok(node_id) = there {
        return Ok(node_id);
    }
    let node_id: i64 = new.query_row(
        "INSERT INTO nodes (kind, mode, uid, gid, rdev, links, size_bytes, modified_ns, changed_ns, accessed_ns, created_ns)
         SELECT 4, 448, uid, gid, 0, 2, 0, modified_ns, changed_ns, accessed_ns, created_ns FROM nodes WHERE node_id = 1
         RETURNING node_id",
        [],
        |row| row.get(0),
    )?;
    new.execute(
        "INSERT INTO names (folder_id, name, node_id, is_folder) VALUES (1, ?1, ?2, 1)",
        params![FOUND_FOLDER, node_id],
    )?;
    Ok(node_id)
}

#[cfg(test)]
mod tests;
