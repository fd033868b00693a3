//! Recordings that are watched, copied and followed while they are written, over servers of other people; and files that only
//! look as if they grew.
//! Never here: files that are replaced by shorter ones, or by others of their size (see `replaced`).

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use reelfs::demo::generated;

use super::compare::{check, check_whole, wait_until};
use super::daemon::{Daemon, free_port, public_folder};
use super::mount::{Mount, open_direct};
use super::needs::{FUSE, Need, Test, path};
use super::places::write;
use super::ssh;

pub const NGINX: &[Need] = &[FUSE, Need::Program("nginx")];
const RECORDER: &[Need] = &[FUSE, Need::Program("nginx"), Need::Program("ffmpeg"), Need::Program("mpv")];
pub const RCLONE: &[Need] = &[FUSE, Need::Program("rclone")];
pub const OPENSSH: &[Need] = &[FUSE, Need::Program("ssh"), Need::Program("sshd")];
/// What a recording has when it is opened.
const BEGUN: u64 = 12 << 20;
const PIECE: usize = 256 << 10;
/// Listings and stats are new after a second.
const SOON: &[&str] = &["--dir-ttl", "1"];

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("growing::read_while_it_is_written", NGINX, read_while_it_is_written),
        Test::new("growing::tail_through_http", NGINX, || followed(&Place::http())),
        Test::new("growing::tail_through_webdav", RCLONE, || followed(&Place::webdav())),
        Test::new("growing::tail_through_sftp", OPENSSH, || followed(&Place::sftp())),
        Test::new("growing::tail_of_a_folder", &[FUSE], || followed(&Place::folder())),
        Test::new("growing::a_matroska_is_played", RECORDER, || played("mkv")),
        Test::new("growing::a_transport_stream_is_played", RECORDER, || played("ts")),
        Test::new("growing::its_last_words_are_over_its_first", NGINX, its_last_words_are_over_its_first),
        Test::new("growing::replaced_by_a_longer_one", NGINX, replaced_by_a_longer_one),
    ]
}

/// A folder with one recording, and what serves it.
pub struct Place {
    home: tempfile::TempDir,
    pub source: String,
    pub options: Vec<String>,
    _daemon: Option<Daemon>,
}

impl Place {
    fn new(source: impl FnOnce(&Path, u16) -> (String, Vec<String>, Option<Daemon>)) -> Self {
        let (home, port) = (public_folder(), free_port());
        fs::create_dir(home.path().join("films")).unwrap();
        let (source, options, daemon) = source(home.path(), port);
        Self { home, source, options, _daemon: daemon }
    }

    pub fn http() -> Self {
        Self::new(|home, port| {
            let daemon = Daemon::nginx(&home.join("films"), home, "", port);
            (format!("http://127.0.0.1:{port}/"), Vec::new(), Some(daemon))
        })
    }

    pub fn webdav() -> Self {
        Self::new(|home, port| {
            let (root, address) = (home.join("films"), format!("127.0.0.1:{port}"));
            let typed = ["serve", "webdav", root.to_str().unwrap(), "--addr", &address, "--config", "/dev/null"];
            let fresh = ["--dir-cache-time", "0", "--poll-interval", "0"];
            let daemon = Daemon::start("rclone", &[&typed[..], &fresh].concat(), home, port);
            (format!("webdav://127.0.0.1:{port}/"), Vec::new(), Some(daemon))
        })
    }

    pub fn sftp() -> Self {
        Self::new(|home, port| {
            let daemon = ssh::start_sshd(home, port);
            let options = vec!["--ssh-command".to_owned(), ssh::command(home)];
            (format!("sftp://127.0.0.1:{port}{}/films", home.display()), options, Some(daemon))
        })
    }

    pub fn folder() -> Self {
        Self::new(|home, _| (home.join("films").to_str().unwrap().to_owned(), Vec::new(), None))
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.home.path().join("films").join(name)
    }

    fn mount(&self) -> Mount {
        let options: Vec<_> = self.options.iter().map(String::as_str).chain(SOON.iter().copied()).collect();
        Mount::new(&self.source, &options)
    }
}

