//! One file or folder that the kernel knows: what is known of its version, and how that follows a file that grows.
//! Never here: numbers and names (see `inodes`), and the origin.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Mutex, MutexGuard};

use super::times;
use crate::cache::Entry;
use crate::origin::{Listed, ListedKind, Stat};

/// A file or folder the kernel knows.
pub struct Node {
    /// Its number.
    pub ino: u64,
    /// Relative to the source; `""` is the top.
    pub path: Arc<str>,
    /// What it is.
    pub kind: NodeKind,
    // Guards what is known of the version. The entry's own lock is taken within it.
    pub(super) known: Mutex<Known>,
    // What is open of it. Of a file that grows, what is known follows what the entry stands for. Taken alone, or before `known`.
    open: Mutex<Open>,
}

/// The entry of an open file.
#[derive(Default)]
struct Open {
    entry: Weak<Entry>,
    // When it was looked last whether the file has grown.
    looked_at: Option<Instant>,
    // The kernel may hold pages of it, as it was opened through the page cache or lent: then its size must not change, as the
    // last page would be zeros where more has come. For good: pages outlive the last close.
    is_in_page_cache: bool,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A folder.
    Folder,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
}

/// What is known of a file; more with time, never something else.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) listed_size_bytes: Option<u64>,
    pub(super) listed_modified: Option<SystemTime>,
    pub(super) stat: Option<Stat>,
    /// The time was set through the drive: the stat's counts, whatever a listing of before tells.
    pub(super) is_time_set: bool,
    /// Bytes of the version may have been shown.
    pub(super) was_opened: bool,
}

impl Node {
    pub(super) fn new(ino: u64, path: Arc<str>, kind: NodeKind, known: Known) -> Self {
        Self { ino, path, kind, known: Mutex::new(known), open: Mutex::default() }
    }

    /// Decides how the next open is served: past the page cache (`true`), so that the file may grow under it, if it `may_grow` or
    /// is open so already; else through the page cache.
    pub(super) fn opens_past_page_cache(&self, may_grow: bool) -> bool {
        let mut open = self.open.lock();
        let goes_past = (may_grow || open.entry.strong_count() > 0) && !open.is_in_page_cache;
        open.is_in_page_cache |= !goes_past;
        goes_past
    }

    /// The kernel knows the number from before, and may hold pages of it.
    pub(super) fn is_known_to_kernel(&self) {
        self.open.lock().is_in_page_cache = true;
        self.known.lock().was_opened = true;
    }

    /// The file is open as this entry, past the page cache, and may grow with it.
    pub(super) fn opened_as(&self, entry: &Arc<Entry>) {
        let mut open = self.open.lock();
        (open.entry, open.looked_at) = (Arc::downgrade(entry), Some(Instant::now()));
    }

    /// What it is open as.
    pub fn open_entry(&self) -> Option<Arc<Entry>> {
        self.open.lock().entry.upgrade()
    }

    /// Whether nobody has looked for so long whether the open file has grown. Then the caller does.
    pub fn is_to_be_looked_at(&self, every: Duration) -> bool {
        let mut open = self.open.lock();
        let is_due = open.entry.strong_count() > 0 && open.looked_at.is_none_or(|at| at.elapsed() >= every);
        if is_due {
            open.looked_at = Some(Instant::now());
        }
        is_due
    }

