//! The index: the `SQLite` database that alone says which bytes of which version are on disk. Opening, schema,
//! migrations, and the connections. Queries stand beside it: `covering` reads, `recording` writes.
//! Never here: chunk bytes, and any decision on what to keep.
//!
//! Invariants:
//! - Rows of one entry never overlap, and none crosses a slot (a multiple of the entry's chunk size).
//! - A row is committed only after the bytes it names were synced; the index itself does not check that.
//! - There is one writing connection, behind one lock; readers have their own and never wait for it (WAL).

mod covering;
mod recording;
mod tree;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, MutexGuard};
use rusqlite::Connection;

use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::modes::Modes;
use crate::range::ByteRange;
use crate::sqlite::{self, Readers, Tuning};

pub use recording::{EntryKey, NewChunk, Touch};
pub(super) use tree::{ListingRow, NAMES_PAGE};

/// The newest schema this program knows; `PRAGMA user_version` of a database it wrote.
const SCHEMA: i64 = 3;
/// A reader waits this long for a checkpoint's lock before it gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// What a reading connection is worth: in memory, the inner pages of an index of ten million rows.
const READING: Tuning = Tuning { busy_timeout: BUSY_TIMEOUT, cache_kib: 4 << 10, statements: 16 };

/// One migration a line: from schema `n` to `n + 1`.
const MIGRATIONS: [&str; SCHEMA as usize] = [
    "
    CREATE TABLE cache_entries (
        entry_id    INTEGER PRIMARY KEY AUTOINCREMENT, -- data files and trust go by it: never used twice
        origin      TEXT    NOT NULL,
        path        TEXT    NOT NULL,
        version     TEXT    NOT NULL,
        size_bytes  INTEGER NOT NULL,
        chunk_size  INTEGER NOT NULL,
        created_at  INTEGER NOT NULL, -- microseconds since 1970, as all times here
        accessed_at INTEGER NOT NULL,
        pinned      INTEGER NOT NULL DEFAULT 0,
        UNIQUE (origin, path, version)
    );
    CREATE TABLE cache_chunks (
        entry_id    INTEGER NOT NULL,
        start_byte  INTEGER NOT NULL,
        end_byte    INTEGER NOT NULL,
        sha256      BLOB    NOT NULL,
        accessed_at INTEGER NOT NULL,
        PRIMARY KEY (entry_id, start_byte)
    ) WITHOUT ROWID;
    CREATE INDEX cache_chunks_by_age ON cache_chunks (accessed_at);
",
    "
    -- 1: players open the film with it; 2: its entry is pinned; 3: both. Of each kind the oldest are found at once.
    ALTER TABLE cache_chunks ADD COLUMN keep INTEGER NOT NULL DEFAULT 0;
    DROP INDEX cache_chunks_by_age;
    CREATE INDEX cache_chunks_by_age ON cache_chunks (keep, accessed_at);
    CREATE INDEX cache_entries_pinned ON cache_entries (size_bytes) WHERE pinned = 1;
    -- Bytes of all chunks whose keep is 1: counted here, in the transactions that change them, and never summed up.
    CREATE TABLE cache_totals (opening_bytes INTEGER NOT NULL);
    INSERT INTO cache_totals VALUES (0);
    CREATE TRIGGER opening_comes AFTER INSERT ON cache_chunks WHEN new.keep = 1 BEGIN
        UPDATE cache_totals SET opening_bytes = opening_bytes + (new.end_byte - new.start_byte);
    END;
    CREATE TRIGGER opening_goes AFTER DELETE ON cache_chunks WHEN old.keep = 1 BEGIN
        UPDATE cache_totals SET opening_bytes = opening_bytes - (old.end_byte - old.start_byte);
    END;
    CREATE TRIGGER opening_changes AFTER UPDATE OF end_byte, keep ON cache_chunks
    WHEN old.keep = 1 OR new.keep = 1 BEGIN
        UPDATE cache_totals SET opening_bytes = opening_bytes
            - (old.keep = 1) * (old.end_byte - old.start_byte) + (new.keep = 1) * (new.end_byte - new.start_byte);
    END;
",
    tree::TABLES,
];

/// What an eviction makes of a chunk that is not pinned, as the index stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Somewhere in a file.
    Middle = 0,
    /// Players open the film with it: its head, its tail, its container's index.
    Opening = 1,
}

/// A row of `cache_entries`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryRow {
    /// Names the data file, too.
    pub entry_id: i64,
    /// Relative to the source.
    pub path: String,
    /// As [`crate::store::Version`] stores itself.
    pub version: String,
    /// Of the file.
    pub size_bytes: u64,
    /// Width of a slot.
    pub chunk_size_bytes: u64,
    /// Microseconds since 1970.
    pub accessed_at: i64,
    /// Never evicted.
    pub pinned: bool,
}

/// A row of `cache_chunks`: these bytes are on disk and had this hash. Equal rows say the same of the same bytes,
/// whenever they were read last.
#[derive(Clone, Debug)]
pub struct ChunkRow {
    /// Whose bytes.
    pub entry_id: i64,
    /// Which bytes.
    pub range: ByteRange,
    /// Their hash when they were recorded.
    pub digest: Digest,
    /// Microseconds since 1970.
    pub accessed_at: i64,
}

impl PartialEq for ChunkRow {
    fn eq(&self, other: &Self) -> bool {
        (self.entry_id, self.range, self.digest) == (other.entry_id, other.range, other.digest)
    }
}

impl Eq for ChunkRow {}

