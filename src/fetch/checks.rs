//! Hashing of chunks that an earlier run recorded, before their first use in this one. Two threads of their own, so
//! that an origin that hangs holds up nothing that is on this disk.
//! Never here: requests to an origin.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select_biased};
use parking_lot::Mutex;

use crate::cache::index::ChunkRow;
use crate::cache::{Cache, Entry};
use crate::error::{Error, Kind, Result};

/// Hashing runs at about a gigabyte a second for each thread; a disk is no faster.
const THREADS: usize = 2;
/// Chunks waiting, each for readers and for lookahead.
const QUEUED_MAX: usize = 4_096;

/// Runs its closure when the last clone is dropped: after the last of several checks.
pub struct After(Option<Box<dyn FnOnce() + Send + Sync>>);

impl After {
    /// `then` runs once, on whatever thread drops the last clone.
    pub fn new(then: impl FnOnce() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self(Some(Box::new(then))))
    }
}

impl Drop for After {
    fn drop(&mut self) {
        if let Some(then) = self.0.take() {
            then();
        }
    }
}

/// How long a thread rests after a check that could not be made.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

type Job = (Arc<Entry>, ChunkRow);
/// Whoever waits for a chunk's check, by entry and first byte.
type Waiting = Mutex<HashMap<(i64, u64), Vec<Arc<After>>>>;

struct Running {
    stop: Sender<()>,
    threads: Vec<JoinHandle<()>>,
}

/// The checkers.
pub struct Checks {
    // Guards which chunks are being checked, so that none is hashed twice at once. Taken alone.
    waiting: Arc<Waiting>,
    urgent: Sender<Job>,
    early: Sender<Job>,
    // Taken by `stop`; guards nothing else.
    running: Mutex<Option<Running>>,
}

impl Checks {
    /// Starts the threads; they end when this is dropped.
    pub fn start(cache: &Arc<Cache>) -> Result<Self> {
        let (urgent, urgent_inbox) = bounded(QUEUED_MAX);
        let (early, early_inbox) = bounded(QUEUED_MAX);
        let waiting = Arc::<Waiting>::default();
        let (stop, stopped) = bounded(0);
        let threads = (0..THREADS)
            .map(|number| {
                let (cache, waiting) = (Arc::clone(cache), Arc::clone(&waiting));
                let inboxes = [urgent_inbox.clone(), early_inbox.clone()];
                let stopped = stopped.clone();
                thread::Builder::new()
                    .name(format!("check-{number}"))
                    .spawn(move || run(&cache, &waiting, &inboxes, &stopped))
                    .map_err(|error| Error::io("starting a checking thread", &error))
            })
            .collect::<Result<_>>()?;
        Ok(Self { waiting, urgent, early, running: Mutex::new(Some(Running { stop, threads })) })
    }

    /// Has `chunks` checked, ahead of what is only early; `after` is dropped when all are. `Full` if too many wait.
    pub fn check(&self, entry: &Arc<Entry>, chunks: Vec<ChunkRow>, after: &Arc<After>) -> Result<()> {
        for chunk in chunks {
            let key = (entry.id(), chunk.range.start);
            // A chunk that only waits as an early one is queued again, urgently; the second check is a lookup.
            self.waiting.lock().entry(key).or_default().push(Arc::clone(after));
            if self.urgent.try_send((Arc::clone(entry), chunk)).is_err() {
                // Not dropped under the lock: other readers may look again, and come back here.
                let refused = self.waiting.lock().remove(&key);
                drop(refused);
                return Err(Error::new(
                    Kind::Full,
                    format!("{}: too many cached chunks wait to be checked", entry.path()),
                ));
            }
        }
        Ok(())
    }

    /// Has `chunks` checked when nothing else waits. Best effort.
    pub fn check_early(&self, entry: &Arc<Entry>, chunks: Vec<ChunkRow>) {
        for chunk in chunks {
            let key = (entry.id(), chunk.range.start);
            let mut waiting = self.waiting.lock();
            if let Slot::Vacant(vacant) = waiting.entry(key)
                && self.early.try_send((Arc::clone(entry), chunk)).is_ok()
            {
                vacant.insert(Vec::new());
            }
        }
    }
}

fn run(cache: &Cache, waiting: &Waiting, [urgent, early]: &[Receiver<Job>; 2], stopped: &Receiver<()>) {
    loop {
        let job = select_biased! {
            recv(stopped) -> _ => return,
            recv(urgent) -> job => job,
            recv(early) -> job => job,
        };
        let Ok((entry, chunk)) = job else { return };
        if !cache.trusted(&entry, chunk.range).contains(chunk.range)
            && let Err(error) = cache.check(&entry, &chunk)
        {
            log::warn!("cache: cannot check {} of {}: {error}", chunk.range, entry.path());
            // Its readers look again, and find it unchecked again, until their deadline: not thousands of times.
            thread::sleep(AFTER_FAILURE);
        }
        // Dropped outside the lock: the last one runs a reader.
        let done = waiting.lock().remove(&(entry.id(), chunk.range.start));
        drop(done);
    }
}

impl Checks {
    /// Ends the threads; what still waits is not checked, and its readers look elsewhere.
    pub fn stop(&self) {
        let Some(Running { stop, threads }) = self.running.lock().take() else { return };
        drop(stop);
        // A reader's reply may hold the last reference to us: a thread does not wait for itself.
        for checker in threads.into_iter().filter(|checker| checker.thread().id() != thread::current().id()) {
            let _ = checker.join();
        }
        let left = std::mem::take(&mut *self.waiting.lock());
        drop(left);
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.stop();
    }
}
