//! Whether an index is one that this program wrote: its files, and every row. What `SQLite` itself checks are its pages only.
//! Never here: what becomes of an index that is not sound.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, ffi};

use super::covering::CHUNK_BYTES_MAX;
use crate::error::Kind;
use crate::sqlite;

/// Files that `SQLite` keeps beside a database; their names go on from its own.
pub(super) const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// How the file formats of `SQLite` say that a database begins, and a journal (whose last bit is the order of its checksums).
const DATABASE_BEGINS: [u8; 16] = *b"SQLite format 3\0";
const JOURNAL_MAGIC: u32 = 0x377f_0682;

/// Rows that no version of this program writes, each named for a person.
const NONSENSE: [(&str, &str); 4] = [
    (
        "an entry's row",
        "SELECT 1 FROM cache_entries
         WHERE typeof(entry_id) <> 'integer' OR entry_id < 1 OR typeof(origin) <> 'text' OR typeof(path) <> 'text'
            OR typeof(version) <> 'text' OR typeof(size_bytes) <> 'integer' OR size_bytes < 0
            OR typeof(chunk_size) <> 'integer' OR chunk_size < 1 OR chunk_size > ?1
            OR typeof(accessed_at) <> 'integer' OR pinned NOT IN (0, 1)",
    ),
    (
        "a chunk's row",
        "SELECT 1 FROM cache_chunks c LEFT JOIN cache_entries e USING (entry_id)
         WHERE typeof(c.entry_id) <> 'integer' OR typeof(start_byte) <> 'integer' OR typeof(end_byte) <> 'integer'
            OR start_byte < 0 OR end_byte <= start_byte OR end_byte - start_byte > ?1
            OR typeof(sha256) <> 'blob' OR length(sha256) <> 32 OR typeof(c.accessed_at) <> 'integer'
            OR keep NOT IN (0, 1, 2, 3)
            OR end_byte > size_bytes OR start_byte / chunk_size <> (end_byte - 1) / chunk_size",
    ),
    (
        "two chunks that overlap",
        "SELECT 1 FROM (SELECT start_byte, lag(end_byte) OVER (PARTITION BY entry_id ORDER BY start_byte) AS before
                        FROM cache_chunks)
         WHERE before > start_byte AND ?1 > 0",
    ),
    (
        "a listing's row",
        "SELECT 1 FROM tree_listings
         WHERE typeof(origin) <> 'text' OR typeof(folder) <> 'text' OR typeof(listed_at) <> 'integer'
            OR typeof(names) <> 'integer' OR names < 0 OR typeof(size_bytes) <> 'integer' OR size_bytes < 0
            OR is_current NOT IN (0, 1) OR ?1 < 0",
    ),
];

/// The first kind of row that can't be right, if there is one. Reads every row but the names of listings.
pub(super) fn nonsense(connection: &Connection) -> rusqlite::Result<Option<&'static str>> {
    for (what, sql) in NONSENSE {
        let found = connection.query_row(&format!("{sql} LIMIT 1"), [sqlite::stored(CHUNK_BYTES_MAX)], |_| Ok(()));
        if found.optional()?.is_some() {
            return Ok(Some(what));
        }
    }
    Ok(None)
}

/// The file beside the database `path` with this end of a name.
pub(super) fn companion(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// What stands where a database or a companion belongs, and is no file of its own: `SQLite` would write through it.
pub(super) fn not_plain(path: &Path) -> Option<PathBuf> {
    let all = std::iter::once(path.to_owned()).chain(COMPANIONS.map(|suffix| companion(path, suffix)));
    all.into_iter().find(|path| path.symlink_metadata().is_ok_and(|meta| !meta.is_file() || meta.nlink() != 1))
}

/// The files of a database in use, looked at from outside: `SQLite` reads most pages once, and would notice late that another
/// program removed, cut or overwrote them.
pub(super) struct Watch {
    // The database, its journal and its shared memory, as far as they were there. None of them shrinks.
    seen: [Option<Seen>; 3],
    // Open as long as SQLite has the database open: to close it would take SQLite's own locks away.
    database: Option<File>,
}

#[derive(Clone, Copy)]
struct Seen {
    device: u64,
    inode: u64,
    len: u64,
}

impl Watch {
    /// From this moment on. The database is open.
    pub fn new(path: &Path) -> Self {
        Self { seen: paths(path).map(|path| look(&path).ok()), database: File::open(path).ok() }
    }

    /// Whether the files are where they were, no shorter, and begin as such files do. What can't be looked at is right.
    pub fn is_right(&mut self, path: &Path) -> bool {
        for (seen, path) in self.seen.iter_mut().zip(paths(path)) {
            let Some(was) = seen else { continue };
            match look(&path) {
                Ok(now) if (was.device, was.inode) == (now.device, now.inode) && was.len <= now.len => *was = now,
                Err(error) if error.kind() != ErrorKind::NotFound => {}
                _ => return false,
            }
        }
        let is_database = self.database.as_ref().and_then(begins).is_none_or(|begins| begins == DATABASE_BEGINS);
        let journal = File::open(companion(path, "-wal")).ok();
        // It is empty at first.
        let magic = journal.as_ref().and_then(begins).map(u32::from_be_bytes);
        is_database && magic.is_none_or(|magic| magic & !1 == JOURNAL_MAGIC)
    }
}

fn paths(path: &Path) -> [PathBuf; 3] {
    [path.to_owned(), companion(path, "-wal"), companion(path, "-shm")]
}

fn look(path: &Path) -> std::io::Result<Seen> {
    let meta = path.symlink_metadata()?;
    Ok(Seen { device: meta.dev(), inode: meta.ino(), len: meta.len() })
}

fn begins<const N: usize>(file: &File) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, 0).ok().map(|()| bytes)
}

/// What an error of a database in use means: `Corrupt` of one that another program cut or wrote into. Its disk may fail, too,
/// or be full, which is no damage.
pub(super) fn kind(error: &rusqlite::Error) -> Kind {
    use rusqlite::Error as E;
    match error {
        // Text where a number belongs, and tables or rows that are not there.
        E::FromSqlConversionFailure(..)
        | E::IntegralValueOutOfRange(..)
        | E::InvalidColumnType(..)
        | E::QueryReturnedNoRows
        | E::SqlInputError { .. }
        | E::Utf8Error(..) => Kind::Corrupt,
        E::SqliteFailure(failure, _)
            if failure.extended_code == ffi::SQLITE_IOERR_SHORT_READ || failure.extended_code == ffi::SQLITE_ERROR =>
        {
            Kind::Corrupt
        }
        _ => match sqlite::kind(error) {
            // It has waited already, and is no origin that will be less busy soon.
            Kind::Busy => Kind::Local,
            kind => kind,
        },
    }
}

/// The same while a database is opened: one that can't be is of no use, unless it is only busy or its disk full.
pub(super) fn kind_at_open(error: &rusqlite::Error) -> Kind {
    match error.sqlite_error_code() {
        Some(
            ErrorCode::CannotOpen | ErrorCode::SystemIoFailure | ErrorCode::ReadOnly | ErrorCode::PermissionDenied,
        ) => Kind::Corrupt,
        _ => kind(error),
    }
}
