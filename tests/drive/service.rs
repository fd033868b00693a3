//! A mount as a service: in the background, under mount(8)'s name, and as systemd sees it, with a socket of ours in
//! systemd's place.
//! Never here: systemd itself (its reading of our units is in `units`).

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use fuser::{Filesystem, INodeNo, ReplyAttr, ReplyStatfs, Request};
use parking_lot::Mutex;
use reelfs::demo::{Server, ServerConfig};
use reelfs::error::Kind;
use reelfs::fuse::mount_table;
use reelfs::fuse::probe::Probe;
use reelfs::service::watchdog::Watchdog;
use rustix::process::{Pid, Signal, kill_process};

use super::compare::{check_whole, made, wait_until};
use super::dying::folder_attr;
use super::mount::{Place, reelfs};
use super::needs::{FUSE, Test};

/// For whatever has to come on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(30);

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("service::background_returns_with_a_drive", &[FUSE], background_returns_with_a_drive),
        Test::new("service::background_holds_nothing_of_its_starter", &[FUSE], background_holds_nothing_of_its_starter),
        Test::new("service::mount_calls_it_by_another_name", &[FUSE], mount_calls_it_by_another_name),
        Test::new("service::settings_come_from_a_file", &[FUSE], settings_come_from_a_file),
        Test::new("service::a_rotated_log_goes_on", &[FUSE], a_rotated_log_goes_on),
        Test::new("service::a_source_is_mounted_once", &[FUSE], a_source_is_mounted_once),
        Test::new("service::umount_tells_why_not", &[FUSE], umount_tells_why_not),
        Test::new("service::systemd_hears_of_start_life_and_end", &[FUSE], systemd_hears_of_start_life_and_end),
        Test::new(
            "service::a_drive_that_does_not_answer_has_no_pulse",
            &[FUSE],
            a_drive_that_does_not_answer_has_no_pulse,
        ),
    ]
}

fn server() -> Server {
    Server::start(ServerConfig::default().file("film.mkv", made(1, 1 << 20))).unwrap()
}

/// As it is given with a password, which the server does not ask for.
fn with_password(url: &str) -> String {
    url.replace("http://", "http://me:geheim@")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Of "… (process 123; log: …".
fn pid_in(said: &str) -> u32 {
    let (_, rest) = said.split_once("(process ").unwrap();
    rest.split(';').next().unwrap().parse().unwrap()
}

fn is_running(pid: u32) -> bool {
    // One that nobody waited for is still listed.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// The mount in the background on this place.
fn pid_on(place: &Place) -> u32 {
    let shown = format!("serve-in-background\0--\0{}\0", place.point().display());
    let is_it = |pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(&shown))
    };
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .find(is_it)
        .unwrap()
}

/// What the processes show that name this place among their arguments; other tests type passwords, too.
fn shown_by_ps(place: &Place) -> String {
    let point = place.point();
    let processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    let lines = processes.map(|line| String::from_utf8_lossy(&line).into_owned());
    lines.filter(|line| line.contains(point.to_str().unwrap())).collect()
}

fn check_film(place: &Place) {
    check_whole(&fs::File::open(place.point().join("film.mkv")).unwrap(), (1, 1 << 20), 1 << 20).unwrap();
}

fn unmount_and_wait(place: &Place, pid: u32) {
    // A program that another test starts holds copies of our descriptors until its exec: the drive may be busy for a moment.
    wait_until("that nothing holds the drive", || match reelfs::fuse::mount_point::unmount(&place.point(), false) {
        Err(error) if error.kind() == Kind::Busy => false,
        unmounted => unmounted.map(|()| true).unwrap(),
    });
    wait_until("the end of the process", || !is_running(pid));
}

fn background_returns_with_a_drive() {
    let (place, server) = (Place::new(), server());
    let log = place.path("log");
    let output = reelfs()
        .args(["mount", "--background", "-vv", &with_password(&server.url())])
        .arg(place.point())
        .arg("--cache-dir")
        .arg(place.cache())
        .arg("--log-file")
        .arg(&log)
        .output()
        .unwrap();
    let line = said(&output);
    assert!(output.status.success(), "{line}");
    // At once: it has returned.
    check_film(&place);
    assert!(line.contains(log.to_str().unwrap()) && line.lines().count() == 1, "{line}");
    let pid = pid_in(&line);
    let table = fs::read("/proc/self/mountinfo").unwrap();
    let shown = format!("{line}{}{}", place.log(), mount_table::topmost(&table, &place.point()).unwrap().source);
    assert!(!shown.contains("geheim"), "{shown}");
    let processes = shown_by_ps(&place);
    assert!(!processes.is_empty() && !processes.contains("geheim"), "{processes}");
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::TERM).unwrap();
    wait_until("the end of the process", || !is_running(pid));
    assert!(!place.is_mounted());
    assert!(place.log().contains("unmounting"), "{}", place.log());
}

