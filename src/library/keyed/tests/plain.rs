//! Files put in the plain form: what other programs find, and what is left where a put ends early.
//! Never here: what other programs wrote themselves.

use super::kills::killed_everywhere;
use super::*;
use crate::library::Cut;
use crate::store::keyed::Key;

fn put_plain(library: &KeyedLibrary, path: &str, bytes: &[u8]) -> Result<Manifest> {
    let mut writer = plain_writer(library, path)?;
    writer.write(bytes)?;
    writer.finish(Meta::now())
}

fn plain_writer<'a>(library: &'a KeyedLibrary, path: &str) -> Result<Writer<'a>> {
    Ok(Writer::new(library.plain_draft(path)?, Cut { inline_bytes_max: 0, ..library.cut() }))
}

fn set(home: &Memory, key: &str, value: &'static [u8]) {
    home.put(&[(key.to_owned(), Bytes::from_static(value))]).unwrap();
}

/// The keys that stand where the chunks of `film` do.
fn chunk_keys(home: &Memory) -> Vec<String> {
    home.list("film_chunk_", Bound::Unbounded, 100).unwrap().into_iter().map(|Key { key, .. }| key).collect()
}

#[test]
fn plain_files_hold_what_other_programs_know_and_nothing_else() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    for len in [0, 1, 64, 65, 500, 130] {
        let film = bytes(1, len);
        put_plain(&library, "film", &film).unwrap();
        assert_eq!(read(&library, "film").unwrap(), film, "{len}");
        assert_eq!(chunk_keys(&home).len(), len.div_ceil(64), "nothing is left of a longer one");
        let value = home.get("film", ByteRange::new(0, 10_000)).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&value).unwrap();
        let sizes: Vec<_> = film.chunks(64).map(<[u8]>::len).collect();
        let expected = serde_json::json!({
            "totalSize": len, "chunkCount": sizes.len(), "actualChunkSizes": sizes, "standardChunkSize": 64,
            "originalContentType": "application/octet-stream",
        });
        assert_eq!(json, expected);
        assert_eq!(names(&library), ["film"]);
        assert_clean(&library, &home, "put");
    }
    // In the place of one of ours, and that in its place.
    put(&library, "film", &bytes(2, 500), &["a"]).unwrap();
    assert_eq!(chunk_keys(&home), [""; 0]);
    put_plain(&library, "film", &bytes(3, 100)).unwrap();
    library.gc(NOW, false).unwrap();
    assert_eq!((read(&library, "film").unwrap(), names(&library)), (bytes(3, 100), vec!["film".to_owned()]));
    assert_clean(&library, &home, "in turn");
    library.remove("film").unwrap();
    assert_eq!(chunk_keys(&home), [""; 0]);
}

#[test]
fn plain_files_take_the_place_of_no_stranger() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    set(&home, "raw", b"of another program");
    set(&home, "film_chunk_1", b"of another program, too");
    put(&library, "ours_chunk_0", b"ours", &[]).unwrap();
    for (path, kind) in [("raw", Kind::Unsupported), ("film", Kind::Invalid), ("ours", Kind::Invalid)] {
        let error = put_plain(&library, path, &bytes(1, 10)).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    assert_eq!(names(&library), ["film_chunk_1", "ours_chunk_0", "raw"]);
    // Names that only look like it are no chunks.
    set(&home, "other_chunk_01", b"no chunk");
    put_plain(&library, "other", &bytes(1, 100)).unwrap();
    assert_eq!(home.get("other_chunk_01", ByteRange::new(0, 100)).unwrap(), "no chunk");
}

#[test]
fn plain_files_are_whole_or_not_there_wherever_puts_are_killed() {
    type Put = fn(&KeyedLibrary, &[u8]);
    let plain: Put = |library, bytes| drop(put_plain(library, "film", bytes).unwrap());
    let ours: Put = |library, bytes| drop(put(library, "film", bytes, &["a"]).unwrap());
    let none: Put = |_, _| {};
    let new = bytes(2, 300);
    for (before, old_len) in [(plain, 500), (plain, 100), (plain, 300), (ours, 500), (ours, 50), (none, 0)] {
        let old = bytes(1, old_len);
        let check = |library: &KeyedLibrary| {
            match read(library, "film") {
                Ok(film) => assert!(film == old || film == new),
                Err(error) => assert_eq!(error.kind(), Kind::Missing, "{error}"),
            }
            assert!(names(library).iter().all(|name| name == "film"), "{:?}", names(library));
        };
        let put_new = |library: &KeyedLibrary| put_plain(library, "film", &new).map(|_| ());
        killed_everywhere(
            |library| before(library, &old),
            put_new,
            check,
            |library| {
                put_new(library).unwrap();
                assert_eq!(read(library, "film").unwrap(), new);
                assert_eq!(names(library), ["film"]);
            },
        );
        // Nobody puts it again: what nobody can read goes.
        killed_everywhere(
            |library| before(library, &old),
            put_new,
            check,
            |library| {
                library.gc(NOW, false).unwrap();
                check(library);
                let is_there = library.manifest("film").is_ok();
                assert_eq!(names(library).len(), usize::from(is_there));
            },
        );
    }
}

#[test]
fn plain_files_that_two_put_at_once_are_one_of_them() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    let (one, other) = (bytes(1, 200), bytes(2, 300));
    let mut first = plain_writer(&library, "film").unwrap();
    first.write(&one).unwrap();
    put_plain(&library, "film", &other).unwrap();
    assert_eq!(first.finish(Meta::now()).unwrap_err().kind(), Kind::Busy);
    // One that a collector took for broken off.
    let mut slow = plain_writer(&library, "film").unwrap();
    slow.write(&one).unwrap();
    library.gc(NOW, false).unwrap();
    assert_eq!(slow.finish(Meta::now()).unwrap_err().kind(), Kind::Busy);
    put_plain(&library, "film", &one).unwrap();
    library.gc(NOW, false).unwrap();
    assert_eq!((read(&library, "film").unwrap(), chunk_keys(&home).len()), (one, 4));
    assert_clean(&library, &home, "one of them");
}

#[test]
fn plain_files_of_the_same_sizes_are_not_mixed_for_who_reads() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    let (old, new) = (bytes(1, 200), bytes(2, 200));
    put_plain(&library, "film", &old).unwrap();
    let manifest = library.manifest("film").unwrap();
    assert_eq!(library.chunk("film", &manifest, 0).unwrap(), old[..64]);
    let mut writer = plain_writer(&library, "film").unwrap();
    writer.write(&new).unwrap();
    assert_eq!(library.chunk("film", &manifest, 1).unwrap_err().kind(), Kind::Changed, "half of it is there");
    writer.finish(Meta::now()).unwrap();
    assert_eq!(library.chunk("film", &manifest, 1).unwrap_err().kind(), Kind::Changed);
    assert_eq!(read(&library, "film").unwrap(), new);
}
