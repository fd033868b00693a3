//! What a wait may take beyond its deadline: a little for the way through the kernel, and what the machine itself is late
//! by, which other programs, or other machines on the same host, are to blame for.
//! Never here: what is waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Waking up, and the way through the kernel, on a machine that has time.
const LATE_MAX: Duration = Duration::from_millis(800);
/// Threads that are woken one after the other until an answer is where it was asked for.
const WAKINGS: u32 = 4;
const TICK: Duration = Duration::from_millis(5);

/// A thread that only sleeps and wakes, beside what is measured.
pub struct Machine {
    worst_micros: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Machine {
    pub fn watch() -> Self {
        let (worst_micros, is_over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (worst, over) = (Arc::clone(&worst_micros), Arc::clone(&is_over));
        let thread = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                thread::sleep(TICK);
                worst.fetch_max(begun.elapsed().saturating_sub(TICK).as_micros() as u64, Ordering::Relaxed);
            }
        });
        Self { worst_micros, is_over, thread: Some(thread) }
    }

    /// How late one thread was woken, at worst, since this is watched.
    pub fn late_by(&self) -> Duration {
        Duration::from_micros(self.worst_micros.load(Ordering::Relaxed))
    }

    /// What a wait may have taken beyond its deadline meanwhile.
    pub fn late_max(&self) -> Duration {
        LATE_MAX + self.late_by() * WAKINGS
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
