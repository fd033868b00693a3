//! Room: the budget and the disk hold at every moment, and what is being read does not give way.
//! Never here: what outlives its last use (see `keeping`).

use std::process::Command;

use super::*;

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
        film.data().read(&mut seen, 5).unwrap();
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
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=700"), "tmpfs"])
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
