//! A keyed library that is killed at every step, and whose keys are counted afterwards.
//! Never here: real stores (see `tests/drive/homes.rs`).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::library::manifest::stretches;
use crate::library::writer::{Writer, chunks_of};
use crate::library::{Content, Damage, Meta, NamedKind, suite};
use crate::store::keyed::memory::Memory;
use crate::store::keyed::{Key, Limits};

const SETTINGS: Settings = Settings { format: FORMAT, whole_bytes_max: 200, chunk_size_bytes: 64 };
const NOW: Duration = Duration::ZERO;

mod beside;

/// Where a write breaks off.
#[derive(Clone, Copy, Debug)]
enum How {
    Before,
    /// The first half of what is written at once is there.
    Within,
    After,
}

/// A home that is gone from one of its writes on, as for a program that was killed there.
struct Killed {
    home: Arc<Memory>,
    writes: AtomicUsize,
    at: usize,
    how: How,
}

impl Killed {
    fn write<T: Clone>(&self, items: &[T], write: impl Fn(&[T]) -> Result<()>) -> Result<()> {
        let n = self.writes.fetch_add(1, Ordering::Relaxed);
        if n == self.at {
            match self.how {
                How::Before => {}
                How::Within => write(&items[..items.len() / 2])?,
                How::After => write(items)?,
            }
        }
        if n >= self.at { Err(Error::new(Kind::Local, "killed")) } else { write(items) }
    }

    fn check(&self) -> Result<()> {
        let is_killed = self.writes.load(Ordering::Relaxed) > self.at;
        if is_killed { Err(Error::new(Kind::Local, "killed")) } else { Ok(()) }
    }
}

impl Keyed for Killed {
    fn describe(&self) -> &str {
        self.home.describe()
    }

    fn limits(&self) -> &Limits {
        self.home.limits()
    }

    fn get(&self, key: &str, range: ByteRange) -> Result<Bytes> {
        self.check()?;
        self.home.get(key, range)
    }

    fn put(&self, entries: &[(String, Bytes)]) -> Result<()> {
        self.write(entries, |entries| self.home.put(entries))
    }

    fn delete(&self, keys: &[String]) -> Result<()> {
        self.write(keys, |keys| self.home.delete(keys))
    }

    fn list(&self, prefix: &str, from: Bound<&str>, limit: usize) -> Result<Vec<Key>> {
        self.check()?;
        self.home.list(prefix, from, limit)
    }
}

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

/// Our own keys beside the settings.
fn own_keys(home: &Memory) -> BTreeSet<String> {
    home.keys().into_iter().filter(|key| keys::is_ours(key) && key != keys::SETTINGS).collect()
}

/// Kills `change` at each of its writes in turn; `check` looks at what is left, then `again` does what a person would do,
/// and what is there in the end must be exactly what the names there need.
fn killed_everywhere(
    prepare: impl Fn(&KeyedLibrary),
    change: impl Fn(&KeyedLibrary) -> Result<()>,
    check: impl Fn(&KeyedLibrary),
    again: impl Fn(&KeyedLibrary),
) {
    let mut kills = 0;
    for how in [How::Before, How::Within, How::After] {
        for at in 0.. {
            let home = Arc::new(Memory::default());
            prepare(&library(&home));
            let killed = Killed { home: Arc::clone(&home), writes: AtomicUsize::new(0), at, how };
            let is_done = change(&KeyedLibrary::open(Arc::new(killed), 0).unwrap()).is_ok();
            let library = library(&home);
            check(&library);
            let damaged: Vec<_> =
                findings(&library).into_iter().filter(|found| found.what != Damage::Orphaned).collect();
            assert_eq!(damaged, [], "killed at write {at} ({how:?})");
            let found = own_keys(&home);
            for path in names(&library) {
                for tag in &library.manifest(&path).unwrap().meta().tags {
                    assert!(found.contains(&keys::tag(tag, &path)), "{path} is not found by `{tag}`, killed at {at}");
                }
            }
            again(&library);
            library.gc(NOW, false).unwrap();
            assert_clean(&library, &home, &format!("killed at write {at} ({how:?})"));
            if is_done {
                break;
            }
            kills += 1;
        }
    }
    assert!(kills > 3, "it was killed {kills} times");
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
fn equal_content_is_kept_once_and_goes_with_its_last_name() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    let film = bytes(3, 500);
    put(&library, "one", &film, &["a"]).unwrap();
    let before = home.keys().len();
    put(&library, "two", &film, &[]).unwrap();
    assert_eq!(home.keys().len(), before + 2, "a name and a reference");
    library.remove("one").unwrap();
    assert_eq!(read(&library, "two").unwrap(), film);
    assert_clean(&library, &home, "one is gone");
    library.remove("two").unwrap();
    assert!(own_keys(&home).len() > 8, "a reader may be in the middle of it");
    assert_eq!(library.gc(GRACE, false).unwrap(), Swept::default());
    assert_eq!(library.gc(NOW, true).unwrap(), Swept { files: 0, chunks: 8, bytes: 500 });
    assert_eq!(library.gc(NOW, false).unwrap(), Swept { files: 0, chunks: 8, bytes: 500 });
    assert_eq!(own_keys(&home), BTreeSet::new());
}

