//! A read that waits: the bytes that have come so far, what is still to come, and the reply that is owed.
//! Never here: where bytes come from.
//!
//! Invariant: the reply is called exactly once: when all bytes are here, on the first error, at the deadline, or, if
//! all else fails, when the read is dropped.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;

use super::deadlines::Ticket;
use crate::error::{Error, Kind, Result};
use crate::fetch::Waiter;
use crate::range::ByteRange;

/// Takes the bytes or the error. Called without locks held.
pub type Reply = Box<dyn FnOnce(Result<&[u8]>) + Send>;

/// One read under way.
pub struct Pending {
    range: ByteRange,
    deadline: Instant,
    // Answers still to come, and one for whoever is still asking.
    owed: AtomicUsize,
    is_answered: AtomicBool,
    // Only a look: when it ends in vain, what it looked for goes on.
    is_peek: AtomicBool,
    // A flight was called off under it: look again when the others have answered.
    look_again: AtomicBool,
    // The innermost lock; copies of memory only.
    state: Mutex<State>,
    again: Box<dyn Fn(Arc<Pending>) + Send + Sync>,
    this: Weak<Pending>,
}

struct State {
    // Empty until the first bytes come, and again once they were handed over: a read that waits holds no memory for them.
    bytes: Vec<u8>,
    reply: Option<Reply>,
    // Given back with the answer: a read that is over is watched no longer.
    ticket: Option<Ticket>,
}

impl Pending {
    /// A read of `range` that ends by `deadline`; `again` starts the next look for its bytes.
    pub fn new(
        range: ByteRange,
        deadline: Instant,
        reply: Reply,
        again: impl Fn(Arc<Pending>) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let state = State { bytes: Vec::new(), reply: Some(reply), ticket: None };
        Arc::new_cyclic(|this| Self {
            range,
            deadline,
            owed: AtomicUsize::new(0),
            is_answered: AtomicBool::new(false),
            is_peek: AtomicBool::new(false),
            look_again: AtomicBool::new(false),
            state: Mutex::new(state),
            again: Box::new(again),
            this: this.clone(),
        })
    }

    /// The bytes asked for.
    pub fn range(&self) -> ByteRange {
        self.range
    }

    /// It is only a look: what it waits for is not called off with it.
    pub fn only_looks(&self) {
        self.is_peek.store(true, Ordering::Relaxed);
    }

    /// Whether what only it waited for is called off when it is late.
    pub fn calls_off(&self) -> bool {
        !self.is_peek.load(Ordering::Relaxed)
    }

    /// Holds on to its place among the watched reads until it is answered.
    pub fn watched(&self, ticket: Ticket) {
        let mut state = self.state.lock();
        if state.reply.is_some() {
            state.ticket = Some(ticket);
        }
    }

    /// Lets `fill` put bytes of `part` in place; `false` if it could not. Nothing to do once the read was answered.
    pub fn fill(&self, part: ByteRange, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        self.state.lock().place(self.range, part).is_none_or(fill)
    }

    /// Look for all of it again, once every answer that is owed has come.
    pub fn look_again(&self) {
        self.look_again.store(true, Ordering::Release);
    }

    /// Ends the read with an error.
    pub fn fail(&self, error: Error) {
        if let Some((reply, _)) = self.take() {
            reply(Err(error));
        }
    }

    fn take(&self) -> Option<(Reply, Vec<u8>)> {
        self.is_answered.store(true, Ordering::Release);
        let (taken, _ticket) = {
            let mut state = self.state.lock();
            let reply = state.reply.take()?;
            ((reply, std::mem::take(&mut state.bytes)), state.ticket.take())
        };
        Some(taken)
    }
}

impl State {
    /// Where the bytes of `part` go, in a read of `range`; `None` once the read was answered.
    fn place(&mut self, range: ByteRange, part: ByteRange) -> Option<&mut [u8]> {
        self.reply.as_ref()?;
        if self.bytes.is_empty() {
            self.bytes = vec![0; range.len() as usize];
        }
        let from = (part.start - range.start) as usize;
        self.bytes.get_mut(from..from + part.len() as usize)
    }
}

