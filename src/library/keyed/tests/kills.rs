//! Changes that are killed at each of their writes in turn: what is left is whole, and the next attempt ends what was begun.
//! Never here: two writers at once (see `beside`).

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::library::Damage;
use crate::store::keyed::{Key, Limits};

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

/// Kills `change` at each of its writes in turn; `check` looks at what is left, then `again` does what a person would do,
/// and what is there in the end must be exactly what the names there need.
pub(super) fn killed_everywhere(
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
            // Before a check of all, which mends it.
            let found = own_keys(&home);
            for path in names(&library) {
                for tag in &library.manifest(&path).unwrap().meta().tags {
                    assert!(found.contains(&keys::tag(tag, &path)), "{path} is not found by `{tag}`, killed at {at}");
                }
            }
            let damaged: Vec<_> =
                findings(&library).into_iter().filter(|found| found.what != Damage::Orphaned).collect();
            assert_eq!(damaged, [], "killed at write {at} ({how:?})");
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
