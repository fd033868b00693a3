//! Names: which folder holds what by which name. Paths are walked from the top.
//! Never here: whether a name may be given or taken away; only what then follows for links and times.

use std::time::SystemTime;

use rusqlite::{OptionalExtension as _, params};

use super::nodes::{COLUMNS, COLUMNS_COUNT, expect_one, node_row};
use super::{Change, Node, NodeKind, ROOT, View, nanos};
use crate::error::{Error, Kind, Result};
use crate::sqlite::{loaded, stored};

/// Names a reader of a folder gets at once.
pub const NAMES_PAGE: usize = 256;
/// Folders within each other, at most: names on the way from a node to the top. Deeper is a circle, which only damage makes.
const DEPTH_MAX: usize = 4096;

/// A name in a folder, with what it leads to.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Greater for names given later; the place in the folder where a reader goes on.
    pub name_id: u64,
    /// The name.
    pub name: String,
    /// What it leads to.
    pub node: Node,
}

impl View<'_> {
    /// What `name` leads to in the folder, if anything.
    pub fn lookup(&self, folder_id: u64, name: &str) -> Result<Option<Node>> {
        let row = self.run(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM names JOIN nodes n ON n.node_id = names.node_id
                     WHERE names.folder_id = ?1 AND names.name = ?2"
                ))?
                .query_row(params![stored(folder_id), name], node_row)
                .optional()
        })?;
        row.map(|node| node.ok_or_else(|| self.damaged(&format!("`{name}` is of no known kind")))).transpose()
    }

    /// What a path from the top leads to; `""` is the top.
    pub fn walk(&self, path: &str) -> Result<Option<Node>> {
        let mut node = self.node(ROOT)?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let Some(folder) = node.filter(|node| node.kind == NodeKind::Folder) else { return Ok(None) };
            node = self.lookup(folder.node_id, name)?;
        }
        Ok(node)
    }

    /// Number of the name that was given last in a folder; 0 if it is empty.
    pub fn last_name_id(&self, folder_id: u64) -> Result<u64> {
        self.run(|connection| {
            connection
                .prepare_cached(
                    "SELECT ifnull(max(name_id), 0) FROM names INDEXED BY names_by_id WHERE folder_id = ?1",
                )?
                .query_row([stored(folder_id)], |row| Ok(loaded(row.get(0)?)))
        })
    }

    /// Up to [`NAMES_PAGE`] names of a folder given after the one with `after`, in the order they were given, and none
    /// after the one with `last`.
    pub fn entries(&self, folder_id: u64, after: u64, last: u64) -> Result<Vec<Entry>> {
        self.run(|connection| {
            let mut query = connection.prepare_cached(&format!(
                "SELECT {COLUMNS}, names.name_id, names.name
                 FROM names INDEXED BY names_by_id JOIN nodes n ON n.node_id = names.node_id
                 WHERE names.folder_id = ?1 AND names.name_id > ?2 AND names.name_id <= ?3
                 ORDER BY names.name_id LIMIT {NAMES_PAGE}"
            ))?;
            let rows = query.query_map([stored(folder_id), stored(after), stored(last)], |row| {
                let (name_id, name) = (loaded(row.get(COLUMNS_COUNT)?), row.get(COLUMNS_COUNT + 1)?);
                Ok(node_row(row)?.map(|node| Entry { name_id, name, node }))
            })?;
            rows.filter_map(rusqlite::Result::transpose).collect()
        })
    }

    /// Whether anything is in the folder.
    pub fn is_empty_folder(&self, folder_id: u64) -> Result<bool> {
        self.run(|connection| {
            let mut query = connection.prepare_cached("SELECT 1 FROM names WHERE folder_id = ?1")?;
            query.exists([stored(folder_id)]).map(|is_there| !is_there)
        })
    }

    /// The folder a folder is in; the top is in itself.
    pub fn parent(&self, folder_id: u64) -> Result<Option<u64>> {
        Ok(self.name_of(folder_id)?.map(|(parent, _)| parent).or((folder_id == ROOT).then_some(ROOT)))
    }

    /// One path to a node, if it has any: for people.
    pub fn path_of(&self, node_id: u64) -> Result<Option<String>> {
        let mut path = String::new();
        let mut at = node_id;
        for _ in 0..DEPTH_MAX {
            if at == ROOT {
                return Ok(Some(path));
            }
            let Some((parent, name)) = self.name_of(at)? else { return Ok(None) };
            path = if path.is_empty() { name } else { format!("{name}/{path}") };
            at = parent;
        }
        Err(self.damaged("folders lie in each other"))
    }

    /// Whether `folder_id` is `above` or lies in it.
    pub fn is_within(&self, folder_id: u64, above: u64) -> Result<bool> {
        let mut at = folder_id;
        for _ in 0..DEPTH_MAX {
            if at == above {
                return Ok(true);
            }
            match self.name_of(at)? {
                Some((parent, _)) => at = parent,
                None => return Ok(false),
            }
        }
        Err(self.damaged("folders lie in each other"))
    }

    /// A folder and a name in it that lead to the node.
    fn name_of(&self, node_id: u64) -> Result<Option<(u64, String)>> {
        self.run(|connection| {
            connection
                .prepare_cached("SELECT folder_id, name FROM names WHERE node_id = ?1 ORDER BY name_id LIMIT 1")?
                .query_row([stored(node_id)], |row| Ok((loaded(row.get(0)?), row.get(1)?)))
                .optional()
        })
    }
}

