//! What every home of a library must do, as tests: each home runs them all.
//! Never here: what is a home's own.

use std::time::{Duration, SystemTime};

use super::writer::Writer;
use super::*;
use crate::digest::Digest;

/// Runs every test on a new, empty library that cuts alike for all homes: whole up to 100 bytes, chunks of 4 KiB.
pub fn run(new: &dyn Fn() -> Box<dyn Library>) {
    for test in [
        sizes_at_every_edge,
        a_put_replaces_at_once_or_not_at_all,
        names_in_order_page_by_page,
        folders_and_prefixes,
        names_go_and_change,
        tags_lead_to_files,
        a_purge_takes_what_is_marked_and_nothing_else,
        a_purge_goes_on_where_it_was_broken_off,
        what_nobody_names_is_swept,
        equal_bytes_cost_once,
        bad_names_are_refused,
        sound_is_sound,
    ] {
        test(&*new());
    }
}

/// The cut all homes are made with for this.
pub const CUT: Cut = Cut { inline_bytes_max: 100, chunk_size_bytes: 4096 };

/// Bytes that differ with `seed`, and from chunk to chunk.
pub fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
}

fn meta(tags: &[&str]) -> Meta {
    let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(1_234_567_890_123);
    Meta { tags: tags.iter().map(ToString::to_string).collect(), modified, ..Meta::now() }
}

/// Puts a file.
pub fn put(library: &dyn Library, path: &str, bytes: &[u8], tags: &[&str]) -> Manifest {
    let mut writer = Writer::new(library.draft(path, None).unwrap(), library.cut());
    for piece in bytes.chunks(1000) {
        writer.write(piece).unwrap();
    }
    writer.finish(meta(tags)).unwrap()
}

/// Reads a file, whole.
pub fn get(library: &dyn Library, path: &str) -> Result<Vec<u8>> {
    let manifest = library.manifest(path)?;
    match manifest.content() {
        Content::Inline(bytes) => Ok(bytes.to_vec()),
        Content::Chunks(chunks) => {
            let mut all = Vec::new();
            for n in 0..chunks.len() {
                all.extend_from_slice(&library.chunk(path, &manifest, n)?);
            }
            Ok(all)
        }
    }
}

fn names(library: &dyn Library, query: Query) -> Vec<String> {
    let (mut all, mut query) = (Vec::new(), query);
    loop {
        let page = library.list(&query).unwrap();
        assert!(page.names.len() <= query.limit);
        all.extend(
            page.names
                .into_iter()
                .map(|named| if named.kind == NamedKind::Folder { format!("{}/", named.path) } else { named.path }),
        );
        if page.cursor.is_none() {
            return all;
        }
        query.cursor = page.cursor;
    }
}

fn all(library: &dyn Library) -> Vec<String> {
    names(library, Query { is_recursive: true, limit: 1000, ..Query::default() })
}

fn findings(library: &dyn Library) -> Vec<Finding> {
    let mut all = Vec::new();
    library.verify(&mut |_| true, &mut |finding| all.push(finding)).unwrap();
    all
}

fn sizes_at_every_edge(library: &dyn Library) {
    for len in [0, 1, 99, 100, 101, 4095, 4096, 4097, 8191, 8192, 8193, 50_000] {
        let (path, bytes) = (format!("sizes/{len}"), bytes(len, len as u64));
        let manifest = put(library, &path, &bytes, &[]);
        assert_eq!(manifest.size_bytes(), len as u64);
        assert_eq!(library.manifest(&path).unwrap().content_id(), manifest.content_id());
        assert_eq!(get(library, &path).unwrap(), bytes, "{len}");
        let kept = library.manifest(&path).unwrap();
        assert_eq!(kept.meta().modified, meta(&[]).modified);
        assert_eq!(matches!(kept.content(), Content::Inline(_)), len <= 100);
    }
}

fn a_put_replaces_at_once_or_not_at_all(library: &dyn Library) {
    let (old, new) = (bytes(20_000, 1), bytes(30_000, 2));
    put(library, "film", &old, &[]);
    let mut writer = Writer::new(library.draft("film", None).unwrap(), library.cut());
    writer.write(&new[..25_000]).unwrap();
    assert_eq!(get(library, "film").unwrap(), old, "nothing is seen of it yet");
    drop(writer);
    assert_eq!(get(library, "film").unwrap(), old, "broken off");
    let before = library.manifest("film").unwrap();
    put(library, "film", &new, &[]);
    assert_eq!(get(library, "film").unwrap(), new);
    // Who began to read the old one reads on, for a while.
    assert_eq!(library.chunk("film", &before, 1).unwrap(), old[4096..8192]);
    put(library, "film", b"small now", &[]);
    assert_eq!(get(library, "film").unwrap(), b"small now");
}

