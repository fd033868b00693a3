//! Symbolic links that other programs write as files: rclone (`--links`) and its like put the target of `film.mkv` into
//! `film.mkv.rclonelink`. They are listed as the links that they stand for.
//! Never here: reading a target (see `drive/targets.rs`), and where it leads: that is the kernel's to find out.
//!
//! Nothing more is asked for it: which name is a link, its listing tells.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Begun, Body, Health, Listed, ListedKind, Origin, Pages, Patience, Section, Stat};
use crate::error::Result;
use crate::range::ByteRange;
use crate::store::{LINK_ENDING, LINK_TARGET_BYTES_MAX, PAGE_NAMES_MAX};

/// Links of a folder that are held back until all its files are told, as a file of the same name comes first; of more links,
/// the server's order decides. About 100 bytes each.
const HELD_MAX: usize = 20_000;

/// An origin whose files of links are listed as links.
pub struct Linked(Arc<dyn Origin>);

impl Linked {
    /// Shows the links of `origin`.
    pub fn new(origin: Arc<dyn Origin>) -> Self {
        Self(origin)
    }
}

/// The link that a file stands for, if its name and its size may be those of one.
fn as_link(listed: &Listed) -> Option<Listed> {
    let ListedKind::File { size_bytes } = listed.kind else { return None };
    let name = listed.name.strip_suffix(LINK_ENDING).filter(|name| !matches!(*name, "" | "." | ".."))?;
    let may_be = size_bytes.is_none_or(|size| (1..=LINK_TARGET_BYTES_MAX).contains(&size));
    may_be.then(|| Listed { name: name.into(), kind: ListedKind::Link { size_bytes }, modified: listed.modified })
}

impl Origin for Linked {
    fn list(&self, folder: &str, patience: &Patience, pages: &mut Pages<'_>) -> Result<()> {
        let mut held: Vec<Listed> = Vec::new();
        self.0.list(folder, patience, &mut |mut page| {
            page.retain_mut(|listed| {
                let Some(link) = as_link(listed) else { return true };
                if held.len() < HELD_MAX {
                    held.push(link);
                    return false;
                }
                *listed = link;
                true
            });
            if page.is_empty() { Ok(()) } else { pages(page) }
        })?;
        while !held.is_empty() {
            let rest = held.split_off(PAGE_NAMES_MAX.min(held.len()));
            pages(std::mem::replace(&mut held, rest))?;
        }
        Ok(())
    }

    fn stat(&self, path: &str, patience: &Patience) -> Result<Stat> {
        self.0.stat(path, patience)
    }

    fn begin(&self, path: &str, section: Section, patience: &Patience) -> Result<Option<Begun>> {
        self.0.begin(path, section, patience)
    }

    fn look_anew(&self) {
        self.0.look_anew();
    }

    fn warm(&self, every: Duration) {
        self.0.warm(every);
    }

    fn doubt(&self, silent_since: Instant) {
        self.0.doubt(silent_since);
    }

    fn silent_for(&self) -> Duration {
        self.0.silent_for()
    }

    fn probe(&self, patience: &Patience) -> Result<()> {
        self.0.probe(patience)
    }

    fn health(&self) -> Health {
        self.0.health()
    }

    fn read(&self, path: &str, expected: &Stat, range: ByteRange, patience: &Patience) -> Result<Box<dyn Body>> {
        self.0.read(path, expected, range, patience)
    }

    fn describe(&self) -> &str {
        self.0.describe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::Cancel;
    use crate::error::{Error, Kind};

    fn listed(name: &str, size_bytes: Option<u64>) -> Listed {
        Listed { name: name.into(), kind: ListedKind::File { size_bytes }, modified: None }
    }

    #[test]
    fn names_that_stand_for_links() {
        for (name, size, link) in [
            ("a.mkv.rclonelink", None, Some("a.mkv")),
            ("a.rclonelink", Some(1), Some("a")),
            ("a.rclonelink", Some(4095), Some("a")),
            ("a.rclonelink", Some(4096), None),
            ("a.rclonelink", Some(0), None),
            (".rclonelink", None, None),
            ("..rclonelink", None, None),
            ("...rclonelink", None, None),
            ("a.rclonelink.mkv", None, None),
            ("rclonelink", None, None),
        ] {
            let found = as_link(&listed(name, size)).map(|listed| listed.name);
            assert_eq!(found.as_deref(), link, "{name} {size:?}");
        }
        let folder = Listed { kind: ListedKind::Folder, ..listed("a.rclonelink", None) };
        assert_eq!(as_link(&folder), None);
    }

    /// A folder that tells the link first, each name in a page of its own.
    struct Told;

    impl Origin for Told {
        fn list(&self, _: &str, _: &Patience, pages: &mut Pages<'_>) -> Result<()> {
            let names = ["a.mkv.rclonelink", "a.mkv", "b.mkv.rclonelink", "c.nfo"];
            names.iter().try_for_each(|name| pages(vec![listed(name, Some(6))]))
        }

        fn stat(&self, _: &str, _: &Patience) -> Result<Stat> {
            Err(Error::new(Kind::Unsupported, "nobody asks here"))
        }

        fn read(&self, _: &str, _: &Stat, _: ByteRange, _: &Patience) -> Result<Box<dyn Body>> {
            Err(Error::new(Kind::Unsupported, "nobody reads here"))
        }

        fn describe(&self) -> &'static str {
            "films"
        }
    }

    #[test]
    fn a_file_comes_before_a_link_of_its_name() {
        let patience = Patience { stall: Duration::from_secs(5), cancel: Cancel::new() };
        let names = Linked::new(Arc::new(Told)).list_whole("", &patience).unwrap();
        let names: Vec<_> = names.iter().map(|listed| (&*listed.name, listed.kind)).collect();
        let (file, link) = (ListedKind::File { size_bytes: Some(6) }, ListedKind::Link { size_bytes: Some(6) });
        assert_eq!(names, [("a.mkv", file), ("b.mkv", link), ("c.nfo", file)]);
    }
}
