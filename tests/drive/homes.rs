//! Every home of values that can run here, asked for the same: a file, a folder, and servers that other people made.
//! Never here: what a library keeps there.

use std::ops::Bound;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use reelfs::config::{PlacesConfig, S3Config};
use reelfs::error::Kind;
use reelfs::range::ByteRange;
use reelfs::store::keyed::address::Address;
use reelfs::store::keyed::{Keyed, Seen, Swap, There};
use rustix::process::Signal;
use tempfile::TempDir;

use super::daemon::{Daemon, free_port};
use super::needs::{Need, Test};

const REDIS: &[Need] = &[Need::Program("redis-server")];
const STUCK: &[Need] = &[Need::Program("redis-server"), Need::Program("rclone")];
const S3: &[Need] = &[Need::Program("rclone")];

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("homes::a_file", &[], a_file),
        Test::new("homes::a_folder", &[], a_folder),
        Test::new("homes::redis", REDIS, redis),
        Test::new("homes::a_bucket", S3, a_bucket),
        Test::new("homes::a_server_that_is_not_there", &[], a_server_that_is_not_there),
        Test::new("homes::a_server_that_is_stuck", STUCK, a_server_that_is_stuck),
    ]
}

/// A Redis server that keeps nothing on disk.
pub fn redis_server() -> (TempDir, Daemon, u16) {
    let (home, port) = (tempfile::tempdir().unwrap(), free_port());
    let dir = home.path().to_str().unwrap();
    let arguments =
        ["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir];
    let daemon = Daemon::start("redis-server", &arguments, home.path(), port);
    (home, daemon, port)
}

/// An S3 server with one bucket, `films`.
pub fn s3_server() -> (TempDir, Daemon, S3Config) {
    let (home, port) = (tempfile::tempdir().unwrap(), free_port());
    std::fs::create_dir(home.path().join("films")).unwrap();
    let address = format!("127.0.0.1:{port}");
    let arguments = ["serve", "s3", home.path().to_str().unwrap(), "--addr", &address, "--config", "/dev/null"];
    let daemon = Daemon::start("rclone", &arguments, home.path(), port);
    let config = S3Config { endpoint: Some(format!("http://{address}")), ..S3Config::default() };
    (home, daemon, config)
}

fn open(url: &str, s3: &S3Config, is_new: bool) -> Box<dyn Keyed> {
    Address::parse(url).unwrap().open(&PlacesConfig { s3: s3.clone(), ..PlacesConfig::default() }, is_new).unwrap()
}

fn a_file() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("redb://{}", folder.path().join("films.redb").display());
    let missing = Address::parse(&url).unwrap().open(&PlacesConfig::default(), false);
    assert_eq!(missing.err().unwrap().kind(), Kind::Missing);
    let home = open(&url, &S3Config::default(), true);
    check(&*home);
    // Another one has it open at the same time, as another process would.
    let other = open(&url, &S3Config::default(), false);
    put(&*other, &[("seen", b"by both")]);
    assert_eq!(get(&*home, "seen").unwrap(), "by both");
}

fn a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().join("my films").display());
    let missing = Address::parse(&url).unwrap().open(&PlacesConfig::default(), false);
    assert_eq!(missing.err().unwrap().kind(), Kind::Missing);
    let home = open(&url, &S3Config::default(), true);
    check(&*home);
    assert!(!Path::new(&folder.path().join("my films/deep")).exists(), "a folder without files is none");
    put(&*home, &[("deep", b"a file now")]);
    assert_eq!(get(&*home, "deep").unwrap(), "a file now");
}

fn redis() {
    let (_folder, _daemon, port) = redis_server();
    check(&*open(&format!("redis://127.0.0.1:{port}"), &S3Config::default(), true));
    check(&*open(&format!("redis://127.0.0.1:{port}/3/below/it"), &S3Config::default(), true));
    let refused = open(&format!("redis://:wrong@127.0.0.1:{port}/99"), &S3Config::default(), true);
    let error = get(&*refused, "any").unwrap_err();
    assert!(
        matches!(error.kind(), Kind::Denied | Kind::Unsupported) && !error.to_string().contains("wrong@"),
        "{error}"
    );
}

