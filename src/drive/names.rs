//! Names and attributes: lookup, getattr, folders and their entries.
//! Never here: file contents.

use std::sync::Arc;
use std::time::Duration;

use super::inodes::ROOT;
use super::listing::{Listing, position};
use super::{Attributes, Drive, Node, NodeKind, OpenFolder};
use crate::error::{Error, Kind, Result};
use crate::origin::{Listed, ListedKind, Stat};
use crate::store::join;

/// Sizes asked for ahead of somebody who walks through a folder: as many as the threads for names take at once, four
/// times over.
const STATS_AHEAD_MAX: usize = 64;
/// Names skipped in such a walk (folders, sizes known) before it counts as another one.
const STAT_GAP_MAX: usize = 16;

/// Connections are made ready for whoever looks names up, but not more often than this; the shortest time for which common
/// servers keep an idle one (Apache) is 5 s.
const WARM_EVERY: Duration = Duration::from_secs(4);

/// Offsets into a folder begin with the two dots.
const DOTS: u64 = 2;

/// A name in an open folder.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// The last component.
    pub name: &'a str,
    /// File or folder.
    pub kind: NodeKind,
    /// Its number.
    pub ino: u64,
    /// Where the next `readdir` goes on after it.
    pub next_offset: u64,
}

/// What became of looking a name up.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// It is there; one lookup was counted.
    Name(Attributes),
    /// The folder's listing does not hold it.
    Nothing,
}

/// A walk through a folder whose sizes have to be asked for one by one.
#[derive(Debug, Default)]
pub(super) struct StatRun {
    folder: Arc<str>,
    at: usize,
    len: usize,
}

impl StatRun {
    /// Takes in that the size of name number `at` was asked for; how many after it to ask for, too. Doubles as the
    /// walk goes on, so that a lone `stat` costs one question.
    fn observe(&mut self, folder: &Arc<str>, at: usize) -> usize {
        let goes_on = *self.folder == **folder && (self.at..=self.at + STAT_GAP_MAX).contains(&at);
        self.len = if goes_on { (self.len * 2).clamp(1, STATS_AHEAD_MAX) } else { 0 };
        self.at = at;
        if !goes_on {
            self.folder = Arc::clone(folder);
        }
        self.len
    }
}

impl Drive {
    /// Finds `name` in the folder `parent` and counts one lookup of it.
    pub fn lookup(self: &Arc<Self>, parent: u64, name: &str, reply: impl FnOnce(Result<Found>) + Send + 'static) {
        let folder = match self.node(parent) {
            Ok(folder) => folder,
            Err(error) => return reply(Err(error)),
        };
        if let Some(attributes) = self.look_up_new(&folder.path, name) {
            return reply(Ok(Found::Name(attributes)));
        }
        let (drive, name) = (Arc::clone(self), Box::<str>::from(name));
        let path = Arc::clone(&folder.path);
        self.listings.get(
            &path,
            Box::new(move |listing| match listing {
                Ok(listing) => drive.lookup_in(&folder, &listing, &name, reply),
                Err(error) => reply(Err(error)),
            }),
        );
    }

    fn lookup_in(
        self: Arc<Self>,
        folder: &Node,
        listing: &Listing,
        name: &str,
        reply: impl FnOnce(Result<Found>) + Send + 'static,
    ) {
        let listed = match listing.find(name) {
            Ok(Some(listed)) => listed,
            Ok(None) => return reply(Ok(Found::Nothing)),
            Err(error) => return reply(Err(error)),
        };
        let path = join(&folder.path, name);
        if matches!(listed.kind, ListedKind::File { .. }) {
            // Whoever looks a film up may open it next.
            self.origin.warm(WARM_EVERY);
        }
        if listed.kind != (ListedKind::File { size_bytes: None }) {
            let stat = self.stats.fresh(&path);
            return reply(Ok(Found::Name(self.known_to_kernel(&path, &listed, stat.as_ref()))));
        }
        self.prefetch_stats(&folder.path, listing, name);
        let drive = Arc::clone(&self);
        self.stats.get(
            &path.clone(),
            Box::new(move |stat| {
                reply(stat.map(|stat| Found::Name(drive.known_to_kernel(&path, &listed, Some(&stat)))));
            }),
        );
    }

    /// Has the sizes behind `name` asked for, if somebody walks through the folder. A large one is not walked ahead.
    fn prefetch_stats(&self, folder: &Arc<str>, listing: &Listing, name: &str) {
        let Listing::Small(names) = listing else { return };
        let Some(at) = position(names, name) else { return };
        let ahead = self.stat_run.lock().observe(folder, at);
        let next = names[at + 1..].iter().filter(|next| next.kind == ListedKind::File { size_bytes: None });
        next.take(ahead).for_each(|next| self.stats.prefetch(&join(folder, &next.name)));
    }

    /// The attributes of a name with one lookup of it counted. Where too many are known, one is let go.
    fn known_to_kernel(self: &Arc<Self>, path: &str, listed: &Listed, stat: Option<&Stat>) -> Attributes {
        let node = self.inodes.look_up(path, listed, stat);
        self.look_for_growth(&node);
        self.let_one_go();
        let mut attributes = self.attributes(&node);
        // It will be another one soon: the kernel asks each time.
        attributes.is_complete &= !self.is_being_written(path);
        attributes
    }

    fn let_one_go(&self) {
        let Some(ino) = self.inodes.next_to_let_go() else { return };
        if self.staged_under(ino).is_none() {
            self.inodes.let_go(ino);
        } else {
            // What is written stays, whoever holds it.
            self.inodes.put_off(ino);
        }
    }

