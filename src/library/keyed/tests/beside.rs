//! A keyed library beside somebody else, who does something right in the middle of a change.
//! Never here: changes that are broken off (see `kills`).

use std::sync::mpsc;

use super::*;
use crate::library::keyed::groups::Mark;
use crate::store::keyed::{Key, Limits, Swap};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Get,
    Put,
    Delete,
    Swap,
}

type Then = Box<dyn FnOnce(&Arc<Memory>) + Send>;

/// A home where somebody else does something right before a key is first asked for so.
struct Beside {
    home: Arc<Memory>,
    at: (Call, String),
    then: Mutex<Option<Then>>,
}

impl Beside {
    fn before(&self, call: Call, mut keys: impl Iterator<Item = impl AsRef<str>>) {
        if call != self.at.0 || !keys.any(|key| key.as_ref() == self.at.1) {
            return;
        }
        let then = self.then.lock().take();
        if let Some(then) = then {
            then(&self.home);
        }
    }
}

impl Keyed for Beside {
    fn describe(&self) -> &str {
        self.home.describe()
    }

    fn limits(&self) -> &Limits {
        self.home.limits()
    }

    fn get(&self, key: &str, range: ByteRange) -> Result<Bytes> {
        self.before(Call::Get, std::iter::once(key));
        self.home.get(key, range)
    }

    fn put(&self, entries: &[(String, Bytes)]) -> Result<()> {
        self.before(Call::Put, entries.iter().map(|(key, _)| key));
        self.home.put(entries)
    }

    fn delete(&self, keys: &[String]) -> Result<()> {
        self.before(Call::Delete, keys.iter());
        self.home.delete(keys)
    }

    fn swap(&self, swaps: &[Swap]) -> Result<Vec<bool>> {
        self.before(Call::Swap, swaps.iter().map(|swap| &swap.key));
        self.home.swap(swaps)
    }

    fn list(&self, prefix: &str, from: Bound<&str>, limit: usize) -> Result<Vec<Key>> {
        self.home.list(prefix, from, limit)
    }
}

fn beside(
    home: &Arc<Memory>,
    call: Call,
    key: impl Into<String>,
    then: impl FnOnce(&Arc<Memory>) + Send + 'static,
) -> KeyedLibrary {
    let then: Then = Box::new(then);
    let home = Beside { home: Arc::clone(home), at: (call, key.into()), then: Mutex::new(Some(then)) };
    KeyedLibrary::open(Arc::new(home), 0).unwrap()
}

fn value(home: &Memory, key: &str) -> Bytes {
    home.get(key, ByteRange::new(0, 1 << 20)).unwrap()
}

fn set(home: &Memory, key: &str, value: impl Into<Bytes>) {
    home.put(&[(key.to_owned(), value.into())]).unwrap();
}

#[test]
fn a_file_that_changes_between_two_readings_harms_no_other() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    let film = bytes(3, 500);
    put(&library, "one", &film, &[]).unwrap();
    let content = chunks_of(&mut &film[..], library.cut(), &mut |_| Ok(())).unwrap();
    let Content::Chunks(chunks) = content else { panic!("it is cut") };
    let mut changed = film.clone();
    changed[70] ^= 1;
    let longer = [&film[..], b"more"].concat();
    for other in [&changed[..], &longer, &film[..256], &bytes(5, 500)] {
        let error = write(&library, "two", other, &[], Some(&chunks)).unwrap_err();
        assert_eq!(error.kind(), Kind::Changed, "{error}");
        assert_eq!(library.manifest("two").unwrap_err().kind(), Kind::Missing);
        assert_eq!(read(&library, "one").unwrap(), film);
    }
    library.gc(NOW, false).unwrap();
    assert_clean(&library, &home, "refused");
}

