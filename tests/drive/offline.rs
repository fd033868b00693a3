//! Without its server a drive mounts, lists and plays what it knows and has; when the server is back it goes on. And what
//! changed there shows: in time, and at once where somebody asks for it.
//! Never here: a server that hangs under a mounted drive; see `hanging`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use reelfs::demo::{Content, Server, ServerConfig};
use rustix::process::Signal;

use super::compare::{check, check_whole, made, wait_until};
use super::late::Machine;
use super::mount::{Mount, Place, open_direct, reelfs};
use super::needs::{FUSE, Test};

const CACHED: (u64, u64) = (1, 4 << 20);
const COLD: (u64, u64) = (2, 4 << 20);
const CHANGED: (u64, u64) = (3, 3 << 20);

pub fn tests() -> Vec<Test> {
    vec![
        Test::alone("offline::a_mount_without_its_server", &[FUSE], a_mount_without_its_server),
        Test::new("offline::what_nobody_knows_is_not_mounted", &[FUSE], what_nobody_knows_is_not_mounted),
        Test::new("offline::side_files_cost_no_requests", &[FUSE], side_files_cost_no_requests),
        Test::new("offline::a_young_listing_is_not_asked_for_again", &[FUSE], a_young_listing_is_not_asked_for_again),
        Test::new("offline::a_hang_up_shows_what_changed", &[FUSE], || refreshed(|mount| mount.send(Signal::HUP))),
        Test::new("offline::a_refresh_shows_what_changed", &[FUSE], || {
            refreshed(|mount| {
                let mut refresh = reelfs();
                refresh.arg("refresh").arg(mount.point()).env("XDG_RUNTIME_DIR", mount.place.runtime());
                assert!(refresh.status().unwrap().success());
            });
        }),
        Test::new("offline::what_changed_shows_in_time", &[FUSE], what_changed_shows_in_time),
    ]
}

