//! A whole copy of a library on this machine, as it was at one moment, while others may write to it. Made again, it brings what
//! is new.
//! Never here: the catalog's copy (`catalog/backup.rs`), and what keeps blobs from being removed meanwhile (`blobs/hold.rs`).

use std::fs;
use std::path::Path;

use super::blobs::{Blobs, Scratch};
use super::catalog::{self, Coming};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::modes::Modes;

/// Blobs looked for in one step.
const STEP: usize = 1_000;
/// Blobs synced together: 128 MiB of the usual size.
const BATCH: usize = 64;

/// What a backup did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackedUp {
    /// Files in it.
    pub files: u64,
    /// Chunks that were copied.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks that were there from an earlier one.
    pub there: u64,
    /// Chunks that are missing or damaged in the library, and so in its copy.
    pub damaged: u64,
}

/// Copies the library in `from` to `to`, a new folder or an earlier copy; `go_on` is told what is done so far, and may say
/// no: then the earlier copy is as it was. `Invalid` if something else is there.
pub fn whole(from: &Path, to: &Path, go_on: &mut dyn FnMut(BackedUp) -> bool) -> Result<BackedUp> {
    let io = |error: std::io::Error| Error::io(to.display(), &error);
    to.parent().map_or(Ok(()), fs::create_dir_all).map_err(io)?;
    Modes::OWNER.make_folder(to).map_err(io)?;
    if fs::canonicalize(from).map_err(|error| Error::io(from.display(), &error))? == fs::canonicalize(to).map_err(io)? {
        return Err(Error::new(Kind::Invalid, format!("{} is the library itself", to.display())));
    }
    if !catalog::is_at(to)
        && fs::read_dir(to).map_err(io)?.any(|entry| entry.is_ok_and(|entry| !catalog::is_ours(&entry.file_name())))
    {
        let message = format!("{} is neither empty nor a library: a backup needs a folder of its own", to.display());
        return Err(Error::new(Kind::Invalid, message));
    }
    let blobs = Blobs::open(from)?;
    // Before the catalog is copied: what it names then stays until all of it is copied.
    let _hold = blobs.hold()?;
    let coming = Coming::begin(from, to)?;
    Blobs::create(to)?;
    let copies = Blobs::open(to)?;
    copies.clear_scratch()?;
    let mut done = BackedUp { files: coming.files()?, ..BackedUp::default() };
    let (mut after, mut batch) = (None, Vec::new());
    loop {
        let page = coming.blobs(after.as_ref(), STEP)?;
        for blob in &page {
            if copies.pin(blob.digest, blob.size_bytes_max)?.is_some() {
                done.there += 1;
            } else if let Some(copied) = copied(&blobs, &copies, blob.digest, blob.size_bytes_max)? {
                batch.push((copied, blob.digest, blob.size_bytes_max));
                done.chunks += 1;
                done.bytes += blob.size_bytes_max;
            } else {
                done.damaged += 1;
            }
            if batch.len() >= BATCH {
                copies.keep(std::mem::take(&mut batch))?;
            }
            if !go_on(done) {
                return Err(Error::new(
                    Kind::Cancelled,
                    "broken off: what was copied so far is of use for the next time",
                ));
            }
        }
        match page.last() {
            Some(last) if page.len() == STEP => after = Some(last.digest),
            _ => break,
        }
    }
    copies.keep(batch)?;
    coming.arrive()?;
    Ok(done)
}

