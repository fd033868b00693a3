//! The first contact with a file: which version it is, and the bytes that a player reads first, in one round trip.
//! Never here: opens of files that are known already.
//!
//! A person opens one film; a scanner opens thousands, and must not pay for more than it reads. So what is fetched
//! beyond the first look is fetched for a few opens, and not for a run of them: a scan.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};

use super::memo::LoadOnce;
use super::{Drive, Node, Opened};
use crate::cache::Entry;
use crate::cancel::Cancel;
use crate::config::BLOCK_SIZE_BYTES;
use crate::error::Result;
use crate::fetch::Expected;
use crate::origin::{Begun, End, Patience, Stat};
use crate::range::ByteRange;
use crate::read::is_film_name;

/// Of a file's start: what the kernel's own readahead asks for at the first read of any program.
const HEAD_BYTES: u64 = 128 << 10;
/// Of a film's start, if it is not one of many: its first pictures. A player decodes them as soon as it knows the index.
/// Not a power of two: readahead goes in steps of 128 or 256 KiB, the longer ones from 128 KiB on, and a step that reaches
/// beyond what is here waits for the rest.
const OPENING_BYTES: u64 = 896 << 10;
/// And if it is: what a scanner looks at in any case. The rest it asks for itself.
const SCAN_HEAD_BYTES: u64 = BLOCK_SIZE_BYTES;
/// So many films in `RUN` are opened by a person who looks for one; more, by a scanner.
const RUN_OPENS_MAX: usize = 3;
const RUN: Duration = Duration::from_secs(10);
/// What the kernel is given with the answer to an open, so that the first read does not even ask.
const GIVEN_BYTES: u64 = 64 << 10;
/// An open waits no longer for these bytes than their transfer takes on a line that is worth it: 25 Mbit/s.
const GIVEN_WAIT: Duration = Duration::from_millis(20);
/// The end is asked for so much later, so that on a thin line its bytes come behind the head's and not among them:
/// what the head's bytes take at 100 Mbit/s.
const TAIL_AFTER: Duration = Duration::from_millis(10);
/// And waited for no longer than this, or less where reads end sooner: whoever wants it is then served as usual. A new
/// connection over three satellites takes as long.
const TAIL_WAIT_MAX: Duration = Duration::from_secs(2);
/// At least so much of a film's end is asked for beside its head: the index of a short film, and of a long one's index
/// what a player looks at first.
const TAIL_BYTES_MIN: u64 = 64 << 10;

/// The last few films that were opened, each once.
#[derive(Debug, Default)]
pub(super) struct Run([Option<Film>; RUN_OPENS_MAX]);

/// A film that was opened, and what for.
#[derive(Clone, Copy, Debug)]
struct Film {
    ino: u64,
    opened_at: Instant,
    is_scanned: bool,
}

impl Run {
    /// A film is opened at `now`; whether as one of many.
    pub(super) fn is_scan(&mut self, ino: u64, now: Instant) -> bool {
        let is_recent = |film: &&Film| now.duration_since(film.opened_at) <= RUN;
        // Players and scanners open one and the same film several times.
        if let Some(film) = self.0.iter().flatten().filter(is_recent).find(|film| film.ino == ino) {
            return film.is_scanned;
        }
        // A scan goes on while film follows film, however slowly they come over a far link.
        let [first, .., last] = &self.0;
        let is_scanned = first.as_ref().is_some_and(|first| is_recent(&first))
            || last.as_ref().is_some_and(|last| last.is_scanned && is_recent(&last));
        self.0.rotate_left(1);
        self.0[RUN_OPENS_MAX - 1] = Some(Film { ino, opened_at: now, is_scanned });
        is_scanned
    }
}

/// A film's end that was asked for before anyone knew its version.
struct Tail {
    range: ByteRange,
    cancel: Cancel,
    // To whoever asked: who waits for it, once that can be said.
    expected: Sender<Expected>,
}

/// What a first question brought.
enum Contact {
    Begun(Begun),
    Stat(Stat),
}

