//! Libraries in stores, by the program's own commands: put, mounted, purged by runs that are killed, replaced under readers.
//! Never here: what a store must do (see `homes`), and libraries of this machine.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::ops::Bound;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reelfs::config::{PlacesConfig, S3Config};
use reelfs::demo::generate;
use reelfs::range::ByteRange;
use reelfs::store::keyed::Keyed;
use reelfs::store::keyed::address::Address;
use rustix::process::Signal;
use tempfile::TempDir;

use super::daemon::Daemon;
use super::homes::{redis_server, s3_server};
use super::mount::{Mount, Place, reelfs};
use super::needs::{FUSE, Need, Test};

const REDIS: &[Need] = &[FUSE, Need::Program("redis-server")];
const S3: &[Need] = &[FUSE, Need::Program("rclone")];
/// So many files are purged; the variable asks for more.
const PURGED_FILES: usize = 240;
const PURGED_FILES_VARIABLE: &str = "REELFS_TESTS_PURGED_FILES";
/// Small, so that files have several.
const CHUNK_BYTES: u64 = 1024;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("stored::in_a_file", &[FUSE], || works(&Store::file())),
        Test::new("stored::in_a_folder", &[FUSE], || works(&Store::folder())),
        Test::new("stored::on_redis", REDIS, || works(&Store::redis())),
        Test::new("stored::in_a_bucket", S3, || works(&Store::bucket())),
        Test::new("stored::files_of_another_program", &[FUSE], files_of_another_program),
        Test::new("stored::purged_on_redis", REDIS, || purged(&Store::redis())),
        Test::new("stored::purged_in_a_bucket", S3, || purged(&Store::bucket())),
        Test::new("stored::two_mounts_of_a_bucket_that_changes", S3, two_mounts_of_a_bucket_that_changes),
    ]
}

/// A place for a library.
pub struct Store {
    pub url: String,
    s3: S3Config,
    _server: Option<Daemon>,
    pub folder: TempDir,
}

impl Store {
    pub fn file() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("kv+redb://{}/films.redb", folder.path().display());
        Self { url, s3: S3Config::default(), _server: None, folder }
    }

    pub fn folder() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("kv+file://{}/films", folder.path().display());
        Self { url, s3: S3Config::default(), _server: None, folder }
    }

    pub fn local() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("library:{}", folder.path().join("films").display());
        Self { url, s3: S3Config::default(), _server: None, folder }
    }

    pub fn redis() -> Self {
        let (folder, server, port) = redis_server();
        let url = format!("kv+redis://127.0.0.1:{port}/1/films");
        Self { url, s3: S3Config::default(), _server: Some(server), folder }
    }

    pub fn bucket() -> Self {
        let (folder, server, s3) = s3_server();
        Self { url: "kv+s3://films/my/library".into(), s3, _server: Some(server), folder }
    }

    pub fn options(&self) -> Vec<&str> {
        self.s3.endpoint.iter().flat_map(|endpoint| ["--s3-endpoint", endpoint]).collect()
    }

    pub fn at(&self, path: &str) -> String {
        format!("{}/{path}", self.url)
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        reelfs().args(arguments).args(self.options()).stdin(Stdio::null()).output().unwrap()
    }

    /// What a command says that must succeed.
    pub fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn init(&self) {
        let chunk = CHUNK_BYTES.to_string();
        let said = self.done(&["init", &self.url, "--inline-max", &chunk, "--chunk-size", &chunk]);
        assert!(said.contains(&self.url), "{said}");
    }

    pub fn home(&self) -> Box<dyn Keyed> {
        Address::parse(self.url.strip_prefix("kv+").unwrap())
            .unwrap()
            .open(&PlacesConfig { s3: self.s3.clone(), ..PlacesConfig::default() }, false)
            .unwrap()
    }

    /// All but words about what was removed, which stay for an hour.
    pub fn keys(&self) -> Vec<String> {
        let (home, mut keys) = (self.home(), Vec::<String>::new());
        loop {
            let from = keys.last().map_or(Bound::Unbounded, |last| Bound::Excluded(last.as_str()));
            let page = home.list("", from, 1000).unwrap();
            if page.is_empty() {
                keys.retain(|key| !key.starts_with(".reelfs/swept/"));
                return keys;
            }
            keys.extend(page.into_iter().map(|key| key.key));
        }
    }

    /// Every key, and what is under it.
    fn all(&self) -> BTreeMap<String, Bytes> {
        let home = self.home();
        let value = |key: String| {
            let get = || home.get(&key, ByteRange::new(0, 1 << 20));
            // A server may hang up once, as rclone does under load: a library asks again, and so do we.
            let value = get().or_else(|_| get()).unwrap();
            (key, value)
        };
        self.keys().into_iter().map(value).collect()
    }
}

pub fn film(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    generate(seed, 0, &mut bytes);
    bytes
}

