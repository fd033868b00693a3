//! Mounts as processes of their own: ours, rclone's and mountpoint-s3's, each with a cache and a mount point of its own,
//! all gone when dropped.
//! Never here: origins, and what is read.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use reelfs::fuse::{mount_point, mount_table};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::Result;
use crate::bench::Bench;
use crate::machine::{self, Usage};
use crate::table::Cost;

/// A mount may take this long on a busy machine.
const START_MAX: Duration = Duration::from_secs(30);
/// After a polite request to end: what was written may have to reach the disk first.
const END_MAX: Duration = Duration::from_secs(30);
/// Until what was read is recorded.
const RECORD_MAX: Duration = Duration::from_mins(1);
const TICK: Duration = Duration::from_millis(2);

/// One side of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Ours,
    Rclone,
    MountS3,
    Curl,
    Mpv,
    /// The file system below, without any program.
    Native,
    /// A client of ours on one kept-alive connection.
    Client,
}

impl Program {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "reelfs",
            Self::Rclone => "rclone",
            Self::MountS3 => "mount-s3",
            Self::Curl => "curl",
            Self::Mpv => "mpv",
            Self::Native => "native",
            Self::Client => "range request",
        }
    }

    pub fn is_installed(self) -> bool {
        match self {
            Self::Ours | Self::Native | Self::Client => true,
            other => machine::program(other.name()).is_some(),
        }
    }
}

/// A mount point, a cache and a log: what outlives a mount.
pub struct Place {
    folder: TempDir,
    point: PathBuf,
}

impl Place {
    pub fn new(bench: &Bench) -> Result<Rc<Self>> {
        let folder = tempfile::Builder::new().prefix("place-").tempdir_in(bench.scratch())?;
        let point = fs::canonicalize(folder.path())?.join("mnt");
        fs::create_dir(&point)?;
        Ok(Rc::new(Self { folder, point }))
    }

    pub fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn is_mounted(&self) -> bool {
        fs::read("/proc/self/mountinfo").is_ok_and(|table| mount_table::topmost(&table, &self.point).is_some())
    }

    /// The file of the cache that holds the bytes of the only film that was read.
    pub fn cached_file(&self) -> Result<PathBuf> {
        let mut largest: Option<(u64, PathBuf)> = None;
        let mut folders = vec![self.cache()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let (path, metadata) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
                if metadata.is_dir() {
                    folders.push(path);
                } else if largest.as_ref().is_none_or(|(size, _)| metadata.len() > *size) {
                    largest = Some((metadata.len(), path));
                }
            }
        }
        largest.map(|(_, path)| path).ok_or_else(|| "the cache holds no file".into())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The last resort: the folder must not be deleted through a drive.
        while self.is_mounted() && mount_point::unmount(&self.point, true).is_ok() {}
    }
}

/// A mounted drive.
pub struct Mount {
    pub place: Rc<Place>,
    process: Child,
    program: Program,
}

impl Mount {
    /// `url` by ours, in a place that may have seen a mount before.
    pub fn ours(bench: &Bench, place: &Rc<Place>, url: &str, options: &[&str]) -> Result<Self> {
        let mut command = reelfs();
        command.arg("mount").arg(url).arg(&place.point).arg("--cache-dir").arg(place.cache()).args(options);
        if let Some(size) = &bench.settings.chunk_size {
            command.args(["--chunk-size", size]);
        }
        Self::start(command, place, Program::Ours)
    }

    /// `url` by rclone, as its manual recommends for players: the whole cache on disk, all else as it comes.
    pub fn rclone(place: &Rc<Place>, url: &str) -> Result<Self> {
        let mut command = other(Program::Rclone)?;
        command.args(["mount", ":http:"]).arg(&place.point).args(["--http-url", url, "--vfs-cache-mode", "full"]);
        command.arg("--cache-dir").arg(place.cache()).args(["--read-only", "--config", "/dev/null"]);
        Self::start(command, place, Program::Rclone)
    }

    /// A bucket behind an endpoint by mountpoint-s3, with its cache on disk.
    pub fn mount_s3(place: &Rc<Place>, endpoint: &str, bucket: &str) -> Result<Self> {
        fs::create_dir_all(place.cache())?;
        let mut command = other(Program::MountS3)?;
        command.args([
            "--foreground",
            "--read-only",
            "--no-sign-request",
            "--force-path-style",
            "--region",
            "us-east-1",
        ]);
        command.args(["--endpoint-url", endpoint]).arg("--cache").arg(place.cache()).arg(bucket).arg(&place.point);
        Self::start(command, place, Program::MountS3)
    }

