//! What is kept longer than its last use would have it: what players open films with, and what is pinned.
//! Never here: the budget itself.

use super::*;

/// A film of a thousand slots, the first of which is its opening.
fn film(cache: &Cache, path: &str) -> Arc<Entry> {
    let film = cache.entry(path, &stat(1000 * CHUNK, "1")).unwrap();
    cache.opens_with(&film, ByteRange::new(0, CHUNK / 2));
    film
}

#[test]
fn the_opening_of_a_film_outlives_its_middle() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let played = film(&cache, "played.mkv");
    for number in 0..100 {
        assert_eq!(keep(&cache, &played, 1, slot(number)), Kept::Written);
    }
    cache.flush();
    let mut kept = held(&cache, &played);
    assert_eq!(kept.remove(0), 0, "the oldest of all: {kept:?}");
    assert!(kept.iter().all(|number| *number > 80), "{kept:?}");
    assert_held_is_right(&cache, &played);
    // What is told later counts for what is there.
    let last = *kept.last().unwrap();
    cache.opens_with(&played, slot(last));
    cache.flush();
    for number in 200..300 {
        keep(&cache, &played, 1, slot(number));
    }
    cache.flush();
    assert_eq!(held(&cache, &played)[..2], [0, last]);
    assert!(du_data(dir.path()) <= BUDGET);
}

#[test]
fn a_thousand_openings_keep_to_their_share() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let played = film(&cache, "played.mkv");
    for number in 1..100 {
        keep(&cache, &played, 1, slot(number));
    }
    cache.flush();
    let before = held(&cache, &played).len();
    for number in 0..1000 {
        let scanned = film(&cache, &format!("{number}.mkv"));
        assert_eq!(keep(&cache, &scanned, number, slot(0)), Kept::Written);
        cache.flush();
    }
    let after = held(&cache, &played).len();
    assert!(after >= before - 4, "of {before} slots, {after} are left");
    let openings = cache.shared.index.opening_bytes().unwrap();
    assert!((3 * CHUNK..=5 * CHUNK).contains(&openings), "{openings}");
    // The last ones that were scanned.
    assert_eq!(cache.held_of("999.mkv", &stat(1000 * CHUNK, "1")).unwrap().1, CHUNK);
}

#[test]
fn openings_make_room_when_nothing_else_can() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let all = film(&cache, "index.mkv");
    cache.opens_with(&all, ByteRange::new(0, all.size_bytes()));
    for number in 0..100 {
        assert_eq!(keep(&cache, &all, 1, slot(number)), Kept::Written, "{number}");
    }
    cache.flush();
    assert!(held(&cache, &all).contains(&99));
}

/// Pins the first version of a film of so many slots.
fn pin(cache: &Cache, path: &str, slots: u64) -> Result<Pinned> {
    cache.pin(path, &[(path.to_owned(), stat(slots * CHUNK, "1"))])
}

/// As many slots of another film as fit twice.
fn push_out(cache: &Cache) {
    let other = cache.entry("other", &stat(1000 * CHUNK, "1")).unwrap();
    for number in 0..32 {
        keep(cache, &other, 1, slot(number));
    }
    cache.flush();
}