impl Waiter for Pending {
    fn expect(&self) {
        self.owed.fetch_add(1, Ordering::AcqRel);
    }

    fn land(&self, offset: u64, bytes: &[u8]) {
        let mut state = self.state.lock();
        if let Some(place) = state.place(self.range, ByteRange::at(offset, bytes.len() as u64)) {
            place.copy_from_slice(bytes);
        }
    }

    fn settle(&self, answer: std::result::Result<(), &Error>) {
        match answer {
            Ok(()) => {}
            Err(error) if error.kind() == Kind::Cancelled => self.look_again(),
            Err(error) => self.fail(error.clone()),
        }
        if self.owed.fetch_sub(1, Ordering::AcqRel) > 1 || !self.is_waiting() {
            return;
        }
        if self.look_again.swap(false, Ordering::AcqRel) {
            if let Some(this) = self.this.upgrade() {
                (self.again)(this);
            }
        } else if let Some((reply, bytes)) = self.take() {
            reply(Ok(&bytes));
        }
    }

    fn is_waiting(&self) -> bool {
        !self.is_answered.load(Ordering::Acquire)
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.fail(Error::new(Kind::Local, "the drive is being unmounted"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossbeam_channel::{Receiver, bounded};

    use super::*;

    fn pending(timeout: Duration) -> (Arc<Pending>, Receiver<std::result::Result<Vec<u8>, Kind>>) {
        let (answer, answers) = bounded(2);
        let reply = Box::new(move |result: Result<&[u8]>| {
            answer.send(result.map(<[u8]>::to_vec).map_err(|error| error.kind())).unwrap();
        });
        (Pending::new(ByteRange::new(10, 14), Instant::now() + timeout, reply, |_| {}), answers)
    }

    #[test]
    fn it_is_answered_once_when_all_has_landed() {
        let (read, answers) = pending(Duration::from_mins(1));
        read.expect();
        read.expect();
        read.land(12, b"cd");
        read.settle(Ok(()));
        assert!(answers.is_empty());
        read.land(10, b"ab");
        read.settle(Ok(()));
        assert_eq!(answers.recv().unwrap(), Ok(b"abcd".to_vec()));
        read.fail(Error::new(Kind::Local, "too late"));
        drop(read);
        assert!(answers.recv().is_err(), "one answer, and the reply is gone");
    }

    #[test]
    fn the_first_error_ends_it() {
        let (read, answers) = pending(Duration::from_mins(1));
        read.expect();
        read.expect();
        read.settle(Err(&Error::new(Kind::Missing, "gone")));
        assert_eq!(answers.recv().unwrap(), Err(Kind::Missing));
        read.land(10, b"abcd");
        read.settle(Ok(()));
    }

    #[test]
    fn a_read_that_is_over_takes_nothing_more() {
        let (read, answers) = pending(Duration::from_mins(1));
        read.fail(Error::new(Kind::TimedOut, "meanwhile"));
        assert!(read.fill(ByteRange::new(11, 13), |_| unreachable!("its bytes are gone")));
        assert_eq!(answers.recv().unwrap(), Err(Kind::TimedOut));
    }

    #[test]
    fn a_waiting_read_holds_no_memory() {
        let (read, answers) = pending(Duration::from_mins(1));
        read.expect();
        assert_eq!(read.state.lock().bytes.capacity(), 0, "nothing has come");
        read.land(12, b"cd");
        assert!(read.fill(ByteRange::new(10, 12), |place| {
            place.copy_from_slice(b"ab");
            true
        }));
        read.settle(Ok(()));
        assert_eq!(answers.recv().unwrap(), Ok(b"abcd".to_vec()));
        assert_eq!(read.state.lock().bytes.capacity(), 0, "all was handed over");
    }

    #[test]
    fn a_dropped_read_is_answered() {
        let (read, answers) = pending(Duration::from_mins(1));
        drop(read);
        assert_eq!(answers.recv().unwrap(), Err(Kind::Local));
    }
}
