//! Names that are made, moved and taken away; and what is known of names, changed as the library was.
//! Never here: what files hold.
//!
//! A library knows files only. A folder that loses its last one here stays until somebody removes it, as programs expect.

use std::sync::Arc;

use super::inodes::folder_of;
use super::listing::Listing;
use super::writes::{Then, There, Writes};
use super::{Attributes, Drive};
use crate::error::{Error, Kind};
use crate::origin::{Listed, ListedKind};
use crate::refusal::{Outcome, Refusal};

impl Drive {
    /// Makes a folder. It is known here only, until a file is put in it.
    pub fn make_folder(&self, parent: u64, name: &str) -> Outcome<Attributes> {
        let (writes, path) = self.child(parent, name)?;
        if writes.names.new_at(&path).is_some() {
            return Err(Refusal::Exists);
        }
        writes.made.add(&path)?;
        let listed = self.is_there(&path, ListedKind::Folder);
        self.listings.expire(&path);
        Ok(self.attributes(&self.inodes.look_up(&path, &listed, None)))
    }

    /// Removes a folder that holds nothing.
    pub fn remove_folder(self: &Arc<Self>, parent: u64, name: &str, reply: Then<()>) {
        self.change_one(self.child(parent, name), reply, |drive, writes, path| {
            if writes.made.has_below(path) || writes.names.is_any_below(path) {
                return Err(Refusal::NotEmpty);
            }
            match writes.home.there(path)? {
                There::Folder => return Err(Refusal::NotEmpty),
                There::File => return Err(Refusal::Invalid),
                There::Nothing => {}
            }
            writes.made.remove(path);
            writes.made.keep(folder_of(path));
            drive.is_gone(path);
            Ok(())
        });
    }

    /// Takes a file's name away. Who has it open to be written goes on without a name.
    pub fn unlink(self: &Arc<Self>, parent: u64, name: &str, reply: Then<()>) {
        self.change_one(self.child(parent, name), reply, |drive, writes, path| {
            let staged = writes.names.at(path);
            let is_new = staged.as_ref().is_some_and(|staged| staged.is_new());
            writes.made.keep(folder_of(path));
            match writes.home.remove(path) {
                Err(error) if error.kind() == Kind::Missing && is_new => {}
                removed => {
                    let _ = removed.as_ref().inspect_err(|error| log::warn!("{path}: not removed: {error}"));
                    if removed.as_ref().err().is_none_or(|error| error.kind() == Kind::Missing) {
                        drive.is_gone(path);
                    }
                    removed?;
                }
            }
            if let Some(staged) = staged {
                staged.rename(None);
            }
            Ok(())
        });
    }

    /// Gives a file, or a folder that no file is in, another name; a file that has it is replaced, in one step. With
    /// `may_replace` false that is refused, as far as is known: the library itself can't.
    pub fn rename(
        self: &Arc<Self>,
        (parent, name): (u64, &str),
        (new_parent, new_name): (u64, &str),
        may_replace: bool,
        reply: Then<()>,
    ) {
        let paths = self.child(parent, name).and_then(|(_, from)| Ok([from, self.child(new_parent, new_name)?.1]));
        self.change(paths, reply, move |drive, writes, [from, to]| {
            let is_new = writes.names.new_at(from).is_some();
            let there = writes.home.there(from)?;
            if there == There::Folder {
                return Err(Refusal::OtherPlace);
            }
            let is_there = || {
                let is_known = writes.made.is_there(to) || writes.names.at(to).is_some();
                Ok::<_, Error>(is_known || writes.home.there(to)? != There::Nothing)
            };
            if !may_replace && is_there()? {
                return Err(Refusal::Exists);
            }
            if there == There::Nothing && !is_new {
                return drive.rename_made(writes, from, to);
            }
            writes.made.keep(folder_of(from));
            if there == There::File {
                writes.home.rename(from, to).inspect_err(|error| log::warn!("{from}: not renamed to {to}: {error}"))?;
                drive.inodes.rename(from, to);
                drive.is_gone(from);
                drive.is_there(to, ListedKind::File { size_bytes: None });
            }
            writes.names.rename(from, to);
            Ok(())
        });
    }

