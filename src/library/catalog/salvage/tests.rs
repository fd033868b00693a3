//! Damaged catalogs: what is saved of them, what is told, and that nothing is made worse.

use std::os::unix::fs::FileExt;

use super::*;
use crate::library::local::Local;
use crate::library::suite::{CUT, bytes, get, put};
use crate::library::{Library as _, Query};

const FILES: u64 = 2_000;

fn filled(dir: &Path) {
    Local::create(dir, CUT).unwrap();
    let local = Local::open(dir).unwrap();
    for n in 0..FILES {
        put(&local, &format!("folder {}/{n}.txt", n % 7), format!("file {n}").as_bytes(), &["tag"]);
    }
    for n in 0..20 {
        put(&local, &format!("films/{n}.mkv"), &bytes(20_000, n), &[]);
    }
    local.flush().unwrap();
}

fn all(local: &Local) -> Vec<String> {
    let (mut all, mut query) = (Vec::new(), Query { is_recursive: true, limit: 1000, ..Query::default() });
    loop {
        let page = local.list(&query).unwrap();
        all.extend(page.names.into_iter().map(|named| named.path));
        query.cursor = page.cursor;
        if query.cursor.is_none() {
            return all;
        }
    }
}

#[test]
fn what_can_be_read_is_there_again_and_the_rest_is_told() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for round in 0..6 {
        let temp = tempfile::tempdir().unwrap();
        filled(temp.path());
        let path = schema::path(temp.path());
        let file = File::options().write(true).open(&path).unwrap();
        let pages = file.metadata().unwrap().len() / 4096;
        // Not the first: without it nothing is a database.
        for _ in 0..round {
            file.write_all_at(&[0xa5; 4096], rng.u64(10..pages) * 4096).unwrap();
        }
        if round == 0 {
            let sound = Local::salvage(temp.path(), &|| true).unwrap_err();
            assert!(sound.kind() == Kind::Invalid && sound.to_string().contains("is sound"), "{sound}");
            damage_names(temp.path());
        }
        let salvaged = match Local::salvage(temp.path(), &|| true) {
            // It hit pages that hold nothing.
            Err(error) if error.kind() == Kind::Invalid => {
                assert_eq!(all(&Local::open(temp.path()).unwrap()).len() as u64, FILES + 20);
                continue;
            }
            salvaged => salvaged.unwrap(),
        };
        let local = Local::open(temp.path()).unwrap();
        let names = all(&local);
        assert!(names.iter().all(|path| get(&local, path).is_ok()), "{names:?}");
        assert_eq!(salvaged.files, names.len() as u64);
        assert!(names.len() as u64 + salvaged.lost_count + 700 * round >= FILES + 20, "{salvaged:?}");
        for path in names.iter().filter(|path| path.starts_with("films/")) {
            let n = path["films/".len()..path.len() - ".mkv".len()].parse().unwrap();
            assert_eq!(get(&local, path).unwrap(), bytes(20_000, n));
        }
        if round == 0 {
            assert_eq!((names.len() as u64, salvaged.lost_count, salvaged.holes), (FILES + 20, 0, 0));
        }
        assert!(temp.path().join("catalog.sqlite.damaged").exists());
        put(&local, "new", b"goes on", &[]);
    }
}

/// Damages an index only: all rows can be read.
fn damage_names(dir: &Path) {
    let root: u64 = Connection::open(schema::path(dir))
        .unwrap()
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'names_by_node'", [], |row| row.get(0).map(loaded))
        .unwrap();
    let file = File::options().write(true).open(schema::path(dir)).unwrap();
    file.write_all_at(&[0xa5; 4096], (root - 1) * 4096).unwrap();
}

fn saved(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("catalog.sqlite.") && !name.contains('-')).collect();
    names.sort();
    names
}

#[test]
fn no_damaged_catalog_takes_the_place_of_another() {
    let temp = tempfile::tempdir().unwrap();
    filled(temp.path());
    for time in 0..3 {
        damage_names(temp.path());
        let damaged = fs::read(schema::path(temp.path())).unwrap();
        Local::salvage(temp.path(), &|| true).unwrap();
        let aside =
            if time == 0 { "catalog.sqlite.damaged".to_owned() } else { format!("catalog.sqlite.damaged.{time}") };
        assert!(fs::read(temp.path().join(&aside)).unwrap() == damaged, "{aside}");
    }
    assert_eq!(saved(temp.path()).len(), 3);
}

