//! Which files are staged: by the numbers the kernel knows them by, and by the names they are to have; and names that are
//! held while they change.
//! Never here: what is in the files, and libraries.
//!
//! A name has one staged file at most: whoever opens it shares that. While a name is held nobody opens what has it, or puts
//! anything under it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::staged::{Busy, Staged};
use crate::drive::inodes::is_at_or_below;

/// Changes waiting for the end of another one: each is a program's.
const WAITING_MAX: usize = 1024;

/// All staged files.
#[derive(Default)]
pub(in crate::drive) struct Names {
    // Held for a look only; a file's name is looked at under it.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    // By inode number, until the last close. One has several where several versions of it were looked up.
    staged: HashMap<u64, Arc<Staged>>,
    held: Vec<Held>,
    next: u64,
}

/// Names that somebody is changing, and who waits for the end of that.
struct Held {
    number: u64,
    paths: Vec<String>,
    waiting: Vec<Box<dyn FnOnce() + Send>>,
}

/// One open of a staged file.
pub(in crate::drive) struct Open {
    pub staged: Arc<Staged>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.staged.closed();
    }
}

/// A file that was opened to be written.
pub(in crate::drive) enum Staging {
    /// It is to be filled before the guard is dropped.
    New(Open, Busy),
    /// Somebody else has it open, too, and may be filling it just now.
    There {
        open: Open,
        /// Under this very number.
        is_known: bool,
    },
    /// Its name is changing.
    Blocked(Blocked),
}

/// Names that nobody else changes, and files of which nothing is put, until this is dropped.
pub(in crate::drive) struct Hold {
    names: Arc<Names>,
    number: u64,
    files: Vec<Busy>,
}

/// What has to end first.
pub(in crate::drive) enum Blocked {
    /// A fetch or a put of this file, or another change.
    File(Arc<Staged>),
    /// A change of these names.
    Names(Arc<Names>, Vec<String>),
}

impl Open {
    fn new(staged: &Arc<Staged>) -> Self {
        staged.opened();
        Self { staged: Arc::clone(staged) }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let held = {
            let mut state = self.names.state.lock();
            let at = state.held.iter().position(|held| held.number == self.number);
            at.map(|at| state.held.swap_remove(at))
        };
        self.files.clear();
        for waiter in held.into_iter().flat_map(|held| held.waiting) {
            waiter();
        }
    }
}

impl Blocked {
    /// Runs `then` when that has ended: now, or later. Too many wait: it is dropped.
    pub fn then(self, then: impl FnOnce() + Send + 'static) {
        let now = match self {
            Self::File(staged) => staged.when_idle(then),
            Self::Names(names, paths) => names.when_free(&paths, then),
        };
        if let Some(now) = now {
            now();
        }
    }
}

impl State {
    fn held(&mut self, paths: &[String]) -> Option<&mut Held> {
        let overlap = |a: &str, b: &str| is_at_or_below(a, b) || is_at_or_below(b, a);
        self.held.iter_mut().find(|held| held.paths.iter().any(|held| paths.iter().any(|path| overlap(path, held))))
    }

    fn at(&self, path: &str) -> Option<&Arc<Staged>> {
        self.staged.values().find(|staged| staged.is_at(path))
    }
}

impl Names {
    /// Opens what is staged under `ino` or at `path`, or else `fresh`. One that is void is no more.
    pub fn open(self: &Arc<Self>, ino: u64, path: &str, fresh: (Arc<Staged>, Busy)) -> Staging {
        let mut state = self.state.lock();
        let known = state.staged.get(&ino).filter(|staged| staged.failure().is_none()).map(Arc::clone);
        let paths = [path.to_owned()];
        if known.is_none() && state.held(&paths).is_some() {
            return Staging::Blocked(Blocked::Names(Arc::clone(self), paths.into()));
        }
        if let Some(staged) = known.or_else(|| state.at(path).map(Arc::clone)) {
            let open = Open::new(&staged);
            let is_known = state.staged.insert(ino, staged).is_some_and(|old| Arc::ptr_eq(&old, &open.staged));
            return Staging::There { open, is_known };
        }
        let (staged, busy) = fresh;
        state.staged.insert(ino, Arc::clone(&staged));
        Staging::New(Open::new(&staged), busy)
    }

