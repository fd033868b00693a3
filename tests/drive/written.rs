//! A library in a store that is mounted read-write: files are put when they are closed, whole, or not at all.
//! Never here: libraries that nobody writes to through a drive (see `stored`), those of this machine (see `volume`), and
//! several writers of one file (see `writers`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use reelfs::config::PlacesConfig;
use reelfs::demo::generate;
use reelfs::store::keyed::Keyed;
use reelfs::store::keyed::address::Address;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use tempfile::TempDir;

use super::daemon::Daemon;
use super::homes::redis_server;
use super::mount::{Mount, Place, reelfs};
use super::needs::{FUSE, Need, Test};

const REDIS: &[Need] = &[FUSE, Need::Program("redis-server")];

/// A program that any other test starts has copies of all files for a moment, and to close one of them puts the file: what
/// is not to be put yet is written alone.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("written::into_a_file", &[FUSE], || works(&Store::file())),
        Test::new("written::into_a_folder", &[FUSE], || works(&Store::folder())),
        Test::new("written::into_redis", REDIS, || works(&Store::redis())),
        Test::new("written::a_name_is_moved_and_taken_away", &[FUSE], names),
        Test::alone("written::nobody_sees_it_before_it_is_closed", &[FUSE], closed),
        Test::new("written::a_folder_is_copied_in_and_removed", &[FUSE], trees),
        Test::alone("written::a_kill_leaves_the_old_version", &[FUSE], killed),
        Test::alone("written::a_store_that_fails_fails_the_close", REDIS, failed),
        Test::new("written::what_a_library_can_not_keep_is_refused", &[FUSE], refused),
    ]
}

/// A place for a library.
pub struct Store {
    pub url: String,
    pub server: Option<Daemon>,
    pub folder: TempDir,
}

impl Store {
    fn new(url: String, server: Option<Daemon>, folder: TempDir) -> Self {
        let store = Self { url, server, folder };
        // Small, so that files have several chunks.
        done(&["init", &store.url, "--inline-max", "64KiB", "--chunk-size", "64KiB"]);
        store
    }

    pub fn file() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::new(format!("kv+redb://{}/films.redb", folder.path().display()), None, folder)
    }

    pub fn folder() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::new(format!("kv+file://{}/films", folder.path().display()), None, folder)
    }

    pub fn redis() -> Self {
        let (folder, server, port) = redis_server();
        Self::new(format!("kv+redis://127.0.0.1:{port}/1/films"), Some(server), folder)
    }

    /// As another program has it.
    pub fn home(&self) -> Box<dyn Keyed> {
        Address::parse(self.url.strip_prefix("kv+").unwrap()).unwrap().open(&PlacesConfig::default(), false).unwrap()
    }

    pub fn is_sound(&self) {
        done(&["verify", &self.url]);
    }
}

pub fn film(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    generate(seed, 0, &mut bytes);
    bytes
}

pub fn errno<T>(done: io::Result<T>) -> Option<Errno> {
    done.err().and_then(|error| Errno::from_io_error(&error))
}

