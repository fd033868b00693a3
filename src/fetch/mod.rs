//! Fetches: one flight for each byte range however many readers, in four lanes, over a bounded number of
//! connections. Lookahead and readers call the same code; only the lane differs.
//! Never here: what to fetch ahead, and what a read is.
//!
//! Locks, in order: `table` → a flight's `inner` → `lanes`, `memory`, the cache's `hot`. None is held while the origin is
//! asked, and waiters are answered with none held. `late`, the throttle's bucket and a race's `lead` are taken
//! alone.

pub mod checks;
mod flight;
mod growth;
mod lanes;
mod late;
mod limit;
mod memory;
mod race;
mod request;
mod throttle;
mod width;
mod worker;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cache::{Cache, Entry, Kept};
use crate::cancel::Cancel;
use crate::config::{BLOCK_SIZE_BYTES, FetchConfig};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::metrics::Metrics;
use crate::origin::{Begun, Health, Origin};
use crate::range::{ByteRange, RangeSet};
use crate::retry::Retry;

use flight::{Answered, Flight, Inner, State};
use lanes::{Job, Lanes};
use late::Late;
use memory::Memory;
use throttle::Throttle;

pub use flight::Waiter;
pub use growth::{Followed, Taken};
pub use lanes::Lane;

/// Chunks that may have landed and not be in the cache yet: they wait for its disk, or the disk has no room. Beside them
/// each connection has one.
const LANDED_CHUNKS_MAX: u64 = 8;
/// Bytes that could not be cached are held for at most this many chunks, so that a sequential reader of a full disk does
/// not fetch a chunk once for each of its reads.
const RESIDENT_CHUNKS_MAX: u64 = 8;
/// And for one part in so many of all memory for flights: new ones, also of lookahead, always find some.
const RESIDENT_SHARE: u64 = 2;
/// Of the resident chunks, one in so many may be fetched ahead: the rest are being read, by several readers or out of order.
const RESIDENT_AHEAD_SHARE: u64 = 2;

/// The flights of one mount and the threads that fly them.
pub struct Fetcher {
    shared: Arc<Shared>,
    // Taken by `stop`; guards nothing else.
    workers: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    origin: Arc<dyn Origin>,
    cache: Arc<Cache>,
    config: FetchConfig,
    retry: Arc<Retry>,
    throttle: Throttle,
    metrics: Arc<Metrics>,
    table: Mutex<Table>,
    lanes: Lanes,
    // What the origin's last answers tell. Taken alone, for a look.
    late: Mutex<Late>,
    memory: Memory,
    resident_max_chunks: u64,
    chunk_size_bytes: u64,
    // Whether the cache had room for the last bytes it was given.
    is_kept: AtomicBool,
}

/// Every live flight, by entry and first byte.
///
/// Invariant: flights of one entry never overlap. A flight leaves only after the cache can serve its bytes, or when
/// nobody can get them from it any longer; so whoever finds neither trusted bytes nor a flight may start one.
#[derive(Default)]
struct Table {
    flights: HashMap<i64, BTreeMap<u64, Arc<Flight>>>,
    // In the order in which the cache did not take them.
    resident: VecDeque<Resident>,
    resident_bytes: u64,
    // No worker is left to fly anything.
    is_stopped: bool,
}

/// A flight that has landed, and whose bytes the cache has not taken, or not yet.
#[derive(Clone)]
struct Resident {
    flight: Arc<Flight>,
    digest: Digest,
    // What it holds of the memory for flights.
    taken_bytes: u64,
    // The cache had room, but its disk took too long.
    is_late: bool,
}

/// Keeps a flight going while it lives, though nobody waits for it yet.
pub struct Interest {
    shared: Arc<Shared>,
    flight: Arc<Flight>,
}

/// Bytes that others have asked for on their own. They are fetched from there when the answer has come; in the usual way
/// when this is dropped without one.
pub struct Expected {
    shared: Arc<Shared>,
    flight: Arc<Flight>,
}

/// One flight, for who only looks.
#[derive(Clone, Copy, Debug)]
pub struct UnderWay {
    /// What has come of it, and is not in the cache yet.
    pub landed: ByteRange,
    /// What is still to come.
    pub missing: ByteRange,
}

