//! The way to talk to a running mount: a socket of its own in the runtime directory. One line of JSON asks, one line
//! answers; a job that takes long answers with several, of which all but the last are [`Answer::Progress`].
//! Never here: what a request does to a drive's parts beyond calling them (`answers`), and printing.
//!
//! ```text
//! RUNTIME/0123456789abcdef.sock      the mount on the folder with this hash (see `place`)
//!
//! → {"request":"status"}
//! ← {"answer":"status","mountpoint":"/home/me/films",…}
//! ```
//!
//! A new request is a variant of [`Request`], an arm in `answers`, and, if [`Answer::Done`] won't do, a variant of
//! [`Answer`]. It must not wait for the origin without saying so by progress: whoever asks gives up after a while.
//!
//! Only the user who mounted, and root, are answered. Beside it stands a page of totals for Prometheus, if it is asked for
//! (`exporter`).

mod answers;
mod client;
mod exporter;
mod place;
mod process;
mod prometheus;
mod seats;
mod server;
mod snapshot;
mod timed;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::cache::Cache;
use crate::drive::Drive;
use crate::error::Kind;
use crate::metrics::Metrics;
use crate::volume::Volume;

pub use client::{Found, ask, ask_all, find};
pub use exporter::Exporter;
pub use process::ProcessSnapshot;
pub use server::Control;
pub use snapshot::{Breaker, CacheSnapshot, NoticedSnapshot, OriginSnapshot, ProblemSnapshot, ReadsSnapshot, Snapshot};
pub use timed::TimingSnapshot;

/// The mount that is talked to.
pub struct Mount {
    /// Where it is: absolute, links resolved.
    pub mountpoint: PathBuf,
    /// What it serves.
    pub served: Served,
    /// When it began.
    pub since: Instant,
}

/// What a mount serves.
pub enum Served {
    /// A drive that shows something far, or a library in a store.
    Drive {
        /// What it shows.
        drive: Arc<Drive>,
        /// What it holds.
        cache: Arc<Cache>,
        /// What it counts.
        metrics: Arc<Metrics>,
    },
    /// A library on this machine.
    Volume {
        /// What it shows.
        volume: Arc<Volume>,
        /// The source as it was written.
        source: String,
    },
}

impl Served {
    /// What it shows, without credentials.
    pub fn source(&self) -> &str {
        match self {
            Self::Drive { drive, .. } => drive.source(),
            Self::Volume { source, .. } => source,
        }
    }
}

/// What can be asked of a running mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// What it does right now. Never asks the origin.
    Status,
    /// Never evict a file, or any below a folder, from now on; told as `Progress` while their versions are asked for.
    Pin {
        /// Relative to the source; `""` is all of it.
        path: String,
    },
    /// Take the pins of a file, or of all below a folder, back. Never asks the origin.
    Unpin {
        /// Relative to the source; `""` is all of it.
        path: String,
    },
    /// Fetch a file, or all below a folder, while nobody else wants the link; told as `Progress`.
    Warm {
        /// Relative to the source; `""` is all of it.
        path: String,
        /// Only what players open films with.
        head_tail: bool,
    },
    /// Hash what is cached of files, or below folders, and drop what is bad; told as `Progress`. Never asks the origin.
    Verify {
        /// Relative to the source; without any all that is cached.
        paths: Vec<String>,
    },
    /// Forget what is cached of files, or below folders, pinned or not. Never asks the origin.
    Purge {
        /// Relative to the source; without any all that is cached.
        paths: Vec<String>,
    },
    /// What is at `path` and below it is asked for anew by whoever wants it next. Asks nothing itself.
    Refresh {
        /// Relative to the source; `""` is all of it.
        path: String,
    },
}

/// What a mount says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// How a long job goes on; more lines follow. Sent at least every few seconds, or whoever asked gives up.
    Progress(JobProgress),
    /// To `Status`.
    Status(Box<Snapshot>),
    /// To `Verify`.
    Verified {
        /// Chunks hashed.
        chunks: u64,
        /// Bytes hashed.
        bytes: u64,
        /// Chunks that were bad, and are gone.
        bad_chunks: u64,
        /// The first of them, 1,000 at most.
        bad: Vec<BadRange>,
    },
    /// To `Purge`.
    Purged {
        /// Files forgotten.
        files: u64,
        /// Bytes freed.
        bytes: u64,
        /// Bytes that the kernel reads by itself right now: they stay until their files are closed.
        in_use_bytes: u64,
    },
    /// It is done.
    Done {
        /// What was done, in one line for a person.
        message: String,
    },
    /// It could not be done.
    Failed {
        /// What callers treat apart.
        kind: Kind,
        /// Why, in one line for a person.
        message: String,
    },
}

/// Bytes of a file that failed their hash, and were dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRange {
    /// Relative to the source.
    pub path: String,
    /// As the index has it.
    pub version: String,
    /// The first byte.
    pub start_byte: u64,
    /// The one behind the last.
    pub end_byte: u64,
}

/// How far a long job has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The file that is worked on, relative to the source.
    pub path: String,
    /// Bytes done, of all files together.
    pub done_bytes: u64,
    /// Bytes to do, those done included; grows while there is more to be found.
    pub total_bytes: u64,
}

/// How far a mount's long job has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobProgress {
    /// All of it.
    #[serde(flatten)]
    pub progress: Progress,
    /// Of the bytes done, those that were there before the job began.
    #[serde(default)]
    pub here_bytes: u64,
}

impl From<Progress> for JobProgress {
    fn from(progress: Progress) -> Self {
        Self { progress, here_bytes: 0 }
    }
}

impl Answer {
    /// Whether nothing follows it.
    pub fn is_last(&self) -> bool {
        !matches!(self, Self::Progress(_))
    }
}
