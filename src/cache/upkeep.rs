//! What a person does to a cache: verify all of it, purge some of it. By a process that owns the directory and serves nobody
//! meanwhile; or, for `verify_beside` and `purge_beside`, by a mount that goes on serving.
//! Never here: what to print.

use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::data::disk_cost;
use super::index::EntryRow;
use super::keeper::{Job, punch};
use super::{Cache, Shared};
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;
use crate::store::{Stat, Version};

/// How often whoever asked hears of it while one file takes long: it gives up after some seconds without a word.
const TELL_EVERY: Duration = Duration::from_secs(1);

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
    /// Bytes of files that the kernel reads by itself right now: they stay until those files are closed.
    pub in_use_bytes: u64,
}

/// Hears which file is looked at and how many bytes are done, and may end the work by its error.
pub type Tell<'a> = &'a mut dyn FnMut(&str, u64) -> Result<()>;

/// What became of one entry that was to be purged.
pub(super) struct PurgedEntry {
    freed_bytes: u64,
    in_use_bytes: u64,
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
                    let cost = disk_cost(chunk.range);
                    self.shared.with_data(entry.entry_id, cost, |data| data.punch(chunk.range))?;
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

impl Cache {
    /// Hashes every chunk of these files, and of all below these folders, while it serves readers; a bad chunk is dropped, to be
    /// fetched again, and named to `on_bad`. Without a path: all. A version that a newer one has replaced is passed over: nobody
    /// can ask for it any longer.
    pub fn verify_beside(
        &self,
        paths: &[String],
        on_bad: &mut dyn FnMut(&BadChunk),
        tell: Tell<'_>,
    ) -> Result<Verified> {
        let mut verified = Verified::default();
        let mut missed = Missed::new(paths);
        self.shared.for_each_entry(|row| {
            if !missed.names(&row.path) {
                return Ok(());
            }
            let newest = self.shared.versions(&row.path)?.iter().map(|version| version.entry_id).max();
            if newest != Some(row.entry_id) {
                return Ok(());
            }
            let version = Version::from_stored(row.version.clone());
            let stat = Stat { size_bytes: row.size_bytes, modified: None, version };
            let entry = self.entry(&row.path, &stat)?;
            let mut at = 0;
            loop {
                let page = self.shared.index.chunks(row.entry_id, at)?;
                let Some(last) = page.last() else { return Ok(()) };
                at = last.range.end;
                for chunk in &page {
                    tell(&row.path, verified.bytes)?;
                    verified.chunks += 1;
                    verified.bytes += chunk.range.len();
                    let corrupt_before = self.shared.metrics.cache_corrupt_chunks.get();
                    // Not whole, and nothing was found wrong: it was evicted meanwhile.
                    if !self.check(&entry, chunk)? && self.shared.metrics.cache_corrupt_chunks.get() > corrupt_before {
                        verified.bad += 1;
                        on_bad(&BadChunk { path: row.path.clone(), version: row.version.clone(), range: chunk.range });
                    }
                }
            }
        })?;
        missed.check("")?;
        Ok(verified)
    }

    /// Forgets entries while it serves readers, pinned or not; errors as of `purge`. What the kernel reads by itself right now
    /// stays until it is closed.
    pub fn purge_beside(&self, what: Purge<'_>, tell: Tell<'_>) -> Result<Purged> {
        let paths = if let Purge::Paths(paths) = what { paths } else { &[] };
        let (mut purged, mut missed) = (Purged::default(), Missed::new(paths));
        self.shared.for_each_entry(|row| {
            if !missed.names(&row.path) {
                return Ok(());
            }
            tell(&row.path, purged.bytes)?;
            let (done, answer) = bounded(1);
            let gone = || Error::new(Kind::Cancelled, "the cache is being closed");
            self.shared.queue.push(Job::Purge { entry: row.clone(), done }).map_err(|_| gone())?;
            let entry = loop {
                match answer.recv_timeout(TELL_EVERY) {
                    Ok(entry) => break entry?,
                    Err(RecvTimeoutError::Timeout) => tell(&row.path, purged.bytes)?,
                    Err(RecvTimeoutError::Disconnected) => return Err(gone()),
                }
            };
            purged.entries += u64::from(entry.in_use_bytes == 0);
            purged.bytes += entry.freed_bytes;
            purged.in_use_bytes += entry.in_use_bytes;
            Ok(())
        })?;
        self.shared.count_pinned()?;
        missed.check(&format!(" ({} other files purged)", purged.entries))?;
        Ok(purged)
    }
}

/// The paths that a person named, and those of them that nothing was found for.
struct Missed<'a> {
    paths: Vec<&'a str>,
    missed: Vec<&'a str>,
}

