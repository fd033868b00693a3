//! The catalog's tables, and whether a database has them.
//! Never here: rows.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rusqlite::{Connection, OpenFlags};

use super::{WRITING, failed, nanos, take_lock};
use crate::error::{Error, Kind, Result};
use crate::library::Cut;
use crate::library::manifest::CHUNK_BYTES_MAX;
use crate::modes::{self, Modes};
use crate::sqlite::{self, loaded, stored};

/// The newest format this program knows: `PRAGMA user_version`.
const FORMAT: i64 = 1;
/// "reel": tells a library's catalog from any other database (`PRAGMA application_id`).
const APPLICATION: i64 = 0x7265_656c;
/// A chunk is at least a page, and what a person would call small files is not inline.
const CHUNK_BYTES_MIN: u64 = 4 << 10;

const TABLES: &str = "
    -- How files are cut; one row.
    CREATE TABLE library (inline_bytes_max INTEGER NOT NULL, chunk_size_bytes INTEGER NOT NULL);
    CREATE TABLE nodes (
        node_id      INTEGER PRIMARY KEY AUTOINCREMENT, -- the inode number: never used twice
        kind         INTEGER NOT NULL, -- as in st_mode: 4 folder, 8 file, 10 link, 1 pipe, 12 socket, 6 block, 2 character device
        mode         INTEGER NOT NULL, -- permission bits
        uid          INTEGER NOT NULL,
        gid          INTEGER NOT NULL,
        rdev         INTEGER NOT NULL,
        links        INTEGER NOT NULL, -- names that lead to it; of a folder 2 more than folders in it; 0: unlinked
        size_bytes   INTEGER NOT NULL,
        modified_ns  INTEGER NOT NULL, -- since 1970, as all times here
        changed_ns   INTEGER NOT NULL,
        accessed_ns  INTEGER NOT NULL,
        created_ns   INTEGER NOT NULL,
        content_type TEXT,
        target       TEXT,             -- of a link
        inline_sha256 BLOB,            -- of the inline content
        inline       BLOB              -- the whole content; NULL: it is in file_chunks. Last: rows are read without it
    );
    CREATE INDEX nodes_unlinked ON nodes (node_id) WHERE links = 0;
    CREATE TABLE names (
        name_id   INTEGER PRIMARY KEY, -- where a reader of the folder goes on
        folder_id INTEGER NOT NULL,
        name      TEXT    NOT NULL,
        node_id   INTEGER NOT NULL,
        is_folder INTEGER NOT NULL,
        -- As part of a path: folders are listed where their files are.
        in_path   TEXT GENERATED ALWAYS AS (name || iif(is_folder, '/', '')) VIRTUAL,
        UNIQUE (folder_id, name)
    );
    CREATE INDEX names_by_path ON names (folder_id, in_path);
    CREATE INDEX names_by_id ON names (folder_id, name_id);
    CREATE INDEX names_by_node ON names (node_id);
    CREATE TABLE file_chunks (
        node_id    INTEGER NOT NULL,
        start_byte INTEGER NOT NULL,
        end_byte   INTEGER NOT NULL,
        sha256     BLOB,               -- names the blob; NULL: a hole
        PRIMARY KEY (node_id, start_byte)
    ) WITHOUT ROWID;
    CREATE INDEX file_chunks_by_blob ON file_chunks (sha256) WHERE sha256 IS NOT NULL;
    CREATE INDEX file_chunks_holes ON file_chunks (node_id, end_byte) WHERE sha256 IS NULL;
    -- Blobs that no chunk names: to be removed.
    CREATE TABLE loose_blobs (sha256 BLOB PRIMARY KEY, size_bytes INTEGER NOT NULL, since_ns INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE tags (tag TEXT NOT NULL, node_id INTEGER NOT NULL, PRIMARY KEY (tag, node_id)) WITHOUT ROWID;
    CREATE INDEX tags_by_node ON tags (node_id);
    CREATE TABLE xattrs (
        node_id INTEGER NOT NULL,
        name    TEXT    NOT NULL,
        value   BLOB    NOT NULL,
        PRIMARY KEY (node_id, name)
    ) WITHOUT ROWID;
";

pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("catalog.sqlite")
}

