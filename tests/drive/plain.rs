//! Files of other programs in the stores of a library: found, listed, mounted, read; and files put as those programs write
//! them.
//! Never here: libraries of our own (see `stored`).

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

use super::mount::{Mount, Place, cache_command, reelfs};
use super::needs::{FUSE, Need, Test};
use super::stored::{Store, film};

const REDIS: &[Need] = &[FUSE, Need::Program("redis-server")];
const S3: &[Need] = &[FUSE, Need::Program("rclone")];

const PYTHON: &[Need] = &[FUSE, Need::Program("python3")];
const PYTHON_REDIS: &[Need] = &[FUSE, Need::Program("redis-server"), Need::Program("python3")];
const PYTHON_S3: &[Need] = &[FUSE, Need::Program("rclone"), Need::Program("python3")];

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("plain::found_on_redis", REDIS, found_on_redis),
        Test::new("plain::by_hand_in_a_file", &[FUSE], by_hand_in_a_file),
        Test::new("plain::by_hand_in_a_folder", &[FUSE], || by_hand_in(&Store::folder(), "films")),
        Test::new("plain::by_hand_on_redis", REDIS, by_hand_on_redis),
        Test::new("plain::by_hand_in_a_bucket", S3, || by_hand_in(&Store::bucket(), "films/my/library")),
        Test::new("plain::put_in_a_folder", PYTHON, put_plain_in_a_folder),
        Test::new("plain::put_on_redis", PYTHON_REDIS, put_plain_on_redis),
        Test::new("plain::put_in_a_bucket", PYTHON_S3, put_plain_in_a_bucket),
    ]
}

/// A connection to a Redis server, as any program has it.
struct Redis(BufReader<TcpStream>);

impl Redis {
    /// To the database that the library is in.
    fn of(store: &Store) -> Self {
        let rest = store.url.strip_prefix("kv+redis://").unwrap();
        let (address, rest) = rest.split_once('/').unwrap();
        let mut redis = Self(BufReader::new(TcpStream::connect(address).unwrap()));
        redis.ask(&[b"SELECT", rest.split('/').next().unwrap().as_bytes()]);
        redis
    }

    /// The first line of the answer; what follows a length is dropped.
    fn ask(&mut self, command: &[&[u8]]) -> String {
        let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
        for part in command {
            bytes.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            bytes.extend_from_slice(part);
            bytes.extend_from_slice(b"\r\n");
        }
        self.0.get_mut().write_all(&bytes).unwrap();
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        assert!(!line.starts_with('-'), "{line}");
        if let Some(length) = line.strip_prefix('$').and_then(|length| length.trim().parse::<usize>().ok()) {
            self.0.read_exact(&mut vec![0; length + 2]).unwrap();
        }
        line.trim_end().to_owned()
    }

    fn set(&mut self, key: &str, value: &[u8]) {
        self.ask(&[b"SET", key.as_bytes(), value]);
    }
}

/// A file that only this store's own library writes: by that.
fn by_hand_in_a_file() {
    let store = Store::file();
    store.init();
    let home = store.home();
    by_hand(&store, &mut |key, value| home.put(&[(key.to_owned(), value.to_vec().into())]).unwrap());
}

fn by_hand_on_redis() {
    let store = Store::redis();
    let mut redis = Redis::of(&store);
    by_hand(&store, &mut |key, value| redis.set(&format!("films/{key}"), value));
}

/// Into the folder that is the store, or that its server keeps its values in.
fn by_hand_in(store: &Store, top: &str) {
    let top = store.folder.path().join(top);
    by_hand(store, &mut |key, value| {
        let file = top.join(key);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, value).unwrap();
    });
}

