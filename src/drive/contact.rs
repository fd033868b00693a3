//! The first contact with a file: which version it is, and the bytes that a player reads first, in one round trip.
//! Never here: opens of files that are known already.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::memo::LoadOnce;
use super::{Drive, Node};
use crate::config::BLOCK_SIZE_BYTES;
use crate::origin::{Begun, End, Stat};
use crate::read::is_film_name;

/// Of a file's start: what the kernel's readahead asks for at the first read of any program.
const HEAD_BYTES: u64 = 128 << 10;
/// The end is asked for so much later, so that on a thin line its bytes come behind the head's and not among them:
/// what the head's bytes take at 100 Mbit/s.
const TAIL_AFTER: Duration = Duration::from_millis(10);
/// At least so much of a film's end is asked for beside its head: the index of a short film, and of a long one's index
/// what a player looks at first.
const TAIL_BYTES_MIN: u64 = 64 << 10;

/// What a first question brought.
enum Contact {
    Begun(Begun),
    Stat(Stat),
}

impl Drive {
    /// How to find out what a file is that nobody has asked for yet: by asking for its first bytes, and beside them for
    /// a film's last ones. They are fetched to their ends whether the open succeeds or not; it is little.
    pub(super) fn first_contact(self: &Arc<Self>, node: &Arc<Node>) -> LoadOnce<Stat> {
        let (drive, listed_size) = (Arc::clone(self), node.size_bytes());
        Box::new(move |path| {
            // What is cached of it, an earlier run has asked for: now only its version matters.
            if drive.cache.knows(path).unwrap_or(false) {
                return drive.ask.of(|origin, patience| origin.stat(path, patience));
            }
            if let Some(tail) = listed_size
                .filter(|_| is_film_name(path))
                .and_then(|size| tail_bytes(size, drive.cache.chunk_size_bytes()))
            {
                let (drive, path) = (Arc::clone(&drive), path.to_owned());
                let asked = Arc::clone(&drive.jobs).run(move || {
                    thread::sleep(TAIL_AFTER);
                    drive.begin_tail(&path, tail);
                });
                if let Err(error) = asked {
                    log::debug!("{error}");
                }
            }
            let head = HEAD_BYTES.min(drive.cache.chunk_size_bytes());
            let first = drive.ask.of(|origin, patience| {
                Ok(match origin.begin(path, End::First(head), patience)? {
                    Some(begun) => Contact::Begun(begun),
                    None => Contact::Stat(origin.stat(path, patience)?),
                })
            })?;
            Ok(match first {
                Contact::Stat(stat) => stat,
                Contact::Begun(begun) => {
                    let stat = begun.stat.clone();
                    drive.take_in(path, begun);
                    stat
                }
            })
        })
    }

    fn begin_tail(&self, path: &str, bytes: u64) {
        match self.ask.of(|origin, patience| origin.begin(path, End::Last(bytes), patience)) {
            Ok(Some(begun)) => self.take_in(path, begun),
            // Asked for once more when somebody reads there.
            Ok(None) => {}
            Err(error) => log::debug!("{path}: {error}"),
        }
    }

    fn take_in(&self, path: &str, begun: Begun) {
        match self.cache.entry(path, &begun.stat) {
            Ok(entry) => self.reader.adopt(&entry, begun),
            Err(error) => log::warn!("{error}"),
        }
    }
}

/// How many bytes of a file's end are asked for: whole blocks within its last chunk. `None`: the head is most of it.
fn tail_bytes(size_bytes: u64, chunk_size_bytes: u64) -> Option<u64> {
    let last = size_bytes.checked_sub(1)?;
    let wanted = size_bytes.saturating_sub(TAIL_BYTES_MIN);
    let start = (wanted - wanted % BLOCK_SIZE_BYTES).max(last - last % chunk_size_bytes);
    (start >= HEAD_BYTES).then(|| size_bytes - start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_whole_blocks_of_one_chunk() {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        for (size, tail) in [
            (0, None),
            (1, None),
            (100 * KIB, None),
            (128 * KIB, None),
            (192 * KIB, Some(64 * KIB)),
            (193 * KIB, Some(65 * KIB)),
            (10 * MIB, Some(64 * KIB)),
            (10 * MIB + 1, Some(1)),
            (10 * MIB + 65 * KIB, Some(65 * KIB)),
            (10 * MIB + 130 * KIB, Some(66 * KIB)),
        ] {
            assert_eq!(tail_bytes(size, 2 * MIB), tail, "{size}");
        }
    }
}