/// What came of asking for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// The waiter will be answered.
    Waiting,
    /// Some of it has come into the cache meanwhile: look there again.
    LookAgain,
}

impl Fetcher {
    /// Starts `config.connections` workers; they end when this is dropped, and every waiter is answered.
    /// `retry` decides which failed requests are made again.
    pub fn start(
        origin: Arc<dyn Origin>,
        cache: Arc<Cache>,
        config: &FetchConfig,
        chunk_size_bytes: u64,
        retry: Arc<Retry>,
        metrics: Arc<Metrics>,
    ) -> Result<Self> {
        let workers = config.connections.max(1);
        let chunks = workers as u64 + LANDED_CHUNKS_MAX;
        let shared = Arc::new(Shared {
            origin,
            cache,
            config: config.clone(),
            retry,
            throttle: Throttle::new(config.bandwidth_limit),
            metrics,
            table: Mutex::default(),
            lanes: Lanes::new(workers),
            late: Mutex::new(Late::new()),
            memory: Memory::new(chunks * chunk_size_bytes),
            resident_max_chunks: RESIDENT_CHUNKS_MAX.min(chunks / RESIDENT_SHARE),
            chunk_size_bytes,
            is_kept: AtomicBool::new(true),
        });
        let workers = (0..workers)
            .map(|number| {
                let shared = Arc::clone(&shared);
                thread::Builder::new()
                    .name(format!("fetch-{number}"))
                    .spawn(move || {
                        while let Some((job, seat)) = shared.lanes.next() {
                            match job {
                                Job::Fly(flight) => {
                                    let flown = shared.fly(&flight, &seat);
                                    seat.landed(flown);
                                }
                                Job::Overtake(race) => shared.overtake(&race),
                            }
                        }
                    })
                    .map_err(|error| Error::io("starting a fetching thread", &error))
            })
            .collect::<Result<_>>()
            // Those that did start wait for work.
            .inspect_err(|_| shared.lanes.stop())?;
        Ok(Self { shared, workers: Mutex::new(workers) })
    }

    /// Has `waiter` answered with `need`, which lies in `gap`, which lies in one slot and is not in the cache: flights
    /// under way are joined, and what none holds is started. Of `gap`, what follows `need` is fetched with it; what lies
    /// beyond other flights is left to lookahead, as here nobody could call it off. `is_lone`: the reader waits for
    /// nothing before it, so a flight that would be long in coming there is cut short.
    pub fn demand(
        &self,
        entry: &Arc<Entry>,
        gap: ByteRange,
        need: ByteRange,
        is_lone: bool,
        waiter: &Arc<dyn Waiter>,
    ) -> Result<Demand> {
        let shared = &self.shared;
        let mut answered: Vec<Answered> = Vec::new();
        {
            let mut table = shared.table.lock();
            if table.is_stopped {
                return Err(unmounting());
            }
            if is_lone {
                let now = Instant::now();
                table.overlapping(entry.id(), need).iter().for_each(|flight| flight.cut_before(gap.start, now));
            }
            let free = table.free(entry, gap);
            // Landed and gone from the table since the caller looked: its bytes are in the cache.
            if free.iter().any(|piece| !shared.cache.trusted(entry, *piece).is_empty()) {
                return Ok(Demand::LookAgain);
            }
            let under_way = table.overlapping(entry.id(), need);
            for piece in free.into_iter().filter(|piece| !piece.intersect(need).is_empty()) {
                let flight = Flight::new(entry, piece, Lane::Demand);
                // Held until the reader waits for it: a worker that fails at once must not take it for a guess.
                let mut inner = flight.inner.lock();
                if !shared.lanes.push(Lane::Demand, &flight) {
                    return Err(too_many_wait(entry));
                }
                answered.push(flight.wait(&mut inner, piece.intersect(need), waiter));
                drop(inner);
                table.insert(&flight);
            }
            for flight in under_way {
                let mut inner = flight.inner.lock();
                let part = ByteRange::new(flight.start, inner.end).intersect(need);
                if part.is_empty() {
                    continue;
                }
                shared.raise(&flight, &mut inner, Lane::Demand);
                answered.push(flight.wait(&mut inner, part, waiter));
            }
        }
        for waiters in answered {
            waiters.tell(Ok(()));
        }
        Ok(Demand::Waiting)
    }

