//! Reads over a cache on disk and an origin whose every answer the test holds in its hand: who is asked for what, who
//! is answered when, and that nobody waits for ever.
//! Never here: HTTP faults at random (see `tests/model.rs`), and timing: what must wait waits at a gate.

mod disk;
mod far;
mod faults;
mod order;
mod warm;

use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use tempfile::TempDir;

use super::*;
use crate::cancel::Cancel;
use crate::config::{CacheConfig, FetchConfig, Fill};
use crate::demo::generated;
use crate::origin::{Body, Origin, Pages, Patience, Stat, Version};
use crate::retry::Retry;

const KIB: u64 = 1 << 10;
const CHUNK: u64 = 1 << 20;
const SIZE: u64 = 40 * CHUNK + 1234;
/// Longer than anything takes; a test that runs into it has failed.
const LONG: Duration = Duration::from_mins(1);

/// What the origin does next with one request.
enum Act {
    /// Sends so many bytes.
    Send(u64),
    /// Sends all that is left of the range.
    Finish,
    Fail(Error),
    Panic,
}

/// A request that waits for what the test lets it do.
struct Request {
    range: ByteRange,
    acts: Sender<Act>,
    cancel: Cancel,
}

impl Request {
    fn act(&self, act: Act) {
        // Nobody listens once it was called off.
        let _ = self.acts.send(act);
    }

    fn wait_cancelled(&self) {
        eventually(|| self.cancel.is_cancelled());
    }
}

/// An origin of generated files: serves at once, or asks the test.
struct Double {
    gated: AtomicBool,
    requests: Sender<Request>,
    asked: Mutex<Vec<ByteRange>>,
    refusal: Mutex<Option<Kind>>,
    refused: AtomicU64,
}

struct GatedBody {
    left: ByteRange,
    acts: Receiver<Act>,
    cancel: Cancel,
    is_finishing: bool,
}

impl Body for GatedBody {
    fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.left.is_empty() {
                return Ok(None);
            }
            let act =
                if self.is_finishing { Ok(Act::Finish) } else { self.acts.recv_timeout(Duration::from_millis(2)) };
            let len = match act {
                Ok(Act::Send(len)) => len,
                Ok(Act::Finish) => {
                    self.is_finishing = true;
                    100_000
                }
                Ok(Act::Fail(error)) => return Err(error),
                Ok(Act::Panic) => panic!("the origin double was told to"),
                Err(RecvTimeoutError::Timeout) if !self.cancel.is_cancelled() => continue,
                Err(_) => return Err(Error::new(Kind::Cancelled, "called off")),
            };
            let piece = ByteRange::at(self.left.start, len).intersect(self.left);
            self.left.start = piece.end;
            return Ok(Some(generated(1, piece.start, piece.len() as usize).into()));
        }
    }
}

impl Origin for Double {
    fn list(&self, _: &str, _: &Patience, _: &mut Pages<'_>) -> Result<()> {
        unreachable!("reads list nothing")
    }

    fn stat(&self, _: &str, _: &Patience) -> Result<Stat> {
        Ok(stat())
    }

    fn read(&self, _: &str, _: &Stat, range: ByteRange, patience: &Patience) -> Result<Box<dyn Body>> {
        if let Some(kind) = *self.refusal.lock() {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Error::new(kind, "refused"));
        }
        self.asked.lock().push(range);
        let (acts, to_do) = unbounded();
        let is_finishing = !self.gated.load(Ordering::Relaxed);
        let cancel = patience.cancel.clone();
        if !is_finishing {
            let _ = self.requests.send(Request { range, acts, cancel: cancel.clone() });
        }
        Ok(Box::new(GatedBody { left: range, acts: to_do, cancel, is_finishing }))
    }

    fn describe(&self) -> &'static str {
        "test:double"
    }
}

fn stat() -> Stat {
    Stat { size_bytes: SIZE, modified: None, version: Version::etag("\"1\"") }
}

/// How a test's parts are set up.
#[derive(Clone)]
struct Plan {
    connections: usize,
    lookahead_chunks: u32,
    fill: Fill,
    timeout: Duration,
    min_free_bytes: u64,
    cache_chunks: u64,
}

const PLAN: Plan = Plan {
    connections: 4,
    lookahead_chunks: 0,
    fill: Fill::Never,
    timeout: LONG,
    min_free_bytes: 0,
    cache_chunks: 100,
};

struct House {
    reader: Option<Reader>,
    cache: Arc<Cache>,
    origin: Arc<Double>,
    requests: Receiver<Request>,
    metrics: Arc<Metrics>,
    dir: TempDir,
}

type Answer = Receiver<Result<Vec<u8>>>;

impl House {
    fn build(plan: &Plan) -> Self {
        Self::build_in(tempfile::tempdir().unwrap(), plan)
    }