#[test]
fn content_that_is_being_removed_is_not_relied_upon() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    let film = bytes(3, 500);
    put(&library, "one", &film, &[]).unwrap();
    library.remove("one").unwrap();
    put(&library, "one", &film, &[]).unwrap();
    assert_eq!(library.gc(NOW, false).unwrap().chunks, 8, "the old ones");
    assert_eq!(read(&library, "one").unwrap(), film);
    assert_clean(&library, &home, "put again");
    // A collector that takes no grace ends a draft rather than leaving a name without bytes.
    let mut writer = Writer::new(library.draft("slow", None).unwrap(), library.cut());
    writer.write(&film).unwrap();
    library.gc(NOW, false).unwrap();
    assert_eq!(writer.finish(Meta::now()).unwrap_err().kind(), Kind::Busy);
    assert_eq!(library.manifest("slow").unwrap_err().kind(), Kind::Missing);
}

#[test]
fn a_broken_off_put_goes_on_where_it_was() {
    let home = Arc::new(Memory::default());
    let film = bytes(3, 640);
    library(&home);
    let killed = Killed { home: Arc::clone(&home), writes: AtomicUsize::new(0), at: 6, how: How::Before };
    put(&KeyedLibrary::open(Arc::new(killed), 0).unwrap(), "film", &film, &[]).unwrap_err();
    // A chunk that arrived damaged is sent again.
    let chunk = own_keys(&home).into_iter().find(|key| key.ends_with("_chunk_2")).unwrap();
    home.put(&[(chunk, bytes(9, 64).into())]).unwrap();
    let counted =
        Arc::new(Killed { home: Arc::clone(&home), writes: AtomicUsize::new(0), at: usize::MAX, how: How::Before });
    let library = KeyedLibrary::open(Arc::clone(&counted) as Arc<dyn Keyed>, 0).unwrap();
    put(&library, "film", &film, &[]).unwrap();
    // The reference twice, six chunks of ten, the manifest; no tags.
    assert!(counted.writes.load(Ordering::Relaxed) <= 9, "{:?}", counted.writes);
    assert_eq!(read(&library, "film").unwrap(), film);
    assert_clean(&library, &home, "gone on with");
}

#[test]
fn a_reader_of_a_replaced_file_comes_to_its_end() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    let (old, new) = (bytes(1, 300), bytes(2, 300));
    put(&library, "film", &old, &[]).unwrap();
    let manifest = library.manifest("film").unwrap();
    let first = library.chunk("film", &manifest, 0).unwrap();
    put(&library, "film", &new, &[]).unwrap();
    assert_eq!(read(&library, "film").unwrap(), new);
    let rest: Vec<_> = (1..5).map(|n| library.chunk("film", &manifest, n).unwrap()).collect();
    assert_eq!([&first[..], &rest.concat()].concat(), old);
    library.gc(NOW, false).unwrap();
    assert_eq!(library.chunk("film", &manifest, 1).unwrap_err().kind(), Kind::Changed);
    // One value has no old bytes.
    put(&library, "small", &bytes(1, 100), &[]).unwrap();
    let small = library.load("small").unwrap().manifest;
    assert!(matches!(small.content(), Content::Inline(_)));
}

