//! What a handle's reads look like: several cursors, tolerant of the kernel's reordered readahead. Pure.
//! Never here: fetching. A pattern only says what it saw and how far ahead it would look.
//!
//! Kernel readahead arrives out of order and from several threads, and players read audio and video of one file in
//! turns; a detector that wants `offset == next` would reset itself to death. So a read belongs to a cursor when it
//! lies within a window around it, and a handle keeps several cursors.

use super::pace;
use crate::range::{ByteRange, RangeSet};

/// Cursors kept for each handle: video, audio, subtitles, and one for whatever looks around.
const CURSORS_MAX: usize = 4;
/// A read this close to a cursor is its own: twice the largest kernel readahead.
const REORDER_WINDOW_BYTES: u64 = 2 << 20;
/// Sequential bytes before a reader is believed to go on, in two reads at least: more than a scanner's first look.
const EVIDENCE_BYTES: u64 = 256 << 10;
/// The same for a scanner, who reads on until it knows what is in the film: ffprobe reads 5 MB at most.
const SCAN_EVIDENCE_BYTES: u64 = 6 << 20;
/// Until then it gets this part of what it has read in a run with its next read: a scan of whatever length costs little
/// more than it reads, and few round trips.
const SCAN_STEP_SHARE: u64 = 4;
/// The window is this many times what was read, from one chunk to all it may be. More was tried over a link of 200 ms and
/// lost: flights begun together end together, and the link idles while all of them ask anew.
const GROWTH: u64 = 2;
/// A run that began this close to the end reads the container's index.
const NEAR_END_BYTES: u64 = 2 << 20;
/// Lookahead hears of a run each time it crosses a multiple of this: a quarter of the usual chunk. Not with each read,
/// as most of them are answered from the cache and should cost nothing else.
const NEWS_BYTES: u64 = 512 << 10;
/// Really being played: this much was read in one run (or half the file, if that is less).
const PLAYED_BYTES: u64 = 16 << 20;

/// Runs remembered of one handle, once they are over: more than a person seeks in an evening.
const RUNS_MAX: usize = 1_024;

/// What one read was taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A first, lone or near-the-end read: it gets what it asks for.
    Probe,
    /// A lone read of a scanner, which looks at as many places as a container has: it gets its own pages, and no more.
    Look,
    /// A read of a scanner that reads on: with so many bytes behind it, as it will probably want them.
    Step(u64),
    /// Begins a run elsewhere: what follows it will be read soon, and nothing before it is waited for.
    Jump,
    /// Part of a run: the rest of its chunk, and more, will be read soon.
    Sequential,
}

/// What to do with a cursor's lookahead after a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// Which cursor, for as long as it lives.
    pub cursor: u64,
    /// From the reader's position to as far as the evidence goes; empty for a probe or a cursor left behind.
    pub range: ByteRange,
    /// Of it, what lies before this is needed within seconds.
    pub urgent_end: u64,
}

/// Where a handle's readers stand, for who only looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// One past the last byte of the reader that reads on; if none does, of the last read.
    pub position: u64,
    /// The same of every reader that was not left by a seek.
    pub readers: Vec<u64>,
    /// Reads so far.
    pub reads: u64,
}

/// One reader within a handle.
#[derive(Clone, Debug)]
struct Cursor {
    id: u64,
    born: u64,
    // One past the furthest byte read.
    next: u64,
    run_bytes: u64,
    // When it was last read, in reads of this handle.
    used: u64,
    // Left by a seek: its lookahead is called off until it is read again.
    is_left: bool,
    // It was read on after its first read.
    went_on: bool,
}

/// The cursors of one handle.
#[derive(Clone, Debug, Default)]
pub struct Pattern {
    cursors: Vec<Cursor>,
    reads: u64,
    // Two cursors have been read in turns: a jump between them is no seek.
    is_interleaved: bool,
    // A cursor was really played: whoever seeks in such a film plays on from there.
    was_played: bool,
    // Bytes of progress in all.
    read_bytes: u64,
    // What was read by cursors that are gone.
    past: RangeSet,
    // Something happened that lookahead has not heard of.
    has_news: bool,
    purpose: Purpose,
}

