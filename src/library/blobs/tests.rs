//! Blobs: kept once, whole or not at all, never shown damaged, never removed under somebody's hands.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::*;

/// A change to the file of a blob, by another program.
type Change<'a> = &'a dyn Fn(&Path);

fn blobs() -> (tempfile::TempDir, Blobs) {
    let temp = tempfile::tempdir().unwrap();
    Blobs::create(temp.path()).unwrap();
    let blobs = Blobs::open(temp.path()).unwrap();
    (temp, blobs)
}

fn scratch(blobs: &Blobs, bytes: &[u8]) -> (Scratch, Digest, u64) {
    let scratch = blobs.scratch().unwrap();
    scratch.write_all_at(bytes, 0).unwrap();
    (scratch, Digest::of(bytes), bytes.len() as u64)
}

fn all(blobs: &Blobs) -> Vec<Digest> {
    let mut all = Vec::new();
    let walked = blobs.walk(&mut |found| {
        all.push(found.sha256);
        Ok(())
    });
    walked.unwrap();
    all
}

#[test]
fn equal_bytes_are_kept_once() {
    let (temp, blobs) = blobs();
    let many: Vec<Vec<u8>> = (0..SYNC_EACH_MAX as u8 + 3).map(|n| vec![n; 1000]).collect();
    // Few and many are synced in two ways.
    for group in [&many[..2], &many[..]] {
        let kept = blobs.keep(group.iter().map(|bytes| scratch(&blobs, bytes)).collect()).unwrap();
        assert!(kept.iter().zip(group).all(|(pinned, bytes)| pinned.digest() == Digest::of(bytes)));
    }
    assert_eq!(all(&blobs).len(), many.len());
    for bytes in &many {
        let mut read = vec![0; 10];
        blobs.read_at(Digest::of(bytes), 1000, 990, &mut read).unwrap();
        assert_eq!(read, bytes[990..]);
        assert!(blobs.pin(Digest::of(bytes), 1000).unwrap().is_some());
        assert!(blobs.pin(Digest::of(bytes), 999).unwrap().is_none());
    }
    drop(scratch(&blobs, b"never kept"));
    assert_eq!(fs::read_dir(temp.path().join("scratch")).unwrap().count(), 0);
    std::mem::forget(scratch(&blobs, b"left by a crash"));
    blobs.clear_scratch().unwrap();
    assert_eq!(fs::read_dir(temp.path().join("scratch")).unwrap().count(), 0);
}

#[test]
fn one_bit_is_enough() {
    let (_temp, blobs) = blobs();
    let bytes = vec![7; 300_000];
    let digest = Digest::of(&bytes);
    drop(blobs.keep(vec![scratch(&blobs, &bytes)]).unwrap());
    let path = blobs.path(digest);
    for bad in [
        {
            let mut bad = bytes.clone();
            bad[299_999] ^= 1;
            bad
        },
        bytes[..299_999].to_vec(),
        Vec::new(),
    ] {
        fs::remove_file(&path).unwrap();
        fs::write(&path, &bad).unwrap();
        let blobs = Blobs::open(&blobs.dir).unwrap();
        let mut read = [0; 5];
        for _ in 0..2 {
            assert_eq!(blobs.read_at(digest, 300_000, 0, &mut read).unwrap_err().kind(), Kind::Corrupt);
            assert_eq!(read, [0; 5], "nothing of it is given out");
        }
        assert_eq!(blobs.check(digest).unwrap_err().kind(), Kind::Corrupt);
    }
    blobs.quarantine(digest).unwrap();
    assert_eq!(blobs.read_at(digest, 300_000, 0, &mut [0; 5]).unwrap_err().kind(), Kind::Missing);
    assert_eq!(all(&blobs), []);
    // Good bytes may be put again.
    drop(blobs.keep(vec![scratch(&blobs, &bytes)]).unwrap());
    assert_eq!(blobs.check(digest).unwrap(), 300_000);
}