fn a_bucket() {
    let (_folder, _daemon, config) = s3_server();
    check(&*open("s3://films/", &config, true));
    check(&*open("s3://films/below/it", &config, true));
    let nowhere = open("s3://none/", &config, true);
    let put = nowhere.put(&[("key".to_owned(), Bytes::from_static(b"value"))]);
    for error in [put.unwrap_err(), get(&*nowhere, "key").unwrap_err()] {
        assert!(error.kind() == Kind::Invalid && error.to_string().contains("no such bucket"), "{error}");
    }
}

fn a_server_that_is_not_there() {
    let port = free_port();
    let config = S3Config { endpoint: Some(format!("http://127.0.0.1:{port}")), ..S3Config::default() };
    for url in [format!("redis://127.0.0.1:{port}"), "s3://films/".to_owned()] {
        let error = get(&*open(&url, &config, true), "any").unwrap_err();
        assert_eq!(error.kind(), Kind::Unreachable, "{error}");
    }
}

/// Every command ends, and says which store did not answer, what it was asked for, and for how long.
fn a_server_that_is_stuck() {
    let (folder, redis, port) = redis_server();
    let (_bucket, s3, config) = s3_server();
    let endpoint = config.endpoint.unwrap();
    let note = folder.path().join("note");
    std::fs::write(&note, "text").unwrap();
    let (note, got) = (note.to_str().unwrap(), folder.path().join("got"));
    let got = got.to_str().unwrap();
    let redis_url = format!("kv+redis://127.0.0.1:{port}/0/films");
    let stores = [(&*redis_url, vec![]), ("kv+s3://films/library", vec!["--s3-endpoint", &*endpoint])];
    let run = |arguments: &[&str], options: &[&str]| {
        let output = Command::new("timeout")
            .args(["60", env!("CARGO_BIN_EXE_reelfs")])
            .args(arguments)
            .args(options)
            .args(["--chunk-timeout", "0.5"])
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (url, options) in &stores {
        let put = format!("{url}/note");
        assert_eq!(run(&["init", url], options).0, Some(0));
        assert_eq!(run(&["put", note, &put], options).0, Some(0));
    }
    redis.send(Signal::STOP);
    s3.send(Signal::STOP);
    thread::scope(|scope| {
        for (url, options) in &stores {
            for command in ["ls", "get", "put", "verify"] {
                let run = &run;
                scope.spawn(move || {
                    let path = format!("{url}/note");
                    let command = match command {
                        "get" => vec!["get", &path, got],
                        "put" => vec!["put", note, &path],
                        _ => vec![command, url],
                    };
                    let (code, said) = run(&command, options);
                    assert_eq!(code, Some(1), "{command:?}: {said}");
                    let is_told = said.contains("no answer within") && said.contains("films");
                    assert!(is_told && !said.contains("os error"), "{command:?}: {said}");
                });
            }
        }
    });
}

fn get(home: &dyn Keyed, key: &str) -> reelfs::error::Result<Bytes> {
    home.get(key, ByteRange::new(0, 32 << 20))
}

fn put(home: &dyn Keyed, entries: &[(&str, &[u8])]) {
    let entry = |(key, value): &(&str, &[u8])| ((*key).to_owned(), Bytes::copy_from_slice(value));
    home.put(&entries.iter().map(entry).collect::<Vec<_>>()).unwrap();
}

fn delete(home: &dyn Keyed, keys: &[&str]) {
    home.delete(&keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>()).unwrap();
}

fn list(home: &dyn Keyed, prefix: &str, from: Bound<&str>, limit: usize) -> Vec<String> {
    home.list(prefix, from, limit).unwrap().into_iter().map(|key| key.key).collect()
}

/// What every home must do.
fn check(home: &dyn Keyed) {
    values(home);
    listings(home);
    many(home);
    swaps(home);
    together(home);
    a_value_is_there_or_not(home);
}

/// A value takes the place of the one that was looked at, and of no other.
fn swaps(home: &dyn Keyed) {
    let range = ByteRange::new(0, 3);
    let seen = |bytes: &[u8]| Seen::of(range, bytes);
    let swap = |key: &str, seen: Seen, value: Option<&'static [u8]>| Swap {
        key: key.to_owned(),
        seen,
        value: value.map(Bytes::from_static),
    };
    put(home, &[("swap/a", b"one"), ("swap/b", b"one and more"), ("swap/c", b"other")]);
    let swaps = |value: Option<&'static [u8]>| {
        let all = ["a", "b", "c", "none"].map(|name| swap(&format!("swap/{name}"), seen(b"one"), value));
        home.swap(&all).unwrap()
    };
    assert_eq!(swaps(Some(b"two")), [true, true, false, false]);
    assert_eq!(["a", "b", "c"].map(|name| get(home, &format!("swap/{name}")).unwrap()), ["two", "two", "other"]);
    // As after an answer that was lost.
    assert_eq!(swaps(Some(b"two")), [true, true, false, false]);
    assert_eq!(swaps(None), [false, false, false, true]);
    assert!(home.swap(&[]).unwrap().is_empty());
    assert_eq!(
        home.swap(&[swap("swap/a", seen(b"two"), None), swap("swap/c", seen(b"oth"), None)]).unwrap(),
        [true, true]
    );
    assert_eq!(list(home, "swap/", Bound::Unbounded, 10), ["swap/b"]);
    assert_eq!(get(home, "swap/a").unwrap_err().kind(), Kind::Missing);
    delete(home, &["swap/b"]);
}

