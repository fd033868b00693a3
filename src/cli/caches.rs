//! What the `cache` commands ask of a cache, and which caches there are. The trait is the seam at which tests put a
//! double; `OnDisk` hands everything to `crate::cache`.
//! Never here: printing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use super::misuse;
use super::progress::Shown;
use crate::cache::{self, BadChunk, Cache, CacheStatus, EntryStatus, Purge, Purged, Verified};
use crate::config::{BLOCK_SIZE_BYTES, CACHE_SIZE_BYTES, CacheConfig};
use crate::control::{self, Answer, BadRange, Found, Request};
use crate::error::{Error, Kind, Result};
use crate::metrics::Metrics;
use crate::range::ByteRange;

/// What makes a folder a cache.
const INDEX_FILE_NAME: &str = "index.sqlite";

/// A person's caches, one for each source. Who has more removes some, or names one with `--cache-dir`.
const CACHES_MAX: usize = 10_000;

/// What the commands ask. `verify` and `purge` need the cache for themselves, or the mount that has it.
pub trait Caches {
    /// The whole.
    fn status(&self, dir: &Path) -> Result<CacheStatus>;
    /// A page of what is in it, after the entry with this id; empty at the end.
    fn entries(&self, dir: &Path, after: Option<i64>) -> Result<Vec<EntryStatus>>;
    /// Hashes all and drops what fails, telling each to `on_bad`.
    fn verify(&self, dir: &Path, is_quiet: bool, on_bad: &mut dyn FnMut(&BadChunk)) -> Result<Verified>;
    /// Forgets.
    fn purge(&self, dir: &Path, purge: Purge) -> Result<Purged>;
}

/// The caches there really are.
pub struct OnDisk;

impl Caches for OnDisk {
    fn status(&self, dir: &Path) -> Result<CacheStatus> {
        cache::status(dir)
    }

    fn entries(&self, dir: &Path, after: Option<i64>) -> Result<Vec<EntryStatus>> {
        cache::entries(dir, after)
    }

    fn verify(&self, dir: &Path, is_quiet: bool, on_bad: &mut dyn FnMut(&BadChunk)) -> Result<Verified> {
        let Some(mount) = mount_of(dir) else { return open(dir)?.verify(on_bad) };
        let verified = ask(mount, &Request::Verify { paths: Vec::new() }, is_quiet)?;
        verified_by_mount(verified, on_bad)
    }

    fn purge(&self, dir: &Path, purge: Purge) -> Result<Purged> {
        let Some(mount) = mount_of(dir) else { return open(dir)?.purge(purge) };
        let paths = if let Purge::Paths(paths) = purge { paths.to_vec() } else { Vec::new() };
        purged_by_mount(&ask(mount, &Request::Purge { paths }, true)?)
    }
}

/// The running mount of this user's that has the cache in `dir`; a cache that another process has is refused when it is opened.
fn mount_of(dir: &Path) -> Option<Found> {
    let pid = cache::status(dir).ok()?.holder_pid?;
    let mounts = control::ask_all(&Request::Status);
    let mountpoint = mounts.into_iter().find_map(|answer| match answer {
        Answer::Status(mount) if mount.pid == pid => Some(mount.mountpoint),
        _ => None,
    })?;
    control::find(&mountpoint).ok()
}

/// Asks a mount, and shows how it goes on.
pub fn ask(mount: Found, request: &Request, is_quiet: bool) -> Result<Answer> {
    let mut shown = Shown::new(is_quiet);
    let answer = mount.ask(request, &mut |progress| {
        shown.show_job(&progress);
        Ok(())
    });
    shown.clear();
    answer
}

/// What a mount has found.
pub fn verified_by_mount(answer: Answer, on_bad: &mut dyn FnMut(&BadChunk)) -> Result<Verified> {
    let Answer::Verified { chunks, bytes, bad_chunks, bad } = answer else { return Err(other_answer()) };
    for BadRange { path, version, start_byte, end_byte } in bad {
        on_bad(&BadChunk { path, version, range: ByteRange::new(start_byte, end_byte) });
    }
    Ok(Verified { chunks, bytes, bad: bad_chunks })
}

/// What a mount has forgotten.
pub fn purged_by_mount(answer: &Answer) -> Result<Purged> {
    let Answer::Purged { files, bytes, in_use_bytes } = *answer else { return Err(other_answer()) };
    Ok(Purged { entries: files, bytes, in_use_bytes })
}

fn other_answer() -> Error {
    Error::new(Kind::Unsupported, "the mount answered something else: mount again with this reelfs")
}

/// Opens a cache as its last mount had it, so that opening it evicts nothing.
fn open(dir: &Path) -> Result<Cache> {
    let status = cache::status(dir)?;
    let config = CacheConfig {
        dir: dir.to_owned(),
        // Never noted, or a note that was lost: room enough for what is there, and for what is pinned and still to come.
        size_bytes: status
            .budget_bytes
            .unwrap_or_else(|| CACHE_SIZE_BYTES.max(status.used_bytes.max(status.pinned_bytes).saturating_mul(2))),
        min_free_bytes: 0,
        // For new entries only, of which there are none; the smallest fits every budget.
        chunk_size_bytes: BLOCK_SIZE_BYTES,
    };
    Cache::open(&config, &status.source.unwrap_or_default(), Arc::new(Metrics::default()))
}

/// `dir`, if it is a cache.
pub fn one(dir: PathBuf) -> Result<Vec<PathBuf>> {
    if is_cache(&dir) {
        return Ok(vec![dir]);
    }
    let message = format!("{}: there is no cache here: `reelfs cache status` lists those there are", dir.display());
    Err(Error::new(Kind::Missing, message))
}

/// All caches directly below `base`, by name. None is no error: nothing was mounted yet.
pub fn all_below(base: &Path) -> Result<Vec<PathBuf>> {
    let fail = |error: io::Error| Error::io(base.display(), &error);
    let names = match fs::read_dir(base) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        names => names.map_err(fail)?,
    };
    let mut caches = Vec::new();
    for name in names {
        let dir = name.map_err(fail)?.path();
        if !is_cache(&dir) {
            continue;
        }
        if caches.len() == CACHES_MAX {
            return Err(misuse(format!(
                "{}: more than {CACHES_MAX} caches: name one with --cache-dir",
                base.display()
            )));
        }
        caches.push(dir);
    }
    caches.sort();
    Ok(caches)
}

fn is_cache(dir: &Path) -> bool {
    dir.join(INDEX_FILE_NAME).is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_a_folder_with_an_index() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path();
        assert!(all_below(&base.join("missing")).unwrap().is_empty());
        for cache in ["b", "a"] {
            fs::create_dir(base.join(cache)).unwrap();
            fs::write(base.join(cache).join(INDEX_FILE_NAME), "").unwrap();
        }
        fs::create_dir(base.join("other")).unwrap();
        fs::write(base.join("file"), "").unwrap();
        assert_eq!(all_below(base).unwrap(), [base.join("a"), base.join("b")]);
        assert_eq!(one(base.join("a")).unwrap(), [base.join("a")]);
        assert_eq!(one(base.join("other")).unwrap_err().kind(), Kind::Missing);
    }
}
