//! How many connections are answered at once, and their end: shared by both of a mount's listeners.
//! Never here: what is said over them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long answers under way may take to notice the end; what is left then ends with the process.
const FAREWELL_MAX: Duration = Duration::from_secs(1);
/// How often it is looked whether they have.
const FAREWELL_TICK: Duration = Duration::from_millis(5);

/// After a failure to accept (no descriptors left), before trying again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The places of one listener.
pub(super) struct Seats {
    most: usize,
    taken: AtomicUsize,
    is_ending: AtomicBool,
}

/// One of them; free again when dropped.
pub(super) struct Seat(Arc<Seats>);

impl Seats {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: AtomicUsize::new(0), is_ending: AtomicBool::new(false) })
    }

    /// A free one, if there is one.
    pub(super) fn take(self: &Arc<Self>) -> Option<Seat> {
        let before = self.taken.fetch_add(1, Ordering::AcqRel);
        // Given back at once if it is one too many.
        let seat = Seat(Arc::clone(self));
        (before < self.most).then_some(seat)
    }

    /// Has each connection that `accept` hands over answered on a thread called `name`, until the end. One too many is
    /// refused.
    pub(super) fn accept_all<S: Send + 'static>(
        self: &Arc<Self>,
        name: &str,
        accept: impl Fn() -> io::Result<S>,
        refuse: impl Fn(S),
        answer: impl Fn(&S) + Send + Sync + 'static,
    ) {
        let answer = Arc::new(answer);
        loop {
            let accepted = accept();
            if self.is_ending() {
                return;
            }
            let Ok(stream) = accepted else {
                thread::sleep(ACCEPT_PAUSE);
                continue;
            };
            let Some(seat) = self.take() else {
                refuse(stream);
                continue;
            };
            let answer = Arc::clone(&answer);
            let begun = thread::Builder::new().name(name.to_owned()).spawn(move || {
                answer(&stream);
                drop(seat);
            });
            if let Err(error) = begun {
                log::warn!("no thread for a connection ({name}): {error}");
            }
        }
    }

    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }

    /// Answers should end from now on.
    pub(super) fn end(&self) {
        self.is_ending.store(true, Ordering::Release);
    }

    pub(super) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
    }

    /// Returns when all have ended, or after a while.
    pub(super) fn wait_until_free(&self) {
        let begun = Instant::now();
        while self.taken() > 0 && begun.elapsed() < FAREWELL_MAX {
            thread::sleep(FAREWELL_TICK);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}
