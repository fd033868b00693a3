//! A new index in the middle of a run, after another program damaged or removed the one in use: the drive goes on, and keeps
//! anew. Nothing of what the old index named is believed: without it, no hash tells whether bytes are right.
//! Never here: what counts as damage (see `index`).

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Sender, bounded};

use super::index::{EntryKey, micros};
use super::keeper::{Job, Written};
use super::{Entry, Shared, make_folder, owner, status, take_lock};
use crate::error::Result;
use crate::modes::Modes;
use crate::problems::Part;

/// A new index that can't be begun is tried again after so long: a disk that is full or read-only stays so for a while.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// A film that is opened waits so long for a new index; after that it is served without being kept.
const RENEWAL_MAX: Duration = Duration::from_secs(2);

impl Shared {
    /// Has the writer begin a new index if this one is damaged, and tells whether it is. Never waits.
    pub(super) fn renew_if_damaged(&self) -> bool {
        let is_damaged = self.index.is_damaged();
        if is_damaged {
            // Best effort: the writer looks before every job.
            let _ = self.queue.offer(Job::Renew);
        }
        is_damaged
    }

    /// Has the writer begin a new index, and waits for it a moment. `false`: there is none yet.
    pub(super) fn wait_for_renewal(&self) -> bool {
        let (done, wait) = bounded(1);
        // Before it is answered the writer comes to the index.
        self.queue.offer(Job::Flush(done)).is_ok() && wait.recv_timeout(RENEWAL_MAX).is_ok() && !self.index.is_damaged()
    }

    /// Begins a new index. Called by the writer thread only, so that nothing is written or evicted meanwhile.
    pub(super) fn renew(&self, written: &Sender<Written>) {
        if self.renewal_tried_at.lock().is_some_and(|at| at.elapsed() < RENEW_EVERY) {
            return;
        }
        *self.renewal_tried_at.lock() = Some(Instant::now());
        let (done, wait) = bounded(1);
        if written.send(Written::Forget(done)).is_ok() {
            let _ = wait.recv();
        }
        match self.begin_anew() {
            Ok(entries) => {
                // Over with the first row of the new one.
                self.metrics.problems.begins(
                    Part::CacheIndex,
                    "another program damaged or removed its index, which was set aside: what was cached is fetched again",
                );
                self.forget_data(&entries);
                *self.renewal_tried_at.lock() = None;
                self.cannot_record.store(false, Ordering::Relaxed);
            }
            Err(error) => {
                let problem = format!("nothing more is kept: no new index can be begun: {error}");
                self.metrics.problems.begins(Part::CacheIndex, problem);
                log::error!("cache: no new index can be begun: {error}; nothing more is kept until this mends");
                self.cannot_record.store(true, Ordering::Relaxed);
            }
        }
    }

    /// A new index, which knows the entries that are open.
    fn begin_anew(&self) -> Result<Vec<Arc<Entry>>> {
        let dir = &self.config.dir;
        // No entry comes to be meanwhile: it would be in neither index.
        let open = self.open.lock();
        if !self.lock.lock().is_at(dir) {
            // The folder was removed as a whole. Another process may have it for itself by now.
            make_folder(dir, Modes::OWNER)?;
            owner::check(dir)?;
            *self.lock.lock() = take_lock(dir)?;
            status::note_budget(dir, self.config.size_bytes);
        }
        self.index.renew()?;
        let now = micros(SystemTime::now());
        let entries: Vec<Arc<Entry>> = open.values().filter_map(Weak::upgrade).filter(|entry| entry.id > 0).collect();
        for entry in &entries {
            let stat = entry.stat();
            let key = EntryKey { origin: &self.origin, path: &entry.path, version: stat.version.as_str() };
            let adopted = self.index.adopt_entry(entry.id, &key, entry.size_bytes(), entry.chunk_size_bytes, now);
            adopted.unwrap_or_else(|error| log::warn!("cache: {} is lost to the new index: {error}", entry.path));
        }
        Ok(entries)
    }

    /// All data files go: those of the open `entries` are made anew, the others belong to no entry any longer.
    fn forget_data(&self, entries: &[Arc<Entry>]) {
        let removed = self.data.for_each(|entry_id| {
            // Others that the new index knows were made a moment ago.
            if entries.iter().any(|entry| entry.id == entry_id) || !self.index.has_entry(entry_id)? {
                self.remove_or_leave(entry_id);
            }
            Ok(())
        });
        removed.unwrap_or_else(|error| log::warn!("cache: old data stays until the next start: {error}"));
        for entry in entries {
            self.replace_data(entry);
        }
        self.lost.lock().clear();
        self.used_bytes.store(0, Ordering::Relaxed);
        self.pinned_bytes.store(0, Ordering::Relaxed);
    }
}
