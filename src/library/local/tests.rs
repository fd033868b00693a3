//! A library on this machine: what is its own, beside what every home must do.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::library::Damage;
use crate::library::suite::{self, CUT, bytes, get, put};

fn local() -> (tempfile::TempDir, Local) {
    let temp = tempfile::tempdir().unwrap();
    Local::create(temp.path(), CUT).unwrap();
    let local = Local::open(temp.path()).unwrap();
    (temp, local)
}

/// A library that takes its folder with it.
struct Lone(Local, #[allow(dead_code, reason = "dropped with it")] tempfile::TempDir);

macro_rules! passed_on {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $back:ty;)*) => {
        impl Library for Lone {
            $(fn $name(&self, $($arg: $kind),*) -> $back { self.0.$name($($arg),*) })*
            fn draft(&self, path: &str, expected: Option<&[Chunk]>) -> Result<Box<dyn Draft + '_>> {
                self.0.draft(path, expected)
            }
        }
    };
}

passed_on! {
    describe() -> &str;
    cut() -> Cut;
    manifest(path: &str) -> Result<Manifest>;
    list(query: &Query) -> Result<Page>;
    chunk(path: &str, manifest: &Manifest, n: usize) -> Result<Bytes>;
    remove(path: &str) -> Result<()>;
    rename(from: &str, to: &str) -> Result<()>;
    set_tags(path: &str, tags: &[String]) -> Result<()>;
    purge(tag: &str, go_on: &mut dyn FnMut(Swept) -> bool) -> Result<Swept>;
    verify(go_on: &mut dyn FnMut(Verified) -> bool, found: &mut dyn FnMut(Finding)) -> Result<Verified>;
    repair(finding: &Finding, bytes: &[u8]) -> Result<()>;
    gc(grace: Duration, is_dry_run: bool) -> Result<Swept>;
}

#[test]
fn does_what_every_home_must() {
    suite::run(&|| {
        let (temp, local) = local();
        Box::new(Lone(local, temp))
    });
}

fn blob_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for folder in fs::read_dir(dir.join("blobs")).unwrap() {
        all.extend(fs::read_dir(folder.unwrap().path()).unwrap().map(|entry| entry.unwrap().path()));
    }
    all
}

fn used_bytes(dir: &Path) -> u64 {
    blob_files(dir).iter().map(|path| path.metadata().unwrap().len()).sum()
}

#[test]
fn equal_bytes_take_room_once() {
    let (temp, local) = local();
    let bytes = bytes(200_000, 1);
    put(&local, "one", &bytes, &[]);
    let used = used_bytes(temp.path());
    for path in ["one", "two", "folder/three"] {
        put(&local, path, &bytes, &[]);
    }
    assert_eq!(used_bytes(temp.path()), used);
}

#[test]
fn one_bit_is_never_shown_always_named_and_repaired() {
    let (temp, local_) = local();
    let (other_temp, other) = local();
    for library in [&local_, &other] {
        put(library, "film", &bytes(20_000, 1), &[]);
        put(library, "other", &bytes(9000, 2), &[]);
        put(library, "small", b"inline", &[]);
        library.flush().unwrap();
    }
    drop(local_);
    let mut rng = fastrand::Rng::with_seed(1);
    for path in blob_files(temp.path()) {
        let mut blob = fs::read(&path).unwrap();
        let at = rng.usize(..blob.len());
        blob[at] ^= 1 << rng.u8(..8);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, blob).unwrap();
        let local = Local::open(temp.path()).unwrap();
        let wrong: Vec<_> = ["film", "other", "small"].into_iter().filter(|path| get(&local, path).is_err()).collect();
        assert_eq!(wrong.len(), 1, "and the other files go on");
        let error = get(&local, wrong[0]).unwrap_err();
        assert!(error.kind() == Kind::Corrupt && error.to_string().contains(wrong[0]), "{error}");
        let mut found = Vec::new();
        local.verify(&mut |_| true, &mut |finding| found.push(finding)).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].what, found[0].path.as_deref()), (Damage::Damaged, Some(wrong[0])));
        assert!(!path.exists(), "out of the way");
        let manifest = other.manifest(wrong[0]).unwrap();
        let good = other.chunk(wrong[0], &manifest, found[0].chunk.unwrap()).unwrap();
        assert_eq!(local.repair(&found[0], b"not these").unwrap_err().kind(), Kind::Corrupt);
        local.repair(&found[0], &good).unwrap();
        assert_eq!(get(&local, wrong[0]).unwrap(), get(&other, wrong[0]).unwrap());
    }
    drop(other_temp);
}

