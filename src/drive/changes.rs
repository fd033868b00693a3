//! Files that are written: staged, and put when they are closed (see `writes`).
//! Never here: how a library keeps them, and names (see `naming`).
//!
//! An inode number is one version, so one that is written is no other's: whoever else looks its name up gets another
//! number, for the old version, until the new one is put. A number that is open for reading is never written under: the
//! writer is told that it has changed, and the kernel looks the name up again, and gets a new one. All writers of a name
//! share one staged file, whichever number each of them has.

use std::sync::Arc;
use std::time::SystemTime;

use super::names::changed;
use super::writes::{Begun, COPY_BYTES_MAX, Open, Staged, Staging, Then, There, When, Writes};
use super::{Attributes, Drive, Node, NodeKind};
use crate::error::{Error, Kind, Result};
use crate::library::check_path;
use crate::origin::ListedKind;
use crate::refusal::{Outcome, Refusal};
use crate::store::{NAME_BYTES_MAX, join};

/// What is to be set of a file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes {
    /// Bytes.
    pub size_bytes: Option<u64>,
    /// Last change.
    pub modified: Option<SystemTime>,
}

impl Drive {
    /// Whether anything can be changed.
    pub fn is_writable(&self) -> bool {
        self.writes.is_some()
    }

    pub(super) fn writes(&self) -> Outcome<&Writes> {
        self.writes.as_ref().ok_or(Refusal::ReadOnly)
    }

    /// The path of a name in a folder that the kernel knows.
    pub(super) fn child(&self, parent: u64, name: &str) -> Outcome<(&Writes, String)> {
        let writes = self.writes()?;
        let path = join(&self.node(parent)?.path, name);
        if name.len() > NAME_BYTES_MAX {
            return Err(Refusal::NameTooLong);
        }
        check_path(&path)?;
        Ok((writes, path))
    }

    /// The staged file of a handle.
    pub(super) fn staged(&self, handle: u64) -> Option<Arc<Staged>> {
        self.writes.as_ref()?.of_handle(handle)
    }

    /// What is written under a number.
    pub(super) fn staged_under(&self, ino: u64) -> Option<Arc<Staged>> {
        self.writes.as_ref()?.names.staged(ino)
    }

    pub(super) fn is_being_written(&self, path: &str) -> bool {
        self.writes.as_ref().is_some_and(|writes| writes.names.at(path).is_some())
    }

    /// One lookup of a name that was made here and not put yet.
    pub(super) fn look_up_new(&self, folder: &str, name: &str) -> Option<Attributes> {
        let ino = self.writes.as_ref()?.names.new_at(&join(folder, name))?;
        let attributes = self.staged_attributes(ino)?;
        self.inodes.look_up_number(ino).then_some(attributes)
    }

    /// Attributes of what is written under a number. Nobody may remember them.
    pub(super) fn staged_attributes(&self, ino: u64) -> Option<Attributes> {
        let staged = self.staged_under(ino)?;
        let (size_bytes, modified) = staged.size_and_time();
        let node = self.inodes.get(ino)?;
        Some(Attributes { size_bytes, modified, is_complete: false, ..self.attributes(&node) })
    }

    /// A number that is written under shows nobody else what is not put yet.
    pub(super) fn check_not_staged(&self, node: &Node) -> Result<()> {
        match self.staged_under(node.ino) {
            None => Ok(()),
            Some(staged) if staged.is_new() => {
                Err(Error::new(Kind::Missing, format!("{}: not there before it is closed", node.path)))
            }
            Some(_) => Err(changed(&node.path)),
        }
    }

    /// Makes a file, and opens it to be written. Nobody else opens it before it was put. Whether one is there the library is
    /// asked: what was listed may be old.
    pub fn create(self: &Arc<Self>, parent: u64, name: &str, is_exclusive: bool, reply: Then<(Attributes, u64)>) {
        self.change_one(self.child(parent, name), reply, move |drive, writes, path| {
            let there = writes.home.there(path).inspect_err(|error| log::warn!("{path}: not made: {error}"))?;
            let staged = writes.names.at(path);
            match there {
                There::Nothing => {}
                There::File => drive.file_is_there(path),
                There::Folder => drop(drive.is_there(path, ListedKind::Folder)),
            }
            let is_new = staged.as_ref().is_some_and(|staged| staged.is_new());
            if is_new || there != There::Nothing || writes.made.is_there(path) {
                // Not exclusive: the kernel looks it up again, and opens it.
                return Err(if is_exclusive { Refusal::Exists } else { changed(path).into() });
            }
            // Somebody else took its name away.
            if let Some(staged) = staged {
                staged.rename(None);
            }
            let ino = drive.inodes.reserve(path);
            let open = writes.stage_new(ino, path).inspect_err(|_| drive.inodes.forget(ino, 1))?;
            let attributes = drive.staged_attributes(ino).ok_or_else(|| changed(path))?;
            Ok((attributes, writes.handle(open)))
        });
    }

