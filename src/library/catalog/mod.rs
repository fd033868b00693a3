//! The catalog of a library on this machine: the `SQLite` database that alone says which files there are, and which blobs
//! hold their bytes. Opening, schema, connections, transactions. What is asked and changed stands beside: `nodes`, `names`,
//! `list`, `chunks`, `tags`, `files`.
//! Never here: the blobs themselves, and what a mount makes of it all.
//!
//! Invariants:
//! - A row is written only after the bytes it names are synced; the catalog itself does not check that.
//! - A node is inline (its bytes are in its row) or has chunks; these lie gapless from byte 0 to its size, holes included.
//! - A blob that no row names any longer stands in `loose_blobs` from the transaction on that took the last one away.
//! - There is one writer, which holds the library's lock. Its changes are gathered in one open transaction that is
//!   committed, synced, by `flush`, and at last when it has grown; the writer itself sees them at once, others then.
//! - After a commit that failed nothing is changed any more: what the writer was told may be more than what is kept.

mod backup;
mod chunks;
mod files;
mod list;
mod names;
mod nodes;
mod recut;
mod salvage;
mod schema;
mod tags;

use std::cell::Cell;
use std::fs::File;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, MutexGuard};
use rusqlite::{Connection, OpenFlags};

use super::Cut;
use crate::error::{Error, Kind, Result};
use crate::lock::{self, Lock};
use crate::modes;
use crate::sqlite::{self, Readers, Tuning};
use crate::sys;
use crate::timing::Timing;

pub use backup::{Coming, copy, daily};
pub use chunks::{ChunkRow, LooseBlob, NamedChunk, UsedBlob};
pub use files::Placed;
pub use names::{Entry, NAMES_PAGE};
pub use nodes::{FileNode, InlineState, Node, NodeKind};
pub use recut::Misplaced;
pub use salvage::{Salvaged, damaged, salvage};
pub use schema::{check_is_there, create, is_at, is_ours};

/// The top folder.
pub const ROOT: u64 = 1;
/// Changes of one transaction at most: what a crash can take back of what nobody asked to be kept, and what one commit costs.
pub const CHANGES_MAX: u32 = 1_000;
/// Inline bytes of one transaction at most: a commit fits into the room that is reserved for it.
const TRANSACTION_BYTES_MAX: u64 = 4 << 20;
/// Kept on the disk for the journal: a full disk must not make a commit fail. The largest transaction, and as much again
/// until the next checkpoint.
const JOURNAL_RESERVE_BYTES: u64 = 16 << 20;
/// Of what is free on a small disk, no more than this part is kept for it.
const JOURNAL_RESERVE_PART: u64 = 8;
/// What is called so in a library's folder is the library's.
const OURS: [&str; 6] = ["lock", "catalog.sqlite", "blobs", "scratch", "quarantine", "backups"];
/// And the journals that `SQLite` keeps beside the catalog.
const JOURNALS: [&str; 2] = ["catalog.sqlite-wal", "catalog.sqlite-shm"];
/// A statement waits this long for others (a checkpoint, a reader of another process) before it gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// So much of a catalog is read ahead: a million small files and what is known of them is about half of it.
const READ_AHEAD_BYTES_MAX: u64 = 1 << 30;
/// Of that, at once.
const READ_AHEAD_PIECE_BYTES: usize = 1 << 20;
/// What a reading connection is worth.
const READING: Tuning = Tuning { busy_timeout: BUSY_TIMEOUT, cache_kib: 4 << 10, statements: 64 };
/// What the writing connection is worth: it keeps more pages than a transaction changes, so that nothing of one is written
/// before its commit.
const WRITING: Tuning = Tuning { busy_timeout: BUSY_TIMEOUT, cache_kib: 32 << 10, statements: 128 };

/// The open database.
pub struct Catalog {
    dir: PathBuf,
    path: PathBuf,
    cut: Cut,
    // `None` of a catalog that is only looked at. Guards the writing connection and its open transaction. Taken alone;
    // syncs of the database and deletions of blobs happen under it.
    writer: Option<Mutex<Writer>>,
    // Number of the transaction that was begun last, and of the last one that is durable: with equal ones nothing is open.
    begun: AtomicU64,
    committed: AtomicU64,
    readers: Readers,
    commits: Timing,
    // Of who writes to the library.
    _lock: Option<Lock>,
}

struct Writer {
    connection: Connection,
    changes: u32,
    // Of these, sweeps: they take no use of a blob away.
    sweeps: u32,
    bytes: u64,
    // Why nothing is changed any more.
    failed: Option<Error>,
}

