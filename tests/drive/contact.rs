//! The first contact with a far file, counted in what the server is asked: that is what a person waits for.
//! Never here: time (see the benches).

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use reelfs::demo::{Act, Link, RequestInfo, Server, ServerConfig};
use reelfs::range::ByteRange;
use reelfs::read::container::{Piece, survey};

use super::compare::{check, check_whole, made, wait_until};
use super::mount::{Mount, Place};
use super::needs::{FUSE, Need, Test};

const BLOCK: u64 = 64 << 10;
/// What the kernel's readahead asks for.
const HEAD: u64 = 2 * BLOCK;
/// A film's, that is not one of many.
const OPENING: u64 = 14 * BLOCK;
const SIZE: u64 = (24 << 20) + 5_000;
const QUIET: &[&str] = &["--fill", "never", "--lookahead-chunks", "0"];

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("contact::one_question_opens_and_reads", &[FUSE], one_question_opens_and_reads),
        Test::new("contact::a_film_comes_with_its_end", &[FUSE], a_film_comes_with_its_end),
        Test::new(
            "contact::a_film_comes_with_its_index",
            &[FUSE, Need::Program("ffmpeg")],
            a_film_comes_with_its_index,
        ),
        Test::new("contact::a_scan_pays_for_its_looks", &[FUSE], a_scan_pays_for_its_looks),
        Test::new("contact::what_was_cached_is_not_asked_for_again", &[FUSE], what_was_cached_is_not_asked_for_again),
        Test::new("contact::odd_files_open_too", &[FUSE], odd_files_open_too),
        Test::new("contact::many_at_once_ask_once", &[FUSE], many_at_once_ask_once),
        Test::new("contact::an_end_that_hangs_is_asked_for_anew", &[FUSE], an_end_that_hangs_is_asked_for_anew),
        Test::new("contact::connections_are_there_before_the_first_read", &[FUSE], connections_are_there),
    ]
}

fn read(file: &File, seed: u64, offset: u64, len: u64) {
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, offset).unwrap();
    check(seed, offset, &bytes);
}

/// The page cache reads ahead; past it each read is one of ours.
fn open(mount: &Mount, name: &str) -> File {
    super::mount::open_direct(&mount.file(name)).unwrap()
}

fn one_question_opens_and_reads() {
    let server = Server::start(ServerConfig::default().file("film.bin", made(7, SIZE))).unwrap();
    let mount = Mount::new(&server.url(), QUIET);
    let file = open(&mount, "film.bin");
    read(&file, 7, 0, BLOCK);
    let counts = server.counts("film.bin");
    assert_eq!((counts.requests, counts.heads, counts.body_bytes), (1, 0, HEAD));
    read(&file, 7, 5 * BLOCK, BLOCK);
    assert_eq!(server.counts("film.bin").requests, 2);
    check_whole(&file, (7, SIZE), 1 << 20).unwrap();
}

fn a_film_comes_with_its_end() {
    let server = Server::start(ServerConfig::default().file("film.mkv", made(7, SIZE))).unwrap();
    let mount = Mount::new(&server.url(), QUIET);
    let file = open(&mount, "film.mkv");
    wait_until("both ends", || server.counts("film.mkv").body_bytes >= OPENING + 5_000);
    let before = server.counts("film.mkv");
    assert_eq!((before.requests, before.heads), (2, 0));
    assert!(before.body_bytes <= OPENING + 2 * BLOCK, "{}", before.body_bytes);
    // Not so much that it is a run, of which more would be fetched.
    read(&file, 7, 0, BLOCK);
    read(&file, 7, OPENING - BLOCK, BLOCK);
    read(&file, 7, SIZE - 5_000, 5_000);
    assert_eq!(server.counts("film.mkv"), before);
    check_whole(&file, (7, SIZE), 1 << 20).unwrap();
}

/// An index larger than what lies at the very end is fetched before anybody reads it.
fn a_film_comes_with_its_index() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.mp4");
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", "testsrc2=size=64x64:rate=100:duration=600", "-c:v", "mpeg4"])
        .args(["-g", "1", "-b:v", "200k"])
        .arg(&path)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let original = fs::read(&path).unwrap();
    let index = survey(original.len() as u64, &[Piece { offset: 0, bytes: &original }]).index[0];
    assert!(index.len() > 3 * BLOCK, "the index is small: {index}");
    let link = Link { round_trip: Duration::from_millis(30), ..Link::default() };
    let server =
        Server::start(ServerConfig { link, ..ServerConfig::default() }.file("film.mp4", original.clone())).unwrap();
    let mount = Mount::new(&server.url(), QUIET);
    let file = open(&mount, "film.mp4");
    wait_until("the index", || server.counts("film.mp4").body_bytes >= index.len() + OPENING);
    thread::sleep(Duration::from_millis(100));
    let before = server.counts("film.mp4");
    let mut bytes = vec![0; index.len() as usize];
    file.read_exact_at(&mut bytes, index.start).unwrap();
    assert!(bytes == original[index.start as usize..index.end as usize]);
    assert_eq!(server.counts("film.mp4"), before, "fetched already");
    let blocks = ByteRange::new(index.start, index.end).align(BLOCK, original.len() as u64).len();
    assert!(before.body_bytes <= blocks + OPENING + 2 * BLOCK, "{} bytes for {blocks}", before.body_bytes);
}

