//! Index pages in JSON: an array of objects, as nginx (`type`, `mtime`) and Caddy (`is_dir`, `mod_time`) write it, or an
//! object that holds one under `paths` (`path_type`), as dufs does.
//! Never here: HTML.

use std::fmt;
use std::io::{self, BufReader};
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde::de::{Deserializer as _, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::cells;
use super::index::{Names, ours};
use crate::error::{Error, Result};
use crate::store::ListedKind;
use crate::store::remote::http_date;

/// Longest string of a page, as it is written: the parser collects one in memory. Names have 255 bytes, and six times as
/// many where each is escaped; pictures as `data:` URLs are longer.
const STRING_BYTES_MAX: u64 = 1 << 20;
/// Deepest nesting of a page: the parser keeps a byte for each level. Indexes have three.
const DEPTH_MAX: u32 = 64;

/// One name. Servers add more fields; they are skipped. A field that is not as expected is as good as none.
#[derive(Deserialize)]
struct Item {
    name: Text,
    #[serde(rename = "type", default)]
    kind: Scalar,
    #[serde(default)]
    path_type: Scalar,
    #[serde(default)]
    is_dir: Scalar,
    /// Then the size is the link's own.
    #[serde(default)]
    is_symlink: Scalar,
    #[serde(default)]
    size: Scalar,
    #[serde(default)]
    mtime: Scalar,
    #[serde(default)]
    mod_time: Scalar,
}

/// Adds the names that `body` lists; whether it is an index page at all.
pub(super) fn read(body: impl io::Read, names: &mut Names<'_, '_>) -> Result<bool> {
    let mut full = None;
    let visitor = Page { names, full: &mut full };
    let body = BufReader::new(Bounded { body, depth: 0, token_bytes: 0, place: Place::Outside, is_cut: false });
    let parsed = serde_json::Deserializer::from_reader(body).deserialize_any(visitor);
    match (full, parsed) {
        (Some(error), _) => Err(error),
        (None, Err(error)) if error.is_io() => Err(ours(error.into())),
        (None, parsed) => Ok(parsed.is_ok()),
    }
}

/// A whole page. Takes items in one by one: a listing is never held twice.
struct Page<'a, 'b, 'c> {
    names: &'a mut Names<'b, 'c>,
    /// What stopped us, if it was not the syntax.
    full: &'a mut Option<Error>,
}

impl<'de> Visitor<'de> for Page<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of names")
    }

    /// `null`: how Go writes an empty list.
    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> std::result::Result<(), A::Error> {
        take_all(items, Shape::Array, self.names, self.full)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> std::result::Result<(), A::Error> {
        let mut is_index = false;
        while let Some(Text(name)) = fields.next_key()? {
            if name == b"paths" {
                fields.next_value_seed(Paths { names: self.names, full: self.full })?;
                is_index = true;
            } else {
                fields.next_value::<IgnoredAny>()?;
            }
        }
        if is_index { Ok(()) } else { Err(A::Error::missing_field("paths")) }
    }
}

/// The array under `paths`.
struct Paths<'a, 'b, 'c> {
    names: &'a mut Names<'b, 'c>,
    full: &'a mut Option<Error>,
}

impl<'de> serde::de::DeserializeSeed<'de> for Paths<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Paths<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of names")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> std::result::Result<(), A::Error> {
        take_all(items, Shape::Paths, self.names, self.full)
    }
}

/// Where items stand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Array,
    /// Other servers mean other things by `paths`: only items with a `path_type` are names of the folder.
    Paths,
}

fn take_all<'de, A: SeqAccess<'de>>(
    mut items: A,
    shape: Shape,
    names: &mut Names<'_, '_>,
    full: &mut Option<Error>,
) -> std::result::Result<(), A::Error> {
    while let Some(item) = items.next_element::<Item>()? {
        if shape == Shape::Paths && item.path_type == Scalar::None {
            return Err(A::Error::missing_field("path_type"));
        }
        if let Err(error) = take(&item, names) {
            *full = Some(error);
            return Err(A::Error::custom("full"));
        }
    }
    Ok(())
}

