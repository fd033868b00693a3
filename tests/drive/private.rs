//! What reelfs keeps is its owner's alone, whatever the umask; what an earlier version left open is closed at the next
//! start; and `--group-read` opens it to a group.
//! Never here: modes of files on a drive.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use reelfs::library::local::Local;

use super::compare::wait_until;
use super::mount::{Mount, Place};
use super::needs::{FUSE, Test};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("private::a_cache_is_its_owners_alone", &[FUSE], cache),
        Test::new("private::a_library_is_its_owners_alone", &[FUSE], library),
        Test::new("private::a_put_makes_private_files_under_any_umask", &[], put),
    ]
}

/// Whether links lead out of it or not, what is at and below `top`.
fn all(top: &Path) -> Vec<PathBuf> {
    let mut found = vec![top.to_owned()];
    if top.is_dir() {
        found.extend(fs::read_dir(top).unwrap().flat_map(|entry| all(&entry.unwrap().path())));
    }
    found
}

/// Bits that others, and the group, have of anything at or below `top`.
fn open_bits(top: &Path) -> u32 {
    all(top).iter().map(|path| fs::metadata(path).unwrap().mode() & 0o077).fold(0, |all, one| all | one)
}

/// As an earlier version left it, under the usual umask.
fn open_up(top: &Path) {
    for path in all(top) {
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }
}

/// What the group has of folders and files.
fn assert_group_reads(top: &Path) {
    for path in all(top) {
        let expected = if path.is_dir() { 0o050 } else { 0o040 };
        let mode = fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o077, expected, "{}: {mode:o}", path.display());
    }
}

fn cache() {
    let place = Place::new();
    let (source, kept, log) = (place.path("films"), place.cache(), place.path("reelfs.log"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("film.mkv"), vec![7; 3 << 20]).unwrap();
    let source = source.to_str().unwrap();
    // Looked at while it is mounted: the journals, too.
    let mounted = |options: &[&str], look: &dyn Fn()| {
        let mount = Mount::on(&place, source, options);
        assert_eq!(fs::read(mount.file("film.mkv")).unwrap().len(), 3 << 20);
        let is_kept = || all(&kept.join("entries")).iter().any(|path| path.is_file());
        wait_until("the film is in the cache", is_kept);
        look();
        mount.end();
    };
    mounted(&["--log-file", log.to_str().unwrap()], &|| {
        assert_eq!(open_bits(&kept), 0, "{:?}", all(&kept));
        assert!(kept.join("index.sqlite-wal").exists());
        assert_eq!(fs::metadata(&log).unwrap().mode() & 0o777, 0o600);
        assert_eq!(open_bits(&place.runtime().join("reelfs")), 0, "the socket");
    });
    open_up(&kept);
    fs::set_permissions(&log, Permissions::from_mode(0o644)).unwrap();
    mounted(&["--log-file", log.to_str().unwrap()], &|| {
        assert_eq!(open_bits(&kept) | open_bits(&log), 0);
    });
    mounted(&["--group-read"], &|| assert_group_reads(&kept));
    mounted(&[], &|| assert_eq!(open_bits(&kept), 0));
}

fn library() {
    let place = Place::new();
    let kept = place.path("library");
    let source = format!("library:{}", kept.display());
    let reelfs = |arguments: &[&str]| {
        let done = super::mount::reelfs().args(arguments).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    reelfs(&["init", &source]);
    let mounted = |options: &[&str], name: &str| {
        let mount = Mount::on(&place, &source, options);
        fs::write(mount.file(name), name.repeat(200_000)).unwrap();
        fs::write(mount.file(&format!("{name}.txt")), "small").unwrap();
        let bits = open_bits(&kept);
        mount.end();
        bits
    };
    assert_eq!(mounted(&[], "one"), 0);
    open_up(&kept);
    assert_eq!(mounted(&[], "two"), 0);
    // Also where it is only looked at.
    open_up(&kept);
    Mount::on(&place, &source, &["--read-only"]).end();
    assert_eq!(open_bits(&kept), 0);
    // What is given to the group stays given, also to what other commands make.
    mounted(&["--group-read"], "three");
    assert_group_reads(&kept.join("blobs"));
    mounted(&[], "four");
    reelfs(&["put", kept.join("lock").to_str().unwrap(), &source]);
    assert_group_reads(&kept);
    drop(Local::open(&kept).unwrap());
    assert_group_reads(&kept);
    fs::set_permissions(&kept, Permissions::from_mode(0o700)).unwrap();
    assert_eq!(mounted(&[], "five"), 0);
}

fn put() {
    let temp = tempfile::tempdir().unwrap();
    let film = temp.path().join("film.mkv");
    fs::write(&film, vec![1; 200_000]).unwrap();
    let path = |name: &str| temp.path().join(name);
    for umask in ["000", "077"] {
        let reelfs = |arguments: &[&str]| {
            let script = format!("umask {umask}; exec \"$0\" \"$@\"");
            let mut command = Command::new("sh");
            let done = command.args(["-c", &script, env!("CARGO_BIN_EXE_reelfs")]).args(arguments).output().unwrap();
            assert!(done.status.success(), "{done:?}");
        };
        let homes = ["library:", "kv+file://", "kv+redb://"];
        for (n, home) in homes.iter().enumerate() {
            let kept = path(&format!("{umask}/{n}"));
            let library = format!("{home}{}", kept.display());
            fs::create_dir_all(path(umask)).unwrap();
            let sizes = ["--inline-max", "4KiB", "--chunk-size", "64KiB"];
            reelfs(&[&["init", &library][..], &sizes].concat());
            reelfs(&["put", film.to_str().unwrap(), &library]);
            assert!(all(&kept).iter().any(|path| path.is_file()));
            assert_eq!(open_bits(&kept), 0, "{library} {umask}");
            let shared = format!("{library}-group");
            reelfs(&[&["init", &shared, "--group-read"][..], &sizes].concat());
            reelfs(&["put", film.to_str().unwrap(), &shared]);
            assert_group_reads(&path(&format!("{umask}/{n}-group")));
        }
    }
}