/// All paths below a folder, with the sizes of files.
fn find(folder: &Path) -> BTreeMap<String, Option<u64>> {
    fn walk(top: &Path, folder: &Path, found: &mut BTreeMap<String, Option<u64>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::metadata(&path).unwrap();
            let name = path.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
            found.insert(name, metadata.is_file().then_some(metadata.len()));
            if metadata.is_dir() {
                walk(top, &path, found);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, folder, &mut found);
    found
}

/// What was asked, but for connections that are made ready for a player.
fn questions(server: &Server) -> u64 {
    let counts = server.total();
    counts.requests - counts.heads
}

fn file((seed, size): (u64, u64)) -> Content {
    made(seed, size)
}

/// The server at a port of its own choice, or back at one.
fn server(port: u16, new: &[(&str, Content)]) -> Server {
    let mut config = ServerConfig { port, ..ServerConfig::default() }
        .file("cached.mkv", file(CACHED))
        .file("cold.mkv", file(COLD))
        .file("series/one/changed.mkv", file(CHANGED))
        .file("series/two/gone.mkv", made(4, 1 << 20));
    for (path, content) in new {
        config.files.retain(|(known, _)| known != path);
        config = config.file(*path, content.clone());
    }
    // Right after its predecessor the port may be taken for a moment.
    wait_until("the port", || Server::start(ServerConfig { port, ..ServerConfig::default() }).is_ok());
    Server::start(config).unwrap()
}

fn a_mount_without_its_server() {
    let first = server(0, &[]);
    let (url, port) = (first.url(), first.address().port());
    let place = Place::new();
    let options = ["--chunk-timeout", "2", "--dir-ttl", "1"];
    let mount = Mount::on(&place, &url, &options);
    let all = find(&mount.point());
    assert_eq!(all.len(), 7);
    for (name, film) in [("cached.mkv", CACHED), ("series/one/changed.mkv", CHANGED)] {
        check_whole(&open_direct(&mount.file(name)).unwrap(), film, 1 << 20).unwrap();
    }
    mount.end();
    drop(first);
    // What is known is not fresh any longer.
    std::thread::sleep(Duration::from_millis(1100));

    let mount = Mount::on(&place, &url, &options);
    assert!(place.log().contains("the drive shows what it knew"), "{}", place.log());
    assert_eq!(find(&mount.point()), all);
    check_whole(&open_direct(&mount.file("cached.mkv")).unwrap(), CACHED, 1 << 20).unwrap();
    check_whole(&File::open(mount.file("series/one/changed.mkv")).unwrap(), CHANGED, 1 << 20).unwrap();
    let missing = fs::metadata(mount.file("cached.srt")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    // Not cached, not even its version known: either the open says so or the read, and soon.
    let (machine, begun) = (Machine::watch(), Instant::now());
    let error = open_direct(&mount.file("cold.mkv")).and_then(|file| file.read_at(&mut [0; 4096], 0)).unwrap_err();
    let took = begun.elapsed();
    println!("a cold open and read without a server failed after {took:.1?}");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!(took < 2 * (Duration::from_secs(2) + machine.late_max()), "{took:?}");
    // Also when all times are up.
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(find(&mount.point()), all);

    let newer = (5, 2 << 20);
    let new = [("series/one/changed.mkv", file(newer)), ("a new film.mkv", made(6, 1000))];
    let back = server(port, &new);
    assert!(back.remove("series/two/gone.mkv"));
    let at_last = || {
        let found = find_if_there(&mount.point());
        found.contains_key("a new film.mkv") && !found.contains_key("series/two") && found.len() == 6
    };
    wait_until("what the server has by now", at_last);
    wait_until("a film that was never cached", || {
        open_direct(&mount.file("cold.mkv")).is_ok_and(|file| check_whole(&file, COLD, 1 << 20).is_ok())
    });
    let changed = mount.file("series/one/changed.mkv");
    wait_until("the new version", || fs::metadata(&changed).is_ok_and(|metadata| metadata.len() == newer.1));
    check_whole(&open_direct(&changed).unwrap(), newer, 1 << 20).unwrap();
    mount.end();
    drop(back);

    // What went is forgotten, too, and not only by the process that saw it go.
    let mount = Mount::on(&place, &url, &options);
    let found = find(&mount.point());
    assert!(found.contains_key("a new film.mkv") && !found.keys().any(|path| path.contains("two")), "{found:?}");
}

/// Like `find`, while names come and go.
fn find_if_there(folder: &Path) -> BTreeMap<String, Option<u64>> {
    std::panic::catch_unwind(|| find(folder)).unwrap_or_default()
}

fn what_nobody_knows_is_not_mounted() {
    let server = Server::start(ServerConfig::default()).unwrap();
    let url = server.url();
    drop(server);
    let place = Place::new();
    let mut mount = reelfs();
    mount.args(["mount", "--chunk-timeout", "2", "--cache-dir"]).arg(place.cache());
    let output = mount.arg(&url).arg(place.point()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("is the server up") && said.trim_end().lines().count() == 1, "{said}");
    assert!(!place.cache().exists(), "a mistake leaves nothing behind");
}

fn side_files_cost_no_requests() {
    let mut config = ServerConfig::default();
    for number in 0..50 {
        config = config.file(format!("film {number}.mkv"), made(number, 1000));
    }
    let server = Server::start(config).unwrap();
    let mount = Mount::new(&server.url(), &["--dir-ttl", "600"]);
    assert_eq!(fs::read_dir(mount.point()).unwrap().count(), 50);
    let before = questions(&server);
    for _ in 0..3 {
        for number in 0..50 {
            for ending in ["srt", "nfo", "jpg", "en.srt"] {
                let error = fs::metadata(mount.file(&format!("film {number}.{ending}"))).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NotFound);
            }
        }
    }
    assert_eq!(questions(&server), before);
}

fn a_young_listing_is_not_asked_for_again() {
    let server = server(0, &[]);
    let place = Place::new();
    let mount = Mount::on(&place, &server.url(), &["--dir-ttl", "600"]);
    let all = find(&mount.point());
    mount.end();
    server.reset_counts();
    let mount = Mount::on(&place, &server.url(), &["--dir-ttl", "600"]);
    assert_eq!(find(&mount.point()), all);
    assert_eq!(questions(&server), 0);
    mount.end();
    // Nor believed for longer than this mount is told to.
    let mount = Mount::on(&place, &server.url(), &["--dir-ttl", "0"]);
    assert_eq!(find(&mount.point()), all);
    assert!(questions(&server) >= 4);
}

/// Whatever the drive and the kernel were told for ten minutes.
fn refreshed(refresh: impl FnOnce(&Mount)) {
    let server = server(0, &[]);
    let mount = Mount::new(&server.url(), &["--dir-ttl", "600"]);
    find(&mount.point());
    let (changed, gone, new) =
        (mount.file("series/one/changed.mkv"), mount.file("series/two/gone.mkv"), mount.file("cached.srt"));
    let old = File::open(&changed).unwrap();
    let mut bytes = vec![0; 1 << 20];
    old.read_exact_at(&mut bytes, 0).unwrap();
    assert!(fs::metadata(&new).is_err() && fs::metadata(&gone).is_ok());
    server.replace("series/one/changed.mkv", made(9, CHANGED.1));
    server.replace("cached.srt", made(7, 100));
    assert!(server.remove("series/two/gone.mkv"));
    assert!(fs::metadata(&new).is_err(), "nobody has asked");
    refresh(&mount);
    wait_until("a new name", || fs::metadata(&new).is_ok_and(|metadata| metadata.len() == 100));
    wait_until("a name less", || fs::metadata(&gone).is_err());
    wait_until("a new version", || {
        let file = File::open(&changed).unwrap();
        let mut bytes = vec![0; 1 << 20];
        file.read_exact_at(&mut bytes, 0).is_ok() && bytes == reelfs::demo::generated(9, 0, 1 << 20)
    });
    // Who had it open sees what it was, or that it is gone.
    if old.read_exact_at(&mut bytes, 0).is_ok() {
        check(CHANGED.0, 0, &bytes);
    }
}

/// The kernel remembers a name for a second at most.
fn what_changed_shows_in_time() {
    let server = server(0, &[]);
    let mount = Mount::new(&server.url(), &["--dir-ttl", "1"]);
    let side_file = mount.file("cached.srt");
    assert!(fs::metadata(&side_file).is_err());
    server.replace("cached.srt", made(7, 100));
    wait_until("a new name", || fs::metadata(&side_file).is_ok());
    server.replace("cached.srt", made(8, 200));
    wait_until("its new size", || fs::metadata(&side_file).is_ok_and(|metadata| metadata.len() == 200));
    assert!(server.remove("cached.srt"));
    wait_until("its end", || fs::metadata(&side_file).is_err());
}
