//! What a mounted library tells of itself to a person who watches it.
//! Never here: how it is shown.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Volume;
use crate::error::{Error, Kind, Result};
use crate::refusal::{Outcome, Refusal};

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

impl Volume {
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
        Ok(VolumeStatus {
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
