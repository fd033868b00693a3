//! What is open: numbers the kernel holds, and what they stand for.
//! Never here: opening and closing themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::HashMap;
use parking_lot::RwLock;

/// Open things by number; numbers are never used twice.
pub(super) struct Handles<T> {
    next: AtomicU64,
    // Guards the map; readers of many files look things up at once.
    open: RwLock<HashMap<u64, Arc<T>>>,
}

impl<T> Handles<T> {
    pub(super) fn new() -> Self {
        Self { next: AtomicU64::new(1), open: RwLock::default() }
    }

    pub(super) fn add(&self, value: Arc<T>) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.write().insert(number, value);
        number
    }

    pub(super) fn get(&self, number: u64) -> Option<Arc<T>> {
        self.open.read().get(&number).map(Arc::clone)
    }

    /// The first `most` of all in the order of their numbers, and how many there are.
    pub(super) fn all(&self, most: usize) -> (Vec<Arc<T>>, usize) {
        let open = self.open.read();
        let mut numbers: Vec<_> = open.keys().copied().collect();
        numbers.sort_unstable();
        let first = numbers.iter().take(most).filter_map(|number| open.get(number).map(Arc::clone));
        (first.collect(), numbers.len())
    }

    /// Whether there is such a one.
    pub(super) fn any(&self, is_it: impl Fn(&T) -> bool) -> bool {
        self.open.read().values().any(|value| is_it(value))
    }

    pub(super) fn remove(&self, number: u64) {
        // Dropped without the lock: closing a file calls off its lookahead.
        let closed = self.open.write().remove(&number);
        drop(closed);
    }
}
