//! Which blobs hold a file's bytes, and which blobs no file needs any longer.
//! Never here: the blobs.

use std::time::SystemTime;

use rusqlite::{OptionalExtension as _, Row, params};

use super::nodes::expect_one;
use super::{Catalog, Change, View, nanos};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::library::manifest::{CHUNK_BYTES_MAX, CHUNKS_MAX, FILE_BYTES_MAX};
use crate::range::{ByteRange, RangeSet};
use crate::sqlite::{loaded, stored, time};

/// Loose blobs removed while nobody else can change anything: each costs the deletion of a file.
const SWEEP_BATCH: usize = 16;
/// Chunks of a file looked at together.
const CHUNKS_PAGE: usize = 1_000;

/// Backwards from the end of the range; whoever steps through it stops at the first row that starts at or before the
/// range.
const COVERING: &str = "
    SELECT start_byte, end_byte, sha256 FROM file_chunks
    WHERE node_id = ?1 AND start_byte < ?2 ORDER BY start_byte DESC";

/// A stretch of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRow {
    /// Where it stands in the file.
    pub range: ByteRange,
    /// The blob that holds it, from the blob's first byte to its last; `None`: a hole.
    pub digest: Option<Digest>,
}

/// A chunk as it is named to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedChunk {
    /// Whose.
    pub node_id: u64,
    /// Which, from 0 on.
    pub number: usize,
    /// Its bytes in the file.
    pub range: ByteRange,
}

/// A blob that files name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsedBlob {
    /// Its name.
    pub digest: Digest,
    /// Bytes of the shortest chunk that it is said to hold: as many as it has, unless the catalog is wrong.
    pub size_bytes_min: u64,
    /// And of the longest.
    pub size_bytes_max: u64,
}

/// A blob no file needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LooseBlob {
    /// Its name.
    pub digest: Digest,
    /// Its bytes.
    pub size_bytes: u64,
    /// Since when.
    pub since: SystemTime,
}

