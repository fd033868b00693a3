//! Numbers for names: which path, and which version of it, an inode number stands for, for as long as the kernel
//! remembers it.
//! Never here: the origin, what a file holds, and what is known of one (see `node`).
//!
//! Invariant: an inode number means one version of one file for its whole life, and of a file that only grows while it is open,
//! those that begin with the ones before. A name whose file has changed gets a new number; so what the kernel keeps in its page
//! cache under a number never mixes two versions. A number's life ends when the kernel forgets it, not when we do.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::node::{Known, Node, NodeKind, size_of};
use crate::origin::{Listed, ListedKind, Stat};

/// The drive's top folder, as FUSE demands.
pub const ROOT: u64 = 1;

/// Nodes held before files are let go: about 400 bytes each. A program that walks through a million names makes the kernel
/// know them all, and the kernel forgets them only when the machine runs out of memory.
const NODES_MAX: usize = 200_000;
/// Files looked at to find one that can be let go: more than a few are in use only where that many are open.
const LET_GO_TRIES_MAX: usize = 16;

/// All nodes.
pub struct Inodes {
    // Guards the maps together. Taken before a node's own locks, and before the lock of the entry that it is open as.
    state: Mutex<State>,
}

struct State {
    nodes: HashMap<u64, (Arc<Node>, u64)>,
    // The number a path stands for now; older versions keep theirs until forgotten.
    current: HashMap<Arc<str>, u64>,
    // Files, in the order they came to be known; forgotten ones are still among them for a while.
    files: VecDeque<u64>,
    // Numbers of files that were let go and that the kernel still knows: 16 bytes each, where the kernel itself needs a
    // thousand. Never among `nodes`.
    let_go: HashMap<u64, LetGo>,
}

/// What is left of a file that was let go.
#[derive(Clone, Copy)]
struct LetGo {
    /// How often the kernel was told of it.
    lookups: u32,
    /// Of what was known of the version.
    known: u32,
}

impl State {
    /// The number of a version that is not known yet, and how often the kernel was told of that number: of a file that was let
    /// go and is what it was, the number it had.
    fn number_for(&mut self, path: &str, kind: NodeKind, known: &Known) -> (u64, u64) {
        let first = number_of(path);
        if kind != NodeKind::Folder
            && let Entry::Occupied(let_go) = self.let_go.entry(first)
            && let_go.get().known == known.digest()
        {
            return (first, u64::from(let_go.remove().lookups));
        }
        (self.free_number(path), 0)
    }

    /// A number for `path` that the kernel does not know.
    fn free_number(&self, path: &str) -> u64 {
        let mut ino = number_of(path);
        while self.nodes.contains_key(&ino) || self.let_go.contains_key(&ino) {
            ino = ino.wrapping_add(1).max(ROOT + 1);
        }
        ino
    }

    /// The path stands for this number no more, if it did.
    fn unset_current(&mut self, path: &str, ino: u64) {
        if self.current.get(path) == Some(&ino) {
            self.current.remove(path);
        }
    }
}

