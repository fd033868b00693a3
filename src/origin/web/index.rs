//! What a folder's index page lists, as real servers write it: HTML, JSON, XML in; names out. Pure.
//! Never here: the network, and a server's name; only the shape of what it wrote counts.

use std::io::{self, Read};
use std::time::SystemTime;

use percent_encoding::percent_decode_str;
use url::Url;

use super::{html, json, xml};
use crate::error::{Error, Kind, Result};
use crate::store::{Listed, ListedKind, Pages, Paging, is_safe_name};

/// So much of a page tells JSON, XML and HTML apart where its server does not.
const LOOK_BYTES: u64 = 512;

/// What servers call the order of their pages in a query, in any case.
const SORT_KEYS: [&str; 6] = ["c", "o", "sort", "order", "sortby", "orderby"];

/// How many names a page told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Handed over.
    pub names: usize,
    /// Left out because they are unsafe or not UTF-8.
    pub skipped: usize,
    /// A link to a folder ended in `/`: then those of all folders do.
    pub marks_folders: bool,
    /// The page runs a script, which may show more names than the page holds.
    pub is_scripted: bool,
}

impl Told {
    /// Whether the folder is empty only as far as the page tells.
    pub fn may_be_more(&self) -> bool {
        self.names + self.skipped == 0 && self.is_scripted
    }
}

/// Reads the page at `url` (the final one, after redirects) as it comes, and hands its names to `pages`. `Unsupported` if
/// it is no listing of a folder, `Full` if it holds too many names; an error that `body` holds comes out as it is.
pub fn parse(mut body: impl Read, content_type: &str, url: &Url, pages: &mut Pages<'_>) -> Result<Told> {
    let mut start = Vec::new();
    body.by_ref().take(LOOK_BYTES).read_to_end(&mut start).map_err(ours)?;
    let format = Format::of(&start, content_type);
    let body = start.chain(body);
    let mut names = Names::new(url, pages);
    let is_index = match format {
        Format::Json => json::read(body, &mut names)?,
        Format::Xml => xml::read(body, &mut names)?,
        Format::Html => html::read(body, &mut names)?,
        Format::Other => false,
    };
    if is_index { names.finish() } else { Err(Error::new(Kind::Unsupported, "the page does not list a folder")) }
}

/// The error that a body's error holds.
pub(super) fn ours(error: io::Error) -> Error {
    error.downcast::<Error>().unwrap_or_else(|error| Error::io("reading a page", &error))
}

enum Format {
    Json,
    Xml,
    Html,
    Other,
}

impl Format {
    /// The announced type, or what the first byte looks like when a server announces none or something general.
    fn of(body: &[u8], content_type: &str) -> Self {
        let content_type = content_type.to_ascii_lowercase();
        let announced = content_type.split(';').next().unwrap_or_default().trim();
        match announced {
            "application/json" | "text/json" => Self::Json,
            "application/xml" | "text/xml" => Self::Xml,
            "text/html" | "application/xhtml+xml" => Self::Html,
            "" | "text/plain" | "application/octet-stream" => match body.trim_ascii_start().first() {
                Some(b'[') => Self::Json,
                Some(b'<') if body.trim_ascii_start().starts_with(b"<?xml") => Self::Xml,
                Some(b'<') => Self::Html,
                _ => Self::Other,
            },
            _ => Self::Other,
        }
    }
}

/// Names as they are found, checked one by one.
pub(super) struct Names<'a, 'b> {
    /// The folder's URL: links are resolved against it unless the page has a `<base>`.
    folder: Url,
    /// What links are resolved against.
    base: Url,
    found: Paging<'a, 'b>,
    skipped: usize,
    marks_folders: bool,
    is_scripted: bool,
}