    /// Makes connections ready, unless that was done less than `every` ago, or the origin takes few.
    pub fn warm(&self, every: Duration) {
        if !self.shared.lanes.is_limited() {
            self.shared.origin.warm(every);
        }
    }

    /// Whoever asks for bytes of `range` waits for an answer that somebody else has asked for, and that `cancel` calls off.
    /// `None` if any of them is here or on its way already, or if they are not whole blocks of one slot.
    pub fn expect(&self, entry: &Arc<Entry>, range: ByteRange, cancel: &Cancel) -> Option<Expected> {
        let shared = &self.shared;
        let fits =
            range == range.align(BLOCK_SIZE_BYTES, entry.size_bytes()) && entry.slot(range.start).contains(range);
        let mut table = shared.table.lock();
        let is_free = || table.free(entry, range) == [range] && shared.cache.trusted(entry, range).is_empty();
        if !fits || table.is_stopped || !is_free() {
            return None;
        }
        let flight = Flight::expected(entry, range, cancel);
        table.insert(&flight);
        Some(Expected { shared: Arc::clone(shared), flight })
    }

    /// Has `gap`, which lies in one slot and is not in the cache, fetched in a lower lane; each interest keeps one
    /// flight of it going. What does not fit the lane is left out; all of it while the origin is away. What is here, but
    /// came too fast for the cache's disk, is given to it again.
    pub fn want(&self, entry: &Arc<Entry>, gap: ByteRange, lane: Lane) -> Vec<Interest> {
        let shared = &self.shared;
        // A guess is worth nothing to an origin that is away, and would come back to it all at once.
        let is_away = shared.origin.health() != Health::Closed;
        let is_stuck = shared.cache.is_stuck();
        let mut table = shared.table.lock();
        if table.is_stopped || is_away {
            return Vec::new();
        }
        for piece in table.free(entry, gap) {
            if !shared.cache.trusted(entry, piece).is_empty() {
                continue;
            }
            let flight = Flight::new(entry, piece, lane);
            if shared.lanes.push(lane, &flight) {
                table.insert(&flight);
            }
        }
        let mut interests = Vec::new();
        for flight in table.overlapping(entry.id(), gap) {
            let mut inner = flight.inner.lock();
            shared.raise(&flight, &mut inner, lane);
            // One that is called off just now can't be kept going.
            if inner.state != State::Ending && !inner.has_ended() {
                Flight::add_interest(&mut inner);
                drop(inner);
                interests.push(Interest { shared: Arc::clone(shared), flight });
            }
        }
        let again = if is_stuck { Vec::new() } else { table.take_late(entry, gap) };
        drop(table);
        for resident in again {
            shared.hand_over_again(resident);
        }
        interests
    }

    /// Chunks that all lookahead together may fetch before they are read: while the cache takes none, more would push each
    /// other out of memory and be fetched again. `None`: any number.
    pub fn ahead_max_chunks(&self) -> Option<u64> {
        (self.has_no_room() || self.shared.cache.is_stuck())
            .then_some(self.shared.resident_max_chunks / RESIDENT_AHEAD_SHARE)
    }

    /// Whether the cache had no room for what it was given last.
    pub fn has_no_room(&self) -> bool {
        !self.shared.is_kept.load(Ordering::Relaxed)
    }

    /// Whether no reader and no lookahead has anything under way or queued.
    pub fn is_idle(&self) -> bool {
        let table = self.shared.table.lock();
        table.flights.values().flat_map(BTreeMap::values).all(|flight| {
            let inner = flight.inner.lock();
            inner.lane == Lane::Fill || matches!(inner.state, State::Landed | State::Dead)
        })
    }

    /// The flights of `entry`, in order.
    pub fn under_way(&self, entry: &Entry) -> Vec<UnderWay> {
        let table = self.shared.table.lock();
        let flights = table.overlapping(entry.id(), ByteRange::new(0, entry.size_bytes()));
        let seen = flights.iter().map(|flight| {
            let missing = flight.missing();
            UnderWay { landed: ByteRange::new(flight.start, missing.start), missing }
        });
        seen.collect()
    }

    /// Calls off every flight whose waiters have all given up.
    pub fn call_off_unwanted(&self) {
        let mut table = self.shared.table.lock();
        let all: Vec<_> = table.flights.values().flat_map(BTreeMap::values).cloned().collect();
        for flight in all {
            if flight.inner.lock().lane == Lane::Demand && flight.call_off_if_unwanted(false) {
                table.remove(&flight);
            }
        }
    }
}

