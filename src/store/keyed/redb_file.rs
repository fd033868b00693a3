//! A home in one file of this machine, through `redb`: what a library has that was given no server. Several processes may
//! have it open; one writes at a time.
//! Never here: what is in it.

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use redb::{
    Builder, ConcurrencyMode, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, Table,
    TableDefinition, TableError, TransactionError, WriteTransaction,
};

use super::{IsValue, Key, Keyed, LIMITS, Limits, Step, Swap, There, at_least, missing, within};
use crate::error::{Error, Kind, Result};
use crate::modes::{self, Modes};
use crate::range::ByteRange;

/// Values in pieces, by key and number.
const PIECES: TableDefinition<'_, (&str, u32), &[u8]> = TableDefinition::new("pieces");
/// Each key with the size of its value: a page holds a piece with its key, and a listing should not read them.
const SIZES: TableDefinition<'_, &str, u64> = TableDefinition::new("sizes");

/// A page is a power of two, and holds at least a piece with its key: chunks of 5 MiB would take 8 MiB each.
const PIECE_BYTES: usize = (1 << 20) - (8 << 10);
/// Pages kept in memory, those of a chunk among them: more would not make a put or a film faster, and it is to stay small.
const CACHE_BYTES: usize = 8 << 20;
/// Another process's transaction is over after a few of these.
const WRITER_POLL: Duration = Duration::from_millis(2);

/// The file, open.
pub(super) struct RedbFile {
    database: Database,
    described: String,
    path: PathBuf,
    answer_timeout: Duration,
}

impl RedbFile {
    /// The file at `path`; made if it may be (`is_new`), else `Missing` unless it is there.
    pub fn open(path: &Path, is_new: bool, described: String, answer_timeout: Duration) -> Result<Self> {
        if path.is_dir() {
            return Err(Error::new(Kind::Missing, format!("{}: a folder, not a file", path.display())));
        }
        if is_new {
            Modes::OWNER.make_file(path).map_err(|error| Error::io(path.display(), &error))?;
        }
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES).set_concurrency_mode(ConcurrencyMode::MultiWriter);
        let opened = if is_new { builder.create(path) } else { builder.open(path) };
        let database = opened.map_err(|error| match error {
            DatabaseError::Storage(error) => from_storage(path, &error),
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
                Error::new(Kind::Busy, format!("{}: another program has it open: {error}", path.display()))
            }
            error => Error::new(Kind::Unsupported, format!("{}: {error}", path.display())),
        })?;
        let file = Self { database, described, path: path.to_owned(), answer_timeout };
        if is_new {
            // Readers find the tables there.
            file.write(|_| Ok(()))?;
        }
        Ok(file)
    }

    fn read<T>(&self, work: impl FnOnce(&redb::ReadTransaction) -> std::result::Result<T, redb::Error>) -> Result<T> {
        let transaction = self.database.begin_read().map_err(|error| self.failed(error.into()))?;
        work(&transaction).map_err(|error| self.failed(error))
    }

    /// One transaction; it lasts when this returns.
    fn write(&self, work: impl FnOnce(&WriteTransaction) -> std::result::Result<(), redb::Error>) -> Result<()> {
        let transaction = self.begin_write()?;
        let worked = (|| {
            drop((transaction.open_table(PIECES)?, transaction.open_table(SIZES)?));
            work(&transaction)?;
            Ok(transaction.commit()?)
        })();
        worked.map_err(|error| self.failed(error))
    }

    /// Waits while another one writes, within reason: a process that was stopped holds its lock.
    fn begin_write(&self) -> Result<WriteTransaction> {
        let since = Instant::now();
        loop {
            match self.database.try_begin_write() {
                Err(TransactionError::WouldBlock) if since.elapsed() < self.answer_timeout => {
                    std::thread::sleep(WRITER_POLL);
                }
                Err(TransactionError::WouldBlock) => {
                    let (path, waited) = (self.path.display(), self.answer_timeout.as_secs_f64());
                    let message = format!("{path}: another program has been writing to it for {waited} s");
                    return Err(Error::new(Kind::Busy, message));
                }
                other => return other.map_err(|error| self.failed(error.into())),
            }
        }
    }

    fn failed(&self, error: redb::Error) -> Error {
        match error {
            redb::Error::Io(error) => Error::io(self.path.display(), &error),
            redb::Error::Corrupted(what) => Error::new(Kind::Corrupt, format!("{}: {what}", self.path.display())),
            error => Error::new(Kind::Local, format!("{}: {error}", self.path.display())),
        }
    }
}

impl Keyed for RedbFile {
    fn describe(&self) -> &str {
        &self.described
    }

    fn limits(&self) -> &Limits {
        &LIMITS
    }

    fn mend_modes(&self, _is_value: &IsValue<'_>) {
        modes::mend(&self.path, &[]);
    }

