//! The cache tried out on real directories: what survives a restart, what damage it finds, what gives way, and that
//! the disk never holds more than it may.
//! Never here: origins and readers (see `read`'s own tests), SQL (see the index's).

mod keeping;
mod tree;

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::process::Command;
use std::sync::atomic::AtomicUsize;
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
fn assert_held_is_right(cache: &Cache, entry: &Entry) {
    assert!(check_all(cache, entry).into_iter().all(|is_right| is_right));
    for number in held(cache, entry) {
        assert!(read(cache, entry, slot(number)) == Some(bytes(1, slot(number))), "slot {number}");
    }
}

fn check_all(cache: &Cache, entry: &Entry) -> Vec<bool> {
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
    assert_eq!(cache.held_of("film", film.stat()).unwrap(), (2, CHUNK + 100));
    assert_eq!(cache.held_of("film", &stat(1, "2")).unwrap(), (0, 0));
}

#[test]
fn a_restart_trusts_nothing_it_has_not_hashed() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let film = cache.entry("film", &stat(4 * CHUNK, "1")).unwrap();
    keep(&cache, &film, 1, slot(0));
    keep(&cache, &film, 1, slot(1));
    drop((film, cache));
    let cache = open(&dir);
    let film = cache.entry("film", &stat(4 * CHUNK, "1")).unwrap();
    assert_eq!(read(&cache, &film, slot(0)), None);
    assert!(cache.trusted(&film, slot(0)).is_empty());
    let coverage = cache.coverage(&film, ByteRange::new(10, 2 * CHUNK + 1)).unwrap();
    assert_eq!(coverage.unchecked.len(), 2);
    assert_eq!(coverage.gaps, [ByteRange::at(2 * CHUNK, 1)]);
    assert!(cache.check(&film, &coverage.unchecked[0]).unwrap());
    assert!(read(&cache, &film, slot(0)) == Some(bytes(1, slot(0))));
    assert_eq!(read(&cache, &film, slot(1)), None, "only what was hashed");
}

#[test]
fn damaged_bytes_are_dropped_and_their_room_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let film = cache.entry("film", &stat(4 * CHUNK, "1")).unwrap();
    for number in 0..3 {
        keep(&cache, &film, 1, slot(number));
    }
    drop((film, cache));
    let on_disk = fs::File::options().write(true).open(&data_files(dir.path())[0]).unwrap();
    on_disk.write_all_at(&[0], CHUNK + 77).unwrap();
    let metrics = Arc::<Metrics>::default();
    let cache = Cache::open(&config(dir.path()), "test:origin", Arc::clone(&metrics)).unwrap();
    let film = cache.entry("film", &stat(4 * CHUNK, "1")).unwrap();
    assert_eq!(check_all(&cache, &film), [true, false, true]);
    cache.flush();
    assert_eq!((held(&cache, &film), metrics.cache_corrupt_chunks.get()), (vec![0, 2], 1));
    assert_eq!((cache.used_bytes(), du_data(dir.path())), (2 * CHUNK, 2 * CHUNK));
    assert_eq!(keep(&cache, &film, 1, slot(1)), Kept::Written);
    assert!(read(&cache, &film, slot(1)) == Some(bytes(1, slot(1))));
}

#[test]
fn a_chunk_that_fails_takes_all_trust_in_it_along() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let film = cache.entry("film", &stat(4 * CHUNK, "1")).unwrap();
    keep(&cache, &film, 1, slot(1));
    cache.flush();
    // As after a read that the disk refused: the rest of the chunk is still trusted.
    cache.shared.hot.distrust(film.id(), CHUNK, ByteRange::at(CHUNK, 4096));
    film.data.write(&[0; 10], CHUNK).unwrap();
    assert_eq!(check_all(&cache, &film), [false]);
    assert!(cache.trusted(&film, slot(1)).is_empty(), "before its hole is there");
    cache.flush();
    assert_eq!(read(&cache, &film, ByteRange::at(2 * CHUNK - 10, 10)), None, "it is a hole");
}

#[test]
fn a_damaged_chunk_stays_while_somebody_reads_in_its_slot() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let film = cache.entry("film", &stat(4 * CHUNK, "1")).unwrap();
    keep(&cache, &film, 1, slot(1));
    cache.flush();
    let claim = cache.shared.hot.claim(film.id(), CHUNK, slot(1)).unwrap();
    cache.shared.hot.distrust(film.id(), CHUNK, slot(1));
    film.data.write(&[0; 10], CHUNK).unwrap();
    assert_eq!(check_all(&cache, &film), [false]);
    let tail = ByteRange::at(2 * CHUNK - 10, 10);
    let on_disk = || {
        let mut seen = vec![0; 10];
        film.data.read(&mut seen, tail.start).unwrap();
        seen
    };
    // Time enough to go wrong.
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(on_disk(), bytes(1, tail));
    drop(claim);
    cache.flush();
    assert_eq!(on_disk(), [0; 10]);
}

