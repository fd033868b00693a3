//! The cache: which bytes of which version are on this disk, whether they can be trusted, and who gives way when
//! there is no room. Readers ask `coverage` and `read`; fetchers hand whole chunks to `keep`.
//! Never here: origins, requests, players.
//!
//! ```text
//! CACHE/lock                   one process at a time; holds its pid
//! CACHE/index.sqlite           entries and chunks (see `index`), and the last known tree (see `tree`)
//! CACHE/entries/ab/ID.data     the bytes (see `data`)
//! ```
//!
//! The folder belongs to the user (see `owner`), and no link in it is followed. What another program does to a data file is
//! noticed before its bytes are shown (see `stamp`, `hot` and `refit`).
//!
//! The way of a chunk: hashed by its fetcher → `keep` → *writer* thread (room, then bytes; from here on it is read
//! from disk) → *recorder* thread (sync, then row; from here on it survives a crash).
//!
//! Locks, in the order they are taken: `pinning` → `open` or the tree's → the index's writer → an entry's data file →
//! `hot`, the queue's.
//! None is held while an origin is asked.

mod backing;
mod data;
mod evict;
mod growth;
mod hot;
pub mod index;
mod keeper;
mod owner;
mod pins;
mod queue;
mod reading;
mod refit;
mod renew;
mod stamp;
mod status;
mod sweep;
mod tree;
mod unread;
mod upkeep;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime};

use crossbeam_channel::bounded;
use parking_lot::{Mutex, RwLock};

use crate::config::CacheConfig;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::lock::{self, Lock};
use crate::metrics::Metrics;
use crate::modes::{self, Modes};
use crate::range::{ByteRange, RangeSet};
use crate::store::Stat;

use data::{DataDir, DataFile};
use growth::States;
use hot::Hot;
use index::{ChunkRow, EntryKey, EntryRow, Index, micros};
use keeper::{Job, Keep};
use queue::Queue;
use tree::Tree;
use unread::Unread;

pub use backing::Backing;
pub use pins::{Pinned, Room};
pub use status::{CacheStatus, EntryStatus, entries, status};
pub use tree::{KeptListing, KnownListing, Spool};
pub use upkeep::{BadChunk, Purge, Purged, Tell, Verified};

/// Of the budget, left for what the filesystem itself adds to sparse files (extent blocks, folders): 1 part in 64.
const FILESYSTEM_SHARE: u64 = 64;

/// The cache of one source, owned by this process.
pub struct Cache {
    shared: Arc<Shared>,
    // Taken by whoever ends the thread: once. Held while it is waited for.
    writer: Mutex<Option<JoinHandle<()>>>,
    tree: Tree,
}

/// What the cache's threads and callers share.
struct Shared {
    config: CacheConfig,
    origin: String,
    // Under which the last known tree is written down: the origin, and which part of it is shown.
    view: String,
    index: Index,
    data: DataDir,
    hot: Hot,
    // What the writer thread is asked.
    queue: Queue,
    // Guards which entries are open: making, retiring and deleting an entry exclude each other through it.
    open: Mutex<HashMap<i64, Weak<Entry>>>,
    // Bytes on disk, with those about to be written. Only the writer thread adds.
    used_bytes: AtomicU64,
    // Sizes of the pinned files, as the index has them.
    pinned_bytes: AtomicU64,
    // Guards counting what fits and pinning it, together. Outside `open`.
    pinning: Mutex<()>,
    // The next id of an entry that keeps nothing; they go down from -1.
    unkept: AtomicI64,
    // Bytes the disk refused when it was to sync them, and has maybe forgotten: the writer punches them before it writes
    // anything else, so that no new bytes are among them. Filled before trust in them ends. Taken alone.
    lost: Mutex<Vec<(i64, u64, ByteRange)>>,
    // When the writer last tried to begin a new index, and could not.
    renewal_tried_at: Mutex<Option<Instant>>,
    // Rows could not be committed: until they can, nothing more is kept, as it could not be evicted.
    cannot_record: AtomicBool,
    metrics: Arc<Metrics>,
    // On the directory, as long as the cache is open; another one once the directory was removed and made again.
    lock: Mutex<Lock>,
}

