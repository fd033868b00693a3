//! The bound on bytes in memory: what flights hold from their start until the cache, or nobody, has them. And the
//! buffers themselves, used again: chunks come and go by the thousand, and an allocator that hands out fresh pages for
//! each costs more than their transfer, while one that keeps them keeps too many.
//! Never here: what is in them.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::lanes::Lane;

/// Smaller buffers are left to the allocator, which is good at them.
const POOLED_MIN_BYTES: usize = 256 << 10;

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
    // Buffers between two flights: with those in use never more than the limit.
    spare: Vec<Vec<u8>>,
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

    /// An empty buffer for `len` bytes that were taken: a spare one, or a new one.
    pub(super) fn buffer(&self, len: u64) -> Vec<u8> {
        let len = len as usize;
        if len >= POOLED_MIN_BYTES {
            let mut state = self.state.lock();
            if let Some(at) = state.spare.iter().position(|buffer| buffer.capacity() >= len) {
                let buffer = state.spare.swap_remove(at);
                state.spare_bytes -= buffer.capacity() as u64;
                return buffer;
            }
        }
        Vec::with_capacity(len)
    }

    /// Gives back what was taken, and the buffer, unless somebody still looks at it.
    pub(super) fn give_back(&self, bytes: u64, buffer: Option<Vec<u8>>) {
        let mut state = self.state.lock();
        state.used_bytes -= bytes;
        if let Some(mut buffer) = buffer.filter(|buffer| buffer.capacity() >= POOLED_MIN_BYTES) {
            let capacity = buffer.capacity() as u64;
            if state.used_bytes + state.spare_bytes + capacity <= self.limit_bytes {
                buffer.clear();
                state.spare.push(buffer);
                state.spare_bytes += capacity;
            }
        }
        self.freed.notify_all();
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

    #[test]
    fn buffers_are_used_again_within_the_limit() {
        let len = POOLED_MIN_BYTES as u64;
        let memory = Memory::new(2 * len);
        for _ in 0..2 {
            assert!(memory.take(len, Lane::Demand, Duration::ZERO));
        }
        let mut buffer = memory.buffer(len);
        buffer.push(1);
        let place = buffer.as_ptr();
        memory.give_back(len, Some(buffer));
        let again = memory.buffer(len);
        assert!(again.is_empty() && again.as_ptr() == place);
        memory.give_back(0, Some(again));
        memory.give_back(0, Some(Vec::with_capacity(POOLED_MIN_BYTES)));
        assert_eq!(memory.state.lock().spare.len(), 1, "one in use, one spare: no room for more");
    }
}
