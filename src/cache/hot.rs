//! What this process itself has hashed and found right: the only bytes it hands out. An LRU in front of the index,
//! and the claims of readers, and the pins of lent entries, that keep the evictor off what is being read.
//! Never here: I/O. A lookup is a lock, two hash maps and nothing else.
//!
//! Trust belongs to a data file as it was, not to an entry's number. An *epoch* names one state of one file. It ends when the
//! file is seen changed by another program, or is made anew, and all trust of that epoch ends with it. Our own writes and
//! holes are announced before they begin and sealed when they end, so that they do not count as such a change.
//!
//! Invariants:
//! - A look at trusted bytes counts only if the file has the stamp of its epoch *after* the bytes were read.
//! - A range is trusted only after this process hashed exactly these bytes, on arrival or from disk.
//! - Trust is withdrawn before the row is removed and before the hole is punched, and never while a claim or a pin stands.
//! - A range that was released for eviction can't be claimed or trusted again until its hole is punched.
//! - Losing trust (the LRU is full) costs one more hash, never a fetch.

use std::num::NonZeroUsize;
use std::time::SystemTime;

use foldhash::{HashMap, HashMapExt as _};
use lru::LruCache;
use parking_lot::Mutex;

use super::index::{Touch, micros};
use super::stamp::Stamp;
use crate::range::{ByteRange, RangeSet};

/// Slots remembered as trusted: 128 GiB of 2 MiB chunks, in about 8 MiB of memory.
const TRUSTED_SLOTS_MAX: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();
/// Files whose state is remembered, open or closed: about 2 MiB of memory. One that is forgotten is hashed again.
const FILES_MAX: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
/// Slots looked at under one lock by who only looks: some microseconds, that no read should wait for longer.
const LOOK_SLOTS: u64 = 64;
/// Times of use kept until they are recorded; more are forgotten, which only blurs the eviction order.
const TOUCHES_MAX: usize = 16_384;

/// A slot of an entry: its id and the slot's first byte.
type Slot = (i64, u64);

/// Names one state of one data file in this process.
type Epoch = u64;

/// Trusted coverage of all entries.
pub struct Hot {
    // Guards lookups, claims and times of use together, so that a claim and an eviction can't pass each other.
    // The innermost lock of the house: nothing is taken, and nothing waits, under it.
    state: Mutex<State>,
}

struct State {
    // By entry.
    files: LruCache<i64, FileState>,
    // No two states of any files have the same.
    next_epoch: Epoch,
    // By epoch and the slot's first byte.
    trusted: LruCache<(Epoch, u64), RangeSet>,
    claims: HashMap<Slot, u32>,
    // Released, and not punched yet. Short: what one eviction takes.
    leaving: HashMap<Slot, RangeSet>,
    touched: HashMap<Slot, (u64, i64)>,
    // Entries lent out whole: nothing of them is released.
    pins: HashMap<i64, Pin>,
    pinned_bytes: u64,
}

/// A data file as it was when its trust was last right.
struct FileState {
    epoch: Epoch,
    stamp: Stamp,
    // Our own changes under way, and what they give back to the disk: until they end, the stamp moves with them.
    changes: u32,
    freed_bytes: u64,
    // Of this epoch, all holes of ours: a filesystem may count them after they were made.
    freed_so_far_bytes: u64,
    // The length that one of our changes under way gives it, and the one before: another change may have looked at either.
    lengths: Option<[u64; 2]>,
}

impl FileState {
    fn agrees(&self, stamp: &Stamp) -> bool {
        if self.changes > 0 {
            self.may_be_our_change(stamp)
        } else {
            self.stamp.is_unchanged(stamp, self.freed_so_far_bytes)
        }
    }

    fn may_be_our_change(&self, stamp: &Stamp) -> bool {
        let is_ours = |was: Stamp| was.may_be_our_change(stamp, self.freed_bytes);
        is_ours(self.stamp)
            || self.lengths.is_some_and(|lengths| lengths.iter().any(|size| is_ours(self.stamp.of_size(*size))))
    }
}

