//! The index: the `SQLite` database that alone says which bytes of which version are on disk. Opening, schema,
//! migrations, and the connections. Queries stand beside it: `covering` reads, `recording` writes.
//! Never here: chunk bytes, and any decision on what to keep.
//!
//! Invariants:
//! - Rows of one entry never overlap, and none crosses a slot (a multiple of the entry's chunk size).
//! - A row is committed only after the bytes it names were synced; the index itself does not check that.
//! - There is one writing connection, behind one lock; readers have their own and never wait for it (WAL).
//! - No id of an entry or a listing is used twice in one run, also not after a damaged index gave way to a new one.

mod covering;
mod recording;
mod sound;
mod tree;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, MutexGuard, RwLock};
use rusqlite::{Connection, OpenFlags};

use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::modes::Modes;
use crate::range::ByteRange;
use crate::sqlite::{self, Readers, Tuning};
use crate::sys;

use sound::{COMPANIONS, Watch, companion};

pub use recording::{EntryKey, NewChunk, Touch};
pub(super) use tree::{ListingRow, NAMES_PAGE};

/// The newest schema this program knows; `PRAGMA user_version` of a database it wrote.
const SCHEMA: i64 = 3;
/// A reader waits this long for a checkpoint's lock before it gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// A version this far above is nobody's schema, but damage.
const SCHEMA_NONSENSE: i64 = SCHEMA + 1_000;
/// What a reading connection is worth: in memory, the inner pages of an index of ten million rows.
const READING: Tuning = Tuning { busy_timeout: BUSY_TIMEOUT, cache_kib: 4 << 10, statements: 32 };
/// The one writing connection; its memory is `SQLite`'s own default.
const WRITING: Tuning = Tuning { busy_timeout: BUSY_TIMEOUT, cache_kib: 2_000, statements: 64 };

/// What triggers keep counted is counted anew at each start.
const COUNT_OPENINGS: &str = "
    BEGIN;
    DELETE FROM cache_totals;
    INSERT INTO cache_totals SELECT coalesce(sum(end_byte - start_byte), 0) FROM cache_chunks WHERE keep = 1;
    COMMIT;
";

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
    // Of the database that is in use. Held for a moment, inside `watch` where both are; replaced under `writer`.
    readers: RwLock<Arc<Readers>>,
    // Of the owner. Dropped after the connections. Held for a few system calls.
    watch: Mutex<Option<Watch>>,
    // Found in use. From then on nothing of it is believed, until a new one is begun.
    is_damaged: AtomicBool,
    // Who only looks, beside the owner, may see less than the owner does, and must not call it damaged.
    is_owner: bool,
    // How often a new one was begun in this run.
    generation: AtomicU64,
}

impl Index {
    /// Opens the index for the one process that owns the cache; makes or migrates it. A damaged database is set
    /// aside and begun anew, whatever the damage; one written by a newer program is refused.
    pub fn open(path: &Path) -> Result<Self> {
        match connect(path) {
            Err(error) if error.kind() == Kind::Corrupt => {
                // What can't be moved out of the way can't be used either: why is the first error.
                let Ok(aside) = set_aside(path) else { return Err(error) };
                log::warn!("{error}; it was set aside as {} and a new one begun", aside.display());
                connect(path)
            }
            other => other,
        }
        .map(|writer| Self::with(path, writer, true))
    }

    /// Sets a database that was found damaged in use aside, and begins a new one. Ids go on where no earlier one was.
    pub fn renew(&self) -> Result<()> {
        let mut writer = self.writer.lock();
        let aside = set_aside(&self.path)?;
        log::warn!(
            "the index {} is damaged: it was set aside as {}, and a new one begun",
            self.path.display(),
            aside.display()
        );
        let new = connect(&self.path)?;
        // Later than all ids of this run, which are few or of an earlier moment.
        let floor = micros(SystemTime::now());
        new.execute_batch(&format!(
            "INSERT INTO sqlite_sequence (name, seq) VALUES ('cache_entries', {floor}), ('tree_listings', {floor})"
        ))
        .map_err(|error| failed(&self.path, &error))?;
        *writer = new;
        // Both held, so that no damage of the old database counts as one of the new.
        let (mut watch, mut readers) = (self.watch.lock(), self.readers.write());
        *watch = Some(Watch::new(&self.path));
        *readers = Arc::new(Readers::new(&self.path, READING));
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.is_damaged.store(false, Ordering::Release);
        let _ = std::fs::remove_file(damage_mark(&self.path));
        Ok(())
    }

