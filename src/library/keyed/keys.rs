//! Under which keys a library keeps what. Pure.
//! Never here: values.
//!
//! ```text
//! <path>                             the base key: a file, or its manifest
//! .reelfs/library.json               what was said at `init`
//! .reelfs/chunks/<id>_chunk_<n>      chunks of a group
//! .reelfs/refs/<id>/<path's hash>    a file that needs the group: its path
//! .reelfs/gone/<id>                  since when nobody needs the group
//! .reelfs/swept/<id>                 since when the group is being removed, or was
//! .reelfs/plain-<path's hash>        a file that is being put in the plain form: its path
//! .reelfs/tags/<tag>/<path's hash>   a file with this tag: its path
//! ```

use std::fmt;

use percent_encoding::percent_encode_byte;

use crate::digest::{Digest, Hasher};
use crate::error::{Error, Kind, Result};
use crate::library::{Chunk, Proof, check_path};
use crate::store::keyed::Limits;

/// What files may not be called: our own keys are below it.
const OURS: &str = ".reelfs";
/// What was said when the library was made.
pub(super) const SETTINGS: &str = ".reelfs/library.json";
/// All chunks.
pub(super) const CHUNKS: &str = ".reelfs/chunks/";
/// All references.
pub(super) const REFS: &str = ".reelfs/refs/";
/// All groups that nobody needs.
pub(super) const GONE: &str = ".reelfs/gone/";
/// All groups that are being removed, or were not long ago.
pub(super) const SWEPT: &str = ".reelfs/swept/";
/// The index of tags.
pub(super) const TAGS: &str = ".reelfs/tags/";
/// All files that are being put in the plain form. In no folder of their own: some servers take a folder away with the last
/// key in it, and lose what is written there at the same moment.
pub(super) const PLAIN: &str = ".reelfs/plain-";
/// In front of a chunk's number.
const CHUNK: &str = "_chunk_";
/// Bytes of the longest key of ours but those of tags.
const OURS_BYTES_MAX: usize = 96;
/// Behind a prefix: after every name that may follow it.
pub(super) const LAST: char = char::MAX;

/// In a tag: what would be taken for something else between two `/`, or at the ends of a name. No more: names are short.
const ENCODED: [char; 5] = ['%', '/', '\\', '.', ' '];

/// What a group of chunks is known by: 32 digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id(u128);

impl Id {
    /// Of content that is known before it is written: equal content is one group, and a broken-off one is gone on with.
    pub fn of_content(chunks: &[Chunk]) -> Self {
        let mut hasher = Hasher::new();
        for chunk in chunks {
            hasher.update(&chunk.range.end.to_le_bytes());
            match &chunk.proof {
                Proof::Sha256(digest) => hasher.update(digest.as_bytes()),
                Proof::Size => hasher.update(b"size"),
                Proof::Zeros => hasher.update(b"zeros"),
            }
        }
        Self(first_half(&hasher.finish()))
    }

    /// One that nobody else has.
    pub fn random() -> Self {
        Self(fastrand::u128(..))
    }

    /// As it is written.
    pub fn parse(text: &str) -> Option<Self> {
        let is_ours = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if is_ours { u128::from_str_radix(text, 16).ok().map(Self) } else { None }
    }

    /// In front of its chunks' numbers.
    pub fn chunk_prefix(self) -> String {
        format!("{CHUNKS}{self}")
    }

    /// The group whose chunks have this prefix.
    pub fn of_prefix(prefix: &str) -> Option<Self> {
        prefix.strip_prefix(CHUNKS).and_then(Self::parse)
    }

    /// The group of a chunk's key, and the chunk's number.
    pub fn of_chunk(key: &str) -> Option<(Self, usize)> {
        let (prefix, n) = parse_chunk(key)?;
        Some((Self::of_prefix(prefix)?, n))
    }

    /// In front of its references.
    pub fn refs(self) -> String {
        format!("{REFS}{self}/")
    }

