//! The container's index in real films, made by ffmpeg: a survey finds it where it truly is, in a few steps, and says
//! how long the film is.
//! Never here: the drive. The parser's own tests make their films by hand.

use std::fs;
use std::path::Path;
use std::process::Command;

use reelfs::range::ByteRange;
use reelfs::read::container::{Piece, Survey, survey};

use super::needs::{Need, Test};

const NEEDS: &[Need] = &[Need::Program("ffmpeg"), Need::Program("ffprobe")];

pub fn tests() -> Vec<Test> {
    vec![Test::new("containers::a_survey_finds_the_index", NEEDS, a_survey_finds_the_index)]
}

/// A muxer's options, the name of what it makes, and what its index begins with.
struct Kind {
    name: &'static str,
    codecs: &'static [&'static str],
    options: &'static [&'static str],
    index: &'static [&'static [u8]],
}

const MPEG4: &[&str] = &["-c:v", "mpeg4", "-c:a", "aac"];
const CUES: &[u8] = b"\x1C\x53\xBB\x6B";

const KINDS: [Kind; 8] = [
    Kind { name: "last.mp4", codecs: MPEG4, options: &[], index: &[b"moov"] },
    Kind { name: "first.mp4", codecs: MPEG4, options: &["-movflags", "+faststart"], index: &[b"moov"] },
    Kind {
        name: "fragments.mp4",
        codecs: MPEG4,
        options: &["-movflags", "+frag_keyframe+empty_moov"],
        index: &[b"moov", b"mfra"],
    },
    Kind { name: "sidx.mp4", codecs: MPEG4, options: &["-movflags", "+dash+global_sidx"], index: &[b"moov", b"sidx"] },
    Kind { name: "film.mov", codecs: MPEG4, options: &[], index: &[b"moov"] },
    Kind { name: "film.mkv", codecs: MPEG4, options: &[], index: &[CUES] },
    Kind {
        name: "film.webm",
        codecs: &["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-c:a", "libopus"],
        options: &["-reserve_index_space", "4096"],
        index: &[CUES],
    },
    Kind { name: "film.avi", codecs: &["-c:v", "mpeg4", "-c:a", "mp2"], options: &[], index: &[b"idx1"] },
];

/// Fetched at once, as the drive does.
const BLOCK: usize = 64 << 10;
/// More would be felt when a film opens.
const STEPS_MAX: usize = 3;

fn a_survey_finds_the_index() {
    let folder = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let path = folder.path().join(kind.name);
        let made = Command::new("ffmpeg")
            .args(["-v", "error", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25:duration=10"])
            .args(["-f", "lavfi", "-i", "sine=sample_rate=48000:duration=10", "-b:v", "400k"])
            .args(kind.codecs)
            .args(kind.options)
            .arg(&path)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}: {}", kind.name, String::from_utf8_lossy(&made.stderr));
        let film = fs::read(&path).unwrap();
        assert!(film.len() > 3 * BLOCK, "{} is too small to hide anything: {} bytes", kind.name, film.len());

        let found = surveyed(kind.name, &film);
        let places: Vec<_> = kind.index.iter().flat_map(|name| true_places(&film, name)).collect();
        assert_eq!(found.index[..places.len()], places, "{}", kind.name);
        match found.duration {
            Some(duration) => {
                let expected = probed_seconds(&path);
                let difference = (duration.as_secs_f64() - expected).abs();
                assert!(difference < expected * 0.02, "{}: {duration:?}, not {expected} s", kind.name);
            }
            // Written before anybody knew how long the film would be.
            None => assert!(kind.name == "fragments.mp4" || kind.name == "sidx.mp4", "{}: how long?", kind.name),
        }
    }
}

/// Begins with the head and the tail, and fetches the blocks that it is told to.
fn surveyed(name: &str, film: &[u8]) -> Survey {
    let last = (film.len() - 1) / BLOCK * BLOCK;
    let mut pieces =
        vec![Piece { offset: 0, bytes: &film[..BLOCK] }, Piece { offset: last as u64, bytes: &film[last..] }];
    for _ in 0..=STEPS_MAX {
        let found = survey(film.len() as u64, &pieces);
        let Some(next) = found.next else { return found };
        let blocks = next.align(BLOCK as u64, film.len() as u64);
        pieces.push(Piece { offset: blocks.start, bytes: &film[blocks.start as usize..blocks.end as usize] });
    }
    panic!("{name}: there is still more to learn");
}

/// Where parts of the index are, found by their name alone, and measured by hand.
fn true_places(film: &[u8], name: &[u8]) -> Vec<ByteRange> {
    let number = |field: &[u8]| field.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let places = film.windows(name.len()).enumerate().filter(|(_, window)| *window == name).map(|(at, _)| at);
    let ranges = places.filter_map(|at| {
        let whole = if name == CUES {
            // The size's own length is in the zeros before its first bit. The seek head has the id, too, but neither a
            // cue point nor a checksum behind it.
            let size = film.get(at + 4..)?;
            let len = size[0].leading_zeros() as usize + 1;
            let bytes = number(&size[..len]) & !(1 << (7 * len));
            [0xBB, 0xBF].contains(&size[len]).then(|| ByteRange::at(at as u64, 4 + len as u64 + bytes))?
        } else if name == b"idx1" {
            ByteRange::at(at as u64, 8 + u64::from(u32::from_le_bytes(film[at + 4..at + 8].try_into().unwrap())))
        } else {
            ByteRange::at(at as u64 - 4, number(&film[at - 4..at]))
        };
        (whole.end <= film.len() as u64).then_some(whole)
    });
    let ranges: Vec<_> = ranges.collect();
    assert!(!ranges.is_empty(), "no {}", name.escape_ascii());
    ranges
}

fn probed_seconds(film: &Path) -> f64 {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0"])
        .arg(film)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}
