//! Pins: files that are never evicted, whatever wants their room. A pin is on a file, not on what is here of it: what
//! comes later is kept, too, and a new version takes the pin over.
//! Never here: which files a path names, and fetching.
//!
//! The room of a pinned file is its own from the start, though nothing of it may have been fetched yet; all others share
//! what is left (`room_bytes`). So what is pinned may be a part of the budget only, and a pin that does not fit is refused.

use std::sync::atomic::Ordering;

use super::evict::disk_is_full;
use super::index::EntryRow;
use super::upkeep::is_at_or_below;
use super::{Cache, Entry, Shared};
use crate::config::format_size;
use crate::error::{Error, Kind, Result};
use crate::problems::Part;
use crate::store::Stat;

/// All but so much of the budget may be pinned: a quarter is left to what is played beside it.
const UNPINNED_SHARE: u64 = 4;

/// What is pinned of a cache, or was just pinned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pinned {
    /// Files.
    pub files: u64,
    /// Their sizes, whatever is here of them.
    pub bytes: u64,
    /// Of them, what is here.
    pub cached_bytes: u64,
}

impl Cache {
    /// Pins these versions of files: all, or, when they don't fit, none (`Full`). `named` is what a person called them.
    pub fn pin(&self, named: &str, files: &[(String, Stat)]) -> Result<Pinned> {
        let shared = &self.shared;
        let _one = shared.pinning.lock();
        let (mut pinned, mut new_bytes) = (Pinned::default(), 0_u64);
        for (path, stat) in files {
            pinned.files += 1;
            pinned.bytes = pinned.bytes.saturating_add(stat.size_bytes);
            // An older version's room passes on to this one.
            new_bytes = new_bytes.saturating_add(stat.size_bytes).saturating_sub(self.pinned_size(path)?);
        }
        let (there, most) = (shared.index.pinned_bytes()?, shared.pinned_max_bytes());
        if there.saturating_add(new_bytes) > most {
            return Err(Error::new(
                Kind::Full,
                format!(
                    "{named}: {} can't be pinned: {} are already, of {} that may be: raise --cache-size, or unpin something",
                    format_size(pinned.bytes),
                    format_size(there),
                    format_size(most),
                ),
            ));
        }
        let mut new_ids = Vec::new();
        let done = files.iter().try_for_each(|(path, stat)| {
            pinned.cached_bytes += self.pin_one(path, stat, &mut new_ids)?;
            Ok(())
        });
        if done.is_err() {
            for entry_id in new_ids {
                if let Err(error) = shared.index.set_pinned(entry_id, false) {
                    log::warn!("cache: a file of {named} stays pinned: {error}");
                }
            }
        }
        // Once for all of them: it sums up all pins.
        let counted = shared.count_pinned();
        done.and(counted).map(|()| pinned)
    }

    /// Pins one file, and notes it in `new_ids` if it was not pinned; the bytes that are here of it.
    fn pin_one(&self, path: &str, stat: &Stat, new_ids: &mut Vec<i64>) -> Result<u64> {
        // Open until it is pinned, so that nobody drops it as empty.
        let entry = self.entry(path, stat)?;
        if !entry.is_kept() {
            return Err(Error::new(Kind::Full, format!("{path}: the cache has no place for it: see the mount's log")));
        }
        if !self.is_pinned(&entry)? {
            new_ids.push(entry.id);
            self.shared.index.set_pinned(entry.id, true)?;
        }
        Ok(self.shared.index.held(entry.id)?.1)
    }

    /// Takes the pins of a file, or of all below a folder, back; what is here of them is evicted by age again. `Missing`:
    /// nothing is pinned there.
    pub fn unpin(&self, path: &str) -> Result<Pinned> {
        let mut unpinned = Pinned::default();
        let _one = self.shared.pinning.lock();
        self.shared.for_each_entry(|entry| {
            if entry.pinned && is_at_or_below(&entry.path, path) {
                self.shared.index.set_pinned(entry.entry_id, false)?;
                unpinned.files += 1;
                unpinned.bytes += entry.size_bytes;
                unpinned.cached_bytes += self.shared.index.held(entry.entry_id)?.1;
            }
            Ok(())
        })?;
        self.shared.count_pinned()?;
        if unpinned.files == 0 {
            let named = if path.is_empty() { "on this drive" } else { path };
            let message = format!("nothing is pinned {named}: `reelfs cache status` shows what is");
            return Err(Error::new(Kind::Missing, message));
        }
        Ok(unpinned)
    }

