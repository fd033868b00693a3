//! What the cache's writer is asked, in order. Bytes whose turn does not come in time can be let go: whoever fetched them
//! serves them from memory, and they are fetched again when they are wanted again.
//! Never here: the disk.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::keeper::{Job, Keep};

/// Jobs that wait at once; the bytes among them are counted by whoever fetched them.
const JOBS_MAX: usize = 64;
/// A disk that has been at one job for so long is stuck: long enough for a hard disk to sync what other jobs wrote, short
/// enough for what players hold themselves.
const STUCK_AFTER: Duration = Duration::from_secs(2);
/// How often whoever waits for a place looks whether the disk is stuck.
const LOOK: Duration = Duration::from_millis(20);
/// A disk that is slow time and again is told of once in so long.
const TELL_EVERY: Duration = Duration::from_mins(1);

/// The way to the writer, from many threads to one.
pub(super) struct Queue {
    stuck_after: Duration,
    // Guards the jobs; nothing is taken, done, let go or logged under it.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    // Since when the writer is at the job it has taken last.
    busy_since: Option<Instant>,
    // When it was last said that the disk is stuck, and whether it is to be said that it goes on.
    told_at: Option<Instant>,
    is_told: bool,
    is_closed: bool,
}

impl Default for Queue {
    fn default() -> Self {
        Self::new(STUCK_AFTER)
    }
}

impl Queue {
    fn new(stuck_after: Duration) -> Self {
        Self { stuck_after, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Adds a job, waiting for a place. It comes back when the queue is closed; bytes also when the disk is stuck, or
    /// there is no place for as long as makes it so.
    pub(super) fn push(&self, job: Job) -> Result<(), Job> {
        let has_bytes = matches!(job, Job::Keep(_));
        let begun = Instant::now();
        let mut state = self.state.lock();
        loop {
            let is_full = state.jobs.len() >= JOBS_MAX;
            let is_late = self.is_stuck_in(&state) || (is_full && begun.elapsed() >= self.stuck_after);
            if state.is_closed || (has_bytes && is_late) {
                drop(state);
                self.tell_if_stuck();
                return Err(job);
            }
            if !is_full {
                break;
            }
            self.changed.wait_for(&mut state, LOOK);
        }
        state.jobs.push_back(job);
        self.changed.notify_all();
        Ok(())
    }

    /// Adds a job if there is a place for it now, and, for bytes, the disk is not stuck. Never waits.
    pub(super) fn offer(&self, job: Job) -> Result<(), Job> {
        let mut state = self.state.lock();
        if state.is_closed || state.jobs.len() >= JOBS_MAX || (matches!(job, Job::Keep(_)) && self.is_stuck_in(&state))
        {
            return Err(job);
        }
        state.jobs.push_back(job);
        self.changed.notify_all();
        Ok(())
    }

    /// The next job, for the one writer; `None` when the queue is closed and empty.
    pub(super) fn next(&self) -> Option<Job> {
        self.goes_on();
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state.busy_since = Some(Instant::now());
                self.changed.notify_all();
                return Some(job);
            }
            if state.is_closed {
                return None;
            }
            self.changed.wait(&mut state);
        }
    }

    /// The writer has done its job, but for telling of it: nothing of it can be stuck any more.
    pub(super) fn goes_on(&self) {
        let (busy_since, is_told) = {
            let mut state = self.state.lock();
            (state.busy_since.take(), std::mem::take(&mut state.is_told))
        };
        if let Some(since) = busy_since.filter(|_| is_told) {
            log::warn!("cache: the disk goes on after {:.1?}", since.elapsed());
        }
    }

