//! The two threads behind `keep`: the writer makes room and writes bytes, the recorder syncs them and commits rows,
//! many chunks at a time.
//! Never here: a reader. Nothing a player waits for passes through these threads.
//!
//! Invariant: data before reference. A row is committed after `fdatasync` of the bytes it names, so after a crash at
//! any point a row is true, or (if the disk lied) its bytes fail their hash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::data::disk_cost;
use super::index::{ChunkRow, EntryRow, NewChunk, micros};
use super::upkeep::PurgedEntry;
use super::{Done, Entry, Kept, Shared};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::problems::Part;
use crate::range::ByteRange;

/// Chunks written but not recorded yet; the writer waits beyond it. They can't be evicted, so it is kept small.
const UNRECORDED_MAX: usize = 128;
/// Most rows in one transaction.
const BATCH_MAX: usize = 64;
/// How long a batch gathers after its first chunk: one sync for all that arrive meanwhile.
const GATHER: Duration = Duration::from_millis(20);
/// How often the writer looks whether a claim has ended.
const CLAIM_LOOK: Duration = Duration::from_millis(1);
/// Times of use are recorded at least this often.
const TICK: Duration = Duration::from_secs(2);

/// What the writer thread is asked.
pub(super) enum Job {
    /// Write and record.
    Keep(Keep),
    /// A recorded chunk failed its hash: drop it, if that is so still. Answered when its row is gone.
    DropChunk { entry: Arc<Entry>, chunk: ChunkRow, done: Sender<Result<()>> },
    /// Players open the film with it: what is recorded of it is marked.
    Opening { entry: Arc<Entry>, range: ByteRange },
    /// An old version: delete it unless it is open.
    Retire { entry_id: i64 },
    /// A person wants an entry gone, open or not; answered with what became of it.
    Purge { entry: EntryRow, done: Sender<Result<PurgedEntry>> },
    /// Another program changed the data file of an open entry: see to it.
    Refit { entry_id: i64 },
    /// The data file of an entry was gone, and a new one was made: the rows go, too.
    Forget { entry_id: i64 },
    /// The index was found damaged: begin a new one.
    Renew,
    /// Answer when all before it is recorded.
    Flush(Sender<()>),
}

/// Bytes that are to be kept.
pub(super) struct Keep {
    pub(super) entry: Arc<Entry>,
    pub(super) range: ByteRange,
    pub(super) bytes: Arc<Vec<u8>>,
    pub(super) digest: Digest,
    /// Since when it waits for its turn.
    pub(super) queued_at: Instant,
    pub(super) done: Done,
}

impl Keep {
    /// Their turn did not come in time.
    pub(super) fn let_go(self, metrics: &Metrics) {
        let Self { range, bytes, done, .. } = self;
        // Whoever fetched them may be the only one to hold them, once it is told.
        drop(bytes);
        metrics.cache_skipped_bytes.add(range.len());
        done(Kept::Late);
    }
}

/// Ends the queue with its writer, whatever ends that: nobody may wait for a thread that is gone.
struct LastJob<'a>(&'a Shared);

impl Drop for LastJob<'_> {
    fn drop(&mut self) {
        self.0.queue.close();
        // Of an end in order nothing is left. What is dropped wakes those who wait for it.
        while let Some(job) = self.0.queue.next() {
            if let Job::Keep(keep) = job {
                keep.let_go(&self.0.metrics);
            }
        }
    }
}

/// Chunks to be recorded together, by entry and first byte.
type Batch = BTreeMap<(i64, u64), (Arc<Entry>, NewChunk, u64)>;

/// What the recorder thread is asked.
pub(super) enum Written {
    /// And how many syncs of its file had failed before it was written.
    Chunk(Arc<Entry>, NewChunk, u64),
    Opening(Arc<Entry>, ByteRange),
    Flush(Sender<()>),
    // Their files are gone, and so is the index they were to be recorded in.
    Forget(Sender<()>),
}

/// Starts both threads; they end, with everything recorded, when the queue is closed.
pub(super) fn start(shared: Arc<Shared>) -> Result<JoinHandle<()>> {
    let cannot = |error: std::io::Error| Error::io("starting a cache thread", &error);
    let (written, to_record) = bounded(UNRECORDED_MAX);
    let recorder = {
        let shared = Arc::clone(&shared);
        thread::Builder::new().name("recorder".into()).spawn(move || record_all(&shared, &to_record)).map_err(cannot)?
    };
    thread::Builder::new()
        .name("writer".into())
        .spawn(move || {
            let last = LastJob(&shared);
            while let Some(job) = shared.queue.next() {
                run(&shared, job, &written);
            }
            drop((last, written));
            let _ = recorder.join();
        })
        .map_err(cannot)
}