impl Catalog {
    /// Opens the library in `dir` for the one process that writes to it. `Missing` if it is not one, `Busy` if another
    /// process writes to it, `Unsupported` if it is newer than this program, `Corrupt` if it is damaged.
    pub fn open(dir: &Path) -> Result<Self> {
        schema::check_is_there(dir)?;
        let lock = take_lock(dir)?;
        let path = schema::path(dir);
        let size = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        let connection =
            sqlite::open(&path, OpenFlags::SQLITE_OPEN_READ_WRITE, WRITING).map_err(|error| failed(&path, &error))?;
        // Nothing is written to a database of another program, or of a newer one.
        schema::check(&connection, &path)?;
        mend_modes(dir);
        let tune = || -> rusqlite::Result<()> {
            connection.pragma_update(None, "journal_mode", "wal")?;
            connection.pragma_update(None, "synchronous", "full")?;
            connection.pragma_update(None, "cache_spill", "off")?;
            // What a savepoint may have to put back; on the disk it would be written for every change.
            connection.pragma_update(None, "temp_store", "memory")
        };
        tune().map_err(|error| failed(&path, &error))?;
        schema::quick_check(&connection, &path, size)?;
        schema::add_indexes(&connection).map_err(|error| failed(&path, &error))?;
        let cut = schema::cut(&connection, &path)?;
        let writer = Writer { connection, changes: 0, sweeps: 0, bytes: 0, failed: None };
        let catalog = Self::with(dir, Some(writer), cut, Some(lock));
        catalog.drop_unlinked()?;
        catalog.flush()?;
        reserve_journal(&catalog.path);
        Ok(catalog)
    }

    /// Opens it for looking only, beside whoever writes to it.
    pub fn open_to_look(dir: &Path) -> Result<Self> {
        schema::check_is_there(dir)?;
        let path = schema::path(dir);
        let reader = sqlite::open_reader(&path, READING).map_err(|error| failed(&path, &error))?;
        schema::check(&reader, &path)?;
        mend_modes(dir);
        let cut = schema::cut(&reader, &path)?;
        Ok(Self::with(dir, None, cut, None))
    }

    fn with(dir: &Path, writer: Option<Writer>, cut: Cut, lock: Option<Lock>) -> Self {
        let path = schema::path(dir);
        Self {
            dir: dir.to_owned(),
            readers: Readers::new(&path, READING),
            path,
            cut,
            writer: writer.map(Mutex::new),
            begun: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            commits: Timing::default(),
            _lock: lock,
        }
    }

    /// Where the library is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How files are cut here; set when the library was made.
    pub fn cut(&self) -> Cut {
        self.cut
    }

    /// Whether this process may change it.
    pub fn is_writer(&self) -> bool {
        self.writer.is_some()
    }

    /// Has the system hold the catalog as far as it likes, until it is to stop: who asks for anything then need not wait for
    /// the disk, several times for each file.
    pub fn read_ahead(&self, mut goes_on: impl FnMut() -> bool) -> Result<()> {
        let failed = |error: std::io::Error| Error::io(self.path.display(), &error);
        // Never closed: whichever descriptor of a file a process closes, the system drops all its locks of it, and those that
        // SQLite holds are among them.
        let file = ManuallyDrop::new(File::open(&self.path).map_err(failed)?);
        let mut piece = vec![0; READ_AHEAD_PIECE_BYTES];
        let mut at = 0;
        while at < READ_AHEAD_BYTES_MAX && goes_on() {
            match file.read_at(&mut piece, at).map_err(failed)? {
                0 => break,
                count => at += count as u64,
            }
        }
        Ok(())
    }

    /// Asks something. The writer's own changes are seen, durable or not.
    pub fn read<T, E: From<Error>>(
        &self,
        query: impl FnOnce(&View<'_>) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        if let Some(writer) = &self.writer
            && self.has_changes()
        {
            let writer = writer.lock();
            return query(&View { connection: &writer.connection, path: &self.path });
        }
        let connection = self.readers.take().map_err(|error| failed(&self.path, &error))?;
        let answer = query(&View { connection: &connection, path: &self.path });
        self.readers.put_back(connection);
        answer
    }

    /// Asks several things of one state of the catalog, as others have committed it.
    pub fn read_state<T, E: From<Error>>(
        &self,
        query: impl FnOnce(&View<'_>) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        self.read(|view| {
            // The writer's own transaction is one state already.
            let is_alone = view.connection.is_autocommit();
            if is_alone {
                view.run(|connection| connection.execute_batch("BEGIN"))?;
            }
            let answer = query(view);
            if is_alone {
                view.run(|connection| connection.execute_batch("ROLLBACK"))?;
            }
            answer
        })
    }

