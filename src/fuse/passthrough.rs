//! How each open file is served: by requests to the drive, through the kernel's page cache or past it, or by the kernel
//! itself from a cached file it was lent.
//! Never here: which files may be lent (the cache knows), and what a request means.
//!
//! The kernel's rule (fs/fuse/iomode.c, Linux 6.9): opens of one inode that overlap in time are all of one way, and all
//! lent ones of one file. An open is counted before its reply goes out, and a release is heard after the kernel's own
//! count went down: so what is counted here is never less than what the kernel has open, and no reply breaks the rule.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{BackingId, FileHandle, FopenFlags, ReplyOpen};
use parking_lot::Mutex;

use crate::cache::Backing;

/// `CAP_SYS_ADMIN`, by its number in linux/capability.h: without it the kernel takes no file.
const CAP_SYS_ADMIN: u32 = 21;

/// The ways of all open files of one mount.
pub(super) struct Passthrough {
    // Goes off, never on again, when the kernel refuses.
    is_on: AtomicBool,
    // Whether a file can be read past the page cache, and mapped all the same.
    can_go_past: AtomicBool,
    // Guards the map, and that no two opens of one inode are decided at once. The kernel is told within it.
    ways: Mutex<Ways<Lent>>,
}

/// What the kernel holds of an entry. The number goes before the pin: as long as it is valid, the bytes stay.
struct Lent {
    id: BackingId,
    backing: Backing,
}

/// The file that the kernel reads for an inode was changed by another program, or removed.
struct Stale;

/// By inode number: how many opens there are, and what they all share if they are lent ones.
struct Ways<L>(HashMap<u64, (u64, Option<Arc<L>>)>);

impl<L> Ways<L> {
    /// Counts one more open. The first one decides for all that overlap with it: `lend` if it can. `Err`, and nothing is
    /// counted: what they share is not right any longer.
    fn open(
        &mut self,
        ino: u64,
        is_right: impl FnOnce(&L) -> bool,
        lend: impl FnOnce() -> Option<L>,
    ) -> Result<Option<Arc<L>>, Stale> {
        let way = match self.0.entry(ino) {
            Entry::Occupied(way) if way.get().1.as_ref().is_some_and(|lent| !is_right(lent)) => return Err(Stale),
            Entry::Occupied(way) => way.into_mut(),
            Entry::Vacant(way) => way.insert((0, lend().map(Arc::new))),
        };
        way.0 += 1;
        Ok(way.1.clone())
    }

    /// Whether there is one open of `ino`, and no more.
    fn is_only(&self, ino: u64) -> bool {
        self.0.get(&ino).is_some_and(|(opens, _)| *opens == 1)
    }

    /// Counts one less; what was lent is returned with the last.
    fn release(&mut self, ino: u64) -> Option<Arc<L>> {
        let Entry::Occupied(mut way) = self.0.entry(ino) else { return None };
        way.get_mut().0 -= 1;
        if way.get().0 == 0 { way.remove().1 } else { None }
    }
}

impl Passthrough {
    /// Nothing is open. Off until the kernel has agreed.
    pub(super) fn new() -> Self {
        Self {
            is_on: AtomicBool::new(false),
            can_go_past: AtomicBool::new(false),
            ways: Mutex::new(Ways(HashMap::new())),
        }
    }

