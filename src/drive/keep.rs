//! What a person asks to be kept: files and whole folders, pinned, or fetched before anyone plays them.
//! Never here: who asks (see `control`), and how bytes are fetched in the fill lane (see `read`).
//!
//! Blocks the thread that asks, also on the origin: never called on a thread of the kernel's.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use super::memo::Memo;
use super::next::natural;
use super::{Drive, Listing};
use crate::cache::{self, Pinned};
use crate::config::format_size;
use crate::error::{Error, Kind, Result};
use crate::media::is_film_name;
use crate::origin::{ListedKind, Stat};
use crate::read::{Come, opening_bytes};
use crate::store::join;

/// Files and folders below one path: a plan of about 200 bytes for each is held while it is worked off.
const NAMES_MAX: usize = 100_000;
/// Versions asked for ahead of the file that is worked on: half of the threads for names stay with whoever looks around.
const STATS_AHEAD: usize = 8;
/// How often whoever asked hears of it: often enough for a bar that moves.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// How long it hears nothing while an answer is waited for: it gives up after some seconds without a word.
const WAIT_STEP: Duration = Duration::from_secs(1);

/// What of each file is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// Of films what players open them with, of other files nothing.
    Opening,
}

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub struct Warming<'a> {
    /// The file that is worked on, relative to the source.
    pub path: &'a str,
    /// Bytes here, of all files together.
    pub done_bytes: u64,
    /// Bytes to have here in the end; corrected as files are looked at.
    pub total_bytes: u64,
    /// Of the bytes here, those that were here before.
    pub here_bytes: u64,
}

/// What is here when all is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Warmed {
    /// Files looked at.
    pub files: u64,
    /// Of them, what is here.
    pub bytes: u64,
    /// Of that, what was here before.
    pub here_bytes: u64,
}

