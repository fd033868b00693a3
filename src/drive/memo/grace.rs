//! The thread that ends the wait of those whose old answer has come due.
//! Never here: which answer that is, and when it is due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::Memo;

/// Askers waiting out the grace; more get the old answer at once.
pub(super) const GRACED_MAX: usize = 4_096;

/// Gives those who have waited long enough the old answer, the first to be given first.
pub(super) fn end_grace<V: Clone + Send + 'static>(memo: &Weak<Memo<V>>, inbox: &Receiver<(Instant, Arc<str>)>) {
    let mut waiting: BinaryHeap<Reverse<(Instant, Arc<str>)>> = BinaryHeap::new();
    loop {
        let now = Instant::now();
        let wait = waiting.peek().map(|Reverse((given_at, _))| given_at.saturating_duration_since(now));
        let are_too_many = waiting.len() > GRACED_MAX;
        let wait = if are_too_many { Some(Duration::ZERO) } else { wait };
        let came = match wait {
            Some(wait) => inbox.recv_timeout(wait),
            None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match came {
            Ok(one) => waiting.push(Reverse(one)),
            Err(RecvTimeoutError::Timeout) => {
                let Some(Reverse((_, path))) = waiting.pop() else { continue };
                let Some(memo) = memo.upgrade() else { return };
                if let Some(given_at) = memo.give_old(&path, are_too_many) {
                    waiting.push(Reverse((given_at, path)));
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
