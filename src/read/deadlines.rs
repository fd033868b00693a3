//! The end of every wait: one thread that fails the reads whose time is over.
//! Never here: retries. What a read waits for goes on, or is called off, elsewhere.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::pending::Pending;
use crate::error::{Error, Kind, Result};
use crate::fetch::Waiter as _;

/// Reads that may wait at once; more are refused rather than queued without end.
const PENDING_MAX: usize = 65_536;

/// Watches every read that waits.
pub struct Deadlines {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Queue {
    // Guards the watched reads; taken alone.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    reads: BTreeMap<(Instant, u64), Weak<Pending>>,
    tickets: u64,
    is_stopped: bool,
}

/// A place among the watched reads, given back when dropped.
pub struct Ticket {
    queue: Arc<Queue>,
    key: (Instant, u64),
}

impl Deadlines {
    /// Starts the thread; `late` runs after reads were ended, to call off what only they wanted.
    pub fn start(late: impl Fn() + Send + 'static) -> Result<Self> {
        let queue = Arc::<Queue>::default();
        let watched = Arc::clone(&queue);
        let thread = thread::Builder::new()
            .name("deadlines".into())
            .spawn(move || watched.run(&late))
            .map_err(|error| Error::io("starting the deadline thread", &error))?;
        Ok(Self { queue, thread: Some(thread) })
    }

    /// Watches a read; `Full` when too many are watched already.
    pub fn watch(&self, read: &Arc<Pending>) -> Result<()> {
        let ticket = {
            let mut state = self.queue.state.lock();
            if state.reads.len() >= PENDING_MAX {
                return Err(Error::new(Kind::Full, "too many reads wait for the origin"));
            }
            state.tickets += 1;
            let key = (read.deadline(), state.tickets);
            let is_first = state.reads.first_key_value().is_none_or(|(first, _)| key < *first);
            state.reads.insert(key, Arc::downgrade(read));
            if is_first {
                self.queue.changed.notify_one();
            }
            Ticket { queue: Arc::clone(&self.queue), key }
        };
        read.watched(ticket);
        Ok(())
    }
}

impl Queue {
    fn run(&self, late: &impl Fn()) {
        let mut state = self.state.lock();
        while !state.is_stopped {
            let Some(((deadline, _), _)) = state.reads.first_key_value() else {
                self.changed.wait(&mut state);
                continue;
            };
            let deadline = *deadline;
            if Instant::now() < deadline {
                self.changed.wait_until(&mut state, deadline);
                continue;
            }
            let Some((_, read)) = state.reads.pop_first() else { continue };
            // Replies are called, and flights called off, without the lock.
            drop(state);
            if let Some(read) = read.upgrade() {
                let calls_off = read.calls_off();
                read.fail(Error::new(Kind::TimedOut, "the origin did not answer in time"));
                if calls_off {
                    late();
                }
            }
            state = self.state.lock();
        }
    }
}

impl Drop for Deadlines {
    fn drop(&mut self) {
        self.queue.state.lock().is_stopped = true;
        self.queue.changed.notify_one();
        // A read's reply may hold the last reference to us: a thread does not wait for itself.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != thread::current().id()) {
            let _ = thread.join();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let gone = self.queue.state.lock().reads.remove(&self.key);
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossbeam_channel::bounded;

    use super::*;
    use crate::range::ByteRange;

    fn pending(timeout: Duration) -> (Arc<Pending>, crossbeam_channel::Receiver<Option<Kind>>) {
        let (answer, answers) = bounded(1);
        let reply = Box::new(move |result: Result<&[u8]>| {
            let _ = answer.send(result.err().map(|error| error.kind()));
        });
        (Pending::new(ByteRange::new(0, 4), Instant::now() + timeout, reply, |_| {}), answers)
    }

    #[test]
    fn a_read_nobody_answers_ends_at_its_deadline() {
        let deadlines = Deadlines::start(|| {}).unwrap();
        let (long, long_answers) = pending(Duration::from_mins(10));
        deadlines.watch(&long).unwrap();
        let (short, answers) = pending(Duration::from_millis(30));
        short.expect();
        deadlines.watch(&short).unwrap();
        assert_eq!(answers.recv_timeout(Duration::from_secs(20)).unwrap(), Some(Kind::TimedOut));
        assert!(long_answers.is_empty());
    }

    #[test]
    fn an_answered_read_is_watched_no_longer() {
        let deadlines = Deadlines::start(|| {}).unwrap();
        let (read, answers) = pending(Duration::from_mins(10));
        deadlines.watch(&read).unwrap();
        read.expect();
        read.settle(Ok(()));
        assert_eq!(answers.recv().unwrap(), None);
        assert!(deadlines.queue.state.lock().reads.is_empty());
    }
}
