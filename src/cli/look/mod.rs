//! The commands that look at any source, or library, without a mount: `tree`, `size`, `cat`, `check`, and `ls` of what is no library.
//! What they share stands here: one place, whatever it is. Never here: how a source is asked (see `origin`).

pub mod cat;
pub mod check;
pub mod ls;
pub mod size;
pub mod tree;

use std::io::Write;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Args;
use percent_encoding::percent_decode_str;

use super::library::LibraryOptions;
use crate::cancel::Cancel;
use crate::cli::written;
use crate::config::PlacesConfig;
use crate::error::{Error, Kind, Result};
use crate::library::place::{self, Access, Opened};
use crate::library::{Content, NamedKind, PAGE_NAMES_MAX, Proof, Query};
use crate::origin::source::Source;
use crate::origin::{Listed, ListedKind, Origin, Patience, Stat};
use crate::range::ByteRange;
use crate::store::join;

/// What failed and may pass is asked again so often, one behind the other.
const TRIES_MAX: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// Folders within folders: deeper than any path that a program can open.
const DEPTH_MAX: usize = 1_000;
/// Zeros of a hole that are written at once.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Which place, and how it is reached.
#[derive(Debug, Args)]
pub struct LookOptions {
    #[command(flatten)]
    far: LibraryOptions,
    /// The program that logs in over SFTP, with options of its own: `ssh -i KEY`, `ssh -F FILE`.
    #[arg(
        long,
        value_name = "COMMAND",
        env = "REELFS_SSH_COMMAND",
        default_value = "ssh",
        help_heading = "The far side"
    )]
    ssh_command: String,
}

/// Something that can be looked at.
pub enum Place {
    /// A source, as a mount would show it.
    Source { origin: Arc<dyn Origin>, patience: Patience },
    /// A library.
    Library(Opened),
}

/// How a walk goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// With what is in this folder.
    Into,
    /// With what follows it.
    Over,
    /// Not at all.
    End,
}

impl LookOptions {
    /// Opens what `text` names. Asks nothing of a far source yet.
    pub fn open(self, text: &str) -> Result<Place> {
        self.into_places()?.open(text)
    }

    /// For commands that open more than one.
    pub fn into_places(self) -> Result<Places> {
        let mut places = self.far.places()?;
        places.ssh_command = self.ssh_command.split_whitespace().map(str::to_owned).collect();
        Ok(Places(places))
    }
}

/// How places are reached.
pub struct Places(PlacesConfig);

impl Places {
    /// Opens what `text` names. Asks nothing of a far source yet.
    pub fn open(&self, text: &str) -> Result<Place> {
        let Self(places) = self;
        let source = if is_library(text) { None } else { Some(Source::parse(text)?) };
        match source {
            None | Some(Source::Library(_)) => Ok(Place::Library(place::open(text, places, Access::Look)?)),
            Some(Source::Folder(_)) if place::is_within(text)? => {
                Ok(Place::Library(place::open(text, places, Access::Look)?))
            }
            Some(source) => {
                let patience = Patience { stall: places.answer_timeout, cancel: Cancel::new() };
                Ok(Place::Source { origin: source.open(places)?, patience })
            }
        }
    }
}

/// Written as a library of this machine.
fn is_library(text: &str) -> bool {
    text.starts_with("library:")
}

/// Asks, and again where that may help.
fn ask<T>(mut question: impl FnMut() -> Result<T>) -> Result<T> {
    let mut tries = 1;
    loop {
        match question() {
            Err(error) if error.may_pass() && tries < TRIES_MAX => {
                log::info!("{error}; asking again");
                thread::sleep(error.retry_after().unwrap_or(PAUSE).min(10 * PAUSE));
                tries += 1;
            }
            answer => return answer,
        }
    }
}

impl Place {
    /// The place as a person may see it, without credentials.
    pub fn describe(&self) -> String {
        match self {
            Self::Source { origin, .. } => origin.describe().to_owned(),
            Self::Library(opened) => join(opened.library.describe(), &opened.path),
        }
    }

    /// What is in a folder, sorted by name; `""` is the place itself. A place that is a file lists that file.
    pub fn list(&self, folder: &str) -> Result<Vec<Listed>> {
        match self {
            Self::Source { origin, patience } => ask(|| origin.list_whole(folder, patience)),
            Self::Library(opened) => list_library(opened, folder),
        }
    }

    /// A file's size and time, asked of the place itself.
    pub fn stat(&self, path: &str) -> Result<(u64, Option<std::time::SystemTime>)> {
        match self {
            Self::Source { origin, patience } => {
                let Stat { size_bytes, modified, .. } = ask(|| origin.stat(path, patience))?;
                Ok((size_bytes, modified))
            }
            Self::Library(opened) => {
                let manifest = opened.library.manifest(&within(opened, path))?;
                Ok((manifest.size_bytes(), Some(manifest.meta().modified)))
            }
        }
    }

