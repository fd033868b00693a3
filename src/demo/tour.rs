//! A short visit to a mounted film, as a player would make it, with every byte compared and every wait shown.
//! Never here: mounting, and knowledge of how the drive works: all goes through the kernel, by plain file calls.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::counted::Counted;
use crate::config::format_size;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Kind, Result};
use crate::metrics::Metrics;
use crate::range::ByteRange;
use crate::sys;

/// Read at each place a player looks at before it plays.
const LOOK_BYTES: u64 = 64 << 10;

/// The first read of each step: when it returns, the first bytes are there.
const FIRST_READ_BYTES: u64 = 4 << 10;

/// Later reads, as large as players make them.
const READ_BYTES: u64 = 256 << 10;

/// What the numbers mean, said below them.
const NOTE: &str = "\
Times: opening and reading only. From cache, waited for: what the drive was asked, the kernel's readahead included;
what the kernel answers from its own pages is in neither (each step first asks it to forget the film).
From origin: all that arrived meanwhile, what was fetched ahead included.";

/// What a step took.
struct Step {
    range: ByteRange,
    /// From before the open until the first read returned.
    first_byte: Duration,
    /// Opening and all reads; not the comparing between them.
    whole: Duration,
    digest: Digest,
    counted: Counted,
}

/// Reads `folder/name` through the mount whose counters are `metrics`: its head, its middle, its end (where `moov` is),
/// all of it, and all of it again; compares everything with `expected` and writes a table to `out`.
///
/// `Corrupt` when a byte or the size differs, else the kind of the I/O error that ended a read.
pub fn tour(folder: &Path, name: &str, expected: &[u8], metrics: &Metrics, out: &mut dyn Write) -> Result<()> {
    let path = folder.join(name);
    let say = |error| Error::io("writing the tour's table", &error);
    let size = expected.len() as u64;
    let size_seen = path.metadata().map_err(|error| Error::io(path.display(), &error))?.len();
    if size_seen != size {
        let message = format!("{}: {size_seen} bytes, but the film has {size}", path.display());
        return Err(Error::new(Kind::Corrupt, message));
    }
    writeln!(out, "{}, {}", path.display(), format_size(size)).map_err(say)?;
    writeln!(
        out,
        "{:<18}{:>11}{:>12}{:>11}{:>13}{:>12}{:>12}{:>13}",
        "", "read", "first byte", "all", "speed", "from cache", "waited for", "from origin"
    )
    .map_err(say)?;
    for (title, range) in [
        ("open, read head", ByteRange::at(0, LOOK_BYTES)),
        ("seek to middle", ByteRange::at(size / 2, LOOK_BYTES)),
        ("seek to the end", ByteRange::new(size.saturating_sub(LOOK_BYTES), size)),
        ("read all of it", ByteRange::new(0, size)),
        ("read it all again", ByteRange::new(0, size)),
    ] {
        let step = visit(&path, range.intersect(ByteRange::new(0, size)), expected, metrics)?;
        writeln!(out, "{}", row(title, &step)).map_err(say)?;
        if step.range.len() == size {
            check_digest(&path, step.digest, Digest::of(expected))?;
        }
    }
    writeln!(out, "{NOTE}").map_err(say)?;
    writeln!(out, "Every byte is right: SHA-256 {}", Digest::of(expected)).map_err(say)
}