/// Whoever waits for the end of its output, for its folder or for its lock does not wait for the drive.
fn background_holds_nothing_of_its_starter() {
    let (place, server) = (Place::new(), server());
    let output = Command::new("sh")
        .args(["-c", "exec 9>lock; \"$0\" mount --background \"$1\" mnt --cache-dir cache --log-file log"])
        .args([env!("CARGO_BIN_EXE_reelfs"), &server.url()])
        .current_dir(place.path(""))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let line = said(&output);
    assert!(output.status.success(), "{line}");
    let pid = pid_in(&line);
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
    let held = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    let lock = place.path("lock");
    assert!(!held.into_iter().any(|file| file.ends_with(lock.file_name().unwrap()) && file.parent() == lock.parent()));
    // Relative places are still the ones that were meant.
    check_film(&place);
    assert!(place.cache().join("index.sqlite").exists());
    unmount_and_wait(&place, pid);
}

fn mount_calls_it_by_another_name() {
    let (place, server) = (Place::new(), server());
    let helper = place.path("mount.fuse.reelfs");
    symlink(env!("CARGO_BIN_EXE_reelfs"), &helper).unwrap();
    let options = format!(
        "rw,noatime,_netdev,uid=1234,log_file={},cache_dir={}",
        place.path("log").display(),
        place.cache().display()
    );
    let mut command = Command::new(&helper);
    let output = command.arg(with_password(&server.url())).arg(place.point()).args(["-o", &options]).output().unwrap();
    assert!(output.status.success() && said(&output).is_empty(), "{}", said(&output));
    check_film(&place);
    let metadata = fs::metadata(place.point().join("film.mkv")).unwrap();
    assert_eq!(metadata.uid(), 1234);
    assert!(!shown_by_ps(&place).contains("geheim"));
    unmount_and_wait(&place, pid_on(&place));
}

/// Typed before the environment, that before the file.
fn settings_come_from_a_file() {
    let (place, server) = (Place::new(), server());
    let file = place.path("films.toml");
    let text = format!(
        "source = \"{}\"\nuid = 11\ngid = 12\numask = 0o077\ncache-dir = \"{}\"\nlog-file = \"{}\"\n",
        with_password(&server.url()),
        place.cache().display(),
        place.path("log").display()
    );
    fs::write(&file, text).unwrap();
    let mut command = reelfs();
    command.args(["mount", "--background", "--uid=1", "--config"]).arg(&file).arg(place.point());
    let output = command.env("REELFS_UID", "2").env("REELFS_GID", "3").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("chmod 600") && !said(&output).contains("geheim"), "{}", said(&output));
    check_film(&place);
    let metadata = fs::metadata(place.point().join("film.mkv")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o777), (1, 3, 0o400));
    unmount_and_wait(&place, pid_in(&said(&output)));
}

/// As logrotate does: renamed, and then told so.
fn a_rotated_log_goes_on() {
    let (place, server) = (Place::new(), server());
    let (log, old) = (place.path("log"), place.path("log.1"));
    let output = reelfs()
        .args(["mount", "--background", "-v", &server.url()])
        .arg(place.point())
        .arg("--cache-dir")
        .arg(place.cache())
        .arg("--log-file")
        .arg(&log)
        .env("XDG_RUNTIME_DIR", place.runtime())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let pid = pid_in(&said(&output));
    fs::rename(&log, &old).unwrap();
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::HUP).unwrap();
    wait_until("a new log", || place.log().contains("asked for anew"));
    assert!(!fs::read_to_string(&old).unwrap().contains("asked for anew"));
    assert_eq!(fs::metadata(&log).unwrap().mode() & 0o077, 0);
    unmount_and_wait(&place, pid);
}

/// One source in two spellings is one cache, which one mount has; the other one is told where.
fn a_source_is_mounted_once() {
    let (place, server) = (Place::new(), server());
    let second = place.path("second");
    fs::create_dir(&second).unwrap();
    let mount = |source: &str, point: &Path| {
        let mut command = reelfs();
        command.args(["mount", "--background", source]).arg(point).arg("--log-file").arg(place.path("log"));
        command.env("XDG_RUNTIME_DIR", place.runtime()).env("XDG_CACHE_HOME", place.path("caches"));
        command.output().unwrap()
    };
    let first = mount(&server.url(), &place.point());
    assert!(first.status.success(), "{}", said(&first));
    let other_spelling = format!("HTTP://127.0.0.1:{}/./#films", server.address().port());
    let refused = mount(&other_spelling, &second);
    let line = said(&refused);
    assert_eq!(refused.status.code(), Some(4), "{line}");
    assert!(line.contains(&format!("mounted already, on {}", place.point().display())), "{line}");
    assert_eq!(fs::read_dir(place.path("caches/reelfs")).unwrap().count(), 1);
    unmount_and_wait(&place, pid_in(&said(&first)));
    // What is wrong in the command is no failure of the mount.
    let misused =
        reelfs().args(["mount", "--background", "--cache-size=5", &server.url()]).arg(&second).output().unwrap();
    assert!(misused.status.code() == Some(2) && said(&misused).contains("at least"), "{}", said(&misused));
}

