//! An origin that misbehaves, as a program on the drive feels it: what may pass is asked again, what may not is an
//! error, and never is a byte wrong.
//! Never here: an origin that says nothing at all (`hanging`), or something new (`replaced`).

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reelfs::demo::{Act, RequestInfo, Server, ServerConfig};

use super::compare::{check, check_whole, made, wait_until};
use super::late::Machine;
use super::mount::{Mount, open_direct, read_direct};
use super::needs::{FUSE, Test};

const FILM: (u64, u64) = (0xfa17, 12 << 20);

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("faults::what_may_pass_is_asked_again", &[FUSE], what_may_pass_is_asked_again),
        Test::new("faults::a_wait_that_was_asked_for_is_kept", &[FUSE], a_wait_that_was_asked_for_is_kept),
        Test::new("faults::a_wait_that_is_too_long_is_told_at_once", &[FUSE], a_wait_that_is_too_long_is_told_at_once),
        Test::new("faults::range_ignored_is_an_error", &[FUSE], range_ignored_is_an_error),
        Test::new("faults::range_ignored_brings_a_small_file_whole", &[FUSE], range_ignored_brings_a_small_file_whole),
        Test::new("faults::range_ignored_refuses_a_large_single_file", &[FUSE], range_ignored_refuses_a_single_file),
        Test::new("faults::wrong_part_is_an_error", &[FUSE], wrong_part_is_an_error),
        Test::new("faults::what_never_passes_ends", &[FUSE], what_never_passes_ends),
        Test::new("faults::missing_and_denied", &[FUSE], missing_and_denied),
    ]
}

fn start() -> (Server, Mount) {
    start_with(&[])
}

fn start_with(options: &[&str]) -> (Server, Mount) {
    let server = Server::start(ServerConfig::default().file("film.mkv", made(FILM.0, FILM.1))).unwrap();
    let mount = Mount::new(&server.url(), &[&["--chunk-timeout", "8"], options].concat());
    (server, mount)
}

/// The film, open, with nothing under way any more: its ends, which an open asks for, have come.
fn opened(mount: &Mount) -> fs::File {
    let film = open_direct(&mount.file("film.mkv")).unwrap();
    for offset in [0, FILM.1 - 4096] {
        std::os::unix::fs::FileExt::read_exact_at(&film, &mut [0; 4096], offset).unwrap();
    }
    film
}

/// Bodies of the film fare as `act` says, every `every`th request.
fn weather(server: &Server, every: u64, act: Act) -> Arc<AtomicU64> {
    let met = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&met);
    let asked = AtomicU64::new(0);
    server.set_weather(move |request: &RequestInfo| {
        if request.range.is_some() && asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(every) {
            count.fetch_add(1, Ordering::Relaxed);
            act
        } else {
            Act::Serve
        }
    });
    met
}

fn what_may_pass_is_asked_again() {
    // What costs half of a read's time may meet it once only.
    const ONCE: u64 = 1_000_000;
    for (every, act) in [
        (3, Act::TruncateAfter(70_000)),
        (3, Act::TruncateAfter(0)),
        (3, Act::ResetAfter(300_000)),
        (3, Act::ResetAfter(0)),
        (ONCE, Act::StallAfter(100_000)),
        (ONCE, Act::Hang),
        (3, Act::Status(503, None)),
        (3, Act::Status(500, None)),
        (3, Act::Status(408, None)),
        (3, Act::Status(429, Some(1))),
        (3, Act::Delay(Duration::from_millis(300))),
    ] {
        let (server, mount) = start();
        let met = weather(&server, every, act);
        let read = open_direct(&mount.file("film.mkv")).and_then(|film| check_whole(&film, FILM, 1 << 20));
        assert!(read.is_ok(), "{act:?}: {read:?}");
        assert!(met.load(Ordering::Relaxed) > 0, "{act:?} was never met");
    }
}

fn a_wait_that_was_asked_for_is_kept() {
    let (server, mount) = start();
    let film = opened(&mount);
    weather(&server, 1_000_000, Act::Status(429, Some(2)));
    let begun = Instant::now();
    let mut bytes = vec![0; 4096];
    // Away from its ends, which are there.
    std::os::unix::fs::FileExt::read_exact_at(&film, &mut bytes, 5 << 20).unwrap();
    check(FILM.0, 5 << 20, &bytes);
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
}

fn a_wait_that_is_too_long_is_told_at_once() {
    let (server, mount) = start();
    let film = opened(&mount);
    weather(&server, 1, Act::Status(429, Some(3600)));
    let begun = Instant::now();
    let error = std::os::unix::fs::FileExt::read_at(&film, &mut [0; 4096], 5 << 20).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    // Long before its deadline.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(mount.place.log().contains("asked to come back in 3600s"), "{}", mount.place.log());
}

