//! One request, and the second one that may overtake it: whichever is answered first goes on, the other is called off.
//! Never here: when a request is late (see `late`), and threads.
//!
//! The flight stays one: its worker asks first, and goes on with whichever body it gets. The second request is made by
//! another worker that has nothing else to do, and only until its answer begins.

use std::mem;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::flight::Flight;
use crate::cancel::Cancel;
use crate::error::Result;
use crate::origin::Body;
use crate::range::ByteRange;

/// A request that may turn out late.
pub(super) struct Race {
    pub(super) flight: Arc<Flight>,
    /// What both ask for, and when the first request was sent.
    pub(super) range: ByteRange,
    pub(super) asked_at: Instant,
    /// Calls the first request off; as does the flight.
    pub(super) first: Cancel,
    /// Calls the second request off; as does the flight.
    pub(super) second: Cancel,
    // Guards who won. Taken alone; bodies are dropped outside it.
    lead: Mutex<Lead>,
}

enum Lead {
    /// No answer yet.
    Open,
    /// The second request was answered; its body waits for the flight's worker.
    Second(Box<dyn Body>),
    /// The flight's worker has a body, or has given up.
    Over,
}

impl Race {
    pub fn new(flight: &Arc<Flight>, range: ByteRange, asked_at: Instant) -> Arc<Self> {
        let (first, second) = (flight.cancel.child(), flight.cancel.child());
        Arc::new(Self { flight: Arc::clone(flight), range, asked_at, first, second, lead: Mutex::new(Lead::Open) })
    }

    /// Whether an answer is still waited for.
    pub fn is_open(&self) -> bool {
        matches!(*self.lead.lock(), Lead::Open) && !self.flight.cancel.is_cancelled()
    }

    /// The second request was answered: `true` if it was the first to be.
    pub fn second_answered(&self, body: Box<dyn Body>) -> bool {
        let mut lead = self.lead.lock();
        if !matches!(*lead, Lead::Open) {
            drop(lead);
            return false;
        }
        *lead = Lead::Second(body);
        drop(lead);
        self.first.cancel();
        true
    }

    /// The first request came to an end: what the flight goes on with, and whether that is the second one's.
    pub fn first_answered(&self, answer: Result<Box<dyn Body>>) -> (Result<Box<dyn Body>>, bool) {
        let lead = mem::replace(&mut *self.lead.lock(), Lead::Over);
        if let Lead::Second(body) = lead {
            return (Ok(body), true);
        }
        self.second.cancel();
        (answer, false)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::error::{Error, Kind};

    struct Named(&'static [u8]);

    impl Body for Named {
        fn next(&mut self) -> Result<Option<Bytes>> {
            Ok(Some(Bytes::from_static(self.0)))
        }
    }

    fn body(name: &'static [u8]) -> Box<dyn Body> {
        Box::new(Named(name))
    }

    fn race() -> (tempfile::TempDir, Arc<Race>) {
        let dir = tempfile::tempdir().unwrap();
        let entry = crate::fetch::entry_in(dir.path(), 1 << 20);
        let range = ByteRange::at(0, 1 << 20);
        (dir, Race::new(&Flight::new(&entry, range, super::super::Lane::Demand), range, Instant::now()))
    }

    #[test]
    fn the_first_answer_goes_on_and_the_other_is_called_off() {
        let (_dir, race) = race();
        let (answer, is_second) = race.first_answered(Ok(body(b"first")));
        assert!(!is_second && race.second.is_cancelled() && !race.first.is_cancelled());
        assert_eq!(answer.unwrap().next().unwrap().unwrap(), "first");
        assert!(!race.second_answered(body(b"late")) && !race.is_open());
    }

    #[test]
    fn a_second_request_that_overtakes_is_gone_on_with() {
        let (_dir, race) = race();
        assert!(race.is_open() && race.second_answered(body(b"second")));
        assert!(race.first.is_cancelled() && !race.second.is_cancelled() && !race.is_open());
        let (answer, is_second) = race.first_answered(Err(Error::new(Kind::Cancelled, "called off")));
        assert!(is_second);
        assert_eq!(answer.unwrap().next().unwrap().unwrap(), "second");
    }

    #[test]
    fn a_flight_that_is_called_off_takes_both_with_it() {
        let (_dir, race) = race();
        race.flight.cancel.cancel();
        assert!(race.first.is_cancelled() && race.second.is_cancelled() && !race.is_open());
    }
}