/// Opens the film, reads `range` of it and compares as it goes.
fn visit(path: &Path, range: ByteRange, expected: &[u8], metrics: &Metrics) -> Result<Step> {
    let failed = |error| Error::io(path.display(), &error);
    let before = Counted::now(metrics);
    let started = Instant::now();
    let file = File::open(path).map_err(failed)?;
    sys::drop_page_cache(&file).map_err(failed)?;
    let mut whole = started.elapsed();

    let mut first_byte = None;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; READ_BYTES as usize];
    let first = ByteRange::at(range.start, FIRST_READ_BYTES).intersect(range);
    for piece in std::iter::once(first).chain(ByteRange::new(first.end, range.end).slots(READ_BYTES)) {
        let bytes = &mut buffer[..piece.len() as usize];
        let asked = Instant::now();
        file.read_exact_at(bytes, piece.start).map_err(failed)?;
        whole += asked.elapsed();
        first_byte.get_or_insert(whole);
        hasher.update(bytes);
        check_bytes(path, piece.start, bytes, &expected[piece.start as usize..piece.end as usize])?;
    }
    let counted = Counted::now(metrics).since(before);
    Ok(Step { range, first_byte: first_byte.unwrap_or(whole), whole, digest: hasher.finish(), counted })
}

fn check_bytes(path: &Path, start: u64, seen: &[u8], expected: &[u8]) -> Result<()> {
    if seen == expected {
        return Ok(());
    }
    let at = seen.iter().zip(expected).take_while(|(seen, expected)| seen == expected).count() as u64;
    Err(Error::new(Kind::Corrupt, format!("{}: the byte at {} is wrong", path.display(), start + at)))
}

fn check_digest(path: &Path, seen: Digest, expected: Digest) -> Result<()> {
    if seen == expected {
        return Ok(());
    }
    Err(Error::new(Kind::Corrupt, format!("{}: SHA-256 is {seen}, but the film's is {expected}", path.display())))
}

fn row(title: &str, step: &Step) -> String {
    let Step { range, first_byte, whole, counted, .. } = step;
    let size = format_size;
    format!(
        "{title:<18}{:>11}{:>12}{:>11}{:>13}{:>12}{:>12}{:>13}",
        size(range.len()),
        format_ms(*first_byte),
        format_ms(*whole),
        format_speed(range.len(), *whole),
        size(counted.cached_bytes),
        size(counted.waited_bytes),
        size(counted.origin_bytes),
    )
}

fn format_ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn format_speed(bytes: u64, time: Duration) -> String {
    #[allow(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let megabytes = bytes as f64 / 1e6;
    format!("{:.1} MB/s", megabytes / time.as_secs_f64().max(1e-9))
}

#[cfg(test)]
mod tests {
    use super::super::{FILM, FILM_NAME};
    use super::*;

    /// Tours a plain folder that holds `bytes` under the film's name.
    fn tour_of(bytes: &[u8]) -> (Result<()>, String) {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(FILM_NAME), bytes).expect("room for the film");
        let mut out = Vec::new();
        let done = tour(folder.path(), FILM_NAME, FILM, &Metrics::default(), &mut out);
        (done, String::from_utf8(out).expect("UTF-8"))
    }

    #[test]
    fn the_film_passes() {
        let (done, table) = tour_of(FILM);
        assert!(done.is_ok(), "{done:?}");
        assert!(table.contains("read it all again") && table.ends_with(&format!("{}\n", Digest::of(FILM))), "{table}");
    }

    #[test]
    fn one_wrong_byte_is_named() {
        let mut film = FILM.to_vec();
        film[1_000_001] ^= 1;
        let error = tour_of(&film).0.expect_err("a byte is wrong");
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.to_string().ends_with("the byte at 1000001 is wrong"), "{error}");
    }

    #[test]
    fn another_size_and_no_film_at_all_are_errors() {
        assert_eq!(tour_of(&FILM[1..]).0.map_err(|error| error.kind()), Err(Kind::Corrupt));
        let missing = tour(Path::new("/nowhere"), FILM_NAME, FILM, &Metrics::default(), &mut Vec::new());
        assert_eq!(missing.map_err(|error| error.kind()), Err(Kind::Missing));
    }

    #[test]
    fn the_film_has_its_index_at_the_end() {
        let at = |name: &[u8]| FILM.windows(4).position(|window| window == name);
        assert!(at(b"ftyp") < at(b"mdat") && at(b"mdat") < FILM.windows(4).rposition(|window| window == b"moov"));
    }
}
