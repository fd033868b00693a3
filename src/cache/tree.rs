//! The last known tree: what folders held, and what files were, when their origin last said so. It lets a drive start
//! without its origin, and lists folders that are too large for memory.
//! Never here: whether what is known is fresh enough, and chunks.
//!
//! It is a hint: it says what to show while the origin can't be asked, never which bytes are there, and it may be lost at
//! any time. So what is small is written behind everybody's back, by a thread of its own, and left out when that is busy.
//!
//! Invariant: a listing never changes. A folder listed anew is another listing; the names of one that has given way stay
//! until nobody reads them any longer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::index::{ListingRow, NAMES_PAGE, micros};
use super::{Cache, Shared};
use crate::error::{Error, Kind, Result};
use crate::store::{Listed, ListedKind, Stat};

/// Things to write down that wait; more are left out, and asked of the origin again some day.
const JOBS_MAX: usize = 4_096;
/// Names in the listings among them: they are held in memory until they are written, about 100 bytes each.
const JOBS_NAMES_MAX: usize = 200_000;
/// Stats written in one transaction.
const STATS_BATCH: usize = 256;
/// Names kept of all folders together, on disk: about 80 bytes each. Beyond it the oldest listings go.
const TREE_NAMES_MAX: u64 = 4_000_000;
/// Names are counted after so many listings, as that takes a look at each folder.
const COUNT_EVERY: u32 = 64;
/// An orderly end, and who asks for everything anew, wait this long for what is still to be written.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// Writes the tree down.
pub(super) struct Tree {
    jobs: Sender<Job>,
    // Taken by whoever ends the thread: once. Held while it is waited for.
    thread: Mutex<Option<JoinHandle<()>>>,
    is_ending: Arc<AtomicBool>,
    // Names of the listings that wait.
    queued_names: Arc<AtomicUsize>,
    // Listings somebody reads. Guards, too, that none is taken up while it is found to be unread.
    read: Arc<Read>,
}

type Read = Mutex<HashMap<i64, Weak<KeptListing>>>;

enum Job {
    Keep { folder: String, names: Arc<Vec<Listed>> },
    Note { path: String, stat: Stat },
    Forget { path: String },
    // These count no more: their names go, unless somebody reads them.
    Stale(Vec<i64>),
    // The same, as a large one has come in their place.
    Replaced(Vec<i64>),
    Flush(Sender<()>),
    End,
}

/// A listing in the index: sorted, each name once, the same for as long as anybody holds it.
pub struct KeptListing {
    shared: Arc<Shared>,
    jobs: Sender<Job>,
    row: ListingRow,
    // Of the index that it is in.
    generation: u64,
    // The last name of each page, as far as somebody has read: where the next one begins. Taken alone.
    marks: Mutex<Vec<Box<str>>>,
    // The page that was read last. Taken alone.
    page: Mutex<Option<(u64, Arc<Vec<Listed>>)>>,
}

/// What is known of a folder.
pub struct KnownListing {
    /// Its names.
    pub listing: Arc<KeptListing>,
    /// How long ago the origin said so. `None`: too long, or it is to be asked again.
    pub age: Option<Duration>,
}

/// A listing on its way into the index. Dropped unfinished, it never was.
pub struct Spool {
    shared: Arc<Shared>,
    read: Arc<Read>,
    jobs: Sender<Job>,
    folder: String,
    row: ListingRow,
    // Of the index that it goes into.
    generation: u64,
    is_finished: bool,
}

impl Tree {
    pub(super) fn start(shared: &Arc<Shared>) -> Result<Self> {
        let (jobs, inbox) = bounded(JOBS_MAX);
        let read = Arc::<Read>::default();
        // What a crash left over; what comes to be from now on is not among it.
        let stale = shared.index.stale_listings()?;
        let is_ending = Arc::<AtomicBool>::default();
        let queued_names = Arc::<AtomicUsize>::default();
        let writer = Writer {
            shared: Arc::clone(shared),
            read: Arc::clone(&read),
            is_ending: Arc::clone(&is_ending),
            queued_names: Arc::clone(&queued_names),
        };
        let thread = thread::Builder::new()
            .name("tree".into())
            .spawn(move || {
                writer.remove_unread(&stale);
                writer.write_all(&inbox);
            })
            .map_err(|error| Error::io("starting a cache thread", &error))?;
        Ok(Self { jobs, thread: Mutex::new(Some(thread)), is_ending, queued_names, read })
    }

