//! Folders that were made here and hold no file yet: a library has none of that kind.
//! Never here: folders that a library lists.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::drive::inodes::is_at_or_below;
use crate::error::{Error, Kind, Result};
use crate::origin::{Begun, Body, Health, Listed, ListedKind, Origin, Pages, Patience, Section, Stat};
use crate::range::ByteRange;

/// Folders at once: about 100 bytes each.
const MADE_MAX: usize = 100_000;

/// Their paths.
#[derive(Default)]
pub(in crate::drive) struct MadeFolders {
    // Taken alone.
    paths: Mutex<BTreeSet<String>>,
}

impl MadeFolders {
    /// `Full` if there are too many.
    pub fn add(&self, path: &str) -> Result<()> {
        let mut paths = self.paths.lock();
        if paths.len() >= MADE_MAX && !paths.contains(path) {
            return Err(Error::new(Kind::Full, format!("{path}: {MADE_MAX} folders without a file are enough")));
        }
        paths.insert(path.to_owned());
        Ok(())
    }

    /// A folder whose last file may just go: it stays until somebody removes it. Unless there are too many.
    pub fn keep(&self, path: &str) {
        if !path.is_empty() {
            let _ = self.add(path);
        }
    }

    pub fn remove(&self, path: &str) {
        self.paths.lock().remove(path);
    }

    pub fn is_there(&self, path: &str) -> bool {
        self.below(path, 1).is_some_and(|below| !below.is_empty()) || self.paths.lock().contains(path)
    }

    /// Whether there are folders in it.
    pub fn has_below(&self, path: &str) -> bool {
        self.below(path, 1).is_some_and(|below| !below.is_empty())
    }

    /// Gives a folder and all below it another name.
    pub fn rename(&self, from: &str, to: &str) {
        let mut paths = self.paths.lock();
        let all: Vec<_> = paths.iter().filter(|path| is_at_or_below(path, from)).cloned().collect();
        for path in all {
            paths.remove(&path);
            paths.insert(format!("{to}{}", &path[from.len()..]));
        }
    }

    /// Up to `most` paths strictly below `folder`; `None` where there are none.
    fn below(&self, folder: &str, most: usize) -> Option<Vec<String>> {
        let start = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let paths = self.paths.lock();
        let from = paths.range::<str, _>((Bound::Included(start.as_str()), Bound::Unbounded));
        let below: Vec<_> = from.take_while(|path| path.starts_with(&start)).take(most).cloned().collect();
        if below.is_empty() { None } else { Some(below) }
    }

    /// The names of those in `folder`; `None` if it is neither one of them nor above one.
    fn names(&self, folder: &str) -> Option<Vec<Listed>> {
        let start = if folder.is_empty() { 0 } else { folder.len() + 1 };
        let below = self.below(folder, usize::MAX);
        if below.is_none() && !self.paths.lock().contains(folder) {
            return None;
        }
        let mut names: Vec<String> = below
            .unwrap_or_default()
            .iter()
            .filter_map(|path| path.get(start..)?.split('/').next().map(str::to_owned))
            .collect();
        names.sort_unstable();
        names.dedup();
        let listed = |name: String| Listed { name: name.into(), kind: ListedKind::Folder, modified: None };
        Some(names.into_iter().map(listed).collect())
    }
}

/// An origin, and the folders that were made here.
pub(in crate::drive) struct WithMade {
    origin: Arc<dyn Origin>,
    made: Arc<MadeFolders>,
}

impl WithMade {
    pub fn new(origin: Arc<dyn Origin>, made: Arc<MadeFolders>) -> Self {
        Self { origin, made }
    }
}

impl Origin for WithMade {
    fn list(&self, folder: &str, patience: &Patience, pages: &mut Pages<'_>) -> Result<()> {
        let made = self.made.names(folder);
        let is_made = made.is_some();
        if let Some(made) = made.filter(|made| !made.is_empty()) {
            pages(made)?;
        }
        match self.origin.list(folder, patience, pages) {
            // Nothing was handed over before that.
            Err(error) if error.kind() == Kind::Missing && is_made => Ok(()),
            listed => listed,
        }
    }

    fn stat(&self, path: &str, patience: &Patience) -> Result<Stat> {
        self.origin.stat(path, patience)
    }

    fn begin(&self, path: &str, section: Section, patience: &Patience) -> Result<Option<Begun>> {
        self.origin.begin(path, section, patience)
    }

    fn look_anew(&self) {
        self.origin.look_anew();
    }

    fn warm(&self, every: Duration) {
        self.origin.warm(every);
    }

    fn probe(&self, patience: &Patience) -> Result<()> {
        self.origin.probe(patience)
    }

    fn health(&self) -> Health {
        self.origin.health()
    }

    fn read(&self, path: &str, expected: &Stat, range: ByteRange, patience: &Patience) -> Result<Box<dyn Body>> {
        self.origin.read(path, expected, range, patience)
    }

    fn describe(&self) -> &str {
        self.origin.describe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_show_in_those_above_them() {
        let made = MadeFolders::default();
        for path in ["a", "a/b", "a/b/c", "a b", "x/y"] {
            made.add(path).unwrap();
        }
        let names = |folder: &str| {
            made.names(folder).map(|names| names.iter().map(|listed| listed.name.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(names(""), Some(vec!["a".into(), "a b".into(), "x".into()]));
        assert_eq!(names("a"), Some(vec!["b".into()]));
        assert_eq!(names("a/b/c"), Some(vec![]));
        assert_eq!(names("x"), Some(vec!["y".into()]), "above one");
        assert_eq!(names("b"), None);
        assert!(made.has_below("a") && !made.has_below("a b") && made.is_there("x/y"));
        made.rename("a", "z");
        assert_eq!((names("a"), names("z/b")), (None, Some(vec!["c".into()])));
        made.remove("z/b/c");
        assert_eq!(names("z/b"), Some(vec![]));
    }
}