/// Values are put in any order, in folders old and new, and over others; what stands by a key is told for many at once.
fn together(home: &dyn Keyed) {
    put(home, &[("together/old", b"old"), ("together/file", b"a file")]);
    let key = |n: usize| format!("together/{}/{n:04}", n % 10);
    let mut entries: Vec<_> = (0..900).map(|n| (key(n), Bytes::from(n.to_string().repeat(n % 7)))).collect();
    entries.push(("together/old".to_owned(), Bytes::from_static(b"new")));
    home.put_together(&entries).unwrap();
    home.put_together(&entries[..3]).unwrap();
    home.put_together(&[]).unwrap();
    for (key, value) in entries.iter().step_by(50) {
        assert_eq!(get(home, key).unwrap(), value, "{key}");
    }
    assert_eq!(get(home, "together/old").unwrap(), "new");
    assert_eq!(list(home, "together/", Bound::Unbounded, 2_000).len(), 902);
    let (value, folder, nothing) = (There::Value, There::Folder, There::Nothing);
    let looks = [
        ("together", folder),
        ("together/3", folder),
        ("together/3/0003", value),
        ("together/3/0004", nothing),
        ("together/3/000", nothing),
        ("together/old", value),
        // Of no bytes.
        ("together/0/0070", value),
        ("none/such", nothing),
    ];
    let there = home.there(&looks.map(|(key, _)| key.to_owned())).unwrap();
    assert_eq!(there, looks.map(|(_, there)| there));
    assert!(home.there(&[]).unwrap().is_empty());
    let keys: Vec<_> = list(home, "together/", Bound::Unbounded, 2_000);
    home.delete(&keys).unwrap();
    assert_eq!(list(home, "", Bound::Unbounded, 10), [""; 0]);
}

/// A value that is written between two looks is never seen as an empty one.
fn a_value_is_there_or_not(home: &dyn Keyed) {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..100 {
                put(home, &[("there", b"all of it")]);
                delete(home, &["there"]);
            }
            is_over.store(true, Ordering::Relaxed);
        });
        while !is_over.load(Ordering::Relaxed) {
            match get(home, "there") {
                Ok(value) => assert_eq!(value, "all of it"),
                // Some servers break off what is deleted under way.
                Err(error) => assert!(error.kind() == Kind::Missing || error.may_pass(), "{error}"),
            }
        }
    });
}