    /// Returns when everything noted before is written, or that takes too long.
    pub(super) fn flush(&self) {
        let (done, wait) = bounded(1);
        if self.jobs.try_send(Job::Flush(done)).is_ok() {
            // An error means the thread has ended, and all is done.
            let _ = wait.recv_timeout(FLUSH_MAX);
        }
    }

    /// Nothing is written down any longer.
    pub(super) fn end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
        // Whoever still reads a listing holds the queue, too: its end has to be told.
        if self.jobs.send(Job::End).is_ok()
            && let Some(thread) = self.thread.lock().take()
        {
            let _ = thread.join();
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.end();
    }
}

impl Cache {
    /// What is known of a folder.
    pub fn known_listing(&self, folder: &str) -> Result<Option<KnownListing>> {
        let shared = &self.shared;
        let mut read = self.tree.read.lock();
        let generation = shared.index.generation();
        let Some(row) = shared.index.current_listing(&shared.view, folder)? else { return Ok(None) };
        let age = micros(SystemTime::now()).checked_sub(row.listed_at);
        // A clock that was set back tells nothing; one that was set ahead only makes things old.
        let age = age.filter(|_| row.listed_at > 0).and_then(|age| u64::try_from(age).ok()).map(Duration::from_micros);
        let listing = read.get(&row.listing_id).and_then(Weak::upgrade).unwrap_or_else(|| {
            let listing = Arc::new(KeptListing::new(shared, &self.tree.jobs, row, generation));
            read.insert(row.listing_id, Arc::downgrade(&listing));
            listing
        });
        Ok(Some(KnownListing { listing, age }))
    }

    /// What a file was when it was last asked about.
    pub fn known_stat(&self, path: &str) -> Result<Option<Stat>> {
        let (folder, name) = split(path);
        self.shared.index.known_stat(&self.shared.view, folder, name)
    }

    /// Writes a folder's names down, sorted as they are, in a while.
    pub fn keep_listing(&self, folder: &str, names: &Arc<Vec<Listed>>) {
        let (queued, count) = (&self.tree.queued_names, names.len());
        let before = queued.fetch_add(count, Ordering::Relaxed);
        // One that is larger by itself still has its turn.
        let has_room = before == 0 || before + count <= JOBS_NAMES_MAX;
        if !has_room || !self.tell(Job::Keep { folder: folder.to_owned(), names: Arc::clone(names) }) {
            queued.fetch_sub(count, Ordering::Relaxed);
        }
    }

    /// Begins to write a folder's names down as they come.
    pub fn spool_listing(&self, folder: &str) -> Result<Spool> {
        let shared = &self.shared;
        let generation = shared.index.generation();
        let listing_id = shared.index.begin_listing(&shared.view, folder)?;
        Ok(Spool {
            shared: Arc::clone(shared),
            read: Arc::clone(&self.tree.read),
            jobs: self.tree.jobs.clone(),
            folder: folder.to_owned(),
            row: ListingRow { listing_id, listed_at: 0, names: 0, size_bytes: 0 },
            generation,
            is_finished: false,
        })
    }

    /// Writes down what a file is, in a while.
    pub fn note_stat(&self, path: &str, stat: &Stat) {
        self.tell(Job::Note { path: path.to_owned(), stat: stat.clone() });
    }

    /// The origin says that there is nothing at `path`: what is known of it goes, and of all below it.
    pub fn forget_path(&self, path: &str) {
        self.tell(Job::Forget { path: path.to_owned() });
    }

    /// The files of these names in `folder` are other versions than were noted.
    pub fn forget_stats(&self, folder: &str, names: &[Box<str>]) -> Result<()> {
        // What waits to be written would come after.
        self.tree.flush();
        names.chunks(NAMES_PAGE).try_for_each(|page| self.shared.index.remove_stats(&self.shared.view, folder, page))
    }

    /// What is known of a folder, and of all below it, counts as old from now on.
    pub fn expire_listings(&self, folder: &str) -> Result<()> {
        // What waits to be written would be young again.
        self.tree.flush();
        self.shared.index.expire_listings(&self.shared.view, folder)
    }

    /// Whether it will be done.
    fn tell(&self, job: Job) -> bool {
        let is_told = self.tree.jobs.try_send(job).is_ok();
        if !is_told {
            log::debug!("cache: the tree is not written down: too much at once");
        }
        is_told
    }
}

impl KeptListing {
    fn new(shared: &Arc<Shared>, jobs: &Sender<Job>, row: ListingRow, generation: u64) -> Self {
        let (marks, page) = (Mutex::default(), Mutex::default());
        Self { shared: Arc::clone(shared), jobs: jobs.clone(), row, generation, marks, page }
    }

