//! The files the origin has: bytes in memory, files on disk, or generated ones; folders are what their paths imply.
//! Never here: HTTP.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use parking_lot::RwLock;

use super::noise;
use super::page::{self, Line};
use crate::digest::Digest;

/// 2024-01-01 00:00:00 UTC, 19,723 days after 1970: the time of every file that is not on disk, in every run.
const MODIFIED_FIRST: Duration = Duration::from_hours(19_723 * 24);

/// Each change of a site moves its file's time on by this much: index pages show minutes.
const MODIFIED_STEP: Duration = Duration::from_mins(1);

/// Hex digits of a SHA-256 in an `ETag`: 64 bits tell all versions of a test apart.
const ETAG_DIGITS: usize = 16;

/// Where a file's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// In memory.
    Memory(Bytes),
    /// A file of this machine, opened and described anew for each request.
    Disk(PathBuf),
    /// The bytes [`generate`](super::generate) makes of `seed`, at no cost of memory.
    Generated {
        /// Of the whole file.
        size_bytes: u64,
        /// Names the bytes.
        seed: u64,
    },
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Memory(bytes.into())
    }
}

impl From<&'static [u8]> for Content {
    fn from(bytes: &'static [u8]) -> Self {
        Self::Memory(Bytes::from_static(bytes))
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self::Memory(bytes)
    }
}

/// One state of one file, held for the length of an answer: a replacement does not touch it.
#[derive(Debug)]
pub(super) struct Opened {
    source: Source,
    pub(super) size_bytes: u64,
    /// Strong, quotes included; nothing for what has no lasting version.
    pub(super) etag: Option<String>,
    pub(super) modified: Option<SystemTime>,
}

#[derive(Debug)]
enum Source {
    Memory(Bytes),
    Disk(File),
    Generated { seed: u64 },
}

impl Opened {
    /// A page written for one answer.
    pub(super) fn page(page: String) -> Self {
        Self { size_bytes: page.len() as u64, source: Source::Memory(page.into()), etag: None, modified: None }
    }

    /// Fills `buffer` from `offset` on; all of it lies within the file.
    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match &self.source {
            Source::Memory(bytes) => {
                let start = usize::try_from(offset).map_err(io::Error::other)?;
                let piece = bytes.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
                buffer.copy_from_slice(piece);
            }
            Source::Disk(file) => file.read_exact_at(buffer, offset)?,
            Source::Generated { seed } => noise::generate(*seed, offset, buffer),
        }
        Ok(())
    }
}

/// What a path names.
#[derive(Debug)]
pub(super) enum Found {
    File(Opened),
    /// Its index page.
    Folder(Opened),
    /// A folder asked for without its last `/`.
    FolderWithoutSlash,
    Missing,
}

struct Entry {
    content: Content,
    /// Of what is not on disk.
    etag: String,
    modified: SystemTime,
}

/// All files, by decoded path without a leading `/`.
pub(super) struct Site(RwLock<State>);

struct State {
    entries: BTreeMap<String, Entry>,
    /// Changes since the start. Over the whole site, so that a file removed and put back is a new version, too.
    revision: u32,
}

impl Site {
    /// All files as of revision 0: the same content has the same version in every run.
    pub(super) fn new(files: impl IntoIterator<Item = (String, Content)>) -> Self {
        let entries = files.into_iter().map(|(path, content)| (key(&path), Entry::new(content, 0))).collect();
        Self(RwLock::new(State { entries, revision: 0 }))
    }

    /// Adds a file or replaces it by a new version.
    pub(super) fn put(&self, path: &str, content: Content) {
        let mut state = self.0.write();
        state.revision += 1;
        let entry = Entry::new(content, state.revision);
        state.entries.insert(key(path), entry);
    }

    /// Takes a file away; whether there was one.
    pub(super) fn remove(&self, path: &str) -> bool {
        self.0.write().entries.remove(&key(path)).is_some()
    }

    /// What is there at a decoded path without its leading `/`.
    pub(super) fn find(&self, path: &str) -> Found {
        let state = self.0.read();
        if let Some(entry) = state.entries.get(path) {
            return entry.open().map_or(Found::Missing, Found::File);
        }
        if path.is_empty() || path.ends_with('/') {
            let lines = state.lines(path);
            return if lines.is_empty() && !path.is_empty() {
                Found::Missing
            } else {
                Found::Folder(Opened::page(page::index_page(path, &lines)))
            };
        }
        let folder = format!("{path}/");
        let first = state.entries.range(folder.clone()..).next();
        if first.is_some_and(|(path, _)| path.starts_with(&folder)) {
            Found::FolderWithoutSlash
        } else {
            Found::Missing
        }
    }
}

