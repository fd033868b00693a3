//! The bytes of one range of an open file: many requests under way, handed out in order, each with a proof that the file
//! is still the same.
//! Never here: which conversation they are asked in.
//!
//! SFTP has no way to ask for bytes of one version. So the file's time is asked for behind each request for bytes, and no
//! byte is handed out before that time has come and is the right one. The open handle keeps pointing at the same file
//! even if its name is given to another.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::pool::{Lease, Pool};
use super::session::{Answer, Handle};
use super::wire::{Attributes, FileKind, Request};
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;
use crate::store::driver::Driver;
use crate::store::{Body, Patience, Stat, Version};

/// Asked for ahead of what is handed out: what a connection of 100 Mbit/s has on its way over 160 ms, and as much as
/// `ssh` itself lets be under way.
const WINDOW_BYTES: u64 = 2 << 20;

/// Bytes as they come. Invariant: handed out, then `asked`, then `unasked` are the range, without gaps.
pub(super) struct Reading {
    lease: Lease,
    handle: Arc<Handle>,
    /// The source and the file, for messages.
    what: String,
    asked: VecDeque<Asked>,
    unasked: ByteRange,
}

/// One request for bytes, and the one behind it for the file's state.
struct Asked {
    range: ByteRange,
    data: Answer,
    state: Answer,
}

impl Reading {
    /// Asks for the first bytes of `range`.
    pub fn new(lease: Lease, handle: Arc<Handle>, what: String, range: ByteRange) -> Self {
        let mut reading = Self { lease, handle, what, asked: VecDeque::new(), unasked: range };
        reading.ask_ahead();
        reading
    }

    /// Lets go of what lies behind the end of the file, now that it is known.
    pub fn cut(&mut self, end: u64) {
        self.unasked.end = self.unasked.end.min(end).max(self.unasked.start.min(end));
        self.unasked.start = self.unasked.start.min(end);
        self.asked.retain(|asked| asked.range.start < end);
        if let Some(last) = self.asked.back_mut() {
            last.range.end = last.range.end.min(end);
        }
    }

    /// The file that was opened at `path` is not the one there now: no other reader is to try it.
    pub fn forget(&self, path: &str) {
        self.lease.forget(path);
    }

    /// The next bytes of the version `expected`, never empty; `None` after the last.
    pub async fn next(&mut self, expected: &Version) -> Result<Option<Bytes>> {
        self.ask_ahead();
        let Some(Asked { range, data, state }) = self.asked.pop_front() else { return Ok(None) };
        let data = data.data(&self.what).await;
        self.check(state, expected).await?;
        let mut bytes = data?;
        if bytes.is_empty() {
            return Err(Error::new(Kind::Unreachable, format!("{}: ends before byte {}", self.what, range.end)));
        }
        bytes.truncate(range.len() as usize);
        let rest = ByteRange::new(range.start + bytes.len() as u64, range.end);
        if !rest.is_empty() {
            // A server may send less at once.
            let asked = self.ask(rest);
            self.asked.push_front(asked);
        }
        if self.asked.is_empty() && self.unasked.is_empty() && !self.lease.is_in_order {
            // The proof may have been made before the bytes were read. One that is asked for now is not.
            let state = self.lease.ask(Request::StatHandle(self.handle.name()));
            self.check(state, expected).await?;
        }
        Ok(Some(bytes))
    }

    async fn check(&self, state: Answer, expected: &Version) -> Result<()> {
        let now = stat(&state.attributes(&self.what).await?, &self.what)?;
        if now.version == *expected {
            return Ok(());
        }
        let what = &self.what;
        Err(Error::new(
            Kind::Changed,
            format!("{what}: the file has changed: it was {expected} and is {}", now.version),
        ))
    }

    fn ask_ahead(&mut self) {
        let mut under_way: u64 = self.asked.iter().map(|asked| asked.range.len()).sum();
        while under_way < WINDOW_BYTES && !self.unasked.is_empty() {
            let bytes = self.unasked.len().min(self.lease.read_bytes.into());
            let range = ByteRange::new(self.unasked.start, self.unasked.start + bytes);
            let asked = self.ask(range);
            self.asked.push_back(asked);
            self.unasked.start = range.end;
            under_way += bytes;
        }
    }

    fn ask(&self, range: ByteRange) -> Asked {
        let handle = self.handle.name();
        let bytes = u32::try_from(range.len()).unwrap_or(u32::MAX);
        let data = self.lease.ask(Request::Read { handle, offset: range.start, bytes });
        Asked { range, data, state: self.lease.ask(Request::StatHandle(handle)) }
    }
}

/// The file that attributes describe.
pub(super) fn stat(attributes: &Attributes, what: &str) -> Result<Stat> {
    match attributes.kind {
        None | Some(FileKind::File) => {}
        Some(FileKind::Folder) => return Err(Error::new(Kind::Missing, format!("{what} is a folder, not a file"))),
        Some(_) => return Err(Error::new(Kind::Missing, format!("{what} is no file"))),
    }
    let size_bytes = attributes.size_bytes;
    let size_bytes = size_bytes
        .ok_or_else(|| Error::new(Kind::Unsupported, format!("{what}: the server does not tell its size")))?;
    let modified = attributes.modified;
    Ok(Stat { size_bytes, modified, version: Version::size_and_time(size_bytes, modified) })
}

/// A reading, for those who wait for it on threads of their own.
pub(super) struct SftpBody {
    pub driver: Arc<Driver>,
    pub pool: Arc<Pool>,
    pub patience: Patience,
    pub reading: Reading,
    pub expected: Version,
    /// What has come already.
    pub first: Option<Bytes>,
    /// Why no more will.
    pub failure: Option<Error>,
}

impl Body for SftpBody {
    fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let what = self.reading.what.clone();
        let next = self.driver.wait(&self.patience, what, self.reading.next(&self.expected));
        if let Err(error) = &next {
            self.failure = Some(error.clone());
            if error.kind() == Kind::TimedOut {
                self.pool.doubt(self.patience.stall);
            }
        }
        next
    }
}
