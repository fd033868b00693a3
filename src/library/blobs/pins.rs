//! Who holds on to which blobs: files on their way in, whose rows are not committed yet.
//! Never here: files on the disk.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::digest::Digest;

/// How each blob that somebody is busy with is held.
#[derive(Default)]
pub(super) struct Pins {
    // Never held across I/O. A blob is not in here, or held by so many, or going.
    held: Mutex<HashMap<Digest, Hold>>,
    gone: Condvar,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hold {
    By(usize),
    /// Somebody looks whether it is needed, and removes it if not. Short: everyone who wants it waits.
    Going,
}

/// A blob that stays as long as this lives.
pub struct Pinned {
    pins: Arc<Pins>,
    digest: Digest,
}

/// A blob that nobody can take hold of as long as this lives.
pub(super) struct Going {
    pins: Arc<Pins>,
    digest: Digest,
}

impl Pins {
    pub fn pin(pins: &Arc<Self>, digest: Digest) -> Pinned {
        let mut held = pins.held.lock();
        while held.get(&digest) == Some(&Hold::Going) {
            pins.gone.wait(&mut held);
        }
        if let Hold::By(count) = held.entry(digest).or_insert(Hold::By(0)) {
            *count += 1;
        }
        drop(held);
        Pinned { pins: Arc::clone(pins), digest }
    }

    /// How many are held.
    pub fn count(&self) -> usize {
        self.held.lock().len()
    }

    /// Nothing if somebody holds on to it.
    pub fn try_remove(pins: &Arc<Self>, digest: Digest) -> Option<Going> {
        let mut held = pins.held.lock();
        if held.contains_key(&digest) {
            return None;
        }
        held.insert(digest, Hold::Going);
        drop(held);
        Some(Going { pins: Arc::clone(pins), digest })
    }
}

impl Pinned {
    /// Whose.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut held = self.pins.held.lock();
        if let Some(Hold::By(count)) = held.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.digest);
            }
        }
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        self.pins.held.lock().remove(&self.digest);
        self.pins.gone.notify_all();
    }
}
