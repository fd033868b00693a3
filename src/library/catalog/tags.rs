//! Tags of files, and files of a tag.
//! Never here: what may be a tag (see `library::check_tags`).

use rusqlite::params;

use super::{Change, View};
use crate::error::Result;
use crate::sqlite::{loaded, stored};

impl View<'_> {
    /// A node's tags, sorted.
    pub fn tags(&self, node_id: u64) -> Result<Vec<String>> {
        self.run(|connection| {
            connection
                .prepare_cached("SELECT tag FROM tags WHERE node_id = ?1 ORDER BY tag")?
                .query_map([stored(node_id)], |row| row.get(0))?
                .collect()
        })
    }

    /// Up to `limit` nodes with this tag, from the one after `after` on.
    pub fn tagged(&self, tag: &str, after: u64, limit: usize) -> Result<Vec<u64>> {
        self.run(|connection| {
            connection
                .prepare_cached("SELECT node_id FROM tags WHERE tag = ?1 AND node_id > ?2 ORDER BY node_id LIMIT ?3")?
                .query_map(params![tag, stored(after), stored(limit as u64)], |row| row.get(0).map(loaded))?
                .collect()
        })
    }
}

impl Change<'_> {
    /// Sets a node's tags, all of them.
    pub fn set_tags(&self, node_id: u64, tags: &[String]) -> Result<()> {
        self.run(|connection| {
            connection.prepare_cached("DELETE FROM tags WHERE node_id = ?1")?.execute([stored(node_id)])?;
            let mut insert = connection.prepare_cached("INSERT INTO tags (tag, node_id) VALUES (?1, ?2)")?;
            for tag in tags {
                insert.execute(params![tag, stored(node_id)])?;
            }
            Ok(())
        })
    }
}
