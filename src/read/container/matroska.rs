//! Matroska and `WebM`: elements, of which `Cues` is the index, found by way of a `SeekHead`.
//! Never here: clusters. Whoever wants them reads them in order.

use std::time::Duration;

use super::{Film, Stop};
use crate::range::ByteRange;

const EBML: u32 = 0x1A45_DFA3;
const SEGMENT: u32 = 0x1853_8067;
const SEEK_HEAD: u32 = 0x114D_9B74;
const SEEK: u32 = 0x4DBB;
const SEEK_ID: u32 = 0x53AB;
const SEEK_POSITION: u32 = 0x53AC;
const INFO: u32 = 0x1549_A966;
const TIMESTAMP_SCALE: u32 = 0x002A_D7B1;
const DURATION: u32 = 0x4489;
const CLUSTER: u32 = 0x1F43_B675;
const CUES: u32 = 0x1C53_BB6B;
const CHAPTERS: u32 = 0x1043_A770;
const TAGS: u32 = 0x1254_C367;
const ATTACHMENTS: u32 = 0x1941_A469;

/// What players read before they play or seek, wherever it is, the most wanted first.
const READ_FIRST: [u32; 4] = [CUES, CHAPTERS, TAGS, ATTACHMENTS];
/// An id has four bytes at most, a size eight.
const HEADER_BYTES: usize = 12;
/// Places within the segment that are kept in mind: a film has about ten.
const PLACES_MAX: usize = 32;
/// Nanoseconds in a unit of time, unless the film says.
const TIMESTAMP_SCALE_DEFAULT: u64 = 1_000_000;

/// Whether a film that begins like this is one.
pub fn is_one(start: &[u8; 12]) -> bool {
    start[..4] == EBML.to_be_bytes()
}

/// Finds the segment, and what is in it.
pub fn look(film: &mut Film<'_>) -> Result<(), Stop> {
    let mut within = ByteRange::new(0, film.size_bytes);
    let segment = loop {
        let element = Element::read(film, within)?;
        if element.id == SEGMENT {
            break element.content;
        }
        within.start = element.content.end;
    };
    let mut places = Places { segment, known: Vec::new(), followed: 0 };
    let walked = places.walk(film);
    film.note(walked);
    for place in places.of(INFO) {
        let found = find_duration(film, segment, place);
        film.note(found);
    }
    for id in READ_FIRST {
        for place in places.of(id) {
            let found = find_index(film, segment, place);
            film.note(found);
        }
    }
    Ok(())
}

/// One element. Without a size of its own it ends where the one around it does.
#[derive(Clone, Copy)]
struct Element {
    id: u32,
    content: ByteRange,
    is_sized: bool,
}

impl Element {
    /// The element at the start of `within`, which it can't leave. It has at least a header: a walk always gets on.
    fn read(film: &mut Film<'_>, within: ByteRange) -> Result<Self, Stop> {
        let (bytes, _) = film.read_up_to::<HEADER_BYTES>(within.start)?;
        let id_len = bytes[0].leading_zeros() as usize + 1;
        if id_len > 4 {
            return Err(Stop::Nonsense);
        }
        let id = bytes[..id_len].iter().fold(0, |id, byte| id << 8 | u32::from(*byte));
        let size_len = bytes[id_len].leading_zeros() as usize + 1;
        if size_len > 8 {
            return Err(Stop::Nonsense);
        }
        let marked = unsigned(&bytes[id_len..id_len + size_len]);
        // Beside the mark there are seven bits for each byte; all ones mean: not known.
        let size_max = (1 << (7 * size_len)) - 1;
        let size = marked & size_max;
        let is_sized = size != size_max;
        let start = within.start + (id_len + size_len) as u64;
        if start > within.end {
            return Err(Stop::Nonsense);
        }
        let end = if is_sized { start.saturating_add(size).min(within.end) } else { within.end };
        Ok(Self { id, content: ByteRange::new(start, end), is_sized })
    }

    /// A number, of eight bytes at most.
    fn number(self, film: &mut Film<'_>) -> Result<u64, Stop> {
        match usize::try_from(self.content.len()) {
            Ok(0) => Ok(0),
            Ok(len @ 1..=8) => Ok(unsigned(film.read_up_to::<8>(self.content.start)?.0.get(..len).unwrap_or_default())),
            _ => Err(Stop::Nonsense),
        }
    }

