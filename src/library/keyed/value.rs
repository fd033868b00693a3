//! What a file's own value says: the file itself in a frame, or where its chunks are. Pure; nothing that is read is
//! believed, and nothing is allocated for what it claims before that is checked.
//! Never here: keys, and asking for them.
//!
//! A frame is `REELFS1\n`, the header's length (u32, little endian), the header, the bytes. A header and a manifest are the
//! same JSON; a manifest begins with its `{`, which no frame does. Without our own part (`reelfs`) another program wrote it.

use std::io::Read;
use std::time::SystemTime;

use bytes::{BufMut as _, Bytes, BytesMut};
use jiff::Timestamp;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::keys::Id;
use super::raw::unknown;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::library::manifest::{CHUNK_BYTES_MAX, Kept, stretches};
use crate::library::{Chunk, Content, Manifest, Meta, Proof, TAGS_MAX, check_tags};
use crate::range::ByteRange;

/// Read of a value first: a frame's header, and the whole of a small file.
pub(super) const HEAD_BYTES: u64 = 64 << 10;
/// A manifest larger than this is refused, read or written: Cloudflare takes values of 25 MiB.
pub(super) const MANIFEST_BYTES_MAX: u64 = 24 << 20;
/// Chunks of a manifest: more do not fit into one with their hashes.
const CHUNKS_MAX: usize = (MANIFEST_BYTES_MAX / 64) as usize;
const MAGIC: &[u8] = b"REELFS1\n";
/// In front of a frame's header: the magic and the length.
const FRAME_BYTES: usize = MAGIC.len() + 4;
/// Of the magic: what every version begins with.
const SIGN_BYTES: usize = 6;
/// What stands near the beginning of a manifest, and of a frame's header.
const SIGNS: [&[u8]; 3] = [b"\"totalSize\"", b"\"chunkCount\"", b"\"actualChunkSizes\""];
/// How our part of a manifest begins.
const OURS: &[u8] = b"\"reelfs\":{";
/// The type of a file of which nobody knows one.
const UNKNOWN_TYPE: &str = "application/octet-stream";
/// Blanks behind a plain manifest, each of four.
const NONCE_BYTES: usize = 32;
/// What our part of a manifest is written as.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    total_size: u64,
    chunk_count: u64,
    #[serde(deserialize_with = "bounded::<CHUNKS_MAX, _, _>")]
    actual_chunk_sizes: Vec<u64>,
    #[serde(default)]
    standard_chunk_size: u64,
    #[serde(default)]
    original_content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reelfs: Option<Ours>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ours {
    version: u32,
    /// `null` of a hole.
    #[serde(deserialize_with = "bounded::<CHUNKS_MAX, _, _>")]
    sha256: Vec<Option<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chunk_prefix: Option<String>,
    #[serde(default, deserialize_with = "bounded::<TAGS_MAX, _, _>")]
    tags: Vec<String>,
    modified: String,
    created: String,
}

/// Whether the bytes of a file are a value that reelfs wrote: a frame, or a manifest with our own part.
pub fn is_ours(bytes: &mut dyn Read) -> bool {
    let mut head = Vec::new();
    if bytes.take(MAGIC.len() as u64).read_to_end(&mut head).is_err() || head.first() != Some(&b'{') {
        return head == MAGIC;
    }
    let is_read = bytes.take(MANIFEST_BYTES_MAX).read_to_end(&mut head).is_ok();
    is_read && head.windows(OURS.len()).any(|part| part == OURS)
}

/// What a value begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Begins {
    /// A frame: all that is to be known is in the head.
    Frame,
    /// A manifest: all of it is needed.
    Json,
}

/// Which of the two a value is, by its first bytes. `Corrupt` if it is neither.
pub(super) fn begins(path: &str, head: &[u8]) -> Result<Begins> {
    match head.first() {
        Some(b'{') => Ok(Begins::Json),
        _ if head.starts_with(MAGIC) => Ok(Begins::Frame),
        _ => {
            let message = format!("{}: neither a file nor a manifest of this library", path.escape_debug());
            Err(Error::new(Kind::Corrupt, message))
        }
    }
}

