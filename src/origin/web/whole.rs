//! Files of a server that ignores Range requests: such a file comes whole, once, and is held in memory until its reader has
//! had all of it. The cache above keeps what was read.
//! Never here: files whose server heeds ranges, and files that are larger than the limit.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::cancel::Cancel;
use crate::error::{Error, Kind, Result};
use crate::range::{ByteRange, RangeSet};
use crate::store::{Body, Patience, Stat};

/// Files held at once, each of them no larger than the limit: a film's sound and subtitles beside the film, or the film that
/// is played and the next one.
const FILES_MAX: usize = 2;
/// A transfer that is silent for this long has ended, also if the reader who began it has less time.
const STALL_MIN: Duration = Duration::from_secs(5);
/// A wait for bytes looks this often whether it was called off.
const LOOK: Duration = Duration::from_millis(20);

/// The files that are held.
pub(super) struct WholeFiles {
    max_bytes: u64,
    // Oldest first. Taken before a file's own lock, never across a request.
    files: Mutex<VecDeque<Arc<WholeFile>>>,
}

/// One version of one file, as far as it has come.
struct WholeFile {
    key: String,
    expected: Stat,
    /// Ends the transfer.
    cancel: Cancel,
    arrived: Mutex<Arrived>,
    /// More has come, or no more will.
    changed: Condvar,
}

/// Invariant: `pieces` follow each other without a gap from the file's start on; the last one ends at `len`.
#[derive(Default)]
struct Arrived {
    /// Each with the offset of its first byte.
    pieces: Vec<(u64, Bytes)>,
    len: u64,
    end: Option<Result<()>>,
    /// Bytes that readers were given: when they are all, the cache has the file.
    given: RangeSet,
}

impl WholeFiles {
    pub fn new(max_bytes: u64) -> Self {
        Self { max_bytes, files: Mutex::default() }
    }

    /// The bytes of `range`, as soon as all before them have come. `read` asks for the file, unless another reader has
    /// asked for it already, also one whose question has no answer yet.
    pub fn read(
        &self,
        (key, shown): (&str, &str),
        expected: &Stat,
        range: ByteRange,
        patience: &Patience,
        read: impl FnOnce(ByteRange, &Patience) -> Result<Box<dyn Body>>,
    ) -> Result<Box<dyn Body>> {
        self.check(shown, expected.size_bytes)?;
        let (file, is_new) = self.hold(key, expected)?;
        // Counted as a reader from here on: a file that is read makes no room for another.
        let part = PartOfWhole { file: Arc::clone(&file), range, patience: patience.clone() };
        if is_new {
            let whole = ByteRange::new(0, expected.size_bytes);
            let patience_of_whole = Patience { stall: patience.stall.max(STALL_MIN), cancel: file.cancel.clone() };
            // Before there is a body: what is wrong with the answer is this reader's to know, and those who wait with it.
            let begun = read(whole, &patience_of_whole).and_then(|body| WholeFile::start(&file, body));
            begun.inspect_err(|error| file.end(Err(error.clone())))?;
        }
        Ok(Box::new(part))
    }

    /// The same of a file that is held already.
    pub fn read_held(
        &self,
        key: &str,
        expected: &Stat,
        range: ByteRange,
        patience: &Patience,
    ) -> Option<Box<dyn Body>> {
        let files = self.files.lock();
        let file = files.iter().find(|file| file.is(key, expected) && !file.is_done_with())?;
        Some(Box::new(PartOfWhole { file: Arc::clone(file), range, patience: patience.clone() }))
    }

    /// Refuses a file that can't be held.
    pub fn check(&self, shown: &str, size_bytes: u64) -> Result<()> {
        if size_bytes <= self.max_bytes {
            return Ok(());
        }
        let max = crate::config::format_size(self.max_bytes);
        Err(Error::new(
            Kind::Unsupported,
            format!(
                "{shown}: the server ignores Range requests, and the file is larger than --whole-file-max ({max}): serve it by \
                 one that heeds them, such as nginx or Caddy, or raise the limit"
            ),
        ))
    }

    /// The file, and whether it is new here: then it is to be asked for.
    fn hold(&self, key: &str, expected: &Stat) -> Result<(Arc<WholeFile>, bool)> {
        let mut files = self.files.lock();
        files.retain(|file| !file.is_done_with());
        if let Some(file) = files.iter().find(|file| file.is(key, expected)) {
            return Ok((Arc::clone(file), false));
        }
        if files.len() >= FILES_MAX {
            // One that has no reader any longer makes room: it is held here, and by its transfer.
            let Some(at) = files.iter().position(|file| Arc::strong_count(file) <= 2) else {
                return Err(Error::new(Kind::Busy, format!("{key}: {FILES_MAX} other files are being read whole")));
            };
            if let Some(file) = files.remove(at) {
                file.cancel.cancel();
            }
        }
        let (arrived, changed) = (Mutex::default(), Condvar::new());
        let cancel = Cancel::new();
        let file = Arc::new(WholeFile { key: key.to_owned(), expected: expected.clone(), cancel, arrived, changed });
        files.push_back(Arc::clone(&file));
        Ok((file, true))
    }
}

impl Drop for WholeFiles {
    fn drop(&mut self) {
        self.files.lock().iter().for_each(|file| file.cancel.cancel());
    }
}

impl WholeFile {
    /// Takes in what comes, on a thread of its own.
    fn start(file: &Arc<Self>, body: Box<dyn Body>) -> Result<()> {
        let file = Arc::clone(file);
        thread::Builder::new()
            .name("whole-file".into())
            .spawn(move || file.end(file.fetch(body)))
            .map(drop)
            .map_err(|error| Error::io("starting a thread for a whole file", &error))
    }