/// A change of our own to a data file, announced. Dropped without its end, it counts as another's.
pub struct Change<'a> {
    hot: &'a Hot,
    entry_id: i64,
    epoch: Epoch,
}

/// How often an entry is lent out, and how large it is.
struct Pin {
    count: u32,
    bytes: u64,
}

/// Keeps the evictor off the slots of one range while it lives.
pub struct Claim<'a> {
    hot: &'a Hot,
    entry_id: i64,
    slot_size: u64,
    range: ByteRange,
    epoch: Epoch,
}

impl State {
    fn epoch(&self, entry_id: i64) -> Option<Epoch> {
        self.files.peek(&entry_id).map(|file| file.epoch)
    }

    /// From now on the entry's file is this one, and nothing of it is trusted.
    fn begin_epoch(&mut self, entry_id: i64, stamp: Stamp) -> Epoch {
        self.next_epoch += 1;
        let epoch = self.next_epoch;
        let file = FileState { epoch, stamp, changes: 0, freed_bytes: 0, freed_so_far_bytes: 0, lengths: None };
        self.files.put(entry_id, file);
        epoch
    }
}

impl Hot {
    /// Nothing is trusted yet.
    pub fn new() -> Self {
        let state = State {
            files: LruCache::new(FILES_MAX),
            next_epoch: 0,
            trusted: LruCache::new(TRUSTED_SLOTS_MAX),
            claims: HashMap::new(),
            leaving: HashMap::new(),
            touched: HashMap::new(),
            pins: HashMap::new(),
            pinned_bytes: 0,
        };
        Self { state: Mutex::new(state) }
    }

