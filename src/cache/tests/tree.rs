//! The last known tree: what is written down comes back, whole or not at all, and what has given way stays for its readers.
//! Never here: when it is asked for.

use super::*;
use crate::store::{Listed, ListedKind};

fn file(name: &str, size_bytes: u64) -> Listed {
    let modified = Some(SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_001));
    Listed { name: name.into(), kind: ListedKind::File { size_bytes: Some(size_bytes) }, modified }
}

fn folder(name: &str) -> Listed {
    Listed { name: name.into(), kind: ListedKind::Folder, modified: None }
}

fn rounded(name: &str) -> Listed {
    Listed { kind: ListedKind::File { size_bytes: None }, ..file(name, 0) }
}

fn listing(cache: &Cache, folder: &str) -> Option<Vec<Listed>> {
    cache.known_listing(folder).unwrap().map(|known| known.listing.whole().unwrap())
}

fn keep_names(cache: &Cache, folder: &str, names: &[Listed]) {
    cache.keep_listing(folder, &Arc::new(names.to_vec()));
    cache.flush();
}

fn numbered(count: u64, size_bytes: u64) -> Vec<Listed> {
    (0..count).map(|number| file(&format!("{number:05}"), size_bytes)).collect()
}

fn spooled(cache: &Cache, names: &[Listed]) -> Arc<KeptListing> {
    let mut spool = cache.spool_listing("large").unwrap();
    names.chunks(700).for_each(|page| spool.add(page).unwrap());
    spool.finish().unwrap()
}

/// Rows on disk, of names and of listings.
fn rows(dir: &TempDir) -> (i64, i64) {
    let connection = Connection::open(index_path(dir.path())).unwrap();
    let count = |table| connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
    (count("tree_names"), count("tree_listings"))
}

#[test]
fn what_was_written_down_is_known_to_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    let top = [file("a.mkv", 5), rounded("b.mkv"), folder("c")];
    let known = stat(5, "1");
    {
        let cache = open(&dir);
        keep_names(&cache, "", &top);
        keep_names(&cache, "c", &[]);
        cache.note_stat("c/d.mkv", &known);
        cache.note_stat("a.mkv", &Stat { modified: top[0].modified, ..known.clone() });
    }
    let cache = open(&dir);
    assert_eq!(listing(&cache, "").unwrap(), top);
    assert_eq!(listing(&cache, "c").unwrap(), [], "empty is not unknown");
    assert_eq!(listing(&cache, "d"), None);
    assert_eq!(cache.known_stat("c/d.mkv").unwrap(), Some(known));
    assert_eq!(cache.known_stat("a.mkv").unwrap().unwrap().modified, top[0].modified);
    let known = cache.known_listing("").unwrap().unwrap();
    assert!(known.age.unwrap() < Duration::from_mins(10));
    assert_eq!((known.listing.len(), known.listing.size_bytes()), (3, 5));
    cache.expire_listings("").unwrap();
    assert!(cache.known_listing("c").unwrap().unwrap().age.is_none());
}

#[test]
fn a_link_is_one_again_and_its_file_stays_known() {
    let dir = tempfile::tempdir().unwrap();
    let link = |size_bytes| Listed { kind: ListedKind::Link { size_bytes }, ..file("a.mkv", 0) };
    let (first, second) = ([link(Some(7)), file("b", 5)], [link(None), file("c", 5)]);
    {
        let cache = open(&dir);
        keep_names(&cache, "f", &first);
        for path in ["f/a.mkv.rclonelink", "f/b", "f/b.rclonelink", "f/.rclonelink"] {
            cache.note_stat(path, &stat(7, "1"));
        }
        cache.flush();
        assert_eq!(cache.known_listing("f").unwrap().unwrap().listing.size_bytes(), 5);
    }
    let cache = open(&dir);
    assert_eq!(listing(&cache, "f").unwrap(), first);
    // Listed anew, what it does not hold is gone.
    keep_names(&cache, "f", &second);
    assert_eq!(listing(&cache, "f").unwrap(), second);
    let known = |path: &str| cache.known_stat(path).unwrap().is_some();
    assert!(known("f/a.mkv.rclonelink"));
    assert!(!known("f/b") && !known("f/b.rclonelink") && !known("f/.rclonelink"));
}

#[test]
fn a_view_of_a_source_has_a_tree_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    keep_names(&open(&dir), "", &[file("a.mkv", 5), file("b.nfo", 1)]);
    let view = |view| Cache::open_view(&config(dir.path()), "test:origin", Some(view), Arc::default()).unwrap();
    {
        let cache = view("films");
        assert_eq!(listing(&cache, ""), None);
        keep_names(&cache, "", &[file("a.mkv", 5)]);
    }
    assert_eq!(listing(&view("films"), "").unwrap().len(), 1);
    assert_eq!(listing(&view("others"), ""), None);
    assert_eq!(listing(&open(&dir), "").unwrap().len(), 2);
}

