//! One file that is being written: its bytes so far, and when they are to be put.
//! Never here: libraries, and threads.
//!
//! While a file is fetched or put nobody changes it: who wants to waits, without a thread, until that has ended. One whose
//! content could not be fetched is *void*: whoever waited for it is told why, and nothing of it is ever put.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::digest::Digest;
use crate::drive::inodes::is_at_or_below;
use crate::error::{Error, Kind, Result};
use crate::library::manifest::FILE_BYTES_MAX;
use crate::sys;

/// What must stay free on the disk: the cache's index is on it, too.
const FREE_BYTES_MIN: u64 = 64 << 20;
/// Requests waiting for the end of a put: a program has one each, unless it writes from many threads.
const WAITING_MAX: usize = 256;

/// Contents whose puts have failed, one after the other: each may be there all the same.
const TRIED_MAX: usize = 8;

/// A staged file.
pub(in crate::drive) struct Staged {
    /// The number the kernel knows it by.
    pub ino: u64,
    file: File,
    // The folder it waits in.
    dir: Arc<File>,
    // Held for a look only; also under the other one.
    name: Mutex<Name>,
    // Held while the disk reads or writes a piece, never while a library is asked.
    state: Mutex<State>,
}

struct Name {
    replaces: Replaces,
    // None once its name was taken away, or given to another.
    path: Option<Box<str>>,
    // No library has had it.
    is_new: bool,
    opens: usize,
    // Why it is void.
    failure: Option<Error>,
}

struct State {
    // Its content is there; until then it is busy.
    is_filled: bool,
    size_bytes: u64,
    modified: SystemTime,
    changes: Changes,
    is_busy: bool,
    waiting: Vec<Box<dyn FnOnce() + Send>>,
}

/// What was done to a file since it was last put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Changes {
    None,
    Some,
    /// They were to be put, and could not be.
    Failed,
}

/// When a file may be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::drive) enum When {
    /// One of its handles is closed.
    Flush,
    /// Somebody asks for it.
    Sync,
    /// Its last handle was closed: nobody hears of it any more.
    Release,
}

/// What is to be put, and under which name.
pub(in crate::drive) struct Put {
    pub path: Box<str>,
    pub modified: SystemTime,
    pub replaces: Replaces,
}

/// What a put may take the place of, by content: if anything else is there, somebody else has put it meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::drive) enum Replaces {
    /// Nobody asked for what was there.
    Anything,
    /// What was fetched, or put from here; nothing of a file that is new.
    Only(Vec<Digest>),
}

impl Replaces {
    /// Whether it may take the place of `there`; what is gone is nobody's.
    pub fn allows(&self, there: Option<Digest>) -> bool {
        match (self, there) {
            (Self::Anything, _) | (_, None) => true,
            (Self::Only(contents), Some(there)) => contents.contains(&there),
        }
    }

    /// This is being put: it may be there, too, though the put fails.
    pub fn tries(&mut self, content: Digest) {
        if let Self::Only(contents) = self
            && !contents.contains(&content)
        {
            if contents.len() >= TRIED_MAX {
                contents.remove(0);
            }
            contents.push(content);
        }
    }
}

/// Whether a put could begin.
pub(in crate::drive) enum Begun {
    /// Somebody holds changes.
    Busy,
    /// There is nothing to put.
    Nothing,
    Put(Put, Busy),
}

impl Changes {
    fn are_put(self, when: When) -> bool {
        match (self, when) {
            (Self::None, _) | (Self::Failed, When::Release) => false,
            (Self::Some | Self::Failed, _) => true,
        }
    }
}

/// Ends the time in which nobody may change a file, whatever becomes of whoever wanted that.
pub(in crate::drive) struct Busy(Arc<Staged>);

impl Drop for Busy {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.0.state.lock();
            if !state.is_filled {
                self.0.fail(&Error::new(Kind::Local, "a file could not be fetched to be written"));
            }
            state.is_busy = false;
            std::mem::take(&mut state.waiting)
        };
        for waiter in waiting {
            waiter();
        }
    }
}

impl Staged {
    /// One that no library has.
    pub fn new(ino: u64, path: &str, file: File, dir: Arc<File>) -> Self {
        let replaces = Replaces::Only(Vec::new());
        let name = Name { replaces, path: Some(path.into()), is_new: true, opens: 0, failure: None };
        let state = State {
            is_filled: true,
            size_bytes: 0,
            modified: SystemTime::now(),
            // A name that nobody had is there from its first close on, also without a byte.
            changes: Changes::Some,
            is_busy: false,
            waiting: Vec::new(),
        };
        Self { ino, file, dir, name: Mutex::new(name), state: Mutex::new(state) }
    }

    /// One that a library has: busy until its content is there.
    pub fn to_fill(ino: u64, path: &str, file: File, dir: Arc<File>) -> (Arc<Self>, Busy) {
        let staged = Self::new(ino, path, file, dir);
        staged.name.lock().is_new = false;
        {
            let mut state = staged.state.lock();
            (state.is_filled, state.changes, state.is_busy) = (false, Changes::None, true);
        }
        let staged = Arc::new(staged);
        (Arc::clone(&staged), Busy(staged))
    }

