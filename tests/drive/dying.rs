//! Real mounts whose program dies: what is left on the mount point, who takes it off, and what is never touched.
//! The mounts are of an empty filesystem, served by this test's own binary started again, so that it can be killed.
//! Never here: the drive.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use fuser::{Errno, FileAttr, FileType, Filesystem, INodeNo, MountOption, Notifier, ReplyAttr, ReplyEntry, Request};
use parking_lot::Mutex;
use reelfs::error::Kind;
use reelfs::fuse::mount_point;
use reelfs::fuse::mount_table::{SUBTYPE, escape_fsname, topmost};
use reelfs::fuse::reaper::Reaper;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::compare::wait_until;
use super::late::Machine;
use super::mount::end_connection;
use super::needs::{FUSE, Need, Test};

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("dying::a_program_that_is_killed_is_unmounted", &[FUSE], a_program_that_is_killed_is_unmounted),
        Test::new(
            "dying::a_program_that_is_killed_is_unmounted_while_somebody_is_inside",
            &[FUSE],
            a_program_that_is_killed_is_unmounted_while_somebody_is_inside,
        ),
        Test::new(
            "dying::an_orderly_end_leaves_nothing_and_waits_for_nobody",
            &[FUSE],
            an_orderly_end_leaves_nothing_and_waits_for_nobody,
        ),
        Test::new(
            "dying::what_a_dead_run_left_is_taken_off_at_the_next_start",
            &[FUSE],
            what_a_dead_run_left_is_taken_off_at_the_next_start,
        ),
        Test::new(
            "dying::a_program_that_is_killed_and_cannot_end_is_unmounted",
            &[FUSE, Need::Root],
            a_program_that_is_killed_and_cannot_end_is_unmounted,
        ),
        Test::new(
            "dying::a_program_that_is_stopped_keeps_its_mount",
            &[FUSE],
            a_program_that_is_stopped_keeps_its_mount,
        ),
        Test::new(
            "dying::a_program_at_work_meets_the_end_of_a_drive",
            &[FUSE],
            a_program_at_work_meets_the_end_of_a_drive,
        ),
        Test::new("dying::a_live_mount_is_left_alone", &[FUSE], a_live_mount_is_left_alone),
        Test::new(
            "dying::a_dead_mount_of_another_program_is_left_alone",
            &[FUSE],
            a_dead_mount_of_another_program_is_left_alone,
        ),
        Test::new(
            "dying::a_program_that_is_killed_behind_a_newer_mount_leaves_it_alone",
            &[FUSE],
            a_program_that_is_killed_behind_a_newer_mount_leaves_it_alone,
        ),
        Test::new(
            "dying::the_mount_table_shows_the_source_without_secrets_and_options_of_its_own",
            &[FUSE],
            the_mount_table_shows_the_source_without_secrets_and_options_of_its_own,
        ),
    ]
}

/// Set for the process that serves: where, and how.
const SERVE_ON: &str = "REELFS_TEST_SERVE_ON";
const SERVE_WITHOUT_REAPER: &str = "REELFS_TEST_WITHOUT_REAPER";
const SERVE_AS: &str = "REELFS_TEST_SERVE_AS";
const SERVE_HANGING: &str = "REELFS_TEST_SERVE_HANGING";

/// An empty folder whose attributes the kernel may remember for an hour: longer than its program lives.
#[derive(Default)]
struct Empty {
    // Names are never looked up to an end. Meanwhile the kernel is told of another name, and has a thread of this program wait
    // for the lock that the program which asked holds.
    hangs: bool,
    notifier: Arc<OnceLock<Notifier>>,
    unanswered: Mutex<Vec<ReplyEntry>>,
}

impl Filesystem for Empty {
    fn lookup(&self, _request: &Request, parent: INodeNo, _name: &OsStr, reply: ReplyEntry) {
        if !self.hangs {
            return reply.error(Errno::ENOENT);
        }
        self.unanswered.lock().push(reply);
        let notifier = self.notifier.get().unwrap().clone();
        thread::spawn(move || notifier.inval_entry(parent, "another".as_ref()));
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<fuser::FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::from_hours(1), &folder_attr(ino));
    }
}

