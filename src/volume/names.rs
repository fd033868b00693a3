//! Names: looked up, made, moved, taken away.
//! Never here: what is in the files.

use std::ffi::OsStr;
use std::time::SystemTime;

use super::{Volume, checked};
use crate::library::catalog::{Change, Node, NodeKind};
use crate::refusal::{Outcome, Refusal};

/// `S_ISGID`: what is made in such a folder belongs to its group.
const SET_GROUP: u32 = 0o2000;
/// Names that may lead to one node: as many as ext4 has.
const LINKS_MAX: u32 = 65_000;

/// What is made, and by whom.
#[derive(Clone, Copy, Debug)]
pub struct Made<'a> {
    /// What it is.
    pub kind: NodeKind,
    /// Permission bits, without those that the maker's umask takes.
    pub mode: u32,
    /// Of a device.
    pub rdev: u32,
    /// Where a link leads.
    pub target: Option<&'a OsStr>,
    /// User and group of the maker.
    pub owner: (u32, u32),
}

/// What a rename does with what has the new name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// It goes.
    Yes,
    /// Then there is no rename.
    No,
    /// It gets the old name.
    Exchange,
}

impl Volume {
    /// What `name` leads to. The kernel remembers it, if anything is there.
    pub fn lookup(&self, folder: u64, name: &OsStr) -> Outcome<Node> {
        // A name that can't be there isn't.
        let name = match checked(name) {
            Err(Refusal::NotText) => return Err(Refusal::Missing),
            name => name?,
        };
        let node = self.shared.catalog.read(|view| view.lookup(folder, name))?.ok_or(Refusal::Missing)?;
        self.shared.inodes.remember(node.node_id);
        self.current(node)
    }

    /// The kernel lets go of a node, so many times.
    pub fn forget(&self, node_id: u64, lookups: u64) {
        if self.shared.inodes.forget(node_id, lookups) {
            let _ = self.drop_node(node_id).inspect_err(|error| log::warn!("node {node_id}: {error}"));
        }
    }

    /// Makes a node and its name. The kernel remembers it.
    pub fn make(&self, folder: u64, name: &OsStr, made: &Made<'_>) -> Outcome<Node> {
        let name = checked(name)?;
        let target = made.target.map(|target| target.to_str().ok_or(Refusal::NotText)).transpose()?;
        self.check_room(0)?;
        let now = SystemTime::now();
        let node = self.shared.catalog.change(|change| {
            let above = folder_in(change, folder)?;
            if change.lookup(folder, name)?.is_some() {
                return Err(Refusal::Exists);
            }
            let mut node = Node::new(made.kind, made.mode & 0o7777, made.owner, now);
            node.rdev = made.rdev;
            if above.mode & SET_GROUP != 0 {
                node.gid = above.gid;
                if made.kind == NodeKind::Folder {
                    node.mode |= SET_GROUP;
                }
            }
            let node = change.add_node(&node, target)?;
            change.add_name(folder, name, &node, now)?;
            change.node(node.node_id)?.ok_or(Refusal::Missing)
        })?;
        self.shared.inodes.remember(node.node_id);
        Ok(node)
    }

    /// Gives a node one more name. The kernel remembers it.
    pub fn link(&self, node_id: u64, folder: u64, name: &OsStr) -> Outcome<Node> {
        let name = checked(name)?;
        self.check_room(0)?;
        let now = SystemTime::now();
        let node = self.shared.catalog.change(|change| {
            folder_in(change, folder)?;
            let node = change.node(node_id)?.ok_or(Refusal::Missing)?;
            if node.kind == NodeKind::Folder {
                return Err(Refusal::NotPermitted);
            }
            if node.links == 0 {
                return Err(Refusal::Missing);
            }
            if node.links >= LINKS_MAX {
                return Err(Refusal::TooManyLinks);
            }
            if change.lookup(folder, name)?.is_some() {
                return Err(Refusal::Exists);
            }
            change.add_name(folder, name, &node, now)?;
            change.node(node_id)?.ok_or(Refusal::Missing)
        })?;
        self.shared.inodes.remember(node_id);
        self.current(node)
    }