fn umount_tells_why_not() {
    let (place, server) = (Place::new(), server());
    let output = reelfs()
        .args(["mount", "--background", &server.url()])
        .arg(place.point())
        .arg("--cache-dir")
        .arg(place.cache())
        .arg("--log-file")
        .arg(place.path("log"))
        .env("XDG_RUNTIME_DIR", place.runtime())
        .output()
        .unwrap();
    let pid = pid_in(&said(&output));
    let umount = |typed: &[&str]| {
        let mut command = reelfs();
        command.arg("umount").args(typed).env("XDG_RUNTIME_DIR", place.runtime()).output().unwrap()
    };
    let point = place.point().to_str().unwrap().to_owned();
    let film = fs::File::open(place.point().join("film.mkv")).unwrap();
    let busy = umount(&[&point]);
    assert!(busy.status.code() == Some(4) && said(&busy).contains("--lazy"), "{}", said(&busy));
    assert!(place.is_mounted());
    let missing = umount(&[&format!("{point}/none")]);
    assert!(missing.status.code() == Some(1) && said(&missing).lines().count() == 1, "{}", said(&missing));
    assert!(umount(&["--lazy", &point]).status.success() && !place.is_mounted());
    drop(film);
    wait_until("the end of the process", || !is_running(pid));
    let other = umount(&["/proc"]);
    assert!(other.status.code() == Some(2) && said(&other).contains("no reelfs"), "{}", said(&other));
}

/// What systemd would hear.
struct Manager(UnixDatagram);

impl Manager {
    fn new(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// The next message that has `word` on a line of its own.
    fn hears(&self, word: &str) -> String {
        loop {
            let mut message = [0; 4096];
            let len = self.0.recv(&mut message).unwrap_or_else(|error| panic!("no {word}: {error}"));
            let message = String::from_utf8_lossy(&message[..len]).into_owned();
            if message.lines().any(|line| line == word) {
                return message;
            }
        }
    }

    /// Forgets what was said until now.
    fn forget(&self) {
        self.0.set_nonblocking(true).unwrap();
        while self.0.recv(&mut [0; 4096]).is_ok() {}
        self.0.set_nonblocking(false).unwrap();
    }
}

fn systemd_hears_of_start_life_and_end() {
    let (place, server) = (Place::new(), server());
    let socket = place.path("notify");
    let manager = Manager::new(&socket);
    let mut process = Process(
        reelfs()
            .args(["mount", &with_password(&server.url())])
            .arg(place.point())
            .arg("--cache-dir")
            .arg(place.cache())
            .env("NOTIFY_SOCKET", &socket)
            .env("WATCHDOG_USEC", "600000")
            .stderr(fs::File::create(place.path("log")).unwrap())
            .spawn()
            .unwrap(),
    );
    let ready = manager.hears("READY=1");
    check_film(&place);
    assert!(ready.contains("STATUS=http://127") && !ready.contains("geheim"), "{ready}");
    manager.hears("WATCHDOG=1");
    // A far side that hangs does not stop it.
    server.set_hanging(true);
    manager.forget();
    for _ in 0..5 {
        manager.hears("WATCHDOG=1");
    }
    kill_process(Pid::from_child(&process.0), Signal::TERM).unwrap();
    manager.hears("STOPPING=1");
    assert!(process.0.wait().unwrap().success(), "{}", place.log());
    assert!(!place.is_mounted());
}

/// Ended with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder whose program stops answering when it is told to, as one whose threads are stuck.
#[derive(Clone, Default)]
struct Stuck {
    is_stuck: Arc<AtomicBool>,
    // What was asked meanwhile.
    held: Arc<Mutex<Vec<ReplyStatfs>>>,
}

impl Filesystem for Stuck {
    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<fuser::FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &folder_attr(ino));
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        if self.is_stuck.load(Ordering::SeqCst) {
            self.held.lock().push(reply);
        } else {
            reply.statfs(1, 0, 0, 1, 0, 512, 255, 512);
        }
    }
}

fn a_drive_that_does_not_answer_has_no_pulse() {
    let place = Place::new();
    let folder = Stuck::default();
    let session = fuser::spawn_mount(folder.clone(), place.point(), &fuser::Config::default()).unwrap();
    let beats = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&beats);
    let beat = move || {
        counted.fetch_add(1, Ordering::SeqCst);
    };
    let probe = Probe::with_program(Path::new(env!("CARGO_BIN_EXE_reelfs")), &place.point());
    let watchdog = Watchdog::start(probe, Duration::from_millis(300), beat).unwrap();
    wait_until("a pulse", || beats.load(Ordering::SeqCst) > 2);
    folder.is_stuck.store(true, Ordering::SeqCst);
    wait_until("a question that is held", || !folder.held.lock().is_empty());
    let until_then = beats.load(Ordering::SeqCst);
    // Three times as long as systemd would wait.
    thread::sleep(Duration::from_millis(900));
    assert_eq!(beats.load(Ordering::SeqCst), until_then);
    assert_eq!(folder.held.lock().len(), 1, "it is asked once, however long it takes");
    folder.is_stuck.store(false, Ordering::SeqCst);
    // The kernel gets an error for it.
    folder.held.lock().clear();
    wait_until("a pulse again", || beats.load(Ordering::SeqCst) > until_then);
    drop(watchdog);
    session.umount_and_join().unwrap();
}
