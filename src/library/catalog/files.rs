//! Files by their paths, as a library has them: manifests read, files put, renamed, removed.
//! Never here: blobs; those a manifest names are there before it is put.

use std::time::SystemTime;

use bytes::Bytes;

use super::{Change, ChunkRow, Node, NodeKind, ROOT, View};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::library::manifest::CHUNKS_MAX;
use crate::library::{Chunk, Content, Manifest, Meta, Proof, check_path};

/// Folders that `put` makes on the way to a file.
const FOLDER_MODE: u32 = 0o755;

/// What is put.
#[derive(Clone, Copy, Debug)]
pub struct Placed<'a> {
    /// Its bytes, or its chunks.
    pub content: &'a Content,
    /// What else is known; a file that is there already stays as old as it was.
    pub meta: &'a Meta,
    /// User and group of what is made.
    pub owner: (u32, u32),
    /// Permission bits of a new file.
    pub mode: u32,
}

impl View<'_> {
    /// What the file at `path` is made of, with the number of its node. `Missing`, or `Unsupported` of what is no file.
    pub fn manifest(&self, path: &str) -> Result<(u64, Manifest)> {
        let node = self.file(path)?;
        let node_id = node.node_id;
        let content = if node.is_inline {
            Content::Inline(Bytes::from(self.inline(node_id)?.unwrap_or_default()))
        } else {
            let chunks = self.chunks(node_id, 0, CHUNKS_MAX + 1)?;
            Content::Chunks(chunks.into_iter().map(chunk).collect())
        };
        let meta = Meta {
            content_type: self.content_type(node_id)?,
            tags: self.tags(node_id)?,
            modified: node.modified,
            created: node.created,
        };
        let manifest = Manifest::new(content, meta).map_err(|error| error.context(path))?;
        if manifest.size_bytes() == node.size_bytes {
            return Ok((node_id, manifest));
        }
        Err(self.damaged(&format!("`{path}` has {} bytes, its chunks {}", node.size_bytes, manifest.size_bytes())))
    }

    /// The file at `path`. `Missing`, or `Unsupported` of what is no file.
    pub fn file(&self, path: &str) -> Result<Node> {
        let missing = || Error::new(Kind::Missing, format!("there is no `{}`", path.escape_debug()));
        let node = self.walk(path)?.ok_or_else(missing)?;
        if node.kind == NodeKind::File {
            return Ok(node);
        }
        let what = if node.kind == NodeKind::Folder { "is a folder" } else { "is not a file" };
        Err(Error::new(Kind::Unsupported, format!("`{}` {what}", path.escape_debug())))
    }
}

