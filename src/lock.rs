//! The lock of a folder: one process holds it, and others are told which.
//! Never here: what it guards, and what a person is to do.
//!
//! The lock is the kernel's and goes with the process, however it ends; the pid in the file is only for messages.

use std::fs::{File, Metadata, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::modes::Modes;

/// A process that is just ending, or a child of it that is just starting, may hold the folder a moment longer.
const WAIT: Duration = Duration::from_millis(500);
/// How often it is looked whether it is still held.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What stands in the place of a lock is written to: a link is not followed, and nothing holds the opener up.
const NOT_THROUGH: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;
/// No pid is longer.
const PID_BYTES_MAX: u64 = 32;

/// Held as long as this lives.
pub struct Lock(File);

impl Lock {
    /// Takes the lock of `dir`, and waits a moment for it. `None`: another process holds it.
    pub fn take(dir: &Path) -> Result<Option<Self>> {
        let path = path(dir);
        let failed = |error: io::Error| Error::io(path.display(), &error);
        let modes = Modes::of(dir);
        let file = modes
            .options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(NOT_THROUGH)
            .open(&path)
            .map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        if !meta.is_file() || meta.nlink() > 1 {
            let message = format!("{} is no plain file of its own: remove it", path.display());
            return Err(Error::new(Kind::Denied, message));
        }
        modes.mend_file(&file);
        let give_up_at = Instant::now() + WAIT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Self(file))),
                Err(TryLockError::WouldBlock) if Instant::now() < give_up_at => thread::sleep(LOOK_EVERY),
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
    }

    /// Writes down that it is this process.
    pub fn sign(&mut self, dir: &Path) -> Result<()> {
        let mut write = || {
            self.0.set_len(0)?;
            self.0.rewind()?;
            writeln!(self.0, "{}", std::process::id())
        };
        write().map_err(|error| Error::io(path(dir).display(), &error))
    }

    /// Whether it is still the lock of `dir`: its file may have been removed, with the folder.
    pub fn is_at(&self, dir: &Path) -> bool {
        let id = |meta: Metadata| (meta.dev(), meta.ino());
        let there = path(dir).symlink_metadata().map(id);
        self.0.metadata().map(id).is_ok_and(|held| there.is_ok_and(|there| held == there))
    }

    /// A file of the folder's own filesystem.
    pub fn file(&self) -> &File {
        &self.0
    }
}

/// The process that holds the lock of `dir` now.
pub fn holder_pid(dir: &Path) -> Option<u32> {
    let file = File::open(path(dir)).ok()?;
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)).then(|| pid_in(&file)).flatten()
}

/// Whoever holds it, or held it last, as a person is told.
pub fn holder(dir: &Path) -> String {
    let pid = File::open(path(dir)).ok().and_then(|file| pid_in(&file));
    pid.map_or("another process".to_owned(), |pid| format!("process {pid}"))
}

fn pid_in(file: &File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn path(dir: &Path) -> PathBuf {
    dir.join("lock")
}