/// What such a folder's attributes are.
pub fn folder_attr(ino: INodeNo) -> FileAttr {
    let time = SystemTime::UNIX_EPOCH;
    // A user may mount over a folder of their own only.
    let (uid, gid) = reelfs::sys::invoking_user();
    FileAttr {
        ino,
        size: 0,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: FileType::Directory,
        perm: 0o755,
        nlink: 2,
        uid,
        gid,
        rdev: 0,
        blksize: 512,
        flags: 0,
    }
}

/// The process that the tests below start and kill; `false` if this isn't it.
pub fn serve() -> bool {
    let Some(path) = std::env::var_os(SERVE_ON).map(PathBuf::from) else { return false };
    let mut reaper = std::env::var_os(SERVE_WITHOUT_REAPER)
        .is_none()
        .then(|| Reaper::start_program(Path::new(env!("CARGO_BIN_EXE_reelfs")), &path).unwrap());
    let mut config = fuser::Config::default();
    let subtype = std::env::var(SERVE_AS).unwrap_or(SUBTYPE.to_owned());
    config.mount_options = vec![
        MountOption::RO,
        MountOption::FSName(escape_fsname("http://u:secret@host/a,dev b")),
        MountOption::CUSTOM(format!("subtype={subtype}")),
    ];
    let notifier = Arc::<OnceLock<Notifier>>::default();
    let empty =
        Empty { hangs: std::env::var_os(SERVE_HANGING).is_some(), notifier: Arc::clone(&notifier), ..Empty::default() };
    let session = fuser::Session::new(empty, &path, &config).unwrap();
    let _ = notifier.set(session.notifier());
    let session = session.spawn().unwrap();
    if let Some(reaper) = &mut reaper {
        reaper.mounted();
    }
    // So that the kernel remembers them.
    fs::metadata(&path).unwrap();
    println!("serving");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    session.umount_and_join().unwrap();
    drop(reaper);
    true
}

/// A mount point and the process that serves it.
struct Served {
    folder: TempDir,
    process: Option<Child>,
}

impl Served {
    fn start(settings: &[(&str, &str)]) -> Self {
        let mut served = Self { folder: tempfile::tempdir().unwrap(), process: None };
        served.serve(settings);
        served
    }

    fn serve(&mut self, settings: &[(&str, &str)]) {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .env(SERVE_ON, self.path())
            .envs(settings.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "serving\n", "no mount");
        self.process = Some(process);
    }

    fn path(&self) -> PathBuf {
        fs::canonicalize(self.folder.path()).unwrap_or_else(|_| self.folder.path().to_owned())
    }

    fn is_mounted(&self) -> bool {
        topmost(&fs::read("/proc/self/mountinfo").unwrap(), &self.path()).is_some()
    }

    fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    fn is_gone_soon(&self) -> bool {
        let begun = Instant::now();
        while self.is_mounted() {
            if begun.elapsed() > Duration::from_secs(10) {
                return false;
            }
            thread::sleep(Duration::from_millis(10));
        }
        true
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            // One that can't end is waited for, else, for ever.
            end_connection(&self.path());
            let _ = process.wait();
        }
        // Also after a test that failed; mostly there is nothing left to take off.
        while self.is_mounted() && mount_point::unmount(&self.path(), true).is_ok() {}
    }
}

const WITHOUT_REAPER: (&str, &str) = (SERVE_WITHOUT_REAPER, "1");

fn a_program_that_is_killed_is_unmounted() {
    let mut served = Served::start(&[]);
    assert!(served.is_mounted());
    served.kill();
    assert!(served.is_gone_soon());
}

fn a_program_that_is_killed_is_unmounted_while_somebody_is_inside() {
    let mut served = Served::start(&[]);
    let inside = fs::File::open(served.path()).unwrap();
    served.kill();
    assert!(served.is_gone_soon());
    drop(inside);
}

/// The threads of a process that wait in the kernel where no signal is heard.
fn stuck(process: u32) -> usize {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten();
    let stats = threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
    stats.filter(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('D'))).count()
}