#[test]
fn two_checks_of_one_damaged_chunk_drop_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let film = cache.entry("film", &stat(4 * CHUNK, "1")).unwrap();
    keep(&cache, &film, 1, slot(1));
    cache.flush();
    cache.shared.hot.distrust(film.id(), CHUNK, slot(1));
    let stale = cache.coverage(&film, slot(1)).unwrap().unchecked.remove(0);
    film.data.write(&[0; 10], CHUNK).unwrap();
    assert!(!cache.check(&film, &stale).unwrap());
    keep(&cache, &film, 1, slot(1));
    cache.flush();
    // The second one was queued before the first had ended.
    assert!(cache.check(&film, &stale).unwrap(), "the same bytes, and whole by now");
    cache.flush();
    assert!(read(&cache, &film, slot(1)) == Some(bytes(1, slot(1))));
    assert_eq!(cache.used_bytes(), CHUNK);
}

#[test]
fn checks_wait_for_an_eviction_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let film = cache.entry("film", &stat(4 * CHUNK, "1")).unwrap();
    keep(&cache, &film, 1, slot(1));
    cache.flush();
    let hot = &cache.shared.hot;
    assert!(hot.release(film.id(), CHUNK, slot(1)), "the evictor has chosen it");
    let row = cache.coverage(&film, slot(1)).unwrap().unchecked.remove(0);
    assert!(!cache.check(&film, &row).unwrap());
    assert_eq!(read(&cache, &film, slot(1)), None, "or a reader would see the hole");
    hot.gone(film.id(), CHUNK, slot(1));
    assert!(cache.check(&film, &row).unwrap());
}

#[test]
fn the_least_recently_used_give_way_and_the_disk_holds_no_more_than_it_may() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let film = cache.entry("film", &stat(1000 * CHUNK, "1")).unwrap();
    for number in 0..10 {
        keep(&cache, &film, 1, slot(number));
        cache.flush();
    }
    // Read again: it outlives those that were not.
    assert!(read(&cache, &film, slot(0)).is_some());
    for number in 100..110 {
        assert_eq!(keep(&cache, &film, 1, slot(number)), Kept::Written);
        assert!(du_data(dir.path()) <= BUDGET && cache.used_bytes() <= BUDGET);
        cache.flush();
    }
    let held = held(&cache, &film);
    assert!(held.contains(&0) && !held.contains(&1) && held.contains(&9), "{held:?}");
    assert!((100..110).all(|number| held.contains(&number)), "{held:?}");
    for number in held {
        assert!(read(&cache, &film, slot(number)) == Some(bytes(1, slot(number))));
    }
    for number in 200..500 {
        assert_eq!(keep(&cache, &film, 1, slot(number)), Kept::Written);
        let disk = du_data(dir.path());
        assert!(disk <= BUDGET, "{disk} bytes after slot {number}");
    }
    cache.flush();
    assert_eq!(cache.used_bytes(), du_data(dir.path()));
}

#[test]
fn short_files_give_all_their_room_back() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    for number in 0..500 {
        let size = 1 + number * 37 % 9000;
        let file = cache.entry(&format!("{number}.srt"), &stat(size, "1")).unwrap();
        assert_eq!(keep(&cache, &file, number, ByteRange::new(0, size)), Kept::Written);
        let disk = du_data(dir.path());
        assert!(disk <= BUDGET, "{disk} bytes after {number} files");
    }
}

#[test]
fn what_is_being_read_stays() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let film = cache.entry("film", &stat(1000 * CHUNK, "1")).unwrap();
    keep(&cache, &film, 1, slot(0));
    cache.flush();
    let claim = cache.shared.hot.claim(film.id(), CHUNK, ByteRange::at(5, 10)).unwrap();
    for number in 1..100 {
        assert_eq!(keep(&cache, &film, 1, slot(number)), Kept::Written);
        let mut seen = vec![0; 10];
        film.data.read(&mut seen, 5).unwrap();
        assert_eq!(seen, bytes(1, ByteRange::at(5, 10)), "after {number}");
    }
    drop(claim);
    for number in 100..200 {
        keep(&cache, &film, 1, slot(number));
    }
    assert_eq!(read(&cache, &film, slot(0)), None);
}