fn run(shared: &Shared, job: Job, written: &Sender<Written>) {
    if shared.index.is_damaged() {
        shared.renew(written);
    }
    let lost = std::mem::take(&mut *shared.lost.lock());
    for (entry_id, slot_size, range) in lost {
        punch(shared, entry_id, slot_size, range);
    }
    match job {
        Job::Keep(Keep { entry, range, bytes, digest, queued_at, done }) => {
            shared.metrics.cache_queue.add(queued_at.elapsed());
            let on_disk = write(shared, &entry, range, &bytes, written).unwrap_or_else(|error| {
                log::warn!("cache: {range} of {} is served but not kept: {error}", entry.path());
                shared.metrics.problems.happened(&error);
                None
            });
            // Whoever fetched them may reuse their memory as soon as it is told.
            drop(bytes);
            let kept = if on_disk.is_some() { Kept::Written } else { Kept::Skipped };
            match on_disk {
                Some(OnDisk { epoch, failed_syncs }) => {
                    // Changed by another program in this moment, they are hashed before they are used.
                    shared.hot.trust_written((entry.id, epoch), entry.chunk_size_bytes, range);
                    shared.metrics.cache_written_bytes.add(range.len());
                    let chunk = NewChunk { entry_id: entry.id, range, digest, is_opening: entry.is_opening(range) };
                    // The recorder outlives this thread's sender.
                    let _ = written.send(Written::Chunk(entry, chunk, failed_syncs));
                }
                None => shared.metrics.cache_skipped_bytes.add(range.len()),
            }
            // What is told may bring the next bytes.
            shared.queue.goes_on();
            done(kept);
        }
        Job::DropChunk { entry, chunk, done } => {
            let dropped = shared.drop_row(&entry, &chunk, written);
            let is_to_punch = dropped.as_ref().is_ok_and(|is_to_punch| *is_to_punch);
            // The check that asked may have given up. It does not wait for readers in that slot, as the hole does.
            let _ = done.send(dropped.map(|_| ()));
            if is_to_punch {
                punch(shared, entry.id, entry.chunk_size_bytes, chunk.range);
            }
        }
        Job::Opening { entry, range } => {
            let _ = written.send(Written::Opening(entry, range));
        }
        Job::Retire { entry_id } => {
            if let Err(error) = shared.retire(entry_id) {
                log::warn!("cache: cannot drop an old version: {error}");
            }
        }
        Job::Purge { entry, done } => {
            // What is written and not recorded would be recorded after its entry is gone.
            flush(written);
            // Whoever asked may have gone.
            let _ = done.send(shared.purge_entry(&entry));
        }
        Job::Refit { entry_id } => {
            let open = shared.open.lock().get(&entry_id).and_then(Weak::upgrade);
            if let Some(Err(error)) = open.map(|entry| shared.refit(&entry, written)) {
                log::warn!("cache: {error}");
            }
        }
        Job::Forget { entry_id } => {
            if let Err(error) = shared.forget_rows(entry_id, written) {
                log::warn!("cache: {error}");
            }
        }
        // Done already, as before every job.
        Job::Renew => {}
        Job::Flush(done) => {
            let _ = written.send(Written::Flush(done));
        }
    }
}

/// Waits until everything written is recorded.
pub(super) fn flush(written: &Sender<Written>) {
    let (done, wait) = bounded(1);
    if written.send(Written::Flush(done)).is_ok() {
        let _ = wait.recv();
    }
}

/// What tells that bytes which were written stay what they are.
struct OnDisk {
    // Of the file, as it is with them.
    epoch: u64,
    // How many syncs of the file had failed before.
    failed_syncs: u64,
}

pub(super) fn punch(shared: &Shared, entry_id: i64, slot_size: u64, range: ByteRange) {
    // Whoever claimed it while it was trusted, or hashes it a second time, is done in a moment.
    while !shared.hot.release(entry_id, slot_size, range) {
        if shared.hot.is_pinned(entry_id) {
            // Lent out in the very moment it was found wrong: it stays as it is until it is given back.
            return shared.lost.lock().push((entry_id, slot_size, range));
        }
        thread::sleep(CLAIM_LOOK);
    }
    match shared.with_data(entry_id, disk_cost(range), |data| data.punch(range)) {
        Ok(()) => shared.forget_bytes(disk_cost(range)),
        Err(error) => log::warn!("cache: {error}"),
    }
    shared.hot.gone(entry_id, slot_size, range);
}

