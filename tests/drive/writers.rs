//! Several writers of one file of a library in a store: of one drive, of two machines, and while its name changes.
//! Never here: what one writer may expect (see `written`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{TryRecvError, bounded};
use rustix::io::Errno;
use rustix::process::Signal;

use super::mount::Mount;
use super::needs::{FUSE, Need, Test};
use super::written::{Store, done, errno, film, run};

const REDIS: &[Need] = &[FUSE, Need::Program("redis-server")];
/// Until the requests that a server does not answer have come to it. A shorter one proves less, and breaks nothing.
const UNDER_WAY: Duration = Duration::from_millis(300);

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("writers::all_wait_for_what_one_fetches", REDIS, fetched_together),
        Test::new("writers::two_append_to_one_file", &[FUSE], appended),
        Test::new("writers::what_another_machine_has_put_stays", &[FUSE], elsewhere),
        Test::new("writers::a_name_changes_while_a_file_is_closed", REDIS, renamed),
        Test::new("writers::a_folder_is_moved_with_what_is_written_in_it", &[FUSE], moved),
        Test::new("writers::a_time_is_set_while_a_file_is_put", REDIS, timed),
        Test::new("writers::a_file_that_is_emptied_is_put_by_its_close", REDIS, emptied),
        Test::new("writers::what_was_closed_is_what_its_name_shows", REDIS, shown),
    ]
}

/// A file by its number, so that all opens are of the same one.
struct Number(File);

impl Number {
    fn of(path: &Path) -> Self {
        Self(OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).unwrap())
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

/// What four that open a file at once read of it, while the server keeps them waiting.
fn read_together(store: &Store, number: &Number) -> Vec<io::Result<Vec<u8>>> {
    let server = store.server.as_ref().unwrap();
    server.send(Signal::STOP);
    thread::scope(|scope| {
        let read = || {
            let mut bytes = Vec::new();
            number.open()?.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let readers: Vec<_> = (0..4).map(|_| scope.spawn(read)).collect();
        thread::sleep(UNDER_WAY);
        server.send(Signal::CONT);
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    })
}

fn fetched_together() {
    let store = Store::redis();
    let mount = Mount::new(&store.url, &[]);
    fs::write(mount.file("film"), film(1, 300_000)).unwrap();
    for read in read_together(&store, &Number::of(&mount.file("film"))) {
        assert!(read.unwrap() == film(1, 300_000));
    }
    // One that can't be changed in place: a hole, so that it is nowhere.
    let manifest = r#"{"totalSize":2147483648,"chunkCount":1,"actualChunkSizes":[2147483648],"reelfs":{"version":1,
        "sha256":[null],"chunkPrefix":".reelfs/chunks/00112233445566778899aabbccddeeff",
        "modified":"2001-09-09T01:46:40Z","created":"2001-09-09T01:46:40Z"}}"#;
    store.home().put(&[("huge".to_owned(), manifest.into())]).unwrap();
    mount.end();
    let mount = Mount::new(&store.url, &[]);
    let number = Number::of(&mount.file("huge"));
    for read in read_together(&store, &number) {
        assert_eq!(errno(read), Some(Errno::OPNOTSUPP));
    }
    drop(number);
    assert_eq!(fs::metadata(mount.file("huge")).unwrap().len(), 2 << 30);
    mount.end();
    let mount = Mount::new(&store.url, &[]);
    assert_eq!(fs::metadata(mount.file("huge")).unwrap().len(), 2 << 30, "nothing was put");
    mount.end();
}

fn append(path: &Path) -> File {
    OpenOptions::new().append(true).create(true).open(path).unwrap()
}

fn appended() {
    let store = Store::file();
    let mount = Mount::new(&store.url, &[]);
    let path = mount.file("log");
    let mut one = append(&path);
    one.write_all(b"1").unwrap();
    one.sync_all().unwrap();
    let mut two = append(&path);
    two.write_all(b"2").unwrap();
    one.write_all(b"3").unwrap();
    one.sync_all().unwrap();
    let mut three = append(&path);
    two.write_all(b"4").unwrap();
    drop((one, two));
    three.write_all(b"5").unwrap();
    assert_eq!(three.metadata().unwrap().len(), 5);
    drop(three);
    assert_eq!(fs::read(&path).unwrap(), b"12345");
    mount.end();
    store.is_sound();
}