fn findings(local: &Local) -> Vec<Finding> {
    let mut all = Vec::new();
    local.verify(&mut |_| true, &mut |finding| all.push(finding)).unwrap();
    all
}

fn sql(dir: &Path, sql: &str) {
    rusqlite::Connection::open(dir.join("catalog.sqlite")).unwrap().execute_batch(sql).unwrap();
}

#[test]
fn a_file_that_cannot_be_read_is_never_clean() {
    for wrong in [
        "DELETE FROM file_chunks WHERE start_byte = 8192",
        "DELETE FROM file_chunks WHERE start_byte = 0",
        "DELETE FROM file_chunks",
        "DELETE FROM file_chunks WHERE end_byte = 20000",
        "UPDATE nodes SET size_bytes = 20001 WHERE size_bytes = 20000",
        "UPDATE file_chunks SET end_byte = 8000 WHERE end_byte = 8192",
        "UPDATE file_chunks SET start_byte = 8000, end_byte = 12096 WHERE start_byte = 8192",
        "UPDATE file_chunks SET end_byte = 1, start_byte = 9000 WHERE start_byte = 8192",
        "UPDATE nodes SET size_bytes = 5 WHERE inline IS NOT NULL AND kind = 8",
    ] {
        let (temp, local) = local();
        put(&local, "film", &bytes(20_000, 1), &[]);
        put(&local, "small", b"inline", &[]);
        drop(local);
        sql(temp.path(), wrong);
        let local = Local::open(temp.path()).unwrap();
        let unreadable: Vec<_> = ["film", "small"].into_iter().filter(|path| get(&local, path).is_err()).collect();
        assert_eq!(unreadable.len(), 1, "{wrong}");
        let found = findings(&local);
        let is_told = |finding: &Finding| {
            finding.what == Damage::Damaged && finding.chunk.is_none() && finding.path.as_deref() == Some(unreadable[0])
        };
        assert!(found.iter().any(is_told), "{wrong}: {found:?}");
        assert_eq!(blob_files(temp.path()).len(), 5, "and nothing is taken away");
    }
}

#[test]
fn a_large_catalog_is_looked_at_page_by_page_too() {
    let (temp, local) = local();
    put(&local, "film", &bytes(20_000, 1), &[]);
    drop(local);
    sql(temp.path(), "INSERT INTO xattrs VALUES (2, 'large', zeroblob(70 << 20))");
    let path = temp.path().join("catalog.sqlite");
    let root: u64 = rusqlite::Connection::open(&path)
        .unwrap()
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'tags_by_node'", [], |row| {
            row.get(0).map(crate::sqlite::loaded)
        })
        .unwrap();
    let database = fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&database, &[0xa5; 4096], (root - 1) * 4096).unwrap();
    let local = Local::open(temp.path()).unwrap();
    let error = local.verify(&mut |_| true, &mut |_| {}).unwrap_err();
    assert!(error.kind() == Kind::Corrupt && error.to_string().contains("--salvage"), "{error}");
}

#[test]
fn a_blob_is_not_put_aside_for_what_a_row_says_of_it() {
    let (temp, local) = local();
    let shared = bytes(8192, 1);
    put(&local, "one", &shared, &[]);
    put(&local, "two", &[&shared, b"and more".as_slice()].concat(), &[]);
    drop(local);
    let of_one = "node_id = (SELECT node_id FROM nodes WHERE size_bytes = 8192)";
    // Both rows together leave no gap.
    sql(temp.path(), &format!("UPDATE file_chunks SET end_byte = 4097 WHERE end_byte = 4096 AND {of_one}"));
    sql(temp.path(), &format!("UPDATE file_chunks SET start_byte = 4097 WHERE start_byte = 4096 AND {of_one}"));
    let local = Local::open(temp.path()).unwrap();
    let mut found = findings(&local);
    found.sort_by_key(|finding| finding.chunk);
    let told: Vec<_> = found.iter().map(|finding| (finding.path.as_deref(), finding.chunk)).collect();
    assert_eq!(told, [(Some("one"), Some(0)), (Some("one"), Some(1))], "{found:?}");
    assert_eq!(get(&local, "two").unwrap()[..8192], shared);
    let refused = local.repair(&found[0], &shared[..4096]).unwrap_err();
    assert!(refused.kind() == Kind::Corrupt && refused.to_string().contains("put the file again"), "{refused}");
    assert_eq!(get(&local, "two").unwrap()[..8192], shared);
    put(&local, "one", &shared, &[]);
    assert_eq!((get(&local, "one").unwrap(), findings(&local)), (shared, Vec::new()));
}

