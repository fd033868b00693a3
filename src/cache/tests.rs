//! The cache tried out on real directories: what survives a restart, what damage it finds, what gives way, and that
//! the disk never holds more than it may.
//! Never here: origins and readers (see `read`'s own tests), SQL (see the index's).

mod changed;
mod grown;
mod keeping;
mod private;
mod renewed;
mod room;
mod tree;
mod trust;

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::store::Version;

const CHUNK: u64 = 64 << 10;
const BUDGET: u64 = 16 * CHUNK;
/// What a filesystem may count to a file in pieces, beside its bytes.
const EXTENTS: u64 = 4096;

fn config(dir: &Path) -> CacheConfig {
    CacheConfig { dir: dir.to_owned(), size_bytes: BUDGET, min_free_bytes: 0, chunk_size_bytes: CHUNK }
}

fn open(dir: &TempDir) -> Cache {
    open_with(&config(dir.path()))
}

fn open_with(config: &CacheConfig) -> Cache {
    Cache::open(config, "test:origin", Arc::default()).unwrap()
}

fn stat(size_bytes: u64, version: &str) -> Stat {
    Stat { size_bytes, modified: None, version: Version::etag(version) }
}

/// The bytes a file of this seed has in `range`.
fn bytes(seed: u64, range: ByteRange) -> Vec<u8> {
    (range.start..range.end).map(|at| (at.wrapping_mul(seed | 1) >> 7) as u8 ^ seed as u8 | 1).collect()
}

/// Keeps `range` of `entry` and answers what became of it.
fn keep(cache: &Cache, entry: &Arc<Entry>, seed: u64, range: ByteRange) -> Kept {
    let (done, kept) = bounded(1);
    let bytes = bytes(seed, range);
    let digest = Digest::of(&bytes);
    cache.keep(entry, range, Arc::new(bytes), digest, Box::new(move |kept| done.send(kept).unwrap()));
    kept.recv_timeout(Duration::from_mins(1)).unwrap()
}

fn slot(number: u64) -> ByteRange {
    ByteRange::at(number * CHUNK, CHUNK)
}

fn read(cache: &Cache, entry: &Entry, range: ByteRange) -> Option<Vec<u8>> {
    let mut buffer = vec![0; range.len() as usize];
    cache.read(entry, range.start, &mut buffer).then_some(buffer)
}

/// Numbers of the slots that are recorded or trusted.
fn held(cache: &Cache, entry: &Entry) -> Vec<u64> {
    let size = entry.size_bytes();
    (0..size.div_ceil(CHUNK)).filter(|number| cache.coverage(entry, slot(*number)).unwrap().gaps.is_empty()).collect()
}

/// All that is held can be read, once what an eviction gave up in vain was hashed again.
fn assert_held_is_right(cache: &Cache, entry: &Arc<Entry>) {
    assert!(check_all(cache, entry).into_iter().all(|is_right| is_right));
    for number in held(cache, entry) {
        assert!(read(cache, entry, slot(number)) == Some(bytes(1, slot(number))), "slot {number}");
    }
}

fn check_all(cache: &Cache, entry: &Arc<Entry>) -> Vec<bool> {
    let all = ByteRange::new(0, entry.size_bytes());
    let unchecked = cache.coverage(entry, all).unwrap().unchecked;
    unchecked.iter().map(|chunk| cache.check(entry, chunk).unwrap()).collect()
}

/// Bytes of the data files as the filesystem counts them.
fn du(dir: &Path) -> u64 {
    let Ok(names) = fs::read_dir(dir) else { return 0 };
    names
        .map(|name| name.unwrap().path())
        .map(|path| if path.is_dir() { du(&path) } else { fs::metadata(&path).map_or(0, |meta| meta.blocks() * 512) })
        .sum()
}

fn du_data(dir: &Path) -> u64 {
    du(&dir.join("entries"))
}

fn data_files(dir: &Path) -> Vec<PathBuf> {
    let shards = fs::read_dir(dir.join("entries")).unwrap().map(|shard| shard.unwrap().path());
    let mut files: Vec<_> =
        shards.flat_map(|shard| fs::read_dir(shard).unwrap()).map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

fn sql(dir: &TempDir, statement: &str) {
    Connection::open(index_path(dir.path())).unwrap().execute_batch(statement).unwrap();
}

#[test]
fn one_process_at_a_time_and_the_second_is_told_who() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let error = Cache::open(&config(dir.path()), "test:origin", Arc::default()).err().unwrap();
    assert_eq!(error.kind(), Kind::Busy);
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    assert!(error.to_string().contains("--cache-dir"), "{error}");
    assert_eq!(status(dir.path()).unwrap().holder_pid, Some(std::process::id()));
    drop(cache);
    assert_eq!(status(dir.path()).unwrap().holder_pid, None);
    open(&dir);
}