#[test]
fn what_cannot_be_read_is_not_collected() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    let film = bytes(3, 500);
    for path in ["newer", "odd", "lost"] {
        put(&library, path, &film.iter().map(|byte| byte ^ path.len() as u8).collect::<Vec<_>>(), &["a"]).unwrap();
    }
    let before: Vec<_> = home.keys().into_iter().map(|key| (key.clone(), value(&home, &key))).collect();
    let newer = String::from_utf8(value(&home, "newer").to_vec()).unwrap();
    set(&home, "newer", newer.replace("\"version\":1", "\"version\":2"));
    set(&home, "odd", "{");
    let lost = library.load("lost").unwrap().id.unwrap();
    set(&home, &lost.reference("lost"), "?");
    set(&home, &keys::tag("a", "lost"), "?");
    assert_eq!(library.manifest("newer").unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(library.gc(NOW, false).unwrap(), Swept::default());
    let mut heard = 0;
    let stays = library.purge("a", &mut |swept| {
        heard = swept.files;
        true
    });
    let error = stays.unwrap_err();
    assert!(heard == 0 && error.kind() == Kind::Corrupt && error.to_string().contains("3 files"), "{error}");
    assert_eq!(library.gc(NOW, false).unwrap(), Swept::default());
    assert_eq!(home.keys(), before.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>());
    home.put(&before).unwrap();
    assert_clean(&library, &home, "as before");
}

#[test]
fn a_name_that_two_write_keeps_its_reference() {
    let (old, new) = (bytes(1, 500), bytes(2, 300));
    let id = |library: &KeyedLibrary| library.load("film").unwrap().id.unwrap();
    // One puts again what is there, and the other one something else in between.
    let home = Arc::new(Memory::default());
    put(&library(&home), "film", &old, &["a"]).unwrap();
    let between = new.clone();
    let slow = beside(&home, Call::Put, "film", move |home| {
        put(&library(home), "film", &between, &["b"]).unwrap();
    });
    put(&slow, "film", &old, &["a"]).unwrap();
    assert!(own_keys(&home).contains(&id(&slow).reference("film")));
    slow.gc(NOW, false).unwrap();
    assert_eq!(read(&slow, "film").unwrap(), old);
    assert_clean(&slow, &home, "put beside");
    // One gives up what was there, and the other one has just put it there again.
    let manifest = value(&home, "film");
    let reference = id(&slow).reference("film");
    let slow = beside(&home, Call::Delete, reference.clone(), move |home| set(home, "film", manifest));
    put(&slow, "film", &new, &["a"]).unwrap();
    assert!(own_keys(&home).contains(&reference));
    slow.gc(NOW, false).unwrap();
    assert_eq!(read(&slow, "film").unwrap(), old);
    assert_clean(&slow, &home, "given up beside");
}

#[test]
fn a_name_that_gets_another_file_while_it_is_renamed_stays() {
    let home = Arc::new(Memory::default());
    let (old, new) = (bytes(1, 500), bytes(2, 300));
    put(&library(&home), "from", &old, &["a"]).unwrap();
    let between = new.clone();
    let slow = beside(&home, Call::Put, "to", move |home| {
        put(&library(home), "from", &between, &["b"]).unwrap();
    });
    assert_eq!(slow.rename("from", "to").unwrap_err().kind(), Kind::Changed);
    assert_eq!((read(&slow, "from").unwrap(), read(&slow, "to").unwrap()), (new, old));
    slow.gc(NOW, false).unwrap();
    assert_clean(&slow, &home, "replaced beside");
}

#[test]
fn a_rename_that_gives_way_leaves_what_the_other_name_needs() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    let film = bytes(1, 500);
    put(&library, "from", &film, &[]).unwrap();
    put(&library, "to", &film, &[]).unwrap();
    let id = library.load("from").unwrap().id.unwrap();
    // Whoever gave it up was killed: that keeps nobody from anything.
    library.give_up(id).unwrap();
    library.rename("from", "other").unwrap();
    library.rename("other", "from").unwrap();
    set(&home, &id.swept(), "{}");
    assert_eq!(library.rename("from", "to").unwrap_err().kind(), Kind::Busy);
    library.remove("from").unwrap();
    library.gc(NOW, false).unwrap();
    assert_eq!(read(&library, "to").unwrap(), film);
    assert_clean(&library, &home, "given way");
}

#[test]
fn a_delete_that_arrives_late_takes_nothing_of_a_later_put() {
    let film = bytes(1, 500);
    for is_purged in [false, true] {
        let home = Arc::new(Memory::default());
        put(&library(&home), "film", &film, &["old"]).unwrap();
        let id = library(&home).load("film").unwrap().id.unwrap();
        let again = film.clone();
        // Another one comes to the end, and the same film is put again.
        let slow = beside(&home, Call::Delete, keys::chunk(&id.chunk_prefix(), 0), move |home| {
            library(home).gc(NOW, false).unwrap();
            put(&library(home), "film", &again, &["new"]).unwrap();
        });
        if is_purged {
            slow.purge("old", &mut |_| true).unwrap();
        } else {
            library(&home).remove("film").unwrap();
            slow.gc(NOW, false).unwrap();
        }
        assert_eq!(read(&slow, "film").unwrap(), film);
        assert_clean(&slow, &home, "deleted late");
    }
}

