//! Threads for what may take its time: asking the origin about names, opening files in the cache. So no thread of the
//! kernel's does.
//! Never here: what is done.
//!
//! Questions to an origin may last: a folder whose page comes a byte at a time, a store that hangs. One that has lasted for
//! a while gives its thread's place to another thread, so that quick ones go on; only so many may last at once, and the
//! oldest of them is called off when others wait. A question that waits too long for a thread is not asked any more.

use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::cancel::Cancel;
use crate::error::{Error, Kind, Result};

/// Jobs waiting; more are refused, as each is somebody's `ls` that would wait minutes.
const WAITING_MAX: usize = 8_192;
/// A question that has lasted for so long is slow: another thread takes its place.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// Slow questions at once, for each thread of the pool.
const SLOW_SHARE: usize = 3;
/// A question is called off after so many patiences, whether others wait or not: a folder of a million names over a thin
/// line takes minutes.
const PATIENCES_MAX: u32 = 60;
/// The newest job goes first when the oldest has waited for this part of the patience: most who came earlier have given up
/// or will, and whoever comes now should not.
const CONGESTED_SHARE: u32 = 4;
/// How often questions under way are looked at.
const LOOK: Duration = Duration::from_millis(100);

type Work = Box<dyn FnOnce(&Cancel) + Send>;
type Late = Box<dyn FnOnce() + Send>;

/// A bounded pool.
pub(super) struct Jobs {
    shared: Arc<Shared>,
    watch: Option<JoinHandle<()>>,
}

struct Shared {
    name: String,
    threads: usize,
    // For how long a question may wait, and last while others wait. `None`: jobs that don't ask the origin.
    patience: Option<Duration>,
    // Ends all questions.
    cancel: Cancel,
    // Taken alone; nothing is run or dropped under it.
    state: Mutex<State>,
    changed: Condvar,
    watched: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    running: Vec<Running>,
    begun: u64,
    // Those that run, and those that wait for work.
    workers: Vec<JoinHandle<()>>,
    alive: usize,
    is_stopped: bool,
}

struct Waiting {
    work: Work,
    late: Late,
    since: Instant,
}

struct Running {
    number: u64,
    since: Instant,
    cancel: Cancel,
}

impl Jobs {
    /// Starts `threads` threads, called `name`, for jobs that end soon.
    pub(super) fn start(name: &str, threads: usize) -> Result<Self> {
        Self::begin(name, threads, None, Cancel::new())
    }

    /// The same for questions to an origin, each of which should wait and last for `patience` at most; `cancel` ends all.
    pub(super) fn start_for_questions(name: &str, threads: usize, patience: Duration, cancel: &Cancel) -> Result<Self> {
        Self::begin(name, threads, Some(patience), cancel.clone())
    }

    fn begin(name: &str, threads: usize, patience: Option<Duration>, cancel: Cancel) -> Result<Self> {
        let (state, changed, watched) = (Mutex::default(), Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { name: name.to_owned(), threads, patience, cancel, state, changed, watched });
        let mut jobs = Self { shared: Arc::clone(&shared), watch: None };
        for _ in 0..threads {
            shared.add_worker(&mut shared.state.lock()).map_err(|error| Error::io("starting a thread", &error))?;
        }
        if let Some(patience) = patience {
            let watch = thread::Builder::new().name(format!("{name}-watch")).spawn(move || shared.watch(patience));
            jobs.watch = Some(watch.map_err(|error| Error::io("starting a thread", &error))?);
        }
        Ok(jobs)
    }

    /// Runs `job` on one of the threads. `Full` when too many wait.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) -> Result<()> {
        self.ask(move |_| job(), || {})
    }

    /// Runs `work` on one of the threads, which ends it when its `Cancel` is set; or `late`, if it has waited too long for a
    /// thread. `Full` when too many wait.
    pub(super) fn ask(
        &self,
        work: impl FnOnce(&Cancel) + Send + 'static,
        late: impl FnOnce() + Send + 'static,
    ) -> Result<()> {
        let waiting = Waiting { work: Box::new(work), late: Box::new(late), since: Instant::now() };
        let mut state = self.shared.state.lock();
        if state.waiting.len() >= WAITING_MAX || state.is_stopped {
            drop(state);
            return Err(Error::new(Kind::Full, "too many names are being asked for at once"));
        }
        state.waiting.push_back(waiting);
        drop(state);
        self.shared.changed.notify_one();
        self.shared.watched.notify_one();
        Ok(())
    }
}

