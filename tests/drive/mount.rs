//! A drive of the program under test: `reelfs mount` as a process of its own, gone with the test whatever happens.
//! Never here: servers, and what is expected of the drive.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use reelfs::fuse::{mount_point, mount_table};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A mount may take this long on a machine that is busy with other tests.
const START_MAX: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(2);

/// A mount point, a cache and a log: what outlives a mount.
pub struct Place {
    folder: TempDir,
}

impl Place {
    pub fn new() -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        Arc::new(Self { folder })
    }

    pub fn point(&self) -> PathBuf {
        fs::canonicalize(self.folder.path()).unwrap().join("mnt")
    }

    pub fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// Where its mounts have their control sockets.
    pub fn runtime(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// A path for whatever else a test has to keep.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn is_mounted(&self) -> bool {
        mount_table::topmost(&fs::read("/proc/self/mountinfo").unwrap(), &self.point()).is_some()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The last resort: the folder must not be deleted through a drive.
        while self.is_mounted() && mount_point::unmount(&self.point(), true).is_ok() {}
    }
}

/// A running drive.
pub struct Mount {
    pub place: Arc<Place>,
    process: Option<Child>,
}

impl Mount {
    /// `source` in a place of its own, with more options.
    pub fn new(source: &str, options: &[&str]) -> Self {
        Self::on(&Place::new(), source, options)
    }

    /// `source` in a place that may have seen a mount before.
    pub fn on(place: &Arc<Place>, source: &str, options: &[&str]) -> Self {
        Self::with(place, source, options, &[])
    }

    /// The same, with more variables in its environment.
    pub fn with(place: &Arc<Place>, source: &str, options: &[&str], variables: &[(&str, &str)]) -> Self {
        let log = File::create(place.path("log")).unwrap();
        let process = reelfs()
            .arg("mount")
            .args([source.as_ref(), place.point().as_os_str(), "--cache-dir".as_ref(), place.cache().as_os_str()])
            .args(options)
            .env("XDG_RUNTIME_DIR", place.runtime())
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut mount = Self { place: Arc::clone(place), process: Some(process) };
        let deadline = Instant::now() + START_MAX;
        while !place.log().contains(" is on ") {
            assert!(!mount.has_ended(), "the mount ended: {}", place.log());
            assert!(Instant::now() < deadline, "no mount in time: {}", place.log());
            thread::sleep(TICK);
        }
        mount
    }

    pub fn point(&self) -> PathBuf {
        self.place.point()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.point().join(name)
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    pub fn has_ended(&mut self) -> bool {
        self.process.as_mut().is_none_or(|process| process.try_wait().unwrap().is_some())
    }

    pub fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(self.process.as_ref().unwrap()), signal).unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.process.take().unwrap().wait().unwrap()
    }

    /// In order, as Ctrl-C does.
    pub fn end(mut self) {
        self.send(Signal::INT);
        assert!(self.wait().success(), "{}", self.place.log());
    }

    /// As a power cut does.
    pub fn kill(mut self) {
        self.send(Signal::KILL);
        self.wait();
    }

    /// Most memory the process ever held, in bytes (`VmHWM`, which the kernel tells in kB).
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() << 10
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the mount said: {}", self.place.log());
        }
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Ends the connection of the drive on `point`, which frees whoever hangs in it: a test that failed must not leave programs that
/// nobody can kill.
pub fn end_connection(point: &Path) {
    let Some(mount) = mount_table::topmost(&fs::read("/proc/self/mountinfo").unwrap(), point) else { return };
    let minor = mount.device.rsplit(':').next().unwrap();
    let ended = fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1");
    if ended.is_err() {
        // Said to be busy: it is ended all the same.
        let _ = reelfs::sys::abort_mount(point);
    }
}

/// Who reads what is whole: all tests hold either way, and `tests/run` shows it.
const PASSTHROUGH: &str = "REELFS_PASSTHROUGH";

/// The program, away from the settings of whoever runs the tests.
pub fn reelfs() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reelfs"));
    command.env_clear().env("PATH", super::needs::path()).env("HOME", "/nonexistent");
    command.envs(std::env::var_os(PASSTHROUGH).map(|value| (PASSTHROUGH, value)));
    command
}

/// Runs a `cache` command on the cache of a place.
pub fn cache_command(place: &Place, typed: &[&str]) -> Output {
    reelfs().arg("cache").args(typed).arg("--cache-dir").arg(place.cache()).output().unwrap()
}

/// Past the kernel's page cache, so that each read is one of the drive's.
pub fn open_direct(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_DIRECT).open(path)
}

/// `len` bytes from `offset` on, past the kernel's page cache.
pub fn read_direct(path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    open_direct(path)?.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}