#[test]
fn what_is_no_manifest_replaces_nothing() {
    let (_temp, local) = local();
    put(&local, "film", &bytes(9000, 1), &[]);
    let hole = |start, end| Chunk { range: crate::range::ByteRange::new(start, end), proof: Proof::Zeros };
    let draft = local.draft("film", None).unwrap();
    let refused = draft.commit(Content::Chunks(vec![hole(0, 4096), hole(8192, 9000)]), Meta::now()).unwrap_err();
    assert_eq!(refused.kind(), Kind::Corrupt);
    assert_eq!(get(&local, "film").unwrap(), bytes(9000, 1));
}

/// Whoever reads a file that is replaced reads on, whatever else is removed meanwhile.
#[test]
fn what_is_removed_takes_nothing_else_with_it() {
    let (temp, local) = local();
    let old = bytes(9000, 1);
    put(&local, "film", &old, &[]);
    let before = local.manifest("film").unwrap();
    put(&local, "film", &bytes(9000, 2), &[]);
    put(&local, "removed", &bytes(9000, 3), &[]);
    put(&local, "purged", &bytes(9000, 4), &["old"]);
    local.remove("removed").unwrap();
    assert_eq!(local.purge("old", &mut |_| true).unwrap().chunks, 6, "with those of `removed`");
    assert_eq!(local.chunk("film", &before, 0).unwrap(), old[..4096]);
    assert_eq!(blob_files(temp.path()).len(), 6);
    put(&local, "left", &bytes(9000, 5), &[]);
    local.remove("left").unwrap();
    local.flush().unwrap();
    assert_eq!(blob_files(temp.path()).len(), 6);
    local.remove("film").unwrap();
    drop(local);
    // One that ended before it swept is followed by one that does.
    let local = Local::open(temp.path()).unwrap();
    assert_eq!(blob_files(temp.path()).len(), 3, "those that were replaced");
    local.gc(Duration::ZERO, false).unwrap();
    assert_eq!(blob_files(temp.path()).len(), 0);
}

/// A sync for each would be hours for a million.
#[test]
fn many_are_removed_with_few_syncs() {
    let (temp, local) = local();
    for n in 0..40 {
        put(&local, &format!("{n}"), &bytes(5000, n), &[]);
    }
    local.flush().unwrap();
    for n in 0..40 {
        local.remove(&format!("{n}")).unwrap();
        assert!(local.catalog.has_changes(), "{n}: not synced each for itself");
    }
    assert_eq!(blob_files(temp.path()).len(), 80);
    local.flush().unwrap();
    assert_eq!(blob_files(temp.path()).len(), 0);
    assert!(!local.catalog.has_changes());
}

#[test]
fn one_writer_and_any_number_of_lookers() {
    let (temp, local) = local();
    put(&local, "film", &bytes(9000, 1), &[]);
    local.flush().unwrap();
    let second = Local::open(temp.path()).err().unwrap();
    assert_eq!(second.kind(), Kind::Busy);
    assert!(second.to_string().contains(&std::process::id().to_string()), "{second}");
    let looker = Local::open_to_look(temp.path()).unwrap();
    assert_eq!(get(&looker, "film").unwrap(), bytes(9000, 1));
    assert_eq!(looker.draft("x", None).err().unwrap().kind(), Kind::Denied);
    assert_eq!(looker.remove("film").unwrap_err().kind(), Kind::Denied);
    drop(local);
    Local::open(temp.path()).unwrap();
}

#[test]
fn what_is_no_library_is_told_how_to_become_one() {
    let temp = tempfile::tempdir().unwrap();
    let error = Local::open(temp.path()).err().unwrap();
    assert!(error.kind() == Kind::Missing && error.to_string().contains("reelfs init"), "{error}");
    fs::write(temp.path().join("somebody's"), "x").unwrap();
    assert_eq!(Local::create(temp.path(), CUT).unwrap_err().kind(), Kind::Invalid);
}

