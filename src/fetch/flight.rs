//! One fetch under way: the bytes that have landed, who waits for which of them, and who still wants the rest.
//! Never here: threads, origins, the table of flights.
//!
//! ```text
//! Queued ──▶ Running ──▶ Landed          every byte is here; it stays until the cache can serve it
//!    │          │
//!    │          ├─ Ending                nobody wants it: the worker is told, and keeps the blocks that came
//!    └──────────┴─▶ Dead                 left the table; whoever waited has been told
//! ```
//!
//! Invariants:
//! - `bytes` holds the file from `start` on without a gap; they belong to one version (the entry's).
//! - A wait is answered exactly once: with its bytes, or with an error. A flight that ends leaves no wait behind.
//! - The end only ever shrinks, and only below what others may then fetch anew.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::lanes::Lane;
use crate::cache::Entry;
use crate::cancel::Cancel;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Kind};
use crate::range::ByteRange;

/// Someone who waits for bytes. `settle` is called without any lock held; the others must not block.
pub trait Waiter: Send + Sync {
    /// One more answer will come.
    fn expect(&self);
    /// These bytes of the file have landed, at `offset` in it. Copies what it needs.
    fn land(&self, offset: u64, bytes: &[u8]);
    /// An answer has come: the bytes that landed before, or an error.
    fn settle(&self, answer: Result<(), &Error>);
    /// Whether an answer still matters to anyone.
    fn is_waiting(&self) -> bool;
}

/// Where a flight stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Queued,
    Running,
    Ending,
    Landed,
    Dead,
}

/// A fetch of `[start, end)` of one entry.
pub struct Flight {
    pub(super) entry: Arc<Entry>,
    pub(super) start: u64,
    pub(super) cancel: Cancel,
    // Taken after the table's lock, never before it; held for copies of memory only.
    pub(super) inner: Mutex<Inner>,
}

pub(super) struct Inner {
    pub(super) state: State,
    pub(super) lane: Lane,
    pub(super) end: u64,
    pub(super) bytes: Arc<Vec<u8>>,
    hasher: Hasher,
    waits: Vec<Wait>,
    interests: usize,
}

struct Wait {
    range: ByteRange,
    waiter: Arc<dyn Waiter>,
}

/// Bytes that are all here, and their hash.
pub(super) type Whole = (ByteRange, Arc<Vec<u8>>, Digest);

/// Waiters whose answer has come, to be told without a lock.
#[must_use]
pub(super) struct Answered(Vec<Arc<dyn Waiter>>);

impl Answered {
    pub(super) fn tell(self, answer: Result<(), &Error>) {
        self.0.iter().for_each(|waiter| waiter.settle(answer));
    }
}

impl Flight {
    pub(super) fn new(entry: &Arc<Entry>, range: ByteRange, lane: Lane) -> Arc<Self> {
        Arc::new(Self {
            entry: Arc::clone(entry),
            start: range.start,
            cancel: Cancel::new(),
            inner: Mutex::new(Inner {
                state: State::Queued,
                lane,
                end: range.end,
                bytes: Arc::default(),
                hasher: Hasher::new(),
                waits: Vec::new(),
                interests: 0,
            }),
        })
    }

    /// Takes a piece in; answers the waits that it completes.
    pub(super) fn land(&self, piece: &Bytes) -> Answered {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let room = (inner.end - self.start) as usize - inner.bytes.len();
        let piece = &piece[..piece.len().min(room)];
        inner.hasher.update(piece);
        let whole = (inner.end - self.start) as usize;
        // Nobody else holds the bytes while the flight is running, so this never copies them.
        let bytes = Arc::make_mut(&mut inner.bytes);
        if bytes.capacity() < whole {
            bytes.reserve_exact(whole - bytes.len());
        }
        bytes.extend_from_slice(piece);
        self.answer(inner)
    }

