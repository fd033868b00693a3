//! The pulse that systemd's watchdog feels: one beat for each time the drive has answered. A far side that hangs does not
//! stop it; threads that no longer serve the kernel do, and systemd starts the service again.
//! Never here: how a drive is asked (see `fuse::probe`).

use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::error::{Error, Result};
use crate::fuse::probe::Probe;

/// Beats in the time after which systemd gives up: one may be late on a busy machine.
const BEATS: u32 = 3;

/// Beats until it is dropped.
#[derive(Debug)]
pub struct Watchdog {
    // Nothing is ever sent: its end is the end.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Calls `beat` several times in each `period`, as long as the drive that `probe` asks answers.
    pub fn start(probe: Probe, period: Duration, beat: impl Fn() + Send + 'static) -> Result<Self> {
        let (stop, stopped) = bounded(0);
        let thread = thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || watch(probe, period / BEATS, &stopped, &beat))
            .map_err(|error| Error::io("starting the watchdog's thread", &error))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // At most one question long.
            let _ = thread.join();
        }
    }
}

fn watch(mut probe: Probe, interval: Duration, stopped: &Receiver<()>, beat: &dyn Fn()) {
    while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
        match probe.ask(interval) {
            Ok(()) => beat(),
            Err(error) => log::error!("{error}; systemd is not told that the drive lives"),
        }
    }
}