/// A command of ours must succeed.
pub fn done(arguments: &[&str]) {
    let output = reelfs().args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A program must succeed, and say nothing.
pub fn run(program: &str, arguments: &[&Path]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{program} {arguments:?}: {output:?}");
}

/// In, over, changed in place, and there after the next mount.
fn works(store: &Store) {
    let mount = Mount::new(&store.url, &[]);
    let sizes = [0, 1, 65_536, 65_537, 400_000];
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for (seed, size) in sizes.into_iter().enumerate() {
        let source = store.folder.path().join(format!("{size}.mkv"));
        fs::write(&source, film(seed as u64, size)).unwrap();
        File::options().write(true).open(&source).unwrap().set_modified(long_ago).unwrap();
        run("cp", &["-p".as_ref(), &source, &mount.point()]);
        let there = mount.file(&format!("{size}.mkv"));
        let metadata = fs::metadata(&there).unwrap();
        assert_eq!((metadata.len(), metadata.modified().unwrap()), (size as u64, long_ago));
        assert!(fs::read(&there).unwrap() == film(seed as u64, size), "{size}");
    }
    // Over the old one, in pieces from behind, and cut off.
    let over = mount.file("400000.mkv");
    let expected = film(9, 300_000);
    let file = OpenOptions::new().read(true).write(true).truncate(true).open(&over).unwrap();
    for n in (0..4).rev() {
        file.write_all_at(&expected[n * 80_000..300_000.min((n + 1) * 80_000)], n as u64 * 80_000).unwrap();
    }
    file.set_len(250_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 250_000);
    let mut read = vec![0; 1000];
    file.read_exact_at(&mut read, 200_000).unwrap();
    assert_eq!(read, expected[200_000..201_000]);
    file.sync_all().unwrap();
    drop(file);
    assert!(fs::read(&over).unwrap() == expected[..250_000]);
    // In place: what is there is fetched first.
    let mut changed = expected[..250_000].to_vec();
    changed[100_000..100_004].copy_from_slice(b"four");
    changed.extend_from_slice(b"more");
    let file = OpenOptions::new().write(true).open(&over).unwrap();
    file.write_all_at(b"four", 100_000).unwrap();
    drop(file);
    OpenOptions::new().append(true).open(&over).unwrap().write_all(b"more").unwrap();
    assert!(fs::read(&over).unwrap() == changed);
    // As a shell does it.
    let shell =
        format!("cd {0} && echo one > note && echo two >> note && : > empty && cat note", mount.point().display());
    let said = Command::new("sh").args(["-c", &shell]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "one\ntwo\n", "{said:?}");
    mount.end();

    let mount = Mount::new(&store.url, &[]);
    assert!(fs::read(mount.file("400000.mkv")).unwrap() == changed);
    assert!(fs::read(mount.file("65537.mkv")).unwrap() == film(3, 65_537));
    assert_eq!(fs::read(mount.file("note")).unwrap(), b"one\ntwo\n");
    assert_eq!(fs::metadata(mount.file("empty")).unwrap().len(), 0);
    assert_eq!(fs::metadata(mount.file("1.mkv")).unwrap().modified().unwrap(), long_ago);
    mount.end();
    store.is_sound();
}

fn names() {
    let store = Store::file();
    let mount = Mount::new(&store.url, &[]);
    let at = |name: &str| mount.file(name);
    fs::create_dir_all(at("films/new")).unwrap();
    fs::write(at("films/new/a.part"), film(1, 200_000)).unwrap();
    fs::write(at("films/a"), film(2, 100)).unwrap();
    fs::rename(at("films/new/a.part"), at("films/a")).unwrap();
    assert!(fs::read(at("films/a")).unwrap() == film(1, 200_000));
    assert_eq!(errno(fs::metadata(at("films/new/a.part"))), Some(Errno::NOENT));
    let not_over = rustix::fs::renameat_with(CWD, at("films/a"), CWD, at("films/b"), RenameFlags::NOREPLACE);
    not_over.unwrap();
    let exchanged = rustix::fs::renameat_with(CWD, at("films/b"), CWD, at("films/new"), RenameFlags::EXCHANGE);
    assert_eq!(exchanged, Err(Errno::INVAL));
    // The last file of a folder goes: the folder stays.
    fs::write(at("films/new/c"), "c").unwrap();
    assert_eq!(errno(fs::remove_dir(at("films/new"))), Some(Errno::NOTEMPTY));
    fs::remove_file(at("films/new/c")).unwrap();
    assert_eq!(fs::read_dir(at("films/new")).unwrap().count(), 0);
    fs::rename(at("films/new"), at("films/newer")).unwrap();
    fs::remove_dir(at("films/newer")).unwrap();
    // A folder with files is moved as `mv` does it between drives.
    assert_eq!(errno(fs::rename(at("films"), at("moved"))), Some(Errno::XDEV));
    run("mv", &[&at("films"), &at("moved")]);
    let names: Vec<_> = fs::read_dir(at("moved")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["b"]);
    assert!(fs::read(at("moved/b")).unwrap() == film(1, 200_000));
    assert_eq!(errno(fs::metadata(at("films"))), Some(Errno::NOENT));
    // As `rsync` does it: by the name, after it was closed.
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    run("touch", &["-c".as_ref(), "-d@1000000000".as_ref(), &at("moved/b")]);
    run("chmod", &["600".as_ref(), &at("moved/b")]);
    assert_eq!(fs::metadata(at("moved/b")).unwrap().modified().unwrap(), long_ago);
    assert!(fs::read(at("moved/b")).unwrap() == film(1, 200_000));
    // Without a name before it is closed.
    let mut file = File::create(at("temporary")).unwrap();
    fs::remove_file(at("temporary")).unwrap();
    file.write_all(b"gone").unwrap();
    drop(file);
    assert_eq!(errno(fs::metadata(at("temporary"))), Some(Errno::NOENT));
    let mut file = File::create(at("x.part")).unwrap();
    file.write_all(b"x").unwrap();
    fs::rename(at("x.part"), at("x")).unwrap();
    drop(file);
    mount.end();
    let mount = Mount::new(&store.url, &[]);
    let mut names: Vec<_> = fs::read_dir(mount.point()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["moved", "x"]);
    mount.end();
    store.is_sound();
}

fn closed() {
    let store = Store::folder();
    let mount = Mount::new(&store.url, &[]);
    let path = mount.file("film");
    let mut new = File::create(&path).unwrap();
    new.write_all(&film(1, 100_000)).unwrap();
    assert_eq!(errno(File::open(&path)), Some(Errno::NOENT));
    assert_eq!(errno(OpenOptions::new().write(true).create_new(true).open(&path)), Some(Errno::EXIST));
    drop(new);
    assert!(fs::read(&path).unwrap() == film(1, 100_000));
    // A reader of the old version has it to its end, and whoever opens it before the new one is closed.
    let mut reader = File::open(&path).unwrap();
    let mut first = vec![0; 10];
    reader.read_exact(&mut first).unwrap();
    let mut over = File::create(&path).unwrap();
    over.write_all(&film(2, 70_000)).unwrap();
    assert!(fs::read(&path).unwrap() == film(1, 100_000), "the old version");
    over.write_all(b"end").unwrap();
    drop(over);
    let new = [film(2, 70_000), b"end".to_vec()].concat();
    assert!(fs::read(&path).unwrap() == new, "the new version");
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert!([first, rest].concat() == film(1, 100_000), "one version");
    mount.end();
}

fn trees() {
    let store = Store::file();
    let mount = Mount::new(&store.url, &[]);
    let tree = store.folder.path().join("tree");
    for n in 0..40 {
        let folder = tree.join(format!("season {}", n % 4)).join("extras");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{n}.mkv")), film(n, 3_000 * n as usize)).unwrap();
    }
    fs::create_dir(tree.join("empty")).unwrap();
    run("cp", &["-a".as_ref(), &tree, &mount.point()]);
    run("diff", &["-r".as_ref(), &tree, &mount.file("tree")]);
    mount.end();
    let mount = Mount::new(&store.url, &[]);
    fs::remove_dir(tree.join("empty")).unwrap();
    run("diff", &["-r".as_ref(), &tree, &mount.file("tree")]);
    run("rm", &["-r".as_ref(), &mount.file("tree")]);
    assert_eq!(fs::read_dir(mount.point()).unwrap().count(), 0);
    mount.end();
    store.is_sound();
}

fn killed() {
    let store = Store::file();
    let place = Place::new();
    let mount = Mount::on(&place, &store.url, &[]);
    fs::write(mount.file("film"), film(1, 300_000)).unwrap();
    let mut over = File::create(mount.file("film")).unwrap();
    over.write_all(&film(2, 200_000)).unwrap();
    let mut new = File::create(mount.file("new")).unwrap();
    new.write_all(&film(3, 200_000)).unwrap();
    mount.kill();
    drop((over, new));
    let mount = Mount::on(&place, &store.url, &[]);
    assert!(fs::read(mount.file("film")).unwrap() == film(1, 300_000));
    assert_eq!(errno(fs::metadata(mount.file("new"))), Some(Errno::NOENT));
    mount.end();
    store.is_sound();
}

fn failed() {
    let mut store = Store::redis();
    let mount = Mount::new(&store.url, &[]);
    fs::write(mount.file("film"), film(1, 100_000)).unwrap();
    let mut over = File::create(mount.file("film")).unwrap();
    over.write_all(&film(2, 100_000)).unwrap();
    let mut new = File::create(mount.file("new")).unwrap();
    new.write_all(b"new").unwrap();
    drop(store.server.take());
    // A sync tells, and so does `close`, which `cp` listens to.
    assert_eq!(errno(over.sync_all()), Some(Errno::IO));
    let source = store.folder.path().join("film");
    fs::write(&source, film(3, 100)).unwrap();
    let copied = Command::new("cp").args([&source, &mount.file("another")]).output().unwrap();
    assert!(!copied.status.success(), "{copied:?}");
    drop(new);
    let log = mount.place.log();
    assert!(
        log.contains("film: not put") && log.contains("new: not put") && log.contains("another: not made"),
        "{log}"
    );
    drop(over);
    mount.end();
}

fn refused() {
    let store = Store::folder();
    let mount = Mount::new(&store.url, &[]);
    let at = |name: &str| mount.file(name);
    fs::write(at("film"), "film").unwrap();
    assert_eq!(errno(symlink("film", at("link"))), Some(Errno::OPNOTSUPP));
    assert_eq!(errno(fs::hard_link(at("film"), at("link"))), Some(Errno::OPNOTSUPP));
    let flags = rustix::fs::XattrFlags::empty();
    assert_eq!(rustix::fs::setxattr(at("film"), "user.kind", b"short", flags), Err(Errno::OPNOTSUPP));
    assert_eq!(errno(fs::write(at(&"x".repeat(256)), "")), Some(Errno::NAMETOOLONG));
    assert_eq!(errno(fs::write(at("film/below"), "")), Some(Errno::NOTDIR));
    mount.end();
    let mount = Mount::new(&store.url, &["--read-only"]);
    assert_eq!(errno(fs::write(mount.file("new"), "")), Some(Errno::ROFS));
    assert_eq!(errno(fs::remove_file(mount.file("film"))), Some(Errno::ROFS));
    mount.end();
}
