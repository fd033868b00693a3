//! What is kept longer than its last use would have it: what players open films with.
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
