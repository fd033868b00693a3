//! A library scan: film after film is looked at by `ffprobe`, which must not cost much more than what it reads.
//! Never here: one film that somebody opens (`contact`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use reelfs::demo::{Content, Server, ServerConfig};

use super::mount::Mount;
use super::needs::{FUSE, Need, Test};

/// Some of each kind. A thousand cost the same for each: `REELFS_SCAN_FILMS=1000`, which takes minutes.
const FILMS: usize = 80;
/// The first few may be a person's, who looks for one.
const LOOKS: usize = 4;
/// The server sends at most so much of what ffprobe reads.
const COST_PERCENT_MAX: u64 = 150;
/// No answer is longer: a look at a block, and a step of what was read before it; no chunk of lookahead.
const ASKED_MAX: u64 = 1 << 20;

pub fn tests() -> Vec<Test> {
    let needs = &[FUSE, Need::Program("ffmpeg"), Need::Program("ffprobe"), Need::MappedDirect];
    vec![Test::new("scan::costs_little_more_than_what_is_read", needs, costs_little_more_than_what_is_read)]
}

/// Twenty seconds of 3 Mbit/s each, in the containers people have.
const KINDS: [(&str, &[&str]); 4] = [
    ("first.mp4", &["-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac", "-movflags", "+faststart"]),
    ("last.mp4", &["-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac"]),
    ("film.mkv", &["-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac"]),
    ("film.avi", &["-c:v", "mpeg4", "-c:a", "mp3"]),
];

/// The films, made once for all runs.
fn films() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("films-scan-1");
    fs::create_dir_all(&folder).unwrap();
    let make = |(name, how): (&str, &[&str])| {
        let film = folder.join(name);
        if !film.exists() {
            let part = folder.join(format!("part-{}-{name}", std::process::id()));
            let made = Command::new("ffmpeg")
                .args(["-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=25:duration=20"])
                .args(["-f", "lavfi", "-i", "sine=frequency=440:beep_factor=4:sample_rate=48000:duration=20"])
                .args(["-g", "50", "-b:v", "3M"])
                .args(how)
                .arg(&part)
                .output()
                .unwrap();
            assert!(made.status.success(), "{name}: {}", String::from_utf8_lossy(&made.stderr));
            fs::rename(part, &film).unwrap();
        }
        film
    };
    KINDS.into_iter().map(make).collect()
}

/// Has a film looked at; returns how many bytes were read of it, as ffprobe itself counts them.
fn probe(film: &Path) -> u64 {
    let output = Command::new("ffprobe").args(["-v", "debug"]).arg(film).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", film.display());
    let counts = said.lines().filter_map(|line| line.split_once("Statistics: ")?.1.split_once(" bytes read"));
    let read = counts.map(|(bytes, _)| bytes.parse::<u64>().unwrap()).sum();
    assert!(read > 0, "{said}");
    read
}

fn costs_little_more_than_what_is_read() {
    let count = std::env::var("REELFS_SCAN_FILMS").map_or(FILMS, |count| count.parse().unwrap());
    let kinds = films();
    let name = |number: usize| format!("{number:04} {}", KINDS[number % KINDS.len()].0);
    let file = |number: usize| (name(number), Content::Disk(kinds[number % kinds.len()].clone()));
    let files = (0..count + LOOKS).map(file).collect();
    let server = Server::start(ServerConfig { files, ..ServerConfig::default() }).unwrap();
    let mount = Mount::new(&server.url(), &[]);
    for number in 0..LOOKS {
        probe(&mount.file(&name(number)));
    }
    let before = server.total().body_bytes;
    let asked_before = server.ranges().len();

    let read: u64 = thread::scope(|scope| {
        let probing = |half: usize| {
            let (mount, name) = (&mount, &name);
            move || {
                (LOOKS..count + LOOKS)
                    .skip(half)
                    .step_by(2)
                    .map(|number| probe(&mount.file(&name(number))))
                    .sum::<u64>()
            }
        };
        [0, 1].map(|half| scope.spawn(probing(half))).map(|probing| probing.join().unwrap()).iter().sum()
    });
    let sent = server.total().body_bytes - before;
    let asked = &server.ranges()[asked_before..];
    let of_each = |kind: &str| {
        let own = asked.iter().filter(|asked| asked.path.ends_with(kind));
        own.map(|asked| asked.range.len()).sum::<u64>() / (count / KINDS.len()) as u64
    };
    let cost_percent = sent * 100 / read;
    println!(
        "{count} films looked at: {read} bytes read, {sent} sent, {cost_percent} % of that, in {} requests; for each {:?}",
        asked.len(),
        KINDS.map(|(kind, _)| (kind, of_each(kind))),
    );
    assert!(cost_percent <= COST_PERCENT_MAX);
    let longest = asked.iter().map(|asked| asked.range.len()).max().unwrap();
    assert!(longest <= ASKED_MAX, "{longest} bytes in one answer");
}
