//! What one file is made of: its chunks in order, or its bytes themselves, and what else is known of it. Pure.
//! Never here: how a home writes it down.

use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;

use crate::digest::{Digest, Hasher};
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;

/// Chunks of one file, at most: 16 TiB in chunks of 2 MiB. A manifest that claims more is refused before anything is
/// allocated for it.
pub const CHUNKS_MAX: usize = 8 << 20;
/// Bytes of one file, at most: what `JSON`'s numbers hold exactly, and more than any home bears.
pub const FILE_BYTES_MAX: u64 = 1 << 53;
/// Bytes of one chunk, at most: it is held in memory to be hashed, and Cloudflare takes values of 25 MiB.
pub const CHUNK_BYTES_MAX: u64 = 24 << 20;

/// Bytes of an inline file that have a hash of their own: a home that keeps it as one value can be asked for a part of it.
pub const STRETCH_BYTES: u64 = 1 << 20;

/// One stretch of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where it stands in the file. Not empty.
    pub range: ByteRange,
    /// How its bytes are known.
    pub proof: Proof,
}

impl Chunk {
    /// Whether `bytes` are its bytes, by their number and by their hash: whoever hands bytes of a chunk on asks this, and
    /// nothing else. Never of a hole, which is kept nowhere.
    pub fn fits(&self, bytes: &[u8]) -> bool {
        bytes.len() as u64 == self.range.len()
            && match self.proof {
                Proof::Sha256(digest) => Digest::of(bytes) == digest,
                Proof::Size => true,
                Proof::Zeros => false,
            }
    }
}

/// How the bytes of a chunk are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// They hash to this.
    Sha256(Digest),
    /// Another program wrote the manifest: only their number can be checked.
    Size,
    /// A hole: so many zeros, kept nowhere. As long as it likes.
    Zeros,
}

/// A file's bytes, or where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// They themselves.
    Inline(Bytes),
    /// In order, from byte 0 on, each beginning where the last ended.
    Chunks(Vec<Chunk>),
}

/// Where a home keeps the chunks. Says nothing of what the file is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Kept {
    /// Under their hashes.
    #[default]
    ByHash,
    /// One behind the other in the file's own value, from this byte on.
    Within {
        /// Of the value.
        start_byte: u64,
    },
    /// Under numbers behind this prefix.
    Under {
        /// Of the chunks' keys.
        prefix: Box<str>,
    },
}

/// What is known of a file beside its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// MIME type, if it was given.
    pub content_type: Option<String>,
    /// Sorted, each once (see `check_tags`).
    pub tags: Vec<String>,
    /// Last change of the bytes.
    pub modified: SystemTime,
    /// When the file was first put.
    pub created: SystemTime,
}

impl Meta {
    /// Of a file that is new.
    pub fn now() -> Self {
        let now = SystemTime::now();
        Self { content_type: None, tags: Vec::new(), modified: now, created: now }
    }
}

/// One file of a library. It is sound, whoever wrote it: only [`Manifest::new`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    size_bytes: u64,
    content: Content,
    meta: Meta,
    kept: Kept,
    /// And whether no change of its bytes leaves that as it is.
    told_by: Option<(Digest, bool)>,
    is_of_another_program: bool,
}

impl Manifest {
    /// `Corrupt` if the chunks leave gaps, overlap, are empty or huge, or there are too many.
    pub fn new(content: Content, meta: Meta) -> Result<Self> {
        let size_bytes = match &content {
            Content::Inline(bytes) => bytes.len() as u64,
            Content::Chunks(chunks) => check_chunks(chunks)?,
        };
        let (kept, told_by, is_of_another_program) = (Kept::default(), None, false);
        Ok(Self { size_bytes, content, meta, kept, told_by, is_of_another_program })
    }

    /// Exact.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The bytes, or where they are.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The same file, whose chunks a home keeps there.
    #[must_use]
    pub fn kept_in(mut self, kept: Kept) -> Self {
        self.kept = kept;
        self
    }

    /// Where its home keeps the chunks.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// The same file, of which the home told this when its manifest was read: where hashes are missing, another file at the
    /// same place is told by it. `is_enough` says that no change of its bytes leaves it as it is.
    #[must_use]
    pub fn told_by(self, digest: Digest, is_enough: bool) -> Self {
        Self { told_by: Some((digest, is_enough)), ..self }
    }

    /// Whether `content_id` tells its bytes from any others.
    pub fn is_told_apart(&self) -> bool {
        self.is_proved() || self.told_by.is_some_and(|(_, is_enough)| is_enough)
    }

    /// The same file, which another program put as it is: it is read, and neither changed nor replaced.
    #[must_use]
    pub fn of_another_program(self) -> Self {
        Self { is_of_another_program: true, ..self }
    }

    /// Whether another program put it, and not even a manifest.
    pub fn is_of_another_program(&self) -> bool {
        self.is_of_another_program
    }

    /// What is known of it, and nothing else.
    pub fn into_meta(self) -> Meta {
        self.meta
    }

    /// The bytes, or where they are, and nothing else.
    pub fn into_content(self) -> Content {
        self.content
    }

    /// What else is known.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Its chunks; none of an inline file.
    pub fn chunks(&self) -> &[Chunk] {
        match &self.content {
            Content::Inline(_) => &[],
            Content::Chunks(chunks) => chunks,
        }
    }

    /// Which chunks hold the bytes of `range`, which lies within the file.
    pub fn covering(&self, range: ByteRange) -> Range<usize> {
        let chunks = self.chunks();
        let first = chunks.partition_point(|chunk| chunk.range.end <= range.start);
        let last = chunks.partition_point(|chunk| chunk.range.start < range.end);
        first..last.max(first)
    }

