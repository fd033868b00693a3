//! Writing the index: entries, batches of chunks, merges, removals, times of use. Each call is one transaction.
//! Never here: reading beyond what a write needs, and the order against the data's own sync (see `keeper`).

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{ChunkRow, Index};
use crate::digest::Digest;
use crate::error::Result;
use crate::range::ByteRange;
use crate::sqlite::{loaded, stored};

/// Chunks removed in one transaction when a whole entry goes.
const REMOVE_BATCH: usize = 1_000;

/// What tells entries apart.
#[derive(Clone, Copy, Debug)]
pub struct EntryKey<'a> {
    /// The source.
    pub origin: &'a str,
    /// Relative to it.
    pub path: &'a str,
    /// As [`crate::store::Version`] stores itself.
    pub version: &'a str,
}

/// A chunk whose bytes are synced, to be recorded.
#[derive(Clone, Copy, Debug)]
pub struct NewChunk {
    /// Whose bytes.
    pub entry_id: i64,
    /// Which.
    pub range: ByteRange,
    /// Their hash.
    pub digest: Digest,
    /// Players open the film with some of them.
    pub is_opening: bool,
}

/// A slot that was read.
#[derive(Clone, Copy, Debug)]
pub struct Touch {
    /// Whose.
    pub entry_id: i64,
    /// The slot.
    pub slot: ByteRange,
    /// Microseconds since 1970.
    pub at: i64,
}

impl Index {
    /// Makes the entry, or finds it if it has come to be meanwhile. Answers `(entry_id, chunk_size_bytes)`.
    pub fn add_entry(
        &self,
        key: &EntryKey<'_>,
        size_bytes: u64,
        chunk_size_bytes: u64,
        now: i64,
    ) -> Result<(i64, u64)> {
        self.write(|connection| {
            connection
                .prepare_cached(
                    "INSERT INTO cache_entries (origin, path, version, size_bytes, chunk_size, created_at, accessed_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)
                 ON CONFLICT (origin, path, version) DO UPDATE SET accessed_at = excluded.accessed_at
                 RETURNING entry_id, chunk_size",
                )?
                .query_row(
                    params![key.origin, key.path, key.version, stored(size_bytes), stored(chunk_size_bytes), now],
                    |row| Ok((row.get(0)?, loaded(row.get(1)?))),
                )
        })
    }

    /// The entry's file has grown into this version of this size. `false`: another entry is that version already.
    pub fn grow_entry(&self, entry_id: i64, key: &EntryKey<'_>, size_bytes: u64) -> Result<bool> {
        self.write(|connection| {
            connection
                .prepare_cached("UPDATE OR IGNORE cache_entries SET version = ?2, size_bytes = ?3 WHERE entry_id = ?1")?
                .execute(params![entry_id, key.version, stored(size_bytes)])
                .map(|rows| rows == 1)
        })
    }

    /// Takes an open entry over into a new index, with its id.
    pub fn adopt_entry(
        &self,
        entry_id: i64,
        key: &EntryKey<'_>,
        size_bytes: u64,
        chunk_size_bytes: u64,
        now: i64,
    ) -> Result<()> {
        self.write(|connection| {
            connection
                .prepare_cached(
                    "INSERT INTO cache_entries
                     (entry_id, origin, path, version, size_bytes, chunk_size, created_at, accessed_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)",
                )?
                .execute(params![
                    entry_id,
                    key.origin,
                    key.path,
                    key.version,
                    stored(size_bytes),
                    stored(chunk_size_bytes),
                    now
                ])
                .map(|_| ())
        })
    }

