//! Backups of a library that is mounted and written to: what was synced before is in them, whole.
//! Never here: salvaged catalogs without a mount (`library/backup.rs`).

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use parking_lot::Mutex;
use reelfs::library::local::Local;
use reelfs::library::{Cut, INLINE_BYTES_MAX};

use super::compare::wait_until;
use super::mount::{Mount, Place, reelfs};
use super::needs::{FUSE, Test};

/// Files of several chunks, and small ones.
const CUT: Cut = Cut { inline_bytes_max: INLINE_BYTES_MAX, chunk_size_bytes: 128 << 10 };
const WRITERS: u64 = 3;
const FILES: u64 = 8;
const BACKUPS: usize = 4;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("backups::what_was_synced_before_is_in_them", &[FUSE], what_was_synced_before_is_in_them),
        Test::new("backups::the_guide_is_right", &[FUSE], the_guide_is_right),
    ]
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn run(arguments: &[&str]) -> String {
    let output = reelfs().args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    said(&output)
}

/// The bytes of the version `number` of a file: each one is another number's.
fn version(number: u64) -> Vec<u8> {
    let mut dice = fastrand::Rng::with_seed(number);
    let mut bytes = vec![0; dice.usize(1..600_000)];
    dice.fill(&mut bytes);
    bytes
}

/// Writers make files anew, write into them and remove them, and note which version of which was synced last. A backup in
/// between has each at that version or a later one.
fn what_was_synced_before_is_in_them() {
    let place = Place::new();
    let library = place.path("library");
    Local::create(&library, CUT).unwrap();
    let source = format!("library:{}", library.display());
    let mount = Mount::on(&place, &source, &[]);
    let (synced, ends) = (Mutex::new(HashMap::<String, u64>::new()), AtomicBool::new(false));
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (mount, synced, ends) = (&mount, &synced, &ends);
            scope.spawn(move || {
                for number in 1_u64.. {
                    if ends.load(Ordering::Relaxed) {
                        return;
                    }
                    let name = format!("{writer}-{}", number % FILES);
                    let number = number * WRITERS + writer;
                    write(&mount.file(&name), number, number.is_multiple_of(3));
                    synced.lock().insert(name, number);
                }
            });
        }
        let targets = Place::new();
        wait_until("some files", || synced.lock().len() as u64 >= WRITERS * FILES / 2);
        for round in 0..BACKUPS {
            let before = synced.lock().clone();
            // The first two are whole; the others bring what is new.
            let copy = targets.path(&format!("copy {}", round.min(1)));
            let told = run(&["backup", &source, &format!("{}/", copy.display())]);
            let copy_source = format!("library:{}", copy.display());
            let checked = run(&["verify", &copy_source]);
            assert!(!checked.contains("damaged:") && !checked.contains("missing:"), "{told}{checked}");
            let shown = Mount::on(&Place::new(), &copy_source, &[]);
            for (name, number) in &before {
                let bytes = fs::read(shown.file(name)).unwrap();
                let number_there = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                assert!(number_there >= *number, "{name}: {number_there}, {number} was synced before");
                assert!(bytes == numbered(number_there), "{name} at {number_there}");
            }
            shown.end();
            println!("backup {round}: {} files known, {told}", before.len());
        }
        ends.store(true, Ordering::Relaxed);
    });
    mount.end();
}

/// A version that says its number.
fn numbered(number: u64) -> Vec<u8> {
    let mut bytes = version(number);
    bytes.splice(..0, number.to_le_bytes());
    bytes
}

/// Writes a version and syncs it: under another name, which takes the place of the file, or into the file.
fn write(path: &Path, number: u64, in_place: bool) {
    let bytes = numbered(number);
    if in_place && path.exists() {
        let new = path.with_extension("part");
        fs::copy(path, &new).unwrap();
        let file = File::options().write(true).open(&new).unwrap();
        file.set_len(0).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        file.sync_all().unwrap();
        fs::rename(&new, path).unwrap();
    } else {
        let new = path.with_extension("new");
        let mut file = File::create(&new).unwrap();
        file.write_all(&bytes).unwrap();
        file.sync_all().unwrap();
        fs::rename(&new, path).unwrap();
    }
    File::open(path).unwrap().sync_all().unwrap();
}

/// What the README says of backups, typed.
fn the_guide_is_right() {
    let place = Place::new();
    let (library, copy, file) = (place.path("library"), place.path("copy"), place.path("catalog.backup"));
    let source = format!("library:{}", library.display());
    run(&["init", &source]);
    let mount = Mount::on(&place, &source, &["--backup-daily"]);
    let content: Vec<u8> = version(1).repeat(20);
    fs::write(mount.file("film.mkv"), &content).unwrap();
    fs::write(mount.file("note"), "small").unwrap();
    run(&["backup", &source, &format!("{}/", copy.display())]);
    run(&["backup", &source, file.to_str().unwrap()]);
    let day = || fs::read_dir(library.join("backups")).ok().and_then(|mut names| names.next()).is_some();
    wait_until("the daily backup", day);
    mount.end();
    // After a clean end, a copy of the one file is a copy of all names.
    assert!(!library.join("catalog.sqlite-wal").exists());
    let listed = run(&["ls", &format!("library:{}", copy.display())]);
    assert!(listed.contains("film.mkv") && listed.contains("note"), "{listed}");
    // The catalog is lost: the file brings it back.
    fs::remove_file(library.join("catalog.sqlite")).unwrap();
    fs::copy(&file, library.join("catalog.sqlite")).unwrap();
    run(&["verify", &source]);
    let mount = Mount::on(&place, &source, &[]);
    assert!(fs::read(mount.file("film.mkv")).unwrap() == content);
    mount.end();
    // It is damaged: the daily copy has more. It was made before the files were.
    let refused = reelfs().args(["backup", "kv+redb:///nowhere", file.to_str().unwrap()]).output().unwrap();
    assert!(!refused.status.success() && said(&refused).contains("reelfs copy"), "{}", said(&refused));
}
