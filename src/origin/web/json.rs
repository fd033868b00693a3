//! Index pages in JSON: an array of objects, as nginx (`type`, `mtime`) and Caddy (`is_dir`, `mod_time`) write it.
//! Never here: HTML.

use std::fmt;
use std::io::{self, BufReader};

use serde::Deserialize;
use serde::de::{Deserializer as _, Error as _, SeqAccess, Visitor};

use super::cells;
use super::index::{Names, ours};
use crate::error::{Error, Result};
use crate::store::ListedKind;
use crate::store::remote::http_date;

/// One name. Servers add more fields; they are ignored.
#[derive(Deserialize)]
struct Item {
    #[serde(deserialize_with = "any_text")]
    name: Vec<u8>,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    is_dir: bool,
    /// Then the size is the link's own.
    #[serde(default)]
    is_symlink: bool,
    #[serde(default, deserialize_with = "any_size")]
    size: Option<u64>,
    mtime: Option<String>,
    mod_time: Option<String>,
}

/// Adds the names that `body` lists; whether it is an index page at all.
pub(super) fn read(body: impl io::Read, names: &mut Names<'_, '_>) -> Result<bool> {
    let mut full = None;
    let visitor = Items { names, full: &mut full };
    let parsed = serde_json::Deserializer::from_reader(BufReader::new(body)).deserialize_option(visitor);
    match (full, parsed) {
        (Some(error), _) => Err(error),
        (None, Err(error)) if error.is_io() => Err(ours(error.into())),
        (None, parsed) => Ok(parsed.is_ok()),
    }
}

/// Takes items in one by one: a listing is never held twice.
struct Items<'a, 'b, 'c> {
    names: &'a mut Names<'b, 'c>,
    /// What stopped us, if it was not the syntax.
    full: &'a mut Option<Error>,
}

impl<'de> Visitor<'de> for Items<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of names")
    }

    /// `null`: how Go writes an empty list.
    fn visit_none<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_some<D: serde::Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<(), A::Error> {
        while let Some(item) = items.next_element::<Item>()? {
            if let Err(error) = take(&item, self.names) {
                *self.full = Some(error);
                return Err(A::Error::custom("full"));
            }
        }
        Ok(())
    }
}

fn take(item: &Item, names: &mut Names<'_, '_>) -> Result<()> {
    // Some servers write a name that is not UTF-8 as it is.
    let Ok(name) = std::str::from_utf8(&item.name) else {
        names.skip();
        return Ok(());
    };
    let name = name.strip_suffix('/').unwrap_or(name);
    let kind = match item.kind.as_deref() {
        Some("directory") => ListedKind::Folder,
        None if item.is_dir => ListedKind::Folder,
        None | Some("file") => ListedKind::File { size_bytes: item.size.filter(|_| !item.is_symlink) },
        // A socket, a device.
        Some(_) => return Ok(()),
    };
    let modified = item.mtime.as_deref().and_then(http_date);
    names.add(name.into(), kind, modified.or_else(|| item.mod_time.as_deref().and_then(cells::parse_timestamp)))
}

/// A string as it was written, UTF-8 or not.
fn any_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<u8>, D::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = Vec<u8>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a name")
        }

        fn visit_bytes<E>(self, text: &[u8]) -> std::result::Result<Vec<u8>, E> {
            Ok(text.to_vec())
        }
    }
    deserializer.deserialize_bytes(Text)
}

/// A size that makes no sense (negative, a string) is no size; the name still counts.
fn any_size<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<u64>, D::Error> {
    Ok(serde_json::Value::deserialize(deserializer)?.as_u64())
}
