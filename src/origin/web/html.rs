//! Index pages in HTML: one row for each link into the folder, with what is printed behind it.
//! Never here: where a link leads (`index.rs`) and what a time looks like (`cells.rs`).
//!
//! No server's layout is known by name. A row begins at a link into the folder and ends at the next one or where its table
//! row, list item or block ends; the text in between, outside of links, holds time and size in whatever columns.

use std::io;
use std::time::SystemTime;

use html5gum::emitters::callback::CallbackEvent;

use super::cells::{self, CELL};
use super::index::{Link, Names};
use super::markup::{self, Dialect, TOKEN_BYTES_MAX};
use crate::error::Result;
use crate::store::{ListedKind, NAME_BYTES_MAX};

/// Bytes kept of a row's text, each run of blanks counted as one. Time and size stand right behind a name; what follows
/// later is prose.
const ROW_TEXT_BYTES_MAX: usize = 256;
/// Bytes kept of a size's own element: no number is longer.
const SIZE_TEXT_BYTES_MAX: usize = 64;
/// How every server's own index is titled, in lower case; it tells an empty folder from any other page.
const TITLES: [&str; 5] = ["index of", "directory listing", "directory:", "listing directory", "files within"];
/// How servers' own indexes call the folder above, in lower case, unless they show `..`.
const PARENTS: [&str; 2] = ["parent directory", "parent folder"];
/// Bytes kept of a link's text: the longest name, and a bit.
const LINK_TEXT_BYTES_MAX: usize = 2 * NAME_BYTES_MAX;

/// Adds the names that `body` lists; whether it is an index page at all.
pub(super) fn read(body: impl io::Read, names: &mut Names<'_, '_>) -> Result<bool> {
    let mut page = Page::new(names);
    markup::read(body, Dialect::Html, |event| page.event(event))?;
    page.end_row()?;
    Ok(page.is_index || !page.names.is_empty())
}

/// A page half read.
struct Page<'a, 'b, 'c> {
    names: &'a mut Names<'b, 'c>,
    /// Something only an index page has was seen.
    is_index: bool,
    /// The start tag under way, its attribute under way, and the one value of it that matters.
    tag: Tag,
    attribute_matters: bool,
    value: Option<String>,
    /// What the text that comes next belongs to.
    inside: Inside,
    row: Option<Row>,
}

/// Start tags that mean something here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    Link,
    Base,
    Time,
    Size,
    Title,
    RowEnd,
    Cell,
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Link,
    /// A link to the folder above.
    Parent,
    Size,
    Title,
    Plain,
}

/// One name and what was printed behind it so far.
struct Row {
    name: Box<str>,
    is_folder: bool,
    /// Only what stands outside of links; `CELL` between a table's cells, a blank between words.
    text: String,
    /// There was more text than is kept.
    is_cut: bool,
    /// The text of an element for sizes.
    size_text: String,
    /// The text of the links to the name.
    link_text: String,
    modified: Option<SystemTime>,
}

impl Row {
    fn new(name: Box<str>, is_folder: bool) -> Self {
        let (text, size_text, link_text) = (String::new(), String::new(), String::new());
        Self { name, is_folder, text, is_cut: false, size_text, link_text, modified: None }
    }

    /// Whether the link shows `name/`: some servers leave the slash out of what it leads to.
    fn is_shown_as_folder(&self) -> bool {
        self.link_text.trim().strip_suffix('/') == Some(&self.name)
    }

    /// Puts more text behind what is there, with runs of blanks as one: some servers pad their columns with hundreds.
    fn push(&mut self, text: &str) {
        for character in text.chars() {
            let character = if character.is_whitespace() && character != CELL { ' ' } else { character };
            if matches!(character, ' ' | CELL) && self.text.ends_with([' ', CELL]) {
                if character == CELL {
                    self.text.pop();
                    self.text.push(CELL);
                }
                continue;
            }
            if self.text.len() + character.len_utf8() > ROW_TEXT_BYTES_MAX {
                self.is_cut = true;
                return;
            }
            self.text.push(character);
        }
    }
}

impl Tag {
    fn of(name: &[u8]) -> Self {
        match name {
            b"a" => Self::Link,
            b"base" => Self::Base,
            b"time" => Self::Time,
            b"size" => Self::Size,
            b"title" | b"h1" | b"h2" => Self::Title,
            b"tr" | b"li" | b"ul" | b"pre" | b"table" | b"hr" | b"body" => Self::RowEnd,
            b"td" | b"th" => Self::Cell,
            _ => Self::Other,
        }
    }

    /// The attribute of it that is read.
    fn attribute(self) -> &'static [u8] {
        match self {
            Self::Link | Self::Base => b"href",
            Self::Time => b"datetime",
            _ => b"",
        }
    }
}

impl<'a, 'b, 'c> Page<'a, 'b, 'c> {
    fn new(names: &'a mut Names<'b, 'c>) -> Self {
        Self {
            names,
            is_index: false,
            tag: Tag::Other,
            attribute_matters: false,
            value: None,
            inside: Inside::Plain,
            row: None,
        }
    }

