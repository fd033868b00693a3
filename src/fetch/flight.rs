//! One fetch under way: the bytes that have landed, who waits for which of them, and who still wants the rest.
//! Never here: threads, origins, the table of flights.
//!
//! ```text
//! Queued ◀─▶ Running ──▶ Landed          every byte is here; it stays until the cache can serve it
//!    │          │                        (a guess that was refused is queued again)
//!    │          ├─ Ending                nobody wants it: the worker is told, and keeps the blocks that came
//!    └──────────┴─▶ Dead                 left the table; whoever waited has been told
//! ```
//!
//! Invariants:
//! - `bytes` holds the file from `start` on without a gap; they belong to one version (the entry's).
//! - A wait is answered exactly once: with its bytes, or with an error. A flight that ends leaves no wait behind.
//! - The end only ever shrinks, and only below what others may then fetch anew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::lanes::{Flown, Lane};
use crate::cache::Entry;
use crate::cancel::Cancel;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Kind};
use crate::origin::Body;
use crate::range::ByteRange;

/// A flight is not cut for less: a request, and maybe a connection, cost more than these bytes do. More than the kernel's
/// readahead of 256 KiB, whose windows arrive in any order: a second window that comes first must not cut the flight that
/// the first one waits for.
const CUT_BYTES_MIN: u64 = 512 << 10;
/// Nor if the bytes before the cut come within so many times what the flight's own first byte took: a new request takes
/// that long, too, and twice if it must connect first.
const CUT_FIRST_BYTES: u32 = 2;
/// A flight's rate is not known before: the first bytes come in a burst.
const RATE_BYTES_MIN: u64 = 128 << 10;

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
    /// Until when it does.
    fn deadline(&self) -> Instant;
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

/// An answer that was under way before its flight, and where it ends.
type UnderWay = (Box<dyn Body>, u64);

