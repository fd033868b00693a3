//! A folder's names, asked of servers of all habits: those that have HTML and those that have JSON, those whose folders end
//! in `/` and those whose do not. What a server was found to do is done first from then on.
//! Never here: what a page looks like (`index.rs`).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use log::{debug, warn};
use parking_lot::Mutex;
use url::Url;

use super::index::{Told, parse};
use super::no_index;
use crate::error::{Error, Kind, Result};
use crate::store::remote::{Form, Page, Remote, leads_away, sent_on, shown};
use crate::store::{LINK_ENDING, Listed, ListedKind, Pages, Patience, join};

/// Some servers read this many names of a folder and stop, without a word (Caddy 2 unless told otherwise).
const CUT_LISTING_NAMES: usize = 10_000;
/// Names of one folder that are asked about because they may be folders; the others count as files.
const PROBES_MAX: usize = 256;
/// Of them at once: a folder's worth of answers in a few round trips.
const PROBES_AT_ONCE: usize = 8;
/// They take no longer than this part of the time that the listing has.
const PROBES_SHARE: u32 = 2;

/// How a server wants to be asked for its folders, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Manner {
    form: Form,
    /// Folders are there without a `/` at their end.
    is_bare: bool,
}

/// The folders of one server.
pub(super) struct Folders {
    // What worked last. Taken alone.
    manner: Mutex<Manner>,
    /// Links to folders end in `/`: one that does not leads to a file.
    marks_folders: AtomicBool,
}

impl Folders {
    pub fn new() -> Self {
        let manner = Mutex::new(Manner { form: Form::Json, is_bare: false });
        Self { manner, marks_folders: AtomicBool::new(false) }
    }

    /// Hands the names of the folder at `path` to `pages`.
    pub fn list(&self, remote: &Remote, path: &str, patience: &Patience, pages: &mut Pages<'_>) -> Result<()> {
        let mut doubtful = Vec::new();
        let told = self.ask(remote, path, patience, &mut |page| {
            if self.marks_folders.load(Ordering::Relaxed) {
                return pages(page);
            }
            let (maybe, files) = page.into_iter().partition::<Vec<_>, _>(may_be_folder);
            doubtful.extend(maybe);
            pages(files)?;
            if doubtful.len() > PROBES_MAX { pages(doubtful.split_off(PROBES_MAX)) } else { Ok(()) }
        })?;
        self.marks_folders.fetch_or(told.marks_folders, Ordering::Relaxed);
        if !self.marks_folders.load(Ordering::Relaxed) {
            probe(remote, path, &mut doubtful, patience);
        }
        pages(doubtful)
    }