/// From `init` to `gc`, and a mount in between.
fn works(store: &Store) {
    let said = store.run(&["ls", &store.url]);
    assert!(!said.status.success() && String::from_utf8_lossy(&said.stderr).contains("reelfs init"), "{said:?}");
    store.init();
    let films = store.folder.path().join("to put");
    let sizes = [0, 1, 1023, 1024, 1025, 2048, 70_000, 300_000];
    fs::create_dir_all(films.join("a series")).unwrap();
    for (seed, size) in sizes.into_iter().enumerate() {
        fs::write(films.join(format!("a series/{size}.mkv")), film(seed as u64, size)).unwrap();
    }
    let source = films.join("a series");
    let source = source.to_str().unwrap();
    store.done(&["put", source, &store.at("shelf/"), "--tag", "new"]);
    let again = store.done(&["put", source, &store.at("shelf/"), "--tag", "new"]);
    assert!(again.contains("0 files put"), "{again}");
    let names = store.done(&["ls", &store.at("shelf/a series")]);
    assert_eq!(names.lines().count(), sizes.len(), "{names}");
    let mut options = store.options();
    options.push("--read-only");
    let mount = Mount::new(&store.url, &options);
    for (seed, size) in sizes.into_iter().enumerate() {
        let path = mount.file(&format!("shelf/a series/{size}.mkv"));
        assert_eq!(fs::metadata(&path).unwrap().len(), size as u64);
        assert!(fs::read(&path).unwrap() == film(seed as u64, size), "{size}");
        assert!(File::options().write(true).open(&path).is_err(), "read-only");
    }
    mount.end();
    // A part of it, too.
    let mount = Mount::new(&store.at("shelf/a series"), &store.options());
    assert!(fs::read(mount.file("70000.mkv")).unwrap() == film(6, 70_000));
    mount.end();
    let taken = store.folder.path().join("taken");
    store.done(&["get", &store.at("shelf/a series/300000.mkv"), taken.to_str().unwrap()]);
    assert!(fs::read(&taken).unwrap() == film(7, 300_000));
    store.done(&["mv", &store.at("shelf/a series/300000.mkv"), &store.at("film.mkv")]);
    store.done(&["verify", &store.url]);
    damaged(store);
    store.done(&["rm", &store.at("film.mkv")]);
    store.done(&["gc", "--grace", "0", &store.url]);
    store.done(&["purge", &store.url, "--tag", "new"]);
    assert_eq!(store.keys(), [".reelfs/library.json"]);
}

/// Without hashes nothing tells files of the same sizes apart, and each is shown as it is nevertheless.
fn files_of_another_program() {
    let store = Store::folder();
    store.init();
    let home = store.home();
    let put = |name: &str, seed| {
        let bytes = Bytes::from(film(seed, 2000));
        let manifest = r#"{"totalSize":2000,"chunkCount":2,"actualChunkSizes":[1000,1000]}"#;
        let chunk = |n: usize| (format!("{name}_chunk_{n}"), bytes.slice(n * 1000..(n + 1) * 1000));
        home.put(&[chunk(0), chunk(1), (name.to_owned(), manifest.into())]).unwrap();
    };
    put("a", 1);
    put("b", 2);
    let mount = Mount::new(&store.url, &[]);
    assert!(fs::read(mount.file("a")).unwrap() == film(1, 2000));
    assert!(fs::read(mount.file("b")).unwrap() == film(2, 2000));
    put("a", 3);
    let begun = Instant::now();
    while fs::read(mount.file("a")).unwrap() != film(3, 2000) {
        assert!(begun.elapsed() < Duration::from_secs(30), "still the old one");
        mount.send(Signal::HUP);
        thread::sleep(Duration::from_millis(300));
    }
    mount.end();
    // The next run has the cache of this one.
    let place = Place::new();
    for seed in [4, 5] {
        put("b", seed);
        let mount = Mount::on(&place, &store.url, &[]);
        assert!(fs::read(mount.file("b")).unwrap() == film(seed, 2000));
        mount.end();
    }
}