    /// Asked after the index was read: what a new one does not hold was not removed by the origin.
    fn check_generation(&self) -> Result<()> {
        check_generation(&self.shared, self.generation)
    }

    /// How many names there are.
    pub fn len(&self) -> u64 {
        self.row.names
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all its files, as far as the listing tells.
    pub fn size_bytes(&self) -> u64 {
        self.row.size_bytes
    }

    /// The name, if it is there.
    pub fn find(&self, name: &str) -> Result<Option<Listed>> {
        let found = self.shared.index.listed_name(self.row.listing_id, name)?;
        self.check_generation()?;
        Ok(found)
    }

    /// The page that holds name number `at`, and the number of its first name. Empty beyond the last one.
    pub fn page_of(&self, at: u64) -> Result<(u64, Arc<Vec<Listed>>)> {
        let number = at / NAMES_PAGE as u64;
        let start = number * NAMES_PAGE as u64;
        if at >= self.len() {
            return Ok((start, Arc::default()));
        }
        if let Some((_, names)) = self.page.lock().as_ref().filter(|(read, _)| *read == number) {
            return Ok((start, Arc::clone(names)));
        }
        // In order, as folders are read, the mark is there; whoever jumps ahead walks there once.
        let (mut known, mut after) = {
            let marks = self.marks.lock();
            let known = (number as usize).min(marks.len());
            (known, known.checked_sub(1).and_then(|last| marks.get(last).cloned()))
        };
        loop {
            let names = Arc::new(self.shared.index.listed_names(self.row.listing_id, after.as_deref())?);
            self.check_generation()?;
            after = names.last().map(|listed| listed.name.clone());
            if let Some(last) = &after {
                let mut marks = self.marks.lock();
                if marks.len() == known {
                    marks.push(last.clone());
                }
            }
            if known as u64 == number || names.is_empty() {
                *self.page.lock() = Some((number, Arc::clone(&names)));
                return Ok((start, names));
            }
            known += 1;
        }
    }

    /// All of it, for one that is known to be small.
    pub fn whole(&self) -> Result<Vec<Listed>> {
        let mut names: Vec<Listed> = Vec::new();
        loop {
            let page = self.shared.index.listed_names(self.row.listing_id, names.last().map(|listed| &*listed.name))?;
            self.check_generation()?;
            if page.is_empty() {
                return Ok(names);
            }
            names.extend(page);
        }
    }
}

impl Drop for KeptListing {
    fn drop(&mut self) {
        // A full queue leaves its names to the next start.
        let _ = self.jobs.try_send(Job::Stale(vec![self.row.listing_id]));
    }
}

impl Spool {
    /// Takes more names, in any order.
    pub fn add(&mut self, names: &[Listed]) -> Result<()> {
        let (added, bytes) = self.shared.index.add_names(self.row.listing_id, names)?;
        check_generation(&self.shared, self.generation)?;
        self.row.names += added;
        self.row.size_bytes = self.row.size_bytes.saturating_add(bytes);
        Ok(())
    }

    /// That was all: from now on this is what is known of the folder.
    pub fn finish(mut self) -> Result<Arc<KeptListing>> {
        self.row.listed_at = micros(SystemTime::now());
        // Read from the first moment on, so that it stays even if it gives way in the next.
        let listing = Arc::new(KeptListing::new(&self.shared, &self.jobs, self.row, self.generation));
        self.read.lock().insert(self.row.listing_id, Arc::downgrade(&listing));
        let stale = self.shared.index.finish_listing(&self.row, &self.shared.view, &self.folder)?;
        check_generation(&self.shared, self.generation)?;
        self.is_finished = true;
        let _ = self.jobs.try_send(Job::Replaced(stale));
        Ok(listing)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if !self.is_finished {
            let _ = self.jobs.try_send(Job::Stale(vec![self.row.listing_id]));
        }
    }
}

/// What the thread has at hand.
struct Writer {
    shared: Arc<Shared>,
    read: Arc<Read>,
    is_ending: Arc<AtomicBool>,
    queued_names: Arc<AtomicUsize>,
}

impl Writer {
    fn write_all(&self, inbox: &Receiver<Job>) {
        let (mut next, mut listings) = (None, 0_u32);
        while let Some(job) = next.take().or_else(|| inbox.recv().ok()) {
            let done = match job {
                Job::Keep { folder, names } => {
                    listings += 1;
                    let kept = self.keep(&folder, &names);
                    self.queued_names.fetch_sub(names.len(), Ordering::Relaxed);
                    kept
                }
                Job::Note { path, stat } => {
                    let mut stats = vec![noted(&path, stat)];
                    while stats.len() < STATS_BATCH {
                        match inbox.try_recv() {
                            Ok(Job::Note { path, stat }) => stats.push(noted(&path, stat)),
                            other => {
                                next = other.ok();
                                break;
                            }
                        }
                    }
                    self.shared.index.note_stats(&self.shared.view, &stats)
                }
                Job::Forget { path } => self.forget(&path),
                Job::Stale(ids) => {
                    self.remove_unread(&ids);
                    Ok(())
                }
                Job::Replaced(ids) => {
                    listings += COUNT_EVERY;
                    self.remove_unread(&ids);
                    Ok(())
                }
                Job::Flush(done) => {
                    // Whoever waited may have gone.
                    let _ = done.send(());
                    Ok(())
                }
                Job::End => return,
            };
            let done = done.and_then(|()| if listings >= COUNT_EVERY { self.make_room() } else { Ok(()) });
            listings %= COUNT_EVERY;
            if let Err(error) = done {
                log::warn!("cache: the tree is not written down: {error}");
            }
        }
    }