    /// Nothing more is taken; what waits is still done.
    pub(super) fn close(&self) {
        self.state.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// How many jobs wait.
    pub(super) fn waiting(&self) -> usize {
        self.state.lock().jobs.len()
    }

    /// Whether the writer has been at one job for longer than anyone should wait for.
    pub(super) fn is_stuck(&self) -> bool {
        self.is_stuck_in(&self.state.lock())
    }

    fn is_stuck_in(&self, state: &State) -> bool {
        state.busy_since.is_some_and(|since| since.elapsed() >= self.stuck_after)
    }

    fn tell_if_stuck(&self) {
        {
            let mut state = self.state.lock();
            if !self.is_stuck_in(&state) || state.told_at.is_some_and(|at| at.elapsed() < TELL_EVERY) {
                return;
            }
            (state.told_at, state.is_told) = (Some(Instant::now()), true);
        }
        log::warn!("cache: the disk is slow: what comes before it goes on is served, but not kept");
    }

    /// Takes the bytes out that have waited longest.
    pub(super) fn take_oldest(&self) -> Option<Keep> {
        let mut state = self.state.lock();
        let oldest = state.jobs.iter().position(|job| matches!(job, Job::Keep(_)))?;
        let taken = state.jobs.remove(oldest);
        self.changed.notify_all();
        match taken {
            Some(Job::Keep(keep)) => Some(keep),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use crossbeam_channel::bounded;

    use super::*;
    use crate::cache::{Cache, Kept};
    use crate::config::CacheConfig;
    use crate::digest::Digest;
    use crate::range::ByteRange;
    use crate::store::{Stat, Version};

    const NEVER: Duration = Duration::from_hours(1);

    fn retire(entry_id: i64) -> Job {
        Job::Retire { entry_id }
    }

    /// Which one the next job retires.
    fn next(queue: &Queue) -> Option<i64> {
        match queue.next() {
            Some(Job::Retire { entry_id }) => Some(entry_id),
            _ => None,
        }
    }

    /// Bytes that are to be kept, and what is told of them.
    fn keep() -> (Job, crossbeam_channel::Receiver<Kept>) {
        let dir = tempfile::tempdir().unwrap();
        let (size_bytes, chunk_size_bytes) = (1 << 30, 1 << 20);
        let config = CacheConfig { dir: dir.path().to_owned(), size_bytes, min_free_bytes: 0, chunk_size_bytes };
        let cache = Cache::open(&config, "test:queue", Arc::default()).unwrap();
        let stat = Stat { size_bytes: 1, modified: None, version: Version::etag("\"1\"") };
        let (tell, told) = bounded(1);
        let keep = Keep {
            entry: cache.entry("film", &stat).unwrap(),
            range: ByteRange::new(0, 1),
            bytes: Arc::new(vec![1]),
            digest: Digest::of(&[1]),
            queued_at: Instant::now(),
            done: Box::new(move |kept| tell.send(kept).unwrap()),
        };
        (Job::Keep(keep), told)
    }

    #[test]
    fn first_come_first_served_until_it_is_closed() {
        let queue = Queue::new(NEVER);
        assert!(queue.push(retire(1)).is_ok());
        assert!(queue.offer(retire(2)).is_ok());
        assert_eq!(queue.waiting(), 2);
        assert_eq!(next(&queue), Some(1));
        assert_eq!(queue.waiting(), 1);
        queue.close();
        assert!(queue.push(retire(3)).is_err());
        assert!(queue.offer(retire(3)).is_err());
        assert_eq!(next(&queue), Some(2));
        assert!(queue.next().is_none());
    }

    #[test]
    fn where_there_is_no_place_one_waits_or_does_without() {
        let queue = Queue::new(NEVER);
        for job in (0..).take(JOBS_MAX) {
            assert!(queue.push(retire(job)).is_ok());
        }
        assert!(queue.offer(retire(-1)).is_err());
        thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.push(retire(-2)).is_ok());
            assert_eq!(next(&queue), Some(0));
            assert!(waiting.join().unwrap());
        });
        queue.close();
        let rest: Vec<_> = std::iter::from_fn(|| next(&queue)).collect();
        assert_eq!((rest.len(), rest.last()), (JOBS_MAX, Some(&-2)));
    }

    #[test]
    fn bytes_do_not_wait_for_a_stuck_disk() {
        let queue = Queue::new(Duration::ZERO);
        assert!(queue.push(retire(1)).is_ok());
        let (first, _told) = keep();
        assert!(queue.push(first).is_ok() && !queue.is_stuck());
        assert_eq!(next(&queue), Some(1));
        assert!(queue.is_stuck());
        let (second, told) = keep();
        let Err(Job::Keep(refused)) = queue.push(second) else { panic!("it is stuck") };
        let Err(refused) = queue.offer(Job::Keep(refused)) else { panic!("it is stuck") };
        let Job::Keep(refused) = refused else { panic!("it is another") };
        refused.let_go(&crate::metrics::Metrics::default());
        assert_eq!(told.recv(), Ok(Kept::Late));
        assert!(queue.push(retire(2)).is_ok(), "what holds no bytes waits");
        assert!(queue.take_oldest().is_some() && queue.take_oldest().is_none());
        assert_eq!(next(&queue), Some(2));
    }

    #[test]
    fn bytes_find_no_place_for_as_long_as_makes_a_disk_stuck() {
        let queue = Queue::new(Duration::from_millis(50));
        for job in (0..).take(JOBS_MAX) {
            assert!(queue.push(retire(job)).is_ok());
        }
        let (bytes, _told) = keep();
        assert!(!queue.is_stuck() && queue.push(bytes).is_err());
    }

    #[test]
    fn a_disk_is_stuck_with_one_job_not_with_many() {
        let queue = Queue::new(NEVER);
        assert!(queue.push(retire(1)).is_ok() && queue.next().is_some());
        assert!(!queue.is_stuck());
        let (bytes, _told) = keep();
        assert!(queue.push(bytes).is_ok());
    }
}
