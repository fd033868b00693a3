//! A file that only grew, as a recording does, is told from one that was replaced: the end of what it was is as it was. What was
//! read of the one stays right, and the rest is asked for in its present state.
//! Never here: when this is asked (see `worker`, and `drive/growth.rs`), and what an entry stands for (see `cache/growth.rs`).

use std::time::Duration;

use super::{Fetcher, Shared};
use crate::cache::Entry;
use crate::config::BLOCK_SIZE_BYTES;
use crate::error::{Error, Kind, Result};
use crate::origin::{Body, Patience, Section, Stat};
use crate::range::ByteRange;

/// Of the old end, so many bytes are compared: as many as are trusted, and no more than this.
const END_BYTES_MAX: u64 = BLOCK_SIZE_BYTES;
/// Fewer prove nothing, unless the file had no more.
const END_BYTES_MIN: u64 = 4 << 10;
/// A file that changes while it is asked about is asked about again, so often.
const LOOKS_MAX: u32 = 5;

/// A recorder that wrote so lately may write its last words over its first ones.
const RECENT: Duration = Duration::from_mins(2);

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// It is what it was.
    Same,
    /// It begins with what it was.
    Grown,
    /// It is another file, or nothing that is known of it tells.
    Replaced,
}

/// What a file that begins with what it was is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Bytes of what it was are asked for in its present state.
    Asked,
    /// The entry stands for all of it from now on, if its beginning is the same, too.
    Whole,
}

impl Fetcher {
    /// Looks whether the file behind `entry` has grown, and follows it. Asks the origin a few times.
    pub fn follow(&self, entry: &Entry, taken: Taken, patience: &Patience) -> Result<Followed> {
        self.shared.follow(entry, taken, patience)
    }

    /// The end of a file by which it is known again when it has grown.
    pub fn end_of(size_bytes: u64) -> ByteRange {
        ByteRange::new(size_bytes.saturating_sub(END_BYTES_MAX), size_bytes)
    }
}

impl Shared {
    pub(super) fn follow(&self, entry: &Entry, taken: Taken, patience: &Patience) -> Result<Followed> {
        for _ in 0..LOOKS_MAX {
            match self.look_at_growth(entry, taken, patience) {
                // Where its bytes and its version can't be had in one answer, it grew between two.
                Err(error) if error.kind() == Kind::Changed => {}
                followed => return followed,
            }
        }
        let path = entry.path();
        Err(Error::new(
            Kind::Changed,
            format!("{path} changes faster than it can be asked for, {LOOKS_MAX} times in a row"),
        ))
    }

    fn look_at_growth(&self, entry: &Entry, taken: Taken, patience: &Patience) -> Result<Followed> {
        let (was, asked) = (entry.stat(), entry.asked());
        let Some(end) = self.old_end(entry, &was) else {
            let is_same = self.stat(entry, patience)?.version == asked.version;
            return Ok(if is_same { Followed::Same } else { Followed::Replaced });
        };
        if taken == Taken::Asked {
            let (now, ends_alike) = self.compare(entry, was.size_bytes - end.len() as u64, &end, patience)?;
            if now.version == asked.version {
                return Ok(Followed::Same);
            }
            if !ends_alike || !may_be_grown(entry, &was, &now) {
                return Ok(Followed::Replaced);
            }
            entry.ask_in(&now);
            return Ok(Followed::Grown);
        }
        let now = self.stat(entry, patience)?;
        if now.version == was.version || entry.has_refused(&now.version) {
            return Ok(Followed::Same);
        }
        if !may_be_grown(entry, &was, &now) {
            return Ok(Followed::Replaced);
        }
        // The new end first: a file that has the old end and the old beginning afterwards had them then, too, and what is taken
        // over is the state that the new end came with.
        let (now, new_end) = self.last_bytes(entry, &now, patience)?;
        let (_, ends_alike) = self.compare(entry, was.size_bytes - end.len() as u64, &end, patience)?;
        if !ends_alike || !may_be_grown(entry, &was, &now) {
            return Ok(Followed::Replaced);
        }
        let begins_alike = match self.head_held(entry, &was)? {
            Head::Nothing => true,
            Head::Trusted(head) => self.compare(entry, 0, &head, patience)?.1,
            Head::Unknown => false,
        };
        if begins_alike && self.cache.grow(entry, &was, &now, &new_end)? {
            log::info!("{} has grown from {} to {} bytes", entry.path(), was.size_bytes, now.size_bytes);
        } else {
            entry.refuse(&now);
        }
        Ok(Followed::Grown)
    }

    /// What is here of the file's beginning.
    fn head_held(&self, entry: &Entry, was: &Stat) -> Result<Head> {
        let head = ByteRange::new(0, BLOCK_SIZE_BYTES.min(was.size_bytes));
        if let Some(bytes) = self.trusted_bytes(entry, head) {
            return Ok(Head::Trusted(bytes));
        }
        let is_on_its_way = !self.table.lock().overlapping(entry.id(), head).is_empty();
        let is_held = self.cache.coverage(entry, head)?.gaps != [head];
        Ok(if is_on_its_way || is_held { Head::Unknown } else { Head::Nothing })
    }

