//! An entry whose file grows, as a recording does: it stands for longer and longer versions, and keeps what it holds.
//! Never here: how growth is told from replacement (see `fetch/growth.rs`).
//!
//! Invariant: what an entry holds is a prefix of the version that it stands for. Where only the old end was seen to be the
//! same, the entry goes on standing for what it was: its bytes come from the later version, and no new open finds them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::index::EntryKey;
use super::{Cache, Entry};
use crate::error::{Error, Result};
use crate::store::{Stat, Version};

/// Versions of a growing file that are still known: a listing, or an answer that was on its way, may be some appends old.
const EARLIER_MAX: usize = 64;

/// What an entry stands for, and what is asked for in its name.
pub(super) struct States {
    /// What the entry stands for.
    pub(super) own: Stat,
    /// The file at the origin as it was last seen: `own`, or a longer one that begins with it.
    asked: Stat,
    /// The last bytes of `own`, where they were told with it: by them the file is known again when it has grown. A block.
    end: Option<Arc<[u8]>>,
    /// What it stood for before, the latest last.
    earlier: VecDeque<Version>,
    /// A later state that it can't stand for, though that begins with the same bytes, or has the old end.
    refused: Option<Version>,
    /// What it had at first.
    first_size_bytes: u64,
    grew_at: Option<Instant>,
}

impl States {
    pub(super) fn new(stat: &Stat) -> Self {
        Self {
            own: stat.clone(),
            asked: stat.clone(),
            end: None,
            earlier: VecDeque::new(),
            refused: None,
            first_size_bytes: stat.size_bytes,
            grew_at: None,
        }
    }
}

impl Entry {
    /// The state of the file that its bytes are asked for in: its own, or a later one that begins with the same bytes.
    pub fn asked(&self) -> Stat {
        self.states.lock().asked.clone()
    }

    /// From now on its bytes are asked for in the state `now`, which begins with them.
    pub fn ask_in(&self, now: &Stat) {
        let mut states = self.states.lock();
        (states.asked, states.grew_at) = (now.clone(), Some(Instant::now()));
    }

    /// The last bytes of what it stands for, if they were told.
    pub fn end(&self) -> Option<Arc<[u8]>> {
        self.states.lock().end.clone()
    }

    /// These are the last bytes of `version`, if it stands for that.
    pub fn ends_with(&self, version: &Version, bytes: &[u8]) {
        let mut states = self.states.lock();
        if states.own.version == *version {
            states.end = Some(bytes.into());
        }
    }

    /// Whether its file was seen to grow.
    pub fn grows(&self) -> bool {
        let states = self.states.lock();
        !states.earlier.is_empty() || states.asked != states.own
    }

    /// It can't stand for this state of the file: its bytes are asked for in it all the same.
    pub fn refuse(&self, now: &Stat) {
        self.states.lock().refused = Some(now.version.clone());
        self.ask_in(now);
    }

    /// Whether it was found that it can't stand for this state.
    pub fn has_refused(&self, version: &Version) -> bool {
        self.states.lock().refused.as_ref() == Some(version)
    }

    /// Whether it was seen to grow within the last `lately`.
    pub fn grew_lately(&self, lately: Duration) -> bool {
        self.states.lock().grew_at.is_some_and(|at| at.elapsed() <= lately)
    }

    /// Whether it stands for this version, or did before it grew.
    pub fn is_or_was(&self, version: &Version) -> bool {
        let states = self.states.lock();
        states.own.version == *version || states.earlier.contains(version)
    }

    /// Whether it has this size, or may have had it before it grew.
    pub fn has_or_had(&self, size_bytes: u64) -> bool {
        let states = self.states.lock();
        (states.first_size_bytes..=states.own.size_bytes).contains(&size_bytes)
    }
}

impl Cache {
    /// The file of `entry` was `was` and is `now`, which is longer, begins with the same bytes, and ends with `end`: the entry stands for `now`
    /// from here on, and keeps what it holds. `false`: it goes on as it was, as another entry stands for `now`, or the kernel
    /// reads its data file by itself.
    pub fn grow(&self, entry: &Entry, was: &Stat, now: &Stat, end: &[u8]) -> Result<bool> {
        let shared = &self.shared;
        // Held: nobody finds an entry of either version meanwhile, or lends this one.
        let open = shared.open.lock();
        if *was != entry.stat() || now.size_bytes < was.size_bytes {
            return Ok(false);
        }
        // Before the pin is looked at, as `backing` pins before it looks at the size for the last time.
        entry.size_bytes.store(now.size_bytes, Ordering::Release);
        let key = EntryKey { origin: &shared.origin, path: &entry.path, version: now.version.as_str() };
        let is_free = !shared.hot.is_pinned(entry.id);
        let grown = if is_free && entry.is_kept() {
            shared.index.grow_entry(entry.id, &key, now.size_bytes)
        } else {
            Ok(is_free)
        };
        if !matches!(grown, Ok(true)) {
            entry.size_bytes.store(was.size_bytes, Ordering::Release);
            return grown;
        }
        {
            let mut states = entry.states.lock();
            if states.earlier.len() == EARLIER_MAX {
                states.earlier.pop_front();
            }
            states.earlier.push_back(was.version.clone());
            states.grew_at = Some(Instant::now());
            (states.own, states.asked, states.end) = (now.clone(), now.clone(), Some(end.into()));
        }
        if entry.is_kept() {
            let lengthened = shared.lengthen(entry.id, &entry.data(), now.size_bytes);
            lengthened.map_err(|error| Error::io(format!("the cached data of {}", entry.path), &error))?;
        }
        drop(open);
        shared.unpin_beyond_budget(entry)?;
        Ok(true)
    }
}