impl Shared {
    fn add_worker(self: &Arc<Self>, state: &mut State) -> std::io::Result<()> {
        let shared = Arc::clone(self);
        let worker = thread::Builder::new().name(format!("{}-{}", self.name, state.alive));
        state.workers.retain(|worker| !worker.is_finished());
        state.workers.push(worker.spawn(move || shared.work())?);
        state.alive += 1;
        Ok(())
    }

    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            let slow = if self.patience.is_some() { state.slow(Instant::now(), self.threads) } else { 0 };
            // Beyond those that were added for slow ones.
            if state.is_stopped && state.waiting.is_empty() || state.alive > self.threads + slow {
                state.alive -= 1;
                return;
            }
            let waited = state.waiting.front().map_or(Duration::ZERO, |oldest| oldest.since.elapsed());
            let taken = if is_newest_first(waited, self.patience) {
                state.waiting.pop_back()
            } else {
                state.waiting.pop_front()
            };
            let Some(Waiting { work, .. }) = taken else {
                self.changed.wait(&mut state);
                continue;
            };
            state.begun += 1;
            let (number, cancel) = (state.begun, self.cancel.child());
            state.running.push(Running { number, since: Instant::now(), cancel: cancel.clone() });
            drop(state);
            // Whoever waits for a job that panicked is answered when what it held is dropped.
            let _ = panic::catch_unwind(AssertUnwindSafe(|| work(&cancel)));
            state = self.state.lock();
            state.running.retain(|running| running.number != number);
        }
    }

    /// Looks after questions until all is stopped.
    fn watch(self: &Arc<Self>, patience: Duration) {
        let mut state = self.state.lock();
        while !state.is_stopped {
            if state.waiting.is_empty() && state.running.is_empty() {
                self.watched.wait(&mut state);
                continue;
            }
            self.watched.wait_for(&mut state, LOOK);
            let now = Instant::now();
            let is_late = |waiting: &Waiting| now.duration_since(waiting.since) > patience;
            let mut late = Vec::new();
            while state.waiting.front().is_some_and(is_late) {
                late.extend(state.waiting.pop_front());
            }
            let ages: Vec<_> = state.running.iter().map(|running| now.duration_since(running.since)).collect();
            let called_off = called_off(&ages, !state.waiting.is_empty(), self.threads, patience);
            let called_off: Vec<_> = called_off.into_iter().map(|at| state.running[at].cancel.clone()).collect();
            let wanted = self.threads + state.slow(now, self.threads);
            while state.alive < wanted && !state.waiting.is_empty() {
                if let Err(error) = self.add_worker(&mut state) {
                    log::warn!("no thread for one more question: {error}");
                    break;
                }
            }
            drop(state);
            called_off.iter().for_each(Cancel::cancel);
            for Waiting { late, .. } in late {
                let _ = panic::catch_unwind(AssertUnwindSafe(late));
            }
            state = self.state.lock();
        }
    }
}

impl State {
    /// How many slow jobs of a pool of `threads` have another thread in their place.
    fn slow(&self, now: Instant, threads: usize) -> usize {
        let slow = self.running.iter().filter(|running| now.duration_since(running.since) >= SLOW_AFTER).count();
        slow.min(SLOW_SHARE * threads)
    }
}

/// Whether the newest job goes first, when the oldest has waited for so long.
fn is_newest_first(oldest_waited: Duration, patience: Option<Duration>) -> bool {
    patience.is_some_and(|patience| oldest_waited > patience / CONGESTED_SHARE)
}

