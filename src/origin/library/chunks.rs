//! Chunks of a library, fetched whole and checked: one flight for each, however many ask, and the last few kept, as a chunk
//! here holds several of what is asked for above.
//! Never here: manifests, and asking again.

use std::collections::HashMap;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::{Condvar, Mutex};

use crate::digest::{Digest, Hasher};
use crate::error::{Error, Kind, Result};
use crate::library::{Library, Manifest, Proof};
use crate::origin::{Patience, Version};

/// Checked chunks that are kept: those that ten connections are in, read one behind the other.
const HELD_BYTES_MAX: usize = 64 << 20;
/// Flights at once, those that nobody waits for any longer included.
const FLIGHTS_MAX: usize = 24;
/// How often a wait looks whether it was called off.
const LOOK: Duration = Duration::from_millis(20);

/// What is fetched, and what was.
pub(super) struct Chunks {
    library: Arc<dyn Library>,
    // Never held while the library is asked.
    state: Mutex<State>,
    // A flight has ended.
    ended: Condvar,
}

/// By their hashes and sizes: chunks of two files may be the same. Those without a hash by whose they are. What is held was
/// checked against both as it came (see `Chunk::fits`).
struct State {
    held: LruCache<Digest, Bytes>,
    held_bytes: usize,
    flights: HashMap<Digest, Arc<Flight>>,
}

type Flight = OnceLock<Result<Bytes>>;

impl Chunks {
    pub fn new(library: Arc<dyn Library>) -> Self {
        let state = State { held: LruCache::unbounded(), held_bytes: 0, flights: HashMap::new() };
        Self { library, state: Mutex::new(state), ended: Condvar::new() }
    }

    /// Chunk `n`, which is not a hole: its bytes hash to what the manifest says. A flight goes on when its asker's patience
    /// is over: whoever asks next finds it on its way, or there.
    pub fn get(
        self: &Arc<Self>,
        (path, version): (&str, &Version),
        manifest: &Arc<Manifest>,
        n: usize,
        patience: &Patience,
    ) -> Result<Bytes> {
        let key = key((path, version), manifest, n);
        let since = Instant::now();
        let mut own: Option<Arc<Flight>> = None;
        let mut state = self.state.lock();
        loop {
            if let Some(done) = own.as_ref().and_then(|flight| flight.get()) {
                return done.clone();
            }
            if let Some(bytes) = state.held.get(&key) {
                return Ok(bytes.clone());
            }
            if own.is_none() {
                if let Some(flight) = state.flights.get(&key) {
                    own = Some(Arc::clone(flight));
                } else if state.flights.len() < FLIGHTS_MAX {
                    let flight = Arc::new(Flight::new());
                    self.start(key, path, manifest, n, &flight)?;
                    state.flights.insert(key, Arc::clone(&flight));
                    own = Some(flight);
                }
            }
            let what = || format!("{}: {}: chunk {n}", self.library.describe(), path.escape_debug());
            if patience.cancel.is_cancelled() {
                return Err(Error::new(Kind::Cancelled, format!("{}: nobody wants it any longer", what())));
            }
            if since.elapsed() >= patience.stall {
                let seconds = patience.stall.as_secs_f64();
                return Err(Error::new(Kind::TimedOut, format!("{}: not here within {seconds} s", what())));
            }
            self.ended.wait_for(&mut state, LOOK);
        }
    }

    /// Fetches on a thread of its own, which looks at the state when it is done.
    fn start(
        self: &Arc<Self>,
        key: Digest,
        path: &str,
        manifest: &Arc<Manifest>,
        n: usize,
        flight: &Arc<Flight>,
    ) -> Result<()> {
        let (chunks, path, manifest) = (Arc::clone(self), path.to_owned(), Arc::clone(manifest));
        let flight = Arc::clone(flight);
        let fly = move || {
            let fetched = panic::catch_unwind(AssertUnwindSafe(|| chunks.library.chunk(&path, &manifest, n)))
                .unwrap_or_else(|_| Err(Error::new(Kind::Local, format!("{path}: a fetch failed inside reelfs"))));
            chunks.land(key, &flight, fetched);
        };
        let started = thread::Builder::new().name("reelfs-chunk".into()).spawn(fly);
        started.map(|_| ()).map_err(|error| Error::io("cannot start a thread", &error))
    }

    fn land(&self, key: Digest, flight: &Flight, fetched: Result<Bytes>) {
        let mut state = self.state.lock();
        state.flights.remove(&key);
        if let Ok(bytes) = &fetched {
            state.held_bytes += bytes.len();
            if let Some((_, old)) = state.held.push(key, bytes.clone()) {
                state.held_bytes -= old.len();
            }
            while state.held_bytes > HELD_BYTES_MAX {
                let Some((_, old)) = state.held.pop_lru() else { break };
                state.held_bytes -= old.len();
            }
        }
        // Set once: nobody else has this flight to land.
        let _ = flight.set(fetched);
        drop(state);
        self.ended.notify_all();
    }
}

/// What tells a chunk's bytes from all others: their hash and their number, or else the file, its version and the chunk's
/// number. A manifest that gives another size to the same hash means other bytes, which are checked against both.
fn key((path, version): (&str, &Version), manifest: &Manifest, n: usize) -> Digest {
    let chunk = &manifest.chunks()[n];
    let mut hasher = Hasher::new();
    hasher.update(&chunk.range.len().to_le_bytes());
    if let Proof::Sha256(digest) = chunk.proof {
        hasher.update(digest.as_bytes());
        return hasher.finish();
    }
    for part in [path, version.as_str()] {
        hasher.update(&part.len().to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.update(&n.to_le_bytes());
    hasher.finish()
}
