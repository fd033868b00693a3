//! The bound on bytes in memory: what flights hold from their start until the cache, or nobody, has them.
//! Never here: the bytes.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::lanes::Lane;
use crate::cancel::Cancel;

/// How often a waiting worker looks whether its flight was called off.
const LOOK: Duration = Duration::from_millis(20);

/// Counts bytes against a limit.
pub(super) struct Memory {
    limit_bytes: u64,
    // The innermost lock of its room; nothing is taken under it.
    used_bytes: Mutex<u64>,
    freed: Condvar,
}

impl Memory {
    pub(super) fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, used_bytes: Mutex::new(0), freed: Condvar::new() }
    }

    /// Takes `bytes`, waiting until there is room: all of it for demand, three quarters for what is only guessed.
    /// `false` when the flight was called off meanwhile. One flight always fits.
    pub(super) fn take(&self, bytes: u64, lane: Lane, cancel: &Cancel) -> bool {
        let limit = if lane == Lane::Demand { self.limit_bytes } else { self.limit_bytes / 4 * 3 };
        let mut used = self.used_bytes.lock();
        while *used > 0 && *used + bytes > limit {
            if cancel.is_cancelled() {
                return false;
            }
            self.freed.wait_for(&mut used, LOOK);
        }
        *used += bytes;
        true
    }

    pub(super) fn give_back(&self, bytes: u64) {
        *self.used_bytes.lock() -= bytes;
        self.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn guesses_leave_room_for_demand() {
        let (memory, cancel) = (Memory::new(100), Cancel::new());
        assert!(memory.take(70, Lane::Lookahead, &cancel));
        cancel.cancel();
        assert!(!memory.take(10, Lane::Lookahead, &cancel), "three quarters are taken");
        assert!(memory.take(30, Lane::Demand, &cancel));
        assert!(!memory.take(1, Lane::Demand, &cancel), "all is taken");
    }

    #[test]
    fn one_flight_always_fits() {
        let memory = Memory::new(10);
        assert!(memory.take(1_000, Lane::Fill, &Cancel::new()));
    }

    #[test]
    fn who_waits_gets_what_is_given_back() {
        let memory = Memory::new(100);
        assert!(memory.take(100, Lane::Demand, &Cancel::new()));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| memory.take(60, Lane::Demand, &Cancel::new()));
            memory.give_back(60);
            assert!(waiting.join().unwrap());
        });
        assert_eq!(*memory.used_bytes.lock(), 100);
    }
}