/// A fetch of `[start, end)` of one entry.
pub struct Flight {
    pub(super) entry: Arc<Entry>,
    pub(super) start: u64,
    pub(super) cancel: Cancel,
    // Whether its bytes were asked for before it was: then a new request is hardly sooner.
    was_expected: bool,
    // Where the first bytes come from, if they were answered. Taken alone.
    begun: Mutex<Option<UnderWay>>,
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
    // The last interest was lost while someone still waited: once they have their bytes, nobody wants the rest.
    is_left: bool,
    // The cache has been given the bytes.
    is_given: bool,
    // How often it was refused and queued again.
    refused: u32,
    asked_at: Option<Instant>,
    first_at: Option<Instant>,
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
        Self::with(entry, range, lane, None)
    }

    /// Others have asked for these bytes, with this `cancel`.
    pub(super) fn expected(entry: &Arc<Entry>, range: ByteRange, cancel: &Cancel) -> Arc<Self> {
        Self::with(entry, range, Lane::Demand, Some(cancel.clone()))
    }

    fn with(entry: &Arc<Entry>, range: ByteRange, lane: Lane, expected: Option<Cancel>) -> Arc<Self> {
        Arc::new(Self {
            entry: Arc::clone(entry),
            start: range.start,
            was_expected: expected.is_some(),
            cancel: expected.unwrap_or_default(),
            begun: Mutex::default(),
            inner: Mutex::new(Inner {
                state: State::Queued,
                lane,
                end: range.end,
                bytes: Arc::default(),
                hasher: Hasher::new(),
                waits: Vec::new(),
                interests: 0,
                is_left: false,
                is_given: false,
                refused: 0,
                asked_at: None,
                first_at: None,
            }),
        })
    }

    /// What was expected has come, up to `end`.
    pub(super) fn comes(&self, body: Box<dyn Body>, end: u64) {
        *self.begun.lock() = Some((body, end));
    }

    /// The answer that was under way already, and where it ends, once.
    pub(super) fn take_begun(&self) -> Option<UnderWay> {
        self.begun.lock().take()
    }

    /// Takes a piece in; answers the waits that it completes.
    pub(super) fn land(&self, piece: &Bytes) -> Answered {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let room = (inner.end - self.start) as usize - inner.bytes.len();
        let piece = &piece[..piece.len().min(room)];
        inner.first_at.get_or_insert_with(Instant::now);
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
        if inner.is_left && inner.waits.is_empty() && inner.state == State::Running && !inner.is_whole(self.start) {
            inner.state = State::Ending;
            self.cancel.cancel();
        }
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
            inner.asked_at = Some(Instant::now());
        }
        is_mine
    }

    /// Running → Queued, for a guess that was refused before any byte came: `queue` puts it there. The buffer it was to
    /// land in; `None` if it stays as it is, as somebody waits for it, or nobody wants it, or there is no room.
    pub(super) fn back_to_queue(self: &Arc<Self>, queue: impl FnOnce(Lane) -> bool) -> Option<Vec<u8>> {
        let mut inner = self.inner.lock();
        let is_free = inner.state == State::Running && inner.bytes.is_empty() && inner.waits.is_empty();
        if !is_free || self.cancel.is_cancelled() {
            return None;
        }
        inner.state = State::Queued;
        if !queue(inner.lane) {
            inner.state = State::Running;
            return None;
        }
        inner.asked_at = None;
        inner.refused += 1;
        Some(Arc::into_inner(std::mem::take(&mut inner.bytes)).unwrap_or_default())
    }

    /// How often it was refused and queued again.
    pub(super) fn times_refused(&self) -> u32 {
        self.inner.lock().refused
    }

    /// Gives way to a demand: called off, if it is under way and nobody waits for it. What came of it is kept.
    pub(super) fn gives_way(&self) -> bool {
        let mut inner = self.inner.lock();
        let is_waited_for = inner.waits.iter().any(|wait| wait.waiter.is_waiting());
        let gives_way = inner.state == State::Running && !is_waited_for && !inner.is_whole(self.start);
        if gives_way {
            inner.state = State::Ending;
            self.cancel.cancel();
        }
        gives_way
    }

    /// The rest of the range, to be asked of the origin.
    pub(super) fn missing(&self) -> ByteRange {
        let inner = self.inner.lock();
        ByteRange::new(self.start + inner.bytes.len() as u64, inner.end)
    }

    /// Whether the rest comes, at the rate so far, before the answer to a new request would begin.
    pub(super) fn is_nearly_here(&self, now: Instant) -> bool {
        let inner = self.inner.lock();
        let left = inner.end - self.start - inner.bytes.len() as u64;
        inner.transfer(now).is_some_and(|(bytes, took, first_byte)| {
            bytes >= RATE_BYTES_MIN && u128::from(left) * took.as_nanos() <= u128::from(bytes) * first_byte.as_nanos()
        })
    }

    /// The bytes that have come, and how long they took.
    pub(super) fn brought(&self) -> Flown {
        let inner = self.inner.lock();
        let took = inner.transfer(Instant::now()).map_or(Duration::ZERO, |(_, took, _)| took);
        Flown { bytes: inner.bytes.len() as u64, took }
    }

    /// Running → Landed, when every byte is here.
    pub(super) fn landed(&self) -> Whole {
        let mut inner = self.inner.lock();
        inner.state = State::Landed;
        let digest = std::mem::take(&mut inner.hasher).finish();
        (ByteRange::new(self.start, inner.end), Arc::clone(&inner.bytes), digest)
    }

    /// All its bytes, once they have landed.
    pub(super) fn whole(&self) -> (ByteRange, Arc<Vec<u8>>) {
        let inner = self.inner.lock();
        (ByteRange::new(self.start, inner.end), Arc::clone(&inner.bytes))
    }

    /// The cache has been given them.
    pub(super) fn given(&self) {
        self.inner.lock().is_given = true;
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

    /// Lands in `buffer`, which is empty.
    pub(super) fn land_in(&self, buffer: Vec<u8>) {
        self.inner.lock().bytes = Arc::new(buffer);
    }

    /// Whether somebody waits for it right now.
    pub(super) fn is_waited_for(&self) -> bool {
        self.inner.lock().waits.iter().any(|wait| wait.waiter.is_waiting())
    }

    /// Until when somebody waits for it, if anybody does.
    pub(super) fn waited_for_until(&self) -> Option<Instant> {
        let inner = self.inner.lock();
        inner.waits.iter().filter(|wait| wait.waiter.is_waiting()).map(|wait| wait.waiter.deadline()).max()
    }

    /// Its lane, which is demand as soon as somebody waits for it, and until when the first of them does.
    pub(super) fn urgency(&self) -> (Lane, Option<Instant>) {
        let inner = self.inner.lock();
        let waits = inner.waits.iter().filter(|wait| wait.waiter.is_waiting());
        let first = waits.map(|wait| wait.waiter.deadline()).min();
        (if first.is_some() { Lane::Demand } else { inner.lane }, first)
    }

    /// Whether a worker has it, and nothing has ended it.
    pub(super) fn is_running(&self) -> bool {
        self.inner.lock().state == State::Running
    }

    /// Gives its memory up: it has left the table, but who was interested may hold on to it for long.
    pub(super) fn let_go(&self) -> Option<Vec<u8>> {
        Arc::into_inner(std::mem::take(&mut self.inner.lock().bytes))
    }

    pub(super) fn add_interest(inner: &mut Inner) {
        inner.interests += 1;
        inner.is_left = false;
    }

    /// Ends the flight before `at`, where somebody waits for nothing else, if it would be long in coming there and
    /// nobody waits for what lies behind. The bytes from `at` on are then free. Called with the table's lock held.
    pub(super) fn cut_before(&self, at: u64, now: Instant) {
        let mut inner = self.inner.lock();
        let landed_end = self.start + inner.bytes.len() as u64;
        let is_waited_for = inner.waits.iter().any(|wait| wait.range.end > at);
        if matches!(inner.state, State::Queued | State::Running)
            && landed_end < at
            && at < inner.end
            && !is_waited_for
            && !self.was_expected
            && is_far(at - landed_end, inner.transfer(now))
        {
            inner.end = at;
        }
    }

    /// Calls the flight off if nobody wants it: `true` if it is `Dead` now and must leave the table.
    pub(super) fn call_off_if_unwanted(&self, loses_interest: bool) -> bool {
        let mut inner = self.inner.lock();
        inner.interests -= usize::from(loses_interest);
        if inner.interests > 0 {
            return false;
        }
        if inner.waits.iter().any(|wait| wait.waiter.is_waiting()) {
            inner.is_left |= loses_interest;
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
            // With every byte here only the answer's end is awaited, and then its connection is free for the next one.
            State::Running if !inner.is_whole(self.start) => {
                inner.state = State::Ending;
                self.cancel.cancel();
                false
            }
            State::Running | State::Ending | State::Landed | State::Dead => false,
        }
    }

    /// Whether it has nothing more to bring: it has ended, or all its bytes are here.
    pub(super) fn is_over(&self) -> bool {
        let inner = self.inner.lock();
        !matches!(inner.state, State::Queued | State::Running) || inner.is_whole(self.start)
    }
}

