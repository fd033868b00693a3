//! What the `cache` commands ask of a cache, and which caches there are. The trait is the seam at which tests put a
//! double; `OnDisk` hands everything to `crate::cache`.
//! Never here: printing.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fs, io};

use super::misuse;
use crate::error::{Error, Kind, Result};

/// What makes a folder a cache.
const INDEX_FILE_NAME: &str = "index.sqlite";

/// Entries asked for at once: little memory however many there are, and few questions.
pub const PAGE_ENTRIES_MAX: usize = 1000;

/// A person's caches, one for each source. Who has more removes some, or names one with `--cache-dir`.
const CACHES_MAX: usize = 10_000;

/// A cache as a whole.
#[derive(Clone, Debug)]
pub struct Summary {
    /// What it caches, without credentials.
    pub source: String,
    /// Chunk bytes on disk.
    pub used_bytes: u64,
    /// The most it may hold, as its last mount was told.
    pub budget_bytes: Option<u64>,
    /// The process that has it open.
    pub holder_pid: Option<u32>,
}

/// One cached version of one file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where a listing goes on: after this one.
    pub id: i64,
    /// Relative to the source.
    pub path: String,
    /// As recorded.
    pub version: String,
    /// Of the whole file.
    pub size_bytes: u64,
    /// Of it, here.
    pub cached_bytes: u64,
    /// In so many pieces.
    pub chunks: u64,
    /// Last use.
    pub accessed: SystemTime,
    /// Kept whatever the budget says.
    pub is_pinned: bool,
}

/// A chunk whose bytes were not what was recorded.
#[derive(Clone, Debug)]
pub struct BadChunk {
    /// The file.
    pub path: String,
    /// The bytes of it.
    pub range_bytes: Range<u64>,
}

/// What was verified.
#[derive(Clone, Copy, Debug, Default)]
pub struct Verified {
    /// Hashed again.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Failed and dropped.
    pub bad: u64,
}

/// What to forget.
#[derive(Clone, Copy, Debug)]
pub enum Purge<'a> {
    /// Everything.
    All,
    /// These files, as `status` lists them.
    Paths(&'a [String]),
}

/// What was forgotten.
#[derive(Clone, Copy, Debug, Default)]
pub struct Purged {
    /// Versions of files.
    pub entries: u64,
    /// Their bytes on disk.
    pub bytes: u64,
}

/// What the commands ask. `verify` and `purge` need the cache for themselves and are refused beside a mount.
pub trait Caches {
    /// The whole, without its entries.
    fn summary(&self, dir: &Path) -> Result<Summary>;
    /// At most `limit` entries after the one with id `after`, by id; fewer only at the end.
    fn entries(&self, dir: &Path, after: Option<i64>, limit: usize) -> Result<Vec<Entry>>;
    /// Hashes all and drops what fails, telling each to `on_bad`.
    fn verify(&self, dir: &Path, on_bad: &mut dyn FnMut(&BadChunk)) -> Result<Verified>;
    /// Forgets.
    fn purge(&self, dir: &Path, purge: Purge) -> Result<Purged>;
}

/// The caches there really are.
pub struct OnDisk;

impl Caches for OnDisk {
    fn summary(&self, dir: &Path) -> Result<Summary> {
        Err(not_wired(dir))
    }

    fn entries(&self, dir: &Path, _after: Option<i64>, _limit: usize) -> Result<Vec<Entry>> {
        Err(not_wired(dir))
    }

    fn verify(&self, dir: &Path, _on_bad: &mut dyn FnMut(&BadChunk)) -> Result<Verified> {
        Err(not_wired(dir))
    }

    fn purge(&self, dir: &Path, _purge: Purge) -> Result<Purged> {
        Err(not_wired(dir))
    }
}

fn not_wired(dir: &Path) -> Error {
    Error::new(Kind::Unsupported, format!("{}: not wired yet", dir.display()))
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