#[test]
fn what_is_kept_can_be_read_at_once_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let film = cache.entry("film", &stat(3 * CHUNK + 100, "1")).unwrap();
    assert_eq!(keep(&cache, &film, 1, slot(1)), Kept::Written);
    let tail = ByteRange::new(3 * CHUNK, 3 * CHUNK + 100);
    assert_eq!(keep(&cache, &film, 1, tail), Kept::Written);
    for range in [slot(1), tail, ByteRange::at(CHUNK + 5, 7)] {
        assert_eq!(read(&cache, &film, range), Some(bytes(1, range)));
    }
    assert_eq!(read(&cache, &film, ByteRange::at(CHUNK - 1, 2)), None, "a byte that is a hole");
    assert_eq!(read(&cache, &film, ByteRange::at(2 * CHUNK - 1, 2)), None);
    let coverage = cache.coverage(&film, ByteRange::new(0, film.size_bytes())).unwrap();
    assert_eq!(coverage.gaps, [slot(0), slot(2)]);
    assert!(coverage.unchecked.is_empty());
    cache.flush();
    assert_eq!(cache.held(&film).unwrap(), (2, CHUNK + 100));
    assert_eq!(cache.held_of("film", &film.stat()).unwrap(), (2, CHUNK + 100));
    assert_eq!(cache.held_of("film", &stat(1, "2")).unwrap(), (0, 0));
}

#[test]
fn pieces_become_one_row_when_their_slot_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let config = CacheConfig { size_bytes: 64 * CHUNK, chunk_size_bytes: 4 * CHUNK, ..config(dir.path()) };
    let cache = open_with(&config);
    let film = cache.entry("film", &stat(7 * CHUNK, "1")).unwrap();
    for number in [2, 0, 3, 1, 5] {
        keep(&cache, &film, 1, slot(number));
        cache.flush();
    }
    // The merge follows the flush that recorded the last piece.
    cache.flush();
    assert_eq!(cache.held(&film).unwrap(), (2, 5 * CHUNK));
    assert_eq!(cache.used_bytes(), 5 * CHUNK);
    let all = ByteRange::new(0, 4 * CHUNK);
    assert_eq!(read(&cache, &film, all), Some(bytes(1, all)));
    drop((film, cache));
    let cache = open_with(&config);
    assert_eq!(cache.verify(&mut |_| {}).unwrap(), Verified { chunks: 2, bytes: 5 * CHUNK, bad: 0 });
}

#[test]
fn old_versions_give_way_unless_they_are_open() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let old = cache.entry("film", &stat(4 * CHUNK, "1")).unwrap();
    keep(&cache, &old, 1, slot(0));
    let new = cache.entry("film", &stat(4 * CHUNK, "2")).unwrap();
    assert_ne!(old.id(), new.id());
    cache.flush();
    assert!(read(&cache, &old, slot(0)) == Some(bytes(1, slot(0))), "open: it stays");
    assert_eq!(read(&cache, &new, slot(0)), None);
    drop((old, new));
    let new = cache.entry("film", &stat(4 * CHUNK, "2")).unwrap();
    cache.flush();
    assert_eq!((data_files(dir.path()).len(), cache.used_bytes()), (1, 0));
    assert_eq!(cache.held_of("film", &stat(4 * CHUNK, "1")).unwrap(), (0, 0));
    drop(new);
}

#[test]
fn a_new_file_inherits_nothing_from_one_that_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    // The newest entry is retired, and the next one made: it must not be taken for the old one.
    let first = cache.entry("film", &stat(4 * CHUNK, "1")).unwrap();
    let second = cache.entry("film", &stat(4 * CHUNK, "2")).unwrap();
    keep(&cache, &second, 2, slot(0));
    cache.flush();
    drop((first, second));
    cache.entry("film", &stat(4 * CHUNK, "1")).unwrap();
    cache.flush();
    let other = cache.entry("other", &stat(4 * CHUNK, "1")).unwrap();
    assert_eq!(read(&cache, &other, slot(0)), None);
}