fn values(home: &dyn Keyed) {
    assert_eq!(get(home, "film.mkv").unwrap_err().kind(), Kind::Missing);
    assert_eq!(get(home, "deep/film.mkv").unwrap_err().kind(), Kind::Missing);
    let film: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
    put(home, &[("film.mkv", &film), ("deep/down/é #?%+& film.mkv", b"other")]);
    assert!(get(home, "film.mkv").unwrap() == film);
    assert_eq!(get(home, "deep/down/é #?%+& film.mkv").unwrap(), "other");
    for (start, end) in [(0, 1), (1_000_000, 2_500_000), (2_999_999, 3_000_000), (2_999_000, 4_000_000), (7, 7)] {
        let bytes = home.get("film.mkv", ByteRange::new(start, end)).unwrap();
        assert!(bytes == film[start as usize..(end as usize).min(film.len())], "{start}..{end}");
    }
    assert!(home.get("film.mkv", ByteRange::new(3_000_000, 3_000_001)).unwrap().is_empty());
    put(home, &[("film.mkv", b"replaced, and shorter")]);
    assert_eq!(get(home, "film.mkv").unwrap(), "replaced, and shorter");
    delete(home, &["film.mkv", "deep/down/é #?%+& film.mkv", "never there"]);
    delete(home, &["film.mkv"]);
    assert_eq!(get(home, "film.mkv").unwrap_err().kind(), Kind::Missing);
    assert_eq!(list(home, "", Bound::Unbounded, 10), [""; 0]);
}

fn listings(home: &dyn Keyed) {
    // In the order of their bytes: `-` < `.` < `/` < `0` < `_` < `a` < `é`.
    let keys =
        [".reelfs/a", "a-b", "a.mkv", "a/b", "a/c/d", "a/c/e", "a/é", "a0", "a_chunk_0", "a_chunk_10", "b", "é/x"];
    for (n, key) in keys.iter().enumerate() {
        put(home, &[(key, &vec![0; n + 1])]);
    }
    assert_eq!(list(home, "", Bound::Unbounded, 100), keys);
    for limit in [1, 2, 5] {
        let (mut all, mut after): (Vec<String>, Option<String>) = (Vec::new(), None);
        loop {
            let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let page = list(home, "", from, limit);
            let Some(last) = page.last().cloned() else { break };
            assert!(page.len() <= limit);
            after = Some(last);
            all.extend(page);
        }
        assert_eq!(all, keys, "{limit} a page");
    }
    for (prefix, from, found) in [
        ("a/", Bound::Unbounded, &keys[3..7]),
        ("a/c", Bound::Unbounded, &keys[4..6]),
        ("a_chunk_", Bound::Unbounded, &keys[8..10]),
        ("a_chunk_1", Bound::Unbounded, &keys[9..10]),
        ("", Bound::Included("a0"), &keys[7..]),
        ("", Bound::Included("a/"), &keys[3..]),
        ("", Bound::Excluded("a0"), &keys[8..]),
        ("", Bound::Excluded("a/\u{10ffff}"), &keys[7..]),
        ("a/", Bound::Excluded("a/c/d"), &keys[5..7]),
        ("a/", Bound::Included("a"), &keys[3..7]),
        ("none", Bound::Unbounded, &[]),
        ("none/such", Bound::Unbounded, &[]),
        ("a/", Bound::Included("b"), &[]),
    ] {
        assert_eq!(list(home, prefix, from, 100), found, "{prefix} {from:?}");
    }
    let sizes: Vec<_> = home.list("a/", Bound::Unbounded, 100).unwrap().iter().map(|key| key.size_bytes).collect();
    assert_eq!(sizes, [Some(4), Some(5), Some(6), Some(7)]);
    delete(home, &keys);
    assert_eq!(list(home, "", Bound::Unbounded, 10), [""; 0]);
}

/// More than any one answer of a service holds.
fn many(home: &dyn Keyed) {
    let keys: Vec<_> = (0..1_300).map(|n| format!("many/{n:05}")).collect();
    for some in keys.chunks(home.limits().batch_keys_max) {
        home.put(&some.iter().map(|key| (key.clone(), Bytes::from_static(b"x"))).collect::<Vec<_>>()).unwrap();
    }
    assert_eq!(list(home, "many/", Bound::Unbounded, 1_200), keys[..1_200]);
    assert_eq!(list(home, "many/", Bound::Excluded(&keys[1_234]), 5_000), keys[1_235..]);
    for some in keys.chunks(home.limits().batch_keys_max) {
        home.delete(some).unwrap();
    }
    assert_eq!(list(home, "", Bound::Unbounded, 10), [""; 0]);
}
