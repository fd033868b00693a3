//! What stays and what is fetched before anyone asks for it: openings, pins, warm-up, the next episode.
//! Never here: the budget itself (see `budget`), and which name comes next (see `drive/next.rs`).

use std::os::unix::fs::FileExt as _;
use std::process::{Child, Output, Stdio};
use std::thread;
use std::time::Duration;

use reelfs::demo::{Link, Server, ServerConfig};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::compare::{check, check_whole, made, wait_until};
use super::mount::{Mount, cache_command, open_direct, read_direct, reelfs};
use super::needs::{FUSE, Test};

const MIB: u64 = 1 << 20;
const EPISODE: u64 = (8 << 20) + 4_321;
/// What a player reads at once.
const READ: u64 = 128 << 10;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("keep::openings_outlive_the_middle_of_films", &[FUSE], openings_outlive_the_middle_of_films),
        Test::new("keep::the_next_episode_is_there", &[FUSE], the_next_episode_is_there),
        Test::new("keep::what_is_warm_plays_without_its_server", &[FUSE], what_is_warm_plays_without_its_server),
        Test::new("keep::a_warm_up_goes_on_where_it_was", &[FUSE], a_warm_up_goes_on_where_it_was),
        Test::new("keep::heads_and_tails_of_a_folder", &[FUSE], heads_and_tails_of_a_folder),
        Test::new("keep::what_is_pinned_stays", &[FUSE], what_is_pinned_stays),
    ]
}

