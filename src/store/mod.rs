//! Keyed bytes: what every place that keeps bytes is asked, and the plain data that is passed up from it.
//! Never here: retries, caching, and any idea of what a drive is.

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::cancel::Cancel;
use crate::error::Result;
use crate::range::ByteRange;

/// Most names a listing may hold; a longer one is refused with `Full`, never loaded.
pub const LISTING_NAMES_MAX: usize = 1_000_000;

/// What tells two states of a file apart: a strong `ETag`, else size and modification time.
/// Two versions are the same file content exactly when they are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(String);

impl Version {
    /// From a strong `ETag`, quotes included.
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

/// A name in a folder, as its listing tells it. The name is safe: not empty, not `.` or `..`, no `/`, no NUL,
/// at most 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The last component, decoded.
    pub name: Box<str>,
    /// Folder, or file with what the listing says of its size.
    pub kind: ListedKind,
    /// As far as the listing tells; often to the minute only.
    pub modified: Option<SystemTime>,
}

/// What a listed name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListedKind {
    /// A folder.
    Folder,
    /// A file; the size only where the listing is exact.
    File {
        /// Exact size, or nothing: then `stat` tells.
        size_bytes: Option<u64>,
    },
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

/// Reads ranges of keyed bytes. Keys are `/`-separated and decoded; `""` is the store itself.
/// Every call may block up to its `Patience`.
pub trait Read: Send + Sync {
    /// Exact size, time and version of what `key` names.
    fn stat(&self, key: &str, patience: &Patience) -> Result<Stat>;

    /// The bytes of `range` of exactly the state `expected`; `Changed` when there is another one by now.
    /// `range` is not empty and ends at or before `expected.size_bytes`.
    fn read(&self, key: &str, expected: &Stat, range: ByteRange, patience: &Patience) -> Result<Box<dyn Body>>;
}

/// Lists keys as folders.
pub trait List: Read {
    /// All names of a folder, sorted by name, each once, unsafe ones left out (and logged).
    fn list(&self, folder: &str, patience: &Patience) -> Result<Vec<Listed>>;
}
