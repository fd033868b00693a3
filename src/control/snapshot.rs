//! What a mount does at one moment, as plain data.
//! Never here: how it is shown.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Mount;

/// One mount. Counts are since it began.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// Where it is.
    pub mountpoint: PathBuf,
    /// What it shows, without credentials.
    pub source: String,
    /// The process that serves it.
    pub pid: u32,
    /// How long it has been there.
    pub uptime_seconds: f64,
    /// Its cache.
    pub cache: CacheSnapshot,
}

/// The cache of a mount.
#[allow(clippy::struct_field_names, reason = "each is bytes")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheSnapshot {
    /// On disk now.
    pub used_bytes: u64,
    /// Never more than this.
    pub budget_bytes: u64,
    /// Evicted to keep within it.
    pub evicted_bytes: u64,
}

impl Snapshot {
    /// Right now. Asks neither the origin nor the disk.
    pub(super) fn of(mount: &Mount) -> Self {
        let Mount { mountpoint, drive, cache, metrics, since } = mount;
        Self {
            mountpoint: mountpoint.clone(),
            source: drive.source().to_owned(),
            pid: std::process::id(),
            uptime_seconds: since.elapsed().as_secs_f64(),
            cache: CacheSnapshot {
                used_bytes: cache.used_bytes(),
                budget_bytes: cache.budget_bytes(),
                evicted_bytes: metrics.cache_evicted_bytes.get(),
            },
        }
    }
}
