//! Tells on the terminal what a mount does while somebody uses it: a line whenever something was read.
//! Never here: the counting; every number is a difference of `Metrics`.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender};

use super::counted::Counted;
use crate::config::format_size;
use crate::metrics::Metrics;

/// Often enough to be seen together with what caused it, seldom enough to be read.
pub const TICK: Duration = Duration::from_millis(500);

/// A printer at work. Dropping it prints what is still to be said, and ends it.
pub struct Watch {
    /// Closed to end the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Looks every `tick` and writes to `out` until dropped, or until `out` takes no more.
    pub fn start(metrics: Arc<Metrics>, tick: Duration, out: impl Write + Send + 'static) -> io::Result<Self> {
        let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
        // Looked at here, not in the thread: what is read from now on is told, however late the thread begins.
        let before = Counted::now(&metrics);
        let thread = thread::Builder::new().name("watch".into()).spawn(move || {
            let (mut out, mut before) = (out, before);
            loop {
                let is_over = stopped.recv_timeout(tick) != Err(RecvTimeoutError::Timeout);
                let now = Counted::now(&metrics);
                let said = line(now.since(before)).map_or(Ok(()), |line| writeln!(out, "{line}"));
                if is_over || said.is_err() {
                    return;
                }
                before = now;
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        // It does nothing that panics, and there is nothing to do if it did.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What is said of one tick; nothing if nobody read.
fn line(counted: Counted) -> Option<String> {
    if counted.reads == 0 {
        return None;
    }
    let mut line = format!(
        "{:>10} from cache  {:>10} waited for  |  origin: {:>3} {} {:>10}",
        format_size(counted.cached_bytes),
        format_size(counted.waited_bytes),
        counted.origin_requests,
        if counted.origin_requests == 1 { "request, " } else { "requests," },
        format_size(counted.origin_bytes),
    );
    // Writing to a String can't fail.
    if counted.reads_waited > 0 {
        let millis = counted.read_wait_micros.div_ceil(1000 * counted.reads_waited);
        let _ = write!(line, "  |  first byte {millis} ms");
    }
    if counted.read_errors > 0 {
        let _ = write!(line, "  |  {} failed", counted.read_errors);
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_for_reads_and_silence_without() {
        assert_eq!(line(Counted { origin_requests: 3, ..Counted::default() }), None);
        let counted = Counted {
            reads: 9,
            reads_waited: 2,
            read_wait_micros: 83_000,
            cached_bytes: 1 << 20,
            waited_bytes: 4096,
            origin_requests: 1,
            origin_bytes: 2 << 20,
            read_errors: 2,
        };
        let expected = "   1.0 MiB from cache     4.0 KiB waited for  |  origin:   1 request,     2.0 MiB  |  first byte 42 ms  |  2 failed";
        assert_eq!(line(counted).as_deref(), Some(expected));
    }

    #[test]
    fn the_last_reads_are_told_before_it_ends() -> io::Result<()> {
        let (metrics, paper) = (Arc::new(Metrics::default()), Paper::default());
        let watch = Watch::start(Arc::clone(&metrics), Duration::from_hours(1), paper.clone())?;
        metrics.reads.add(1);
        metrics.read_cached_bytes.add(2048);
        drop(watch);
        let said = String::from_utf8(paper.0.lock().clone()).expect("UTF-8");
        assert!(said.contains("2.0 KiB from cache") && said.lines().count() == 1, "{said}");
        Ok(())
    }
}
