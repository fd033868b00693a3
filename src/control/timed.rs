//! Which times a mount tells, by which names.
//! Never here: how they are counted (see `timing`), and how they are shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Served;
use crate::timing::{Quantiles, Timing};
use crate::volume::VolumeTimings;

/// A time that is told.
pub(super) struct Timed<'a> {
    /// In a snapshot; for Prometheus it stands between `reelfs_` and `_seconds`.
    pub name: &'static str,
    /// What is timed, in a line.
    pub help: &'static str,
    /// The counts.
    pub timing: &'a Timing,
}

/// How long one kind of thing took in the last five minutes. Too long by a quarter at most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimingSnapshot {
    /// How often it happened in these minutes.
    pub count: u64,
    /// Half of them took no longer.
    pub p50_ms: f64,
    /// Nine in ten.
    pub p90_ms: f64,
    /// All but one in a hundred.
    pub p99_ms: f64,
}

/// All that there are.
pub(super) fn all(served: &Served) -> Vec<Timed<'_>> {
    let timed = |(name, help, timing)| Timed { name, help, timing };
    match served {
        Served::Drive { metrics, .. } => Vec::from(
            [
                ("open", "From a file's opening to the answer.", &metrics.open),
                ("seek", "Until the first read after a jump was answered.", &metrics.seek),
                ("chunk_first_byte", "From a request for bytes to the first of them.", &metrics.chunk_first_byte),
                ("chunk_download", "From the first request for a chunk to its last byte.", &metrics.chunk_download),
                ("cache_queue", "How long a chunk waited for the cache's writer.", &metrics.cache_queue),
                ("cache_write", "Writing a chunk to the cache.", &metrics.cache_write),
                ("cache_sync", "Syncing a file of the cache.", &metrics.cache_sync),
                ("index_query", "Asking the index what is here of a range.", &metrics.index_query),
                ("index_commit", "Committing the rows of chunks to the index.", &metrics.index_commit),
            ]
            .map(timed),
        ),
        Served::Volume { volume, .. } => {
            let VolumeTimings { open, write, commit, catalog_commit, sync } = volume.timings();
            Vec::from(
                [
                    ("open", "From a file's opening to the answer.", open),
                    ("library_write", "One write of a program.", write),
                    ("library_commit", "Until a file's bytes and rows are synced.", commit),
                    ("library_sync", "Syncing bytes that become blobs; many at once are one.", sync),
                    ("library_catalog_commit", "Committing to the catalog, with its sync.", catalog_commit),
                ]
                .map(timed),
            )
        }
    }
}

/// What happened in the last minutes.
pub(super) fn snapshots(served: &Served) -> BTreeMap<String, TimingSnapshot> {
    let told = all(served).into_iter().filter_map(|Timed { name, timing, .. }| {
        let Quantiles { count, p50, p90, p99 } = timing.quantiles()?;
        let [p50_ms, p90_ms, p99_ms] = [p50, p90, p99].map(|time| time.as_secs_f64() * 1e3);
        Some((name.to_owned(), TimingSnapshot { count, p50_ms, p90_ms, p99_ms }))
    });
    told.collect()
}