/// The sizes of files that are kept in the catalog, and of those that are not.
fn by_place(local: &Local) -> (Vec<u64>, Vec<u64>) {
    let files = local.catalog.read(|view| view.files(0, 100)).unwrap();
    let (inside, outside): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| file.inline.is_some());
    let sizes = |files: Vec<catalog::FileNode>| {
        let mut sizes: Vec<_> = files.into_iter().map(|file| file.size_bytes).collect();
        sizes.sort_unstable();
        sizes
    };
    (sizes(inside), sizes(outside))
}

#[test]
fn files_move_across_the_threshold_and_back_however_often_it_is_broken_off() {
    let (temp, local) = local();
    let (chunk, inline) = (CUT.chunk_size_bytes, CUT.inline_bytes_max);
    let sizes = [0, 1, inline / 2, inline, inline + 1, chunk, chunk + 1, 3 * chunk];
    let bytes_of = |n: usize| bytes(sizes[n] as usize, n as u64);
    let check = |local: &Local| {
        for n in 0..sizes.len() {
            assert!(get(local, &format!("a/{n}")).unwrap() == bytes_of(n), "{n}");
        }
        let found = local.verify(&mut |_| true, &mut |finding| assert_eq!(finding.what, Damage::Orphaned));
        found.unwrap();
    };
    for n in 0..sizes.len() {
        put(&local, &format!("a/{n}"), &bytes_of(n), &["old"]);
    }
    check(&local);
    let times = |local: &Local, n| local.manifest(&format!("a/{n}")).unwrap().meta().clone();
    let before: Vec<_> = (0..sizes.len()).map(|n| times(&local, n)).collect();
    let mut local = local;
    for max in [0, chunk, inline / 2, inline, chunk] {
        // As often as it takes, each time by a process of its own.
        let mut rounds = 0;
        loop {
            let mut seen = 0;
            let recut = local.recut(max, &mut |_| {
                seen += 1;
                seen < 2
            });
            let recut = recut.unwrap();
            check(&local);
            drop(local);
            local = Local::open(temp.path()).unwrap();
            check(&local);
            rounds += 1;
            assert!(rounds < 10);
            if !recut.is_broken_off {
                break;
            }
        }
        let (inside, outside): (Vec<_>, Vec<_>) = sizes.iter().partition(|size| **size <= max);
        assert_eq!(by_place(&local), (inside, outside), "{max}");
        assert_eq!(local.cut(), Cut { inline_bytes_max: max, ..CUT });
        let again = local.recut(max, &mut |_| true).unwrap();
        assert_eq!((again.taken_in, again.taken_out, again.total_bytes), (0, 0, 0), "nothing is left to do");
    }
    let after: Vec<_> = (0..sizes.len()).map(|n| times(&local, n)).collect();
    assert_eq!(before, after);
    assert_eq!(local.recut(chunk + 1, &mut |_| true).unwrap_err().kind(), Kind::Invalid);
    // Nothing is left of files that are inside, once their grace is over.
    local.gc(Duration::ZERO, false).unwrap();
    let blobs = by_place(&local).1.iter().map(|size| size.div_ceil(chunk)).sum::<u64>();
    assert!(blob_files(temp.path()).len() as u64 <= blobs);
    check(&local);
}

#[test]
fn a_damaged_file_is_not_moved_and_the_others_are() {
    let (temp, local) = local();
    let size = CUT.inline_bytes_max as usize + 1;
    for n in 0..3 {
        put(&local, &format!("{n}"), &bytes(size, n), &[]);
    }
    let blob = local.blobs.path(Digest::of(&bytes(size, 1)));
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&blob, vec![0; size]).unwrap();
    let recut = local.recut(CUT.chunk_size_bytes, &mut |_| true).unwrap();
    assert_eq!((recut.taken_in, recut.failed.len()), (2, 1));
    assert_eq!((&*recut.failed[0].0, recut.failed[0].1.kind()), ("1", Kind::Corrupt));
    assert!(get(&local, "0").unwrap() == bytes(size, 0) && get(&local, "2").unwrap() == bytes(size, 2));
    drop(temp);
}
