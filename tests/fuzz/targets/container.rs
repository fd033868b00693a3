//! Any bytes as a film, any size, fetched in any blocks: the container parser never panics, names no byte outside the
//! file, and is content after a bounded number of steps, each of which asks for something new.
//! Never here: whether what it finds is true. That is for the parser's tests, and for real films in `tests/drive`.
//!
//! Run it from the top of the repository, with cargo-fuzz and a nightly toolchain:
//!
//! ```text
//! mkdir -p target/corpus
//! cargo +nightly fuzz run -s none --fuzz-dir tests/fuzz --target-dir target/fuzz container \
//!     target/corpus tests/fuzz/seeds/container -- -max_total_time=3600 -max_len=262144
//! ```
//!
//! There is no unsafe code for a sanitizer to watch. The first folder is where the fuzzer keeps what it learns, the
//! second is only read. An input is 16 bytes of how to read it (`Input`), and a film without its middle.
//! `tests/fuzz/seeds/make` makes seeds from real films.
#![no_main]

// The parser needs nothing else of the drive. So neither does this, and it is built in seconds.
#[path = "../../../src/read/container/mod.rs"]
mod container;
#[allow(dead_code)]
#[path = "../../../src/range.rs"]
mod range;

use std::time::Duration;

use container::{INDEX_BYTES_MAX, INDEX_RANGES_MAX, Piece, READS_MAX, Survey, survey};
use libfuzzer_sys::fuzz_target;
use range::ByteRange;

/// Longest question: it bounds what a step may cost.
const NEXT_BYTES_MAX: u64 = 32;

fuzz_target!(|bytes: &[u8]| {
    if let Some(input) = Input::read(bytes) {
        feed(&input);
    }
});

/// A film whose middle was cut out, so that a small input can be a large file.
struct Input<'a> {
    front: &'a [u8],
    back: &'a [u8],
    // Where the back begins; between them are zeros.
    back_at: u64,
    size_bytes: u64,
    // How much of both is known at first, and how much comes with each step.
    head: usize,
    tail: usize,
    block: u64,
}

impl<'a> Input<'a> {
    /// Little-endian: the length of the gap (8 bytes), the front's length (4), and, in multiples of 64 bytes, head,
    /// tail and block (1 each; a block of 0 gives exactly what was asked for). One byte is left over.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (how, film) = bytes.split_first_chunk::<16>()?;
        let gap = u64::from_le_bytes(how[..8].try_into().ok()?);
        let front_len = u32::from_le_bytes(how[8..12].try_into().ok()?) as usize;
        let (front, back) = film.split_at(front_len.min(film.len()));
        let back_at = (front.len() as u64).saturating_add(gap);
        // No file ends behind the last number.
        let back = &back[..back.len().min((u64::MAX - back_at) as usize)];
        Some(Self {
            front,
            back,
            back_at,
            size_bytes: back_at + back.len() as u64,
            head: usize::from(how[12]) * 64,
            tail: usize::from(how[13]) * 64,
            block: u64::from(how[14]) * 64,
        })
    }

    /// What is fetched when these bytes are asked for.
    fn blocks(&self, next: ByteRange) -> ByteRange {
        if self.block == 0 {
            return next;
        }
        let end = next.end.checked_next_multiple_of(self.block).unwrap_or(u64::MAX);
        ByteRange::new(next.start - next.start % self.block, end.min(self.size_bytes))
    }

    fn bytes(&self, range: ByteRange) -> Vec<u8> {
        let mut bytes = vec![0; range.len() as usize];
        for (at, part) in [(0, self.front), (self.back_at, self.back)] {
            let shared = ByteRange::at(at, part.len() as u64).intersect(range);
            if !shared.is_empty() {
                let from = &part[(shared.start - at) as usize..(shared.end - at) as usize];
                bytes[(shared.start - range.start) as usize..(shared.end - range.start) as usize].copy_from_slice(from);
            }
        }
        bytes
    }
}

/// Fetches what it is asked for until there is nothing more to learn.
fn feed(input: &Input<'_>) {
    let head = input.head.min(input.front.len());
    let tail = input.back.len().saturating_sub(input.tail);
    let mut known = vec![(0, input.front[..head].to_vec()), (input.back_at + tail as u64, input.back[tail..].to_vec())];
    for _ in 0..=READS_MAX {
        let pieces: Vec<_> = known.iter().map(|(offset, bytes)| Piece { offset: *offset, bytes }).collect();
        let found = survey(input.size_bytes, &pieces);
        check(&found, input.size_bytes, &pieces);
        let Some(next) = found.next else { return };
        let fetched = input.blocks(next);
        let bytes = input.bytes(fetched);
        // One long piece is sooner looked through than hundreds of short ones.
        match known.iter_mut().find(|(offset, bytes)| offset.checked_add(bytes.len() as u64) == Some(fetched.start)) {
            Some((_, before)) => before.extend_from_slice(&bytes),
            None => known.push((fetched.start, bytes)),
        }
    }
    panic!("there is always more to learn");
}

fn check(found: &Survey, size_bytes: u64, pieces: &[Piece<'_>]) {
    let file = ByteRange::new(0, size_bytes);
    assert!(found.index.iter().all(|range| !range.is_empty() && file.contains(*range)), "{found:?} of {size_bytes}");
    assert!(found.index.len() <= INDEX_RANGES_MAX);
    assert!(found.index.iter().map(|range| range.len()).sum::<u64>() <= INDEX_BYTES_MAX);
    assert_ne!(found.duration, Some(Duration::ZERO));
    if let Some(next) = found.next {
        assert!(!next.is_empty() && file.contains(next) && next.len() <= NEXT_BYTES_MAX, "{found:?} of {size_bytes}");
        let is_known =
            |piece: &Piece<'_>| piece.offset <= next.start && next.start - piece.offset < piece.bytes.len() as u64;
        assert!(!pieces.iter().any(is_known), "known already: {found:?}");
    }
}