impl Expected {
    /// The answer has come. One of another version, or with other bytes, is let go.
    pub fn comes(self, begun: Begun) {
        let Flight { entry, start, .. } = &*self.flight;
        if begun.range == ByteRange::new(*start, self.flight.inner.lock().end)
            && begun.stat.version == entry.stat().version
            && begun.stat.size_bytes == entry.size_bytes()
        {
            self.flight.comes(begun.body, begun.range.end);
        }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        // Only now, so that no worker waits for others' answers. Without one, it is asked for as any bytes are.
        if self.shared.lanes.push(Lane::Demand, &self.flight) {
            return;
        }
        let error = too_many_wait(&self.flight.entry);
        let mut table = self.shared.table.lock();
        let (_, answered) = self.flight.end_early(&error, BLOCK_SIZE_BYTES);
        table.remove(&self.flight);
        drop(table);
        answered.tell(Err(&error));
    }
}

impl Interest {
    /// The bytes it stands for: fewer, when the flight was cut short.
    pub fn range(&self) -> ByteRange {
        ByteRange::new(self.flight.start, self.flight.inner.lock().end)
    }

    /// The bytes that have come so far.
    pub fn landed(&self) -> ByteRange {
        ByteRange::at(self.flight.start, self.flight.inner.lock().bytes.len() as u64)
    }

    /// Flies in `lane` if that is higher than its own, and it is not under way yet.
    pub fn raise(&self, lane: Lane) {
        self.shared.raise(&self.flight, &mut self.flight.inner.lock(), lane);
    }

    /// Whether there is nothing left to keep going: all its bytes are here, or it has ended without.
    pub fn is_over(&self) -> bool {
        self.flight.is_over()
    }

    /// Whether it has ended, and the cache has been given what came.
    pub fn has_ended(&self) -> bool {
        self.flight.inner.lock().has_ended()
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut table = self.shared.table.lock();
        if self.flight.call_off_if_unwanted(true) {
            self.shared.metrics.flights_cancelled.add(1);
            table.remove(&self.flight);
        }
    }
}

impl Table {
    fn insert(&mut self, flight: &Arc<Flight>) {
        self.flights.entry(flight.entry.id()).or_default().insert(flight.start, Arc::clone(flight));
    }

    /// Takes this very flight out; one that has its place by now stays.
    fn remove(&mut self, flight: &Arc<Flight>) {
        let id = flight.entry.id();
        if let Some(of_entry) = self.flights.get_mut(&id) {
            if of_entry.get(&flight.start).is_some_and(|there| Arc::ptr_eq(there, flight)) {
                of_entry.remove(&flight.start);
            }
            if of_entry.is_empty() {
                self.flights.remove(&id);
            }
        }
    }

    /// Flights that hold any byte of `range`, in order.
    fn overlapping(&self, entry_id: i64, range: ByteRange) -> Vec<Arc<Flight>> {
        let Some(of_entry) = self.flights.get(&entry_id) else { return Vec::new() };
        let before = of_entry.range(..range.start).next_back();
        let within = of_entry.range(range.start..range.end);
        before
            .into_iter()
            .chain(within)
            .filter(|(start, flight)| !ByteRange::new(**start, flight.inner.lock().end).intersect(range).is_empty())
            .map(|(_, flight)| Arc::clone(flight))
            .collect()
    }

    /// Of those that are `wanted` the one that has been resident for longest is no longer.
    fn take_resident(&mut self, wanted: impl Fn(&Resident) -> bool) -> Option<Resident> {
        let taken = self.resident.remove(self.resident.iter().position(wanted)?)?;
        self.resident_bytes -= taken.taken_bytes;
        Some(taken)
    }

    /// Those of `gap` that only the cache's disk was too slow for are no longer.
    fn take_late(&mut self, entry: &Entry, gap: ByteRange) -> Vec<Resident> {
        let is_wanted = |resident: &Resident| {
            let flight = &resident.flight;
            resident.is_late && flight.entry.id() == entry.id() && gap.contains(flight.whole().0)
        };
        std::iter::from_fn(|| self.take_resident(is_wanted)).collect()
    }