    /// What is known by now.
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        let entry = self.open_entry().filter(|entry| entry.grows());
        let mut known = self.known.lock();
        if let (Some(entry), Some(stat)) = (entry, &mut known.stat) {
            *stat = entry.stat();
            (known.listed_size_bytes, known.listed_modified) = (None, None);
        }
        known
    }

    /// A listing, and a stat, of an open file that may be of another moment while it grows: what is known is told in their
    /// place, and whether it has grown is looked at later. `None`: they can't be, or are of this moment.
    pub(super) fn in_growth(&self, listed: &Listed, stat: Option<&Stat>) -> Option<(Listed, Stat)> {
        let entry = self.open_entry()?;
        let own = entry.stat();
        let size = size_of(listed).filter(|size| *size != own.size_bytes || entry.grows())?;
        let is_listed_so = size > own.size_bytes || entry.has_or_had(size);
        let is_stat_so = stat.is_none_or(|stat| stat.size_bytes > own.size_bytes || entry.is_or_was(&stat.version));
        let kind = ListedKind::File { size_bytes: Some(own.size_bytes) };
        (is_listed_so && is_stat_so).then(|| (Listed { name: listed.name.clone(), kind, modified: None }, own))
    }

    /// The size, as far as it is known.
    pub fn size_bytes(&self) -> Option<u64> {
        let known = self.known();
        known.stat.as_ref().map(|stat| stat.size_bytes).or(known.listed_size_bytes)
    }

    /// The time of the last change, as far as it is known.
    pub fn modified(&self) -> Option<SystemTime> {
        let known = self.known();
        let exact = known.stat.as_ref().and_then(|stat| stat.modified);
        if known.is_time_set && exact.is_some() { exact } else { times::shown(known.listed_modified, exact) }
    }

    /// The version, once it is known.
    pub fn stat(&self) -> Option<Stat> {
        self.known().stat.clone()
    }

    /// Ties the node to the version `stat`, to be opened as that. `false`: it stands for another one. A node that was never
    /// opened takes a longer one than is known: the file has grown since, and no byte of it was shown.
    pub fn bind_to_open(&self, stat: &Stat) -> bool {
        let mut known = self.known();
        let size_bytes = known.stat.as_ref().map(|stat| stat.size_bytes).or(known.listed_size_bytes);
        if !known.was_opened && size_bytes.is_some_and(|known| known < stat.size_bytes) {
            *known = Known::default();
        }
        let is_bound = known.bind(stat);
        known.was_opened |= is_bound;
        is_bound
    }

    /// Ties the node to the version `stat`. `false`: it stands for another one.
    pub fn bind(&self, stat: &Stat) -> bool {
        self.known().bind(stat)
    }

    /// The time of the last change was set; the bytes are the same.
    pub fn set_modified(&self, modified: SystemTime) {
        let mut known = self.known.lock();
        match &mut known.stat {
            Some(stat) => stat.modified = Some(modified),
            None => known.listed_modified = Some(modified),
        }
        known.is_time_set = true;
    }
}

impl Known {
    fn bind(&mut self, stat: &Stat) -> bool {
        if !self.agrees(None, Some(stat)) {
            return false;
        }
        self.stat = Some(stat.clone());
        true
    }

    /// Tells versions apart, as far as they are known.
    pub(super) fn digest(&self) -> u32 {
        let mut hasher = DefaultHasher::new();
        let version = self.stat.as_ref().map(|stat| (stat.size_bytes, stat.modified, stat.version.to_string()));
        (self.listed_size_bytes, self.listed_modified, version).hash(&mut hasher);
        hasher.finish() as u32
    }

    /// Whether a listing, and a stat, can be of the same version. Listings are compared with listings, as their times
    /// are coarser than a stat's; sizes with any.
    pub(super) fn agrees(&self, listed: Option<&Listed>, stat: Option<&Stat>) -> bool {
        let listed_size = listed.and_then(size_of);
        let sizes = [
            self.listed_size_bytes,
            self.stat.as_ref().map(|stat| stat.size_bytes),
            listed_size,
            stat.map(|stat| stat.size_bytes),
        ];
        let mut sizes = sizes.into_iter().flatten();
        let first = sizes.next();
        let same_time = match (self.listed_modified, listed.and_then(|listed| listed.modified)) {
            (Some(old), Some(new)) => old == new,
            _ => true,
        };
        let same_version = match (&self.stat, stat) {
            (Some(old), Some(new)) => old.version == new.version,
            _ => true,
        };
        sizes.all(|size| Some(size) == first) && same_time && same_version
    }
}

/// The size that a listing tells.
pub(super) fn size_of(listed: &Listed) -> Option<u64> {
    match listed.kind {
        ListedKind::Folder => None,
        ListedKind::File { size_bytes } | ListedKind::Link { size_bytes } => size_bytes,
    }
}
