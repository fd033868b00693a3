//! Threads that ask the origin about names, so that no thread of the kernel's does.
//! Never here: what is asked.

use std::thread::{self, JoinHandle};

use crossbeam_channel::{Sender, bounded};

use crate::error::{Error, Kind, Result};

/// Questions asked at once: a folder's worth of sizes in a few round trips.
const THREADS: usize = 16;
/// Questions waiting; more are refused, as each is somebody's `ls` that would wait minutes.
const WAITING_MAX: usize = 8_192;

type Job = Box<dyn FnOnce() + Send>;

/// A bounded pool.
pub(super) struct Jobs {
    queue: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Jobs {
    pub(super) fn start() -> Result<Self> {
        let (queue, inbox) = bounded::<Job>(WAITING_MAX);
        let threads = (0..THREADS)
            .map(|number| {
                let inbox = inbox.clone();
                thread::Builder::new()
                    .name(format!("names-{number}"))
                    .spawn(move || inbox.into_iter().for_each(|job| job()))
                    .map_err(|error| Error::io("starting a thread for names", &error))
            })
            .collect::<Result<_>>()?;
        Ok(Self { queue: Some(queue), threads })
    }

    /// Runs `job` on one of the threads. `Full` when too many wait.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) -> Result<()> {
        let queued = self.queue.as_ref().is_some_and(|queue| queue.try_send(Box::new(job)).is_ok());
        if queued { Ok(()) } else { Err(Error::new(Kind::Full, "too many names are being asked for")) }
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
