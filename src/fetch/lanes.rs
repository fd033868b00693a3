//! The order of fetches: demand before lookahead before fill, and connections that lookahead can't take.
//! Never here: what a flight does.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, never, select_biased};

use super::flight::Flight;

/// Priority of a fetch, highest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Someone waits.
    Demand,
    /// Someone will probably ask soon.
    Lookahead,
    /// Someone may ask some day.
    Fill,
}

/// Flights queued at once, for each lane. The kernel keeps far fewer reads under way; lookahead that does not fit
/// is asked for again with the next read.
const QUEUED_MAX: [usize; 3] = [16_384, 1_024, 16];

/// One queue for each lane.
pub(super) struct Lanes {
    senders: [Sender<Arc<Flight>>; 3],
    receivers: [Receiver<Arc<Flight>>; 3],
}

/// The lanes one worker serves.
pub(super) struct Service {
    demand: Receiver<Arc<Flight>>,
    lookahead: Receiver<Arc<Flight>>,
    fill: Receiver<Arc<Flight>>,
}

impl Lanes {
    pub(super) fn new() -> Self {
        let [(d, demand), (l, lookahead), (f, fill)] = QUEUED_MAX.map(bounded);
        Self { senders: [d, l, f], receivers: [demand, lookahead, fill] }
    }

    /// Queues a flight; `false` when its lane is full.
    pub(super) fn push(&self, lane: Lane, flight: &Arc<Flight>) -> bool {
        match self.senders[lane as usize].try_send(Arc::clone(flight)) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// Worker `number` of `workers`: the first quarter (if there are two or more) serves demand alone, so that a
    /// seek finds a free connection; only the last one fills.
    pub(super) fn service(&self, number: usize, workers: usize) -> Service {
        let reserved = if workers > 1 { workers.div_ceil(4) } else { 0 };
        let [demand, lookahead, fill] = &self.receivers;
        Service {
            demand: demand.clone(),
            lookahead: if number < reserved { never() } else { lookahead.clone() },
            fill: if number + 1 == workers { fill.clone() } else { never() },
        }
    }
}

impl Service {
    /// The next flight of the highest lane that has one; `None` when `stop` is closed.
    pub(super) fn next(&self, stop: &Receiver<()>) -> Option<Arc<Flight>> {
        select_biased! {
            recv(stop) -> _ => None,
            recv(self.demand) -> flight => flight.ok(),
            recv(self.lookahead) -> flight => flight.ok(),
            recv(self.fill) -> flight => flight.ok(),
        }
    }
}
