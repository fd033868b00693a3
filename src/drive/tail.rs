//! A film's end, asked for before anyone knows its version: from the first answer on it counts as bytes on their way.
//! Never here: which bytes these are, and who asks for them.

use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::cancel::Cancel;
use crate::error::{Error, Kind, Result};
use crate::origin::{Begun, Body, Stat};
use crate::range::ByteRange;

/// How often a wait for its answer looks whether anyone still wants it.
const LOOK: Duration = Duration::from_millis(20);

/// The end of a film that was asked for before anyone knew its version.
pub(super) struct Tail {
    /// Whole blocks, up to the end.
    pub range: ByteRange,
    /// One answer; closed without it if nobody could ask.
    pub answer: Receiver<Result<Option<Begun>>>,
}

impl Tail {
    /// The same as bytes on their way, of the version that `stat` tells.
    pub fn of(self, stat: &Stat) -> Begun {
        let cancel = Cancel::new();
        let body = Box::new(Later { tail: self, stat: stat.clone(), cancel: cancel.clone(), body: None });
        Begun { stat: stat.clone(), range: body.tail.range, body, cancel }
    }
}

/// The bytes of a tail, whose answer is waited for with the first of them.
struct Later {
    tail: Tail,
    stat: Stat,
    cancel: Cancel,
    // Once it was answered with just these bytes.
    body: Option<Box<dyn Body>>,
}

impl Later {
    /// The answer: its own patience ends it, and then the channel is closed.
    fn begin(&self) -> Result<Box<dyn Body>> {
        let answer = loop {
            match self.tail.answer.recv_timeout(LOOK) {
                Err(RecvTimeoutError::Timeout) if self.cancel.is_cancelled() => {
                    return Err(Error::new(Kind::Cancelled, "nobody wants a film's end any longer"));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(answer) => break answer?,
                Err(RecvTimeoutError::Disconnected) => break None,
            }
        };
        // Else it is asked for again, as any bytes are.
        let is_it = |begun: &Begun| {
            begun.range == self.tail.range
                && begun.stat.version == self.stat.version
                && begun.stat.size_bytes == self.stat.size_bytes
        };
        let begun = answer.filter(is_it);
        begun
            .map(|begun| begun.body)
            .ok_or_else(|| Error::new(Kind::Unreachable, "the origin did not give a film's end"))
    }
}

impl Body for Later {
    fn next(&mut self) -> Result<Option<Bytes>> {
        let body = match self.body.take() {
            Some(body) => body,
            None => self.begin()?,
        };
        self.body.insert(body).next()
    }
}
