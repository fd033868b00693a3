//! The `cache` commands on what a real mount left, and beside a mount that runs.
//! Never here: caches that are missing or empty; see `tests/cli.rs`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use reelfs::demo::{Server, ServerConfig};
use serde_json::Value;

use super::compare::{check_whole, made, wait_until};
use super::mount::{Mount, Place, cache_command, open_direct, reelfs};
use super::needs::{FUSE, Test};

const FILM: (u64, u64) = (0xcc, 9 << 20);

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("cache_commands::beside_a_mount", &[FUSE], beside_a_mount),
        Test::new(
            "cache_commands::a_flipped_byte_is_named_and_never_shown",
            &[FUSE],
            a_flipped_byte_is_named_and_never_shown,
        ),
        Test::new(
            "cache_commands::a_flipped_byte_is_never_shown_by_a_mount",
            &[FUSE],
            a_flipped_byte_is_never_shown_by_a_mount,
        ),
        Test::new("cache_commands::purged_is_fetched_again", &[FUSE], purged_is_fetched_again),
        Test::new("cache_commands::verified_and_purged_through_a_mount", &[FUSE], verified_and_purged_through_a_mount),
    ]
}

fn server() -> Server {
    Server::start(ServerConfig::default().file("film.mkv", made(FILM.0, FILM.1)).file("b.mkv", made(1, 100_000)))
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn status(place: &Place) -> Value {
    let output = cache_command(place, &["status", "--json"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["caches"][0].take()
}

fn read_film(mount: &Mount) {
    check_whole(&open_direct(&mount.file("film.mkv")).unwrap(), FILM, 1 << 20).unwrap();
}

/// A cache that holds all of the film.
fn filled(server: &Server) -> std::sync::Arc<Place> {
    let place = Place::new();
    let mount = Mount::on(&place, &server.url(), &[]);
    read_film(&mount);
    mount.end();
    place
}

fn beside_a_mount() {
    let server = server();
    let mount = Mount::new(&server.url(), &["--cache-size", "100MiB"]);
    read_film(&mount);
    // Pieces of a chunk are merged into one row a moment after the last of them is recorded.
    let is_whole = |entry: &Value| entry["cached_bytes"] == FILM.1 && entry["chunks"] == 5;
    wait_until("all of it recorded", || is_whole(&status(&mount.place)["entries"][0]));
    let shown = status(&mount.place);
    assert_eq!(shown["holder_pid"], mount.pid());
    assert_eq!(shown["source"], server.url());
    assert_eq!((&shown["used_bytes"], &shown["budget_bytes"]), (&FILM.1.into(), &(100 << 20).into()));
    let entry = &shown["entries"][0];
    assert_eq!(
        (&entry["path"], &entry["size_bytes"], &entry["chunks"]),
        (&"film.mkv".into(), &FILM.1.into(), &5.into())
    );
    for typed in [&["verify"][..], &["purge", "--all"], &["purge", "film.mkv"]] {
        let output = cache_command(&mount.place, typed);
        let said = String::from_utf8(output.stderr).unwrap();
        // A mount that can't be asked: its socket is in another runtime directory.
        assert!(output.status.code() == Some(4) && output.stdout.is_empty(), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(&format!("process {}", mount.pid())), "{said}");
    }
    // None of it has disturbed the mount.
    server.reset_counts();
    read_film(&mount);
    assert_eq!(server.counts("film.mkv").body_bytes, 0);
    mount.end();
}

fn data_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { data_files(&path) } else { vec![path] }).collect()
}

fn flip(place: &Place, offset: u64) {
    let files = data_files(&place.cache().join("entries"));
    assert_eq!(files.len(), 1, "{files:?}");
    let file = File::options().read(true).write(true).open(&files[0]).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[!byte[0]], offset).unwrap();
}

fn a_flipped_byte_is_named_and_never_shown() {
    let server = server();
    let place = filled(&server);
    let good = cache_command(&place, &["verify"]);
    assert!(good.status.success() && stdout(&good).contains("all good"), "{good:?}");
    flip(&place, 5_000_000);
    let bad = cache_command(&place, &["verify"]);
    assert_eq!(bad.status.code(), Some(3), "{bad:?}");
    assert!(stdout(&bad).contains("bad: film.mkv, bytes 4194304 to 6291456: dropped"), "{bad:?}");
    assert!(cache_command(&place, &["verify"]).status.success(), "what was bad is gone");
    server.reset_counts();
    read_film(&Mount::on(&place, &server.url(), &[]));
    assert_eq!(server.counts("film.mkv").body_bytes, 2 << 20, "the bad chunk, and nothing else");
}

