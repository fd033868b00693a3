//! Nodes: what a name leads to. Attributes, inline content, targets of links, extended attributes.
//! Never here: names, and the chunks of larger files.

use std::time::SystemTime;

use rusqlite::{OptionalExtension as _, Row, params};

use super::{Change, View, nanos};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::sqlite::{loaded, stored, time};

/// Unlinked nodes taken out in one transaction when a library is opened for writing.
const DROP_BATCH: usize = 100;

/// What a node is. The numbers are those of `st_mode`, shifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// Holds names.
    Folder = 4,
    /// Holds bytes.
    File = 8,
    /// Holds a path.
    Link = 10,
    /// A named pipe; the kernel's own, as all below.
    Pipe = 1,
    /// A socket.
    Socket = 12,
    /// A device of blocks.
    Block = 6,
    /// A device of characters.
    Character = 2,
}

impl NodeKind {
    fn from_stored(number: i64) -> Option<Self> {
        let kinds = [Self::Folder, Self::File, Self::Link, Self::Pipe, Self::Socket, Self::Block, Self::Character];
        kinds.into_iter().find(|kind| *kind as i64 == number)
    }
}

/// A node's attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Never used twice in a library. 0 of one that is not made yet.
    pub node_id: u64,
    /// What it is; never changes.
    pub kind: NodeKind,
    /// Permission bits, with set-user-id, set-group-id and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Of a device.
    pub rdev: u32,
    /// Names that lead to it; of a folder, two more than folders in it. 0: it has no name any longer.
    pub links: u32,
    /// Of a file its bytes; of a link those of its target.
    pub size_bytes: u64,
    /// Last change of the content.
    pub modified: SystemTime,
    /// Last change of anything.
    pub changed: SystemTime,
    /// As somebody set it, else when the node was made: reading changes nothing.
    pub accessed: SystemTime,
    /// When it was made.
    pub created: SystemTime,
    /// The content is kept in the node itself.
    pub is_inline: bool,
    /// Of the bytes of a file, those that are in holes: nothing is kept of them.
    pub hole_bytes: u64,
}

impl Node {
    /// One without a name or content yet, made now.
    pub fn new(kind: NodeKind, mode: u32, owner: (u32, u32), now: SystemTime) -> Self {
        Self {
            node_id: 0,
            kind,
            mode,
            uid: owner.0,
            gid: owner.1,
            rdev: 0,
            links: 0,
            size_bytes: 0,
            modified: now,
            changed: now,
            accessed: now,
            created: now,
            is_inline: kind == NodeKind::File,
            hole_bytes: 0,
        }
    }
}

/// A file, as whoever looks for damage goes from one to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileNode {
    /// Which.
    pub node_id: u64,
    /// As many as it is said to have.
    pub size_bytes: u64,
    /// If it is kept in its node, what became of that.
    pub inline: Option<InlineState>,
}

/// The bytes of a file that is kept in its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InlineState {
    /// What they should hash to.
    pub sha256: Option<Digest>,
    /// Whether they do, and are as many as the file has.
    pub is_sound: bool,
}

/// In the order [`node_row`] reads them, for a table called `n`.
pub(super) const COLUMNS: &str = "n.node_id, n.kind, n.mode, n.uid, n.gid, n.rdev, n.links, n.size_bytes,
    n.modified_ns, n.changed_ns, n.accessed_ns, n.created_ns, n.inline IS NOT NULL,
    CASE WHEN n.kind = 8 AND n.inline IS NULL THEN
        (SELECT CAST(total(h.end_byte - h.start_byte) AS INTEGER) FROM file_chunks h
         WHERE h.node_id = n.node_id AND h.sha256 IS NULL)
    ELSE 0 END";
/// How many columns that are: what else a row holds comes behind them.
pub(super) const COLUMNS_COUNT: usize = 14;

