//! Keyed bytes: what every place that keeps bytes is asked, and the plain data that is passed up from it.
//! Never here: retries, caching, and any idea of what a drive is.

pub mod dir;
pub mod remote;

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::cancel::Cancel;
use crate::error::Result;
use crate::range::ByteRange;

/// Most names a listing may hold; a longer one is refused with `Full`, never loaded.
pub const LISTING_NAMES_MAX: usize = 1_000_000;

/// Longest name in bytes; Linux's `NAME_MAX`, beyond which no program could open it.
pub const NAME_BYTES_MAX: usize = 255;

/// Whether a name from outside may become a name on the drive: one component, that can't climb and can be opened.
pub fn is_safe_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.len() <= NAME_BYTES_MAX && !name.contains(['/', '\0'])
}

/// Sorts a listing by name and keeps the first of each.
pub(crate) fn sort_listing(names: &mut Vec<Listed>) {
    names.sort_by(|a, b| a.name.cmp(&b.name)); // stable: the first stays first
    names.dedup_by(|later, kept| later.name == kept.name);
}

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

/// One end of a file whose size is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// So many bytes from its start on, or all if it has fewer.
    First(u64),
    /// So many bytes before its end, or all if it has fewer.
    Last(u64),
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

    /// One end of whatever is at `key` now, with its stat: a round trip less than `stat` and `read`. `None` where that
    /// can't be had in one answer, or is no faster.
    fn begin(&self, _key: &str, _end: End, _patience: &Patience) -> Result<Option<Begun>> {
        Ok(None)
    }

    /// Makes a few connections ready for requests to come, unless that was done less than `_every` ago. Returns at once;
    /// what comes of it is not told.
    fn warm(&self, _every: Duration) {}

    /// The bytes of `range` of exactly the state `expected`; `Changed` when there is another one by now.
    /// `range` is not empty and ends at or before `expected.size_bytes`.
    fn read(&self, key: &str, expected: &Stat, range: ByteRange, patience: &Patience) -> Result<Box<dyn Body>>;
}

/// Lists keys as folders.
pub trait List: Read {
    /// All names of a folder, sorted by name, each once, unsafe ones left out (and logged).
    fn list(&self, folder: &str, patience: &Patience) -> Result<Vec<Listed>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_climb_or_cannot_be_opened_are_unsafe() {
        let long = "x".repeat(NAME_BYTES_MAX);
        for safe in ["a", "...", "..a", " ", "a\\b", "é", "?#%", long.as_str()] {
            assert!(is_safe_name(safe), "{safe:?}");
        }
        let longer = "x".repeat(NAME_BYTES_MAX + 1);
        for bad in ["", ".", "..", "a/b", "/", "a\0", longer.as_str()] {
            assert!(!is_safe_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_listing_is_sorted_and_keeps_the_first_of_each_name() {
        let listed = |name: &str, kind| Listed { name: name.into(), kind, modified: None };
        let file = ListedKind::File { size_bytes: None };
        let mut names = vec![listed("b", file), listed("a", ListedKind::Folder), listed("a", file)];
        sort_listing(&mut names);
        assert_eq!(names, [listed("a", ListedKind::Folder), listed("b", file)]);
    }
}
