//! Index pages in XML, as nginx writes them: `<list>` of `<file mtime size>` and `<directory mtime>`.
//! Never here: XML beyond that. An HTML tokenizer reads it: tags, attributes and references are written alike.

use std::io;

use html5gum::{HtmlString, IoReader, StartTag, Token, Tokenizer};

use super::cells;
use super::index::{Names, ours};
use crate::error::Result;
use crate::store::ListedKind;

/// Adds the names that `body` lists; whether it is an index page at all.
pub(super) fn read(body: impl io::Read, names: &mut Names<'_, '_>) -> Result<bool> {
    let mut is_index = false;
    let mut open: Option<StartTag<()>> = None;
    for token in Tokenizer::new(IoReader::new(body)) {
        match token.map_err(ours)? {
            Token::StartTag(tag) => {
                is_index |= tag.name.as_slice() == b"list";
                open = Some(tag);
            }
            Token::String(text) => {
                if let Some(tag) = &open {
                    add(tag, &text, names)?;
                }
            }
            Token::EndTag(_) => open = None,
            _ => {}
        }
    }
    Ok(is_index)
}

fn add(tag: &StartTag<()>, name: &HtmlString, names: &mut Names<'_, '_>) -> Result<()> {
    let attribute = |name: &[u8]| {
        let value = tag.attributes.get(name)?;
        std::str::from_utf8(value).ok()
    };
    let kind = match tag.name.as_slice() {
        b"directory" => ListedKind::Folder,
        b"file" => ListedKind::File { size_bytes: attribute(b"size").and_then(cells::exact_size) },
        _ => return Ok(()),
    };
    let Ok(name) = std::str::from_utf8(name) else {
        names.skip();
        return Ok(());
    };
    names.add(name.into(), kind, attribute(b"mtime").and_then(cells::parse_timestamp))
}
