//! What a folder's index page lists, as real servers write it: HTML, JSON, XML in; names out. Pure.
//! Never here: the network, and a server's name; only the shape of what it wrote counts.

use percent_encoding::percent_decode_str;
use std::time::SystemTime;
use url::Url;

use super::{html, json, xml};
use crate::error::{Error, Kind, Result};
use crate::store::{LISTING_NAMES_MAX, Listed, ListedKind, is_safe_name, sort_listing};

/// A folder as its page tells it.
#[derive(Debug, PartialEq, Eq)]
pub struct Index {
    /// Sorted by name, each name once and safe.
    pub names: Vec<Listed>,
    /// Names left out because they are unsafe or not UTF-8.
    pub skipped: usize,
}

/// Reads the page at `url` (the final one, after redirects). `Unsupported` if it is no listing of a folder, `Full` if it
/// holds more than `LISTING_NAMES_MAX` names.
pub fn parse(body: &[u8], content_type: &str, url: &Url) -> Result<Index> {
    let mut names = Names::new(url);
    let is_index = match Format::of(body, content_type) {
        Format::Json => json::read(body, &mut names)?,
        Format::Xml => xml::read(body, &mut names)?,
        Format::Html => html::read(body, &mut names)?,
        Format::Other => false,
    };
    if is_index { Ok(names.finish()) } else { Err(Error::new(Kind::Unsupported, "the page does not list a folder")) }
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
pub(super) struct Names {
    /// The folder's URL: links are resolved against it unless the page has a `<base>`.
    folder: Url,
    /// What links are resolved against.
    base: Url,
    found: Vec<Listed>,
    skipped: usize,
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
    /// To the folder itself sorted otherwise, or `../`: what index pages have and few others do.
    Around,
    /// Anywhere else.
    Outside,
}

impl Names {
    fn new(url: &Url) -> Self {
        let mut folder = url.clone();
        folder.set_query(None);
        folder.set_fragment(None);
        if !folder.path().ends_with('/') {
            let path = format!("{}/", folder.path());
            folder.set_path(&path);
        }
        Self { folder, base: url.clone(), found: Vec::new(), skipped: 0 }
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
            return if matches!(href, "../" | "..") { Link::Around } else { Link::Outside };
        };
        if inside.is_empty() {
            return if target.query().is_some() { Link::Around } else { Link::Outside };
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
        if self.found.len() >= LISTING_NAMES_MAX {
            return Err(Error::new(Kind::Full, format!("the folder holds more than {LISTING_NAMES_MAX} names")));
        }
        self.found.push(Listed { name, kind, modified });
        Ok(())
    }

    /// Counts a name that can't be shown.
    pub fn skip(&mut self) {
        self.skipped += 1;
    }

    /// Whether nothing was found, not even something to skip.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty() && self.skipped == 0
    }

    fn finish(mut self) -> Index {
        sort_listing(&mut self.found);
        Index { names: self.found, skipped: self.skipped }
    }
}
