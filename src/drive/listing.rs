//! A folder's names as the drive holds them: a small folder's in memory, a large one's in the index.
//! Never here: asking for them.

use std::sync::Arc;

use super::times;
use crate::cache::{Cache, KeptListing, Spool};
use crate::error::{Error, Result};
use crate::origin::{Listed, ListedKind, Origin, Patience};
use crate::store::{PAGE_NAMES_MAX, link_file, sort_listing};

/// Names of a folder that is held in memory: about 5 MB. A larger one is read from the index a page at a time.
const NAMES_IN_MEMORY_MAX: usize = 50_000;

/// A folder's names, sorted; the same for as long as it is held. Cheap to clone.
#[derive(Clone)]
pub(crate) enum Listing {
    Small(Arc<Vec<Listed>>),
    Large(Arc<KeptListing>),
}

impl Listing {
    /// Asks for a folder's names and takes them in as they come.
    pub(super) fn gather(origin: &dyn Origin, folder: &str, patience: &Patience, cache: &Cache) -> Result<Self> {
        let mut spool_error = None;
        let gathered = Self::gather_by(origin, folder, patience, || cache.spool_listing(folder), &mut spool_error);
        let Some(error) = spool_error else { return gathered };
        // A full disk: those that went into the index are lost, so all are asked for once more.
        Self::gather_by(origin, folder, patience, || Err(error), &mut None)
    }

    /// The same, with whatever kept the index from taking names.
    fn gather_by(
        origin: &dyn Origin,
        folder: &str,
        patience: &Patience,
        begin: impl FnOnce() -> Result<Spool>,
        spool_error: &mut Option<Error>,
    ) -> Result<Self> {
        let mut names: Vec<Listed> = Vec::new();
        let mut spool: Option<Spool> = None;
        let mut begin = Some(begin);
        let failed = |error: &Error, spool_error: &mut Option<Error>| *spool_error = Some(error.clone());
        origin.list(folder, patience, &mut |page| {
            if let Some(spool) = &mut spool {
                return spool.add(&page).inspect_err(|error| failed(error, spool_error));
            }
            names.extend(page);
            if names.len() > NAMES_IN_MEMORY_MAX
                && let Some(begin) = begin.take()
            {
                match begin() {
                    Ok(new) => {
                        let spool = spool.insert(new);
                        let added =
                            std::mem::take(&mut names).chunks(PAGE_NAMES_MAX).try_for_each(|page| spool.add(page));
                        added.inspect_err(|error| failed(error, spool_error))?;
                    }
                    Err(error) => log::warn!("{folder}: its names are held in memory: {error}"),
                }
            }
            Ok(())
        })?;
        if let Some(spool) = spool {
            return spool.finish().inspect_err(|error| failed(error, spool_error)).map(Self::Large);
        }
        sort_listing(&mut names);
        names.shrink_to_fit();
        Ok(Self::Small(Arc::new(names)))
    }

    /// What was written down of a folder.
    pub(super) fn recall(kept: Arc<KeptListing>) -> Result<Self> {
        Ok(if kept.len() > NAMES_IN_MEMORY_MAX as u64 {
            Self::Large(kept)
        } else {
            Self::Small(Arc::new(kept.whole()?))
        })
    }

    /// The same names, each with the time it had in `old` where the new one can be that one, rounded. `exact` tells the
    /// time of a file that was listed without one before, if it is known. Large listings stay as they are.
    pub(super) fn settle(
        mut self,
        old: Option<&Self>,
        exact: impl Fn(&Listed) -> Option<std::time::SystemTime>,
    ) -> Self {
        let (Self::Small(names), Some(Self::Small(old))) = (&mut self, old) else { return self };
        let finer_from = times::finer_from(names.iter().filter_map(|listed| listed.modified));
        let settled: Vec<_> = pairs(old, names)
            .filter(|(_, old, new)| is_folder(old) == is_folder(new) && !is_folder(new) && may_be_of_one_size(old, new))
            .filter_map(|(at, old, new)| {
                let modified = match (old.modified, new.modified) {
                    (None, Some(listed)) => exact(new).filter(|exact| times::is_same_in_some_zone(listed, *exact)),
                    (old, new) => times::kept(old, new, finer_from),
                };
                modified.filter(|modified| new.modified != Some(*modified)).map(|modified| (at, modified))
            })
            .collect();
        if !settled.is_empty() {
            let names = Arc::make_mut(names);
            for (at, modified) in settled {
                names[at].modified = Some(modified);
            }
        }
        self
    }

