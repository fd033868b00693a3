//! ISO base media (mp4, m4v) and `QuickTime` (mov): boxes, of which `moov` is the index.
//! Never here: tracks and samples.
//!
//! `mdat` says its own size, and so where the `moov` behind it begins. Fragmented films have a small `moov`, perhaps a
//! `sidx`, then a `moof` for each fragment, and perhaps an `mfra` at the end, found by its last four bytes.

use std::time::Duration;

use super::{Film, Stop};
use crate::range::ByteRange;

/// What a film may begin with. A mov may have no `ftyp`.
const FIRST: [&[u8; 4]; 10] =
    [b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp", b"sidx", b"moof"];
/// A box's size and kind, and its size again in 64 bits if it needs them.
const HEADER_BYTES: usize = 16;
/// `mfro`, the last box of a film's `mfra`: its size, kind and flags, and the size of the whole `mfra`.
const MFRO_BYTES: u64 = 16;

/// Whether a film that begins like this is one.
pub fn is_one(start: &[u8; 12]) -> bool {
    FIRST.iter().any(|kind| start[4..8] == kind[..])
}

/// Walks the outermost boxes.
pub fn look(film: &mut Film<'_>) -> Result<(), Stop> {
    let mut outermost = Outermost::default();
    let walked = outermost.walk(film);
    film.note(walked);
    if outermost.is_fragmented {
        let found = find_mfra(film);
        film.note(found);
    }
    match outermost.moov {
        Some(moov) => find_duration(film, moov.content),
        None => Ok(()),
    }
}

/// What was met on the outermost level.
#[derive(Default)]
struct Outermost {
    moov: Option<BoxAt>,
    has_data: bool,
    is_fragmented: bool,
}

impl Outermost {
    /// To the end, or until the rest is nothing but pictures and sound.
    fn walk(&mut self, film: &mut Film<'_>) -> Result<(), Stop> {
        let mut at = 0;
        while at < film.size_bytes && !(self.moov.is_some() && self.has_data) {
            let found = BoxAt::read(film, ByteRange::new(at, film.size_bytes))?;
            match &found.kind {
                b"moov" => {
                    film.add_index(found.whole);
                    self.moov = Some(found);
                }
                b"sidx" => film.add_index(found.whole),
                b"mdat" => self.has_data = true,
                b"moof" => {
                    self.is_fragmented = true;
                    return Ok(());
                }
                _ => {}
            }
            at = found.whole.end;
        }
        Ok(())
    }
}

/// One box.
#[derive(Clone, Copy)]
struct BoxAt {
    kind: [u8; 4],
    whole: ByteRange,
    content: ByteRange,
}

impl BoxAt {
    /// The box at the start of `within`, which it can't leave. It has at least a header: a walk always gets on.
    fn read(film: &mut Film<'_>, within: ByteRange) -> Result<Self, Stop> {
        let (bytes, len) = film.read_up_to::<HEADER_BYTES>(within.start)?;
        let [s0, s1, s2, s3, k0, k1, k2, k3, long @ ..] = bytes;
        let (size, header) = match u32::from_be_bytes([s0, s1, s2, s3]) {
            0 => (within.len(), 8),
            1 => (u64::from_be_bytes(long), 16),
            size => (u64::from(size), 8),
        };
        if size < header || (len as u64) < header || within.len() < header {
            return Err(Stop::Nonsense);
        }
        let whole = ByteRange::at(within.start, size).intersect(within);
        Ok(Self { kind: [k0, k1, k2, k3], whole, content: ByteRange::new(whole.start + header, whole.end) })
    }
}

/// `mfra` is found from behind.
fn find_mfra(film: &mut Film<'_>) -> Result<(), Stop> {
    let end = film.size_bytes;
    let [s0, s1, s2, s3, b'm', b'f', b'r', b'o', _, _, _, _, size @ ..] =
        film.read::<{ MFRO_BYTES as usize }>(end.saturating_sub(MFRO_BYTES))?
    else {
        return Ok(());
    };
    let size = u64::from(u32::from_be_bytes(size));
    if u64::from(u32::from_be_bytes([s0, s1, s2, s3])) == MFRO_BYTES && size > MFRO_BYTES && size < end {
        film.add_index(ByteRange::new(end - size, end));
    }
    Ok(())
}

/// In `mvhd`, which comes first; or in `mehd` of a fragmented film, whose `mvhd` says zero.
fn find_duration(film: &mut Film<'_>, moov: ByteRange) -> Result<(), Stop> {
    let mut within = moov;
    let mut units_per_second = 0;
    while !within.is_empty() {
        let found = BoxAt::read(film, within)?;
        match &found.kind {
            b"mvhd" => {
                let (fields, _) = film.read_up_to::<32>(found.content.start)?;
                let (second, duration) = match fields[0] {
                    0 => (&fields[12..16], &fields[16..20]),
                    1 => (&fields[20..24], &fields[24..32]),
                    _ => return Err(Stop::Nonsense),
                };
                units_per_second = number(second);
                set_duration(film, duration, units_per_second);
            }
            // Its boxes are walked as if they were moov's own.
            b"mvex" => {
                within = ByteRange::new(found.content.start, within.end);
                continue;
            }
            b"mehd" => {
                let (fields, _) = film.read_up_to::<12>(found.content.start)?;
                let duration = if fields[0] == 0 { &fields[4..8] } else { &fields[4..12] };
                set_duration(film, duration, units_per_second);
            }
            _ => {}
        }
        if film.survey.duration.is_some() {
            break;
        }
        within.start = found.whole.end;
    }
    Ok(())
}

/// A number of eight bytes at most.
fn number(field: &[u8]) -> u64 {
    field.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// All ones mean: not known.
fn set_duration(film: &mut Film<'_>, duration: &[u8], units_per_second: u64) {
    if units_per_second > 0 && duration.iter().any(|byte| *byte != u8::MAX) {
        let units = number(duration);
        // There are fewer than 2^32 units in a second: nothing overflows.
        let nanos = units % units_per_second * 1_000_000_000 / units_per_second;
        film.set_duration(Duration::new(units / units_per_second, nanos as u32));
    }
}
