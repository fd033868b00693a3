//! The same work for many items, several at a time: for what waits more than it computes.
//! Never here: what is done, and trying it again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Does `work` for each item, at most `width` at a time, this thread's included; what came of each, in the order of the items.
/// A thread that can't be started is done without. A panic of `work` is one of this thread.
pub fn at_once<T: Sync, R: Send>(items: &[T], width: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let some = || {
        let mut done = Vec::new();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(n) else { return done };
            done.push((n, work(item)));
        }
    };
    let mut done = thread::scope(|scope| {
        let others = width.min(items.len()).saturating_sub(1);
        let start = |_| thread::Builder::new().name("reelfs-batch".into()).spawn_scoped(scope, some).ok();
        let others: Vec<_> = (0..others).map_while(start).collect();
        let mut done = some();
        for other in others {
            done.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|(n, _)| *n);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_done_once_in_order_and_not_too_many_together() {
        for (count, width) in [(0, 4), (1, 4), (3, 1), (1_000, 7), (5, 0)] {
            let items: Vec<_> = (0..count).collect();
            let (under_way, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let done = at_once(&items, width, |item| {
                most.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::yield_now();
                under_way.fetch_sub(1, Ordering::SeqCst);
                item * 2
            });
            assert_eq!(done, items.iter().map(|item| item * 2).collect::<Vec<_>>());
            assert!(most.into_inner() <= width.max(1));
        }
    }
}
