//! What the kernel remembers of the drive and must not any longer: names, attributes, and that a name is not there.
//! Never here: telling it. That is done by a thread of its own, above: the kernel may make whoever tells it wait for a
//! lookup or a read in the same folder, which a thread that answers those must not.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use lru::LruCache;
use parking_lot::Mutex;

use super::NodeKind;
use super::inodes::Inodes;
use super::listing::{self, Listing};

/// Things to tell that wait; what is beyond is forgotten by the kernel itself when its time is up.
const STALE_MAX: usize = 65_536;
/// Names the kernel remembers as missing: a few side files for each of some thousand films. For one more, it is told to
/// forget the oldest.
const ABSENT_MAX: usize = 16_384;

/// The kernel takes a million in some seconds, one after the other.
const REFRESH_WAIT: Duration = Duration::from_secs(2);
/// So long a close waits until the kernel has forgotten what it replaces; longer only if a lookup in the same folder hangs.
const TOLD_WAIT: Duration = Duration::from_secs(1);

/// Something the kernel must not remember any longer.
#[derive(Debug)]
pub enum Stale {
    /// A name in the folder of this inode number, whether it was there or not.
    Name {
        /// The folder's number.
        folder: u64,
        /// The last component.
        name: Box<str>,
    },
    /// The attributes of an inode.
    Attributes(u64),
    /// Nothing: somebody waits until the kernel was told all that came before, and hears of it when this is dropped.
    Mark(Sender<()>),
}

/// The kernel, as far as the drive has to do with what it remembers.
pub(super) struct Kernel {
    inodes: Arc<Inodes>,
    sender: Sender<Stale>,
    receiver: Receiver<Stale>,
    // Names it remembers as missing, by folder. Taken alone.
    absent: Mutex<LruCache<(u64, Box<str>), ()>>,
}

impl Kernel {
    pub(super) fn new(inodes: &Arc<Inodes>) -> Self {
        let (sender, receiver) = bounded(STALE_MAX);
        Self { inodes: Arc::clone(inodes), sender, receiver, absent: Mutex::new(LruCache::unbounded()) }
    }

    /// Where what is to be told comes out.
    pub(super) fn stale(&self) -> Receiver<Stale> {
        self.receiver.clone()
    }

    /// The kernel will remember that `name` is not in `folder`.
    pub(super) fn remembers_absent(&self, folder: u64, name: &str) {
        let oldest = {
            let mut absent = self.absent.lock();
            absent.put((folder, name.into()), ());
            if absent.len() > ABSENT_MAX { absent.pop_lru() } else { None }
        };
        if let Some(((folder, name), ())) = oldest {
            self.tell(Stale::Name { folder, name });
        }
    }

    /// Where it knows too many files, it is to forget one. They are taken only as long as it takes news: each is told once.
    pub(super) fn forgets_one(&self) {
        if !self.sender.is_full()
            && let Some(path) = self.inodes.next_to_forget()
        {
            self.name_changed(&path);
        }
    }

    /// What is at `path` is another by now, or gone.
    pub(super) fn name_changed(&self, path: &str) {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        if let Some(folder) = self.inodes.number(folder).filter(|_| !name.is_empty()) {
            self.tell(Stale::Name { folder, name: name.into() });
        }
    }

    /// Returns when the kernel was told all that has changed until now, or does not take it in time. For none of the threads
    /// that answer it, and for nobody whom a change of names waits for.
    pub(super) fn wait_until_told(&self) {
        let (mark, told) = bounded(0);
        if self.sender.try_send(Stale::Mark(mark)).is_ok()
            && told.recv_timeout(TOLD_WAIT) == Err(RecvTimeoutError::Timeout)
        {
            log::debug!("the kernel takes its time: it may show for a moment what was there before");
        }
    }

    /// A folder was listed anew.
    pub(super) fn folder_changed(&self, folder: &str, old: Option<&Listing>, new: &Listing) {
        let Some(number) = self.inodes.number(folder) else { return };
        let changed: Vec<Box<str>> = match (old, new) {
            (Some(Listing::Small(old)), Listing::Small(new)) => listing::changed(old, new).map(Into::into).collect(),
            // What the kernel does not know it need not forget.
            _ => self.inodes.changed_in(folder, new),
        };
        if let (Some(Listing::Small(old)), Listing::Small(new)) = (old, new) {
            for listed in listing::retimed(old, new) {
                let path =
                    if folder.is_empty() { listed.name.to_string() } else { format!("{folder}/{}", listed.name) };
                if let Some(number) = self.inodes.retime(&path, listed.modified) {
                    self.tell(Stale::Attributes(number));
                }
            }
        }
        let appeared: Vec<Box<str>> = {
            let mut absent = self.absent.lock();
            let here = absent.iter().filter(|((folder, _), ())| *folder == number).map(|((_, name), ())| name.clone());
            let appeared: Vec<_> = here.filter(|name| !matches!(new.find(name), Ok(None))).collect();
            for name in &appeared {
                absent.pop(&(number, name.clone()));
            }
            appeared
        };
        for name in changed.into_iter().chain(appeared) {
            self.tell(Stale::Name { folder: number, name });
        }
    }

    /// Everything at `path` and below it is to be asked for anew. May wait for the kernel, so it is for none of the
    /// threads that answer it.
    pub(super) fn refresh(&self, path: &str) {
        let known = self.inodes.at_or_below(path).into_iter().filter_map(|(path, number, kind)| match kind {
            NodeKind::File => {
                let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
                Some(Stale::Name { folder: self.inodes.number(folder)?, name: name.into() })
            }
            // Forgetting a folder's name would take the ground from under whoever stands in it.
            NodeKind::Folder => Some(Stale::Attributes(number)),
        });
        // A path that is not there, too, may have come to be.
        let absent = std::mem::replace(&mut *self.absent.lock(), LruCache::unbounded());
        let absent = absent.into_iter().map(|((folder, name), ())| Stale::Name { folder, name });
        for stale in known.chain(absent) {
            if self.sender.send_timeout(stale, REFRESH_WAIT).is_err() {
                return log::warn!("the kernel takes no news: it shows what has changed when its time is up");
            }
        }
    }

    fn tell(&self, stale: Stale) {
        if self.sender.try_send(stale).is_err() {
            log::debug!("the kernel is told too much at once: it forgets some of it when its time is up");
        }
    }
}
