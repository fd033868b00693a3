//! Small files put together: what stands by their names is looked at for many at once, and then all tags are written, and
//! all names.
//! Never here: files of chunks, and those that take the place of others (see `draft`).

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::groups::tag_entries;
use super::{KeyedLibrary, keys, value};
use crate::error::{Error, Kind, Result};
use crate::library::{Meta, Small, check_tags};
use crate::store::keyed::There;

/// A file as it is kept.
struct Framed {
    path: String,
    value: Bytes,
    tags: Vec<String>,
}

impl KeyedLibrary {
    /// Which of these paths nothing has yet, and nothing stands in the way of; nor does another of them.
    pub(super) fn are_new(&self, paths: &[&str]) -> Result<Vec<bool>> {
        let mut count: HashMap<&str, u32> = HashMap::new();
        for path in paths {
            *count.entry(path).or_default() += 1;
        }
        // Who has an odd name, or the same as another, or is below another, goes alone: there it is told what is wrong.
        let is_plain = |path: &str| {
            keys::check_new(path, self.asking.limits()).is_ok()
                && keys::parse_chunk(path).is_none()
                && count.get(path) == Some(&1)
                && !above(path).any(|folder| count.contains_key(folder))
        };
        let mut are_new: Vec<_> = paths.iter().map(|path| is_plain(path)).collect();
        let folders: HashSet<&str> =
            paths.iter().zip(&are_new).filter(|(_, is_new)| **is_new).flat_map(|(path, _)| above(path)).collect();
        let unknown: Vec<String> = {
            let mut known = self.folders.lock();
            folders.into_iter().filter(|folder| known.get(*folder).is_none()).map(str::to_owned).collect()
        };
        let mut files = HashSet::new();
        for (folder, there) in unknown.iter().zip(self.asking.there(&unknown)?) {
            if there == There::Value {
                files.insert(folder.as_str());
            } else {
                self.folders.lock().put(folder.clone(), ());
            }
        }
        let asked: Vec<_> =
            paths.iter().zip(&are_new).filter(|(_, is_new)| **is_new).map(|(path, _)| (*path).to_owned()).collect();
        let mut there = self.asking.there(&asked)?.into_iter();
        for (path, is_new) in paths.iter().zip(&mut are_new).filter(|(_, is_new)| **is_new) {
            let is_free = there.next() == Some(There::Nothing);
            *is_new = is_free && !above(path).any(|folder| files.contains(folder));
        }
        Ok(are_new)
    }

    /// Gives new names to files, all together.
    pub(super) fn put_small(&self, files: Vec<Small>) -> Vec<Result<()>> {
        self.passing.begin(self);
        let framed: Vec<Result<Framed>> = files.into_iter().map(|file| self.frame(file)).collect();
        let mut done: Vec<Result<()>> =
            framed.iter().map(|file| file.as_ref().map(drop).map_err(Clone::clone)).collect();
        // Before the names: a file that has a tag is always found by it.
        let sound = framed.iter().enumerate().filter_map(|(n, file)| Some((n, file.as_ref().ok()?)));
        let tags: Vec<_> = sound
            .flat_map(|(n, file)| tag_entries(&file.tags, &file.path, None).into_iter().map(move |entry| (n, entry)))
            .collect();
        let (of, tags): (Vec<usize>, Vec<_>) = tags.into_iter().unzip();
        for (n, put) in of.iter().zip(self.asking.put_together(&tags)) {
            keep_first(&mut done[*n], put);
        }
        let (named, entries): (Vec<usize>, Vec<_>) = framed
            .iter()
            .enumerate()
            .filter(|(n, _)| done[*n].is_ok())
            .filter_map(|(n, file)| file.as_ref().ok().map(|file| (n, (file.path.clone(), file.value.clone()))))
            .unzip();
        for (_, (path, _)) in named.iter().zip(&entries) {
            self.folders.lock().pop(path);
        }
        for (n, put) in named.into_iter().zip(self.asking.put_together(&entries)) {
            keep_first(&mut done[n], put);
        }
        let indexed = self.index_together(
            tags.into_iter().zip(of).filter(|(_, n)| done[*n].is_ok()).map(|(entry, _)| entry).collect(),
        );
        // What failed with the others is done alone, so that the others do not fail for it. What may pass was waited for.
        for (done, file) in done.iter_mut().zip(framed) {
            let Ok(file) = file else { continue };
            match done {
                Ok(()) => keep_first(done, indexed.clone()),
                Err(error) if error.may_pass() => {}
                Err(_) => *done = self.commit(&file.path, file.value, None, &file.tags, None),
            }
        }
        done
    }

    /// Puts those entries of the index that are missing: whoever took a file of one of these names away meanwhile took them
    /// along.
    fn index_together(&self, entries: Vec<(String, Bytes)>) -> Result<()> {
        let keys: Vec<_> = entries.iter().map(|(key, _)| key.clone()).collect();
        let there = self.asking.there(&keys)?;
        let missing: Vec<_> = entries
            .into_iter()
            .zip(there)
            .filter(|(_, there)| *there != There::Value)
            .map(|(entry, _)| entry)
            .collect();
        self.asking.put_together(&missing).into_iter().collect()
    }

    fn frame(&self, file: Small) -> Result<Framed> {
        let Small { path, bytes, meta } = file;
        let meta = Meta { tags: check_tags(meta.tags)?, ..meta };
        let limits = self.asking.limits();
        meta.tags.iter().try_for_each(|tag| keys::check_tag(tag, limits))?;
        if bytes.len() as u64 > self.settings.whole_bytes_max {
            let message = format!("{}: {} bytes are no small file here", path.escape_debug(), bytes.len());
            return Err(Error::new(Kind::Invalid, message));
        }
        let value = value::frame(&bytes, &meta)?;
        Ok(Framed { path, value, tags: meta.tags })
    }
}

/// The folders that a path is in.
fn above(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(slash, _)| &path[..slash])
}

fn keep_first(done: &mut Result<()>, other: Result<()>) {
    if done.is_ok() {
        *done = other;
    }
}