#[test]
fn blobs_that_are_out_of_reach_are_not_lost() {
    let temp = tempfile::tempdir().unwrap();
    filled(temp.path());
    damage_names(temp.path());
    let damaged = fs::read(schema::path(temp.path())).unwrap();
    let (blobs, away) = (temp.path().join("blobs"), temp.path().join("away"));
    fs::rename(&blobs, &away).unwrap();
    // Its disk is not there, or answers with something else than "there is none".
    fs::create_dir(&blobs).unwrap();
    assert_eq!(Local::salvage(temp.path(), &|| true).unwrap_err().kind(), Kind::Missing);
    fs::remove_dir(&blobs).unwrap();
    std::os::unix::fs::symlink("blobs", &blobs).unwrap();
    let looping = Local::salvage(temp.path(), &|| true).unwrap_err();
    assert!(looping.to_string().contains("symbolic links"), "{looping}");
    assert!(fs::read(schema::path(temp.path())).unwrap() == damaged, "it is left as it was");
    assert!(saved(temp.path()).is_empty(), "and nothing beside it");
    fs::remove_file(&blobs).unwrap();
    fs::rename(&away, &blobs).unwrap();
    assert_eq!(Local::salvage(temp.path(), &|| true).unwrap().files, FILES + 20);
}

/// One bit: the last name says it comes before all others. Looking for what comes after it must not lead back.
#[test]
fn keys_that_go_back_do_not_lead_in_circles() {
    let temp = tempfile::tempdir().unwrap();
    Local::create(temp.path(), CUT).unwrap();
    let local = Local::open(temp.path()).unwrap();
    for n in 0..5 {
        put(&local, &format!("{n}.txt"), b"text", &[]);
    }
    drop(local);
    let path = schema::path(temp.path());
    let root: u64 = Connection::open(&path)
        .unwrap()
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'names'", [], |row| row.get(0).map(loaded))
        .unwrap();
    let mut database = fs::read(&path).unwrap();
    let page = &mut database[(root as usize - 1) * 4096..][..4096];
    // A leaf's head: kind, three numbers, how many cells; then where each cell is. A cell: its length, its key.
    let last = 8 + 2 * (usize::from(page[4]) - 1);
    let key = usize::from(u16::from_be_bytes([page[last], page[last + 1]])) + 1;
    assert_eq!((page[0], page[key]), (13, 5));
    page[key] = 1;
    fs::write(&path, database).unwrap();
    let (done, is_done) = std::sync::mpsc::channel();
    let dir = temp.path().to_owned();
    std::thread::spawn(move || done.send(Local::salvage(&dir, &|| true)));
    let salvaged = is_done.recv_timeout(std::time::Duration::from_mins(1)).expect("an end").unwrap();
    assert_eq!(salvaged.files, 5, "{salvaged:?}");
}

#[test]
fn one_that_is_broken_off_changes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    filled(temp.path());
    damage_names(temp.path());
    for rows in [0_u64, 1000, 3000] {
        let left = Cell::new(rows);
        let broken_off = Local::salvage(temp.path(), &|| left.replace(left.get().saturating_sub(1)) > 0).unwrap_err();
        assert_eq!(broken_off.kind(), Kind::Cancelled);
        assert!(saved(temp.path()).is_empty());
    }
    assert_eq!(Local::salvage(temp.path(), &|| true).unwrap().files, FILES + 20);
}

#[test]
fn nothing_to_be_read_is_told() {
    let temp = tempfile::tempdir().unwrap();
    filled(temp.path());
    let path = schema::path(temp.path());
    fs::write(&path, vec![7; 100_000]).unwrap();
    let _ = fs::remove_file(path.with_extension("sqlite-wal"));
    assert_eq!(Local::open(temp.path()).err().unwrap().kind(), Kind::Corrupt);
    assert_eq!(Local::salvage(temp.path(), &|| true).unwrap_err().kind(), Kind::Corrupt);
    assert!(path.exists());
}

#[test]
fn damaged_catalog_that_was_set_aside_last_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    assert_eq!(damaged(dir), None);
    // Nothing of the first one is left.
    fs::write(dir.join("catalog.sqlite.damaged.2"), "x").unwrap();
    fs::write(dir.join("catalog.sqlite.damaged.2-wal"), "x").unwrap();
    assert_eq!(damaged(dir), Some(dir.join("catalog.sqlite.damaged.2")));
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(dir.join("catalog.sqlite.damaged.1"), "x").unwrap();
    assert_eq!(damaged(dir), Some(dir.join("catalog.sqlite.damaged.1")));
}