/// Appends to a file made of `seed`, some bytes every few milliseconds, until it is dropped.
struct Recorder {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    fn start(path: &Path, seed: u64, every: Duration) -> Self {
        let is_over = Arc::<AtomicBool>::default();
        let (path, over) = (path.to_owned(), Arc::clone(&is_over));
        let record = move || {
            while !over.load(Ordering::Relaxed) {
                append(&path, seed, 100_000);
                thread::sleep(every);
            }
        };
        Self { is_over, thread: Some(thread::spawn(record)) }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn append(path: &Path, seed: u64, bytes: usize) {
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    let at = file.metadata().unwrap().len();
    file.write_all(&generated(seed, at, bytes)).unwrap();
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

/// A copy that began in the middle of a recording has all that was there when it began; a later one has more.
fn read_while_it_is_written() {
    let place = Place::http();
    let far = place.file("film.ts");
    write(&far, 5, BEGUN);
    let mount = place.mount();
    let near = mount.file("film.ts");
    let recorder = Recorder::start(&far, 5, Duration::from_millis(50));
    for open in [|path: &Path| File::open(path), open_direct] {
        let film = open(&near).unwrap();
        let begun = film.metadata().unwrap().len();
        assert!(begun >= BEGUN);
        check_whole(&film, (5, begun), PIECE).unwrap();
        wait_until("the name tells of more", || size(&near) > begun);
        wait_until("so does the open file", || film.metadata().unwrap().len() > begun + (1 << 20));
        let now = film.metadata().unwrap().len();
        check_whole(&film, (5, now), PIECE).unwrap();
    }
    // The last of what it wrote, too, is told of the file that is open.
    let film = open_direct(&near).unwrap();
    let mut bytes = vec![0; PIECE];
    for at in 0..8 {
        film.read_exact_at(&mut bytes, at << 20).unwrap();
    }
    drop(recorder);
    let whole = size(&far);
    wait_until("the open file has all of it", || film.metadata().unwrap().len() == whole);
    check_whole(&film, (5, whole), PIECE).unwrap();
    wait_until("the whole", || size(&near) == whole);
    check_whole(&File::open(&near).unwrap(), (5, whole), PIECE).unwrap();
    assert!(!mount.place.log().contains("WARN"), "{}", mount.place.log());
}

/// `tail -f` tells each line soon, also of a file that is wholly cached.
fn followed(place: &Place) {
    let far = place.file("log.txt");
    fs::write(&far, "one\n".repeat(3_000)).unwrap();
    let mount = place.mount();
    let near = mount.file("log.txt");
    assert_eq!(fs::read(&near).unwrap(), fs::read(&far).unwrap());
    let mut tail = Tail::start(&near);
    for round in 0..4 {
        let line = format!("line {round} {}\n", "x".repeat(round * 3_000));
        OpenOptions::new().append(true).open(&far).unwrap().write_all(line.as_bytes()).unwrap();
        wait_until("tail tells it", || *tail.told.lock() == fs::read(&far).unwrap());
    }
    tail.end();
    assert_eq!(fs::read(&near).unwrap(), fs::read(&far).unwrap());
    mount.end();
}

struct Tail {
    process: Child,
    told: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Tail {
    fn start(path: &Path) -> Self {
        let typed = ["-c", "+1", "-f", "-s", "0.2"];
        let mut process = Command::new("tail").args(typed).arg(path).stdout(Stdio::piped()).spawn().unwrap();
        let (mut output, told) = (process.stdout.take().unwrap(), Arc::<Mutex<Vec<u8>>>::default());
        let telling = Arc::clone(&told);
        let reader = thread::spawn(move || {
            let mut piece = vec![0; 64 << 10];
            while let Ok(count @ 1..) = output.read(&mut piece) {
                telling.lock().extend_from_slice(&piece[..count]);
            }
        });
        Self { process, told, reader: Some(reader) }
    }

    fn end(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
    }
}

/// A player begins with a recording that ffmpeg is writing, and plays what there is without an error. The finished recording
/// is byte-equal for who opens it then.
fn played(ending: &str) {
    let place = Place::http();
    let far = place.file(&format!("film.{ending}"));
    let mut recorder = Command::new("ffmpeg")
        .env("PATH", path())
        .args(["-v", "error", "-nostdin", "-re", "-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25:duration=12"])
        .args(["-c:v", "mpeg2video", "-b:v", "6M", "-flush_packets", "1", "-y"])
        .arg(&far)
        .spawn()
        .unwrap();
    wait_until("some seconds are recorded", || fs::metadata(&far).is_ok_and(|film| film.len() > 3 << 20));
    let mount = place.mount();
    let near = mount.file(far.file_name().unwrap().to_str().unwrap());
    let begun = File::open(&near).unwrap();
    let begun_bytes = begun.metadata().unwrap().len();
    let output = Command::new("mpv")
        .env("PATH", path())
        .args(["--no-config", "--vo=null", "--ao=null", "--untimed", "--msg-level=all=warn"])
        .arg(&near)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("Stale") && !said.contains("error"), "{said}");
    assert!(recorder.wait().unwrap().success());
    // Its head may have been written anew meanwhile: all the rest is what it was.
    let (mut read, wanted) = (vec![0; begun_bytes as usize], fs::read(&far).unwrap());
    begun.read_exact_at(&mut read, 0).unwrap();
    let head = 64 << 10;
    assert!(read[head..] == wanted[head..read.len()], "what came after the head differs");
    wait_until("the finished recording", || fs::read(&near).is_ok_and(|film| film == wanted));
    assert!(!mount.place.log().contains("WARN"), "{}", mount.place.log());
}

/// A recorder that writes an index at the end and a length at the beginning: who has it open reads on, and who opens it then
/// gets the new beginning, whatever was cached.
fn its_last_words_are_over_its_first() {
    let place = Place::http();
    let far = place.file("film.mkv");
    write(&far, 5, BEGUN);
    let mount = place.mount();
    let near = mount.file("film.mkv");
    let film = open_direct(&near).unwrap();
    let mut bytes = vec![0; PIECE];
    film.read_exact_at(&mut bytes, 0).unwrap();
    check(5, 0, &bytes);
    append(&far, 5, 50_000);
    let head = b"a new head".to_vec();
    OpenOptions::new().write(true).open(&far).unwrap().write_all_at(&head, 100).unwrap();
    let wanted = fs::read(&far).unwrap();
    for at in (0..BEGUN).step_by(PIECE).skip(1) {
        film.read_exact_at(&mut bytes, at).unwrap();
        check(5, at, &bytes);
    }
    wait_until("the new film", || fs::read(&near).is_ok_and(|film| film == wanted));
    let whole = fs::read(&near).unwrap();
    assert!(whole == wanted, "and it stays");
}

/// A longer file with other bytes is another file, wherever it differs; so is one that ends as zeros where the old one did.
fn replaced_by_a_longer_one() {
    for is_zeros in [false, true] {
        let place = Place::http();
        let far = place.file("film.mkv");
        let replace = |bytes: &[u8]| {
            let new = place.file("new");
            fs::write(&new, bytes).unwrap();
            fs::rename(&new, &far).unwrap();
        };
        let mut old = generated(5, 0, BEGUN as usize);
        let mut new = generated(6, 0, (BEGUN + 70_000) as usize);
        if is_zeros {
            // Both were made with their full length, and are still being filled.
            old[BEGUN as usize / 2..].fill(0);
            new[BEGUN as usize / 2..].fill(0);
        }
        replace(&old);
        let mount = place.mount();
        let near = mount.file("film.mkv");
        let film = open_direct(&near).unwrap();
        let mut bytes = vec![0; PIECE];
        film.read_exact_at(&mut bytes, 0).unwrap();
        check(5, 0, &bytes);
        replace(&new);
        let mut is_gone = false;
        for at in (0..BEGUN).step_by(PIECE) {
            match film.read_exact_at(&mut bytes, at) {
                Ok(()) => assert!(bytes[..] == old[at as usize..at as usize + PIECE], "foreign bytes at {at}"),
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}");
                    is_gone = true;
                }
            }
        }
        assert!(is_gone, "what was never fetched can't be read");
        wait_until("the new film", || fs::read(&near).is_ok_and(|film| film == new));
    }
}