    fn rename_made(&self, writes: &Writes, from: &str, to: &str) -> Outcome<()> {
        if !writes.made.is_there(from) {
            return Err(Refusal::Missing);
        }
        if writes.made.has_below(to) || writes.names.is_any_below(to) || writes.home.there(to)? != There::Nothing {
            return Err(Refusal::NotEmpty);
        }
        writes.made.rename(from, to);
        writes.names.rename(from, to);
        writes.made.keep(folder_of(from));
        self.inodes.rename(from, to);
        self.is_gone(from);
        self.is_there(to, ListedKind::Folder);
        self.listings.expire_below(from);
        self.listings.expire_below(to);
        Ok(())
    }

    /// Does what may have to wait for the library, on a thread that may. Nobody else changes these names meanwhile, and nothing
    /// is put below them.
    pub(super) fn change<T: Send + 'static, const N: usize>(
        self: &Arc<Self>,
        paths: Outcome<[String; N]>,
        reply: Then<T>,
        change: impl FnOnce(&Self, &Writes, &[String; N]) -> Outcome<T> + Send + 'static,
    ) {
        let (writes, paths) = match self.writes().and_then(|writes| Ok((writes, paths?))) {
            Ok(what) => what,
            Err(refusal) => return reply(Err(refusal)),
        };
        let drive = Arc::clone(self);
        let hold = match writes.names.hold(&paths) {
            Ok(hold) => hold,
            Err(blocked) => return blocked.then(move || drive.change(Ok(paths), reply, change)),
        };
        let queued = writes.changes.run(move || {
            let changed = drive.writes().and_then(|writes| change(&drive, writes, &paths));
            drop(hold);
            reply(changed);
        });
        if let Err(error) = queued {
            log::warn!("{error}");
        }
    }

    /// The same with one name.
    pub(super) fn change_one<T: Send + 'static>(
        self: &Arc<Self>,
        what: Outcome<(&Writes, String)>,
        reply: Then<T>,
        change: impl FnOnce(&Self, &Writes, &str) -> Outcome<T> + Send + 'static,
    ) {
        let path = what.map(|(_, path)| [path]);
        self.change(path, reply, move |drive, writes, [path]| change(drive, writes, path));
    }

    /// A file was put: whoever looks gets the new one.
    pub(super) fn file_is_there(&self, path: &str) {
        self.is_there(path, ListedKind::File { size_bytes: None });
    }

    /// A name is there, as a library lists it.
    pub(super) fn is_there(&self, path: &str, kind: ListedKind) -> Listed {
        let name = path.rsplit('/').next().unwrap_or_default();
        let listed = Listed { name: name.into(), kind, modified: None };
        let added = listed.clone();
        self.stats.expire(path);
        self.listings.amend(folder_of(path), move |listing: &mut Listing| listing.put(added));
        // A folder that had none of it on the way here may be new to those above.
        let mut folder = folder_of(path);
        while !folder.is_empty() {
            let name = folder.rsplit('/').next().unwrap_or_default();
            self.listings.amend(folder_of(folder), |listing| {
                matches!(listing.find(name), Ok(Some(_)))
                    || listing.put(Listed { name: name.into(), kind: ListedKind::Folder, modified: None })
            });
            folder = folder_of(folder);
        }
        listed
    }

    /// A name is not there any more.
    fn is_gone(&self, path: &str) {
        let name = path.rsplit('/').next().unwrap_or_default();
        self.inodes.supersede_path(path);
        self.stats.expire(path);
        self.listings.expire(path);
        self.listings.amend(folder_of(path), |listing| listing.remove(name));
    }
}
