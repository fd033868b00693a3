//! Values under keys that are listed in order: what a library asks of a key-value store or a bucket, and each such home.
//! Never here: what keys and values mean, retries, pacing.

pub mod address;
pub mod at_once;
pub mod folder;
#[cfg(test)]
pub(crate) mod memory;
mod redb_file;
mod redis_line;
mod redis_names;
mod redis_server;
mod service;

use std::io::Read;
use std::ops::Bound;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;

/// A link slower than this is no link: a value on its way is waited for so much longer.
const SLOWEST_BYTES_PER_SECOND: u64 = 32 << 10;
/// Bytes of one value, where the home itself would take more: it is held in memory, and others take 25 MiB.
const VALUE_BYTES_MAX: u64 = 25 << 20;
/// Keys in one request or transaction, where the home itself would take more.
const BATCH_KEYS_MAX: usize = 1_000;
/// Bytes of a key, where the home itself would take more: the longest path of a library, and what stands around it.
const KEY_BYTES_MAX: usize = 4096 + 512;

/// What a home takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one value.
    pub value_bytes_max: u64,
    /// Bytes of one key, below the home's own root.
    pub key_bytes_max: usize,
    /// Bytes of what stands between two `/` of a key.
    pub name_bytes_max: usize,
    /// Keys that one call writes or deletes.
    pub batch_keys_max: usize,
    /// Requests that the home bears; `None`: as many as it gets done.
    pub requests_per_second: Option<u32>,
    /// Writes of one file that gain from being under way together: over a network, each waits for its answer.
    pub writes_at_once: usize,
    /// Requests for small values that are under way together where each value is a request of its own; 0 where many values
    /// are one request.
    pub small_at_once: usize,
}

/// What a home takes that would take more of itself; each says where it differs.
pub(crate) const LIMITS: Limits = Limits {
    value_bytes_max: VALUE_BYTES_MAX,
    key_bytes_max: KEY_BYTES_MAX,
    name_bytes_max: KEY_BYTES_MAX,
    batch_keys_max: BATCH_KEYS_MAX,
    requests_per_second: None,
    writes_at_once: 1,
    small_at_once: 0,
};

/// One key of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Below the home's root.
    pub key: String,
    /// Of its value, where the listing tells.
    pub size_bytes: Option<u64>,
}

/// What a home knows of a value without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Exact.
    pub size_bytes: u64,
    /// Last change, where the home tells.
    pub modified: Option<SystemTime>,
    /// What the home tells two states of the value apart by, if it does.
    pub etag: Option<String>,
}

/// What stands by a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum There {
    /// Neither a value, nor any below the key as if it was a folder.
    Nothing,
    /// A value.
    Value,
    /// No value, but values below it.
    Folder,
}

/// What a value was when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What was looked at.
    pub range: ByteRange,
    /// Of what of the value lies within it.
    pub sha256: Digest,
}

/// A value that another one was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swap {
    /// Of both.
    pub key: String,
    /// What is to be there still.
    pub seen: Seen,
    /// What comes in its place, if anything does.
    pub value: Option<Bytes>,
}

/// What is to be done where a value is to take the place of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is what was seen.
    Write,
    /// It was done by a request whose answer was lost.
    Done,
    /// It is something else by now.
    Leave,
}

impl Seen {
    /// Of the bytes that were read.
    pub fn of(range: ByteRange, bytes: &[u8]) -> Self {
        Self { range, sha256: Digest::of(bytes) }
    }
}

impl Swap {
    /// `now` is what of the value lies within the range that was looked at; none without a value.
    fn step(&self, now: Option<&[u8]>) -> Step {
        match (now, &self.value) {
            (Some(now), _) if Digest::of(now) == self.seen.sha256 => Step::Write,
            (Some(now), Some(value)) if within(value, self.seen.range) == now => Step::Done,
            (None, None) => Step::Done,
            _ => Step::Leave,
        }
    }
}

/// Tells a value that reelfs wrote from another program's file.
pub type IsValue<'a> = dyn Fn(&mut dyn Read) -> bool + 'a;

/// A home of values. Keys are UTF-8: safe names with a `/` between two. Every call may block, each for a bounded time;
/// what fails once has failed, and who asks again is decided above.
pub trait Keyed: Send + Sync {
    /// As a person wrote it, without credentials; told from others of the same name.
    fn describe(&self) -> &str;

    /// What it takes.
    fn limits(&self) -> &Limits;