#[test]
fn nothing_is_kept_when_all_of_it_is_being_read() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let film = cache.entry("film", &stat(1000 * CHUNK, "1")).unwrap();
    let kept = (0..20).take_while(|number| {
        let kept = keep(&cache, &film, 1, slot(*number)) == Kept::Written;
        std::mem::forget(cache.shared.hot.hold(film.id(), CHUNK, slot(*number)));
        kept
    });
    assert_eq!(kept.count() as u64, cache.budget_bytes() / CHUNK);
    assert!(du_data(dir.path()) <= BUDGET);
}

#[test]
fn readers_evictor_and_checkers_never_show_a_hole() {
    const SLOTS: u64 = 24;
    let dir = tempfile::tempdir().unwrap();
    let (cache, film) = {
        let cache = open(&dir);
        let film = cache.entry("film", &stat(SLOTS * CHUNK, "1")).unwrap();
        (Arc::new(cache), film)
    };
    let hits = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let (cache, film, hits) = (&cache, &film, &hits);
            scope.spawn(move || {
                let mut dice = fastrand::Rng::with_seed(seed);
                for _ in 0..4_000 {
                    let at = dice.u64(..SLOTS * CHUNK - 100);
                    let range = ByteRange::at(at, dice.u64(1..100));
                    if let Some(seen) = read(cache, film, range) {
                        hits.fetch_add(1, Ordering::Relaxed);
                        assert_eq!(seen, bytes(1, range), "{range}");
                    }
                    // Forget now and then, as a full LRU does, so that there is something to check.
                    if dice.u8(..4) == 0 {
                        cache.shared.hot.distrust(film.id(), CHUNK, slot(dice.u64(..SLOTS)));
                    }
                    for chunk in cache.coverage(film, range).unwrap().unchecked {
                        cache.check(film, &chunk).unwrap();
                    }
                }
            });
        }
        // One fetcher, as flights of one chunk never overlap.
        let mut dice = fastrand::Rng::with_seed(99);
        for _ in 0..800 {
            let wanted = slot(dice.u64(..SLOTS));
            cache.flush();
            if cache.coverage(&film, wanted).unwrap().gaps == [wanted] {
                keep(&cache, &film, 1, wanted);
            }
        }
    });
    assert!(hits.into_inner() > 100);
    cache.flush();
    assert!(du_data(dir.path()) <= BUDGET);
    assert_eq!(cache.shared.metrics.cache_corrupt_chunks.get(), 0);
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
        film.data.write(&bytes(1, slot(number)), slot(number).start).unwrap();
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
    film.data.write(&bytes(1, slot(1)), slot(1).start).unwrap();
    drop((film, cache));
    let _cache = open_with(&config);
    assert!(du_data(dir.path()) <= 40 * CHUNK + EXTENTS, "{}", du_data(dir.path()));
}

#[test]
fn a_smaller_budget_holds_from_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open_with(&CacheConfig { size_bytes: 8_000 * CHUNK, ..config(dir.path()) });
    let film = cache.entry("film", &stat(8_000 * CHUNK, "1")).unwrap();
    // More rows than one eviction looks at; sparse, so that they cost nothing: no byte of them is read here.
    drop((film, cache));
    sql(
        &dir,
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 6000)
         INSERT INTO cache_chunks SELECT 1, i * 65536, (i + 1) * 65536, zeroblob(32), i, 0 FROM n",
    );
    let cache = open(&dir);
    assert!(cache.used_bytes() <= BUDGET, "{}", cache.used_bytes());
}

#[test]
fn a_disk_that_must_stay_free_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open_with(&CacheConfig { min_free_bytes: u64::MAX / 2, ..config(dir.path()) });
    let film = cache.entry("film", &stat(4 * CHUNK, "1")).unwrap();
    assert_eq!(keep(&cache, &film, 1, slot(0)), Kept::Skipped);
    assert_eq!((cache.used_bytes(), du_data(dir.path())), (0, 0));
    assert_eq!(cache.shared.metrics.cache_skipped_bytes.get(), CHUNK);
}