impl View<'_> {
    /// The chunks that hold any byte of `range`, which lies in the file, in order. `Corrupt` if they leave one out.
    /// It walks from the end of the range back, so it costs O(log n + answer) however many rows stand around.
    pub fn covering(&self, node_id: u64, range: ByteRange) -> Result<Vec<ChunkRow>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let mut covering = self.overlapping(node_id, range)?;
        covering.reverse();
        let mut at = range.start;
        for row in &covering {
            if row.range.start > at {
                break;
            }
            at = at.max(row.range.end);
        }
        if at < range.end {
            return Err(self.damaged(&format!("it does not say where the bytes of node {node_id} from {at} on are")));
        }
        Ok(covering)
    }

    /// The rows that hold any byte of `range`, last first.
    fn overlapping(&self, node_id: u64, range: ByteRange) -> Result<Vec<ChunkRow>> {
        let rows = self.run(|connection| {
            let mut query = connection.prepare_cached(COVERING)?;
            let mut rows = query.query(params![stored(node_id), stored(range.end)])?;
            let mut overlapping = Vec::new();
            while let Some(row) = rows.next()? {
                let start: i64 = row.get(0)?;
                let chunk = chunk_row(row)?;
                // The last one may end before the range begins.
                if chunk.is_none_or(|chunk| !chunk.range.intersect(range).is_empty()) {
                    overlapping.push(chunk);
                }
                if start <= stored(range.start) {
                    break;
                }
            }
            Ok(overlapping)
        })?;
        let sound: Option<Vec<_>> = rows.into_iter().collect();
        sound.ok_or_else(|| self.damaged(&format!("a chunk of node {node_id} is none")))
    }

    /// Up to `limit` chunks of a file that start at `from` or after, in order.
    pub fn chunks(&self, node_id: u64, from: u64, limit: usize) -> Result<Vec<ChunkRow>> {
        let rows: Option<Vec<ChunkRow>> = self.run(|connection| {
            connection
                .prepare_cached(
                    "SELECT start_byte, end_byte, sha256 FROM file_chunks
                     WHERE node_id = ?1 AND start_byte >= ?2 ORDER BY start_byte LIMIT ?3",
                )?
                .query_map([stored(node_id), stored(from), stored(limit as u64)], chunk_row)?
                .collect()
        })?;
        rows.ok_or_else(|| self.damaged(&format!("a chunk of node {node_id} is none")))
    }

    /// `Corrupt` unless the chunks of a file that is not inline lie gapless from byte 0 to its end.
    pub fn check_chunks(&self, node_id: u64) -> Result<()> {
        let Some(node) = self.node(node_id)?.filter(|node| !node.is_inline) else { return Ok(()) };
        let (mut from, mut end, mut count) = (0, 0, 0);
        loop {
            let chunks = self.chunks(node_id, from, CHUNKS_PAGE)?;
            for chunk in &chunks {
                if chunk.range.start != end {
                    let what = if chunk.range.start < end { "overlap" } else { "leave a gap" };
                    return Err(self.damaged(&format!("the chunks of node {node_id} {what} at {}", chunk.range)));
                }
                end = chunk.range.end;
            }
            count += chunks.len();
            match chunks.last() {
                Some(last) if chunks.len() == CHUNKS_PAGE => from = last.range.start + 1,
                _ => break,
            }
        }
        if end == node.size_bytes && count <= CHUNKS_MAX {
            return Ok(());
        }
        Err(self.damaged(&format!("node {node_id} has {} bytes, its {count} chunks {end}", node.size_bytes)))
    }

    /// Bytes of all blobs that files name, each counted once, and of all files that are kept in their nodes.
    pub fn kept_bytes(&self) -> Result<u64> {
        self.run(|connection| {
            let blobs = "SELECT CAST(total(size) AS INTEGER) FROM
                (SELECT max(end_byte - start_byte) AS size FROM file_chunks WHERE sha256 IS NOT NULL GROUP BY sha256)";
            let inline = "SELECT CAST(total(size_bytes) AS INTEGER) FROM nodes WHERE kind = 8 AND inline IS NOT NULL";
            let sum = |sql: &str| connection.query_row(sql, [], |row| row.get(0).map(loaded));
            Ok(sum(blobs)?.saturating_add(sum(inline)?))
        })
    }

    /// Up to `limit` of all blobs that files name, each once, from the one after `after` on, in the order of their digests.
    pub fn blobs(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<UsedBlob>> {
        let rows: Vec<Option<UsedBlob>> = self.run(|connection| {
            let after: &[u8] = after.map_or(&[], |digest| digest.as_bytes());
            connection
                .prepare_cached(
                    "SELECT sha256, min(end_byte - start_byte), max(end_byte - start_byte) FROM file_chunks
                     WHERE sha256 > ?1 GROUP BY sha256 ORDER BY sha256 LIMIT ?2",
                )?
                .query_map(params![after, stored(limit as u64)], |row| {
                    let (size_bytes_min, size_bytes_max) = (loaded(row.get(1)?), loaded(row.get(2)?));
                    Ok(digest(row, 0)?.map(|digest| UsedBlob { digest, size_bytes_min, size_bytes_max }))
                })?
                .collect()
        })?;
        let sound: Option<Vec<_>> = rows.into_iter().collect();
        sound.ok_or_else(|| self.damaged("a chunk's blob has no name"))
    }

    /// Up to `limit` of the chunks that a blob holds; if that is given, of those that do not have so many bytes.
    pub fn uses(&self, blob: &Digest, unlike_bytes: Option<u64>, limit: usize) -> Result<Vec<NamedChunk>> {
        self.run(|connection| {
            connection
                .prepare_cached(
                    "SELECT c.node_id, c.start_byte, c.end_byte,
                            (SELECT count(*) FROM file_chunks b WHERE b.node_id = c.node_id AND b.start_byte < c.start_byte)
                     FROM file_chunks c WHERE c.sha256 = ?1 AND (?2 IS NULL OR c.end_byte - c.start_byte <> ?2) LIMIT ?3",
                )?
                .query_map(params![blob.as_bytes(), unlike_bytes.map(stored), stored(limit as u64)], |row| {
                    let range = ByteRange::new(loaded(row.get(1)?), loaded(row.get(2)?));
                    let number = loaded(row.get(3)?) as usize;
                    Ok(NamedChunk { node_id: loaded(row.get(0)?), number, range })
                })?
                .collect()
        })
    }

    /// Whether any file needs the blob.
    pub fn is_used(&self, blob: &Digest) -> Result<bool> {
        self.run(|connection| {
            connection.prepare_cached("SELECT 1 FROM file_chunks WHERE sha256 = ?1")?.exists([blob.as_bytes()])
        })
    }

    /// Since when a blob is loose, if it is.
    pub fn loose_since(&self, blob: &Digest) -> Result<Option<SystemTime>> {
        self.run(|connection| {
            connection
                .prepare_cached("SELECT since_ns FROM loose_blobs WHERE sha256 = ?1")?
                .query_row([blob.as_bytes()], |row| row.get(0).map(time))
                .optional()
        })
    }

    /// Up to `limit` blobs that no file needs, from the one after `after` on.
    pub fn loose(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<LooseBlob>> {
        let rows: Vec<Option<LooseBlob>> = self.run(|connection| {
            let after: &[u8] = after.map_or(&[], |digest| digest.as_bytes());
            connection
                .prepare_cached(
                    "SELECT sha256, size_bytes, since_ns FROM loose_blobs WHERE sha256 > ?1 ORDER BY sha256 LIMIT ?2",
                )?
                .query_map(params![after, stored(limit as u64)], |row| {
                    let (size_bytes, since) = (loaded(row.get(1)?), time(row.get(2)?));
                    Ok(digest(row, 0)?.map(|digest| LooseBlob { digest, size_bytes, since }))
                })?
                .collect()
        })?;
        Ok(rows.into_iter().flatten().collect())
    }
}

impl Change<'_> {
    /// Replaces the whole content of a file by these chunks, which lie gapless from byte 0 on.
    pub fn set_chunks(&self, node_id: u64, chunks: &[ChunkRow]) -> Result<()> {
        let size_bytes = chunks.last().map_or(0, |last| last.range.end);
        let old = self.take_chunks(node_id)?;
        self.add_chunks(node_id, chunks)?;
        self.loosen(&old, SystemTime::now())?;
        self.set_size(node_id, size_bytes)
    }

    /// Replaces part of a file's content: what it has up to `kept_bytes` stays, where none of `chunks` is; beyond that there
    /// are only `chunks`, gapless to the end. What stays is cut through only where it is a hole.
    pub fn splice_chunks(&self, node_id: u64, kept_bytes: u64, chunks: &[ChunkRow]) -> Result<()> {
        let mut replaced = RangeSet::new();
        replaced.insert(ByteRange::new(kept_bytes, FILE_BYTES_MAX));
        for chunk in chunks {
            replaced.insert(chunk.range);
        }
        let mut old = self.overlapping(node_id, ByteRange::new(kept_bytes, FILE_BYTES_MAX))?;
        for chunk in chunks.iter().filter(|chunk| chunk.range.start < kept_bytes) {
            old.extend(self.overlapping(node_id, chunk.range)?);
        }
        old.sort_unstable_by_key(|row| row.range.start);
        old.dedup();
        for row in &old {
            self.run(|connection| {
                connection
                    .prepare_cached("DELETE FROM file_chunks WHERE node_id = ?1 AND start_byte = ?2")?
                    .execute([stored(node_id), stored(row.range.start)])
            })?;
            for rest in replaced.gaps(row.range) {
                if row.digest.is_some() {
                    let message = format!("a write would cut chunk {} of node {node_id} through", row.range);
                    return Err(Error::new(Kind::Local, message));
                }
                self.add_chunks(node_id, &[ChunkRow { range: rest, digest: None }])?;
            }
        }
        self.add_chunks(node_id, chunks)?;
        self.loosen(&old, SystemTime::now())?;
        let size_bytes = chunks.last().map_or(0, |last| last.range.end).max(kept_bytes);
        self.set_size(node_id, size_bytes)
    }

    /// Notes blobs that are about to be made, or that may be needed by no file: if none needs them in the end, they are
    /// removed.
    pub fn note_loose(&self, blobs: &[(Digest, u64)], now: SystemTime) -> Result<()> {
        for (blob, size_bytes) in blobs {
            if !self.is_used(blob)? {
                self.run(|connection| {
                    connection
                        .prepare_cached("INSERT OR IGNORE INTO loose_blobs VALUES (?1, ?2, ?3)")?
                        .execute(params![blob.as_bytes(), stored(*size_bytes), nanos(now)])
                })?;
            }
        }
        Ok(())
    }

    /// A blob is gone from the disk, or needed after all.
    pub fn forget_loose(&self, blob: &Digest) -> Result<()> {
        self.run(|connection| {
            connection.prepare_cached("DELETE FROM loose_blobs WHERE sha256 = ?1")?.execute([blob.as_bytes()]).map(drop)
        })
    }

    /// Blobs that no file needs then are loose since `since`.
    pub(super) fn drop_chunks(&self, node_id: u64, since: SystemTime) -> Result<()> {
        let old = self.take_chunks(node_id)?;
        self.loosen(&old, since)
    }

    fn take_chunks(&self, node_id: u64) -> Result<Vec<ChunkRow>> {
        let old = self.chunks(node_id, 0, usize::MAX)?;
        self.run(|connection| {
            connection.prepare_cached("DELETE FROM file_chunks WHERE node_id = ?1")?.execute([stored(node_id)])
        })?;
        Ok(old)
    }

    fn add_chunks(&self, node_id: u64, chunks: &[ChunkRow]) -> Result<()> {
        self.run(|connection| {
            let mut insert = connection.prepare_cached("INSERT INTO file_chunks VALUES (?1, ?2, ?3, ?4)")?;
            let mut needed = connection.prepare_cached("DELETE FROM loose_blobs WHERE sha256 = ?1")?;
            for ChunkRow { range, digest } in chunks {
                let digest = digest.as_ref().map(Digest::as_bytes);
                insert.execute(params![stored(node_id), stored(range.start), stored(range.end), digest])?;
                if let Some(digest) = digest {
                    needed.execute([digest])?;
                }
            }
            Ok(())
        })
    }

    /// Of blobs that had a use less: those that have none left.
    fn loosen(&self, old: &[ChunkRow], since: SystemTime) -> Result<()> {
        let blobs: Vec<_> = old.iter().filter_map(|row| Some((row.digest?, row.range.len()))).collect();
        self.note_loose(&blobs, since)
    }

    fn set_size(&self, node_id: u64, size_bytes: u64) -> Result<()> {
        let changed = self.run(|connection| {
            connection
                .prepare_cached("UPDATE nodes SET size_bytes = ?2, inline = NULL WHERE node_id = ?1")?
                .execute([stored(node_id), stored(size_bytes)])
        })?;
        expect_one(node_id, changed)
    }
}

