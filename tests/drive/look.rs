//! `ls`, `tree`, `size` and `cat` of every kind of place, without a mount: they say the same of the same films.
//! Never here: how a library is listed page by page (see `tests/cli.rs`).

use std::fs;
use std::process::Output;

use serde_json::Value;

use super::growing::{NGINX, OPENSSH, Place, RCLONE};
use super::mount::reelfs;
use super::needs::Test;
use super::places::{self, write};

const SIZE: u64 = (3 << 20) + 77;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("look::web", NGINX, || looked_at(&Place::http())),
        Test::new("look::webdav", RCLONE, || looked_at(&Place::webdav())),
        Test::new("look::sftp", OPENSSH, || looked_at(&Place::sftp())),
        Test::new("look::folder", &[], || looked_at(&Place::folder())),
        Test::new("look::bucket", RCLONE, bucket),
        Test::new("look::libraries", &[], libraries),
        Test::new("look::compared_as_rclone_does", RCLONE, compared_as_rclone_does),
        Test::new("look::mistakes", &[], mistakes),
    ]
}

fn run(typed: &[&str], options: &[String]) -> Output {
    reelfs().args(typed).args(options).output().unwrap()
}

fn said(typed: &[&str], options: &[String]) -> String {
    let output = run(typed, options);
    assert!(output.status.success(), "{typed:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Two films in two folders.
fn films(place: &Place) {
    write(&place.file("a film & more.mkv"), 5, SIZE);
    fs::create_dir_all(place.file("series/deep")).unwrap();
    fs::write(place.file("series/deep/e1.srt"), "words").unwrap();
}

fn looked_at(place: &Place) {
    films(place);
    let source = place.source.trim_end_matches('/');
    check(&format!("{source}/"), &place.options);
    let film =
        format!("{source}/{}", if source.contains("://") { "a%20film%20&%20more.mkv" } else { "a film & more.mkv" });
    check_film(&film, &place.options);
}

fn check(source: &str, options: &[String]) {
    assert_eq!(said(&["ls", source], options), "a film & more.mkv\nseries/\n");
    let all = "a film & more.mkv\nseries/deep/e1.srt\n";
    assert_eq!(said(&["ls", "-r", source], options), all);
    assert_eq!(said(&["ls", "-r", "--limit", "1", source], options).lines().count(), 1);
    let listed: Value = serde_json::from_str(&said(&["ls", "-r", "--json", source], options)).unwrap();
    // A store tells no sizes with its names.
    let size_bytes = &listed["names"][0]["size_bytes"];
    assert!(*size_bytes == SIZE || (source.starts_with("kv+") && size_bytes.is_null()), "{listed}");
    assert_eq!(listed["names"][1]["path"], "series/deep/e1.srt", "{listed}");
    let tree = said(&["tree", source], options);
    let drawn = "├── a film & more.mkv\n└── series/\n    └── deep/\n        └── e1.srt\n\n2 folders, 2 files\n";
    assert!(tree.ends_with(drawn), "{tree}");
    assert!(!said(&["tree", "-L", "1", source], options).contains("deep"));
    let size: Value = serde_json::from_str(&said(&["size", "--json", source], options)).unwrap();
    assert_eq!((&size["files"], &size["folders"], &size["bytes"]), (&2.into(), &2.into(), &(SIZE + 5).into()));
    let refused = run(&["cat", source], options);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is a folder"), "{refused:?}");
}

fn check_film(film: &str, options: &[String]) {
    let whole = run(&["cat", film], options);
    assert!(whole.status.success(), "{whole:?}");
    assert!(whole.stdout == reelfs::demo::generated(5, 0, SIZE as usize), "other bytes");
    for (offset, count) in [("1000", "70000"), ("2MiB", "2MiB"), ("1GiB", "5")] {
        let part = run(&["cat", "--offset", offset, "--count", count, film], options);
        let (from, to) = match offset {
            "1000" => (1_000, 71_000),
            "2MiB" => (2 << 20, SIZE as usize),
            _ => (SIZE as usize, SIZE as usize),
        };
        assert!(part.stdout == whole.stdout[from..to] && part.status.success(), "{offset} {count}");
    }
    assert_eq!(said(&["ls", film], options), format!("{}\n", "a film & more.mkv"));
    assert!(said(&["size", film], options).starts_with("1 file, 0 folders, 3.0 MiB"));
}

fn bucket() {
    let (_home, _daemon, port) = places::serve("s3", &[]);
    let options = [format!("--s3-endpoint=http://127.0.0.1:{port}")];
    assert_eq!(said(&["ls", "s3://films"], &options), "a series/\nfilm.mkv\n");
    let middle = run(&["cat", "--offset", "5MiB", "--count", "1000", "s3://films/film.mkv"], &options);
    assert!(middle.stdout == reelfs::demo::generated(7, 5 << 20, 1000), "{:?}", middle.stderr);
    assert!(said(&["size", "s3://films"], &options).starts_with("2 files, 1 folder"));
}

fn libraries() {
    let place = Place::folder();
    films(&place);
    let home = tempfile::tempdir().unwrap();
    for library in ["library:HOME/local", "kv+redb://HOME/store.redb", "kv+file://HOME/folder"] {
        let library = library.replace("HOME", home.path().to_str().unwrap());
        said(&["init", &library], &[]);
        for name in ["a film & more.mkv", "series"] {
            said(&["put", place.file(name).to_str().unwrap(), &library], &[]);
        }
        check(&library, &[]);
        let film =
            run(&["cat", "--offset", "1MiB", "--count", "2000000", &format!("{library}/a film & more.mkv")], &[]);
        assert!(film.stdout == reelfs::demo::generated(5, 1 << 20, 2_000_000), "{library}: {:?}", film.stderr);
    }
}

/// Two trees that differ in all ways: told as rclone tells it.
fn compared_as_rclone_does() {
    let (place, other) = (Place::webdav(), Place::folder());
    for place in [&place, &other] {
        films(place);
    }
    let near = place.file("").to_str().unwrap().to_owned();
    fs::write(place.file("only here.mkv"), "1").unwrap();
    fs::create_dir(other.file("there")).unwrap();
    fs::write(other.file("there/only there.mkv"), "2").unwrap();
    fs::write(other.file("series/deep/e1.srt"), "longer words").unwrap();
    let mut film = reelfs::demo::generated(5, 0, SIZE as usize);
    film[2_000_000] ^= 1;
    fs::write(other.file("a film & more.mkv"), film).unwrap();
    for (by, download) in [("size", "--size-only"), ("content", "--download")] {
        let output = run(&["check", &place.source, &other.source, "--by", by, "--all"], &[]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        let mut ours: Vec<_> = said
            .lines()
            .filter(|line| !line.contains("the same"))
            .map(|line| line.split(": ").next().unwrap())
            .collect();
        ours.sort_unstable();
        let rclone = std::process::Command::new("rclone")
            .env("PATH", super::needs::path())
            .args(["check", &near, &other.source, "--combined", "-", "--config", "/dev/null", download])
            .output()
            .unwrap();
        let said_by_rclone = String::from_utf8(rclone.stdout).unwrap();
        let mut theirs: Vec<_> = said_by_rclone.lines().collect();
        theirs.sort_unstable();
        assert_eq!(ours, theirs, "{said}");
        assert!(by == "size" || said.contains("differs from byte 2000000 on"), "{said}");
    }
    let same = run(&["check", &place.source, &near, "--by", "content"], &[]);
    assert!(same.status.success(), "{same:?}");
    let one_way =
        run(&["check", "--one-way", &format!("{}series", place.source), &format!("{}/series", other.source)], &[]);
    assert_eq!(String::from_utf8(one_way.stdout).unwrap().lines().count(), 2);
}

fn mistakes() {
    let place = Place::folder();
    films(&place);
    for (typed, code, word) in [
        (vec!["ls", "/no/such/folder"], 1, "/no/such/folder"),
        (vec!["cat", "/no/such/film.mkv"], 1, "/no/such/film.mkv"),
        (vec!["ls", &place.source, "--cursor", "x"], 2, "is no library"),
        (vec!["tree", "gopher://host/"], 2, "gopher"),
        (vec!["size", "http://127.0.0.1:1/"], 1, "127.0.0.1:1"),
    ] {
        let output = run(&typed, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(code) && said.contains(word) && said.lines().count() == 1,
            "{typed:?} {output:?}"
        );
    }
}
