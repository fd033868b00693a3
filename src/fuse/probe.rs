//! Whether a drive of ours answers the kernel, asked from outside: by a second process. A thread of our own that waits for
//! our own drive could never be killed, were it stuck, and would keep the drive's device open for ever.
//! Never here: what is done about the answer.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::reaper::THIS_PROGRAM;
use crate::error::{Error, Kind, Result};
use crate::sys;

/// The hidden command of ours that the second process runs.
pub const COMMAND: &str = "probe-mount";

/// How often it is looked whether the answer has come.
const TICK: Duration = Duration::from_millis(2);

/// Asks one drive, one question at a time.
#[derive(Debug)]
pub struct Probe {
    program: PathBuf,
    mountpoint: PathBuf,
    // Still unanswered. It isn't asked twice, so that no more than one process waits.
    asked: Option<Child>,
}

impl Probe {
    /// Of the drive on `mountpoint` (absolute, links resolved).
    pub fn new(mountpoint: &Path) -> Self {
        Self::with_program(Path::new(THIS_PROGRAM), mountpoint)
    }

    /// The same for a program that is not reelfs itself, a test for example; `reelfs` is the file of ours.
    pub fn with_program(reelfs: &Path, mountpoint: &Path) -> Self {
        Self { program: reelfs.to_owned(), mountpoint: mountpoint.to_owned(), asked: None }
    }

    /// Asks for the drive's size, as `df` does, which never asks the origin. Fails when that failed, or took longer than
    /// `patience`; the next call waits on for the same answer.
    pub fn ask(&mut self, patience: Duration) -> Result<()> {
        let shown = self.mountpoint.display();
        let io = |error: io::Error| Error::io(format!("asking the drive on {shown}"), &error);
        let mut child = self.asked.take().map_or_else(|| self.start(), Ok).map_err(io)?;
        let begun = Instant::now();
        loop {
            match child.try_wait().map_err(io)? {
                Some(status) if status.success() => return Ok(()),
                Some(_) => return Err(Error::new(Kind::Local, format!("the drive on {shown} fails when it is asked"))),
                None if begun.elapsed() < patience => thread::sleep(TICK),
                None => {
                    let told = format!("the drive on {shown} has not answered for {} s", patience.as_secs_f32());
                    self.asked = Some(child);
                    return Err(Error::new(Kind::TimedOut, told));
                }
            }
        }
    }

    fn start(&self) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.arg(COMMAND).arg("--").arg(&self.mountpoint).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // It may be stuck in the kernel until the drive is off, and ends then.
        if let Some(child) = &mut self.asked {
            let _ = child.kill();
        }
    }
}

/// The second process: asks once.
pub fn ask(mountpoint: &Path) -> Result<()> {
    // A path only: opening the folder would ask for its names.
    let folder = File::options().read(true).custom_flags(libc::O_PATH).open(mountpoint);
    let asked = folder.and_then(|folder| sys::volume(&folder));
    asked.map(drop).map_err(|error| Error::io(mountpoint.display(), &error))
}