    /// If all of `range` is trusted: a claim on it, and the time of use noted.
    pub fn claim(&self, entry_id: i64, slot_size: u64, range: ByteRange) -> Option<Claim<'_>> {
        let mut state = self.state.lock();
        let epoch = state.files.get(&entry_id)?.epoch;
        let slot_of = |piece: ByteRange| (entry_id, slot_start(piece, slot_size));
        let trusted = range
            .slots(slot_size)
            .all(|piece| state.trusted.get(&(epoch, slot_of(piece).1)).is_some_and(|set| set.contains(piece)));
        if !trusted {
            return None;
        }
        let now = micros(SystemTime::now());
        for piece in range.slots(slot_size) {
            let slot = slot_of(piece);
            *state.claims.entry(slot).or_default() += 1;
            if state.touched.len() < TOUCHES_MAX {
                state.touched.insert(slot, (slot_size, now));
            } else if let Some(touched) = state.touched.get_mut(&slot) {
                *touched = (slot_size, now);
            }
        }
        Some(Claim { hot: self, entry_id, slot_size, range, epoch })
    }

    /// A claim on `range` whether it is trusted or not: its bytes are about to be hashed. `None` while any of it is
    /// being evicted, and of a file that was not looked at yet (see `sees`).
    pub fn hold(&self, entry_id: i64, slot_size: u64, range: ByteRange) -> Option<Claim<'_>> {
        let mut state = self.state.lock();
        let epoch = state.epoch(entry_id)?;
        let slot_of = |piece: ByteRange| (entry_id, slot_start(piece, slot_size));
        let is_leaving = |piece| state.leaving.get(&slot_of(piece)).is_some_and(|set| !set.overlap(piece).is_empty());
        if range.slots(slot_size).any(is_leaving) {
            return None;
        }
        for piece in range.slots(slot_size) {
            *state.claims.entry(slot_of(piece)).or_default() += 1;
        }
        Some(Claim { hot: self, entry_id, slot_size, range, epoch })
    }

    /// The trusted parts of `range`.
    pub fn trusted(&self, entry_id: i64, slot_size: u64, range: ByteRange) -> RangeSet {
        let mut state = self.state.lock();
        let mut parts = RangeSet::new();
        let Some(epoch) = state.epoch(entry_id) else { return parts };
        for piece in range.slots(slot_size) {
            if let Some(set) = state.trusted.get(&(epoch, slot_start(piece, slot_size))) {
                set.overlap(piece).into_iter().for_each(|part| parts.insert(part));
            }
        }
        parts
    }

    /// The same for who only looks: it is no use of these bytes, and a long range is looked at in steps.
    pub fn look(&self, entry_id: i64, slot_size: u64, range: ByteRange) -> RangeSet {
        let mut parts = RangeSet::new();
        for step in range.slots(slot_size.saturating_mul(LOOK_SLOTS)) {
            let state = self.state.lock();
            let Some(epoch) = state.epoch(entry_id) else { break };
            for piece in step.slots(slot_size) {
                if let Some(set) = state.trusted.peek(&(epoch, slot_start(piece, slot_size))) {
                    set.overlap(piece).into_iter().for_each(|part| parts.insert(part));
                }
            }
        }
        parts
    }

    /// Trusts the range of a claim, whose bytes were just hashed and are on disk as they were in its epoch. `false`: that
    /// epoch has ended.
    pub fn trust(&self, claim: &Claim<'_>) -> bool {
        self.trust_in(claim.entry_id, claim.epoch, claim.slot_size, claim.range)
    }

    /// Trusts `range`, which our own `change` has just written; `false`: its epoch has ended.
    pub fn trust_written(&self, (entry_id, epoch): (i64, Epoch), slot_size: u64, range: ByteRange) -> bool {
        self.trust_in(entry_id, epoch, slot_size, range)
    }

    fn trust_in(&self, entry_id: i64, epoch: Epoch, slot_size: u64, range: ByteRange) -> bool {
        let mut state = self.state.lock();
        if state.epoch(entry_id) != Some(epoch) {
            return false;
        }
        for piece in range.slots(slot_size) {
            let slot = (epoch, slot_start(piece, slot_size));
            state.trusted.get_or_insert_mut(slot, RangeSet::new).insert(piece);
        }
        true
    }

    /// The entry's file is seen with this stamp: whether that is the file as it was, or one never seen before. `false`
    /// changes nothing, as a change of our own may have ended since the stamp was taken (see `found_changed`).
    pub fn sees(&self, entry_id: i64, stamp: Stamp) -> bool {
        let mut state = self.state.lock();
        if let Some(file) = state.files.get(&entry_id) {
            return file.agrees(&stamp);
        }
        state.begin_epoch(entry_id, stamp);
        true
    }

    /// The entry's file was changed by another program, or is a new one: nothing of it is trusted.
    pub fn found_changed(&self, entry_id: i64, stamp: Stamp) {
        self.state.lock().begin_epoch(entry_id, stamp);
    }

    /// Announces a change of our own, which gives back `freed_bytes` of the disk at most. `None`: the file is not as it was.
    pub fn begin_change(&self, entry_id: i64, stamp: Stamp, freed_bytes: u64) -> Option<Change<'_>> {
        let mut state = self.state.lock();
        if state.files.peek(&entry_id).is_none() {
            state.begin_epoch(entry_id, stamp);
        }
        let file = state.files.get_mut(&entry_id).filter(|file| file.agrees(&stamp))?;
        file.changes += 1;
        file.freed_bytes = file.freed_bytes.saturating_add(freed_bytes);
        file.freed_so_far_bytes = file.freed_so_far_bytes.saturating_add(freed_bytes);
        Some(Change { hot: self, entry_id, epoch: file.epoch })
    }

    /// Announces that the file is given another length: told with a change of our own that is announced already.
    pub fn grows(&self, change: &Change<'_>, size_bytes: u64) {
        let mut state = self.state.lock();
        if let Some(file) = state.files.get_mut(&change.entry_id).filter(|file| file.epoch == change.epoch) {
            file.lengths = Some([file.stamp.size_bytes(), size_bytes]);
        }
    }

    /// Which state of the entry's file is trusted now, as far as anything of it is.
    pub fn epoch(&self, entry_id: i64) -> Option<Epoch> {
        self.state.lock().epoch(entry_id)
    }

    /// Withdraws trust in `range`, claims or not: its bytes were found wrong. `false`: the entry is lent out, and what
    /// is wrong must stay where it is; no more of it is lent.
    pub fn distrust(&self, entry_id: i64, slot_size: u64, range: ByteRange) -> bool {
        let mut state = self.state.lock();
        if let Some(epoch) = state.epoch(entry_id) {
            for piece in range.slots(slot_size) {
                if let Some(set) = state.trusted.peek_mut(&(epoch, slot_start(piece, slot_size))) {
                    set.remove(piece);
                }
            }
        }
        !state.pins.contains_key(&entry_id)
    }

    /// Withdraws trust in `range`, which lies in one slot, unless somebody reads there now or has the whole entry. `true`: it may be evicted,
    /// and `gone` must be called when it is.
    pub fn release(&self, entry_id: i64, slot_size: u64, range: ByteRange) -> bool {
        let mut state = self.state.lock();
        let slot = (entry_id, range.start - range.start % slot_size);
        if state.claims.contains_key(&slot) || state.pins.contains_key(&entry_id) {
            return false;
        }
        if let Some(epoch) = state.epoch(entry_id)
            && let Some(set) = state.trusted.peek_mut(&(epoch, slot.1))
        {
            set.remove(range);
        }
        state.leaving.entry(slot).or_default().insert(range);
        true
    }

    /// A released range has its hole, or stays after all: what comes there from now on is new.
    pub fn gone(&self, entry_id: i64, slot_size: u64, range: ByteRange) {
        let mut state = self.state.lock();
        let slot = (entry_id, range.start - range.start % slot_size);
        if let Some(set) = state.leaving.get_mut(&slot) {
            set.remove(range);
            if set.iter().next().is_none() {
                state.leaving.remove(&slot);
            }
        }
    }

    /// Keeps the evictor off all of an entry of `bytes` until `unpin`; `false` if all that is pinned would be more than
    /// `bytes_max`.
    pub fn pin(&self, entry_id: i64, bytes: u64, bytes_max: u64) -> bool {
        let mut state = self.state.lock();
        if let Some(pin) = state.pins.get_mut(&entry_id) {
            pin.count += 1;
            return true;
        }
        if state.pinned_bytes.saturating_add(bytes) > bytes_max {
            return false;
        }
        state.pinned_bytes += bytes;
        state.pins.insert(entry_id, Pin { count: 1, bytes });
        true
    }

    /// Takes one `pin` back. `used`, its slot size and size, if somebody had the entry: all of it counts as used now.
    pub fn unpin(&self, entry_id: i64, used: Option<(u64, u64)>) {
        let mut state = self.state.lock();
        let Some(pin) = state.pins.get_mut(&entry_id) else { return };
        pin.count -= 1;
        if pin.count == 0 {
            state.pinned_bytes -= pin.bytes;
            state.pins.remove(&entry_id);
        }
        let Some((slot_size, size)) = used else { return };
        let now = micros(SystemTime::now());
        let room = TOUCHES_MAX.saturating_sub(state.touched.len());
        for slot in ByteRange::new(0, size).slots(slot_size).take(room) {
            state.touched.insert((entry_id, slot.start), (slot_size, now));
        }
    }

    /// The entries that are pinned now.
    pub fn pinned(&self) -> Vec<i64> {
        self.state.lock().pins.keys().copied().collect()
    }

    /// Whether an entry is pinned.
    pub fn is_pinned(&self, entry_id: i64) -> bool {
        self.state.lock().pins.contains_key(&entry_id)
    }

    /// Takes the times of use noted since the last call.
    pub fn take_touches(&self) -> Vec<Touch> {
        let touched = std::mem::take(&mut self.state.lock().touched);
        touched
            .into_iter()
            .map(|((entry_id, start), (slot_size, at))| Touch { entry_id, slot: ByteRange::at(start, slot_size), at })
            .collect()
    }
}

