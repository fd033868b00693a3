//! An index that another program damages, cuts or removes, while the cache runs or before it starts: what is shown is right,
//! and the cache goes on keeping.
//! Never here: damage of the data files (see `changed`).

use std::os::unix::fs::symlink;

use super::*;
use crate::problems::Part;

const SIZE: u64 = 3 * CHUNK;

fn film(cache: &Cache) -> Arc<Entry> {
    cache.entry("film", &stat(SIZE, "1")).unwrap()
}

fn keep_whole(cache: &Cache, film: &Arc<Entry>) {
    // Checked as readers do: what the index names and is wrong goes.
    check_all(cache, film);
    for number in 0..3 {
        if read(cache, film, slot(number)).is_none() {
            assert_eq!(keep(cache, film, 1, slot(number)), Kept::Written);
        }
        assert!(read(cache, film, slot(number)) == Some(bytes(1, slot(number))), "slot {number}");
    }
    cache.flush();
}

fn wal(dir: &Path) -> PathBuf {
    dir.join("index.sqlite-wal")
}

fn overwrite(path: &Path, byte: u8) {
    let len = fs::metadata(path).unwrap().len() as usize;
    fs::File::options().write(true).open(path).unwrap().write_all_at(&vec![byte; len], 0).unwrap();
}

fn cut(path: &Path) {
    fs::File::options().write(true).open(path).unwrap().set_len(0).unwrap();
}

type Harm = fn(&Path);

const HARM: [(&str, Harm); 12] = [
    ("shared memory cut", |dir| cut(&dir.join("index.sqlite-shm"))),
    ("shared memory removed", |dir| fs::remove_file(dir.join("index.sqlite-shm")).unwrap()),
    ("shared memory zeroed", |dir| overwrite(&dir.join("index.sqlite-shm"), 0)),
    ("journal cut", |dir| cut(&wal(dir))),
    ("journal removed", |dir| fs::remove_file(wal(dir)).unwrap()),
    ("journal zeroed", |dir| overwrite(&wal(dir), 0)),
    ("journal overwritten", |dir| overwrite(&wal(dir), 0xa5)),
    ("index cut", |dir| cut(&index_path(dir))),
    ("index removed", |dir| fs::remove_file(index_path(dir)).unwrap()),
    ("index overwritten", |dir| overwrite(&index_path(dir), 0xa5)),
    ("index replaced", |dir| {
        fs::write(dir.join("new"), "another").unwrap();
        fs::rename(dir.join("new"), index_path(dir)).unwrap();
    }),
    ("the whole cache removed", |dir| fs::remove_dir_all(dir).unwrap()),
];

#[test]
fn index_damaged_in_a_run_gives_way_to_a_new_one_and_nothing_is_shown_wrong() {
    for (what, harm) in HARM {
        println!("{what}");
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("cache");
        let cache = open_with(&config(&home));
        let open = film(&cache);
        keep_whole(&cache, &open);
        let closed = cache.entry("closed", &stat(SIZE, "1")).unwrap();
        keep_whole(&cache, &closed);
        drop(closed);
        harm(&home);
        // A film that is open, one that is opened again, and a new one: each can be read, or its bytes are asked of the origin.
        let all = ByteRange::new(0, SIZE);
        for _ in 0..3 {
            keep_whole(&cache, &open);
            for path in ["closed", "new"] {
                let film = cache.entry(path, &stat(SIZE, "1")).unwrap();
                cache.coverage(&film, all).unwrap();
                keep_whole(&cache, &film);
            }
        }
        assert!(cache.used_bytes() <= 9 * CHUNK, "{what}: {}", cache.used_bytes());
        let id = open.id();
        let newer = cache.entry("newer", &stat(SIZE, "1")).unwrap();
        assert!(newer.id() > id, "{what}: ids are not used again");
        drop((open, newer, cache));
        let cache = open_with(&config(&home));
        for path in ["film", "new"] {
            let film = cache.entry(path, &stat(SIZE, "1")).unwrap();
            assert!(check_all(&cache, &film).iter().all(|is_right| *is_right), "{what}");
            assert_eq!(held(&cache, &film), [0, 1, 2], "{what}: {path} was kept anew");
        }
    }
}

#[test]
fn index_set_aside_in_a_run_is_told_as_a_problem_until_the_cache_keeps_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir);
    let film = film(&cache);
    keep_whole(&cache, &film);
    let told = || cache.shared.metrics.problems.of(Part::CacheIndex).map(|noticed| noticed.message);
    assert_eq!(told(), None);
    cut(&index_path(dir.path()));
    cache.flush();
    assert!(told().is_some_and(|message| message.contains("set aside")));
    keep_whole(&cache, &film);
    assert_eq!(told(), None);
    let last = cache.shared.metrics.problems.last_error().unwrap();
    assert!(last.message.contains("set aside"), "it is remembered: {}", last.message);
}