    /// The kernel has agreed to it for this mount.
    pub(super) fn turn_on(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// The kernel maps files that are read past its page cache (Linux 6.6).
    pub(super) fn may_go_past(&self) {
        self.can_go_past.store(true, Ordering::Relaxed);
    }

    /// Whether files can be read past the page cache, and mapped all the same.
    pub(super) fn can_go_past(&self) -> bool {
        self.can_go_past.load(Ordering::Relaxed)
    }

    /// Whether files are lent.
    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Answers an open of `ino`; `is_direct` as the program asked for `O_DIRECT`. `goes_past`: past the page cache,
    /// as nothing should be read ahead of it, not by the kernel either, or as it may grow. `give` passes bytes of the file on to the kernel's page cache: it runs where no other
    /// open of the file is answered or under way, so that no read of it holds a page. To wait for such a page would be to wait
    /// for the drive's own answer, and a killed drive would never end.
    /// The reply comes back where the file that the kernel was lent for `ino` was changed
    /// since by another program: as long as that is open, this inode number can't be opened in another way.
    pub(super) fn reply(
        &self,
        ino: u64,
        handle: u64,
        (is_direct, goes_past): (bool, bool),
        backing: Option<Backing>,
        give: impl FnOnce(),
        reply: ReplyOpen,
    ) -> Result<(), ReplyOpen> {
        let is_right = |lent: &Lent| lent.backing.is_unchanged();
        let mut ways = self.ways.lock();
        let lent = ways.open(ino, is_right, || {
            // Through the drive, such reads need no alignment; the disk's own would.
            let backing = backing.filter(|_| !is_direct)?;
            match reply.open_backing(&backing) {
                Ok(id) => {
                    backing.used();
                    Some(Lent { id, backing })
                }
                Err(error) => {
                    self.is_on.store(false, Ordering::Relaxed);
                    log::info!("passthrough: off from now on, the kernel does not take a cached file: {error}");
                    None
                }
            }
        });
        let Ok(lent) = lent else { return Err(reply) };
        if lent.is_none() && ways.is_only(ino) {
            give();
        }
        drop(ways);
        match lent {
            Some(lent) => {
                // An open that the rule binds to the others, though it would rather ask the drive: it may, for reads.
                let flags = if is_direct { FopenFlags::FOPEN_DIRECT_IO } else { FopenFlags::empty() };
                reply.opened_passthrough(FileHandle(handle), flags, &lent.id);
            }
            // An inode number is one version: what the kernel kept of it is what it would read again.
            None if goes_past && self.can_go_past() => {
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_DIRECT_IO);
            }
            None => reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE),
        }
        Ok(())
    }

    /// An open of `ino` was closed.
    pub(super) fn release(&self, ino: u64) {
        let returned = self.ways.lock().release(ino);
        // Outside the lock: the kernel is told, and the cache.
        drop(returned);
    }
}

/// Whether the kernel takes files from this process.
pub fn is_privileged() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| has_capability(&status, CAP_SYS_ADMIN))
}

/// Whether the effective set of a `/proc/PID/status` holds a capability.
fn has_capability(status: &str, number: u32) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|set| set >> number & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_that_overlap_are_all_of_one_way() {
        let mut ways = Ways(HashMap::new());
        let open = |ways: &mut Ways<&'static str>, ino, lend: Option<&'static str>| {
            let opened = ways.open(ino, |_| true, || lend);
            opened.unwrap_or_else(|Stale| panic!("all is right")).as_deref().copied()
        };
        assert_eq!(open(&mut ways, 1, None), None);
        assert_eq!(open(&mut ways, 1, Some("too late")), None, "the first has decided");
        assert!(!ways.is_only(1) && !ways.is_only(2));
        assert_eq!(open(&mut ways, 2, Some("two")), Some("two"));
        assert!(ways.is_only(2));
        assert_eq!(open(&mut ways, 2, Some("another")), Some("two"), "one file for all");
        assert!(ways.release(1).is_none() && ways.release(2).is_none());
        assert_eq!(open(&mut ways, 1, Some("one")), None, "one is open still");
        assert!(ways.release(1).is_none() && ways.release(1).is_none());
        assert_eq!(open(&mut ways, 1, Some("one")), Some("one"), "closed meanwhile: decided anew");
        assert_eq!(ways.release(2).as_deref(), Some(&"two"), "the last one gives it back");
        assert!(ways.release(2).is_none(), "never opened");
    }

    #[test]
    fn lent_file_that_another_program_changed_is_not_opened_again() {
        let mut ways = Ways(HashMap::new());
        assert!(ways.open(1, |_| unreachable!("nothing is lent yet"), || Some("film")).is_ok());
        assert!(ways.open(1, |_| false, || Some("film")).is_err());
        assert_eq!(ways.release(1).as_deref(), Some(&"film"), "the refused open does not count");
        assert!(ways.open(1, |_| false, || Some("film as it is now")).is_ok());
    }

    #[test]
    fn the_effective_set_decides() {
        let status = |set| format!("Name:\treelfs\nCapPrm:\tffffffffffffffff\nCapEff:\t{set}\nCapBnd:\t0\n");
        assert!(has_capability(&status("000001ffffffffff"), CAP_SYS_ADMIN));
        assert!(has_capability(&status("0000000000200000"), CAP_SYS_ADMIN));
        assert!(!has_capability(&status("00000000001fffff"), CAP_SYS_ADMIN));
        assert!(!has_capability("", CAP_SYS_ADMIN));
        assert!(!has_capability(&status("soon"), CAP_SYS_ADMIN));
    }
}
