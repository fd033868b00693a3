//! Listings in the order of the paths' bytes, by page and cursor: of one folder, or of everything below it.
//! Never here: how a mount reads folders (see `names`).

use rusqlite::params;

use super::nodes::{COLUMNS, COLUMNS_COUNT, node_row};
use super::{Node, NodeKind, View};
use crate::error::{Error, Kind, Result};
use crate::library::{Named, NamedKind, PAGE_NAMES_MAX, Page, Query};
use crate::sqlite::stored;

/// Names looked at for one page, at most: a tree of empty folders ends a page early, too.
const LOOKS_MAX: usize = 10 * PAGE_NAMES_MAX;
/// Names of a folder read at once.
const STEP: usize = 256;

/// From where on a folder is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct From {
    /// Compared with names as they stand in paths; a folder's end with `/`.
    name: String,
    is_inclusive: bool,
}

impl From {
    fn start() -> Self {
        Self { name: String::new(), is_inclusive: true }
    }
}

/// A folder on the way to where the listing stands.
struct Level {
    folder_id: u64,
    /// Its path from the top, with a `/` unless it is the top.
    path: String,
    from: From,
    /// Read, and not yet listed; last first.
    ahead: Vec<(String, Node)>,
    is_read: bool,
}

impl View<'_> {
    /// One page of names. `Missing` if there is no such folder, `Unsupported` if it is none.
    pub fn list(&self, query: &Query) -> Result<Page> {
        let shown = query.folder.escape_debug();
        let missing = || Error::new(Kind::Missing, format!("there is no folder `{shown}`"));
        let node = self.walk(&query.folder)?.ok_or_else(missing)?;
        if node.kind != NodeKind::Folder {
            return Err(Error::new(Kind::Unsupported, format!("`{shown}` is not a folder")));
        }
        let path = if query.folder.is_empty() { String::new() } else { format!("{}/", query.folder) };
        let Some(from) = begin(query, &path) else { return Ok(Page::default()) };
        let mut levels = self.descend(node.node_id, path, from, query.is_recursive)?;
        let limit = query.limit.clamp(1, PAGE_NAMES_MAX);
        let mut page = Page::default();
        let (mut looks, mut last) = (0, None);
        while let Some(level) = levels.last_mut() {
            let Some((name, node)) = self.next_name(level)? else {
                levels.pop();
                continue;
            };
            let path = format!("{}{name}", level.path);
            if query.end.as_ref().is_some_and(|end| path >= *end) {
                break;
            }
            let is_entered = node.kind == NodeKind::Folder && query.is_recursive;
            // There is another page only if something is on it.
            if looks == LOOKS_MAX || page.names.len() == limit && !is_entered {
                page.cursor = last;
                break;
            }
            if is_entered {
                levels.push(Level::new(node.node_id, path.clone(), From::start()));
            } else {
                let path = path.strip_suffix('/').unwrap_or(&path).to_owned();
                page.names.push(Named { path, kind: named_kind(&node), modified: Some(node.modified) });
            }
            looks += 1;
            last = Some(path);
        }
        Ok(page)
    }

    /// The folders from `folder_id` down to the one where a listing goes on.
    fn descend(&self, folder_id: u64, path: String, from: From, is_recursive: bool) -> Result<Vec<Level>> {
        let mut levels = vec![Level::new(folder_id, path, from)];
        while is_recursive && let Some(level) = levels.last_mut() {
            let Some((name, rest)) = level.from.name.split_once('/') else { break };
            let (name, rest) = (name.to_owned(), rest.to_owned());
            // The folder itself is gone into here, and not listed any more.
            let into = From { name: format!("{name}/"), is_inclusive: false };
            let from = std::mem::replace(&mut level.from, into);
            let folder = self.lookup(level.folder_id, &name)?.filter(|node| node.kind == NodeKind::Folder);
            let Some(folder) = folder else { break };
            let path = format!("{}{name}/", level.path);
            // After a folder's own path comes what is in it, from its first name on.
            let is_inclusive = from.is_inclusive || rest.is_empty();
            levels.push(Level::new(folder.node_id, path, From { name: rest, is_inclusive }));
        }
        Ok(levels)
    }

    fn next_name(&self, level: &mut Level) -> Result<Option<(String, Node)>> {
        if level.ahead.is_empty() && !level.is_read {
            level.ahead = self.names_from(level.folder_id, &level.from)?;
            level.is_read = level.ahead.len() < STEP;
            if let Some((last, _)) = level.ahead.last() {
                level.from = From { name: last.clone(), is_inclusive: false };
            }
            level.ahead.reverse();
        }
        Ok(level.ahead.pop())
    }

    /// Up to [`STEP`] names of a folder as they stand in paths, in their order.
    fn names_from(&self, folder_id: u64, from: &From) -> Result<Vec<(String, Node)>> {
        let compare = if from.is_inclusive { ">=" } else { ">" };
        self.run(|connection| {
            let mut query = connection.prepare_cached(&format!(
                "SELECT {COLUMNS}, names.in_path
                 FROM names INDEXED BY names_by_path JOIN nodes n ON n.node_id = names.node_id
                 WHERE names.folder_id = ?1 AND names.in_path {compare} ?2 ORDER BY names.in_path LIMIT {STEP}"
            ))?;
            let rows = query.query_map(params![stored(folder_id), from.name], |row| {
                let name: String = row.get(COLUMNS_COUNT)?;
                Ok(node_row(row)?.map(|node| (name, node)))
            })?;
            rows.filter_map(rusqlite::Result::transpose).collect()
        })
    }
}

impl Level {
    fn new(folder_id: u64, path: String, from: From) -> Self {
        Self { folder_id, path, from, ahead: Vec::new(), is_read: false }
    }
}

/// From where on the folder with this `path` is listed; `None`: all of it comes before what is asked for.
fn begin(query: &Query, path: &str) -> Option<From> {
    let start = query.start.as_ref().map(|start| From { name: start.clone(), is_inclusive: true });
    let cursor = query.cursor.as_ref().map(|cursor| From { name: cursor.clone(), is_inclusive: false });
    let from = [start, cursor].into_iter().flatten().max_by(|a, b| {
        a.name.cmp(&b.name).then(b.is_inclusive.cmp(&a.is_inclusive)) // what leaves more out
    });
    let Some(from) = from else { return Some(From::start()) };
    match from.name.strip_prefix(path) {
        Some(rest) => Some(From { name: rest.to_owned(), is_inclusive: from.is_inclusive }),
        None if from.name.as_str() < path => Some(From::start()),
        None => None,
    }
}

fn named_kind(node: &Node) -> NamedKind {
    match node.kind {
        NodeKind::Folder => NamedKind::Folder,
        NodeKind::File => NamedKind::File { size_bytes: Some(node.size_bytes) },
        _ => NamedKind::Other,
    }
}