/// Makes an empty library in `dir`, which is made if it is not there, after `before`. `Invalid` if there is something in it
/// already.
pub fn create(dir: &Path, cut: Cut, before: &dyn Fn() -> Result<()>) -> Result<()> {
    check_cut(cut)?;
    let io = |error: std::io::Error| Error::io(dir.display(), &error);
    // The folders above it are not only a library's.
    dir.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(io)?;
    Modes::OWNER.make_folder(dir).map_err(io)?;
    let path = path(dir);
    let check_is_new = || {
        let is_there = || Error::new(Kind::Invalid, format!("{} is a library already", dir.display()));
        if path.exists() { Err(is_there()) } else { Ok(()) }
    };
    check_is_new()?;
    if std::fs::read_dir(dir).map_err(io)?.any(|entry| entry.is_ok_and(|entry| !is_ours(&entry.file_name()))) {
        let message = format!("{} is not empty: a library is made in an empty folder, or a new one", dir.display());
        return Err(Error::new(Kind::Invalid, message));
    }
    if holds_blobs(dir) {
        let message =
            format!("{} has blobs of a library that has lost its catalog: a new one would know none", dir.display());
        return Err(Error::new(Kind::Invalid, message));
    }
    // What a broken-off `init` left has its modes from it.
    if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none()) {
        modes::mend(dir, &[]);
    }
    let _lock = take_lock(dir)?;
    // Another one may have made it just now.
    check_is_new()?;
    // Under another name until it is whole.
    let new = path.with_extension("sqlite.new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    before()?;
    make_file(&new)?;
    write_tables(&new, cut).map_err(|error| failed(&new, &error))?;
    File::open(&new).and_then(|file| file.sync_all()).map_err(io)?;
    std::fs::rename(&new, &path).map_err(io)?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)
}

/// Whether a name in a folder without a catalog is one that an `init` or a backup has left that was broken off.
pub fn is_ours(name: &OsStr) -> bool {
    ["lock", "blobs", "scratch", "quarantine"].iter().any(|ours| name == *ours)
        || ["catalog.sqlite.new", "catalog.sqlite.backup"].iter().any(|ours| name.to_string_lossy().starts_with(ours))
}

/// A database nothing is in yet, with the mode that its journals are given, too.
pub(super) fn make_file(path: &Path) -> Result<()> {
    let modes = path.parent().map_or(Modes::OWNER, Modes::of);
    modes.make_file(path).map_err(|error| Error::io(path.display(), &error))
}

/// A database with empty tables, and the top folder.
pub(super) fn write_tables(path: &Path, cut: Cut) -> rusqlite::Result<()> {
    let connection = sqlite::open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, WRITING)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.execute_batch(&format!(
        "BEGIN; {TABLES} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT}; COMMIT;"
    ))?;
    let (inline, chunk) = (stored(cut.inline_bytes_max), stored(cut.chunk_size_bytes));
    connection.execute("INSERT INTO library VALUES (?1, ?2)", [inline, chunk])?;
    let (uid, gid) = crate::sys::invoking_user();
    connection.execute(
        "INSERT INTO nodes (node_id, kind, mode, uid, gid, rdev, links, size_bytes,
                            modified_ns, changed_ns, accessed_ns, created_ns)
         VALUES (1, 4, 493, ?1, ?2, 0, 2, 0, ?3, ?3, ?3, ?3)",
        rusqlite::params![uid, gid, nanos(SystemTime::now())],
    )?;
    // All of it in the one file that gets another name; says so if it can't.
    connection.pragma_update(None, "journal_mode", "delete")?;
    connection.close().map_err(|(_, error)| error)
}

/// Whether there is a library in `dir`.
pub fn is_at(dir: &Path) -> bool {
    path(dir).is_file()
}