    fn build_in(dir: TempDir, plan: &Plan) -> Self {
        let (requests_in, requests) = unbounded();
        let origin = Arc::new(Double {
            gated: AtomicBool::new(false),
            requests: requests_in,
            asked: Mutex::default(),
            refusal: Mutex::default(),
            refused: AtomicU64::new(0),
        });
        let metrics = Arc::<Metrics>::default();
        let (cache, reader) = assemble(dir.path(), plan, Arc::clone(&origin) as _, &metrics);
        Self { reader: Some(reader), cache, origin, requests, metrics, dir }
    }

    fn reader(&self) -> &Reader {
        self.reader.as_ref().unwrap()
    }

    fn open(&self) -> Arc<Handle> {
        self.reader().open(self.cache.entry("film", &stat()).unwrap())
    }

    fn gate(&self, gated: bool) {
        self.origin.gated.store(gated, Ordering::Relaxed);
    }

    fn request(&self) -> Request {
        self.requests.recv_timeout(LONG).expect("a request")
    }

    fn ask(&self, handle: &Arc<Handle>, range: ByteRange) -> Answer {
        ask(self.reader(), handle, range)
    }

    /// Reads a range the way a drive does, and finds it right.
    fn read(&self, handle: &Arc<Handle>, range: ByteRange) {
        assert!(read(self.reader(), handle, range).unwrap() == right(range), "{range}");
    }

    fn asked(&self) -> Vec<ByteRange> {
        let mut asked = self.origin.asked.lock().clone();
        asked.sort();
        asked
    }

    /// A handle that has been read in order up to `end`.
    fn sequential(&self, end: u64) -> Arc<Handle> {
        let handle = self.open();
        for at in (0..end).step_by(128 << 10) {
            self.read(&handle, ByteRange::at(at, 128 * KIB));
        }
        handle
    }

    /// Everything is dropped and the same directory opened again.
    fn restart(mut self, plan: &Plan) -> Self {
        self.reader.take();
        let Self { dir, cache, .. } = self;
        drop(cache);
        Self::build_in(dir, plan)
    }
}

fn assemble(
    dir: &std::path::Path,
    plan: &Plan,
    origin: Arc<dyn Origin>,
    metrics: &Arc<Metrics>,
) -> (Arc<Cache>, Reader) {
    let config = CacheConfig {
        dir: dir.to_owned(),
        size_bytes: plan.cache_chunks * CHUNK,
        min_free_bytes: plan.min_free_bytes,
        chunk_size_bytes: CHUNK,
    };
    let fetch =
        FetchConfig { connections: plan.connections, chunk_timeout: plan.timeout, retries: 2, bandwidth_limit: None };
    let read = ReadConfig { lookahead_chunks: plan.lookahead_chunks, fill: plan.fill, checks_whole: false };
    let cache = Arc::new(Cache::open(&config, origin.describe(), Arc::clone(metrics)).unwrap());
    let retry = Arc::new(Retry::new(fetch.retries, Arc::clone(metrics)));
    let fetcher = Fetcher::start(origin, Arc::clone(&cache), &fetch, CHUNK, retry, Arc::clone(metrics)).unwrap();
    let reader = Reader::start(Arc::clone(&cache), fetcher, &read, plan.timeout, Arc::clone(metrics)).unwrap();
    (cache, reader)
}

fn ask(reader: &Reader, handle: &Arc<Handle>, range: ByteRange) -> Answer {
    let (answer, answers) = bounded(1);
    reader.read(handle, range, Box::new(move |result| drop(answer.send(result.map(<[u8]>::to_vec)))));
    answers
}

fn wait(answer: &Answer) -> Result<Vec<u8>> {
    answer.recv_timeout(LONG).expect("an answer, whatever it is")
}

fn read(reader: &Reader, handle: &Arc<Handle>, range: ByteRange) -> Result<Vec<u8>> {
    let mut buffer = vec![0; range.len() as usize];
    if reader.read_cached(handle, range.start, &mut buffer) { Ok(buffer) } else { wait(&ask(reader, handle, range)) }
}

fn right(range: ByteRange) -> Vec<u8> {
    generated(1, range.start, range.len() as usize)
}

/// Waits for what other threads bring about.
fn eventually(condition: impl Fn() -> bool) {
    let until = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < until, "it never came to be");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn one_flight_however_many_readers() {
    let house = House::build(&PLAN);
    house.gate(true);
    let range = ByteRange::at(5 * CHUNK, 64 * KIB);
    let handles: Vec<_> = (0..10).map(|_| house.open()).collect();
    let answers: Vec<_> = handles.iter().map(|handle| house.ask(handle, range)).collect();
    let request = house.request();
    assert!(answers.iter().all(Receiver::is_empty));
    request.act(Act::Finish);
    for answer in answers {
        assert!(wait(&answer).unwrap() == right(range));
    }
    assert_eq!(house.asked(), [range]);
}