/// A small filesystem of its own, unmounted at the end.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None`, said aloud, where this user may not mount.
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(dir));
        }
        eprintln!("not tested: a full disk needs a small filesystem, and this user may not mount one");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_no_error_to_a_reader() {
    let Some(disk) = SmallDisk::mount("2m") else { return };
    // A start needs some room for the index.
    let spare = disk.0.path().join("spare");
    fs::write(&spare, vec![1; 512 << 10]).unwrap();
    let cache = open_with(&CacheConfig { size_bytes: 1 << 30, ..config(disk.0.path()) });
    let film = cache.entry("film", &stat(1000 * CHUNK, "1")).unwrap();
    let mut written = 0;
    for number in 0..100 {
        if keep(&cache, &film, 1, slot(number)) == Kept::Written {
            written += 1;
            assert!(read(&cache, &film, slot(number)) == Some(bytes(1, slot(number))));
        }
    }
    // Room is made by eviction, so most of it is kept in its turn.
    assert!(written > 10, "{written}");
    cache.flush();
    assert_held_is_right(&cache, &film);
    // Somebody else takes the rest.
    let hog = fs::File::create(disk.0.path().join("hog")).unwrap();
    let zeros = vec![1; 4096];
    let mut at = 0;
    while hog.write_all_at(&zeros, at).is_ok() {
        at += 4096;
    }
    for number in 200..230 {
        keep(&cache, &film, 1, slot(number));
    }
    cache.flush();
    assert_held_is_right(&cache, &film);
    drop((film, cache));
    fs::remove_file(spare).unwrap();
    let cache = open_with(&config(disk.0.path()));
    assert_eq!(cache.verify(&mut |bad| eprintln!("{bad:?}")).unwrap().bad, 0);
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
fn verify_names_what_is_bad_and_leaves_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let film = cache.entry("a/film", &stat(4 * CHUNK, "1")).unwrap();
    (0..3).for_each(|number| assert_eq!(keep(&cache, &film, 1, slot(number)), Kept::Written));
    cache.flush();
    film.data.write(&[0], 2 * CHUNK + 5).unwrap();
    drop((film, cache));
    let cache = open(&dir);
    let mut bad = Vec::new();
    let verified = cache.verify(&mut |chunk| bad.push((chunk.path.clone(), chunk.range))).unwrap();
    assert_eq!(verified, Verified { chunks: 3, bytes: 3 * CHUNK, bad: 1 });
    assert_eq!(bad, [("a/film".to_owned(), slot(2))]);
    assert_eq!(cache.verify(&mut |_| {}).unwrap(), Verified { chunks: 2, bytes: 2 * CHUNK, bad: 0 });
    assert_eq!((cache.used_bytes(), du_data(dir.path())), (2 * CHUNK, 2 * CHUNK));
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
    assert_eq!(of(&["a"]).unwrap(), Purged { entries: 2, bytes: 2 * CHUNK });
    assert_eq!(of(&["a"]).unwrap_err().kind(), Kind::Missing);
    assert_eq!((cache.used_bytes(), data_files(dir.path()).len()), (CHUNK, 1));
    assert_eq!(cache.purge(Purge::All).unwrap(), Purged { entries: 1, bytes: CHUNK });
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

/// After a sync that failed, the kernel may have thrown away what it was to write, and would not say so again.
#[test]
fn what_the_disk_refuses_to_sync_is_not_shown_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let film = cache.entry("film", &stat(8 * CHUNK, "\"1\"")).unwrap();
    assert_eq!(keep(&cache, &film, 1, slot(0)), Kept::Written);
    // It takes every byte, and can't be synced.
    let broken = File::options().read(true).write(true).open("/dev/null").unwrap();
    let Entry { id, path, stat, chunk_size_bytes, .. } = &*film;
    let (path, stat) = (Arc::clone(path), stat.clone());
    let (chunk_size_bytes, data, opening) = (*chunk_size_bytes, DataFile::over(broken), Mutex::default());
    let unread = Unread::new(&Arc::default());
    let refused = Arc::new(Entry { id: *id, path, stat, chunk_size_bytes, data, unread, opening });
    cache.flush();
    assert_eq!(keep(&cache, &refused, 1, slot(1)), Kept::Written);
    cache.flush();
    assert_eq!(held(&cache, &film), [0]);
    assert!(cache.trusted(&film, slot(1)).is_empty());
    // Fetched again, it is there again: nothing of the old bytes is punched into the new ones.
    assert_eq!(keep(&cache, &film, 1, slot(1)), Kept::Written);
    cache.flush();
    assert_eq!(held(&cache, &film), [0, 1]);
    assert_held_is_right(&cache, &film);
    assert_eq!(cache.used_bytes(), 2 * CHUNK);
}