impl Claim<'_> {
    /// Whether the file, seen with this stamp after its bytes were read, is as it was when they were trusted. `false` may
    /// also mean that a change of our own has ended since the stamp was taken.
    pub fn agrees(&self, stamp: &Stamp) -> bool {
        let state = self.hot.state.lock();
        state.files.peek(&self.entry_id).is_some_and(|file| file.epoch == self.epoch && file.agrees(stamp))
    }
}

impl Change<'_> {
    /// The change is made, and this is the file with it. `None`: another program changed it meanwhile, and nothing of it is
    /// trusted any longer.
    pub fn end(self, stamp: Stamp) -> Option<Epoch> {
        let mut state = self.hot.state.lock();
        let file = state.files.get_mut(&self.entry_id).filter(|file| file.epoch == self.epoch)?;
        if !file.may_be_our_change(&stamp) {
            state.begin_epoch(self.entry_id, stamp);
            return None;
        }
        // One of before the file was made longer is older than what is known.
        if stamp.size_bytes() >= file.stamp.size_bytes() {
            file.stamp = stamp;
        }
        Some(self.epoch)
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        let mut state = self.hot.state.lock();
        if let Some(file) = state.files.get_mut(&self.entry_id).filter(|file| file.epoch == self.epoch) {
            file.changes -= 1;
            // Of changes that overlap, the last one to end gives all of it back.
            if file.changes == 0 {
                file.freed_bytes = 0;
                file.lengths = None;
            }
        }
    }
}