    fn event(&mut self, event: &CallbackEvent<'_>) -> Result<()> {
        match event {
            CallbackEvent::OpenStartTag { name } => {
                if *name == b"script" {
                    self.names.is_scripted();
                }
                self.tag = Tag::of(name);
                self.attribute_matters = false;
                self.value = None;
            }
            CallbackEvent::AttributeName { name } => {
                self.attribute_matters = self.value.is_none() && *name == self.tag.attribute();
            }
            CallbackEvent::AttributeValue { value } if self.attribute_matters => {
                self.value = Some(String::from_utf8_lossy(value).into_owned());
            }
            CallbackEvent::CloseStartTag { .. } => return self.start_tag(),
            CallbackEvent::EndTag { name } => return self.end_tag(Tag::of(name)),
            CallbackEvent::String { value } => self.text(value),
            _ => {}
        }
        Ok(())
    }

    fn start_tag(&mut self) -> Result<()> {
        let value = self.value.take();
        match self.tag {
            Tag::Link => {
                self.inside = Inside::Link;
                if let Some(href) = value {
                    return self.link(&href);
                }
            }
            Tag::Base => self.names.set_base(value.as_deref().unwrap_or_default()),
            Tag::Time => {
                if let (Some(row), Some(text)) = (&mut self.row, value) {
                    row.modified = row.modified.or_else(|| cells::parse_timestamp(&text));
                }
            }
            Tag::Size => {
                self.inside = Inside::Size;
                if let Some(row) = &mut self.row
                    && !row.size_text.is_empty()
                {
                    row.size_text.push(' ');
                }
            }
            Tag::Title => self.inside = Inside::Title,
            Tag::RowEnd => return self.end_row(),
            Tag::Cell => self.separate(CELL),
            Tag::Other => self.separate(' '),
        }
        Ok(())
    }

    fn end_tag(&mut self, tag: Tag) -> Result<()> {
        self.separate(if tag == Tag::Cell { CELL } else { ' ' });
        match tag {
            Tag::Link | Tag::Size | Tag::Title => self.inside = Inside::Plain,
            Tag::RowEnd => return self.end_row(),
            Tag::Base | Tag::Time | Tag::Cell | Tag::Other => {}
        }
        Ok(())
    }

    fn link(&mut self, href: &str) -> Result<()> {
        match self.names.resolve(href) {
            Link::Inside { name, is_folder } => {
                if is_folder {
                    self.names.marks_folders();
                }
                // An icon and a name may both be links to the same file: one row.
                if self.row.as_ref().is_none_or(|row| row.name != name) {
                    self.end_row()?;
                    self.row = Some(Row::new(name, is_folder));
                }
            }
            Link::Unsafe => {
                self.end_row()?;
                self.names.skip();
            }
            Link::Sorted => self.is_index = true,
            Link::Parent => self.inside = Inside::Parent,
            Link::Outside => {}
        }
        Ok(())
    }

    fn text(&mut self, value: &[u8]) {
        match (self.inside, &mut self.row) {
            (Inside::Title, _) => {
                let title = String::from_utf8_lossy(value).trim().to_ascii_lowercase();
                self.is_index |= TITLES.iter().any(|start| title.starts_with(start));
            }
            (Inside::Parent, _) => {
                let text = String::from_utf8_lossy(value).to_ascii_lowercase();
                let is_dots = text.trim_matches(|around: char| around != '.' && !around.is_alphanumeric()) == "..";
                self.is_index |= is_dots || PARENTS.iter().any(|parent| text.contains(parent));
            }
            (Inside::Size, Some(row)) => {
                let room = SIZE_TEXT_BYTES_MAX.saturating_sub(row.size_text.len());
                // Two numbers, or one that does not fit, are none.
                let text = if value.len() < room { String::from_utf8_lossy(value) } else { "?".into() };
                row.size_text.push_str(&text);
            }
            (Inside::Link, Some(row)) => {
                let room = LINK_TEXT_BYTES_MAX.saturating_sub(row.link_text.len());
                row.link_text.push_str(&String::from_utf8_lossy(&value[..room.min(value.len())]));
            }
            (Inside::Plain, Some(row)) => {
                row.push(&String::from_utf8_lossy(value).replace(CELL, " "));
                row.is_cut |= value.len() >= TOKEN_BYTES_MAX;
            }
            (Inside::Link | Inside::Size | Inside::Plain, None) => {}
        }
    }

    /// A tag separates what stands before it from what follows.
    fn separate(&mut self, by: char) {
        if let Some(row) = &mut self.row {
            row.push(by.encode_utf8(&mut [0; 4]));
        }
    }

    fn end_row(&mut self) -> Result<()> {
        let Some(row) = self.row.take() else { return Ok(()) };
        let (modified, size_bytes) = cells::read(&row.text, row.is_cut);
        let kind = if row.is_folder || row.is_shown_as_folder() {
            ListedKind::Folder
        } else {
            ListedKind::File { size_bytes: cells::exact_size(&row.size_text).or(size_bytes) }
        };
        self.names.add(row.name, kind, row.modified.or(modified))
    }
}