/// `None` of a row that only damage could have written.
pub(super) fn node_row(row: &Row<'_>) -> rusqlite::Result<Option<Node>> {
    let Some(kind) = NodeKind::from_stored(row.get(1)?) else { return Ok(None) };
    Ok(Some(Node {
        node_id: loaded(row.get(0)?),
        kind,
        mode: row.get::<_, u32>(2)? & 0o7777,
        uid: row.get(3)?,
        gid: row.get(4)?,
        rdev: row.get(5)?,
        links: row.get(6)?,
        size_bytes: loaded(row.get(7)?),
        modified: time(row.get(8)?),
        changed: time(row.get(9)?),
        accessed: time(row.get(10)?),
        created: time(row.get(11)?),
        is_inline: row.get(12)?,
        hole_bytes: loaded(row.get(13)?),
    }))
}

impl View<'_> {
    /// The node, if there is one with this number.
    pub fn node(&self, node_id: u64) -> Result<Option<Node>> {
        let row = self.run(|connection| {
            connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM nodes n WHERE n.node_id = ?1"))?
                .query_row([stored(node_id)], node_row)
                .optional()
        })?;
        row.map(|node| node.ok_or_else(|| self.damaged(&format!("node {node_id} is of no known kind")))).transpose()
    }

    /// A node's content, if it is kept in the node. `Corrupt` if it is not what was put.
    pub fn inline(&self, node_id: u64) -> Result<Option<Vec<u8>>> {
        let row = self.run(|connection| {
            connection
                .prepare_cached("SELECT inline, inline_sha256 FROM nodes WHERE node_id = ?1 AND inline IS NOT NULL")?
                .query_row([stored(node_id)], |row| {
                    let sha256 = row.get_ref(1)?.as_blob_or_null()?.and_then(Digest::from_stored);
                    Ok((row.get::<_, Vec<u8>>(0)?, sha256))
                })
                .optional()
        })?;
        let Some((bytes, sha256)) = row else { return Ok(None) };
        if sha256 == Some(Digest::of(&bytes)) {
            return Ok(Some(bytes));
        }
        let path = self.path_of(node_id)?.unwrap_or_default();
        Err(self.damaged(&format!("the bytes of `{}` are not those that were put", path.escape_debug())))
    }

    /// Up to `limit` files, from the one after `after` on; those that are kept in their nodes are read and hashed.
    pub fn files(&self, after: u64, limit: usize) -> Result<Vec<FileNode>> {
        self.run(|connection| {
            connection
                .prepare_cached(
                    "SELECT node_id, size_bytes, inline_sha256, inline FROM nodes
                     WHERE node_id > ?1 AND kind = 8 ORDER BY node_id LIMIT ?2",
                )?
                .query_map([stored(after), stored(limit as u64)], |row| {
                    let size_bytes = loaded(row.get(1)?);
                    let sha256 = row.get_ref(2)?.as_blob_or_null()?.and_then(Digest::from_stored);
                    let inline = row.get_ref(3)?.as_blob_or_null()?.map(|bytes| {
                        let is_sound = size_bytes == bytes.len() as u64 && sha256 == Some(Digest::of(bytes));
                        InlineState { sha256, is_sound }
                    });
                    Ok(FileNode { node_id: loaded(row.get(0)?), size_bytes, inline })
                })?
                .collect()
        })
    }

    /// Where a link leads.
    pub fn target(&self, node_id: u64) -> Result<Option<String>> {
        self.text("SELECT target FROM nodes WHERE node_id = ?1", node_id)
    }

    /// The MIME type somebody gave.
    pub fn content_type(&self, node_id: u64) -> Result<Option<String>> {
        self.text("SELECT content_type FROM nodes WHERE node_id = ?1", node_id)
    }

    /// The one text that `query` finds of a node, if there are a node and a text.
    fn text(&self, query: &str, node_id: u64) -> Result<Option<String>> {
        let text: Option<Option<String>> = self.run(|connection| {
            connection.prepare_cached(query)?.query_row([stored(node_id)], |row| row.get(0)).optional()
        })?;
        Ok(text.flatten())
    }

    /// An extended attribute's value.
    pub fn xattr(&self, node_id: u64, name: &str) -> Result<Option<Vec<u8>>> {
        self.run(|connection| {
            connection
                .prepare_cached("SELECT value FROM xattrs WHERE node_id = ?1 AND name = ?2")?
                .query_row(params![stored(node_id), name], |row| row.get(0))
                .optional()
        })
    }

    /// Names of all extended attributes; there are few (see the mount's own limit).
    pub fn xattr_names(&self, node_id: u64) -> Result<Vec<String>> {
        self.run(|connection| {
            connection
                .prepare_cached("SELECT name FROM xattrs WHERE node_id = ?1 ORDER BY name")?
                .query_map([stored(node_id)], |row| row.get(0))?
                .collect()
        })
    }

    /// Nodes there are, roughly: as many as were ever made.
    pub fn nodes_count(&self) -> Result<u64> {
        self.run(|connection| {
            connection.query_row("SELECT coalesce(max(node_id), 0) FROM nodes", [], |row| row.get(0).map(loaded))
        })
    }

    /// How many files there are, and their sizes together. Looks at every node: a tenth of a second for a million.
    pub fn files_total(&self) -> Result<(u64, u64)> {
        self.run(|connection| {
            connection
                .prepare_cached(
                    "SELECT count(*), coalesce(sum(size_bytes), 0) FROM nodes WHERE kind = ?1 AND links > 0",
                )?
                .query_row([NodeKind::File as i64], |row| Ok((row.get(0).map(loaded)?, row.get(1).map(loaded)?)))
        })
    }

    /// Up to `limit` nodes without a name, from the one after `after` on.
    pub fn unlinked(&self, after: u64, limit: usize) -> Result<Vec<u64>> {
        self.run(|connection| {
            connection
                .prepare_cached("SELECT node_id FROM nodes WHERE links = 0 AND node_id > ?1 ORDER BY node_id LIMIT ?2")?
                .query_map([stored(after), stored(limit as u64)], |row| row.get(0).map(loaded))?
                .collect()
        })
    }
}