    /// Its bytes. Whoever changes them by this has it busy.
    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn is_new(&self) -> bool {
        self.name.lock().is_new
    }

    pub fn is_at(&self, path: &str) -> bool {
        self.name.lock().path.as_deref() == Some(path)
    }

    pub fn is_below(&self, folder: &str) -> bool {
        self.name.lock().path.as_deref().is_some_and(|path| is_at_or_below(path, folder))
    }

    pub fn size_and_time(&self) -> (u64, SystemTime) {
        let state = self.state.lock();
        (state.size_bytes, state.modified)
    }

    /// It has another name, or none, from now on. Whoever gives it one wants it there, whatever was.
    pub fn rename(&self, path: Option<&str>) {
        let mut name = self.name.lock();
        name.path = path.map(Into::into);
        if name.is_new {
            name.replaces = Replaces::Anything;
        }
    }

    /// What it is at or below has another name from now on.
    pub fn rename_below(&self, from: &str, to: &str) {
        let path = self.name.lock().path.clone().filter(|path| is_at_or_below(path, from));
        if let Some(path) = path {
            self.rename(Some(&format!("{to}{}", &path[from.len()..])));
        }
    }

    pub fn opened(&self) {
        self.name.lock().opens += 1;
    }

    /// One open less; whether it was the last.
    pub fn closed(&self) -> bool {
        let mut name = self.name.lock();
        name.opens = name.opens.saturating_sub(1);
        name.opens == 0
    }

    pub fn is_open(&self) -> bool {
        self.name.lock().opens > 0
    }

    /// Holds all changes until the guard is dropped. `None`: somebody else does.
    pub fn hold(self: &Arc<Self>) -> Option<Busy> {
        let was_busy = std::mem::replace(&mut self.state.lock().is_busy, true);
        (!was_busy).then(|| Busy(Arc::clone(self)))
    }

    /// The content was fetched.
    pub fn filled(&self, content: Digest, size_bytes: u64, modified: SystemTime) {
        let mut state = self.state.lock();
        (state.is_filled, state.size_bytes, state.modified) = (true, size_bytes, modified);
        self.name.lock().replaces = Replaces::Only(vec![content]);
    }

    /// Nobody wants the old content.
    pub fn emptied(&self) {
        let mut state = self.state.lock();
        (state.is_filled, state.changes) = (true, Changes::Some);
        self.name.lock().replaces = Replaces::Anything;
    }

    /// The content could not be fetched: from now on it is void.
    pub fn fail(&self, error: &Error) {
        let mut name = self.name.lock();
        name.path = None;
        name.failure.get_or_insert_with(|| error.clone());
    }

    /// Why it is void, if it is.
    pub fn failure(&self) -> Option<Error> {
        self.name.lock().failure.clone()
    }

    /// Runs `then` when its content is there, or it is void: at once, by the caller, if so (`Some`), else later. Too many wait: it is dropped.
    pub fn when_filled<F: FnOnce() + Send + 'static>(&self, then: F) -> Option<F> {
        let mut state = self.state.lock();
        if state.is_filled || !state.is_busy {
            return Some(then);
        }
        state.wait(then);
        None
    }

    /// Runs `then` when nobody holds changes: at once, by the caller, if so (`Some`), else later. Too many wait: it is dropped.
    pub fn when_idle<F: FnOnce() + Send + 'static>(&self, then: F) -> Option<F> {
        let mut state = self.state.lock();
        if !state.is_busy {
            return Some(then);
        }
        state.wait(then);
        None
    }

    /// Begins a put, if there is something to put and nobody holds changes; the guard is to be dropped when it has ended.
    pub fn begin_put(self: &Arc<Self>, when: When) -> Begun {
        let mut state = self.state.lock();
        if state.is_busy {
            return Begun::Busy;
        }
        let name = self.name.lock();
        let path = name.path.clone().filter(|_| state.changes.are_put(when));
        let Some(path) = path else { return Begun::Nothing };
        state.is_busy = true;
        Begun::Put(Put { path, modified: state.modified, replaces: name.replaces.clone() }, Busy(Arc::clone(self)))
    }

    /// The put has ended; the next one may take the place of that.
    pub fn ended_put(&self, is_done: bool, replaces: Replaces) {
        self.state.lock().changes = if is_done { Changes::None } else { Changes::Failed };
        let mut name = self.name.lock();
        name.is_new &= !is_done;
        name.replaces = replaces;
    }

    /// Writes; at its end where no offset is given. `None`: somebody holds changes.
    pub fn write(&self, offset: Option<u64>, bytes: &[u8]) -> Option<Result<()>> {
        let mut state = self.state.lock();
        if state.is_busy {
            return None;
        }
        let offset = offset.unwrap_or(state.size_bytes);
        Some(self.write_now(&mut state, offset, bytes))
    }

    fn write_now(&self, state: &mut State, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset.saturating_add(bytes.len() as u64);
        self.check_room(end, bytes.len() as u64)?;
        self.file.write_all_at(bytes, offset).map_err(|error| Error::io("staging a file", &error))?;
        state.size_bytes = state.size_bytes.max(end);
        state.changed();
        Ok(())
    }

    fn check_room(&self, end: u64, more: u64) -> Result<()> {
        if end > FILE_BYTES_MAX {
            return Err(Error::new(Kind::Invalid, format!("a file of {end} bytes; {FILE_BYTES_MAX} at most")));
        }
        let free = sys::free_bytes(&self.dir).map_err(|error| Error::io("staging a file", &error))?;
        if free >= FREE_BYTES_MIN.saturating_add(more) {
            return Ok(());
        }
        Err(Error::new(Kind::Full, "no room beside the cache for a file until it is put"))
    }

    /// Cuts it off, or makes it longer, by zeros; and sets the time it will have. `None`: somebody holds changes.
    pub fn set(&self, size_bytes: Option<u64>, modified: Option<SystemTime>) -> Option<Result<()>> {
        let mut state = self.state.lock();
        if state.is_busy { None } else { Some(self.set_now(&mut state, size_bytes, modified)) }
    }

    fn set_now(&self, state: &mut State, size_bytes: Option<u64>, modified: Option<SystemTime>) -> Result<()> {
        if let Some(error) = self.failure() {
            return Err(error);
        }
        if let Some(size_bytes) = size_bytes {
            self.check_room(size_bytes, 0)?;
            self.file.set_len(size_bytes).map_err(|error| Error::io("staging a file", &error))?;
            state.size_bytes = size_bytes;
            state.changed();
        }
        if let Some(modified) = modified {
            state.changed();
            state.modified = modified;
        }
        Ok(())
    }

    /// Up to `len` bytes from `offset` on; fewer at the end.
    pub fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut filled = 0;
        while filled < len {
            let read = self.file.read_at(&mut bytes[filled..], offset + filled as u64);
            match read.map_err(|error| Error::io("reading a staged file", &error))? {
                0 => break,
                read => filled += read,
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }
}