    /// Opens a file to be written: from nothing on if it `is_truncated`, else with what it holds, which is fetched first.
    pub fn open_to_write(self: &Arc<Self>, ino: u64, is_truncated: bool, reply: Then<u64>) {
        let (writes, node) = match self.writes().and_then(|writes| Ok((writes, self.node(ino)?))) {
            Ok((_, node)) if node.kind != NodeKind::File => return reply(Err(Refusal::IsFolder)),
            Ok(both) => both,
            Err(refusal) => return reply(Err(refusal)),
        };
        let (open, filling) = match writes.stage(ino, &node.path) {
            Ok(Staging::There { open, is_known: true }) => return self.join_writers(open, is_truncated, reply),
            Ok(Staging::There { open, is_known: false }) => (open, None),
            Ok(Staging::New(open, busy)) => (open, Some(busy)),
            Ok(Staging::Blocked(blocked)) => {
                // What has the name then, the kernel finds out: this file may have another one, or none.
                return blocked.then(move || reply(Err(changed(&node.path).into())));
            }
            Err(error) => return reply(Err(error.into())),
        };
        self.inodes.supersede(&node);
        if self.files.any(|file| file.node.ino == ino) {
            if filling.is_some() {
                open.staged.fail(&changed(&node.path));
            }
            writes.names.leave(ino);
            writes.names.forget_closed(&open.staged);
            return reply(Err(changed(&node.path).into()));
        }
        let Some(busy) = filling else { return self.join_writers(open, is_truncated, reply) };
        if is_truncated {
            open.staged.emptied();
            drop(busy);
            return reply(Ok(writes.handle(open)));
        }
        let (drive, staged) = (Arc::clone(self), Arc::clone(&open.staged));
        let queued = writes.fetches.run(move || {
            let Some(writes) = &drive.writes else { return };
            let fetched = drive.fetch_to_write(writes, &node, &open.staged).inspect_err(|error| {
                open.staged.fail(error);
                writes.names.forget_closed(&open.staged);
            });
            drop(busy);
            reply(fetched.map(|()| writes.handle(open)).map_err(Refusal::from));
        });
        if let Err(error) = queued {
            log::warn!("{error}");
            writes.names.forget_closed(&staged);
        }
    }

    /// Opens what somebody else has opened to be written, as soon as its content is there.
    fn join_writers(self: &Arc<Self>, open: Open, is_truncated: bool, reply: Then<u64>) {
        let (drive, staged) = (Arc::clone(self), Arc::clone(&open.staged));
        let filled = move || {
            if let Some(error) = open.staged.failure() {
                return reply(Err(error.into()));
            }
            let handle = |drive: &Self, open| drive.writes().map(|writes| writes.handle(open));
            if !is_truncated {
                return reply(handle(&drive, open));
            }
            let (staged, empty) = (Arc::clone(&open.staged), Changes { size_bytes: Some(0), modified: None });
            let cut = move |cut: Outcome<()>| match cut {
                Ok(()) => reply(handle(&drive, open)),
                Err(refusal) => {
                    let staged = Arc::clone(&open.staged);
                    drop(open);
                    drive.forget_closed(&staged);
                    reply(Err(refusal));
                }
            };
            Self::set(&staged, empty, Box::new(cut));
        };
        if let Some(now) = staged.when_filled(filled) {
            now();
        }
    }

    fn fetch_to_write(&self, writes: &Writes, node: &Node, staged: &Staged) -> Result<()> {
        let manifest = writes.home.manifest(&node.path)?;
        let size_bytes = manifest.size_bytes();
        if node.size_bytes().is_some_and(|known| known != size_bytes) {
            self.stats.expire(&node.path);
            return Err(changed(&node.path));
        }
        if size_bytes > COPY_BYTES_MAX {
            let message = format!(
                "{}: {size_bytes} bytes can't be changed in place ({COPY_BYTES_MAX} at most): write it anew",
                node.path
            );
            log::warn!("{message}");
            return Err(Error::new(Kind::Unsupported, message));
        }
        writes.home.fetch(&node.path, &manifest, staged.file())?;
        staged.filled(manifest.content_id(), size_bytes, manifest.meta().modified);
        Ok(())
    }

    /// Writes to an open file; at its end where no offset is given, whatever the kernel takes for that.
    pub fn write(self: &Arc<Self>, handle: u64, offset: Option<u64>, bytes: &[u8], reply: Then<usize>) {
        let Some(staged) = self.staged(handle) else { return reply(Err(not_open())) };
        if let Some(written) = staged.write(offset, bytes) {
            return reply(written.map(|()| bytes.len()).map_err(Refusal::from));
        }
        let (drive, bytes) = (Arc::clone(self), bytes.to_vec());
        if let Some(now) = staged.when_idle(move || drive.write(handle, offset, &bytes, reply)) {
            now();
        }
    }

