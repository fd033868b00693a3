//! Small files put together: what is new is told from what is not, one that fails fails alone, and a kill leaves each whole
//! or not there.
//! Never here: real stores (see `tests/drive/small.rs`).

use std::cell::RefCell;

use super::kills::killed_everywhere;
use super::*;
use crate::library::Small;
use crate::store::keyed::{Key, LIMITS, Limits};

/// A home with room for each key but one.
struct Refusing {
    home: Arc<Memory>,
    refused: &'static str,
    kind: Kind,
    limits: Limits,
}

impl Refusing {
    fn new(home: &Arc<Memory>, refused: &'static str, kind: Kind, small_at_once: usize) -> Self {
        Self { home: Arc::clone(home), refused, kind, limits: Limits { small_at_once, ..LIMITS } }
    }
}

impl Keyed for Refusing {
    fn describe(&self) -> &str {
        self.home.describe()
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn get(&self, key: &str, range: ByteRange) -> Result<Bytes> {
        self.home.get(key, range)
    }

    fn put(&self, entries: &[(String, Bytes)]) -> Result<()> {
        for entry in entries {
            if entry.0 == self.refused {
                return Err(Error::new(self.kind, format!("no room for {}", entry.0)));
            }
            self.home.put(std::slice::from_ref(entry))?;
        }
        Ok(())
    }

    fn delete(&self, keys: &[String]) -> Result<()> {
        self.home.delete(keys)
    }

    fn list(&self, prefix: &str, from: Bound<&str>, limit: usize) -> Result<Vec<Key>> {
        self.home.list(prefix, from, limit)
    }
}

fn small(path: &str, tags: &[&str]) -> Small {
    let meta = Meta { tags: tags.iter().map(|tag| (*tag).to_owned()).collect(), ..Meta::now() };
    Small { path: path.to_owned(), bytes: bytes(path.len() as u8, 20 * path.len()).into(), meta }
}

fn put_all(library: &KeyedLibrary, files: &[Small]) -> Vec<Result<()>> {
    let paths: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
    let are_new = Library::are_new(library, &paths).unwrap();
    let new = files.iter().zip(are_new).filter(|(_, is_new)| *is_new).map(|(file, _)| file.clone());
    library.put_new(new.collect())
}

#[test]
fn only_what_nothing_stands_in_the_way_of_is_new() {
    for small_at_once in [0, 3] {
        let home = Arc::new(Memory::default());
        let library = {
            library(&home);
            KeyedLibrary::open(Arc::new(Refusing::new(&home, "none", Kind::Denied, small_at_once)), 0).unwrap()
        };
        for path in ["file", "folder/file", "deep/down/file", "big"] {
            put(&library, path, &bytes(1, if path == "big" { 500 } else { 10 }), &[]).unwrap();
        }
        let are_new = |paths: &[&str]| Library::are_new(&library, paths).unwrap();
        let new = ["new", "folder/new", "deep/down/new", "deep/other", "films/a/b"];
        assert_eq!(are_new(&new), [true; 5], "{small_at_once}");
        let taken = ["file", "folder", "file/below", "deep", "big"];
        assert_eq!(are_new(&taken[..2]), [false; 2], "{small_at_once}");
        assert_eq!(are_new(&taken[2..]), [false; 3], "{small_at_once}");
        // What no file may be called, and what is judged alone.
        assert_eq!(
            are_new(&["a/../b", "", ".reelfs/x", "a/.reelfs", "a_chunk_0", "good"]),
            [false, false, false, false, false, true]
        );
        // In each other's way.
        assert_eq!(are_new(&["twice", "twice", "a", "a/b", "c/d/e", "c"]), [false, false, true, false, false, true]);
        assert!(are_new(&[]).is_empty());
    }
}

#[test]
fn what_is_put_together_is_what_is_put_alone() {
    for small_at_once in [0, 3] {
        let (home, alone) = (Arc::new(Memory::default()), Arc::new(Memory::default()));
        library(&home);
        let together =
            KeyedLibrary::open(Arc::new(Refusing::new(&home, "none", Kind::Denied, small_at_once)), 0).unwrap();
        let one_by_one = library(&alone);
        let files = ["a", "b/c", "b/d/e", "é"].map(|path| small(path, &["x", "y/z"]));
        let empty = Small { bytes: Bytes::new(), ..small("empty", &[]) };
        let files: Vec<_> = files.into_iter().chain([empty]).collect();
        assert!(put_all(&together, &files).iter().all(Result::is_ok));
        for file in &files {
            let content = Content::Inline(file.bytes.clone());
            one_by_one.draft(&file.path, None).unwrap().commit(content, file.meta.clone()).unwrap();
            assert_eq!(together.manifest(&file.path).unwrap(), one_by_one.manifest(&file.path).unwrap());
        }
        assert_eq!(home.keys(), alone.keys());
        assert_clean(&together, &home, "put together");
        // They are files like any others.
        put(&together, "b/c", &bytes(7, 500), &[]).unwrap();
        assert_eq!(put(&together, "a/below", b"x", &[]).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(together.purge("x", &mut |_| true).unwrap().files, 3);
    }
}

#[test]
fn one_that_fails_fails_alone() {
    let files = ["a", "bad", "c"].map(|path| small(path, &["tag"]));
    for small_at_once in [0, 3] {
        let home = Arc::new(Memory::default());
        library(&home);
        let refusing = Refusing::new(&home, "bad", Kind::Denied, small_at_once);
        let library = KeyedLibrary::open(Arc::new(refusing), 0).unwrap();
        let done = put_all(&library, &files);
        assert!(done[0].is_ok() && done[2].is_ok(), "{done:?}");
        let error = done[1].as_ref().unwrap_err();
        assert!(error.kind() == Kind::Denied && error.to_string().contains("bad"), "{error}");
        assert_eq!(names(&library), ["a", "c"]);
        library.gc(NOW, false).unwrap();
        assert_clean(&library, &home, "one was refused");
        // One that no home would keep: larger than what is kept whole, or with tags that are none.
        let large = Small { bytes: bytes(1, 201).into(), ..small("large", &[]) };
        let tagged = Small { meta: Meta { tags: vec![String::new()], ..Meta::now() }, ..small("tagged", &[]) };
        let done = put_all(&library, &[large, small("d", &[]), tagged]);
        assert_eq!(done.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, false]);
        assert_eq!(names(&library), ["a", "c", "d"]);
    }
}

/// A home that does not answer was waited for once, not once for each file.
#[test]
fn a_home_that_is_away_fails_all_at_once() {
    let home = Arc::new(Memory::default());
    library(&home);
    let library = KeyedLibrary::open(Arc::new(Refusing::new(&home, "b", Kind::Unreachable, 0)), 0).unwrap();
    let done = put_all(&library, &["a", "b", "c"].map(|path| small(path, &[])));
    assert!(done.iter().all(|done| done.as_ref().is_err_and(|error| error.kind() == Kind::Unreachable)), "{done:?}");
    assert_eq!(names(&library), ["a"], "some may be there all the same");
}

#[test]
fn each_is_there_or_not_wherever_a_batch_is_killed() {
    let files: Vec<_> = ["a", "b/c", "b/d", "e"].iter().map(|path| small(path, &["x", path])).collect();
    let acknowledged = RefCell::new(Vec::new());
    killed_everywhere(
        |library| {
            acknowledged.take();
            put(library, "other", &bytes(1, 300), &["x"]).unwrap();
        },
        |library| {
            let done = put_all(library, &files);
            let kept = files.iter().zip(&done).filter(|(_, done)| done.is_ok()).map(|(file, _)| file.path.clone());
            acknowledged.replace(kept.collect());
            done.into_iter().collect()
        },
        |library| {
            for file in &files {
                match read(library, &file.path) {
                    Ok(bytes) => assert_eq!(bytes, file.bytes),
                    Err(error) => {
                        assert!(
                            error.kind() == Kind::Missing && !acknowledged.borrow().contains(&file.path),
                            "{error}"
                        );
                    }
                }
            }
        },
        |library| {
            assert!(put_all(library, &files).iter().all(Result::is_ok));
            for file in &files {
                assert_eq!(read(library, &file.path).unwrap(), file.bytes);
            }
        },
    );
}