/// Makes room and writes; `None` where there is no room.
fn write(
    shared: &Shared,
    entry: &Entry,
    range: ByteRange,
    bytes: &[u8],
    written: &Sender<Written>,
) -> Result<Option<OnDisk>> {
    let is_lost = |(id, _, lost): &(i64, u64, ByteRange)| *id == entry.id && !lost.intersect(range).is_empty();
    // The hole that is still to be punched there would take the new bytes along.
    let is_whole = bytes.len() as u64 == range.len();
    if !entry.is_kept()
        || !is_whole
        || shared.lost.lock().iter().any(is_lost)
        || !make_room(shared, disk_cost(range), written)?
    {
        return Ok(None);
    }
    if let Some(was) = shared.metrics.problems.ends(Part::CacheRoom) {
        log::warn!("cache: there is room again after {:.0?}", was.at.elapsed());
    }
    // No bytes go into a file that was removed, or that is another's by now.
    if shared.look_at(entry) || entry.is_suspect.load(Ordering::Acquire) || !shared.is_in_place(entry) {
        shared.refit(entry, written)?;
    }
    let data = entry.data();
    let failed_syncs = data.failed_syncs();
    shared.used_bytes.fetch_add(disk_cost(range), Ordering::Relaxed);
    match shared.change(entry.id, &data, 0, || shared.metrics.cache_write.of(|| data.write(bytes, range.start))) {
        Ok(Some(epoch)) => Ok(Some(OnDisk { epoch, failed_syncs })),
        unwritten => {
            // Part of it may be on disk.
            let _ = shared.change(entry.id, &data, disk_cost(range), || data.punch(range));
            shared.forget_bytes(disk_cost(range));
            unwritten.map(|_| None).map_err(|error| Error::io("writing to the cache", &error))
        }
    }
}

fn make_room(shared: &Shared, cost: u64, written: &Sender<Written>) -> Result<bool> {
    let mut flushed = false;
    loop {
        if shared.cannot_record.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let shortage = shared.shortage(cost);
        if shortage == 0 {
            return Ok(true);
        }
        if shared.evict(shortage, flushed)? == 0 {
            if flushed {
                let why = shared.why_no_room();
                if shared.metrics.problems.begins(Part::CacheRoom, format!("nothing more is kept: {why}")) {
                    log::warn!("cache: nothing more is kept: {why}");
                }
                return Ok(false);
            }
            // What is written but not recorded can't be evicted yet: record it, then look again, for openings, too.
            flush(written);
            flushed = true;
        }
    }
}

fn record_all(shared: &Shared, inbox: &Receiver<Written>) {
    // Chunks whose rows could not be committed wait here for the next try; `cannot_record` keeps it small.
    let mut batch: Batch = BTreeMap::new();
    let mut flushes: Vec<Sender<()>> = Vec::new();
    let mut touched_at = Instant::now();
    loop {
        let mut closed = false;
        // What could not be committed is tried again soon. Until then the inbox is still read: the writer may wait for
        // a flush, and sends no more chunks.
        let is_stuck = !batch.is_empty();
        let mut gather_until = Instant::now() + if is_stuck { GATHER } else { TICK };
        let mut gathering = is_stuck;
        while (is_stuck || batch.len() < BATCH_MAX) && flushes.is_empty() {
            match inbox.recv_deadline(gather_until) {
                Ok(Written::Chunk(entry, chunk, failed_syncs)) => {
                    batch.insert((chunk.entry_id, chunk.range.start), (entry, chunk, failed_syncs));
                    if !gathering {
                        gathering = true;
                        gather_until = Instant::now() + GATHER;
                    }
                }
                Ok(Written::Opening(entry, range)) => {
                    if let Err(error) = shared.index.mark_opening(entry.id, entry.chunk_size_bytes, range) {
                        log::warn!("cache: {error}");
                    }
                }
                Ok(Written::Flush(done)) => flushes.push(done),
                Ok(Written::Forget(done)) => {
                    batch.clear();
                    flushes.push(done);
                }
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    closed = true;
                    break;
                }
            }
        }
        // Rows in an index that another program removed would be lost with it: the writer begins a new one.
        if !batch.is_empty() && !shared.renew_if_damaged() {
            drop_unsynced(shared, &mut batch);
            match record(shared, &batch) {
                Ok(()) => {
                    shared.cannot_record.store(false, Ordering::Relaxed);
                    shared.metrics.problems.ends(Part::CacheIndex);
                    merge_whole_slots(shared, &batch);
                    batch.clear();
                }
                Err(error) => {
                    let is_new =
                        shared.metrics.problems.begins(Part::CacheIndex, format!("nothing more is kept: {error}"));
                    if is_new {
                        log::error!("cache: {error}; nothing more is kept until this mends");
                    }
                    shared.cannot_record.store(true, Ordering::Relaxed);
                }
            }
        }
        for done in flushes.drain(..) {
            // Whoever waited may have gone.
            let _ = done.send(());
        }
        if closed || touched_at.elapsed() >= TICK {
            touched_at = Instant::now();
            if let Err(error) = shared.index.touch(&shared.hot.take_touches()) {
                log::warn!("cache: {error}");
            }
        }
        if closed {
            return;
        }
    }
}

