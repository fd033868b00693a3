//! What there is to put: one file, or all files below a folder.
//! Never here: the library.

use std::ffi::OsString;
use std::fs::{self, FileType};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::destination;
use crate::error::{Error, Kind, Result};
use crate::store::join;

/// Folders within each other, at most: a path of the library holds no more.
const DEPTH_MAX: usize = 1_000;

/// Names of a folder that are put in order: as many as are held for each folder on the way down.
const SORTED_MAX: usize = 10_000;

/// A file to put.
pub struct Found {
    /// Where it is.
    pub from: PathBuf,
    /// Where it goes.
    pub to: String,
    /// As it is now.
    pub size_bytes: u64,
    /// As it is now.
    pub modified: SystemTime,
}

/// Hands all files at and below `from` to `each`, and what could not be looked at, until it says no. Links to files are
/// followed, links to folders are not: they may lead in circles. In the order of their paths, as far as folders are not huge.
pub fn walk(from: &Path, to: &str, is_into: bool, each: &mut dyn FnMut(Result<Found>) -> bool) -> Result<()> {
    let to = destination(from, to, is_into)?;
    let metadata = fs::metadata(from).map_err(|error| Error::io(from.display(), &error))?;
    if metadata.is_dir() {
        folder(from, &to, DEPTH_MAX, each);
        return Ok(());
    }
    each(found(from, to));
    Ok(())
}

/// Whether to go on.
fn folder(from: &Path, to: &str, depth: usize, each: &mut dyn FnMut(Result<Found>) -> bool) -> bool {
    let failed = |error: &std::io::Error| Err(Error::io(from.display(), error));
    if depth == 0 {
        return each(Err(Error::new(Kind::Invalid, format!("{}: more than {DEPTH_MAX} folders deep", from.display()))));
    }
    let mut entries = match fs::read_dir(from) {
        Ok(entries) => entries,
        Err(error) => return each(failed(&error)),
    };
    loop {
        let (mut names, mut broken) = (Vec::new(), None);
        for entry in entries.by_ref().take(SORTED_MAX) {
            match entry.and_then(|entry| Ok((entry.file_name(), entry.file_type()?))) {
                Ok(entry) => names.push(entry),
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
        }
        if names.is_empty() && broken.is_none() {
            return true;
        }
        names.sort_by_cached_key(|(name, kind)| path_bytes(name, *kind));
        for (name, kind) in names {
            let path = from.join(&name);
            let Some(to) = name.to_str().map(|name| join(to, name)) else {
                if !each(Err(Error::new(Kind::Invalid, format!("{}: names in a library are UTF-8", path.display())))) {
                    return false;
                }
                continue;
            };
            let goes_on = if kind.is_dir() {
                folder(&path, &to, depth - 1, each)
            } else if kind.is_symlink() && fs::metadata(&path).is_ok_and(|behind| behind.is_dir()) {
                log::warn!("{}: a link to a folder is left out", path.display());
                true
            } else {
                each(found(&path, to))
            };
            if !goes_on {
                return false;
            }
        }
        if let Some(error) = broken {
            return each(failed(&error));
        }
    }
}

/// By which names of one folder stand as the paths of their files do.
fn path_bytes(name: &OsString, kind: FileType) -> Vec<u8> {
    let mut bytes = name.as_encoded_bytes().to_vec();
    if kind.is_dir() {
        bytes.push(b'/');
    }
    bytes
}

/// The file at `from` as it is now, which goes to `to`.
pub fn found(from: &Path, to: String) -> Result<Found> {
    let failed = |error: std::io::Error| Error::io(from.display(), &error);
    let metadata = fs::metadata(from).map_err(failed)?;
    if !metadata.is_file() {
        return Err(Error::new(Kind::Invalid, format!("{}: neither a file nor a folder", from.display())));
    }
    let modified = metadata.modified().map_err(failed)?;
    Ok(Found { from: from.to_owned(), to, size_bytes: metadata.len(), modified })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_file_below_a_folder() {
        let temp = tempfile::tempdir().unwrap();
        let top = temp.path().join("films");
        fs::create_dir_all(top.join("a/b")).unwrap();
        for name in ["one.mkv", "a.mkv", "a/two.mkv", "a/b/three.mkv"] {
            fs::write(top.join(name), name).unwrap();
        }
        symlink("one.mkv", top.join("link.mkv")).unwrap();
        symlink("..", top.join("a/up")).unwrap();
        symlink("nowhere", top.join("dangling")).unwrap();
        let (mut paths, mut errors) = (Vec::new(), 0);
        let walked = walk(&top, "to", true, &mut |found| {
            match found {
                Ok(found) => paths.push((found.to, found.size_bytes)),
                Err(_) => errors += 1,
            }
            true
        });
        walked.unwrap();
        let expected = [
            ("to/films/a.mkv", 5),
            ("to/films/a/b/three.mkv", 13),
            ("to/films/a/two.mkv", 9),
            ("to/films/link.mkv", 7),
            ("to/films/one.mkv", 7),
        ];
        assert_eq!(paths, expected.map(|(path, size)| (path.to_owned(), size)));
        assert_eq!(errors, 1, "the one that leads nowhere");
        assert!(walk(&top.join("none"), "", true, &mut |_| true).is_err());
        let mut count = 0;
        let ended = walk(&top, "to", true, &mut |_| {
            count += 1;
            count < 2
        });
        assert!(ended.is_ok() && count == 2, "no farther than it was told to");
    }
}