#[test]
fn orphans_of_a_crash_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let film = cache.entry("film", &stat(100 * CHUNK, "1")).unwrap();
    let lost = cache.entry("lost", &stat(4 * CHUNK, "1")).unwrap();
    for number in [0, 1, 5] {
        keep(&cache, &film, 1, slot(number));
    }
    keep(&cache, &lost, 2, slot(0));
    // Written, never recorded: in holes, beside rows, behind the last one.
    cache.flush();
    for number in [2, 9, 99] {
        film.data().write(&bytes(1, slot(number)), slot(number).start).unwrap();
    }
    let names = data_files(dir.path());
    drop((film, lost, cache));
    // Rows without data, a file without an entry, rows without an entry, and what is none of our business.
    fs::remove_file(&names[1]).unwrap();
    let stray = dir.path().join("entries/77/0000000000000777.data");
    fs::create_dir_all(stray.parent().unwrap()).unwrap();
    fs::write(&stray, "stray").unwrap();
    let foreign = names[0].with_file_name("notes.txt");
    fs::write(&foreign, "mine").unwrap();
    sql(&dir, "INSERT INTO cache_chunks VALUES (4711, 0, 65536, zeroblob(32), 1, 0)");
    let cache = open(&dir);
    assert!(!stray.exists() && foreign.exists());
    fs::remove_file(foreign).unwrap();
    assert_eq!(cache.used_bytes(), 3 * CHUNK);
    assert!(du_data(dir.path()) <= 3 * CHUNK + EXTENTS, "{}", du_data(dir.path()));
    let paths: Vec<_> = entries(dir.path(), None).unwrap().into_iter().map(|entry| entry.path).collect();
    assert_eq!(paths, ["film"]);
    let film = cache.entry("film", &stat(100 * CHUNK, "1")).unwrap();
    assert_eq!((check_all(&cache, &film), held(&cache, &film)), (vec![true; 3], vec![0, 1, 5]));
}

#[test]
fn a_single_unrecorded_block_is_found_among_many_rows() {
    let dir = tempfile::tempdir().unwrap();
    let config = CacheConfig { size_bytes: 64 * CHUNK, ..config(dir.path()) };
    let cache = open_with(&config);
    let film = cache.entry("film", &stat(100 * CHUNK, "1")).unwrap();
    (0..40).for_each(|number| assert_eq!(keep(&cache, &film, 1, slot(2 * number)), Kept::Written));
    film.data().write(&bytes(1, slot(1)), slot(1).start).unwrap();
    drop((film, cache));
    let _cache = open_with(&config);
    assert!(du_data(dir.path()) <= 40 * CHUNK + EXTENTS, "{}", du_data(dir.path()));
}

#[test]
fn an_index_that_cannot_be_written_stops_keeping_and_mends() {
    let dir = tempfile::tempdir().unwrap();
    // One full batch fits, and no chunk more: with the next, the writer waits for the recorder.
    let config = CacheConfig { size_bytes: 66 * CHUNK, ..config(dir.path()) };
    let cache = open_with(&config);
    let film = cache.entry("film", &stat(1000 * CHUNK, "1")).unwrap();
    sql(&dir, "CREATE TRIGGER broken BEFORE INSERT ON cache_chunks BEGIN SELECT RAISE(FAIL, 'as if full'); END");
    let kept: Vec<_> = (0..200).map(|number| keep(&cache, &film, 1, slot(number))).collect();
    assert_eq!(kept.last(), Some(&Kept::Skipped));
    cache.flush();
    assert!(du_data(dir.path()) <= config.size_bytes);
    sql(&dir, "DROP TRIGGER broken");
    let mended = (0..1_000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        keep(&cache, &film, 1, slot(500)) == Kept::Written
    });
    assert!(mended);
    drop((film, cache));
    let cache = open_with(&config);
    let verified = cache.verify(&mut |_| {}).unwrap();
    assert!(verified.bad == 0 && verified.chunks > 1, "{verified:?}");
}

#[test]
fn purge_takes_files_folders_or_all() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    for path in ["a/1", "a/2", "b"] {
        let file = cache.entry(path, &stat(CHUNK, "1")).unwrap();
        keep(&cache, &file, 1, slot(0));
    }
    cache.flush();
    let of =
        |paths: &[&str]| cache.purge(Purge::Paths(&paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>()));
    assert_eq!(of(&["a"]).unwrap(), Purged { entries: 2, bytes: 2 * CHUNK, in_use_bytes: 0 });
    assert_eq!(of(&["a"]).unwrap_err().kind(), Kind::Missing);
    assert_eq!((cache.used_bytes(), data_files(dir.path()).len()), (CHUNK, 1));
    assert_eq!(cache.purge(Purge::All).unwrap(), Purged { entries: 1, bytes: CHUNK, in_use_bytes: 0 });
    assert_eq!(du_data(dir.path()), 0);
}

#[test]
fn status_tells_what_is_held_with_and_without_an_owner() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(status(dir.path()).unwrap_err().kind(), Kind::Missing);
    let cache = open(&dir);
    let film = cache.entry("film", &stat(4 * CHUNK, "1")).unwrap();
    keep(&cache, &film, 1, slot(0));
    cache.flush();
    let seen = || {
        let status = status(dir.path()).unwrap();
        let entry = &entries(dir.path(), None).unwrap()[0];
        (status.used_bytes, status.budget_bytes, entry.chunks, entry.cached_bytes, entry.path.clone())
    };
    let expected = (CHUNK, Some(BUDGET), 1, CHUNK, "film".to_owned());
    assert_eq!(seen(), expected);
    drop((film, cache));
    assert_eq!(seen(), expected);
    assert_eq!(status(dir.path()).unwrap().source.as_deref(), Some("test:origin"));
}
