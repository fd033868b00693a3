//! Names, from the keys that a home lists: folders are what keys have in common, and chunks of other programs' files are
//! left out.
//! Never here: what files hold.

use std::ops::Bound;
use std::time::Instant;

use super::asking::LIST_KEYS;
use super::keys::{self, LAST};
use super::{KeyedLibrary, Library as _, PLAIN_LIFE};
use crate::error::{Error, Kind, Result};
use crate::library::manifest::Kept;
use crate::library::{Named, NamedKind, PAGE_NAMES_MAX, Page, Query};
use crate::store::is_safe_name;

/// One page of names.
pub(super) fn list(library: &KeyedLibrary, query: &Query) -> Result<Page> {
    if query.limit == 0 || query.limit > PAGE_NAMES_MAX {
        let message = format!("{} names a page: from 1 to {PAGE_NAMES_MAX}", query.limit);
        return Err(Error::new(Kind::Invalid, message));
    }
    let prefix = if query.folder.is_empty() { String::new() } else { format!("{}/", query.folder) };
    let mut page = Page::default();
    let mut from = begin(query);
    loop {
        let keys = library.asking.list(&prefix, as_ref(&from), LIST_KEYS)?;
        let is_last = keys.len() < LIST_KEYS;
        let Some(last) = keys.last().map(|key| key.key.clone()) else { break };
        from = Bound::Excluded(last);
        let mut behind: Option<String> = None;
        for key in &keys {
            // Of a folder that is listed by now.
            if behind.as_ref().is_some_and(|behind| key.key < *behind) {
                continue;
            }
            if keys::is_ours(&key.key) {
                behind = Some(keys::behind_ours());
                continue;
            }
            let Some(named) = named(&prefix, &key.key, query.is_recursive) else {
                log::debug!("{}: `{}` is no name on a drive", library.describe(), key.key.escape_debug());
                continue;
            };
            let ordered = ordered(&named);
            if query.end.as_ref().is_some_and(|end| ordered >= *end) {
                return Ok(page);
            }
            if named.kind == NamedKind::Folder {
                behind = Some(format!("{ordered}{LAST}"));
            } else if library.is_plain_chunk(&key.key)? {
                continue;
            }
            // A folder that was the last one of the page before, or that begins before the start.
            if query.start.as_ref().is_some_and(|start| ordered < *start) {
                continue;
            }
            if page.names.len() == query.limit {
                page.cursor = page.names.last().map(self::ordered);
                return Ok(page);
            }
            page.names.push(named);
        }
        if is_last {
            break;
        }
        // Behind a folder however much is in it, rather than through it.
        if let Some(behind) = behind
            && let Bound::Excluded(last) = &from
            && behind > *last
        {
            from = Bound::Excluded(behind);
        }
    }
    let is_first = query.start.is_none() && query.end.is_none() && query.cursor.is_none();
    if page.names.is_empty() && !query.folder.is_empty() && (is_first || !library.is_folder(&query.folder)?) {
        let message = format!("{}: no such folder in {}", query.folder.escape_debug(), library.describe());
        return Err(Error::new(Kind::Missing, message));
    }
    Ok(page)
}

/// Where the page begins: behind the one before, and not before the start.
fn begin(query: &Query) -> Bound<String> {
    let behind = |cursor: &String| if cursor.ends_with('/') { format!("{cursor}{LAST}") } else { cursor.clone() };
    match (query.cursor.as_ref().map(behind), &query.start) {
        (Some(behind), Some(start)) if behind < *start => Bound::Included(start.clone()),
        (Some(behind), _) => Bound::Excluded(behind),
        (None, Some(start)) => Bound::Included(start.clone()),
        (None, None) => Bound::Unbounded,
    }
}

fn as_ref(bound: &Bound<String>) -> Bound<&str> {
    match bound {
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
        Bound::Unbounded => Bound::Unbounded,
    }
}

/// What a name is ordered by, and where a page that ends with it ended.
fn ordered(named: &Named) -> String {
    if named.kind == NamedKind::Folder { format!("{}/", named.path) } else { named.path.clone() }
}

/// The name that a key leads to; nothing if no file may be called so.
fn named(prefix: &str, key: &str, is_recursive: bool) -> Option<Named> {
    let rest = key.strip_prefix(prefix)?;
    if !rest.split('/').all(is_safe_name) || keys::is_nested(key) {
        return None;
    }
    let (path, kind) = match rest.split_once('/') {
        Some((folder, _)) if !is_recursive => (format!("{prefix}{folder}"), NamedKind::Folder),
        // The size of the value is not that of the file.
        _ => (key.to_owned(), NamedKind::File { size_bytes: None }),
    };
    Some(Named { path, kind, modified: None })
}

impl KeyedLibrary {
    /// Whether a key holds a chunk of a file in the plain form, whose manifest stands beside it, or will in a moment.
    pub(super) fn is_plain_chunk(&self, key: &str) -> Result<bool> {
        let Some((base, n)) = keys::parse_chunk(key) else { return Ok(false) };
        let known = self.plain.lock().get(base).copied();
        if let Some((count, _)) = known.filter(|(_, counted)| counted.elapsed() < PLAIN_LIFE) {
            return Ok(n < count);
        }
        // One that is being put, or was broken off: nobody knows how many there are.
        let count = if self.mark(&keys::plain(base))?.is_some() {
            usize::MAX
        } else {
            let file = self.load_any(base)?.filter(|file| file.id.is_none());
            let plain = file.filter(|file| matches!(file.manifest.kept(), Kept::Under { .. }));
            plain.map_or(0, |file| file.manifest.chunks().len())
        };
        self.plain.lock().put(base.to_owned(), (count, Instant::now()));
        Ok(n < count)
    }

    /// Refuses a new name that no file may have: ours, or one under which a part of another program's file is kept.
    pub(super) fn check_new(&self, path: &str) -> Result<()> {
        keys::check_new(path, self.asking.limits())?;
        let Some((base, _)) = keys::parse_chunk(path) else { return Ok(()) };
        // Looked at now: it would be written over.
        self.plain.lock().pop(base);
        if !self.is_plain_chunk(path)? {
            return Ok(());
        }
        let (shown, base) = (path.escape_debug(), base.escape_debug());
        Err(Error::new(Kind::Invalid, format!("{shown}: a part of {base} is kept under this name: choose another one")))
    }
}