impl Inner {
    /// Whether every byte of a flight from `start` on is here.
    fn is_whole(&self, start: u64) -> bool {
        start + self.bytes.len() as u64 == self.end
    }

    /// Whether it has come to nothing, or the cache has been given what came.
    pub(super) fn has_ended(&self) -> bool {
        self.is_given || self.state == State::Dead
    }

    /// Bytes that have come, how long they took, and how long the first one took; nothing before it is there.
    fn transfer(&self, now: Instant) -> Option<(u64, Duration, Duration)> {
        let (asked_at, first_at) = (self.asked_at?, self.first_at?);
        Some((self.bytes.len() as u64, now.duration_since(first_at), first_at.duration_since(asked_at)))
    }
}

/// Whether bytes that come `ahead_bytes` later in a flight are had sooner by a request of their own.
fn is_far(ahead_bytes: u64, transfer: Option<(u64, Duration, Duration)>) -> bool {
    ahead_bytes >= CUT_BYTES_MIN
        && transfer.is_none_or(|(bytes, took, first_byte)| {
            // ahead / (bytes / took) > first_byte * n, without a division.
            u128::from(ahead_bytes) * took.as_nanos() > u128::from(bytes) * (first_byte * CUT_FIRST_BYTES).as_nanos()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_flight_is_cut_where_a_new_request_is_sooner() {
        let ms = Duration::from_millis;
        assert!(is_far(MIB, None), "nothing has come yet");
        assert!(!is_far(MIB / 8, None));
        // 12.5 MB/s over 40 ms: a mebibyte takes 84 ms.
        assert!(is_far(MIB + MIB / 4, Some((1_250_000, ms(100), ms(40)))));
        assert!(!is_far(MIB / 2, Some((1_250_000, ms(100), ms(40)))));
        // A near and fast origin.
        assert!(!is_far(MIB + MIB / 2, Some((10 * MIB, ms(10), ms(1)))));
        // A thin one.
        assert!(is_far(MIB / 2, Some((100_000, ms(1_000), ms(100)))));
        // The kernel's next window of readahead, which may come before the one that the flight is for.
        assert!(!is_far(MIB / 4, None));
    }
}
