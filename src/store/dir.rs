//! A folder of the local machine or of a share it has mounted.
//! Never here: HTTP, and names as a user typed them.
//!
//! Symbolic links are followed, as by every file server: people put them there on purpose; or as the user wants it (`Links`).
//! One that leads back to a folder on the way to it is left out, as the tree would have no end. Names can't climb: a key with `..` in it is refused. What is neither file nor folder (a pipe, a device) does not exist here.

use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt as _, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use log::warn;

use super::loops::Loops;
use super::{
    Begun, Body, List, Listed, ListedKind, Pages, Paging, Patience, Read, Section, Stat, Version, is_safe_name,
};
use crate::config::Links;
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;

/// Read at once: large enough that system calls cost nothing, small enough that a reader gets its first bytes soon.
const PIECE_BYTES: u64 = 256 << 10;

/// A folder, or one file.
#[derive(Clone, Debug)]
pub struct Dir {
    root: PathBuf,
    /// Keys are below the root; else the root is a file and this is its name, the only key.
    file_name: Option<Box<str>>,
    links: Links,
    loops: Loops,
}

impl Dir {
    /// The folder or file at `path`, which must exist.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| Error::io(path.display(), &error);
        let metadata = std::fs::metadata(path).map_err(failed)?;
        // The program may change its working directory. Components: without a last slash.
        let root: PathBuf = std::path::absolute(path).map_err(failed)?.components().collect();
        if metadata.is_dir() {
            return Ok(Self { root, file_name: None, links: Links::default(), loops: Loops::default() });
        }
        let name = path.file_name().and_then(|name| name.to_str()).filter(|name| is_safe_name(name));
        match name {
            Some(name) if metadata.is_file() => {
                Ok(Self { file_name: Some(name.into()), root, links: Links::default(), loops: Loops::default() })
            }
            _ => Err(Error::new(Kind::Invalid, format!("{}: neither a folder nor a file", path.display()))),
        }
    }

    /// The same, with such links followed. The root itself may be one in any case.
    #[must_use]
    pub fn with_links(self, links: Links) -> Self {
        Self { links, ..self }
    }

    /// The folder or file itself, as an absolute path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where `key` is on disk.
    fn path(&self, key: &str) -> Result<PathBuf> {
        match &self.file_name {
            Some(name) if **name == *key => Ok(self.root.clone()),
            Some(_) => Err(self.missing(key)),
            None if key.is_empty() => Ok(self.root.clone()),
            None if key.split('/').all(is_safe_name) => Ok(self.root.join(key)),
            None => Err(Error::new(
                Kind::Invalid,
                format!("`{}` is not a path in {}", key.escape_debug(), self.root.display()),
            )),
        }
    }

    /// Where `key` is on disk, if no link leads there that is not followed.
    fn reach(&self, key: &str) -> Result<PathBuf> {
        let path = self.path(key)?;
        if self.links == Links::Follow || path == self.root {
            return Ok(path);
        }
        let failed = |error: std::io::Error| Error::io(path.display(), &error);
        let real = std::fs::canonicalize(&path).map_err(failed)?;
        let root = std::fs::canonicalize(&self.root).map_err(failed)?;
        let is_followed = match self.links {
            Links::Follow => true,
            Links::FollowInside => real.starts_with(&root),
            Links::Skip => real == root.join(key),
        };
        // What is there now, whatever becomes of a link on the way in the next moment.
        if is_followed { Ok(real) } else { Err(self.missing(key)) }
    }

    /// Whether a link in a folder is followed; `root` is the real path of ours.
    fn follows(&self, link: &Path, root: &Path) -> bool {
        match self.links {
            Links::Follow => true,
            Links::Skip => false,
            // One that leads nowhere is left out in any case.
            Links::FollowInside => std::fs::canonicalize(link).is_ok_and(|real| real.starts_with(root)),
        }
    }

    /// The folders from the root to `folder`, itself the last.
    fn way(&self, folder: &str) -> std::io::Result<Way> {
        let mut path = self.root.clone();
        let mut way = Way { folders: vec![identity(&std::fs::metadata(&path)?)], is_linked: false };
        for part in folder.split('/').filter(|part| !part.is_empty()) {
            path.push(part);
            way.is_linked |= std::fs::symlink_metadata(&path)?.is_symlink();
            way.folders.push(identity(&std::fs::metadata(&path)?));
        }
        Ok(way)
    }

    fn missing(&self, key: &str) -> Error {
        Error::new(Kind::Missing, format!("{}: no file `{}`", self.root.display(), key.escape_debug()))
    }
}

