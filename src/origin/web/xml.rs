//! Index pages in XML, as nginx writes them: `<list>` of `<file mtime size>` and `<directory mtime>`.
//! Never here: XML beyond that. An HTML tokenizer reads it: tags, attributes and references are written alike.

use std::io;
use std::time::SystemTime;

use html5gum::emitters::callback::CallbackEvent;

use super::cells;
use super::index::Names;
use super::markup::{self, Dialect};
use crate::error::Result;
use crate::store::ListedKind;

/// Adds the names that `body` lists; whether it is an index page at all.
pub(super) fn read(body: impl io::Read, names: &mut Names<'_, '_>) -> Result<bool> {
    let mut is_index = false;
    let mut open: Option<Element> = None;
    let mut attribute = Attribute::Other;
    markup::read(body, Dialect::Xml, |event| {
        match event {
            CallbackEvent::OpenStartTag { name } => {
                is_index |= *name == b"list";
                open = Element::of(name);
            }
            CallbackEvent::AttributeName { name } => attribute = Attribute::of(name),
            CallbackEvent::AttributeValue { value } => {
                if let (Some(open), Ok(value)) = (&mut open, std::str::from_utf8(value)) {
                    match attribute {
                        Attribute::Size => open.size_bytes = cells::exact_size(value),
                        Attribute::Time => open.modified = cells::parse_timestamp(value),
                        Attribute::Other => {}
                    }
                }
            }
            CallbackEvent::String { value } => {
                if let Some(open) = &open {
                    return open.add(value, names);
                }
            }
            CallbackEvent::EndTag { .. } => open = None,
            _ => {}
        }
        Ok(())
    })?;
    Ok(is_index)
}

/// An element that names a file or a folder, with what its attributes told so far.
struct Element {
    is_folder: bool,
    size_bytes: Option<u64>,
    modified: Option<SystemTime>,
}

enum Attribute {
    Size,
    Time,
    Other,
}

impl Element {
    fn of(name: &[u8]) -> Option<Self> {
        let is_folder = match name {
            b"directory" => true,
            b"file" => false,
            _ => return None,
        };
        Some(Self { is_folder, size_bytes: None, modified: None })
    }

    fn add(&self, name: &[u8], names: &mut Names<'_, '_>) -> Result<()> {
        // A name that was cut is far too long to be one: it is skipped, too.
        let Ok(name) = std::str::from_utf8(name) else {
            names.skip();
            return Ok(());
        };
        let kind = if self.is_folder { ListedKind::Folder } else { ListedKind::File { size_bytes: self.size_bytes } };
        names.add(name.into(), kind, self.modified)
    }
}

impl Attribute {
    fn of(name: &[u8]) -> Self {
        match name {
            b"size" => Self::Size,
            b"mtime" => Self::Time,
            _ => Self::Other,
        }
    }
}