    /// Writes a small listing down, unless it is the one that is there.
    fn keep(&self, folder: &str, names: &[Listed]) -> Result<()> {
        let (index, origin) = (&self.shared.index, &self.shared.view);
        let now = micros(SystemTime::now());
        if let Some(row) = index.current_listing(origin, folder)?
            && self.is_same(&row, names)?
        {
            return index.confirm_listing(row.listing_id, now);
        }
        let listing_id = index.begin_listing(origin, folder)?;
        for page in names.chunks(NAMES_PAGE) {
            index.add_names(listing_id, page)?;
        }
        let size_bytes = names.iter().map(size_of).fold(0, u64::saturating_add);
        let row = ListingRow { listing_id, listed_at: now, names: names.len() as u64, size_bytes };
        self.remove_unread(&index.finish_listing(&row, origin, folder)?);
        Ok(())
    }

    fn is_same(&self, row: &ListingRow, names: &[Listed]) -> Result<bool> {
        if row.names != names.len() as u64 {
            return Ok(false);
        }
        let mut after = None;
        for page in names.chunks(NAMES_PAGE) {
            if self.shared.index.listed_names(row.listing_id, after)? != page {
                return Ok(false);
            }
            after = page.last().map(|listed| &*listed.name);
        }
        Ok(true)
    }

    fn forget(&self, path: &str) -> Result<()> {
        let (folder, name) = split(path);
        self.shared.index.remove_stats(&self.shared.view, folder, &[name.into()])?;
        self.remove_unread(&self.shared.index.remove_folder(&self.shared.view, path)?);
        Ok(())
    }

    /// The oldest listings go until the rest is few enough.
    fn make_room(&self) -> Result<()> {
        loop {
            let (names, oldest) = self.shared.index.listed_in_all()?;
            let Some(oldest) = oldest.filter(|_| names > TREE_NAMES_MAX) else { return Ok(()) };
            self.shared.index.retire_listing(oldest)?;
            self.remove_unread(&[oldest]);
        }
    }

    /// Removes the names of listings that count no more and that nobody reads.
    fn remove_unread(&self, ids: &[i64]) {
        for id in ids {
            if let Err(error) = self.remove_if_unread(*id) {
                log::warn!("cache: an old listing stays until the next start: {error}");
            }
        }
    }

    fn remove_if_unread(&self, id: i64) -> Result<()> {
        {
            let mut read = self.read.lock();
            if read.get(&id).is_some_and(|listing| listing.strong_count() > 0) {
                return Ok(());
            }
            read.remove(&id);
            if self.shared.index.is_current_listing(id)? {
                return Ok(());
            }
            // From here on nobody can come to read it: it does not count.
        }
        while !self.is_ending.load(Ordering::Relaxed) && self.shared.index.remove_names(id)? {}
        Ok(())
    }
}

fn check_generation(shared: &Shared, generation: u64) -> Result<()> {
    if shared.index.generation() == generation {
        return Ok(());
    }
    Err(Error::new(
        Kind::Local,
        "a folder's names were lost with a damaged index of the cache: it is to be listed again",
    ))
}

fn noted(path: &str, stat: Stat) -> (String, String, Stat) {
    let (folder, name) = split(path);
    (folder.to_owned(), name.to_owned(), stat)
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn size_of(listed: &Listed) -> u64 {
    match listed.kind {
        ListedKind::File { size_bytes } => size_bytes.unwrap_or(0),
        ListedKind::Folder | ListedKind::Link { .. } => 0,
    }
}
