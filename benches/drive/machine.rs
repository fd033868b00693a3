//! The machine under the bench: its page cache, what a process costs, what it is, and which programs it has.
//! Never here: drives and origins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use crate::Result;
use crate::stats::float;

/// Times of a process are told in hundredths of a second, on every Linux there is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Everything clean leaves the page cache, and everything is made clean first. Needs root.
pub fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").map_err(|error| format!("dropping the page cache: {error}").into())
}

/// Reads a file natively, so that it is in the page cache.
pub fn warm(path: &Path) -> Result<()> {
    let mut file = fs::File::open(path)?;
    std::io::copy(&mut file, &mut std::io::sink())?;
    Ok(())
}

/// What a process used since it started.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Usage {
    /// User and system time, of all its threads; to 10 ms.
    pub cpu_seconds: f64,
    /// Bytes that had to come from the disk for it.
    pub disk_read_bytes: u64,
    /// Its `read`s of any kind, each request of the kernel's among them.
    pub read_calls: u64,
}

impl Usage {
    pub fn of(pid: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name, in brackets, may hold anything; behind it come the state and numbers.
        let numbers = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks =
            |field: usize| numbers.split_ascii_whitespace().nth(field).and_then(|text| text.parse::<u64>().ok());
        let (Some(user), Some(system)) = (ticks(11), ticks(12)) else {
            return Err("no times in /proc/PID/stat".into());
        };
        let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
        let count = |name: &str| {
            let line = io.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.and_then(|text| text.parse().ok()).unwrap_or_default()
        };
        Ok(Self {
            cpu_seconds: float(user + system) / TICKS_PER_SECOND,
            disk_read_bytes: count("read_bytes"),
            read_calls: count("syscr"),
        })
    }

    pub fn since(self, before: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - before.cpu_seconds,
            disk_read_bytes: self.disk_read_bytes.saturating_sub(before.disk_read_bytes),
            read_calls: self.read_calls.saturating_sub(before.read_calls),
        }
    }
}

/// Bytes that the disk gave for what `read` did, this process's own and a daemon's.
pub fn disk_reads<T>(daemon: Option<u32>, read: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
    let pids = || [Some(std::process::id()), daemon].into_iter().flatten();
    let count = || pids().map(|pid| Ok(Usage::of(pid)?.disk_read_bytes)).sum::<Result<u64>>();
    let before = count()?;
    let done = read()?;
    Ok((done, count()?.saturating_sub(before)))
}

/// The most memory a process ever held (`VmHWM`, told in kB), in MiB.
pub fn peak_rss_mib(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM in /proc/PID/status")?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(float(kilobytes) / 1024.0)
}

/// Where programs are looked for: servers live where only root looks.
pub fn path() -> String {
    format!("{}:/usr/local/sbin:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// A program's file, if it is installed.
pub fn program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&path()).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// What a table of numbers is worth nothing without.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub date: String,
    pub kernel: String,
    pub processor: String,
    pub cores: usize,
    pub memory_mib: u64,
    /// Type of the file system the bench writes to.
    pub filesystem: String,
    /// Ours with its commit, and those of the programs it is compared with.
    pub versions: Vec<String>,
}

impl Machine {
    pub fn describe(scratch: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(':'));
            line.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let memory = field(&text("/proc/meminfo"), "MemTotal");
        let kilobytes: u64 = memory.trim_end_matches("kB").trim().parse().unwrap_or_default();
        Self {
            date: jiff::Timestamp::now().to_string(),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: field(&text("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: kilobytes >> 10,
            filesystem: first_line("stat", &["-f", "-c", "%T", &scratch.to_string_lossy()]).unwrap_or_default(),
            versions: versions(),
        }
    }

    /// Files there are memory already: nothing can be cold.
    pub fn is_scratch_in_memory(&self) -> bool {
        self.filesystem == "tmpfs" || self.filesystem == "ramfs"
    }
}

fn versions() -> Vec<String> {
    let commit = first_line("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]);
    let ours = format!("reelfs {} {}", env!("CARGO_PKG_VERSION"), commit.unwrap_or_default());
    let others = [
        first_line("rclone", &["version"]),
        first_line("mount-s3", &["--version"]),
        first_line("curl", &["--version"]),
        first_line("nginx", &["-v"]),
        first_line("mpv", &["--version"]),
        first_line("ffmpeg", &["-version"]),
        first_line("valgrind", &["--version"]),
    ];
    std::iter::once(ours.trim().to_owned()).chain(others.into_iter().flatten()).collect()
}

/// What a program says first, on either output; nothing if it is not there.
fn first_line(name: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program(name)?).args(arguments).output().ok()?;
    if !output.status.success() {
        return None;
    }
    let said = [output.stdout, output.stderr].concat();
    let line = String::from_utf8_lossy(&said).lines().next()?.trim().to_owned();
    // The rest is names of people and of libraries.
    Some(line.split(" Copyright").next().unwrap_or_default().split(" (").next().unwrap_or_default().to_owned())
}