#[test]
fn ten_readers_of_a_cold_file_fetch_each_byte_once() {
    let house = House::build(&Plan { lookahead_chunks: 4, ..PLAN });
    std::thread::scope(|scope| {
        for seed in 0..10 {
            let house = &house;
            scope.spawn(move || {
                let (handle, mut dice) = (house.open(), fastrand::Rng::with_seed(seed));
                let mut at = 0;
                while at < SIZE {
                    let range = ByteRange::new(at, (at + dice.u64(1..200_000)).min(SIZE));
                    house.read(&handle, range);
                    at = range.end;
                }
            });
        }
    });
    let asked = house.asked();
    assert!(asked.windows(2).all(|pair| pair[0].end == pair[1].start), "{asked:?}");
    assert_eq!((asked[0].start, asked.last().unwrap().end), (0, SIZE));
}

#[test]
fn a_reader_is_answered_when_its_own_bytes_are_there() {
    let house = House::build(&PLAN);
    let handle = house.sequential(128 * KIB);
    house.gate(true);
    let own = ByteRange::at(128 * KIB, 128 * KIB);
    let answer = house.ask(&handle, own);
    let request = house.request();
    assert_eq!(request.range, ByteRange::new(128 * KIB, CHUNK), "a run: to the end of its chunk");
    request.act(Act::Send(128 * KIB - 1));
    request.act(Act::Send(1));
    assert!(wait(&answer).unwrap() == right(own));
    // The next read joins the same flight.
    let next = house.ask(&handle, ByteRange::at(256 * KIB, 128 * KIB));
    assert!(next.is_empty());
    request.act(Act::Finish);
    assert!(wait(&next).unwrap() == right(ByteRange::at(256 * KIB, 128 * KIB)));
    assert_eq!(house.asked().len(), 2);
}

#[test]
fn a_probe_costs_its_own_blocks() {
    let house = House::build(&Plan { lookahead_chunks: 20, fill: Fill::Playing, ..PLAN });
    let handle = house.open();
    for (read, blocks) in [
        (ByteRange::at(0, 1), ByteRange::at(0, 64 * KIB)),
        (ByteRange::at(7 * CHUNK + 200 * KIB, 10), ByteRange::at(7 * CHUNK + 192 * KIB, 64 * KIB)),
        (ByteRange::at(20 * CHUNK - 1, 2), ByteRange::new(20 * CHUNK - 64 * KIB, 20 * CHUNK + 64 * KIB)),
        (ByteRange::new(SIZE - 10, SIZE), ByteRange::new(40 * CHUNK, SIZE)),
    ] {
        let before = house.metrics.origin_bytes.get();
        house.read(&handle, read);
        house.cache.flush();
        eventually(|| house.reader().core.fetcher.is_idle());
        assert_eq!(house.metrics.origin_bytes.get() - before, blocks.len(), "{read}");
        assert_eq!(house.asked().last().unwrap().end.min(SIZE), blocks.end, "{read}");
    }
}

#[test]
fn only_whole_blocks_are_fetched_wherever_readers_stand() {
    let house = House::build(&Plan { cache_chunks: 16, lookahead_chunks: 20, ..PLAN });
    let handles: Vec<_> = (0..4).map(|_| house.open()).collect();
    let mut dice = fastrand::Rng::with_seed(5);
    let mut at = [0, 9 * CHUNK + 1, 20 * CHUNK + 77, 31 * CHUNK + 5_000];
    for _ in 0..400 {
        let which = dice.usize(..handles.len());
        let range = ByteRange::at(at[which], dice.u64(1..200_000)).intersect(ByteRange::new(0, SIZE));
        house.read(&handles[which], range);
        at[which] = range.end % SIZE;
    }
    let is_whole = |at: u64| at.is_multiple_of(BLOCK_SIZE_BYTES) || at == SIZE;
    let asked = house.asked();
    assert!(asked.iter().all(|range| is_whole(range.start) && is_whole(range.end)), "{asked:?}");
}

#[test]
fn both_parts_of_a_read_that_the_kernel_splits_come_with_one_request() {
    let house = House::build(&PLAN);
    let handle = house.open();
    // A read of 128 KiB from a byte within a page.
    for (start, len) in [(5 * CHUNK + 4 * KIB, 128 * KIB), (5 * CHUNK + 132 * KIB, 124 * KIB)] {
        house.read(&handle, ByteRange::at(start, len));
    }
    assert_eq!(house.asked(), [ByteRange::at(5 * CHUNK, 320 * KIB)]);
    // One from a page on is whole.
    house.read(&house.open(), ByteRange::at(0, 128 * KIB));
    assert_eq!(house.asked(), [ByteRange::at(0, 128 * KIB), ByteRange::at(5 * CHUNK, 320 * KIB)]);
}

#[test]
fn a_film_being_played_is_filled_in() {
    let house = House::build(&Plan { fill: Fill::Playing, ..PLAN });
    let handle = house.sequential(20 * CHUNK);
    // The kernel's cache may answer all that follows: it is played, but not read here any more.
    eventually(|| house.cache.held(handle.entry()).unwrap().1 == SIZE);
    let asked = house.asked();
    assert!(asked.windows(2).all(|pair| pair[0].end == pair[1].start), "each byte once: {asked:?}");
}
