//! What a test needs beyond Rust. Without it a test is ignored and says what is missing; with `REELFS_TESTS_REQUIRE=1`
//! it fails. A test that takes minutes is ignored but with `REELFS_TESTS_LONG=1`.
//! Never here: the tests.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use parking_lot::RwLock;

/// Something that may be missing on a machine.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// Mounting: the device, and the program that mounts for users.
    Fuse,
    /// A kernel that reads cached files by itself, for a process that may let it.
    Passthrough,
    /// A kernel that maps files which are read past its page cache: only then the drive may have nothing read ahead.
    MappedDirect,
    /// Root: for a disk of its own.
    Root,
    /// A program of this name.
    Program(&'static str),
}

/// A mounted drive.
pub const FUSE: Need = Need::Fuse;

/// Files that the kernel reads by itself.
pub const PASSTHROUGH: Need = Need::Passthrough;

/// Tests that measure run alone, all others side by side.
static TURN: RwLock<()> = RwLock::new(());

/// A test that takes longer is named with its time, so that a slow suite shows where its time goes.
const SLOW: Duration = Duration::from_secs(5);

/// A test as its module lists it.
pub struct Test {
    name: &'static str,
    needs: &'static [Need],
    is_alone: bool,
    is_long: bool,
    body: fn(),
}

/// Whether the long tests run, too: `tests/run long` sets this variable.
fn runs_long() -> bool {
    std::env::var("REELFS_TESTS_LONG").is_ok_and(|value| value == "1")
}

impl Test {
    pub fn new(name: &'static str, needs: &'static [Need], body: fn()) -> Self {
        Self { name, needs, is_alone: false, is_long: false, body }
    }

    /// A test whose figures others would spoil.
    pub fn alone(name: &'static str, needs: &'static [Need], body: fn()) -> Self {
        Self { is_alone: true, ..Self::new(name, needs, body) }
    }

    /// A test of minutes, which runs alone, and only in `tests/run long`.
    pub fn long(name: &'static str, needs: &'static [Need], body: fn()) -> Self {
        Self { is_long: true, ..Self::alone(name, needs, body) }
    }

    pub fn into_trial(self) -> Trial {
        let is_required = std::env::var("REELFS_TESTS_REQUIRE").is_ok_and(|value| value == "1");
        let missing: Vec<_> = self.needs.iter().filter_map(Need::missing).collect();
        let is_skipped_as_long = self.is_long && !runs_long();
        let is_ignored = is_skipped_as_long || !missing.is_empty() && !is_required;
        let said = if is_skipped_as_long { "tests/run long".into() } else { missing.join(", ") };
        let run = move || {
            if !missing.is_empty() {
                return Err(Failed::from(missing.join(", ")));
            }
            // Held while the test runs.
            let _alone = self.is_alone.then(|| TURN.write());
            let _together = (!self.is_alone).then(|| TURN.read());
            let begun = Instant::now();
            (self.body)();
            if begun.elapsed() > SLOW {
                eprintln!("{} took {} s", self.name, begun.elapsed().as_secs());
            }
            Ok(())
        };
        Trial::test(self.name, run).with_ignored_flag(is_ignored).with_kind(said)
    }
}

impl Need {
    /// Says that it is missing.
    fn missing(&self) -> Option<String> {
        match self {
            Self::Fuse if fs::File::options().read(true).write(true).open("/dev/fuse").is_err() => {
                Some("/dev/fuse cannot be opened".into())
            }
            Self::Fuse => Self::Program("fusermount3").missing(),
            Self::Passthrough if !reelfs::fuse::passthrough::is_privileged() => {
                Some("only root may have the kernel read cached files".into())
            }
            Self::Passthrough => (kernel() < (6, 9)).then(|| "this kernel does not read cached files".into()),
            Self::MappedDirect => (kernel() < (6, 6)).then(|| "this kernel reads ahead of scanners".into()),
            Self::Root => (!reelfs::sys::is_root()).then(|| "only root may mount a disk".into()),
            Self::Program(name) => found(name).is_none().then(|| format!("{name} is not installed")),
        }
    }
}

/// The kernel's version, as far as it matters.
fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Where to look for programs: servers live where only root looks.
pub fn path() -> String {
    format!("{}:/usr/local/sbin:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

fn found(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&path()).map(|folder| folder.join(program)).find(|file| file.is_file())
}