    /// Looks at every page of the database, however large it is. `Corrupt` if one is damaged.
    pub fn check(&self) -> Result<()> {
        self.read(|view| schema::check_all(view.connection, view.path))
    }

    /// Changes something: all of it, or if `change` fails nothing. It is durable after the next [`Catalog::flush`].
    pub fn change<T, E: From<Error>>(
        &self,
        change: impl FnOnce(&Change<'_>) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let mut writer = self.writer()?;
        self.change_with(&mut writer, change)
    }

    fn change_with<T, E: From<Error>>(
        &self,
        writer: &mut Writer,
        change: impl FnOnce(&Change<'_>) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        if let Some(error) = &writer.failed {
            return Err(error.clone().into());
        }
        if !self.has_changes() {
            writer.connection.execute_batch("BEGIN IMMEDIATE").map_err(|error| failed(&self.path, &error))?;
            self.begun.fetch_add(1, Ordering::Release);
        }
        let weight = Cell::new(0);
        let step = |sql: &str| writer.connection.prepare_cached(sql).and_then(|mut step| step.execute([])).map(drop);
        let savepoint =
            |steps: &[&str]| steps.iter().try_for_each(|sql| step(sql)).map_err(|error| failed(&self.path, &error));
        savepoint(&["SAVEPOINT change"])?;
        let view = View { connection: &writer.connection, path: &self.path };
        let answer = change(&Change { view, weight: &weight });
        let ended =
            savepoint(if answer.is_ok() { &["RELEASE change"] } else { &["ROLLBACK TO change", "RELEASE change"] });
        if writer.connection.is_autocommit() {
            // An error took the whole transaction back, with changes that others were told of.
            let why = ended.err().unwrap_or_else(|| Error::new(Kind::Local, "its transaction was taken back"));
            return Err(give_up(writer, &why).into());
        }
        ended?;
        writer.changes += 1;
        writer.bytes += weight.get();
        if writer.changes >= CHANGES_MAX || writer.bytes >= TRANSACTION_BYTES_MAX {
            self.commit(writer)?;
        }
        answer
    }

    /// Returns when every change that was made before the call is durable. Several callers share one sync.
    pub fn flush(&self) -> Result<()> {
        let wanted = self.begun.load(Ordering::Acquire);
        if self.committed.load(Ordering::Acquire) >= wanted {
            return Ok(());
        }
        let mut writer = self.writer()?;
        if self.committed.load(Ordering::Acquire) >= wanted {
            return Ok(());
        }
        self.commit(&mut writer)
    }

    /// How often kept statements of the connections that nobody uses at the moment were planned anew: about 0.
    pub fn replans(&self) -> u64 {
        let writer = self.writer.as_ref().and_then(Mutex::try_lock);
        writer.map_or(0, |writer| sys::statement_replans(&writer.connection)) + self.readers.replans()
    }

    /// How long commits took, each with its sync.
    pub fn commits(&self) -> &Timing {
        &self.commits
    }

    /// Bytes of its write-ahead log: 0 where there is none.
    pub fn wal_bytes(&self) -> u64 {
        let [log, _] = JOURNALS;
        std::fs::metadata(self.dir.join(log)).map_or(0, |log| log.len())
    }

    /// Whether there are changes that are not durable yet.
    pub fn has_changes(&self) -> bool {
        self.committed.load(Ordering::Acquire) < self.begun.load(Ordering::Acquire)
    }

    fn commit(&self, writer: &mut Writer) -> Result<()> {
        if let Some(error) = &writer.failed {
            return Err(error.clone());
        }
        if let Err(error) = self.commits.of(|| writer.connection.execute_batch("COMMIT")) {
            return Err(give_up(writer, &failed(&self.path, &error)));
        }
        writer.changes = 0;
        writer.sweeps = 0;
        writer.bytes = 0;
        self.committed.store(self.begun.load(Ordering::Acquire), Ordering::Release);
        Ok(())
    }

    fn writer(&self) -> Result<MutexGuard<'_, Writer>> {
        let read_only =
            || Error::new(Kind::Denied, format!("the library {} is open for reading only", self.dir.display()));
        self.writer.as_ref().map(Mutex::lock).ok_or_else(read_only)
    }
}