impl State {
    /// The names directly in a folder, sorted. Skips over what lies deeper: the cost is in the names shown.
    fn lines(&self, folder: &str) -> Vec<Line<'_>> {
        let mut lines = Vec::new();
        let mut from = Bound::Included(folder.to_owned());
        while let Some((path, entry)) = self.entries.range((from, Bound::Unbounded)).next() {
            let Some(rest) = path.strip_prefix(folder) else { break };
            let (line, next) = match rest.split_once('/') {
                // `0` is the character behind `/`: the first path that is not in the subfolder.
                Some((name, _)) => (Some(Line::folder(name)), Bound::Included(format!("{folder}{name}0"))),
                None => (entry.line(rest), Bound::Excluded(path.clone())),
            };
            lines.extend(line);
            from = next;
        }
        lines
    }
}

impl Entry {
    fn new(content: Content, revision: u32) -> Self {
        let etag = match &content {
            Content::Memory(bytes) => {
                format!("\"{}-{revision:x}\"", &Digest::of(bytes).to_string()[..ETAG_DIGITS])
            }
            Content::Generated { size_bytes, seed } => format!("\"{seed:x}-{size_bytes:x}-{revision:x}\""),
            Content::Disk(_) => String::new(),
        };
        Self { content, etag, modified: SystemTime::UNIX_EPOCH + MODIFIED_FIRST + MODIFIED_STEP * revision }
    }

    fn open(&self) -> io::Result<Opened> {
        let (source, size_bytes) = match &self.content {
            Content::Memory(bytes) => (Source::Memory(bytes.clone()), bytes.len() as u64),
            Content::Generated { size_bytes, seed } => (Source::Generated { seed: *seed }, *size_bytes),
            Content::Disk(path) => return open_on_disk(path),
        };
        Ok(Opened { source, size_bytes, etag: Some(self.etag.clone()), modified: Some(self.modified) })
    }

    /// Its line in an index page, unless it is gone from the disk.
    fn line<'a>(&self, name: &'a str) -> Option<Line<'a>> {
        let (size_bytes, modified) = match &self.content {
            Content::Memory(bytes) => (bytes.len() as u64, self.modified),
            Content::Generated { size_bytes, .. } => (*size_bytes, self.modified),
            Content::Disk(path) => {
                let metadata = path.metadata().ok()?;
                (metadata.len(), metadata.modified().ok()?)
            }
        };
        Some(Line { name, size_bytes: Some(size_bytes), modified })
    }
}

impl<'a> Line<'a> {
    fn folder(name: &'a str) -> Self {
        Self { name, size_bytes: None, modified: SystemTime::UNIX_EPOCH + MODIFIED_FIRST }
    }
}

fn open_on_disk(path: &PathBuf) -> io::Result<Opened> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let modified = metadata.modified()?;
    let nanos = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let etag = Some(format!("\"{nanos:x}-{:x}\"", metadata.len()));
    Ok(Opened { source: Source::Disk(file), size_bytes: metadata.len(), etag, modified: Some(modified) })
}

fn key(path: &str) -> String {
    path.trim_start_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(paths: &[&str]) -> Site {
        Site::new(paths.iter().map(|path| ((*path).to_owned(), Content::from(path.as_bytes().to_vec()))))
    }

    fn file(site: &Site, path: &str) -> Opened {
        match site.find(path) {
            Found::File(opened) => opened,
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn a_folder_shows_its_own_names_only() {
        let site = site(&["a/deep/er/x", "a/deep/y", "a/deep.mp4", "a/z", "a-/q", "b"]);
        let names = |folder: &str| {
            let state = site.0.read();
            state.lines(folder).iter().map(|line| (line.name.to_owned(), line.size_bytes)).collect::<Vec<_>>()
        };
        assert_eq!(names("a/"), [("deep.mp4".into(), Some(10)), ("deep".into(), None), ("z".into(), Some(3))]);
        assert_eq!(names(""), [("a-".into(), None), ("a".into(), None), ("b".into(), Some(1))]);
        assert!(matches!(site.find("a"), Found::FolderWithoutSlash));
        assert!(matches!(site.find("a/dee"), Found::Missing));
        assert!(matches!(site.find("c/"), Found::Missing));
        assert!(matches!(site.find(""), Found::Folder(_)));
    }

    #[test]
    fn every_change_is_a_new_version() {
        let site = site(&["f"]);
        let first = file(&site, "f");
        site.put("/f", b"f".to_vec().into());
        let second = file(&site, "f");
        assert!(second.etag != first.etag && second.modified > first.modified);
        assert!(site.remove("f") && !site.remove("f"));
        assert!(matches!(site.find("f"), Found::Missing));
        site.put("f", b"f".to_vec().into());
        assert!(file(&site, "f").modified > second.modified);
    }

    #[test]
    fn an_answer_keeps_the_state_it_began_with() {
        let site = site(&["f"]);
        let opened = file(&site, "f");
        site.put("f", b"other".to_vec().into());
        let mut byte = [0];
        opened.read_at(0, &mut byte).expect("within the file");
        assert_eq!(&byte, b"f");
        assert!(opened.read_at(1, &mut byte).is_err());
    }
}
