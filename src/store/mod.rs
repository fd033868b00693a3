//! Keyed bytes: what every place that keeps bytes is asked, and the plain data that is passed up from it.
//! Never here: retries, caching, and any idea of what a drive is.

pub mod credentials;
pub mod dir;
mod driver;
pub mod ftp;
pub mod keyed;
mod listing;
mod loops;
pub mod remote;
mod server;
pub mod sftp;

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use crate::cancel::Cancel;
use crate::error::Result;
use crate::range::ByteRange;

pub use listing::{
    LINK_ENDING, LINK_TARGET_BYTES_MAX, LISTING_NAMES_MAX, Listed, ListedKind, NAME_BYTES_MAX, PAGE_NAMES_MAX, Pages,
    Paging, is_safe_name, join, link_file,
};
pub(crate) use listing::{sort_listing, whole};

/// What tells two states of a file apart: a strong `ETag`, else size and modification time.
/// Two versions are the same file content exactly when they are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(String);

impl Version {
    /// From a strong `ETag` as the server wrote it: quotes included, if it has any.
    pub fn etag(etag: &str) -> Self {
        Self(format!("etag:{etag}"))
    }

    /// From what is left when there is no strong `ETag`; a missing time leaves the size alone to tell.
    pub fn size_and_time(size_bytes: u64, modified: Option<SystemTime>) -> Self {
        let nanos = modified.map(|time| match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => i128::from(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX)),
            Err(before) => -i128::from(u64::try_from(before.duration().as_nanos()).unwrap_or(u64::MAX)),
        });
        match nanos {
            Some(nanos) => Self(format!("size:{size_bytes} mtime:{nanos}")),
            None => Self(format!("size:{size_bytes}")),
        }
    }

    /// As it was stored in the index.
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// Whether the size is all that tells this version from others: the server told nothing else.
    pub fn is_size_alone(&self) -> bool {
        self.0.starts_with("size:") && !self.0.contains(' ')
    }

    /// The `ETag`, if that is what this version rests on.
    pub fn as_etag(&self) -> Option<&str> {
        self.0.strip_prefix("etag:")
    }

    /// As stored in the index and shown in `user.reelfs.version`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One file as the origin itself describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Exact.
    pub size_bytes: u64,
    /// If the origin tells.
    pub modified: Option<SystemTime>,
    /// Ties reads to this state of the file.
    pub version: Version,
}

/// How long one answer may take, and who may call it off.
#[derive(Clone)]
pub struct Patience {
    /// Longest silence: until the answer begins, and between two pieces of it.
    pub stall: Duration,
    /// Set when nobody wants the bytes any longer; ends a wait at once with `Cancelled`.
    pub cancel: Cancel,
}

/// The bytes of one range as they arrive.
pub trait Body: Send {
    /// The next piece, never empty; `None` after the last byte of the range asked for.
    /// A body that ends early is an error (`Unreachable`: it may pass), never a `None`.
    fn next(&mut self) -> Result<Option<Bytes>>;
}

/// Part of a file whose version is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// So many bytes from its start on, or all if it has fewer.
    First(u64),
    /// So many bytes before its end, or all if it has fewer.
    Last(u64),
    /// Exactly these bytes; never empty.
    At(ByteRange),
}

/// An answer that says which version a file is, and brings the first bytes along.
pub struct Begun {
    /// The file, as this answer tells.
    pub stat: Stat,
    /// The bytes that come; not empty, within `stat.size_bytes`.
    pub range: ByteRange,
    /// They themselves.
    pub body: Box<dyn Body>,
    /// Calls the body off: the cancel of the patience it was asked with.
    pub cancel: Cancel,
}

/// Reads ranges of keyed bytes. Keys are `/`-separated and decoded; `""` is the store itself.
/// Every call may block up to its `Patience`.
pub trait Read: Send + Sync {
    /// Exact size, time and version of what `key` names.
    fn stat(&self, key: &str, patience: &Patience) -> Result<Stat>;

    /// Some bytes of whatever is at `key` now, with its stat: a round trip less than `stat` and `read`. `None` where that
    /// can't be had in one answer, or is no faster.
    fn begin(&self, _key: &str, _section: Section, _patience: &Patience) -> Result<Option<Begun>> {
        Ok(None)
    }

    /// Makes a few connections ready for requests to come, unless that was done less than `_every` ago. Returns at once;
    /// what comes of it is not told.
    fn warm(&self, _every: Duration) {}

    /// A request has had no answer since `_silent_since`: unless anything else has come since then, the connections that are
    /// open are not used again, as they may have died unseen.
    fn doubt(&self, _silent_since: Instant) {}

    /// For how long nothing has come over any connection; zero where that does not matter.
    fn silent_for(&self) -> Duration {
        Duration::ZERO
    }

    /// The bytes of `range` of exactly the state `expected`; `Changed` when there is another one by now.
    /// `range` is not empty and ends at or before `expected.size_bytes`.
    fn read(&self, key: &str, expected: &Stat, range: ByteRange, patience: &Patience) -> Result<Box<dyn Body>>;
}

/// Lists keys as folders.
pub trait List: Read {
    /// Hands all names of a folder to `pages`, a page at a time: in any order, unsafe ones left out (and logged); of a
    /// name that comes twice, the first counts. After an error, what was handed over means nothing.
    fn list(&self, folder: &str, patience: &Patience, pages: &mut Pages<'_>) -> Result<()>;
}
