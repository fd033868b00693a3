//! A library as a source: on a store in memory that counts, waits and lies as a test wants.
//! Never here: real stores, and mounts (see `tests/drive/kept.rs`).

use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::*;
use crate::cancel::Cancel;
use crate::library::keyed::{KeyedLibrary, Settings};
use crate::library::writer::Writer;
use crate::library::{Chunk, Meta};
use crate::store::keyed::memory::Memory;
use crate::store::keyed::{Key, Keyed, Limits};

/// A store that keeps chunks back while it is closed.
#[derive(Default)]
struct Gate {
    home: Memory,
    is_closed: AtomicBool,
    chunks_asked: AtomicUsize,
}

impl Keyed for Gate {
    fn describe(&self) -> &str {
        self.home.describe()
    }

    fn limits(&self) -> &Limits {
        self.home.limits()
    }

    fn get(&self, key: &str, range: ByteRange) -> Result<Bytes> {
        if key.contains("_chunk_") {
            self.chunks_asked.fetch_add(1, Ordering::SeqCst);
            while self.is_closed.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
        }
        self.home.get(key, range)
    }

    fn put(&self, entries: &[(String, Bytes)]) -> Result<()> {
        self.home.put(entries)
    }

    fn delete(&self, keys: &[String]) -> Result<()> {
        self.home.delete(keys)
    }

    fn list(&self, prefix: &str, from: Bound<&str>, limit: usize) -> Result<Vec<Key>> {
        self.home.list(prefix, from, limit)
    }
}

struct House {
    home: Arc<Gate>,
    library: Arc<KeyedLibrary>,
}

impl House {
    fn new() -> Self {
        let home = Arc::new(Gate::default());
        let settings = Settings::new(Some(100), Some(64));
        let library = Arc::new(KeyedLibrary::init(Arc::clone(&home) as Arc<dyn Keyed>, settings, 0).unwrap());
        Self { home, library }
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        let mut writer = Writer::new(self.library.draft(path, None).unwrap(), self.library.cut());
        writer.write(bytes).unwrap();
        writer.finish(Meta::now()).unwrap();
    }

    /// As another program puts a file: without hashes.
    fn put_plain(&self, path: &str, chunks: [&[u8]; 2]) {
        let sizes = chunks.map(<[u8]>::len);
        let manifest = format!(
            r#"{{"totalSize":{},"chunkCount":2,"actualChunkSizes":[{},{}]}}"#,
            sizes[0] + sizes[1],
            sizes[0],
            sizes[1]
        );
        let chunk = |n: usize| (format!("{path}_chunk_{n}"), Bytes::copy_from_slice(chunks[n]));
        self.home.put(&[chunk(0), chunk(1), (path.to_owned(), manifest.into())]).unwrap();
    }

    /// What of the library is at `path`, as a source.
    fn origin(&self, path: &str) -> Kept {
        let address = Address::parse("redb:///test").unwrap();
        let kept = Kept::new(&address, &PlacesConfig::default());
        let library = || Arc::clone(&self.library) as Arc<dyn Library>;
        let opened = Opened::new(library(), library(), path.to_owned()).unwrap();
        assert!(kept.opened.set(opened).is_ok());
        kept
    }
}

fn patience() -> Patience {
    Patience { stall: Duration::from_secs(20), cancel: Cancel::new() }
}

fn film(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 199) as u8 ^ seed).collect()
}

