//! Many readers at once: threads that jump about, memory maps, `fio`, and ten players of one cold film.
//! Never here: one reader after another.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use reelfs::demo::{Link, Server, ServerConfig, generated};
use reelfs::range::{ByteRange, RangeSet};

use super::compare::{check, check_whole, made};
use super::daemon::{Daemon, free_port, public_folder};
use super::mount::{Mount, open_direct};
use super::needs::{FUSE, Need, Test};

const MIB: u64 = 1 << 20;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("readers::jump_about", &[FUSE, Need::Program("nginx")], jump_about),
        Test::new("readers::fio_verifies", &[FUSE, Need::Program("nginx"), Need::Program("fio")], fio_verifies),
        Test::new("readers::ten_of_a_cold_file", &[FUSE], ten_of_a_cold_file),
        Test::new("readers::ten_that_begin_anywhere", &[FUSE], ten_that_begin_anywhere),
        Test::new("readers::a_seek_asks_once", &[FUSE], a_seek_asks_once),
    ]
}

/// Eight threads, half of them past the page cache, on a cache too small for the file.
fn jump_about() {
    const SEED: u64 = 0x6a75;
    const SIZE: u64 = 96 * MIB + 12_345;
    let (folder, port) = (public_folder(), free_port());
    let films = folder.path().join("films");
    fs::create_dir(&films).unwrap();
    let mut original = File::create(films.join("film.mkv")).unwrap();
    for at in (0..SIZE).step_by(MIB as usize) {
        let len = MIB.min(SIZE - at) as usize;
        std::io::Write::write_all(&mut original, &generated(SEED, at, len)).unwrap();
    }
    let _daemon = Daemon::nginx(&films, folder.path(), "", port);
    let mount = Mount::new(&format!("http://127.0.0.1:{port}/"), &["--cache-size", "32MiB"]);
    let path = mount.file("film.mkv");
    thread::scope(|scope| {
        for number in 0..8 {
            let path = &path;
            scope.spawn(move || {
                let file = if number % 2 == 0 { open_direct(path) } else { File::open(path) }.unwrap();
                let mut random = fastrand::Rng::with_seed(number);
                for _ in 0..150 {
                    let offset = random.u64(..SIZE);
                    let mut bytes = vec![0; random.usize(1..600_000)];
                    let len = file.read_at(&mut bytes, offset).unwrap();
                    // Past the end only.
                    assert!(len == bytes.len() || offset + len as u64 == SIZE, "{len} bytes at {offset}");
                    check(SEED, offset, &bytes[..len]);
                }
            });
        }
    });
}

/// What `fio` found wrong; nothing if all is right.
fn fio(file: &Path, more: &[&str]) -> Option<String> {
    let output = Command::new("fio")
        .args(["--name=verify", "--bs=4k", "--size=48M", "--verify=crc32c", "--verify_fatal=1"])
        .args(["--verify_state_save=0", "--minimal"])
        .arg(format!("--filename={}", file.display()))
        .args(more)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let is_right = output.status.success() && !said.contains("verify:") && !said.contains("bad");
    (!is_right).then(|| format!("{more:?}: {said}"))
}

/// Every block says where it belongs and holds its own checksum; read in random order, and through memory maps.
fn fio_verifies() {
    let (folder, port) = (public_folder(), free_port());
    let films = folder.path().join("films");
    fs::create_dir(&films).unwrap();
    assert_eq!(fio(&films.join("film.mkv"), &["--rw=write", "--do_verify=0"]), None);
    let _daemon = Daemon::nginx(&films, folder.path(), "", port);
    let source = format!("http://127.0.0.1:{port}/");
    for engine in ["--ioengine=mmap", "--ioengine=psync"] {
        // Cold each time.
        let mount = Mount::new(&source, &[]);
        assert_eq!(fio(&mount.file("film.mkv"), &["--readonly", "--rw=randread", engine]), None);
        assert_eq!(fio(&mount.file("film.mkv"), &["--readonly", "--rw=read", engine]), None);
    }
    // It would find a block that is wrong.
    let broken = films.join("broken.mkv");
    fs::copy(films.join("film.mkv"), &broken).unwrap();
    File::options().write(true).open(&broken).unwrap().write_all_at(b"x", 20_000_000).unwrap();
    assert!(fio(&broken, &["--readonly", "--rw=randread"]).is_some(), "fio does not verify");
}