#[test]
fn another_programs_file_is_whole_or_changed() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    let manifest = |sizes: &str, total: u64| {
        format!("{{\"totalSize\":{total},\"chunkCount\":2,\"actualChunkSizes\":[{sizes}],\"standardChunkSize\":10}}")
    };
    for (key, text) in
        [("plain", manifest("10,2", 12)), ("plain_chunk_0", "0123456789".into()), ("plain_chunk_1", "ab".into())]
    {
        set(&home, key, text);
    }
    let other = manifest("10,3", 13);
    let slow = beside(&home, Call::Get, "plain_chunk_0", move |home| {
        set(home, "plain_chunk_0", "of another");
        set(home, "plain", other);
    });
    assert_eq!(read(&slow, "plain").unwrap_err().kind(), Kind::Changed);
    set(&home, "plain_chunk_1", "abc");
    assert_eq!(read(&slow, "plain").unwrap(), b"of anotherabc");
    put(&library, "plain", b"ours", &[]).unwrap();
    assert_eq!((names(&library), read(&library, "plain").unwrap()), (vec!["plain".to_owned()], b"ours".to_vec()));
    assert_clean(&library, &home, "replaced");
}

#[test]
fn a_purge_leaves_what_loses_its_tag_or_comes_back() {
    let home = Arc::new(Memory::default());
    let film = bytes(1, 500);
    // The tag is taken away while the purge begins.
    put(&library(&home), "film", &film, &["old", "x"]).unwrap();
    let id = library(&home).load("film").unwrap().id.unwrap();
    let slow = beside(&home, Call::Put, id.gone(), |home| {
        library(home).set_tags("film", &["x".to_owned()]).unwrap();
    });
    assert_eq!(slow.purge("old", &mut |_| true).unwrap(), Swept::default());
    assert_eq!(read(&slow, "film").unwrap(), film);
    slow.gc(NOW, false).unwrap();
    assert_clean(&slow, &home, "the tag was taken away");
    // Another file gets name and tags before the entries go.
    put(&slow, "film", &film, &["old", "x"]).unwrap();
    let slow = beside(&home, Call::Delete, keys::tag("x", "film"), |home| {
        put(&library(home), "film", b"new", &["old", "x"]).unwrap();
    });
    assert_eq!(slow.purge("old", &mut |_| true).unwrap().files, 1);
    assert_eq!(read(&slow, "film").unwrap(), b"new");
    assert_clean(&slow, &home, "put again");
}

#[test]
fn a_purge_takes_the_names_of_what_it_looked_at_only() {
    let (home, film) = (Arc::new(Memory::default()), bytes(1, 500));
    put(&library(&home), "small", b"old", &["old"]).unwrap();
    put(&library(&home), "chunked", &film, &["old"]).unwrap();
    put(&library(&home), "other", &bytes(2, 500), &["old"]).unwrap();
    let slow = beside(&home, Call::Swap, "other", |home| {
        put(&library(home), "small", b"put again", &[]).unwrap();
        put(&library(home), "chunked", &bytes(1, 500), &["x"]).unwrap();
    });
    assert_eq!(slow.purge("old", &mut |_| true).unwrap().files, 1);
    assert_eq!(names(&slow), ["chunked", "small"]);
    assert_eq!((read(&slow, "small").unwrap(), read(&slow, "chunked").unwrap()), (b"put again".to_vec(), film));
    slow.gc(NOW, false).unwrap();
    assert_clean(&slow, &home, "put again");
}

#[test]
fn a_file_that_is_put_meanwhile_is_found_by_its_tags() {
    let (home, old, new) = (Arc::new(Memory::default()), bytes(1, 500), bytes(2, 300));
    let changes: [fn(&KeyedLibrary) -> Result<()>; 4] = [
        |library| library.remove("film"),
        |library| library.rename("film", "moved"),
        |library| library.set_tags("film", &["x".to_owned()]),
        |library| put(library, "film", b"other tags", &["x"]).map(|_| ()),
    ];
    for change in changes {
        put(&library(&home), "film", &old, &["a"]).unwrap();
        let between = new.clone();
        let slow = beside(&home, Call::Delete, keys::tag("a", "film"), move |home| {
            put(&library(home), "film", &between, &["a"]).unwrap();
        });
        change(&slow).unwrap();
        assert_eq!(read(&slow, "film").unwrap(), new);
        // Before anybody looks who would put it back.
        assert!(own_keys(&home).contains(&keys::tag("a", "film")));
        slow.gc(NOW, false).unwrap();
        assert_clean(&slow, &home, "found");
        assert!(slow.purge("a", &mut |_| true).unwrap().files > 0);
        for path in names(&slow) {
            slow.remove(&path).unwrap();
        }
        slow.gc(NOW, false).unwrap();
    }
}

