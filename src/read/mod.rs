//! A handle's reads: from the cache if it can, else from flights; and what its pattern makes worth fetching ahead.
//! Never here: the kernel, names, folders.
//!
//! The walk of a read: [`Reader::read_cached`] (trusted bytes, answered on the spot) → [`Reader::read`]: coverage →
//! unchecked chunks are hashed, gaps are demanded of the fetcher → answered when its own bytes are there.
//!
//! Locks, in order: a handle's `pattern` and `interests` → the fetch room's. None is held while a reply is called.

mod ahead;
pub mod container;
mod deadlines;
mod opening;
mod pace;
mod pattern;
mod pending;
mod status;
mod warm;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cache::{Cache, Entry};
use crate::cancel::Cancel;
use crate::config::{BLOCK_SIZE_BYTES, KERNEL_READAHEAD_BYTES, LOOK_GRAIN_BYTES, ReadConfig};
use crate::error::{Error, Kind, Result};
use crate::fetch::checks::{After, Checks};
use crate::fetch::{Demand, Expected, Fetcher, Followed, Interest, Lane, Taken, Waiter};
use crate::metrics::Metrics;
use crate::origin::Patience;
use crate::range::ByteRange;

use ahead::Ahead;
use deadlines::Deadlines;
use pace::Pace;
use pattern::{Access, Pattern};
use pending::Pending;
use status::Noted;

pub use opening::opening_bytes;
pub use pending::Reply;
pub use status::FileStatus;
pub use warm::Come;

/// Answers the reads of all handles of one mount.
pub struct Reader {
    core: Arc<Core>,
    ahead: Ahead,
    deadlines: Deadlines,
}

/// What reads, lookahead and fill share.
struct Core {
    cache: Arc<Cache>,
    fetcher: Fetcher,
    checks: Checks,
    config: ReadConfig,
    timeout: Duration,
    metrics: Arc<Metrics>,
    // Handles that are being read in order now: lookahead shares the cache's budget among them.
    sequential: AtomicUsize,
}

/// One open file.
pub struct Handle {
    entry: Arc<Entry>,
    core: Arc<Core>,
    pattern: Mutex<Pattern>,
    // As the pattern counts them: for who asks without its lock, and after the handle is gone.
    read_bytes: Arc<AtomicU64>,
    // Guards the observed rate; the lookahead thread alone changes it. Taken alone.
    pace: Mutex<Pace>,
    // Microseconds its reads have waited, those at the same time counted together.
    waited_micros: AtomicU64,
    // For who wants to see it; nothing is decided by it.
    noted: Noted,
    // Called once when the film is nearly played. Taken alone, and not held while it is called.
    when_nearly_played: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    // If its container told.
    duration: OnceLock<Duration>,
    // What was set going when it was opened. Dropped with the handle. Taken after `interests`, never with it.
    opening: Mutex<Vec<Interest>>,
    // What lookahead keeps going, by cursor. Dropped with the handle: closing calls it off.
    interests: Mutex<Vec<(u64, Interest)>>,
    // Waits for the lookahead thread already.
    is_noted: AtomicBool,
    is_sequential: AtomicBool,
}

impl Handle {
    /// The version that is read through it.
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// Bytes read of it so far; those read again do not count.
    pub fn read_bytes(&self) -> &Arc<AtomicU64> {
        &self.read_bytes
    }

    /// Takes a read in, and says what it is taken for.
    fn observe(&self, pattern: &mut Pattern, range: ByteRange) -> Access {
        let access = pattern.observe(range, self.entry.size_bytes());
        self.read_bytes.store(pattern.read_bytes(), Ordering::Relaxed);
        access
    }

    /// Opening it took so long, for whoever looks.
    pub fn learn_open_took(&self, took: Duration) {
        self.noted.opened(took);
        self.core.metrics.open.add(took);
    }

    /// How long the film plays, as its container says; lookahead is measured by it. Told once.
    pub fn learn_duration(&self, duration: Duration) {
        // Known already: two looks at one container agree.
        let _ = self.duration.set(duration);
    }