/// Hears how far it is; its error ends the work, and is returned.
pub type Tell<'a> = &'a mut dyn FnMut(Warming<'_>) -> Result<()>;

/// Called while an answer is waited for; its error ends the wait.
pub(super) type Waiting<'a> = &'a mut dyn FnMut() -> Result<()>;

/// A file below the path, and its size as the listing has it.
type Found = (String, Option<u64>);

impl Drive {
    /// Pins a file, or all files below a folder: all or none. What is not here yet is kept when it comes.
    pub fn pin(&self, path: &str, tell: Tell<'_>) -> Result<Pinned> {
        let mut told = Told::new(tell);
        let found = self.files_below(path, None, &mut told)?;
        let (mut files, mut asked) = (Vec::new(), 0);
        for (at, (path, _)) in found.iter().enumerate() {
            self.ask_ahead(&found, at, &mut asked);
            files.push((path.clone(), self.stat_now(path, &mut || told.tell(self, path))?));
            told.tell(self, path)?;
        }
        // On a thread of its own: with many files it takes longer than whoever asked bears to hear nothing.
        thread::scope(|scope| {
            let (say, said) = bounded(1);
            let (named, files) = (shown(path), &files);
            let pin = move || drop(say.send(self.cache.pin(named, files)));
            let pinning = thread::Builder::new().name("pin".into()).spawn_scoped(scope, pin);
            pinning.map_err(|error| Error::io("starting a thread", &error))?;
            hear(&said, path, &mut || told.tell(self, path))?
        })
    }

    /// Takes the pins of a file, or of all below a folder, back. Never asks the origin.
    pub fn unpin(&self, path: &str) -> Result<Pinned> {
        self.cache.unpin(path)
    }

    /// Fetches a file, or all files below a folder, as far as they are not here yet; when nobody else wants the link. What
    /// can't be read is passed over and told at the end; an origin that is away, or a disk without room, ends it.
    pub fn warm(&self, path: &str, extent: Extent, tell: Tell<'_>) -> Result<Warmed> {
        let mut told = Told::new(tell);
        let mut failed = Failed::default();
        let mut found = self.files_below(path, Some(&mut failed), &mut told)?;
        if extent == Extent::Opening {
            found.retain(|(path, _)| is_film_name(path));
        }
        self.ask_sizes(&mut found, &mut told)?;
        let mut room = self.room_for(path, extent, &found)?;
        told.total_bytes = found.iter().map(|(_, size)| planned(extent, size.unwrap_or(0))).sum();
        let mut asked = 0;
        for (at, (path, size)) in found.iter().enumerate() {
            self.ask_ahead(&found, at, &mut asked);
            let before = told.done_bytes;
            if let Err(error) = self.warm_file(path, extent, &mut room, &mut told) {
                failed.pass_over(error)?;
                failed.files += 1;
            }
            // What it really was, in place of what the listing promised.
            let promised = planned(extent, size.unwrap_or(0));
            told.total_bytes = (told.total_bytes - promised).saturating_add(told.done_bytes - before);
        }
        let (files, bytes) = (found.len() as u64, told.done_bytes);
        match failed.first_error {
            None => Ok(Warmed { files, bytes, here_bytes: told.here_bytes }),
            Some(error) => {
                let what = match (failed.files, failed.folders) {
                    (failed, 0) => format!("{failed} of {files} files could not be fetched"),
                    (0, folders) => format!("{folders} folders could not be read"),
                    (failed, folders) => {
                        format!("{failed} of {files} files could not be fetched, {folders} folders not be read")
                    }
                };
                Err(error.context(what))
            }
        }
    }

    /// Asks for the sizes that no listing tells, so that the total is one from the beginning. A file that can't be asked for is
    /// left to its own turn.
    fn ask_sizes(&self, found: &mut [Found], told: &mut Told<'_>) -> Result<()> {
        let unknown: Vec<Found> = found.iter().filter(|(_, size)| size.is_none()).cloned().collect();
        let mut asked = 0;
        for (nth, (path, size)) in found.iter_mut().filter(|(_, size)| size.is_none()).enumerate() {
            self.ask_ahead(&unknown, nth, &mut asked);
            match self.stat_now(path, &mut || told.tell(self, path)) {
                Ok(stat) => *size = Some(stat.size_bytes),
                // Counted when its turn comes.
                Err(error) => Failed::check(&error)?,
            }
            told.tell(self, path)?;
        }
        Ok(())
    }

    fn warm_file(&self, path: &str, extent: Extent, room: &mut Room, told: &mut Told<'_>) -> Result<()> {
        let stat = self.stat_now(path, &mut || told.tell(self, path))?;
        let entry = self.cache.entry(path, &stat)?;
        // What is pinned has its room.
        if !self.cache.is_pinned(&entry)? {
            room.take(path, planned(extent, entry.size_bytes()))?;
        }
        let mut tell = |come: Come| {
            match come {
                Come::WasHere(bytes) => {
                    told.done_bytes += bytes;
                    told.here_bytes += bytes;
                }
                Come::Fetched(bytes) => told.done_bytes += bytes,
                // Called off, or lost on the way: it comes again.
                Come::Lost(bytes) => told.done_bytes = told.done_bytes.saturating_sub(bytes),
            }
            told.tell(self, path)
        };
        match extent {
            Extent::Whole => self.reader.warm(&entry, &mut tell),
            Extent::Opening => self.reader.warm_opening(&entry, &mut tell),
        }
    }

    /// The room there is for these files. An early refusal if their listings say already that it is not enough; where they
    /// tell no sizes, each file takes its part when it is looked at.
    fn room_for(&self, path: &str, extent: Extent, found: &[Found]) -> Result<Room> {
        let mut wanted_bytes = 0_u64;
        for (path, size) in found {
            if self.cache.pinned_size(path)? == 0 {
                wanted_bytes = wanted_bytes.saturating_add(planned(extent, size.unwrap_or(0)));
            }
        }
        let room = self.cache.room_on_disk()?;
        Room { room: room.clone(), wanted_bytes: 0 }.take(shown(path), wanted_bytes)?;
        Ok(Room { room, wanted_bytes: 0 })
    }

    /// All files at or below `path`, as a person would sort them. Folders that can't be read are noted in `failed`; without
    /// it they end the work.
    fn files_below(&self, path: &str, mut failed: Option<&mut Failed>, told: &mut Told<'_>) -> Result<Vec<Found>> {
        let mut files = Vec::new();
        let mut folders = Vec::new();
        match self.kind_now(path, told)? {
            ListedKind::Folder => folders.push(path.to_owned()),
            ListedKind::File { size_bytes } => files.push((path.to_owned(), size_bytes)),
            ListedKind::Link { .. } => {
                let told = format!("{path} is a link: take the file or the folder that it leads to");
                return Err(Error::new(Kind::Invalid, told));
            }
        }
        while let Some(folder) = folders.pop() {
            let listing = self.listing_now(&folder, &mut || told.tell(self, &folder));
            let visited = listing.and_then(|listing| {
                listing.visit_from(0, |_, listed| {
                    let path = join(&folder, &listed.name);
                    match listed.kind {
                        ListedKind::Folder => folders.push(path),
                        ListedKind::File { size_bytes } => files.push((path, size_bytes)),
                        // What it leads to is another name, or not on the drive.
                        ListedKind::Link { .. } => {}
                    }
                    files.len() + folders.len() > NAMES_MAX
                })
            });
            match (visited, failed.as_deref_mut().filter(|_| folder != path)) {
                (Ok(()), _) => {}
                (Err(error), Some(failed)) => {
                    failed.pass_over(error)?;
                    failed.folders += 1;
                }
                (Err(error), None) => return Err(error),
            }
            if files.len() + folders.len() > NAMES_MAX {
                let message = format!("{}: more than {NAMES_MAX} files: take less at a time", shown(path));
                return Err(Error::new(Kind::Full, message));
            }
            told.tell(self, &folder)?;
        }
        files.sort_by(|(a, _), (b, _)| natural(a, b));
        Ok(files)
    }

    fn kind_now(&self, path: &str, told: &mut Told<'_>) -> Result<ListedKind> {
        let Some((folder, name)) = path.rsplit_once('/').or((!path.is_empty()).then_some(("", path))) else {
            return Ok(ListedKind::Folder);
        };
        let listing = self.listing_now(folder, &mut || told.tell(self, folder))?;
        let found = listing.find(name)?.map(|listed| listed.kind);
        found.ok_or_else(|| Error::new(Kind::Missing, format!("{path}: no such file or folder")))
    }

    /// Waits for a folder's listing, and calls `waiting` every second of it.
    pub(super) fn listing_now(&self, folder: &str, waiting: Waiting<'_>) -> Result<Listing> {
        wait_for(&self.listings, folder, waiting)
    }

    /// Waits for a file's size, time and version in the same way.
    pub(super) fn stat_now(&self, path: &str, waiting: Waiting<'_>) -> Result<Stat> {
        wait_for(&self.stats, path, waiting)
    }

    /// Has the versions of the file `at` and of those that come next asked for, each once; `asked` of them are by now.
    fn ask_ahead(&self, files: &[Found], at: usize, asked: &mut usize) {
        let until = files.len().min(at.saturating_add(STATS_AHEAD));
        files.get(*asked..until).unwrap_or_default().iter().for_each(|(path, _)| self.stats.prefetch(path));
        *asked = until.max(*asked);
    }
}

fn wait_for<V: Clone + Send + 'static>(memo: &Arc<Memo<V>>, path: &str, waiting: Waiting<'_>) -> Result<V> {
    let (tell, told) = bounded(1);
    memo.get(path, Box::new(move |answer| drop(tell.send(answer))));
    // A memo answers everyone, within the timeout of its questions.
    hear(&told, path, waiting)?
}

