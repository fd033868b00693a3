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

    /// The bytes of `range`, as soon as all before them have come. `read` asks for the file.
    pub fn read(
        &self,
        (key, shown): (&str, &str),
        expected: &Stat,
        range: ByteRange,
        patience: &Patience,
        read: impl FnOnce(ByteRange, &Patience) -> Result<Box<dyn Body>>,
    ) -> Result<Box<dyn Body>> {
        self.check(shown, expected.size_bytes)?;
        if let Some(body) = self.read_held(key, expected, range, patience) {
            return Ok(body);
        }
        // Before there is a body: what is wrong with the answer is this reader's to know.
        let cancel = Cancel::new();
        let whole = ByteRange::new(0, expected.size_bytes);
        let patience_of_whole = Patience { stall: patience.stall.max(STALL_MIN), cancel: cancel.clone() };
        let body = read(whole, &patience_of_whole)?;
        let file = self.hold(key, expected, cancel, body)?;
        Ok(Box::new(PartOfWhole { file, range, patience: patience.clone() }))
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

    /// Takes in a file that begins to come; if another reader was faster, that one's.
    fn hold(&self, key: &str, expected: &Stat, cancel: Cancel, body: Box<dyn Body>) -> Result<Arc<WholeFile>> {
        let mut files = self.files.lock();
        files.retain(|file| !file.is_done_with());
        if let Some(file) = files.iter().find(|file| file.is(key, expected)) {
            return Ok(Arc::clone(file));
        }
        if files.len() >= FILES_MAX {
            // One that nobody reads any longer makes room.
            let Some(at) = files.iter().position(|file| Arc::strong_count(file) <= 2) else {
                return Err(Error::new(Kind::Busy, format!("{key}: {FILES_MAX} other files are being read whole")));
            };
            if let Some(file) = files.remove(at) {
                file.cancel.cancel();
            }
        }
        let (arrived, changed) = (Mutex::default(), Condvar::new());
        let file = Arc::new(WholeFile { key: key.to_owned(), expected: expected.clone(), cancel, arrived, changed });
        let fetched = Arc::clone(&file);
        thread::Builder::new()
            .name("whole-file".into())
            .spawn(move || {
                let end = fetched.fetch(body);
                fetched.arrived.lock().end = Some(end);
                fetched.changed.notify_all();
            })
            .map_err(|error| Error::io("starting a thread for a whole file", &error))?;
        files.push_back(Arc::clone(&file));
        Ok(file)
    }
}

impl Drop for WholeFiles {
    fn drop(&mut self) {
        self.files.lock().iter().for_each(|file| file.cancel.cancel());
    }
}

impl WholeFile {
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
