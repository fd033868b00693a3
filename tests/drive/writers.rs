//! Several writers of one file of a library in a store: of one drive, of two machines, and while its name changes.
//! Never here: what one writer may expect (see `written`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Signal;

use super::mount::Mount;
use super::needs::{FUSE, Need, Test};
use super::written::{Store, errno, film};

const REDIS: &[Need] = &[FUSE, Need::Program("redis-server")];
/// Until the requests that a server does not answer have come to it. A shorter one proves less, and breaks nothing.
const UNDER_WAY: Duration = Duration::from_millis(300);

pub fn tests() -> Vec<Test> {
    vec![Test::new("writers::all_wait_for_what_one_fetches", REDIS, fetched_together)]
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
