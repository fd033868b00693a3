//! A keyed library in memory, whose keys are counted: what files and names are there, and what is refused.
//! Never here: real stores (see `tests/drive/homes.rs`).

use std::collections::BTreeSet;

use super::*;
use crate::library::writer::{Writer, chunks_of};
use crate::library::{Content, Meta, NamedKind, suite};
use crate::store::keyed::memory::Memory;

const SETTINGS: Settings = Settings { format: FORMAT, whole_bytes_max: 200, chunk_size_bytes: 64 };
const NOW: Duration = Duration::ZERO;

mod beside;
mod content;
mod kills;
mod plain;
mod together;

fn library(home: &Arc<Memory>) -> KeyedLibrary {
    KeyedLibrary::init(Arc::clone(home) as Arc<dyn Keyed>, SETTINGS, 0).unwrap()
}

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 199) as u8 ^ seed).collect()
}

fn put(library: &KeyedLibrary, path: &str, bytes: &[u8], tags: &[&str]) -> Result<Manifest> {
    let content = chunks_of(&mut &bytes[..], library.cut(), &mut |_| Ok(())).unwrap();
    let expected = if let Content::Chunks(chunks) = &content { Some(&chunks[..]) } else { None };
    write(library, path, bytes, tags, expected)
}

/// As from a pipe.
fn put_unknown(library: &KeyedLibrary, path: &str, bytes: &[u8], tags: &[&str]) -> Result<Manifest> {
    write(library, path, bytes, tags, None)
}

fn write(
    library: &KeyedLibrary,
    path: &str,
    bytes: &[u8],
    tags: &[&str],
    expected: Option<&[Chunk]>,
) -> Result<Manifest> {
    let mut writer = Writer::new(library.draft(path, expected)?, library.cut());
    writer.write(bytes)?;
    writer.finish(Meta { tags: tags.iter().map(|tag| (*tag).to_owned()).collect(), ..Meta::now() })
}

fn read(library: &KeyedLibrary, path: &str) -> Result<Vec<u8>> {
    let manifest = library.manifest(path)?;
    if let Content::Inline(bytes) = manifest.content() {
        return Ok(bytes.to_vec());
    }
    let mut bytes = Vec::new();
    for n in 0..manifest.chunks().len() {
        bytes.extend_from_slice(&library.chunk(path, &manifest, n)?);
    }
    Ok(bytes)
}

fn findings(library: &KeyedLibrary) -> Vec<Finding> {
    let mut findings = Vec::new();
    library.verify(&mut |_| true, &mut |finding| findings.push(finding)).unwrap();
    findings
}

fn names(library: &KeyedLibrary) -> Vec<String> {
    let query = Query { is_recursive: true, limit: 100, ..Query::default() };
    library.list(&query).unwrap().names.into_iter().map(|named| named.path).collect()
}

/// Our own keys beside the settings, and words about what was removed, which stay for a while.
fn own_keys(home: &Memory) -> BTreeSet<String> {
    let is_left = |key: &String| keys::is_ours(key) && key != keys::SETTINGS && !key.starts_with(keys::SWEPT);
    home.keys().into_iter().filter(is_left).collect()
}

/// Everything our own keys say is needed by some name, and all that names need is there.
fn assert_clean(library: &KeyedLibrary, home: &Memory, what: &str) {
    assert_eq!(findings(library), [], "{what}");
    let mut needed = BTreeSet::new();
    for path in names(library) {
        let file = library.load(&path).unwrap();
        needed.extend(file.manifest.meta().tags.iter().map(|tag| keys::tag(tag, &path)));
        if let Some(id) = file.id {
            needed.insert(id.reference(&path));
            needed.extend((0..file.manifest.chunks().len()).map(|n| keys::chunk(&id.chunk_prefix(), n)));
        }
    }
    assert_eq!(own_keys(home), needed, "{what}");
}

#[test]
fn it_is_a_home_like_any_other() {
    let settings = Settings {
        whole_bytes_max: suite::CUT.inline_bytes_max,
        chunk_size_bytes: suite::CUT.chunk_size_bytes,
        ..SETTINGS
    };
    suite::run(&|| Box::new(KeyedLibrary::init(Arc::new(Memory::default()), settings, 0).unwrap()));
}