#[test]
fn puts_are_there_or_not_wherever_they_are_killed() {
    for (old_len, new_len) in [(0, 500), (500, 300), (500, 50), (50, 500), (50, 60)] {
        for put in [put, put_unknown] {
            let (old, new) = (bytes(1, old_len), bytes(2, new_len));
            killed_everywhere(
                |library| {
                    if old_len > 0 {
                        put(library, "film", &old, &["a", "b"]).unwrap();
                    }
                    put(library, "other", &old, &["a"]).unwrap();
                },
                |library| put(library, "film", &new, &["b", "c"]).map(|_| ()),
                |library| {
                    assert_eq!(read(library, "other").unwrap(), old);
                    match read(library, "film") {
                        Ok(film) => assert!(film == old || film == new),
                        Err(error) => assert!(old_len == 0 && error.kind() == Kind::Missing, "{error}"),
                    }
                },
                |library| {
                    put(library, "film", &new, &["b", "c"]).unwrap();
                    assert_eq!(read(library, "film").unwrap(), new);
                },
            );
        }
    }
}

#[test]
fn removals_and_renames_are_whole_wherever_they_are_killed() {
    let (one, two) = (bytes(1, 500), bytes(2, 300));
    let prepare = |library: &KeyedLibrary| {
        put(library, "one", &one, &["a", "b"]).unwrap();
        put(library, "two", &two, &["b", "c"]).unwrap();
        put(library, "twin", &one, &["d"]).unwrap();
    };
    let is_there = |library: &KeyedLibrary, path: &str, all: &[&[u8]]| match read(library, path) {
        Ok(bytes) => assert!(all.contains(&&bytes[..]), "{path}"),
        Err(error) => assert_eq!(error.kind(), Kind::Missing, "{path}: {error}"),
    };
    killed_everywhere(
        prepare,
        |library| library.remove("one"),
        |library| {
            is_there(library, "one", &[&one]);
            assert_eq!(read(library, "twin").unwrap(), one);
        },
        |library| {
            let _ = library.remove("one");
            assert_eq!(names(library), ["twin", "two"]);
        },
    );
    for to in ["new/name", "two"] {
        killed_everywhere(
            prepare,
            |library| library.rename("one", to),
            |library| {
                is_there(library, to, &[&one, &two]);
                is_there(library, "one", &[&one]);
                assert!(read(library, "one").is_ok() || read(library, to).unwrap() == one);
            },
            |library| {
                let _ = library.rename("one", to);
                assert_eq!(read(library, to).unwrap(), one);
                assert_eq!(library.manifest(to).unwrap().meta().tags, ["a", "b"]);
                assert!(!names(library).contains(&"one".to_owned()));
            },
        );
    }
    for film in [&one[..], b"short"] {
        killed_everywhere(
            |library| {
                prepare(library);
                put(library, "film", film, &["x"]).unwrap();
            },
            |library| library.set_tags("film", &["y".to_owned(), "z".to_owned(), "a".to_owned()]),
            |library| assert_eq!(read(library, "film").unwrap(), film),
            |library| {
                library.set_tags("film", &["q".to_owned()]).unwrap();
                assert_eq!(read(library, "film").unwrap(), film);
            },
        );
    }
}