/// One version of one file, open in the cache. Cheap to share; it keeps its data file open.
pub struct Entry {
    id: i64,
    path: Arc<str>,
    // As `states` has it: for who asks without its lock.
    size_bytes: AtomicU64,
    // What it stands for, and what the origin is asked for. Taken alone.
    states: Mutex<States>,
    chunk_size_bytes: u64,
    // Another file once this one was removed or moved away under us. Held for a moment; the bytes are read outside it.
    data: RwLock<Arc<DataFile>>,
    // Another program changed the data file, and the writer has not seen to it yet.
    is_suspect: AtomicBool,
    // The log has told of such a change: it does so once.
    is_told_changed: AtomicBool,
    unread: Unread,
    // What players open it with, as far as it is known. A few ranges: whoever tells bounds them. Taken alone.
    opening: Mutex<RangeSet>,
}

/// What the cache holds of a range.
pub struct Coverage {
    /// Bytes that can be read now.
    pub trusted: RangeSet,
    /// Recorded chunks this process has not hashed yet.
    pub unchecked: Vec<ChunkRow>,
    /// Bytes that only the origin has.
    pub gaps: Vec<ByteRange>,
}

/// What became of bytes handed to `keep`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// They are in the cache and can be read from it.
    Written,
    /// There was no room, or the disk failed: whoever wants them must hold on to them.
    Skipped,
    /// The disk was stuck, or took too long: the same, but it may take them later.
    Late,
}

/// Told when the bytes are in the cache, or will not be.
pub type Done = Box<dyn FnOnce(Kept) + Send>;

impl Entry {
    /// Names the entry in this process and in the index.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// Relative to the source.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Size, time and version of the file. Of one that grows, the latest that this entry stands for.
    pub fn stat(&self) -> Stat {
        self.states.lock().own.clone()
    }

    /// Bytes of the file.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Acquire)
    }

    /// Whether anything can be kept of it.
    pub fn is_kept(&self) -> bool {
        self.data().is_somewhere()
    }

    /// The data file as it is at this moment.
    fn data(&self) -> Arc<DataFile> {
        Arc::clone(&self.data.read())
    }

    /// Width of a slot: chunks lie within multiples of it.
    pub fn chunk_size_bytes(&self) -> u64 {
        self.chunk_size_bytes
    }

    /// Whether players open the film with any byte of `range`.
    fn is_opening(&self, range: ByteRange) -> bool {
        !self.opening.lock().overlap(range).is_empty()
    }

    /// The slot that holds `offset`, cut at the end of the file.
    pub fn slot(&self, offset: u64) -> ByteRange {
        let start = offset - offset % self.chunk_size_bytes;
        ByteRange::new(start, start.saturating_add(self.chunk_size_bytes).min(self.size_bytes()))
    }
}

/// What is called so in a cache's folder is the cache's.
const OURS: [&str; 7] = ["entries", "index.sqlite", "index.damaged", "lock", "budget", "budget.new", MADE];
/// And the journals that `SQLite` keeps beside the index.
const JOURNALS: [&str; 2] = ["index.sqlite-wal", "index.sqlite-shm"];
/// Empty, in a folder that reelfs made: only such a folder's mode is changed. Another one keeps the mode it was given.
const MADE: &str = "folder-made-by-reelfs";

impl Cache {
    /// Takes the directory for this process, opens or makes the index, removes what a crash left over.
    /// `origin` names the source, without credentials.
    pub fn open(config: &CacheConfig, origin: &str, metrics: Arc<Metrics>) -> Result<Self> {
        Self::open_view(config, origin, None, metrics)
    }

    /// The same, of a source of which a part is shown, or in another way: such views share the files' bytes, and each has a last
    /// known tree of its own. `view` tells it from others.
    pub fn open_view(config: &CacheConfig, origin: &str, view: Option<&str>, metrics: Arc<Metrics>) -> Result<Self> {
        config.check()?;
        make_folder(&config.dir, Modes::OWNER)?;
        owner::check(&config.dir)?;
        let lock = take_lock(&config.dir)?;
        mend_modes(&config.dir);
        let shared = Arc::new(Shared {
            index: Index::open(&index_path(&config.dir))?,
            data: DataDir::open(&config.dir)?,
            hot: Hot::new(),
            queue: Queue::default(),
            open: Mutex::default(),
            used_bytes: AtomicU64::new(0),
            pinned_bytes: AtomicU64::new(0),
            pinning: Mutex::default(),
            unkept: AtomicI64::new(-1),
            lost: Mutex::default(),
            renewal_tried_at: Mutex::default(),
            cannot_record: AtomicBool::new(false),
            origin: origin.to_owned(),
            view: view.map_or_else(|| origin.to_owned(), |view| format!("{origin}\n{view}")),
            config: config.clone(),
            metrics,
            lock: Mutex::new(lock),
        });
        status::note_budget(&config.dir, config.size_bytes);
        shared.sweep().or_else(|error| {
            if error.kind() != Kind::Corrupt {
                return Err(error);
            }
            shared.index.renew()?;
            shared.sweep()
        })?;
        let writer = keeper::start(Arc::clone(&shared))?;
        let tree = Tree::start(&shared).inspect_err(|_| shared.queue.close())?;
        Ok(Self { shared, writer: Mutex::new(Some(writer)), tree })
    }

