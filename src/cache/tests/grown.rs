//! Entries whose file grows: what was kept stays, under the longer version, in this run and the next.
//! Never here: telling growth from replacement (see `tests/drive/growing.rs`).

use super::*;

const OLD: u64 = 2 * CHUNK + 100;
const NEW: u64 = 5 * CHUNK;

/// A cache with a film of which all but the first slot is kept.
fn begun(dir: &TempDir) -> (Cache, Arc<Entry>) {
    let cache = open(dir);
    let film = cache.entry("film", &stat(OLD, "1")).unwrap();
    assert_eq!(keep(&cache, &film, 1, slot(1)), Kept::Written);
    assert_eq!(keep(&cache, &film, 1, ByteRange::new(2 * CHUNK, OLD)), Kept::Written);
    (cache, film)
}

fn grow(cache: &Cache, film: &Entry) -> bool {
    cache.grow(film, &film.stat(), &stat(NEW, "2"), b"its end").unwrap()
}

#[test]
fn grown_film_keeps_what_is_kept_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, film) = begun(&dir);
    assert!(grow(&cache, &film));
    assert_eq!((film.size_bytes(), film.stat(), film.asked()), (NEW, stat(NEW, "2"), stat(NEW, "2")));
    assert_eq!(film.end().unwrap()[..], b"its end"[..]);
    assert!(film.has_or_had(OLD) && film.is_or_was(&Version::etag("1")) && film.grows());
    // Trusted still, without being hashed once more: our own change is no other program's.
    assert!(read(&cache, &film, slot(1)) == Some(bytes(1, slot(1))));
    assert_eq!(keep(&cache, &film, 1, ByteRange::new(OLD, 3 * CHUNK)), Kept::Written);
    assert_eq!(keep(&cache, &film, 1, slot(4)), Kept::Written);
    assert!(Arc::ptr_eq(&cache.entry("film", &stat(NEW, "2")).unwrap(), &film), "the one there is");
    drop((film, cache));
    let cache = open(&dir);
    let film = cache.entry("film", &stat(NEW, "2")).unwrap();
    assert_eq!(held(&cache, &film), [1, 2, 4]);
    assert_held_is_right(&cache, &film);
    assert_eq!(data_files(dir.path()).len(), 1);
}

#[test]
fn film_does_not_grow_into_a_version_that_another_entry_is() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, film) = begun(&dir);
    let other = cache.entry("film", &stat(NEW, "2")).unwrap();
    assert!(!grow(&cache, &film));
    assert_eq!((film.size_bytes(), other.size_bytes()), (OLD, NEW));
    assert!(!cache.grow(&film, &stat(OLD, "0"), &stat(NEW, "3"), &[]).unwrap(), "it is not what it was thought to be");
    assert!(read(&cache, &film, slot(1)) == Some(bytes(1, slot(1))));
}

#[test]
fn lent_film_does_not_grow() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, film) = begun(&dir);
    assert_eq!(keep(&cache, &film, 1, slot(0)), Kept::Written);
    cache.flush();
    let lent = cache.backing(&film).unwrap().unwrap();
    assert!(!grow(&cache, &film), "the kernel would read holes");
    assert_eq!(film.size_bytes(), OLD);
    drop(lent);
    assert!(grow(&cache, &film));
    assert!(cache.backing(&film).unwrap().is_none(), "it is not whole any longer");
}

#[test]
fn pin_of_a_film_that_grows_beyond_the_room_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, film) = begun(&dir);
    cache.pin("film", &[("film".to_owned(), stat(OLD, "1"))]).unwrap();
    assert!(cache.is_pinned(&film).unwrap());
    assert!(cache.grow(&film, &stat(OLD, "1"), &stat(BUDGET, "2"), &[]).unwrap());
    assert!(!cache.is_pinned(&film).unwrap());
}