/// Should the file have become a pipe since it was listed, opening it must not wait for a writer.
fn open(path: &Path) -> Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    file.map_err(|error| Error::io(path.display(), &error))
}

/// Device and inode: what tells one folder from another, however it was reached.
fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// The folders on the way to one that is listed.
struct Way {
    folders: Vec<(u64, u64)>,
    /// Some of them was reached by a link. Only below a link, or by one, can a folder be met again.
    is_linked: bool,
}

impl Way {
    /// Whether the last one was on the way already.
    fn is_round(&self) -> bool {
        self.is_linked && self.folders.split_last().is_some_and(|(last, before)| before.contains(last))
    }

    /// Whether a folder that the last one holds was on the way already.
    fn meets(&self, folder: &Metadata, is_link: bool) -> bool {
        (is_link || self.is_linked) && self.folders.contains(&identity(folder))
    }
}

impl Read for Dir {
    fn stat(&self, key: &str, _: &Patience) -> Result<Stat> {
        let path = self.reach(key)?;
        let metadata = std::fs::metadata(&path).map_err(|error| Error::io(path.display(), &error))?;
        if metadata.is_file() { Ok(stat(&metadata)) } else { Err(self.missing(key)) }
    }

    fn begin(&self, key: &str, section: Section, patience: &Patience) -> Result<Option<Begun>> {
        let path = self.reach(key)?;
        let file = open(&path)?;
        let metadata = file.metadata().map_err(|error| Error::io(path.display(), &error))?;
        if !metadata.is_file() {
            return Err(self.missing(key));
        }
        let expected = stat(&metadata);
        let size = expected.size_bytes;
        let range = match section {
            // No faster than `stat` and `read`.
            Section::First(_) => return Ok(None),
            Section::Last(bytes) => ByteRange::new(size.saturating_sub(bytes), size),
            Section::At(range) => range,
        };
        if range.is_empty() || range.end > size {
            return Ok(None);
        }
        let body = DirBody { file, path, expected: expected.clone(), left: range, patience: patience.clone() };
        Ok(Some(Begun { stat: expected, range, body: Box::new(body), cancel: patience.cancel.clone() }))
    }

    fn read(&self, key: &str, expected: &Stat, range: ByteRange, patience: &Patience) -> Result<Box<dyn Body>> {
        let path = self.reach(key)?;
        let file = open(&path)?;
        let body = DirBody { file, path, expected: expected.clone(), left: range, patience: patience.clone() };
        body.check_version()?;
        Ok(Box::new(body))
    }
}

impl List for Dir {
    fn list(&self, folder: &str, patience: &Patience, pages: &mut Pages<'_>) -> Result<()> {
        let mut paging = Paging::new(pages);
        if let Some(name) = &self.file_name {
            if !folder.is_empty() {
                return Err(self.missing(folder));
            }
            let metadata = std::fs::metadata(&self.root).map_err(|error| Error::io(self.root.display(), &error))?;
            listed(name, &metadata).map_or(Ok(()), |listed| paging.add(listed))?;
            return paging.finish();
        }
        let path = self.reach(folder)?;
        let failed = |error: &std::io::Error| Error::io(path.display(), error);
        let root = match self.links {
            Links::FollowInside => std::fs::canonicalize(&self.root).map_err(|error| failed(&error))?,
            _ => PathBuf::new(),
        };
        let way = self.way(folder).map_err(|error| failed(&error))?;
        if way.is_round() {
            return Err(self.missing(folder));
        }
        let mut skipped = 0_usize;
        for entry in std::fs::read_dir(&path).map_err(|error| failed(&error))? {
            let entry = entry.map_err(|error| failed(&error))?;
            check_wanted(&path, patience)?;
            let name = entry.file_name();
            let Ok(name) = std::str::from_utf8(name.as_bytes()) else {
                skipped += 1;
                continue;
            };
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            if is_link && !self.follows(&entry.path(), &root) {
                continue;
            }
            // Follows links; one that leads nowhere, and a file removed just now, are left out.
            let metadata = match std::fs::metadata(entry.path()) {
                Ok(metadata) => metadata,
                Err(error) if hides_name(&error) => continue,
                Err(error) => return Err(Error::io(entry.path().display(), &error)),
            };
            if metadata.is_dir() && way.meets(&metadata, is_link) {
                self.loops.cut(&entry.path().to_string_lossy());
                continue;
            }
            let Some(listed) = listed(name, &metadata) else { continue };
            paging.add(listed).map_err(|error| error.context(path.display()))?;
        }
        if skipped > 0 {
            warn!("{}: {skipped} names left out: not UTF-8", path.display());
        }
        paging.finish()
    }
}