    /// The group of a reference's key.
    pub fn of_ref(key: &str) -> Option<Self> {
        key.strip_prefix(REFS)?.split_once('/').and_then(|(id, _)| Self::parse(id))
    }

    /// Says that the file at `path` needs it.
    pub fn reference(self, path: &str) -> String {
        format!("{REFS}{self}/{}", path_hash(path))
    }

    /// Says that nobody needs it.
    pub fn gone(self) -> String {
        format!("{GONE}{self}")
    }

    /// Says that it is being removed, or was: nobody takes it as long as a request that deletes a chunk of it may be on its way.
    pub fn swept(self) -> String {
        format!("{SWEPT}{self}")
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Chunk `n` of the chunks with this prefix.
pub(super) fn chunk(prefix: &str, n: usize) -> String {
    format!("{prefix}{CHUNK}{n}")
}

/// In front of the numbers of all chunks with this prefix.
pub(super) fn chunk_prefix(prefix: &str) -> String {
    format!("{prefix}{CHUNK}")
}

/// Says that the file at `path` is being put in the plain form.
pub(super) fn plain(path: &str) -> String {
    format!("{PLAIN}{}", path_hash(path))
}

/// The prefix and the number of a chunk's key, as `chunk` writes it.
pub(super) fn parse_chunk(key: &str) -> Option<(&str, usize)> {
    let (prefix, digits) = key.rsplit_once(CHUNK)?;
    let n: usize = digits.parse().ok()?;
    (!prefix.is_empty() && n.to_string() == digits).then_some((prefix, n))
}

/// In front of all files with this tag.
pub(super) fn tagged(tag: &str) -> String {
    let mut key = TAGS.to_owned();
    for c in tag.chars() {
        match u8::try_from(c) {
            Ok(byte) if ENCODED.contains(&c) => key.push_str(percent_encode_byte(byte)),
            _ => key.push(c),
        }
    }
    key.push('/');
    key
}

/// Says that the file at `path` has this tag.
pub(super) fn tag(tag: &str, path: &str) -> String {
    format!("{}{}", tagged(tag), path_hash(path))
}

/// Whether a path may be a file's here: one of a library, not ours, and no longer than keys may be.
pub(super) fn check(path: &str, limits: &Limits) -> Result<()> {
    check_path(path)?;
    if is_ours(path) {
        let message = format!("`{}`: names below {OURS}/ are the library's own", path.escape_debug());
        return Err(Error::new(Kind::Invalid, message));
    }
    check_length(path, limits)
}

/// Whether a file may be given this path: libraries are found by our own name, wherever it stands.
pub(super) fn check_new(path: &str, limits: &Limits) -> Result<()> {
    check(path, limits)?;
    if !is_nested(path) {
        return Ok(());
    }
    let message =
        format!("`{}`: no folder or file may be called {OURS}: a library is found by it", path.escape_debug());
    Err(Error::new(Kind::Invalid, message))
}

/// Whether a tag's key is no longer than keys may be.
pub(super) fn check_tag(name: &str, limits: &Limits) -> Result<()> {
    check_length(&tag(name, ""), limits).map_err(|error| error.context(format_args!("tag `{}`", name.escape_debug())))
}

/// Whether the library's own keys fit into a home at all.
pub(super) fn check_home(limits: &Limits) -> Result<()> {
    if limits.key_bytes_max >= OURS_BYTES_MAX {
        return Ok(());
    }
    Err(Error::new(
        Kind::Invalid,
        "the library's own place in the store has too long a name: keys would not fit behind it",
    ))
}

/// Whether a key is below our own name.
pub(super) fn is_ours(key: &str) -> bool {
    key.strip_prefix(OURS).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a key belongs to a library whose top is a folder of this one: it is found by our own name.
pub(super) fn is_nested(key: &str) -> bool {
    key.split('/').any(|name| name == OURS)
}

/// After all of our own keys.
pub(super) fn behind_ours() -> String {
    format!("{OURS}/{LAST}")
}

fn check_length(key: &str, limits: &Limits) -> Result<()> {
    let name_bytes = key.split('/').map(str::len).max().unwrap_or(0);
    let (what, bytes, bytes_max) = if key.len() > limits.key_bytes_max {
        ("path", key.len(), limits.key_bytes_max)
    } else if name_bytes > limits.name_bytes_max {
        ("name", name_bytes, limits.name_bytes_max)
    } else {
        return Ok(());
    };
    let shown: String = key.chars().take(60).collect();
    let message = format!("`{}…`: a {what} of {bytes} bytes; this home takes {bytes_max}", shown.escape_debug());
    Err(Error::new(Kind::Invalid, message))
}

fn path_hash(path: &str) -> String {
    format!("{:032x}", first_half(&Digest::of(path.as_bytes())))
}

fn first_half(digest: &Digest) -> u128 {
    let (half, _) = digest.as_bytes().split_first_chunk().expect("a digest is 32 bytes, of which these are 16");
    u128::from_be_bytes(*half)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_told_by_their_keys() {
        let id = Id::parse("00112233445566778899aabbccddeeff").unwrap();
        let key = chunk(&id.chunk_prefix(), 12);
        assert_eq!(key, ".reelfs/chunks/00112233445566778899aabbccddeeff_chunk_12");
        assert_eq!(Id::of_chunk(&key), Some((id, 12)));
        assert_eq!(Id::of_ref(&id.reference("a/b")), Some(id));
        assert_eq!(parse_chunk("films/a.mkv_chunk_0"), Some(("films/a.mkv", 0)));
        assert_eq!(parse_chunk("a_chunk_1_chunk_2"), Some(("a_chunk_1", 2)));
        for other in ["a.mkv", "a_chunk_", "a_chunk_x", "a_chunk_-1", "a_chunk_01", "a_chunk_+1", "_chunk_1"] {
            assert_eq!(parse_chunk(other), None, "{other}");
        }
        for other in ["", "00112233445566778899AABBCCDDEEFF", "0011", "+0112233445566778899aabbccddeeff"] {
            assert_eq!(Id::parse(other), None, "{other}");
        }
    }

    #[test]
    fn tags_become_one_name() {
        for (tag, key) in [
            ("film", ".reelfs/tags/film/"),
            ("année 1990", ".reelfs/tags/année%201990/"),
            ("a/b", ".reelfs/tags/a%2Fb/"),
            ("..", ".reelfs/tags/%2E%2E/"),
            ("50%", ".reelfs/tags/50%25/"),
        ] {
            assert_eq!(tagged(tag), key);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let limits = Limits {
            value_bytes_max: 0,
            key_bytes_max: 100,
            name_bytes_max: 50,
            batch_keys_max: 1,
            requests_per_second: None,
            writes_at_once: 1,
            small_at_once: 0,
        };
        let (fits, long) = ("x".repeat(50), "x".repeat(51));
        for good in ["a", ".reelfs.mkv", "a/.reelfs", &fits, &format!("{fits}/{}", &fits[1..])] {
            assert!(check(good, &limits).is_ok(), "{good}");
        }
        for bad in ["", ".reelfs", ".reelfs/chunks/x", "a/../b", &long, &format!("{fits}/{fits}")] {
            assert_eq!(check(bad, &limits).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
        for nested in ["a/.reelfs", "a/.reelfs/library.json"] {
            assert!(check(nested, &limits).is_ok(), "one that is there can be taken away");
            assert_eq!(check_new(nested, &limits).unwrap_err().kind(), Kind::Invalid, "{nested}");
        }
        assert!(check_new("a/.reelfs.mkv", &limits).is_ok());
        assert!(check_tag("short", &limits).is_ok() && check_tag(&"é".repeat(40), &limits).is_err());
    }
}