    /// Asks in every manner until one is answered with an index, the one that worked last first.
    fn ask(&self, remote: &Remote, path: &str, patience: &Patience, pages: &mut Pages<'_>) -> Result<Told> {
        let last = *self.manner.lock();
        let mut refused: Option<Error> = None;
        let mut empty: Option<Told> = None;
        for is_bare in [last.is_bare, !last.is_bare] {
            let Some((place, key)) = place(remote, path, is_bare) else { continue };
            for form in forms(last.form) {
                let mut is_begun = false;
                let listed = ask_once(&place, &key, form, patience, &mut |page| {
                    is_begun |= !page.is_empty();
                    pages(page)
                });
                match listed {
                    // What a script would show may be had in another form.
                    Ok(told) if told.may_be_more() => empty = empty.or(Some(told)),
                    Ok(told) => {
                        *self.manner.lock() = Manner { form, is_bare };
                        return Ok(told);
                    }
                    Err(error) if !is_begun && error.kind() == Kind::Unsupported => {
                        debug!("{error}");
                        refused = refused.or(Some(error));
                    }
                    Err(error) if !is_begun && error.kind() == Kind::Missing => {
                        refused = refused.or(Some(error));
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            // It is there, though it may be no index: with or without a slash makes no difference.
            if refused.as_ref().is_none_or(|error| error.kind() != Kind::Missing) {
                break;
            }
        }
        match (empty, refused) {
            (Some(told), _) => Ok(told),
            (None, Some(error)) => Err(error),
            (None, None) => Err(Error::new(Kind::Missing, format!("{}: not there", shown(remote.base())))),
        }
    }
}

/// Whether the page at the place itself lists a folder, in whatever form.
pub(super) fn is_index(remote: &Remote, patience: &Patience) -> Result<bool> {
    for form in Form::ALL {
        match remote.page("", form, patience).and_then(|page| read(page, &mut |_| Ok(()))) {
            Ok(_) => return Ok(true),
            Err(error) if error.may_pass() || error.kind() == Kind::Missing => return Err(error),
            Err(_) => {}
        }
    }
    Ok(false)
}

/// All forms, this one first.
fn forms(first: Form) -> impl Iterator<Item = Form> {
    std::iter::once(first).chain(Form::ALL.into_iter().filter(move |form| *form != first))
}

/// Where a folder's page is. `None`: a server's top has no name without a slash.
fn place(remote: &Remote, path: &str, is_bare: bool) -> Option<(Remote, String)> {
    match (path, is_bare) {
        ("", false) => Some((remote.clone(), String::new())),
        ("", true) => {
            let mut url: Url = remote.base().clone();
            let bare = url.path().strip_suffix('/').filter(|path| !path.is_empty())?.to_owned();
            url.set_path(&bare);
            Some((remote.at(&url), String::new()))
        }
        (path, false) => Some((remote.clone(), format!("{path}/"))),
        (path, true) => Some((remote.clone(), path.to_owned())),
    }
}

fn ask_once(remote: &Remote, key: &str, form: Form, patience: &Patience, pages: &mut Pages<'_>) -> Result<Told> {
    let page = remote.page(key, form, patience)?;
    if leads_away(&page.asked, &page.url) {
        return Err(sent_on(&page.asked, &page.url));
    }
    let url = shown(&page.url);
    let told = read(page, pages)?;
    if told.skipped > 0 {
        warn!("{url}: {} names left out: unsafe, too long, or not UTF-8", told.skipped);
    }
    if told.names + told.skipped == CUT_LISTING_NAMES {
        warn!("{url}: exactly {CUT_LISTING_NAMES} names: the server may have cut its listing short");
    }
    Ok(told)
}

fn read(page: Page, pages: &mut Pages<'_>) -> Result<Told> {
    let url = shown(&page.url);
    parse(page.body, &page.content_type, &page.url, pages).map_err(|error| no_index(&error, &url))
}

/// Whether a name that is listed as a file may be a folder of a server that writes no `/` behind one: no size is told, and
/// its end is not that of a file's name.
fn may_be_folder(listed: &Listed) -> bool {
    let is_file = has_file_ending(&listed.name) || listed.name.ends_with(LINK_ENDING);
    listed.kind == (ListedKind::File { size_bytes: None }) && !is_file
}

/// `.mkv`, `.m2ts`, `.7z`; but not `.S01`, `.2020`, `.1080p`.
fn has_file_ending(name: &str) -> bool {
    let Some((stem, ending)) = name.rsplit_once('.') else { return false };
    let is_plain = (2..=4).contains(&ending.len()) && ending.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let letters = ending.bytes().filter(u8::is_ascii_alphabetic).count();
    // Years, seasons and widths of pictures are a number, or one with a letter.
    let is_number = letters == 0 || (letters == 1 && ending.len() > 2);
    !stem.is_empty() && is_plain && !is_number
}

/// Asks about each of these names whether it is a folder. One that can't be told stays a file.
fn probe(remote: &Remote, path: &str, names: &mut [Listed], patience: &Patience) {
    let ends_at = Instant::now() + patience.stall / PROBES_SHARE;
    let next = AtomicUsize::new(0);
    let folders: Vec<AtomicBool> = names.iter().map(|_| AtomicBool::new(false)).collect();
    let ask = || {
        while let Some((listed, is_folder)) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            names.get(at).zip(folders.get(at))
        } {
            let left = ends_at.saturating_duration_since(Instant::now());
            if left.is_zero() || patience.cancel.is_cancelled() {
                return;
            }
            let patience = Patience { stall: left, ..patience.clone() };
            let asked = is_folder_at(remote, &join(path, &listed.name), &patience);
            is_folder.store(asked.unwrap_or(false), Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        for _ in 0..PROBES_AT_ONCE.min(names.len()) {
            scope.spawn(ask);
        }
    });
    for (listed, is_folder) in names.iter_mut().zip(&folders) {
        if is_folder.load(Ordering::Relaxed) {
            listed.kind = ListedKind::Folder;
        }
    }
}

/// Whether a server sends on from `key` to the same with a slash, or shows an index there.
fn is_folder_at(remote: &Remote, key: &str, patience: &Patience) -> Result<bool> {
    let head = remote.head(key, patience)?;
    if head.url.path().ends_with('/') {
        return Ok(true);
    }
    if !head.content_type.to_ascii_lowercase().starts_with("text/html") {
        return Ok(false);
    }
    is_index(&remote.at(&head.url), patience)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_endings_are_told_from_dots_in_folder_names() {
        for file in ["a.mkv", "a.mp4", "a.m2ts", "a.7z", "a.srt", "a.MKV", "a.S01.mkv", "a.mp3", "a.m4v"] {
            assert!(has_file_ending(file), "{file}");
        }
        for folder in [
            "a",
            "Season 1",
            "Show.S01",
            "Film.2020",
            "Film.1080p",
            "Film.720p",
            ".hidden",
            "a.",
            "Dr. Who",
            "v1.2",
            "x.x265-GRP",
        ] {
            assert!(!has_file_ending(folder), "{folder}");
        }
    }
}