impl Drive {
    /// How to find out what a file is that nobody has asked for yet: by asking for its first bytes, and beside them for
    /// a film's last ones. They are fetched to their ends even if the file is closed before; it is little.
    ///
    /// `begun` is set when bytes are on their way. For a scan they are few.
    pub(super) fn first_contact(
        self: &Arc<Self>,
        node: &Arc<Node>,
        begun: &Arc<AtomicBool>,
        is_scan: bool,
    ) -> LoadOnce<Stat> {
        let (drive, listed_size) = (Arc::clone(self), node.size_bytes());
        let has_begun = Arc::clone(begun);
        Box::new(move |path| {
            // What is cached of it, an earlier run has asked for: now only its version matters. A pin alone is no such bytes.
            if drive.cache.holds(path).unwrap_or(true) {
                return drive.ask.of(|origin, patience| origin.stat(path, patience));
            }
            let (is_film, chunk) = (is_film_name(path), drive.cache.chunk_size_bytes());
            let head = match (is_film, is_scan) {
                (true, false) => OPENING_BYTES,
                (true, true) => SCAN_HEAD_BYTES,
                (false, _) => HEAD_BYTES,
            };
            let head = head.min(chunk);
            let tail =
                listed_size.filter(|_| is_film && !is_scan).and_then(|size| drive.ask_for_tail(path, size, head));
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
                    if let Some(expected) = drive.expect(path, &stat, begun.range, &begun.cancel) {
                        expected.comes(begun);
                    }
                    // At once, though nothing has come of it: who wants the index finds it on its way.
                    if let Some(tail) = tail.filter(|tail| tail.range.end == stat.size_bytes)
                        && let Some(expected) = drive.expect(path, &stat, tail.range, &tail.cancel)
                    {
                        // Who asked may have ended; what is dropped here is asked for anew.
                        let _ = tail.expected.send(expected);
                    }
                    has_begun.store(true, Ordering::Release);
                    stat
                }
            })
        })
    }

    /// Answers an open with its first bytes, if they come at once: the kernel then has them before the program asks.
    pub(super) fn give_head(self: &Arc<Self>, opened: Opened, reply: impl FnOnce(Result<Opened>) + Send + 'static) {
        let Some(file) = self.files.get(opened.handle) else { return reply(Ok(opened)) };
        let head = ByteRange::new(0, GIVEN_BYTES.min(file.handle.entry().size_bytes()));
        if head.is_empty() {
            return reply(Ok(opened));
        }
        let drive = Arc::clone(self);
        let then = Box::new(move |answer: Result<&[u8]>| {
            let opened = Opened { head: answer.ok().map(<[u8]>::to_vec), ..opened };
            // Not here: the kernel may wait for a read of these bytes that this very thread is to answer.
            // Nor on the threads that open other files.
            let handle = opened.handle;
            if let Err(error) = drive.gives.run(move || reply(Ok(opened))) {
                log::warn!("{error}");
                drive.release(handle);
            }
        });
        self.reader.peek(&file.handle, head, GIVEN_WAIT, then);
    }

    /// Asks for a film's end, in a moment and on another thread. `None`: its head holds it, or nobody is free.
    fn ask_for_tail(&self, path: &str, size_bytes: u64, head_bytes: u64) -> Option<Tail> {
        let bytes = tail_bytes(size_bytes, head_bytes, self.cache.chunk_size_bytes())?;
        let (tell, told) = bounded::<Expected>(1);
        let cancel = Cancel::new();
        // Once: whoever waits for it is better served in the usual way if this fails.
        let patience = Patience { stall: TAIL_WAIT_MAX.min(self.ask.timeout / 4), cancel: cancel.clone() };
        let (origin, path) = (Arc::clone(&self.ask.origin), path.to_owned());
        let asked = self.jobs.run(move || {
            thread::sleep(TAIL_AFTER);
            let answer = origin.begin(&path, End::Last(bytes), &patience);
            // Nobody expects it if the head failed, or was told without a version.
            match (told.recv(), answer) {
                (Ok(expected), Ok(Some(begun))) => expected.comes(begun),
                (_, Ok(_)) => {}
                (_, Err(error)) => log::debug!("{path}: {error}"),
            }
        });
        match asked {
            Ok(()) => Some(Tail { range: ByteRange::new(size_bytes - bytes, size_bytes), cancel, expected: tell }),
            Err(error) => {
                log::debug!("{error}");
                None
            }
        }
    }

    /// Has reads of `range` wait for what is on its way, unless an earlier run has left something there: that is checked
    /// first.
    fn expect(&self, path: &str, stat: &Stat, range: ByteRange, cancel: &Cancel) -> Option<Expected> {
        let is_new = |entry: &Entry| Ok(self.cache.coverage(entry, range)?.unchecked.is_empty());
        let expected = self
            .cache
            .entry(path, stat)
            .and_then(|entry| Ok(if is_new(&entry)? { self.reader.expect(&entry, range, cancel) } else { None }));
        expected.unwrap_or_else(|error| {
            log::warn!("{error}");
            None
        })
    }
}

/// How many bytes of a file's end are asked for: whole blocks within its last chunk. `None`: the head holds some of them.
fn tail_bytes(size_bytes: u64, head_bytes: u64, chunk_size_bytes: u64) -> Option<u64> {
    let last = size_bytes.checked_sub(1)?;
    let wanted = size_bytes.saturating_sub(TAIL_BYTES_MIN);
    let start = (wanted - wanted % BLOCK_SIZE_BYTES).max(last - last % chunk_size_bytes);
    (start >= head_bytes).then(|| size_bytes - start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_opens_is_a_scan() {
        let (mut run, start) = (Run::default(), Instant::now());
        let mut is_scan = |ino, seconds| run.is_scan(ino, start + Duration::from_secs(seconds));
        assert!(!is_scan(1, 0) && !is_scan(2, 0) && !is_scan(3, 9));
        assert!(!is_scan(2, 9) && !is_scan(1, 10), "no other film");
        assert!(is_scan(4, 10), "the fourth in ten seconds");
        assert!(is_scan(4, 10), "and still");
        assert!(is_scan(5, 19) && is_scan(6, 28) && is_scan(7, 38), "it goes on, if slowly");
        assert!(!is_scan(8, 49) && !is_scan(9, 58), "and has ended");
        assert!(!is_scan(10, 60), "the first of these was longer ago");
    }

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
            assert_eq!(tail_bytes(size, HEAD_BYTES, 2 * MIB), tail, "{size}");
        }
    }
}