/// The bytes of one range, read when asked for.
struct DirBody {
    file: File,
    path: PathBuf,
    expected: Stat,
    left: ByteRange,
    patience: Patience,
}

impl DirBody {
    /// Whether the open file still is what was expected. A write that keeps size and time is beyond anyone's sight.
    fn check_version(&self) -> Result<()> {
        let metadata = self.file.metadata().map_err(|error| Error::io(self.path.display(), &error))?;
        if metadata.is_file() && stat(&metadata).version == self.expected.version {
            return Ok(());
        }
        Err(Error::new(Kind::Changed, format!("{}: the file has changed", self.path.display())))
    }
}

impl Body for DirBody {
    fn next(&mut self) -> Result<Option<Bytes>> {
        if self.left.is_empty() {
            return Ok(None);
        }
        check_wanted(&self.path, &self.patience)?;
        let mut piece = vec![0; self.left.len().min(PIECE_BYTES) as usize];
        let read = self.file.read_at(&mut piece, self.left.start);
        let count = read.map_err(|error| Error::io(self.path.display(), &error))?;
        // After the bytes were read: they may be those of a write that began meanwhile.
        self.check_version()?;
        if count == 0 {
            let path = self.path.display();
            return Err(Error::new(Kind::Unreachable, format!("{path}: ends before byte {}", self.left.end)));
        }
        piece.truncate(count);
        self.left.start += count as u64;
        Ok(Some(piece.into()))
    }
}

/// A system call under way can't be called off; between two of them we look.
fn check_wanted(path: &Path, patience: &Patience) -> Result<()> {
    if patience.cancel.is_cancelled() {
        return Err(Error::new(Kind::Cancelled, format!("{}: nobody wants it any longer", path.display())));
    }
    Ok(())
}

/// Whether a name that can't be looked at is left out. Any other error (a share that stalls, a bad disk) says nothing of
/// the name, and a listing without it would say that it is gone.
fn hides_name(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied)
        || error.raw_os_error() == Some(libc::ELOOP)
}

fn listed(name: &str, metadata: &Metadata) -> Option<Listed> {
    let kind = if metadata.is_dir() {
        ListedKind::Folder
    } else if metadata.is_file() {
        ListedKind::File { size_bytes: Some(metadata.len()) }
    } else {
        return None;
    };
    Some(Listed { name: name.into(), kind, modified: modified(metadata) })
}

fn stat(metadata: &Metadata) -> Stat {
    let (size_bytes, modified) = (metadata.len(), modified(metadata));
    Stat { size_bytes, modified, version: Version::size_and_time(size_bytes, modified) }
}