/// Files of another program are listed, mounted and read as they are; what they promise wrongly is told in one line.
fn by_hand(store: &Store, put: &mut dyn FnMut(&str, &[u8])) {
    let (chunked, raw) = (film(1, 3000), film(2, 5_000_000));
    let plain = |total: &str, sizes: &str, count: &str| {
        format!(
            r#"{{"totalSize":{total},"chunkCount":{count},"actualChunkSizes":[{sizes}],"standardChunkSize":2000,
            "originalContentType":"video/mp4","isChunked":true}}"#
        )
    };
    // (Made only now: the server of a bucket knows no folder that is not there.)
    put("a/film.mp4_chunk_0", &chunked[..2000]);
    put("a/film.mp4_chunk_1", &chunked[2000..]);
    put("a/film.mp4", plain("3000", "2000,1000", "2").as_bytes());
    put("a/raw.mkv", &raw);
    put("note.json", b"{\"of\": \"another program\"}");
    let lies = [
        ("sum", plain("3000", "2000,999", "2"), "claims 3000 bytes, and its chunks are 2999"),
        ("count", plain("3000", "2000,1000", "99999999999"), "counts 99999999999 chunks, and has the sizes of 2"),
        ("huge", plain("18446744073709551615", "18446744073709551615", "1"), "claims 18446744073709551615 bytes"),
        ("overflow", plain("5", "18446744073709551615,6", "2"), "bytes for chunk 0; 25165824 at most"),
        ("negative", plain("-5", "-5", "1"), "-5"),
        ("missing", plain("3000", "2000,1000", "2"), "is missing: 2000 bytes"),
        ("longer", plain("3", "3", "1"), "7 bytes are there, and the manifest says 3"),
        ("shorter", plain("9", "9", "1"), "7 bytes are there, and the manifest says 9"),
    ];
    for (name, manifest, _) in &lies {
        put(&format!("lies/{name}"), manifest.as_bytes());
    }
    for name in ["longer", "shorter"] {
        put(&format!("lies/{name}_chunk_0"), b"7 bytes");
    }
    if !store.run(&["ls", &store.url]).status.success() {
        store.init();
    }
    assert_eq!(store.done(&["ls", "-r", &store.at("a")]), "a/film.mp4\na/raw.mkv\n");
    assert_eq!(store.done(&["ls", &store.url]), "a/\nlies/\nnote.json\n");
    assert_eq!(store.done(&["ls", &store.at("lies")]).lines().count(), lies.len());
    let taken = store.folder.path().join("taken");
    for (path, bytes, said) in [
        ("a/film.mp4", &chunked[..], "2 chunks, without hashes"),
        ("a/raw.mkv", &raw, "as another program put it: read-only"),
        ("note.json", b"{\"of\": \"another program\"}", "as another program put it: read-only"),
    ] {
        store.done(&["get", &store.at(path), taken.to_str().unwrap()]);
        assert!(fs::read(&taken).unwrap() == bytes, "{path}");
        let stat = store.done(&["stat", &store.at(path)]);
        assert!(stat.contains(said) && stat.contains(&format!("size      {} ", bytes.len())), "{stat}");
    }
    for (name, _, what) in &lies {
        let got = store.run(&["get", &store.at(&format!("lies/{name}")), taken.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&got.stderr).into_owned();
        assert!(!got.status.success() && said.contains(what) && said.contains(name), "{name}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let mount = Mount::new(&store.url, &store.options());
    assert!(fs::read(mount.file("a/film.mp4")).unwrap() == chunked);
    assert!(fs::read(mount.file("a/raw.mkv")).unwrap() == raw);
    assert_eq!(fs::metadata(mount.file("a/raw.mkv")).unwrap().len(), raw.len() as u64);
    for (name, ..) in &lies {
        let error = fs::read(mount.file(&format!("lies/{name}"))).unwrap_err();
        let expected = if *name == "missing" { libc::ENOENT } else { libc::EIO };
        assert_eq!(error.raw_os_error(), Some(expected), "{name}: {error}");
    }
    // What is no manifest is another program's alone.
    let raw_file = mount.file("a/raw.mkv");
    let appended = OpenOptions::new().append(true).open(&raw_file).and_then(|mut file| file.write_all(b"more"));
    assert!(appended.is_err() && fs::remove_file(&raw_file).is_err());
    assert!(fs::rename(&raw_file, mount.file("a/other.mkv")).is_err());
    assert!(fs::rename(mount.file("a/film.mp4"), &raw_file).is_err());
    mount.end();
    let (note, raw_path) = (store.folder.path().join("note"), store.at("a/raw.mkv"));
    fs::write(&note, "in its place").unwrap();
    for refused in [
        &["put", note.to_str().unwrap(), &raw_path][..],
        &["rm", &raw_path],
        &["mv", &raw_path, &store.at("b")],
        &["mv", &store.at("a/film.mp4"), &raw_path],
        &["tag", &raw_path, "--add", "a"],
    ] {
        let refused = store.run(refused);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("another program"), "{said}");
    }
    store.done(&["gc", "--grace", "0", &store.url]);
    store.done(&["get", &raw_path, taken.to_str().unwrap()]);
    assert!(fs::read(&taken).unwrap() == raw);
    // What is cached of such a value is good for the next mount, where its store tells one state of it from another.
    let place = Place::new();
    let read = || {
        let mount = Mount::on(&place, &store.url, &store.options());
        let bytes = fs::read(mount.file("a/raw.mkv")).unwrap();
        mount.end();
        let status = cache_command(&place, &["status", "--json"]).stdout;
        let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
        (bytes, status["caches"][0]["entries"][0]["version"].as_str().unwrap().to_owned())
    };
    let (first, second) = (read(), read());
    assert!(first.0 == raw && second.0 == raw);
    assert_eq!(first.1 == second.1, store.url.contains("file") || store.url.contains("s3"), "{} {}", first.1, second.1);
    let mut changed = raw;
    changed[3_000_000] ^= 1;
    put("a/raw.mkv", &changed);
    assert!(read().0 == changed);
}

/// What another program set is listed, and nothing else of what it has there; what it sets later when it is looked for.
fn found_on_redis() {
    let mut store = Store::redis();
    store.url += " [1998]*?";
    let mut redis = Redis::of(&store);
    let top = "films [1998]*?";
    let whole = film(1, 3000);
    redis.set(&format!("{top}/a/film.mkv_chunk_0"), &whole[..2000]);
    redis.set(&format!("{top}/a/film.mkv_chunk_1"), &whole[2000..]);
    let manifest = br#"{"totalSize":3000,"chunkCount":2,"actualChunkSizes":[2000,1000]}"#;
    redis.set(&format!("{top}/a/film.mkv"), manifest);
    redis.set("films 1/other.mkv", b"not below it, though a pattern would take it for that");
    redis.set(&format!("{top}/nested/.reelfs/library.json"), b"{}");
    redis.ask(&[b"HSET", format!("{top}/table").as_bytes(), b"field", b"value"]);
    redis.ask(&[b"SET", &[top.as_bytes(), b"/\xff.mkv"].concat(), b"no name"]);
    redis.set(&format!("{top}/gone.mkv"), b"for a moment");
    redis.set(&format!("{top}/changes.mkv"), b"into something else");
    store.done(&["init", &store.url]);
    let listed = |store: &Store, more: &[&str]| store.done(&[&["ls", "-r", &store.url], more].concat());
    assert_eq!(listed(&store, &[]), "a/film.mkv\nchanges.mkv\ngone.mkv\n");
    assert_eq!(redis.ask(&[b"EXISTS", format!("{top}/.reelfs/walked").as_bytes()]), ":1");
    // What is no string is no file, and nothing takes its place.
    let other = store.folder.path().join("table");
    fs::write(&other, "a file").unwrap();
    for more in [&[][..], &["--plain"]] {
        let put = store.run(&[&["put", other.to_str().unwrap(), &store.at("table")], more].concat());
        let said = String::from_utf8_lossy(&put.stderr).into_owned();
        assert!(!put.status.success() && said.lines().count() == 1 && said.contains("table"), "{said}");
    }
    assert_eq!(redis.ask(&[b"HLEN", format!("{top}/table").as_bytes()]), ":1");
    // The index knows nothing of what others do.
    redis.ask(&[b"DEL", format!("{top}/gone.mkv").as_bytes(), format!("{top}/changes.mkv").as_bytes()]);
    redis.ask(&[b"RPUSH", format!("{top}/changes.mkv").as_bytes(), b"a list"]);
    redis.set(&format!("{top}/later.mkv"), b"");
    assert_eq!(listed(&store, &[]), "a/film.mkv\n");
    assert_eq!(store.done(&["ls", &store.url, "--limit", "1", "--json"]).matches("\"path\"").count(), 1);
    assert_eq!(listed(&store, &["--refresh"]), "a/film.mkv\nlater.mkv\n");
    let index = format!("{top}/.reelfs/index");
    assert_eq!(redis.ask(&[b"ZSCORE", index.as_bytes(), b"gone.mkv"]), "$-1", "it left the index");
    let mount = Mount::new(&store.url, &[]);
    assert!(fs::read(mount.file("a/film.mkv")).unwrap() == whole);
    redis.set(&format!("{top}/b/last.mkv"), b"{");
    assert!(!mount.file("b").exists());
    let refreshed = reelfs().arg("refresh").arg(mount.point()).env("XDG_RUNTIME_DIR", mount.place.runtime()).output();
    let refreshed = refreshed.unwrap();
    assert!(refreshed.status.success(), "{refreshed:?}");
    let names = fs::read_dir(mount.file("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, ["a", "b", "later.mkv"]);
    mount.end();
    cut_off(&store, &mut redis, top);
}

/// A look through all keys that is killed is no look.
fn cut_off(store: &Store, redis: &mut Redis, top: &str) {
    for n in 0..30_000 {
        redis.set(&format!("{top}/many/{n:05}"), b"x");
    }
    let mark = format!("{top}/.reelfs/walked");
    for milliseconds in [5, 10, 20, 40] {
        redis.ask(&[b"DEL", mark.as_bytes()]);
        let mut ls = reelfs();
        let mut ls = ls.args(["ls", &store.url]).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        ls.kill().unwrap();
        ls.wait().unwrap();
        if redis.ask(&[b"EXISTS", mark.as_bytes()]) == ":1" {
            let many = store.done(&["ls", &store.at("many")]);
            assert_eq!(many.lines().count(), 30_000, "after {milliseconds} ms");
        }
    }
    assert_eq!(store.done(&["ls", &store.at("many")]).lines().count(), 30_000);
}

/// What is put as other programs do it is read by one that knows nothing else, and comes back.
fn put_plain(store: &Store, reader: &[&str]) {
    store.init();
    let (films, taken) = (store.folder.path().join("to put"), store.folder.path().join("taken"));
    fs::create_dir_all(films.join("a b")).unwrap();
    let sizes = [0, 1, 1024, 1025, 300_000];
    for (seed, size) in sizes.into_iter().enumerate() {
        fs::write(films.join(format!("a b/{size}é.mkv")), film(seed as u64, size)).unwrap();
    }
    let path = |size: usize| format!("shelf/a b/{size}é.mkv");
    let is_whole = |size: usize, expected: &[u8]| {
        let read = python(reader, &path(size));
        assert!(read.status.success(), "{size}: {}", String::from_utf8_lossy(&read.stderr));
        assert!(read.stdout == expected && read.stderr == b"video/x-matroska\n", "{size}");
    };
    let source = films.join("a b");
    let put = ["put", "--plain", source.to_str().unwrap(), &store.at("shelf/")];
    assert!(store.done(&put).contains("5 files put"));
    for (seed, size) in sizes.into_iter().enumerate() {
        is_whole(size, &film(seed as u64, size));
        store.done(&["get", &store.at(&path(size)), taken.to_str().unwrap()]);
        assert!(fs::read(&taken).unwrap() == film(seed as u64, size));
    }
    let names = store.done(&["ls", "-r", &store.url]);
    assert_eq!(names.lines().count(), sizes.len(), "chunks are no files: {names}");
    assert!(
        !store.done(&["stat", "--json", &store.at(&path(1025))]).contains("\"modified\":\"2"),
        "the form has no time"
    );
    let mount = Mount::new(&store.url, &store.options());
    for (seed, size) in sizes.into_iter().enumerate() {
        assert!(fs::read(mount.file(&path(size))).unwrap() == film(seed as u64, size), "{size}");
    }
    mount.end();
    // A shorter one in its place, from a pipe; and one of ours in its place.
    let short = film(9, 2000);
    let mut put = reelfs();
    let mut put = put
        .args(["put", "--plain", "-", &store.at(&path(300_000))])
        .args(store.options())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    put.stdin.take().unwrap().write_all(&short).unwrap();
    assert!(put.wait().unwrap().success());
    is_whole(300_000, &short);
    assert_eq!(store.done(&["ls", "-r", &store.url]).lines().count(), sizes.len());
    assert_eq!(store.keys().iter().filter(|key| key.contains("300000é.mkv_chunk_")).count(), 2);
    store.done(&["put", source.join("1é.mkv").to_str().unwrap(), &store.at(&path(300_000))]);
    assert!(!python(reader, &path(300_000)).status.success(), "it is no longer in that form");
    store.done(&["rm", "-r", &store.at("shelf")]);
    store.done(&["gc", "--grace", "0", &store.url]);
    assert_eq!(store.keys(), [".reelfs/library.json"]);
    let tagged = store.run(&["put", "--plain", "--tag", "x", source.to_str().unwrap(), &store.url]);
    assert!(String::from_utf8_lossy(&tagged.stderr).contains("--tag"), "{tagged:?}");
}

/// Fifty lines that know only the plain form.
fn python(reader: &[&str], path: &str) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plain_reader.py");
    Command::new("python3").arg(script).args(reader).arg(path).env("PATH", super::needs::path()).output().unwrap()
}

fn put_plain_in_a_folder() {
    let store = Store::folder();
    let top = store.folder.path().join("films");
    put_plain(&store, &["folder", top.to_str().unwrap()]);
}

fn put_plain_on_redis() {
    let store = Store::redis();
    let place = store.url.strip_prefix("kv+redis://").unwrap().to_owned();
    put_plain(&store, &["redis", &place]);
}

fn put_plain_in_a_bucket() {
    let store = Store::bucket();
    let url = format!("{}/films/my/library", store.options()[1]);
    put_plain(&store, &["http", &url]);
}
