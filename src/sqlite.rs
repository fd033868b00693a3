//! What the databases of the house have in common: reading connections, a look for damage, what an error means, and
//! integers and times as `SQLite` stores them.
//! Never here: tables, statements, and how much memory or patience one database is worth.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Result};

use crate::error::Kind;
use crate::sys;

/// Idle reading connections kept; more are opened under load and closed after.
const READERS_MAX: usize = 8;
/// A database up to this size is checked page by page when it is opened for writing (about 100 ms); a larger one where it
/// is used.
const QUICK_CHECK_BYTES_MAX: u64 = 64 << 20;

/// An end waits this long for others who read; the journal that stays then is whole, too.
const FOLD_IN_TIMEOUT: Duration = Duration::from_secs(2);

/// What one connection may take.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// A statement waits this long for others before it gives up.
    pub busy_timeout: Duration,
    /// Pages that a connection keeps in memory.
    pub cache_kib: i64,
    /// Statements that it keeps prepared.
    pub statements: usize,
}

/// The reading connections of a database: each is taken out, used, put back.
pub struct Readers {
    path: PathBuf,
    tuning: Tuning,
    idle_out: Receiver<Connection>,
    idle_in: Sender<Connection>,
}

impl Readers {
    /// Opens none before one is wanted.
    pub fn new(path: &Path, tuning: Tuning) -> Self {
        let (idle_in, idle_out) = bounded(READERS_MAX);
        Self { path: path.to_owned(), tuning, idle_out, idle_in }
    }

    /// An idle connection, or a new one.
    pub fn take(&self) -> Result<Connection> {
        self.idle_out.try_recv().or_else(|_| open_reader(&self.path, self.tuning))
    }

    /// Keeps a connection for the next read.
    pub fn put_back(&self, connection: Connection) {
        // A full pool means enough idle ones: this one closes.
        let _ = self.idle_in.try_send(connection);
    }

    /// Closes the idle connections, as before an end: while one is open, the journal stays.
    pub fn close(&self) {
        self.idle_out.try_iter().for_each(drop);
    }

    /// How often the kept statements of the idle connections were planned anew: about 0.
    pub fn replans(&self) -> u64 {
        let idle: Vec<Connection> = self.idle_out.try_iter().take(READERS_MAX).collect();
        let replans = idle.iter().map(sys::statement_replans).sum();
        for connection in idle {
            self.put_back(connection);
        }
        replans
    }
}

/// Opens a database. Every connection of this program is opened here.
pub fn open(path: &Path, flags: OpenFlags, tuning: Tuning) -> Result<Connection> {
    // One thread at a time has a connection: it needs no lock of its own.
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(tuning.busy_timeout)?;
    // A statement is planned once. Otherwise `SQLite` plans it anew whenever its values were cleared, which happens each
    // time a kept statement is put back: that costs more than most of our queries.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // Not mapped into memory, though that is faster: a disk error would then be a signal that ends the process.
    connection.pragma_update(None, "cache_size", -tuning.cache_kib)?;
    connection.set_prepared_statement_cache_capacity(tuning.statements);
    Ok(connection)
}

/// Opens a database for reading, beside the process that writes to it.
pub fn open_reader(path: &Path, tuning: Tuning) -> Result<Connection> {
    open(path, OpenFlags::SQLITE_OPEN_READ_ONLY, tuning)
}

/// Brings all that is in the journal into the database file, which is then whole without it: a copy of that one file is a
/// copy of all. `false`: another process reads it, and the journal stays.
pub fn fold_in(connection: &Connection) -> Result<bool> {
    connection.busy_timeout(FOLD_IN_TIMEOUT)?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0)).map(|busy| busy == 0)
}

/// What is wrong with a database of that size, where all of it can be looked at in a moment.
pub fn damage(connection: &Connection, size_bytes: u64) -> Result<Option<String>> {
    if size_bytes > QUICK_CHECK_BYTES_MAX { Ok(None) } else { damage_anywhere(connection) }
}

/// What is wrong with a database, if anything is: every page of it is read.
pub fn damage_anywhere(connection: &Connection) -> Result<Option<String>> {
    let verdict: String = connection.pragma_query_value(None, "quick_check", |row| row.get(0))?;
    Ok((verdict != "ok").then_some(verdict))
}

/// What callers treat apart.
pub fn kind(error: &rusqlite::Error) -> Kind {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Kind::Corrupt,
        Some(ErrorCode::DiskFull) => Kind::Full,
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => Kind::Denied,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Kind::Busy,
        _ => Kind::Local,
    }
}

/// As `SQLite` stores integers. Sizes and offsets are checked to fit at the door.
pub fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Back from `SQLite`; a negative number is only ever damage, and an empty range follows from it.
pub fn loaded(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Nanoseconds since 1970; `None` for times beyond the years 1678 to 2262.
pub fn nanos(time: SystemTime) -> Option<i64> {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).ok(),
        Err(before) => i64::try_from(before.duration().as_nanos()).ok().map(|nanos| -nanos),
    }
}

/// Back from nanoseconds.
pub fn time(nanos: i64) -> SystemTime {
    let since = Duration::from_nanos(nanos.unsigned_abs());
    if nanos >= 0 { SystemTime::UNIX_EPOCH + since } else { SystemTime::UNIX_EPOCH - since }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TUNING: Tuning = Tuning { busy_timeout: Duration::from_secs(1), cache_kib: 100, statements: 4 };

    /// How often a statement that is used with a hundred values, and put back in between, is planned anew.
    fn replans_of_a_kept_statement(connection: &Connection) -> u64 {
        connection
            .execute_batch("CREATE TABLE t (a INTEGER, b INTEGER); CREATE INDEX t_ones ON t (b) WHERE a = 1")
            .unwrap();
        for value in 0..100 {
            let mut query = connection.prepare_cached("SELECT b FROM t WHERE a = ?1 AND b < ?2").unwrap();
            assert!(!query.exists([value, value]).unwrap());
        }
        sys::statement_replans(connection)
    }

    #[test]
    fn the_journal_is_folded_in_unless_another_reads() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("database"), dir.path().join("copy"));
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let writer = open(&path, flags, TUNING).unwrap();
        writer.pragma_update(None, "journal_mode", "wal").unwrap();
        writer.execute_batch("CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (7)").unwrap();
        let readers = Readers::new(&path, TUNING);
        let reader = readers.take().unwrap();
        reader.execute_batch("BEGIN; SELECT * FROM t").unwrap();
        writer.execute_batch("INSERT INTO t VALUES (8)").unwrap();
        assert!(!fold_in(&writer).unwrap());
        reader.execute_batch("COMMIT").unwrap();
        readers.put_back(reader);
        assert!(fold_in(&writer).unwrap());
        std::fs::copy(&path, &copy).unwrap();
        let sum = |path| open_reader(path, TUNING).unwrap().query_row("SELECT sum(a) FROM t", [], |row| row.get(0));
        assert_eq!(sum(&copy), Ok(15));
        readers.close();
        drop(writer);
        assert!(!dir.path().join("database-wal").exists());
    }

    #[test]
    fn a_kept_statement_is_planned_once() {
        let dir = tempfile::tempdir().unwrap();
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let ours = open(&dir.path().join("ours"), flags, TUNING).unwrap();
        assert_eq!(replans_of_a_kept_statement(&ours), 0);
        // Else the count would say nothing.
        let plain = Connection::open(dir.path().join("plain")).unwrap();
        assert!(replans_of_a_kept_statement(&plain) > 50);
    }
}
