//! What a cache holds, seen from outside: works beside the process that owns it, takes no lock, changes nothing.
//! The whole in `status`, what is in it page by page in `entries`: memory does not grow with the cache.
//! Never here: formatting.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::index::{EntryRow, Index};
use super::{Cache, Shared, index_path};
use crate::error::{Error, Kind, Result};
use crate::lock;
use crate::modes::Modes;

/// One cache directory.
#[derive(Clone, Debug)]
pub struct CacheStatus {
    /// Where it is.
    pub dir: PathBuf,
    /// The source it serves, without credentials; `None` while nothing is cached.
    pub source: Option<String>,
    /// Bytes of all recorded chunks.
    pub used_bytes: u64,
    /// The sizes of the files that are pinned, whatever is here of them.
    pub pinned_bytes: u64,
    /// The limit it was last opened with.
    pub budget_bytes: Option<u64>,
    /// The process that owns it now.
    pub holder_pid: Option<u32>,
}

/// One cached version of one file.
#[derive(Clone, Debug)]
pub struct EntryStatus {
    /// Where the listing goes on: after this one.
    pub entry_id: i64,
    /// Relative to the source.
    pub path: String,
    /// What tells it from other states of the file.
    pub version: String,
    /// Of the file.
    pub size_bytes: u64,
    /// Of it, on disk.
    pub cached_bytes: u64,
    /// Rows.
    pub chunks: u64,
    /// Last read.
    pub accessed: SystemTime,
    /// Never evicted.
    pub pinned: bool,
}

/// What the machinery behind an open cache does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Jobs that wait for the cache's writer.
    pub queued_jobs: usize,
    /// Bytes of the index's write-ahead log.
    pub index_wal_bytes: u64,
    /// How often kept statements of the index's idle connections were planned anew: about 0.
    pub index_replans: u64,
}

impl Cache {
    /// What goes on behind it. Waits for nothing.
    pub fn inner(&self) -> Inner {
        let Shared { queue, index, .. } = &*self.shared;
        Inner { queued_jobs: queue.waiting(), index_wal_bytes: index.wal_bytes(), index_replans: index.replans() }
    }
}

/// Looks at the cache in `dir`; `Missing` if there is none.
pub fn status(dir: &Path) -> Result<CacheStatus> {
    let index = look(dir)?;
    Ok(CacheStatus {
        dir: dir.to_owned(),
        source: index.origin()?,
        used_bytes: index.used_bytes(1)?,
        pinned_bytes: index.pinned_bytes()?,
        budget_bytes: std::fs::read_to_string(budget_path(dir)).ok().and_then(|text| text.trim().parse().ok()),
        holder_pid: lock::holder_pid(dir),
    })
}

/// A page of entries by id, that is by age: those after `after`, from the first without it. Empty at the end.
pub fn entries(dir: &Path, after: Option<i64>) -> Result<Vec<EntryStatus>> {
    let index = look(dir)?;
    let page = index.entries(after.unwrap_or(i64::MIN))?;
    page.into_iter().map(|row| entry_status(&index, row)).collect()
}

fn look(dir: &Path) -> Result<Index> {
    if !index_path(dir).exists() {
        return Err(Error::new(Kind::Missing, format!("there is no cache in {}", dir.display())));
    }
    Index::open_to_look(&index_path(dir))
}

fn entry_status(index: &Index, row: EntryRow) -> Result<EntryStatus> {
    let (chunks, cached_bytes) = index.held(row.entry_id)?;
    let accessed = SystemTime::UNIX_EPOCH + Duration::from_micros(row.accessed_at.try_into().unwrap_or(0));
    let EntryRow { entry_id, path, version, size_bytes, pinned, .. } = row;
    Ok(EntryStatus { entry_id, path, version, size_bytes, cached_bytes, chunks, accessed, pinned })
}

fn budget_path(dir: &Path) -> PathBuf {
    dir.join("budget")
}

/// Leaves the limit where `status` finds it, whole or as it was: on a full disk half a number would be one, too. Who opens
/// the cache without it makes room enough, so a failure to write it is no failure.
pub(super) fn note_budget(dir: &Path, budget_bytes: u64) {
    let new = dir.join("budget.new");
    // Whatever stands there is not written through.
    let _ = std::fs::remove_file(&new);
    let _ = Modes::of(dir)
        .write(&new, format!("{budget_bytes}\n").as_bytes())
        .and_then(|()| std::fs::rename(&new, budget_path(dir)));
}