#[test]
fn a_purge_that_is_killed_is_finished_by_the_next() {
    let (one, two, small) = (bytes(1, 500), bytes(2, 300), bytes(3, 20));
    killed_everywhere(
        |library| {
            put(library, "a/one", &one, &["old", "x"]).unwrap();
            put(library, "a/twin", &one, &["x"]).unwrap();
            put(library, "a/two", &two, &["old"]).unwrap();
            put_unknown(library, "b/two", &two, &["old", "y"]).unwrap();
            put(library, "b/small", &small, &["old", "y"]).unwrap();
            put(library, "b/kept", &small, &["older"]).unwrap();
        },
        |library| library.purge("old", &mut |_| true).map(|_| ()),
        |library| {
            assert_eq!(read(library, "a/twin").unwrap(), one);
            assert_eq!(read(library, "b/kept").unwrap(), small);
        },
        |library| {
            // Nothing is left to `gc`.
            library.purge("old", &mut |_| true).unwrap();
            assert_eq!(names(library), ["a/twin", "b/kept"]);
            assert_eq!(findings(library), []);
            let left = library.asking.list(keys::GONE, Bound::Unbounded, 10).unwrap();
            assert_eq!(left, [], "given up, and not removed");
            let tagged = library.asking.list(keys::TAGS, Bound::Unbounded, 10).unwrap();
            let tagged: Vec<_> = tagged.into_iter().map(|key| key.key).collect();
            assert_eq!(tagged, [keys::tag("older", "b/kept"), keys::tag("x", "a/twin")]);
            assert_eq!(library.purge("old", &mut |_| true).unwrap(), Swept::default());
        },
    );
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
fn each_flipped_bit_is_named_and_mended_and_never_shown() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    let films = [("chunked", bytes(1, 300)), ("small", bytes(2, 150))];
    for (path, film) in &films {
        put(&library, path, film, &["a"]).unwrap();
    }
    let mut dice = fastrand::Rng::with_seed(7);
    for (path, film) in &films {
        let sound = sha256s(&library.manifest(path).unwrap());
        for key in home.keys().into_iter().filter(|key| key == path || Id::of_chunk(key).is_some()) {
            let value = home.get(&key, ByteRange::new(0, 1 << 20)).unwrap();
            for _ in 0..200 {
                let mut flipped = value.to_vec();
                let bit = dice.usize(..flipped.len() * 8);
                flipped[bit / 8] ^= 1 << (bit % 8);
                home.put(&[(key.clone(), flipped.into())]).unwrap();
                match read(&library, path) {
                    Ok(shown) => assert_eq!(shown, *film, "{key}: bit {bit}"),
                    Err(_) => assert_ne!(findings(&library), [], "{key}: bit {bit}"),
                }
                // A manifest that leads to other chunks has nothing to be mended with.
                let is_mended = Id::of_chunk(&key).is_some() || *path == "small";
                for finding in findings(&library).into_iter().filter(|_| is_mended) {
                    if finding.sha256.is_none_or(|sha256| !sound.contains(&sha256)) {
                        continue;
                    }
                    let range = finding.range;
                    library.repair(&finding, &film[range.start as usize..range.end as usize]).unwrap();
                    assert_eq!(read(&library, path).unwrap(), *film, "{key}: bit {bit} mended");
                }
                home.put(&[(key.clone(), value.clone())]).unwrap();
            }
        }
    }
    let missing = own_keys(&home).into_iter().find(|key| key.ends_with("_chunk_3")).unwrap();
    home.delete(std::slice::from_ref(&missing)).unwrap();
    let found = findings(&library);
    assert_eq!((found.len(), found[0].what, &found[0].place, found[0].chunk), (1, Damage::Missing, &missing, Some(3)));
}

fn sha256s(manifest: &Manifest) -> Vec<Digest> {
    let chunks = match manifest.content() {
        Content::Inline(bytes) => stretches(bytes),
        Content::Chunks(chunks) => chunks.clone(),
    };
    let digest = |chunk: Chunk| if let Proof::Sha256(digest) = chunk.proof { Some(digest) } else { None };
    chunks.into_iter().filter_map(digest).collect()
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
    assert_eq!(findings(&library).len(), 1, "a value that is no file");
    home.put(&[entry("films/plain.mkv_chunk_1", "abc")]).unwrap();
    assert_eq!(read(&library, "films/plain.mkv").unwrap_err().kind(), Kind::Corrupt);
    home.put(&[entry("films/plain.mkv_chunk_1", "a")]).unwrap();
    assert_eq!(read(&library, "films/plain.mkv").unwrap_err().kind(), Kind::Corrupt);
    for change in [library.rename("films/plain.mkv", "x"), library.set_tags("films/plain.mkv", &["a".into()])] {
        assert_eq!(change.unwrap_err().kind(), Kind::Unsupported);
    }
    library.remove("films/plain.mkv").unwrap();
    library.remove("films/plain.mkv_chunk_2").unwrap();
    assert_eq!(names(&library), [""; 0]);
}
