//! Values that another program put beside a library and that are no manifests: each is a file of its own bytes, which is read
//! and never changed.
//! Never here: manifests (see `value`), and what is refused (every change asks `load`, which knows no such file).

use std::time::SystemTime;

use bytes::Bytes;

use super::KeyedLibrary;
use super::value::HEAD_BYTES;
use crate::digest::Hasher;
use crate::error::Result;
use crate::library::manifest::{CHUNK_BYTES_MAX, Kept};
use crate::library::{Chunk, Content, Manifest, Meta, Proof};
use crate::range::ByteRange;
use crate::store::keyed::Look;

/// Of such a file at least so much is asked for at once: a store answers one large request sooner than many small ones.
const STRETCH_BYTES_MIN: u64 = 4 << 20;
/// And no more stretches than these, as long as one is not too large for memory.
const STRETCHES: u64 = 1 << 16;

impl KeyedLibrary {
    /// The file that a value is, of which `head` was read: all of it, or the first `HEAD_BYTES`.
    pub(super) fn raw(&self, path: &str, head: Bytes) -> Result<Manifest> {
        if (head.len() as u64) < HEAD_BYTES {
            return Ok(Manifest::new(Content::Inline(head), unknown())?.of_another_program());
        }
        let look = self.asking.look(path)?;
        let meta = Meta { modified: look.modified.unwrap_or(SystemTime::UNIX_EPOCH), ..unknown() };
        let manifest = Manifest::new(Content::Chunks(stretches(look.size_bytes)), meta)?;
        let is_enough = look.etag.as_ref().is_some_and(|etag| !etag.starts_with("W/"));
        let manifest = manifest.told_by(told_by(&look, &head), is_enough);
        Ok(manifest.kept_in(Kept::Within { start_byte: 0 }).of_another_program())
    }
}

/// Another program says nothing else of its value.
pub(super) fn unknown() -> Meta {
    let (content_type, tags, unknown) = (None, Vec::new(), SystemTime::UNIX_EPOCH);
    Meta { content_type, tags, modified: unknown, created: unknown }
}

/// What tells two states of a value apart: what the store says, and where it says nothing but a size, how the value begins.
fn told_by(look: &Look, head: &[u8]) -> crate::digest::Digest {
    let mut hasher = Hasher::new();
    hasher.update(&look.size_bytes.to_le_bytes());
    let since = look.modified.and_then(|modified| modified.duration_since(SystemTime::UNIX_EPOCH).ok());
    hasher.update(&since.unwrap_or_default().as_nanos().to_le_bytes());
    hasher.update(look.etag.as_deref().unwrap_or_default().as_bytes());
    hasher.update(head);
    hasher.finish()
}

/// So many bytes, none of which is known by a hash.
fn stretches(size_bytes: u64) -> Vec<Chunk> {
    let length = (size_bytes / STRETCHES).clamp(STRETCH_BYTES_MIN, CHUNK_BYTES_MAX);
    let count = size_bytes.div_ceil(length);
    let stretch = |n| {
        let start = n * length;
        Chunk { range: ByteRange::new(start, (start + length).min(size_bytes)), proof: Proof::Size }
    };
    (0..count).map(stretch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_cover_a_value_and_are_few() {
        for size_bytes in [1, STRETCH_BYTES_MIN, STRETCH_BYTES_MIN + 1, 5 << 30, 5 << 40] {
            let chunks = stretches(size_bytes);
            let manifest = Manifest::new(Content::Chunks(chunks), unknown()).unwrap();
            assert_eq!(manifest.size_bytes(), size_bytes);
            assert!(manifest.chunks().len() <= 4 * STRETCHES as usize, "{size_bytes}");
        }
    }
}