    fn answer(&self, inner: &mut Inner) -> Answered {
        let landed = ByteRange::at(self.start, inner.bytes.len() as u64);
        let mut answered = Vec::new();
        inner.waits.retain(|wait| {
            if !landed.contains(wait.range) {
                return true;
            }
            let from = (wait.range.start - self.start) as usize;
            wait.waiter.land(wait.range.start, &inner.bytes[from..from + wait.range.len() as usize]);
            answered.push(Arc::clone(&wait.waiter));
            false
        });
        Answered(answered)
    }

    /// Adds a wait for `range`, which lies in the flight; the bytes may be here already.
    pub(super) fn wait(&self, inner: &mut Inner, range: ByteRange, waiter: &Arc<dyn Waiter>) -> Answered {
        waiter.expect();
        inner.waits.push(Wait { range, waiter: Arc::clone(waiter) });
        self.answer(inner)
    }

    /// Queued → Running; `false` if it was called off, or another worker has it.
    pub(super) fn start(&self) -> bool {
        let mut inner = self.inner.lock();
        let is_mine = inner.state == State::Queued;
        if is_mine {
            inner.state = State::Running;
        }
        is_mine
    }

    /// The rest of the range, to be asked of the origin.
    pub(super) fn missing(&self) -> ByteRange {
        let inner = self.inner.lock();
        ByteRange::new(self.start + inner.bytes.len() as u64, inner.end)
    }

    /// Running → Landed, when every byte is here.
    pub(super) fn landed(&self) -> Whole {
        let mut inner = self.inner.lock();
        inner.state = State::Landed;
        let digest = std::mem::take(&mut inner.hasher).finish();
        (ByteRange::new(self.start, inner.end), Arc::clone(&inner.bytes), digest)
    }

    /// Ends a running flight early. Whole blocks that came are kept, if `error` does not cast doubt on them: the
    /// flight is then `Landed`, and shorter. Else it is `Dead`. Every wait left is answered with `error` by the caller.
    pub(super) fn end_early(&self, error: &Error, block: u64) -> (Option<Whole>, Answered) {
        let mut inner = self.inner.lock();
        let waits = std::mem::take(&mut inner.waits);
        let answered = Answered(waits.into_iter().map(|wait| wait.waiter).collect());
        let landed_end = self.start + inner.bytes.len() as u64;
        let end = landed_end - landed_end % block;
        if (error.may_pass() || error.kind() == Kind::Cancelled) && end > self.start {
            inner.end = end;
            Arc::make_mut(&mut inner.bytes).truncate((end - self.start) as usize);
            inner.state = State::Landed;
            let digest = Digest::of(&inner.bytes);
            return (Some((ByteRange::new(self.start, end), Arc::clone(&inner.bytes), digest)), answered);
        }
        inner.state = State::Dead;
        inner.bytes = Arc::default();
        (None, answered)
    }

    /// Gives its memory up: it has left the table, but who was interested may hold on to it for long.
    pub(super) fn let_go(&self) {
        self.inner.lock().bytes = Arc::default();
    }

    pub(super) fn add_interest(inner: &mut Inner) {
        inner.interests += 1;
    }

    /// Calls the flight off if nobody wants it: `true` if it is `Dead` now and must leave the table.
    pub(super) fn call_off_if_unwanted(&self, loses_interest: bool) -> bool {
        let mut inner = self.inner.lock();
        inner.interests -= usize::from(loses_interest);
        if inner.interests > 0 || inner.waits.iter().any(|wait| wait.waiter.is_waiting()) {
            return false;
        }
        if !loses_interest && inner.waits.is_empty() {
            // All who waited have their bytes; the rest follows for the next read.
            return false;
        }
        match inner.state {
            State::Queued => {
                inner.state = State::Dead;
                // Those who no longer wait have had their answer.
                inner.waits.clear();
                true
            }
            State::Running => {
                inner.state = State::Ending;
                self.cancel.cancel();
                false
            }
            State::Ending | State::Landed | State::Dead => false,
        }
    }
}
