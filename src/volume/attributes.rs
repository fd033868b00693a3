//! Attributes: told, set; extended ones, too; and how much room there is.
//! Never here: whether the caller may.

use std::ffi::OsStr;
use std::time::SystemTime;

use super::Volume;
use crate::error::Error;
use crate::library::catalog::Node;
use crate::library::manifest::FILE_BYTES_MAX;
use crate::refusal::{Outcome, Refusal};
use crate::sys;

/// The only extended attributes that are kept: a program's own.
const XATTR_PREFIX: &str = "user.";
/// Bytes of an extended attribute's name: the kernel's own limit.
const XATTR_NAME_BYTES_MAX: usize = 255;
/// Bytes of its value: the same.
const XATTR_BYTES_MAX: usize = 64 << 10;
/// Extended attributes of one node: the list of their names fits what the kernel takes.
const XATTRS_MAX: usize = 200;

/// What is to be set of a node; the rest stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Cuts it off, or has it grow by a hole.
    pub size_bytes: Option<u64>,
    /// When it was last read.
    pub accessed: Option<SystemTime>,
    /// When it was last written.
    pub modified: Option<SystemTime>,
}

/// Whether setting an extended attribute may make it or replace it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetMode {
    /// Both.
    Any,
    /// Only if it is not there.
    Create,
    /// Only if it is.
    Replace,
}

impl Volume {
    /// What the node is.
    pub fn attributes(&self, node_id: u64) -> Outcome<Node> {
        let node = self.shared.catalog.read(|view| view.node(node_id))?.ok_or(Refusal::Missing)?;
        self.current(node)
    }

    /// Sets what is to be set, and says what the node is then.
    pub fn set_attributes(&self, node_id: u64, changes: &Changes) -> Outcome<Node> {
        self.check_writable()?;
        if let Some(size) = changes.size_bytes {
            if size > FILE_BYTES_MAX {
                return Err(Refusal::TooLarge);
            }
            self.truncate(node_id, size)?;
        }
        let file = self.shared.inodes.file(node_id);
        // While its state is held, no commit writes the times of before.
        let mut state = file.as_ref().map(|file| file.change(&self.disk(node_id))).transpose()?;
        let now = SystemTime::now();
        let node = self.shared.catalog.change(|change| {
            let node = change.node(node_id)?.ok_or(Refusal::Missing)?;
            let node = state.as_ref().filter(|state| state.is_ahead()).map_or(node, |state| state.over(node));
            let node = Node {
                mode: changes.mode.map_or(node.mode, |mode| mode & 0o7777),
                uid: changes.uid.unwrap_or(node.uid),
                gid: changes.gid.unwrap_or(node.gid),
                accessed: changes.accessed.unwrap_or(node.accessed),
                modified: changes.modified.unwrap_or(node.modified),
                changed: now,
                ..node
            };
            change.set_attributes(&node)?;
            Ok::<_, Refusal>(node)
        })?;
        if let Some(state) = &mut state {
            state.content.modified = node.modified;
            state.content.changed = node.changed;
        }
        Ok(node)
    }

    /// Where a link leads.
    pub fn target(&self, node_id: u64) -> Outcome<String> {
        self.shared.catalog.read(|view| view.target(node_id))?.ok_or(Refusal::Invalid)
    }

    /// An extended attribute's value.
    pub fn xattr(&self, node_id: u64, name: &OsStr) -> Outcome<Vec<u8>> {
        // What is asked of every file at every write, and of no other kind.
        let Ok(name) = xattr_name(name) else { return Err(Refusal::NoAttribute) };
        self.shared.catalog.read(|view| view.xattr(node_id, name))?.ok_or(Refusal::NoAttribute)
    }

    /// Names of all extended attributes.
    pub fn xattr_names(&self, node_id: u64) -> Outcome<Vec<String>> {
        Ok(self.shared.catalog.read(|view| view.xattr_names(node_id))?)
    }

    /// Sets an extended attribute.
    pub fn set_xattr(&self, node_id: u64, name: &OsStr, value: &[u8], mode: SetMode) -> Outcome<()> {
        let name = xattr_name(name)?;
        if value.len() > XATTR_BYTES_MAX {
            return Err(Refusal::NoSpaceForAttribute);
        }
        self.check_room(value.len() as u64)?;
        self.shared.catalog.change(|change| {
            let node = change.node(node_id)?.ok_or(Refusal::Missing)?;
            let names = change.xattr_names(node_id)?;
            let is_there = names.iter().any(|there| there == name);
            match mode {
                SetMode::Create if is_there => return Err(Refusal::Exists),
                SetMode::Replace if !is_there => return Err(Refusal::NoAttribute),
                _ if !is_there && names.len() >= XATTRS_MAX => return Err(Refusal::NoSpaceForAttribute),
                _ => {}
            }
            change.set_xattr(node_id, name, value)?;
            Ok(change.set_attributes(&Node { changed: SystemTime::now(), ..node })?)
        })
    }

    /// Takes an extended attribute away.
    pub fn remove_xattr(&self, node_id: u64, name: &OsStr) -> Outcome<()> {
        self.check_writable()?;
        let name = xattr_name(name)?;
        self.shared.catalog.change(|change| {
            let node = change.node(node_id)?.ok_or(Refusal::Missing)?;
            if !change.remove_xattr(node_id, name)? {
                return Err(Refusal::NoAttribute);
            }
            Ok(change.set_attributes(&Node { changed: SystemTime::now(), ..node })?)
        })
    }

    /// The disk below.
    pub fn room(&self) -> Outcome<sys::Volume> {
        let dir = self.shared.catalog.dir().display();
        Ok(sys::volume(&self.shared.root).map_err(|error| Error::io(dir, &error))?)
    }

    /// Nodes that were ever made, roughly.
    pub fn nodes_count(&self) -> Outcome<u64> {
        self.shared.catalog.read(|view| Ok(view.nodes_count()?))
    }
}

fn xattr_name(name: &OsStr) -> Outcome<&str> {
    let name = name.to_str().ok_or(Refusal::Unsupported)?;
    if !name.starts_with(XATTR_PREFIX) {
        return Err(Refusal::Unsupported);
    }
    if name.len() > XATTR_NAME_BYTES_MAX { Err(Refusal::NoSpaceForAttribute) } else { Ok(name) }
}