fn a_program_that_is_killed_and_cannot_end_is_unmounted() {
    let mut served = Served::start(&[(SERVE_HANGING, "1")]);
    let inside = thread::spawn({
        let path = served.path();
        move || fs::metadata(path.join("name")).map(drop)
    });
    let process = served.process.as_mut().unwrap();
    wait_until("a thread waits for the folder's lock", || stuck(process.id()) > 0);
    process.kill().unwrap();
    wait_until("the program inside has ended", || inside.is_finished());
    assert!(inside.join().unwrap().is_err());
    wait_until("the killed one, too", || process.try_wait().unwrap().is_some());
    assert!(served.is_gone_soon());
}

fn a_program_at_work_meets_the_end_of_a_drive() {
    let mut served = Served::start(&[]);
    served.kill();
    // It does something else for a moment; what it then asks for must not come from the folder below.
    thread::sleep(Duration::from_millis(200));
    assert!(reelfs::sys::stat_afresh(&served.path()).is_err());
    assert!(served.is_gone_soon());
}

fn a_program_that_is_stopped_keeps_its_mount() {
    let served = Served::start(&[]);
    let process = Pid::from_child(served.process.as_ref().unwrap());
    kill_process(process, Signal::STOP).unwrap();
    // Time enough for the reaper to do the wrong thing, several times.
    thread::sleep(Duration::from_millis(1_600));
    kill_process(process, Signal::CONT).unwrap();
    assert!(served.is_mounted());
    reelfs::sys::stat_afresh(&served.path()).unwrap();
}

fn an_orderly_end_leaves_nothing_and_waits_for_nobody() {
    let mut served = Served::start(&[]);
    let mut process = served.process.take().unwrap();
    let (machine, begun) = (Machine::watch(), Instant::now());
    drop(process.stdin.take());
    assert!(process.wait().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(2) + machine.late_by());
    assert!(!served.is_mounted());
}

fn what_a_dead_run_left_is_taken_off_at_the_next_start() {
    let mut served = Served::start(&[WITHOUT_REAPER]);
    let path = served.path();
    served.kill();
    assert!(served.is_mounted());
    assert!(mount_point::is_dead_mount_of_ours(&path).unwrap());
    assert_eq!(mount_point::prepare(&path, false).unwrap(), path);
    assert!(!served.is_mounted());
}

fn a_live_mount_is_left_alone() {
    let mut served = Served::start(&[WITHOUT_REAPER]);
    let path = served.path();
    let error = mount_point::prepare(&path, false).unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert!(error.to_string().contains("already mounted"), "{error}");
    // A reaper whose own program is gone, while another run lives on the same folder.
    drop(Reaper::start_program(Path::new(env!("CARGO_BIN_EXE_reelfs")), &path).unwrap());
    assert!(served.is_mounted());
    served.kill();
}

fn a_dead_mount_of_another_program_is_left_alone() {
    let mut served = Served::start(&[WITHOUT_REAPER, (SERVE_AS, "other")]);
    let path = served.path();
    served.kill();
    assert!(!mount_point::is_dead_mount_of_ours(&path).unwrap());
    let error = mount_point::prepare(&path, false).unwrap_err().to_string();
    assert!(error.contains("fuse.other") && error.contains("fusermount3 -u"), "{error}");
    assert!(served.is_mounted());
}

fn a_program_that_is_killed_behind_a_newer_mount_leaves_it_alone() {
    let mut older = Served::start(&[]);
    // The newer one is mounted over the older one.
    let mut newer = Served { folder: tempfile::tempdir().unwrap(), process: None };
    std::mem::swap(&mut newer.folder, &mut older.folder);
    newer.serve(&[WITHOUT_REAPER]);
    std::mem::swap(&mut newer.folder, &mut older.folder);
    older.kill();
    // Time enough for the reaper to do the wrong thing.
    thread::sleep(Duration::from_millis(500));
    assert!(older.is_mounted());
    assert!(fs::metadata(older.path()).is_ok());
    newer.kill();
}

fn the_mount_table_shows_the_source_without_secrets_and_options_of_its_own() {
    let served = Served::start(&[WITHOUT_REAPER]);
    let table = fs::read("/proc/self/mountinfo").unwrap();
    let mount = topmost(&table, &served.path()).unwrap();
    assert!(mount.is_ours());
    assert_eq!(mount.source, "http://host/a%2Cdev%20b");
}
