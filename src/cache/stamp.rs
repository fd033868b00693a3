//! What tells a data file as it was from the same file after another program changed it: device, inode, change time.
//! Never here: system calls, and what follows from a change (see `hot` and `refit`).

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;

/// A file may lose so many bytes of blocks by itself, as a filesystem packs its own records of where blocks are; a small file
/// loses half of them at most.
const SLACK_BYTES: u64 = 64 << 10;
/// Blocks that may be nothing but such records.
const RECORDS_BYTES: u64 = 8 << 10;

/// A data file as one `fstat` saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    // Zero once the file is removed; more than one when another name leads to it.
    links: u64,
    size_bytes: u64,
    // Seconds and nanoseconds. Every write, cut, hole, rename and new link moves it, and no program can set it back.
    changed_at: (i64, i64),
    // Bytes of blocks. Filesystems count them late, so they say little unless many are gone.
    held_bytes: u64,
}

impl Stamp {
    /// What a look at an open file tells.
    pub fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            links: meta.nlink(),
            size_bytes: meta.len(),
            changed_at: (meta.ctime(), meta.ctime_nsec()),
            held_bytes: meta.blocks().saturating_mul(512),
        }
    }

    /// Length of the file.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Bytes the filesystem holds for the file.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// The same with another length.
    pub fn of_size(self, size_bytes: u64) -> Self {
        Self { size_bytes, ..self }
    }

    /// Whether both are one file, whatever happened to it in between.
    pub fn is_same_file(&self, later: &Self) -> bool {
        (self.device, self.inode) == (later.device, later.inode)
    }

    /// Whether nothing happened to the file in between. Older kernels move the change time in steps of some milliseconds: what
    /// was cut and grown within one shows by its blocks. Of holes made before, `freed_bytes` may be counted late.
    pub fn is_unchanged(&self, later: &Self, freed_bytes: u64) -> bool {
        self.changed_at == later.changed_at && self.may_be_our_change(later, freed_bytes)
    }

    /// Whether nothing but our own writes, and holes of `freed_bytes` together, may have happened to the file in between.
    /// Another program that writes into the file in the same moment is not told apart; one that cuts or removes it is.
    pub fn may_be_our_change(&self, later: &Self, freed_bytes: u64) -> bool {
        let rest = self.held_bytes.saturating_sub(freed_bytes);
        let slack = if rest <= RECORDS_BYTES { rest } else { SLACK_BYTES.min(rest / 2) };
        self.is_same_file(later)
            && (self.links, self.size_bytes) == (later.links, later.size_bytes)
            && later.held_bytes >= rest - slack
    }
}

/// For tests that have no file.
#[cfg(test)]
impl Stamp {
    pub fn made_up_cut(inode: u64, changed_at: i64) -> Self {
        Self { size_bytes: 0, ..Self::made_up(inode, changed_at) }
    }

    pub fn made_up(inode: u64, changed_at: i64) -> Self {
        Self { device: 1, inode, links: 1, size_bytes: 1 << 20, changed_at: (changed_at, 0), held_bytes: 1 << 20 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamp_changes_with_every_change_of_the_file() {
        let was = Stamp::made_up(7, 100);
        assert!(was.is_unchanged(&was, 0));
        // Blocks are counted late.
        assert!(was.is_unchanged(&Stamp { held_bytes: 2 << 20, ..was }, 0));
        assert!(was.is_unchanged(&Stamp { held_bytes: 512 << 10, ..was }, 512 << 10));
        for (what, now) in [
            ("another device", Stamp { device: 2, ..was }),
            ("another file of that name", Stamp { inode: 8, ..was }),
            ("removed", Stamp { links: 0, ..was }),
            ("linked", Stamp { links: 2, ..was }),
            ("cut", Stamp { size_bytes: 0, ..was }),
            ("written", Stamp { changed_at: (100, 1), ..was }),
            ("a clock that was set back", Stamp { changed_at: (99, 0), ..was }),
            ("cut and grown within one tick of the clock", Stamp { held_bytes: 0, ..was }),
        ] {
            assert!(!was.is_unchanged(&now, 0), "{what}");
        }
    }

    #[test]
    fn stamp_during_our_own_change_tells_what_others_cut_or_remove() {
        let was = Stamp::made_up(7, 100);
        let later = Stamp { changed_at: (101, 0), held_bytes: 2 << 20, ..was };
        assert!(was.may_be_our_change(&later, 0));
        assert!(was.may_be_our_change(&Stamp { held_bytes: (1 << 20) - SLACK_BYTES, ..later }, 0));
        for (what, now) in [
            ("another file", Stamp { inode: 8, ..later }),
            ("removed", Stamp { links: 0, ..later }),
            ("cut", Stamp { size_bytes: 5, ..later }),
            ("cut and grown", Stamp { held_bytes: 0, ..later }),
        ] {
            assert!(!was.may_be_our_change(&now, 0), "{what}");
        }
        for small in [64 << 10, 68 << 10] {
            let was = Stamp { held_bytes: small, ..was };
            assert!(
                !was.may_be_our_change(&Stamp { held_bytes: 0, ..later }, 0),
                "a small file that was cut and grown"
            );
            assert!(was.may_be_our_change(&Stamp { held_bytes: small - 8192, ..later }, 0));
            assert!(was.may_be_our_change(&Stamp { held_bytes: 0, ..later }, 64 << 10), "only records are left");
        }
        let punched = Stamp { held_bytes: 512 << 10, ..later };
        assert!(was.may_be_our_change(&punched, 512 << 10) && !was.may_be_our_change(&punched, 64 << 10));
    }
}