    /// Opens a file that nobody else can know yet: its name is held.
    pub fn open_new(&self, staged: Arc<Staged>) -> Open {
        let open = Open::new(&staged);
        self.state.lock().staged.insert(staged.ino, staged);
        open
    }

    /// Holds these names, and all below them.
    pub fn hold(self: &Arc<Self>, paths: &[String]) -> Result<Hold, Blocked> {
        let (mut hold, mut files) = {
            let mut state = self.state.lock();
            if state.held(paths).is_some() {
                return Err(Blocked::Names(Arc::clone(self), paths.to_vec()));
            }
            let number = state.next;
            state.next += 1;
            state.held.push(Held { number, paths: paths.to_vec(), waiting: Vec::new() });
            let is_meant = |staged: &&Arc<Staged>| paths.iter().any(|path| staged.is_below(path));
            let files: Vec<_> = state.staged.values().filter(is_meant).map(Arc::clone).collect();
            (Hold { names: Arc::clone(self), number, files: Vec::new() }, files)
        };
        // Under several numbers, and each is held once.
        files.sort_unstable_by_key(Arc::as_ptr);
        files.dedup_by(|a, b| Arc::ptr_eq(a, b));
        for staged in files {
            match staged.hold() {
                Some(busy) => hold.files.push(busy),
                None => return Err(Blocked::File(staged)),
            }
        }
        Ok(hold)
    }