/// To the nanosecond.
fn modified(metadata: &Metadata) -> Option<SystemTime> {
    metadata.modified().ok()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use super::*;
    use crate::cancel::Cancel;

    fn list(dir: &Dir, folder: &str) -> Result<Vec<Listed>> {
        crate::store::whole(|pages| dir.list(folder, &patience(), pages))
    }

    fn patience() -> Patience {
        Patience { stall: Duration::from_secs(5), cancel: Cancel::new() }
    }

    fn read_all(dir: &Dir, key: &str, expected: &Stat, range: ByteRange) -> Result<Vec<u8>> {
        let mut body = dir.read(key, expected, range, &patience())?;
        let mut bytes = Vec::new();
        while let Some(piece) = body.next()? {
            assert!(!piece.is_empty() && piece.len() as u64 <= PIECE_BYTES);
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    #[test]
    fn lists_what_can_be_shown() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        fs::write(root.join("b & ö?.mkv"), "film").unwrap();
        fs::create_dir(root.join("a")).unwrap();
        fs::write(root.join("a/inner"), "").unwrap();
        symlink(root.join("b & ö?.mkv"), root.join("link.mkv")).unwrap();
        symlink("a", root.join("link")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        symlink("a/inner/nowhere", root.join("through a file")).unwrap();
        symlink("circle", root.join("circle")).unwrap();
        fs::write(root.join(OsStr::from_bytes(b"latin\xe9")), "").unwrap();
        let _socket = UnixListener::bind(root.join("socket")).unwrap();

        let dir = Dir::open(root).unwrap();
        let listed = list(&dir, "").unwrap();
        let file = ListedKind::File { size_bytes: Some(4) };
        let names: Vec<_> = listed.iter().map(|listed| (&*listed.name, listed.kind)).collect();
        let folder = ListedKind::Folder;
        assert_eq!(names, [("a", folder), ("b & ö?.mkv", file), ("link", folder), ("link.mkv", file)]);
        assert!(listed.iter().all(|listed| listed.modified.is_some()));
        assert_eq!(list(&dir, "link").unwrap().len(), 1);
        assert_eq!(list(&dir, "none").unwrap_err().kind(), Kind::Missing);
        assert_eq!(list(&dir, "link.mkv").unwrap_err().kind(), Kind::Missing);
        for key in ["..", "a/../..", "/etc", "a//inner", "./a"] {
            assert_eq!(dir.stat(key, &patience()).unwrap_err().kind(), Kind::Invalid, "{key}");
        }
        for key in ["a", "socket", "none"] {
            assert_eq!(dir.stat(key, &patience()).unwrap_err().kind(), Kind::Missing, "{key}");
        }
    }

    #[test]
    fn links_to_folders_on_the_way_end_there() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("films");
        for folder in ["a/deep", "b", "../series"] {
            fs::create_dir_all(root.join(folder)).unwrap();
            fs::write(root.join(folder).join("film.mkv"), folder).unwrap();
        }
        for (target, link) in [
            (".", "self"),
            ("..", "up"),
            ("../b", "a/to_b"),
            ("../a", "b/to_a"),
            ("../..", "a/deep/top"),
            ("a/deep", "shortcut"),
            ("self/self/a", "round"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        symlink(&root, temp.path().join("way")).unwrap();
        // The root itself may be a link.
        for root in [root.clone(), temp.path().join("way")] {
            let dir = Dir::open(&root).unwrap();
            let (mut folders, mut found) = (vec![String::new()], Vec::new());
            while let Some(folder) = folders.pop() {
                for listed in list(&dir, &folder).unwrap() {
                    let path = crate::store::join(&folder, &listed.name);
                    let is_folder = listed.kind == ListedKind::Folder;
                    if is_folder { folders.push(path) } else { found.push(path) }
                }
                assert!(found.len() < 1_000, "the tree has no end: {folder}");
            }
            for path in [
                "a/deep/film.mkv",
                "a/to_b/film.mkv",
                "b/to_a/deep/film.mkv",
                "shortcut/film.mkv",
                "up/series/film.mkv",
            ] {
                assert!(found.iter().any(|found| found == path), "{path} is shown");
            }
            let names = |folder: &str| list(&dir, folder).unwrap().into_iter().map(|listed| listed.name.to_string());
            assert!(!names("").any(|name| name == "self"));
            assert!(!names("up").any(|name| name == "films" || name == "way"));
            assert!(!names("a/to_b").any(|name| name == "to_a"));
            for folder in ["self", "up/films", "a/deep/top"] {
                assert_eq!(list(&dir, folder).unwrap_err().kind(), Kind::Missing, "{folder}");
            }
        }
    }

    #[test]
    fn links_are_followed_inside_or_not_at_all_as_the_user_wants_it() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("films");
        fs::create_dir_all(root.join("a/deep")).unwrap();
        fs::create_dir_all(temp.path().join("outside")).unwrap();
        fs::create_dir_all(temp.path().join("films too")).unwrap();
        for file in ["film.mkv", "a/deep/film.mkv", "../outside/film.mkv", "../films too/film.mkv"] {
            fs::write(root.join(file), file).unwrap();
        }
        let absolute = root.join("film.mkv");
        for (target, link) in [
            ("film.mkv", "in.mkv"),
            (absolute.to_str().unwrap(), "absolute.mkv"),
            ("a", "in"),
            ("../outside/film.mkv", "out.mkv"),
            ("../films too/film.mkv", "beside.mkv"),
            ("../outside", "out"),
            ("out/../films/film.mkv", "round.mkv"),
            ("..", "up"),
            (".", "self"),
            ("..", "a/up"),
            ("nowhere", "dangling"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        symlink(&root, temp.path().join("way")).unwrap();
        let real = ["a", "film.mkv"];
        let inside = ["a", "absolute.mkv", "film.mkv", "in", "in.mkv", "round.mkv"];
        let all = ["a", "absolute.mkv", "beside.mkv", "film.mkv", "in", "in.mkv", "out", "out.mkv", "round.mkv", "up"];
        for (links, shown) in [(Links::Skip, &real[..]), (Links::FollowInside, &inside), (Links::Follow, &all)] {
            // The root itself may be a link.
            for root in [root.clone(), temp.path().join("way")] {
                let dir = Dir::open(&root).unwrap().with_links(links);
                let names: Vec<_> = list(&dir, "").unwrap().into_iter().map(|listed| listed.name).collect();
                assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), shown, "{links:?}");
                assert_eq!(list(&dir, "a").unwrap().len(), 1, "a/up is a loop");
                // A guessed name gets what its listing shows.
                for name in ["in.mkv", "absolute.mkv", "out.mkv", "beside.mkv", "round.mkv", "film.mkv"] {
                    let stat = dir.stat(name, &patience());
                    assert_eq!(stat.is_ok(), shown.contains(&name), "{links:?} {name}");
                    let Ok(stat) = stat else { continue };
                    read_all(&dir, name, &stat, ByteRange::new(0, stat.size_bytes)).unwrap();
                }
                for (path, name) in [("in/deep/film.mkv", "in"), ("out/film.mkv", "out")] {
                    assert_eq!(dir.stat(path, &patience()).is_ok(), shown.contains(&name), "{links:?} {path}");
                    assert_eq!(list(&dir, name).is_ok(), shown.contains(&name), "{links:?} {name}");
                }
                let stat = dir.stat("film.mkv", &patience()).unwrap();
                let out = dir.read("out.mkv", &stat, ByteRange::new(0, 1), &patience()).err().unwrap();
                let expected = if links == Links::Follow { Kind::Changed } else { Kind::Missing };
                assert_eq!(out.kind(), expected, "{links:?}");
            }
        }
    }

    #[test]
    fn a_share_that_stalls_hides_no_name() {
        let hides = |code| hides_name(&std::io::Error::from_raw_os_error(code));
        assert!([libc::ENOENT, libc::ENOTDIR, libc::ELOOP, libc::EACCES].into_iter().all(hides));
        assert!(![libc::EIO, libc::ETIMEDOUT, libc::ESTALE, libc::ENOTCONN].into_iter().any(hides));
    }

    #[test]
    fn reads_ranges_in_pieces() {
        let temp = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..700_000_u32).map(|at| (at % 251) as u8).collect();
        fs::write(temp.path().join("film"), &bytes).unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let stat = dir.stat("film", &patience()).unwrap();
        assert_eq!(stat.size_bytes, 700_000);
        for (start, end) in [(0, 700_000), (1, 2), (300_000, 699_999)] {
            let read = read_all(&dir, "film", &stat, ByteRange::new(start, end)).unwrap();
            assert_eq!(read, bytes[start as usize..end as usize]);
        }
        let cancelled = patience();
        cancelled.cancel.cancel();
        let mut body = dir.read("film", &stat, ByteRange::new(0, 9), &cancelled).unwrap();
        assert_eq!(body.next().unwrap_err().kind(), Kind::Cancelled);
    }

    #[test]
    fn a_change_before_or_while_reading_is_seen() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("film");
        fs::write(&path, vec![1; 600_000]).unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let stat = dir.stat("film", &patience()).unwrap();
        let whole = ByteRange::new(0, stat.size_bytes);

        let mut body = dir.read("film", &stat, whole, &patience()).unwrap();
        assert!(body.next().unwrap().is_some());
        fs::write(&path, vec![2; 600_000]).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(stat.modified.unwrap() + Duration::from_nanos(1)).unwrap();
        assert_eq!(body.next().unwrap_err().kind(), Kind::Changed);
        assert_eq!(dir.read("film", &stat, whole, &patience()).err().unwrap().kind(), Kind::Changed);

        // Replaced under an open body: the old file goes on being read, whole.
        let stat = dir.stat("film", &patience()).unwrap();
        let mut body = dir.read("film", &stat, ByteRange::new(0, 5), &patience()).unwrap();
        fs::rename(&path, temp.path().join("old")).unwrap();
        fs::write(&path, vec![3; 600_000]).unwrap();
        assert_eq!(body.next().unwrap().as_deref(), Some([2; 5].as_slice()));
    }

    #[test]
    fn one_file_is_a_place_too() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a film.mkv");
        fs::write(&path, "film").unwrap();
        let dir = Dir::open(&path).unwrap();
        assert_eq!(&*list(&dir, "").unwrap()[0].name, "a film.mkv");
        let stat = dir.stat("a film.mkv", &patience()).unwrap();
        assert_eq!(read_all(&dir, "a film.mkv", &stat, ByteRange::new(1, 4)).unwrap(), b"ilm");
        assert_eq!(dir.stat("other", &patience()).unwrap_err().kind(), Kind::Missing);
        assert_eq!(dir.stat("", &patience()).unwrap_err().kind(), Kind::Missing);
        assert_eq!(Dir::open(&temp.path().join("none")).unwrap_err().kind(), Kind::Missing);
        assert_eq!(Dir::open(Path::new("/dev/null")).unwrap_err().kind(), Kind::Invalid);
    }
}