fn names_in_order_page_by_page(library: &dyn Library) {
    // Where `/` is greater than other characters, the order of paths is not that of names.
    let paths = ["a", "b-1", "b/1", "b/2", "b0", "c/x/1", "c/x/2", "c/y", "z", "ä/ö"];
    for path in paths {
        put(library, path, path.as_bytes(), &[]);
    }
    assert_eq!(all(library), paths);
    for limit in 1..=paths.len() {
        assert_eq!(names(library, Query { is_recursive: true, limit, ..Query::default() }), paths, "{limit}");
        let top = names(library, Query { limit, ..Query::default() });
        assert_eq!(top, ["a", "b-1", "b/", "b0", "c/", "z", "ä/"], "{limit}");
    }
    let between =
        Query { start: Some("b/2".into()), end: Some("c/y".into()), is_recursive: true, limit: 2, ..Query::default() };
    assert_eq!(names(library, between), ["b/2", "b0", "c/x/1", "c/x/2"]);
    let from_nowhere = Query { start: Some("c/x/15".into()), is_recursive: true, limit: 10, ..Query::default() };
    assert_eq!(names(library, from_nowhere), ["c/x/2", "c/y", "z", "ä/ö"]);
}

fn folders_and_prefixes(library: &dyn Library) {
    for path in ["season/1.mkv", "season/2.mkv", "season 2/1.mkv", "seasons"] {
        put(library, path, &bytes(5000, 1), &[]);
    }
    let folder =
        |folder: &str, is_recursive| Query { folder: folder.into(), is_recursive, limit: 9, ..Query::default() };
    assert_eq!(names(library, folder("season", false)), ["season/1.mkv", "season/2.mkv"]);
    assert_eq!(names(library, folder("season", true)), ["season/1.mkv", "season/2.mkv"]);
    for nothing in ["none", "seaso", "season/1.mkv"] {
        assert!(library.list(&folder(nothing, false)).is_err(), "{nothing}");
    }
    assert_eq!(library.manifest("season").unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(library.manifest("none").unwrap_err().kind(), Kind::Missing);
    assert_eq!(library.manifest("season/1.mkv/x").unwrap_err().kind(), Kind::Missing);
}

fn names_go_and_change(library: &dyn Library) {
    let (one, two) = (bytes(9000, 1), bytes(10_000, 2));
    put(library, "a/one", &one, &["tag"]);
    put(library, "two", &two, &[]);
    library.rename("a/one", "b/c/one").unwrap();
    assert_eq!(library.manifest("a/one").unwrap_err().kind(), Kind::Missing);
    assert_eq!(get(library, "b/c/one").unwrap(), one);
    library.rename("b/c/one", "two").unwrap();
    assert_eq!((get(library, "two").unwrap(), library.manifest("two").unwrap().meta().tags.len()), (one.clone(), 1));
    library.rename("two", "two").unwrap();
    assert_eq!(get(library, "two").unwrap(), one);
    assert_eq!(library.rename("none", "x").unwrap_err().kind(), Kind::Missing);
    assert_eq!(library.remove("none").unwrap_err().kind(), Kind::Missing);
    library.remove("two").unwrap();
    assert_eq!(library.manifest("two").unwrap_err().kind(), Kind::Missing);
    library.gc(Duration::ZERO, false).unwrap();
    assert_eq!(findings(library), []);
}

fn tags_lead_to_files(library: &dyn Library) {
    put(library, "film", &bytes(5000, 1), &["b", "a"]);
    library.set_tags("film", &["c".into(), "a".into(), "c".into()]).unwrap();
    assert_eq!(library.manifest("film").unwrap().meta().tags, ["a", "c"]);
    assert_eq!(get(library, "film").unwrap(), bytes(5000, 1));
    assert_eq!(library.purge("b", &mut |_| true).unwrap().files, 0, "not tagged so any more");
    assert_eq!(library.set_tags("none", &[]).unwrap_err().kind(), Kind::Missing);
    assert_eq!(library.set_tags("film", &[String::new()]).unwrap_err().kind(), Kind::Invalid);
    library.rename("film", "moved").unwrap();
    assert_eq!(library.purge("c", &mut |_| true).unwrap().files, 1);
    assert_eq!(all(library), [""; 0]);
}

fn a_purge_takes_what_is_marked_and_nothing_else(library: &dyn Library) {
    for n in 0..20 {
        put(library, &format!("old/{n}"), &bytes(9000, n), &["old", "any/thing %"]);
        put(library, &format!("new/{n}"), &bytes(9000, 100 + n), &["new"]);
    }
    // Equal bytes, one of them marked.
    put(library, "shared/old", &bytes(9000, 1000), &["old"]);
    put(library, "shared/new", &bytes(9000, 1000), &["new"]);
    // Marked once, and replaced since.
    put(library, "replaced", &bytes(9000, 1001), &["old"]);
    put(library, "replaced", &bytes(9000, 1002), &["new"]);
    let swept = library.purge("old", &mut |_| true).unwrap();
    assert_eq!(swept.files, 21);
    assert!(swept.chunks >= 60, "{swept:?}");
    assert_eq!(all(library).len(), 22);
    for n in 0..20 {
        assert_eq!(get(library, &format!("new/{n}")).unwrap(), bytes(9000, 100 + n));
    }
    assert_eq!(get(library, "shared/new").unwrap(), bytes(9000, 1000));
    assert_eq!(get(library, "replaced").unwrap(), bytes(9000, 1002));
    assert_eq!(library.purge("old", &mut |_| true).unwrap().files, 0);
    library.gc(Duration::ZERO, false).unwrap();
    assert_eq!(findings(library), []);
}

fn a_purge_goes_on_where_it_was_broken_off(library: &dyn Library) {
    for n in 0..10 {
        put(library, &format!("{n}"), &bytes(9000, n), &["old"]);
    }
    let first = library.purge("old", &mut |swept| swept.files < 3).unwrap();
    assert_eq!(first.files, 3);
    let rest = library.purge("old", &mut |_| true).unwrap();
    assert_eq!((rest.files, all(library)), (7, Vec::new()));
    assert_eq!(findings(library), [], "nothing is left over");
}

fn what_nobody_names_is_swept(library: &dyn Library) {
    put(library, "kept", &bytes(9000, 1), &[]);
    let mut writer = Writer::new(library.draft("left", None).unwrap(), library.cut());
    writer.write(&bytes(50_000, 2)).unwrap();
    drop(writer);
    put(library, "replaced", &bytes(20_000, 3), &[]);
    put(library, "replaced", &bytes(20_000, 4), &[]);
    assert!(findings(library).iter().all(|finding| finding.what == Damage::Orphaned));
    assert_eq!(library.gc(Duration::from_hours(1), false).unwrap().chunks, 0, "too young");
    let would = library.gc(Duration::ZERO, true).unwrap();
    assert!(would.chunks >= 5, "{would:?}");
    let swept = library.gc(Duration::ZERO, false).unwrap();
    assert_eq!(swept, would);
    assert_eq!(findings(library), []);
    assert_eq!(get(library, "kept").unwrap(), bytes(9000, 1));
    assert_eq!(get(library, "replaced").unwrap(), bytes(20_000, 4));
}

fn equal_bytes_cost_once(library: &dyn Library) {
    let bytes = bytes(40_000, 1);
    let content = put(library, "one", &bytes, &[]).into_content();
    let Content::Chunks(chunks) = &content else { panic!("chunked") };
    for path in ["one", "two"] {
        let mut draft = library.draft(path, Some(chunks)).unwrap();
        for chunk in chunks {
            if !draft.add_known(chunk).unwrap() {
                let range = chunk.range;
                draft.add(chunk, Bytes::copy_from_slice(&bytes[range.start as usize..range.end as usize])).unwrap();
            }
        }
        draft.commit(content.clone(), meta(&[])).unwrap();
    }
    library.remove("one").unwrap();
    library.gc(Duration::ZERO, false).unwrap();
    assert_eq!(get(library, "two").unwrap(), bytes, "the other name still needs them");
    assert_eq!(findings(library), []);
}

fn bad_names_are_refused(library: &dyn Library) {
    let long = format!("{}/{}", "x".repeat(250), "y".repeat(256));
    for bad in ["/abs", "a//b", "a/", "..", "a/../b", "a/./b", "nul\0", long.as_str(), &"d/".repeat(5000)] {
        let drafted = library.draft(bad, None).err().map(|error| error.kind());
        assert_eq!(drafted, Some(Kind::Invalid), "{:?}", &bad[..bad.len().min(20)]);
    }
}

fn sound_is_sound(library: &dyn Library) {
    for n in 0..5 {
        put(library, &format!("f{n}"), &bytes(n * 7000, n as u64), &[]);
    }
    let mut found = Vec::new();
    let verified = library.verify(&mut |_| true, &mut |finding| found.push(finding)).unwrap();
    assert_eq!(found, []);
    assert!(verified.bytes >= 70_000, "{verified:?}");
    assert_ne!(Digest::of(b"a"), Digest::of(b"b"));
}