    /// The bytes of a value that lie within `range`: fewer, or none, where the value ends before. `Missing` without a value.
    fn get(&self, key: &str, range: ByteRange) -> Result<Bytes>;

    /// What is known of a value. `Missing` without one.
    fn look(&self, key: &str) -> Result<Look> {
        let first = self.list(key, Bound::Included(key), 1)?.into_iter().next().filter(|first| first.key == key);
        let size_bytes = first.and_then(|key| key.size_bytes).ok_or_else(|| missing(self.describe(), key))?;
        Ok(Look { size_bytes, modified: None, etag: None })
    }

    /// Writes values, in this order where not at once, each wholly or not at all; they are there after a power cut when
    /// this returns. At most `batch_keys_max`.
    fn put(&self, entries: &[(String, Bytes)]) -> Result<()>;

    /// Writes values in any order, each wholly or not at all, for less than `put` where the home can; as lasting as that when
    /// this returns. After an error any of them may be there. At most `batch_keys_max`.
    fn put_together(&self, entries: &[(String, Bytes)]) -> Result<()> {
        self.put(entries)
    }

    /// What stands by each of these keys, in their order. At most `batch_keys_max`.
    fn there(&self, keys: &[String]) -> Result<Vec<There>> {
        let there = |key: &String| match self.get(key, ByteRange::new(0, 1)) {
            Ok(_) => Ok(There::Value),
            Err(error) if error.kind() == Kind::Missing => {
                let below = self.list(&format!("{key}/"), Bound::Unbounded, 1)?;
                Ok(if below.is_empty() { There::Nothing } else { There::Folder })
            }
            Err(error) => Err(error),
        };
        keys.iter().map(there).collect()
    }

    /// Removes values; those that are not there are no error. At most `batch_keys_max`. As lasting as `put`.
    fn delete(&self, keys: &[String]) -> Result<()>;

    /// Puts values in the place of others, or removes those, and says of each whether it is done: not where it is another one
    /// by now. At most `batch_keys_max`. One step where the home has such a step; else each is looked at right before.
    fn swap(&self, swaps: &[Swap]) -> Result<Vec<bool>> {
        let swap = |swap: &Swap| {
            let now = match self.get(&swap.key, swap.seen.range) {
                Err(error) if error.kind() == Kind::Missing => None,
                now => Some(now?),
            };
            match (swap.step(now.as_deref()), &swap.value) {
                (Step::Leave, _) => return Ok(false),
                (Step::Done, _) => {}
                (Step::Write, Some(value)) => self.put(&[(swap.key.clone(), value.clone())])?,
                (Step::Write, None) => self.delete(std::slice::from_ref(&swap.key))?,
            }
            Ok(true)
        };
        swaps.iter().map(swap).collect()
    }

    /// Closes what is kept on this machine to others, where an earlier version left it open to them. Only once it is known
    /// that a library is there: a home that is merely looked into may be anybody's folder. `is_value` tells the values of
    /// reelfs from other files, by their bytes.
    fn mend_modes(&self, _is_value: &IsValue<'_>) {}

    /// Looks for values that other programs have put since, where `list` does not show them by itself. May go through all keys.
    fn find_others(&self) -> Result<()> {
        Ok(())
    }

    /// Keys that begin with `prefix`, in the order of their bytes, from `from` on: at most `limit`, and fewer only where no
    /// more follow.
    fn list(&self, prefix: &str, from: Bound<&str>, limit: usize) -> Result<Vec<Key>>;
}

/// How long a call that moves so many bytes may take.
fn timeout(answer_timeout: Duration, bytes: u64) -> Duration {
    answer_timeout + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND)
}

fn missing(home: &str, key: &str) -> Error {
    Error::new(Kind::Missing, format!("{home}: no value under `{}`", key.escape_debug()))
}

/// What of `value` lies within `range`.
fn within(value: &[u8], range: ByteRange) -> &[u8] {
    let end = (value.len() as u64).min(range.end);
    &value[range.start.min(end) as usize..end as usize]
}

/// Where a listing begins: no key with this prefix comes before the prefix itself.
fn at_least<'a>(prefix: &'a str, from: Bound<&'a str>) -> Bound<&'a str> {
    match from {
        Bound::Included(start) | Bound::Excluded(start) if start >= prefix => from,
        _ => Bound::Included(prefix),
    }
}

/// Whether a listing that begins there holds `key`.
fn is_from(key: &str, from: Bound<&str>) -> bool {
    match from {
        Bound::Included(start) => key >= start,
        Bound::Excluded(start) => key > start,
        Bound::Unbounded => true,
    }
}