/// A `cache` command about a path on the drive, under way.
fn begin(mount: &Mount, typed: &[&str], path: &str) -> Child {
    let mut command = reelfs();
    command.arg("cache").args(typed).arg(mount.file(path)).env("XDG_RUNTIME_DIR", mount.place.runtime());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// And what it said in the end.
fn ask(mount: &Mount, typed: &[&str], path: &str) -> Output {
    begin(mount, typed, path).wait_with_output().unwrap()
}

/// What it said, if it was done.
fn done(mount: &Mount, typed: &[&str], path: &str) -> String {
    let output = ask(mount, typed, path);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The one line with which it was refused.
fn refused(mount: &Mount, typed: &[&str], path: &str) -> String {
    let output = ask(mount, typed, path);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && output.stdout.is_empty() && said.lines().count() == 1, "{said}");
    said
}

fn status(mount: &Mount) -> Value {
    let shown = cache_command(&mount.place, &["status", "--json"]).stdout;
    serde_json::from_slice::<Value>(&shown).unwrap()["caches"][0].take()
}

fn cached_bytes(mount: &Mount, path: &str) -> u64 {
    let cache = status(mount);
    let entry = cache["entries"].as_array().unwrap().iter().find(|entry| entry["path"] == path);
    entry.map_or(0, |entry| entry["cached_bytes"].as_u64().unwrap())
}

/// Reads what a player opens a generated film with, and finds it right.
fn look(mount: &Mount, name: &str, (seed, size): (u64, u64)) {
    for (offset, len) in [(0, READ), (size - 10_000, 10_000)] {
        check(seed, offset, &read_direct(&mount.file(name), offset, len as usize).unwrap());
    }
}

fn openings_outlive_the_middle_of_films() {
    let size = 100 * MIB;
    let names = ["1.mkv", "2.mkv", "3.mkv", "played.mkv"];
    let config = names
        .iter()
        .zip(1..)
        .fold(ServerConfig::default(), |config, (name, seed)| config.file(*name, made(seed, size)));
    let server = Server::start(config).unwrap();
    let mount = Mount::new(&server.url(), &["--cache-size", "64MiB", "--fill", "never", "--dir-ttl", "600"]);
    for (name, seed) in names.iter().zip(1..4) {
        look(&mount, name, (seed, size));
    }
    check_whole(&open_direct(&mount.file("played.mkv")).unwrap(), (4, size), 1 << 20).unwrap();
    server.reset_counts();
    for (name, seed) in names.iter().zip(1..4) {
        look(&mount, name, (seed, size));
        assert_eq!(server.counts(name).body_bytes, 0, "{name}");
    }
    mount.end();
}

fn the_next_episode_is_there() {
    let names = ["copied 1.mkv", "copied 2.mkv", "S01E2.mkv", "S01E3.mkv", "S01E10.mkv", "S01E3.nfo"];
    let config = names
        .iter()
        .zip(1..)
        .fold(ServerConfig::default(), |config, (name, seed)| config.file(*name, made(seed, EPISODE)));
    let server = Server::start(config).unwrap();
    let mount = Mount::new(&server.url(), &["--dir-ttl", "600"]);
    check_whole(&open_direct(&mount.file("copied 1.mkv")).unwrap(), (1, EPISODE), 1 << 20).unwrap();
    let film = open_direct(&mount.file("S01E2.mkv")).unwrap();
    let mut bytes = vec![0; READ as usize];
    for at in (0..8 * MIB).step_by(READ as usize) {
        film.read_exact_at(&mut bytes, at).unwrap();
        check(3, at, &bytes);
        // 2 MB a second: as films play, and for longer than it takes to see that.
        thread::sleep(Duration::from_millis(65));
    }
    let opening = 2 * MIB + 64 * 1024;
    wait_until("the opening of the next one", || cached_bytes(&mount, "S01E3.mkv") >= opening);
    server.reset_counts();
    look(&mount, "S01E3.mkv", (4, EPISODE));
    assert_eq!(server.counts("S01E3.mkv").requests, 0, "it opens without a question");
    for name in ["copied 2.mkv", "S01E10.mkv", "S01E3.nfo"] {
        assert_eq!(server.counts(name).body_bytes, 0, "{name}");
    }
    mount.end();
}

fn what_is_warm_plays_without_its_server() {
    let films = [("season/1.mkv", 1), ("season/2.mkv", 2)];
    let config =
        films.iter().fold(ServerConfig::default(), |config, (name, seed)| config.file(*name, made(*seed, EPISODE)));
    let server = Server::start(config).unwrap();
    let mount = Mount::new(&server.url(), &["--dir-ttl", "600"]);
    assert_eq!(done(&mount, &["warm"], "season"), "season: 2 files, 16.0 MiB here: all\n");
    drop(server);
    for (name, seed) in films {
        check_whole(&open_direct(&mount.file(name)).unwrap(), (seed, EPISODE), 1 << 20).unwrap();
    }
    mount.end();
}

fn a_warm_up_goes_on_where_it_was() {
    // Several times what all connections bring at once, for some seconds.
    let size = 64 * MIB;
    let link = Link { rate_total: Some(16_000_000), ..Link::default() };
    let server =
        Server::start(ServerConfig { link, ..ServerConfig::default() }.file("film.mkv", made(5, size))).unwrap();
    let mount = Mount::new(&server.url(), &["--dir-ttl", "600"]);
    let mut first = begin(&mount, &["warm"], "film.mkv");
    let cached_bytes = || cached_bytes(&mount, "film.mkv");
    wait_until("some of it", || cached_bytes() > size / 4);
    // As Ctrl-C would; to that one a program is deaf that was started in the background.
    kill_process(Pid::from_child(&first), Signal::TERM).unwrap();
    assert!(!first.wait().unwrap().success(), "it had not ended by then");
    server.reset_counts();
    let before = cached_bytes();
    assert!(before < size, "{before}");
    done(&mount, &["warm"], "film.mkv");
    // Those of the first that were begun and came after all are not among them.
    let again: u64 = server.ranges().iter().map(|asked| asked.range.len()).sum();
    assert!(again <= size - before, "{again} bytes asked for, with {before} of {size} here");
    assert_eq!(cached_bytes(), size);
    server.reset_counts();
    done(&mount, &["warm"], "film.mkv");
    check_whole(&open_direct(&mount.file("film.mkv")).unwrap(), (5, size), 1 << 20).unwrap();
    assert_eq!(server.counts("film.mkv").body_bytes, 0);
    mount.end();
}

fn heads_and_tails_of_a_folder() {
    let size = 20 * MIB;
    let films = [("a/1.mkv", 1), ("a/2.mp4", 2), ("3.avi", 3)];
    let config =
        films.iter().fold(ServerConfig::default(), |config, (name, seed)| config.file(*name, made(*seed, size)));
    let server = Server::start(config.file("a/1.nfo", made(9, 10_000))).unwrap();
    let mount = Mount::new(&server.url(), &["--dir-ttl", "600", "--fill", "never"]);
    let said = done(&mount, &["warm", "--head-tail"], "");
    assert_eq!(said, "the whole drive: 3 files, 6.2 MiB here: what they open with\n");
    server.reset_counts();
    for (name, seed) in films {
        look(&mount, name, (seed, size));
        assert_eq!(server.counts(name).requests, 0, "{name}");
    }
    assert_eq!(server.counts("a/1.nfo").body_bytes, 0);
    assert!(refused(&mount, &["warm"], "a/none.mkv").contains("a/none.mkv: no such file or folder"));
    mount.end();
}

fn what_is_pinned_stays() {
    let (size, large) = (20 * MIB, 100 * MIB);
    let config = ServerConfig::default().file("kept/a.mkv", made(1, size)).file("large.mkv", made(2, large));
    let server = Server::start(config).unwrap();
    let options = ["--cache-size", "64MiB", "--fill", "never", "--dir-ttl", "600"];
    let mount = Mount::new(&server.url(), &options);
    assert_eq!(done(&mount, &["pin"], "kept"), "kept: 1 file pinned, 20.0 MiB, of which 0 B is here\n");
    done(&mount, &["warm"], "kept/a.mkv");
    assert!(
        refused(&mount, &["pin"], "large.mkv").contains("large.mkv: 100.0 MiB can't be pinned: 20.0 MiB are already")
    );
    assert!(refused(&mount, &["warm"], "large.mkv").contains("raise --cache-size"));
    let nowhere = reelfs().args(["cache", "pin"]).arg(mount.place.path("")).output().unwrap();
    let said = String::from_utf8(nowhere.stderr).unwrap();
    assert!(!nowhere.status.success() && said.lines().count() == 1 && said.contains("no reelfs"), "{said}");
    let place = std::sync::Arc::clone(&mount.place);
    let play =
        |mount: &Mount| check_whole(&open_direct(&mount.file("large.mkv")).unwrap(), (2, large), 1 << 20).unwrap();
    play(&mount);
    mount.end();
    let mount = Mount::on(&place, &server.url(), &options);
    play(&mount);
    let cache = status(&mount);
    assert_eq!(cache["pinned_bytes"], size);
    let kept = cache["entries"].as_array().unwrap().iter().find(|entry| entry["path"] == "kept/a.mkv").unwrap();
    assert_eq!((&kept["pinned"], &kept["cached_bytes"]), (&true.into(), &size.into()));
    server.reset_counts();
    check_whole(&open_direct(&mount.file("kept/a.mkv")).unwrap(), (1, size), 1 << 20).unwrap();
    assert_eq!(server.counts("kept/a.mkv").body_bytes, 0);
    assert_eq!(done(&mount, &["unpin"], ""), "the whole drive: 1 file unpinned, 20.0 MiB\n");
    play(&mount);
    assert!(refused(&mount, &["unpin"], "kept").contains("nothing is pinned"));
    mount.end();
}