    /// `url` by either of the two that read web servers, in a new place.
    pub fn fresh(bench: &Bench, program: Program, url: &str, options: &[&str]) -> Result<Self> {
        let place = Place::new(bench)?;
        match program {
            Program::Rclone => Self::rclone(&place, url),
            _ => Self::ours(bench, &place, url, options),
        }
    }

    fn start(mut command: Command, place: &Rc<Place>, program: Program) -> Result<Self> {
        let log = File::create(place.log_file())?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = command.spawn().map_err(|error| format!("starting {}: {error}", program.name()))?;
        let mut mount = Self { place: Rc::clone(place), process, program };
        let deadline = Instant::now() + START_MAX;
        while !place.is_mounted() {
            if mount.process.try_wait()?.is_some() || Instant::now() > deadline {
                return Err(format!("{} did not mount: {}", program.name(), mount.log()).into());
            }
            thread::sleep(TICK);
        }
        // Answers from the first question on: its top folder is known after this.
        fs::read_dir(&mount.place.point)?.count();
        Ok(mount)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.place.point.join(name)
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What it said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.place.log_file()).unwrap_or_default()
    }

    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.pid())
    }

    /// What it cost since `before`, added as one more sample.
    pub fn add_cost(&self, cost: &mut Cost, before: Usage) -> Result<Usage> {
        let used = self.usage()?.since(before);
        cost.cpu_seconds.push(used.cpu_seconds);
        cost.peak_rss_mib.push(machine::peak_rss_mib(self.pid())?);
        Ok(used)
    }

    /// Bytes of a file that ours has recorded.
    pub fn cached_bytes(&self, name: &str) -> Result<u64> {
        let mut value = [0; 64];
        let len = rustix::fs::getxattr(self.file(name), "user.reelfs.cached_bytes", &mut value)?;
        Ok(String::from_utf8_lossy(&value[..len]).parse()?)
    }

    /// Waits until all of a file is recorded.
    pub fn wait_cached(&self, name: &str, size_bytes: u64) -> Result<()> {
        let deadline = Instant::now() + RECORD_MAX;
        while self.cached_bytes(name)? != size_bytes {
            if Instant::now() > deadline {
                return Err(format!("only {} of {size_bytes} bytes were recorded", self.cached_bytes(name)?).into());
            }
            thread::sleep(TICK);
        }
        Ok(())
    }

    /// Ends it as Ctrl-C does, and waits until it has.
    pub fn end(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        if !matches!(self.process.try_wait(), Ok(None)) {
            return;
        }
        let signal = if self.program == Program::Ours { Signal::INT } else { Signal::TERM };
        // It may be gone already.
        let _ = kill_process(Pid::from_child(&self.process), signal);
        let deadline = Instant::now() + END_MAX;
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(TICK);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The program that was built with this bench, away from the settings of whoever runs it.
pub fn reelfs() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reelfs"));
    command.env_clear().env("PATH", machine::path()).env("HOME", "/nonexistent");
    command
}

fn other(program: Program) -> Result<Command> {
    let file = machine::program(program.name()).ok_or_else(|| format!("{} is not installed", program.name()))?;
    let mut command = Command::new(file);
    command.env("PATH", machine::path());
    Ok(command)
}

/// Whether this build's `mount` knows an option.
pub fn knows(option: &str) -> bool {
    static HELP: OnceLock<String> = OnceLock::new();
    let help = HELP.get_or_init(|| {
        let output = reelfs().args(["mount", "--help"]).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    });
    help.contains(option)
}

/// The options that have the daemon answer every read itself, as far as this build knows any.
pub fn without_passthrough() -> &'static [&'static str] {
    if knows("--passthrough") { &["--passthrough", "off"] } else { &[] }
}

/// Only what was asked for, and lookahead.
pub const WITHOUT_FILL: &[&str] = &["--fill", "never"];

/// Size of the index of a cache that nobody has mounted. What its log still holds is merged first, as whoever opens it
/// next does: the log's length says nothing of the rows.
pub fn index_bytes(cache: &Path) -> Result<u64> {
    let file = cache.join("index.sqlite");
    let index = rusqlite::Connection::open(&file)?;
    index.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(fs::metadata(file)?.len())
}