impl Change<'_> {
    /// Gives a node one more name; there must be none like it in the folder. Links and times follow.
    pub fn add_name(&self, folder_id: u64, name: &str, node: &Node, now: SystemTime) -> Result<()> {
        let is_folder = node.kind == NodeKind::Folder;
        self.run(|connection| {
            connection
                .prepare_cached("INSERT INTO names (folder_id, name, node_id, is_folder) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![stored(folder_id), name, stored(node.node_id), is_folder])
        })?;
        self.link(node.node_id, if is_folder { 2 } else { 1 }, now)?;
        self.touch_folder(folder_id, i64::from(is_folder), now)
    }

    /// Takes a name away, and returns what it led to, as it is then: with `links` 0 it has no other, and is to be dropped
    /// ([`Change::drop_node`]) when nobody has it open. Links and times follow. `Missing` if there is no such name.
    pub fn remove_name(&self, folder_id: u64, name: &str, now: SystemTime) -> Result<Node> {
        let missing = || Error::new(Kind::Missing, format!("there is no `{}`", name.escape_debug()));
        let mut node = self.lookup(folder_id, name)?.ok_or_else(missing)?;
        let is_folder = node.kind == NodeKind::Folder;
        self.run(|connection| {
            connection
                .prepare_cached("DELETE FROM names WHERE folder_id = ?1 AND name = ?2")?
                .execute(params![stored(folder_id), name])
        })?;
        let own = if is_folder { 2 } else { 1 };
        self.link(node.node_id, -i64::from(own), now)?;
        self.touch_folder(folder_id, -i64::from(is_folder), now)?;
        node.links = node.links.saturating_sub(own);
        node.changed = now;
        Ok(node)
    }

    /// Has a name lead to `node` instead, and returns what it led to, as it is then (see [`Change::remove_name`]). The name
    /// stays where readers of the folder find it: it is there all the time. Links and times follow.
    pub fn lead_to(&self, folder_id: u64, name: &str, node: &Node, now: SystemTime) -> Result<Node> {
        let missing = || Error::new(Kind::Missing, format!("there is no `{}`", name.escape_debug()));
        let mut before = self.lookup(folder_id, name)?.ok_or_else(missing)?;
        let (was_folder, is_folder) = (before.kind == NodeKind::Folder, node.kind == NodeKind::Folder);
        self.run(|connection| {
            connection
                .prepare_cached("UPDATE names SET node_id = ?3, is_folder = ?4 WHERE folder_id = ?1 AND name = ?2")?
                .execute(params![stored(folder_id), name, stored(node.node_id), is_folder])
        })?;
        let links = |is_folder| if is_folder { 2 } else { 1 };
        self.link(before.node_id, -i64::from(links(was_folder)), now)?;
        self.link(node.node_id, i64::from(links(is_folder)), now)?;
        self.touch_folder(folder_id, i64::from(is_folder) - i64::from(was_folder), now)?;
        before.links = before.links.saturating_sub(links(was_folder));
        before.changed = now;
        Ok(before)
    }

    /// Gives `node` another name in the same folder; there must be none like it. It stays where readers of the folder find
    /// it, so that nobody meets it twice, or not at all.
    pub fn replace_name(&self, folder_id: u64, name: &str, new: &str, node: &Node, now: SystemTime) -> Result<()> {
        let changed = self.run(|connection| {
            connection
                .prepare_cached("UPDATE names SET name = ?3 WHERE folder_id = ?1 AND name = ?2")?
                .execute(params![stored(folder_id), name, new])
        })?;
        expect_one(node.node_id, changed)?;
        self.link(node.node_id, 0, now)?;
        self.touch_folder(folder_id, 0, now)
    }

    /// `links` more names lead to the node.
    fn link(&self, node_id: u64, links: i64, now: SystemTime) -> Result<()> {
        let changed = self.run(|connection| {
            connection
                .prepare_cached("UPDATE nodes SET links = max(links + ?2, 0), changed_ns = ?3 WHERE node_id = ?1")?
                .execute(params![stored(node_id), links, nanos(now)])
        })?;
        expect_one(node_id, changed)
    }

    /// What is in the folder has changed, `folders` of it folders.
    fn touch_folder(&self, folder_id: u64, folders: i64, now: SystemTime) -> Result<()> {
        let changed = self.run(|connection| {
            connection
                .prepare_cached(
                    "UPDATE nodes SET links = max(links + ?2, 0), modified_ns = ?3, changed_ns = ?3
                     WHERE node_id = ?1 AND kind = 4",
                )?
                .execute(params![stored(folder_id), folders, nanos(now)])
        })?;
        expect_one(folder_id, changed)
    }
}