    /// Removes the directory of a cache that was made a moment ago, and has nothing to keep. Its threads end before: to them,
    /// files that are gone were removed by another program, and they would begin anew.
    pub fn abandon(&self) {
        self.end_writer();
        self.tree.end();
        self.shared.index.stop_watching();
        if let Err(error) = std::fs::remove_dir_all(&self.shared.config.dir) {
            log::debug!("cache: {} stays: {error}", self.shared.config.dir.display());
        }
    }

    /// The entry of this version of `path`: the one there is, or a new one. Entries of other versions give way. Where
    /// there is no place for an entry (a full disk, an index that can't be written) it keeps nothing.
    pub fn entry(&self, path: &str, stat: &Stat) -> Result<Arc<Entry>> {
        if i64::try_from(stat.size_bytes).is_err() {
            return Err(Error::new(
                Kind::Unsupported,
                format!("{path}: {} bytes are more than a file can have", stat.size_bytes),
            ));
        }
        let shared = &self.shared;
        let key = EntryKey { origin: &shared.origin, path, version: stat.version.as_str() };
        if shared.renew_if_damaged() {
            shared.wait_for_renewal();
        }
        let mut open = shared.open.lock();
        let mut found = shared.find_or_add(&key, stat.size_bytes);
        if found.as_ref().is_err_and(|error| error.kind() == Kind::Corrupt) {
            drop(open);
            shared.wait_for_renewal();
            open = shared.open.lock();
            found = shared.find_or_add(&key, stat.size_bytes);
        }
        if let Ok((id, _)) = found
            && let Some(entry) = open.get(&id).and_then(Weak::upgrade)
        {
            drop(open);
            shared.refit_if_moved(&entry);
            return Ok(entry);
        }
        let placed = found.and_then(|(id, chunk)| Ok((id, chunk, shared.open_data(id, stat.size_bytes)?)));
        let (id, chunk_size_bytes, (data, is_new)) = placed.unwrap_or_else(|error| {
            log::warn!("cache: {path} is served but not kept: {error}");
            shared.metrics.problems.happened(&error);
            // Below all ids of the index: no row is ever found for it.
            let id = shared.unkept.fetch_sub(1, Ordering::Relaxed);
            (id, shared.config.chunk_size_bytes, (DataFile::nowhere(), false))
        });
        let chunk_size_bytes = chunk_size_bytes.max(1);
        let opening = Mutex::default();
        let entry = Arc::new(Entry {
            id,
            path: path.into(),
            size_bytes: AtomicU64::new(stat.size_bytes),
            states: Mutex::new(States::new(stat)),
            chunk_size_bytes,
            data: RwLock::new(Arc::new(data)),
            is_suspect: AtomicBool::new(false),
            is_told_changed: AtomicBool::new(false),
            unread: Unread::new(&shared.metrics),
            opening,
        });
        open.retain(|_, entry| entry.strong_count() > 0);
        open.insert(id, Arc::downgrade(&entry));
        drop(open);
        if is_new && shared.index.held(id).is_ok_and(|(chunks, _)| chunks > 0) {
            log::warn!("cache: the data file of {path} was removed by another program: what it held is fetched again");
            // Best effort: rows that stay fail their hash when they are used.
            let _ = shared.queue.offer(Job::Forget { entry_id: id });
        }
        let others = shared.index.other_versions(&key).unwrap_or_else(|error| {
            log::warn!("cache: older versions of {path} stay: {error}");
            Vec::new()
        });
        for other in others {
            if other.pinned {
                let _ = shared.pass_pin_on(&other, &entry).inspect_err(|error| log::warn!("cache: {error}"));
            }
            // Best effort: what does not fit the queue now is evicted by age.
            let _ = shared.queue.offer(Job::Retire { entry_id: other.entry_id });
        }
        Ok(entry)
    }

    /// Width of a slot of entries made from now on.
    pub fn chunk_size_bytes(&self) -> u64 {
        self.shared.config.chunk_size_bytes
    }