    /// Runs `then` when nobody holds one of these: at once, by the caller, if so (`Some`), else later.
    fn when_free<F: FnOnce() + Send + 'static>(&self, paths: &[String], then: F) -> Option<F> {
        let mut state = self.state.lock();
        let Some(held) = state.held(paths) else { return Some(then) };
        if held.waiting.len() < WAITING_MAX {
            held.waiting.push(Box::new(then));
        }
        None
    }

    /// What is written under this number.
    pub fn staged(&self, ino: u64) -> Option<Arc<Staged>> {
        self.state.lock().staged.get(&ino).filter(|staged| staged.failure().is_none()).map(Arc::clone)
    }

    /// What is to have the name `path`.
    pub fn at(&self, path: &str) -> Option<Arc<Staged>> {
        self.state.lock().at(path).map(Arc::clone)
    }

    /// Whether anything is to have a name in this folder, or below it.
    pub fn is_any_below(&self, folder: &str) -> bool {
        self.state.lock().staged.values().any(|staged| staged.is_below(folder))
    }

    /// The number of a file that is at `path`, and in no library yet.
    pub fn new_at(&self, path: &str) -> Option<u64> {
        self.at(path).filter(|staged| staged.is_new()).map(|staged| staged.ino)
    }

    /// What is at `from`, and below it, is to be at `to`; what was there has no name any more. Both are held.
    pub fn rename(&self, from: &str, to: &str) {
        let state = self.state.lock();
        if let Some(replaced) = state.at(to) {
            replaced.rename(None);
        }
        for staged in state.staged.values() {
            staged.rename_below(from, to);
        }
    }

    /// The number is that of no staged file any more.
    pub fn leave(&self, ino: u64) {
        self.state.lock().staged.remove(&ino);
    }

    /// Forgets a file, unless somebody has it open; one that is void in any case.
    pub fn forget_closed(&self, staged: &Arc<Staged>) {
        let mut state = self.state.lock();
        if !staged.is_open() || staged.failure().is_some() {
            state.staged.retain(|_, other| !Arc::ptr_eq(other, staged));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::digest::Digest;
    use crate::drive::writes::When;
    use crate::drive::writes::staged::Begun;
    use crate::error::{Error, Kind};

    fn to_fill(ino: u64, path: &str) -> (Arc<Staged>, Busy) {
        let folder = tempfile::tempdir().unwrap();
        let dir = Arc::new(File::open(folder.path()).unwrap());
        Staged::to_fill(ino, path, tempfile::tempfile_in(folder.path()).unwrap(), dir)
    }

    #[test]
    fn one_fills_a_file_and_all_others_wait_for_that() {
        let names = Arc::new(Names::default());
        let Staging::New(first, busy) = names.open(7, "a", to_fill(7, "a")) else { panic!("nobody has it open") };
        let Staging::There { open: second, .. } = names.open(7, "a", to_fill(7, "a")) else {
            panic!("it is being filled")
        };
        assert!(Arc::ptr_eq(&first.staged, &second.staged));
        let (sender, waited) = crossbeam_channel::bounded(1);
        assert!(second.staged.when_filled(move || sender.send(()).unwrap()).is_none());
        first.staged.filled(Digest::of(b""), 0, std::time::SystemTime::UNIX_EPOCH);
        assert!(waited.try_recv().is_err());
        drop(busy);
        waited.try_recv().unwrap();
        assert!(second.staged.failure().is_none() && second.staged.when_filled(|| ()).is_some());
        drop(first);
        names.forget_closed(&second.staged);
        assert!(names.staged(7).is_some(), "open");
        let staged = Arc::clone(&second.staged);
        drop(second);
        names.forget_closed(&staged);
        assert!(names.staged(7).is_none());
    }

    #[test]
    fn nothing_is_ever_put_of_what_could_not_be_fetched() {
        let names = Arc::new(Names::default());
        for says_why in [true, false] {
            let Staging::New(first, busy) = names.open(7, "a", to_fill(7, "a")) else { panic!("nobody has it open") };
            let Staging::There { open: second, .. } = names.open(7, "a", to_fill(7, "a")) else {
                panic!("it is being filled")
            };
            if says_why {
                first.staged.fail(&Error::new(Kind::Unsupported, "too large"));
            }
            drop(busy);
            let expected = if says_why { Kind::Unsupported } else { Kind::Local };
            assert_eq!(second.staged.failure().unwrap().kind(), expected);
            assert!(names.staged(7).is_none() && names.at("a").is_none());
            assert!(
                [When::Flush, When::Sync, When::Release]
                    .into_iter()
                    .all(|when| matches!(second.staged.begin_put(when), Begun::Nothing))
            );
            names.forget_closed(&second.staged);
        }
    }

    #[test]
    fn a_name_has_one_file_under_however_many_numbers() {
        let names = Arc::new(Names::default());
        let Staging::New(first, busy) = names.open(7, "a", to_fill(7, "a")) else { panic!("nobody has it open") };
        first.staged.emptied();
        drop(busy);
        let Staging::There { open: second, .. } = names.open(8, "a", to_fill(8, "a")) else { panic!("it is open") };
        assert!(Arc::ptr_eq(&first.staged, &second.staged) && names.staged(8).is_some());
        // Without its name, another file may have that.
        names.rename("b", "a");
        let Staging::New(other, _busy) = names.open(9, "a", to_fill(9, "a")) else { panic!("the name is free") };
        assert!(!Arc::ptr_eq(&first.staged, &other.staged));
        names.forget_closed(&first.staged);
        assert!(names.staged(7).is_some(), "open");
        let staged = Arc::clone(&first.staged);
        drop((first, second));
        names.forget_closed(&staged);
        assert!(names.staged(7).is_none() && names.staged(8).is_none() && names.staged(9).is_some());
    }

    #[test]
    fn nothing_is_opened_or_put_under_a_name_that_is_held() {
        let names = Arc::new(Names::default());
        let Staging::New(open, busy) = names.open(7, "a/x", to_fill(7, "a/x")) else { panic!("nobody has it open") };
        open.staged.emptied();
        let (from, to) = (["a".to_owned()], ["b".to_owned()]);
        let Err(Blocked::File(_)) = names.hold(&from) else { panic!("it is being filled") };
        drop(busy);
        let Staging::There { open: _alias, .. } = names.open(8, "a/x", to_fill(8, "a/x")) else { panic!("it is open") };
        let hold = names.hold(&[&from[..], &to].concat()).ok().unwrap();
        assert!(matches!(open.staged.begin_put(When::Sync), Begun::Busy) && open.staged.write(None, b"x").is_none());
        let (sender, waited) = crossbeam_channel::bounded(2);
        for path in ["a/y", "b"] {
            let Staging::Blocked(blocked) = names.open(9, path, to_fill(9, path)) else { panic!("{path} is held") };
            let sender = sender.clone();
            blocked.then(move || sender.send(()).unwrap());
        }
        assert!(names.hold(&to).is_err() && names.hold(&["c".to_owned()]).is_ok());
        names.rename("a", "b");
        assert!(waited.is_empty());
        drop(hold);
        assert_eq!(waited.len(), 2);
        let Begun::Put(put, _) = open.staged.begin_put(When::Sync) else { panic!("nobody holds it") };
        assert_eq!(&*put.path, "b/x");
    }
}