    fn set(staged: &Arc<Staged>, changes: Changes, reply: Then<()>) {
        if let Some(set) = staged.set(changes.size_bytes, changes.modified) {
            return reply(set.map_err(Refusal::from));
        }
        let same = Arc::clone(staged);
        if let Some(now) = staged.when_idle(move || Self::set(&same, changes, reply)) {
            now();
        }
    }

    /// Sets what can be set: of a file that nobody writes its time; of a folder nothing.
    pub fn set_attributes(self: &Arc<Self>, ino: u64, handle: Option<u64>, changes: Changes, reply: Then<Attributes>) {
        let writes = match self.writes() {
            Ok(writes) => writes,
            Err(refusal) => return reply(Err(refusal)),
        };
        let staged = handle.and_then(|handle| self.staged(handle)).or_else(|| self.staged_under(ino));
        let drive = Arc::clone(self);
        let done = move |done: Outcome<()>| match done {
            Ok(()) => drive.getattr(ino, move |attributes| reply(attributes.map_err(Refusal::from))),
            Err(refusal) => reply(Err(refusal)),
        };
        match (staged, changes) {
            (None, Changes { size_bytes: Some(_), .. }) => done(Err(Refusal::Unsupported)),
            (None, Changes { modified: Some(modified), .. }) => match self.node(ino) {
                Ok(node) if node.kind == NodeKind::File => {
                    let path = node.path.to_string();
                    self.change_one(Ok((writes, path)), Box::new(done), move |drive, writes, path| {
                        writes.home.set_modified(path, modified)?;
                        node.set_modified(modified);
                        drive.stats.expire(path);
                        Ok(())
                    });
                }
                // Those of folders are told by nobody.
                _ => done(Ok(())),
            },
            (None, _) | (Some(_), Changes { size_bytes: None, modified: None }) => done(Ok(())),
            (Some(staged), changes) => Self::set(&staged, changes, Box::new(done)),
        }
    }

    /// Puts an open file, if it was changed, and answers when it is there, or could not be.
    pub fn sync(self: &Arc<Self>, handle: u64, is_close: bool, reply: Then<()>) {
        match self.staged(handle) {
            Some(staged) => self.put(staged, if is_close { When::Flush } else { When::Sync }, reply),
            // Open to be read.
            None => reply(Ok(())),
        }
    }

    /// Closes a file that was open to be written. `false`: it is none of them.
    pub fn release_written(self: &Arc<Self>, handle: u64) -> bool {
        let Some(writes) = &self.writes else { return false };
        let Some(staged) = writes.of_handle(handle) else { return false };
        writes.close(handle);
        if !staged.is_open() {
            // What could not be put was said in the log.
            self.put(staged, When::Release, Box::new(|_| ()));
        }
        true
    }

    fn put(self: &Arc<Self>, staged: Arc<Staged>, when: When, reply: Then<()>) {
        let writes = match self.writes() {
            Ok(writes) => writes,
            Err(refusal) => return reply(Err(refusal)),
        };
        let drive = Arc::clone(self);
        let (mut put, busy) = match staged.begin_put(when) {
            Begun::Put(put, busy) => (put, busy),
            Begun::Nothing => {
                self.forget_closed(&staged);
                return reply(Ok(()));
            }
            Begun::Busy => {
                let same = Arc::clone(&staged);
                if let Some(now) = staged.when_idle(move || drive.put(same, when, reply)) {
                    now();
                }
                return;
            }
        };
        let queued = writes.puts.run(move || {
            let Some(writes) = &drive.writes else { return };
            let done = writes.home.put(&put.path, staged.file(), put.modified, &mut put.replaces);
            staged.ended_put(done.is_ok(), put.replaces);
            match &done {
                Ok(()) => drive.file_is_there(&put.path),
                Err(error) => log::warn!("{}: not put: {error}", put.path),
            }
            drop(busy);
            drive.forget_closed(&staged);
            // What was closed is what a program finds from now on by its name: on a drive that can be written to, the kernel
            // remembers no names.
            reply(done.map_err(Refusal::from));
        });
        if let Err(error) = queued {
            log::warn!("{error}");
        }
    }

    fn forget_closed(&self, staged: &Arc<Staged>) {
        if let Some(writes) = &self.writes {
            writes.names.forget_closed(staged);
        }
    }
}

fn not_open() -> Refusal {
    Error::new(Kind::Invalid, "this file is not open to be written").into()
}
