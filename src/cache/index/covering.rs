//! Reading the index: the covering query, pages of entries, the oldest chunks.
//! Never here: writing. Every query is bounded: by the range asked for, or by a page with a cursor.

use rusqlite::{OptionalExtension as _, Row, params};

use super::{ChunkRow, EntryKey, EntryRow, Index, Part};
use crate::digest::Digest;
use crate::error::Result;
use crate::range::ByteRange;
use crate::sqlite::{loaded, stored};

/// Most rows one page holds.
pub const PAGE_MAX: usize = 1_000;

/// Longest row there can be: the largest chunk size. Longer ones are damage, and would be read into memory.
pub(super) const CHUNK_BYTES_MAX: u64 = 64 << 20;

/// Backwards from the end of the range; whoever steps through it stops at the first row that starts at or before the
/// range. One descent into the tree, where finding that row first would take two.
pub(super) const COVERING: &str = "
    SELECT entry_id, start_byte, end_byte, sha256, accessed_at FROM cache_chunks
    WHERE entry_id = ?1 AND start_byte < ?2 ORDER BY start_byte DESC";

pub(super) const HELD: &str =
    "SELECT count(*), coalesce(sum(end_byte - start_byte), 0) FROM cache_chunks WHERE entry_id = ?1";

/// Along the index by age, so that it stops at its limit.
pub(super) const OLDEST: &str = "
    SELECT c.entry_id, c.start_byte, c.end_byte, c.sha256, c.accessed_at, e.chunk_size
    FROM cache_chunks c INDEXED BY cache_chunks_by_age
    JOIN cache_entries e ON e.entry_id = c.entry_id
    WHERE c.keep = ?1 ORDER BY c.accessed_at LIMIT ?2 OFFSET ?3";

const ENTRY_COLUMNS: &str = "entry_id, path, version, size_bytes, chunk_size, accessed_at, pinned";

