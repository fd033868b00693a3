//! The catalog over real databases: what is put, listed, cut, freed, and what survives.

use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::digest::Digest;
use crate::library::{Chunk, Content, Meta, Proof, Query};
use crate::range::ByteRange;
use crate::sqlite::time;

const CUT: Cut = Cut { inline_bytes_max: 16, chunk_size_bytes: 4096 };

fn library() -> (TempDir, Catalog) {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path(), CUT, &|| Ok(())).unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    (dir, catalog)
}

fn put(catalog: &Catalog, path: &str, content: &Content, tags: &[&str]) -> u64 {
    let now = SystemTime::now();
    let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
    let meta = Meta { content_type: None, tags, modified: now, created: now };
    let placed = Placed { content, meta: &meta, owner: (0, 0), mode: 0o644 };
    catalog.change(|change| change.place(path, &placed, now)).unwrap()
}

fn inline(text: &str) -> Content {
    Content::Inline(Bytes::copy_from_slice(text.as_bytes()))
}

fn rows(parts: &[(u64, u64, Option<u8>)]) -> Vec<ChunkRow> {
    let row = |(start, end, blob): &(u64, u64, Option<u8>)| ChunkRow {
        range: ByteRange::new(*start, *end),
        digest: blob.map(|blob| Digest::of(&[blob])),
    };
    parts.iter().map(row).collect()
}

fn chunked(parts: &[(u64, u64, Option<u8>)]) -> Content {
    let chunk = |row: ChunkRow| Chunk { range: row.range, proof: row.digest.map_or(Proof::Zeros, Proof::Sha256) };
    Content::Chunks(rows(parts).into_iter().map(chunk).collect())
}

fn loose(catalog: &Catalog) -> Vec<Digest> {
    catalog.read(|view| view.loose(None, 100)).unwrap().into_iter().map(|blob| blob.digest).collect()
}

fn listed(catalog: &Catalog, query: &Query) -> Vec<String> {
    let mut query = query.clone();
    let mut paths = Vec::new();
    loop {
        let page = catalog.read(|view| view.list(&query)).unwrap();
        assert!(page.names.len() <= query.limit);
        paths.extend(page.names.into_iter().map(|name| name.path));
        let Some(cursor) = page.cursor else { return paths };
        query.cursor = Some(cursor);
    }
}

#[test]
fn what_is_put_is_there_after_a_restart_and_for_others() {
    let (dir, catalog) = library();
    put(&catalog, "a/b/film.mkv", &chunked(&[(0, 4096, Some(1)), (4096, 5000, None)]), &["x", "y"]);
    put(&catalog, "a/note", &inline("hello"), &[]);
    let reader = Catalog::open_to_look(dir.path()).unwrap();
    let missing = reader.read(|view| view.manifest("a/note")).unwrap_err();
    assert_eq!(missing.kind(), Kind::Missing, "not flushed yet");
    catalog.flush().unwrap();
    for catalog in [&reader, &catalog] {
        let (_, manifest) = catalog.read(|view| view.manifest("a/b/film.mkv")).unwrap();
        assert_eq!(manifest.size_bytes(), 5000);
        assert_eq!(manifest.meta().tags, ["x", "y"]);
        assert_eq!(manifest.content(), &chunked(&[(0, 4096, Some(1)), (4096, 5000, None)]));
        let (_, manifest) = catalog.read(|view| view.manifest("a/note")).unwrap();
        assert_eq!(manifest.content(), &inline("hello"));
        let folder = catalog.read(|view| view.manifest("a")).unwrap_err();
        assert_eq!(folder.kind(), Kind::Unsupported);
    }
    assert_eq!(reader.change(|_| Ok::<(), Error>(())).unwrap_err().kind(), Kind::Denied);
    drop(catalog);
    let catalog = Catalog::open(dir.path()).unwrap();
    assert_eq!(catalog.cut(), CUT);
    assert!(catalog.read(|view| view.manifest("a/b/film.mkv")).is_ok());
}

#[test]
fn a_copy_of_the_one_file_is_a_copy_of_all_after_an_end() {
    let (dir, catalog) = library();
    put(&catalog, "a/note", &inline("hello"), &[]);
    catalog.flush().unwrap();
    assert!(catalog.read(|view| view.manifest("a/note")).is_ok());
    let looker = Catalog::open_to_look(dir.path()).unwrap();
    assert!(looker.read(|view| view.manifest("a/note")).is_ok(), "an idle one is in nobody's way");
    drop(catalog);
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join("catalog.sqlite"), copy.path().join("catalog.sqlite")).unwrap();
    assert!(Catalog::open(copy.path()).unwrap().read(|view| view.manifest("a/note")).is_ok());
}