/// The folder a path lies in.
pub(super) fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Whether `path` is `top` or lies below it; everything lies below `""`.
pub(super) fn is_at_or_below(path: &str, top: &str) -> bool {
    top.is_empty() || path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
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
        let root = Node::new(ROOT, "".into(), NodeKind::Folder, Known::default());
        let path = Arc::clone(&root.path);
        let state = State {
            nodes: HashMap::from([(ROOT, (Arc::new(root), 1))]),
            current: HashMap::from([(path, ROOT)]),
            files: VecDeque::new(),
            let_go: HashMap::new(),
        };
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
            ListedKind::Link { .. } => NodeKind::Link,
        };
        let mut state = self.state.lock();
        let state = &mut *state;
        if let Some((node, lookups)) = state.current.get(path).and_then(|ino| state.nodes.get_mut(ino))
            && node.kind == kind
        {
            let in_growth = if kind == NodeKind::File { node.in_growth(listed, stat) } else { None };
            let (listed, stat) = match &in_growth {
                Some((listed, stat)) => (listed, Some(stat)),
                None => (listed, stat),
            };
            let mut known = node.known();
            if kind == NodeKind::Folder || known.agrees(Some(listed), stat) {
                known.listed_size_bytes = known.listed_size_bytes.or(size_of(listed));
                known.listed_modified = match kind {
                    NodeKind::File | NodeKind::Link => known.listed_modified.or(listed.modified),
                    // Whatever happens in it, a folder is the same.
                    NodeKind::Folder => listed.modified.or(known.listed_modified),
                };
                if stat.is_some() {
                    known.stat = stat.cloned();
                }
                *lookups += 1;
                return Arc::clone(node);
            }
        }
        // A stat from before the change that the listing shows would tie the new number to the old version.
        let is_before = |stat: &Stat| {
            let old = state.current.get(path).and_then(|ino| state.nodes.get(ino));
            old.is_some_and(|(old, _)| {
                let old = old.known.lock();
                let is_old = old.stat.as_ref().is_some_and(|old| old.version == stat.version);
                is_old && !old.agrees(Some(listed), None)
            })
        };
        let stat = stat.filter(|stat| size_of(listed).is_none_or(|size| size == stat.size_bytes) && !is_before(stat));
        let path: Arc<str> = path.into();
        let known = Known {
            listed_size_bytes: size_of(listed),
            listed_modified: listed.modified,
            stat: stat.cloned(),
            is_time_set: false,
            was_opened: false,
        };
        let (ino, lookups) = state.number_for(&path, kind, &known);
        let node = Arc::new(Node::new(ino, Arc::clone(&path), kind, known));
        if lookups > 0 {
            node.is_known_to_kernel();
        }
        state.nodes.insert(ino, (Arc::clone(&node), lookups + 1));
        state.current.insert(path, ino);
        if kind != NodeKind::Folder {
            state.files.push_back(ino);
            if state.files.len() > 2 * state.nodes.len() + NODES_MAX {
                let nodes = &state.nodes;
                state.files.retain(|ino| nodes.contains_key(ino));
            }
        }
        node
    }

    /// A number for a file that is being made, with one lookup counted: it has no name yet.
    pub fn reserve(&self, path: &str) -> u64 {
        let mut state = self.state.lock();
        let ino = state.free_number(path);
        let node = Node::new(ino, path.into(), NodeKind::File, Known::default());
        state.nodes.insert(ino, (Arc::new(node), 1));
        ino
    }

    /// One more lookup of a number that is known. `false`: it is not.
    pub fn look_up_number(&self, ino: u64) -> bool {
        let mut state = self.state.lock();
        let Some((_, lookups)) = state.nodes.get_mut(&ino) else { return false };
        *lookups += 1;
        true
    }

    /// What was at `from`, and below it, is at `to` now: the same numbers, the same versions.
    pub fn rename(&self, from: &str, to: &str) {
        let moved = self.at_or_below(from);
        let mut state = self.state.lock();
        let state = &mut *state;
        for (path, ino, _) in moved {
            let Some((node, _)) = state.nodes.get_mut(&ino) else { continue };
            let new: Arc<str> = format!("{to}{}", &path[from.len()..]).into();
            let known = node.known.lock().clone();
            *node = Arc::new(Node::new(ino, Arc::clone(&new), node.kind, known));
            state.unset_current(&path, ino);
            state.current.insert(new, ino);
        }
    }

    /// Whatever has this path is not there any more: the next one by its name gets a new number.
    pub fn supersede_path(&self, path: &str) {
        let mut state = self.state.lock();
        if let Some(ino) = state.current.get(path).copied() {
            state.unset_current(path, ino);
        }
    }

    /// The file that has been known longest and is not in use, where there are too many: see [`Inodes::let_go`].
    pub fn next_to_let_go(&self) -> Option<u64> {
        let mut state = self.state.lock();
        let state = &mut *state;
        for _ in 0..LET_GO_TRIES_MAX {
            if state.nodes.len() <= NODES_MAX {
                return None;
            }
            let oldest = state.files.pop_front()?;
            match state.nodes.get(&oldest) {
                Some((node, _)) if Arc::strong_count(node) == 1 => return Some(oldest),
                // The turn of a file in use comes again.
                Some(_) => state.files.push_back(oldest),
                None => {}
            }
        }
        None
    }

    /// The turn of a file that [`Inodes::next_to_let_go`] told of, and that has to stay for now, comes again.
    pub fn put_off(&self, ino: u64) {
        let mut state = self.state.lock();
        if state.nodes.contains_key(&ino) {
            state.files.push_back(ino);
        }
    }

    /// Forgets a file before the kernel does. Only its number is kept, so that no other file, and no other version, gets that
    /// number as long as the kernel knows it. A request that names the number fails as `Changed`: the kernel then looks the
    /// name up again. A file that is in use stays, and its turn comes again.
    pub fn let_go(&self, ino: u64) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Entry::Occupied(entry) = state.nodes.entry(ino) else { return };
        if Arc::strong_count(&entry.get().0) > 1 {
            state.files.push_back(ino);
            return;
        }
        let (node, lookups) = entry.remove();
        let known = node.known.lock().digest();
        state.let_go.insert(ino, LetGo { lookups: u32::try_from(lookups).unwrap_or(u32::MAX), known });
        state.unset_current(&node.path, ino);
    }

    /// What is known at a path and below it.
    fn at_or_below(&self, path: &str) -> Vec<(Arc<str>, u64, NodeKind)> {
        let state = self.state.lock();
        let all = state.current.iter().filter(|(known, _)| is_at_or_below(known, path));
        all.filter_map(|(known, ino)| state.nodes.get(ino).map(|(node, _)| (Arc::clone(known), *ino, node.kind)))
            .collect()
    }

    /// The folder at `path` is listed with this time by now.
    pub fn retime(&self, path: &str, modified: Option<SystemTime>) {
        let state = self.state.lock();
        let node = state.current.get(path).and_then(|ino| state.nodes.get(ino));
        if let Some((node, _)) = node.filter(|(node, _)| node.kind == NodeKind::Folder) {
            node.known.lock().listed_modified = modified;
        }
    }

    /// The file behind this node is another version by now: the next lookup of its name gets a new number.
    pub fn supersede(&self, node: &Node) {
        let mut state = self.state.lock();
        state.unset_current(&node.path, node.ino);
    }

    /// Whether the node is what its name stands for now.
    pub fn is_current(&self, node: &Node) -> bool {
        self.state.lock().current.get(&node.path) == Some(&node.ino)
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
        let Some((node, held)) = state.nodes.get_mut(&ino) else {
            if let Entry::Occupied(mut let_go) = state.let_go.entry(ino) {
                let lookups = u32::try_from(lookups).unwrap_or(u32::MAX);
                let_go.get_mut().lookups = let_go.get().lookups.saturating_sub(lookups);
                if let_go.get().lookups == 0 {
                    let_go.remove();
                }
            }
            return;
        };
        *held = held.saturating_sub(lookups);
        if *held > 0 {
            return;
        }
        let path = Arc::clone(&node.path);
        state.nodes.remove(&ino);
        state.unset_current(&path, ino);
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
    fn a_stat_of_before_the_change_does_not_bind_the_new_number() {
        let inodes = Inodes::new();
        let old = inodes.look_up("a.mkv", &file(Some(5), 1), Some(&stat(5, "x")));
        let new = inodes.look_up("a.mkv", &file(Some(5), 2), Some(&stat(5, "x")));
        assert_ne!(new.ino, old.ino);
        assert_eq!(new.stat(), None);
        assert!(new.bind(&stat(5, "y")));
    }

    #[test]
    fn a_size_that_differs_is_another_version() {
        let inodes = Inodes::new();
        let node = inodes.look_up("a.mkv", &file(Some(5), 1), None);
        assert!(!node.bind(&stat(4, "x")));
        assert!(node.bind(&stat(5, "x")));
        assert!(!node.bind(&stat(6, "y")));
    }

    #[test]
    fn a_file_that_grew_between_its_listing_and_its_first_open_is_what_it_is_then() {
        let inodes = Inodes::new();
        let node = inodes.look_up("a.mkv", &file(Some(5), 1), None);
        assert!(node.bind_to_open(&stat(6, "x")));
        assert_eq!(node.size_bytes(), Some(6));
        assert!(!node.bind_to_open(&stat(7, "y")), "later it is another version");
        let node = inodes.look_up("b.mkv", &file(Some(5), 1), Some(&stat(5, "x")));
        assert!(node.bind_to_open(&stat(6, "y")) && !node.bind_to_open(&stat(7, "z")));
    }

    #[test]
    fn the_time_of_a_file_is_the_same_before_and_after_it_is_opened() {
        let inodes = Inodes::new();
        let exact = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let stat = |seconds| Stat { modified: exact(seconds), ..stat(5, "x") };
        let node = inodes.look_up("a.mkv", &file(Some(5), 100), None);
        let listed = node.modified();
        assert!(node.bind(&stat(100 * 60 + 47)));
        assert_eq!(node.modified(), listed);
        let again = inodes.look_up("a.mkv", &file(Some(5), 100), Some(&stat(100 * 60 + 47)));
        assert_eq!((again.ino, again.modified()), (node.ino, listed));
        node.set_modified(SystemTime::UNIX_EPOCH + Duration::from_mins(160));
        assert_eq!(node.modified(), exact(160 * 60), "set by a person, it is no time zone");
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
    fn where_too_many_are_known_the_oldest_that_is_not_in_use_is_let_go() {
        let inodes = Inodes::new();
        let look_up = |at: usize| inodes.look_up(&format!("{at}.mkv"), &file(Some(5), 1), None);
        let first: Vec<_> = (0..NODES_MAX - 1).map(|at| look_up(at).ino).collect();
        assert_eq!(inodes.next_to_let_go(), None);
        look_up(NODES_MAX);
        inodes.forget(first[0], 1);
        assert_eq!(inodes.next_to_let_go(), None, "forgotten by itself meanwhile");
        look_up(NODES_MAX + 1);
        let in_use = inodes.get(first[1]).unwrap();
        let next = inodes.next_to_let_go().unwrap();
        assert_eq!(next, first[2]);
        inodes.let_go(in_use.ino);
        inodes.let_go(next);
        assert!(inodes.get(in_use.ino).is_some() && inodes.get(next).is_none());
        assert_eq!(inodes.next_to_let_go(), None, "few enough");
    }

    #[test]
    fn a_file_that_could_not_be_let_go_has_its_turn_again() {
        let inodes = Inodes::new();
        let many: Vec<_> =
            (0..NODES_MAX).map(|at| inodes.look_up(&format!("{at}.mkv"), &file(Some(5), 1), None).ino).collect();
        let turns = |ino: u64| inodes.state.lock().files.iter().filter(|other| **other == ino).count();
        let next = inodes.next_to_let_go().unwrap();
        assert_eq!((next, turns(next)), (many[0], 0));
        inodes.put_off(next);
        assert_eq!(turns(next), 1, "it is being written");
        let next = inodes.next_to_let_go().unwrap();
        let taken_up = inodes.get(next);
        inodes.let_go(next);
        assert_eq!(turns(next), 1, "it was taken up meanwhile");
        drop(taken_up);
        inodes.put_off(u64::MAX);
        assert_eq!(turns(u64::MAX), 0, "the kernel has forgotten it");
    }

    #[test]
    fn the_number_of_a_file_that_was_let_go_stays_its_own_until_the_kernel_forgets_it() {
        let inodes = Inodes::new();
        let let_go = |listed: &Listed, stat: Option<&Stat>| {
            let ino = inodes.look_up("a.mkv", listed, stat).ino;
            inodes.let_go(ino);
            assert!(inodes.get(ino).is_none());
            ino
        };
        let ino = let_go(&file(Some(5), 1), None);
        assert_eq!(let_go(&file(Some(5), 1), None), ino, "the same version");
        let changed = let_go(&file(Some(6), 1), None);
        assert_ne!(changed, ino, "another version, and the kernel may hold pages of the first");
        // Both lookups of the first number: the kernel forgets it.
        inodes.forget(ino, 1);
        assert_ne!(let_go(&file(Some(6), 2), None), ino);
        inodes.forget(ino, 1);
        assert_eq!(let_go(&file(Some(6), 3), None), ino, "the kernel does not know it any longer");
        assert_ne!(let_go(&file(Some(6), 3), Some(&stat(6, "x"))), ino, "more is known of it than was");
    }

    #[test]
    fn paths_lie_in_and_below_folders() {
        assert!(is_at_or_below("a/b.mkv", "a") && is_at_or_below("a", "a") && is_at_or_below("a", ""));
        assert!(!is_at_or_below("ab/b.mkv", "a") && !is_at_or_below("a", "a/b"));
        assert_eq!((folder_of("a/b/c"), folder_of("c")), ("a/b", ""));
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