#[test]
fn files_read_as_they_were_put() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    for len in [0, 1, 63, 64, 65, 199, 200, 201, 256, 1000] {
        let (path, bytes) = (format!("films/{len}.mkv"), bytes(1, len));
        let manifest = put(&library, &path, &bytes, &["a"]).unwrap();
        let known = library.manifest(&path).unwrap();
        assert_eq!((&known, known.content_id()), (&manifest, manifest.content_id()), "{len}");
        assert_eq!(manifest.chunks().is_empty(), len <= 200, "{len}");
        assert_eq!(read(&library, &path).unwrap(), bytes, "{len}");
    }
    assert_clean(&library, &home, "after puts");
    let missing = library.manifest("films/none.mkv").unwrap_err();
    assert_eq!(missing.kind(), Kind::Missing);
    assert_eq!(library.manifest("films").unwrap_err().kind(), Kind::Unsupported, "a folder");
}

#[test]
fn a_library_is_made_once_and_found_by_its_settings() {
    let home: Arc<dyn Keyed> = Arc::new(Memory::default());
    let open = |retries| KeyedLibrary::open(Arc::clone(&home), retries).map(|library| library.settings);
    let error = open(0).unwrap_err();
    assert!(error.kind() == Kind::Missing && error.to_string().contains("reelfs init"), "{error}");
    KeyedLibrary::init(Arc::clone(&home), SETTINGS, 0).unwrap();
    assert_eq!(open(0).unwrap(), SETTINGS);
    assert!(KeyedLibrary::init(Arc::clone(&home), SETTINGS, 0).is_ok());
    let other = KeyedLibrary::init(Arc::clone(&home), Settings::default(), 0).err().unwrap();
    assert_eq!(other.kind(), Kind::Invalid);
    for (value, kind) in
        [("{\"format\":2,\"wholeBytesMax\":1,\"chunkSizeBytes\":1}", Kind::Unsupported), ("?", Kind::Corrupt)]
    {
        home.put(&[(keys::SETTINGS.to_owned(), Bytes::from_static(value.as_bytes()))]).unwrap();
        assert_eq!(open(0).unwrap_err().kind(), kind);
    }
    for (whole, chunk) in [(0, 0), (1 << 30, 1), (1, 1 << 30)] {
        let settings = Settings { whole_bytes_max: whole, chunk_size_bytes: chunk, ..SETTINGS };
        let made = KeyedLibrary::init(Arc::new(Memory::default()), settings, 0);
        assert_eq!(made.err().unwrap().kind(), Kind::Invalid);
    }
}

#[test]
fn names_that_stand_in_each_others_way_are_refused() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    put(&library, "a/b", b"x", &[]).unwrap();
    for path in ["a", "a/b/c", "a/b/c/d", ".reelfs/chunks/x", ".reelfs", "a//b", "../a", "", "/a"] {
        assert_eq!(put(&library, path, b"y", &[]).unwrap_err().kind(), Kind::Invalid, "{path}");
        assert_eq!(library.rename("a/b", path).unwrap_err().kind(), Kind::Invalid, "{path}");
    }
    library.remove("a/b").unwrap();
    put(&library, "a", b"y", &[]).unwrap();
    assert_eq!(read(&library, "a").unwrap(), b"y");
}

#[test]
fn a_purge_counts_and_can_be_broken_off() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    for n in 0..450 {
        put(&library, &format!("{n}"), &bytes(n as u8, 201 + n), &["old"]).unwrap();
    }
    put(&library, "kept", &bytes(1, 500), &["new"]).unwrap();
    let mut heard = 0;
    let some = library.purge("old", &mut |swept| {
        heard = swept.files;
        false
    });
    assert!(heard == some.unwrap().files && heard < 450, "{heard}");
    let rest = library.purge("old", &mut |_| true).unwrap();
    assert_eq!(rest.files + heard, 450);
    assert_eq!(names(&library), ["kept"]);
    assert_clean(&library, &home, "purged");
}