    /// Takes the name of something away that is not a folder.
    pub fn unlink(&self, folder: u64, name: &OsStr) -> Outcome<()> {
        self.check_writable()?;
        let name = checked(name)?;
        let node = self.shared.catalog.change(|change| {
            let node = change.lookup(folder, name)?.ok_or(Refusal::Missing)?;
            if node.kind == NodeKind::Folder {
                return Err(Refusal::IsFolder);
            }
            Ok(change.remove_name(folder, name, SystemTime::now())?)
        })?;
        self.unlinked(&node)
    }

    /// Takes an empty folder away.
    pub fn remove_folder(&self, folder: u64, name: &OsStr) -> Outcome<()> {
        self.check_writable()?;
        let name = checked(name)?;
        let node = self.shared.catalog.change(|change| {
            let node = change.lookup(folder, name)?.ok_or(Refusal::Missing)?;
            if node.kind != NodeKind::Folder {
                return Err(Refusal::NotFolder);
            }
            if !change.is_empty_folder(node.node_id)? {
                return Err(Refusal::NotEmpty);
            }
            Ok(change.remove_name(folder, name, SystemTime::now())?)
        })?;
        self.unlinked(&node)
    }

    /// Gives what is at `from` the name at `to`, in one step.
    pub fn rename(&self, from: (u64, &OsStr), to: (u64, &OsStr), replace: Replace) -> Outcome<()> {
        let (from, to) = ((from.0, checked(from.1)?), (to.0, checked(to.1)?));
        // In place of another name nothing grows.
        self.check_writable()?;
        let now = SystemTime::now();
        let replaced = self.shared.catalog.change(|change| {
            let node = change.lookup(from.0, from.1)?.ok_or(Refusal::Missing)?;
            folder_in(change, to.0)?;
            let there = change.lookup(to.0, to.1)?;
            check_apart(change, &node, to.0)?;
            if replace == Replace::Exchange {
                let other = there.ok_or(Refusal::Missing)?;
                check_apart(change, &other, from.0)?;
                change.lead_to(to.0, to.1, &node, now)?;
                change.lead_to(from.0, from.1, &other, now)?;
                return Ok(None);
            }
            let replaced = match there {
                None if from.0 == to.0 => {
                    change.replace_name(from.0, from.1, to.1, &node, now)?;
                    return Ok(None);
                }
                None => {
                    change.add_name(to.0, to.1, &node, now)?;
                    None
                }
                Some(_) if replace == Replace::No => return Err(Refusal::Exists),
                // Two names of one node: POSIX wants both to stay.
                Some(there) if there.node_id == node.node_id => return Ok(None),
                Some(there) => {
                    match (node.kind == NodeKind::Folder, there.kind == NodeKind::Folder) {
                        (true, false) => return Err(Refusal::NotFolder),
                        (false, true) => return Err(Refusal::IsFolder),
                        (true, true) if !change.is_empty_folder(there.node_id)? => return Err(Refusal::NotEmpty),
                        _ => {}
                    }
                    Some(change.lead_to(to.0, to.1, &node, now)?)
                }
            };
            change.remove_name(from.0, from.1, now)?;
            Ok(replaced)
        })?;
        replaced.map_or(Ok(()), |replaced| self.unlinked(&replaced))
    }

    /// The kernel takes an entry of a listing as looked up.
    pub fn remember(&self, node_id: u64) {
        self.shared.inodes.remember(node_id);
    }

    /// The folder above; the top's is itself. One that was removed has none, and is its own.
    pub fn parent(&self, folder: u64) -> Outcome<u64> {
        Ok(self.shared.catalog.read(|view| view.parent(folder))?.unwrap_or(folder))
    }
}

fn folder_in(change: &Change<'_>, folder: u64) -> Outcome<Node> {
    let node = change.node(folder)?.ok_or(Refusal::Missing)?;
    if node.kind != NodeKind::Folder {
        return Err(Refusal::NotFolder);
    }
    // Removed, and still somebody's working directory.
    if node.links == 0 { Err(Refusal::Missing) } else { Ok(node) }
}

/// A folder can't be moved into itself.
fn check_apart(change: &Change<'_>, node: &Node, into: u64) -> Outcome<()> {
    if node.kind == NodeKind::Folder && change.is_within(into, node.node_id)? {
        return Err(Refusal::Invalid);
    }
    Ok(())
}