#[test]
fn blobs_changed_after_they_were_hashed_are_hashed_again() {
    let bytes = vec![7; 300_000];
    let digest = Digest::of(&bytes);
    let read = |blobs: &Blobs, offset: u64| {
        let mut read = vec![0; 1000];
        blobs.read_at(digest, 300_000, offset, &mut read).map(|()| read)
    };
    let zero = |path: &Path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        let file = File::options().write(true).open(path).unwrap();
        // Past the grain of the filesystem's clock.
        let before = file.metadata().unwrap();
        while (before.ctime(), before.ctime_nsec()) == {
            file.set_len(0).unwrap();
            file.set_len(300_000).unwrap();
            let after = file.metadata().unwrap();
            (after.ctime(), after.ctime_nsec())
        } {}
    };
    let cut = |path: &Path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        File::options().write(true).open(path).unwrap().set_len(10_000).unwrap();
    };
    let replace = |path: &Path| {
        fs::write(path.with_extension("new"), vec![0; 300_000]).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    };
    let remove = |path: &Path| fs::remove_file(path).unwrap();
    let touch = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o440)).unwrap();
    // What is done to the blob's file, and whether its bytes are still there for who has it open.
    let cases: [(&str, Change<'_>, bool); 5] = [
        ("zeroed in place", &zero, false),
        ("cut", &cut, false),
        ("replaced", &replace, true),
        ("removed", &remove, true),
        ("given another mode", &touch, true),
    ];
    for (what, change, is_sound) in cases {
        let (_temp, blobs) = blobs();
        drop(blobs.keep(vec![scratch(&blobs, &bytes)]).unwrap());
        assert_eq!(read(&blobs, 0).unwrap(), bytes[..1000]);
        assert!(blobs.adopt(digest, 300_000).unwrap().is_some());
        change(&blobs.path(digest));
        for offset in [0, 200_000] {
            match read(&blobs, offset) {
                Ok(read) => assert!(is_sound && read == bytes[..1000], "{what}"),
                Err(error) => assert!(!is_sound && error.kind() == Kind::Corrupt, "{what}: {error}"),
            }
        }
        // What is put again is put anew where its blob is no longer what it was.
        let is_there = what == "given another mode";
        assert_eq!(blobs.adopt(digest, 300_000).unwrap().is_some(), is_there, "{what}");
        drop(blobs.keep(vec![scratch(&blobs, &bytes)]).unwrap());
        assert_eq!(read(&blobs, 0).unwrap(), bytes[..1000], "{what}, and put again");
    }
}

#[test]
fn blobs_of_another_size_than_is_asked_for_are_refused_also_when_they_were_hashed() {
    let (_temp, blobs) = blobs();
    let bytes = vec![7; 1000];
    let digest = Digest::of(&bytes);
    drop(blobs.keep(vec![scratch(&blobs, &bytes)]).unwrap());
    for _ in 0..2 {
        for size_bytes in [999, 1001] {
            let error = blobs.read_at(digest, size_bytes, 0, &mut [0; 9]).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt);
        }
        blobs.read_at(digest, 1000, 0, &mut [0; 9]).unwrap();
    }
}

#[test]
fn what_somebody_holds_or_needs_stays() {
    let (_temp, blobs) = blobs();
    let (bytes, digest) = (b"bytes".as_slice(), Digest::of(b"bytes"));
    let kept = blobs.keep(vec![scratch(&blobs, bytes)]).unwrap();
    assert!(!blobs.remove_unless(digest, || panic!("not even asked")).unwrap());
    drop(kept);
    assert!(!blobs.remove_unless(digest, || Ok(true)).unwrap());
    assert_eq!(blobs.remove_unless(digest, || Err(Error::new(Kind::Local, "x"))).unwrap_err().kind(), Kind::Local);
    assert_eq!(all(&blobs), [digest]);

    // Who wants it while it goes waits, and does not find it.
    let (going, is_going) = mpsc::channel();
    thread::scope(|scope| {
        let removed = scope.spawn(|| {
            blobs.remove_unless(digest, || {
                going.send(()).unwrap();
                thread::sleep(Duration::from_millis(50));
                Ok(false)
            })
        });
        is_going.recv().unwrap();
        assert!(blobs.pin(digest, 5).unwrap().is_none());
        assert!(removed.join().unwrap().unwrap());
    });
    assert_eq!(all(&blobs), []);
}
