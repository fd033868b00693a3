//! Tags, attributes and text of a page as a stream of events, however long a page makes any of them.
//! Never here: what a tag means.

use std::io;

use html5gum::emitters::callback::{CallbackEmitter, CallbackEvent};
use html5gum::{Emitter, ForwardingEmitter, IoReader, Span, State, Tokenizer};

use super::index::ours;
use crate::error::{Error, Result};

/// Bytes kept of one name, one attribute or one stretch of text; the rest is skipped. A link to the longest name, percent
/// encoded, behind the longest path Linux takes, has about 13 KiB.
pub(super) const TOKEN_BYTES_MAX: usize = 16 << 10;

/// Which text is no markup.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// What stands in a script or a style is text.
    Html,
    /// No tag is special.
    Xml,
}

/// Reads `body` to its end, or until `take` fails on an event. An event holds at most `TOKEN_BYTES_MAX` bytes.
pub(super) fn read(
    body: impl io::Read,
    dialect: Dialect,
    mut take: impl FnMut(&CallbackEvent<'_>) -> Result<()>,
) -> Result<()> {
    let mut inner = CallbackEmitter::new(|event: CallbackEvent<'_>, _: Span<()>| take(&event).err());
    inner.naively_switch_states(dialect == Dialect::Html);
    let emitter = Bounded { inner, name: Room::default(), value: Room::default(), text: Room::default() };
    // The tokens are the errors of `take`.
    match Tokenizer::new_with_emitter(IoReader::new(body), emitter).next() {
        Some(met) => Err(met.unwrap_or_else(ours)),
        None => Ok(()),
    }
}

/// An emitter that is given no more of a token than `TOKEN_BYTES_MAX`, as it collects a whole token in memory. Comments
/// and document types, which nobody reads, it is not given at all.
struct Bounded<E> {
    inner: E,
    /// Of the name of the tag, or of the attribute, under way.
    name: Room,
    /// Of the attribute's value under way.
    value: Room,
    /// Of the text since the last tag.
    text: Room,
}

/// Bytes that a token may still take.
struct Room(usize);

impl Default for Room {
    fn default() -> Self {
        Self(TOKEN_BYTES_MAX)
    }
}

impl Room {
    fn cut<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let fitting = &bytes[..bytes.len().min(self.0)];
        self.0 -= fitting.len();
        fitting
    }
}

impl<E: Emitter<Token = Error>> ForwardingEmitter for Bounded<E> {
    type Token = Error;

    fn inner(&mut self) -> &mut impl Emitter<Token = Error> {
        &mut self.inner
    }

    fn should_emit_errors(&mut self) -> bool {
        false
    }

    fn emit_string(&mut self, text: &[u8]) {
        let fitting = self.text.cut(text);
        self.inner.emit_string(fitting);
    }

    fn init_start_tag(&mut self) {
        self.name = Room::default();
        self.inner.init_start_tag();
    }

    fn init_end_tag(&mut self) {
        self.name = Room::default();
        self.inner.init_end_tag();
    }

    fn push_tag_name(&mut self, name: &[u8]) {
        let fitting = self.name.cut(name);
        self.inner.push_tag_name(fitting);
    }

    fn init_attribute(&mut self) {
        (self.name, self.value) = (Room::default(), Room::default());
        self.inner.init_attribute();
    }

    fn push_attribute_name(&mut self, name: &[u8]) {
        let fitting = self.name.cut(name);
        self.inner.push_attribute_name(fitting);
    }

    fn push_attribute_value(&mut self, value: &[u8]) {
        let fitting = self.value.cut(value);
        self.inner.push_attribute_value(fitting);
    }

    fn emit_current_tag(&mut self) -> Option<State> {
        self.text = Room::default();
        self.inner.emit_current_tag()
    }

    fn init_comment(&mut self) {
        self.text = Room::default();
        self.inner.init_comment();
    }

    fn init_doctype(&mut self) {
        self.text = Room::default();
        self.inner.init_doctype();
    }

    fn push_comment(&mut self, _: &[u8]) {}
    fn push_doctype_name(&mut self, _: &[u8]) {}
    fn push_doctype_public_identifier(&mut self, _: &[u8]) {}
    fn push_doctype_system_identifier(&mut self, _: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn longest_event(page: &str) -> usize {
        let mut longest = 0;
        read(page.as_bytes(), Dialect::Html, |event| {
            let len = match event {
                CallbackEvent::OpenStartTag { name }
                | CallbackEvent::EndTag { name }
                | CallbackEvent::AttributeName { name } => name.len(),
                CallbackEvent::AttributeValue { value }
                | CallbackEvent::String { value }
                | CallbackEvent::Comment { value } => value.len(),
                CallbackEvent::Doctype { name, public_identifier, system_identifier, .. } => {
                    let identifiers = [public_identifier, system_identifier];
                    identifiers.iter().fold(name.len(), |len, text| len.max(text.map_or(0, <[u8]>::len)))
                }
                _ => 0,
            };
            longest = longest.max(len);
            Ok(())
        })
        .unwrap();
        longest
    }

    #[test]
    fn tokens_of_any_length_are_cut() {
        let long = "x".repeat(10 * TOKEN_BYTES_MAX);
        for page in [
            format!("<{long}>"),
            format!("</{long}>"),
            format!("<a {long}>"),
            format!("<a href=\"{long}\">"),
            format!("<a href={long}>"),
            format!("text {long} <b> {long}"),
            format!("<script>{long}</script>"),
            format!("<title>{long}&amp;{long}"),
            format!("<!-- {long} -->"),
            format!("<!DOCTYPE {long} PUBLIC \"{long}\" \"{long}\">"),
            format!("<![CDATA[{long}]]>"),
            format!("<?{long}>"),
            format!("&{long};"),
        ] {
            let start = page.get(..20).unwrap_or_default();
            assert!(longest_event(&page) <= TOKEN_BYTES_MAX, "{start}");
        }
    }
}