/// The open database.
pub struct Index {
    path: PathBuf,
    // Guards the one writing connection. Taken alone or inside nothing else; file syncs and hashing of merged
    // chunks may happen under it, requests to an origin never.
    writer: Mutex<Connection>,
    readers: Readers,
}

impl Index {
    /// Opens the index for the one process that owns the cache; makes or migrates it. A damaged database is set
    /// aside and begun anew; one written by a newer program is refused.
    pub fn open(path: &Path) -> Result<Self> {
        match Self::open_checked(path) {
            Err(error) if error.kind() == Kind::Corrupt => {
                let aside = set_aside(path)?;
                log::warn!("{error}; it was set aside as {} and a new one begun", aside.display());
                Self::open_checked(path)
            }
            other => other,
        }
    }

    fn open_checked(path: &Path) -> Result<Self> {
        if damage_mark(path).exists() {
            return Err(Error::new(Kind::Corrupt, format!("the index {} was found damaged in use", path.display())));
        }
        let size = std::fs::metadata(path).map_or(0, |meta| meta.len());
        // SQLite gives its journals the mode of the database.
        modes_of(path).make_file(path).map_err(|error| Error::io(path.display(), &error))?;
        let writer = Connection::open(path).map_err(|error| failed(path, &error))?;
        let run = |connection: &Connection| -> rusqlite::Result<i64> {
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.pragma_update(None, "journal_mode", "wal")?;
            connection.pragma_update(None, "synchronous", "normal")?;
            connection.set_prepared_statement_cache_capacity(32);
            connection.pragma_query_value(None, "user_version", |row| row.get(0))
        };
        let version = run(&writer).map_err(|error| failed(path, &error))?;
        if version > SCHEMA {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "the index {} was written by a newer reelfs (schema {version}, this one knows {SCHEMA}): use that program, or another --cache-dir",
                    path.display()
                ),
            ));
        }
        migrate(&writer, version).map_err(|error| failed(path, &error))?;
        if let Some(damage) = sqlite::damage(&writer, size).map_err(|error| failed(path, &error))? {
            return Err(Error::new(Kind::Corrupt, format!("the index {} is damaged ({damage})", path.display())));
        }
        Ok(Self::with(path, writer))
    }

    /// Opens an existing index for looking only, beside the process that owns it.
    pub fn open_to_look(path: &Path) -> Result<Self> {
        let open = || sqlite::open_reader(path, READING).map_err(|error| failed(path, &error));
        let reader = open()?;
        let version: i64 =
            reader.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(|error| failed(path, &error))?;
        if version != SCHEMA {
            return Err(Error::new(
                Kind::Unsupported,
                format!("the index {} has schema {version}; this program reads {SCHEMA}", path.display()),
            ));
        }
        // Nothing writes through it: a reader stands in for the writer.
        Ok(Self::with(path, open()?))
    }

    fn with(path: &Path, writer: Connection) -> Self {
        Self { path: path.to_owned(), writer: Mutex::new(writer), readers: Readers::new(path, READING) }
    }

    /// Runs `query` on a reading connection.
    fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let connection = self.readers.take().map_err(|error| failed(&self.path, &error))?;
        let answer = query(&connection).map_err(|error| self.failed(&error));
        self.readers.put_back(connection);
        answer
    }

    fn writer(&self) -> MutexGuard<'_, Connection> {
        self.writer.lock()
    }

    /// The error, and, when the database itself is damaged, a mark that makes the next start set it aside.
    fn failed(&self, error: &rusqlite::Error) -> Error {
        let error = failed(&self.path, error);
        if error.kind() == Kind::Corrupt {
            let mark = damage_mark(&self.path);
            let _ = modes_of(&mark).write(&mark, error.to_string().as_bytes());
        }
        error
    }
}

fn migrate(connection: &Connection, from: i64) -> rusqlite::Result<()> {
    for (schema, migration) in (0..).zip(MIGRATIONS) {
        if schema >= from {
            let next = schema + 1;
            connection.execute_batch(&format!("BEGIN; {migration} PRAGMA user_version = {next}; COMMIT;"))?;
        }
    }
    Ok(())
}

/// Who may read what stands beside `path`.
fn modes_of(path: &Path) -> Modes {
    path.parent().map_or(Modes::OWNER, Modes::of)
}

fn damage_mark(path: &Path) -> PathBuf {
    path.with_extension("damaged")
}

/// Renames the database and its companions out of the way; nothing is deleted.
fn set_aside(path: &Path) -> Result<PathBuf> {
    let stamp = micros(SystemTime::now());
    let aside = path.with_extension(format!("sqlite.damaged-{stamp}"));
    std::fs::rename(path, &aside).map_err(|error| Error::io(path.display(), &error))?;
    // The journal belongs to the database it was written for: beside a new one it would be replayed into it.
    for suffix in ["-wal", "-shm"] {
        let mut from = path.as_os_str().to_owned();
        from.push(suffix);
        let mut to = aside.as_os_str().to_owned();
        to.push(suffix);
        let _ = std::fs::rename(from, to);
    }
    let _ = std::fs::remove_file(damage_mark(path));
    Ok(aside)
}

fn failed(path: &Path, error: &rusqlite::Error) -> Error {
    let kind = match sqlite::kind(error) {
        // It has waited already, and is no origin that will be less busy soon.
        Kind::Busy => Kind::Local,
        kind => kind,
    };
    Error::new(kind, format!("the index {}: {error}", path.display()))
}

/// Microseconds since 1970; times before it are 0.
pub fn micros(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