const COLD: (u64, u64) = (0xc01d, 64 * MIB + 777);

/// Far enough that readers do meet in the middle of a chunk.
fn far_server() -> Server {
    let link = Link { round_trip: Duration::from_millis(5), rate_per_connection: None, rate_total: Some(60 << 20) };
    Server::start(ServerConfig { link, ..ServerConfig::default() }.file("film.mkv", made(COLD.0, COLD.1))).unwrap()
}

/// Each byte was asked for, and sent, once.
fn assert_fetched_once(server: &Server) {
    let mut seen = RangeSet::new();
    for asked in server.ranges() {
        let again = seen.overlap(asked.range);
        assert!(again.is_empty(), "asked for again: {again:?} of {:?}", asked.range);
        seen.insert(asked.range);
    }
    assert!(seen.contains(ByteRange::new(0, COLD.1)));
    assert_eq!(server.counts("film.mkv").body_bytes, COLD.1);
}

fn ten_of_a_cold_file() {
    let server = far_server();
    let mount = Mount::new(&server.url(), &[]);
    let (path, begin) = (mount.file("film.mkv"), Barrier::new(10));
    thread::scope(|scope| {
        for number in 0..10 {
            let (path, begin) = (&path, &begin);
            scope.spawn(move || {
                let file = if number % 2 == 0 { open_direct(path) } else { File::open(path) }.unwrap();
                begin.wait();
                check_whole(&file, COLD, 100_000).unwrap();
            });
        }
    });
    assert_fetched_once(&server);
}

/// As above, but each begins at another place and goes round.
fn ten_that_begin_anywhere() {
    let server = far_server();
    let mount = Mount::new(&server.url(), &[]);
    let (path, begin) = (mount.file("film.mkv"), Barrier::new(10));
    thread::scope(|scope| {
        for number in 0..10 {
            let (path, begin) = (&path, &begin);
            scope.spawn(move || {
                let file = open_direct(path).unwrap();
                begin.wait();
                let pieces = COLD.1.div_ceil(MIB);
                for piece in 0..pieces {
                    let at = (number * 6 + piece) % pieces * MIB;
                    let mut bytes = vec![0; MIB.min(COLD.1 - at) as usize];
                    file.read_exact_at(&mut bytes, at).unwrap();
                    check(COLD.0, at, &bytes);
                }
            });
        }
    });
    assert_fetched_once(&server);
}

/// Players read 128 KiB at a time, from anywhere: 33 pages, of which the kernel by itself asks for 32 and then, behind
/// them, for one.
fn a_seek_asks_once() {
    const SEED: u64 = 0x5ee;
    const LEN: u64 = 128 << 10;
    let server = Server::start(ServerConfig::default().file("film.bin", made(SEED, 100 * MIB))).unwrap();
    let mount = Mount::new(&server.url(), &["--lookahead-chunks", "0", "--fill", "never"]);
    let film = File::open(mount.file("film.bin")).unwrap();
    let mut bytes = vec![0; LEN as usize];
    film.read_exact_at(&mut bytes, 0).unwrap();
    for seek in 1..9 {
        let before = server.counts("film.bin").requests;
        // Within one chunk, and never at the start of a page.
        let offset = seek * 10 * MIB + 77_777 + seek * 100_001;
        film.read_exact_at(&mut bytes, offset).unwrap();
        check(SEED, offset, &bytes);
        assert_eq!(server.counts("film.bin").requests - before, 1, "seek to {offset}");
    }
}