/// First byte of the slot that holds `piece`.
fn slot_start(piece: ByteRange, slot_size: u64) -> u64 {
    piece.start - piece.start % slot_size
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut state = self.hot.state.lock();
        for piece in self.range.slots(self.slot_size) {
            let slot = (self.entry_id, piece.start - piece.start % self.slot_size);
            if let Some(count) = state.claims.get_mut(&slot) {
                *count -= 1;
                if *count == 0 {
                    state.claims.remove(&slot);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: u64 = 100;

    fn made_up(changed_at: i64) -> Stamp {
        Stamp::made_up(7, changed_at)
    }

    /// Entry 1 is a file that was seen, with trust in `range`.
    fn hot(range: ByteRange) -> Hot {
        let hot = Hot::new();
        assert!(hot.sees(1, made_up(0)));
        assert!(hot.trust(&hot.hold(1, SLOT, range).unwrap()));
        hot
    }

    #[test]
    fn trust_ends_when_the_file_is_found_changed() {
        let range = ByteRange::new(0, 300);
        let hot = hot(range);
        let claim = hot.claim(1, SLOT, range).unwrap();
        assert!(claim.agrees(&made_up(0)) && !claim.agrees(&made_up(1)));
        assert!(hot.sees(1, made_up(0)) && !hot.sees(1, made_up(1)));
        assert!(hot.claim(1, SLOT, range).is_some(), "a look alone changes nothing");
        hot.found_changed(1, made_up(1));
        assert!(hot.claim(1, SLOT, range).is_none() && hot.trusted(1, SLOT, range).is_empty());
        assert!(hot.look(1, SLOT, range).is_empty());
        assert!(!claim.agrees(&made_up(1)), "it is of the file as it was");
        assert!(!hot.trust(&claim), "hashed before the change");
        assert!(hot.trust(&hot.hold(1, SLOT, range).unwrap()) && hot.claim(1, SLOT, range).is_some());
    }

    #[test]
    fn trust_outlives_our_own_changes_of_the_file() {
        let range = ByteRange::new(0, 100);
        let hot = hot(range);
        let claim = hot.claim(1, SLOT, range).unwrap();
        let change = hot.begin_change(1, made_up(0), 0).unwrap();
        // Seen in the middle of it, or before: it is ours.
        assert!(claim.agrees(&made_up(3)) && claim.agrees(&made_up(0)) && hot.sees(1, made_up(4)));
        let epoch = change.end(made_up(5)).unwrap();
        assert!(hot.trust_written((1, epoch), SLOT, ByteRange::new(100, 200)));
        assert!(claim.agrees(&made_up(5)) && !claim.agrees(&made_up(4)));
        assert!(hot.claim(1, SLOT, ByteRange::new(0, 200)).is_some());
        // One that never came to its end is another's.
        drop(hot.begin_change(1, made_up(5), 0));
        assert!(claim.agrees(&made_up(5)) && !claim.agrees(&made_up(6)));
        assert!(hot.begin_change(1, made_up(6), 0).is_none());
    }

    #[test]
    fn trust_ends_when_the_file_is_cut_or_replaced_during_our_own_change() {
        for other in [Stamp::made_up(8, 1), Stamp::made_up_cut(7, 1)] {
            let range = ByteRange::new(0, 100);
            let hot = hot(range);
            let claim = hot.claim(1, SLOT, range).unwrap();
            let change = hot.begin_change(1, made_up(0), 0).unwrap();
            assert!(!claim.agrees(&other));
            assert!(change.end(other).is_none());
            assert!(hot.claim(1, SLOT, range).is_none());
        }
        let hot = hot(ByteRange::new(0, 100));
        let change = hot.begin_change(1, made_up(0), 0).unwrap();
        hot.found_changed(1, made_up(1));
        assert!(change.end(made_up(2)).is_none(), "found by another meanwhile");
        assert!(hot.sees(1, made_up(1)));
    }

    #[test]
    fn only_what_was_trusted_can_be_claimed() {
        let hot = hot(ByteRange::new(50, 230));
        assert!(hot.claim(1, SLOT, ByteRange::new(50, 230)).is_some());
        assert!(hot.claim(1, SLOT, ByteRange::new(49, 60)).is_none());
        assert!(hot.claim(1, SLOT, ByteRange::new(229, 231)).is_none());
        assert!(hot.claim(2, SLOT, ByteRange::new(50, 60)).is_none());
        assert_eq!(hot.trusted(1, SLOT, ByteRange::new(0, 300)).iter().collect::<Vec<_>>(), [ByteRange::new(50, 230)]);
    }

    #[test]
    fn what_is_being_read_is_not_evicted() {
        let hot = hot(ByteRange::new(0, 200));
        let claim = hot.claim(1, SLOT, ByteRange::new(90, 110));
        assert!(claim.is_some());
        assert!(!hot.release(1, SLOT, ByteRange::new(0, 50)), "same slot");
        assert!(!hot.release(1, SLOT, ByteRange::new(100, 200)));
        drop(claim);
        assert!(hot.release(1, SLOT, ByteRange::new(100, 200)));
        assert!(hot.claim(1, SLOT, ByteRange::new(90, 110)).is_none());
        assert!(hot.claim(1, SLOT, ByteRange::new(90, 100)).is_some());
    }

    #[test]
    fn what_is_being_evicted_is_not_hashed_into_trust() {
        let hot = hot(ByteRange::new(0, 100));
        assert!(hot.release(1, SLOT, ByteRange::new(0, 50)));
        assert!(hot.hold(1, SLOT, ByteRange::new(40, 60)).is_none());
        assert!(hot.hold(1, SLOT, ByteRange::new(50, 60)).is_some(), "another row of the slot");
        hot.gone(1, SLOT, ByteRange::new(0, 50));
        assert!(hot.hold(1, SLOT, ByteRange::new(40, 60)).is_some());
    }

    #[test]
    fn nothing_of_what_is_lent_out_is_evicted() {
        let hot = hot(ByteRange::new(0, 300));
        assert!(hot.pin(1, 300, 500) && hot.pin(1, 300, 500), "twice the same counts once");
        assert!(!hot.pin(2, 300, 500), "no room for another");
        assert!(!hot.release(1, SLOT, ByteRange::new(100, 200)));
        hot.unpin(1, Some((SLOT, 300)));
        assert!(!hot.release(1, SLOT, ByteRange::new(100, 200)), "lent out once more");
        hot.unpin(1, Some((SLOT, 300)));
        assert_eq!(hot.take_touches().len(), 3, "all of it was used");
        assert!(hot.pin(2, 300, 500));
        assert!(hot.release(1, SLOT, ByteRange::new(100, 200)));
    }

    #[test]
    fn uses_are_noted_once_a_slot() {
        let hot = hot(ByteRange::new(0, 200));
        for _ in 0..3 {
            assert!(hot.claim(1, SLOT, ByteRange::new(90, 110)).is_some());
        }
        assert_eq!(hot.take_touches().len(), 2);
        assert!(hot.take_touches().is_empty());
    }
}