impl Change<'_> {
    /// Makes a node, still without a name; returns it with its number. A file is empty and inline.
    pub fn add_node(&self, node: &Node, target: Option<&str>) -> Result<Node> {
        let inline: Option<&[u8]> = (node.kind == NodeKind::File).then_some(&[]);
        let size_bytes = target.map_or(0, |target| target.len() as u64);
        let node_id = self.run(|connection| {
            connection
                .prepare_cached(
                    "INSERT INTO nodes (kind, mode, uid, gid, rdev, links, size_bytes, modified_ns, changed_ns,
                                        accessed_ns, created_ns, target, inline, inline_sha256)
                     VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) RETURNING node_id",
                )?
                .query_row(
                    params![
                        node.kind as i64,
                        node.mode,
                        node.uid,
                        node.gid,
                        node.rdev,
                        stored(size_bytes),
                        nanos(node.modified),
                        nanos(node.changed),
                        nanos(node.accessed),
                        nanos(node.created),
                        target,
                        inline,
                        inline.map(|bytes| Digest::of(bytes).as_bytes().to_vec()),
                    ],
                    |row| row.get(0).map(loaded),
                )
        })?;
        Ok(Node { node_id, links: 0, size_bytes, is_inline: inline.is_some(), hole_bytes: 0, ..*node })
    }

    /// Writes mode, owner and times; nothing else of it.
    pub fn set_attributes(&self, node: &Node) -> Result<()> {
        let changed = self.run(|connection| {
            connection
                .prepare_cached(
                    "UPDATE nodes SET mode = ?2, uid = ?3, gid = ?4, modified_ns = ?5, changed_ns = ?6,
                                      accessed_ns = ?7, created_ns = ?8 WHERE node_id = ?1",
                )?
                .execute(params![
                    stored(node.node_id),
                    node.mode,
                    node.uid,
                    node.gid,
                    nanos(node.modified),
                    nanos(node.changed),
                    nanos(node.accessed),
                    nanos(node.created),
                ])
        })?;
        expect_one(node.node_id, changed)
    }

    /// Sets or takes away the MIME type.
    pub fn set_content_type(&self, node_id: u64, content_type: Option<&str>) -> Result<()> {
        let changed = self.run(|connection| {
            connection
                .prepare_cached("UPDATE nodes SET content_type = ?2 WHERE node_id = ?1")?
                .execute(params![stored(node_id), content_type])
        })?;
        expect_one(node_id, changed)
    }

    /// Replaces a file's whole content by these bytes.
    pub fn set_inline(&self, node_id: u64, bytes: &[u8]) -> Result<()> {
        self.weighs(bytes.len());
        self.drop_chunks(node_id, SystemTime::now())?;
        let changed = self.run(|connection| {
            connection
                .prepare_cached("UPDATE nodes SET inline = ?2, inline_sha256 = ?4, size_bytes = ?3 WHERE node_id = ?1")?
                .execute(params![stored(node_id), bytes, stored(bytes.len() as u64), Digest::of(bytes).as_bytes()])
        })?;
        expect_one(node_id, changed)
    }

    /// Sets an extended attribute.
    pub fn set_xattr(&self, node_id: u64, name: &str, value: &[u8]) -> Result<()> {
        self.weighs(value.len());
        self.run(|connection| {
            connection
                .prepare_cached("INSERT OR REPLACE INTO xattrs (node_id, name, value) VALUES (?1, ?2, ?3)")?
                .execute(params![stored(node_id), name, value])
                .map(drop)
        })
    }

    /// All extended attributes of one node are those of another from now on.
    pub fn move_xattrs(&self, from: u64, to: u64) -> Result<()> {
        self.run(|connection| {
            connection
                .prepare_cached("UPDATE xattrs SET node_id = ?2 WHERE node_id = ?1")?
                .execute([stored(from), stored(to)])
                .map(drop)
        })
    }

    /// Takes an extended attribute away; whether there was one.
    pub fn remove_xattr(&self, node_id: u64, name: &str) -> Result<bool> {
        self.run(|connection| {
            connection
                .prepare_cached("DELETE FROM xattrs WHERE node_id = ?1 AND name = ?2")?
                .execute(params![stored(node_id), name])
                .map(|removed| removed > 0)
        })
    }

    /// Takes a node out that has no name any longer, with all that hangs on it; one that has is left alone.
    pub fn drop_node(&self, node_id: u64) -> Result<()> {
        self.drop_node_since(node_id, SystemTime::now())
    }

    /// The same; the blobs that no file needs then are loose since `since`.
    pub(super) fn drop_node_since(&self, node_id: u64, since: SystemTime) -> Result<()> {
        if self.node(node_id)?.is_none_or(|node| node.links > 0) {
            return Ok(());
        }
        self.drop_chunks(node_id, since)?;
        self.run(|connection| {
            for table in ["tags", "xattrs", "nodes"] {
                connection
                    .prepare_cached(&format!("DELETE FROM {table} WHERE node_id = ?1"))?
                    .execute([stored(node_id)])?;
            }
            Ok(())
        })
    }
}

pub(super) fn expect_one(node_id: u64, changed: usize) -> Result<()> {
    if changed == 1 { Ok(()) } else { Err(Error::new(Kind::Missing, format!("there is no node {node_id} any more"))) }
}

impl super::Catalog {
    /// Takes out what was open without a name when the last writer ended.
    pub(super) fn drop_unlinked(&self) -> Result<()> {
        loop {
            let unlinked = self.read(|view| view.unlinked(0, DROP_BATCH))?;
            if unlinked.is_empty() {
                return Ok(());
            }
            self.change(|change| unlinked.iter().try_for_each(|node_id| change.drop_node(*node_id)))?;
        }
    }
}