/// Whoever opens film after film is no viewer: what a viewer would need next is not fetched for each.
fn a_scan_pays_for_its_looks() {
    const FILMS: u64 = 40;
    let files = (0..FILMS).map(|number| (format!("{number}.mkv"), made(number, SIZE))).collect();
    let server = Server::start(ServerConfig { files, ..ServerConfig::default() }).unwrap();
    let mount = Mount::new(&server.url(), &[]);
    for number in 0..FILMS {
        // Through the page cache, as a scanner does.
        read(&File::open(mount.file(&format!("{number}.mkv"))).unwrap(), number, 0, 4_096);
    }
    thread::sleep(Duration::from_millis(500));
    let (bytes, looks) = (server.total().body_bytes, FILMS * (HEAD + 2 * BLOCK));
    assert!(bytes <= looks + 3 * OPENING + BLOCK, "{bytes} bytes for {looks}");
}

fn what_was_cached_is_not_asked_for_again() {
    let server = Server::start(ServerConfig::default().file("film.mkv", made(7, SIZE))).unwrap();
    let place = Place::new();
    let mount = Mount::on(&place, &server.url(), QUIET);
    check_whole(&open(&mount, "film.mkv"), (7, SIZE), 1 << 20).unwrap();
    mount.end();
    server.reset_counts();
    let mount = Mount::on(&place, &server.url(), QUIET);
    check_whole(&open(&mount, "film.mkv"), (7, SIZE), 1 << 20).unwrap();
    let counts = server.counts("film.mkv");
    assert_eq!((counts.requests, counts.heads, counts.body_bytes), (1, 1, 0));
}

/// Empty, tiny, a block, a block and a byte: with and without ends that meet.
fn odd_files_open_too() {
    let sizes = [0, 1, 1_000, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 1, (2 << 20) + 1, (2 << 20) + BLOCK];
    for has_etags in [true, false] {
        let files = sizes.iter().map(|size| (format!("{size}.mp4"), made(*size, *size))).collect();
        let server = Server::start(ServerConfig { has_etags, files, ..ServerConfig::default() }).unwrap();
        let mount = Mount::new(&server.url(), &[]);
        for size in sizes {
            let path = mount.file(&format!("{size}.mp4"));
            let read = fs::read(&path).unwrap();
            assert_eq!(read.len() as u64, size);
            check(size, 0, &read);
            check_whole(&File::open(&path).unwrap(), (size, size), 4_096).unwrap();
        }
    }
}

fn many_at_once_ask_once() {
    let link = Link { round_trip: Duration::from_millis(50), ..Link::default() };
    let server =
        Server::start(ServerConfig { link, ..ServerConfig::default() }.file("film.mkv", made(7, SIZE))).unwrap();
    let mount = Mount::new(&server.url(), QUIET);
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| read(&open(&mount, "film.mkv"), 7, 0, BLOCK));
        }
    });
    let counts = server.counts("film.mkv");
    assert_eq!((counts.requests, counts.heads), (2, 0), "one for its head, one for its end");
}

/// Whoever wants the end waits for the one on its way; but if that does not come, not until the read's own end.
fn an_end_that_hangs_is_asked_for_anew() {
    for act in [Act::Hang, Act::StallAfter(0), Act::StallAfter(1_000), Act::Status(503, None)] {
        let server = Server::start(ServerConfig::default().file("film.mkv", made(7, SIZE))).unwrap();
        let met = Arc::new(AtomicU64::new(0));
        let ends = Arc::clone(&met);
        server.set_weather(move |request: &RequestInfo| {
            let is_end = request.range.is_some_and(|range| range.end == SIZE);
            if is_end && ends.fetch_add(1, Ordering::Relaxed) == 0 { act } else { Act::Serve }
        });
        let mount = Mount::new(&server.url(), QUIET);
        let file = open(&mount, "film.mkv");
        wait_until("the end was asked for", || met.load(Ordering::Relaxed) > 0);
        read(&file, 7, SIZE - 5_000, 5_000);
        assert_eq!(met.load(Ordering::Relaxed), 2, "{act:?}: once in vain, and once more");
    }
}

fn connections_are_there() {
    // From near, one connection may have answered for another before that was made.
    let link = Link { round_trip: Duration::from_millis(30), ..Link::default() };
    let server =
        Server::start(ServerConfig { link, ..ServerConfig::default() }.file("film.mkv", made(7, SIZE))).unwrap();
    let mount = Mount::new(&server.url(), QUIET);
    wait_until("connections", || server.connections_open() >= 4 && server.total().heads >= 4);
    // They were answered; that the drive has heard it, nobody tells.
    thread::sleep(Duration::from_millis(200));
    let before = server.connections();
    let file = open(&mount, "film.mkv");
    read(&file, 7, 0, BLOCK);
    read(&file, 7, 9 * BLOCK, BLOCK);
    assert_eq!(server.connections(), before, "none was made for a reader who waits");
}
