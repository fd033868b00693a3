//! The lock of a library: one process writes to it, and others are told which.
//! Never here: what is written.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use crate::error::{Error, Kind, Result};

/// The lock is the kernel's and goes with the process, however it ends; the pid in the file is only for the message.
pub(super) fn take(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let failed = |error: std::io::Error| Error::io(path.display(), &error);
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = holder_pid(dir).map_or("another process".to_owned(), |pid| format!("process {pid}"));
            let message = format!("the library {} is open for writing by {holder}", dir.display());
            return Err(Error::new(Kind::Busy, message));
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    let write_pid = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    // On a full disk it can still be emptied.
    let _ = write_pid(&mut file).inspect_err(|error| log::debug!("{}: {error}", path.display()));
    Ok(file)
}

/// The process that holds the lock, or held it last, as the lock file tells.
pub fn holder_pid(dir: &Path) -> Option<u32> {
    let mut text = String::new();
    File::open(dir.join("lock")).ok()?.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
