//! A flag that ends work nobody wants any longer, seen at once by a thread that polls it and by a future that waits.
//! Never here: who decides to cancel.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

/// Shared between the one who may cancel and the one who works. At most one future waits on it at a time.
#[derive(Clone, Default)]
pub struct Cancel(Arc<State>);

#[derive(Default)]
struct State {
    cancelled: AtomicBool,
    waker: AtomicWaker,
    // Set with this one. Taken alone, for a look.
    children: Mutex<Vec<Weak<State>>>,
}

impl Cancel {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag, for good, and wakes the future that waits on it.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// A flag of its own, which is set with this one, too.
    #[must_use]
    pub fn child(&self) -> Self {
        let child = Self::new();
        {
            let mut children = self.0.children.lock();
            children.retain(|child| child.strong_count() > 0);
            children.push(Arc::downgrade(&child.0));
        }
        // Set before it was known as a child.
        if self.is_cancelled() {
            child.cancel();
        }
        child
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

impl State {
    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.waker.wake();
        let children = std::mem::take(&mut *self.children.lock());
        children.iter().filter_map(Weak::upgrade).for_each(|child| child.cancel());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_cancelled_with_its_parent_and_not_the_other_way() {
        let parent = Cancel::new();
        let (one, other) = (parent.child(), parent.child());
        one.cancel();
        assert!(one.is_cancelled() && !other.is_cancelled() && !parent.is_cancelled());
        parent.cancel();
        assert!(other.is_cancelled() && parent.child().is_cancelled(), "one made later, too");
    }
}
