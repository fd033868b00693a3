//! What a mount does at one moment, as plain data. Rates and shares are given beside the counts they come from, so that
//! nobody has to know how they are made.
//! Never here: how it is shown.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::process::ProcessSnapshot;
use super::timed::{self, TimingSnapshot};
use super::{Mount, Served};
use crate::error::Result;
use crate::metrics::Metrics;
use crate::origin::Health;
use crate::problems::Noticed;
use crate::read::FileStatus;
use crate::volume::VolumeStatus;

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
    /// What is wrong now; empty while all is well.
    #[serde(default)]
    pub problems: Vec<ProblemSnapshot>,
    /// The last thing that went wrong since the mount began, mended or not.
    #[serde(default)]
    pub last_error: Option<NoticedSnapshot>,
    /// How long things took in the last five minutes; what did not happen in them is left out.
    #[serde(default)]
    pub timings: BTreeMap<String, TimingSnapshot>,
    /// The process that serves it.
    #[serde(default)]
    pub process: ProcessSnapshot,
    /// What programs got. Nothing of a library on this machine, like the next two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<ReadsSnapshot>,
    /// The far side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<OriginSnapshot>,
    /// The near one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheSnapshot>,
    /// A library on this machine; nothing of any other source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub library: Option<VolumeStatus>,
    /// How many files are open.
    pub files_open: usize,
    /// The first of them, 256 at most; those of a library on this machine are told there.
    pub files: Vec<FileStatus>,
}

/// Something that went wrong, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoticedSnapshot {
    /// One line.
    pub message: String,
    /// How long ago.
    pub ago_seconds: f64,
    /// When, in seconds since 1970.
    pub at_unix_seconds: u64,
}

impl NoticedSnapshot {
    fn of(noticed: Noticed) -> Self {
        Self {
            ago_seconds: noticed.at.elapsed().as_secs_f64(),
            at_unix_seconds: noticed.clock.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
            message: noticed.message,
        }
    }
}

/// Something that is wrong now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProblemSnapshot {
    /// `origin` or `cache`.
    pub part: String,
    /// What, and since when.
    #[serde(flatten)]
    pub noticed: NoticedSnapshot,
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
    /// Second requests, made as the first was late.
    #[serde(default)]
    pub hedges: u64,
    /// Of them, those that were answered first.
    #[serde(default)]
    pub hedge_wins: u64,
    /// Fetches called off, as nobody wanted them any longer.
    #[serde(default)]
    pub flights_cancelled: u64,
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
    /// Questions to the index on the way of a read; reads of what is known to be here ask none.
    #[serde(default)]
    pub index_lookups: u64,
    /// Kept statements of the index that were planned anew: about 0.
    #[serde(default)]
    pub index_replans: u64,
    /// Of the index's write-ahead log.
    #[serde(default)]
    pub index_wal_bytes: u64,
    /// Jobs that wait for the cache's writer.
    #[serde(default)]
    pub queued_jobs: usize,
}

impl Snapshot {
    /// Right now. Never asks the origin.
    pub(super) fn of(mount: &Mount) -> Result<Self> {
        let Mount { mountpoint, served, since } = mount;
        let mut snapshot = Self {
            mountpoint: mountpoint.clone(),
            source: served.source().to_owned(),
            pid: std::process::id(),
            uptime_seconds: since.elapsed().as_secs_f64(),
            problems: Vec::new(),
            last_error: None,
            timings: timed::snapshots(served),
            process: ProcessSnapshot::now(),
            reads: None,
            origin: None,
            cache: None,
            library: None,
            files_open: 0,
            files: Vec::new(),
        };
        match served {
            Served::Drive { drive, cache, metrics } => {
                let problems = metrics.problems.now().into_iter();
                snapshot.problems = problems
                    .map(|(part, noticed)| ProblemSnapshot {
                        part: part.name().to_owned(),
                        noticed: NoticedSnapshot::of(noticed),
                    })
                    .collect();
                snapshot.last_error = metrics.problems.last_error().map(NoticedSnapshot::of);
                (snapshot.files, snapshot.files_open) = drive.files_open(FILES_MAX);
                let wasted_so_far: u64 = snapshot.files.iter().map(|file| file.wasted_bytes).sum();
                snapshot.reads = Some(ReadsSnapshot::of(metrics));
                snapshot.origin = Some(OriginSnapshot::of(metrics, drive.health()));
                let inner = cache.inner();
                snapshot.cache = Some(CacheSnapshot {
                    used_bytes: cache.used_bytes(),
                    budget_bytes: cache.budget_bytes(),
                    evicted_bytes: metrics.cache_evicted_bytes.get(),
                    wasted_bytes: metrics.wasted_bytes.get() + wasted_so_far,
                    corrupt_chunks: metrics.cache_corrupt_chunks.get(),
                    index_lookups: metrics.index_lookups.get(),
                    index_replans: inner.index_replans,
                    index_wal_bytes: inner.index_wal_bytes,
                    queued_jobs: inner.queued_jobs,
                });
            }
            Served::Volume { volume, .. } => {
                let library = volume.status(FILES_MAX)?;
                snapshot.files_open = library.files_open;
                snapshot.library = Some(library);
            }
        }
        Ok(snapshot)
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
            hedges: metrics.hedges.get(),
            hedge_wins: metrics.hedge_wins.get(),
            flights_cancelled: metrics.flights_cancelled.get(),
        }
    }
}
