//! AVI: chunks, of which `idx1` is the index; large films (`OpenDML`) have one for each GiB of each stream besides.
//! Never here: streams and their formats.

use std::time::Duration;

use super::{Film, INDEX_RANGES_MAX, Stop};
use crate::range::ByteRange;

/// A chunk's name and size, and what a list is a list of.
const HEADER_BYTES: usize = 12;
/// An `indx` before its entries.
const INDX_HEADER_BYTES: u64 = 24;
/// One entry of an `indx`: where another index is, its size and its playing time.
const INDX_ENTRY_BYTES: u64 = 16;
/// `bIndexType` of an `indx` that names other indexes.
const INDEX_OF_INDEXES: u8 = 0;

/// Whether a film that begins like this is one.
pub fn is_one(start: &[u8; 12]) -> bool {
    &start[..4] == b"RIFF" && &start[8..] == b"AVI "
}

/// Walks the chunks around `movi`, which holds pictures and sound.
pub fn look(film: &mut Film<'_>) -> Result<(), Stop> {
    let mut within = ByteRange::new(HEADER_BYTES as u64, film.size_bytes);
    let mut is_behind_movi = false;
    while !within.is_empty() {
        let chunk = Chunk::read(film, within)?;
        match (&chunk.name, &chunk.list) {
            (b"LIST", b"hdrl") => {
                let looked = look_at_headers(film, chunk.items());
                film.note(looked);
            }
            (b"LIST", b"movi") => is_behind_movi = true,
            (b"idx1", _) => {
                film.add_index(chunk.whole);
                break;
            }
            (b"JUNK", _) => {}
            // The next GiB; or `movi` has no size, because its film was never finished.
            _ if is_behind_movi => break,
            _ => {}
        }
        within.start = chunk.end;
    }
    Ok(())
}

/// One chunk.
#[derive(Clone, Copy)]
struct Chunk {
    name: [u8; 4],
    // The first of its bytes; what a list is a list of.
    list: [u8; 4],
    whole: ByteRange,
    content: ByteRange,
    // Where the next one begins: at an even place.
    end: u64,
}

impl Chunk {
    /// The chunk at the start of `within`, which it can't leave. It has at least a header: a walk always gets on.
    fn read(film: &mut Film<'_>, within: ByteRange) -> Result<Self, Stop> {
        let ([n0, n1, n2, n3, s0, s1, s2, s3, list @ ..], len) = film.read_up_to::<HEADER_BYTES>(within.start)?;
        if len < 8 || within.len() < 8 {
            return Err(Stop::Nonsense);
        }
        let size = u64::from(u32::from_le_bytes([s0, s1, s2, s3]));
        let content = ByteRange::at(within.start + 8, size).intersect(within);
        Ok(Self {
            name: [n0, n1, n2, n3],
            list,
            whole: ByteRange::new(within.start, content.end),
            content,
            end: content.end.saturating_add(size % 2).min(within.end),
        })
    }

    /// The chunks of a list.
    fn items(self) -> ByteRange {
        ByteRange::new(self.content.start.saturating_add(4).min(self.content.end), self.content.end)
    }
}

/// `hdrl`: the playing time, and for each stream perhaps where its indexes are.
fn look_at_headers(film: &mut Film<'_>, mut within: ByteRange) -> Result<(), Stop> {
    let (mut micros_per_frame, mut frames) = (0, 0);
    while !within.is_empty() {
        let chunk = Chunk::read(film, within)?;
        match (&chunk.name, &chunk.list) {
            (b"avih", _) => {
                let fields = film.read::<20>(chunk.content.start)?;
                micros_per_frame = number(&fields[..4]);
                frames = number(&fields[16..]);
                film.set_duration(Duration::from_micros(micros_per_frame * frames));
            }
            (b"LIST", b"strl") => look_at_stream(film, chunk.items())?,
            (b"LIST", b"odml") => {
                // Frames of the whole film; `avih` knows those of the first GiB.
                let dmlh = Chunk::read(film, chunk.items())?;
                if &dmlh.name == b"dmlh" {
                    frames = frames.max(number(&film.read::<4>(dmlh.content.start)?));
                    film.set_duration(Duration::from_micros(micros_per_frame * frames));
                }
            }
            _ => {}
        }
        within.start = chunk.end;
    }
    Ok(())
}

fn look_at_stream(film: &mut Film<'_>, mut within: ByteRange) -> Result<(), Stop> {
    while !within.is_empty() {
        let chunk = Chunk::read(film, within)?;
        if &chunk.name == b"indx" {
            let [_, _, _, kind, entries @ ..] = film.read::<8>(chunk.content.start)?;
            let room = chunk.content.len().saturating_sub(INDX_HEADER_BYTES) / INDX_ENTRY_BYTES;
            let entries = number(&entries).min(room).min(INDEX_RANGES_MAX as u64);
            for entry in 0..if kind == INDEX_OF_INDEXES { entries } else { 0 } {
                let at = chunk.content.start + INDX_HEADER_BYTES + entry * INDX_ENTRY_BYTES;
                let fields = film.read::<{ INDX_ENTRY_BYTES as usize }>(at)?;
                let size = number(&fields[8..12]);
                film.add_index(ByteRange::at(number(&fields[..8]), size));
            }
        }
        within.start = chunk.end;
    }
    Ok(())
}

/// A number of eight bytes at most; the first is the least.
fn number(field: &[u8]) -> u64 {
    field.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