#[test]
fn index_with_nonsense_in_its_rows_does_not_stop_the_start() {
    for harm in [
        "UPDATE cache_entries SET size_bytes = -1",
        "UPDATE cache_entries SET size_bytes = 'large'",
        "UPDATE cache_entries SET chunk_size = 0",
        "UPDATE cache_entries SET chunk_size = -65536",
        "UPDATE cache_entries SET accessed_at = 'never'",
        "UPDATE cache_entries SET pinned = 'yes'",
        "UPDATE cache_entries SET path = x'ff00'",
        "UPDATE cache_entries SET entry_id = -7",
        "UPDATE cache_chunks SET start_byte = -65536 WHERE start_byte = 0",
        "UPDATE cache_chunks SET end_byte = 1 << 60",
        "UPDATE cache_chunks SET end_byte = 'end'",
        "UPDATE cache_chunks SET sha256 = 'text'",
        "UPDATE cache_chunks SET sha256 = zeroblob(31)",
        "UPDATE cache_chunks SET accessed_at = 'never'",
        "UPDATE cache_chunks SET keep = 99",
        "INSERT INTO cache_chunks VALUES (1, 100, 200, zeroblob(32), 1, 0)",
        "INSERT INTO cache_chunks VALUES (1, 1 << 40, (1 << 40) + 100, zeroblob(32), 1, 0)",
        "DROP TABLE cache_chunks",
        "DROP TABLE tree_names",
        "ALTER TABLE cache_entries RENAME COLUMN version TO vision",
        "DELETE FROM cache_totals",
        "UPDATE cache_totals SET opening_bytes = 'all'",
        "INSERT INTO tree_listings VALUES (1, x'00', 7, 'now', -1, 'large', 1)",
        "PRAGMA user_version = 0",
        "PRAGMA user_version = 1",
        "PRAGMA user_version = -3",
        "PRAGMA user_version = 1717171717",
    ] {
        println!("{harm}");
        let dir = tempfile::tempdir().unwrap();
        let cache = open(&dir);
        let open_film = film(&cache);
        keep_whole(&cache, &open_film);
        drop((open_film, cache));
        sql(&dir, harm);
        for _ in 0..2 {
            let cache = open(&dir);
            let film = film(&cache);
            keep_whole(&cache, &film);
            cache.verify(&mut |_| {}).unwrap();
        }
    }
}

#[test]
fn index_files_that_are_links_are_not_written_through() {
    for name in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm", "index.damaged", "budget.new", "budget"] {
        for is_hard in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let home = dir.path().join("cache");
            fs::create_dir(&home).unwrap();
            let precious = dir.path().join("precious");
            fs::write(&precious, "PRECIOUS").unwrap();
            let to = home.join(name);
            let linked = if is_hard { fs::hard_link(&precious, &to) } else { symlink(&precious, &to) };
            linked.unwrap();
            let cache = open_with(&config(&home));
            let film = film(&cache);
            keep_whole(&cache, &film);
            drop((film, cache));
            assert_eq!(fs::read(&precious).unwrap(), b"PRECIOUS", "{name}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let precious = dir.path().join("precious");
    fs::write(&precious, "PRECIOUS").unwrap();
    symlink(&precious, dir.path().join("lock")).unwrap();
    assert!(Cache::open(&config(dir.path()), "test:origin", Arc::default()).is_err());
    assert_eq!(fs::read(&precious).unwrap(), b"PRECIOUS");
}

#[test]
fn index_set_aside_is_kept_once() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        drop(open(&dir));
        overwrite(&index_path(dir.path()), 0xa5);
        // It may hold all of the index.
        let _ = fs::remove_file(wal(dir.path()));
    }
    drop(open(&dir));
    let names = fs::read_dir(dir.path()).unwrap().map(|name| name.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.contains("damaged") && !name.ends_with("-shm")).count(), 1);
}

#[test]
fn abandoned_cache_leaves_no_folder_and_begins_no_new_index() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("cache");
    let cache = open_with(&config(&dir));
    cache.keep_listing("", &Arc::default());
    let film = film(&cache);
    assert_eq!(keep(&cache, &film, 1, slot(0)), Kept::Written);
    cache.abandon();
    assert!(!dir.exists());
    // The mount that failed is still about to end: nothing of what it asks makes the folder again.
    cache.keep_listing("folder", &Arc::default());
    assert_eq!(keep(&cache, &film, 1, slot(1)), Kept::Late);
    cache.shared.renew_if_damaged();
    cache.flush();
    assert_eq!(cache.shared.index.generation(), 0);
    drop((film, cache));
    assert!(!dir.exists());
}
