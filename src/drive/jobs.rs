//! Threads for what may take its time: asking the origin about names, opening files in the cache. So no thread of the
//! kernel's does.
//! Never here: what is done.

use std::panic::{self, AssertUnwindSafe};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Sender, bounded};

use crate::error::{Error, Kind, Result};

/// Jobs waiting; more are refused, as each is somebody's `ls` that would wait minutes.
const WAITING_MAX: usize = 8_192;

type Job = Box<dyn FnOnce() + Send>;

/// A bounded pool.
pub(super) struct Jobs {
    queue: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Jobs {
    /// Starts `threads` threads, called `name`.
    pub(super) fn start(name: &str, threads: usize) -> Result<Self> {
        let (queue, inbox) = bounded::<Job>(WAITING_MAX);
        let threads = (0..threads)
            .map(|number| {
                let inbox = inbox.clone();
                thread::Builder::new()
                    .name(format!("{name}-{number}"))
                    .spawn(move || {
                        for job in inbox {
                            // Whoever waits for a job that panicked is answered when what it held is dropped.
                            let _ = panic::catch_unwind(AssertUnwindSafe(job));
                        }
                    })
                    .map_err(|error| Error::io("starting a thread", &error))
            })
            .collect::<Result<_>>()?;
        Ok(Self { queue: Some(queue), threads })
    }

    /// Runs `job` on one of the threads. `Full` when too many wait.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) -> Result<()> {
        let queued = self.queue.as_ref().is_some_and(|queue| queue.try_send(Box::new(job)).is_ok());
        if queued { Ok(()) } else { Err(Error::new(Kind::Full, "too many names are being asked for at once")) }
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        drop(self.queue.take());
        for thread in self.threads.drain(..) {
            // A job may hold the last reference to us: a thread does not wait for itself.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}
