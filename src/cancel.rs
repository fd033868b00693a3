//! A flag that ends work nobody wants any longer, seen at once by a thread that polls it and by a future that waits.
//! Never here: who decides to cancel.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// Shared between the one who may cancel and the one who works. At most one future waits on it at a time.
#[derive(Clone, Default)]
pub struct Cancel(Arc<State>);

#[derive(Default)]
struct State {
    cancelled: AtomicBool,
    waker: AtomicWaker,
}

impl Cancel {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag, for good, and wakes the future that waits on it.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Release);
        self.0.waker.wake();
    }

    /// Whether the flag is set.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Acquire)
    }

    /// Ready when the flag is set; for `std::future::poll_fn`.
    pub fn poll_cancelled(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.is_cancelled() {
            return Poll::Ready(());
        }
        self.0.waker.register(context.waker());
        // Set between the look above and the registration: look again.
        if self.is_cancelled() { Poll::Ready(()) } else { Poll::Pending }
    }
}