    /// Records a batch: all of it, or on an error nothing.
    pub fn record(&self, chunks: &[NewChunk], now: i64) -> Result<()> {
        self.write(|connection| {
            let mut insert = connection.prepare_cached(
                // Not REPLACE, which tells no trigger of what it takes out.
                "INSERT INTO cache_chunks (entry_id, start_byte, end_byte, sha256, accessed_at, keep)
                 VALUES (?1, ?2, ?3, ?4, ?5,
                         ?6 + 2 * coalesce((SELECT pinned FROM cache_entries WHERE entry_id = ?1), 0))
                 ON CONFLICT DO UPDATE SET end_byte = excluded.end_byte, sha256 = excluded.sha256,
                                           accessed_at = excluded.accessed_at, keep = keep | excluded.keep",
            )?;
            for chunk in chunks {
                let (start, end) = (stored(chunk.range.start), stored(chunk.range.end));
                insert.execute(params![
                    chunk.entry_id,
                    start,
                    end,
                    chunk.digest.as_bytes(),
                    now,
                    i64::from(chunk.is_opening)
                ])?;
            }
            Ok(())
        })
    }

    /// Replaces `parts`, which must be all rows of `merged.range` and lie gapless in it, by the one row `merged`.
    /// `false`, and nothing changed, when the index no longer holds exactly these.
    pub fn merge(&self, parts: &[ChunkRow], merged: &NewChunk, now: i64) -> Result<bool> {
        self.write(|connection| {
            let mut same = connection.prepare_cached(
                "SELECT 1 FROM cache_chunks WHERE entry_id = ?1 AND start_byte = ?2 AND end_byte = ?3 AND sha256 = ?4",
            )?;
            for part in parts {
                let (start, end) = (stored(part.range.start), stored(part.range.end));
                if !same.exists(params![part.entry_id, start, end, part.digest.as_bytes()])? {
                    return Ok(false);
                }
            }
            let (start, end) = (stored(merged.range.start), stored(merged.range.end));
            // Of rows of one entry, all are pinned or none is: the greatest says whether any opens the film.
            let keep: i64 = connection
                .prepare_cached(
                    "SELECT max(keep) FROM cache_chunks WHERE entry_id = ?1 AND start_byte >= ?2 AND start_byte < ?3",
                )?
                .query_row(params![merged.entry_id, start, end], |row| row.get(0))?;
            connection
                .prepare_cached(
                    "DELETE FROM cache_chunks WHERE entry_id = ?1 AND start_byte >= ?2 AND start_byte < ?3",
                )?
                .execute(params![merged.entry_id, start, end])?;
            connection.prepare_cached("INSERT INTO cache_chunks VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(params![
                merged.entry_id,
                start,
                end,
                merged.digest.as_bytes(),
                now,
                keep | i64::from(merged.is_opening)
            ])?;
            Ok(true)
        })
    }

    /// Players open the film with `range`: what is recorded of it is kept longer from now on.
    pub fn mark_opening(&self, entry_id: i64, slot_size: u64, range: ByteRange) -> Result<()> {
        self.write(|connection| {
            let slot_start = range.start - range.start % slot_size;
            connection
                .prepare_cached(
                    "UPDATE cache_chunks SET keep = keep | 1
                     WHERE entry_id = ?1 AND start_byte >= ?2 AND start_byte < ?3 AND end_byte > ?4 AND keep & 1 = 0",
                )?
                .execute(params![entry_id, stored(slot_start), stored(range.end), stored(range.start)])
                .map(|_| ())
        })
    }

    /// Pins an entry, or takes its pin back: with all its chunks, those of now and those to come.
    pub fn set_pinned(&self, entry_id: i64, is_pinned: bool) -> Result<()> {
        self.write(|connection| set_pinned(connection, entry_id, is_pinned))
    }

    /// Takes these rows out; rows that are gone already, or are others by now, are left alone.
    pub fn remove(&self, chunks: &[ChunkRow]) -> Result<()> {
        self.write(|connection| {
            let mut remove = connection
                .prepare_cached("DELETE FROM cache_chunks WHERE entry_id = ?1 AND start_byte = ?2 AND end_byte = ?3")?;
            for chunk in chunks {
                remove.execute(params![chunk.entry_id, stored(chunk.range.start), stored(chunk.range.end)])?;
            }
            Ok(())
        })
    }

    /// A pin goes from one entry to another.
    pub fn pass_pin_on(&self, from: i64, to: i64) -> Result<()> {
        self.write(|connection| {
            set_pinned(connection, from, false)?;
            set_pinned(connection, to, true)
        })
    }

    /// Takes an entry and all its chunks out, the entry last: a crash in between leaves a smaller entry. Answers the bytes of
    /// the chunks, each rounded up to whole `block` bytes.
    pub fn remove_entry(&self, entry_id: i64, block: u64) -> Result<u64> {
        let removed_bytes = self.remove_chunks(entry_id, block)?;
        self.write(|connection| {
            connection.execute("DELETE FROM cache_entries WHERE entry_id = ?1", [entry_id]).map(|_| removed_bytes)
        })
    }

    /// Takes all chunks of an entry out, in batches. Answers their bytes, each rounded up to whole `block` bytes.
    pub fn remove_chunks(&self, entry_id: i64, block: u64) -> Result<u64> {
        let mut removed_bytes = 0_u64;
        loop {
            let batch: Vec<i64> = self.write(|connection| {
                connection
                    .prepare_cached(&format!(
                        "DELETE FROM cache_chunks WHERE entry_id = ?1 AND start_byte IN
                         (SELECT start_byte FROM cache_chunks WHERE entry_id = ?1 LIMIT {REMOVE_BATCH})
                         RETURNING end_byte - start_byte"
                    ))?
                    .query_map([entry_id], |row| row.get(0))?
                    .collect()
            })?;
            for bytes in &batch {
                removed_bytes = removed_bytes.saturating_add(loaded(*bytes).next_multiple_of(block));
            }
            if batch.len() < REMOVE_BATCH {
                return Ok(removed_bytes);
            }
        }
    }

    /// Chunks whose entry is gone: none after a whole `remove_entry`, some after a crash within another program.
    pub fn remove_chunks_without_entry(&self) -> Result<()> {
        self.write(|connection| {
            connection
                .execute("DELETE FROM cache_chunks WHERE entry_id NOT IN (SELECT entry_id FROM cache_entries)", [])
                .map(|_| ())
        })
    }

    /// Notes when slots and their entries were last read.
    pub fn touch(&self, touches: &[Touch]) -> Result<()> {
        self.write(|connection| {
            let mut chunk = connection.prepare_cached(
                "UPDATE cache_chunks SET accessed_at = ?4
                 WHERE entry_id = ?1 AND start_byte >= ?2 AND start_byte < ?3",
            )?;
            let mut entry = connection
                .prepare_cached("UPDATE cache_entries SET accessed_at = max(accessed_at, ?2) WHERE entry_id = ?1")?;
            for touch in touches {
                chunk.execute(params![touch.entry_id, stored(touch.slot.start), stored(touch.slot.end), touch.at])?;
                entry.execute(params![touch.entry_id, touch.at])?;
            }
            Ok(())
        })
    }

    /// Bytes on disk that all rows stand for, each rounded up to whole `block` bytes.
    pub fn used_bytes(&self, block: u64) -> Result<u64> {
        let connection = self.writer();
        connection
            .query_row(
                "SELECT sum((end_byte - start_byte + ?1 - 1) / ?1 * ?1) FROM cache_chunks",
                [stored(block)],
                |row| row.get::<_, Option<i64>>(0),
            )
            .optional()
            .map(|sum| loaded(sum.flatten().unwrap_or(0)))
            .map_err(|error| self.failed(&error))
    }

    /// Runs `change` in one transaction on the writing connection.
    pub(super) fn write<T>(&self, change: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let mut connection = self.writer();
        let run = |connection: &mut Connection| -> rusqlite::Result<T> {
            let transaction = connection.transaction()?;
            let answer = change(&transaction)?;
            transaction.commit()?;
            Ok(answer)
        };
        run(&mut connection).map_err(|error| self.failed(&error))
    }
}

/// In a transaction: a pinned entry's chunks and the entry itself say the same.
fn set_pinned(connection: &Connection, entry_id: i64, is_pinned: bool) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE cache_entries SET pinned = ?2 WHERE entry_id = ?1")?
        .execute(params![entry_id, is_pinned])?;
    connection
        .prepare_cached("UPDATE cache_chunks SET keep = (keep & 1) + 2 * ?2 WHERE entry_id = ?1")?
        .execute(params![entry_id, is_pinned])?;
    Ok(())
}