    /// How many names there are.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Small(names) => names.len() as u64,
            Self::Large(kept) => kept.len(),
        }
    }

    /// Names held in memory, about.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Small(names) => names.len() + 1,
            // A page, and a mark for each page.
            Self::Large(kept) => PAGE_NAMES_MAX + kept.len() as usize / PAGE_NAMES_MAX,
        }
    }

    /// Bytes of all its files, as far as the listing tells.
    pub(super) fn size_bytes(&self) -> u64 {
        let size = |listed: &Listed| match listed.kind {
            ListedKind::File { size_bytes } => size_bytes.unwrap_or(0),
            ListedKind::Folder | ListedKind::Link { .. } => 0,
        };
        match self {
            Self::Small(names) => names.iter().map(size).fold(0, u64::saturating_add),
            Self::Large(kept) => kept.size_bytes(),
        }
    }

    /// Adds a name, or replaces it. `false`: a large one is asked for anew.
    pub(super) fn put(&mut self, listed: Listed) -> bool {
        let Self::Small(names) = self else { return false };
        let names = Arc::make_mut(names);
        match names.binary_search_by(|other| other.name.cmp(&listed.name)) {
            Ok(at) => names[at] = listed,
            Err(at) => names.insert(at, listed),
        }
        true
    }

    /// Takes a name out. `false`: a large one is asked for anew.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let Self::Small(names) = self else { return false };
        if let Some(at) = position(names, name) {
            Arc::make_mut(names).remove(at);
        }
        true
    }

    /// The name, if it is there.
    pub(super) fn find(&self, name: &str) -> Result<Option<Listed>> {
        match self {
            Self::Small(names) => Ok(position(names, name).map(|at| names[at].clone())),
            Self::Large(kept) => kept.find(name),
        }
    }

    /// Files that `new` tells another size or time of; of a link, the file that holds its target.
    pub(super) fn changed_in(&self, new: &Self) -> Result<Vec<Box<str>>> {
        let mut cursor = Cursor { listing: self, start: 0, names: self.page_of(0)?.1, at: 0 };
        let (mut changed, mut failed) = (Vec::new(), None);
        new.visit_from(0, |_, new| {
            match cursor.seek(&new.name) {
                Ok(old) if old.is_some_and(|old| is_other_version(old, new)) => changed.push(file_of(new)),
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
            failed.is_some()
        })?;
        failed.map_or(Ok(changed), Err)
    }

    /// The names around number `at`, and the number of the first of them. Empty beyond the last one.
    fn page_of(&self, at: u64) -> Result<(u64, Arc<Vec<Listed>>)> {
        match self {
            Self::Small(names) => Ok((0, Arc::clone(names))),
            Self::Large(kept) => kept.page_of(at),
        }
    }

    /// Names from number `at` on, with their numbers, until `visit` says that it is enough (`true`).
    pub(super) fn visit_from(&self, mut at: u64, mut visit: impl FnMut(u64, &Listed) -> bool) -> Result<()> {
        loop {
            let (start, names) = self.page_of(at)?;
            let rest = usize::try_from(at - start).ok().and_then(|from| names.get(from..)).unwrap_or_default();
            if rest.is_empty() {
                return Ok(());
            }
            for listed in rest {
                if visit(at, listed) {
                    return Ok(());
                }
                at += 1;
            }
        }
    }
}

/// A place in a listing that only moves forward.
struct Cursor<'a> {
    listing: &'a Listing,
    // The page it is in, the number of that page's first name, and the place in it.
    start: u64,
    names: Arc<Vec<Listed>>,
    at: usize,
}

impl Cursor<'_> {
    /// Goes on to `name`, if it is there. Names must be sought in their order.
    fn seek(&mut self, name: &str) -> Result<Option<&Listed>> {
        loop {
            while self.names.get(self.at).is_some_and(|listed| *listed.name < *name) {
                self.at += 1;
            }
            let next = self.start + self.names.len() as u64;
            if self.at < self.names.len() || next >= self.listing.len() {
                return Ok(self.names.get(self.at).filter(|listed| *listed.name == *name));
            }
            (self.start, self.names) = self.listing.page_of(next)?;
            self.at = 0;
        }
    }
}

/// The number of a name in a sorted listing.
pub(super) fn position(names: &[Listed], name: &str) -> Option<usize> {
    names.binary_search_by(|listed| (*listed.name).cmp(name)).ok()
}

/// Folders of `new` that `old` holds with another time. Both are sorted.
pub(super) fn retimed<'a>(old: &[Listed], new: &'a [Listed]) -> impl Iterator<Item = &'a Listed> {
    let mut old = old.iter().peekable();
    new.iter().filter(|listed| is_folder(listed)).filter(move |listed| {
        while old.next_if(|old| old.name < listed.name).is_some() {}
        old.peek().is_some_and(|old| old.name == listed.name && is_folder(old) && old.modified != listed.modified)
    })
}

/// Names that both hold: the place in `new`, and how each tells it. Both are sorted.
fn pairs<'a>(old: &'a [Listed], new: &'a [Listed]) -> impl Iterator<Item = (usize, &'a Listed, &'a Listed)> {
    let mut old = old.iter().peekable();
    new.iter().enumerate().filter_map(move |(at, new)| {
        while old.next_if(|old| old.name < new.name).is_some() {}
        old.next_if(|old| old.name == new.name).map(|old| (at, old, new))
    })
}