/// Waits for an answer, and calls `waiting` meanwhile; its error ends the wait.
fn hear<V>(told: &Receiver<V>, path: &str, waiting: Waiting<'_>) -> Result<V> {
    loop {
        match told.recv_timeout(WAIT_STEP) {
            Ok(answer) => return Ok(answer),
            Err(RecvTimeoutError::Timeout) => waiting()?,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::new(Kind::Local, format!("{path}: a question failed inside reelfs")));
            }
        }
    }
}

/// Bytes to fetch of a file of this size, as far as can be said before its container is known.
fn planned(extent: Extent, size_bytes: u64) -> u64 {
    match extent {
        Extent::Whole => size_bytes,
        Extent::Opening => opening_bytes(size_bytes),
    }
}

/// What a person called it.
pub fn shown(path: &str) -> &str {
    if path.is_empty() { "the whole drive" } else { path }
}

/// What was passed over, and why the first of it was.
#[derive(Default)]
struct Failed {
    files: u64,
    folders: u64,
    first_error: Option<Error>,
}

impl Failed {
    /// Gives the error back if all that comes would fail of it, too.
    fn check(error: &Error) -> Result<()> {
        let ends_all = error.may_pass() || matches!(error.kind(), Kind::Cancelled | Kind::Full | Kind::Local);
        if ends_all { Err(error.clone()) } else { Ok(()) }
    }

    /// The same, and notes it.
    fn pass_over(&mut self, error: Error) -> Result<()> {
        Self::check(&error)?;
        self.first_error.get_or_insert(error);
        Ok(())
    }
}

/// More than the cache holds would push out at its end what it fetched at its beginning.
struct Room {
    room: cache::Room,
    wanted_bytes: u64,
}

impl Room {
    fn take(&mut self, shown: &str, more_bytes: u64) -> Result<()> {
        self.wanted_bytes = self.wanted_bytes.saturating_add(more_bytes);
        if self.wanted_bytes <= self.room.bytes {
            return Ok(());
        }
        let (wanted, room) = (format_size(self.wanted_bytes), format_size(self.room.bytes));
        let message = format!("{shown}: {wanted} are more than the {room} the cache has room for: {}", self.room.limit);
        Err(Error::new(Kind::Full, message))
    }
}

/// Whoever asked, and what it was told.
struct Told<'a> {
    tell: Tell<'a>,
    last_at: Option<Instant>,
    done_bytes: u64,
    total_bytes: u64,
    here_bytes: u64,
}

impl<'a> Told<'a> {
    fn new(tell: Tell<'a>) -> Self {
        Self { tell, last_at: None, done_bytes: 0, total_bytes: 0, here_bytes: 0 }
    }

    fn tell(&mut self, drive: &Drive, path: &str) -> Result<()> {
        drive.still_there()?;
        if self.last_at.is_some_and(|last_at| last_at.elapsed() < TELL_EVERY) {
            return Ok(());
        }
        self.last_at = Some(Instant::now());
        // An index makes an opening longer than was thought.
        let total_bytes = self.total_bytes.max(self.done_bytes);
        let Self { done_bytes, here_bytes, .. } = *self;
        (self.tell)(Warming { path, done_bytes, total_bytes, here_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_take_room_one_after_the_other() {
        let room = cache::Room { bytes: 10, limit: "free some of the disk".into() };
        let mut room = Room { room, wanted_bytes: 0 };
        room.take("a", 4).unwrap();
        room.take("b", 6).unwrap();
        let error = room.take("c", 1).unwrap_err();
        assert!(error.kind() == Kind::Full && error.to_string().ends_with("free some of the disk"), "{error}");
        assert!(room.take("d", u64::MAX).is_err());
    }
}