    /// Attributes of an inode. Asks the origin only if the size was never told.
    pub fn getattr(self: &Arc<Self>, ino: u64, reply: impl FnOnce(Result<Attributes>) + Send + 'static) {
        let node = match self.node(ino) {
            Ok(node) => node,
            Err(error) => return reply(Err(error)),
        };
        if let Some(staged) = self.staged_under(ino) {
            // Its size is known when its content is there; if that fails, it is the old one again.
            let drive = Arc::clone(self);
            let filled = move || match drive.staged_attributes(ino) {
                Some(written) => reply(Ok(written)),
                None => drive.getattr(ino, reply),
            };
            if let Some(now) = staged.when_filled(filled) {
                now();
            }
            return;
        }
        self.look_for_growth(&node);
        let known = self.attributes(&node);
        if known.is_complete {
            return reply(Ok(known));
        }
        let drive = Arc::clone(self);
        let path = Arc::clone(&node.path);
        self.stats.get(
            &path,
            Box::new(move |stat| {
                reply(stat.and_then(|stat| {
                    if node.bind(&stat) { Ok(drive.attributes(&node)) } else { Err(changed(&node.path)) }
                }));
            }),
        );
    }

    /// Opens a folder: takes its listing as it is now.
    pub fn opendir(self: &Arc<Self>, ino: u64, reply: impl FnOnce(Result<u64>) + Send + 'static) {
        let node = match self.node(ino) {
            Ok(node) if node.kind == NodeKind::Folder => node,
            Ok(node) => return reply(Err(Error::new(Kind::Invalid, format!("{} is not a folder", node.path)))),
            Err(error) => return reply(Err(error)),
        };
        let drive = Arc::clone(self);
        let path = Arc::clone(&node.path);
        self.listings.get(
            &path,
            Box::new(move |listing| {
                reply(listing.map(|listing| drive.folders.add(Arc::new(OpenFolder { node, listing }))));
            }),
        );
    }

    /// Closes a folder.
    pub fn releasedir(&self, handle: u64) {
        self.folders.remove(handle);
    }

    /// Names of an open folder from `offset` on, until `visit` says that it has no room (`true`).
    pub fn readdir(&self, handle: u64, offset: u64, mut visit: impl FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        let folder = self.open_folder(handle)?;
        for entry in self.dots(&folder, offset) {
            if visit(entry) {
                return Ok(());
            }
        }
        folder.listing.visit_from(offset.saturating_sub(DOTS), |at, listed| {
            let ino = self.inodes.current_number(&join(&folder.node.path, &listed.name));
            visit(DirEntry { name: &listed.name, kind: kind_of(listed), ino, next_offset: at + DOTS + 1 })
        })
    }

    /// The same with attributes, counting one lookup of each name taken. The two dots come without (`None`).
    pub fn readdir_plus(
        self: &Arc<Self>,
        handle: u64,
        offset: u64,
        mut visit: impl FnMut(DirEntry<'_>, Option<Attributes>) -> bool,
    ) -> Result<()> {
        let folder = self.open_folder(handle)?;
        for entry in self.dots(&folder, offset) {
            if visit(entry, None) {
                return Ok(());
            }
        }
        folder.listing.visit_from(offset.saturating_sub(DOTS), |at, listed| {
            let path = join(&folder.node.path, &listed.name);
            let attributes = self.known_to_kernel(&path, listed, self.stats.fresh(&path).as_ref());
            let (kind, ino) = (attributes.kind, attributes.ino);
            let is_full =
                visit(DirEntry { name: &listed.name, kind, ino, next_offset: at + DOTS + 1 }, Some(attributes));
            if is_full {
                // Not taken: the kernel will not forget it.
                self.inodes.forget(ino, 1);
            }
            is_full
        })
    }

    /// `.` and `..`, as far as `offset` has not passed them.
    fn dots(&self, folder: &OpenFolder, offset: u64) -> impl Iterator<Item = DirEntry<'static>> + use<> {
        let own = folder.node.ino;
        let parent = match folder.node.path.rsplit_once('/') {
            Some((parent, _)) => self.inodes.current_number(parent),
            None => ROOT,
        };
        let dots = [(".", own), ("..", parent)].map(|(name, ino)| (name, ino, NodeKind::Folder));
        (1..)
            .zip(dots)
            .map(|(next_offset, (name, ino, kind))| DirEntry { name, kind, ino, next_offset })
            .filter(move |entry| entry.next_offset > offset)
    }

    fn open_folder(&self, handle: u64) -> Result<Arc<OpenFolder>> {
        self.folders.get(handle).ok_or_else(|| Error::new(Kind::Invalid, "this folder is not open"))
    }
}

pub(super) fn changed(path: &str) -> Error {
    Error::new(Kind::Changed, format!("{path} has changed at the origin: open it again"))
}

fn kind_of(listed: &Listed) -> NodeKind {
    match listed.kind {
        ListedKind::Folder => NodeKind::Folder,
        ListedKind::File { .. } => NodeKind::File,
        ListedKind::Link { .. } => NodeKind::Link,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_asks_ahead_and_a_lone_stat_does_not() {
        let (folder, other): (Arc<str>, Arc<str>) = ("f".into(), "g".into());
        let mut run = StatRun::default();
        let asked: Vec<_> = (10..20).map(|at| run.observe(&folder, at)).collect();
        assert_eq!(asked, [0, 1, 2, 4, 8, 16, 32, 64, 64, 64]);
        assert_eq!(run.observe(&folder, 500), 0);
        assert_eq!(run.observe(&other, 501), 0);
        assert_eq!(run.observe(&other, 500), 0, "backwards");
    }
}