    /// No more of it will come.
    fn end(&self, end: Result<()>) {
        self.arrived.lock().end = Some(end);
        self.changed.notify_all();
    }

    fn fetch(&self, mut body: Box<dyn Body>) -> Result<()> {
        while let Some(piece) = body.next()? {
            let mut arrived = self.arrived.lock();
            let start = arrived.len;
            arrived.len += piece.len() as u64;
            arrived.pieces.push((start, piece));
            drop(arrived);
            self.changed.notify_all();
        }
        Ok(())
    }

    fn is(&self, key: &str, expected: &Stat) -> bool {
        self.key == key && self.expected == *expected
    }

    /// Its bytes are in the cache, or never will be: the next reader asks anew.
    fn is_done_with(&self) -> bool {
        let arrived = self.arrived.lock();
        match &arrived.end {
            Some(Ok(())) => arrived.given.len() >= self.expected.size_bytes,
            Some(Err(_)) => true,
            None => false,
        }
    }
}

/// Bytes of a whole file. Invariant: `range` is what is left to hand out.
struct PartOfWhole {
    file: Arc<WholeFile>,
    range: ByteRange,
    patience: Patience,
}

impl Body for PartOfWhole {
    fn next(&mut self) -> Result<Option<Bytes>> {
        if self.range.is_empty() {
            return Ok(None);
        }
        let mut seen_bytes = None;
        let mut ends_at = Instant::now() + self.patience.stall;
        let mut arrived = self.file.arrived.lock();
        while arrived.len <= self.range.start {
            match &arrived.end {
                Some(Err(error)) => return Err(error.clone()),
                Some(Ok(())) => {
                    return Err(Error::new(Kind::Unreachable, format!("{}: ended too early", self.file.key)));
                }
                None => {}
            }
            let now = Instant::now();
            // The bytes before these are on their way: only silence is too long.
            if seen_bytes.replace(arrived.len) != Some(arrived.len) {
                ends_at = now + self.patience.stall;
            }
            if self.patience.cancel.is_cancelled() {
                return Err(Error::new(Kind::Cancelled, format!("{}: nobody wants it any longer", self.file.key)));
            }
            if now >= ends_at {
                return Err(Error::new(Kind::TimedOut, format!("{}: no more of it in time", self.file.key)));
            }
            self.file.changed.wait_for(&mut arrived, LOOK);
        }
        let at = arrived.pieces.partition_point(|(start, _)| *start <= self.range.start) - 1;
        let (start, piece) = &arrived.pieces[at];
        let from = (self.range.start - start) as usize;
        let to = piece.len().min(from + self.range.len() as usize);
        let part = piece.slice(from..to);
        let given = ByteRange::at(self.range.start, part.len() as u64);
        arrived.given.insert(given);
        drop(arrived);
        self.range.start = given.end;
        Ok(Some(part))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use crossbeam_channel::bounded;

    use super::*;
    use crate::store::Version;

    /// Bytes of a file that come at once.
    struct AtOnce(Option<Bytes>);

    impl Body for AtOnce {
        fn next(&mut self) -> Result<Option<Bytes>> {
            Ok(self.0.take())
        }
    }

    fn stat() -> Stat {
        Stat { size_bytes: 10, modified: None, version: Version::size_and_time(10, None) }
    }

    fn patience() -> Patience {
        Patience { stall: Duration::from_mins(1), cancel: Cancel::new() }
    }

    fn bytes_of(body: Result<Box<dyn Body>>) -> Result<Vec<u8>> {
        let mut body = body?;
        let mut bytes = Vec::new();
        while let Some(piece) = body.next()? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// A film's start and its end are wanted at the same time, before the server has answered either.
    #[test]
    fn whole_file_is_asked_for_once_by_readers_at_the_same_time() {
        for fails in [false, true] {
            let files = WholeFiles::new(100);
            let asked = AtomicUsize::new(0);
            let (answer, answered) = bounded::<()>(1);
            let (ask, is_asked) = bounded(1);
            thread::scope(|scope| {
                let first = scope.spawn(|| {
                    let body = files.read(("a", "a"), &stat(), ByteRange::new(0, 5), &patience(), |range, _| {
                        asked.fetch_add(1, Ordering::Relaxed);
                        assert_eq!(range, ByteRange::new(0, 10));
                        ask.send(()).unwrap();
                        answered.recv().unwrap();
                        if fails {
                            return Err(Error::new(Kind::Denied, "not for you"));
                        }
                        Ok(Box::new(AtOnce(Some(Bytes::from_static(b"0123456789")))))
                    });
                    bytes_of(body)
                });
                is_asked.recv().unwrap();
                let second = files.read(("a", "a"), &stat(), ByteRange::new(7, 10), &patience(), |_, _| {
                    asked.fetch_add(1, Ordering::Relaxed);
                    Ok(Box::new(AtOnce(Some(Bytes::from_static(b"0123456789")))))
                });
                answer.send(()).unwrap();
                let (first, second) = (first.join().unwrap(), bytes_of(second));
                if fails {
                    assert_eq!(first.unwrap_err().kind(), Kind::Denied);
                    assert_eq!(second.unwrap_err().kind(), Kind::Denied);
                } else {
                    assert_eq!((first.unwrap(), second.unwrap()), (b"01234".to_vec(), b"789".to_vec()));
                }
            });
            assert_eq!(asked.load(Ordering::Relaxed), 1);
        }
    }
}
