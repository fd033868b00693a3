//! Where a player will read next when it opens a film: the place of the container's index, and the playing time. Pure.
//! Never here: fetching, and any byte of picture or sound. It is believed about where to look, and about nothing else.
//!
//! Players read a film's head, then its index, which is often at the end: `moov` of an mp4, `Cues` of a Matroska file,
//! `idx1` of an AVI. [`survey`] looks at the pieces of a file that are there already, says where the index is, and which
//! few bytes would tell more. The caller fetches those and asks again, as often as it likes.
//!
//! A file may say anything. So nothing is allocated by a size that it claims, every range is cut to the file, all reads
//! of one survey are counted, and all that the index may cost is bounded.

mod avi;
mod matroska;
mod mp4;

use std::time::Duration;

use crate::range::ByteRange;

/// Headers and fields read in one survey: a real film needs fewer than a hundred, however long it is. It also bounds the steps of
/// a caller that asks until there is nothing more to learn.
pub const READS_MAX: usize = 256;
/// All ranges of the index together: the `moov` of a film of three hours has about 10 MiB.
pub const INDEX_BYTES_MAX: u64 = 16 << 20;
/// Ranges of the index: an AVI has one for each GiB of each stream.
pub const INDEX_RANGES_MAX: usize = 32;

/// A piece of the file that is known, anywhere in it.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Where it begins in the file.
    pub offset: u64,
    /// What stands there.
    pub bytes: &'a [u8],
}

/// What a container tells so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Where a player reads before it plays or seeks, the most wanted first. At most [`INDEX_RANGES_MAX`] ranges and
    /// [`INDEX_BYTES_MAX`] bytes, none empty, all inside the file. Some of it may be known already.
    pub index: Vec<ByteRange>,
    /// A few bytes that would tell more; the first of them is in no piece. `None`: there is nothing more to learn.
    pub next: Option<ByteRange>,
    /// The playing time, if the container says; never zero.
    pub duration: Option<Duration>,
}

/// Looks at what is known of a file of `size_bytes`. Pieces may come in any order, touch and overlap; without any, the
/// answer is to look at the first bytes.
pub fn survey(size_bytes: u64, pieces: &[Piece<'_>]) -> Survey {
    let mut film = Film { size_bytes, pieces, reads: 0, index_bytes: 0, survey: Survey::default() };
    let looked = look(&mut film);
    film.note(looked);
    film.survey
}

fn look(film: &mut Film<'_>) -> Result<(), Stop> {
    let (start, _) = film.read_up_to::<12>(0)?;
    if matroska::is_one(&start) {
        matroska::look(film)
    } else if avi::is_one(&start) {
        avi::look(film)
    } else if mp4::is_one(&start) {
        mp4::look(film)
    } else {
        Ok(())
    }
}

/// Why a walk through a container went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// These bytes are not known yet.
    Unknown(ByteRange),
    /// It makes no sense from here on, or it is too much.
    Nonsense,
}

/// A film that is being looked at, and what was found out about it.
struct Film<'a> {
    size_bytes: u64,
    pieces: &'a [Piece<'a>],
    reads: usize,
    index_bytes: u64,
    survey: Survey,
}

impl Film<'_> {
    /// `N` bytes from `at` on.
    fn read<const N: usize>(&mut self, at: u64) -> Result<[u8; N], Stop> {
        match self.read_up_to(at)? {
            (bytes, len) if len == N => Ok(bytes),
            _ => Err(Stop::Nonsense),
        }
    }

    /// `N` bytes from `at` on, or fewer where the file ends, and how many. The rest are zeros.
    fn read_up_to<const N: usize>(&mut self, at: u64) -> Result<([u8; N], usize), Stop> {
        if self.reads == READS_MAX || at >= self.size_bytes {
            return Err(Stop::Nonsense);
        }
        self.reads += 1;
        let range = ByteRange::new(at, at.saturating_add(N as u64).min(self.size_bytes));
        let (mut bytes, len) = ([0; N], range.len() as usize);
        let mut filled = 0;
        while filled < len {
            let unknown = ByteRange::new(at + filled as u64, range.end);
            let known = self.known_from(unknown.start).ok_or(Stop::Unknown(unknown))?;
            let taken = known.len().min(len - filled);
            bytes[filled..filled + taken].copy_from_slice(&known[..taken]);
            filled += taken;
        }
        Ok((bytes, len))
    }

    /// What one piece holds from `at` on; never empty.
    fn known_from(&self, at: u64) -> Option<&[u8]> {
        self.pieces.iter().find_map(|piece| {
            let skipped = usize::try_from(at.checked_sub(piece.offset)?).ok()?;
            piece.bytes.get(skipped..).filter(|rest| !rest.is_empty())
        })
    }

    /// Adds to the index what of `range` is in the file and within the bounds.
    fn add_index(&mut self, range: ByteRange) {
        let end = range.start.saturating_add(INDEX_BYTES_MAX - self.index_bytes);
        let bounded = ByteRange::new(range.start, range.end.min(end).min(self.size_bytes));
        let index = &mut self.survey.index;
        if !bounded.is_empty() && index.len() < INDEX_RANGES_MAX && !index.contains(&bounded) {
            index.push(bounded);
            self.index_bytes += bounded.len();
        }
    }

    /// Takes the end of a walk in: the bytes that stopped the first one are asked for.
    fn note(&mut self, walked: Result<(), Stop>) {
        if let Err(Stop::Unknown(range)) = walked {
            self.survey.next.get_or_insert(range);
        }
    }

    /// The playing time, unless it is zero: that is how containers say that they don't know.
    fn set_duration(&mut self, duration: Duration) {
        if !duration.is_zero() {
            self.survey.duration = Some(duration);
        }
    }
}

#[cfg(test)]
mod tests;
