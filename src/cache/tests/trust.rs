//! Which bytes are trusted: those this process has hashed, until they are found damaged or give way; no hole is ever shown.
//! Never here: what gives way (see `room`).

use std::sync::atomic::AtomicUsize;

use super::*;

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
    film.data().write(&[0; 10], CHUNK).unwrap();
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
    film.data().write(&[0; 10], CHUNK).unwrap();
    assert_eq!(check_all(&cache, &film), [false]);
    let tail = ByteRange::at(2 * CHUNK - 10, 10);
    let on_disk = || {
        let mut seen = vec![0; 10];
        film.data().read(&mut seen, tail.start).unwrap();
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
    film.data().write(&[0; 10], CHUNK).unwrap();
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
fn readers_evictor_and_checkers_never_show_a_hole() {
    const SLOTS: u64 = 24;
    const ROUNDS_MAX: usize = 100_000;
    let dir = tempfile::tempdir().unwrap();
    let (cache, film) = {
        let cache = open(&dir);
        let film = cache.entry("film", &stat(SLOTS * CHUNK, "1")).unwrap();
        (Arc::new(cache), film)
    };
    let (hits, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let (cache, film, hits, is_over) = (&cache, &film, &hits, &is_over);
            scope.spawn(move || {
                let mut dice = fastrand::Rng::with_seed(seed);
                while !is_over.load(Ordering::Relaxed) {
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
        // One fetcher, as flights of one chunk never overlap. On a busy machine the readers may come late.
        let mut dice = fastrand::Rng::with_seed(99);
        for round in 0..ROUNDS_MAX {
            if round >= 800 && hits.load(Ordering::Relaxed) > 100 {
                break;
            }
            let wanted = slot(dice.u64(..SLOTS));
            cache.flush();
            if cache.coverage(&film, wanted).unwrap().gaps == [wanted] {
                keep(&cache, &film, 1, wanted);
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(hits.into_inner() > 100);
    cache.flush();
    assert!(du_data(dir.path()) <= BUDGET);
    assert_eq!(cache.shared.metrics.cache_corrupt_chunks.get(), 0);
}

#[test]
fn verify_names_what_is_bad_and_leaves_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let film = cache.entry("a/film", &stat(4 * CHUNK, "1")).unwrap();
    (0..3).for_each(|number| assert_eq!(keep(&cache, &film, 1, slot(number)), Kept::Written));
    cache.flush();
    film.data().write(&[0], 2 * CHUNK + 5).unwrap();
    drop((film, cache));
    let cache = open(&dir);
    let mut bad = Vec::new();
    let verified = cache.verify(&mut |chunk| bad.push((chunk.path.clone(), chunk.range))).unwrap();
    assert_eq!(verified, Verified { chunks: 3, bytes: 3 * CHUNK, bad: 1 });
    assert_eq!(bad, [("a/film".to_owned(), slot(2))]);
    assert_eq!(cache.verify(&mut |_| {}).unwrap(), Verified { chunks: 2, bytes: 2 * CHUNK, bad: 0 });
    assert_eq!((cache.used_bytes(), du_data(dir.path())), (2 * CHUNK, 2 * CHUNK));
}

/// After a sync that failed, the kernel may have thrown away what it was to write, and would not say so again.
#[test]
fn what_the_disk_refuses_to_sync_is_not_shown_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let film = cache.entry("film", &stat(8 * CHUNK, "\"1\"")).unwrap();
    assert_eq!(keep(&cache, &film, 1, slot(0)), Kept::Written);
    cache.flush();
    // It takes every byte, and can't sync them.
    film.data().refuse_syncs(true);
    assert_eq!(keep(&cache, &film, 1, slot(1)), Kept::Written);
    cache.flush();
    assert_eq!(held(&cache, &film), [0]);
    assert!(cache.trusted(&film, slot(1)).is_empty());
    film.data().refuse_syncs(false);
    // Fetched again, it is there again: nothing of the old bytes is punched into the new ones.
    assert_eq!(keep(&cache, &film, 1, slot(1)), Kept::Written);
    cache.flush();
    assert_eq!(held(&cache, &film), [0, 1]);
    assert_held_is_right(&cache, &film);
    assert_eq!(cache.used_bytes(), 2 * CHUNK);
}