    /// Whether this very version is pinned.
    pub fn is_pinned(&self, entry: &Entry) -> Result<bool> {
        self.shared.index.is_pinned(entry.id)
    }

    /// The size of the pinned version of `path`; 0 if none is.
    pub fn pinned_size(&self, path: &str) -> Result<u64> {
        let versions = self.shared.versions(path)?;
        Ok(versions.iter().filter(|version| version.pinned).map(|version| version.size_bytes).max().unwrap_or(0))
    }

    /// What all files that are not pinned share of the budget.
    pub fn room_bytes(&self) -> u64 {
        self.shared.room_bytes()
    }

    /// Of it, what the disk has as well: what they hold now, and what others leave free.
    pub fn room_on_disk(&self) -> Result<Room> {
        let shared = &self.shared;
        let held = self.used_bytes().saturating_sub(shared.index.pinned_held_bytes()?);
        let (free, min_free) = (shared.free_bytes(), shared.config.min_free_bytes);
        let on_disk = held.saturating_add(free.saturating_sub(min_free));
        let budget = shared.room_bytes();
        if budget <= on_disk {
            return Ok(Room { bytes: budget, limit: "raise --cache-size, or take less at a time".into() });
        }
        Ok(Room { bytes: on_disk, limit: disk_is_full(&shared.config.dir.display().to_string(), free, min_free) })
    }

    /// Why nothing is kept at the moment, for a person; `None`: all is well.
    pub fn why_nothing_is_kept(&self) -> Option<String> {
        let problems = &self.shared.metrics.problems;
        [Part::CacheRoom, Part::CacheIndex]
            .into_iter()
            .find_map(|part| problems.of(part))
            .map(|noticed| noticed.message)
    }
}

/// How much can be kept, and what a person can do if that is too little.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes.
    pub bytes: u64,
    /// What limits it, and what to do.
    pub limit: String,
}

impl Shared {
    fn pinned_max_bytes(&self) -> u64 {
        self.budget_bytes() - self.budget_bytes() / UNPINNED_SHARE
    }

    pub(super) fn room_bytes(&self) -> u64 {
        self.budget_bytes().saturating_sub(self.pinned_bytes.load(Ordering::Relaxed))
    }

    /// The index has changed in what is pinned.
    pub(super) fn count_pinned(&self) -> Result<()> {
        self.pinned_bytes.store(self.index.pinned_bytes()?, Ordering::Relaxed);
        Ok(())
    }

    /// `old` is pinned, and its file has the version `new` by now: the pin goes over, if the new one fits.
    pub(super) fn pass_pin_on(&self, old: &EntryRow, new: &Entry) -> Result<()> {
        if !new.is_kept() {
            return Ok(());
        }
        self.index.pass_pin_on(old.entry_id, new.id)?;
        self.unpin_beyond_budget(new)
    }

    /// The file of `new` has another size than it had: if it was pinned and there is no room for so much, it is not any longer.
    pub(super) fn unpin_beyond_budget(&self, new: &Entry) -> Result<()> {
        if self.index.pinned_bytes()? > self.pinned_max_bytes() {
            let (size, path) = (format_size(new.size_bytes()), new.path());
            log::warn!("{path} has changed, has {size} now, and is pinned no longer: too much would be");
            self.index.set_pinned(new.id, false)?;
        }
        self.count_pinned()
    }

    /// With a budget that shrank, pins that don't fit any longer are taken back: the budget is hard.
    pub(super) fn drop_pins_beyond_budget(&self) -> Result<()> {
        let mut pinned_bytes = 0_u64;
        self.for_each_entry(|entry| {
            if entry.pinned && pinned_bytes.saturating_add(entry.size_bytes) > self.pinned_max_bytes() {
                log::warn!("{} is pinned no longer: --cache-size has no room for it", entry.path);
                return self.index.set_pinned(entry.entry_id, false);
            }
            pinned_bytes += if entry.pinned { entry.size_bytes } else { 0 };
            Ok(())
        })?;
        self.count_pinned()
    }
}