/// Whether two listings of a file tell one size, as far as each tells any.
fn may_be_of_one_size(one: &Listed, other: &Listed) -> bool {
    let none = ListedKind::File { size_bytes: None };
    one.kind == other.kind || one.kind == none || other.kind == none
}

/// Whether two listings of a name are surely not of one version of a file.
fn is_other_version(old: &Listed, new: &Listed) -> bool {
    let is_retimed = old.modified.zip(new.modified).is_some_and(|(old, new)| old != new);
    !is_folder(new) && (is_folder(old) || is_retimed || !may_be_of_one_size(old, new))
}

/// The name of the file that holds its bytes.
fn file_of(listed: &Listed) -> Box<str> {
    match listed.kind {
        ListedKind::Link { .. } => link_file(&listed.name).into(),
        _ => listed.name.clone(),
    }
}

fn is_folder(listed: &Listed) -> bool {
    listed.kind == ListedKind::Folder
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str, size_bytes: u64) -> Listed {
        Listed { name: name.into(), kind: ListedKind::File { size_bytes: Some(size_bytes) }, modified: None }
    }

    #[test]
    fn a_folder_whose_time_changed_is_found() {
        let at = |minute: u64| Some(std::time::UNIX_EPOCH + std::time::Duration::from_secs(60 * minute));
        let folder = |name: &str, minute| Listed { name: name.into(), kind: ListedKind::Folder, modified: at(minute) };
        let old = [folder("a", 1), folder("b", 1), listed("c", 1), folder("d", 1)];
        let new = [folder("a", 1), folder("b", 2), folder("c", 2), listed("d", 1)];
        assert_eq!(retimed(&old, &new).map(|listed| &*listed.name).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn a_listing_to_the_minute_does_not_take_exact_times_away() {
        let at = |seconds: u64| Some(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds));
        let dated = |name: &str, size, seconds| Listed { modified: at(seconds), ..listed(name, size) };
        let small = |names: &[Listed]| Listing::Small(Arc::new(names.to_vec()));
        let undated = Listed { modified: None, ..listed("d", 1) };
        let folder = |seconds| Listed { name: "f".into(), kind: ListedKind::Folder, modified: at(seconds) };
        let old = small(&[dated("a", 1, 647), dated("b", 1, 647), dated("c", 1, 647), undated, folder(647)]);
        let new = [
            dated("a", 1, 600),
            dated("b", 2, 600),
            dated("c", 1, 900),
            dated("d", 1, 600),
            dated("e", 1, 600),
            folder(600),
        ];
        let exact = |listed: &Listed| at(647).filter(|_| &*listed.name == "d");
        let Listing::Small(settled) = small(&new).settle(Some(&old), exact) else { panic!("it grew") };
        let times: Vec<_> = settled.iter().map(|listed| listed.modified).collect();
        assert_eq!(times, [at(647), at(600), at(900), at(647), at(600), at(600)]);
        let Listing::Small(alone) = small(&new).settle(None, exact) else { panic!("it grew") };
        assert_eq!(*alone, new);
    }

    #[test]
    fn a_listing_tells_which_files_changed_since_another() {
        let at = |minute: u64| Some(std::time::UNIX_EPOCH + std::time::Duration::from_secs(60 * minute));
        let dated = |name: &str, size, minute| Listed { modified: at(minute), ..listed(name, size) };
        let small = |names: &[Listed]| Listing::Small(Arc::new(names.to_vec()));
        let no_size = Listed { kind: ListedKind::File { size_bytes: None }, ..dated("f", 1, 1) };
        let folder = |minute| Listed { name: "g".into(), kind: ListedKind::Folder, modified: at(minute) };
        let old = [dated("a", 1, 1), dated("b", 1, 1), dated("c", 1, 1), dated("e", 1, 1), no_size.clone(), folder(1)];
        let new = [dated("b", 1, 2), dated("c", 2, 1), dated("d", 1, 9), listed("e", 1), no_size, folder(2)];
        let changed = small(&old).changed_in(&small(&new)).unwrap();
        assert_eq!(changed.iter().map(|name| &**name).collect::<Vec<_>>(), ["b", "c"]);
        assert!(small(&[]).changed_in(&small(&new)).unwrap().is_empty());
    }

    #[test]
    fn offsets_name_the_same_entries_however_they_are_paged() {
        let listing = Listing::Small(Arc::new((0..100).map(|at| listed(&format!("{at:03}"), at)).collect()));
        for from in [0, 1, 2, 50, 99, 100, u64::MAX] {
            let mut names = Vec::new();
            listing
                .visit_from(from, |at, listed| {
                    names.push((at, listed.name.clone()));
                    false
                })
                .unwrap();
            assert_eq!(names.len() as u64, 100 - from.min(100));
            assert!(names.iter().all(|(at, name)| format!("{at:03}") == **name));
        }
    }
}
