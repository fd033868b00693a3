//! Numbers for names: which path, and which version of it, an inode number stands for, for as long as the kernel
//! remembers it.
//! Never here: the origin, and what a file holds.
//!
//! Invariant: an inode number means one version of one file for its whole life. A name whose file has changed gets a
//! new number; so what the kernel keeps in its page cache under a number never mixes two versions.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::origin::{Listed, ListedKind, Stat};

/// The drive's top folder, as FUSE demands.
pub const ROOT: u64 = 1;

/// A file or folder the kernel knows.
pub struct Node {
    /// Its number.
    pub ino: u64,
    /// Relative to the source; `""` is the top.
    pub path: Arc<str>,
    /// What it is.
    pub kind: NodeKind,
    // Guards what is known of the version. Taken alone.
    known: Mutex<Known>,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A folder.
    Folder,
    /// A regular file.
    File,
}

/// What is known of a file; more with time, never something else.
#[derive(Clone, Debug, Default)]
struct Known {
    listed_size_bytes: Option<u64>,
    listed_modified: Option<SystemTime>,
    stat: Option<Stat>,
}

/// All nodes.
pub struct Inodes {
    // Guards the two maps together. Taken alone.
    state: Mutex<State>,
}

struct State {
    nodes: HashMap<u64, (Arc<Node>, u64)>,
    // The number a path stands for now; older versions keep theirs until forgotten.
    current: HashMap<Arc<str>, u64>,
}

impl Node {
    /// The size, as far as it is known.
    pub fn size_bytes(&self) -> Option<u64> {
        let known = self.known.lock();
        known.stat.as_ref().map(|stat| stat.size_bytes).or(known.listed_size_bytes)
    }

    /// The time of the last change, as far as it is known.
    pub fn modified(&self) -> Option<SystemTime> {
        let known = self.known.lock();
        known.stat.as_ref().and_then(|stat| stat.modified).or(known.listed_modified)
    }

    /// The version, once it is known.
    pub fn stat(&self) -> Option<Stat> {
        self.known.lock().stat.clone()
    }

    /// Ties the node to the version `stat`. `false`: it stands for another one.
    pub fn bind(&self, stat: &Stat) -> bool {
        let mut known = self.known.lock();
        if !known.agrees(None, Some(stat)) {
            return false;
        }
        known.stat = Some(stat.clone());
        true
    }

    /// The last component of its path.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

impl Known {
    /// Whether a listing, and a stat, can be of the same version. Listings are compared with listings, as their times
    /// are coarser than a stat's; sizes with any.
    fn agrees(&self, listed: Option<&Listed>, stat: Option<&Stat>) -> bool {
        let listed_size = listed.and_then(size_of);
        let sizes = [
            self.listed_size_bytes,
            self.stat.as_ref().map(|stat| stat.size_bytes),
            listed_size,
            stat.map(|stat| stat.size_bytes),
        ];
        let mut sizes = sizes.into_iter().flatten();
        let first = sizes.next();
        let same_time = match (self.listed_modified, listed.and_then(|listed| listed.modified)) {
            (Some(old), Some(new)) => old == new,
            _ => true,
        };
        let same_version = match (&self.stat, stat) {
            (Some(old), Some(new)) => old.version == new.version,
            _ => true,
        };
        sizes.all(|size| Some(size) == first) && same_time && same_version
    }
}

fn size_of(listed: &Listed) -> Option<u64> {
    match listed.kind {
        ListedKind::Folder => None,
        ListedKind::File { size_bytes } => size_bytes,
    }
}

/// The number a path gets unless it is taken: the same at each mount.
fn number_of(path: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish().max(ROOT + 1)
}

impl Inodes {
    /// With the top folder, which is never forgotten.
    pub fn new() -> Self {
        let root = Node { ino: ROOT, path: "".into(), kind: NodeKind::Folder, known: Mutex::default() };
        let path = Arc::clone(&root.path);
        let state =
            State { nodes: HashMap::from([(ROOT, (Arc::new(root), 1))]), current: HashMap::from([(path, ROOT)]) };
        Self { state: Mutex::new(state) }
    }

    /// The node with this number, if the kernel may still know it.
    pub fn get(&self, ino: u64) -> Option<Arc<Node>> {
        self.state.lock().nodes.get(&ino).map(|(node, _)| Arc::clone(node))
    }

