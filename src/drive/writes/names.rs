//! Which files are staged: by the numbers the kernel knows them by, and by the names they are to have.
//! Never here: what is in them, and libraries.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::staged::{Busy, Staged};

/// All staged files.
#[derive(Default)]
pub(in crate::drive) struct Names {
    // Held for a look only; a file's name is looked at under it.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    // By inode number, until the last close.
    staged: HashMap<u64, Arc<Staged>>,
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
    There(Open),
}

impl Open {
    fn new(staged: &Arc<Staged>) -> Self {
        staged.opened();
        Self { staged: Arc::clone(staged) }
    }
}

impl Names {
    /// Opens what is staged under `ino`, or else `fresh`. One that is void is no more.
    pub fn open(&self, ino: u64, fresh: (Arc<Staged>, Busy)) -> Staging {
        let mut state = self.state.lock();
        if let Some(staged) = state.staged.get(&ino).filter(|staged| staged.failure().is_none()) {
            let open = Open::new(staged);
            drop(state);
            // Whoever waits for it: nobody.
            drop(fresh);
            return Staging::There(open);
        }
        let (staged, busy) = fresh;
        state.staged.insert(ino, Arc::clone(&staged));
        Staging::New(Open::new(&staged), busy)
    }

    /// Opens a file that nobody else can know yet.
    pub fn open_new(&self, staged: Arc<Staged>) -> Open {
        let open = Open::new(&staged);
        self.state.lock().staged.insert(staged.ino, staged);
        open
    }

    /// What is written under this number.
    pub fn staged(&self, ino: u64) -> Option<Arc<Staged>> {
        self.state.lock().staged.get(&ino).filter(|staged| staged.failure().is_none()).map(Arc::clone)
    }

    /// Whatever is to have the name `path`.
    pub fn staged_at(&self, path: &str) -> Vec<Arc<Staged>> {
        let state = self.state.lock();
        state.staged.values().filter(|staged| staged.is_at(path)).map(Arc::clone).collect()
    }

    /// One at `path` that nobody may change just now.
    pub fn busy_at(&self, path: &str) -> Option<Arc<Staged>> {
        self.staged_at(path).into_iter().find(|staged| staged.is_busy())
    }

    /// Whether anything is to have a name in this folder, or below it.
    pub fn is_any_below(&self, folder: &str) -> bool {
        self.state.lock().staged.values().any(|staged| staged.is_below(folder))
    }

    /// The number of a file that is at `path`, and in no library yet.
    pub fn new_at(&self, path: &str) -> Option<u64> {
        self.staged_at(path).iter().find(|staged| staged.is_new()).map(|staged| staged.ino)
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
        let names = Names::default();
        let Staging::New(first, busy) = names.open(7, to_fill(7, "a")) else { panic!("nobody has it open") };
        let Staging::There(second) = names.open(7, to_fill(7, "a")) else { panic!("it is being filled") };
        assert!(Arc::ptr_eq(&first.staged, &second.staged));
        let (sender, waited) = crossbeam_channel::bounded(1);
        assert!(second.staged.when_filled(move || sender.send(()).unwrap()).is_none());
        first.staged.filled(5, std::time::SystemTime::UNIX_EPOCH);
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
        let names = Names::default();
        for says_why in [true, false] {
            let Staging::New(first, busy) = names.open(7, to_fill(7, "a")) else { panic!("nobody has it open") };
            let Staging::There(second) = names.open(7, to_fill(7, "a")) else { panic!("it is being filled") };
            if says_why {
                first.staged.fail(&Error::new(Kind::Unsupported, "too large"));
            }
            drop(busy);
            let expected = if says_why { Kind::Unsupported } else { Kind::Local };
            assert_eq!(second.staged.failure().unwrap().kind(), expected);
            assert!(names.staged(7).is_none() && names.staged_at("a").is_empty());
            assert!(
                [When::Flush, When::Sync, When::Release]
                    .into_iter()
                    .all(|when| matches!(second.staged.begin_put(when), Begun::Nothing))
            );
            names.forget_closed(&second.staged);
        }
    }
}
