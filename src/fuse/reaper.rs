//! Unmounts the drive when the program dies, however it dies: a second, tiny process waits for the end of the first.
//! fuser's own way (`AutoUnmount`) demands `allow_other`, which a user's mount must not need.
//! Never here: the orderly way off; that is the mount's own.

use std::io;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::mount_point;
use crate::error::{Error, Result};
use crate::sys;

/// The hidden command of ours that the second process runs.
pub const COMMAND: &str = "unmount-when-orphaned";

/// This very program, also after its file was replaced by a newer one.
pub const THIS_PROGRAM: &str = "/proc/self/exe";

/// After an orderly end the second process has a look and goes, in milliseconds. If it doesn't, the mount's end must not
/// hang on it.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// How often it is looked whether it went.
const FAREWELL_TICK: Duration = Duration::from_millis(5);

/// The second process, seen from the first. It learns of our death by the end of its input, which the kernel closes
/// even after SIGKILL.
#[derive(Debug)]
pub struct Reaper {
    child: Child,
    /// Nothing is ever written to it.
    pipe: Option<ChildStdin>,
}

impl Reaper {
    /// Begins to watch over `mountpoint` (absolute, links resolved). Start it before mounting: then there is no moment
    /// at which a death goes unnoticed.
    pub fn start(mountpoint: &Path) -> Result<Self> {
        Self::start_program(Path::new(THIS_PROGRAM), mountpoint)
    }

    /// The same for a program that is not reelfs itself, a test for example; `reelfs` is the file of ours.
    pub fn start_program(reelfs: &Path, mountpoint: &Path) -> Result<Self> {
        let mut command = Command::new(reelfs);
        command.arg(COMMAND).arg("--").arg(mountpoint);
        // It must hold nothing that belongs to others: not the terminal, not the folder we were started in.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        let mut child = sys::outlive_us(&mut command)
            .spawn()
            .map_err(|error| Error::io("starting the process that unmounts after a crash", &error))?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let begun = Instant::now();
        while let Ok(None) = self.child.try_wait() {
            if begun.elapsed() > FAREWELL_MAX {
                log::warn!("process {} still watches over the mount point", self.child.id());
                return;
            }
            thread::sleep(FAREWELL_TICK);
        }
    }
}

/// The second process: waits until `orphaned` ends, then takes a dead mount of ours off `mountpoint`. A mount that is
/// alive, newer or another program's is left alone.
pub fn unmount_when(mut orphaned: impl io::Read, mountpoint: &Path) -> Result<()> {
    io::copy(&mut orphaned, &mut io::sink()).map_err(|error| Error::io("waiting for the mount's end", &error))?;
    if mount_point::is_dead_mount_of_ours(mountpoint)? {
        mount_point::unmount(mountpoint, true)?;
    }
    Ok(())
}