/// What a film was opened for, as far as that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Purpose {
    #[default]
    Unknown,
    /// One of many that are looked at.
    Scan,
}

impl Pattern {
    /// Of a reader that looks at many films, of each as little as will do.
    pub fn scanned() -> Self {
        Self { purpose: Purpose::Scan, ..Self::default() }
    }

    fn evidence_bytes(&self) -> u64 {
        match self.purpose {
            Purpose::Unknown => EVIDENCE_BYTES,
            Purpose::Scan => SCAN_EVIDENCE_BYTES,
        }
    }

    /// Takes a read in. `size` is the file's.
    pub fn observe(&mut self, range: ByteRange, size: u64) -> Access {
        self.reads += 1;
        let (reads, evidence) = (self.reads, self.evidence_bytes());
        let last_used = self.cursors.iter().max_by_key(|cursor| cursor.used).map(|cursor| cursor.id);
        let near = |cursor: &&mut Cursor| {
            let window = ByteRange::new(
                cursor.next.saturating_sub(REORDER_WINDOW_BYTES).max(cursor.born.saturating_sub(REORDER_WINDOW_BYTES)),
                cursor.next.saturating_add(REORDER_WINDOW_BYTES),
            );
            window.start <= range.start && range.start <= window.end
        };
        let closest = self.cursors.iter_mut().filter(near).min_by_key(|cursor| cursor.next.abs_diff(range.start));
        if let Some(cursor) = closest {
            if last_used != Some(cursor.id) && cursor.is_left {
                self.is_interleaved = true;
            }
            // Only progress is evidence: reading the same bytes again is not a run.
            let progress = range.end.saturating_sub(cursor.next.max(range.start));
            // A scanner that skips from header to header is near its last read each time, and reads nothing in a row.
            let skips = range.start > cursor.next;
            let (before, was) = (cursor.next, cursor.access(size, evidence));
            if skips && self.purpose == Purpose::Scan {
                cursor.run_bytes = 0;
            }
            cursor.run_bytes += progress;
            cursor.next = cursor.next.max(range.end);
            cursor.used = reads;
            let access = cursor.access(size, evidence);
            let reads_on = progress > 0 && !skips;
            let of_scan = if reads_on { Access::Step(cursor.run_bytes / SCAN_STEP_SHARE) } else { Access::Look };
            self.read_bytes += progress;
            self.has_news |= cursor.is_left || access != was || before / NEWS_BYTES != cursor.next / NEWS_BYTES;
            cursor.is_left = false;
            cursor.went_on |= progress > 0;
            self.was_played |= cursor.run_bytes >= played_bytes(size);
            if self.purpose == Purpose::Scan && access == Access::Probe { of_scan } else { access }
        } else {
            let plays_on =
                self.was_played && self.cursors.iter().any(|cursor| Some(cursor.id) == last_used && cursor.went_on);
            self.read_bytes += range.len();
            self.has_news = true;
            let access = self.jump(range, size, plays_on);
            if self.purpose == Purpose::Scan && access == Access::Probe { Access::Look } else { access }
        }
    }

    /// A read that belongs to no cursor: a new one, in place of the one longest unused. `plays_on`: no further evidence
    /// is needed.
    fn jump(&mut self, range: ByteRange, size: u64, plays_on: bool) -> Access {
        if !self.is_interleaved && !is_near_end(range.start, size) {
            self.cursors.iter_mut().for_each(|cursor| cursor.is_left = true);
        }
        if self.cursors.len() == CURSORS_MAX
            && let Some(oldest) = (0..CURSORS_MAX).min_by_key(|at| self.cursors[*at].used)
        {
            let gone = self.cursors.swap_remove(oldest);
            if self.past.iter().count() < RUNS_MAX {
                self.past.insert(gone.run());
            }
        }
        let evidence = self.evidence_bytes();
        let cursor = Cursor {
            id: self.reads,
            born: range.start,
            next: range.end,
            // However long: the kernel may ask for so much on behalf of anyone who touches a page.
            run_bytes: if plays_on { range.len().max(evidence) } else { range.len().min(EVIDENCE_BYTES - 1) },
            used: self.reads,
            is_left: false,
            went_on: false,
        };
        // A large first read is evidence for the next one only.
        let goes_on = plays_on && cursor.access(size, evidence) == Access::Sequential;
        let access = if goes_on { Access::Jump } else { Access::Probe };
        self.cursors.push(cursor);
        access
    }