    /// Whether it must be renewed: it was found damaged, or another program removed or replaced one of its files.
    pub fn is_damaged(&self) -> bool {
        let mut watch = self.watch.lock();
        let mut is_right = || watch.as_mut().is_none_or(|watch| watch.is_right(&self.path));
        if !self.is_damaged.load(Ordering::Acquire) && !is_right() && !self.is_damaged.swap(true, Ordering::AcqRel) {
            log::warn!("another program removed or changed the files of the index {}", self.path.display());
        }
        self.is_damaged.load(Ordering::Acquire)
    }

    /// From now on its files may go: this process removes them.
    pub fn stop_watching(&self) {
        *self.watch.lock() = None;
    }

    /// Changes when a new database is begun: what was read of the one before is of no use then.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// How often kept statements of the connections that nobody uses at the moment were planned anew: about 0.
    pub fn replans(&self) -> u64 {
        let readers = Arc::clone(&self.readers.read());
        self.writer.try_lock().map_or(0, |writer| sys::statement_replans(&writer)) + readers.replans()
    }

    /// Bytes of its write-ahead log: 0 where there is none.
    pub fn wal_bytes(&self) -> u64 {
        std::fs::metadata(sound::companion(&self.path, "-wal")).map_or(0, |log| log.len())
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
        Ok(Self::with(path, open()?, false))
    }

    fn with(path: &Path, writer: Connection, is_owner: bool) -> Self {
        Self {
            path: path.to_owned(),
            writer: Mutex::new(writer),
            readers: RwLock::new(Arc::new(Readers::new(path, READING))),
            watch: Mutex::new(is_owner.then(|| Watch::new(path))),
            is_damaged: AtomicBool::new(false),
            is_owner,
            generation: AtomicU64::new(0),
        }
    }

    /// Runs `query` on a reading connection.
    fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let (readers, generation) = {
            let readers = self.readers.read();
            (Arc::clone(&readers), self.generation())
        };
        let connection = readers.take().map_err(|error| failed(&self.path, &error))?;
        let answer = query(&connection).map_err(|error| self.failed_in(generation, &error));
        readers.put_back(connection);
        answer
    }

    fn writer(&self) -> MutexGuard<'_, Connection> {
        self.writer.lock()
    }

    /// The error, and, when the database itself is damaged, a mark that makes the next start set it aside, if this run does
    /// not come to it.
    fn failed(&self, error: &rusqlite::Error) -> Error {
        self.failed_in(self.generation(), error)
    }

    /// The same for a query that began with the database of that generation: what was wrong with one is not wrong with the next,
    /// and half of a new one may have been seen.
    fn failed_in(&self, generation: u64, error: &rusqlite::Error) -> Error {
        let error = failed(&self.path, error);
        // Held: no new database is put in place meanwhile.
        let _readers = self.readers.read();
        if generation != self.generation() {
            return error;
        }
        if error.kind() == Kind::Corrupt && !self.is_damaged.swap(true, Ordering::AcqRel) && self.is_owner {
            let mark = damage_mark(&self.path);
            // Whatever stands there is not written through.
            let _ = std::fs::remove_file(&mark);
            let _ = modes_of(&mark).write(&mark, error.to_string().as_bytes());
        }
        error
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        if !self.is_owner || self.is_damaged.load(Ordering::Acquire) {
            return;
        }
        // The index is one file then.
        self.readers.read().close();
        if let Err(error) = sqlite::fold_in(&self.writer.lock()) {
            log::debug!("{}: its journal stays beside it: {error}", self.path.display());
        }
    }
}