/// Which of the questions under way, that have lasted so long, are called off: those beyond any measure; and, while others
/// wait and every place is taken by a slow one, as many of the oldest as there are threads, if their time is over.
fn called_off(ages: &[Duration], others_wait: bool, threads: usize, patience: Duration) -> Vec<usize> {
    let slow = ages.iter().filter(|age| **age >= SLOW_AFTER).count();
    let is_full = others_wait && slow >= threads * (1 + SLOW_SHARE);
    let mut oldest: Vec<_> = (0..ages.len()).collect();
    oldest.sort_by_key(|at| std::cmp::Reverse(ages[*at]));
    let is_over = |(rank, at): &(usize, usize)| {
        ages[*at] >= patience * PATIENCES_MAX || is_full && *rank < threads && ages[*at] >= patience
    };
    oldest.into_iter().enumerate().filter(is_over).map(|(_, at)| at).collect()
}

impl Drop for Jobs {
    fn drop(&mut self) {
        let workers = {
            let mut state = self.shared.state.lock();
            state.is_stopped = true;
            std::mem::take(&mut state.workers)
        };
        self.shared.changed.notify_all();
        self.shared.watched.notify_all();
        // A job may hold the last reference to us: a thread does not wait for itself.
        for thread in
            workers.into_iter().chain(self.watch.take()).filter(|thread| thread.thread().id() != thread::current().id())
        {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn questions_that_last_are_called_off_when_others_wait() {
        let seconds = Duration::from_secs;
        let patience = seconds(10);
        let ages = |count: usize, age: u64| vec![seconds(age); count];
        assert!(called_off(&ages(8, 11), true, 2, patience).len() == 2, "the oldest, as many as there are threads");
        assert!(called_off(&ages(8, 11), false, 2, patience).is_empty(), "nobody waits");
        assert!(called_off(&ages(7, 11), true, 2, patience).is_empty(), "there is a place left");
        assert!(called_off(&ages(8, 9), true, 2, patience).is_empty(), "their time is not over");
        assert_eq!(called_off(&[seconds(5), seconds(601)], false, 2, patience), [1], "beyond any measure");
        let mut mixed = ages(7, 5);
        mixed.push(seconds(20));
        assert_eq!(called_off(&mixed, true, 2, patience), [7]);
    }

    #[test]
    fn slow_questions_leave_threads_to_others() {
        let jobs = Jobs::start_for_questions("test", 2, LONG, &Cancel::new()).unwrap();
        let (release, hold) = bounded::<()>(0);
        for _ in 0..5 {
            let hold = hold.clone();
            let hangs = move |_: &Cancel| {
                let _ = hold.recv();
            };
            jobs.ask(hangs, || unreachable!("it is run")).unwrap();
        }
        let (done, ended) = bounded(1);
        let quick = move |_: &Cancel| {
            let _ = done.send(());
        };
        jobs.ask(quick, || unreachable!("it is run")).unwrap();
        ended.recv_timeout(LONG).expect("all threads hang");
        drop(release);
    }

    #[test]
    fn questions_have_an_end_where_all_are_slow() {
        let patience = Duration::from_millis(1_500);
        let cancel = Cancel::new();
        let jobs = Jobs::start_for_questions("test", 1, patience, &cancel).unwrap();
        let (told, tells) = bounded(100);
        for _ in 0..12 {
            let (asked, late) = (told.clone(), told.clone());
            let drip = move |cancel: &Cancel| {
                while !cancel.is_cancelled() {
                    thread::sleep(Duration::from_millis(5));
                }
                let _ = asked.send("called off");
            };
            let expired = move || {
                let _ = late.send("late");
            };
            jobs.ask(drip, expired).unwrap();
        }
        let begun = Instant::now();
        let first = [(); 2].map(|()| tells.recv_timeout(LONG).expect("an end"));
        assert!(begun.elapsed() + LOOK >= patience, "each has its time");
        assert!(first.iter().all(|end| matches!(*end, "late" | "called off")));
        cancel.cancel();
    }

    #[test]
    fn questions_that_come_last_go_first_where_many_wait_for_long() {
        let patience = Some(Duration::from_secs(10));
        assert!(
            !is_newest_first(Duration::from_secs(2), patience) && is_newest_first(Duration::from_secs(3), patience)
        );
        assert!(!is_newest_first(LONG, None), "jobs that end soon keep their order");
    }
}