    /// One that was taken is resident again.
    fn put_back(&mut self, taken: Resident) {
        self.resident_bytes += taken.taken_bytes;
        self.resident.push_front(taken);
    }

    /// The parts of `range` that no flight holds.
    fn free(&self, entry: &Entry, range: ByteRange) -> Vec<ByteRange> {
        let flights = self.overlapping(entry.id(), range);
        let held: RangeSet =
            flights.iter().map(|flight| ByteRange::new(flight.start, flight.inner.lock().end)).collect();
        held.gaps(range)
    }
}

impl Shared {
    /// Queues a flight anew if `lane` is higher than its own; whoever finds it in the old one passes it over.
    fn raise(&self, flight: &Arc<Flight>, inner: &mut Inner, lane: Lane) {
        if inner.state == State::Queued && lane < inner.lane && self.lanes.push(lane, flight) {
            inner.lane = lane;
        }
    }

    /// The cache has taken the bytes, or can't: the flight leaves, or stays a while as the only place to have them from.
    /// Where it takes some, it may take more: one after the other is given to it again.
    fn settle_kept(self: &Arc<Self>, landed: Resident, kept: Kept) {
        if kept != Kept::Late {
            self.is_kept.store(kept == Kept::Written, Ordering::Relaxed);
        }
        let mut table = self.table.lock();
        if kept == Kept::Written {
            table.remove(&landed.flight);
            let buffer = landed.flight.let_go();
            let again = table.take_resident(|resident| resident.flight.entry.is_kept());
            drop(table);
            self.memory.give_back(landed.taken_bytes, buffer);
            if let Some(again) = again {
                self.hand_over_again(again);
            }
            return;
        }
        table.resident_bytes += landed.taken_bytes;
        table.resident.push_back(Resident { is_late: kept == Kept::Late, ..landed });
        let (mut freed, mut buffer) = (0, None);
        while table.resident_bytes > self.resident_max_chunks * self.chunk_size_bytes
            && let Some(oldest) = table.take_resident(|_| true)
        {
            freed += oldest.taken_bytes;
            table.remove(&oldest.flight);
            buffer = oldest.flight.let_go().or(buffer);
        }
        drop(table);
        self.memory.give_back(freed, buffer);
    }
}

impl Fetcher {
    /// Calls every flight off, answers every waiter, ends the workers.
    pub fn stop(&self) {
        let workers = std::mem::take(&mut *self.workers.lock());
        if workers.is_empty() {
            return;
        }
        self.shared.lanes.stop();
        let stopped = Table { is_stopped: true, ..Table::default() };
        let table = std::mem::replace(&mut *self.shared.table.lock(), stopped);
        let flights: Vec<_> = table.flights.into_values().flat_map(BTreeMap::into_values).collect();
        for flight in &flights {
            flight.cancel.cancel();
        }
        // A worker's reply may hold the last reference to us: a thread does not wait for itself.
        for worker in workers.into_iter().filter(|worker| worker.thread().id() != thread::current().id()) {
            let _ = worker.join();
        }
        // What was still queued.
        let gone = unmounting();
        for flight in &flights {
            flight.end_early(&gone, BLOCK_SIZE_BYTES).1.tell(Err(&gone));
        }
        // What waits for the disk holds this room, and through it the cache, which must not be dropped by its own writer.
        self.shared.cache.flush();
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.stop();
    }
}

fn too_many_wait(entry: &Entry) -> Error {
    Error::new(Kind::Full, format!("{}: too many reads wait for the origin", entry.path()))
}

fn unmounting() -> Error {
    Error::new(Kind::Local, "the drive is being unmounted")
}

/// A film of so many bytes in a cache of its own, for tests that need one to fly.
#[cfg(test)]
fn entry_in(dir: &std::path::Path, size_bytes: u64) -> Arc<Entry> {
    let config = crate::config::CacheConfig {
        dir: dir.to_owned(),
        size_bytes: 1 << 30,
        min_free_bytes: 0,
        chunk_size_bytes: 1 << 20,
    };
    let cache = Cache::open(&config, "test:flights", Arc::default()).unwrap();
    let version = crate::origin::Version::etag("\"1\"");
    cache.entry("film", &crate::origin::Stat { size_bytes, modified: None, version }).unwrap()
}
