//! A library scan: film after film is looked at by `ffprobe`, which must not cost much more than what it reads.
//! Never here: one film that somebody opens (`contact`).

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use reelfs::demo::{Content, Server, ServerConfig};

use super::compare::made;
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
    vec![
        Test::new("scan::costs_little_more_than_what_is_read", needs, costs_little_more_than_what_is_read),
        Test::new("scan::does_not_go_by_names", needs, does_not_go_by_names),
    ]
}

/// How `ffmpeg` makes a film.
type Kind = (&'static str, &'static [&'static str]);

const H264: [&str; 6] = ["-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac"];

/// Twenty seconds of 3 Mbit/s each, in the containers people have.
const KINDS: [Kind; 4] = [
    ("first.mp4", &["-movflags", "+faststart"]),
    ("last.mp4", &[]),
    ("film.mkv", &[]),
    ("film.avi", &["-c:v", "mpeg4", "-c:a", "mp3"]),
];

/// The same in containers whose index nobody looks for, and in pieces of which each has a header.
const OTHER_KINDS: [Kind; 11] = [
    ("film.ts", &[]),
    ("film.m2ts", &[]),
    ("film.mpg", &["-c:v", "mpeg2video", "-c:a", "mp2"]),
    ("film.vob", &["-c:v", "mpeg2video", "-c:a", "ac3"]),
    ("film.mxf", &["-c:v", "mpeg2video", "-c:a", "pcm_s16le"]),
    ("film.wmv", &["-c:v", "wmv2", "-c:a", "wmav2"]),
    ("film.flv", &[]),
    ("film.ogv", &["-c:v", "libtheora", "-c:a", "libvorbis"]),
    ("pieces.mp4", &["-movflags", "frag_keyframe+empty_moov+default_base_moof"]),
    ("short-pieces.mp4", &["-movflags", "empty_moov+default_base_moof", "-frag_duration", "200000"]),
    ("dash.mp4", &["-movflags", "dash+global_sidx"]),
];

/// The films, made once for all runs.
fn films(kinds: &[Kind]) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("films-scan-1");
    fs::create_dir_all(&folder).unwrap();
    let make = |(name, how): &Kind| {
        let film = folder.join(name);
        if !film.exists() {
            let part = folder.join(format!("part-{}-{name}", std::process::id()));
            let made = Command::new("ffmpeg")
                .args(["-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=25:duration=20"])
                .args(["-f", "lavfi", "-i", "sine=frequency=440:beep_factor=4:sample_rate=48000:duration=20"])
                .args(["-g", "50", "-b:v", "3M"])
                .args(H264)
                .args(*how)
                .arg(&part)
                .output()
                .unwrap();
            assert!(made.status.success(), "{name}: {}", String::from_utf8_lossy(&made.stderr));
            fs::rename(part, &film).unwrap();
        }
        film
    };
    kinds.iter().map(make).collect()
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
    let kinds = films(&KINDS);
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

/// Each film has its own container, and a name that tells none. What is asked of the server is counted by film.
fn does_not_go_by_names() {
    let kinds = films(&OTHER_KINDS);
    let name = |number: usize| format!("film {number:02}");
    let looked_at = made(1, 64 << 20);
    let looks = (0..LOOKS).map(|number| (format!("look {number}"), looked_at.clone()));
    let films = kinds.iter().enumerate().map(|(number, film)| (name(number), Content::Disk(film.clone())));
    let server =
        Server::start(ServerConfig { files: looks.chain(films).collect(), ..ServerConfig::default() }).unwrap();
    let mount = Mount::new(&server.url(), &[]);
    for number in 0..LOOKS {
        let mut bytes = [0; 4096];
        fs::File::open(mount.file(&format!("look {number}"))).unwrap().read_exact(&mut bytes).unwrap();
    }
    for (number, (kind, _)) in OTHER_KINDS.iter().enumerate() {
        let before = server.total().body_bytes;
        let read = probe(&mount.file(&name(number)));
        let sent = server.total().body_bytes - before;
        let cost_percent = sent * 100 / read;
        println!("{kind}: {read} bytes read, {sent} sent, {cost_percent} % of that");
        assert!(cost_percent <= COST_PERCENT_MAX, "{kind}: {sent} bytes sent for {read}");
    }
}