    /// Whether the bytes can be told from any others: of a manifest that another program wrote only their number is known.
    pub fn is_proved(&self) -> bool {
        self.chunks().iter().all(|chunk| chunk.proof != Proof::Size)
    }

    /// What tells two states of the file's bytes apart: equal exactly if size, cut and hashes are. Where hashes are
    /// missing (see [`Manifest::is_proved`]), it tells sizes, and what the home told.
    pub fn content_id(&self) -> Digest {
        let mut hasher = Hasher::new();
        let of_inline;
        let chunks = match &self.content {
            Content::Inline(bytes) => {
                of_inline = stretches(bytes);
                &of_inline
            }
            Content::Chunks(chunks) => chunks,
        };
        for chunk in chunks {
            hasher.update(&chunk.range.end.to_le_bytes());
            match &chunk.proof {
                Proof::Sha256(digest) => hasher.update(digest.as_bytes()),
                Proof::Zeros => hasher.update(b"zeros"),
                Proof::Size => hasher.update(b"size"),
            }
        }
        hasher.update(&self.size_bytes.to_le_bytes());
        if let Some((told_by, _)) = &self.told_by {
            hasher.update(told_by.as_bytes());
        }
        hasher.finish()
    }
}

/// An inline file as chunks: what it is told by, and what a home that reads it in parts checks.
pub fn stretches(bytes: &[u8]) -> Vec<Chunk> {
    let mut start = 0;
    let stretch = |bytes: &[u8]| {
        let range = ByteRange { start, end: start + bytes.len() as u64 };
        start = range.end;
        Chunk { range, proof: Proof::Sha256(Digest::of(bytes)) }
    };
    bytes.chunks(STRETCH_BYTES as usize).map(stretch).collect()
}

/// Where the last one ends.
fn check_chunks(chunks: &[Chunk]) -> Result<u64> {
    let wrong = |n: usize, what: &str| Error::new(Kind::Corrupt, format!("chunk {n} of the manifest {what}"));
    if chunks.len() > CHUNKS_MAX {
        return Err(Error::new(Kind::Corrupt, format!("a manifest of {} chunks; {CHUNKS_MAX} at most", chunks.len())));
    }
    let mut end = 0;
    for (n, chunk) in chunks.iter().enumerate() {
        let range = chunk.range;
        if range.start != end {
            return Err(wrong(n, if range.start < end { "overlaps the one before" } else { "leaves a gap" }));
        }
        if range.end <= range.start {
            return Err(wrong(n, "is empty"));
        }
        if chunk.proof != Proof::Zeros && range.end - range.start > CHUNK_BYTES_MAX {
            return Err(wrong(n, "is larger than any that is written"));
        }
        end = range.end;
    }
    if end > FILE_BYTES_MAX {
        return Err(Error::new(Kind::Corrupt, format!("a manifest of {end} bytes; {FILE_BYTES_MAX} at most")));
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> Meta {
        let now = SystemTime::UNIX_EPOCH;
        Meta { content_type: None, tags: Vec::new(), modified: now, created: now }
    }

    fn chunked(ends: &[(u64, u64)]) -> Result<Manifest> {
        let proof = Proof::Sha256(Digest::of(b"x"));
        let chunk = |&(start, end)| Chunk { range: ByteRange { start, end }, proof };
        Manifest::new(Content::Chunks(ends.iter().map(chunk).collect()), meta())
    }

    #[test]
    fn chunks_that_do_not_add_up_are_refused() {
        assert_eq!(chunked(&[(0, 10), (10, 12)]).unwrap().size_bytes(), 12);
        assert_eq!(chunked(&[]).unwrap().size_bytes(), 0);
        for (bad, what) in [
            (&[(0, 10), (9, 12)][..], "overlaps"),
            (&[(0, 10), (11, 12)], "gap"),
            (&[(1, 10)], "gap"),
            (&[(0, 0)], "empty"),
            (&[(0, 10), (10, 9)], "empty"),
            (&[(0, CHUNK_BYTES_MAX + 1)], "larger"),
            (&[(0, u64::MAX)], "larger"),
        ] {
            let error = chunked(bad).unwrap_err();
            assert!(error.kind() == Kind::Corrupt && error.to_string().contains(what), "{bad:?}: {error}");
        }
        let hole = Chunk { range: ByteRange { start: 0, end: u64::MAX }, proof: Proof::Zeros };
        assert_eq!(Manifest::new(Content::Chunks(vec![hole]), meta()).unwrap_err().kind(), Kind::Corrupt);
    }

    #[test]
    fn the_chunks_that_hold_a_range() {
        let manifest = chunked(&[(0, 10), (10, 20), (20, 25)]).unwrap();
        for ((start, end), chunks) in
            [((0, 1), 0..1), ((9, 11), 0..2), ((10, 20), 1..2), ((0, 25), 0..3), ((24, 25), 2..3)]
        {
            assert_eq!(manifest.covering(ByteRange::new(start, end)), chunks, "{start}..{end}");
        }
    }

    #[test]
    fn content_is_told_apart_by_bytes_only() {
        let (one, mut later) = (chunked(&[(0, 10)]).unwrap(), chunked(&[(0, 10)]).unwrap());
        later.meta.modified += std::time::Duration::from_secs(1);
        assert_eq!(one.content_id(), later.content_id());
        assert_ne!(one.content_id(), chunked(&[(0, 11)]).unwrap().content_id());
        assert_ne!(one.content_id(), chunked(&[(0, 5), (5, 10)]).unwrap().content_id());
    }
}