impl Drop for Catalog {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            log::error!("{error}");
        }
        let Some(writer) = &self.writer else { return };
        // The catalog is one file then, as people copy it.
        self.readers.close();
        match sqlite::fold_in(&writer.lock().connection) {
            Ok(true) => {}
            Ok(false) => log::debug!("{}: another process reads: its journal stays beside it", self.path.display()),
            Err(error) => log::warn!("{}: its journal stays beside it: {error}", self.path.display()),
        }
    }
}

/// What can be asked of the catalog, in one state of it.
pub struct View<'a> {
    connection: &'a Connection,
    path: &'a Path,
}

impl View<'_> {
    fn run<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        query(self.connection).map_err(|error| failed(self.path, &error))
    }

    /// What only damage, or another program, could have written.
    fn damaged(&self, what: &str) -> Error {
        Error::new(Kind::Corrupt, format!("the catalog {} is damaged: {what}", self.path.display()))
    }
}

/// A change under way: what it has changed so far is seen by what it asks.
pub struct Change<'a> {
    view: View<'a>,
    // Bytes it adds to the transaction, beyond small rows.
    weight: &'a Cell<u64>,
}

impl<'a> Deref for Change<'a> {
    type Target = View<'a>;

    fn deref(&self) -> &View<'a> {
        &self.view
    }
}

impl Change<'_> {
    fn weighs(&self, bytes: usize) {
        self.weight.set(self.weight.get() + bytes as u64);
    }
}

/// Nothing is changed from now on: programs were told of changes that are lost.
fn give_up(writer: &mut Writer, why: &Error) -> Error {
    let message =
        format!("{why}; the latest changes are lost, and none is taken any more until the library is opened again");
    let error = Error::new(why.kind(), message);
    log::error!("{error}");
    writer.failed = Some(error.clone());
    if !writer.connection.is_autocommit() {
        let _ = writer.connection.execute_batch("ROLLBACK");
    }
    error
}

/// Opens the library in `dir` to its group, to be read. A folder that holds other things, too, stays as it is.
pub fn set_group_read(dir: &Path) -> Result<()> {
    schema::check_is_there(dir)?;
    let path = schema::path(dir);
    let reader = sqlite::open_reader(&path, READING).map_err(|error| failed(&path, &error))?;
    schema::check(&reader, &path)?;
    drop(reader);
    if holds_library_alone(dir) {
        let set = modes::set_group_read(dir, &OURS, true);
        return set.map_err(|error| Error::io(format!("opening {} to its group", dir.display()), &error));
    }
    log::warn!(
        "{}: the folder holds files that are not the library's, so its mode stays: nothing is opened to the group",
        dir.display()
    );
    Ok(())
}

/// Closes to others what an earlier version left open, in a folder that is known to be a library. Where other things are,
/// too, only what is the library's by its very name.
fn mend_modes(dir: &Path) {
    if holds_library_alone(dir) {
        modes::mend(dir, &OURS);
    } else {
        modes::mend_within(dir, &OURS);
        modes::mend_within(dir, &JOURNALS);
    }
}

fn holds_library_alone(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| {
        entries.all(|entry| entry.is_ok_and(|entry| modes::is_ours(&entry.file_name(), &OURS)))
    })
}

/// One process writes to a library.
fn take_lock(dir: &Path) -> Result<Lock> {
    let Some(mut lock) = Lock::take(dir)? else {
        let message = format!("the library {} is open for writing by {}", dir.display(), lock::holder(dir));
        return Err(Error::new(Kind::Busy, message));
    };
    // On a full disk it can still be emptied.
    let _ = lock.sign(dir).inspect_err(|error| log::debug!("{error}"));
    Ok(lock)
}

/// Takes room on the disk for the journal now, so that a commit finds it later. Best effort: not every filesystem can.
fn reserve_journal(path: &Path) {
    let mut journal = path.as_os_str().to_owned();
    journal.push("-wal");
    let reserve = || -> std::io::Result<()> {
        // SQLite's locks are on other files: closing this one drops none.
        let file = File::options().write(true).open(&journal)?;
        let reserve = JOURNAL_RESERVE_BYTES.min(crate::sys::free_bytes(&file)? / JOURNAL_RESERVE_PART);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, reserve)?;
        Ok(())
    };
    if let Err(error) = reserve() {
        log::debug!("no room was reserved for {}: {error}", Path::new(&journal).display());
    }
}

fn failed(path: &Path, error: &rusqlite::Error) -> Error {
    Error::new(sqlite::kind(error), format!("the catalog {}: {error}", path.display()))
}

/// All times here: those `SQLite` can't hold become the nearest one it can.
fn nanos(time: SystemTime) -> i64 {
    sqlite::nanos(time).unwrap_or(if time < SystemTime::UNIX_EPOCH { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests;