/// A flipped bit is never shown, and named, and mended from a library on this machine.
fn damaged(store: &Store) {
    let (home, all) = (store.home(), store.all());
    let (key, value) = all.iter().find(|(key, _)| key.ends_with("_chunk_200")).unwrap();
    let mut flipped = value.to_vec();
    flipped[7] ^= 4;
    home.put(&[(key.clone(), flipped.into())]).unwrap();
    let said = store.run(&["verify", &store.url]);
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(!said.status.success() && text.contains("damaged") && text.contains(key.as_str()), "{text}");
    let place = Place::new();
    let mount = Mount::on(&place, &store.url, &store.options());
    let error = fs::read(mount.file("film.mkv")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    assert!(place.log().contains("chunk 200") && place.log().contains(key.as_str()), "{}", place.log());
    mount.end();
    let other = format!("library:{}", store.folder.path().join("other").display());
    store.done(&["init", &other]);
    store.done(&["put", store.folder.path().join("taken").to_str().unwrap(), &format!("{other}/film.mkv")]);
    let said = store.done(&["verify", &store.url, "--repair-from", &other]);
    assert!(said.contains("repaired") && store.all()[key] == *value, "{said}");
    store.done(&["verify", &store.url]);
}

/// Nothing is left of what is purged, and nothing else is touched, though the purge is killed again and again.
fn purged(store: &Store) {
    let count = std::env::var(PURGED_FILES_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(PURGED_FILES);
    store.init();
    let (kept, old) = (store.folder.path().join("kept"), store.folder.path().join("old"));
    fs::create_dir_all(&kept).unwrap();
    fs::create_dir_all(&old).unwrap();
    for n in 0..20 {
        fs::write(kept.join(format!("{n}")), film(n, 2500)).unwrap();
    }
    for n in 0..count {
        // Some have the same content as some that are kept.
        let seed = if n.is_multiple_of(50) { (n % 20) as u64 } else { 1000 + n as u64 };
        fs::write(old.join(format!("{n:05}")), film(seed, 2500)).unwrap();
    }
    store.done(&["put", kept.to_str().unwrap(), &store.url, "--tag", "keep", "--jobs", "4"]);
    let before = store.all();
    let begun = Instant::now();
    store.done(&["put", old.to_str().unwrap(), &store.url, "--tag", "old", "--tag", "other/tag", "--jobs", "4"]);
    println!("{count} files put in {:.1?}", begun.elapsed());
    assert!(store.keys().iter().filter(|key| key.contains("_chunk_")).count() > count * 2);
    let begun = Instant::now();
    let mut kills = 0;
    for after_ms in [20, 40, 80, 160, 320] {
        let mut purge = reelfs();
        let purge = purge.args(["purge", &store.url, "--tag", "old"]).args(store.options());
        let mut purge = purge.stdout(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(after_ms * count as u64 / PURGED_FILES as u64));
        purge.kill().unwrap();
        kills += usize::from(!purge.wait().unwrap().success());
    }
    let said = store.done(&["purge", &store.url, "--tag", "old"]);
    println!("purged in {:.1?}, killed {kills} times: {said}", begun.elapsed());
    let after = store.all();
    let extra: Vec<_> = after.keys().filter(|key| !before.contains_key(*key)).collect();
    assert!(extra.is_empty(), "left over: {extra:?}");
    assert!(after == before, "something else was touched");
    store.done(&["verify", &store.url]);
}

/// Every reader sees one whole version, on two drives, while a third program puts one after the other.
fn two_mounts_of_a_bucket_that_changes() {
    const WANTED: usize = 3;
    let store = Store::bucket();
    store.done(&["init", &store.url, "--inline-max", "64KiB", "--chunk-size", "256KiB"]);
    let versions = [(71, 3_000_000), (72, 2_500_001), (73, 40_000)];
    let files = versions.map(|(seed, size)| {
        let path = store.folder.path().join(format!("version {seed}"));
        fs::write(&path, film(seed, size)).unwrap();
        path
    });
    let put = |file: &Path| store.done(&["put", file.to_str().unwrap(), &store.at("film.mkv")]);
    put(&files[0]);
    let mut options = store.options();
    options.extend(["--dir-ttl", "0"]);
    let mounts = [Mount::new(&store.url, &options), Mount::new(&store.url, &options)];
    let wholes = versions.map(|(seed, size)| film(seed, size));
    let (is_over, puts) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let n = puts.fetch_add(1, Ordering::Relaxed) + 1;
                put(&files[n % files.len()]);
            }
        });
        let readers: Vec<_> = mounts
            .iter()
            .map(|mount| {
                let wholes = &wholes;
                scope.spawn(move || {
                    let (mut seen, mut stale) = ([0; 3], 0);
                    let deadline = Instant::now() + Duration::from_mins(2);
                    while seen.iter().any(|count| *count < WANTED) && Instant::now() < deadline {
                        let mut bytes = Vec::new();
                        let read = File::open(mount.file("film.mkv")).and_then(|mut film| film.read_to_end(&mut bytes));
                        match read {
                            Ok(_) => {
                                let version = wholes.iter().position(|whole| *whole == bytes);
                                seen[version.expect("one of the versions, whole")] += 1;
                            }
                            // Replaced between its name and its open.
                            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => stale += 1,
                            Err(error) => panic!("{error}: {}", mount.place.log()),
                        }
                    }
                    (seen, stale)
                })
            })
            .collect();
        let seen: Vec<_> = readers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        is_over.store(true, Ordering::Relaxed);
        for seen in seen {
            let (seen, stale) = seen.unwrap();
            println!("{} puts; seen whole: {seen:?}; told that it changed: {stale}", puts.load(Ordering::Relaxed));
            assert!(seen.iter().all(|count| *count >= WANTED), "{seen:?}, {stale} times stale");
        }
    });
}