fn a_flipped_byte_is_never_shown_by_a_mount() {
    let server = server();
    let place = filled(&server);
    flip(&place, 5_000_000);
    flip(&place, 0);
    server.reset_counts();
    read_film(&Mount::on(&place, &server.url(), &[]));
    assert_eq!(server.counts("film.mkv").body_bytes, 4 << 20, "the two bad chunks, and nothing else");
}

fn purged_is_fetched_again() {
    let server = server();
    let place = filled(&server);
    let none = cache_command(&place, &["purge", "none.mkv"]);
    assert!(!stdout(&none).contains("1 file"), "{none:?}");
    let purged = cache_command(&place, &["purge", "film.mkv"]);
    assert!(purged.status.success() && stdout(&purged).starts_with("1 file forgotten, 9.0 MiB freed"), "{purged:?}");
    assert!(data_files(&place.cache().join("entries")).is_empty());
    assert_eq!(status(&place)["entries"].as_array().unwrap().len(), 0);
    server.reset_counts();
    read_film(&Mount::on(&place, &server.url(), &[]));
    assert_eq!(server.counts("film.mkv").body_bytes, FILM.1);
    assert!(cache_command(&place, &["purge", "--all"]).status.success());
}

/// By the mount itself, which goes on serving: what is bad is dropped, what is forgotten is fetched again, also while it is
/// open.
fn verified_and_purged_through_a_mount() {
    let server = server();
    let place = filled(&server);
    flip(&place, 5_000_000);
    let mount = Mount::on(&place, &server.url(), &["--passthrough", "off"]);
    let ask =
        |typed: &[&str]| reelfs().arg("cache").args(typed).env("XDG_RUNTIME_DIR", place.runtime()).output().unwrap();
    // Before anybody opens it in this run.
    let mut value = [0; 32];
    let len = rustix::fs::getxattr(mount.file("film.mkv"), "user.reelfs.cached_bytes", &mut value).unwrap();
    assert_eq!(value[..len], *FILM.1.to_string().as_bytes());
    let cache = place.cache().to_str().unwrap().to_owned();
    let bad = ask(&["verify", "--cache-dir", &cache]);
    assert_eq!(bad.status.code(), Some(3), "{bad:?}");
    assert!(stdout(&bad).contains("bad: film.mkv, bytes 4194304 to 6291456: dropped"), "{bad:?}");
    server.reset_counts();
    let film = open_direct(&mount.file("film.mkv")).unwrap();
    check_whole(&film, FILM, 1 << 20).unwrap();
    assert_eq!(server.counts("film.mkv").body_bytes, 2 << 20, "the bad chunk, and nothing else");
    let path = mount.file("film.mkv").to_str().unwrap().to_owned();
    wait_until("all of it recorded", || stdout(&ask(&["verify", &path])).contains("9.0 MiB: all good"));
    // Pinned or not, and open or not.
    assert!(ask(&["pin", &path]).status.success());
    let purged = ask(&["purge", &path]);
    assert!(purged.status.success() && stdout(&purged).starts_with("1 file forgotten, 9.0 MiB freed"), "{purged:?}");
    assert_eq!(status(&place)["used_bytes"], 0);
    server.reset_counts();
    check_whole(&film, FILM, 1 << 20).unwrap();
    assert_eq!(server.counts("film.mkv").body_bytes, FILM.1, "it is fetched again, once");
    drop(film);
    wait_until("it is kept again", || status(&place)["used_bytes"] == FILM.1);
    let missed = ask(&["purge", "--cache-dir", &cache, "none.mkv"]);
    assert!(
        missed.status.code() == Some(1) && String::from_utf8_lossy(&missed.stderr).contains("none.mkv"),
        "{missed:?}"
    );
    let all = ask(&["purge", "--all", "--cache-dir", &cache]);
    assert!(all.status.success() && stdout(&all).starts_with("1 file forgotten"), "{all:?}");
    mount.end();
}