impl<'a> Missed<'a> {
    fn new(paths: &'a [String]) -> Self {
        let paths: Vec<&str> = paths.iter().map(|path| path.trim_matches('/')).collect();
        // All of it may be nothing.
        Self { missed: paths.iter().copied().filter(|path| !path.is_empty()).collect(), paths }
    }

    /// Whether `path` is named: it is one of them, or lies below one. Without any path, all are.
    fn names(&mut self, path: &str) -> bool {
        let hit = self.paths.iter().copied().find(|top| is_at_or_below(path, top));
        self.missed.retain(|missed| Some(*missed) != hit);
        hit.is_some() || self.paths.is_empty()
    }

    fn check(&self, done: &str) -> Result<()> {
        let Some(path) = self.missed.first() else { return Ok(()) };
        let message = format!("nothing is cached of {path}{done}: see `reelfs cache status`");
        Err(Error::new(Kind::Missing, message))
    }
}

impl Shared {
    /// Forgets an entry, on the writer's thread: so nothing is written to it meanwhile.
    pub(super) fn purge_entry(&self, entry: &EntryRow) -> Result<PurgedEntry> {
        let (id, slot_size) = (entry.entry_id, entry.chunk_size_bytes);
        if entry.pinned {
            // Whoever purges it wants it gone.
            self.index.set_pinned(id, false)?;
        }
        let held_bytes = self.index.held(id)?.1;
        if self.hot.is_pinned(id) {
            return Ok(PurgedEntry { freed_bytes: 0, in_use_bytes: held_bytes });
        }
        let freed_bytes = self.retire(id)?;
        // Open: it stays, without any bytes.
        let mut at = 0;
        loop {
            let page = self.index.chunks(id, at)?;
            let Some(last) = page.last() else { break };
            at = last.range.end;
            // Before the rows go: what is wanted again is fetched anew from here on.
            for chunk in &page {
                self.hot.distrust(id, slot_size, chunk.range);
            }
            self.index.remove(&page)?;
            for chunk in &page {
                punch(self, id, slot_size, chunk.range);
            }
        }
        Ok(PurgedEntry { freed_bytes: freed_bytes.max(held_bytes), in_use_bytes: 0 })
    }

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
    use super::*;

    #[test]
    fn paths_that_nothing_is_found_for_are_missed() {
        let paths = ["a/".to_owned(), "b.mkv".to_owned()];
        let mut missed = Missed::new(&paths);
        assert!(missed.names("a/x.mkv") && !missed.names("c"));
        assert!(missed.check("").unwrap_err().to_string().contains("b.mkv"));
        assert!(missed.names("b.mkv") && missed.check("").is_ok());
        assert!(Missed::new(&[]).names("anything") && Missed::new(&["/".to_owned()]).check("").is_ok());
    }

    #[test]
    fn a_folder_names_all_below_it() {
        assert!(is_at_or_below("a/b.mkv", "a"));
        assert!(is_at_or_below("a/b.mkv", "a/b.mkv"));
        assert!(is_at_or_below("a/b.mkv", ""));
        assert!(!is_at_or_below("ab/b.mkv", "a"));
    }
}
