//! The first contact with a file: which version it is, and the bytes that a player reads first, in one round trip.
//! Never here: opens of files that are known already.
//!
//! A person opens one film; a scanner opens thousands, and must not pay for more than it reads. So what is fetched
//! beyond the first look is fetched for a few opens, and not for a run of files of which little is read: a scan.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
use crate::media::is_film_name;
use crate::origin::{Begun, Patience, Section, Stat};
use crate::range::ByteRange;

/// Of a file's start: what the kernel's own readahead asks for at the first read of any program.
const HEAD_BYTES: u64 = 128 << 10;
/// Of a film's start, if it is not one of many: its first pictures. A player decodes them as soon as it knows the index.
/// Not a power of two: readahead goes in steps of 128 or 256 KiB, the longer ones from 128 KiB on, and a step that reaches
/// beyond what is here waits for the rest.
const OPENING_BYTES: u64 = 896 << 10;
/// And of any file, if it is: what a scanner looks at in any case. The rest it asks for itself.
const SCAN_HEAD_BYTES: u64 = BLOCK_SIZE_BYTES;
/// So many files in `RUN` that are only looked at are opened by a person who looks for one; more, by a scanner.
const RUN_OPENS_MAX: usize = 3;
const RUN: Duration = Duration::from_secs(10);
/// A file of which more was read is used, not looked at: above what ffprobe reads, 5 MB of the head and some of the tail.
const LOOKED_AT_BYTES_MAX: u64 = 8 << 20;
/// So is one of which all was read, but for one part in so many at most: a copy, a picture, a subtitle.
const LEFT_OUT_SHARE: u64 = 8;
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

/// The last few files that were opened, each once, the latest last. Their names say nothing here: what is looked at, and
/// what is used, is told by how much of it was read.
#[derive(Debug, Default)]
pub(super) struct Run(VecDeque<Open>);

/// A file that was opened.
#[derive(Debug)]
struct Open {
    ino: u64,
    size_bytes: Option<u64>,
    opened_at: Instant,
    is_scanned: bool,
    // Counted by its handle, also after the file was closed. `None`: it is being opened.
    read_bytes: Option<Arc<AtomicU64>>,
}

impl Open {
    /// Whether only some of it was read so far.
    fn is_looked_at(&self) -> bool {
        let read_bytes = self.read_bytes.as_ref().map_or(0, |bytes| bytes.load(Ordering::Relaxed));
        // The kernel was given the first bytes unasked.
        let is_whole = self.size_bytes.is_some_and(|size| read_bytes + GIVEN_BYTES >= size - size / LEFT_OUT_SHARE);
        read_bytes <= LOOKED_AT_BYTES_MAX && !is_whole
    }
}