/// Syncs every file of the batch once. What the disk refuses leaves the batch, and is fetched again when it is wanted:
/// after a failed sync the kernel may have thrown the bytes away, and a second one would not tell.
fn drop_unsynced(shared: &Shared, batch: &mut Batch) {
    let mut synced: BTreeMap<i64, bool> = BTreeMap::new();
    batch.retain(|_, (entry, chunk, failed_syncs)| {
        let is_synced = *synced.entry(entry.id).or_insert_with(|| {
            let synced = shared.metrics.cache_sync.of(|| entry.data().sync());
            let synced = synced.map_err(|error| Error::io("syncing the cache", &error));
            synced.inspect_err(|error| log::error!("cache: {error}; {} is fetched again", entry.path())).is_ok()
        }) && entry.data().failed_syncs() == *failed_syncs;
        if !is_synced {
            shared.metrics.cache_skipped_bytes.add(chunk.range.len());
            shared.lost.lock().push((entry.id, entry.chunk_size_bytes, chunk.range));
            shared.hot.distrust(entry.id, entry.chunk_size_bytes, chunk.range);
        }
        is_synced
    });
}

/// Commits all rows of a batch whose files are synced.
fn record(shared: &Shared, batch: &Batch) -> Result<()> {
    if batch.is_empty() {
        return Ok(());
    }
    // What is known of its film by now, whenever it was written.
    let now_known = |(entry, chunk, _): &(Arc<Entry>, NewChunk, u64)| {
        let is_opening = entry.is_opening(chunk.range);
        NewChunk { is_opening, ..*chunk }
    };
    let chunks: Vec<_> = batch.values().map(now_known).collect();
    shared.metrics.index_commit.of(|| shared.index.record(&chunks, micros(SystemTime::now())))
}

/// A slot that came together from pieces becomes one row: the index stays small, a check is one hash.
fn merge_whole_slots(shared: &Shared, batch: &Batch) {
    let mut seen = BTreeSet::new();
    for (entry, chunk, _) in batch.values() {
        let slot = entry.slot(chunk.range.start);
        if chunk.range != slot
            && seen.insert((entry.id, slot.start))
            && let Err(error) = merge_slot(shared, entry, slot)
        {
            log::warn!("cache: {error}");
        }
    }
}

fn merge_slot(shared: &Shared, entry: &Entry, slot: ByteRange) -> Result<()> {
    let Some(_claim) = shared.hot.hold(entry.id, entry.chunk_size_bytes, slot) else { return Ok(()) };
    let parts = shared.index.covering(entry.id, slot)?;
    let gapless = parts.windows(2).all(|pair| pair[0].range.end == pair[1].range.start);
    let whole = parts.first().is_some_and(|part| part.range.start == slot.start)
        && parts.last().is_some_and(|part| part.range.end == slot.end);
    if parts.len() < 2 || !gapless || !whole {
        return Ok(());
    }
    let mut bytes = vec![0; slot.len() as usize];
    entry.data().read(&mut bytes, slot.start).map_err(|error| Error::io("reading the cache", &error))?;
    // The pieces vouch for the whole: each is hashed again on the way, so no unchecked byte slips in under a new hash.
    let is_true = |part: &ChunkRow| {
        let (from, to) = ((part.range.start - slot.start) as usize, (part.range.end - slot.start) as usize);
        Digest::of(&bytes[from..to]) == part.digest
    };
    if parts.iter().all(is_true) {
        let is_opening = entry.is_opening(slot);
        let merged = NewChunk { entry_id: entry.id, range: slot, digest: Digest::of(&bytes), is_opening };
        shared.index.merge(&parts, &merged, micros(SystemTime::now()))?;
    }
    Ok(())
}