    /// The file that the place is, by the path to ask for it with; `None`: it is a folder. `text` is how it was written.
    pub fn as_file(&self, text: &str) -> Result<Option<String>> {
        match self {
            Self::Library(opened) => {
                Ok(opened.library.manifest(&opened.path).is_ok().then(String::new).filter(|_| !opened.path.is_empty()))
            }
            Self::Source { .. } => {
                let path = text.split(['?', '#']).next().unwrap_or(text);
                let last = path.rsplit('/').next().unwrap_or_default();
                let decoded = percent_decode_str(last).decode_utf8_lossy().into_owned();
                let named = |listed: &Listed| {
                    let is_file = matches!(listed.kind, ListedKind::File { .. });
                    is_file && (*listed.name == *last || *listed.name == *decoded)
                };
                let listed = self.list("")?;
                Ok(listed.first().filter(|only| listed.len() == 1 && named(only)).map(|only| only.name.to_string()))
            }
        }
    }

    /// Hands the bytes of `range` of a file on, cut at its end.
    pub fn read(&self, path: &str, range: ByteRange, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match self {
            Self::Source { origin, patience } => {
                let stat = ask(|| origin.stat(path, patience))?;
                let mut left = range.intersect(ByteRange::new(0, stat.size_bytes));
                let mut tries = 0;
                while !left.is_empty() {
                    let before = left;
                    match read_some(&**origin, path, &stat, &mut left, patience, each) {
                        Err(error) if error.may_pass() && (left != before || tries < TRIES_MAX) => {
                            tries = if left == before { tries + 1 } else { 0 };
                            log::info!("{error}; asking again");
                            thread::sleep(error.retry_after().unwrap_or(PAUSE).min(10 * PAUSE));
                        }
                        read => read?,
                    }
                }
                Ok(())
            }
            Self::Library(opened) => read_library(opened, &within(opened, path), range, each),
        }
    }

    /// Calls `each` with the path of every file and folder below `folder`, a folder before what is in it, until it ends the walk
    /// (`false`). `depth`: how many folders `folder` is below the top.
    pub fn walk(
        &self,
        folder: &str,
        depth: usize,
        each: &mut dyn FnMut(&str, &Listed) -> Result<Next>,
    ) -> Result<bool> {
        if depth > DEPTH_MAX {
            return Err(Error::new(Kind::Unsupported, format!("{folder}: more than {DEPTH_MAX} folders deep")));
        }
        for listed in self.list(folder)? {
            let path = join(folder, &listed.name);
            let goes_on = match each(&path, &listed)? {
                Next::Into if listed.kind == ListedKind::Folder => self.walk(&path, depth + 1, each)?,
                Next::Into | Next::Over => true,
                Next::End => false,
            };
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// From the top of the library.
fn within(opened: &Opened, path: &str) -> String {
    match (opened.path.as_str(), path) {
        (top, "") => top.to_owned(),
        (top, path) => join(top, path),
    }
}

fn list_library(opened: &Opened, folder: &str) -> Result<Vec<Listed>> {
    let mut query = Query { folder: within(opened, folder), limit: PAGE_NAMES_MAX, ..Query::default() };
    let mut all = Vec::new();
    loop {
        let page = opened.library.list(&query)?;
        for named in page.names {
            let kind = match named.kind {
                NamedKind::Folder => ListedKind::Folder,
                NamedKind::File { size_bytes } => ListedKind::File { size_bytes },
                NamedKind::Other => continue,
            };
            let name = named.path.rsplit('/').next().unwrap_or_default().into();
            all.push(Listed { name, kind, modified: named.modified });
        }
        query.cursor = page.cursor;
        if query.cursor.is_none() {
            all.sort_unstable_by(|one, other| one.name.cmp(&other.name));
            return Ok(all);
        }
    }
}

fn read_some(
    origin: &dyn Origin,
    path: &str,
    stat: &Stat,
    left: &mut ByteRange,
    patience: &Patience,
    each: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut body = origin.read(path, stat, *left, patience)?;
    while let Some(piece) = body.next()? {
        each(&piece)?;
        left.start += piece.len() as u64;
    }
    Ok(())
}

fn read_library(
    opened: &Opened,
    path: &str,
    range: ByteRange,
    each: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let manifest = opened.library.manifest(path)?;
    let range = range.intersect(ByteRange::new(0, manifest.size_bytes()));
    if range.is_empty() {
        return Ok(());
    }
    let chunks = match manifest.content() {
        Content::Inline(bytes) => return each(&bytes[range.start as usize..range.end as usize]),
        Content::Chunks(chunks) => chunks,
    };
    for n in manifest.covering(range) {
        let part = chunks[n].range.intersect(range);
        if chunks[n].proof == Proof::Zeros {
            let mut left = part.len();
            while left > 0 {
                let count = left.min(ZEROS.len() as u64);
                each(&ZEROS[..count as usize])?;
                left -= count;
            }
            continue;
        }
        let bytes = opened.library.chunk(path, &manifest, n)?;
        let from = (part.start - chunks[n].range.start) as usize;
        each(&bytes[from..from + part.len() as usize])?;
    }
    Ok(())
}

/// Writes bytes, or tells that nobody reads them any longer.
fn raw(out: &mut dyn Write, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes).map_err(|error| written(&error))
}