/// Another machine's puts are those of another program.
fn elsewhere() {
    let store = Store::folder();
    let put = |name: &str, text: &str| {
        let source = store.folder.path().join("source");
        fs::write(&source, text).unwrap();
        done(&["put", source.to_str().unwrap(), &format!("{}/{name}", store.url)]);
    };
    put("log", "old ");
    let mount = Mount::new(&store.url, &["--dir-ttl", "3600"]);
    let at = |name: &str| mount.file(name);
    let names = || fs::read_dir(mount.point()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(names(), ["log"]);
    // What the listing does not have yet.
    for name in ["only", "grown", "cut"] {
        put(name, "theirs ");
    }
    assert_eq!(errno(OpenOptions::new().write(true).create_new(true).open(at("only"))), Some(Errno::EXIST));
    append(&at("grown")).write_all(b"ours").unwrap();
    fs::write(at("cut"), "ours").unwrap();
    // What comes while a file is open.
    let mut log = append(&at("log"));
    let mut late = File::create(at("late")).unwrap();
    put("log", "theirs ");
    put("late", "theirs ");
    for file in [&mut log, &mut late] {
        file.write_all(b"ours").unwrap();
        assert_eq!(errno(file.sync_all()), Some(Errno::STALE));
    }
    drop((log, late));
    mount.end();
    let mount = Mount::new(&store.url, &[]);
    let read = |name: &str| fs::read_to_string(mount.file(name)).unwrap();
    let texts = ["only", "grown", "cut", "log", "late"].map(read);
    assert_eq!(texts, ["theirs ", "theirs ours", "ours", "theirs ", "theirs "]);
    mount.end();
}

/// Both at once, in this order, while the server keeps them waiting.
fn together(store: &Store, first: impl FnOnce() + Send, second: impl FnOnce() + Send) {
    let server = store.server.as_ref().unwrap();
    server.send(Signal::STOP);
    thread::scope(|scope| {
        scope.spawn(first);
        thread::sleep(UNDER_WAY);
        scope.spawn(second);
        thread::sleep(UNDER_WAY);
        server.send(Signal::CONT);
    });
}

fn renamed() {
    let store = Store::redis();
    let mount = Mount::new(&store.url, &[]);
    let open = |name: &str| {
        fs::write(mount.file(name), "old").unwrap();
        let mut file = OpenOptions::new().write(true).open(mount.file(name)).unwrap();
        file.write_all(b"new").unwrap();
        file
    };
    let unlink = |name: &str| fs::remove_file(mount.file(name)).unwrap();
    let rename = |from: &str, to: &str| fs::rename(mount.file(from), mount.file(to)).unwrap();
    let file = open("gone");
    together(&store, || unlink("gone"), || drop(file));
    let file = open("gone too");
    together(&store, || drop(file), || unlink("gone too"));
    let file = open("moved from");
    together(&store, || rename("moved from", "moved to"), || drop(file));
    let file = open("moved too from");
    together(&store, || drop(file), || rename("moved too from", "moved too to"));
    // Opened while its name is taken away: of what has no name nothing is put.
    for is_truncated in [false, true] {
        let path = mount.file("gone while opened");
        fs::write(&path, "old").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let open = || OpenOptions::new().write(true).truncate(is_truncated).open(&path);
        together(&store, || unlink("gone while opened"), || assert_eq!(errno(open()), Some(Errno::NOENT)));
    }
    mount.end();
    let mount = Mount::new(&store.url, &[]);
    let mut names: Vec<_> = fs::read_dir(mount.point()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["moved to", "moved too to"]);
    for name in names {
        assert_eq!(fs::read(mount.point().join(name)).unwrap(), b"new");
    }
    mount.end();
    store.is_sound();
}

fn moved() {
    let store = Store::file();
    let mount = Mount::new(&store.url, &[]);
    fs::create_dir_all(mount.file("a/deep")).unwrap();
    let mut file = File::create(mount.file("a/deep/x")).unwrap();
    fs::rename(mount.file("a"), mount.file("b")).unwrap();
    file.write_all(b"x").unwrap();
    drop(file);
    assert_eq!(fs::read(mount.file("b/deep/x")).unwrap(), b"x");
    assert_eq!(errno(fs::metadata(mount.file("a"))), Some(Errno::NOENT));
    mount.end();
    let mount = Mount::new(&store.url, &[]);
    let names: Vec<_> = fs::read_dir(mount.point()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["b"]);
    mount.end();
}

fn timed() {
    let store = Store::redis();
    let mount = Mount::new(&store.url, &[]);
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let mut file = File::create(mount.file("film")).unwrap();
    file.write_all(&film(1, 100_000)).unwrap();
    // Not by a sync: the kernel lets nobody change a file meanwhile.
    let twin = file.try_clone().unwrap();
    together(&store, || drop(twin), || file.set_modified(long_ago).unwrap());
    drop(file);
    mount.end();
    let mount = Mount::new(&store.url, &[]);
    assert_eq!(fs::metadata(mount.file("film")).unwrap().modified().unwrap(), long_ago);
    mount.end();
}

fn shown() {
    let store = Store::redis();
    let mount = Mount::new(&store.url, &[]);
    let film = mount.file("film");
    fs::write(&film, "").unwrap();
    thread::scope(|scope| {
        let (goes_on, ended) = bounded::<()>(0);
        // The kernel forgets a name when nobody looks for another one in the same folder.
        let folder = mount.point();
        scope.spawn(move || {
            let mut n = 0;
            while ended.try_recv() == Err(TryRecvError::Empty) {
                let _ = fs::metadata(folder.join(format!("nobody {n}")));
                n += 1;
            }
        });
        for len in (1..=300).rev() {
            // Known by its name, so that there is something to forget.
            fs::metadata(&film).unwrap();
            fs::write(&film, vec![1; len]).unwrap();
            // A close that nobody waits for comes behind the one that somebody does.
            thread::sleep(Duration::from_millis(len as u64 % 2));
            assert_eq!(fs::metadata(&film).unwrap().len(), len as u64);
            assert_eq!(fs::read(&film).unwrap().len(), len);
        }
        drop(goes_on);
    });
    mount.end();
}

fn emptied() {
    let mut store = Store::redis();
    let mount = Mount::new(&store.url, &[]);
    fs::write(mount.file("film"), film(1, 100)).unwrap();
    assert_eq!(fs::metadata(mount.file("film")).unwrap().len(), 100);
    run("cp", &["/dev/null".as_ref(), &mount.file("film")]);
    assert_eq!(fs::metadata(mount.file("film")).unwrap().len(), 0);
    fs::write(mount.file("film"), film(1, 100)).unwrap();
    assert_eq!(fs::metadata(mount.file("film")).unwrap().len(), 100);
    drop(store.server.take());
    let copied = Command::new("cp").args(["/dev/null".as_ref(), mount.file("film").as_path()]).output().unwrap();
    assert!(!copied.status.success(), "{copied:?}");
    mount.end();
}