#[test]
fn pages_are_in_order_and_folders_are_gone_around() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    let many: Vec<_> = (0..2_500).map(|n| format!("a/deep/{n:04}")).collect();
    for path in many.iter().map(String::as_str).chain(["a.mkv", "a-b", "a0", "b/c/d", "b/e", "z"]) {
        put(&library, path, b"x", &[]).unwrap();
    }
    let all =
        |folder: &str, is_recursive, limit| {
            let mut query = Query { folder: folder.into(), is_recursive, limit, ..Query::default() };
            let mut names = Vec::new();
            loop {
                let page = library.list(&query).unwrap();
                assert!(page.names.len() <= limit);
                names.extend(page.names.into_iter().map(|named| {
                    if named.kind == NamedKind::Folder { format!("{}/", named.path) } else { named.path }
                }));
                query.cursor = page.cursor;
                if query.cursor.is_none() {
                    return names;
                }
            }
        };
    for limit in [1, 2, 3, 100] {
        assert_eq!(all("", false, limit), ["a-b", "a.mkv", "a/", "a0", "b/", "z"], "{limit}");
        assert_eq!(all("b", false, limit), ["b/c/", "b/e"], "{limit}");
    }
    assert_eq!(all("a/deep", false, 999), many);
    assert_eq!(all("a", false, 10), ["a/deep/"]);
    assert_eq!(all("", true, 1000).len(), 2_506);
    let part = |start: &str, end: &str, folder: &str| {
        let (start, end) =
            (Some(start.to_owned()).filter(|s| !s.is_empty()), Some(end.to_owned()).filter(|s| !s.is_empty()));
        let query = Query { folder: folder.into(), start, end, limit: 10, ..Query::default() };
        library.list(&query).unwrap().names.into_iter().map(|named| named.path).collect::<Vec<_>>()
    };
    assert_eq!(part("a.mkv", "b", ""), ["a.mkv", "a", "a0"]);
    assert_eq!(part("a/deep/1", "", ""), ["a0", "b", "z"], "the folder begins before");
    assert_eq!(part("a/", "a0", ""), ["a"]);
    assert_eq!(part("b/d", "", "b"), ["b/e"]);
    let none = library.list(&Query { folder: "none".into(), limit: 1, ..Query::default() }).unwrap_err();
    assert_eq!(none.kind(), Kind::Missing);
    assert!(library.list(&Query { limit: 0, ..Query::default() }).is_err());
}

#[test]
fn a_plain_manifest_of_another_program_reads_and_goes() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    let value = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let manifest = r#"{"totalSize":12,"chunkCount":2,"actualChunkSizes":[10,2],"standardChunkSize":10}"#;
    let entry = |key: &str, text: &str| (key.to_owned(), value(text));
    home.put(&[
        entry("films/plain.mkv", manifest),
        entry("films/plain.mkv_chunk_0", "0123456789"),
        entry("films/plain.mkv_chunk_1", "ab"),
        entry("films/plain.mkv_chunk_2", "of nobody"),
    ])
    .unwrap();
    assert_eq!(read(&library, "films/plain.mkv").unwrap(), b"0123456789ab");
    assert_eq!(names(&library), ["films/plain.mkv", "films/plain.mkv_chunk_2"]);
    assert_eq!(findings(&library), [], "what is not ours is not damaged");
    for (chunk, found) in [("abcdefg", "7 bytes are there"), ("a", "1 bytes are there"), ("", "0 bytes are there")] {
        home.put(&[entry("films/plain.mkv_chunk_1", chunk)]).unwrap();
        let error = read(&library, "films/plain.mkv").unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        let said = error.to_string();
        let is_told = said.contains(found) && said.contains("the manifest says 2") && said.contains("mkv_chunk_1");
        assert!(is_told && !said.contains('\n'), "{said}");
    }
    home.delete(&["films/plain.mkv_chunk_1".to_owned()]).unwrap();
    let error = read(&library, "films/plain.mkv").unwrap_err();
    assert!(error.kind() == Kind::Missing && error.to_string().ends_with("is missing: 2 bytes"), "{error}");
    home.put(&[entry("films/plain.mkv_chunk_1", "ab")]).unwrap();
    for change in [library.rename("films/plain.mkv", "x"), library.set_tags("films/plain.mkv", &["a".into()])] {
        assert_eq!(change.unwrap_err().kind(), Kind::Unsupported);
    }
    library.remove("films/plain.mkv").unwrap();
    assert_eq!(names(&library), ["films/plain.mkv_chunk_2"]);
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    let foreign = [("holiday.mp4", "a film of somebody else"), ("settings.json", "{\"of\": \"somebody\"}")];
    for (key, text) in foreign {
        home.put(&[(key.to_owned(), text.into())]).unwrap();
    }
    put(&library, "ours", &bytes(1, 500), &["a"]).unwrap();
    for (key, _) in foreign {
        for changed in [
            put(&library, key, b"small", &["a"]).map(|_| ()),
            put(&library, key, &bytes(2, 500), &["a"]).map(|_| ()),
            library.rename("ours", key),
            library.rename(key, "other"),
            library.remove(key),
            library.set_tags(key, &["a".to_owned()]),
            library.set_modified(key, SystemTime::now()),
        ] {
            let error = changed.unwrap_err();
            assert!(error.kind() == Kind::Unsupported && error.to_string().contains("another program"), "{error}");
        }
    }
    assert_eq!(names(&library), ["holiday.mp4", "ours", "settings.json"]);
    assert_eq!(library.purge("a", &mut |_| true).unwrap().files, 1);
    library.gc(NOW, false).unwrap();
    assert_eq!(findings(&library), []);
    assert_eq!(own_keys(&home), BTreeSet::new());
    for (key, text) in foreign {
        assert_eq!(home.get(key, ByteRange::new(0, 100)).unwrap(), text);
        assert_eq!(read(&library, key).unwrap(), text.as_bytes());
        assert!(library.manifest(key).unwrap().is_of_another_program());
    }
}