/// Whether a value that cannot be read was never one of a library: what is ours says so in several places, and says it still
/// in some of them when it is damaged. Nothing at all, or nothing but zeros, may be what is left of anything.
pub(super) fn is_foreign(head: &[u8]) -> bool {
    let is_blank = head.iter().all(|byte| *byte == 0);
    let begins = is_blank || head.starts_with(&MAGIC[..SIGN_BYTES]) || MAGIC.starts_with(head);
    let has = |sign: &&[u8]| head.windows(sign.len()).any(|bytes| bytes == *sign);
    !begins && !SIGNS.iter().any(has)
}

/// A file in a frame, from the first `HEAD_BYTES` of its value, or all of it if it has fewer. Inline where all of the
/// bytes came along and are the ones that were put.
pub(super) fn read_frame(path: &str, head: &Bytes) -> Result<Manifest> {
    let wrong = |what: &str| Error::new(Kind::Corrupt, format!("{}: the file's frame {what}", path.escape_debug()));
    let (length, rest) =
        head.strip_prefix(MAGIC).and_then(|rest| rest.split_first_chunk::<4>()).ok_or_else(|| wrong("is cut off"))?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > HEAD_BYTES as usize - FRAME_BYTES {
        return Err(wrong("claims a header that is too long"));
    }
    let header = rest.get(..length).ok_or_else(|| wrong("is cut off"))?;
    let (chunks, meta) = parse(path, header)?;
    let start = FRAME_BYTES + length;
    let inline = head.slice(start..);
    let manifest = Manifest::new(Content::Chunks(chunks), meta).map_err(|error| error.context(path.escape_debug()))?;
    let is_hole = |chunk: &Chunk| !matches!(chunk.proof, Proof::Sha256(_));
    if manifest.chunks().iter().any(is_hole) {
        return Err(wrong("has no hashes"));
    }
    if inline.len() as u64 == manifest.size_bytes() && stretches(&inline) == manifest.chunks() {
        return Manifest::new(Content::Inline(inline), manifest.into_meta());
    }
    // More comes behind the head; or bytes are damaged, which shows when they are asked for.
    Ok(manifest.kept_in(Kept::Within { start_byte: start as u64 }))
}

/// A manifest, and the group it needs; of one that another program wrote, none.
pub(super) fn read_manifest(path: &str, value: &[u8]) -> Result<(Manifest, Option<Id>)> {
    let json: Json = serde_json::from_slice(value).map_err(|error| {
        Error::new(Kind::Corrupt, format!("{}: neither a file nor a sound manifest: {error}", path.escape_debug()))
    })?;
    let id = json.reelfs.as_ref().map(|ours| group(path, ours)).transpose()?;
    let (chunks, meta) = checked(path, json)?;
    let manifest = Manifest::new(Content::Chunks(chunks), meta).map_err(|error| error.context(path.escape_debug()))?;
    let prefix = id.map_or_else(|| path.to_owned(), Id::chunk_prefix);
    Ok((manifest.kept_in(Kept::Under { prefix: prefix.into() }), id))
}

/// A file in a frame. Its bytes are copied once.
pub(super) fn frame(bytes: &[u8], meta: &Meta) -> Result<Bytes> {
    let chunks = stretches(bytes);
    let header = write(&chunks, meta, crate::library::manifest::STRETCH_BYTES, None)?;
    if FRAME_BYTES + header.len() > HEAD_BYTES as usize {
        let message = format!("what is known of the file takes {} bytes; {HEAD_BYTES} at most", header.len());
        return Err(Error::new(Kind::Invalid, message));
    }
    let mut value = BytesMut::with_capacity(FRAME_BYTES + header.len() + bytes.len());
    value.put_slice(MAGIC);
    value.put_u32_le(header.len() as u32);
    value.put_slice(&header);
    value.put_slice(bytes);
    Ok(value.freeze())
}

