//! A cache on a disk that takes its time to sync: what the origin gives is served all the same.
//! Never here: a disk that is full (`budget`), or that fails.

use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use reelfs::demo::{Server, ServerConfig};

use super::compare::{check, made, wait_until};
use super::mount::{Mount, open_direct, reelfs};
use super::needs::{FUSE, Need, Test};
use super::passthrough::cached_bytes;
use super::steps::watched;

/// More than may wait for a disk, in memory and written but not synced.
const FILM: (u64, u64) = (0x510f, 480 << 20);
const TIMEOUT_SECONDS: u64 = 4;
/// What each sync takes.
const SYNC_SECONDS: u64 = 3 * TIMEOUT_SECONDS;

pub fn tests() -> Vec<Test> {
    vec![Test::new("slow_disk::no_reader_waits_for_it", &[FUSE, Need::Program("strace")], no_reader_waits_for_it)]
}

/// Reads the film from end to end; what a read took at most.
fn read_whole(mount: &Mount) -> Duration {
    let file = open_direct(&mount.file("film.mkv")).unwrap();
    let mut bytes = vec![0; 1 << 20];
    let mut longest = Duration::ZERO;
    for at in (0..FILM.1).step_by(bytes.len()) {
        let asked_at = Instant::now();
        // One that waits for the disk has no time left for its origin, and ends in EIO.
        file.read_exact_at(&mut bytes, at).unwrap();
        longest = longest.max(asked_at.elapsed());
        check(FILM.0, at, &bytes);
    }
    longest
}

fn no_reader_waits_for_it() {
    let server = Server::start(ServerConfig::default().file("film.mkv", made(FILM.0, FILM.1))).unwrap();
    let mount = Mount::new(&server.url(), &["--chunk-timeout", &TIMEOUT_SECONDS.to_string(), "--fill", "never"]);
    let slow = format!("inject=fdatasync:delay_enter={SYNC_SECONDS}s");
    let mut watcher = watched(&mount, &["-e", "trace=fdatasync", "-e", &slow]);
    let longest = read_whole(&mount);
    println!("the longest read took {longest:.1?}");
    assert!(mount.place.log().contains("the disk is slow"), "{}", mount.place.log());
    watcher.kill().unwrap();
    watcher.wait().unwrap();
    // What the disk did not take is fetched again, or, where it is still in memory, given to it again.
    wait_until("it goes on", || mount.place.log().contains("the disk goes on"));
    let mut warm = reelfs();
    warm.args(["cache", "warm"]).arg(mount.file("film.mkv")).env("XDG_RUNTIME_DIR", mount.place.runtime());
    let warmed = warm.output().unwrap();
    assert!(warmed.status.success(), "{}", String::from_utf8_lossy(&warmed.stderr));
    wait_until("all of it is kept", || cached_bytes(&mount.file("film.mkv")) == FILM.1);
    let before = server.total().body_bytes;
    read_whole(&mount);
    assert_eq!(server.total().body_bytes, before);
    mount.end();
}