    fn get(&self, key: &str, range: ByteRange) -> Result<Bytes> {
        let found = self.read(|transaction| {
            let sizes = match transaction.open_table(SIZES) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                table => table?,
            };
            value_within(&transaction.open_table(PIECES)?, &sizes, key, range)
        })?;
        found.ok_or_else(|| missing(&self.described, key))
    }

    fn put(&self, entries: &[(String, Bytes)]) -> Result<()> {
        self.write(|transaction| {
            let (mut pieces, mut sizes) = (transaction.open_table(PIECES)?, transaction.open_table(SIZES)?);
            entries.iter().try_for_each(|(key, value)| insert(&mut pieces, &mut sizes, key, value))
        })
    }

    fn there(&self, keys: &[String]) -> Result<Vec<There>> {
        self.read(|transaction| {
            let sizes = match transaction.open_table(SIZES) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(vec![There::Nothing; keys.len()]),
                table => table?,
            };
            let there = |key: &String| {
                if sizes.get(key.as_str())?.is_some() {
                    return Ok(There::Value);
                }
                let below = format!("{key}/");
                let first = sizes.range::<&str>(below.as_str()..)?.next().transpose()?;
                let is_below = first.is_some_and(|(key, _)| key.value().starts_with(&below));
                Ok(if is_below { There::Folder } else { There::Nothing })
            };
            keys.iter().map(there).collect()
        })
    }

    fn delete(&self, keys: &[String]) -> Result<()> {
        self.write(|transaction| {
            let (mut pieces, mut sizes) = (transaction.open_table(PIECES)?, transaction.open_table(SIZES)?);
            keys.iter().try_for_each(|key| remove(&mut pieces, &mut sizes, key))
        })
    }

    fn swap(&self, swaps: &[Swap]) -> Result<Vec<bool>> {
        let mut done = Vec::new();
        self.write(|transaction| {
            let (mut pieces, mut sizes) = (transaction.open_table(PIECES)?, transaction.open_table(SIZES)?);
            for swap in swaps {
                let step = swap.step(value_within(&pieces, &sizes, &swap.key, swap.seen.range)?.as_deref());
                match &swap.value {
                    _ if step != Step::Write => {}
                    Some(value) => insert(&mut pieces, &mut sizes, &swap.key, value)?,
                    None => remove(&mut pieces, &mut sizes, &swap.key)?,
                }
                done.push(step != Step::Leave);
            }
            Ok(())
        })?;
        Ok(done)
    }

    fn list(&self, prefix: &str, from: Bound<&str>, limit: usize) -> Result<Vec<Key>> {
        self.read(|transaction| {
            let table = match transaction.open_table(SIZES) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                table => table?,
            };
            let mut keys = Vec::new();
            for row in table.range::<&str>((at_least(prefix, from), Bound::Unbounded))? {
                let (key, size) = row?;
                if keys.len() >= limit || !key.value().starts_with(prefix) {
                    break;
                }
                keys.push(Key { key: key.value().to_owned(), size_bytes: Some(size.value()) });
            }
            Ok(keys)
        })
    }
}

/// What of a value lies within `range`; nothing without a value.
fn value_within(
    pieces: &impl ReadableTable<(&'static str, u32), &'static [u8]>,
    sizes: &impl ReadableTable<&'static str, u64>,
    key: &str,
    range: ByteRange,
) -> std::result::Result<Option<Bytes>, redb::Error> {
    let Some(size) = sizes.get(key)?.map(|size| size.value()) else { return Ok(None) };
    let (end, piece_bytes) = (range.end.min(size), PIECE_BYTES as u64);
    let mut bytes = BytesMut::with_capacity(end.saturating_sub(range.start) as usize);
    for n in range.start / piece_bytes..end.div_ceil(piece_bytes) {
        let start = n * piece_bytes;
        let part = ByteRange { start: range.start.saturating_sub(start), end: end - start };
        if let Some(piece) = pieces.get((key, n as u32))? {
            bytes.extend_from_slice(within(piece.value(), part));
        }
    }
    Ok(Some(bytes.freeze()))
}

fn insert(
    pieces: &mut Table<'_, (&'static str, u32), &'static [u8]>,
    sizes: &mut Table<'_, &'static str, u64>,
    key: &str,
    value: &[u8],
) -> std::result::Result<(), redb::Error> {
    let before = sizes.insert(key, value.len() as u64)?.map_or(0, |size| size.value());
    let mut count = 0;
    for piece in value.chunks(PIECE_BYTES) {
        pieces.insert((key, count), piece)?;
        count += 1;
    }
    for n in count..piece_count(before) {
        pieces.remove((key, n))?;
    }
    Ok(())
}

fn remove(
    pieces: &mut Table<'_, (&'static str, u32), &'static [u8]>,
    sizes: &mut Table<'_, &'static str, u64>,
    key: &str,
) -> std::result::Result<(), redb::Error> {
    let size = sizes.remove(key)?.map_or(0, |size| size.value());
    for n in 0..piece_count(size) {
        pieces.remove((key, n))?;
    }
    Ok(())
}

fn piece_count(size_bytes: u64) -> u32 {
    size_bytes.div_ceil(PIECE_BYTES as u64) as u32
}

fn from_storage(path: &Path, error: &StorageError) -> Error {
    match error {
        StorageError::Io(error) => Error::io(path.display(), error),
        error => Error::new(Kind::Corrupt, format!("{}: {error}", path.display())),
    }
}
