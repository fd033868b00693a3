//! What this process itself has hashed and found right: the only bytes it hands out. An LRU in front of the index,
//! and the claims of readers, and the pins of lent entries, that keep the evictor off what is being read.
//! Never here: I/O. A lookup is a lock, a hash map and nothing else.
//!
//! Invariants:
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
use crate::range::{ByteRange, RangeSet};

/// Slots remembered as trusted: 128 GiB of 2 MiB chunks, in about 8 MiB of memory.
const TRUSTED_SLOTS_MAX: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();
/// Slots looked at under one lock by who only looks: some microseconds, that no read should wait for longer.
const LOOK_SLOTS: u64 = 64;
/// Times of use kept until they are recorded; more are forgotten, which only blurs the eviction order.
const TOUCHES_MAX: usize = 16_384;

/// A slot of an entry: its id and the slot's first byte.
type Slot = (i64, u64);

/// Trusted coverage of all entries.
pub struct Hot {
    // Guards lookups, claims and times of use together, so that a claim and an eviction can't pass each other.
    // The innermost lock of the house: nothing is taken, and nothing waits, under it.
    state: Mutex<State>,
}

struct State {
    trusted: LruCache<Slot, RangeSet>,
    claims: HashMap<Slot, u32>,
    // Released, and not punched yet. Short: what one eviction takes.
    leaving: HashMap<Slot, RangeSet>,
    touched: HashMap<Slot, (u64, i64)>,
    // Entries lent out whole: nothing of them is released.
    pins: HashMap<i64, Pin>,
    pinned_bytes: u64,
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
}

impl Hot {
    /// Nothing is trusted yet.
    pub fn new() -> Self {
        let state = State {
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
        let slot_of = |piece: ByteRange| (entry_id, piece.start - piece.start % slot_size);
        let trusted = range
            .slots(slot_size)
            .all(|piece| state.trusted.get(&slot_of(piece)).is_some_and(|set| set.contains(piece)));
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
        Some(Claim { hot: self, entry_id, slot_size, range })
    }

    /// A claim on `range` whether it is trusted or not: its bytes are about to be hashed. `None` while any of it is
    /// being evicted.
    pub fn hold(&self, entry_id: i64, slot_size: u64, range: ByteRange) -> Option<Claim<'_>> {
        let mut state = self.state.lock();
        let slot_of = |piece: ByteRange| (entry_id, piece.start - piece.start % slot_size);
        let is_leaving = |piece| state.leaving.get(&slot_of(piece)).is_some_and(|set| !set.overlap(piece).is_empty());
        if range.slots(slot_size).any(is_leaving) {
            return None;
        }
        for piece in range.slots(slot_size) {
            *state.claims.entry(slot_of(piece)).or_default() += 1;
        }
        Some(Claim { hot: self, entry_id, slot_size, range })
    }

    /// The trusted parts of `range`.
    pub fn trusted(&self, entry_id: i64, slot_size: u64, range: ByteRange) -> RangeSet {
        let mut state = self.state.lock();
        let mut parts = RangeSet::new();
        for piece in range.slots(slot_size) {
            if let Some(set) = state.trusted.get(&(entry_id, piece.start - piece.start % slot_size)) {
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
            for piece in step.slots(slot_size) {
                if let Some(set) = state.trusted.peek(&(entry_id, piece.start - piece.start % slot_size)) {
                    set.overlap(piece).into_iter().for_each(|part| parts.insert(part));
                }
            }
        }
        parts
    }

    /// Trusts `range`, whose bytes were just hashed and are on disk.
    pub fn trust(&self, entry_id: i64, slot_size: u64, range: ByteRange) {
        let mut state = self.state.lock();
        for piece in range.slots(slot_size) {
            let slot = (entry_id, piece.start - piece.start % slot_size);
            state.trusted.get_or_insert_mut(slot, RangeSet::new).insert(piece);
        }
    }

    /// Withdraws trust in `range`, claims or not: its bytes were found wrong. `false`: the entry is lent out, and what
    /// is wrong must stay where it is; no more of it is lent.
    pub fn distrust(&self, entry_id: i64, slot_size: u64, range: ByteRange) -> bool {
        let mut state = self.state.lock();
        for piece in range.slots(slot_size) {
            if let Some(set) = state.trusted.peek_mut(&(entry_id, piece.start - piece.start % slot_size)) {
                set.remove(piece);
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
        if let Some(set) = state.trusted.peek_mut(&slot) {
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

    #[test]
    fn only_what_was_trusted_can_be_claimed() {
        let hot = Hot::new();
        hot.trust(1, SLOT, ByteRange::new(50, 230));
        assert!(hot.claim(1, SLOT, ByteRange::new(50, 230)).is_some());
        assert!(hot.claim(1, SLOT, ByteRange::new(49, 60)).is_none());
        assert!(hot.claim(1, SLOT, ByteRange::new(229, 231)).is_none());
        assert!(hot.claim(2, SLOT, ByteRange::new(50, 60)).is_none());
        assert_eq!(hot.trusted(1, SLOT, ByteRange::new(0, 300)).iter().collect::<Vec<_>>(), [ByteRange::new(50, 230)]);
    }

    #[test]
    fn what_is_being_read_is_not_evicted() {
        let hot = Hot::new();
        hot.trust(1, SLOT, ByteRange::new(0, 200));
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
        let hot = Hot::new();
        hot.trust(1, SLOT, ByteRange::new(0, 100));
        assert!(hot.release(1, SLOT, ByteRange::new(0, 50)));
        assert!(hot.hold(1, SLOT, ByteRange::new(40, 60)).is_none());
        assert!(hot.hold(1, SLOT, ByteRange::new(50, 60)).is_some(), "another row of the slot");
        hot.gone(1, SLOT, ByteRange::new(0, 50));
        assert!(hot.hold(1, SLOT, ByteRange::new(40, 60)).is_some());
    }

    #[test]
    fn nothing_of_what_is_lent_out_is_evicted() {
        let hot = Hot::new();
        hot.trust(1, SLOT, ByteRange::new(0, 300));
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
        let hot = Hot::new();
        hot.trust(1, SLOT, ByteRange::new(0, 200));
        for _ in 0..3 {
            assert!(hot.claim(1, SLOT, ByteRange::new(90, 110)).is_some());
        }
        assert_eq!(hot.take_touches().len(), 2);
        assert!(hot.take_touches().is_empty());
    }
}