/// Where a link leads, seen from the folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// To something in the folder.
    Inside {
        /// Decoded and safe.
        name: Box<str>,
        /// Whether it ends in `/`.
        is_folder: bool,
    },
    /// To something in the folder whose name can't be shown.
    Unsafe,
    /// To the folder itself, sorted otherwise: index pages have such links, and few others do.
    Sorted,
    /// To the folder that holds this one.
    Parent,
    /// Anywhere else.
    Outside,
}

/// Whether a query asks for a page in another order, as in `?C=N;O=D` and `?sort=name&order=asc`.
fn sorts(query: &str) -> bool {
    let keys = query.split(['&', ';']).map(|pair| pair.split_once('=').map_or(pair, |(key, _)| key));
    keys.into_iter().any(|key| SORT_KEYS.iter().any(|sort| key.eq_ignore_ascii_case(sort)))
}

impl<'a, 'b> Names<'a, 'b> {
    fn new(url: &Url, pages: &'a mut Pages<'b>) -> Self {
        let mut folder = url.clone();
        folder.set_query(None);
        folder.set_fragment(None);
        if !folder.path().ends_with('/') {
            let path = format!("{}/", folder.path());
            folder.set_path(&path);
        }
        let found = Paging::new(pages);
        Self { folder, base: url.clone(), found, skipped: 0, marks_folders: false, is_scripted: false }
    }

    /// The page says `<base href=…>`.
    pub fn set_base(&mut self, href: &str) {
        if let Ok(base) = self.base.join(href) {
            self.base = base;
        }
    }

    /// Where `href`, as written in the page, leads.
    pub fn resolve(&self, href: &str) -> Link {
        let Ok(target) = self.base.join(href) else { return Link::Outside };
        if target.origin() != self.folder.origin() {
            return Link::Outside;
        }
        let folder = self.folder.path();
        let Some(inside) = target.path().strip_prefix(folder) else {
            let parent = folder.trim_end_matches('/').rsplit_once('/').map_or("", |(parent, _)| parent);
            let is_parent = target.query().is_none() && target.path().trim_end_matches('/') == parent;
            return if is_parent { Link::Parent } else { Link::Outside };
        };
        if inside.is_empty() {
            // At a server's top, `..` leads nowhere else.
            return match target.query() {
                Some(query) if sorts(query) => Link::Sorted,
                None if matches!(href, "../" | "..") => Link::Parent,
                _ => Link::Outside,
            };
        }
        // A plain name is asked for; a query or a fragment means a page about it, not itself.
        let encoded = inside.strip_suffix('/').unwrap_or(inside);
        if encoded.contains('/') || target.query().is_some() || target.fragment().is_some() {
            return Link::Outside;
        }
        match percent_decode_str(encoded).decode_utf8() {
            Ok(name) if is_safe_name(&name) => {
                Link::Inside { name: name.into(), is_folder: encoded.len() < inside.len() }
            }
            _ => Link::Unsafe,
        }
    }

    /// Takes a name in; skips it (and counts that) if it is unsafe.
    pub fn add(&mut self, name: Box<str>, kind: ListedKind, modified: Option<SystemTime>) -> Result<()> {
        if !is_safe_name(&name) {
            self.skip();
            return Ok(());
        }
        self.found.add(Listed { name, kind, modified })
    }

    /// A link to a folder ends in `/`.
    pub fn marks_folders(&mut self) {
        self.marks_folders = true;
    }

    /// The page runs a script.
    pub fn is_scripted(&mut self) {
        self.is_scripted = true;
    }

    /// Counts a name that can't be shown.
    pub fn skip(&mut self) {
        self.skipped += 1;
    }

    /// Whether nothing was found, not even something to skip.
    pub fn is_empty(&self) -> bool {
        self.found.count() == 0 && self.skipped == 0
    }

    fn finish(self) -> Result<Told> {
        let (names, skipped) = (self.found.count(), self.skipped);
        let told = Told { names, skipped, marks_folders: self.marks_folders, is_scripted: self.is_scripted };
        self.found.finish().map(|()| told)
    }
}