/// A manifest of chunks that are kept in the group `id`.
pub(super) fn manifest(chunks: &[Chunk], meta: &Meta, chunk_size_bytes: u64, id: Id) -> Result<Bytes> {
    check_length(chunks.len(), write(chunks, meta, chunk_size_bytes, Some(id))?)
}

/// A manifest in the plain form: it says nothing that other programs do not.
pub(super) fn plain(chunks: &[Chunk], content_type: Option<&str>, chunk_size_bytes: u64) -> Result<Bytes> {
    let sizes: Vec<_> = chunks.iter().map(|chunk| chunk.range.len()).collect();
    let json = Json {
        total_size: sizes.iter().sum(),
        chunk_count: sizes.len() as u64,
        actual_chunk_sizes: sizes,
        standard_chunk_size: chunk_size_bytes,
        original_content_type: Some(content_type.unwrap_or(UNKNOWN_TYPE).to_owned()),
        reelfs: None,
    };
    let mut value = written_out(&json)?;
    // No program cares for blanks behind it; here they tell two files of the same sizes apart.
    value.extend((0..NONCE_BYTES).map(|_| *fastrand::choice(b" \t\r\n").unwrap_or(&b' ')));
    check_length(chunks.len(), value)
}

fn check_length(chunk_count: usize, value: Vec<u8>) -> Result<Bytes> {
    if chunk_count > CHUNKS_MAX || value.len() as u64 > MANIFEST_BYTES_MAX {
        let message = format!("{chunk_count} chunks are too many for one manifest: this home wants larger ones");
        return Err(Error::new(Kind::Invalid, message));
    }
    Ok(value.into())
}

fn written_out(json: &Json) -> Result<Vec<u8>> {
    serde_json::to_vec(json).map_err(|error| Error::new(Kind::Local, format!("a manifest cannot be written: {error}")))
}

fn write(chunks: &[Chunk], meta: &Meta, chunk_size_bytes: u64, id: Option<Id>) -> Result<Vec<u8>> {
    let hash = |chunk: &Chunk| match chunk.proof {
        Proof::Sha256(digest) => Ok(Some(digest.to_string())),
        Proof::Zeros => Ok(None),
        Proof::Size => Err(Error::new(Kind::Invalid, "a file is put with the hashes of its chunks")),
    };
    let json = Json {
        total_size: chunks.last().map_or(0, |chunk| chunk.range.end),
        chunk_count: chunks.len() as u64,
        actual_chunk_sizes: chunks.iter().map(|chunk| chunk.range.len()).collect(),
        standard_chunk_size: chunk_size_bytes,
        original_content_type: meta.content_type.clone(),
        reelfs: Some(Ours {
            version: VERSION,
            sha256: chunks.iter().map(hash).collect::<Result<_>>()?,
            chunk_prefix: id.map(Id::chunk_prefix),
            tags: meta.tags.clone(),
            modified: written(meta.modified),
            created: written(meta.created),
        }),
    };
    written_out(&json)
}

fn parse(path: &str, header: &[u8]) -> Result<(Vec<Chunk>, Meta)> {
    let json: Json = serde_json::from_slice(header).map_err(|error| {
        Error::new(Kind::Corrupt, format!("{}: the file's header cannot be read: {error}", path.escape_debug()))
    })?;
    checked(path, json)
}

fn group(path: &str, ours: &Ours) -> Result<Id> {
    // Only our own keys are ever removed with a file.
    ours.chunk_prefix
        .as_deref()
        .and_then(Id::of_prefix)
        .ok_or_else(|| Error::new(Kind::Corrupt, format!("{}: the manifest's chunks are nowhere", path.escape_debug())))
}

