//! What the kernel holds on to: numbers it was told, and files it has open.
//! Never here: names, and what is in the files.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use foldhash::HashMap;
use parking_lot::Mutex;

use super::file::OpenFile;

/// Nodes the kernel knows.
#[derive(Default)]
pub(super) struct Inodes {
    // Guards all of it. Taken alone, for a look.
    known: Mutex<HashMap<u64, Inode>>,
    // Files that are open; counted under the lock.
    open: AtomicUsize,
}

#[derive(Default)]
struct Inode {
    /// How often the kernel was told of it.
    lookups: u64,
    /// How often it is open.
    opens: u64,
    /// There while it is open: all that is open of one node is one file.
    file: Option<Arc<OpenFile>>,
    /// Its last name is gone: when nobody holds on to it any more, it goes, too.
    is_unlinked: bool,
    /// Something that was written is lost: the kernel may hold pages of it for as long as it knows the node.
    has_lost: bool,
}

impl Inodes {
    /// The kernel is told of the node.
    pub fn remember(&self, node_id: u64) {
        self.known.lock().entry(node_id).or_default().lookups += 1;
    }

    /// The kernel forgets what it was told so many times. Whether the node is to be dropped.
    pub fn forget(&self, node_id: u64, lookups: u64) -> bool {
        self.change(node_id, |inode| inode.lookups = inode.lookups.saturating_sub(lookups))
    }

    /// The node's last name is gone. Whether it is to be dropped now.
    pub fn unlink(&self, node_id: u64) -> bool {
        let mut known = self.known.lock();
        let Some(inode) = known.get_mut(&node_id) else { return true };
        inode.is_unlinked = true;
        false
    }

    /// Opens the node once more; the first time with `new`.
    pub fn open(&self, node_id: u64, new: impl FnOnce() -> OpenFile) -> Arc<OpenFile> {
        let mut known = self.known.lock();
        let inode = known.entry(node_id).or_default();
        inode.opens += 1;
        let file = inode.file.get_or_insert_with(|| {
            self.open.fetch_add(1, Ordering::Relaxed);
            Arc::new(new())
        });
        Arc::clone(file)
    }

    /// How many nodes are open.
    pub fn open_count(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// The node, if it is open.
    pub fn file(&self, node_id: u64) -> Option<Arc<OpenFile>> {
        self.known.lock().get(&node_id)?.file.as_ref().map(Arc::clone)
    }

    /// Every node that is open.
    pub fn files(&self) -> Vec<Arc<OpenFile>> {
        self.known.lock().values().filter_map(|inode| inode.file.as_ref().map(Arc::clone)).collect()
    }

    /// Something that was written to the node is lost.
    pub fn lost(&self, node_id: u64) {
        if let Some(inode) = self.known.lock().get_mut(&node_id) {
            inode.has_lost = true;
        }
    }

    /// Whether something that was written to the node was lost, since the kernel knows it.
    pub fn has_lost(&self, node_id: u64) -> bool {
        self.known.lock().get(&node_id).is_some_and(|inode| inode.has_lost)
    }

    /// Whether it has no name any longer.
    pub fn is_unlinked(&self, node_id: u64) -> bool {
        self.known.lock().get(&node_id).is_some_and(|inode| inode.is_unlinked)
    }

    /// Closes the node once. Whether it is to be dropped; `None`, and nothing is closed, if this is the last time and the file
    /// is not clean: somebody changed it after whoever closes it had committed it.
    pub fn close(&self, node_id: u64, is_clean: impl FnOnce(&OpenFile) -> bool) -> Option<bool> {
        let (mut closed, mut is_refused) = (None, false);
        let is_to_go = self.change(node_id, |inode| {
            if inode.opens <= 1 {
                // What has no name goes without a commit.
                is_refused = !inode.is_unlinked && inode.file.as_ref().is_some_and(|file| !is_clean(file));
                if is_refused {
                    return;
                }
                closed = inode.file.take();
                self.open.fetch_sub(usize::from(closed.is_some()), Ordering::Relaxed);
            }
            inode.opens = inode.opens.saturating_sub(1);
        });
        if is_refused {
            return None;
        }
        // Files are closed on the disk without the lock.
        drop(closed);
        Some(is_to_go)
    }

    fn change(&self, node_id: u64, change: impl FnOnce(&mut Inode)) -> bool {
        let mut known = self.known.lock();
        let Some(inode) = known.get_mut(&node_id) else { return false };
        change(inode);
        if inode.lookups > 0 || inode.opens > 0 {
            return false;
        }
        let is_unlinked = inode.is_unlinked;
        known.remove(&node_id);
        is_unlinked
    }
}