/// Opens the writing connection to a database that is sound, or new.
fn connect(path: &Path) -> Result<Connection> {
    let corrupt = |what: String| Error::new(Kind::Corrupt, format!("the index {} {what}", path.display()));
    let failed = |error: rusqlite::Error| {
        Error::new(sound::kind_at_open(&error), format!("the index {}: {error}", path.display()))
    };
    if damage_mark(path).exists() {
        return Err(corrupt("was found damaged in use".into()));
    }
    if let Some(other) = sound::not_plain(path) {
        return Err(corrupt(format!("can't be used: {} is no plain file of its own", other.display())));
    }
    // Of the companions, SQLite maps one into memory.
    sys::survive_cut_shared_memory();
    let size = std::fs::metadata(path).map_or(0, |meta| meta.len());
    // `SQLite` gives its journals the mode of the database.
    modes_of(path).make_file(path).map_err(|error| Error::io(path.display(), &error))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let writer = sqlite::open(path, flags, WRITING).map_err(failed)?;
    let run = |connection: &Connection| -> rusqlite::Result<i64> {
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "normal")?;
        connection.pragma_query_value(None, "user_version", |row| row.get(0))
    };
    let version = run(&writer).map_err(failed)?;
    if !(0..SCHEMA_NONSENSE).contains(&version) {
        return Err(corrupt(format!("has the schema {version}, which no program wrote")));
    }
    if version > SCHEMA {
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "the index {} was written by a newer reelfs (schema {version}, this one knows {SCHEMA}): use that program, or another --cache-dir",
                path.display()
            ),
        ));
    }
    migrate(&writer, version).map_err(failed)?;
    if let Some(damage) = sqlite::damage(&writer, size).map_err(failed)? {
        return Err(corrupt(format!("is damaged ({damage})")));
    }
    if let Some(row) = sound::nonsense(&writer).map_err(failed)? {
        return Err(corrupt(format!("holds {row} that no program wrote")));
    }
    writer.execute_batch(COUNT_OPENINGS).map_err(failed)?;
    Ok(writer)
}

/// Whether there is an index of a cache at `path`, whatever its state.
pub fn is_at(path: &Path) -> bool {
    // No link is followed.
    if !path.exists() || sound::not_plain(path).is_some() {
        return false;
    }
    sys::survive_cut_shared_memory();
    let count = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('cache_entries', 'cache_chunks')";
    let tables = sqlite::open_reader(path, READING).and_then(|reader| reader.query_row(count, [], |row| row.get(0)));
    tables.is_ok_and(|tables: i64| tables == 2)
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

/// Renames the database and its companions out of the way. Only the newest that was set aside is kept: a cleaner that damages
/// one a day does not fill the disk.
fn set_aside(path: &Path) -> Result<PathBuf> {
    remove_aside(path);
    let stamp = micros(SystemTime::now());
    let aside = path.with_extension(format!("sqlite.damaged-{stamp}"));
    // The journal belongs to the database it was written for: beside a new one it would be replayed into it.
    for suffix in std::iter::once("").chain(COMPANIONS) {
        match std::fs::rename(companion(path, suffix), companion(&aside, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(companion(path, suffix).display(), &error));
            }
            _ => {}
        }
    }
    let _ = std::fs::remove_file(damage_mark(path));
    Ok(aside)
}

/// Removes what was set aside before. Best effort.
fn remove_aside(path: &Path) {
    let (Some(folder), Some(stem)) = (path.parent(), path.file_stem().and_then(|stem| stem.to_str())) else { return };
    let old = format!("{stem}.sqlite.damaged-");
    for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if file.file_name().to_str().is_some_and(|name| name.starts_with(&old)) {
            let _ = std::fs::remove_file(file.path());
        }
    }
}

fn failed(path: &Path, error: &rusqlite::Error) -> Error {
    Error::new(sound::kind(error), format!("the index {}: {error}", path.display()))
}

/// Microseconds since 1970; times before it are 0.
pub fn micros(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
