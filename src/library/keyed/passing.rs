//! What nobody needs any longer, removed in passing: beside a writer's own work, and never in its way.
//! Never here: which groups go (see `groups`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::KeyedLibrary;

/// Writers look for groups that are gone this often.
const SWEEP_EVERY: Duration = Duration::from_mins(10);
/// And for no longer than this.
const SWEEP_LASTS: Duration = Duration::from_secs(10);

/// A thread that sweeps now and then. Dropped, it ends what it is just asking for, and no more.
#[derive(Default)]
pub(super) struct InPassing {
    is_over: Arc<AtomicBool>,
    /// When it began last, and the thread, which has ended long before the next one begins. Held for a look only.
    last: Mutex<Option<(Instant, JoinHandle<()>)>>,
}

impl InPassing {
    /// Begins, unless it did not long ago, beside whatever the caller does next. What fails is done by somebody else.
    pub fn begin(&self, library: &KeyedLibrary) {
        let mut last = self.last.lock();
        if last.as_ref().is_some_and(|(begun, _)| begun.elapsed() < SWEEP_EVERY) {
            return;
        }
        let (library, is_over, begun) = (library.asked_again(0), Arc::clone(&self.is_over), Instant::now());
        let sweep = move || {
            let go_on = || !is_over.load(Ordering::Relaxed) && begun.elapsed() < SWEEP_LASTS;
            if let Err(error) = library.sweep_some(&go_on) {
                log::debug!("{error}: what nobody needs stays for now");
            }
        };
        match thread::Builder::new().name("reelfs-sweep".into()).spawn(sweep) {
            Ok(thread) => *last = Some((begun, thread)),
            Err(error) => log::debug!("cannot start a thread: {error}: what nobody needs stays for now"),
        }
    }
}

impl Drop for InPassing {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // A home in a file is to be closed by whoever has it open.
        if let Some((_, thread)) = self.last.get_mut().take() {
            let _ = thread.join();
        }
    }
}
