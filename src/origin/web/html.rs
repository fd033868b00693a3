//! Index pages in HTML: one row for each link into the folder, with what is printed behind it.
//! Never here: where a link leads (`index.rs`) and what a time looks like (`cells.rs`).
//!
//! No server's layout is known by name. A row begins at a link into the folder and ends at the next one or where its table
//! row, list item or block ends; the text in between, outside of links, holds time and size in whatever columns.

use std::io;
use std::time::SystemTime;

use html5gum::emitters::callback::{CallbackEmitter, CallbackEvent};
use html5gum::{IoReader, Span, Tokenizer};

use super::cells;
use super::index::{Link, Names, ours};
use crate::error::Result;
use crate::store::ListedKind;

/// Time and size stand right behind a name; what follows later is somebody's prose.
const ROW_TEXT_BYTES_MAX: usize = 256;
/// How every server's own index is titled, in lower case; it tells an empty folder from any other page.
const TITLES: [&str; 3] = ["index of", "directory listing", "directory:"];

/// Adds the names that `body` lists; whether it is an index page at all.
pub(super) fn read(body: impl io::Read, names: &mut Names<'_, '_>) -> Result<bool> {
    let mut page = Page::new(names);
    let mut emitter = CallbackEmitter::new(|event: CallbackEvent<'_>, _: Span<()>| page.event(&event).err());
    emitter.naively_switch_states(true); // a script's text is no markup
    // All that comes out of it are errors.
    if let Some(met) = Tokenizer::new_with_emitter(IoReader::new(body), emitter).next() {
        return Err(met.unwrap_or_else(ours));
    }
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
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Link,
    Size,
    Title,
    Plain,
}

/// One name and what was printed behind it so far.
struct Row {
    name: Box<str>,
    is_folder: bool,
    /// Only the columns outside of links, separated by spaces.
    text: String,
    size_bytes: Option<u64>,
    modified: Option<SystemTime>,
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
            Tag::Size => self.inside = Inside::Size,
            Tag::Title => self.inside = Inside::Title,
            Tag::RowEnd => return self.end_row(),
            Tag::Other => self.column(),
        }
        Ok(())
    }

    fn end_tag(&mut self, tag: Tag) -> Result<()> {
        self.column();
        match tag {
            Tag::Link | Tag::Size | Tag::Title => self.inside = Inside::Plain,
            Tag::RowEnd => return self.end_row(),
            Tag::Base | Tag::Time | Tag::Other => {}
        }
        Ok(())
    }

    fn link(&mut self, href: &str) -> Result<()> {
        match self.names.resolve(href) {
            Link::Inside { name, is_folder } => {
                // An icon and a name may both be links to the same file: one row.
                if self.row.as_ref().is_none_or(|row| row.name != name) {
                    self.end_row()?;
                    self.row = Some(Row { name, is_folder, text: String::new(), size_bytes: None, modified: None });
                }
            }
            Link::Unsafe => {
                self.end_row()?;
                self.names.skip();
            }
            Link::Around => self.is_index = true,
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
            (Inside::Size, Some(row)) => {
                row.size_bytes = row.size_bytes.or_else(|| cells::exact_size(&String::from_utf8_lossy(value)));
            }
            (Inside::Plain, Some(row)) => {
                let room = ROW_TEXT_BYTES_MAX.saturating_sub(row.text.len());
                row.text.push_str(&String::from_utf8_lossy(&value[..room.min(value.len())]));
            }
            (Inside::Link | Inside::Size | Inside::Plain, _) => {}
        }
    }

    /// A tag separates what stands before it from what follows.
    fn column(&mut self) {
        if let Some(row) = &mut self.row
            && row.text.len() < ROW_TEXT_BYTES_MAX
        {
            row.text.push(' ');
        }
    }

    fn end_row(&mut self) -> Result<()> {
        let Some(row) = self.row.take() else { return Ok(()) };
        let (modified, size_bytes) = cells::read(&row.text);
        let kind = if row.is_folder {
            ListedKind::Folder
        } else {
            ListedKind::File { size_bytes: row.size_bytes.or(size_bytes) }
        };
        self.names.add(row.name, kind, row.modified.or(modified))
    }
}
