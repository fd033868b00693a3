//! What a mounted library tells of itself to a person who watches it.
//! Never here: how it is shown.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Shared, Volume};
use crate::error::{Error, Kind, Result};
use crate::metrics::Counter;
use crate::refusal::{Outcome, Refusal};
use crate::timing::Timing;

/// How old the totals of a status may be: counting them looks at every node, and `reelfs top` asks twice a second.
const TOTALS_AGE_MAX: Duration = Duration::from_secs(5);

/// Files and bytes in a library, as they were counted last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Totals {
    counted_at: Instant,
    files: u64,
    bytes: u64,
}

/// A library on this machine, mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Whether nothing may be changed on it.
    pub is_read_only: bool,
    /// Files in it.
    pub files: u64,
    /// Their sizes together; content that is equal is counted for each of them.
    pub content_bytes: u64,
    /// What programs may still write to its disk.
    pub disk_free_bytes: u64,
    /// Commits of files since the mount began.
    #[serde(default)]
    pub commits: u64,
    /// What programs wrote.
    #[serde(default)]
    pub written_bytes: u64,
    /// What they wrote and is not committed, whole chunks of which a part was written included.
    #[serde(default)]
    pub uncommitted_bytes: u64,
    /// Written chunks that wait to be hashed.
    #[serde(default)]
    pub queued_chunks: usize,
    /// Of the catalog's write-ahead log.
    #[serde(default)]
    pub wal_bytes: u64,
    /// Kept statements of the catalog that were planned anew: about 0.
    #[serde(default)]
    pub replans: u64,
    /// Blobs held on to, by files on their way in.
    #[serde(default)]
    pub pinned_blobs: usize,
    /// Blobs removed since the mount began, as no file needed them any longer.
    #[serde(default)]
    pub gc_blobs: u64,
    /// Their bytes.
    #[serde(default)]
    pub gc_bytes: u64,
    /// How many files are open.
    pub files_open: usize,
    /// The first of them.
    pub open: Vec<OpenStatus>,
}

/// A file of it that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenStatus {
    /// Relative to the library; one of its names.
    pub path: String,
    /// With what was written and is not committed.
    pub size_bytes: u64,
    /// Whether all that was written to it is committed.
    pub is_committed: bool,
}

/// What a volume counts.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub open: Timing,
    pub write: Timing,
    pub commit: Timing,
    pub written_bytes: Counter,
    pub gc_blobs: Counter,
    pub gc_bytes: Counter,
}

/// How long things take in a mounted library.
#[derive(Clone, Copy, Debug)]
pub struct VolumeTimings<'a> {
    /// From a file's opening to the answer.
    pub open: &'a Timing,
    /// One write of a program.
    pub write: &'a Timing,
    /// Of one file: until its bytes and its rows are synced.
    pub commit: &'a Timing,
    /// Of the catalog alone, with its sync.
    pub catalog_commit: &'a Timing,
    /// Of bytes that become blobs; many at once are one.
    pub sync: &'a Timing,
}

impl Volume {
    /// How long things take in it.
    pub fn timings(&self) -> VolumeTimings<'_> {
        let Shared { catalog, blobs, figures, .. } = &*self.shared;
        let Figures { open, write, commit, .. } = figures;
        VolumeTimings { open, write, commit, catalog_commit: catalog.commits(), sync: blobs.syncs() }
    }

    /// What it is and does now; of the open files `files_max` at most, those that were made first.
    pub fn status(&self, files_max: usize) -> Result<VolumeStatus> {
        let totals = self.totals()?;
        let mut open = self.shared.inodes.files();
        open.sort_by_key(|file| file.node_id());
        let files_open = open.len();
        let told = open.iter().filter_map(|file| {
            let node_id = file.node_id();
            let path = self.shared.catalog.read(|view| view.path_of(node_id)).ok().flatten()?;
            let size_bytes = self.attributes(node_id).ok()?.size_bytes;
            Some(OpenStatus { path, size_bytes, is_committed: file.is_clean() })
        });
        let Shared { catalog, blobs, figures, .. } = &*self.shared;
        Ok(VolumeStatus {
            commits: figures.commit.count(),
            written_bytes: figures.written_bytes.get(),
            uncommitted_bytes: open.iter().map(|file| file.uncommitted_bytes()).sum(),
            queued_chunks: self.upkeep.queued_chunks(),
            wal_bytes: catalog.wal_bytes(),
            replans: catalog.replans(),
            pinned_blobs: blobs.pinned_count(),
            gc_blobs: figures.gc_blobs.get(),
            gc_bytes: figures.gc_bytes.get(),
            is_read_only: self.is_read_only(),
            files: totals.files,
            content_bytes: totals.bytes,
            disk_free_bytes: failed(self.room())?.free_bytes,
            files_open,
            open: told.take(files_max).collect(),
        })
    }

    fn totals(&self) -> Result<Totals> {
        let mut known = self.totals.lock();
        if let Some(totals) = known.filter(|totals| totals.counted_at.elapsed() < TOTALS_AGE_MAX) {
            return Ok(totals);
        }
        let counted = self.shared.catalog.read(|view| Ok::<_, Refusal>(view.files_total()?));
        let (files, bytes) = failed(counted)?;
        let totals = Totals { counted_at: Instant::now(), files, bytes };
        *known = Some(totals);
        Ok(totals)
    }
}

/// A refusal is an error of the disk here: nobody has asked for anything that could be refused.
fn failed<T>(outcome: Outcome<T>) -> Result<T> {
    outcome.map_err(|refusal| match refusal {
        Refusal::Failed(error) => error,
        other => Error::new(Kind::Local, format!("{other:?}")),
    })
}