impl State {
    fn changed(&mut self) {
        self.changes = Changes::Some;
        self.modified = SystemTime::now();
    }

    /// One that is dropped is answered with an error.
    fn wait(&mut self, waiter: impl FnOnce() + Send + 'static) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push(Box::new(waiter));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_is_put_when_it_is_closed_and_once() {
        use Changes::{Failed, None, Some};
        let put = |changes: Changes| [When::Flush, When::Sync, When::Release].map(|when| changes.are_put(when));
        assert_eq!(put(None), [false, false, false]);
        assert_eq!(put(Some), [true, true, true]);
        assert_eq!(put(Failed), [true, true, false], "whoever closed it was told");
    }

    #[test]
    fn changes_wait_for_the_end_of_a_put() {
        let folder = tempfile::tempdir().unwrap();
        let dir = Arc::new(File::open(folder.path()).unwrap());
        let file = tempfile::tempfile_in(folder.path()).unwrap();
        let staged = Arc::new(Staged::new(7, "a", file, dir));
        assert!(staged.write(Some(3), b"abc").unwrap().is_ok());
        assert_eq!((staged.size_and_time().0, staged.read(2, 9).unwrap()), (6, b"\0abc".to_vec()));
        let Begun::Put(put, busy) = staged.begin_put(When::Flush) else { panic!("it was changed") };
        assert_eq!(&*put.path, "a");
        assert!(staged.write(Some(0), b"x").is_none() && staged.set(Some(0), None).is_none());
        assert!(matches!(staged.begin_put(When::Flush), Begun::Busy));
        let (sender, waited) = crossbeam_channel::bounded(1);
        assert!(staged.when_idle(move || sender.send(()).unwrap()).is_none());
        assert!(staged.set(None, Some(SystemTime::UNIX_EPOCH)).is_none(), "it would be taken for put");
        staged.ended_put(true, Replaces::Only(vec![]));
        assert!(waited.try_recv().is_err());
        drop(busy);
        waited.try_recv().unwrap();
        assert!(matches!(staged.begin_put(When::Flush), Begun::Nothing) && !staged.is_new());
        staged.set(Some(1), None).unwrap().unwrap();
        staged.write(None, b"end").unwrap().unwrap();
        assert_eq!(staged.read(0, 9).unwrap(), b"\0end");
        staged.rename(None);
        assert!(matches!(staged.begin_put(When::Release), Begun::Nothing), "it has no name");
    }

    #[test]
    fn what_somebody_else_has_put_is_not_replaced() {
        let [one, two] = [b"one", b"two"].map(|bytes| Digest::of(bytes));
        assert!([None, Some(one)].into_iter().all(|there| Replaces::Anything.allows(there)));
        let mut replaces = Replaces::Only(vec![]);
        assert!(replaces.allows(None) && !replaces.allows(Some(one)));
        replaces.tries(one);
        assert!(replaces.allows(Some(one)) && !replaces.allows(Some(two)), "a put that failed may be there");
        (0..20u8).for_each(|n| replaces.tries(Digest::of(&[n])));
        assert_eq!(replaces, Replaces::Only((12..20u8).map(|n| Digest::of(&[n])).collect()));
    }
}