impl Run {
    /// A file is opened at `now`; whether as one of many that are only looked at. One that the first answer brings whole
    /// costs nothing more, whoever opens it.
    pub(super) fn is_scan(&mut self, ino: u64, size_bytes: Option<u64>, now: Instant) -> bool {
        if size_bytes.is_some_and(|size| size <= HEAD_BYTES) {
            return false;
        }
        let is_recent = |open: &Open| now.duration_since(open.opened_at) <= RUN;
        // Players and scanners open one and the same file several times.
        if let Some(open) = self.0.iter().find(|open| open.ino == ino && is_recent(open)) {
            return open.is_scanned;
        }
        let looks = self.0.iter().filter(|open| is_recent(open) && open.is_looked_at()).count();
        // A scan goes on while file follows file, however slowly they come over a far link, and ends with whole reads.
        let goes_on = looks > 0 && self.0.back().is_some_and(|last| last.is_scanned && is_recent(last));
        let is_scanned = looks == RUN_OPENS_MAX || goes_on;
        if self.0.len() == RUN_OPENS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Open { ino, size_bytes, opened_at: now, is_scanned, read_bytes: None });
        is_scanned
    }

    /// The file has this size, and its handle counts what is read of it.
    pub(super) fn opened(&mut self, ino: u64, size_bytes: u64, read_bytes: &Arc<AtomicU64>) {
        if let Some(open) = self.0.iter_mut().find(|open| open.ino == ino) {
            open.size_bytes = Some(size_bytes);
            open.read_bytes = Some(Arc::clone(read_bytes));
        }
    }

    /// The kernel reads the file by itself: nobody counts, and it costs nothing.
    pub(super) fn lent(&mut self, ino: u64) {
        self.0.retain(|open| open.ino != ino);
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
        Box::new(move |path, question| {
            // What is cached of it, an earlier run has asked for: now only its version matters. A pin alone is no such bytes.
            if drive.cache.holds(path).unwrap_or(true) {
                return drive.ask.of(question, |origin, patience| origin.stat(path, patience));
            }
            let (is_film, chunk) = (is_film_name(path), drive.cache.chunk_size_bytes());
            let head = match (is_film, is_scan) {
                (_, true) => SCAN_HEAD_BYTES,
                (true, false) => OPENING_BYTES,
                (false, false) => HEAD_BYTES,
            };
            let head = head.min(chunk);
            let tail =
                listed_size.filter(|_| is_film && !is_scan).and_then(|size| drive.ask_for_tail(path, size, head));
            let first = drive.ask.of(question, |origin, patience| {
                Ok(match origin.begin(path, Section::First(head), patience)? {
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
            // Not here, where more bytes are landing, nor on the threads that open other files.
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
            let answer = origin.begin(&path, Section::Last(bytes), &patience);
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

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_run_of_opens_is_a_scan() {
        let (mut run, start) = (Run::default(), Instant::now());
        let mut is_scan = |ino, seconds| run.is_scan(ino, None, start + Duration::from_secs(seconds));
        assert!(!is_scan(1, 0) && !is_scan(2, 0) && !is_scan(3, 9));
        assert!(!is_scan(2, 9) && !is_scan(1, 10), "no other film");
        assert!(is_scan(4, 10), "the fourth in ten seconds");
        assert!(is_scan(4, 10), "and still");
        assert!(is_scan(5, 19) && is_scan(6, 28) && is_scan(7, 38), "it goes on, if slowly");
        assert!(!is_scan(8, 49) && !is_scan(9, 58), "and has ended");
        assert!(!is_scan(10, 60), "the first of these was longer ago");
    }

    /// Whether each of ten files of `size_bytes`, opened at once one behind the other, is taken for one of a scan, when
    /// `read_bytes` are read of each.
    fn scanned(run: &mut Run, inos: std::ops::Range<u64>, size_bytes: u64, read_bytes: u64) -> Vec<bool> {
        let now = Instant::now();
        let mut open = |ino| {
            let is_scan = run.is_scan(ino, Some(size_bytes), now);
            run.opened(ino, size_bytes, &Arc::new(AtomicU64::new(read_bytes)));
            is_scan
        };
        inos.map(&mut open).collect()
    }

    #[test]
    fn a_scan_is_told_by_what_is_read() {
        let count = |size, read| scanned(&mut Run::default(), 0..10, size, read).iter().filter(|scan| **scan).count();
        assert_eq!(count(700 * MIB, 100), 7, "a first look");
        assert_eq!(count(700 * MIB, 6 * MIB), 7, "a long one");
        assert_eq!(count(4 * MIB, 3 * MIB), 7, "of short films");
        assert_eq!(count(700 * MIB, 9 * MIB), 0, "played, or copied");
        assert_eq!(count(4 * MIB, 4 * MIB), 0, "copied, or pictures that are shown");
        assert_eq!(count(HEAD_BYTES, 10), 0, "subtitles: all of them comes at once");
    }

    #[test]
    fn a_scan_ends_with_whole_reads() {
        let mut run = Run::default();
        assert_eq!(scanned(&mut run, 0..4, 700 * MIB, MIB), [false, false, false, true]);
        assert_eq!(scanned(&mut run, 10..12, MIB, MIB), [true; 2], "among them some short ones");
        assert_eq!(scanned(&mut run, 20..21, 700 * MIB, MIB), [true]);
        assert_eq!(scanned(&mut run, 30..35, 4 * MIB, 4 * MIB), [true, true, true, false, false], "a copy of all");
    }

    #[test]
    fn what_the_kernel_reads_by_itself_is_no_look() {
        let mut run = Run::default();
        for ino in 0..10 {
            assert!(!run.is_scan(ino, Some(700 * MIB), Instant::now()));
            run.lent(ino);
        }
    }

    #[test]
    fn a_tail_is_whole_blocks_of_one_chunk() {
        const KIB: u64 = 1 << 10;
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