#[test]
fn another_source_in_the_same_place_knows_nothing() {
    let dir = tempfile::tempdir().unwrap();
    keep_names(&open(&dir), "", &[file("a.mkv", 5)]);
    let cache = Cache::open(&config(dir.path()), "test:another", Arc::default()).unwrap();
    assert_eq!(listing(&cache, ""), None);
}

#[test]
fn what_went_is_forgotten_with_all_below_it() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    keep_names(&cache, "", &[folder("a"), folder("ab"), folder("é")]);
    for path in ["a", "a/x", "a/x/y", "ab", "é", "é/a"] {
        keep_names(&cache, path, &[file("film.mkv", 1)]);
        cache.note_stat(&format!("{path}/film.mkv"), &stat(1, "1"));
    }
    let known = |path: &str| {
        (listing(&cache, path).is_some(), cache.known_stat(&format!("{path}/film.mkv")).unwrap().is_some())
    };
    cache.forget_path("a/x");
    cache.flush();
    assert_eq!(["a", "a/x", "a/x/y", "ab"].map(known), [(true, true), (false, false), (false, false), (true, true)]);
    keep_names(&cache, "", &[folder("a"), folder("ab")]);
    assert_eq!(["a", "ab", "é", "é/a"].map(known), [(true, true), (true, true), (false, false), (false, false)]);
    keep_names(&cache, "a", &[file("another.mkv", 1)]);
    assert_eq!(known("a"), (true, false));
    keep_names(&cache, "", &[]);
    assert_eq!(["", "a", "ab"].map(|path| known(path).0), [true, false, false]);
    assert_eq!(rows(&dir), (0, 1), "and nothing is left over");
}

#[test]
fn a_large_folder_is_read_in_pages_from_any_place() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let names = numbered(2_500, 3);
    let mut shuffled: Vec<_> = names.iter().chain(&names[..100]).cloned().collect();
    let mut random = fastrand::Rng::with_seed(7);
    random.shuffle(&mut shuffled[..2_500]);
    let large = spooled(&cache, &shuffled);
    assert_eq!((large.len(), large.size_bytes()), (2_500, 7_500));
    for at in [2_499, 0, 999, 1_000, 2_000, 1_500].into_iter().chain((0..50).map(|_| random.u64(..2_500))) {
        let (start, page) = large.page_of(at).unwrap();
        assert_eq!(page[(at - start) as usize], names[at as usize], "{at}");
    }
    assert!(large.page_of(2_500).unwrap().1.is_empty() && large.page_of(u64::MAX).unwrap().1.is_empty());
    assert_eq!(large.find("01234").unwrap().as_ref(), Some(&names[1_234]));
    assert_eq!(large.find("x").unwrap(), None);
}

#[test]
fn a_listing_that_gave_way_stays_for_whoever_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let old = spooled(&cache, &numbered(2_500, 3));
    assert_eq!(old.page_of(0).unwrap().1.len(), 1_000);
    let new = spooled(&cache, &numbered(1_200, 4));
    cache.flush();
    assert_eq!(old.whole().unwrap(), numbered(2_500, 3));
    assert_eq!(old.page_of(2_499).unwrap().1.len(), 500);
    assert_eq!(listing(&cache, "large").unwrap(), numbered(1_200, 4));
    drop(old);
    cache.flush();
    assert_eq!(rows(&dir), (1_200, 1));
    // Also a reader of the one that counts leaves it as it is.
    drop(new);
    cache.flush();
    assert_eq!(listing(&cache, "large").unwrap(), numbered(1_200, 4));
}

#[test]
fn a_listing_that_broke_off_never_was() {
    let dir = tempfile::tempdir().unwrap();
    {
        let cache = open(&dir);
        spooled(&cache, &numbered(10, 3));
        let mut broken = cache.spool_listing("large").unwrap();
        broken.add(&numbered(500, 4)).unwrap();
        drop(broken);
        cache.flush();
        assert_eq!((listing(&cache, "large").unwrap(), rows(&dir)), (numbered(10, 3), (10, 1)));
        // As a crash leaves it.
        let mut broken = cache.spool_listing("large").unwrap();
        broken.add(&numbered(500, 4)).unwrap();
        std::mem::forget(broken);
    }
    // The spool that was forgotten holds the directory.
    let copy = tempfile::tempdir().unwrap();
    for name in ["index.sqlite", "index.sqlite-wal"] {
        let _ = fs::copy(dir.path().join(name), copy.path().join(name));
    }
    let cache = open(&copy);
    cache.flush();
    assert_eq!((listing(&cache, "large").unwrap(), rows(&copy)), (numbered(10, 3), (10, 1)));
}
