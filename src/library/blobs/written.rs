//! What one writes to a file, and others look at meanwhile: hashed on the way where it comes in order, some of it still on its
//! way to the disk.
//! Never here: threads (see `behind`), names, and what becomes of the file.
//!
//! Invariant: a digest is of bytes that were all taken without an error. What fails on its way fails whoever comes later.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use parking_lot::{Condvar, Mutex};

use crate::digest::{Digest, Hasher};
use crate::range::ByteRange;
use crate::sys;

/// Read and hashed at once.
const PIECE_BYTES: u64 = 256 << 10;

/// A file that is written to.
#[derive(Debug)]
pub struct Written {
    file: File,
    // The same one past the page cache, where the filesystem can.
    direct: Option<File>,
    // Held for a look only.
    state: Mutex<State>,
    // Told of each change.
    changed: Condvar,
}

struct State {
    // Writes that have set out and not ended; all of them end before this byte.
    under_way: usize,
    end: u64,
    // `None` once a write did not go on where the one before it ended.
    order: Option<Order>,
    // The first of all.
    failure: Option<io::Error>,
}

/// Writes one behind the other.
struct Order {
    // Up to here they have set out...
    taken: u64,
    // ...and up to here the hasher has taken them in.
    hashed: u64,
    hasher: Hasher,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("under_way", &self.under_way)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

impl Written {
    /// An empty file.
    pub(super) fn new(file: File, direct: Option<File>) -> Self {
        let order = Some(Order { taken: 0, hashed: 0, hasher: Hasher::new() });
        let state = State { under_way: 0, end: 0, order, failure: None };
        Self { file, direct, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The file with all in it that was written until now. The error of what could not be, now and ever after.
    pub(super) fn settled(&self) -> io::Result<&File> {
        let mut state = self.state.lock();
        while state.under_way > 0 {
            self.changed.wait(&mut state);
        }
        state.check().map(|()| &self.file)
    }

    /// Returns when nothing of it is on its way any more; the error of what could not be written, now and ever after.
    pub fn settle(&self) -> io::Result<()> {
        self.settled().map(drop)
    }

    /// Fills `bytes` from `offset` on.
    pub fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.settled()?.read_exact_at(bytes, offset)
    }

    /// What the first `len` bytes hash to; they are read for it unless they came in order.
    pub fn digest(&self, len: u64) -> io::Result<Digest> {
        let file = self.settled()?;
        let state = self.state.lock();
        if let Some(order) = state.order.as_ref().filter(|order| order.hashed == len) {
            return Ok(order.hasher.clone().finish());
        }
        drop(state);
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; len.min(PIECE_BYTES) as usize];
        for part in ByteRange::new(0, len).slots(PIECE_BYTES) {
            let bytes = &mut buffer[..part.len() as usize];
            file.read_exact_at(bytes, part.start)?;
            hasher.update(bytes);
        }
        Ok(hasher.finish())
    }

    /// Has the disk begin with what the system holds of it: the sync to come finds less to do.
    pub fn begin_writing_out(&self) {
        sys::begin_writing_out(&self.file);
    }

    /// Whether long writes can go past the page cache.
    pub(super) fn has_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// A write sets out: [`Written::write`], then [`Written::end`]. It waits for those it overlaps. By one thread at a time.
    pub(super) fn begin(&self, offset: u64, len: usize) -> io::Result<()> {
        let mut state = self.state.lock();
        while state.under_way > 0 && offset < state.end {
            self.changed.wait(&mut state);
        }
        state.check()?;
        let end = offset + len as u64;
        state.under_way += 1;
        state.end = end;
        match &mut state.order {
            Some(order) if order.taken == offset => order.taken = end,
            _ => state.order = None,
        }
        Ok(())
    }

    /// Writes what has begun: past the page cache if it `is_direct` and that can be done.
    pub(super) fn write(&self, bytes: &[u8], offset: u64, is_direct: bool) -> io::Result<()> {
        let cached = || self.file.write_all_at(bytes, offset);
        let written = match &self.direct {
            Some(direct) if is_direct => direct.write_all_at(bytes, offset).or_else(|_| cached()),
            _ => cached(),
        };
        match &written {
            Ok(()) => self.take_in(bytes, offset),
            Err(_) => self.forget_order(),
        }
        written
    }

    /// What has begun has ended; a failure that nobody was told of is told to whoever comes later.
    pub(super) fn end(&self, untold: io::Result<()>) {
        let mut state = self.state.lock();
        state.under_way -= 1;
        if let Err(error) = untold {
            state.order = None;
            state.failure.get_or_insert(error);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Hashes them when it is their turn, if they are in order.
    fn take_in(&self, bytes: &[u8], offset: u64) {
        let mut state = self.state.lock();
        let mut hasher = loop {
            match &state.order {
                Some(order) if order.hashed == offset => break order.hasher.clone(),
                Some(order) if order.hashed < offset => self.changed.wait(&mut state),
                _ => return,
            }
        };
        drop(state);
        hasher.update(bytes);
        if let Some(order) = &mut self.state.lock().order {
            order.hashed += bytes.len() as u64;
            order.hasher = hasher;
        }
        self.changed.notify_all();
    }

    /// Cuts the file off.
    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        self.settled()?;
        self.state.lock().order = None;
        self.file.set_len(len)
    }

    /// Its bytes may come from anywhere from now on, in whatever order.
    pub(super) fn forget_order(&self) {
        self.state.lock().order = None;
    }
}

impl State {
    fn check(&self) -> io::Result<()> {
        match &self.failure {
            Some(error) => Err(error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)),
            None => Ok(()),
        }
    }
}