#[test]
fn what_changes_a_file_never_brings_an_older_one_back() {
    let (old, new) = (bytes(1, 500), bytes(2, 300));
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(7);
    for (old, new) in [(&old[..], &new[..]), (b"small", &new), (&old, b"small"), (b"small", b"and other")] {
        // Right before it is written, and a while before.
        for at in [(Call::Swap, "film".to_owned()), (Call::Put, keys::tag("x", "film"))] {
            let home = Arc::new(Memory::default());
            put(&library(&home), "film", old, &["a"]).unwrap();
            let between = new.to_vec();
            let slow = beside(&home, at.0, at.1, move |home| {
                put(&library(home), "film", &between, &["b"]).unwrap();
            });
            slow.set_tags("film", &["x".to_owned()]).unwrap();
            slow.set_modified("film", modified).unwrap();
            let meta = slow.manifest("film").unwrap().into_meta();
            assert_eq!(
                (read(&slow, "film").unwrap(), &meta.tags[..], meta.modified),
                (new.to_vec(), &["x".to_owned()][..], modified)
            );
            slow.gc(NOW, false).unwrap();
            assert_clean(&slow, &home, "the newer one stays");
        }
    }
}

#[test]
fn a_dry_run_counts_what_would_go() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    put(&library, "film", &bytes(1, 500), &[]).unwrap();
    let id = library.load("film").unwrap().id.unwrap();
    home.delete(&["film".to_owned()]).unwrap();
    let long_ago = serde_json::json!({"path": "film", "since": 1}).to_string();
    set(&home, &id.reference("film"), long_ago);
    let swept = Swept { files: 0, chunks: 8, bytes: 500 };
    assert_eq!(library.gc(GRACE, true).unwrap(), swept);
    assert_eq!(library.gc(GRACE, false).unwrap(), swept);
    assert_eq!(own_keys(&home), BTreeSet::new());
}

/// Groups that were given up, so many of them just now, with one chunk each.
fn given_up(home: &Arc<Memory>, old: usize, young: usize) -> Vec<Id> {
    let now = Mark::now("", None).value();
    let give_up = |n: usize| {
        let id = Id::random();
        set(home, &keys::chunk(&id.chunk_prefix(), 0), "left over");
        set(home, &id.gone(), if n < old { Bytes::from_static(b"{\"since\":1}") } else { now.clone() });
        id
    };
    (0..old + young).map(give_up).collect()
}

#[test]
fn a_put_does_not_wait_for_what_it_removes_in_passing() {
    let home = Arc::new(Memory::default());
    library(&home);
    let id = given_up(&home, 1, 0)[0];
    let (let_go, held) = mpsc::channel::<()>();
    let slow = beside(&home, Call::Delete, keys::chunk(&id.chunk_prefix(), 0), move |_| {
        let _ = held.recv();
    });
    // Else it would not come back.
    put(&slow, "film", &bytes(1, 500), &["a"]).unwrap();
    assert_eq!(read(&slow, "film").unwrap(), bytes(1, 500));
    let_go.send(()).unwrap();
    drop(slow);
    assert_clean(&library(&home), &home, "removed in passing");
}

#[test]
fn what_is_removed_in_passing_is_bounded_and_found_behind_what_stays() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    let ids = given_up(&home, 2, 200);
    let is_left = |id: &Id| home.keys().contains(&keys::chunk(&id.chunk_prefix(), 0));
    library.sweep_some(&|| false).unwrap();
    assert!(is_left(&ids[0]) || is_left(&ids[1]), "one at most");
    for _ in 0..10_000 {
        if !is_left(&ids[0]) && !is_left(&ids[1]) {
            break;
        }
        library.sweep_some(&|| true).unwrap();
    }
    assert_eq!(ids.iter().filter(|id| is_left(id)).count(), 200);
}
