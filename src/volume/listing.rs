//! Open folders, read name by name.
//! Never here: how names are made and moved.

use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::HashMap;
use parking_lot::Mutex;

use super::Volume;
use crate::library::catalog::Entry;
use crate::refusal::Outcome;

/// Who reads a folder, and how far they will get.
#[derive(Default)]
pub(super) struct Listings {
    // The last name of each reader's folder when they began: who reads on while others give names comes to an end all the
    // same. As many as programs have folders open. Taken alone, for a look.
    last: Mutex<HashMap<u64, u64>>,
    opened: AtomicU64,
}

impl Volume {
    /// A number for one more reader of a folder, until [`Volume::close_folder`].
    pub fn open_folder(&self) -> u64 {
        let handle = self.shared.listings.opened.fetch_add(1, Ordering::Relaxed) + 1;
        self.shared.listings.last.lock().insert(handle, u64::MAX);
        handle
    }

    /// A reader begins with the folder's first name, once more perhaps: names given until now are among what they find.
    pub fn begin_folder(&self, handle: u64, folder: u64) -> Outcome<()> {
        let last = self.shared.catalog.read(|view| view.last_name_id(folder))?;
        self.shared.listings.last.lock().insert(handle, last);
        Ok(())
    }

    /// Names of a folder given after the one with `after`, and before the reader began, in the order they were given; a page
    /// of them, none at the end.
    pub fn entries(&self, handle: u64, folder: u64, after: u64) -> Outcome<Vec<Entry>> {
        let last = self.shared.listings.last.lock().get(&handle).copied().unwrap_or(u64::MAX);
        let entries = self.shared.catalog.read(|view| view.entries(folder, after, last))?;
        entries.into_iter().map(|entry| Ok(Entry { node: self.current(entry.node)?, ..entry })).collect()
    }

    /// A reader is done.
    pub fn close_folder(&self, handle: u64) {
        self.shared.listings.last.lock().remove(&handle);
    }
}