/// The bytes of a blob, checked against their hash; `None`: they are missing or damaged.
fn copied(from: &Blobs, to: &Blobs, digest: Digest, size_bytes: u64) -> Result<Option<Scratch>> {
    let mut bytes = vec![0; size_bytes as usize];
    match from.read_at(digest, size_bytes, 0, &mut bytes) {
        Ok(()) => {}
        Err(error) if matches!(error.kind(), Kind::Missing | Kind::Corrupt) => {
            log::warn!("{error}");
            return Ok(None);
        }
        Err(error) => return Err(error),
    }
    let scratch = to.scratch()?;
    scratch.write_all_at(&bytes, 0).map_err(|error| Error::io("writing a chunk of the backup", &error))?;
    scratch.written().begin_writing_out();
    Ok(Some(scratch))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::library::Library;
    use crate::library::local::Local;
    use crate::library::suite::{CUT, bytes, get, put};

    const ALWAYS: fn(BackedUp) -> bool = |_| true;

    fn filled(dir: &Path) -> Local {
        Local::create(dir, CUT).unwrap();
        let local = Local::open(dir).unwrap();
        for n in 0..5 {
            put(&local, &format!("films/{n}.mkv"), &bytes(20_000, n), &["tag"]);
        }
        put(&local, "note", b"small", &[]);
        local.flush().unwrap();
        local
    }

    fn is_sound(local: &Local) -> bool {
        let mut found = 0;
        local.verify(&mut |_| true, &mut |_| found += 1).unwrap();
        found == 0
    }

    #[test]
    fn a_copy_is_the_library_of_one_moment_whatever_is_removed_meanwhile() {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("library"), temp.path().join("copy"));
        let local = filled(&from);
        let mut is_first = true;
        let done = whole(&from, &to, &mut |_| {
            if std::mem::take(&mut is_first) {
                // All of it goes, as far as the one who removes it can see.
                for n in 0..5 {
                    local.remove(&format!("films/{n}.mkv")).unwrap();
                }
                local.gc(Duration::ZERO, false).unwrap();
                put(&local, "later", b"not of that moment", &[]);
                local.flush().unwrap();
            }
            true
        });
        let done = done.unwrap();
        assert_eq!((done.files, done.there, done.damaged), (6, 0, 0));
        let copy = Local::open(&to).unwrap();
        assert!(is_sound(&copy));
        for n in 0..5 {
            assert_eq!(get(&copy, &format!("films/{n}.mkv")).unwrap(), bytes(20_000, n));
        }
        assert_eq!(get(&copy, "note").unwrap(), b"small");
        assert!(copy.manifest("later").is_err());
        drop(copy);
        // What the backup held goes now.
        assert!(local.gc(Duration::ZERO, false).unwrap().chunks > 0);
        // Once more: only what is new comes, and what is gone is gone.
        put(&local, "films/new.mkv", &bytes(20_000, 9), &[]);
        local.flush().unwrap();
        let again = whole(&from, &to, &mut { ALWAYS }).unwrap();
        assert!(again.chunks > 0 && again.files == 3, "{again:?}");
        let copy = Local::open(&to).unwrap();
        assert!(copy.manifest("films/0.mkv").is_err() && is_sound_but_for_orphans(&copy));
        assert_eq!(get(&copy, "films/new.mkv").unwrap(), bytes(20_000, 9));
    }

    fn is_sound_but_for_orphans(local: &Local) -> bool {
        let mut damaged = 0;
        let count =
            |finding: crate::library::Finding| damaged += u32::from(finding.what != crate::library::Damage::Orphaned);
        local.verify(&mut |_| true, &mut { count }).unwrap();
        damaged == 0
    }

    #[test]
    fn one_that_is_broken_off_leaves_the_earlier_copy() {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("library"), temp.path().join("copy"));
        let local = filled(&from);
        assert_eq!(whole(&from, &to, &mut |_| false).unwrap_err().kind(), Kind::Cancelled);
        assert!(!catalog::is_at(&to), "it is no library before it is whole");
        whole(&from, &to, &mut { ALWAYS }).unwrap();
        put(&local, "films/new.mkv", &bytes(20_000, 9), &[]);
        local.flush().unwrap();
        assert!(whole(&from, &to, &mut |_| false).is_err());
        let copy = Local::open(&to).unwrap();
        assert!(is_sound(&copy) && copy.manifest("films/new.mkv").is_err());
        let busy = whole(&from, &to, &mut { ALWAYS }).unwrap_err();
        assert_eq!(busy.kind(), Kind::Busy, "{busy}");
    }

    #[test]
    fn nothing_else_is_taken_for_a_place_of_backups() {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("library"), temp.path().join("films"));
        filled(&from);
        fs::create_dir(&to).unwrap();
        fs::write(to.join("film.mkv"), "mine").unwrap();
        for place in [&to, &from] {
            assert_eq!(whole(&from, place, &mut { ALWAYS }).unwrap_err().kind(), Kind::Invalid);
        }
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
        assert_eq!(whole(&to, &temp.path().join("new"), &mut { ALWAYS }).unwrap_err().kind(), Kind::Missing);
    }

    #[test]
    fn a_copy_of_the_catalog_replaces_an_earlier_one_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let (from, to, film) = (temp.path().join("library"), temp.path().join("copy"), temp.path().join("film.mkv"));
        drop(filled(&from));
        fs::write(&film, "mine").unwrap();
        // A process that is no more, and one that is.
        let left = ["copy.new-4194999", "copy.new-4194999-journal"].map(|name| temp.path().join(name));
        let others = ["copy.new-1", "copy.new-x"].map(|name| temp.path().join(name));
        left.iter().chain(&others).for_each(|path| fs::write(path, "left").unwrap());
        for _ in 0..2 {
            catalog::copy(&from, &to).unwrap();
        }
        assert!(left.iter().all(|path| !path.exists()) && others.iter().all(|path| path.exists()));
        for wrong in [&film, &from.join("catalog.sqlite")] {
            assert_eq!(catalog::copy(&from, wrong).unwrap_err().kind(), Kind::Invalid);
        }
        assert_eq!(fs::read_to_string(&film).unwrap(), "mine");
        assert!(is_sound(&Local::open(&from).unwrap()));
    }

    #[test]
    fn a_damaged_chunk_is_counted_and_not_copied() {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("library"), temp.path().join("copy"));
        drop(filled(&from));
        let blobs = Blobs::open(&from).unwrap();
        let mut first = None;
        blobs
            .walk(&mut |found| {
                first = first.or(Some(found.sha256));
                Ok(())
            })
            .unwrap();
        let path = blobs.path(first.unwrap());
        fs::File::options().write(true).open(path).unwrap().write_all_at(b"!!!!", 100).unwrap();
        let done = whole(&from, &to, &mut { ALWAYS }).unwrap();
        assert_eq!(done.damaged, 1);
    }

    #[test]
    fn a_copy_is_made_each_day_and_takes_the_place_of_a_damaged_catalog() {
        const DAY: Duration = Duration::from_hours(24);
        let temp = tempfile::tempdir().unwrap();
        drop(filled(temp.path()));
        // Copies have the times of this machine.
        let now = SystemTime::now() + Duration::from_hours(1);
        assert!(catalog::daily(temp.path(), now).unwrap());
        assert!(!catalog::daily(temp.path(), now + DAY / 2).unwrap());
        for day in 1..=9 {
            assert!(catalog::daily(temp.path(), now + DAY * day).unwrap());
        }
        let mut names: Vec<_> =
            fs::read_dir(temp.path().join("backups")).unwrap().map(|name| name.unwrap().path()).collect();
        names.sort();
        assert_eq!(names.len(), 7);
        // One that is no good is passed over.
        fs::write(&names[6], "nothing").unwrap();
        fs::write(temp.path().join("catalog.sqlite"), vec![0xa5; 1 << 20]).unwrap();
        let salvaged = Local::salvage(temp.path(), &|| true).unwrap();
        assert_eq!((salvaged.files, salvaged.backup.as_deref()), (6, Some(&*names[5])));
        let local = Local::open(temp.path()).unwrap();
        assert!(is_sound(&local));
        assert_eq!(get(&local, "films/3.mkv").unwrap(), bytes(20_000, 3));
    }
}