impl Index {
    /// The recorded chunks that hold any byte of `range`, in order. It walks from the end of the range back to the
    /// greatest `start_byte` at or before it, so it costs O(log n + answer) however many rows stand around.
    pub fn covering(&self, entry_id: i64, range: ByteRange) -> Result<Vec<ChunkRow>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let mut covering = self.read(|connection| {
            let mut query = connection.prepare_cached(COVERING)?;
            let mut rows = query.query(params![entry_id, stored(range.end)])?;
            let mut covering = Vec::new();
            while let Some(row) = rows.next()? {
                // The last one may end before the range begins.
                covering.extend(chunk_row(row)?.filter(|chunk| !chunk.range.intersect(range).is_empty()));
                if row.get::<_, i64>(1)? <= stored(range.start) {
                    break;
                }
            }
            Ok(covering)
        })?;
        covering.reverse();
        Ok(covering)
    }

    /// The entry of one version of a path, if there is one.
    pub fn find_entry(&self, key: &EntryKey<'_>) -> Result<Option<EntryRow>> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {ENTRY_COLUMNS} FROM cache_entries WHERE origin = ?1 AND path = ?2 AND version = ?3"
                ))?
                .query_row(params![key.origin, key.path, key.version], entry_row)
                .optional()
        })
    }

    /// Entries of other versions of the same path.
    pub fn other_versions(&self, key: &EntryKey<'_>) -> Result<Vec<EntryRow>> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {ENTRY_COLUMNS} FROM cache_entries WHERE origin = ?1 AND path = ?2 AND version <> ?3
                     LIMIT {PAGE_MAX}"
                ))?
                .query_map(params![key.origin, key.path, key.version], entry_row)?
                .collect()
        })
    }

    /// A page of entries with ids above `after`, by id.
    pub fn entries(&self, after: i64) -> Result<Vec<EntryRow>> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {ENTRY_COLUMNS} FROM cache_entries WHERE entry_id > ?1 ORDER BY entry_id LIMIT {PAGE_MAX}"
                ))?
                .query_map([after], entry_row)?
                .collect()
        })
    }

    /// Whether an entry with this id exists.
    pub fn has_entry(&self, entry_id: i64) -> Result<bool> {
        self.read(|connection| {
            connection.prepare_cached("SELECT 1 FROM cache_entries WHERE entry_id = ?1")?.exists([entry_id])
        })
    }

    /// Whether it is pinned.
    pub fn is_pinned(&self, entry_id: i64) -> Result<bool> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT 1 FROM cache_entries WHERE entry_id = ?1 AND pinned = 1")?
                .exists([entry_id])
        })
    }

    /// The sizes of all pinned entries together, whatever is here of them.
    pub fn pinned_bytes(&self) -> Result<u64> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT coalesce(sum(size_bytes), 0) FROM cache_entries WHERE pinned = 1")?
                .query_row([], |row| row.get(0).map(loaded))
        })
    }

    /// Bytes of all chunks of pinned files.
    pub fn pinned_held_bytes(&self) -> Result<u64> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT coalesce(sum(end_byte - start_byte), 0) FROM cache_chunks WHERE keep >= 2")?
                .query_row([], |row| row.get(0).map(loaded))
        })
    }

    /// The origin whose files these are: of any entry, as a cache directory serves one source.
    pub fn origin(&self) -> Result<Option<String>> {
        self.read(|connection| {
            connection.query_row("SELECT origin FROM cache_entries LIMIT 1", [], |row| row.get(0)).optional()
        })
    }

    /// A page of an entry's chunks that start at or after `from`, in order.
    pub fn chunks(&self, entry_id: i64, from: u64) -> Result<Vec<ChunkRow>> {
        let rows = self.read(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT entry_id, start_byte, end_byte, sha256, accessed_at FROM cache_chunks
                     WHERE entry_id = ?1 AND start_byte >= ?2 ORDER BY start_byte LIMIT {PAGE_MAX}"
                ))?
                .query_map(params![entry_id, stored(from)], chunk_row)?
                .collect::<rusqlite::Result<Vec<_>>>()
        })?;
        Ok(rows.into_iter().flatten().collect())
    }

    /// Number and bytes of an entry's chunks.
    pub fn held(&self, entry_id: i64) -> Result<(u64, u64)> {
        self.read(|connection| {
            connection.prepare_cached(HELD)?.query_row([entry_id], |row| Ok((loaded(row.get(0)?), loaded(row.get(1)?))))
        })
    }

    /// Bytes of all chunks that players open films with, pinned ones aside.
    pub fn opening_bytes(&self) -> Result<u64> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT opening_bytes FROM cache_totals")?
                .query_row([], |row| row.get(0).map(loaded))
        })
    }

    /// Up to `limit` chunks of one kind with their entry's slot size, least recently used first, after skipping `skip` of
    /// them; pinned entries' are left out, and those of `lent`.
    pub fn oldest(&self, part: Part, skip: usize, limit: usize, lent: &[i64]) -> Result<Vec<(ChunkRow, u64)>> {
        // Numbers of our own: nothing to escape. There are a few at most, and mostly the same ones.
        let lent: Vec<_> = lent.iter().map(i64::to_string).collect();
        let sql = OLDEST.replace("c.keep = ?1", &format!("c.keep = ?1 AND c.entry_id NOT IN ({})", lent.join(", ")));
        let rows = self.read(|connection| {
            connection
                .prepare_cached(&sql)?
                .query_map([part as i64, stored(limit.min(PAGE_MAX) as u64), stored(skip as u64)], |row| {
                    Ok(chunk_row(row)?.zip(row.get::<_, i64>(5).map(|size| loaded(size).max(1)).ok()))
                })?
                .collect::<rusqlite::Result<Vec<_>>>()
        })?;
        Ok(rows.into_iter().flatten().collect())
    }
}

/// `None` for a row that only damage could have written; its bytes count as not there.
fn chunk_row(row: &Row<'_>) -> rusqlite::Result<Option<ChunkRow>> {
    let (entry_id, start, end): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let digest = Digest::from_stored(row.get_ref(3)?.as_blob().unwrap_or_default());
    let is_sound = 0 <= start && start < end && loaded(end.saturating_sub(start)) <= CHUNK_BYTES_MAX;
    Ok(digest.filter(|_| is_sound).map(|digest| ChunkRow {
        entry_id,
        range: ByteRange::new(loaded(start), loaded(end)),
        digest,
        accessed_at: row.get(4).unwrap_or_default(),
    }))
}

fn entry_row(row: &Row<'_>) -> rusqlite::Result<EntryRow> {
    Ok(EntryRow {
        entry_id: row.get(0)?,
        path: row.get(1)?,
        version: row.get(2)?,
        size_bytes: loaded(row.get(3)?),
        chunk_size_bytes: loaded(row.get(4)?),
        accessed_at: row.get(5)?,
        pinned: row.get(6)?,
    })
}
