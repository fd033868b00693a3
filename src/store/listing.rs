//! What a folder holds, as it is handed up: pages of names, however many there are.
//! Never here: where names come from, and where they are kept.

use std::time::SystemTime;

use super::Stat;
use crate::error::{Error, Kind, Result};

/// Most names a listing may hold; a longer one is refused with `Full`.
pub const LISTING_NAMES_MAX: usize = 1_000_000;

/// Most names handed over at once: what `S3` answers with, and about 100 KiB.
pub const PAGE_NAMES_MAX: usize = 1_000;

/// Longest name in bytes; Linux's `NAME_MAX`, beyond which no program could open it.
pub const NAME_BYTES_MAX: usize = 255;

/// What a file is called that holds the target of a symbolic link: the link's own name, and this behind it. rclone's way.
pub const LINK_ENDING: &str = ".rclonelink";

/// Longest target of a link; Linux's `PATH_MAX` without the NUL at its end.
pub const LINK_TARGET_BYTES_MAX: u64 = 4095;

/// The file that holds the target of the link at `path`.
pub fn link_file(path: &str) -> String {
    format!("{path}{LINK_ENDING}")
}

/// A name in a folder, as its listing tells it. The name is safe: not empty, not `.` or `..`, no `/`, no NUL,
/// at most 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The last component, decoded.
    pub name: Box<str>,
    /// Folder, or file with what the listing says of its size.
    pub kind: ListedKind,
    /// As far as the listing tells; often to the minute only.
    pub modified: Option<SystemTime>,
}

impl Listed {
    /// A file of which all is known.
    pub fn file(name: impl Into<Box<str>>, stat: &Stat) -> Self {
        let kind = ListedKind::File { size_bytes: Some(stat.size_bytes) };
        Self { name: name.into(), kind, modified: stat.modified }
    }
}

/// What a listed name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListedKind {
    /// A folder.
    Folder,
    /// A file; the size only where the listing is exact.
    File {
        /// Exact size, or nothing: then `stat` tells.
        size_bytes: Option<u64>,
    },
    /// A symbolic link; its target stands in the file [`link_file`].
    Link {
        /// Of that file, or nothing.
        size_bytes: Option<u64>,
    },
}

/// Takes the names of a folder as they come, at most `PAGE_NAMES_MAX` at a time. An error of its own ends the listing,
/// and comes out of it.
pub type Pages<'a> = dyn FnMut(Vec<Listed>) -> Result<()> + 'a;

/// Whether a name from outside may become a name on the drive: one component, that can't climb and can be opened.
pub fn is_safe_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.len() <= NAME_BYTES_MAX && !name.contains(['/', '\0'])
}

/// `folder/name`, or the name alone at the top.
pub fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// Makes pages of names that come one by one.
pub struct Paging<'a, 'b> {
    page: Vec<Listed>,
    count: usize,
    pages: &'a mut Pages<'b>,
}

impl<'a, 'b> Paging<'a, 'b> {
    /// Pages go to `pages`.
    pub fn new(pages: &'a mut Pages<'b>) -> Self {
        Self { page: Vec::new(), count: 0, pages }
    }

    /// Takes one more name, which is safe. `Full` when there are too many.
    pub fn add(&mut self, listed: Listed) -> Result<()> {
        self.check_count(1)?;
        self.count += 1;
        self.page.push(listed);
        if self.page.len() < PAGE_NAMES_MAX { Ok(()) } else { (self.pages)(std::mem::take(&mut self.page)) }
    }

    /// `Full` if the folder holds too many names with these `more`: names that are left out count, too.
    pub fn check_count(&self, more: usize) -> Result<()> {
        if self.count.saturating_add(more) > LISTING_NAMES_MAX { Err(too_long()) } else { Ok(()) }
    }

    /// Names taken so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Hands the last page over. Without it, the folder is shorter than it is: call it when all went well.
    pub fn finish(self) -> Result<()> {
        if self.page.is_empty() { Ok(()) } else { (self.pages)(self.page) }
    }
}

/// More names than a listing may hold, those that are left out included.
pub(super) fn too_long() -> Error {
    Error::new(Kind::Full, format!("the folder holds more than {LISTING_NAMES_MAX} names"))
}

/// All that `list` hands over, sorted by name, each once: for a folder that is known to be small.
pub(crate) fn whole(list: impl FnOnce(&mut Pages<'_>) -> Result<()>) -> Result<Vec<Listed>> {
    let mut names = Vec::new();
    list(&mut |page| {
        names.extend(page);
        Ok(())
    })?;
    sort_listing(&mut names);
    Ok(names)
}

/// Sorts a listing by name and keeps the first of each.
pub(crate) fn sort_listing(names: &mut Vec<Listed>) {
    names.sort_by(|a, b| a.name.cmp(&b.name)); // stable: the first stays first
    names.dedup_by(|later, kept| later.name == kept.name);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str, kind: ListedKind) -> Listed {
        Listed { name: name.into(), kind, modified: None }
    }

    #[test]
    fn names_that_climb_or_cannot_be_opened_are_unsafe() {
        let long = "x".repeat(NAME_BYTES_MAX);
        for safe in ["a", "...", "..a", " ", "a\\b", "é", "?#%", long.as_str()] {
            assert!(is_safe_name(safe), "{safe:?}");
        }
        let longer = "x".repeat(NAME_BYTES_MAX + 1);
        for bad in ["", ".", "..", "a/b", "/", "a\0", longer.as_str()] {
            assert!(!is_safe_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_listing_is_sorted_and_keeps_the_first_of_each_name() {
        let file = ListedKind::File { size_bytes: None };
        let mut names = vec![listed("b", file), listed("a", ListedKind::Folder), listed("a", file)];
        sort_listing(&mut names);
        assert_eq!(names, [listed("a", ListedKind::Folder), listed("b", file)]);
    }

    #[test]
    fn pages_hold_a_thousand_names_and_the_last_one_the_rest() {
        let sizes = |count: usize| {
            let mut sizes = Vec::new();
            let mut pages = |page: Vec<Listed>| {
                sizes.push(page.len());
                Ok(())
            };
            let mut paging = Paging::new(&mut pages);
            for at in 0..count {
                paging.add(listed(&at.to_string(), ListedKind::Folder)).unwrap();
            }
            paging.finish().unwrap();
            sizes
        };
        assert_eq!(sizes(0), [0; 0]);
        assert_eq!(sizes(2_000), [1_000, 1_000]);
        assert_eq!(sizes(2_001), [1_000, 1_000, 1]);
    }

    #[test]
    fn what_takes_the_pages_can_end_the_listing_and_so_can_a_limit() {
        let mut refuse = |_: Vec<Listed>| Err(Error::new(Kind::Local, "no room"));
        let mut paging = Paging::new(&mut refuse);
        let added = (0..PAGE_NAMES_MAX).map(|_| paging.add(listed("a", ListedKind::Folder)));
        assert_eq!(added.filter(Result::is_err).count(), 1);
        let mut take = |_: Vec<Listed>| Ok(());
        let mut paging = Paging::new(&mut take);
        let mut added = (0..=LISTING_NAMES_MAX).map(|_| paging.add(listed("a", ListedKind::Folder)));
        assert_eq!(added.find_map(Result::err).unwrap().kind(), Kind::Full);
    }
}
