//! The background of reading: a thread that fetches ahead of sequential readers, and one that completes a film being
//! played: what is missing is fetched while nothing else wants the link, what is here is hashed.
//! Never here: what a pattern is (see `pattern`), and how bytes are fetched.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::{Core, Handle, pace};
use crate::cache::Entry;
use crate::config::{BLOCK_SIZE_BYTES, Fill};
use crate::error::{Error, Result};
use crate::fetch::{Interest, Lane};
use crate::range::ByteRange;

/// Handles that wait for the lookahead thread; one that does not fit is noted again with its next read.
const NOTED_MAX: usize = 1_024;
/// Films that may be filled in, in turns; a further one is filled when one is done or closed.
const FILLING_MAX: usize = 64;
/// How often the fill thread looks whether the link is free, and gives way if it is not.
const LOOK: Duration = Duration::from_millis(50);
/// Connections are made ready after seeks, but not more often than this: whoever seeks again and again finds one each
/// time, and no server is flooded.
pub(super) const WARM_EVERY: Duration = Duration::from_millis(500);
/// The link counts as free after nothing else used it for this long: a player between two reads is not done.
pub(super) const QUIET: Duration = Duration::from_millis(500);
/// Slots looked at in one go for something to fill in.
const SLOTS_LOOKED_AT_MAX: usize = 64;
/// Chunks behind a reader that stay in memory twice, in the drive's page cache and in the cache's: by then they are
/// on the disk, also of the fastest reader.
const BEHIND_KEPT_CHUNKS: u64 = 32;
/// And so many before these are let go with each step: one, and a few that were passed over in haste.
const BEHIND_LET_GO_CHUNKS: u64 = 8;
/// A film that was played so far is nearly over: minutes are left to fetch what players open the next one with.
const NEARLY_PLAYED_PERCENT: u64 = 80;
/// Lookahead of all readers together, and a film that is filled in, may take this part of the cache's room.
const BUDGET_SHARE: u64 = 2;