    /// A number with a fraction, of four bytes or eight.
    fn fraction(self, film: &mut Film<'_>) -> Result<f64, Stop> {
        match self.content.len() {
            4 => Ok(f32::from_be_bytes(film.read(self.content.start)?).into()),
            8 => Ok(f64::from_be_bytes(film.read(self.content.start)?)),
            _ => Err(Stop::Nonsense),
        }
    }
}

fn unsigned(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Where an element of the segment is, or is said to be.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    id: u32,
    at: u64,
}

/// The segment's elements, as they were met and as its seek heads name them.
struct Places {
    segment: ByteRange,
    known: Vec<Place>,
    // The seek heads among so many of them were followed.
    followed: usize,
}

impl Places {
    fn of(&self, id: u32) -> impl Iterator<Item = Place> {
        self.known.iter().copied().filter(move |place| place.id == id)
    }

    fn add(&mut self, place: Place) {
        let is_wanted = [SEEK_HEAD, INFO].contains(&place.id) || READ_FIRST.contains(&place.id);
        if is_wanted && self.known.len() < PLACES_MAX && !self.known.contains(&place) {
            self.known.push(place);
        }
    }

    /// As far as the first cluster, or until a seek head has named what matters most.
    fn walk(&mut self, film: &mut Film<'_>) -> Result<(), Stop> {
        let mut within = self.segment;
        while !within.is_empty() {
            let element = Element::read(film, within)?;
            if element.id == CLUSTER {
                break;
            }
            self.add(Place { id: element.id, at: within.start });
            self.follow_seek_heads(film);
            if [INFO, CUES].into_iter().all(|id| self.of(id).next().is_some()) {
                break;
            }
            within.start = element.content.end;
        }
        Ok(())
    }

    /// A seek head may name another. None is followed twice.
    fn follow_seek_heads(&mut self, film: &mut Film<'_>) {
        while let Some(place) = self.known.get(self.followed).copied() {
            self.followed += 1;
            if place.id == SEEK_HEAD {
                let followed = self.follow(film, place);
                film.note(followed);
            }
        }
    }

    fn follow(&mut self, film: &mut Film<'_>, seek_head: Place) -> Result<(), Stop> {
        let mut seeks = element_at(film, self.segment, seek_head)?.content;
        while !seeks.is_empty() {
            let seek = Element::read(film, seeks)?;
            if seek.id == SEEK {
                let (mut id, mut position) = (None, None);
                let mut fields = seek.content;
                while !fields.is_empty() {
                    let field = Element::read(film, fields)?;
                    match field.id {
                        SEEK_ID => id = u32::try_from(field.number(film)?).ok(),
                        SEEK_POSITION => position = Some(field.number(film)?),
                        _ => {}
                    }
                    fields.start = field.content.end;
                }
                if let (Some(id), Some(position)) = (id, position) {
                    self.add(Place { id, at: self.segment.start.saturating_add(position) });
                }
            }
            seeks.start = seek.content.end;
        }
        Ok(())
    }
}

/// The element of a place; nonsense if another one is there.
fn element_at(film: &mut Film<'_>, segment: ByteRange, place: Place) -> Result<Element, Stop> {
    let element = Element::read(film, ByteRange::new(place.at, segment.end))?;
    if element.id == place.id && element.is_sized { Ok(element) } else { Err(Stop::Nonsense) }
}

fn find_index(film: &mut Film<'_>, segment: ByteRange, place: Place) -> Result<(), Stop> {
    let element = element_at(film, segment, place)?;
    film.add_index(ByteRange::new(place.at, element.content.end));
    Ok(())
}

fn find_duration(film: &mut Film<'_>, segment: ByteRange, place: Place) -> Result<(), Stop> {
    let mut fields = element_at(film, segment, place)?.content;
    let (mut nanos_per_unit, mut units) = (TIMESTAMP_SCALE_DEFAULT, 0.0);
    while !fields.is_empty() {
        let field = Element::read(film, fields)?;
        match field.id {
            TIMESTAMP_SCALE => nanos_per_unit = field.number(film)?,
            DURATION => units = field.fraction(film)?,
            _ => {}
        }
        fields.start = field.content.end;
    }
    #[allow(clippy::cast_precision_loss, reason = "fifteen digits of a playing time are enough")]
    let seconds = units * nanos_per_unit as f64 / 1e9;
    if let Ok(duration) = Duration::try_from_secs_f64(seconds) {
        film.set_duration(duration);
    }
    Ok(())
}