fn error_of(read: io::Result<Vec<u8>>, offset: u64) -> Option<i32> {
    match read {
        Ok(bytes) => {
            check(FILM.0, offset, &bytes);
            None
        }
        Err(error) => error.raw_os_error(),
    }
}

/// The server mends: so does the drive, as soon as nothing is under way that it was asked before.
fn mends(server: &Server, film: &Path) {
    server.set_weather(reelfs::demo::Fair);
    wait_until("all of it is right", || open_direct(film).and_then(|film| check_whole(&film, FILM, 1 << 20)).is_ok());
}

fn range_ignored_is_an_error() {
    let (server, mount) = start_with(&["--whole-file-max", "11MiB"]);
    weather(&server, 1, Act::IgnoreRange);
    let film = mount.file("film.mkv");
    for offset in [4 << 20, 9 << 20] {
        assert_eq!(error_of(read_direct(&film, offset, 100_000), offset), Some(libc::EIO));
    }
    assert!(mount.place.log().contains("--whole-file-max"), "the log says why: {}", mount.place.log());
    // And through the page cache, from the start: all of it right, or an error.
    if let Ok(bytes) = fs::read(&film) {
        check(FILM.0, 0, &bytes);
    }
    mends(&server, &film);
}

fn range_ignored_brings_a_small_file_whole() {
    let (server, mount) = start_with(&["--whole-file-max", "12MiB", "--fill", "never", "--lookahead-chunks", "0"]);
    weather(&server, 1, Act::IgnoreRange);
    let film = mount.file("film.mkv");
    for offset in [9 << 20, 0, 4 << 20] {
        assert_eq!(error_of(read_direct(&film, offset, 100_000), offset), None);
    }
    check_whole(&open_direct(&film).unwrap(), FILM, 1 << 20).unwrap();
    let whole = server.ranges().iter().filter(|asked| asked.range.len() == FILM.1).count();
    assert_eq!(whole, 1, "it comes once");
}

fn range_ignored_refuses_a_single_file() {
    let server = Server::start(ServerConfig::default().file("film.mkv", made(FILM.0, FILM.1))).unwrap();
    weather(&server, 1, Act::IgnoreRange);
    let folder = tempfile::tempdir().unwrap();
    let point = folder.path().join("mnt");
    fs::create_dir(&point).unwrap();
    let refused = super::mount::reelfs()
        .args(["mount", &server.url_of("film.mkv"), "--whole-file-max", "1MiB", "--cache-dir"])
        .arg(folder.path().join("cache"))
        .arg(&point)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("ignores Range requests"), "{said}");
}

fn wrong_part_is_an_error() {
    let (server, mount) = start();
    weather(&server, 1, Act::ShiftRange(1000));
    let read = read_direct(&mount.file("film.mkv"), 4 << 20, 100_000);
    assert_eq!(error_of(read, 4 << 20), Some(libc::EIO));
}

fn what_never_passes_ends() {
    for act in [Act::Status(503, None), Act::Status(404, None), Act::TruncateAfter(10), Act::ResetAfter(0), Act::Hang] {
        let server = Server::start(ServerConfig::default().file("film.mkv", made(FILM.0, FILM.1))).unwrap();
        let mount = Mount::new(&server.url(), &["--chunk-timeout", "2"]);
        let film = open_direct(&mount.file("film.mkv")).unwrap();
        weather(&server, 1, act);
        let (machine, begun) = (Machine::watch(), Instant::now());
        let error = std::os::unix::fs::FileExt::read_at(&film, &mut vec![0; 1 << 20], 2 << 20).unwrap_err();
        let took = begun.elapsed();
        let expected = if act == Act::Status(404, None) { libc::ENOENT } else { libc::EIO };
        assert_eq!(error.raw_os_error(), Some(expected), "{act:?}");
        assert!(took < Duration::from_secs(2) + machine.late_max(), "{act:?}: {took:?}");
    }
}

fn missing_and_denied() {
    let (server, mount) = start();
    assert_eq!(fs::File::open(mount.file("none.mkv")).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    // Listed, but gone when it is opened.
    fs::metadata(mount.file("film.mkv")).unwrap();
    server.set_weather(|_: &RequestInfo| Act::Status(404, None));
    assert_eq!(fs::File::open(mount.file("film.mkv")).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    // Not HEAD alone: a server may refuse that, and serve GET.
    server.set_weather(|_: &RequestInfo| Act::Status(403, None));
    assert_eq!(fs::File::open(mount.file("film.mkv")).unwrap_err().raw_os_error(), Some(libc::EACCES));
    mends(&server, &mount.file("film.mkv"));
}