fn read(origin: &Kept, path: &str, stat: &Stat, range: ByteRange) -> Result<Vec<u8>> {
    let mut body = origin.read(path, stat, range, &patience())?;
    let mut bytes = Vec::new();
    while let Some(piece) = body.next()? {
        assert!(!piece.is_empty());
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

#[test]
fn chunks_whose_sizes_the_manifest_tells_wrong_are_refused_also_when_they_were_read_before() {
    let house = House::new();
    let long = film(1, 3 * 64 + 30);
    house.put("right", &long);
    // As `right`, but its sizes the other way round: each chunk's hash is one that was read, of more bytes or of fewer.
    let manifest = house.home.get("right", ByteRange::new(0, 1 << 20)).unwrap();
    let text = String::from_utf8(manifest.to_vec()).unwrap();
    assert!(text.contains("[64,64,64,30]"), "{text}");
    let wrong = text.replace("[64,64,64,30]", "[30,64,64,64]");
    house.home.put(&[("wrong".to_owned(), wrong.into())]).unwrap();
    let origin = house.origin("");
    let all = |path: &str, range: ByteRange| {
        let stat = origin.stat(path, &patience()).unwrap();
        read(&origin, path, &stat, range)
    };
    for _ in 0..2 {
        assert_eq!(all("right", ByteRange::new(0, 222)).unwrap(), long);
        for range in [ByteRange::new(0, 30), ByteRange::new(0, 222), ByteRange::new(200, 222), ByteRange::new(158, 159)]
        {
            assert_eq!(all("wrong", range).unwrap_err().kind(), Kind::Corrupt, "{range:?}");
        }
        // The chunks in the middle are where it says, and what it says.
        assert_eq!(all("wrong", ByteRange::new(40, 41)).unwrap(), long[74..75]);
    }
}

#[test]
fn ranges_read_as_they_were_put() {
    let house = House::new();
    let origin = house.origin("");
    for len in [1, 100, 101, 1000] {
        let film = film(1, len);
        house.put("films/film.mkv", &film);
        let stat = origin.stat("films/film.mkv", &patience()).unwrap();
        assert_eq!(stat.size_bytes, len as u64);
        for (start, end) in [(0, len), (0, 1), (len - 1, len), (len / 3, len / 2 + 1)] {
            let range = ByteRange::new(start as u64, end as u64);
            assert_eq!(read(&origin, "films/film.mkv", &stat, range).unwrap(), film[start..end], "{len}: {range}");
        }
    }
    let names = origin.list_whole("films", &patience()).unwrap();
    assert_eq!((names.len(), &*names[0].name), (1, "film.mkv"));
    assert_eq!(origin.list_whole("none", &patience()).unwrap_err().kind(), Kind::Missing);
    assert_eq!(origin.stat("films", &patience()).unwrap_err().kind(), Kind::Missing);
}

#[test]
fn a_folder_or_one_file_of_a_library_is_a_source_too() {
    let house = House::new();
    house.put("films/a/film.mkv", &film(1, 300));
    for (path, folder, name) in
        [("films", "a", "a/film.mkv"), ("films/a", "", "film.mkv"), ("films/a/film.mkv", "", "film.mkv")]
    {
        let origin = house.origin(path);
        let names = origin.list_whole(folder, &patience()).unwrap();
        assert_eq!((names.len(), &*names[0].name), (1, "film.mkv"), "{path}");
        let stat = origin.stat(name, &patience()).unwrap();
        assert_eq!(read(&origin, name, &stat, ByteRange::new(0, 300)).unwrap(), film(1, 300), "{path}");
        assert_eq!(origin.stat("other", &patience()).unwrap_err().kind(), Kind::Missing);
    }
}

#[test]
fn a_hole_reads_as_zeros_however_long() {
    let house = House::new();
    let mut draft = house.library.draft("sparse", None).unwrap();
    let proof = |bytes: &[u8]| Proof::Sha256(crate::digest::Digest::of(bytes));
    let ends = [film(1, 64), film(2, 10)];
    let hole = ByteRange::new(64, 64 + (1 << 33));
    let chunks = [
        Chunk { range: ByteRange::new(0, 64), proof: proof(&ends[0]) },
        Chunk { range: hole, proof: Proof::Zeros },
        Chunk { range: ByteRange::at(hole.end, 10), proof: proof(&ends[1]) },
    ];
    for (chunk, bytes) in [(&chunks[0], &ends[0]), (&chunks[2], &ends[1])] {
        draft.add(chunk, bytes.clone().into()).unwrap();
    }
    draft.commit(Content::Chunks(chunks.to_vec()), Meta::now()).unwrap();
    let origin = house.origin("");
    let stat = origin.stat("sparse", &patience()).unwrap();
    let bytes = read(&origin, "sparse", &stat, ByteRange::new(hole.end - 1_000_000, hole.end + 10)).unwrap();
    assert!(bytes[..1_000_000].iter().all(|byte| *byte == 0) && bytes[1_000_000..] == ends[1]);
    assert_eq!(read(&origin, "sparse", &stat, ByteRange::new(60, 70)).unwrap(), [&ends[0][60..], &[0; 6]].concat());
}

#[test]
fn no_byte_of_a_damaged_chunk_is_handed_up() {
    let house = House::new();
    house.put("film", &film(1, 300));
    let origin = house.origin("");
    let stat = origin.stat("film", &patience()).unwrap();
    let key = house.home.home.keys().into_iter().find(|key| key.ends_with("_chunk_2")).unwrap();
    let mut value = house.home.home.get(&key, ByteRange::new(0, 100)).unwrap().to_vec();
    value[63] ^= 1;
    house.home.put(&[(key, value.into())]).unwrap();
    assert_eq!(read(&origin, "film", &stat, ByteRange::new(0, 128)).unwrap(), film(1, 128));
    let error = read(&origin, "film", &stat, ByteRange::new(128, 129)).unwrap_err();
    assert!(error.kind() == Kind::Corrupt && error.to_string().contains("film: chunk 2 ("), "{error}");
    assert_eq!(read(&origin, "film", &stat, ByteRange::new(192, 300)).unwrap(), film(1, 300)[192..]);
}

#[test]
fn a_version_is_read_to_its_end_or_not_at_all() {
    let house = House::new();
    house.put("film", &film(1, 300));
    let origin = house.origin("");
    let old = origin.stat("film", &patience()).unwrap();
    assert_eq!(read(&origin, "film", &old, ByteRange::new(0, 64)).unwrap(), film(1, 64));
    house.put("film", &film(2, 300));
    let new = origin.stat("film", &patience()).unwrap();
    assert_ne!(old.version, new.version);
    assert_eq!(read(&origin, "film", &new, ByteRange::new(0, 300)).unwrap(), film(2, 300));
    assert_eq!(read(&origin, "film", &old, ByteRange::new(64, 192)).unwrap(), film(1, 300)[64..192]);
    house.library.gc(Duration::ZERO, false).unwrap();
    assert_eq!(read(&origin, "film", &old, ByteRange::new(256, 300)).unwrap_err().kind(), Kind::Changed);
    // One that knows the old version by name only.
    assert_eq!(read(&house.origin(""), "film", &old, ByteRange::new(0, 1)).unwrap_err().kind(), Kind::Changed);
    // The same bytes, put again, are the same version.
    house.put("film", &film(2, 300));
    assert_eq!(origin.stat("film", &patience()).unwrap().version, new.version);
}

#[test]
fn a_chunk_has_one_flight_however_many_ask_and_it_outlives_them() {
    let house = House::new();
    house.put("film", &film(1, 300));
    let origin = house.origin("");
    let stat = origin.stat("film", &patience()).unwrap();
    house.home.is_closed.store(true, Ordering::SeqCst);
    let impatient = Patience { stall: Duration::from_millis(50), cancel: Cancel::new() };
    let mut body = origin.read("film", &stat, ByteRange::new(0, 10), &impatient).unwrap();
    assert_eq!(body.next().unwrap_err().kind(), Kind::TimedOut);
    let called_off = patience();
    thread::scope(|scope| {
        let readers: Vec<_> = (0..8)
            .map(|n| {
                scope.spawn({
                    let (origin, stat) = (&origin, &stat);
                    move || read(origin, "film", stat, ByteRange::new(n, 64))
                })
            })
            .collect();
        let mut body = origin.read("film", &stat, ByteRange::new(0, 10), &called_off).unwrap();
        let cancelled = scope.spawn(move || body.next());
        thread::sleep(Duration::from_millis(30));
        called_off.cancel.cancel();
        assert_eq!(cancelled.join().unwrap().unwrap_err().kind(), Kind::Cancelled);
        house.home.is_closed.store(false, Ordering::SeqCst);
        for (n, reader) in readers.into_iter().enumerate() {
            assert_eq!(reader.join().unwrap().unwrap(), film(1, 64)[n..]);
        }
    });
    assert_eq!(house.home.chunks_asked.load(Ordering::SeqCst), 1);
}

#[test]
fn files_without_hashes_are_never_taken_for_others_of_the_same_sizes() {
    let house = House::new();
    house.put_plain("a", [b"one a", b"two a"]);
    house.put_plain("b", [b"one b", b"two b"]);
    let origin = house.origin("");
    let whole = ByteRange::new(0, 10);
    let stats = ["a", "b"].map(|name| origin.stat(name, &patience()).unwrap());
    assert_eq!(read(&origin, "a", &stats[0], whole).unwrap(), b"one atwo a");
    assert_eq!(read(&origin, "b", &stats[1], whole).unwrap(), b"one btwo b");
    assert_eq!(origin.stat("b", &patience()).unwrap().version, stats[1].version, "for a moment");
    house.put_plain("a", [b"ONE A", b"TWO A"]);
    let begun = Instant::now();
    let new = loop {
        let stat = origin.stat("a", &patience()).unwrap();
        if stat.version != stats[0].version {
            break stat;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "for a moment only");
        thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(read(&origin, "a", &new, whole).unwrap(), b"ONE ATWO A");
    assert_eq!(read(&origin, "a", &stats[0], whole).unwrap(), b"one atwo a", "what was read of it");
    let next_run = house.origin("");
    assert_ne!(next_run.stat("a", &patience()).unwrap().version, new.version);
    assert_eq!(read(&next_run, "a", &new, whole).unwrap_err().kind(), Kind::Changed);
}