#[test]
fn no_connection_plans_a_kept_statement_anew() {
    let (dir, catalog) = library();
    let reader = Catalog::open_to_look(dir.path()).unwrap();
    for number in 0..50_u8 {
        let path = format!("folder/{number}");
        let node = put(&catalog, &path, &chunked(&[(0, 4096, Some(number)), (4096, 5000, None)]), &["x"]);
        catalog.flush().unwrap();
        for catalog in [&reader, &catalog] {
            assert!(catalog.read(|view| view.manifest(&path)).is_ok());
            assert_eq!(catalog.read(|view| view.covering(node, ByteRange::new(10, 20))).unwrap().len(), 1);
        }
    }
    assert_eq!((catalog.replans(), reader.replans()), (0, 0));
}

#[test]
fn a_change_that_fails_changes_nothing_and_others_stay() {
    let (dir, catalog) = library();
    put(&catalog, "a", &inline("1"), &[]);
    let failed: Result<()> = catalog.change(|change| {
        change.remove_path("a", SystemTime::now())?;
        Err(Error::new(Kind::Cancelled, "no"))
    });
    assert_eq!(failed.unwrap_err().kind(), Kind::Cancelled);
    put(&catalog, "b", &inline("2"), &[]);
    drop(catalog);
    let catalog = Catalog::open(dir.path()).unwrap();
    assert!(catalog.read(|view| view.file("a").and(view.file("b"))).is_ok());
}

