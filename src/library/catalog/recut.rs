//! Files that are on the wrong side of the inline threshold, and the threshold itself.
//! Never here: their bytes.

use rusqlite::params;

use super::schema::check_cut;
use super::{Change, View};
use crate::error::Result;
use crate::library::Cut;
use crate::sqlite::{loaded, stored};

/// Such files: kept in the catalog and too large for that, or small and in blobs.
const MISPLACED: &str = "kind = 8 AND links > 0 AND (inline IS NOT NULL) = (size_bytes > ?1)";

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misplaced {
    /// Which.
    pub node_id: u64,
    /// As many as it is said to have.
    pub size_bytes: u64,
    /// Whether it is kept in the catalog now.
    pub is_inline: bool,
}

impl View<'_> {
    /// Up to `limit` files that a threshold of so many bytes would keep elsewhere, from the one after `after` on.
    pub fn misplaced(&self, inline_bytes_max: u64, after: u64, limit: usize) -> Result<Vec<Misplaced>> {
        self.run(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT node_id, size_bytes, inline IS NOT NULL FROM nodes
                     WHERE {MISPLACED} AND node_id > ?2 ORDER BY node_id LIMIT ?3"
                ))?
                .query_map(params![stored(inline_bytes_max), stored(after), stored(limit as u64)], |row| {
                    let (node_id, size_bytes) = (loaded(row.get(0)?), loaded(row.get(1)?));
                    Ok(Misplaced { node_id, size_bytes, is_inline: row.get(2)? })
                })?
                .collect()
        })
    }

    /// Bytes of all of them.
    pub fn misplaced_bytes(&self, inline_bytes_max: u64) -> Result<u64> {
        self.run(|connection| {
            let sql = format!("SELECT coalesce(sum(size_bytes), 0) FROM nodes WHERE {MISPLACED}");
            connection.query_row(&sql, [stored(inline_bytes_max)], |row| row.get(0).map(loaded))
        })
    }
}

impl Change<'_> {
    /// Says how files are cut, for whoever opens the library from then on. `Invalid` if they can't be cut so.
    pub fn set_cut(&self, cut: Cut) -> Result<()> {
        check_cut(cut)?;
        self.run(|connection| {
            let sizes = [stored(cut.inline_bytes_max), stored(cut.chunk_size_bytes)];
            connection.execute("UPDATE library SET inline_bytes_max = ?1, chunk_size_bytes = ?2", sizes).map(drop)
        })
    }
}
