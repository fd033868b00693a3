//! The border between plain threads and tokio: a runtime of our own, and one way to wait on it.
//! Never here: what is waited for.

use std::fmt::Display;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::runtime::{Builder, Runtime};

use crate::error::{Error, Kind, Result};
use crate::store::Patience;

/// Enough to move bytes from sockets to waiting readers; a reader polls its own body on its own thread.
const WORKERS: usize = 2;

/// To call off what is under way takes no time, unless it is stuck where nothing can be called off.
const END_TIMEOUT: Duration = Duration::from_millis(200);

/// Owns the runtime; ends it when the last user lets go, who is never one of its own threads.
pub(super) struct Driver {
    /// `None` only inside `drop`.
    runtime: Option<Runtime>,
}

impl Driver {
    /// Starts the runtime's threads.
    pub fn new() -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("reelfs-net")
            .enable_all()
            .build()
            .map_err(|error| Error::io("cannot start the network's threads", &error))?;
        Ok(Self { runtime: Some(runtime) })
    }

    /// Runs `work` behind everyone's back; it ends with the driver at the latest.
    pub fn start(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.runtime {
            runtime.spawn(work);
        }
    }

    /// Blocks this thread until `work` is done, the patience's stall has passed, or its cancel was called.
    /// `what` names the work in an error.
    pub fn wait<T>(&self, patience: &Patience, what: impl Display, work: impl Future<Output = Result<T>>) -> Result<T> {
        let Some(runtime) = &self.runtime else {
            return Err(Error::new(Kind::Cancelled, format!("{what}: the network was shut down")));
        };
        runtime.block_on(async {
            let cancelled = pin!(poll_fn(|context| patience.cancel.poll_cancelled(context)));
            let answered = pin!(tokio::time::timeout(patience.stall, work));
            match select(cancelled, answered).await {
                Either::Left(_) => Err(Error::new(Kind::Cancelled, format!("{what}: nobody wants it any longer"))),
                Either::Right((Ok(result), _)) => result,
                Either::Right((Err(_), _)) => {
                    let seconds = patience.stall.as_secs_f64();
                    Err(Error::new(Kind::TimedOut, format!("{what}: no answer within {seconds} s")))
                }
            }
        })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // What is under way ends with us, programs that were started for it, too. A name lookup that hangs in the C library
        // can't be called off: it is not waited for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(END_TIMEOUT);
        }
    }
}