/// The chunks, as they are claimed, and what else is known. `Manifest::new` judges the chunks themselves.
fn checked(path: &str, json: Json) -> Result<(Vec<Chunk>, Meta)> {
    let wrong = |what: String| Error::new(Kind::Corrupt, format!("{}: the manifest {what}", path.escape_debug()));
    let sizes = &json.actual_chunk_sizes;
    if json.chunk_count != sizes.len() as u64 {
        return Err(wrong(format!("counts {} chunks, and has the sizes of {}", json.chunk_count, sizes.len())));
    }
    let (hashes, meta) = match json.reelfs {
        Some(ours) if ours.version > VERSION => {
            let message = format!("{}: written by a newer reelfs (manifest {})", path.escape_debug(), ours.version);
            return Err(Error::new(Kind::Unsupported, message));
        }
        Some(ours) => {
            let tags = check_tags(ours.tags).map_err(|error| wrong(format!("has bad tags: {error}")))?;
            let (modified, created) = (time(&ours.modified), time(&ours.created));
            let (Some(modified), Some(created)) = (modified, created) else {
                return Err(wrong("has times that are none".into()));
            };
            (Some(ours.sha256), Meta { content_type: json.original_content_type, tags, modified, created })
        }
        None => (None, Meta { content_type: json.original_content_type, ..unknown() }),
    };
    if let Some(hashes) = &hashes
        && hashes.len() != sizes.len()
    {
        return Err(wrong(format!("has {} chunks, and {} hashes", sizes.len(), hashes.len())));
    }
    let mut chunks = Vec::with_capacity(sizes.len());
    let mut end = 0u64;
    for (n, size) in sizes.iter().enumerate() {
        let start = end;
        end = start.checked_add(*size).ok_or_else(|| wrong(format!("is huge at chunk {n}")))?;
        let proof = match hashes.as_ref().map(|hashes| hashes[n].as_deref()) {
            None => Proof::Size,
            Some(None) => Proof::Zeros,
            Some(Some(hex)) => {
                let digest = Digest::from_hex(hex).ok_or_else(|| wrong(format!("has no hash of chunk {n}")))?;
                Proof::Sha256(digest)
            }
        };
        if proof != Proof::Zeros && *size > CHUNK_BYTES_MAX {
            return Err(wrong(format!("claims {size} bytes for chunk {n}; {CHUNK_BYTES_MAX} at most")));
        }
        chunks.push(Chunk { range: ByteRange { start, end }, proof });
    }
    if end != json.total_size {
        return Err(wrong(format!("claims {} bytes, and its chunks are {end}", json.total_size)));
    }
    Ok((chunks, meta))
}