    /// The node for a name as it is listed, and as its stat tells if that is known, with one more lookup counted: the
    /// one there is, if it can stand for this version, or a new one.
    pub fn look_up(&self, path: &str, listed: &Listed, stat: Option<&Stat>) -> Arc<Node> {
        let kind = match listed.kind {
            ListedKind::Folder => NodeKind::Folder,
            ListedKind::File { .. } => NodeKind::File,
        };
        let mut state = self.state.lock();
        let state = &mut *state;
        if let Some((node, lookups)) = state.current.get(path).and_then(|ino| state.nodes.get_mut(ino))
            && node.kind == kind
        {
            let mut known = node.known.lock();
            if kind == NodeKind::Folder || known.agrees(Some(listed), stat) {
                known.listed_size_bytes = known.listed_size_bytes.or(size_of(listed));
                known.listed_modified = known.listed_modified.or(listed.modified);
                if stat.is_some() {
                    known.stat = stat.cloned();
                }
                *lookups += 1;
                return Arc::clone(node);
            }
        }
        let mut ino = number_of(path);
        while state.nodes.contains_key(&ino) {
            ino = ino.wrapping_add(1).max(ROOT + 1);
        }
        let path: Arc<str> = path.into();
        // A stat from before the change that the listing shows would tie the new number to the old version.
        let stat = stat.filter(|stat| size_of(listed).is_none_or(|size| size == stat.size_bytes));
        let known = Known { listed_size_bytes: size_of(listed), listed_modified: listed.modified, stat: stat.cloned() };
        let node = Arc::new(Node { ino, path: Arc::clone(&path), kind, known: Mutex::new(known) });
        state.nodes.insert(ino, (Arc::clone(&node), 1));
        state.current.insert(path, ino);
        node
    }

    /// The file behind this node is another version by now: the next lookup of its name gets a new number.
    pub fn supersede(&self, node: &Node) {
        let mut state = self.state.lock();
        if state.current.get(&node.path) == Some(&node.ino) {
            state.current.remove(&node.path);
        }
    }

    /// The number a path has now, or would get.
    pub fn current_number(&self, path: &str) -> u64 {
        self.state.lock().current.get(path).copied().unwrap_or_else(|| number_of(path))
    }

    /// The kernel has let go of `lookups` of its references.
    pub fn forget(&self, ino: u64, lookups: u64) {
        if ino == ROOT {
            return;
        }
        let mut state = self.state.lock();
        let Some((node, held)) = state.nodes.get_mut(&ino) else { return };
        *held = held.saturating_sub(lookups);
        if *held > 0 {
            return;
        }
        let path = Arc::clone(&node.path);
        state.nodes.remove(&ino);
        if state.current.get(&path) == Some(&ino) {
            state.current.remove(&path);
        }
    }

    /// How many the kernel knows.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.state.lock().nodes.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::origin::Version;

    fn file(size_bytes: Option<u64>, minute: u64) -> Listed {
        let modified = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(60 * minute));
        Listed { name: "a.mkv".into(), kind: ListedKind::File { size_bytes }, modified }
    }

    fn stat(size_bytes: u64, etag: &str) -> Stat {
        Stat { size_bytes, modified: None, version: Version::etag(etag) }
    }

    #[test]
    fn the_same_file_keeps_its_number_and_a_changed_one_gets_another() {
        let inodes = Inodes::new();
        let first = inodes.look_up("a.mkv", &file(Some(5), 1), None);
        assert_eq!(inodes.look_up("a.mkv", &file(Some(5), 1), Some(&stat(5, "x"))).ino, first.ino);
        assert_eq!(inodes.look_up("a.mkv", &file(None, 1), None).ino, first.ino);
        let changed = inodes.look_up("a.mkv", &file(Some(5), 1), Some(&stat(5, "y")));
        assert_ne!(changed.ino, first.ino);
        assert_ne!(inodes.look_up("a.mkv", &file(Some(5), 2), None).ino, changed.ino, "listed with another time");
        assert!(!first.bind(&stat(5, "y")));
        assert!(first.bind(&stat(5, "x")));
    }

    #[test]
    fn a_size_that_differs_is_another_version() {
        let inodes = Inodes::new();
        let node = inodes.look_up("a.mkv", &file(Some(5), 1), None);
        assert!(!node.bind(&stat(6, "x")));
        assert!(node.bind(&stat(5, "x")));
    }

    #[test]
    fn a_superseded_number_is_not_found_again() {
        let inodes = Inodes::new();
        let old = inodes.look_up("a.mkv", &file(Some(5), 1), Some(&stat(5, "x")));
        inodes.supersede(&old);
        let new = inodes.look_up("a.mkv", &file(Some(5), 1), None);
        assert_ne!(new.ino, old.ino);
        assert!(new.bind(&stat(5, "y")));
        inodes.supersede(&old);
        assert_eq!(inodes.current_number("a.mkv"), new.ino, "only the current one can be superseded");
    }

    #[test]
    fn forgotten_numbers_go() {
        let inodes = Inodes::new();
        let node = inodes.look_up("a.mkv", &file(Some(5), 1), None);
        inodes.look_up("a.mkv", &file(Some(5), 1), None);
        inodes.forget(node.ino, 1);
        assert!(inodes.get(node.ino).is_some());
        inodes.forget(node.ino, 1);
        assert!(inodes.get(node.ino).is_none());
        inodes.forget(ROOT, 99);
        assert_eq!(inodes.len(), 1);
    }
}
