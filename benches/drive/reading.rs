//! Plain reads of a file, timed, and compared with what the file should hold outside of the time.
//! Never here: players, and which file it is.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use reelfs::demo::generate;

use crate::Result;

/// What a copying program asks for at once.
const SEQUENTIAL_BYTES: u64 = 1 << 20;
/// Of a seek: what a player looks at before it plays on.
pub const LOOK_BYTES: u64 = 64 << 10;
/// Places of a file that are compared after it was read.
const CHECKS: u64 = 16;
const CHECK_BYTES: u64 = 4096;

/// Opens a file and reads it from start to end in pieces of 1 MiB; the time of both.
pub fn sequential(path: &Path, size_bytes: u64) -> Result<Duration> {
    let begun = Instant::now();
    let file = File::open(path)?;
    let read = until(&file, (0, size_bytes), None)?;
    let time = begun.elapsed();
    if read != size_bytes {
        return Err(format!("{}: {read} bytes read of {size_bytes}", path.display()).into());
    }
    Ok(time)
}

/// Reads from one offset to another, or until a moment; how many bytes it were.
pub fn until(file: &File, (start, end): (u64, u64), moment: Option<Instant>) -> Result<u64> {
    let mut buffer = vec![0; SEQUENTIAL_BYTES as usize];
    let mut at = start;
    while at < end && moment.is_none_or(|moment| Instant::now() < moment) {
        let bytes = &mut buffer[..SEQUENTIAL_BYTES.min(end - at) as usize];
        file.read_exact_at(bytes, at)?;
        at += bytes.len() as u64;
    }
    Ok(at - start)
}

/// Reads 64 KiB at each offset of an open file; the time of each.
pub fn looks(file: &File, offsets: &[u64]) -> Result<Vec<Duration>> {
    let mut buffer = vec![0; LOOK_BYTES as usize];
    let mut times = Vec::with_capacity(offsets.len());
    for offset in offsets {
        let begun = Instant::now();
        file.read_exact_at(&mut buffer, *offset)?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

/// Offsets for looks: random, no two of them in the same 64 KiB, each at a multiple of `grain`. The same for the same
/// seed; fewer if the file has no room for more.
pub fn random_offsets(seed: u64, count: usize, (start, end): (u64, u64), grain: u64) -> Vec<u64> {
    let mut dice = fastrand::Rng::with_seed(seed);
    // With a block between any two, so that not even rounding makes them meet.
    let places = ((end - start) / LOOK_BYTES).saturating_sub(1) / 2;
    let count = count.min((places / 2) as usize);
    let mut taken = HashSet::new();
    let mut offsets = Vec::with_capacity(count);
    while offsets.len() < count {
        let place = dice.u64(..places);
        if taken.insert(place) {
            let offset = start + place * 2 * LOOK_BYTES + dice.u64(..LOOK_BYTES);
            offsets.push(offset - offset % grain);
        }
    }
    offsets
}

/// Looks at a few places whether a file holds what was generated: a fast drive of wrong bytes is worth nothing.
pub fn check(path: &Path, seed: u64, size_bytes: u64) -> Result<()> {
    let file = File::open(path)?;
    let (mut read, mut expected) = ([0; CHECK_BYTES as usize], [0; CHECK_BYTES as usize]);
    for number in 0..CHECKS {
        let offset = (size_bytes - CHECK_BYTES) / CHECKS * number;
        file.read_exact_at(&mut read, offset)?;
        generate(seed, offset, &mut expected);
        if read != expected {
            return Err(format!("{}: wrong bytes at {offset}", path.display()).into());
        }
    }
    Ok(())
}
