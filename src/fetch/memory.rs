//! The bound on bytes in memory: what flights hold from their start until the cache, or nobody, has them. And the
//! buffers themselves, used again: chunks come and go by the thousand, and an allocator that hands out fresh pages for
//! each costs more than their transfer, while one that keeps them keeps too many.
//! Never here: what is in them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::lanes::Lane;

/// Smaller buffers are left to the allocator, which is good at them.
const POOLED_MIN_BYTES: usize = 256 << 10;
/// Of the limit, one part in so many may lie in spare buffers: enough for those that pass from a flight that ends to one
/// that begins, and no more is kept by a drive that nobody reads.
const SPARE_SHARE: u64 = 4;

/// Counts bytes against a limit.
pub(super) struct Memory {
    limit_bytes: u64,
    // The innermost lock of its room; nothing is taken under it.
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    used_bytes: u64,
    // Buffers between two flights, oldest first: with those in use never more than the limit.
    spare: VecDeque<Vec<u8>>,
    spare_bytes: u64,
}

impl Memory {
    pub(super) fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, state: Mutex::default(), freed: Condvar::new() }
    }

    /// Takes `bytes`, waiting up to `wait` for room: all of it for demand, three quarters for what is only guessed.
    /// `false` when there was none. One flight always fits.
    pub(super) fn take(&self, bytes: u64, lane: Lane, wait: Duration) -> bool {
        let limit = if lane == Lane::Demand { self.limit_bytes } else { self.limit_bytes / 4 * 3 };
        let until = Instant::now() + wait;
        let mut state = self.state.lock();
        while state.used_bytes > 0 && state.used_bytes + bytes > limit {
            if self.freed.wait_until(&mut state, until).timed_out() {
                return false;
            }
        }
        state.used_bytes += bytes;
        true
    }

    /// An empty buffer for `len` bytes that were taken: a spare one of just that size, or a new one. A longer one would hold
    /// more than was taken, and a spare one that is in the way of the limit goes.
    pub(super) fn buffer(&self, len: u64) -> Vec<u8> {
        let gone = {
            let mut state = self.state.lock();
            if let Some(at) = state.spare.iter().position(|buffer| buffer.capacity() as u64 == len)
                && let Some(buffer) = state.spare.remove(at)
            {
                state.spare_bytes -= len;
                return buffer;
            }
            state.drop_spare(self.limit_bytes)
        };
        // Freed without the lock.
        drop(gone);
        Vec::with_capacity(len as usize)
    }

    /// Gives back what was taken, and the buffer, unless somebody still looks at it.
    pub(super) fn give_back(&self, bytes: u64, buffer: Option<Vec<u8>>) {
        let gone = {
            let mut state = self.state.lock();
            state.used_bytes -= bytes;
            if let Some(mut buffer) = buffer.filter(|buffer| buffer.capacity() >= POOLED_MIN_BYTES) {
                buffer.clear();
                state.spare_bytes += buffer.capacity() as u64;
                state.spare.push_back(buffer);
            }
            state.drop_spare(self.limit_bytes)
        };
        self.freed.notify_all();
        drop(gone);
    }
}

impl State {
    /// Takes spare buffers out until what is left of them is within both bounds.
    fn drop_spare(&mut self, limit_bytes: u64) -> Vec<Vec<u8>> {
        let spare_max = limit_bytes.saturating_sub(self.used_bytes).min(limit_bytes / SPARE_SHARE);
        let mut gone = Vec::new();
        while self.spare_bytes > spare_max
            && let Some(buffer) = self.spare.pop_front()
        {
            self.spare_bytes -= buffer.capacity() as u64;
            gone.push(buffer);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn guesses_leave_room_for_demand() {
        let memory = Memory::new(100);
        assert!(memory.take(70, Lane::Lookahead, Duration::ZERO));
        assert!(!memory.take(10, Lane::Lookahead, Duration::ZERO), "three quarters are taken");
        assert!(memory.take(30, Lane::Demand, Duration::ZERO));
        assert!(!memory.take(1, Lane::Demand, Duration::ZERO), "all is taken");
    }

    #[test]
    fn one_flight_always_fits() {
        let memory = Memory::new(10);
        assert!(memory.take(1_000, Lane::Fill, Duration::ZERO));
    }

    #[test]
    fn who_waits_gets_what_is_given_back() {
        let memory = Memory::new(100);
        assert!(memory.take(100, Lane::Demand, Duration::ZERO));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| memory.take(60, Lane::Demand, Duration::from_mins(1)));
            memory.give_back(60, None);
            assert!(waiting.join().unwrap());
        });
        assert_eq!(memory.state.lock().used_bytes, 100);
    }

    const LEN: u64 = POOLED_MIN_BYTES as u64;

    /// A buffer that a flight of `len` bytes held, after its end.
    fn flown(memory: &Memory, len: u64) {
        assert!(memory.take(len, Lane::Demand, Duration::ZERO));
        let buffer = memory.buffer(len);
        memory.give_back(len, Some(buffer));
    }

    #[test]
    fn buffers_are_used_again() {
        let memory = Memory::new(8 * LEN);
        assert!(memory.take(LEN, Lane::Demand, Duration::ZERO));
        let mut buffer = memory.buffer(LEN);
        buffer.push(1);
        let place = buffer.as_ptr();
        memory.give_back(LEN, Some(buffer));
        assert!(memory.take(LEN, Lane::Demand, Duration::ZERO));
        let again = memory.buffer(LEN);
        assert!(again.is_empty() && again.as_ptr() == place);
    }

    #[test]
    fn spare_buffers_of_another_size_stay_within_the_limit() {
        let memory = Memory::new(8 * LEN);
        flown(&memory, LEN);
        flown(&memory, 2 * LEN);
        assert_eq!(memory.state.lock().spare_bytes, 2 * LEN, "a quarter of the limit, and the last one");
        assert!(memory.take(LEN, Lane::Demand, Duration::ZERO));
        assert_eq!(memory.buffer(LEN).capacity() as u64, LEN, "no longer than what was taken");
        assert!(memory.take(6 * LEN, Lane::Demand, Duration::ZERO));
        let long = memory.buffer(6 * LEN);
        let state = memory.state.lock();
        assert!(state.used_bytes + state.spare_bytes <= memory.limit_bytes, "{} spare", state.spare_bytes);
        drop((state, long));
    }

    #[test]
    fn an_idle_drive_keeps_few_buffers() {
        let memory = Memory::new(8 * LEN);
        for _ in 0..8 {
            assert!(memory.take(LEN, Lane::Demand, Duration::ZERO));
        }
        for _ in 0..8 {
            memory.give_back(LEN, Some(Vec::with_capacity(POOLED_MIN_BYTES)));
        }
        assert_eq!(memory.state.lock().spare.len(), 2);
    }
}