    /// `then` is called, on a thread that must not wait, when most of the film was really played; never of one that is
    /// copied or only looked into, and not at all where nothing is to be filled in.
    pub fn when_nearly_played(&self, then: impl FnOnce() + Send + 'static) {
        *self.when_nearly_played.lock() = Some(Box::new(then));
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.entry.was_read(&self.pattern.get_mut().runs());
        if *self.is_sequential.get_mut() {
            self.core.sequential.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Reader {
    /// Starts the threads behind it. A read ends within `timeout`.
    pub fn start(
        cache: Arc<Cache>,
        fetcher: Fetcher,
        config: &ReadConfig,
        timeout: Duration,
        metrics: Arc<Metrics>,
    ) -> Result<Self> {
        let checks = Checks::start(&cache)?;
        let core = Arc::new(Core {
            cache,
            fetcher,
            checks,
            config: config.clone(),
            timeout,
            metrics,
            sequential: AtomicUsize::new(0),
        });
        let late = Arc::clone(&core);
        let deadlines = Deadlines::start(move || late.fetcher.call_off_unwanted())?;
        let ahead = Ahead::start(&core)?;
        Ok(Self { core, ahead, deadlines })
    }

    /// A handle on one version of a file.
    pub fn open(&self, entry: Arc<Entry>) -> Arc<Handle> {
        let handle = self.handle(entry, Pattern::default());
        if let Err(error) = self.core.look_into(&handle) {
            log::warn!("{}: {error}", handle.entry.path());
        }
        handle
    }

    /// The same for a program that looks at many files: it gets what it asks for, and hardly more.
    pub fn open_to_scan(&self, entry: Arc<Entry>) -> Arc<Handle> {
        self.handle(entry, Pattern::scanned())
    }

    fn handle(&self, entry: Arc<Entry>, pattern: Pattern) -> Arc<Handle> {
        self.core.keep_ends(&entry);
        Arc::new(Handle {
            entry,
            core: Arc::clone(&self.core),
            pattern: Mutex::new(pattern),
            read_bytes: Arc::default(),
            pace: Mutex::default(),
            waited_micros: AtomicU64::new(0),
            noted: Noted::default(),
            when_nearly_played: Mutex::default(),
            duration: OnceLock::new(),
            opening: Mutex::default(),
            interests: Mutex::default(),
            is_noted: AtomicBool::new(false),
            is_sequential: AtomicBool::new(false),
        })
    }

    /// Looks whether the file behind `entry` has grown, and follows it; see [`Fetcher::follow`].
    pub fn follow(&self, entry: &Entry, taken: Taken, patience: &Patience) -> Result<Followed> {
        self.core.fetcher.follow(entry, taken, patience)
    }

    /// Has the end of a file fetched by which it is known again when it has grown.
    pub fn hold_end(&self, handle: &Arc<Handle>) -> Result<()> {
        let entry = &handle.entry;
        let end = Fetcher::end_of(entry.size_bytes()).align(BLOCK_SIZE_BYTES, entry.size_bytes());
        for part in end.slots(entry.chunk_size_bytes()) {
            let begun = self.core.fetch_slot(entry, part, Lane::Urgent, &[])?;
            handle.opening.lock().extend(begun);
        }
        Ok(())
    }

    /// Reads of `range` wait for an answer that somebody else has asked for; see [`Fetcher::expect`].
    pub fn expect(&self, entry: &Arc<Entry>, range: ByteRange, cancel: &Cancel) -> Option<Expected> {
        self.core.fetcher.expect(entry, range, cancel)
    }

    /// Answers `reply` with the bytes of `range` if they come within `wait`. Nobody has asked for them yet: it counts as
    /// no read.
    pub fn peek(&self, handle: &Arc<Handle>, range: ByteRange, wait: Duration, reply: Reply) {
        let read = self.core.pending(&handle.entry, range, (Access::Probe, wait), reply);
        read.only_looks();
        match self.deadlines.watch(&read) {
            Ok(()) => self.core.look(&handle.entry, Access::Probe, &read),
            Err(error) => read.fail(error),
        }
    }

    /// Fills `buffer` if all its bytes can be had at once. `false`: nothing was done, `read` will.
    pub fn read_cached(&self, handle: &Arc<Handle>, offset: u64, buffer: &mut [u8]) -> bool {
        let range = ByteRange::at(offset, buffer.len() as u64);
        if !self.core.cache.read(&handle.entry, offset, buffer) {
            return false;
        }
        let (access, has_news) = {
            let mut pattern = handle.pattern.lock();
            let access = handle.observe(&mut pattern, range);
            (access, pattern.take_news())
        };
        if access == Access::Jump {
            self.core.metrics.seek.add(Duration::ZERO);
        }
        if has_news {
            // The first read is news.
            handle.noted.first_byte(Duration::ZERO);
            self.ahead.note(handle);
        }
        self.core.metrics.reads.add(1);
        self.core.metrics.read_cached_bytes.add(range.len());
        true
    }

    /// Answers `reply` with the bytes of `range`, which ends at or before the file does, or with an error, within
    /// the timeout. Never blocks on the origin.
    pub fn read(&self, handle: &Arc<Handle>, range: ByteRange, reply: Reply) {
        let core = &self.core;
        let access = handle.observe(&mut handle.pattern.lock(), range);
        core.metrics.reads.add(1);
        core.metrics.read_waited_bytes.add(range.len());
        handle.noted.waits();
        let (metrics, reader) = (Arc::clone(&core.metrics), Arc::downgrade(handle));
        let asked_at = Instant::now();
        let counted: Reply = Box::new(move |answer| {
            let waited_micros = asked_at.elapsed().as_micros() as u64;
            metrics.reads_waited.add(1);
            if access == Access::Jump {
                metrics.seek.add(asked_at.elapsed());
            }
            metrics.read_wait_micros.add(waited_micros);
            if let Some(reader) = reader.upgrade() {
                reader.waited_micros.fetch_add(waited_micros, Ordering::Relaxed);
                reader.noted.first_byte(asked_at.elapsed());
                if access == Access::Sequential {
                    reader.noted.waited_in_run(asked_at, &metrics);
                }
            }
            metrics.read_errors.add(u64::from(answer.is_err()));
            reply(answer);
        });
        let read = core.pending(&handle.entry, range, (access, core.timeout), counted);
        match self.deadlines.watch(&read) {
            Ok(()) => core.look(&handle.entry, access, &read),
            Err(error) => read.fail(error),
        }
        self.ahead.note(handle);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Here, and not with the last handle: a thread can't wait for its own end.
        self.core.checks.stop();
        self.core.fetcher.stop();
    }
}

impl Core {
    /// A read that is yet to be looked for.
    fn pending(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        range: ByteRange,
        (access, wait): (Access, Duration),
        reply: Reply,
    ) -> Arc<Pending> {
        let (core, looked_in) = (Arc::downgrade(self), Arc::clone(entry));
        let look = move |read: Arc<Pending>| {
            if let Some(core) = core.upgrade() {
                core.look(&looked_in, access, &read);
            }
        };
        Pending::new(range, Instant::now() + wait, reply, look)
    }

    /// Looks for a read's bytes wherever they are now. What is not to be had at once will answer it later.
    fn look(self: &Arc<Self>, entry: &Arc<Entry>, access: Access, read: &Arc<Pending>) {
        let waiter: Arc<dyn Waiter> = Arc::clone(read) as _;
        // Ours, so that no answer is the last one before all are asked for.
        read.expect();
        if let Err(error) = self.ask(entry, access, read, &waiter) {
            read.fail(error);
        }
        waiter.settle(Ok(()));
    }

    fn ask(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        access: Access,
        read: &Arc<Pending>,
        waiter: &Arc<dyn Waiter>,
    ) -> Result<()> {
        let range = read.range();
        let span = span(entry, access, range);
        let coverage = self.cache.coverage(entry, span)?;
        let unchecked: Vec<_> =
            coverage.unchecked.into_iter().filter(|chunk| !chunk.range.intersect(range).is_empty()).collect();
        if !unchecked.is_empty() {
            waiter.expect();
            read.look_again();
            let checked = Arc::clone(waiter);
            let after = After::new(move || checked.settle(Ok(())));
            return self.checks.check(entry, unchecked, &after);
        }
        for part in coverage.trusted.overlap(range) {
            if !read.fill(part, |bytes| self.cache.read(entry, part.start, bytes)) {
                // Evicted since; or the disk failed, and the next look will find it so.
                read.look_again();
            }
        }
        for gap in coverage.gaps.into_iter().flat_map(|gap| gap.slots(entry.chunk_size_bytes())) {
            let need = gap.intersect(range);
            if !need.is_empty()
                && self.fetcher.demand(entry, gap, need, access != Access::Sequential, waiter)? == Demand::LookAgain
            {
                read.look_again();
            }
        }
        if read.is_waiting() && Instant::now() >= read.deadline() {
            return Err(Error::new(Kind::TimedOut, "the origin did not answer in time"));
        }
        Ok(())
    }
}

/// What is worth fetching for a read: a probe's own blocks, a scanner's own pages, or, of a run, all to the end of its
/// chunk.
///
/// A probe of just what the kernel asks for at once, from anywhere but a block's start, is mostly the first part of a read
/// that is longer by a page. The program waits for the second part, too, and the kernel asks for that one when it has
/// the first: both are had with one request.
fn span(entry: &Entry, access: Access, range: ByteRange) -> ByteRange {
    if access == Access::Look {
        return range.align(LOOK_GRAIN_BYTES, entry.size_bytes());
    }
    let is_first_part = !range.start.is_multiple_of(BLOCK_SIZE_BYTES) && range.len() == KERNEL_READAHEAD_BYTES;
    let wanted_bytes = if is_first_part { 2 * KERNEL_READAHEAD_BYTES } else { range.len() };
    let wanted_bytes = if let Access::Step(more) = access { range.len() + more } else { wanted_bytes };
    let blocks = ByteRange::at(range.start, wanted_bytes).align(BLOCK_SIZE_BYTES, entry.size_bytes());
    match access {
        Access::Probe | Access::Look | Access::Step(_) => blocks,
        Access::Jump | Access::Sequential => ByteRange::new(blocks.start, entry.slot(blocks.end.max(1) - 1).end),
    }
}

#[cfg(test)]
mod tests;