/// Whether there are bytes of files in `dir`. Without a catalog nobody knows whose.
fn holds_blobs(dir: &Path) -> bool {
    let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries(&dir.join("blobs")).any(|entry| entries(&entry.path()).next().is_some())
}

/// `Missing` where there is no library, `Corrupt` where there is one without its catalog.
pub fn check_is_there(dir: &Path) -> Result<()> {
    // Whom the folder is closed to does not know whether there is one.
    if path(dir).try_exists().map_err(|error| Error::io(path(dir).display(), &error))? {
        return Ok(());
    }
    let place = dir.display();
    if holds_blobs(dir) {
        let message = format!(
            "{place} has blobs, and has lost its catalog: put `catalog.sqlite` back; of a damaged one, \
             `reelfs verify --salvage` saves what can be read"
        );
        return Err(Error::new(Kind::Corrupt, message));
    }
    let message = format!("{place} is not a library; `reelfs init library:{place}` makes one");
    Err(Error::new(Kind::Missing, message))
}

/// Whether the database is a catalog this program can read.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<()> {
    let number = |pragma: &str| -> Result<i64> {
        connection.pragma_query_value(None, pragma, |row| row.get(0)).map_err(|error| failed(path, &error))
    };
    let application = number("application_id")?;
    if application != APPLICATION {
        return Err(Error::new(
            Kind::Corrupt,
            format!(
                "{} is not the catalog of a library, or a damaged one: `reelfs verify --salvage` saves what can be read of it",
                path.display()
            ),
        ));
    }
    let format = number("user_version")?;
    if format > FORMAT {
        let message = format!(
            "the library {} was made by a newer reelfs (format {format}, this one knows {FORMAT}): use that program",
            path.parent().unwrap_or(path).display()
        );
        return Err(Error::new(Kind::Unsupported, message));
    }
    Ok(())
}

/// Adds what earlier versions made no index of. They know nothing of it, and lose nothing by it.
pub(super) fn add_indexes(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "CREATE INDEX IF NOT EXISTS file_chunks_holes ON file_chunks (node_id, end_byte) WHERE sha256 IS NULL",
    )
}

/// Looks at all of a database that is small.
pub(super) fn quick_check(connection: &Connection, path: &Path, size_bytes: u64) -> Result<()> {
    sound(sqlite::damage(connection, size_bytes), path)
}

/// Looks at all of it, however large it is.
pub(super) fn check_all(connection: &Connection, path: &Path) -> Result<()> {
    sound(sqlite::damage_anywhere(connection), path)
}

fn sound(damage: rusqlite::Result<Option<String>>, path: &Path) -> Result<()> {
    let Some(damage) = damage.map_err(|error| failed(path, &error))? else { return Ok(()) };
    Err(Error::new(
        Kind::Corrupt,
        format!(
            "the catalog {} is damaged ({damage}): `reelfs verify --salvage` saves what can be read of it",
            path.display()
        ),
    ))
}

pub(super) fn cut(connection: &Connection, path: &Path) -> Result<Cut> {
    let row = connection.query_row("SELECT inline_bytes_max, chunk_size_bytes FROM library", [], |row| {
        Ok(Cut { inline_bytes_max: loaded(row.get(0)?), chunk_size_bytes: loaded(row.get(1)?) })
    });
    let cut = row.map_err(|error| failed(path, &error))?;
    check_cut(cut).map_err(|error| Error::new(Kind::Corrupt, format!("the catalog {}: {error}", path.display())))?;
    Ok(cut)
}

pub(super) fn check_cut(cut: Cut) -> Result<()> {
    let chunk = cut.chunk_size_bytes;
    if !(CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&chunk) || !chunk.is_multiple_of(CHUNK_BYTES_MIN) {
        let message = format!("chunks of {chunk} bytes: a multiple of 4 KiB, up to 24 MiB");
        return Err(Error::new(Kind::Invalid, message));
    }
    if cut.inline_bytes_max > chunk {
        let message = format!("{} bytes kept inline, more than a chunk of {chunk}", cut.inline_bytes_max);
        return Err(Error::new(Kind::Invalid, message));
    }
    Ok(())
}