/// Both threads.
pub(super) struct Ahead {
    noted: Option<Sender<Arc<Handle>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Ahead {
    pub(super) fn start(core: &Arc<Core>) -> Result<Self> {
        let cannot = |error: std::io::Error| Error::io("starting a lookahead thread", &error);
        let (noted, inbox) = bounded::<Arc<Handle>>(NOTED_MAX);
        let (playing, to_fill) = bounded(FILLING_MAX);
        let mut threads = Vec::new();
        let run = {
            let core = Arc::clone(core);
            move || {
                for handle in inbox {
                    handle.is_noted.store(false, Ordering::Release);
                    core.look_ahead(&handle);
                    if (core.config.fill == Fill::Playing || core.config.checks_whole)
                        && handle.pattern.lock().playing(handle.entry.size_bytes()).is_some()
                    {
                        // Full: it will be noted again.
                        let _ = playing.try_send(Arc::downgrade(&handle));
                    }
                }
            }
        };
        threads.push(thread::Builder::new().name("lookahead".into()).spawn(run).map_err(cannot)?);
        let core = Arc::clone(core);
        threads.push(thread::Builder::new().name("fill".into()).spawn(move || fill(&core, &to_fill)).map_err(cannot)?);
        Ok(Self { noted: Some(noted), threads })
    }

    /// A handle was read: look ahead of it soon.
    pub(super) fn note(&self, handle: &Arc<Handle>) {
        if !handle.is_noted.swap(true, Ordering::AcqRel) {
            let queued = self.noted.as_ref().is_some_and(|noted| noted.try_send(Arc::clone(handle)).is_ok());
            if !queued {
                handle.is_noted.store(false, Ordering::Release);
            }
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        drop(self.noted.take());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Core {
    /// Brings a handle's lookahead in line with its pattern: what is left behind is called off, what is new begun.
    fn look_ahead(&self, handle: &Handle) {
        let entry = &handle.entry;
        let chunk = entry.chunk_size_bytes();
        let waited = Duration::from_micros(handle.waited_micros.load(Ordering::Relaxed));
        let read_bytes = handle.pattern.lock().read_bytes();
        let observed = {
            let mut pace = handle.pace.lock();
            pace.observe(Instant::now(), read_bytes, waited);
            pace.bytes_per_second()
        };
        let rate = pace::rate(observed, entry.size_bytes(), handle.duration.get().copied());
        let plans = handle.pattern.lock().ahead(entry.size_bytes(), chunk, self.lookahead_chunks(chunk), rate);
        match (handle.is_sequential.swap(!plans.is_empty(), Ordering::Relaxed), !plans.is_empty()) {
            (false, true) => drop(self.sequential.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.sequential.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        let mut kept = std::mem::take(&mut *handle.interests.lock());
        kept.retain(|(_, interest)| !interest.is_over());
        let under_way = kept.len();
        kept.retain(|(cursor, interest)| {
            // What lies ahead is kept even if the window is smaller by now: it was begun, and will be read.
            let plan = plans.iter().find(|plan| plan.cursor == *cursor);
            // So is the chunk just passed: the position runs ahead of the reads that are about to wait for its last bytes.
            plan.is_some_and(|plan| interest.range().end + chunk > plan.range.start)
        });
        if kept.len() < under_way {
            // A seek: what it called off took its connections along, and the next seek wants one.
            self.fetcher.warm(WARM_EVERY);
        }
        for plan in &plans {
            let end = plan.range.start.saturating_sub(BEHIND_KEPT_CHUNKS * chunk);
            self.cache.leave_behind(entry, ByteRange::new(end.saturating_sub(BEHIND_LET_GO_CHUNKS * chunk), end));
            // Only what is neither here nor on its way is asked for.
            // In blocks, as all is: the reader may stand within one that was evicted behind it.
            for slot in plan.range.align(BLOCK_SIZE_BYTES, entry.size_bytes()).slots(chunk) {
                let lane = if slot.start < plan.urgent_end { Lane::Urgent } else { Lane::Lookahead };
                match self.fetch_slot(entry, slot, lane, &kept) {
                    Ok(begun) => kept.extend(begun.into_iter().map(|interest| (plan.cursor, interest))),
                    Err(error) => log::warn!("lookahead of {}: {error}", entry.path()),
                }
            }
        }
        *handle.interests.lock() = kept;
        if self.config.fill == Fill::Playing && is_nearly_played(handle, observed) {
            let then = handle.when_nearly_played.lock().take();
            if let Some(then) = then {
                then();
            }
        }
    }

    /// Begins to fetch what is missing of `part`, which lies in one slot, and has what is recorded checked.
    pub(super) fn fetch_slot(
        &self,
        entry: &Arc<Entry>,
        part: ByteRange,
        lane: Lane,
        kept: &[(u64, Interest)],
    ) -> Result<Vec<Interest>> {
        if self.cache.trusted(entry, part).contains(part) {
            return Ok(Vec::new());
        }
        if let Some((_, interest)) = kept.iter().find(|(_, interest)| interest.range().contains(part)) {
            interest.raise(lane);
            return Ok(Vec::new());
        }
        let coverage = self.cache.coverage(entry, part)?;
        self.checks.check_early(entry, coverage.unchecked);
        Ok(coverage.gaps.into_iter().flat_map(|gap| self.fetcher.want(entry, gap, lane)).collect())
    }

    /// Chunks to fetch ahead of one reader: all it may, unless that would evict what others are about to read.
    fn lookahead_chunks(&self, chunk: u64) -> u64 {
        let readers = self.sequential.load(Ordering::Relaxed).max(1) as u64;
        let kept = self.cache.room_bytes() / BUDGET_SHARE / chunk;
        let share = self.fetcher.ahead_max_chunks().map_or(kept, |most| kept.min(most)) / readers;
        u64::from(self.config.lookahead_chunks).min(share)
    }

    /// The next piece of a film to fill in: after the player's position first, then before it. `None`: none missing,
    /// or the film is too large for the cache to hold beside others.
    fn next_to_fill(&self, handle: &Handle, films: usize, at: &mut u64) -> Result<Option<ByteRange>> {
        let entry = &handle.entry;
        let size = entry.size_bytes();
        if size > self.cache.room_bytes() / BUDGET_SHARE / films as u64 && !self.cache.is_pinned(entry)? {
            return Ok(None);
        }
        let slots = size.div_ceil(entry.chunk_size_bytes());
        for _ in 0..slots.min(SLOTS_LOOKED_AT_MAX as u64) {
            let slot = entry.slot(*at % size);
            let coverage = self.cache.coverage(entry, slot)?;
            if self.config.checks_whole {
                self.checks.check_early(entry, coverage.unchecked);
            }
            if let Some(gap) = coverage.gaps.first().filter(|_| self.config.fill == Fill::Playing) {
                return Ok(Some(*gap));
            }
            *at = slot.end;
        }
        Ok(None)
    }
}

/// Whether the end of a film comes near that is being played, and not copied or looked through.
fn is_nearly_played(handle: &Handle, observed: Option<u64>) -> bool {
    let size = handle.entry.size_bytes();
    let at = handle.pattern.lock().playing(size);
    at.is_some_and(|at| at >= size / 100 * NEARLY_PLAYED_PERCENT)
        && pace::is_playing(observed, size, handle.duration.get().copied())
}

/// A film being filled in, and where the search for gaps stands.
struct Filling {
    handle: Weak<Handle>,
    at: u64,
    // Slots passed since the last gap: all of them passed means it is whole.
    passed_bytes: u64,
}

fn fill(core: &Arc<Core>, inbox: &Receiver<Weak<Handle>>) {
    let mut films: Vec<Filling> = Vec::new();
    let mut busy_at = Instant::now();
    loop {
        match inbox.recv_timeout(LOOK) {
            Ok(handle) => add(&mut films, handle),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        films.retain(|film| film.handle.strong_count() > 0);
        if !core.fetcher.is_idle() {
            busy_at = Instant::now();
        }
        if busy_at.elapsed() < QUIET || films.is_empty() {
            continue;
        }
        // In turns.
        films.rotate_left(1);
        let count = films.len();
        let Some(film) = films.last_mut() else { continue };
        let Some(handle) = film.handle.upgrade() else { continue };
        let before = film.at;
        match core.next_to_fill(&handle, count, &mut film.at) {
            Ok(Some(gap)) => {
                film.passed_bytes = 0;
                if !fill_gap(core, &handle, gap, inbox) {
                    // The origin or the disk does not play along: tried again when the player reads on.
                    films.pop();
                }
            }
            Ok(None) => {
                film.passed_bytes += film.at.saturating_sub(before);
                if film.passed_bytes >= handle.entry.size_bytes() || film.at == before {
                    films.pop();
                }
            }
            Err(error) => {
                log::warn!("filling in {}: {error}", handle.entry.path());
                films.pop();
            }
        }
    }
}

fn add(films: &mut Vec<Filling>, handle: Weak<Handle>) {
    let Some(strong) = handle.upgrade() else { return };
    let is_known = films.iter().any(|film| film.handle.ptr_eq(&handle));
    if let Some(at) =
        strong.pattern.lock().playing(strong.entry.size_bytes()).filter(|_| !is_known && films.len() < FILLING_MAX)
    {
        films.push(Filling { handle, at, passed_bytes: 0 });
    }
}

/// Fetches one gap, giving way as soon as anyone else wants the link. `false`: it ended, and nothing of it is here.
fn fill_gap(core: &Core, handle: &Handle, gap: ByteRange, inbox: &Receiver<Weak<Handle>>) -> bool {
    let mut interests = core.fetcher.want(&handle.entry, gap, Lane::Fill);
    while !interests.is_empty() && core.fetcher.is_idle() {
        thread::sleep(LOOK / 10);
        interests.retain(|interest| !interest.has_ended());
        if is_closed(inbox) {
            return true;
        }
    }
    // A flight has ended when the cache is given its bytes, which is before they can be read from the disk.
    core.cache.flush();
    !interests.is_empty() || !core.cache.trusted(&handle.entry, gap).is_empty()
}

fn is_closed(inbox: &Receiver<Weak<Handle>>) -> bool {
    // A full queue drains by itself: handles are noted again with their next read.
    matches!(inbox.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected))
}