fn take(item: &Item, names: &mut Names<'_, '_>) -> Result<()> {
    // Some servers write a name that is not UTF-8 as it is.
    let Ok(name) = std::str::from_utf8(&item.name.0) else {
        names.skip();
        return Ok(());
    };
    let name = name.strip_suffix('/').unwrap_or(name);
    let is_true = |scalar: &Scalar| *scalar == Scalar::True;
    let size_bytes = item.size.number().filter(|_| !is_true(&item.is_symlink));
    let kind = match item.kind.text().or(item.path_type.text()) {
        Some("directory" | "Dir" | "SymlinkDir") => ListedKind::Folder,
        None if is_true(&item.is_dir) => ListedKind::Folder,
        None | Some("file" | "File" | "SymlinkFile") => ListedKind::File { size_bytes },
        // A socket, a device.
        Some(_) => return Ok(()),
    };
    let modified = match &item.mtime {
        Scalar::Text(text) => http_date(text),
        Scalar::Number(milliseconds) if item.path_type != Scalar::None => {
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(*milliseconds))
        }
        _ => None,
    };
    let modified = modified.or_else(|| item.mod_time.text().and_then(cells::parse_timestamp));
    names.add(name.into(), kind, modified)
}

/// A string as it was written, UTF-8 or not.
struct Text(Vec<u8>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Text;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_bytes<E>(self, text: &[u8]) -> std::result::Result<Text, E> {
                Ok(Text(text.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// A plain value, as far as an index has a use for it. Anything else, however large, is skipped and counts as `None`.
#[derive(Debug, Default, PartialEq, Eq)]
enum Scalar {
    #[default]
    None,
    True,
    Number(u64),
    Text(Box<str>),
}

impl Scalar {
    fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    fn number(&self) -> Option<u64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Scalar;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_bool<E>(self, is_true: bool) -> std::result::Result<Scalar, E> {
        Ok(if is_true { Scalar::True } else { Scalar::None })
    }

    fn visit_u64<E>(self, number: u64) -> std::result::Result<Scalar, E> {
        Ok(Scalar::Number(number))
    }

    fn visit_i64<E>(self, _: i64) -> std::result::Result<Scalar, E> {
        Ok(Scalar::None)
    }

    fn visit_f64<E>(self, _: f64) -> std::result::Result<Scalar, E> {
        Ok(Scalar::None)
    }

    fn visit_str<E>(self, text: &str) -> std::result::Result<Scalar, E> {
        Ok(Scalar::Text(text.into()))
    }

    fn visit_unit<E>(self) -> std::result::Result<Scalar, E> {
        Ok(Scalar::None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Scalar, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> std::result::Result<Scalar, A::Error> {
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::None)
    }
}

/// Passes a page on as long as no string or number of it is longer, and nothing nests deeper, than the limits: what the
/// parser holds of it is bounded so. The error of a page beyond them is one of syntax: it is no index.
struct Bounded<R> {
    body: R,
    depth: u32,
    token_bytes: u64,
    place: Place,
    /// A limit was passed: no more of the page is let through.
    is_cut: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Outside,
    InString,
    /// Behind a `\`: the next byte ends no string.
    Escaped,
}

impl<R> Bounded<R> {
    /// Whether the page is still within the limits.
    fn admits(&mut self, byte: u8) -> bool {
        self.token_bytes += 1;
        match (self.place, byte) {
            (Place::Outside, b'"') => (self.place, self.token_bytes) = (Place::InString, 0),
            (Place::Outside, b'[' | b'{') => (self.depth, self.token_bytes) = (self.depth + 1, 0),
            (Place::Outside, b']' | b'}') => (self.depth, self.token_bytes) = (self.depth.saturating_sub(1), 0),
            (Place::Outside, b',' | b':' | b' ' | b'\t' | b'\r' | b'\n') => self.token_bytes = 0,
            (Place::InString, b'\\') => self.place = Place::Escaped,
            (Place::InString, b'"') => (self.place, self.token_bytes) = (Place::Outside, 0),
            (Place::Escaped, _) => self.place = Place::InString,
            (Place::Outside | Place::InString, _) => {}
        }
        self.depth <= DEPTH_MAX && self.token_bytes <= STRING_BYTES_MAX
    }
}

impl<R: io::Read> io::Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_cut {
            return Ok(0);
        }
        let len = self.body.read(buffer)?;
        let refused = buffer[..len].iter().position(|byte| !self.admits(*byte));
        self.is_cut = refused.is_some();
        // As if the page had ended there: the parser then finds it incomplete.
        Ok(refused.unwrap_or(len))
    }
}
