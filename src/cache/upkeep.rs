//! What a person does to a cache: verify all of it, purge some of it. For a process that owns the directory and
//! serves nobody meanwhile.
//! Never here: what to print.

use super::data::disk_cost;
use super::index::EntryRow;
use super::{Cache, Shared};
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;

/// A recorded chunk whose bytes were not what was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadChunk {
    /// The file, relative to the source.
    pub path: String,
    /// Its version.
    pub version: String,
    /// The bytes that were dropped.
    pub range: ByteRange,
}

/// What `verify` found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Chunks hashed.
    pub chunks: u64,
    /// Bytes hashed.
    pub bytes: u64,
    /// Chunks that were bad, and are gone.
    pub bad: u64,
}

/// What to purge.
#[derive(Clone, Copy, Debug)]
pub enum Purge<'a> {
    /// Every entry.
    All,
    /// Every version of these files, and of all files below these folders.
    Paths(&'a [String]),
}

/// What `purge` removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Versions of files.
    pub entries: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

impl Cache {
    /// Hashes every chunk; a bad one is dropped and named to `on_bad`.
    pub fn verify(&self, on_bad: &mut dyn FnMut(&BadChunk)) -> Result<Verified> {
        let mut verified = Verified::default();
        self.shared.for_each_entry(|entry| {
            let data = self.shared.data.open_existing(entry.entry_id)?;
            let mut at = 0;
            loop {
                let page = self.shared.index.chunks(entry.entry_id, at)?;
                let Some(last) = page.last() else { return Ok(()) };
                at = last.range.end;
                for chunk in &page {
                    verified.chunks += 1;
                    verified.bytes += chunk.range.len();
                    if data.as_ref().is_some_and(|data| Shared::is_whole(data, chunk)) {
                        continue;
                    }
                    verified.bad += 1;
                    self.shared.index.remove(std::slice::from_ref(chunk))?;
                    self.shared.forget_bytes(disk_cost(chunk.range));
                    self.shared.with_data(entry.entry_id, |data| data.punch(chunk.range))?;
                    on_bad(&BadChunk { path: entry.path.clone(), version: entry.version.clone(), range: chunk.range });
                }
            }
        })?;
        Ok(verified)
    }

    /// Removes entries; a path that names nothing in the cache is an error, after the others are gone.
    pub fn purge(&self, what: Purge<'_>) -> Result<Purged> {
        let mut purged = Purged::default();
        let mut missed: Vec<&str> = match what {
            Purge::All => Vec::new(),
            Purge::Paths(paths) => paths.iter().map(|path| path.trim_matches('/')).collect(),
        };
        self.shared.for_each_entry(|entry| {
            let named = match what {
                Purge::All => true,
                Purge::Paths(paths) => {
                    let hit =
                        paths.iter().map(|path| path.trim_matches('/')).find(|path| is_at_or_below(&entry.path, path));
                    missed.retain(|path| Some(*path) != hit);
                    hit.is_some()
                }
            };
            if named {
                if entry.pinned {
                    // Whoever purges it wants it gone.
                    self.shared.index.set_pinned(entry.entry_id, false)?;
                }
                purged.bytes += self.shared.retire(entry.entry_id)?;
                purged.entries += 1;
            }
            Ok(())
        })?;
        self.shared.count_pinned()?;
        match missed.first() {
            None => Ok(purged),
            Some(path) => Err(Error::new(
                Kind::Missing,
                format!(
                    "nothing is cached of {path} ({} other files purged): see `reelfs cache status`",
                    purged.entries
                ),
            )),
        }
    }
}

impl Shared {
    pub(super) fn for_each_entry(&self, mut visit: impl FnMut(&EntryRow) -> Result<()>) -> Result<()> {
        let mut after = i64::MIN;
        loop {
            let page = self.index.entries(after)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.entry_id;
            page.iter().try_for_each(&mut visit)?;
        }
    }
}

/// Whether `path` is `top` or lies below it; everything lies below `""`.
pub(super) fn is_at_or_below(path: &str, top: &str) -> bool {
    top.is_empty() || path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::is_at_or_below;

    #[test]
    fn a_folder_names_all_below_it() {
        assert!(is_at_or_below("a/b.mkv", "a"));
        assert!(is_at_or_below("a/b.mkv", "a/b.mkv"));
        assert!(is_at_or_below("a/b.mkv", ""));
        assert!(!is_at_or_below("ab/b.mkv", "a"));
    }
}