impl Change<'_> {
    /// Gives `path` this content, and makes the folders on the way to it; what a file had there before is replaced.
    /// Returns its node.
    pub fn place(&self, path: &str, placed: &Placed<'_>, now: SystemTime) -> Result<u64> {
        check_path(path)?;
        let (folder, name) = self.folder_for(path, placed.owner, now)?;
        let node = match self.lookup(folder, name)? {
            // Who has the old content open keeps its number, which never means other bytes.
            Some(old) if old.kind == NodeKind::File => {
                let node = self.add_node(&old, None)?;
                self.move_xattrs(old.node_id, node.node_id)?;
                let old = self.lead_to(folder, name, &node, now)?;
                self.drop_node(old.node_id)?;
                node
            }
            Some(_) => {
                return Err(Error::new(
                    Kind::Invalid,
                    format!("`{}` is there, and is not a file", path.escape_debug()),
                ));
            }
            None => {
                let new =
                    Node { created: placed.meta.created, ..Node::new(NodeKind::File, placed.mode, placed.owner, now) };
                let node = self.add_node(&new, None)?;
                self.add_name(folder, name, &node, now)?;
                node
            }
        };
        match placed.content {
            Content::Inline(bytes) => self.set_inline(node.node_id, bytes)?,
            Content::Chunks(chunks) => {
                let rows: Result<Vec<_>> = chunks.iter().map(row).collect();
                self.set_chunks(node.node_id, &rows?)?;
            }
        }
        self.set_attributes(&Node { modified: placed.meta.modified, changed: now, ..node })?;
        self.set_content_type(node.node_id, placed.meta.content_type.as_deref())?;
        self.set_tags(node.node_id, &placed.meta.tags)?;
        Ok(node.node_id)
    }

    /// Takes a file or an empty folder away. Unlike those of a file that is replaced, its blobs may go at once: they are loose
    /// since ever. `Missing`, or `Unsupported` of a folder with names in it.
    pub fn remove_path(&self, path: &str, now: SystemTime) -> Result<()> {
        let missing = || Error::new(Kind::Missing, format!("there is no `{}`", path.escape_debug()));
        let node = self.walk(path)?.ok_or_else(missing)?;
        if node.kind == NodeKind::Folder && (node.node_id == ROOT || !self.is_empty_folder(node.node_id)?) {
            return Err(Error::new(
                Kind::Unsupported,
                format!("`{}` is a folder with something in it", path.escape_debug()),
            ));
        }
        let (folder, name) = self.parent_of(path)?;
        let node = self.remove_name(folder, name, now)?;
        self.drop_node_since(node.node_id, SystemTime::UNIX_EPOCH)
    }

    /// Gives what is at `from` the name `to`, and makes the folders on the way to it; a file that had this name is replaced.
    pub fn rename_path(&self, from: &str, to: &str, owner: (u32, u32), now: SystemTime) -> Result<()> {
        check_path(to)?;
        let missing = || Error::new(Kind::Missing, format!("there is no `{}`", from.escape_debug()));
        let node = self.walk(from)?.ok_or_else(missing)?;
        let refuse = |what: &str| Err(Error::new(Kind::Invalid, format!("`{}` {what}", to.escape_debug())));
        let (old_folder, old_name) = self.parent_of(from)?;
        let (folder, name) = self.folder_for(to, owner, now)?;
        if node.kind == NodeKind::Folder && self.is_within(folder, node.node_id)? {
            return refuse("lies in what is to be renamed");
        }
        match self.lookup(folder, name)? {
            Some(there) if there.node_id == node.node_id => return Ok(()),
            Some(there) if there.kind == NodeKind::Folder => return refuse("is a folder"),
            Some(_) if node.kind == NodeKind::Folder => return refuse("is a file; a folder can't take its place"),
            Some(_) => {
                let replaced = self.lead_to(folder, name, &node, now)?;
                self.drop_node(replaced.node_id)?;
            }
            None => self.add_name(folder, name, &node, now)?,
        }
        self.remove_name(old_folder, old_name, now).map(drop)
    }

    /// The folder that is to hold the last name of `path`, made if need be, and that name.
    fn folder_for<'p>(&self, path: &'p str, owner: (u32, u32), now: SystemTime) -> Result<(u64, &'p str)> {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut folder = ROOT;
        for part in above.split('/').filter(|part| !part.is_empty()) {
            folder = match self.lookup(folder, part)? {
                Some(node) if node.kind == NodeKind::Folder => node.node_id,
                Some(_) => {
                    let message = format!("`{}`: `{}` is not a folder", path.escape_debug(), part.escape_debug());
                    return Err(Error::new(Kind::Invalid, message));
                }
                None => {
                    let node = self.add_node(&Node::new(NodeKind::Folder, FOLDER_MODE, owner, now), None)?;
                    self.add_name(folder, part, &node, now)?;
                    node.node_id
                }
            };
        }
        Ok((folder, name))
    }

    /// The folder that holds the last name of `path`, and that name.
    fn parent_of<'p>(&self, path: &'p str) -> Result<(u64, &'p str)> {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let missing = || Error::new(Kind::Missing, format!("there is no `{}`", path.escape_debug()));
        Ok((self.walk(above)?.ok_or_else(missing)?.node_id, name))
    }
}

/// As a manifest says it.
fn chunk(row: ChunkRow) -> Chunk {
    Chunk { range: row.range, proof: row.digest.map_or(Proof::Zeros, Proof::Sha256) }
}

/// As the catalog says it. `Unsupported` of a chunk nobody has hashed.
fn row(chunk: &Chunk) -> Result<ChunkRow> {
    let digest: Option<Digest> = match chunk.proof {
        Proof::Sha256(digest) => Some(digest),
        Proof::Zeros => None,
        Proof::Size => {
            return Err(Error::new(Kind::Unsupported, "a chunk without a hash: it must be read and hashed first"));
        }
    };
    Ok(ChunkRow { range: chunk.range, digest })
}