    /// The last bytes of the file as it is at one moment, and what it is then: `now`, or a later state.
    fn last_bytes(&self, entry: &Entry, now: &Stat, patience: &Patience) -> Result<(Stat, Vec<u8>)> {
        self.metrics.origin_requests.add(1);
        if let Some(begun) = self.origin.begin(entry.path(), Section::Last(END_BYTES_MAX), patience)? {
            return Ok((begun.stat, self.all_of(begun.body)?));
        }
        let end = Fetcher::end_of(now.size_bytes);
        if end.is_empty() {
            return Ok((now.clone(), Vec::new()));
        }
        let body = self.origin.read(entry.path(), now, end, patience)?;
        Ok((now.clone(), self.all_of(body)?))
    }

    fn all_of(&self, mut body: Box<dyn Body>) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(piece) = body.next()? {
            self.metrics.origin_bytes.add(piece.len() as u64);
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// Some bytes of a growing file, in whatever state it is, as long as that begins with what the entry stands for.
    pub(super) fn ask_growing(&self, entry: &Entry, range: ByteRange, patience: &Patience) -> Result<Box<dyn Body>> {
        let (now, body) = self.begin(entry, range, patience)?;
        // Looked at after the answer has begun, the end tells of the state that answers.
        let is_right = now.version == entry.asked().version
            || self.follow(entry, Taken::Asked, patience)? == Followed::Grown
            || now.version == entry.asked().version;
        if is_right {
            return Ok(body);
        }
        let path = entry.path();
        Err(Error::new(Kind::Changed, format!("{path} has grown, and was then replaced")))
    }

    /// The last bytes of what the file was, if they are here and can prove anything: a file that was made with its full length
    /// ends with zeros whatever comes into it.
    fn old_end(&self, entry: &Entry, was: &Stat) -> Option<Vec<u8>> {
        let end = Fetcher::end_of(was.size_bytes);
        let cached = || {
            let trusted = self.cache.trusted(entry, end).overlap(end).into_iter().next_back();
            trusted.filter(|part| part.end == end.end).and_then(|part| self.trusted_bytes(entry, part))
        };
        let told = entry.end().map(|end| end.to_vec());
        let mut bytes = told.or_else(cached).or_else(|| self.landed_end(entry, end)).unwrap_or_default();
        if (bytes.len() as u64) < END_BYTES_MIN.min(was.size_bytes) {
            return None;
        }
        bytes.drain(..bytes.len().saturating_sub(END_BYTES_MAX as usize));
        let is_zeros = !bytes.is_empty() && bytes.iter().all(|byte| *byte == 0);
        (!is_zeros).then_some(bytes)
    }

    /// The same of a flight whose bytes the cache has not taken yet.
    fn landed_end(&self, entry: &Entry, end: ByteRange) -> Option<Vec<u8>> {
        let flight = self.table.lock().overlapping(entry.id(), end).pop()?;
        let (range, bytes) = flight.whole();
        let is_here = range.end == end.end && bytes.len() as u64 == range.len();
        is_here.then(|| bytes[bytes.len().saturating_sub(end.len() as usize)..].to_vec())
    }

    fn trusted_bytes(&self, entry: &Entry, range: ByteRange) -> Option<Vec<u8>> {
        let mut bytes = vec![0; range.len() as usize];
        (range.is_empty() || self.cache.read(entry, range.start, &mut bytes)).then_some(bytes)
    }

    /// Whether the file has these bytes at this place, in the state it is in now.
    fn compare(&self, entry: &Entry, at: u64, bytes: &[u8], patience: &Patience) -> Result<(Stat, bool)> {
        if bytes.is_empty() {
            return Ok((self.stat(entry, patience)?, true));
        }
        let (now, mut body) = self.begin(entry, ByteRange::at(at, bytes.len() as u64), patience)?;
        let mut left = bytes;
        while let Some(piece) = body.next()? {
            self.metrics.origin_bytes.add(piece.len() as u64);
            match left.strip_prefix(&piece[..]) {
                Some(rest) => left = rest,
                None => return Ok((now, false)),
            }
        }
        Ok((now, left.is_empty()))
    }

    fn stat(&self, entry: &Entry, patience: &Patience) -> Result<Stat> {
        self.metrics.origin_requests.add(1);
        self.origin.stat(entry.path(), patience)
    }

    /// Bytes of the file as it is now, in one answer with its version if that can be had.
    fn begin(&self, entry: &Entry, range: ByteRange, patience: &Patience) -> Result<(Stat, Box<dyn Body>)> {
        self.metrics.origin_requests.add(1);
        if let Some(begun) = self.origin.begin(entry.path(), Section::At(range), patience)? {
            return Ok((begun.stat, begun.body));
        }
        let now = self.stat(entry, patience)?;
        if now.size_bytes < range.end {
            return Err(Error::new(Kind::Changed, format!("{} is shorter than it was", entry.path())));
        }
        let body = self.origin.read(entry.path(), &now, range, patience)?;
        Ok((now, body))
    }
}

/// What is here of a file's beginning.
enum Head {
    Nothing,
    Trusted(Vec<u8>),
    /// Some, and not so that it could be compared.
    Unknown,
}

/// Whether a file of this size can be a later state of the entry's. A recorder may write its last words over the first ones.
fn may_be_grown(entry: &Entry, was: &Stat, now: &Stat) -> bool {
    now.size_bytes > was.size_bytes || (entry.grew_lately(RECENT) && now.size_bytes == was.size_bytes)
}