impl Catalog {
    /// Hands blobs that no file needs, and none needed before `before`, to `remove`, which deletes them unless they are
    /// pinned and says whether it did. Returns what went and where to go on; `None` after the last. Nothing is changed by
    /// others meanwhile, so a blob that gets a new use either has it before, or is pinned for it.
    pub fn sweep_loose(
        &self,
        after: Option<&Digest>,
        before: SystemTime,
        mut remove: impl FnMut(&Digest) -> Result<bool>,
    ) -> Result<(Vec<LooseBlob>, Option<Digest>)> {
        let mut writer = self.writer()?;
        // What only the open transaction does not need is needed after a crash.
        if writer.changes > writer.sweeps {
            self.commit(&mut writer)?;
        }
        let swept = self.change_with(&mut writer, |change| {
            let loose = change.loose(after, SWEEP_BATCH)?;
            let next = if loose.len() < SWEEP_BATCH { None } else { loose.last().map(|blob| blob.digest) };
            let mut gone = Vec::new();
            for blob in loose.into_iter().filter(|blob| blob.since <= before) {
                if change.is_used(&blob.digest)? {
                    change.forget_loose(&blob.digest)?;
                } else if remove(&blob.digest)? {
                    change.forget_loose(&blob.digest)?;
                    gone.push(blob);
                }
            }
            Ok((gone, next))
        });
        // None where it was committed just now.
        writer.sweeps += u32::from(writer.changes > writer.sweeps);
        swept
    }
}

/// `None` of a row that only damage could have written.
fn chunk_row(row: &Row<'_>) -> rusqlite::Result<Option<ChunkRow>> {
    let (start, end): (i64, i64) = (row.get(0)?, row.get(1)?);
    let is_hole = row.get_ref(2)?.as_blob_or_null()?.is_none();
    let digest = digest(row, 2)?;
    let bytes_max = if is_hole { FILE_BYTES_MAX } else { CHUNK_BYTES_MAX };
    let is_sound = 0 <= start && start < end && loaded(end.saturating_sub(start)) <= bytes_max;
    if !is_sound || digest.is_none() != is_hole {
        return Ok(None);
    }
    Ok(Some(ChunkRow { range: ByteRange::new(loaded(start), loaded(end)), digest }))
}

fn digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Digest>> {
    Ok(row.get_ref(column)?.as_blob_or_null()?.and_then(Digest::from_stored))
}
