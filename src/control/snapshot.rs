//! What a mount does at one moment, as plain data. Rates and shares are given beside the counts they come from, so that
//! nobody has to know how they are made.
//! Never here: how it is shown.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Mount;
use crate::metrics::Metrics;
use crate::origin::Health;
use crate::read::FileStatus;

/// Open files told one by one: more than anybody reads; a scanner opens hundreds.
const FILES_MAX: usize = 256;

/// One mount. Counts are since it began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Where it is.
    pub mountpoint: PathBuf,
    /// What it shows, without credentials.
    pub source: String,
    /// The process that serves it.
    pub pid: u32,
    /// How long it has been there.
    pub uptime_seconds: f64,
    /// What programs got.
    pub reads: ReadsSnapshot,
    /// The far side.
    pub origin: OriginSnapshot,
    /// The near one.
    pub cache: CacheSnapshot,
    /// How many files are open.
    pub files_open: usize,
    /// The first of them, 256 at most.
    pub files: Vec<FileStatus>,
}

/// Reads of all files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadsSnapshot {
    /// Answered.
    pub reads: u64,
    /// Of them, those that waited for the origin.
    pub waited: u64,
    /// Of them, those that failed.
    pub errors: u64,
    /// The share that did not wait, from 0 to 1; nothing before the first.
    pub hit_rate: Option<f64>,
    /// Times a player was kept waiting while it played.
    pub stalls: u64,
    /// How long.
    pub stalled_seconds: f64,
}

/// The origin, as its answers tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OriginSnapshot {
    /// Of the last seconds.
    pub rate_bytes_per_second: u64,
    /// That came in all.
    pub bytes: u64,
    /// For bytes.
    pub requests: u64,
    /// Whether it is asked at all.
    pub breaker: Breaker,
    /// How long it has not answered, while it is not asked.
    pub away_seconds: Option<f64>,
    /// Half of its last few hundred answers began by then.
    pub latency_p50_ms: Option<f64>,
    /// All but one in a hundred.
    pub latency_p99_ms: Option<f64>,
    /// Questions without an answer, or with an error that may pass.
    pub errors: u64,
    /// Requests made again.
    pub retries: u64,
}

/// Whether the origin is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Breaker {
    /// As usual.
    Closed,
    /// Not at all: it does not answer.
    Open,
    /// Not yet again: it is being looked at.
    HalfOpen,
}

impl Breaker {
    fn of(health: Health) -> Self {
        match health {
            Health::Closed => Self::Closed,
            Health::Open(_) => Self::Open,
            Health::HalfOpen(_) => Self::HalfOpen,
        }
    }
}

fn away_since(health: Health) -> Option<Instant> {
    match health {
        Health::Closed => None,
        Health::Open(since) | Health::HalfOpen(since) => Some(since),
    }
}

/// The cache of a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheSnapshot {
    /// On disk now.
    pub used_bytes: u64,
    /// Never more than this.
    pub budget_bytes: u64,
    /// Evicted to keep within it.
    pub evicted_bytes: u64,
    /// Fetched, and never read: of files that are closed, and behind the readers of those that are open.
    pub wasted_bytes: u64,
    /// Chunks that failed their hash.
    pub corrupt_chunks: u64,
}

impl Snapshot {
    /// Right now. Never asks the origin.
    pub(super) fn of(mount: &Mount) -> Self {
        let Mount { mountpoint, drive, cache, metrics, since } = mount;
        let (files, files_open) = drive.files_open(FILES_MAX);
        let wasted_so_far: u64 = files.iter().map(|file| file.wasted_bytes).sum();
        Self {
            mountpoint: mountpoint.clone(),
            source: drive.source().to_owned(),
            pid: std::process::id(),
            uptime_seconds: since.elapsed().as_secs_f64(),
            reads: ReadsSnapshot::of(metrics),
            origin: OriginSnapshot::of(metrics, drive.health()),
            cache: CacheSnapshot {
                used_bytes: cache.used_bytes(),
                budget_bytes: cache.budget_bytes(),
                evicted_bytes: metrics.cache_evicted_bytes.get(),
                wasted_bytes: metrics.wasted_bytes.get() + wasted_so_far,
                corrupt_chunks: metrics.cache_corrupt_chunks.get(),
            },
            files_open,
            files,
        }
    }
}

impl ReadsSnapshot {
    fn of(metrics: &Metrics) -> Self {
        let (reads, waited) = (metrics.reads.get(), metrics.reads_waited.get());
        #[allow(clippy::cast_precision_loss, reason = "a share is shown, not counted")]
        let share = |part: u64, whole: u64| part as f64 / whole as f64;
        Self {
            reads,
            waited,
            errors: metrics.read_errors.get(),
            hit_rate: (reads > 0).then(|| 1.0 - share(waited.min(reads), reads)),
            stalls: metrics.stalls.get(),
            stalled_seconds: Duration::from_micros(metrics.stalled_micros.get()).as_secs_f64(),
        }
    }
}

impl OriginSnapshot {
    fn of(metrics: &Metrics, health: Health) -> Self {
        let latency =
            |percent| metrics.origin_answer_times.percentile(percent).map(|latency| latency.as_secs_f64() * 1e3);
        Self {
            breaker: Breaker::of(health),
            away_seconds: away_since(health).map(|since| since.elapsed().as_secs_f64()),
            rate_bytes_per_second: metrics.origin_rate.per_second(),
            bytes: metrics.origin_bytes.get(),
            requests: metrics.origin_requests.get(),
            latency_p50_ms: latency(50),
            latency_p99_ms: latency(99),
            errors: metrics.origin_errors.get(),
            retries: metrics.retries.get(),
        }
    }
}