fn written(time: SystemTime) -> String {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

fn time(text: &str) -> Option<SystemTime> {
    text.parse::<Timestamp>().ok().map(SystemTime::from)
}

/// A list that ends with an error where it is longer than any that is written.
fn bounded<'de, const MAX: usize, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> std::result::Result<Vec<T>, D::Error> {
    struct List<const MAX: usize, T>(std::marker::PhantomData<T>);
    impl<'de, const MAX: usize, T: Deserialize<'de>> Visitor<'de> for List<MAX, T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "a list of at most {MAX}")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> std::result::Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = sequence.next_element()? {
                if items.len() == MAX {
                    return Err(serde::de::Error::invalid_length(MAX + 1, &self));
                }
                items.push(item);
            }
            Ok(items)
        }
    }
    from.deserialize_seq(List::<MAX, T>(std::marker::PhantomData))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn meta() -> Meta {
        let modified = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        Meta {
            content_type: Some("video/mp4".into()), tags: vec!["a".into(), "é".into()], modified, created: modified
        }
    }

    fn chunks(sizes: &[u64]) -> Vec<Chunk> {
        let mut end = 0;
        let mut chunk = |size: &u64| {
            let range = ByteRange { start: end, end: end + size };
            end += size;
            Chunk { range, proof: Proof::Sha256(Digest::of(&size.to_le_bytes())) }
        };
        sizes.iter().map(&mut chunk).collect()
    }

    fn refused(text: &str) -> String {
        let error = read_manifest("a.mkv", text.as_bytes()).unwrap_err();
        assert!(error.kind() == Kind::Corrupt && error.to_string().starts_with("a.mkv: "), "{text}: {error}");
        error.to_string()
    }

    #[test]
    fn a_frame_reads_as_it_was_written() {
        for size in [0usize, 1, 1000, (1 << 20) + 7] {
            let bytes: Vec<u8> = (0..size).map(|at| (at % 253) as u8).collect();
            let value = frame(&bytes, &meta()).unwrap();
            assert_eq!(begins("a", &value).unwrap(), Begins::Frame);
            let head = value.slice(..value.len().min(HEAD_BYTES as usize));
            let manifest = read_frame("a", &head).unwrap();
            assert_eq!((manifest.size_bytes(), manifest.meta()), (size as u64, &meta()));
            match (manifest.content(), manifest.kept()) {
                (Content::Inline(inline), _) => assert!(*inline == bytes && size <= 1000),
                (Content::Chunks(chunks), Kept::Within { start_byte }) => {
                    assert!(*chunks == stretches(&bytes) && value[*start_byte as usize..] == bytes);
                }
                other => panic!("{other:?}"),
            }
            let inline = Manifest::new(Content::Inline(bytes.into()), meta()).unwrap();
            assert_eq!(inline.content_id(), manifest.content_id(), "read or written, it is the same content");
        }
    }

    #[test]
    fn a_frame_whose_bits_flip_is_never_taken_for_sound() {
        let bytes = b"a short film".as_slice();
        let value = frame(bytes, &meta()).unwrap();
        let sound = read_frame("a", &value).unwrap();
        for at in 0..value.len() * 8 {
            let mut flipped = value.to_vec();
            flipped[at / 8] ^= 1 << (at % 8);
            let head = Bytes::from(flipped);
            let Ok(Begins::Frame) = begins("a", &head) else { continue };
            // Else it is an error, or a chunk whose hash will not fit.
            if let Ok(manifest) = read_frame("a", &head)
                && let Content::Inline(inline) = manifest.content()
            {
                assert_eq!(inline, bytes, "bit {at}");
                assert_eq!(manifest.content_id(), sound.content_id());
            }
        }
        for length in 0..value.len() {
            let cut = read_frame("a", &value.slice(..length));
            assert!(cut.is_err() || matches!(cut.unwrap().content(), Content::Chunks(_)), "{length} bytes");
        }
    }

    #[test]
    fn a_manifest_reads_as_it_was_written() {
        let mut chunks = chunks(&[10, 10, 3]);
        let hole = ByteRange { start: 23, end: 1 << 40 };
        chunks.push(Chunk { range: hole, proof: Proof::Zeros });
        let id = Id::random();
        let value = manifest(&chunks, &meta(), 10, id).unwrap();
        assert_eq!(begins("a", &value).unwrap(), Begins::Json);
        let (manifest, group) = read_manifest("a", &value).unwrap();
        assert_eq!((manifest.chunks(), manifest.meta(), group), (&chunks[..], &meta(), Some(id)));
        assert_eq!(manifest.kept(), &Kept::Under { prefix: id.chunk_prefix().into() });
    }

    #[test]
    fn a_plain_manifest_of_another_program_reads() {
        let text = r#"{"totalSize": 12, "chunkCount": 2, "actualChunkSizes": [10, 2], "standardChunkSize": 10,
            "originalContentType": "video/mp4", "isChunked": true}"#;
        let (manifest, group) = read_manifest("films/a.mkv", text.as_bytes()).unwrap();
        assert_eq!((manifest.size_bytes(), manifest.chunks().len(), group), (12, 2, None));
        assert!(manifest.chunks().iter().all(|chunk| chunk.proof == Proof::Size));
        assert_eq!(manifest.kept(), &Kept::Under { prefix: "films/a.mkv".into() });
    }

    #[test]
    fn what_does_not_add_up_is_refused() {
        let plain = |total: &str, count: &str, sizes: &str| {
            format!(r#"{{"totalSize":{total},"chunkCount":{count},"actualChunkSizes":{sizes}}}"#)
        };
        for (total, count, sizes, what) in [
            ("12", "2", "[10,3]", "its chunks are 13"),
            ("12", "3", "[10,2]", "counts 3"),
            ("-12", "2", "[10,2]", "-12"),
            ("8", "2", "[10,-2]", "-2"),
            ("12.5", "2", "[10,2.5]", "12.5"),
            ("10", "2", "[10,0]", "empty"),
            ("1e300", "1", "[1e300]", "floating point"),
            ("18446744073709551615", "1", "[18446744073709551615]", "claims"),
            ("1", "9007199254740992", "[1]", "counts"),
            ("30000000", "1", "[30000000]", "30000000"),
            ("12", "2", "{}", "map"),
            ("\"12\"", "2", "[10,2]", "12"),
        ] {
            let said = refused(&plain(total, count, sizes));
            assert!(said.contains(what), "{said}");
        }
        refused("{");
        refused("{}");
        refused(r#"{"name": "a JSON file of somebody else"}"#);
        let many = format!("[{}1]", "1,".repeat(CHUNKS_MAX));
        assert!(refused(&plain("1", "1", &many)).contains("at most"));
        let deep = plain("1", "1", &"[".repeat(10_000));
        refused(&deep);
    }

    #[test]
    fn what_our_own_part_claims_is_checked_too() {
        let value = manifest(&chunks(&[10, 2]), &meta(), 10, Id::random()).unwrap();
        let text = std::str::from_utf8(&value).unwrap();
        let hash = Digest::of(&10u64.to_le_bytes()).to_string();
        for (from, to) in [
            (".reelfs/chunks/", "films/other/"),
            (".reelfs/chunks/", ".reelfs/refs/"),
            ("2023-11-14T", "yesterday"),
            (r#"["a","é"]"#, r#"["b","a\u0000"]"#),
            (&hash, "short"),
            (&format!("\"{hash}\","), ""),
        ] {
            assert!(text.contains(from), "{from}");
            refused(&text.replace(from, to));
        }
        let tags = format!("[{}\"\"]", "\"\",".repeat(TAGS_MAX));
        assert!(refused(&text.replace(r#"["a","é"]"#, &tags)).contains("a list of at most 64"));
        let newer = text.replace("\"version\":1", "\"version\":2");
        assert_eq!(read_manifest("a", newer.as_bytes()).unwrap_err().kind(), Kind::Unsupported);
    }

    #[test]
    fn what_others_keep_is_told_from_files() {
        for other in [&b""[..], b"\x1aE\xdf\xa3 a Matroska film", b"REELFS1", b" {", b"REELFS2\n"] {
            assert_eq!(begins("a", other).unwrap_err().kind(), Kind::Corrupt);
        }
        for foreign in [&b"\x1aE\xdf\xa3 a Matroska film"[..], b"{\"name\": \"a JSON file of somebody else\"}", b"{"] {
            assert!(is_foreign(foreign));
        }
        let id = Id::random();
        let whole = [frame(b"a film", &meta()).unwrap(), manifest(&chunks(&[10, 2]), &meta(), 10, id).unwrap()];
        for value in whole {
            for at in 0..value.len() * 8 {
                let mut flipped = value.to_vec();
                flipped[at / 8] ^= 1 << (at % 8);
                assert!(!is_foreign(&flipped), "bit {at}");
            }
        }
        assert!(!is_foreign(b"") && !is_foreign(&[0; 100]) && !is_foreign(b"REELFS2\n") && !is_foreign(b"REE"));
        let huge = [MAGIC, &u32::MAX.to_le_bytes(), b"{}"].concat();
        assert_eq!(read_frame("a", &huge.into()).unwrap_err().kind(), Kind::Corrupt);
    }
}