#[test]
fn what_is_pinned_stays_also_what_comes_later_and_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let film = cache.entry("a/film", &stat(4 * CHUNK, "1")).unwrap();
    keep(&cache, &film, 1, slot(0));
    cache.flush();
    let pinned = pin(&cache, "a/film", 4).unwrap();
    assert_eq!(pinned, Pinned { files: 1, bytes: 4 * CHUNK, cached_bytes: CHUNK });
    pin(&cache, "never-opened", 2).unwrap();
    assert!(cache.holds("a/film").unwrap() && !cache.holds("never-opened").unwrap(), "a pin alone holds nothing");
    push_out(&cache);
    keep(&cache, &film, 1, slot(2));
    push_out(&cache);
    assert_eq!(held(&cache, &film), [0, 2]);
    assert!(du_data(dir.path()) <= BUDGET && cache.used_bytes() <= BUDGET);
    drop((film, cache));
    let cache = open(&dir);
    assert_eq!(cache.room_bytes(), cache.budget_bytes() - 6 * CHUNK);
    push_out(&cache);
    let film = cache.entry("a/film", &stat(4 * CHUNK, "1")).unwrap();
    assert_eq!(held(&cache, &film), [0, 2]);
    assert_eq!(cache.unpin("a").unwrap(), Pinned { files: 1, bytes: 4 * CHUNK, cached_bytes: 2 * CHUNK });
    push_out(&cache);
    assert!(held(&cache, &film).is_empty());
    assert_eq!(cache.unpin("a").unwrap_err().kind(), Kind::Missing, "no longer");
    assert_eq!(cache.unpin("").unwrap().files, 1, "all of them");
    assert_eq!(cache.room_bytes(), cache.budget_bytes());
}

#[test]
fn a_pin_that_does_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    pin(&cache, "a", 8).unwrap();
    let error = pin(&cache, "b", 4).unwrap_err();
    assert_eq!(error.kind(), Kind::Full);
    assert!(error.to_string().starts_with("b: 256.0 KiB can't be pinned: 512.0 KiB are already, of 7"), "{error}");
    assert!(cache.shared.versions("b").unwrap().is_empty());
    let folder = [("c/1".to_owned(), stat(CHUNK, "1")), ("c/2".to_owned(), stat(3 * CHUNK, "1"))];
    assert!(cache.pin("c", &folder).is_err() && cache.shared.versions("c/1").unwrap().is_empty(), "all or none");
    pin(&cache, "a", 8).unwrap();
    pin(&cache, "b", 3).unwrap();
    cache.unpin("a").unwrap();
    pin(&cache, "c", 8).unwrap();
}

#[test]
fn a_pin_goes_on_to_a_new_version_that_fits() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let old = cache.entry("film", &stat(4 * CHUNK, "1")).unwrap();
    keep(&cache, &old, 1, slot(0));
    pin(&cache, "film", 4).unwrap();
    cache.flush();
    drop(old);
    let new = cache.entry("film", &stat(6 * CHUNK, "2")).unwrap();
    cache.flush();
    assert_eq!(cache.held_of("film", &stat(4 * CHUNK, "1")).unwrap().1, 0, "the old one is gone");
    keep(&cache, &new, 1, slot(3));
    push_out(&cache);
    assert_eq!(held(&cache, &new), [3]);
    assert_eq!(cache.room_bytes(), cache.budget_bytes() - 6 * CHUNK);
    drop(new);
    let newest = cache.entry("film", &stat(100 * CHUNK, "3")).unwrap();
    assert!(!cache.is_pinned(&newest).unwrap(), "larger than all that may be pinned");
    assert_eq!(cache.room_bytes(), cache.budget_bytes());
}

#[test]
fn a_smaller_budget_takes_pins_back_and_a_purge_does() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open_with(&CacheConfig { size_bytes: 64 * CHUNK, ..config(dir.path()) });
    for path in ["a", "b", "c"] {
        pin(&cache, path, 8).unwrap();
        let film = cache.entry(path, &stat(8 * CHUNK, "1")).unwrap();
        for number in 0..8 {
            keep(&cache, &film, 1, slot(number));
        }
    }
    cache.flush();
    drop(cache);
    let cache = open(&dir);
    assert!(cache.used_bytes() <= cache.budget_bytes(), "{}", cache.used_bytes());
    assert_eq!(cache.pinned_size("a").unwrap(), 8 * CHUNK);
    assert_eq!((cache.pinned_size("b").unwrap(), cache.pinned_size("c").unwrap()), (0, 0));
    assert_eq!(cache.held_of("a", &stat(8 * CHUNK, "1")).unwrap().1, 8 * CHUNK);
    cache.purge(Purge::Paths(&["a".to_owned()])).unwrap();
    assert_eq!((cache.pinned_size("a").unwrap(), cache.room_bytes()), (0, cache.budget_bytes()));
}