#[test]
fn a_value_of_another_program_is_a_file_of_its_size() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    let put = |bytes: &[u8]| home.put(&[("raw".to_owned(), Bytes::copy_from_slice(bytes))]).unwrap();
    for size in [1, 100, 65_535, 65_536, 65_537, (4 << 20) + 1, 9 << 20] {
        let value = bytes(3, size);
        put(&value);
        let manifest = library.manifest("raw").unwrap();
        assert_eq!((manifest.size_bytes(), manifest.is_of_another_program()), (size as u64, true));
        assert!(read(&library, "raw").unwrap() == value, "{size}");
    }
    // Nothing of two states, as far as size and beginning tell.
    let old = library.manifest("raw").unwrap();
    library.chunk("raw", &old, 1).unwrap();
    for other in [bytes(3, (9 << 20) + 1), bytes(3, 5 << 20), bytes(4, 9 << 20), b"{}".to_vec()] {
        put(&other);
        assert_eq!(library.chunk("raw", &old, 1).unwrap_err().kind(), Kind::Changed, "{}", other.len());
    }
    home.delete(&["raw".to_owned()]).unwrap();
    assert_eq!(library.chunk("raw", &old, 0).unwrap_err().kind(), Kind::Changed);
    // What may be all that is left of a file of ours is none of another program's, and ours is none elsewhere.
    for damaged in [0, 100, 70_000] {
        put(&vec![0; damaged]);
        assert_eq!(library.manifest("raw").unwrap_err().kind(), Kind::Corrupt);
    }
    home.put(&[("nested/.reelfs/tags/a".to_owned(), "of another library".into())]).unwrap();
    assert_eq!(library.manifest("nested/.reelfs/tags/a").unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(names(&library), ["raw"]);
}

#[test]
fn names_that_parts_of_another_programs_file_have_are_refused() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    put(&library, "mine", b"mine", &[]).unwrap();
    put(&library, "plain_chunk_9", b"a name like any other", &[]).unwrap();
    let manifest = r#"{"totalSize":12,"chunkCount":2,"actualChunkSizes":[10,2],"standardChunkSize":10}"#;
    for (key, text) in [("plain", manifest), ("plain_chunk_0", "0123456789"), ("plain_chunk_1", "ab")] {
        home.put(&[(key.to_owned(), Bytes::copy_from_slice(text.as_bytes()))]).unwrap();
    }
    for path in ["plain_chunk_0", "plain_chunk_1", "a/.reelfs/library.json"] {
        assert_eq!(put(&library, path, b"mine", &[]).unwrap_err().kind(), Kind::Invalid, "{path}");
        assert_eq!(library.rename("mine", path).unwrap_err().kind(), Kind::Invalid, "{path}");
    }
    put(&library, "plain_chunk_2", b"behind it", &[]).unwrap();
    assert_eq!(read(&library, "plain").unwrap(), b"0123456789ab");
}