#[test]
fn only_a_library_is_opened_and_by_one_writer_only() {
    let dir = tempfile::tempdir().unwrap();
    let open = |dir: &Path| Catalog::open(dir).map(drop).map_err(|error| (error.kind(), error.to_string()));
    let (kind, message) = open(dir.path()).unwrap_err();
    assert_eq!(kind, Kind::Missing);
    assert!(message.contains("reelfs init library:"), "{message}");
    create(dir.path(), CUT, &|| Ok(())).unwrap();
    assert_eq!(create(dir.path(), CUT, &|| Ok(())).unwrap_err().kind(), Kind::Invalid);
    let writer = Catalog::open(dir.path()).unwrap();
    let (kind, message) = open(dir.path()).unwrap_err();
    assert_eq!(kind, Kind::Busy);
    assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
    drop(writer);

    let path = schema::path(dir.path());
    let pragma = |sql: &str| Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    pragma("PRAGMA journal_mode = delete; PRAGMA user_version = 2");
    let newer = std::fs::read(&path).unwrap();
    let (kind, message) = open(dir.path()).unwrap_err();
    assert_eq!(kind, Kind::Unsupported);
    assert!(std::fs::read(&path).unwrap() == newer, "not a byte of it is changed");
    assert!(message.contains("newer"), "{message}");
    pragma("PRAGMA user_version = 1; PRAGMA application_id = 7");
    assert_eq!(open(dir.path()).unwrap_err().0, Kind::Corrupt);
    std::fs::write(&path, "no database, but long enough to be taken for one").unwrap();
    assert_eq!(open(dir.path()).unwrap_err().0, Kind::Corrupt);

    let full = tempfile::tempdir().unwrap();
    std::fs::write(full.path().join("film.mkv"), "mine").unwrap();
    assert_eq!(create(full.path(), CUT, &|| Ok(())).unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn listings_go_in_the_order_of_paths_by_pages_of_any_size() {
    let (_dir, catalog) = library();
    let mut paths = ["a/b", "a.txt", "a/c/d", "a/c.x", "a0", "b/z/y/x", "b/z0", "ä/ö", "c"];
    for path in paths {
        put(&catalog, path, &inline(path), &[]);
    }
    catalog
        .change(|change| {
            let now = SystemTime::now();
            let empty = change.add_node(&Node::new(NodeKind::Folder, 0o755, (0, 0), now), None)?;
            change.add_name(ROOT, "a-empty", &empty, now)
        })
        .unwrap();
    paths.sort_unstable();
    for limit in 1..=10 {
        let all = Query { is_recursive: true, limit, ..Query::default() };
        assert_eq!(listed(&catalog, &all), paths, "pages of {limit}");
        let below = Query { folder: "a".into(), ..all.clone() };
        assert_eq!(listed(&catalog, &below), ["a/b", "a/c.x", "a/c/d"]);
        let top = Query { is_recursive: false, ..all.clone() };
        assert_eq!(listed(&catalog, &top), ["a-empty", "a.txt", "a", "a0", "b", "c", "ä"]);
        // Between any two bounds, whether or not anything has this path.
        for start in ["", "a", "a/", "a/b", "a/c", "a/c/", "a/c/e", "a0", "b/z/y", "b/z/z", "zz"] {
            for end in ["a/c", "a/c/", "b", "b/z/y/x0", "zz"] {
                let query = Query { start: Some(start.into()), end: Some(end.into()), ..all.clone() };
                let expected: Vec<_> = paths.iter().filter(|path| (start..end).contains(*path)).collect();
                assert_eq!(listed(&catalog, &query).iter().collect::<Vec<_>>(), expected, "{start}..{end}");
            }
        }
    }
    // A page that is just full is the last one.
    for (is_recursive, limit) in [(true, paths.len()), (false, 7)] {
        let page = catalog.read(|view| view.list(&Query { is_recursive, limit, ..Query::default() })).unwrap();
        assert_eq!((page.names.len(), page.cursor), (limit, None));
    }
    let missing = Query { folder: "no".into(), limit: 1, ..Query::default() };
    assert_eq!(catalog.read(|view| view.list(&missing)).unwrap_err().kind(), Kind::Missing);
}

#[test]
fn splices_replace_chunks_and_cut_only_holes() {
    let (_dir, catalog) = library();
    let node =
        put(&catalog, "f", &chunked(&[(0, 4096, Some(1)), (4096, 40_960, None), (40_960, 41_000, Some(2))]), &[]);
    let splice = |kept, parts: &[(u64, u64, Option<u8>)]| {
        catalog.change(|change| change.splice_chunks(node, kept, &rows(parts)))
    };
    splice(40_960, &[(8192, 12_288, Some(3)), (40_960, 45_056, Some(4))]).unwrap();
    let expected = [
        (0, 4096, Some(1)),
        (4096, 8192, None),
        (8192, 12_288, Some(3)),
        (12_288, 40_960, None),
        (40_960, 45_056, Some(4)),
    ];
    assert_eq!(catalog.read(|view| view.manifest("f")).unwrap().1.content(), &chunked(&expected));
    assert_eq!(loose(&catalog), [Digest::of(&[2])]);
    let covering = |start, end| catalog.read(|view| view.covering(node, ByteRange::new(start, end)));
    assert_eq!(covering(4095, 4097).unwrap(), rows(&expected[..2]));
    assert_eq!(covering(45_000, 45_057).unwrap_err().kind(), Kind::Corrupt, "past its end");
    for (kept, parts) in [(45_056, &[(100, 200, Some(5))][..]), (8200, &[])] {
        let cut_through = splice(kept, parts).unwrap_err();
        assert_eq!(cut_through.kind(), Kind::Local);
    }
    // Cut off in the hole; everything after it is loose.
    splice(20_000, &[]).unwrap();
    assert_eq!(catalog.read(|view| view.manifest("f")).unwrap().1.size_bytes(), 20_000);
    let mut gone = [Digest::of(&[2]), Digest::of(&[4])];
    gone.sort_unstable_by_key(|digest| *digest.as_bytes());
    assert_eq!(loose(&catalog), gone);
}

#[test]
fn a_blob_is_loose_exactly_while_no_file_needs_it() {
    let (_dir, catalog) = library();
    let shared = [(0, 4096, Some(1))];
    put(&catalog, "a", &chunked(&shared), &["t"]);
    let b = put(&catalog, "b", &chunked(&shared), &["t"]);
    assert_eq!(catalog.read(|view| view.tagged("t", 0, 9)).unwrap().len(), 2);
    let now = SystemTime::now();
    catalog.change(|change| change.remove_path("a", now)).unwrap();
    assert!(loose(&catalog).is_empty());
    assert_eq!(catalog.read(|view| view.uses(&Digest::of(&[1]), None, 9)).unwrap()[0].node_id, b);
    catalog.change(|change| change.remove_path("b", now)).unwrap();
    assert_eq!(loose(&catalog), [Digest::of(&[1])]);
    assert!(catalog.read(|view| view.tagged("t", 0, 9)).unwrap().is_empty());
    put(&catalog, "c", &chunked(&shared), &[]);
    assert!(loose(&catalog).is_empty());
    let used = UsedBlob { digest: Digest::of(&[1]), size_bytes_min: 4096, size_bytes_max: 4096 };
    assert_eq!(catalog.read(|view| view.blobs(None, 9)).unwrap(), [used]);
    put(&catalog, "c", &inline("small now"), &[]);
    let sweep = |remove: bool| {
        let later = SystemTime::now();
        catalog.sweep_loose(None, later, |_| Ok(remove)).unwrap().0.len()
    };
    assert_eq!((sweep(false), sweep(true), sweep(true)), (0, 1, 0), "pinned, then not");
}

#[test]
fn links_and_times_follow_the_names() {
    let (dir, catalog) = library();
    let node = put(&catalog, "d/f", &inline("x"), &[]);
    let now = SystemTime::now();
    let links = |path: &str| catalog.read(|view| view.walk(path)).unwrap().unwrap().links;
    assert_eq!((links(""), links("d"), links("d/f")), (3, 2, 1));
    catalog
        .change(|change| {
            let file = change.file("d/f")?;
            change.add_name(ROOT, "again", &file, now)
        })
        .unwrap();
    assert_eq!(links("again"), 2);
    catalog.change(|change| change.rename_path("d", "e/d", (0, 0), now)).unwrap();
    assert_eq!((links(""), links("e"), links("e/d"), links("e/d/f")), (3, 3, 2, 2));
    let within = catalog.change(|change| change.rename_path("e", "e/d/e", (0, 0), now)).unwrap_err();
    assert_eq!(within.kind(), Kind::Invalid);
    assert_eq!(catalog.read(|view| view.path_of(node)).unwrap().as_deref(), Some("e/d/f"));
    // Open while its last names go, and the process ends.
    catalog.change(|change| change.remove_name(ROOT, "again", now)).unwrap();
    let (folder, left) = catalog
        .change(|change| {
            let folder = change.walk("e/d")?.unwrap().node_id;
            Ok::<_, Error>((folder, change.remove_name(folder, "f", now)?.links))
        })
        .unwrap();
    assert_eq!(left, 0);
    assert!(catalog.read(|view| view.is_empty_folder(folder)).unwrap());
    assert!(catalog.read(|view| view.node(node)).unwrap().is_some());
    drop(catalog);
    let catalog = Catalog::open(dir.path()).unwrap();
    assert!(catalog.read(|view| view.node(node)).unwrap().is_none());
}

#[test]
fn a_folder_is_read_in_pages_while_names_come_and_go() {
    let (_dir, catalog) = library();
    for n in 0..NAMES_PAGE + 10 {
        put(&catalog, &format!("f{n}"), &inline(""), &[]);
    }
    let last = catalog.read(|view| view.last_name_id(ROOT)).unwrap();
    let first = catalog.read(|view| view.entries(ROOT, 0, last)).unwrap();
    assert_eq!(first.len(), NAMES_PAGE);
    let now = SystemTime::now();
    for entry in &first {
        catalog.change(|change| change.remove_name(ROOT, &entry.name, now)).unwrap();
    }
    put(&catalog, "later", &inline(""), &[]);
    let rest = catalog.read(|view| view.entries(ROOT, first.last().unwrap().name_id, last)).unwrap();
    assert_eq!(rest.len(), 10);
    assert_eq!(rest.last().unwrap().name_id, last);
}

#[test]
fn times_before_1970_and_far_from_it_come_back() {
    for nanos_since in [0, 1, -1, i64::MAX, -i64::MAX] {
        assert_eq!(nanos(time(nanos_since)), nanos_since);
    }
}

#[test]
fn modes_are_changed_of_a_library_only_and_not_of_what_stands_beside_it() {
    use std::fs::{Permissions, metadata, set_permissions, write};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("srv");
    let names = ["", "catalog.sqlite", "mine", "blobs"];
    let modes = || names.map(|name| metadata(dir.join(name)).unwrap().mode() & 0o7777);
    let open_up = || {
        for (name, mode) in names.iter().zip([0o755, 0o644, 0o644, 0o755]) {
            set_permissions(dir.join(name), Permissions::from_mode(mode)).unwrap();
        }
    };
    // Another program's files, which are called as a library's are.
    std::fs::create_dir_all(dir.join("blobs")).unwrap();
    Connection::open(dir.join("catalog.sqlite")).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
    write(dir.join("mine"), "mine").unwrap();
    open_up();
    let tries: [&dyn Fn() -> Option<Error>; 3] =
        [&|| Catalog::open(&dir).err(), &|| Catalog::open_to_look(&dir).err(), &|| set_group_read(&dir).err()];
    for (n, attempt) in tries.iter().enumerate() {
        assert_eq!(attempt().unwrap().kind(), Kind::Corrupt);
        assert_eq!(modes(), [0o755, 0o644, 0o644, 0o755], "{n}");
    }
    // A library with a file of its owner's beside it.
    std::fs::remove_dir_all(&dir).unwrap();
    create(&dir, CUT, &|| Ok(())).unwrap();
    std::fs::create_dir_all(dir.join("blobs")).unwrap();
    write(dir.join("mine"), "mine").unwrap();
    for is_look in [true, false] {
        open_up();
        drop(if is_look { Catalog::open_to_look(&dir) } else { Catalog::open(&dir) }.unwrap());
        assert_eq!(modes(), [0o755, 0o600, 0o644, 0o700]);
        set_group_read(&dir).unwrap();
        assert_eq!(modes(), [0o755, 0o600, 0o644, 0o700]);
    }
    std::fs::remove_file(dir.join("mine")).unwrap();
    drop(Catalog::open(&dir).unwrap());
    assert_eq!(metadata(&dir).unwrap().mode() & 0o7777, 0o700);
}