    /// What each cursor would have fetched ahead, in chunks of `chunk` bytes, `chunks_max` at most, and no further than
    /// a film of `rate` needs. Cursors that are not named any more have nothing to fetch.
    pub fn ahead(&self, size: u64, chunk: u64, chunks_max: u64, rate: Option<u64>) -> Vec<Ahead> {
        self.cursors
            .iter()
            .filter(|cursor| !cursor.is_left && cursor.access(size, self.evidence_bytes()) == Access::Sequential)
            .map(|cursor| {
                let chunks = (cursor.run_bytes.saturating_mul(GROWTH) / chunk).max(1).min(chunks_max);
                let window = pace::window(cursor.next, rate, chunk, chunks);
                let range = ByteRange::new(cursor.next, window.end.min(size));
                Ahead { cursor: cursor.id, range, urgent_end: window.urgent_end }
            })
            .collect()
    }

    /// Whether lookahead should look at it again; asked once for each piece of news.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }

    /// Bytes read in all; those read again do not count.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// Where its readers stand in a file of `size`.
    pub fn seen(&self, size: u64) -> Seen {
        let evidence = self.evidence_bytes();
        let goes_on = |cursor: &&Cursor| !cursor.is_left && cursor.access(size, evidence) == Access::Sequential;
        let last = self.cursors.iter().filter(goes_on).max_by_key(|cursor| cursor.used);
        let last = last.or_else(|| self.cursors.iter().max_by_key(|cursor| cursor.used));
        Seen {
            position: last.map_or(0, |cursor| cursor.next),
            readers: self.cursors.iter().filter(|cursor| !cursor.is_left).map(|cursor| cursor.next).collect(),
            reads: self.reads,
        }
    }

    /// What was read: of each run all from its first byte to its furthest.
    pub fn runs(&self) -> RangeSet {
        let mut runs = self.past.clone();
        for cursor in &self.cursors {
            runs.insert(cursor.run());
        }
        runs
    }

    /// Where a film that is really being played goes on from; `None` while nothing is.
    pub fn playing(&self, size: u64) -> Option<u64> {
        self.cursors
            .iter()
            .filter(|cursor| cursor.run_bytes >= played_bytes(size) && !cursor.is_left)
            .max_by_key(|cursor| cursor.used)
            .map(|cursor| cursor.next)
    }
}

impl Cursor {
    fn run(&self) -> ByteRange {
        ByteRange::new(self.born, self.next)
    }

    fn access(&self, size: u64, evidence: u64) -> Access {
        if self.run_bytes < evidence || is_near_end(self.born, size) { Access::Probe } else { Access::Sequential }
    }
}

/// Bytes of one run after which a film is really being played.
fn played_bytes(size: u64) -> u64 {
    PLAYED_BYTES.min(size / 2).max(EVIDENCE_BYTES)
}

