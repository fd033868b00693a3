//! What the origin was asked and what it sent, for tests and benches to read.
//! Never here: anything that changes an answer.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::range::ByteRange;

/// Ranges kept in the log, the first ones: a hundred thousand chunks are 200 GiB of film, at some 5 MB of memory.
pub(super) const RANGES_LOGGED_MAX: usize = 100_000;

/// Paths counted on their own; those beyond are in the total only.
const PATHS_COUNTED_MAX: usize = 1_000_000;

/// What was asked of one path, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests of any kind, whatever became of them.
    pub requests: u64,
    /// Those of them that were HEADs.
    pub heads: u64,
    /// Bytes of bodies handed to the network, counted piece by piece just before each is handed over: whoever holds
    /// a byte finds it counted.
    pub body_bytes: u64,
}

/// One range a GET asked for: of a `Range` header, or a whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Decoded, without the leading `/`.
    pub path: Arc<str>,
    /// Cut to the file's size.
    pub range: ByteRange,
}

/// All counts of one server.
#[derive(Default)]
pub(super) struct Tally(Mutex<State>);

#[derive(Default)]
struct State {
    connections: u64,
    total: Counts,
    paths: HashMap<Arc<str>, Counts>,
    ranges: Vec<Asked>,
}

impl Tally {
    /// A connection was accepted.
    pub(super) fn connection(&self) {
        self.0.lock().connections += 1;
    }

    /// A request came; `range` is what it asks of a file. Returns how many came before it: in all, and for this path.
    pub(super) fn request(&self, path: &Arc<str>, is_head: bool, range: Option<ByteRange>) -> (u64, u64) {
        let mut state = self.0.lock();
        let before = (state.total.requests, state.paths.get(path).map_or(0, |own| own.requests));
        state.add(path, Counts { requests: 1, heads: u64::from(is_head), body_bytes: 0 });
        if let Some(range) = range
            && state.ranges.len() < RANGES_LOGGED_MAX
        {
            state.ranges.push(Asked { path: Arc::clone(path), range });
        }
        before
    }

    /// Bytes of a body are about to go out.
    pub(super) fn body(&self, path: &Arc<str>, bytes: u64) {
        self.0.lock().add(path, Counts { body_bytes: bytes, ..Counts::default() });
    }

    pub(super) fn connections(&self) -> u64 {
        self.0.lock().connections
    }

    pub(super) fn total(&self) -> Counts {
        self.0.lock().total
    }

    pub(super) fn of(&self, path: &str) -> Counts {
        self.0.lock().paths.get(path).copied().unwrap_or_default()
    }

    pub(super) fn ranges(&self) -> Vec<Asked> {
        self.0.lock().ranges.clone()
    }

    /// All counts begin anew.
    pub(super) fn reset(&self) {
        *self.0.lock() = State::default();
    }
}

impl State {
    fn add(&mut self, path: &Arc<str>, more: Counts) {
        self.total.add(more);
        if let Some(own) = self.paths.get_mut(path) {
            own.add(more);
        } else if self.paths.len() < PATHS_COUNTED_MAX {
            self.paths.insert(Arc::clone(path), more);
        }
    }
}

impl Counts {
    fn add(&mut self, more: Self) {
        self.requests += more.requests;
        self.heads += more.heads;
        self.body_bytes += more.body_bytes;
    }
}