    /// Whether bytes are recorded of any version of `path`.
    pub fn holds(&self, path: &str) -> Result<bool> {
        for version in self.shared.versions(path)? {
            if self.shared.index.held(version.entry_id)?.0 > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes a whole, hashed piece of a slot to be written and recorded. Blocks while the writer is behind, but no longer
    /// than a disk may take before it counts as stuck.
    pub fn keep(&self, entry: &Arc<Entry>, range: ByteRange, bytes: Arc<Vec<u8>>, digest: Digest, done: Done) {
        entry.unread.came(range);
        let keep = Keep { entry: Arc::clone(entry), range, bytes, digest, queued_at: Instant::now(), done };
        if let Err(Job::Keep(keep)) = self.shared.queue.push(Job::Keep(keep)) {
            keep.let_go(&self.shared.metrics);
        }
    }

    /// Takes a piece that it did not take before, if that is possible at once; `false`: not now, and `done` is not called.
    pub fn keep_again(
        &self,
        entry: &Arc<Entry>,
        range: ByteRange,
        bytes: Arc<Vec<u8>>,
        digest: Digest,
        done: Done,
    ) -> bool {
        self.shared
            .queue
            .offer(Job::Keep(Keep { entry: Arc::clone(entry), range, bytes, digest, queued_at: Instant::now(), done }))
            .is_ok()
    }

    /// Whether the disk has been at one piece for longer than a reader should wait for it.
    pub fn is_stuck(&self) -> bool {
        self.shared.queue.is_stuck()
    }

    /// Lets the piece go that has waited longest for the disk; `false`: none waits.
    pub fn let_oldest_go(&self) -> bool {
        let oldest = self.shared.queue.take_oldest();
        oldest.map(|keep| keep.let_go(&self.shared.metrics)).is_some()
    }

    /// Players open the film with `range`: what is and will be kept of it outlives the middle of films.
    pub fn opens_with(&self, entry: &Arc<Entry>, range: ByteRange) {
        {
            let mut opening = entry.opening.lock();
            if opening.contains(range) {
                return;
            }
            opening.insert(range);
        }
        // Best effort: what does not fit the queue now goes a little earlier than it should.
        let _ = self.shared.queue.offer(Job::Opening { entry: Arc::clone(entry), range });
    }

    /// Number and bytes of the chunks recorded of `entry`.
    pub fn held(&self, entry: &Entry) -> Result<(u64, u64)> {
        self.shared.index.held(entry.id)
    }

    /// Number and bytes of the chunks recorded of this version of `path`, open or not.
    pub fn held_of(&self, path: &str, stat: &Stat) -> Result<(u64, u64)> {
        let key = EntryKey { origin: &self.shared.origin, path, version: stat.version.as_str() };
        match self.shared.index.find_entry(&key)? {
            Some(row) => self.shared.index.held(row.entry_id),
            None => Ok((0, 0)),
        }
    }

    /// The version of `path` that was cached last, and the bytes recorded of it; `None`: nothing is.
    pub fn last_held(&self, path: &str) -> Result<Option<(String, u64)>> {
        let newest = self.shared.versions(path)?.into_iter().max_by_key(|row| row.entry_id);
        newest.map(|row| Ok((row.version, self.shared.index.held(row.entry_id)?.1))).transpose()
    }

    /// Bytes on disk now.
    pub fn used_bytes(&self) -> u64 {
        self.shared.used_bytes.load(Ordering::Relaxed)
    }

    /// Most bytes of chunks there may be on disk.
    pub fn budget_bytes(&self) -> u64 {
        self.shared.budget_bytes()
    }

    /// Returns when everything kept before is recorded (or known not to be).
    pub fn flush(&self) {
        let (done, wait) = bounded(1);
        if self.shared.queue.push(Job::Flush(done)).is_ok() {
            // An error means the writer has ended, and all is done.
            let _ = wait.recv();
        }
        self.tree.flush();
    }

    /// What the writer was asked before is done; it is asked nothing more.
    fn end_writer(&self) {
        self.shared.queue.close();
        if let Some(writer) = self.writer.lock().take() {
            let _ = writer.join();
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.end_writer();
    }
}

impl Shared {
    /// The id and chunk size of an entry, made if need be and if it can be.
    fn find_or_add(&self, key: &EntryKey<'_>, size_bytes: u64) -> Result<(i64, u64)> {
        let now = micros(SystemTime::now());
        self.index.add_entry(key, size_bytes, self.config.chunk_size_bytes, now).or_else(|error| {
            // What can't be written may still be read.
            let there = self.index.find_entry(key)?;
            there.map(|row| (row.entry_id, row.chunk_size_bytes)).ok_or(error)
        })
    }

    /// The entries of all versions of `path`.
    fn versions(&self, path: &str) -> Result<Vec<EntryRow>> {
        self.index.other_versions(&EntryKey { origin: &self.origin, path, version: "" })
    }

    fn budget_bytes(&self) -> u64 {
        self.config.size_bytes - self.config.size_bytes / FILESYSTEM_SHARE
    }

    /// Runs `act`, which gives `freed_bytes` back to the disk, on an entry's data file, open or not; nothing if there is none.
    fn with_data(
        &self,
        entry_id: i64,
        freed_bytes: u64,
        act: impl FnOnce(&DataFile) -> std::io::Result<()>,
    ) -> Result<()> {
        let opened = self.open.lock().get(&entry_id).and_then(Weak::upgrade);
        let data = match opened {
            Some(entry) => Some(entry.data()),
            None => self.data.open_existing(entry_id)?.map(Arc::new),
        };
        let Some(data) = data else { return Ok(()) };
        let done = self.change(entry_id, &data, freed_bytes, || act(&data)).map(|_| ());
        done.map_err(|error| Error::io(format!("the cached data of entry {entry_id}"), &error))
    }

    /// `cost` bytes are no longer on the disk.
    fn forget_bytes(&self, cost: u64) {
        // Saturating: after a crash the first count is of rows, and a row may have been rounded.
        let _ =
            self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| Some(used.saturating_sub(cost)));
    }
}

fn index_path(dir: &Path) -> PathBuf {
    dir.join("index.sqlite")
}

/// Makes the folder of a cache, unless it is there, and notes that reelfs made it.
pub fn make_folder(dir: &Path, modes: Modes) -> Result<()> {
    let failed = |error| Error::io(format!("the cache directory {}", dir.display()), &error);
    if dir.is_dir() {
        return Ok(());
    }
    modes.make_folders(dir).map_err(failed)?;
    // On a full disk the folder only keeps its mode for good.
    let _ = modes.make_file(&dir.join(MADE)).inspect_err(|error| log::debug!("{}: {error}", dir.display()));
    Ok(())
}

/// Closes to others what an earlier version left open. What stands in a folder is ours only where an index of ours does; and
/// the folder itself if reelfs made it, or if it holds an earlier version's cache and nothing else.
fn mend_modes(dir: &Path) {
    let is_made = dir.join(MADE).exists();
    let has_index = index::is_at(&index_path(dir));
    let is_earlier = has_index && modes::is_open_to_others(&index_path(dir));
    if holds_cache_alone(dir) && (is_made || is_earlier) {
        modes::mend(dir, &OURS);
        let _ =
            Modes::of(dir).make_file(&dir.join(MADE)).inspect_err(|error| log::debug!("{}: {error}", dir.display()));
    } else if is_earlier || (has_index && !Modes::of(dir).is_of_file(&index_path(dir))) {
        // The index last of what is private: with it all of it is as the folder says.
        modes::mend_within(dir, &JOURNALS);
        modes::mend_within(dir, &OURS);
    }
}

fn holds_cache_alone(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| {
        entries.all(|entry| entry.is_ok_and(|entry| modes::is_ours(&entry.file_name(), &OURS)))
    })
}

/// Opens a cache to the group of its folder, to be read, or closes it to everybody but its owner. A folder that reelfs did
/// not make, or that holds other things, too, stays as it is.
pub fn set_group_read(dir: &Path, is_read: bool) -> std::io::Result<()> {
    if dir.join(MADE).exists() && holds_cache_alone(dir) {
        return modes::set_group_read(dir, &OURS, is_read);
    }
    if is_read && Modes::of(dir) == Modes::OWNER {
        let dir = dir.display();
        log::warn!(
            "the cache directory {dir} was not made by reelfs, or holds other things: its mode stays, and the cache is not opened to the group; `chmod 750 {dir}` does that from the next start on"
        );
    }
    Ok(())
}

/// One process at a time.
fn take_lock(dir: &Path) -> Result<Lock> {
    let Some(mut lock) = Lock::take(dir)? else {
        let (holder, dir) = (lock::holder(dir), dir.display());
        return Err(Error::new(
            Kind::Busy,
            format!("the cache directory {dir} is in use by {holder}: unmount it first, or use another --cache-dir"),
        ));
    };
    lock.sign(dir)?;
    Ok(lock)
}

#[cfg(test)]
mod tests;