/// Whether a run from `start` on reads the end of a file that has more than its end.
fn is_near_end(start: u64, size: u64) -> bool {
    size > 2 * NEAR_END_BYTES && start >= size - NEAR_END_BYTES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const SIZE: u64 = 1 << 30;
    const CHUNK: u64 = 2 * MIB;

    fn read(pattern: &mut Pattern, start: u64, len: u64) -> Access {
        pattern.observe(ByteRange::at(start, len), SIZE)
    }

    fn ahead(pattern: &Pattern) -> Vec<ByteRange> {
        pattern.ahead(SIZE, CHUNK, 20, None).into_iter().map(|ahead| ahead.range).collect()
    }

    #[test]
    fn a_scanner_gets_no_lookahead() {
        let mut pattern = Pattern::default();
        for (start, len) in
            [(0, 64 * KIB), (64 * KIB, 128 * KIB), (SIZE - 64 * KIB, 64 * KIB), (SIZE / 2, 64 * KIB), (SIZE / 4, MIB)]
        {
            assert_eq!(read(&mut pattern, start, len), Access::Probe);
            assert_eq!(ahead(&pattern), []);
        }
    }

    #[test]
    fn a_scan_costs_little_more_than_it_reads() {
        for total in [100 * KIB, 230 * KIB, MIB, 5 * MIB] {
            let mut pattern = Pattern::scanned();
            let (mut here, mut requests) = (0, 0);
            for at in (0..total).step_by(32 << 10) {
                let access = read(&mut pattern, at, 32 * KIB);
                assert!(ahead(&pattern).is_empty() && !matches!(access, Access::Sequential | Access::Jump), "{at}");
                if at + 32 * KIB > here {
                    let step = if let Access::Step(bytes) = access { bytes } else { 0 };
                    here = (at + 32 * KIB + step).next_multiple_of(64 * KIB);
                    requests += 1;
                }
            }
            assert!(here <= total + total / 4 + 128 * KIB && requests <= 20, "{here} for {total}, {requests} requests");
        }
        // Who reads on for longer plays it.
        let mut pattern = Pattern::scanned();
        for at in 0..200 {
            read(&mut pattern, at * 32 * KIB, 32 * KIB);
        }
        assert_eq!(ahead(&pattern).len(), 1);
    }

    #[test]
    fn a_scanner_that_skips_from_header_to_header_reads_nothing_in_a_row() {
        for distance in [40 * KIB, 100 * KIB, 700 * KIB, 3 * MIB] {
            let mut pattern = Pattern::scanned();
            for at in 0..300 {
                assert_eq!(read(&mut pattern, at * distance, 32 * KIB), Access::Look, "{at} of {distance}");
            }
            assert!(ahead(&pattern).is_empty());
            assert_eq!(read(&mut pattern, 299 * distance + 32 * KIB, 32 * KIB), Access::Step(16 * KIB), "two in a row");
            assert_eq!(read(&mut pattern, 299 * distance, 32 * KIB), Access::Look, "the same once more");
        }
    }

    #[test]
    fn whoever_seeks_in_a_film_that_was_played_plays_on() {
        let mut pattern = Pattern::default();
        for at in 0..128 {
            read(&mut pattern, at * 128 * KIB, 128 * KIB);
        }
        let to = SIZE / 2;
        assert_eq!(read(&mut pattern, to, 64 * KIB), Access::Jump);
        assert_eq!(ahead(&pattern), [ByteRange::new(to + 64 * KIB, to + 2 * CHUNK)]);
        read(&mut pattern, to + 64 * KIB, 64 * KIB);
        assert_eq!(read(&mut pattern, SIZE / 4, 64 * KIB), Access::Jump, "and once more");
        // One that does not go on is no player's, nor is what follows it.
        for at in 1..20 {
            assert_eq!(read(&mut pattern, at * 40 * MIB, 64 * KIB), Access::Probe, "{at}");
        }
        // The index is no place to play from.
        read(&mut pattern, 19 * 40 * MIB + 64 * KIB, 64 * KIB);
        assert_eq!(read(&mut pattern, SIZE - MIB, 64 * KIB), Access::Probe);
    }

    #[test]
    fn lookahead_grows_with_evidence_up_to_its_limit() {
        let mut pattern = Pattern::default();
        let mut windows = Vec::new();
        for at in 0..300 {
            read(&mut pattern, at * 128 * KIB, 128 * KIB);
            windows.push(ahead(&pattern).first().map_or(0, |range| range.len() / CHUNK));
        }
        assert_eq!(windows[0], 0, "a first read");
        assert_eq!(windows[1], 1, "two kernel readaheads in a row");
        assert_eq!(windows[15], 2, "one chunk was read");
        assert!(windows.windows(2).all(|pair| pair[1] + 1 >= pair[0]));
        assert_eq!(*windows.iter().max().unwrap(), 20);
    }

    #[test]
    fn reordered_readahead_is_one_run() {
        let mut pattern = Pattern::default();
        let order = [0, 2, 1, 4, 3, 6, 5, 8, 7];
        let seen: Vec<_> = order.iter().map(|at| read(&mut pattern, at * 128 * KIB, 128 * KIB)).collect();
        assert!(seen[2..].iter().all(|access| *access == Access::Sequential), "{seen:?}");
        assert_eq!(ahead(&pattern).len(), 1);
    }

    #[test]
    fn a_seek_calls_off_the_old_lookahead() {
        let mut pattern = Pattern::default();
        for at in 0..16 {
            read(&mut pattern, at * 128 * KIB, 128 * KIB);
        }
        assert_eq!(ahead(&pattern).len(), 1);
        read(&mut pattern, 500 * MIB, 128 * KIB);
        assert_eq!(ahead(&pattern), []);
        for at in 1..4 {
            read(&mut pattern, 500 * MIB + at * 128 * KIB, 128 * KIB);
        }
        assert_eq!(ahead(&pattern).len(), 1);
        assert!(ahead(&pattern)[0].start > 500 * MIB);
    }

    #[test]
    fn reading_the_index_at_the_end_is_no_seek() {
        let mut pattern = Pattern::default();
        for at in 0..16 {
            read(&mut pattern, at * 128 * KIB, 128 * KIB);
        }
        (0..8).for_each(|at| assert_eq!(read(&mut pattern, SIZE - MIB + at * 128 * KIB, 128 * KIB), Access::Probe));
        assert_eq!(ahead(&pattern).len(), 1, "the film's own run goes on");
    }

    #[test]
    fn audio_and_video_in_turns_both_look_ahead() {
        let mut pattern = Pattern::default();
        for at in 0..16 {
            read(&mut pattern, at * 128 * KIB, 128 * KIB);
            read(&mut pattern, 600 * MIB + at * 128 * KIB, 128 * KIB);
        }
        assert_eq!(ahead(&pattern).len(), 2);
    }

    #[test]
    fn most_reads_of_a_run_are_no_news() {
        let mut pattern = Pattern::default();
        let mut news = Vec::new();
        for at in 0..100 {
            read(&mut pattern, at * 128 * KIB, 128 * KIB);
            news.push(pattern.take_news());
        }
        assert_eq!(news[..8], [true, true, false, true, false, false, false, true], "a jump, a run, its steps");
        assert_eq!(news.iter().filter(|news| **news).count(), 1 + 1 + 100 / 4);
        assert_eq!(pattern.read_bytes(), 100 * 128 * KIB);
        read(&mut pattern, 50 * 128 * KIB + 99 * 128 * KIB, KIB);
        assert!(pattern.take_news(), "a seek");
        read(&mut pattern, 99 * 128 * KIB, KIB);
        assert!(pattern.take_news(), "and back");
    }

    #[test]
    fn a_slow_film_gets_less_than_a_copy() {
        let mut pattern = Pattern::default();
        for at in 0..300 {
            read(&mut pattern, at * 128 * KIB, 128 * KIB);
        }
        let plan = |rate| pattern.ahead(SIZE, CHUNK, 20, rate)[0];
        let at = 300 * 128 * KIB;
        assert!(plan(Some(u64::MAX)).range.end == plan(None).range.end);
        let film = plan(Some(500_000));
        assert!((15_000_000..=15_000_000 + 2 * CHUNK).contains(&film.range.len()), "{film:?}");
        assert_eq!(film.urgent_end, at + 7_500_000);
    }

    #[test]
    fn playing_needs_a_long_run() {
        let mut pattern = Pattern::default();
        for at in 0..127 {
            read(&mut pattern, at * 128 * KIB, 128 * KIB);
        }
        assert_eq!(pattern.playing(SIZE), None);
        read(&mut pattern, 127 * 128 * KIB, 128 * KIB);
        assert_eq!(pattern.playing(SIZE), Some(16 * MIB));
    }

    proptest! {
        #[test]
        fn any_reads_keep_it_bounded(reads in prop::collection::vec((0u64..SIZE, 1u64..MIB), 1..200), chunks in 0u64..30) {
            let mut pattern = Pattern::default();
            for (start, len) in reads {
                pattern.observe(ByteRange::new(start, (start + len).min(SIZE)), SIZE);
                let plans = pattern.ahead(SIZE, CHUNK, chunks, None);
                prop_assert!(plans.len() <= CURSORS_MAX);
                prop_assert!(plans.iter().all(|plan| plan.range.end <= SIZE && plan.range.len() <= (chunks + 1) * CHUNK));
            }
        }
    }
}
