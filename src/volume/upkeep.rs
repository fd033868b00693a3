//! What is done behind the programs' backs: hashing what was written, commits that nobody asked for, blobs nobody needs,
//! and reading the catalog before somebody waits for it.
//! Never here: anything a program waits for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use parking_lot::Mutex;

use super::Shared;
use super::file::{OpenFile, SCRATCHES_KEPT};
use crate::error::{Error, Result};
use crate::library::catalog;

/// Names and attributes are durable after so long, unasked.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// What is written is committed after so long, unasked.
const COMMIT_AFTER: Duration = Duration::from_secs(5);
/// Whether a day has passed since the last backup is looked at so often.
const BACK_UP_CHECKED_EVERY: Duration = Duration::from_mins(10);
/// Chunks that wait to be hashed. Those that do not fit are hashed by the commit.
const JOBS_MAX: usize = 64;

/// The threads, until they are stopped.
pub(super) struct Upkeep {
    jobs: Option<Sender<Job>>,
    // Some blobs may have lost their last use.
    has_loose: Arc<AtomicBool>,
    // Dropped when they are to end.
    stops: Mutex<Option<Sender<()>>>,
    backup_stops: Mutex<Option<Sender<()>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// A chunk to be hashed; then, if there are many, chunks of the file become blobs.
struct Job {
    file: Weak<OpenFile>,
    number: u64,
    keeps: bool,
}

impl Upkeep {
    /// Of a volume that is only looked at.
    pub fn start_to_look(shared: &Arc<Shared>) -> Result<Self> {
        let (stops, stopped) = bounded(0);
        let has_loose = Arc::default();
        Ok(Self {
            jobs: None,
            has_loose,
            stops: Mutex::new(Some(stops)),
            backup_stops: Mutex::default(),
            threads: Mutex::new(vec![ahead(shared, stopped)?]),
        })
    }

    pub fn start(shared: &Arc<Shared>) -> Result<Self> {
        let (jobs, todo) = bounded(JOBS_MAX);
        let (stops, stopped) = bounded(0);
        // What the last writer left.
        let has_loose = Arc::new(AtomicBool::new(true));
        let hasher = {
            let (shared, stopped) = (Arc::clone(shared), stopped.clone());
            spawn("volume-hash", move || hash_on(&shared, &todo, &stopped))?
        };
        let keeper = {
            let (shared, has_loose, stopped) = (Arc::clone(shared), Arc::clone(&has_loose), stopped.clone());
            spawn("volume-keep", move || keep_on(&shared, &has_loose, &stopped))?
        };
        let threads = vec![hasher, keeper, ahead(shared, stopped)?];
        let (stops, backup_stops) = (Mutex::new(Some(stops)), Mutex::default());
        Ok(Self { jobs: Some(jobs), has_loose, stops, backup_stops, threads: Mutex::new(threads) })
    }

    /// A chunk was written to its end.
    pub fn hash(&self, file: &Arc<OpenFile>, number: u64, keeps: bool) {
        if let Some(jobs) = &self.jobs {
            // Full: the commit does it.
            let _ = jobs.try_send(Job { file: Arc::downgrade(file), number, keeps });
        }
    }

    /// Chunks that wait to be hashed.
    pub fn queued_chunks(&self) -> usize {
        self.jobs.as_ref().map_or(0, Sender::len)
    }

    /// Copies the catalog once a day from now on.
    pub fn back_up_daily(&self, shared: &Arc<Shared>) -> Result<()> {
        let (stops, stopped) = bounded::<()>(0);
        let shared = Arc::clone(shared);
        let thread = spawn("volume-backup", move || {
            loop {
                let made =
                    shared.catalog.flush().and_then(|()| catalog::daily(shared.catalog.dir(), SystemTime::now()));
                match made {
                    Ok(true) => log::info!("{}: its catalog was backed up", shared.catalog.dir().display()),
                    Ok(false) => {}
                    Err(error) => log::warn!("no daily backup of the catalog: {error}"),
                }
                if stopped.recv_timeout(BACK_UP_CHECKED_EVERY) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        })?;
        *self.backup_stops.lock() = Some(stops);
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Blobs may have lost their last use.
    pub fn sweep(&self) {
        self.has_loose.store(true, Ordering::Release);
    }

    /// Ends the threads, and waits for them.
    pub fn stop(&self) {
        drop((self.stops.lock().take(), self.backup_stops.lock().take()));
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    thread::Builder::new().name(name.into()).spawn(work).map_err(|error| Error::io("starting a thread", &error))
}

/// Has the catalog in memory soon, for who comes right after the mount.
fn ahead(shared: &Arc<Shared>, stopped: Receiver<()>) -> Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    spawn("volume-ahead", move || {
        let read = shared.catalog.read_ahead(|| stopped.try_recv() == Err(TryRecvError::Empty));
        let _ = read.inspect_err(|error| log::debug!("{error}"));
    })
}

fn hash_on(shared: &Shared, todo: &Receiver<Job>, stopped: &Receiver<()>) {
    loop {
        crossbeam_channel::select_biased! {
            recv(stopped) -> _ => return,
            recv(todo) -> job => {
                let Ok(job) = job else { return };
                let Some(file) = job.file.upgrade() else { continue };
                let disk = file.disk(&shared.catalog, &shared.blobs);
                let done = file.hash_chunk(&disk, job.number).and_then(|()| {
                    if job.keeps { file.keep_some(&disk, SCRATCHES_KEPT) } else { Ok(()) }
                });
                if let Err(error) = done {
                    // The commit meets it again, and tells the program.
                    log::debug!("node {}: {error}", file.node_id());
                }
            }
        }
    }
}

fn keep_on(shared: &Shared, has_loose: &AtomicBool, stopped: &Receiver<()>) {
    while stopped.recv_timeout(FLUSH_EVERY) == Err(RecvTimeoutError::Timeout) {
        for file in shared.inodes.files() {
            if file.is_older(COMMIT_AFTER) {
                match shared.commit(&file) {
                    Ok(_) => has_loose.store(true, Ordering::Release),
                    // Whoever closes it is told.
                    Err(error) => log::warn!("node {}: {error}", file.node_id()),
                }
            }
        }
        if let Err(error) = shared.catalog.flush() {
            log::debug!("{error}");
            continue;
        }
        if has_loose.swap(false, Ordering::AcqRel)
            && let Err(error) = sweep(shared, || stopped.try_recv() == Err(TryRecvError::Empty))
        {
            log::warn!("{error}");
        }
    }
}

/// Removes blobs that nobody needs any longer, until it is to stop.
pub(super) fn sweep(shared: &Shared, mut goes_on: impl FnMut() -> bool) -> Result<()> {
    let mut after = None;
    loop {
        let remove = |digest: &_| shared.blobs.remove_unless(*digest, || Ok(false));
        let (gone, next) = shared.catalog.sweep_loose(after.as_ref(), SystemTime::now(), remove)?;
        shared.figures.gc_blobs.add(gone.len() as u64);
        shared.figures.gc_bytes.add(gone.iter().map(|blob| blob.size_bytes).sum());
        if next.is_none() || !goes_on() {
            return Ok(());
        }
        after = next;
    }
}
